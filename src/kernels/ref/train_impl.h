/* The reference of train_kernels.h: plain C over sala_num, compiled as float (train_ref.c) and, with SALA_TRAIN_F64, as
 * double. All sums and nearly all arithmetic inside an element are double and rounded once, so that the float table is
 * the better truth by many digits for the families that are checked against it, and the double table loses nothing.
 *
 * Includes nothing of threads or of models; whoever includes it calls train_ref_fill() and nothing else. */
#ifndef SALA_KERNELS_REF_TRAIN_IMPL_H
#define SALA_KERNELS_REF_TRAIN_IMPL_H

#include "kernels/ref/ref_exp.h"
#include "kernels/train_kernels.h"
#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

/* ---- tile products ---- */

enum {
    TRAIN_REF_COLUMNS = 128, /* whose sums are kept at a time */
    TRAIN_REF_LANES = 16,    /* of the mean square, as in ref_impl.h */
};

static void train_ref_mma(sala_num *c, int64_t ldc, const sala_num *a, int64_t a_row, int64_t a_col, const sala_num *b,
                          int64_t ldb, int m, int n, int k, bool add)
{
    for (int i = 0; i < m; i++) {
        for (int j0 = 0; j0 < n; j0 += TRAIN_REF_COLUMNS) {
            const int w = n - j0 < TRAIN_REF_COLUMNS ? n - j0 : TRAIN_REF_COLUMNS;
            sala_num *out = c + i * ldc + j0;
            double sum[TRAIN_REF_COLUMNS] = {0};
            for (int j = 0; add && j < w; j++)
                sum[j] = (double)out[j];
            for (int p = 0; p < k; p++) {
                const double x = (double)a[i * a_row + p * a_col];
                const sala_num *row = b + p * ldb + j0;
                for (int j = 0; j < w; j++)
                    sum[j] += x * (double)row[j];
            }
            for (int j = 0; j < w; j++)
                out[j] = (sala_num)sum[j];
        }
    }
}

static void train_ref_mma_bf16(sala_num *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb,
                               int m, int n, int k, bool add)
{
    for (int i = 0; i < m; i++) {
        for (int j0 = 0; j0 < n; j0 += TRAIN_REF_COLUMNS) {
            const int w = n - j0 < TRAIN_REF_COLUMNS ? n - j0 : TRAIN_REF_COLUMNS;
            sala_num *out = c + i * ldc + j0;
            double sum[TRAIN_REF_COLUMNS] = {0};
            for (int j = 0; add && j < w; j++)
                sum[j] = (double)out[j];
            for (int p = 0; p < k; p++) {
                const double x = (double)sala_bf16_to_f32(a[i * lda + p]);
                const uint16_t *row = b + (p / 2 * ldb + j0) * 2 + p % 2;
                for (int j = 0; j < w; j++)
                    sum[j] += x * (double)sala_bf16_to_f32(row[2 * j]);
            }
            for (int j = 0; j < w; j++)
                out[j] = (sala_num)sum[j];
        }
    }
}

static void train_ref_copy_rows(sala_num *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols,
                                const sala_num *factor, sala_num s)
{
    for (int r = 0; r < rows; r++) {
        const sala_num f = factor ? s * factor[r] : s;
        for (int c = 0; c < cols; c++)
            out[r * ldo + c] = f * x[r * ldx + c];
    }
}

static void train_ref_transpose_pairs(uint16_t *out, int64_t ldo, const uint16_t *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            memcpy(out + 2 * (c * ldo + r), x + 2 * (r * ldx + c), 2 * sizeof *x);
}

static void train_ref_add_scaled(sala_num *out, const sala_num *x, const sala_num *y, sala_num s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (sala_num)((double)x[i] + (double)s * (double)y[i]);
}

static void train_ref_multiply(sala_num *x, int64_t ldx, const sala_num *w, int64_t ldw, int rows, int cols)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            x[r * ldx + c] *= w[r * ldw + c];
}

static void train_ref_transpose(sala_num *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            out[c * ldo + r] = x[r * ldx + c];
}

