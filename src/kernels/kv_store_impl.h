/* Storing keys and values in blocks (tensor/kv_block.h): where things go. Included by each family's kv_impl.h, which
 * has defined how they are rounded: f32_to_f16(out, x, n) quantise_q8(codes, x, n): one group; returns its scale, as
 * f16 quantise_q4(codes, x, n, &minimum): one group, a code per byte; returns its scale Keys change from token by token
 * to component by component in a tile of one group, which stays in the first cache. */
#ifndef SALA_KERNELS_KV_STORE_IMPL_H
#define SALA_KERNELS_KV_STORE_IMPL_H

/* for each group: its number g, its first component c0 and its number of components m */
#define EACH_GROUP(d)                                                                                                  \
    for (int c0 = 0, g = 0, m; m = (d)-c0 < SALA_KV_GROUP ? (d)-c0 : SALA_KV_GROUP, c0 < (d); c0 += SALA_KV_GROUP, g++)

/* Component c of a group of m is in byte `c % 16` of the group's; bytes of such a group. */
static inline int nibble_bytes(int m)
{
    return m < SALA_KV_GROUP / 2 ? m : SALA_KV_GROUP / 2;
}

/* Components of a group of m that are turned. */
static inline int turned_part(int m)
{
    int n = 1;
    while (2 * n <= m)
        n *= 2;
    return n;
}

/* turn_group() of `lanes` groups at once: component c of all of them at x + c * lanes. */
static inline void turn_many(float *x, int m, const int lanes)
{
    const int n = turned_part(m);
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i += 2 * h)
            for (int j = i * lanes; j < (i + h) * lanes; j++) {
                const float a = x[j], b = x[j + h * lanes];
                x[j] = a + b;
                x[j + h * lanes] = a - b;
            }
    const float scale = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n * lanes; i++)
        x[i] *= scale;
}

static inline void turn_queries(float *out, const float *q, int n_q, int d)
{
    memcpy(out, q, (size_t)n_q * (size_t)d * sizeof *q);
    for (int i = 0; i < n_q; i++, out += d) {
        EACH_GROUP(d)
        {
            turn_group(out + c0, m);
        }
    }
}

/* Keys as floats, [d][SALA_KV_BLOCK]. */
static inline void turn_block(float *keys, int d)
{
    EACH_GROUP(d)
    {
        turn_many(keys + c0 * SALA_KV_BLOCK, m, SALA_KV_BLOCK);
    }
}

static void store_f32(void *k, void *v, int slot, int n, const float *keys, const float *values, int64_t stride, int d)
{
    float tile[SALA_KV_BLOCK][SALA_KV_GROUP];
    EACH_GROUP(d)
    {
        for (int t = 0; t < n; t++)
            memcpy(tile[t], keys + t * stride + c0, (size_t)m * sizeof(float));
        for (int c = 0; c < m; c++) {
            float *to = (float *)k + (c0 + c) * SALA_KV_BLOCK + slot;
            for (int t = 0; t < n; t++)
                to[t] = tile[t][c];
        }
    }
    for (int t = 0; t < n; t++)
        memcpy((float *)v + (int64_t)(slot + t) * d, values + t * stride, (size_t)d * sizeof(float));
}

static void store_f16(void *k, void *v, int slot, int n, const float *keys, const float *values, int64_t stride, int d)
{
    uint16_t tile[SALA_KV_BLOCK][SALA_KV_GROUP];
    EACH_GROUP(d)
    {
        for (int t = 0; t < n; t++)
            f32_to_f16(tile[t], keys + t * stride + c0, m);
        for (int c = 0; c < m; c++) {
            uint16_t *to = (uint16_t *)k + (c0 + c) * SALA_KV_BLOCK + slot;
            for (int t = 0; t < n; t++)
                to[t] = tile[t][c];
        }
    }
    for (int t = 0; t < n; t++)
        f32_to_f16((uint16_t *)v + (int64_t)(slot + t) * d, values + t * stride, d);
}

