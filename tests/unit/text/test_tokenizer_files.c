/* Where tokenizers come from: Hugging Face directories with their side files, and GGUF metadata that is wrong. */
#include "os/os.h"
#include "text/tokenizer.h"
#include "unit/test.h"

#include <math.h>
#include <unistd.h>

typedef struct place {
    char dir[64];
} place;

static int make_place(void **state)
{
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    strcpy(p->dir, "/tmp/sala-tokenizer-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    *state = p;
    return 0;
}

static bool remove_entry(void *user, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", ((place *)user)->dir, name);
    unlink(path);
    return true;
}

static int remove_place(void **state)
{
    place *p = *state;
    sala_os_list_dir(p->dir, remove_entry, p);
    rmdir(p->dir);
    free(p);
    return 0;
}

static void put(const place *p, const char *name, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    test_write_file(path, data, n);
}

static void put_fixture(const place *p, const char *name, const char *fixture)
{
    char path[512];
    uint8_t *data;
    size_t n;
    snprintf(path, sizeof path, "%s/fixtures/tokenizers/%s", SALA_TEST_DIR, fixture);
    assert_int_equal(sala_os_read_file(&data, &n, path, 0), 0);
    put(p, name, data, n);
    free(data);
}

static sala_tokenizer *open_dir(const place *p)
{
    sala_tokenizer *t = NULL;
    sala_error err;
    if (sala_tokenizer_from_dir(&t, p->dir, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return t;
}

static sala_ids encode(const sala_tokenizer *t, const char *s, bool special)
{
    sala_ids ids = {0};
    const sala_text_span span = {s, strlen(s), true};
    assert_int_equal(sala_tokenizer_encode(t, &ids, &span, 1, special, NULL), SALA_OK);
    return ids;
}

static void directory_with_tokenizer_json(void **state)
{
    const place *p = *state;
    static const char config[] =
        "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<|im_end|>\",\"add_bos_token\":false,"
        "\"add_eos_token\":true,\"added_tokens_decoder\":{\"2000\":{\"content\":\"<extra>\",\"special\":true}}}";
    static const char map[] = "{\"pad_token\":\"</s>\",\"eos_token\":\"</s>\"}";
    put_fixture(p, "tokenizer.json", "llama3.json");
    put(p, "tokenizer_config.json", config, sizeof config - 1);
    put(p, "special_tokens_map.json", map, sizeof map - 1);
    sala_tokenizer *t = open_dir(p);
    assert_string_equal(sala_tokenizer_pre(t), "llama-bpe");
    assert_int_equal(sala_tokenizer_bos(t), sala_tokenizer_find(t, "<s>", 3));
    assert_int_equal(sala_tokenizer_eos(t), sala_tokenizer_find(t, "<|im_end|>", 10)); /* the config, not the map */
    assert_int_equal(sala_tokenizer_pad(t), sala_tokenizer_find(t, "</s>", 4));
    /* The configuration's word on BOS and EOS stands above the template in tokenizer.json. */
    assert_false(sala_tokenizer_adds_bos(t));
    assert_true(sala_tokenizer_adds_eos(t));
    assert_int_equal(sala_tokenizer_n_vocab(t), 2001);
    sala_ids ids = encode(t, "<extra>", true);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.data[0], 2000);
    assert_int_equal(ids.data[1], sala_tokenizer_eos(t));
    sala_ids_free(&ids);
    /* A hole of the vocabulary is no token. */
    const char *s;
    size_t n;
    assert_false(sala_tokenizer_piece(t, 1999, &s, &n));
    sala_tokenizer_free(t);
}

static void directory_with_tokenizer_model(void **state)
{
    const place *p = *state;
    static const char config[] = "{\"eos_token\":\"<|im_end|>\",\"additional_special_tokens\":[\"<|im_start|>\"]}";
    static const char added[] = "{\"<|im_end|>\":1200,\"<|im_start|>\":1201,\"<plain>\":1202}";
    put_fixture(p, "tokenizer.model", "spm-bpe.model");
    put(p, "tokenizer_config.json", config, sizeof config - 1);
    put(p, "added_tokens.json", added, sizeof added - 1);
    sala_tokenizer *t = open_dir(p);
    assert_int_equal(sala_tokenizer_n_vocab(t), 1203);
    assert_int_equal(sala_tokenizer_eos(t), 1200);
    assert_true(sala_tokenizer_adds_bos(t));
    assert_true(sala_tokenizer_is_special(t, 1200));
    assert_true(sala_tokenizer_is_special(t, 1201));
    assert_false(sala_tokenizer_is_special(t, 1202));
    /* As legacy Llama tokenisation has it, each stretch of text gets its own U+2581. */
    sala_ids a = encode(t, "the", false), all = encode(t, "<|im_start|>the<|im_end|>the", true);
    assert_int_equal(all.count, 3 + 2 * a.count);
    assert_int_equal(all.data[0], sala_tokenizer_bos(t));
    assert_int_equal(all.data[1], 1201);
    assert_memory_equal(all.data + 2, a.data, a.count * sizeof *a.data);
    assert_int_equal(all.data[2 + a.count], 1200);
    assert_memory_equal(all.data + 3 + a.count, a.data, a.count * sizeof *a.data);
    sala_ids_free(&a);
    sala_ids_free(&all);
    sala_tokenizer_free(t);
    /* legacy: false leaves it to the first. */
    static const char modern[] = "{\"legacy\":false,\"additional_special_tokens\":[\"<|im_start|>\",\"<|im_end|>\"]}";
    put(p, "tokenizer_config.json", modern, sizeof modern - 1);
    t = open_dir(p);
    all = encode(t, "the<|im_end|>the", false);
    sala_buf text = {0};
    assert_int_equal(sala_tokenizer_decode(t, &text, all.data, all.count, true, NULL), SALA_OK);
    assert_string_equal(text.data, "thethe");
    sala_buf_free(&text);
    sala_ids_free(&all);
    sala_tokenizer_free(t);
}

static void directory_without_a_tokenizer(void **state)
{
    const place *p = *state;
    sala_tokenizer *t = NULL;
    sala_error err;
    assert_int_equal(sala_tokenizer_from_dir(&t, p->dir, &err), SALA_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    put(p, "tokenizer.json", "{\"model\":", 9);
    assert_int_equal(sala_tokenizer_from_dir(&t, p->dir, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "tokenizer.json"));
}

/* Two tokens of which one has this id. */
static sala_status load_far(int32_t far, sala_error *err)
{
    char json[256];
    sala_tokenizer *t = NULL;
    const int n = snprintf(json, sizeof json,
                           "{\"added_tokens\":[{\"id\":%d,\"content\":\"<far>\"}],"
                           "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
                           (int)far);
    const sala_status st = sala_tokenizer_from_json(&t, json, (size_t)n, NULL, 0, err);
    if (st == SALA_OK) {
        const sala_text_span span = {"a<far>", 6, true};
        sala_ids ids = {0};
        sala_buf text = {0};
        assert_int_equal(sala_tokenizer_encode(t, &ids, &span, 1, false, err), SALA_OK);
        assert_true(ids.count == 2 && ids.data[0] == 0 && ids.data[1] == far);
        assert_int_equal(sala_tokenizer_decode(t, &text, &(int32_t){far / 2}, 1, false, err), SALA_E_INVALID);
        sala_ids_free(&ids);
        sala_buf_free(&text);
    }
    sala_tokenizer_free(t);
    return st;
}

static void holes(void **state)
{
    (void)state;
    sala_error err;
    assert_int_equal(load_far(200000, &err), SALA_OK);
    assert_int_equal(load_far(2000000, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "the highest token id is 2000000"));
}

/* ---- GGUF ---- */

typedef struct draft {
    const char *model, *pre;
    const char *tokens[4], *merges[2];
    int32_t types[4];
    float scores[4];
    uint64_t n_tokens, n_types, n_scores, n_merges;
    int64_t bos;
} draft;

static sala_status load_draft(const place *p, const draft *d, sala_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/draft.gguf", p->dir);
    sala_gguf_writer *w;
    sala_gguf *g;
    sala_tokenizer *t = NULL;
    assert_int_equal(sala_gguf_writer_open(&w, path, err), SALA_OK);
    sala_gguf_write_str(w, "general.architecture", "llama", 5);
    if (d->model != NULL)
        sala_gguf_write_str(w, "tokenizer.ggml.model", d->model, strlen(d->model));
    if (d->pre != NULL)
        sala_gguf_write_str(w, "tokenizer.ggml.pre", d->pre, strlen(d->pre));
    sala_gguf_str list[4];
    for (size_t i = 0; i < d->n_tokens; i++)
        list[i] = (sala_gguf_str){d->tokens[i], strlen(d->tokens[i])};
    if (d->n_tokens > 0)
        sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, list, d->n_tokens);
    for (size_t i = 0; i < d->n_merges; i++)
        list[i] = (sala_gguf_str){d->merges[i], strlen(d->merges[i])};
    if (d->n_merges > 0)
        sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, list, d->n_merges);
    if (d->n_types > 0)
        sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, d->types, d->n_types);
    if (d->n_scores > 0)
        sala_gguf_write_array(w, "tokenizer.ggml.scores", SALA_GGUF_F32, d->scores, d->n_scores);
    if (d->bos > 0)
        sala_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)d->bos);
    assert_int_equal(sala_gguf_writer_begin_data(w, err), SALA_OK);
    assert_int_equal(sala_gguf_writer_commit(w, err), SALA_OK);
    assert_int_equal(sala_gguf_open(&g, path, err), SALA_OK);
    const sala_status st = sala_tokenizer_from_gguf(&t, g, err);
    sala_gguf_close(g);
    sala_tokenizer_free(t);
    return st;
}

