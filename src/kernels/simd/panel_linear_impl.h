/* Linear layers over packed panels (see panel.h) and 8-bit activations (see act_q8.h), for any register width.
 *
 * The includer has included a lanes_*.h and defines LINEAR_NAME(type) (the symbol), LINEAR_SUFFIX (a string),
 * LINEAR_NEED, LINEAR_ACT (the 8-bit activation format) and TILE (tokens whose sums for PANELS panels fit into
 * registers).
 *
 * For every type there are two functions, both for block b (of 32 columns) of the block group at p:
 *   codes_T   the codes as bytes, w[g] holding columns 4g..4g+3 of each lane's row
 *   scales_T  what the integer sum is multiplied by, and the minimum (one of each, or one for each half of the block)
 * and in TYPES what the codes are. An output is, with integers exact and everything else rounded once per operation:
 *   x = float(sum (code - zero) * q) * scale    and with two halves  x = fma(float(second sum), second scale, x)
 *   acc = fma(x, d, acc);  acc = fma(min, s, acc) for each minimum
 * over the CHUNK blocks of a chunk in order, then over the finer blocks among them, chunk after chunk, which depends on
 * nothing but the row and the token. Few tokens take weights through registers only; more share what was unpacked. */
#include "kernels/act_q8.h"
#include "kernels/families.h"
#include "kernels/panel.h"

#define INLINE static inline __attribute__((always_inline))

/* Blocks that are unpacked together; finer blocks follow them, whatever their number of tokens. */
#define CHUNK 16
/* Panels and, by TILE, tokens that share every load from the first-level cache. */
#ifndef PANELS
#define PANELS 2
#endif
/* Tokens worked on at a time: their blocks of a chunk stay in the second-level cache while all panels go by. */
#define MAX_TOKENS 512
/* How far ahead of the weights in use the next ones are asked for, when they are used once. */
#define PREFETCH_BYTES 2048

/* Tokens of a tile. Signed codes without an instruction for them leave room for more while a block is summed, and need
 * them: signs double the loads of weights. The outputs go to memory and back for each block then. */
#define TILE_OF(k) (!HAVE_DOT && (k).max_code == 0 ? 2 * TILE : TILE)
#define LARGEST_TILE (HAVE_DOT ? TILE : 2 * TILE)
#define MAX_TILE (PANELS * LARGEST_TILE)

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

/* Integer sums may be reassociated, and gcc does: all products first, each of them spilled. */
#define KEEP_ORDER(x) __asm__("" : "+x"(x))

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

/* A block of a panel. */
typedef struct weights {
    const vi *w;     /* codes; with `signs`, their magnitudes */
    const vi *signs; /* as flip_signs() leaves them; NULL: codes have their signs, or none */
    const vf *scale, *min;
} weights;

#if !HAVE_DOT
/* Turns signed codes into magnitudes u that multiply x ^ s, where s is -1 in the bytes whose code is negative and 0
 * elsewhere: u * ~x = (-u) * x - u, so a sum over a block starts at the sum of those u, which is s[8]. Unlike giving x
 * the signs of the codes, it asks nothing of the multipliers. 128 * ~127 twice is the least that 16 bits hold. */
INLINE void flip_signs(vi s[9], vi w[8])
{
    s[8] = vi_zero();
    for (int g = 0; g < 8; g++) {
        s[g] = vi_negative_8(w[g]);
        w[g] = vi_abs_8(w[g]);
        s[8] = vi_add_pairs(s[8], vi_dot_pairs(vi_and(w[g], s[g]), vi_set1_8(1)));
    }
}
#endif

/* sum[t * n_panels + p] += codes of groups [g0, g1) times the activations at x[t]; `max_code` bounds the codes, 0
 * means signed. The counts are constants where this is inlined. */
