/* Between run_config.c and run_shape.c. */
#ifndef SALA_TRAIN_RUN_CONFIG_INTERNAL_H
#define SALA_TRAIN_RUN_CONFIG_INTERNAL_H

#include "train/run_config.h"
#include "train/yaml_tree.h"

#define SALA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

/* Fills c->shape from model.from, model.config or the keys of model:. */
sala_status sala_run_shape(sala_run_config *c, sala_error *err);

#endif
