/* Anything to GGUF: metadata, then the stream of tensors. */
#include "quant/plan.h"

#include "text/chat.h"
#include "text/tokenizer.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define QUANTIZATION_VERSION 2 /* of ggml's block formats */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

/* ---- metadata of a directory ---- */

typedef struct keys {
    sala_gguf_writer *w;
    const char *arch;
    char text[160];
} keys;

static const char *key(keys *k, const char *name)
{
    snprintf(k->text, sizeof k->text, "%s.%s", k->arch, name);
    return k->text;
}

static void put_u32(keys *k, const char *name, int64_t v)
{
    sala_gguf_write_u32(k->w, key(k, name), (uint32_t)v);
}

static void put_f32(keys *k, const char *name, double v)
{
    sala_gguf_write_f32(k->w, key(k, name), (float)v);
}

static void put_text(keys *k, const char *name, const char *v)
{
    sala_gguf_write_str(k->w, key(k, name), v, strlen(v));
}

static void write_sampling(sala_gguf_writer *w, const sala_config *c)
{
    if (c->gen_temperature >= 0)
        sala_gguf_write_f32(w, "general.sampling.temp", (float)c->gen_temperature);
    if (c->gen_top_k >= 0)
        sala_gguf_write_i32(w, "general.sampling.top_k", c->gen_top_k);
    if (c->gen_top_p >= 0)
        sala_gguf_write_f32(w, "general.sampling.top_p", (float)c->gen_top_p);
    if (c->gen_min_p >= 0)
        sala_gguf_write_f32(w, "general.sampling.min_p", (float)c->gen_min_p);
    if (c->gen_repeat_penalty >= 0)
        sala_gguf_write_f32(w, "general.sampling.penalty_repeat", (float)c->gen_repeat_penalty);
}

/* The factor for cos and sin in these files multiplies the one that readers derive from YaRN's stretch. */
static sala_status write_rope(const sala_plan *p, keys *k, sala_error *err)
{
    const sala_config *c = &p->config;
    const sala_rope_config *r = &c->rope;
    put_u32(k, "rope.dimension_count", r->n_rot);
    put_f32(k, "rope.freq_base", r->theta);
    double *scratch = malloc((size_t)(r->n_rot / 2 + 1) * sizeof *scratch);
    if (!scratch)
        return sala_fail_memory(err, (uint64_t)r->n_rot * sizeof *scratch);
    const double factor = sala_rope_inv_freq(c, false, scratch);
    free(scratch);
    const int64_t original = r->original_max > 0 ? r->original_max : c->n_ctx_train;
    switch (r->kind) {
    case SALA_ROPE_NONE:
        return sala_fail(err, SALA_E_UNSUPPORTED, "GGUF has no key for models without rope");
    case SALA_ROPE_LINEAR:
        put_text(k, "rope.scaling.type", "linear");
        put_f32(k, "rope.scaling.factor", r->factor);
        break;
    case SALA_ROPE_YARN: {
        const double derived = r->factor > 1 ? 1 + 0.1 * log(r->factor) : 1;
        if (!r->yarn_truncate)
            sala_plan_notice(p, "YaRN with fractional correction dimensions (\"truncate\": false) has no key in GGUF; "
                                "positions beyond the original context will differ slightly");
        put_text(k, "rope.scaling.type", "yarn");
        put_f32(k, "rope.scaling.factor", r->factor);
        put_u32(k, "rope.scaling.original_context_length", original);
        if (fabs(factor / derived - 1) > 1e-6)
            put_f32(k, "rope.scaling.attn_factor", factor / derived);
        if (r->beta_fast != 32 || r->beta_slow != 1) {
            put_f32(k, "rope.scaling.yarn_beta_fast", r->beta_fast);
            put_f32(k, "rope.scaling.yarn_beta_slow", r->beta_slow);
        }
        break;
    }
    case SALA_ROPE_LONGROPE:
        put_text(k, "rope.scaling.type", "longrope");
        if (original != c->n_ctx_train)
            put_u32(k, "rope.scaling.original_context_length", original);
        if (factor != 1)
            put_f32(k, "rope.scaling.attn_factor", factor);
        break;
    case SALA_ROPE_PLAIN:
    case SALA_ROPE_LLAMA3: /* a tensor says it all */
    case SALA_ROPE_FACTORS:
        break;
    }
    return SALA_OK;
}

