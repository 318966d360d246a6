/* Weights of the training device and the products with them.
 *
 * A weight is a range of the parameter arena, its gradient the same range of the other arena. In bf16 runs it has two
 * packs more, for y = x W^T and for dx = dy W, made again when they are first used after the values have changed. Packs
 * are cut into the tiles that tasks take, since the library's layouts cannot be cut later.
 *
 * Tiles follow from shapes alone: OUT and BACK ROW_TILE rows of tokens by up to COL_TILE columns, GRAD up to GRAD_TILE
 * rows of the weight by all columns, the sum over all rows of the call in one piece. In bf16 runs a call goes through
 * in slabs of SLAB rows, which bounds the copies of operands. */
#include "grad/device_impl.h"

#include <assert.h>
#include <stdlib.h>

enum { ROW_TILE = 256, COL_TILE = 2048, GRAD_TILE = 256, SLAB = 2048 };

struct sala_weight {
    sala_device *dev;
    int64_t rows, cols;
    const sala_num *values;
    sala_num *grad; /* NULL on a device without gradients */
    uint8_t *packs; /* tiles of OUT, then of BACK; NULL in f32 runs */
    size_t packs_bytes, tile_bytes[2];
    uint8_t *first[2]; /* by kind */
    bool stale[2];
};

static int64_t n_tiles(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile;
}

/* Rows of W that a task of GRAD takes: about equal shares, whole registers of them. */
static int64_t grad_tile(int64_t rows)
{
    const int64_t even = n_tiles(rows, n_tiles(rows, GRAD_TILE));
    return (even + 15) / 16 * 16;
}

/* Columns of C of an OUT or BACK product with this weight, and the length of its sums. */
static int64_t n_of(const sala_weight *w, sala_product_kind kind)
{
    return kind == SALA_PRODUCT_OUT ? w->rows : w->cols;
}

static int64_t k_of(const sala_weight *w, sala_product_kind kind)
{
    return kind == SALA_PRODUCT_OUT ? w->cols : w->rows;
}

/* Elements of a row of a bf16 operand: as dense as can be, since that is what the library has fast code for; even, as
 * rounding wants it. */
static int64_t operand_stride(int64_t cols)
{
    return (cols + 1) / 2 * 2;
}

/* ---- weights ---- */

/* Announces all products with w: what is met later then makes nothing. */
static sala_status prepare(sala_product *g, const sala_weight *w, sala_error *err)
{
    const int64_t ld_rows = operand_stride(w->rows), ld_cols = operand_stride(w->cols);
    sala_status st = SALA_OK;
    for (int kind = SALA_PRODUCT_OUT; kind <= SALA_PRODUCT_BACK; kind++) {
        const int64_t n = n_of(w, kind);
        for (int add = 0; add <= (kind == SALA_PRODUCT_BACK); add++) {
            sala_product_shape s = {.kind = kind,
                                    .m = ROW_TILE,
                                    .n = sala_min_i64(n, COL_TILE),
                                    .k = k_of(w, kind),
                                    .lda = kind == SALA_PRODUCT_OUT ? ld_cols : ld_rows,
                                    .ldb = w->cols,
                                    .ldc = n,
                                    .add = add != 0};
            if (st == SALA_OK)
                st = sala_product_prepare(g, &s, err);
            s.n = n % COL_TILE;
            if (st == SALA_OK && s.n && n > COL_TILE)
                st = sala_product_prepare(g, &s, err);
        }
    }
    if (!w->grad)
        return st;
    const int64_t tile = grad_tile(w->rows);
    sala_product_shape s = {.kind = SALA_PRODUCT_GRAD,
                            .m = sala_min_i64(tile, w->rows),
                            .n = w->cols,
                            .k = SLAB,
                            .lda = ld_rows,
                            .ldb = ld_cols,
                            .ldc = w->cols,
                            .add = true};
    if (st == SALA_OK)
        st = sala_product_prepare(g, &s, err);
    s.m = w->rows % tile;
    if (st == SALA_OK && s.m && w->rows > tile)
        st = sala_product_prepare(g, &s, err);
    return st;
}

