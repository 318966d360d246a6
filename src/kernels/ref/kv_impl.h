/* The reference of key and value caches: storing, reading, attention. Included by ref_impl.h. */
#ifndef SALA_KERNELS_REF_KV_IMPL_H
#define SALA_KERNELS_REF_KV_IMPL_H

#include <float.h>

#define NOT_A_NUMBER_F16 0x7e00

/* Nearest even for |x| < 2^22, without a call that old machines make of rintf. */
static inline float round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static inline bool is_finite(float x)
{
    return x <= FLT_MAX && x >= -FLT_MAX;
}

static uint16_t quantise_q8(int8_t *codes, const float *x, int n)
{
    float top = 0;
    bool finite = true;
    for (int i = 0; i < n; i++) {
        const float a = x[i] < 0 ? -x[i] : x[i];
        finite &= is_finite(a);
        top = a > top ? a : top;
    }
    const uint16_t half = sala_f32_to_f16(top / 127.0f);
    const float scale = sala_f16_to_f32(half);
    memset(codes, 0, (size_t)n);
    if (!finite || !is_finite(scale))
        return NOT_A_NUMBER_F16;
    if (scale > 0) {
        for (int i = 0; i < n; i++) {
            float c = x[i] / scale;
            c = c < -127.0f ? -127.0f : c > 127.0f ? 127.0f : c;
            codes[i] = (int8_t)round_even(c);
        }
    }
    return half;
}

/* Of 32 numbers, halves first: x[i] + x[i + 16], then + 8 and so on. Destroys them. */
static float sum_of_halves(float *x)
{
    for (int h = SALA_KV_GROUP / 2; h > 0; h /= 2)
        for (int i = 0; i < h; i++)
            x[i] += x[i + h];
    return x[0];
}

static float code_q4(float x, float min, float scale)
{
    const float c = scale > 0 ? (x - min) / scale : 0.0f;
    return round_even(c < 0.0f ? 0.0f : c > 15.0f ? 15.0f : c);
}

/* The line min + scale * code that is nearest to x for the codes that it has with the line as it was. */
static void fit_q4(float *min, float *scale, const float *x, int n)
{
    float plain[SALA_KV_GROUP] = {0}, product[SALA_KV_GROUP] = {0}, codes = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        const float c = code_q4(x[i], *min, *scale);
        codes += c;
        squares += c * c;
        plain[i] = x[i];
        product[i] = x[i] * c;
    }
    const float spread = (float)n * squares - codes * codes;
    if (!(spread > 0))
        return;
    const float sum = sum_of_halves(plain);
    *scale = ((float)n * sum_of_halves(product) - codes * sum) / spread;
    *min = (sum - *scale * codes) / (float)n;
}

