/* For any register width: key and value caches: storing, reading, attention. Included by ops_impl.h behind the parts
 * that it builds on.
 *
 * Of plain types a score is one chain of FMA over the components in order, a lane owning a key; values are added key by
 * key, a lane owning a component. Both are tiled over queries in registers; a query's numbers do not depend on the tile
 * it is in. Halves are widened in registers. Quantised types: kv_codes_impl.h. */
#ifndef SALA_KERNELS_SIMD_KV_IMPL_H
#define SALA_KERNELS_SIMD_KV_IMPL_H

#define NOT_A_NUMBER_F16 0x7e00
#define QV 4 /* registers of a query in a tile */
#define KEY_STEP (QV * LANES)

/* ---- storing ---- */

static uint16_t quantise_q8(int8_t *codes, const float *x, int n)
{
    vf top = vf_zero();
    uint32_t bad = 0;
    EACH_VECTOR(n)
    {
        const vf v = vf_load_n(x + i, (int)m);
        bad |= vf_not_finite(v);
        top = vf_max(top, vf_max(v, vf_neg(v)));
    }
    const uint16_t half = sala_f32_to_f16(fabsf(vf_hmax(top)) / 127.0f);
    bad |= (half & 0x7c00) == 0x7c00;
    if (bad || half == 0) {
        memset(codes, 0, (size_t)n);
        return bad ? NOT_A_NUMBER_F16 : 0;
    }
    const vf scale = vf_set1(sala_f16_to_f32(half)), most = vf_set1(127.0f), least = vf_set1(-127.0f);
    EACH_VECTOR(n)
    {
        const vf c = vf_div(vf_load_n(x + i, (int)m), scale);
        vf_store_i8_n(codes + i, vf_round(vf_min(most, vf_max(least, c))), (int)m);
    }
    return half;
}

#define GROUP_REGISTERS (SALA_KV_GROUP / LANES)

