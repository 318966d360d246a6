/* What tests of the backend share: frozen numbers, random rows, and comparison. */
#ifndef SALA_TESTS_UNIT_BACKEND_SUPPORT_H
#define SALA_TESTS_UNIT_BACKEND_SUPPORT_H

#include "backend/backend.h"

#include "base/json.h"
#include "unit/test.h"

#include <math.h>

static inline json_t *open_frozen(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/fixtures/%s", SALA_TEST_DIR, name);
    json_t *o = sala_json_load_file(path);
    if (!o)
        fail_msg("cannot read %s", path);
    return o;
}

static inline int64_t integer(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

/* The numbers of a list, NAN for null; NULL when there is no such list. Owned by the caller. */
static inline float *numbers(const json_t *o, const char *key, size_t *n)
{
    const json_t *list = json_object_get(o, key);
    *n = 0;
    if (!json_is_array(list))
        return NULL;
    *n = json_array_size(list);
    float *out = malloc((*n + 1) * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, i);
        out[i] = json_is_number(v) ? (float)json_number_value(v) : NAN;
    }
    return out;
}

static inline float *random_rows(sala_rng *rng, size_t n, double deviation)
{
    float *out = malloc((n + 1) * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(deviation * sala_rng_normal(rng));
    return out;
}

static inline void close_to(const float *got, const float *want, size_t n, double tolerance, const char *what,
                            const char *where)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * (1 + fabs((double)want[i]))))
            fail_msg("%s, %s: number %zu is %.9g, expected %.9g", where, what, i, (double)got[i], (double)want[i]);
}

static inline void same_bits(const void *a, const void *b, size_t bytes, const char *what)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < bytes; i++)
        if (x[i] != y[i])
            fail_msg("%s: differs at byte %zu of %zu", what, i, bytes);
}

static inline sala_backend *open_backend(const char *kernels, int threads, const sala_backend_limits *limits)
{
    sala_backend *be;
    sala_error err;
    if (sala_backend_cpu_open(&be, kernels, threads, true, &err) != SALA_OK ||
        be->ops->reserve(be, limits, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return be;
}

#endif
