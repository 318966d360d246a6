/* What goes row by row: norms, residuals, gates, rotation, forward and backward. Tasks are SALA_ROW_TASK rows; what is
 * summed over rows (gradients of norms and biases) is first summed within a task, and the tasks' sums are added up in
 * their order. */
#include "grad/device_impl.h"

#include <assert.h>

typedef struct row_job row_job;
struct row_job {
    sala_device *dev;
    void (*fn)(const row_job *job, int64_t row0, int64_t row1, sala_num *partial);
    int64_t n_rows, n;
    sala_num *out, *out2, *out3;
    const sala_num *a, *b, *c;
    sala_num scale, eps;
    bool add;
    int64_t stride;
    int n_heads, head_dim;
    const sala_rope_args *rope;
    int64_t n_partial; /* numbers that a task sums up; 0: none */
    uint16_t *half_out;
    const uint16_t *half_in;
};

static int n_row_tasks(int64_t n_rows)
{
    return (int)((n_rows + SALA_ROW_TASK - 1) / SALA_ROW_TASK);
}

static void row_task(void *user, int task, int worker)
{
    (void)worker;
    const row_job *job = user;
    const int64_t row0 = (int64_t)task * SALA_ROW_TASK;
    sala_num *partial = NULL;
    if (job->n_partial) {
        partial = (sala_num *)(void *)job->dev->shared + (int64_t)task * job->n_partial;
        memset(partial, 0, (size_t)job->n_partial * sizeof *partial);
    }
    job->fn(job, row0, sala_min_i64(row0 + SALA_ROW_TASK, job->n_rows), partial);
}

static void run_rows(row_job *job)
{
    assert((uint64_t)n_row_tasks(job->n_rows) * (uint64_t)job->n_partial * sizeof(sala_num) <= job->dev->shared_bytes);
    sala_pool_run(job->dev->pool, n_row_tasks(job->n_rows), row_task, job);
}

/* ---- sums over rows ---- */

enum { SUM_COLUMNS = 256 };

typedef struct sum_job {
    const sala_num *partial;
    sala_num *sum;
    int64_t n, n_partials;
} sum_job;

static void sum_task(void *user, int task, int worker)
{
    (void)worker;
    const sum_job *job = user;
    const int64_t j0 = (int64_t)task * SUM_COLUMNS, j1 = sala_min_i64(j0 + SUM_COLUMNS, job->n);
    for (int64_t p = 0; p < job->n_partials; p++)
        for (int64_t j = j0; j < j1; j++)
            job->sum[j] += job->partial[p * job->n + j];
}

/* sum += the partial sums that the tasks of `job` have left. */
static void add_partials(const row_job *job, sala_num *sum)
{
    sum_job sums = {(const sala_num *)(const void *)job->dev->shared, sum, job->n_partial, n_row_tasks(job->n_rows)};
    sala_pool_run(job->dev->pool, (int)((sums.n + SUM_COLUMNS - 1) / SUM_COLUMNS), sum_task, &sums);
}

uint64_t sala_rows_shared_bytes(const sala_backend_limits *l)
{
    return (uint64_t)n_row_tasks(l->rows) * (uint64_t)l->cols * sizeof(sala_num);
}

static void column_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    for (int64_t i = row0; i < row1; i++)
        job->dev->k.add_scaled(partial, partial, job->a + i * job->stride, 1, job->n);
}

void sala_device_column_sums(sala_device *dev, sala_num *sum, const sala_num *x, int64_t ldx, int64_t n_rows, int64_t n)
{
    row_job job = {.dev = dev, .fn = column_rows, .n_rows = n_rows, .n = n, .a = x, .stride = ldx, .n_partial = n};
    run_rows(&job);
    add_partials(&job, sum);
}

/* ---- norms and the residual stream ---- */

static void rms_norm_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    sala_num inv;
    for (int64_t i = row0; i < row1; i++)
        job->dev->k.rms_norm(job->out + i * job->n, &inv, job->a + i * job->n, job->b, job->n, job->eps);
}

void sala_device_rms_norm(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *w, int64_t n_rows,
                          int64_t n, sala_act eps)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = rms_norm_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = out,
                   .a = x,
                   .b = w,
                   .eps = eps};
    run_rows(&job);
}

static void add_norm_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    sala_num inv;
    for (int64_t i = row0; i < row1; i++) {
        sala_num *sum = job->out2 + i * job->n;
        job->dev->k.add_scaled(sum, job->a + i * job->n, job->b + i * job->n, job->scale, job->n);
        if (job->out)
            job->dev->k.rms_norm(job->out + i * job->n, &inv, sum, job->c, job->n, job->eps);
    }
}