/* The kinds of layers, and what sparse and linear ones need. Ours alone: docs/formats.md. */
static sala_status write_mixers(const sala_config *c, const sala_family *family, keys *k, sala_error *err)
{
    const sala_sparse_config *s = &c->sparse;
    const sala_lightning_config *l = &c->lightning;
    if (s->block_size > 0) {
        put_u32(k, "attention.sparse.kernel_size", s->kernel_size);
        put_u32(k, "attention.sparse.kernel_stride", s->kernel_stride);
        put_u32(k, "attention.sparse.block_size", s->block_size);
        put_u32(k, "attention.sparse.init_blocks", s->init_blocks);
        put_u32(k, "attention.sparse.topk", s->topk);
        put_u32(k, "attention.sparse.window_size", s->window_size);
        if (s->dense_len <= INT32_MAX)
            sala_gguf_write_i32(k->w, key(k, "attention.sparse.dense_len"), (int32_t)s->dense_len);
        else
            sala_gguf_write_u64(k->w, key(k, "attention.sparse.dense_len"), (uint64_t)s->dense_len);
        sala_gguf_write_bool(k->w, key(k, "attention.sparse.use_nope"), s->use_nope);
    }
    if (!c->attn_rope)
        sala_gguf_write_bool(k->w, key(k, "attention.rope"), false);
    if (c->attn_scale_base > 0)
        put_f32(k, "attention.scale_base", c->attn_scale_base);
    if (l->n_heads > 0) {
        put_u32(k, "lightning.head_count", l->n_heads);
        put_u32(k, "lightning.head_count_kv", l->n_kv_heads);
        put_u32(k, "lightning.key_length", l->head_dim);
        if (l->scale != 1 / sqrt((double)l->head_dim))
            put_f32(k, "lightning.scale", l->scale);
        sala_gguf_write_bool(k->w, key(k, "lightning.rope"), l->rope);
    }
    if (!family->hybrid)
        return SALA_OK;
    sala_gguf_str *names = malloc((size_t)c->n_layers * sizeof *names);
    if (!names)
        return sala_fail_memory(err, (uint64_t)c->n_layers * sizeof *names);
    for (int32_t i = 0; i < c->n_layers; i++) {
        names[i].s = sala_mixer_kind_name(c->mixers[i]);
        names[i].len = strlen(names[i].s);
    }
    sala_gguf_write_array(k->w, key(k, "attention.mixers"), SALA_GGUF_STRING, names, (uint64_t)c->n_layers);
    free(names);
    return SALA_OK;
}

static sala_status write_architecture(const sala_plan *p, sala_gguf_writer *w, sala_error *err)
{
    const sala_config *c = &p->config;
    keys k = {.w = w, .arch = p->family->name};
    if (c->n_ctx_train > UINT32_MAX)
        return sala_fail(err, SALA_E_UNSUPPORTED, "a context of %lld tokens does not fit a GGUF key",
                         (long long)c->n_ctx_train);
    put_u32(&k, "vocab_size", c->n_vocab);
    put_u32(&k, "block_count", c->n_layers);
    put_u32(&k, "context_length", c->n_ctx_train);
    put_u32(&k, "embedding_length", c->n_embd);
    put_u32(&k, "feed_forward_length", c->n_ff);
    put_u32(&k, "attention.head_count", c->n_heads);
    put_u32(&k, "attention.head_count_kv", c->n_kv_heads);
    put_u32(&k, "attention.key_length", c->head_dim);
    put_u32(&k, "attention.value_length", c->head_dim);
    put_f32(&k, "attention.layer_norm_rms_epsilon", c->rms_eps);
    if (c->sliding_window > 0)
        put_u32(&k, "attention.sliding_window", c->sliding_window);
    if (fabs(c->attn_scale * sqrt((double)c->head_dim) - 1) > 1e-9)
        put_f32(&k, "attention.scale", c->attn_scale);
    if (p->family->mup_scales) {
        put_f32(&k, "embedding_scale", c->embed_scale);
        put_f32(&k, "residual_scale", c->residual_scale);
        put_f32(&k, "logit_scale", c->logit_divisor);
    }
    TRY(write_mixers(c, p->family, &k, err));
    return write_rope(p, &k, err);
}

