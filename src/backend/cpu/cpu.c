/* The CPU backend: splits operations over the pool's threads and calls the kernels. */
#include "backend/cpu/cpu.h"

#include <stdlib.h>

/* ---- row-wise operations: shared out in pieces, or done on the spot when small ---- */

typedef struct row_job row_job;
struct row_job {
    sala_cpu *cpu;
    void (*fn)(const row_job *job, int64_t row0, int64_t row1);
    int64_t n_rows, rows_per_task, n;
    sala_act *out, *x;
    const sala_act *y, *w, *before;
    float r, eps;
    int64_t stride;
    int n_heads, head_dim;
    const sala_rope_args *rope;
};

static void row_task(void *user, int task, int worker)
{
    (void)worker;
    const row_job *job = user;
    const int64_t row0 = task * job->rows_per_task;
    job->fn(job, row0, sala_min_i64(row0 + job->rows_per_task, job->n_rows));
}

static void run_rows(row_job *job)
{
    /* A piece of 16 K elements takes some microseconds, more than it costs to hand it over. */
    job->rows_per_task = sala_max_i64(1, 16384 / (job->n + 1));
    const int64_t n_tasks = (job->n_rows + job->rows_per_task - 1) / job->rows_per_task;
    if (n_tasks <= 1)
        job->fn(job, 0, job->n_rows);
    else
        sala_pool_run(job->cpu->pool, (int)n_tasks, row_task, job);
}

/* The second-level cache keeps a few kilobytes while a matrix streams through it. */
static void cpu_soon(sala_backend *be, const sala_act *x, int64_t n)
{
    (void)be;
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof *x)
        __builtin_prefetch(x + i, 0, 2);
}

static void rms_norm_rows(const row_job *job, int64_t row0, int64_t row1)
{
    for (int64_t i = row0; i < row1; i++)
        job->cpu->k.rms_norm(job->out + i * job->n, job->x + i * job->n, job->w, job->n, job->eps);
}

static void cpu_rms_norm(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *w, int64_t n_rows,
                         int64_t n, float eps)
{
    row_job job = {
        .cpu = sala_cpu_of(be), .fn = rms_norm_rows, .n_rows = n_rows, .n = n, .out = out, .w = w, .eps = eps};
    job.x = (sala_act *)(uintptr_t)x; /* only read by rms_norm_rows */
    run_rows(&job);
}

static void add_norm_rows(const row_job *job, int64_t row0, int64_t row1)
{
    for (int64_t i = row0; i < row1; i++) {
        sala_act *x = job->x + i * job->n;
        if (job->before != job->x)
            memcpy(x, job->before + i * job->n, (size_t)job->n * sizeof *x);
        job->cpu->k.add_scaled(x, job->y + i * job->n, job->r, job->n);
        if (job->out)
            job->cpu->k.rms_norm(job->out + i * job->n, x, job->w, job->n, job->eps);
    }
}

static void cpu_add_norm(sala_backend *be, sala_act *out, sala_act *x_out, const sala_act *x, const sala_act *y,
                         sala_act r, const sala_act *w, int64_t n_rows, int64_t n, sala_act eps)
{
    row_job job = {.cpu = sala_cpu_of(be),
                   .fn = add_norm_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = out,
                   .x = x_out,
                   .before = x,
                   .y = y,
                   .r = r,
                   .w = w,
                   .eps = eps};
    run_rows(&job);
}

static void scale_rows(const row_job *job, int64_t row0, int64_t row1)
{
    for (int64_t i = row0 * job->n; i < row1 * job->n; i++)
        job->x[i] *= job->r;
}

static void cpu_scale(sala_backend *be, sala_act *x, float s, int64_t n_rows, int64_t n)
{
    row_job job = {.cpu = sala_cpu_of(be), .fn = scale_rows, .n_rows = n_rows, .n = n, .x = x, .r = s};
    run_rows(&job);
}

static void swiglu_rows(const row_job *job, int64_t row0, int64_t row1)
{
    job->cpu->k.swiglu(job->out + row0 * job->n, job->y + row0 * job->n, job->w + row0 * job->n,
                       (row1 - row0) * job->n);
}

static void cpu_swiglu(sala_backend *be, sala_act *out, const sala_act *gate, const sala_act *up, int64_t n_rows,
                       int64_t n)
{
    row_job job = {.cpu = sala_cpu_of(be), .fn = swiglu_rows, .n_rows = n_rows, .n = n, .out = out, .y = gate, .w = up};
    run_rows(&job);
}

