/* Batches: what a row predicts, shares of sources, ranks, and going on from any step. */
#include "unit/data/support.h"

#include "data/loader.h"

typedef struct fixture {
    sala_corpus corpora[3];
    sala_mix_source sources[3];
    int n;
} fixture;

/* Three corpora of different sizes; the third has a mask. */
static void open_fixture(fixture *f, int64_t seq_len, sala_packing packing)
{
    sala_error err = {0};
    f->n = 3;
    for (int i = 0; i < 3; i++) {
        char dir[512], name[16];
        snprintf(name, sizeof name, "mix-%d", i);
        test_path(dir, sizeof dir, name);
        sala_rng rng;
        sala_rng_seed(&rng, (uint64_t)i);
        uint32_t lengths[60];
        for (int k = 0; k < 60; k++)
            lengths[k] = 1 + (uint32_t)(sala_rng_uniform(&rng) * (40 + 100 * i));
        test_corpus(dir, lengths, 60, 5000, 25);
        if (i == 2) {
            /* One shard, all of whose documents learn two tokens in three. */
            char path[600];
            sala_shard_writer *w;
            sala_shard_summary summary;
            const char *const sources[] = {"chat"};
            snprintf(path, sizeof path, "%s/shard-00000.sts", dir);
            assert_ok(sala_shard_writer_open(&w, path, &(sala_shard_params){.vocab = 5000, .tokenizer_id = 7}, &err));
            int32_t ids[300];
            uint8_t mask[300];
            for (int k = 0; k < 60; k++) {
                for (uint32_t t = 0; t < lengths[k]; t++) {
                    ids[t] = (int32_t)(100 * k + (int)t) % 5000;
                    mask[t] = t % 3 != 0;
                }
                assert_ok(sala_shard_add(w, ids, mask, lengths[k], 0, &err));
            }
            assert_ok(sala_shard_writer_commit(w, &summary, &err));
            assert_ok(sala_manifest_write(dir,
                                          &(sala_manifest){.vocab = 5000,
                                                           .tokenizer_id = 7,
                                                           .sources = sources,
                                                           .n_sources = 1,
                                                           .shards = &summary,
                                                           .n_shards = 1},
                                          &err));
        }
        assert_ok(sala_corpus_open(&f->corpora[i], dir, &err));
        f->sources[i] = (sala_mix_source){.corpus = &f->corpora[i], .weight = 1 + i};
        assert_ok(sala_bins_open(&f->sources[i].bins, &f->corpora[i], seq_len, packing, NULL, &err));
    }
}

static void close_fixture(fixture *f)
{
    for (int i = 0; i < f->n; i++) {
        sala_bins_close(f->sources[i].bins);
        sala_corpus_close(&f->corpora[i]);
    }
}

static sala_loader_params params_of(const fixture *f, int64_t seq_len)
{
    return (sala_loader_params){.sources = f->sources,
                                .n_sources = f->n,
                                .seq_len = seq_len,
                                .sequences_per_step = 7,
                                .sequences_per_pass = 3,
                                .n_ranks = 1,
                                .mask_documents = true};
}

/* What a sequence must be, token by token, without any of the loader's arithmetic. */
static void check_sequence(const sala_mix_source *s, uint64_t bin, const int32_t *tokens, const int32_t *labels,
                           int64_t len, bool masked, bool stream)
{
    sala_error err = {0};
    int n;
    const sala_piece *p = sala_bins_get(s->bins, bin, &n);
    int64_t row = 0;
    for (int k = 0; k < n; k++) {
        const sala_shard *shard = s->corpus->shards[p[k].shard];
        const sala_shard_doc d = sala_shard_doc_at(shard, sala_shard_doc_of(shard, p[k].at));
        for (uint32_t t = 0; t < p[k].count && row < len; t++, row++) {
            int32_t id, label, want = -1;
            const uint64_t at = p[k].at + t;
            assert_ok(sala_shard_read(shard, at, 1, &id, NULL, &err));
            assert_int_equal(tokens[row], id);
            const bool last_of_piece = t + 1 == p[k].count;
            if (!last_of_piece || (row + 1 == len && at + 1 < d.at + d.count)) {
                assert_ok(sala_shard_read(shard, at + 1, 1, &id, &label, &err));
                want = label;
            } else if (!masked && k + 1 < n) {
                const sala_shard *next = s->corpus->shards[p[k + 1].shard];
                assert_ok(sala_shard_read(next, p[k + 1].at, 1, &id, &label, &err));
                want = label;
            }
            if (labels[row] != want)
                fail_msg("row %lld predicts %d, expected %d", (long long)row, labels[row], want);
        }
    }
    assert_true(!stream || row == len);
    for (; row < len; row++)
        assert_int_equal(labels[row], -1);
}

