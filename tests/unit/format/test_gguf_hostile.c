/* GGUF files that lie. Each row builds one and says which words the refusal must contain. */
#include "unit/format/support.h"

#include "format/gguf.h"

static const uint64_t one[] = {1}, row32[] = {32}, row31[] = {31};

#define LITERAL(b, text) sala_buf_add(b, text, sizeof(text) - 1)

static void empty(sala_buf *b)
{
    (void)b;
}
static void three_bytes(sala_buf *b)
{
    LITERAL(b, "GGU");
}
static void magic_only(sala_buf *b)
{
    LITERAL(b, "GGUF");
}
static void zip_archive(sala_buf *b)
{
    LITERAL(b, "PK\x03\x04 and more bytes than a header");
}
static void old_ggjt(sala_buf *b)
{
    LITERAL(b, "tjgg\x03\0\0\0 and more bytes than a header");
}
static void lfs_pointer(sala_buf *b)
{
    sala_buf_add_str(b, "version https://git-lfs.github.com/spec/v1\n");
}
static void web_page(sala_buf *b)
{
    sala_buf_add_str(b, "<!DOCTYPE html><title>404</title>");
}
static void noise(sala_buf *b)
{
    LITERAL(b, "\x01\x02\x03\x04 and more bytes than a header");
}
static void version_1(sala_buf *b)
{
    b_header(b, 1, 0, 0);
}
static void version_4(sala_buf *b)
{
    b_header(b, 4, 0, 0);
}
static void version_0(sala_buf *b)
{
    b_header(b, 0, 0, 0);
}
static void big_endian(sala_buf *b)
{
    b_header(b, 0x03000000, 0, 0);
}
static void many_tensors(sala_buf *b)
{
    b_header(b, 3, UINT64_C(1) << 60, 0);
}
static void many_keys(sala_buf *b)
{
    b_header(b, 3, 0, UINT64_MAX);
}
static void more_tensors_than_bytes(sala_buf *b)
{
    b_header(b, 3, 3, 0);
    b_zeros(b, 60);
}
static void endless_key(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_u64(b, UINT64_MAX - 7);
    b_zeros(b, 32);
}
static void long_key(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_u64(b, 70000);
    for (int i = 0; i < 70000; i++)
        b_u8(b, 'a');
    b_u32(b, 0);
    b_u8(b, 0);
}
static void empty_key(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "", 0);
    b_zeros(b, 8);
}
static void key_with_nul(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_text(b, "a\0b", 3);
    b_u32(b, 0);
    b_u8(b, 0);
}
static void key_with_escape(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "\x1b[31mred", 0);
    b_u8(b, 0);
}
static void key_not_utf8(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "k\xc0\xaf", 0);
    b_u8(b, 0);
}
static void key_twice(sala_buf *b)
{
    b_header(b, 3, 0, 3);
    b_kv_u32(b, "k.one", 1);
    b_kv_u32(b, "k.two", 1);
    b_kv_u32(b, "k.one", 2);
}
static void value_type_13(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "k", 13);
    b_zeros(b, 16);
}
static void elem_type_99(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "k", 9);
    b_u32(b, 99);
    b_u64(b, 1);
    b_zeros(b, 16);
}
static void bool_of_2(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "flag", 7);
    b_u8(b, 2);
}
static void string_beyond_end(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "name", 8);
    b_u64(b, 1000);
    b_zeros(b, 8);
}
static void array_count_wraps(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "list", 9);
    b_u32(b, 10);
    b_u64(b, (UINT64_C(1) << 61) + 1); /* times 8 is 8 in 64 bits */
    b_zeros(b, 64);
}
static void array_beyond_end(sala_buf *b, uint32_t elem)
{
    b_header(b, 3, 0, 1);
    b_key(b, "list", 9);
    b_u32(b, elem);
    b_u64(b, 9);
    b_zeros(b, 8);
}
static void numbers_beyond_end(sala_buf *b)
{
    array_beyond_end(b, 0);
}
static void booleans_beyond_end(sala_buf *b)
{
    array_beyond_end(b, 7);
}
static void string_array_count(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "list", 9);
    b_u32(b, 8);
    b_u64(b, UINT64_C(1) << 40);
    b_zeros(b, 64);
}
static void string_array_element(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "list", 9);
    b_u32(b, 8);
    b_u64(b, 2);
    b_str(b, "fine");
    b_u64(b, UINT64_MAX);
    b_zeros(b, 8);
}
static void deep_arrays(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "deep", 9);
    for (int i = 0; i < 1000; i++) {
        b_u32(b, 9);
        b_u64(b, 1);
    }
}
static void nested_count(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_key(b, "deep", 9);
    b_u32(b, 9);
    b_u64(b, UINT64_C(1) << 62);
    b_zeros(b, 24);
}
static void alignment(sala_buf *b, uint32_t v)
{
    b_header(b, 3, 0, 1);
    b_kv_u32(b, "general.alignment", v);
}
static void alignment_0(sala_buf *b)
{
    alignment(b, 0);
}
static void alignment_48(sala_buf *b)
{
    alignment(b, 48);
}
static void alignment_huge(sala_buf *b)
{
    alignment(b, 1u << 31);
}
static void alignment_text(sala_buf *b)
{
    b_header(b, 3, 0, 1);
    b_kv_str(b, "general.alignment", "32");
}
static void tensor(sala_buf *b, const char *name, int n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
    b_header(b, 3, 1, 0);
    b_tensor(b, name, n_dims, ne, type, offset);
    b_pad(b, 32);
    b_zeros(b, 128);
}
static void dims_5(sala_buf *b)
{
    static const uint64_t ne[] = {1, 1, 1, 1, 1};
    tensor(b, "w", 5, ne, 0, 0);
}
static void dim_zero(sala_buf *b)
{
    static const uint64_t ne[] = {32, 0};
    tensor(b, "w", 2, ne, 0, 0);
}
static void dims_wrap(sala_buf *b)
{
    static const uint64_t ne[] = {UINT64_C(1) << 32, UINT64_C(1) << 32};
    tensor(b, "w", 2, ne, 0, 0);
}
static void dim_negative(sala_buf *b)
{
    static const uint64_t ne[] = {UINT64_MAX};
    tensor(b, "w", 1, ne, 0, 0);
}
static void bytes_wrap(sala_buf *b)
{
    static const uint64_t ne[] = {UINT64_C(1) << 62};
    tensor(b, "w", 1, ne, 28, 0);
}
static void type_16(sala_buf *b)
{
    tensor(b, "w", 1, row32, 16, 0);
}
static void type_4(sala_buf *b)
{
    tensor(b, "w", 1, row32, 4, 0);
}
static void type_999(sala_buf *b)
{
    tensor(b, "w", 1, row32, 999, 0);
}
static void type_negative(sala_buf *b)
{
    tensor(b, "w", 1, row32, 0xffffffff, 0);
}
static void row_of_31(sala_buf *b)
{
    tensor(b, "w", 1, row31, 2, 0);
}
static void offset_odd(sala_buf *b)
{
    tensor(b, "w", 1, one, 0, 4);
}
static void offset_beyond(sala_buf *b)
{
    tensor(b, "w", 1, one, 0, UINT64_C(1) << 40);
}
static void offset_wraps(sala_buf *b)
{
    tensor(b, "w", 1, row32, 0, UINT64_MAX - 31);
}
static void data_cut(sala_buf *b)
{
    static const uint64_t ne[] = {64};
    tensor(b, "w", 1, ne, 0, 0);
}
static void tensor_name_empty(sala_buf *b)
{
    tensor(b, "", 1, one, 0, 0);
}
static void tensor_name_newline(sala_buf *b)
{
    tensor(b, "a\nb", 1, one, 0, 0);
}
static void tensor_name_long(sala_buf *b)
{
    char name[200];
    memset(name, 'n', sizeof name);
    name[199] = 0;
    tensor(b, name, 1, one, 0, 0);
}
static void two(sala_buf *b, const char *second, uint64_t offset)
{
    b_header(b, 3, 2, 0);
    b_tensor(b, "first", 1, row32, 0, 0);
    b_tensor(b, second, 1, row32, 0, offset);
    b_pad(b, 32);
    b_zeros(b, 256);
}
static void same_place(sala_buf *b)
{
    two(b, "second", 0);
}
static void overlap(sala_buf *b)
{
    two(b, "second", 96);
}
static void tensor_twice(sala_buf *b)
{
    two(b, "first", 128);
}
static void second_part(sala_buf *b)
{
    b_header(b, 3, 0, 2);
    b_key(b, "split.no", 2);
    b_u16(b, 1);
    b_key(b, "split.count", 2);
    b_u16(b, 2);
}

