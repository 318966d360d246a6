/* Shards and corpora: what is written is what is read, and no bit of a file can change unnoticed. */
#include "unit/data/support.h"

#include "data/shard_file.h"

#include <inttypes.h>

/* Tokens of three documents; the second has a mask in half of the tests. */
static void write_three(const char *path, uint32_t vocab, bool masked, uint64_t n_long)
{
    sala_error err = {0};
    sala_shard_writer *w;
    const sala_shard_params params = {.vocab = vocab, .tokenizer_id = 0x1234};
    assert_ok(sala_shard_writer_open(&w, path, &params, &err));
    int32_t *ids = malloc(n_long * sizeof *ids);
    uint8_t *mask = malloc(n_long);
    assert_non_null(ids);
    assert_non_null(mask);
    for (uint64_t i = 0; i < n_long; i++) {
        ids[i] = (int32_t)((i * 2654435761u) % vocab);
        mask[i] = i % 3 == 1;
    }
    assert_ok(sala_shard_add(w, ids, NULL, 1, 5, &err));
    assert_ok(sala_shard_add(w, ids, masked ? mask : NULL, (int64_t)n_long, 6, &err));
    assert_ok(sala_shard_add(w, ids + 1, NULL, 10, 7, &err));
    const uint64_t bytes = sala_shard_writer_bytes(w);
    sala_shard_summary summary;
    assert_ok(sala_shard_writer_commit(w, &summary, &err));
    assert_int_equal(summary.docs, 3);
    assert_int_equal(summary.tokens, n_long + 11);
    assert_int_equal(summary.bytes, bytes);
    assert_int_equal(sala_os_file_size(path), (int64_t)bytes);
    free(ids);
    free(mask);
}

static void check_three(const sala_shard *s, uint32_t vocab, bool masked, uint64_t n_long)
{
    sala_error err = {0};
    assert_int_equal(sala_shard_docs(s), 3);
    assert_int_equal(sala_shard_vocab(s), vocab);
    assert_int_equal(sala_shard_tokenizer_id(s), 0x1234);
    assert_int_equal(sala_shard_has_mask(s), masked);
    const sala_shard_doc d = sala_shard_doc_at(s, 1);
    assert_int_equal(d.at, 1);
    assert_int_equal(d.count, n_long);
    assert_int_equal(d.source, 6);
    assert_int_equal(sala_shard_doc_of(s, 0), 0);
    assert_int_equal(sala_shard_doc_of(s, 1), 1);
    assert_int_equal(sala_shard_doc_of(s, n_long), 1);
    assert_int_equal(sala_shard_doc_of(s, n_long + 1), 2);
    int32_t *tokens = malloc(2 * (n_long + 11) * sizeof *tokens), *labels = tokens + n_long + 11;
    assert_non_null(tokens);
    assert_ok(sala_shard_read(s, 0, (int64_t)n_long + 11, tokens, labels, &err));
    uint64_t want = 0, got;
    for (uint64_t i = 0; i < n_long + 11; i++) {
        const uint64_t k = i == 0 ? 0 : i <= n_long ? i - 1 : i - n_long;
        const int32_t id = (int32_t)((k * 2654435761u) % vocab);
        const bool learned = !masked || i == 0 || i > n_long || k % 3 == 1;
        want += learned;
        if (tokens[i] != id || labels[i] != (learned ? id : -1))
            fail_msg("token %llu: %d, label %d", (unsigned long long)i, tokens[i], labels[i]);
    }
    assert_ok(sala_shard_supervised(s, 0, (int64_t)n_long + 11, &got, &err));
    assert_int_equal(got, want);
    assert_ok(sala_shard_supervised(s, 3, 4, &got, &err));
    assert_int_equal(got, masked ? 1 : 4);
    assert_refused(sala_shard_read(s, n_long, 12, tokens, NULL, &err), SALA_E_INVALID, "12 tokens");
    assert_refused(sala_shard_read(s, UINT64_MAX, 1, tokens, NULL, &err), SALA_E_INVALID, "were asked for");
    free(tokens);
}

