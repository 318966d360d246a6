/* Limits of NEON without dot products: bytes are multiplied into 16 bits and added in pairs into 32. */
#include "kernels/arm/lanes_neon.h"
#include "kernels/limits_fill.h"

#define ADD_BYTES(i, c)                                                                                                \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = vpadalq_s16(s##i, vmull_s8(vget_low_s8(vreinterpretq_s8_s32(a)), vget_low_s8(vreinterpretq_s8_s32(b))));
SALA_LIMIT_LOOP(i8_loop, "w", int32x4_t, vdupq_n_s32(0x01010101), SALA_LIMIT_16, ADD_BYTES, 16)

#define LIMITS_FILL sala_limits_fill_neon
#define LIMITS_REGISTER "w"
#define LIMITS_EACH SALA_LIMIT_16
#define LIMITS_F32 "fmla, 128 bits"
#define LIMITS_I8 "smull + sadalp, 128 bits"
#include "kernels/simd/limits_impl.h"
