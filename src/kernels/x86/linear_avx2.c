/* Packed 8-bit linear layers for AVX2: products are summed in 16 bits as far as they fit. */
#include "kernels/x86/act_q8_x86.h"
#include "kernels/x86/lanes_avx2.h"

#define LINEAR_NAME(type) sala_linear_##type##_avx2
#define LINEAR_SUFFIX "_avx2"
#define LINEAR_NEED (SALA_CPU_AVX2)
#define LINEAR_ACT sala_act_q8_avx2
#define TILE 2
#include "kernels/simd/panel_linear_impl.h"
