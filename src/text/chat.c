/* Chat templates: where a model keeps its own, what variables it is given, and its output as tokens.
 *
 * What comes from the caller's messages must never turn into control tokens, so only the template's own text is
 * searched for them. Three kinds of strings that reach the template as variables count as its own all the same:
 * bos_token and eos_token, which are the tokenizer's, and a message's role if it is one of the usual words. Templates
 * such as Phi-3's build the token from the role ('<|' + role + '|>'); a word from a fixed list can only give the token
 * that the template means. Any other role is the caller's text. */
#include "text/chat.h"

#include "base/json.h"
#include "os/os.h"
#include "text/jinja_core.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_FILE_BYTES = 64 << 20 };

struct sala_chat {
    char *source;
    sala_jinja *template;
    json_t *bos, *eos; /* strings or NULL */
};

sala_status sala_chat_open(sala_chat **out, const char *source, size_t bytes, const char *bos, const char *eos,
                           sala_error *err)
{
    sala_chat *c = calloc(1, sizeof *c);
    if (!c)
        return sala_fail_memory(err, sizeof *c);
    sala_status status = sala_jinja_compile(&c->template, source, bytes, err);
    if (status == SALA_OK) {
        c->source = sala_strndup(source, bytes);
        c->bos = bos ? json_string(bos) : NULL;
        c->eos = eos ? json_string(eos) : NULL;
        if (!c->source)
            status = sala_fail_memory(err, bytes);
        else if ((bos && !c->bos) || (eos && !c->eos))
            status = sala_fail(err, SALA_E_CORRUPT, "the text of the BOS or EOS token is not valid UTF-8");
    } else {
        status = sala_fail_prefix(err, status, "chat template");
    }
    if (status != SALA_OK) {
        sala_chat_close(c);
        return status;
    }
    *out = c;
    return SALA_OK;
}

void sala_chat_close(sala_chat *c)
{
    if (!c)
        return;
    sala_jinja_free(c->template);
    json_decref(c->bos);
    json_decref(c->eos);
    free(c->source);
    free(c);
}

const char *sala_chat_source(const sala_chat *c)
{
    return c->source;
}

/* ---- the template of a directory ---- */

/* *text is NULL when there is no such file. */
static sala_status read_file(char **text, size_t *bytes, const char *dir, const char *name, sala_error *err)
{
    char *path = sala_path_join(dir, name);
    uint8_t *data = NULL;
    *text = NULL;
    *bytes = 0;
    if (!path)
        return sala_fail_memory(err, strlen(dir) + strlen(name));
    sala_status status = SALA_OK;
    if (sala_os_is_file(path)) {
        const int e = sala_os_read_file(&data, bytes, path, MAX_FILE_BYTES);
        if (e == EFBIG)
            status = sala_fail(err, SALA_E_LIMIT, "%s: larger than %d MiB", path, MAX_FILE_BYTES >> 20);
        else if (e)
            status = sala_fail_errno(err, e, "%s", path);
        else
            *text = (char *)data;
    }
    free(path);
    return status;
}

/* One template of a list of {"name": ..., "template": ...}. */
static const json_t *named(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i), *text = json_object_get(item, "template");
        const char *its_name = json_string_value(json_object_get(item, "name"));
        if (its_name && strcmp(its_name, name) == 0 && json_is_string(text))
            return text;
    }
    return NULL;
}

/* The key chat_template of a JSON file; *source stays NULL when the file or the key is absent. */
static sala_status from_json(char **source, const char *dir, const char *name, bool tools, sala_error *err)
{
    char *text;
    size_t bytes;
    json_error_t where;
    sala_status status = read_file(&text, &bytes, dir, name, err);
    if (status != SALA_OK || !text)
        return status;
    json_t *root = sala_json_loadb(text, bytes, JSON_ALLOW_NUL, &where);
    free(text);
    if (!root)
        return sala_fail_at(err, SALA_E_CORRUPT, where.position, "%s/%s: line %d: %s", dir, name, where.line,
                            where.text);
    const json_t *value = json_object_get(root, "chat_template");
    if (json_is_array(value)) {
        const json_t *list = value;
        value = tools ? named(list, "tool_use") : NULL;
        if (!value)
            value = named(list, "default");
        if (!value)
            status = sala_fail(err, SALA_E_NOT_FOUND, "%s/%s: none of its %zu chat templates is named 'default'", dir,
                               name, json_array_size(list));
    } else if (value && !json_is_string(value) && !json_is_null(value)) {
        status = sala_fail(err, SALA_E_CORRUPT, "%s/%s: chat_template is neither a string nor a list of templates", dir,
                           name);
    }
    if (status == SALA_OK && json_is_string(value)) {
        *source = sala_strndup(json_string_value(value), json_string_length(value));
        if (!*source)
            status = sala_fail_memory(err, json_string_length(value));
    }
    json_decref(root);
    return status;
}

sala_status sala_chat_template_of_dir(char **source, const char *dir, bool tools, sala_error *err)
{
    static const char *const plain[] = {"additional_chat_templates/tool_use.jinja", "chat_template.jinja"};
    static const char *const json[] = {"chat_template.json", "tokenizer_config.json"};
    char *found = NULL;
    sala_status status = SALA_OK;
    size_t bytes;
    for (size_t i = tools ? 0 : 1; i < SALA_ARRAY_LEN(plain) && status == SALA_OK && !found; i++)
        status = read_file(&found, &bytes, dir, plain[i], err);
    for (size_t i = 0; i < SALA_ARRAY_LEN(json) && status == SALA_OK && !found; i++)
        status = from_json(&found, dir, json[i], tools, err);
    if (status == SALA_OK)
        *source = found;
    return status;
}

/* ---- rendering ---- */

