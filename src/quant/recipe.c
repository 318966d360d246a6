/* Recipes: more bits for the tensors whose errors hurt most. The rules are those of llama.cpp's quantizer, which users
 * know by the names Q4_K_M and so on, so that a file made here has the same types tensor by tensor. */
#include "quant/recipe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static const struct {
    const char *name;
    sala_dtype dtype;
    int file_type;
} recipes[] = {
#define X(name, dtype, file_type) {#name, SALA_##dtype, file_type},
    SALA_RECIPE_LIST(X)
#undef X
};

sala_recipe sala_recipe_by_name(const char *name)
{
    static const struct {
        const char *name;
        sala_recipe recipe;
    } short_names[] = {{"Q3_K", SALA_RECIPE_Q3_K_M}, {"Q4_K", SALA_RECIPE_Q4_K_M}, {"Q5_K", SALA_RECIPE_Q5_K_M}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(recipes); i++)
        if (strcasecmp(recipes[i].name, name) == 0)
            return (sala_recipe)i;
    for (size_t i = 0; i < SALA_ARRAY_LEN(short_names); i++)
        if (strcasecmp(short_names[i].name, name) == 0)
            return short_names[i].recipe;
    return SALA_RECIPE_NONE;
}

static bool known(sala_recipe recipe)
{
    return (int)recipe >= 0 && (size_t)recipe < SALA_ARRAY_LEN(recipes);
}

const char *sala_recipe_name(sala_recipe recipe)
{
    return known(recipe) ? recipes[recipe].name : "?";
}

sala_dtype sala_recipe_dtype(sala_recipe recipe)
{
    return known(recipe) ? recipes[recipe].dtype : SALA_DTYPE_NONE;
}

int sala_recipe_file_type(sala_recipe recipe)
{
    return known(recipe) ? recipes[recipe].file_type : -1;
}

const char *sala_recipe_names(void)
{
    return "F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, "
           "Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_K_S, TQ2_0, TQ1_0";
}

/* ---- overrides ---- */

typedef struct override {
    pcre2_code *pattern;
    sala_dtype dtype;
} override;

struct sala_recipe_plan {
    sala_recipe recipe;
    bool pure;
    sala_dtype output, embedding; /* SALA_DTYPE_NONE: as the recipe says */
    override *overrides;
    int n_overrides;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

void sala_recipe_plan_close(sala_recipe_plan *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_overrides; i++)
        pcre2_code_free(p->overrides[i].pattern);
    free(p->overrides);
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    free(p);
}

static sala_status parse_dtype(sala_dtype *out, const char *name, const char *what, sala_error *err)
{
    const sala_dtype t = sala_dtype_by_name(name);
    if (t == SALA_DTYPE_NONE || !sala_quantize_has(t))
        return sala_fail(err, SALA_E_INVALID,
                         "%s: \"%.40s\" is not a type that can be written; use F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, "
                         "Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K, Q2_K, TQ2_0 or TQ1_0",
                         what, name);
    *out = t;
    return SALA_OK;
}

static sala_status parse_override(override *out, const char *text, sala_error *err)
{
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || strlen(text) > 1000)
        return sala_fail(err, SALA_E_INVALID, "tensor type \"%.80s\": expected PATTERN=TYPE, e.g. attn_v=q8_0", text);
    sala_dtype dtype = SALA_DTYPE_NONE;
    const sala_status st = parse_dtype(&dtype, equals + 1, text, err);
    if (st != SALA_OK)
        return st;
    int code;
    PCRE2_SIZE at;
    out->pattern =
        pcre2_compile((PCRE2_SPTR)text, (PCRE2_SIZE)(equals - text), PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    if (!out->pattern) {
        char why[120];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return sala_fail_at(err, SALA_E_INVALID, (int64_t)at, "tensor type \"%.80s\": %s", text, why);
    }
    out->dtype = dtype;
    return SALA_OK;
}

