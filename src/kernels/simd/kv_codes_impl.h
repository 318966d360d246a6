/* For any register width: attention over keys and values of 8 and 4 bits, in integers. Included by kv_impl.h.
 *
 * Keys: where there is an instruction for four products of bytes, keys are multiplied as they lie, with queries of 8
 * bits (a scale per group, 127 steps either way); elsewhere they are widened to 16 bits once per call and meet queries
 * of 16 bits. Weights are steps of the largest product of a weight and a value's scale that the query could have in the
 * block: 255 where they meet values as they lie, 32767 where values are widened as well. Sums of 32 components or 64
 * tokens fit 32 bits and are exact, so that their order is free; what is added in floats is one term per group of
 * components and one per block, in order. A query's weights depend on the keys that it sees alone.
 *
 * Scores: a lane owns a key; values: a lane owns a component. */
#ifndef SALA_KERNELS_SIMD_KV_CODES_IMPL_H
#define SALA_KERNELS_SIMD_KV_CODES_IMPL_H

#if HAVE_DOT
#define QUERY_STEPS 127
#else
#define QUERY_STEPS 32767
#endif
/* Weights are bytes where unsigned ones meet signed codes in one instruction, and values are used as they lie;
 * elsewhere both have 16 bits. */
#define BYTE_WEIGHTS (HAVE_DOT && CODES_ARE_UNSIGNED)
#define WEIGHT_STEPS (BYTE_WEIGHTS ? 255 : 32767)
#define QUARTER (SALA_KV_BLOCK / 4) /* tokens whose codes share a byte of their lanes */
#define GV (SALA_KV_GROUP / LANES)  /* registers of a group of components */
/* A tile: queries, registers of keys, registers of values. */
#if LANES == 16
#define CODE_TILE 8
#define CODE_KEYS 2
#define CODE_VALUES 2
#elif LANES == 4
#define CODE_TILE 4
#define CODE_KEYS 4
#define CODE_VALUES 4
#else
#define CODE_TILE 4
#define CODE_KEYS 2
#define CODE_VALUES 2
#endif
/* Codes of Q4_1 count from the middle where weights have few steps, and so do the minima that go with them: what
 * rounding takes from a weight is then lost on half of the range at most. */