static void test_round_trip(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "a.sts");
    /* Ids of two and four bytes, with and without a mask, less and more than a page. */
    const uint32_t vocabs[] = {300, 65536, 65537, 200000};
    const uint64_t lengths[] = {1, 4096, 600000};
    for (size_t v = 0; v < SALA_ARRAY_LEN(vocabs); v++)
        for (size_t n = 0; n < SALA_ARRAY_LEN(lengths); n++)
            for (int masked = 0; masked < 2; masked++) {
                const uint64_t n_long = lengths[n] < 12 ? 12 : lengths[n];
                write_three(path, vocabs[v], masked, n_long);
                sala_shard *s;
                sala_error err = {0};
                assert_ok(sala_shard_open(&s, path, &err));
                check_three(s, vocabs[v], masked, n_long);
                sala_shard_close(s);
            }
}

/* Reads all that a shard says; the first failure. */
static sala_status read_all(const void *data, size_t bytes, sala_error *err)
{
    sala_shard *s = NULL;
    sala_status status = sala_shard_parse(&s, data, bytes, err);
    if (status != SALA_OK)
        return status;
    const int64_t n = (int64_t)sala_shard_tokens(s);
    int32_t *ids = malloc(2 * (size_t)n * sizeof *ids);
    assert_non_null(ids);
    status = sala_shard_read(s, 0, n, ids, ids + n, err);
    free(ids);
    sala_shard_close(s);
    return status;
}

static void test_every_damage_is_noticed(void **state)
{
    (void)state;
    char path[512];
    size_t bytes;
    write_three(test_path(path, sizeof path, "b.sts"), 500, true, 3000);
    uint8_t *data = test_read_file(path, &bytes);
    sala_error err = {0};
    assert_ok(read_all(data, bytes, &err));
    for (size_t i = 0; i < bytes; i++) { /* one bit of each byte in turn */
        data[i] ^= (uint8_t)(1u << i % 8);
        if (read_all(data, bytes, &err) == SALA_OK)
            fail_msg("a bit of byte %zu of %zu may change", i, bytes);
        data[i] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t n = 0; n < bytes; n += n < 200 || n + 200 > bytes ? 1 : 61) {
        uint8_t *cut = malloc(n + 1);
        assert_non_null(cut);
        memcpy(cut, data, n);
        assert_int_not_equal(read_all(cut, n, &err), SALA_OK);
        free(cut);
    }
    free(data);
}

/* Every page of a shard of several has its name in the message, and a remedy. */
static void test_every_page_is_named(void **state)
{
    (void)state;
    char path[512], want[80];
    size_t bytes;
    sala_error err = {0};
    write_three(test_path(path, sizeof path, "pages.sts"), 500, true, 9000000);
    uint8_t *data = test_read_file(path, &bytes);
    uint64_t mask_at, index_at;
    uint32_t pages, mask_pages;
    memcpy(&mask_at, data + 56, 8);
    memcpy(&index_at, data + 64, 8);
    memcpy(&pages, data + 88, 4);
    memcpy(&mask_pages, data + 92, 4);
    assert_int_equal(pages, 18);
    assert_int_equal(mask_pages, 2);
    for (uint32_t p = 0; p < pages + mask_pages; p++) {
        const bool of_mask = p >= pages;
        const uint32_t page = of_mask ? p - pages : p;
        const uint64_t at = (of_mask ? mask_at : 4096) + ((uint64_t)page << 20);
        data[at + 1234] ^= 0x20;
        snprintf(want, sizeof want, "shard: page %u of %s (bytes %llu..", page, of_mask ? "the mask" : "tokens",
                 (unsigned long long)at);
        assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, want);
        assert_non_null(strstr(err.message, "pack this shard again"));
        data[at + 1234] ^= 0x20;
    }
    data[index_at + 3] ^= 1;
    assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, "document index: checksum");
    assert_non_null(strstr(err.message, "pack this shard again"));
    data[index_at + 3] ^= 1;
    data[33] ^= 1;
    assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, "header: checksum");
    assert_non_null(strstr(err.message, "pack this shard again"));
    data[33] ^= 1;
    data[200] = 1;
    assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, "other bytes than zero");
    free(data);
}

static void put_sums(uint8_t *data, size_t bytes)
{
    uint64_t index_at;
    memcpy(&index_at, data + 64, 8);
    uint64_t sum = XXH3_64bits(data + index_at, bytes - index_at);
    memcpy(data + 96, &sum, 8);
    sum = XXH3_64bits(data, SALA_SHARD_SUMMED_BYTES);
    memcpy(data + SALA_SHARD_SUMMED_BYTES, &sum, 8);
}

