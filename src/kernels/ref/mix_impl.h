/* The reference of stage 1 of sparse attention, lightning attention, output gates. Included by ref_impl.h.
 *
 * All sums are kept in double and rounded once, so that what the other families are compared with is the better truth
 * by many digits. Each sum has one order, whatever shares the call. */
#ifndef SALA_KERNELS_REF_MIX_IMPL_H
#define SALA_KERNELS_REF_MIX_IMPL_H

/* ---- stage 1 ---- */

/* s[j] = q . row_j; the rows are [d][64], as floats. */
static inline void rows_scores(float *s, const float *q, const float *rows, int d)
{
    double sum[SALA_KV_BLOCK] = {0};
    for (int c = 0; c < d; c++) {
        const double x = (double)q[c];
        for (int j = 0; j < SALA_KV_BLOCK; j++)
            sum[j] += x * (double)rows[c * SALA_KV_BLOCK + j];
    }
    for (int j = 0; j < SALA_KV_BLOCK; j++)
        s[j] = (float)sum[j];
}

static void rows_lse_f32(float *m, float *l, const float *q, const void *rows, int n_q, int d, const int32_t *n_visible,
                         float *scratch, const void *next)
{
    (void)scratch;
    (void)next;
    for (int i = 0; i < n_q; i++) {
        if (n_visible[i] <= 0)
            continue;
        float s[SALA_KV_BLOCK], top = m[i];
        rows_scores(s, q + (size_t)i * (size_t)d, rows, d);
        for (int j = 0; j < n_visible[i]; j++)
            top = s[j] > top ? s[j] : top;
        double sum = (double)l[i] * sala_ref_exp((double)m[i] - (double)top);
        for (int j = 0; j < n_visible[i]; j++)
            sum += sala_ref_exp((double)s[j] - (double)top);
        m[i] = top;
        l[i] = (float)sum;
    }
}

static void rows_mass_f32(float *p, int64_t p_stride, const float *q, const float *lse, const void *rows, int n_q,
                          int group, int d, const int32_t *n_visible, float *scratch, const void *next)
{
    (void)scratch;
    (void)next;
    for (int t = 0; t * group < n_q; t++) {
        double sum[SALA_KV_BLOCK] = {0};
        for (int i = t * group; i < (t + 1) * group; i++) {
            if (n_visible[i] <= 0)
                continue;
            float s[SALA_KV_BLOCK];
            rows_scores(s, q + (size_t)i * (size_t)d, rows, d);
            for (int j = 0; j < n_visible[i]; j++)
                sum[j] += sala_ref_exp((double)s[j] - (double)lse[i]);
        }
        for (int j = 0; j < SALA_KV_BLOCK; j++)
            p[t * p_stride + j] = (float)sum[j];
    }
}

static void rows_lse_f16(float *m, float *l, const float *q, const void *rows, int n_q, int d, const int32_t *n_visible,
                         float *scratch, const void *next)
{
    f16_to_f32(scratch, rows, (int64_t)SALA_KV_BLOCK * d);
    rows_lse_f32(m, l, q, scratch, n_q, d, n_visible, NULL, next);
}

static void rows_mass_f16(float *p, int64_t p_stride, const float *q, const float *lse, const void *rows, int n_q,
                          int group, int d, const int32_t *n_visible, float *scratch, const void *next)
{
    f16_to_f32(scratch, rows, (int64_t)SALA_KV_BLOCK * d);
    rows_mass_f32(p, p_stride, q, lse, scratch, n_q, group, d, n_visible, NULL, next);
}

static inline float larger(float a, float b)
{
    return a > b ? a : b;
}

static void rows_pool(float *pooled, const float *mass)
{
    for (int j = 0; j < SALA_KV_BLOCK; j++)
        pooled[j / 4] = larger(mass[j], pooled[j / 4]);
    for (int j = 3; j < SALA_KV_BLOCK; j += 4)
        pooled[j / 4 + 1] = larger(mass[j], pooled[j / 4 + 1]);
}

/* ---- lightning attention ---- */

#define VALUE_TILE 64 /* value components whose sums are kept at a time */

static void lightning_out(float *out, int64_t out_stride, const float *q, int64_t q_stride, const float *k,
                          const float *v, int64_t kv_stride, const float *state, const float *decay, int a0, int n,
                          int d, float scale, float *scratch)
{
    (void)scratch;
    for (int a = a0; a < n; a++) {
        const float *qa = q + (a - a0) * q_stride;
        double w[SALA_LIGHTNING_CHUNK];
        for (int b = 0; b <= a; b++) {
            double dot = 0;
            for (int c = 0; c < d; c++)
                dot += (double)qa[c] * (double)k[b * kv_stride + c];
            w[b] = (double)decay[a - b] * dot;
        }
        for (int e0 = 0; e0 < d; e0 += VALUE_TILE) {
            const int m = d - e0 < VALUE_TILE ? d - e0 : VALUE_TILE;
            double sum[VALUE_TILE] = {0};
            for (int c = 0; state && c < d; c++) {
                const double x = (double)decay[a + 1] * (double)qa[c];
                for (int e = 0; e < m; e++)
                    sum[e] += x * (double)state[(size_t)c * (size_t)d + (size_t)(e0 + e)];
            }
            for (int b = 0; b <= a; b++)
                for (int e = 0; e < m; e++)
                    sum[e] += w[b] * (double)v[b * kv_stride + e0 + e];
            for (int e = 0; e < m; e++)
                out[(a - a0) * out_stride + e0 + e] = (float)((double)scale * sum[e]);
        }
    }
}

static void lightning_state(float *state_out, const float *state_in, const float *k, const float *v, int64_t kv_stride,
                            const float *decay, int d, float *scratch)
{
    (void)scratch;
    for (int c = 0; c < d; c++) {
        for (int e0 = 0; e0 < d; e0 += VALUE_TILE) {
            const int m = d - e0 < VALUE_TILE ? d - e0 : VALUE_TILE;
            const size_t at = (size_t)c * (size_t)d + (size_t)e0;
            double sum[VALUE_TILE] = {0};
            for (int e = 0; state_in && e < m; e++)
                sum[e] = (double)decay[SALA_LIGHTNING_CHUNK] * (double)state_in[at + (size_t)e];
            for (int b = 0; b < SALA_LIGHTNING_CHUNK; b++) {
                const double x = (double)decay[SALA_LIGHTNING_CHUNK - 1 - b] * (double)k[b * kv_stride + c];
                for (int e = 0; e < m; e++)
                    sum[e] += x * (double)v[b * kv_stride + e0 + e];
            }
            for (int e = 0; e < m; e++)
                state_out[at + (size_t)e] = (float)sum[e];
        }
    }
}

static void sigmoid_gate(float *out, const float *x, const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)x[i] / (1.0 + sala_ref_exp(-(double)gate[i])));
}

static void fill_mix(sala_kernels *out)
{
    out->rows_lse_f32 = rows_lse_f32;
    out->rows_lse_f16 = rows_lse_f16;
    out->rows_mass_f32 = rows_mass_f32;
    out->rows_mass_f16 = rows_mass_f16;
    out->rows_pool = rows_pool;
    out->lightning_out = lightning_out;
    out->lightning_state = lightning_state;
    out->sigmoid_gate = sigmoid_gate;
}

#endif
