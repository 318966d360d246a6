/* From a source to a list of tensors to write. */
#include "quant/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

void sala_plan_close(sala_plan *p)
{
    free(p->items);
    for (int i = 0; i < p->n_made; i++)
        free(p->made[i]);
    sala_imatrix_close(p->imatrix);
    if (p->has_config)
        sala_config_free(&p->config);
    if (p->gguf)
        sala_gguf_close(p->gguf);
    if (p->st)
        sala_safetensors_close(p->st);
}

void sala_plan_notice(const sala_plan *p, const char *fmt, ...)
{
    if (!p->params->notice)
        return;
    char text[500];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->params->notice(p->params->notice_user, text);
}

sala_status sala_plan_add(sala_plan *p, sala_stream_item **item, const char *name, sala_error *err)
{
    if (p->n_items == p->cap) {
        const size_t cap = p->cap ? p->cap * 2 : 256;
        sala_stream_item *items = realloc(p->items, cap * sizeof *items);
        if (!items)
            return sala_fail_memory(err, cap * sizeof *items);
        p->items = items;
        p->cap = cap;
    }
    sala_stream_item *it = &p->items[p->n_items];
    *it = (sala_stream_item){.dtype = SALA_DTYPE_NONE};
    if (snprintf(it->name, sizeof it->name, "%s", name) >= (int)sizeof it->name)
        return sala_fail(err, SALA_E_LIMIT, "tensor name \"%.60s...\" is too long", name);
    p->n_items++;
    *item = it;
    return SALA_OK;
}

/* ---- Hugging Face directory ---- */

/* Hybrid models go wrong where the list of mixers and the tensors disagree. */
static const char *mixer_words(const sala_config *c, sala_tensor_role role, int layer)
{
    if (role < SALA_T_FIRST_OF_LAYER || sala_config_count(c, SALA_MIXER_LIGHTNING) == 0)
        return "";
    return c->mixers[layer] == SALA_MIXER_LIGHTNING ? " (mixer_types makes this layer a linear one)"
                                                    : " (mixer_types makes this layer a softmax one)";
}

static sala_status add_role(sala_plan *p, sala_tensor_role role, int layer, sala_error *err)
{
    const sala_config *c = &p->config;
    int64_t rows, cols;
    char name[96], ours[96];
    if (!sala_tensor_shape(c, role, layer, &rows, &cols))
        return SALA_OK;
    const sala_tensor *t = sala_safetensors_tensor(p->st, sala_tensor_name(name, role, layer, true));
    if (!t)
        return sala_fail(err, SALA_E_NOT_FOUND, "the checkpoint lacks tensor \"%s\", which its config.json implies%s",
                         name, mixer_words(c, role, layer));
    const int n_dims = rows > 0 ? 2 : 1;
    if (t->n_dims != n_dims || t->ne[0] != cols || (n_dims == 2 && t->ne[1] != rows))
        return sala_fail(err, SALA_E_CORRUPT,
                         "tensor \"%s\" has %d dimensions, %" PRId64 " x %" PRId64 ", but config.json implies %" PRId64
                         " x %" PRId64 "%s",
                         name, t->n_dims, t->n_dims > 1 ? t->ne[1] : 1, t->ne[0], rows > 0 ? rows : 1, cols,
                         mixer_words(c, role, layer));
    if (t->dtype != SALA_F32 && t->dtype != SALA_F16 && t->dtype != SALA_BF16)
        return sala_fail(err, SALA_E_UNSUPPORTED, "tensor \"%s\" has type %s, expected F32, F16 or BF16", name,
                         sala_dtype_name(t->dtype));
    sala_stream_item *item = NULL;
    TRY(sala_plan_add(p, &item, sala_tensor_name(ours, role, layer, false), err));
    item->src = t;
    item->n_dims = n_dims;
    item->ne[0] = cols;
    item->ne[1] = rows;
    if (p->family->gguf_permuted &&
        (role == SALA_T_Q || role == SALA_T_K || role == SALA_T_Q_BIAS || role == SALA_T_K_BIAS)) {
        if (c->rope.n_rot != c->head_dim)
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "rope turns %" PRId32 " of %" PRId32 " components; GGUF has no order of rows for that",
                             c->rope.n_rot, c->head_dim);
        item->order = SALA_ROWS_TO_GGUF;
        item->head_rows = c->head_dim;
    }
    return SALA_OK;
}