static uint16_t quantise_q4(uint8_t *codes, const float *x, int n, uint16_t *minimum)
{
    float low = x[0], high = x[0];
    bool finite = true;
    for (int i = 0; i < n; i++) {
        finite &= is_finite(x[i]);
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float scale = (high - low) / 15.0f;
    for (int i = 0; i < SALA_KV_FITS; i++)
        fit_q4(&low, &scale, x, n);
    *minimum = sala_f32_to_f16(low + 0.0f); /* of two zeros the positive one */
    const uint16_t half = sala_f32_to_f16(scale > 0 ? scale : 0.0f);
    low = sala_f16_to_f32(*minimum);
    scale = sala_f16_to_f32(half);
    memset(codes, 0, (size_t)n);
    if (!finite || !is_finite(low) || !is_finite(scale)) {
        *minimum = NOT_A_NUMBER_F16;
        return NOT_A_NUMBER_F16;
    }
    for (int i = 0; i < n; i++)
        codes[i] = (uint8_t)code_q4(x[i], low, scale);
    return half;
}

static inline void turn_group(float *x, int m);

#include "kernels/kv_store_impl.h"

static inline void turn_group(float *x, int m)
{
    turn_many(x, m, 1);
}

static void load_keys_f32(float *out, const void *k, int d)
{
    memcpy(out, k, (size_t)SALA_KV_BLOCK * (size_t)d * sizeof(float));
}

static void load_values_f32(float *out, const void *v, int n, int d)
{
    memcpy(out, v, (size_t)n * (size_t)d * sizeof(float));
}

static void load_keys_f16(float *out, const void *k, int d)
{
    f16_to_f32(out, k, (int64_t)SALA_KV_BLOCK * d);
}

static void load_values_f16(float *out, const void *v, int n, int d)
{
    f16_to_f32(out, v, (int64_t)n * d);
}

static void load_keys_q8(float *out, const void *k, int d)
{
    const int8_t *codes = k;
    const uint16_t *scales = (const uint16_t *)(const void *)(codes + SALA_KV_BLOCK * sala_kv_code_bytes(SALA_Q8_0, d));
    EACH_GROUP(d)
    {
        float scale[SALA_KV_BLOCK];
        f16_to_f32(scale, scales + g * SALA_KV_BLOCK, SALA_KV_BLOCK);
        for (int c = c0; c < c0 + m; c++)
            for (int j = 0; j < SALA_KV_BLOCK; j++)
                out[c * SALA_KV_BLOCK + j] = (float)codes[sala_kv_key_at(c, j)] * scale[j];
    }
}

static void load_values_q8(float *out, const void *v, int n, int d)
{
    const int8_t *codes = v;
    const int row = sala_kv_code_bytes(SALA_Q8_0, d);
    const uint16_t *scales = (const uint16_t *)(const void *)(codes + SALA_KV_BLOCK * row);
    for (int j = 0; j < n; j++) {
        EACH_GROUP(d)
        {
            const float scale = sala_f16_to_f32(scales[g * SALA_KV_BLOCK + j]);
            for (int c = c0; c < c0 + m; c++)
                out[(int64_t)j * d + c] = (float)codes[sala_kv_value_at(c, j, row)] * scale;
        }
    }
}

static inline float nibble(uint8_t byte, int c)
{
    return (float)(c % SALA_KV_GROUP < SALA_KV_GROUP / 2 ? byte & 15 : byte >> 4);
}

/* As they are stored: turned. */
static void load_turned_keys(float *out, const void *k, int d)
{
    const uint8_t *codes = k;
    const size_t codes_bytes = (size_t)SALA_KV_BLOCK * (size_t)sala_kv_code_bytes(SALA_Q4_1, d);
    const uint16_t *scales = (const uint16_t *)(const void *)(codes + codes_bytes);
    const uint16_t *minima = scales + sala_kv_groups(d) * SALA_KV_BLOCK;
    EACH_GROUP(d)
    {
        float scale[SALA_KV_BLOCK], min[SALA_KV_BLOCK];
        f16_to_f32(scale, scales + g * SALA_KV_BLOCK, SALA_KV_BLOCK);
        f16_to_f32(min, minima + g * SALA_KV_BLOCK, SALA_KV_BLOCK);
        for (int c = c0; c < c0 + m; c++) {
            const int i = c0 / 2 + c % (SALA_KV_GROUP / 2);
            for (int j = 0; j < SALA_KV_BLOCK; j++)
                out[c * SALA_KV_BLOCK + j] = nibble(codes[sala_kv_key_at(i, j)], c) * scale[j] + min[j];
        }
    }
}

static void load_keys_q4(float *out, const void *k, int d)
{
    load_turned_keys(out, k, d);
    turn_block(out, d);
}

static void load_values_q4(float *out, const void *v, int n, int d)
{
    const uint8_t *codes = v;
    const int row = sala_kv_code_bytes(SALA_Q4_1, d), n_groups = sala_kv_groups(d);
    const uint16_t *scales = (const uint16_t *)(const void *)(codes + (size_t)SALA_KV_BLOCK * (size_t)row);
    const uint16_t *minima = scales + SALA_KV_BLOCK * n_groups;
    for (int j = 0; j < n; j++) {
        EACH_GROUP(d)
        {
            const float scale = sala_f16_to_f32(scales[g * SALA_KV_BLOCK + j]);
            const float min = sala_f16_to_f32(minima[g * SALA_KV_BLOCK + j]);
            for (int c = 0; c < m; c++) {
                const int i = c0 / 2 + c % (SALA_KV_GROUP / 2);
                out[(int64_t)j * d + c0 + c] = nibble(codes[sala_kv_value_at(i, j, row)], c) * scale + min;
            }
        }
    }
}

/* Scores are made one lane per key, components in order; the values are added key by key. Neither order depends on the
 * number of queries. */
static inline __attribute__((always_inline)) void
attn_block(float *acc, float *m, float *l, const float *q, const void *k, const void *v, int n_q, int d,
           const int32_t *n_visible, float *scratch, void (*load_keys)(float *, const void *, int),
           void (*load_values)(float *, const void *, int, int), const bool turned)
{
    float *p = scratch, *kv = scratch + (size_t)n_q * SALA_KV_BLOCK, *tq = kv + (size_t)SALA_KV_BLOCK * (size_t)d;
    int n_max = 0;
    for (int i = 0; i < n_q; i++)
        n_max = n_visible[i] > n_max ? n_visible[i] : n_max;
    if (n_max == 0)
        return;
    if (turned) {
        turn_queries(tq, q, n_q, d);
        q = tq;
    }
    load_keys(kv, k, d);
    for (int c = 0; c < d; c++)
        for (int j = n_max; j < SALA_KV_BLOCK; j++)
            kv[c * SALA_KV_BLOCK + j] = 0;
    for (int i = 0; i < n_q; i++) {
        if (n_visible[i] == 0)
            continue;
        float s[SALA_KV_BLOCK] = {0};
        for (int c = 0; c < d; c++) {
            const float qc = q[(size_t)i * (size_t)d + (size_t)c];
            for (int j = 0; j < SALA_KV_BLOCK; j++)
                s[j] += qc * kv[c * SALA_KV_BLOCK + j];
        }
        float top = m[i];
        for (int j = 0; j < n_visible[i]; j++)
            top = s[j] > top ? s[j] : top;
        float *pi = p + (size_t)i * SALA_KV_BLOCK, sum = 0;
        for (int j = 0; j < SALA_KV_BLOCK; j++)
            pi[j] = (float)sala_ref_exp((double)s[j] - (double)top);
        for (int j = 0; j < n_visible[i]; j++)
            sum += pi[j];
        const float keep = (float)sala_ref_exp((double)m[i] - (double)top);
        l[i] = l[i] * keep + sum;
        m[i] = top;
        for (int c = 0; c < d; c++)
            acc[(size_t)i * (size_t)d + (size_t)c] *= keep;
    }
    load_values(kv, v, n_max, d);
    for (int i = 0; i < n_q; i++) {
        float *a = acc + (size_t)i * (size_t)d;
        for (int j = 0; j < n_visible[i]; j++) {
            const float w = p[(size_t)i * SALA_KV_BLOCK + (size_t)j];
            for (int c = 0; c < d; c++)
                a[c] += w * kv[j * d + c];
        }
    }
}

#define X(type, keys, turned)                                                                                          \
    static void attn_block_##type(float *acc, float *m, float *l, const float *q, const void *k, const void *v,        \
                                  int n_q, int d, const int32_t *n_visible, float *scratch, const void *next)          \
    {                                                                                                                  \
        (void)next;                                                                                                    \
        attn_block(acc, m, l, q, k, v, n_q, d, n_visible, scratch, keys, load_values_##type, turned);                  \
    }                                                                                                                  \
    static const sala_kv_kernels kv_##type = {                                                                         \
        attn_block_##type, store_##type, load_keys_##type, load_values_##type, NULL, 0, 0};
X(f32, load_keys_f32, false)
X(f16, load_keys_f16, false)
X(q8, load_keys_q8, false)
X(q4, load_turned_keys, true)
#undef X

static void fill_kv(sala_kernels *out)
{
    out->kv[SALA_KV_AS_F32] = kv_f32;
    out->kv[SALA_KV_AS_F16] = kv_f16;
    out->kv[SALA_KV_AS_Q8_0] = kv_q8;
    out->kv[SALA_KV_AS_Q4_1] = kv_q4;
}

#endif
