/* The skeleton of a layer: norms, residual stream and feed-forward part, with their derivatives, around a mixer.
 *
 * Inference runs both halves in place (h_out == h_mid == h_in): then the rows are normed by the operation that adds the
 * sublayer before, and the norm of the next layer comes with the sum at this one's end. Where the streams lie apart, as
 * on a tape, each half norms its own input and leaves the stream alone otherwise. */
#include "model/layer.h"

#include "kernels/kernels.h"

#include <math.h>

static void observe(const sala_net *net, int layer, sala_observe_point point, const sala_act *x, int64_t n_rows,
                    int64_t n)
{
    if (net->observer.fn)
        net->observer.fn(net->observer.user, layer, point, x, n_rows, n);
}

static int64_t q_width(const sala_config *c, sala_mixer_kind kind)
{
    return kind == SALA_MIXER_LIGHTNING ? (int64_t)c->lightning.n_heads * c->lightning.head_dim
                                        : (int64_t)c->n_heads * c->head_dim;
}

static int64_t kv_width(const sala_config *c, sala_mixer_kind kind)
{
    return kind == SALA_MIXER_LIGHTNING ? (int64_t)c->lightning.n_kv_heads * c->lightning.head_dim
                                        : (int64_t)c->n_kv_heads * c->head_dim;
}

/* ---- forward ---- */

static void keep(const sala_net *net, void *slot, const sala_act *x, int64_t n)
{
    if (slot)
        net->grad->keep(net->be, slot, x, n);
}

static void keep_mixer(const sala_mixer_call *call, const sala_layer_tape *tape)
{
    const sala_net *net = call->net;
    const sala_layer_buffers *b = call->b;
    const sala_mixer_kind kind = net->config->mixers[call->layer];
    const int64_t q = call->n_rows * q_width(net->config, kind), kv = call->n_rows * kv_width(net->config, kind);
    keep(net, tape->q_raw, b->q_raw, q);
    keep(net, tape->k_raw, b->k_raw, kv);
    keep(net, tape->q, b->q, q);
    keep(net, tape->k, b->k, kv);
    keep(net, tape->v, b->v, kv);
    keep(net, tape->mix_gate, b->mix_gate, q);
    if (!call->mixed)
        keep(net, tape->core, b->core, q);
}

void sala_layer_mix(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_act *h_in, sala_act *h_mid)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const bool in_place = h_mid == h_in;
    const sala_act r = (sala_act)c->residual_scale, eps = (sala_act)c->rms_eps;

    if (!in_place)
        be->ops->rms_norm(be, b->normed, h_in, w->attn_norm, call->n_rows, c->n_embd, eps);
    observe(net, call->layer, SALA_OBSERVE_ATTN_IN, b->normed, call->n_rows, c->n_embd);
    be->ops->soon(be, w->ffn_norm, c->n_embd);
    sala_mixer_get(c->mixers[call->layer])->run(call);
    if (tape && tape->half)
        keep_mixer(call, tape);
    if (call->mixed)
        return;
    be->ops->add_norm(be, in_place ? b->normed : NULL, h_mid, h_in, b->out, r, w->ffn_norm, call->n_rows, c->n_embd,
                      eps);
}

/* Gate and up, before the activation, of normed rows. */
static void gate_up(const sala_net *net, int layer, const sala_act *normed, sala_act *gate, sala_act *up,
                    int64_t n_rows)
{
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[layer];
    const sala_linear_out outs[] = {{w->gate, gate, c->n_ff, w->gate_bias}, {w->up, up, c->n_ff, w->up_bias}};
    net->be->ops->linear_group(net->be, outs, 2, normed, n_rows, c->n_embd);
}

void sala_layer_feed(sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                     const sala_act *h_mid, sala_act *h_out, int64_t n_rows)
{
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[layer];
    const bool in_place = h_out == h_mid;
    const sala_act r = (sala_act)c->residual_scale, eps = (sala_act)c->rms_eps;
    const sala_act *next_norm = layer + 1 < c->n_layers ? net->layers[layer + 1].attn_norm : net->out_norm;

    if (!in_place)
        be->ops->rms_norm(be, b->normed, h_mid, w->ffn_norm, n_rows, c->n_embd, eps);
    observe(net, layer, SALA_OBSERVE_FFN_IN, b->normed, n_rows, c->n_embd);
    be->ops->soon(be, next_norm, c->n_embd);
    gate_up(net, layer, b->normed, b->gate, b->up, n_rows);
    const sala_linear_out down = {w->down, b->out, c->n_embd, w->down_bias};
    if (tape && tape->half && c->n_ff % 2 == 0 && !net->observer.fn) {
        net->grad->feed_down(be, &down, b->gate, b->up, tape->gate, tape->up, n_rows, c->n_ff);
    } else {
        if (tape && tape->half) {
            keep(net, tape->gate, b->gate, n_rows * c->n_ff);
            keep(net, tape->up, b->up, n_rows * c->n_ff);
        }
        be->ops->swiglu(be, b->mid, b->gate, b->up, n_rows, c->n_ff);
        observe(net, layer, SALA_OBSERVE_FFN_MID, b->mid, n_rows, c->n_ff);
        be->ops->linear_group(be, &down, 1, b->mid, n_rows, c->n_ff);
    }
    be->ops->add_norm(be, in_place ? b->normed : NULL, h_out, h_mid, b->out, r, next_norm, n_rows, c->n_embd, eps);
    observe(net, layer, SALA_OBSERVE_HIDDEN, h_out, n_rows, c->n_embd);
}

