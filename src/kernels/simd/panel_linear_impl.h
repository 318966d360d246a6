/* Linear layers over packed panels (see panel.h) and 8-bit activations (see act_q8.h), for any register width.
 *
 * The includer has included a lanes_*.h and defines LINEAR_NAME(type) (the symbol), LINEAR_SUFFIX (a string),
 * LINEAR_NEED, LINEAR_ACT (the 8-bit activation format) and TILE (tokens that share one unpacking of the weights).
 *
 * For every type there are two functions, both for block b (of 32 columns) of the block group at p:
 *   codes_T   the codes as bytes, w[g] holding columns 4g..4g+3 of each lane's row
 *   scales_T  what the integer sum is multiplied by, and the minimum (one of each, or one for each half of the block)
 * and in TYPES what the codes are. An output is, with integers exact and everything else rounded once per operation:
 *   acc = fma(float(sum (code - zero) * q) * scale, d, acc);  acc = fma(min, s, acc)
 * over the blocks in order, then over the finer blocks,
 * which depends on nothing but the row and the token. */
#include "kernels/act_q8.h"
#include "kernels/families.h"
#include "kernels/panel.h"

#define INLINE static inline __attribute__((always_inline))

/* Tokens worked on before going to the next panel: their activations stay in the second-level cache. */
#define L2_BYTES (384 * 1024)
/* How far ahead of the weights in use the next ones are asked for, when they are used once. */
#define PREFETCH_BYTES 2048

enum min_kind { NO_MIN, HAS_MIN };

/* The 16-bit fields come first, then words. */
#define WORDS(p, n_halves, i) ((p) + LANES * (2 * (n_halves) + 4 * (i)))

INLINE vi low_nibbles(vi x)
{
    return vi_and(x, vi_set1_8(15));
}
INLINE vi high_nibbles(vi x)
{
    return vi_and(vi_srl_16(x, 4), vi_set1_8(15));
}

/* Four words of nibbles: the low ones are columns 0..15, the high ones 16..31. */
INLINE void codes_nibbles(vi w[8], const uint8_t *words)
{
    for (int j = 0; j < 4; j++) {
        const vi x = vi_load(words + 4 * LANES * j);
        w[j] = low_nibbles(x);
        w[j + 4] = high_nibbles(x);
    }
}

/* Eight words of nibbles, the low or the high ones of which are a block. */
INLINE void codes_nibble_of(vi w[8], const uint8_t *words, int shift)
{
    for (int j = 0; j < 8; j++)
        w[j] = low_nibbles(vi_srl_16(vi_load(words + 4 * LANES * j), shift));
}

/* ---- blocks of 32 ---- */

INLINE void codes_q4_0(vi w[8], const uint8_t *p, int b)
{
    (void)b;
    codes_nibbles(w, WORDS(p, 1, 0));
}

INLINE void scales_1(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    (void)b;
    (void)min;
    scale[0] = vf_halves(p);
}

INLINE void codes_q4_1(vi w[8], const uint8_t *p, int b)
{
    (void)b;
    codes_nibbles(w, WORDS(p, 2, 0));
}

INLINE void scales_2(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    (void)b;
    scale[0] = vf_halves(p);
    min[0] = vf_halves(p + 2 * LANES);
}

INLINE void codes_five(vi w[8], const uint8_t *words)
{
    const vi high = vi_load(words), bit4 = vi_set1_8(16);
    codes_nibbles(w, words + 4 * LANES);
    for (int g = 0; g < 8; g++)
        w[g] = vi_or(w[g], vi_and(g < 4 ? vi_sll_16(high, 4 - g) : vi_srl_16(high, g - 4), bit4));
}

INLINE void codes_q5_0(vi w[8], const uint8_t *p, int b)
{
    (void)b;
    codes_five(w, WORDS(p, 1, 0));
}

INLINE void codes_q5_1(vi w[8], const uint8_t *p, int b)
{
    (void)b;
    codes_five(w, WORDS(p, 2, 0));
}

/* Signed codes are made unsigned by adding 128 where products want one unsigned side; elsewhere they stay as they are
 * (their `zero` is then 0). */
#if CODES_ARE_UNSIGNED
#define SIGNED_ZERO 128
#else
#define SIGNED_ZERO 0
#endif

