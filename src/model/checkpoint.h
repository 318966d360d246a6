/* A model's files, whatever the container: config, and tensors by role. Weights stay mapped while it is open. */
#ifndef SALA_MODEL_CHECKPOINT_H
#define SALA_MODEL_CHECKPOINT_H

#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/config.h"

typedef struct sala_checkpoint {
    char *path;
    bool hf;              /* Hugging Face directory; otherwise GGUF */
    sala_gguf *gguf;      /* NULL when hf */
    sala_safetensors *st; /* NULL unless hf and weights were asked for */
    sala_config config;
} sala_checkpoint;

/* want_weights: false opens a directory that holds config and tokenizer only. */
sala_status sala_checkpoint_open(sala_checkpoint *out, const char *path, bool want_weights, sala_error *err);
void sala_checkpoint_close(sala_checkpoint *c);
sala_tensor_list sala_checkpoint_tensors(const sala_checkpoint *c);
const sala_tensor *sala_checkpoint_tensor(const sala_checkpoint *c, sala_tensor_role role, int layer); /* or NULL */
/* Gives the mapped pages of all tensors back to the system; they come again from the file when touched. */
void sala_checkpoint_drop_pages(const sala_checkpoint *c);
uint64_t sala_checkpoint_bytes(const sala_checkpoint *c); /* of all tensors */

#endif
