/* config.json against what transformers makes of it (frozen in tests/fixtures/hf_configs.json by freeze_configs.py),
 * the MiniCPM family against its published formulas, and configurations that can not be run. */
#include "unit/format/support.h"

#include "model/config.h"

#include <math.h>

static void near(double got, double want, double tolerance, const char *name, const char *what)
{
    if (!(fabs(got - want) <= tolerance * fmax(1e-30, fabs(want))))
        fail_msg("%s: %s is %.17g, expected %.17g", name, what, got, want);
}

static void same_freq(const char *name, const sala_config *c, bool long_list, const json_t *want, double factor)
{
    double freq[256];
    assert_int_equal(json_array_size(want), c->rope.n_rot / 2);
    near(sala_rope_inv_freq(c, long_list, freq), factor, 1e-6, name, "attention factor");
    /* The oracle computes in float32: a power, a division and a mixture, each with a few units in the last place. */
    for (size_t i = 0; i < json_array_size(want); i++)
        near(freq[i], json_number_value(json_array_get(want, i)), 2e-6, name, long_list ? "long angle" : "angle");
}

static void same_config(const char *name, const sala_config *c, const json_t *e)
{
    const struct {
        const char *key;
        int64_t got;
    } ints[] = {{"n_layers", c->n_layers}, {"n_embd", c->n_embd},           {"n_ff", c->n_ff},
                {"n_heads", c->n_heads},   {"n_kv_heads", c->n_kv_heads},   {"head_dim", c->head_dim},
                {"n_vocab", c->n_vocab},   {"n_ctx_train", c->n_ctx_train}, {"sliding_window", c->sliding_window}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++)
        if (ints[i].got != json_integer_value(json_object_get(e, ints[i].key)))
            fail_msg("%s: %s is %lld", name, ints[i].key, (long long)ints[i].got);
    const struct {
        const char *key;
        bool got;
    } bools[] = {{"tied_head", c->tied_head},
                 {"qkv_bias", c->qkv_bias},
                 {"o_bias", c->o_bias},
                 {"mlp_bias", c->mlp_bias},
                 {"qk_norm", c->qk_norm}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(bools); i++)
        if (bools[i].got != json_is_true(json_object_get(e, bools[i].key)))
            fail_msg("%s: %s is %d", name, bools[i].key, bools[i].got);
    near(c->rms_eps, json_number_value(json_object_get(e, "rms_eps")), 0, name, "epsilon");
    near(c->attn_scale, json_number_value(json_object_get(e, "attn_scale")), 1e-15, name, "attention scale");
    const json_t *eos = json_object_get(e, "eos"), *bos = json_object_get(e, "bos");
    assert_int_equal(c->n_eos, json_array_size(eos));
    for (int i = 0; i < c->n_eos; i++)
        assert_int_equal(c->eos[i], json_integer_value(json_array_get(eos, (size_t)i)));
    assert_int_equal(c->bos, json_is_integer(bos) ? json_integer_value(bos) : -1);
    assert_true(c->rope.half);
    const double factor = json_number_value(json_object_get(e, "attention_factor"));
    same_freq(name, c, false, json_object_get(e, "inv_freq"), factor);
    same_freq(name, c, true, json_object_get(e, "inv_freq_long"), factor);
    for (int i = 0; i < c->n_layers; i++)
        assert_int_equal(c->mixers[i], SALA_MIXER_DENSE);
}

static void test_like_transformers(void **state)
{
    (void)state;
    json_error_t je;
    json_t *cases = json_load_file(SALA_TEST_DIR "/fixtures/hf_configs.json", 0, &je);
    if (!cases)
        fail_msg("%s", je.text);
    assert_true(json_array_size(cases) > 30);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *k = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(k, "name"));
        const json_t *generation = json_object_get(k, "generation");
        sala_config c;
        sala_error err;
        if (sala_config_from_json(&c, json_object_get(k, "config"), json_is_object(generation) ? generation : NULL,
                                  &err) != SALA_OK)
            fail_msg("%s: %s", name, err.message);
        same_config(name, &c, json_object_get(k, "expect"));
        sala_config_free(&c);
    }
    json_decref(cases);
}

