/* Cases of `sala bench --ops`: what mixes tokens. Attention over caches of each type, with many queries and with one;
 * the choice of blocks of sparse attention and attention over them; lightning attention; storing into the caches.
 *
 * A cache holds as many layers as the arena has room for, laid out as sessions lay them out (all layers of a block
 * side by side), and calls go from layer to layer, so that one token finds nothing in the processor's caches that the
 * program would not find there. Every block has the content of one of the first few. */
#include "bench_ops_parts.h"

#include <math.h>

enum {
    MOST_BLOCKS = OPS_TOKENS / SALA_KV_BLOCK,
    MOST_LAYERS = 64,
    SEEDED = 4, /* blocks whose content is made, not copied */
    KV_WIDTH = OPS_KV_HEADS * OPS_HEAD_DIM,
    Q_FLOATS = OPS_MOST_ROWS * OPS_HEADS * OPS_HEAD_DIM,
    /* InfLLM-v2 as in MiniCPM4 */
    ROW_KERNEL = 32,
    ROW_STRIDE = 16,
    COARSE = 4,
    INIT_BLOCKS = 1,
    WINDOW_BLOCKS = 32,
    TOP_BLOCKS = 64,
    SELECTED = TOP_BLOCKS + WINDOW_BLOCKS,
    FINE_PAGES = OPS_TOKENS / ROW_STRIDE / SALA_KV_BLOCK,
    COARSE_PAGES = FINE_PAGES / COARSE,
};

typedef struct shape {
    int n_heads, n_kv_heads, d;
} shape;

typedef struct mixer {
    ops_bench *b;
    shape s;
    sala_kv_shape kv;
    sala_rows_shape rows;
    size_t layer_bytes;
    int n_layers, layer; /* layer: of the next call */
    void *blocks[MOST_BLOCKS], *fine[FINE_PAGES], *coarse[COARSE_PAGES];
    sala_attn_seq seq;
    sala_selection selection;
    int32_t *list;
    float *q, *k, *v, *out;
    /* lightning */
    void *state, *pending;
    void *states[1];
    int64_t positions[1];
    size_t state_bytes;
    float decay[OPS_HEADS * (SALA_LIGHTNING_CHUNK + 1)];
} mixer;

static const shape wide = {32, 2, 128}, narrow = {16, 2, 64}, small = {9, 3, 64};

static mixer *new_mixer(ops_bench *b, const shape *s)
{
    float *rows = ops_rows(b);
    if (!ops_arena(b) || !rows)
        return NULL;
    mixer *m = ops_need(b, sizeof *m);
    if (!m)
        return NULL;
    m->b = b;
    m->s = *s;
    m->q = rows;
    m->out = m->q + Q_FLOATS;
    m->k = m->out + Q_FLOATS;
    m->v = m->k + OPS_MOST_ROWS * OPS_HEADS * OPS_HEAD_DIM;
    ops_random(rows, OPS_ROWS_BYTES / sizeof *rows);
    return m;
}

static void free_mixer(mixer *m)
{
    if (m)
        free(m->list);
    free(m);
}

static void next_layer(mixer *m)
{
    m->layer = (m->layer + 1) % m->n_layers;
    m->kv.layer_offset = (size_t)m->layer * m->layer_bytes;
}

static void set_rows(mixer *m, int64_t n_rows, int64_t end)
{
    m->seq = (sala_attn_seq){
        .n_rows = n_rows, .position = end - n_rows, .blocks = m->blocks, .fine = m->fine, .coarse = m->coarse};
}

static void store(void *user)
{
    mixer *m = user;
    m->b->ops->kv_store(m->b->be, &m->seq, 1, &m->kv, m->k, m->v, m->s.n_kv_heads * m->s.d);
    next_layer(m);
}

