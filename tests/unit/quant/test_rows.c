/* Rounding of rows: no worse than ggml's, exact where it can be, firm at the edges. */
#include "unit/quant/quant_test.h"

#include "os/os.h"
#include "quant/lanes.h"

#include "unit/quant/frozen.h"

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    }
    return ~c;
}

static uint8_t *quantize(sala_dtype dtype, const float *x, int64_t rows, int64_t cols, const float *importance)
{
    sala_error err = {0};
    uint8_t *out = malloc((size_t)sala_dtype_bytes(dtype, rows * cols));
    assert_non_null(out);
    if (sala_quantize_rows(dtype, out, x, rows, cols, importance, &err) != SALA_OK)
        fail_msg("%s: %s", sala_dtype_name(dtype), err.message);
    return out;
}

static double relative_error(sala_dtype dtype, const uint8_t *raw, const float *x, int64_t rows, int64_t cols,
                             const float *importance)
{
    float *y = malloc((size_t)(rows * cols) * sizeof *y);
    double e = 0, all = 0;
    assert_non_null(y);
    sala_dequant_row(dtype, y, raw, rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        const double w = importance ? (double)importance[i % cols] : 1, d = (double)x[i] - (double)y[i];
        e += w * d * d;
        all += w * (double)x[i] * (double)x[i];
    }
    free(y);
    return sqrt(e / all);
}

static void no_worse_than_ggml(void **state)
{
    (void)state;
    const int64_t n = FROZEN_ROWS * FROZEN_COLS;
    float *x = make_weights(1, n), *importance = make_importance(FROZEN_COLS);
    for (size_t i = 0; i < SALA_ARRAY_LEN(frozen_rows); i++) {
        const sala_dtype t = frozen_rows[i].dtype;
        uint8_t *raw = quantize(t, x, FROZEN_ROWS, FROZEN_COLS, NULL);
        uint8_t *weighted = quantize(t, x, FROZEN_ROWS, FROZEN_COLS, importance);
        const double a = relative_error(t, raw, x, FROZEN_ROWS, FROZEN_COLS, NULL) / frozen_rows[i].plain;
        const double b = relative_error(t, weighted, x, FROZEN_ROWS, FROZEN_COLS, importance) / frozen_rows[i].weighted;
        if (!(a <= 1.0001 && b <= 1.005))
            fail_msg("%s: error is %.4f of ggml's, %.4f with importance", sala_dtype_name(t), a, b);
        if (frozen_rows[i].crc)
            assert_int_equal(crc32_of(raw, (size_t)sala_dtype_bytes(t, n)), frozen_rows[i].crc);
        free(raw);
        free(weighted);
    }
    free(x);
    free(importance);
}

/* Weights that have been through a format come back the same from a second pass. */
static void second_pass_is_exact(void **state)
{
    static const sala_dtype exact[] = {SALA_F16,  SALA_BF16, SALA_Q4_0,   SALA_Q4_1,  SALA_Q5_0,
                                       SALA_Q5_1, SALA_Q8_0, SALA_IQ4_NL, SALA_TQ1_0, SALA_TQ2_0};
    (void)state;
    const int64_t rows = 5, cols = 512;
    float *x = make_weights(2, rows * cols), *y = make_weights(2, rows * cols), *z = make_weights(2, rows * cols);
    for (size_t i = 0; i < SALA_ARRAY_LEN(exact); i++) {
        uint8_t *a = quantize(exact[i], x, rows, cols, NULL);
        sala_dequant_row(exact[i], y, a, rows * cols);
        uint8_t *b = quantize(exact[i], y, rows, cols, NULL);
        sala_dequant_row(exact[i], z, b, rows * cols);
        for (int64_t k = 0; k < rows * cols; k++)
            if (y[k] != z[k])
                fail_msg("%s: weight %lld was %.9g, is %.9g", sala_dtype_name(exact[i]), (long long)k, (double)y[k],
                         (double)z[k]);
        free(a);
        free(b);
    }
    free(x);
    free(y);
    free(z);
}

