/* Blocks with one scale of their own: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, TQ1_0, TQ2_0. */
#include "quant/rows.h"

#include <math.h>
#include <string.h>

static uint16_t half(float v)
{
    return sala_f32_to_f16(v);
}

/* ---- sixteen blocks of 32 at a time ---- */

typedef struct batch {
    sala_lanes g;
    int count;
    _Alignas(64) float d[SALA_LANES], m[SALA_LANES];
    uint8_t levels[SALA_LANES * SALA_QK];
} batch;

static void load_batch(batch *b, const sala_block_run *run, int64_t first)
{
    const int64_t left = run->n_blocks - first;
    float importance[SALA_LANES * SALA_QK];
    b->count = left < SALA_LANES ? (int)left : SALA_LANES;
    if (run->importance)
        for (int k = 0; k < b->count; k++)
            memcpy(importance + k * SALA_QK, sala_block_importance(run, first + k, SALA_QK),
                   SALA_QK * sizeof *importance);
    sala_lanes_load(&b->g, run->x + first * SALA_QK, run->importance ? importance : NULL, SALA_QK, b->count, 1);
}

/* Nibbles of element j and j + 16 share a byte. */
static void pack_nibbles(uint8_t qs[16], const uint8_t *levels)
{
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)((levels[j] & 15) | (levels[j + 16] & 15) << 4);
}

/* Bit j of the four bytes is bit 4 of level j. */
static void pack_fifth_bits(uint8_t qh[4], const uint8_t *levels)
{
    memset(qh, 0, 4);
    for (int j = 0; j < 32; j++)
        qh[j / 8] |= (uint8_t)((levels[j] >> 4) << j % 8);
}

int64_t sala_write_q4_0(const sala_block_run *run)
{
    batch b;
    for (int64_t first = 0; first < run->n_blocks; first += SALA_LANES) {
        load_batch(&b, run, first);
        sala_solve_linear_f16(run->ops, &b.g, (sala_level_set){.lo = -8, .hi = 7}, b.d);
        sala_lanes_levels(b.levels, &b.g, b.d, NULL, -8, 7);
        for (int k = 0; k < b.count; k++) {
            sala_block_q4_0 y = {.d = half(b.d[k])};
            if (sala_half_overflows(y.d))
                return first + k;
            pack_nibbles(y.qs, b.levels + k * SALA_QK);
            memcpy((sala_block_q4_0 *)run->dst + first + k, &y, sizeof y);
        }
    }
    return -1;
}

int64_t sala_write_q5_0(const sala_block_run *run)
{
    batch b;
    for (int64_t first = 0; first < run->n_blocks; first += SALA_LANES) {
        load_batch(&b, run, first);
        sala_solve_linear_f16(run->ops, &b.g, (sala_level_set){.lo = -16, .hi = 15}, b.d);
        sala_lanes_levels(b.levels, &b.g, b.d, NULL, -16, 15);
        for (int k = 0; k < b.count; k++) {
            sala_block_q5_0 y = {.d = half(b.d[k])};
            if (sala_half_overflows(y.d))
                return first + k;
            pack_nibbles(y.qs, b.levels + k * SALA_QK);
            pack_fifth_bits(y.qh, b.levels + k * SALA_QK);
            memcpy((sala_block_q5_0 *)run->dst + first + k, &y, sizeof y);
        }
    }
    return -1;
}

/* Scales and minima as half floats hold them; levels are then chosen for those. */
static void solve_affine_f16(batch *b, const sala_lane_ops *ops, float hi)
{
    sala_solve_affine(ops, &b->g, hi, false, b->d, b->m);
    for (int k = 0; k < SALA_LANES; k++) {
        b->d[k] = sala_f16_to_f32(half(b->d[k]));
        b->m[k] = sala_f16_to_f32(half(b->m[k]));
    }
    sala_lanes_levels(b->levels, &b->g, b->d, b->m, 0, hi);
}

int64_t sala_write_q4_1(const sala_block_run *run)
{
    batch b;
    for (int64_t first = 0; first < run->n_blocks; first += SALA_LANES) {
        load_batch(&b, run, first);
        solve_affine_f16(&b, run->ops, 15);
        for (int k = 0; k < b.count; k++) {
            sala_block_q4_1 y = {.d = half(b.d[k]), .m = half(b.m[k])};
            if (sala_half_overflows(y.d) || sala_half_overflows(y.m))
                return first + k;
            pack_nibbles(y.qs, b.levels + k * SALA_QK);
            memcpy((sala_block_q4_1 *)run->dst + first + k, &y, sizeof y);
        }
    }
    return -1;
}

