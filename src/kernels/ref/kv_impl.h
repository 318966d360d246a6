/* The reference of caches other than plain floats: storing, reading, attention. Included by ref_impl.h. */
#ifndef SALA_KERNELS_REF_KV_IMPL_H
#define SALA_KERNELS_REF_KV_IMPL_H

static void fill_kv(sala_kernels *out)
{
    (void)out;
}

#endif
