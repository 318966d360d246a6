/* Whole files: requantising, export and import again, the order of rows, refusals. */
#include "unit/quant/quant_test.h"

#include "format/safetensors.h"
#include "os/os.h"
#include "quant/stream.h"

#include <unistd.h>

enum { LAYERS = 2, WIDTH = 256, HEADS = 4, KV = 2, HEAD = 64, FF = 512, VOCAB = 262 };

typedef struct shape {
    char name[64];
    int n_dims;
    int64_t ne[2];
} shape;

static int add(shape *list, int n, const char *name, int layer, int64_t cols, int64_t rows)
{
    shape *s = &list[n];
    if (layer >= 0)
        snprintf(s->name, sizeof s->name, "blk.%d.%s", layer, name);
    else
        snprintf(s->name, sizeof s->name, "%s", name);
    s->n_dims = rows ? 2 : 1;
    s->ne[0] = cols;
    s->ne[1] = rows ? rows : 1;
    return n + 1;
}

static int shapes(shape *list)
{
    int n = add(list, 0, "token_embd.weight", -1, WIDTH, VOCAB);
    for (int l = 0; l < LAYERS; l++) {
        n = add(list, n, "attn_norm.weight", l, WIDTH, 0);
        n = add(list, n, "attn_q.weight", l, WIDTH, HEADS * HEAD);
        n = add(list, n, "attn_k.weight", l, WIDTH, KV * HEAD);
        n = add(list, n, "attn_v.weight", l, WIDTH, KV * HEAD);
        n = add(list, n, "attn_output.weight", l, HEADS * HEAD, WIDTH);
        n = add(list, n, "ffn_norm.weight", l, WIDTH, 0);
        n = add(list, n, "ffn_gate.weight", l, WIDTH, FF);
        n = add(list, n, "ffn_up.weight", l, WIDTH, FF);
        n = add(list, n, "ffn_down.weight", l, FF, WIDTH);
    }
    return add(list, n, "output_norm.weight", -1, WIDTH, 0);
}

/* Byte-level vocabulary: the 256 characters that stand for bytes, four merges, two control tokens. */
static void write_vocabulary(sala_gguf_writer *w)
{
    static const char *const more[] = {"he", "ll", "llo", "hello", "<|end|>", "<|start|>"};
    static const sala_gguf_str merges[] = {{"h e", 3}, {"l l", 3}, {"ll o", 4}, {"he llo", 6}};
    static char texts[VOCAB][16];
    sala_gguf_str tokens[VOCAB];
    int32_t types[VOCAB];
    uint32_t next = 256;
    for (int i = 0; i < VOCAB; i++) {
        sala_buf b = {0};
        if (i < 256) {
            const bool shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
            sala_buf_add_utf8(&b, shown ? (uint32_t)i : next++);
        } else {
            sala_buf_add_str(&b, more[i - 256]);
        }
        memcpy(texts[i], b.data, b.len);
        tokens[i] = (sala_gguf_str){texts[i], b.len};
        types[i] = i < 260 ? 1 : 3;
        sala_buf_free(&b);
    }
    sala_gguf_write_str(w, "tokenizer.ggml.model", "gpt2", 4);
    sala_gguf_write_str(w, "tokenizer.ggml.pre", "gpt-2", 5);
    sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, tokens, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, types, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, merges, 4);
    sala_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 260);
    sala_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 261);
    sala_gguf_write_str(w, "tokenizer.chat_template", "{{ messages[0].content }}", 25);
}

/* Characters with U+2581 for spaces, and merges that no scores can say: "abc" is made of "ab" and "c" only. */
static void write_characters(sala_gguf_writer *w)
{
    static const char *const first[] = {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "c", "bc", "ab", "abc"};
    static const sala_gguf_str merges[] = {{"b c", 3}, {"a b", 3}, {"ab c", 4}};
    static char texts[VOCAB][8];
    sala_gguf_str tokens[VOCAB];
    int32_t types[VOCAB];
    float scores[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        sala_buf b = {0};
        if (i < (int)SALA_ARRAY_LEN(first))
            sala_buf_add_str(&b, first[i]);
        else
            sala_buf_add_utf8(&b, 0x4E00u + (uint32_t)i);
        memcpy(texts[i], b.data, b.len);
        tokens[i] = (sala_gguf_str){texts[i], b.len};
        types[i] = i == 0 ? 2 : i < 3 ? 3 : 1;
        scores[i] = (float)-i;
        sala_buf_free(&b);
    }
    sala_gguf_write_str(w, "tokenizer.ggml.model", "llama", 5);
    sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, tokens, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, types, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.scores", SALA_GGUF_F32, scores, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, merges, 3);
    sala_gguf_write_bool(w, "tokenizer.ggml.ignore_merges", true);
    sala_gguf_write_bool(w, "tokenizer.ggml.fuse_unk", false);
    sala_gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", true);
    sala_gguf_write_str(w, "tokenizer.ggml.prepend_scheme", "first", 5);
}

