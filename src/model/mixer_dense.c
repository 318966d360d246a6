/* Causal softmax attention with grouped heads, optional biases, q/k norm and rope. */
#include "model/mixer.h"

static void run(const sala_mixer_call *call)
{
    sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const int64_t q_cols = (int64_t)c->n_heads * c->head_dim, kv_cols = (int64_t)c->n_kv_heads * c->head_dim;

    const sala_linear_out qkv[] = {
        {w->q, b->q, q_cols, w->q_bias},
        {w->k, b->k, kv_cols, w->k_bias},
        {w->v, b->v, kv_cols, w->v_bias},
    };
    be->ops->linear_group(be, qkv, 3, b->normed, call->n_rows, c->n_embd);

    sala_rope_args rope = {.cos = net->rope_cos,
                           .sin = net->rope_sin,
                           .n_rot = c->rope.kind == SALA_ROPE_NONE ? 0 : c->rope.n_rot,
                           .half = c->rope.half,
                           .eps = (float)c->rms_eps};
    if (rope.n_rot || w->q_norm) {
        rope.norm = w->q_norm;
        be->ops->rope(be, b->q, q_cols, c->n_heads, c->head_dim, call->n_rows, &rope);
        rope.norm = w->k_norm;
        be->ops->rope(be, b->k, kv_cols, c->n_kv_heads, c->head_dim, call->n_rows, &rope);
    }

    const sala_kv_shape kv = {call->kv->dtype, c->n_kv_heads, c->head_dim, (size_t)call->layer * call->kv->layer_bytes};
    be->ops->kv_store(be, call->seqs, call->n_seqs, &kv, b->k, b->v, kv_cols);
    const sala_attn_args attn = {.seqs = call->seqs,
                                 .n_seqs = call->n_seqs,
                                 .n_rows = call->n_rows,
                                 .kv = kv,
                                 .n_heads = c->n_heads,
                                 .scale = (float)c->attn_scale,
                                 .window = c->sliding_window,
                                 .q = b->q,
                                 .q_stride = q_cols,
                                 .out = b->mixed,
                                 .out_stride = q_cols};
    be->ops->attention(be, &attn);
    if (net->observer.fn)
        net->observer.fn(net->observer.user, call->layer, SALA_OBSERVE_ATTN_OUT, b->mixed, call->n_rows, q_cols);
    const sala_linear_out o = {w->o, b->out, c->n_embd, w->o_bias};
    be->ops->linear_group(be, &o, 1, b->mixed, call->n_rows, q_cols);
}

const sala_mixer sala_mixer_dense = {"dense", run};
