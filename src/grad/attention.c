/* Softmax attention over the rows of a batch where they lie: tiles of 64 queries by 64 keys of one head, forward and
 * backward. Nothing of the size of the scores is kept; the backward pass makes them again from the log-sums.
 *
 * Forward, a task owns 512 rows of one head. Backward, a task owns a span of rows of one key head with all its query
 * heads: keys are the rows and queries the lanes of its tiles, so that no tile but one is transposed, and it adds up
 * its own dk and dv, which are summed in the order of the spans if there are several. Inside a span keys go by in
 * stretches whose gradients stay in a second-level cache. All is cut by shape alone.
 *
 * A row i sees the keys [0, i] of its own sequence, of these the last `window` if there is one. Sequences begin at
 * position 0: what was before them would have to lie somewhere else. */
#include "grad/attention_impl.h"

#include <assert.h>
#include <math.h>

enum {
    QUERY_TILES = 8,            /* of a forward task */
    STRETCH_BYTES = 512 * 1024, /* keys, values and their gradients */
};

int64_t sala_window_tile(int64_t tile, int64_t window)
{
    const int64_t first = window > 0 ? tile * TILE - window + 1 : 0;
    return first > 0 ? first / TILE : 0;
}

/* Keys of the tile at j0 that the queries from i0 on see: visible, and `first` where a window begins. NULL if no window
 * does. */
static const int32_t *see(int32_t *visible, int32_t *first, int64_t i0, int64_t j0, int m, int n, int64_t window)
{
    bool begins = false;
    for (int i = 0; i < m; i++) {
        const int64_t end = i0 + i + 1 - j0, begin = window > 0 ? end - window : 0;
        visible[i] = (int32_t)(end < 0 ? 0 : end > n ? n : end);
        first[i] = (int32_t)(begin < 0 ? 0 : begin > n ? n : begin);
        begins |= begin > 0;
    }
    return begins ? first : NULL;
}

/* ---- forward ---- */

typedef struct forward_space {
    sala_num *kt, *v, *s, *q, *acc, *top, *sum, *keep; /* q, acc, top, sum of all tiles */
    int32_t *visible, *first;
    uint16_t *kt_pairs, *v_pairs, *q_rows, *p_rows;
} forward_space;

static size_t forward_layout(forward_space *w, uint8_t *base, int e, sala_precision p)
{
    sala_carve c = {base, 0};
    const int64_t tile = (int64_t)TILE * sala_even(e);
    *w = (forward_space){
        .kt = sala_carve_nums(&c, tile),
        .v = sala_carve_nums(&c, tile),
        .s = sala_carve_nums(&c, TILE * TILE),
        .q = sala_carve_nums(&c, QUERY_TILES * tile),
        .acc = sala_carve_nums(&c, QUERY_TILES * tile),
        .top = sala_carve_nums(&c, QUERY_TILES * TILE),
        .sum = sala_carve_nums(&c, QUERY_TILES * TILE),
        .keep = sala_carve_nums(&c, TILE),
        .visible = sala_carve_take(&c, TILE * sizeof(int32_t)),
        .first = sala_carve_take(&c, TILE * sizeof(int32_t)),
        .kt_pairs = sala_carve_bf16(&c, p, tile),
        .v_pairs = sala_carve_bf16(&c, p, tile),
        .q_rows = sala_carve_bf16(&c, p, QUERY_TILES * tile),
        .p_rows = sala_carve_bf16(&c, p, tile > TILE * TILE ? tile : TILE * TILE), /* and keys on their way */
    };
    return c.used;
}

typedef struct forward_job {
    const sala_device *dev;
    const sala_attn_args *a;
} forward_job;

/* Rows of one head and one sequence. */
typedef struct forward_task {
    const sala_attn_seq *seq;
    int head;
    int64_t row0;
    int n_rows;
} forward_task;

static int64_t tasks_of(const sala_attn_seq *seq)
{
    return (seq->n_rows + QUERY_TILES * TILE - 1) / (QUERY_TILES * TILE);
}

