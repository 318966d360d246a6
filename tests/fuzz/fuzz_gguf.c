// module: model
/* Any bytes as a GGUF file: read or refused; what was read can be walked, and its configuration read or refused. */
#include "model/config.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const sala_gguf *g)
{
    volatile double sink = 0;
    for (size_t i = 0; i < sala_gguf_n_kv(g); i++) {
        const sala_gguf_kv *kv = sala_gguf_kv_at(g, i);
        if (sala_gguf_find(g, kv->key) != kv)
            abort();
        const char *s;
        size_t n;
        double d;
        if (sala_gguf_get_f64(g, kv->key, &d))
            sink = sink + d;
        if (sala_gguf_get_str(g, kv->key, &s, &n) && n)
            sink = sink + s[n - 1];
        if (kv->type != SALA_GGUF_ARRAY)
            continue;
        for (uint64_t k = 0; k < kv->count && k < 64; k++)
            if (sala_gguf_array_f64(kv, k, &d))
                sink = sink + d;
        sala_reader r = sala_gguf_array_reader(kv);
        while (kv->elem_type == SALA_GGUF_STRING && sala_gguf_next_str(&r, &s, &n))
            sink = sink + (n ? s[n - 1] : 0);
    }
    const sala_tensor_list list = sala_gguf_tensors(g);
    for (size_t i = 0; i < list.count; i++) {
        const sala_tensor *t = &list.items[i];
        if (sala_gguf_tensor(g, t->name) != t)
            abort();
        const uint8_t *p = t->data;
        sink = sink + p[0] + p[t->bytes - 1];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_gguf *g;
    sala_error err;
    if (sala_gguf_parse(&g, data, size, &err) != SALA_OK)
        return 0;
    walk(g);
    sala_config c;
    if (sala_config_from_gguf(&c, g, &err) == SALA_OK) {
        double *freq = malloc((size_t)(c.rope.n_rot / 2 + 1) * sizeof *freq);
        if (freq)
            (void)sala_rope_inv_freq(&c, true, freq);
        free(freq);
        sala_config_free(&c);
    }
    sala_gguf_close(g);
    return 0;
}