/* ---- helpers for configurations in C ---- */

#define SHAPE                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":4,\"num_attention_heads\":4,"                   \
    "\"vocab_size\":300,\"max_position_embeddings\":1024"
#define LLAMA "{\"model_type\":\"llama\"," SHAPE

static sala_status read_json(sala_config *c, const char *config, const char *generation, sala_error *err)
{
    json_error_t je;
    json_t *a = json_loads(config, 0, &je);
    if (!a)
        fail_msg("%s: %s", config, je.text);
    json_t *b = generation ? json_loads(generation, 0, &je) : NULL;
    const sala_status st = sala_config_from_json(c, a, b, err);
    json_decref(a);
    json_decref(b);
    return st;
}

static void read_ok(sala_config *c, const char *config, const char *generation)
{
    sala_error err;
    if (read_json(c, config, generation, &err) != SALA_OK)
        fail_msg("%s: %s", config, err.message);
}

/* Shapes and scales of MiniCPM4-8B; the values are those of the published table. */
static void test_minicpm(void **state)
{
    (void)state;
    sala_buf b = {0};
    sala_buf_add_str(&b, "{\"model_type\":\"minicpm\",\"architectures\":[\"MiniCPMForCausalLM\"],\"hidden_size\":4096,"
                         "\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":2,"
                         "\"intermediate_size\":16384,\"vocab_size\":73448,\"max_position_embeddings\":32768,"
                         "\"scale_emb\":12,\"scale_depth\":1.4,\"dim_model_base\":256,\"tie_word_embeddings\":false,"
                         "\"eos_token_id\":[2,73440],\"bos_token_id\":1,\"rms_norm_eps\":1e-06,\"mup_denominator\":32,"
                         "\"rope_scaling\":{\"rope_type\":\"longrope\",\"original_max_position_embeddings\":32768,"
                         "\"factor\":4.0,\"long_factor\":[");
    /* The published lists are samples of a logistic curve. */
    double curve[64];
    for (int i = 0; i < 64; i++)
        curve[i] = 0.9157734670477342 + 30.190175865146276 / (1 + exp(-0.18747656542932134 * (i - 31.5)));
    for (int list = 0; list < 2; list++) {
        for (int i = 0; i < 64; i++)
            sala_buf_printf(&b, "%s%.17g", i ? "," : "", curve[i] * (list ? 2 : 1));
        sala_buf_add_str(&b, list ? "]}}" : "],\"short_factor\":[");
    }
    near(curve[20], 4.048719380066383, 1e-12, "curve", "20"); /* published values, so that the formula is right */
    near(curve[63], 31.02392307921529, 1e-12, "curve", "63");
    sala_config c;
    read_ok(&c, b.data, NULL);
    assert_string_equal(c.architecture, "minicpm");
    near(c.embed_scale, 12, 0, "8B", "embedding scale");
    near(c.residual_scale, 0.2474873734, 1e-9, "8B", "residual scale");
    near(c.logit_divisor, 16, 0, "8B", "logit divisor");
    assert_int_equal(c.head_dim, 128);
    assert_false(c.tied_head);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 73440);
    double freq[64];
    near(sala_rope_inv_freq(&c, true, freq), 1, 0, "8B", "attention factor");
    near(freq[20], pow(10000, -40.0 / 128) / 4.048719380066383, 1e-6, "8B", "long angle");
    near(sala_rope_inv_freq(&c, false, freq), 1, 0, "8B", "attention factor");
    near(freq[20], pow(10000, -40.0 / 128) / 4.048719380066383 / 2, 1e-6, "8B", "short angle");
    sala_config_free(&c);

    sala_buf_free(&b);

    /* Beyond the original context the factor follows from the stretch; this family does not read "factor". */
    read_ok(&c,
            "{\"model_type\":\"minicpm\"," SHAPE ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4,"
            "\"original_max_position_embeddings\":256,\"long_factor\":[1,2,3,4,5,6,7,8],"
            "\"short_factor\":[1,1,1,1,1,1,1,1]}}",
            NULL);
    near(sala_rope_inv_freq(&c, true, freq), sqrt(1 + log(4) / log(256)), 1e-15, "minicpm", "attention factor");
    assert_true(c.tied_head); /* the default of its class */
    near(c.embed_scale, 1, 0, "minicpm", "default embedding scale");
    near(c.residual_scale, 0.5, 0, "minicpm", "default residual scale");
    near(c.logit_divisor, 64, 0, "minicpm", "default logit divisor");
    sala_config_free(&c);
    read_ok(&c,
            "{\"model_type\":\"minicpm\"," SHAPE ",\"rope_scaling\":{\"type\":\"longrope\",\"attention_factor\":1.5,"
            "\"original_max_position_embeddings\":2048,\"long_factor\":[1,2,3,4,5,6,7,8]}}",
            NULL);
    near(sala_rope_inv_freq(&c, false, freq), 1.5, 0, "minicpm", "given attention factor");
    near(freq[1], pow(10000, -0.125) / 2, 1e-6, "minicpm", "one list for both");
    c.rope.attention_factor = 0; /* derived: 1024 positions of 2048 are no extension */
    near(sala_rope_inv_freq(&c, false, freq), 1, 0, "minicpm", "clamped attention factor");
    sala_config_free(&c);
}