#define Q4_MIDDLE 8
#define WEIGHT_BYTES (BYTE_WEIGHTS ? 1 : 2)
#define UNROLL _Pragma("GCC unroll 8")
#if LANES == 4
#define IN_PLACE(x) __asm__("" : "+w"(x))
#else
#define IN_PLACE(x) __asm__("" : "+v"(x))
#endif
#define LOG2_E 0x1.715476p+0f
#define LN_2 0x1.62e43p-1f

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
 * every group a scale, times log2(e) since weights are powers of 2; then for every group the sum of what the codes
 * stand for, or where keys of Q8_0 become unsigned for the product what takes the 128 back: an integer. */
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
            scales[g] = scale * LOG2_E;
            if (UNSIGNED_KEYS && as == SALA_KV_AS_Q8_0) {
                const int32_t back = -128 * (int32_t)vf_hsum(sum);
                memcpy(sums + g, &back, sizeof back);
            } else {
                sums[g] = vf_hsum(sum) * scales[g];
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

#if !BYTE_WEIGHTS
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
#endif

/* ---- attention ---- */

/* What turns weights into integers, for a query that sees n tokens: per group the largest scale / 32767, and every
 * token's scale divided by that; minima as floats, or what stands for the middle code. Of tokens that it does not see
 * all is 0. */
typedef struct value_factors {
    float *unit;            /* [groups] */
    float *factor, *minima; /* [groups][64] */
} value_factors;

/* One block as a call works on it, and what it adds to the queries of a part. */
typedef struct code_block {
    quantised k, v;
    float *key_scales, *key_minima;     /* [groups][64] */
    int16_t *keys, *values;             /* widened, where they are not used as they lie */
    value_factors all, own;             /* for who sees the whole block; for one who does not */
    float *scores;                      /* [part][64] */
    uint8_t *weights;                   /* [part][groups][64], bytes or 16 bits */
    float *max, *sum, *keep, *gain;     /* [part] of the block; factors of what was and what comes */
    float *sums;                        /* [part][LANES] the sum of weights before its lanes are added */
    float *unit, *min_sums, *min_lanes; /* [part][groups], the last [LANES] of each */
    int n_groups, d;
} code_block;

/* Queries are taken in parts whose scores and weights stay in the first-level cache. What is done for a register of
 * them at a time may reach beyond the last one. */
#define PART 24
#define PART_ROOM ((PART + 15) / 16 * 16)

static code_block code_block_at(float *at, const void *k, const void *v, int d, const int as)
{
    code_block b = {.k = quantised_at(k, d, as), .v = quantised_at(v, d, as), .n_groups = sala_kv_groups(d), .d = d};
    const size_t groups = (size_t)b.n_groups, tokens = groups * SALA_KV_BLOCK, wide = tokens * SALA_KV_GROUP / 2;
    b.values = (int16_t *)(void *)at;
    at += BYTE_WEIGHTS ? 0 : wide;
    b.keys = (int16_t *)(void *)at;
    at += HAVE_DOT ? 0 : wide;
    b.key_scales = at;
    b.key_minima = b.key_scales + tokens;
    b.all = (value_factors){.factor = b.key_minima + tokens, .minima = b.key_minima + 2 * tokens};
    b.own = (value_factors){.factor = b.key_minima + 3 * tokens, .minima = b.key_minima + 4 * tokens};
    at = b.key_minima + 5 * tokens;
    b.scores = at;
    at += PART * SALA_KV_BLOCK;
    b.weights = (uint8_t *)(void *)at;
    at += PART * tokens * WEIGHT_BYTES / 4;
    b.sums = at;
    b.min_lanes = b.sums + PART * LANES;
    b.max = b.min_lanes + PART * groups * LANES;
    b.sum = b.max + PART_ROOM;
    b.keep = b.sum + PART_ROOM;
    b.gain = b.keep + PART_ROOM;
    b.unit = b.gain + PART_ROOM;
    b.min_sums = b.unit + PART * groups;
    b.all.unit = b.min_sums + PART * groups + 4;
    b.own.unit = b.all.unit + groups;
    return b;
}

INLINE void load_key_scales(const code_block *b, const int as)
{
    for (int i = 0; i < b->n_groups * SALA_KV_BLOCK; i += LANES) {
        vf_store(b->key_scales + i, vf_load_half(b->k.scales + i), LANES);
        if (as == SALA_KV_AS_Q4_1)
            vf_store(b->key_minima + i, vf_load_half(b->k.minima + i), LANES);
    }
}

/* Adds the products of n fours of components to acc. codes: the keys' for the first four and key j; q: the first
 * query's. high: of the high nibbles. next: as far from what will be read next as codes is from the keys. */
#if HAVE_DOT
INLINE void dot_keys(vi (*acc)[CODE_KEYS], const uint8_t *codes, const uint8_t *q, int n, int d, const int as,
                     const bool high, const uint8_t *next, const int n_q)
{
    const size_t stride = SALA_ATTN_QUERY(d) * sizeof(float);
    for (int c = 0; c < n; c++, codes += 4 * SALA_KV_BLOCK) {
        vi key[CODE_KEYS];
        if (next)
            for (int i = 0; i < CODE_KEYS * LANES * 4; i += 64)
                __builtin_prefetch(next + (size_t)c * 4 * SALA_KV_BLOCK + i, 0, 2);
        for (int v = 0; v < CODE_KEYS; v++) {
            key[v] = vi_load(codes + v * LANES * 4);
            if (as == SALA_KV_AS_Q4_1)
                key[v] = vi_and(high ? vi_srl_16(key[v], 4) : key[v], vi_set1_8(15));
            else if (UNSIGNED_KEYS)
                key[v] = vi_add_8(key[v], vi_set1_8(-128));
        }
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vi x = vi_bcast_32(q + (size_t)i * stride + 4 * c);
            UNROLL for (int v = 0; v < CODE_KEYS; v++)
            {
                acc[i][v] = vi_dot(acc[i][v], key[v], x);
                IN_PLACE(acc[i][v]);
            }
        }
    }
}
#else
INLINE void dot_wide_keys(vi (*acc)[CODE_KEYS], const int16_t *keys, const uint8_t *q, int n_pairs, int d,
                          const int n_q)
{
    const size_t stride = SALA_ATTN_QUERY(d) * sizeof(float);
    for (int pair = 0; pair < n_pairs; pair++) {
        vi x[CODE_TILE];
        UNROLL for (int i = 0; i < n_q; i++) x[i] = vi_bcast_32(q + (size_t)i * stride + 4 * pair);
        UNROLL for (int v = 0; v < CODE_KEYS; v++)
        {
            const vi key = vi_load(keys + (pair * SALA_KV_BLOCK + v * LANES) * 2);
            UNROLL for (int i = 0; i < n_q; i++)
            {
                acc[i][v] = vi_dot_16(acc[i][v], x[i], key);
                IN_PLACE(acc[i][v]);
            }
        }
    }
}
#endif

