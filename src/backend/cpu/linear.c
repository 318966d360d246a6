/* Weights on the CPU and the products with them. A weight is either used as it lies in the mapped file or packed for
 * the kernel; packing goes piece by piece and gives the file's pages back as it goes, so that resident memory stays
 * near the size of the file. */
#include "backend/cpu/cpu.h"

#include <stdlib.h>

struct sala_weight {
    const sala_linear_kernel *kernel;
    sala_dtype dtype;
    int64_t rows, cols;
    const void *data; /* what the kernel reads: file memory or `packed` */
    void *packed;
    size_t packed_bytes;
};

/* Pieces of about this many bytes are packed at a time by one thread. */
enum { PACK_PIECE = 1 << 20 };

typedef struct pack_job {
    sala_weight *w;
    const uint8_t *src;
    size_t row_bytes;
    int64_t rows_per_task;
} pack_job;

static void pack_task(void *user, int task, int worker)
{
    (void)worker;
    const pack_job *job = user;
    const sala_weight *w = job->w;
    const int64_t row0 = task * job->rows_per_task;
    const int64_t row1 = sala_min_i64(row0 + job->rows_per_task, w->rows);
    w->kernel->pack(w->packed, job->src, w->rows, w->cols, row0, row1);
    sala_os_map_drop(job->src + (size_t)row0 * job->row_bytes, (size_t)(row1 - row0) * job->row_bytes);
}

sala_status sala_cpu_weight_new(sala_backend *be, sala_weight **out, sala_dtype dtype, int64_t rows, int64_t cols,
                                const void *data, sala_error *err)
{
    sala_cpu *cpu = sala_cpu_of(be);
    if (!sala_dequant_has(dtype))
        return sala_fail(err, SALA_E_UNSUPPORTED, "weights of type %s cannot be computed with", sala_dtype_name(dtype));
    const uint64_t row_bytes = sala_dtype_bytes(dtype, cols);
    if (row_bytes == 0 || rows <= 0)
        return sala_fail(err, SALA_E_INVALID,
                         "a matrix of %lld rows of %lld columns of type %s is not possible: rows must be whole blocks",
                         (long long)rows, (long long)cols, sala_dtype_name(dtype));
    sala_weight *w = calloc(1, sizeof *w);
    if (!w)
        return sala_fail_memory(err, sizeof *w);
    w->kernel = sala_linear_get(&cpu->k, dtype, rows, cols, cpu->no_pack);
    w->dtype = dtype;
    w->rows = rows;
    w->cols = cols;
    w->data = data;
    if (w->kernel->packed_bytes) {
        w->packed_bytes = w->kernel->packed_bytes(rows, cols);
        w->packed = sala_os_pages_alloc(w->packed_bytes);
        if (!w->packed) {
            const uint64_t bytes = w->packed_bytes;
            free(w);
            return sala_fail_memory(err, bytes);
        }
        const int64_t panel = w->kernel->panel_rows;
        int64_t rows_per_task = (int64_t)(PACK_PIECE / row_bytes + 1);
        rows_per_task = (rows_per_task + panel - 1) / panel * panel;
        pack_job job = {w, data, (size_t)row_bytes, rows_per_task};
        sala_pool_run(cpu->pool, (int)((rows + rows_per_task - 1) / rows_per_task), pack_task, &job);
        w->data = w->packed;
    }
    *out = w;
    return SALA_OK;
}

void sala_cpu_weight_free(sala_backend *be, sala_weight *w)
{
    (void)be;
    if (!w)
        return;
    if (w->packed)
        sala_os_pages_free(w->packed, w->packed_bytes);
    free(w);
}

uint64_t sala_cpu_weight_bytes(const sala_weight *w)
{
    return w->packed_bytes;
}

void sala_cpu_get_rows(sala_backend *be, sala_act *out, const sala_weight *w, const int32_t *ids, int64_t n,
                       float scale)
{
    (void)be;
    for (int64_t i = 0; i < n; i++) {
        float *row = out + i * w->cols;
        w->kernel->get_row(row, w->data, w->rows, w->cols, ids[i]);
        if (scale != 1.0f)
            for (int64_t c = 0; c < w->cols; c++)
                row[c] *= scale;
    }
}

void sala_cpu_export_row(sala_backend *be, float *out, const sala_weight *w, int64_t row)
{
    (void)be;
    w->kernel->get_row(out, w->data, w->rows, w->cols, row);
}

/* ---- products ---- */

enum { MAX_GROUP = 8 };