static void test_other_keys(void **state)
{
    (void)state;
    sala_config c;
    read_ok(&c, "{\"model_type\":\"strange\",\"architectures\":[\"LlamaForCausalLM\"]," SHAPE "}", NULL);
    assert_string_equal(c.architecture, "llama");
    assert_string_equal(c.quant_method, "");
    assert_true(c.gen_temperature < 0 && c.gen_top_p < 0 && c.gen_top_k < 0);
    sala_config_free(&c);
    read_ok(&c, LLAMA ",\"partial_rotary_factor\":0.5,\"quantization_config\":{\"quant_method\":\"gptq\"}}",
            "{\"do_sample\":true,\"temperature\":0.8,\"top_p\":0.75,\"top_k\":40,\"min_p\":0.05,"
            "\"repetition_penalty\":1.1,\"eos_token_id\":[2,2,-1,300,299]}");
    assert_int_equal(c.rope.n_rot, 8);
    assert_string_equal(c.quant_method, "gptq");
    assert_true(c.gen_temperature == 0.8 && c.gen_top_p == 0.75 && c.gen_min_p == 0.05 && c.gen_repeat_penalty == 1.1);
    assert_int_equal(c.gen_top_k, 40);
    assert_int_equal(c.n_eos, 2); /* once each, and only those that the vocabulary has */
    assert_int_equal(c.eos[1], 299);
    sala_config_free(&c);
    read_ok(&c, LLAMA "}", "{\"do_sample\":false,\"temperature\":0.8}");
    assert_true(c.gen_temperature == 0);
    sala_config_free(&c);
    read_ok(&c, "{\"model_type\":\"minicpm4\"," SHAPE "}", NULL);
    assert_true(c.embed_scale == 12);
    sala_config_free(&c);
    /* Whole numbers written as floats. */
    read_ok(&c,
            "{\"model_type\":\"llama\",\"hidden_size\":64.0,\"intermediate_size\":96,\"num_hidden_layers\":1,"
            "\"num_attention_heads\":4,\"vocab_size\":300}",
            NULL);
    assert_int_equal(c.n_embd, 64);
    sala_config_free(&c);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        sala_status code;
        const char *fragment;
    } cases[] = {
        {"[]", SALA_E_CORRUPT, "not a JSON object"},
        {"{}", SALA_E_UNSUPPORTED, "model type \"(none)\""},
        {"{\"model_type\":\"gemma2\"}", SALA_E_UNSUPPORTED, "\"gemma2\" is not supported, expected one of: llama"},
        {"{\"model_type\":\"a\\u001b[2J\"}", SALA_E_UNSUPPORTED, "\"(none)\""},
        {"{\"model_type\":7}", SALA_E_UNSUPPORTED, "\"(none)\""},
        {"{\"model_type\":\"llama\"}", SALA_E_CORRUPT, "lacks \"num_hidden_layers\""},
        {LLAMA ",\"hidden_size\":\"big\"}", SALA_E_CORRUPT, "\"hidden_size\" is not an integer"},
        {LLAMA ",\"hidden_size\":-64}", SALA_E_CORRUPT, "\"hidden_size\" is -64"},
        {LLAMA ",\"hidden_size\":64.5}", SALA_E_CORRUPT, "\"hidden_size\" is not an integer"},
        {LLAMA ",\"hidden_size\":1e300}", SALA_E_CORRUPT, "\"hidden_size\" is not an integer"},
        {LLAMA ",\"hidden_size\":9223372036854775807}", SALA_E_CORRUPT, "expected at most 2147483647"},
        {LLAMA ",\"hidden_size\":2147483647}", SALA_E_CORRUPT, "the hidden size is 2147483647"},
        {LLAMA ",\"num_hidden_layers\":0}", SALA_E_CORRUPT, "number of layers is 0"},
        {LLAMA ",\"num_hidden_layers\":2000000000}", SALA_E_CORRUPT, "number of layers is 2000000000"},
        {LLAMA ",\"num_attention_heads\":0}", SALA_E_CORRUPT, "attention heads is 0"},
        {LLAMA ",\"num_attention_heads\":65536,\"head_dim\":4096}", SALA_E_CORRUPT, "heads times head size"},
        {LLAMA ",\"num_key_value_heads\":3}", SALA_E_CORRUPT, "can not share 3 key/value heads"},
        {LLAMA ",\"num_key_value_heads\":0}", SALA_E_CORRUPT, "key/value heads is 0"},
        {LLAMA ",\"head_dim\":15}", SALA_E_CORRUPT, "even number"},
        {LLAMA ",\"vocab_size\":0}", SALA_E_CORRUPT, "vocabulary size is 0"},
        {LLAMA ",\"intermediate_size\":0}", SALA_E_CORRUPT, "feed-forward size is 0"},
        {LLAMA ",\"max_position_embeddings\":0}", SALA_E_CORRUPT, "trained context is 0"},
        {LLAMA ",\"rms_norm_eps\":-1}", SALA_E_CORRUPT, "epsilon of the norms is -1"},
        {LLAMA ",\"rms_norm_eps\":\"1e-6\"}", SALA_E_CORRUPT, "\"rms_norm_eps\" is not a number"},
        {LLAMA ",\"tie_word_embeddings\":1}", SALA_E_CORRUPT, "\"tie_word_embeddings\" is not true or false"},
        {LLAMA ",\"hidden_act\":\"gelu\"}", SALA_E_UNSUPPORTED, "activation \"gelu\""},
        {LLAMA ",\"num_local_experts\":8}", SALA_E_UNSUPPORTED, "mixtures of experts"},
        {LLAMA ",\"rope_theta\":0}", SALA_E_CORRUPT, "base frequency is 0"},
        {LLAMA ",\"rope_theta\":\"x\"}", SALA_E_CORRUPT, "\"rope_theta\" is not a number"},
        {LLAMA ",\"partial_rotary_factor\":2}", SALA_E_CORRUPT, "\"partial_rotary_factor\" is 2"},
        {LLAMA ",\"partial_rotary_factor\":0.01}", SALA_E_CORRUPT, "turns 0 components"},
        {LLAMA ",\"rope_scaling\":\"linear\"}", SALA_E_CORRUPT, "not an object"},
        {LLAMA ",\"rope_scaling\":{\"type\":7}}", SALA_E_CORRUPT, "not plain text"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"magic\"}}", SALA_E_UNSUPPORTED, "type \"magic\""},
        {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", SALA_E_UNSUPPORTED, "up to 1024 tokens"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", SALA_E_CORRUPT, "lacks \"factor\""},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", SALA_E_CORRUPT, "scaling factor is 0"},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", SALA_E_CORRUPT, "freq_factor\""},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
               "\"high_freq_factor\":4}}",
         SALA_E_CORRUPT, "0 < low < high"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":-1}}", SALA_E_CORRUPT, "scaling factor is -1"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":-1}}", SALA_E_CORRUPT, "beta_fast -1"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"attention_factor\":-1}}", SALA_E_CORRUPT,
         "attention factor is -1"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\"}}", SALA_E_CORRUPT, "\"long_factor\" are missing"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":5}}", SALA_E_CORRUPT, "not a list"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[\"x\"]}}", SALA_E_CORRUPT, "no number"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2]}}", SALA_E_CORRUPT,
         "2 values, expected 8"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2],\"short_factor\":[1]}}", SALA_E_CORRUPT,
         "expected equal numbers"},
        {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,1,1,1,1,1,1,0]}}", SALA_E_CORRUPT,
         "rope factor 7 is 0"},
        {"{\"model_type\":\"qwen2\"," SHAPE ",\"num_key_value_heads\":4,\"use_sliding_window\":true,"
         "\"sliding_window\":64,\"max_window_layers\":2}",
         SALA_E_UNSUPPORTED, "2 of 4 layers"},
        {"{\"model_type\":\"qwen2\"," SHAPE "}", SALA_E_CORRUPT, "can not share 32"},
        {"{\"model_type\":\"minicpm\"," SHAPE ",\"dim_model_base\":0}", SALA_E_CORRUPT, "logit scale is inf"},
        {"{\"model_type\":\"minicpm\"," SHAPE ",\"scale_depth\":-1}", SALA_E_CORRUPT, "residual scale is -0.5"},
        {"{\"model_type\":\"minicpm\"," SHAPE ",\"scale_emb\":0}", SALA_E_CORRUPT, "embedding scale is 0"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        sala_config c;
        sala_error err = {0};
        const sala_status st = read_json(&c, cases[i].config, NULL, &err);
        if (st != cases[i].code)
            fail_msg("%s: status %d, expected %d (%s)", cases[i].config, (int)st, (int)cases[i].code, err.message);
        assert_message(&err, cases[i].fragment);
    }
}

