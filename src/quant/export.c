/* GGUF to a Hugging Face directory: weights first, so that a directory with a config.json is a whole one. */
#include "quant/export.h"

#include "text/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

/* ---- files ---- */

sala_status sala_export_write_file(const char *dir, const char *name, const char *text, size_t bytes, sala_error *err)
{
    char *path = sala_path_join(dir, name);
    if (!path)
        return sala_fail_memory(err, strlen(dir) + strlen(name));
    sala_out_file *f;
    int e = sala_os_out_open(&f, path);
    if (!e) {
        (void)sala_os_out_write(f, text, bytes); /* commit reports a failure */
        e = sala_os_out_commit(f);
    }
    const sala_status st = e ? sala_fail_errno(err, e, "could not write %s", path) : SALA_OK;
    free(path);
    return st;
}

sala_status sala_export_write_json(const char *dir, const char *name, json_t *json, sala_error *err)
{
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(json);
    if (!text)
        return sala_fail_memory(err, 4096);
    const sala_status st = sala_export_write_file(dir, name, text, strlen(text), err);
    free(text);
    return st;
}

/* ---- config.json ---- */

/* The shortest decimal that is this number as a 32-bit float, which is how GGUF keeps it: 1e-05, not 9.99999974e-06. */
static double short_decimal(double v)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v)
            return strtod(text, NULL);
    }
    return v;
}

static json_t *real(double v)
{
    return json_real(short_decimal(v));
}

static json_t *factor_list(const float *v, int32_t n)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, real((double)v[i]));
    return list;
}

/* The settings of Llama 3's scaling that give these divisors; false when none of the usual ones does. */
static bool find_llama3(const sala_config *c, sala_rope_config *found)
{
    const int32_t n = c->rope.n_rot / 2;
    double top = 1;
    bool good = false;
    double *inv = malloc((size_t)n * sizeof *inv);
    if (!inv)
        return false;
    for (int32_t i = 0; i < n; i++)
        top = fmax(top, (double)c->rope.short_factors[i]);
    for (int64_t original = 32; original <= 1 << 20 && !good; original *= 2) {
        sala_config trial = *c;
        trial.rope.kind = SALA_ROPE_LLAMA3;
        trial.rope.factor = top;
        trial.rope.low_freq_factor = 1;
        trial.rope.high_freq_factor = 4;
        trial.rope.original_max = original;
        (void)sala_rope_inv_freq(&trial, false, inv);
        good = true;
        for (int32_t i = 0; i < n && good; i++) {
            const double f = pow(c->rope.theta, -2.0 * i / c->rope.n_rot) / inv[i];
            good = fabs(f / (double)c->rope.short_factors[i] - 1) < 1e-4;
        }
        if (good)
            *found = trial.rope;
    }
    free(inv);
    return good;
}

/* NULL when there is nothing to say. Angles that no other kind describes fit longrope, whose lists are free. */
static json_t *rope_scaling(const sala_config *c)
{
    const sala_rope_config *r = &c->rope;
    const int64_t original = r->original_max > 0 ? r->original_max : c->n_ctx_train;
    sala_rope_config three = *r;
    double *scratch = malloc((size_t)(r->n_rot / 2 + 1) * sizeof *scratch);
    const double factor = scratch ? sala_rope_inv_freq(c, false, scratch) : 1;
    free(scratch);
    switch (r->kind) {
    case SALA_ROPE_LINEAR:
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", short_decimal(r->factor));
    case SALA_ROPE_YARN:
        return json_pack("{s:s, s:f, s:I, s:f, s:f, s:f}", "rope_type", "yarn", "factor", short_decimal(r->factor),
                         "original_max_position_embeddings", (json_int_t)original, "attention_factor", factor,
                         "beta_fast", short_decimal(r->beta_fast), "beta_slow", short_decimal(r->beta_slow));
    case SALA_ROPE_FACTORS:
        if (find_llama3(c, &three))
            return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", short_decimal(three.factor),
                             "low_freq_factor", three.low_freq_factor, "high_freq_factor", three.high_freq_factor,
                             "original_max_position_embeddings", (json_int_t)three.original_max);
        return json_pack("{s:s, s:o, s:o, s:I, s:f, s:f}", "rope_type", "longrope", "long_factor",
                         factor_list(r->short_factors, r->n_factors), "short_factor",
                         factor_list(r->short_factors, r->n_factors), "original_max_position_embeddings",
                         (json_int_t)c->n_ctx_train, "factor", 1.0, "attention_factor", 1.0);
    case SALA_ROPE_LONGROPE:
        return json_pack("{s:s, s:o, s:o, s:I, s:f, s:f}", "rope_type", "longrope", "long_factor",
                         factor_list(r->long_factors, r->n_factors), "short_factor",
                         factor_list(r->short_factors, r->n_factors), "original_max_position_embeddings",
                         (json_int_t)original, "factor", (double)c->n_ctx_train / (double)original, "attention_factor",
                         factor);
    default:
        return NULL;
    }
}

