/* The public interface from opening a file to generated text, on a small random model. */
#include "unit/api/support.h"

#include <math.h>
#include <unistd.h>

enum { N_VOCAB = 260 };

static const tiny_model shape = {.architecture = "llama",
                                 .n_layers = 2,
                                 .n_embd = 64,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 16,
                                 .n_ff = 96,
                                 .n_vocab = N_VOCAB,
                                 .n_ctx = 256,
                                 .tied = true,
                                 .tokenizer = true};
static sala_model *model;

static int open_model(void **state)
{
    (void)state;
    model = open_tiny(&shape, 11, "auto", 2);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    sala_model_close(model);
    sala_model_close(NULL);
    return 0;
}

typedef struct heard {
    sala_buf text;
    int calls, stop_after;
    int32_t tokens[300];
    int n_tokens;
} heard;

static bool hear(void *user, const char *text, size_t n, int32_t token, const sala_candidate *chosen,
                 const sala_candidate *top, int n_top)
{
    heard *h = user;
    sala_buf_add(&h->text, text, n);
    if (token >= 0)
        h->tokens[h->n_tokens++] = token;
    if (chosen && n_top > 0)
        assert_true(chosen->logprob <= top[0].logprob);
    return ++h->calls != h->stop_after;
}

static sala_generate_result generate(sala_session *s, const char *prompt, sala_generate_params p,
                                     sala_sampler_params sp, heard *h)
{
    sala_sampler *sampler;
    sala_error err;
    int32_t *ids;
    size_t n;
    sala_generate_result r;
    assert_int_equal(sala_sampler_open(&sampler, model, &sp, &err), SALA_OK);
    assert_int_equal(sala_tokenize(model, &ids, &n, prompt, strlen(prompt), 0, &err), SALA_OK);
    p.on_text = hear;
    p.user = h;
    if (sala_generate(s, sampler, ids, n, &p, &r, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_free(ids);
    sala_sampler_close(sampler);
    return r;
}

static void information(void **state)
{
    (void)state;
    sala_model_info info;
    sala_model_get_info(model, &info);
    assert_string_equal(info.architecture, "llama");
    assert_int_equal(info.n_layers, 2);
    assert_int_equal(info.n_vocab, N_VOCAB);
    assert_int_equal(info.n_ctx_train, 256);
    assert_string_equal(info.quantization, "F32");
    assert_non_null(info.chat_template);
    assert_true(info.n_params > 30000 && info.weight_bytes == info.n_params * 4);
    int32_t ends[4];
    assert_int_equal(sala_model_end_tokens(model, ends, 4), 1);
    assert_int_equal(ends[0], 257);
}

static void text_and_chat(void **state)
{
    (void)state;
    sala_error err;
    char *prompt;
    int32_t *ids;
    size_t bytes, n;
    /* The user writes control tokens: they must stay text. */
    const char *request =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"}],\"add_generation_prompt\":true}";
    assert_int_equal(sala_chat_prompt(model, &prompt, &bytes, &ids, &n, request, &err), SALA_OK);
    assert_string_equal(prompt, "<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n");
    int starts = 0, ends = 0;
    for (size_t i = 0; i < n; i++) {
        starts += ids[i] == 256;
        ends += ids[i] == 257;
    }
    assert_int_equal(starts, 2);
    assert_int_equal(ends, 1);
    char *back;
    size_t back_bytes;
    assert_int_equal(sala_detokenize(model, &back, &back_bytes, ids, n, false, &err), SALA_OK);
    assert_string_equal(back, prompt);
    sala_free(back);
    sala_free(prompt);
    sala_free(ids);
    assert_int_equal(sala_chat_prompt(model, &prompt, &bytes, NULL, NULL, "{\"messages\":", &err), SALA_E_CORRUPT);
    assert_int_equal(sala_chat_prompt(model, &prompt, &bytes, NULL, NULL, "[]", &err), SALA_E_INVALID);
    const int32_t beyond = N_VOCAB;
    assert_int_equal(sala_detokenize(model, &back, &back_bytes, &beyond, 1, false, &err), SALA_E_INVALID);
}

static void greedy_is_argmax(void **state)
{
    (void)state;
    heard h = {0};
    sala_session *s = new_session(model, 0, SALA_KV_DEFAULT);
    const sala_generate_result r = generate(s, "abc", (sala_generate_params){.max_new_tokens = 20, .ignore_eos = true},
                                            (sala_sampler_params){0}, &h);
    assert_int_equal(r.n_prompt, 3);
    assert_int_equal(r.n_new, 20);
    assert_int_equal(r.reason, SALA_STOP_LENGTH);
    assert_int_equal(h.n_tokens, 20);
    assert_int_equal(sala_session_length(s), 3 + 19);
    /* The same by hand, one row at a time. */
    sala_session *t = new_session(model, 0, SALA_KV_DEFAULT);
    float logits[N_VOCAB];
    int32_t next = 'a';
    for (int i = 0; i < 22; i++) {
        const sala_row row = {i == 0 ? 'a' : i == 1 ? 'b' : i == 2 ? 'c' : next, 0, true};
        sala_row fed = row;
        if (i < 3) { /* byte tokens of this vocabulary are the bytes */
            int32_t *ids;
            size_t n;
            const char c = "abc"[i];
            assert_int_equal(sala_tokenize(model, &ids, &n, &c, 1, 0, NULL), SALA_OK);
            fed.token = ids[0];
            sala_free(ids);
        }
        assert_int_equal(sala_forward(model, &t, 1, &fed, 1, logits, NULL), SALA_OK);
        next = 0;
        for (int32_t v = 1; v < N_VOCAB; v++)
            if (logits[v] > logits[next])
                next = v;
        if (i >= 2 && i - 2 < 20)
            assert_int_equal(h.tokens[i - 2], next);
    }
    size_t n;
    const int32_t *held = sala_session_tokens(s, &n), *held2 = sala_session_tokens(t, &n);
    assert_int_equal(n, 22);
    assert_memory_equal(held, held2, n * sizeof *held);
    sala_buf_free(&h.text);
    sala_session_close(s);
    sala_session_close(t);
}

static void seeds_chunks_and_stops(void **state)
{
    (void)state;
    const sala_sampler_params warm = {.temperature = 1, .seed = 77};
    heard a = {0}, b = {0}, c = {0}, d = {0};
    sala_session *s = new_session(model, 0, SALA_KV_DEFAULT);
    const sala_generate_params p = {.max_new_tokens = 60, .ignore_eos = true, .n_top = 3};
    generate(s, "a longer prompt than before", p, warm, &a);
    sala_session *t = new_session(model, 0, SALA_KV_DEFAULT);
    sala_generate_params q = p;
    q.chunk = 5;
    generate(t, "a longer prompt than before", q, warm, &b);
    assert_int_equal(a.n_tokens, 60);
    assert_memory_equal(a.tokens, b.tokens, 60 * sizeof(int32_t));
    assert_int_equal(a.text.len, b.text.len);

    /* A stop string: some bytes out of the middle of the text. */
    char stop[4] = {0};
    memcpy(stop, a.text.data + a.text.len / 2, 3);
    const char *stops[] = {stop};
    assert_int_equal(sala_session_rollback(t, 0, NULL), SALA_OK);
    q.stop = stops;
    q.n_stop = 1;
    const sala_generate_result r = generate(t, "a longer prompt than before", q, warm, &c);
    assert_int_equal(r.reason, SALA_STOP_STRING);
    const char *at = strstr(a.text.data, stop);
    assert_non_null(at);
    assert_int_equal(c.text.len, (size_t)(at - a.text.data));
    assert_memory_equal(c.text.data ? c.text.data : "", a.text.data, c.text.len);

    /* The caller stops, then goes on from the session. */
    assert_int_equal(sala_session_rollback(t, 0, NULL), SALA_OK);
    d.stop_after = 7;
    assert_int_equal(generate(t, "xyz", p, warm, &d).reason, SALA_STOP_CALLER);
    assert_int_equal(d.n_tokens, 7);
    assert_int_equal(sala_session_length(t), 3 + 6);
    sala_buf_free(&a.text);
    sala_buf_free(&b.text);
    sala_buf_free(&c.text);
    sala_buf_free(&d.text);
    sala_session_close(s);
    sala_session_close(t);
}

static void the_context_ends(void **state)
{
    (void)state;
    heard h = {0};
    sala_error err;
    sala_session *s = new_session(model, 16, SALA_KV_DEFAULT);
    assert_int_equal(sala_session_max_tokens(s), 16);
    const sala_generate_params p = {.max_new_tokens = -1, .ignore_eos = true};
    const sala_generate_result r = generate(s, "12345678", p, (sala_sampler_params){0}, &h);
    assert_int_equal(r.reason, SALA_STOP_CONTEXT);
    assert_int_equal(r.n_new, 9);
    assert_int_equal(sala_session_length(s), 16);
    const int32_t one = 1;
    assert_int_equal(sala_prefill(s, &one, 1, 0, NULL, NULL, NULL, &err), SALA_E_LIMIT);
    const sala_row row = {1, 0, false};
    assert_int_equal(sala_forward(model, &s, 1, &row, 1, NULL, &err), SALA_E_LIMIT);
    assert_int_equal(sala_session_rollback(s, 17, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_length(s), 16);
    sala_session_close(s);
    sala_buf_free(&h.text);
    assert_int_equal(sala_session_open(&s, model, &(sala_session_params){.max_tokens = INT64_MAX / 2}, &err),
                     SALA_E_MEMORY);
    assert_non_null(strstr(err.message, "ask for at most"));
}

static bool cancel_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)total;
    *(uint64_t *)user = done;
    return false;
}

static void refusals(void **state)
{
    (void)state;
    sala_error err;
    sala_session *s = new_session(model, 0, SALA_KV_DEFAULT), *fork;
    int32_t ids[40] = {0};
    uint64_t done = 0;
    assert_int_equal(sala_prefill(s, ids, 40, 10, NULL, cancel_at_once, &done, &err), SALA_E_CANCELLED);
    assert_int_equal(done, 10);
    assert_int_equal(sala_session_length(s), 10);
    ids[3] = N_VOCAB;
    assert_int_equal(sala_prefill(s, ids, 8, 0, NULL, NULL, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_length(s), 10);
    sala_session *twice[2] = {s, s};
    const sala_row rows[2] = {{1, 0, false}, {1, 1, false}};
    assert_int_equal(sala_forward(model, twice, 2, rows, 2, NULL, &err), SALA_E_INVALID);
    const sala_row astray = {1, 3, false};
    assert_int_equal(sala_forward(model, &s, 1, &astray, 1, NULL, &err), SALA_E_INVALID);
    const sala_row wants = {1, 0, true};
    assert_int_equal(sala_forward(model, &s, 1, &wants, 1, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_length(s), 10);
    assert_int_equal(sala_session_fork(&fork, s, &err), SALA_OK);
    assert_int_equal(sala_session_length(fork), 10);
    sala_session_close(fork);
    sala_session_close(s);

    sala_model *none;
    assert_int_equal(sala_model_open(&none, "/no/such/model.gguf", NULL, &err), SALA_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "/no/such/model.gguf"));
    char path[512];
    tiny_write(test_path(path, sizeof path, "b.gguf"), &shape, 1);
    assert_int_equal(sala_model_open(&none, path, &(sala_model_params){.kernels = "sse9"}, &err), SALA_E_INVALID);
    sala_model *words;
    assert_int_equal(sala_model_open(&words, path, &(sala_model_params){.vocab_only = true}, &err), SALA_OK);
    assert_int_equal(sala_session_open(&s, words, NULL, &err), SALA_E_STATE);
    sala_model_close(words);
    assert_int_equal(
        sala_model_open(&none, path, &(sala_model_params){.progress = cancel_at_once, .progress_user = &done}, &err),
        SALA_E_CANCELLED);
    unlink(path);
}

/* A template that does not compile spoils chats, and nothing else. */
static void broken_template(void **state)
{
    (void)state;
    tiny_model broken = shape;
    broken.chat_template = "{% if messages %}never closed";
    char path[512];
    sala_error err;
    sala_model *m;
    tiny_write(test_path(path, sizeof path, "c.gguf"), &broken, 1);
    assert_int_equal(sala_model_open(&m, path, &(sala_model_params){.vocab_only = true}, &err), SALA_OK);
    unlink(path);
    sala_model_info info;
    sala_model_get_info(m, &info);
    assert_string_equal(info.chat_template, broken.chat_template);
    assert_true(info.temperature < 0 && info.top_k < 0);
    int32_t *ids;
    size_t n;
    assert_int_equal(sala_tokenize(m, &ids, &n, "text", 4, 0, &err), SALA_OK);
    sala_free(ids);
    char *prompt;
    assert_int_not_equal(sala_chat_prompt(m, &prompt, &n, NULL, NULL, "{\"messages\":[]}", &err), SALA_OK);
    assert_non_null(strstr(err.message, "chat template"));
    sala_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(information),      cmocka_unit_test(text_and_chat),
        cmocka_unit_test(greedy_is_argmax), cmocka_unit_test(seeds_chunks_and_stops),
        cmocka_unit_test(the_context_ends), cmocka_unit_test(refusals),
        cmocka_unit_test(broken_template),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
