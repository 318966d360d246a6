/* InfLLM-v2 (arXiv 2509.24663): compressed keys, and stage 1, which selects the blocks that a row attends to.
 *
 * A row's blocks follow from its own position and queries alone: scores come page by page at absolute places, sums of
 * the normaliser are closed every SPLIT_ROWS coarse rows, and maxima and the order of candidates do not depend on how
 * the scan is shared. So prefill and decode, and any chunks, select the same. */
#include "backend/cpu/cpu.h"

#include <math.h>

enum {
    PAGE = SALA_KV_BLOCK,    /* rows in a page */
    SPLIT_ROWS = 1024,       /* coarse rows after which partial sums are merged */
    MOST_TOKENS = 8,         /* rows of the batch that a task scans for */
    RANGE_BLOCKS = 1024,     /* candidates whose scores are held at a time ... */
    SMALL_RANGE_BLOCKS = 256 /* ... when the scan of few rows is shared out */
};

/* ---- keys ---- */

typedef struct keys_job {
    sala_cpu *cpu;
    const sala_attn_seq *seqs;
    const sala_kv_shape *kv;
    const sala_rows_shape *rows;
    const sala_act *k;
    int64_t stride;
    int n_seqs;
} keys_job;

static uint8_t *block_keys(const sala_attn_seq *seq, const sala_kv_shape *kv, int64_t block, int head)
{
    return (uint8_t *)seq->blocks[block] + kv->layer_offset +
           (size_t)head * sala_kv_head_bytes(kv->dtype, kv->head_dim);
}

static void key_store_task(void *user, int task, int worker)
{
    const keys_job *job = user;
    const sala_kv_shape *kv = job->kv;
    const int head = task % kv->n_kv_heads, d = kv->head_dim;
    const sala_attn_seq *seq = &job->seqs[task / kv->n_kv_heads];
    void *values = sala_cpu_worker(job->cpu, worker); /* of no use */
    for (int64_t i = 0; i < seq->n_rows;) {
        const int64_t at = seq->position + i, slot = at % SALA_KV_BLOCK;
        const int64_t n = sala_min_i64(SALA_KV_BLOCK - slot, seq->n_rows - i);
        const sala_act *rows = job->k + (seq->first_row + i) * job->stride + (int64_t)head * d;
        sala_kv_kernels_of(&job->cpu->k, kv->dtype)
            ->store(block_keys(seq, kv, at / SALA_KV_BLOCK, head), values, (int)slot, (int)n, rows, rows, job->stride,
                    d);
        i += n;
    }
}

void sala_cpu_key_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                        const sala_act *k, int64_t stride)
{
    sala_cpu *cpu = sala_cpu_of(be);
    keys_job job = {.cpu = cpu, .seqs = seqs, .kv = kv, .k = k, .stride = stride, .n_seqs = n_seqs};
    sala_pool_run(cpu->pool, n_seqs * kv->n_kv_heads, key_store_task, &job);
}

static int64_t rows_at(const sala_rows_shape *rows, bool coarse, int64_t n_tokens)
{
    const int64_t f = coarse ? rows->coarse : 1, kernel = rows->kernel * f, stride = rows->stride * f;
    return n_tokens < kernel ? 0 : (n_tokens - kernel) / stride + 1;
}

static uint8_t *row_page(void *const *pages, const sala_rows_shape *rows, int head, int d, int64_t page)
{
    return (uint8_t *)pages[page] + rows->layer_offset +
           (size_t)head * (size_t)d * PAGE * (rows->dtype == SALA_F16 ? 2 : 4);
}

