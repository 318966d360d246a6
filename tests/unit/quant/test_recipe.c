/* Types by recipe, against what llama.cpp chose for the same models, and the user's overrides. */
#include "unit/quant/quant_test.h"

#include "quant/recipe.h"

#include "unit/quant/frozen.h"

static sala_recipe_plan *plan_of(const sala_quant_params *params, const char *recipe)
{
    sala_recipe_plan *p = NULL;
    sala_error err = {0};
    const sala_recipe r = sala_recipe_by_name(recipe);
    assert_int_not_equal(r, SALA_RECIPE_NONE);
    if (sala_recipe_plan_open(&p, params, r, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return p;
}

static sala_dtype of_letter(char c)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(type_letters); i++)
        if (type_letters[i].letter == c)
            return type_letters[i].dtype;
    fail_msg("letter '%c' in frozen.h", c);
    return SALA_DTYPE_NONE;
}

static void llama_cpps_choice(void **state)
{
    static const char *const parts[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(frozen_recipes); i++) {
        const sala_quant_params params = {0};
        sala_recipe_plan *p = plan_of(&params, frozen_recipes[i].recipe);
        const int layers = frozen_recipes[i].layers, width = frozen_recipes[i].width;
        const sala_recipe_model m = {.architecture = "llama",
                                     .n_layers = layers,
                                     .n_heads = frozen_recipes[i].heads,
                                     .n_kv_heads = frozen_recipes[i].kv,
                                     .n_attn_v = layers,
                                     .tied = frozen_recipes[i].tied,
                                     .has_importance = frozen_recipes[i].has_importance};
        const char *want = frozen_recipes[i].types;
        const int n = 1 + 7 * layers + !m.tied;
        assert_int_equal(strlen(want), n);
        for (int t = 0; t < n; t++) {
            char name[64];
            bool fallback;
            const int layer = (t - 1) / 7, part = (t - 1) % 7;
            if (t == 0)
                snprintf(name, sizeof name, "token_embd.weight");
            else if (t == 1 + 7 * layers)
                snprintf(name, sizeof name, "output.weight");
            else
                snprintf(name, sizeof name, "blk.%d.%s.weight", layer, parts[part]);
            const int64_t row = t > 0 && t < 1 + 7 * layers && part == 6 ? 512 : width;
            const sala_dtype got = sala_recipe_choose(p, &m, name, 2, row, &fallback);
            if (got != of_letter(want[t]))
                fail_msg("%s, %d layers, width %d, importance %d: %s is %s, llama.cpp has %s", frozen_recipes[i].recipe,
                         layers, width, m.has_importance, name, sala_dtype_name(got),
                         sala_dtype_name(of_letter(want[t])));
        }
        sala_recipe_plan_close(p);
    }
}

static const sala_recipe_model small = {
    .architecture = "llama", .n_layers = 8, .n_heads = 8, .n_kv_heads = 8, .n_attn_v = 8, .tied = false};

static sala_dtype choose(const sala_recipe_plan *p, const char *name, int n_dims, int64_t row)
{
    bool fallback;
    return sala_recipe_choose(p, &small, name, n_dims, row, &fallback);
}

static void small_tensors_stay(void **state)
{
    (void)state;
    const sala_quant_params params = {0};
    sala_recipe_plan *p = plan_of(&params, "q4_k_m");
    assert_int_equal(choose(p, "blk.0.attn_norm.weight", 1, 256), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "blk.0.attn_q_norm.weight", 2, 256), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "blk.0.attn_q.bias", 1, 256), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "rope_freqs.weight", 1, 32), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "blk.0.ffn_gate_inp.weight", 2, 256), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "w", 2, 256), SALA_DTYPE_NONE);
    assert_int_equal(choose(p, "blk.3.attn_q.weight", 2, 256), SALA_Q4_K);
    sala_recipe_plan_close(p);
}

static void rows_that_do_not_divide(void **state)
{
    (void)state;
    const sala_quant_params params = {0};
    sala_recipe_plan *p = plan_of(&params, "q4_k_s");
    assert_int_equal(choose(p, "blk.7.attn_q.weight", 2, 96), SALA_Q5_0);
    assert_int_equal(choose(p, "blk.7.attn_q.weight", 2, 100), SALA_F16);
    assert_int_equal(choose(p, "output.weight", 2, 96), SALA_Q8_0);
    sala_recipe_plan_close(p);
}

