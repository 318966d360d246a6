/* Unpacking of the small scales inside super blocks. */
#ifndef SALA_KERNELS_K_SCALES_H
#define SALA_KERNELS_K_SCALES_H

#include "tensor/dtype.h"

/* Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes. The first four of each are the low 6 bits of
 * bytes 0-3 and 4-7; of the last four, bytes 8-11 hold the low 4 bits (scale | min << 4) and the top bits of bytes 0-7
 * the upper two. */
static inline void sala_q4_k_scales(uint8_t sc[8], uint8_t mn[8], const uint8_t s[12])
{
    for (int i = 0; i < 4; i++) {
        sc[i] = s[i] & 63;
        mn[i] = s[i + 4] & 63;
        sc[i + 4] = (uint8_t)((s[i + 8] & 15) | s[i] >> 6 << 4);
        mn[i + 4] = (uint8_t)(s[i + 8] >> 4 | s[i + 4] >> 6 << 4);
    }
}

/* Q3_K: sixteen 6-bit scales, offset 32. Low four bits in the nibbles of bytes 0-7 (low nibbles first), upper two in
 * bytes 8-11, scale i in bits 2*(i/4) of byte 8 + i%4. */
static inline void sala_q3_k_scales(int8_t sc[16], const uint8_t s[12])
{
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        const int high = s[8 + i % 4] >> i / 4 * 2 & 3;
        sc[i] = (int8_t)((low | high << 4) - 32);
    }
}

static inline void sala_iq4_xs_scales(int8_t sc[8], const sala_block_iq4_xs *b)
{
    for (int i = 0; i < 8; i++) {
        const int low = b->scales_l[i / 2] >> i % 2 * 4 & 15;
        sc[i] = (int8_t)((low | (b->scales_h >> 2 * i & 3) << 4) - 32);
    }
}

#endif
