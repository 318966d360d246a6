/* Limits of the dot product instructions. */
#include "kernels/limits_fill.h"

#include <arm_neon.h>

#define DOT(i, c)                                                                                                      \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = vdotq_s32(s##i, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
SALA_LIMIT_LOOP(i8_loop, "w", int32x4_t, vdupq_n_s32(0x01010101), SALA_LIMIT_16, DOT, 32)

void sala_limits_fill_dotprod(sala_limits *out)
{
    out->i8 = (sala_limit_loop){"sdot, 128 bits", i8_loop};
}
