/* InfLLM-v2 through the backend's operations: frozen vectors of the reference, compressed keys, selections and outputs;
 * then, on random content, that neither chunks nor the sharing of work change a bit, up to many thousand blocks. */
#include "unit/backend/support.h"

#include "check/kv_query.h"
#include "kernels/kernels.h"
#include "os/os.h"

#include <float.h>

enum { OFFSET = 256 }; /* other layers' bytes before ours, which nobody may touch */

/* The caches of one layer of one session, with room for `cap` tokens. */
typedef struct cache {
    sala_kv_shape kv, raw;
    sala_rows_shape rows;
    bool has_raw;
    int64_t cap, n_blocks, n_fine, n_coarse;
    size_t block_bytes, page_bytes;
    void **blocks, **fine, **coarse;
    int64_t length;
} cache;

typedef struct shape {
    int kernel, stride, block, init, window, topk;
    int n_heads, n_kv_heads, d;
    float scale;
} shape;

static int most_of(const shape *s)
{
    return s->topk + s->window / s->block;
}

static void **new_pages(int64_t n, size_t bytes)
{
    void **pages = malloc((size_t)(n + 1) * sizeof *pages);
    assert_non_null(pages);
    for (int64_t i = 0; i < n; i++) {
        pages[i] = malloc(bytes);
        assert_non_null(pages[i]);
        memset(pages[i], 0xff, bytes); /* not-a-number: what was not stored must not be used */
    }
    return pages;
}

static void free_pages(void **pages, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(pages[i]);
    free(pages);
}

static cache new_cache(const shape *s, sala_dtype type, int64_t cap, bool raw)
{
    const size_t head = sala_kv_head_bytes(type, s->d), heads = (size_t)s->n_kv_heads;
    const sala_dtype row_type = type == SALA_F32 ? SALA_F32 : SALA_F16;
    cache c = {.kv = {type, s->n_kv_heads, s->d, OFFSET}, .has_raw = raw, .cap = cap};
    c.raw = c.kv;
    c.raw.layer_offset += 2 * heads * head;
    c.rows = (sala_rows_shape){row_type, s->kernel, s->stride, 4, OFFSET};
    c.block_bytes = OFFSET + 3 * heads * head;
    c.page_bytes = OFFSET + heads * (size_t)s->d * SALA_KV_BLOCK * (row_type == SALA_F32 ? 4 : 2);
    c.n_blocks = cap / SALA_KV_BLOCK + 1;
    c.n_fine = cap / s->stride / SALA_KV_BLOCK + 1;
    c.n_coarse = cap / s->stride / 4 / SALA_KV_BLOCK + 1;
    c.blocks = new_pages(c.n_blocks, c.block_bytes);
    c.fine = new_pages(c.n_fine, c.page_bytes);
    c.coarse = new_pages(c.n_coarse, c.page_bytes);
    return c;
}

static void free_cache(cache *c)
{
    free_pages(c->blocks, c->n_blocks);
    free_pages(c->fine, c->n_fine);
    free_pages(c->coarse, c->n_coarse);
}

static void same_caches(const cache *a, const cache *b, const char *what)
{
    for (int64_t i = 0; i < a->n_blocks; i++)
        same_bits(a->blocks[i], b->blocks[i], a->block_bytes, what);
    for (int64_t i = 0; i < a->n_fine; i++)
        same_bits(a->fine[i], b->fine[i], a->page_bytes, what);
    for (int64_t i = 0; i < a->n_coarse; i++)
        same_bits(a->coarse[i], b->coarse[i], a->page_bytes, what);
}

static sala_attn_seq sequence(const cache *c, int64_t first_row, int64_t n_rows, int64_t position)
{
    return (sala_attn_seq){.first_row = first_row,
                           .n_rows = n_rows,
                           .position = position,
                           .blocks = c->blocks,
                           .fine = c->fine,
                           .coarse = c->coarse};
}

/* Tokens [length, length + n); k, v, k_score [tokens][n_kv_heads * d] from token 0 on. */
static void put(sala_backend *be, cache *c, const float *k, const float *v, const float *k_score, int64_t n)
{
    const int64_t width = (int64_t)c->kv.n_kv_heads * c->kv.head_dim, at = c->length * width;
    const sala_attn_seq seq = sequence(c, 0, n, c->length);
    be->ops->kv_store(be, &seq, 1, &c->kv, k + at, v + at, width);
    if (c->has_raw)
        be->ops->key_store(be, &seq, 1, &c->raw, k_score + at, width);
    be->ops->compress(be, &seq, 1, c->has_raw ? &c->raw : &c->kv, &c->rows);
    c->length += n;
}

