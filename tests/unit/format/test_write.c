/* What is written reads back the same, whatever the order of the data; failures leave nothing behind. */
#include "unit/format/support.h"

#include "format/gguf.h"
#include "format/safetensors.h"

#include <signal.h>
#include <sys/resource.h>

static const int64_t shape_a[] = {32, 3}, shape_b[] = {5}, shape_c[] = {7};

static void write_all_values(sala_gguf_writer *w)
{
    static const int32_t ints[] = {-1, 0, 7};
    static const sala_gguf_str strings[] = {{"one", 3}, {"", 0}, {"t\0w", 3}};
    sala_gguf_write_str(w, "general.architecture", "llama", 5);
    sala_gguf_write_u32(w, "k.u32", 4000000000u);
    sala_gguf_write_i32(w, "k.i32", -7);
    sala_gguf_write_u64(w, "k.u64", UINT64_MAX);
    sala_gguf_write_f32(w, "k.f32", 0.1f);
    sala_gguf_write_bool(w, "k.bool", true);
    sala_gguf_write_array(w, "k.ints", SALA_GGUF_I32, ints, 3);
    sala_gguf_write_array(w, "k.strings", SALA_GGUF_STRING, strings, 3);
    sala_gguf_write_array(w, "k.none", SALA_GGUF_F32, NULL, 0);
}
enum { N_VALUES = 9 };

static void declare_gguf(sala_gguf_writer *w)
{
    sala_gguf_write_tensor(w, "a", SALA_Q4_0, 2, shape_a);
    sala_gguf_write_tensor(w, "b", SALA_F32, 1, shape_b);
    sala_gguf_write_tensor(w, "c", SALA_I8, 1, shape_c);
}

static void fill(uint8_t *data, size_t n, uint8_t first)
{
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(first + i);
}

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != SALA_OK)                                                                                         \
            fail_msg("%s: %s", #call, err.message);                                                                    \
    } while (0)

static void same_kv(const sala_gguf_kv *x, const sala_gguf_kv *y)
{
    assert_string_equal(x->key, y->key);
    assert_int_equal(x->type, y->type);
    assert_int_equal(x->elem_type, y->elem_type);
    assert_int_equal(x->count, y->count);
    assert_int_equal(x->raw_bytes, y->raw_bytes);
    assert_memory_equal(x->raw, y->raw, x->raw_bytes);
}

static void test_gguf_round_trip(void **state)
{
    (void)state;
    sala_error err;
    sala_gguf_writer *w;
    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    write_all_values(w);
    declare_gguf(w);
    OK(sala_gguf_writer_begin_data(w, &err));
    uint8_t a[54], b[20], c[7];
    fill(a, sizeof a, 1);
    fill(b, sizeof b, 100);
    fill(c, sizeof c, 200);
    /* Pieces in disorder, one of them twice. */
    OK(sala_gguf_write_data(w, 2, 0, c, 7, &err));
    OK(sala_gguf_write_data(w, 0, 30, a + 30, 24, &err));
    OK(sala_gguf_write_data(w, 1, 0, b, 20, &err));
    OK(sala_gguf_write_data(w, 0, 0, a, 10, &err));
    OK(sala_gguf_write_data(w, 0, 5, a + 5, 25, &err));
    assert_false(sala_os_is_file(temp_path("x.gguf")));
    OK(sala_gguf_writer_commit(w, &err));
    assert_int_equal(files_in_temp_dir(), 1);

    sala_gguf *g;
    OK(sala_gguf_open(&g, temp_path("x.gguf"), &err));
    assert_int_equal(sala_gguf_n_kv(g), N_VALUES);
    assert_int_equal(sala_gguf_file_bytes(g) % 32, 0); /* the last tensor is padded too, as other readers expect */
    int64_t i = 0;
    assert_true(sala_gguf_get_i64(g, "k.i32", &i) && i == -7);
    double f = 0;
    assert_true(sala_gguf_get_f64(g, "k.f32", &f) && f == (double)0.1f);
    assert_int_equal(sala_gguf_find(g, "k.strings")->count, 3);
    assert_memory_equal(sala_gguf_tensor(g, "a")->data, a, sizeof a);
    assert_memory_equal(sala_gguf_tensor(g, "b")->data, b, sizeof b);
    assert_memory_equal(sala_gguf_tensor(g, "c")->data, c, sizeof c);
    assert_int_equal(sala_gguf_tensor(g, "a")->ne[1], 3);

    /* Copying every pair gives the same metadata. */
    OK(sala_gguf_writer_open(&w, temp_path("y.gguf"), &err));
    for (size_t k = 0; k < sala_gguf_n_kv(g); k++)
        sala_gguf_write_kv(w, sala_gguf_kv_at(g, k));
    OK(sala_gguf_writer_begin_data(w, &err));
    OK(sala_gguf_writer_commit(w, &err));
    sala_gguf *h;
    OK(sala_gguf_open(&h, temp_path("y.gguf"), &err));
    assert_int_equal(sala_gguf_n_kv(h), N_VALUES);
    for (size_t k = 0; k < N_VALUES; k++)
        same_kv(sala_gguf_kv_at(g, k), sala_gguf_kv_at(h, k));
    sala_gguf_close(g);
    sala_gguf_close(h);
}

