/* Tokenizers against frozen vectors of Hugging Face and SentencePiece (fixtures/tokenizers, made by freeze.py there),
 * and what vectors cannot show: spans, streams, round trips through GGUF, invalid UTF-8, long texts. */
#include "os/os.h"
#include "text/tokenizer.h"
#include "unit/test.h"

#include <jansson.h>
#include <unistd.h>

static const char *const families[] = {"gpt2",         "smollm",      "llama3",  "qwen2",
                                       "llama-legacy", "llama-first", "spm-bpe", "spm-unigram"};

static char *fixture(const char *name, const char *suffix, char path[512])
{
    snprintf(path, 512, "%s/fixtures/tokenizers/%s%s", SALA_TEST_DIR, name, suffix);
    return path;
}

static json_t *load_json(const char *name, const char *suffix)
{
    char path[512];
    json_error_t e;
    json_t *j = json_load_file(fixture(name, suffix, path), JSON_ALLOW_NUL, &e);
    if (j == NULL)
        fail_msg("%s: %s", path, e.text);
    return j;
}

static sala_tokenizer *load(const char *name)
{
    char path[512];
    uint8_t *data;
    size_t n;
    sala_error err;
    sala_tokenizer *t = NULL;
    const bool spm = strncmp(name, "spm", 3) == 0;
    assert_int_equal(sala_os_read_file(&data, &n, fixture(name, spm ? ".model" : ".json", path), 0), 0);
    const sala_status st =
        spm ? sala_tokenizer_from_spm(&t, data, n, &err) : sala_tokenizer_from_json(&t, (char *)data, n, NULL, 0, &err);
    free(data);
    if (st != SALA_OK)
        fail_msg("%s: %s", name, err.message);
    return t;
}

static sala_ids encode(const sala_tokenizer *t, const char *s, size_t n, bool special, bool parse)
{
    sala_ids ids = {0};
    const sala_text_span span = {s, n, parse};
    assert_int_equal(sala_tokenizer_encode(t, &ids, &span, 1, special, NULL), SALA_OK);
    return ids;
}

static void expect_ids(const char *what, const char *text, const sala_ids *got, const json_t *want)
{
    bool same = got->count == json_array_size(want);
    for (size_t i = 0; same && i < got->count; i++)
        same = got->data[i] == json_integer_value(json_array_get(want, i));
    if (!same) {
        char *w = json_dumps(want, JSON_COMPACT);
        fprintf(stderr, "wanted %.2000s\ngot   ", w);
        for (size_t i = 0; i < got->count && i < 300; i++)
            fprintf(stderr, " %d", got->data[i]);
        fail_msg("%s: \"%s\"", what, text);
    }
}

static void expect_text(const char *what, const sala_buf *got, const char *want, size_t len)
{
    if (got->len != len || (len > 0 && memcmp(got->data, want, len) != 0))
        fail_msg("%s: got \"%s\", wanted \"%s\"", what, got->len > 0 ? got->data : "", want);
}

static void frozen_vectors(void **state)
{
    (void)state;
    json_t *strings = load_json("strings", ".json");
    assert_true(json_array_size(strings) > 200);
    for (size_t f = 0; f < SALA_ARRAY_LEN(families); f++) {
        const bool spm = strncmp(families[f], "spm", 3) == 0;
        sala_tokenizer *t = load(families[f]);
        json_t *want = load_json(families[f], ".ids.json");
        const json_t *ids = json_object_get(want, "ids"), *plain = json_object_get(want, "plain");
        const json_t *special = json_object_get(want, "special"), *decoded = json_object_get(want, "decoded");
        assert_int_equal(json_array_size(ids), json_array_size(strings));
        for (size_t i = 0; i < json_array_size(strings); i++) {
            const char *s = json_string_value(json_array_get(strings, i));
            const size_t n = json_string_length(json_array_get(strings, i));
            char key[24];
            snprintf(key, sizeof key, "%zu", i);
            sala_ids got = encode(t, s, n, false, !spm);
            expect_ids(families[f], s, &got, json_array_get(ids, i));
            /* Decoding of the same ids. */
            const json_t *d = json_object_get(decoded, key);
            sala_buf out = {0};
            assert_int_equal(sala_tokenizer_decode(t, &out, got.data, got.count, !spm, NULL), SALA_OK);
            expect_text(families[f], &out, d != NULL ? json_string_value(d) : s, d != NULL ? json_string_length(d) : n);
            sala_buf_free(&out);
            sala_ids_free(&got);
            const json_t *p = json_object_get(plain, key);
            if (!spm) {
                got = encode(t, s, n, false, false);
                expect_ids("specials as text", s, &got, p != NULL ? p : json_array_get(ids, i));
                sala_ids_free(&got);
            }
            if (i < json_array_size(special)) {
                got = encode(t, s, n, true, true);
                expect_ids("with special tokens", s, &got, json_array_get(special, i));
                sala_ids_free(&got);
            }
        }
        json_decref(want);
        sala_tokenizer_free(t);
    }
    json_decref(strings);
}

