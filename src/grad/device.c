/* The training device: its tables, its memory, opening and closing. */
#include "grad/device_impl.h"

#include <math.h>
#include <stdlib.h>

/* ---- memory ---- */

static void *device_alloc(sala_backend *be, size_t bytes)
{
    (void)be;
    return sala_os_pages_alloc(bytes);
}

static void device_free(sala_backend *be, void *p, size_t bytes)
{
    (void)be;
    sala_os_pages_free(p, bytes);
}

static void device_copy(sala_backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    if (bytes)
        memcpy(dst, src, bytes);
}

static uint64_t most_of(const uint64_t *bytes, size_t n)
{
    uint64_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = bytes[i] > most ? bytes[i] : most;
    return (most + 63) / 64 * 64;
}

static uint64_t shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers)
{
    const uint64_t bytes[] = {sala_attention_shared_bytes(l, p, n_workers),
                              l->selected ? sala_sparse_shared_bytes(l, p, n_workers) : 0,
                              l->lightning_head_dim ? sala_lightning_shared_bytes(l, p, n_workers) : 0,
                              sala_linear_shared_bytes(l, p),
                              sala_rows_shared_bytes(l),
                              sala_head_shared_bytes(l, p)};
    return most_of(bytes, SALA_ARRAY_LEN(bytes));
}

static uint64_t worker_bytes(const sala_backend_limits *l, sala_precision p)
{
    const uint64_t bytes[] = {sala_attention_worker_bytes(l, p), l->selected ? sala_sparse_worker_bytes(l, p) : 0,
                              l->lightning_head_dim ? sala_lightning_worker_bytes(l, p) : 0};
    return most_of(bytes, SALA_ARRAY_LEN(bytes));
}

uint64_t sala_device_scratch_bytes(const sala_backend_limits *limits, sala_precision precision, int n_workers)
{
    return shared_bytes(limits, precision, n_workers) + (uint64_t)n_workers * worker_bytes(limits, precision) +
           (limits->selected ? sala_sparse_device_bytes(limits) : 0) +
           sala_product_scratch_bytes(precision, n_workers, sala_linear_widest(limits));
}

static sala_status device_reserve(sala_backend *be, const sala_backend_limits *limits, sala_error *err)
{
    sala_device *dev = sala_device_of(be);
    const size_t shared = (size_t)shared_bytes(limits, dev->precision, dev->n_workers);
    const size_t worker = (size_t)worker_bytes(limits, dev->precision);
    const size_t total = shared + worker * (size_t)dev->n_workers;
    uint8_t *p = sala_os_pages_alloc(total);
    if (!p)
        return sala_fail_memory(err, total);
    sala_sparse_device *sparse = NULL;
    if (limits->selected) {
        const sala_status st = sala_sparse_device_open(&sparse, dev, limits, err);
        if (st != SALA_OK) {
            sala_os_pages_free(p, total);
            return st;
        }
    }
    sala_sparse_device_close(dev->sparse);
    sala_os_pages_free(dev->scratch, dev->scratch_bytes);
    dev->sparse = sparse;
    dev->limits = *limits;
    dev->scratch = p;
    dev->scratch_bytes = total;
    dev->shared = p;
    dev->shared_bytes = shared;
    dev->worker = p + shared;
    dev->worker_bytes = worker;
    return SALA_OK;
}

/* ---- small operations ---- */

static void device_soon(sala_backend *be, const sala_act *x, int64_t n)
{
    (void)be;
    (void)x;
    (void)n;
}

static void device_gather(sala_backend *be, sala_act *out, const sala_act *x, const int32_t *rows, int64_t n_rows,
                          int64_t n)
{
    (void)be;
    for (int64_t i = 0; i < n_rows; i++)
        memmove(out + i * n, x + (int64_t)rows[i] * n, (size_t)n * sizeof *out);
}

typedef struct finite_job {
    const sala_act *x;
    int64_t n;
    bool *bad; /* by worker */
} finite_job;

enum { FINITE_PIECE = 65536, MOST_WORKERS = 1024 };

static void finite_task(void *user, int task, int worker)
{
    const finite_job *job = user;
    const int64_t from = (int64_t)task * FINITE_PIECE, to = sala_min_i64(from + FINITE_PIECE, job->n);
    int finite = 1;
    for (int64_t i = from; i < to; i++)
        finite &= isfinite(job->x[i]) != 0;
    if (!finite)
        job->bad[worker] = true;
}