static void train_ref_round_rows(uint16_t *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < cols; c++)
            out[r * ldo + c] = sala_f32_to_bf16((float)x[r * ldx + c]);
        if (cols % 2)
            out[r * ldo + cols] = 0;
    }
}

static void train_ref_round_pairs(uint16_t *out, int64_t ldo, const sala_num *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < (rows + 1) / 2 * 2; r++)
        for (int c = 0; c < cols; c++)
            out[(r / 2 * ldo + c) * 2 + r % 2] = r < rows ? sala_f32_to_bf16((float)x[r * ldx + c]) : 0;
}

static void train_ref_widen(sala_num *out, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (sala_num)sala_bf16_to_f32(x[i]);
}

/* ---- attention ---- */

static void train_ref_softmax_tile(sala_num *s, int64_t lds, int m, int n, const int32_t *first, const int32_t *visible,
                                   sala_num *top, sala_num *sum, sala_num *keep)
{
    for (int i = 0; i < m; i++) {
        sala_num *row = s + i * lds;
        const int from = first && first[i] > 0 ? first[i] : 0, to = visible[i] < n ? visible[i] : n;
        keep[i] = 1;
        if (from >= to) {
            for (int j = 0; j < n; j++)
                row[j] = 0;
            continue;
        }
        const double old = (double)top[i];
        double now = old;
        for (int j = from; j < to; j++)
            now = (double)row[j] > now ? (double)row[j] : now;
        const double kept = isinf(old) ? 0.0 : sala_ref_exp(old - now);
        double total = (double)sum[i] * kept;
        for (int j = 0; j < n; j++) {
            row[j] = j < from || j >= to ? 0 : (sala_num)sala_ref_exp((double)row[j] - now);
            total += (double)row[j];
        }
        top[i] = (sala_num)now;
        sum[i] = (sala_num)total;
        keep[i] = (sala_num)kept;
    }
}

static void train_ref_scale_rows(sala_num *acc, int64_t ld, const sala_num *keep, int m, int d)
{
    for (int i = 0; i < m; i++)
        for (int c = 0; keep[i] != 1 && c < d; c++)
            acc[i * ld + c] *= keep[i];
}

static void train_ref_softmax_back_tile(sala_num *st, sala_num *dpt, int64_t ld, int n_keys, int m,
                                        const int32_t *first, const int32_t *visible, const sala_num *lse,
                                        const sala_num *delta, sala_num scale)
{
    for (int j = 0; j < n_keys; j++) {
        for (int i = 0; i < m; i++) {
            sala_num *s = st + j * ld + i, *d = dpt + j * ld + i;
            const bool counts = (!first || j >= first[i]) && j < visible[i];
            const double p = counts ? sala_ref_exp((double)*s - (double)lse[i]) : 0;
            *d = counts ? (sala_num)(p * ((double)*d - (double)delta[i]) * (double)scale) : 0;
            *s = (sala_num)p;
        }
    }
}

static sala_num train_ref_dot(const sala_num *a, const sala_num *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return (sala_num)sum;
}

/* ---- rows of layers ---- */

static void train_ref_rms_norm(sala_num *out, sala_num *inv, const sala_num *x, const sala_num *w, int64_t n,
                               sala_num eps)
{
    double lanes[TRAIN_REF_LANES] = {0}, sum = 0; /* as inference adds */
    for (int64_t i = 0; i < n; i++)
        lanes[i % TRAIN_REF_LANES] += (double)x[i] * (double)x[i];
    for (int i = 0; i < TRAIN_REF_LANES; i++)
        sum += lanes[i];
    const sala_num scale = (sala_num)(1.0 / sqrt(sum / (double)n + (double)eps));
    *inv = scale;
    for (int64_t i = 0; out && i < n; i++)
        out[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

static void train_ref_rms_norm_back(sala_num *dx, sala_num *dw, const sala_num *dy, const sala_num *x,
                                    const sala_num *w, sala_num inv, int64_t n, bool add)
{
    const double rho = (double)inv;
    double dot = 0;
    for (int64_t i = 0; i < n; i++)
        dot += (double)dy[i] * (w ? (double)w[i] : 1.0) * (double)x[i];
    const double along = rho * rho * rho / (double)n * dot;
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)dy[i], v = (double)x[i];
        if (dw)
            dw[i] = (sala_num)((double)dw[i] + g * v * rho);
        const double d = rho * g * (w ? (double)w[i] : 1.0) - along * v;
        dx[i] = (sala_num)(add ? (double)dx[i] + d : d);
    }
}

