/* For any register width: attention over keys and values of 8 and 4 bits, in integers. Included by kv_impl.h.
 *
 * Keys: where there is an instruction for four products of bytes, keys are multiplied as they lie, with queries of 8
 * bits (a scale per group, 127 steps either way); elsewhere they are widened to 16 bits once per call and meet queries
 * of 16 bits. Values are widened once per call, and weights have 16 bits relative to the largest product of a weight
 * and a value's scale that the query could have in the block: far below the error of the codes, also where one key
 * takes nearly all. Sums of 32 components or 64 tokens fit 32 bits and are exact, so that their order is free; what is
 * added in floats is one term per group of components and one per block, in order. A query's weights depend on the keys
 * that it sees alone.
 *
 * Scores: a lane owns a key; values: a lane owns a component. */
#ifndef SALA_KERNELS_SIMD_KV_CODES_IMPL_H
#define SALA_KERNELS_SIMD_KV_CODES_IMPL_H

#if HAVE_DOT
#define QUERY_STEPS 127
#else
#define QUERY_STEPS 32767
#endif
#define WEIGHT_STEPS 32767.0f
#define QUARTER (SALA_KV_BLOCK / 4) /* tokens whose codes share a byte of their lanes */
#define GV (SALA_KV_GROUP / LANES)  /* registers of a group of components */
#if LANES == 16
#define CODE_TILE 6 /* queries of a tile */
#elif HAVE_DOT
#define CODE_TILE 3
#else /* two instructions a product, which need one register more */
#define CODE_TILE 2
#endif

/* The parts of one head's keys or values. */
typedef struct quantised {
    const uint8_t *codes;
    const uint16_t *scales, *minima; /* minima: Q4_1 only */
    int row;                         /* bytes of a token's codes */
    int n_groups;
} quantised;

INLINE quantised quantised_at(const void *p, int d, const int as)
{
    const sala_dtype dtype = as == SALA_KV_AS_Q8_0 ? SALA_Q8_0 : SALA_Q4_1;
    quantised z = {.codes = p, .row = sala_kv_code_bytes(dtype, d), .n_groups = sala_kv_groups(d)};
    z.scales = (const uint16_t *)(const void *)(z.codes + (size_t)SALA_KV_BLOCK * (size_t)z.row);
    z.minima = z.scales + SALA_KV_BLOCK * z.n_groups;
    return z;
}

/* ---- as floats ---- */

/* Code b of four in each lane; high: of the high nibbles. */
INLINE vf code_of(vi words, int b, const int as, bool high)
{
    if (as == SALA_KV_AS_Q8_0)
        return vf_from_vi(vi_sra_32(vi_sll_32(words, 24 - 8 * b), 24));
    return vf_from_vi(vi_and(vi_srl_32(words, 8 * b + (high ? 4 : 0)), vi_set1_32(15)));
}

/* Where component c lies: its byte, and whether in the high half of it. */
static inline int byte_of(int c, const int as, bool *high)
{
    *high = as == SALA_KV_AS_Q4_1 && c % SALA_KV_GROUP >= SALA_KV_GROUP / 2;
    return as == SALA_KV_AS_Q8_0 ? c : c / SALA_KV_GROUP * (SALA_KV_GROUP / 2) + c % (SALA_KV_GROUP / 2);
}

/* Of Q4_1 as they are stored: turned. */
INLINE void load_quantised_block(float *out, const void *k, int d, const int as)
{
    const quantised z = quantised_at(k, d, as);
    for (int c = 0; c < d; c++) {
        bool high;
        const int i = byte_of(c, as, &high), at = c / SALA_KV_GROUP * SALA_KV_BLOCK;
        for (int j = 0; j < SALA_KV_BLOCK; j += LANES) {
            const vf code = code_of(vi_load(z.codes + sala_kv_key_at(i - i % 4, j)), i % 4, as, high);
            const vf scale = vf_load_half(z.scales + at + j);
            vf_store(out + c * SALA_KV_BLOCK + j,
                     as == SALA_KV_AS_Q8_0 ? vf_mul(code, scale) : vf_fma(code, scale, vf_load_half(z.minima + at + j)),
                     LANES);
        }
    }
}

