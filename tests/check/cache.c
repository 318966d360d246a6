/* Blocks of keys and values: what `store` writes, against the definition in tensor/kv_block.h, written down here once
 * more; what the load functions read; and with --bench how much of attention's result each type of cache costs. */
#include "check/check.h"
#include "check/kv_query.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const check_cache_type check_cache_types[SALA_N_KV_KERNELS] = {
    {"f32", SALA_F32}, {"f16", SALA_F16}, {"q8_0", SALA_Q8_0}, {"q4", SALA_Q4_1}};

static uint16_t half_at(const uint8_t *p, int64_t i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof h);
    return h;
}

/* Where the parts of a number lie; offsets in bytes, -1: there is no such part. */
typedef struct parts {
    int64_t code, scale, minimum;
    bool high;
} parts;

static parts find(sala_dtype t, bool is_key, int d, int token, int c)
{
    const int groups = (d + 31) / 32, g = c / 32;
    if (t == SALA_F32 || t == SALA_F16)
        return (parts){(t == SALA_F32 ? 4 : 2) * (is_key ? c * 64 + token : token * d + c), -1, -1, false};
    int byte = c, bytes = d;
    if (t == SALA_Q4_1) {
        byte = g * 16 + c % 16;
        bytes = d / 32 * 16 + (d % 32 < 16 ? d % 32 : 16);
    }
    bytes = (bytes + 3) / 4 * 4;
    const int64_t at = is_key ? byte / 4 * 256 + token * 4 + byte % 4 : token % 16 * bytes * 4 + byte * 4 + token / 16;
    const int64_t scale = 64 * bytes + 2 * (g * 64 + token);
    return (parts){at, scale, t == SALA_Q4_1 ? scale + 128 * groups : -1, t == SALA_Q4_1 && c % 32 >= 16};
}

float check_cached(sala_dtype t, const void *head, bool is_key, int d, int token, int c)
{
    const uint8_t *p = head;
    const parts at = find(t, is_key, d, token, c);
    if (t == SALA_F32) {
        float f;
        memcpy(&f, p + at.code, sizeof f);
        return f;
    }
    if (t == SALA_F16)
        return sala_f16_to_f32(half_at(p + at.code, 0));
    const float scale = sala_f16_to_f32(half_at(p + at.scale, 0));
    if (t == SALA_Q8_0)
        return scale * (float)(int8_t)p[at.code];
    const float product = scale * (float)(at.high ? p[at.code] >> 4 : p[at.code] & 15);
    return product + sala_f16_to_f32(half_at(p + at.minimum, 0));
}

double check_scale(sala_dtype t, const void *head, int d, int token, int c, double *code)
{
    const uint8_t *p = head;
    const parts at = find(t, false, d, token, c);
    const int byte = p[at.code];
    *code = t == SALA_Q8_0 ? (int8_t)byte : at.high ? byte >> 4 : byte & 15;
    return (double)sala_f16_to_f32(half_at(p + at.scale, 0));
}

void check_cache_set(sala_dtype t, void *head, bool is_key, int d, int token, int c, float x)
{
    uint8_t *p = head;
    const parts at = find(t, is_key, d, token, c);
    const uint16_t h = sala_f32_to_f16(t == SALA_Q8_0 ? fabsf(x) / 127 : t == SALA_Q4_1 ? fabsf(x) / 7.5f : x);
    if (t == SALA_F32)
        memcpy(p + at.code, &x, sizeof x);
    else
        memcpy(p + (t == SALA_F16 ? at.code : at.scale), &h, sizeof h);
    if (t == SALA_Q8_0)
        p[at.code] = (uint8_t)(c * 37 + token * 11);
    if (t == SALA_Q4_1) {
        const uint16_t low = sala_f32_to_f16(-fabsf(x));
        memcpy(p + at.minimum, &low, sizeof low);
        p[at.code] = (uint8_t)(c * 37 + token * 11);
    }
}

/* ---- storing ---- */

static float sum_by_halves(const float *x, int n, int from, int step)
{
    if (step == SALA_KV_GROUP)
        return from < n ? x[from] : 0;
    return sum_by_halves(x, n, from, 2 * step) + sum_by_halves(x, n, from + step, 2 * step);
}

