/* Dense products of training: the only place that knows oneDNN. One call is one task's share, on the calling thread;
 * who splits a product over threads is device_linear.c, by shape alone. Two implementations: product_dnnl.c, and
 * product_plain.c (blocked over sala_train_kernels.mma), which is also the double build's and what a build without
 * oneDNN uses.
 *
 *   OUT   C = y  [m][n]   A = x  [m][k]   B = W [n][k], transposed
 *   BACK  C = dx [m][n]   A = dy [m][k]   B = W [k][n]
 *   GRAD  C = dW [m][n]   A = dy [k][m], transposed   B = x [k][n]
 *
 * In f32 runs A and B are rows of sala_num as they lie. In bf16 runs A is bf16 rows, B of OUT and BACK is what
 * sala_product_pack made of W, B of GRAD bf16 rows; token rows (m of OUT and BACK, k of GRAD) can be read up to the
 * next multiple of SALA_PRODUCT_ROWS and are zero there. C has exactly m rows, and is f32 (double in the double build)
 * in any case. */
#ifndef SALA_GRAD_PRODUCT_H
#define SALA_GRAD_PRODUCT_H

#include "base/base.h"
#include "kernels/train_kernels.h"
#include "os/os.h"

enum { SALA_PRODUCT_ROWS = 64 };

typedef enum sala_product_kind { SALA_PRODUCT_OUT, SALA_PRODUCT_BACK, SALA_PRODUCT_GRAD } sala_product_kind;

typedef enum sala_precision { SALA_PRECISION_F32, SALA_PRECISION_BF16 } sala_precision;

typedef struct sala_product_shape {
    sala_product_kind kind;
    int64_t m, n, k;
    int64_t lda, ldb, ldc; /* elements from one row to the next, of A, B (no pack) and C as they lie */
    bool add;              /* C keeps what it holds */
} sala_product_shape;

typedef struct sala_product_params {
    sala_precision precision;
    int n_workers;
    const char *kernels; /* of the plain implementation, as sala_kernels_get */
    bool plain;          /* own kernels, whatever the build has */
} sala_product_params;

typedef struct sala_product
    sala_product; /* one of a process; all calls but open, close and prepare may run side by side */

sala_status sala_product_open(sala_product **out, const sala_product_params *p, sala_error *err);
/* Memory that products take for themselves, at most, when the widest has so many columns. */
size_t sala_product_scratch_bytes(sala_precision p, int n_workers, int64_t widest);
void sala_product_close(sala_product *g); /* NULL is fine */
/* "oneDNN 2.6.3, bf16 brg:avx512_core_bf16", "own kernels (avx2), f32 (there is no libdnnl.so.2)"; valid until close.
 */
const char *sala_product_describe(const sala_product *g);
bool sala_product_is_plain(const sala_product *g);
sala_precision sala_product_precision(const sala_product *g);
/* Whether products of bf16 runs are faster here than those of f32 runs: the CPU multiplies bf16, and oneDNN is there to
 * use it. Elsewhere bf16 is emulated. Loads the library. */
bool sala_product_bf16_is_fast(void);
/* Announces a shape, with the most rows of tokens that a call will have, so that calls within it create nothing. */
sala_status sala_product_prepare(sala_product *g, const sala_product_shape *shape, sala_error *err);

/* bf16 runs. Bytes of the pack of B of an OUT or BACK product of this n and k; 0 in f32 runs. */
size_t sala_product_pack_bytes(const sala_product *g, sala_product_kind kind, int64_t n, int64_t k);
/* w: B as it lies in f32, W [n][ldw] (OUT) or [k][ldw] (BACK). dst is 64-byte aligned. */
void sala_product_pack(const sala_product *g, void *dst, sala_product_kind kind, int64_t n, int64_t k,
                       const sala_num *w, int64_t ldw, int worker);

/* `worker` is the calling thread's number in the pool. */
void sala_product_run(const sala_product *g, const sala_product_shape *shape, sala_num *c, const void *a, const void *b,
                      int worker);

/* Floating-point operations a second of large OUT products on all workers of the pool, the best of several short runs:
 * the peak that progress lines refer to. Takes a tenth to half of a second; 0 when memory is out. */
double sala_product_peak(const sala_product *g, sala_pool *pool);

#endif
