/* The packer, from files to documents: bytes as the vocabulary, so that what comes out can be read. */
#include "unit/data/support.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char *path_of(const char *name)
{
    char path[512];
    return sala_strdup(test_path(path, sizeof path, name));
}

static void put(const char *name, const char *text)
{
    char *path = path_of(name);
    test_write_file(path, text, strlen(text));
    free(path);
}

static sala_status pack(const char *out, const char *in, sala_pack_params p, sala_pack_stats *stats, sala_error *err)
{
    char *from = path_of(in), *to = path_of(out);
    const char *inputs[] = {from};
    p.inputs = p.inputs ? p.inputs : inputs;
    p.n_inputs = p.n_inputs ? p.n_inputs : 1;
    p.out_dir = to;
    p.n_threads = p.n_threads ? p.n_threads : 2;
    const sala_status status = sala_pack_run(&p, stats, err);
    free(from);
    free(to);
    return status;
}

/* All documents, '|' behind each; BOS is '<', EOS '>'. */
static char *contents(const char *name)
{
    char *dir = path_of(name);
    sala_error err = {0};
    sala_corpus c;
    sala_buf out = {0};
    assert_ok(sala_corpus_open(&c, dir, &err));
    for (int s = 0; s < c.n_shards; s++)
        for (uint64_t d = 0; d < sala_shard_docs(c.shards[s]); d++) {
            const sala_shard_doc doc = sala_shard_doc_at(c.shards[s], d);
            int32_t *ids = malloc(doc.count * sizeof *ids);
            assert_non_null(ids);
            assert_ok(sala_shard_read(c.shards[s], doc.at, doc.count, ids, NULL, &err));
            for (uint32_t i = 0; i < doc.count; i++)
                sala_buf_add_char(&out, ids[i] == 256 ? '<' : ids[i] == 257 ? '>' : (char)(unsigned char)ids[i]);
            sala_buf_add_char(&out, '|');
            free(ids);
        }
    sala_corpus_close(&c);
    free(dir);
    return sala_buf_take(&out, NULL);
}

static void check_contents(const char *name, const char *want)
{
    char *got = contents(name);
    assert_string_equal(got, want);
    free(got);
}

static void test_text(void **state)
{
    (void)state;
    sala_error err = {0};
    sala_pack_stats stats;
    put("a.txt", "one\n---\n\n \n---\ntwo\n");
    assert_ok(pack("text", "a.txt", (sala_pack_params){.separator = "---", .add_eos = true}, &stats, &err));
    check_contents("text", "one\n>|two\n>|");
    assert_int_equal(stats.docs, 2);
    assert_int_equal(stats.empty_docs, 1);
    assert_int_equal(stats.tokens, 10);
    assert_int_equal(stats.supervised, 10);
    assert_int_equal(stats.length_log2[2], 2);
    assert_int_equal(stats.longest, 5);
    assert_refused(pack("text", "a.txt", (sala_pack_params){.add_eos = true}, &stats, &err), SALA_E_STATE,
                   "holds a corpus already");
    assert_ok(pack("text", "a.txt", (sala_pack_params){.add_bos = true, .replace = true}, &stats, &err));
    check_contents("text", "<one\n---\n\n \n---\ntwo\n|");
    assert_ok(pack("lines", "a.txt", (sala_pack_params){.format = SALA_DOC_LINES}, &stats, &err));
    check_contents("lines", "one|---|---|two|");
    assert_int_equal(stats.empty_docs, 2);
}