INLINE void dot_groups(vi *sum, const weights *w, const uint8_t *const *x, const int n_tok, const int n_panels, int g0,
                       int g1, int max_code)
{
#if HAVE_DOT
    (void)max_code;
#if HAVE_MATMUL
    if (n_tok % 2 == 0) {
        for (int p = 0; p < n_panels; p++)
            dot_token_pairs(sum + p, n_panels, w[p].w, x, n_tok, g0, g1);
        return;
    }
#endif
    for (int g = g0; g < g1; g++)
        for (int t = 0; t < n_tok; t++) {
            const vi a = vi_bcast_32(x[t] + 4 * g);
            for (int p = 0; p < n_panels; p++)
                sum[t * n_panels + p] = vi_dot(sum[t * n_panels + p], w[p].w[g], a);
        }
#else
    if (max_code == 0) {
#pragma GCC unroll 8
        for (int g = g0; g < g1; g++)
            for (int t = 0; t < n_tok; t++) {
                const vi a = vi_bcast_32(x[t] + 4 * g);
                for (int p = 0; p < n_panels; p++) {
                    const int k = t * n_panels + p;
                    const vi v = w[p].w[g];
                    sum[k] = vi_add_pairs(sum[k], w[p].signs ? vi_dot_pairs(v, vi_xor(a, w[p].signs[g]))
                                                             : vi_dot_pairs(vi_abs_8(v), vi_sign_8(a, v)));
                    KEEP_ORDER(sum[k]);
                }
            }
        return;
    }
    /* A pair of products is at most 2 * 127 * max_code; this many fit into 16 bits. */
    const int fit = max_code <= 15 ? 8 : max_code <= 31 ? 4 : 2, run = fit < g1 - g0 ? fit : g1 - g0;
#pragma GCC unroll 4
    for (int g = g0; g < g1; g += run) {
        vi s16[MAX_TILE];
        for (int t = 0; t < n_tok; t++) {
            const vi a = vi_bcast_32(x[t] + 4 * g);
            for (int p = 0; p < n_panels; p++)
                s16[t * n_panels + p] = vi_dot_pairs(w[p].w[g], a);
        }
#pragma GCC unroll 8
        for (int i = g + 1; i < g + run; i++)
            for (int t = 0; t < n_tok; t++) {
                const vi a = vi_bcast_32(x[t] + 4 * i);
                for (int p = 0; p < n_panels; p++) {
                    const int k = t * n_panels + p;
                    s16[k] = vi_add_16(s16[k], vi_dot_pairs(w[p].w[i], a));
                    KEEP_ORDER(s16[k]);
                }
            }
        for (int k = 0; k < n_tok * n_panels; k++)
            sum[k] = vi_add_pairs(sum[k], s16[k]);
    }
#endif
}

/* What a type is, besides how its codes and scales are read; constants where functions are inlined. */
typedef struct traits {
    int zero, max_code, halves;
    enum min_kind min_kind;
} traits;

#define ACT(t) ((const sala_act_block *)(const void *)x[t])

/* Adds one block of each panel, times the activations x[t], to the outputs acc[t * n_panels + p]. */
INLINE void add_block(vf *acc, const weights *w, const uint8_t *const *x, const int n_tok, const int n_panels,
                      const traits k)
{
    vf half[MAX_TILE];
#pragma GCC unroll 2
    for (int h = 0; h < k.halves; h++) {
        vi sum[MAX_TILE];
        for (int t = 0; t < n_tok; t++) {
            const vi start = k.zero == 0
                                 ? vi_zero()
                                 : times_zero(vi_bcast_32(k.halves == 1 ? &ACT(t)->n8 : &ACT(t)->n8_half[h]), k.zero);
            for (int p = 0; p < n_panels; p++)
                sum[t * n_panels + p] = w[p].signs ? w[p].signs[8] : start;
        }
        dot_groups(sum, w, x, n_tok, n_panels, h * 4, k.halves == 1 ? 8 : h * 4 + 4, k.max_code);
        for (int t = 0; t < n_tok; t++)
            for (int p = 0; p < n_panels; p++) {
                const int i = t * n_panels + p;
                const vf f = vf_from_vi(sum[i]);
                half[i] = h == 0 ? vf_mul(f, w[p].scale[0]) : vf_fma(f, w[p].scale[h], half[i]);
            }
    }
    for (int t = 0; t < n_tok; t++) {
        const vf d = vf_bcast(&ACT(t)->d);
        for (int p = 0; p < n_panels; p++)
            acc[t * n_panels + p] = vf_fma(half[t * n_panels + p], d, acc[t * n_panels + p]);
        if (k.min_kind == HAS_MIN)
            for (int h = 0; h < k.halves; h++) {
                const vf s = vf_bcast(k.halves == 1 ? &ACT(t)->s : &ACT(t)->s_half[h]);
                for (int p = 0; p < n_panels; p++)
                    acc[t * n_panels + p] = vf_fma(w[p].min[h], s, acc[t * n_panels + p]);
            }
    }
}

