/* The forward pass gives the same bits however its rows arrive: in one call, in chunks, beside other sessions, with any
 * number of threads; after rollback and fork as if nothing else had been there. For every family, with the reference
 * and with the fastest kernels of this machine. */
#include "model/net.h"
#include "unit/model/tiny.h"

#include <math.h>
#include <unistd.h>

enum { N_VOCAB = 96, N_TOKENS = 200 };

static const tiny_model models[] = {
    {"llama", 2, 64, 4, 2, 16, 96, N_VOCAB, 512, true, false, false, false, false, 1, NULL},
    {"llama", 2, 96, 3, 3, 32, 160, N_VOCAB, 512, false, false, false, false, false, 1, NULL},
    {"minicpm", 3, 64, 8, 1, 8, 128, N_VOCAB, 512, true, false, false, true, false, 1, NULL},
    {"qwen2", 2, 64, 6, 2, 10, 72, N_VOCAB, 512, false, true, false, false, false, 1, NULL},
    {"qwen3", 2, 64, 4, 4, 24, 64, N_VOCAB, 512, true, false, true, false, false, 1, NULL},
};

typedef struct fixture {
    sala_backend *be;
    sala_net *net;
    sala_kv_layout layout;
} fixture;

static fixture open_model(const tiny_model *m, const char *kernels, int threads)
{
    char path[512];
    sala_error err;
    fixture f;
    tiny_write(test_path(path, sizeof path, "model.gguf"), m, 7);
    sala_checkpoint files;
    if (sala_checkpoint_open(&files, path, true, &err) != SALA_OK)
        fail_msg("%s", err.message);
    unlink(path);
    if (sala_backend_cpu_open(&f.be, kernels, threads, false, &err) != SALA_OK ||
        sala_net_open(&f.net, &files, f.be, NULL, NULL, &err) != SALA_OK)
        fail_msg("%s", err.message);
    const sala_dtype kv = strcmp(kernels, "ref") == 0 ? SALA_F32 : SALA_F16;
    assert_int_equal(sala_kv_layout_init(&f.layout, kv, m->n_layers, m->n_kv_heads, m->head_dim, &err), SALA_OK);
    return f;
}

static void close_model(fixture *f)
{
    sala_net_close(f->net);
    f->be->ops->close(f->be);
}

static sala_timeline new_line(const fixture *f, bool long_rope)
{
    sala_timeline t = {.long_rope = long_rope};
    sala_kv_init(&t.kv, &f->layout);
    return t;
}

static void make_ids(int32_t *ids, int n, uint64_t seed)
{
    sala_rng rng;
    sala_rng_seed(&rng, seed);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(sala_rng_next(&rng) % N_VOCAB);
}

