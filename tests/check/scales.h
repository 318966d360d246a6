/* Where the half-float fields of a stored block lie: tests that fill blocks with random bytes put sane numbers there.
 */
#ifndef SALA_TESTS_CHECK_SCALES_H
#define SALA_TESTS_CHECK_SCALES_H

#include "tensor/dtype.h"

#include <stddef.h>

/* Returns how many there are, 1 or 2. */
static inline int scale_offsets(sala_dtype dtype, int off[2])
{
    off[0] = 0;
    off[1] = 2;
    switch (dtype) {
    case SALA_Q4_1:
    case SALA_Q5_1:
    case SALA_Q4_K:
    case SALA_Q5_K:
        return 2;
    case SALA_Q2_K:
        off[0] = (int)offsetof(sala_block_q2_k, d);
        off[1] = (int)offsetof(sala_block_q2_k, dmin);
        return 2;
    case SALA_Q3_K:
        off[0] = (int)offsetof(sala_block_q3_k, d);
        return 1;
    case SALA_Q6_K:
        off[0] = (int)offsetof(sala_block_q6_k, d);
        return 1;
    case SALA_TQ1_0:
        off[0] = (int)offsetof(sala_block_tq1_0, d);
        return 1;
    case SALA_TQ2_0:
        off[0] = (int)offsetof(sala_block_tq2_0, d);
        return 1;
    default:
        return 1;
    }
}

#endif
