/* What a run leaves: OUT/model/ (a Hugging Face directory) and OUT/model.gguf. Internal to train. */
#ifndef SALA_TRAIN_OUTPUT_H
#define SALA_TRAIN_OUTPUT_H

#include "train/params.h"

typedef struct sala_output_words {
    void (*line)(void *user, const char *text);
    void *user;
} sala_output_words;

/* The directory appears complete, by a rename, in the place of an older one. dtype: f32, f16 or bf16; gguf_type: a type
 * of `sala quantize`, or "none". */
sala_status sala_output_write(const sala_run_config *c, const sala_params *p, const float *values, const char *out_dir,
                              const char *dtype, const char *gguf_type, const sala_output_words *words,
                              sala_error *err);
/* tokenizer.json of the `bytes` vocabulary: 256 bytes, <s>, </s>; pieces up to n_vocab are unused. New reference. */
json_t *sala_output_bytes_tokenizer(int64_t n_vocab);

#endif