static void sigmoid_rows(const row_job *job, int64_t row0, int64_t row1)
{
    const int64_t at = row0 * job->n;
    job->cpu->k.sigmoid_gate(job->out + at, job->y + at, job->w + at, (row1 - row0) * job->n);
}

static void cpu_sigmoid_gate(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *gate, int64_t n_rows,
                             int64_t n)
{
    row_job job = {.cpu = sala_cpu_of(be), .fn = sigmoid_rows, .n_rows = n_rows, .n = n, .out = out, .y = x, .w = gate};
    run_rows(&job);
}

static void rope_rows(const row_job *job, int64_t row0, int64_t row1)
{
    const sala_rope_args *a = job->rope;
    const int d = job->head_dim;
    for (int64_t i = row0; i < row1; i++) {
        sala_act *x = job->x + i * job->stride;
        if (a->kept)
            memcpy(a->kept + i * a->kept_stride, x, (size_t)(job->n_heads * d) * sizeof *x);
        if (a->norm)
            for (int h = 0; h < job->n_heads; h++)
                job->cpu->k.rms_norm(x + h * d, x + h * d, a->norm, d, a->eps);
        if (a->n_rot)
            job->cpu->k.rope(x, a->cos + i * (a->n_rot / 2), a->sin + i * (a->n_rot / 2), job->n_heads, d, a->n_rot,
                             a->half);
        if (a->row_scale)
            for (int c = 0; c < job->n_heads * d; c++)
                x[c] *= a->row_scale[i];
    }
}

static void cpu_rope(sala_backend *be, sala_act *x, int64_t stride, int n_heads, int head_dim, int64_t n_rows,
                     const sala_rope_args *args)
{
    row_job job = {.cpu = sala_cpu_of(be),
                   .fn = rope_rows,
                   .n_rows = n_rows,
                   .n = (int64_t)n_heads * head_dim,
                   .x = x,
                   .stride = stride,
                   .n_heads = n_heads,
                   .head_dim = head_dim,
                   .rope = args};
    run_rows(&job);
}

static void cpu_gather(sala_backend *be, sala_act *out, const sala_act *x, const int32_t *rows, int64_t n_rows,
                       int64_t n)
{
    (void)be;
    for (int64_t i = 0; i < n_rows; i++)
        memmove(out + i * n, x + (int64_t)rows[i] * n, (size_t)n * sizeof *out);
}

static bool cpu_all_finite(sala_backend *be, const sala_act *x, int64_t n)
{
    return sala_cpu_of(be)->k.all_finite(x, n);
}

/* ---- memory ---- */

static void *cpu_alloc(sala_backend *be, size_t bytes)
{
    (void)be;
    return sala_os_pages_alloc(bytes);
}

static void cpu_free(sala_backend *be, void *p, size_t bytes)
{
    (void)be;
    sala_os_pages_free(p, bytes);
}

static void cpu_copy(sala_backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    if (bytes)
        memcpy(dst, src, bytes);
}

static size_t align64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static sala_status cpu_reserve(sala_backend *be, const sala_backend_limits *limits, sala_error *err)
{
    sala_cpu *cpu = sala_cpu_of(be);
    size_t row = 0, count = 0;
    const sala_linear_kernel *const *all = sala_linear_all(&count);
    for (size_t i = 0; i < count; i++) {
        const size_t bytes = all[i]->act->row_bytes(limits->cols);
        row = bytes > row ? bytes : row;
    }
    cpu->act_bytes = align64(row * (size_t)limits->rows);
    /* Partial sums of two rows over all tokens; more rows are served as tiles when this is too small. */
    const size_t splits = (size_t)(limits->tokens / SALA_CPU_ATTN_SPLIT + 1);
    cpu->partial_floats = splits * 2 * (size_t)limits->n_heads * (size_t)(limits->head_dim + 2);
    const int group = limits->n_heads / limits->n_kv_heads;
    const size_t floats[] = {
        sala_cpu_attn_worker_floats(group, limits->head_dim),
        limits->selected ? sala_cpu_sparse_worker_floats(group, limits->head_dim, limits->selected) : 0,
        sala_cpu_lightning_worker_floats(limits->lightning_head_dim), SALA_LINEAR_SCRATCH / sizeof(float)};
    cpu->worker_floats = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(floats); i++)
        cpu->worker_floats = floats[i] > cpu->worker_floats ? floats[i] : cpu->worker_floats;
    cpu->worker_floats = align64(cpu->worker_floats * sizeof(float)) / sizeof(float);
    const size_t total = cpu->act_bytes + align64(cpu->partial_floats * sizeof(float)) +
                         (size_t)cpu->n_workers * cpu->worker_floats * sizeof(float);
    uint8_t *p = sala_os_pages_alloc(total);
    if (!p)
        return sala_fail_memory(err, total);
    if (cpu->scratch)
        sala_os_pages_free(cpu->scratch, cpu->scratch_bytes);
    cpu->scratch = p;
    cpu->scratch_bytes = total;
    cpu->act = p;
    cpu->partial = (float *)(void *)(p + cpu->act_bytes);
    cpu->worker = (float *)(void *)(p + cpu->act_bytes + align64(cpu->partial_floats * sizeof(float)));
    return SALA_OK;
}