static float value_of(int tensor, int64_t i)
{
    return weight_at(100 + (uint64_t)tensor, (uint64_t)i) + (i % 7 == 0 ? 0.01f : 0);
}

/* A llama file with weights of value(); `spoil` >= 0 puts a NaN into that tensor's weight 300. */
static void write_model_with(const char *path, int spoil, float (*value)(int, int64_t),
                             void (*vocabulary)(sala_gguf_writer *))
{
    shape list[64];
    const int n = shapes(list);
    sala_gguf_writer *w;
    sala_error err = {0};
    assert_int_equal(sala_gguf_writer_open(&w, path, &err), SALA_OK);
    sala_gguf_write_str(w, "general.architecture", "llama", 5);
    sala_gguf_write_str(w, "general.name", "a test", 6);
    sala_gguf_write_u32(w, "general.file_type", 0);
    sala_gguf_write_u32(w, "llama.block_count", LAYERS);
    sala_gguf_write_u32(w, "llama.context_length", 128);
    sala_gguf_write_u32(w, "llama.embedding_length", WIDTH);
    sala_gguf_write_u32(w, "llama.feed_forward_length", FF);
    sala_gguf_write_u32(w, "llama.attention.head_count", HEADS);
    sala_gguf_write_u32(w, "llama.attention.head_count_kv", KV);
    sala_gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    sala_gguf_write_f32(w, "llama.rope.freq_base", 50000);
    vocabulary(w);
    for (int t = 0; t < n; t++)
        sala_gguf_write_tensor(w, list[t].name, SALA_F32, list[t].n_dims, list[t].ne);
    assert_int_equal(sala_gguf_writer_begin_data(w, &err), SALA_OK);
    for (int t = 0; t < n; t++) {
        const int64_t count = list[t].ne[0] * list[t].ne[1];
        float *x = malloc((size_t)count * sizeof *x);
        assert_non_null(x);
        for (int64_t i = 0; i < count; i++)
            x[i] = value(t, i);
        if (t == spoil)
            x[300] = NAN;
        assert_int_equal(sala_gguf_write_data(w, (size_t)t, 0, x, (uint64_t)count * sizeof *x, &err), SALA_OK);
        free(x);
    }
    assert_int_equal(sala_gguf_writer_commit(w, &err), SALA_OK);
}

static void write_model(const char *path, int spoil, float (*value)(int, int64_t))
{
    write_model_with(path, spoil, value, write_vocabulary);
}

static const char *model(void)
{
    static char path[300];
    if (!path[0])
        write_model(test_path(path, sizeof path, "model.gguf"), -1, value_of);
    return path;
}

static void check_ok(sala_status st, const sala_error *err)
{
    if (st != SALA_OK)
        fail_msg("%s", err->message);
}

static sala_gguf *open_file(const char *path)
{
    sala_gguf *g;
    sala_error err = {0};
    check_ok(sala_gguf_open(&g, path, &err), &err);
    return g;
}

