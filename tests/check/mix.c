/* Stage 1 of sparse attention, the choice of blocks, lightning attention and output gates of every family, against
 * double precision.
 *
 * Bounds. A score of d products is off by (d + 2) eps sum |q k|, which is a relative error of its exp, as is eps times
 * the size of the exponent. Sums add one eps a term. `ref` keeps sums in double: it may be off by a few eps of the
 * result itself, however much cancels. */
#include "check/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EPS ((double)FLT_EPSILON)
#define PAGE SALA_KV_BLOCK
#define CHUNK SALA_LIGHTNING_CHUNK
#define MAX_Q 64
#define MAX_PAGES 3
#define MAX_D 200

static float *random_floats(check *c, int64_t n, float size)
{
    float *x = check_guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = size * check_uniform(c);
    return x;
}

static bool same(const float *a, const float *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof(float)) == 0;
}

static bool near(double got, double want, double bound)
{
    return fabs(got - want) <= bound; /* a NaN is not */
}

/* ---- stage 1 ---- */

typedef struct stage1 {
    const sala_kernels *k;
    bool half;
    int n_q, group, d, n_pages;
    int64_t p_stride;
    float *q, *lse, *m, *l, *p, *scratch; /* p [page][token][p_stride] */
    uint8_t *rows;
    int32_t visible[MAX_PAGES][MAX_Q];
} stage1;

static size_t page_bytes(const stage1 *s)
{
    return (size_t)(PAGE * s->d) * (s->half ? 2 : 4);
}

static const void *next_page(const stage1 *s, int b)
{
    return b + 1 < s->n_pages ? s->rows + (size_t)(b + 1) * page_bytes(s) : NULL;
}

