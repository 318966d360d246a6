/* Lightning attention: a state per head that decays at a fixed rate and to which every token adds k^T v. No softmax, no
 * normaliser; the concatenated heads are normed, gated and projected. */
#include "model/mixer.h"

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

static void run(const sala_mixer_call *call)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_lightning_config *lc = &c->lightning;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const sala_linear_layout *s = &call->state->linear;
    const int64_t q_cols = (int64_t)lc->n_heads * lc->head_dim, kv_cols = (int64_t)lc->n_kv_heads * lc->head_dim;

    const sala_linear_out outs[] = {
        {w->q, b->q, q_cols, w->q_bias},
        {w->k, b->k, kv_cols, w->k_bias},
        {w->v, b->v, kv_cols, w->v_bias},
        {w->mix_gate, b->mix_gate, q_cols, w->mix_gate_bias},
    };
    be->ops->linear_group(be, outs, w->mix_gate ? 4 : 3, b->normed, call->n_rows, c->n_embd);
    sala_rope_args rope = {.cos = net->rope_cos,
                           .sin = net->rope_sin,
                           .n_rot = lc->rope && c->rope.kind != SALA_ROPE_NONE ? c->rope.n_rot : 0,
                           .half = c->rope.half,
                           .eps = (float)c->rms_eps};
    if (rope.n_rot || w->q_norm) {
        rope.norm = w->q_norm;
        be->ops->rope(be, b->q, q_cols, lc->n_heads, lc->head_dim, call->n_rows, &rope);
        rope.norm = w->k_norm;
        be->ops->rope(be, b->k, kv_cols, lc->n_kv_heads, lc->head_dim, call->n_rows, &rope);
    }
    const sala_lightning_args args = {.seqs = call->seqs,
                                      .n_seqs = call->n_seqs,
                                      .n_rows = call->n_rows,
                                      .n_heads = lc->n_heads,
                                      .n_kv_heads = lc->n_kv_heads,
                                      .head_dim = lc->head_dim,
                                      .state_offset = (size_t)w->linear_slot * s->state_bytes,
                                      .pending_offset = (size_t)w->linear_slot * s->pending_bytes,
                                      .scale = (float)lc->scale,
                                      .decay = net->decay,
                                      .q = b->q,
                                      .k = b->k,
                                      .v = b->v,
                                      .q_stride = q_cols,
                                      .kv_stride = kv_cols,
                                      .out = b->mixed,
                                      .out_stride = q_cols};
    be->ops->lightning(be, &args);
    if (w->mix_norm)
        be->ops->rms_norm(be, b->mixed, b->mixed, w->mix_norm, call->n_rows, q_cols, (float)c->rms_eps);
    if (w->mix_gate)
        be->ops->sigmoid_gate(be, b->mixed, b->mixed, b->mix_gate, call->n_rows, q_cols);
    sala_mixer_observe(call, SALA_OBSERVE_ATTN_OUT, b->mixed, q_cols);
    const sala_linear_out o = {w->o, b->out, c->n_embd, w->o_bias};
    be->ops->linear_group(be, &o, 1, b->mixed, call->n_rows, q_cols);
}

const sala_mixer sala_mixer_lightning = {"lightning", plan, run};