static sala_status get_packs(const sala_product *g, sala_weight *w, sala_error *err)
{
    size_t bytes[2];
    for (int kind = SALA_PRODUCT_OUT; kind <= SALA_PRODUCT_BACK; kind++) {
        const int64_t n = n_of(w, kind);
        w->tile_bytes[kind] = sala_align64(sala_product_pack_bytes(g, kind, sala_min_i64(n, COL_TILE), k_of(w, kind)));
        bytes[kind] = w->tile_bytes[kind] * (size_t)n_tiles(n, COL_TILE);
        w->stale[kind] = true;
    }
    w->packs_bytes = bytes[0] + bytes[1];
    w->packs = sala_os_pages_alloc(w->packs_bytes);
    if (!w->packs)
        return sala_fail_memory(err, w->packs_bytes);
    w->first[SALA_PRODUCT_OUT] = w->packs;
    w->first[SALA_PRODUCT_BACK] = w->packs + bytes[0];
    return SALA_OK;
}

sala_status sala_device_weight_new(sala_backend *be, sala_weight **out, sala_dtype dtype, int64_t rows, int64_t cols,
                                   const void *data, sala_error *err)
{
    sala_device *dev = sala_device_of(be);
    if (dtype != SALA_F32)
        return sala_fail(err, SALA_E_UNSUPPORTED, "weights are trained as F32; this one is %s: widen it first",
                         sala_dtype_name(dtype));
    if (rows <= 0 || cols <= 0)
        return sala_fail(err, SALA_E_INVALID, "a matrix of %lld rows of %lld columns is not possible", (long long)rows,
                         (long long)cols);
    sala_weight *w = calloc(1, sizeof *w);
    if (!w)
        return sala_fail_memory(err, sizeof *w);
    w->dev = dev;
    w->rows = rows;
    w->cols = cols;
    w->values = data;
    w->grad = dev->grads ? dev->grads + (w->values - dev->values) : NULL;
    sala_status st = SALA_OK;
    if (dev->precision == SALA_PRECISION_BF16) {
        st = prepare(dev->product, w, err);
        if (st == SALA_OK)
            st = get_packs(dev->product, w, err);
    }
    if (st != SALA_OK) {
        sala_device_weight_free(be, w);
        return st;
    }
    *out = w;
    return SALA_OK;
}

void sala_device_weight_free(sala_backend *be, sala_weight *w)
{
    (void)be;
    if (!w)
        return;
    sala_os_pages_free(w->packs, w->packs_bytes);
    free(w);
}

uint64_t sala_device_weight_bytes(const sala_weight *w)
{
    return w->packs_bytes;
}

sala_act *sala_weight_grad(const sala_weight *w)
{
    return w->grad;
}

void sala_weight_changed(sala_weight *w)
{
    w->stale[SALA_PRODUCT_OUT] = w->stale[SALA_PRODUCT_BACK] = true;
}

int64_t sala_weight_rows(const sala_weight *w)
{
    return w->rows;
}

int64_t sala_weight_cols(const sala_weight *w)
{
    return w->cols;
}

void sala_device_export_row(sala_backend *be, float *out, const sala_weight *w, int64_t row)
{
    (void)be;
    const sala_num *from = w->values + row * w->cols;
    for (int64_t c = 0; c < w->cols; c++)
        out[c] = (float)from[c];
}

/* ---- operands ---- */

typedef struct round_job {
    sala_device *dev;
    uint16_t *out;
    const sala_num *x;
    int64_t ldx, n_rows, cols, ld;
} round_job;

static void round_task(void *user, int task, int worker)
{
    (void)worker;
    const round_job *job = user;
    const int64_t row0 = (int64_t)task * SALA_ROW_TASK;
    const int64_t n = sala_min_i64(SALA_ROW_TASK, job->n_rows - row0);
    uint16_t *out = job->out + row0 * job->ld;
    job->dev->k.round_rows(out, job->ld, job->x + row0 * job->ldx, job->ldx, (int)n, (int)job->cols);
    if (n < SALA_ROW_TASK) /* tasks are whole pieces of products */
        memset(out + n * job->ld, 0, (size_t)(SALA_ROW_TASK - n) * (size_t)job->ld * sizeof *out);
}

