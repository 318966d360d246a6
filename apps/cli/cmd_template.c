/* template: a chat request to the prompt that the model would see. */
#include "cli.h"

#include "base/json.h"
#include "input.h"
#include "request.h"
#include "ui.h"
#include "vocab.h"

#include <stdlib.h>

/* *request is the caller's to release in any case. */
static int read_request(json_t **request, const cli_options *o)
{
    char *data = NULL;
    size_t bytes = 0;
    const int rc = cli_read(&data, &bytes, "-");
    if (rc)
        return rc;
    json_error_t where;
    *request = sala_json_loadb(data, bytes, JSON_ALLOW_NUL, &where);
    free(data);
    if (!*request)
        return cli_fail("standard input is not JSON: line %d, column %d: %s", where.line, where.column, where.text);
    if (json_is_array(*request)) { /* a bare list of messages is clear enough */
        json_t *whole = json_pack("{s:o}", "messages", *request);
        *request = whole;
    }
    if (!json_is_object(*request) || !json_is_array(json_object_get(*request, "messages")))
        return cli_fail("standard input: expected {\"messages\": [...], ...}");
    return cli_request_merge(*request, o->template_args);
}

int cli_cmd_template(const cli_options *o)
{
    cli_vocab v;
    int rc = cli_vocab_open(&v, o, false, false);
    if (rc)
        return rc;
    sala_error err = {0};
    json_t *request = NULL;
    sala_chat *chat = NULL;
    char *text = NULL;
    size_t bytes = 0;
    if (!o->json && !o->prompt && !o->system) {
        if (cli_vocab_template(&v, &text, false, &err) != SALA_OK)
            rc = cli_fail_error(&err);
        else if (!text)
            rc = cli_fail("%s has no chat template", v.path);
        bytes = text ? strlen(text) : 0;
    } else {
        if (o->json)
            rc = read_request(&request, o);
        else
            rc = cli_request_new(&request, o->system, o->template_args);
        if (rc == 0 && !o->json && o->prompt)
            rc = cli_request_add(request, "user", o->prompt, strlen(o->prompt));
        const json_t *tools = json_object_get(request, "tools");
        if (rc == 0)
            rc = cli_vocab_chat(&v, &chat, json_is_array(tools) && json_array_size(tools) > 0);
        if (rc == 0 && sala_chat_render(chat, request, &text, &bytes, NULL, NULL, &err) != SALA_OK)
            rc = cli_fail_error(&err);
    }
    if (rc == 0) {
        fwrite(text, 1, bytes, stdout);
        rc = cli_flush(CLI_DONE);
    }
    free(text);
    sala_chat_close(chat);
    json_decref(request);
    cli_vocab_close(&v);
    return rc;
}
