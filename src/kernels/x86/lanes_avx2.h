/* Eight 32-bit lanes: the vocabulary of the shared bodies in simd/ for AVX2, with or without VNNI. */
#ifndef SALA_KERNELS_X86_LANES_AVX2_H
#define SALA_KERNELS_X86_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#ifdef __AVXVNNI__
#define HAVE_DOT 1
#define CODES_ARE_UNSIGNED 1
#else
#define HAVE_DOT 0
#define CODES_ARE_UNSIGNED 0
#endif

typedef __m256i vi;
typedef __m256 vf;

static inline vi vi_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline vi vi_zero(void)
{
    return _mm256_setzero_si256();
}
static inline vi vi_set1_8(int x)
{
    return _mm256_set1_epi8((char)x);
}
static inline vi vi_set1_32(int x)
{
    return _mm256_set1_epi32(x);
}
static inline vi vi_bcast_32(const void *p)
{
    return _mm256_set1_epi32(*(const int32_t *)p);
}
static inline vi vi_table(const int8_t *t)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)t));
}
static inline vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
static inline vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
static inline vi vi_xor(vi a, vi b)
{
    return _mm256_xor_si256(a, b);
}
static inline vi vi_add_8(vi a, vi b)
{
    return _mm256_add_epi8(a, b);
}
static inline vi vi_add_32(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
static inline vi vi_mullo_16(vi a, vi b)
{
    return _mm256_mullo_epi16(a, b);
}
static inline vi vi_min_u8(vi a, vi b)
{
    return _mm256_min_epu8(a, b);
}
static inline vi vi_subs_u8(vi a, vi b)
{
    return _mm256_subs_epu8(a, b);
}
static inline vi vi_shuffle(vi table, vi idx)
{
    return _mm256_shuffle_epi8(table, idx);
}
static inline vi vi_srl_16(vi a, int n)
{
    return _mm256_srl_epi16(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sll_16(vi a, int n)
{
    return _mm256_sll_epi16(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_srl_32(vi a, int n)
{
    return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sll_32(vi a, int n)
{
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n));
}
static inline vi vi_sra_32(vi a, int n)
{
    return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n));
}
#if HAVE_DOT
/* acc + the four products of unsigned bytes of u and signed bytes of s, in each lane */
static inline vi vi_dot(vi acc, vi u, vi s)
{
    return _mm256_dpbusd_avx_epi32(acc, u, s);
}
#else
/* Sums of two products in 16 bits; the caller keeps them from overflowing. */
static inline vi vi_dot_pairs(vi u, vi s)
{
    return _mm256_maddubs_epi16(u, s);
}
static inline vi vi_add_16(vi a, vi b)
{
    return _mm256_add_epi16(a, b);
}
static inline vi vi_add_pairs(vi acc, vi a)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, _mm256_set1_epi16(1)));
}
static inline vi vi_abs_8(vi a)
{
    return _mm256_abs_epi8(a);
}
static inline vi vi_negative_8(vi a) /* -1 where a is negative, 0 elsewhere */
{
    return _mm256_cmpgt_epi8(_mm256_setzero_si256(), a);
}
static inline vi vi_sign_8(vi a, vi by)
{
    return _mm256_sign_epi8(a, by);
}
#endif

/* acc + the two products of signed 16-bit halves, in each lane */
static inline vi vi_dot_16(vi acc, vi a, vi b)
{
#if HAVE_DOT
    return _mm256_dpwssd_avx_epi32(acc, a, b);
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}
/* The low and the high bytes of 16 bits, widened with their sign. */
static inline vi vi_even_16(vi a)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
}
static inline vi vi_odd_16(vi a)
{
    return _mm256_srai_epi16(a, 8);
}
/* low + 65536 * high of lanes in [0, 32767] */
static inline vi vi_join_16(vi low, vi high)
{
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
}
/* The low 16 bits of each, those of `high` above those of `low`. */
static inline vi vi_join_low_16(vi low, vi high)
{
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
static inline void vi_store(void *p, vi a)
{
    _mm256_storeu_si256((__m256i *)p, a);
}

/* Bytes, one in a lane; of the _n forms the first n, and the other lanes are zero and their memory is not read. */
static inline vi vi_load_i8(const int8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
static inline vi vi_load_u8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}
static inline vi vi_load_i8_n(const int8_t *p, int n)
{
    int64_t bytes = 0;
    memcpy(&bytes, p, (size_t)n);
    return _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes));
}
static inline vi vi_load_u8_n(const uint8_t *p, int n)
{
    int64_t bytes = 0;
    memcpy(&bytes, p, (size_t)n);
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
}
static inline vi vi_high_nibble(vi a) /* of lanes below 256 */
{
    return _mm256_srli_epi32(a, 4);
}

