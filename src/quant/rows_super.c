/* Super-blocks of 256: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS. Two super-blocks fill the lanes when groups have 32
 * weights, one when they have 16. */
#include "quant/rows.h"

#include <string.h>

typedef struct super_batch {
    sala_lanes g;
    int n_super, n_groups; /* super-blocks in the lanes, groups in each */
    _Alignas(64) float d[SALA_LANES], m[SALA_LANES];
    float super[2], super_min[2];
    int code[SALA_LANES], code_min[SALA_LANES];
    uint8_t levels[2 * SALA_QKK];
} super_batch;

static int load_batch(super_batch *b, const sala_block_run *run, int64_t first, int group)
{
    float importance[2 * SALA_QKK];
    const int64_t left = run->n_blocks - first;
    const int most = group * SALA_LANES / SALA_QKK;
    b->n_groups = SALA_QKK / group;
    b->n_super = left < most ? (int)left : most;
    if (run->importance)
        for (int s = 0; s < b->n_super; s++)
            memcpy(importance + s * SALA_QKK, sala_block_importance(run, first + s, SALA_QKK),
                   SALA_QKK * sizeof *importance);
    sala_lanes_load(&b->g, run->x + first * SALA_QKK, run->importance ? importance : NULL, group,
                    b->n_super * b->n_groups, b->n_groups);
    return b->n_super;
}

static void solve_affine(super_batch *b, const sala_lane_ops *ops, float hi, int hi_code)
{
    sala_solve_affine(ops, &b->g, hi, true, b->d, b->m);
    sala_solve_super_affine(ops, &b->g, hi, b->n_super, b->n_groups, hi_code, b->d, b->m, b->super, b->super_min,
                            b->code, b->code_min);
    sala_lanes_levels(b->levels, &b->g, b->d, b->m, 0, hi);
}

static void solve_linear(super_batch *b, const sala_lane_ops *ops, sala_level_set set, int lo_code, int hi_code)
{
    sala_solve_linear(ops, &b->g, set, b->d);
    sala_solve_super_linear(ops, &b->g, set, b->n_super, b->n_groups, lo_code, hi_code, b->d, b->super, b->code);
    if (set.iq4)
        sala_lanes_levels_iq4(b->levels, &b->g, b->d);
    else
        sala_lanes_levels(b->levels, &b->g, b->d, NULL, set.lo, set.hi);
}

/* Four 2-bit codes to a byte: elements l, l + 32, l + 64, l + 96 of each half. */
static void pack_crumbs(uint8_t qs[64], const uint8_t *levels)
{
    for (int h = 0; h < 2; h++) {
        const uint8_t *c = levels + 128 * h;
        for (int l = 0; l < 32; l++)
            qs[32 * h + l] = (uint8_t)((c[l] & 3) | (c[l + 32] & 3) << 2 | (c[l + 64] & 3) << 4 | (c[l + 96] & 3) << 6);
    }
}

/* Low nibbles of 64 consecutive elements in 32 bytes: element l with element l + 32. */
static void pack_nibbles(uint8_t qs[128], const uint8_t *levels)
{
    for (int p = 0; p < 4; p++) {
        const uint8_t *c = levels + 64 * p;
        for (int l = 0; l < 32; l++)
            qs[32 * p + l] = (uint8_t)((c[l] & 15) | (c[l + 32] & 15) << 4);
    }
}

int64_t sala_write_q2_k(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at++) {
        load_batch(&b, run, at, 16);
        solve_affine(&b, run->ops, 3, 15);
        sala_block_q2_k y = {.d = sala_f32_to_f16(b.super[0]), .dmin = sala_f32_to_f16(b.super_min[0])};
        if (sala_half_overflows(y.d) || sala_half_overflows(y.dmin))
            return at;
        for (int j = 0; j < 16; j++)
            y.scales[j] = (uint8_t)(b.code[j] | b.code_min[j] << 4);
        pack_crumbs(y.qs, b.levels);
        memcpy((sala_block_q2_k *)run->dst + at, &y, sizeof y);
    }
    return -1;
}

int64_t sala_write_q3_k(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at++) {
        load_batch(&b, run, at, 16);
        solve_linear(&b, run->ops, (sala_level_set){.lo = -4, .hi = 3}, -32, 31);
        sala_block_q3_k y = {.d = sala_f32_to_f16(b.super[0])};
        if (sala_half_overflows(y.d))
            return at;
        /* Scale codes plus 32: the low nibbles of j and j + 8 share a byte, the upper two bits of j, j + 4, j + 8 and
         * j + 12 another. */
        for (int j = 0; j < 16; j++) {
            const int c = b.code[j] + 32;
            y.scales[j % 8] |= (uint8_t)((c & 15) << (j < 8 ? 0 : 4));
            y.scales[8 + j % 4] |= (uint8_t)((c >> 4) << 2 * (j / 4));
        }
        pack_crumbs(y.qs, b.levels);
        for (int j = 0; j < SALA_QKK; j++)
            y.hmask[j % 32] |= (uint8_t)((b.levels[j] >> 2) << j / 32);
        memcpy((sala_block_q3_k *)run->dst + at, &y, sizeof y);
    }
    return -1;
}

