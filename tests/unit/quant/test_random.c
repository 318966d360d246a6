/* Models of random weights, and with them hybrid models through GGUF, export and back. */
#include "unit/quant/quant_test.h"

#include "model/config.h"
#include "os/os.h"
#include "text/tokenizer.h"

#include <unistd.h>

#define SHAPE                                                                                                          \
    "\"hidden_size\":256,\"intermediate_size\":512,\"num_hidden_layers\":4,\"num_attention_heads\":4,"                 \
    "\"num_key_value_heads\":2,\"head_dim\":64,\"vocab_size\":300,\"max_position_embeddings\":4096,"                   \
    "\"rms_norm_eps\":1e-5"
static const char SALA[] = "{\"model_type\":\"minicpm_sala\"," SHAPE
                           ",\"mixer_types\":[\"minicpm4\",\"lightning-attn\",\"lightning\",\"lightning_attn\"],"
                           "\"lightning_nh\":8,\"lightning_nkv\":4,\"lightning_head_dim\":32,\"bos_token_id\":1,"
                           "\"eos_token_id\":[2,280],\"pad_token_id\":2,\"dim_model_base\":128,\"sparse_config\":"
                           "{\"kernel_size\":8,\"kernel_stride\":4,\"block_size\":16,\"init_blocks\":2,\"topk\":5,"
                           "\"window_size\":32,\"dense_len\":-1,\"use_nope\":true}}";
static const char SALA_BARE[] = "{\"model_type\":\"minicpm_sala\"," SHAPE
                                ",\"mixer_types\":[\"lightning\",\"minicpm4\",\"lightning\",\"minicpm4\"],"
                                "\"use_output_gate\":false,\"use_output_norm\":false,\"qk_norm\":false,"
                                "\"attn_use_output_gate\":false,\"attn_use_rope\":true,\"lightning_use_rope\":false,"
                                "\"lightning_scale\":\"1/d\",\"tie_word_embeddings\":true}";
static const char HYPE[] =
    "{\"model_type\":\"hypenet\"," SHAPE ",\"mixer_types\":[\"lightning-attn\",\"attn\",\"attn\",\"lightning_attn\"],"
    "\"lightning_nkv\":4,\"lightning_use_qk_norm\":true,\"lightning_use_output_norm\":true,"
    "\"lightning_use_output_gate\":true,\"attn_use_output_gate\":true,\"attn_use_rope\":false,"
    "\"attention_bias\":true,\"attn_logits_scaling\":\"hype 100.5\",\"rope_theta\":1000000,"
    "\"lightning_scale\":\"1\",\"tie_word_embeddings\":true}";
static const char HYPE_PLAIN[] = "{\"model_type\":\"hypenet\"," SHAPE ",\"attn_logits_scaling\":1.5}";
static const char LLAMA[] = "{\"model_type\":\"llama\"," SHAPE ",\"sparse_config\":{\"dense_len\":4294967296}}";
static const char MINICPM[] = "{\"model_type\":\"minicpm\"," SHAPE ",\"scale_emb\":12,\"scale_depth\":1.4,"
                              "\"dim_model_base\":64,\"sparse_config\":{\"topk\":8,\"window_size\":128}}";

static void check_ok(sala_status st, const sala_error *err)
{
    if (st != SALA_OK)
        fail_msg("status %d: %s", (int)st, err->message);
}

static const char *config_file(char path[300], const char *text)
{
    sala_out_file *f;
    test_path(path, 300, "shape.json");
    assert_int_equal(sala_os_out_open(&f, path), 0);
    sala_os_out_write(f, text, strlen(text));
    assert_int_equal(sala_os_out_commit(f), 0);
    return path;
}

static const char *make(char path[300], const char *name, const char *config, const char *type,
                        const sala_random_params *random)
{
    char json[300];
    sala_error err = {0};
    const sala_quant_params params = {.type = type, .n_threads = 1};
    check_ok(sala_quant_random(config_file(json, config), test_path(path, 300, name), &params, random, NULL, &err),
             &err);
    remove(json);
    return path;
}

static sala_gguf *open_file(const char *path)
{
    sala_gguf *g;
    sala_error err = {0};
    check_ok(sala_gguf_open(&g, path, &err), &err);
    return g;
}

static void read_config(sala_config *c, const sala_gguf *g)
{
    sala_error err = {0};
    check_ok(sala_config_from_gguf(c, g, &err), &err);
}

/* GGUF keeps scales as 32-bit floats. */
static void near(double a, double b, const char *what)
{
    if (fabs(a - b) > 1e-6 * fabs(b))
        fail_msg("%s is %.9g, expected %.9g", what, a, b);
}