/* Adds what group g, n fours of components from c0 on, gives to the scores of n_q queries for CODE_KEYS registers of
 * keys from j on. Sums in floats stay in memory meanwhile: registers are needed for the integers. */
INLINE void code_scores_group(float *s, const float *q, const code_block *b, int g, int n, int j, const int as,
                              const uint8_t *next, const bool first, const int n_q)
{
    vi acc[CODE_TILE][CODE_KEYS];
    const int d = b->d, c0 = g * SALA_KV_GROUP, at = g * SALA_KV_BLOCK + j;
    const size_t stride = SALA_ATTN_QUERY(d);
    const float *scales = q + query_scales_at(d) + g, *sums = scales + b->n_groups;
    UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int v = 0; v < CODE_KEYS; v++) acc[i][v] =
        UNSIGNED_KEYS && as == SALA_KV_AS_Q8_0 ? vi_bcast_32(sums + (size_t)i * stride) : vi_zero();
#if HAVE_DOT
    const size_t from = (size_t)sala_kv_key_at(as == SALA_KV_AS_Q8_0 ? c0 : c0 / 2, j);
    const uint8_t *codes = (const uint8_t *)q + c0, *ask = next ? next + from : NULL;
    if (as == SALA_KV_AS_Q8_0) {
        dot_keys(acc, b->k.codes + from, codes, n, d, as, false, ask, n_q);
    } else {
        dot_keys(acc, b->k.codes + from, codes, n < 4 ? n : 4, d, as, false, ask, n_q);
        dot_keys(acc, b->k.codes + from, codes + 16, n - 4, d, as, true, NULL, n_q);
    }
    if (next)
        __builtin_prefetch((const uint8_t *)(b->k.scales + at) - b->k.codes + next, 0, 2);
#else
    (void)next;
    dot_wide_keys(acc, b->keys + (c0 / 2 * SALA_KV_BLOCK + j) * 2, (const uint8_t *)q + 2 * c0, 2 * n, d, n_q);
#endif
    UNROLL for (int v = 0; v < CODE_KEYS; v++)
    {
        const vf scale = vf_load(b->key_scales + at + v * LANES);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            float *to = s + i * SALA_KV_BLOCK + v * LANES;
            const vf by = vf_bcast(scales + (size_t)i * stride), x = vf_mul(vf_from_vi(acc[i][v]), scale);
            vf sum = first ? vf_mul(x, by) : vf_fma(x, by, vf_load(to));
            if (as == SALA_KV_AS_Q4_1)
                sum = vf_fma(vf_load(b->key_minima + at + v * LANES), vf_bcast(sums + (size_t)i * stride), sum);
            vf_store(to, sum, LANES);
        }
    }
}

INLINE void code_scores_tile(float *s, const float *q, const code_block *b, int j, const int as, const uint8_t *next,
                             const int n_q)
{
    EACH_GROUP(b->d)
    {
        if (g == 0)
            code_scores_group(s, q, b, g, (m + 3) / 4, j, as, next, true, n_q);
        else
            code_scores_group(s, q, b, g, (m + 3) / 4, j, as, next, false, n_q);
    }
}

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
            if (as == SALA_KV_AS_Q4_1) {
                const vf min = vf_first(vf_load_half(z->minima + at), seen, vf_zero());
                vf_store(to->minima + at, BYTE_WEIGHTS ? vf_fma(scale, vf_set1(Q4_MIDDLE), min) : min, LANES);
            }
        }
        const float most = vf_hmax(top);
        const vf by = vf_set1(most > 0 && !bad ? (float)WEIGHT_STEPS / most : 0);
        to->unit[g] = bad ? NAN : most / (float)WEIGHT_STEPS;
        for (int j = 0; j < SALA_KV_BLOCK; j += LANES)
            vf_store(f + j, vf_mul(vf_load(f + j), by), LANES);
    }
}

