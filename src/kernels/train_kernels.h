/* CPU arithmetic of training: small dense products over tiles in cache, the row-wise parts of attention and of layers,
 * and the update of parameters. Same rules as kernels.h (a range, the calling thread, no allocation, no failure, order
 * of sums fixed by the shape); one table, filled by run-time dispatch from ref/, simd/ (avx2, avx512, neon), x86/
 * (bf16).
 *
 * ref/train_impl.h is written over `sala_num` and is compiled twice, as float and as double: the double table is what
 * the double build of grad/ and model/ runs on. There sala_train_kernels_get() has another name, so that both may be
 * linked into one program. */
#ifndef SALA_KERNELS_TRAIN_KERNELS_H
#define SALA_KERNELS_TRAIN_KERNELS_H

#include "tensor/num.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SALA_TILE = 64,    /* queries, keys, linear-attention tokens of one tile */
    SALA_TILE_D = 256, /* largest head_dim; tiles of a head are [SALA_TILE][head_dim] */
};

typedef struct sala_train_kernels {
    const char *family; /* "ref", "avx2", "avx512", "neon" */
    bool has_bf16; /* bf16 products are one instruction here; otherwise operands are rounded and multiplied in f32 */

    /* ---- tile products ----
     * C[i][j] (+)= sum over k, ascending, one chain of FMA per element, of A(i,k) * B[k][j].
     * A(i,k) = a[i * a_row + k * a_col]: any strides, so that a transposed tile needs no copy. B row-major, row stride
     * ldb. Any m, n, k; meant for operands that a core's caches hold. add: C keeps what it holds and is the start of
     * the chain. */
    void (*mma)(sala_num *c, int64_t ldc, const sala_num *a, int64_t a_row, int64_t a_col, const sala_num *b,
                int64_t ldb, int m, int n, int k, bool add);
    /* The same over bf16: A row-major with pairs (k, k+1) adjacent, k even (padded with zeros); B in pairs: element (k,
     * j) at b[(k / 2 * ldb + j) * 2 + k % 2]. Products are exact; sums are f32, two products at a time, with denormal
     * numbers as the machine likes. */
    void (*mma_bf16)(sala_num *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int m,
                     int n, int k, bool add);
    /* out[r][c] = s * factor[r] * x[r][c]; factor NULL: s * x[r][c]. */
    void (*copy_rows)(sala_num *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols,
                      const sala_num *factor, sala_num s);
    /* out = x + s y; out may be x. */
    void (*add_scaled)(sala_num *out, const sala_num *x, const sala_num *y, sala_num s, int64_t n);
    /* x[r][c] *= w[r][c] */
    void (*multiply)(sala_num *x, int64_t ldx, const sala_num *w, int64_t ldw, int rows, int cols);
    /* out[c][r] = x[r][c]. */
    void (*transpose)(sala_num *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols);
    /* To bf16, nearest even. rows: row-major; a zero follows an odd number of columns (ldo > cols then). pairs: B's
     * layout above, rows is k; the partner of an odd last row is zero. */
    void (*round_rows)(uint16_t *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols);
    void (*round_pairs)(uint16_t *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols);
    /* out[c][r] = x[r][c], where an element is a pair and strides are pairs: rows that were rounded become B's layout.
     */
    void (*transpose_pairs)(uint16_t *out, int64_t ldo, const uint16_t *x, int64_t ldx, int rows, int cols);
    void (*widen)(sala_num *out, const uint16_t *x, int64_t n);

    /* ---- attention, row-wise parts ---- */
    /* Forward. s [m][lds] holds scores of m queries against n <= 64 keys; of query i keys first[i] <= j < visible[i]
     * count (first NULL: 0). Turns s into exp(s - new maximum), 0 elsewhere; updates top[i] (start -INFINITY), sum[i]
     * (start 0); keep[i] = exp(old - new) for the accumulator, 1 where no key counts. */
    void (*softmax_tile)(sala_num *s, int64_t lds, int m, int n, const int32_t *first, const int32_t *visible,
                         sala_num *top, sala_num *sum, sala_num *keep);
    /* acc[i][0..d) *= keep[i], only rows with keep[i] != 1. */
    void (*scale_rows)(sala_num *acc, int64_t ld, const sala_num *keep, int m, int d);
    /* Backward, keys as rows and m <= 64 queries as lanes. In: st[j][i] scores, dpt[j][i] = <v_j, dO_i>. Out: st = P =
     * exp(s - lse[i]) and dpt = dS = P * (dp - delta[i]) * scale; both 0 where j < first[i] or j >= visible[i]. */
    void (*softmax_back_tile)(sala_num *st, sala_num *dpt, int64_t ld, int n_keys, int m, const int32_t *first,
                              const int32_t *visible, const sala_num *lse, const sala_num *delta, sala_num scale);
    sala_num (*dot)(const sala_num *a, const sala_num *b, int64_t n);

    /* ---- rows of layers: forward where kernels.h has none in this form, and backward ---- */
    /* *inv = 1 / rms(x); out = x * *inv * w, in the arithmetic and order of sums of sala_kernels.rms_norm (out may be
     * NULL: the statistic alone; w may be NULL: 1). */
    void (*rms_norm)(sala_num *out, sala_num *inv, const sala_num *x, const sala_num *w, int64_t n, sala_num eps);
    /* dx (+)= gradient, dw += dy * x * inv (dw may be NULL); inv as kept by the forward pass. dx may be dy. */
    void (*rms_norm_back)(sala_num *dx, sala_num *dw, const sala_num *dy, const sala_num *x, const sala_num *w,
                          sala_num inv, int64_t n, bool add);
    /* Rotation by the negative angle (times the factor that is in cos and sin). */
    void (*rope_back)(sala_num *x, const float *cos, const float *sin, int n_heads, int stride, int n_rot, bool half);
    /* dgate = dout * up * s (1 + g (1 - s)), dup = dout * g s; mid = g s up again (for dW of down). Outputs may be
     * inputs. */
    void (*swiglu_back)(sala_num *dgate, sala_num *dup, sala_num *mid, const sala_num *dout, const sala_num *gate,
                        const sala_num *up, int64_t n);
    /* y = x * sigmoid(z): dx = dy * s, dz = dy * x * s (1 - s). Outputs may be inputs. */
    void (*sigmoid_gate_back)(sala_num *dx, sala_num *dz, const sala_num *dy, const sala_num *x, const sala_num *z,
                              int64_t n);

    /* ---- forward operations that inference has too: in the f32 build the entries of sala_kernels, in the double build
     * ref/ ---- */
    void (*rope)(sala_num *x, const float *cos, const float *sin, int n_heads, int stride, int n_rot, bool half);
    void (*swiglu)(sala_num *out, const sala_num *gate, const sala_num *up, int64_t n);
    void (*sigmoid_gate)(sala_num *out, const sala_num *x, const sala_num *gate, int64_t n);
    void (*lightning_out)(sala_num *out, int64_t out_stride, const sala_num *q, int64_t q_stride, const sala_num *k,
                          const sala_num *v, int64_t kv_stride, const sala_num *state, const float *decay, int a0,
                          int n, int d, sala_num scale, sala_num *scratch);
    void (*lightning_state)(sala_num *state_out, const sala_num *state_in, const sala_num *k, const sala_num *v,
                            int64_t kv_stride, const float *decay, int d, sala_num *scratch);

    /* ---- head ---- */
    /* One row of logits z [n], overwritten by weight * (softmax(z) - onehot(label)) + 2 * weight * zloss * lse *
     * softmax(z). Returns lse; *at_label = z[label] before. weight 0: fills zeros. */
    double (*cross_entropy_row)(sala_num *z, sala_num *at_label, int64_t n, int32_t label, sala_num weight,
                                sala_num zloss);

    /* ---- parameters ---- */
    double (*sum_squares)(const sala_num *x,
                          int64_t n); /* of blocks of 4096 in f64, added in order; NaN and inf survive */
    /* g *= g_scale first. m, v moments; p -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * p). c1 = 1/(1-b1^t), c2 =
     * 1/(1-b2^t). Zeroes g behind it when `clear`. */
    void (*adamw)(sala_num *p, sala_num *g, sala_num *m, sala_num *v, int64_t n, sala_num lr, sala_num b1, sala_num b2,
                  sala_num eps, sala_num decay, sala_num c1, sala_num c2, sala_num g_scale, bool clear);
} sala_train_kernels;

/* As sala_kernels_get: name NULL or "auto", "ref", or a family. */
#ifdef SALA_TRAIN_F64
#define sala_train_kernels_get sala_train_kernels_get_f64 /* ref alone */
#endif
bool sala_train_kernels_get(sala_train_kernels *out, const char *name, uint32_t cpu);

#endif