static void run_lse(void *user)
{
    stage1 *s = user;
    for (int i = 0; i < s->n_q; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    sala_rows_lse_fn *fn = s->half ? s->k->rows_lse_f16 : s->k->rows_lse_f32;
    for (int b = 0; b < s->n_pages; b++)
        fn(s->m, s->l, s->q, s->rows + (size_t)b * page_bytes(s), s->n_q, s->d, s->visible[b], s->scratch,
           next_page(s, b));
}

static void run_mass(void *user)
{
    stage1 *s = user;
    sala_rows_mass_fn *fn = s->half ? s->k->rows_mass_f16 : s->k->rows_mass_f32;
    for (int b = 0; b < s->n_pages; b++)
        fn(s->p + b * (s->n_q / s->group) * s->p_stride, s->p_stride, s->q, s->lse, s->rows + (size_t)b * page_bytes(s),
           s->n_q, s->group, s->d, s->visible[b], s->scratch, next_page(s, b));
}

static float get_row(const stage1 *s, int page, int c, int j)
{
    const uint8_t *at = s->rows + (size_t)page * page_bytes(s) + (size_t)(c * PAGE + j) * (s->half ? 2 : 4);
    if (s->half) {
        uint16_t h;
        memcpy(&h, at, sizeof h);
        return sala_f16_to_f32(h);
    }
    float f;
    memcpy(&f, at, sizeof f);
    return f;
}

static void put_row(stage1 *s, int page, int c, int j, float x)
{
    uint8_t *at = s->rows + (size_t)page * page_bytes(s) + (size_t)(c * PAGE + j) * (s->half ? 2 : 4);
    const uint16_t h = sala_f32_to_f16(x);
    memcpy(at, s->half ? (const void *)&h : (const void *)&x, s->half ? sizeof h : sizeof x);
}

static stage1 make_stage1(check *c, const sala_kernels *k, bool half, int n_tokens, int group, int d, int n_pages)
{
    stage1 s = {.k = k, .half = half, .n_q = n_tokens * group, .group = group, .d = d, .n_pages = n_pages};
    const size_t n_q = (size_t)s.n_q;
    s.p_stride = PAGE + check_below(c, 3);
    s.q = random_floats(c, s.n_q * d, 12.0f / sqrtf((float)d)); /* scores up to about 10 */
    s.lse = random_floats(c, s.n_q, 15);
    s.m = check_guarded(n_q * sizeof(float));
    s.l = check_guarded(n_q * sizeof(float));
    s.p = check_guarded((size_t)(((int64_t)n_pages * n_tokens - 1) * s.p_stride + PAGE) * sizeof(float));
    s.scratch = check_guarded(SALA_ATTN_SCRATCH(s.n_q, d) * sizeof(float));
    s.rows = check_guarded((size_t)n_pages * page_bytes(&s));
    for (int b = 0; b < n_pages; b++) {
        for (int e = 0; e < d; e++)
            for (int j = 0; j < PAGE; j++)
                put_row(&s, b, e, j, 2 * check_uniform(c));
        for (int i = 0; i < s.n_q; i++)
            s.visible[b][i] = PAGE;
    }
    return s;
}

/* Rows that no query sees become not-a-number: they must not matter. */
static void poison(stage1 *s)
{
    for (int b = 0; b < s->n_pages; b++) {
        int most = 0;
        for (int i = 0; i < s->n_q; i++)
            most = s->visible[b][i] > most ? s->visible[b][i] : most;
        for (int e = 0; e < s->d; e++)
            for (int j = most; j < PAGE; j++)
                put_row(s, b, e, j, NAN);
    }
}

static double score(const stage1 *s, int i, int page, int j, double *size)
{
    double sum = 0;
    *size = 0;
    for (int e = 0; e < s->d; e++) {
        const double x = (double)s->q[i * s->d + e] * (double)get_row(s, page, e, j);
        sum += x;
        *size += fabs(x);
    }
    return sum;
}

static void check_lse_values(check *c, const stage1 *s, bool is_ref)
{
    for (int i = 0; i < s->n_q; i++) {
        double x[MAX_PAGES * PAGE], top = -INFINITY, worst = 0, sum = 0;
        int n = 0;
        for (int b = 0; b < s->n_pages; b++)
            for (int j = 0; j < s->visible[b][i]; j++) {
                double size;
                x[n] = score(s, i, b, j, &size);
                top = x[n] > top ? x[n] : top;
                worst = size > worst ? size : worst;
                n++;
            }
        if (n == 0) {
            if (s->m[i] != -INFINITY || s->l[i] != 0)
                check_fail(c, "query %d sees nothing and was changed", i);
            continue;
        }
        for (int j = 0; j < n; j++)
            sum += exp(x[j] - top);
        const double off = is_ref ? 2 * fabs(top) + 20 : (double)(s->d + 2) * worst * 2 + n + 8 * s->n_pages + 16;
        if (!near((double)s->m[i], top, off * EPS))
            check_fail(c, "d %d, %d queries, query %d: m is %g instead of %g", s->d, s->n_q, i, (double)s->m[i], top);
        const double got = (double)s->m[i] + log((double)s->l[i]), want = top + log(sum);
        if (!near(got, want, (off + fabs(top)) * EPS))
            check_fail(c, "d %d, %d queries, query %d: m + log l is %.9g instead of %.9g, bound %g", s->d, s->n_q, i,
                       got, want, (off + fabs(top)) * EPS);
    }
}

static void check_mass_values(check *c, const stage1 *s, bool is_ref)
{
    const int n_tokens = s->n_q / s->group;
    for (int b = 0; b < s->n_pages; b++)
        for (int t = 0; t < n_tokens; t++)
            for (int j = 0; j < PAGE; j++) {
                double want = 0, bound = 0;
                for (int i = t * s->group; i < (t + 1) * s->group; i++) {
                    if (j >= s->visible[b][i])
                        continue;
                    double size;
                    const double x = score(s, i, b, j, &size), e = exp(x - (double)s->lse[i]);
                    want += e;
                    bound +=
                        e * EPS *
                        (is_ref ? fabs(x) + 2 : (double)(s->d + 2) * size + fabs(x - (double)s->lse[i]) + s->group + 8);
                }
                const double got = (double)s->p[(b * n_tokens + t) * s->p_stride + j];
                if (!near(got, want, bound))
                    check_fail(c, "d %d, %d tokens of %d heads, token %d, row %d: mass %.9g instead of %.9g, bound %g",
                               s->d, n_tokens, s->group, t, j, got, want, bound);
            }
}

static void check_stage1_shape(check *c, const sala_kernels *k, bool half, int n_tokens, int group, int d, bool is_ref)
{
    stage1 s = make_stage1(c, k, half, n_tokens, group, d, MAX_PAGES);
    for (int b = 0; b < s.n_pages; b++)
        for (int i = 0; i < s.n_q; i++)
            s.visible[b][i] = b == 1 ? PAGE : check_below(c, PAGE + 1);
    for (int b = 0; b < s.n_pages; b++)
        s.visible[b][s.n_q / 2] = 0; /* one that sees nothing at all */
    poison(&s);
    const size_t n_p = (size_t)((s.n_pages * n_tokens - 1) * s.p_stride + PAGE);
    for (size_t i = 0; i < n_p; i++)
        s.p[i] = -7;
    run_lse(&s);
    run_mass(&s);
    check_lse_values(c, &s, is_ref);
    check_mass_values(c, &s, is_ref);
    for (size_t i = 0; i < n_p; i++)
        if ((int64_t)i % s.p_stride >= PAGE && s.p[i] != -7)
            check_fail(c, "d %d, %d tokens: written between the rows of p", d, n_tokens);
    /* One query, or one token's, at a time gives the same bits. */
    stage1 one = s;
    one.m = check_guarded(sizeof(float));
    one.l = check_guarded(sizeof(float));
    one.n_q = 1;
    for (int i = 0; i < s.n_q; i++) {
        one.q = s.q + i * d;
        for (int b = 0; b < s.n_pages; b++)
            one.visible[b][0] = s.visible[b][i];
        run_lse(&one);
        if (!same(one.m, s.m + i, 1) || !same(one.l, s.l + i, 1))
            check_fail(c, "d %d: m and l of query %d of %d alone and among others differ", d, i, s.n_q);
    }
    one.n_q = group;
    one.p_stride = PAGE;
    one.p = check_guarded(MAX_PAGES * PAGE * sizeof(float));
    for (int t = 0; t < n_tokens; t++) {
        one.q = s.q + t * group * d;
        one.lse = s.lse + t * group;
        for (int b = 0; b < s.n_pages; b++)
            memcpy(one.visible[b], s.visible[b] + t * group, (size_t)group * sizeof(int32_t));
        run_mass(&one);
        for (int b = 0; b < s.n_pages; b++)
            if (!same(one.p + b * PAGE, s.p + (b * n_tokens + t) * s.p_stride, PAGE))
                check_fail(c, "d %d, groups of %d: masses of token %d of %d alone and among others differ", d, group, t,
                           n_tokens);
    }
    check_reset();
}

/* Every number of visible rows, with equal rows all over the page: equal masses, whichever lane they are in. */
static void check_ties(check *c, const sala_kernels *k, bool half, int d, int n_q)
{
    stage1 s = make_stage1(c, k, half, 1, n_q, d, 1);
    for (int e = 0; e < d; e++)
        for (int j = 1; j < PAGE; j++)
            put_row(&s, 0, e, j, get_row(&s, 0, e, 0));
    float first = 0;
    for (int n = 0; n <= PAGE; n++) {
        for (int i = 0; i < n_q; i++)
            s.visible[0][i] = n;
        run_mass(&s);
        run_lse(&s);
        first = n == 1 ? s.p[0] : first;
        for (int j = 0; j < PAGE; j++)
            if (s.p[j] != (j < n ? first : 0))
                check_fail(c, "d %d, %d of %d equal rows visible: row %d has %.9g, the first %.9g", d, n, PAGE, j,
                           (double)s.p[j], (double)first);
        for (int i = 0; i < n_q; i++)
            if (!near((double)s.l[i], n, n * EPS))
                check_fail(c, "d %d, %d equal rows visible: the sum of their exp is %.9g", d, n, (double)s.l[i]);
    }
    check_reset();
}

/* A NaN stays with its own query and token; infinities do no harm. */
static void check_stage1_nan(check *c, const sala_kernels *k, bool half)
{
    stage1 s = make_stage1(c, k, half, 5, 2, 24, 1);
    s.q[24 * 2 + 5] = NAN;
    s.q[24 * 9 + 1] = -INFINITY;
    run_lse(&s);
    run_mass(&s);
    for (int i = 0; i < 9; i++)
        if ((i == 2) != (bool)isnan(s.l[i]))
            check_fail(c, "a NaN in query 2: l[%d] is %g", i, (double)s.l[i]);
    for (int i = 0; i < 4 * PAGE; i++)
        if ((i / PAGE == 1) != (bool)isnan(s.p[i / PAGE * s.p_stride + i % PAGE]))
            check_fail(c, "a NaN in token 1: a mass of token %d is %g", i / PAGE,
                       (double)s.p[i / PAGE * s.p_stride + i % PAGE]);
    check_reset();
}

static void bench_stage1(check *c, const sala_kernels *k, bool half)
{
    static const int n_tokens[] = {1, 1, 4}, group[] = {1, 16, 16}, d[] = {64, 128};
    for (size_t j = 0; j < SALA_CHECK_LEN(d); j++) {
        printf("%-24s d %3d:", c->name, d[j]);
        for (size_t i = 0; i < SALA_CHECK_LEN(n_tokens); i++) {
            stage1 s = make_stage1(c, k, half, n_tokens[i], group[i], d[j], MAX_PAGES);
            const double ops = 2e-9 * s.n_pages * PAGE * s.d * s.n_q;
            printf("  %d queries: sums %.1f, masses %.1f GFLOP/s", s.n_q, ops / check_time(run_lse, &s),
                   ops / check_time(run_mass, &s));
            check_reset();
        }
        printf("\n");
    }
}

static void check_stage1(check *c, const sala_kernels *k, bool half, bool is_ref)
{
    static const int d[] = {1, 5, 16, 31, 64, 80, 128}, group[] = {1, 2, 3, 5, 8, 16};
    for (size_t i = 0; i < SALA_CHECK_LEN(d); i++)
        for (size_t j = 0; j < SALA_CHECK_LEN(group); j++)
            check_stage1_shape(c, k, half, 1 + check_below(c, 48 / group[j]), group[j], d[i], is_ref);
    check_stage1_shape(c, k, half, 4, 16, 128, is_ref);
    for (int n_q = 1; n_q < 14; n_q++)
        check_ties(c, k, half, 1 + check_below(c, 40), n_q);
    check_stage1_nan(c, k, half);
}

/* ---- lightning attention ---- */

typedef struct lightning {
    const sala_kernels *k;
    int d, n, a0;
    int64_t q_stride, kv_stride, out_stride;
    float *q, *keys, *values, *out, *state, *decay, *scratch; /* q and out from token 0 */
    float scale;
} lightning;

static void run_out(void *user)
{
    const lightning *p = user;
    p->k->lightning_out(p->out + p->a0 * p->out_stride, p->out_stride, p->q + p->a0 * p->q_stride, p->q_stride, p->keys,
                        p->values, p->kv_stride, p->state, p->decay, p->a0, p->n, p->d, p->scale, p->scratch);
}

static void run_state(void *user)
{
    const lightning *p = user;
    p->k->lightning_state(p->state, p->state, p->keys, p->values, p->kv_stride, p->decay, p->d, p->scratch);
}

static lightning make_lightning(check *c, const sala_kernels *k, int n, int d, double slope)
{
    lightning p = {.k = k, .d = d, .n = n, .scale = 0.3f};
    const int pad = check_below(c, 2) * 7;
    p.q_stride = d + pad;
    p.kv_stride = d + check_below(c, 2) * 5;
    p.out_stride = d + check_below(c, 2) * 3;
    p.q = random_floats(c, (n - 1) * p.q_stride + d, 1);
    p.keys = random_floats(c, (n - 1) * p.kv_stride + d, 1);
    p.values = random_floats(c, (n - 1) * p.kv_stride + d, 1);
    p.out = random_floats(c, (n - 1) * p.out_stride + d, 1);
    p.state = random_floats(c, (int64_t)d * d, 3);
    p.decay = check_guarded((CHUNK + 1) * sizeof(float));
    for (int i = 0; i <= CHUNK; i++)
        p.decay[i] = (float)exp(-slope * i);
    p.scratch = check_guarded(SALA_LIGHTNING_SCRATCH(d) * sizeof(float));
    return p;
}

/* Relative to the sum of the sizes of what is added. */
static double lightning_bound(int d, bool is_ref, double want, double size)
{
    return is_ref ? 2 * EPS * fabs(want) + 1e-12 * size : (2 * d + 2 * CHUNK + 16) * EPS * size;
}

static void check_out_values(check *c, const lightning *p, bool is_ref)
{
    const int d = p->d;
    for (int a = p->a0; a < p->n; a++) {
        const float *q = p->q + a * p->q_stride;
        double w[CHUNK], w_size[CHUNK];
        for (int b = 0; b <= a; b++) {
            w[b] = w_size[b] = 0;
            for (int e = 0; e < d; e++) {
                const double x = (double)q[e] * (double)p->keys[b * p->kv_stride + e] * (double)p->decay[a - b];
                w[b] += x;
                w_size[b] += fabs(x);
            }
        }
        for (int e = 0; e < d; e++) {
            double want = 0, size = 0;
            for (int b = 0; b <= a; b++) {
                want += w[b] * (double)p->values[b * p->kv_stride + e];
                size += w_size[b] * fabs((double)p->values[b * p->kv_stride + e]);
            }
            for (int i = 0; p->state && i < d; i++) {
                const double x = (double)p->decay[a + 1] * (double)q[i] * (double)p->state[i * d + e];
                want += x;
                size += fabs(x);
            }
            want *= (double)p->scale;
            size *= (double)p->scale;
            const double got = (double)p->out[a * p->out_stride + e], bound = lightning_bound(d, is_ref, want, size);
            if (!near(got, want, bound))
                check_fail(c, "d %d, token %d of %d .. %d, component %d: %.9g instead of %.9g, bound %g", d, a, p->a0,
                           p->n, e, got, want, bound);
        }
    }
}

static void check_out(check *c, const sala_kernels *k, int n, int d, bool is_ref)
{
    lightning p = make_lightning(c, k, n, d, check_below(c, 2) ? 0.84 : 0.004);
    float *const state = p.state;
    const size_t n_out = (size_t)((n - 1) * p.out_stride + d), bytes = n_out * sizeof(float);
    float *const whole = malloc(bytes), *const out = p.out;
    for (int with_state = 0; with_state < 2; with_state++) {
        p.state = with_state ? state : NULL;
        p.a0 = 0;
        for (size_t i = 0; i < n_out; i++)
            out[i] = -7;
        run_out(&p);
        check_out_values(c, &p, is_ref);
        for (size_t i = 0; i < n_out; i++)
            if ((int64_t)i % p.out_stride >= d && out[i] != -7)
                check_fail(c, "d %d, %d tokens: written between the rows of the output", d, n);
        memcpy(whole, out, bytes);
        /* One by one, and cut anywhere: the same bits. */
        lightning part = p;
        for (int step = 0; step < 3; step++) {
            for (size_t i = 0; i < n_out; i++)
                out[i] = -7;
            for (part.a0 = 0; part.a0 < n; part.a0 = part.n) {
                part.n = step == 0 ? part.a0 + 1 : part.a0 + 1 + check_below(c, step == 1 ? 9 : n);
                part.n = part.n > n ? n : part.n;
                run_out(&part);
            }
            if (!same(whole, out, (int64_t)n_out))
                check_fail(c, "d %d, %d tokens: at once and in parts differ", d, n);
        }
    }
    /* No state is a state of zeros. */
    memset(state, 0, (size_t)(d * d) * sizeof(float));
    p.state = NULL;
    p.a0 = 0;
    run_out(&p);
    memcpy(whole, out, bytes);
    p.state = state;
    run_out(&p);
    for (size_t i = 0; i < n_out; i++)
        if (!(whole[i] == out[i]))
            check_fail(c, "d %d, %d tokens: no state and a state of zeros differ", d, n);
    free(whole);
    check_reset();
}

static void check_state(check *c, const sala_kernels *k, int d, bool is_ref)
{
    lightning p = make_lightning(c, k, CHUNK, d, check_below(c, 2) ? 0.84 : 0.004);
    float *const next = check_guarded((size_t)(d * d) * sizeof(float));
    for (int with_state = 0; with_state < 2; with_state++) {
        const float *in = with_state ? p.state : NULL;
        k->lightning_state(next, in, p.keys, p.values, p.kv_stride, p.decay, d, p.scratch);
        for (int i = 0; i < d; i++)
            for (int e = 0; e < d; e++) {
                double want = in ? (double)p.decay[CHUNK] * (double)in[i * d + e] : 0, size = fabs(want);
                for (int b = 0; b < CHUNK; b++) {
                    const double x = (double)p.decay[CHUNK - 1 - b] * (double)p.keys[b * p.kv_stride + i] *
                                     (double)p.values[b * p.kv_stride + e];
                    want += x;
                    size += fabs(x);
                }
                const double got = (double)next[i * d + e], bound = lightning_bound(d, is_ref, want, size);
                if (!near(got, want, bound))
                    check_fail(c, "d %d, state [%d][%d]: %.9g instead of %.9g, bound %g", d, i, e, got, want, bound);
            }
    }
    run_state(&p);
    if (!same(p.state, next, (int64_t)d * d))
        check_fail(c, "d %d: a state in place and elsewhere differ", d);
    check_reset();
}

/* Two and a half chunks against the recurrence, token by token, which knows no chunks. */
static void check_recurrence(check *c, const sala_kernels *k, int d, double slope)
{
    enum { N = 2 * CHUNK + CHUNK / 2 };
    lightning p = make_lightning(c, k, N, d, slope);
    const double lambda = exp(-slope);
    double *s = calloc((size_t)(d * d), sizeof(double)), *size = calloc((size_t)(d * d), sizeof(double));
    for (int t0 = 0; t0 < N; t0 += CHUNK) {
        lightning chunk = p;
        chunk.q += t0 * p.q_stride;
        chunk.out += t0 * p.out_stride;
        chunk.keys += t0 * p.kv_stride;
        chunk.values += t0 * p.kv_stride;
        chunk.n = N - t0 < CHUNK ? N - t0 : CHUNK;
        chunk.state = t0 ? p.state : NULL;
        run_out(&chunk);
        if (chunk.n == CHUNK)
            k->lightning_state(p.state, chunk.state, chunk.keys, chunk.values, p.kv_stride, p.decay, d, p.scratch);
    }
    for (int t = 0; t < N; t++) {
        for (int i = 0; i < d; i++)
            for (int e = 0; e < d; e++) {
                const double x = (double)p.keys[t * p.kv_stride + i] * (double)p.values[t * p.kv_stride + e];
                s[i * d + e] = lambda * s[i * d + e] + x;
                size[i * d + e] = lambda * size[i * d + e] + fabs(x);
            }
        for (int e = 0; e < d; e++) {
            double want = 0, bound = 0;
            for (int i = 0; i < d; i++) {
                want += (double)p.q[t * p.q_stride + i] * s[i * d + e];
                bound += fabs((double)p.q[t * p.q_stride + i]) * size[i * d + e];
            }
            want *= (double)p.scale;
            bound *= (double)p.scale * (2 * d + 4 * CHUNK + 32) * EPS;
            if (!near((double)p.out[t * p.out_stride + e], want, bound))
                check_fail(c, "d %d, slope %g, token %d, component %d: %.9g instead of %.9g of the recurrence", d,
                           slope, t, e, (double)p.out[t * p.out_stride + e], want);
        }
    }
    free(s);
    free(size);
    check_reset();
}

/* Whatever the numbers are, later tokens do not reach earlier ones, and what is not finite stays so. */
static void check_lightning_nan(check *c, const sala_kernels *k, int d)
{
    lightning p = make_lightning(c, k, 40, d, 0.25);
    p.keys[17 * p.kv_stride] = NAN;
    p.values[20 * p.kv_stride + d - 1] = INFINITY;
    run_out(&p);
    for (int a = 0; a < p.n; a++)
        for (int e = 0; e < d; e++)
            if (isfinite(p.out[a * p.out_stride + e]) != (a < 17))
                check_fail(c, "a NaN in the key of token 17: component %d of token %d is %g", e, a,
                           (double)p.out[a * p.out_stride + e]);
    lightning full = make_lightning(c, k, CHUNK, d, 0.25);
    full.values[3] = NAN;
    run_state(&full);
    for (int i = 0; i < d * d; i++)
        if (isnan(full.state[i]) != (i % d == 3))
            check_fail(c, "a NaN in value component 3: state [%d][%d] is %g", i / d, i % d, (double)full.state[i]);
    check_reset();
}

static void bench_lightning(check *c, const sala_kernels *k)
{
    static const int d[] = {64, 128};
    for (size_t i = 0; i < SALA_CHECK_LEN(d); i++) {
        lightning p = make_lightning(c, k, CHUNK, d[i], 0.01);
        const double in_state = 2e-9 * d[i] * d[i], in_chunk = 4e-9 * d[i] * (CHUNK + 1) / 2;
        const double out = check_time(run_out, &p), state = check_time(run_state, &p);
        p.n = CHUNK / 2;
        p.a0 = p.n - 1;
        const double one = check_time(run_out, &p);
        printf("%-24s d %3d:  chunk %.1f, state %.1f, one token %.1f GFLOP/s\n", c->name, d[i],
               CHUNK * (in_state + in_chunk) / out, CHUNK * in_state / state, (in_state + in_chunk) / one);
        check_reset();
    }
}

static void check_lightning(check *c, const sala_kernels *k, bool is_ref)
{
    static const int d[] = {1, 5, 16, 31, 64, 80, 128}, n[] = {1, 2, 3, 5, 7, 13, 31, 33, 63, 64};
    for (size_t i = 0; i < SALA_CHECK_LEN(d); i++) {
        for (size_t j = d[i] > 64 ? i % 2 : 0; j<SALA_CHECK_LEN(n); j += d[i]> 64 ? 3 : 1)
            check_out(c, k, n[j], d[i], is_ref);
        check_state(c, k, d[i], is_ref);
    }
    check_recurrence(c, k, 24, 0.5);
    check_recurrence(c, k, 33, 0.00390625);
    check_lightning_nan(c, k, 21);
    check_lightning_nan(c, k, 64);
}

/* ---- gates ---- */

static void check_gate(check *c, const sala_kernels *k, int64_t n)
{
    const float *gate = random_floats(c, n, check_below(c, 2) ? 4 : 110);
    float *x = random_floats(c, n, 3), *out = check_guarded((size_t)n * sizeof(float));
    k->sigmoid_gate(out, x, gate, n);
    for (int64_t i = 0; i < n; i++) {
        const double want = (double)x[i] / (1 + exp(-(double)gate[i]));
        if (!near((double)out[i], want, 5 * EPS * fabs(want) + 1e-36))
            check_fail(c, "n = %lld, element %lld: %.9g instead of %.9g", (long long)n, (long long)i, (double)out[i],
                       want);
    }
    k->sigmoid_gate(x, x, gate, n);
    if (!same(x, out, n))
        check_fail(c, "in place differs, n = %lld", (long long)n);
    float *nan = random_floats(c, n, 1);
    nan[n / 2] = NAN;
    k->sigmoid_gate(out, x, nan, n);
    for (int64_t i = 0; i < n; i++)
        if (isnan(out[i]) != (i == n / 2))
            check_fail(c, "a NaN at %lld of %lld: element %lld is %g", (long long)(n / 2), (long long)n, (long long)i,
                       (double)out[i]);
    check_reset();
}

/* ---- pooling and the choice of blocks ---- */

static void check_pool(check *c, const sala_kernels *k)
{
    float *mass = random_floats(c, PAGE, 1), *pooled = random_floats(c, PAGE / 4 + 1, 1), want[PAGE / 4 + 1];
    for (int j = 0; j < PAGE; j++)
        mass[j] = fabsf(mass[j]);
    for (int b = 0; b <= PAGE / 4; b++) {
        pooled[b] = check_below(c, 3) ? fabsf(pooled[b]) : 0;
        want[b] = pooled[b];
        for (int j = 4 * b - 1; j < 4 * b + 4; j++)
            if (j >= 0 && j < PAGE && mass[j] > want[b])
                want[b] = mass[j];
    }
    k->rows_pool(pooled, mass);
    if (!same(pooled, want, PAGE / 4 + 1))
        check_fail(c, "masses of a page are pooled wrongly");
    check_reset();
}

/* One of few numbers: many are equal, among them zeros of both signs. */
static float coarse_number(check *c)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, FLT_MAX, FLT_MIN / 4};
    return check_below(c, 8) ? (float)(check_below(c, 9) - 4) / 4 : special[check_below(c, 6)];
}