void sala_device_add_norm(sala_backend *be, sala_act *out, sala_act *x_out, const sala_act *x, const sala_act *y,
                          sala_act r, const sala_act *w, int64_t n_rows, int64_t n, sala_act eps)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = add_norm_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = out,
                   .out2 = x_out,
                   .a = x,
                   .b = y,
                   .c = w,
                   .scale = r,
                   .eps = eps};
    run_rows(&job);
}

static void rms_norm_back_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    const sala_train_kernels *k = &job->dev->k;
    for (int64_t i = row0; i < row1; i++) {
        sala_num inv;
        k->rms_norm(NULL, &inv, job->b + i * job->n, job->c, job->n, job->eps);
        k->rms_norm_back(job->out + i * job->n, partial, job->a + i * job->n, job->b + i * job->n, job->c, inv, job->n,
                         job->add);
    }
}

void sala_device_rms_norm_back(sala_backend *be, sala_act *dx, sala_act *dw, const sala_act *dy, const sala_act *x,
                               const sala_act *w, int64_t n_rows, int64_t n, sala_act eps, bool add)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = rms_norm_back_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = dx,
                   .a = dy,
                   .b = x,
                   .c = w,
                   .eps = eps,
                   .add = add,
                   .n_partial = dw ? n : 0};
    run_rows(&job);
    if (dw)
        add_partials(&job, dw);
}

static void scale_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    job->dev->k.copy_rows(job->out + row0 * job->n, job->n, job->a + row0 * job->n, job->n, (int)(row1 - row0),
                          (int)job->n, NULL, job->scale);
}

void sala_device_scale_to(sala_backend *be, sala_act *out, const sala_act *x, sala_act s, int64_t n_rows, int64_t n)
{
    row_job job = {
        .dev = sala_device_of(be), .fn = scale_rows, .n_rows = n_rows, .n = n, .out = out, .a = x, .scale = s};
    run_rows(&job);
}

void sala_device_scale(sala_backend *be, sala_act *x, sala_act s, int64_t n_rows, int64_t n)
{
    sala_device_scale_to(be, x, x, s, n_rows, n);
}

/* ---- gates ---- */

static void swiglu_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const int64_t at = row0 * job->n;
    job->dev->k.swiglu(job->out + at, job->a + at, job->b + at, (row1 - row0) * job->n);
}

void sala_device_swiglu(sala_backend *be, sala_act *out, const sala_act *gate, const sala_act *up, int64_t n_rows,
                        int64_t n)
{
    row_job job = {
        .dev = sala_device_of(be), .fn = swiglu_rows, .n_rows = n_rows, .n = n, .out = out, .a = gate, .b = up};
    run_rows(&job);
}

static void swiglu_back_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const int64_t at = row0 * job->n;
    job->dev->k.swiglu_back(job->out + at, job->out2 + at, job->out3 + at, job->a + at, job->b + at, job->c + at,
                            (row1 - row0) * job->n);
}

void sala_device_swiglu_back(sala_backend *be, sala_act *dgate, sala_act *dup, sala_act *mid, const sala_act *d_out,
                             const sala_act *gate, const sala_act *up, int64_t n_rows, int64_t n)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = swiglu_back_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = dgate,
                   .out2 = dup,
                   .out3 = mid,
                   .a = d_out,
                   .b = gate,
                   .c = up};
    run_rows(&job);
}

static void sigmoid_gate_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const int64_t at = row0 * job->n;
    job->dev->k.sigmoid_gate(job->out + at, job->a + at, job->b + at, (row1 - row0) * job->n);
}

void sala_device_sigmoid_gate(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *gate, int64_t n_rows,
                              int64_t n)
{
    row_job job = {
        .dev = sala_device_of(be), .fn = sigmoid_gate_rows, .n_rows = n_rows, .n = n, .out = out, .a = x, .b = gate};
    run_rows(&job);
}

static void sigmoid_gate_back_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const int64_t at = row0 * job->n;
    job->dev->k.sigmoid_gate_back(job->out + at, job->out2 + at, job->a + at, job->b + at, job->c + at,
                                  (row1 - row0) * job->n);
}

void sala_device_sigmoid_gate_back(sala_backend *be, sala_act *dx, sala_act *dgate, const sala_act *dy,
                                   const sala_act *x, const sala_act *gate, int64_t n_rows, int64_t n)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = sigmoid_gate_back_rows,
                   .n_rows = n_rows,
                   .n = n,
                   .out = dx,
                   .out2 = dgate,
                   .a = dy,
                   .b = x,
                   .c = gate};
    run_rows(&job);
}

