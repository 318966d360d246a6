/* For any register width: caches other than plain floats: storing, reading, attention. Included by ops_impl.h behind the
 * parts that it builds on. */
#ifndef SALA_KERNELS_SIMD_KV_IMPL_H
#define SALA_KERNELS_SIMD_KV_IMPL_H

static void fill_kv(sala_kernels *out)
{
    (void)out;
}

#endif
