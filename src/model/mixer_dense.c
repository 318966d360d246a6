/* Causal softmax attention with grouped heads, optional biases, q/k norm, rotation and output gate. */
#include "model/mixer.h"

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

void sala_softmax_turn(const sala_mixer_call *call, bool norm, bool rotate)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const bool turn = rotate && c->attn_rope && c->rope.kind != SALA_ROPE_NONE;
    sala_rope_args rope = {.cos = net->rope_cos,
                           .sin = net->rope_sin,
                           .n_rot = turn ? c->rope.n_rot : 0,
                           .half = c->rope.half,
                           .norm = norm ? w->q_norm : NULL,
                           .eps = (float)c->rms_eps,
                           .row_scale = rotate && c->attn_scale_base > 0 ? net->row_scale : NULL};
    if (rope.n_rot || rope.norm || rope.row_scale)
        net->be->ops->rope(net->be, call->b->q, q_cols(c), c->n_heads, c->head_dim, call->n_rows, &rope);
    rope.norm = norm ? w->k_norm : NULL;
    rope.row_scale = NULL;
    if (rope.n_rot || rope.norm)
        net->be->ops->rope(net->be, call->b->k, kv_cols(c), c->n_kv_heads, c->head_dim, call->n_rows, &rope);
}

sala_kv_shape sala_softmax_kv(const sala_mixer_call *call)
{
    const sala_state_layout *s = call->state;
    return (sala_kv_shape){s->dtype, s->n_kv_heads, s->head_dim,
                           (size_t)call->net->layers[call->layer].attn_slot * s->attn_layer_bytes};
}

void sala_softmax_finish(const sala_mixer_call *call, const sala_selection *selection)
{
    sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const sala_attn_args attn = {.seqs = call->seqs,
                                 .n_seqs = call->n_seqs,
                                 .n_rows = call->n_rows,
                                 .kv = sala_softmax_kv(call),
                                 .n_heads = c->n_heads,
                                 .scale = (float)c->attn_scale,
                                 .window = c->sliding_window,
                                 .selection = selection,
                                 .q = b->q,
                                 .q_stride = q_cols(c),
                                 .out = b->mixed,
                                 .out_stride = q_cols(c)};
    be->ops->attention(be, &attn);
    if (w->mix_gate)
        be->ops->sigmoid_gate(be, b->mixed, b->mixed, b->mix_gate, call->n_rows, q_cols(c));
    sala_mixer_observe(call, SALA_OBSERVE_ATTN_OUT, b->mixed, q_cols(c));
    const sala_linear_out o = {w->o, b->out, c->n_embd, w->o_bias};
    be->ops->linear_group(be, &o, 1, b->mixed, call->n_rows, q_cols(c));
}

static void run(const sala_mixer_call *call)
{
    sala_backend *be = call->net->be;
    const sala_kv_shape kv = sala_softmax_kv(call);
    sala_softmax_project(call);
    sala_softmax_turn(call, true, true);
    be->ops->kv_store(be, call->seqs, call->n_seqs, &kv, call->b->k, call->b->v, kv_cols(call->net->config));
    sala_softmax_finish(call, NULL);
}

const sala_mixer sala_mixer_dense = {"dense", sala_softmax_plan, run};