/* A cache of n_tokens in the arena, in all its layers. */
static void fill_cache(mixer *m, sala_dtype type, int64_t n_tokens)
{
    const int64_t n_blocks = n_tokens / SALA_KV_BLOCK;
    m->layer_bytes = 2 * (size_t)m->s.n_kv_heads * sala_kv_head_bytes(type, m->s.d);
    m->n_layers = (int)sala_min_i64(MOST_LAYERS, OPS_ARENA / ((int64_t)m->layer_bytes * n_blocks));
    m->kv = (sala_kv_shape){type, m->s.n_kv_heads, m->s.d, 0};
    for (int64_t i = 0; i < n_blocks; i++)
        m->blocks[i] = m->b->arena + (size_t)i * (size_t)m->n_layers * m->layer_bytes;
    set_rows(m, SEEDED * SALA_KV_BLOCK, SEEDED * SALA_KV_BLOCK);
    store(m);
    for (int64_t i = 0; i < n_blocks; i++)
        for (int l = 0; l < m->n_layers; l++)
            if (i >= SEEDED || l > 0)
                memcpy((uint8_t *)m->blocks[i] + (size_t)l * m->layer_bytes, m->blocks[i % SEEDED], m->layer_bytes);
}

/* ---- dense attention ---- */

static void attend(void *user)
{
    mixer *m = user;
    const int64_t width = (int64_t)m->s.n_heads * m->s.d;
    const sala_attn_args args = {.seqs = &m->seq,
                                 .n_seqs = 1,
                                 .n_rows = m->seq.n_rows,
                                 .kv = m->kv,
                                 .n_heads = m->s.n_heads,
                                 .scale = 1.0f / sqrtf((float)m->s.d),
                                 .selection = m->list ? &m->selection : NULL,
                                 .q = m->q,
                                 .q_stride = width,
                                 .out = m->out,
                                 .out_stride = width};
    m->b->ops->attention(m->b->be, &args);
    next_layer(m);
}

/* Bytes of a token in one layer's cache. */
static double token_bytes(const mixer *m)
{
    return (double)m->layer_bytes / SALA_KV_BLOCK;
}

static const char *count(char dst[16], int64_t n)
{
    snprintf(dst, 16, n % 1024 ? "%lld" : "%lldK", (long long)(n % 1024 ? n : n / 1024));
    return dst;
}

static const char *cache_name(sala_dtype type)
{
    return type == SALA_Q4_1 ? "q4" : type == SALA_Q8_0 ? "q8_0" : type == SALA_F16 ? "f16" : "f32";
}

/* Codes are multiplied in integers, except by the reference. */
static ops_limit_id multiplier(const ops_bench *b, sala_dtype type)
{
    const bool codes = type == SALA_Q8_0 || type == SALA_Q4_1;
    return codes && b->loops.i8.run && !b->is_ref ? OPS_I8 : OPS_F32;
}

static void attention_case(ops_bench *b, const shape *s, sala_dtype type, int64_t n_rows, int64_t n_tokens)
{
    char end[16];
    if (!ops_begin(b, n_rows > 1 ? "attention, prefill" : "attention, decode", cache_name(type),
                   "head %d, group %d, %lld row%s at %s", s->d, s->n_heads / s->n_kv_heads, (long long)n_rows,
                   n_rows > 1 ? "s" : "", count(end, n_tokens)))
        return;
    mixer *m = new_mixer(b, s);
    if (m) {
        fill_cache(m, type, n_tokens);
        set_rows(m, n_rows, n_tokens);
        const double keys = (double)n_tokens - (double)(n_rows - 1) / 2; /* that a row sees, on average */
        ops_time(b, attend, m,
                 (ops_work){.bytes = token_bytes(m) * (double)n_tokens,
                            .operations = 4.0 * s->d * s->n_heads * keys * (double)n_rows,
                            .bytes_limit = OPS_MEMORY,
                            .operations_limit = multiplier(b, type)});
    }
    free_mixer(m);
}

static void store_case(ops_bench *b, sala_dtype type)
{
    if (!ops_begin(b, "cache", cache_name(type), "store, head %d, %d heads, %d rows", OPS_HEAD_DIM, OPS_KV_HEADS,
                   OPS_MOST_ROWS))
        return;
    mixer *m = new_mixer(b, &wide);
    if (m) {
        fill_cache(m, type, 4096);
        set_rows(m, OPS_MOST_ROWS, 4096);
        ops_time(b, store, m,
                 (ops_work){.bytes = OPS_MOST_ROWS * (token_bytes(m) + 2.0 * KV_WIDTH * sizeof(float)),
                            .bytes_limit = OPS_COPY});
    }
    free_mixer(m);
}