static void test_json(void **state)
{
    (void)state;
    sala_error err = {0};
    sala_pack_stats stats;
    const sala_pack_params plain = {.add_eos = true};
    /* Escapes, NUL, half a surrogate pair, bytes that are no UTF-8, empty and missing texts, a number too large. */
    put("a.jsonl", "{\"text\":\"a\\n\\u00e4\\ud83d\\ude00\",\"n\":1e400}\n"
                   "\n"
                   "{\"text\":\"\"}\n"
                   "{\"text\":null}\n"
                   "{\"text\":\"x\\ud800y\"}\n"
                   "{\"text\":\"p\xFFq\"}\n"
                   "{\"id\":123456789012345678901234567890,\"text\":\"big\"}\n"
                   "{\"text\":\" \\t\"}");
    assert_refused(pack("json", "a.jsonl", plain, &stats, &err), SALA_E_CORRUPT, "a.jsonl:1: byte");
    put("a.jsonl", "{\"text\":\"a\\n\\u00e4\\ud83d\\ude00\"}\n"
                   "\n"
                   "{\"text\":\"\"}\n"
                   "{\"text\":null}\n"
                   "{\"text\":\"x\\ud800y\"}\n"
                   "{\"text\":\"p\xFFq\"}\n"
                   "{\"id\":123456789012345678901234567890,\"text\":\"big\"}\n"
                   "{\"text\":\" \\t\"}");
    assert_ok(pack("json", "a.jsonl", plain, &stats, &err));
    check_contents("json", "a\n\xC3\xA4\xF0\x9F\x98\x80>|x\xEF\xBF\xBDy>|p\xEF\xBF\xBDq>|big>|");
    assert_int_equal(stats.empty_docs, 3);
    assert_int_equal(stats.bad_lines, 0);
    assert_int_equal(stats.invalid_utf8, 2);
    put("key.jsonl", "{\"content\":\"c\", \"text\":\"t\"}\n");
    assert_ok(pack("key", "key.jsonl", (sala_pack_params){.text_key = "content"}, &stats, &err));
    check_contents("key", "c|");
}

