#include "kernels/x86/act_q8_x86.h"

#include <immintrin.h>

static inline int32_t sum_32(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static void quantise_block(sala_act_block *out, const float *x)
{
    __m256 v[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_loadu_ps(x + 8 * i);
    /* As integers, magnitudes of floats keep their order, and infinities and NaN come out on top. */
    const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_and_si256(_mm256_castps_si256(v[0]), abs_mask);
    for (int i = 1; i < 4; i++)
        top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), abs_mask));
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    const int32_t bits = _mm_cvtsi128_si32(t);
    float max;
    memcpy(&max, &bits, 4);
    if (bits >= 0x7f800000 || max < SALA_ACT_Q8_TINY) {
        memset(out->q, 0, sizeof out->q);
        out->d = bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
        sala_act_q8_finish(out, 0, 0);
        return;
    }
    out->d = max / 127.0f;
    const __m256 inverse = _mm256_set1_ps(127.0f / max);
    __m256i q[4];
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)); /* to nearest even */
    const int32_t sum0 = sum_32(_mm256_add_epi32(q[0], q[1])), sum1 = sum_32(_mm256_add_epi32(q[2], q[3]));
    /* Packing works within 128-bit halves; the permutation undoes that. */
    const __m256i p = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)out->q, _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    sala_act_q8_finish(out, sum0, sum1);
}

static void prepare(void *dst, const float *x, int64_t cols)
{
    sala_act_q8_row(dst, x, cols, quantise_block);
}

static size_t row_bytes(int64_t cols)
{
    return sala_act_q8_bytes(cols);
}

const sala_act_format sala_act_q8_avx2 = {.name = "q8", .row_bytes = row_bytes, .prepare = prepare};
