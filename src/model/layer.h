/* One layer, forward and backward, for inference and training alike. layer.c holds the skeleton (norms, residual scale,
 * feed-forward); each mixer_*.c its core's run() and back(). Both speak to a device through the two tables only. */
#ifndef SALA_MODEL_LAYER_H
#define SALA_MODEL_LAYER_H

#include "backend/grad.h"
#include "model/mixer.h"

/* What a forward pass leaves for its backward pass, of one layer and the rows of one pass. Slots that are NULL are made
 * again from the ones before. All f32 (`half`: those marked h are bf16, through keep and recall). */
typedef struct sala_layer_tape {
    bool half;
    sala_act *h_in;      /* [rows][n_embd] residual stream before the layer; always there */
    sala_act *h_mid;     /* the same before the feed-forward part */
    void *q_raw, *k_raw; /* h; projections before q/k norm; NULL in layers without it */
    void *q, *k, *v;     /* h; as attended; q and k NULL where q_raw and k_raw are there */
    void *core;          /* h; output of attention, before norm and gate */
    bool mixed;          /* h_mid and core are kept even where the mixer runs again */
    void *mix_gate;      /* h; pre-activation */
    sala_act *lse;       /* [heads][rows] */
    sala_act *states;    /* lightning: one in `states_every` chunks */
    int states_every;
    int32_t *selection; /* sparse; always there, recomputation uses it */
    void *gate, *up;    /* h; [rows][n_ff]; NULL: made again row tile by row tile */
} sala_layer_tape;

/* Gradients of a layer's vectors lie where its parameters lie, at the distance of the two arenas
 * (sala_net.grad_offset). Rows for heads are as wide as the widest layer asks for. b->out (layer_buffers) is scratch of
 * the backward pass, too, and in passes with 16-bit slots b->v, core, mix_gate, gate and up take what these hold. */
typedef struct sala_layer_grads {
    sala_act *d_h;               /* [rows][n_embd] in: of the layer's output; out: of its input */
    sala_act *d_normed, *normed; /* [rows][n_embd] scratch */
    sala_act *dq, *dk, *dv, *d_mixed, *d_mix_gate, *mixed; /* [rows][heads * head_dim] scratch */
    sala_act *q, *k;                                       /* rotated again from q_raw, k_raw */
    sala_act *d_gate, *d_up, *mid;                         /* [tile_rows][n_ff] scratch */
    int64_t tile_rows;                                     /* of the feed-forward part */
} sala_layer_grads;

/* h_in -> h_mid, then tile by tile h_mid -> h_out. Inference calls both with h_out == h_mid == h_in and no tape. */
void sala_layer_mix(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_act *h_in, sala_act *h_mid);
void sala_layer_feed(sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                     const sala_act *h_mid, sala_act *h_out, int64_t n_rows);
/* Backward twins, feed first. */
void sala_layer_feed_back(sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                          const sala_layer_grads *g, int64_t n_rows);
void sala_layer_mix_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g);

/* ---- what backward passes of mixers share (mixer_back.c) ---- */

/* Heads as rope takes them. */
typedef struct sala_mixer_heads {
    int n_heads, head_dim;
    const sala_rope_args *turn;
} sala_mixer_heads;

/* The rows of a slot: itself, or what it holds in 16 bits, in `room`. */
const sala_act *sala_layer_recall(const sala_mixer_call *call, const sala_layer_tape *tape, const void *slot,
                                  sala_act *room, int64_t cols);
/* q or k as attended: its slot, or made again from the raw one in `room`. */
const sala_act *sala_mixer_turned(const sala_mixer_call *call, const sala_layer_tape *tape,
                                  const sala_mixer_heads *heads, const void *slot, const void *raw, sala_act *room);
/* Gradient of the core from b->out, that of the sublayer's output: through the projection, the gate and the norm. Uses
 * g->q, g->mixed and g->d_mixed; returns one of the latter. */
const sala_act *sala_mixer_out_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g,
                                    const sala_act *core, int64_t cols);
/* dx of turned heads becomes that of the projection. Uses g->mixed. */
void sala_mixer_turn_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g,
                          const sala_mixer_heads *heads, sala_act *dx, const void *raw);
/* g->dq, dk, dv, d_mix_gate to g->d_normed and the gradients of the projections. */
void sala_mixer_project_back(const sala_mixer_call *call, const sala_layer_grads *g, int64_t q_cols, int64_t kv_cols);
/* The gradient of a vector (NULL for NULL). */
static inline sala_act *sala_net_grad_of(const sala_net *net, sala_act *vector)
{
    return vector ? vector + net->grad_offset : NULL;
}

/* Bytes of each slot for a layer of this kind, one row: the memory plan and the tape are computed from this alone. */
typedef struct sala_tape_row {
    size_t h_in, h_mid, q_raw, k_raw, q, k, v, core, mix_gate, lse, states, selection, gate, up;
} sala_tape_row;
sala_tape_row sala_layer_tape_row(const sala_config *c, sala_mixer_kind kind, bool half, int states_every);

/* Floating-point operations of one token at `position` keys seen, forward; backward is twice that (attention: 2.5
 * times). */
typedef struct sala_layer_flops {
    double linear, attention;
} sala_layer_flops;
sala_layer_flops sala_layer_count_flops(const sala_config *c, int layer, double keys_seen);

#endif
