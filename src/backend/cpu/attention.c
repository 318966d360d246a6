/* Softmax attention over blocks of 64 keys.
 *
 * Keys are taken in blocks at absolute positions, and partial sums are closed and merged after every
 * SALA_CPU_ATTN_SPLIT keys, again at absolute positions. So the order of sums of a query depends on its own position
 * alone, and two ways of sharing the work give the same bits: many queries walk through all splits on one thread
 * (prefill), or the splits of few queries go to different threads (decode). */
#include "backend/cpu/cpu.h"

#include <math.h>

static size_t element_bytes(sala_dtype t)
{
    return t == SALA_F16 ? 2 : 4;
}

typedef struct tile {
    const sala_attn_seq *seq;
    int64_t row0; /* within the sequence */
    int n_rows;
    int kv_head;
} tile;

typedef struct attn_job {
    sala_cpu *cpu;
    const sala_attn_args *a;
    sala_attn_block_fn *block_fn;
    int group; /* query heads of one key head */
    int rows_per_tile;
    int64_t n_tiles; /* of rows; times n_kv_heads */
    /* split mode */
    int64_t n_splits;
    size_t partial_stride; /* floats of one tile × split: n_q * (head_dim + 2) */
} attn_job;

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

static void load_queries(const attn_job *job, const tile *t, float *q)
{
    const sala_attn_args *a = job->a;
    const int d = a->kv.head_dim;
    for (int i = 0; i < t->n_rows; i++) {
        const sala_act *src =
            a->q + (t->seq->first_row + t->row0 + i) * a->q_stride + (int64_t)t->kv_head * job->group * d;
        float *dst = q + (size_t)i * (size_t)job->group * (size_t)d;
        for (int c = 0; c < job->group * d; c++)
            dst[c] = src[c] * a->scale;
    }
}

