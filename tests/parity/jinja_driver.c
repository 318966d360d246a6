/* Renders what it is told, for comparisons with other implementations: one JSON object per line on standard input,
 * {"template": text, "vars": object, "now": seconds}, one per line on standard output: {"text": text, "input": [[begin,
 * end], ...]} with the byte ranges that came from the variables, or {"error": message, "code": number}.
 * Templates are compiled once and kept while the same text follows. */
#include "text/jinja.h"

#include <stdio.h>
#include <stdlib.h>

static json_t *failure(const sala_error *err)
{
    return json_pack("{s:s, s:i}", "error", err->message, "code", (int)err->code);
}

static json_t *answer(const sala_jinja *t, const json_t *request)
{
    char *text = NULL;
    size_t bytes = 0, n_spans = 0;
    sala_jinja_span *spans = NULL;
    sala_error err = {0};
    const int64_t now = json_integer_value(json_object_get(request, "now"));
    if (sala_jinja_render(t, json_object_get(request, "vars"), now, NULL, &text, &bytes, &spans, &n_spans, &err))
        return failure(&err);
    json_t *ranges = json_array();
    for (size_t i = 0; i < n_spans; i++)
        if (spans[i].from_input)
            json_array_append_new(ranges, json_pack("[I, I]", (json_int_t)spans[i].begin, (json_int_t)spans[i].end));
    json_t *out = json_pack("{s:s#, s:o}", "text", text, (int)bytes, "input", ranges);
    free(text);
    free(spans);
    return out;
}

int main(void)
{
    char *line = NULL, *source = NULL;
    size_t cap = 0;
    ssize_t n;
    sala_jinja *t = NULL;
    sala_error err = {0};
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *request = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(request, "template");
        json_t *out = NULL;
        if (!json_is_string(text)) {
            fprintf(stderr, "a line is not a request: %s", line);
            return 1;
        }
        if (!source || strcmp(source, json_string_value(text)) != 0) {
            sala_jinja_free(t);
            free(source);
            t = NULL;
            source = sala_strdup(json_string_value(text));
            if (sala_jinja_compile(&t, json_string_value(text), json_string_length(text), &err) != SALA_OK)
                out = failure(&err);
        } else if (!t) {
            out = failure(&err);
        }
        if (!out)
            out = answer(t, request);
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(out);
        json_decref(request);
    }
    sala_jinja_free(t);
    free(source);
    free(line);
    return 0;
}