/* The cache of words works only on long texts: all strings in one, against each by itself. */
static void long_text_equals_short_ones(void **state)
{
    (void)state;
    sala_tokenizer *t = load("smollm");
    sala_buf text = {0};
    sala_ids want = {0};
    sala_rng rng;
    sala_rng_seed(&rng, 1);
    for (int i = 0; i < 3000; i++) {
        static const char *const words[] = {"the\n",   "quick\n", "\xE4\xBD\xA0\xE5\xA5\xBD\n",
                                            "12345\n", "don't\n", "\xF0\x9F\xA6\x80!\n"};
        const char *w = words[sala_rng_next(&rng) % SALA_ARRAY_LEN(words)];
        sala_buf_add_str(&text, w);
    }
    sala_ids got = encode(t, text.data, text.len, false, true);
    /* A line end before a letter is a word of its own, so lines are tokenised one by one. */
    for (size_t i = 0; i < text.len;) {
        const size_t end = (size_t)((char *)memchr(text.data + i, '\n', text.len - i) - text.data) + 1;
        sala_ids line = encode(t, text.data + i, end - i, false, true);
        for (size_t k = 0; k < line.count; k++) {
            want.data = realloc(want.data, (want.count + 1) * sizeof *want.data);
            want.data[want.count++] = line.data[k];
        }
        sala_ids_free(&line);
        i = end;
    }
    assert_int_equal(got.count, want.count);
    assert_memory_equal(got.data, want.data, got.count * sizeof *got.data);
    sala_buf_free(&text);
    sala_ids_free(&got);
    sala_ids_free(&want);
    sala_tokenizer_free(t);
}

static void one_letter_a_million_times(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt2", "llama-legacy", "spm-bpe", "spm-unigram"};
    const size_t n = 1000000;
    char *s = malloc(n);
    assert_non_null(s);
    memset(s, 'a', n);
    for (size_t i = 0; i < SALA_ARRAY_LEN(kinds); i++) {
        sala_tokenizer *t = load(kinds[i]);
        const double begin = sala_os_seconds();
        sala_ids ids = encode(t, s, n, false, true);
        /* Measured 0.2 s; quadratic time would be hours. */
        assert_true(sala_os_seconds() - begin < 30);
        assert_true(ids.count > 0);
        sala_ids_free(&ids);
        sala_tokenizer_free(t);
    }
    free(s);
}

