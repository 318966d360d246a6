/* Linear layers over BF16 weights for AVX-512 with BF16 products: activations are rounded to bf16, which is finer than
 * the 8 bits of the quantised types, and 32 columns go into one instruction. It takes denormals for zero. */
#include "kernels/kernels.h"
#include "kernels/x86/lanes_avx512.h"

#define LINEAR_NAME(type) sala_linear_##type##_avx512bf16
#define LINEAR_SUFFIX "_avx512bf16"
#define LINEAR_NEED (SALA_CPU_AVX512 | SALA_CPU_AVX512_BF16)
#define LINEAR_ACT act_bf16
#define LINEAR_TYPES(X) X(bf16, BF16, 2)
#define ROWS 6
#define TILE 4
#define CHAINS 1
#define ELEM uint16_t
#define WIDTH 32
typedef __m512i elem_reg;

static inline __m512i elem_load(const uint16_t *p)
{
    return _mm512_loadu_si512(p);
}
static inline void elem_store(uint16_t *p, __m512i a)
{
    _mm512_storeu_si512(p, a);
}
static inline vf elem_mac(__m512i w, __m512i x, vf acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}
static inline __m512i load_bf16(const uint8_t *p, int n)
{
    return n == 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((1u << n) - 1, p);
}

static size_t act_bf16_bytes(int64_t cols)
{
    return (size_t)(cols + 31) / 32 * 64;
}

static void act_bf16_prepare(void *dst, const float *x, int64_t cols)
{
    uint16_t *out = dst;
    for (int64_t c = 0; c < cols; c += 16) {
        const vf a = vf_load_n(x + c, cols - c < 16 ? (int)(cols - c) : 16);
        _mm256_storeu_si256((__m256i *)(void *)(out + c), (__m256i)_mm512_cvtneps_pbh(a));
    }
    if ((cols + 15) / 16 % 2)
        memset(out + (cols + 15) / 16 * 16, 0, 32);
}

static const sala_act_format act_bf16 = {.name = "bf16", .row_bytes = act_bf16_bytes, .prepare = act_bf16_prepare};

#include "kernels/simd/float_linear_impl.h"
