/* Decoding of every stored type against frozen results of the gguf package (make_dequant.py prints the table). */
#include "check/scales.h"
#include "unit/test.h"

#include "base/base.h"
#include "kernels/kernels.h"

#define BLOCKS 24

static const struct {
    sala_dtype dtype;
    uint64_t hash;
} frozen[] = {
    {SALA_F16, 0x328d2e9a0fb1aa87u},    {SALA_BF16, 0x787a2b84ba87e2e5u},   {SALA_Q4_0, 0xb2bba332b6b41c79u},
    {SALA_Q4_1, 0xc48e255b99c7b947u},   {SALA_Q5_0, 0xacdd4aabf42f024cu},   {SALA_Q5_1, 0x3b106f30824b6094u},
    {SALA_Q8_0, 0x410ea8850e9e1c5eu},   {SALA_Q2_K, 0x4ea4d9b43f143f40u},   {SALA_Q3_K, 0x8712f16b944d4915u},
    {SALA_Q4_K, 0xf0a5c764e0912b07u},   {SALA_Q5_K, 0x7706100a2b7217fdu},   {SALA_Q6_K, 0x28cec4215a643b1du},
    {SALA_IQ4_NL, 0x5afd504fab9a7136u}, {SALA_IQ4_XS, 0x05b9afc21acabab1u}, {SALA_TQ1_0, 0x16733f5c96454cefu},
    {SALA_TQ2_0, 0xd7a6208a24d53b86u},
};

static void decodes_as_frozen(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(frozen); i++) {
        const sala_dtype_info *info = sala_dtype_get((int)frozen[i].dtype);
        uint8_t data[BLOCKS * 256];
        uint64_t seed = (uint64_t)frozen[i].dtype;
        for (int b = 0; b < BLOCKS * info->block_bytes; b++) {
            uint64_t z = seed += 0x9e3779b97f4a7c15u;
            z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
            z = (z ^ z >> 27) * 0x94d049bb133111ebu;
            data[b] = (uint8_t)(z ^ z >> 31);
        }
        int off[2];
        const int n_scales = scale_offsets(frozen[i].dtype, off);
        for (int b = 0; b < BLOCKS; b++)
            for (int s = 0; s < n_scales; s++) {
                const uint16_t half = (uint16_t)((0x2400 + 37 * b + 11 * s) | (b % 3 == 1 ? 0x8000 : 0));
                memcpy(data + b * info->block_bytes + off[s], &half, 2);
            }
        float x[BLOCKS * SALA_QKK];
        const int n = BLOCKS * info->block_weights;
        assert_true(sala_dequant_has(frozen[i].dtype));
        sala_dequant_row(frozen[i].dtype, x, data, n);
        uint64_t hash = 0xcbf29ce484222325u;
        for (int j = 0; j < n; j++) {
            uint8_t bytes[4];
            x[j] += 0.0f; /* -0 becomes 0 */
            memcpy(bytes, &x[j], 4);
            for (int b = 0; b < 4; b++)
                hash = (hash ^ bytes[b]) * 0x100000001b3u;
        }
        if (hash != frozen[i].hash)
            fail_msg("%s decodes to 0x%016llx", info->name, (unsigned long long)hash);
    }
}

static void only_weights_are_decoded(void **state)
{
    (void)state;
    assert_true(sala_dequant_has(SALA_F32));
    assert_false(sala_dequant_has(SALA_Q8_1));
    assert_false(sala_dequant_has(SALA_Q8_K));
    assert_false(sala_dequant_has(SALA_I32));
    assert_false(sala_dequant_has(SALA_DTYPE_NONE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_frozen),
        cmocka_unit_test(only_weights_are_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