/* Rotates by the angles, or with `back` by their negatives. */
static void train_ref_turn(sala_num *x, const float *cosines, const float *sines, int n_heads, int stride, int n_rot,
                           bool half, double sign)
{
    const int n_pairs = n_rot / 2;
    for (int h = 0; h < n_heads; h++) {
        for (int i = 0; i < n_pairs; i++) {
            sala_num *p = x + (int64_t)h * stride + (half ? i : 2 * i), *q = half ? p + n_pairs : p + 1;
            const double a = (double)*p, b = (double)*q, c = (double)cosines[i], s = sign * (double)sines[i];
            *p = (sala_num)(a * c - b * s);
            *q = (sala_num)(b * c + a * s);
        }
    }
}

static void train_ref_rope_back(sala_num *x, const float *cosines, const float *sines, int n_heads, int stride,
                                int n_rot, bool half)
{
    train_ref_turn(x, cosines, sines, n_heads, stride, n_rot, half, -1);
}

static double train_ref_sigmoid(sala_num x)
{
    return 1.0 / (1.0 + sala_ref_exp(-(double)x));
}

static void train_ref_swiglu_back(sala_num *dgate, sala_num *dup, sala_num *mid, const sala_num *dout,
                                  const sala_num *gate, const sala_num *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)gate[i], u = (double)up[i], d = (double)dout[i], s = train_ref_sigmoid(gate[i]);
        dgate[i] = (sala_num)(d * u * s * (1 + g * (1 - s)));
        dup[i] = (sala_num)(d * g * s);
        mid[i] = (sala_num)(g * s * u);
    }
}

static void train_ref_sigmoid_gate_back(sala_num *dx, sala_num *dz, const sala_num *dy, const sala_num *x,
                                        const sala_num *z, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)dy[i], v = (double)x[i], s = train_ref_sigmoid(z[i]);
        dx[i] = (sala_num)(d * s);
        dz[i] = (sala_num)(d * v * s * (1 - s));
    }
}

#ifdef SALA_TRAIN_F64

/* What the float table takes from sala_kernels. */
static void train_ref_rope(sala_num *x, const float *cosines, const float *sines, int n_heads, int stride, int n_rot,
                           bool half)
{
    train_ref_turn(x, cosines, sines, n_heads, stride, n_rot, half, 1);
}

static void train_ref_swiglu(sala_num *out, const sala_num *gate, const sala_num *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = gate[i] * train_ref_sigmoid(gate[i]) * up[i];
}

static void train_ref_sigmoid_gate(sala_num *out, const sala_num *x, const sala_num *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = x[i] * train_ref_sigmoid(gate[i]);
}

static void train_ref_lightning_out(sala_num *out, int64_t out_stride, const sala_num *q, int64_t q_stride,
                                    const sala_num *k, const sala_num *v, int64_t kv_stride, const sala_num *state,
                                    const float *decay, int a0, int n, int d, sala_num scale, sala_num *scratch)
{
    (void)scratch;
    for (int a = a0; a < n; a++) {
        const sala_num *qa = q + (a - a0) * q_stride;
        sala_num *to = out + (a - a0) * out_stride;
        for (int e = 0; e < d; e++)
            to[e] = 0;
        for (int c = 0; state && c < d; c++)
            for (int e = 0; e < d; e++)
                to[e] += (double)decay[a + 1] * qa[c] * state[(int64_t)c * d + e];
        for (int b = 0; b <= a; b++) {
            const double w = (double)decay[a - b] * train_ref_dot(qa, k + b * kv_stride, d);
            for (int e = 0; e < d; e++)
                to[e] += w * v[b * kv_stride + e];
        }
        for (int e = 0; e < d; e++)
            to[e] *= scale;
    }
}

