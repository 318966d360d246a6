/* Kernels of training for AVX2. */
#include "kernels/x86/lanes_avx2.h"

static inline vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}

static inline void vf_transpose(vf r[8])
{
    vf t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

static inline vi vi_bf16(vf a)
{
    const vi bits = _mm256_castps_si256(a), high = _mm256_srli_epi32(bits, 16);
    const vi odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const vi near = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const vi quiet = _mm256_or_si256(high, _mm256_set1_epi32(64));
    return _mm256_blendv_epi8(near, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}

static inline void vi_store_u16(uint16_t *p, vi a, int n)
{
    const __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    if (n == 8)
        _mm_storeu_si128((__m128i *)(void *)p, h);
    else
        memcpy(p, &h, (size_t)n * sizeof *p);
}

#define TRAIN_FILL sala_train_fill_avx2
#define MMA_ROWS 6
#define MMA_VECS 2
#include "kernels/simd/train_impl.h"
