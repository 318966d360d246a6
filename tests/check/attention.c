/* Attention over blocks of keys: several blocks in a row against the softmax in double.
 *
 * Bound of one output: scores are off by (d + 9) eps sum |q k|, which is a relative error of the weights (7 of it where
 * queries are turned); the sums of weights and of weighted values add their number of eps; all of it relative to the
 * weighted sum of |v|. Where codes are multiplied as integers, queries are rounded, here too, and weights are off by
 * half of a step, added up. */
#include "check/check.h"
#include "check/kv_query.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_Q 64

typedef struct problem {
    const sala_kernels *k;
    int as; /* type of cache */
    sala_dtype dtype;
    size_t head_bytes;
    int n_q, d, n_blocks;
    float *q, *prepared, *acc, *m, *l, *scratch;
    uint8_t *keys, *values;
    int32_t visible[8][MAX_Q];
} problem;

static void run(problem *p)
{
    for (int i = 0; i < p->n_q; i++) {
        p->m[i] = -INFINITY;
        p->l[i] = 0;
    }
    memset(p->acc, 0, (size_t)(p->n_q * p->d) * sizeof(float));
    const sala_kv_kernels *kv = &p->k->kv[p->as];
    if (kv->prepare)
        kv->prepare(p->prepared, p->q, p->n_q, p->d);
    for (int b = 0; b < p->n_blocks; b++) {
        const size_t at = (size_t)b * p->head_bytes;
        kv->attn_block(p->acc, p->m, p->l, kv->prepare ? p->prepared : p->q, p->keys + at, p->values + at, p->n_q, p->d,
                       p->visible[b], p->scratch, b + 1 < p->n_blocks ? p->keys + at + p->head_bytes : NULL);
    }
}

static float cached(const problem *p, bool is_key, int token, int component)
{
    const uint8_t *head = (is_key ? p->keys : p->values) + (size_t)(token / SALA_KV_BLOCK) * p->head_bytes;
    return check_cached(p->dtype, head, is_key, p->d, token % SALA_KV_BLOCK, component);
}

static problem make(check *c, const sala_kernels *k, int as, int n_q, int d, int n_blocks)
{
    const sala_dtype dtype = check_cache_types[as].dtype;
    problem p = {.k = k, .as = as, .dtype = dtype, .n_q = n_q, .d = d, .n_blocks = n_blocks};
    p.head_bytes = sala_kv_head_bytes(dtype, d);
    const size_t nq = (size_t)n_q, nd = (size_t)d, n_cached = (size_t)n_blocks * p.head_bytes;
    p.q = check_guarded(nq * nd * sizeof(float));
    p.prepared = check_guarded(nq * SALA_ATTN_QUERY(d) * sizeof(float));
    p.acc = check_guarded(nq * nd * sizeof(float));
    p.m = check_guarded(nq * sizeof(float));
    p.l = check_guarded(nq * sizeof(float));
    p.scratch = check_guarded(SALA_ATTN_SCRATCH(n_q, d) * sizeof(float));
    p.keys = check_guarded(n_cached);
    p.values = check_guarded(n_cached);
    const float size = 12.0f / sqrtf((float)d); /* scores up to about 10 */
    for (size_t i = 0; i < nq * nd; i++)
        p.q[i] = size * check_uniform(c);
    for (int b = 0; b < n_blocks; b++)
        for (int j = 0; j < SALA_KV_BLOCK; j++)
            for (int e = 0; e < d; e++) {
                const size_t at = (size_t)b * p.head_bytes;
                check_cache_set(dtype, p.keys + at, true, d, j, e, 2 * check_uniform(c));
                check_cache_set(dtype, p.values + at, false, d, j, e, check_uniform(c));
            }
    return p;
}

/* Keys and values that no query sees become not-a-number: they must not matter. */
static void poison(problem *p)
{
    for (int b = 0; b < p->n_blocks; b++) {
        int most = 0;
        for (int i = 0; i < p->n_q; i++)
            most = p->visible[b][i] > most ? p->visible[b][i] : most;
        for (int j = most; j < SALA_KV_BLOCK; j++)
            for (int e = 0; e < p->d; e++) {
                check_cache_set(p->dtype, p->keys + (size_t)b * p->head_bytes, true, p->d, j, e, NAN);
                check_cache_set(p->dtype, p->values + (size_t)b * p->head_bytes, false, p->d, j, e, NAN);
            }
    }
}