static sala_status add_made(sala_plan *p, const char *name, int32_t n, float **values, sala_error *err)
{
    sala_stream_item *item = NULL;
    TRY(sala_plan_add(p, &item, name, err));
    float *v = malloc((size_t)n * sizeof *v);
    if (!v)
        return sala_fail_memory(err, (uint64_t)n * sizeof *v);
    p->made[p->n_made++] = v;
    item->values = *values = v;
    item->n_dims = 1;
    item->ne[0] = n;
    return SALA_OK;
}

sala_status sala_plan_add_rope_factors(sala_plan *p, sala_error *err)
{
    const sala_rope_config *r = &p->config.rope;
    const int32_t n = r->n_rot / 2;
    char name[96];
    float *v = NULL;
    if (r->kind == SALA_ROPE_LLAMA3) {
        TRY(add_made(p, sala_tensor_name(name, SALA_T_ROPE_FREQS, -1, false), n, &v, err));
        double *inv = malloc((size_t)n * sizeof *inv);
        if (!inv)
            return sala_fail_memory(err, (uint64_t)n * sizeof *inv);
        (void)sala_rope_inv_freq(&p->config, false, inv);
        for (int32_t i = 0; i < n; i++)
            v[i] = (float)(pow(r->theta, -2.0 * i / r->n_rot) / inv[i]);
        free(inv);
    } else if (r->kind == SALA_ROPE_LONGROPE) {
        if (r->n_factors != n)
            return sala_fail(err, SALA_E_CORRUPT, "%" PRId32 " rope factors, expected %" PRId32, r->n_factors, n);
        TRY(add_made(p, sala_tensor_name(name, SALA_T_ROPE_LONG, -1, false), n, &v, err));
        memcpy(v, r->long_factors, (size_t)n * sizeof *v);
        TRY(add_made(p, sala_tensor_name(name, SALA_T_ROPE_SHORT, -1, false), n, &v, err));
        memcpy(v, r->short_factors, (size_t)n * sizeof *v);
    }
    return SALA_OK;
}

/* What a checkpoint may hold besides the weights of the model, without a word: tables that are computed anyway, and the
 * head of tied models, which some writers store. */
static bool is_known_extra(const sala_plan *p, const char *name)
{
    return strstr(name, "rotary_emb.inv_freq") || (p->config.tied_head && strcmp(name, "lm_head.weight") == 0);
}

static void notice_extras(const sala_plan *p)
{
    const sala_tensor_list all = sala_safetensors_tensors(p->st);
    int n = 0;
    const char *first = NULL;
    for (size_t i = 0; i < all.count; i++) {
        sala_tensor_role role;
        int layer;
        int64_t rows, cols;
        const char *name = all.items[i].name;
        const bool ours = sala_tensor_role_of(name, true, &role, &layer) && layer < p->config.n_layers &&
                          sala_tensor_shape(&p->config, role, layer, &rows, &cols);
        if (!ours && !is_known_extra(p, name)) {
            first = first ? first : name;
            n++;
        }
    }
    if (n > 0)
        sala_plan_notice(p, "%d tensor%s of the checkpoint left out, which this architecture does not use: \"%s\"%s", n,
                         n == 1 ? "" : "s", first, n > 1 ? ", ..." : "");
}

