/* Linear layers over weights that lie as F32, F16 or BF16 in the file, for any register width.
 *
 * The includer has included a lanes_*.h and defines LINEAR_NAME(type), LINEAR_SUFFIX, LINEAR_NEED, the shape of a
 * register tile (ROWS, TILE tokens) and CHAINS. Products are f32 x f32 and the activations f32, unless it also defines
 * ELEM, what weights and activations are multiplied as (with elem_reg, WIDTH of them in a register, elem_load,
 * elem_load_n, elem_store, elem_mac), LINEAR_ACT, and LINEAR_TYPES.
 *
 * The columns of a row go in steps of CHAINS registers. A lane of chain k sums what it meets there in order, with one
 * FMA each; at the end the chains are added pairwise, then the lanes in the tree of vf_hsum4. Nothing of that depends
 * on the tile. Inputs are padded with zeros to whole steps; the last weights of a row are loaded under a mask.
 *
 * Few tokens go row by row, so that memory sees one stream: with four rows at a time a core of a Zen 5 read 27 GB/s,
 * with one row 33, which is what a loop that only reads gets. Mapped files have pages of 4 KiB, where hardware
 * prefetching ends: asking AHEAD bytes in front fetches the translation too (2 KiB gave 88 % of 8). Many tokens share
 * weights that are unpacked in the first-level cache, CHUNK columns of ROWS rows at a time. */
#include "kernels/families.h"

#define INLINE static inline __attribute__((always_inline))

#define AHEAD 8192
/* Columns of a chunk: 4 KiB of each row. */
#define CHUNK ((int64_t)(4096 / sizeof(ELEM)))
/* From this many tokens on, unpacking weights for all of them pays. */
#define MANY 6
/* Tokens that share an unpacked chunk; a multiple of TILE. */
#define BATCH (48 / TILE * TILE)

#ifndef ELEM
#define ELEM float
#define WIDTH LANES
#define LINEAR_ACT sala_act_f32
typedef vf elem_reg;

INLINE vf elem_load(const float *p)
{
    return vf_load(p);
}
INLINE void elem_store(float *p, vf a)
{
    vf_store(p, a, LANES);
}
INLINE vf elem_mac(vf w, vf x, vf acc)
{
    return vf_fma(w, x, acc);
}

INLINE vf load_f32(const uint8_t *p, int n)
{
    return n == LANES ? vf_load((const float *)p) : vf_load_n((const float *)p, n);
}

INLINE vf load_f16(const uint8_t *p, int n)
{
    return n == LANES ? vf_load_half((const uint16_t *)p) : vf_load_half_n((const uint16_t *)p, n);
}

INLINE vf load_bf16(const uint8_t *p, int n)
{
    if (n == LANES)
        return vf_load_bf16((const uint16_t *)p);
    uint16_t h[LANES] = {0};
    memcpy(h, p, (size_t)n * sizeof h[0]);
    return vf_load_bf16(h);
}

#define LINEAR_TYPES(X) X(f32, F32, 4) X(f16, F16, 2) X(bf16, BF16, 2)
#endif

#define STEP (CHAINS * WIDTH)

/* The first n weights at p, n <= WIDTH; the others are zero and their memory is not read. */
typedef elem_reg load_fn(const uint8_t *p, int n);

/* Register `chain` of the step at column c. */
INLINE elem_reg load_step(load_fn *load, int size, const uint8_t *w, int64_t c, int64_t cols, int chain)
{
    const int64_t at = c + chain * WIDTH, left = cols - at;
    return left >= WIDTH ? load(w + at * size, WIDTH) : left > 0 ? load(w + at * size, (int)left) : load(w, 0);
}

INLINE vf add_chains(vf acc[CHAINS])
{
    for (int n = CHAINS; n > 1; n /= 2)
        for (int k = 0; k < n / 2; k++)
            acc[k] = vf_add(acc[k], acc[k + n / 2]);
    return acc[0];
}

/* out[i] = the lanes of sums[i], i < n <= 4 */
INLINE void add_lanes(float *out, const vf sums[4], int n)
{
    float four[4];
    vf_hsum4(four, sums[0], n > 1 ? sums[1] : vf_zero(), n > 2 ? sums[2] : vf_zero(), n > 3 ? sums[3] : vf_zero());
    memcpy(out, four, (size_t)n * sizeof four[0]);
}

