/* inspect --attention: which blocks of a session a question looks at. */
#ifndef SALA_CLI_ATTENTION_MAP_H
#define SALA_CLI_ATTENTION_MAP_H

#include "cli.h"

int cli_attention_map(const cli_options *o);

#endif