/* The long ones of a sequence first. */
static forward_task find_forward(const sala_attn_args *a, int64_t task)
{
    const int head = (int)(task % a->n_heads);
    int64_t at = task / a->n_heads;
    const sala_attn_seq *seq = a->seqs;
    while (sala_attention_selects(a, seq) || at >= tasks_of(seq)) {
        at -= sala_attention_selects(a, seq) ? 0 : tasks_of(seq);
        seq++;
    }
    const int64_t row0 = (tasks_of(seq) - 1 - at) * QUERY_TILES * TILE;
    return (forward_task){seq, head, row0, (int)sala_min_i64(QUERY_TILES * TILE, seq->n_rows - row0)};
}

/* One tile of keys for one tile of queries, number `at` of the task. */
static void forward_tile(const forward_job *job, const forward_space *w, int at, int m, int n, int64_t i0, int64_t j0)
{
    const sala_train_kernels *k = &job->dev->k;
    const int e = job->a->kv.head_dim, even = sala_even(e);
    const int64_t tile = (int64_t)TILE * even;
    const bool half = job->dev->precision == SALA_PRECISION_BF16;
    const int32_t *first = see(w->visible, w->first, i0, j0, m, n, job->a->window);
    sala_num *acc = w->acc + at * tile;
    if (half)
        k->mma_bf16(w->s, TILE, w->q_rows + at * tile, even, w->kt_pairs, TILE, m, n, even, false);
    else
        k->mma(w->s, TILE, w->q + at * tile, e, 1, w->kt, TILE, m, n, e, false);
    k->softmax_tile(w->s, TILE, m, n, first, w->visible, w->top + at * TILE, w->sum + at * TILE, w->keep);
    k->scale_rows(acc, e, w->keep, m, e);
    if (half) {
        k->round_rows(w->p_rows, TILE, w->s, TILE, m, n);
        k->mma_bf16(acc, e, w->p_rows, TILE, w->v_pairs, e, m, e, sala_even(n), true);
    } else {
        k->mma(acc, e, w->s, TILE, 1, w->v, e, m, e, n, true);
    }
}

static void forward_run(void *user, int task, int worker)
{
    const forward_job *job = user;
    const sala_attn_args *a = job->a;
    const sala_train_kernels *k = &job->dev->k;
    const int e = a->kv.head_dim, even = sala_even(e);
    const bool half = job->dev->precision == SALA_PRECISION_BF16;
    const int64_t tile = (int64_t)TILE * even;
    const forward_task t = find_forward(a, task);
    const int kv_head = t.head / (a->n_heads / a->kv.n_kv_heads);
    const int64_t at = t.seq->first_row + t.row0;
    forward_space w;
    forward_layout(&w, sala_device_worker(job->dev, worker), e, job->dev->precision);

    const int n_tiles = (int)sala_tiles(t.n_rows);
    for (int i = 0; i < n_tiles; i++) {
        const int m = (int)sala_min_i64(TILE, t.n_rows - i * TILE);
        const sala_act *q = a->q + (at + i * TILE) * a->q_stride + (int64_t)t.head * e;
        k->copy_rows(w.q + i * tile, e, q, a->q_stride, m, e, NULL, a->scale);
        if (half)
            k->round_rows(w.q_rows + i * tile, even, w.q + i * tile, e, m, e);
        memset(w.acc + i * tile, 0, (size_t)(m * e) * sizeof *w.acc);
    }
    for (int i = 0; i < t.n_rows; i++) {
        w.top[i] = -INFINITY;
        w.sum[i] = 0;
    }
    const int64_t tile0 = t.row0 / TILE;
    for (int64_t j = sala_window_tile(tile0, a->window); j < tile0 + n_tiles; j++) {
        const int n = (int)sala_min_i64(TILE, t.seq->n_rows - j * TILE);
        const int64_t from = (t.seq->first_row + j * TILE) * a->kv_stride + (int64_t)kv_head * e;
        if (half) {
            k->round_rows(w.p_rows, even, a->k + from, a->kv_stride, n, e);
            k->transpose_pairs(w.kt_pairs, TILE, w.p_rows, even / 2, n, even / 2);
            k->round_pairs(w.v_pairs, e, a->v + from, a->kv_stride, n, e);
        } else {
            k->transpose(w.kt, TILE, a->k + from, a->kv_stride, n, e);
            k->copy_rows(w.v, e, a->v + from, a->kv_stride, n, e, NULL, 1);
        }
        if (j + 1 < tile0 + n_tiles) {
            const int next = (int)sala_min_i64(TILE, t.seq->n_rows - (j + 1) * TILE);
            sala_rows_soon(a->k + from + TILE * a->kv_stride, a->kv_stride, next, e);
            sala_rows_soon(a->v + from + TILE * a->kv_stride, a->kv_stride, next, e);
        }
        for (int i = 0; i < n_tiles; i++)
            if (j <= tile0 + i && j >= sala_window_tile(tile0 + i, a->window))
                forward_tile(job, &w, i, (int)sala_min_i64(TILE, t.n_rows - i * TILE), n, (tile0 + i) * TILE, j * TILE);
    }
    for (int i = 0; i < t.n_rows; i++) {
        if (a->lse)
            a->lse[t.head * a->n_rows + at + i] = (sala_num)((double)w.top[i] + log((double)w.sum[i]));
        w.sum[i] = 1 / w.sum[i];
    }
    for (int i = 0; i < n_tiles; i++)
        k->copy_rows(a->out + (at + i * TILE) * a->out_stride + (int64_t)t.head * e, a->out_stride, w.acc + i * tile, e,
                     (int)sala_min_i64(TILE, t.n_rows - i * TILE), e, w.sum + i * TILE, 1);
}

