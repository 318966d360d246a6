/* Hybrid models' configurations: the two families' config.json, sparse settings of any family, layer lists and numbers
 * that can not be. The facts are those of the published configurations. */
#include "unit/format/support.h"

#include "model/config.h"

#include <math.h>

static sala_status read_text(sala_config *c, const char *text, sala_error *err)
{
    json_error_t je;
    json_t *o = json_loads(text, 0, &je);
    if (!o)
        fail_msg("%s: %s", text, je.text);
    const sala_status st = sala_config_from_json(c, o, NULL, err);
    json_decref(o);
    return st;
}

static void read_ok(sala_config *c, const char *text)
{
    sala_error err;
    if (read_text(c, text, &err) != SALA_OK)
        fail_msg("%s: %s", text, err.message);
}

#define SHAPE                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                   \
    "\"num_key_value_heads\":2,\"vocab_size\":300,\"max_position_embeddings\":1024"
#define SALA "{\"model_type\":\"minicpm_sala\"," SHAPE
#define HYPE "{\"model_type\":\"hypenet\"," SHAPE ",\"head_dim\":16"
#define SALA_MIX ",\"mixer_types\":[\"minicpm4\",\"lightning-attn\",\"lightning_attn\"]"
#define HYPE_MIX ",\"mixer_types\":[\"lightning_attn\",\"attn\",\"lightning-attn\"]"

static void example(sala_config *c, const char *name)
{
    sala_error err;
    json_error_t je;
    char path[600];
    snprintf(path, sizeof path, "%s/../examples/configs/%s", SALA_TEST_DIR, name);
    json_t *o = json_load_file(path, 0, &je);
    if (!o)
        fail_msg("%s: %s", path, je.text);
    if (sala_config_from_json(c, o, NULL, &err) != SALA_OK)
        fail_msg("%s: %s", path, err.message);
    json_decref(o);
}

static void test_released_sala(void **state)
{
    (void)state;
    static const int sparse[] = {0, 9, 16, 17, 22, 29, 30, 31};
    sala_config c;
    example(&c, "minicpm-sala-9b.json");
    assert_string_equal(c.architecture, "minicpm-sala");
    assert_int_equal(c.n_layers, 32);
    assert_int_equal(sala_config_count(&c, SALA_MIXER_SPARSE), 8);
    assert_int_equal(sala_config_count(&c, SALA_MIXER_LIGHTNING), 24);
    for (size_t i = 0; i < SALA_ARRAY_LEN(sparse); i++)
        assert_int_equal(c.mixers[sparse[i]], SALA_MIXER_SPARSE);
    assert_int_equal(c.sparse.kernel_size, 32);
    assert_int_equal(c.sparse.kernel_stride, 16);
    assert_int_equal(c.sparse.block_size, 64);
    assert_int_equal(c.sparse.init_blocks, 1);
    assert_int_equal(c.sparse.topk, 64);
    assert_int_equal(c.sparse.window_size, 2048);
    assert_int_equal(c.sparse.dense_len, 8192);
    assert_int_equal(sala_sparse_selected(&c.sparse), 96);
    assert_false(c.sparse.use_nope);
    assert_int_equal(c.lightning.n_heads, 32);
    assert_int_equal(c.lightning.n_kv_heads, 32);
    assert_int_equal(c.lightning.head_dim, 128);
    assert_true(c.lightning.scale == 1 / sqrt(128.0));
    assert_true(c.lightning.rope && c.lightning.qk_norm && c.lightning.out_norm && c.lightning.gate);
    /* The paper normalises q and k everywhere, the weights only in linear layers. */
    assert_false(c.qk_norm);
    assert_false(c.attn_rope);
    assert_true(c.attn_gate);
    assert_true(c.attn_scale_base == 0 && c.attn_scale == 1 / sqrt(128.0));
    assert_int_equal(c.rope.n_rot, 128);
    assert_true(c.rope.half);
    assert_int_equal(c.n_ctx_train, 524288);
    assert_true(c.embed_scale == 12 && c.logit_divisor == 16);
    assert_true(fabs(c.residual_scale - 0.2474873734) < 1e-9);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 73440);
    sala_config_free(&c);
}