static void select_blocks(sala_backend *be, const shape *s, const cache *c, const sala_attn_seq *seqs, int n_seqs,
                          int64_t n_rows, const float *q, int32_t *list)
{
    const sala_select_args args = {.seqs = seqs,
                                   .n_seqs = n_seqs,
                                   .n_rows = n_rows,
                                   .rows = c->rows,
                                   .n_heads = s->n_heads,
                                   .n_kv_heads = s->n_kv_heads,
                                   .head_dim = s->d,
                                   .scale = s->scale,
                                   .init_blocks = s->init,
                                   .window_blocks = s->window / s->block,
                                   .q = q,
                                   .q_stride = (int64_t)s->n_heads * s->d,
                                   .out = {list, most_of(s), s->block}};
    be->ops->select(be, &args);
}

static void attend(sala_backend *be, const shape *s, const cache *c, const sala_attn_seq *seqs, int n_seqs,
                   int64_t n_rows, const float *q, int32_t *list, int64_t window, float *out)
{
    const sala_selection selection = {list, most_of(s), s->block};
    const int64_t width = (int64_t)s->n_heads * s->d;
    const sala_attn_args args = {.seqs = seqs,
                                 .n_seqs = n_seqs,
                                 .n_rows = n_rows,
                                 .kv = c->kv,
                                 .n_heads = s->n_heads,
                                 .scale = s->scale,
                                 .window = window,
                                 .selection = list ? &selection : NULL,
                                 .q = q,
                                 .q_stride = width,
                                 .out = out,
                                 .out_stride = width};
    be->ops->attention(be, &args);
}

static sala_backend *backend_for(const shape *s, const char *kernels, int threads)
{
    return open_backend(kernels, threads,
                        &(sala_backend_limits){.rows = 1024,
                                               .cols = 64,
                                               .tokens = 1 << 20,
                                               .n_heads = s->n_heads,
                                               .n_kv_heads = s->n_kv_heads,
                                               .head_dim = s->d,
                                               .selected = most_of(s)});
}

/* ---- frozen vectors ---- */

static int n_compared, n_close_calls;

static shape shape_of(const json_t *c)
{
    const int group = (int)integer(c, "group");
    return (shape){(int)integer(c, "kernel"),
                   (int)integer(c, "stride"),
                   (int)integer(c, "block"),
                   (int)integer(c, "init"),
                   (int)integer(c, "window"),
                   (int)integer(c, "topk"),
                   group,
                   1,
                   (int)integer(c, "d"),
                   (float)json_real_value(json_object_get(c, "scale"))};
}

/* The list of a row against the frozen one; a list of everything has no entries. */
static bool same_selection(const int32_t *list, const json_t *query, const shape *s)
{
    const json_t *want = json_object_get(query, "blocks");
    const int64_t n = (int64_t)json_array_size(want), own = integer(query, "position") / s->block;
    if (list[0] < 0)
        return n == own + 1;
    if (list[0] != n)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (list[1 + i] != json_integer_value(json_array_get(want, (size_t)i)))
            return false;
    return true;
}

static void check_query(sala_backend *be, const shape *s, const cache *c, const json_t *query, double tolerance,
                        double clear, int32_t *list_out, float *out, const char *where)
{
    size_t n = 0, m = 0;
    float *q = numbers(query, "q", &n), *q_score = numbers(query, "q_score", &m);
    float *want = numbers(query, "output", &m), *dense = numbers(query, "dense", &m);
    assert_true(q && want && dense && n == (size_t)(s->n_heads * s->d) && m == n);
    sala_attn_seq seq = sequence(c, 0, 1, integer(query, "position"));
    select_blocks(be, s, c, &seq, 1, 1, q_score ? q_score : q, list_out);
    const json_t *gap = json_object_get(query, "gap");
    const bool same = same_selection(list_out, query, s);
    if (!same && (!json_is_number(gap) || json_number_value(gap) > clear))
        fail_msg("%s, position %lld: another selection (of %d blocks)", where, (long long)seq.position, list_out[0]);
    attend(be, s, c, &seq, 1, 1, q, list_out, 0, out);
    n_compared += same;
    n_close_calls += !same;
    if (same)
        close_to(out, want, n, tolerance, "output", where);
    float other[512];
    attend(be, s, c, &seq, 1, 1, q, NULL, 0, other);
    close_to(other, dense, n, tolerance, "dense output", where);
    /* Before the session's switch a row sees everything. */
    int32_t list[64];
    seq.sparse_from = seq.position + 1;
    select_blocks(be, s, c, &seq, 1, 1, q_score ? q_score : q, list);
    assert_int_equal(list[0], -1);
    attend(be, s, c, &seq, 1, 1, q, list, 0, other);
    close_to(other, dense, n, tolerance, "output before the switch", where);
    free(q);
    free(q_score);
    free(want);
    free(dense);
}

