/* A model's configuration from Hugging Face's config.json and generation_config.json, with the defaults that
 * transformers' classes have for keys that are absent. Both spellings of the rope settings are read: rope_theta beside
 * rope_scaling, and rope_parameters that holds everything. */
#include "model/config_internal.h"

#include "base/json.h"
#include "format/index.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_JSON_BYTES (16u << 20)

/* How a family of hybrid models spells its switches, and what an absent one means. The defaults of MiniCPM-SALA are
 * those of its released checkpoint, HypeNet's those of its configuration class. */
typedef struct hybrid_keys {
    const char *softmax; /* the name of a softmax layer in mixer_types */
    bool mixers_required;
    bool logits_scaling;       /* attn_logits_scaling is read */
    bool attn_rope, attn_gate; /* defaults of attn_use_rope, attn_use_output_gate */
    const char *qk_norm, *out_norm, *gate;
    bool has_qk_norm, has_out_norm, has_gate;
} hybrid_keys;

static const hybrid_keys sala_keys = {.softmax = "minicpm4",
                                      .mixers_required = true,
                                      .attn_gate = true,
                                      .qk_norm = "qk_norm",
                                      .has_qk_norm = true,
                                      .out_norm = "use_output_norm",
                                      .has_out_norm = true,
                                      .gate = "use_output_gate",
                                      .has_gate = true};

static const hybrid_keys hypenet_keys = {.softmax = "attn",
                                         .logits_scaling = true,
                                         .attn_rope = true,
                                         .qk_norm = "lightning_use_qk_norm",
                                         .out_norm = "lightning_use_output_norm",
                                         .gate = "lightning_use_output_gate"};

/* What transformers assumes when a key is absent. */
typedef struct hf_class {
    const char *model_type, *architecture;
    int32_t kv_heads; /* 0: as many as query heads */
    int32_t head_dim; /* 0: hidden size / heads */
    int32_t context;
    int32_t bos, eos;
    int32_t sliding_window; /* 0: the class knows none */
    bool window_switch;     /* use_sliding_window decides, by default against it */
    bool tied;
    bool attention_bias, mlp_bias; /* these keys are read */
    double scale_emb, scale_depth, dim_model_base;
    const hybrid_keys *hybrid; /* NULL: all layers are alike */
} hf_class;

static const hf_class classes[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .context = 2048,
     .bos = 1,
     .eos = 2,
     .attention_bias = true,
     .mlp_bias = true},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .kv_heads = 8,
     .context = 131072,
     .bos = 1,
     .eos = 2,
     .sliding_window = 4096},
    {.model_type = "minicpm",
     .architecture = "MiniCPMForCausalLM",
     .context = 2048,
     .bos = 1,
     .eos = 2,
     .tied = true,
     .attention_bias = true,
     .scale_emb = 1,
     .scale_depth = 1,
     .dim_model_base = 1},
    {.model_type = "minicpm4",
     .architecture = "MiniCPM4ForCausalLM",
     .context = 32768,
     .bos = 1,
     .eos = 2,
     .tied = true,
     .attention_bias = true,
     .scale_emb = 12,
     .scale_depth = 1.4,
     .dim_model_base = 256},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .kv_heads = 32,
     .context = 32768,
     .bos = -1,
     .eos = -1,
     .sliding_window = 4096,
     .window_switch = true},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .kv_heads = 32,
     .head_dim = 128,
     .context = 32768,
     .bos = -1,
     .eos = -1,
     .sliding_window = 4096,
     .window_switch = true,
     .attention_bias = true},
    {.model_type = "minicpm_sala",
     .architecture = "MiniCPMSALAForCausalLM",
     .context = 524288,
     .bos = 1,
     .eos = 2,
     .attention_bias = true,
     .scale_emb = 12,
     .scale_depth = 1.4,
     .dim_model_base = 256,
     .hybrid = &sala_keys},
    {.model_type = "hypenet",
     .architecture = "HypeNetForCausalLM",
     .kv_heads = 32,
     .head_dim = 128,
     .context = 32768,
     .bos = -1,
     .eos = -1,
     .attention_bias = true,
     .hybrid = &hypenet_keys},
};

/* ---- values; null counts as absent ---- */

