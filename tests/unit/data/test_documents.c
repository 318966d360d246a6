/* Input streams and the cutter: archives of zlib and libzstd, made here by their own compressors, and every way that a
 * file can be cut. */
#include "unit/data/support.h"

#include "data/documents.h"
#include "data/inflow.h"

#include <zlib.h>
#include <zstd.h>

/* ---- archives ---- */

static void gzip(sala_buf *out, const void *data, size_t bytes)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    uint8_t *packed = malloc(bytes + 1024);
    assert_non_null(packed);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)bytes;
    z.next_out = packed;
    z.avail_out = (uInt)bytes + 1024;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    sala_buf_add(out, packed, z.total_out);
    deflateEnd(&z);
    free(packed);
}

static void zstd(sala_buf *out, const void *data, size_t bytes)
{
    const size_t room = ZSTD_compressBound(bytes);
    uint8_t *packed = malloc(room);
    assert_non_null(packed);
    const size_t n = ZSTD_compress(packed, room, data, bytes, 3);
    assert_false(ZSTD_isError(n));
    sala_buf_add(out, packed, n);
    free(packed);
}

/* Text that does not compress to nothing, of lines. */
static char *long_text(size_t bytes)
{
    char *text = malloc(bytes + 1);
    assert_non_null(text);
    uint32_t x = 1;
    for (size_t i = 0; i < bytes; i++) {
        x = x * 1664525u + 1013904223u;
        text[i] = x >> 24 < 6 ? '\n' : (char)('a' + (x >> 24) % 26);
    }
    text[bytes] = 0;
    return text;
}

static sala_status read_all(sala_buf *out, const void *data, size_t bytes, size_t step, sala_error *err)
{
    sala_inflow *in;
    sala_status status = sala_inflow_open_bytes(&in, data, bytes, err);
    if (status != SALA_OK)
        return status;
    char *chunk = malloc(step);
    size_t got = 1;
    assert_non_null(chunk);
    while (status == SALA_OK && got) {
        status = sala_inflow_read(in, chunk, step, &got, err);
        if (status == SALA_OK)
            sala_buf_add(out, chunk, got);
    }
    if (status == SALA_OK)
        assert_int_equal(sala_inflow_consumed(in), bytes);
    sala_inflow_close(in);
    free(chunk);
    return status;
}

static void check_reads(const sala_buf *file, const char *want, size_t bytes)
{
    const size_t steps[] = {1 << 20, 4097, 1000003};
    for (size_t i = 0; i < SALA_ARRAY_LEN(steps); i++) {
        sala_buf got = {0};
        sala_error err = {0};
        assert_ok(read_all(&got, file->data ? file->data : "", file->len, steps[i], &err));
        assert_int_equal(got.len, bytes);
        if (bytes)
            assert_memory_equal(got.data, want, bytes);
        sala_buf_free(&got);
    }
}

static void test_archives(void **state)
{
    (void)state;
    const size_t n = 3000000;
    char *text = long_text(n);
    sala_buf file = {0};
    check_reads(&file, "", 0);
    sala_buf_add(&file, text, n);
    check_reads(&file, text, n);
    sala_buf_clear(&file);
    gzip(&file, text, n);
    check_reads(&file, text, n);
    sala_buf_clear(&file);
    zstd(&file, text, n);
    check_reads(&file, text, n);
    /* Members and frames one behind the other, an empty one among them, zeros behind gzip. */
    sala_buf_clear(&file);
    gzip(&file, text, 1000);
    gzip(&file, "", 0);
    gzip(&file, text + 1000, n - 1000);
    sala_buf_add(&file, "\0\0\0\0", 4);
    check_reads(&file, text, n);
    sala_buf_clear(&file);
    zstd(&file, text, 1000);
    zstd(&file, "", 0);
    zstd(&file, text + 1000, n - 1000);
    check_reads(&file, text, n);
    sala_buf_free(&file);
    free(text);
}

static void test_damaged_archives(void **state)
{
    (void)state;
    char *text = long_text(20000);
    sala_error err;
    for (int kind = 0; kind < 2; kind++) {
        sala_buf file = {0}, got = {0};
        (kind ? zstd : gzip)(&file, text, 20000);
        const size_t from = kind ? 4 : 2; /* fewer bytes than a magic are text */
        for (size_t n = from; n < file.len; n += n < 40 ? 1 : 211) {
            sala_buf_clear(&got);
            assert_refused(read_all(&got, file.data, n, 4096, &err), SALA_E_TRUNCATED, "in the middle of its");
            assert_int_equal(err.position, (int64_t)n);
        }
        /* A changed byte in the middle: deflate and zstd both carry a sum, or the stream breaks. */
        size_t unnoticed = 0;
        for (size_t i = from; i < file.len; i += 97) {
            file.data[i] ^= 0x10;
            sala_buf_clear(&got);
            const sala_status status = read_all(&got, file.data, file.len, 4096, &err);
            const bool same = got.len == 20000 && memcmp(got.data, text, 20000) == 0;
            unnoticed += status == SALA_OK && !same && kind == 0;
            file.data[i] ^= 0x10;
        }
        assert_int_equal(unnoticed, 0);
        sala_buf_add_str(&file, "and now for something else");
        sala_buf_clear(&got);
        assert_refused(read_all(&got, file.data, file.len, 4096, &err), SALA_E_CORRUPT, "damaged at byte");
        sala_buf_free(&file);
        sala_buf_free(&got);
    }
    sala_inflow *in;
    assert_refused(sala_inflow_open(&in, "/nowhere.gz", &err), SALA_E_NOT_FOUND, "/nowhere.gz");
    char dir[512];
    assert_int_equal(sala_os_make_dirs(test_path(dir, sizeof dir, "folder")), 0);
    assert_refused(sala_inflow_open(&in, dir, &err), SALA_E_IO, "could not be read");
    free(text);
}

