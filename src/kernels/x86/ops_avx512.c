/* Element-wise kernels, reductions and attention for AVX-512. */
#include "kernels/x86/lanes_avx512.h"

#define OPS_FILL sala_fill_avx512
#define Q_TILE 6
#include "kernels/simd/ops_impl.h"
