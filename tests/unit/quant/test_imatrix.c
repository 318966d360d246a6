/* Importance matrices: both forms of file, what is collected, and files that lie. */
#include "unit/quant/quant_test.h"

static void put_i32(sala_buf *b, int32_t v)
{
    sala_buf_add(b, &v, 4);
}

static void put_f32(sala_buf *b, float v)
{
    sala_buf_add(b, &v, 4);
}

static void put_entry(sala_buf *b, const char *name, int32_t calls, int32_t values)
{
    put_i32(b, (int32_t)strlen(name));
    sala_buf_add_str(b, name);
    put_i32(b, calls);
    put_i32(b, values);
}

static sala_buf old_file(void)
{
    sala_buf b = {0};
    put_i32(&b, 2);
    put_entry(&b, "blk.0.attn_q.weight", 4, 3);
    for (int i = 0; i < 3; i++)
        put_f32(&b, 4.0f * (float)i);
    put_entry(&b, "blk.0.attn_k.weight", 0, 1);
    put_f32(&b, 7);
    put_i32(&b, 4);
    put_i32(&b, 4);
    sala_buf_add_str(&b, "text");
    return b;
}

static void old_form(void **state)
{
    (void)state;
    sala_buf b = old_file();
    sala_imatrix *m;
    sala_error err = {0};
    assert_int_equal(sala_imatrix_parse(&m, b.data, b.len, &err), SALA_OK);
    assert_int_equal(sala_imatrix_count(m), 2);
    int64_t n;
    const float *v = sala_imatrix_find(m, "blk.0.attn_q.weight", &n);
    assert_non_null(v);
    assert_int_equal(n, 3);
    assert_true(v[0] == 0 && v[1] == 1 && v[2] == 2);
    v = sala_imatrix_find(m, "blk.0.attn_k.weight", &n);
    assert_true(v && n == 1 && v[0] == 7);
    assert_null(sala_imatrix_find(m, "blk.1.attn_k.weight", &n));
    sala_imatrix_close(m);
    sala_buf_free(&b);
}

static void collect_and_read_back(void **state)
{
    (void)state;
    char path[300];
    const float x[] = {1, 2, 3, 99, -1, 0, 3, 99, 2, 2, 0, 99};
    sala_imatrix *m;
    sala_error err = {0};
    test_path(path, sizeof path, "imatrix.gguf");
    assert_int_equal(sala_imatrix_new(&m, &err), SALA_OK);
    assert_int_equal(sala_imatrix_add(m, "blk.1.ffn_up.weight", x, 2, 3, 4, &err), SALA_OK);
    assert_int_equal(sala_imatrix_add(m, "blk.0.ffn_up.weight", x, 1, 2, 4, &err), SALA_OK);
    assert_int_equal(sala_imatrix_add(m, "blk.1.ffn_up.weight", x + 8, 1, 3, 4, &err), SALA_OK);
    assert_int_equal(sala_imatrix_add(m, "blk.1.ffn_up.weight", x, 1, 2, 4, &err), SALA_E_INVALID);
    assert_int_equal(sala_imatrix_save(m, path, "a text", 512, 7, &err), SALA_OK);
    for (int round = 0; round < 2; round++) {
        int64_t n;
        const float *v = sala_imatrix_find(m, "blk.1.ffn_up.weight", &n);
        assert_true(v && n == 3);
        assert_float_equal(v[0], 6.0f / 3, 1e-6f);
        assert_float_equal(v[1], 8.0f / 3, 1e-6f);
        assert_float_equal(v[2], 18.0f / 3, 1e-6f);
        v = sala_imatrix_find(m, "blk.0.ffn_up.weight", &n);
        assert_true(v && n == 2 && v[0] == 1 && v[1] == 4);
        sala_imatrix_close(m);
        if (round == 0)
            assert_int_equal(sala_imatrix_open(&m, path, &err), SALA_OK);
    }
    sala_gguf *g;
    int64_t chunks;
    assert_int_equal(sala_gguf_open(&g, path, &err), SALA_OK);
    assert_true(sala_gguf_get_i64(g, "imatrix.chunk_count", &chunks) && chunks == 7);
    assert_non_null(sala_gguf_tensor(g, "blk.1.ffn_up.weight.in_sum2"));
    assert_non_null(sala_gguf_tensor(g, "blk.1.ffn_up.weight.counts"));
    sala_gguf_close(g);
    remove(path);
}