sala_status sala_recipe_plan_open(sala_recipe_plan **out, const sala_quant_params *params, sala_recipe recipe,
                                  sala_error *err)
{
    sala_recipe_plan *p = calloc(1, sizeof *p);
    if (!p)
        return sala_fail_memory(err, sizeof *p);
    sala_status st = SALA_OK;
    p->recipe = recipe;
    p->pure = params->pure;
    p->output = p->embedding = SALA_DTYPE_NONE;
    p->match = pcre2_match_data_create(1, NULL);
    p->limits = pcre2_match_context_create(NULL);
    p->overrides = calloc((size_t)params->n_tensor_types + 1, sizeof *p->overrides);
    if (!p->match || !p->limits || !p->overrides) {
        st = sala_fail_memory(err, 1024);
        goto out;
    }
    pcre2_set_match_limit(p->limits, 100000);
    if (params->output_type)
        st = parse_dtype(&p->output, params->output_type, "output type", err);
    if (st == SALA_OK && params->embedding_type)
        st = parse_dtype(&p->embedding, params->embedding_type, "embedding type", err);
    for (int i = 0; st == SALA_OK && i < params->n_tensor_types; i++) {
        st = parse_override(&p->overrides[i], params->tensor_types[i], err);
        if (st == SALA_OK)
            p->n_overrides++;
    }
out:
    if (st != SALA_OK) {
        sala_recipe_plan_close(p);
        return st;
    }
    *out = p;
    return SALA_OK;
}

static sala_dtype overridden(const sala_recipe_plan *p, const char *name)
{
    /* 0 is a match too: one whose groups have no place in p->match, where nobody looks for them. */
    for (int i = 0; i < p->n_overrides; i++)
        if (pcre2_match(p->overrides[i].pattern, (PCRE2_SPTR)name, strlen(name), 0, 0, p->match, p->limits) >= 0)
            return p->overrides[i].dtype;
    return SALA_DTYPE_NONE;
}

/* ---- kinds of tensors ---- */

typedef enum kind { HEAD, EMBEDDING, ATTN_V, ATTN_QKV, ATTN_OUTPUT, FFN_DOWN, OTHER } kind;

static bool has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

static kind kind_of(const char *name)
{
    if (strcmp(name, "output.weight") == 0)
        return HEAD;
    if (strcmp(name, "token_embd.weight") == 0)
        return EMBEDDING;
    if (has(name, "attn_qkv.weight"))
        return ATTN_QKV;
    if (has(name, "attn_kv_b.weight") || has(name, "attn_v.weight"))
        return ATTN_V;
    if (has(name, "attn_output.weight"))
        return ATTN_OUTPUT;
    if (has(name, "ffn_down"))
        return FFN_DOWN;
    return OTHER;
}

/* Matrices named .weight, but no norms, routers and convolutions, which are small and sensitive. */
static bool may_quantize(const char *name, int n_dims)
{
    static const char *const kept[] = {"_norm.weight",          "ffn_gate_inp.weight", "ssm_conv1d",
                                       "shortconv.conv.weight", "position_embd",       "token_types",
                                       "attn_rel_b.weight"};
    const size_t len = strlen(name);
    if (n_dims < 2 || len < 6 || strcmp(name + len - 6, "weight") != 0)
        return false;
    for (size_t i = 0; i < SALA_ARRAY_LEN(kept); i++)
        if (has(name, kept[i]))
            return false;
    return true;
}

