/* The sampler against plain definitions: which tokens may be drawn, how often, and what penalties do. The expected sets
 * below were computed with transformers' logits processors (TopK, TopP, MinP, Typical, RepetitionPenalty) on the logits
 * of the function `logits_of`; tests/fixtures/make_sampler.py prints them. */
#include "infer/sampler.h"
#include "unit/test.h"

#include <math.h>

enum { N = 50, DRAWS = 200000 };

static sala_kernels kernels;

/* Distinct logits without a pattern: a permutation of 0..49 spread over [-4, 4). */
static void logits_of(float *x)
{
    for (int i = 0; i < N; i++)
        x[i] = (float)((i * 37 + 11) % N) * 8.0f / N - 4.0f;
}

static sala_sampler *make(sala_sampler_params p)
{
    sala_sampler *s;
    sala_error err;
    if (sala_sampler_make(&s, &kernels, N, &p, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return s;
}

static int compare_rank(const void *a, const void *b)
{
    float x[N];
    logits_of(x);
    const float u = x[*(const int *)a], v = x[*(const int *)b];
    return u < v ? 1 : u > v ? -1 : 0;
}

/* Draws many times and compares frequencies with softmax(logits / temperature) over the n_keep best tokens. */
static void check_kept(sala_sampler_params p, int n_keep)
{
    float x[N];
    logits_of(x);
    int order[N], hits[N] = {0};
    for (int i = 0; i < N; i++)
        order[i] = i;
    qsort(order, N, sizeof *order, compare_rank);
    double sum = 0;
    for (int i = 0; i < n_keep; i++)
        sum += exp(x[order[i]] / p.temperature);
    p.seed = 5;
    sala_sampler *s = make(p);
    for (int i = 0; i < DRAWS; i++) {
        int32_t t;
        assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
        hits[t]++;
    }
    sala_sampler_close(s);
    for (int i = 0; i < N; i++) {
        const double want = i < n_keep ? exp(x[order[i]] / p.temperature) / sum : 0;
        const double sigma = sqrt(want * (1 - want) / DRAWS);
        if (fabs((double)hits[order[i]] / DRAWS - want) > 5 * sigma)
            fail_msg("token %d (rank %d) drawn %d times, expected %.1f", order[i], i, hits[order[i]], want * DRAWS);
    }
}

static void distributions(void **state)
{
    (void)state;
    check_kept((sala_sampler_params){.temperature = 1}, N);
    check_kept((sala_sampler_params){.temperature = 0.5f}, N);
    check_kept((sala_sampler_params){.temperature = 2, .top_k = 3}, 3);
    check_kept((sala_sampler_params){.temperature = 1, .top_p = 0.5f}, 5);
    check_kept((sala_sampler_params){.temperature = 0.7f, .top_p = 0.9f}, 15);
    check_kept((sala_sampler_params){.temperature = 1, .min_p = 0.2f}, 11);
    check_kept((sala_sampler_params){.temperature = 1.5f, .top_k = 20, .top_p = 0.9f, .min_p = 0.5f}, 5);
    check_kept((sala_sampler_params){.temperature = 1, .top_k = 1}, 1);
    check_kept((sala_sampler_params){.temperature = 1e-6f}, 1);
}

static void typical(void **state)
{
    (void)state;
    float x[N];
    logits_of(x);
    bool drawn[N] = {0};
    sala_sampler *s = make((sala_sampler_params){.temperature = 1, .typical_p = 0.5f, .seed = 1});
    for (int i = 0; i < 50000; i++) {
        int32_t t;
        assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
        drawn[t] = true;
    }
    sala_sampler_close(s);
    /* Ranks by logit that transformers' TypicalLogitsWarper(0.5) keeps: 2 to 9. */
    int order[N];
    for (int i = 0; i < N; i++)
        order[i] = i;
    qsort(order, N, sizeof *order, compare_rank);
    for (int i = 0; i < N; i++)
        if (drawn[order[i]] != (i >= 2 && i <= 9))
            fail_msg("rank %d: drawn %d", i, drawn[order[i]]);
}

static void greedy_and_penalties(void **state)
{
    (void)state;
    float x[4] = {3, 2.5f, -1, 2};
    sala_sampler *s;
    sala_sampler_params p = {.repeat_penalty = 2, .penalty_last_n = 2};
    assert_int_equal(sala_sampler_make(&s, &kernels, 4, &p, NULL), SALA_OK);
    const int32_t want[] = {0, 1, 3, 0, 1, 3}; /* the last two are halved: 0 comes back once it left the window */
    int32_t t;
    for (size_t i = 0; i < SALA_ARRAY_LEN(want); i++) {
        assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
        assert_int_equal(t, want[i]);
    }
    sala_sampler_reset(s);
    assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
    assert_int_equal(t, 0);
    sala_sampler_close(s);

    /* Each time a token occurred costs 0.4: 3, then 2.6 against 2.5, then 2.2 against 2.5 ... */
    p = (sala_sampler_params){.frequency_penalty = 0.4f, .penalty_last_n = -1};
    assert_int_equal(sala_sampler_make(&s, &kernels, 4, &p, NULL), SALA_OK);
    const int32_t counted[] = {0, 0, 1, 0, 1, 3};
    for (size_t i = 0; i < SALA_ARRAY_LEN(counted); i++) {
        assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
        assert_int_equal(t, counted[i]);
    }
    sala_sampler_close(s);

    p = (sala_sampler_params){.presence_penalty = 5};
    assert_int_equal(sala_sampler_make(&s, &kernels, 4, &p, NULL), SALA_OK);
    sala_sampler_accept(s, 0);
    sala_sampler_accept(s, 1);
    assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
    assert_int_equal(t, 3);
    sala_sampler_close(s);

    const sala_logit_bias bias[] = {{0, -INFINITY}, {2, 100}, {3, 0.75f}};
    p = (sala_sampler_params){.bias = bias, .n_bias = 1};
    assert_int_equal(sala_sampler_make(&s, &kernels, 4, &p, NULL), SALA_OK);
    assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
    assert_int_equal(t, 1);
    sala_sampler_close(s);
    p = (sala_sampler_params){.bias = bias, .n_bias = 3, .temperature = 0.5f};
    assert_int_equal(sala_sampler_make(&s, &kernels, 4, &p, NULL), SALA_OK);
    assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, NULL), SALA_OK);
    assert_int_equal(t, 2);
    sala_sampler_close(s);
}