typedef void codes_fn(vi w[8], const uint8_t *p, int b);
typedef void scales_fn(vf scale[2], vf min[2], const uint8_t *p, int b);

/* ---- up to FEW tokens: weights go through registers only ---- */

#define FEW 4

/* Block b of the group at p for n_tok tokens. */
INLINE void add_packed_block(codes_fn *codes, scales_fn *scales, const traits k, vf *acc, const uint8_t *p, int b,
                             const uint8_t *const *x, const int n_tok)
{
    vi w[8];
    vf scale[2], min[2];
    codes(w, p, b);
    scales(scale, min, p, b);
    add_block(acc, &(weights){.w = w, .scale = scale, .min = min}, x, n_tok, 1, k);
}

/* One panel. */
INLINE void panel_times_few(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, const traits k,
                            float *const *out, const uint8_t *p, const sala_act_block *const *x, int64_t n_blocks,
                            int n_rows, const int n_tok)
{
    vf acc[FEW];
    for (int t = 0; t < n_tok; t++)
        acc[t] = vf_zero();
    int32_t n_finer[FEW] = {0};
    for (int64_t b0 = 0; b0 < n_blocks; b0 += CHUNK) {
        const uint8_t *first = p;
        const int64_t b1 = b0 + CHUNK < n_blocks ? b0 + CHUNK : n_blocks;
        for (int64_t b = b0; b < b1; b += blocks, p += group_bytes) {
            for (int at = 0; at < group_bytes; at += 64)
                __builtin_prefetch(p + PREFETCH_BYTES + at);
            const uint8_t *in[FEW];
            for (int t = 0; t < n_tok; t++)
                in[t] = (const uint8_t *)(x[t] + b);
            if (n_tok == 1) { /* unrolled, the shifts that find a block's codes and scales are constants */
#pragma GCC unroll 8
                for (int i = 0; i < blocks; i++, in[0] += sizeof(sala_act_block))
                    add_packed_block(codes, scales, k, acc, p, i, in, 1);
            } else {
#pragma GCC unroll 1
                for (int i = 0; i < blocks; i++) {
                    add_packed_block(codes, scales, k, acc, p, i, in, n_tok);
                    for (int t = 0; t < n_tok; t++)
                        in[t] += sizeof(sala_act_block);
                }
            }
        }
        /* They are few: the weights are unpacked again for each. */
        for (int t = 0; t < n_tok; t++)
            for (; n_finer[t] < x[t][b1 - 1].finer; n_finer[t]++) {
                const sala_act_block *finer = x[t] + n_blocks + n_finer[t];
                const int64_t i = finer->finer - b0;
                const uint8_t *in = (const uint8_t *)finer;
                add_packed_block(codes, scales, k, &acc[t], first + i / blocks * group_bytes, (int)(i % blocks), &in,
                                 1);
            }
    }
    for (int t = 0; t < n_tok; t++)
        vf_store(out[t], acc[t], n_rows);
}

