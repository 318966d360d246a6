/* Packed 8-bit linear layers for AArch64 with NEON. */
#include "kernels/arm/act_q8_neon.h"
#include "kernels/arm/lanes_neon.h"

#define LINEAR_NAME(type) sala_linear_##type##_neon
#define LINEAR_SUFFIX "_neon"
#define LINEAR_NEED (SALA_CPU_NEON)
#define LINEAR_ACT sala_act_q8_neon
#define TILE 4
#include "kernels/simd/panel_linear_impl.h"
