// module: model
/* Any text as config.json, and behind a NUL as generation_config.json. */
#include "model/config.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t first = nul ? (size_t)(nul - data) : size;
    json_error_t je;
    json_t *config = json_loadb((const char *)data, first, 0, &je);
    json_t *generation = nul ? json_loadb((const char *)nul + 1, size - first - 1, 0, &je) : NULL;
    sala_config c;
    sala_error err;
    if (config && sala_config_from_json(&c, config, generation, &err) == SALA_OK) {
        double *freq = malloc((size_t)(c.rope.n_rot / 2 + 1) * sizeof *freq);
        if (freq)
            (void)sala_rope_inv_freq(&c, false, freq);
        free(freq);
        /* Every number that was accepted must give shapes that fit 64 bits. */
        int64_t rows, cols, total = 0;
        for (int role = 0; role < SALA_T_COUNT; role++)
            for (int layer = 0; layer < (role < SALA_T_FIRST_OF_LAYER ? 1 : c.n_layers); layer++)
                if (sala_tensor_shape(&c, (sala_tensor_role)role, layer, &rows, &cols))
                    total += (rows > 0 ? rows : 1) * cols;
        if (total <= 0 || (c.sparse.block_size > 0 && sala_sparse_selected(&c.sparse) < 1))
            abort();
        sala_config_free(&c);
    }
    json_decref(config);
    json_decref(generation);
    return 0;
}