/* All queries as rows of one call, of as many sessions: the same bits as one by one. */
static void check_ragged(sala_backend *be, const shape *s, const cache *c, const json_t *queries, const int32_t *lists,
                         const float *outs)
{
    const size_t n_q = json_array_size(queries), width = (size_t)(s->n_heads * s->d), stride = (size_t)most_of(s) + 1;
    sala_attn_seq seqs[16];
    float *q = malloc(n_q * width * sizeof *q), *score = malloc(n_q * width * sizeof *score);
    float *out = malloc(n_q * width * sizeof *out);
    int32_t *list = malloc(n_q * stride * sizeof *list);
    assert_true(q && score && out && list && n_q <= SALA_ARRAY_LEN(seqs));
    for (size_t i = 0; i < n_q; i++) {
        const json_t *query = json_array_get(queries, i);
        size_t n;
        float *a = numbers(query, "q", &n), *b = numbers(query, "q_score", &n);
        memcpy(q + i * width, a, width * sizeof *q);
        memcpy(score + i * width, b ? b : a, width * sizeof *q);
        free(a);
        free(b);
        seqs[i] = sequence(c, (int64_t)i, 1, integer(query, "position"));
    }
    select_blocks(be, s, c, seqs, (int)n_q, (int64_t)n_q, score, list);
    attend(be, s, c, seqs, (int)n_q, (int64_t)n_q, q, list, 0, out);
    for (size_t i = 0; i < n_q; i++) {
        const int32_t *one = lists + i * stride;
        same_bits(list + i * stride, one, (one[0] < 0 ? 1 : 1 + (size_t)one[0]) * sizeof *one, "ragged selection");
    }
    same_bits(out, outs, n_q * width * sizeof *out, "ragged output");
    free(q);
    free(score);
    free(out);
    free(list);
}

static void check_rows(const json_t *c, const char *key, void *const *pages, int d)
{
    size_t n;
    float *want = numbers(c, key, &n);
    if (!want)
        return;
    for (size_t i = 0; i < n; i++) {
        const size_t row = i / (size_t)d, at = i % (size_t)d * SALA_KV_BLOCK + row % SALA_KV_BLOCK;
        const float *page = (const float *)(const void *)((const uint8_t *)pages[row / SALA_KV_BLOCK] + OFFSET);
        if (!(fabsf(page[at] - want[i]) <= 1e-6f))
            fail_msg("%s: compressed key %zu is %.9g, expected %.9g", key, row, (double)page[at], (double)want[i]);
    }
    n_compared++;
    free(want);
}

/* clear: selections that were closer than this may differ. */
static void check_frozen(const char *kernels, sala_dtype type, double tolerance, double clear)
{
    json_t *frozen = open_frozen("infllm2.json"), *c;
    size_t i;
    sala_rng rng;
    sala_rng_seed(&rng, 1);
    n_compared = n_close_calls = 0;
    json_array_foreach(json_object_get(frozen, "cases"), i, c)
    {
        const shape s = shape_of(c);
        const char *name = json_string_value(json_object_get(c, "name"));
        const int64_t n = integer(c, "n");
        size_t count = 0, n_score;
        float *k = numbers(c, "k", &count), *v = numbers(c, "v", &count), *k_score = numbers(c, "k_score", &n_score);
        assert_int_equal(count, n * s.d);
        sala_backend *be = backend_for(&s, kernels, 2);
        cache store = new_cache(&s, type, n, k_score != NULL);
        while (store.length < n)
            put(be, &store, k, v, k_score, sala_min_i64(n - store.length, 1 + (int64_t)(sala_rng_next(&rng) % 50)));
        if (type == SALA_F32) {
            check_rows(c, "k1", store.fine, s.d);
            check_rows(c, "k2", store.coarse, s.d);
        }
        const json_t *queries = json_object_get(c, "queries");
        json_t *query;
        size_t j;
        const size_t width = (size_t)(s.n_heads * s.d), stride = (size_t)most_of(&s) + 1;
        int32_t *lists = calloc(json_array_size(queries) * stride, sizeof *lists);
        float *outs = calloc(json_array_size(queries) * width, sizeof *outs);
        json_array_foreach((json_t *)(uintptr_t)queries, j, query)
            check_query(be, &s, &store, query, tolerance, clear, lists + j * stride, outs + j * width, name);
        check_ragged(be, &s, &store, queries, lists, outs);
        free(lists);
        free(outs);
        free(k);
        free(v);
        free(k_score);
        free_cache(&store);
        be->ops->close(be);
    }
    assert_true(i >= 10);
    json_decref(frozen);
    printf("%s, %s: %d compared, %d close calls\n", kernels, sala_dtype_name(type), n_compared, n_close_calls);
    assert_true(n_compared > 3 * n_close_calls);
}