static void test_gguf_alignment(void **state)
{
    (void)state;
    sala_error err;
    sala_gguf_writer *w;
    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    sala_gguf_write_u32(w, "general.alignment", 4096);
    declare_gguf(w);
    OK(sala_gguf_writer_begin_data(w, &err));
    static const uint8_t data[54] = {1};
    OK(sala_gguf_write_data(w, 0, 0, data, 54, &err));
    OK(sala_gguf_write_data(w, 1, 0, data, 20, &err));
    OK(sala_gguf_write_data(w, 2, 0, data, 7, &err));
    OK(sala_gguf_writer_commit(w, &err));
    assert_int_equal(sala_os_file_size(temp_path("x.gguf")), 4 * 4096);
    sala_gguf *g;
    OK(sala_gguf_open(&g, temp_path("x.gguf"), &err));
    assert_int_equal(*(const uint8_t *)sala_gguf_tensor(g, "c")->data, 1);
    sala_gguf_close(g);
}

/* ---- mistakes of the caller ---- */

static void two_tensors(sala_gguf_writer *w)
{
    declare_gguf(w);
    sala_gguf_write_tensor(w, "b", SALA_F32, 1, shape_b);
}
static void two_keys(sala_gguf_writer *w)
{
    sala_gguf_write_u32(w, "k", 1);
    sala_gguf_write_f32(w, "k", 1);
}
static void odd_alignment(sala_gguf_writer *w)
{
    sala_gguf_write_u32(w, "general.alignment", 33);
}
static void bad_row(sala_gguf_writer *w)
{
    sala_gguf_write_tensor(w, "w", SALA_Q4_0, 1, shape_b);
}
static void bad_dims(sala_gguf_writer *w)
{
    sala_gguf_write_tensor(w, "w", SALA_F32, 5, shape_b);
}
static void zero_dim(sala_gguf_writer *w)
{
    static const int64_t ne[] = {0};
    sala_gguf_write_tensor(w, "w", SALA_F32, 1, ne);
}
static void bad_name(sala_gguf_writer *w)
{
    sala_gguf_write_tensor(w, "a\nb", SALA_F32, 1, shape_b);
}
static void long_name(sala_gguf_writer *w)
{
    sala_gguf_write_tensor(w, "n234567890123456789012345678901234567890123456789012345678901234", SALA_F32, 1, shape_b);
}
static void empty_key(sala_gguf_writer *w)
{
    sala_gguf_write_u32(w, "", 1);
}
static void nested(sala_gguf_writer *w)
{
    sala_gguf_write_array(w, "k", SALA_GGUF_ARRAY, NULL, 0);
}

