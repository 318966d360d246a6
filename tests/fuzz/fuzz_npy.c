// module: format
/* Any bytes as a NumPy file and as a list of token ids. */
#include "format/npy.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_npy a;
    sala_error err;
    if (sala_npy_parse(&a, data, size, &err) == SALA_OK && a.count) {
        volatile unsigned sink = ((const uint8_t *)a.data)[a.count * (uint64_t)a.elem_bytes - 1];
        (void)sink;
    }
    int32_t *ids;
    size_t n;
    if (sala_ids_parse(&ids, &n, data, size, &err) == SALA_OK) {
        for (size_t i = 0; i < n; i++)
            if (ids[i] < 0)
                abort();
        free(ids);
    }
    return 0;
}