/* ---- opening ---- */

static void cpu_close(sala_backend *be)
{
    sala_cpu *cpu = sala_cpu_of(be);
    if (cpu->own_pool)
        sala_pool_close(cpu->pool);
    if (cpu->scratch)
        sala_os_pages_free(cpu->scratch, cpu->scratch_bytes);
    free(cpu);
}

static const char *cpu_describe(const sala_backend *be)
{
    return ((const sala_cpu *)be)->k.family;
}

static const sala_backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .describe = cpu_describe,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .reserve = cpu_reserve,
    .weight_new = sala_cpu_weight_new,
    .weight_free = sala_cpu_weight_free,
    .weight_bytes = sala_cpu_weight_bytes,
    .get_rows = sala_cpu_get_rows,
    .export_row = sala_cpu_export_row,
    .soon = cpu_soon,
    .linear_group = sala_cpu_linear_group,
    .rms_norm = cpu_rms_norm,
    .add_norm = cpu_add_norm,
    .scale = cpu_scale,
    .swiglu = cpu_swiglu,
    .rope = cpu_rope,
    .kv_store = sala_cpu_kv_store,
    .key_store = sala_cpu_key_store,
    .attention = sala_cpu_attention,
    .compress = sala_cpu_compress,
    .select = sala_cpu_select,
    .lightning = sala_cpu_lightning,
    .sigmoid_gate = cpu_sigmoid_gate,
    .gather = cpu_gather,
    .all_finite = cpu_all_finite,
};

static sala_status open_kernels(sala_cpu **out, const char *kernels, sala_error *err)
{
    sala_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return sala_fail_memory(err, sizeof *cpu);
    cpu->base.ops = &cpu_ops;
    if (sala_kernels_get(&cpu->k, kernels, sala_os_cpu_features())) {
        *out = cpu;
        return SALA_OK;
    }
    free(cpu);
    sala_buf names = {0};
    for (const char *const *f = sala_kernels_families(); *f; f++)
        sala_buf_printf(&names, ", %s", *f);
    const sala_status st =
        sala_fail(err, SALA_E_INVALID, "kernel family \"%s\" is unknown or this CPU cannot run it; known: auto%s",
                  kernels, names.data ? names.data : "");
    sala_buf_free(&names);
    return st;
}

sala_status sala_backend_cpu_open(sala_backend **out, const char *kernels, int n_threads, bool no_pack, sala_error *err)
{
    sala_cpu *cpu;
    const sala_status st = open_kernels(&cpu, kernels, err);
    if (st != SALA_OK)
        return st;
    cpu->no_pack = no_pack;
    const int rc = sala_pool_open(&cpu->pool, n_threads);
    if (rc) {
        free(cpu);
        return sala_fail_errno(err, rc, "could not start %d threads", n_threads);
    }
    cpu->own_pool = true;
    cpu->n_workers = sala_pool_size(cpu->pool);
    *out = &cpu->base;
    return SALA_OK;
}

sala_status sala_backend_cpu_open_on(sala_backend **out, const char *kernels, sala_pool *pool, sala_error *err)
{
    sala_cpu *cpu;
    const sala_status st = open_kernels(&cpu, kernels, err);
    if (st != SALA_OK)
        return st;
    cpu->pool = pool;
    cpu->n_workers = sala_pool_size(pool);
    *out = &cpu->base;
    return SALA_OK;
}

int sala_backend_cpu_threads(const sala_backend *be)
{
    return ((const sala_cpu *)be)->n_workers;
}
