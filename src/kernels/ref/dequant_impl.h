/* Decoding of every stored type into f32. Included by ref_impl.h, which is compiled once per instruction set: plain
 * loops, no contraction, so that every build of it gives the same bits. Products and sums are rounded in the order that
 * defines the formats in ggml (scale times sub-scale first, then the code, then the minimum). */
#ifndef SALA_KERNELS_REF_DEQUANT_IMPL_H
#define SALA_KERNELS_REF_DEQUANT_IMPL_H

#include "kernels/kernels.h"
#include "kernels/k_scales.h"

static void deq_f32(float *out, const void *src, int64_t n)
{
    memcpy(out, src, (size_t)n * sizeof(float));
}

static void deq_f16(float *out, const void *src, int64_t n)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = sala_f16_to_f32(h);
    }
}

static void deq_bf16(float *out, const void *src, int64_t n)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = sala_bf16_to_f32(h);
    }
}

static void deq_q4_0(float *out, const void *src, int64_t n)
{
    const sala_block_q4_0 *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)((b->qs[j] & 15) - 8) * d;
            out[j + 16] = (float)((b->qs[j] >> 4) - 8) * d;
        }
    }
}

static void deq_q4_1(float *out, const void *src, int64_t n)
{
    const sala_block_q4_1 *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d), m = sala_f16_to_f32(b->m);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)(b->qs[j] & 15) * d + m;
            out[j + 16] = (float)(b->qs[j] >> 4) * d + m;
        }
    }
}

/* The fifth bits of a Q5 block, one per weight. */
static inline void q5_high(uint8_t hi[32], const uint8_t qh[4])
{
    uint32_t bits;
    memcpy(&bits, qh, 4);
    for (int j = 0; j < 32; j++)
        hi[j] = (uint8_t)((bits >> j & 1) << 4);
}

static void deq_q5_0(float *out, const void *src, int64_t n)
{
    const sala_block_q5_0 *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d);
        uint8_t hi[32];
        q5_high(hi, b->qh);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)(((b->qs[j] & 15) | hi[j]) - 16) * d;
            out[j + 16] = (float)(((b->qs[j] >> 4) | hi[j + 16]) - 16) * d;
        }
    }
}

static void deq_q5_1(float *out, const void *src, int64_t n)
{
    const sala_block_q5_1 *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d), m = sala_f16_to_f32(b->m);
        uint8_t hi[32];
        q5_high(hi, b->qh);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)((b->qs[j] & 15) | hi[j]) * d + m;
            out[j + 16] = (float)((b->qs[j] >> 4) | hi[j + 16]) * d + m;
        }
    }
}

static void deq_q8_0(float *out, const void *src, int64_t n)
{
    const sala_block_q8_0 *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d);
        for (int j = 0; j < 32; j++)
            out[j] = (float)b->qs[j] * d;
    }
}

static void deq_iq4_nl(float *out, const void *src, int64_t n)
{
    const sala_block_iq4_nl *b = src;
    for (; n > 0; n -= SALA_QK, b++, out += SALA_QK) {
        const float d = sala_f16_to_f32(b->d);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)sala_iq4_values[b->qs[j] & 15];
            out[j + 16] = d * (float)sala_iq4_values[b->qs[j] >> 4];
        }
    }
}

static void deq_q2_k(float *out, const void *src, int64_t n)
{
    const sala_block_q2_k *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d), dmin = sala_f16_to_f32(b->dmin);
        for (int g = 0; g < 16; g++) { /* a group of 16: bit pair (g/2)%4 of bytes 32*(g/8) + 16*(g%2) ... */
            const float dl = d * (float)(b->scales[g] & 15), ml = dmin * (float)(b->scales[g] >> 4);
            const uint8_t *q = b->qs + 32 * (g / 8) + 16 * (g % 2);
            const int shift = g / 2 % 4 * 2;
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)(q[j] >> shift & 3) - ml;
        }
    }
}

static void deq_q3_k(float *out, const void *src, int64_t n)
{
    const sala_block_q3_k *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d);
        int8_t sc[16];
        sala_q3_k_scales(sc, b->scales);
        for (int g = 0; g < 16; g++) {
            const float dl = d * (float)sc[g];
            const uint8_t *q = b->qs + 32 * (g / 8) + 16 * (g % 2), *hm = b->hmask + 16 * (g % 2);
            const int shift = g / 2 % 4 * 2, bit = g / 2;
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)((q[j] >> shift & 3) - ((hm[j] >> bit & 1) ? 0 : 4));
        }
    }
}

static void deq_q4_k(float *out, const void *src, int64_t n)
{
    const sala_block_q4_k *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d), dmin = sala_f16_to_f32(b->dmin);
        uint8_t sc[8], mn[8];
        sala_q4_k_scales(sc, mn, b->scales);
        for (int g = 0; g < 8; g++) {
            const float dl = d * (float)sc[g], ml = dmin * (float)mn[g];
            const uint8_t *q = b->qs + 32 * (g / 2);
            const int shift = g % 2 * 4;
            for (int j = 0; j < 32; j++)
                out[32 * g + j] = dl * (float)(q[j] >> shift & 15) - ml;
        }
    }
}

