/* The forward pass gives the same bits however its rows arrive: in one call, in chunks, beside other sessions, with any
 * number of threads; after rollback and fork as if nothing else had been there. For every family and every mixer, with
 * the reference and with the fastest kernels of this machine, and with every type of cache. */
#include "model/net.h"

#include "base/json.h"
#include "kernels/kernels.h"
#include "unit/model/tiny.h"

#include <math.h>
#include <unistd.h>

enum { N_VOCAB = 96, N_TOKENS = 200, N_LONG = 1400 };

/* What all models share. */
#define TINY .n_vocab = N_VOCAB, .n_ctx = 512, .scale = 1

static const tiny_model models[] = {
    {TINY, .architecture = "llama", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .tied = true},
    {TINY, .architecture = "llama", .n_layers = 2, .n_embd = 96, .n_heads = 3, .n_kv_heads = 3, .head_dim = 32,
     .n_ff = 160},
    {TINY, .architecture = "minicpm", .n_layers = 3, .n_embd = 64, .n_heads = 8, .n_kv_heads = 1, .head_dim = 8,
     .n_ff = 128, .tied = true, .longrope = true},
    {TINY, .architecture = "qwen2", .n_layers = 2, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 10,
     .n_ff = 72, .biases = true},
    {TINY, .architecture = "qwen3", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 4, .head_dim = 24,
     .n_ff = 64, .tied = true, .qk_norm = true},
};

static const tiny_model hybrids[] = {
    /* Softmax layers without rotation, gates everywhere, as MiniCPM-SALA; small blocks are gathered. */
    {TINY, .architecture = "minicpm-sala", .n_layers = 4, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .mixers = "slls", .sparse = {4, 2, 8, 1, 4, 16, 60, false}, .linear_heads = 4, .linear_kv_heads = 4,
     .linear_dim = 16, .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true},
    /* Blocks of the cache's size, another size of linear heads, an odd number of them, two to a key head. */
    {TINY, .architecture = "minicpm-sala", .n_layers = 3, .n_embd = 48, .n_heads = 3, .n_kv_heads = 1, .head_dim = 24,
     .n_ff = 64, .tied = true, .mixers = "lsl", .sparse = {16, 8, 64, 1, 3, 64, 0, false}, .linear_heads = 6,
     .linear_kv_heads = 3, .linear_dim = 10, .mix_norm = true, .gates = true, .no_attn_rope = true},
    /* Blocks of two cache blocks; keys are scored before rotation. */
    {TINY, .architecture = "llama", .n_layers = 2, .n_embd = 64, .n_heads = 5, .n_kv_heads = 1, .head_dim = 16,
     .n_ff = 96, .sparse = {32, 16, 128, 1, 2, 128, 0, true}},
    {TINY, .architecture = "minicpm", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .tied = true, .longrope = true, .sparse = {8, 4, 16, 0, 5, 32, 100, true}},
    {TINY, .architecture = "qwen3", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 64, .qk_norm = true, .sparse = {8, 8, 24, 1, 3, 48, 0, false}},
    /* Dense layers whose queries are scaled by position, linear layers that rotate. */
    {TINY, .architecture = "hypenet", .n_layers = 3, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 64, .qk_norm = true, .mixers = "ldl", .linear_heads = 7, .linear_kv_heads = 7, .linear_dim = 8,
     .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true, .attn_scale_base = 300},
    {TINY, .architecture = "hypenet", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 64, .biases = true, .mixers = "ll", .linear_heads = 4, .linear_kv_heads = 2, .linear_dim = 16,
     .mix_norm = true, .gates = true},
};

typedef struct fixture {
    sala_backend *be;
    sala_net *net;
    const tiny_model *m;
    sala_state_layout layout;
} fixture;

