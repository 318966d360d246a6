/* What product.c asks of an implementation of dense products. */
#ifndef SALA_GRAD_PRODUCT_IMPL_H
#define SALA_GRAD_PRODUCT_IMPL_H

#include "grad/product.h"

typedef struct sala_product_ops {
    void (*close)(sala_product *g);
    sala_status (*prepare)(sala_product *g, const sala_product_shape *shape, sala_error *err);
    size_t (*pack_bytes)(const sala_product *g, sala_product_kind kind, int64_t n, int64_t k);
    void (*pack)(const sala_product *g, void *dst, sala_product_kind kind, int64_t n, int64_t k, const sala_num *w,
                 int64_t ldw, int worker);
    void (*run)(const sala_product *g, const sala_product_shape *shape, sala_num *c, const void *a, const void *b,
                int worker);
} sala_product_ops;

struct sala_product {
    const sala_product_ops *ops;
    sala_precision precision;
    int n_workers;
    char describe[256];
};

size_t sala_product_plain_bytes(int n_workers);
sala_status sala_product_open_plain(sala_product **out, const sala_product_params *p, sala_error *err);
#ifdef SALA_HAVE_DNNL
size_t sala_product_dnnl_bytes(sala_precision p, int n_workers, int64_t widest); /* at most, beside the plain ones */
/* SALA_E_UNSUPPORTED where the library cannot do what `p` asks for on this CPU. */
sala_status sala_product_open_dnnl(sala_product **out, const sala_product_params *p, sala_error *err);
#endif

#endif
