/* Element-wise kernels, reductions and attention for any register width. The includer has included a lanes_*.h and
 * defines OPS_FILL (the function that puts these into the table) and Q_TILE (queries of a register tile, 3 or 6). */
#include "kernels/families.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* exp with an error below 1 ulp where the result is normal: 2^n times the Taylor sum of the remainder, |r| <= ln(2)/2,
 * whose ninth term is 5e-9. NaN stays NaN; the order of the operands of max and min is what keeps it. */
INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x));
    const vf n = vf_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
    const vf r = vf_fnma(n, vf_set1(-0x1.05c61p-29f), vf_fnma(n, vf_set1(0x1.62e43p-1f), x));
    vf p = vf_set1(1.0f / 5040);
    p = vf_fma(p, r, vf_set1(1.0f / 720));
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_scale2(p, n);
}

/* for each register of an array: its offset i and its number of elements m */
#define EACH_VECTOR(n) for (int64_t i = 0, m; m = (n)-i < LANES ? (n)-i : LANES, i < (n); i += LANES)

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
    EACH_VECTOR(n)
    if (vf_not_finite(vf_load_n(x + i, (int)m)))
        return false;
    return true;
}

/* ---- attention ----
 *
 * Scores: a lane owns a key, and a score is one chain of FMA over the components in order. Values: a lane owns a
 * component, keys are added in order. Both are tiled over queries in registers; a query's numbers do not depend on the
 * tile it is in. Halves are widened in registers for a few queries, once into scratch for many. */

#define QV 4 /* registers of a query in a tile */
#define KEY_STEP (QV * LANES)

INLINE vf load_value(const void *v, int64_t at, int n, bool half)
{
    if (half)
        return n == LANES ? vf_load_half((const uint16_t *)v + at) : vf_load_half_n((const uint16_t *)v + at, n);
    return n == LANES ? vf_load((const float *)v + at) : vf_load_n((const float *)v + at, n);
}

/* Asks for [at, at + bytes) of what will be read next; NULL: nothing. */
INLINE void ask_for(const uint8_t *next, size_t at, size_t bytes)
{
    if (next)
        for (size_t i = 0; i < bytes; i += 64)
            __builtin_prefetch(next + at + i, 0, 2);
}