static void same_model(const sala_config *a, const sala_config *b)
{
    assert_string_equal(a->architecture, b->architecture);
    assert_int_equal(a->n_layers, b->n_layers);
    for (int i = 0; i < a->n_layers; i++)
        assert_int_equal(a->mixers[i], b->mixers[i]);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->n_ctx_train, b->n_ctx_train);
    assert_int_equal(a->tied_head, b->tied_head);
    assert_int_equal(a->qkv_bias, b->qkv_bias);
    assert_int_equal(a->o_bias, b->o_bias);
    assert_int_equal(a->qk_norm, b->qk_norm);
    assert_int_equal(a->attn_rope, b->attn_rope);
    assert_int_equal(a->attn_gate, b->attn_gate);
    near(a->attn_scale_base, b->attn_scale_base, "scale base");
    near(a->attn_scale, b->attn_scale, "attention scale");
    near(a->embed_scale, b->embed_scale, "embedding scale");
    near(a->residual_scale, b->residual_scale, "residual scale");
    near(a->logit_divisor, b->logit_divisor, "logit divisor");
    near(a->rope.theta, b->rope.theta, "theta");
    assert_int_equal(a->rope.n_rot, b->rope.n_rot);
    const sala_sparse_config *s = &a->sparse, *t = &b->sparse;
    assert_int_equal(s->kernel_size, t->kernel_size);
    assert_int_equal(s->kernel_stride, t->kernel_stride);
    assert_int_equal(s->block_size, t->block_size);
    assert_int_equal(s->init_blocks, t->init_blocks);
    assert_int_equal(s->topk, t->topk);
    assert_int_equal(s->window_size, t->window_size);
    assert_int_equal(s->dense_len, t->dense_len);
    assert_int_equal(s->use_nope, t->use_nope);
    const sala_lightning_config *l = &a->lightning, *m = &b->lightning;
    assert_int_equal(l->n_heads, m->n_heads);
    assert_int_equal(l->n_kv_heads, m->n_kv_heads);
    assert_int_equal(l->head_dim, m->head_dim);
    near(l->scale, m->scale, "lightning scale");
    assert_int_equal(l->rope, m->rope);
    assert_int_equal(l->qk_norm, m->qk_norm);
    assert_int_equal(l->out_norm, m->out_norm);
    assert_int_equal(l->gate, m->gate);
}

static void same_tensors(const sala_gguf *a, const sala_gguf *b)
{
    assert_int_equal(sala_gguf_tensors(a).count, sala_gguf_tensors(b).count);
    for (size_t i = 0; i < sala_gguf_tensors(a).count; i++) {
        const sala_tensor *t = &sala_gguf_tensors(a).items[i], *u = sala_gguf_tensor(b, t->name);
        if (!u || u->bytes != t->bytes || memcmp(u->data, t->data, (size_t)t->bytes) != 0)
            fail_msg("%s is not what it was", t->name);
    }
}

static void same_bytes(const char *a, const char *b, bool same)
{
    uint8_t *x, *y;
    size_t nx, ny;
    assert_int_equal(sala_os_read_file(&x, &nx, a, 0), 0);
    assert_int_equal(sala_os_read_file(&y, &ny, b, 0), 0);
    assert_int_equal(nx, ny);
    assert_int_equal(memcmp(x, y, nx) == 0, same);
    free(x);
    free(y);
}

static void seeds(void **state)
{
    (void)state;
    char a[300], b[300], c[300];
    make(a, "a.gguf", SALA, "q4_k_m", &(sala_random_params){.seed = 7});
    make(b, "b.gguf", SALA, "q4_k_m", &(sala_random_params){.seed = 7});
    make(c, "c.gguf", SALA, "q4_k_m", &(sala_random_params){.seed = 8});
    same_bytes(a, b, true);
    same_bytes(a, c, false);
    remove(a);
    remove(b);
    remove(c);
}

/* Moments of a tensor as the model reads it; every number finite. */
static void moments(const sala_tensor *t, double *mean, double *deviation)
{
    const int64_t rows = t->ne[1], cols = t->ne[0];
    float *x = malloc((size_t)cols * sizeof *x);
    double sum = 0, squares = 0;
    assert_non_null(x);
    for (int64_t r = 0; r < rows; r++) {
        sala_dequant_row(t->dtype, x, (const uint8_t *)t->data + (uint64_t)r * t->bytes / (uint64_t)rows, cols);
        for (int64_t i = 0; i < cols; i++) {
            assert_true(isfinite(x[i]));
            sum += (double)x[i];
            squares += (double)x[i] * (double)x[i];
        }
    }
    const double n = (double)rows * (double)cols;
    *mean = sum / n;
    *deviation = sqrt(squares / n - *mean * *mean);
    free(x);
}