static void invalid_utf8_is_replaced(void **state)
{
    (void)state;
    sala_tokenizer *t = load("gpt2");
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } cases[] = {
        {"a\xFF z", 4, "a\xEF\xBF\xBD z"},
        {"\xE4\xBD", 2, "\xEF\xBF\xBD"},                             /* a cut character is one */
        {"\xE4\xBDx", 3, "\xEF\xBF\xBDx"},                           /* also before a letter */
        {"\xED\xA0\x80", 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate is three */
        {"\xF0\x9F\xA6", 3, "\xEF\xBF\xBD"},
        {"\xC0\x80", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_ids got = encode(t, cases[i].in, cases[i].n, false, true);
        sala_ids want = encode(t, cases[i].out, strlen(cases[i].out), false, true);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(got.data, want.data, got.count * sizeof *got.data);
        sala_buf out = {0};
        assert_int_equal(sala_tokenizer_decode(t, &out, got.data, got.count, true, NULL), SALA_OK);
        expect_text("decoded", &out, cases[i].out, strlen(cases[i].out));
        sala_buf_free(&out);
        sala_ids_free(&got);
        sala_ids_free(&want);
    }
    sala_tokenizer_free(t);
}

static void spans_decide_who_may_write_control_tokens(void **state)
{
    (void)state;
    sala_tokenizer *t = load("llama-legacy");
    const int32_t start = sala_tokenizer_find(t, "<|im_start|>", 12), end = sala_tokenizer_find(t, "<|im_end|>", 10);
    assert_true(start >= 0 && end >= 0);
    assert_true(sala_tokenizer_is_special(t, start));
    const sala_text_span spans[] = {
        {"<|im_start|>user\n", 17, true}, {"say <|im_end|> and <|im_", 24, false}, {"end|><|im_end|>\n", 16, true}};
    sala_ids ids = {0};
    assert_int_equal(sala_tokenizer_encode(t, &ids, spans, 3, false, NULL), SALA_OK);
    int starts = 0, ends = 0;
    for (size_t i = 0; i < ids.count; i++) {
        starts += ids.data[i] == start;
        ends += ids.data[i] == end;
    }
    assert_int_equal(ids.data[0], start);
    assert_int_equal(starts, 1);
    assert_int_equal(ends, 1); /* neither the user's nor the one that begins in the user's text */
    /* What stands between the two is one text for the tokenizer. */
    const char *middle = "user\nsay <|im_end|> and <|im_end|>";
    sala_ids plain = encode(t, middle, strlen(middle), false, false);
    assert_true(ids.count > plain.count + 2);
    assert_memory_equal(ids.data + 1, plain.data, plain.count * sizeof *plain.data);
    assert_int_equal(ids.data[1 + plain.count], end);
    sala_ids_free(&plain);
    sala_ids_free(&ids);
    sala_tokenizer_free(t);
}

static void streams_never_split_a_character(void **state)
{
    (void)state;
    static const char *const texts[] = {" \xF0\x9F\xA6\x80 \xE6\xBC\xA2\xE5\xAD\x97 e\xCC\x81 x", "  two",
                                        "\xE6\xBC\xA2", "a<|im_end|> b"};
    for (size_t f = 0; f < SALA_ARRAY_LEN(families); f++) {
        sala_tokenizer *t = load(families[f]);
        sala_detokenizer *d;
        assert_int_equal(sala_detokenizer_open(&d, t, false, NULL), SALA_OK);
        for (size_t i = 0; i < SALA_ARRAY_LEN(texts); i++) {
            sala_ids ids = encode(t, texts[i], strlen(texts[i]), true, true);
            /* Cut off in the middle of things, too. */
            for (size_t n = 0; n <= ids.count; n++) {
                sala_buf whole = {0}, sum = {0}, piece = {0};
                assert_int_equal(sala_tokenizer_decode(t, &whole, ids.data, n, false, NULL), SALA_OK);
                for (size_t k = 0; k <= n; k++) {
                    sala_buf_clear(&piece);
                    if (k < n)
                        assert_int_equal(sala_detokenizer_push(d, ids.data[k], &piece, NULL), SALA_OK);
                    else
                        sala_detokenizer_flush(d, &piece);
                    for (size_t at = 0; at < piece.len;) {
                        uint32_t cp;
                        const int len = sala_utf8_decode(piece.data + at, piece.len - at, &cp);
                        assert_true(len > 0);
                        at += (size_t)len;
                    }
                    if (piece.len > 0)
                        sala_buf_add(&sum, piece.data, piece.len);
                }
                expect_text(families[f], &sum, whole.len > 0 ? whole.data : "", whole.len);
                sala_buf_free(&whole);
                sala_buf_free(&sum);
                sala_buf_free(&piece);
            }
            sala_ids_free(&ids);
        }
        sala_detokenizer_close(d);
        sala_tokenizer_free(t);
    }
}

static void ids_beyond_the_vocabulary_are_errors(void **state)
{
    (void)state;
    sala_tokenizer *t = load("gpt2");
    sala_error err;
    sala_buf out = {0};
    const int32_t bad[] = {sala_tokenizer_n_vocab(t), -1, INT32_MAX};
    for (size_t i = 0; i < SALA_ARRAY_LEN(bad); i++)
        assert_int_equal(sala_tokenizer_decode(t, &out, &bad[i], 1, false, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "vocabulary"));
    sala_buf_free(&out);
    sala_tokenizer_free(t);
}

/* The tokenizer that a GGUF file of `t` gives, padded by five ids. */
static sala_tokenizer *through_gguf(const char *what, const sala_tokenizer *t, const char **notice)
{
    sala_tokenizer *back = NULL;
    sala_error err = {0};
    char path[] = "/tmp/sala-tokenizer-XXXXXX";
    close(mkstemp(path));
    sala_gguf_writer *w;
    sala_gguf *g;
    assert_int_equal(sala_gguf_writer_open(&w, path, &err), SALA_OK);
    if (sala_tokenizer_write_gguf(t, w, sala_tokenizer_n_vocab(t) + 5, notice, &err) != SALA_OK)
        fail_msg("%s: %s", what, err.message);
    assert_int_equal(sala_gguf_writer_begin_data(w, &err), SALA_OK);
    assert_int_equal(sala_gguf_writer_commit(w, &err), SALA_OK);
    assert_int_equal(sala_gguf_open(&g, path, &err), SALA_OK);
    if (sala_tokenizer_from_gguf(&back, g, &err) != SALA_OK)
        fail_msg("%s: %s", what, err.message);
    sala_gguf_close(g);
    unlink(path);
    return back;
}

static void written_as_gguf_and_read_back(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt2", "smollm", "llama3", "llama-legacy", "spm-bpe", "spm-unigram"};
    json_t *strings = load_json("strings", ".json");
    for (size_t f = 0; f < SALA_ARRAY_LEN(kinds); f++) {
        const char *notice;
        sala_tokenizer *t = load(kinds[f]), *back = through_gguf(kinds[f], t, &notice);
        assert_null(notice);
        assert_int_equal(sala_tokenizer_n_vocab(back), sala_tokenizer_n_vocab(t) + 5);
        assert_int_equal(sala_tokenizer_bos(back), sala_tokenizer_bos(t));
        assert_int_equal(sala_tokenizer_adds_bos(back), sala_tokenizer_adds_bos(t));
        /* SentencePiece's user-defined pieces are tokens that llama.cpp cuts out first, with a space after each. */
        const bool cut_first = strcmp(kinds[f], "spm-bpe") == 0;
        for (size_t i = 0; i < json_array_size(strings); i++) {
            const char *s = json_string_value(json_array_get(strings, i));
            const size_t n = json_string_length(json_array_get(strings, i));
            if (cut_first && (strstr(s, "<tool>") != NULL || strstr(s, "it's") != NULL))
                continue;
            sala_ids a = encode(t, s, n, true, true), b = encode(back, s, n, true, true);
            if (a.count != b.count || (a.count > 0 && memcmp(a.data, b.data, a.count * sizeof *a.data) != 0))
                fail_msg("%s: \"%s\" differs after GGUF", kinds[f], s);
            sala_ids_free(&a);
            sala_ids_free(&b);
        }
        sala_tokenizer_free(back);
        sala_tokenizer_free(t);
    }
    json_decref(strings);
}

#define META "\xE2\x96\x81"
#define TO_META "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" META "\"}"
#define PLAIN "\"normalizer\":" TO_META
#define PREFIXED                                                                                                       \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" META "\"}," TO_META  \
    "]}"
#define METASPACE(scheme, split)                                                                                       \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" META "\",\"prepend_scheme\":\"" scheme              \
    "\",\"split\":" split "}"
#define TWO_SPACES ",[\"" META "\",\"" META "\"]"

/* A character BPE whose "abc" is made of "ab" and "c", never of "a" and "bc", which scores cannot say. */
static char *character_bpe(const char *prepare, bool bytes, const char *unk, const char *flag, const char *more_merges)
{
    sala_buf b = {0};
    sala_buf_printf(&b, "{%s,\"added_tokens\":[", prepare);
    sala_buf_add_str(&b, "{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
                         "{\"id\":11,\"content\":\"<tool>\",\"special\":false,\"normalized\":false}],");
    sala_buf_printf(&b, "\"model\":{\"type\":\"BPE\",\"unk_token\":%s,\"byte_fallback\":%s,%s,\"vocab\":{", unk,
                    bytes ? "true" : "false", flag);
    sala_buf_add_str(&b, "\"<unk>\":0,\"<s>\":1,\"" META
                         "\":2,\"a\":3,\"b\":4,\"c\":5,\"bc\":6,\"ab\":7,\"abc\":8,\"" META META
                         "\":9,\"<0x41>\":10,\"<tool>\":11");
    for (int i = 0; i < 256 && bytes; i++)
        if (i != 0x41)
            sala_buf_printf(&b, ",\"<0x%02X>\":%d", (unsigned)i, 12 + i);
    sala_buf_printf(&b, "},\"merges\":[[\"b\",\"c\"],[\"a\",\"b\"],[\"ab\",\"c\"]%s]}}", more_merges);
    sala_buf_add_char(&b, '\0');
    assert_false(b.failed);
    return b.data;
}

static sala_tokenizer *from_text(const char *json)
{
    sala_tokenizer *t = NULL;
    sala_error err;
    if (sala_tokenizer_from_json(&t, json, strlen(json), NULL, 0, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return t;
}

static void merges_that_scores_cannot_say(void **state)
{
    (void)state;
    static const struct {
        const char *prepare;
        bool bytes;
        const char *unk, *flag, *more;
        const char *text; /* one whose ids are known */
        int32_t ids[8];
        size_t n;
    } cases[] = {
        {PREFIXED, true, "\"<unk>\"", "\"fuse_unk\":true", TWO_SPACES, " abc ab", {9, 3, 6, 2, 7}, 5},
        {METASPACE("always", "false"),
         true,
         "\"<unk>\"",
         "\"fuse_unk\":true",
         TWO_SPACES,
         " a<tool>b",
         {2, 3, 11, 2, 4},
         5},
        {METASPACE("first", "false"), true, "\"<unk>\"", "\"fuse_unk\":true", TWO_SPACES, "a<tool>b", {2, 3, 11, 4}, 4},
        {METASPACE("always", "true"), true, "\"<unk>\"", "\"fuse_unk\":true", "", "abc  ab", {2, 3, 6, 2, 2, 7}, 6},
        {PLAIN, true, "\"<unk>\"", "\"ignore_merges\":true", TWO_SPACES, "abc", {8}, 1},
        {PLAIN, false, "\"<unk>\"", "\"fuse_unk\":true", TWO_SPACES, "abczzA", {3, 6, 0}, 3},
        {PLAIN, false, "\"<unk>\"", "\"fuse_unk\":false", TWO_SPACES, "abczzA", {3, 6, 0, 0, 0}, 5},
        {PREFIXED, false, "null", "\"fuse_unk\":false", TWO_SPACES, "abczzA", {2, 3, 6}, 3},
    };
    static const char *const texts[] = {"",
                                        " ",
                                        "abc",
                                        "a b  c   abcabc aabbcc",
                                        "\xC3\xA9 A\xF0\x9F\xA6\x80 abc",
                                        "<s>abc<tool>  abc<0x41>\nzz",
                                        "[PAD12]",
                                        "zabcz\xE2\x96\x81z"};
    for (size_t f = 0; f < SALA_ARRAY_LEN(cases); f++) {
        char *json = character_bpe(cases[f].prepare, cases[f].bytes, cases[f].unk, cases[f].flag, cases[f].more);
        const char *notice = NULL;
        sala_tokenizer *t = from_text(json), *back = through_gguf(cases[f].prepare, t, &notice);
        assert_non_null(notice);
        sala_ids known = encode(back, cases[f].text, strlen(cases[f].text), false, true);
        assert_int_equal(known.count, cases[f].n);
        assert_memory_equal(known.data, cases[f].ids, known.count * sizeof *known.data);
        sala_ids_free(&known);
        for (size_t i = 0; i < SALA_ARRAY_LEN(texts); i++) {
            sala_ids a = encode(t, texts[i], strlen(texts[i]), false, true);
            sala_ids b = encode(back, texts[i], strlen(texts[i]), false, true);
            if (a.count != b.count || (a.count > 0 && memcmp(a.data, b.data, a.count * sizeof *a.data) != 0))
                fail_msg("case %zu: \"%s\" differs after GGUF", f, texts[i]);
            sala_ids_free(&a);
            sala_ids_free(&b);
        }
        sala_tokenizer_free(t);
        sala_tokenizer_free(back);
        free(json);
    }
}

static void expect_not_written(const char *json, const char *word)
{
    sala_tokenizer *t = from_text(json);
    sala_error err;
    sala_gguf_writer *w;
    char path[] = "/tmp/sala-tokenizer-XXXXXX";
    close(mkstemp(path));
    assert_int_equal(sala_gguf_writer_open(&w, path, &err), SALA_OK);
    assert_int_equal(sala_tokenizer_write_gguf(t, w, sala_tokenizer_n_vocab(t), NULL, &err), SALA_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, word));
    sala_gguf_writer_abort(w);
    unlink(path);
    sala_tokenizer_free(t);
}

static void merges_that_gguf_cannot_hold(void **state)
{
    (void)state;
    /* Words are cut apart between spaces that a merge would join. */
    char *json = character_bpe(METASPACE("always", "true"), true, "\"<unk>\"", "\"fuse_unk\":true", TWO_SPACES);
    expect_not_written(json, "U+2581");
    free(json);
    /* " " and "c" make " c", in the places of two byte pieces. */
    json = character_bpe(PLAIN, true, "\"<unk>\"", "\"fuse_unk\":true", ",[\" \",\"c\"]");
    memcpy(strstr(json, "\"<0x00>\""), "\" \"     ", 8);
    memcpy(strstr(json, "\"<0x01>\""), "\" c\"    ", 8);
    expect_not_written(json, "space");
    free(json);
}

/* ---- bad files ---- */

static void expect_error(const char *json, sala_status status, const char *word)
{
    sala_tokenizer *t = NULL;
    sala_error err = {0};
    const sala_status st = sala_tokenizer_from_json(&t, json, strlen(json), NULL, 0, &err);
    if (st != status || strstr(err.message, word) == NULL)
        fail_msg("%s\n  gave %d \"%s\", wanted %d with \"%s\"", json, (int)st, err.message, (int)status, word);
    assert_null(t);
}

static void bad_tokenizer_json(void **state)
{
    (void)state;
    expect_error("", SALA_E_CORRUPT, "tokenizer.json");
    expect_error("[1]", SALA_E_CORRUPT, "not a JSON object");
    expect_error("{}", SALA_E_CORRUPT, "model");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", SALA_E_CORRUPT, "no vocabulary");
    expect_error("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", SALA_E_UNSUPPORTED, "WordPiece");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", SALA_E_CORRUPT,
                 "token id 0");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", SALA_E_CORRUPT, "-1");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", SALA_E_CORRUPT,
                 "99999999999");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9999999},\"merges\":[]}}", SALA_E_CORRUPT, "highest");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}", SALA_E_CORRUPT, "integer");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", SALA_E_CORRUPT, "merge 0");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", SALA_E_CORRUPT, "merge 0");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"x\"}}", SALA_E_CORRUPT,
                 "unk_token");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":0,"
                 "\"content\":\"b\"}]}",
                 SALA_E_CORRUPT, "token id 0");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":1,"
                 "\"content\":\"a\"}]}",
                 SALA_E_CORRUPT, "two ids");
    expect_error("{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
                 SALA_E_UNSUPPORTED, "(a");
    /* Means one thing to Oniguruma and another to PCRE2. */
    expect_error(
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}}",
        SALA_E_UNSUPPORTED, "[a&&b]");
    expect_error("{\"pre_tokenizer\":{\"type\":\"Nonsense\"}}", SALA_E_UNSUPPORTED, "Nonsense");
    expect_error("{\"normalizer\":{\"type\":\"Nonsense\"}}", SALA_E_UNSUPPORTED, "Nonsense");
    expect_error("{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAB\"}}", SALA_E_CORRUPT,
                 "charsmap");
    expect_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":3}}", SALA_E_CORRUPT, "unk_id");
    expect_error("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":{\"type\":"
                 "\"TemplateProcessing\","
                 "\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":{}}}",
                 SALA_E_CORRUPT, "\"x\"");
    /* Nested without end. */
    sala_buf deep = {0};
    sala_buf_add_str(&deep, "{\"normalizer\":");
    for (int i = 0; i < 500; i++)
        sala_buf_add_str(&deep, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 500; i++)
        sala_buf_add_str(&deep, "]}");
    sala_buf_add_str(&deep, "}");
    expect_error(deep.data, SALA_E_LIMIT, "nested");
    sala_buf_free(&deep);
}