/* One step of least squares: the best line for the codes that the line gives. */
static void expect_fit(float *min, float *scale, const float *x, int n)
{
    float product[SALA_KV_GROUP];
    int codes = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        const float code = *scale > 0 ? fminf(15, fmaxf(0, nearbyintf((x[i] - *min) / *scale))) : 0;
        codes += (int)code;
        squares += (int)(code * code);
        product[i] = x[i] * code;
    }
    const int spread = n * squares - codes * codes;
    if (spread <= 0)
        return;
    const float sum = sum_by_halves(x, n, 0, 1), of_codes = (float)codes * sum;
    const float all = (float)n * sum_by_halves(product, n, 0, 1);
    *scale = (all - of_codes) / (float)spread;
    const float part = *scale * (float)codes;
    *min = (sum - part) / (float)n;
}

/* The group of a token as the definition has it: bit for bit what must be stored, given back as numbers. */
static void expect_group(sala_dtype t, bool is_key, float *out, const float *from, int n)
{
    float x[SALA_KV_GROUP];
    memcpy(x, from, (size_t)n * sizeof *x);
    if (t == SALA_Q4_1 && is_key)
        kv_turn_f32(x, n);
    float top = 0, low = INFINITY, high = -INFINITY;
    bool bad = false;
    for (int i = 0; i < n; i++) {
        bad |= !isfinite(x[i]);
        top = fmaxf(top, fabsf(x[i]));
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    if (t == SALA_F32 || t == SALA_F16) {
        for (int i = 0; i < n; i++)
            out[i] = t == SALA_F32 ? x[i] : sala_f16_to_f32(sala_f32_to_f16(x[i]));
        return;
    }
    const bool q8 = t == SALA_Q8_0;
    float min = q8 ? 0 : low, scale = q8 ? top / 127 : (high - low) / 15;
    for (int i = 0; !q8 && i < SALA_KV_FITS; i++)
        expect_fit(&min, &scale, x, n);
    min = sala_f16_to_f32(sala_f32_to_f16(min));
    scale = sala_f16_to_f32(sala_f32_to_f16(scale < 0 ? 0 : scale));
    for (int i = 0; i < n; i++) {
        const float most = q8 ? 127 : 15, least = q8 ? -127 : 0;
        float code = scale > 0 ? nearbyintf((x[i] - min) / scale) : 0;
        code = code > most ? most : code < least ? least : code;
        out[i] = bad || !isfinite(scale) || !isfinite(min) ? NAN : code * scale + min;
    }
}

static bool same_float(float a, float b)
{
    return isnan(a) ? isnan(b) : a == b; /* of zeros the sign is free */
}

/* Numbers of many kinds: rows that are plain, tiny, subnormal, large, constant, zero or hold what is no number. */
static float *awkward_rows(check *c, int n, int64_t stride, int d)
{
    static const float special[] = {NAN,   -NAN,   INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 65504,  65520,
                                    -8e6f, 8.4e6f, 1e6f,     1e-8f,     -1e-45f, -0.0f,    1e-38f, -6e-8f};
    float *x = check_guarded((size_t)((n - 1) * stride + d) * sizeof(float));
    for (int t = 0; t < n; t++) {
        const int kind = check_below(c, 8);
        const float size = kind == 1 ? 1e-5f : kind == 2 ? 1e-7f : kind == 3 ? 3e4f : 3;
        const float offset = kind == 4 || kind == 5 ? 10 * check_uniform(c) : 0;
        for (int i = 0; i < d; i++) {
            x[t * stride + i] = kind == 5 ? offset : offset + size * check_uniform(c);
            if (kind == 6)
                x[t * stride + i] = check_below(c, 2) ? 0.0f : -0.0f;
        }
        if (kind == 7)
            x[t * stride + check_below(c, d)] = special[check_below(c, (int)SALA_CHECK_LEN(special))];
    }
    return x;
}

/* The m components from e on are a group. */
static void check_stored(check *c, sala_dtype t, bool is_key, const uint8_t *head, int d, int token, int e, int m,
                         const float *from)
{
    float want[SALA_KV_GROUP];
    expect_group(t, is_key, want, from, m);
    for (int i = 0; i < m; i++) {
        const float got = check_cached(t, head, is_key, d, token, e + i);
        if (!same_float(got, want[i]))
            check_fail(c, "d %d, %s, token %d, component %d: stored %.9g instead of %.9g", d,
                       is_key ? "keys" : "values", token, e + i, (double)got, (double)want[i]);
    }
}

static void check_untouched(check *c, sala_dtype t, bool is_key, const uint8_t *head, const uint8_t *was, int d,
                            int token, int e, int m)
{
    for (int i = 0; i < m; i++) {
        const parts at = find(t, is_key, d, token, e + i);
        if (memcmp(head + at.code, was + at.code,
                   t == SALA_F32   ? 4
                   : t == SALA_F16 ? 2
                                   : 1) != 0 ||
            (at.scale >= 0 && memcmp(head + at.scale, was + at.scale, 2) != 0) ||
            (at.minimum >= 0 && memcmp(head + at.minimum, was + at.minimum, 2) != 0))
            check_fail(c, "d %d, %s: token %d, component %d was touched", d, is_key ? "keys" : "values", token, e + i);
    }
}

static void check_loaded(check *c, sala_dtype t, bool is_key, const uint8_t *head, const float *loaded, int d,
                         int token, int e, int m)
{
    float want[SALA_KV_GROUP];
    for (int i = 0; i < m; i++)
        want[i] = check_cached(t, head, is_key, d, token, e + i);
    if (t == SALA_Q4_1 && is_key)
        kv_turn_f32(want, m);
    for (int i = 0; i < m; i++) {
        const float got = loaded[is_key ? (e + i) * SALA_KV_BLOCK + token : token * d + e + i];
        if (isnan(want[i]) ? !isnan(got) : memcmp(&want[i], &got, sizeof got) != 0)
            check_fail(c, "d %d, %s, token %d, component %d: loaded %.9g instead of %.9g", d,
                       is_key ? "keys" : "values", token, e + i, (double)got, (double)want[i]);
    }
}

static void check_store(check *c, const sala_kernels *k, const sala_kernels *ref, int as, int d, int slot, int n)
{
    const sala_dtype t = check_cache_types[as].dtype;
    const size_t bytes = sala_kv_head_bytes(t, d);
    const int64_t stride = d + (check_below(c, 2) ? 0 : 7);
    const float *rows[2] = {awkward_rows(c, n, stride, d), awkward_rows(c, n, stride, d)};
    uint8_t *got[2], *want[2], *was = check_guarded(bytes);
    for (int i = 0; i < 2; i++) {
        got[i] = check_guarded(bytes);
        want[i] = check_guarded(bytes);
    }
    for (size_t i = 0; i < bytes; i++)
        was[i] = got[0][i] = got[1][i] = want[0][i] = want[1][i] = (uint8_t)(i * 29 + 5);
    k->kv[as].store(got[0], got[1], slot, n, rows[0], rows[1], stride, d);
    ref->kv[as].store(want[0], want[1], slot, n, rows[0], rows[1], stride, d);
    float *loaded[2] = {check_guarded((size_t)d * SALA_KV_BLOCK * sizeof(float)),
                        check_guarded((size_t)(slot + n) * (size_t)d * sizeof(float))};
    k->kv[as].load_keys(loaded[0], got[0], d);
    k->kv[as].load_values(loaded[1], got[1], slot + n, d);
    for (int i = 0; i < 2; i++) {
        /* What is no number keeps its bits in a register and not in the reference's conversion to f16. */
        if (t != SALA_F16 && memcmp(got[i], want[i], bytes) != 0)
            check_fail(c, "d %d, slots %d + %d: %s are not the reference's bytes", d, slot, n, i ? "values" : "keys");
        for (int j = 0; j < SALA_KV_BLOCK; j++)
            for (int e = 0; e < d; e += SALA_KV_GROUP) {
                const int m = d - e < SALA_KV_GROUP ? d - e : SALA_KV_GROUP;
                if (j >= slot && j < slot + n)
                    check_stored(c, t, i == 0, got[i], d, j, e, m, rows[i] + (j - slot) * stride + e);
                else
                    check_untouched(c, t, i == 0, got[i], was, d, j, e, m);
                if (i == 0 || j < slot + n)
                    check_loaded(c, t, i == 0, got[i], loaded[i], d, j, e, m);
            }
    }
    check_reset();
}

/* One token at a time, in any order, leaves the same bytes as all at once. */
static void check_one_by_one(check *c, const sala_kernels *k, int as, int d)
{
    const size_t bytes = sala_kv_head_bytes(check_cache_types[as].dtype, d);
    const float *keys = awkward_rows(c, SALA_KV_BLOCK, d, d), *values = awkward_rows(c, SALA_KV_BLOCK, d, d);
    uint8_t *all[2] = {check_guarded(bytes), check_guarded(bytes)},
            *each[2] = {check_guarded(bytes), check_guarded(bytes)};
    k->kv[as].store(all[0], all[1], 0, SALA_KV_BLOCK, keys, values, d, d);
    for (int i = 0; i < SALA_KV_BLOCK; i++) {
        const int slot = i * 27 % SALA_KV_BLOCK;
        k->kv[as].store(each[0], each[1], slot, 1, keys + slot * d, values + slot * d, d, d);
    }
    if (memcmp(all[0], each[0], bytes) != 0 || memcmp(all[1], each[1], bytes) != 0)
        check_fail(c, "d %d: tokens stored one by one and together differ", d);
    check_reset();
}

/* ---- quality ---- */

static float normal(check *c)
{
    const double u = 0.5 * ((double)check_uniform(c) + 1) + 1e-12, v = (double)check_uniform(c);
    return (float)(sqrt(-2 * log(u)) * cos(3.14159265358979 * v));
}

/* Relative root mean square error of the attention output for one query per key head, 512 keys; scores of deviation 2.
 * outliers: every 16th component of all keys has an offset of 10 deviations. */
static double attention_error(check *c, const sala_kernels *ref, int as, int d, bool outliers)
{
    enum { N_Q = 16, BLOCKS = 8 };
    const uint64_t seed = c->rng;
    c->rng = 4711;
    const size_t nd = (size_t)d;
    float *rows[2], *q = malloc(N_Q * nd * sizeof *q), *out[2];
    float *scratch = malloc(SALA_ATTN_SCRATCH(N_Q, d) * sizeof *scratch);
    uint8_t *keys = malloc(sala_kv_head_bytes(SALA_F32, d)), *values = malloc(sala_kv_head_bytes(SALA_F32, d));
    int32_t visible[N_Q];
    float m[2][N_Q], l[2][N_Q] = {{0}};
    for (int i = 0; i < 2; i++) {
        rows[i] = malloc(SALA_KV_BLOCK * nd * sizeof *rows[i]);
        out[i] = calloc(N_Q * nd, sizeof *out[i]);
    }
    for (size_t i = 0; i < N_Q * nd; i++)
        q[i] = 2 / sqrtf((float)d) * normal(c);
    for (int i = 0; i < N_Q; i++) {
        m[0][i] = m[1][i] = -INFINITY;
        visible[i] = SALA_KV_BLOCK;
    }
    for (int b = 0; b < BLOCKS; b++) {
        for (size_t i = 0; i < SALA_KV_BLOCK * nd; i++) {
            rows[0][i] = normal(c) + (outliers && i % nd % 16 == 5 ? 10.0f : 0);
            rows[1][i] = normal(c);
        }
        for (int i = 0; i < 2; i++) {
            const sala_kv_kernels *kv = &ref->kv[i ? as : SALA_KV_AS_F32];
            kv->store(keys, values, 0, SALA_KV_BLOCK, rows[0], rows[1], d, d);
            assert(!kv->prepare); /* the reference takes queries as they are */
            kv->attn_block(out[i], m[i], l[i], q, keys, values, N_Q, d, visible, scratch, NULL);
        }
    }
    double error = 0, size = 0;
    for (size_t i = 0; i < N_Q * nd; i++) {
        const double a = (double)out[0][i] / (double)l[0][i / nd], e = (double)out[1][i] / (double)l[1][i / nd] - a;
        error += e * e;
        size += a * a;
    }
    for (int i = 0; i < 2; i++) {
        free(rows[i]);
        free(out[i]);
    }
    free(q);
    free(scratch);
    free(keys);
    free(values);
    c->rng = seed;
    return sqrt(error / size);
}

static void quality(check *c)
{
    /* Three times what was measured when this was written: an error of the layout is far above. */
    static const double bounds[SALA_N_KV_KERNELS][2] = {{0, 0}, {1.5e-3, 4.5e-3}, {3e-2, 1.6e-1}, {0.5, 1.1}};
    sala_kernels ref;
    sala_kernels_get(&ref, "ref", c->cpu);
    for (int as = 0; as < SALA_N_KV_KERNELS; as++) {
        if (c->bench)
            printf("%-24s %-5s error of attention's output:", c->name, check_cache_types[as].name);
        for (int outliers = 0; outliers < 2; outliers++) {
            for (int d = 64; d <= 128; d += 64) {
                const double e = attention_error(c, &ref, as, d, outliers);
                if (c->bench)
                    printf("  d %3d, %s keys %.2e", d, outliers ? "outlier" : "normal", e);
                if (!(e <= bounds[as][outliers]))
                    check_fail(c, "%s, d %d, %s keys: attention is off by %g", check_cache_types[as].name, d,
                               outliers ? "outlier" : "normal", e);
            }
        }
        if (c->bench)
            printf("\n");
    }
}

/* ---- speed ---- */

typedef struct timing {
    const sala_kv_kernels *kv;
    void *k, *v;
    const float *rows;
    int slot, n, d;
} timing;

static void run_timing(void *user)
{
    const timing *t = user;
    t->kv->store(t->k, t->v, t->slot, t->n, t->rows, t->rows + t->d, 2 * t->d, t->d);
}

static void bench(check *c, const sala_kernels *k, int as)
{
    const int d = 128;
    timing t = {.kv = &k->kv[as], .d = d};
    const size_t bytes = sala_kv_head_bytes(check_cache_types[as].dtype, d);
    float *rows = check_guarded((size_t)(SALA_KV_BLOCK * 2 * d) * sizeof(float));
    for (int i = 0; i < SALA_KV_BLOCK * 2 * d; i++)
        rows[i] = check_uniform(c);
    t.k = check_guarded(bytes);
    t.v = check_guarded(bytes);
    t.rows = rows;
    printf("%-24s d %d, tokens/us:", c->name, d);
    for (t.n = 1; t.n <= SALA_KV_BLOCK; t.n *= 64)
        printf("  %d at a time %.2f", t.n, t.n * 1e-6 / check_time(run_timing, &t));
    printf("\n");
    check_reset();
}

void check_cache(check *c)
{
    static const int d[] = {1, 2, 5, 15, 16, 17, 31, 32, 33, 48, 64, 80, 96, 128, 200, 256};
    sala_kernels ref;
    sala_kernels_get(&ref, "ref", 0);
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        for (int as = 0; as < SALA_N_KV_KERNELS; as++) {
            sala_kernels k;
            char what[32];
            snprintf(what, sizeof what, "cache_%s", check_cache_types[as].name);
            if (!check_begin_family(c, &k, what, *f))
                continue;
            if (c->bench) {
                bench(c, &k, as);
            } else {
                for (size_t i = 0; i < SALA_CHECK_LEN(d); i++) {
                    for (int j = 0; j < 4; j++) {
                        const int slot = j == 0 ? 0 : check_below(c, SALA_KV_BLOCK);
                        const int n = j == 0 ? SALA_KV_BLOCK : 1 + check_below(c, SALA_KV_BLOCK - slot);
                        check_store(c, &k, &ref, as, d[i], slot, n);
                    }
                    check_one_by_one(c, &k, as, d[i]);
                }
            }
            check_end(c);
        }
    }
    if (check_begin(c, "cache_quality", 0)) {
        quality(c);
        check_end(c);
    }
}