static fixture open_model(const tiny_model *m, const char *kernels, int threads, sala_dtype kv)
{
    char path[512];
    sala_error err;
    fixture f = {.m = m};
    tiny_write(test_path(path, sizeof path, "model.gguf"), m, 7);
    sala_checkpoint files;
    if (sala_checkpoint_open(&files, path, true, &err) != SALA_OK)
        fail_msg("%s", err.message);
    unlink(path);
    if (sala_backend_cpu_open(&f.be, kernels, threads, false, &err) != SALA_OK ||
        sala_net_open(&f.net, &files, f.be, NULL, NULL, &err) != SALA_OK ||
        sala_net_state_layout(&f.layout, f.net->config, kv, &err) != SALA_OK)
        fail_msg("%s", err.message);
    /* The file says what it was meant to say. */
    for (int l = 0; l < m->n_layers; l++)
        assert_int_equal(f.net->config->mixers[l] == SALA_MIXER_LIGHTNING, tiny_is_lightning(m, l));
    assert_int_equal(f.layout.n_sparse > 0, m->sparse.block_size > 0);
    return f;
}

static void close_model(fixture *f)
{
    sala_net_close(f->net);
    f->be->ops->close(f->be);
}

static sala_timeline new_line(const fixture *f)
{
    const int64_t dense_len = f->m->sparse.dense_len;
    sala_timeline t = {.long_rope = f->m->longrope, .sparse_from = dense_len > 0 ? dense_len - 1 : 0};
    sala_state_init(&t.state, &f->layout);
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
    static sala_net_row rows[N_LONG];
    sala_error err;
    assert_true(n <= N_LONG);
    for (int i = 0; i < n; i++)
        rows[i] = (sala_net_row){ids[i], 0, logits != NULL};
    if (sala_net_forward(f->net, &line, 1, rows, n, logits, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

/* Back to n_keep tokens of `ids`, running again what a linear state asks for. */
static void step_back(const fixture *f, sala_timeline *line, const int32_t *ids, int64_t n_keep)
{
    const int64_t target = sala_state_rollback_target(&line->state, n_keep);
    const int64_t from = sala_state_rollback(&line->state, n_keep);
    assert_int_equal(from, target);
    assert_int_equal(line->state.length, from);
    assert_true(from <= n_keep);
    if (f->layout.linear.n_layers == 0)
        assert_int_equal(from, n_keep);
    feed(f, line, ids + from, (int)(n_keep - from), NULL);
}

static void same(const float *a, const float *b, size_t rows, const char *what, const fixture *f)
{
    for (size_t i = 0; i < rows * N_VOCAB; i++)
        if (memcmp(&a[i], &b[i], 4) != 0)
            fail_msg("%s (%s %s, %s, %s): row %zu, token %zu: %.9g and %.9g", what, f->m->architecture,
                     f->m->mixers ? f->m->mixers : "", f->be->ops->describe(f->be), sala_dtype_name(f->layout.dtype),
                     i / N_VOCAB, i % N_VOCAB, (double)a[i], (double)b[i]);
}

static void check_model(const tiny_model *m, const char *kernels, sala_dtype kv)
{
    static float whole[N_TOKENS * N_VOCAB], other[N_TOKENS * N_VOCAB], mixed[2 * N_TOKENS * N_VOCAB];
    int32_t ids[N_TOKENS], ids2[N_TOKENS];
    make_ids(ids, N_TOKENS, 1);
    make_ids(ids2, N_TOKENS, 2);
    fixture f = open_model(m, kernels, 2, kv);
    sala_timeline line = new_line(&f);
    feed(&f, &line, ids, N_TOKENS, whole);
    for (size_t i = 0; i < SALA_ARRAY_LEN(whole); i++)
        assert_true(isfinite(whole[i]));
    assert_true(sala_state_bytes(&line.state) <= sala_state_bytes_at(&f.layout, N_TOKENS));
    sala_state_free(&line.state);

    static const int chunks[] = {1, 7, 64, 130};
    for (size_t c = 0; c < SALA_ARRAY_LEN(chunks); c++) {
        line = new_line(&f);
        for (int at = 0; at < N_TOKENS; at += chunks[c])
            feed(&f, &line, ids + at, at + chunks[c] < N_TOKENS ? chunks[c] : N_TOKENS - at, other + at * N_VOCAB);
        same(whole, other, N_TOKENS, "chunks", &f);
        sala_state_free(&line.state);
    }

    /* Two sessions, rows interleaved at random, several calls. */
    sala_rng rng;
    sala_rng_seed(&rng, 3);
    sala_timeline two[2] = {new_line(&f), new_line(&f)};
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
        assert_int_equal(two[0].state.length, at[0]);
    }
    same(whole, other, N_TOKENS, "batched", &f);

    /* Fork in the middle, go astray, roll back, go on. */
    sala_timeline fork = two[0];
    step_back(&f, &two[0], ids, 100);
    assert_int_equal(sala_state_fork(&fork.state, &two[0].state, NULL), SALA_OK);
    feed(&f, &two[0], ids2, 50, mixed);
    feed(&f, &fork, ids + 100, 100, other);
    same(whole + 100 * N_VOCAB, other, 100, "fork", &f);
    step_back(&f, &two[0], ids, 70);
    feed(&f, &two[0], ids + 70, 130, other);
    same(whole + 70 * N_VOCAB, other, 130, "rollback", &f);
    sala_state_free(&fork.state);

    /* A failing call changes nothing. */
    const sala_net_row bad[] = {{1, 0, false}, {N_VOCAB, 0, false}};
    sala_error err;
    step_back(&f, &two[0], ids, 150);
    assert_int_equal(sala_net_forward(f.net, lines, 2, bad, 2, NULL, &err), SALA_E_INVALID);
    assert_int_equal(two[0].state.length, 150);
    feed(&f, &two[0], ids + 150, 50, other);
    same(whole + 150 * N_VOCAB, other, 50, "after a failure", &f);
    sala_state_free(&two[0].state);
    sala_state_free(&two[1].state);
    close_model(&f);

    for (int threads = 1; threads <= 3; threads += 2) {
        f = open_model(m, kernels, threads, kv);
        line = new_line(&f);
        feed(&f, &line, ids, N_TOKENS, other);
        same(whole, other, N_TOKENS, "threads", &f);
        sala_state_free(&line.state);
        close_model(&f);
    }
}

static void invariance_ref(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        check_model(&models[i], "ref", SALA_F32);
    for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++)
        check_model(&hybrids[i], "ref", SALA_F32);
}

static void invariance_fast(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        check_model(&models[i], "auto", SALA_F16);
    for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++)
        check_model(&hybrids[i], "auto", SALA_F16);
}

