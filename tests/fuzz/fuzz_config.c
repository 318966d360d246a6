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
        sala_config_free(&c);
    }
    json_decref(config);
    json_decref(generation);
    return 0;
}