static const json_t *get(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static bool integer_of(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    /* Some writers turn whole numbers into floats. */
    if (json_is_real(v) && fabs(json_real_value(v)) < 0x1p53 && floor(json_real_value(v)) == json_real_value(v)) {
        *out = (int64_t)json_real_value(v);
        return true;
    }
    return false;
}

/* A negative fallback means that the key must be there. */
static sala_status get_int64(const json_t *o, int64_t *out, const char *key, int64_t fallback, sala_error *err)
{
    const json_t *v = get(o, key);
    *out = fallback;
    if (!v && fallback < 0)
        return sala_fail(err, SALA_E_CORRUPT, "config.json lacks \"%s\"", key);
    if (v && !integer_of(v, out))
        return sala_fail(err, SALA_E_CORRUPT, "\"%s\" is not an integer", key);
    if (*out < 0)
        return sala_fail(err, SALA_E_CORRUPT, "\"%s\" is %" PRId64 ", expected 0 or more", key, *out);
    return SALA_OK;
}

static sala_status get_int(const json_t *o, int32_t *out, const char *key, int64_t fallback, sala_error *err)
{
    int64_t v = 0;
    TRY(get_int64(o, &v, key, fallback, err));
    if (v > INT32_MAX)
        return sala_fail(err, SALA_E_CORRUPT, "\"%s\" is %" PRId64 ", expected at most %" PRId32, key, v, INT32_MAX);
    *out = (int32_t)v;
    return SALA_OK;
}

/* *out stays as it is when the key is absent. */
static sala_status get_number(const json_t *o, double *out, const char *key, sala_error *err)
{
    const json_t *v = get(o, key);
    if (v && !json_is_number(v))
        return sala_fail(err, SALA_E_CORRUPT, "\"%s\" is not a number", key);
    if (v)
        *out = json_number_value(v);
    return SALA_OK;
}

static sala_status get_bool(const json_t *o, bool *out, const char *key, bool fallback, sala_error *err)
{
    const json_t *v = get(o, key);
    if (v && !json_is_boolean(v))
        return sala_fail(err, SALA_E_CORRUPT, "\"%s\" is not true or false", key);
    *out = v ? json_is_true(v) : fallback;
    return SALA_OK;
}

static const char *get_str(const json_t *o, const char *key)
{
    const char *s = json_string_value(get(o, key));
    return s && sala_name_is_clean(s, strlen(s)) ? s : NULL;
}

/* ---- which class ---- */

/* model_type first; architectures[0] serves checkpoints whose own code declares another type for a known class. */
static const hf_class *find_class(const json_t *config)
{
    const char *type = get_str(config, "model_type");
    const json_t *first = json_array_get(get(config, "architectures"), 0);
    const char *arch = json_string_value(first);
    for (size_t i = 0; type && i < SALA_ARRAY_LEN(classes); i++)
        if (strcmp(classes[i].model_type, type) == 0)
            return &classes[i];
    for (size_t i = 0; arch && i < SALA_ARRAY_LEN(classes); i++)
        if (strcmp(classes[i].architecture, arch) == 0)
            return &classes[i];
    return NULL;
}

/* ---- rope ---- */

static sala_status read_list(const json_t *o, float **out, int32_t *n, const char *key, sala_error *err)
{
    const json_t *list = get(o, key);
    if (!list)
        return SALA_OK;
    const size_t count = json_array_size(list);
    if (!json_is_array(list) || count == 0 || count > 65536)
        return sala_fail(err, SALA_E_CORRUPT, "rope scaling: \"%s\" is not a list of numbers", key);
    *out = malloc(count * sizeof **out);
    if (!*out)
        return sala_fail_memory(err, count * sizeof **out);
    *n = (int32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_number(v))
            return sala_fail(err, SALA_E_CORRUPT, "rope scaling: \"%s\" holds something that is no number", key);
        (*out)[i] = (float)json_number_value(v);
    }
    return SALA_OK;
}

static sala_status read_longrope(sala_config *c, const json_t *rope, bool own_factor, sala_error *err)
{
    sala_rope_config *r = &c->rope;
    int32_t n_short = 0, n_long = 0;
    TRY(read_list(rope, &r->short_factors, &n_short, "short_factor", err));
    TRY(read_list(rope, &r->long_factors, &n_long, "long_factor", err));
    if (!r->short_factors && !r->long_factors)
        return sala_fail(err, SALA_E_CORRUPT,
                         "rope scaling is longrope, but both \"short_factor\" and \"long_factor\" are missing");
    if (!r->short_factors || !r->long_factors) { /* one list given serves both lengths */
        if (!r->short_factors)
            r->short_factors = r->long_factors;
        r->long_factors = r->short_factors;
        n_short = n_long = n_short ? n_short : n_long;
    }
    if (n_short != n_long)
        return sala_fail(err, SALA_E_CORRUPT,
                         "rope scaling has %" PRId32 " values in \"short_factor\" and %" PRId32
                         " in \"long_factor\", expected equal numbers",
                         n_short, n_long);
    r->n_factors = n_short;
    /* In transformers a given "factor" takes the place of max / original; the code of MiniCPM does not read it. */
    if (r->attention_factor == 0 && own_factor && r->original_max > 1 && get(rope, "factor"))
        r->attention_factor = r->factor <= 1 ? 1 : sqrt(1 + log(r->factor) / log((double)r->original_max));
    return SALA_OK;
}

