/* The loss: logits, cross-entropy and all their gradients, CHUNK rows at a time, so that logits of a whole batch never
 * exist. Only supervised rows are computed with: they are gathered first, whatever stands between them.
 *
 *   z  = x s W^T                  s = inv_divisor
 *   L  = loss_scale * sum over rows of weight * (lse(z) - z[label] + zloss * lse(z)^2)
 *   dz = loss_scale * weight * (softmax(z) - onehot(label) + 2 zloss lse softmax(z)), in the place of z
 *   dx = s dz W,  dW += dz^T (x s)
 *
 * Sums of the call are f64, added in the order of the rows. */
#include "grad/device_impl.h"

#include <assert.h>

enum { CHUNK = 512 };

typedef struct head_job {
    sala_device *dev;
    sala_head_args *a;
    const int32_t *rows; /* of the chunk */
    int64_t n;
    sala_num *x, *dx; /* [n][n_embd] gathered, dx in the place of x's gradient */
    sala_num *z;      /* [n][n_vocab] */
    double *lse, *at_label;
    bool *hit;
} head_job;

/* Where the parts of the shared scratch begin. */
typedef struct head_places {
    size_t rows, x, dx, z, lse, at_label, hit, x_operand, z_operand, end;
} head_places;

static head_places places(int64_t n_rows, int64_t n_embd, int64_t n_vocab, sala_precision p)
{
    const int64_t chunk = sala_min_i64(n_rows, CHUNK);
    const size_t x_bytes = (size_t)chunk * (size_t)n_embd * sizeof(sala_num);
    head_places at;
    at.rows = 0;
    at.x = sala_align64((size_t)n_rows * sizeof(int32_t));
    at.dx = sala_align64(at.x + x_bytes);
    at.z = sala_align64(at.dx + x_bytes);
    at.lse = sala_align64(at.z + (size_t)chunk * (size_t)n_vocab * sizeof(sala_num));
    at.at_label = at.lse + CHUNK * sizeof(double);
    at.hit = at.at_label + CHUNK * sizeof(double);
    at.x_operand = sala_align64(at.hit + CHUNK * sizeof(bool));
    at.z_operand = at.x_operand + sala_device_operand_bytes(p, chunk, n_embd);
    at.end = at.z_operand + sala_device_operand_bytes(p, chunk, n_vocab);
    return at;
}

uint64_t sala_head_shared_bytes(const sala_backend_limits *l, sala_precision p)
{
    return l->vocab ? places(l->rows, l->cols, l->vocab, p).end : 0;
}

static void gather_task(void *user, int task, int worker)
{
    (void)worker;
    const head_job *job = user;
    const sala_head_args *a = job->a;
    const int64_t i0 = (int64_t)task * SALA_ROW_TASK, i1 = sala_min_i64(i0 + SALA_ROW_TASK, job->n);
    for (int64_t i = i0; i < i1; i++) {
        const sala_num *from = a->x + job->rows[i] * a->n_embd;
        for (int64_t c = 0; c < a->n_embd; c++)
            job->x[i * a->n_embd + c] = from[c] * a->inv_divisor;
    }
}

static void scatter_task(void *user, int task, int worker)
{
    (void)worker;
    const head_job *job = user;
    const sala_head_args *a = job->a;
    const int64_t i0 = (int64_t)task * SALA_ROW_TASK, i1 = sala_min_i64(i0 + SALA_ROW_TASK, job->n);
    for (int64_t i = i0; i < i1; i++) {
        sala_num *to = a->dx + job->rows[i] * a->n_embd;
        for (int64_t c = 0; c < a->n_embd; c++)
            to[c] = job->dx[i * a->n_embd + c] * a->inv_divisor;
    }
}

/* Whether the label's logit is the largest, the first of equal ones. */
static bool is_best(const sala_num *z, int64_t n, int32_t label)
{
    const sala_num at = z[label];
    int better = 0;
    for (int64_t j = 0; j < label; j++)
        better |= z[j] >= at;
    for (int64_t j = label + 1; j < n; j++)
        better |= z[j] > at;
    return !better && at == at;
}

static sala_num weight_of(const sala_head_args *a, int64_t row)
{
    return a->row_weight ? a->row_weight[row] : 1;
}

/* Rows of logits are long: a task is a few of them. */
enum { LOSS_ROWS = 8 };

static void loss_task(void *user, int task, int worker)
{
    (void)worker;
    const head_job *job = user;
    const sala_head_args *a = job->a;
    const int64_t i0 = (int64_t)task * LOSS_ROWS, i1 = sala_min_i64(i0 + LOSS_ROWS, job->n);
    for (int64_t i = i0; i < i1; i++) {
        const int64_t row = job->rows[i];
        const int32_t label = a->labels[row];
        sala_num *z = job->z + i * a->n_vocab, at = 0;
        job->hit[i] = is_best(z, a->n_vocab, label);
        job->lse[i] =
            job->dev->k.cross_entropy_row(z, &at, a->n_vocab, label, weight_of(a, row) * a->loss_scale, a->zloss);
        job->at_label[i] = (double)at;
    }
}

