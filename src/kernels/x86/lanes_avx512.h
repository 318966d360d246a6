/* Sixteen 32-bit lanes: the vocabulary of the shared bodies in simd/ for AVX-512. */
#ifndef SALA_KERNELS_X86_LANES_AVX512_H
#define SALA_KERNELS_X86_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

typedef __m512i vi;
typedef __m512 vf;

static inline vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
static inline vi vi_zero(void)
{
    return _mm512_setzero_si512();
}
static inline vi vi_set1_8(int x)
{
    return _mm512_set1_epi8((char)x);
}
static inline vi vi_set1_32(int x)
{
    return _mm512_set1_epi32(x);
}
static inline vi vi_bcast_32(const void *p)
{
    return _mm512_set1_epi32(*(const int32_t *)p);
}
static inline vi vi_table(const int8_t *t)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)t));
}
static inline vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
static inline vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
static inline vi vi_xor(vi a, vi b)
{
    return _mm512_xor_si512(a, b);
}
static inline vi vi_add_8(vi a, vi b)
{
    return _mm512_add_epi8(a, b);
}
static inline vi vi_add_32(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
static inline vi vi_mullo_16(vi a, vi b)
{
    return _mm512_mullo_epi16(a, b);
}
static inline vi vi_min_u8(vi a, vi b)
{
    return _mm512_min_epu8(a, b);
}
static inline vi vi_subs_u8(vi a, vi b)
{
    return _mm512_subs_epu8(a, b);
}
static inline vi vi_shuffle(vi table, vi idx)
{
    return _mm512_shuffle_epi8(table, idx);
}
static inline vi vi_srl_16(vi a, int n)
{
    return _mm512_srl_epi16(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sll_16(vi a, int n)
{
    return _mm512_sll_epi16(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_srl_32(vi a, int n)
{
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sll_32(vi a, int n)
{
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sra_32(vi a, int n)
{
    return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n));
}
#ifdef __AVX512VNNI__
#define HAVE_DOT 1
#define CODES_ARE_UNSIGNED 1
/* acc + the four products of unsigned bytes of u and signed bytes of s, in each lane */
static inline vi vi_dot(vi acc, vi u, vi s)
{
    return _mm512_dpbusd_epi32(acc, u, s);
}
#else
#define HAVE_DOT 0
#define CODES_ARE_UNSIGNED 0
#endif

/* acc + the two products of signed 16-bit halves, in each lane */
static inline vi vi_dot_16(vi acc, vi a, vi b)
{
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(acc, a, b);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
#endif
}
/* The low and the high bytes of 16 bits, widened with their sign. */
static inline vi vi_even_16(vi a)
{
    return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8);
}
static inline vi vi_odd_16(vi a)
{
    return _mm512_srai_epi16(a, 8);
}
/* low + 65536 * high of lanes in [0, 32767] */
static inline vi vi_join_16(vi low, vi high)
{
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
/* The low 16 bits of each, those of `high` above those of `low`. */
static inline vi vi_join_low_16(vi low, vi high)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
}
static inline void vi_store(void *p, vi a)
{
    _mm512_storeu_si512(p, a);
}

/* Bytes, one in a lane; of the _n forms the first n, and the other lanes are zero and their memory is not read. */
static inline vi vi_load_i8(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vi vi_load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vi vi_load_i8_n(const int8_t *p, int n)
{
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p));
}
static inline vi vi_load_u8_n(const uint8_t *p, int n)
{
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p));
}
static inline vi vi_high_nibble(vi a) /* of lanes below 256 */
{
    return _mm512_srli_epi32(a, 4);
}

static inline vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vf vf_bcast(const float *p)
{
    return _mm512_set1_ps(*p);
}
static inline vf vf_from_vi(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
static inline vi vi_bits(vf a)
{
    return _mm512_castps_si512(a);
}
static inline vf vf_bits(vi a)
{
    return _mm512_castsi512_ps(a);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vf_neg(vf a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
static inline vf vf_halves(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vi vi_u16(const void *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}

static inline void vf_store(float *p, vf a, int n) /* the first n lanes */
{
    if (n == 16)
        _mm512_storeu_ps(p, a);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}

static inline __mmask16 mask_of(int n)
{
    return (__mmask16)((1u << n) - 1);
} /* n <= 16 */
/* The first n lanes; the others are zero and their memory is not read. */
static inline vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(mask_of(n), p);
}
static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline vf vf_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_load_half_n(const uint16_t *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask_of(n), p));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline void vf_store_half_n(uint16_t *p, vf a, int n)
{
    _mm256_mask_storeu_epi16(p, mask_of(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_i8_n(int8_t *p, vf a, int n) /* whole numbers in [-128, 127] */
{
    _mm_mask_storeu_epi8(p, mask_of(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
static inline vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* If either is NaN the result is b. */
static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vi vi_round(vf a) /* to nearest even */
{
    return _mm512_cvtps_epi32(a);
}
static inline vf vf_scale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
} /* a * 2^n, n a whole number in [-151, 129] */
/* a * 2^n, n a whole number in [LEAST_EXPONENT, 0]; 0 at its lower end, a about 1 */
#define LEAST_EXPONENT (-151.0f)
static inline vf vf_scale2_down(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}
/* The first n lanes of a, b in the others. */
static inline vf vf_first(vf a, int n, vf b)
{
    return _mm512_mask_mov_ps(b, mask_of(n), a);
}
static inline uint32_t vf_is_nan(vf a)
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
static inline uint32_t vf_at_least(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
static inline uint32_t vf_equal(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
static inline uint32_t vf_not_finite(vf a)
{
    const vi e = _mm512_set1_epi32(0x7f800000);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), e), e);
}
static inline float vf_hmax(vf a)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
static inline float vf_hsum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
/* Four sums, or maxima, of lanes at a time, each in the same order. */
#define HORIZONTAL_4(name, op)                                                                                         \
    static inline void name(float *out, vf a, vf b, vf c, vf d)                                                        \
    {                                                                                                                  \
        const vf ab = op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));                          \
        const vf cd = op(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));                          \
        vf s = op(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));                             \
        s = op(s, _mm512_permute_ps(s, 0x4e));                                                                         \
        s = op(s, _mm512_permute_ps(s, 0xb1));                                                                         \
        const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);                      \
        _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, s)));                                   \
    }
