/* Text that the model writes during a run, and losses by position. Internal to train. */
#ifndef SALA_TRAIN_SAMPLE_H
#define SALA_TRAIN_SAMPLE_H

#include "text/chat.h"
#include "train/step.h"

/* A vocabulary: a tokenizer, or bytes (tokenizer NULL); with the model's chat template if it has one. */
typedef struct sala_vocabulary {
    sala_tokenizer *tokenizer;
    sala_chat *chat;
    uint64_t id; /* as shards name it; 0: unknown */
    int32_t eos;
} sala_vocabulary;

/* path: "bytes", a directory, a GGUF or a tokenizer.json. */
sala_status sala_vocabulary_open(sala_vocabulary *out, const char *path, sala_error *err);
void sala_vocabulary_close(sala_vocabulary *v);
/* Valid UTF-8 in any case. */
sala_status sala_vocabulary_text(const sala_vocabulary *v, sala_buf *out, const int32_t *ids, size_t n,
                                 sala_error *err);

/* Greedy: the most probable token, `n` times or until the end of the text. Appends the new text only. */
sala_status sala_train_sample(sala_buf *out, sala_trainer *t, const sala_vocabulary *v, int64_t n_vocab,
                              const char *prompt, int n, sala_error *err);

enum { SALA_POSITION_BUCKETS = 32 };
/* Sums of losses in nats. Bucket b holds positions 2^b - 1 .. 2^(b+1) - 2 of a document. */
typedef struct sala_evaluation {
    double loss, tokens, bytes;
    double bucket_loss[SALA_POSITION_BUCKETS], bucket_tokens[SALA_POSITION_BUCKETS];
} sala_evaluation;

/* Adds the losses of a batch. */
sala_status sala_evaluate(sala_evaluation *e, sala_trainer *t, const sala_vocabulary *v, const sala_batch *batch,
                          sala_error *err);

#endif