/* A number is among the k largest when fewer than k are larger or equal and in front. */
static void check_top_k(check *c, const sala_kernels *k, int n, int n_top, bool coarse)
{
    float *x = random_floats(c, n, 1);
    for (int i = 0; i < n; i++)
        x[i] = coarse ? coarse_number(c) : expf(20 * x[i]);
    int32_t *out = check_guarded((size_t)(n_top < n ? n_top : n) * sizeof *out);
    const int64_t n_out = k->top_k(out, x, n, n_top);
    int at = 0;
    for (int i = 0; i < n; i++) {
        int before = 0;
        for (int j = 0; j < n; j++)
            before += x[j] > x[i] || (x[j] == x[i] && j < i);
        if (before >= n_top)
            continue;
        if (at >= n_out || out[at] != i)
            check_fail(c, "the %d largest of %d: place %d is %d of %lld instead of %d", n_top, n, at,
                       at < n_out ? out[at] : -1, (long long)n_out, i);
        at++;
    }
    if (n_out != at)
        check_fail(c, "the %d largest of %d are %lld", n_top, n, (long long)n_out);
    for (int i = 0; i < n; i++)
        if (!check_below(c, 4))
            x[i] = check_below(c, 2) ? NAN : -NAN;
    if (k->top_k(out, x, n, n_top) > (n_top < n ? n_top : n))
        check_fail(c, "more than %d largest of %d with NaNs", n_top, n);
    check_reset();
}

