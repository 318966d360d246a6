/* Which kernels are chosen for what a CPU has and a caller asks. */
#include "unit/test.h"

#include "base/base.h"
#include "kernels/kernels.h"
#include "os/os.h"

static const uint32_t cpus[] = {
    0,
    SALA_CPU_AVX2,
    SALA_CPU_AVX2 | SALA_CPU_AVX_VNNI,
    SALA_CPU_AVX2 | SALA_CPU_AVX512,
    SALA_CPU_AVX2 | SALA_CPU_AVX512 | SALA_CPU_AVX512_VNNI,
    SALA_CPU_AVX2 | SALA_CPU_AVX_VNNI | SALA_CPU_AVX512 | SALA_CPU_AVX512_VNNI | SALA_CPU_AVX512_BF16,
    SALA_CPU_NEON,
    SALA_CPU_NEON | SALA_CPU_DOTPROD | SALA_CPU_I8MM,
};

static bool complete(const sala_kernels *k)
{
    return k->family && k->rms_norm && k->add_scaled && k->swiglu && k->rope && k->f32_to_f16 && k->f16_to_f32 &&
           k->kv[SALA_KV_AS_F32].attn_block && k->kv[SALA_KV_AS_F16].attn_block && k->argmax && k->log_sum_exp &&
           k->all_finite;
}

static void every_cpu_gets_every_kernel(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(cpus); i++) {
        for (const char *const *name = sala_kernels_families(); *name; name++) {
            sala_kernels k;
            if (!sala_kernels_get(&k, *name, cpus[i]))
                continue;
            assert_true(complete(&k));
            assert_string_equal(k.family, *name);
            assert_int_equal(k.cpu & ~cpus[i], 0);
            for (int id = 0; id < 64; id++) {
                if (!sala_dtype_get(id) || !sala_dequant_has((sala_dtype)id))
                    continue;
                for (int no_pack = 0; no_pack < 2; no_pack++) {
                    const sala_linear_kernel *l = sala_linear_get(&k, (sala_dtype)id, 5, 512, no_pack);
                    assert_non_null(l);
                    assert_int_equal(l->dtype, id);
                    assert_int_equal(l->need & ~cpus[i], 0);
                    assert_true(l->is_ref || strcmp(*name, "ref") != 0);
                    assert_false(no_pack && l->packed_bytes);
                }
            }
        }
    }
}

static void names(void **state)
{
    (void)state;
    sala_kernels k;
    assert_true(sala_kernels_get(&k, NULL, 0));
    assert_string_equal(k.family, "ref");
    assert_true(sala_kernels_get(&k, "auto", 0));
    assert_string_equal(k.family, "ref");
    assert_false(sala_kernels_get(&k, "no such family", ~0u));
    for (const char *const *name = sala_kernels_families() + 1; *name; name++) {
        assert_false(sala_kernels_get(&k, *name, 0));
        assert_true(sala_kernels_get(&k, *name, ~0u));
    }
}

/* Kernels of one family are the fastest that the CPU allows. */
static void best_is_taken(void **state)
{
    (void)state;
    static const struct {
        uint32_t cpu;
        const char *family, *q4, *f16, *bf16;
    } want[] = {
#if defined(__x86_64__)
        {SALA_CPU_AVX2, "avx2", "q4_0_avx2", "f16_avx2", "bf16_avx2"},
        {SALA_CPU_AVX2 | SALA_CPU_AVX_VNNI, "avxvnni", "q4_0_avxvnni", "f16_avx2", "bf16_avx2"},
        {SALA_CPU_AVX2 | SALA_CPU_AVX512, "avx512", "q4_0_avx2", "f16_avx512", "bf16_avx512"},
        {SALA_CPU_AVX2 | SALA_CPU_AVX512 | SALA_CPU_AVX512_VNNI, "avx512", "q4_0_avx512vnni", "f16_avx512",
         "bf16_avx512"},
        {SALA_CPU_AVX2 | SALA_CPU_AVX512 | SALA_CPU_AVX512_BF16, "avx512", "q4_0_avx2", "f16_avx512",
         "bf16_avx512bf16"},
#elif defined(__aarch64__)
        {SALA_CPU_NEON, "neon", "q4_0_neon", "f16_neon", "bf16_neon"},
        {SALA_CPU_NEON | SALA_CPU_DOTPROD, "neon", "q4_0_dotprod", "f16_neon", "bf16_neon"},
        {SALA_CPU_NEON | SALA_CPU_DOTPROD | SALA_CPU_I8MM, "neon", "q4_0_i8mm", "f16_neon", "bf16_neon"},
#endif
        {0, "ref", "q4_0_ref", "f16_ref", "bf16_ref"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(want); i++) {
        sala_kernels k;
        assert_true(sala_kernels_get(&k, "auto", want[i].cpu));
        assert_string_equal(k.family, want[i].family);
        assert_string_equal(sala_linear_get(&k, SALA_Q4_0, 64, 64, false)->name, want[i].q4);
        assert_string_equal(sala_linear_get(&k, SALA_F16, 64, 64, false)->name, want[i].f16);
        assert_string_equal(sala_linear_get(&k, SALA_BF16, 64, 64, false)->name, want[i].bf16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cpu_gets_every_kernel),
        cmocka_unit_test(names),
        cmocka_unit_test(best_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
