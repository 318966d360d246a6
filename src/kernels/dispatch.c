/* Run-time choice of kernels: from what the CPU has, and what the caller asked for. */
#include "kernels/families.h"

static const struct family {
    const char *name;
    uint32_t need, mask;
    void (*fill)(sala_kernels *out);
} families[] = {
#define F(family, need, mask, fill) {family, need, mask, fill},
#include "kernels/families.inc"
#undef F
};
#define N_FAMILIES ((int)(sizeof families / sizeof families[0]))

static const sala_linear_kernel *const linear[] = {
#define K(symbol) &symbol,
#include "kernels/linear.inc"
#undef K
};
#define N_LINEAR ((int)(sizeof linear / sizeof linear[0]))

bool sala_kernels_get(sala_kernels *out, const char *name, uint32_t cpu)
{
    int chosen = -1;
    const bool any = !name || strcmp(name, "auto") == 0;
    for (int i = 0; i < N_FAMILIES; i++)
        if ((any || strcmp(name, families[i].name) == 0) && (families[i].need & ~cpu) == 0)
            chosen = i;
    if (chosen < 0)
        return false;
    const bool is_ref = strcmp(families[chosen].name, "ref") == 0;
    *out = (sala_kernels){.family = families[chosen].name, .cpu = cpu & families[chosen].mask};
    for (int i = 0; i <= chosen; i++)
        if ((families[i].need & ~out->cpu) == 0 && (!is_ref || strcmp(families[i].name, "ref") == 0))
            families[i].fill(out);
    return true;
}

const char *const *sala_kernels_families(void)
{
    static const char *const names[] = {
        "ref",
#if SALA_KERNELS_X86
        "avx2",
        "avxvnni",
        "avx512",
#elif SALA_KERNELS_ARM
        "neon",
#endif
        NULL
    };
    return names;
}

const sala_linear_kernel *sala_linear_get(const sala_kernels *k, sala_dtype dtype, int64_t rows, int64_t cols,
                                          bool no_pack)
{
    const bool only_ref = strcmp(k->family, "ref") == 0;
    for (int i = N_LINEAR - 1; i >= 0; i--) {
        const sala_linear_kernel *l = linear[i];
        if (l->dtype == dtype && (l->need & ~k->cpu) == 0 && (l->is_ref || !only_ref) &&
            !(no_pack && l->packed_bytes) && (!l->accepts || l->accepts(rows, cols)))
            return l;
    }
    return NULL;
}

const sala_linear_kernel *const *sala_linear_all(size_t *count)
{
    *count = N_LINEAR;
    return linear;
}