/* ---- sparse attention ---- */

/* Compressed keys of as many layers as the arena holds: numbers of deviation 1. */
static bool fill_pages(mixer *m)
{
    const size_t page = (size_t)m->s.n_kv_heads * (size_t)m->s.d * SALA_KV_BLOCK * sizeof(uint16_t);
    m->layer_bytes = page;
    m->n_layers = (int)sala_min_i64(MOST_LAYERS, OPS_ARENA / (int64_t)(page * (FINE_PAGES + COARSE_PAGES)));
    m->rows = (sala_rows_shape){SALA_F16, ROW_KERNEL, ROW_STRIDE, COARSE, 0};
    const size_t layers = (size_t)m->n_layers, floats = page / sizeof(uint16_t);
    float *x = ops_need(m->b, floats * sizeof *x);
    sala_rng rng;
    sala_rng_seed(&rng, 2);
    for (int i = 0; x && i < FINE_PAGES + COARSE_PAGES; i++) {
        uint8_t *at = m->b->arena + (size_t)i * layers * page;
        *(i < FINE_PAGES ? &m->fine[i] : &m->coarse[i - FINE_PAGES]) = at;
        for (size_t j = 0; j < floats; j++) /* pages differ, or all blocks would have the same score */
            x[j] = (float)(2 * sala_rng_uniform(&rng) - 1);
        for (size_t l = 0; l < layers; l++)
            m->b->k.f32_to_f16((uint16_t *)(void *)(at + l * page), x, (int64_t)floats);
    }
    free(x);
    return x != NULL;
}

static void select_blocks(void *user)
{
    mixer *m = user;
    const sala_select_args args = {.seqs = &m->seq,
                                   .n_seqs = 1,
                                   .n_rows = m->seq.n_rows,
                                   .rows = m->rows,
                                   .n_heads = m->s.n_heads,
                                   .n_kv_heads = m->s.n_kv_heads,
                                   .head_dim = m->s.d,
                                   .scale = 1.0f / sqrtf((float)m->s.d),
                                   .init_blocks = INIT_BLOCKS,
                                   .window_blocks = WINDOW_BLOCKS,
                                   .q = m->q,
                                   .q_stride = (int64_t)m->s.n_heads * m->s.d,
                                   .out = m->selection};
    m->b->ops->select(m->b->be, &args);
    next_layer(m);
    m->rows.layer_offset = m->kv.layer_offset;
}

static bool new_list(mixer *m, int64_t n_rows)
{
    m->list = ops_need(m->b, (size_t)n_rows * (size_t)m->s.n_kv_heads * (1 + SELECTED + 1) * sizeof *m->list);
    m->selection = (sala_selection){m->list, SELECTED + 1, SALA_KV_BLOCK};
    return m->list != NULL;
}

static void select_case(ops_bench *b, int64_t n_rows)
{
    char end[16];
    if (!ops_begin(b, "sparse", "select", "head %d, group %d, %lld row%s at %s", wide.d, wide.n_heads / wide.n_kv_heads,
                   (long long)n_rows, n_rows > 1 ? "s" : "", count(end, OPS_TOKENS)))
        return;
    mixer *m = new_mixer(b, &wide);
    if (m && fill_pages(m) && new_list(m, n_rows)) {
        set_rows(m, n_rows, OPS_TOKENS);
        const double compressed = (double)OPS_TOKENS / ROW_STRIDE * (1 + 1.0 / COARSE);
        ops_time(b, select_blocks, m,
                 (ops_work){.bytes = compressed * KV_WIDTH * sizeof(uint16_t),
                            .operations = 2.0 * wide.d * wide.n_heads * compressed * (double)n_rows,
                            .bytes_limit = OPS_MEMORY,
                            .operations_limit = OPS_F32});
    }
    free_mixer(m);
}

