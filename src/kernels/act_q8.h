/* Activations in 8 bits: what the integer kernels of every instruction set read.
 *
 * A row is one block per 32 inputs, one cache line each:  x[i] is about d * q[i],  d = max|x| / 127.
 * The sums are there because weights are stored as unsigned codes: sum((code - z) * q) = sum(code * q) - z * sum(q),
 * and weights with a minimum need m * d * sum(q). A block that holds an infinity or a NaN has d = NaN and zero codes,
 * so that every output which reads it is NaN; one that is smaller than 1e-30 throughout is taken as zero. */
#ifndef SALA_KERNELS_ACT_Q8_H
#define SALA_KERNELS_ACT_Q8_H

#include "kernels/kernels.h"

typedef struct sala_act_block {
    int8_t q[32]; /* -127 .. 127 */
    float d;
    float s;         /* d * sum(q) */
    float s_half[2]; /* d * sum of q[0..16), of q[16..32) */
    int32_t n8;      /* -8 * sum(q) */
    int32_t n8_half[2];
    int32_t unused;
} sala_act_block;

_Static_assert(sizeof(sala_act_block) == 64, "one cache line");

#define SALA_ACT_Q8_TINY 1e-30f

static inline size_t sala_act_q8_bytes(int64_t cols)
{
    return (size_t)(cols + 31) / 32 * sizeof(sala_act_block);
}

/* The sums of a block whose codes and scale are set. */
static inline void sala_act_q8_finish(sala_act_block *b, int32_t sum0, int32_t sum1)
{
    b->s = b->d * (float)(sum0 + sum1);
    b->s_half[0] = b->d * (float)sum0;
    b->s_half[1] = b->d * (float)sum1;
    b->n8 = -8 * (sum0 + sum1);
    b->n8_half[0] = -8 * sum0;
    b->n8_half[1] = -8 * sum1;
    b->unused = 0;
}

#endif
