/* InfLLM-v2 over the rows of a batch: attention to the blocks that rows selected. A tile has up to 64 queries, all
 * heads of a group of the rows that see one block, gathered from a chunk of rows; blocks go by in ascending order, and
 * of a block the rows that see everything come first, then the others in order. The selection is a constant of the
 * backward pass, which reads the same lists.
 *
 * Forward, a task owns a chunk of rows of one key head; backward, a span of chunks, as in attention.c. Rows that see
 * everything stand at no block but belong to all up to their own. */
#include "grad/attention_impl.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { CHUNK = 512 /* rows; their number fits 16 bits */ };

struct sala_sparse_device {
    sala_selector *selector;
    sala_rows_shape rows; /* of the last compress */
    sala_kv_shape kv;
};

uint64_t sala_sparse_device_bytes(const sala_backend_limits *l)
{
    return sala_selector_bytes(l);
}

sala_status sala_sparse_device_open(sala_sparse_device **out, sala_device *dev, const sala_backend_limits *l,
                                    sala_error *err)
{
    sala_sparse_device *s = calloc(1, sizeof *s);
    if (!s)
        return sala_fail_memory(err, sizeof *s);
    const sala_status st = sala_selector_open(&s->selector, dev->kernels, dev->pool, l, err);
    if (st == SALA_OK)
        *out = s;
    else
        free(s);
    return st;
}

void sala_sparse_device_close(sala_sparse_device *s)
{
    if (s)
        sala_selector_close(s->selector);
    free(s);
}

/* Compressed keys are wanted by select() alone, which knows the sequences that do select. */
void sala_device_compress(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                          const sala_rows_shape *rows)
{
    (void)seqs;
    (void)n_seqs;
    sala_device *dev = sala_device_of(be);
    dev->sparse->rows = *rows;
    dev->sparse->kv = *kv;
}

#ifdef SALA_TRAIN_F64
/* Copies of the test library; NULL for memory that is out ends in a crash there. */
static float *as_floats(const sala_num *x, int64_t n)
{
    float *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)x[i];
    return out;
}
#else
static const float *as_floats(const sala_num *x, int64_t n)
{
    (void)n;
    return x;
}
#endif

void sala_device_select(sala_backend *be, const sala_select_args *a)
{
    sala_device *dev = sala_device_of(be);
    sala_sparse_device *s = dev->sparse;
    const sala_selector_args args = {.seqs = a->seqs,
                                     .n_seqs = a->n_seqs,
                                     .n_rows = a->n_rows,
                                     .rows = s->rows,
                                     .n_heads = a->n_heads,
                                     .n_kv_heads = a->n_kv_heads,
                                     .head_dim = a->head_dim,
                                     .scale = (float)a->scale,
                                     .init_blocks = a->init_blocks,
                                     .window_blocks = a->window_blocks,
                                     .q = as_floats(a->q, a->n_rows * a->q_stride),
                                     .k = as_floats(dev->keys, a->n_rows * dev->keys_stride),
                                     .q_stride = a->q_stride,
                                     .k_stride = dev->keys_stride,
                                     .out = a->out};
    sala_selector_run(s->selector, &args);
#ifdef SALA_TRAIN_F64
    free((void *)(uintptr_t)args.q);
    free((void *)(uintptr_t)args.k);
#endif
}

/* ---- which rows of a chunk see a block ---- */

typedef struct chunk {
    const sala_device *dev;
    const sala_attn_args *a;
    const sala_attn_seq *seq;
    int kv_head, group;
    int64_t row0; /* within the sequence */
    int n_rows;
    int64_t n_blocks, most_blocks; /* up to that of the last row; there is room for */
    int32_t *begin;                /* [n_blocks + 1]: rows of block b are rows[begin[b] .. begin[b + 1]) */
    uint16_t *rows;
    uint16_t *all; /* rows that see everything */
    int n_all;
    uint16_t *members; /* of the block at hand */
} chunk;

static int64_t most_blocks(const sala_backend_limits *l)
{
    return l->rows / (l->block_size ? l->block_size : 64) + 2;
}

static void chunk_layout(chunk *c, sala_carve *room, int64_t blocks, int64_t most)
{
    c->most_blocks = blocks;
    c->begin = sala_carve_take(room, (size_t)(blocks + 2) * sizeof *c->begin);
    c->rows = sala_carve_take(room, (size_t)(CHUNK * most) * sizeof *c->rows);
    c->all = sala_carve_take(room, CHUNK * sizeof *c->all);
    c->members = sala_carve_take(room, CHUNK * sizeof *c->members);
}

