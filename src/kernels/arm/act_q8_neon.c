#include "kernels/arm/act_q8_neon.h"

#include <arm_neon.h>

static void quantise_block(sala_act_block *out, const float *x)
{
    float32x4_t v[8];
    /* As integers, magnitudes of floats keep their order, and infinities and NaN come out on top. */
    uint32x4_t top = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        top = vmaxq_u32(top, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffff)));
    }
    const uint32_t bits = vmaxvq_u32(top);
    float max;
    memcpy(&max, &bits, 4);
    if (bits >= 0x7f800000u || max < SALA_ACT_Q8_TINY) {
        memset(out->q, 0, sizeof out->q);
        out->d = bits >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
        sala_act_q8_finish(out, 0, 0);
        return;
    }
    out->d = max / 127.0f;
    const float inverse = 127.0f / max;
    int32_t sum[2];
    for (int h = 0; h < 2; h++) {
        int16x8_t q16[2];
        for (int i = 0; i < 2; i++) {
            const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(v[4 * h + 2 * i], inverse));
            const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(v[4 * h + 2 * i + 1], inverse));
            q16[i] = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        }
        sum[h] = vaddlvq_s16(vaddq_s16(q16[0], q16[1]));
        vst1q_s8(out->q + 16 * h, vcombine_s8(vmovn_s16(q16[0]), vmovn_s16(q16[1])));
    }
    sala_act_q8_finish(out, sum[0], sum[1]);
}

static void prepare(void *dst, const float *x, int64_t cols)
{
    sala_act_q8_row(dst, x, cols, quantise_block);
}

static size_t row_bytes(int64_t cols)
{
    return sala_act_q8_bytes(cols);
}

const sala_act_format sala_act_q8_neon = {.name = "q8", .row_bytes = row_bytes, .prepare = prepare};
