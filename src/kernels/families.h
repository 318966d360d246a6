/* What the kernel files and dispatch share: every linear kernel and family filler of the build, declared from the
 * lists. */
#ifndef SALA_KERNELS_FAMILIES_H
#define SALA_KERNELS_FAMILIES_H

#include "kernels/kernels.h"
#include "os/os.h"

#if defined(__x86_64__) || defined(_M_X64)
#define SALA_KERNELS_X86 1
#define SALA_KERNELS_ARM 0
#elif defined(__aarch64__)
#define SALA_KERNELS_X86 0
#define SALA_KERNELS_ARM 1
#else
#define SALA_KERNELS_X86 0
#define SALA_KERNELS_ARM 0
#endif

/* Rows of f32, padded with zeros to a multiple of 16. */
extern const sala_act_format sala_act_f32;

#define K(symbol) extern const sala_linear_kernel symbol;
#include "kernels/linear.inc"
#undef K

#define F(family, need, mask, fill) void fill(sala_kernels *out);
#include "kernels/families.inc"
#undef F

#endif