static const int32_t *list_of(const chunk *c, int r)
{
    const sala_selection *s = c->a->selection;
    return s->list + ((c->seq->first_row + c->row0 + r) * c->a->kv.n_kv_heads + c->kv_head) * (1 + (int64_t)s->most);
}

/* Sorts the rows of a chunk by their blocks, by counting. */
static void chunk_begin(chunk *c, int64_t row0, int n_rows)
{
    c->row0 = row0;
    c->n_rows = n_rows;
    c->n_blocks = (row0 + n_rows - 1) / c->a->selection->block_size + 1;
    c->n_all = 0;
    assert(c->n_blocks <= c->most_blocks);
    memset(c->begin, 0, (size_t)(c->n_blocks + 2) * sizeof *c->begin);
    for (int r = 0; r < n_rows; r++) {
        const int32_t *list = list_of(c, r);
        if (list[0] < 0)
            c->all[c->n_all++] = (uint16_t)r;
        for (int i = 1; i <= list[0]; i++)
            c->begin[list[i] + 2]++;
    }
    for (int64_t b = 2; b <= c->n_blocks; b++)
        c->begin[b] += c->begin[b - 1];
    for (int r = 0; r < n_rows; r++) { /* begin[b + 1] runs to the end of b, which is where b + 1 begins */
        const int32_t *list = list_of(c, r);
        for (int i = 1; i <= list[0]; i++)
            c->rows[c->begin[list[i] + 1]++] = (uint16_t)r;
    }
}

/* Fills c->members; returns their number. */
static int chunk_members(chunk *c, int64_t block)
{
    int n = 0;
    for (int i = 0; i < c->n_all; i++)
        if ((c->row0 + c->all[i]) / c->a->selection->block_size >= block)
            c->members[n++] = c->all[i];
    const int listed = c->begin[block + 1] - c->begin[block];
    memcpy(c->members + n, c->rows + c->begin[block], (size_t)listed * sizeof *c->members);
    return n + listed;
}

/* Of n keys from key j0 on, how many each query of the rows sees; false: nobody sees any. */
static bool see(const chunk *c, const uint16_t *rows, int n_rows, int64_t j0, int n, int32_t *visible)
{
    bool any = false;
    for (int r = 0; r < n_rows; r++) {
        const int64_t end = c->row0 + rows[r] + 1 - j0;
        const int32_t seen = (int32_t)(end < 0 ? 0 : end > n ? n : end);
        any |= seen > 0;
        for (int g = 0; g < c->group; g++)
            visible[r * c->group + g] = seen;
    }
    return any;
}

static int64_t batch_row(const chunk *c, int r)
{
    return c->seq->first_row + c->row0 + r;
}

/* First number of the group's heads of a row in a matrix of all heads. */
static int64_t heads_at(const chunk *c, int r, int64_t stride)
{
    return batch_row(c, r) * stride + (int64_t)c->kv_head * c->group * c->a->kv.head_dim;
}

/* ---- forward ---- */

typedef struct forward_space {
    sala_num *kt, *v, *s, *q, *acc, *keep, *top, *sum; /* top and sum of a tile */
    sala_num *tops, *sums;                             /* [CHUNK][group] */
    int32_t *visible;
    uint16_t *kt_pairs, *v_pairs, *q_rows, *p_rows;
} forward_space;

static void forward_layout(forward_space *w, sala_carve *c, int e, int group, sala_precision p)
{
    const int64_t tile = (int64_t)TILE * sala_even(e);
    *w = (forward_space){
        .kt = sala_carve_nums(c, tile),
        .v = sala_carve_nums(c, tile),
        .s = sala_carve_nums(c, TILE * TILE),
        .q = sala_carve_nums(c, tile),
        .acc = sala_carve_nums(c, tile),
        .keep = sala_carve_nums(c, TILE),
        .top = sala_carve_nums(c, TILE),
        .sum = sala_carve_nums(c, TILE),
        .tops = sala_carve_nums(c, CHUNK * (int64_t)group),
        .sums = sala_carve_nums(c, CHUNK * (int64_t)group),
        .visible = sala_carve_take(c, TILE * sizeof(int32_t)),
        .kt_pairs = sala_carve_bf16(c, p, tile),
        .v_pairs = sala_carve_bf16(c, p, tile),
        .q_rows = sala_carve_bf16(c, p, tile),
        .p_rows = sala_carve_bf16(c, p, tile > TILE * TILE ? tile : TILE * TILE), /* and keys on their way */
    };
}