static void frozen_ref(void **state)
{
    (void)state;
    check_frozen("ref", SALA_F32, 1e-5, 0);
    assert_int_equal(n_close_calls, 0);
}

static void frozen_auto(void **state)
{
    (void)state;
    check_frozen("auto", SALA_F32, 1e-4, 0);
    assert_int_equal(n_close_calls, 0);
}

/* Keys of three decimals lose up to 5e-4 of themselves in f16, scores (exponentials of sums) several times that. */
static void frozen_f16(void **state)
{
    (void)state;
    check_frozen("ref", SALA_F16, 5e-3, 0.02);
    check_frozen("auto", SALA_F16, 5e-3, 0.02);
}

/* ---- random content ---- */

static const shape shapes[] = {
    {4, 2, 8, 1, 16, 4, 2, 1, 8, 0.5f},       {8, 4, 16, 0, 32, 6, 6, 2, 12, 0.4f},
    {8, 8, 24, 1, 48, 3, 3, 3, 16, 0.3f},     {16, 8, 64, 1, 64, 4, 5, 1, 16, 0.25f},
    {32, 16, 64, 2, 128, 5, 16, 1, 32, 0.2f}, {32, 16, 128, 1, 128, 3, 4, 2, 16, 0.25f},
    {4, 2, 2, 1, 6, 12, 4, 4, 4, 0.5f},       {16, 16, 192, 1, 192, 2, 80, 1, 4, 0.5f},
};

/* Prefill in one call, and in any chunks down to one token, beside another session: the same bits everywhere. */
static void check_chunks(const shape *s, const char *kernels, sala_dtype type, sala_rng *rng)
{
    enum { N = 1300 };
    const size_t kv = (size_t)(s->n_kv_heads * s->d), width = (size_t)(s->n_heads * s->d);
    const size_t stride = (size_t)s->n_kv_heads * ((size_t)most_of(s) + 1);
    float *k = random_rows(rng, N * kv, 1), *v = random_rows(rng, N * kv, 1), *ks = random_rows(rng, N * kv, 1);
    float *q = random_rows(rng, N * width, 2), *qs = random_rows(rng, N * width, 2);
    float *out = malloc(N * width * sizeof *out), *again = malloc(2 * N * width * sizeof *out);
    int32_t *list = calloc(N * stride, sizeof *list), *list2 = calloc(2 * N * stride, sizeof *list);
    float *two = malloc(4 * N * width * sizeof *two), *two_s = two + 2 * N * width;
    assert_true(out && again && list && list2 && two);
    sala_backend *be = backend_for(s, kernels, 2);
    const bool raw = sala_rng_next(rng) % 2;
    const int64_t sparse_from = (int64_t)(sala_rng_next(rng) % 300);
    cache a = new_cache(s, type, N, raw), b = new_cache(s, type, N, raw);

    /* More rows than the released program runs at once. */
    put(be, &a, k, v, ks, N);
    sala_attn_seq seq = sequence(&a, 0, N, 0);
    seq.sparse_from = sparse_from;
    select_blocks(be, s, &a, &seq, 1, N, raw ? qs : q, list);
    attend(be, s, &a, &seq, 1, N, q, list, 0, out);
    for (size_t i = 0; i < N * width; i++)
        assert_true(isfinite(out[i]));

    while (b.length < N) {
        const int64_t at = b.length;
        int64_t n = 1 + (int64_t)(sala_rng_next(rng) % 3 == 0 ? sala_rng_next(rng) % 400 : sala_rng_next(rng) % 5);
        n = sala_min_i64(n, N - at);
        put(be, &b, k, v, ks, n);
        /* The other session is `a`, somewhere in its past. */
        const int64_t m = 1 + (int64_t)(sala_rng_next(rng) % 20), p = (int64_t)(sala_rng_next(rng) % (N - 20));
        sala_attn_seq seqs[2] = {sequence(&b, 0, n, at), sequence(&a, n, m, p)};
        const int n_seqs = 1 + (int)(sala_rng_next(rng) % 2);
        seqs[0].sparse_from = seqs[1].sparse_from = sparse_from;
        for (int part = 0; part < n_seqs; part++) {
            const size_t from = (size_t)seqs[part].position * width, to = (size_t)seqs[part].first_row * width;
            const size_t floats = (size_t)seqs[part].n_rows * width;
            memcpy(two + to, q + from, floats * sizeof *two);
            memcpy(two_s + to, (raw ? qs : q) + from, floats * sizeof *two);
        }
        const int64_t n_rows = n + (n_seqs == 2 ? m : 0);
        select_blocks(be, s, &b, seqs, n_seqs, n_rows, two_s, list2);
        attend(be, s, &b, seqs, n_seqs, n_rows, two, list2, 0, again);
        for (int64_t r = 0; r < n_rows; r++) {
            const int64_t token = r < n ? at + r : p + r - n;
            for (int h = 0; h < s->n_kv_heads; h++) {
                const size_t one = (size_t)h * ((size_t)most_of(s) + 1);
                const int32_t *x = list2 + (size_t)r * stride + one, *y = list + (size_t)token * stride + one;
                same_bits(x, y, (y[0] < 0 ? 1 : 1 + (size_t)y[0]) * sizeof *y, "selection in chunks");
            }
            same_bits(again + (size_t)r * width, out + (size_t)token * width, width * sizeof *out, "output in chunks");
        }
    }
    same_caches(&a, &b, "caches filled in chunks");
    free(k), free(v), free(ks), free(q), free(qs), free(out), free(again), free(list), free(list2), free(two);
    free_cache(&a);
    free_cache(&b);
    be->ops->close(be);
}

