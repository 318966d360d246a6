// module: format
/* Any bytes as a safetensors file: read or refused; every byte of what was read can be touched. */
#include "format/safetensors.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_safetensors *st;
    sala_error err;
    if (sala_safetensors_parse(&st, data, size, &err) != SALA_OK)
        return 0;
    volatile unsigned sink = 0;
    const sala_tensor_list list = sala_safetensors_tensors(st);
    for (size_t i = 0; i < list.count; i++) {
        const sala_tensor *t = &list.items[i];
        if (sala_safetensors_tensor(st, t->name) != t)
            abort();
        const uint8_t *p = t->data;
        sink = sink + p[0] + p[t->bytes - 1];
    }
    sala_safetensors_close(st);
    return 0;
}