static void refuse(const sala_buf *b, size_t len)
{
    sala_imatrix *m = NULL;
    sala_error err = {0};
    assert_int_not_equal(sala_imatrix_parse(&m, b->data, len, &err), SALA_OK);
    assert_null(m);
    assert_true(strlen(err.message) > 10);
}

static void cut_anywhere(void **state)
{
    (void)state;
    sala_buf b = old_file();
    /* What follows the entries is not needed. */
    for (size_t len = 0; len < b.len - 12; len++)
        refuse(&b, len);
    sala_buf_free(&b);
}

static void files_that_lie(void **state)
{
    static const struct {
        int32_t entries, len, values;
    } lies[] = {{0, 4, 1},       {-1, 4, 1},         {1 << 30, 4, 1}, {1, -5, 1}, {1, 0, 1},
                {1, 1 << 30, 1}, {1, 4, 0x7fffffff}, {1, 4, -1},      {1, 4, 0}};
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(lies); i++) {
        sala_buf b = {0};
        put_i32(&b, lies[i].entries);
        put_i32(&b, lies[i].len);
        sala_buf_add_str(&b, "name");
        put_i32(&b, 1);
        put_i32(&b, lies[i].values);
        put_f32(&b, 1);
        refuse(&b, b.len);
        sala_buf_free(&b);
    }
    static const float bad[] = {NAN, INFINITY, -1};
    for (size_t i = 0; i < SALA_ARRAY_LEN(bad); i++) {
        sala_buf b = {0};
        put_i32(&b, 1);
        put_entry(&b, "name", 1, 1);
        put_f32(&b, bad[i]);
        refuse(&b, b.len);
        sala_buf_free(&b);
    }
    sala_buf twice = {0};
    put_i32(&twice, 2);
    for (int i = 0; i < 2; i++) {
        put_entry(&twice, "name", 1, 1);
        put_f32(&twice, 1);
    }
    refuse(&twice, twice.len);
    sala_buf_free(&twice);
    sala_buf control = {0};
    put_i32(&control, 1);
    put_entry(&control, "na\nme", 1, 1);
    put_f32(&control, 1);
    refuse(&control, control.len);
    sala_buf_free(&control);
}

static void gguf_that_is_no_imatrix(void **state)
{
    (void)state;
    char path[300];
    sala_gguf_writer *w;
    sala_error err = {0};
    sala_imatrix *m = NULL;
    const float one[2] = {1, 1};
    const int64_t ne[1] = {2};
    for (int with_sums = 0; with_sums < 2; with_sums++) {
        test_path(path, sizeof path, "no-imatrix.gguf");
        assert_int_equal(sala_gguf_writer_open(&w, path, &err), SALA_OK);
        sala_gguf_write_tensor(w, with_sums ? "x.weight.in_sum2" : "x.weight", SALA_F32, 1, ne);
        assert_int_equal(sala_gguf_writer_begin_data(w, &err), SALA_OK);
        assert_int_equal(sala_gguf_write_data(w, 0, 0, one, sizeof one, &err), SALA_OK);
        assert_int_equal(sala_gguf_writer_commit(w, &err), SALA_OK);
        assert_int_equal(sala_imatrix_open(&m, path, &err), SALA_E_CORRUPT);
        assert_non_null(strstr(err.message, with_sums ? "counts" : "no importance data"));
        remove(path);
    }
    assert_int_equal(sala_imatrix_open(&m, "/nonexistent/imatrix", &err), SALA_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_form),       cmocka_unit_test(collect_and_read_back),   cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(files_that_lie), cmocka_unit_test(gguf_that_is_no_imatrix),
    };
    (void)block_types;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
