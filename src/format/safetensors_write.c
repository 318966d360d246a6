/* Writing safetensors: the header is known once all tensors are declared, data may come in any order. */
#include "format/out_data.h"
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>

#define MAX_NAME 1024

struct sala_safetensors_writer {
    sala_out_data d;
    uint64_t data_bytes;
};

static const char *dtype_text(sala_dtype dtype)
{
    switch (dtype) {
    case SALA_F32:
        return "F32";
    case SALA_F16:
        return "F16";
    case SALA_BF16:
        return "BF16";
    case SALA_F64:
        return "F64";
    case SALA_I8:
        return "I8";
    case SALA_I16:
        return "I16";
    case SALA_I32:
        return "I32";
    case SALA_I64:
        return "I64";
    default:
        return NULL;
    }
}

sala_status sala_safetensors_writer_open(sala_safetensors_writer **out, const char *path, sala_error *err)
{
    sala_safetensors_writer *w = calloc(1, sizeof *w);
    if (!w)
        return sala_fail_memory(err, sizeof *w);
    const sala_status st = sala_out_data_open(&w->d, path, err);
    if (st != SALA_OK) {
        free(w);
        return st;
    }
    *out = w;
    return SALA_OK;
}

void sala_safetensors_write_tensor(sala_safetensors_writer *w, const char *name, sala_dtype dtype, int n_dims,
                                   const int64_t *ne)
{
    if (!dtype_text(dtype))
        sala_out_data_mistake(&w->d, SALA_E_UNSUPPORTED, "tensor \"%s\": safetensors has no type %s", name,
                              sala_dtype_name(dtype));
    else if (strcmp(name, "__metadata__") == 0)
        sala_out_data_mistake(&w->d, SALA_E_INVALID, "a tensor can not be named __metadata__");
    else
        sala_out_data_declare(&w->d, name, MAX_NAME, dtype, n_dims, ne);
}

/* The widest elements first, so that every tensor is aligned to its element although there may be no gaps. */
static void place(sala_safetensors_writer *w)
{
    for (int size = 8; size >= 1; size /= 2) {
        for (size_t i = 0; i < w->d.count; i++) {
            sala_out_tensor *t = &w->d.tensors[i];
            if (sala_dtype_get((int)t->dtype)->block_bytes != size)
                continue;
            t->at = w->data_bytes;
            w->data_bytes += t->bytes;
        }
    }
}

static void add_entry(sala_buf *b, const sala_out_tensor *t)
{
    sala_buf_add_str(b, ",\"");
    for (const char *p = t->name; *p; p++) { /* names hold no control characters */
        if (*p == '"' || *p == '\\')
            sala_buf_add_char(b, '\\');
        sala_buf_add_char(b, *p);
    }
    sala_buf_printf(b, "\":{\"dtype\":\"%s\",\"shape\":[", dtype_text(t->dtype));
    for (int i = t->n_dims - 1; i >= 0; i--)
        sala_buf_printf(b, "%" PRId64 "%s", t->ne[i], i ? "," : "");
    sala_buf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->at, t->at + t->bytes);
}

sala_status sala_safetensors_writer_begin_data(sala_safetensors_writer *w, sala_error *err)
{
    sala_out_data *d = &w->d;
    if (d->begun)
        return sala_fail(err, SALA_E_STATE, "%s: the data have begun already", d->path);
    const sala_status st = sala_out_data_check(d, err);
    if (st != SALA_OK)
        return st;
    place(w);
    sala_buf header = {0};
    /* Older releases of transformers refuse files that do not name a framework. */
    sala_buf_add_str(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < d->count; i++)
        add_entry(&header, &d->tensors[i]);
    sala_buf_add_char(&header, '}');
    while (header.len % 8 && !header.failed)
        sala_buf_add_char(&header, ' ');
    if (header.failed) {
        sala_buf_free(&header);
        return sala_fail_memory(err, d->count * 128);
    }
    const uint64_t len = header.len;
    (void)sala_os_out_write(d->file, &len, sizeof len);
    const int e = sala_os_out_write(d->file, header.data, header.len);
    sala_buf_free(&header);
    d->data_at = 8 + len;
    d->begun = true;
    return e ? sala_fail_errno(err, e, "could not write %s", d->path) : SALA_OK;
}

sala_status sala_safetensors_write_data(sala_safetensors_writer *w, size_t tensor, uint64_t offset, const void *data,
                                        uint64_t bytes, sala_error *err)
{
    return sala_out_data_write(&w->d, tensor, offset, data, bytes, err);
}

sala_status sala_safetensors_writer_commit(sala_safetensors_writer *w, sala_error *err)
{
    const sala_status st = sala_out_data_commit(&w->d, 0, err);
    free(w);
    return st;
}

void sala_safetensors_writer_abort(sala_safetensors_writer *w)
{
    if (!w)
        return;
    sala_out_data_abort(&w->d);
    free(w);
}