/* The first block, a window, and others that no two rows share more of than chance has it. */
static void random_selection(mixer *m, int64_t n_rows)
{
    sala_rng rng;
    sala_rng_seed(&rng, 3);
    const int n_blocks = OPS_TOKENS / SALA_KV_BLOCK, window = n_blocks - WINDOW_BLOCKS - 1;
    for (int64_t i = 0; i < n_rows * m->s.n_kv_heads; i++) {
        int32_t *list = m->list + i * (1 + m->selection.most);
        int n = 0;
        list[1 + n++] = 0;
        int left = SELECTED - WINDOW_BLOCKS - INIT_BLOCKS; /* to be drawn from those that remain */
        for (int block = INIT_BLOCKS; block < window; block++)
            if (sala_rng_uniform(&rng) * (window - block) < left && left-- > 0)
                list[1 + n++] = block;
        for (int block = window; block < n_blocks; block++)
            list[1 + n++] = block;
        list[0] = n;
    }
}

static void gathered_case(ops_bench *b, sala_dtype type, int64_t n_rows)
{
    char end[16];
    if (!ops_begin(b, "sparse", "attend", "%s, head %d, group %d, %lld row%s at %s", cache_name(type), wide.d,
                   wide.n_heads / wide.n_kv_heads, (long long)n_rows, n_rows > 1 ? "s" : "", count(end, OPS_TOKENS)))
        return;
    mixer *m = new_mixer(b, &wide);
    if (m && new_list(m, n_rows)) {
        fill_cache(m, type, OPS_TOKENS);
        set_rows(m, n_rows, OPS_TOKENS);
        random_selection(m, n_rows);
        const double keys = (double)m->list[0] * SALA_KV_BLOCK;
        const double read = keys * (double)n_rows < OPS_TOKENS ? keys * (double)n_rows : OPS_TOKENS;
        ops_time(b, attend, m,
                 (ops_work){.bytes = token_bytes(m) * read,
                            .operations = 4.0 * wide.d * wide.n_heads * keys * (double)n_rows,
                            .bytes_limit = OPS_MEMORY,
                            .operations_limit = multiplier(b, type)});
    }
    free_mixer(m);
}

/* The two kernels of stage 1 by themselves: each thread takes its own 64 queries over all pages of a layer. */
typedef struct stage1 {
    mixer *m;
    bool mass;
    float *scratch; /* [workers] */
    size_t worker_floats;
} stage1;

enum { STAGE1_QUERIES = 64 };

static void stage1_task(void *user, int task, int worker)
{
    const stage1 *s = user;
    const mixer *m = s->m;
    const int d = m->s.d, group = m->s.n_heads / m->s.n_kv_heads;
    const float *q = m->q + (size_t)task * STAGE1_QUERIES * (size_t)d;
    float *mm = s->scratch + (size_t)worker * s->worker_floats, *l = mm + STAGE1_QUERIES, *p = l + STAGE1_QUERIES;
    float *kernel = p + STAGE1_QUERIES * SALA_KV_BLOCK;
    int32_t visible[STAGE1_QUERIES];
    for (int i = 0; i < STAGE1_QUERIES; i++) {
        visible[i] = SALA_KV_BLOCK;
        mm[i] = s->mass ? 60.0f : -INFINITY;
        l[i] = 0;
    }
    for (int page = 0; page < FINE_PAGES; page++) {
        const uint8_t *rows = (const uint8_t *)m->fine[page] + m->kv.layer_offset;
        const uint8_t *next = page + 1 < FINE_PAGES ? (const uint8_t *)m->fine[page + 1] + m->kv.layer_offset : NULL;
        if (s->mass)
            m->b->k.rows_mass_f16(p, SALA_KV_BLOCK, q, mm, rows, STAGE1_QUERIES, group, d, visible, kernel, next);
        else
            m->b->k.rows_lse_f16(mm, l, q, rows, STAGE1_QUERIES, d, visible, kernel, next);
    }
}

