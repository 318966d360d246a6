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

#include "tensor/kv_block.h"

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

/* Working memory of a linear kernel: a good part of a second-level cache. */
#define SALA_LINEAR_SCRATCH (256 * 1024)

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
     * out[t * out_stride + r]; only r in [row0, row1) is written. scratch: SALA_LINEAR_SCRATCH bytes, 64-byte
     * aligned. */
    void (*run)(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride, int64_t rows,
                int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens, void *scratch);
    /* True when the kernel can take rows of this many columns; NULL: any multiple of the type's block. */
    bool (*accepts)(int64_t rows, int64_t cols);
} sala_linear_kernel;

/* ---- attention over one block of keys and values (tensor/kv_block.h) ---- */

/* Online softmax over the first n_visible[i] keys of one block (0 leaves query i as it is), for n_q queries that share
 * one key head.  q [n_q][d], already scaled.  k and v: the head's bytes of the block. What lies in the places of keys
 * that nobody sees is never used, whatever it is.
 * m [n_q] running maximum (start -INFINITY), l [n_q] running sum (start 0), acc [n_q][d] running weighted sum (start
 * 0). `scratch` has SALA_ATTN_SCRATCH(n_q, d) floats. `next` is where the keys of the coming call lie, or NULL: a hint,
 * because blocks lie far apart and the hardware does not see the next one coming. */
#define SALA_ATTN_SCRATCH(n_q, d)                                                                                      \
    ((size_t)(n_q) * (2 * SALA_KV_BLOCK + 2 * (size_t)(d)) + 128 * (size_t)SALA_KV_BLOCK +                             \
     ((size_t)(d) / 32 + 1) * 64 * (size_t)SALA_KV_BLOCK)
/* Floats of one prepared query: up to two bytes a component, and two numbers for every 32 of them. */
#define SALA_ATTN_QUERY(d) ((size_t)(d) / 2 + (size_t)(d) / 16 + 4)
typedef void sala_attn_block_fn(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q,
                                int d, const int32_t *n_visible, float *scratch, const void *next);

/* One type of cache. */
typedef struct sala_kv_kernels {
    sala_attn_block_fn *attn_block;
    /* Writes n tokens into slots slot .. slot + n - 1 of one head. keys, values: a token's d floats, `stride` floats
     * from one token to the next. What is stored of a token depends on its own numbers only. */
    void (*store)(void *k, void *v, int slot, int n, const float *keys, const float *values, int64_t stride, int d);
    /* As floats: out [d][SALA_KV_BLOCK] and, for the first n tokens, out [n][d]. */
    void (*load_keys)(float *out, const void *k, int d);
    void (*load_values)(float *out, const void *v, int n, int d);
    /* NULL: attn_block takes queries as they are. Otherwise it takes what this makes of [n_q][d] already scaled ones,
     * SALA_ATTN_QUERY(d) floats each: once for all blocks. */
    void (*prepare)(float *out, const float *q, int n_q, int d);
    /* With `prepare`: it rounds each group of SALA_KV_GROUP components, of Q4_1 once turned, to multiples of
     * f32(largest magnitude / query_steps), nearest even. Weights are whole steps, too: so
     * many make the largest product of a weight and its value's scale that a query has in a block and a group. */
    int query_steps, weight_steps;
} sala_kv_kernels;

enum { SALA_KV_AS_F32, SALA_KV_AS_F16, SALA_KV_AS_Q8_0, SALA_KV_AS_Q4_1, SALA_N_KV_KERNELS };

/* ---- InfLLM-v2, stage 1: queries against one page of 64 compressed keys [d][64], f32 or f16 ---- */

/* m, l: running maximum and sum of exp over the first n_visible[i] rows of the page, exactly as in sala_attn_block_fn.
 * q [n_q][d], already scaled. `scratch` as there. `next` is the page of the coming call, or NULL: a hint, as there. */
typedef void sala_rows_lse_fn(float *m, float *l, const float *q, const void *rows, int n_q, int d,
                              const int32_t *n_visible, float *scratch, const void *next);