/* A register may reach beyond a token's codes: into what follows them, which are other tokens' and then the scales. */
INLINE void load_quantised_tokens(float *out, const void *v, int n, int d, const int as)
{
    const quantised z = quantised_at(v, d, as);
    const int step = LANES < SALA_KV_GROUP / 2 ? LANES : SALA_KV_GROUP / 2;
    for (int j = 0; j < n; j++, out += d) {
        for (int c = 0; c < d; c += step) {
            bool high;
            const int i = byte_of(c, as, &high), at = c / SALA_KV_GROUP * SALA_KV_BLOCK + j;
            const vi words = vi_load(z.codes + sala_kv_value_at(i, j % QUARTER, z.row));
            const vf code = code_of(words, j / QUARTER, as, high), scale = vf_set1(sala_f16_to_f32(z.scales[at]));
            vf_store(out + c,
                     as == SALA_KV_AS_Q8_0 ? vf_mul(code, scale)
                                           : vf_fma(code, scale, vf_set1(sala_f16_to_f32(z.minima[at]))),
                     d - c < step ? d - c : step);
        }
    }
}

/* ---- queries ---- */

/* A prepared query: codes, of 8 bits in order or of 16 bits with each four (a, b, c, d) as (a, c), (b, d); then for
 * every group a scale; then for every group the sum of what the codes stand for, or where keys of Q8_0 become unsigned
 * for the product what takes the 128 back: an integer. */
#define UNSIGNED_KEYS (HAVE_DOT && CODES_ARE_UNSIGNED)

static inline size_t query_scales_at(int d)
{
    return (size_t)((d + 3) / 4 * (QUERY_STEPS == 127 ? 1 : 2));
}

INLINE void prepare_queries(float *out, const float *q, int n_q, int d, const int as)
{
    const vf most = vf_set1(QUERY_STEPS), least = vf_set1(-QUERY_STEPS);
    for (int i = 0; i < n_q; i++, q += d, out += SALA_ATTN_QUERY(d)) {
        float *scales = out + query_scales_at(d), *sums = scales + sala_kv_groups(d);
        EACH_GROUP(d)
        {
            float x[SALA_KV_GROUP] = {0};
            memcpy(x, q + c0, (size_t)m * sizeof *x);
            if (as == SALA_KV_AS_Q4_1)
                turn_group(x, m);
            vf top = vf_zero(), sum = vf_zero();
            uint32_t bad = 0;
            for (int c = 0; c < SALA_KV_GROUP; c += LANES) {
                const vf v = vf_load(x + c);
                bad |= vf_not_finite(v);
                top = vf_max(top, vf_max(v, vf_neg(v)));
            }
            const float scale = bad ? NAN : vf_hmax(top) / QUERY_STEPS;
            const vf by = vf_set1(scale > 0 ? scale : INFINITY);
            int8_t *bytes = (int8_t *)(void *)out + c0;
            int16_t *pairs = (int16_t *)(void *)out + c0;
            for (int c = 0; c < SALA_KV_GROUP; c += LANES) {
                vf v = vf_min(most, vf_max(least, vf_div(vf_load(x + c), by)));
                v = bad ? vf_zero() : vf_round(v);
                sum = vf_add(sum, v); /* exact */
                vf_store(x + c, v, LANES);
            }
            for (int c = 0; c < m; c += 4) {
                if (QUERY_STEPS == 127) {
                    vf_store_i8_n(bytes + c, vf_load_n(x + c, 4), 4);
                } else {
                    pairs[c] = (int16_t)x[c];
                    pairs[c + 1] = (int16_t)x[c + 2];
                    pairs[c + 2] = (int16_t)x[c + 1];
                    pairs[c + 3] = (int16_t)x[c + 3];
                }
            }
            scales[g] = scale;
            if (UNSIGNED_KEYS && as == SALA_KV_AS_Q8_0) {
                const int32_t back = -128 * (int32_t)vf_hsum(sum);
                memcpy(sums + g, &back, sizeof back);
            } else {
                sums[g] = vf_hsum(sum) * scale;
            }
        }
    }
}

/* ---- widening ---- */

/* The codes in bytes 0 and 2 of each lane, and those in bytes 1 and 3, as numbers of 16 bits. */
INLINE void widen(vi *even, vi *odd, vi words, const int as, const bool high)
{
    const vi mask = vi_set1_32(0x000f000f);
    if (as == SALA_KV_AS_Q8_0) {
        *even = vi_even_16(words);
        *odd = vi_odd_16(words);
    } else {
        *even = vi_and(high ? vi_srl_16(words, 4) : words, mask);
        *odd = high ? vi_srl_16(words, 12) : vi_and(vi_srl_16(words, 8), mask);
    }
}

