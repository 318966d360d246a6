/* Lightning attention: a state per head that decays at a fixed rate and to which every token adds k^T v. No softmax, no
 * normaliser; the concatenated heads are normed, gated and projected. */
#include "model/layer.h"

#include "kernels/kernels.h"

#include <math.h>

_Static_assert(SALA_LINEAR_CHUNK == SALA_LIGHTNING_CHUNK, "states are kept where kernels close their sums");

static void plan(const sala_config *c, sala_state_layout *state)
{
    (void)c;
    state->linear.n_layers++;
}

double sala_lightning_slope(int head, int n_heads)
{
    /* The series of ALiBi: for a power of two n, 2^(-8/n) to the powers 1 .. n; for other numbers, every second one of
     * the next power of two fills up. */
    int power = 1;
    while (2 * power <= n_heads)
        power *= 2;
    if (head >= power)
        return sala_lightning_slope(2 * (head - power), 2 * power);
    return exp2(-8.0 / power * (head + 1));
}

static int64_t q_cols(const sala_config *c)
{
    return (int64_t)c->lightning.n_heads * c->lightning.head_dim;
}

static int64_t kv_cols(const sala_config *c)
{
    return (int64_t)c->lightning.n_kv_heads * c->lightning.head_dim;
}

static sala_rope_args turn_args(const sala_net *net, const sala_act *norm)
{
    const sala_config *c = net->config;
    const bool turn = c->lightning.rope && c->rope.kind != SALA_ROPE_NONE;
    return (sala_rope_args){.cos = net->rope_cos,
                            .sin = net->rope_sin,
                            .n_rot = turn ? c->rope.n_rot : 0,
                            .half = c->rope.half,
                            .norm = norm,
                            .eps = (sala_act)c->rms_eps};
}

static sala_lightning_args core_args(const sala_mixer_call *call)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_lightning_config *lc = &c->lightning;
    const sala_linear_layout *s = &call->state->linear;
    const size_t slot = (size_t)net->layers[call->layer].linear_slot;
    const sala_layer_buffers *b = call->b;
    return (sala_lightning_args){.seqs = call->seqs,
                                 .n_seqs = call->n_seqs,
                                 .n_rows = call->n_rows,
                                 .n_heads = lc->n_heads,
                                 .n_kv_heads = lc->n_kv_heads,
                                 .head_dim = lc->head_dim,
                                 .state_offset = slot * s->state_bytes,
                                 .pending_offset = slot * s->pending_bytes,
                                 .scale = (sala_act)lc->scale,
                                 .decay = net->decay,
                                 .q = b->q,
                                 .k = b->k,
                                 .v = b->v,
                                 .q_stride = q_cols(c),
                                 .kv_stride = kv_cols(c),
                                 .out = b->core,
                                 .out_stride = q_cols(c),
                                 .states = b->states,
                                 .states_every = b->states_every};
}

static void run(const sala_mixer_call *call)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_lightning_config *lc = &c->lightning;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;

    const sala_linear_out outs[] = {
        {w->q, b->q, q_cols(c), w->q_bias},
        {w->k, b->k, kv_cols(c), w->k_bias},
        {w->v, b->v, kv_cols(c), w->v_bias},
        {w->mix_gate, b->mix_gate, q_cols(c), w->mix_gate_bias},
    };
    be->ops->linear_group(be, outs, w->mix_gate ? 4 : 3, b->normed, call->n_rows, c->n_embd);
    sala_rope_args q = turn_args(net, w->q_norm), k = turn_args(net, w->k_norm);
    q.kept = b->q_raw;
    q.kept_stride = q_cols(c);
    k.kept = b->k_raw;
    k.kept_stride = kv_cols(c);
    if (q.n_rot || q.norm)
        be->ops->rope(be, b->q, q_cols(c), lc->n_heads, lc->head_dim, call->n_rows, &q);
    if (k.n_rot || k.norm)
        be->ops->rope(be, b->k, kv_cols(c), lc->n_kv_heads, lc->head_dim, call->n_rows, &k);
    const sala_lightning_args args = core_args(call);
    be->ops->lightning(be, &args);
    const sala_act *mixed = b->core;
    if (w->mix_norm) {
        be->ops->rms_norm(be, b->mixed, mixed, w->mix_norm, call->n_rows, q_cols(c), (sala_act)c->rms_eps);
        mixed = b->mixed;
    }
    if (w->mix_gate) {
        be->ops->sigmoid_gate(be, b->mixed, mixed, b->mix_gate, call->n_rows, q_cols(c));
        mixed = b->mixed;
    }
    sala_mixer_observe(call, SALA_OBSERVE_ATTN_OUT, mixed, q_cols(c));
    const sala_linear_out o = {w->o, b->out, c->n_embd, w->o_bias};
    be->ops->linear_group(be, &o, 1, mixed, call->n_rows, q_cols(c));
}

static void back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_lightning_config *lc = &c->lightning;
    const sala_layer *w = &net->layers[call->layer];
    const sala_rope_args q_turn = turn_args(net, w->q_norm), k_turn = turn_args(net, w->k_norm);
    const sala_mixer_heads q = {lc->n_heads, lc->head_dim, &q_turn}, k = {lc->n_kv_heads, lc->head_dim, &k_turn};

    const sala_act *core = sala_layer_recall(call, tape, tape->core, call->b->core, q_cols(c));
    const sala_act *d_core = sala_mixer_out_back(call, tape, g, core, q_cols(c));
    sala_lightning_back_args args = {.fwd = core_args(call),
                                     .states = tape->states,
                                     .states_every = tape->states_every,
                                     .d_out = d_core,
                                     .dq = g->dq,
                                     .dk = g->dk,
                                     .dv = g->dv};
    args.fwd.q = sala_mixer_turned(call, tape, &q, tape->q, tape->q_raw, g->q);
    args.fwd.k = sala_mixer_turned(call, tape, &k, tape->k, tape->k_raw, g->k);
    args.fwd.v = sala_layer_recall(call, tape, tape->v, call->b->v, kv_cols(c));
    args.fwd.out = (sala_act *)(uintptr_t)core; /* only read in a backward pass */
    net->grad->lightning_back(net->be, &args);
    sala_mixer_turn_back(call, tape, g, &q, g->dq, tape->q_raw);
    sala_mixer_turn_back(call, tape, g, &k, g->dk, tape->k_raw);
    sala_mixer_project_back(call, g, q_cols(c), kv_cols(c));
}

const sala_mixer sala_mixer_lightning = {"lightning", plan, run, back};