/* n keys from j0 on for the queries of some rows: their part of the output. */
static void forward_tile(const chunk *c, const forward_space *w, const uint16_t *rows, int n_rows, int64_t j0, int n)
{
    const sala_train_kernels *k = &c->dev->k;
    const sala_attn_args *a = c->a;
    const int e = a->kv.head_dim, even = sala_even(e), group = c->group, m = n_rows * group;
    if (!see(c, rows, n_rows, j0, n, w->visible))
        return;
    for (int r = 0; r < n_rows; r++) {
        k->copy_rows(w->q + (int64_t)r * group * e, e, a->q + heads_at(c, rows[r], a->q_stride), e, group, e, NULL,
                     a->scale);
        memcpy(w->top + r * group, w->tops + rows[r] * group, (size_t)group * sizeof *w->top);
        memcpy(w->sum + r * group, w->sums + rows[r] * group, (size_t)group * sizeof *w->sum);
    }
    const bool half = c->dev->precision == SALA_PRECISION_BF16;
    if (half) {
        k->round_rows(w->q_rows, even, w->q, e, m, e);
        k->mma_bf16(w->s, TILE, w->q_rows, even, w->kt_pairs, TILE, m, n, even, false);
    } else {
        k->mma(w->s, TILE, w->q, e, 1, w->kt, TILE, m, n, e, false);
    }
    k->softmax_tile(w->s, TILE, m, n, NULL, w->visible, w->top, w->sum, w->keep);
    for (int r = 0; r < n_rows; r++)
        k->copy_rows(w->acc + (int64_t)r * group * e, e, a->out + heads_at(c, rows[r], a->out_stride), e, group, e,
                     w->keep + r * group, 1);
    if (half) {
        k->round_rows(w->p_rows, TILE, w->s, TILE, m, n);
        k->mma_bf16(w->acc, e, w->p_rows, TILE, w->v_pairs, e, m, e, sala_even(n), true);
    } else {
        k->mma(w->acc, e, w->s, TILE, 1, w->v, e, m, e, n, true);
    }
    for (int r = 0; r < n_rows; r++) {
        memcpy(a->out + heads_at(c, rows[r], a->out_stride), w->acc + (int64_t)r * group * e,
               (size_t)(group * e) * sizeof *w->acc);
        memcpy(w->tops + rows[r] * group, w->top + r * group, (size_t)group * sizeof *w->top);
        memcpy(w->sums + rows[r] * group, w->sum + r * group, (size_t)group * sizeof *w->sum);
    }
}

static void load_keys(const chunk *c, const forward_space *w, int64_t j0, int n)
{
    const sala_train_kernels *k = &c->dev->k;
    const int e = c->a->kv.head_dim;
    const int64_t stride = c->a->kv_stride, from = (c->seq->first_row + j0) * stride + (int64_t)c->kv_head * e;
    if (c->dev->precision == SALA_PRECISION_BF16) {
        const int even = sala_even(e);
        k->round_rows(w->p_rows, even, c->a->k + from, stride, n, e);
        k->transpose_pairs(w->kt_pairs, TILE, w->p_rows, even / 2, n, even / 2);
        k->round_pairs(w->v_pairs, e, c->a->v + from, stride, n, e);
    } else {
        k->transpose(w->kt, TILE, c->a->k + from, stride, n, e);
        k->copy_rows(w->v, e, c->a->v + from, stride, n, e, NULL, 1);
    }
}

typedef struct forward_job {
    const sala_device *dev;
    const sala_attn_args *a;
} forward_job;

static int64_t chunks_of(const sala_attn_seq *seq)
{
    return (seq->n_rows + CHUNK - 1) / CHUNK;
}