static void test_bad_records(void **state)
{
    (void)state;
    static const struct {
        const char *line, *fragment;
    } cases[] = {
        {"{\"text\":\"x\"", "bad.jsonl:2: byte 11 of the line: "},
        {"{\"text\":3}", "bad.jsonl:2: the value of \"text\" is not a string"},
        {"{\"txt\":\"\",\"id\":1}",
         "bad.jsonl:2: no key \"text\", \"messages\" or \"conversations\"; there are: \"txt\", "
         "\"id\" (--text-key names another one)"},
        {"[1]", "bad.jsonl:2: not a JSON object"},
        {"nonsense", "bad.jsonl:2: byte"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "without a chat template"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_error err = {0};
        sala_pack_stats stats;
        char text[300];
        snprintf(text, sizeof text, "{\"text\":\"first\"}\n%s\n{\"text\":\"last\"}\n", cases[i].line);
        put("bad.jsonl", text);
        const sala_status status = pack("bad", "bad.jsonl", (sala_pack_params){0}, &stats, &err);
        assert_true(status == SALA_E_CORRUPT || status == SALA_E_INVALID);
        if (!strstr(err.message, cases[i].fragment))
            fail_msg("no '%s' in: %s", cases[i].fragment, err.message);
        char *dir = path_of("bad");
        assert_false(sala_os_is_dir(dir)); /* nothing was left */
        free(dir);
        assert_ok(pack("kept", "bad.jsonl", (sala_pack_params){.keep_going = true, .replace = true}, &stats, &err));
        check_contents("kept", "first|last|");
        assert_int_equal(stats.bad_lines, 1);
        if (!strstr(stats.first_bad, cases[i].fragment))
            fail_msg("no '%s' in: %s", cases[i].fragment, stats.first_bad);
    }
    sala_error err;
    sala_pack_stats stats;
    put("empty.txt", "");
    assert_refused(pack("none", "empty.txt", (sala_pack_params){0}, &stats, &err), SALA_E_INVALID,
                   "there is no document in what was read (1 empty, 0 skipped)");
    assert_refused(pack("none", "no-such-file", (sala_pack_params){0}, &stats, &err), SALA_E_NOT_FOUND, "no-such-file");
    assert_refused(pack("none", "empty.txt", (sala_pack_params){.validation = 1}, &stats, &err), SALA_E_INVALID,
                   "validation share is 1");
}

/* Many documents of many sizes: the same shards whatever the threads, nothing lost, the split by content. */
static void test_threads_and_shards(void **state)
{
    (void)state;
    sala_buf text = {0};
    sala_rng rng;
    sala_rng_seed(&rng, 1);
    for (int i = 0; i < 30000; i++) {
        sala_buf_printf(&text, "document %d ", i % 20000); /* a third comes twice */
        for (uint64_t n = sala_rng_next(&rng) % 40 * (i % 20000 > 10000); n; n--)
            sala_buf_add_str(&text, "words and ");
        sala_buf_add_char(&text, '\n');
    }
    sala_buf_add_char(&text, 0);
    put("many.txt", text.data);
    uint64_t tokens = 0;
    for (int threads = 1; threads <= 4; threads++) {
        sala_error err = {0};
        sala_pack_stats stats;
        char name[32], train_name[64];
        snprintf(name, sizeof name, "many-%d", threads);
        assert_ok(pack(name, "many.txt",
                       (sala_pack_params){.format = SALA_DOC_LINES,
                                          .add_eos = true,
                                          .n_threads = threads,
                                          .shard_tokens = 500000,
                                          .validation = 0.1,
                                          .seed = 3},
                       &stats, &err));
        assert_int_equal(stats.docs, 30000);
        assert_true(stats.docs_validation > 2700 && stats.docs_validation < 3300);
        assert_true(stats.shards > 2);
        tokens = stats.tokens;
        assert_int_equal(tokens, text.len - 1);
        char *got = contents(name), *first = contents("many-1");
        assert_string_equal(got, first);
        free(got);
        free(first);
        snprintf(train_name, sizeof train_name, "%s/validation", name);
        /* A document that is there twice is on one side. */
        char *side = contents(train_name);
        if (threads == 1)
            for (int i = 0; i < 10000; i += 7) { /* these lines are equal, word for word, in both places */
                char line[64];
                snprintf(line, sizeof line, "document %d >|", i);
                const char *at = strstr(side, line);
                if (at)
                    assert_non_null(strstr(at + 1, line));
            }
        free(side);
        sala_corpus c;
        char *dir = path_of(name);
        assert_ok(sala_corpus_open(&c, dir, &err));
        for (int s = 0; s < c.n_shards; s++)
            assert_true(sala_shard_tokens(c.shards[s]) <= 500000);
        assert_non_null(c.validation_dir);
        sala_corpus_close(&c);
        free(dir);
    }
    sala_buf_free(&text);
}

static void test_huge_document(void **state)
{
    (void)state;
    const size_t n = 9000001;
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, 'x', n);
    for (size_t i = 60; i < n; i += 61)
        text[i] = '\n';
    text[n] = 0;
    put("huge.txt", text);
    sala_error err = {0};
    sala_pack_stats stats;
    assert_ok(pack("huge", "huge.txt", (sala_pack_params){.add_eos = true, .add_bos = true}, &stats, &err));
    assert_int_equal(stats.docs, 1);
    assert_int_equal(stats.longest, n + 2);
    assert_ok(pack("huge-cut", "huge.txt",
                   (sala_pack_params){.add_eos = true, .add_bos = true, .max_doc_bytes = 1000000, .validation = 0.5},
                   &stats, &err) == SALA_OK
                  ? SALA_OK
              : err.code == SALA_E_INVALID && strstr(err.message, "validation side") ? SALA_OK
                                                                                     : SALA_E_IO);
    assert_ok(pack("huge-cut", "huge.txt",
                   (sala_pack_params){.add_eos = true, .add_bos = true, .max_doc_bytes = 1000000, .replace = true},
                   &stats, &err));
    assert_int_equal(stats.docs, 10);
    assert_int_equal(stats.cut_docs, 9);
    /* One BOS and one EOS in all: the parts are one text. */
    assert_int_equal(stats.tokens, n + 2);
    char *got = contents("huge-cut"), *p = got;
    size_t same = 0;
    assert_int_equal(*p++, '<');
    for (; *p && *p != '>'; p++) {
        if (*p == '|') {
            assert_int_equal(p[-1], '\n');
            continue;
        }
        same += *p == text[same];
    }
    assert_int_equal(same, n);
    free(got);
    /* One line of JSON as long. */
    sala_buf json = {0};
    sala_buf_add_str(&json, "{\"text\":\"");
    for (size_t i = 0; i < n; i++)
        sala_buf_add_char(&json, 'y');
    sala_buf_add_str(&json, "\"}\n");
    put("huge.jsonl", json.data);
    sala_buf_free(&json);
    assert_ok(
        pack("huge-json", "huge.jsonl", (sala_pack_params){.add_eos = true, .max_doc_bytes = 4000000}, &stats, &err));
    assert_int_equal(stats.docs, 3);
    assert_int_equal(stats.tokens, n + 1);
    assert_int_equal(stats.cut_docs, 2);
    free(text);
}