HORIZONTAL_4(vf_hsum4, _mm512_add_ps) /* out[0..4) = the sums of the lanes of a, b, c, d */
HORIZONTAL_4(vf_hmax4, _mm512_max_ps) /* their largest lanes */
#undef HORIZONTAL_4
/* Sum in double of all lanes. */
static inline double vf_hsum_f64(vf a)
{
    const __m512d s =
        _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
    return _mm512_reduce_add_pd(s);
}
/* Lane i holds lane i ^ h of a; h is a power of two below LANES. */
static inline vf vf_swap_lanes(vf a, int h)
{
    return h == 1   ? _mm512_permute_ps(a, 0xb1)
           : h == 2 ? _mm512_permute_ps(a, 0x4e)
           : h == 4 ? _mm512_shuffle_f32x4(a, a, 0xb1)
                    : _mm512_shuffle_f32x4(a, a, 0x4e);
}
/* (x0 c0 - x1 s0, x1 c0 + x0 s0, x2 c1 - ...) with n pairs in x, n <= LANES / 2 */
static inline vf vf_rotate_pairs(vf x, const float *cosines, const float *sines, int n)
{
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const vf c = _mm512_permutexvar_ps(twice, vf_load_n(cosines, n)),
             s = _mm512_permutexvar_ps(twice, vf_load_n(sines, n));
    return _mm512_fmaddsub_ps(x, c, _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), s));
}
#endif
