/* Whole sessions - keys and values, compressed keys, linear states - under random programs of append, failed pass,
 * rollback, fork and close, against a plain model of the contents; and what they say of their size. */
#include "state/state.h"

#include "base/json.h"
#include "unit/state/fake_linear.h"

enum { N_SESSIONS = 5 };

typedef struct shadow {
    bool open;
    fake_tokens t;
} shadow;

static sala_state_layout make_layout(bool sparse, bool linear, bool raw_keys)
{
    sala_state_layout l = {.dtype = SALA_F16, .n_attn = 2, .n_sparse = sparse, .n_kv_heads = 1, .head_dim = 2};
    if (sparse) {
        l.kernel = 8;
        l.stride = 4;
        l.coarse = 4;
        l.raw_keys = raw_keys;
    }
    if (linear)
        l.linear = fake_layout();
    assert_int_equal(sala_state_layout_finish(&l, NULL), SALA_OK);
    return l;
}

static uint32_t *key_of(const sala_state *s, int layer, int part, int64_t token)
{
    const sala_state_layout *l = &s->layout;
    uint8_t *block = s->blocks.data[token / SALA_KV_BLOCK];
    return (uint32_t *)(void *)(block + (size_t)layer * l->attn_layer_bytes + (size_t)part * l->head_bytes) +
           token % SALA_KV_BLOCK;
}

static uint32_t *row_of(const sala_state *s, bool coarse, int64_t row)
{
    uint8_t *page = (coarse ? &s->coarse : &s->fine)->data[row / SALA_KV_BLOCK];
    return (uint32_t *)(void *)page + row % SALA_KV_BLOCK;
}

static uint32_t row_value(const sala_state_layout *l, const fake_tokens *t, bool coarse, int64_t row)
{
    const int64_t f = coarse ? l->coarse : 1;
    uint32_t h = coarse;
    for (int64_t i = l->stride * f * row; i < (l->stride * row + l->kernel) * f; i++)
        h = (h ^ t->token[i]) * 2654435761u + 1;
    return h;
}

/* A forward pass over the tokens [from, t->length), in stretches. */
static void write_pass(sala_state *s, const fake_tokens *t, sala_linear_run *run, sala_rng *rng)
{
    const sala_state_layout *l = &s->layout;
    const int64_t from = s->length;
    for (int64_t p = from; p < t->length; p++)
        for (int layer = 0; layer < l->n_attn; layer++)
            for (int part = 0; part < (l->raw_keys ? 3 : 2); part++)
                *key_of(s, layer, part, p) = t->token[p] + (uint32_t)(7 * layer + part);
    for (int coarse = 0; coarse < 2; coarse++)
        for (int64_t r = sala_state_rows(l, from, coarse); r < sala_state_rows(l, t->length, coarse); r++)
            *row_of(s, coarse, r) = row_value(l, t, coarse, r);
    for (int64_t at = from; run && at < t->length;) {
        const int64_t n = sala_min_i64(t->length - at, 1 + (int64_t)(sala_rng_next(rng) % 300));
        sala_linear_stretch stretch;
        assert_int_equal(sala_linear_next(run, n, &stretch, NULL), SALA_OK);
        fake_run(&stretch, t, at, n);
        at += n;
    }
}

static void compare(const sala_state *s, const fake_tokens *t)
{
    const sala_state_layout *l = &s->layout;
    assert_int_equal(s->length, t->length);
    for (int64_t p = 0; p < t->length; p++)
        for (int layer = 0; layer < l->n_attn; layer++)
            for (int part = 0; part < (l->raw_keys ? 3 : 2); part++)
                if (*key_of(s, layer, part, p) != t->token[p] + (uint32_t)(7 * layer + part))
                    fail_msg("layer %d, part %d: token %lld is another's", layer, part, (long long)p);
    for (int coarse = 0; coarse < 2; coarse++)
        for (int64_t r = 0; r < sala_state_rows(l, t->length, coarse); r++)
            if (*row_of(s, coarse, r) != row_value(l, t, coarse, r))
                fail_msg("compressed key %lld is another's", (long long)r);
    if (l->linear.n_layers)
        fake_compare(&s->linear, t);
}

