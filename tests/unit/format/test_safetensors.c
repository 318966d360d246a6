/* Reading safetensors, alone and in shards, and files that lie. Images are made by hand. */
#include "unit/format/support.h"

#include "format/safetensors.h"

static sala_status parse(const sala_buf *b, sala_safetensors **out, void **copy, sala_error *err)
{
    *copy = exact_copy(b->data, b->len);
    return sala_safetensors_parse(out, *copy, b->len, err);
}

static void test_read(void **state)
{
    (void)state;
    sala_buf b = {0};
    const char *json = "{\"__metadata__\":{\"format\":\"pt\"},"
                       "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                       "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                       "\"\\u00e9\":{\"dtype\":\"I64\",\"shape\":[1,1,1,2],\"data_offsets\":[16,32]}}      ";
    b_safetensors(&b, json, 0);
    for (int i = 0; i < 32; i++)
        b_u8(&b, (uint8_t)i);
    sala_safetensors *st;
    void *copy;
    sala_error err;
    if (parse(&b, &st, &copy, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(sala_safetensors_tensors(st).count, 3);
    assert_int_equal(sala_safetensors_file_bytes(st), b.len);
    const sala_tensor *w = sala_safetensors_tensor(st, "w");
    assert_int_equal(w->dtype, SALA_BF16);
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->ne[0], 3);
    assert_int_equal(w->ne[1], 2);
    assert_int_equal(w->ne[3], 1);
    assert_int_equal(w->bytes, 12);
    assert_int_equal(*(const uint8_t *)w->data, 4);
    assert_int_equal(sala_safetensors_tensor(st, "scalar")->n_dims, 0);
    assert_int_equal(sala_safetensors_tensor(st, "\xc3\xa9")->ne[0], 2);
    assert_null(sala_safetensors_tensor(st, "__metadata__"));
    sala_safetensors_close(st);
    free(copy);
    sala_buf_free(&b);
}

/* ---- files that lie ---- */

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *json;
    size_t data_bytes;
    sala_status code;
    const char *fragment;
} cases[] = {
    {"[1,2,3]", 0, SALA_E_CORRUPT, "does not begin with '{'"},
    {"{\"a\":", 0, SALA_E_CORRUPT, "not valid JSON"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "} x", 4, SALA_E_CORRUPT, "not valid JSON"},
    {"{\"a\":7}", 0, SALA_E_CORRUPT, "\"a\" has no \"dtype\""},
    {"{\"a\":{\"dtype\":5}}", 0, SALA_E_CORRUPT, "\"a\" has no \"dtype\""},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SALA_E_CORRUPT, "\"shape\" is not an array"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, SALA_E_CORRUPT, "not [begin, end]"},
    {"{\"a\":" T("F8_E4M3", "[4]", "[0,4]") "}", 4, SALA_E_UNSUPPORTED, "\"a\" has type \"F8_E4M3\""},
    {"{\"a\":" T("U8", "[4]", "[0,4]") "}", 4, SALA_E_UNSUPPORTED, "type \"U8\""},
    {"{\"a\":" T("\\u001b", "[4]", "[0,4]") "}", 4, SALA_E_UNSUPPORTED, "type \"?\""},
    {"{\"a\":" T("F32", "[0]", "[0,0]") "}", 0, SALA_E_CORRUPT, "dimension is zero"},
    {"{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, SALA_E_CORRUPT, "no positive integer"},
    {"{\"a\":" T("F32", "[1.5]", "[0,4]") "}", 4, SALA_E_CORRUPT, "no positive integer"},
    {"{\"a\":" T("F32", "[1,1,1,1,1]", "[0,4]") "}", 4, SALA_E_UNSUPPORTED, "5 dimensions"},
    {"{\"a\":" T("F32", "[4294967296,4294967296]", "[0,4]") "}", 4, SALA_E_CORRUPT, "2^63 elements"},
    {"{\"a\":" T("F32", "[4611686018427387905]", "[0,4]") "}", 4, SALA_E_CORRUPT, "takes 4 bytes"},
    {"{\"a\":" T("F32", "[1]", "[0,8]") "}", 8, SALA_E_CORRUPT, "takes 8 bytes in the file, expected 4"},
    {"{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, SALA_E_CORRUPT, "not [begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[-4,0]") "}", 4, SALA_E_CORRUPT, "not [begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[0]") "}", 4, SALA_E_CORRUPT, "not [begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, SALA_E_CORRUPT, "not [begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[9223372036854775800,9223372036854775804]") "}", 4, SALA_E_TRUNCATED, "has only 4"},
    {"{\"a\":" T("F32", "[1]", "[0,99999999999999999999]") "}", 4, SALA_E_CORRUPT, "not valid JSON"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") "}", 4, SALA_E_TRUNCATED, "ends at byte 8 of the data"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[4,12]") "}", 12, SALA_E_CORRUPT, "overlap"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[2]", "[0,8]") "}", 8, SALA_E_CORRUPT, "overlap"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12, SALA_E_CORRUPT,
     "4 bytes of data before tensor \"b\""},
    {"{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, SALA_E_CORRUPT, "4 bytes of data before tensor \"a\""},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 7, SALA_E_CORRUPT, "3 bytes at the end"},
    {"{}", 3, SALA_E_CORRUPT, "3 bytes at the end"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8, SALA_E_CORRUPT, "duplicate"},
    {"{\"\":" T("F32", "[1]", "[0,4]") "}", 4, SALA_E_CORRUPT, "name is empty"},
    {"{\"a\\n\":" T("F32", "[1]", "[0,4]") "}", 4, SALA_E_CORRUPT, "not plain text"},
    {"{\"a\\u0000b\":" T("F32", "[1]", "[0,4]") "}", 4, SALA_E_CORRUPT, "not valid JSON"},
    {"{\"\xff\":" T("F32", "[1]", "[0,4]") "}", 4, SALA_E_CORRUPT, "not valid JSON"},
};