/* A query as it meets the keys, and what the rounding of each component is relative to. */
static void query_of(double *q, double *size, const problem *p, int i)
{
    const bool turned = p->dtype == SALA_Q4_1;
    for (int c0 = 0; c0 < p->d; c0 += SALA_KV_GROUP) {
        const int n = p->d - c0 < SALA_KV_GROUP ? p->d - c0 : SALA_KV_GROUP;
        const float *from = p->q + i * p->d + c0;
        double sum = 0;
        for (int e = 0; e < n; e++)
            sum += fabs((double)from[e]);
        for (int e = 0; e < n; e++)
            size[c0 + e] = turned ? sum : fabs((double)from[e]);
        kv_query_group(q + c0, from, n, turned, p->k->kv[p->as].query_steps);
    }
}

/* How far the sum over keys of exp(score - top) * value is off because weights are rounded: in each block by half a
 * step, for every code. Minima take no part in that. */
static double weights_off(const problem *p, int i, int e, const double *score, double top)
{
    const int steps = kv_weight_steps(&p->k->kv[p->as]);
    double off = 0;
    for (int b = 0; b < p->n_blocks && steps; b++) {
        const uint8_t *head = p->values + (size_t)b * p->head_bytes;
        double most = -INFINITY, scale = 0, codes = 0;
        for (int j = 0; j < p->visible[b][i]; j++) {
            double code;
            const double by = check_scale(p->dtype, head, p->d, j, e, &code);
            most = fmax(most, score[b * SALA_KV_BLOCK + j]);
            scale = fmax(scale, by);
            codes += p->dtype == SALA_Q4_1 ? fmax(code, 8 - code) : fabs(code); /* from 0 or from the middle */
        }
        if (p->visible[b][i] > 0)
            off += exp(most - top) * scale / (2 * steps) * codes;
    }
    return off;
}

static void check_values(check *c, const problem *p)
{
    const int n_keys = p->n_blocks * SALA_KV_BLOCK, d = p->d;
    double *score = malloc((size_t)n_keys * sizeof(double)), q[256], size[256];
    for (int i = 0; i < p->n_q; i++) {
        query_of(q, size, p, i);
        double top = -INFINITY, sum = 0, worst = 0;
        for (int j = 0; j < n_keys; j++) {
            score[j] = -INFINITY;
            if (j % SALA_KV_BLOCK >= p->visible[j / SALA_KV_BLOCK][i])
                continue;
            double s = 0, mag = 0;
            for (int e = 0; e < d; e++) {
                const double key = (double)cached(p, true, j, e);
                s += q[e] * key;
                mag += size[e] * fabs(key);
            }
            score[j] = s;
            top = s > top ? s : top;
            worst = mag > worst ? mag : worst;
        }
        if (top == -INFINITY) {
            if (p->m[i] != -INFINITY || p->l[i] != 0)
                check_fail(c, "query %d sees nothing and was changed", i);
            continue;
        }
        for (int j = 0; j < n_keys; j++)
            sum += exp(score[j] - top);
        const double relative = ((double)(d + 9) * worst * 2 + n_keys + 8 * p->n_blocks + 16) * (double)FLT_EPSILON;
        for (int e = 0; e < d; e++) {
            double want = 0, mag = 0;
            const double weights = weights_off(p, i, e, score, top) / sum;
            for (int j = 0; j < n_keys; j++) {
                const double w = exp(score[j] - top) / sum, v = (double)cached(p, false, j, e);
                if (w > 0) {
                    want += w * v;
                    mag += w * fabs(v);
                }
            }
            const double got = (double)p->acc[i * d + e] / (double)p->l[i];
            const double bound = relative * mag + 1.01 * weights;
            if (!(fabs(got - want) <= bound))
                check_fail(c, "d %d, %d queries, query %d, component %d: %g instead of %g, bound %g", d, p->n_q, i, e,
                           got, want, bound);
        }
        const double lse = (double)p->m[i] + log((double)p->l[i]), want = top + log(sum);
        if (!(fabs(lse - want) <= relative + (double)FLT_EPSILON * fabs(top)))
            check_fail(c, "d %d, query %d: m + log l is %g instead of %g", d, i, lse, want);
    }
    free(score);
}