static void random_program(const sala_state_layout *layout, sala_rng *rng)
{
    sala_state s[N_SESSIONS];
    static shadow want[N_SESSIONS];
    static fake_tokens after;
    memset(want, 0, sizeof want);
    sala_state_init(&s[0], layout);
    want[0].open = true;
    for (int step = 0; step < 50; step++) {
        int a = (int)(sala_rng_next(rng) % N_SESSIONS);
        while (!want[a].open) /* the first one always is */
            a = (a + 1) % N_SESSIONS;
        const int b = (int)(sala_rng_next(rng) % N_SESSIONS);
        switch (sala_rng_next(rng) % 6) {
        case 0:
        case 1:
        case 2: {
            uint32_t tokens[400];
            const int64_t n = (int64_t)(sala_rng_next(rng) % SALA_ARRAY_LEN(tokens));
            after = want[a].t;
            if (after.length + n > 3000)
                break;
            for (int64_t i = 0; i < n; i++)
                tokens[i] = (uint32_t)sala_rng_next(rng);
            fake_append(&after, tokens, n);
            sala_linear_run run, *linear = layout->linear.n_layers ? &run : NULL;
            assert_int_equal(sala_state_prepare(&s[a], n, NULL), SALA_OK);
            if (linear)
                sala_linear_begin(&run, &s[a].linear, n);
            write_pass(&s[a], &after, linear, rng);
            const bool fails = sala_rng_next(rng) % 5 == 0;
            sala_state_commit(&s[a], fails ? 0 : n, linear);
            if (!fails)
                want[a].t = after;
            break;
        }
        case 3: {
            const int64_t keep = (int64_t)(sala_rng_next(rng) % (uint64_t)(want[a].t.length + 1));
            const int64_t target = sala_state_rollback_target(&s[a], keep), from = sala_state_rollback(&s[a], keep);
            assert_int_equal(from, target);
            assert_true(layout->linear.n_layers ? from <= keep : from == keep);
            want[a].t.length = from;
            break;
        }
        case 4:
            if (a == b)
                break;
            if (want[b].open)
                sala_state_free(&s[b]);
            assert_int_equal(sala_state_fork(&s[b], &s[a], NULL), SALA_OK);
            want[b] = want[a];
            break;
        default:
            if (a != 0) {
                sala_state_free(&s[a]);
                want[a].open = false;
            }
        }
        for (int t = 0; t < N_SESSIONS; t++)
            if (want[t].open) {
                compare(&s[t], &want[t].t);
                /* No page beyond what the tokens need; states are thinned out for lengths of the past. */
                const sala_state_cost cost = sala_state_cost_at(layout, s[t].length);
                assert_int_equal(sala_state_bytes(&s[t]) - sala_linear_bytes(&s[t].linear),
                                 cost.keys_values + cost.rows);
            }
    }
    for (int t = 0; t < N_SESSIONS; t++)
        if (want[t].open)
            sala_state_free(&s[t]);
}

static void random_programs(void **state)
{
    (void)state;
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(3));
    for (int kind = 0; kind < 6; kind++) {
        const sala_state_layout layout = make_layout(kind % 3 > 0, kind >= 3, kind % 3 == 2);
        for (int program = 0; program < 40; program++)
            random_program(&layout, &rng);
    }
}

/* Models of linear layers only have no blocks at all. */
static void linear_only(void **state)
{
    (void)state;
    sala_state_layout l = {.dtype = SALA_F16, .n_kv_heads = 1, .head_dim = 2, .linear = fake_layout()};
    assert_int_equal(sala_state_layout_finish(&l, NULL), SALA_OK);
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(4));
    for (int program = 0; program < 20; program++)
        random_program(&l, &rng);
}

/* Numbers of compressed keys, frozen with those of the reference. */
static void counts_of_rows(void **state)
{
    (void)state;
    sala_state_layout l = {.dtype = SALA_F16,
                           .n_attn = 1,
                           .n_sparse = 1,
                           .n_kv_heads = 1,
                           .head_dim = 2,
                           .kernel = 32,
                           .stride = 16,
                           .coarse = 4};
    assert_int_equal(sala_state_layout_finish(&l, NULL), SALA_OK);
    json_t *frozen = sala_json_load_file(SALA_TEST_DIR "/fixtures/infllm2.json"), *row;
    assert_non_null(frozen);
    size_t i;
    json_array_foreach(json_object_get(frozen, "rows"), i, row)
    {
        const int64_t n = json_integer_value(json_array_get(row, 0));
        assert_int_equal(sala_state_rows(&l, n, false), json_integer_value(json_array_get(row, 1)));
        assert_int_equal(sala_state_rows(&l, n, true), json_integer_value(json_array_get(row, 2)));
        assert_int_equal(sala_pages_for(n), json_integer_value(json_array_get(row, 3)));
    }
    assert_true(i >= 9);
    json_decref(frozen);
    l.n_sparse = 0;
    assert_int_equal(sala_state_rows(&l, 1000, false), 0);
}