static void clear_task(void *user, int task, int worker)
{
    (void)worker;
    const head_job *job = user;
    const sala_head_args *a = job->a;
    const int64_t i0 = (int64_t)task * SALA_ROW_TASK, i1 = sala_min_i64(i0 + SALA_ROW_TASK, a->n_rows);
    for (int64_t i = i0; i < i1; i++)
        if (a->labels[i] < 0)
            memset(a->dx + i * a->n_embd, 0, (size_t)a->n_embd * sizeof *a->dx);
}

static int tasks_of(int64_t n, int64_t per_task)
{
    return (int)((n + per_task - 1) / per_task);
}

static void add_up(const head_job *job)
{
    sala_head_args *a = job->a;
    for (int64_t i = 0; i < job->n; i++) {
        const int64_t row = job->rows[i];
        const double nll = job->lse[i] - job->at_label[i], weight = (double)weight_of(a, row);
        a->loss += weight * nll;
        a->zloss_sum += weight * (double)a->zloss * job->lse[i] * job->lse[i];
        a->correct += job->hit[i];
        if (a->row_losses)
            a->row_losses[row] = (float)nll;
    }
}

static void run_chunk(head_job *job, const head_places *at)
{
    sala_device *dev = job->dev;
    const sala_head_args *a = job->a;
    sala_pool_run(dev->pool, tasks_of(job->n, SALA_ROW_TASK), gather_task, job);
    const sala_operand x = sala_device_operand(dev, dev->shared + at->x_operand, job->x, a->n_embd, job->n, a->n_embd);
    const sala_dense logits = {
        .kind = SALA_PRODUCT_OUT, .n_parts = 1, .w = {a->head}, .a = {x}, .c = job->z, .ldc = a->n_vocab};
    sala_device_products(dev, &logits, 1, job->n);
    sala_pool_run(dev->pool, tasks_of(job->n, LOSS_ROWS), loss_task, job);
    add_up(job);
    if (!a->dx)
        return;
    const sala_operand dz =
        sala_device_operand(dev, dev->shared + at->z_operand, job->z, a->n_vocab, job->n, a->n_vocab);
    const sala_dense back[] = {
        {.kind = SALA_PRODUCT_BACK, .n_parts = 1, .w = {a->head}, .a = {dz}, .c = job->dx, .ldc = a->n_embd},
        {.kind = SALA_PRODUCT_GRAD, .n_parts = 1, .w = {a->head}, .a = {dz}, .x = x}};
    sala_device_products(dev, back, sala_weight_grad(a->head) ? 2 : 1, job->n);
    sala_pool_run(dev->pool, tasks_of(job->n, SALA_ROW_TASK), scatter_task, job);
}

void sala_device_head_loss(sala_backend *be, sala_head_args *a)
{
    sala_device *dev = sala_device_of(be);
    assert(sala_weight_rows(a->head) == a->n_vocab && sala_weight_cols(a->head) == a->n_embd);
    a->loss = a->zloss_sum = a->correct = 0;
    a->n_supervised = 0;
    if (a->n_rows == 0)
        return;
    const head_places at = places(a->n_rows, a->n_embd, a->n_vocab, dev->precision);
    assert(at.end <= dev->shared_bytes);
    head_job job = {.dev = dev, .a = a};
    int32_t *rows = (int32_t *)(void *)(dev->shared + at.rows);
    for (int64_t i = 0; i < a->n_rows; i++) {
        if (a->row_losses)
            a->row_losses[i] = 0;
        if (a->labels[i] >= 0)
            rows[a->n_supervised++] = (int32_t)i;
    }
    if (a->dx)
        sala_pool_run(dev->pool, tasks_of(a->n_rows, SALA_ROW_TASK), clear_task, &job);
    sala_device_pack(dev, &a->head, 1, SALA_PRODUCT_OUT);
    if (a->dx)
        sala_device_pack(dev, &a->head, 1, SALA_PRODUCT_BACK);
    job.x = (sala_num *)(void *)(dev->shared + at.x);
    job.dx = (sala_num *)(void *)(dev->shared + at.dx);
    job.z = (sala_num *)(void *)(dev->shared + at.z);
    job.lse = (double *)(void *)(dev->shared + at.lse);
    job.at_label = (double *)(void *)(dev->shared + at.at_label);
    job.hit = (bool *)(void *)(dev->shared + at.hit);
    for (int64_t i = 0; i < a->n_supervised; i += CHUNK) {
        job.rows = rows + i;
        job.n = sala_min_i64(CHUNK, a->n_supervised - i);
        run_chunk(&job, &at);
    }
}
