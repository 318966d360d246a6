/* A training device with its arenas, and how far numbers are from what they should be, for tests of gradients. Each
 * test here is built twice: over doubles (SALA_TRAIN_F64) and over floats, with every family of kernels that the
 * machine has. */
#ifndef SALA_TESTS_GRAD_TEST_H
#define SALA_TESTS_GRAD_TEST_H

#include "backend/grad.h"
#include "grad/device.h"

#include "vectors.h"

#include <math.h>

/* Relative L2 distance that is allowed. */
#ifdef SALA_TRAIN_F64
#define EXACT 1e-6
#else
#define EXACT 1e-4
#endif
#define ROUNDED 2e-2 /* bf16 products */

typedef struct fixture {
    sala_pool *pool;
    sala_backend *be;
    const sala_backend_ops *ops;
    const sala_grad_ops *grad;
    sala_num *values, *grads;
    int64_t used;
    double tolerance;
    const char *what; /* kernels and precision, for messages */
    /* Of all comparisons, the one that came nearest to its limit. */
    double worst, worst_limit;
    char worst_name[64];
} fixture;

enum { FIXTURE_NUMBERS = 1 << 20 };

/* What tests open a device with, one after the other. */
typedef struct fixture_kind {
    const char *what, *kernels;
    sala_precision precision;
    bool plain;
    int n_threads;
} fixture_kind;

static const fixture_kind fixture_kinds[] = {
    {"ref", "ref", SALA_PRECISION_F32, true, 1},
    {"ref bf16", "ref", SALA_PRECISION_BF16, true, 1},
#ifndef SALA_TRAIN_F64
    {"avx2 bf16", "avx2", SALA_PRECISION_BF16, true, 2},
    {"avx2", "avx2", SALA_PRECISION_F32, true, 2},
    {"avx512", "avx512", SALA_PRECISION_F32, true, 3},
    {"neon", "neon", SALA_PRECISION_F32, true, 2},
    {"auto", NULL, SALA_PRECISION_F32, false, 2},
    {"auto bf16", NULL, SALA_PRECISION_BF16, false, 2},
    {"auto bf16 emulated", NULL, SALA_PRECISION_BF16, true, 2},
#endif
};

/* False where this machine has no such kernels. */
static inline bool fixture_open(fixture *f, const fixture_kind *kind, const sala_backend_limits *limits)
{
    sala_train_kernels k;
    memset(f, 0, sizeof *f);
    if (!sala_train_kernels_get(&k, kind->kernels, sala_os_cpu_features()))
        return false;
    f->what = kind->what;
    f->tolerance = kind->precision == SALA_PRECISION_BF16 ? ROUNDED : EXACT;
    assert_int_equal(sala_pool_open(&f->pool, kind->n_threads), 0);
    f->values = sala_os_pages_alloc(FIXTURE_NUMBERS * sizeof *f->values);
    f->grads = sala_os_pages_alloc(FIXTURE_NUMBERS * sizeof *f->grads);
    assert_non_null(f->values);
    assert_non_null(f->grads);
    const sala_device_params params = {.pool = f->pool,
                                       .kernels = kind->kernels,
                                       .precision = kind->precision,
                                       .plain_products = kind->plain,
                                       .values = f->values,
                                       .grads = f->grads};
    sala_error err;
    if (sala_device_open(&f->be, &params, &err) != SALA_OK)
        fail_msg("%s: %s", kind->what, err.message);
    f->ops = f->be->ops;
    f->grad = sala_device_grad_ops(f->be);
    if (f->ops->reserve(f->be, limits, &err) != SALA_OK)
        fail_msg("%s: %s", kind->what, err.message);
    return true;
}

static inline void fixture_close(fixture *f)
{
    f->ops->close(f->be);
    sala_pool_close(f->pool);
    sala_os_pages_free(f->values, FIXTURE_NUMBERS * sizeof *f->values);
    sala_os_pages_free(f->grads, FIXTURE_NUMBERS * sizeof *f->grads);
}

/* A parameter: its values, in the arena. */
static inline sala_num *fixture_param(fixture *f, const vec *v)
{
    sala_num *at = f->values + f->used;
    assert_true(f->used + v->count + 16 <= FIXTURE_NUMBERS);
    for (int64_t i = 0; i < v->count; i++)
        at[i] = (sala_num)vec_at(v, i);
    f->used += (v->count + 15) / 16 * 16;
    return at;
}

static inline sala_num *fixture_grad(const fixture *f, const sala_num *param)
{
    return f->grads + (param - f->values);
}

static inline sala_weight *fixture_weight(fixture *f, const vec *v)
{
    assert_int_equal(v->n_dims, 2);
    sala_weight *w = NULL;
    sala_error err;
    if (f->ops->weight_new(f->be, &w, SALA_F32, v->shape[0], v->shape[1], fixture_param(f, v), &err) != SALA_OK)
        fail_msg("%s: %s", f->what, err.message);
    return w;
}

static inline double distance(const sala_num *got, const vec *want)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < want->count; i++) {
        const double d = (double)got[i] - vec_at(want, i);
        off += d * d;
        size += vec_at(want, i) * vec_at(want, i);
    }
    return sqrt(off / (size > 0 ? size : 1));
}

/* Written so that a NaN fails. */
static inline void expect_near(fixture *f, const sala_num *got, const vec_file *file, const char *name,
                               double tolerance)
{
    const double d = distance(got, vec_get(file, name));
    if (!(d <= tolerance))
        fail_msg("%s: %s is %.3g off, %.1g is allowed", f->what, name, d, tolerance);
    if (!f->worst_limit || d / tolerance > f->worst / f->worst_limit) {
        f->worst = d;
        f->worst_limit = tolerance;
        snprintf(f->worst_name, sizeof f->worst_name, "%s", name);
    }
}

static inline void expect(fixture *f, const sala_num *got, const vec_file *file, const char *name)
{
    expect_near(f, got, file, name, f->tolerance);
}

/* A line of the table of gradient checks (tests/grad/table.sh): what was compared, over which numbers, how far off the
 * worst of its gradients was, and how far it may be. */
static inline void grad_report(const char *what, const char *kind, double off, double limit, const char *worst)
{
#ifdef SALA_TRAIN_F64
    const char *numbers = "f64";
#else
    const char *numbers = strstr(kind, "bf16") ? "bf16" : "f32";
#endif
    printf("gradient\t%s\t%s\t%s\t%.1e\t%.1e\t%s\n", what, numbers, kind, off, limit, worst);
}

static inline sala_num *nums(int64_t n)
{
    sala_num *p = calloc((size_t)n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

#endif