static void every_type(void **state)
{
    (void)state;
    for (int r = 0; r < SALA_RECIPE_TQ2_0 + 1; r++) {
        char path[300];
        const char *type = sala_recipe_name((sala_recipe)r);
        make(path, "any.gguf", SALA, type, NULL);
        sala_gguf *g = open_file(path);
        double mean, dev;
        for (size_t i = 0; i < sala_gguf_tensors(g).count; i++)
            moments(&sala_gguf_tensors(g).items[i], &mean, &dev);
        const sala_tensor *q = sala_gguf_tensor(g, "blk.0.attn_q.weight");
        assert_int_equal(q->dtype, sala_recipe_dtype((sala_recipe)r));
        moments(q, &mean, &dev);
        /* 65536 weights of deviation 1/16; the coarsest types lose some of it. */
        if (fabs(mean) > 0.004 || fabs(dev * 16 - 1) > 0.25)
            fail_msg("%s: mean %g, deviation %g", type, mean, dev);
        moments(sala_gguf_tensor(g, "blk.1.attn_out_norm.weight"), &mean, &dev);
        assert_true(fabs(mean - 1) < 0.02 && dev < 0.1);
        moments(sala_gguf_tensor(g, "output.weight"), &mean, &dev);
        assert_true(fabs(dev * 8 - 1) < 0.25); /* z / sqrt(hidden): logits of deviation 1 */
        sala_gguf_close(g);
        remove(path);
    }
}

/* Rows of a matrix must not repeat, and neither must tensors. */
static void rows_differ(void **state)
{
    (void)state;
    char path[300];
    make(path, "rows.gguf", SALA, "q4_0", NULL);
    sala_gguf *g = open_file(path);
    const sala_tensor *e = sala_gguf_tensor(g, "token_embd.weight"), *q = sala_gguf_tensor(g, "blk.0.attn_q.weight");
    const sala_tensor *o = sala_gguf_tensor(g, "blk.0.attn_gate.weight");
    const size_t row = (size_t)(e->bytes / (uint64_t)e->ne[1]);
    for (int64_t i = 0; i < e->ne[1]; i++)
        for (int64_t k = 0; k < i; k++)
            assert_memory_not_equal((const uint8_t *)e->data + (size_t)i * row,
                                    (const uint8_t *)e->data + (size_t)k * row, row);
    assert_int_equal(q->bytes, o->bytes);
    assert_memory_not_equal(q->data, o->data, (size_t)q->bytes);
    sala_gguf_close(g);
    remove(path);
}

static void bytes_are_tokens(void **state)
{
    (void)state;
    char path[300];
    sala_error err = {0};
    sala_tokenizer *t;
    make(path, "text.gguf", SALA, "q8_0", NULL);
    sala_gguf *g = open_file(path);
    check_ok(sala_tokenizer_from_gguf(&t, g, &err), &err);
    assert_int_equal(sala_tokenizer_bos(t), 1);
    assert_int_equal(sala_tokenizer_eos(t), 2);
    assert_int_equal(sala_tokenizer_find(t, "<|im_end|>", 10), 280);
    assert_int_equal(sala_tokenizer_n_vocab(t), 300);
    sala_config c;
    read_config(&c, g);
    assert_int_equal(c.n_eos, 2);
    assert_true(c.eos[0] == 2 && c.eos[1] == 280);
    sala_config_free(&c);
    /* All code points up to three bytes long that are not surrogates, and a few longer ones. */
    sala_buf text = {0}, back = {0};
    for (uint32_t u = 0; u < 0x20000; u += u < 0x3000 ? 1 : 97)
        if (u < 0xD800 || u > 0xDFFF)
            sala_buf_add_utf8(&text, u);
    sala_ids ids = {0};
    const sala_text_span span = {.text = text.data, .bytes = text.len};
    check_ok(sala_tokenizer_encode(t, &ids, &span, 1, true, &err), &err);
    assert_int_equal(ids.count, text.len);
    check_ok(sala_tokenizer_decode(t, &back, ids.data, ids.count, false, &err), &err);
    assert_int_equal(back.len, text.len);
    assert_memory_equal(back.data, text.data, text.len);
    sala_ids_free(&ids);
    sala_buf_free(&text);
    sala_buf_free(&back);
    sala_tokenizer_free(t);
    sala_gguf_close(g);

    /* The vocabulary of another file. */
    char other[300];
    sala_random_params random = {.tokenizer = path, .n_layers = 1};
    make(other, "other.gguf", LLAMA, "q8_0", &random);
    sala_gguf *a = open_file(path), *b = open_file(other);
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.chat_template"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(keys); i++) {
        const sala_gguf_kv *x = sala_gguf_find(a, keys[i]), *y = sala_gguf_find(b, keys[i]);
        assert_true(x && y && x->raw_bytes == y->raw_bytes);
        assert_memory_equal(x->raw, y->raw, (size_t)x->raw_bytes);
    }
    sala_gguf_close(a);
    sala_gguf_close(b);
    remove(path);
    remove(other);
}

