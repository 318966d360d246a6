/* Causal softmax attention with grouped heads, optional biases, q/k norm, rotation and output gate. */
#include "model/layer.h"

static int64_t q_cols(const sala_config *c)
{
    return (int64_t)c->n_heads * c->head_dim;
}

static int64_t kv_cols(const sala_config *c)
{
    return (int64_t)c->n_kv_heads * c->head_dim;
}

void sala_softmax_plan(const sala_config *c, sala_state_layout *state)
{
    (void)c;
    state->n_attn++;
}

void sala_softmax_project(const sala_mixer_call *call)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const sala_linear_out outs[] = {
        {w->q, b->q, q_cols(c), w->q_bias},
        {w->k, b->k, kv_cols(c), w->k_bias},
        {w->v, b->v, kv_cols(c), w->v_bias},
        {w->mix_gate, b->mix_gate, q_cols(c), w->mix_gate_bias},
    };
    net->be->ops->linear_group(net->be, outs, w->mix_gate ? 4 : 3, b->normed, call->n_rows, c->n_embd);
}

static sala_rope_args turn_args(const sala_net *net, bool rotate)
{
    const sala_config *c = net->config;
    const bool turn = rotate && c->attn_rope && c->rope.kind != SALA_ROPE_NONE;
    return (sala_rope_args){.cos = net->rope_cos,
                            .sin = net->rope_sin,
                            .n_rot = turn ? c->rope.n_rot : 0,
                            .half = c->rope.half,
                            .eps = (sala_act)c->rms_eps};
}

/* What is multiplied into queries; keys have none. */
static const float *query_scale(const sala_net *net, bool rotate)
{
    return rotate && net->config->attn_scale_base > 0 ? net->row_scale : NULL;
}

void sala_softmax_turn(const sala_mixer_call *call, bool norm, bool rotate)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    sala_rope_args q = turn_args(net, rotate), k = q;
    q.row_scale = query_scale(net, rotate);
    if (norm) {
        q.norm = w->q_norm;
        q.kept = b->q_raw;
        q.kept_stride = q_cols(c);
        k.norm = w->k_norm;
        k.kept = b->k_raw;
        k.kept_stride = kv_cols(c);
    }
    if (q.n_rot || q.norm || q.row_scale)
        net->be->ops->rope(net->be, b->q, q_cols(c), c->n_heads, c->head_dim, call->n_rows, &q);
    if (k.n_rot || k.norm)
        net->be->ops->rope(net->be, b->k, kv_cols(c), c->n_kv_heads, c->head_dim, call->n_rows, &k);
}

sala_kv_shape sala_softmax_kv(const sala_mixer_call *call)
{
    const sala_state_layout *s = call->state;
    return (sala_kv_shape){s->dtype, s->n_kv_heads, s->head_dim,
                           (size_t)call->net->layers[call->layer].attn_slot * s->attn_layer_bytes};
}

static sala_attn_args attention_args(const sala_mixer_call *call, const sala_selection *selection)
{
    const sala_config *c = call->net->config;
    const sala_layer_buffers *b = call->b;
    return (sala_attn_args){.seqs = call->seqs,
                            .n_seqs = call->n_seqs,
                            .n_rows = call->n_rows,
                            .kv = sala_softmax_kv(call),
                            .n_heads = c->n_heads,
                            .scale = (sala_act)c->attn_scale,
                            .window = c->sliding_window,
                            .selection = selection,
                            .q = b->q,
                            .q_stride = q_cols(c),
                            .out = b->core,
                            .out_stride = q_cols(c),
                            .k = b->k,
                            .v = b->v,
                            .kv_stride = kv_cols(c),
                            .lse = b->lse};
}

void sala_softmax_finish(const sala_mixer_call *call, const sala_selection *selection)
{
    sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    if (call->mixed)
        return;
    const sala_attn_args attn = attention_args(call, selection);
    be->ops->attention(be, &attn);
    if (w->mix_gate)
        be->ops->sigmoid_gate(be, b->mixed, b->core, b->mix_gate, call->n_rows, q_cols(c));
    const sala_act *mixed = w->mix_gate ? b->mixed : b->core;
    sala_mixer_observe(call, SALA_OBSERVE_ATTN_OUT, mixed, q_cols(c));
    const sala_linear_out o = {w->o, b->out, c->n_embd, w->o_bias};
    be->ops->linear_group(be, &o, 1, mixed, call->n_rows, q_cols(c));
}

void sala_softmax_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g,
                       const sala_selection *selection)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    sala_rope_args q_turn = turn_args(net, true), k_turn = q_turn;
    q_turn.norm = w->q_norm;
    q_turn.row_scale = query_scale(net, true);
    k_turn.norm = w->k_norm;
    const sala_mixer_heads q = {c->n_heads, c->head_dim, &q_turn}, k = {c->n_kv_heads, c->head_dim, &k_turn};

    const sala_act *core = sala_layer_recall(call, tape, tape->core, call->b->core, q_cols(c));
    const sala_act *d_core = sala_mixer_out_back(call, tape, g, core, q_cols(c));
    sala_attn_back_args back = {.fwd = attention_args(call, selection),
                                .k = sala_mixer_turned(call, tape, &k, tape->k, tape->k_raw, g->k),
                                .v = sala_layer_recall(call, tape, tape->v, call->b->v, kv_cols(c)),
                                .kv_stride = kv_cols(c),
                                .lse = tape->lse,
                                .d_out = d_core,
                                .dq = g->dq,
                                .dk = g->dk,
                                .dv = g->dv};
    back.fwd.q = sala_mixer_turned(call, tape, &q, tape->q, tape->q_raw, g->q);
    back.fwd.out = (sala_act *)(uintptr_t)core; /* only read in a backward pass */
    back.fwd.k = back.k;
    back.fwd.v = back.v;
    back.fwd.lse = tape->lse;
    net->grad->attention_back(be, &back);
    sala_mixer_turn_back(call, tape, g, &q, g->dq, tape->q_raw);
    sala_mixer_turn_back(call, tape, g, &k, g->dk, tape->k_raw);
    sala_mixer_project_back(call, g, q_cols(c), kv_cols(c));
}

static void run(const sala_mixer_call *call)
{
    sala_backend *be = call->net->be;
    const sala_kv_shape kv = sala_softmax_kv(call);
    sala_softmax_project(call);
    sala_softmax_turn(call, true, true);
    if (!call->net->grad) /* a training device attends rows where they lie */
        be->ops->kv_store(be, call->seqs, call->n_seqs, &kv, call->b->k, call->b->v, kv_cols(call->net->config));
    sala_softmax_finish(call, NULL);
}

static void back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g)
{
    sala_softmax_back(call, tape, g, NULL);
}

const sala_mixer sala_mixer_dense = {"dense", sala_softmax_plan, run, back};
