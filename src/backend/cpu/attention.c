/* Softmax attention over blocks of 64 keys: all of them, or those that a row selected.
 *
 * Keys are taken in blocks at absolute positions, and partial sums are closed and merged after every
 * SALA_CPU_ATTN_SPLIT keys, again at absolute positions. So the order of sums of a query depends on its own position
 * and selection alone, and two ways of sharing the work give the same bits: many queries walk through all splits on one
 * thread (prefill), or the splits of few queries go to different threads (decode). */
#include "backend/cpu/cpu.h"

#include <assert.h>
#include <math.h>

enum { BLOCKS_OF_SPLIT = SALA_CPU_ATTN_SPLIT / SALA_KV_BLOCK };

typedef struct tile {
    const sala_attn_seq *seq;
    int64_t row0; /* within the sequence */
    int n_rows;
    int kv_head;
} tile;

typedef struct attn_job {
    sala_cpu *cpu;
    const sala_attn_args *a;
    const sala_kv_kernels *kv, *plain; /* of the cache's type; of f32 */
    int group;                         /* query heads of one key head */
    int rows_per_tile;
    int64_t n_tiles; /* of rows; times n_kv_heads */
    size_t head_bytes;
    size_t query_stride; /* floats of a query as the cache's kernel takes it */
    /* split mode */
    int64_t n_splits;
    size_t partial_stride; /* floats of one tile × split: n_q * (head_dim + 2) */
} attn_job;

/* A worker's scratch, carved. */
typedef struct workspace {
    float *q, *m, *l, *acc, *m2, *l2, *acc2, *kernel;
    float *prepared;      /* the queries as the cache's kernel takes them; may be q */
    float *keys, *values; /* a block as floats */
    float *source;        /* the same, keys then values, where another block is made of it */
    int32_t *visible;     /* [queries] */
    int32_t *at;          /* [rows] how far each row has come in its selection */
    uint32_t *seen;       /* [rows] blocks of the split that each row sees */
} workspace;

static size_t workspace_floats(int n_q, int d)
{
    return (size_t)n_q * (3 * (size_t)d + SALA_ATTN_QUERY(d) + 7) + 4 * (size_t)SALA_KV_BLOCK * (size_t)d +
           SALA_ATTN_SCRATCH(n_q, d) + 64;
}

static workspace workspace_at(float *p, int n_q, int d)
{
    workspace w;
    const size_t n = (size_t)n_q, row = n * (size_t)d, block = (size_t)SALA_KV_BLOCK * (size_t)d;
    w.q = p;
    w.acc = w.q + row;
    w.acc2 = w.acc + row;
    w.kernel = w.acc2 + row;
    w.keys = w.kernel + SALA_ATTN_SCRATCH(n_q, d);
    w.values = w.keys + block;
    w.source = w.values + block;
    w.m = w.source + 2 * block;
    w.l = w.m + n;
    w.m2 = w.l + n;
    w.l2 = w.m2 + n;
    w.visible = (int32_t *)(w.l2 + n);
    w.at = w.visible + n;
    w.seen = (uint32_t *)(w.at + n);
    w.prepared = (float *)(w.seen + n);
    return w;
}

static int tile_queries(int group)
{
    return group > SALA_CPU_ATTN_QUERIES ? group : SALA_CPU_ATTN_QUERIES;
}

size_t sala_cpu_attn_worker_floats(int max_heads_of_group, int head_dim)
{
    return (workspace_floats(tile_queries(max_heads_of_group), head_dim) + 15) / 16 * 16;
}

static workspace worker_space(const attn_job *job, int worker)
{
    workspace w = workspace_at(sala_cpu_worker(job->cpu, worker), tile_queries(job->group), job->a->kv.head_dim);
    if (!job->kv->prepare)
        w.prepared = w.q;
    return w;
}

static int query_count(const attn_job *job, const tile *t)
{
    return t->n_rows * job->group;
}

