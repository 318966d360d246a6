/* A model's configuration from GGUF metadata, with the keys, defaults and habits of llama.cpp's converters. */
#include "model/config_internal.h"

#include "format/index.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct source {
    const sala_gguf *g;
    const char *arch;
    sala_error *err;
    char key[160]; /* the key looked at last */
} source;

static const char *arch_key(source *s, const char *name)
{
    snprintf(s->key, sizeof s->key, "%s.%s", s->arch, name);
    return s->key;
}

/* An integer, or an array whose elements are all the same (some files give head counts per layer). `fallback` < 0 means
 * that the key must be there. */
static sala_status get_int(source *s, int32_t *out, const char *name, int64_t fallback)
{
    const sala_gguf_kv *kv = sala_gguf_find(s->g, arch_key(s, name));
    int64_t v = fallback;
    if (!kv) {
        if (fallback < 0)
            return sala_fail(s->err, SALA_E_CORRUPT, "metadata lacks %s", s->key);
    } else if (kv->type == SALA_GGUF_ARRAY) {
        for (uint64_t i = 0; i < kv->count; i++) {
            int64_t e;
            if (!sala_gguf_array_i64(kv, i, &e))
                return sala_fail(s->err, SALA_E_CORRUPT, "%s is not an array of integers", s->key);
            if (i > 0 && e != v)
                return sala_fail(s->err, SALA_E_UNSUPPORTED,
                                 "%s differs between layers (%" PRId64 " and %" PRId64 "), which is not supported",
                                 s->key, v, e);
            v = e;
        }
        if (kv->count == 0)
            return sala_fail(s->err, SALA_E_CORRUPT, "%s is an empty array", s->key);
    } else if (!sala_gguf_get_i64(s->g, s->key, &v)) {
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not an integer", s->key);
    }
    if (v < 0 || v > INT32_MAX)
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is %" PRId64 ", expected 0 to %" PRId32, s->key, v, INT32_MAX);
    *out = (int32_t)v;
    return SALA_OK;
}

/* *out stays as it is when the key is absent. */
static sala_status get_number(source *s, double *out, const char *name)
{
    if (!sala_gguf_find(s->g, arch_key(s, name)))
        return SALA_OK;
    if (!sala_gguf_get_f64(s->g, s->key, out))
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not a number", s->key);
    if (!isfinite(*out))
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is %g, expected a finite number", s->key, *out);
    return SALA_OK;
}

static bool has(source *s, const char *name)
{
    return sala_gguf_find(s->g, arch_key(s, name)) != NULL;
}

static const sala_tensor *layer_tensor(source *s, sala_tensor_role role, int layer)
{
    char name[96];
    return layer < 0 ? NULL : sala_gguf_tensor(s->g, sala_tensor_name(name, role, layer, false));
}

static const sala_tensor *tensor_of(source *s, sala_tensor_role role)
{
    return layer_tensor(s, role, 0);
}

static sala_status get_bool(source *s, bool *out, const char *name, bool fallback)
{
    *out = fallback;
    if (has(s, name) && !sala_gguf_get_bool(s->g, s->key, out))
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not true or false", s->key);
    return SALA_OK;
}

/* ---- shapes ---- */

/* The embedding's rows, since the tokenizer's list may be shorter. A file without weights still tells the size. */
static sala_status read_vocab(source *s, sala_config *c)
{
    const sala_tensor *embed = tensor_of(s, SALA_T_EMBED);
    if (embed) {
        if (embed->n_dims != 2 || embed->ne[1] > INT32_MAX)
            return sala_fail(s->err, SALA_E_CORRUPT, "tensor \"%s\" is not a matrix with up to 2^31 rows", embed->name);
        if (embed->ne[0] != c->n_embd)
            return sala_fail(s->err, SALA_E_CORRUPT,
                             "tensor \"%s\" has rows of %" PRId64 " elements, expected the hidden size %" PRId32,
                             embed->name, embed->ne[0], c->n_embd);
        c->n_vocab = (int32_t)embed->ne[1];
        return SALA_OK;
    }
    if (has(s, "vocab_size"))
        return get_int(s, &c->n_vocab, "vocab_size", -1);
    const sala_gguf_kv *tokens = sala_gguf_find(s->g, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != SALA_GGUF_ARRAY || tokens->count > INT32_MAX)
        return sala_fail(s->err, SALA_E_CORRUPT, "the file has neither token_embd.weight nor a vocabulary");
    c->n_vocab = (int32_t)tokens->count;
    return SALA_OK;
}