static sala_status read_scaling(sala_config *c, const json_t *config, const json_t *rope, const sala_family *family,
                                sala_error *err)
{
    sala_rope_config *r = &c->rope;
    const char *type = get_str(rope, "rope_type");
    if (!type)
        type = get_str(rope, "type");
    if (!type && (get(rope, "rope_type") || get(rope, "type")))
        return sala_fail(err, SALA_E_CORRUPT, "the type of the rope scaling is not plain text");
    if (!type || strcmp(type, "default") == 0)
        return SALA_OK;

    int64_t original = 0;
    TRY(get_int64(rope, &original, "original_max_position_embeddings", 0, err));
    TRY(get_int64(config, &r->original_max, "original_max_position_embeddings", original, err));
    if (r->original_max == 0)
        r->original_max = c->n_ctx_train;
    TRY(get_number(rope, &r->factor, "factor", err));
    const bool has_factor = get(rope, "factor") != NULL;
    const char *missing = has_factor ? NULL : "factor";
    if (strcmp(type, "linear") == 0) {
        r->kind = SALA_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        r->kind = SALA_ROPE_LLAMA3;
        TRY(get_number(rope, &r->low_freq_factor, "low_freq_factor", err));
        TRY(get_number(rope, &r->high_freq_factor, "high_freq_factor", err));
        if (!get(rope, "low_freq_factor"))
            missing = "low_freq_factor";
        if (!get(rope, "high_freq_factor"))
            missing = "high_freq_factor";
    } else if (strcmp(type, "yarn") == 0) {
        r->kind = SALA_ROPE_YARN;
        TRY(get_number(rope, &r->attention_factor, "attention_factor", err));
        TRY(get_number(rope, &r->beta_fast, "beta_fast", err));
        TRY(get_number(rope, &r->beta_slow, "beta_slow", err));
        TRY(get_number(rope, &r->mscale, "mscale", err));
        TRY(get_number(rope, &r->mscale_all_dim, "mscale_all_dim", err));
        TRY(get_bool(rope, &r->yarn_truncate, "truncate", true, err));
        if (r->beta_fast == 0)
            r->beta_fast = 32;
        if (r->beta_slow == 0)
            r->beta_slow = 1;
        if (!has_factor)
            r->factor = (double)c->n_ctx_train / (double)r->original_max;
        missing = NULL;
    } else if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        r->kind = SALA_ROPE_LONGROPE;
        TRY(get_number(rope, &r->attention_factor, "attention_factor", err));
        TRY(read_longrope(c, rope, !family->mup_scales, err));
        missing = NULL;
    } else if (strcmp(type, "dynamic") == 0) {
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "rope scaling of type dynamic is not supported; it changes nothing up to "
                         "max_position_embeddings, so that removing it from config.json serves texts up to %" PRId64
                         " tokens",
                         c->n_ctx_train);
    } else {
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "rope scaling of type \"%.40s\" is not supported, expected default, linear, llama3, yarn or "
                         "longrope",
                         type);
    }
    if (missing)
        return sala_fail(err, SALA_E_CORRUPT, "rope scaling of type %s lacks \"%s\"", type, missing);
    return SALA_OK;
}