static tile find_tile(const attn_job *job, int64_t index)
{
    const sala_attn_args *a = job->a;
    const int kv_head = (int)(index % a->kv.n_kv_heads);
    index /= a->kv.n_kv_heads;
    const sala_attn_seq *seq = a->seqs;
    for (;;) {
        const int64_t n = (seq->n_rows + job->rows_per_tile - 1) / job->rows_per_tile;
        if (index < n)
            break;
        index -= n;
        seq++;
    }
    const int64_t row0 = index * job->rows_per_tile;
    return (tile){seq, row0, (int)sala_min_i64(job->rows_per_tile, seq->n_rows - row0), kv_head};
}

static void load_queries(const attn_job *job, const tile *t, const workspace *w)
{
    const sala_attn_args *a = job->a;
    float *q = w->q;
    const int d = a->kv.head_dim;
    for (int i = 0; i < t->n_rows; i++) {
        const sala_act *src =
            a->q + (t->seq->first_row + t->row0 + i) * a->q_stride + (int64_t)t->kv_head * job->group * d;
        float *dst = q + (size_t)i * (size_t)job->group * (size_t)d;
        for (int c = 0; c < job->group * d; c++)
            dst[c] = src[c] * a->scale;
    }
    if (job->kv->prepare)
        job->kv->prepare(w->prepared, q, query_count(job, t), d);
}