static bool stop_soon(void *user, uint64_t bytes_in, uint64_t tokens)
{
    (void)bytes_in;
    (void)tokens;
    return ++*(int *)user < 1;
}

static void test_stops(void **state)
{
    (void)state;
    sala_error err;
    sala_pack_stats stats;
    int calls = 0;
    char *dir = path_of("stopped");
    assert_refused(pack("stopped", "many.txt",
                        (sala_pack_params){.format = SALA_DOC_LINES, .progress = stop_soon, .user = &calls}, &stats,
                        &err),
                   SALA_E_CANCELLED, "interrupted");
    assert_false(sala_os_is_dir(dir));
    /* A directory that was there stays, with what was in it. */
    assert_int_equal(sala_os_make_dirs(dir), 0);
    char note[600];
    snprintf(note, sizeof note, "%s/note", dir);
    test_write_file(note, "mine", 4);
    calls = 0;
    assert_refused(pack("stopped", "many.txt",
                        (sala_pack_params){.format = SALA_DOC_LINES, .progress = stop_soon, .user = &calls}, &stats,
                        &err),
                   SALA_E_CANCELLED, "interrupted");
    assert_int_equal(sala_os_file_size(note), 4);
    snprintf(note, sizeof note, "%s/shard-00000.sts", dir);
    assert_int_equal(sala_os_file_size(note), -1);
    free(dir);
}

/* Packing anew into the same directory: the old corpus goes when the new one is whole, and not before. */
static void test_replaces(void **state)
{
    (void)state;
    sala_error err = {0};
    sala_pack_stats stats;
    char *dir = path_of("again");
    put("old.txt", "one\ntwo\nthree\n");
    put("new.txt", "four\n");
    put("bad.jsonl", "{\"text\":\"five\"}\n{\"text\":\n");
    const sala_pack_params lines = {.format = SALA_DOC_LINES, .shard_tokens = 4, .validation = 0.4};
    assert_ok(pack("again", "old.txt", lines, &stats, &err));
    char *was = contents("again");
    assert_refused(pack("again", "new.txt", lines, &stats, &err), SALA_E_STATE, "--force");
    assert_refused(pack("again", "bad.jsonl", (sala_pack_params){.replace = true}, &stats, &err), SALA_E_CORRUPT,
                   "bad.jsonl:2");
    char *is = contents("again");
    assert_string_equal(is, was);
    free(is);
    free(was);
    assert_ok(pack("again", "new.txt", (sala_pack_params){.format = SALA_DOC_LINES, .replace = true}, &stats, &err));
    check_contents("again", "four|");
    char inside[700];
    const char *const gone[] = {"shard-00001.sts", "validation", ".packing"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(gone); i++) {
        snprintf(inside, sizeof inside, "%s/%s", dir, gone[i]);
        assert_false(sala_os_is_file(inside) || sala_os_is_dir(inside));
    }
    /* With a validation side where there was none, and over what a killed packing left. */
    snprintf(inside, sizeof inside, "%s/.packing", dir);
    assert_int_equal(sala_os_make_dirs(inside), 0);
    assert_ok(
        pack("again", "many.txt",
             (sala_pack_params){.format = SALA_DOC_LINES, .replace = true, .validation = 0.5, .shard_tokens = 50000},
             &stats, &err));
    sala_corpus c;
    assert_ok(sala_corpus_open(&c, dir, &err));
    assert_int_equal(c.n_docs, stats.docs - stats.docs_validation);
    sala_corpus side;
    assert_ok(sala_corpus_open(&side, c.validation_dir, &err));
    assert_int_equal(side.n_docs, stats.docs_validation);
    assert_false(sala_os_is_dir(inside));
    sala_corpus_close(&side);
    sala_corpus_close(&c);
    free(dir);
}