static void a_row_does_not_depend_on_its_neighbours(void **state)
{
    (void)state;
    const int64_t rows = 7, cols = 768;
    float *x = make_weights(3, rows * cols), *importance = make_importance(cols);
    for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
        const sala_dtype t = block_types[i];
        const size_t row_bytes = (size_t)sala_dtype_bytes(t, cols);
        uint8_t *all = quantize(t, x, rows, cols, importance);
        for (int64_t r = 0; r < rows; r++) {
            uint8_t *one = quantize(t, x + r * cols, 1, cols, importance);
            assert_memory_equal(one, all + (size_t)r * row_bytes, row_bytes);
            free(one);
        }
        free(all);
    }
    free(x);
    free(importance);
}

/* Numbers of blocks that leave some of the sixteen lanes empty, in odd ways. */
static void any_number_of_blocks(void **state)
{
    (void)state;
    float *x = make_weights(8, 40 * 256), *y = make_weights(8, 40 * 256);
    for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
        const sala_dtype t = block_types[i];
        if (t == SALA_TQ1_0 || t == SALA_TQ2_0)
            continue;
        const int block = sala_dtype_get((int)t)->block_weights;
        uint8_t *all = quantize(t, x, 1, 39 * block, NULL);
        for (int n = 1; n <= 39; n++) {
            uint8_t *raw = quantize(t, x, 1, n * block, NULL);
            assert_memory_equal(raw, all, (size_t)sala_dtype_bytes(t, n * block));
            free(raw);
        }
        sala_dequant_row(t, y, all, 39 * block);
        for (int k = 0; k < 39 * block; k++)
            assert_true(fabsf(x[k] - y[k]) < 0.04f);
        free(all);
    }
    free(x);
    free(y);
}

static void compare_sums(const sala_lane_sums *a, const sala_lane_sums *b, bool l, bool error)
{
    assert_memory_equal(a->ll, b->ll, sizeof a->ll);
    assert_memory_equal(a->xl, b->xl, sizeof a->xl);
    if (l)
        assert_memory_equal(a->l, b->l, sizeof a->l);
    if (error)
        assert_memory_equal(a->error, b->error, sizeof a->error);
}

static void every_variant_gives_the_same_bits(void **state)
{
    (void)state;
    const sala_lane_ops *fast = sala_lane_ops_get(), *plain = &sala_lane_ops_plain;
    if (fast == plain)
        skip();
    sala_lanes g;
    sala_lane_sums a, b;
    _Alignas(64) float d[SALA_LANES], m[SALA_LANES];
    for (int trial = 0; trial < 200; trial++) {
        g.n = trial % 2 ? 16 : 32;
        for (int i = 0; i < SALA_LANES_MAX_GROUP * SALA_LANES; i++) {
            g.x[i] = weight_at(10, (uint64_t)(trial * 512 + i));
            g.w[i] = 0.1f + fabsf(weight_at(11, (uint64_t)(trial * 512 + i)));
        }
        for (int k = 0; k < SALA_LANES; k++) {
            d[k] = k == 3 ? 0 : weight_at(12, (uint64_t)(trial * 16 + k)) / 7;
            m[k] = weight_at(13, (uint64_t)(trial * 16 + k));
        }
        fast->linear_error(&a, &g, d, -8, 7);
        plain->linear_error(&b, &g, d, -8, 7);
        compare_sums(&a, &b, false, true);
        fast->linear_fit(&a, &g, d, -8, 7);
        plain->linear_fit(&b, &g, d, -8, 7);
        compare_sums(&a, &b, false, false);
        fast->affine_error(&a, &g, d, m, 15);
        plain->affine_error(&b, &g, d, m, 15);
        compare_sums(&a, &b, true, true);
        fast->affine_fit(&a, &g, d, m, 15);
        plain->affine_fit(&b, &g, d, m, 15);
        compare_sums(&a, &b, true, false);
        if (g.n == 32) {
            fast->iq4_error(&a, &g, d);
            plain->iq4_error(&b, &g, d);
            compare_sums(&a, &b, false, true);
            fast->iq4_fit(&a, &g, d);
            plain->iq4_fit(&b, &g, d);
            compare_sums(&a, &b, false, false);
        }
    }
}

