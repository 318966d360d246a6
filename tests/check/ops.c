/* Element-wise kernels and reductions of every family, against double precision. */
#include "check/check.h"
#include "kernels/limits.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EPS ((double)FLT_EPSILON)

static float *random_floats(check *c, int64_t n, float size)
{
    float *x = check_guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = size * check_uniform(c);
    return x;
}

static void compare(check *c, const char *what, int64_t n, int64_t i, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound)) /* a NaN fails */
        check_fail(c, "%s, n = %lld, element %lld: %.9g instead of %.9g, bound %g", what, (long long)n, (long long)i,
                   got, want, bound);
}

static void rms_norm(check *c, const sala_kernels *k, int64_t n)
{
    const float *w = random_floats(c, n, 2);
    float *x = random_floats(c, n, ldexpf(1, check_below(c, 24) - 12)), *out = check_guarded((size_t)n * sizeof(float));
    const bool plain = check_below(c, 4) == 0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    const double scale = 1 / sqrt(sum / (double)n + 1e-5);
    k->rms_norm(out, x, plain ? NULL : w, n, 1e-5f);
    for (int64_t i = 0; i < n; i++) {
        const double want = (double)x[i] * scale * (plain ? 1 : (double)w[i]);
        compare(c, "rms_norm", n, i, (double)out[i], want, (double)(n + 8) * EPS * fabs(want));
    }
    k->rms_norm(x, x, plain ? NULL : w, n, 1e-5f);
    if (memcmp(x, out, (size_t)n * sizeof(float)) != 0)
        check_fail(c, "rms_norm in place differs, n = %lld", (long long)n);
}

static void add_scaled(check *c, const sala_kernels *k, int64_t n)
{
    const float *y = random_floats(c, n, 3);
    float *x = random_floats(c, n, 3), *was = malloc((size_t)n * sizeof(float) + 1);
    memcpy(was, x, (size_t)n * sizeof(float));
    k->add_scaled(x, y, 0.7f, n);
    for (int64_t i = 0; i < n; i++) {
        const double p = (double)0.7f * (double)y[i], want = (double)was[i] + p;
        compare(c, "add_scaled", n, i, (double)x[i], want, EPS * (fabs(p) + fabs(want)));
    }
    free(was);
}

static void swiglu(check *c, const sala_kernels *k, int64_t n)
{
    const float *gate = random_floats(c, n, check_below(c, 2) ? 4 : 110), *up = random_floats(c, n, 3);
    float *out = check_guarded((size_t)n * sizeof(float));
    k->swiglu(out, gate, up, n);
    for (int64_t i = 0; i < n; i++) {
        const double want = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
        compare(c, "swiglu", n, i, (double)out[i], want, 5 * EPS * fabs(want) + 1e-36);
    }
}

static void rope(check *c, const sala_kernels *k, int n)
{
    const int n_rot = n / 2 * 2, stride = n + check_below(c, 3), n_heads = 1 + check_below(c, 3);
    const size_t total = (size_t)(stride * n_heads);
    for (int half = 0; half < 2; half++) {
        float *x = random_floats(c, (int64_t)total, 5), *was = malloc(total * sizeof(float));
        const float *cosines = random_floats(c, n_rot / 2, 1), *sines = random_floats(c, n_rot / 2, 1);
        memcpy(was, x, total * sizeof(float));
        k->rope(x, cosines, sines, n_heads, stride, n_rot, half);
        for (int h = 0; h < n_heads; h++) {
            for (int i = 0; i < stride; i++) {
                const float *v = was + h * stride;
                double want = (double)v[i], mag = 0;
                if (i < n_rot) {
                    const int p = half ? i % (n_rot / 2) : i / 2;
                    const bool first = half ? i < n_rot / 2 : i % 2 == 0;
                    const int other = half ? (first ? i + n_rot / 2 : i - n_rot / 2) : i ^ 1;
                    const double a = (double)v[i] * (double)cosines[p], b = (double)v[other] * (double)sines[p];
                    want = first ? a - b : a + b;
                    mag = fabs(a) + fabs(b);
                }
                compare(c, half ? "rope, halves" : "rope, pairs", n, i, (double)x[h * stride + i], want, 2 * EPS * mag);
            }
        }
        free(was);
    }
}

