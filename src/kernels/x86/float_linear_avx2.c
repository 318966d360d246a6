/* Linear layers over F32, F16 and BF16 weights for AVX2. */
#include "kernels/x86/lanes_avx2.h"

#define LINEAR_NAME(type) sala_linear_##type##_avx2
#define LINEAR_SUFFIX "_avx2"
#define LINEAR_NEED SALA_CPU_AVX2
#define ROWS 4
#define TILE 3
#define CHAINS 2
#include "kernels/simd/float_linear_impl.h"
