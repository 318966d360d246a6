#include "request.h"

#include "ui.h"

int cli_request_merge(json_t *request, const char *args_json)
{
    if (!args_json)
        return 0;
    json_error_t where;
    json_t *args = json_loads(args_json, 0, &where);
    if (!json_is_object(args)) {
        json_decref(args);
        return cli_misuse("--chat-template-kwargs: '%s' is not a JSON object such as {\"enable_thinking\":false}",
                          args_json);
    }
    const int bad = json_object_update(request, args);
    json_decref(args);
    return bad ? cli_fail("not enough memory") : 0;
}

int cli_request_new(json_t **request, const char *system, const char *args_json)
{
    *request = json_pack("{s:[],s:b}", "messages", "add_generation_prompt", 1);
    int rc = *request ? 0 : cli_fail("not enough memory");
    if (rc == 0)
        rc = cli_request_merge(*request, args_json);
    if (rc == 0 && system)
        rc = cli_request_add(*request, "system", system, strlen(system));
    if (rc) {
        json_decref(*request);
        *request = NULL;
    }
    return rc;
}

int cli_request_add(json_t *request, const char *role, const char *text, size_t bytes)
{
    json_t *message = json_pack("{s:s,s:o}", "role", role, "content", cli_json_text(text, bytes));
    if (json_array_append_new(json_object_get(request, "messages"), message) != 0)
        return cli_fail("not enough memory");
    return 0;
}
