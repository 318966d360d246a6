/* States of linear layers under random programs: which are kept, how far back they lie, and that nothing of the past is
 * ever written again. */
#include "unit/state/fake_linear.h"

enum { N_SESSIONS = 5, STEP = SALA_LINEAR_MARK_STEP };

typedef struct shadow {
    bool open;
    fake_tokens t;
    int64_t furthest; /* the greatest length that the timeline ever had: what its marks are thinned out for */
} shadow;

static void check_marks(const sala_linear *s, const shadow *want)
{
    const int64_t current = s->length / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK;
    int i = 0;
    for (int64_t p = STEP; p < current; p += STEP) {
        while (i < s->n_marks && s->marks[i].position < p)
            i++;
        if (sala_linear_keeps(p, want->furthest) && (i == s->n_marks || s->marks[i].position != p))
            fail_msg("length %lld (once %lld): no state at %lld", (long long)s->length, (long long)want->furthest,
                     (long long)p);
    }
    for (i = 0; i < s->n_marks; i++)
        assert_int_equal(s->marks[i].position % STEP, 0);
    assert_true(sala_linear_bytes(s) <= sala_linear_bytes_at(&s->layout, want->furthest));
}

static void append(sala_linear *s, shadow *want, sala_rng *rng, int64_t n, bool fails)
{
    static fake_tokens after;
    after = want->t;
    uint32_t tokens[FAKE_MAX];
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)sala_rng_next(rng);
    fake_append(&after, tokens, n);
    const int64_t from = s->length;
    sala_linear_run run;
    sala_linear_begin(&run, s, n);
    for (int64_t done = 0; done < n;) {
        int64_t some = 1 + (int64_t)(sala_rng_next(rng) % (sala_rng_next(rng) % 2 ? 80 : 600));
        some = sala_min_i64(some, n - done);
        sala_linear_stretch stretch;
        assert_int_equal(sala_linear_next(&run, some, &stretch, NULL), SALA_OK);
        fake_run(&stretch, &after, from + done, some);
        assert_int_equal(s->length, from);
        done += some;
        if (fails && sala_rng_next(rng) % 4 == 0)
            break;
    }
    sala_linear_end(&run, !fails);
    if (fails)
        return;
    want->t = after;
    want->furthest = sala_max_i64(want->furthest, after.length);
    for (int i = 0; i < s->n_marks; i++)
        assert_true(sala_linear_keeps(s->marks[i].position, s->length));
}

static void random_programs(void **state)
{
    (void)state;
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(2));
    const sala_linear_layout layout = fake_layout();
    for (int program = 0; program < 150; program++) {
        sala_linear s[N_SESSIONS];
        static shadow want[N_SESSIONS];
        memset(want, 0, sizeof want);
        sala_linear_init(&s[0], &layout);
        want[0].open = true;
        const int64_t longest = sala_rng_next(&rng) % 3 ? 700 : FAKE_MAX;
        for (int step = 0; step < 60; step++) {
            int a = (int)(sala_rng_next(&rng) % N_SESSIONS);
            while (!want[a].open) /* the first one always is */
                a = (a + 1) % N_SESSIONS;
            const int b = (int)(sala_rng_next(&rng) % N_SESSIONS);
            shadow *w = &want[a];
            switch (sala_rng_next(&rng) % 6) {
            case 0:
            case 1:
            case 2: {
                const int64_t most = sala_min_i64(longest - w->t.length, longest / 3);
                append(&s[a], w, &rng, (int64_t)(sala_rng_next(&rng) % (uint64_t)(most + 1)),
                       sala_rng_next(&rng) % 5 == 0);
                break;
            }
            case 3: {
                const int64_t back = (int64_t)(sala_rng_next(&rng) % (sala_rng_next(&rng) % 2 ? 300 : FAKE_MAX));
                const int64_t keep = sala_max_i64(0, w->t.length - back), from = sala_linear_rollback(&s[a], keep);
                assert_true(from <= keep);
                /* What has to be run again is bounded by how far back it is from where the timeline once was. */
                assert_true(keep - from < sala_max_i64(2 * (w->furthest - keep), STEP));
                w->t.length = from;
                break;
            }
            case 4:
                if (a == b)
                    break;
                if (want[b].open)
                    sala_linear_free(&s[b]);
                assert_int_equal(sala_linear_fork(&s[b], &s[a], NULL), SALA_OK);
                want[b] = *w;
                break;
            default:
                if (a != 0) {
                    sala_linear_free(&s[a]);
                    w->open = false;
                }
            }
            for (int t = 0; t < N_SESSIONS; t++)
                if (want[t].open) {
                    fake_compare(&s[t], &want[t].t);
                    check_marks(&s[t], &want[t]);
                }
        }
        for (int t = 0; t < N_SESSIONS; t++)
            if (want[t].open)
                sala_linear_free(&s[t]);
    }
}