static void bad_tokenizer_model(void **state)
{
    (void)state;
    char path[512];
    uint8_t *data;
    size_t n;
    sala_error err;
    sala_tokenizer *t = NULL;
    assert_int_equal(sala_os_read_file(&data, &n, fixture("spm-bpe", ".model", path), 0), 0);
    assert_int_not_equal(sala_tokenizer_from_spm(&t, data, 0, &err), SALA_OK);
    assert_int_not_equal(sala_tokenizer_from_spm(&t, "\xFF\xFF\xFF", 3, &err), SALA_OK);
    /* Cut anywhere: an error, or a shorter vocabulary if the cut falls between two pieces. */
    for (size_t cut = 1; cut < n; cut += 97) {
        uint8_t *part = malloc(cut);
        assert_non_null(part);
        memcpy(part, data, cut);
        if (sala_tokenizer_from_spm(&t, part, cut, &err) == SALA_OK)
            sala_tokenizer_free(t);
        free(part);
    }
    free(data);
}

static void unknown_regex_is_named_when_gguf_is_written(void **state)
{
    (void)state;
    const char *json =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Sequence\","
        "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"q+z\"},\"behavior\":\"Isolated\"},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}";
    sala_tokenizer *t = NULL;
    sala_error err;
    sala_gguf_writer *w;
    char path[] = "/tmp/sala-tokenizer-XXXXXX";
    close(mkstemp(path));
    assert_int_equal(sala_tokenizer_from_json(&t, json, strlen(json), NULL, 0, &err), SALA_OK);
    assert_string_equal(sala_tokenizer_pre(t), "custom");
    assert_int_equal(sala_gguf_writer_open(&w, path, &err), SALA_OK);
    assert_int_equal(sala_tokenizer_write_gguf(t, w, 4, NULL, &err), SALA_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "q+z"));
    sala_gguf_writer_abort(w);
    unlink(path);
    sala_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_vectors),
        cmocka_unit_test(long_text_equals_short_ones),
        cmocka_unit_test(one_letter_a_million_times),
        cmocka_unit_test(invalid_utf8_is_replaced),
        cmocka_unit_test(spans_decide_who_may_write_control_tokens),
        cmocka_unit_test(streams_never_split_a_character),
        cmocka_unit_test(ids_beyond_the_vocabulary_are_errors),
        cmocka_unit_test(written_as_gguf_and_read_back),
        cmocka_unit_test(merges_that_scores_cannot_say),
        cmocka_unit_test(merges_that_gguf_cannot_hold),
        cmocka_unit_test(bad_tokenizer_json),
        cmocka_unit_test(bad_tokenizer_model),
        cmocka_unit_test(unknown_regex_is_named_when_gguf_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