sala_status sala_plan_from_dir(sala_plan *p, const char *dir, sala_error *err)
{
    TRY(sala_config_from_dir(&p->config, dir, err));
    p->has_config = true;
    p->family = sala_family_by_name(p->config.architecture);
    if (!p->family)
        return sala_fail(err, SALA_E_UNSUPPORTED, "architecture \"%s\" is not supported, expected one of: %s",
                         p->config.architecture, sala_family_names());
    if (p->config.quant_method[0])
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "the checkpoint is quantised by \"%s\"; converting needs one with plain weights",
                         p->config.quant_method);
    TRY(sala_safetensors_open(&p->st, dir, err));
    TRY(sala_config_fit_lightning(&p->config, p->st, err));
    TRY(add_role(p, SALA_T_EMBED, -1, err));
    TRY(sala_plan_add_rope_factors(p, err));
    for (int layer = 0; layer < p->config.n_layers; layer++)
        for (int role = SALA_T_FIRST_OF_LAYER; role < SALA_T_COUNT; role++)
            TRY(add_role(p, (sala_tensor_role)role, layer, err));
    TRY(add_role(p, SALA_T_OUT_NORM, -1, err));
    TRY(add_role(p, SALA_T_HEAD, -1, err));
    notice_extras(p);
    return SALA_OK;
}

/* ---- GGUF ---- */

/* Any GGUF is copied as it is; of our own hybrid models the list of layers is held against the tensors. */
static sala_status check_hybrid(const sala_gguf *g, sala_error *err)
{
    const char *s;
    size_t len;
    char arch[64];
    sala_config c;
    if (!sala_gguf_get_str(g, "general.architecture", &s, &len) || len >= sizeof arch)
        return SALA_OK;
    snprintf(arch, sizeof arch, "%.*s", (int)len, s);
    const sala_family *family = sala_family_by_name(arch);
    if (!family || !family->hybrid)
        return SALA_OK;
    TRY(sala_config_from_gguf(&c, g, err));
    const sala_status st = sala_config_check_tensors(&c, g, NULL, err);
    sala_config_free(&c);
    return st;
}

sala_status sala_plan_from_gguf(sala_plan *p, const char *path, sala_error *err)
{
    TRY(sala_gguf_open(&p->gguf, path, err));
    const sala_tensor_list all = sala_gguf_tensors(p->gguf);
    if (all.count == 0)
        return sala_fail(err, SALA_E_INVALID, "%s holds no tensors, only metadata", path);
    const sala_status st = check_hybrid(p->gguf, err);
    if (st != SALA_OK)
        return sala_fail_prefix(err, st, "%s", path);
    for (size_t i = 0; i < all.count; i++) {
        const sala_tensor *t = &all.items[i];
        sala_stream_item *item = NULL;
        TRY(sala_plan_add(p, &item, t->name, err));
        item->src = t;
        item->n_dims = t->n_dims;
        memcpy(item->ne, t->ne, sizeof item->ne);
    }
    return SALA_OK;
}

/* ---- types ---- */

static int64_t gguf_number(const sala_gguf *g, const char *arch, const char *key, int64_t fallback)
{
    char name[200];
    int64_t v;
    snprintf(name, sizeof name, "%s.%s", arch, key);
    const sala_gguf_kv *kv = sala_gguf_find(g, name);
    if (kv && kv->type == SALA_GGUF_ARRAY)
        return sala_gguf_array_i64(kv, 0, &v) ? v : fallback;
    return sala_gguf_get_i64(g, name, &v) ? v : fallback;
}

static void describe(const sala_plan *p, sala_recipe_model *m, char arch[64])
{
    *m = (sala_recipe_model){.architecture = arch, .tied = true, .has_importance = p->imatrix != NULL};
    if (p->gguf) {
        const char *s;
        size_t len;
        arch[0] = 0;
        if (sala_gguf_get_str(p->gguf, "general.architecture", &s, &len))
            snprintf(arch, 64, "%.*s", (int)(len < 63 ? len : 63), s);
        m->n_layers = gguf_number(p->gguf, arch, "block_count", 0);
        m->n_heads = gguf_number(p->gguf, arch, "attention.head_count", 0);
        m->n_kv_heads = gguf_number(p->gguf, arch, "attention.head_count_kv", m->n_heads);
    } else {
        snprintf(arch, 64, "%s", p->config.architecture);
        m->n_layers = p->config.n_layers;
        m->n_heads = p->config.n_heads;
        m->n_kv_heads = p->config.n_kv_heads;
    }
    for (size_t i = 0; i < p->n_items; i++) {
        const char *name = p->items[i].name;
        if (strcmp(name, "output.weight") == 0)
            m->tied = false;
        m->n_attn_v +=
            strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight") || strstr(name, "attn_kv_b.weight");
    }
}