INLINE vi signed_code(vi x)
{
#if CODES_ARE_UNSIGNED
    return vi_xor(x, vi_set1_8(-128));
#else
    return x;
#endif
}

INLINE void codes_q8_0(vi w[8], const uint8_t *p, int b)
{
    (void)b;
    for (int g = 0; g < 8; g++)
        w[g] = signed_code(vi_load(WORDS(p, 1, g)));
}

INLINE void look_up_iq4(vi w[8])
{
    const vi table = signed_code(vi_table(sala_iq4_values));
    for (int g = 0; g < 8; g++)
        w[g] = vi_shuffle(table, w[g]);
}

INLINE void codes_iq4_nl(vi w[8], const uint8_t *p, int b)
{
    codes_q4_0(w, p, b);
    look_up_iq4(w);
}

/* ---- block groups of 256; the scales of the groups inside are decoded lane by lane ---- */

INLINE vi field(vi x, int shift, int mask)
{
    return vi_and(vi_srl_32(x, shift), vi_set1_32(mask));
}

INLINE void codes_q4_k(vi w[8], const uint8_t *p, int b)
{
    codes_nibble_of(w, WORDS(p, 2, 3 + 8 * (b / 2)), b % 2 * 4);
}

INLINE void scales_q4_k(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    const vi s0 = vi_load(WORDS(p, 2, 0)), s1 = vi_load(WORDS(p, 2, 1)), s2 = vi_load(WORDS(p, 2, 2));
    vi sc, mn;
    if (b < 4) {
        sc = field(s0, 8 * b, 63);
        mn = field(s1, 8 * b, 63);
    } else {
        const int at = 8 * (b - 4);
        sc = vi_or(field(s2, at, 15), vi_sll_32(field(s0, at + 6, 3), 4));
        mn = vi_or(field(s2, at + 4, 15), vi_sll_32(field(s1, at + 6, 3), 4));
    }
    scale[0] = vf_mul(vf_halves(p), vf_from_vi(sc));
    min[0] = vf_neg(vf_mul(vf_halves(p + 2 * LANES), vf_from_vi(mn)));
}

INLINE void codes_q5_k(vi w[8], const uint8_t *p, int b)
{
    codes_nibble_of(w, WORDS(p, 2, 11 + 8 * (b / 2)), b % 2 * 4);
    for (int g = 0; g < 8; g++) {
        const vi high = vi_and(vi_srl_16(vi_load(WORDS(p, 2, 3 + g)), b), vi_set1_8(1));
        w[g] = vi_or(w[g], vi_sll_16(high, 4));
    }
}

INLINE void codes_q6_k(vi w[8], const uint8_t *p, int b)
{
    const int half = b / 4, quarter = b % 4;
    codes_nibble_of(w, WORDS(p, 1, 4 + 16 * half + quarter % 2 * 8), quarter / 2 * 4);
    for (int g = 0; g < 8; g++) {
        const vi high = vi_and(vi_srl_16(vi_load(WORDS(p, 1, 36 + 8 * half + g)), 2 * quarter), vi_set1_8(3));
        w[g] = vi_or(w[g], vi_sll_16(high, 4));
    }
}

INLINE void scales_q6_k(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    (void)min;
    const vi s = vi_load(WORDS(p, 1, b / 2));
    const vf d = vf_halves(p);
    for (int h = 0; h < 2; h++) {
        const int byte = b % 2 * 2 + h;
        scale[h] = vf_mul(d, vf_from_vi(vi_sra_32(vi_sll_32(s, 24 - 8 * byte), 24)));
    }
}

INLINE void codes_q2_k(vi w[8], const uint8_t *p, int b)
{
    for (int g = 0; g < 8; g++)
        w[g] = vi_and(vi_srl_16(vi_load(WORDS(p, 2, 4 + 8 * (b / 4) + g)), b % 4 * 2), vi_set1_8(3));
}