/* sums[t][at] = the lanes of one row and token t. */
INLINE void row_tile(load_fn *load, int size, vf sums[TILE][4], int at, const uint8_t *w, const ELEM *x,
                     int64_t x_stride, int64_t cols, const int n_tok)
{
    const int steps = STEP * size < 64 ? 64 / (STEP * size) : 1; /* a cache line or more */
    vf acc[TILE][CHAINS];
    for (int t = 0; t < n_tok; t++)
        for (int k = 0; k < CHAINS; k++)
            acc[t][k] = vf_zero();
    int64_t c = 0;
    while (c + steps * STEP <= cols) {
        for (int i = 0; i < steps * STEP * size; i += 64)
            __builtin_prefetch(w + c * size + AHEAD + i);
        for (int s = 0; s < steps; s++, c += STEP) {
            for (int k = 0; k < CHAINS; k++) {
                const elem_reg b = load(w + (c + k * WIDTH) * size, WIDTH);
                for (int t = 0; t < n_tok; t++)
                    acc[t][k] = elem_mac(b, elem_load(x + t * x_stride + c + k * WIDTH), acc[t][k]);
            }
        }
    }
    for (; c < cols; c += STEP) {
        for (int k = 0; k < CHAINS; k++) {
            const elem_reg b = load_step(load, size, w, c, cols, k);
            for (int t = 0; t < n_tok; t++)
                acc[t][k] = elem_mac(b, elem_load(x + t * x_stride + c + k * WIDTH), acc[t][k]);
        }
    }
    for (int t = 0; t < n_tok; t++)
        sums[t][at] = add_chains(acc[t]);
}

/* Up to four rows. Tiles beyond the first find the row in the cache. */
INLINE void few_tokens(load_fn *load, int size, float *out, int64_t out_stride, const uint8_t *w, size_t row_bytes,
                       const ELEM *x, int64_t x_stride, int64_t cols, int n_rows, int64_t n_tokens)
{
    vf sums[(MANY + TILE - 1) / TILE][TILE][4];
    for (int r = 0; r < n_rows; r++) {
        const uint8_t *row = w + (size_t)r * row_bytes;
        int64_t t = 0;
        for (; t + TILE <= n_tokens; t += TILE)
            row_tile(load, size, sums[t / TILE], r, row, x + t * x_stride, x_stride, cols, TILE);
        if (TILE > 2 && n_tokens - t >= 2) {
            row_tile(load, size, sums[t / TILE], r, row, x + t * x_stride, x_stride, cols, 2);
            t += 2;
        }
        if (t < n_tokens)
            row_tile(load, size, &sums[t / TILE][t % TILE], r, row, x + t * x_stride, x_stride, cols, 1);
    }
    for (int64_t t = 0; t < n_tokens; t++)
        add_lanes(out + t * out_stride, sums[t / TILE][t % TILE], n_rows);
}

/* One chain of n_rows unpacked rows and n_tok tokens over n columns (whole steps); the sums come from and go to `sums`.
 */