static void stage1_all(void *user)
{
    stage1 *s = user;
    sala_pool_run(s->m->b->pool, 2 * sala_pool_size(s->m->b->pool), stage1_task, s);
    next_layer(s->m);
}

static void stage1_case(ops_bench *b, const char *name, bool mass)
{
    if (!ops_begin(b, "sparse", name, "f16, head %d, %d queries, %d rows", wide.d, STAGE1_QUERIES,
                   FINE_PAGES * SALA_KV_BLOCK))
        return;
    mixer *m = new_mixer(b, &wide);
    if (m && fill_pages(m)) {
        stage1 s = {.m = m, .mass = mass};
        s.worker_floats = STAGE1_QUERIES * (2 + SALA_KV_BLOCK) + SALA_ATTN_SCRATCH(STAGE1_QUERIES, wide.d);
        const int n_tasks = 2 * sala_pool_size(b->pool);
        s.scratch = ops_need(b, (size_t)sala_pool_size(b->pool) * s.worker_floats * sizeof *s.scratch);
        const double pairs = (double)n_tasks * STAGE1_QUERIES * FINE_PAGES * SALA_KV_BLOCK;
        if (s.scratch)
            ops_time(b, stage1_all, &s,
                     (ops_work){.bytes = (double)FINE_PAGES * wide.d * SALA_KV_BLOCK * sizeof(uint16_t),
                                .operations = 2.0 * wide.d * pairs,
                                .bytes_limit = OPS_MEMORY,
                                .operations_limit = OPS_F32});
        free(s.scratch);
    }
    free_mixer(m);
}

static void compress(void *user)
{
    mixer *m = user;
    m->b->ops->compress(m->b->be, &m->seq, 1, &m->kv, &m->rows);
    m->layer = (m->layer + 1) % m->n_layers; /* pages have one layer */
    m->kv.layer_offset = (size_t)m->layer * m->layer_bytes;
}

static void compress_case(ops_bench *b)
{
    if (!ops_begin(b, "sparse", "compress", "f16, head %d, %d heads, %d rows", OPS_HEAD_DIM, OPS_KV_HEADS,
                   OPS_MOST_ROWS))
        return;
    enum { TOKENS = 4096, PAGES = TOKENS / ROW_STRIDE / SALA_KV_BLOCK };
    mixer *m = new_mixer(b, &wide);
    const size_t page = (size_t)KV_WIDTH * SALA_KV_BLOCK * sizeof(uint16_t);
    uint8_t *pages = m ? ops_need(b, (PAGES + 1) * page) : NULL;
    if (pages) {
        fill_cache(m, SALA_F16, TOKENS);
        set_rows(m, OPS_MOST_ROWS, TOKENS);
        m->rows = (sala_rows_shape){SALA_F16, ROW_KERNEL, ROW_STRIDE, COARSE, 0};
        for (int i = 0; i < PAGES; i++)
            m->fine[i] = pages + (size_t)i * page;
        m->coarse[0] = pages + PAGES * page;
        const double rows = (double)OPS_MOST_ROWS / ROW_STRIDE * (1 + 1.0 / COARSE);
        ops_time(b, compress, m,
                 (ops_work){.bytes = (OPS_MOST_ROWS + rows) * KV_WIDTH * sizeof(uint16_t), .bytes_limit = OPS_COPY});
    }
    free(pages);
    free_mixer(m);
}

/* ---- lightning attention ---- */

static void lightning(void *user)
{
    mixer *m = user;
    const int64_t width = (int64_t)OPS_HEADS * OPS_HEAD_DIM;
    const sala_lightning_args args = {.seqs = &m->seq,
                                      .n_seqs = 1,
                                      .n_rows = m->seq.n_rows,
                                      .n_heads = OPS_HEADS,
                                      .n_kv_heads = OPS_HEADS,
                                      .head_dim = OPS_HEAD_DIM,
                                      .state_offset = (size_t)m->layer * m->state_bytes,
                                      .pending_offset = (size_t)m->layer * m->state_bytes,
                                      .scale = 0.0883883f,
                                      .decay = m->decay,
                                      .q = m->q,
                                      .k = m->k,
                                      .v = m->v,
                                      .q_stride = width,
                                      .kv_stride = width,
                                      .out = m->out,
                                      .out_stride = width};
    m->b->ops->lightning(m->b->be, &args);
    m->layer = (m->layer + 1) % m->n_layers;
}