/* New rows of one session, one head, one scale. A mean is the sum of the stored keys in order, times 1 / kernel. */
static void compress_task(void *user, int task, int worker)
{
    const keys_job *job = user;
    const sala_kv_shape *kv = job->kv;
    const sala_rows_shape *rows = job->rows;
    const int d = kv->head_dim, head = task / 2 % kv->n_kv_heads;
    const bool coarse = task % 2;
    const sala_attn_seq *seq = &job->seqs[task / 2 / kv->n_kv_heads];
    const int64_t f = coarse ? rows->coarse : 1, kernel = rows->kernel * f, stride = rows->stride * f;
    const int64_t first = rows_at(rows, coarse, seq->position),
                  end = rows_at(rows, coarse, seq->position + seq->n_rows);
    float *keys = sala_cpu_worker(job->cpu, worker), *sum = keys + (size_t)PAGE * (size_t)d;
    int64_t loaded = -1;
    for (int64_t j = first; j < end; j++) {
        memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t t = stride * j; t < stride * j + kernel;) {
            const int64_t block = t / SALA_KV_BLOCK, slot = t % SALA_KV_BLOCK;
            const int64_t n = sala_min_i64(SALA_KV_BLOCK - slot, stride * j + kernel - t);
            if (block != loaded) {
                if (seq->first_use)
                    seq->first_use(seq->user, block);
                sala_kv_kernels_of(&job->cpu->k, kv->dtype)->load_keys(keys, block_keys(seq, kv, block, head), d);
                loaded = block;
            }
            for (int c = 0; c < d; c++)
                for (int64_t i = 0; i < n; i++)
                    sum[c] += keys[c * SALA_KV_BLOCK + slot + i];
            t += n;
        }
        uint8_t *page = row_page(coarse ? seq->coarse : seq->fine, rows, head, d, j / PAGE);
        const float inv = 1.0f / (float)kernel;
        for (int c = 0; c < d; c++) {
            const int64_t at = (int64_t)c * PAGE + j % PAGE;
            if (rows->dtype == SALA_F16)
                ((uint16_t *)(void *)page)[at] = sala_f32_to_f16(sum[c] * inv);
            else
                ((float *)(void *)page)[at] = sum[c] * inv;
        }
    }
}

void sala_cpu_compress(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                       const sala_rows_shape *rows)
{
    sala_cpu *cpu = sala_cpu_of(be);
    keys_job job = {.cpu = cpu, .seqs = seqs, .kv = kv, .rows = rows, .n_seqs = n_seqs};
    bool any = false;
    for (int s = 0; s < n_seqs; s++)
        any |= rows_at(rows, false, seqs[s].position) < rows_at(rows, false, seqs[s].position + seqs[s].n_rows);
    if (any) /* a coarse row ends where a fine one ends */
        sala_pool_run(cpu->pool, n_seqs * kv->n_kv_heads * 2, compress_task, &job);
}

/* ---- stage 1 ---- */

/* The best blocks of a row among those seen so far, in order of place. */
typedef struct best {
    float *scores;
    int32_t *blocks;
    int n, cap;
} best;

typedef struct select_job {
    sala_cpu *cpu;
    const sala_select_args *a;
    int group, tokens_per_tile;
    int64_t n_tiles; /* of rows; times n_kv_heads */
    sala_rows_lse_fn *lse;
    sala_rows_mass_fn *mass;
    bool by_page; /* the shape is the one that sala_rows_pool_fn is for */
    /* the scan of few rows, shared out */
    int64_t n_splits, n_ranges;
    int range_blocks;
    float *partial_lse;      /* [tile, head][split][m of all queries, l of all queries] */
    float *partial_scores;   /* [tile, head][range][token][cap] */
    int32_t *partial_blocks; /* the same */
    int32_t *n_partial;      /* [tile, head][range][token] */
} select_job;

typedef struct tile {
    const sala_attn_seq *seq;
    int64_t row0;
    int n_rows, kv_head;
    int64_t position; /* of the first row */
} tile;

typedef struct workspace {
    float *q, *m, *l, *m2, *l2, *mass, *kernel;
    float *pooled;          /* [tokens][pooled_stride]: `most` floats of room, scores of a range, room for a page */
    float *scores;          /* [tokens][most] */
    int32_t *blocks, *pick; /* [tokens][most], [most] */
    int32_t *visible;
    int64_t pooled_stride;
} workspace;

static int tile_tokens(int group)
{
    return (int)sala_max_i64(1, sala_min_i64(MOST_TOKENS, SALA_CPU_ATTN_QUERIES / group));
}