void sala_device_attention(sala_backend *be, const sala_attn_args *a)
{
    const sala_device *dev = sala_device_of(be);
    forward_job job = {dev, a};
    int64_t n_tasks = 0;
    bool selects = false;
    for (int s = 0; s < a->n_seqs; s++) {
        assert(a->seqs[s].position == 0);
        selects |= sala_attention_selects(a, &a->seqs[s]);
        n_tasks += sala_attention_selects(a, &a->seqs[s]) ? 0 : tasks_of(&a->seqs[s]);
    }
    if (n_tasks)
        sala_pool_run(dev->pool, (int)(n_tasks * a->n_heads), forward_run, &job);
    if (selects)
        sala_device_attention_sparse(be, a);
}

/* ---- spans ---- */

int64_t sala_span_begin(int64_t n_tiles, int k, int s, bool sparse)
{
    if (sparse || k == s)
        return n_tiles * k / s;
    return (int64_t)((double)n_tiles * sqrt((double)k / (double)s));
}

uint64_t sala_span_bytes(const sala_backend_limits *l, int n_workers)
{
    /* One sequence has the most of it. Up to s sequences with several spans have ends of tiles of their own. */
    const int s = sala_span_count(l->n_kv_heads, n_workers);
    if (s == 1)
        return 0;
    uint64_t rows = 0;
    for (int k = 1; k <= s; k++)
        rows += (uint64_t)((sala_span_begin(sala_tiles(l->rows), k, s, false) + 1 + s) * TILE);
    return sala_align64(rows * (uint64_t)l->n_kv_heads * 2 * (uint64_t)l->head_dim * sizeof(sala_num));
}

sala_spans sala_spans_of(const sala_device *dev, const sala_attn_back_args *b, bool sparse)
{
    sala_spans s = {.dev = dev, .b = b, .sparse = sparse, .window = sparse ? 0 : b->fwd.window};
    int64_t n = 0;
    for (int i = 0; i < b->fwd.n_seqs; i++)
        n += sala_attention_selects(&b->fwd, &b->fwd.seqs[i]) == sparse ? b->fwd.kv.n_kv_heads : 0;
    s.n_spans = n ? sala_span_count(n, dev->n_workers) : 1;
    s.n_tasks = n * s.n_spans;
    return s;
}

/* Rows of keys that span k has gradients for, from the first one of the sequence. */
static int64_t span_keys(const sala_spans *s, const sala_attn_seq *seq, int k)
{
    return sala_min_i64(seq->n_rows, sala_span_begin(sala_tiles(seq->n_rows), k + 1, s->n_spans, s->sparse) * TILE);
}

