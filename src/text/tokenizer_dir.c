/* The tokenizer of a Hugging Face directory: tokenizer.json, or tokenizer.model with the tokens that the other files
 * add to it. */
#include "text/tokenizer_json.h"

#include "os/os.h"

#include <errno.h>

#define MAX_FILE ((size_t)1 << 30)

/* *data is NULL when there is no such file. */
static sala_status read_optional(uint8_t **data, size_t *bytes, const char *dir, const char *name, sala_error *err)
{
    char *path = sala_path_join(dir, name);
    if (path == NULL)
        return sala_fail_memory(err, strlen(dir));
    *data = NULL;
    *bytes = 0;
    sala_status st = SALA_OK;
    if (sala_os_is_file(path)) {
        const int e = sala_os_read_file(data, bytes, path, MAX_FILE);
        if (e == EFBIG)
            st = sala_fail(err, SALA_E_LIMIT, "%s is larger than 1 GiB", path);
        else if (e != 0)
            st = sala_fail_errno(err, e, "%s cannot be read", path);
    }
    free(path);
    return st;
}

static sala_status read_json(json_t **out, const char *dir, const char *name, bool reject_duplicates, sala_error *err)
{
    uint8_t *data;
    size_t bytes;
    *out = NULL;
    sala_status st = read_optional(&data, &bytes, dir, name, err);
    if (st == SALA_OK && data != NULL)
        st = sala_json_load(out, name, (const char *)data, bytes, reject_duplicates, err);
    free(data);
    return st;
}

static bool is_named(const json_t *value, const char *name)
{
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            if (is_named(json_array_get(value, i), name))
                return true;
        return false;
    }
    if (json_is_object(value))
        value = json_object_get(value, "content");
    return json_is_string(value) && strcmp(json_string_value(value), name) == 0;
}

/* Whether the configuration counts a token among the special ones: bos_token, additional_special_tokens and so on. */
static bool is_special_name(const json_t *config, const char *name)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key,
                        value) if (strstr(key, "_token") != NULL && is_named(value, name)) return true;
    return false;
}

/* added_tokens.json: {"text": id}. */
static sala_status add_listed(sala_tokenizer *t, json_t *list, const json_t *config, sala_error *err)
{
    const char *key;
    size_t len;
    json_t *value;
    json_object_keylen_foreach(list, key, len, value)
    {
        const json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= SALA_TOK_MAX_IDS)
            return sala_fail(err, SALA_E_CORRUPT, "added_tokens.json: the id of \"%.60s\" is not one from 0 to %d", key,
                             SALA_TOK_MAX_IDS - 1);
        char *text = sala_strndup(key, len);
        if (text == NULL)
            return sala_fail_memory(err, len);
        const bool known = sala_tokenizer_is_added(t, id);
        const sala_added a = {
            .id = (int32_t)id, .text = text, .len = len, .special = config != NULL && is_special_name(config, text)};
        const sala_status st = known ? SALA_OK : sala_tokenizer_add_token(t, &a, err);
        free(text);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status from_model(sala_tokenizer **out, const uint8_t *data, size_t bytes, const char *dir,
                              const json_t *config, sala_error *err)
{
    sala_tokenizer *t = NULL;
    json_t *added = NULL;
    sala_status st = sala_tokenizer_new(&t, err);
    if (st == SALA_OK)
        st = sala_spm_parse(t, data, bytes, err);
    if (st == SALA_OK && config != NULL)
        st = sala_json_config(t, config, err);
    if (st == SALA_OK)
        st = read_json(&added, dir, "added_tokens.json", false, err);
    if (st == SALA_OK && added != NULL)
        st = add_listed(t, added, config, err);
    if (st == SALA_OK && added != NULL)
        st = sala_vocab_index(&t->vocab, err);
    /* Names may have been added only now. */
    if (st == SALA_OK && added != NULL && config != NULL)
        st = sala_json_config(t, config, err);
    if (st == SALA_OK && t->norms[0].dummy_prefix)
        t->norms[0].prefix_first_only = !sala_json_flag(config, "legacy", true);
    if (st == SALA_OK)
        st = sala_spm_complete(t, err);
    json_decref(added);
    if (st == SALA_OK)
        *out = t;
    else
        sala_tokenizer_free(t);
    return st;
}

sala_status sala_tokenizer_from_dir(sala_tokenizer **out, const char *dir, sala_error *err)
{
    json_t *root = NULL, *config = NULL, *map = NULL;
    uint8_t *model = NULL;
    size_t bytes = 0;
    sala_status st = read_json(&config, dir, "tokenizer_config.json", false, err);
    if (st == SALA_OK)
        st = read_json(&map, dir, "special_tokens_map.json", false, err);
    if (st == SALA_OK && config != NULL && map != NULL && json_object_update_missing(config, map) != 0)
        st = sala_fail_memory(err, 4096);
    const json_t *both = config != NULL ? config : map;
    if (st == SALA_OK)
        st = read_json(&root, dir, "tokenizer.json", true, err);
    if (st == SALA_OK && root != NULL) {
        st = sala_tokenizer_from_json_values(out, root, both, err);
    } else if (st == SALA_OK) {
        st = read_optional(&model, &bytes, dir, "tokenizer.model", err);
        if (st == SALA_OK && model == NULL)
            st = sala_fail(err, SALA_E_NOT_FOUND, "%s has neither tokenizer.json nor tokenizer.model", dir);
        if (st == SALA_OK)
            st = from_model(out, model, bytes, dir, both, err);
    }
    free(model);
    json_decref(root);
    json_decref(config);
    json_decref(map);
    return st;
}