/* The i-th of n lines of what will be read next; NULL: nothing. */
INLINE void ask_for_line(const uint8_t *next, int i)
{
    if (next)
        __builtin_prefetch(next + (size_t)i * 64, 0, 2);
}

#if !HAVE_DOT
/* out [four components][2][64] pairs. next: memory as large as the keys. */
INLINE void widen_keys(int16_t *out, const quantised *z, int d, const int as, const uint8_t *next)
{
    int line = 0;
    EACH_GROUP(d)
    {
        const int n = (m + 3) / 4, n_low = as == SALA_KV_AS_Q4_1 && n > 4 ? 4 : n;
        for (int i = 0; i < n_low; i++) {
            const int from = as == SALA_KV_AS_Q8_0 ? c0 : c0 / 2;
            int16_t *to = out + (c0 / 4 + i) * 4 * SALA_KV_BLOCK;
            for (int j = 0; j < SALA_KV_BLOCK; j += LANES) {
                const vi words = vi_load(z->codes + sala_kv_key_at(from + 4 * i, j));
                vi even, odd;
                if (j * 4 % 64 == 0)
                    ask_for_line(next, line++);
                widen(&even, &odd, words, as, false);
                vi_store(to + 2 * j, even);
                vi_store(to + 2 * (SALA_KV_BLOCK + j), odd);
                if (as == SALA_KV_AS_Q4_1 && 4 + i < n) {
                    widen(&even, &odd, words, as, true);
                    vi_store(to + 16 * SALA_KV_BLOCK + 2 * j, even);
                    vi_store(to + 16 * SALA_KV_BLOCK + 2 * (SALA_KV_BLOCK + j), odd);
                }
            }
        }
        for (int i = 0; i < (as == SALA_KV_AS_Q4_1 ? 4 : 2); i++)
            ask_for_line(next, SALA_KV_BLOCK / 64 * z->row + (as == SALA_KV_AS_Q4_1 ? 4 : 2) * g + i);
    }
}
#endif

/* out [group][2][QUARTER][32] pairs: tokens j and j + 32, then j + 16 and j + 48. What a short group lacks is whatever
 * follows. */
INLINE void widen_values(int16_t *out, const quantised *z, const int as, const uint8_t *next)
{
    enum { HALF = QUARTER * SALA_KV_GROUP * 2 };
    const int width = as == SALA_KV_AS_Q8_0 ? SALA_KV_GROUP : SALA_KV_GROUP / 2;
    int line = 0;
    for (int g = 0; g < z->n_groups; g++, out += 2 * HALF) {
        for (int j = 0; j < QUARTER; j++) {
            for (int c = 0; c < width; c += LANES) {
                const vi words = vi_load(z->codes + sala_kv_value_at(g * width + c, j, z->row));
                int16_t *to = out + (j * SALA_KV_GROUP + c) * 2;
                vi even, odd;
                if (c * 4 % 64 == 0)
                    ask_for_line(next, line++);
                widen(&even, &odd, words, as, false);
                vi_store(to, even);
                vi_store(to + HALF, odd);
                if (as == SALA_KV_AS_Q4_1) {
                    widen(&even, &odd, words, as, true);
                    vi_store(to + SALA_KV_GROUP, even);
                    vi_store(to + SALA_KV_GROUP + HALF, odd);
                }
            }
        }
        for (int i = 0; i < (as == SALA_KV_AS_Q4_1 ? 4 : 2); i++)
            ask_for_line(next, line++);
    }
}

/* ---- attention ---- */

/* Adds the products of n fours of components to acc. codes: the keys' for the first four and key j; q: the first
 * query's. high: of the high nibbles. next: as far from what will be read next as codes is from the keys. */
