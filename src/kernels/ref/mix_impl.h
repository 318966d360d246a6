/* The reference of stage 1 of sparse attention, lightning attention, output gates. Included by ref_impl.h. */
#ifndef SALA_KERNELS_REF_MIX_IMPL_H
#define SALA_KERNELS_REF_MIX_IMPL_H

static void fill_mix(sala_kernels *out)
{
    (void)out;
}

#endif
