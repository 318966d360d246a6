/* Linear layers over F32, F16 and BF16 weights for AArch64. */
#include "kernels/arm/lanes_neon.h"

#define LINEAR_NAME(type) sala_linear_##type##_neon
#define LINEAR_SUFFIX "_neon"
#define LINEAR_NEED SALA_CPU_NEON
#define ROWS 4
#define TILE 4
#define CHAINS 4
#include "kernels/simd/float_linear_impl.h"