static const struct {
    const char *what;
    void (*build)(sala_buf *);
    sala_status code;
    const char *fragment;
} cases[] = {
    {"empty", empty, SALA_E_TRUNCATED, "0 bytes, too few"},
    {"three bytes", three_bytes, SALA_E_TRUNCATED, "3 bytes, too few"},
    {"magic only", magic_only, SALA_E_TRUNCATED, "ends inside its header"},
    {"zip", zip_archive, SALA_E_UNSUPPORTED, "zip archive"},
    {"ggjt", old_ggjt, SALA_E_UNSUPPORTED, "ggjt"},
    {"git lfs", lfs_pointer, SALA_E_UNSUPPORTED, "Git LFS pointer"},
    {"web page", web_page, SALA_E_UNSUPPORTED, "web page"},
    {"noise", noise, SALA_E_UNSUPPORTED, "begins with bytes 01 02 03 04"},
    {"version 1", version_1, SALA_E_UNSUPPORTED, "version 1, expected 2 or 3"},
    {"version 4", version_4, SALA_E_UNSUPPORTED, "version 4, expected 2 or 3"},
    {"version 0", version_0, SALA_E_UNSUPPORTED, "version 0"},
    {"big endian", big_endian, SALA_E_UNSUPPORTED, "big-endian"},
    {"2^60 tensors", many_tensors, SALA_E_CORRUPT, "claims 1152921504606846976 tensors"},
    {"2^64-1 keys", many_keys, SALA_E_CORRUPT, "metadata entries, too many"},
    {"more tensors than bytes", more_tensors_than_bytes, SALA_E_CORRUPT, "claims 3 tensors"},
    {"endless key", endless_key, SALA_E_TRUNCATED, "metadata entry 0"},
    {"long key", long_key, SALA_E_CORRUPT, "longer than 65535 bytes"},
    {"empty key", empty_key, SALA_E_CORRUPT, "key is empty"},
    {"key with NUL", key_with_nul, SALA_E_CORRUPT, "not plain text"},
    {"key with escape", key_with_escape, SALA_E_CORRUPT, "not plain text"},
    {"key not UTF-8", key_not_utf8, SALA_E_CORRUPT, "not plain text"},
    {"key twice", key_twice, SALA_E_CORRUPT, "\"k.one\" appears twice"},
    {"value type 13", value_type_13, SALA_E_UNSUPPORTED, "value type 13"},
    {"element type 99", elem_type_99, SALA_E_UNSUPPORTED, "value type 99"},
    {"boolean 2", bool_of_2, SALA_E_CORRUPT, "a boolean is 2"},
    {"string beyond end", string_beyond_end, SALA_E_TRUNCATED, "the value of \"name\""},
    {"array count wraps", array_count_wraps, SALA_E_TRUNCATED, "the value of \"list\""},
    {"numbers beyond the end", numbers_beyond_end, SALA_E_TRUNCATED, "the value of \"list\""},
    {"booleans beyond the end", booleans_beyond_end, SALA_E_TRUNCATED, "the value of \"list\""},
    {"string array count", string_array_count, SALA_E_TRUNCATED, "the value of \"list\""},
    {"string array element", string_array_element, SALA_E_TRUNCATED, "the value of \"list\""},
    {"deep arrays", deep_arrays, SALA_E_UNSUPPORTED, "nests arrays"},
    {"nested count", nested_count, SALA_E_TRUNCATED, "the value of \"deep\""},
    {"alignment 0", alignment_0, SALA_E_CORRUPT, "power of two"},
    {"alignment 48", alignment_48, SALA_E_CORRUPT, "power of two"},
    {"alignment 2^31", alignment_huge, SALA_E_CORRUPT, "power of two"},
    {"alignment as text", alignment_text, SALA_E_CORRUPT, "power of two"},
    {"five dimensions", dims_5, SALA_E_CORRUPT, "5 dimensions"},
    {"dimension zero", dim_zero, SALA_E_CORRUPT, "dimension 1 is zero"},
    {"dimensions wrap", dims_wrap, SALA_E_CORRUPT, "2^63 elements"},
    {"negative dimension", dim_negative, SALA_E_CORRUPT, "2^63 elements"},
    {"bytes wrap", bytes_wrap, SALA_E_CORRUPT, "2^64 bytes"},
    {"type of ggml that is not read", type_16, SALA_E_UNSUPPORTED, "type 16 (IQ2_XXS)"},
    {"removed type", type_4, SALA_E_UNSUPPORTED, "type 4 (Q4_2, removed"},
    {"unknown type", type_999, SALA_E_UNSUPPORTED, "type 999 (unknown)"},
    {"negative type", type_negative, SALA_E_UNSUPPORTED, "type 4294967295"},
    {"row not of whole blocks", row_of_31, SALA_E_CORRUPT, "rows of 31 elements, expected a multiple of 32"},
    {"misaligned offset", offset_odd, SALA_E_CORRUPT, "offset 4, expected a multiple of the alignment 32"},
    {"offset beyond the end", offset_beyond, SALA_E_TRUNCATED, "only 128 there"},
    {"offset wraps", offset_wraps, SALA_E_TRUNCATED, "only 128 there"},
    {"data cut", data_cut, SALA_E_TRUNCATED, "needs 256 bytes"},
    {"tensor without name", tensor_name_empty, SALA_E_CORRUPT, "name is empty"},
    {"newline in name", tensor_name_newline, SALA_E_CORRUPT, "not plain text"},
    {"long name", tensor_name_long, SALA_E_CORRUPT, "longer than 128"},
    {"two tensors in one place", same_place, SALA_E_CORRUPT, "\"first\" and \"second\" overlap"},
    {"overlap", overlap, SALA_E_CORRUPT, "overlap"},
    {"tensor twice", tensor_twice, SALA_E_CORRUPT, "\"first\" appears twice"},
    {"part of a set", second_part, SALA_E_UNSUPPORTED, "part 2 of a split set"},
};

static void test_hostile(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_buf b = {0};
        cases[i].build(&b);
        void *copy = exact_copy(b.data, b.len);
        sala_error err = {0};
        sala_gguf *g = NULL;
        const sala_status st = sala_gguf_parse(&g, copy, b.len, &err);
        if (st != cases[i].code || g || err.code != st)
            fail_msg("%s: status %d, expected %d (%s)", cases[i].what, (int)st, (int)cases[i].code, err.message);
        assert_message(&err, cases[i].fragment);
        assert_int_equal(sala_gguf_parse(&g, copy, b.len, NULL), st); /* without an error struct too */
        free(copy);
        sala_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