static sala_status attach_importance(sala_plan *p, sala_stream_item *item, sala_error *err)
{
    int64_t n;
    const float *v = sala_imatrix_find(p->imatrix, item->name, &n);
    if (!v)
        return SALA_OK;
    if (n != item->ne[0])
        return sala_fail(err, SALA_E_CORRUPT,
                         "the importance matrix has %" PRId64 " columns for \"%s\", the model %" PRId64
                         "; was it made from another model?",
                         n, item->name, item->ne[0]);
    item->importance = v;
    p->n_importance++;
    return SALA_OK;
}

static bool is_ternary_type(sala_dtype t)
{
    return t == SALA_TQ1_0 || t == SALA_TQ2_0;
}

/* Looks at `limit` rows (0: all). */
static sala_status detect(sala_ternary *t, const sala_stream_item *item, int64_t limit, sala_error *err)
{
    const int64_t row = sala_stream_row_weights(item), n_rows = sala_stream_n_rows(item);
    const int64_t n = limit > 0 && limit < n_rows ? limit : n_rows;
    float *x = malloc((size_t)row * sizeof *x);
    if (!x)
        return sala_fail_memory(err, (uint64_t)row * sizeof *x);
    *t = sala_ternary_start(row);
    for (int64_t r = 0; r < n && t->ternary; r++) {
        sala_stream_rows(item, x, r, 1);
        sala_ternary_rows(t, x, 1, row);
    }
    sala_ternary_end(t, row);
    free(x);
    return SALA_OK;
}

/* A ternary type keeps ternary weights exactly and turns any others into noise. */
static sala_status check_ternary(const sala_plan *p, const sala_stream_item *item, sala_error *err)
{
    sala_ternary t;
    if (is_ternary_type(item->src->dtype))
        return SALA_OK;
    if (!sala_dequant_has(item->src->dtype))
        return SALA_OK; /* the stream says so in its own words */
    TRY(detect(&t, item, 0, err));
    if (t.ternary && t.best == SALA_TQ2_0)
        return SALA_OK;
    if (t.ternary && !p->params->force)
        return sala_fail(err, SALA_E_INVALID,
                         "tensor \"%s\" is ternary in groups of %" PRId64
                         ", and %s has one scale for 256 weights: it would change them. %s keeps them exactly; to "
                         "round all the same, force it",
                         item->src->name, t.group, sala_dtype_name(item->dtype), sala_dtype_name(t.best));
    if (!p->params->force)
        return sala_fail(err, SALA_E_INVALID,
                         "tensor \"%s\" is not ternary: %s is only for models trained with ternary weights, others "
                         "turn into noise. Use Q2_K or Q4_K_M; to round all the same, force it",
                         item->src->name, sala_dtype_name(item->dtype));
    return SALA_OK;
}

static bool is_coarse(sala_dtype t)
{
    return sala_dtype_get((int)t)->is_quantized && t != SALA_Q8_0 && t != SALA_Q6_K;
}

static sala_status check_sources(const sala_plan *p, sala_error *err)
{
    sala_dtype coarse = SALA_DTYPE_NONE;
    bool told = false;
    for (size_t i = 0; i < p->n_items; i++) {
        const sala_stream_item *it = &p->items[i];
        if (!it->src)
            continue;
        if (is_ternary_type(it->dtype))
            TRY(check_ternary(p, it, err));
        if (it->dtype != it->src->dtype && is_coarse(it->src->dtype) && sala_dtype_get((int)it->dtype)->is_quantized)
            coarse = it->src->dtype;
        /* The first projection speaks for the checkpoint; a few rows of ordinary weights settle it at once. */
        if (p->st && !told && it->n_dims == 2 && strcmp(it->name, "blk.0.attn_q.weight") == 0) {
            sala_ternary t;
            TRY(detect(&t, it, 64, err));
            if (t.ternary && !is_ternary_type(it->dtype) && t.best != SALA_F32 && t.best != SALA_F16)
                sala_plan_notice(p,
                                 "the weights are ternary in groups of %" PRId64 ": --type %s keeps them exactly in "
                                 "less space",
                                 t.group, sala_dtype_name(t.best));
            told = true;
        }
    }
    if (coarse != SALA_DTYPE_NONE && !p->params->force)
        sala_plan_notice(p, "the source was rounded to %s before; rounding the original again would be more accurate",
                         sala_dtype_name(coarse));
    return SALA_OK;
}

