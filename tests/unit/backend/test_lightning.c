/* Lightning attention through the backend's operation: frozen vectors of the reference, from any state; on random
 * content, that chunks, company and threads do not change a bit. */
#include "unit/backend/support.h"

#include "kernels/kernels.h"

enum { CHUNK = SALA_LIGHTNING_CHUNK, OFFSET = 192 };

typedef struct shape {
    int n_heads, n_kv_heads, d;
    float scale;
} shape;

static size_t state_bytes(const shape *s)
{
    return OFFSET + (size_t)s->n_heads * (size_t)s->d * (size_t)s->d * sizeof(float);
}

static size_t pending_bytes(const shape *s)
{
    return OFFSET + (size_t)s->n_kv_heads * 2 * CHUNK * (size_t)s->d * sizeof(float);
}

/* Pages begin as not-a-number: what nobody stored must not be used. */
static void *new_page(size_t bytes)
{
    void *p = malloc(bytes);
    assert_non_null(p);
    return memset(p, 0xff, bytes);
}

static float *state_of(void *page)
{
    return (float *)(void *)((uint8_t *)page + OFFSET);
}

static float *decay_table(const float *slopes, int n_heads)
{
    float *decay = malloc((size_t)n_heads * (CHUNK + 1) * sizeof *decay);
    assert_non_null(decay);
    for (int h = 0; h < n_heads; h++)
        for (int i = 0; i <= CHUNK; i++)
            decay[h * (CHUNK + 1) + i] = (float)exp(-(double)slopes[h] * i);
    return decay;
}

static void run(sala_backend *be, const shape *s, const sala_attn_seq *seqs, int n_seqs, int64_t n_rows,
                const float *decay, const float *q, const float *k, const float *v, float *out)
{
    const sala_lightning_args args = {.seqs = seqs,
                                      .n_seqs = n_seqs,
                                      .n_rows = n_rows,
                                      .n_heads = s->n_heads,
                                      .n_kv_heads = s->n_kv_heads,
                                      .head_dim = s->d,
                                      .state_offset = OFFSET,
                                      .pending_offset = OFFSET,
                                      .scale = s->scale,
                                      .decay = decay,
                                      .q = q,
                                      .k = k,
                                      .v = v,
                                      .q_stride = (int64_t)s->n_heads * s->d,
                                      .kv_stride = (int64_t)s->n_kv_heads * s->d,
                                      .out = out,
                                      .out_stride = (int64_t)s->n_heads * s->d};
    be->ops->lightning(be, &args);
}

static sala_backend *backend_for(const shape *s, const char *kernels, int threads)
{
    return open_backend(kernels, threads,
                        &(sala_backend_limits){.rows = 1024,
                                               .cols = 64,
                                               .tokens = 4096,
                                               .n_heads = s->n_heads,
                                               .n_kv_heads = s->n_kv_heads,
                                               .head_dim = s->d,
                                               .lightning_head_dim = s->d});
}

/* A session whose pages are handed on from call to call as state/ does it: the state of the last chunk's border, and
 * the rows since. */
typedef struct timeline {
    const shape *s;
    int64_t at;
    void *state, *pending; /* NULL: none yet */
    void *next_state[16], *next_pending;
    int64_t positions[16];
} timeline;

/* What a call for n more rows reads and writes; a random choice of the states that could be asked for. */
static sala_attn_seq begin(timeline *t, int64_t first_row, int64_t n, sala_rng *rng)
{
    const int64_t first = t->at / CHUNK * CHUNK, last = (t->at + n) / CHUNK * CHUNK;
    sala_attn_seq seq = {.first_row = first_row,
                         .n_rows = n,
                         .position = t->at,
                         .linear = {.state_in = t->state, .positions = t->positions, .states = t->next_state}};
    if (t->at > first || last == first) {
        if (!t->pending)
            t->pending = new_page(pending_bytes(t->s));
        seq.linear.pending = seq.linear.pending_out = t->pending;
    }
    if (last > first) {
        t->next_pending = t->at + n > last ? new_page(pending_bytes(t->s)) : NULL;
        seq.linear.pending_out = t->next_pending;
        for (int64_t p = first + CHUNK; p <= last; p += CHUNK)
            if (p == last || (seq.linear.n_states < 15 && sala_rng_next(rng) % 3 == 0)) {
                t->positions[seq.linear.n_states] = p;
                t->next_state[seq.linear.n_states++] = new_page(state_bytes(t->s));
            }
    }
    return seq;
}

/* seen: called with every state that was written. */
static void end(timeline *t, const sala_attn_seq *seq, void (*seen)(void *, int64_t, const float *), void *user)
{
    t->at += seq->n_rows;
    const int n = seq->linear.n_states;
    for (int i = 0; i < n; i++)
        seen(user, t->positions[i], state_of(t->next_state[i]));
    if (n == 0)
        return;
    for (int i = 0; i + 1 < n; i++)
        free(t->next_state[i]);
    free(t->state);
    free(t->pending);
    t->state = t->next_state[n - 1];
    t->pending = t->next_pending;
}