/* ---- cutting ---- */

/* The records of `text` as one string: each in brackets, '<' for one that continues, '>' for one that goes on, '!' for
 * one that is too long. Lines as L:number in front. */
static char *cut(const char *name, const void *data, size_t bytes, const sala_cut_params *p)
{
    sala_error err = {0};
    sala_cutter *c;
    sala_buf into = {0}, out = {0};
    assert_ok(sala_cutter_open_bytes(&c, name, data, bytes, p, &err));
    for (;;) {
        sala_record r;
        bool more;
        assert_ok(sala_cutter_next(c, &into, &r, &more, &err));
        if (!more)
            break;
        sala_buf_printf(&out, "%d%s%s[", (int)r.line, r.is_json ? "j" : "", r.continues ? "<" : "");
        sala_buf_add(&out, into.data ? into.data + r.at : "", r.bytes);
        sala_buf_printf(&out, "]%s%s", r.goes_on ? ">" : "", r.too_long ? "!" : "");
    }
    sala_cutter_close(c);
    sala_buf_free(&into);
    return sala_buf_take(&out, NULL);
}

static void check_cut(const char *name, const char *text, sala_cut_params p, const char *want)
{
    p.max_doc_bytes = p.max_doc_bytes ? p.max_doc_bytes : 1 << 20;
    p.max_json_line = p.max_json_line ? p.max_json_line : 1 << 20;
    char *got = cut(name, text, strlen(text), &p);
    assert_string_equal(got, want);
    free(got);
}

static void test_text(void **state)
{
    (void)state;
    const sala_cut_params text = {.format = SALA_DOC_TEXT}, dashes = {.format = SALA_DOC_TEXT, .separator = "---"};
    check_cut("a", "", text, "1[]");
    check_cut("a", "one\ntwo", text, "1[one\ntwo]");
    check_cut("a", "\xEF\xBB\xBFone\n", text, "1[one\n]");
    check_cut("a", "one\n---\ntwo\n---\r\nthree", dashes, "1[one\n]3[two\n]5[three]");
    check_cut("a", "---\n---\none\n----\n ---\n---", dashes, "1[]2[]3[one\n----\n ---\n]");
    check_cut("a", "one\n\n\ntwo\n", (sala_cut_params){.format = SALA_DOC_TEXT, .separator = ""},
              "1[one\n]3[]4[two\n]");
    const sala_cut_params split = {.format = SALA_DOC_TEXT, .split_bytes = 5};
    check_cut("a", "a\n\nbcd\n\nef\n\ngh\n\ni\n", split, "1[a\n\nbcd\n]5[ef\n\ngh\n]9[i\n]");
    /* Too long: at a line's end if the second half of the document has one, else at a character. */
    const sala_cut_params small = {.format = SALA_DOC_TEXT, .max_doc_bytes = 8};
    check_cut("a", "12345\n789\n", small, "1[12345\n]>2<[789\n]");
    check_cut("a", "1\n3456789abcdef", small, "1[1\n345678]>2<[9abcdef]");
    check_cut("a", "12345678", small, "1[12345678]");
    check_cut("a",
              "1234567\xC3\xA4"
              "9",
              small,
              "1[1234567]>1<[\xC3\xA4"
              "9]");
    check_cut("a", "123456\xE2\x82\xAC", small, "1[123456]>1<[\xE2\x82\xAC]");
    check_cut("a", "\xF0\x9F\x98\x80\xF0\x9F\x98\x80\xF0\x9F\x98\x80", small,
              "1[\xF0\x9F\x98\x80\xF0\x9F\x98\x80]>1<[\xF0\x9F\x98\x80]");
    /* Bytes that are no characters do not stop it. */
    check_cut("a", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", small,
              "1[\x80\x80\x80\x80\x80\x80\x80\x80]>1<[\x80\x80]");
    check_cut("a", "\xF0\x9F\x98\x80!", (sala_cut_params){.format = SALA_DOC_TEXT, .max_doc_bytes = 1},
              "1[\xF0\x9F\x98\x80]>1<[!]");
}

