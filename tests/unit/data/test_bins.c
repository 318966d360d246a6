/* Packing into sequences, the order of sequences, and batches. Best-fit decreasing is held against the plain algorithm
 * that looks through all bins. */
#include "unit/data/support.h"

#include "data/bins_file.h"
#include "data/loader.h"

#include <xxhash.h>

static uint32_t *random_lengths(int n, uint32_t most, uint64_t seed)
{
    uint32_t *lengths = malloc((size_t)n * sizeof *lengths);
    sala_rng rng;
    assert_non_null(lengths);
    sala_rng_seed(&rng, seed);
    for (int i = 0; i < n; i++) {
        const double u = sala_rng_uniform(&rng);
        lengths[i] = 1 + (uint32_t)((double)most * u * u);
    }
    return lengths;
}

static void test_permutation(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097};
    static uint8_t seen[5000];
    for (size_t s = 0; s < SALA_ARRAY_LEN(sizes); s++)
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            memset(seen, 0, sizeof seen);
            for (uint64_t x = 0; x < sizes[s]; x++) {
                const uint64_t y = sala_permute(42, epoch, x, sizes[s]);
                assert_true(y < sizes[s]);
                assert_int_equal(seen[y]++, 0);
            }
        }
    /* Seeds and epochs give other orders, and neighbours do not stay together. */
    uint64_t same_epoch = 0, same_seed = 0, together = 0;
    for (uint64_t x = 0; x < 1000; x++) {
        same_epoch += sala_permute(1, 0, x, 1000) == sala_permute(2, 0, x, 1000);
        same_seed += sala_permute(1, 0, x, 1000) == sala_permute(1, 1, x, 1000);
        together += x && sala_permute(1, 0, x, 1000) == sala_permute(1, 0, x - 1, 1000) + 1;
    }
    assert_true(same_epoch < 12 && same_seed < 12 && together < 12);
    assert_true(sala_permute(1, 0, 0, UINT64_MAX) < UINT64_MAX);
}

/* The number of bins that best-fit decreasing needs, by looking at each. */
static uint64_t plain_best_fit(const uint32_t *lengths, int n, uint32_t len)
{
    uint32_t *count = calloc(len + 1, sizeof *count);
    assert_non_null(count);
    size_t n_pieces = 0;
    for (int i = 0; i < n; i++) {
        count[len] += lengths[i] / len;
        if (lengths[i] % len >= 2)
            count[lengths[i] % len]++;
        n_pieces += lengths[i] / len + 1;
    }
    uint32_t *space = malloc(n_pieces * sizeof *space);
    assert_non_null(space);
    uint64_t n_bins = 0;
    for (uint32_t l = len; l >= 2; l--)
        for (uint32_t k = 0; k < count[l]; k++) {
            uint64_t best = n_bins;
            for (uint64_t b = 0; b < n_bins; b++)
                if (space[b] >= l && (best == n_bins || space[b] < space[best]))
                    best = b;
            if (best == n_bins)
                space[n_bins++] = len;
            space[best] -= l;
        }
    free(space);
    free(count);
    return n_bins;
}

static void check_bins(const sala_bins *b, const sala_corpus *c, const uint32_t *lengths, int n, uint32_t len)
{
    /* Every token but single ones at the end of a cut document, or alone in one, is an input exactly once. */
    uint64_t total = 0, dropped = 0;
    for (int i = 0; i < n; i++) {
        total += lengths[i];
        dropped += lengths[i] % len == 1;
    }
    uint8_t *seen = calloc(total + 1, 1);
    uint64_t *before = calloc((size_t)c->n_shards + 1, sizeof *before), tokens = 0;
    assert_non_null(seen);
    assert_non_null(before);
    for (int s = 0; s < c->n_shards; s++)
        before[s + 1] = before[s] + sala_shard_tokens(c->shards[s]);
    for (uint64_t i = 0; i < sala_bins_count(b); i++) {
        int n_pieces;
        const sala_piece *p = sala_bins_get(b, i, &n_pieces);
        uint64_t used = 0;
        assert_true(n_pieces > 0);
        for (int k = 0; k < n_pieces; k++) {
            used += p[k].count;
            assert_true(p[k].count >= 2);
            for (uint32_t t = 0; t < p[k].count; t++)
                assert_int_equal(seen[before[p[k].shard] + p[k].at + t]++, 0);
        }
        assert_true(used <= len);
        tokens += used;
    }
    assert_int_equal(tokens, total - dropped);
    assert_int_equal(sala_bins_dropped(b), dropped);
    const double fill = (double)tokens / ((double)sala_bins_count(b) * len);
    assert_true(sala_bins_fill(b) == fill);
    free(seen);
    free(before);
}

static void test_best_fit(void **state)
{
    (void)state;
    const uint64_t seed = test_seed(11);
    static const uint32_t lens[] = {2, 7, 64, 65, 300, 5000};
    for (size_t k = 0; k < SALA_ARRAY_LEN(lens); k++) {
        char dir[512], name[32];
        snprintf(name, sizeof name, "fit-%zu", k);
        uint32_t *lengths = random_lengths(600, 700, seed + k);
        lengths[5] = 3 * lens[k] + 1;
        test_corpus(test_path(dir, sizeof dir, name), lengths, 600, 1000, 100);
        sala_error err = {0};
        sala_corpus c;
        sala_bins *b;
        assert_ok(sala_corpus_open(&c, dir, &err));
        assert_ok(sala_bins_open(&b, &c, lens[k], SALA_PACK_BEST_FIT, NULL, &err));
        check_bins(b, &c, lengths, 600, lens[k]);
        assert_int_equal(sala_bins_count(b), plain_best_fit(lengths, 600, lens[k]));
        sala_bins_close(b);
        sala_corpus_close(&c);
        free(lengths);
    }
}