INLINE void chain_tile(vf sums[ROWS][TILE], bool first, const ELEM *wide, const ELEM *x, int64_t x_stride, int64_t n,
                       const int n_rows, const int n_tok)
{
    vf acc[ROWS][TILE];
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < n_tok; t++)
            acc[r][t] = first ? vf_zero() : sums[r][t];
    for (int64_t c = 0; c < n; c += STEP) {
        elem_reg a[TILE];
        for (int t = 0; t < n_tok; t++)
            a[t] = elem_load(x + t * x_stride + c);
        for (int r = 0; r < n_rows; r++) {
            const elem_reg b = elem_load(wide + r * CHUNK + c);
            for (int t = 0; t < n_tok; t++)
                acc[r][t] = elem_mac(b, a[t], acc[r][t]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < n_tok; t++)
            sums[r][t] = acc[r][t];
}

/* n_rows rows and up to BATCH tokens. */
INLINE void batch(load_fn *load, int size, float *out, int64_t out_stride, const uint8_t *w, size_t row_bytes,
                  const ELEM *x, int64_t x_stride, int64_t cols, const int n_rows, int64_t n_tokens)
{
    vf sums[BATCH / TILE][CHAINS][ROWS][TILE];
    ELEM wide[ROWS][CHUNK] __attribute__((aligned(64)));
    for (int64_t c0 = 0; c0 < cols; c0 += CHUNK) {
        const int64_t c1 = c0 + CHUNK < cols ? c0 + CHUNK : cols;
        const int64_t n = (c1 - c0 + STEP - 1) / STEP * STEP;
        for (int r = 0; r < n_rows; r++) {
            const uint8_t *in = w + (size_t)r * row_bytes;
            int64_t c = c0;
            for (; c + STEP <= c1; c += STEP) {
                __builtin_prefetch(in + c * size + AHEAD);
                for (int k = 0; k < CHAINS; k++)
                    elem_store(wide[r] + (c - c0) + k * WIDTH, load(in + (c + k * WIDTH) * size, WIDTH));
            }
            for (; c < c1; c += STEP)
                for (int k = 0; k < CHAINS; k++)
                    elem_store(wide[r] + (c - c0) + k * WIDTH, load_step(load, size, in, c, cols, k));
        }
        for (int64_t t = 0; t < n_tokens; t += TILE) {
            for (int k = 0; k < CHAINS; k++) {
                const ELEM *in = x + t * x_stride + c0 + k * WIDTH;
#define TILE_OF(n_tok)                                                                                                 \
    case n_tok:                                                                                                        \
        chain_tile(sums[t / TILE][k], c0 == 0, wide[0] + k * WIDTH, in, x_stride, n, n_rows, n_tok);                   \
        break;
                switch (n_tokens - t) {
                    TILE_OF(1)
#if TILE > 2
                    TILE_OF(2)
#endif
#if TILE > 3
                    TILE_OF(3)
#endif
                default:
                    chain_tile(sums[t / TILE][k], c0 == 0, wide[0] + k * WIDTH, in, x_stride, n, n_rows, TILE);
                }
#undef TILE_OF
            }
        }
    }
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int r = 0; r < n_rows; r += 4) {
            const int n = n_rows - r < 4 ? n_rows - r : 4;
            vf rows[4];
            for (int i = 0; i < n; i++) {
                vf acc[CHAINS];
                for (int k = 0; k < CHAINS; k++)
                    acc[k] = sums[t / TILE][k][r + i][t % TILE];
                rows[i] = add_chains(acc);
            }
            add_lanes(out + t * out_stride + r, rows, n);
        }
    }
}

INLINE void run_any(load_fn *load, int size, float *out, int64_t out_stride, const uint8_t *w, const uint8_t *act,
                    size_t act_stride, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens)
{
    const size_t row_bytes = (size_t)cols * (size_t)size;
    const int64_t x_stride = (int64_t)(act_stride / sizeof(ELEM));
    const ELEM *x = (const ELEM *)act;
    if (n_tokens < MANY) {
        for (int64_t r = row0; r < row1; r += 4)
            few_tokens(load, size, out + r, out_stride, w + (size_t)r * row_bytes, row_bytes, x, x_stride, cols,
                       row1 - r < 4 ? (int)(row1 - r) : 4, n_tokens);
        return;
    }
    for (int64_t t = 0; t < n_tokens; t += BATCH) {
        const int64_t n = n_tokens - t < BATCH ? n_tokens - t : BATCH;
        int64_t r = row0;
        for (; r + ROWS <= row1; r += ROWS)
            batch(load, size, out + t * out_stride + r, out_stride, w + (size_t)r * row_bytes, row_bytes,
                  x + t * x_stride, x_stride, cols, ROWS, n);
        for (; r < row1; r++)
            batch(load, size, out + t * out_stride + r, out_stride, w + (size_t)r * row_bytes, row_bytes,
                  x + t * x_stride, x_stride, cols, 1, n);
    }
}

#define X(type, id, size)                                                                                              \
    static void get_row_##type(float *out, const void *w, int64_t rows, int64_t cols, int64_t r)                       \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        sala_dequant_row(SALA_##id, out, (const uint8_t *)w + r * cols * (size), cols);                                \
    }                                                                                                                  \
    static void run_##type(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride,          \
                           int64_t rows, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens, void *scratch)    \
    {                                                                                                                  \
        (void)rows, (void)scratch;                                                                                     \
        run_any(load_##type, size, out, out_stride, w, act, act_stride, cols, row0, row1, n_tokens);                   \
    }                                                                                                                  \
    const sala_linear_kernel LINEAR_NAME(type) = {.name = #type LINEAR_SUFFIX,                                         \
                                                  .dtype = SALA_##id,                                                  \
                                                  .need = LINEAR_NEED,                                                 \
                                                  .panel_rows = ROWS,                                                  \
                                                  .act = &LINEAR_ACT,                                                  \
                                                  .get_row = get_row_##type,                                           \
                                                  .run = run_##type};

LINEAR_TYPES(X)
#undef X
