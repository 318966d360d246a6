/* Linear layers over F32, F16 and BF16 weights for AVX-512. */
#include "kernels/x86/lanes_avx512.h"

#define LINEAR_NAME(type) sala_linear_##type##_avx512
#define LINEAR_SUFFIX "_avx512"
#define LINEAR_NEED SALA_CPU_AVX512
#define ROWS 6
#define TILE 4
#define CHAINS 1
#include "kernels/simd/float_linear_impl.h"