static inline vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
static inline vf vf_bcast(const float *p)
{
    return _mm256_broadcast_ss(p);
}
static inline vf vf_from_vi(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
static inline vi vi_bits(vf a)
{
    return _mm256_castps_si256(a);
}
static inline vf vf_bits(vi a)
{
    return _mm256_castsi256_ps(a);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vf_neg(vf a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}
static inline vf vf_halves(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vi vi_u16(const void *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}

static inline __m256i mask_of(int n) /* n <= 8 */
{
    static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(mask + 8 - n));
}

static inline void vf_store(float *p, vf a, int n) /* the first n lanes */
{
    if (n == 8)
        _mm256_storeu_ps(p, a);
    else
        _mm256_maskstore_ps(p, mask_of(n), a);
}

/* The first n lanes; the others are zero and their memory is not read. */
static inline vf vf_load_n(const float *p, int n)
{
    return n == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask_of(n));
}
static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline vf vf_load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_load_half_n(const uint16_t *p, int n)
{
    if (n == 8)
        return vf_load_half(p);
    uint16_t h[8] = {0};
    memcpy(h, p, (size_t)n * sizeof h[0]);
    return vf_load_half(h);
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline void vf_store_half_n(uint16_t *p, vf a, int n)
{
    const __m128i h = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (n == 8)
        _mm_storeu_si128((__m128i *)p, h);
    else
        memcpy(p, &h, (size_t)n * sizeof p[0]);
}
static inline void vf_store_i8_n(int8_t *p, vf a, int n) /* whole numbers in [-128, 127] */
{
    const vi i = _mm256_cvtps_epi32(a);
    const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(h, h));
    memcpy(p, &bytes, (size_t)n);
}
static inline vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* If either is NaN the result is b. */
static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vi vi_round(vf a) /* to nearest even */
{
    return _mm256_cvtps_epi32(a);
}
static inline vf vf_scale2(vf a, vf n) /* a * 2^n, n a whole number in [-151, 129] */
{
    /* In two steps, since 2^n alone may be no normal number. */
    const vi i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    const vi f0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const vi f1 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(f0)), _mm256_castsi256_ps(f1));
}
/* a * 2^n, n a whole number in [LEAST_EXPONENT, 0]; 0 at its lower end */
#define LEAST_EXPONENT (-127.0f)
static inline vf vf_scale2_down(vf a, vf n)
{
    const vi e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
/* The first n lanes of a, b in the others. */
static inline vf vf_first(vf a, int n, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask_of(n)));
}
static inline uint32_t vf_is_nan(vf a)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
static inline uint32_t vf_at_least(vf a, vf b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}
static inline uint32_t vf_equal(vf a, vf b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
static inline uint32_t vf_not_finite(vf a)
{
    const vi e = _mm256_set1_epi32(0x7f800000);
    const vi is = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a), e), e);
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(is));
}
static inline float vf_hmax(vf a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
static inline float vf_hsum(vf a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
/* Four sums, or maxima, of lanes at a time, each in the same order. */
#define HORIZONTAL_4(name, op)                                                                                         \
    static inline void name(float *out, vf a, vf b, vf c, vf d)                                                        \
    {                                                                                                                  \
        const vf ab = op(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));                      \
        const vf cd = op(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));                      \
        vf s = op(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee)); /* a a c c, b b d d */            \
        s = op(s, _mm256_movehdup_ps(s));                                                                              \
        const __m128 ac = _mm256_castps256_ps128(s), bd = _mm256_extractf128_ps(s, 1); /* a * c *, b * d * */          \
        _mm_storeu_ps(out, _mm_blend_ps(ac, _mm_moveldup_ps(bd), 0xa));                                                \
    }
HORIZONTAL_4(vf_hsum4, _mm256_add_ps) /* out[0..4) = the sums of the lanes of a, b, c, d */
HORIZONTAL_4(vf_hmax4, _mm256_max_ps) /* their largest lanes */
#undef HORIZONTAL_4
/* Sum in double of all lanes. */
static inline double vf_hsum_f64(vf a)
{
    const __m256d s =
        _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    const __m128d t = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
}
/* Lane i holds lane i ^ h of a; h is a power of two below LANES. */
static inline vf vf_swap_lanes(vf a, int h)
{
    return h == 1 ? _mm256_permute_ps(a, 0xb1) : h == 2 ? _mm256_permute_ps(a, 0x4e) : _mm256_permute2f128_ps(a, a, 1);
}
/* (x0 c0 - x1 s0, x1 c0 + x0 s0, x2 c1 - ...) with n pairs in x, n <= LANES / 2 */
static inline vf vf_rotate_pairs(vf x, const float *cosines, const float *sines, int n)
{
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const vf c = _mm256_permutevar8x32_ps(vf_load_n(cosines, n), twice);
    const vf s = _mm256_permutevar8x32_ps(vf_load_n(sines, n), twice);
    return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), s));
}
#endif