INLINE void scales_q2_k(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    const vi s = vi_load(WORDS(p, 2, b / 2));
    const vf d = vf_halves(p), dmin = vf_halves(p + 2 * LANES);
    for (int h = 0; h < 2; h++) {
        const int at = (b % 2 * 2 + h) * 8;
        scale[h] = vf_mul(d, vf_from_vi(field(s, at, 15)));
        min[h] = vf_neg(vf_mul(dmin, vf_from_vi(field(s, at + 4, 15))));
    }
}

INLINE void codes_q3_k(vi w[8], const uint8_t *p, int b)
{
    for (int g = 0; g < 8; g++) {
        const vi low = vi_and(vi_srl_16(vi_load(WORDS(p, 1, 11 + 8 * (b / 4) + g)), b % 4 * 2), vi_set1_8(3));
        const vi high = vi_and(vi_srl_16(vi_load(WORDS(p, 1, 3 + g)), b), vi_set1_8(1));
        w[g] = vi_or(low, vi_sll_16(high, 2));
    }
}

INLINE void scales_q3_k(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    (void)min;
    const vf d = vf_halves(p);
    for (int h = 0; h < 2; h++) {
        const int i = 2 * b + h; /* group of 16 */
        const vi low = field(vi_load(WORDS(p, 1, i / 4 % 2)), i % 4 * 8 + (i < 8 ? 0 : 4), 15);
        const vi high = field(vi_load(WORDS(p, 1, 2)), i % 4 * 8 + i / 4 * 2, 3);
        const vi sc = vi_add_32(vi_or(low, vi_sll_32(high, 4)), vi_set1_32(-32));
        scale[h] = vf_mul(d, vf_from_vi(sc));
    }
}

INLINE void codes_iq4_xs(vi w[8], const uint8_t *p, int b)
{
    codes_nibbles(w, WORDS(p, 2, 1 + 4 * b));
    look_up_iq4(w);
}

INLINE void scales_iq4_xs(vf scale[2], vf min[2], const uint8_t *p, int b)
{
    (void)min;
    const vi low = field(vi_load(WORDS(p, 2, 0)), 4 * b, 15);
    const vi high = field(vi_u16(p + 2 * LANES), 2 * b, 3);
    const vi sc = vi_add_32(vi_or(low, vi_sll_32(high, 4)), vi_set1_32(-32));
    scale[0] = vf_mul(vf_halves(p), vf_from_vi(sc));
}

INLINE void codes_tq2_0(vi w[8], const uint8_t *p, int b)
{
    for (int g = 0; g < 8; g++)
        w[g] = vi_and(vi_srl_16(vi_load(WORDS(p, 1, 8 * (b / 4) + g)), b % 4 * 2), vi_set1_8(3));
}

/* Which word and which base-3 digit of it holds columns 4g..4g+3 of block b. Blocks 0-4 are the five digits of words
 * 0-7; then 20 groups are the digits of words 8-11, and the last four those of word 12. */
INLINE void codes_tq1_0(vi w[8], const uint8_t *p, int b)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    const vi low_bytes = vi_set1_32(0x00ff00ff);
    for (int g = 0; g < 8; g++) {
        const int i = 8 * b + g - 40; /* group of four, counted behind the first five blocks */
        const int word = i < 0 ? g : i < 20 ? 8 + i % 4 : 12;
        const int digit = i < 0 ? b : i < 20 ? i / 4 : i - 20;
        const vi x = vi_load(WORDS(p, 1, word)), m = vi_set1_32(pow3[digit] * 0x10001);
        const vi q = vi_or(vi_and(vi_mullo_16(x, m), low_bytes), vi_sll_16(vi_mullo_16(vi_srl_16(x, 8), m), 8));
        /* q * 3 / 256 without 16-bit products: 1 from 86 on, 2 from 171 on. */
        const vi one = vi_set1_8(1);
        w[g] = vi_add_8(vi_min_u8(vi_subs_u8(q, vi_set1_8(85)), one), vi_min_u8(vi_subs_u8(q, vi_set1_8(170)), one));
    }
}

/* ---- the product ---- */

/* -zero * sum(q) from -8 * sum(q), exactly */
INLINE vi times_zero(vi n8, int zero)
{
    switch (zero) {
    case 1:
        return vi_sra_32(n8, 3);
    case 4:
        return vi_sra_32(n8, 1);
    case 8:
        return n8;
    case 16:
        return vi_sll_32(n8, 1);
    case 32:
        return vi_sll_32(n8, 2);
    case 128:
        return vi_sll_32(n8, 4);
    default:
        return vi_zero();
    }
}