static void lightning_case(ops_bench *b, int64_t n_rows)
{
    const bool one = n_rows == 1;
    if (!ops_begin(b, "lightning", one ? "step" : "chunks", "head %d, %d heads, %lld row%s", OPS_HEAD_DIM, OPS_HEADS,
                   (long long)n_rows, one ? "" : "s"))
        return;
    mixer *m = new_mixer(b, &wide);
    if (m) {
        /* A state, its successor and the pending rows of a head are of one size, which keeps layers apart simply. */
        const double d = OPS_HEAD_DIM, half = SALA_LIGHTNING_CHUNK / 2;
        m->state_bytes = (size_t)OPS_HEADS * OPS_HEAD_DIM * OPS_HEAD_DIM * sizeof(float);
        m->n_layers = (int)(OPS_ARENA / (3 * m->state_bytes));
        const size_t all = (size_t)m->n_layers * m->state_bytes;
        m->state = b->arena;
        m->pending = b->arena + all;
        m->states[0] = b->arena + 2 * all;
        m->positions[0] = SALA_LIGHTNING_CHUNK + n_rows;
        /* A half chunk is pending before the single token: the mean of decoding. */
        ops_random((float *)(void *)b->arena, 2 * all / sizeof(float));
        for (int h = 0; h < OPS_HEADS; h++)
            for (int i = 0; i <= SALA_LIGHTNING_CHUNK; i++)
                m->decay[h * (SALA_LIGHTNING_CHUNK + 1) + i] = expf(-0.01f * (float)((h + 1) * i));
        set_rows(m, n_rows, SALA_LIGHTNING_CHUNK + n_rows + (one ? SALA_LIGHTNING_CHUNK / 2 : 0));
        m->seq.linear = (sala_linear_seq){.state_in = m->state,
                                          .pending = one ? m->pending : NULL,
                                          .pending_out = one ? m->pending : NULL,
                                          .n_states = one ? 0 : 1,
                                          .positions = m->positions,
                                          .states = m->states};
        const double token = one ? 2 * d * d + 4 * d * half : 4 * d * d + 4 * d * (half + 0.5);
        ops_time(b, lightning, m,
                 (ops_work){.bytes = OPS_HEADS * sizeof(float) *
                                     (one ? d * d + 2 * d * half : 2 * d * d + 4.0 * (double)n_rows * d),
                            .operations = OPS_HEADS * (double)n_rows * token,
                            .bytes_limit = OPS_MEMORY,
                            .operations_limit = OPS_F32});
    }
    free_mixer(m);
}

void ops_mixer_cases(ops_bench *b)
{
    static const sala_dtype caches[] = {SALA_F16, SALA_Q8_0, SALA_Q4_1, SALA_F32};
    static const shape *const shapes[] = {&narrow, &wide};
    for (int many = 1; many >= 0; many--) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(caches); i++)
            for (size_t s = 0; s < SALA_ARRAY_LEN(shapes); s++)
                attention_case(b, shapes[s], caches[i], many ? 128 : 1, many ? 4096 : 32768);
        attention_case(b, &small, SALA_F16, many ? 128 : 1, many ? 4096 : 32768);
        if (many)
            attention_case(b, &wide, SALA_F16, 256, 256);
    }
    stage1_case(b, "lse", false);
    stage1_case(b, "mass", true);
    select_case(b, 128);
    select_case(b, 1);
    gathered_case(b, SALA_F16, 64);
    gathered_case(b, SALA_F16, 1);
    compress_case(b);
    lightning_case(b, OPS_MOST_ROWS);
    lightning_case(b, 1);
    for (size_t i = 0; i < SALA_ARRAY_LEN(caches); i++)
        store_case(b, caches[i]);
}