/* The gradients of one sequence, head by head and span by span, keys before values. */
static int64_t span_nums(const sala_spans *s, const sala_attn_seq *seq)
{
    int64_t keys = 0;
    for (int k = 0; k < s->n_spans; k++)
        keys += span_keys(s, seq, k);
    return 2 * keys * s->b->fwd.kv.head_dim;
}

static sala_span span_of(const sala_spans *s, const sala_attn_seq *seq, sala_num *place, int kv_head, int index)
{
    const int64_t n_tiles = sala_tiles(seq->n_rows);
    sala_span t = {.seq = seq, .kv_head = kv_head, .index = index};
    t.tile0 = sala_span_begin(n_tiles, index, s->n_spans, s->sparse);
    t.tile1 = sala_span_begin(n_tiles, index + 1, s->n_spans, s->sparse);
    t.key_tile0 = sala_window_tile(t.tile0, s->window);
    if (s->n_spans == 1)
        return t;
    const int64_t e = s->b->fwd.kv.head_dim;
    t.dk = place + kv_head * span_nums(s, seq);
    for (int k = 0; k < index; k++)
        t.dk += 2 * span_keys(s, seq, k) * e;
    t.dv = t.dk + span_keys(s, seq, index) * e;
    return t;
}

sala_span sala_span_find(const sala_spans *s, int64_t task)
{
    const sala_attn_args *a = &s->b->fwd;
    const int64_t per_seq = (int64_t)a->kv.n_kv_heads * s->n_spans;
    sala_num *place = (sala_num *)(void *)s->dev->shared;
    const sala_attn_seq *seq = a->seqs;
    for (;; seq++) {
        if (sala_attention_selects(a, seq) != s->sparse)
            continue;
        if (task < per_seq)
            break;
        task -= per_seq;
        place += a->kv.n_kv_heads * span_nums(s, seq);
    }
    return span_of(s, seq, place, (int)(task / s->n_spans), (int)(task % s->n_spans));
}

/* One tile of rows of one sequence. */
static void add_up_run(void *user, int task, int worker)
{
    (void)worker;
    const sala_spans *s = user;
    const sala_attn_args *a = &s->b->fwd;
    const int64_t e = a->kv.head_dim, stride = s->b->kv_stride;
    int64_t tile = task, before = 0;
    const sala_attn_seq *seq = a->seqs;
    for (;; seq++) {
        if (sala_attention_selects(a, seq) != s->sparse)
            continue;
        if (tile < sala_tiles(seq->n_rows))
            break;
        tile -= sala_tiles(seq->n_rows);
        before += (int64_t)a->kv.n_kv_heads * s->n_spans;
    }
    const int64_t row0 = tile * TILE, n = sala_min_i64(TILE, seq->n_rows - row0);
    for (int h = 0; h < a->kv.n_kv_heads; h++) {
        bool first = true;
        for (int k = 0; k < s->n_spans; k++) {
            const sala_span t = sala_span_find(s, before + (int64_t)h * s->n_spans + k);
            if (t.tile0 == t.tile1 || tile < t.key_tile0 || tile >= t.tile1)
                continue;
            for (int64_t i = row0; i < row0 + n; i++) {
                sala_act *dk = s->b->dk + (seq->first_row + i) * stride + h * e;
                sala_act *dv = s->b->dv + (seq->first_row + i) * stride + h * e;
                for (int64_t c = 0; c < e; c++) {
                    dk[c] = first ? t.dk[i * e + c] : dk[c] + t.dk[i * e + c];
                    dv[c] = first ? t.dv[i * e + c] : dv[c] + t.dv[i * e + c];
                }
            }
            first = false;
        }
    }
}

void sala_spans_add_up(const sala_spans *s)
{
    const sala_attn_args *a = &s->b->fwd;
    int64_t n = 0;
    for (int i = 0; i < a->n_seqs; i++)
        n += sala_attention_selects(a, &a->seqs[i]) == s->sparse ? sala_tiles(a->seqs[i].n_rows) : 0;
    if (s->n_spans > 1)
        sala_pool_run(s->dev->pool, (int)n, add_up_run, (void *)(uintptr_t)s);
}

/* ---- backward ---- */

