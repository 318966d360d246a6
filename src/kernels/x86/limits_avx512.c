/* Limits of AVX-512. Without VNNI the kernels of AVX2 multiply bytes, and their limit stands. */
#include "kernels/x86/lanes_avx512.h"

#define LIMITS_FILL sala_limits_fill_avx512
#define LIMITS_REGISTER "v"
#define LIMITS_EACH SALA_LIMIT_16
#define LIMITS_F32 "vfmadd, 512 bits"
#include "kernels/simd/limits_impl.h"
