#include "tensor/dtype.h"
#include "unit/test.h"

#include <math.h>

/* Every half float goes to f32 and back; the value is checked against its definition. */
static void halves(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const int sign = h >> 15, exponent = (h >> 10) & 31, fraction = h & 1023;
        const float f = sala_f16_to_f32((uint16_t)h);
        if (exponent == 31) {
            assert_true(fraction ? isnan(f) : isinf(f));
            assert_true(fraction ? (sala_f32_to_f16(f) & 0x7c00) == 0x7c00 : sala_f32_to_f16(f) == h);
            continue;
        }
        const double want =
            (sign ? -1.0 : 1.0) * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
        assert_true((double)f == want && (signbit(f) != 0) == sign);
        assert_int_equal(sala_f32_to_f16(f), h);
    }
}

/* Rounding to nearest even: halfway points between neighbours, and one step to each side. */
static void half_rounding(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const float lo = sala_f16_to_f32((uint16_t)h), hi = sala_f16_to_f32((uint16_t)(h + 1));
        const float mid = (lo + hi) / 2;
        assert_int_equal(sala_f32_to_f16(mid), h & 1 ? h + 1 : h);
        assert_int_equal(sala_f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(sala_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(sala_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(sala_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(sala_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(sala_f32_to_f16(1e-30f), 0);
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        const float lo = sala_bf16_to_f32((uint16_t)h), hi = sala_bf16_to_f32((uint16_t)(h + 1));
        const float mid = (float)(((double)lo + (double)hi) / 2);
        assert_int_equal(sala_f32_to_bf16(mid), h & 1 ? h + 1 : h);
    }
    assert_true(isnan(sala_bf16_to_f32(sala_f32_to_bf16(NAN))));
}

static void types(void **state)
{
    (void)state;
    assert_int_equal(sala_dtype_by_name("q4_k"), SALA_Q4_K);
    assert_int_equal(sala_dtype_by_name("Q9"), SALA_DTYPE_NONE);
    assert_null(sala_dtype_get(99));
    assert_string_equal(sala_dtype_name(SALA_IQ4_XS), "IQ4_XS");
    assert_int_equal(sala_dtype_bytes(SALA_Q4_1, 576), 360);
    assert_int_equal(sala_dtype_bytes(SALA_Q4_K, 576), 0);
    assert_int_equal(sala_dtype_bytes(SALA_F32, -1), 0);
    assert_int_equal(sala_dtype_bytes(SALA_F64, INT64_MAX), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(halves), cmocka_unit_test(half_rounding),
                                       cmocka_unit_test(types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