static void any_chunks(void **state)
{
    (void)state;
    static const sala_dtype types[] = {SALA_F32, SALA_F16, SALA_Q8_0, SALA_Q4_1};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(8));
    for (size_t i = 0; i < SALA_ARRAY_LEN(shapes); i++) {
        for (const char *const *name = sala_kernels_families(); *name; name++) { /* those that run on this machine */
            sala_backend *be;
            if (sala_backend_cpu_open(&be, *name, 1, false, NULL) == SALA_OK) {
                be->ops->close(be);
                check_chunks(&shapes[i], *name, i % 2 ? SALA_F32 : SALA_F16, &rng);
            }
        }
        for (size_t t = 0; t < SALA_ARRAY_LEN(types); t++)
            check_chunks(&shapes[i], "auto", types[t], &rng);
    }
}

/* ---- long ---- */

static double dot(const float *q, const float *page, int64_t slot, int d)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += (double)q[c] * (double)page[c * SALA_KV_BLOCK + slot];
    return sum;
}

static const float *page_of(void *const *pages, int64_t row, int head, int d)
{
    return (const float *)(const void *)((const uint8_t *)pages[row / SALA_KV_BLOCK] + OFFSET) +
           (size_t)head * (size_t)d * SALA_KV_BLOCK;
}

static int64_t rows_before(int64_t n, int64_t kernel, int64_t stride)
{
    return n < kernel ? 0 : (n - kernel) / stride + 1;
}

/* The definition, from the stored rows: scores of all blocks up to the row's own, in double precision. */
static void define_scores(const shape *s, const cache *c, int64_t position, int head, const float *q, double *score)
{
    const int group = s->n_heads / s->n_kv_heads, d = s->d;
    const int64_t n_fine = rows_before(position + 1, s->kernel, s->stride);
    const int64_t n_coarse = rows_before(position + 1, 4 * s->kernel, 4 * s->stride);
    double *mass = calloc((size_t)n_fine + 1, sizeof *mass);
    assert_non_null(mass);
    for (int g = 0; g < group && n_coarse; g++) {
        const float *qg = q + (head * group + g) * d;
        double sum = 0;
        for (int64_t j = 0; j < n_coarse; j++)
            sum += exp((double)s->scale * dot(qg, page_of(c->coarse, j, head, d), j % SALA_KV_BLOCK, d));
        for (int64_t j = 0; j < n_fine; j++)
            mass[j] += exp((double)s->scale * dot(qg, page_of(c->fine, j, head, d), j % SALA_KV_BLOCK, d)) / sum;
    }
    for (int64_t b = 0; b <= position / s->block; b++)
        score[b] = 0;
    for (int64_t j = 0; j < n_fine; j++)
        for (int64_t b = j * s->stride / s->block; b <= (j * s->stride + s->kernel - 1) / s->block; b++)
            if (b <= position / s->block && mass[j] > score[b])
                score[b] = mass[j];
    free(mass);
}

