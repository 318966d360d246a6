#include "base/base.h"
#include "unit/test.h"

#include <errno.h>

static void errors(void **state)
{
    (void)state;
    sala_error e;
    assert_int_equal(sala_fail(&e, SALA_E_CORRUPT, "found %d, expected %d", 1, 2), SALA_E_CORRUPT);
    assert_string_equal(e.message, "found 1, expected 2");
    assert_int_equal(sala_fail_prefix(&e, SALA_E_CORRUPT, "file %s", "x"), SALA_E_CORRUPT);
    assert_string_equal(e.message, "file x: found 1, expected 2");
    sala_fail_at(&e, SALA_E_TRUNCATED, 77, "short");
    assert_int_equal(e.position, 77);
    assert_int_equal(sala_fail_errno(&e, ENOENT, "open"), SALA_E_NOT_FOUND);
    assert_string_equal(e.message, "open: No such file or directory");
    assert_int_equal(sala_fail(NULL, SALA_E_IO, "nobody listens"), SALA_E_IO);
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    sala_fail(&e, SALA_E_IO, "%s", big);
    sala_fail_prefix(&e, SALA_E_IO, "%s", big);
    assert_int_equal(strlen(e.message), sizeof e.message - 1);
    assert_string_equal(sala_status_text(SALA_E_LIMIT), "a limit was reached");
}

static void sizes(void **state)
{
    (void)state;
    uint64_t v = 5;
    assert_false(sala_mul_size(&v, UINT64_MAX, 2));
    assert_false(sala_add_size(&v, UINT64_MAX, 1));
    assert_int_equal(v, 5);
    assert_true(sala_mul_size(&v, 1u << 31, 1u << 31));
    assert_true(v == (uint64_t)1 << 62);
    char s[32];
    assert_string_equal(sala_format_bytes(s, 1023), "1023 B");
    assert_string_equal(sala_format_bytes(s, 1536), "1.50 KiB");
    assert_string_equal(sala_format_bytes(s, (uint64_t)20 << 30), "20.0 GiB");
    assert_string_equal(sala_format_bytes(s, UINT64_MAX), "16.0 EiB");
    assert_string_equal(sala_format_thousands(s, 0), "0");
    assert_string_equal(sala_format_thousands(s, 999), "999");
    assert_string_equal(sala_format_thousands(s, 1000), "1,000");
    assert_string_equal(sala_format_thousands(s, UINT64_MAX), "18,446,744,073,709,551,615");
}

static void reading(void **state)
{
    (void)state;
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7};
    sala_reader r = sala_reader_of(bytes, sizeof bytes);
    assert_int_equal(sala_read_u16(&r), 0x0201);
    assert_int_equal(sala_read_u32(&r), 0x06050403);
    assert_int_equal(sala_read_u16(&r), 0);
    assert_true(r.failed);
    assert_int_equal(sala_read_u8(&r), 0); /* stays failed although one byte is left */
    r = sala_reader_of(bytes, sizeof bytes);
    assert_null(sala_read_bytes(&r, UINT64_MAX));
}

static void buffers(void **state)
{
    (void)state;
    sala_buf b = {0};
    sala_buf_printf(&b, "%d-%s", 7, "seven");
    sala_buf_add_char(&b, '!');
    sala_buf_add_utf8(&b, 0x1F600);
    sala_buf_add_utf8(&b, 0xE9);
    sala_buf_add_utf8(&b, 0x20AC);
    assert_string_equal(b.data, "7-seven!\xF0\x9F\x98\x80\xC3\xA9\xE2\x82\xAC");
    size_t n = 0;
    char *s = sala_buf_take(&b, &n);
    assert_int_equal(n, strlen(s));
    free(s);
    s = sala_buf_take(&b, &n);
    assert_string_equal(s, "");
    free(s);
    assert_false(sala_buf_reserve(&b, SIZE_MAX - 1));
    assert_null(sala_buf_take(&b, &n));
    s = sala_path_join("a/", "b");
    assert_string_equal(s, "a/b");
    free(s);
    s = sala_path_join("a", "b");
    assert_string_equal(s, "a/b");
    free(s);
}

/* Every code point survives; every other sequence of one to four bytes is refused as Unicode's table 3-7 says. */
static void utf8(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp < 0xE000)
            continue;
        sala_buf b = {0};
        sala_buf_add_utf8(&b, cp);
        uint32_t back;
        if (sala_utf8_decode(b.data, b.len, &back) != (int)b.len || back != cp)
            fail_msg("U+%04X", cp);
        for (size_t cut = 1; cut < b.len; cut++) {
            assert_int_equal(sala_utf8_decode(b.data, cut, &back), 0);
            assert_int_equal(sala_utf8_incomplete_tail(b.data, cut), (int)cut);
        }
        assert_int_equal(sala_utf8_incomplete_tail(b.data, b.len), 0);
        sala_buf_free(&b);
    }
    static const char *const bad[] = {"\x80",         "\xC0\xAF",         "\xC1\x81",         "\xE0\x80\xAF",
                                      "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                      "\xFF",         "\xE2\x28\xA1"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(bad); i++) {
        uint32_t cp;
        assert_int_equal(sala_utf8_decode(bad[i], strlen(bad[i]), &cp), 0);
        assert_int_equal(cp, 0xFFFD);
    }
    /* These can never be completed. */
    assert_int_equal(sala_utf8_incomplete_tail("\xED\xA0", 2), 0);
    assert_int_equal(sala_utf8_incomplete_tail("\xF4\x90", 2), 0);
    assert_int_equal(sala_utf8_incomplete_tail("\xE0\x80", 2), 0);
}

static void random_numbers(void **state)
{
    (void)state;
    sala_rng a, b;
    sala_rng_seed(&a, 42);
    sala_rng_seed(&b, 42);
    double sum = 0, squares = 0;
    for (int i = 0; i < 100000; i++) {
        const double u = sala_rng_uniform(&a);
        assert_true(u >= 0 && u < 1 && u == sala_rng_uniform(&b));
        const double z = sala_rng_normal(&a);
        sala_rng_normal(&b);
        sum += z;
        squares += z * z;
    }
    assert_true(sum / 1e5 < 0.02 && sum / 1e5 > -0.02);
    assert_true(squares / 1e5 > 0.98 && squares / 1e5 < 1.02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),  cmocka_unit_test(sizes), cmocka_unit_test(reading),
        cmocka_unit_test(buffers), cmocka_unit_test(utf8),  cmocka_unit_test(random_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
