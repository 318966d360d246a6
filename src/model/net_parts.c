/* A net without files: weights and vectors come from the caller, by role and layer. */
#include "model/net.h"

#include "kernels/kernels.h"
#include "model/mixer.h"

#include <math.h>
#include <stdlib.h>

enum { DECAYS = SALA_LIGHTNING_CHUNK + 1 };

/* Where a part belongs; NULL for both when the role has no place in a layer of this kind. */
typedef struct place {
    sala_weight **weight;
    sala_act **vector;
} place;

static place place_of(sala_net *net, sala_tensor_role role, int layer)
{
    if (role < SALA_T_FIRST_OF_LAYER) {
        switch (role) {
        case SALA_T_EMBED:
            return (place){&net->embed, NULL};
        case SALA_T_HEAD:
            return (place){&net->head, NULL};
        case SALA_T_OUT_NORM:
            return (place){NULL, &net->out_norm};
        default:
            return (place){NULL, NULL};
        }
    }
    sala_layer *w = &net->layers[layer];
    switch (role) {
    case SALA_T_ATTN_NORM:
        return (place){NULL, &w->attn_norm};
    case SALA_T_Q:
        return (place){&w->q, NULL};
    case SALA_T_K:
        return (place){&w->k, NULL};
    case SALA_T_V:
        return (place){&w->v, NULL};
    case SALA_T_O:
        return (place){&w->o, NULL};
    case SALA_T_Q_BIAS:
        return (place){NULL, &w->q_bias};
    case SALA_T_K_BIAS:
        return (place){NULL, &w->k_bias};
    case SALA_T_V_BIAS:
        return (place){NULL, &w->v_bias};
    case SALA_T_O_BIAS:
        return (place){NULL, &w->o_bias};
    case SALA_T_Q_NORM:
        return (place){NULL, &w->q_norm};
    case SALA_T_K_NORM:
        return (place){NULL, &w->k_norm};
    case SALA_T_ATTN_GATE:
    case SALA_T_LINEAR_GATE:
        return (place){&w->mix_gate, NULL};
    case SALA_T_LINEAR_GATE_BIAS:
        return (place){NULL, &w->mix_gate_bias};
    case SALA_T_MIX_NORM:
        return (place){NULL, &w->mix_norm};
    case SALA_T_FFN_NORM:
        return (place){NULL, &w->ffn_norm};
    case SALA_T_GATE:
        return (place){&w->gate, NULL};
    case SALA_T_UP:
        return (place){&w->up, NULL};
    case SALA_T_DOWN:
        return (place){&w->down, NULL};
    case SALA_T_GATE_BIAS:
        return (place){NULL, &w->gate_bias};
    case SALA_T_UP_BIAS:
        return (place){NULL, &w->up_bias};
    case SALA_T_DOWN_BIAS:
        return (place){NULL, &w->down_bias};
    default:
        return (place){NULL, NULL};
    }
}

static sala_status put_part(sala_net *net, const sala_net_part *part, sala_error *err)
{
    const sala_config *c = net->config;
    const bool of_layer = part->role >= SALA_T_FIRST_OF_LAYER;
    char name[96];
    if (of_layer && (part->layer < 0 || part->layer >= c->n_layers))
        return sala_fail(err, SALA_E_INVALID, "a part names layer %d; the model has layers 0 to %d", part->layer,
                         c->n_layers - 1);
    int64_t rows, cols;
    if (!sala_tensor_shape(c, part->role, part->layer, &rows, &cols))
        return sala_fail(err, SALA_E_INVALID, "a model of this configuration has no tensor \"%s\"",
                         sala_tensor_name(name, part->role, part->layer, true));
    const place p = place_of(net, part->role, part->layer);
    if ((p.weight && !part->weight) || (p.vector && !part->vector))
        return sala_fail(err, SALA_E_INVALID, "tensor \"%s\" comes as a %s; expected a %s",
                         sala_tensor_name(name, part->role, part->layer, true), p.weight ? "vector" : "matrix",
                         p.weight ? "matrix" : "vector");
    if (p.weight)
        *p.weight = part->weight;
    else
        *p.vector = part->vector;
    return SALA_OK;
}