#if HAVE_DOT
INLINE void dot_keys(vi (*acc)[QV], const uint8_t *codes, const uint8_t *q, int n, int d, const int as, const bool high,
                     const uint8_t *next, const int n_q)
{
    const size_t stride = SALA_ATTN_QUERY(d) * sizeof(float);
    for (int c = 0; c < n; c++, codes += 4 * SALA_KV_BLOCK) {
        vi x[CODE_TILE];
        if (next)
            for (int i = 0; i < KEY_STEP * 4; i += 64)
                __builtin_prefetch(next + (size_t)c * 4 * SALA_KV_BLOCK + i, 0, 2);
        for (int i = 0; i < n_q; i++)
            x[i] = vi_bcast_32(q + (size_t)i * stride + 4 * c);
        for (int v = 0; v < QV; v++) {
            vi key = vi_load(codes + v * LANES * 4);
            if (as == SALA_KV_AS_Q4_1)
                key = vi_and(high ? vi_srl_16(key, 4) : key, vi_set1_8(15));
            else if (UNSIGNED_KEYS)
                key = vi_add_8(key, vi_set1_8(-128));
            for (int i = 0; i < n_q; i++)
                acc[i][v] = vi_dot(acc[i][v], key, x[i]);
        }
    }
}
#else
INLINE void dot_wide_keys(vi (*acc)[QV], const int16_t *keys, const uint8_t *q, int n_pairs, int d, const int n_q)
{
    const size_t stride = SALA_ATTN_QUERY(d) * sizeof(float);
    for (int pair = 0; pair < n_pairs; pair++) {
        vi x[CODE_TILE];
        for (int i = 0; i < n_q; i++)
            x[i] = vi_bcast_32(q + (size_t)i * stride + 4 * pair);
        for (int v = 0; v < QV; v++) {
            const vi key = vi_load(keys + (pair * SALA_KV_BLOCK + v * LANES) * 2);
            for (int i = 0; i < n_q; i++)
                acc[i][v] = vi_dot_16(acc[i][v], x[i], key);
        }
    }
}
#endif

/* Adds what group g, n fours of components from c0 on, gives to KEY_STEP scores of n_q queries. Sums in floats stay in
 * memory meanwhile: registers are needed for the integers. wide: widened keys, where they are. */
INLINE void code_scores_group(float *s, const float *q, const int16_t *wide, const quantised *z, int g, int n, int j,
                              int d, const int as, const uint8_t *next, const int n_q)
{
    vi acc[CODE_TILE][QV];
    const size_t stride = SALA_ATTN_QUERY(d);
    const float *scales = q + query_scales_at(d) + g, *sums = scales + z->n_groups;
    const int c0 = g * SALA_KV_GROUP, at = g * SALA_KV_BLOCK + j;
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            acc[i][v] = UNSIGNED_KEYS && as == SALA_KV_AS_Q8_0 ? vi_bcast_32(sums + (size_t)i * stride) : vi_zero();
#if HAVE_DOT
    (void)wide;
    const size_t from = (size_t)sala_kv_key_at(as == SALA_KV_AS_Q8_0 ? c0 : c0 / 2, j);
    const uint8_t *codes = (const uint8_t *)q + c0, *ask = next ? next + from : NULL;
    if (as == SALA_KV_AS_Q8_0) {
        dot_keys(acc, z->codes + from, codes, n, d, as, false, ask, n_q);
    } else {
        dot_keys(acc, z->codes + from, codes, n < 4 ? n : 4, d, as, false, ask, n_q);
        dot_keys(acc, z->codes + from, codes + 16, n - 4, d, as, true, NULL, n_q);
    }
    if (next)
        __builtin_prefetch((const uint8_t *)(z->scales + at) - z->codes + next, 0, 2);
#else
    (void)next;
    dot_wide_keys(acc, wide + (c0 / 2 * SALA_KV_BLOCK + j) * 2, (const uint8_t *)q + 2 * c0, 2 * n, d, n_q);
#endif
    int32_t products[CODE_TILE * QV * LANES]; /* a longer loop over registers would keep them all in memory */
    for (int i = 0; i < n_q; i++)
        for (int v = 0; v < QV; v++)
            vi_store(products + (i * QV + v) * LANES, acc[i][v]);
    for (int i = 0; i < n_q; i++) {
        const vf scale = vf_bcast(scales + (size_t)i * stride), sum = vf_bcast(sums + (size_t)i * stride);
        for (int v = 0; v < QV; v++) {
            float *to = s + i * SALA_KV_BLOCK + v * LANES;
            vf x = vf_mul(vf_from_vi(vi_load(products + (i * QV + v) * LANES)), scale);
            x = vf_mul(x, vf_load_half(z->scales + at + v * LANES));
            if (as == SALA_KV_AS_Q4_1)
                x = vf_fma(vf_load_half(z->minima + at + v * LANES), sum, x);
            vf_store(to, g == 0 ? x : vf_add(x, vf_load(to)), LANES);
        }
    }
}