static bool device_all_finite(sala_backend *be, const sala_act *x, int64_t n)
{
    bool bad[MOST_WORKERS] = {false}, any = false;
    finite_job job = {x, n, bad};
    sala_pool_run(sala_device_of(be)->pool, (int)((n + FINITE_PIECE - 1) / FINITE_PIECE), finite_task, &job);
    for (int w = 0; w < MOST_WORKERS; w++)
        any = any || bad[w];
    return !any;
}

/* Keys and values are attended where they lie. */
static void device_kv_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                            const sala_act *k, const sala_act *v, int64_t stride)
{
    (void)seqs;
    (void)n_seqs;
    (void)kv;
    (void)v;
    sala_device *dev = sala_device_of(be);
    dev->keys = k;
    dev->keys_stride = stride;
}

static void device_key_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                             const sala_act *k, int64_t stride)
{
    device_kv_store(be, seqs, n_seqs, kv, k, NULL, stride);
}

/* ---- the tables ---- */

static void device_close(sala_backend *be)
{
    sala_device *dev = sala_device_of(be);
    sala_sparse_device_close(dev->sparse);
    sala_os_pages_free(dev->scratch, dev->scratch_bytes);
    sala_product_close(dev->product);
    free(dev);
}

static const char *device_describe(const sala_backend *be)
{
    return ((const sala_device *)be)->k.family;
}

static const sala_backend_ops device_ops = {
    .name = "train",
    .close = device_close,
    .describe = device_describe,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_copy,
    .download = device_copy,
    .reserve = device_reserve,
    .weight_new = sala_device_weight_new,
    .weight_free = sala_device_weight_free,
    .weight_bytes = sala_device_weight_bytes,
    .get_rows = sala_device_get_rows,
    .export_row = sala_device_export_row,
    .soon = device_soon,
    .linear_group = sala_device_linear_group,
    .rms_norm = sala_device_rms_norm,
    .add_norm = sala_device_add_norm,
    .scale = sala_device_scale,
    .swiglu = sala_device_swiglu,
    .rope = sala_device_rope,
    .kv_store = device_kv_store,
    .key_store = device_key_store,
    .attention = sala_device_attention,
    .compress = sala_device_compress,
    .select = sala_device_select,
    .lightning = sala_device_lightning,
    .sigmoid_gate = sala_device_sigmoid_gate,
    .gather = device_gather,
    .all_finite = device_all_finite,
};

static const sala_grad_ops grad_ops = {
    .linear_group_back = sala_device_linear_group_back,
    .get_rows_back = sala_device_get_rows_back,
    .rms_norm_back = sala_device_rms_norm_back,
    .scale_to = sala_device_scale_to,
    .swiglu_back = sala_device_swiglu_back,
    .feed_down = sala_device_feed_down,
    .feed_back = sala_device_feed_back,
    .rope_back = sala_device_rope_back,
    .attention_back = sala_device_attention_back,
    .lightning_back = sala_device_lightning_back,
    .sigmoid_gate_back = sala_device_sigmoid_gate_back,
    .head_loss = sala_device_head_loss,
    .keep = sala_device_keep,
    .recall = sala_device_recall,
};

const sala_grad_ops *sala_device_grad_ops(const sala_backend *be)
{
    (void)be;
    return &grad_ops;
}

const sala_product *sala_device_product(const sala_backend *be)
{
    return ((const sala_device *)be)->product;
}

sala_status sala_device_open(sala_backend **out, const sala_device_params *p, sala_error *err)
{
    const int n_workers = sala_pool_size(p->pool);
    if (n_workers > MOST_WORKERS)
        return sala_fail(err, SALA_E_INVALID, "%d threads; training takes at most %d", n_workers, MOST_WORKERS);
    sala_device *dev = calloc(1, sizeof *dev);
    if (!dev)
        return sala_fail_memory(err, sizeof *dev);
    dev->base.ops = &device_ops;
    dev->kernels = p->kernels;
    dev->pool = p->pool;
    dev->n_workers = n_workers;
    dev->precision = p->precision;
    dev->values = p->values;
    dev->grads = p->grads;
    sala_status st = SALA_OK;
    if (!sala_train_kernels_get(&dev->k, p->kernels, sala_os_cpu_features()))
        st = sala_fail(err, SALA_E_INVALID, "kernel family \"%s\" is unknown or this CPU cannot run it",
                       p->kernels ? p->kernels : "auto");
    if (st == SALA_OK) {
        const sala_product_params products = {p->precision, n_workers, p->kernels, p->plain_products};
        st = sala_product_open(&dev->product, &products, err);
    }
    if (st != SALA_OK) {
        free(dev);
        return st;
    }
    *out = &dev->base;
    return SALA_OK;
}