static void log_probabilities(void **state)
{
    (void)state;
    float x[N];
    logits_of(x);
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += exp(x[i]);
    sala_sampler *s = make((sala_sampler_params){.temperature = 1, .top_k = 10, .seed = 3});
    int32_t t;
    sala_candidate chosen, top[5];
    assert_int_equal(sala_sample(s, x, &t, &chosen, top, 5, NULL), SALA_OK);
    assert_int_equal(chosen.token, t);
    assert_true(fabs(chosen.logprob - (x[t] - log(sum))) < 1e-5);
    int order[N];
    for (int i = 0; i < N; i++)
        order[i] = i;
    qsort(order, N, sizeof *order, compare_rank);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabs(top[i].logprob - (x[order[i]] - log(sum))) < 1e-5);
    }
    sala_sampler_close(s);
    /* Ties: the lower id first, whatever was asked for. */
    const float flat[N] = {0};
    struct sala_scored best[7];
    assert_int_equal(sala_top_logits(best, 7, flat, N), 7);
    for (int i = 0; i < 7; i++)
        assert_int_equal(best[i].token, i);
}

static void same_seed_same_draws(void **state)
{
    (void)state;
    float x[N];
    logits_of(x);
    sala_sampler *a = make((sala_sampler_params){.temperature = 1, .seed = 9});
    sala_sampler *b = make((sala_sampler_params){.temperature = 1, .seed = 9});
    sala_sampler *c = make((sala_sampler_params){.temperature = 1, .seed = 10});
    int differ = 0;
    for (int i = 0; i < 100; i++) {
        int32_t t, u, v;
        sala_sample(a, x, &t, NULL, NULL, 0, NULL);
        sala_sample(b, x, &u, NULL, NULL, 0, NULL);
        sala_sample(c, x, &v, NULL, NULL, 0, NULL);
        assert_int_equal(t, u);
        differ += t != v;
    }
    assert_true(differ > 50);
    sala_sampler_close(a);
    sala_sampler_close(b);
    sala_sampler_close(c);
}

