/* Tensor names in both directions, and the table of families. */
#include "unit/format/support.h"

#include "model/config.h"

static void test_both_ways(void **state)
{
    (void)state;
    static const int layers[] = {0, 9, 10, 123};
    for (int hf = 0; hf < 2; hf++) {
        for (int r = 0; r < SALA_T_COUNT; r++) {
            for (size_t i = 0; i < SALA_ARRAY_LEN(layers); i++) {
                const int layer = r < SALA_T_FIRST_OF_LAYER ? -1 : layers[i];
                char name[96];
                sala_tensor_name(name, (sala_tensor_role)r, layer, hf);
                sala_tensor_role role;
                int back;
                if (!name[0]) {
                    assert_true(hf && (r == SALA_T_ROPE_FREQS || r == SALA_T_ROPE_LONG || r == SALA_T_ROPE_SHORT));
                    continue;
                }
                assert_true(sala_tensor_role_of(name, hf, &role, &back));
                assert_int_equal(role, r);
                assert_int_equal(back, layer);
                assert_false(sala_tensor_role_of(name, !hf, &role, &back));
            }
        }
    }
}

static void test_known_names(void **state)
{
    (void)state;
    char name[96];
    assert_string_equal(sala_tensor_name(name, SALA_T_EMBED, 0, false), "token_embd.weight");
    assert_string_equal(sala_tensor_name(name, SALA_T_HEAD, 0, true), "lm_head.weight");
    assert_string_equal(sala_tensor_name(name, SALA_T_Q, 3, false), "blk.3.attn_q.weight");
    assert_string_equal(sala_tensor_name(name, SALA_T_O_BIAS, 3, false), "blk.3.attn_output.bias");
    assert_string_equal(sala_tensor_name(name, SALA_T_K_NORM, 17, true), "model.layers.17.self_attn.k_norm.weight");
    assert_string_equal(sala_tensor_name(name, SALA_T_FFN_NORM, 2, true),
                        "model.layers.2.post_attention_layernorm.weight");
    assert_string_equal(sala_tensor_name(name, SALA_T_ROPE_FREQS, 0, true), "");
    assert_string_equal(sala_tensor_name(name, SALA_T_COUNT, 0, true), "");
}

static void test_strange_names(void **state)
{
    (void)state;
    static const char *const names[] = {"",
                                        "blk",
                                        "blk.",
                                        "blk.1",
                                        "blk.1.",
                                        "blk.1.attn_q",
                                        "blk.-1.attn_q.weight",
                                        "blk.01.attn_q.weight",
                                        "blk.+1.attn_q.weight",
                                        "blk.1.attn_q.weight.x",
                                        "blk.1.output.weight",
                                        "blk.99999999999999999999.attn_q.weight",
                                        "blk.1.token_embd.weight",
                                        "attn_q.weight",
                                        "blk.1x.attn_q.weight"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
        sala_tensor_role role;
        int layer;
        if (sala_tensor_role_of(names[i], false, &role, &layer))
            fail_msg("\"%s\" was taken for role %d of layer %d", names[i], (int)role, layer);
    }
}

static void test_families(void **state)
{
    (void)state;
    assert_string_equal(sala_family_by_hf("mistral")->name, "llama");
    assert_string_equal(sala_family_by_hf("minicpm4")->name, "minicpm");
    assert_ptr_equal(sala_family_by_name("qwen2"), sala_family_by_hf("qwen2"));
    assert_null(sala_family_by_name("mistral"));
    assert_string_equal(sala_family_by_hf("minicpm_sala")->name, "minicpm-sala");
    assert_null(sala_family_by_hf("minicpm-sala"));
    assert_null(sala_family_by_name(""));
    /* The list in messages names every family. */
    static const char *const all[] = {"llama", "minicpm", "qwen2", "qwen3", "minicpm-sala", "hypenet"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(all); i++) {
        assert_non_null(sala_family_by_name(all[i]));
        assert_non_null(strstr(sala_family_names(), all[i]));
    }
    assert_true(sala_family_by_name("llama")->gguf_permuted && sala_family_by_name("minicpm")->gguf_permuted);
    assert_false(sala_family_by_name("qwen2")->gguf_permuted || sala_family_by_name("qwen3")->gguf_permuted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_known_names),
        cmocka_unit_test(test_strange_names),
        cmocka_unit_test(test_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