/* ---- backward ---- */

/* Rows of a slot of the tape, from row0 on. */
static const void *slot_rows(const sala_layer_tape *tape, const void *slot, int64_t row0, int64_t cols)
{
    const size_t element = tape->half ? sizeof(uint16_t) : sizeof(sala_act);
    return (const uint8_t *)slot + (size_t)(row0 * cols) * element;
}

/* From b->out and g->normed to g->d_normed, where the pass has 16-bit slots and the sums of biases need nothing f32. */
static void feed_half_back(const sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                           const sala_layer_grads *g, int64_t row0, int64_t n_rows)
{
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[layer];
    const int64_t n = n_rows * c->n_ff;
    const void *gate, *up;
    if (tape->gate) {
        gate = slot_rows(tape, tape->gate, row0, c->n_ff);
        up = slot_rows(tape, tape->up, row0, c->n_ff);
    } else { /* as they would have been kept, so that what is made again is the same */
        uint16_t *slots = (uint16_t *)(void *)g->d_up;
        gate_up(net, layer, g->normed, b->gate, b->up, n_rows);
        net->grad->keep(net->be, slots, b->gate, n);
        net->grad->keep(net->be, slots + n, b->up, n);
        gate = slots;
        up = slots + n;
    }
    const sala_feed_back_args args = {.gate = w->gate,
                                      .up = w->up,
                                      .down = {w->down, b->out, c->n_embd, sala_net_grad_of(net, w->down_bias)},
                                      .gate_slot = gate,
                                      .up_slot = up,
                                      .x = g->normed,
                                      .dx = g->d_normed,
                                      .d_mid = g->d_gate,
                                      .n_rows = n_rows,
                                      .n_ff = c->n_ff,
                                      .n_embd = c->n_embd};
    net->grad->feed_back(net->be, &args);
}

/* Rows [row0, row0 + n_rows) of the feed-forward part; g->d_h becomes the gradient of its input. */
static void feed_tile_back(const sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                           const sala_layer_grads *g, int64_t row0, int64_t n_rows)
{
    sala_backend *be = net->be;
    const sala_grad_ops *grad = net->grad;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[layer];
    const sala_act eps = (sala_act)c->rms_eps;
    const sala_act *h_mid = tape->h_mid + row0 * c->n_embd;
    sala_act *d_h = g->d_h + row0 * c->n_embd;

    grad->scale_to(be, b->out, d_h, (sala_act)c->residual_scale, n_rows, c->n_embd);
    be->ops->rms_norm(be, g->normed, h_mid, w->ffn_norm, n_rows, c->n_embd, eps);
    if (tape->half && c->n_ff % 2 == 0 && !w->gate_bias && !w->up_bias) {
        feed_half_back(net, layer, b, tape, g, row0, n_rows);
        grad->rms_norm_back(be, d_h, sala_net_grad_of(net, w->ffn_norm), g->d_normed, h_mid, w->ffn_norm, n_rows,
                            c->n_embd, eps, true);
        return;
    }
    const sala_act *gate = b->gate, *up = b->up;
    if (!tape->gate) {
        gate_up(net, layer, g->normed, b->gate, b->up, n_rows);
        if (tape->half) { /* as they would have been kept, so that what is made again is the same */
            grad->keep(be, g->d_gate, b->gate, n_rows * c->n_ff);
            grad->keep(be, g->d_up, b->up, n_rows * c->n_ff);
            grad->recall(be, b->gate, g->d_gate, n_rows * c->n_ff);
            grad->recall(be, b->up, g->d_up, n_rows * c->n_ff);
        }
    } else if (tape->half) {
        grad->recall(be, b->gate, slot_rows(tape, tape->gate, row0, c->n_ff), n_rows * c->n_ff);
        grad->recall(be, b->up, slot_rows(tape, tape->up, row0, c->n_ff), n_rows * c->n_ff);
    } else {
        gate = slot_rows(tape, tape->gate, row0, c->n_ff);
        up = slot_rows(tape, tape->up, row0, c->n_ff);
    }
    /* The product that `down` multiplied comes again with the derivative of its factors, so its matrix is served in two
     * halves: the gradient of the product before, that of the weights after. */
    const sala_linear_back down = {w->down, b->out, c->n_embd, sala_net_grad_of(net, w->down_bias)};
    grad->linear_group_back(be, &down, 1, g->d_gate, NULL, n_rows, c->n_ff, false);
    grad->swiglu_back(be, g->d_gate, g->d_up, g->mid, g->d_gate, gate, up, n_rows, c->n_ff);
    grad->linear_group_back(be, &down, 1, NULL, g->mid, n_rows, c->n_ff, false);
    const sala_linear_back outs[] = {{w->gate, g->d_gate, c->n_ff, sala_net_grad_of(net, w->gate_bias)},
                                     {w->up, g->d_up, c->n_ff, sala_net_grad_of(net, w->up_bias)}};
    grad->linear_group_back(be, outs, 2, g->d_normed, g->normed, n_rows, c->n_embd, false);
    grad->rms_norm_back(be, d_h, sala_net_grad_of(net, w->ffn_norm), g->d_normed, h_mid, w->ffn_norm, n_rows, c->n_embd,
                        eps, true);
}