/* Forced blocks are there, and no block that is left out is better than one that is taken, beyond rounding. */
static void check_definition(const shape *s, const int32_t *list, const double *score, int64_t position)
{
    const int64_t own = position / s->block, window = s->window / s->block;
    assert_int_equal(list[0], most_of(s));
    double worst = INFINITY, left_out = 0;
    int64_t next = 0;
    for (int64_t b = 0; b <= own; b++) {
        const bool taken = next < list[0] && list[1 + next] == b, forced = b < s->init || b >= own - window;
        next += taken;
        if (forced)
            assert_true(taken);
        else if (taken)
            worst = score[b] < worst ? score[b] : worst;
        else
            left_out = score[b] > left_out ? score[b] : left_out;
    }
    assert_int_equal(next, list[0]); /* ascending, each once, none beyond the row */
    if (!(worst >= left_out * (1 - 1e-4)))
        fail_msg("position %lld: a block of %.9g is taken, one of %.9g is not", (long long)position, worst, left_out);
}

/* Few rows share the scan between threads, more rows do not; both must select what the definition says. */
static void check_long(const shape *s, const char *kernels, int threads, int64_t n, sala_rng *rng, bool same_keys)
{
    enum { LAST = 64 };
    const size_t kv = (size_t)(s->n_kv_heads * s->d), width = (size_t)(s->n_heads * s->d);
    const size_t stride = (size_t)s->n_kv_heads * ((size_t)most_of(s) + 1);
    float *k = random_rows(rng, (size_t)n * kv, 1), *q = random_rows(rng, LAST * width, 2);
    for (int64_t t = 1; same_keys && t < n; t++)
        memcpy(k + (size_t)t * kv, k, kv * sizeof *k);
    int32_t *many = calloc(LAST * stride, sizeof *many), *few = calloc(LAST * stride, sizeof *few);
    float *out = malloc(LAST * width * sizeof *out), *one = malloc(width * sizeof *one);
    double *score = malloc((size_t)(n / s->block + 1) * sizeof *score);
    assert_true(many && few && out && one && score);
    sala_backend *be = backend_for(s, kernels, threads);
    cache c = new_cache(s, SALA_F32, n, false);
    while (c.length < n)
        put(be, &c, k, k, NULL, sala_min_i64(1000, n - c.length));
    sala_attn_seq seq = sequence(&c, 0, LAST, n - LAST);
    select_blocks(be, s, &c, &seq, 1, LAST, q, many);
    attend(be, s, &c, &seq, 1, LAST, q, many, 0, out);
    for (int rows = 1; rows <= 16; rows *= 4) {
        memset(few, 0, LAST * stride * sizeof *few);
        for (int r = 0; r < LAST; r += rows) {
            seq = sequence(&c, 0, rows, n - LAST + r);
            select_blocks(be, s, &c, &seq, 1, rows, q + (size_t)r * width, few + (size_t)r * stride);
        }
        same_bits(few, many, LAST * stride * sizeof *many, "a shared scan");
    }
    for (int r = 0; r < LAST; r++) {
        seq = sequence(&c, 0, 1, n - LAST + r);
        attend(be, s, &c, &seq, 1, 1, q + (size_t)r * width, few + (size_t)r * stride, 0, one);
        same_bits(one, out + (size_t)r * width, width * sizeof *one, "output of one row");
    }
    for (int r = 0; r < LAST; r += 21)
        for (int h = 0; h < s->n_kv_heads; h++) {
            const int32_t *list = many + (size_t)r * stride + (size_t)h * ((size_t)most_of(s) + 1);
            define_scores(s, &c, n - LAST + r, h, q + (size_t)r * width, score);
            check_definition(s, list, score, n - LAST + r);
            if (same_keys) /* all scores tie: the lowest blocks are taken, across all borders of the scan */
                for (int i = 0; i < most_of(s) - s->window / s->block - 1; i++)
                    assert_int_equal(list[1 + i], i);
        }
    free(k), free(q), free(many), free(few), free(out), free(one), free(score);
    free_cache(&c);
    be->ops->close(be);
}

static void long_scans(void **state)
{
    (void)state;
    static const shape tiny = {4, 2, 8, 1, 16, 10, 4, 2, 4, 0.5f}, single = {8, 4, 16, 1, 32, 6, 3, 1, 4, 0.5f};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(9));
    check_long(&tiny, "auto", 2, 70000, &rng, false);
    check_long(&single, "auto", 3, 70001, &rng, false);
    check_long(&tiny, "ref", 2, 20011, &rng, false);
    for (int i = 0; i < 6; i++) {
        const int64_t n = 300 + (int64_t)(sala_rng_next(&rng) % 30000);
        check_long(i % 2 ? &tiny : &single, "auto", 1 + i % 4, n, &rng, false);
    }
}