static void train_ref_lightning_state(sala_num *state_out, const sala_num *state_in, const sala_num *k,
                                      const sala_num *v, int64_t kv_stride, const float *decay, int d,
                                      sala_num *scratch)
{
    (void)scratch;
    for (int c = 0; c < d; c++) {
        for (int e = 0; e < d; e++) {
            const int64_t at = (int64_t)c * d + e;
            double sum = state_in ? (double)decay[SALA_TILE] * state_in[at] : 0;
            for (int b = 0; b < SALA_TILE; b++)
                sum += (double)decay[SALA_TILE - 1 - b] * k[b * kv_stride + c] * v[b * kv_stride + e];
            state_out[at] = sum;
        }
    }
}

#endif

/* ---- head and parameters ---- */

static double train_ref_cross_entropy_row(sala_num *z, sala_num *at_label, int64_t n, int32_t label, sala_num weight,
                                          sala_num zloss)
{
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = (double)z[i] > top ? (double)z[i] : top;
    for (int64_t i = 0; i < n; i++)
        sum += sala_ref_exp((double)z[i] - top);
    const double lse = top + log(sum), w = (double)weight, factor = w * (1 + 2 * (double)zloss * lse);
    *at_label = z[label];
    for (int64_t i = 0; i < n; i++) {
        const double p = sala_ref_exp((double)z[i] - top) / sum;
        z[i] = weight == 0 ? 0 : (sala_num)(factor * p - (i == label ? w : 0));
    }
    return lse;
}

static double train_ref_sum_squares(const sala_num *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static void train_ref_adamw(sala_num *p, sala_num *g, sala_num *m, sala_num *v, int64_t n, sala_num lr, sala_num b1,
                            sala_num b2, sala_num eps, sala_num decay, sala_num c1, sala_num c2, sala_num g_scale,
                            bool clear)
{
    for (int64_t i = 0; i < n; i++) {
        const double x = (double)g[i] * (double)g_scale;
        const double first = (double)b1 * (double)m[i] + (1 - (double)b1) * x;
        const double second = (double)b2 * (double)v[i] + (1 - (double)b2) * x * x;
        const double step = first * (double)c1 / (sqrt(second * (double)c2) + (double)eps);
        m[i] = (sala_num)first;
        v[i] = (sala_num)second;
        p[i] = (sala_num)((double)p[i] - (double)lr * (step + (double)decay * (double)p[i]));
        if (clear)
            g[i] = 0;
    }
}

static void train_ref_fill(sala_train_kernels *out)
{
    *out = (sala_train_kernels){
        .family = "ref",
        .mma = train_ref_mma,
        .mma_bf16 = train_ref_mma_bf16,
        .copy_rows = train_ref_copy_rows,
        .add_scaled = train_ref_add_scaled,
        .transpose_pairs = train_ref_transpose_pairs,
        .multiply = train_ref_multiply,
        .transpose = train_ref_transpose,
        .round_rows = train_ref_round_rows,
        .round_pairs = train_ref_round_pairs,
        .widen = train_ref_widen,
        .softmax_tile = train_ref_softmax_tile,
        .scale_rows = train_ref_scale_rows,
        .softmax_back_tile = train_ref_softmax_back_tile,
        .dot = train_ref_dot,
        .rms_norm = train_ref_rms_norm,
        .rms_norm_back = train_ref_rms_norm_back,
        .rope_back = train_ref_rope_back,
        .swiglu_back = train_ref_swiglu_back,
        .sigmoid_gate_back = train_ref_sigmoid_gate_back,
#ifdef SALA_TRAIN_F64
        .rope = train_ref_rope,
        .swiglu = train_ref_swiglu,
        .sigmoid_gate = train_ref_sigmoid_gate,
        .lightning_out = train_ref_lightning_out,
        .lightning_state = train_ref_lightning_state,
#endif
        .cross_entropy_row = train_ref_cross_entropy_row,
        .sum_squares = train_ref_sum_squares,
        .adamw = train_ref_adamw,
    };
}

#endif