static void test_words(void **state)
{
    (void)state;
    char path[512];
    size_t bytes;
    sala_error err = {0};
    sala_shard *s;
    write_three(test_path(path, sizeof path, "shard-00003.sts"), 500, false, 600000);
    uint8_t *data = test_read_file(path, &bytes);

    data[4096 + (1 << 20) + 9] ^= 4; /* in the second page */
    test_write_file(path, data, bytes);
    assert_ok(sala_shard_open(&s, path, &err));
    int32_t ids[16];
    assert_ok(sala_shard_read(s, 0, 16, ids, NULL, &err));
    assert_refused(sala_shard_read(s, 600000, 4, ids, NULL, &err), SALA_E_CORRUPT,
                   "shard-00003.sts: page 1 of tokens (bytes 1052672..1204117): checksum ");
    assert_non_null(strstr(err.message, "pack this shard again, or remove it from manifest.json"));
    assert_int_equal(err.position, 1052672);
    assert_ok(sala_shard_read(s, 8, 16, ids, NULL, &err)); /* the good page still is */
    sala_shard_close(s);
    data[4096 + (1 << 20) + 9] ^= 4;

    /* Sums that are right say nothing about sense: an id beyond the vocabulary, documents that overlap. */
    uint64_t at, sum;
    memcpy(data + 4096 + 2, "\xF4\x01", 2); /* 500 */
    sum = XXH3_64bits(data + 4096, 1 << 20);
    memcpy(&at, data + 72, 8);
    memcpy(data + at, &sum, 8);
    put_sums(data, bytes);
    assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, "token 1 is id 500; ids are below 500");
    memcpy(&at, data + 64, 8);
    data[at + 16] = 0; /* the second document begins where the first does */
    put_sums(data, bytes);
    assert_refused(read_all(data, bytes, &err), SALA_E_CORRUPT, "document 1: 600000 tokens from 0 on");
    data[8] = 9;
    put_sums(data, bytes);
    assert_refused(read_all(data, bytes, &err), SALA_E_UNSUPPORTED, "version 9; this program reads version 1");
    assert_refused(read_all(data, 5000, &err), SALA_E_UNSUPPORTED, "version 9");
    assert_refused(read_all("hello, world", 12, &err), SALA_E_CORRUPT, "not a token shard");
    assert_refused(sala_shard_open(&s, "/nowhere.sts", &err), SALA_E_NOT_FOUND, "/nowhere.sts");
    free(data);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    char path[512], dir[600];
    sala_error err = {0};
    sala_shard_writer *w;
    const sala_shard_params params = {.vocab = 10};
    test_path(path, sizeof path, "c.sts");
    assert_ok(sala_shard_writer_open(&w, path, &params, &err));
    const int32_t high = 10, low = -1, good = 9;
    assert_refused(sala_shard_add(w, &high, NULL, 1, 0, &err), SALA_E_INVALID, "id 10; ids are from 0 to 9");
    assert_refused(sala_shard_add(w, &low, NULL, 1, 0, &err), SALA_E_INVALID, "id -1");
    assert_refused(sala_shard_add(w, &good, NULL, 0, 0, &err), SALA_E_LIMIT, "a document of 0 tokens");
    assert_ok(sala_shard_add(w, &good, NULL, 1, 0, &err));
    sala_shard_writer_abort(w);
    assert_int_equal(sala_os_file_size(path), -1);
    snprintf(dir, sizeof dir, "%s/no/such/folder", path);
    assert_refused(sala_shard_writer_open(&w, dir, &params, &err), SALA_E_NOT_FOUND, "could not be written");
    assert_refused(sala_shard_writer_open(&w, path, &(sala_shard_params){.vocab = 0}, &err), SALA_E_INVALID, "0 ids");
}