static void ties(void **state)
{
    (void)state;
    static const shape tiny = {4, 2, 8, 1, 16, 10, 4, 2, 4, 0.5f}, single = {8, 4, 16, 0, 32, 600, 3, 1, 4, 0.5f};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(10));
    check_long(&tiny, "auto", 2, 40000, &rng, true);
    check_long(&tiny, "ref", 3, 5000, &rng, true);
    check_long(&single, "auto", 2, 30000, &rng, true);
}

/* ---- windows ---- */

/* What a layer's cache holds, as numbers [tokens][n_kv_heads * d], and who reads it. Heads are one group wide. */
typedef struct stored {
    const shape *s;
    const sala_kv_kernels *kv;
    sala_dtype type;
    float *k, *v;
    double *most; /* [tokens][n_kv_heads] the largest product of the values' scale and any code */
} stored;

static void read_back(stored *to, const cache *c, int64_t n_tokens)
{
    const int d = to->s->d, heads = to->s->n_kv_heads;
    const size_t bytes = sala_kv_head_bytes(to->type, d);
    float keys[SALA_KV_BLOCK * SALA_KV_GROUP], values[SALA_KV_BLOCK * SALA_KV_GROUP];
    sala_kernels ref;
    assert_true(sala_kernels_get(&ref, "ref", 0) && d <= SALA_KV_GROUP);
    const sala_kv_kernels *load = sala_kv_kernels_of(&ref, to->type);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int h = 0; h < heads; h++) {
            const uint8_t *k = (const uint8_t *)c->blocks[t / SALA_KV_BLOCK] + OFFSET + (size_t)h * bytes;
            const uint8_t *v = k + (size_t)heads * bytes;
            const int slot = (int)(t % SALA_KV_BLOCK);
            load->load_keys(keys, k, d);
            load->load_values(values, v, slot + 1, d);
            for (int e = 0; e < d; e++) {
                to->k[(t * heads + h) * d + e] = keys[e * SALA_KV_BLOCK + slot];
                to->v[(t * heads + h) * d + e] = values[slot * d + e];
            }
            if (kv_weight_steps(to->kv)) {
                uint16_t scale;
                memcpy(&scale, v + SALA_KV_BLOCK * sala_kv_code_bytes(to->type, d) + 2 * slot, sizeof scale);
                to->most[t * heads + h] = (double)sala_f16_to_f32(scale) * (to->type == SALA_Q8_0 ? 127 : 15);
            }
        }
}

/* Attention of head h, query q, over the tokens [from, to), and how far a kernel may be off. Kernels round queries that
 * meet codes, and so are queries here, except in a block that the window cuts, whose keys are taken as floats. What is
 * left is relative to the sum of weight times |value|: twice the error of the scores, which are d products and a few
 * more operations in f32, and 7 roundings of sqrt(d) numbers where keys are turned back; an eps for each weight in the
 * sums, and some for each block. To that comes what rounding the weights takes: in each block half a step a token. */
static void define_window(const stored *c, const float *q, int h, int64_t from, int64_t to, double *want, double *bound)
{
    const int d = c->s->d, heads = c->s->n_kv_heads, kv = h / (c->s->n_heads / heads);
    const int steps = kv_weight_steps(c->kv);
    const bool turned = c->type == SALA_Q4_1;
    double plain[SALA_KV_GROUP], met[SALA_KV_GROUP], score[1500], top = -INFINITY, sum = 0, worst = 0, off = 0;
    float scaled[SALA_KV_GROUP];
    assert_true(to - from <= (int64_t)SALA_ARRAY_LEN(score));
    for (int e = 0; e < d; e++) {
        scaled[e] = q[e] * c->s->scale;
        plain[e] = (double)scaled[e];
    }
    kv_query_group(met, scaled, d, turned, c->kv->query_steps);
    if (turned)
        kv_turn(met, d);
    for (int64_t t = from; t < to; t++) {
        const double *by = t / SALA_KV_BLOCK * SALA_KV_BLOCK >= from ? met : plain;
        const float *key = c->k + (t * heads + kv) * d;
        double x = 0, qq = 0, kk = 0;
        for (int e = 0; e < d; e++) {
            x += by[e] * (double)key[e];
            qq += plain[e] * plain[e];
            kk += (double)key[e] * (double)key[e];
        }
        score[t - from] = x;
        top = fmax(top, x);
        worst = fmax(worst, sqrt(qq * kk));
    }
    for (int64_t t = from; t < to;) {
        const int64_t end = sala_min_i64(to, (t / SALA_KV_BLOCK + 1) * SALA_KV_BLOCK), n = end - t;
        const bool rounded = steps && t % SALA_KV_BLOCK == 0;
        double weight = 0, most = 0;
        for (; t < end; t++) {
            const double w = exp(score[t - from] - top);
            sum += w;
            weight = fmax(weight, w);
            if (rounded)
                most = fmax(most, c->most[t * heads + kv]);
        }
        if (rounded)
            off += weight * most / (2 * steps) * (double)n;
    }
    const double blocks = (double)(to - from) / SALA_KV_BLOCK + 2;
    const double scores_off = (d + 9 + (turned ? 7 * sqrt(d) : 0)) * worst;
    const double relative = (2 * scores_off + (double)(to - from) + 16 * blocks) * (double)FLT_EPSILON;
    for (int e = 0; e < d; e++) {
        double size = 0;
        want[e] = 0;
        for (int64_t t = from; t < to; t++) {
            const double term = exp(score[t - from] - top) / sum * (double)c->v[(t * heads + kv) * d + e];
            want[e] += term;
            size += fabs(term);
        }
        bound[e] = relative * size + off / sum;
    }
}

