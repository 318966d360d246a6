/* Tensors as they lie in files, whatever the container: the common language of gguf.h and safetensors.h. */
#ifndef SALA_FORMAT_TENSORS_H
#define SALA_FORMAT_TENSORS_H

#include "base/base.h"
#include "tensor/dtype.h"

#define SALA_MAX_DIMS 4

typedef struct sala_tensor {
    const char *name; /* borrowed from the container */
    sala_dtype dtype;
    int n_dims;                /* 0..4; a scalar has none */
    int64_t ne[SALA_MAX_DIMS]; /* fastest-varying first: a matrix [out, in] has ne[0] = in, ne[1] = out; unused are 1 */
    const void *data;          /* mapped, read-only, may be unaligned */
    uint64_t bytes;
} sala_tensor;

typedef struct sala_tensor_list {
    const sala_tensor *items;
    size_t count;
} sala_tensor_list;

#endif