/* What config.json says, what GGUF says, and what an exported directory says are one model. */
static void round_trip(const char *text)
{
    char path[300], dir[300], back[300], json[300], q[300];
    sala_error err = {0};
    const sala_quant_params params = {.type = "f32"}, small = {.type = "q4_k_m"};
    sala_config want, got;
    check_ok(sala_config_from_file(&want, config_file(json, text), &err), &err);
    make(path, "first.gguf", text, "f32", NULL);
    sala_gguf *a = open_file(path);
    read_config(&got, a);
    same_model(&got, &want);
    sala_config_free(&got);
    check_ok(sala_quant_to_hf(path, test_path(dir, sizeof dir, "hf"), &params, NULL, &err), &err);
    check_ok(sala_config_from_dir(&got, dir, &err), &err);
    same_model(&got, &want);
    sala_config_free(&got);
    check_ok(sala_quant_to_gguf(dir, test_path(back, sizeof back, "back.gguf"), &params, NULL, &err), &err);
    sala_gguf *b = open_file(back);
    read_config(&got, b);
    same_model(&got, &want);
    sala_config_free(&got);
    same_tensors(a, b);
    sala_gguf_close(a);
    sala_gguf_close(b);
    check_ok(sala_quant_to_gguf(back, test_path(q, sizeof q, "q4.gguf"), &small, NULL, &err), &err);
    a = open_file(q);
    read_config(&got, a);
    same_model(&got, &want);
    assert_int_equal(sala_gguf_tensor(a, "blk.0.attn_q.weight")->dtype, SALA_Q4_K);
    const sala_tensor *gate = sala_gguf_tensor(a, "blk.0.attn_gate.weight"),
                      *z = sala_gguf_tensor(a, "blk.0.attn_z.weight");
    assert_true((!gate || gate->dtype == SALA_Q4_K) && (!z || z->dtype == SALA_Q4_K));
    sala_config_free(&got);
    sala_gguf_close(a);
    sala_config_free(&want);
    remove(path);
    remove(back);
    remove(json);
    remove(q);
    remove_export(dir);
}

static void round_trips(void **state)
{
    (void)state;
    static const char *const models[] = {SALA, SALA_BARE, HYPE, HYPE_PLAIN, LLAMA, MINICPM};
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        round_trip(models[i]);
}

static void other_layers(void **state)
{
    (void)state;
    char path[300];
    sala_config c;
    make(path, "dense.gguf", SALA, "q8_0", &(sala_random_params){.mixers = SALA_RANDOM_DENSE, .n_layers = 8});
    sala_gguf *g = open_file(path);
    read_config(&c, g);
    assert_int_equal(c.n_layers, 8);
    assert_int_equal(sala_config_count(&c, SALA_MIXER_DENSE), 8);
    assert_int_equal(c.lightning.n_heads, 0);
    near(c.residual_scale, 1.4 / sqrt(8.0), "residual scale");
    assert_null(sala_gguf_tensor(g, "blk.1.attn_z.weight"));
    assert_int_equal(sala_gguf_tensor(g, "blk.1.attn_k.weight")->ne[1], 128);
    sala_config_free(&c);
    sala_gguf_close(g);

    make(path, "dense.gguf", SALA, "q8_0", &(sala_random_params){.n_layers = 8});
    g = open_file(path);
    read_config(&c, g);
    for (int i = 0; i < 8; i++)
        assert_int_equal(c.mixers[i], i < 2 ? SALA_MIXER_SPARSE : SALA_MIXER_LIGHTNING);
    sala_config_free(&c);
    sala_gguf_close(g);

    make(path, "dense.gguf", HYPE_PLAIN, "q8_0", &(sala_random_params){.mixers = SALA_RANDOM_SPARSE});
    g = open_file(path);
    read_config(&c, g);
    assert_int_equal(sala_config_count(&c, SALA_MIXER_SPARSE), 4);
    assert_int_equal(c.sparse.topk, 64);
    sala_config_free(&c);
    sala_gguf_close(g);
    remove(path);
}

