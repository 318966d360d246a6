/* The packed form of quantised weights, for every instruction set.
 *
 * A panel is n neighbouring rows (n = lanes of 32 bits in a register). It keeps exactly the bytes of the file, only
 * their order changes: block by block along the columns, first the 16-bit fields (scales) of the n rows side by side,
 * then each 32-bit word of the codes and sub-scales of the n rows side by side:
 *
 *     d[0] d[1] .. d[n-1] | m[0] .. m[n-1] | word0[0] .. word0[n-1] | word1[0] .. word1[n-1] | ...   next block
 *
 * A register loaded from it holds four consecutive bytes of codes of one row in each lane, so that a lane owns an
 * output row, activations are broadcast four at a time, and no sum crosses lanes. Rows missing in the last panel are
 * zero. The fifth bits of Q5_0 and Q5_1 are the one field that is also permuted: bit g of byte i is that of weight 4g +
 * i. */
#ifndef SALA_KERNELS_PANEL_H
#define SALA_KERNELS_PANEL_H

#include "kernels/kernels.h"

typedef struct sala_panel_layout {
    int block_weights, block_bytes;
    int n_halves;    /* 16-bit fields, in the order of half_off */
    int half_off[2]; /* byte offsets in the file's block */
    int n_spans;
    struct {
        int off, words; /* runs of 32-bit words in the file's block */
    } span[4];
    int five_bit_word; /* index of the word that is permuted, or -1 */
} sala_panel_layout;

extern const sala_panel_layout sala_panel_q4_0, sala_panel_q4_1, sala_panel_q5_0, sala_panel_q5_1, sala_panel_q8_0,
    sala_panel_q2_k, sala_panel_q3_k, sala_panel_q4_k, sala_panel_q5_k, sala_panel_q6_k, sala_panel_iq4_nl,
    sala_panel_iq4_xs, sala_panel_tq1_0, sala_panel_tq2_0;

size_t sala_panel_bytes(const sala_panel_layout *p, int panel_rows, int64_t rows, int64_t cols);
void sala_panel_pack(const sala_panel_layout *p, int panel_rows, void *dst, const void *src, int64_t rows, int64_t cols,
                     int64_t row0, int64_t row1);
void sala_panel_get_row(const sala_panel_layout *p, sala_dtype dtype, int panel_rows, float *out, const void *w,
                        int64_t cols, int64_t r);

#endif