/* A query's scores of keys that it does not see become too small to matter. */
INLINE void hide_scores(float *s, int n_visible)
{
    for (int j = n_visible / LANES * LANES; j < SALA_KV_BLOCK; j += LANES) {
        const int left = n_visible - j, seen = left < 0 ? 0 : left;
        vf_store(s + j, vf_first(vf_load(s + j), seen, vf_set1(-INFINITY)), LANES);
    }
}

/* 2^x of x <= 0 for weights of 16 bits: a polynomial for 2^f, |f| <= 1/2, off by 2.6e-6, whose exponent then becomes
 * what it should be. Below 2^-100 it remains there, which is no weight at all. The lowest bits of x + 3 * 2^22 are x as
 * an integer. */
#define ROUNDS 0x1.8p+23f
INLINE vf vf_exp2_weight(vf x)
{
    x = vf_max(vf_set1(-100.0f), x);
    const vf n = vf_add(x, vf_set1(ROUNDS)), f = vf_sub(x, vf_sub(n, vf_set1(ROUNDS)));
    vf p = vf_set1(0x1.3997d6p-7f);
    p = vf_fma(p, f, vf_set1(0x1.ca1440p-5f));
    p = vf_fma(p, f, vf_set1(0x1.ec06dap-3f));
    p = vf_fma(p, f, vf_set1(0x1.62e0dcp-1f));
    p = vf_fma(p, f, vf_set1(0x1.ffffe8p-1f));
    return vf_bits(vi_add_32(vi_bits(p), vi_sll_32(vi_bits(n), 23)));
}

/* Of one query and block: weights relative to the block's maximum, as integers for each group. */
INLINE void code_weights(const code_block *b, int i, const value_factors *by, const int as)
{
    enum { N = SALA_KV_BLOCK / LANES, Q = N / 4 };
    const float *s = b->scores + i * SALA_KV_BLOCK;
    const vf t = vf_bcast(b->max + i);
    vf v[N], sum = vf_zero();
    UNROLL for (int k = 0; k < N; k++)
    {
        v[k] = vf_exp2_weight(vf_sub(vf_load(s + k * LANES), t));
        sum = vf_add(sum, v[k]);
    }
    vf_store(b->sums + i * LANES, sum, LANES);
    for (int g = 0; g < b->n_groups; g++) {
        const float *f = by->factor + g * SALA_KV_BLOCK;
        uint8_t *w = b->weights + (i * b->n_groups + g) * SALA_KV_BLOCK * WEIGHT_BYTES;
        vi code[N];
        UNROLL for (int k = 0; k < N; k++) code[k] = vi_bits(vf_fma(v[k], vf_load(f + k * LANES), vf_set1(ROUNDS)));
        UNROLL for (int k = 0; k < Q; k++)
        {
            const vi first = vi_join_low_16(code[k], code[k + 2 * Q]);
            const vi second = vi_join_low_16(code[k + Q], code[k + 3 * Q]);
            if (BYTE_WEIGHTS) {
                vi_store(w + 4 * k * LANES, vi_or(first, vi_sll_32(second, 8)));
            } else {
                vi_store(w + 4 * k * LANES, first);
                vi_store(w + 4 * (QUARTER + k * LANES), second);
            }
        }
        if (as == SALA_KV_AS_Q4_1) {
            vf min = vf_zero();
            UNROLL for (int k = 0; k < N; k++) min =
                vf_fma(v[k], vf_load(by->minima + g * SALA_KV_BLOCK + k * LANES), min);
            vf_store(b->min_lanes + (i * b->n_groups + g) * LANES, min, LANES);
        }
    }
}

/* out[i] = the sum of the lanes at x + i * LANES, n of them; writes whole fours. */
INLINE void sum_lanes(float *out, const float *x, int n)
{
    for (int i = 0; i < n; i += 4) {
        vf v[4];
        UNROLL for (int k = 0; k < 4; k++) v[k] = vf_load(x + (i + k < n ? i + k : i) * LANES);
        vf_hsum4(out + i, v[0], v[1], v[2], v[3]);
    }
}