static void requantise(void **state)
{
    (void)state;
    char path[300];
    sala_error err = {0};
    sala_quant_result r;
    const sala_quant_params params = {.type = "q4_k_m", .n_threads = 2};
    test_path(path, sizeof path, "q4.gguf");
    check_ok(sala_quant_to_gguf(model(), path, &params, &r, &err), &err);
    assert_int_equal(r.n_tensors, 2 + 9 * LAYERS);
    assert_int_equal(r.n_fallback, 0);
    assert_string_equal(r.main_type, "Q4_K_M");
    sala_gguf *g = open_file(path);
    int64_t v;
    assert_true(sala_gguf_get_i64(g, "general.file_type", &v) && v == 15);
    assert_true(sala_gguf_get_i64(g, "general.quantization_version", &v) && v == 2);
    assert_int_equal(sala_gguf_tensor(g, "token_embd.weight")->dtype, SALA_Q6_K);
    assert_int_equal(sala_gguf_tensor(g, "blk.0.attn_q.weight")->dtype, SALA_Q4_K);
    assert_int_equal(sala_gguf_tensor(g, "blk.1.attn_norm.weight")->dtype, SALA_F32);
    const sala_tensor *t = sala_gguf_tensor(g, "blk.1.ffn_down.weight");
    assert_int_equal(t->dtype, SALA_Q6_K);
    uint64_t bytes = 0;
    for (size_t i = 0; i < sala_gguf_tensors(g).count; i++)
        bytes += sala_gguf_tensors(g).items[i].bytes;
    assert_int_equal(bytes, r.out_bytes);
    float row[FF];
    sala_dequant_row(t->dtype, row, t->data, FF);
    for (int i = 0; i < FF; i++)
        assert_float_equal(row[i], value_of(18, i), 0.004f);
    sala_gguf_close(g);
    remove(path);
}

static void any_number_of_threads(void **state)
{
    (void)state;
    char a[300], b[300];
    uint8_t *x, *y;
    size_t nx, ny;
    sala_error err = {0};
    sala_quant_params params = {.type = "q3_k_m", .n_threads = 1};
    check_ok(sala_quant_to_gguf(model(), test_path(a, sizeof a, "one.gguf"), &params, NULL, &err), &err);
    params.n_threads = 5;
    check_ok(sala_quant_to_gguf(model(), test_path(b, sizeof b, "five.gguf"), &params, NULL, &err), &err);
    assert_int_equal(sala_os_read_file(&x, &nx, a, 0), 0);
    assert_int_equal(sala_os_read_file(&y, &ny, b, 0), 0);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
    remove(a);
    remove(b);
}

static void keep_types(void **state)
{
    (void)state;
    char path[300];
    sala_error err = {0};
    const sala_quant_params params = {.name = "renamed"};
    test_path(path, sizeof path, "kept.gguf");
    check_ok(sala_quant_to_gguf(model(), path, &params, NULL, &err), &err);
    sala_gguf *a = open_file(model()), *b = open_file(path);
    const char *s;
    size_t len;
    assert_true(sala_gguf_get_str(b, "general.name", &s, &len) && len == 7);
    for (size_t i = 0; i < sala_gguf_tensors(a).count; i++) {
        const sala_tensor *t = &sala_gguf_tensors(a).items[i], *u = sala_gguf_tensor(b, t->name);
        assert_true(u && u->dtype == t->dtype && u->bytes == t->bytes);
        assert_memory_equal(u->data, t->data, (size_t)t->bytes);
    }
    sala_gguf_close(a);
    sala_gguf_close(b);
    remove(path);
}

static void expect_same_keys(const sala_gguf *a, const sala_gguf *b, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const sala_gguf_kv *x = sala_gguf_find(a, keys[i]), *y = sala_gguf_find(b, keys[i]);
        if (!x || !y || x->raw_bytes != y->raw_bytes || memcmp(x->raw, y->raw, (size_t)x->raw_bytes) != 0)
            fail_msg("%s is not what it was", keys[i]);
    }
}

