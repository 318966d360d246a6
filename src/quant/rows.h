/* Writers of the block formats. Internal to quant. */
#ifndef SALA_QUANT_ROWS_H
#define SALA_QUANT_ROWS_H

#include "quant/solve.h"
#include "tensor/dtype.h"

/* Consecutive blocks: all weights finite and below SALA_QUANT_HUGE. */
typedef struct sala_block_run {
    void *dst;
    const float *x;
    int64_t n_blocks;
    const float *importance; /* [blocks_per_row][weights of a block], or NULL */
    int64_t blocks_per_row;
    const sala_lane_ops *ops;
} sala_block_run;

/* All return the first block whose scale is too large for a half float, or -1. */
typedef int64_t sala_block_writer(const sala_block_run *run);

sala_block_writer sala_write_q4_0, sala_write_q4_1, sala_write_q5_0, sala_write_q5_1, sala_write_q8_0,
    sala_write_iq4_nl, sala_write_tq1_0, sala_write_tq2_0; /* rows_simple.c */
sala_block_writer sala_write_q2_k, sala_write_q3_k, sala_write_q4_k, sala_write_q5_k, sala_write_q6_k,
    sala_write_iq4_xs; /* rows_super.c */

/* The importance of block b, or NULL. */
static inline const float *sala_block_importance(const sala_block_run *run, int64_t b, int block)
{
    return run->importance ? run->importance + b % run->blocks_per_row * block : NULL;
}

static inline bool sala_half_overflows(uint16_t h)
{
    return (h & 0x7c00) == 0x7c00;
}

#endif