static void halves(check *c, const sala_kernels *k, int64_t n)
{
    float *x = random_floats(c, n, 1), *back = check_guarded((size_t)n * sizeof(float));
    uint16_t *h = check_guarded((size_t)n * sizeof(uint16_t));
    for (int64_t i = 0; i < n; i++)
        x[i] = ldexpf(x[i], check_below(c, 48) - 30); /* subnormal halves to infinities */
    k->f32_to_f16(h, x, n);
    for (int64_t i = 0; i < n; i++)
        if (h[i] != sala_f32_to_f16(x[i]))
            check_fail(c, "f32_to_f16(%.9g) is 0x%04x", (double)x[i], h[i]);
    for (int64_t i = 0; i < n; i++)
        h[i] = (uint16_t)check_random(c);
    k->f16_to_f32(back, h, n);
    for (int64_t i = 0; i < n; i++) {
        const float want = sala_f16_to_f32(h[i]);
        if (isnan(want) ? !isnan(back[i]) : memcmp(&want, back + i, sizeof want) != 0)
            check_fail(c, "f16_to_f32(0x%04x) is %.9g", h[i], (double)back[i]);
    }
}

static void reductions(check *c, const sala_kernels *k, int64_t n)
{
    float *x = random_floats(c, n, check_below(c, 2) ? 20 : 90), max;
    if (n > 3 && check_below(c, 2))
        x[check_below(c, (int)n)] = x[check_below(c, (int)n)]; /* ties */
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    x[n - 1 - check_below(c, (int)(n - best))] = x[best];
    for (best = 0; x[best] != x[n - 1] && best < n - 1; best++)
        ;
    best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    const int64_t got = k->argmax(x, n, &max);
    if (got != best || max != x[best])
        check_fail(c, "argmax, n = %lld: %lld (%g) instead of %lld (%g)", (long long)n, (long long)got, (double)max,
                   (long long)best, (double)x[best]);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)x[best]);
    const double want = (double)x[best] + log(sum);
    compare(c, "log_sum_exp", n, 0, k->log_sum_exp(x, n), want, 40 * EPS + 1e-12);
    if (!k->all_finite(x, n))
        check_fail(c, "all_finite is false of finite numbers, n = %lld", (long long)n);
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    const int64_t at = check_below(c, (int)n);
    for (int i = 0; i < 3; i++) {
        const float was = x[at];
        x[at] = bad[i];
        if (k->all_finite(x, n))
            check_fail(c, "all_finite overlooks %g at %lld of %lld", (double)bad[i], (long long)at, (long long)n);
        x[at] = was;
    }
    x[at] = NAN;
    if (k->argmax(x, n, &max) != -1)
        check_fail(c, "argmax overlooks a NaN at %lld of %lld", (long long)at, (long long)n);
    if (!isnan(k->log_sum_exp(x, n)))
        check_fail(c, "log_sum_exp overlooks a NaN at %lld of %lld", (long long)at, (long long)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = -INFINITY;
    if (k->argmax(x, n, &max) != 0 || k->log_sum_exp(x, n) != -INFINITY)
        check_fail(c, "argmax or log_sum_exp of nothing but -inf, n = %lld", (long long)n);
}