/* A window over caches of every type: what the definition gives for the keys and values as they are stored. */
static void check_window(const shape *s, const char *kernels, sala_dtype type, sala_rng *rng)
{
    enum { N = 1500, ROWS = 90 };
    const size_t kv = (size_t)(s->n_kv_heads * s->d), width = (size_t)(s->n_heads * s->d);
    float *q = random_rows(rng, ROWS * width, 1), *out = malloc(ROWS * width * sizeof *out);
    sala_kernels kern;
    assert_true(out && sala_kernels_get(&kern, kernels, sala_os_cpu_features()));
    stored as = {.s = s, .kv = sala_kv_kernels_of(&kern, type), .type = type};
    as.k = random_rows(rng, N * kv, 1), as.v = random_rows(rng, N * kv, 1);
    as.most = calloc(N * (size_t)s->n_kv_heads, sizeof *as.most);
    assert_non_null(as.most);
    sala_backend *be = backend_for(s, kernels, 2);
    cache c = new_cache(s, type, N, false);
    put(be, &c, as.k, as.v, NULL, N);
    read_back(&as, &c, N);
    static const int64_t windows[] = {0, 1, 63, 64, 100, 1100, 5000};
    for (size_t w = 0; w < SALA_ARRAY_LEN(windows); w++) {
        const int64_t window = windows[w];
        sala_attn_seq seq = sequence(&c, 0, ROWS, N - ROWS);
        attend(be, s, &c, &seq, 1, ROWS, q, NULL, window, out);
        for (int r = 0; r < ROWS; r += 11) {
            const int64_t pos = N - ROWS + r, from = window && pos + 1 > window ? pos + 1 - window : 0;
            float one[512];
            seq = sequence(&c, 0, 1, pos);
            attend(be, s, &c, &seq, 1, 1, q + (size_t)r * width, NULL, window, one);
            same_bits(one, out + (size_t)r * width, width * sizeof *one, "a row of a window");
            for (int h = 0; h < s->n_heads; h++) {
                double want[SALA_KV_GROUP], bound[SALA_KV_GROUP];
                define_window(&as, q + (size_t)r * width + (size_t)(h * s->d), h, from, pos + 1, want, bound);
                for (int e = 0; e < s->d; e++) {
                    const double got = (double)one[h * s->d + e];
                    if (!(fabs(got - want[e]) <= bound[e]))
                        fail_msg("%s %s window %lld, position %lld, head %d: component %d is %.9g, expected %.9g, "
                                 "bound %.3g",
                                 kernels, sala_dtype_name(type), (long long)window, (long long)pos, h, e, got, want[e],
                                 bound[e]);
                }
            }
        }
    }
    free(as.k), free(as.v), free(as.most), free(q), free(out);
    free_cache(&c);
    be->ops->close(be);
}

static void windows(void **state)
{
    (void)state;
    static const sala_dtype types[] = {SALA_F32, SALA_F16, SALA_Q8_0, SALA_Q4_1};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(11));
    for (size_t t = 0; t < SALA_ARRAY_LEN(types); t++)
        for (size_t i = 0; i < SALA_ARRAY_LEN(shapes); i += 2) {
            check_window(&shapes[i], "ref", types[t], &rng);
            check_window(&shapes[i], "auto", types[t], &rng);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(frozen_ref), cmocka_unit_test(frozen_auto),
                                       cmocka_unit_test(frozen_f16), cmocka_unit_test(any_chunks),
                                       cmocka_unit_test(long_scans), cmocka_unit_test(ties),
                                       cmocka_unit_test(windows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