/* Rows [row0, row1) of the matrix. Of three tokens the third goes twice. */
INLINE void rows_times_few(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, const traits k, float *out,
                           int64_t out_stride, const uint8_t *w, size_t panel_bytes, const uint8_t *act,
                           size_t act_stride, int64_t n_blocks, int64_t row0, int64_t row1, int n_tokens)
{
    for (int64_t r = row0; r < row1; r += LANES) {
        const uint8_t *p = w + (size_t)(r / LANES) * panel_bytes;
        const int n_rows = row1 - r < LANES ? (int)(row1 - r) : LANES;
        const sala_act_block *x[FEW];
        float *o[FEW];
        for (int t = 0; t < FEW; t++) {
            const int from = t < n_tokens ? t : n_tokens - 1;
            x[t] = (const sala_act_block *)(const void *)(act + (size_t)from * act_stride);
            o[t] = out + from * out_stride + r;
        }
        if (n_tokens == 1)
            panel_times_few(codes, scales, blocks, group_bytes, k, o, p, x, n_blocks, n_rows, 1);
        else if (n_tokens == 2)
            panel_times_few(codes, scales, blocks, group_bytes, k, o, p, x, n_blocks, n_rows, 2);
        else
            panel_times_few(codes, scales, blocks, group_bytes, k, o, p, x, n_blocks, n_rows, 4);
    }
}

/* ---- many tokens: a chunk of columns of PANELS panels is unpacked once and stays in the first-level cache ---- */

typedef struct chunk {
    vi w[CHUNK][PANELS][8];
#if !HAVE_DOT
    vi signs[CHUNK][PANELS][9]; /* of signed codes */
#endif
    vf scale[CHUNK][PANELS][2], min[CHUNK][PANELS][2];
} chunk;

INLINE void unpack_chunk(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, const traits k, chunk *c,
                         int panel, const uint8_t *p, int n_blocks)
{
    for (int b = 0; b < n_blocks; b += blocks, p += group_bytes) {
#pragma GCC unroll 8
        for (int i = 0; i < blocks; i++) {
            codes(c->w[b + i][panel], p, i);
            scales(c->scale[b + i][panel], c->min[b + i][panel], p, i);
#if !HAVE_DOT
            if (k.max_code == 0)
                flip_signs(c->signs[b + i][panel], c->w[b + i][panel]);
#else
            (void)k;
#endif
        }
    }
}

/* Adds blocks [b0, b0 + n_blocks) of the chunk to acc[t], PANELS * LANES floats each; x[t] is the
 * first of the token's blocks. */
INLINE void chunk_tile(const chunk *c, int b0, int n_blocks, const traits k, float *const *acc,
                       const sala_act_block *const *x, const int n_tok)
{
    vf a[MAX_TILE];
    for (int t = 0; t < n_tok; t++)
        for (int p = 0; p < PANELS; p++)
            a[t * PANELS + p] = vf_load(acc[t] + p * LANES);
#pragma GCC unroll 1
    for (int b = 0; b < n_blocks; b++) {
        weights w[PANELS];
        const uint8_t *in[LARGEST_TILE];
        for (int p = 0; p < PANELS; p++) {
            w[p] = (weights){.w = c->w[b0 + b][p], .scale = c->scale[b0 + b][p], .min = c->min[b0 + b][p]};
#if !HAVE_DOT
            if (k.max_code == 0)
                w[p].signs = c->signs[b0 + b][p];
#endif
        }
        for (int t = 0; t < n_tok; t++)
            in[t] = (const uint8_t *)(x[t] + b);
        add_block(a, w, in, n_tok, PANELS, k);
    }
    for (int t = 0; t < n_tok; t++)
        for (int p = 0; p < PANELS; p++)
            vf_store(acc[t] + p * LANES, a[t * PANELS + p], LANES);
}