_Static_assert((int)SALA_ROW_TASK == (int)SALA_PRODUCT_ROWS,
               "the task with the last rows writes the zeros behind them");

size_t sala_device_operand_bytes(sala_precision p, int64_t n_rows, int64_t cols)
{
    if (p == SALA_PRECISION_F32)
        return 0;
    return (size_t)(n_tiles(n_rows, SALA_PRODUCT_ROWS) * SALA_PRODUCT_ROWS) * (size_t)operand_stride(cols) *
           sizeof(uint16_t);
}

sala_operand sala_device_operand(sala_device *dev, uint8_t *place, const sala_act *x, int64_t ldx, int64_t n_rows,
                                 int64_t cols)
{
    if (dev->precision == SALA_PRECISION_F32)
        return (sala_operand){x, ldx};
    assert(place + sala_device_operand_bytes(dev->precision, n_rows, cols) <= dev->shared + dev->shared_bytes);
    round_job job = {dev, (uint16_t *)(void *)place, x, ldx, n_rows, cols, operand_stride(cols)};
    sala_pool_run(dev->pool, (int)n_tiles(n_rows, SALA_ROW_TASK), round_task, &job);
    return (sala_operand){place, job.ld};
}

/* ---- packs ---- */

typedef struct pack_job {
    sala_device *dev;
    const sala_weight *const *weights;
    int n;
    sala_product_kind kind;
} pack_job;

static void pack_task(void *user, int task, int worker)
{
    const pack_job *job = user;
    const sala_weight *w = NULL;
    int64_t tile = task;
    for (int i = 0; i < job->n; i++) {
        w = job->weights[i];
        const int64_t tiles = w->stale[job->kind] ? n_tiles(n_of(w, job->kind), COL_TILE) : 0;
        if (tile < tiles)
            break;
        tile -= tiles;
    }
    const int64_t n0 = tile * COL_TILE, n = sala_min_i64(COL_TILE, n_of(w, job->kind) - n0);
    const sala_num *values = w->values + (job->kind == SALA_PRODUCT_OUT ? n0 * w->cols : n0);
    sala_product_pack(job->dev->product, w->first[job->kind] + (size_t)tile * w->tile_bytes[job->kind], job->kind, n,
                      k_of(w, job->kind), values, w->cols, worker);
}

void sala_device_pack(sala_device *dev, const sala_weight *const *weights, int n, sala_product_kind kind)
{
    if (dev->precision == SALA_PRECISION_F32)
        return;
    pack_job job = {dev, weights, n, kind};
    int64_t tasks = 0;
    for (int i = 0; i < n; i++)
        if (weights[i]->stale[kind])
            tasks += n_tiles(n_of(weights[i], kind), COL_TILE);
    if (!tasks)
        return;
    sala_pool_run(dev->pool, (int)tasks, pack_task, &job);
    for (int i = 0; i < n; i++) /* packs are a cache of the values: to the callers the weight has not changed */
        ((sala_weight *)(uintptr_t)weights[i])->stale[kind] = false;
}

/* ---- products ---- */

enum { MOST_PRODUCTS = SALA_DENSE_PARTS + 1 };

typedef struct dense_plan {
    const sala_dense *d;
    int64_t col_tiles, tasks;
    double cost; /* of a task */
} dense_plan;

typedef struct dense_job {
    sala_device *dev;
    dense_plan plans[MOST_PRODUCTS]; /* costly tasks first */
    int n;
    int64_t n_rows;
} dense_job;