static sala_status read_rope(sala_config *c, const json_t *config, const sala_family *family, sala_error *err)
{
    const json_t *rope = get(config, "rope_scaling");
    if (!json_object_size(rope))
        rope = get(config, "rope_parameters");
    if ((rope && !json_is_object(rope)) ||
        (get(config, "rope_scaling") && !json_is_object(get(config, "rope_scaling"))))
        return sala_fail(err, SALA_E_CORRUPT, "\"rope_scaling\" or \"rope_parameters\" is not an object");
    /* Settings per kind of layer; ours has full attention only, or the reader of the windows refuses. */
    if (json_is_object(get(rope, "full_attention")))
        rope = get(rope, "full_attention");
    c->rope.half = true;
    TRY(get_number(config, &c->rope.theta, "rope_theta", err));
    TRY(get_number(rope, &c->rope.theta, "rope_theta", err));
    double part = 1;
    TRY(get_number(config, &part, "partial_rotary_factor", err));
    TRY(get_number(rope, &part, "partial_rotary_factor", err));
    if (!(part > 0 && part <= 1))
        return sala_fail(err, SALA_E_CORRUPT, "\"partial_rotary_factor\" is %g, expected 0 to 1", part);
    c->rope.n_rot = (int32_t)(sala_config_rope_head(c) * part);
    if (part < 1 && c->rope.n_rot < 2)
        return sala_fail(err, SALA_E_CORRUPT, "rope turns %" PRId32 " components of a head, expected 2 or more",
                         c->rope.n_rot);
    return read_scaling(c, config, rope, family, err);
}

/* ---- sparse attention ---- */

/* Absent keys mean the constants that all released checkpoints have. */
static sala_status read_sparse(sala_config *c, const json_t *config, sala_error *err)
{
    const json_t *o = get(config, "sparse_config");
    sala_sparse_config s = sala_sparse_defaults();
    const struct {
        const char *key;
        int32_t *out;
    } ints[] = {{"kernel_size", &s.kernel_size},
                {"kernel_stride", &s.kernel_stride},
                {"block_size", &s.block_size},
                {"init_blocks", &s.init_blocks},
                {"topk", &s.topk},
                {"window_size", &s.window_size}};
    if (!o)
        return SALA_OK;
    if (!json_is_object(o))
        return sala_fail(err, SALA_E_CORRUPT, "\"sparse_config\" is not an object");
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++) {
        const sala_status st = get_int(o, ints[i].out, ints[i].key, *ints[i].out, err);
        if (st != SALA_OK)
            return sala_fail_prefix(err, st, "\"sparse_config\"");
    }
    if (get(o, "dense_len") && !integer_of(get(o, "dense_len"), &s.dense_len))
        return sala_fail(err, SALA_E_CORRUPT, "\"sparse_config\": \"dense_len\" is not an integer");
    const sala_status st = get_bool(o, &s.use_nope, "use_nope", false, err);
    if (st != SALA_OK)
        return sala_fail_prefix(err, st, "\"sparse_config\"");
    /* In the struct a block size of zero means that there is no such attention; here it is a mistake. */
    if (s.block_size == 0)
        return sala_fail(err, SALA_E_CORRUPT, "\"sparse_config\": \"block_size\" is 0, expected 1 or more");
    c->sparse = s;
    return SALA_OK;
}

/* ---- hybrid models ---- */

/* A switch; null is false here, as in the classes, which hand it on as it is. */
static sala_status get_switch(const json_t *o, bool *out, const char *key, bool fallback, sala_error *err)
{
    *out = false;
    return json_is_null(json_object_get(o, key)) ? SALA_OK : get_bool(o, out, key, fallback, err);
}

/* Single letters that must change to turn a into b; names longer than 24 are far from everything. */
static int distance(const char *a, const char *b)
{
    const size_t n = strlen(a), m = strlen(b);
    int row[25];
    if (n > 24 || m > 24)
        return 25;
    for (size_t j = 0; j <= m; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            const int shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < shift ? change : shift;
        }
    }
    return row[m];
}

static sala_status refuse_mixer(const hybrid_keys *k, const char *name, size_t layer, sala_error *err)
{
    static const char *const others[] = {"gdn",        "gated-deltanet", "gated_deltanet", "kda",
                                         "mamba2",     "mamba",          "deltanet",       "gla",
                                         "simple-gla", "rwkv",           "retention",      "swa"};
    const char *const ours[] = {k->softmax, "lightning-attn", "lightning_attn", "lightning"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(others); i++)
        if (strcmp(name, others[i]) == 0)
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "\"mixer_types\": layer %zu is \"%s\", which is not supported; expected \"%s\" or "
                             "\"lightning-attn\"",
                             layer, name, k->softmax);
    size_t best = 0;
    for (size_t i = 1; i < SALA_ARRAY_LEN(ours); i++)
        if (distance(name, ours[i]) < distance(name, ours[best]))
            best = i;
    return sala_fail(err, SALA_E_CORRUPT,
                     "\"mixer_types\": layer %zu is \"%.40s\", expected \"%s\" or \"lightning-attn\" (nearest: "
                     "\"%s\")",
                     layer, name, k->softmax, ours[best]);
}