static void export_and_import(void **state)
{
    (void)state;
    char dir[300], back[300];
    sala_error err = {0};
    sala_quant_result r;
    const sala_quant_params to = {.type = "f32"}, from = {.type = "f32"};
    test_path(dir, sizeof dir, "hf");
    test_path(back, sizeof back, "back.gguf");
    check_ok(sala_quant_to_hf(model(), dir, &to, &r, &err), &err);
    assert_true(r.has_tokenizer);
    sala_safetensors *st;
    check_ok(sala_safetensors_open(&st, dir, &err), &err);
    sala_gguf *a = open_file(model());
    /* Row 2i + b of a head in GGUF is row b * HEAD/2 + i in the directory. */
    const float *ours = sala_gguf_tensor(a, "blk.1.attn_k.weight")->data;
    const float *theirs = sala_safetensors_tensor(st, "model.layers.1.self_attn.k_proj.weight")->data;
    for (int head = 0; head < KV; head++)
        for (int i = 0; i < HEAD / 2; i++)
            for (int b = 0; b < 2; b++)
                assert_memory_equal(ours + (head * HEAD + 2 * i + b) * WIDTH,
                                    theirs + (head * HEAD + b * HEAD / 2 + i) * WIDTH, WIDTH * sizeof(float));
    assert_memory_equal(sala_gguf_tensor(a, "blk.1.attn_v.weight")->data,
                        sala_safetensors_tensor(st, "model.layers.1.self_attn.v_proj.weight")->data,
                        KV * HEAD * WIDTH * sizeof(float));
    sala_safetensors_close(st);

    check_ok(sala_quant_to_gguf(dir, back, &from, &r, &err), &err);
    sala_gguf *b = open_file(back);
    assert_int_equal(sala_gguf_tensors(a).count, sala_gguf_tensors(b).count);
    for (size_t i = 0; i < sala_gguf_tensors(a).count; i++) {
        const sala_tensor *t = &sala_gguf_tensors(a).items[i], *u = sala_gguf_tensor(b, t->name);
        assert_true(u && u->bytes == t->bytes);
        assert_memory_equal(u->data, t->data, (size_t)t->bytes);
    }
    static const char *const same[] = {"llama.rope.freq_base",          "llama.attention.layer_norm_rms_epsilon",
                                       "llama.attention.head_count_kv", "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.merges",         "tokenizer.ggml.pre",
                                       "tokenizer.ggml.eos_token_id",   "tokenizer.chat_template"};
    expect_same_keys(a, b, same, SALA_ARRAY_LEN(same));
    sala_gguf_close(a);
    sala_gguf_close(b);
    remove(back);
    remove_export(dir);
}

static void keep_notice(void *user, const char *message)
{
    snprintf(user, 400, "%s", message);
}

static void listed_merges_go_out_and_come_back(void **state)
{
    (void)state;
    char path[300], dir[300], back[300], notice[400] = "";
    sala_error err = {0};
    sala_quant_result r;
    const sala_quant_params to = {.notice = keep_notice, .notice_user = notice};
    write_model_with(test_path(path, sizeof path, "characters.gguf"), -1, value_of, write_characters);
    test_path(dir, sizeof dir, "hf-characters");
    test_path(back, sizeof back, "characters-back.gguf");
    check_ok(sala_quant_to_hf(path, dir, NULL, &r, &err), &err);
    assert_true(r.has_tokenizer);
    check_ok(sala_quant_to_gguf(dir, back, &to, &r, &err), &err);
    assert_non_null(strstr(notice, "llama.cpp"));
    sala_gguf *a = open_file(path), *b = open_file(back);
    static const char *const same[] = {"tokenizer.ggml.model",
                                       "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.token_type",
                                       "tokenizer.ggml.merges",
                                       "tokenizer.ggml.fuse_unk",
                                       "tokenizer.ggml.ignore_merges",
                                       "tokenizer.ggml.add_space_prefix",
                                       "tokenizer.ggml.prepend_scheme"};
    expect_same_keys(a, b, same, SALA_ARRAY_LEN(same));
    sala_gguf_close(a);
    sala_gguf_close(b);
    remove(path);
    remove(back);
    remove_export(dir);
}