static void grad_task(const dense_job *job, const sala_dense *d, int64_t task, int worker)
{
    const sala_weight *w = d->w[0];
    const bool bf16 = job->dev->precision == SALA_PRECISION_BF16;
    const int64_t tile = grad_tile(w->rows), m0 = task * tile;
    const sala_product_shape s = {.kind = SALA_PRODUCT_GRAD,
                                  .m = sala_min_i64(tile, w->rows - m0),
                                  .n = w->cols,
                                  .k = job->n_rows,
                                  .lda = d->a[0].ld,
                                  .ldb = d->x.ld,
                                  .ldc = w->cols,
                                  .add = true};
    const void *a = bf16 ? (const void *)((const uint16_t *)d->a[0].rows + m0)
                         : (const void *)((const sala_num *)d->a[0].rows + m0);
    sala_product_run(job->dev->product, &s, w->grad + m0 * w->cols, a, d->x.rows, worker);
}

static void row_task(const dense_job *job, const dense_plan *plan, int64_t task, int worker)
{
    const sala_dense *d = plan->d;
    const bool bf16 = job->dev->precision == SALA_PRECISION_BF16;
    const int64_t tile = task % plan->col_tiles, m0 = task / plan->col_tiles * ROW_TILE, n0 = tile * COL_TILE;
    sala_num *c = d->c + m0 * d->ldc + n0;
    const int64_t m = sala_min_i64(ROW_TILE, job->n_rows - m0), n = sala_min_i64(COL_TILE, n_of(d->w[0], d->kind) - n0);
    for (int i = 0; i < d->n_parts; i++) {
        const sala_weight *w = d->w[i];
        const sala_product_shape s = {.kind = d->kind,
                                      .m = m,
                                      .n = n,
                                      .k = k_of(w, d->kind),
                                      .lda = d->a[i].ld,
                                      .ldb = w->cols,
                                      .ldc = d->ldc,
                                      .add = d->kind == SALA_PRODUCT_BACK && (d->add || i > 0)};
        const void *a, *b;
        if (bf16) {
            a = (const uint16_t *)d->a[i].rows + m0 * d->a[i].ld;
            b = w->first[d->kind] + (size_t)tile * w->tile_bytes[d->kind];
        } else {
            a = (const sala_num *)d->a[i].rows + m0 * d->a[i].ld;
            b = w->values + (d->kind == SALA_PRODUCT_OUT ? n0 * w->cols : n0);
        }
        sala_product_run(job->dev->product, &s, c, a, b, worker);
    }
    for (int64_t i = 0; d->bias && i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * d->ldc + j] += d->bias[n0 + j];
}

static void dense_task(void *user, int task, int worker)
{
    const dense_job *job = user;
    int64_t left = task;
    const dense_plan *plan = job->plans;
    while (left >= plan->tasks)
        left -= plan++->tasks;
    if (plan->d->kind == SALA_PRODUCT_GRAD)
        grad_task(job, plan->d, left, worker);
    else
        row_task(job, plan, left, worker);
}

void sala_device_products(sala_device *dev, const sala_dense *products, int n, int64_t n_rows)
{
    assert(n <= MOST_PRODUCTS);
    dense_job job = {.dev = dev, .n = n, .n_rows = n_rows};
    int64_t tasks = 0;
    for (int i = 0; i < n; i++) {
        const sala_dense *d = &products[i];
        dense_plan plan = {.d = d, .col_tiles = 1};
        if (d->kind == SALA_PRODUCT_GRAD) {
            const int64_t tile = grad_tile(d->w[0]->rows);
            plan.tasks = n_tiles(d->w[0]->rows, tile);
            plan.cost = (double)tile * (double)d->w[0]->cols * (double)n_rows;
        } else {
            const int64_t cols = n_of(d->w[0], d->kind);
            plan.col_tiles = n_tiles(cols, COL_TILE);
            plan.tasks = plan.col_tiles * n_tiles(n_rows, ROW_TILE);
            for (int p = 0; p < d->n_parts; p++)
                plan.cost += (double)sala_min_i64(cols, COL_TILE) * ROW_TILE * (double)k_of(d->w[p], d->kind);
        }
        tasks += plan.tasks;
        int at = i;
        for (; at > 0 && job.plans[at - 1].cost < plan.cost; at--)
            job.plans[at] = job.plans[at - 1];
        job.plans[at] = plan;
    }
    sala_pool_run(dev->pool, (int)tasks, dense_task, &job);
}

