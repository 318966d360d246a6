/* From what the user typed to a model: paths, catalogue names, Hugging Face's cache, Ollama's store. */
#ifndef SALA_CLI_MODEL_ARG_H
#define SALA_CLI_MODEL_ARG_H

#include "cli.h"

typedef struct cli_found {
    const char *name;   /* as MODEL arguments take it */
    const char *path;   /* NULL: in the catalogue, not here */
    const char *source; /* "sala", "huggingface", "ollama", "catalogue" */
    uint64_t bytes;
} cli_found;

/* Calls fn for every model by name; stops when it returns false. */
void cli_models_each(bool (*fn)(void *user, const cli_found *m), void *user);

/* The path of MODEL (-m or the first argument), owned by the caller. With `pull`, a catalogue model that is not here is
 * brought first. Returns 0, or an exit code after an error message. */
int cli_model_path(char **path, const cli_options *o, bool pull);
/* The positional arguments that are left when MODEL may have come from -m: fills rest, returns how many. */
int cli_rest_args(const cli_options *o, const char *const **rest);

/* Resolves and opens, with progress and the options that all forwarding verbs share. Returns 0 or an exit code. */
int cli_model_open(sala_model **out, const cli_options *o);
sala_kv_type cli_kv_type(const cli_options *o);
sala_longrope_rule cli_longrope(const cli_options *o);
sala_dense_switch cli_dense_switch(const cli_options *o);

/* Warns when n_ctx is beyond the trained context; fails when keys and values of n_ctx tokens cannot fit into memory. */
int cli_check_context(const sala_model *model, const cli_options *o, int64_t n_ctx);

#endif