/* Groups of a quantised type lie at whole words: the last one may have up to 3 bytes that belong to no component. */
static inline int padded_bytes(int n)
{
    return (n + 3) / 4 * 4;
}

/* The n codes of a group of a token, n a multiple of 4, from byte i on. */
static inline void put_key_codes(uint8_t *to, const uint8_t *codes, int i, int token, int n)
{
    for (int c = 0; c < n; c += 4)
        memcpy(to + sala_kv_key_at(i + c, token), codes + c, 4);
}

static inline void put_value_codes(uint8_t *to, const uint8_t *codes, int i, int token, int n, int code_bytes)
{
    to += sala_kv_value_at(i, token, code_bytes);
    for (int c = 0; c < n; c++)
        to[4 * c] = codes[c];
}

static void store_q8(void *k, void *v, int slot, int n, const float *keys, const float *values, int64_t stride, int d)
{
    const int row = sala_kv_code_bytes(SALA_Q8_0, d);
    const size_t codes_bytes = (size_t)SALA_KV_BLOCK * (size_t)row;
    uint16_t *k_scale = (uint16_t *)(void *)((uint8_t *)k + codes_bytes);
    uint16_t *v_scale = (uint16_t *)(void *)((uint8_t *)v + codes_bytes);
    uint8_t codes[SALA_KV_GROUP];
    EACH_GROUP(d)
    {
        memset(codes + m, 0, (size_t)(SALA_KV_GROUP - m));
        for (int t = 0; t < n; t++) {
            const int at = g * SALA_KV_BLOCK + slot + t;
            k_scale[at] = quantise_q8((int8_t *)codes, keys + t * stride + c0, m);
            put_key_codes(k, codes, c0, slot + t, padded_bytes(m));
            v_scale[at] = quantise_q8((int8_t *)codes, values + t * stride + c0, m);
            put_value_codes(v, codes, c0, slot + t, padded_bytes(m), row);
        }
    }
}

/* Two codes of a byte; the components that a short group lacks are 0. */
static inline void join_nibbles(uint8_t *bytes, const uint8_t *codes)
{
    for (int i = 0; i < SALA_KV_GROUP / 2; i++)
        bytes[i] = (uint8_t)(codes[i] | codes[i + SALA_KV_GROUP / 2] << 4);
}

static void store_q4(void *k, void *v, int slot, int n, const float *keys, const float *values, int64_t stride, int d)
{
    const int n_groups = sala_kv_groups(d), row = sala_kv_code_bytes(SALA_Q4_1, d);
    const size_t codes_bytes = (size_t)SALA_KV_BLOCK * (size_t)row;
    uint16_t *k_scale = (uint16_t *)(void *)((uint8_t *)k + codes_bytes), *k_min = k_scale + n_groups * SALA_KV_BLOCK;
    uint16_t *v_scale = (uint16_t *)(void *)((uint8_t *)v + codes_bytes), *v_min = v_scale + n_groups * SALA_KV_BLOCK;
    uint8_t codes[SALA_KV_GROUP], bytes[SALA_KV_GROUP / 2];
    float turned[SALA_KV_GROUP];
    EACH_GROUP(d)
    {
        const int n_bytes = padded_bytes(nibble_bytes(m));
        memset(codes + m, 0, (size_t)(SALA_KV_GROUP - m));
        for (int t = 0; t < n; t++) {
            const int at = g * SALA_KV_BLOCK + slot + t;
            memcpy(turned, keys + t * stride + c0, (size_t)m * sizeof(float));
            turn_group(turned, m);
            k_scale[at] = quantise_q4(codes, turned, m, k_min + at);
            join_nibbles(bytes, codes);
            put_key_codes(k, bytes, c0 / 2, slot + t, n_bytes);
            v_scale[at] = quantise_q4(codes, values + t * stride + c0, m, v_min + at);
            join_nibbles(bytes, codes);
            put_value_codes(v, bytes, c0 / 2, slot + t, n_bytes, row);
        }
    }
}

#endif
