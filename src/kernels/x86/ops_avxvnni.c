/* Element-wise kernels, reductions and attention for AVX2 with VNNI: products of attention's codes are what differs. */
#include "kernels/x86/lanes_avx2.h"

#define OPS_FILL sala_fill_avxvnni
#define Q_TILE 3
#include "kernels/simd/ops_impl.h"
