/* Dense products of training: the only place that knows oneDNN. One call is one task's share, on the calling thread; who splits
 * a product over threads is device.c, by shape alone. Two implementations: product_dnnl.c and product_plain.c (blocked over
 * sala_train_kernels.mma; also the double build's, and what a build without oneDNN uses). */
#ifndef SALA_GRAD_PRODUCT_H
#define SALA_GRAD_PRODUCT_H

#include "base/base.h"
#include "kernels/train_kernels.h"
#include "os/os.h"

typedef enum sala_product_kind {
    SALA_PRODUCT_OUT,  /* y[m][n]  = x[m][k] W[n][k]T */
    SALA_PRODUCT_BACK, /* dx[m][n] = dy[m][k] W[k][n] */
    SALA_PRODUCT_GRAD, /* dW[m][n] += dy[k][m]T x[k][n] */
} sala_product_kind;

typedef enum sala_precision { SALA_PRECISION_F32, SALA_PRECISION_BF16 } sala_precision;

typedef struct sala_product sala_product; /* of one process; read-only after sala_product_prepare */

sala_status sala_product_open(sala_product **out, sala_precision p, int n_workers, sala_error *err);
void sala_product_close(sala_product *g);
const char *sala_product_describe(const sala_product *g); /* "oneDNN 2.6.3, bf16 brg:avx512_core_bf16" */
/* Announces a shape, so that nothing is created later; m_most rows at a time. */
sala_status sala_product_prepare(sala_product *g, sala_product_kind kind, int64_t m_most, int64_t n, int64_t k, sala_error *err);

/* bf16: W in the layout that the library wants, for OUT and for BACK; made after each update. */
size_t sala_product_pack_bytes(const sala_product *g, sala_product_kind kind, int64_t rows, int64_t cols);
void sala_product_pack(const sala_product *g, void *dst, sala_product_kind kind, const float *w, int64_t rows, int64_t cols,
                       int worker);

/* C[m][n] (+)= op(A) op(B) with strides of rows in elements. f32: A, B float. bf16: A uint16_t rows, B a pack (OUT, BACK) or
 * uint16_t rows (GRAD). C is always f32 (double in the double build). `worker` picks the scratch. */
void sala_product_run(const sala_product *g, sala_product_kind kind, sala_num *c, int64_t ldc, const void *a, int64_t lda,
                      const void *b, int64_t ldb, int64_t m, int64_t n, int64_t k, bool add, int worker);

/* Measured once, 50 ms on all workers: the peak that progress lines refer to. */
double sala_product_peak(const sala_product *g, sala_pool *pool);

#endif