/* ---- directories ---- */

static void put(const char *file, const char *text)
{
    test_write_file(temp_path(file), text, strlen(text));
}

static void expect_dir(sala_status code, const char *fragment)
{
    sala_config c;
    sala_error err = {0};
    assert_int_equal(sala_config_from_dir(&c, temp_dir, &err), code);
    assert_message(&err, fragment);
}

static void test_directory(void **state)
{
    (void)state;
    expect_dir(SALA_E_NOT_FOUND, "config.json");
    put("config.json", LLAMA ",}");
    expect_dir(SALA_E_CORRUPT, "config.json is not valid JSON");
    put("config.json", LLAMA ",\"hidden_size\":0}");
    expect_dir(SALA_E_CORRUPT, temp_dir);
    put("config.json", LLAMA "}");
    put("generation_config.json", "{\"temperature\":");
    expect_dir(SALA_E_CORRUPT, "generation_config.json is not valid JSON");
    put("generation_config.json", "[]");
    expect_dir(SALA_E_CORRUPT, "generation_config.json is not a JSON object");
    put("generation_config.json", "{\"temperature\":0.25}");
    sala_config c;
    sala_error err;
    if (sala_config_from_dir(&c, temp_dir, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_string_equal(c.name, strrchr(temp_dir, '/') + 1);
    assert_true(c.gen_temperature == 0.25);
    sala_config_free(&c);
    FILE *f = fopen(temp_path("config.json"), "wb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 17 << 20, SEEK_SET), 0);
    assert_int_equal(fputc('}', f), '}');
    assert_int_equal(fclose(f), 0);
    expect_dir(SALA_E_LIMIT, "larger than 16 MiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_transformers),
        cmocka_unit_test(test_minicpm),
        cmocka_unit_test(test_other_keys),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test_setup_teardown(test_directory, make_temp_dir, remove_temp_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