/* Halves first: x[i] + x[i + 16] of 32 numbers, then + 8 and so on. */
INLINE float sum_of_halves(const vf *x)
{
    vf r[GROUP_REGISTERS];
    for (int k = 0; k < GROUP_REGISTERS; k++)
        r[k] = x[k];
    for (int h = GROUP_REGISTERS / 2; h > 0; h /= 2)
        for (int k = 0; k < h; k++)
            r[k] = vf_add(r[k], r[k + h]);
    if (LANES > 4)
        return vf_hsum(r[0]);
    float lane[LANES];
    vf_store(lane, r[0], LANES);
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

INLINE vf code_q4(vf x, vf min, vf scale)
{
    return vf_round(vf_min(vf_set1(15.0f), vf_max(vf_zero(), vf_div(vf_sub(x, min), scale))));
}

/* The line min + scale * code that is nearest to the n numbers of x for the codes that it has with the line as it was;
 * the scale is above 0. */
INLINE void fit_q4(float *min, float *scale, const vf *x, float sum, int n)
{
    const vf m = vf_set1(*min), by = vf_set1(*scale);
    vf c[GROUP_REGISTERS], square[GROUP_REGISTERS], product[GROUP_REGISTERS];
    for (int k = 0; k < GROUP_REGISTERS; k++) {
        const int left = n - k * LANES, there = left < 0 ? 0 : left < LANES ? left : LANES;
        c[k] = vf_first(code_q4(x[k], m, by), there, vf_zero());
        square[k] = vf_mul(c[k], c[k]);
        product[k] = vf_mul(x[k], c[k]);
    }
    const float codes = sum_of_halves(c), spread = (float)n * sum_of_halves(square) - codes * codes;
    if (!(spread > 0))
        return;
    *scale = ((float)n * sum_of_halves(product) - codes * sum) / spread;
    *min = (sum - *scale * codes) / (float)n;
}

static uint16_t quantise_q4(uint8_t *codes, const float *x, int n, uint16_t *minimum)
{
    const vf first = vf_set1(x[0]);
    vf v[GROUP_REGISTERS], low = vf_neg(first), high = first; /* low: negated */
    uint32_t bad = 0;
    for (int k = 0; k < GROUP_REGISTERS; k++) {
        const int left = n - k * LANES, there = left < 0 ? 0 : left < LANES ? left : LANES;
        v[k] = there == LANES ? vf_load(x + k * LANES) : vf_load_n(x + k * LANES, there);
        const vf seen = vf_first(v[k], there, first);
        bad |= vf_not_finite(seen);
        low = vf_max(low, vf_neg(seen));
        high = vf_max(high, seen);
    }
    float min = -vf_hmax(low), scale = (vf_hmax(high) - min) / 15.0f;
    const float sum = sum_of_halves(v);
    for (int i = 0; i < SALA_KV_FITS && scale > 0; i++)
        fit_q4(&min, &scale, v, sum, n);
    *minimum = sala_f32_to_f16(min + 0.0f); /* of two zeros the positive one */
    const uint16_t half = sala_f32_to_f16(scale > 0 ? scale : 0.0f);
    bad |= (half & 0x7c00) == 0x7c00 || (*minimum & 0x7c00) == 0x7c00;
    if (bad || half == 0) {
        memset(codes, 0, (size_t)n);
        if (bad)
            *minimum = NOT_A_NUMBER_F16;
        return bad ? NOT_A_NUMBER_F16 : 0;
    }
    const vf origin = vf_set1(sala_f16_to_f32(*minimum)), by = vf_set1(sala_f16_to_f32(half));
    for (int k = 0; k * LANES < n; k++)
        vf_store_i8_n((int8_t *)codes + k * LANES, code_q4(v[k], origin, by),
                      n - k * LANES < LANES ? n - k * LANES : LANES);
    return half;
}

static inline void turn_group(float *x, int m);

#include "kernels/kv_store_impl.h"

/* n = 16 or 32 components. Of two lanes that meet, the first takes the sum, the second the
 * difference: as a product with 1 or -1, which is exact. */
INLINE void turn_registers(float *x, const int n)
{
    static const float signs[4][16] = {{1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
                                       {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
                                       {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
                                       {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};
    vf r[32 / LANES];
    const int n_vec = n / LANES;
    for (int i = 0; i < n_vec; i++)
        r[i] = vf_load(x + i * LANES);
    for (int b = 0; 1 << b < LANES; b++)
        for (int i = 0; i < n_vec; i++)
            r[i] = vf_fma(r[i], vf_load(signs[b]), vf_swap_lanes(r[i], 1 << b));
    for (int h = 1; h < n_vec; h *= 2)
        for (int i = 0; i < n_vec; i++)
            if (!(i & h)) {
                const vf a = r[i], b = r[i + h];
                r[i] = vf_add(a, b);
                r[i + h] = vf_sub(a, b);
            }
    const vf scale = vf_set1(1.0f / sqrtf((float)n));
    for (int i = 0; i < n_vec; i++)
        vf_store(x + i * LANES, vf_mul(r[i], scale), LANES);
}

static inline void turn_group(float *x, int m)
{
    if (m == 32)
        turn_registers(x, 32);
    else if (m >= 16)
        turn_registers(x, 16);
    else
        turn_many(x, m, 1);
}

/* ---- reading ---- */

static inline int most_visible(const int32_t *n_visible, int n)
{
    int most = 0;
    for (int i = 0; i < n; i++)
        most = n_visible[i] > most ? n_visible[i] : most;
    return most;
}

#include "kernels/simd/kv_codes_impl.h"

/* Of Q4_1 as they are stored: turned. */
INLINE void load_keys(float *out, const void *k, int d, const int as)
{
    if (as == SALA_KV_AS_F32)
        memcpy(out, k, (size_t)SALA_KV_BLOCK * (size_t)d * sizeof(float));
    else if (as == SALA_KV_AS_F16)
        f16_to_f32(out, k, (int64_t)SALA_KV_BLOCK * d);
    else
        load_quantised_block(out, k, d, as);
}

INLINE void load_values(float *out, const void *v, int n, int d, const int as)
{
    if (as == SALA_KV_AS_F32)
        memcpy(out, v, (size_t)n * (size_t)d * sizeof(float));
    else if (as == SALA_KV_AS_F16)
        f16_to_f32(out, v, (int64_t)n * d);
    else
        load_quantised_tokens(out, v, n, d, as);
}

/* ---- attention ---- */

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

/* next: memory as large as the keys; each j asks for its share of it on the way. */
INLINE void scores_tile(float *s, const float *q, const void *k, int j, int d, bool half, const uint8_t *next,
                        const int n_q)
{
    const size_t element = half ? sizeof(uint16_t) : sizeof(float);
    vf acc[Q_TILE][QV];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            acc[i][v] = vf_zero();
    for (int c = 0; c < d; c++) {
        vf x[Q_TILE]; /* with one key beside them a tile of 3 fits 16 registers */
        ask_for(next, (size_t)(c * SALA_KV_BLOCK + j) * element, KEY_STEP * element);
        for (int i = 0; i < n_q; i++)
            x[i] = vf_bcast(q + (size_t)i * (size_t)d + c);
        for (int v = 0; v < QV; v++) {
            const vf key = load_value(k, (int64_t)c * SALA_KV_BLOCK + j + v * LANES, LANES, half);
            for (int i = 0; i < n_q; i++)
                acc[i][v] = vf_fma(x[i], key, acc[i][v]);
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
        v[i] = vf_first(vf_exp_weight(vf_sub(v[i], t)), i + 1 < n_vec ? LANES : last, vf_zero());
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
INLINE void values_tile(float *acc, const float *p, const void *values, int d, int c0, int n_keys, const bool half,
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
        vf w[Q_TILE];
        ask_for(next, (size_t)j * step, step);
        for (int i = 0; i < n_q; i++)
            w[i] = vf_bcast(p + i * SALA_KV_BLOCK + j);
        for (int k = 0; k < n_vec; k++) {
            const vf x = load_value(values, (int64_t)j * d + c0 + k * LANES, last, half);
            for (int i = 0; i < n_q; i++)
                sum[i][k] = vf_fma(w[i], x, sum[i][k]);
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < n_vec; k++)
            vf_store(acc + (size_t)i * (size_t)d + c0 + k * LANES, sum[i][k], last);
}

INLINE void values_rows(float *acc, const float *p, const void *values, int d, int n_keys, const bool half,
                        const uint8_t *next, const int n_q)
{
    int c = 0;
    for (; c + QV * LANES <= d; c += QV * LANES)
        values_tile(acc, p, values, d, c, n_keys, half, c == 0 ? next : NULL, n_q, QV, LANES);
    for (; c + LANES <= d; c += LANES)
        values_tile(acc, p, values, d, c, n_keys, half, c == 0 ? next : NULL, n_q, 1, LANES);
    if (c < d)
        values_tile(acc, p, values, d, c, n_keys, half, c == 0 ? next : NULL, n_q, 1, d - c);
}

INLINE void attn_plain(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *p, const uint8_t *next, const bool half)
{
    if (most_visible(n_visible, n_q) == 0)
        return;
#define SCORES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n)) {                                                                                 \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += KEY_STEP)                                                                       \
            scores_tile(p + (size_t)i * SALA_KV_BLOCK + j, q + (size_t)i * (size_t)d, k, j, d, half,                   \
                        i == 0 ? v : NULL, n);                                                                         \
    }
    int i = 0;
#if Q_TILE == 6
    SCORES(6)
    SCORES(4)
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
#define VALUES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n))                                                                                   \
        values_rows(acc + (size_t)i * (size_t)d, p + (size_t)i * SALA_KV_BLOCK, v, d, most_visible(n_visible + i, n),  \
                    half, i == 0 ? next : NULL, n);
    i = 0;
#if Q_TILE == 6
    VALUES(6)
    VALUES(4)
#endif
    VALUES(3)
    VALUES(2)
    VALUES(1)
#undef VALUES
}

INLINE void attn_block(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *scratch, const uint8_t *next, const int as)
{
    if (as == SALA_KV_AS_Q8_0 || as == SALA_KV_AS_Q4_1)
        attn_codes(acc, m, l, q, k, v, n_q, d, n_visible, scratch, next, as);
    else
        attn_plain(acc, m, l, q, k, v, n_q, d, n_visible, scratch, next, as == SALA_KV_AS_F16);
}

static void prepare_q8(float *out, const float *q, int n_q, int d)
{
    prepare_queries(out, q, n_q, d, SALA_KV_AS_Q8_0);
}

static void prepare_q4(float *out, const float *q, int n_q, int d)
{
    prepare_queries(out, q, n_q, d, SALA_KV_AS_Q4_1);
}

#define X(type, as, prepare, ...)                                                                                      \
    static void attn_block_##type(float *acc, float *m, float *l, const float *q, const void *k, const void *v,        \
                                  int n_q, int d, const int32_t *n_visible, float *scratch, const void *next)          \
    {                                                                                                                  \
        attn_block(acc, m, l, q, k, v, n_q, d, n_visible, scratch, next, as);                                          \
    }                                                                                                                  \
    static void load_keys_##type(float *out, const void *k, int d)                                                     \
    {                                                                                                                  \
        load_keys(out, k, d, as);                                                                                      \
        if (as == SALA_KV_AS_Q4_1)                                                                                     \
            turn_block(out, d);                                                                                        \
    }                                                                                                                  \
    static void load_values_##type(float *out, const void *v, int n, int d)                                            \
    {                                                                                                                  \
        load_values(out, v, n, d, as);                                                                                 \
    }                                                                                                                  \
    static const sala_kv_kernels kv_##type = {attn_block_##type,  store_##type, load_keys_##type,                      \
                                              load_values_##type, prepare,      __VA_ARGS__};
X(f32, SALA_KV_AS_F32, NULL, 0, 0)
X(f16, SALA_KV_AS_F16, NULL, 0, 0)
X(q8, SALA_KV_AS_Q8_0, prepare_q8, QUERY_STEPS, WEIGHT_STEPS)
X(q4, SALA_KV_AS_Q4_1, prepare_q4, QUERY_STEPS, WEIGHT_STEPS)
#undef X

static void fill_kv(sala_kernels *out)
{
    out->kv[SALA_KV_AS_F32] = kv_f32;
    out->kv[SALA_KV_AS_F16] = kv_f16;
    out->kv[SALA_KV_AS_Q8_0] = kv_q8;
    out->kv[SALA_KV_AS_Q4_1] = kv_q4;
}

#endif