/* ---- edges ---- */

static void zeros_stay_zeros(void **state)
{
    static const float tiny[] = {0.0f, -0.0f, 1e-45f, -1e-38f, 3e-12f};
    (void)state;
    float x[512], y[512];
    for (size_t v = 0; v < SALA_ARRAY_LEN(tiny); v++) {
        for (int i = 0; i < 512; i++)
            x[i] = i % 3 ? tiny[v] : 0;
        for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
            uint8_t *raw = quantize(block_types[i], x, 1, 512, NULL);
            sala_dequant_row(block_types[i], y, raw, 512);
            for (int k = 0; k < 512; k++)
                assert_true(fabsf(y[k]) <= 1e-9f);
            free(raw);
        }
    }
}

/* One group of ordinary weights beside groups of zeros: the shared scale serves the one. */
static void mixed_magnitudes(void **state)
{
    (void)state;
    float x[512], y[512];
    for (int i = 0; i < 512; i++)
        x[i] = i / 32 % 3 == 0 ? 0 : weight_at(4, (uint64_t)i) * (i / 32 % 3 == 1 ? 1.0f : 1e-3f);
    for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
        const sala_dtype t = block_types[i];
        if (t == SALA_TQ1_0 || t == SALA_TQ2_0)
            continue;
        uint8_t *raw = quantize(t, x, 1, 512, NULL);
        sala_dequant_row(t, y, raw, 512);
        for (int k = 0; k < 512; k++) {
            assert_true(isfinite(y[k]));
            assert_true(fabsf(x[k] - y[k]) < 0.06f);
        }
        free(raw);
    }
}

static void constant_blocks(void **state)
{
    static const float values[] = {1.0f, -1.0f, 0.01f, -300.0f, 65504.0f};
    (void)state;
    float x[256], y[256];
    for (size_t v = 0; v < SALA_ARRAY_LEN(values); v++) {
        for (int i = 0; i < 256; i++)
            x[i] = values[v];
        for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
            uint8_t *raw = quantize(block_types[i], x, 1, 256, NULL);
            sala_dequant_row(block_types[i], y, raw, 256);
            for (int k = 0; k < 256; k++)
                if (!(fabsf(y[k] / values[v] - 1) < 0.02f))
                    fail_msg("%s: %g became %g", sala_dtype_name(block_types[i]), (double)values[v], (double)y[k]);
            free(raw);
        }
    }
}

static void bad_weights_are_named(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, -2e9f};
    (void)state;
    float *x = make_weights(5, 2048);
    uint8_t out[2048 * 4];
    for (size_t b = 0; b < SALA_ARRAY_LEN(bad); b++) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
            sala_error err = {0};
            x[777] = bad[b];
            assert_int_equal(sala_quantize_rows(block_types[i], out, x, 4, 512, NULL, &err), SALA_E_NUMERIC);
            assert_int_equal(err.position, 777);
            assert_true(strlen(err.message) > 10);
        }
    }
    /* Scales that only the block's own format finds too large: 65504 is the largest half. */
    x[777] = 9e6f;
    sala_error err = {0};
    assert_int_equal(sala_quantize_rows(SALA_Q4_0, out, x, 4, 512, NULL, &err), SALA_E_NUMERIC);
    assert_int_equal(err.position, 777);
    assert_int_equal(sala_quantize_rows(SALA_TQ2_0, out, x, 4, 512, NULL, &err), SALA_E_NUMERIC);
    assert_int_equal(sala_quantize_rows(SALA_Q8_0, out, x, 4, 512, NULL, &err), SALA_E_NUMERIC);
    assert_int_equal(sala_quantize_rows(SALA_Q6_K, out, x, 4, 512, NULL, &err), SALA_OK);
    free(x);
}