static void check_documents(const sala_batch *b, int64_t len, bool masked)
{
    assert_int_equal(b->doc_start[0], 0);
    assert_int_equal(b->doc_start[b->n_docs], b->n_rows);
    for (int d = 0; d < b->n_docs; d++) {
        assert_true(b->doc_start[d] < b->doc_start[d + 1]);
        assert_int_equal(b->doc_position[d], 0);
        /* No document crosses the border of a sequence. */
        assert_int_equal(b->doc_start[d] / len, (b->doc_start[d + 1] - 1) / len);
        if (masked) /* nothing is predicted across documents */
            assert_true(b->doc_start[d + 1] % len == 0 || b->labels[b->doc_start[d + 1] - 1] == -1);
    }
    if (!masked)
        assert_int_equal(b->n_docs, b->n_rows / len);
}

static void test_contents(void **state)
{
    (void)state;
    enum { LEN = 48 };
    for (int packing = 0; packing < 2; packing++)
        for (int masked = 0; masked < 2; masked++) {
            fixture f;
            open_fixture(&f, LEN, packing ? SALA_PACK_STREAM : SALA_PACK_BEST_FIT);
            sala_loader_params p = params_of(&f, LEN);
            p.mask_documents = masked;
            sala_error err = {0};
            sala_loader *l;
            sala_loader_state plan = {.seed = 9, .stage = 2};
            /* The loader normalises weights by itself. */
            sala_mix_source normal[3];
            for (int i = 0; i < 3; i++) {
                normal[i] = f.sources[i];
                normal[i].weight /= 6;
            }
            assert_ok(sala_loader_open(&l, &p, &plan, &err));
            for (int step = 0; step < 40; step++) {
                const sala_batch *b;
                int n;
                int64_t supervised, sum = 0;
                assert_ok(sala_loader_next(l, &b, &n, &supervised, &err));
                assert_int_equal(n, 3);
                int64_t seq = 0;
                for (int i = 0; i < n; i++) {
                    assert_int_equal(b[i].n_rows, (i < 2 ? 3 : 1) * LEN);
                    check_documents(&b[i], LEN, masked);
                    int64_t labels = 0;
                    for (int64_t r = 0; r < b[i].n_rows; r++)
                        labels += b[i].labels[r] >= 0;
                    assert_int_equal(labels, b[i].n_supervised);
                    sum += labels;
                    for (int64_t k = 0; k < b[i].n_rows / LEN; k++, seq++) {
                        uint64_t bin;
                        const int s = sala_loader_draw(&plan, normal, 3, &bin);
                        check_sequence(&normal[s], bin, b[i].tokens + k * LEN, b[i].labels + k * LEN, LEN, masked,
                                       packing);
                    }
                }
                assert_int_equal(seq, 7);
                assert_int_equal(sum, supervised);
                const sala_loader_state now = sala_loader_tell(l);
                assert_memory_equal(&now, &plan, sizeof now);
            }
            sala_loader_close(l);
            close_fixture(&f);
        }
}

