/* Linear layers over weights that lie as F32, F16 or BF16 in the file, with f32 activations, for any register width.
 *
 * The includer has included a lanes_*.h and defines LINEAR_NAME(type), LINEAR_SUFFIX, LINEAR_NEED and TILE (tokens of a
 * register tile). A lane sums every LANES-th product of a row in order with FMA, whatever the tile; at the end the
 * lanes are added in the tree of vf_hsum. Inputs are padded with zeros; the last weights of a row are loaded under a
 * mask. */
#include "kernels/families.h"

#define INLINE static inline __attribute__((always_inline))

#define ROWS 4 /* rows of a register tile */
/* Rows and tokens that are worked on together: each set fits the second-level cache beside the other. */
#define SLAB_BYTES (256 * 1024)

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

typedef vf load_fn(const uint8_t *p, int n);

INLINE void tile(load_fn *load, int size, float *out, int64_t out_stride, const uint8_t *w, size_t row_bytes,
                 const float *x, int64_t x_stride, int64_t cols, const int n_rows, const int n_tok)
{
    vf acc[ROWS][TILE];
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < n_tok; t++)
            acc[r][t] = vf_zero();
    int64_t c = 0;
    for (; c + LANES <= cols; c += LANES) {
        vf a[TILE];
        for (int t = 0; t < n_tok; t++)
            a[t] = vf_load(x + t * x_stride + c);
        for (int r = 0; r < n_rows; r++) {
            if (n_tok <= 2) /* the same place of the next rows: memory is what few tokens wait for */
                __builtin_prefetch(w + (size_t)(r + n_rows) * row_bytes + c * size);
            const vf b = load(w + (size_t)r * row_bytes + c * size, LANES);
            for (int t = 0; t < n_tok; t++)
                acc[r][t] = vf_fma(b, a[t], acc[r][t]);
        }
    }
    if (c < cols) {
        for (int r = 0; r < n_rows; r++) {
            const vf b = load(w + (size_t)r * row_bytes + c * size, (int)(cols - c));
            for (int t = 0; t < n_tok; t++)
                acc[r][t] = vf_fma(b, vf_load(x + t * x_stride + c), acc[r][t]);
        }
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < n_rows; r++)
            out[t * out_stride + r] = vf_hsum(acc[r][t]);
}

INLINE void run_any(load_fn *load, int size, float *out, int64_t out_stride, const uint8_t *w, const uint8_t *act,
                    size_t act_stride, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens)
{
    const size_t row_bytes = (size_t)cols * (size_t)size;
    const int64_t x_stride = (int64_t)(act_stride / sizeof(float));
    int64_t rows_at_once = (int64_t)(SLAB_BYTES / (row_bytes + 1)) / ROWS * ROWS;
    int64_t tokens_at_once = (int64_t)(SLAB_BYTES / act_stride) / TILE * TILE;
    rows_at_once = rows_at_once < ROWS ? ROWS : rows_at_once;
    tokens_at_once = tokens_at_once < TILE ? TILE : tokens_at_once;
#define TILES(n_rows, n)                                                                                               \
    for (; t + (n) <= t1; t += (n))                                                                                    \
        tile(load, size, out + t * out_stride + r, out_stride, w + (size_t)r * row_bytes, row_bytes,                   \
             (const float *)(act + (size_t)t * act_stride), x_stride, cols, n_rows, n);
#if TILE == 4
#define ALL_TILES(n_rows) TILES(n_rows, 4) TILES(n_rows, 2) TILES(n_rows, 1)
#else
#define ALL_TILES(n_rows) TILES(n_rows, TILE) TILES(n_rows, 1)
#endif
    for (int64_t r0 = row0; r0 < row1; r0 += rows_at_once) {
        const int64_t r1 = r0 + rows_at_once < row1 ? r0 + rows_at_once : row1;
        for (int64_t t0 = 0; t0 < n_tokens; t0 += tokens_at_once) {
            const int64_t t1 = t0 + tokens_at_once < n_tokens ? t0 + tokens_at_once : n_tokens;
            int64_t r = r0;
            for (; r + ROWS <= r1; r += ROWS) {
                int64_t t = t0;
                ALL_TILES(ROWS)
            }
            for (; r < r1; r++) {
                int64_t t = t0;
                ALL_TILES(1)
            }
        }
    }
#undef TILES
#undef ALL_TILES
}

#define X(type, id, size)                                                                                              \
    static void get_row_##type(float *out, const void *w, int64_t rows, int64_t cols, int64_t r)                       \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        sala_dequant_row(SALA_##id, out, (const uint8_t *)w + r * cols * (size), cols);                                \
    }                                                                                                                  \
    static void run_##type(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride,          \
                           int64_t rows, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens)                   \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        run_any(load_##type, size, out, out_stride, w, act, act_stride, cols, row0, row1, n_tokens);                   \
    }                                                                                                                  \
    const sala_linear_kernel LINEAR_NAME(type) = {.name = #type LINEAR_SUFFIX,                                         \
                                                  .dtype = SALA_##id,                                                  \
                                                  .need = LINEAR_NEED,                                                 \
                                                  .panel_rows = ROWS,                                                  \
                                                  .act = &sala_act_f32,                                                \
                                                  .get_row = get_row_##type,                                           \
                                                  .run = run_##type};

X(f32, F32, 4)
X(f16, F16, 2)
X(bf16, BF16, 2)
#undef X