static void test_examples(void **state)
{
    (void)state;
    static const char *const hybrids[] = {"minicpm-sala-0.5b.json", "minicpm-sala-tiny.json"};
    static const char *const dense[] = {"minicpm4-0.5b.json", "minicpm4-8b.json"};
    sala_config c;
    for (size_t i = 0; i < SALA_ARRAY_LEN(hybrids); i++) {
        example(&c, hybrids[i]);
        const int n = sala_config_count(&c, SALA_MIXER_SPARSE);
        assert_int_equal(c.n_layers, n + sala_config_count(&c, SALA_MIXER_LIGHTNING));
        assert_int_equal(c.n_layers, 4 * n);
        sala_config_free(&c);
    }
    for (size_t i = 0; i < SALA_ARRAY_LEN(dense); i++) {
        example(&c, dense[i]);
        assert_int_equal(sala_config_count(&c, SALA_MIXER_DENSE), c.n_layers);
        assert_int_equal(c.rope.kind, SALA_ROPE_LONGROPE);
        sala_config_free(&c);
    }
}

static void test_sala_switches(void **state)
{
    (void)state;
    sala_config c;
    read_ok(&c, SALA SALA_MIX "}");
    /* Without sparse_config the softmax layers see everything. */
    assert_int_equal(c.mixers[0], SALA_MIXER_DENSE);
    assert_int_equal(c.mixers[1], SALA_MIXER_LIGHTNING);
    assert_int_equal(c.mixers[2], SALA_MIXER_LIGHTNING);
    assert_int_equal(c.lightning.n_heads, 4);
    assert_int_equal(c.lightning.n_kv_heads, 2);
    assert_int_equal(c.lightning.head_dim, 16);
    assert_true(c.lightning.rope && c.lightning.qk_norm && c.lightning.out_norm && c.lightning.gate && c.attn_gate);
    sala_config_free(&c);

    read_ok(&c, SALA SALA_MIX ",\"use_output_gate\":false,\"use_output_norm\":null,\"qk_norm\":false,"
                              "\"attn_use_output_gate\":false,\"attn_use_rope\":true,\"lightning_use_rope\":false,"
                              "\"lightning_nh\":8,\"lightning_nkv\":8,\"lightning_head_dim\":8,"
                              "\"lightning_scale\":\"1/d\",\"sparse_config\":{\"topk\":4,\"dense_len\":-1}}");
    assert_int_equal(c.mixers[0], SALA_MIXER_SPARSE);
    assert_true(c.attn_rope);
    assert_false(c.lightning.rope || c.lightning.qk_norm || c.lightning.out_norm || c.lightning.gate || c.attn_gate);
    assert_int_equal(c.lightning.head_dim, 8);
    assert_true(c.lightning.scale == 0.125);
    assert_int_equal(c.sparse.topk, 4);
    assert_int_equal(c.sparse.dense_len, -1);
    assert_int_equal(c.sparse.kernel_size, 32);
    sala_config_free(&c);

    /* Only linear layers rotate: their heads say how much. */
    read_ok(&c, SALA SALA_MIX ",\"lightning_nh\":2,\"lightning_nkv\":2,\"lightning_head_dim\":32,"
                              "\"lightning_scale\":\"identity\"}");
    assert_int_equal(c.rope.n_rot, 32);
    assert_true(c.lightning.scale == 1);
    sala_config_free(&c);
}

static void test_hypenet(void **state)
{
    (void)state;
    sala_config c;
    read_ok(&c, HYPE "}"); /* the class's default: Qwen3 */
    assert_string_equal(c.architecture, "hypenet");
    assert_int_equal(sala_config_count(&c, SALA_MIXER_DENSE), 3);
    assert_true(c.qk_norm && c.attn_rope);
    assert_false(c.attn_gate || c.tied_head || c.qkv_bias);
    assert_int_equal(c.lightning.n_heads, 0);
    assert_true(c.rope.theta == 10000);
    sala_config_free(&c);

    read_ok(&c, HYPE HYPE_MIX "}");
    assert_int_equal(c.mixers[0], SALA_MIXER_LIGHTNING);
    assert_int_equal(c.mixers[1], SALA_MIXER_DENSE);
    assert_true(c.qk_norm && c.lightning.rope);
    assert_false(c.lightning.qk_norm || c.lightning.out_norm || c.lightning.gate);
    assert_int_equal(c.lightning.n_kv_heads, 2);
    sala_config_free(&c);

    read_ok(&c, HYPE HYPE_MIX
            ",\"lightning_use_qk_norm\":true,\"lightning_use_output_norm\":true,\"lightning_use_output_gate\":true,"
            "\"attn_use_output_gate\":true,\"attn_use_rope\":false,\"lightning_nkv\":4,\"attention_bias\":true,"
            "\"rope_theta\":1000000,\"tie_word_embeddings\":true,\"attn_logits_scaling\":\"hype 100.5\"}");
    assert_true(c.lightning.qk_norm && c.lightning.out_norm && c.lightning.gate && c.attn_gate && c.tied_head);
    assert_true(c.qkv_bias && c.o_bias);
    assert_false(c.attn_rope);
    assert_int_equal(c.lightning.n_kv_heads, 4);
    assert_true(c.attn_scale_base == 100.5 && c.rope.theta == 1000000);
    sala_config_free(&c);

    read_ok(&c, HYPE ",\"attn_logits_scaling\":\"hype\"}");
    assert_true(c.attn_scale_base == 362 && c.attn_scale == 0.25);
    sala_config_free(&c);
    read_ok(&c, HYPE ",\"attn_logits_scaling\":1.5}");
    assert_true(c.attn_scale_base == 0 && c.attn_scale == 0.375);
    sala_config_free(&c);
    read_ok(&c, "{\"model_type\":\"hypenet\"," SHAPE ",\"head_dim\":null}");
    assert_int_equal(c.head_dim, 16);
    sala_config_free(&c);
}