INLINE void code_scores_tile(float *s, const float *q, const int16_t *wide, const quantised *z, int j, int d,
                             const int as, const uint8_t *next, const int n_q)
{
    EACH_GROUP(d)
    {
        code_scores_group(s, q, wide, z, g, (m + 3) / 4, j, d, as, next, n_q);
    }
}

/* What turns weights into integers, for a query that sees n tokens: per group the largest scale / 32767, and every
 * token's scale divided by that; minima as floats. Of tokens that it does not see all is 0. */
typedef struct value_factors {
    float *unit;            /* [groups] */
    float *factor, *minima; /* [groups][64] */
} value_factors;

INLINE void find_factors(const value_factors *to, const quantised *z, int n, const int as)
{
    for (int g = 0; g < z->n_groups; g++) {
        float *f = to->factor + g * SALA_KV_BLOCK;
        vf top = vf_zero();
        uint32_t bad = 0;
        for (int j = 0; j < SALA_KV_BLOCK; j += LANES) {
            const int seen = n - j < 0 ? 0 : n - j < LANES ? n - j : LANES, at = g * SALA_KV_BLOCK + j;
            const vf scale = vf_first(vf_load_half(z->scales + at), seen, vf_zero());
            bad |= vf_not_finite(scale);
            top = vf_max(top, scale);
            vf_store(f + j, scale, LANES);
            if (as == SALA_KV_AS_Q4_1)
                vf_store(to->minima + at, vf_first(vf_load_half(z->minima + at), seen, vf_zero()), LANES);
        }
        const float most = vf_hmax(top);
        const vf by = vf_set1(most > 0 && !bad ? WEIGHT_STEPS / most : 0);
        to->unit[g] = bad ? NAN : most / WEIGHT_STEPS;
        for (int j = 0; j < SALA_KV_BLOCK; j += LANES)
            vf_store(f + j, vf_mul(vf_load(f + j), by), LANES);
    }
}

/* Of one query and block: weights relative to the block's maximum, as integers for each group; maximum, sum, and the
 * sum of weights times minima. */
INLINE void code_weights(int16_t *weights, float *max, float *l, float *min_sums, const float *s,
                         const value_factors *by, int n_groups, int n_visible, const int as)
{
    enum { N = SALA_KV_BLOCK / LANES, Q = N / 4 };
    vf v[N];
    const vf low = vf_set1(-INFINITY);
    vf top = low, sum = vf_zero();
    for (int i = 0; i < N; i++) {
        const int left = n_visible - i * LANES, seen = left < 0 ? 0 : left < LANES ? left : LANES;
        v[i] = seen == LANES ? vf_load(s + i * LANES) : vf_first(vf_load(s + i * LANES), seen, low);
        top = vf_max(top, v[i]);
    }
    *max = vf_hmax(top);
    const vf t = vf_set1(*max);
    for (int i = 0; i < N; i++) { /* exp(-infinity) is 0 */
        v[i] = vf_exp_weight(vf_sub(v[i], t));
        sum = vf_add(sum, v[i]);
    }
    *l = vf_hsum(sum);
    for (int g = 0; g < n_groups; g++) {
        const float *f = by->factor + g * SALA_KV_BLOCK;
        int16_t *w = weights + g * SALA_KV_BLOCK;
        vi code[N];
        for (int i = 0; i < N; i++)
            code[i] = vi_round(vf_mul(v[i], vf_load(f + i * LANES)));
        for (int i = 0; i < Q; i++) {
            vi_store(w + 2 * i * LANES, vi_join_16(code[i], code[i + 2 * Q]));
            vi_store(w + 2 * (QUARTER + i * LANES), vi_join_16(code[i + Q], code[i + 3 * Q]));
        }
        if (as == SALA_KV_AS_Q4_1) {
            vf min = vf_zero();
            for (int i = 0; i < N; i++)
                min = vf_fma(v[i], vf_load(by->minima + g * SALA_KV_BLOCK + i * LANES), min);
            min_sums[g] = vf_hsum(min);
        }
    }
}

/* What a block adds to n_q queries. */
typedef struct code_block {
    int16_t *weights;               /* [n_q][groups][64] */
    float *max, *sum, *keep, *gain; /* [n_q] of the block; factors of what was and what comes */
    float *unit, *min_sums;         /* [n_q][groups] */
    int n_groups;
} code_block;