/* A large vocabulary is sorted only as far as a draw needs it: the same draws as with all of it sorted, which top-k of
 * all tokens asks for; flat and peaked, with penalties over a window that holds tokens twice. */
static void large_vocabularies(void **state)
{
    (void)state;
    enum { LARGE = 6000, WIDTHS = 3 };
    static float x[LARGE];
    static const sala_sampler_params params[] = {
        {.temperature = 1},
        {.temperature = 0.7f, .top_p = 0.9f},
        {.temperature = 1.5f, .min_p = 0.02f},
        {.temperature = 1, .top_p = 0.98f, .min_p = 0.001f},
        {.temperature = 0.8f, .repeat_penalty = 1.3f, .frequency_penalty = 0.2f, .penalty_last_n = 10},
    };
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(5));
    for (size_t i = 0; i < SALA_ARRAY_LEN(params) * WIDTHS; i++) {
        sala_sampler_params p = params[i / WIDTHS];
        sala_sampler *s[2];
        for (int all = 0; all < 2; all++) {
            p.top_k = all ? LARGE : 0;
            assert_int_equal(sala_sampler_make(&s[all], &kernels, LARGE, &p, NULL), SALA_OK);
        }
        for (int draw = 0; draw < 20; draw++) {
            for (int t = 0; t < LARGE; t++) {
                const double width = i % WIDTHS == 0 ? 0.5 : i % WIDTHS == 1 ? 2 : 8;
                x[t] = draw % 5 == 4 && t % 7 ? -1e30f : (float)(width * sala_rng_normal(&rng));
            }
            int32_t a, b;
            assert_int_equal(sala_sample(s[0], x, &a, NULL, NULL, 0, NULL), SALA_OK);
            assert_int_equal(sala_sample(s[1], x, &b, NULL, NULL, 0, NULL), SALA_OK);
            if (a != b)
                fail_msg("parameters %zu, draw %d: token %d, with everything sorted %d", i, draw, a, b);
        }
        for (int all = 0; all < 2; all++)
            sala_sampler_close(s[all]);
    }
}

static void refusals(void **state)
{
    (void)state;
    sala_sampler *s;
    sala_error err;
    const sala_logit_bias far = {N, 1}, nan = {1, NAN};
    const sala_sampler_params bad[] = {{.temperature = NAN},
                                       {.top_p = INFINITY},
                                       {.repeat_penalty = -1},
                                       {.bias = &far, .n_bias = 1},
                                       {.bias = &nan, .n_bias = 1}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(bad); i++)
        assert_int_equal(sala_sampler_make(&s, &kernels, N, &bad[i], &err), SALA_E_INVALID);
    s = make((sala_sampler_params){.temperature = 1});
    float x[N];
    logits_of(x);
    x[17] = NAN;
    int32_t t;
    assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, &err), SALA_E_NUMERIC);
    sala_sampler_close(s);
    sala_logit_bias none[N];
    for (int i = 0; i < N; i++)
        none[i] = (sala_logit_bias){i, -INFINITY};
    logits_of(x);
    for (int greedy = 0; greedy < 2; greedy++) {
        s = make((sala_sampler_params){.temperature = greedy ? 0 : 1, .bias = none, .n_bias = N});
        assert_int_equal(sala_sample(s, x, &t, NULL, NULL, 0, &err), SALA_E_NUMERIC);
        sala_sampler_close(s);
    }
}

int main(void)
{
    sala_kernels_get(&kernels, "ref", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions),      cmocka_unit_test(typical),  cmocka_unit_test(greedy_and_penalties),
        cmocka_unit_test(log_probabilities),  cmocka_unit_test(refusals), cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(large_vocabularies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