static int64_t first_visible(const sala_attn_args *a, int64_t pos)
{
    return a->window > 0 && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

static const uint8_t *keys_of(const attn_job *job, const tile *t, int64_t block)
{
    const sala_kv_shape *kv = &job->a->kv;
    const size_t head_bytes = (size_t)SALA_KV_BLOCK * (size_t)kv->head_dim * element_bytes(kv->dtype);
    return (const uint8_t *)t->seq->blocks[block] + kv->layer_offset + (size_t)t->kv_head * head_bytes;
}

/* All keys of one split for the queries of a tile. m, l, acc start empty. */
static void run_split(const attn_job *job, const tile *t, int64_t split, const float *q, float *m, float *l, float *acc,
                      int32_t *visible, uint8_t *shifted, float *scratch)
{
    const sala_attn_args *a = job->a;
    const int d = a->kv.head_dim, n_q = query_count(job, t);
    const size_t elem = element_bytes(a->kv.dtype);
    const size_t head_bytes = (size_t)SALA_KV_BLOCK * (size_t)d * elem;
    for (int i = 0; i < n_q; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    memset(acc, 0, (size_t)n_q * (size_t)d * sizeof *acc);
    const int64_t pos0 = t->seq->position + t->row0, last = pos0 + t->n_rows - 1;
    const int64_t from =
        sala_max_i64(split * SALA_CPU_ATTN_SPLIT, first_visible(a, pos0) / SALA_KV_BLOCK * SALA_KV_BLOCK);
    const int64_t to = sala_min_i64((split + 1) * SALA_CPU_ATTN_SPLIT, last + 1);
    for (int64_t key = from; key < to; key += SALA_KV_BLOCK) {
        const uint8_t *k = keys_of(job, t, key / SALA_KV_BLOCK);
        const uint8_t *next = key + SALA_KV_BLOCK < to ? keys_of(job, t, key / SALA_KV_BLOCK + 1) : NULL;
        const uint8_t *v = k + (size_t)a->kv.n_kv_heads * head_bytes;
        if (key >= first_visible(a, last)) {
            for (int i = 0; i < n_q; i++) {
                const int64_t n = pos0 + i / job->group + 1 - key;
                visible[i] = n <= 0 ? 0 : n > SALA_KV_BLOCK ? SALA_KV_BLOCK : (int32_t)n;
            }
            job->block_fn(acc, m, l, q, k, v, n_q, d, visible, scratch, next);
            continue;
        }
        /* The window begins inside this block for some rows: each row takes the block from its own first key on. */
        for (int r = 0; r < t->n_rows; r++) {
            const int64_t pos = pos0 + r;
            const int64_t skip = sala_max_i64(0, first_visible(a, pos) - key);
            const int64_t n = sala_min_i64(SALA_KV_BLOCK, pos + 1 - key) - skip;
            if (n <= 0)
                continue;
            const int i = r * job->group;
            for (int g = 0; g < job->group; g++)
                visible[g] = (int32_t)n;
            for (int c = 0; c < d; c++)
                memcpy(shifted + (size_t)c * SALA_KV_BLOCK * elem,
                       k + ((size_t)c * SALA_KV_BLOCK + (size_t)skip) * elem, (size_t)(SALA_KV_BLOCK - skip) * elem);
            job->block_fn(acc + (size_t)i * (size_t)d, m + i, l + i, q + (size_t)i * (size_t)d, shifted,
                          v + (size_t)skip * (size_t)d * elem, job->group, d, visible, scratch, NULL);
        }
    }
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
        const float top = m[i] > m2[i] ? m[i] : m2[i];
        const float s = expf(m[i] - top), s2 = expf(m2[i] - top);
        m[i] = top;
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

/* A worker's scratch, carved. */
typedef struct workspace {
    float *q, *m, *l, *acc, *m2, *l2, *acc2, *kernel;
    int32_t *visible;
    uint8_t *shifted; /* keys of a block from somewhere in its middle on */
} workspace;

static size_t workspace_floats(int n_q, int d)
{
    return (size_t)n_q * (3 * (size_t)d + 5) + (size_t)SALA_KV_BLOCK * (size_t)d + SALA_ATTN_SCRATCH(n_q, d) + 64;
}

static workspace workspace_at(float *p, int n_q, int d)
{
    workspace w;
    const size_t n = (size_t)n_q, row = n * (size_t)d;
    w.q = p;
    w.acc = w.q + row;
    w.acc2 = w.acc + row;
    w.kernel = w.acc2 + row;
    w.m = w.kernel + SALA_ATTN_SCRATCH(n_q, d);
    w.l = w.m + n;
    w.m2 = w.l + n;
    w.l2 = w.m2 + n;
    w.visible = (int32_t *)(w.l2 + n);
    w.shifted = (uint8_t *)(w.l2 + 2 * n);
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
    return workspace_at(job->cpu->worker + (size_t)worker * job->cpu->worker_floats, tile_queries(job->group),
                        job->a->kv.head_dim);
}

/* Many queries: a task walks through all keys of its tile. */
static void tile_task(void *user, int task, int worker)
{
    const attn_job *job = user;
    const sala_attn_args *a = job->a;
    const workspace w = worker_space(job, worker);
    /* The longest tiles first: the last one to finish is then a short one. */
    const tile t = find_tile(job, job->n_tiles * a->kv.n_kv_heads - 1 - task);
    load_queries(job, &t, w.q);
    const int64_t pos0 = t.seq->position + t.row0, last = pos0 + t.n_rows - 1;
    const int64_t first = first_visible(a, pos0) / SALA_CPU_ATTN_SPLIT, end = last / SALA_CPU_ATTN_SPLIT + 1;
    const int n_q = query_count(job, &t);
    run_split(job, &t, first, w.q, w.m, w.l, w.acc, w.visible, w.shifted, w.kernel);
    for (int64_t s = first + 1; s < end; s++) {
        run_split(job, &t, s, w.q, w.m2, w.l2, w.acc2, w.visible, w.shifted, w.kernel);
        merge(w.m, w.l, w.acc, w.m2, w.l2, w.acc2, n_q, a->kv.head_dim);
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
    const int64_t pos0 = t.seq->position + t.row0, last = pos0 + t.n_rows - 1;
    if (split < first_visible(job->a, pos0) / SALA_CPU_ATTN_SPLIT || split > last / SALA_CPU_ATTN_SPLIT) {
        for (int i = 0; i < n_q; i++)
            part[n_q + i] = 0;
        return;
    }
    load_queries(job, &t, w.q);
    run_split(job, &t, split, w.q, part, part + n_q, part + 2 * n_q, w.visible, w.shifted, w.kernel);
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

void sala_cpu_attention(sala_backend *be, const sala_attn_args *a)
{
    sala_cpu *cpu = sala_cpu_of(be);
    attn_job job = {.cpu = cpu, .a = a, .group = a->n_heads / a->kv.n_kv_heads};
    job.block_fn = sala_kv_kernels_of(&cpu->k, a->kv.dtype)->attn_block;
    job.rows_per_tile = (int)sala_max_i64(1, tile_queries(job.group) / job.group);
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
    const bool split = job.n_splits > 1 && n_tasks < 4 * cpu->n_workers &&
                       (size_t)(n_tasks * job.n_splits) * job.partial_stride <= cpu->partial_floats;
    if (split) {
        sala_pool_run(cpu->pool, (int)(n_tasks * job.n_splits), split_task, &job);
        sala_pool_run(cpu->pool, (int)n_tasks, merge_task, &job);
    } else {
        sala_pool_run(cpu->pool, (int)n_tasks, tile_task, &job);
    }
}