static void forward_run(void *user, int task, int worker)
{
    const forward_job *job = user;
    const sala_attn_args *a = job->a;
    const int e = a->kv.head_dim;
    chunk c = {.dev = job->dev, .a = a, .seq = a->seqs, .group = a->n_heads / a->kv.n_kv_heads};
    c.kv_head = task % a->kv.n_kv_heads;
    int64_t at = task / a->kv.n_kv_heads;
    while (!sala_attention_selects(a, c.seq) || at >= chunks_of(c.seq)) {
        at -= sala_attention_selects(a, c.seq) ? chunks_of(c.seq) : 0;
        c.seq++;
    }
    forward_space w;
    sala_carve room = {sala_device_worker(job->dev, worker), 0};
    forward_layout(&w, &room, e, c.group, job->dev->precision);
    chunk_layout(&c, &room, most_blocks(&job->dev->limits), a->selection->most);
    chunk_begin(&c, at * CHUNK, (int)sala_min_i64(CHUNK, c.seq->n_rows - at * CHUNK));

    for (int r = 0; r < c.n_rows; r++) {
        memset(a->out + heads_at(&c, r, a->out_stride), 0, (size_t)(c.group * e) * sizeof *a->out);
        for (int g = 0; g < c.group; g++) {
            w.tops[r * c.group + g] = -INFINITY;
            w.sums[r * c.group + g] = 0;
        }
    }
    const int64_t size = a->selection->block_size;
    const int step = TILE / c.group;
    for (int64_t b = 0; b < c.n_blocks; b++) {
        const int n_members = chunk_members(&c, b);
        const int64_t end = sala_min_i64((b + 1) * size, c.seq->n_rows);
        for (int64_t j0 = b * size; n_members && j0 < end; j0 += TILE) {
            const int n = (int)sala_min_i64(TILE, end - j0);
            load_keys(&c, &w, j0, n);
            for (int i = 0; i < n_members; i += step)
                forward_tile(&c, &w, c.members + i, n_members - i < step ? n_members - i : step, j0, n);
        }
    }
    for (int r = 0; r < c.n_rows; r++) {
        sala_act *out = a->out + heads_at(&c, r, a->out_stride);
        for (int g = 0; g < c.group; g++) {
            const sala_num top = w.tops[r * c.group + g], sum = w.sums[r * c.group + g], inv = 1 / sum;
            for (int i = 0; i < e; i++)
                out[g * e + i] *= inv;
            if (a->lse)
                a->lse[(c.kv_head * c.group + g) * a->n_rows + batch_row(&c, r)] =
                    (sala_num)((double)top + log((double)sum));
        }
    }
}

void sala_device_attention_sparse(sala_backend *be, const sala_attn_args *a)
{
    const sala_device *dev = sala_device_of(be);
    assert(a->n_heads / a->kv.n_kv_heads <= TILE && a->window == 0);
    forward_job job = {dev, a};
    int64_t n = 0;
    for (int s = 0; s < a->n_seqs; s++)
        n += sala_attention_selects(a, &a->seqs[s]) ? chunks_of(&a->seqs[s]) : 0;
    sala_pool_run(dev->pool, (int)(n * a->kv.n_kv_heads), forward_run, &job);
}

/* ---- backward ---- */

/* Where gradients of keys and values of the task are added up: a span's own memory, or dk and dv themselves. */
typedef struct back_sums {
    sala_num *dk, *dv; /* of the first row of the sequence */
    int64_t stride;
} back_sums;

/* Keys j0 .. j0 + n - 1 are in w as tile 0, their gradients in w->dk, w->dv. delta [CHUNK][group]. */
static void back_rows(const chunk *c, const sala_back_shape *s, const sala_back_space *w, const sala_attn_back_args *b,
                      const sala_num *delta, const uint16_t *rows, int n_rows, int64_t j0, int n)
{
    const sala_attn_args *a = c->a;
    const int e = s->head_dim, group = c->group;
    const size_t bytes = (size_t)(group * e) * sizeof(sala_num);
    if (!see(c, rows, n_rows, j0, n, w->visible))
        return;
    for (int r = 0; r < n_rows; r++) {
        const int64_t at = (int64_t)r * group * e;
        memcpy(w->q + at, a->q + heads_at(c, rows[r], a->q_stride), bytes);
        memcpy(w->d_out + at, b->d_out + heads_at(c, rows[r], a->out_stride), bytes);
        for (int g = 0; g < group; g++) {
            w->lse[r * group + g] = b->lse[(c->kv_head * group + g) * a->n_rows + batch_row(c, rows[r])];
            w->delta[r * group + g] = delta[rows[r] * group + g];
        }
    }
    sala_back_queries(s, w, n_rows * group);
    for (int r = 0; r < n_rows; r++)
        memcpy(w->dq + (int64_t)r * group * e, b->dq + heads_at(c, rows[r], a->q_stride), bytes);
    sala_back_tile(s, w, w->dk, w->dv, 0, n, n_rows * group, NULL);
    for (int r = 0; r < n_rows; r++)
        memcpy(b->dq + heads_at(c, rows[r], a->q_stride), w->dq + (int64_t)r * group * e, bytes);
}

static void add_rows(sala_num *to, int64_t stride, const sala_num *x, int n, int e)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < e; c++)
            to[i * stride + c] += x[(int64_t)i * e + c];
}