/* What runs on smaller machines than this one. */
static void invariance_families(void **state)
{
    (void)state;
    for (const char *const *name = sala_kernels_families(); *name; name++) {
        sala_backend *be;
        if (strcmp(*name, "ref") == 0 || sala_backend_cpu_open(&be, *name, 1, false, NULL) != SALA_OK)
            continue;
        be->ops->close(be);
        for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++)
            check_model(&hybrids[i], *name, i % 2 ? SALA_Q8_0 : SALA_F16);
    }
}

static void invariance_quantised(void **state)
{
    (void)state;
    static const sala_dtype types[] = {SALA_F32, SALA_Q8_0, SALA_Q4_1};
    for (size_t t = 0; t < SALA_ARRAY_LEN(types); t++) {
        check_model(&models[t], "auto", types[t]);
        for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++)
            check_model(&hybrids[i], "auto", types[t]);
    }
}

/* Attention over several splits: few queries take another path there than many. */
static void long_context(void **state)
{
    (void)state;
    const tiny_model m = {.architecture = "llama",
                          .n_layers = 1,
                          .n_embd = 32,
                          .n_heads = 4,
                          .n_kv_heads = 2,
                          .head_dim = 8,
                          .n_ff = 32,
                          .n_vocab = N_VOCAB,
                          .n_ctx = 4096,
                          .tied = true};
    fixture f = open_model(&m, "auto", 2, SALA_F16);
    sala_timeline a = new_line(&f), b = new_line(&f);
    static float last_a[60 * N_VOCAB], last_b[60 * N_VOCAB];
    int32_t ids[180];
    for (int at = 0; at < 2520; at += 180) {
        make_ids(ids, 180, (uint64_t)at);
        feed(&f, &a, ids, 180, NULL);
        feed(&f, &b, ids, 180, NULL);
    }
    feed(&f, &a, ids, 60, last_a);
    for (int i = 0; i < 60; i++)
        feed(&f, &b, ids + i, 1, last_b + i * N_VOCAB);
    same(last_a, last_b, 60, "splits", &f);
    sala_state_free(&a.state);
    sala_state_free(&b.state);
    close_model(&f);
}

