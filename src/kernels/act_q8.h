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
    int32_t finer; /* how many finer blocks this one and those before it have; in a finer one: whose rest it is */
} sala_act_block;

_Static_assert(sizeof(sala_act_block) == 64, "one cache line");

#define SALA_ACT_Q8_TINY 1e-30f
/* A block is quantised twice when its scale, squared, is more than this many times the mean square of the row's scales.
 */
#define SALA_ACT_Q8_FINER 4.0f

/* A row: n blocks, room for as many finer ones, and a bit for each block that has one, in whole cache lines. Their
 * number is odd: neighbouring rows then fall into different sets, and many of them fit into a cache side by side. */
static inline size_t sala_act_q8_bytes(int64_t cols)
{
    const size_t n = (size_t)(cols + 31) / 32;
    return (2 * n + ((n + 511) / 512 | 1)) * sizeof(sala_act_block);
}

static inline uint8_t *sala_act_q8_finer_bits(const sala_act_block *row, int64_t n_blocks)
{
    return (uint8_t *)(uintptr_t)(row + 2 * n_blocks);
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
    b->finer = 0;
}

/* A row of blocks, each quantised by quantise(block, 32 inputs); the same steps for every instruction set. */
static inline __attribute__((always_inline)) void sala_act_q8_row(void *dst, const float *x, int64_t cols,
                                                                  void (*quantise)(sala_act_block *out, const float *x))
{
    sala_act_block *row = dst;
    const int64_t n = (cols + 31) / 32;
    float squares = 0;
    float rest[32];
    uint8_t *bits = sala_act_q8_finer_bits(row, n);
    memset(bits, 0, (size_t)(n + 511) / 512 * sizeof *row);
    for (int64_t b = 0; b < n; b++) {
        const float *in = x + 32 * b;
        if (cols - 32 * b < 32) {
            memset(rest, 0, sizeof rest);
            memcpy(rest, in, (size_t)(cols - 32 * b) * sizeof(float));
            in = rest;
        }
        quantise(&row[b], in);
        squares += row[b].d * row[b].d;
    }
    const float limit = SALA_ACT_Q8_FINER / (float)n * squares;
    int32_t finer = 0;
    for (int64_t b = 0; b < n; b++) {
        row[b].finer = finer;
        if (!(row[b].d * row[b].d > limit)) /* never when some block is not a number */
            continue;
        const int64_t m = cols - 32 * b < 32 ? cols - 32 * b : 32;
        for (int64_t i = 0; i < 32; i++)
            rest[i] = i < m ? x[32 * b + i] - row[b].d * (float)row[b].q[i] : 0;
        quantise(&row[n + finer], rest);
        row[n + finer].finer = (int32_t)b;
        row[b].finer = ++finer;
        bits[b / 8] |= (uint8_t)(1 << b % 8);
    }
}

#endif
