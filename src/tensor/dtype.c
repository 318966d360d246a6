#include "tensor/dtype.h"

#include <stddef.h>
#include <strings.h>

static const sala_dtype_info table[] = {
#define X(name, id, block, bytes) {SALA_##name, #name, block, bytes, block > 1},
    SALA_DTYPE_LIST(X)
#undef X
};

#define CHECK_SIZE(type, id) _Static_assert(sizeof(type) == (id), #type " has padding")
CHECK_SIZE(sala_block_q4_0, 18);
CHECK_SIZE(sala_block_q4_1, 20);
CHECK_SIZE(sala_block_q5_0, 22);
CHECK_SIZE(sala_block_q5_1, 24);
CHECK_SIZE(sala_block_q8_0, 34);
CHECK_SIZE(sala_block_q2_k, 84);
CHECK_SIZE(sala_block_q3_k, 110);
CHECK_SIZE(sala_block_q4_k, 144);
CHECK_SIZE(sala_block_q5_k, 176);
CHECK_SIZE(sala_block_q6_k, 210);
CHECK_SIZE(sala_block_iq4_nl, 18);
CHECK_SIZE(sala_block_iq4_xs, 136);
CHECK_SIZE(sala_block_tq1_0, 54);
CHECK_SIZE(sala_block_tq2_0, 66);

const int8_t sala_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

const sala_dtype_info *sala_dtype_get(int ggml_id)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if ((int)table[i].dtype == ggml_id)
            return &table[i];
    return NULL;
}

sala_dtype sala_dtype_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcasecmp(table[i].name, name) == 0)
            return table[i].dtype;
    return SALA_DTYPE_NONE;
}

const char *sala_dtype_name(sala_dtype dtype)
{
    const sala_dtype_info *info = sala_dtype_get((int)dtype);
    return info ? info->name : "?";
}

uint64_t sala_dtype_bytes(sala_dtype dtype, int64_t n)
{
    const sala_dtype_info *info = sala_dtype_get((int)dtype);
    if (!info || n < 0 || n % info->block_weights)
        return 0;
    const uint64_t blocks = (uint64_t)(n / info->block_weights);
    if (blocks > UINT64_MAX / (uint64_t)info->block_bytes)
        return 0;
    return blocks * (uint64_t)info->block_bytes;
}
