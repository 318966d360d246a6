#include "format/out_data.h"
#include "format/index.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

sala_status sala_out_data_open(sala_out_data *d, const char *path, sala_error *err)
{
    *d = (sala_out_data){.path = sala_strdup(path)};
    if (!d->path)
        return sala_fail_memory(err, strlen(path));
    const int e = sala_os_out_open(&d->file, path);
    if (e) {
        d->file = NULL;
        free(d->path);
        return sala_fail_errno(err, e, "could not create %s", path);
    }
    return SALA_OK;
}

void sala_out_data_mistake(sala_out_data *d, sala_status code, const char *fmt, ...)
{
    if (d->mistake.code != SALA_OK)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(d->mistake.message, sizeof d->mistake.message, fmt, args);
    va_end(args);
    d->mistake.code = code;
    d->mistake.position = -1;
}

static bool shape_bytes(sala_out_tensor *t)
{
    const sala_dtype_info *info = sala_dtype_get((int)t->dtype);
    uint64_t elements = 1;
    for (int i = 0; i < t->n_dims; i++)
        if (t->ne[i] < 1 || !sala_mul_size(&elements, elements, (uint64_t)t->ne[i]) || elements > INT64_MAX)
            return false;
    if (!info || t->ne[0] % info->block_weights)
        return false;
    t->bytes = sala_dtype_bytes(t->dtype, (int64_t)elements);
    return t->bytes != 0;
}

void sala_out_data_declare(sala_out_data *d, const char *name, size_t max_name, sala_dtype dtype, int n_dims,
                           const int64_t *ne)
{
    if (d->begun) {
        sala_out_data_mistake(d, SALA_E_STATE, "tensor \"%s\" is declared after the data have begun", name);
        return;
    }
    sala_out_tensor t = {.dtype = dtype, .n_dims = n_dims, .ne = {1, 1, 1, 1}};
    const bool dims_fit = n_dims >= 0 && n_dims <= SALA_MAX_DIMS;
    for (int i = 0; dims_fit && i < n_dims; i++)
        t.ne[i] = ne[i];
    if (strlen(name) > max_name || !sala_name_is_clean(name, strlen(name))) {
        sala_out_data_mistake(d, SALA_E_INVALID, "a tensor's name is empty, longer than %zu bytes or not plain text",
                              max_name);
        return;
    }
    if (!dims_fit || !shape_bytes(&t)) {
        sala_out_data_mistake(d, SALA_E_INVALID, "tensor \"%s\" has a shape that type %s can not have", name,
                              sala_dtype_name(dtype));
        return;
    }
    if (d->count == d->cap) {
        const size_t cap = d->cap ? d->cap * 2 : 256;
        sala_out_tensor *grown = realloc(d->tensors, cap * sizeof *grown);
        if (!grown) {
            sala_out_data_mistake(d, SALA_E_MEMORY, "could not get memory for %zu tensors", cap);
            return;
        }
        d->tensors = grown;
        d->cap = cap;
    }
    t.name = sala_strdup(name);
    if (!t.name) {
        sala_out_data_mistake(d, SALA_E_MEMORY, "could not get memory for a name");
        return;
    }
    d->tensors[d->count++] = t;
}

sala_status sala_out_data_check(sala_out_data *d, sala_error *err)
{
    sala_name_entry *entries = malloc((d->count + 1) * sizeof *entries);
    if (!entries)
        return sala_fail_memory(err, d->count * sizeof *entries);
    for (size_t i = 0; i < d->count; i++)
        entries[i] = (sala_name_entry){d->tensors[i].name, i};
    sala_name_index index;
    const char *twice;
    if (!sala_name_index_build(&index, entries, d->count, &twice))
        sala_out_data_mistake(d, SALA_E_INVALID, "tensor \"%s\" is declared twice", twice);
    sala_name_index_free(&index);
    if (d->mistake.code == SALA_OK)
        return SALA_OK;
    return sala_fail(err, d->mistake.code, "%s: %s", d->path, d->mistake.message);
}

/* Adds [begin, end) to what has arrived; false when memory is out. Writers go forward, so that this nearly always
 * extends the last range. */
