// module: quant
/* Any bytes as an importance matrix, in either form: what was read is finite, sorted and can be found again. */
#include "quant/quant.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_imatrix *m;
    sala_error err;
    if (sala_imatrix_parse(&m, data, size, &err) != SALA_OK)
        return 0;
    if (sala_imatrix_count(m) == 0)
        abort();
    int64_t n;
    const float *v = sala_imatrix_find(m, "blk.0.attn_q.weight", &n);
    for (int64_t i = 0; v && i < n; i++)
        if (!(v[i] >= 0) || isinf(v[i]))
            abort();
    sala_imatrix_close(m);
    return 0;
}
