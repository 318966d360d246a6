/* Detection of ternary checkpoints: the group, and the type that keeps the weights. */
#include "unit/quant/quant_test.h"

/* rows x cols ternary weights with one scale for each group of each row. */
static float *ternary(int64_t rows, int64_t cols, int64_t group)
{
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < rows * cols; i++) {
        const uint64_t g = (uint64_t)(i / cols * 1000 + i % cols / group);
        const float s = sala_bf16_to_f32(sala_f32_to_bf16((float)(0.01 + 0.05 * uniform_at(g))));
        x[i] = s * (float)((int)(uniform_at(UINT64_C(1) << 40 | (uint64_t)i) * 3) - 1);
    }
    return x;
}

static sala_ternary detect(const float *x, int64_t rows, int64_t cols)
{
    sala_ternary t = sala_ternary_start(cols);
    for (int64_t r = 0; r < rows; r += 3)
        sala_ternary_rows(&t, x + r * cols, rows - r < 3 ? rows - r : 3, cols);
    sala_ternary_end(&t, cols);
    return t;
}

static void groups(void **state)
{
    static const struct {
        int64_t cols, group, found;
        sala_dtype best;
    } cases[] = {{1024, 1024, 1024, SALA_TQ2_0}, {1024, 256, 256, SALA_TQ2_0}, {1024, 128, 128, SALA_Q4_0},
                 {1024, 64, 64, SALA_Q4_0},      {1536, 32, 32, SALA_Q4_0},    {576, 576, 576, SALA_Q4_0},
                 {96, 96, 96, SALA_Q4_0}};
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        float *x = ternary(8, cases[i].cols, cases[i].group);
        const sala_ternary t = detect(x, 8, cases[i].cols);
        assert_true(t.ternary && t.f16_exact);
        assert_int_equal(t.group, cases[i].found);
        assert_int_equal(t.best, cases[i].best);
        /* The named type does keep them. */
        sala_error err = {0};
        const int64_t n = 8 * cases[i].cols;
        uint8_t *raw = malloc((size_t)sala_dtype_bytes(t.best, n));
        float *y = malloc((size_t)n * sizeof *y);
        assert_true(raw && y);
        assert_int_equal(sala_quantize_rows(t.best, raw, x, 8, cases[i].cols, NULL, &err), SALA_OK);
        sala_dequant_row(t.best, y, raw, n);
        for (int64_t k = 0; k < n; k++)
            assert_true(x[k] == y[k]);
        free(raw);
        free(y);
        free(x);
    }
}

static void ordinary_weights(void **state)
{
    (void)state;
    float *x = make_weights(9, 1024);
    const sala_ternary t = detect(x, 2, 512);
    assert_false(t.ternary);
    assert_int_equal(t.group, 0);
    assert_int_equal(t.best, SALA_DTYPE_NONE);
    free(x);
}

static void one_weight_spoils_it(void **state)
{
    (void)state;
    float *x = ternary(8, 512, 128);
    assert_true(detect(x, 8, 512).ternary);
    x[7 * 512 + 500] *= 0.5f;
    x[7 * 512 + 501] = 1;
    x[7 * 512 + 500] = 0.5f;
    assert_false(detect(x, 8, 512).ternary);
    free(x);
}

static void all_zero(void **state)
{
    (void)state;
    const float x[512] = {0};
    const sala_ternary t = detect(x, 1, 512);
    assert_true(t.ternary && t.group == 512 && t.best == SALA_TQ2_0);
}

static void scales_beyond_half_floats(void **state)
{
    (void)state;
    float x[256];
    for (int i = 0; i < 256; i++)
        x[i] = 0.1f * (float)(i % 3 - 1); /* 0.1f needs 24 bits */
    const sala_ternary t = detect(x, 1, 256);
    assert_true(t.ternary && !t.f16_exact);
    assert_int_equal(t.best, SALA_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups),
        cmocka_unit_test(ordinary_weights),
        cmocka_unit_test(all_zero),
        cmocka_unit_test(one_weight_spoils_it),
        cmocka_unit_test(scales_beyond_half_floats),
    };
    (void)block_types;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
