// module: text
/* A template from anywhere: it compiles and renders within small limits, or fails with a message. What it renders is
 * covered by spans without gaps. */
#include "text/jinja.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *variables(void)
{
    return json_loads(
        "{\"messages\": [{\"role\": \"system\", \"content\": \"Be b\xc3\xa9.\"}, {\"role\": \"user\", \"content\":"
        " [{\"type\": \"text\", \"text\": \" <b>Hi</b> \\n\"}]}, {\"role\": \"assistant\", \"content\": null,"
        " \"tool_calls\": [{\"id\": \"1\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.5}}}]}],"
        " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}],"
        " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"s\": \"Hello World\", \"n\": -7}",
        0, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *vars;
    static const sala_jinja_limits limits = {.max_steps = 200000, .max_output_bytes = 1 << 20, .max_depth = 50};
    sala_jinja *t = NULL;
    sala_error err = {0};
    char *text = NULL;
    size_t bytes = 0, n = 0, at = 0;
    sala_jinja_span *spans = NULL;
    if (!vars)
        vars = variables();
    sala_status status = sala_jinja_compile(&t, (const char *)data, size, &err);
    if (status == SALA_OK)
        status = sala_jinja_render(t, vars, 1709251199, &limits, &text, &bytes, &spans, &n, &err);
    if (status != SALA_OK && (status != err.code || (!err.message[0] && status != SALA_E_TEMPLATE)))
        abort();
    for (size_t i = 0; i < n; i++) {
        if (spans[i].begin != at || spans[i].end <= at)
            abort();
        at = spans[i].end;
    }
    if (at != bytes)
        abort();
    free(text);
    free(spans);
    sala_jinja_free(t);
    return 0;
}
