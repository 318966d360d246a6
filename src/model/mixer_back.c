/* What the backward passes of mixers share: everything around the core, which is norm and rotation of its inputs, norm
 * and gate of its output, and the projections. */
#include "model/layer.h"

const sala_act *sala_layer_recall(const sala_mixer_call *call, const sala_layer_tape *tape, const void *slot,
                                  sala_act *room, int64_t cols)
{
    if (!tape->half)
        return slot;
    call->net->grad->recall(call->net->be, room, slot, call->n_rows * cols);
    return room;
}

const sala_act *sala_mixer_turned(const sala_mixer_call *call, const sala_layer_tape *tape,
                                  const sala_mixer_heads *heads, const void *slot, const void *raw, sala_act *room)
{
    const int64_t cols = (int64_t)heads->n_heads * heads->head_dim;
    if (!raw)
        return sala_layer_recall(call, tape, slot, room, cols);
    sala_backend *be = call->net->be;
    if (tape->half)
        call->net->grad->recall(be, room, raw, call->n_rows * cols);
    else
        call->net->grad->scale_to(be, room, raw, 1, call->n_rows, cols);
    be->ops->rope(be, room, cols, heads->n_heads, heads->head_dim, call->n_rows, heads->turn);
    return room;
}

const sala_act *sala_mixer_out_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g,
                                    const sala_act *core, int64_t cols)
{
    const sala_net *net = call->net;
    sala_backend *be = net->be;
    const sala_grad_ops *grad = net->grad;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[call->layer];
    const sala_layer_buffers *b = call->b;
    const int64_t n = call->n_rows;
    const sala_act eps = (sala_act)c->rms_eps;

    const sala_act *normed = core, *mixed = core, *gate = NULL;
    if (w->mix_norm) {
        be->ops->rms_norm(be, g->q, core, w->mix_norm, n, cols, eps);
        mixed = normed = g->q;
    }
    if (w->mix_gate) {
        gate = sala_layer_recall(call, tape, tape->mix_gate, b->mix_gate, cols);
        be->ops->sigmoid_gate(be, g->mixed, normed, gate, n, cols);
        mixed = g->mixed;
    }
    const sala_linear_back o = {w->o, b->out, c->n_embd, sala_net_grad_of(net, w->o_bias)};
    grad->linear_group_back(be, &o, 1, g->d_mixed, mixed, n, cols, false);

    /* From here on the gradient goes back and forth between two rooms: no operation writes what it reads. */
    sala_act *d = g->d_mixed, *other = g->mixed;
    if (w->mix_gate) {
        grad->sigmoid_gate_back(be, other, g->d_mix_gate, d, normed, gate, n, cols);
        d = g->mixed;
        other = g->d_mixed;
    }
    if (w->mix_norm) {
        grad->rms_norm_back(be, other, sala_net_grad_of(net, w->mix_norm), d, core, w->mix_norm, n, cols, eps, false);
        d = other;
    }
    return d;
}

void sala_mixer_turn_back(const sala_mixer_call *call, const sala_layer_tape *tape, const sala_layer_grads *g,
                          const sala_mixer_heads *heads, sala_act *dx, const void *raw)
{
    const sala_net *net = call->net;
    const sala_rope_args *turn = heads->turn;
    const int64_t cols = (int64_t)heads->n_heads * heads->head_dim;
    if (!turn->n_rot && !turn->norm && !turn->row_scale)
        return;
    const sala_act *rows = raw ? sala_layer_recall(call, tape, raw, g->mixed, cols) : NULL;
    sala_act *d_norm = turn->norm ? (sala_act *)(uintptr_t)turn->norm + net->grad_offset : NULL;
    net->grad->rope_back(net->be, dx, d_norm, rows, cols, heads->n_heads, heads->head_dim, call->n_rows, turn);
}

void sala_mixer_project_back(const sala_mixer_call *call, const sala_layer_grads *g, int64_t q_cols, int64_t kv_cols)
{
    const sala_net *net = call->net;
    const sala_layer *w = &net->layers[call->layer];
    const sala_linear_back outs[] = {
        {w->q, g->dq, q_cols, sala_net_grad_of(net, w->q_bias)},
        {w->k, g->dk, kv_cols, sala_net_grad_of(net, w->k_bias)},
        {w->v, g->dv, kv_cols, sala_net_grad_of(net, w->v_bias)},
        {w->mix_gate, g->d_mix_gate, q_cols, sala_net_grad_of(net, w->mix_gate_bias)},
    };
    net->grad->linear_group_back(net->be, outs, w->mix_gate ? 4 : 3, g->d_normed, g->normed, call->n_rows,
                                 net->config->n_embd, false);
}