/* ---- operations ---- */

static int64_t slab_rows(const sala_device *dev, int64_t n_rows)
{
    return dev->precision == SALA_PRECISION_BF16 ? sala_min_i64(n_rows, SLAB) : n_rows;
}

uint64_t sala_linear_shared_bytes(const sala_backend_limits *l, sala_precision p)
{
    const uint64_t operands =
        (1 + SALA_DENSE_PARTS) * (uint64_t)sala_device_operand_bytes(p, sala_min_i64(l->rows, SLAB), l->cols);
    const uint64_t ids = ((uint64_t)l->rows + (uint64_t)l->vocab + 1) * sizeof(int32_t);
    return operands > ids ? operands : ids;
}

int64_t sala_linear_widest(const sala_backend_limits *l)
{
    return sala_min_i64(COL_TILE, sala_max_i64(l->cols, l->vocab));
}

void sala_device_linear_group(sala_backend *be, const sala_linear_out *outs, int n_outs, const sala_act *x,
                              int64_t n_rows, int64_t cols)
{
    sala_device *dev = sala_device_of(be);
    assert(n_outs <= SALA_DENSE_PARTS);
    const sala_weight *weights[SALA_DENSE_PARTS];
    for (int i = 0; i < n_outs; i++) {
        weights[i] = outs[i].weight;
        assert(weights[i]->cols == cols);
    }
    sala_device_pack(dev, weights, n_outs, SALA_PRODUCT_OUT);
    for (int64_t row0 = 0; row0 < n_rows;) {
        const int64_t n = slab_rows(dev, n_rows - row0);
        const sala_operand in = sala_device_operand(dev, dev->shared, x + row0 * cols, cols, n, cols);
        sala_dense products[SALA_DENSE_PARTS];
        for (int i = 0; i < n_outs; i++)
            products[i] = (sala_dense){.kind = SALA_PRODUCT_OUT,
                                       .n_parts = 1,
                                       .w = {weights[i]},
                                       .a = {in},
                                       .c = outs[i].out + row0 * outs[i].out_stride,
                                       .ldc = outs[i].out_stride,
                                       .bias = outs[i].bias};
        sala_device_products(dev, products, n_outs, n);
        row0 += n;
    }
}

void sala_device_linear_group_back(sala_backend *be, const sala_linear_back *outs, int n_outs, sala_act *dx,
                                   const sala_act *x, int64_t n_rows, int64_t cols, bool add)
{
    sala_device *dev = sala_device_of(be);
    assert(n_outs <= SALA_DENSE_PARTS);
    const sala_weight *weights[SALA_DENSE_PARTS];
    for (int i = 0; i < n_outs; i++) {
        weights[i] = outs[i].weight;
        assert(weights[i]->cols == cols);
        if (x && outs[i].d_bias)
            sala_device_column_sums(dev, outs[i].d_bias, outs[i].d_out, outs[i].d_stride, n_rows, weights[i]->rows);
    }
    if (dx)
        sala_device_pack(dev, weights, n_outs, SALA_PRODUCT_BACK);
    for (int64_t row0 = 0; row0 < n_rows;) {
        const int64_t n = slab_rows(dev, n_rows - row0);
        uint8_t *place = dev->shared;
        sala_operand in = {0};
        if (x) {
            in = sala_device_operand(dev, place, x + row0 * cols, cols, n, cols);
            place += sala_device_operand_bytes(dev->precision, n, cols);
        }
        sala_dense products[MOST_PRODUCTS];
        sala_dense back = {
            .kind = SALA_PRODUCT_BACK, .n_parts = n_outs, .c = dx ? dx + row0 * cols : NULL, .ldc = cols, .add = add};
        int n_products = 0;
        for (int i = 0; i < n_outs; i++) {
            const sala_operand d = sala_device_operand(dev, place, outs[i].d_out + row0 * outs[i].d_stride,
                                                       outs[i].d_stride, n, weights[i]->rows);
            place += sala_device_operand_bytes(dev->precision, n, weights[i]->rows);
            back.w[i] = weights[i];
            back.a[i] = d;
            if (x && weights[i]->grad)
                products[n_products++] =
                    (sala_dense){.kind = SALA_PRODUCT_GRAD, .n_parts = 1, .w = {weights[i]}, .a = {d}, .x = in};
        }
        if (dx)
            products[n_products++] = back;
        if (n_products)
            sala_device_products(dev, products, n_products, n);
        row0 += n;
    }
}