/* The promise of the header, for every length and every step back. */
static void spacing(void **state)
{
    (void)state;
    assert_false(sala_linear_keeps(0, 1000));
    assert_false(sala_linear_keeps(SALA_LINEAR_CHUNK, 100));
    for (int64_t n = 0; n < 20000; n += 61) {
        int64_t kept = 0, seen = 0; /* the last kept state at or before a position; the start needs none */
        for (int64_t p = 0; p <= n; p++) {
            if (sala_linear_keeps(p, n)) {
                kept = p;
                seen++;
            }
            if (p - kept >= sala_max_i64(2 * (n - p), STEP))
                fail_msg("%lld tokens: back to %lld means again from %lld", (long long)n, (long long)p,
                         (long long)kept);
        }
        int levels = 0;
        for (int64_t step = STEP; step <= n; step *= 2)
            levels++;
        assert_true(seen <= levels);
    }
}

/* What is kept is forever: a state that was dropped at some length would not be asked for later. */
static void keeps_only_less(void **state)
{
    (void)state;
    for (int64_t p = STEP; p < 8000; p += STEP) {
        bool before = true;
        for (int64_t n = p; n < 40000; n += 37) {
            const bool now = sala_linear_keeps(p, n);
            assert_true(before || !now);
            before = now;
        }
    }
}

/* A million tokens in one pass of long stretches and then one by one: few states, as planned. */
static void a_million(void **state)
{
    (void)state;
    const sala_linear_layout layout = fake_layout();
    sala_linear s;
    sala_linear_init(&s, &layout);
    const int64_t n = INT64_C(1) << 20;
    sala_linear_run run;
    sala_linear_stretch stretch;
    sala_linear_begin(&run, &s, n);
    for (int64_t at = 0; at < n; at += 512)
        assert_int_equal(sala_linear_next(&run, 512, &stretch, NULL), SALA_OK);
    sala_linear_end(&run, true);
    assert_true(s.n_marks <= 13);
    for (int i = 0; i < 1000; i++) {
        sala_linear_begin(&run, &s, 1);
        assert_int_equal(sala_linear_next(&run, 1, &stretch, NULL), SALA_OK);
        sala_linear_end(&run, true);
        assert_true(sala_linear_bytes(&s) <= sala_linear_bytes_at(&layout, s.length));
    }
    assert_int_equal(s.length, n + 1000);
    assert_int_equal(sala_linear_rollback(&s, n + 130), n);
    assert_int_equal(sala_linear_rollback(&s, 0), 0);
    assert_null(s.state);
    assert_int_equal(sala_linear_bytes(&s), 0);
    sala_linear_free(&s);
}

static void limits(void **state)
{
    (void)state;
    sala_linear_layout l;
    sala_error e;
    assert_int_equal(sala_linear_layout_init(&l, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, &e), SALA_E_LIMIT);
    assert_int_equal(sala_linear_layout_init(&l, INT32_MAX, 64, 64, 1024, &e), SALA_E_LIMIT);
    /* 24 layers of 32 heads of 128 components: 48 MiB of states. */
    assert_int_equal(sala_linear_layout_init(&l, 24, 32, 32, 128, &e), SALA_OK);
    assert_int_equal(l.state_bytes * 24, (size_t)48 << 20);
    l.n_layers = 0;
    assert_int_equal(sala_linear_bytes_at(&l, 1000000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(spacing),
                                       cmocka_unit_test(keeps_only_less), cmocka_unit_test(a_million),
                                       cmocka_unit_test(limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
