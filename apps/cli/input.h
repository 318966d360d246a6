/* Text from the command line, files and standard input. */
#ifndef SALA_CLI_INPUT_H
#define SALA_CLI_INPUT_H

#include "cli.h"

/* All of PATH ("-" is standard input) with a NUL behind it; *data owned by the caller. 0 or exit code. */
int cli_read(char **data, size_t *bytes, const char *path);
/* -p TEXT if given, else -f FILE, else standard input, byte for byte. */
int cli_read_text(char **data, size_t *bytes, const cli_options *o);
/* True when standard input is a pipe or file that somebody means us to read. */
bool cli_stdin_is_piped(void);

/* 0 when PATH may be written, or exit code: what is there already must be a regular file. */
int cli_check_out(const char *path);

/* Token ids: white space, a JSON array, or .npy. */
int cli_parse_ids(int32_t **ids, size_t *n, const char *data, size_t bytes, const char *from);

#endif