static json_t *end_tokens(const sala_config *c)
{
    if (c->n_eos == 0)
        return json_null();
    if (c->n_eos == 1)
        return json_integer(c->eos[0]);
    json_t *list = json_array();
    for (int i = 0; i < c->n_eos; i++)
        json_array_append_new(list, json_integer(c->eos[i]));
    return list;
}

static json_t *token_or_null(int32_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static const char *torch_dtype(sala_dtype t)
{
    return t == SALA_F32 ? "float32" : t == SALA_F16 ? "float16" : "bfloat16";
}

static json_t *sparse_config(const sala_sparse_config *s)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:I}", "kernel_size", (int)s->kernel_size, "kernel_stride",
                     (int)s->kernel_stride, "init_blocks", (int)s->init_blocks, "block_size", (int)s->block_size,
                     "window_size", (int)s->window_size, "topk", (int)s->topk, "use_nope", (int)s->use_nope,
                     "dense_len", (json_int_t)s->dense_len);
}

static json_t *mixer_types(const sala_config *c, const char *softmax)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < c->n_layers; i++)
        json_array_append_new(list, json_string(c->mixers[i] == SALA_MIXER_LIGHTNING ? "lightning-attn" : softmax));
    return list;
}

/* The formulas are all that the classes know; f32 is what GGUF keeps of a scale. */
static const char *lightning_scale(const sala_lightning_config *l)
{
    const double d = l->head_dim;
    return fabs(l->scale * sqrt(d) - 1) < 1e-6 ? "1/sqrt(d)" : fabs(l->scale * d - 1) < 1e-6 ? "1/d" : "1";
}

/* "hype 362": the word is free, the number is the base. */
static json_t *logits_scaling(const sala_config *c)
{
    const double factor = c->attn_scale * sqrt((double)c->head_dim);
    if (c->attn_scale_base > 0)
        return json_sprintf("hype %.9g", short_decimal(c->attn_scale_base));
    return fabs(factor - 1) < 1e-6 ? json_null() : real(factor);
}

/* The two families spell the switches of linear layers differently. */
static void add_hybrid(json_t *o, const sala_plan *p)
{
    const sala_config *c = &p->config;
    const sala_lightning_config *l = &c->lightning;
    const bool hype = strcmp(p->family->name, "hypenet") == 0;
    json_object_set_new(o, "mixer_types", mixer_types(c, hype ? "attn" : "minicpm4"));
    json_object_set_new(o, "attn_use_rope", json_boolean(c->attn_rope));
    json_object_set_new(o, "attn_use_output_gate", json_boolean(c->attn_gate));
    if (hype)
        json_object_set_new(o, "attn_logits_scaling", logits_scaling(c));
    if (l->n_heads == 0)
        return;
    json_object_set_new(o, "lightning_nh", json_integer(l->n_heads));
    json_object_set_new(o, "lightning_nkv", json_integer(l->n_kv_heads));
    json_object_set_new(o, "lightning_head_dim", json_integer(l->head_dim));
    json_object_set_new(o, "lightning_scale", json_string(lightning_scale(l)));
    json_object_set_new(o, "lightning_use_rope", json_boolean(l->rope));
    json_object_set_new(o, hype ? "lightning_use_qk_norm" : "qk_norm", json_boolean(l->qk_norm));
    json_object_set_new(o, hype ? "lightning_use_output_norm" : "use_output_norm", json_boolean(l->out_norm));
    json_object_set_new(o, hype ? "lightning_use_output_gate" : "use_output_gate", json_boolean(l->gate));
}