static size_t workspace_floats(int group, int d, int most)
{
    const size_t tokens = (size_t)tile_tokens(group), n = tokens * (size_t)group;
    return n * ((size_t)d + 5) + tokens * (2 * PAGE + RANGE_BLOCKS + 3 * (size_t)most) + (size_t)most +
           SALA_ATTN_SCRATCH((int)n, d) + 64;
}

/* Scratch of one worker. Keys of a block and a sum are held by compress_task. */
size_t sala_cpu_sparse_worker_floats(int group, int head_dim, int most)
{
    const size_t compress = (size_t)(PAGE + 1) * (size_t)head_dim, store = (size_t)PAGE * (size_t)head_dim;
    const size_t select = workspace_floats(group, head_dim, most);
    const size_t n = select > compress ? select : compress;
    return ((n > store ? n : store) + 15) / 16 * 16;
}

static workspace worker_space(const select_job *job, int worker)
{
    float *p = sala_cpu_worker(job->cpu, worker);
    const int d = job->a->head_dim;
    const size_t tokens = (size_t)job->tokens_per_tile, n = tokens * (size_t)job->group;
    const size_t most = (size_t)job->a->out.most;
    workspace w = {.q = p};
    w.kernel = w.q + n * (size_t)d;
    w.mass = w.kernel + SALA_ATTN_SCRATCH((int)n, d);
    w.pooled = w.mass + tokens * PAGE;
    w.pooled_stride = (int64_t)(most + RANGE_BLOCKS + PAGE);
    w.scores = w.pooled + tokens * (size_t)w.pooled_stride;
    w.m = w.scores + tokens * most;
    w.l = w.m + n;
    w.m2 = w.l + n;
    w.l2 = w.m2 + n;
    w.visible = (int32_t *)(w.l2 + n);
    w.blocks = w.visible + n;
    w.pick = w.blocks + tokens * most;
    return w;
}

static tile find_tile(const select_job *job, int64_t index)
{
    const sala_attn_seq *seq = job->a->seqs;
    const int kv_head = (int)(index % job->a->n_kv_heads);
    index /= job->a->n_kv_heads;
    for (;;) {
        const int64_t n = (seq->n_rows + job->tokens_per_tile - 1) / job->tokens_per_tile;
        if (index < n)
            break;
        index -= n;
        seq++;
    }
    const int64_t row0 = index * job->tokens_per_tile;
    return (tile){seq, row0, (int)sala_min_i64(job->tokens_per_tile, seq->n_rows - row0), kv_head,
                  seq->position + row0};
}

static int32_t *list_of(const select_job *job, const tile *t, int r)
{
    const sala_select_args *a = job->a;
    const int64_t row = t->seq->first_row + t->row0 + r;
    return a->out.list + (row * a->n_kv_heads + t->kv_head) * (1 + (int64_t)a->out.most);
}

/* A row that sees everything: before the switch, or with no more blocks than it may select. */
static bool is_dense(const select_job *job, const tile *t, int r)
{
    const int64_t pos = t->position + r;
    return pos < t->seq->sparse_from || pos / job->a->out.block_size + 1 <= job->a->out.most;
}

/* Positions grow along a tile: its first rows may be dense, the others are not. */
static int first_sparse(const select_job *job, const tile *t)
{
    int r = 0;
    while (r < t->n_rows && is_dense(job, t, r))
        list_of(job, t, r++)[0] = -1;
    return r;
}

static void load_queries(const select_job *job, const tile *t, float *q)
{
    const sala_select_args *a = job->a;
    const int n = job->group * a->head_dim;
    for (int r = 0; r < t->n_rows; r++) {
        const sala_act *src = a->q + (t->seq->first_row + t->row0 + r) * a->q_stride + (int64_t)t->kv_head * n;
        for (int c = 0; c < n; c++)
            q[(size_t)r * (size_t)n + (size_t)c] = src[c] * a->scale;
    }
}

