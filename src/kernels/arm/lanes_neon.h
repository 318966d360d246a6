/* Four 32-bit lanes: the vocabulary of the shared bodies in simd/ for AArch64, with or without the dot product
 * instructions. */
#ifndef SALA_KERNELS_ARM_LANES_NEON_H
#define SALA_KERNELS_ARM_LANES_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define LANES 4
#define HAVE_DOT 1
#define CODES_ARE_UNSIGNED 0

typedef uint8x16_t vi;
typedef float32x4_t vf;

static inline vi vi_of_u16(uint16x8_t a)
{
    return vreinterpretq_u8_u16(a);
}
static inline vi vi_of_u32(uint32x4_t a)
{
    return vreinterpretq_u8_u32(a);
}
static inline vi vi_of_s32(int32x4_t a)
{
    return vreinterpretq_u8_s32(a);
}
static inline uint16x8_t u16_of(vi a)
{
    return vreinterpretq_u16_u8(a);
}
static inline uint32x4_t u32_of(vi a)
{
    return vreinterpretq_u32_u8(a);
}
static inline int32x4_t s32_of(vi a)
{
    return vreinterpretq_s32_u8(a);
}

static inline vi vi_load(const void *p)
{
    return vld1q_u8(p);
}
static inline vi vi_zero(void)
{
    return vdupq_n_u8(0);
}
static inline vi vi_set1_8(int x)
{
    return vdupq_n_u8((uint8_t)x);
}
static inline vi vi_set1_32(int x)
{
    return vi_of_s32(vdupq_n_s32(x));
}
static inline vi vi_bcast_32(const void *p)
{
    return vi_of_s32(vld1q_dup_s32(p));
}
static inline vi vi_table(const int8_t *t)
{
    return vreinterpretq_u8_s8(vld1q_s8(t));
}
static inline vi vi_and(vi a, vi b)
{
    return vandq_u8(a, b);
}
static inline vi vi_or(vi a, vi b)
{
    return vorrq_u8(a, b);
}
static inline vi vi_add_8(vi a, vi b)
{
    return vaddq_u8(a, b);
}
static inline vi vi_add_32(vi a, vi b)
{
    return vi_of_u32(vaddq_u32(u32_of(a), u32_of(b)));
}
static inline vi vi_mullo_16(vi a, vi b)
{
    return vi_of_u16(vmulq_u16(u16_of(a), u16_of(b)));
}
static inline vi vi_min_u8(vi a, vi b)
{
    return vminq_u8(a, b);
}
static inline vi vi_subs_u8(vi a, vi b)
{
    return vqsubq_u8(a, b);
}
static inline vi vi_shuffle(vi table, vi idx)
{
    return vqtbl1q_u8(table, idx);
}
static inline vi vi_srl_16(vi a, int n)
{
    return vi_of_u16(vshlq_u16(u16_of(a), vdupq_n_s16((int16_t)-n)));
}
static inline vi vi_sll_16(vi a, int n)
{
    return vi_of_u16(vshlq_u16(u16_of(a), vdupq_n_s16((int16_t)n)));
}
static inline vi vi_srl_32(vi a, int n)
{
    return vi_of_u32(vshlq_u32(u32_of(a), vdupq_n_s32(-n)));
}
static inline vi vi_sll_32(vi a, int n)
{
    return vi_of_u32(vshlq_u32(u32_of(a), vdupq_n_s32(n)));
}
static inline vi vi_sra_32(vi a, int n)
{
    return vi_of_s32(vshlq_s32(s32_of(a), vdupq_n_s32(-n)));
}

/* acc + the four products of signed bytes of a and b, in each lane */
static inline vi vi_dot(vi acc, vi a, vi b)
{
    const int8x16_t x = vreinterpretq_s8_u8(a), y = vreinterpretq_s8_u8(b);
#ifdef __ARM_FEATURE_DOTPROD
    return vi_of_s32(vdotq_s32(s32_of(acc), x, y));
#else
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(x, y));
    return vi_of_s32(vaddq_s32(s32_of(acc), vpaddq_s32(low, high)));
#endif
}

