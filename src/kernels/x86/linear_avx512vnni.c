/* Packed 8-bit linear layers for AVX-512 with VNNI. */
#include "kernels/x86/act_q8_x86.h"
#include "kernels/x86/lanes_avx512.h"

#define LINEAR_NAME(type) sala_linear_##type##_avx512vnni
#define LINEAR_SUFFIX "_avx512vnni"
#define LINEAR_NEED (SALA_CPU_AVX512 | SALA_CPU_AVX512_VNNI)
#define LINEAR_ACT sala_act_q8_avx2
#define TILE 6
#include "kernels/simd/panel_linear_impl.h"