static void check_choice(check *c, const sala_kernels *k)
{
    for (int i = 0; i < 20; i++)
        check_pool(c, k);
    for (int n = 1; n < 600; n += n < 70 ? 1 : 37) {
        check_top_k(c, k, n, 1, false);
        check_top_k(c, k, n, 1 + check_below(c, n), false);
        check_top_k(c, k, n, 1 + check_below(c, n), true);
        check_top_k(c, k, n, n + check_below(c, 3), true);
    }
    float x = 1;
    if (k->top_k(NULL, &x, 1, 0) != 0 || k->top_k(NULL, NULL, 0, 3) != 0)
        check_fail(c, "the largest of nothing, or none of something, are some");
}

void check_mix(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        sala_kernels k;
        const bool is_ref = strcmp(*f, "ref") == 0;
        for (int half = 0; half < 2; half++) {
            if (!check_begin_family(c, &k, half ? "stage1_f16" : "stage1_f32", *f))
                continue;
            if (c->bench)
                bench_stage1(c, &k, half);
            else
                check_stage1(c, &k, half, is_ref);
            check_end(c);
        }
        if (!c->bench && check_begin_family(c, &k, "choice", *f)) {
            check_choice(c, &k);
            check_end(c);
        }
        if (check_begin_family(c, &k, "lightning", *f)) {
            if (c->bench)
                bench_lightning(c, &k);
            else
                check_lightning(c, &k, is_ref);
            check_end(c);
        }
        if (!c->bench && check_begin_family(c, &k, "gate", *f)) {
            for (int n = 1; n < 200; n += n < 40 ? 1 : 13)
                check_gate(c, &k, n);
            check_end(c);
        }
    }
}