static void back_chunk(chunk *c, const sala_back_shape *s, const sala_back_space *w, const sala_attn_back_args *b,
                       sala_num *delta, const back_sums *sums)
{
    const sala_attn_args *a = c->a;
    const int e = s->head_dim, step = TILE / c->group;
    for (int r = 0; r < c->n_rows; r++) {
        memset(b->dq + heads_at(c, r, a->q_stride), 0, (size_t)(c->group * e) * sizeof *b->dq);
        const int64_t at = heads_at(c, r, a->out_stride);
        for (int g = 0; g < c->group; g++)
            delta[r * c->group + g] = s->k->dot(b->d_out + at + g * e, a->out + at + g * e, e);
    }
    const int64_t size = a->selection->block_size;
    for (int64_t block = 0; block < c->n_blocks; block++) {
        const int n_members = chunk_members(c, block);
        /* A large block may end behind the last row of the chunk; what is there nobody sees, and it is another span's.
         */
        const int64_t end = sala_min_i64((block + 1) * size, c->row0 + c->n_rows);
        for (int64_t j0 = block * size; n_members && j0 < end; j0 += TILE) {
            const int n = (int)sala_min_i64(TILE, end - j0);
            const int64_t from = (c->seq->first_row + j0) * b->kv_stride + (int64_t)c->kv_head * e;
            sala_back_keys(s, w, 0, b->k + from, b->v + from, b->kv_stride, n);
            memset(w->dk, 0, (size_t)(n * e) * sizeof *w->dk);
            memset(w->dv, 0, (size_t)(n * e) * sizeof *w->dv);
            for (int i = 0; i < n_members; i += step)
                back_rows(c, s, w, b, delta, c->members + i, n_members - i < step ? n_members - i : step, j0, n);
            add_rows(sums->dk + j0 * sums->stride, sums->stride, w->dk, n, e);
            add_rows(sums->dv + j0 * sums->stride, sums->stride, w->dv, n, e);
        }
    }
}

static void back_run(void *user, int task, int worker)
{
    const sala_spans *job = user;
    const sala_device *dev = job->dev;
    const sala_attn_back_args *b = job->b;
    const sala_attn_args *a = &b->fwd;
    const int e = a->kv.head_dim;
    const sala_back_shape shape = {&dev->k, dev->precision == SALA_PRECISION_BF16, e, a->scale};
    const sala_span t = sala_span_find(job, task);
    chunk c = {.dev = dev, .a = a, .seq = t.seq, .kv_head = t.kv_head, .group = a->n_heads / a->kv.n_kv_heads};
    sala_back_space w;
    sala_carve room = {sala_device_worker(dev, worker), 0};
    sala_back_layout(&w, &room, e, dev->precision, 1);
    chunk_layout(&c, &room, most_blocks(&dev->limits), a->selection->most);
    sala_num *delta = sala_carve_nums(&room, CHUNK * (int64_t)c.group);

    const int64_t end = sala_min_i64(t.tile1 * TILE, t.seq->n_rows);
    const int64_t first = t.seq->first_row * b->kv_stride + (int64_t)t.kv_head * e;
    const back_sums sums = {t.dk ? t.dk : b->dk + first, t.dk ? t.dv : b->dv + first, t.dk ? e : b->kv_stride};
    for (int64_t i = 0; i < end; i++) {
        memset(sums.dk + i * sums.stride, 0, (size_t)e * sizeof *sums.dk);
        memset(sums.dv + i * sums.stride, 0, (size_t)e * sizeof *sums.dv);
    }
    for (int64_t row = t.tile0 * TILE; row < end; row += CHUNK) {
        chunk_begin(&c, row, (int)sala_min_i64(CHUNK, end - row));
        back_chunk(&c, &shape, &w, b, delta, &sums);
    }
}

void sala_device_attention_sparse_back(sala_backend *be, const sala_attn_back_args *b)
{
    const sala_device *dev = sala_device_of(be);
    sala_spans job = sala_spans_of(dev, b, true);
    sala_pool_run(dev->pool, (int)job.n_tasks, back_run, &job);
    sala_spans_add_up(&job);
}

/* ---- memory ---- */

size_t sala_sparse_worker_bytes(const sala_backend_limits *l, sala_precision p)
{
    const int group = l->n_heads / l->n_kv_heads;
    chunk c;
    forward_space f;
    sala_back_space b;
    sala_carve forward = {0}, back = {0};
    forward_layout(&f, &forward, l->head_dim, group, p);
    chunk_layout(&c, &forward, most_blocks(l), l->selected);
    sala_back_layout(&b, &back, l->head_dim, p, 1);
    chunk_layout(&c, &back, most_blocks(l), l->selected);
    sala_carve_nums(&back, CHUNK * (int64_t)group);
    return forward.used > back.used ? forward.used : back.used;
}

uint64_t sala_sparse_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers)
{
    (void)p; /* gradients are f32 in both */
    return sala_span_bytes(l, n_workers);
}
