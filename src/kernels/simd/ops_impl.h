/* Element-wise kernels and reductions for any register width, and the rest of the table behind them. The includer has
 * included a lanes_*.h and defines OPS_FILL (the function that puts these into the table) and Q_TILE (queries of a
 * register tile, 3 or 6). */
#include "kernels/families.h"
#include "kernels/simd/exp_impl.h"

#include <math.h>

static void rms_norm(float *out, const float *x, const float *w, int64_t n, float eps)
{
    vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t at = 0;
    for (; at + 4 * LANES <= n; at += 4 * LANES) {
        for (int j = 0; j < 4; j++) {
            const vf v = vf_load(x + at + j * LANES);
            sum[j] = vf_fma(v, v, sum[j]);
        }
    }
    for (; at < n; at += LANES) {
        const vf v = vf_load_n(x + at, (int)(n - at < LANES ? n - at : LANES));
        sum[0] = vf_fma(v, v, sum[0]);
    }
    const float total = vf_hsum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    /* A sum that overflowed must not pass as a row of zeros: 0 * infinity makes the row not-a-number. */
    const vf scale = vf_set1(1.0f / sqrtf(total / (float)n + eps) + 0.0f * total);
    EACH_VECTOR(n)
    {
        vf v = vf_mul(vf_load_n(x + i, (int)m), scale);
        if (w)
            v = vf_mul(v, vf_load_n(w + i, (int)m));
        vf_store(out + i, v, (int)m);
    }
}

static void add_scaled(float *x, const float *y, float r, int64_t n)
{
    const vf factor = vf_set1(r);
    EACH_VECTOR(n)
    vf_store(x + i, vf_fma(vf_load_n(y + i, (int)m), factor, vf_load_n(x + i, (int)m)), (int)m);
}

static void swiglu(float *out, const float *gate, const float *up, int64_t n)
{
    const vf one = vf_set1(1.0f);
    EACH_VECTOR(n)
    {
        const vf g = vf_load_n(gate + i, (int)m), u = vf_load_n(up + i, (int)m);
        vf_store(out + i, vf_mul(vf_div(g, vf_add(one, vf_exp(vf_neg(g)))), u), (int)m);
    }
}

static void rope(float *x, const float *cosines, const float *sines, int n_heads, int stride, int n_rot, bool half)
{
    const int n_pairs = n_rot / 2;
    for (int h = 0; h < n_heads; h++, x += stride) {
        if (half) {
            EACH_VECTOR(n_pairs)
            {
                const vf a = vf_load_n(x + i, (int)m), b = vf_load_n(x + n_pairs + i, (int)m);
                const vf c = vf_load_n(cosines + i, (int)m), s = vf_load_n(sines + i, (int)m);
                vf_store(x + i, vf_fnma(b, s, vf_mul(a, c)), (int)m);
                vf_store(x + n_pairs + i, vf_fma(a, s, vf_mul(b, c)), (int)m);
            }
        } else {
            EACH_VECTOR(2 * n_pairs)
            {
                const vf v = vf_load_n(x + i, (int)m);
                vf_store(x + i, vf_rotate_pairs(v, cosines + i / 2, sines + i / 2, (int)m / 2), (int)m);
            }
        }
    }
}

static void f32_to_f16(uint16_t *out, const float *x, int64_t n)
{
    EACH_VECTOR(n)
    vf_store_half_n(out + i, vf_load_n(x + i, (int)m), (int)m);
}

static void f16_to_f32(float *out, const uint16_t *x, int64_t n)
{
    EACH_VECTOR(n)
    vf_store(out + i, vf_load_half_n(x + i, (int)m), (int)m);
}

static int64_t argmax(const float *x, int64_t n, float *max)
{
    const vf low = vf_set1(-INFINITY);
    vf top = low;
    uint32_t nan = 0;
    EACH_VECTOR(n)
    {
        const vf v = vf_first(vf_load_n(x + i, (int)m), (int)m, low);
        nan |= vf_is_nan(v);
        top = vf_max(top, v);
    }
    if (nan) {
        *max = NAN;
        return -1;
    }
    *max = vf_hmax(top);
    top = vf_set1(*max);
    EACH_VECTOR(n)
    {
        const uint32_t hit = vf_equal(vf_load_n(x + i, (int)m), top) & ((1u << m) - 1);
        if (hit) {
            *max = x[i + __builtin_ctz(hit)];
            return i + __builtin_ctz(hit);
        }
    }
    return -1;
}

static double log_sum_exp(const float *x, int64_t n)
{
    float max;
    if (argmax(x, n, &max) < 0)
        return NAN;
    if (isinf(max)) /* exp(inf - inf) would spoil the sum */
        return (double)max;
    const vf top = vf_set1(max), zero = vf_zero();
    double sum = 0;
    vf part = zero;
    int k = 0;
    EACH_VECTOR(n)
    {
        part = vf_add(part, vf_first(vf_exp(vf_sub(vf_load_n(x + i, (int)m), top)), (int)m, zero));
        if (++k == 16) { /* few enough additions that f32 is exact enough */
            sum += vf_hsum_f64(part);
            part = zero;
            k = 0;
        }
    }
    sum += vf_hsum_f64(part);
    return (double)max + log(sum);
}

static bool all_finite(const float *x, int64_t n)
{
    /* A product with zero is zero, or not a number. */
    const vf zero = vf_zero();
    vf sum[4] = {zero, zero, zero, zero};
    int64_t at = 0;
    for (; at + 4 * LANES <= n; at += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sum[j] = vf_fma(vf_load(x + at + j * LANES), zero, sum[j]);
    for (; at < n; at += LANES)
        sum[0] = vf_fma(vf_load_n(x + at, (int)(n - at < LANES ? n - at : LANES)), zero, sum[0]);
    return !vf_is_nan(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static inline uint32_t at_least(const float *x, int m, float t)
{
    const uint32_t is = vf_at_least(vf_load_n(x, m), vf_set1(t));
    return m == LANES ? is : is & ((1u << m) - 1);
}

static inline void range_of(float *min, float *max, const float *x, int64_t n)
{
    const vf low = vf_set1(-INFINITY);
    vf top = low, bottom = low; /* bottom: negated */
    EACH_VECTOR(n)
    {
        const vf v = vf_load_n(x + i, (int)m);
        top = vf_max(top, vf_first(v, (int)m, low));
        bottom = vf_max(bottom, vf_first(vf_neg(v), (int)m, low));
    }
    *max = vf_hmax(top);
    *min = -vf_hmax(bottom);
}

#include "kernels/top_k_impl.h"

#include "kernels/simd/kv_impl.h"
#include "kernels/simd/mix_impl.h"

void OPS_FILL(sala_kernels *out)
{
    out->rms_norm = rms_norm;
    out->add_scaled = add_scaled;
    out->swiglu = swiglu;
    out->rope = rope;
    out->f32_to_f16 = f32_to_f16;
    out->f16_to_f32 = f16_to_f32;
    out->argmax = argmax;
    out->top_k = top_k;
    out->log_sum_exp = log_sum_exp;
    out->all_finite = all_finite;
    fill_kv(out);
    fill_mix(out);
}
