/* CPU arithmetic: the contract of every kernel, and the table that run-time dispatch fills.
 *
 * Rules for every variant:
 *  - A kernel works on the range it is given, on the calling thread, allocates nothing and cannot fail.
 *  - The order of sums of one output depends on the shape and on absolute positions only, never on how many tokens,
 * rows or queries share the call: a matrix times one vector and the same matrix times many agree bit for bit.
 *  - No alignment is asked of activations or of mapped weights; packed weights are 64-byte aligned.
 *  - `ref` is plain C in f32, compiled without contraction, and is the twin that every variant is checked against.
 *  - Lists (the .inc files) name the variants; a later entry is preferred over an earlier one of the same contract.
 */
#ifndef SALA_KERNELS_KERNELS_H
#define SALA_KERNELS_KERNELS_H

#include "tensor/dtype.h"

#include <stddef.h>

/* ---- reading stored weights: exact, the definition of every format ---- */

/* out[0..n) = the n weights stored at src; n is a multiple of the type's block. Any type of SALA_DTYPE_LIST but Q8_1,
 * Q8_K and the integers. */
void sala_dequant_row(sala_dtype dtype, float *out, const void *src, int64_t n);
bool sala_dequant_has(sala_dtype dtype);

/* ---- linear layers: out[t][r] = sum over c of W[r][c] * x[t][c] ---- */

/* What a linear kernel wants its input rows turned into, once per input and shared by all matrices that read it. */
typedef struct sala_act_format {
    const char *name;                                         /* "f32", "q8" ... */
    size_t (*row_bytes)(int64_t cols);                        /* bytes of one prepared row, a multiple of 64 */
    void (*prepare)(void *dst, const float *x, int64_t cols); /* one row */
} sala_act_format;

/* One stored type × one kernel family. */
typedef struct sala_linear_kernel {
    const char *name; /* "q4_1_avx512vnni" */
    sala_dtype dtype; /* how the weights are stored in the file */
    uint32_t need;    /* SALA_CPU_* bits */
    bool is_ref;
    int panel_rows; /* tasks start and end at multiples of this many rows (or at the last row) */
    const sala_act_format *act;
    /* NULL: used as it lies in the file. Otherwise the bytes of the packed form (64-byte aligned memory). */
    size_t (*packed_bytes)(int64_t rows, int64_t cols);
    /* Packs rows [row0, row1), multiples of panel_rows or the last row; src is the first byte of the whole matrix. */
    void (*pack)(void *dst, const void *src, int64_t rows, int64_t cols, int64_t row0, int64_t row1);
    /* out[0..cols) = row r of the packed (or plain) matrix, as sala_dequant_row() would have given it, exactly. */
    void (*get_row)(float *out, const void *w, int64_t rows, int64_t cols, int64_t r);
    /* Rows [row0, row1) of the matrix for n_tokens prepared inputs act (stride act_stride bytes).
     * out[t * out_stride + r]; only r in [row0, row1) is written. */
    void (*run)(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride, int64_t rows,
                int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens);
    /* True when the kernel can take rows of this many columns; NULL: any multiple of the type's block. */
    bool (*accepts)(int64_t rows, int64_t cols);
} sala_linear_kernel;

/* ---- attention over one block of keys and values ---- */

#define SALA_KV_BLOCK 64 /* tokens in a block; blocks start at absolute positions that are multiples of it */

/* Online softmax over the first n_visible[i] keys of one block (0 leaves query i as it is), for n_q queries that share
 * one key head.  q [n_q][d], already scaled.  k [d][SALA_KV_BLOCK] and v
 * [SALA_KV_BLOCK][d] in the cache's type: keys lie component by component, so that a lane can own a key without a
 * transposition. What lies in the places of keys that nobody sees is never used, whatever it is.
 * m [n_q] running maximum (start -INFINITY), l [n_q] running sum (start 0), acc [n_q][d] running weighted sum (start
 * 0). `scratch` has SALA_ATTN_SCRATCH(n_q, d) floats. `next` is where the keys of the coming call lie, or NULL: a hint,
 * because blocks lie far apart and the hardware does not see the next one coming. */
#define SALA_ATTN_SCRATCH(n_q, d) ((size_t)(n_q)*SALA_KV_BLOCK + (size_t)SALA_KV_BLOCK * (size_t)(d) + 64)
typedef void sala_attn_block_fn(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q,
                                int d, const int32_t *n_visible, float *scratch, const void *next);

/* ---- the table ---- */

typedef struct sala_kernels {
    const char *family; /* "ref", "avx2", "avx512", "neon" */
    uint32_t cpu;       /* features used */

    /* out = x / rms(x) * w.  n elements; the mean square is accumulated in f32 or better, and
     * the row becomes not-a-number when it overflows. out may be x. w may be NULL. */
    void (*rms_norm)(float *out, const float *x, const float *w, int64_t n, float eps);
    /* x += r * y */
    void (*add_scaled)(float *x, const float *y, float r, int64_t n);
    /* out[i] = silu(gate[i]) * up[i]; out may be gate or up */
    void (*swiglu)(float *out, const float *gate, const float *up, int64_t n);
    /* Rotates n_heads heads of width `stride` floats in place; the first n_rot components of each turn.
     * half: component i pairs with i + n_rot/2; otherwise 2i with 2i+1.  cos, sin [n_rot/2]. */
    void (*rope)(float *x, const float *cos, const float *sin, int n_heads, int stride, int n_rot, bool half);
    void (*f32_to_f16)(uint16_t *out, const float *x, int64_t n);
    void (*f16_to_f32)(float *out, const uint16_t *x, int64_t n);
    sala_attn_block_fn *attn_block_f32;
    sala_attn_block_fn *attn_block_f16;
    /* Index of the largest element, the first on ties; sets *max. n > 0. A NaN anywhere gives -1. */
    int64_t (*argmax)(const float *x, int64_t n, float *max);
    /* log(sum(exp(x[i]))), stable */
    double (*log_sum_exp)(const float *x, int64_t n);
    /* True when every element is finite. */
    bool (*all_finite)(const float *x, int64_t n);
} sala_kernels;

/* name: NULL or "auto" (best of `cpu`), "ref", or a family. Returns false when there is no such family or this CPU
 * lacks it. Fields that a family has no variant of come from the next one down. */
bool sala_kernels_get(sala_kernels *out, const char *name, uint32_t cpu);
/* Families that this build knows, NULL-terminated. */
const char *const *sala_kernels_families(void);
/* The kernel for weights of a type and shape under `k`; never NULL for types that sala_dequant_has(). With no_pack, the
 * best that uses them as they lie. */
const sala_linear_kernel *sala_linear_get(const sala_kernels *k, sala_dtype dtype, int64_t rows, int64_t cols,
                                          bool no_pack);
/* All linear kernels of the build, for the check program. */
const sala_linear_kernel *const *sala_linear_all(size_t *count);

#endif