/* A disk that is full: files may not grow beyond a limit. */
static void test_full_disk(void **state)
{
    (void)state;
    char *dir = path_of("full");
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        const struct rlimit limit = {300000, 300000};
        sala_error err = {0};
        sala_pack_stats stats;
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
            _exit(77);
        const sala_status status =
            pack("full", "many.txt", (sala_pack_params){.format = SALA_DOC_LINES, .shard_tokens = 50000}, &stats, &err);
        if (status != SALA_OK)
            _exit(2); /* small shards fit */
        const sala_status second =
            pack("fuller", "many.txt", (sala_pack_params){.format = SALA_DOC_LINES}, &stats, &err);
        _exit(second == SALA_E_IO && strstr(err.message, "shard-00000.sts: could not be written: File too large") ? 0
                                                                                                                  : 3);
    }
    int rc = 0;
    assert_int_equal(waitpid(child, &rc, 0), child);
    assert_int_equal(rc, 0);
    free(dir);
    dir = path_of("fuller");
    assert_false(sala_os_is_dir(dir));
    free(dir);
}

static void test_directories(void **state)
{
    (void)state;
    sala_error err = {0};
    sala_pack_stats stats;
    char *dir = path_of("tree/b/deep");
    assert_int_equal(sala_os_make_dirs(dir), 0);
    free(dir);
    put("tree/c.txt", "c");
    put("tree/a.txt", "a");
    put("tree/.hidden", "no");
    put("tree/b/deep/x.jsonl", "{\"text\":\"x\"}");
    put("tree/b/y", "y");
    assert_ok(pack("from-tree", "tree", (sala_pack_params){.add_eos = true}, &stats, &err));
    check_contents("from-tree", "a>|x>|y>|c>|");
    assert_int_equal(stats.files, 4);
    char *tree = path_of("tree");
    const char *inputs[] = {tree};
    assert_int_equal(sala_pack_input_bytes(inputs, 1), 3 + 12);
    inputs[0] = "-";
    assert_int_equal(sala_pack_input_bytes(inputs, 1), 0);
    free(tree);
}

/* The word "bytes" and a byte-level tokenizer.json of bytes are the same vocabulary. The spelling is made here as
 * GPT-2's table is described: printable characters of Latin-1 stand for themselves, the others follow from U+0100 on.
 */
static void test_identity_of_bytes(void **state)
{
    (void)state;
    sala_buf json = {0};
    uint32_t others = 0, n;
    sala_buf_add_str(&json, "{\"version\":\"1.0\",\"added_tokens\":["
                            "{\"id\":256,\"content\":\"<s>\",\"special\":true},"
                            "{\"id\":257,\"content\":\"</s>\",\"special\":true}],"
                            "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},"
                            "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (uint32_t b = 0; b < 256; b++) {
        const bool latin = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
        const uint32_t cp = latin ? b : 0x100 + others++;
        sala_buf_add_str(&json, b ? ",\"" : "\"");
        if (cp == '"' || cp == '\\')
            sala_buf_add_char(&json, '\\');
        sala_buf_add_utf8(&json, cp);
        sala_buf_printf(&json, "\":%u", b);
    }
    sala_buf_add_str(&json, "},\"merges\":[]}}");
    sala_error err = {0};
    sala_tokenizer *t;
    assert_ok(sala_tokenizer_from_json(&t, json.data, json.len, NULL, 0, &err));
    const uint64_t id = sala_vocab_id(t, &n);
    assert_int_equal(n, 258);
    assert_int_equal(id, sala_vocab_id(NULL, &n));
    assert_int_equal(n, 258);
    sala_tokenizer_free(t);
    sala_buf_free(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),          cmocka_unit_test(test_json),
        cmocka_unit_test(test_bad_records),   cmocka_unit_test(test_threads_and_shards),
        cmocka_unit_test(test_huge_document), cmocka_unit_test(test_stops),
        cmocka_unit_test(test_replaces),      cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_directories),   cmocka_unit_test(test_identity_of_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
