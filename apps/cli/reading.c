#include "reading.h"

#include <stdlib.h>

bool cli_json_flag(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

const char *cli_json_string(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

int64_t cli_json_int(const json_t *object, const char *key)
{
    return (int64_t)json_integer_value(json_object_get(object, key));
}

int cli_saved_open(cli_saved *s, const char *path)
{
    *s = (cli_saved){0};
    char *text = NULL;
    sala_error err = {0};
    if (sala_session_describe(&text, path, &err) != SALA_OK)
        return cli_fail_error(&err);
    s->description = json_loads(text, 0, NULL);
    sala_free(text);
    if (!json_is_object(s->description))
        return cli_fail("%s: its description is not a JSON object", path);
    if (cli_json_flag(s->description, "fell_back"))
        cli_warn("%s: the newest save in it is damaged or was never finished; the one before is used", path);
    json_t *note = json_object_get(json_object_get(s->description, "note"), "reading");
    s->note = json_is_object(note) ? note : NULL;
    const json_t *documents = json_object_get(s->note, "documents");
    if (json_array_size(documents))
        s->last = json_array_get(documents, json_array_size(documents) - 1);
    s->tokens = cli_json_int(s->description, "tokens");
    s->model = cli_json_string(s->description, "model");
    s->kv = cli_json_string(s->description, "kv");
    return 0;
}

void cli_saved_free(cli_saved *s)
{
    json_decref(s->description);
    *s = (cli_saved){0};
}

int cli_note_store(sala_session *session, json_t *note)
{
    json_t *all = json_pack("{s:O}", "reading", note);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(all);
    if (!text)
        return cli_fail("not enough memory");
    sala_error err = {0};
    const sala_status st = sala_session_set_note(session, text, &err);
    free(text);
    return st == SALA_OK ? 0 : cli_fail_error(&err);
}
