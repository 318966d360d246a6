#include "train/mtp.h"

#include <stdlib.h>

sala_status sala_mtp_open(sala_mtp *m, const sala_run_config *run, const sala_params *params,
                          sala_weight *const *weights, sala_act *values, const sala_net *model, int64_t max_rows,
                          sala_error *err)
{
    const int block = run->shape.n_layers;
    sala_mtp_config_make(&m->config, &run->shape);
    m->weight = run->mtp_weight;
    m->next = calloc((size_t)max_rows, sizeof *m->next);
    m->labels = calloc((size_t)max_rows, sizeof *m->labels);
    sala_net_part *parts = calloc((size_t)params->count + 2, sizeof *parts);
    sala_status st = SALA_OK;
    int n = 0;
    if (!m->next || !m->labels || !parts) {
        st = sala_fail_memory(err, (uint64_t)max_rows * 2 * sizeof *m->next);
        goto out;
    }
    for (int i = 0; i < params->count; i++) {
        const sala_param *p = &params->items[i];
        sala_act *vector = values + p->at;
        if (p->layer == block && p->role < SALA_T_COUNT)
            parts[n++] = (sala_net_part){(sala_tensor_role)p->role, 0, weights[i], p->rows ? NULL : vector};
        else if (p->role == SALA_P_MTP_NORM)
            parts[n++] = (sala_net_part){SALA_T_OUT_NORM, 0, NULL, vector};
        else if (p->role == SALA_P_MTP_NORM_HIDDEN)
            m->norm_hidden = vector;
        else if (p->role == SALA_P_MTP_NORM_EMBED)
            m->norm_embed = vector;
        else if (p->role == SALA_P_MTP_PROJ_HIDDEN)
            m->proj_hidden = weights[i];
        else if (p->role == SALA_P_MTP_PROJ_EMBED)
            m->proj_embed = weights[i];
    }
    parts[n++] = (sala_net_part){SALA_T_EMBED, 0, model->embed, NULL};
    if (!run->shape.tied_head)
        parts[n++] = (sala_net_part){SALA_T_HEAD, 0, model->head, NULL};
    st = sala_net_open_parts(&m->net, &m->config.config, model->be, parts, n, max_rows, err);
    if (st == SALA_OK)
        st = sala_net_state_layout(&m->state, &m->config.config, SALA_F32, err);
    if (st == SALA_OK) {
        m->net->grad = model->grad;
        m->net->grad_offset = model->grad_offset;
    }
out:
    free(parts);
    return st;
}

void sala_mtp_close(sala_mtp *m)
{
    sala_net_close_parts(m->net);
    free(m->next);
    free(m->labels);
    *m = (sala_mtp){0};
}

/* The next token of each row and the one after it. */
static void shift(sala_mtp *m, const sala_batch *batch)
{
    for (int d = 0; d < batch->n_docs; d++) {
        const int32_t last = batch->doc_start[d + 1] - 1;
        for (int32_t i = batch->doc_start[d]; i < last; i++) {
            m->next[i] = batch->tokens[i + 1];
            m->labels[i] = batch->labels[i + 1];
        }
        m->next[last] = 0; /* read, but of no consequence */
        m->labels[last] = -1;
    }
}

int64_t sala_mtp_targets(const sala_batch *batch)
{
    int64_t n = 0;
    for (int d = 0; d < batch->n_docs; d++)
        for (int32_t i = batch->doc_start[d] + 1; i < batch->doc_start[d + 1]; i++)
            n += batch->labels[i] >= 0;
    return n;
}