static void wrong_gguf(void **state)
{
    const place *p = *state;
    const draft good = {.model = "gpt2",
                        .pre = "qwen2",
                        .tokens = {"a", "b", "ab"},
                        .n_tokens = 3,
                        .merges = {"a b"},
                        .n_merges = 1,
                        .types = {1, 1, 1},
                        .n_types = 3};
    sala_error err = {0};
    if (load_draft(p, &good, &err) != SALA_OK)
        fail_msg("%s", err.message);
    draft d[9];
    for (size_t i = 0; i < SALA_ARRAY_LEN(d); i++)
        d[i] = good;
    const char *words[9];
    d[0].model = NULL, words[0] = "tokenizer.ggml.model";
    d[1].model = "rwkv", words[1] = "rwkv";
    d[2].pre = "nonsense", words[2] = "nonsense";
    d[3].n_tokens = 0, words[3] = "tokens";
    d[4].n_types = 2, words[4] = "token_type";
    d[5].types[1] = 77, words[5] = "77";
    d[6].merges[0] = "a c", words[6] = "a c";
    d[7].tokens[1] = "a", words[7] = "two ids";
    d[8].bos = 5000, words[8] = "5000";
    for (size_t i = 0; i < SALA_ARRAY_LEN(d); i++) {
        err.message[0] = '\0';
        if (load_draft(p, &d[i], &err) == SALA_OK || strstr(err.message, words[i]) == NULL)
            fail_msg("draft %zu: \"%s\" should speak of \"%s\"", i, err.message, words[i]);
    }
    draft llama = {.model = "llama", .tokens = {"<unk>", "a", "aa"}, .n_tokens = 3};
    assert_int_equal(load_draft(p, &llama, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "scores"));
    llama.n_scores = 3;
    llama.scores[2] = (float)NAN;
    assert_int_equal(load_draft(p, &llama, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "not a number"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(directory_with_tokenizer_json, make_place, remove_place),
        cmocka_unit_test_setup_teardown(directory_with_tokenizer_model, make_place, remove_place),
        cmocka_unit_test_setup_teardown(directory_without_a_tokenizer, make_place, remove_place),
        cmocka_unit_test(holes),
        cmocka_unit_test_setup_teardown(wrong_gguf, make_place, remove_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
