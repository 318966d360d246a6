/* Parts of 'sala inspect': metadata as JSON, and the report in words. */
#ifndef SALA_CLI_INSPECT_H
#define SALA_CLI_INSPECT_H

#include "format/gguf.h"

#include <jansson.h>

/* Adds "metadata", an object; long values and arrays are cut. */
void cli_inspect_metadata_gguf(json_t *report, const sala_gguf *g);
void cli_inspect_metadata_dir(json_t *report, const char *dir);

void cli_inspect_print(const json_t *report);

#endif
