/* How keys and values lie in a cache block of 64 tokens, for one head: the definition that stores, kernels and session
 * files share.
 *
 * Keys lie component by component ([head_dim][64]), so that a lane of a register can own a key as it comes from memory;
 * values lie token by token ([64][head_dim]). Both take the same number of bytes.
 *
 *   F32, F16   plain elements
 *   Q8_0       8-bit integers times one scale per token and group of 32 components (the last group may be shorter)
 *     keys     int8 [head_dim][64], then f16 scale [groups][64]
 *     values   int8 [64][head_dim], then f16 scale [64][groups]
 *   Q4_1       4-bit integers 0..15 times a scale, plus a minimum, per token and group of 32 components
 *     keys     nibbles [ceil(head_dim / 2)][64]: component 2i low, 2i + 1 high; then f16 scale [groups][64], then f16
 *              minimum [groups][64]
 *     values   nibbles [64][ceil(head_dim / 2)]: component 2i low, 2i + 1 high; then f16 scale [64][groups], then f16
 *              minimum [64][groups]
 *
 * A token's bytes are its own: storing one token touches no other, and nothing is ever quantised twice. */
#ifndef SALA_TENSOR_KV_BLOCK_H
#define SALA_TENSOR_KV_BLOCK_H

#include "tensor/dtype.h"

#define SALA_KV_BLOCK 64 /* tokens in a block; blocks start at absolute positions that are multiples of it */
#define SALA_KV_GROUP 32 /* components that share a scale */

static inline bool sala_kv_dtype_ok(sala_dtype t)
{
    return t == SALA_F32 || t == SALA_F16 || t == SALA_Q8_0 || t == SALA_Q4_1;
}

static inline int sala_kv_groups(int head_dim)
{
    return (head_dim + SALA_KV_GROUP - 1) / SALA_KV_GROUP;
}

/* Bytes of one head's keys of a block; its values take as many. A multiple of 64. */
static inline size_t sala_kv_head_bytes(sala_dtype t, int head_dim)
{
    const size_t d = (size_t)head_dim, scales = (size_t)sala_kv_groups(head_dim) * 2;
    switch (t) {
    case SALA_F32:
        return SALA_KV_BLOCK * d * 4;
    case SALA_F16:
        return SALA_KV_BLOCK * d * 2;
    case SALA_Q8_0:
        return SALA_KV_BLOCK * (d + scales);
    case SALA_Q4_1:
        return SALA_KV_BLOCK * ((d + 1) / 2 + 2 * scales);
    default:
        return 0;
    }
}

#endif
