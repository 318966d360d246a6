/* Packed 8-bit linear layers for AArch64 with dot product instructions. */
#include "kernels/arm/act_q8_neon.h"
#include "kernels/arm/lanes_neon.h"

#define LINEAR_NAME(type) sala_linear_##type##_dotprod
#define LINEAR_SUFFIX "_dotprod"
#define LINEAR_NEED (SALA_CPU_NEON | SALA_CPU_DOTPROD)
#define LINEAR_ACT sala_act_q8_neon
#define TILE 6
#include "kernels/simd/panel_linear_impl.h"
