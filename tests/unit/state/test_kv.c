/* Blocks under random programs of append, rollback and fork, against a plain model of the contents. */
#include "state/kv.h"
#include "base/base.h"
#include "unit/test.h"

enum { N_TIMELINES = 6, MAX_TOKENS = 700 };

typedef struct shadow {
    bool open;
    int64_t length;
    uint16_t value[MAX_TOKENS];
} shadow;

static uint16_t *slot(const sala_kv *kv, int64_t token)
{
    return (uint16_t *)kv->blocks[token / SALA_KV_BLOCK_TOKENS] + token % SALA_KV_BLOCK_TOKENS * kv->layout.head_dim;
}

static void random_programs(void **state)
{
    (void)state;
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(1));
    sala_kv_layout layout;
    assert_int_equal(sala_kv_layout_init(&layout, SALA_F16, 1, 1, 4, NULL), SALA_OK);
    assert_int_equal(layout.block_bytes, 64 * 4 * 2 * 2);
    for (int program = 0; program < 200; program++) {
        sala_kv kv[N_TIMELINES];
        static shadow want[N_TIMELINES];
        memset(want, 0, sizeof want);
        sala_kv_init(&kv[0], &layout);
        want[0].open = true;
        for (int step = 0; step < 60; step++) {
            const int a = (int)(sala_rng_next(&rng) % N_TIMELINES), b = (int)(sala_rng_next(&rng) % N_TIMELINES);
            if (!want[a].open)
                continue;
            switch (sala_rng_next(&rng) % 4) {
            case 0:
            case 1: {
                const int64_t n = (int64_t)(sala_rng_next(&rng) % 130);
                if (want[a].length + n > MAX_TOKENS)
                    break;
                assert_int_equal(sala_kv_prepare(&kv[a], n, NULL), SALA_OK);
                for (int64_t i = 0; i < n; i++) {
                    const uint16_t v = (uint16_t)sala_rng_next(&rng);
                    want[a].value[want[a].length + i] = v;
                    *slot(&kv[a], kv[a].length + i) = v;
                }
                if (sala_rng_next(&rng) % 5 == 0) { /* a failed pass: nothing of it stays */
                    sala_kv_rollback(&kv[a], kv[a].length);
                    break;
                }
                sala_kv_commit(&kv[a], n);
                want[a].length += n;
                break;
            }
            case 2:
                want[a].length = (int64_t)(sala_rng_next(&rng) % (uint64_t)(want[a].length + 1));
                sala_kv_rollback(&kv[a], want[a].length);
                break;
            default:
                if (a == b)
                    break;
                if (want[b].open)
                    sala_kv_free(&kv[b]);
                assert_int_equal(sala_kv_fork(&kv[b], &kv[a], NULL), SALA_OK);
                want[b] = want[a];
            }
            for (int t = 0; t < N_TIMELINES; t++) {
                if (!want[t].open)
                    continue;
                assert_int_equal(kv[t].length, want[t].length);
                for (int64_t i = 0; i < want[t].length; i++)
                    if (*slot(&kv[t], i) != want[t].value[i])
                        fail_msg("program %d step %d: timeline %d differs at token %lld", program, step, t,
                                 (long long)i);
            }
        }
        for (int t = 0; t < N_TIMELINES; t++)
            if (want[t].open)
                sala_kv_free(&kv[t]);
    }
}

static void limits(void **state)
{
    (void)state;
    sala_kv_layout layout;
    sala_error e;
    assert_int_equal(sala_kv_layout_init(&layout, SALA_Q4_0, 1, 1, 64, &e), SALA_E_UNSUPPORTED);
    assert_int_equal(sala_kv_layout_init(&layout, SALA_F32, INT32_MAX, INT32_MAX, INT32_MAX, &e), SALA_E_LIMIT);
    assert_int_equal(sala_kv_layout_init(&layout, SALA_F16, 32, 2, 128, &e), SALA_OK);
    assert_true(sala_kv_bytes_at(&layout, 1 << 20) >= (uint64_t)32 << 30); /* chapter 1.4: 32 GiB at a million tokens */
    assert_true(sala_kv_bytes_at(&layout, INT64_MAX) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