/* next: memory as large as the keys, asked for on the way. */
INLINE void scores_tile(float *s, const float *q, const void *k, int j, int d, bool half, const uint8_t *next,
                        const int n_q)
{
    const size_t step = SALA_KV_BLOCK * (half ? sizeof(uint16_t) : sizeof(float));
    vf acc[Q_TILE][QV];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            acc[i][v] = vf_zero();
    for (int c = 0; c < d; c++) {
        vf keys[QV];
        ask_for(next, (size_t)c * step, step);
        for (int v = 0; v < QV; v++)
            keys[v] = load_value(k, (int64_t)c * SALA_KV_BLOCK + j + v * LANES, LANES, half);
        for (int i = 0; i < n_q; i++) {
            const vf x = vf_bcast(q + (size_t)i * (size_t)d + c);
            for (int v = 0; v < QV; v++)
                acc[i][v] = vf_fma(x, keys[v], acc[i][v]);
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            vf_store(s + i * SALA_KV_BLOCK + v * LANES, acc[i][v], LANES);
}

/* Turns the scores of one query into weights (0 for keys it does not see) and brings its m, l and acc up to date. */
INLINE void softmax_row(float *s, float *max, float *l, float *acc, int n_visible, int d)
{
    const int n_vec = (n_visible + LANES - 1) / LANES, last = n_visible - (n_vec - 1) * LANES;
    vf v[SALA_KV_BLOCK / LANES];
    const vf low = vf_set1(-INFINITY);
    vf top = low;
    for (int i = 0; i < n_vec; i++) {
        v[i] = vf_first(vf_load(s + i * LANES), i + 1 < n_vec ? LANES : last, low);
        top = vf_max(top, v[i]);
    }
    const float before = *max;
    float after = vf_hmax(top);
    after = after > before ? after : before;
    const vf t = vf_set1(after);
    vf sum = vf_zero();
    for (int i = 0; i < n_vec; i++) {
        v[i] = vf_first(vf_exp(vf_sub(v[i], t)), i + 1 < n_vec ? LANES : last, vf_zero());
        sum = vf_add(sum, v[i]);
        vf_store(s + i * LANES, v[i], LANES);
    }
    for (int i = n_vec; i < SALA_KV_BLOCK / LANES; i++)
        vf_store(s + i * LANES, vf_zero(), LANES);
    if (!(after == before)) {
        float keep_lanes[LANES];
        vf_store(keep_lanes, vf_exp(vf_set1(before - after)), LANES);
        const vf keep = vf_set1(keep_lanes[0]);
        *l *= keep_lanes[0];
        EACH_VECTOR(d)
        vf_store(acc + i, vf_mul(vf_load_n(acc + i, (int)m), keep), (int)m);
    }
    *l += vf_hsum(sum);
    *max = after;
}

/* acc[i][c0 ..] += weights times values for n_q queries and n_vec registers, the last of `last` elements. */
INLINE void values_tile(float *acc, const float *p, const void *v, int d, int c0, int n_keys, bool half,
                        const uint8_t *next, const int n_q, const int n_vec, const int last)
{
    vf sum[Q_TILE][QV];
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < n_vec; k++) {
            const float *a = acc + (size_t)i * (size_t)d + c0 + k * LANES;
            sum[i][k] = last == LANES ? vf_load(a) : vf_load_n(a, last);
        }
    const size_t step = (size_t)d * (half ? sizeof(uint16_t) : sizeof(float));
    for (int j = 0; j < n_keys; j++) {
        vf x[QV];
        ask_for(next, (size_t)j * step, step);
        for (int k = 0; k < n_vec; k++)
            x[k] = load_value(v, (int64_t)j * d + c0 + k * LANES, last, half);
        for (int i = 0; i < n_q; i++) {
            const vf w = vf_bcast(p + i * SALA_KV_BLOCK + j);
            for (int k = 0; k < n_vec; k++)
                sum[i][k] = vf_fma(w, x[k], sum[i][k]);
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < n_vec; k++)
            vf_store(acc + (size_t)i * (size_t)d + c0 + k * LANES, sum[i][k], last);
}

INLINE void values_rows(float *acc, const float *p, const void *v, int d, int n_keys, bool half, const uint8_t *next,
                        const int n_q)
{
    int c = 0;
    for (; c + QV * LANES <= d; c += QV * LANES)
        values_tile(acc, p, v, d, c, n_keys, half, c == 0 ? next : NULL, n_q, QV, LANES);
    for (; c + LANES <= d; c += LANES)
        values_tile(acc, p, v, d, c, n_keys, half, c == 0 ? next : NULL, n_q, 1, LANES);
    if (c < d)
        values_tile(acc, p, v, d, c, n_keys, half, c == 0 ? next : NULL, n_q, 1, d - c);
}

static inline int most_visible(const int32_t *n_visible, int n)
{
    int most = 0;
    for (int i = 0; i < n; i++)
        most = n_visible[i] > most ? n_visible[i] : most;
    return most;
}

INLINE void attn_block(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *scratch, const uint8_t *next, const bool half)
{
    float *p = scratch, *kv = scratch + (size_t)n_q * SALA_KV_BLOCK;
    const int n_keys = most_visible(n_visible, n_q);
    if (n_keys == 0)
        return;
    const bool widened = half && n_q > Q_TILE;
    if (widened)
        f16_to_f32(kv, k, (int64_t)SALA_KV_BLOCK * d);
#define SCORES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n)) {                                                                                 \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += KEY_STEP) {                                                                     \
            float *row = p + (size_t)i * SALA_KV_BLOCK + j;                                                            \
            if (widened)                                                                                               \
                scores_tile(row, q + (size_t)i * (size_t)d, kv, j, d, false, NULL, n);                                 \
            else                                                                                                       \
                scores_tile(row, q + (size_t)i * (size_t)d, k, j, d, half, i == 0 && j == 0 ? v : NULL, n);            \
        }                                                                                                              \
    }
    int i = 0;
#if Q_TILE == 6
    SCORES(6)
#endif
    SCORES(3)
    SCORES(2)
    SCORES(1)
#undef SCORES
    for (i = 0; i < n_q; i++) {
        float *row = p + (size_t)i * SALA_KV_BLOCK;
        if (n_visible[i] > 0)
            softmax_row(row, m + i, l + i, acc + (size_t)i * (size_t)d, n_visible[i], d);
        else
            memset(row, 0, SALA_KV_BLOCK * sizeof(float));
    }
    if (widened)
        f16_to_f32(kv, v, (int64_t)n_keys * d);
#define VALUES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n)) {                                                                                 \
        const int most = most_visible(n_visible + i, n);                                                               \
        float *a = acc + (size_t)i * (size_t)d;                                                                        \
        const float *w = p + (size_t)i * SALA_KV_BLOCK;                                                                \
        if (widened)                                                                                                   \
            values_rows(a, w, kv, d, most, false, NULL, n);                                                            \
        else                                                                                                           \
            values_rows(a, w, v, d, most, half, i == 0 ? next : NULL, n);                                              \
    }
    i = 0;
#if Q_TILE == 6
    VALUES(6)
#endif
    VALUES(3)
    VALUES(2)
    VALUES(1)
#undef VALUES
}

static void attn_block_f32(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                           const int32_t *n_visible, float *scratch, const void *next)
{
    attn_block(acc, m, l, q, k, v, n_q, d, n_visible, scratch, next, false);
}

static void attn_block_f16(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                           const int32_t *n_visible, float *scratch, const void *next)
{
    attn_block(acc, m, l, q, k, v, n_q, d, n_visible, scratch, next, true);
}

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
    out->kv[SALA_KV_AS_F32].attn_block = attn_block_f32;
    out->kv[SALA_KV_AS_F16].attn_block = attn_block_f16;
    out->argmax = argmax;
    out->log_sum_exp = log_sum_exp;
    out->all_finite = all_finite;
    fill_kv(out);
    fill_mix(out);
}