void sala_back_layout(sala_back_space *w, sala_carve *c, int head_dim, sala_precision p, int stretch)
{
    const int64_t tile = (int64_t)TILE * sala_even(head_dim), tiles = stretch * tile;
    const bool half = p == SALA_PRECISION_BF16;
    *w = (sala_back_space){
        .k = sala_carve_nums(c, half ? 0 : tiles),
        .v = sala_carve_nums(c, half ? 0 : tiles),
        .dk = sala_carve_nums(c, tiles),
        .dv = sala_carve_nums(c, tiles),
        .q = sala_carve_nums(c, tile),
        .d_out = sala_carve_nums(c, tile),
        .lse = sala_carve_nums(c, TILE),
        .delta = sala_carve_nums(c, TILE),
        .qt = sala_carve_nums(c, half ? 0 : tile),
        .d_out_t = sala_carve_nums(c, half ? 0 : tile),
        .dq = sala_carve_nums(c, tile),
        .st = sala_carve_nums(c, TILE * TILE),
        .dpt = sala_carve_nums(c, TILE * TILE),
        .visible = sala_carve_take(c, TILE * sizeof(int32_t)),
        .first = sala_carve_take(c, TILE * sizeof(int32_t)),
        .k_rows = sala_carve_bf16(c, p, tiles),
        .v_rows = sala_carve_bf16(c, p, tiles),
        .k_pairs = sala_carve_bf16(c, p, tiles),
        .qt_pairs = sala_carve_bf16(c, p, tile),
        .d_out_t_pairs = sala_carve_bf16(c, p, tile),
        .q_pairs = sala_carve_bf16(c, p, tile),
        .d_out_pairs = sala_carve_bf16(c, p, tile),
        .p_rows = sala_carve_bf16(c, p, TILE * TILE),
        .ds_rows = sala_carve_bf16(c, p, TILE * TILE),
        .rows = sala_carve_bf16(c, p, tile),
    };
}

void sala_back_keys(const sala_back_shape *s, const sala_back_space *w, int at, const sala_num *k, const sala_num *v,
                    int64_t stride, int n)
{
    const int e = s->head_dim, even = sala_even(e);
    const int64_t place = (int64_t)at * TILE * even;
    if (s->half) {
        s->k->round_rows(w->k_rows + place, even, k, stride, n, e);
        s->k->round_rows(w->v_rows + place, even, v, stride, n, e);
        s->k->round_pairs(w->k_pairs + place, e, k, stride, n, e);
    } else {
        s->k->copy_rows(w->k + place, e, k, stride, n, e, NULL, 1);
        s->k->copy_rows(w->v + place, e, v, stride, n, e, NULL, 1);
    }
}

void sala_back_queries(const sala_back_shape *s, const sala_back_space *w, int m)
{
    const sala_train_kernels *k = s->k;
    const int e = s->head_dim;
    /* Scores are of scaled queries, gradients of keys of unscaled ones. */
    k->copy_rows(w->dq, e, w->q, e, m, e, NULL, s->scale);
    if (!s->half) {
        k->transpose(w->qt, TILE, w->dq, e, m, e);
        k->transpose(w->d_out_t, TILE, w->d_out, e, m, e);
        return;
    }
    const int even = sala_even(e);
    k->round_rows(w->rows, even, w->dq, e, m, e);
    k->transpose_pairs(w->qt_pairs, TILE, w->rows, even / 2, m, even / 2);
    k->round_rows(w->rows, even, w->d_out, e, m, e);
    k->transpose_pairs(w->d_out_t_pairs, TILE, w->rows, even / 2, m, even / 2);
    k->round_pairs(w->q_pairs, e, w->q, e, m, e);
    k->round_pairs(w->d_out_pairs, e, w->d_out, e, m, e);
}