/* sum[t] += codes of groups [g0, g1) times activations; `max_code` bounds the codes, 0 means signed. */
INLINE void dot_groups(vi *sum, const vi w[8], const uint8_t *act, size_t act_stride, int n_tok, int g0, int g1,
                       int max_code)
{
#if HAVE_DOT
    (void)max_code;
#if HAVE_MATMUL
    if (n_tok % 2 == 0) {
        dot_token_pairs(sum, w, act, act_stride, n_tok, g0, g1);
        return;
    }
#endif
    for (int g = g0; g < g1; g++)
        for (int t = 0; t < n_tok; t++)
            sum[t] = vi_dot(sum[t], w[g], vi_bcast_32(act + (size_t)t * act_stride + 4 * g));
#else
    if (max_code == 0) {
        for (int g = g0; g < g1; g++) {
            const vi u = vi_abs_8(w[g]);
            for (int t = 0; t < n_tok; t++) {
                const vi a = vi_sign_8(vi_bcast_32(act + (size_t)t * act_stride + 4 * g), w[g]);
                sum[t] = vi_add_pairs(sum[t], vi_dot_pairs(u, a));
            }
        }
        return;
    }
    /* A pair of products is at most 2 * 127 * max_code; this many fit into 16 bits. */
    const int run = max_code <= 15 ? 8 : max_code <= 31 ? 4 : 2;
    for (int g = g0; g < g1; g += run) {
        vi s16[TILE];
        for (int t = 0; t < n_tok; t++)
            s16[t] = vi_dot_pairs(w[g], vi_bcast_32(act + (size_t)t * act_stride + 4 * g));
        for (int i = g + 1; i < g + run && i < g1; i++)
            for (int t = 0; t < n_tok; t++) {
                s16[t] = vi_add_16(s16[t], vi_dot_pairs(w[i], vi_bcast_32(act + (size_t)t * act_stride + 4 * i)));
                /* Integer sums may be reassociated, and gcc does: all products first, each of them spilled. */
                __asm__("" : "+x"(s16[t]));
            }
        for (int t = 0; t < n_tok; t++)
            sum[t] = vi_add_pairs(sum[t], s16[t]);
    }
#endif
}

#define ACT(t) ((const sala_act_block *)(act + (size_t)(t)*act_stride))

typedef void codes_fn(vi w[8], const uint8_t *p, int b);
typedef void scales_fn(vf scale[2], vf min[2], const uint8_t *p, int b);

/* Adds block b of the group at p to the outputs of n_tok tokens (a constant where this is inlined). */
INLINE void add_block(codes_fn *codes, scales_fn *scales, int zero, int max_code, int halves, enum min_kind min_kind,
                      vf *acc, const uint8_t *p, int b, const uint8_t *act, size_t act_stride, const int n_tok)
{
    vi w[8];
    vf scale[2], min[2];
    codes(w, p, b);
    scales(scale, min, p, b);
    for (int h = 0; h < halves; h++) {
        vi sum[TILE];
        for (int t = 0; t < n_tok; t++)
            sum[t] =
                zero == 0 ? vi_zero() : times_zero(vi_bcast_32(halves == 1 ? &ACT(t)->n8 : &ACT(t)->n8_half[h]), zero);
        dot_groups(sum, w, act, act_stride, n_tok, h * 4, halves == 1 ? 8 : h * 4 + 4, max_code);
        for (int t = 0; t < n_tok; t++) {
            acc[t] = vf_fma(vf_mul(vf_from_vi(sum[t]), scale[h]), vf_bcast(&ACT(t)->d), acc[t]);
            if (min_kind == HAS_MIN)
                acc[t] = vf_fma(min[h], vf_bcast(halves == 1 ? &ACT(t)->s : &ACT(t)->s_half[h]), acc[t]);
        }
    }
}