static void test_shares(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 32, SALA_PACK_BEST_FIT);
    for (int i = 0; i < 3; i++)
        f.sources[i].weight = i == 1 ? 0 : i == 0 ? 0.3 : 0.7;
    sala_loader_state s = {0};
    for (uint64_t k = 1; k < 5000; k++) {
        uint64_t bin;
        sala_loader_draw(&s, f.sources, 3, &bin);
        assert_int_equal(s.sequences, k);
        assert_int_equal(s.drawn[1], 0);
        const double behind = 0.3 * (double)k - (double)s.drawn[0];
        assert_true(behind > -1 && behind < 1);
    }
    /* Each epoch of a source takes every bin once. */
    const uint64_t n = sala_bins_count(f.sources[0].bins);
    uint8_t *seen = calloc(n, 1);
    assert_non_null(seen);
    s = (sala_loader_state){.seed = 5};
    for (uint64_t k = 0; k < 3 * n; k++) {
        uint64_t bin;
        assert_int_equal(sala_loader_draw(&s, f.sources, 1, &bin), 0);
        assert_int_equal(seen[bin]++, k / n);
    }
    free(seen);
    close_fixture(&f);
}

/* Everything that was handed out from step `from` to `to`, as bytes. */
static void record(sala_buf *out, const sala_loader_params *p, const sala_loader_state *from, int steps,
                   sala_loader_state *behind)
{
    sala_error err = {0};
    sala_loader *l;
    assert_ok(sala_loader_open(&l, p, from, &err));
    for (int i = 0; i < steps; i++) {
        const sala_batch *b;
        int n;
        int64_t supervised;
        assert_ok(sala_loader_next(l, &b, &n, &supervised, &err));
        sala_buf_add(out, &supervised, sizeof supervised);
        for (int k = 0; k < n; k++) {
            sala_buf_add(out, b[k].tokens, (size_t)b[k].n_rows * sizeof(int32_t));
            sala_buf_add(out, b[k].labels, (size_t)b[k].n_rows * sizeof(int32_t));
            sala_buf_add(out, b[k].doc_start, (size_t)(b[k].n_docs + 1) * sizeof(int32_t));
        }
    }
    *behind = sala_loader_tell(l);
    sala_loader_close(l);
}

static void test_goes_on_exactly(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 40, SALA_PACK_BEST_FIT);
    const sala_loader_params p = params_of(&f, 40);
    const sala_loader_state start = {.seed = 77};
    sala_loader_state end, middle, again;
    sala_buf whole = {0};
    record(&whole, &p, &start, 60, &end);
    for (int cut = 0; cut <= 60; cut += 7) {
        sala_buf parts = {0};
        record(&parts, &p, &start, cut, &middle);
        record(&parts, &p, &middle, 60 - cut, &again);
        assert_int_equal(parts.len, whole.len);
        assert_memory_equal(parts.data, whole.data, whole.len);
        assert_memory_equal(&again, &end, sizeof end);
        sala_buf_free(&parts);
    }
    /* Another seed, and another stage, is another order. */
    sala_buf other = {0};
    record(&other, &p, &(sala_loader_state){.seed = 78}, 60, &again);
    assert_true(other.len != whole.len || memcmp(other.data, whole.data, whole.len) != 0);
    sala_buf_clear(&other);
    record(&other, &p, &(sala_loader_state){.seed = 77, .stage = 1}, 60, &again);
    assert_true(other.len != whole.len || memcmp(other.data, whole.data, whole.len) != 0);
    sala_buf_free(&other);
    sala_buf_free(&whole);
    close_fixture(&f);
}