/* The tokens of a call, as long as they fit the scratch memory. */
typedef struct batch {
    const uint8_t *act;
    size_t act_stride;
    int64_t n_blocks; /* of a token, without the finer ones */
    int n_tokens;
    int n_finer[CHUNK]; /* of each block of the chunk, the tokens that have a finer one: */
    int16_t finer[CHUNK][MAX_TOKENS];
} batch;

INLINE const sala_act_block *token_row(const batch *x, int t)
{
    return (const sala_act_block *)(const void *)(x->act + (size_t)t * x->act_stride);
}

static void find_finer(batch *x, int64_t b0)
{
    _Static_assert(CHUNK == 16, "the bits of a chunk");
    memset(x->n_finer, 0, sizeof x->n_finer);
    for (int t = 0; t < x->n_tokens; t++) {
        const uint8_t *bits = sala_act_q8_finer_bits(token_row(x, t), x->n_blocks) + b0 / 8;
        for (unsigned m = bits[0] | (unsigned)bits[1] << 8; m; m &= m - 1) {
            const int b = __builtin_ctz(m);
            x->finer[b][x->n_finer[b]++] = (int16_t)t;
        }
    }
}

/* As chunk_tile() for n tokens. A tile is filled up with the first of them: its sums then go nowhere. */
INLINE void chunk_tokens(const chunk *c, int b0, int n_blocks, const traits k, float **acc, const sala_act_block **x,
                         int n)
{
    const int tile = TILE_OF(k);
    float nowhere[PANELS * LANES];
    for (int t = n; t < tile; t++) {
        memcpy(nowhere, acc[0], sizeof nowhere);
        acc[t] = nowhere;
        x[t] = x[0];
    }
    if (n > tile / 2)
        chunk_tile(c, b0, n_blocks, k, acc, x, tile);
    else
        chunk_tile(c, b0, n_blocks, k, acc, x, tile / 2);
}

/* Adds the chunk, blocks [b0, b0 + n_blocks) of the rows, to all tokens' sums, and then the finer blocks. */
INLINE void chunk_times_batch(const chunk *c, const batch *x, int64_t b0, int n_blocks, const traits k, float *acc)
{
    const int tile = TILE_OF(k);
    const sala_act_block *in[LARGEST_TILE];
    float *out[LARGEST_TILE];
    /* Block -1 stands for all of them. */
    for (int b = -1; b < n_blocks; b++) {
        const int n_tokens = b < 0 ? x->n_tokens : x->n_finer[b];
        for (int first = 0; first < n_tokens; first += tile) {
            const int n = n_tokens - first < tile ? n_tokens - first : tile;
            for (int i = 0; i < n; i++) {
                const int t = b < 0 ? first + i : x->finer[b][first + i];
                const sala_act_block *row = token_row(x, t);
                in[i] = b < 0 ? row + b0 : row + x->n_blocks + row[b0 + b].finer - 1;
                out[i] = acc + t * (PANELS * LANES);
            }
            chunk_tokens(c, b < 0 ? 0 : b, b < 0 ? n_blocks : 1, k, out, in, n);
        }
    }
}