static sala_status read_shapes(source *s, sala_config *c)
{
    int32_t experts = 0, ctx = 0, value_length = 0;
    TRY(get_int(s, &c->n_layers, "block_count", -1));
    TRY(get_int(s, &c->n_embd, "embedding_length", -1));
    TRY(get_int(s, &c->n_heads, "attention.head_count", -1));
    TRY(get_int(s, &c->n_kv_heads, "attention.head_count_kv", c->n_heads));
    TRY(get_int(s, &c->n_ff, "feed_forward_length", -1));
    TRY(get_int(s, &ctx, "context_length", -1));
    c->n_ctx_train = ctx;
    TRY(get_int(s, &c->head_dim, "attention.key_length", c->n_heads > 0 ? c->n_embd / c->n_heads : 0));
    TRY(get_int(s, &value_length, "attention.value_length", c->head_dim));
    if (value_length != c->head_dim)
        return sala_fail(s->err, SALA_E_UNSUPPORTED,
                         "keys have %" PRId32 " components and values %" PRId32 " in a head, which is not supported",
                         c->head_dim, value_length);
    TRY(get_int(s, &experts, "expert_count", 0));
    if (experts > 0)
        return sala_fail(s->err, SALA_E_UNSUPPORTED,
                         "the model has %" PRId32 " experts; mixtures of experts are not supported", experts);
    TRY(get_int(s, &c->sliding_window, "attention.sliding_window", 0));
    TRY(get_number(s, &c->rms_eps, "attention.layer_norm_rms_epsilon"));
    TRY(get_number(s, &c->attn_scale, "attention.scale"));
    return read_vocab(s, c);
}

/* ---- mixers ---- */

/* Present when its block size is; readers that know nothing of it run the model densely. */
static sala_status read_sparse(source *s, sala_config *c)
{
    sala_sparse_config d = sala_sparse_defaults();
    const struct {
        const char *name;
        int32_t *out;
    } ints[] = {{"attention.sparse.block_size", &d.block_size},
                {"attention.sparse.kernel_size", &d.kernel_size},
                {"attention.sparse.init_blocks", &d.init_blocks},
                {"attention.sparse.kernel_stride", &d.kernel_stride},
                {"attention.sparse.topk", &d.topk},
                {"attention.sparse.window_size", &d.window_size}};
    if (!has(s, "attention.sparse.block_size"))
        return SALA_OK;
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++)
        TRY(get_int(s, ints[i].out, ints[i].name, *ints[i].out));
    if (d.block_size == 0)
        return sala_fail(s->err, SALA_E_CORRUPT, "%s.attention.sparse.block_size is 0, expected 1 or more", s->arch);
    if (has(s, "attention.sparse.dense_len") && !sala_gguf_get_i64(s->g, s->key, &d.dense_len))
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not an integer", s->key);
    TRY(get_bool(s, &d.use_nope, "attention.sparse.use_nope", false));
    c->sparse = d;
    return SALA_OK;
}

static sala_status read_mixers(source *s, sala_config *c)
{
    const sala_gguf_kv *kv = sala_gguf_find(s->g, arch_key(s, "attention.mixers"));
    if (!kv)
        return SALA_OK;
    if (kv->type != SALA_GGUF_ARRAY || kv->elem_type != SALA_GGUF_STRING)
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not an array of names", s->key);
    if (kv->count != (uint64_t)c->n_layers || c->n_layers < 1)
        return sala_fail(s->err, SALA_E_CORRUPT, "%s names %" PRIu64 " layers, expected %" PRId32 " (%s.block_count)",
                         s->key, kv->count, c->n_layers, s->arch);
    c->mixers = malloc((size_t)kv->count * sizeof *c->mixers);
    if (!c->mixers)
        return sala_fail_memory(s->err, kv->count * sizeof *c->mixers);
    sala_reader r = sala_gguf_array_reader(kv);
    for (uint64_t i = 0; i < kv->count; i++) {
        const char *name = "";
        size_t len = 0;
        int kind = SALA_MIXER_DENSE;
        if (!sala_gguf_next_str(&r, &name, &len))
            return sala_fail(s->err, SALA_E_CORRUPT, "%s ends early", s->key);
        while (kind <= SALA_MIXER_LIGHTNING && (strlen(sala_mixer_kind_name((sala_mixer_kind)kind)) != len ||
                                                memcmp(sala_mixer_kind_name((sala_mixer_kind)kind), name, len) != 0))
            kind++;
        if (kind > SALA_MIXER_LIGHTNING)
            return sala_fail(s->err, SALA_E_UNSUPPORTED,
                             "%s: layer %" PRIu64 " is \"%.*s\", expected \"dense\", \"sparse\" or \"lightning\"",
                             s->key, i, (int)(len < 40 ? len : 40), sala_name_is_clean(name, len) ? name : "?");
        c->mixers[i] = (sala_mixer_kind)kind;
        if (kind == SALA_MIXER_SPARSE && c->sparse.block_size == 0)
            return sala_fail(s->err, SALA_E_CORRUPT,
                             "%s: layer %" PRIu64 " is sparse, but the file lacks %s.attention.sparse.block_size",
                             s->key, i, s->arch);
    }
    return SALA_OK;
}

