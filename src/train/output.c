/* See output.h. Everything is written into OUT/model.part, which takes the name OUT/model when it is whole; an older
 * model/ steps aside for the moment of the two renames. */
#include "train/output.h"

#include "base/json.h"
#include "format/safetensors.h"
#include "model/checkpoint.h"
#include "os/os.h"
#include "quant/quant.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHUNK = 1 << 18 }; /* weights converted at a time */

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

static sala_status write_bytes(const char *dir, const char *name, const void *data, size_t bytes, sala_error *err)
{
    char *path = sala_path_join(dir, name);
    if (!path)
        return sala_fail_memory(err, strlen(dir) + strlen(name));
    sala_out_file *f;
    int e = sala_os_out_open(&f, path);
    if (!e) {
        (void)sala_os_out_write(f, data, bytes); /* commit reports a failure */
        e = sala_os_out_commit(f);
    }
    const sala_status st = e ? sala_fail_errno(err, e, "could not write %s", path) : SALA_OK;
    free(path);
    return st;
}

/* Takes json. */
static sala_status write_json(const char *dir, const char *name, json_t *json, sala_error *err)
{
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(json);
    if (!text)
        return sala_fail_memory(err, 4096);
    const sala_status st = write_bytes(dir, name, text, strlen(text), err);
    free(text);
    return st;
}

/* ---- weights ---- */

static bool is_mtp(const sala_param *p)
{
    return strncmp(p->name, "mtp", 3) == 0;
}

static sala_status write_tensor(sala_safetensors_writer *w, size_t index, const sala_param *p, const float *values,
                                sala_dtype dtype, uint16_t *half, sala_error *err)
{
    const uint64_t n = p->rows ? (uint64_t)p->rows * (uint64_t)p->cols : (uint64_t)p->cols;
    const float *x = values + p->at;
    if (dtype == SALA_F32)
        return sala_safetensors_write_data(w, index, 0, x, n * sizeof *x, err);
    for (uint64_t at = 0; at < n; at += CHUNK) {
        const uint64_t m = n - at < CHUNK ? n - at : CHUNK;
        for (uint64_t i = 0; i < m; i++)
            half[i] = dtype == SALA_BF16 ? sala_f32_to_bf16(x[at + i]) : sala_f32_to_f16(x[at + i]);
        TRY(sala_safetensors_write_data(w, index, at * sizeof *half, half, m * sizeof *half, err));
    }
    return SALA_OK;
}

/* The tensors of the model, or those of multi-token prediction. */
static sala_status write_weights(const char *dir, const char *name, const sala_params *params, const float *values,
                                 sala_dtype dtype, bool mtp, sala_error *err)
{
    sala_safetensors_writer *w;
    char *path = sala_path_join(dir, name);
    uint16_t *half = malloc(CHUNK * sizeof *half);
    sala_status st =
        path && half ? sala_safetensors_writer_open(&w, path, err) : sala_fail_memory(err, CHUNK * sizeof *half);
    if (st == SALA_OK) {
        for (int i = 0; i < params->count; i++) {
            const sala_param *p = &params->items[i];
            const int64_t ne[2] = {p->cols, p->rows};
            if (is_mtp(p) == mtp)
                sala_safetensors_write_tensor(w, p->name, dtype, p->rows ? 2 : 1, ne);
        }
        st = sala_safetensors_writer_begin_data(w, err);
        size_t index = 0;
        for (int i = 0; i < params->count && st == SALA_OK; i++)
            if (is_mtp(&params->items[i]) == mtp)
                st = write_tensor(w, index++, &params->items[i], values, dtype, half, err);
        if (st == SALA_OK)
            st = sala_safetensors_writer_commit(w, err);
        else
            sala_safetensors_writer_abort(w);
    }
    free(half);
    free(path);
    return st;
}

/* ---- tokenizer ---- */

/* The character by which byte-level vocabularies write a byte: printable ones stand for themselves, the others follow
 * from U+0100 on, in order. */
static uint32_t byte_character(int byte)
{
    const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (shown)
        return (uint32_t)byte;
    uint32_t n = 0;
    for (int b = 0; b < byte; b++)
        n += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    return 0x100 + n;
}

static json_t *control_token(int id, const char *text)
{
    return json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", id, "content", text, "single_word", 0, "lstrip", 0,
                     "rstrip", 0, "normalized", 0, "special", 1);
}

json_t *sala_output_bytes_tokenizer(int64_t n_vocab)
{
    json_t *vocab = json_object();
    for (int b = 0; b < 256; b++) {
        char text[8] = "";
        text[sala_utf8_encode(text, byte_character(b))] = 0;
        json_object_set_new(vocab, text, json_integer(b));
    }
    json_object_set_new(vocab, "<s>", json_integer(256));
    json_object_set_new(vocab, "</s>", json_integer(257));
    for (int64_t i = 258; i < n_vocab; i++) {
        char text[40];
        snprintf(text, sizeof text, "<unused%" PRId64 ">", i - 258);
        json_object_set_new(vocab, text, json_integer(i));
    }
    json_t *level =
        json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1);
    json_t *added = json_array();
    json_array_append_new(added, control_token(256, "<s>"));
    json_array_append_new(added, control_token(257, "</s>"));
    return json_pack("{s:s,s:n,s:n,s:o,s:n,s:O,s:n,s:o,s:{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:o,s:[]}}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", level,
                     "post_processor", "decoder", level, "model", "type", "BPE", "dropout", "unk_token",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "vocab",
                     vocab, "merges");
}

