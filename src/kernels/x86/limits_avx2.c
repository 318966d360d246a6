/* Limits of AVX2 without VNNI. Products of bytes are added up in 16 bits, as the kernels do as long as they fit. */
#include "kernels/limits_fill.h"
#include "kernels/x86/lanes_avx2.h"

#define ADD_BYTES(i, c)                                                                                                \
    SALA_OPAQUE(c, a);                                                                                                 \
    s##i = _mm256_add_epi16(s##i, _mm256_maddubs_epi16(a, b));
SALA_LIMIT_LOOP(i8_loop, "x", __m256i, _mm256_set1_epi8(1), SALA_LIMIT_12, ADD_BYTES, 64)

#define LIMITS_FILL sala_limits_fill_avx2
#define LIMITS_REGISTER "x"
#define LIMITS_EACH SALA_LIMIT_12
#define LIMITS_F32 "vfmadd, 256 bits"
#define LIMITS_I8 "vpmaddubsw + vpaddw, 256 bits"
#include "kernels/simd/limits_impl.h"
