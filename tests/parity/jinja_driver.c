/* Renders what it is told, for comparisons with other implementations. One JSON object per line on standard input:
 * {"template": text, "vars": object, "now": seconds} for the bare interpreter, or
 * {"template": text, "request": object, "bos": text, "eos": text} for a chat as the program renders it.
 * One per line on standard output: {"text": text, "input": [[begin, end], ...]} with the byte ranges that came from the
 * variables, or {"error": message, "code": number}. */
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>

static json_t *failure(const sala_error *err)
{
    return json_pack("{s:s, s:i}", "error", err->message, "code", (int)err->code);
}

static json_t *success(char *text, size_t bytes, sala_jinja_span *spans, size_t n_spans)
{
    json_t *ranges = json_array();
    for (size_t i = 0; i < n_spans; i++)
        if (spans[i].from_input)
            json_array_append_new(ranges, json_pack("[I, I]", (json_int_t)spans[i].begin, (json_int_t)spans[i].end));
    json_t *out = json_object();
    json_object_set_new(out, "text", json_stringn(text, bytes));
    json_object_set_new(out, "input", ranges);
    free(text);
    free(spans);
    return out;
}

static json_t *answer(const json_t *q)
{
    char *text = NULL;
    size_t bytes = 0, n = 0;
    sala_jinja_span *spans = NULL;
    sala_error err = {0};
    const json_t *source = json_object_get(q, "template"), *chat = json_object_get(q, "request");
    sala_jinja *t = NULL;
    sala_chat *c = NULL;
    sala_status status;
    if (chat) {
        status = sala_chat_open(&c, json_string_value(source), json_string_length(source),
                                json_string_value(json_object_get(q, "bos")),
                                json_string_value(json_object_get(q, "eos")), &err);
        if (status == SALA_OK)
            status = sala_chat_render(c, chat, &text, &bytes, &spans, &n, &err);
    } else {
        status = sala_jinja_compile(&t, json_string_value(source), json_string_length(source), &err);
        if (status == SALA_OK)
            status = sala_jinja_render(t, json_object_get(q, "vars"), json_integer_value(json_object_get(q, "now")),
                                       NULL, &text, &bytes, &spans, &n, &err);
    }
    sala_chat_close(c);
    sala_jinja_free(t);
    return status == SALA_OK ? success(text, bytes, spans, n) : failure(&err);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *q = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        if (!json_is_string(json_object_get(q, "template"))) {
            fprintf(stderr, "a line is not a request: %s", line);
            return 1;
        }
        json_t *out = answer(q);
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(out);
        json_decref(q);
    }
    free(line);
    return 0;
}