static bool stop(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    (void)what;
    assert_true(done <= total);
    return false;
}

static void refuse(const char *config, const char *out, const sala_quant_params *params,
                   const sala_random_params *random, const char *says)
{
    sala_error err = {0};
    if (sala_quant_random(config, out, params, random, NULL, &err) == SALA_OK)
        fail_msg("accepted; expected \"%s\"", says);
    if (!strstr(err.message, says))
        fail_msg("\"%s\", expected \"%s\"", err.message, says);
    assert_int_not_equal(access(out, F_OK), 0);
}

static void refusals(void **state)
{
    (void)state;
    char json[300], out[300], dir[300];
    sala_error err = {0};
    test_path(out, sizeof out, "none.gguf");
    config_file(json, SALA);
    refuse(json, out, &(sala_quant_params){.type = "q9"}, NULL, "type \"q9\" is unknown");
    refuse(json, out, &(sala_quant_params){.type = "q4_0", .progress = stop}, NULL, "cancelled");
    refuse(json, out, NULL, &(sala_random_params){.tokenizer = "/nowhere/x.gguf"}, "/nowhere/x.gguf");
    refuse(json, out, NULL, &(sala_random_params){.n_layers = -1}, "-1 layers");
    refuse("/nowhere/x.json", out, NULL, NULL, "could not read /nowhere/x.json");
    config_file(json, "{\"model_type\":\"minicpm_sala\"," SHAPE ",\"mixer_types\":[]}");
    refuse(json, out, NULL, NULL, "names 0 layers");

    /* A directory whose list of layers is not that of its tensors. */
    char path[300], config[400];
    const sala_quant_params params = {.type = "f32"};
    make(path, "whole.gguf", SALA, "f32", NULL);
    check_ok(sala_quant_to_hf(path, test_path(dir, sizeof dir, "hf"), &params, NULL, &err), &err);
    snprintf(config, sizeof config, "%s/config.json", dir);
    json_error_t je;
    json_t *o = json_load_file(config, 0, &je);
    json_array_set_new(json_object_get(o, "mixer_types"), 2, json_string("minicpm4"));
    assert_int_equal(json_dump_file(o, config, 0), 0);
    json_decref(o);
    assert_int_not_equal(sala_quant_to_gguf(dir, out, &params, NULL, &err), SALA_OK);
    if (!strstr(err.message, "model.layers.2.self_attn.") || !strstr(err.message, "softmax"))
        fail_msg("%s", err.message);

    /* The same for GGUF: a copy without one tensor. */
    sala_gguf *g = open_file(path);
    sala_gguf_writer *w;
    check_ok(sala_gguf_writer_open(&w, out, &err), &err);
    for (size_t i = 0; i < sala_gguf_n_kv(g); i++)
        sala_gguf_write_kv(w, sala_gguf_kv_at(g, i));
    const sala_tensor_list all = sala_gguf_tensors(g);
    for (size_t i = 0; i < all.count; i++)
        if (strcmp(all.items[i].name, "blk.3.attn_z.weight") != 0)
            sala_gguf_write_tensor(w, all.items[i].name, all.items[i].dtype, all.items[i].n_dims, all.items[i].ne);
    check_ok(sala_gguf_writer_begin_data(w, &err), &err);
    for (size_t i = 0, k = 0; i < all.count; i++)
        if (strcmp(all.items[i].name, "blk.3.attn_z.weight") != 0)
            check_ok(sala_gguf_write_data(w, k++, 0, all.items[i].data, all.items[i].bytes, &err), &err);
    check_ok(sala_gguf_writer_commit(w, &err), &err);
    sala_gguf_close(g);
    assert_int_equal(sala_quant_to_gguf(out, path, &params, NULL, &err), SALA_E_CORRUPT);
    if (!strstr(err.message, "layer 3 is a lightning one") || !strstr(err.message, "blk.3.attn_z.weight"))
        fail_msg("%s", err.message);
    remove(out);
    remove(path);
    remove(json);
    remove_export(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds),       cmocka_unit_test(every_type),   cmocka_unit_test(rows_differ),
        cmocka_unit_test(round_trips), cmocka_unit_test(other_layers), cmocka_unit_test(bytes_are_tokens),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
