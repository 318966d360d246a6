/* Frozen arrays (vectors.py) for tests: a file is read whole, an array is asked for by name and comes as sala_num. */
#ifndef SALA_TESTS_GRAD_VECTORS_H
#define SALA_TESTS_GRAD_VECTORS_H

#include "base/base.h"
#include "os/os.h"
#include "tensor/num.h"

#include "unit/test.h"

typedef struct vec {
    char name[65];
    char kind; /* 'f', 'i' */
    int elem_bytes, n_dims;
    int64_t shape[8], count;
    const uint8_t *data;
} vec;

typedef struct vec_file {
    uint8_t *data;
    size_t bytes;
    vec arrays[512];
    int n;
} vec_file;

static inline uint32_t vec_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void vec_open(vec_file *f, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/grad/vectors/%s.vec", SALA_TEST_DIR, name);
    memset(f, 0, sizeof *f);
    const int rc = sala_os_read_file(&f->data, &f->bytes, path, 0);
    if (rc)
        fail_msg("%s: errno %d", path, rc);
    assert_true(f->bytes >= 8 && memcmp(f->data, "SALAVEC1", 8) == 0);
    for (size_t at = 8; at < f->bytes;) {
        assert_in_range(f->n, 0, SALA_ARRAY_LEN(f->arrays) - 1);
        assert_true(at + 68 <= f->bytes);
        vec *v = &f->arrays[f->n++];
        memcpy(v->name, f->data + at, 64);
        v->kind = (char)f->data[at + 64];
        v->elem_bytes = f->data[at + 65];
        v->n_dims = f->data[at + 66];
        at += 68;
        v->count = 1;
        for (int d = 0; d < v->n_dims; d++, at += 4)
            v->count *= v->shape[d] = vec_u32(f->data + at);
        v->data = f->data + at;
        at += (size_t)v->count * (size_t)v->elem_bytes;
        assert_true(at <= f->bytes);
    }
}

static inline void vec_close(vec_file *f)
{
    free(f->data);
}

static inline const vec *vec_find(const vec_file *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->arrays[i].name, name) == 0)
            return &f->arrays[i];
    return NULL;
}

static inline const vec *vec_get(const vec_file *f, const char *name)
{
    const vec *v = vec_find(f, name);
    if (!v)
        fail_msg("there is no array \"%s\"", name);
    return v;
}

static inline double vec_at(const vec *v, int64_t i)
{
    if (v->elem_bytes == 8) {
        double x;
        memcpy(&x, v->data + i * 8, 8);
        return x;
    }
    float x;
    memcpy(&x, v->data + i * 4, 4);
    return x;
}

static inline int32_t vec_int(const vec *v, int64_t i)
{
    assert_int_equal(v->kind, 'i');
    return (int32_t)vec_u32(v->data + i * 4);
}

/* Copies for the caller to free. */
static inline sala_num *vec_nums(const vec_file *f, const char *name)
{
    const vec *v = vec_get(f, name);
    sala_num *out = malloc((size_t)v->count * sizeof *out + 1);
    assert_non_null(out);
    for (int64_t i = 0; i < v->count; i++)
        out[i] = (sala_num)vec_at(v, i);
    return out;
}

static inline float *vec_floats(const vec_file *f, const char *name)
{
    const vec *v = vec_get(f, name);
    float *out = malloc((size_t)v->count * sizeof *out + 1);
    assert_non_null(out);
    for (int64_t i = 0; i < v->count; i++)
        out[i] = (float)vec_at(v, i);
    return out;
}

static inline int32_t *vec_ints(const vec_file *f, const char *name)
{
    const vec *v = vec_get(f, name);
    int32_t *out = malloc((size_t)v->count * sizeof *out + 1);
    assert_non_null(out);
    for (int64_t i = 0; i < v->count; i++)
        out[i] = vec_int(v, i);
    return out;
}

#endif
