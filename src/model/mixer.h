/* Mixers: what moves information between tokens. A layer's mixer turns normed rows into the sublayer's output. What it
 * needs of a session it asks for in plan(); state/ keeps that through forks, rollback, saving and restoring, so that a
 * mixer only has to run. A new mixer is one file and one row of the table in mixer.c. */
#ifndef SALA_MODEL_MIXER_H
#define SALA_MODEL_MIXER_H

#include "model/net.h"

struct sala_layer_tape;
struct sala_layer_grads;

typedef struct sala_mixer_call {
    sala_net *net;
    int layer;
    const sala_layer_buffers *b; /* reads normed, writes out; the rest is scratch or tape */
    const sala_attn_seq *seqs;   /* the batch, session by session */
    int n_seqs;
    int64_t n_rows;
    const sala_state_layout *state;
    bool again; /* a forward pass that was made before: b->selection holds the blocks already */
    bool mixed; /* and what came of it is kept: only the core's inputs and the gate are wanted */
} sala_mixer_call;

typedef struct sala_mixer {
    const char *name;
    /* Adds what one layer of this kind keeps in a session. */
    void (*plan)(const sala_config *c, sala_state_layout *state);
    void (*run)(const sala_mixer_call *call);
    /* The derivative of run: b->out holds the gradient of the sublayer's output, g->normed the normed rows;
     * writes g->d_normed and adds to the gradients of the weights. */
    void (*back)(const sala_mixer_call *call, const struct sala_layer_tape *tape, const struct sala_layer_grads *g);
} sala_mixer;

const sala_mixer *sala_mixer_get(sala_mixer_kind kind);
extern const sala_mixer sala_mixer_dense, sala_mixer_sparse, sala_mixer_lightning;

/* ---- what softmax mixers share ---- */

void sala_softmax_plan(const sala_config *c, sala_state_layout *state);
/* q, k, v of the rows, and the gate where the layer has one; neither normed nor rotated. */
void sala_softmax_project(const sala_mixer_call *call);
/* Norm and rotation of q and k, in place; either may be left out. */
void sala_softmax_turn(const sala_mixer_call *call, bool norm, bool rotate);
sala_kv_shape sala_softmax_kv(const sala_mixer_call *call);
/* Attention over the stored keys, gate, output projection. selection: as in sala_attn_args. */
void sala_softmax_finish(const sala_mixer_call *call, const sala_selection *selection);
void sala_softmax_back(const sala_mixer_call *call, const struct sala_layer_tape *tape,
                       const struct sala_layer_grads *g, const sala_selection *selection);
void sala_mixer_observe(const sala_mixer_call *call, sala_observe_point point, const sala_act *x, int64_t n);

#endif