/* Both maps, for a head of eight rows. */
static void order_of_rows(void **state)
{
    (void)state;
    static const int to_gguf[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    sala_stream_item it = {.n_dims = 2, .ne = {4, 16}, .order = SALA_ROWS_TO_GGUF, .head_rows = 8};
    sala_stream_item back = it;
    back.order = SALA_ROWS_TO_HF;
    for (int64_t r = 0; r < 16; r++) {
        assert_int_equal(sala_stream_row_of(&it, r), r / 8 * 8 + to_gguf[r % 8]);
        assert_int_equal(sala_stream_row_of(&back, sala_stream_row_of(&it, r)), r);
    }
}

static void a_bad_weight_is_named(void **state)
{
    (void)state;
    char bad[300], out[300];
    sala_error err = {0};
    write_model(test_path(bad, sizeof bad, "bad.gguf"), 2, value_of);
    test_path(out, sizeof out, "never.gguf");
    static const char *const types[] = {"q4_0", "f16", "f32", "q6_k"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        const sala_quant_params params = {.type = types[i], .n_threads = 3};
        assert_int_equal(sala_quant_to_gguf(bad, out, &params, NULL, &err), SALA_E_NUMERIC);
        assert_non_null(strstr(err.message, "blk.0.attn_q.weight"));
        assert_non_null(strstr(err.message, "row 1, column 44"));
        assert_false(sala_os_is_file(out));
    }
    remove(bad);
}

/* A tensor that keeps its type is copied, but not with scales that are no numbers. */
static void a_bad_scale_is_named(void **state)
{
    (void)state;
    char path[300], out[300];
    sala_error err = {0};
    const sala_quant_params params = {.type = "q8_0", .n_threads = 2};
    test_path(path, sizeof path, "scale.gguf");
    test_path(out, sizeof out, "never.gguf");
    check_ok(sala_quant_to_gguf(model(), path, &params, NULL, &err), &err);
    uint8_t *data;
    size_t bytes;
    assert_int_equal(sala_os_read_file(&data, &bytes, path, 0), 0);
    sala_gguf *g;
    check_ok(sala_gguf_parse(&g, data, bytes, &err), &err);
    const sala_tensor *t = sala_gguf_tensor(g, "blk.1.ffn_up.weight");
    assert_int_equal(t->dtype, SALA_Q8_0);
    const uint16_t nan = 0x7e00; /* in the second block of row 3 */
    const size_t at = (size_t)((const uint8_t *)t->data - data) + sala_dtype_bytes(SALA_Q8_0, 3 * t->ne[0]) + 34;
    sala_gguf_close(g);
    memcpy(data + at, &nan, sizeof nan);
    test_write_file(path, data, bytes);
    free(data);
    assert_int_equal(sala_quant_to_gguf(path, out, &params, NULL, &err), SALA_E_NUMERIC);
    assert_non_null(strstr(err.message, "blk.1.ffn_up.weight"));
    assert_non_null(strstr(err.message, "row 3, column 32"));
    assert_false(sala_os_is_file(out));
    remove(path);
}

static bool stop_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    assert_true(done <= total);
    return ++*(int *)user < 3;
}

static void cancelled(void **state)
{
    (void)state;
    char out[300];
    int calls = 0;
    sala_error err = {0};
    const sala_quant_params params = {.type = "q8_0", .progress = stop_at_once, .progress_user = &calls};
    test_path(out, sizeof out, "cancelled.gguf");
    assert_int_equal(sala_quant_to_gguf(model(), out, &params, NULL, &err), SALA_E_CANCELLED);
    assert_int_equal(calls, 3);
    assert_false(sala_os_is_file(out));
}

static float ternary_value(int tensor, int64_t i)
{
    return tensor % 9 == 1 ? 1.0f : 0.03125f * (float)((int)(uniform_at((uint64_t)(tensor * 1000000 + i)) * 3) - 1);
}

static float small_group_value(int tensor, int64_t i)
{
    return ternary_value(tensor, i) * (i / 128 % 2 ? 2.0f : 1.0f);
}

static void ternary_types_need_ternary_weights(void **state)
{
    (void)state;
    char in[300], out[300];
    sala_error err = {0};
    sala_quant_params params = {.type = "tq2_0"};
    test_path(out, sizeof out, "tq2.gguf");
    assert_int_equal(sala_quant_to_gguf(model(), out, &params, NULL, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "not ternary"));
    params.force = true;
    check_ok(sala_quant_to_gguf(model(), out, &params, NULL, &err), &err);
    params.force = false;

    write_model(test_path(in, sizeof in, "groups.gguf"), -1, small_group_value);
    assert_int_equal(sala_quant_to_gguf(in, out, &params, NULL, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "groups of 128"));
    assert_non_null(strstr(err.message, "Q4_0 keeps them"));

    write_model(in, -1, ternary_value);
    check_ok(sala_quant_to_gguf(in, out, &params, NULL, &err), &err);
    sala_gguf *g = open_file(out);
    const sala_tensor *t = sala_gguf_tensor(g, "blk.1.ffn_up.weight");
    assert_int_equal(t->dtype, SALA_TQ2_0);
    float row[WIDTH];
    sala_dequant_row(t->dtype, row, t->data, WIDTH);
    for (int i = 0; i < WIDTH; i++)
        assert_true(row[i] == ternary_value(17, i));
    sala_gguf_close(g);
    remove(in);
    remove(out);
}