/* ---- norm and rotation of heads ---- */

static void rope_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const sala_train_kernels *k = &job->dev->k;
    const sala_rope_args *a = job->rope;
    const int d = job->head_dim, half = a->n_rot / 2;
    sala_num inv;
    for (int64_t i = row0; i < row1; i++) {
        sala_num *x = job->out + i * job->stride;
        if (a->kept)
            memcpy(a->kept + i * a->kept_stride, x, (size_t)job->n * sizeof *x);
        for (int h = 0; a->norm && h < job->n_heads; h++)
            k->rms_norm(x + h * d, &inv, x + h * d, a->norm, d, a->eps);
        if (a->n_rot)
            k->rope(x, a->cos + i * half, a->sin + i * half, job->n_heads, d, a->n_rot, a->half);
        for (int64_t c = 0; a->row_scale && c < job->n; c++)
            x[c] *= a->row_scale[i];
    }
}

void sala_device_rope(sala_backend *be, sala_act *x, int64_t stride, int n_heads, int head_dim, int64_t n_rows,
                      const sala_rope_args *args)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = rope_rows,
                   .n_rows = n_rows,
                   .n = (int64_t)n_heads * head_dim,
                   .out = x,
                   .stride = stride,
                   .n_heads = n_heads,
                   .head_dim = head_dim,
                   .rope = args};
    run_rows(&job);
}

static void rope_back_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    const sala_train_kernels *k = &job->dev->k;
    const sala_rope_args *a = job->rope;
    const int d = job->head_dim, half = a->n_rot / 2;
    for (int64_t i = row0; i < row1; i++) {
        sala_num *dx = job->out + i * job->stride;
        for (int64_t c = 0; a->row_scale && c < job->n; c++)
            dx[c] *= a->row_scale[i];
        if (a->n_rot)
            k->rope_back(dx, a->cos + i * half, a->sin + i * half, job->n_heads, d, a->n_rot, a->half);
        for (int h = 0; job->a && h < job->n_heads; h++) {
            const sala_num *raw = job->a + i * job->stride + h * d;
            sala_num inv;
            k->rms_norm(NULL, &inv, raw, a->norm, d, a->eps);
            k->rms_norm_back(dx + h * d, partial, dx + h * d, raw, a->norm, inv, d, false);
        }
    }
}

void sala_device_rope_back(sala_backend *be, sala_act *dx, sala_act *dnorm, const sala_act *raw, int64_t stride,
                           int n_heads, int head_dim, int64_t n_rows, const sala_rope_args *args)
{
    row_job job = {.dev = sala_device_of(be),
                   .fn = rope_back_rows,
                   .n_rows = n_rows,
                   .n = (int64_t)n_heads * head_dim,
                   .out = dx,
                   .a = args->norm ? raw : NULL,
                   .stride = stride,
                   .n_heads = n_heads,
                   .head_dim = head_dim,
                   .rope = args,
                   .n_partial = args->norm && raw && dnorm ? head_dim : 0};
    run_rows(&job);
    if (job.n_partial)
        add_partials(&job, dnorm);
}

/* ---- slots of 16 bits ---- */

static void keep_rows(const row_job *job, int64_t row0, int64_t row1, sala_num *partial)
{
    (void)partial;
    const int64_t at = row0 * job->stride, n = sala_min_i64(row1 * job->stride, job->n) - at;
    if (job->half_out)
        job->dev->k.round_rows(job->half_out + at, n, job->a + at, n, 1, (int)n);
    else
        job->dev->k.widen(job->out + at, job->half_in + at, n);
}

/* Pieces of this many numbers stand for rows. */
enum { KEEP_PIECE = 512 };

static void run_keep(row_job *job)
{
    job->fn = keep_rows;
    job->stride = KEEP_PIECE;
    job->n_rows = (job->n + KEEP_PIECE - 1) / KEEP_PIECE;
    run_rows(job);
}

void sala_device_keep(sala_backend *be, void *slot, const sala_act *x, int64_t n)
{
    row_job job = {.dev = sala_device_of(be), .n = n, .a = x, .half_out = slot};
    run_keep(&job);
}

void sala_device_recall(sala_backend *be, sala_act *x, const void *slot, int64_t n)
{
    row_job job = {.dev = sala_device_of(be), .n = n, .out = x, .half_in = slot};
    run_keep(&job);
}