static void feed(const fixture *f, sala_timeline *line, const int32_t *ids, int n, float *logits)
{
    sala_net_row rows[N_TOKENS];
    sala_error err;
    for (int i = 0; i < n; i++)
        rows[i] = (sala_net_row){ids[i], 0, true};
    if (sala_net_forward(f->net, &line, 1, rows, n, logits, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static void same(const float *a, const float *b, size_t rows, const char *what, const tiny_model *m)
{
    for (size_t i = 0; i < rows * N_VOCAB; i++)
        if (memcmp(&a[i], &b[i], 4) != 0)
            fail_msg("%s (%s): row %zu, token %zu: %.9g and %.9g", what, m->architecture, i / N_VOCAB, i % N_VOCAB,
                     (double)a[i], (double)b[i]);
}

static void check_model(const tiny_model *m, const char *kernels)
{
    static float whole[N_TOKENS * N_VOCAB], other[N_TOKENS * N_VOCAB], mixed[2 * N_TOKENS * N_VOCAB];
    int32_t ids[N_TOKENS], ids2[N_TOKENS];
    make_ids(ids, N_TOKENS, 1);
    make_ids(ids2, N_TOKENS, 2);
    fixture f = open_model(m, kernels, 2);
    sala_timeline line = new_line(&f, m->longrope);
    feed(&f, &line, ids, N_TOKENS, whole);
    for (size_t i = 0; i < SALA_ARRAY_LEN(whole); i++)
        assert_true(isfinite(whole[i]));
    sala_kv_free(&line.kv);

    static const int chunks[] = {1, 7, 64, 130};
    for (size_t c = 0; c < SALA_ARRAY_LEN(chunks); c++) {
        line = new_line(&f, m->longrope);
        for (int at = 0; at < N_TOKENS; at += chunks[c])
            feed(&f, &line, ids + at, at + chunks[c] < N_TOKENS ? chunks[c] : N_TOKENS - at, other + at * N_VOCAB);
        same(whole, other, N_TOKENS, "chunks", m);
        sala_kv_free(&line.kv);
    }

    /* Two sessions, rows interleaved at random, several calls. */
    sala_rng rng;
    sala_rng_seed(&rng, 3);
    sala_timeline two[2] = {new_line(&f, m->longrope), new_line(&f, m->longrope)};
    sala_timeline *lines[2] = {&two[0], &two[1]};
    int at[2] = {0, 0};
    static float second[N_TOKENS * N_VOCAB];
    while (at[0] < N_TOKENS || at[1] < N_TOKENS) {
        sala_net_row rows[90];
        int n = 0, index[90];
        while (n < 90 && (at[0] < N_TOKENS || at[1] < N_TOKENS)) {
            int s = (int)(sala_rng_next(&rng) % 2);
            if (at[s] == N_TOKENS)
                s = 1 - s;
            index[n] = at[s];
            rows[n++] = (sala_net_row){(s ? ids2 : ids)[at[s]++], s, true};
        }
        assert_int_equal(sala_net_forward(f.net, lines, 2, rows, n, mixed, NULL), SALA_OK);
        for (int i = 0; i < n; i++)
            memcpy((rows[i].session ? second : other) + index[i] * N_VOCAB, mixed + i * N_VOCAB, N_VOCAB * 4);
        assert_int_equal(two[0].kv.length, at[0]);
    }
    same(whole, other, N_TOKENS, "batched", m);

    /* Fork in the middle, go astray, roll back, go on. */
    sala_timeline fork = two[0];
    sala_kv_rollback(&two[0].kv, 100);
    assert_int_equal(sala_kv_fork(&fork.kv, &two[0].kv, NULL), SALA_OK);
    feed(&f, &two[0], ids2, 50, mixed);
    feed(&f, &fork, ids + 100, 100, other);
    same(whole + 100 * N_VOCAB, other, 100, "fork", m);
    sala_kv_rollback(&two[0].kv, 70);
    feed(&f, &two[0], ids + 70, 130, other);
    same(whole + 70 * N_VOCAB, other, 130, "rollback", m);
    sala_kv_free(&fork.kv);

    /* A failing call changes nothing. */
    const sala_net_row bad[] = {{1, 0, false}, {N_VOCAB, 0, false}};
    sala_error err;
    sala_kv_rollback(&two[0].kv, 150);
    assert_int_equal(sala_net_forward(f.net, lines, 2, bad, 2, NULL, &err), SALA_E_INVALID);
    assert_int_equal(two[0].kv.length, 150);
    feed(&f, &two[0], ids + 150, 50, other);
    same(whole + 150 * N_VOCAB, other, 50, "after a failure", m);
    sala_kv_free(&two[0].kv);
    sala_kv_free(&two[1].kv);
    close_model(&f);

    for (int threads = 1; threads <= 3; threads += 2) {
        f = open_model(m, kernels, threads);
        line = new_line(&f, m->longrope);
        feed(&f, &line, ids, N_TOKENS, other);
        same(whole, other, N_TOKENS, "threads", m);
        sala_kv_free(&line.kv);
        close_model(&f);
    }
}

static void invariance_ref(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        check_model(&models[i], "ref");
}

static void invariance_fast(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        check_model(&models[i], "auto");
}

/* Attention over several splits: few queries take another path there than many. */
static void long_context(void **state)
{
    (void)state;
    const tiny_model m = {"llama", 1, 32, 4, 2, 8, 32, N_VOCAB, 4096, true, false, false, false, false, 1, NULL};
    fixture f = open_model(&m, "auto", 2);
    sala_timeline a = new_line(&f, false), b = new_line(&f, false);
    static float last_a[60 * N_VOCAB], last_b[60 * N_VOCAB];
    int32_t ids[180];
    for (int at = 0; at < 2520; at += 180) {
        make_ids(ids, 180, (uint64_t)at);
        static float unused[N_TOKENS * N_VOCAB];
        feed(&f, &a, ids, 180, unused);
        feed(&f, &b, ids, 180, unused);
    }
    feed(&f, &a, ids, 60, last_a);
    for (int i = 0; i < 60; i++)
        feed(&f, &b, ids + i, 1, last_b + i * N_VOCAB);
    same(last_a, last_b, 60, "splits", &m);
    sala_kv_free(&a.kv);
    sala_kv_free(&b.kv);
    close_model(&f);
}

/* Infinite weights must end in an error, not in garbage. */
static void not_finite(void **state)
{
    (void)state;
    tiny_model m = models[0];
    m.scale = 1e30;
    fixture f = open_model(&m, "auto", 1);
    sala_timeline line = new_line(&f, false), *lines = &line;
    float logits[N_VOCAB];
    const sala_net_row row = {1, 0, true};
    sala_error err;
    assert_int_equal(sala_net_forward(f.net, &lines, 1, &row, 1, logits, &err), SALA_E_NUMERIC);
    assert_int_equal(line.kv.length, 0);
    sala_kv_free(&line.kv);
    close_model(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(invariance_ref), cmocka_unit_test(invariance_fast),
                                       cmocka_unit_test(long_context), cmocka_unit_test(not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
