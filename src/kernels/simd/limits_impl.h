/* Loops over memory and f32 multiply-adds for any register width. The includer has included a lanes_*.h and defines
 * LIMITS_FILL, LIMITS_REGISTER (the assembler constraint of a vector register), LIMITS_EACH (the list of
 * accumulators: as many as hide the latency and fit into the registers) and LIMITS_F32 (the name). */
#include "kernels/limits_fill.h"

#define ADD_PRODUCT(i, c)                                                                                              \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = vf_fma(a, b, s##i);
SALA_LIMIT_LOOP(f32_loop, LIMITS_REGISTER, vf, vf_set1(0.5f), LIMITS_EACH, ADD_PRODUCT, 2 * LANES)

#define ADD_LOAD(i, c) s##i = vi_add_32(s##i, vi_load(from + 4 * LANES * i));
static void read_loop(const void *p, size_t bytes)
{
    vi a = vi_zero() SALA_LIMIT_8(SALA_LIMIT_DECLARE, LIMITS_REGISTER);
    for (const uint8_t *from = p, *end = from + bytes; from < end; from += 4 * LANES * 8) {
        SALA_LIMIT_8(ADD_LOAD, LIMITS_REGISTER)
    }
    SALA_LIMIT_8(SALA_LIMIT_HIDE, LIMITS_REGISTER)
}

static void copy_loop(void *dst, const void *src, size_t bytes)
{
    float *to = dst;
    const float *from = src;
    for (size_t i = 0; i < bytes / sizeof *from; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            vf_store(to + i + j * LANES, vf_load(from + i + j * LANES), LANES);
}

void LIMITS_FILL(sala_limits *out)
{
    out->read = read_loop;
    out->copy = copy_loop;
    out->f32 = (sala_limit_loop){LIMITS_F32, f32_loop};
#ifdef LIMITS_I8
    out->i8 = (sala_limit_loop){LIMITS_I8, i8_loop};
#endif
}
