/* Limits of the products of small matrices of bytes. */
#include "kernels/limits_fill.h"

#include <arm_neon.h>

#define DOT(i, c)                                                                                                      \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = vmmlaq_s32(s##i, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
SALA_LIMIT_LOOP(i8_loop, "w", int32x4_t, vdupq_n_s32(0x01010101), SALA_LIMIT_16, DOT, 64)

void sala_limits_fill_i8mm(sala_limits *out)
{
    out->i8 = (sala_limit_loop){"smmla, 128 bits", i8_loop};
}
