/* What a model and a session of a given length will take, before either is there. */
#ifndef SALA_CLI_MEMORY_H
#define SALA_CLI_MEMORY_H

#include "cli.h"

typedef struct cli_memory {
    int64_t n_tokens;
    uint64_t weights, scratch;
    uint64_t keys_values, rows, linear; /* of the session: what grows by the token, compressed keys, linear states */
    uint64_t session, total;
    uint64_t machine; /* what this process may use; 0: unknown */
} cli_memory;

/* The model may have been opened for its vocabulary only. `kv` is what the session will be opened with; `ref`: by
 * reference kernels, whose default is f32. 0 or an exit code. */
int cli_memory_plan(cli_memory *out, const sala_model *model, sala_kv_type kv, bool ref, int64_t n_tokens);
bool cli_memory_fits(const cli_memory *m);
/* Plans for what the options ask for and says so; fails when it cannot fit, with `advice` on what to do about it. */
int cli_memory_announce(const sala_model *model, const cli_options *o, int64_t n_tokens, const char *advice);
/* "weights 4.9 GiB + scratch 95.1 MiB + session 8.1 GiB (...) = 13.1 GiB of 23.4 GiB" */
const char *cli_memory_words(char dst[400], const cli_memory *m);

#endif
