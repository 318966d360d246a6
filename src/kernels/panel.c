#include "kernels/panel.h"

#define MAX_BLOCK_BYTES 256

const sala_panel_layout sala_panel_q4_0 = {32, 18, 1, {0}, 1, {{2, 4}}, -1};
const sala_panel_layout sala_panel_q4_1 = {32, 20, 2, {0, 2}, 1, {{4, 4}}, -1};
const sala_panel_layout sala_panel_q5_0 = {32, 22, 1, {0}, 1, {{2, 5}}, 0};
const sala_panel_layout sala_panel_q5_1 = {32, 24, 2, {0, 2}, 1, {{4, 5}}, 0};
const sala_panel_layout sala_panel_q8_0 = {32, 34, 1, {0}, 1, {{2, 8}}, -1};
const sala_panel_layout sala_panel_iq4_nl = {32, 18, 1, {0}, 1, {{2, 4}}, -1};
const sala_panel_layout sala_panel_q2_k = {256, 84, 2, {80, 82}, 1, {{0, 20}}, -1};
const sala_panel_layout sala_panel_q3_k = {256, 110, 1, {108}, 2, {{96, 3}, {0, 24}}, -1};
const sala_panel_layout sala_panel_q4_k = {256, 144, 2, {0, 2}, 1, {{4, 35}}, -1};
const sala_panel_layout sala_panel_q5_k = {256, 176, 2, {0, 2}, 1, {{4, 43}}, -1};
const sala_panel_layout sala_panel_q6_k = {256, 210, 1, {208}, 2, {{192, 4}, {0, 48}}, -1};
const sala_panel_layout sala_panel_iq4_xs = {256, 136, 2, {0, 2}, 1, {{4, 33}}, -1};
const sala_panel_layout sala_panel_tq1_0 = {256, 54, 1, {52}, 1, {{0, 13}}, -1};
const sala_panel_layout sala_panel_tq2_0 = {256, 66, 1, {64}, 1, {{0, 16}}, -1};

/* Bit 4g + i of the file's word becomes bit 8i + g, and back. */
static uint32_t spread_bits(uint32_t w)
{
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t x = w >> i & 0x11111111u; /* bit 4g */
        x = (x | x >> 3) & 0x03030303u;    /* gather eight bits that lie four apart into one byte */
        x = (x | x >> 6) & 0x000f000fu;
        x = (x | x >> 12) & 0xffu;
        out |= x << 8 * i;
    }
    return out;
}

static uint32_t gather_bits(uint32_t w)
{
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t x = w >> 8 * i & 0xffu;
        x = (x | x << 12) & 0x000f000fu;
        x = (x | x << 6) & 0x03030303u;
        x = (x | x << 3) & 0x11111111u;
        out |= x << i;
    }
    return out;
}

size_t sala_panel_bytes(const sala_panel_layout *p, int panel_rows, int64_t rows, int64_t cols)
{
    const int64_t padded = (rows + panel_rows - 1) / panel_rows * panel_rows;
    return (size_t)padded * (size_t)(cols / p->block_weights) * (size_t)p->block_bytes;
}

void sala_panel_pack(const sala_panel_layout *p, int panel_rows, void *dst, const void *src, int64_t rows, int64_t cols,
                     int64_t row0, int64_t row1)
{
    const size_t n_blocks = (size_t)(cols / p->block_weights), block = (size_t)p->block_bytes;
    const size_t row_bytes = n_blocks * block;
    const size_t n = (size_t)panel_rows;
    if (row1 > rows)
        row1 = rows;
    for (int64_t r0 = row0; r0 < row1; r0 += panel_rows) {
        uint8_t *out = (uint8_t *)dst + (size_t)r0 * row_bytes;
        const size_t n_rows = row1 - r0 < panel_rows ? (size_t)(row1 - r0) : n;
        if (n_rows < n)
            memset(out, 0, n * row_bytes);
        const uint8_t *in0 = (const uint8_t *)src + (size_t)r0 * row_bytes;
        for (size_t b = 0; b < n_blocks; b++, out += n * block) {
            for (size_t r = 0; r < n_rows; r++) {
                const uint8_t *in = in0 + r * row_bytes + b * block;
                uint8_t *o = out;
                __builtin_prefetch(in + 768);
                for (int h = 0; h < p->n_halves; h++, o += 2 * n)
                    memcpy(o + 2 * r, in + p->half_off[h], 2);
                for (int s = 0; s < p->n_spans; s++) {
                    const uint8_t *words = in + p->span[s].off;
                    for (int i = 0; i < p->span[s].words; i++, o += 4 * n)
                        memcpy(o + 4 * r, words + 4 * i, 4);
                }
                if (p->five_bit_word >= 0) {
                    uint32_t w;
                    o = out + 2 * n * (size_t)p->n_halves + 4 * n * (size_t)p->five_bit_word + 4 * r;
                    memcpy(&w, o, 4);
                    w = spread_bits(w);
                    memcpy(o, &w, 4);
                }
            }
        }
    }
}

void sala_panel_get_row(const sala_panel_layout *p, sala_dtype dtype, int panel_rows, float *out, const void *w,
                        int64_t cols, int64_t r)
{
    const size_t n = (size_t)panel_rows, block = (size_t)p->block_bytes;
    const int64_t n_blocks = cols / p->block_weights;
    const uint8_t *in = (const uint8_t *)w + (size_t)(r / panel_rows) * n * (size_t)n_blocks * block;
    const size_t lane = (size_t)(r % panel_rows);
    for (int64_t b = 0; b < n_blocks; b++, out += p->block_weights) {
        uint8_t file[MAX_BLOCK_BYTES] __attribute__((aligned(4)));
        int word = 0;
        for (int h = 0; h < p->n_halves; h++, in += 2 * n)
            memcpy(file + p->half_off[h], in + 2 * lane, 2);
        for (int s = 0; s < p->n_spans; s++) {
            for (int i = 0; i < p->span[s].words; i++, in += 4 * n, word++) {
                uint32_t x;
                memcpy(&x, in + 4 * lane, 4);
                if (word == p->five_bit_word)
                    x = gather_bits(x);
                memcpy(file + p->span[s].off + 4 * i, &x, 4);
            }
        }
        sala_dequant_row(dtype, out, file, p->block_weights);
    }
}
