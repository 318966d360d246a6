/* Reading well-formed GGUF: every value type, tensors, splits. Images are made by hand. */
#include "unit/format/support.h"

#include "format/gguf.h"

#include <math.h>

static void add_values(sala_buf *b)
{
    b_key(b, "a.u8", 0);
    b_u8(b, 200);
    b_key(b, "a.i8", 1);
    b_u8(b, (uint8_t)-3);
    b_key(b, "a.u16", 2);
    b_u16(b, 65535);
    b_key(b, "a.i16", 3);
    b_u16(b, (uint16_t)-300);
    b_key(b, "a.u32", 4);
    b_u32(b, 4000000000u);
    b_key(b, "a.i32", 5);
    b_u32(b, (uint32_t)-5);
    b_key(b, "a.f32", 6);
    b_f32(b, 1.5f);
    b_key(b, "a.bool", 7);
    b_u8(b, 1);
    b_kv_str(b, "a.str", "h\xc3\xa9llo");
    b_key(b, "a.u64", 10);
    b_u64(b, UINT64_MAX);
    b_key(b, "a.i64", 11);
    b_u64(b, (uint64_t)INT64_MIN);
    b_key(b, "a.f64", 12);
    b_f64(b, 0.1);
    b_key(b, "a.strings", 9);
    b_u32(b, 8);
    b_u64(b, 3);
    b_str(b, "one");
    b_str(b, "");
    b_text(b, "t\0w", 3);
    b_key(b, "a.ints", 9);
    b_u32(b, 3);
    b_u64(b, 2);
    b_u16(b, 7);
    b_u16(b, (uint16_t)-7);
    b_key(b, "a.nested", 9);
    b_u32(b, 9);
    b_u64(b, 2);
    b_u32(b, 0);
    b_u64(b, 3);
    b_u8(b, 1);
    b_u8(b, 2);
    b_u8(b, 3);
    b_u32(b, 8);
    b_u64(b, 1);
    b_str(b, "x");
}
enum { N_VALUES = 15 };

