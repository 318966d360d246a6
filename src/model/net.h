/* A loaded model: config, weights on a backend, and the forward pass.
 *
 * The forward pass is written once for all families. A layer is
 *     h += r * mixer(norm(h));  h += r * ffn(norm(h))
 * and the mixer (mixer.h) is chosen per layer from the config. */
#ifndef SALA_MODEL_NET_H
#define SALA_MODEL_NET_H

#include "backend/grad.h"
#include "model/checkpoint.h"
#include "state/state.h"

typedef struct sala_layer {
    sala_weight *q, *k, *v, *o, *gate, *up, *down;
    sala_weight *mix_gate; /* of the mixer's output; NULL: none */
    sala_act *attn_norm, *ffn_norm;
    sala_act *q_norm, *k_norm, *mix_norm; /* NULL: none */
    sala_act *mix_gate_bias;
    sala_act *q_bias, *k_bias, *v_bias, *o_bias; /* NULL: none */
    sala_act *gate_bias, *up_bias, *down_bias;
    /* Which of the layers of its kind it is, that is, where its part of a session's pages lies. */
    int attn_slot, row_slot, linear_slot;
} sala_layer;

/* Rows of activations that one layer reads and writes. Inference shares one set between all layers; a training step
 * hands in slots of its tape instead and finds there what the backward pass needs. */
typedef struct sala_layer_buffers {
    sala_act *h;         /* [rows][n_embd] residual stream */
    sala_act *normed;    /* [rows][n_embd] */
    sala_act *q, *k, *v; /* [rows][heads * head_dim] */
    sala_act *core;      /* the same: output of attention as it comes */
    sala_act *mixed;     /* the same: normed and gated, where a mixer does that; inference points core here */
    sala_act *mix_gate;  /* the same; NULL when no mixer has a gate */
    int32_t *selection;  /* sparse mixers: as in sala_selection; NULL when there is none */
    sala_act *gate, *up; /* [rows][n_ff] */
    sala_act *mid;       /* the same: their product; inference points it at gate */
    sala_act *out;       /* [rows][n_embd] output of a sublayer before it is added */
    /* For a backward pass only; NULL in inference, and where a layer has no such thing. */
    sala_act *q_raw, *k_raw; /* q and k before their norms, in layers that have these */
    sala_act *lse;           /* as in sala_attn_args */
    sala_act *states;        /* as in sala_lightning_args */
    int states_every;
} sala_layer_buffers;

typedef enum sala_observe_point {
    SALA_OBSERVE_ATTN_IN,  /* input of q, k, v */
    SALA_OBSERVE_ATTN_OUT, /* input of o */
    SALA_OBSERVE_FFN_IN,   /* input of gate, up */
    SALA_OBSERVE_FFN_MID,  /* input of down */
    SALA_OBSERVE_HIDDEN,   /* residual stream after the layer */
} sala_observe_point;

/* Called at each point of each layer with rows in device memory, and with the blocks that a sparse layer selected. For
 * calibration, alignment and heat maps. */
typedef struct sala_observer {
    void (*fn)(void *user, int layer, sala_observe_point point, const sala_act *x, int64_t n_rows, int64_t n);
    void (*selected)(void *user, int layer, const sala_selection *selection, const sala_attn_seq *seqs, int n_seqs);
    void *user;
} sala_observer;

typedef struct sala_net {
    sala_checkpoint files;
    const sala_config *config;
    sala_backend *be;
    /* Training: the backward half of the device, and how many elements the gradient of a vector lies behind it. */
    const sala_grad_ops *grad;
    ptrdiff_t grad_offset;
    sala_weight *embed, *head; /* head == embed when tied */
    sala_act *out_norm;
    sala_layer *layers;
    /* Small vectors of all layers (norms, biases), one allocation on the device. */
    sala_act *vectors;
    size_t vectors_bytes;
    /* Scratch for batches of up to max_rows rows. */
    int64_t max_rows, max_logit_rows;
    void *scratch;
    size_t scratch_bytes;
    sala_layer_buffers buffers;
    sala_act *logits;           /* [max_logit_rows][n_vocab] */
    float *rope_cos, *rope_sin; /* host, [max_rows][n_rot / 2] */
    float *row_scale;           /* host, [max_rows]: position-dependent scale of queries; NULL: none is applied */
    float *decay;               /* host, [lightning heads][SALA_LIGHTNING_CHUNK + 1] */
    double *inv_freq[2];        /* short, long */
    double rope_factor[2];
    /* Host scratch of the forward pass, grown to the largest batch seen: no allocation per token. */
    void *work;
    size_t work_bytes;
    sala_observer observer;
} sala_net;

typedef bool sala_net_progress_fn(void *user, const char *what, uint64_t done, uint64_t total);

/* Loads the weights of `files` (which moves into the net, also on failure) onto `be` (borrowed). */
sala_status sala_net_open(sala_net **out, sala_checkpoint *files, sala_backend *be, sala_net_progress_fn *progress,
                          void *user, sala_error *err);
void sala_net_close(sala_net *net);

/* A weight, or a vector in device memory, and what it is to a model. */
typedef struct sala_net_part {
    sala_tensor_role role;
    int layer; /* for the roles of layers */
    sala_weight *weight;
    sala_act *vector;
} sala_net_part;

/* A net of parts that the caller keeps, for one who runs layers by hand (layer.h): it has tables of angles and scales
 * for max_rows rows, but no files, no buffers and no logits, and nothing is reserved on the device. Every tensor that
 * the config asks for must be there; `config` is borrowed too. Tied heads need no part of their own. */
sala_status sala_net_open_parts(sala_net **out, const sala_config *config, sala_backend *be, const sala_net_part *parts,
                                int n_parts, int64_t max_rows, sala_error *err);
void sala_net_close_parts(sala_net *net);
/* For the two ways of opening: which part of a session's pages is whose, and decays and frequencies. */
void sala_net_number_layers(sala_net *net);
void sala_net_fill_tables(sala_net *net);
/* Memory that a net takes beside its weights. */
uint64_t sala_net_scratch_bytes(const sala_config *c);
uint64_t sala_net_weight_bytes(const sala_net *net); /* packed copies; mapped weights not counted */

/* What a session of this model keeps. */
sala_status sala_net_state_layout(sala_state_layout *out, const sala_config *c, sala_dtype kv, sala_error *err);
/* The decay of lightning head `head`: exp(-slope) per token. */
double sala_lightning_slope(int head, int n_heads);

/* One timeline of tokens as the forward pass sees it. */
typedef struct sala_timeline {
    sala_state state;
    bool long_rope;      /* rotate with the long list */
    int64_t sparse_from; /* rows at or beyond this position select blocks */
    bool mapped;  /* some pages come from a file and are compared with their checksums when they are first used */
    bool checked; /* mapped: those that every pass reads were compared */
} sala_timeline;

typedef struct sala_net_row {
    int32_t token;
    int32_t session; /* index into the timelines of the call */
    bool want;
} sala_net_row;

/* Runs the rows behind what their timelines hold and commits them. logits (host): [number of wanted rows][n_vocab] in
 * the order of the rows; may be NULL when none is wanted. On failure no timeline has changed. Not re-entrant: one call
 * at a time for one net. */
sala_status sala_net_forward(sala_net *net, sala_timeline *const *timelines, int n_timelines, const sala_net_row *rows,
                             int64_t n_rows, float *logits, sala_error *err);

#endif