static void close_timeline(timeline *t)
{
    free(t->state);
    free(t->pending);
}

/* ---- frozen vectors ---- */

/* [heads][n][d] to [n][heads * d], with rows of zeros up to n_rows. */
static float *as_rows(const float *x, int heads, int64_t n, int64_t n_rows, int d)
{
    float *out = calloc((size_t)(n_rows * heads * d), sizeof *out);
    assert_non_null(out);
    for (int h = 0; h < heads; h++)
        for (int64_t t = 0; t < n; t++)
            memcpy(out + (t * heads + h) * d, x + (h * n + t) * d, (size_t)d * sizeof *out);
    return out;
}

/* Rows of zeros fill the last chunk: they add nothing to the state, which decays. */
static void check_case(const json_t *c, const char *kernels, double tolerance)
{
    size_t count = 0, n_state;
    const char *name = json_string_value(json_object_get(c, "name"));
    const int heads = (int)integer(c, "heads"), d = (int)integer(c, "d");
    const int64_t n = integer(c, "n"), full = (n + CHUNK - 1) / CHUNK * CHUNK;
    const shape s = {heads, heads, d, (float)json_real_value(json_object_get(c, "scale"))};
    float *q = numbers(c, "q", &count), *k = numbers(c, "k", &count), *v = numbers(c, "v", &count);
    float *slopes = numbers(c, "slopes", &count), *state = numbers(c, "state", &n_state);
    float *want = numbers(c, "output", &count), *final = numbers(c, "final", &count);
    assert_int_equal(count, heads * d * d);
    float *rows[4] = {as_rows(q, heads, n, full, d), as_rows(k, heads, n, full, d), as_rows(v, heads, n, full, d),
                      as_rows(want, heads, n, full, d)};
    float *out = malloc((size_t)(full * heads * d) * sizeof *out), *decay = decay_table(slopes, heads);
    assert_non_null(out);
    sala_backend *be = backend_for(&s, kernels, 2);
    void *before = NULL, *after = new_page(state_bytes(&s));
    if (state) {
        before = new_page(state_bytes(&s));
        memcpy(state_of(before), state, count * sizeof *state);
    }
    /* Where the session stands does not matter: only places within a chunk do. */
    const int64_t position = state ? 5 * CHUNK : 0, last = position + full;
    const sala_attn_seq seq = {.n_rows = full,
                               .position = position,
                               .linear = {.state_in = before, .n_states = 1, .positions = &last, .states = &after}};
    run(be, &s, &seq, 1, full, decay, rows[0], rows[1], rows[2], out);
    close_to(out, rows[3], (size_t)(n * heads * d), tolerance, "output", name);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < d * d; i++)
            final[h * d * d + i] *= (float)exp(-(double)slopes[h] * (double)(full - n));
    close_to(state_of(after), final, count, tolerance, "state", name);
    for (int i = 0; i < 4; i++)
        free(rows[i]);
    free(q), free(k), free(v), free(slopes), free(state), free(want), free(final), free(out), free(decay);
    free(before), free(after);
    be->ops->close(be);
}

static void frozen(void **state)
{
    (void)state;
    json_t *o = open_frozen("lightning.json"), *c;
    size_t i;
    json_array_foreach(json_object_get(o, "cases"), i, c)
    {
        check_case(c, "ref", 1e-5);
        check_case(c, "auto", 1e-4);
    }
    assert_true(i >= 6);
    json_decref(o);
}

/* ---- random content ---- */

enum { N = 900 };

typedef struct answers {
    const shape *s;
    float *states[N / CHUNK + 1];
} answers;

static void keep_state(void *user, int64_t position, const float *state)
{
    answers *a = user;
    const size_t bytes = (size_t)a->s->n_heads * (size_t)a->s->d * (size_t)a->s->d * sizeof *state;
    float **at = &a->states[position / CHUNK];
    if (!*at) {
        *at = malloc(bytes);
        assert_non_null(*at);
        memcpy(*at, state, bytes);
    }
    same_bits(state, *at, bytes, "a state on the way");
}