static void test_ranks(void **state)
{
    (void)state;
    enum { LEN = 40, STEPS = 10, PER_STEP = 7 };
    fixture f;
    open_fixture(&f, LEN, SALA_PACK_BEST_FIT);
    sala_loader_params p = params_of(&f, LEN);
    p.sequences_per_pass = 1;
    sala_error err = {0};
    sala_loader *alone, *ranks[3];
    const sala_loader_state start = {.seed = 3};
    assert_ok(sala_loader_open(&alone, &p, &start, &err));
    for (int r = 0; r < 3; r++) {
        p.rank = r;
        p.n_ranks = 3;
        assert_ok(sala_loader_open(&ranks[r], &p, &start, &err));
    }
    for (int step = 0; step < STEPS; step++) {
        const sala_batch *all, *mine;
        int n_all, n;
        int64_t supervised, theirs;
        assert_ok(sala_loader_next(alone, &all, &n_all, &supervised, &err));
        assert_int_equal(n_all, PER_STEP);
        int64_t sum = 0;
        for (int r = 0; r < 3; r++) {
            assert_ok(sala_loader_next(ranks[r], &mine, &n, &theirs, &err));
            assert_int_equal(theirs, supervised);
            assert_int_equal(n, r == 0 ? 3 : 2);
            for (int k = 0; k < n; k++) {
                assert_memory_equal(mine[k].tokens, all[3 * k + r].tokens, LEN * sizeof(int32_t));
                assert_memory_equal(mine[k].labels, all[3 * k + r].labels, LEN * sizeof(int32_t));
                sum += mine[k].n_supervised;
            }
        }
        assert_int_equal(sum, supervised);
    }
    sala_loader_close(alone);
    for (int r = 0; r < 3; r++)
        sala_loader_close(ranks[r]);
    close_fixture(&f);
}

static void test_refuses(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 40, SALA_PACK_BEST_FIT);
    sala_error err;
    sala_loader *l;
    sala_loader_params p = params_of(&f, 41);
    assert_refused(sala_loader_open(&l, &p, NULL, &err), SALA_E_INVALID, "sequences of 40, 41 are asked for");
    p = params_of(&f, 40);
    p.n_ranks = 8;
    assert_refused(sala_loader_open(&l, &p, NULL, &err), SALA_E_INVALID, "7 sequences a step for 8 processes");
    p = params_of(&f, 40);
    f.corpora[1].tokenizer_id = 8;
    assert_refused(sala_loader_open(&l, &p, NULL, &err), SALA_E_INVALID, "packed with another tokenizer");
    f.corpora[1].tokenizer_id = 7;
    f.sources[0].weight = -1;
    assert_refused(sala_loader_open(&l, &p, NULL, &err), SALA_E_INVALID, "weight is -1");
    f.sources[0].weight = f.sources[1].weight = f.sources[2].weight = 0;
    assert_refused(sala_loader_open(&l, &p, NULL, &err), SALA_E_INVALID, "add up to 0");
    close_fixture(&f);
}

/* A page that is damaged is told by the step that needs it, and by every later one. */
static void test_damage(void **state)
{
    (void)state;
    char dir[512], path[600];
    const uint32_t lengths[] = {500, 500};
    sala_error err = {0};
    test_corpus(test_path(dir, sizeof dir, "damaged"), lengths, 2, 1000, 2);
    snprintf(path, sizeof path, "%s/shard-00000.sts", dir);
    size_t bytes;
    uint8_t *data = test_read_file(path, &bytes);
    data[4096 + 30] ^= 1;
    test_write_file(path, data, bytes);
    free(data);
    sala_corpus c;
    sala_mix_source s = {.corpus = &c, .weight = 1};
    assert_ok(sala_corpus_open(&c, dir, &err));
    assert_ok(sala_bins_open(&s.bins, &c, 64, SALA_PACK_BEST_FIT, NULL, &err));
    const sala_loader_params p = {.sources = &s,
                                  .n_sources = 1,
                                  .seq_len = 64,
                                  .sequences_per_step = 1,
                                  .sequences_per_pass = 1,
                                  .n_ranks = 1,
                                  .mask_documents = true};
    sala_loader *l;
    const sala_batch *b;
    int n;
    int64_t supervised;
    assert_ok(sala_loader_open(&l, &p, NULL, &err));
    for (int i = 0; i < 2; i++)
        assert_refused(sala_loader_next(l, &b, &n, &supervised, &err), SALA_E_CORRUPT,
                       "shard-00000.sts: page 0 of tokens");
    assert_int_equal(sala_loader_tell(l).sequences, 0);
    sala_loader_close(l);
    sala_bins_close(s.bins);
    sala_corpus_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents), cmocka_unit_test(test_shares),  cmocka_unit_test(test_goes_on_exactly),
        cmocka_unit_test(test_ranks),    cmocka_unit_test(test_refuses), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