static json_t *model_config(const sala_plan *p, sala_dtype dtype)
{
    const sala_config *c = &p->config;
    json_t *o = json_object();
    json_object_set_new(o, "architectures", json_pack("[s]", p->family->hf_arch));
    json_object_set_new(o, "model_type", json_string(p->family->hf_types[0]));
    json_object_set_new(o, "vocab_size", json_integer(c->n_vocab));
    json_object_set_new(o, "hidden_size", json_integer(c->n_embd));
    json_object_set_new(o, "intermediate_size", json_integer(c->n_ff));
    json_object_set_new(o, "num_hidden_layers", json_integer(c->n_layers));
    json_object_set_new(o, "num_attention_heads", json_integer(c->n_heads));
    json_object_set_new(o, "num_key_value_heads", json_integer(c->n_kv_heads));
    json_object_set_new(o, "head_dim", json_integer(c->head_dim));
    json_object_set_new(o, "max_position_embeddings", json_integer(c->n_ctx_train));
    json_object_set_new(o, "hidden_act", json_string("silu"));
    json_object_set_new(o, "rms_norm_eps", real(c->rms_eps));
    json_object_set_new(o, "rope_theta", real(c->rope.theta));
    json_t *scaling = rope_scaling(c);
    if (scaling)
        json_object_set_new(o, "rope_scaling", scaling);
    json_object_set_new(o, "attention_bias", json_boolean(c->o_bias || (c->qkv_bias && !p->family->qkv_bias)));
    json_object_set_new(o, "mlp_bias", json_boolean(c->mlp_bias));
    json_object_set_new(o, "tie_word_embeddings", json_boolean(c->tied_head));
    if (p->family->mup_scales) {
        json_object_set_new(o, "scale_emb", real(c->embed_scale));
        json_object_set_new(o, "scale_depth", real(c->residual_scale * sqrt((double)c->n_layers)));
        json_object_set_new(o, "dim_model_base", real(c->n_embd / c->logit_divisor));
    }
    if (p->family->hybrid)
        add_hybrid(o, p);
    if (c->sparse.block_size > 0)
        json_object_set_new(o, "sparse_config", sparse_config(&c->sparse));
    if (c->sliding_window > 0) {
        json_object_set_new(o, "sliding_window", json_integer(c->sliding_window));
        json_object_set_new(o, "use_sliding_window", json_true());
        json_object_set_new(o, "max_window_layers", json_integer(0));
    }
    json_object_set_new(o, "bos_token_id", token_or_null(c->bos));
    json_object_set_new(o, "eos_token_id", end_tokens(c));
    json_object_set_new(o, "pad_token_id", token_or_null(c->pad));
    json_object_set_new(o, "torch_dtype", json_string(torch_dtype(dtype)));
    return o;
}

static json_t *generation_config(const sala_config *c)
{
    json_t *o = json_object();
    json_object_set_new(o, "bos_token_id", token_or_null(c->bos));
    json_object_set_new(o, "eos_token_id", end_tokens(c));
    json_object_set_new(o, "pad_token_id", token_or_null(c->pad));
    if (c->gen_temperature > 0) {
        json_object_set_new(o, "do_sample", json_true());
        json_object_set_new(o, "temperature", real(c->gen_temperature));
    }
    if (c->gen_top_k > 0)
        json_object_set_new(o, "top_k", json_integer(c->gen_top_k));
    if (c->gen_top_p > 0)
        json_object_set_new(o, "top_p", real(c->gen_top_p));
    if (c->gen_min_p > 0)
        json_object_set_new(o, "min_p", real(c->gen_min_p));
    if (c->gen_repeat_penalty > 0)
        json_object_set_new(o, "repetition_penalty", real(c->gen_repeat_penalty));
    return o;
}

/* ---- weights ---- */

/* Renames the items, drops what config.json says instead, and puts rows back into the order of half rotation. */
static sala_status to_hf_items(sala_plan *p, sala_dtype dtype, sala_error *err)
{
    size_t kept = 0;
    for (size_t i = 0; i < p->n_items; i++) {
        sala_stream_item *it = &p->items[i];
        sala_tensor_role role;
        int layer;
        char name[96];
        if (!sala_tensor_role_of(it->name, false, &role, &layer))
            return sala_fail(err, SALA_E_UNSUPPORTED, "tensor \"%s\" has no name in Hugging Face's layout", it->name);
        if (role == SALA_T_ROPE_FREQS || role == SALA_T_ROPE_LONG || role == SALA_T_ROPE_SHORT)
            continue;
        if (p->family->gguf_permuted &&
            (role == SALA_T_Q || role == SALA_T_K || role == SALA_T_Q_BIAS || role == SALA_T_K_BIAS)) {
            it->order = SALA_ROWS_TO_HF;
            it->head_rows = p->config.head_dim;
        }
        it->dtype = dtype;
        snprintf(it->name, sizeof it->name, "%s", sala_tensor_name(name, role, layer, true));
        p->items[kept++] = *it;
    }
    p->n_items = kept;
    return SALA_OK;
}