int64_t sala_write_q5_1(const sala_block_run *run)
{
    batch b;
    for (int64_t first = 0; first < run->n_blocks; first += SALA_LANES) {
        load_batch(&b, run, first);
        solve_affine_f16(&b, run->ops, 31);
        for (int k = 0; k < b.count; k++) {
            sala_block_q5_1 y = {.d = half(b.d[k]), .m = half(b.m[k])};
            if (sala_half_overflows(y.d) || sala_half_overflows(y.m))
                return first + k;
            pack_nibbles(y.qs, b.levels + k * SALA_QK);
            pack_fifth_bits(y.qh, b.levels + k * SALA_QK);
            memcpy((sala_block_q5_1 *)run->dst + first + k, &y, sizeof y);
        }
    }
    return -1;
}

int64_t sala_write_iq4_nl(const sala_block_run *run)
{
    batch b;
    for (int64_t first = 0; first < run->n_blocks; first += SALA_LANES) {
        load_batch(&b, run, first);
        sala_solve_linear_f16(run->ops, &b.g, (sala_level_set){.iq4 = true}, b.d);
        sala_lanes_levels_iq4(b.levels, &b.g, b.d);
        for (int k = 0; k < b.count; k++) {
            sala_block_iq4_nl y = {.d = half(b.d[k])};
            if (sala_half_overflows(y.d))
                return first + k;
            pack_nibbles(y.qs, b.levels + k * SALA_QK);
            memcpy((sala_block_iq4_nl *)run->dst + first + k, &y, sizeof y);
        }
    }
    return -1;
}

/* ---- formats that leave nothing to search ---- */

static float magnitude(const float *x, int n)
{
    float top = 0;
    for (int i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        top = a > top ? a : top;
    }
    return top;
}

/* Halves away from zero, as ggml rounds here, so that the bytes are the same as its. */
static int round_away(float v)
{
    const int whole = (int)v;
    const float rest = v - (float)whole;
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

int64_t sala_write_q8_0(const sala_block_run *run)
{
    for (int64_t at = 0; at < run->n_blocks; at++) {
        const float *x = run->x + at * SALA_QK;
        const float top = magnitude(x, SALA_QK), d = top / 127;
        const float inv = top >= SALA_QUANT_TINY ? 1 / d : 0;
        sala_block_q8_0 y = {.d = half(d)};
        if (sala_half_overflows(y.d))
            return at;
        for (int j = 0; j < SALA_QK; j++)
            y.qs[j] = (int8_t)round_away(x[j] * inv);
        memcpy((sala_block_q8_0 *)run->dst + at, &y, sizeof y);
    }
    return -1;
}

/* Codes 0, 1, 2 for -d, 0, d. */
static bool ternary_codes(uint8_t codes[SALA_QKK], uint16_t *d, const float *x)
{
    const float top = magnitude(x, SALA_QKK);
    const float inv = top >= SALA_QUANT_TINY ? 1 / top : 0;
    *d = half(top);
    for (int j = 0; j < SALA_QKK; j++)
        codes[j] = (uint8_t)(round_away(x[j] * inv) + 1);
    return !sala_half_overflows(*d);
}

int64_t sala_write_tq2_0(const sala_block_run *run)
{
    uint8_t codes[SALA_QKK];
    for (int64_t at = 0; at < run->n_blocks; at++) {
        uint16_t d;
        if (!ternary_codes(codes, &d, run->x + at * SALA_QKK))
            return at;
        sala_block_tq2_0 y = {.d = d};
        for (int q = 0; q < 2; q++) {
            const uint8_t *c = codes + 128 * q;
            for (int m = 0; m < 32; m++)
                y.qs[32 * q + m] = (uint8_t)(c[m] | c[32 + m] << 2 | c[64 + m] << 4 | c[96 + m] << 6);
        }
        memcpy((sala_block_tq2_0 *)run->dst + at, &y, sizeof y);
    }
    return -1;
}

/* `n_digits` digits, the first the most significant of five, as a fixed-point fraction of 243 that the reader takes
 * apart by multiplying; rounded up so that no digit is lost. */
static uint8_t pack_digits(const uint8_t *c, int stride, int n_digits)
{
    unsigned v = 0;
    for (int i = 0; i < 5; i++)
        v = v * 3 + (i < n_digits ? c[i * stride] : 0u);
    return (uint8_t)((v * 256 + 242) / 243);
}

int64_t sala_write_tq1_0(const sala_block_run *run)
{
    uint8_t codes[SALA_QKK];
    for (int64_t at = 0; at < run->n_blocks; at++) {
        uint16_t d;
        if (!ternary_codes(codes, &d, run->x + at * SALA_QKK))
            return at;
        sala_block_tq1_0 y = {.d = d};
        for (int m = 0; m < 32; m++)
            y.qs[m] = pack_digits(codes + m, 32, 5);
        for (int m = 0; m < 16; m++)
            y.qs[32 + m] = pack_digits(codes + 160 + m, 16, 5);
        for (int m = 0; m < 4; m++)
            y.qh[m] = pack_digits(codes + 240 + m, 4, 4);
        memcpy((sala_block_tq1_0 *)run->dst + at, &y, sizeof y);
    }
    return -1;
}
