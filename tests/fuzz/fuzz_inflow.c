// module: data
/* Any bytes as an input stream: text, gzip or zstd. At most 16 MiB are taken out, as a small archive may hold much. */
#include "data/inflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t out[1 << 16];
    sala_inflow *in;
    if (sala_inflow_open_bytes(&in, data, size, NULL) != SALA_OK)
        return 0;
    size_t got = 1;
    for (int i = 0; i < 256 && got; i++)
        if (sala_inflow_read(in, out, size % 7 ? sizeof out : 1 + size % 97, &got, NULL) != SALA_OK)
            break;
    sala_inflow_close(in);
    return 0;
}
