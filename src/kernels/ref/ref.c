/* The reference family for the compiler's baseline, and what is shared by all builds of it. */
#define REF_NAME(name) name##_ref
#define REF_SUFFIX ""
#define REF_NEED 0
#include "kernels/families.h"
#include "kernels/ref/ref_impl.h"

static size_t act_f32_bytes(int64_t cols)
{
    return (size_t)(cols + 15) / 16 * 64;
}

static void act_f32_prepare(void *dst, const float *x, int64_t cols)
{
    memcpy(dst, x, (size_t)cols * sizeof(float));
    memset((float *)dst + cols, 0, act_f32_bytes(cols) - (size_t)cols * sizeof(float));
}

const sala_act_format sala_act_f32 = {.name = "f32", .row_bytes = act_f32_bytes, .prepare = act_f32_prepare};

void sala_dequant_row(sala_dtype dtype, float *out, const void *src, int64_t n)
{
    switch (dtype) {
#define X(type, id)                                                                                                    \
    case SALA_##id:                                                                                                    \
        deq_##type(out, src, n);                                                                                       \
        break;
        SALA_REF_TYPES(X)
#undef X
    default:
        break;
    }
}

bool sala_dequant_has(sala_dtype dtype)
{
    switch (dtype) {
#define X(type, id) case SALA_##id:
        SALA_REF_TYPES(X)
#undef X
        return true;
    default:
        return false;
    }
}