static void test_corpora(void **state)
{
    (void)state;
    char dir[512], path[600];
    sala_error err = {0};
    sala_corpus c;
    const uint32_t lengths[] = {3, 4, 5, 6, 7};
    test_path(dir, sizeof dir, "corpus");
    assert_refused(sala_corpus_open(&c, dir, &err), SALA_E_NOT_FOUND, "corpus");
    assert_int_equal(sala_os_make_dirs(dir), 0);
    assert_refused(sala_corpus_open(&c, dir, &err), SALA_E_NOT_FOUND, "packing did not come to its end");
    assert_false(sala_corpus_is_there(dir));
    test_corpus(dir, lengths, 5, 100, 2);
    assert_true(sala_corpus_is_there(dir));
    assert_ok(sala_corpus_open(&c, dir, &err));
    assert_int_equal(c.n_shards, 3);
    assert_int_equal(c.n_docs, 5);
    assert_int_equal(c.n_tokens, 25);
    assert_int_equal(c.vocab, 100);
    assert_string_equal(c.sources[0], "made by a test");
    assert_null(c.validation_dir);
    const uint64_t identity = c.manifest_sum;

    assert_ok(sala_corpus_check_vocab(&c, 7, 100, &err));
    assert_ok(sala_corpus_check_vocab(&c, 0, 104, &err)); /* padded embeddings are larger */
    assert_refused(sala_corpus_check_vocab(&c, 0, 99, &err), SALA_E_INVALID,
                   "packed with another tokenizer (id 0000000000000007, 100 ids); the model has 99: pack again with "
                   "--tokenizer MODEL");
    assert_refused(sala_corpus_check_vocab(&c, 8, 100, &err), SALA_E_INVALID, "the model's has id 0000000000000008");
    sala_corpus_close(&c);

    /* The identity is of the content: a copy has it, another order or another token has not. */
    char other[512];
    test_path(other, sizeof other, "copy");
    test_corpus(other, lengths, 5, 100, 2);
    assert_ok(sala_corpus_open(&c, other, &err));
    assert_int_equal(c.manifest_sum, identity);
    sala_corpus_close(&c);
    const uint32_t swapped[] = {4, 3, 5, 6, 7};
    test_corpus(other, swapped, 5, 100, 2);
    assert_ok(sala_corpus_open(&c, other, &err));
    assert_int_not_equal(c.manifest_sum, identity);
    sala_corpus_close(&c);

    /* A shard of another packing under the same name. */
    size_t bytes;
    snprintf(path, sizeof path, "%s/shard-00000.sts", other);
    uint8_t *data = test_read_file(path, &bytes);
    snprintf(path, sizeof path, "%s/shard-00000.sts", dir);
    test_write_file(path, data, bytes);
    free(data);
    assert_refused(sala_corpus_open(&c, dir, &err), SALA_E_CORRUPT, "not the shard that the manifest means");
    remove(path);
    assert_refused(sala_corpus_open(&c, dir, &err), SALA_E_NOT_FOUND, "shard-00000.sts");
}

static void test_bad_manifests(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        sala_status code;
        const char *fragment;
    } cases[] = {
        {"", SALA_E_CORRUPT, "manifest.json:"},
        {"[]", SALA_E_CORRUPT, "the key \"format\""},
        {"{\"format\": 2}", SALA_E_UNSUPPORTED, "format 2; this program reads format 1"},
        {"{\"format\": 1}", SALA_E_CORRUPT, "\"vocab\""},
        {"{\"format\": 1, \"vocab\": -1}", SALA_E_CORRUPT, "\"vocab\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"12\"}", SALA_E_CORRUPT, "\"tokenizer_id\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\", \"sources\": [1]}", SALA_E_CORRUPT,
         "\"sources\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\"}", SALA_E_CORRUPT, "\"shards\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\", \"shards\": [{}]}", SALA_E_CORRUPT,
         "\"file\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\", \"shards\": [{\"file\": \"../x\"}]}",
         SALA_E_CORRUPT, "\"file\""},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\", \"shards\": [{\"file\": \"x\"}]}",
         SALA_E_NOT_FOUND, "/x"},
        {"{\"format\": 1, \"vocab\": 9, \"tokenizer_id\": \"0000000000000007\", \"validation\": {\"dir\": \"../v\"}}",
         SALA_E_CORRUPT, "validation"},
    };
    char dir[512], path[600];
    test_path(dir, sizeof dir, "bad");
    assert_int_equal(sala_os_make_dirs(dir), 0);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_error err;
        sala_corpus c;
        test_write_file(path, cases[i].text, strlen(cases[i].text));
        assert_refused(sala_corpus_open(&c, dir, &err), cases[i].code, cases[i].fragment);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),          cmocka_unit_test(test_every_damage_is_noticed),
        cmocka_unit_test(test_every_page_is_named), cmocka_unit_test(test_words),
        cmocka_unit_test(test_writer_refuses),      cmocka_unit_test(test_corpora),
        cmocka_unit_test(test_bad_manifests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