static void test_stream(void **state)
{
    (void)state;
    char dir[512];
    uint32_t *lengths = random_lengths(100, 300, 3);
    test_corpus(test_path(dir, sizeof dir, "stream"), lengths, 100, 1000, 30);
    sala_error err = {0};
    sala_corpus c;
    sala_bins *b;
    assert_ok(sala_corpus_open(&c, dir, &err));
    assert_ok(sala_bins_open(&b, &c, 64, SALA_PACK_STREAM, NULL, &err));
    assert_int_equal(sala_bins_count(b), (c.n_tokens - 1) / 64);
    assert_true(sala_bins_fill(b) == 1.0);
    sala_piece last = {0};
    for (uint64_t i = 0; i < sala_bins_count(b); i++) {
        int n;
        const sala_piece *p = sala_bins_get(b, i, &n);
        uint64_t used = 0;
        for (int k = 0; k < n; k++)
            used += p[k].count;
        assert_int_equal(used, 65);
        if (i) { /* the last token of a bin is the first of the next */
            assert_int_equal(p->shard, last.shard);
            assert_int_equal(p->at, last.at + last.count - 1);
        }
        last = p[n - 1];
    }
    sala_bins_close(b);
    assert_refused(sala_bins_open(&b, &c, 1 << 20, SALA_PACK_STREAM, NULL, &err), SALA_E_INVALID,
                   "one sequence takes 1048577");
    assert_refused(sala_bins_open(&b, &c, 1, SALA_PACK_STREAM, NULL, &err), SALA_E_INVALID, "sequences of 1 tokens");
    sala_corpus_close(&c);
    free(lengths);
}

static void test_cache(void **state)
{
    (void)state;
    char dir[512], cache[512], file[700];
    uint32_t *lengths = random_lengths(200, 300, 4);
    test_corpus(test_path(dir, sizeof dir, "cached"), lengths, 200, 1000, 70);
    test_path(cache, sizeof cache, "cache");
    sala_error err = {0};
    sala_corpus c;
    sala_bins *a, *b;
    assert_ok(sala_corpus_open(&c, dir, &err));
    for (int packing = 0; packing < 2; packing++) {
        const sala_packing kind = packing ? SALA_PACK_STREAM : SALA_PACK_BEST_FIT;
        snprintf(file, sizeof file, "%s/bins-%016llx.sbi", cache, (unsigned long long)sala_bins_key(&c, 50, kind));
        assert_ok(sala_bins_open(&a, &c, 50, kind, cache, &err));
        size_t bytes;
        uint8_t *data = test_read_file(file, &bytes);
        assert_ok(sala_bins_parse(&b, &c, 50, kind, data, bytes, &err));
        assert_int_equal(sala_bins_count(a), sala_bins_count(b));
        for (uint64_t i = 0; i < sala_bins_count(a); i++) {
            int na, nb;
            const sala_piece *pa = sala_bins_get(a, i, &na), *pb = sala_bins_get(b, i, &nb);
            assert_int_equal(na, nb);
            assert_memory_equal(pa, pb, (size_t)na * sizeof *pa);
        }
        sala_bins_close(b);
        assert_int_not_equal(sala_bins_parse(&b, &c, 51, kind, data, bytes, &err), SALA_OK);
        /* Any damage makes it anew. */
        for (size_t i = 0; i < bytes; i += i < 64 ? 1 : 37) {
            data[i] ^= 2;
            assert_int_equal(sala_bins_parse(&b, &c, 50, kind, data, bytes, &err), SALA_E_CORRUPT);
            data[i] ^= 2;
        }
        assert_int_equal(sala_bins_parse(&b, &c, 50, kind, data, bytes - 8, &err), SALA_E_CORRUPT);
        test_write_file(file, "broken", 6);
        assert_ok(sala_bins_open(&b, &c, 50, kind, cache, &err));
        assert_int_equal(sala_bins_count(a), sala_bins_count(b));
        sala_bins_close(b);
        size_t again;
        uint8_t *renewed = test_read_file(file, &again);
        assert_int_equal(again, bytes);
        assert_memory_equal(renewed, data, bytes);
        assert_ok(sala_bins_open(&b, &c, 50, kind, cache, &err)); /* mapped this time */
        assert_int_equal(sala_bins_count(a), sala_bins_count(b));
        sala_bins_close(b);
        sala_bins_close(a);
        free(renewed);
        free(data);
    }
    /* A cache that cannot be written is no error. */
    assert_ok(sala_bins_open(&a, &c, 50, SALA_PACK_BEST_FIT, "/proc/no-such-folder", &err));
    sala_bins_close(a);
    sala_corpus_close(&c);
    free(lengths);
}

static void test_nothing_to_learn(void **state)
{
    (void)state;
    char dir[512];
    const uint32_t ones[] = {1, 1, 1};
    sala_error err = {0};
    sala_corpus c;
    sala_bins *b;
    test_corpus(test_path(dir, sizeof dir, "ones"), ones, 3, 10, 3);
    assert_ok(sala_corpus_open(&c, dir, &err));
    assert_refused(sala_bins_open(&b, &c, 8, SALA_PACK_BEST_FIT, NULL, &err), SALA_E_INVALID, "two tokens");
    sala_corpus_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permutation), cmocka_unit_test(test_best_fit),         cmocka_unit_test(test_stream),
        cmocka_unit_test(test_cache),       cmocka_unit_test(test_nothing_to_learn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
