/* Limits of VNNI in 256 bits. */
#include "kernels/limits_fill.h"

#include <immintrin.h>

#define DOT(i, c)                                                                                                      \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = _mm256_dpbusd_avx_epi32(s##i, a, b);
SALA_LIMIT_LOOP(i8_loop, "x", __m256i, _mm256_set1_epi8(1), SALA_LIMIT_12, DOT, 64)

void sala_limits_fill_avxvnni(sala_limits *out)
{
    out->i8 = (sala_limit_loop){"vpdpbusd, 256 bits", i8_loop};
}