/* ---- the feed-forward part of bf16 runs ---- */

/* Columns that pass through the first-level cache at a time, between the slots, the activation and the operands. */
enum { FEED_PIECE = 512 };

typedef struct feed_job {
    sala_device *dev;
    const sala_num *gate, *up, *d_mid; /* forward: gate and up; backward: d_mid */
    uint16_t *gate_slot, *up_slot;     /* forward: out, or NULL; backward: in */
    uint16_t *mid, *d_gate, *d_up;     /* operands */
    int64_t n_rows, n_ff, ld;          /* ld: of the operands */
} feed_job;

static void feed_piece(const feed_job *job, int64_t at, int64_t to, int n)
{
    const sala_train_kernels *k = &job->dev->k;
    sala_num mid[FEED_PIECE];
    k->swiglu(mid, job->gate + at, job->up + at, n);
    k->round_rows(job->mid + to, n, mid, n, 1, n);
    if (job->gate_slot) {
        k->round_rows(job->gate_slot + at, n, job->gate + at, n, 1, n);
        k->round_rows(job->up_slot + at, n, job->up + at, n, 1, n);
    }
}

static void feed_piece_back(const feed_job *job, int64_t at, int64_t to, int n)
{
    const sala_train_kernels *k = &job->dev->k;
    sala_num mid[FEED_PIECE], gate[FEED_PIECE], up[FEED_PIECE];
    k->widen(gate, job->gate_slot + at, n);
    k->widen(up, job->up_slot + at, n);
    k->swiglu_back(gate, up, mid, job->d_mid + at, gate, up, n);
    k->round_rows(job->mid + to, n, mid, n, 1, n);
    k->round_rows(job->d_gate + to, n, gate, n, 1, n);
    k->round_rows(job->d_up + to, n, up, n, 1, n);
}

static void feed_task(void *user, int task, int worker)
{
    (void)worker;
    const feed_job *job = user;
    const int64_t row0 = (int64_t)task * SALA_ROW_TASK, end = row0 + SALA_ROW_TASK;
    const int64_t row1 = sala_min_i64(end, job->n_rows);
    for (int64_t i = row0; i < row1; i++)
        for (int64_t c = 0; c < job->n_ff; c += FEED_PIECE)
            (job->d_mid ? feed_piece_back : feed_piece)(job, i * job->n_ff + c, i * job->ld + c,
                                                        (int)sala_min_i64(FEED_PIECE, job->n_ff - c));
    uint16_t *const operands[] = {job->mid, job->d_gate, job->d_up};
    for (size_t o = 0; o < SALA_ARRAY_LEN(operands); o++)
        if (operands[o])
            memset(operands[o] + row1 * job->ld, 0, (size_t)((end - row1) * job->ld) * sizeof(uint16_t));
}