static sala_status read_mixers(sala_config *c, const json_t *config, const hybrid_keys *k, sala_error *err)
{
    const json_t *list = get(config, "mixer_types");
    const size_t count = json_array_size(list);
    if (list && !json_is_array(list))
        return sala_fail(err, SALA_E_CORRUPT, "\"mixer_types\" is not a list");
    if (count == 0 && !k->mixers_required)
        return SALA_OK; /* softmax layers throughout */
    if (!list)
        return sala_fail(err, SALA_E_CORRUPT, "config.json lacks \"mixer_types\", which says what each layer is");
    if (count != (size_t)c->n_layers)
        return sala_fail(err, SALA_E_CORRUPT,
                         "\"mixer_types\" names %zu layers, expected %" PRId32 " (\"num_hidden_layers\")", count,
                         c->n_layers);
    c->mixers = malloc(count * sizeof *c->mixers);
    if (!c->mixers)
        return sala_fail_memory(err, count * sizeof *c->mixers);
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !sala_name_is_clean(name, strlen(name)))
            return sala_fail(err, SALA_E_CORRUPT, "\"mixer_types\": layer %zu is not a name", i);
        if (strcmp(name, k->softmax) == 0)
            c->mixers[i] = c->sparse.block_size > 0 ? SALA_MIXER_SPARSE : SALA_MIXER_DENSE;
        else if (strcmp(name, "lightning-attn") == 0 || strcmp(name, "lightning_attn") == 0 ||
                 strcmp(name, "lightning") == 0)
            c->mixers[i] = SALA_MIXER_LIGHTNING;
        else
            return refuse_mixer(k, name, i, err);
    }
    return SALA_OK;
}

/* A formula in the head size d. The models' own code takes every other text for 1, and so were they trained. */
static sala_status read_lightning_scale(double *out, const json_t *config, int32_t d, sala_error *err)
{
    const json_t *v = json_object_get(config, "lightning_scale");
    const char *s = json_string_value(v);
    *out = 1;
    if (!v || (s && strcmp(s, "1/sqrt(d)") == 0))
        *out = 1 / sqrt((double)d);
    else if (s && strcmp(s, "1/d") == 0)
        *out = 1 / (double)d;
    else if (!s && !json_is_null(v) && !(json_is_number(v) && json_number_value(v) == 1))
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "\"lightning_scale\" is no text; expected \"1/sqrt(d)\", \"1/d\" or \"1\"");
    return SALA_OK;
}

static sala_status read_lightning(sala_config *c, const json_t *config, const hybrid_keys *k, sala_error *err)
{
    static const struct {
        const char *key, *what;
    } parts[] = {{"lightning_use_short_conv", "convolutions before linear attention"},
                 {"lightning_layerwise_decay", "a decay that differs between layers"}};
    sala_lightning_config *l = &c->lightning;
    if (!c->mixers || sala_config_count(c, SALA_MIXER_LIGHTNING) == 0)
        return SALA_OK;
    for (size_t i = 0; i < SALA_ARRAY_LEN(parts); i++) {
        bool on = false;
        TRY(get_bool(config, &on, parts[i].key, false, err));
        if (on)
            return sala_fail(err, SALA_E_UNSUPPORTED, "\"%s\" is true, expected false; %s are not supported",
                             parts[i].key, parts[i].what);
    }
    TRY(get_int(config, &l->n_heads, "lightning_nh", c->n_heads, err));
    TRY(get_int(config, &l->n_kv_heads, "lightning_nkv", c->n_kv_heads, err));
    TRY(get_int(config, &l->head_dim, "lightning_head_dim", c->head_dim, err));
    TRY(get_switch(config, &l->rope, "lightning_use_rope", true, err));
    TRY(get_switch(config, &l->qk_norm, k->qk_norm, k->has_qk_norm, err));
    TRY(get_switch(config, &l->out_norm, k->out_norm, k->has_out_norm, err));
    TRY(get_switch(config, &l->gate, k->gate, k->has_gate, err));
    return read_lightning_scale(&l->scale, config, l->head_dim > 0 ? l->head_dim : 1, err);
}