static int first_layer(const sala_config *c, bool lightning)
{
    if (!c->mixers)
        return lightning ? -1 : 0;
    for (int l = 0; l < c->n_layers; l++)
        if ((c->mixers[l] == SALA_MIXER_LIGHTNING) == lightning)
            return l;
    return -1;
}

static sala_status read_lightning(source *s, sala_config *c)
{
    sala_lightning_config *l = &c->lightning;
    const int layer = first_layer(c, true);
    if (layer < 0)
        return SALA_OK;
    TRY(get_int(s, &l->n_heads, "lightning.head_count", c->n_heads));
    TRY(get_int(s, &l->n_kv_heads, "lightning.head_count_kv", l->n_heads));
    TRY(get_int(s, &l->head_dim, "lightning.key_length", c->head_dim));
    l->scale = l->head_dim > 0 ? 1 / sqrt((double)l->head_dim) : 1;
    TRY(get_number(s, &l->scale, "lightning.scale"));
    TRY(get_bool(s, &l->rope, "lightning.rope", true));
    l->qk_norm = layer_tensor(s, SALA_T_Q_NORM, layer) != NULL;
    l->out_norm = layer_tensor(s, SALA_T_MIX_NORM, layer) != NULL;
    l->gate = layer_tensor(s, SALA_T_LINEAR_GATE, layer) != NULL;
    return SALA_OK;
}

/* A file that holds a vocabulary only has no tensors to look at; the family's habits stand in. */
static sala_status read_switches(source *s, sala_config *c, const sala_family *family)
{
    TRY(read_sparse(s, c));
    TRY(read_mixers(s, c));
    TRY(read_lightning(s, c));
    TRY(get_bool(s, &c->attn_rope, "attention.rope", true));
    TRY(get_number(s, &c->attn_scale_base, "attention.scale_base"));
    if (!tensor_of(s, SALA_T_ATTN_NORM)) {
        c->qkv_bias = family->qkv_bias;
        c->qk_norm = family->qk_norm;
        return SALA_OK;
    }
    const int softmax = first_layer(c, false);
    c->tied_head = !tensor_of(s, SALA_T_HEAD);
    c->qkv_bias = tensor_of(s, SALA_T_Q_BIAS) != NULL;
    c->o_bias = tensor_of(s, SALA_T_O_BIAS) != NULL;
    c->mlp_bias = tensor_of(s, SALA_T_GATE_BIAS) != NULL;
    c->qk_norm = layer_tensor(s, SALA_T_Q_NORM, softmax) != NULL;
    c->attn_gate = layer_tensor(s, SALA_T_ATTN_GATE, softmax) != NULL;
    return SALA_OK;
}

/* Files from before the scale keys existed mean the constants that all dense MiniCPM models share. */
static sala_status read_mup(source *s, sala_config *c, const sala_family *family)
{
    c->embed_scale = 12;
    c->residual_scale = c->n_layers > 0 ? 1.4 / sqrt((double)c->n_layers) : 1;
    c->logit_divisor = c->n_embd / 256.0;
    TRY(get_number(s, &c->embed_scale, "embedding_scale"));
    TRY(get_number(s, &c->residual_scale, "residual_scale"));
    TRY(get_number(s, &c->logit_divisor, "logit_scale"));
    /* Some writers stored the inverse. No dense model of this family is narrower than its base width of 256, so that a
     * value below one can only be that. */
    if (family->gguf_permuted && c->logit_divisor > 0 && c->logit_divisor < 1 && c->n_embd >= 256)
        c->logit_divisor = 1 / c->logit_divisor;
    return SALA_OK;
}

/* ---- rope ---- */

