/* Products of bf16 where they are an instruction (vdpbf16ps), and rounding to bf16. Both take denormal numbers for zero
 * and round to nearest even, whatever the control register says. */
#include "kernels/train_families.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, ROWS = 6, VECS = 4 };

static inline __mmask16 first_lanes(int n)
{
    return (__mmask16)((1u << n) - 1);
}

/* Rows of a tile by n_vec registers; `last` are the lanes of the last one. */
INLINE void pairs_tile(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int k,
                       bool add, __mmask16 last, const int n_vec, const int rows)
{
    __m512 sum[ROWS][VECS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            sum[i][v] = add ? _mm512_maskz_loadu_ps(v + 1 < n_vec ? (__mmask16)0xffff : last, c + i * ldc + v * LANES)
                            : _mm512_setzero_ps();
    for (int p = 0; p < k; p += 2, a += 2, b += 2 * ldb) {
        __m512i y[VECS];
        for (int v = 0; v < n_vec; v++)
            y[v] = _mm512_maskz_loadu_epi32(v + 1 < n_vec ? (__mmask16)0xffff : last, b + 2 * v * LANES);
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, a + i * lda, sizeof pair);
            const __m512i x = _mm512_set1_epi32(pair);
            for (int v = 0; v < n_vec; v++)
                sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)x, (__m512bh)y[v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            _mm512_mask_storeu_ps(c + i * ldc + v * LANES, v + 1 < n_vec ? (__mmask16)0xffff : last, sum[i][v]);
}

INLINE void columns(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int m, int k,
                    bool add, __mmask16 last, const int n_vec)
{
    for (int i = 0, n; i < m; i += n) {
        const int left = m - i, n_tiles = (left + ROWS - 1) / ROWS;
        n = (left + n_tiles - 1) / n_tiles;
#define TILE(rows)                                                                                                     \
    case rows:                                                                                                         \
        pairs_tile(c + i * ldc, ldc, a + i * lda, lda, b, ldb, k, add, last, n_vec, rows);                             \
        break;
        switch (n) {
            TILE(1)
            TILE(2)
            TILE(3)
            TILE(4)
            TILE(5)
            TILE(6)
        }
#undef TILE
    }
}

static void mma_bf16(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int m,
                     int n, int k, bool add)
{
    int j = 0;
    for (; j + VECS * LANES <= n; j += VECS * LANES)
        columns(c + j, ldc, a, lda, b + 2 * j, ldb, m, k, add, 0xffff, VECS);
    for (; j < n; j += LANES)
        columns(c + j, ldc, a, lda, b + 2 * j, ldb, m, k, add, first_lanes(n - j < LANES ? n - j : LANES), 1);
}

static void round_rows(uint16_t *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++) {
        const float *from = x + r * ldx;
        uint16_t *to = out + r * ldo;
        int c = 0;
        for (; c + 2 * LANES <= cols; c += 2 * LANES)
            _mm512_storeu_si512(
                to + c, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + c + LANES), _mm512_loadu_ps(from + c)));
        for (; c < cols; c += LANES) {
            const __mmask16 k = first_lanes(cols - c < LANES ? cols - c : LANES);
            _mm256_mask_storeu_epi16(to + c, k, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(k, from + c)));
        }
        if (cols % 2)
            to[cols] = 0;
    }
}

static void round_pairs(uint16_t *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols)
{
    const __m512i beside = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                            21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int r = 0; r < rows; r += 2) {
        const float *even = x + r * ldx, *odd = even + ldx;
        uint16_t *to = out + r * ldo;
        int c = 0;
        for (; c + LANES <= cols; c += LANES) { /* lanes of `even` in the lower half, then each beside its partner */
            const __m512 y = r + 1 < rows ? _mm512_loadu_ps(odd + c) : _mm512_setzero_ps();
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y, _mm512_loadu_ps(even + c));
            _mm512_storeu_si512(to + 2 * c, _mm512_permutexvar_epi16(beside, both));
        }
        if (c < cols) {
            const __mmask16 k = first_lanes(cols - c), k1 = r + 1 < rows ? k : 0;
            const __m256i low = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(k, even + c));
            const __m256i high = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(k1, k1 ? odd + c : even));
            const __m512i pairs =
                _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
            _mm512_mask_storeu_epi32(to + 2 * c, k, pairs);
        }
    }
}

void sala_train_fill_avx512bf16(sala_train_kernels *out)
{
    out->has_bf16 = true;
    out->mma_bf16 = mma_bf16;
    out->round_rows = round_rows;
    out->round_pairs = round_pairs;
}
