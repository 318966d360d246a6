/* The types that weights are stored in, and the block layouts of the quantised ones. No arithmetic but the conversion
 * of single 16-bit floats. Ids, names and layouts are those of ggml (its public headers), because files hold them. */
#ifndef SALA_TENSOR_DTYPE_H
#define SALA_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/*    name     ggml id  weights in a block  bytes of a block */
#define SALA_DTYPE_LIST(X)                                                                                             \
    X(F32, 0, 1, 4)                                                                                                    \
    X(F16, 1, 1, 2)                                                                                                    \
    X(Q4_0, 2, 32, 18)                                                                                                 \
    X(Q4_1, 3, 32, 20)                                                                                                 \
    X(Q5_0, 6, 32, 22)                                                                                                 \
    X(Q5_1, 7, 32, 24)                                                                                                 \
    X(Q8_0, 8, 32, 34)                                                                                                 \
    X(Q8_1, 9, 32, 36)                                                                                                 \
    X(Q2_K, 10, 256, 84)                                                                                               \
    X(Q3_K, 11, 256, 110)                                                                                              \
    X(Q4_K, 12, 256, 144)                                                                                              \
    X(Q5_K, 13, 256, 176)                                                                                              \
    X(Q6_K, 14, 256, 210)                                                                                              \
    X(Q8_K, 15, 256, 292)                                                                                              \
    X(IQ4_NL, 20, 32, 18)                                                                                              \
    X(IQ4_XS, 23, 256, 136)                                                                                            \
    X(I8, 24, 1, 1)                                                                                                    \
    X(I16, 25, 1, 2)                                                                                                   \
    X(I32, 26, 1, 4)                                                                                                   \
    X(I64, 27, 1, 8)                                                                                                   \
    X(F64, 28, 1, 8)                                                                                                   \
    X(BF16, 30, 1, 2)                                                                                                  \
    X(TQ1_0, 34, 256, 54)                                                                                              \
    X(TQ2_0, 35, 256, 66)

typedef enum sala_dtype {
#define X(name, id, block, bytes) SALA_##name = id,
    SALA_DTYPE_LIST(X)
#undef X
        SALA_DTYPE_NONE = -1
} sala_dtype;

typedef struct sala_dtype_info {
    sala_dtype dtype;
    const char *name;  /* "Q4_K" */
    int block_weights; /* weights in one block; a row is a whole number of blocks */
    int block_bytes;
    bool is_quantized;
} sala_dtype_info;

const sala_dtype_info *sala_dtype_get(int ggml_id); /* NULL when unknown */
sala_dtype sala_dtype_by_name(const char *name);    /* any case; SALA_DTYPE_NONE when unknown */
const char *sala_dtype_name(sala_dtype dtype);      /* "?" when unknown */
/* Bytes of n weights, n a multiple of the block; 0 when it is not or overflows. */
uint64_t sala_dtype_bytes(sala_dtype dtype, int64_t n);

/* ---- block layouts, as they lie in files; all fields little endian, d and m are IEEE half floats ---- */

/* A matrix may begin at any address of a mapped file. */
#define SALA_UNALIGNED __attribute__((packed))

#define SALA_QK 32   /* weights of a simple block */
#define SALA_QKK 256 /* weights of a super block */

/* clang-format off */
typedef struct SALA_UNALIGNED { uint16_t d; uint8_t qs[16]; } sala_block_q4_0;
typedef struct SALA_UNALIGNED { uint16_t d, m; uint8_t qs[16]; } sala_block_q4_1;
typedef struct SALA_UNALIGNED { uint16_t d; uint8_t qh[4]; uint8_t qs[16]; } sala_block_q5_0;
typedef struct SALA_UNALIGNED { uint16_t d, m; uint8_t qh[4]; uint8_t qs[16]; } sala_block_q5_1;
typedef struct SALA_UNALIGNED { uint16_t d; int8_t qs[32]; } sala_block_q8_0;
typedef struct SALA_UNALIGNED { uint8_t scales[16]; uint8_t qs[64]; uint16_t d, dmin; } sala_block_q2_k;
typedef struct SALA_UNALIGNED { uint8_t hmask[32]; uint8_t qs[64]; uint8_t scales[12]; uint16_t d; } sala_block_q3_k;
typedef struct SALA_UNALIGNED { uint16_t d, dmin; uint8_t scales[12]; uint8_t qs[128]; } sala_block_q4_k;
typedef struct SALA_UNALIGNED { uint16_t d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; } sala_block_q5_k;
typedef struct SALA_UNALIGNED { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; uint16_t d; } sala_block_q6_k;
typedef struct SALA_UNALIGNED { uint16_t d; uint8_t qs[16]; } sala_block_iq4_nl;
typedef struct SALA_UNALIGNED { uint16_t d, scales_h; uint8_t scales_l[4]; uint8_t qs[128]; } sala_block_iq4_xs;
typedef struct SALA_UNALIGNED { uint8_t qs[48]; uint8_t qh[4]; uint16_t d; } sala_block_tq1_0;
typedef struct SALA_UNALIGNED { uint8_t qs[64]; uint16_t d; } sala_block_tq2_0;
/* clang-format on */

/* The sixteen values that a 4-bit code of IQ4_NL and IQ4_XS stands for. */
extern const int8_t sala_iq4_values[16];

/* ---- 16-bit floats ---- */

static inline float sala_bf16_to_f32(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t sala_f32_to_bf16(float f) /* nearest even; NaN stays a quiet NaN */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 64);
    return (uint16_t)((u + (0x7fffu + ((u >> 16) & 1))) >> 16);
}

static inline float sala_f16_to_f32(uint16_t h)
{
    /* Scale the shifted bits by 2^112: this makes subnormals right without a branch; infinities need one. */
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t u = (uint32_t)(h & 0x7fff) << 13;
    float f;
    if (u >= 0x0f800000u) { /* infinity or NaN */
        u |= 0x7f800000u | sign;
        memcpy(&f, &u, 4);
        return f;
    }
    memcpy(&f, &u, 4);
    f *= 0x1p112f;
    memcpy(&u, &f, 4);
    u |= sign;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t sala_f32_to_f16(float f) /* nearest even; too large becomes infinity */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000u) { /* subnormal half: let the float adder round at 2^-24 */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f;
        uint32_t v;
        memcpy(&v, &a, 4);
        return (uint16_t)(sign | (v - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

#endif