static void overrides(void **state)
{
    (void)state;
    const char *const types[] = {"attn_v=q8_0", "blk\\.[0-3]\\.ffn_.*=f16", "ffn_down=Q5_K",
                                 "blk\\.(7|9)\\.attn_(k|q)=q6_k"};
    const sala_quant_params params = {
        .tensor_types = types, .n_tensor_types = 4, .output_type = "q5_1", .embedding_type = "bf16"};
    sala_recipe_plan *p = plan_of(&params, "q4_0");
    assert_int_equal(choose(p, "blk.5.attn_v.weight", 2, 256), SALA_Q8_0);
    assert_int_equal(choose(p, "blk.2.ffn_down.weight", 2, 256), SALA_F16);
    assert_int_equal(choose(p, "blk.4.ffn_down.weight", 2, 256), SALA_Q5_K);
    assert_int_equal(choose(p, "blk.4.ffn_down.weight", 2, 32), SALA_Q5_1);
    assert_int_equal(choose(p, "blk.4.ffn_up.weight", 2, 256), SALA_Q4_0);
    assert_int_equal(choose(p, "blk.9.attn_k.weight", 2, 256), SALA_Q6_K);
    assert_int_equal(choose(p, "blk.8.attn_k.weight", 2, 256), SALA_Q4_0);
    assert_int_equal(choose(p, "output.weight", 2, 256), SALA_Q5_1);
    assert_int_equal(choose(p, "token_embd.weight", 2, 256), SALA_BF16);
    sala_recipe_plan_close(p);
}

static void pure(void **state)
{
    (void)state;
    const sala_quant_params params = {.pure = true};
    sala_recipe_plan *p = plan_of(&params, "q4_k_m");
    assert_int_equal(choose(p, "output.weight", 2, 256), SALA_Q4_K);
    assert_int_equal(choose(p, "token_embd.weight", 2, 256), SALA_Q4_K);
    assert_int_equal(choose(p, "blk.0.ffn_down.weight", 2, 256), SALA_Q4_K);
    sala_recipe_plan_close(p);
}

static void mistakes_are_told(void **state)
{
    static const char *const bad[] = {"attn_v", "=q8_0", "attn_v=q9", "attn_(v=q8_0", "attn_v=q8_k"};
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(bad); i++) {
        const sala_quant_params params = {.tensor_types = &bad[i], .n_tensor_types = 1};
        sala_recipe_plan *p = NULL;
        sala_error err = {0};
        assert_int_equal(sala_recipe_plan_open(&p, &params, SALA_RECIPE_Q4_0, &err), SALA_E_INVALID);
        assert_null(p);
        assert_true(strlen(err.message) > 10);
    }
    const sala_quant_params params = {.output_type = "nothing"};
    sala_recipe_plan *p = NULL;
    assert_int_equal(sala_recipe_plan_open(&p, &params, SALA_RECIPE_Q4_0, NULL), SALA_E_INVALID);
}

/* A pattern that would take for ever is cut short and matches nothing. */
static void hostile_pattern(void **state)
{
    (void)state;
    const char *const types[] = {"(a+)+$=q8_0"};
    const sala_quant_params params = {.tensor_types = types, .n_tensor_types = 1};
    sala_recipe_plan *p = plan_of(&params, "q4_0");
    assert_int_equal(choose(p, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.weight", 2, 256),
                     SALA_Q4_0);
    sala_recipe_plan_close(p);
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(sala_recipe_by_name("Q4_K_M"), SALA_RECIPE_Q4_K_M);
    assert_int_equal(sala_recipe_by_name("q4_k"), SALA_RECIPE_Q4_K_M);
    assert_int_equal(sala_recipe_by_name("q7"), SALA_RECIPE_NONE);
    assert_int_equal(sala_recipe_file_type(SALA_RECIPE_Q4_K_M), 15);
    assert_int_equal(sala_recipe_dtype(SALA_RECIPE_Q3_K_L), SALA_Q3_K);
    assert_string_equal(sala_recipe_name(SALA_RECIPE_TQ2_0), "TQ2_0");
    assert_string_equal(sala_recipe_name(SALA_RECIPE_NONE), "?");
    for (int r = 0; r <= SALA_RECIPE_TQ2_0; r++) {
        assert_int_equal(sala_recipe_by_name(sala_recipe_name((sala_recipe)r)), r);
        assert_non_null(strstr(sala_recipe_names(), sala_recipe_name((sala_recipe)r)));
        assert_true(sala_quantize_has(sala_recipe_dtype((sala_recipe)r)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_cpps_choice),
        cmocka_unit_test(small_tensors_stay),
        cmocka_unit_test(rows_that_do_not_divide),
        cmocka_unit_test(overrides),
        cmocka_unit_test(pure),
        cmocka_unit_test(mistakes_are_told),
        cmocka_unit_test(hostile_pattern),
        cmocka_unit_test(names),
    };
    /* The same header serves test_rows.c. */
    (void)frozen_rows;
    (void)block_types;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
