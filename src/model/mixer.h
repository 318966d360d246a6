/* Mixers: what moves information between tokens. A layer's mixer turns normed rows into the sublayer's output; its
 * session state lives in the timeline. A new mixer is one file and one row of the table in mixer.c. */
#ifndef SALA_MODEL_MIXER_H
#define SALA_MODEL_MIXER_H

#include "model/net.h"

typedef struct sala_mixer_call {
    sala_net *net;
    int layer;
    const sala_layer_buffers *b; /* reads normed, writes out; the rest is scratch or tape */
    const sala_attn_seq *seqs;   /* the batch, session by session */
    int n_seqs;
    int64_t n_rows;
    const sala_kv_layout *kv;
} sala_mixer_call;

typedef struct sala_mixer {
    const char *name;
    void (*run)(const sala_mixer_call *call);
} sala_mixer;

const sala_mixer *sala_mixer_get(sala_mixer_kind kind);
extern const sala_mixer sala_mixer_dense;

#endif