/* Tokens that end a turn beyond the tokenizer's own end token: readers know one more. */
static void write_end_of_turn(const sala_config *c, const sala_tokenizer *t, sala_gguf_writer *w)
{
    for (int i = 0; i < c->n_eos; i++) {
        if (c->eos[i] != sala_tokenizer_eos(t)) {
            sala_gguf_write_u32(w, "tokenizer.ggml.eot_token_id", (uint32_t)c->eos[i]);
            return;
        }
    }
}

sala_status sala_plan_write_tokenizer(const sala_plan *p, const sala_tokenizer *t, const char *chat_template,
                                      sala_gguf_writer *w, sala_error *err)
{
    const char *notice = NULL;
    TRY(sala_tokenizer_write_gguf(t, w, p->config.n_vocab, &notice, err));
    if (notice)
        sala_plan_notice(p, "%s", notice);
    write_end_of_turn(&p->config, t, w);
    if (chat_template)
        sala_gguf_write_str(w, "tokenizer.chat_template", chat_template, strlen(chat_template));
    return SALA_OK;
}

sala_status sala_plan_write_text(const sala_plan *p, const char *dir, sala_gguf_writer *w, sala_error *err)
{
    sala_tokenizer *t;
    char *source = NULL;
    sala_status st = sala_tokenizer_from_dir(&t, dir, err);
    if (st == SALA_E_NOT_FOUND) { /* as llama.cpp's converter names it */
        sala_plan_notice(p, "%s has no tokenizer: the new file takes ids only", dir);
        sala_gguf_write_str(w, "tokenizer.ggml.model", "none", 4);
        return SALA_OK;
    }
    if (st != SALA_OK)
        return st;
    st = sala_chat_template_of_dir(&source, dir, false, err);
    if (st == SALA_OK)
        st = sala_plan_write_tokenizer(p, t, source, w, err);
    free(source);
    sala_tokenizer_free(t);
    return st;
}

static sala_dtype most_common(const sala_plan *p)
{
    sala_quant_result r = {0};
    sala_plan_result(p, &r);
    return sala_dtype_by_name(r.main_type);
}

sala_status sala_plan_write_keys(const sala_plan *p, sala_gguf_writer *w, sala_error *err)
{
    const char *name = p->params->name ? p->params->name : p->config.name;
    const sala_recipe recipe =
        p->recipe != SALA_RECIPE_NONE ? p->recipe : sala_recipe_by_name(sala_dtype_name(most_common(p)));
    sala_gguf_write_str(w, "general.architecture", p->family->name, strlen(p->family->name));
    sala_gguf_write_str(w, "general.type", "model", 5);
    if (name)
        sala_gguf_write_str(w, "general.name", name, strlen(name));
    write_sampling(w, &p->config);
    TRY(write_architecture(p, w, err));
    sala_gguf_write_u32(w, "general.file_type", (uint32_t)sala_recipe_file_type(recipe));
    sala_gguf_write_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
    return SALA_OK;
}

/* ---- metadata of GGUF ---- */

