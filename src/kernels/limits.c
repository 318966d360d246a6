#include "kernels/limits_fill.h"

void sala_limits_get(sala_limits *out, const sala_kernels *k)
{
    *out = (sala_limits){0};
#define L(need, fill)                                                                                                  \
    if (((uint32_t)(need) & ~k->cpu) == 0)                                                                             \
        fill(out);
#include "kernels/limits.inc"
#undef L
}
