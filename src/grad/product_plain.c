/* Dense products over the tile kernel `mma`. Sums run over k upwards, one chain an element, whatever the blocks: tiles
 * of the same product give the same bits. In bf16 runs operands are bf16 numbers that are widened tile by tile and
 * multiplied in f32: the same numerics within sums as the instruction's, and slower than f32. */
#include "grad/product_impl.h"

#include <stdio.h>
#include <stdlib.h>

/* A block of B, [BLOCK_K][BLOCK_N], is copied together and stays in the first-level cache while the rows of A go by, as
 * they lie or, where sums go down its columns (GRAD), turned. */
enum { BLOCK_M = 256, BLOCK_N = 64, BLOCK_K = 384 };

typedef struct plain_scratch {
    sala_num b[BLOCK_K * BLOCK_N], a[BLOCK_M * BLOCK_K];
    sala_num wide_b[BLOCK_N * BLOCK_K], wide_a[BLOCK_M * BLOCK_K]; /* of bf16 numbers */
} plain_scratch;

typedef struct plain {
    sala_product base;
    sala_train_kernels k;
    plain_scratch *scratch; /* one a worker */
    size_t scratch_bytes;
} plain;

static void plain_close(sala_product *g)
{
    plain *p = (plain *)g;
    sala_os_pages_free(p->scratch, p->scratch_bytes);
    free(p);
}

static sala_status plain_prepare(sala_product *g, const sala_product_shape *shape, sala_error *err)
{
    (void)g;
    (void)shape;
    (void)err;
    return SALA_OK;
}

/* Elements of a row of a pack: even, as rounding wants it. */
static int64_t pack_stride(sala_product_kind kind, int64_t n, int64_t k)
{
    return ((kind == SALA_PRODUCT_OUT ? k : n) + 1) / 2 * 2;
}

static size_t plain_pack_bytes(const sala_product *g, sala_product_kind kind, int64_t n, int64_t k)
{
    (void)g;
    const int64_t rows = kind == SALA_PRODUCT_OUT ? n : k;
    return ((size_t)rows * (size_t)pack_stride(kind, n, k) * sizeof(uint16_t) + 63) / 64 * 64;
}

/* A pack is the matrix in bf16, as it lies. */
static void plain_pack(const sala_product *g, void *dst, sala_product_kind kind, int64_t n, int64_t k,
                       const sala_num *w, int64_t ldw, int worker)
{
    (void)worker;
    const plain *p = (const plain *)g;
    const int64_t rows = kind == SALA_PRODUCT_OUT ? n : k, cols = kind == SALA_PRODUCT_OUT ? k : n;
    p->k.round_rows(dst, pack_stride(kind, n, k), w, ldw, (int)rows, (int)cols);
}

/* rows x cols bf16 numbers as sala_num, row by row. */
static const sala_num *wide_block(const plain *p, sala_num *out, const uint16_t *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++)
        p->k.widen(out + (size_t)r * (size_t)cols, x + r * ldx, cols);
    return out;
}

/* A block of op(B), [nk][BLOCK_N] at s->b. */
static void get_b(const plain *p, plain_scratch *s, const sala_product_shape *shape, const void *b, int64_t k0,
                  int64_t n0, int nk, int nn)
{
    const bool bf16 = p->base.precision == SALA_PRECISION_BF16;
    const bool turned = shape->kind == SALA_PRODUCT_OUT;
    const int64_t row = turned ? n0 : k0, col = turned ? k0 : n0;
    const int rows = turned ? nn : nk, cols = turned ? nk : nn;
    int64_t ld = shape->ldb;
    const sala_num *at;
    if (bf16) {
        if (shape->kind != SALA_PRODUCT_GRAD) /* a pack */
            ld = pack_stride(shape->kind, shape->n, shape->k);
        at = wide_block(p, s->wide_b, (const uint16_t *)b + row * ld + col, ld, rows, cols);
        ld = cols;
    } else {
        at = (const sala_num *)b + row * ld + col;
    }
    if (turned)
        p->k.transpose(s->b, BLOCK_N, at, ld, rows, cols);
    else
        p->k.copy_rows(s->b, BLOCK_N, at, ld, rows, cols, NULL, 1);
}

