/* A number that is not finite, wherever it comes up, ends the call with an error: no logits, no token, and every
 * session of the call as it was. The numbers are planted in the files of small models: in the row of one token, so that
 * tokens before and after are sound, and in weights that every token meets. */
#include "format/gguf.h"
#include "unit/api/support.h"

#include <fcntl.h>
#include <math.h>
#include <unistd.h>

enum { N_VOCAB = 40, BAD_TOKEN = 7, N_BEFORE = 70, MAX_TOKENS = 200 };

#define TINY .n_vocab = N_VOCAB, .n_ctx = 512, .scale = 1, .n_embd = 32, .n_ff = 48

static const tiny_model shapes[] = {
    {TINY, .architecture = "llama", .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8},
    {TINY, .architecture = "minicpm-sala", .n_layers = 4, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16,
     .mixers = "slls", .sparse = {4, 2, 8, 1, 4, 16, 60, false}, .linear_heads = 4, .linear_kv_heads = 4,
     .linear_dim = 8, .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true},
    {TINY, .architecture = "minicpm-sala", .n_layers = 2, .n_heads = 3, .n_kv_heads = 1, .head_dim = 16, .mixers = "ll",
     .linear_heads = 4, .linear_kv_heads = 2, .linear_dim = 8, .no_attn_rope = true},
};

static const char *const families[] = {"auto", "ref"};

/* Element `at` of a tensor of the file becomes x. */
static void plant(const char *path, const char *tensor, size_t at, float x)
{
    sala_gguf *g;
    assert_int_equal(sala_gguf_open(&g, path, NULL), SALA_OK);
    const sala_tensor *t = sala_gguf_tensor(g, tensor);
    if (!t)
        fail_msg("the model has no %s", tensor);
    /* All data lies behind each other up to the end of the file; the last tensor tells where that is. */
    const sala_tensor_list all = sala_gguf_tensors(g);
    const uint8_t *end = NULL;
    for (size_t i = 0; i < all.count; i++) {
        const uint8_t *e = (const uint8_t *)all.items[i].data + all.items[i].bytes;
        end = e > end ? e : end;
    }
    const int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    const off_t size = lseek(fd, 0, SEEK_END);
    const off_t offset = size - (off_t)(end - (const uint8_t *)t->data) + (off_t)(at * sizeof x);
    float was;
    assert_int_equal(pread(fd, &was, sizeof was, offset), sizeof was);
    assert_memory_equal(&was, (const uint8_t *)t->data + at * sizeof x, sizeof was);
    sala_gguf_close(g);
    assert_int_equal(pwrite(fd, &x, sizeof x, offset), sizeof x);
    close(fd);
}

static sala_model *open_planted(const tiny_model *m, const char *kernels, const char *tensor, size_t at, float x)
{
    char path[512];
    test_path(path, sizeof path, "planted.gguf");
    tiny_write(path, m, 5);
    plant(path, tensor, at, x);
    return open_file(path, kernels, 2);
}

static void feed(sala_session *s, int first, int n, float *logits)
{
    int32_t ids[N_BEFORE];
    sala_error err;
    for (int i = 0; i < n; i++) {
        ids[i] = (first + 3 * i) % N_VOCAB;
        ids[i] += ids[i] == BAD_TOKEN;
    }
    if (sala_prefill(s, ids, (size_t)n, 0, logits, NULL, NULL, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static size_t length_of(const sala_session *s)
{
    size_t n;
    sala_session_tokens(s, &n);
    return n;
}

static void one_token(const tiny_model *m, const char *kernels, sala_kv_type kv, float bad)
{
    sala_model *model = open_planted(m, kernels, "token_embd.weight", BAD_TOKEN * 32 + 11, bad);
    sala_session *a = new_session(model, MAX_TOKENS, kv), *b = new_session(model, MAX_TOKENS, kv),
                 *twin = new_session(model, MAX_TOKENS, kv);
    sala_session *both[] = {a, b};
    float got[N_VOCAB], want[N_VOCAB], logits[2 * N_VOCAB];
    sala_error err = {0};
    feed(a, 1, N_BEFORE, NULL);
    feed(twin, 1, N_BEFORE, NULL);
    feed(b, 2, 3, NULL);

    /* Alone, as the last of many, and in company: the other session's rows are not taken either. */
    const sala_row one = {.token = BAD_TOKEN, .session = 0, .want = true};
    assert_int_equal(sala_forward(model, &a, 1, &one, 1, logits, &err), SALA_E_NUMERIC);
    assert_non_null(strstr(err.message, "not-a-number"));
    sala_row rows[20];
    for (int i = 0; i < 20; i++)
        rows[i] = (sala_row){.token = i == 18 ? BAD_TOKEN : 9, .session = i % 2, .want = i == 19};
    assert_int_equal(sala_forward(model, both, 2, rows, 20, logits, &err), SALA_E_NUMERIC);
    const int32_t ids[] = {1, 2, BAD_TOKEN, 3};
    assert_int_equal(sala_prefill(a, ids, 4, 0, logits, NULL, NULL, &err), SALA_E_NUMERIC);
    assert_int_equal(length_of(a), N_BEFORE);
    assert_int_equal(length_of(b), 3);

    /* What comes after is what would have come without. */
    feed(a, 3, 5, got);
    feed(twin, 3, 5, want);
    assert_memory_equal(got, want, sizeof got);
    sala_session_close(a);
    sala_session_close(b);
    sala_session_close(twin);
    sala_model_close(model);
}

static void bad_tokens(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, NAN}; /* one for each cache */
    static const sala_kv_type kv[] = {SALA_KV_F16, SALA_KV_F32, SALA_KV_Q8_0, SALA_KV_Q4};
    for (size_t i = 0; i < SALA_ARRAY_LEN(shapes); i++)
        for (size_t f = 0; f < SALA_ARRAY_LEN(families); f++)
            for (size_t k = 0; k < SALA_ARRAY_LEN(bad); k++)
                one_token(&shapes[i], families[f], kv[k], bad[k]);
}

/* Weights that every token meets, of the layers and the head. (Vectors are looked at when a file is opened.) */
static void bad_weights(void **state)
{
    (void)state;
    static const char *const tensors[] = {"blk.0.attn_q.weight",   "blk.1.attn_k.weight",   "blk.1.attn_v.weight",
                                          "blk.1.ffn_gate.weight", "blk.0.ffn_down.weight", "blk.1.attn_output.weight",
                                          "output.weight"};
    for (size_t t = 0; t < SALA_ARRAY_LEN(tensors); t++) {
        for (size_t f = 0; f < SALA_ARRAY_LEN(families); f++) {
            sala_model *model = open_planted(&shapes[0], families[f], tensors[t], 13, t % 2 ? NAN : INFINITY);
            sala_session *s = new_session(model, MAX_TOKENS, SALA_KV_F16);
            float logits[N_VOCAB];
            sala_error err = {0};
            const sala_row row = {.token = 3, .session = 0, .want = true};
            const sala_status st = sala_forward(model, &s, 1, &row, 1, logits, &err);
            if (st != SALA_E_NUMERIC)
                fail_msg("%s, kernels %s: status %d", tensors[t], families[f], (int)st);
            assert_int_equal(length_of(s), 0);
            sala_session_close(s);
            sala_model_close(model);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bad_tokens), cmocka_unit_test(bad_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
