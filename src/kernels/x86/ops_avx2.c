/* Element-wise kernels, reductions and attention for AVX2. */
#include "kernels/x86/lanes_avx2.h"

#define OPS_FILL sala_fill_avx2
#define Q_TILE 3
#include "kernels/simd/ops_impl.h"