void sala_back_tile(const sala_back_shape *s, const sala_back_space *w, sala_num *dk, sala_num *dv, int at, int n,
                    int m, const int32_t *first)
{
    const sala_train_kernels *k = s->k;
    const int e = s->head_dim, even = sala_even(e);
    const int64_t place = (int64_t)at * TILE * even;
    if (!s->half) {
        const sala_num *keys = w->k + place, *values = w->v + place;
        k->mma(w->st, TILE, keys, e, 1, w->qt, TILE, n, m, e, false);
        k->mma(w->dpt, TILE, values, e, 1, w->d_out_t, TILE, n, m, e, false);
        k->softmax_back_tile(w->st, w->dpt, TILE, n, m, first, w->visible, w->lse, w->delta, s->scale);
        k->mma(dv, e, w->st, TILE, 1, w->d_out, e, n, e, m, true);
        k->mma(dk, e, w->dpt, TILE, 1, w->q, e, n, e, m, true);
        k->mma(w->dq, e, w->dpt, 1, TILE, keys, e, m, e, n, true);
        return;
    }
    k->mma_bf16(w->st, TILE, w->k_rows + place, even, w->qt_pairs, TILE, n, m, even, false);
    k->mma_bf16(w->dpt, TILE, w->v_rows + place, even, w->d_out_t_pairs, TILE, n, m, even, false);
    k->softmax_back_tile(w->st, w->dpt, TILE, n, m, first, w->visible, w->lse, w->delta, s->scale);
    k->round_rows(w->p_rows, TILE, w->st, TILE, n, m);
    k->round_rows(w->ds_rows, TILE, w->dpt, TILE, n, m);
    k->mma_bf16(dv, e, w->p_rows, TILE, w->d_out_pairs, e, n, e, sala_even(m), true);
    k->mma_bf16(dk, e, w->ds_rows, TILE, w->q_pairs, e, n, e, sala_even(m), true);
    k->round_pairs(w->p_rows, TILE, w->dpt, TILE, n, m);
    k->transpose_pairs(w->ds_rows, TILE / 2, w->p_rows, TILE, sala_even(n) / 2, m);
    k->mma_bf16(w->dq, e, w->ds_rows, TILE, w->k_pairs + place, e, m, e, sala_even(n), true);
}

/* Tiles of keys whose gradients a task holds at a time. */
static int stretch_tiles(int e)
{
    const int n = STRETCH_BYTES / (4 * TILE * e * (int)sizeof(float));
    return n > 1 ? n : 1;
}

/* A tile of queries of one head, as it is wanted for all keys. */
static void load_queries(const sala_spans *job, const sala_back_shape *s, const sala_back_space *w, const sala_span *t,
                         int head, int64_t tile, int m)
{
    const sala_attn_args *a = &job->b->fwd;
    const int e = s->head_dim;
    const int64_t row = t->seq->first_row + tile * TILE, at = row * a->out_stride + (int64_t)head * e;
    const sala_act *d_out = job->b->d_out + at, *out = a->out + at;
    for (int i = 0; i < m; i++) {
        w->lse[i] = job->b->lse[head * a->n_rows + row + i];
        w->delta[i] = s->k->dot(d_out + i * a->out_stride, out + i * a->out_stride, e);
    }
    s->k->copy_rows(w->q, e, a->q + row * a->q_stride + (int64_t)head * e, a->q_stride, m, e, NULL, 1);
    s->k->copy_rows(w->d_out, e, d_out, a->out_stride, m, e, NULL, 1);
    sala_back_queries(s, w, m);
}