/* A call of more rows than go through the layers at once; far enough for several splits and several kept states. */
static void long_calls(void **state)
{
    (void)state;
    static float whole[N_LONG * N_VOCAB], other[N_LONG * N_VOCAB];
    static int32_t ids[N_LONG];
    make_ids(ids, N_LONG, 4);
    for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++) {
        fixture f = open_model(&hybrids[i], "auto", 2, SALA_F16);
        assert_true(f.net->max_rows < N_LONG / 2);
        sala_timeline a = new_line(&f), b = new_line(&f), c;
        feed(&f, &a, ids, N_LONG, whole);
        for (int at = 0; at < N_LONG; at += 100)
            feed(&f, &b, ids + at, 100, other + at * N_VOCAB);
        same(whole, other, N_LONG, "slices", &f);
        c = a;
        assert_int_equal(sala_state_fork(&c.state, &a.state, NULL), SALA_OK);
        static const int back[] = {1399, 1345, 1344, 1343, 1100, 1024, 1023, 640, 3, 0};
        for (size_t k = 0; k < SALA_ARRAY_LEN(back); k++) {
            const int n = back[k] < N_LONG - 3 ? 3 : N_LONG - back[k];
            step_back(&f, &c, ids, back[k]);
            for (int r = 0; r < n; r++)
                feed(&f, &c, ids + back[k] + r, 1, other + r * N_VOCAB);
            same(whole + back[k] * N_VOCAB, other, (size_t)n, "one by one after rollback", &f);
        }
        /* The fork has left the first one alone. */
        step_back(&f, &a, ids, 1300);
        feed(&f, &a, ids + 1300, 100, other);
        same(whole + 1300 * N_VOCAB, other, 100, "after its fork", &f);
        sala_state_free(&a.state);
        sala_state_free(&b.state);
        sala_state_free(&c.state);
        close_model(&f);
    }
}

/* Infinite weights must end in an error, not in garbage, and leave the session as it was. */
static void not_finite(void **state)
{
    (void)state;
    const tiny_model *const some[] = {&models[0], &hybrids[0], &hybrids[6]};
    for (size_t i = 0; i < SALA_ARRAY_LEN(some); i++) {
        tiny_model m = *some[i];
        m.scale = 1e30;
        fixture f = open_model(&m, "auto", 1, SALA_F16);
        sala_timeline line = new_line(&f), *lines = &line;
        static float logits[N_VOCAB];
        static sala_net_row rows[70];
        sala_error err;
        for (int r = 0; r < 70; r++)
            rows[r] = (sala_net_row){1, 0, r == 69};
        assert_int_equal(sala_net_forward(f.net, &lines, 1, rows, 70, logits, &err), SALA_E_NUMERIC);
        assert_int_equal(line.state.length, 0);
        assert_int_equal(line.state.linear.length, 0);
        assert_int_equal(sala_state_bytes(&line.state), 0);
        sala_state_free(&line.state);
        close_model(&f);
    }
}

/* The decay of linear heads, frozen with the reference's, for numbers of heads that are no powers of two as well. */
static void slopes(void **state)
{
    (void)state;
    json_t *frozen = sala_json_load_file(SALA_TEST_DIR "/fixtures/lightning.json"), *list, *slope;
    assert_non_null(frozen);
    const char *heads;
    size_t n = 0;
    json_object_foreach(json_object_get(frozen, "slopes"), heads, list)
    {
        size_t h;
        assert_int_equal(json_array_size(list), atoi(heads));
        json_array_foreach(list, h, slope)
        {
            const double want = json_number_value(slope), got = sala_lightning_slope((int)h, atoi(heads));
            if (!(fabs(got - want) <= 1e-8 * want))
                fail_msg("head %zu of %s: %.9g, expected %.9g", h, heads, got, want);
        }
        n++;
    }
    assert_true(n >= 12);
    json_decref(frozen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(invariance_ref),      cmocka_unit_test(invariance_fast),
                                       cmocka_unit_test(invariance_families), cmocka_unit_test(invariance_quantised),
                                       cmocka_unit_test(long_context),        cmocka_unit_test(long_calls),
                                       cmocka_unit_test(not_finite),          cmocka_unit_test(slopes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