static void limits(void **state)
{
    (void)state;
    sala_error e;
    sala_state_layout l = {.dtype = SALA_Q4_0, .n_attn = 1, .n_kv_heads = 1, .head_dim = 64};
    assert_int_equal(sala_state_layout_finish(&l, &e), SALA_E_UNSUPPORTED);
    l = (sala_state_layout){.dtype = SALA_F32, .n_attn = INT32_MAX, .n_kv_heads = INT32_MAX, .head_dim = 1 << 20};
    assert_int_equal(sala_state_layout_finish(&l, &e), SALA_E_LIMIT);
    l = (sala_state_layout){.dtype = SALA_F16, .n_attn = 32, .n_kv_heads = 2, .head_dim = 128};
    assert_int_equal(sala_state_layout_finish(&l, &e), SALA_OK);
    /* 32 layers of two key heads of 128 in f16 are 32 KiB a token, 32 GiB at a million. */
    assert_int_equal(sala_state_block_bytes(&l), 32 * 1024 * 64);
    assert_true(sala_state_bytes_at(&l, 1 << 20) == (uint64_t)32 << 30);
    assert_true(sala_state_bytes_at(&l, INT64_MAX / 2) >= UINT64_MAX / 4);
}

/* Filled sessions have the length and size that was asked for, the same content for the same seed, and take part in
 * everything else. */
static void filled(void **state)
{
    (void)state;
    static const sala_dtype types[] = {SALA_F32, SALA_F16, SALA_Q8_0, SALA_Q4_1};
    for (size_t k = 0; k < SALA_ARRAY_LEN(types); k++) {
        sala_state_layout l = make_layout(true, true, k % 2 == 1);
        l.dtype = types[k];
        l.n_kv_heads = 2;
        l.head_dim = 8;
        assert_int_equal(sala_state_layout_finish(&l, NULL), SALA_OK);
        sala_state a, b;
        sala_state_init(&a, &l);
        sala_state_init(&b, &l);
        assert_int_equal(sala_state_fill(&a, 1000, 5, NULL), SALA_OK);
        assert_int_equal(sala_state_fill(&b, 1000, 5, NULL), SALA_OK);
        assert_int_equal(a.length, 1000);
        assert_int_equal(a.linear.length, 1000);
        assert_true(sala_state_bytes(&a) <= sala_state_bytes_at(&l, 1000));
        const sala_pages *const lists[2][3] = {{&a.blocks, &a.fine, &a.coarse}, {&b.blocks, &b.fine, &b.coarse}};
        for (int i = 0; i < 3; i++) {
            assert_int_equal(lists[0][i]->n_pages, lists[1][i]->n_pages);
            assert_true(lists[0][i]->n_pages > 0);
            for (int64_t p = 0; p < lists[0][i]->n_pages; p++)
                assert_memory_equal(lists[0][i]->data[p], lists[1][i]->data[p], lists[0][i]->page_bytes);
        }
        assert_memory_equal(sala_page_data(a.linear.state), sala_page_data(b.linear.state),
                            l.linear.state_bytes * FAKE_LAYERS);
        sala_error e;
        assert_int_equal(sala_state_fill(&b, 10, 5, &e), SALA_E_STATE);
        assert_int_equal(b.length, 1000);
        sala_state_free(&b);
        assert_int_equal(sala_state_fork(&b, &a, NULL), SALA_OK);
        assert_int_equal(sala_state_rollback(&b, 961), 961);
        assert_int_equal(sala_state_rollback(&b, 900), 0); /* no state was kept on the way */
        assert_int_equal(a.length, 1000);
        sala_state_free(&a);
        sala_state_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(linear_only),
                                       cmocka_unit_test(counts_of_rows), cmocka_unit_test(limits),
                                       cmocka_unit_test(filled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