static void exp_range(check *c, const sala_kernels *k)
{
    /* 1 / (1 + e) for every magnitude of e = exp(-x), through swiglu with up = 1 / x. */
    float *x = check_guarded(4096 * sizeof(float)), *up = check_guarded(4096 * sizeof(float));
    for (int i = 0; i < 4096; i++) {
        x[i] = -87.0f + 0.0425f * (float)i + 0.01f;
        up[i] = 1.0f / x[i];
    }
    float *out = check_guarded(4096 * sizeof(float));
    k->swiglu(out, x, up, 4096);
    for (int i = 0; i < 4096; i++) {
        const double want = (double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i];
        compare(c, "exp in swiglu", 4096, i, (double)out[i], want, 5 * EPS * want);
    }
    const float special[4] = {NAN, -200.0f, 200.0f, INFINITY}, ones[4] = {1, 1, 1, 1};
    k->swiglu(out, special, ones, 4);
    if (!isnan(out[0]) || out[1] != 0 || out[2] != 200.0f || out[3] != INFINITY)
        check_fail(c, "swiglu of NaN, -200, 200, inf: %g %g %g %g", (double)out[0], (double)out[1], (double)out[2],
                   (double)out[3]);
}

/* Numbers at the edge of what f32 holds, and beyond: denormals keep their value, what is not finite stays where it
 * belongs and never turns into something that looks sound. */
static void edges(check *c, const sala_kernels *k, int n)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    const size_t bytes = (size_t)n * sizeof(float);
    float *x = random_floats(c, n, 1), *out = check_guarded(bytes);
    const float *y = random_floats(c, n, 1), *z = random_floats(c, n, 1);
    const int at = check_below(c, n);
    for (int i = 0; i < 4; i++) {
        const float was = x[at];
        x[at] = bad[i];
        k->rms_norm(out, x, NULL, n, 1e-5f);
        /* Whoever adds squares in double gets over the last one. */
        if (isfinite(out[at]) && (i < 3 || !(fabs((double)out[at] - sqrt((double)n)) <= n * EPS)))
            check_fail(c, "rms_norm, %g at %d of %d gives %g", (double)bad[i], at, n, (double)out[at]);
        memcpy(out, y, bytes);
        k->add_scaled(out, x, 2, n); /* twice 3e38 is too much as well */
        for (int j = 0; j < n; j++)
            if (isfinite(out[j]) != (j != at))
                check_fail(c, "add_scaled, %g at %d of %d: element %d is %g", (double)bad[i], at, n, j, (double)out[j]);
        k->swiglu(out, x, z, n);
        for (int j = 0; j < n; j++)
            if (j != at && !isfinite(out[j]))
                check_fail(c, "swiglu, %g at %d of %d: element %d is %g", (double)bad[i], at, n, j, (double)out[j]);
        if (i == 0 && !isnan(out[at]))
            check_fail(c, "swiglu of NaN is %g", (double)out[at]);
        if (n > 1 && i < 3) {
            const int n_rot = n / 2 * 2, p = at % n_rot, pair = p < n_rot / 2 ? p + n_rot / 2 : p - n_rot / 2;
            memcpy(out, y, bytes);
            out[p] = bad[i];
            k->rope(out, z, y, 1, n, n_rot, true);
            for (int j = 0; j < n; j++)
                if (isfinite(out[j]) != (j != p && j != pair))
                    check_fail(c, "rope, %g at %d of %d: component %d is %g", (double)bad[i], p, n, j, (double)out[j]);
        }
        x[at] = was;
    }
    for (int j = 0; j < n; j++)
        x[j] = ldexpf(1 + (float)check_below(c, 1000) / 1000, -127 - check_below(c, 12));
    const double smallest = 0x1p-149;
    k->rms_norm(out, x, NULL, n, 1e-5f);
    for (int j = 0; j < n; j++) {
        const double want = (double)x[j] / sqrt((double)1e-5f);
        compare(c, "rms_norm of denormals", n, j, (double)out[j], want, (double)(n + 8) * EPS * want + smallest);
    }
    k->swiglu(out, x, y, n);
    for (int j = 0; j < n; j++)
        compare(c, "swiglu of denormals", n, j, (double)out[j], (double)x[j] / 2 * (double)y[j], 2 * smallest);
    float max;
    x[at] = 0x1p-125f;
    if (k->argmax(x, n, &max) != at || max != 0x1p-125f || !k->all_finite(x, n))
        check_fail(c, "argmax or all_finite of denormals, n = %d", n);
    for (int j = 0; j < n; j++)
        x[j] = j % 2 ? FLT_MAX : -FLT_MAX;
    if (!k->all_finite(x, n))
        check_fail(c, "all_finite is false of the largest numbers, n = %d", n);
    for (int j = 0; j < n; j++)
        x[j] = -INFINITY;
    x[at] = 3;
    compare(c, "log_sum_exp of one number among -inf", n, at, k->log_sum_exp(x, n), 3, 1e-12);
    x[at] = INFINITY;
    if (k->log_sum_exp(x, n) != INFINITY || k->argmax(x, n, &max) != at)
        check_fail(c, "log_sum_exp or argmax of +inf, n = %d", n);
    check_reset();
}