static sala_status read_factors(source *s, float **out, int32_t *n, const sala_tensor *t)
{
    if (t->dtype != SALA_F32 || t->n_dims != 1 || t->ne[0] > 65536)
        return sala_fail(s->err, SALA_E_CORRUPT, "tensor \"%s\" is not a short list of F32 numbers", t->name);
    *out = malloc((size_t)t->bytes);
    if (!*out)
        return sala_fail_memory(s->err, t->bytes);
    sala_reader r = sala_reader_of(t->data, (size_t)t->bytes);
    for (int64_t i = 0; i < t->ne[0]; i++)
        (*out)[i] = sala_read_f32(&r);
    *n = (int32_t)t->ne[0];
    return SALA_OK;
}

/* As in llama.cpp, tensors with factors count whatever the metadata call the scaling. */
static sala_status read_factor_tensors(source *s, sala_config *c)
{
    const sala_tensor *freqs = tensor_of(s, SALA_T_ROPE_FREQS);
    const sala_tensor *lng = tensor_of(s, SALA_T_ROPE_LONG), *shrt = tensor_of(s, SALA_T_ROPE_SHORT);
    sala_rope_config *r = &c->rope;
    if (!freqs && !lng && !shrt)
        return SALA_OK;
    if (freqs) {
        r->kind = SALA_ROPE_FACTORS;
        TRY(read_factors(s, &r->short_factors, &r->n_factors, freqs));
        r->long_factors = r->short_factors;
        return SALA_OK;
    }
    r->kind = SALA_ROPE_LONGROPE;
    int32_t n_short = 0, n_long = 0;
    TRY(read_factors(s, &r->short_factors, &n_short, shrt ? shrt : lng));
    TRY(read_factors(s, &r->long_factors, &n_long, lng ? lng : shrt));
    if (n_short != n_long)
        return sala_fail(s->err, SALA_E_CORRUPT,
                         "%" PRId32 " short and %" PRId32 " long rope factors, expected equal numbers", n_short,
                         n_long);
    r->n_factors = n_short;
    if (r->attention_factor == 0)
        r->attention_factor = 1;
    return SALA_OK;
}

static sala_status read_rope(source *s, sala_config *c, const sala_family *family)
{
    sala_rope_config *r = &c->rope;
    const char *type = "linear"; /* what a factor alone means */
    size_t len = strlen(type);
    double factor = 0;
    int32_t original = 0;
    r->half = !family->gguf_permuted;
    TRY(get_int(s, &r->n_rot, "rope.dimension_count", sala_config_rope_head(c)));
    TRY(get_number(s, &r->theta, "rope.freq_base"));
    TRY(get_number(s, &factor, "rope.scale_linear")); /* the key of early files */
    TRY(get_number(s, &factor, "rope.scaling.factor"));
    TRY(get_int(s, &original, "rope.scaling.original_context_length", 0));
    TRY(get_number(s, &r->attention_factor, "rope.scaling.attn_factor"));
    TRY(get_number(s, &r->beta_fast, "rope.scaling.yarn_beta_fast"));
    TRY(get_number(s, &r->beta_slow, "rope.scaling.yarn_beta_slow"));
    r->original_max = original;
    if (has(s, "rope.scaling.type") &&
        (!sala_gguf_get_str(s->g, s->key, &type, &len) || !sala_name_is_clean(type, len)))
        return sala_fail(s->err, SALA_E_CORRUPT, "%s is not plain text", s->key);
    if (factor != 0)
        r->factor = factor;
#define IS(name) (len == strlen(name) && memcmp(type, name, len) == 0)
    if (IS("linear")) {
        r->kind = r->factor != 1 ? SALA_ROPE_LINEAR : SALA_ROPE_PLAIN;
    } else if (IS("yarn")) {
        /* In these files the factor for cos and sin multiplies the one that follows from the stretch. */
        const double given = r->attention_factor > 0 ? r->attention_factor : 1;
        r->kind = SALA_ROPE_YARN;
        r->attention_factor = given * (r->factor > 1 ? 1 + 0.1 * log(r->factor) : 1);
    } else if (!IS("none") && !IS("longrope")) {
        /* For longrope the factor tensors decide. Files without them were made by converters that dropped the lists;
         * llama.cpp runs those with plain angles, and so do we. */
        return sala_fail(s->err, SALA_E_UNSUPPORTED,
                         "rope scaling of type \"%.*s\" is not supported, expected none, linear, yarn or longrope",
                         (int)(len < 40 ? len : 40), type);
    }
#undef IS
    return read_factor_tensors(s, c);
}

/* ---- tokens and sampling ---- */

static int32_t token_id(const sala_gguf *g, const char *key)
{
    int64_t v;
    return sala_gguf_get_i64(g, key, &v) && v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
}

/* Texts of control tokens that end a turn in the chat formats of the supported families and their relatives. Files
 * name one end token only, often not the one that ends a chat turn. */