/* HypeNet's scaling of logits: a number, or a text whose second word is the base of a logarithm of the position. */
static sala_status read_logits_scaling(sala_config *c, const json_t *config, sala_error *err)
{
    static const double default_base = 362;
    const json_t *v = get(config, "attn_logits_scaling");
    const char *s = json_string_value(v);
    if (!v)
        return SALA_OK;
    if (json_is_number(v)) {
        const double factor = json_number_value(v);
        if (!isfinite(factor) || factor <= 0)
            return sala_fail(err, SALA_E_CORRUPT, "\"attn_logits_scaling\" is %g, expected a positive number", factor);
        c->attn_scale = factor / sqrt((double)c->head_dim);
        return SALA_OK;
    }
    if (!s || !sala_name_is_clean(s, strlen(s)))
        return sala_fail(err, SALA_E_CORRUPT,
                         "\"attn_logits_scaling\" is neither null, a number nor a text such as \"hype 362\"");
    const char *second = s + strspn(s, " ");
    second += strcspn(second, " ");
    second += strspn(second, " ");
    c->attn_scale_base = default_base;
    if (*second) {
        char *end;
        c->attn_scale_base = strtod(second, &end);
        if (end == second || (*end && *end != ' ') || !isfinite(c->attn_scale_base) || c->attn_scale_base < 2)
            return sala_fail(err, SALA_E_CORRUPT,
                             "\"attn_logits_scaling\" is \"%.60s\"; its second word is no number of 2 or more", s);
    }
    return SALA_OK;
}

static sala_status read_hybrid(sala_config *c, const json_t *config, const hybrid_keys *k, sala_error *err)
{
    TRY(read_mixers(c, config, k, err));
    TRY(get_switch(config, &c->attn_rope, "attn_use_rope", k->attn_rope, err));
    TRY(get_switch(config, &c->attn_gate, "attn_use_output_gate", k->attn_gate, err));
    TRY(read_lightning(c, config, k, err));
    return k->logits_scaling ? read_logits_scaling(c, config, err) : SALA_OK;
}

/* ---- attention windows ---- */

static sala_status read_window(sala_config *c, const json_t *config, const hf_class *k, sala_error *err)
{
    int32_t window = 0, first = 0;
    bool use = !k->window_switch;
    if (!k->sliding_window)
        return SALA_OK;
    /* An explicit null means none, an absent key the class's default. */
    if (!json_is_null(json_object_get(config, "sliding_window")))
        TRY(get_int(config, &window, "sliding_window", k->sliding_window, err));
    if (k->window_switch)
        TRY(get_bool(config, &use, "use_sliding_window", false, err));
    /* A window that covers the whole context hides nothing. */
    if (!use || window == 0 || window >= c->n_ctx_train)
        return SALA_OK;
    int32_t n_sliding = c->n_layers;
    if (k->window_switch) {
        const json_t *types = get(config, "layer_types");
        if (types) {
            n_sliding = 0;
            for (size_t i = 0; i < json_array_size(types) && i < (size_t)c->n_layers; i++) {
                const char *type = json_string_value(json_array_get(types, i));
                n_sliding += type && strcmp(type, "sliding_attention") == 0;
            }
        } else {
            TRY(get_int(config, &first, "max_window_layers", 28, err));
            n_sliding = first < c->n_layers ? c->n_layers - first : 0;
        }
    }
    if (n_sliding > 0 && n_sliding < c->n_layers)
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "%" PRId32 " of %" PRId32
                         " layers have sliding attention; windows in some layers only are not "
                         "supported (\"use_sliding_window\": false runs the model without)",
                         n_sliding, c->n_layers);
    c->sliding_window = n_sliding ? window : 0;
    return SALA_OK;
}

/* ---- tokens and sampling ---- */

static bool add_eos_of(sala_config *c, const json_t *o)
{
    const json_t *eos = get(o, "eos_token_id");
    int64_t id;
    if (integer_of(eos, &id))
        sala_config_add_eos(c, id);
    for (size_t i = 0; i < json_array_size(eos); i++)
        if (integer_of(json_array_get(eos, i), &id))
            sala_config_add_eos(c, id);
    return eos != NULL;
}

static int32_t token_of(const json_t *config, const json_t *generation, const char *key, int32_t fallback)
{
    int64_t id = fallback;
    if (!integer_of(get(generation, key), &id) && !integer_of(get(config, key), &id) &&
        json_is_null(json_object_get(config, key)))
        return -1;
    return id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
}