/* acc + the two products of signed 16-bit halves, in each lane */
static inline vi vi_dot_16(vi acc, vi a, vi b)
{
    const int16x8_t x = vreinterpretq_s16_u8(a), y = vreinterpretq_s16_u8(b);
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    return vi_of_s32(vaddq_s32(s32_of(acc), vpaddq_s32(low, high)));
}
/* The low and the high bytes of 16 bits, widened with their sign. */
static inline vi vi_even_16(vi a)
{
    return vreinterpretq_u8_s16(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_u8(a), 8), 8));
}
static inline vi vi_odd_16(vi a)
{
    return vreinterpretq_u8_s16(vshrq_n_s16(vreinterpretq_s16_u8(a), 8));
}
/* low + 65536 * high of lanes in [0, 32767] */
static inline vi vi_join_16(vi low, vi high)
{
    return vi_or(low, vi_sll_32(high, 16));
}
/* The low 16 bits of each, those of `high` above those of `low`. */
static inline vi vi_join_low_16(vi low, vi high)
{
    return vi_of_u32(vsliq_n_u32(u32_of(low), u32_of(high), 16));
}
static inline void vi_store(void *p, vi a)
{
    vst1q_u8(p, a);
}

/* Bytes, one in a lane; of the _n forms the first n, and the other lanes are zero and their memory is not read. */
static inline vi vi_load_i8_n(const int8_t *p, int n)
{
    uint32_t bytes = 0;
    memcpy(&bytes, p, (size_t)n);
    return vi_of_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes)))));
}
static inline vi vi_load_u8_n(const uint8_t *p, int n)
{
    uint32_t bytes = 0;
    memcpy(&bytes, p, (size_t)n);
    return vi_of_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}
static inline vi vi_load_i8(const int8_t *p)
{
    return vi_load_i8_n(p, 4);
}
static inline vi vi_load_u8(const uint8_t *p)
{
    return vi_load_u8_n(p, 4);
}
static inline vi vi_high_nibble(vi a) /* of lanes below 256 */
{
    return vi_of_u32(vshrq_n_u32(u32_of(a), 4));
}

static inline vf vf_zero(void)
{
    return vdupq_n_f32(0);
}
static inline vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}
static inline vf vf_bcast(const float *p)
{
    return vld1q_dup_f32(p);
}
static inline vf vf_from_vi(vi a)
{
    return vcvtq_f32_s32(s32_of(a));
}
static inline vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
static inline vi vi_bits(vf a)
{
    return vreinterpretq_u8_f32(a);
}
static inline vf vf_bits(vi a)
{
    return vreinterpretq_f32_u8(a);
}
static inline vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return vfmsq_f32(c, a, b);
}
static inline vf vf_neg(vf a)
{
    return vnegq_f32(a);
}
/* If either is NaN the result is NaN. */
static inline vf vf_max(vf a, vf b)
{
    return vmaxq_f32(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return vminq_f32(a, b);
}
static inline vf vf_round(vf a)
{
    return vrndnq_f32(a);
}
static inline vi vi_round(vf a) /* to nearest even */
{
    return vi_of_s32(vcvtnq_s32_f32(a));
}
static inline vf vf_scale2(vf a, vf n) /* a * 2^n, n a whole number in [-151, 129] */
{
    /* In two steps, since 2^n alone may be no normal number. */
    const int32x4_t i = vcvtnq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
    const int32x4_t f0 = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t f1 = vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23);
    return vmulq_f32(vmulq_f32(a, vreinterpretq_f32_s32(f0)), vreinterpretq_f32_s32(f1));
}

