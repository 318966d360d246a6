/* NumPy files and token ids. The images are what numpy.save() of NumPy 2 writes, typed in by hand. */
#include "unit/format/support.h"

#include "format/npy.h"

/* Version 1, padded to 64 bytes as NumPy does. */
static void b_npy(sala_buf *b, const char *dict, const void *data, size_t bytes)
{
    sala_buf_add(b, "\x93NUMPY\x01\x00", 8);
    const size_t pad = 63 - (10 + strlen(dict)) % 64;
    b_u16(b, (uint16_t)(strlen(dict) + pad + 1));
    sala_buf_add_str(b, dict);
    for (size_t i = 0; i < pad; i++)
        sala_buf_add_char(b, ' ');
    sala_buf_add_char(b, '\n');
    sala_buf_add(b, data, bytes);
}

static void test_read(void **state)
{
    (void)state;
    static const int64_t ids[] = {5, 6, 7, 8, 9, 10};
    sala_buf b = {0};
    b_npy(&b, "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }", ids, sizeof ids);
    sala_npy a;
    sala_error err;
    void *copy = exact_copy(b.data, b.len);
    assert_int_equal(sala_npy_parse(&a, copy, b.len, &err), SALA_OK);
    assert_int_equal(a.kind, 'i');
    assert_int_equal(a.elem_bytes, 8);
    assert_int_equal(a.n_dims, 2);
    assert_int_equal(a.shape[0], 2);
    assert_int_equal(a.shape[1], 3);
    assert_int_equal(a.count, 6);
    assert_memory_equal(a.data, ids, sizeof ids);
    free(copy);
    sala_buf_free(&b);

    /* Keys in another order, double quotes, a scalar, no padding. */
    b_npy(&b, "{\"shape\":(),\"fortran_order\":True,\"descr\":\"|u1\"}", "\x07", 1);
    assert_int_equal(sala_npy_parse(&a, b.data, b.len, &err), SALA_OK);
    assert_int_equal(a.n_dims, 0);
    assert_int_equal(a.count, 1);
    sala_buf_free(&b);
    b_npy(&b, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }", "", 0);
    assert_int_equal(sala_npy_parse(&a, b.data, b.len, &err), SALA_OK);
    assert_int_equal(a.count, 0);
    sala_buf_free(&b);
}

#define D(descr, order, shape) "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *dict;
        sala_status code;
        const char *fragment;
    } cases[] = {
        {D("'>i4'", "False", "(1,)"), SALA_E_UNSUPPORTED, "big-endian"},
        {D("'<c8'", "False", "(1,)"), SALA_E_UNSUPPORTED, "type \"<c8\""},
        {D("'|O'", "False", "(1,)"), SALA_E_UNSUPPORTED, "type \"|O\""},
        {D("'|b1'", "False", "(1,)"), SALA_E_UNSUPPORTED, "type \"|b1\""},
        {D("'<i3'", "False", "(1,)"), SALA_E_UNSUPPORTED, "type \"<i3\""},
        {D("''", "False", "(1,)"), SALA_E_UNSUPPORTED, "type \"\""},
        {D("'<i4'", "True", "(2, 1)"), SALA_E_UNSUPPORTED, "Fortran order"},
        {D("'<i4'", "False", "(3,)"), SALA_E_TRUNCATED, "needs 3 elements"},
        {D("'<i4'", "False", "(4294967296, 4294967296)"), SALA_E_CORRUPT, "overflows"},
        {D("'<i8'", "False", "(2305843009213693953,)"), SALA_E_TRUNCATED, "needs 2305843009213693953"},
        {D("'<i4'", "False", "(99999999999999999999,)"), SALA_E_CORRUPT, "not a dictionary"},
        {D("'<i4'", "False", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), SALA_E_CORRUPT, "not a dictionary"},
        {D("'<i4'", "False", "(-1,)"), SALA_E_CORRUPT, "not a dictionary"},
        {D("'<i4'", "maybe", "(1,)"), SALA_E_CORRUPT, "not a dictionary"},
        {D("[('a', '<i4')]", "False", "(1,)"), SALA_E_CORRUPT, "not a dictionary"},
        {"{'descr': '<i4', 'shape': (1,)}", SALA_E_CORRUPT, "not a dictionary"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'more': 1}", SALA_E_CORRUPT, "not a dictionary"},
        {"", SALA_E_CORRUPT, "not a dictionary"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_buf b = {0};
        b_npy(&b, cases[i].dict, "12345678", 8);
        void *copy = exact_copy(b.data, b.len);
        sala_npy a;
        sala_error err = {0};
        const sala_status st = sala_npy_parse(&a, copy, b.len, &err);
        if (st != cases[i].code)
            fail_msg("%s: status %d (%s)", cases[i].dict, (int)st, err.message);
        assert_message(&err, cases[i].fragment);
        free(copy);
        sala_buf_free(&b);
    }
    sala_buf b = {0};
    b_npy(&b, D("'<i4'", "False", "(2,)"), "12345678", 8);
    sala_npy a;
    for (size_t n = 0; n < b.len; n++) {
        void *copy = exact_copy(b.data, n);
        assert_int_not_equal(sala_npy_parse(&a, copy, n, NULL), SALA_OK);
        free(copy);
    }
    b.data[6] = 4;
    assert_int_equal(sala_npy_parse(&a, b.data, b.len, NULL), SALA_E_UNSUPPORTED);
    sala_buf_free(&b);
}