/* One panel, n_tok tokens. */
INLINE void panel_tile(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, int zero, int max_code,
                       int halves, enum min_kind min_kind, float *out, int64_t out_stride, const uint8_t *p,
                       const uint8_t *act, size_t act_stride, int64_t cols, int n_rows, const int n_tok)
{
    vf acc[TILE];
    for (int t = 0; t < n_tok; t++)
        acc[t] = vf_zero();
    const int64_t n_groups = cols / (32 * blocks);
    for (int64_t i = 0; i < n_groups; i++, p += group_bytes, act += (size_t)blocks * sizeof(sala_act_block)) {
        if (n_tok == 1) {
            for (int at = 0; at < group_bytes; at += 64)
                __builtin_prefetch(p + PREFETCH_BYTES + at);
                /* Unrolled, the shifts that find a block's codes and scales are constants. */
#pragma GCC unroll 8
            for (int b = 0; b < blocks; b++)
                add_block(codes, scales, zero, max_code, halves, min_kind, acc, p, b,
                          act + (size_t)b * sizeof(sala_act_block), act_stride, 1);
        } else {
#pragma GCC unroll 1
            for (int b = 0; b < blocks; b++)
                add_block(codes, scales, zero, max_code, halves, min_kind, acc, p, b,
                          act + (size_t)b * sizeof(sala_act_block), act_stride, n_tok);
        }
    }
    for (int t = 0; t < n_tok; t++)
        vf_store(out + t * out_stride, acc[t], n_rows);
}

/* Adds the finer blocks of one token. They are few: the weights are unpacked for each. */
INLINE void panel_finer(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, int zero, int max_code,
                        int halves, enum min_kind min_kind, float *out, const uint8_t *p, const sala_act_block *row,
                        int64_t cols, int n_rows)
{
    vf acc = vf_load_n(out, n_rows);
    const sala_act_block *x = row + cols / 32;
    for (int32_t k = 0; k < row->finer; k++, x++) {
        const uint8_t *group = p + (int64_t)(x->finer / blocks) * group_bytes;
        const int b = x->finer % blocks;
        vi w[8];
        vf scale[2], min[2];
        codes(w, group, b);
        scales(scale, min, group, b);
        for (int h = 0; h < halves; h++) {
            vi sum = zero == 0 ? vi_zero() : times_zero(vi_bcast_32(halves == 1 ? &x->n8 : &x->n8_half[h]), zero);
            dot_groups(&sum, w, (const uint8_t *)x, 0, 1, h * 4, halves == 1 ? 8 : h * 4 + 4, max_code);
            acc = vf_fma(vf_mul(vf_from_vi(sum), scale[h]), vf_bcast(&x->d), acc);
            if (min_kind == HAS_MIN)
                acc = vf_fma(min[h], vf_bcast(halves == 1 ? &x->s : &x->s_half[h]), acc);
        }
    }
    vf_store(out, acc, n_rows);
}

/*   type    SALA_ type  blocks  zero  largest code  halves  minimum  scales */
#define TYPES(X)                                                                                                       \
    X(q4_0, Q4_0, 1, 8, 15, 1, NO_MIN, scales_1)                                                                       \
    X(q4_1, Q4_1, 1, 0, 15, 1, HAS_MIN, scales_2)                                                                      \
    X(q5_0, Q5_0, 1, 16, 31, 1, NO_MIN, scales_1)                                                                      \
    X(q5_1, Q5_1, 1, 0, 31, 1, HAS_MIN, scales_2)                                                                      \
    X(q8_0, Q8_0, 1, SIGNED_ZERO, 0, 1, NO_MIN, scales_1)                                                              \
    X(iq4_nl, IQ4_NL, 1, SIGNED_ZERO, 0, 1, NO_MIN, scales_1)                                                          \
    X(q2_k, Q2_K, 8, 0, 3, 2, HAS_MIN, scales_q2_k)                                                                    \
    X(q3_k, Q3_K, 8, 4, 7, 2, NO_MIN, scales_q3_k)                                                                     \
    X(q4_k, Q4_K, 8, 0, 15, 1, HAS_MIN, scales_q4_k)                                                                   \
    X(q5_k, Q5_K, 8, 0, 31, 1, HAS_MIN, scales_q4_k)                                                                   \
    X(q6_k, Q6_K, 8, 32, 63, 2, NO_MIN, scales_q6_k)                                                                   \
    X(iq4_xs, IQ4_XS, 8, SIGNED_ZERO, 0, 1, NO_MIN, scales_iq4_xs)                                                     \
    X(tq1_0, TQ1_0, 8, 1, 2, 1, NO_MIN, scales_1)                                                                      \
    X(tq2_0, TQ2_0, 8, 1, 3, 1, NO_MIN, scales_1)

