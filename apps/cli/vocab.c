#include "vocab.h"

#include "base/json.h"
#include "model_arg.h"
#include "os/os.h"

#include <stdlib.h>

static const size_t JSON_LIMIT = (size_t)1 << 30;

static sala_status read_file(const char *path, uint8_t **data, size_t *bytes, sala_error *err)
{
    const int why = sala_os_read_file(data, bytes, path, JSON_LIMIT);
    return why ? sala_fail_errno(err, why, "%s", path) : SALA_OK;
}

/* A lone file: its form is told by its beginning, its companion tokenizer_config.json stands beside it. */
static sala_status tokenizer_of_file(cli_vocab *v, sala_error *err)
{
    uint8_t *data = NULL, *config = NULL;
    size_t n = 0, n_config = 0;
    sala_status st = read_file(v->path, &data, &n, err);
    if (st != SALA_OK)
        return st;
    size_t at = 0;
    while (at < n && strchr(" \t\r\n", data[at]) && data[at])
        at++;
    if (at < n && data[at] == '{') {
        const char *slash = strrchr(v->path, '/');
        char *dir = slash ? sala_strndup(v->path, (size_t)(slash - v->path + 1)) : sala_strdup(".");
        char *beside = dir ? sala_path_join(dir, "tokenizer_config.json") : NULL;
        if (beside && sala_os_is_file(beside))
            st = read_file(beside, &config, &n_config, err);
        if (st == SALA_OK)
            st = sala_tokenizer_from_json(&v->tokenizer, (const char *)data, n, (const char *)config, n_config, err);
        free(dir);
        free(beside);
    } else {
        st = sala_tokenizer_from_spm(&v->tokenizer, data, n, err);
    }
    free(data);
    free(config);
    return st == SALA_OK ? st : sala_fail_prefix(err, st, "%s", v->path);
}

static bool is_gguf(const char *path)
{
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    const bool yes = f && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f)
        fclose(f);
    return yes;
}

static bool looks_like_tokenizer(const char *path)
{
    const size_t n = strlen(path);
    return (n >= 5 && strcmp(path + n - 5, ".json") == 0) ||
           (n >= 15 && strcmp(path + n - 15, "tokenizer.model") == 0) ||
           (n >= 6 && strcmp(path + n - 6, ".model") == 0);
}

int cli_vocab_open(cli_vocab *v, const cli_options *o, bool need_tokenizer, bool all_parts)
{
    *v = (cli_vocab){0};
    const int rc = cli_model_path(&v->path, o, false);
    if (rc)
        return rc;
    sala_error err = {0};
    sala_status st;
    if (sala_os_is_dir(v->path)) {
        st = sala_tokenizer_from_dir(&v->tokenizer, v->path, &err);
    } else if (!is_gguf(v->path) && looks_like_tokenizer(v->path)) {
        st = tokenizer_of_file(v, &err);
    } else {
        st = (all_parts ? sala_gguf_open : sala_gguf_open_metadata)(&v->gguf, v->path, &err);
        if (st != SALA_OK)
            need_tokenizer = true; /* nothing at all could be read */
        else
            st = sala_tokenizer_from_gguf(&v->tokenizer, v->gguf, &err);
    }
    if (st == SALA_OK || !need_tokenizer)
        return 0;
    cli_fail_error(&err);
    cli_vocab_close(v);
    return CLI_FAILED;
}

void cli_vocab_close(cli_vocab *v)
{
    sala_tokenizer_free(v->tokenizer);
    sala_gguf_close(v->gguf);
    free(v->path);
    *v = (cli_vocab){0};
}

sala_status cli_vocab_template(const cli_vocab *v, char **source, bool tools, sala_error *err)
{
    *source = NULL;
    if (v->gguf) {
        const char *s;
        size_t n;
        if ((tools && sala_gguf_get_str(v->gguf, "tokenizer.chat_template.tool_use", &s, &n)) ||
            sala_gguf_get_str(v->gguf, "tokenizer.chat_template", &s, &n)) {
            *source = sala_strndup(s, n);
            return *source ? SALA_OK : sala_fail_memory(err, n);
        }
        return SALA_OK;
    }
    if (sala_os_is_dir(v->path))
        return sala_chat_template_of_dir(source, v->path, tools, err);
    return SALA_OK;
}

/* Hugging Face hands the template the texts of tokenizer_config.json, which need not be in the vocabulary. */
static char *special_of_dir(const char *dir, const char *key)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(files); i++) {
        char *path = sala_path_join(dir, files[i]);
        json_t *config = path ? sala_json_load_file(path) : NULL;
        free(path);
        const json_t *value = json_object_get(config, key);
        const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
        char *copy = sala_strdup(text);
        json_decref(config);
        if (copy)
            return copy;
    }
    return NULL;
}

static char *special_text(const cli_vocab *v, const char *key, int32_t id)
{
    char *text = v->gguf ? NULL : special_of_dir(v->path, key);
    const char *s;
    size_t n;
    if (!text && v->tokenizer && id >= 0 && sala_tokenizer_piece(v->tokenizer, id, &s, &n))
        text = sala_strndup(s, n);
    return text;
}

int cli_vocab_chat(const cli_vocab *v, sala_chat **chat, bool tools)
{
    sala_error err = {0};
    char *source = NULL;
    if (cli_vocab_template(v, &source, tools, &err) != SALA_OK)
        return cli_fail_error(&err);
    if (!source)
        return cli_fail("%s has no chat template", v->path);
    char *bos = special_text(v, "bos_token", v->tokenizer ? sala_tokenizer_bos(v->tokenizer) : -1);
    char *eos = special_text(v, "eos_token", v->tokenizer ? sala_tokenizer_eos(v->tokenizer) : -1);
    const sala_status st = sala_chat_open(chat, source, strlen(source), bos, eos, &err);
    free(source);
    free(bos);
    free(eos);
    return st == SALA_OK ? 0 : cli_fail_error(&err);
}
