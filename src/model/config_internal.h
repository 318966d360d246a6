/* Shared by the two readers of a model's configuration. */
#ifndef SALA_MODEL_CONFIG_INTERNAL_H
#define SALA_MODEL_CONFIG_INTERNAL_H

#include "model/config.h"

/* Leaves the calling function when CALL fails. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

/* Everything neutral: no scaling, no special tokens, nothing given. */
void sala_config_init(sala_config *c);
/* Derives what the file did not say (mixers, attention scale, rope dimensions), then checks all that a forward pass
 * relies on. */
sala_status sala_config_finish(sala_config *c, sala_error *err);
/* Numbers that the code can run; block_size 0 passes. */
sala_status sala_config_check_sparse(const sala_sparse_config *s, sala_error *err);
/* Adds an end token unless it is there already or outside the vocabulary. n_vocab must be known. */
void sala_config_add_eos(sala_config *c, int64_t id);

#endif
