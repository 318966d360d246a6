/* For any register width: key and value caches: storing, reading, attention. Included by ops_impl.h behind the parts
 * that it builds on.
 *
 * Scores: a lane owns a key, and a score is one chain of FMA over the components in order. Values: a lane owns a
 * component, keys are added in order. Both are tiled over queries in registers; a query's numbers do not depend on the
 * tile it is in. Codes become floats in registers for a few queries, once into scratch for many: the same floats, so
 * that the results are the same. */
#ifndef SALA_KERNELS_SIMD_KV_IMPL_H
#define SALA_KERNELS_SIMD_KV_IMPL_H

#define NOT_A_NUMBER_F16 0x7e00
#define QV 4 /* registers of a query in a tile */
#define KEY_STEP (QV * LANES)
/* Codes become floats in registers, once per tile, for up to this many queries, and once into scratch for more. Where
 * the two meet was measured with AVX2 (7) and AVX-512 (28 for Q8_0, 40 for Q4_1). Halves are always widened in
 * registers. */
#define FUSED_QUERIES (Q_TILE == 6 ? 24 : 6)

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

static uint16_t quantise_q4(uint8_t *codes, const float *x, int n, uint16_t *minimum)
{
    const vf first = vf_set1(x[0]);
    vf low = vf_neg(first), high = first; /* low: negated */
    uint32_t bad = 0;
    EACH_VECTOR(n)
    {
        const vf v = vf_first(vf_load_n(x + i, (int)m), (int)m, first);
        bad |= vf_not_finite(v);
        low = vf_max(low, vf_neg(v));
        high = vf_max(high, v);
    }
    *minimum = sala_f32_to_f16(-vf_hmax(low) + 0.0f); /* of two zeros the positive one */
    const float min = sala_f16_to_f32(*minimum), range = vf_hmax(high) - min;
    const uint16_t half = sala_f32_to_f16((range > 0 ? range : 0) / 15.0f);
    bad |= (half & 0x7c00) == 0x7c00 || (*minimum & 0x7c00) == 0x7c00;
    if (bad || half == 0) {
        memset(codes, 0, (size_t)n);
        if (bad)
            *minimum = NOT_A_NUMBER_F16;
        return bad ? NOT_A_NUMBER_F16 : 0;
    }
    const vf scale = vf_set1(sala_f16_to_f32(half)), origin = vf_set1(min), most = vf_set1(15.0f);
    EACH_VECTOR(n)
    {
        const vf c = vf_div(vf_sub(vf_load_n(x + i, (int)m), origin), scale);
        vf_store_i8_n((int8_t *)codes + i, vf_round(vf_min(most, vf_max(vf_zero(), c))), (int)m);
    }
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

/* The parts of one head's keys or values. */
typedef struct quantised {
    const uint8_t *codes;
    const uint16_t *scales, *minima; /* minima: Q4_1 only */
    int row;                         /* bytes of a token's codes */
    int n_groups;
    int n_lines; /* of 64 bytes, of everything */
} quantised;

INLINE quantised quantised_at(const void *p, int d, const int as)
{
    const sala_dtype dtype = as == SALA_KV_AS_Q8_0 ? SALA_Q8_0 : SALA_Q4_1;
    quantised z = {.codes = p, .row = sala_kv_code_bytes(dtype, d), .n_groups = sala_kv_groups(d)};
    z.scales = (const uint16_t *)(const void *)(z.codes + (size_t)SALA_KV_BLOCK * (size_t)z.row);
    z.minima = z.scales + SALA_KV_BLOCK * z.n_groups;
    z.n_lines = (int)(sala_kv_head_bytes(dtype, d) / 64);
    return z;
}

/* What is shared by the components of a group: scale and minimum of QV registers of keys. */
typedef struct key_group {
    vf scale[QV], min[QV];
} key_group;

INLINE void load_key_group(key_group *to, const quantised *z, int g, int j, const int as)
{
    for (int v = 0; v < QV; v++) {
        const int at = g * SALA_KV_BLOCK + j + v * LANES;
        to->scale[v] = vf_load_half(z->scales + at);
        to->min[v] = as == SALA_KV_AS_Q4_1 ? vf_load_half(z->minima + at) : vf_zero();
    }
}

/* QV registers of keys from byte row `row` on; high: of the high nibbles. */
INLINE void load_quantised_keys(vf *keys, const key_group *group, const quantised *z, int row, int j, const int as,
                                const bool high)
{
    for (int v = 0; v < QV; v++) {
        const uint8_t *from = z->codes + row * SALA_KV_BLOCK + j + v * LANES;
        if (as == SALA_KV_AS_Q8_0) {
            keys[v] = vf_mul(vf_from_vi(vi_load_i8((const int8_t *)from)), group->scale[v]);
        } else {
            const vi byte = vi_load_u8(from);
            const vf code = vf_from_vi(high ? vi_high_nibble(byte) : vi_and(byte, vi_set1_32(15)));
            keys[v] = vf_fma(code, group->scale[v], group->min[v]);
        }
    }
}

/* n components from byte row `row` on, as floats in rows of SALA_KV_BLOCK. */
INLINE void load_key_run(float *out, const quantised *z, const key_group *group, int row, int n, int j, const int as,
                         const bool high)
{
    for (int i = 0; i < n; i++) {
        vf keys[QV];
        load_quantised_keys(keys, group, z, row + i, j, as, high);
        for (int v = 0; v < QV; v++)
            vf_store(out + i * SALA_KV_BLOCK + j + v * LANES, keys[v], LANES);
    }
}

INLINE void load_quantised_block(float *out, const void *k, int d, const int as)
{
    const quantised z = quantised_at(k, d, as);
    EACH_GROUP(d)
    {
        const int n = as == SALA_KV_AS_Q8_0 ? m : nibble_bytes(m), row = as == SALA_KV_AS_Q8_0 ? c0 : c0 / 2;
        for (int j = 0; j < SALA_KV_BLOCK; j += KEY_STEP) {
            key_group group;
            load_key_group(&group, &z, g, j, as);
            load_key_run(out + c0 * SALA_KV_BLOCK, &z, &group, row, n, j, as, false);
            load_key_run(out + (c0 + n) * SALA_KV_BLOCK, &z, &group, row, m - n, j, as, true);
        }
    }
}

/* Components [c, c + n) of token j, n <= LANES, all of one half of a group. high: which half, for Q4_1. */
INLINE vf load_quantised_value(const quantised *z, int j, int c, int n, const float *scale, const float *min,
                               const int as, const bool high)
{
    const uint8_t *codes = z->codes + (int64_t)j * z->row;
    if (as == SALA_KV_AS_Q8_0) {
        const int8_t *from = (const int8_t *)codes + c;
        return vf_mul(vf_from_vi(n == LANES ? vi_load_i8(from) : vi_load_i8_n(from, n)), vf_bcast(scale));
    }
    codes += c / SALA_KV_GROUP * (SALA_KV_GROUP / 2) + c % (SALA_KV_GROUP / 2);
    const vi byte = n == LANES ? vi_load_u8(codes) : vi_load_u8_n(codes, n);
    const vf code = vf_from_vi(high ? vi_high_nibble(byte) : vi_and(byte, vi_set1_32(15)));
    return vf_fma(code, vf_bcast(scale), vf_bcast(min));
}

static inline bool in_high_half(int c)
{
    return c % SALA_KV_GROUP >= SALA_KV_GROUP / 2;
}

INLINE void load_quantised_tokens(float *out, const void *v, int n, int d, const int as)
{
    enum { AT_ONCE = 16 }; /* groups whose scales are widened together */
    const quantised z = quantised_at(v, d, as);
    float scale[AT_ONCE], min[AT_ONCE];
    for (int j = 0; j < n; j++, out += d) {
        EACH_GROUP(d)
        {
            const int i = g % AT_ONCE, left = z.n_groups - g < AT_ONCE ? z.n_groups - g : AT_ONCE;
            if (i == 0) {
                f16_to_f32(scale, z.scales + j * z.n_groups + g, left);
                if (as == SALA_KV_AS_Q4_1)
                    f16_to_f32(min, z.minima + j * z.n_groups + g, left);
            }
            if (m == SALA_KV_GROUP) {
                for (int c = 0; c < SALA_KV_GROUP; c += LANES)
                    vf_store(out + c0 + c,
                             load_quantised_value(&z, j, c0 + c, LANES, scale + i, min + i, as, in_high_half(c)),
                             LANES);
                continue;
            }
            for (int c = 0; c < m; c += LANES) {
                const int last = m - c < LANES ? m - c : LANES;
                const vf x = in_high_half(c) ? load_quantised_value(&z, j, c0 + c, last, scale + i, min + i, as, true)
                                             : load_quantised_value(&z, j, c0 + c, last, scale + i, min + i, as, false);
                vf_store(out + c0 + c, x, last);
            }
        }
    }
}

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

/* Its share, the i-th of n, of the lines of quantised keys or values that will be read next. */
INLINE void ask_for_share(const uint8_t *next, int n_lines, int i, int n)
{
    if (next)
        for (; i < n_lines; i += n)
            __builtin_prefetch(next + (size_t)i * 64, 0, 2);
}

/* The chains of FMA go on with n components from c on, which lie in byte rows from `row` on. */
INLINE void scores_run(vf (*acc)[QV], const float *q, const quantised *z, const key_group *group, int c, int row, int n,
                       int j, int d, const int as, const bool high, const uint8_t *next, const int n_q)
{
    for (int i = 0; i < n; i++) {
        vf keys[QV];
        ask_for_share(next, z->n_lines, row + i, z->row);
        load_quantised_keys(keys, group, z, row + i, j, as, high);
        for (int k = 0; k < n_q; k++) {
            const vf x = vf_bcast(q + (size_t)k * (size_t)d + c + i);
            for (int v = 0; v < QV; v++)
                acc[k][v] = vf_fma(x, keys[v], acc[k][v]);
        }
    }
}

INLINE void quantised_scores_tile(float *s, const float *q, const quantised *z, int j, int d, const int as,
                                  const uint8_t *next, const int n_q)
{
    vf acc[Q_TILE][QV];
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            acc[i][v] = vf_zero();
    EACH_GROUP(d)
    {
        const int n = as == SALA_KV_AS_Q8_0 ? m : nibble_bytes(m), row = as == SALA_KV_AS_Q8_0 ? c0 : c0 / 2;
        key_group group;
        load_key_group(&group, z, g, j, as);
        scores_run(acc, q, z, &group, c0, row, n, j, d, as, false, next, n_q);
        scores_run(acc, q, z, &group, c0 + n, row, m - n, j, d, as, true, NULL, n_q);
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

/* Where values lie: plain numbers at `v`, or codes with scales and minima that have been widened. */
typedef struct value_block {
    const void *v;
    quantised z;
    const float *scales, *minima;
} value_block;

/* acc[i][c0 ..] += weights times values for n_q queries and n_vec registers, the last of `last` elements. high: c0 is
 * in the high half of its group. */
INLINE void values_tile(float *acc, const float *p, const value_block *b, int d, int c0, int n_keys, const int as,
                        const uint8_t *next, const int n_q, const int n_vec, const int last, const bool high)
{
    vf sum[Q_TILE][QV];
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < n_vec; k++) {
            const float *a = acc + (size_t)i * (size_t)d + c0 + k * LANES;
            sum[i][k] = last == LANES ? vf_load(a) : vf_load_n(a, last);
        }
    const bool plain = as == SALA_KV_AS_F32 || as == SALA_KV_AS_F16;
    const size_t step = (size_t)d * (as == SALA_KV_AS_F16 ? sizeof(uint16_t) : sizeof(float));
    for (int j = 0; j < n_keys; j++) {
        vf w[Q_TILE];
        if (plain)
            ask_for(next, (size_t)j * step, step);
        else
            ask_for_share(next, b->z.n_lines, j, n_keys);
        for (int i = 0; i < n_q; i++)
            w[i] = vf_bcast(p + i * SALA_KV_BLOCK + j);
        for (int k = 0; k < n_vec; k++) {
            const int c = c0 + k * LANES, at = j * b->z.n_groups + c / SALA_KV_GROUP;
            const bool upper = in_high_half((high ? SALA_KV_GROUP / 2 : 0) + k * LANES);
            const vf x = plain ? load_value(b->v, (int64_t)j * d + c, last, as == SALA_KV_AS_F16)
                               : load_quantised_value(&b->z, j, c, last, b->scales + at, b->minima + at, as, upper);
            for (int i = 0; i < n_q; i++)
                sum[i][k] = vf_fma(w[i], x, sum[i][k]);
        }
    }
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < n_vec; k++)
            vf_store(acc + (size_t)i * (size_t)d + c0 + k * LANES, sum[i][k], last);
}

INLINE void values_rows(float *acc, const float *p, const value_block *b, int d, int n_keys, const int as,
                        const uint8_t *next, const int n_q)
{
#define TILE(n_vec, last)                                                                                              \
    do {                                                                                                               \
        const uint8_t *ask = c == 0 ? next : NULL;                                                                     \
        if (as == SALA_KV_AS_Q4_1 && in_high_half(c))                                                                  \
            values_tile(acc, p, b, d, c, n_keys, as, ask, n_q, n_vec, last, true);                                     \
        else                                                                                                           \
            values_tile(acc, p, b, d, c, n_keys, as, ask, n_q, n_vec, last, false);                                    \
    } while (0)
    int c = 0;
    for (; c + QV * LANES <= d; c += QV * LANES)
        TILE(QV, LANES);
    for (; c + LANES <= d; c += LANES)
        TILE(1, LANES);
    if (c < d)
        TILE(1, d - c);
#undef TILE
}

static inline int most_visible(const int32_t *n_visible, int n)
{
    int most = 0;
    for (int i = 0; i < n; i++)
        most = n_visible[i] > most ? n_visible[i] : most;
    return most;
}

INLINE void attn_block(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *scratch, const uint8_t *next, const int as)
{
    float *p = scratch, *kv = scratch + (size_t)n_q * SALA_KV_BLOCK;
    const int n_keys = most_visible(n_visible, n_q);
    if (n_keys == 0)
        return;
    const bool plain = as == SALA_KV_AS_F32 || as == SALA_KV_AS_F16, half = as == SALA_KV_AS_F16;
    const bool widened = !plain && n_q > FUSED_QUERIES;
    if (as == SALA_KV_AS_Q4_1) {
        turn_queries(kv + (size_t)SALA_KV_BLOCK * (size_t)d + 64, q, n_q, d);
        q = kv + (size_t)SALA_KV_BLOCK * (size_t)d + 64;
    }
    if (widened)
        load_keys(kv, k, d, as);
    quantised zk = {0};
    if (!plain)
        zk = quantised_at(k, d, as);
#define SCORES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n)) {                                                                                 \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += KEY_STEP) {                                                                     \
            float *row = p + (size_t)i * SALA_KV_BLOCK + j;                                                            \
            const float *qi = q + (size_t)i * (size_t)d;                                                               \
            const uint8_t *ask = i == 0 && (plain || j == 0) ? v : NULL;                                               \
            if (widened)                                                                                               \
                scores_tile(row, qi, kv, j, d, false, NULL, n);                                                        \
            else if (plain)                                                                                            \
                scores_tile(row, qi, k, j, d, half, ask, n);                                                           \
            else                                                                                                       \
                quantised_scores_tile(row, qi, &zk, j, d, as, ask, n);                                                 \
        }                                                                                                              \
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
    value_block b = {.v = widened ? kv : v};
    if (widened) {
        load_values(kv, v, n_keys, d, as);
    } else if (!plain) {
        b.z = quantised_at(v, d, as);
        b.scales = kv;
        b.minima = kv + SALA_KV_BLOCK * b.z.n_groups;
        f16_to_f32(kv, b.z.scales, SALA_KV_BLOCK * b.z.n_groups * (as == SALA_KV_AS_Q4_1 ? 2 : 1));
    }
#define VALUES(n)                                                                                                      \
    for (; i + (n) <= n_q; i += (n)) {                                                                                 \
        const int most = most_visible(n_visible + i, n);                                                               \
        float *a = acc + (size_t)i * (size_t)d;                                                                        \
        const float *w = p + (size_t)i * SALA_KV_BLOCK;                                                                \
        if (widened)                                                                                                   \
            values_rows(a, w, &b, d, most, SALA_KV_AS_F32, NULL, n);                                                   \
        else                                                                                                           \
            values_rows(a, w, &b, d, most, as, i == 0 ? next : NULL, n);                                               \
    }
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

#define X(type, as)                                                                                                    \
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
    static const sala_kv_kernels kv_##type = {attn_block_##type, store_##type, load_keys_##type, load_values_##type};
X(f32, SALA_KV_AS_F32)
X(f16, SALA_KV_AS_F16)
X(q8, SALA_KV_AS_Q8_0)
X(q4, SALA_KV_AS_Q4_1)
#undef X

static void fill_kv(sala_kernels *out)
{
    out->kv[SALA_KV_AS_F32] = kv_f32;
    out->kv[SALA_KV_AS_F16] = kv_f16;
    out->kv[SALA_KV_AS_Q8_0] = kv_q8;
    out->kv[SALA_KV_AS_Q4_1] = kv_q4;
}

#endif
