/* Attention over blocks of keys: several blocks in a row against the softmax in double.
 *
 * Bound of one output: scores are off by (d + 2) eps sum |q k|, which is a relative error of the weights; the sums of
 * weights and of weighted values add their number of eps; all of it relative to the weighted sum of |v|. */
#include "check/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_Q 40

typedef struct problem {
    const sala_kernels *k;
    bool half;
    int n_q, d, n_blocks;
    float *q, *acc, *m, *l, *scratch;
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
    const size_t block = (size_t)(SALA_KV_BLOCK * p->d) * (p->half ? 2 : 4);
    for (int b = 0; b < p->n_blocks; b++) {
        sala_attn_block_fn *fn = p->half ? p->k->kv[SALA_KV_AS_F16].attn_block : p->k->kv[SALA_KV_AS_F32].attn_block;
        fn(p->acc, p->m, p->l, p->q, p->keys + (size_t)b * block, p->values + (size_t)b * block, p->n_q, p->d,
           p->visible[b], p->scratch, b + 1 < p->n_blocks ? p->keys + (size_t)(b + 1) * block : NULL);
    }
}

static float cached(const problem *p, const uint8_t *cache, int at)
{
    if (p->half) {
        uint16_t h;
        memcpy(&h, cache + 2 * (size_t)at, 2);
        return sala_f16_to_f32(h);
    }
    float f;
    memcpy(&f, cache + 4 * (size_t)at, 4);
    return f;
}

static problem make(check *c, const sala_kernels *k, bool half, int n_q, int d, int n_blocks)
{
    problem p = {.k = k, .half = half, .n_q = n_q, .d = d, .n_blocks = n_blocks};
    const size_t nq = (size_t)n_q, nd = (size_t)d, n_cached = (size_t)n_blocks * SALA_KV_BLOCK * nd;
    p.q = check_guarded(nq * nd * sizeof(float));
    p.acc = check_guarded(nq * nd * sizeof(float));
    p.m = check_guarded(nq * sizeof(float));
    p.l = check_guarded(nq * sizeof(float));
    p.scratch = check_guarded(SALA_ATTN_SCRATCH(n_q, d) * sizeof(float));
    p.keys = check_guarded(n_cached * (half ? 2 : 4));
    p.values = check_guarded(n_cached * (half ? 2 : 4));
    const float size = 12.0f / sqrtf((float)d); /* scores up to about 10 */
    for (size_t i = 0; i < nq * nd; i++)
        p.q[i] = size * check_uniform(c);
    for (size_t i = 0; i < n_cached; i++) {
        const float kv[2] = {2 * check_uniform(c), check_uniform(c)};
        for (int j = 0; j < 2; j++) {
            const uint16_t h = sala_f32_to_f16(kv[j]);
            uint8_t *to = j ? p.values : p.keys;
            memcpy(to + i * (half ? 2 : 4), half ? (const void *)&h : (const void *)&kv[j], half ? 2 : 4);
        }
    }
    return p;
}

/* Keys and values that no query sees become not-a-number: they must not matter. */
static void poison(problem *p)
{
    static const float nan = NAN;
    static const uint16_t nan_half = 0x7e00;
    const size_t size = p->half ? 2 : 4;
    for (int b = 0; b < p->n_blocks; b++) {
        int most = 0;
        for (int i = 0; i < p->n_q; i++)
            most = p->visible[b][i] > most ? p->visible[b][i] : most;
        for (int e = 0; e < p->d; e++)
            for (int j = most; j < SALA_KV_BLOCK; j++) {
                const size_t first = (size_t)(b * p->d) * SALA_KV_BLOCK;
                const void *from = p->half ? (const void *)&nan_half : (const void *)&nan;
                memcpy(p->keys + (first + (size_t)(e * SALA_KV_BLOCK + j)) * size, from, size);
                memcpy(p->values + (first + (size_t)(j * p->d + e)) * size, from, size);
            }
    }
}