static sala_gguf *parse(const sala_buf *b, void **copy)
{
    sala_error err;
    sala_gguf *g;
    *copy = exact_copy(b->data, b->len);
    if (sala_gguf_parse(&g, *copy, b->len, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return g;
}

static void test_values(void **state)
{
    (void)state;
    sala_buf b = {0};
    b_header(&b, 3, 0, N_VALUES);
    add_values(&b);
    void *copy;
    sala_gguf *g = parse(&b, &copy);
    assert_int_equal(sala_gguf_n_kv(g), N_VALUES);
    assert_string_equal(sala_gguf_kv_at(g, 2)->key, "a.u16");
    assert_null(sala_gguf_kv_at(g, N_VALUES));

    static const struct {
        const char *key;
        int64_t value;
        bool is_int;
    } ints[] = {{"a.u8", 200, true}, {"a.i8", -3, true},  {"a.u16", 65535, true},      {"a.i16", -300, true},
                {"a.i32", -5, true}, {"a.f32", 0, false}, {"a.u32", 4000000000, true}, {"a.bool", 0, false},
                {"a.str", 0, false}, {"a.u64", 0, false}, {"a.i64", INT64_MIN, true},  {"a.none", 0, false}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++) {
        int64_t v = 77;
        assert_int_equal(sala_gguf_get_i64(g, ints[i].key, &v), ints[i].is_int);
        assert_true(v == (ints[i].is_int ? ints[i].value : 77));
    }
    double d = 0;
    assert_true(sala_gguf_get_f64(g, "a.f32", &d) && d == 1.5);
    assert_true(sala_gguf_get_f64(g, "a.f64", &d) && d == 0.1);
    assert_true(sala_gguf_get_f64(g, "a.i8", &d) && d == -3);
    assert_false(sala_gguf_get_f64(g, "a.str", &d));
    bool flag = false;
    assert_true(sala_gguf_get_bool(g, "a.bool", &flag) && flag);
    assert_false(sala_gguf_get_bool(g, "a.u8", &flag));
    const char *s;
    size_t n;
    assert_true(sala_gguf_get_str(g, "a.str", &s, &n) && n == 6 && memcmp(s, "h\xc3\xa9llo", 6) == 0);
    assert_false(sala_gguf_get_str(g, "a.u8", &s, &n));

    const sala_gguf_kv *kv = sala_gguf_find(g, "a.strings");
    assert_non_null(kv);
    assert_int_equal(kv->count, 3);
    sala_reader r = sala_gguf_array_reader(kv);
    assert_true(sala_gguf_next_str(&r, &s, &n) && n == 3 && memcmp(s, "one", 3) == 0);
    assert_true(sala_gguf_next_str(&r, &s, &n) && n == 0 && s);
    assert_true(sala_gguf_next_str(&r, &s, &n) && n == 3 && memcmp(s, "t\0w", 3) == 0);
    assert_false(sala_gguf_next_str(&r, &s, &n));

    int64_t v = 0;
    kv = sala_gguf_find(g, "a.ints");
    assert_true(sala_gguf_array_i64(kv, 0, &v) && v == 7);
    assert_true(sala_gguf_array_i64(kv, 1, &v) && v == -7);
    assert_true(sala_gguf_array_f64(kv, 1, &d) && d == -7);
    assert_false(sala_gguf_array_i64(kv, 2, &v));
    assert_false(sala_gguf_array_i64(sala_gguf_find(g, "a.strings"), 0, &v));
    assert_false(sala_gguf_array_i64(sala_gguf_find(g, "a.u8"), 0, &v));
    kv = sala_gguf_find(g, "a.nested");
    assert_int_equal(kv->elem_type, SALA_GGUF_ARRAY);
    assert_int_equal(kv->count, 2);
    sala_gguf_close(g);
    free(copy);
    sala_buf_free(&b);
}

static void add_tensors(sala_buf *b)
{
    static const uint64_t matrix[] = {32, 3}, vector[] = {5};
    b_tensor(b, "w", 2, matrix, 2, 64); /* Q4_0: 54 bytes, behind the others */
    b_tensor(b, "v", 1, vector, 0, 0);
    b_tensor(b, "s", 0, NULL, 0, 32);
    b_pad(b, 32);
    for (int i = 0; i < 118; i++)
        b_u8(b, (uint8_t)i);
}

static void test_tensors(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        sala_buf b = {0};
        b_header(&b, version, 3, 1);
        b_kv_str(&b, "general.architecture", "llama");
        add_tensors(&b);
        void *copy;
        sala_gguf *g = parse(&b, &copy);
        const sala_tensor_list list = sala_gguf_tensors(g);
        assert_int_equal(list.count, 3);
        const sala_tensor *w = sala_gguf_tensor(g, "w");
        assert_ptr_equal(w, &list.items[0]);
        assert_int_equal(w->dtype, SALA_Q4_0);
        assert_int_equal(w->n_dims, 2);
        assert_int_equal(w->ne[0], 32);
        assert_int_equal(w->ne[1], 3);
        assert_int_equal(w->ne[2], 1);
        assert_int_equal(w->bytes, 54);
        assert_int_equal(*(const uint8_t *)w->data, 64);
        assert_int_equal(*(const uint8_t *)sala_gguf_tensor(g, "v")->data, 0);
        assert_int_equal(sala_gguf_tensor(g, "s")->bytes, 4);
        assert_null(sala_gguf_tensor(g, "x"));
        assert_int_equal(sala_gguf_file_bytes(g), b.len);
        sala_gguf_close(g);
        free(copy);
        sala_buf_free(&b);
    }
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint64_t one[] = {1};
    sala_buf b = {0};
    b_header(&b, 3, 2, 1);
    b_kv_u32(&b, "general.alignment", 128);
    b_tensor(&b, "a", 1, one, 0, 0);
    b_tensor(&b, "b", 1, one, 0, 128);
    b_pad(&b, 128);
    b_f32(&b, 1);
    b_pad(&b, 128);
    b_f32(&b, 2);
    void *copy;
    sala_gguf *g = parse(&b, &copy);
    float x;
    memcpy(&x, sala_gguf_tensor(g, "b")->data, 4);
    assert_true(x == 2);
    sala_gguf_close(g);
    free(copy);
    sala_buf_free(&b);
}

/* ---- splits ---- */

/* Part `no` of `count` holds the tensor t<no>. */
static void write_part(const char *path, uint16_t no, uint16_t count, uint32_t n_tensors)
{
    static const uint64_t two[] = {2};
    char name[16];
    snprintf(name, sizeof name, "t%d", no);
    sala_buf b = {0};
    b_header(&b, 3, 1, no == 0 ? 4 : 3);
    if (no == 0)
        b_kv_str(&b, "general.architecture", "llama");
    b_key(&b, "split.no", 2);
    b_u16(&b, no);
    b_key(&b, "split.count", 2);
    b_u16(&b, count);
    b_key(&b, "split.tensors.count", 5);
    b_u32(&b, n_tensors);
    b_tensor(&b, name, 1, two, 0, 0);
    b_pad(&b, 32);
    b_f32(&b, no);
    b_f32(&b, 0);
    test_write_file(path, b.data, b.len);
    sala_buf_free(&b);
}

static void test_split(void **state)
{
    (void)state;
    for (uint16_t i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "m-%05d-of-00003.gguf", i + 1);
        write_part(temp_path(name), i, 3, 3);
    }
    static const char *const any[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
    for (size_t k = 0; k < SALA_ARRAY_LEN(any); k++) {
        sala_error err;
        sala_gguf *g;
        if (sala_gguf_open(&g, temp_path(any[k]), &err) != SALA_OK)
            fail_msg("%s", err.message);
        assert_int_equal(sala_gguf_tensors(g).count, 3);
        assert_non_null(sala_gguf_find(g, "general.architecture"));
        for (int i = 0; i < 3; i++) {
            char name[16];
            snprintf(name, sizeof name, "t%d", i);
            float x;
            memcpy(&x, sala_gguf_tensor(g, name)->data, 4);
            assert_true(x == (float)i);
        }
        sala_gguf_close(g);
    }
}

static void expect_failure(const char *path, sala_status code, const char *fragment)
{
    sala_error err;
    sala_gguf *g = NULL;
    assert_int_equal(sala_gguf_open(&g, path, &err), code);
    assert_null(g);
    assert_int_equal(err.code, code);
    assert_message(&err, fragment);
}

static void test_split_failures(void **state)
{
    (void)state;
    write_part(temp_path("a-00001-of-00002.gguf"), 0, 2, 2);
    expect_failure(temp_path("a-00001-of-00002.gguf"), SALA_E_NOT_FOUND, "a-00002-of-00002.gguf");
    sala_gguf *g; /* the metadata needs no more than this part */
    assert_int_equal(sala_gguf_open_metadata(&g, temp_path("a-00001-of-00002.gguf"), NULL), SALA_OK);
    assert_non_null(sala_gguf_find(g, "general.architecture"));
    assert_int_equal(sala_gguf_tensors(g).count, 1);
    sala_gguf_close(g);
    write_part(temp_path("a-00002-of-00002.gguf"), 0, 2, 2);
    expect_failure(temp_path("a-00001-of-00002.gguf"), SALA_E_CORRUPT, "expected part 2 of 2");
    write_part(temp_path("a-00002-of-00002.gguf"), 1, 2, 2);
    write_part(temp_path("a-00001-of-00002.gguf"), 0, 2, 9);
    expect_failure(temp_path("a-00002-of-00002.gguf"), SALA_E_CORRUPT, "hold 2 tensors, expected 9");
    write_part(temp_path("renamed.gguf"), 0, 2, 2);
    expect_failure(temp_path("renamed.gguf"), SALA_E_INVALID, "one of 2 parts");
    write_part(temp_path("b-00001-of-00000.gguf"), 0, 0, 2);
    expect_failure(temp_path("b-00001-of-00000.gguf"), SALA_E_CORRUPT, "split.count is 0");
}

static void test_paths(void **state)
{
    (void)state;
    expect_failure(temp_path("nothing.gguf"), SALA_E_NOT_FOUND, "nothing.gguf");
    expect_failure(temp_dir, SALA_E_INVALID, "is a directory");
    test_write_file(temp_path("empty.gguf"), "", 0);
    expect_failure(temp_path("empty.gguf"), SALA_E_TRUNCATED, "0 bytes, too few");
    expect_failure("/dev/null", SALA_E_INVALID, "/dev/null");
}

/* Every prefix of a good file is refused or, when only padding is missing, read; never a crash. */
static void test_every_truncation(void **state)
{
    (void)state;
    sala_buf b = {0};
    b_header(&b, 3, 3, N_VALUES);
    add_values(&b);
    add_tensors(&b);
    for (size_t n = 0; n < b.len; n++) {
        void *copy = exact_copy(b.data, n);
        sala_error err;
        sala_gguf *g = NULL;
        const sala_status st = sala_gguf_parse(&g, copy, n, &err);
        if (st == SALA_OK)
            fail_msg("a file cut to %zu of %zu bytes was read", n, b.len);
        assert_true(st == SALA_E_TRUNCATED || st == SALA_E_CORRUPT);
        assert_true(strlen(err.message) > 10);
        free(copy);
    }
    sala_buf_free(&b);
}

/* Any single flipped bit gives a file that is read or refused. Whatever is read can be walked. */
static void test_every_bit_flip(void **state)
{
    (void)state;
    sala_buf b = {0};
    b_header(&b, 3, 3, N_VALUES);
    add_values(&b);
    add_tensors(&b);
    int refused = 0;
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        uint8_t *copy = exact_copy(b.data, b.len);
        copy[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        sala_gguf *g;
        if (sala_gguf_parse(&g, copy, b.len, NULL) == SALA_OK) {
            for (size_t i = 0; i < sala_gguf_n_kv(g); i++) {
                const sala_gguf_kv *kv = sala_gguf_kv_at(g, i);
                double d;
                (void)sala_gguf_get_f64(g, kv->key, &d);
                for (uint64_t k = 0; k < kv->count && k < 100; k++)
                    (void)sala_gguf_array_f64(kv, k, &d);
            }
            const sala_tensor_list list = sala_gguf_tensors(g);
            volatile uint8_t sum = 0;
            for (size_t i = 0; i < list.count; i++)
                sum = (uint8_t)(sum + ((const uint8_t *)list.items[i].data)[list.items[i].bytes - 1]);
            sala_gguf_close(g);
        } else {
            refused++;
        }
        free(copy);
    }
    assert_true(refused > 100);
    sala_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test_setup_teardown(test_split, make_temp_dir, remove_temp_dir),
        cmocka_unit_test_setup_teardown(test_split_failures, make_temp_dir, remove_temp_dir),
        cmocka_unit_test_setup_teardown(test_paths, make_temp_dir, remove_temp_dir),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_bit_flip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