static void refusals(void **state)
{
    (void)state;
    char out[300];
    sala_error err = {0};
    test_path(out, sizeof out, "refused.gguf");
    const sala_quant_params unknown = {.type = "q9_x"}, lonely = {.output_type = "q8_0"}, hf_q4 = {.type = "q4_0"},
                            none = {.type = "q4_0", .imatrix = "/nonexistent"}, q4 = {.type = "q4_0"};
    assert_int_equal(sala_quant_to_gguf(model(), out, &unknown, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_quant_to_gguf(model(), out, &lonely, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_quant_to_gguf(model(), model(), &q4, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_quant_to_gguf("/nonexistent.gguf", out, &q4, NULL, &err), SALA_E_NOT_FOUND);
    assert_int_equal(sala_quant_to_gguf(model(), out, &none, NULL, &err), SALA_E_NOT_FOUND);
    assert_int_equal(sala_quant_to_hf(model(), out, &hf_q4, NULL, &err), SALA_E_INVALID);
    assert_int_not_equal(sala_quant_to_gguf(model(), "/nonexistent/dir/out.gguf", &q4, NULL, &err), SALA_OK);
    assert_false(sala_os_is_file(out));
}

/* An importance matrix changes the weights it covers, and one of another model is refused. */
static void importance(void **state)
{
    (void)state;
    char imatrix[300], out[300];
    sala_error err = {0};
    sala_imatrix *m;
    sala_quant_result r;
    float x[FF];
    for (int i = 0; i < FF; i++)
        x[i] = i % 16 == 0 ? 10.0f : 0.1f;
    test_path(imatrix, sizeof imatrix, "importance.gguf");
    test_path(out, sizeof out, "weighted.gguf");
    const sala_quant_params params = {.type = "q4_0", .imatrix = imatrix, .pure = true};
    check_ok(sala_imatrix_new(&m, &err), &err);
    check_ok(sala_imatrix_add(m, "blk.0.attn_q.weight", x, 1, WIDTH, WIDTH, &err), &err);
    check_ok(sala_imatrix_save(m, imatrix, NULL, 1, 1, &err), &err);
    check_ok(sala_quant_to_gguf(model(), out, &params, &r, &err), &err);
    assert_int_equal(r.n_importance, 1);
    sala_gguf *g = open_file(out);
    const sala_tensor *t = sala_gguf_tensor(g, "blk.0.attn_q.weight");
    float row[WIDTH];
    double heavy = 0, light = 0;
    for (int r_ = 0; r_ < 64; r_++) {
        sala_dequant_row(t->dtype, row, (const uint8_t *)t->data + sala_dtype_bytes(t->dtype, r_ * WIDTH), WIDTH);
        for (int i = 0; i < WIDTH; i++) {
            const double d = (double)row[i] - (double)value_of(2, r_ * WIDTH + i);
            *(i % 16 == 0 ? &heavy : &light) += d * d / (i % 16 == 0 ? 1 : 15);
        }
    }
    assert_true(heavy < 0.5 * light);
    sala_gguf_close(g);
    sala_imatrix_close(m);

    check_ok(sala_imatrix_new(&m, &err), &err);
    check_ok(sala_imatrix_add(m, "blk.0.attn_q.weight", x, 1, 100, 100, &err), &err);
    check_ok(sala_imatrix_save(m, imatrix, NULL, 1, 1, &err), &err);
    assert_int_equal(sala_quant_to_gguf(model(), out, &params, &r, &err), SALA_E_CORRUPT);
    sala_imatrix_close(m);
    remove(imatrix);
    remove(out);
}

static int clean_up(void **state)
{
    (void)state;
    remove(model());
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requantise),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(keep_types),
        cmocka_unit_test(export_and_import),
        cmocka_unit_test(listed_merges_go_out_and_come_back),
        cmocka_unit_test(order_of_rows),
        cmocka_unit_test(a_bad_weight_is_named),
        cmocka_unit_test(a_bad_scale_is_named),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(ternary_types_need_ternary_weights),
        cmocka_unit_test(refusals),
        cmocka_unit_test(importance),
    };
    (void)block_types;
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
