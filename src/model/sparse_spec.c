/* Sparse attention as a user asks for it, in words: "off", "on", or "topk=64,window=2048,...". */
#include "model/config.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

typedef struct field {
    const char *name;
    enum { INT32, INT64, FLAG } kind;
    size_t offset;
} field;

#define AT(member) offsetof(sala_sparse_config, member)
static const field fields[] = {
    {"topk", INT32, AT(topk)},
    {"window", INT32, AT(window_size)},
    {"dense-len", INT64, AT(dense_len)},
    {"block", INT32, AT(block_size)},
    {"init", INT32, AT(init_blocks)},
    {"kernel", INT32, AT(kernel_size)},
    {"stride", INT32, AT(kernel_stride)},
    {"nope", FLAG, AT(use_nope)},
};

static bool same_name(const char *name, const char *text, size_t n)
{
    if (strlen(name) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] != (text[i] == '_' ? '-' : text[i]))
            return false;
    return true;
}

static sala_status set_field(sala_sparse_config *s, const char *text, size_t n, sala_error *err)
{
    const char *equals = memchr(text, '=', n);
    const size_t name = equals ? (size_t)(equals - text) : n;
    const field *f = NULL;
    for (size_t i = 0; i < SALA_ARRAY_LEN(fields); i++)
        if (same_name(fields[i].name, text, name))
            f = &fields[i];
    if (!f)
        return sala_fail(
            err, SALA_E_INVALID,
            "sparse attention has no setting \"%.*s\"; known: topk, window, dense-len, block, init, kernel, "
            "stride, nope",
            (int)name, text);
    char *end = NULL;
    errno = 0;
    const long long v = equals ? strtoll(equals + 1, &end, 10) : 0;
    const long long most = f->kind == FLAG ? 1 : f->kind == INT32 ? INT32_MAX : INT64_MAX;
    if (!equals || end == equals + 1 || end != text + n || errno || v > most || v < (f->kind == FLAG ? 0 : -1))
        return sala_fail(err, SALA_E_INVALID, "sparse attention: \"%.*s\", expected %s=NUMBER", (int)n, text, f->name);
    void *p = (char *)s + f->offset;
    if (f->kind == FLAG)
        *(bool *)p = v != 0;
    else if (f->kind == INT64)
        *(int64_t *)p = v;
    else
        *(int32_t *)p = (int32_t)v;
    return SALA_OK;
}

sala_status sala_config_ask_sparse(sala_config *c, const char *words, sala_error *err)
{
    if (strcmp(words, "off") == 0)
        return sala_config_set_sparse(c, NULL, err);
    sala_sparse_config s = c->sparse.block_size > 0 ? c->sparse : sala_sparse_defaults();
    if (strcmp(words, "on") != 0) {
        for (const char *p = words;;) {
            const size_t n = strcspn(p, ",");
            const sala_status st = set_field(&s, p, n, err);
            if (st != SALA_OK)
                return st;
            if (!p[n])
                break;
            p += n + 1;
        }
    }
    if (s.block_size == 0)
        return sala_fail(err, SALA_E_INVALID, "sparse attention with blocks of 0 tokens; \"off\" turns it off");
    if (c->sliding_window > 0)
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "the model has a sliding window of %d tokens; sparse attention can not be added to it",
                         (int)c->sliding_window);
    return sala_config_set_sparse(c, &s, err);
}
