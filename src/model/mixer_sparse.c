/* InfLLM-v2: a row first scores compressed keys and selects blocks, then attends to the tokens of those blocks. Rows
 * before the session's switch (sala_attn_seq.sparse_from) see everything. */
#include "model/layer.h"

static bool scores_raw_keys(const sala_config *c)
{
    return c->sparse.use_nope && c->attn_rope && c->rope.kind != SALA_ROPE_NONE;
}

static void plan(const sala_config *c, sala_state_layout *state)
{
    sala_softmax_plan(c, state);
    state->n_sparse++;
    state->kernel = c->sparse.kernel_size;
    state->stride = c->sparse.kernel_stride;
    state->coarse = SALA_SPARSE_COARSE;
    state->raw_keys = scores_raw_keys(c);
}

static sala_selection selection_of(const sala_config *c, int32_t *list)
{
    return (sala_selection){list, sala_sparse_selected(&c->sparse), c->sparse.block_size};
}

/* Keys and values become what attention reads. A training device attends rows where they lie: it wants keys only where
 * these are compressed, and puts them into blocks that it keeps for one layer at a time. */
static void store(const sala_mixer_call *call, const sala_kv_shape *kv, bool compressed)
{
    sala_backend *be = call->net->be;
    const sala_layer_buffers *b = call->b;
    const int64_t kv_cols = (int64_t)kv->n_kv_heads * kv->head_dim;
    if (!call->net->grad)
        be->ops->kv_store(be, call->seqs, call->n_seqs, kv, b->k, b->v, kv_cols);
    else if (compressed)
        be->ops->key_store(be, call->seqs, call->n_seqs, kv, b->k, kv_cols);
}

static void score(const sala_mixer_call *call, const sala_kv_shape *kv)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_state_layout *s = call->state;
    const sala_rows_shape rows = {s->row_dtype, s->kernel, s->stride, s->coarse,
                                  (size_t)net->layers[call->layer].row_slot * s->row_layer_bytes};
    const sala_select_args select = {.seqs = call->seqs,
                                     .n_seqs = call->n_seqs,
                                     .n_rows = call->n_rows,
                                     .rows = rows,
                                     .n_heads = c->n_heads,
                                     .n_kv_heads = c->n_kv_heads,
                                     .head_dim = c->head_dim,
                                     .scale = (sala_act)c->attn_scale,
                                     .init_blocks = c->sparse.init_blocks,
                                     .window_blocks = c->sparse.window_size / c->sparse.block_size,
                                     .q = call->b->q,
                                     .q_stride = (int64_t)c->n_heads * c->head_dim,
                                     .out = selection_of(c, call->b->selection)};
    net->be->ops->compress(net->be, call->seqs, call->n_seqs, kv, &rows);
    net->be->ops->select(net->be, &select);
}

static void run(const sala_mixer_call *call)
{
    const sala_net *net = call->net;
    const sala_config *c = net->config;
    const sala_layer_buffers *b = call->b;
    const sala_state_layout *s = call->state;
    const sala_kv_shape kv = sala_softmax_kv(call);
    const sala_selection selection = selection_of(c, b->selection);
    sala_softmax_project(call);
    if (call->again) { /* what was selected stays: nothing is scored twice */
        sala_softmax_turn(call, true, true);
    } else if (s->raw_keys) {
        /* Blocks are scored with queries and keys that are not rotated yet. */
        sala_kv_shape raw = kv;
        raw.layer_offset += 2 * s->head_bytes * (size_t)s->n_kv_heads;
        sala_softmax_turn(call, true, false);
        net->be->ops->key_store(net->be, call->seqs, call->n_seqs, &raw, b->k, (int64_t)c->n_kv_heads * c->head_dim);
        score(call, &raw);
        sala_softmax_turn(call, false, true);
        store(call, &kv, false);
    } else {
        sala_softmax_turn(call, true, true);
        store(call, &kv, true);
        score(call, &kv);
    }
    if (net->observer.selected)
        net->observer.selected(net->observer.user, call->layer, &selection, call->seqs, call->n_seqs);
    sala_softmax_finish(call, &selection);
}

static void back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g)
{
    const sala_selection selection = selection_of(call->net->config, tape->selection);
    sala_softmax_back(call, tape, g, &selection);
}

const sala_mixer sala_mixer_sparse = {"sparse", plan, run, back};