static void test_hostile_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_buf b = {0};
        b_safetensors(&b, cases[i].json, cases[i].data_bytes);
        sala_safetensors *st = NULL;
        void *copy;
        sala_error err = {0};
        const sala_status code = parse(&b, &st, &copy, &err);
        if (code != cases[i].code || st)
            fail_msg("%s: status %d, expected %d (%s)", cases[i].json, (int)code, (int)cases[i].code, err.message);
        assert_message(&err, cases[i].fragment);
        free(copy);
        sala_buf_free(&b);
    }
}

static void expect_bytes(const void *data, size_t bytes, sala_status code, const char *fragment)
{
    sala_error err = {0};
    sala_safetensors *st = NULL;
    void *copy = exact_copy(data, bytes);
    assert_int_equal(sala_safetensors_parse(&st, copy, bytes, &err), code);
    assert_message(&err, fragment);
    free(copy);
}

static void test_hostile_lengths(void **state)
{
    (void)state;
    expect_bytes("", 0, SALA_E_TRUNCATED, "0 bytes, too few");
    expect_bytes("\x02\0\0\0\0\0\0", 7, SALA_E_TRUNCATED, "7 bytes, too few");
    expect_bytes("\x02\0\0\0\0\0\0\0", 8, SALA_E_TRUNCATED, "claims 2 bytes, but 0 follow");
    expect_bytes("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, SALA_E_CORRUPT, "expected at most 100000000");
    expect_bytes("\x01\xe1\xf5\x05\0\0\0\0{}", 10, SALA_E_CORRUPT, "100000001 bytes");
    expect_bytes("\0\0\0\0\0\0\0\0", 8, SALA_E_CORRUPT, "does not begin with '{'");
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    expect_bytes(lfs, sizeof lfs - 1, SALA_E_UNSUPPORTED, "Git LFS pointer");
}

/* Deep nesting ends in an error, not on the stack. */
static void test_deep_json(void **state)
{
    (void)state;
    sala_buf json = {0}, b = {0};
    sala_buf_add_str(&json, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        sala_buf_add_char(&json, '[');
    b_safetensors(&b, json.data, 0);
    expect_bytes(b.data, b.len, SALA_E_CORRUPT, "not valid JSON");
    sala_buf_free(&json);
    sala_buf_free(&b);
}

static void test_every_truncation(void **state)
{
    (void)state;
    sala_buf b = {0};
    b_safetensors(&b, "{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("I8", "[3]", "[8,11]") "}", 11);
    for (size_t n = 0; n < b.len; n++) {
        void *copy = exact_copy(b.data, n);
        sala_safetensors *st;
        assert_int_not_equal(sala_safetensors_parse(&st, copy, n, NULL), SALA_OK);
        free(copy);
    }
    sala_buf_free(&b);
}

/* ---- sets of shards ---- */

static void write_shard(const char *file, const char *tensor, float value)
{
    char json[200];
    snprintf(json, sizeof json, "{\"%s\":" T("F32", "[1]", "[0,4]") "}", tensor);
    sala_buf b = {0};
    b_safetensors(&b, json, 0);
    b_f32(&b, value);
    test_write_file(temp_path(file), b.data, b.len);
    sala_buf_free(&b);
}

static void write_index(const char *json)
{
    test_write_file(temp_path("model.safetensors.index.json"), json, strlen(json));
}

static void expect_open(const char *path, sala_status code, const char *fragment)
{
    sala_error err = {0};
    sala_safetensors *st = NULL;
    const sala_status got = sala_safetensors_open(&st, path, &err);
    if (got != code || st)
        fail_msg("%s: status %d, expected %d (%s)", path, (int)got, (int)code, err.message);
    assert_message(&err, fragment);
}

static void test_shards(void **state)
{
    (void)state;
    write_shard("model-00001-of-00002.safetensors", "a", 1);
    write_shard("model-00002-of-00002.safetensors", "b", 2);
    write_index("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
                "\"b\":\"model-00002-of-00002.safetensors\"}}");
    const char *const paths[] = {temp_dir, temp_path("model.safetensors.index.json")};
    for (size_t i = 0; i < SALA_ARRAY_LEN(paths); i++) {
        sala_error err;
        sala_safetensors *st;
        if (sala_safetensors_open(&st, paths[i], &err) != SALA_OK)
            fail_msg("%s", err.message);
        assert_int_equal(sala_safetensors_tensors(st).count, 2);
        float x;
        memcpy(&x, sala_safetensors_tensor(st, "b")->data, 4);
        assert_true(x == 2);
        sala_safetensors_close(st);
    }
    /* A single file beside an index wins, as it does in transformers. */
    write_shard("model.safetensors", "c", 3);
    sala_safetensors *st;
    assert_int_equal(sala_safetensors_open(&st, temp_dir, NULL), SALA_OK);
    assert_non_null(sala_safetensors_tensor(st, "c"));
    sala_safetensors_close(st);
}

static void test_shard_failures(void **state)
{
    (void)state;
    expect_open(temp_dir, SALA_E_NOT_FOUND, "neither model.safetensors nor");
    test_write_file(temp_path("pytorch_model.bin"), "x", 1);
    expect_open(temp_dir, SALA_E_NOT_FOUND, "pytorch_model.bin can not be read");
    expect_open(temp_path("none.safetensors"), SALA_E_NOT_FOUND, "none.safetensors");
    expect_open(temp_path("none.json"), SALA_E_NOT_FOUND, "none.json");
    write_shard("one.safetensors", "a", 1);
    write_index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
    expect_open(temp_dir, SALA_E_CORRUPT, "shard two.safetensors is missing");
    write_shard("two.safetensors", "c", 1);
    expect_open(temp_dir, SALA_E_CORRUPT, "tensor \"b\" is not in shard two.safetensors");
    write_shard("two.safetensors", "a", 1);
    expect_open(temp_dir, SALA_E_CORRUPT, "\"a\" appears twice");
    static const char *const leading_out[] = {"../one.safetensors",    "/etc/passwd", "..", "a/b.safetensors", "",
                                              "..\\\\one.safetensors", "a\\u0007"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(leading_out); i++) {
        char json[200];
        snprintf(json, sizeof json, "{\"weight_map\":{\"a\":\"%s\"}}", leading_out[i]);
        write_index(json);
        expect_open(temp_dir, SALA_E_CORRUPT, "leads out of the folder");
    }
    write_index("{\"weight_map\":{\"a\":1}}");
    expect_open(temp_dir, SALA_E_CORRUPT, "is not a string");
    write_index("{\"weight_map\":{}}");
    expect_open(temp_dir, SALA_E_CORRUPT, "has no \"weight_map\"");
    write_index("[]");
    expect_open(temp_dir, SALA_E_CORRUPT, "has no \"weight_map\"");
    write_index("{");
    expect_open(temp_dir, SALA_E_CORRUPT, "not valid JSON");
    test_write_file(temp_path("two.safetensors"), "garbage", 7);
    write_index("{\"weight_map\":{\"b\":\"two.safetensors\"}}");
    expect_open(temp_dir, SALA_E_TRUNCATED, "two.safetensors: the file has 7 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_hostile_lengths),
        cmocka_unit_test(test_deep_json),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test_setup_teardown(test_shards, make_temp_dir, remove_temp_dir),
        cmocka_unit_test_setup_teardown(test_shard_failures, make_temp_dir, remove_temp_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