void sala_layer_feed_back(sala_net *net, int layer, const sala_layer_buffers *b, const sala_layer_tape *tape,
                          const sala_layer_grads *g, int64_t n_rows)
{
    for (int64_t row0 = 0; row0 < n_rows; row0 += g->tile_rows)
        feed_tile_back(net, layer, b, tape, g, row0, sala_min_i64(g->tile_rows, n_rows - row0));
}

void sala_layer_mix_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const int64_t n = call->n_rows;
    const sala_act eps = (sala_act)c->rms_eps;
    net->grad->scale_to(be, call->b->out, g->d_h, (sala_act)c->residual_scale, n, c->n_embd);
    be->ops->rms_norm(be, g->normed, tape->h_in, w->attn_norm, n, c->n_embd, eps);
    sala_mixer_get(c->mixers[call->layer])->back(call, tape, g);
    net->grad->rms_norm_back(be, g->d_h, sala_net_grad_of(net, w->attn_norm), g->d_normed, tape->h_in, w->attn_norm, n,
                             c->n_embd, eps, true);
}

/* ---- what a layer costs ---- */

sala_tape_row sala_layer_tape_row(const sala_config *c, sala_mixer_kind kind, bool half, int states_every)
{
    const bool lightning = kind == SALA_MIXER_LIGHTNING;
    const size_t full = sizeof(sala_act), some = half ? sizeof(uint16_t) : full;
    const size_t q = (size_t)q_width(c, kind), kv = (size_t)kv_width(c, kind);
    const bool norm = lightning ? c->lightning.qk_norm : c->qk_norm;
    const bool gate = lightning ? c->lightning.gate : c->attn_gate;
    sala_tape_row row = {.h_in = (size_t)c->n_embd * full,
                         .h_mid = (size_t)c->n_embd * full,
                         .q_raw = norm ? q * some : 0,
                         .k_raw = norm ? kv * some : 0,
                         .q = norm ? 0 : q * some,
                         .k = norm ? 0 : kv * some,
                         .v = kv * some,
                         .core = q * some,
                         .mix_gate = gate ? q * some : 0,
                         .gate = (size_t)c->n_ff * some,
                         .up = (size_t)c->n_ff * some};
    if (lightning) {
        const size_t state = q * (size_t)c->lightning.head_dim * full;
        const size_t rows = SALA_LIGHTNING_CHUNK * (size_t)states_every;
        row.states = (state + rows - 1) / rows;
    } else {
        row.lse = (size_t)c->n_heads * full;
    }
    if (kind == SALA_MIXER_SPARSE)
        row.selection = (size_t)c->n_kv_heads * (size_t)(1 + sala_sparse_selected(&c->sparse)) * sizeof(int32_t);
    return row;
}

sala_layer_flops sala_layer_count_flops(const sala_config *c, int layer, double keys_seen)
{
    const sala_mixer_kind kind = c->mixers[layer];
    const bool lightning = kind == SALA_MIXER_LIGHTNING;
    const double d = c->n_embd, q = (double)q_width(c, kind), kv = (double)kv_width(c, kind);
    const bool gate = lightning ? c->lightning.gate : c->attn_gate;
    sala_layer_flops f = {.linear = 2 * d * ((gate ? 3 : 2) * q + 2 * kv + 3 * (double)c->n_ff)};
    if (lightning) {
        /* Half a chunk of scores and values, then a product with the state and one that makes it, for each head. */
        const double e = c->lightning.head_dim;
        f.attention = q * (2.0 * SALA_LIGHTNING_CHUNK + 4 * e);
        return f;
    }
    if (kind == SALA_MIXER_SPARSE && keys_seen > (double)c->sparse.dense_len)
        keys_seen = fmin(keys_seen, (double)sala_sparse_selected(&c->sparse) * c->sparse.block_size);
    if (c->sliding_window > 0)
        keys_seen = fmin(keys_seen, c->sliding_window);
    f.attention = 4 * keys_seen * q;
    return f;
}