static sala_status check_parts(sala_net *net, sala_error *err)
{
    const sala_config *c = net->config;
    for (int role = 0; role < SALA_T_COUNT; role++) {
        const int n = role < SALA_T_FIRST_OF_LAYER ? 1 : c->n_layers;
        for (int l = 0; l < n; l++) {
            int64_t rows, cols;
            if (!sala_tensor_shape(c, (sala_tensor_role)role, l, &rows, &cols))
                continue;
            const place p = place_of(net, (sala_tensor_role)role, l);
            char name[96];
            if (!(p.weight ? (const void *)*p.weight : (const void *)*p.vector))
                return sala_fail(err, SALA_E_INVALID, "tensor \"%s\" is missing among the parts",
                                 sala_tensor_name(name, (sala_tensor_role)role, l, true));
        }
    }
    if (c->tied_head)
        net->head = net->embed;
    return SALA_OK;
}

void sala_net_number_layers(sala_net *net)
{
    sala_state_layout so_far = {0};
    for (int l = 0; l < net->config->n_layers; l++) {
        sala_layer *w = &net->layers[l];
        w->attn_slot = so_far.n_attn;
        w->row_slot = so_far.n_sparse;
        w->linear_slot = so_far.linear.n_layers;
        sala_mixer_get(net->config->mixers[l])->plan(net->config, &so_far);
    }
}

void sala_net_fill_tables(sala_net *net)
{
    const sala_config *c = net->config;
    for (int h = 0; h < c->lightning.n_heads; h++)
        for (int i = 0; i < DECAYS; i++)
            net->decay[h * DECAYS + i] = (float)exp(-sala_lightning_slope(h, c->lightning.n_heads) * i);
    if (c->rope.kind != SALA_ROPE_NONE)
        for (int list = 0; list < 2; list++)
            net->rope_factor[list] = sala_rope_inv_freq(c, list == 1, net->inv_freq[list]);
}

static bool make_tables(sala_net *net, int64_t max_rows)
{
    const sala_config *c = net->config;
    const size_t half = (size_t)(c->rope.n_rot / 2 + 1), rows = (size_t)max_rows;
    net->rope_cos = calloc(rows * (half * 2 + 1) + (size_t)c->lightning.n_heads * DECAYS, sizeof(float));
    net->inv_freq[0] = calloc(half * 2, sizeof(double));
    if (!net->rope_cos || !net->inv_freq[0])
        return false;
    net->rope_sin = net->rope_cos + rows * half;
    net->row_scale = net->rope_sin + rows * half;
    net->decay = net->row_scale + rows;
    net->inv_freq[1] = net->inv_freq[0] + half;
    sala_net_fill_tables(net);
    return true;
}

sala_status sala_net_open_parts(sala_net **out, const sala_config *config, sala_backend *be, const sala_net_part *parts,
                                int n_parts, int64_t max_rows, sala_error *err)
{
    sala_net *net = calloc(1, sizeof *net);
    if (!net)
        return sala_fail_memory(err, sizeof *net);
    net->config = config;
    net->be = be;
    net->max_rows = max_rows;
    net->layers = calloc((size_t)config->n_layers, sizeof *net->layers);
    sala_status st = SALA_OK;
    if (!net->layers || !make_tables(net, max_rows))
        st = sala_fail_memory(err, (uint64_t)max_rows * (uint64_t)(config->rope.n_rot + 2) * sizeof(float));
    for (int i = 0; i < n_parts && st == SALA_OK; i++)
        st = put_part(net, &parts[i], err);
    if (st == SALA_OK)
        st = check_parts(net, err);
    if (st != SALA_OK) {
        sala_net_close_parts(net);
        return st;
    }
    sala_net_number_layers(net);
    *out = net;
    return SALA_OK;
}

void sala_net_close_parts(sala_net *net)
{
    if (!net)
        return;
    free(net->work);
    free(net->rope_cos);
    free(net->inv_freq[0]);
    free(net->layers);
    free(net);
}