/* Adds the block to components of group g of queries i0 .. i0 + n_q - 1. */
INLINE void code_values_tile(float *acc, const code_block *b, const int16_t *values, int i0, int g, int d,
                             const int32_t *n_visible, const int as, const int n_q)
{
    vi sum[CODE_TILE][GV];
    const int16_t *w = b->weights + ((size_t)i0 * (size_t)b->n_groups + (size_t)g) * SALA_KV_BLOCK;
    const size_t stride = (size_t)b->n_groups * SALA_KV_BLOCK;
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < GV; k++)
            sum[i][k] = vi_zero();
    values += (size_t)g * SALA_KV_BLOCK * SALA_KV_GROUP;
    for (int pair = 0; pair < 2 * QUARTER; pair++) {
        vi x[CODE_TILE];
        for (int i = 0; i < n_q; i++)
            x[i] = vi_bcast_32(w + (size_t)i * stride + 2 * pair);
        for (int k = 0; k < GV; k++) {
            const vi v = vi_load(values + (pair * SALA_KV_GROUP + k * LANES) * 2);
            for (int i = 0; i < n_q; i++)
                sum[i][k] = vi_dot_16(sum[i][k], x[i], v);
        }
    }
    int32_t sums[CODE_TILE * SALA_KV_GROUP];
    for (int i = 0; i < n_q; i++)
        for (int k = 0; k < GV; k++)
            vi_store(sums + i * SALA_KV_GROUP + k * LANES, sum[i][k]);
    for (int i = 0; i < n_q; i++) {
        const int at = i0 + i;
        if (n_visible[at] <= 0)
            continue;
        const float gain = b->gain[at];
        const vf keep = vf_bcast(b->keep + at), unit = vf_set1(b->unit[at * b->n_groups + g] * gain);
        const vf min = vf_set1(as == SALA_KV_AS_Q4_1 ? b->min_sums[at * b->n_groups + g] * gain : 0);
        float *to = acc + (size_t)at * (size_t)d + g * SALA_KV_GROUP;
        for (int k = 0; k < GV; k++) {
            const int left = d - g * SALA_KV_GROUP - k * LANES, n = left < LANES ? left : LANES;
            if (n <= 0)
                break;
            vf x = vf_mul(n == LANES ? vf_load(to + k * LANES) : vf_load_n(to + k * LANES, n), keep);
            if (as == SALA_KV_AS_Q4_1)
                x = vf_add(x, min);
            vf_store(to + k * LANES, vf_fma(vf_from_vi(vi_load(sums + i * SALA_KV_GROUP + k * LANES)), unit, x), n);
        }
    }
}

/* Brings m and l up to date; the factors of what was summed before and of this block's. */
INLINE void code_merge(float *m, float *l, const code_block *b, const int32_t *n_visible, int n_q)
{
    memcpy(b->keep, m, (size_t)n_q * sizeof *m);
    for (int i = 0; i < n_q; i += LANES) { /* what lies behind the last query does not matter */
        const vf before = vf_load(b->keep + i), block = vf_load(b->max + i), top = vf_max(before, block);
        vf_store(b->keep + i, vf_exp(vf_sub(before, top)), LANES);
        vf_store(b->gain + i, vf_exp(vf_sub(block, top)), LANES);
    }
    for (int i = 0; i < n_q; i++) {
        if (n_visible[i] <= 0)
            continue;
        l[i] = l[i] * b->keep[i] + b->sum[i] * b->gain[i];
        m[i] = b->max[i] > m[i] ? b->max[i] : m[i];
    }
}

#define EACH_TILE(n_q, TILE)                                                                                           \
    do {                                                                                                               \
        int i = 0;                                                                                                     \
        for (; CODE_TILE == 6 && i + 6 <= (n_q); i += 6)                                                               \
            TILE(CODE_TILE)                                                                                            \
        for (; CODE_TILE == 6 && i + 4 <= (n_q); i += 4)                                                               \
            TILE((CODE_TILE == 6 ? 4 : 1))                                                                             \
        for (; CODE_TILE >= 3 && i + 3 <= (n_q); i += 3)                                                               \
            TILE((CODE_TILE >= 3 ? 3 : 1))                                                                             \
        for (; i + 2 <= (n_q); i += 2)                                                                                 \
            TILE(2)                                                                                                    \
        for (; i < (n_q); i++)                                                                                         \
            TILE(1)                                                                                                    \
    } while (0)