static sala_status choose_all(sala_plan *p, const sala_recipe_plan *rp, sala_error *err)
{
    char arch[64];
    sala_recipe_model m;
    describe(p, &m, arch);
    for (size_t i = 0; i < p->n_items; i++) {
        sala_stream_item *it = &p->items[i];
        bool fallback = false;
        const sala_dtype own = it->src ? it->src->dtype : SALA_F32;
        sala_dtype t = SALA_DTYPE_NONE;
        if (p->recipe != SALA_RECIPE_NONE)
            t = sala_recipe_choose(rp, &m, it->name, it->n_dims, it->ne[0], &fallback);
        /* Vectors of a checkpoint are F32 in GGUF, whatever they were; tensors that keep their type keep it. */
        if (t == SALA_DTYPE_NONE)
            t = p->st && (it->n_dims < 2 || p->recipe != SALA_RECIPE_NONE) ? SALA_F32 : own;
        it->dtype = t;
        p->n_fallback += fallback;
        if (p->imatrix && it->n_dims == 2)
            TRY(attach_importance(p, it, err));
    }
    return SALA_OK;
}

sala_status sala_plan_types(sala_plan *p, sala_error *err)
{
    sala_recipe_plan *rp = NULL;
    if (p->params->imatrix) {
        TRY(sala_imatrix_open(&p->imatrix, p->params->imatrix, err));
        if (p->recipe == SALA_RECIPE_NONE)
            sala_plan_notice(p, "the importance matrix has no effect, because no type was chosen");
    }
    if (p->recipe != SALA_RECIPE_NONE)
        TRY(sala_recipe_plan_open(&rp, p->params, p->recipe, err));
    else if (p->params->n_tensor_types > 0 || p->params->output_type || p->params->embedding_type || p->params->pure)
        return sala_fail(err, SALA_E_INVALID, "types of single tensors need a type for the rest");
    sala_status st = choose_all(p, rp, err);
    sala_recipe_plan_close(rp);
    if (st == SALA_OK)
        st = check_sources(p, err);
    if (st == SALA_OK && p->imatrix && p->recipe != SALA_RECIPE_NONE && p->n_importance == 0)
        st = sala_fail(err, SALA_E_INVALID,
                       "the importance matrix covers none of the model's tensors; was it made from another model?");
    if (st == SALA_OK && p->recipe == SALA_RECIPE_Q2_K_S && !p->imatrix)
        sala_plan_notice(p, "Q2_K_S without an importance matrix loses much; Q2_K is the safer choice");
    return st;
}

void sala_plan_result(const sala_plan *p, sala_quant_result *result)
{
    uint64_t weights[64] = {0}, most = 0;
    sala_dtype top = SALA_F32;
    for (size_t i = 0; i < p->n_items; i++) {
        const sala_stream_item *it = &p->items[i];
        const uint64_t n = (uint64_t)(sala_stream_n_rows(it) * sala_stream_row_weights(it));
        result->in_bytes += sala_stream_in_bytes(it);
        result->out_bytes += sala_stream_out_bytes(it);
        result->n_weights += n;
        if ((unsigned)it->dtype < 64 && (weights[it->dtype] += n) > most) {
            most = weights[it->dtype];
            top = it->dtype;
        }
    }
    result->n_tensors = (int)p->n_items;
    result->n_fallback = p->n_fallback;
    result->n_importance = p->n_importance;
    snprintf(result->main_type, sizeof result->main_type, "%s",
             p->recipe != SALA_RECIPE_NONE ? sala_recipe_name(p->recipe) : sala_dtype_name(top));
}