/* Scores of a part's n_q queries become maximum, sum and integer weights. */
INLINE void code_softmax(const code_block *b, int n_q, const int32_t *n_visible, const bool whole, const int as)
{
    enum { N = SALA_KV_BLOCK / LANES };
    for (int i = 0; i < n_q; i += 4) {
        vf top[4];
        UNROLL for (int k = 0; k < 4; k++)
        {
            float *s = b->scores + (i + k < n_q ? i + k : i) * SALA_KV_BLOCK;
            if (!whole && i + k < n_q)
                hide_scores(s, n_visible[i + k]);
            top[k] = vf_load(s);
            UNROLL for (int j = 1; j < N; j++) top[k] = vf_max(top[k], vf_load(s + j * LANES));
        }
        vf_hmax4(b->max + i, top[0], top[1], top[2], top[3]);
    }
    for (int i = 0; i < n_q; i++) {
        const value_factors *by = &b->all;
        if (!whole && n_visible[i] < SALA_KV_BLOCK) {
            by = &b->own;
            if (i == 0 || n_visible[i] != n_visible[i - 1])
                find_factors(by, &b->v, n_visible[i], as);
        }
        for (int g = 0; g < b->n_groups; g++)
            b->unit[i * b->n_groups + g] = by->unit[g];
        code_weights(b, i, by, as);
    }
    sum_lanes(b->sum, b->sums, n_q);
    if (as == SALA_KV_AS_Q4_1)
        sum_lanes(b->min_sums, b->min_lanes, n_q * b->n_groups);
}

/* The k0-th register of components of group g and those behind it, for the products with the weights of step `at`:
 * QUARTER steps of four tokens, or twice as many of two. */
INLINE void load_step(vi *v, const code_block *b, int g, int k0, int at, const int as)
{
#if BYTE_WEIGHTS
    const int width = as == SALA_KV_AS_Q8_0 ? SALA_KV_GROUP : SALA_KV_GROUP / 2;
    const uint8_t *codes = b->v.codes + sala_kv_value_at(g * width, at, b->v.row);
    for (int i = 0; i < CODE_VALUES; i++) {
        const int k = k0 + i;
        if (as == SALA_KV_AS_Q8_0)
            v[i] = vi_load(codes + k * LANES * 4);
        else if (k < GV / 2)
            v[i] = vi_add_8(vi_and(vi_load(codes + k * LANES * 4), vi_set1_8(15)), vi_set1_8(-Q4_MIDDLE));
        else
            v[i] = vi_add_8(vi_and(vi_srl_16(vi_load(codes + (k - GV / 2) * LANES * 4), 4), vi_set1_8(15)),
                            vi_set1_8(-Q4_MIDDLE));
    }
#else
    (void)as;
    const int16_t *values = b->values + (g * SALA_KV_BLOCK + at) * SALA_KV_GROUP + 2 * k0 * LANES;
    values += at * SALA_KV_GROUP;
    for (int k = 0; k < CODE_VALUES; k++)
        v[k] = vi_load(values + k * LANES * 2);
#endif
}

/* Adds the block to CODE_VALUES registers of components, from the k0-th of group g on, of n_q queries of the part.
 * whole: all of them are there. next: as in dot_keys(), for the group's values. */
