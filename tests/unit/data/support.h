/* Folders, corpora and damage for the tests of src/data. */
#ifndef SALA_TESTS_UNIT_DATA_SUPPORT_H
#define SALA_TESTS_UNIT_DATA_SUPPORT_H

#include "unit/test.h"

#include "data/manifest.h"
#include "data/pack.h"
#include "os/os.h"

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        const sala_status assert_ok_status = (call);                                                                   \
        if (assert_ok_status != SALA_OK)                                                                               \
            fail_msg("status %d: %s", (int)assert_ok_status, err.message);                                             \
    } while (0)

#define assert_refused(call, code, fragment)                                                                           \
    do {                                                                                                               \
        err = (sala_error){0};                                                                                         \
        assert_int_equal(call, code);                                                                                  \
        if (!strstr(err.message, fragment))                                                                            \
            fail_msg("no '%s' in: %s", fragment, err.message);                                                         \
    } while (0)

static inline uint8_t *test_read_file(const char *path, size_t *bytes)
{
    uint8_t *data = NULL;
    assert_int_equal(sala_os_read_file(&data, bytes, path, 0), 0);
    return data;
}

/* A shard of documents with these lengths in its own corpus directory; token i of the corpus is i % vocab. */
static inline void test_corpus(const char *dir, const uint32_t *lengths, int n, uint32_t vocab, int docs_per_shard)
{
    sala_error err = {0};
    assert_int_equal(sala_os_make_dirs(dir), 0);
    sala_shard_summary shards[64];
    int n_shards = 0;
    sala_shard_writer *w = NULL;
    const sala_shard_params params = {.vocab = vocab, .tokenizer_id = 7};
    uint64_t token = 0;
    for (int i = 0; i < n; i++) {
        if (!w) {
            char path[1024];
            snprintf(path, sizeof path, "%s/" SALA_SHARD_NAME, dir, n_shards);
            assert_ok(sala_shard_writer_open(&w, path, &params, &err));
        }
        int32_t *ids = malloc(lengths[i] * sizeof *ids);
        assert_non_null(ids);
        for (uint32_t k = 0; k < lengths[i]; k++)
            ids[k] = (int32_t)(token++ % vocab);
        assert_ok(sala_shard_add(w, ids, NULL, lengths[i], 0, &err));
        free(ids);
        if ((i + 1) % docs_per_shard == 0 || i + 1 == n) {
            assert_true(n_shards < 64);
            assert_ok(sala_shard_writer_commit(w, &shards[n_shards++], &err));
            w = NULL;
        }
    }
    const char *const sources[] = {"made by a test"};
    const sala_manifest m = {
        .vocab = vocab, .tokenizer_id = 7, .sources = sources, .n_sources = 1, .shards = shards, .n_shards = n_shards};
    assert_ok(sala_manifest_write(dir, &m, &err));
}

#endif