static void test_gguf_mistakes(void **state)
{
    (void)state;
    static const struct {
        void (*make)(sala_gguf_writer *);
        const char *fragment;
    } cases[] = {{two_tensors, "\"b\" is declared twice"},
                 {two_keys, "\"k\" is written twice"},
                 {odd_alignment, "power of two"},
                 {bad_row, "\"w\" has a shape that type Q4_0"},
                 {bad_dims, "\"w\" has a shape"},
                 {zero_dim, "\"w\" has a shape"},
                 {bad_name, "not plain text"},
                 {long_name, "longer than 63"},
                 {empty_key, "key is empty"},
                 {nested, "arrays of type 9"}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_error err;
        sala_gguf_writer *w;
        OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
        cases[i].make(w);
        assert_int_equal(sala_gguf_writer_begin_data(w, &err), SALA_E_INVALID);
        assert_message(&err, cases[i].fragment);
        sala_gguf_writer_abort(w);
        assert_int_equal(files_in_temp_dir(), 0);
    }
}

static void test_incomplete(void **state)
{
    (void)state;
    sala_error err;
    sala_gguf_writer *w;
    static const uint8_t data[54];
    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    declare_gguf(w);
    assert_int_equal(sala_gguf_write_data(w, 0, 0, data, 1, &err), SALA_E_STATE); /* not begun */
    OK(sala_gguf_writer_begin_data(w, &err));
    assert_int_equal(sala_gguf_writer_begin_data(w, &err), SALA_E_STATE);
    assert_int_equal(sala_gguf_write_data(w, 3, 0, data, 1, &err), SALA_E_STATE);
    assert_int_equal(sala_gguf_write_data(w, 0, 54, data, 1, &err), SALA_E_INVALID);
    assert_int_equal(sala_gguf_write_data(w, 0, UINT64_MAX, data, 2, &err), SALA_E_INVALID);
    OK(sala_gguf_write_data(w, 0, 0, data, 20, &err)); /* a hole of one byte */
    OK(sala_gguf_write_data(w, 0, 21, data, 33, &err));
    OK(sala_gguf_write_data(w, 1, 0, data, 20, &err));
    OK(sala_gguf_write_data(w, 2, 0, data, 7, &err));
    assert_int_equal(sala_gguf_writer_commit(w, &err), SALA_E_STATE);
    assert_message(&err, "\"a\" was not written completely");
    assert_int_equal(files_in_temp_dir(), 0);

    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    OK(sala_gguf_writer_begin_data(w, &err));
    sala_gguf_write_u32(w, "late", 1);
    assert_int_equal(sala_gguf_writer_commit(w, &err), SALA_E_STATE);
    assert_message(&err, "\"late\" comes after");
    assert_int_equal(files_in_temp_dir(), 0);

    assert_int_equal(sala_gguf_writer_open(&w, temp_path("no/such/folder.gguf"), &err), SALA_E_NOT_FOUND);
    sala_gguf_writer_abort(NULL);
    sala_safetensors_writer_abort(NULL);
}

/* A limit on the size of files stands in for a full disk: write() fails in the same place. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}

static void test_no_room(void **state)
{
    (void)state;
    static const int64_t big[] = {1 << 20};
    static uint8_t data[1 << 16];
    sala_error err;
    sala_gguf_writer *w;
    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    sala_gguf_write_tensor(w, "w", SALA_F32, 1, big);
    OK(sala_gguf_writer_begin_data(w, &err));
    limit_files(100000);
    sala_status st = SALA_OK;
    for (uint64_t at = 0; at < 4u << 20 && st == SALA_OK; at += sizeof data)
        st = sala_gguf_write_data(w, 0, at, data, sizeof data, &err);
    limit_files(RLIM_INFINITY);
    assert_int_equal(st, SALA_E_IO);
    assert_message(&err, "could not write");
    assert_int_not_equal(sala_gguf_writer_commit(w, &err), SALA_OK);
    assert_int_equal(files_in_temp_dir(), 0);

    /* A failure inside the header comes out of begin_data. */
    OK(sala_gguf_writer_open(&w, temp_path("x.gguf"), &err));
    limit_files(1000);
    sala_gguf_write_array(w, "k", SALA_GGUF_U8, data, sizeof data);
    sala_gguf_write_array(w, "l", SALA_GGUF_U8, data, sizeof data);
    st = sala_gguf_writer_begin_data(w, &err);
    limit_files(RLIM_INFINITY);
    assert_int_equal(st, SALA_E_IO);
    sala_gguf_writer_abort(w);
    assert_int_equal(files_in_temp_dir(), 0);
}

