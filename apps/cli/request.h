/* A chat request: the JSON that templates are rendered from. */
#ifndef SALA_CLI_REQUEST_H
#define SALA_CLI_REQUEST_H

#include "cli.h"

#include <jansson.h>

/* {"messages": [system message if any], "add_generation_prompt": true, ...further keys of args_json (may be NULL)}.
 * These return 0 or an exit code after an error message. */
int cli_request_new(json_t **request, const char *system, const char *args_json);
int cli_request_add(json_t *request, const char *role, const char *text, size_t bytes);
int cli_request_merge(json_t *request, const char *args_json);

#endif