/* h_in of the block. */
static void enter(const sala_mtp *m, const sala_tape *t, const sala_pass *p)
{
    sala_backend *be = m->net->be;
    const sala_backend_ops *ops = be->ops;
    const int64_t n = p->n_rows, d = m->config.config.n_embd;
    const sala_act eps = (sala_act)m->config.config.rms_eps;
    sala_act *h_in = t->layers[p->first].h_in, *normed = t->buffers.normed, *out = t->buffers.out;
    ops->get_rows(be, t->e_mtp, m->net->embed, m->next, n, 1);
    ops->rms_norm(be, normed, t->x_final, m->norm_hidden, n, d, eps);
    const sala_linear_out hidden = {m->proj_hidden, h_in, d, NULL}, embed = {m->proj_embed, out, d, NULL};
    ops->linear_group(be, &hidden, 1, normed, n, d);
    ops->rms_norm(be, normed, t->e_mtp, m->norm_embed, n, d, eps);
    ops->linear_group(be, &embed, 1, normed, n, d);
    ops->add_norm(be, NULL, h_in, h_in, out, 1, NULL, n, d, eps);
}

/* The gradient of h_in, in d_h, to the embedding and to t->d_final. */
static void enter_back(const sala_mtp *m, const sala_tape *t, const sala_pass *p)
{
    const sala_net *net = m->net;
    sala_backend *be = net->be;
    const sala_grad_ops *grad = net->grad;
    const int64_t n = p->n_rows, d = m->config.config.n_embd;
    const sala_act eps = (sala_act)m->config.config.rms_eps;
    const sala_layer_grads *g = &t->grads;
    sala_act *d_embed = t->buffers.out;
    const sala_linear_back hidden = {m->proj_hidden, g->d_h, d, NULL}, embed = {m->proj_embed, g->d_h, d, NULL};
    be->ops->rms_norm(be, g->normed, t->e_mtp, m->norm_embed, n, d, eps);
    grad->linear_group_back(be, &embed, 1, g->d_normed, g->normed, n, d, false);
    grad->rms_norm_back(be, d_embed, sala_net_grad_of(net, m->norm_embed), g->d_normed, t->e_mtp, m->norm_embed, n, d,
                        eps, false);
    grad->get_rows_back(be, net->embed, m->next, d_embed, n, 1);
    be->ops->rms_norm(be, g->normed, t->x_final, m->norm_hidden, n, d, eps);
    grad->linear_group_back(be, &hidden, 1, g->d_normed, g->normed, n, d, false);
    grad->rms_norm_back(be, t->d_final, sala_net_grad_of(net, m->norm_hidden), g->d_normed, t->x_final, m->norm_hidden,
                        n, d, eps, true);
}

void sala_mtp_run(sala_mtp *m, const sala_tape *t, const sala_pass *model, const sala_batch *batch,
                  sala_head_args *head, void (*done)(void *user, int slot), void *user)
{
    sala_net *net = m->net;
    sala_backend *be = net->be;
    const sala_layer_grads *g = &t->grads;
    const int64_t n = model->n_rows, d = m->config.config.n_embd;
    const sala_act eps = (sala_act)m->config.config.rms_eps;
    const bool back = head->dx != NULL;
    sala_pass pass = *model;
    pass.net = net;
    pass.state = &m->state;
    pass.first = model->net->config->n_layers;
    shift(m, batch);
    enter(m, t, &pass);
    sala_tape_forward(t, &pass, t->h_mtp);

    be->ops->rms_norm(be, g->normed, t->h_mtp, net->out_norm, n, d, eps);
    head->x = g->normed;
    head->dx = back ? g->d_normed : NULL;
    head->labels = m->labels;
    head->loss_scale = (sala_act)((double)head->loss_scale * m->weight);
    head->row_losses = NULL;
    head->zloss = 0; /* the model's own loss holds the head's logits together */
    net->grad->head_loss(be, head);
    if (!back)
        return;
    net->grad->rms_norm_back(be, g->d_h, sala_net_grad_of(net, net->out_norm), g->d_normed, t->h_mtp, net->out_norm, n,
                             d, eps, false);
    sala_tape_backward(t, &pass, NULL, NULL);
    enter_back(m, t, &pass);
    if (done)
        done(user, pass.first);
}
