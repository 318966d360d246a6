/* Limits of the dot product of BF16 pairs in 512 bits. */
#include "kernels/limits_fill.h"

#include <immintrin.h>

#define DOT(i, c)                                                                                                      \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = _mm512_dpbf16_ps(s##i, (__m512bh)(a), (__m512bh)(b));
SALA_LIMIT_LOOP(bf16_loop, "v", __m512, _mm512_set1_ps(0.5f), SALA_LIMIT_16, DOT, 64)

void sala_limits_fill_avx512bf16(sala_limits *out)
{
    out->bf16 = (sala_limit_loop){"vdpbf16ps, 512 bits", bf16_loop};
}