/* What one token after the other gives in double precision. */
static void check_definition(const shape *s, const float *slopes, const float *q, const float *k, const float *v,
                             const float *out, double tolerance)
{
    const int d = s->d, group = s->n_heads / s->n_kv_heads;
    double *state = malloc((size_t)(d * d) * sizeof *state);
    float *want = malloc((size_t)d * sizeof *want);
    assert_true(state && want);
    for (int h = 0; h < s->n_heads; h++) {
        memset(state, 0, (size_t)(d * d) * sizeof *state);
        for (int64_t t = 0; t < N; t++) {
            const float *kt = k + (t * s->n_kv_heads + h / group) * d, *vt = v + (t * s->n_kv_heads + h / group) * d;
            const float *qt = q + (t * s->n_heads + h) * d;
            for (int i = 0; i < d; i++)
                for (int j = 0; j < d; j++)
                    state[i * d + j] = state[i * d + j] * exp(-(double)slopes[h]) + (double)kt[i] * (double)vt[j];
            for (int j = 0; j < d; j++) {
                double sum = 0;
                for (int i = 0; i < d; i++)
                    sum += (double)qt[i] * state[i * d + j];
                want[j] = (float)(sum * (double)s->scale);
            }
            close_to(out + (t * s->n_heads + h) * d, want, (size_t)d, tolerance, "output", "one by one");
        }
    }
    free(state);
    free(want);
}

static void check_chunks(const shape *s, const char *kernels, int threads, sala_rng *rng)
{
    const size_t width = (size_t)(s->n_heads * s->d), kv = (size_t)(s->n_kv_heads * s->d);
    float *q = random_rows(rng, N * width, 1), *k = random_rows(rng, N * kv, 1), *v = random_rows(rng, N * kv, 1);
    float *whole = malloc(N * width * sizeof *whole), *out = malloc(2 * N * width * sizeof *out);
    float *two_q = malloc(2 * N * width * sizeof *two_q), *two_k = malloc(2 * N * kv * sizeof *two_k);
    float *two_v = malloc(2 * N * kv * sizeof *two_v), slopes[64];
    assert_true(whole && out && two_q && two_k && two_v);
    for (int h = 0; h < s->n_heads; h++)
        slopes[h] = (float)exp2(-8.0 * (h + 1) / s->n_heads);
    float *decay = decay_table(slopes, s->n_heads);
    sala_backend *be = backend_for(s, kernels, threads);
    answers seen = {.s = s};
    timeline all = {.s = s};
    sala_attn_seq seq = begin(&all, 0, N, rng);
    run(be, s, &seq, 1, N, decay, q, k, v, whole);
    end(&all, &seq, keep_state, &seen);
    check_definition(s, slopes, q, k, v, whole, 2e-4);

    timeline two[2] = {{.s = s}, {.s = s}};
    while (two[0].at < N || two[1].at < N) {
        sala_attn_seq seqs[2];
        int which[2], n_seqs = 0;
        int64_t n_rows = 0;
        for (int i = 0; i < 2; i++) {
            const int64_t left = N - two[i].at, most = sala_rng_next(rng) % 3 ? 20 : 400;
            if (left == 0 || (sala_rng_next(rng) % 2 && two[1 - i].at < N))
                continue;
            const int64_t n = sala_min_i64(left, 1 + (int64_t)(sala_rng_next(rng) % (uint64_t)most));
            memcpy(two_q + (size_t)n_rows * width, q + (size_t)two[i].at * width, (size_t)n * width * sizeof *q);
            memcpy(two_k + (size_t)n_rows * kv, k + (size_t)two[i].at * kv, (size_t)n * kv * sizeof *k);
            memcpy(two_v + (size_t)n_rows * kv, v + (size_t)two[i].at * kv, (size_t)n * kv * sizeof *v);
            seqs[n_seqs] = begin(&two[i], n_rows, n, rng);
            which[n_seqs++] = i;
            n_rows += n;
        }
        run(be, s, seqs, n_seqs, n_rows, decay, two_q, two_k, two_v, out);
        for (int i = 0; i < n_seqs; i++) {
            same_bits(out + (size_t)seqs[i].first_row * width, whole + (size_t)seqs[i].position * width,
                      (size_t)seqs[i].n_rows * width * sizeof *out, "output in chunks");
            end(&two[which[i]], &seqs[i], keep_state, &seen);
        }
    }
    close_timeline(&all);
    close_timeline(&two[0]);
    close_timeline(&two[1]);
    for (size_t i = 0; i < SALA_ARRAY_LEN(seen.states); i++)
        free(seen.states[i]);
    free(q), free(k), free(v), free(whole), free(out), free(two_q), free(two_k), free(two_v), free(decay);
    be->ops->close(be);
}

static void any_chunks(void **state)
{
    (void)state;
    static const shape shapes[] = {{1, 1, 2, 0.7f},  {3, 3, 8, 0.3f},  {4, 2, 16, 0.25f}, {6, 1, 10, 0.3f},
                                   {5, 5, 33, 0.2f}, {2, 2, 64, 0.1f}, {1, 1, 128, 0.09f}};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(12));
    for (size_t i = 0; i < SALA_ARRAY_LEN(shapes); i++) {
        check_chunks(&shapes[i], "ref", 1 + (int)(i % 2), &rng);
        for (int threads = 1; threads <= 3; threads++)
            check_chunks(&shapes[i], "auto", threads, &rng);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(frozen), cmocka_unit_test(any_chunks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