static void sixteen_bit_floats(void **state)
{
    (void)state;
    const float in[] = {1.0f, 65504.0f, 65519.0f, 6e-8f, -2.5f};
    uint16_t out[5];
    sala_error err = {0};
    assert_int_equal(sala_quantize_rows(SALA_F16, out, in, 1, 5, NULL, &err), SALA_OK);
    assert_int_equal(out[0], 0x3c00);
    assert_int_equal(out[2], 0x7bff);
    assert_int_equal(out[3], 1);
    const float over[] = {0, 65520.0f};
    assert_int_equal(sala_quantize_rows(SALA_F16, out, over, 1, 2, NULL, &err), SALA_E_NUMERIC);
    assert_int_equal(err.position, 1);
    const float top[] = {3.3895314e38f, -3.3895314e38f};
    assert_int_equal(sala_quantize_rows(SALA_BF16, out, top, 1, 2, NULL, &err), SALA_OK);
    assert_int_equal(out[0], 0x7f7f);
    const float above[] = {3.4e38f};
    assert_int_equal(sala_quantize_rows(SALA_BF16, out, above, 1, 1, NULL, &err), SALA_E_NUMERIC);
}

static void bad_requests(void **state)
{
    (void)state;
    float x[512] = {0}, importance[512] = {0};
    uint8_t out[4096];
    sala_error err = {0};
    assert_int_equal(sala_quantize_rows(SALA_Q4_K, out, x, 1, 288, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_quantize_rows(SALA_Q8_K, out, x, 1, 256, NULL, &err), SALA_E_UNSUPPORTED);
    assert_int_equal(sala_quantize_rows(SALA_I32, out, x, 1, 256, NULL, &err), SALA_E_UNSUPPORTED);
    assert_int_equal(sala_quantize_rows(SALA_Q4_K, out, x, INT64_MAX / 256, 512, NULL, &err), SALA_E_INVALID);
    assert_int_equal(sala_quantize_rows(SALA_Q4_K, out, x, 0, 512, NULL, &err), SALA_OK);
    importance[3] = NAN;
    assert_int_equal(sala_quantize_rows(SALA_Q4_K, out, x, 1, 512, importance, &err), SALA_E_NUMERIC);
    importance[3] = -1;
    assert_int_equal(sala_quantize_rows(SALA_Q4_K, out, x, 1, 512, importance, &err), SALA_E_NUMERIC);
    assert_int_equal(err.position, 3);
}

/* Columns that the calibration never saw, and extreme ratios, still give sane weights. */
static void extreme_importance(void **state)
{
    (void)state;
    float *x = make_weights(6, 1024), importance[512], y[1024];
    for (int i = 0; i < 512; i++)
        importance[i] = i % 5 == 0 ? 1e30f : i % 5 == 1 ? 0 : 1e-30f;
    for (size_t i = 0; i < SALA_ARRAY_LEN(block_types); i++) {
        uint8_t *raw = quantize(block_types[i], x, 2, 512, importance);
        sala_dequant_row(block_types[i], y, raw, 1024);
        for (int k = 0; k < 1024; k++)
            assert_true(isfinite(y[k]) && fabsf(y[k]) < 0.5f);
        free(raw);
    }
    free(x);
}

static void ternary_weights_are_kept(void **state)
{
    static const sala_dtype exact[] = {SALA_TQ1_0, SALA_TQ2_0, SALA_Q4_0, SALA_Q5_0};
    (void)state;
    float x[512], y[512];
    for (int i = 0; i < 512; i++)
        x[i] = 0.0347900390625f * (float)((int)(uniform_at((uint64_t)i) * 3) - 1);
    for (size_t i = 0; i < SALA_ARRAY_LEN(exact); i++) {
        uint8_t *raw = quantize(exact[i], x, 1, 512, NULL);
        sala_dequant_row(exact[i], y, raw, 512);
        for (int k = 0; k < 512; k++)
            assert_true(x[k] == y[k]);
        free(raw);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_worse_than_ggml),
        cmocka_unit_test(second_pass_is_exact),
        cmocka_unit_test(a_row_does_not_depend_on_its_neighbours),
        cmocka_unit_test(any_number_of_blocks),
        cmocka_unit_test(every_variant_gives_the_same_bits),
        cmocka_unit_test(zeros_stay_zeros),
        cmocka_unit_test(mixed_magnitudes),
        cmocka_unit_test(constant_blocks),
        cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(sixteen_bit_floats),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(extreme_importance),
        cmocka_unit_test(ternary_weights_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