INLINE void code_values_tile(float *acc, const code_block *b, int i0, int g, int k0, const int as, const uint8_t *next,
                             const bool whole, const int n_q)
{
    vi sum[CODE_TILE][CODE_VALUES];
    const size_t stride = (size_t)b->n_groups * SALA_KV_BLOCK * WEIGHT_BYTES;
    const uint8_t *w = b->weights + (size_t)i0 * stride + (size_t)g * SALA_KV_BLOCK * WEIGHT_BYTES;
    UNROLL for (int i = 0; i < n_q; i++) UNROLL for (int k = 0; k < CODE_VALUES; k++) sum[i][k] = vi_zero();
    for (int at = 0; at < QUARTER * WEIGHT_BYTES; at++) {
        vi v[CODE_VALUES];
        if (BYTE_WEIGHTS && next)
            for (int line = 0; line < (as == SALA_KV_AS_Q8_0 ? 2 : 1); line++)
                ask_for_line(next, at * (as == SALA_KV_AS_Q8_0 ? 2 : 1) + line);
        load_step(v, b, g, k0, at, as);
        UNROLL for (int i = 0; i < n_q; i++)
        {
            const vi x = vi_bcast_32(w + (size_t)i * stride + 4 * at);
            UNROLL for (int k = 0; k < CODE_VALUES; k++)
            {
#if BYTE_WEIGHTS
                sum[i][k] = vi_dot(sum[i][k], x, v[k]);
#else
                sum[i][k] = vi_dot_16(sum[i][k], x, v[k]);
#endif
                IN_PLACE(sum[i][k]);
            }
        }
    }
    const int c = g * SALA_KV_GROUP + k0 * LANES;
    float *to = acc + (size_t)i0 * (size_t)b->d + c;
    const float *factors = b->unit + i0 * b->n_groups + g, *minima = b->min_sums + i0 * b->n_groups + g;
    UNROLL for (int i = 0; i < n_q; i++)
    {
        const vf keep = vf_bcast(b->keep + i0 + i), factor = vf_bcast(factors + i * b->n_groups);
        UNROLL for (int k = 0; k < CODE_VALUES; k++)
        {
            float *at = to + i * b->d + k * LANES;
            const int left = b->d - c - k * LANES, n = whole ? LANES : left < 0 ? 0 : left < LANES ? left : LANES;
            vf x = vf_mul(whole ? vf_load(at) : vf_load_n(at, n), keep);
            if (as == SALA_KV_AS_Q4_1)
                x = vf_add(x, vf_bcast(minima + i * b->n_groups));
            vf_store(at, vf_fma(vf_from_vi(sum[i][k]), factor, x), n);
        }
    }
}

/* Brings m and l up to date; the factors of what was summed before and of this block's. Maxima of the block come as
 * exponents of 2. */
INLINE void code_merge(float *m, float *l, const code_block *b, const int32_t *n_visible, int n_q, const int as)
{
    memcpy(b->keep, m, (size_t)n_q * sizeof *m);
    for (int i = 0; i < n_q; i += LANES) { /* what lies behind the last query does not matter */
        const vf before = vf_load(b->keep + i), block = vf_mul(vf_load(b->max + i), vf_set1(LN_2));
        const vf top = vf_max(before, block);
        vf_store(b->max + i, top, LANES);
        vf_store(b->keep + i, vf_exp(vf_sub(before, top)), LANES);
        vf_store(b->gain + i, vf_exp(vf_sub(block, top)), LANES);
    }
    for (int i = 0; i < n_q; i++) {
        float *factor = b->unit + i * b->n_groups, *min = b->min_sums + i * b->n_groups;
        if (n_visible[i] > 0) {
            l[i] = l[i] * b->keep[i] + b->sum[i] * b->gain[i];
            m[i] = b->max[i];
            for (int g = 0; g < b->n_groups; g++) {
                factor[g] *= b->gain[i];
                min[g] *= as == SALA_KV_AS_Q4_1 ? b->gain[i] : 0;
            }
        } else { /* what changes nothing, not even the sign of a zero */
            b->keep[i] = 1;
            for (int g = 0; g < b->n_groups; g++)
                factor[g] = min[g] = -0.0f;
        }
    }
}

#define EACH_TILE(n_q, TILE)                                                                                           \
    do {                                                                                                               \
        int i = 0;                                                                                                     \
        for (; CODE_TILE == 8 && i + 8 <= (n_q); i += 8)                                                               \
            TILE(CODE_TILE)                                                                                            \
        for (; i + 4 <= (n_q); i += 4)                                                                                 \
            TILE(4)                                                                                                    \
        for (; i + 3 <= (n_q); i += 3)                                                                                 \
            TILE(3)                                                                                                    \
        for (; i + 2 <= (n_q); i += 2)                                                                                 \
            TILE(2)                                                                                                    \
        for (; i < (n_q); i++)                                                                                         \
            TILE(1)                                                                                                    \
    } while (0)

/* Functions of their own: what stands around a tile would compete with it for registers. */
#define SCORES(n)                                                                                                      \
    {                                                                                                                  \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += CODE_KEYS * LANES)                                                              \
            code_scores_tile(b->scores + i * SALA_KV_BLOCK + j, q + (size_t)i * SALA_ATTN_QUERY(b->d), b, j, as,       \
                             i == 0 ? next : NULL, n);                                                                 \
    }