/* Rows [row0, row1) of the matrix for the batch; acc has room for n_rows * n_tokens sums. */
INLINE void rows_times_batch(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, const traits k,
                             float *out, int64_t out_stride, const uint8_t *w, size_t panel_bytes, batch *x, float *acc,
                             int64_t row0, int64_t row1)
{
    enum { ROWS = PANELS * LANES };
    const int64_t n_pairs = (row1 - row0 + ROWS - 1) / ROWS;
    const size_t pair_floats = (size_t)x->n_tokens * ROWS;
    memset(acc, 0, (size_t)n_pairs * pair_floats * sizeof(float));
    chunk c;
    for (int64_t b0 = 0; b0 < x->n_blocks; b0 += CHUNK) {
        const int n_blocks = x->n_blocks - b0 < CHUNK ? (int)(x->n_blocks - b0) : CHUNK;
        const uint8_t *first = w + b0 / blocks * group_bytes;
        const int chunk_bytes = n_blocks / blocks * group_bytes;
        find_finer(x, b0);
        for (int64_t i = 0; i < n_pairs; i++) {
            for (int p = 0; p < PANELS; p++) {
                /* A panel that is not there takes what the one before has: nobody reads its sums. */
                const int64_t r = row0 + i * ROWS + (row0 + i * ROWS + p * LANES < row1 ? p * LANES : 0);
                const uint8_t *at = first + (size_t)(r / LANES) * panel_bytes;
                unpack_chunk(codes, scales, blocks, group_bytes, k, &c, p, at, n_blocks);
                /* The next ones, while the tokens go by. Past the end of a row this asks for what nobody needs. */
                const uint8_t *next = i + 1 < n_pairs ? at + PANELS * panel_bytes
                                                      : first + (size_t)(row0 / LANES + p) * panel_bytes + chunk_bytes;
                for (int line = 0; line < chunk_bytes; line += 64)
                    __builtin_prefetch(next + line, 0, 2);
            }
            chunk_times_batch(&c, x, b0, n_blocks, k, acc + (size_t)i * pair_floats);
        }
    }
    for (int t = 0; t < x->n_tokens; t++)
        for (int64_t r = row0; r < row1; r += LANES)
            vf_store(out + t * out_stride + r,
                     vf_load(acc + (size_t)((r - row0) / ROWS) * pair_floats + t * ROWS + (r - row0) % ROWS),
                     row1 - r < LANES ? (int)(row1 - r) : LANES);
}

INLINE void run_any(codes_fn *codes, scales_fn *scales, int blocks, int group_bytes, const traits k, float *out,
                    int64_t out_stride, const uint8_t *w, const uint8_t *act, size_t act_stride, int64_t cols,
                    int64_t row0, int64_t row1, int64_t n_tokens, void *scratch)
{
    const int64_t n_blocks = cols / 32;
    const size_t panel_bytes = (size_t)(n_blocks / blocks) * (size_t)group_bytes;
    if (n_tokens <= FEW) {
        rows_times_few(codes, scales, blocks, group_bytes, k, out, out_stride, w, panel_bytes, act, act_stride,
                       n_blocks, row0, row1, (int)n_tokens);
        return;
    }
    batch x = {.act_stride = act_stride, .n_blocks = n_blocks};
    for (int64_t t = 0; t < n_tokens; t += MAX_TOKENS) {
        x.act = act + (size_t)t * act_stride;
        x.n_tokens = n_tokens - t < MAX_TOKENS ? (int)(n_tokens - t) : MAX_TOKENS;
        const int64_t rows =
            SALA_LINEAR_SCRATCH / (x.n_tokens * (int)sizeof(float)) / (PANELS * LANES) * (PANELS * LANES);
        for (int64_t r = row0; r < row1; r += rows)
            rows_times_batch(codes, scales, blocks, group_bytes, k, out + t * out_stride, out_stride, w, panel_bytes,
                             &x, scratch, r, r + rows < row1 ? r + rows : row1);
    }
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
                           int64_t rows, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens, void *scratch)    \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        run_any(codes_##type, scales, blocks, LANES *BYTES_##id, (traits){zero, max_code, halves, min_kind}, out,      \
                out_stride, w, act, act_stride, cols, row0, row1, n_tokens, scratch);                                  \
    }                                                                                                                  \
    const sala_linear_kernel LINEAR_NAME(type) = {.name = #type LINEAR_SUFFIX,                                         \
                                                  .dtype = SALA_##id,                                                  \
                                                  .need = LINEAR_NEED,                                                 \
                                                  .panel_rows = PANELS * LANES,                                        \
                                                  .act = &LINEAR_ACT,                                                  \
                                                  .packed_bytes = packed_bytes_##type,                                 \
                                                  .pack = pack_##type,                                                 \
                                                  .get_row = get_row_##type,                                           \
                                                  .run = run_##type};

TYPES(X)
#undef X
