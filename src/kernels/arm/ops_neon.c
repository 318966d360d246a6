/* Element-wise kernels, reductions and attention for AArch64. */
#include "kernels/arm/lanes_neon.h"

#define OPS_FILL sala_fill_neon
#define Q_TILE 6
#include "kernels/simd/ops_impl.h"