static void test_lines(void **state)
{
    (void)state;
    const sala_cut_params lines = {.format = SALA_DOC_LINES}, json = {.format = SALA_DOC_JSONL, .max_json_line = 9};
    check_cut("a", "one\r\n\ntwo", lines, "1[one]2[]3[two]");
    check_cut("a", "one\n", lines, "1[one]");
    check_cut("a", "", lines, "");
    check_cut("a", "12345678\n1234567890\n", (sala_cut_params){.format = SALA_DOC_LINES, .max_doc_bytes = 8},
              "1[12345678]2[12345678]>2<[90]");
    check_cut("a", "{}\n{\"a\":12345}\n[]", json, "1j[{}]2j[]!3j[[]]");
}

static void test_kinds(void **state)
{
    (void)state;
    const sala_cut_params any = {.format = SALA_DOC_AUTO};
    check_cut("a.jsonl", "x\n", any, "1j[x]");
    check_cut("a.jsonl.gz", "x\n", any, "1j[x]");
    check_cut("a.ndjson.zst", "x\n", any, "1j[x]");
    check_cut("a.txt", "{\"text\": 1}\n{}\n", any, "1j[{\"text\": 1}]2j[{}]");
    check_cut("a", " { \"text\": 1 } \r\n", any, "1j[ { \"text\": 1 } ]");
    check_cut("a", "{\n\"text\": 1}\n", any, "1[{\n\"text\": 1}\n]");
    check_cut("a", "{x}\n", any, "1[{x}\n]");
    check_cut("a", "hello\n", any, "1[hello\n]");
    static const struct {
        const char *text;
        size_t bytes;
        const char *fragment;
    } foreign[] = {
        {"\xFD"
         "7zXZ\0",
         6, "xz -dc"},
        {"PK\x03\x04", 4, "zip archive"},
        {"PAR1", 4, "Parquet"},
        {"GGUFxxxx", 8, "GGUF model"},
        {"%PDF-1.7", 8, "pdftotext"},
        {"\xFF\xFEh\0", 4, "UTF-16"},
        {"SALATOKS", 8, "token shard"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(foreign); i++) {
        sala_error err;
        sala_cutter *c;
        assert_refused(sala_cutter_open_bytes(&c, "a", foreign[i].text, foreign[i].bytes, &any, &err),
                       SALA_E_UNSUPPORTED, foreign[i].fragment);
    }
    sala_error err;
    sala_cutter *c;
    assert_refused(sala_cutter_open_bytes(&c, "a.json", "\n[{}]", 5, &any, &err), SALA_E_UNSUPPORTED, "jq -c");
}

/* Lines longer than the buffer, and files longer than it, lose nothing: the records add up to the file. */
static void test_long_lines(void **state)
{
    (void)state;
    const size_t n = 5000000;
    char *text = long_text(n);
    memset(text + 1000000, 'x', 2500000);
    const uint64_t limits[] = {1 << 24, 3000000, 70001};
    for (size_t i = 0; i < SALA_ARRAY_LEN(limits); i++)
        for (int lines = 0; lines < 2; lines++) {
            const sala_cut_params p = {.format = lines ? SALA_DOC_LINES : SALA_DOC_TEXT, .max_doc_bytes = limits[i]};
            sala_error err = {0};
            sala_cutter *c;
            sala_buf into = {0};
            assert_ok(sala_cutter_open_bytes(&c, "a", text, n, &p, &err));
            size_t at = 0;
            for (;;) {
                sala_record r;
                bool more;
                sala_buf_clear(&into);
                assert_ok(sala_cutter_next(c, &into, &r, &more, &err));
                if (!more)
                    break;
                assert_true(r.bytes <= limits[i]);
                assert_true(at + r.bytes <= n);
                if (r.bytes)
                    assert_memory_equal(into.data + r.at, text + at, r.bytes);
                at += r.bytes;
                if (lines && !r.goes_on && at < n)
                    assert_int_equal(text[at++], '\n');
            }
            assert_int_equal(at, n);
            sala_cutter_close(c);
            sala_buf_free(&into);
        }
    free(text);
}

static void test_characters(void **state)
{
    (void)state;
    assert_int_equal(sala_invalid_utf8("", 0), 0);
    assert_int_equal(sala_invalid_utf8("plain text, long enough", 23), 0);
    assert_int_equal(sala_invalid_utf8("\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80 and plain text", 24), 0);
    assert_int_equal(sala_invalid_utf8("plain t\xC3xt and \x80", 16), 2);
    assert_int_equal(sala_invalid_utf8("\xED\xA0\x80", 3), 3); /* half a surrogate pair */
    assert_true(sala_is_blank(" \t\r\n\v\f", 6));
    assert_true(sala_is_blank("", 0));
    assert_false(sala_is_blank(" x", 2));
    assert_int_equal(sala_whole_characters("ab\xE2\x82", 4), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_archives),   cmocka_unit_test(test_damaged_archives),
        cmocka_unit_test(test_text),       cmocka_unit_test(test_lines),
        cmocka_unit_test(test_kinds),      cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
