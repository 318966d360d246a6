/* Run-time choice of the kernels of training, by the names that sala_kernels_get() knows. What inference has too is
 * taken from its table, so that a layer's forward pass is the same arithmetic in both. */
#include "kernels/train_families.h"

static const struct family {
    const char *name;
    uint32_t need;
    void (*fill)(sala_train_kernels *out);
} families[] = {
    {"ref", 0, sala_train_fill_ref},
#if SALA_KERNELS_X86
    {"avx2", SALA_CPU_AVX2, sala_train_fill_avx2},
    {"avxvnni", SALA_CPU_AVX2 | SALA_CPU_AVX_VNNI, sala_train_fill_avx2},
    {"avx512", SALA_CPU_AVX2 | SALA_CPU_AVX512, sala_train_fill_avx512},
    {"avx512", SALA_CPU_AVX2 | SALA_CPU_AVX512 | SALA_CPU_AVX512_BF16, sala_train_fill_avx512bf16},
#elif SALA_KERNELS_ARM
    {"neon", SALA_CPU_NEON, sala_train_fill_neon},
#endif
};

bool sala_train_kernels_get(sala_train_kernels *out, const char *name, uint32_t cpu)
{
    sala_kernels shared;
    if (!sala_kernels_get(&shared, name, cpu))
        return false;
    *out = (sala_train_kernels){0};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if ((families[i].need & ~cpu) == 0 &&
            (strcmp(families[i].name, "ref") == 0 || strcmp(families[i].name, shared.family) == 0))
            families[i].fill(out);
    out->family = shared.family;
    out->rope = shared.rope;
    out->swiglu = shared.swiglu;
    out->sigmoid_gate = shared.sigmoid_gate;
    out->lightning_out = shared.lightning_out;
    out->lightning_state = shared.lightning_state;
    return true;
}