enum {
#define B(name, id, block, bytes) BYTES_##name = (bytes),
    SALA_DTYPE_LIST(B)
#undef B
};

#define X(type, id, blocks, zero, max_code, halves, min_kind, scales)                                                  \
    static size_t packed_bytes_##type(int64_t rows, int64_t cols)                                                      \
    {                                                                                                                  \
        return sala_panel_bytes(&sala_panel_##type, LANES, rows, cols);                                                \
    }                                                                                                                  \
    static void pack_##type(void *dst, const void *src, int64_t rows, int64_t cols, int64_t row0, int64_t row1)        \
    {                                                                                                                  \
        sala_panel_pack(&sala_panel_##type, LANES, dst, src, rows, cols, row0, row1);                                  \
    }                                                                                                                  \
    static void get_row_##type(float *out, const void *w, int64_t rows, int64_t cols, int64_t r)                       \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        sala_panel_get_row(&sala_panel_##type, SALA_##id, LANES, out, w, cols, r);                                     \
    }                                                                                                                  \
    static void run_##type(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride,          \
                           int64_t rows, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens)                   \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        const size_t panel_bytes = (size_t)(cols / (32 * (blocks))) * LANES * BYTES_##id;                              \
        const int64_t batch = tokens_at_once(act_stride);                                                              \
        for (int64_t t0 = 0; t0 < n_tokens; t0 += batch) {                                                             \
            const int64_t t1 = t0 + batch < n_tokens ? t0 + batch : n_tokens;                                          \
            for (int64_t r = row0; r < row1; r += LANES) {                                                             \
                const uint8_t *p = (const uint8_t *)w + (size_t)(r / LANES) * panel_bytes;                             \
                const int n_rows = row1 - r < LANES ? (int)(row1 - r) : LANES;                                         \
                int64_t t = t0;                                                                                        \
                STEPS(codes_##type, scales, blocks, LANES *BYTES_##id, zero, max_code, halves, min_kind)               \
                for (t = t0; t < t1; t++) {                                                                            \
                    const sala_act_block *x = (const sala_act_block *)((const uint8_t *)act + (size_t)t * act_stride); \
                    if (x->finer)                                                                                      \
                        panel_finer(codes_##type, scales, blocks, LANES *BYTES_##id, zero, max_code, halves, min_kind, \
                                    out + t * out_stride + r, p, x, cols, n_rows);                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    const sala_linear_kernel LINEAR_NAME(type) = {.name = #type LINEAR_SUFFIX,                                         \
                                                  .dtype = SALA_##id,                                                  \
                                                  .need = LINEAR_NEED,                                                 \
                                                  .panel_rows = LANES,                                                 \
                                                  .act = &LINEAR_ACT,                                                  \
                                                  .packed_bytes = packed_bytes_##type,                                 \
                                                  .pack = pack_##type,                                                 \
                                                  .get_row = get_row_##type,                                           \
                                                  .run = run_##type};

#define STEP(n, ...)                                                                                                   \
    for (; t + (n) <= t1; t += (n))                                                                                    \
        panel_tile(__VA_ARGS__, out + t * out_stride + r, out_stride, p,                                               \
                   (const uint8_t *)act + (size_t)t * act_stride, act_stride, cols, n_rows, n);
#define STEPS(...)                                                                                                     \
    STEP(TILE, __VA_ARGS__)                                                                                            \
    if (TILE > 4)                                                                                                      \
        STEP(4, __VA_ARGS__)                                                                                           \
    STEP(2, __VA_ARGS__)                                                                                               \
    STEP(1, __VA_ARGS__)

static inline int64_t tokens_at_once(size_t act_stride)
{
    const int64_t n = (int64_t)(L2_BYTES / (act_stride / 2)) / TILE * TILE;
    return n < TILE ? TILE : n;
}

TYPES(X)
#undef X