static void test_write(void **state)
{
    (void)state;
    static const float m[6] = {1, 2, 3, 4, 5, 6};
    sala_error err;
    sala_npy_writer *w;
    assert_int_equal(sala_npy_writer_open(&w, temp_path("x.npy"), 3, 2, &err), SALA_OK);
    assert_int_equal(sala_npy_write_rows(w, m, 1, &err), SALA_OK);
    assert_int_equal(sala_npy_write_rows(w, m + 2, 2, &err), SALA_OK);
    assert_int_equal(sala_npy_write_rows(w, m, 1, &err), SALA_E_STATE);
    assert_int_equal(sala_npy_writer_commit(w, &err), SALA_OK);
    uint8_t *bytes;
    size_t n;
    assert_int_equal(sala_os_read_file(&bytes, &n, temp_path("x.npy"), 0), 0);
    assert_int_equal(n, 128 + sizeof m);
    assert_int_equal(bytes[127], '\n');
    sala_npy a;
    assert_int_equal(sala_npy_parse(&a, bytes, n, &err), SALA_OK);
    assert_int_equal(a.kind, 'f');
    assert_int_equal(a.shape[0], 3);
    assert_int_equal(a.shape[1], 2);
    assert_memory_equal(a.data, m, sizeof m);
    free(bytes);

    assert_int_equal(sala_npy_writer_open(&w, temp_path("y.npy"), 3, 2, &err), SALA_OK);
    assert_int_equal(sala_npy_write_rows(w, m, 2, &err), SALA_OK);
    assert_int_equal(sala_npy_writer_commit(w, &err), SALA_E_STATE);
    assert_message(&err, "2 of 3 rows");
    assert_int_equal(sala_npy_writer_open(&w, temp_path("y.npy"), INT64_MAX, 2, &err), SALA_E_INVALID);
    assert_int_equal(files_in_temp_dir(), 1);
}

/* ---- token ids ---- */

static void test_ids(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int n; /* -1: refused */
        int32_t ids[4];
        const char *fragment;
    } cases[] = {
        {"", 0, {0}, ""},
        {" \n\t ", 0, {0}, ""},
        {"1 2\n3", 3, {1, 2, 3}, ""},
        {"0\r\n2147483647\n", 2, {0, INT32_MAX}, ""},
        {"[]", 0, {0}, ""},
        {"[1, 2,3]\n", 3, {1, 2, 3}, ""},
        {"007", 1, {7}, ""},
        {"2147483648", -1, {0}, "too large a number at byte 0"},
        {"1 99999999999999999999999", -1, {0}, "too large a number at byte 2"},
        {"1 -1", -1, {0}, "a negative number at byte 2"},
        {"1,2", -1, {0}, "no number at byte 1"},
        {"1.5", -1, {0}, "no number at byte 1"},
        {"1 x", -1, {0}, "no number at byte 2"},
        {"12a", -1, {0}, "no number at byte 2"},
        {"[1, 2", -1, {0}, "end of an open array"},
        {"[1] 2", -1, {0}, "behind the array"},
        {"[[1]]", -1, {0}, "no number at byte 1"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        const size_t len = strlen(cases[i].text);
        void *copy = exact_copy(cases[i].text, len);
        int32_t *ids = NULL;
        size_t n = 0;
        sala_error err = {0};
        const sala_status st = sala_ids_parse(&ids, &n, copy, len, &err);
        if ((st == SALA_OK) != (cases[i].n >= 0))
            fail_msg("\"%s\": status %d (%s)", cases[i].text, (int)st, err.message);
        if (st == SALA_OK) {
            assert_non_null(ids);
            assert_int_equal(n, cases[i].n);
            for (size_t k = 0; k < n; k++)
                assert_int_equal(ids[k], cases[i].ids[k]);
        } else {
            assert_null(ids);
            assert_message(&err, cases[i].fragment);
        }
        free(ids);
        free(copy);
    }
}

static void test_many_ids(void **state)
{
    (void)state;
    sala_buf b = {0};
    for (int i = 0; i < 5000; i++)
        sala_buf_printf(&b, "%d ", i);
    int32_t *ids;
    size_t n;
    assert_int_equal(sala_ids_parse(&ids, &n, b.data, b.len, NULL), SALA_OK);
    assert_int_equal(n, 5000);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(ids[i], i);
    free(ids);
    sala_buf_free(&b);
}

static void test_ids_from_npy(void **state)
{
    (void)state;
    static const int64_t wide[] = {0, 2147483647};
    static const int32_t negative[] = {3, -3};
    static const uint16_t narrow[] = {65535, 1};
    static const float floats[] = {1};
    sala_error err;
    int32_t *ids;
    size_t n;
    sala_buf b = {0};
    b_npy(&b, D("'<i8'", "False", "(2,)"), wide, sizeof wide);
    assert_int_equal(sala_ids_parse(&ids, &n, b.data, b.len, &err), SALA_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], INT32_MAX);
    free(ids);
    sala_buf_free(&b);
    b_npy(&b, D("'<u2'", "False", "(1, 2)"), narrow, sizeof narrow);
    assert_int_equal(sala_ids_parse(&ids, &n, b.data, b.len, &err), SALA_OK);
    assert_int_equal(ids[0], 65535);
    free(ids);
    sala_buf_free(&b);
    b_npy(&b, D("'<i4'", "False", "(2,)"), negative, sizeof negative);
    assert_int_equal(sala_ids_parse(&ids, &n, b.data, b.len, &err), SALA_E_INVALID);
    assert_message(&err, "a negative number at byte 132");
    sala_buf_free(&b);
    b_npy(&b, D("'<f4'", "False", "(1,)"), floats, sizeof floats);
    assert_int_equal(sala_ids_parse(&ids, &n, b.data, b.len, &err), SALA_E_INVALID);
    assert_message(&err, "floats, expected integers");
    sala_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test_setup_teardown(test_write, make_temp_dir, remove_temp_dir),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_many_ids),
        cmocka_unit_test(test_ids_from_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
