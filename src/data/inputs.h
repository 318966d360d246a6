/* The files that input arguments stand for. */
#ifndef SALA_DATA_INPUTS_H
#define SALA_DATA_INPUTS_H

#include "base/base.h"

typedef struct sala_inputs {
    char **paths;
    int n, cap;
    uint64_t bytes; /* of all together; 0 when one of them is not a regular file */
} sala_inputs;

/* Directories become the files in and below them, sorted by name, without hidden ones. */
sala_status sala_inputs_open(sala_inputs *out, const char *const *args, int n_args, sala_error *err);
void sala_inputs_close(sala_inputs *in);

#endif