/* p[t * p_stride + j], j in [0, 64) = sum over the `group` queries i of token t, in order, of exp(q_i . row_j -
 * lse[i]); 0 for j >= n_visible[i]. Query i belongs to token i / group; n_q is a multiple of group. */
typedef void sala_rows_mass_fn(float *p, int64_t p_stride, const float *q, const float *lse, const void *rows, int n_q,
                               int group, int d, const int32_t *n_visible, float *scratch, const void *next);

/* What the masses of a page's rows are worth to its blocks, with the constants that models use: four rows begin in a
 * block, and the last of them reaches into the next. pooled [SALA_KV_BLOCK / 4 + 1] takes the larger numbers. */
typedef void sala_rows_pool_fn(float *pooled, const float *mass);

/* ---- lightning attention: one head, one chunk of up to SALA_LIGHTNING_CHUNK tokens ---- */

/* Chunks start at absolute positions that are multiples of it; part of the definition of the result, as the order of
 * sums follows it. */
#define SALA_LIGHTNING_CHUNK 64
#define SALA_LIGHTNING_SCRATCH(d) ((size_t)SALA_LIGHTNING_CHUNK * (SALA_LIGHTNING_CHUNK + 2 * (size_t)(d)) + 64)

/* Tokens a0 .. n - 1 of the chunk; q and out point at token a0, k and v at token 0; strides in floats.
 *   out[a] = scale * (decay[a + 1] * q[a] S + sum over b <= a of decay[a - b] * (q[a] . k[b]) * v[b])
 * state S [d][d] (key component, value component), NULL for zero; decay[i] = exp(-slope * i), i in [0, CHUNK].
 * A token's numbers do not depend on a0 and n. */
typedef void sala_lightning_out_fn(float *out, int64_t out_stride, const float *q, int64_t q_stride, const float *k,
                                   const float *v, int64_t kv_stride, const float *state, const float *decay, int a0,
                                   int n, int d, float scale, float *scratch);
/* state_out = decay[CHUNK] * state_in + sum over b of decay[CHUNK - 1 - b] * k[b]^T v[b], for a full chunk. state_in
 * may be NULL (zero) or state_out. */
typedef void sala_lightning_state_fn(float *state_out, const float *state_in, const float *k, const float *v,
                                     int64_t kv_stride, const float *decay, int d, float *scratch);

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
    sala_kv_kernels kv[SALA_N_KV_KERNELS];
    sala_rows_lse_fn *rows_lse_f32, *rows_lse_f16;
    sala_rows_mass_fn *rows_mass_f32, *rows_mass_f16;
    sala_rows_pool_fn *rows_pool;
    sala_lightning_out_fn *lightning_out;
    sala_lightning_state_fn *lightning_state;
    /* out[i] = x[i] * sigmoid(gate[i]); out may be x */
    void (*sigmoid_gate)(float *out, const float *x, const float *gate, int64_t n);
    /* Index of the largest element, the first on ties; sets *max. n > 0. A NaN anywhere gives -1. */
    int64_t (*argmax)(const float *x, int64_t n, float *max);
    /* Indices of the k largest elements, ascending; of equal ones, those that come first. Returns their number, the
     * smaller one of n and k; fewer when there are NaNs, whose places are anybody's guess. */
    int64_t (*top_k)(int32_t *out, const float *x, int64_t n, int64_t k);
    /* log(sum(exp(x[i]))), stable */
    double (*log_sum_exp)(const float *x, int64_t n);
    /* True when every element is finite. */
    bool (*all_finite)(const float *x, int64_t n);
} sala_kernels;

static inline const sala_kv_kernels *sala_kv_kernels_of(const sala_kernels *k, sala_dtype cache)
{
    return &k->kv[cache == SALA_F32    ? SALA_KV_AS_F32
                  : cache == SALA_F16  ? SALA_KV_AS_F16
                  : cache == SALA_Q8_0 ? SALA_KV_AS_Q8_0
                                       : SALA_KV_AS_Q4_1];
}

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