typedef struct linear_job {
    sala_cpu *cpu;
    const sala_linear_out *outs;
    int n_outs;
    const sala_act *x;
    int64_t n_rows, cols;
    const sala_act_format *act; /* of the outputs now under way */
    size_t act_stride;
    int64_t prepare_rows_per_task;
    /* Output i owns the tasks [task0[i], task0[i + 1]), each of rows_per_task[i] rows of its matrix. */
    int task0[MAX_GROUP + 1];
    int64_t rows_per_task[MAX_GROUP];
} linear_job;

static void prepare_task(void *user, int task, int worker)
{
    (void)worker;
    const linear_job *job = user;
    const int64_t t0 = task * job->prepare_rows_per_task;
    const int64_t t1 = sala_min_i64(t0 + job->prepare_rows_per_task, job->n_rows);
    for (int64_t t = t0; t < t1; t++)
        job->act->prepare(job->cpu->act + (size_t)t * job->act_stride, job->x + t * job->cols, job->cols);
}

/* Threads take tasks in turn. With few tokens a task is over in microseconds, and what counts is that each thread reads
 * on where its last task ended: task i of n becomes one of a thread's own part of the matrix. */
static int in_parts(int i, int n, int parts)
{
    const int part = i % parts, rest = n % parts;
    return part * (n / parts) + (part < rest ? part : rest) + i / parts;
}

static void linear_task(void *user, int task, int worker)
{
    const linear_job *job = user;
    int i = 0;
    while (task >= job->task0[i + 1])
        i++;
    const int at = in_parts(task - job->task0[i], job->task0[i + 1] - job->task0[i], job->cpu->n_workers);
    const sala_linear_out *o = &job->outs[i];
    const sala_weight *w = o->weight;
    const int64_t row0 = at * job->rows_per_task[i];
    const int64_t row1 = sala_min_i64(row0 + job->rows_per_task[i], w->rows);
    w->kernel->run(o->out, o->out_stride, w->data, job->cpu->act, job->act_stride, w->rows, w->cols, row0, row1,
                   job->n_rows, sala_cpu_worker(job->cpu, worker));
    if (o->bias)
        for (int64_t t = 0; t < job->n_rows; t++)
            for (int64_t r = row0; r < row1; r++)
                o->out[t * o->out_stride + r] += o->bias[r];
}

/* Runs those outputs, all of one activation format. */
static void run_same_format(linear_job *job)
{
    sala_cpu *cpu = job->cpu;
    job->act_stride = job->act->row_bytes(job->cols);
    /* Preparing a few rows costs less than waking a thread. */
    job->prepare_rows_per_task = job->n_rows * job->cols <= 32768 ? job->n_rows : 8;
    sala_pool_run(cpu->pool, (int)((job->n_rows + job->prepare_rows_per_task - 1) / job->prepare_rows_per_task),
                  prepare_task, job);

    for (int i = 0; i < job->n_outs; i++) {
        const sala_weight *w = job->outs[i].weight;
        const int64_t panel = w->kernel->panel_rows;
        const uint64_t row_bytes = sala_dtype_bytes(w->dtype, w->cols);
        /* At least eight tasks a thread, so that the last one is short, but none under 32 KiB of weights for one token:
         * handing out a task costs about as much as reading 2 KiB. */
        const int64_t tokens = sala_min_i64(job->n_rows, 16);
        const int64_t least = sala_max_i64(1, (int64_t)((32 << 10) / row_bytes) / tokens);
        int64_t rows = sala_max_i64(w->rows / (8 * cpu->n_workers) / panel * panel, least);
        if (job->n_rows == 1)
            rows = sala_min_i64(rows, (w->rows + cpu->n_workers - 1) / cpu->n_workers);
        rows = (rows + panel - 1) / panel * panel;
        job->rows_per_task[i] = rows;
        job->task0[i + 1] = job->task0[i] + (int)((w->rows + rows - 1) / rows);
    }
    sala_pool_run(cpu->pool, job->task0[job->n_outs], linear_task, job);
}

void sala_cpu_linear_group(sala_backend *be, const sala_linear_out *outs, int n_outs, const sala_act *x, int64_t n_rows,
                           int64_t cols)
{
    sala_linear_out same[MAX_GROUP];
    bool done[MAX_GROUP] = {0};
    for (int first = 0; first < n_outs; first++) {
        if (done[first])
            continue;
        linear_job job = {.cpu = sala_cpu_of(be), .outs = same, .x = x, .n_rows = n_rows, .cols = cols};
        job.act = outs[first].weight->kernel->act;
        for (int i = first; i < n_outs; i++) {
            if (outs[i].weight->kernel->act == job.act) {
                same[job.n_outs++] = outs[i];
                done[i] = true;
            }
        }
        run_same_format(&job);
    }
}