static int64_t first_visible(const sala_attn_args *a, int64_t pos)
{
    return a->window > 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

static const uint8_t *keys_of(const attn_job *job, const tile *t, int64_t block)
{
    return (const uint8_t *)t->seq->blocks[block] + job->a->kv.layer_offset + (size_t)t->kv_head * job->head_bytes;
}

static const uint8_t *values_of(const attn_job *job, const uint8_t *keys)
{
    return keys + (size_t)job->a->kv.n_kv_heads * job->head_bytes;
}

static void first_use(const tile *t, int64_t block)
{
    if (t->seq->first_use)
        t->seq->first_use(t->seq->user, block);
}

/* ---- who sees what ---- */

/* Row r's selection; NULL: it sees everything up to itself. */
static const int32_t *selection_of(const attn_job *job, const tile *t, int r, int *n)
{
    const sala_selection *s = job->a->selection;
    *n = -1;
    if (!s)
        return NULL;
    const int64_t row = t->seq->first_row + t->row0 + r;
    const int32_t *list = s->list + (row * job->a->kv.n_kv_heads + t->kv_head) * (1 + (int64_t)s->most);
    *n = list[0];
    return *n < 0 ? NULL : list + 1;
}

static int64_t block_size(const attn_job *job)
{
    return job->a->selection ? job->a->selection->block_size : SALA_KV_BLOCK;
}

/* The first entry whose block ends behind `key`. */
static int first_beyond(const int32_t *list, int n, int64_t size, int64_t key)
{
    int low = 0, high = n;
    while (low < high) {
        const int mid = (low + high) / 2;
        if (((int64_t)list[mid] + 1) * size <= key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The first split at or behind `split` that some row sees, as far as the selections tell; n_splits when none. */
static int64_t next_split(const attn_job *job, const tile *t, const workspace *w, int64_t split, int64_t end)
{
    int64_t next = end;
    for (int r = 0; r < t->n_rows; r++) {
        int n;
        const int32_t *list = selection_of(job, t, r, &n);
        if (!list)
            return split;
        if (w->at[r] < n)
            next = sala_min_i64(next, list[w->at[r]] * block_size(job) / SALA_CPU_ATTN_SPLIT);
    }
    return sala_max_i64(split, next);
}

/* Bit b: the row sees something of block b of the split. Moves at[r] on. */
static uint32_t blocks_seen(const attn_job *job, const tile *t, const workspace *w, int r, int64_t split)
{
    const sala_attn_args *a = job->a;
    const int64_t pos = t->seq->position + t->row0 + r, begin = split * SALA_CPU_ATTN_SPLIT;
    const int64_t end = sala_min_i64(begin + SALA_CPU_ATTN_SPLIT, pos + 1);
    int n;
    const int32_t *list = selection_of(job, t, r, &n);
    uint32_t bits = 0;
    int64_t from = sala_max_i64(begin, first_visible(a, pos)), to = end;
    if (!list) {
        if (from >= to)
            return 0;
        const int64_t first = (from - begin) / SALA_KV_BLOCK, last = (to - 1 - begin) / SALA_KV_BLOCK;
        return (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
    }
    const int64_t size = block_size(job);
    while (w->at[r] < n && (from = list[w->at[r]] * size) < begin + SALA_CPU_ATTN_SPLIT) {
        to = sala_min_i64(from + size, end);
        from = sala_max_i64(from, begin);
        if (from < to) {
            const int64_t first = (from - begin) / SALA_KV_BLOCK, last = (to - 1 - begin) / SALA_KV_BLOCK;
            bits |= (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
        }
        if ((list[w->at[r]] + 1) * size > begin + SALA_CPU_ATTN_SPLIT)
            break; /* the rest of it lies in the next split */
        w->at[r]++;
    }
    return bits;
}

/* The block that the first row will see after this split, as far as its selection tells; -1: unknown. Selected blocks
 * lie far apart, and nothing but this hint has them on their way in time. */
static int64_t block_after(const attn_job *job, const tile *t, const workspace *w)
{
    int n;
    const int32_t *list = selection_of(job, t, 0, &n);
    return list && w->at[0] < n ? list[w->at[0]] * block_size(job) / SALA_KV_BLOCK : -1;
}

/* ---- one split ---- */

/* The block for the tile's rows [r0, r1), which all see it from its first key on. */
static void run_rows(const attn_job *job, const tile *t, const workspace *w, int64_t key, int r0, int r1,
                     const uint8_t *next, float *m, float *l, float *acc)
{
    const int d = job->a->kv.head_dim, g = job->group, i = r0 * g;
    const int64_t pos0 = t->seq->position + t->row0;
    const uint8_t *k = keys_of(job, t, key / SALA_KV_BLOCK);
    for (int r = r0; r < r1; r++) {
        const int64_t n = sala_min_i64(SALA_KV_BLOCK, pos0 + r + 1 - key);
        for (int j = 0; j < g; j++)
            w->visible[r * g + j] = (int32_t)n;
    }
    job->kv->attn_block(acc + (size_t)i * (size_t)d, m + i, l + i, w->prepared + (size_t)i * job->query_stride, k,
                        values_of(job, k), (r1 - r0) * g, d, w->visible + i, w->kernel, next);
}

/* A window begins inside the block: the row takes the block from its own first key on. */
static void run_row_from(const attn_job *job, const tile *t, const workspace *w, int64_t key, int r, float *m, float *l,
                         float *acc)
{
    const int d = job->a->kv.head_dim, g = job->group, i = r * g;
    const int64_t pos = t->seq->position + t->row0 + r;
    const int64_t skip = first_visible(job->a, pos) - key, n = sala_min_i64(SALA_KV_BLOCK, pos + 1 - key) - skip;
    const uint8_t *k = keys_of(job, t, key / SALA_KV_BLOCK);
    job->kv->load_keys(w->keys, k, d);
    job->kv->load_values(w->values, values_of(job, k), (int)(skip + n), d);
    for (int c = 0; c < d; c++)
        memmove(w->keys + (size_t)c * SALA_KV_BLOCK, w->keys + (size_t)c * SALA_KV_BLOCK + skip,
                (size_t)(SALA_KV_BLOCK - skip) * sizeof(float));
    for (int j = 0; j < g; j++)
        w->visible[i + j] = (int32_t)n;
    job->plain->attn_block(acc + (size_t)i * (size_t)d, m + i, l + i, w->q + (size_t)i * (size_t)d, w->keys,
                           w->values + (size_t)skip * (size_t)d, g, d, w->visible + i, w->kernel, NULL);
}

/* All keys of one split for the queries of a tile. False when no row sees any, and m, l, acc are not touched. */
static bool run_split(const attn_job *job, const tile *t, const workspace *w, int64_t split, float *m, float *l,
                      float *acc)
{
    const sala_attn_args *a = job->a;
    const int n_q = query_count(job, t);
    const int64_t pos0 = t->seq->position + t->row0;
    uint32_t all = 0;
    for (int r = 0; r < t->n_rows; r++)
        all |= w->seen[r] = blocks_seen(job, t, w, r, split);
    if (!all)
        return false;
    for (int i = 0; i < n_q; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    memset(acc, 0, (size_t)n_q * (size_t)a->kv.head_dim * sizeof *acc);
    while (all) {
        const int bit = __builtin_ctz(all);
        all &= all - 1;
        const int64_t block = split * BLOCKS_OF_SPLIT + bit, key = block * SALA_KV_BLOCK;
        const int64_t after = all ? split * BLOCKS_OF_SPLIT + __builtin_ctz(all) : block_after(job, t, w);
        const uint8_t *next = after >= 0 ? keys_of(job, t, after) : NULL;
        first_use(t, block);
        for (int r = 0; r < t->n_rows;) {
            if (!(w->seen[r] >> bit & 1)) {
                r++;
            } else if (first_visible(a, pos0 + r) > key) {
                run_row_from(job, t, w, key, r, m, l, acc);
                r++;
            } else {
                const int r0 = r;
                while (r < t->n_rows && (w->seen[r] >> bit & 1) && first_visible(a, pos0 + r) <= key)
                    r++;
                run_rows(job, t, w, key, r0, r, next, m, l, acc);
            }
        }
    }
    return true;
}

/* (m, l, acc) += (m2, l2, acc2), n_q queries. */
static void merge(float *m, float *l, float *acc, const float *m2, const float *l2, const float *acc2, int n_q, int d)
{
    for (int i = 0; i < n_q; i++) {
        if (l2[i] == 0)
            continue;
        float *x = acc + (size_t)i * (size_t)d;
        const float *y = acc2 + (size_t)i * (size_t)d;
        if (l[i] == 0) {
            m[i] = m2[i];
            l[i] = l2[i];
            memcpy(x, y, (size_t)d * sizeof *x);
            continue;
        }
        const bool higher = m[i] > m2[i]; /* one of the two factors is exp(0) */
        const float s = higher ? 1.0f : expf(m[i] - m2[i]), s2 = higher ? expf(m2[i] - m[i]) : 1.0f;
        m[i] = higher ? m[i] : m2[i];
        l[i] = l[i] * s + l2[i] * s2;
        for (int c = 0; c < d; c++)
            x[c] = x[c] * s + y[c] * s2;
    }
}

static void store_output(const attn_job *job, const tile *t, const float *l, const float *acc)
{
    const sala_attn_args *a = job->a;
    const int d = a->kv.head_dim;
    for (int i = 0; i < query_count(job, t); i++) {
        sala_act *out = a->out + (t->seq->first_row + t->row0 + i / job->group) * a->out_stride +
                        ((int64_t)t->kv_head * job->group + i % job->group) * d;
        const float inv = 1.0f / l[i];
        for (int c = 0; c < d; c++)
            out[c] = acc[(size_t)i * (size_t)d + (size_t)c] * inv;
    }
}

/* ---- sharing the work ---- */

static int64_t last_split(const tile *t)
{
    return (t->seq->position + t->row0 + t->n_rows - 1) / SALA_CPU_ATTN_SPLIT;
}

/* Many queries: a task walks through all keys of its tile. */
static void tile_task(void *user, int task, int worker)
{
    const attn_job *job = user;
    const sala_attn_args *a = job->a;
    const workspace w = worker_space(job, worker);
    /* The longest tiles first: the last one to finish is then a short one. */
    const tile t = find_tile(job, job->n_tiles * a->kv.n_kv_heads - 1 - task);
    load_queries(job, &t, &w);
    memset(w.at, 0, (size_t)t.n_rows * sizeof *w.at);
    const int n_q = query_count(job, &t), d = a->kv.head_dim;
    const int64_t end = last_split(&t) + 1;
    bool any = false;
    int64_t s = first_visible(a, t.seq->position + t.row0) / SALA_CPU_ATTN_SPLIT;
    while ((s = next_split(job, &t, &w, s, end)) < end) {
        if (!any) {
            any = run_split(job, &t, &w, s, w.m, w.l, w.acc);
        } else if (run_split(job, &t, &w, s, w.m2, w.l2, w.acc2)) {
            merge(w.m, w.l, w.acc, w.m2, w.l2, w.acc2, n_q, d);
        }
        s++;
    }
    store_output(job, &t, w.l, w.acc);
}

/* Few queries: a task is one split of one tile ... */
static void split_task(void *user, int task, int worker)
{
    const attn_job *job = user;
    const workspace w = worker_space(job, worker);
    const tile t = find_tile(job, task / job->n_splits);
    const int n_q = query_count(job, &t);
    float *part = job->cpu->partial + (size_t)task * job->partial_stride;
    const int64_t split = task % job->n_splits;
    for (int r = 0; r < t.n_rows; r++) {
        int n;
        const int32_t *list = selection_of(job, &t, r, &n);
        w.at[r] = list ? first_beyond(list, n, block_size(job), split * SALA_CPU_ATTN_SPLIT) : 0;
    }
    if (next_split(job, &t, &w, split, split + 1) == split) {
        load_queries(job, &t, &w);
        if (run_split(job, &t, &w, split, part, part + n_q, part + 2 * n_q))
            return;
    }
    for (int i = 0; i < n_q; i++)
        part[n_q + i] = 0;
}

/* ... and then the splits of a tile are merged in order. */
static void merge_task(void *user, int task, int worker)
{
    (void)worker;
    const attn_job *job = user;
    const tile t = find_tile(job, task);
    const int n_q = query_count(job, &t), d = job->a->kv.head_dim;
    float *first = job->cpu->partial + (size_t)task * (size_t)job->n_splits * job->partial_stride;
    for (int64_t s = 1; s < job->n_splits; s++) {
        const float *part = first + (size_t)s * job->partial_stride;
        merge(first, first + n_q, first + 2 * n_q, part, part + n_q, part + 2 * n_q, n_q, d);
    }
    store_output(job, &t, first + n_q, first + 2 * n_q);
}

/* Selected blocks that are no whole blocks of the cache: a row's keys are brought together, 64 at a time, as floats. */
static void gather_task(void *user, int task, int worker)
{
    const attn_job *job = user;
    const sala_attn_args *a = job->a;
    const workspace w = worker_space(job, worker);
    const tile t = find_tile(job, task);
    const int d = a->kv.head_dim, g = job->group;
    const int64_t pos = t.seq->position + t.row0, size = block_size(job);
    int n;
    const int32_t *list = selection_of(job, &t, 0, &n);
    load_queries(job, &t, &w);
    for (int i = 0; i < g; i++) {
        w.m[i] = -INFINITY;
        w.l[i] = 0;
    }
    memset(w.acc, 0, (size_t)g * (size_t)d * sizeof *w.acc);
    float *keys = w.source, *values = keys + (size_t)SALA_KV_BLOCK * (size_t)d;
    int filled = 0;
    int64_t loaded = -1;
    for (int i = 0; i < (list ? n : 1); i++) {
        const int64_t from = list ? list[i] * size : 0, to = list ? sala_min_i64(from + size, pos + 1) : pos + 1;
        for (int64_t key = from; key < to; key++) {
            const int64_t block = key / SALA_KV_BLOCK, slot = key % SALA_KV_BLOCK;
            const uint8_t *k = keys_of(job, &t, block);
            if (block != loaded) {
                first_use(&t, block);
                job->kv->load_keys(keys, k, d);
                job->kv->load_values(values, values_of(job, k), SALA_KV_BLOCK, d);
                loaded = block;
            }
            for (int c = 0; c < d; c++)
                w.keys[c * SALA_KV_BLOCK + filled] = keys[c * SALA_KV_BLOCK + slot];
            memcpy(w.values + (size_t)filled * (size_t)d, values + (size_t)slot * (size_t)d,
                   (size_t)d * sizeof *values);
            if (++filled < SALA_KV_BLOCK && !(key + 1 == to && (!list || i + 1 == n)))
                continue;
            for (int j = 0; j < g; j++)
                w.visible[j] = filled;
            job->plain->attn_block(w.acc, w.m, w.l, w.q, w.keys, w.values, g, d, w.visible, w.kernel, NULL);
            filled = 0;
        }
    }
    store_output(job, &t, w.l, w.acc);
}

/* Whether no row of the batch sees more than its selection. */
static bool all_select(const sala_attn_args *a)
{
    if (!a->selection)
        return false;
    for (int64_t i = 0; i < a->n_rows * a->kv.n_kv_heads; i++)
        if (a->selection->list[i * (1 + (int64_t)a->selection->most)] < 0)
            return false;
    return true;
}

void sala_cpu_attention(sala_backend *be, const sala_attn_args *a)
{
    assert(!a->lse); /* nothing here keeps sums for a backward pass */
    sala_cpu *cpu = sala_cpu_of(be);
    attn_job job = {.cpu = cpu,
                    .a = a,
                    .kv = sala_kv_kernels_of(&cpu->k, a->kv.dtype),
                    .plain = sala_kv_kernels_of(&cpu->k, SALA_F32),
                    .group = a->n_heads / a->kv.n_kv_heads,
                    .head_bytes = sala_kv_head_bytes(a->kv.dtype, a->kv.head_dim)};
    job.query_stride = job.kv->prepare ? SALA_ATTN_QUERY(a->kv.head_dim) : (size_t)a->kv.head_dim;
    const bool gather = a->selection && a->selection->block_size % SALA_KV_BLOCK;
    job.rows_per_tile = gather ? 1 : (int)sala_max_i64(1, tile_queries(job.group) / job.group);
    int64_t last = 0;
    for (int s = 0; s < a->n_seqs; s++) {
        job.n_tiles += (a->seqs[s].n_rows + job.rows_per_tile - 1) / job.rows_per_tile;
        last = sala_max_i64(last, a->seqs[s].position + a->seqs[s].n_rows - 1);
    }
    job.n_splits = last / SALA_CPU_ATTN_SPLIT + 1;
    const int64_t n_tasks = job.n_tiles * a->kv.n_kv_heads;
    job.partial_stride = (size_t)(job.rows_per_tile * job.group) * (size_t)(a->kv.head_dim + 2);
    if (a->n_seqs == a->n_rows) /* one row each: rows are no wider than one group */
        job.partial_stride = (size_t)job.group * (size_t)(a->kv.head_dim + 2);
    /* Rows that select have little to do each: whole tiles serve them better when there is one for every thread. */
    const int64_t enough = all_select(a) ? cpu->n_workers : 4 * cpu->n_workers;
    const bool split = job.n_splits > 1 && n_tasks < enough &&
                       (size_t)(n_tasks * job.n_splits) * job.partial_stride <= cpu->partial_floats;
    if (gather) {
        sala_pool_run(cpu->pool, (int)n_tasks, gather_task, &job);
    } else if (split) {
        sala_pool_run(cpu->pool, (int)(n_tasks * job.n_splits), split_task, &job);
        sala_pool_run(cpu->pool, (int)n_tasks, merge_task, &job);
    } else {
        sala_pool_run(cpu->pool, (int)n_tasks, tile_task, &job);
    }
}