static void deq_q5_k(float *out, const void *src, int64_t n)
{
    const sala_block_q5_k *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d), dmin = sala_f16_to_f32(b->dmin);
        uint8_t sc[8], mn[8];
        sala_q4_k_scales(sc, mn, b->scales);
        for (int g = 0; g < 8; g++) {
            const float dl = d * (float)sc[g], ml = dmin * (float)mn[g];
            const uint8_t *q = b->qs + 32 * (g / 2);
            const int shift = g % 2 * 4;
            for (int j = 0; j < 32; j++)
                out[32 * g + j] = dl * (float)((q[j] >> shift & 15) | (b->qh[j] >> g & 1) << 4) - ml;
        }
    }
}

static void deq_q6_k(float *out, const void *src, int64_t n)
{
    const sala_block_q6_k *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d);
        for (int g = 0; g < 16; g++) {
            const float dl = d * (float)b->scales[g];
            const int quarter = g / 2 % 4; /* which 32 of the half's 128 weights */
            const uint8_t *ql = b->ql + 64 * (g / 8) + 32 * (quarter % 2) + 16 * (g % 2);
            const uint8_t *qh = b->qh + 32 * (g / 8) + 16 * (g % 2);
            const int low = quarter / 2 * 4, high = quarter * 2;
            for (int j = 0; j < 16; j++)
                out[16 * g + j] = dl * (float)(((ql[j] >> low & 15) | (qh[j] >> high & 3) << 4) - 32);
        }
    }
}

static void deq_iq4_xs(float *out, const void *src, int64_t n)
{
    const sala_block_iq4_xs *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d);
        int8_t sc[8];
        sala_iq4_xs_scales(sc, b);
        for (int g = 0; g < 8; g++) {
            const float dl = d * (float)sc[g];
            for (int j = 0; j < 16; j++) {
                out[32 * g + j] = dl * (float)sala_iq4_values[b->qs[16 * g + j] & 15];
                out[32 * g + j + 16] = dl * (float)sala_iq4_values[b->qs[16 * g + j] >> 4];
            }
        }
    }
}

/* A byte of TQ1_0 is a fraction in base 3: multiplying by 3^n (mod 256) brings digit n to the top. */
static inline float tq1_digit(uint8_t byte, unsigned pow3)
{
    return (float)((int)((byte * pow3 & 255) * 3 >> 8) - 1);
}

static void deq_tq1_0(float *out, const void *src, int64_t n)
{
    static const unsigned pow3[5] = {1, 3, 9, 27, 81};
    const sala_block_tq1_0 *b = src;
    for (; n > 0; n -= SALA_QKK, b++) {
        const float d = sala_f16_to_f32(b->d);
        for (int e = 0; e < 5; e++)
            for (int j = 0; j < 32; j++)
                *out++ = tq1_digit(b->qs[j], pow3[e]) * d;
        for (int e = 0; e < 5; e++)
            for (int j = 32; j < 48; j++)
                *out++ = tq1_digit(b->qs[j], pow3[e]) * d;
        for (int e = 0; e < 4; e++)
            for (int j = 0; j < 4; j++)
                *out++ = tq1_digit(b->qh[j], pow3[e]) * d;
    }
}

static void deq_tq2_0(float *out, const void *src, int64_t n)
{
    const sala_block_tq2_0 *b = src;
    for (; n > 0; n -= SALA_QKK, b++, out += SALA_QKK) {
        const float d = sala_f16_to_f32(b->d);
        for (int g = 0; g < 8; g++) {
            const uint8_t *q = b->qs + 32 * (g / 4);
            for (int j = 0; j < 32; j++)
                out[32 * g + j] = (float)((q[j] >> g % 4 * 2 & 3) - 1) * d;
        }
    }
}

/*   name    SALA_ type */
#define SALA_REF_TYPES(X)                                                                                              \
    X(f32, F32)                                                                                                        \
    X(f16, F16)                                                                                                        \
    X(bf16, BF16)                                                                                                      \
    X(q4_0, Q4_0)                                                                                                      \
    X(q4_1, Q4_1)                                                                                                      \
    X(q5_0, Q5_0)                                                                                                      \
    X(q5_1, Q5_1)                                                                                                      \
    X(q8_0, Q8_0)                                                                                                      \
    X(q2_k, Q2_K)                                                                                                      \
    X(q3_k, Q3_K)                                                                                                      \
    X(q4_k, Q4_K)                                                                                                      \
    X(q5_k, Q5_K)                                                                                                      \
    X(q6_k, Q6_K)                                                                                                      \
    X(iq4_nl, IQ4_NL)                                                                                                  \
    X(iq4_xs, IQ4_XS)                                                                                                  \
    X(tq1_0, TQ1_0)                                                                                                    \
    X(tq2_0, TQ2_0)

#endif