/* The loops that kernels are compared with do what they say, and nothing beyond their memory. */
static void limit_loops(check *c, const sala_kernels *k)
{
    sala_limits loops;
    sala_limits_get(&loops, k);
    for (size_t bytes = SALA_LIMIT_STEP; bytes <= 3 * SALA_LIMIT_STEP; bytes += SALA_LIMIT_STEP) {
        uint8_t *from = check_guarded(bytes), *to = check_guarded(bytes);
        for (size_t i = 0; i < bytes; i++)
            from[i] = (uint8_t)check_random(c);
        loops.read(from, bytes);
        loops.copy(to, from, bytes);
        if (memcmp(to, from, bytes) != 0)
            check_fail(c, "the copying loop does not copy %zu bytes", bytes);
    }
    const sala_limit_loop *const all[] = {&loops.f32, &loops.i8, &loops.bf16};
    for (int i = 0; i < 3; i++)
        if (all[i]->run ? !all[i]->name || all[i]->run(3) <= 0 || all[i]->run(6) != 2 * all[i]->run(3) : i == 0)
            check_fail(c, "the loop of multiply-adds number %d counts wrongly", i);
    check_reset();
}

/* All builds of the reference give the same bits. */
static void same_reference(check *c)
{
    static const uint32_t builds[] = {SALA_CPU_AVX2, SALA_CPU_AVX512};
    enum { N = 1000, D = 72, Q = 5 };
    sala_kernels k[2];
    sala_kernels_get(&k[0], "ref", 0);
    for (size_t b = 0; b < SALA_CHECK_LEN(builds); b++) {
        if (builds[b] & ~c->cpu)
            continue;
        sala_kernels_get(&k[1], "ref", builds[b]);
        const float *x = random_floats(c, N, 9), *y = random_floats(c, N, 2);
        const float *q = random_floats(c, Q * D, 1);
        const float *rows = random_floats(c, (int64_t)2 * SALA_KV_BLOCK * D, 2);
        const int32_t visible[Q] = {1, 64, 33, 16, 0};
        float *out[2], *scratch = check_guarded(SALA_ATTN_SCRATCH(Q, D) * sizeof(float));
        double lse[2];
        const size_t block = 2 * SALA_KV_BLOCK * D;
        const size_t total = 4 * N + SALA_N_KV_KERNELS * (Q * (D + 2) + 2 * block);
        for (int i = 0; i < 2; i++) {
            float *o = out[i] = check_guarded(total * sizeof(float));
            k[i].rms_norm(o, x, y, N, 1e-6f);
            k[i].swiglu(o + N, x, y, N);
            memcpy(o + 2 * N, x, N * sizeof(float));
            k[i].add_scaled(o + 2 * N, y, 0.3f, N);
            memcpy(o + 3 * N, x, N * sizeof(float));
            k[i].rope(o + 3 * N, x, y, 10, 100, 96, b % 2);
            float *at = o + 4 * N;
            memset(at, 0, (total - 4 * N) * sizeof(float));
            for (int as = 0; as < SALA_N_KV_KERNELS; as++) {
                const sala_kv_kernels *kv = &k[i].kv[as];
                float *acc = at, *m = acc + Q * D, *l = m + Q, *stored = l + Q, *loaded = stored + block;
                at = loaded + block;
                for (int j = 0; j < Q; j++)
                    m[j] = -INFINITY;
                kv->store(stored, stored + block / 2, 0, SALA_KV_BLOCK, rows, rows + D, 2 * D, D);
                kv->load_keys(loaded, stored, D);
                kv->load_values(loaded + block / 2, stored + block / 2, SALA_KV_BLOCK, D);
                kv->attn_block(acc, m, l, q, stored, stored + block / 2, Q, D, visible, scratch, NULL);
            }
            lse[i] = k[i].log_sum_exp(x, N);
        }
        if (memcmp(out[0], out[1], total * sizeof(float)) != 0 || memcmp(&lse[0], &lse[1], sizeof lse[0]) != 0)
            check_fail(c, "the reference's build for cpu features 0x%x gives other bits", (unsigned)builds[b]);
        check_reset();
    }
}