static sala_status write_bytes_tokenizer(const sala_run_config *c, const char *dir, sala_error *err)
{
    TRY(write_json(dir, "tokenizer.json", sala_output_bytes_tokenizer(c->shape.n_vocab), err));
    return write_json(dir, "tokenizer_config.json",
                      json_pack("{s:s,s:s,s:s,s:b,s:I,s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token",
                                "<s>", "eos_token", "</s>", "add_bos_token", 0, "model_max_length",
                                (json_int_t)c->shape.n_ctx_train, "clean_up_tokenization_spaces", 0),
                      err);
}

static sala_status copy_file(const char *from, const char *dir, const char *name, sala_error *err)
{
    uint8_t *data;
    size_t bytes;
    const int e = sala_os_read_file(&data, &bytes, from, (size_t)1 << 30);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", from);
    const sala_status st = write_bytes(dir, name, data, bytes, err);
    free(data);
    return st;
}

static sala_status copy_from(const char *source, const char *dir, const char *const *names, size_t n, sala_error *err)
{
    for (size_t i = 0; i < n; i++) {
        char *from = sala_path_join(source, names[i]);
        if (!from)
            return sala_fail_memory(err, strlen(source));
        const sala_status st = sala_os_is_file(from) ? copy_file(from, dir, names[i], err) : SALA_OK;
        free(from);
        TRY(st);
    }
    return SALA_OK;
}

static const char *const tokenizer_files[] = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "merges.txt",      "chat_template.jinja",   "chat_template.json"};
static const char *const source_files[] = {"config.json", "generation_config.json"};

/* A GGUF's config and tokenizer as a directory would have them: the exporter writes all, and the weights are then
 * written over. */
static sala_status unpack_gguf(const char *gguf, const char *dir, const sala_output_words *words, sala_error *err)
{
    const sala_quant_params params = {.type = "bf16", .notice = words->line, .notice_user = words->user};
    return sala_quant_to_hf(gguf, dir, &params, NULL, err);
}

static sala_status write_tokenizer(const sala_run_config *c, const char *dir, const sala_output_words *words,
                                   sala_error *err)
{
    const char *t = c->tokenizer;
    if (!t || (c->model_from && !sala_os_is_dir(c->model_from)))
        return SALA_OK; /* came with the GGUF */
    if (strcmp(t, "bytes") == 0)
        return write_bytes_tokenizer(c, dir, err);
    if (sala_os_is_dir(t))
        return copy_from(t, dir, tokenizer_files, SALA_ARRAY_LEN(tokenizer_files), err);
    const size_t n = strlen(t);
    if (n > 5 && strcmp(t + n - 5, ".json") == 0) {
        const char *slash = strrchr(t, '/');
        char *parent = slash ? sala_strndup(t, (size_t)(slash - t) + 1) : sala_strdup(".");
        if (!parent)
            return sala_fail_memory(err, n);
        const sala_status st = copy_from(parent, dir, tokenizer_files, SALA_ARRAY_LEN(tokenizer_files), err);
        free(parent);
        return st == SALA_OK ? copy_file(t, dir, "tokenizer.json", err) : st;
    }
    return unpack_gguf(t, dir, words, err);
}

/* ---- config.json ---- */

static json_t *sparse_of(const sala_sparse_config *s)
{
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:b}", "kernel_size", (int)s->kernel_size, "kernel_stride",
                     (int)s->kernel_stride, "block_size", (int)s->block_size, "init_blocks", (int)s->init_blocks,
                     "topk", (int)s->topk, "window_size", (int)s->window_size, "dense_len", (json_int_t)s->dense_len,
                     "use_nope", (int)s->use_nope);
}

/* config.json of where the model came from, as a new reference, or the one that the keys of model: make. */
static sala_status base_config(json_t **out, const sala_run_config *c, const char *dir, sala_error *err)
{
    if (!c->model_from && !c->model_config) {
        *out = sala_run_model_json(c);
        return *out ? SALA_OK : sala_fail_memory(err, 4096);
    }
    char *path = c->model_config && !c->model_from ? sala_strdup(c->model_config) : sala_path_join(dir, "config.json");
    if (!path)
        return sala_fail_memory(err, strlen(dir));
    *out = sala_json_load_file(path);
    const sala_status st = *out ? SALA_OK : sala_fail(err, SALA_E_CORRUPT, "%s can not be read as JSON", path);
    free(path);
    return st;
}