/* As generate() does: the generation file's end tokens if it has any, otherwise the model's. */
static void read_tokens(sala_config *c, const json_t *config, const json_t *generation, const hf_class *k)
{
    c->bos = token_of(config, generation, "bos_token_id", k->bos);
    c->pad = token_of(config, generation, "pad_token_id", -1);
    if (!add_eos_of(c, generation) && !add_eos_of(c, config) && !json_is_null(json_object_get(config, "eos_token_id")))
        sala_config_add_eos(c, k->eos);
}

static sala_status read_sampling(sala_config *c, const json_t *generation, sala_error *err)
{
    int64_t top_k;
    TRY(get_number(generation, &c->gen_temperature, "temperature", err));
    TRY(get_number(generation, &c->gen_top_p, "top_p", err));
    TRY(get_number(generation, &c->gen_min_p, "min_p", err));
    TRY(get_number(generation, &c->gen_repeat_penalty, "repetition_penalty", err));
    if (integer_of(get(generation, "top_k"), &top_k) && top_k >= 0 && top_k <= INT32_MAX)
        c->gen_top_k = (int32_t)top_k;
    if (json_is_false(json_object_get(generation, "do_sample")))
        c->gen_temperature = 0;
    return SALA_OK;
}

/* ---- all of it ---- */