void sala_device_feed_down(sala_backend *be, const sala_linear_out *down, const sala_act *gate, const sala_act *up,
                           void *gate_slot, void *up_slot, int64_t n_rows, int64_t n_ff)
{
    sala_device *dev = sala_device_of(be);
    const sala_weight *w = down->weight;
    assert(dev->precision == SALA_PRECISION_BF16 && n_ff % 2 == 0 && w->cols == n_ff);
    sala_device_pack(dev, &w, 1, SALA_PRODUCT_OUT);
    for (int64_t row0 = 0, n; row0 < n_rows; row0 += n) {
        n = slab_rows(dev, n_rows - row0);
        assert(sala_device_operand_bytes(dev->precision, n, n_ff) <= dev->shared_bytes);
        feed_job job = {.dev = dev,
                        .gate = gate + row0 * n_ff,
                        .up = up + row0 * n_ff,
                        .gate_slot = gate_slot ? (uint16_t *)gate_slot + row0 * n_ff : NULL,
                        .up_slot = up_slot ? (uint16_t *)up_slot + row0 * n_ff : NULL,
                        .mid = (uint16_t *)(void *)dev->shared,
                        .n_rows = n,
                        .n_ff = n_ff,
                        .ld = operand_stride(n_ff)};
        sala_pool_run(dev->pool, (int)n_tiles(n, SALA_ROW_TASK), feed_task, &job);
        const sala_dense product = {.kind = SALA_PRODUCT_OUT,
                                    .n_parts = 1,
                                    .w = {w},
                                    .a = {{job.mid, job.ld}},
                                    .c = down->out + row0 * down->out_stride,
                                    .ldc = down->out_stride,
                                    .bias = down->bias};
        sala_device_products(dev, &product, 1, n);
    }
}

static int add_gradient(sala_dense *products, int n, const sala_weight *w, sala_operand dy, sala_operand x)
{
    if (w->grad)
        products[n++] = (sala_dense){.kind = SALA_PRODUCT_GRAD, .n_parts = 1, .w = {w}, .a = {dy}, .x = x};
    return n;
}

void sala_device_feed_back(sala_backend *be, const sala_feed_back_args *a)
{
    sala_device *dev = sala_device_of(be);
    const sala_linear_back *down = &a->down;
    const sala_weight *const weights[] = {a->gate, a->up, down->weight};
    const int64_t n_embd = a->n_embd, n_ff = a->n_ff;
    assert(dev->precision == SALA_PRECISION_BF16 && n_ff % 2 == 0);
    assert(a->gate->rows == n_ff && a->up->rows == n_ff && down->weight->cols == n_ff);
    if (down->d_bias)
        sala_device_column_sums(dev, down->d_bias, down->d_out, down->d_stride, a->n_rows, n_embd);
    sala_device_pack(dev, weights, 3, SALA_PRODUCT_BACK);
    for (int64_t row0 = 0, n; row0 < a->n_rows; row0 += n) {
        n = slab_rows(dev, a->n_rows - row0);
        const size_t wide = sala_device_operand_bytes(dev->precision, n, n_ff);
        const size_t slim = sala_device_operand_bytes(dev->precision, n, n_embd);
        assert(3 * wide + 2 * slim <= dev->shared_bytes);
        uint8_t *place = dev->shared + 3 * wide;
        const sala_operand dy =
            sala_device_operand(dev, place, down->d_out + row0 * down->d_stride, down->d_stride, n, n_embd);
        const sala_operand x = sala_device_operand(dev, place + slim, a->x + row0 * n_embd, n_embd, n, n_embd);
        sala_num *d_mid = a->d_mid + row0 * n_ff;
        const sala_dense to_mid = {
            .kind = SALA_PRODUCT_BACK, .n_parts = 1, .w = {down->weight}, .a = {dy}, .c = d_mid, .ldc = n_ff};
        sala_device_products(dev, &to_mid, 1, n);
        feed_job job = {.dev = dev,
                        .d_mid = d_mid,
                        .gate_slot = (uint16_t *)(uintptr_t)a->gate_slot + row0 * n_ff, /* only read */
                        .up_slot = (uint16_t *)(uintptr_t)a->up_slot + row0 * n_ff,
                        .mid = (uint16_t *)(void *)dev->shared,
                        .d_gate = (uint16_t *)(void *)(dev->shared + wide),
                        .d_up = (uint16_t *)(void *)(dev->shared + 2 * wide),
                        .n_rows = n,
                        .n_ff = n_ff,
                        .ld = operand_stride(n_ff)};
        sala_pool_run(dev->pool, (int)n_tiles(n, SALA_ROW_TASK), feed_task, &job);
        const sala_operand mid = {job.mid, job.ld}, d_gate = {job.d_gate, job.ld}, d_up = {job.d_up, job.ld};
        sala_dense products[MOST_PRODUCTS] = {{.kind = SALA_PRODUCT_BACK,
                                               .n_parts = 2,
                                               .w = {a->gate, a->up},
                                               .a = {d_gate, d_up},
                                               .c = a->dx + row0 * n_embd,
                                               .ldc = n_embd}};
        int n_products = add_gradient(products, 1, a->gate, d_gate, x);
        n_products = add_gradient(products, n_products, a->up, d_up, x);
        n_products = add_gradient(products, n_products, down->weight, dy, mid);
        sala_device_products(dev, products, n_products, n);
    }
}

