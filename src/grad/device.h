/* The training device: fills backend.h's table and grad.h's over memory of this process. Differences from the CPU
 * backend of inference: weights are f32 masters with a gradient (and bf16 packs), rows of keys and values are attended
 * where they lie (no blocks), attention keeps its log-sum, and bf16 products are oneDNN's. Selection of blocks is the
 * CPU backend's own code over blocks that are filled for one layer at a time, so that training selects what inference
 * selects. */
#ifndef SALA_GRAD_DEVICE_H
#define SALA_GRAD_DEVICE_H

#include "backend/grad.h"
#include "grad/product.h"
#include "os/os.h"

typedef struct sala_device_params {
    sala_pool *pool;     /* borrowed; the process's only one */
    const char *kernels; /* as sala_kernels_get; must outlive the device */
    sala_precision precision;
    bool plain_products;    /* own kernels, whatever the build has */
    const sala_act *values; /* parameter arena: weight_new() and operations take pointers into it */
    sala_act *grads;        /* the same layout; NULL: forward only */
} sala_device_params;

sala_status sala_device_open(sala_backend **out, const sala_device_params *p, sala_error *err);
const sala_grad_ops *sala_device_grad_ops(const sala_backend *be);
const sala_product *sala_device_product(const sala_backend *be);
/* Memory that reserve() takes for these limits. */
uint64_t sala_device_scratch_bytes(const sala_backend_limits *limits, sala_precision precision, int n_workers);

#endif