/* Tokens that begin and end a text, from the files beside it, where the config says nothing of its own. */
static void add_tokens(json_t *config, const char *dir)
{
    sala_tokenizer *t;
    if (sala_tokenizer_from_dir(&t, dir, NULL) != SALA_OK)
        return;
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", sala_tokenizer_bos(t)},
               {"eos_token_id", sala_tokenizer_eos(t)},
               {"pad_token_id", sala_tokenizer_pad(t)}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(ids); i++)
        if (ids[i].id >= 0 && json_is_null(json_object_get(config, ids[i].key)))
            json_object_set_new(config, ids[i].key, json_integer(ids[i].id));
    sala_tokenizer_free(t);
}

static sala_status write_config(const sala_run_config *c, const char *dir, sala_dtype dtype, sala_error *err)
{
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"};
    json_t *config = NULL;
    TRY(base_config(&config, c, dir, err));
    json_object_set_new(config, "torch_dtype", json_string(dtypes[dtype == SALA_F16 ? 1 : dtype == SALA_BF16 ? 2 : 0]));
    json_object_del(config, "dtype");               /* the newer spelling of the same */
    json_object_del(config, "quantization_config"); /* weights are plain now */
    if (c->shape.sparse.block_size > 0)
        json_object_set_new(config, "sparse_config", sparse_of(&c->shape.sparse));
    else
        json_object_del(config, "sparse_config");
    add_tokens(config, dir);
    json_t *generation = json_object();
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(keys); i++)
        if (!json_is_null(json_object_get(config, keys[i])))
            json_object_set(generation, keys[i], json_object_get(config, keys[i]));
    char *path = sala_path_join(dir, "generation_config.json");
    const bool there = path && sala_os_is_file(path);
    free(path);
    sala_status st = SALA_OK;
    if (!there)
        st = write_json(dir, "generation_config.json", json_incref(generation), err);
    json_decref(generation);
    if (st != SALA_OK) {
        json_decref(config);
        return st;
    }
    return write_json(dir, "config.json", config, err);
}

/* ---- the whole ---- */

static sala_status fill(const sala_run_config *c, const sala_params *params, const float *values, const char *dir,
                        sala_dtype dtype, const sala_output_words *words, sala_error *err)
{
    if (c->model_from && sala_os_is_dir(c->model_from)) {
        TRY(copy_from(c->model_from, dir, source_files, SALA_ARRAY_LEN(source_files), err));
        TRY(copy_from(c->model_from, dir, tokenizer_files, SALA_ARRAY_LEN(tokenizer_files), err));
    } else if (c->model_from) {
        TRY(unpack_gguf(c->model_from, dir, words, err));
    }
    if (!c->model_from)
        TRY(write_tokenizer(c, dir, words, err));
    TRY(write_weights(dir, "model.safetensors", params, values, dtype, false, err));
    if (c->mtp_depth > 0)
        TRY(write_weights(dir, "mtp.safetensors", params, values, dtype, true, err));
    return write_config(c, dir, dtype, err);
}

static sala_status give_name(const char *part, const char *dir, sala_error *err)
{
    sala_buf old = {0};
    sala_buf_printf(&old, "%s.old", dir);
    if (old.failed)
        return sala_fail_memory(err, strlen(dir));
    int e = sala_os_remove_tree(old.data);
    if (!e && sala_os_is_dir(dir))
        e = sala_os_rename(dir, old.data);
    if (!e)
        e = sala_os_rename(part, dir);
    if (!e)
        e = sala_os_remove_tree(old.data);
    sala_buf_free(&old);
    return e ? sala_fail_errno(err, e, "could not give %s its name", dir) : SALA_OK;
}

sala_status sala_output_write(const sala_run_config *c, const sala_params *params, const float *values,
                              const char *out_dir, const char *dtype_name, const char *gguf_type,
                              const sala_output_words *words, sala_error *err)
{
    const sala_dtype dtype = sala_dtype_by_name(dtype_name);
    if (dtype != SALA_F32 && dtype != SALA_F16 && dtype != SALA_BF16)
        return sala_fail(err, SALA_E_INVALID, "output.dtype is \"%s\"; expected f32, f16 or bf16", dtype_name);
    char *dir = sala_path_join(out_dir, "model"), *part = sala_path_join(out_dir, "model.part");
    char *gguf = sala_path_join(out_dir, "model.gguf");
    sala_status st = dir && part && gguf ? SALA_OK : sala_fail_memory(err, strlen(out_dir));
    if (st == SALA_OK) {
        int e = sala_os_remove_tree(part);
        if (!e)
            e = sala_os_make_dirs(part);
        st = e ? sala_fail_errno(err, e, "could not make %s", part) : SALA_OK;
        if (st == SALA_OK)
            st = fill(c, params, values, part, dtype, words, err);
        if (st == SALA_OK)
            st = give_name(part, dir, err);
        if (st != SALA_OK)
            (void)sala_os_remove_tree(part); /* the first error is told */
    }
    if (st == SALA_OK && strcmp(gguf_type, "none") != 0) {
        const sala_quant_params q = {.type = gguf_type, .notice = words->line, .notice_user = words->user};
        st = sala_quant_to_gguf(dir, gguf, &q, NULL, err);
        if (st != SALA_OK)
            st = sala_fail_prefix(err, st, "model.gguf");
    }
    free(dir);
    free(part);
    free(gguf);
    return st;
}
