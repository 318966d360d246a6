/* Packed 8-bit linear layers for AVX2 with VNNI. */
#include "kernels/x86/act_q8_x86.h"
#include "kernels/x86/lanes_avx2.h"

#define LINEAR_NAME(type) sala_linear_##type##_avxvnni
#define LINEAR_SUFFIX "_avxvnni"
#define LINEAR_NEED (SALA_CPU_AVX2 | SALA_CPU_AVX_VNNI)
#define LINEAR_ACT sala_act_q8_avx2
#define TILE 5
#include "kernels/simd/panel_linear_impl.h"