static void check_shape(check *c, const sala_kernels *k, int as, int n_q, int d)
{
    problem p = make(c, k, as, n_q, d, 3);
    for (int b = 0; b < p.n_blocks; b++)
        for (int i = 0; i < n_q; i++)
            p.visible[b][i] = b == 1 ? SALA_KV_BLOCK : check_below(c, SALA_KV_BLOCK + 1);
    for (int b = 0; b < p.n_blocks; b++)
        p.visible[b][n_q / 2] = 0; /* one that sees nothing at all */
    poison(&p);
    run(&p);
    check_values(c, &p);
    /* One query at a time gives the same bits. */
    const size_t nd = (size_t)d;
    for (int i = 0; i < n_q; i++) {
        problem one = p;
        one.n_q = 1;
        one.q = p.q + (size_t)i * nd;
        one.acc = check_guarded(nd * sizeof(float));
        one.m = check_guarded(sizeof(float));
        one.l = check_guarded(sizeof(float));
        for (int b = 0; b < p.n_blocks; b++)
            one.visible[b][0] = p.visible[b][i];
        run(&one);
        if (memcmp(one.acc, p.acc + (size_t)i * nd, nd * sizeof(float)) != 0 || one.m[0] != p.m[i] ||
            one.l[0] != p.l[i])
            check_fail(c, "d %d: query %d of %d alone and among others differ", d, i, n_q);
    }
    if (p.dtype != SALA_F16) { /* codes are multiplied as they are, and keys of Q4_1 turned back when they are loaded */
        check_reset();
        return;
    }
    /* And so do the same numbers as floats. */
    problem wide = p;
    wide.as = SALA_KV_AS_F32;
    wide.dtype = SALA_F32;
    wide.head_bytes = sala_kv_head_bytes(SALA_F32, d);
    wide.keys = check_guarded((size_t)p.n_blocks * wide.head_bytes);
    wide.values = check_guarded((size_t)p.n_blocks * wide.head_bytes);
    wide.acc = check_guarded((size_t)n_q * nd * sizeof(float));
    wide.m = check_guarded((size_t)n_q * sizeof(float));
    wide.l = check_guarded((size_t)n_q * sizeof(float));
    for (int b = 0; b < p.n_blocks; b++) {
        const size_t from = (size_t)b * p.head_bytes, to = (size_t)b * wide.head_bytes;
        k->kv[as].load_keys((float *)(void *)(wide.keys + to), p.keys + from, d);
        k->kv[as].load_values((float *)(void *)(wide.values + to), p.values + from, SALA_KV_BLOCK, d);
    }
    run(&wide);
    if (memcmp(wide.acc, p.acc, (size_t)n_q * nd * sizeof(float)) != 0 ||
        memcmp(wide.l, p.l, (size_t)n_q * sizeof(float)) != 0 || memcmp(wide.m, p.m, (size_t)n_q * sizeof(float)) != 0)
        check_fail(c, "d %d, %d queries: what was loaded as floats gives other bits", d, n_q);
    check_reset();
}

static void check_nan(check *c, const sala_kernels *k, int as)
{
    problem p = make(c, k, as, 7, 24, 1);
    for (int i = 0; i < p.n_q; i++)
        p.visible[0][i] = 1 + 9 * i;
    p.q[24 * 2 + 5] = NAN;
    run(&p);
    for (int i = 0; i < p.n_q; i++)
        if ((i == 2) != (bool)isnan(p.l[i]))
            check_fail(c, "a NaN in query 2: l[%d] is %g", i, (double)p.l[i]);
    check_reset();
}

static void run_timing(void *user)
{
    run(user);
}

static void bench(check *c, const sala_kernels *k, int as)
{
    static const int n_q[] = {1, 3, 4, 8, 16, 64}, d[] = {64, 128};
    for (size_t j = 0; j < SALA_CHECK_LEN(d); j++) {
        printf("%-24s d %3d:", c->name, d[j]);
        for (size_t i = 0; i < SALA_CHECK_LEN(n_q); i++) {
            problem p = make(c, k, as, n_q[i], d[j], 8);
            for (int b = 0; b < p.n_blocks; b++)
                for (int q = 0; q < n_q[i]; q++)
                    p.visible[b][q] = SALA_KV_BLOCK;
            const double s = check_time(run_timing, &p), n = (double)p.n_blocks * SALA_KV_BLOCK * d[j];
            printf("  %d queries %.1f GFLOP/s %.1f GB/s", n_q[i], 4e-9 * n * n_q[i] / s,
                   2e-9 * (double)(p.n_blocks * (int)p.head_bytes) / s);
            check_reset();
        }
        printf("\n");
    }
}

void check_attention(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        for (int as = 0; as < SALA_N_KV_KERNELS; as++) {
            sala_kernels k;
            char what[32];
            snprintf(what, sizeof what, "attention_%s", check_cache_types[as].name);
            if (!check_begin_family(c, &k, what, *f))
                continue;
            if (c->bench) {
                bench(c, &k, as);
            } else {
                static const int d[] = {1, 2, 5, 8, 16, 18, 30, 31, 32, 33, 64, 80, 96, 100, 128, 200, 256};
                static const int n_q[] = {1, 2, 3, 4, 6, 7, 16, 37};
                for (size_t i = 0; i < SALA_CHECK_LEN(d); i++)
                    for (size_t j = i % 2; j < SALA_CHECK_LEN(n_q); j += d[i] == 64 ? 1 : 3)
                        check_shape(c, &k, as, n_q[j], d[i]);
                check_nan(c, &k, as);
            }
            check_end(c);
        }
    }
}
