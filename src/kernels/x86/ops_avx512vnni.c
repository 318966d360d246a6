/* Element-wise kernels, reductions and attention for AVX-512 with VNNI: products of attention's codes are what differs.
 */
#include "kernels/x86/lanes_avx512.h"

#define OPS_FILL sala_fill_avx512vnni
#define Q_TILE 6
#include "kernels/simd/ops_impl.h"