static sala_dtype source_dtype(const sala_plan *p)
{
    sala_quant_result r = {0};
    sala_plan_result(p, &r);
    const sala_dtype t = sala_dtype_by_name(r.main_type);
    return t == SALA_F32 || t == SALA_BF16 ? t : SALA_F16;
}

static sala_status to_writer(void *user, size_t item, uint64_t offset, const void *data, uint64_t bytes,
                             sala_error *err)
{
    return sala_safetensors_write_data(user, item, offset, data, bytes, err);
}

static sala_status write_weights(const sala_plan *p, const char *dir, sala_error *err)
{
    char *path = sala_path_join(dir, "model.safetensors");
    if (!path)
        return sala_fail_memory(err, strlen(dir));
    sala_safetensors_writer *w;
    sala_status st = sala_safetensors_writer_open(&w, path, err);
    free(path);
    if (st != SALA_OK)
        return st;
    for (size_t i = 0; i < p->n_items; i++)
        sala_safetensors_write_tensor(w, p->items[i].name, p->items[i].dtype, p->items[i].n_dims, p->items[i].ne);
    st = sala_safetensors_writer_begin_data(w, err);
    if (st == SALA_OK)
        st = sala_stream_run(p->items, p->n_items, p->params, to_writer, w, err);
    if (st != SALA_OK) {
        sala_safetensors_writer_abort(w);
        return st;
    }
    return sala_safetensors_writer_commit(w, err);
}

static sala_status write_files(sala_plan *p, const char *out, sala_dtype dtype, bool *has_tokenizer, sala_error *err)
{
    TRY(write_weights(p, out, err));
    TRY(sala_export_tokenizer(p, out, has_tokenizer, err));
    TRY(sala_export_write_json(out, "generation_config.json", generation_config(&p->config), err));
    return sala_export_write_json(out, "config.json", model_config(p, dtype), err);
}

static sala_status write_directory(sala_plan *p, const char *out, sala_dtype dtype, bool *has_tokenizer,
                                   sala_error *err)
{
    const bool ours = !sala_os_is_dir(out);
    const int e = sala_os_make_dirs(out);
    if (e)
        return sala_fail_errno(err, e, "could not make the directory %s", out);
    const sala_status st = write_files(p, out, dtype, has_tokenizer, err);
    if (st != SALA_OK && ours)
        remove(out); /* goes only while it is empty */
    return st;
}

sala_status sala_quant_to_hf(const char *in, const char *out, const sala_quant_params *params,
                             sala_quant_result *result, sala_error *err)
{
    static const sala_quant_params defaults;
    sala_quant_result r = {0};
    sala_plan p = {.params = params ? params : &defaults, .recipe = SALA_RECIPE_NONE};
    const char *type = p.params->type;
    const double start = sala_os_seconds();
    sala_dtype dtype = SALA_DTYPE_NONE;
    if (type && strcasecmp(type, "auto") != 0) {
        dtype = sala_dtype_by_name(type);
        if (dtype != SALA_F32 && dtype != SALA_F16 && dtype != SALA_BF16)
            return sala_fail(err, SALA_E_INVALID,
                             "type \"%.40s\" has no place in a Hugging Face directory; use f32, f16 or bf16", type);
    }
    sala_status st = sala_plan_from_gguf(&p, in, err);
    if (st == SALA_OK) {
        st = sala_config_from_gguf(&p.config, p.gguf, err);
        p.has_config = st == SALA_OK;
    }
    if (st == SALA_OK) {
        p.family = sala_family_by_name(p.config.architecture);
        for (size_t i = 0; i < p.n_items; i++)
            p.items[i].dtype = p.items[i].src->dtype;
        if (dtype == SALA_DTYPE_NONE)
            dtype = source_dtype(&p);
        st = to_hf_items(&p, dtype, err);
    }
    if (st == SALA_OK && !p.params->dry_run)
        st = write_directory(&p, out, dtype, &r.has_tokenizer, err);
    if (st == SALA_OK && result) {
        sala_plan_result(&p, &r);
        r.seconds = sala_os_seconds() - start;
        *result = r;
    }
    sala_plan_close(&p);
    return st;
}
