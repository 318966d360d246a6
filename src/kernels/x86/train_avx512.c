/* Kernels of training for AVX-512. */
#include "kernels/x86/lanes_avx512.h"

static inline vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}

static inline void vf_transpose(vf r[16])
{
    vf t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* column 4 b + j of rows i .. i + 3 in the part b of r[i + j] */
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int j = 0; j < 4; j++) { /* the four parts of four registers change places */
        const vf a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x44), b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xee);
        const vf c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x44);
        const vf d = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xee);
        t[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[4 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[8 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

static inline vi vi_bf16(vf a)
{
    const vi bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
    const vi odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const vi near = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    return _mm512_mask_or_epi32(near, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), high, _mm512_set1_epi32(64));
}

static inline void vi_store_u16(uint16_t *p, vi a, int n)
{
    _mm256_mask_storeu_epi16(p, mask_of(n), _mm512_cvtepi32_epi16(a));
}

#define TRAIN_FILL sala_train_fill_avx512
#define MMA_ROWS 6
#define MMA_VECS 4
#include "kernels/simd/train_impl.h"