/* How many rows of a page each query sees; false when none sees any. */
static bool rows_seen(const select_job *job, const tile *t, bool coarse, int64_t page, int32_t *visible)
{
    bool any = false;
    for (int r = 0; r < t->n_rows; r++) {
        const int64_t n = rows_at(&job->a->rows, coarse, t->position + r + 1) - page * PAGE;
        const int32_t seen = n <= 0 ? 0 : n > PAGE ? PAGE : (int32_t)n;
        any |= seen > 0;
        for (int g = 0; g < job->group; g++)
            visible[r * job->group + g] = seen;
    }
    return any;
}

/* What will be read behind a page, of n_rows rows in all. */
static const void *next_page(const tile *t, const sala_rows_shape *rows, void *const *pages, int d, int64_t page,
                             int64_t n_rows)
{
    return (page + 1) * PAGE < n_rows ? row_page(pages, rows, t->kv_head, d, page + 1) : NULL;
}

/* Maximum and sum of exp over the coarse rows of one split. */
static void run_lse_split(const select_job *job, const tile *t, const workspace *w, int64_t split, float *m, float *l)
{
    const sala_select_args *a = job->a;
    const int n_q = t->n_rows * job->group;
    for (int i = 0; i < n_q; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    const int64_t n_rows = rows_at(&a->rows, true, t->position + t->n_rows);
    for (int64_t page = split * (SPLIT_ROWS / PAGE); page < (split + 1) * (SPLIT_ROWS / PAGE); page++) {
        if (!rows_seen(job, t, true, page, w->visible))
            break;
        job->lse(m, l, w->q, row_page(t->seq->coarse, &a->rows, t->kv_head, a->head_dim, page), n_q, a->head_dim,
                 w->visible, w->kernel, next_page(t, &a->rows, t->seq->coarse, a->head_dim, page, n_rows));
    }
}

static void merge_lse(float *m, float *l, const float *m2, const float *l2, int n)
{
    for (int i = 0; i < n; i++) {
        if (l2[i] == 0)
            continue;
        if (l[i] == 0) {
            m[i] = m2[i];
            l[i] = l2[i];
            continue;
        }
        const float top = m[i] > m2[i] ? m[i] : m2[i];
        l[i] = l[i] * expf(m[i] - top) + l2[i] * expf(m2[i] - top);
        m[i] = top;
    }
}

/* m becomes the logarithm of the normaliser. False: there is no coarse row yet, and all scores are 0. */
static bool finish_lse(const select_job *job, const tile *t, float *m, const float *l)
{
    for (int i = 0; i < t->n_rows * job->group; i++)
        m[i] = l[i] > 0 ? m[i] + logf(l[i]) : INFINITY; /* exp(s - infinity) is 0 */
    return l[(t->n_rows - 1) * job->group] > 0;
}

static int64_t own_block(const select_job *job, const tile *t, int r)
{
    return (t->position + r) / job->a->out.block_size;
}

/* Blocks that a sparse row selects in any case. Those at the start and those of the window do not overlap: a row that
 * has so few blocks sees everything. */
static int n_forced(const select_job *job)
{
    return job->a->init_blocks + job->a->window_blocks + 1;
}

static inline float larger(float a, float b)
{
    return a > b ? a : b;
}

/* The largest mass of a row that shares a token with block b, for the blocks [begin, end): pooled[b - begin]. What lies
 * behind, up to a page's blocks, is written over. */
static void pool_range(const select_job *job, const tile *t, const workspace *w, const float *lse, int64_t begin,
                       int64_t end, float *pooled)
{
    const sala_select_args *a = job->a;
    const sala_rows_shape *rows = &a->rows;
    const int64_t size = a->out.block_size;
    for (int r = 0; r < t->n_rows; r++)
        memset(pooled + r * w->pooled_stride, 0, (size_t)(end - begin) * sizeof *pooled); /* no row that is seen */
    const int64_t n_rows = rows_at(rows, false, t->position + t->n_rows);
    /* Rows whose tokens [stride j, stride j + kernel) meet the blocks. */
    const int64_t before = begin * size - rows->kernel + rows->stride;
    const int64_t first = before > 0 ? before / rows->stride : 0;
    const int64_t last = sala_min_i64(n_rows, (end * size + rows->stride - 1) / rows->stride);
    for (int64_t page = first / PAGE; lse && page * PAGE < last; page++) {
        if (!rows_seen(job, t, false, page, w->visible))
            break;
        job->mass(w->mass, PAGE, w->q, lse, row_page(t->seq->fine, rows, t->kv_head, a->head_dim, page),
                  t->n_rows * job->group, job->group, a->head_dim, w->visible, w->kernel,
                  next_page(t, rows, t->seq->fine, a->head_dim, page, n_rows));
        if (job->by_page && page * PAGE / 4 >= begin) {
            for (int r = 0; r < t->n_rows; r++)
                job->cpu->k.rows_pool(pooled + r * w->pooled_stride + page * PAGE / 4 - begin, w->mass + r * PAGE);
            continue;
        }
        const int64_t j1 = sala_min_i64(last, (page + 1) * PAGE);
        for (int64_t j = sala_max_i64(first, page * PAGE); j < j1; j++) {
            const int64_t token = j * rows->stride;
            const int64_t b1 = sala_min_i64(end - 1, (token + rows->kernel - 1) / size);
            for (int64_t b = sala_max_i64(begin, token / size); b <= b1; b++)
                for (int r = 0; r < t->n_rows; r++) {
                    float *to = pooled + r * w->pooled_stride + b - begin;
                    *to = larger(w->mass[r * PAGE + j - page * PAGE], *to);
                }
        }
    }
}

/* Keeps the best of h and the n scores at x, of blocks behind those in h: `blocks`, or from `first` on. There is room
 * for h's scores in front of x. */
static void keep_best(const select_job *job, const workspace *w, best *h, float *x, int64_t n, const int32_t *blocks,
                      int64_t first)
{
    if (n <= 0)
        return;
    x -= h->n;
    memcpy(x, h->scores, (size_t)h->n * sizeof *x);
    const int n_kept = (int)job->cpu->k.top_k(w->pick, x, h->n + n, h->cap);
    for (int i = 0; i < n_kept; i++) { /* places only move down */
        const int32_t at = w->pick[i];
        h->scores[i] = x[at];
        h->blocks[i] = at < h->n ? h->blocks[at] : blocks ? blocks[at - h->n] : (int32_t)(first + at - h->n);
    }
    h->n = n_kept;
}

/* Offers the blocks [begin, end) that are not forced. */
static void run_range(const select_job *job, const tile *t, const workspace *w, const float *lse, int64_t begin,
                      int64_t end, best *rows)
{
    float *pooled = w->pooled + job->a->out.most;
    pool_range(job, t, w, lse, begin, end, pooled);
    const int64_t from = sala_max_i64(begin, job->a->init_blocks);
    for (int r = 0; r < t->n_rows; r++) {
        const int64_t to = sala_min_i64(end, own_block(job, t, r) - job->a->window_blocks);
        keep_best(job, w, &rows[r], pooled + r * w->pooled_stride + (from - begin), to - from, NULL, from);
    }
}

static void write_list(const select_job *job, const tile *t, int r, const best *h)
{
    int32_t *list = list_of(job, t, r);
    const int64_t own = own_block(job, t, r);
    int n = 0;
    for (int32_t b = 0; b < job->a->init_blocks; b++)
        list[1 + n++] = b;
    for (int i = 0; i < h->n; i++)
        list[1 + n++] = h->blocks[i];
    for (int64_t b = own - job->a->window_blocks; b <= own; b++)
        list[1 + n++] = (int32_t)b;
    list[0] = n;
}

/* The tile without its dense rows; false when none is left. */
static bool sparse_tile(const select_job *job, tile *t)
{
    const int r = first_sparse(job, t);
    t->row0 += r;
    t->position += r;
    t->n_rows -= r;
    return t->n_rows > 0;
}

static best no_blocks(const select_job *job, float *scores, int32_t *blocks)
{
    return (best){scores, blocks, 0, job->a->out.most - n_forced(job)};
}

/* Those of the tile's rows, in the worker's own memory. */
static void begin_rows(const select_job *job, const tile *t, const workspace *w, best *rows)
{
    for (int r = 0; r < t->n_rows; r++)
        rows[r] = no_blocks(job, w->scores + r * job->a->out.most, w->blocks + r * job->a->out.most);
}

/* Many rows: a task does everything for its tile. */
static void tile_task(void *user, int task, int worker)
{
    const select_job *job = user;
    const workspace w = worker_space(job, worker);
    tile t = find_tile(job, job->n_tiles * job->a->n_kv_heads - 1 - task);
    if (!sparse_tile(job, &t))
        return;
    const int n_q = t.n_rows * job->group;
    load_queries(job, &t, w.q);
    run_lse_split(job, &t, &w, 0, w.m, w.l);
    const int64_t n_coarse = rows_at(&job->a->rows, true, t.position + t.n_rows);
    for (int64_t s = 1; s * SPLIT_ROWS < n_coarse; s++) {
        run_lse_split(job, &t, &w, s, w.m2, w.l2);
        merge_lse(w.m, w.l, w.m2, w.l2, n_q);
    }
    const float *lse = finish_lse(job, &t, w.m, w.l) ? w.m : NULL;
    best rows[MOST_TOKENS];
    begin_rows(job, &t, &w, rows);
    const int64_t n_blocks = own_block(job, &t, t.n_rows - 1) - job->a->window_blocks;
    for (int64_t b = 0; b < n_blocks; b += RANGE_BLOCKS)
        run_range(job, &t, &w, lse, b, sala_min_i64(b + RANGE_BLOCKS, n_blocks), rows);
    for (int r = 0; r < t.n_rows; r++)
        write_list(job, &t, r, &rows[r]);
}

/* Few rows: normalisers of splits, candidates of ranges, then both put together. */
static void lse_task(void *user, int task, int worker)
{
    const select_job *job = user;
    const workspace w = worker_space(job, worker);
    tile t = find_tile(job, task / job->n_splits);
    if (!sparse_tile(job, &t))
        return;
    const size_t n_q = (size_t)job->tokens_per_tile * (size_t)job->group;
    float *part = job->partial_lse + (size_t)task * 2 * n_q;
    load_queries(job, &t, w.q);
    run_lse_split(job, &t, &w, task % job->n_splits, part, part + n_q);
}

static void range_task(void *user, int task, int worker)
{
    const select_job *job = user;
    const workspace w = worker_space(job, worker);
    tile t = find_tile(job, task / job->n_ranges);
    if (!sparse_tile(job, &t))
        return;
    const size_t n_q = (size_t)job->tokens_per_tile * (size_t)job->group;
    const float *part = job->partial_lse + (size_t)(task / job->n_ranges) * (size_t)job->n_splits * 2 * n_q;
    const size_t used = (size_t)(t.n_rows * job->group);
    memcpy(w.m, part, used * sizeof *w.m);
    memcpy(w.l, part + n_q, used * sizeof *w.l);
    for (int64_t s = 1; s < job->n_splits; s++)
        merge_lse(w.m, w.l, part + (size_t)s * 2 * n_q, part + (size_t)s * 2 * n_q + n_q, (int)used);
    const float *lse = finish_lse(job, &t, w.m, w.l) ? w.m : NULL;
    best rows[MOST_TOKENS];
    const size_t first = (size_t)task * (size_t)job->tokens_per_tile, most = (size_t)job->a->out.most;
    for (int r = 0; r < t.n_rows; r++)
        rows[r] = no_blocks(job, job->partial_scores + (first + (size_t)r) * most,
                            job->partial_blocks + (first + (size_t)r) * most);
    const int64_t n_blocks = own_block(job, &t, t.n_rows - 1) - job->a->window_blocks;
    const int64_t begin = task % job->n_ranges * job->range_blocks;
    load_queries(job, &t, w.q);
    if (begin < n_blocks)
        run_range(job, &t, &w, lse, begin, sala_min_i64(begin + job->range_blocks, n_blocks), rows);
    for (int r = 0; r < t.n_rows; r++)
        job->n_partial[first + (size_t)r] = rows[r].n;
}

static void finish_task(void *user, int task, int worker)
{
    const select_job *job = user;
    const workspace w = worker_space(job, worker);
    tile t = find_tile(job, task);
    if (!sparse_tile(job, &t))
        return;
    best rows[MOST_TOKENS];
    begin_rows(job, &t, &w, rows);
    for (int r = 0; r < t.n_rows; r++) {
        for (int64_t range = 0; range < job->n_ranges; range++) {
            const size_t at =
                ((size_t)task * (size_t)job->n_ranges + (size_t)range) * (size_t)job->tokens_per_tile + (size_t)r;
            const size_t from = at * (size_t)job->a->out.most;
            float *scores = w.pooled + job->a->out.most;
            memcpy(scores, job->partial_scores + from, (size_t)job->n_partial[at] * sizeof *scores);
            keep_best(job, &w, &rows[r], scores, job->n_partial[at], job->partial_blocks + from, 0);
        }
    }
    for (int r = 0; r < t.n_rows; r++)
        write_list(job, &t, r, &rows[r]);
}

/* Lays out the partial results in the backend's scratch; false when they do not fit. */
static bool make_partials(select_job *job, int64_t n_tasks)
{
    const size_t n_q = (size_t)job->tokens_per_tile * (size_t)job->group, tokens = (size_t)job->tokens_per_tile;
    const size_t lse = (size_t)(n_tasks * job->n_splits) * 2 * n_q;
    const size_t lists = (size_t)(n_tasks * job->n_ranges) * tokens;
    if (lse + lists * (1 + 2 * (size_t)job->a->out.most) > job->cpu->partial_floats)
        return false;
    job->partial_lse = job->cpu->partial;
    job->partial_scores = job->partial_lse + lse;
    job->partial_blocks = (int32_t *)(void *)(job->partial_scores + lists * (size_t)job->a->out.most);
    job->n_partial = job->partial_blocks + lists * (size_t)job->a->out.most;
    return true;
}

void sala_cpu_select(sala_backend *be, const sala_select_args *a)
{
    sala_cpu *cpu = sala_cpu_of(be);
    const bool half = a->rows.dtype == SALA_F16;
    select_job job = {.cpu = cpu,
                      .a = a,
                      .group = a->n_heads / a->n_kv_heads,
                      .lse = half ? cpu->k.rows_lse_f16 : cpu->k.rows_lse_f32,
                      .mass = half ? cpu->k.rows_mass_f16 : cpu->k.rows_mass_f32,
                      .by_page = a->rows.kernel == 2 * a->rows.stride && a->out.block_size == 4 * a->rows.stride};
    job.tokens_per_tile = a->n_seqs == a->n_rows ? 1 : tile_tokens(job.group);
    int64_t tokens = 0;
    for (int s = 0; s < a->n_seqs; s++) {
        job.n_tiles += (a->seqs[s].n_rows + job.tokens_per_tile - 1) / job.tokens_per_tile;
        tokens = sala_max_i64(tokens, a->seqs[s].position + a->seqs[s].n_rows);
    }
    const int64_t n_tasks = job.n_tiles * a->n_kv_heads, n_blocks = (tokens - 1) / a->out.block_size + 1;
    job.n_splits = sala_max_i64(1, (rows_at(&a->rows, true, tokens) + SPLIT_ROWS - 1) / SPLIT_ROWS);
    job.range_blocks = SMALL_RANGE_BLOCKS;
    job.n_ranges = (n_blocks + job.range_blocks - 1) / job.range_blocks;
    /* Three rounds of small tasks pay when the scan is long or when whole tiles would leave threads without work. */
    const bool share = n_tasks < cpu->n_workers ? job.n_ranges > 1 : n_tasks < 4 * cpu->n_workers && job.n_ranges >= 8;
    if (share && make_partials(&job, n_tasks)) {
        sala_pool_run(cpu->pool, (int)(n_tasks * job.n_splits), lse_task, &job);
        sala_pool_run(cpu->pool, (int)(n_tasks * job.n_ranges), range_task, &job);
        sala_pool_run(cpu->pool, (int)n_tasks, finish_task, &job);
    } else {
        sala_pool_run(cpu->pool, (int)n_tasks, tile_task, &job);
    }
}