/* All queries of the span against the keys of tiles [key0, key1); dk and dv begin at key0. */
static void back_stretch(const sala_spans *job, const sala_back_shape *s, const sala_back_space *w, const sala_span *t,
                         sala_num *dk, sala_num *dv, int64_t key0, int64_t key1)
{
    const sala_attn_back_args *b = job->b;
    const sala_attn_args *a = &b->fwd;
    const int e = s->head_dim, group = a->n_heads / a->kv.n_kv_heads;
    for (int64_t j = key0; j < key1; j++) {
        const int64_t from = (t->seq->first_row + j * TILE) * b->kv_stride + (int64_t)t->kv_head * e;
        const int n = (int)sala_min_i64(TILE, t->seq->n_rows - j * TILE);
        sala_back_keys(s, w, (int)(j - key0), b->k + from, b->v + from, b->kv_stride, n);
    }
    for (int64_t i = t->tile0 > key0 ? t->tile0 : key0; i < t->tile1; i++) {
        const int64_t seen = sala_window_tile(i, job->window), from = seen > key0 ? seen : key0;
        const int64_t to = i + 1 < key1 ? i + 1 : key1;
        const int m = (int)sala_min_i64(TILE, t->seq->n_rows - i * TILE);
        for (int g = 0; g < group && from < to; g++) {
            const int head = t->kv_head * group + g;
            sala_act *dq = b->dq + (t->seq->first_row + i * TILE) * a->q_stride + (int64_t)head * e;
            load_queries(job, s, w, t, head, i, m);
            if (from == seen) /* nothing is there yet */
                memset(w->dq, 0, (size_t)(m * e) * sizeof *w->dq);
            else
                s->k->copy_rows(w->dq, e, dq, a->q_stride, m, e, NULL, 1);
            for (int64_t j = from; j < to; j++) {
                const int n = (int)sala_min_i64(TILE, t->seq->n_rows - j * TILE);
                const int64_t place = (j - key0) * TILE * e;
                const int32_t *first = see(w->visible, w->first, i * TILE, j * TILE, m, n, job->window);
                sala_back_tile(s, w, dk + place, dv + place, (int)(j - key0), n, m, first);
            }
            s->k->copy_rows(dq, a->q_stride, w->dq, e, m, e, NULL, 1);
        }
    }
}

static void back_run(void *user, int task, int worker)
{
    const sala_spans *job = user;
    const sala_device *dev = job->dev;
    const sala_attn_back_args *b = job->b;
    const int e = b->fwd.kv.head_dim;
    const sala_back_shape shape = {&dev->k, dev->precision == SALA_PRECISION_BF16, e, b->fwd.scale};
    const sala_span t = sala_span_find(job, task);
    sala_back_space w;
    sala_carve room = {sala_device_worker(dev, worker), 0};
    sala_back_layout(&w, &room, e, dev->precision, stretch_tiles(e));
    for (int64_t key0 = t.key_tile0, key1; key0 < t.tile1 && t.tile0 < t.tile1; key0 = key1) {
        key1 = sala_min_i64(key0 + stretch_tiles(e), t.tile1);
        const int64_t row = key0 * TILE, n = sala_min_i64(key1 * TILE, t.seq->n_rows) - row;
        sala_num *dk = t.dk ? t.dk + row * e : w.dk, *dv = t.dk ? t.dv + row * e : w.dv;
        memset(dk, 0, (size_t)(n * e) * sizeof *dk);
        memset(dv, 0, (size_t)(n * e) * sizeof *dv);
        back_stretch(job, &shape, &w, &t, dk, dv, key0, key1);
        if (!t.dk) {
            const int64_t to = (t.seq->first_row + row) * b->kv_stride + (int64_t)t.kv_head * e;
            dev->k.copy_rows(b->dk + to, b->kv_stride, dk, e, (int)n, e, NULL, 1);
            dev->k.copy_rows(b->dv + to, b->kv_stride, dv, e, (int)n, e, NULL, 1);
        }
    }
}

void sala_device_attention_back(sala_backend *be, const sala_attn_back_args *b)
{
    const sala_device *dev = sala_device_of(be);
    sala_spans job = sala_spans_of(dev, b, false);
    bool selects = false;
    for (int s = 0; s < b->fwd.n_seqs; s++)
        selects |= sala_attention_selects(&b->fwd, &b->fwd.seqs[s]);
    if (job.n_tasks) {
        sala_pool_run(dev->pool, (int)job.n_tasks, back_run, &job);
        sala_spans_add_up(&job);
    }
    if (selects)
        sala_device_attention_sparse_back(be, b);
}

/* ---- memory ---- */

size_t sala_attention_worker_bytes(const sala_backend_limits *l, sala_precision p)
{
    if (!l->n_heads)
        return 0;
    forward_space f;
    sala_back_space b;
    sala_carve back = {0};
    const size_t forward = forward_layout(&f, NULL, l->head_dim, p);
    sala_back_layout(&b, &back, l->head_dim, p, stretch_tiles(l->head_dim));
    return forward > back.used ? forward : back.used;
}

uint64_t sala_attention_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers)
{
    (void)p; /* gradients are f32 in both */
    return l->n_heads ? sala_span_bytes(l, n_workers) : 0;
}