/* Eight 6-bit scales and eight 6-bit minima in twelve bytes. */
static void pack_scales(uint8_t scales[12], const int *code, const int *code_min)
{
    for (int j = 0; j < 4; j++) {
        scales[j] = (uint8_t)(code[j] | (code[j + 4] >> 4) << 6);
        scales[j + 4] = (uint8_t)(code_min[j] | (code_min[j + 4] >> 4) << 6);
        scales[j + 8] = (uint8_t)((code[j + 4] & 15) | (code_min[j + 4] & 15) << 4);
    }
}

int64_t sala_write_q4_k(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at += b.n_super) {
        load_batch(&b, run, at, 32);
        solve_affine(&b, run->ops, 15, 63);
        for (int s = 0; s < b.n_super; s++) {
            sala_block_q4_k y = {.d = sala_f32_to_f16(b.super[s]), .dmin = sala_f32_to_f16(b.super_min[s])};
            if (sala_half_overflows(y.d) || sala_half_overflows(y.dmin))
                return at + s;
            pack_scales(y.scales, b.code + 8 * s, b.code_min + 8 * s);
            pack_nibbles(y.qs, b.levels + SALA_QKK * s);
            memcpy((sala_block_q4_k *)run->dst + at + s, &y, sizeof y);
        }
    }
    return -1;
}

int64_t sala_write_q5_k(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at += b.n_super) {
        load_batch(&b, run, at, 32);
        solve_affine(&b, run->ops, 31, 63);
        for (int s = 0; s < b.n_super; s++) {
            const uint8_t *levels = b.levels + SALA_QKK * s;
            sala_block_q5_k y = {.d = sala_f32_to_f16(b.super[s]), .dmin = sala_f32_to_f16(b.super_min[s])};
            if (sala_half_overflows(y.d) || sala_half_overflows(y.dmin))
                return at + s;
            pack_scales(y.scales, b.code + 8 * s, b.code_min + 8 * s);
            pack_nibbles(y.qs, levels);
            for (int j = 0; j < SALA_QKK; j++)
                y.qh[j % 32] |= (uint8_t)((levels[j] >> 4) << j / 32);
            memcpy((sala_block_q5_k *)run->dst + at + s, &y, sizeof y);
        }
    }
    return -1;
}

int64_t sala_write_q6_k(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at++) {
        load_batch(&b, run, at, 16);
        solve_linear(&b, run->ops, (sala_level_set){.lo = -32, .hi = 31}, -128, 127);
        sala_block_q6_k y = {.d = sala_f32_to_f16(b.super[0])};
        if (sala_half_overflows(y.d))
            return at;
        for (int j = 0; j < 16; j++)
            y.scales[j] = (int8_t)b.code[j];
        for (int h = 0; h < 2; h++) {
            const uint8_t *c = b.levels + 128 * h;
            for (int l = 0; l < 32; l++) {
                y.ql[64 * h + l] = (uint8_t)((c[l] & 15) | (c[l + 64] & 15) << 4);
                y.ql[64 * h + 32 + l] = (uint8_t)((c[l + 32] & 15) | (c[l + 96] & 15) << 4);
                y.qh[32 * h + l] =
                    (uint8_t)(c[l] >> 4 | c[l + 32] >> 4 << 2 | c[l + 64] >> 4 << 4 | c[l + 96] >> 4 << 6);
            }
        }
        memcpy((sala_block_q6_k *)run->dst + at, &y, sizeof y);
    }
    return -1;
}

int64_t sala_write_iq4_xs(const sala_block_run *run)
{
    super_batch b;
    for (int64_t at = 0; at < run->n_blocks; at += b.n_super) {
        load_batch(&b, run, at, 32);
        solve_linear(&b, run->ops, (sala_level_set){.iq4 = true}, -32, 31);
        for (int s = 0; s < b.n_super; s++) {
            sala_block_iq4_xs y = {.d = sala_f32_to_f16(b.super[s])};
            if (sala_half_overflows(y.d))
                return at + s;
            for (int j = 0; j < 8; j++) {
                const int c = b.code[8 * s + j] + 32;
                y.scales_l[j / 2] |= (uint8_t)((c & 15) << 4 * (j % 2));
                y.scales_h = (uint16_t)(y.scales_h | (c >> 4) << 2 * j);
            }
            for (int i = 0; i < 8; i++) {
                const uint8_t *c = b.levels + SALA_QKK * s + 32 * i;
                for (int j = 0; j < 16; j++)
                    y.qs[16 * i + j] = (uint8_t)(c[j] | c[j + 16] << 4);
            }
            memcpy((sala_block_iq4_xs *)run->dst + at + s, &y, sizeof y);
        }
    }
    return -1;
}