static void check_values(check *c, const problem *p)
{
    const int n_keys = p->n_blocks * SALA_KV_BLOCK, d = p->d;
    double *score = malloc((size_t)n_keys * sizeof(double));
    for (int i = 0; i < p->n_q; i++) {
        double top = -INFINITY, sum = 0, worst = 0;
        for (int j = 0; j < n_keys; j++) {
            score[j] = -INFINITY;
            if (j % SALA_KV_BLOCK >= p->visible[j / SALA_KV_BLOCK][i])
                continue;
            double s = 0, mag = 0;
            for (int e = 0; e < d; e++) {
                const double x =
                    (double)p->q[i * d + e] *
                    (double)cached(p, p->keys, (j / SALA_KV_BLOCK * d + e) * SALA_KV_BLOCK + j % SALA_KV_BLOCK);
                s += x;
                mag += fabs(x);
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
        const double relative = ((double)(d + 2) * worst * 2 + n_keys + 8 * p->n_blocks + 16) * (double)FLT_EPSILON;
        for (int e = 0; e < d; e++) {
            double want = 0, mag = 0;
            for (int j = 0; j < n_keys; j++) {
                const double w = exp(score[j] - top) / sum, v = (double)cached(p, p->values, j * d + e);
                if (w > 0) {
                    want += w * v;
                    mag += w * fabs(v);
                }
            }
            const double got = (double)p->acc[i * d + e] / (double)p->l[i];
            if (!(fabs(got - want) <= relative * mag))
                check_fail(c, "d %d, %d queries, query %d, component %d: %g instead of %g, bound %g", d, p->n_q, i, e,
                           got, want, relative * mag);
        }
        const double lse = (double)p->m[i] + log((double)p->l[i]), want = top + log(sum);
        if (!(fabs(lse - want) <= relative + (double)FLT_EPSILON * fabs(top)))
            check_fail(c, "d %d, query %d: m + log l is %g instead of %g", d, i, lse, want);
    }
    free(score);
}

static void check_shape(check *c, const sala_kernels *k, bool half, int n_q, int d)
{
    problem p = make(c, k, half, n_q, d, 3);
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
    check_reset();
}

static void check_nan(check *c, const sala_kernels *k, bool half)
{
    problem p = make(c, k, half, 7, 24, 1);
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

static void bench(check *c, const sala_kernels *k, bool half)
{
    static const int n_q[] = {1, 3, 8, 36}, d[] = {64, 128};
    for (size_t j = 0; j < SALA_CHECK_LEN(d); j++) {
        printf("%-24s d %3d:", c->name, d[j]);
        for (size_t i = 0; i < SALA_CHECK_LEN(n_q); i++) {
            problem p = make(c, k, half, n_q[i], d[j], 8);
            for (int b = 0; b < p.n_blocks; b++)
                for (int q = 0; q < n_q[i]; q++)
                    p.visible[b][q] = SALA_KV_BLOCK;
            const double s = check_time(run_timing, &p), n = (double)p.n_blocks * SALA_KV_BLOCK * d[j];
            printf("  %d queries %.1f GFLOP/s %.1f GB/s", n_q[i], 4e-9 * n * n_q[i] / s, 2e-9 * n * (half ? 2 : 4) / s);
            check_reset();
        }
        printf("\n");
    }
}

void check_attention(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        for (int half = 0; half < 2; half++) {
            sala_kernels k;
            char name[64];
            snprintf(name, sizeof name, "attention_%s_%s", half ? "f16" : "f32", *f);
            if (!sala_kernels_get(&k, *f, c->cpu)) {
                c->n_skipped++;
                continue;
            }
            if (!check_begin(c, name, 0))
                continue;
            if (c->bench) {
                bench(c, &k, half);
            } else {
                static const int d[] = {2, 8, 16, 18, 30, 32, 64, 80, 96, 100, 128, 200, 256};
                static const int n_q[] = {1, 2, 3, 4, 6, 7, 16, 37};
                for (size_t i = 0; i < SALA_CHECK_LEN(d); i++)
                    for (size_t j = i % 2; j < SALA_CHECK_LEN(n_q); j += d[i] == 64 ? 1 : 3)
                        check_shape(c, &k, half, n_q[j], d[i]);
                check_nan(c, &k, half);
            }
            check_end(c);
        }
    }
}