static void test_sparse_elsewhere(void **state)
{
    (void)state;
    static const char *const types[] = {"llama", "mistral", "minicpm", "minicpm4", "qwen2", "qwen3", "hypenet"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        char text[800];
        sala_config c;
        snprintf(text, sizeof text, "{\"model_type\":\"%s\",%s,\"sparse_config\":{}}", types[i], SHAPE);
        read_ok(&c, text);
        assert_int_equal(sala_config_count(&c, SALA_MIXER_SPARSE), 3);
        assert_int_equal(sala_sparse_selected(&c.sparse), 96);
        assert_int_equal(sala_config_set_sparse(&c, NULL, NULL), SALA_OK);
        assert_int_equal(sala_config_count(&c, SALA_MIXER_DENSE), 3);
        sala_config_free(&c);
        snprintf(text, sizeof text, "{\"model_type\":\"%s\",%s,\"sparse_config\":null}", types[i], SHAPE);
        read_ok(&c, text);
        assert_int_equal(sala_config_count(&c, SALA_MIXER_DENSE), 3);
        sala_config_free(&c);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        sala_status st;
    } cases[] = {
        {SALA "}", "lacks \"mixer_types\"", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[]}", "names 0 layers, expected 3", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":\"minicpm4\"}", "is not a list", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[\"minicpm4\",\"lightning-attn\"]}", "names 2 layers, expected 3", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[\"minicpm4\",\"lightning-attn\",7]}", "layer 2 is not a name", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[\"minicmp4\",\"lightning\",\"lightning\"]}", "nearest: \"minicpm4\"", SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[\"minicpm4\",\"lightnin-attn\",\"lightning\"]}", "nearest: \"lightning-attn\"",
         SALA_E_CORRUPT},
        {SALA ",\"mixer_types\":[\"minicpm4\",\"mamba2\",\"lightning\"]}", "layer 1 is \"mamba2\"", SALA_E_UNSUPPORTED},
        {HYPE ",\"mixer_types\":[\"attn\",\"gdn\",\"kda\"]}", "layer 1 is \"gdn\", which is not supported",
         SALA_E_UNSUPPORTED},
        {HYPE ",\"mixer_types\":[\"attn\"]}", "names 1 layers, expected 3", SALA_E_CORRUPT},
        {HYPE HYPE_MIX ",\"lightning_use_short_conv\":true}", "lightning_use_short_conv", SALA_E_UNSUPPORTED},
        {HYPE HYPE_MIX ",\"lightning_nh\":6,\"lightning_nkv\":4}", "share 4 key/value heads", SALA_E_CORRUPT},
        {HYPE HYPE_MIX ",\"lightning_nh\":0}", "lightning heads is 0", SALA_E_CORRUPT},
        {HYPE HYPE_MIX ",\"lightning_head_dim\":32}", "both rotate", SALA_E_UNSUPPORTED},
        {HYPE HYPE_MIX ",\"lightning_head_dim\":-1}", "lightning_head_dim", SALA_E_CORRUPT},
        {HYPE HYPE_MIX ",\"lightning_scale\":0.5}", "\"lightning_scale\" is no text", SALA_E_UNSUPPORTED},
        {HYPE ",\"attn_logits_scaling\":\"hype x\"}", "second word", SALA_E_CORRUPT},
        {HYPE ",\"attn_logits_scaling\":\"hype 1\"}", "second word", SALA_E_CORRUPT},
        {HYPE ",\"attn_logits_scaling\":\"hype nan\"}", "second word", SALA_E_CORRUPT},
        {HYPE ",\"attn_logits_scaling\":-1.0}", "expected a positive number", SALA_E_CORRUPT},
        {HYPE ",\"attn_logits_scaling\":true}", "attn_logits_scaling", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"attn_use_rope\":1}", "\"attn_use_rope\" is not true or false", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"lightning_layerwise_decay\":true}", "lightning_layerwise_decay", SALA_E_UNSUPPORTED},
        {SALA SALA_MIX ",\"sparse_config\":[]}", "\"sparse_config\" is not an object", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"topk\":\"64\"}}", "\"topk\" is not an integer", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"topk\":0}}", "topk of sparse attention is 0", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"block_size\":0}}", "\"block_size\" is 0", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"block_size\":100}}", "multiple of kernel_stride", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"kernel_stride\":0}}", "kernel_stride", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"kernel_size\":40}}", "kernel_size", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"dense_len\":-2}}", "dense_len", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"dense_len\":1e300}}", "dense_len", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"window_size\":999999999}}", "window_size", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"init_blocks\":200}}", "topk must be at least 201", SALA_E_CORRUPT},
        {SALA SALA_MIX ",\"sparse_config\":{\"use_nope\":\"yes\"}}", "use_nope", SALA_E_CORRUPT},
        {"{\"model_type\":\"mistral\"," SHAPE ",\"sliding_window\":64,\"sparse_config\":{}}", "sliding window",
         SALA_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_config c;
        sala_error err;
        const sala_status st = read_text(&c, cases[i].text, &err);
        if (st == SALA_OK)
            fail_msg("accepted: %s", cases[i].text);
        if (st != cases[i].st || !strstr(err.message, cases[i].says))
            fail_msg("%s: status %d, \"%s\" (expected \"%s\")", cases[i].text, (int)st, err.message, cases[i].says);
    }
}

/* A directory whose tensors have other shapes than lightning_nh and lightning_head_dim say. */
static void fit(int32_t q_rows, int32_t k_rows, int32_t norm, const char *config, int32_t heads, int32_t kv,
                int32_t dim)
{
    sala_buf header = {0}, file = {0};
    sala_safetensors *st;
    sala_config c;
    sala_error err;
    const long q_bytes = (long)q_rows * 64 * 4, k_bytes = (long)k_rows * 64 * 4;
    sala_buf_printf(&header,
                    "{\"model.layers.1.self_attn.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[%d,64],"
                    "\"data_offsets\":[0,%ld]},\"model.layers.1.self_attn.k_proj.weight\":{\"dtype\":\"F32\","
                    "\"shape\":[%d,64],\"data_offsets\":[%ld,%ld]},\"model.layers.1.self_attn.q_norm.weight\":"
                    "{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%ld,%ld]}}",
                    q_rows, q_bytes, k_rows, q_bytes, q_bytes + k_bytes, norm, q_bytes + k_bytes,
                    q_bytes + k_bytes + norm * 4L);
    for (int i = 0; i < 8; i++)
        sala_buf_add_char(&file, (char)((header.len >> (8 * i)) & 255));
    sala_buf_add(&file, header.data, header.len);
    for (long i = 0; i < q_bytes + k_bytes + norm * 4L; i++)
        sala_buf_add_char(&file, 0);
    if (sala_safetensors_parse(&st, file.data, file.len, &err) != SALA_OK)
        fail_msg("%s", err.message);
    read_ok(&c, config);
    if (sala_config_fit_lightning(&c, st, &err) != SALA_OK)
        fail_msg("%s: %s", config, err.message);
    assert_int_equal(c.lightning.n_heads, heads);
    assert_int_equal(c.lightning.n_kv_heads, kv);
    assert_int_equal(c.lightning.head_dim, dim);
    assert_int_equal(c.rope.n_rot, dim);
    assert_true(c.lightning.scale == 1 / sqrt((double)dim));
    sala_config_free(&c);
    sala_safetensors_close(st);
    sala_buf_free(&header);
    sala_buf_free(&file);
}

static void test_tensors_decide(void **state)
{
    (void)state;
#define KEYS ",\"lightning_nh\":8,\"lightning_nkv\":8,\"lightning_head_dim\":8}"
    fit(64, 64, 8, SALA SALA_MIX KEYS, 8, 8, 8);   /* as the keys say */
    fit(64, 64, 16, SALA SALA_MIX KEYS, 4, 4, 16); /* as the model's own code builds them */
    fit(64, 32, 16, SALA SALA_MIX KEYS, 4, 2, 16); /* with fewer key heads */
    fit(96, 32, 16, SALA SALA_MIX KEYS, 8, 8, 8);  /* neither: loading will tell */
    fit(64, 64, 16, "{\"model_type\":\"hypenet\"," SHAPE ",\"head_dim\":16,\"attn_use_rope\":false" HYPE_MIX KEYS, 8, 8,
        8); /* HypeNet's code uses the keys */
#undef KEYS
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_sala),    cmocka_unit_test(test_examples),
        cmocka_unit_test(test_sala_switches),    cmocka_unit_test(test_hypenet),
        cmocka_unit_test(test_sparse_elsewhere), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_tensors_decide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
