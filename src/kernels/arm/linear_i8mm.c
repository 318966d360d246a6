/* Quantised linear layers for AArch64 with 8-bit matrix products: two rows, two tokens and eight columns an
 * instruction. One token left over goes through sdot; sums are exact, so both give the same bits. */
#include "kernels/arm/act_q8_neon.h"
#include "kernels/arm/lanes_neon.h"

#define LINEAR_NAME(type) sala_linear_##type##_i8mm
#define LINEAR_SUFFIX "_i8mm"
#define LINEAR_NEED (SALA_CPU_NEON | SALA_CPU_DOTPROD | SALA_CPU_I8MM)
#define LINEAR_ACT sala_act_q8_neon
#define TILE 8
#define HAVE_MATMUL 1

/* sum[t * stride] += codes of groups [g0, g1) times the activations at x[t], for an even number of tokens and of
 * groups. A lane of w[g] has four columns of its row; lanes of two neighbouring groups side by side make eight columns
 * of two rows. */
static inline __attribute__((always_inline)) void dot_token_pairs(vi *sum, int stride, const vi *w,
                                                                  const uint8_t *const *x, int n_tok, int g0, int g1)
{
    int32x4_t rows01[TILE / 2], rows23[TILE / 2]; /* (row 0, token 0), (0, 1), (1, 0), (1, 1) */
    for (int i = 0; i < n_tok / 2; i++)
        rows01[i] = rows23[i] = vdupq_n_s32(0);
    for (int g = g0; g < g1; g += 2) {
        const int8x16_t a = vreinterpretq_s8_s32(vzip1q_s32(s32_of(w[g]), s32_of(w[g + 1])));
        const int8x16_t b = vreinterpretq_s8_s32(vzip2q_s32(s32_of(w[g]), s32_of(w[g + 1])));
        for (int i = 0; i < n_tok / 2; i++) {
            const int8x16_t pair =
                vcombine_s8(vld1_s8((const int8_t *)x[2 * i] + 4 * g), vld1_s8((const int8_t *)x[2 * i + 1] + 4 * g));
            rows01[i] = vmmlaq_s32(rows01[i], a, pair);
            rows23[i] = vmmlaq_s32(rows23[i], b, pair);
        }
    }
    for (int i = 0; i < n_tok / 2; i++) {
        sum[2 * i * stride] = vi_of_s32(vaddq_s32(s32_of(sum[2 * i * stride]), vuzp1q_s32(rows01[i], rows23[i])));
        sum[(2 * i + 1) * stride] =
            vi_of_s32(vaddq_s32(s32_of(sum[(2 * i + 1) * stride]), vuzp2q_s32(rows01[i], rows23[i])));
    }
}

#include "kernels/simd/panel_linear_impl.h"