/* ---- rows of the embedding ---- */

typedef struct ids_job {
    const sala_weight *w;
    const int32_t *ids, *order; /* back: rows in the order of their ids */
    int64_t n;
    sala_num *out;
    const sala_num *d_out;
    sala_num scale;
} ids_job;

static void get_rows_task(void *user, int task, int worker)
{
    (void)worker;
    const ids_job *job = user;
    const int64_t cols = job->w->cols, row0 = (int64_t)task * SALA_ROW_TASK;
    for (int64_t i = row0; i < sala_min_i64(row0 + SALA_ROW_TASK, job->n); i++) {
        const sala_num *from = job->w->values + job->ids[i] * cols;
        for (int64_t c = 0; c < cols; c++)
            job->out[i * cols + c] = from[c] * job->scale;
    }
}

void sala_device_get_rows(sala_backend *be, sala_act *out, const sala_weight *w, const int32_t *ids, int64_t n,
                          sala_act scale)
{
    ids_job job = {.w = w, .ids = ids, .n = n, .out = out, .scale = scale};
    sala_pool_run(sala_device_of(be)->pool, (int)n_tiles(n, SALA_ROW_TASK), get_rows_task, &job);
}

/* An id belongs to the task in whose range its first row lies. */
static void get_rows_back_task(void *user, int task, int worker)
{
    (void)worker;
    const ids_job *job = user;
    const int64_t cols = job->w->cols, end = sala_min_i64(((int64_t)task + 1) * SALA_ROW_TASK, job->n);
    int64_t i = (int64_t)task * SALA_ROW_TASK;
    while (i > 0 && i < end && job->ids[job->order[i]] == job->ids[job->order[i - 1]])
        i++;
    if (i >= end)
        return;
    for (; i < job->n; i++) {
        const int64_t row = job->order[i];
        if (i >= end && job->ids[row] != job->ids[job->order[i - 1]])
            break;
        sala_num *to = job->w->grad + job->ids[row] * cols;
        for (int64_t c = 0; c < cols; c++)
            to[c] += job->scale * job->d_out[row * cols + c];
    }
}

void sala_device_get_rows_back(sala_backend *be, const sala_weight *w, const int32_t *ids, const sala_act *d_out,
                               int64_t n, sala_act scale)
{
    sala_device *dev = sala_device_of(be);
    if (!w->grad || n == 0)
        return;
    assert((uint64_t)(n + w->rows + 1) * sizeof(int32_t) <= dev->shared_bytes);
    int32_t *order = (int32_t *)(void *)dev->shared, *start = order + n;
    memset(start, 0, (size_t)(w->rows + 1) * sizeof *start);
    for (int64_t i = 0; i < n; i++)
        start[ids[i] + 1]++;
    for (int64_t r = 0; r < w->rows; r++)
        start[r + 1] += start[r];
    for (int64_t i = 0; i < n; i++)
        order[start[ids[i]]++] = (int32_t)i;
    ids_job job = {.w = w, .ids = ids, .order = order, .n = n, .d_out = d_out, .scale = scale};
    sala_pool_run(dev->pool, (int)n_tiles(n, SALA_ROW_TASK), get_rows_back_task, &job);
}