static bool ends_turn(const char *s, size_t n)
{
    static const char *const texts[] = {"<|im_end|>",      "<|eot_id|>",         "<|eom_id|>",
                                        "<|end_of_text|>", "<|endoftext|>",      "<|end|>",
                                        "<end_of_turn>",   "<end_of_utterance>", "<|eot|>"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(texts); i++)
        if (strlen(texts[i]) == n && memcmp(texts[i], s, n) == 0)
            return true;
    return false;
}

enum { TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4 };

static void read_tokens(const sala_gguf *g, sala_config *c)
{
    static const char *const end_keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
    c->bos = token_id(g, "tokenizer.ggml.bos_token_id");
    c->pad = token_id(g, "tokenizer.ggml.padding_token_id");
    for (size_t i = 0; i < SALA_ARRAY_LEN(end_keys); i++)
        sala_config_add_eos(c, token_id(g, end_keys[i]));
    const sala_gguf_kv *tokens = sala_gguf_find(g, "tokenizer.ggml.tokens");
    const sala_gguf_kv *types = sala_gguf_find(g, "tokenizer.ggml.token_type");
    if (!tokens || tokens->type != SALA_GGUF_ARRAY || tokens->elem_type != SALA_GGUF_STRING || !types)
        return;
    sala_reader r = sala_gguf_array_reader(tokens);
    for (uint64_t i = 0; i < tokens->count; i++) {
        const char *s;
        size_t n;
        int64_t type;
        if (!sala_gguf_next_str(&r, &s, &n))
            return;
        if (n >= 7 && s[0] == '<' && ends_turn(s, n) && sala_gguf_array_i64(types, i, &type) &&
            (type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED))
            sala_config_add_eos(c, (int64_t)i);
    }
}

static void read_sampling(const sala_gguf *g, sala_config *c)
{
    int64_t k;
    (void)sala_gguf_get_f64(g, "general.sampling.temp", &c->gen_temperature);
    (void)sala_gguf_get_f64(g, "general.sampling.top_p", &c->gen_top_p);
    (void)sala_gguf_get_f64(g, "general.sampling.min_p", &c->gen_min_p);
    (void)sala_gguf_get_f64(g, "general.sampling.penalty_repeat", &c->gen_repeat_penalty);
    if (sala_gguf_get_i64(g, "general.sampling.top_k", &k) && k >= 0 && k <= INT32_MAX)
        c->gen_top_k = (int32_t)k;
    double *const values[] = {&c->gen_temperature, &c->gen_top_p, &c->gen_min_p, &c->gen_repeat_penalty};
    for (size_t i = 0; i < SALA_ARRAY_LEN(values); i++)
        if (!isfinite(*values[i]))
            *values[i] = -1;
}

static sala_status read_all(source *s, sala_config *c, const sala_family *family)
{
    TRY(read_shapes(s, c));
    TRY(read_switches(s, c, family));
    if (family->mup_scales)
        TRY(read_mup(s, c, family));
    TRY(read_rope(s, c, family));
    const char *name;
    size_t len;
    if (sala_gguf_get_str(s->g, "general.name", &name, &len) && len > 0) {
        c->name = sala_strndup(name, len);
        if (!c->name)
            return sala_fail_memory(s->err, len);
    }
    read_tokens(s->g, c);
    read_sampling(s->g, c);
    return sala_config_finish(c, s->err);
}

sala_status sala_config_from_gguf(sala_config *out, const sala_gguf *g, sala_error *err)
{
    const char *arch;
    size_t len;
    if (!sala_gguf_get_str(g, "general.architecture", &arch, &len))
        return sala_fail(err, SALA_E_CORRUPT, "metadata lacks general.architecture; is this a language model?");
    sala_config c;
    sala_config_init(&c);
    snprintf(c.architecture, sizeof c.architecture, "%.*s", (int)(len < 63 ? len : 63), arch);
    if (!sala_name_is_clean(arch, len))
        return sala_fail(err, SALA_E_CORRUPT, "general.architecture is not plain text");
    const sala_family *family = len < sizeof c.architecture ? sala_family_by_name(c.architecture) : NULL;
    if (!family)
        return sala_fail(err, SALA_E_UNSUPPORTED, "architecture \"%s\" is not supported, expected one of: %s",
                         c.architecture, sala_family_names());
    source s = {.g = g, .arch = family->name, .err = err};
    const sala_status st = read_all(&s, &c, family);
    if (st != SALA_OK) {
        sala_config_free(&c);
        return st;
    }
    *out = c;
    return SALA_OK;
}