static void write_copied_keys(const sala_plan *p, sala_gguf_writer *w)
{
    const bool typed = p->recipe != SALA_RECIPE_NONE;
    bool has_version = false;
    for (size_t i = 0; i < sala_gguf_n_kv(p->gguf); i++) {
        const sala_gguf_kv *kv = sala_gguf_kv_at(p->gguf, i);
        const bool version = strcmp(kv->key, "general.quantization_version") == 0;
        has_version |= version;
        if ((typed && (version || strcmp(kv->key, "general.file_type") == 0)) ||
            (p->params->name && strcmp(kv->key, "general.name") == 0) || strncmp(kv->key, "split.", 6) == 0)
            continue;
        sala_gguf_write_kv(w, kv);
    }
    if (p->params->name)
        sala_gguf_write_str(w, "general.name", p->params->name, strlen(p->params->name));
    if (typed)
        sala_gguf_write_u32(w, "general.file_type", (uint32_t)sala_recipe_file_type(p->recipe));
    if (typed || !has_version)
        sala_gguf_write_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
}

/* ---- all of it ---- */

static sala_status to_writer(void *user, size_t item, uint64_t offset, const void *data, uint64_t bytes,
                             sala_error *err)
{
    return sala_gguf_write_data(user, item, offset, data, bytes, err);
}

static sala_status write_file(const sala_plan *p, const char *in, const char *out, sala_error *err)
{
    sala_gguf_writer *w;
    sala_status st = sala_gguf_writer_open(&w, out, err);
    if (st != SALA_OK)
        return st;
    if (p->st) {
        st = sala_plan_write_keys(p, w, err);
        if (st == SALA_OK)
            st = sala_plan_write_text(p, in, w, err);
    } else {
        write_copied_keys(p, w);
    }
    if (st == SALA_OK) {
        for (size_t i = 0; i < p->n_items; i++)
            sala_gguf_write_tensor(w, p->items[i].name, p->items[i].dtype, p->items[i].n_dims, p->items[i].ne);
        st = sala_gguf_writer_begin_data(w, err);
    }
    if (st == SALA_OK)
        st = sala_stream_run(p->items, p->n_items, p->params, to_writer, w, err);
    if (st != SALA_OK) {
        sala_gguf_writer_abort(w);
        return st;
    }
    return sala_gguf_writer_commit(w, err);
}

static bool same_file(const char *a, const char *b)
{
    char x[PATH_MAX], y[PATH_MAX];
    return realpath(a, x) && realpath(b, y) && strcmp(x, y) == 0;
}

sala_status sala_quant_to_gguf(const char *in, const char *out, const sala_quant_params *params,
                               sala_quant_result *result, sala_error *err)
{
    static const sala_quant_params defaults;
    sala_quant_result r = {0};
    sala_plan p = {.params = params ? params : &defaults, .recipe = SALA_RECIPE_NONE};
    const char *type = p.params->type;
    const double start = sala_os_seconds();
    if (type && strcasecmp(type, "auto") != 0) {
        p.recipe = sala_recipe_by_name(type);
        if (p.recipe == SALA_RECIPE_NONE)
            return sala_fail(err, SALA_E_INVALID, "type \"%.40s\" is unknown; use one of %s", type,
                             sala_recipe_names());
    }
    if (same_file(in, out))
        return sala_fail(err, SALA_E_INVALID, "%s is the source and can not be the output too", out);
    sala_status st = sala_os_is_dir(in) ? sala_plan_from_dir(&p, in, err) : sala_plan_from_gguf(&p, in, err);
    if (st == SALA_OK)
        st = sala_plan_types(&p, err);
    if (st == SALA_OK && !p.params->dry_run)
        st = write_file(&p, in, out, err);
    if (st == SALA_OK && result) {
        sala_plan_result(&p, &r);
        r.has_tokenizer = true;
        r.seconds = sala_os_seconds() - start;
        *result = r;
    }
    sala_plan_close(&p);
    return st;
}
