/* The backward half of the device border: what backend.h's operations turn gradients into. A training device fills both
 * tables. Names follow the forward operation; d* are gradients, in the device's memory, of the same shapes as what they
 * belong to. Gradients of weights are added to what the weight's handle holds; of activations they are written, unless
 * `add`.
 *
 * Forward operations on a training device keep nothing by themselves: what backward needs is in the buffers that the
 * caller hands in again. kv_store is not called: attention reads the rows where they lie (sala_attn_args.k, v);
 * key_store puts the keys of one layer where compress and select find them. Documents of a pack are the sequences of
 * the batch (sala_attn_seq): nothing crosses them. */
#ifndef SALA_BACKEND_GRAD_H
#define SALA_BACKEND_GRAD_H

#include "backend/backend.h"

typedef struct sala_linear_back {
    const sala_weight *weight;
    const sala_act *d_out; /* [n_rows][d_stride] */
    int64_t d_stride;
    sala_act *d_bias; /* added to, or NULL */
} sala_linear_back;

typedef struct sala_attn_back_args {
    sala_attn_args fwd;    /* q as attended (normed, rotated); out = o as attention wrote it; kv is not used */
    const sala_act *k, *v; /* [n_rows][kv_stride] */
    int64_t kv_stride;
    const sala_act *lse;    /* [n_heads][n_rows], as the forward pass kept it */
    const sala_act *d_out;  /* [n_rows][out_stride] */
    sala_act *dq, *dk, *dv; /* written; strides as q, k, v */
} sala_attn_back_args;

typedef struct sala_lightning_back_args {
    sala_lightning_args fwd;
    const sala_act *states; /* as the forward pass kept them */
    int states_every;
    const sala_act *d_out;
    sala_act *dq, *dk, *dv;
} sala_lightning_back_args;

/* The feed-forward part of a pass with 16-bit slots, backwards: dx of x, and the gradients of all three matrices. */
typedef struct sala_feed_back_args {
    const sala_weight *gate, *up;
    sala_linear_back down;
    const void *gate_slot, *up_slot; /* [n_rows][n_ff], before the activation */
    const sala_act *x;               /* [n_rows][n_embd] as gate and up multiplied it */
    sala_act *dx, *d_mid;            /* d_mid: room, [n_rows][n_ff] */
    int64_t n_rows, n_ff, n_embd;    /* n_ff is even */
} sala_feed_back_args;

/* Supervised rows: label >= 0; others -1. All sums in f64, in the order of the rows. */
typedef struct sala_head_args {
    const sala_weight *head;
    const sala_act *x; /* [n_rows][n_embd] final normed rows */
    int64_t n_rows, n_embd, n_vocab;
    const int32_t *labels;   /* host */
    const float *row_weight; /* host; NULL: 1. Multiplies the row's loss and gradient (RL: any coefficient) */
    sala_act inv_divisor;    /* logits = head(x * inv_divisor) */
    sala_act loss_scale;     /* 1 / number of supervised tokens of the whole step */
    sala_act zloss;
    sala_act *dx;                    /* NULL: loss only (validation) */
    float *row_losses;               /* host [n_rows] or NULL: -ln p(label), 0 where there is none */
    double loss, zloss_sum, correct; /* out: sums over rows, not scaled */
    int64_t n_supervised;
} sala_head_args;

typedef struct sala_grad_ops {
    /* dx (+)= sum over outs of d_out W; dW += d_outT x. x as in the forward call. Either may be NULL: dx NULL leaves
     * the gradient of x out, x NULL those of weights and biases. */
    void (*linear_group_back)(sala_backend *be, const sala_linear_back *outs, int n_outs, sala_act *dx,
                              const sala_act *x, int64_t n_rows, int64_t cols, bool add);
    /* dW[ids[i]] += scale * d_out[i]; equal ids in the order of rows. */
    void (*get_rows_back)(sala_backend *be, const sala_weight *w, const int32_t *ids, const sala_act *d_out, int64_t n,
                          sala_act scale);
    /* Row statistics are recomputed from x. dw added. */
    void (*rms_norm_back)(sala_backend *be, sala_act *dx, sala_act *dw, const sala_act *dy, const sala_act *x,
                          const sala_act *w, int64_t n_rows, int64_t n, sala_act eps, bool add);
    /* out = s x: what a residual's branch gets of the stream's gradient. */
    void (*scale_to)(sala_backend *be, sala_act *out, const sala_act *x, sala_act s, int64_t n_rows, int64_t n);
    /* mid = silu(gate) up again, for the weights of down. dgate may be d_out. */
    void (*swiglu_back)(sala_backend *be, sala_act *dgate, sala_act *dup, sala_act *mid, const sala_act *d_out,
                        const sala_act *gate, const sala_act *up, int64_t n_rows, int64_t n);
    /* In passes with 16-bit slots: down->out = (silu(gate) up) W^T, and gate and up are kept (slots NULL: not). n_ff is
     * even. */
    void (*feed_down)(sala_backend *be, const sala_linear_out *down, const sala_act *gate, const sala_act *up,
                      void *gate_slot, void *up_slot, int64_t n_rows, int64_t n_ff);
    /* The same as linear_group_back, recall, swiglu_back and linear_group_back twice, where gate and up have no biases:
     * what only products see is rounded where it is made. */
    void (*feed_back)(sala_backend *be, const sala_feed_back_args *args);
    /* In place: dx of the rotated heads becomes that of the raw ones. raw: before norm and rotation; NULL without norm.
     */
    void (*rope_back)(sala_backend *be, sala_act *dx, sala_act *dnorm, const sala_act *raw, int64_t stride, int n_heads,
                      int head_dim, int64_t n_rows, const sala_rope_args *args);
    void (*attention_back)(sala_backend *be, const sala_attn_back_args *args);
    void (*lightning_back)(sala_backend *be, const sala_lightning_back_args *args);
    void (*sigmoid_gate_back)(sala_backend *be, sala_act *dx, sala_act *dgate, const sala_act *dy, const sala_act *x,
                              const sala_act *gate, int64_t n_rows, int64_t n);
    /* Chunk by chunk of rows; logits exist for one chunk only. */
    void (*head_loss)(sala_backend *be, sala_head_args *args);
    /* Tape slots of 16 bits: f32 rows in and out, nearest even. */
    void (*keep)(sala_backend *be, void *slot, const sala_act *x, int64_t n);
    void (*recall)(sala_backend *be, sala_act *x, const void *slot, int64_t n);
} sala_grad_ops;

/* Gradient of a weight's matrix, f32 [rows][cols]; and after an update of the values: packs are made again when next
 * used. */
sala_act *sala_weight_grad(const sala_weight *w);
void sala_weight_changed(sala_weight *w);

#endif
