/* Limits of VNNI in 512 bits. */
#include "kernels/limits_fill.h"

#include <immintrin.h>

#define DOT(i, c)                                                                                                      \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = _mm512_dpbusd_epi32(s##i, a, b);
SALA_LIMIT_LOOP(i8_loop, "v", __m512i, _mm512_set1_epi8(1), SALA_LIMIT_16, DOT, 128)

void sala_limits_fill_avx512vnni(sala_limits *out)
{
    out->i8 = (sala_limit_loop){"vpdpbusd, 512 bits", i8_loop};
}