static sala_status refuse_unknown_parts(const json_t *config, sala_error *err)
{
    static const char *const expert_keys[] = {"num_local_experts", "num_experts", "n_routed_experts"};
    const char *act = get_str(config, "hidden_act");
    if (act && strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return sala_fail(err, SALA_E_UNSUPPORTED, "activation \"%.40s\" is not supported, expected silu", act);
    for (size_t i = 0; i < SALA_ARRAY_LEN(expert_keys); i++) {
        int64_t n;
        if (integer_of(get(config, expert_keys[i]), &n) && n > 0)
            return sala_fail(err, SALA_E_UNSUPPORTED, "\"%s\" is %" PRId64 "; mixtures of experts are not supported",
                             expert_keys[i], n);
    }
    return SALA_OK;
}

static sala_status read_all(sala_config *c, const json_t *config, const json_t *generation, sala_error *err)
{
    const hf_class *k = find_class(config);
    if (!k) {
        const char *type = get_str(config, "model_type");
        return sala_fail(err, SALA_E_UNSUPPORTED, "model type \"%.60s\" is not supported, expected one of: %s",
                         type ? type : "(none)", sala_family_names());
    }
    const sala_family *family = sala_family_by_hf(k->model_type);
    snprintf(c->architecture, sizeof c->architecture, "%s", family->name);
    TRY(refuse_unknown_parts(config, err));
    TRY(get_int(config, &c->n_layers, "num_hidden_layers", -1, err));
    TRY(get_int(config, &c->n_embd, "hidden_size", -1, err));
    TRY(get_int(config, &c->n_heads, "num_attention_heads", -1, err));
    TRY(get_int(config, &c->n_ff, "intermediate_size", -1, err));
    TRY(get_int(config, &c->n_vocab, "vocab_size", -1, err));
    const bool null_kv = json_is_null(json_object_get(config, "num_key_value_heads"));
    TRY(get_int(config, &c->n_kv_heads, "num_key_value_heads", null_kv || !k->kv_heads ? c->n_heads : k->kv_heads,
                err));
    const int32_t even_share = c->n_heads > 0 ? c->n_embd / c->n_heads : 0;
    const bool null_dim = k->hybrid && json_is_null(json_object_get(config, "head_dim"));
    TRY(get_int(config, &c->head_dim, "head_dim", k->head_dim && !null_dim ? k->head_dim : even_share, err));
    TRY(get_int64(config, &c->n_ctx_train, "max_position_embeddings", k->context, err));
    TRY(get_number(config, &c->rms_eps, "rms_norm_eps", err));
    TRY(get_bool(config, &c->tied_head, "tie_word_embeddings", k->tied, err));
    c->qkv_bias = family->qkv_bias;
    c->qk_norm = family->qk_norm;
    if (k->attention_bias) {
        bool bias;
        TRY(get_bool(config, &bias, "attention_bias", false, err));
        c->qkv_bias = c->o_bias = bias;
    }
    if (k->mlp_bias)
        TRY(get_bool(config, &c->mlp_bias, "mlp_bias", false, err));
    if (family->mup_scales) {
        double depth = k->scale_depth, base = k->dim_model_base;
        c->embed_scale = k->scale_emb;
        TRY(get_number(config, &c->embed_scale, "scale_emb", err));
        TRY(get_number(config, &depth, "scale_depth", err));
        TRY(get_number(config, &base, "dim_model_base", err));
        c->residual_scale = depth / sqrt((double)c->n_layers);
        c->logit_divisor = c->n_embd / base;
    }
    TRY(read_window(c, config, k, err));
    TRY(read_sparse(c, config, err));
    if (k->hybrid)
        TRY(read_hybrid(c, config, k->hybrid, err));
    TRY(read_rope(c, config, family, err));
    read_tokens(c, config, generation, k);
    TRY(read_sampling(c, generation, err));
    const char *method = get_str(get(config, "quantization_config"), "quant_method");
    if (get(config, "quantization_config"))
        snprintf(c->quant_method, sizeof c->quant_method, "%s", method ? method : "unknown");
    return sala_config_finish(c, err);
}

sala_status sala_config_from_json(sala_config *out, const json_t *config, const json_t *generation, sala_error *err)
{
    if (!json_is_object(config))
        return sala_fail(err, SALA_E_CORRUPT, "config.json is not a JSON object");
    if (generation && !json_is_object(generation))
        return sala_fail(err, SALA_E_CORRUPT, "generation_config.json is not a JSON object");
    sala_config c;
    sala_config_init(&c);
    const sala_status st = read_all(&c, config, generation, err);
    if (st != SALA_OK) {
        sala_config_free(&c);
        return st;
    }
    *out = c;
    return SALA_OK;
}

/* ---- a directory ---- */

/* *out stays NULL when an optional file is absent. */
static sala_status load_path(json_t **out, const char *path, bool optional, sala_error *err)
{
    uint8_t *text = NULL;
    size_t bytes = 0;
    sala_status st = SALA_OK;
    const int e = sala_os_read_file(&text, &bytes, path, MAX_JSON_BYTES);
    if (e == ENOENT && optional)
        return SALA_OK;
    if (e == EFBIG) {
        st = sala_fail(err, SALA_E_LIMIT, "%s is larger than %u MiB", path, MAX_JSON_BYTES >> 20);
    } else if (e) {
        st = sala_fail_errno(err, e, "could not read %s", path);
    } else {
        json_error_t je;
        *out = sala_json_loadb((const char *)text, bytes, 0, &je);
        if (!*out)
            st = sala_fail_at(err, SALA_E_CORRUPT, je.position, "%s is not valid JSON: %s (line %d, column %d)", path,
                              je.text, je.line, je.column);
    }
    free(text);
    return st;
}

static sala_status load_json(json_t **out, const char *dir, const char *file, bool optional, sala_error *err)
{
    char *path = sala_path_join(dir, file);
    if (!path)
        return sala_fail_memory(err, strlen(dir) + strlen(file));
    const sala_status st = load_path(out, path, optional, err);
    free(path);
    return st;
}

/* The last part of DIR, as a name to show; NULL when there is none ("." or "/"). */
static char *directory_name(const char *dir)
{
    size_t end = strlen(dir);
    while (end > 0 && dir[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && dir[begin - 1] != '/')
        begin--;
    if (begin == end || dir[begin] == '.')
        return NULL;
    return sala_strndup(dir + begin, end - begin);
}

sala_status sala_config_from_dir(sala_config *out, const char *dir, sala_error *err)
{
    json_t *config = NULL, *generation = NULL;
    sala_status st = load_json(&config, dir, "config.json", false, err);
    if (st == SALA_OK)
        st = load_json(&generation, dir, "generation_config.json", true, err);
    if (st == SALA_OK) {
        st = sala_config_from_json(out, config, generation, err);
        if (st != SALA_OK)
            st = sala_fail_prefix(err, st, "%s", dir);
    }
    if (st == SALA_OK)
        out->name = directory_name(dir);
    json_decref(config);
    json_decref(generation);
    return st;
}

sala_status sala_config_from_file(sala_config *out, const char *path, sala_error *err)
{
    json_t *config = NULL;
    sala_status st = load_path(&config, path, false, err);
    if (st != SALA_OK)
        return st;
    st = sala_config_from_json(out, config, NULL, err);
    json_decref(config);
    if (st != SALA_OK)
        return sala_fail_prefix(err, st, "%s", path);
    out->name = directory_name(path);
    char *end = out->name ? strrchr(out->name, '.') : NULL;
    if (end && strcmp(end, ".json") == 0)
        *end = 0;
    return SALA_OK;
}