/* The first and last eighth of the layers and every third between them. */
static bool more_bits(int64_t layer, int64_t n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static sala_dtype attn_v_type(sala_recipe recipe, sala_dtype base, const sala_recipe_model *m, int64_t layer)
{
    const bool shared = m->n_kv_heads > 0 && m->n_heads / m->n_kv_heads >= 4; /* v is small: more bits cost little */
    sala_dtype t = base;
    switch (recipe) {
    case SALA_RECIPE_Q2_K:
        t = shared ? SALA_Q4_K : SALA_Q3_K;
        break;
    case SALA_RECIPE_Q2_K_S:
        t = shared ? SALA_Q4_K : base;
        break;
    case SALA_RECIPE_Q3_K_M:
        t = layer < 2 ? SALA_Q5_K : SALA_Q4_K;
        break;
    case SALA_RECIPE_Q3_K_L:
        t = SALA_Q5_K;
        break;
    case SALA_RECIPE_IQ4_NL:
    case SALA_RECIPE_IQ4_XS:
        t = shared ? SALA_Q5_K : base;
        break;
    case SALA_RECIPE_Q4_K_M:
    case SALA_RECIPE_Q5_K_M:
        t = more_bits(layer, m->n_attn_v) ? SALA_Q6_K : base;
        break;
    case SALA_RECIPE_Q4_K_S:
        t = layer < 4 ? SALA_Q5_K : base;
        break;
    default:
        break;
    }
    /* The 70B models of these families share each v between eight heads. */
    const bool of_70b = m->n_layers == 80 && m->n_heads != m->n_kv_heads &&
                        (strcmp(m->architecture, "llama") == 0 || strcmp(m->architecture, "qwen2") == 0);
    return of_70b && (t == SALA_Q3_K || t == SALA_Q4_K) ? SALA_Q5_K : t;
}

static sala_dtype ffn_down_type(sala_recipe recipe, sala_dtype base, const sala_recipe_model *m, int64_t layer)
{
    const int64_t n = m->n_layers;
    switch (recipe) {
    case SALA_RECIPE_Q2_K:
        return SALA_Q3_K;
    case SALA_RECIPE_Q2_K_S:
        return layer < n / 8 ? SALA_Q4_K : base;
    case SALA_RECIPE_Q3_K_M:
        return layer < n / 16 ? SALA_Q5_K : SALA_Q4_K;
    case SALA_RECIPE_Q3_K_L:
        return SALA_Q5_K;
    case SALA_RECIPE_Q4_K_M:
    case SALA_RECIPE_Q5_K_M:
        return more_bits(layer, n) ? SALA_Q6_K : base;
    case SALA_RECIPE_IQ4_NL:
    case SALA_RECIPE_IQ4_XS:
        return layer < n / 8 && !m->has_importance ? SALA_Q5_K : base;
    case SALA_RECIPE_Q4_K_S:
        return layer < n / 8 ? SALA_Q5_K : base;
    case SALA_RECIPE_Q4_0:
        return m->has_importance && layer < n / 8 ? SALA_Q4_1 : base;
    case SALA_RECIPE_Q5_0:
        return m->has_importance && layer < n / 8 ? SALA_Q5_1 : base;
    default:
        return base;
    }
}

static sala_dtype attn_output_type(sala_recipe recipe, sala_dtype base)
{
    switch (recipe) {
    case SALA_RECIPE_Q2_K:
        return SALA_Q3_K;
    case SALA_RECIPE_Q3_K_M:
        return SALA_Q4_K;
    case SALA_RECIPE_Q3_K_L:
        return SALA_Q5_K;
    default:
        return base;
    }
}

static sala_dtype mixed_type(const sala_recipe_plan *p, sala_dtype base, const sala_recipe_model *m, const char *name,
                             int64_t row)
{
    int layer = 0;
    (void)sscanf(name, "blk.%6d.", &layer);
    const kind k = kind_of(name);
    if (k == HEAD || (k == EMBEDDING && m->tied)) {
        if (p->output != SALA_DTYPE_NONE)
            return p->output;
        if (row % sala_dtype_get((int)base)->block_weights != 0)
            return SALA_Q8_0;
        return base == SALA_Q8_0 ? base : SALA_Q6_K;
    }
    switch (k) {
    case EMBEDDING:
        return p->recipe == SALA_RECIPE_TQ1_0 || p->recipe == SALA_RECIPE_TQ2_0 ? SALA_Q4_K : base;
    case ATTN_V:
    case ATTN_QKV:
        return attn_v_type(p->recipe, base, m, layer);
    case FFN_DOWN:
        return ffn_down_type(p->recipe, base, m, layer);
    case ATTN_OUTPUT:
        return attn_output_type(p->recipe, base);
    default:
        return base;
    }
}

/* The nearest type with blocks of 32 and no fewer bits. */
static sala_dtype narrower_blocks(sala_dtype t)
{
    switch (t) {
    case SALA_IQ4_XS:
        return SALA_IQ4_NL;
    case SALA_Q2_K:
    case SALA_Q3_K:
    case SALA_TQ1_0:
    case SALA_TQ2_0:
        return SALA_Q4_0;
    case SALA_Q4_K:
        return SALA_Q5_0;
    case SALA_Q5_K:
        return SALA_Q5_1;
    case SALA_Q6_K:
        return SALA_Q8_0;
    default:
        return SALA_F16;
    }
}

sala_dtype sala_recipe_choose(const sala_recipe_plan *p, const sala_recipe_model *model, const char *name, int n_dims,
                              int64_t row, bool *fallback)
{
    *fallback = false;
    if (!may_quantize(name, n_dims))
        return SALA_DTYPE_NONE;
    const sala_dtype base = sala_recipe_dtype(p->recipe);
    const kind k = kind_of(name);
    sala_dtype t = SALA_DTYPE_NONE;
    if (k == EMBEDDING)
        t = p->embedding;
    else if (k == HEAD)
        t = p->output;
    if (t == SALA_DTYPE_NONE)
        t = overridden(p, name);
    if (t == SALA_DTYPE_NONE)
        t = p->pure || !sala_dtype_get((int)base)->is_quantized ? base : mixed_type(p, base, model, name, row);
    if (row % sala_dtype_get((int)t)->block_weights != 0) {
        *fallback = true;
        t = narrower_blocks(t);
        if (row % sala_dtype_get((int)t)->block_weights != 0)
            t = SALA_F16;
    }
    return t;
}