static inline vf vf_load(const float *p)
{
    return vld1q_f32(p);
}
static inline vf vf_load_half(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
/* The first n lanes; the others are zero and their memory is not read. */
static inline vf vf_load_n(const float *p, int n)
{
    if (n == 4)
        return vld1q_f32(p);
    float x[4] = {0};
    memcpy(x, p, (size_t)n * sizeof x[0]);
    return vld1q_f32(x);
}
static inline vf vf_load_half_n(const uint16_t *p, int n)
{
    if (n == 4)
        return vf_load_half(p);
    uint16_t h[4] = {0};
    memcpy(h, p, (size_t)n * sizeof h[0]);
    return vf_load_half(h);
}
static inline void vf_store(float *p, vf a, int n)
{
    if (n == 4) {
        vst1q_f32(p, a);
        return;
    }
    float x[4];
    vst1q_f32(x, a);
    memcpy(p, x, (size_t)n * sizeof x[0]);
}
static inline void vf_store_half_n(uint16_t *p, vf a, int n)
{
    uint16_t h[4];
    vst1_u16(h, vreinterpret_u16_f16(vcvt_f16_f32(a)));
    memcpy(p, h, (size_t)n * sizeof h[0]);
}
static inline void vf_store_i8_n(int8_t *p, vf a, int n) /* whole numbers in [-128, 127] */
{
    const int16x4_t h = vmovn_s32(vcvtnq_s32_f32(a));
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(h, h))), 0);
    memcpy(p, &bytes, (size_t)n);
}
/* The 16-bit fields at the head of a panel's block. */
static inline vf vf_halves(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
static inline vi vi_u16(const void *p)
{
    return vi_of_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))));
}

/* a * 2^n, n a whole number in [LEAST_EXPONENT, 0]; 0 at its lower end */
#define LEAST_EXPONENT (-127.0f)
static inline vf vf_scale2_down(vf a, vf n)
{
    const int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(a, vreinterpretq_f32_s32(e));
}
/* The first n lanes of a, b in the others. */
static inline vf vf_first(vf a, int n, vf b)
{
    static const uint32_t mask[8] = {~0u, ~0u, ~0u, ~0u};
    return vbslq_f32(vld1q_u32(mask + 4 - n), a, b);
}
static inline uint32_t bits_of(uint32x4_t lanes)
{
    static const uint32_t bit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(lanes, vld1q_u32(bit)));
}
static inline uint32_t vf_at_least(vf a, vf b)
{
    return bits_of(vcgeq_f32(a, b));
}
static inline uint32_t vf_equal(vf a, vf b)
{
    return bits_of(vceqq_f32(a, b));
}
static inline uint32_t vf_is_nan(vf a)
{
    return bits_of(vmvnq_u32(vceqq_f32(a, a)));
}
static inline uint32_t vf_not_finite(vf a)
{
    const uint32x4_t e = vdupq_n_u32(0x7f800000u);
    return bits_of(vceqq_u32(vandq_u32(vreinterpretq_u32_f32(a), e), e));
}
static inline float vf_hmax(vf a)
{
    return vmaxvq_f32(a);
}
static inline float vf_hsum(vf a)
{
    return vaddvq_f32(a);
}
/* out[0..4) = the sums of the lanes of a, b, c, d, each in the same order */
static inline void vf_hsum4(float *out, vf a, vf b, vf c, vf d)
{
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}
/* out[0..4) = the largest lane of a, b, c, d */
static inline void vf_hmax4(float *out, vf a, vf b, vf c, vf d)
{
    vst1q_f32(out, vpmaxq_f32(vpmaxq_f32(a, b), vpmaxq_f32(c, d)));
}
/* Sum in double of all lanes. */
static inline double vf_hsum_f64(vf a)
{
    return vaddvq_f64(vaddq_f64(vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)));
}
/* Lane i holds lane i ^ h of a; h is a power of two below LANES. */
static inline vf vf_swap_lanes(vf a, int h)
{
    return h == 1 ? vrev64q_f32(a) : vextq_f32(a, a, 2);
}
/* (x0 c0 - x1 s0, x1 c0 + x0 s0, x2 c1 - ...) with n pairs in x, n <= 2 */
static inline vf vf_rotate_pairs(vf x, const float *cosines, const float *sines, int n)
{
    static const float sign[4] = {-1, 1, -1, 1};
    const vf c = vf_load_n(cosines, n), s = vf_load_n(sines, n);
    const vf turned = vmulq_f32(vrev64q_f32(x), vld1q_f32(sign));
    return vfmaq_f32(vmulq_f32(turned, vzip1q_f32(s, s)), x, vzip1q_f32(c, c));
}
#endif
