/* Kernels of training for AArch64. */
#include "kernels/arm/lanes_neon.h"

static inline vf vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}

static inline void vf_transpose(vf r[4])
{
    const float32x4x2_t a = vzipq_f32(r[0], r[2]), b = vzipq_f32(r[1], r[3]);
    const float32x4x2_t low = vzipq_f32(a.val[0], b.val[0]), high = vzipq_f32(a.val[1], b.val[1]);
    r[0] = low.val[0];
    r[1] = low.val[1];
    r[2] = high.val[0];
    r[3] = high.val[1];
}

static inline vi vi_bf16(vf a)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(a), high = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    const uint32x4_t near = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    return vi_of_u32(vbslq_u32(vceqq_f32(a, a), near, vorrq_u32(high, vdupq_n_u32(64))));
}

static inline void vi_store_u16(uint16_t *p, vi a, int n)
{
    uint16_t h[4];
    vst1_u16(h, vmovn_u32(u32_of(a)));
    memcpy(p, h, (size_t)n * sizeof *p);
}

#define TRAIN_FILL sala_train_fill_neon
#define MMA_ROWS 6
#define MMA_VECS 4
#include "kernels/simd/train_impl.h"
