#include "train/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ALIGN = 16 };

void sala_mtp_config_make(sala_mtp_config *out, const sala_config *shape)
{
    out->config = *shape;
    out->mixer = SALA_MIXER_DENSE;
    sala_config *c = &out->config;
    /* One block more shares the residual stream's depth. */
    if (shape->residual_scale != 1)
        c->residual_scale = shape->residual_scale * sqrt((double)shape->n_layers / (shape->n_layers + 1));
    if (sala_config_count(shape, SALA_MIXER_LIGHTNING) == shape->n_layers)
        c->attn_rope = true; /* no softmax layer says otherwise */
    c->n_layers = 1;
    c->mixers = &out->mixer;
    c->sparse = (sala_sparse_config){0};
    c->lightning = (sala_lightning_config){0};
    c->attn_scale_base = 0;
}

/* ---- classes: muP's table, or that of plain models ---- */

static sala_param_class class_of(int role, int64_t rows)
{
    if (rows == 0)
        return SALA_PARAM_VECTOR;
    return role == SALA_T_EMBED ? SALA_PARAM_EMBED : role == SALA_T_HEAD ? SALA_PARAM_HEAD : SALA_PARAM_HIDDEN;
}

static bool is_norm(int role)
{
    switch (role) {
    case SALA_T_OUT_NORM:
    case SALA_T_ATTN_NORM:
    case SALA_T_FFN_NORM:
    case SALA_T_Q_NORM:
    case SALA_T_K_NORM:
    case SALA_T_MIX_NORM:
    case SALA_P_MTP_NORM_HIDDEN:
    case SALA_P_MTP_NORM_EMBED:
    case SALA_P_MTP_NORM:
        return true;
    default:
        return false;
    }
}

/* Standard deviation of the first values; of vectors, which are constant, 0. */
static double init_std(const sala_run_config *run, const sala_param *p)
{
    if (p->class == SALA_PARAM_VECTOR)
        return 0;
    const sala_config *c = &run->shape;
    if (run->mup)
        return run->init_std / sqrt(c->n_embd / run->dim_model_base);
    /* Without muP's residual scale, what is added to the stream shrinks with the depth. */
    const bool adds = p->role == SALA_T_O || p->role == SALA_T_DOWN;
    return adds ? run->initializer_range / sqrt(2.0 * c->n_layers) : run->initializer_range;
}

static double lr_factor(const sala_run_config *run, const sala_param *p)
{
    const double asked[SALA_N_PARAM_CLASSES] = {[SALA_PARAM_EMBED] = run->lr_embed,
                                                [SALA_PARAM_HEAD] = run->lr_head,
                                                [SALA_PARAM_HIDDEN] = run->lr_hidden,
                                                [SALA_PARAM_VECTOR] = run->lr_vector};
    const bool narrow = run->mup && p->class != SALA_PARAM_VECTOR;
    return asked[p->class] * (narrow ? run->dim_model_base / run->shape.n_embd : 1);
}

/* ---- the list ---- */

typedef struct planner {
    sala_params *p;
    const sala_run_config *run;
    int room;
    sala_error *err;
} planner;

static sala_status add(planner *pl, const char *name, int role, int layer, int64_t rows, int64_t cols)
{
    sala_params *p = pl->p;
    if (p->count == pl->room) {
        const int room = pl->room ? 2 * pl->room : 64;
        sala_param *more = realloc(p->items, (size_t)room * sizeof *more);
        if (!more)
            return sala_fail_memory(pl->err, (uint64_t)room * sizeof *more);
        p->items = more;
        pl->room = room;
    }
    uint64_t count;
    if (!sala_mul_size(&count, rows ? (uint64_t)rows : 1, (uint64_t)cols) || count > UINT64_MAX / 64 - p->n_elements)
        return sala_fail(pl->err, SALA_E_INVALID, "tensor \"%s\" would have %lld x %lld weights", name, (long long)rows,
                         (long long)cols);
    sala_param *q = &p->items[p->count++];
    *q = (sala_param){.role = role, .layer = layer, .rows = rows, .cols = cols, .at = p->n_elements, .count = count};
    snprintf(q->name, sizeof q->name, "%s", name);
    q->class = class_of(role, rows);
    q->init_std = init_std(pl->run, q);
    q->lr_factor = lr_factor(pl->run, q);
    q->decay = q->class == SALA_PARAM_VECTOR ? 0 : pl->run->weight_decay;
    p->n_weights += count;
    p->n_elements += (count + ALIGN - 1) / ALIGN * ALIGN;
    return SALA_OK;
}