/* A block of op(A), row-major. */
static const sala_num *get_a(const plain *p, plain_scratch *s, const sala_product_shape *shape, const void *a,
                             int64_t m0, int64_t k0, int nm, int nk, int64_t *lda)
{
    const bool turned = shape->kind == SALA_PRODUCT_GRAD;
    const int64_t from = turned ? k0 * shape->lda + m0 : m0 * shape->lda + k0;
    const int rows = turned ? nk : nm, cols = turned ? nm : nk;
    const sala_num *at = (const sala_num *)a + from;
    *lda = shape->lda;
    if (p->base.precision == SALA_PRECISION_BF16) {
        at = wide_block(p, s->wide_a, (const uint16_t *)a + from, shape->lda, rows, cols);
        *lda = cols;
    }
    if (!turned)
        return at;
    p->k.transpose(s->a, BLOCK_K, at, *lda, rows, cols);
    *lda = BLOCK_K;
    return s->a;
}

static void plain_run(const sala_product *g, const sala_product_shape *shape, sala_num *c, const void *a, const void *b,
                      int worker)
{
    const plain *p = (const plain *)g;
    plain_scratch *s = &p->scratch[worker];
    for (int64_t m0 = 0; m0 < shape->m; m0 += BLOCK_M) {
        const int nm = (int)sala_min_i64(BLOCK_M, shape->m - m0);
        for (int64_t k0 = 0, nk; k0 < shape->k; k0 += nk) {
            nk = sala_min_i64(BLOCK_K, shape->k - k0);
            int64_t lda = 0;
            const sala_num *rows = get_a(p, s, shape, a, m0, k0, nm, (int)nk, &lda);
            for (int64_t n0 = 0; n0 < shape->n; n0 += BLOCK_N) {
                const int nn = (int)sala_min_i64(BLOCK_N, shape->n - n0);
                get_b(p, s, shape, b, k0, n0, (int)nk, nn);
                p->k.mma(c + m0 * shape->ldc + n0, shape->ldc, rows, lda, 1, s->b, BLOCK_N, nm, nn, (int)nk,
                         k0 > 0 || shape->add);
            }
        }
    }
}

static const sala_product_ops plain_ops = {plain_close, plain_prepare, plain_pack_bytes, plain_pack, plain_run};

size_t sala_product_plain_bytes(int n_workers)
{
    return (size_t)n_workers * sizeof(plain_scratch);
}

sala_status sala_product_open_plain(sala_product **out, const sala_product_params *params, sala_error *err)
{
    const bool bf16 = params->precision == SALA_PRECISION_BF16;
    plain *p = calloc(1, sizeof *p);
    if (!p)
        return sala_fail_memory(err, sizeof *p);
    if (!sala_train_kernels_get(&p->k, params->kernels, sala_os_cpu_features())) {
        free(p);
        return sala_fail(err, SALA_E_INVALID, "kernel family \"%s\" is unknown or this CPU cannot run it",
                         params->kernels ? params->kernels : "auto");
    }
    p->scratch_bytes = sala_product_plain_bytes(params->n_workers);
    p->scratch = sala_os_pages_alloc(p->scratch_bytes);
    if (!p->scratch) {
        const size_t bytes = p->scratch_bytes;
        free(p);
        return sala_fail_memory(err, bytes);
    }
    p->base = (sala_product){.ops = &plain_ops, .precision = params->precision, .n_workers = params->n_workers};
    snprintf(p->base.describe, sizeof p->base.describe, "own kernels (%s), %s", p->k.family,
             bf16 ? "bf16 emulated" : "f32");
    *out = &p->base;
    return SALA_OK;
}
