/* How keys and values lie in a cache block of 64 tokens, for one head: the definition that stores, kernels and session
 * files share.
 *
 * Keys of plain types lie component by component ([head_dim][64]), so that a lane of a register can own a key as it
 * comes from memory; values lie token by token ([64][head_dim]). Both take the same number of bytes.
 *
 * Integers of quantised types are multiplied four at a time in a lane of 32 bits. So four components of a key lie side
 * by side ([code bytes / 4][64][4]), and four tokens of a value's component: j, j + 16, j + 32 and j + 48, j < 16
 * ([16][code bytes][4]), which lets their weights meet without leaving their lanes.
 *
 *   F32, F16   plain elements
 *   Q8_0       8-bit integers times one scale per token and group of 32 components (the last group may be shorter).
 *              Code bytes of a token: head_dim, rounded up to a multiple of 4; byte c is component c
 *     keys     codes, then f16 scale [groups][64]
 *     values   codes, then f16 scale [groups][64]
 *   Q4_1       4-bit integers 0..15 times a scale, plus a minimum, per token and group of 32 components. Component c of
 *              a group, c < 16, is the low half of the group's byte c, component c + 16 the high half. Code bytes of a
 *              token: 16 for a whole group and min(16, components), rounded up to a multiple of 4, for a shorter one
 *     keys     codes, then f16 scale [groups][64], then f16 minimum [groups][64]
 *     values   codes, then f16 scale [groups][64], then f16 minimum [groups][64]
 * Codes of components that there are not are 0.
 *
 * How a group x is quantised; every operation is rounded to f32 unless it says f16, nearest even:
 *   Q8_0       scale = f16(max |x| / 127), integer = round(x / scale), at most 127 either way
 *   Q4_1       a line x = minimum + scale * integer through the smallest and the largest of the n components,
 *              minimum = min x, scale = (max x - minimum) / 15; three times fitted to the components, by least squares:
 *                integer = round((x - minimum) / scale), kept in 0..15; c, q, X, P = the sums of the integers, of their
 *                squares, of x, of x * integer; unless n q = c c
 *                scale = (n P - c X) / (n q - c c), minimum = (X - scale * c) / n
 *              then minimum = f16(minimum), scale = f16(max(0, scale)), integers as before. Sums run over 32 places,
 *              0 where there is no component: places i and i + 16 are added, then i and i + 8, and so on.
 * Before that, keys of Q4_1 are turned: of each group the first n components, n the largest power of two that fits,
 * become H x / sqrt(n), H the Hadamard matrix. Keys of real models have a few components that are large in every token;
 * turned, they are shared out evenly, and 16 steps are enough for what remains. Queries are turned alike, so that
 * scores stay what they were; reading turns back, as H H = n. In f32, in this order: for h = 1, 2, 4 .. n / 2
 * components i and i + h, bit h of i clear, become their sum and their difference; then all are multiplied by f32(1 /
 * sqrt(n)).
 *
 * Where the scale is 0 the integers are 0. A group that holds a number that is not finite, or that f16 cannot scale,
 * becomes not-a-number as a whole, since an error must not look like a key. Reading multiplies, then adds, in f32.
 *
 * A token's bytes are its own: storing one token touches no other, and nothing is ever quantised twice. */
#ifndef SALA_TENSOR_KV_BLOCK_H
#define SALA_TENSOR_KV_BLOCK_H

#include "tensor/dtype.h"

#define SALA_KV_BLOCK 64 /* tokens in a block; blocks start at absolute positions that are multiples of it */
#define SALA_KV_GROUP 32 /* components that share a scale */
#define SALA_KV_FITS 3   /* steps of least squares */

static inline bool sala_kv_dtype_ok(sala_dtype t)
{
    return t == SALA_F32 || t == SALA_F16 || t == SALA_Q8_0 || t == SALA_Q4_1;
}

static inline int sala_kv_groups(int head_dim)
{
    return (head_dim + SALA_KV_GROUP - 1) / SALA_KV_GROUP;
}

/* Bytes of one token's integers, in one head's keys or values, of a quantised type. */
static inline int sala_kv_code_bytes(sala_dtype t, int head_dim)
{
    const int rest = head_dim % SALA_KV_GROUP, half = SALA_KV_GROUP / 2;
    const int n = t == SALA_Q8_0 ? head_dim : head_dim / SALA_KV_GROUP * half + (rest < half ? rest : half);
    return (n + 3) / 4 * 4;
}

/* Where byte i of a token's integers lies, in a head's keys and in its values. */
static inline int sala_kv_key_at(int i, int token)
{
    return (i / 4 * SALA_KV_BLOCK + token) * 4 + i % 4;
}

static inline int sala_kv_value_at(int i, int token, int code_bytes)
{
    return (token % (SALA_KV_BLOCK / 4) * code_bytes + i) * 4 + token / (SALA_KV_BLOCK / 4);
}

/* Bytes of one head's keys of a block; its values take as many. A multiple of 64. */
static inline size_t sala_kv_head_bytes(sala_dtype t, int head_dim)
{
    const size_t d = (size_t)head_dim, scales = (size_t)sala_kv_groups(head_dim) * 2;
    const size_t codes = (size_t)sala_kv_code_bytes(t, head_dim);
    switch (t) {
    case SALA_F32:
        return SALA_KV_BLOCK * d * 4;
    case SALA_F16:
        return SALA_KV_BLOCK * d * 2;
    case SALA_Q8_0:
        return SALA_KV_BLOCK * (codes + scales);
    case SALA_Q4_1:
        return SALA_KV_BLOCK * (codes + 2 * scales);
    default:
        return 0;
    }
}

#endif