/* Functions of their own: what stands around a tile would compete with it for registers. */
#define SCORES(n)                                                                                                      \
    {                                                                                                                  \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += KEY_STEP)                                                                       \
            code_scores_tile(s + (size_t)i * SALA_KV_BLOCK + j, q + (size_t)i * SALA_ATTN_QUERY(d), wide, z, j, d, as, \
                             i == 0 ? next : NULL, n);                                                                 \
    }
#define VALUES(n) code_values_tile(acc, b, values, i, g, d, n_visible, as, n);
#define X(type, which)                                                                                                 \
    static __attribute__((noinline)) void code_scores_##type(float *s, const float *q, const int16_t *wide,            \
                                                             const quantised *z, int n_q, int d,                       \
                                                             const int32_t *n_visible, const uint8_t *next)            \
    {                                                                                                                  \
        enum { as = which };                                                                                           \
        EACH_TILE(n_q, SCORES);                                                                                        \
    }                                                                                                                  \
    static __attribute__((noinline)) void code_values_##type(float *acc, const code_block *b, const int16_t *values,   \
                                                             int n_q, int d, const int32_t *n_visible)                 \
    {                                                                                                                  \
        enum { as = which };                                                                                           \
        for (int g = 0; g < b->n_groups; g++)                                                                          \
            EACH_TILE(n_q, VALUES);                                                                                    \
    }
X(q8, SALA_KV_AS_Q8_0)
X(q4, SALA_KV_AS_Q4_1)
#undef X
#undef SCORES
#undef VALUES

INLINE void attn_codes(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *scratch, const uint8_t *next, const int as)
{
    if (most_visible(n_visible, n_q) == 0)
        return;
    const quantised zk = quantised_at(k, d, as), zv = quantised_at(v, d, as);
    const size_t n = (size_t)n_q, groups = (size_t)zk.n_groups;
    float *s = scratch, *at = s + n * SALA_KV_BLOCK;
    int16_t *wide = (int16_t *)(void *)at;
    at += groups * SALA_KV_BLOCK * SALA_KV_GROUP / 2;
    code_block b = {.weights = (int16_t *)(void *)at, .n_groups = zk.n_groups};
    at += n * groups * SALA_KV_BLOCK / 2;
    b.sum = at;
    b.max = b.sum + n; /* the next three in whole registers */
    b.keep = b.max + n + LANES;
    b.gain = b.keep + n + LANES;
    b.unit = b.gain + n + LANES;
    b.min_sums = b.unit + n * groups;
    at = b.min_sums + n * groups;
    value_factors all = {.unit = at, .factor = at + groups, .minima = at + groups + groups * SALA_KV_BLOCK}, own;
    at = all.minima + groups * SALA_KV_BLOCK;
    own = (value_factors){.factor = at, .minima = at + groups * SALA_KV_BLOCK};

#if !HAVE_DOT
    widen_keys(wide, &zk, d, as, v);
#endif
    (as == SALA_KV_AS_Q8_0 ? code_scores_q8 : code_scores_q4)(s, q, wide, &zk, n_q, d, n_visible, v);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        int16_t *w = b.weights + i * groups * SALA_KV_BLOCK;
        float *unit = b.unit + i * groups;
        if (n_visible[i] <= 0) {
            memset(w, 0, groups * SALA_KV_BLOCK * sizeof *w);
            b.max[i] = -INFINITY;
            continue;
        }
        const bool whole = n_visible[i] >= SALA_KV_BLOCK;
        own.unit = unit;
        if (!whole || !found)
            find_factors(whole ? &all : &own, &zv, n_visible[i], as);
        found |= whole;
        if (whole)
            memcpy(unit, all.unit, groups * sizeof *unit);
        code_weights(w, b.max + i, b.sum + i, b.min_sums + i * groups, s + i * SALA_KV_BLOCK, whole ? &all : &own,
                     zk.n_groups, n_visible[i], as);
    }
    widen_values(wide, &zv, as, next);
    code_merge(m, l, &b, n_visible, n_q); /* which waits for what the loop above has stored */
    (as == SALA_KV_AS_Q8_0 ? code_values_q8 : code_values_q4)(acc, &b, wide, n_q, d, n_visible);
}

#endif