static bool trusts(void *user, int depth, const char *key, const json_t *value)
{
    static const char *const roles[] = {"system",   "user",    "assistant", "tool",        "developer",
                                        "function", "ipython", "model",     "observation", "environment"};
    const sala_chat *c = user;
    if (depth == 0)
        return (strcmp(key, "bos_token") == 0 && value == c->bos) || (strcmp(key, "eos_token") == 0 && value == c->eos);
    if (depth != 2 || strcmp(key, "role") != 0) /* variables > messages > message */
        return false;
    for (size_t i = 0; i < SALA_ARRAY_LEN(roles); i++)
        if (strcmp(json_string_value(value), roles[i]) == 0 && json_string_length(value) == strlen(roles[i]))
            return true;
    return false;
}

/* A message's reasoning goes by three names; templates read one of them. As transformers does: the first that is there
 * is given as reasoning_content, and as thinking unless the message has that too. NULL when memory is out. */
static json_t *with_reasoning(const json_t *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL;
    for (size_t i = 0; i < SALA_ARRAY_LEN(names) && (!reasoning || json_is_null(reasoning)); i++)
        reasoning = json_object_get(message, names[i]);
    if (!reasoning || json_is_null(reasoning))
        return json_incref((json_t *)(uintptr_t)message);
    json_t *out = json_object();
    if (!out || json_object_set(out, "thinking", reasoning) || json_object_update(out, (json_t *)(uintptr_t)message) ||
        json_object_set(out, "reasoning_content", reasoning)) {
        json_decref(out);
        return NULL;
    }
    return out;
}

static bool set_messages(json_t *vars)
{
    json_t *out = json_array();
    const json_t *in = json_object_get(vars, "messages");
    bool ok = out != NULL;
    for (size_t i = 0; ok && i < json_array_size(in); i++)
        ok = json_array_append_new(out, with_reasoning(json_array_get(in, i))) == 0;
    if (ok)
        return json_object_set_new(vars, "messages", out) == 0;
    json_decref(out);
    return false;
}

static bool set_default(json_t *vars, const char *key, json_t *value)
{
    if (json_object_get(vars, key)) {
        json_decref(value);
        return true;
    }
    return json_object_set_new(vars, key, value) == 0;
}

sala_status sala_chat_render(const sala_chat *c, const json_t *request, char **text, size_t *bytes,
                             sala_jinja_span **spans, size_t *n_spans, sala_error *err)
{
    if (!json_is_object(request))
        return sala_fail(err, SALA_E_INVALID, "a chat request has to be a JSON object with the key 'messages'");
    if (!json_is_array(json_object_get(request, "messages")))
        return sala_fail(err, SALA_E_INVALID, "a chat request needs the key 'messages' with a list of messages");
    for (size_t i = 0; i < json_array_size(json_object_get(request, "messages")); i++)
        if (!json_is_object(json_array_get(json_object_get(request, "messages"), i)))
            return sala_fail(err, SALA_E_INVALID, "message %zu is not a JSON object with 'role' and 'content'", i);
    /* A shallow copy: the request's own values are shared, none is changed. */
    json_t *vars = json_copy((json_t *)(uintptr_t)request);
    bool ok = vars && set_messages(vars) && set_default(vars, "tools", json_null()) &&
              set_default(vars, "documents", json_null()) && set_default(vars, "add_generation_prompt", json_false());
    if (ok && c->bos)
        ok = set_default(vars, "bos_token", json_incref(c->bos));
    if (ok && c->eos)
        ok = set_default(vars, "eos_token", json_incref(c->eos));
    sala_status status;
    if (ok)
        status = sala_jj_render(c->template, vars, (int64_t)time(NULL), NULL, trusts, (void *)(uintptr_t)c, text, bytes,
                                spans, n_spans, err);
    else
        status = sala_fail_memory(err, 4096);
    json_decref(vars);
    return status;
}

/* BOS in front of the ids from `first` on, unless it stands there already. */
static sala_status lead_with_bos(sala_ids *ids, size_t first, int32_t bos, sala_error *err)
{
    if (ids->count > first && ids->data[first] == bos)
        return SALA_OK;
    if (ids->count == ids->cap) {
        const size_t cap = ids->cap ? 2 * ids->cap : 16;
        int32_t *data = realloc(ids->data, cap * sizeof *data);
        if (!data)
            return sala_fail_memory(err, cap * sizeof *data);
        ids->data = data;
        ids->cap = cap;
    }
    memmove(ids->data + first + 1, ids->data + first, (ids->count - first) * sizeof *ids->data);
    ids->data[first] = bos;
    ids->count++;
    return SALA_OK;
}

sala_status sala_chat_encode(const sala_chat *c, const sala_tokenizer *t, const json_t *request, sala_ids *ids,
                             sala_error *err)
{
    char *text = NULL;
    size_t bytes = 0, n = 0;
    sala_jinja_span *spans = NULL;
    sala_status status = sala_chat_render(c, request, &text, &bytes, &spans, &n, err);
    if (status != SALA_OK)
        return status;
    sala_text_span *parts = malloc((n + 1) * sizeof *parts);
    if (!parts)
        status = sala_fail_memory(err, (n + 1) * sizeof *parts);
    for (size_t i = 0; parts && i < n; i++)
        parts[i] = (sala_text_span){text + spans[i].begin, spans[i].end - spans[i].begin, !spans[i].from_input};
    const size_t first = ids->count;
    if (status == SALA_OK)
        status = sala_tokenizer_encode(t, ids, parts, n, false, err);
    if (status == SALA_OK && sala_tokenizer_adds_bos(t) && sala_tokenizer_bos(t) >= 0)
        status = lead_with_bos(ids, first, sala_tokenizer_bos(t), err);
    free(parts);
    free(spans);
    free(text);
    return status;
}