#define VALUES(n)                                                                                                      \
    for (int k = 0; k < GV; k += CODE_VALUES)                                                                          \
        code_values_tile(acc, b, i, g, k, as, i == 0 && k == 0 ? ask : NULL, true, n);
#define VALUES_OF_REST(n)                                                                                              \
    for (int k = 0; k < GV; k += CODE_VALUES)                                                                          \
        code_values_tile(acc, b, i, g, k, as, i == 0 && k == 0 ? ask : NULL, false, n);
#define X(type, which)                                                                                                 \
    static __attribute__((noinline)) void code_scores_##type(const code_block *b, const float *q, int n_q,             \
                                                             const int32_t *n_visible, const uint8_t *next)            \
    {                                                                                                                  \
        enum { as = which };                                                                                           \
        EACH_TILE(n_q, SCORES);                                                                                        \
    }                                                                                                                  \
    static __attribute__((noinline)) void code_softmax_##type(const code_block *b, int n_q, const int32_t *n_visible)  \
    {                                                                                                                  \
        bool whole = true;                                                                                             \
        for (int i = 0; i < n_q; i++)                                                                                  \
            whole &= n_visible[i] >= SALA_KV_BLOCK;                                                                    \
        if (whole)                                                                                                     \
            code_softmax(b, n_q, n_visible, true, which);                                                              \
        else                                                                                                           \
            code_softmax(b, n_q, n_visible, false, which);                                                             \
    }                                                                                                                  \
    static __attribute__((noinline)) void code_values_##type(float *acc, const code_block *b, int n_q,                 \
                                                             const uint8_t *next)                                      \
    {                                                                                                                  \
        enum { as = which };                                                                                           \
        const int lines = which == SALA_KV_AS_Q8_0 ? 32 : 16; /* of a group's codes */                                 \
        for (int g = 0; g < b->n_groups; g++) {                                                                        \
            const uint8_t *ask = next ? next + (size_t)(g * lines) * 64 : NULL;                                        \
            if ((g + 1) * SALA_KV_GROUP <= b->d)                                                                       \
                EACH_TILE(n_q, VALUES);                                                                                \
            else                                                                                                       \
                EACH_TILE(n_q, VALUES_OF_REST);                                                                        \
        }                                                                                                              \
        for (int i = 0; next && i < b->n_groups * (which == SALA_KV_AS_Q8_0 ? 2 : 4); i++)                             \
            ask_for_line((const uint8_t *)b->k.scales - b->k.codes + next, i);                                         \
    }
X(q8, SALA_KV_AS_Q8_0)
X(q4, SALA_KV_AS_Q4_1)
#undef X
#undef SCORES
#undef VALUES
#undef VALUES_OF_REST

INLINE void attn_codes(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
                       const int32_t *n_visible, float *scratch, const uint8_t *next, const int as)
{
    if (most_visible(n_visible, n_q) == 0)
        return;
    const code_block b = code_block_at(scratch, k, v, d, as);
    const bool q8 = as == SALA_KV_AS_Q8_0;
    load_key_scales(&b, as);
#if !HAVE_DOT
    widen_keys(b.keys, &b.k, d, as, v);
#endif
    bool first = true;
    for (int i = 0; i < n_q; i += PART) {
        const int n = n_q - i < PART ? n_q - i : PART;
        if (most_visible(n_visible + i, n) == 0)
            continue;
        (q8 ? code_scores_q8 : code_scores_q4)(&b, q + (size_t)i * SALA_ATTN_QUERY(d), n, n_visible + i,
                                               first ? v : NULL);
        if (first) {
            find_factors(&b.all, &b.v, SALA_KV_BLOCK, as);
#if !BYTE_WEIGHTS
            widen_values(b.values, &b.v, as, next);
#endif
        }
        (q8 ? code_softmax_q8 : code_softmax_q4)(&b, n, n_visible + i);
        code_merge(m + i, l + i, &b, n_visible + i, n, as);
        (q8 ? code_values_q8 : code_values_q4)(acc + (size_t)i * (size_t)d, &b, n, BYTE_WEIGHTS && first ? next : NULL);
        first = false;
    }
}

#endif
