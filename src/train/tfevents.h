/* TensorBoard's event files: records of length, masked CRC, protocol-buffer message, masked CRC. Internal to train. */
#ifndef SALA_TRAIN_TFEVENTS_H
#define SALA_TRAIN_TFEVENTS_H

#include "base/base.h"

typedef struct sala_tf_value {
    const char *tag;
    double value;
} sala_tf_value;

/* Each appends one record. wall: seconds since 1970. */
void sala_tf_version(sala_buf *out, double wall);               /* the first record of a file */
void sala_tf_restart(sala_buf *out, double wall, int64_t step); /* what older files hold from this step on is void */
void sala_tf_scalars(sala_buf *out, double wall, int64_t step, const sala_tf_value *values, int n);

#endif