static bool mark_done(sala_out_tensor *t, uint64_t begin, uint64_t end)
{
    size_t i = t->n_done;
    while (i > 0 && t->done[i - 1].begin > begin)
        i--;
    /* done[i-1] begins at or before `begin`; merge with it and with everything that is touched behind. */
    if (i > 0 && t->done[i - 1].end >= begin) {
        i--;
        if (t->done[i].end < end)
            t->done[i].end = end;
    } else {
        if (t->n_done == t->done_cap) {
            const size_t cap = t->done_cap ? t->done_cap * 2 : 4;
            sala_out_range *grown = realloc(t->done, cap * sizeof *grown);
            if (!grown)
                return false;
            t->done = grown;
            t->done_cap = cap;
        }
        memmove(t->done + i + 1, t->done + i, (t->n_done - i) * sizeof *t->done);
        t->done[i] = (sala_out_range){begin, end};
        t->n_done++;
    }
    size_t last = i + 1;
    while (last < t->n_done && t->done[last].begin <= t->done[i].end) {
        if (t->done[last].end > t->done[i].end)
            t->done[i].end = t->done[last].end;
        last++;
    }
    memmove(t->done + i + 1, t->done + last, (t->n_done - last) * sizeof *t->done);
    t->n_done -= last - i - 1;
    return true;
}

sala_status sala_out_data_write(sala_out_data *d, size_t tensor, uint64_t offset, const void *data, uint64_t bytes,
                                sala_error *err)
{
    if (!d->begun || tensor >= d->count)
        return sala_fail(err, SALA_E_STATE, "%s: data of tensor %zu, but %zu are declared%s", d->path, tensor, d->count,
                         d->begun ? "" : " and the data have not begun");
    sala_out_tensor *t = &d->tensors[tensor];
    if (offset > t->bytes || bytes > t->bytes - offset)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: bytes %" PRIu64 " to %" PRIu64 " of tensor \"%s\", which has only %" PRIu64, d->path,
                         offset, offset + bytes, t->name, t->bytes);
    if (bytes == 0)
        return SALA_OK;
    const int e = sala_os_out_write_at(d->file, d->data_at + t->at + offset, data, (size_t)bytes);
    if (e)
        return sala_fail_errno(err, e, "could not write %s", d->path);
    if (!mark_done(t, offset, offset + bytes))
        return sala_fail_memory(err, sizeof *t->done);
    return SALA_OK;
}

void sala_out_data_abort(sala_out_data *d)
{
    sala_os_out_abort(d->file);
    for (size_t i = 0; i < d->count; i++) {
        free(d->tensors[i].name);
        free(d->tensors[i].done);
    }
    free(d->tensors);
    free(d->path);
    *d = (sala_out_data){0};
}

static sala_status finish(sala_out_data *d, uint64_t file_bytes, sala_error *err)
{
    uint64_t end = sala_os_out_tell(d->file);
    if (!d->begun)
        return sala_fail(err, SALA_E_STATE, "%s: the data have not begun", d->path);
    if (d->mistake.code != SALA_OK) /* made after the data began */
        return sala_fail(err, d->mistake.code, "%s: %s", d->path, d->mistake.message);
    for (size_t i = 0; i < d->count; i++) {
        const sala_out_tensor *t = &d->tensors[i];
        if (t->n_done != 1 || t->done[0].begin != 0 || t->done[0].end != t->bytes)
            return sala_fail(err, SALA_E_STATE, "%s: tensor \"%s\" was not written completely", d->path, t->name);
        if (d->data_at + t->at + t->bytes > end)
            end = d->data_at + t->at + t->bytes;
    }
    int e = 0;
    if (end < file_bytes)
        e = sala_os_out_write_at(d->file, file_bytes - 1, "", 1);
    if (!e) {
        e = sala_os_out_commit(d->file);
        d->file = NULL;
    }
    return e ? sala_fail_errno(err, e, "could not write %s", d->path) : SALA_OK;
}

sala_status sala_out_data_commit(sala_out_data *d, uint64_t file_bytes, sala_error *err)
{
    const sala_status st = finish(d, file_bytes, err);
    sala_out_data_abort(d);
    return st;
}