static sala_status add_role(planner *pl, sala_tensor_role role, int layer)
{
    int64_t rows, cols;
    if (!sala_tensor_shape(&pl->run->shape, role, layer, &rows, &cols))
        return SALA_OK;
    char name[96];
    sala_tensor_name(name, role, layer, true);
    return add(pl, name, role, role < SALA_T_FIRST_OF_LAYER ? -1 : layer, rows, cols);
}

static void end_bucket(planner *pl)
{
    sala_params *p = pl->p;
    p->bucket_begin[++p->n_buckets] = p->n_elements;
}

static sala_status add_mtp(planner *pl)
{
    const sala_config *c = &pl->run->shape;
    const struct {
        const char *name;
        int role;
        int64_t rows;
    } own[] = {{"mtp.norm", SALA_P_MTP_NORM, 0},
               {"mtp.norm_h", SALA_P_MTP_NORM_HIDDEN, 0},
               {"mtp.norm_e", SALA_P_MTP_NORM_EMBED, 0},
               {"mtp.proj_h", SALA_P_MTP_PROJ_HIDDEN, c->n_embd},
               {"mtp.proj_e", SALA_P_MTP_PROJ_EMBED, c->n_embd}};
    sala_status st = SALA_OK;
    for (size_t i = 0; i < SALA_ARRAY_LEN(own) && st == SALA_OK; i++)
        st = add(pl, own[i].name, own[i].role, c->n_layers, own[i].rows, c->n_embd);
    sala_mtp_config m;
    sala_mtp_config_make(&m, c);
    for (int r = SALA_T_FIRST_OF_LAYER; r < SALA_T_COUNT && st == SALA_OK; r++) {
        int64_t rows, cols;
        if (!sala_tensor_shape(&m.config, (sala_tensor_role)r, 0, &rows, &cols))
            continue;
        char plain[96], name[96];
        sala_tensor_name(plain, (sala_tensor_role)r, 0, true);
        snprintf(name, sizeof name, "mtp.layer.%s", plain + strlen("model.layers.0."));
        st = add(pl, name, r, c->n_layers, rows, cols);
    }
    end_bucket(pl);
    return st;
}

static sala_status add_all(planner *pl)
{
    const sala_config *c = &pl->run->shape;
    sala_status st = pl->run->mtp_depth > 0 ? add_mtp(pl) : SALA_OK;
    for (int l = c->n_layers - 1; l >= 0 && st == SALA_OK; l--) {
        for (int r = SALA_T_FIRST_OF_LAYER; r < SALA_T_COUNT && st == SALA_OK; r++)
            st = add_role(pl, (sala_tensor_role)r, l);
        end_bucket(pl);
    }
    if (st == SALA_OK)
        st = add_role(pl, SALA_T_OUT_NORM, 0);
    if (st == SALA_OK)
        st = add_role(pl, SALA_T_HEAD, 0);
    if (!c->tied_head) /* a norm alone is not worth a message */
        end_bucket(pl);
    if (st == SALA_OK)
        st = add_role(pl, SALA_T_EMBED, 0);
    end_bucket(pl);
    return st;
}

sala_status sala_params_plan(sala_params *out, const sala_run_config *run, sala_error *err)
{
    sala_params p = {0};
    planner pl = {.p = &p, .run = run, .err = err};
    const size_t buckets = (size_t)run->shape.n_layers + 4;
    p.bucket_begin = calloc(buckets, sizeof *p.bucket_begin);
    sala_status st = p.bucket_begin ? add_all(&pl) : sala_fail_memory(err, buckets * sizeof *p.bucket_begin);
    if (st != SALA_OK)
        sala_params_free(&p);
    else
        *out = p;
    return st;
}

void sala_params_free(sala_params *p)
{
    free(p->items);
    free(p->bucket_begin);
    *p = (sala_params){0};
}

const sala_param *sala_params_find(const sala_params *p, int role, int layer)
{
    for (int i = 0; i < p->count; i++)
        if (p->items[i].role == role && (p->items[i].layer == layer || p->items[i].layer < 0))
            return &p->items[i];
    return NULL;
}

bool sala_param_starts_at_one(const sala_param *p)
{
    return is_norm(p->role);
}