typedef struct timing {
    const sala_kernels *k;
    float *x, *y, *out;
    uint16_t *h;
    int which;
} timing;

#define BENCH_N 49152

static void run_timing(void *user)
{
    const timing *t = user;
    float max;
    switch (t->which) {
    case 0:
        t->k->rms_norm(t->out, t->x, t->y, BENCH_N, 1e-5f);
        break;
    case 1:
        t->k->add_scaled(t->out, t->y, 0.5f, BENCH_N);
        break;
    case 2:
        t->k->swiglu(t->out, t->x, t->y, BENCH_N);
        break;
    case 3:
        t->k->rope(t->out, t->x, t->y, BENCH_N / 64, 64, 64, true);
        break;
    case 4:
        t->k->rope(t->out, t->x, t->y, BENCH_N / 64, 64, 64, false);
        break;
    case 5:
        t->k->f32_to_f16(t->h, t->x, BENCH_N);
        break;
    case 6:
        t->k->f16_to_f32(t->out, t->h, BENCH_N);
        break;
    case 7:
        t->k->argmax(t->x, BENCH_N, &max);
        break;
    case 8:
        t->k->log_sum_exp(t->x, BENCH_N);
        break;
    default:
        t->k->all_finite(t->x, BENCH_N);
    }
}

static void bench(check *c, const sala_kernels *k)
{
    static const char *const names[] = {"rms_norm",   "add_scaled", "swiglu", "rope halves", "rope pairs",
                                        "f32_to_f16", "f16_to_f32", "argmax", "log_sum_exp", "all_finite"};
    timing t = {.k = k};
    t.x = random_floats(c, BENCH_N, 1);
    t.y = random_floats(c, BENCH_N, 1);
    t.out = random_floats(c, BENCH_N, 1);
    t.h = check_guarded(BENCH_N * sizeof(uint16_t));
    printf("%-24s elements/ns:", k->family);
    for (t.which = 0; t.which < (int)SALA_CHECK_LEN(names); t.which++)
        printf("  %s %.2f", names[t.which], BENCH_N * 1e-9 / check_time(run_timing, &t));
    printf("\n");
}

void check_ops(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        sala_kernels k;
        if (!check_begin_family(c, &k, "elementwise", *f))
            continue;
        if (c->bench) {
            bench(c, &k);
        } else {
            for (int n = 1; n < 200; n += n < 70 ? 1 : 13) {
                rms_norm(c, &k, n);
                add_scaled(c, &k, n);
                swiglu(c, &k, n);
                rope(c, &k, n);
                halves(c, &k, n);
                reductions(c, &k, n);
                check_reset();
            }
            rms_norm(c, &k, 4099);
            reductions(c, &k, 4099);
            halves(c, &k, 4099);
            exp_range(c, &k);
            check_reset();
            static const int sizes[] = {1, 2, 15, 16, 17, 64, 131, 300};
            for (size_t i = 0; i < SALA_CHECK_LEN(sizes); i++)
                edges(c, &k, sizes[i]);
            limit_loops(c, &k);
            if (strcmp(*f, "ref") == 0)
                same_reference(c);
        }
        check_end(c);
    }
}