/* ---- safetensors ---- */

static void test_safetensors_round_trip(void **state)
{
    (void)state;
    sala_error err;
    sala_safetensors_writer *w;
    OK(sala_safetensors_writer_open(&w, temp_path("x.safetensors"), &err));
    sala_safetensors_write_tensor(w, "bytes", SALA_I8, 1, shape_c);
    sala_safetensors_write_tensor(w, "quote\"back\\slash", SALA_F32, 1, shape_b);
    sala_safetensors_write_tensor(w, "half", SALA_BF16, 2, shape_a);
    sala_safetensors_write_tensor(w, "scalar", SALA_F64, 0, NULL);
    OK(sala_safetensors_writer_begin_data(w, &err));
    uint8_t bytes[7], floats[20], halves[192], scalar[8];
    fill(bytes, 7, 1);
    fill(floats, 20, 50);
    fill(halves, 192, 3);
    fill(scalar, 8, 9);
    OK(sala_safetensors_write_data(w, 2, 96, halves + 96, 96, &err));
    OK(sala_safetensors_write_data(w, 2, 0, halves, 96, &err));
    OK(sala_safetensors_write_data(w, 0, 0, bytes, 7, &err));
    OK(sala_safetensors_write_data(w, 3, 0, scalar, 8, &err));
    OK(sala_safetensors_write_data(w, 1, 0, floats, 20, &err));
    OK(sala_safetensors_writer_commit(w, &err));

    sala_safetensors *st;
    OK(sala_safetensors_open(&st, temp_path("x.safetensors"), &err));
    assert_int_equal(sala_safetensors_tensors(st).count, 4);
    const sala_tensor *half = sala_safetensors_tensor(st, "half");
    assert_int_equal(half->ne[0], 32);
    assert_int_equal(half->ne[1], 3);
    assert_memory_equal(half->data, halves, 192);
    assert_memory_equal(sala_safetensors_tensor(st, "quote\"back\\slash")->data, floats, 20);
    assert_memory_equal(sala_safetensors_tensor(st, "bytes")->data, bytes, 7);
    const sala_tensor *s = sala_safetensors_tensor(st, "scalar");
    assert_int_equal(s->n_dims, 0);
    assert_memory_equal(s->data, scalar, 8);
    assert_int_equal((uintptr_t)s->data % 8, 0);
    sala_safetensors_close(st);
}

static void test_safetensors_mistakes(void **state)
{
    (void)state;
    sala_error err;
    sala_safetensors_writer *w;
    OK(sala_safetensors_writer_open(&w, temp_path("x.safetensors"), &err));
    sala_safetensors_write_tensor(w, "q", SALA_Q4_0, 2, shape_a);
    assert_int_equal(sala_safetensors_writer_begin_data(w, &err), SALA_E_UNSUPPORTED);
    assert_message(&err, "no type Q4_0");
    sala_safetensors_writer_abort(w);
    OK(sala_safetensors_writer_open(&w, temp_path("x.safetensors"), &err));
    sala_safetensors_write_tensor(w, "a", SALA_F32, 1, shape_b);
    OK(sala_safetensors_writer_begin_data(w, &err));
    assert_int_equal(sala_safetensors_writer_commit(w, &err), SALA_E_STATE);
    assert_int_equal(files_in_temp_dir(), 0);
}

#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, make_temp_dir, remove_temp_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(test_gguf_round_trip),      IN_TEMP(test_gguf_alignment), IN_TEMP(test_gguf_mistakes),
        IN_TEMP(test_incomplete),           IN_TEMP(test_no_room),        IN_TEMP(test_safetensors_round_trip),
        IN_TEMP(test_safetensors_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
