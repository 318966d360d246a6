#include "model/mixer.h"

const sala_mixer *sala_mixer_get(sala_mixer_kind kind)
{
    static const sala_mixer *const all[] = {
        [SALA_MIXER_DENSE] = &sala_mixer_dense,
        [SALA_MIXER_SPARSE] = &sala_mixer_sparse,
        [SALA_MIXER_LIGHTNING] = &sala_mixer_lightning,
    };
    return all[kind];
}

void sala_mixer_observe(const sala_mixer_call *call, sala_observe_point point, const sala_act *x, int64_t n)
{
    const sala_observer *o = &call->net->observer;
    if (o->fn)
        o->fn(o->user, call->layer, point, x, call->n_rows, n);
}

sala_status sala_net_state_layout(sala_state_layout *out, const sala_config *c, sala_dtype kv, sala_error *err)
{
    sala_state_layout layout = {.dtype = kv, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
    sala_status st = SALA_OK;
    if (c->lightning.n_heads > 0)
        st = sala_linear_layout_init(&layout.linear, 0, c->lightning.n_heads, c->lightning.n_kv_heads,
                                     c->lightning.head_dim, err);
    for (int32_t l = 0; l < c->n_layers; l++)
        sala_mixer_get(c->mixers[l])->plan(c, &layout);
    if (st == SALA_OK && layout.linear.n_layers > 0)
        st = sala_linear_layout_init(&layout.linear, layout.linear.n_layers, c->lightning.n_heads,
                                     c->lightning.n_kv_heads, c->lightning.head_dim, err);
    if (st == SALA_OK)
        st = sala_state_layout_finish(&layout, err);
    if (st == SALA_OK)
        *out = layout;
    return st;
}
