/* Reading JSON that other programs wrote. */
#ifndef SALA_BASE_JSON_H
#define SALA_BASE_JSON_H

#include "base/base.h"

#include <jansson.h>

/* As json_loadb, but whole numbers beyond 64 bits become reals: transformers writes 10^30 for "no limit" into
 * model_max_length of most tokenizer_config.json. */
json_t *sala_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *where);
/* NULL when the file cannot be read or is not JSON. */
json_t *sala_json_load_file(const char *path);

#endif
