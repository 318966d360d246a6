/* Writing GGUF version 3. Metadata go to the file as they come, however large the vocabulary; the two counts of the
 * header are filled in when it ends. */
#include "format/gguf_internal.h"
#include "format/index.h"
#include "format/out_data.h"

#include <stdlib.h>

#define COUNTS_AT 8 /* offset of the tensor count, which the metadata count follows */

struct sala_gguf_writer {
    sala_out_data d;
    uint64_t n_kv;
    uint64_t alignment;
    uint64_t data_bytes;
    sala_name_pool key_pool;
    sala_name_entry *keys; /* [n_kv], to find those written twice */
    size_t key_cap;
};

static void put(sala_gguf_writer *w, const void *data, size_t bytes)
{
    (void)sala_os_out_write(w->d.file, data, bytes); /* a failure is kept and reported by begin_data */
}

static void put_u32(sala_gguf_writer *w, uint32_t v)
{
    put(w, &v, sizeof v);
}

static void put_u64(sala_gguf_writer *w, uint64_t v)
{
    put(w, &v, sizeof v);
}

static void put_string(sala_gguf_writer *w, const char *s, size_t len)
{
    put_u64(w, len);
    put(w, s, len);
}

sala_status sala_gguf_writer_open(sala_gguf_writer **out, const char *path, sala_error *err)
{
    sala_gguf_writer *w = calloc(1, sizeof *w);
    if (!w)
        return sala_fail_memory(err, sizeof *w);
    const sala_status st = sala_out_data_open(&w->d, path, err);
    if (st != SALA_OK) {
        free(w);
        return st;
    }
    w->alignment = SALA_GGUF_ALIGNMENT;
    put(w, "GGUF", 4);
    put_u32(w, SALA_GGUF_VERSION);
    put_u64(w, 0);
    put_u64(w, 0);
    *out = w;
    return SALA_OK;
}

static void free_writer(sala_gguf_writer *w)
{
    sala_name_pool_free(&w->key_pool);
    free(w->keys);
    free(w);
}

/* Writes key and type; false when the value must not follow. */
static bool begin_kv(sala_gguf_writer *w, const char *key, sala_gguf_type type)
{
    if (w->d.begun) {
        sala_out_data_mistake(&w->d, SALA_E_STATE, "key \"%s\" comes after the data have begun", key);
        return false;
    }
    const size_t len = strlen(key);
    if (len > SALA_GGUF_MAX_KEY || !sala_name_is_clean(key, len)) {
        sala_out_data_mistake(&w->d, SALA_E_INVALID, "a key is empty, longer than %d bytes or not plain text",
                              SALA_GGUF_MAX_KEY);
        return false;
    }
    if (w->n_kv == w->key_cap) {
        const size_t cap = w->key_cap ? w->key_cap * 2 : 64;
        sala_name_entry *grown = realloc(w->keys, cap * sizeof *grown);
        if (!grown) {
            sala_out_data_mistake(&w->d, SALA_E_MEMORY, "could not get memory for %zu keys", cap);
            return false;
        }
        w->keys = grown;
        w->key_cap = cap;
    }
    const char *copy = sala_name_copy(&w->key_pool, key, len);
    if (!copy) {
        sala_out_data_mistake(&w->d, SALA_E_MEMORY, "could not get memory for a key");
        return false;
    }
    w->keys[w->n_kv] = (sala_name_entry){copy, (size_t)w->n_kv};
    w->n_kv++;
    put_string(w, key, len);
    put_u32(w, (uint32_t)type);
    return true;
}

static void write_scalar(sala_gguf_writer *w, const char *key, sala_gguf_type type, const void *value)
{
    if (begin_kv(w, key, type))
        put(w, value, (size_t)sala_gguf_type_bytes(type));
}

/* The data section follows what this key says, whichever function wrote it. */
static void note_alignment(sala_gguf_writer *w, const char *key, int64_t value)
{
    if (strcmp(key, "general.alignment") != 0)
        return;
    if (value < 1 || value > SALA_GGUF_MAX_ALIGNMENT || (value & (value - 1)))
        sala_out_data_mistake(&w->d, SALA_E_INVALID, "general.alignment must be a power of two up to %d",
                              SALA_GGUF_MAX_ALIGNMENT);
    else
        w->alignment = (uint64_t)value;
}

void sala_gguf_write_u32(sala_gguf_writer *w, const char *key, uint32_t v)
{
    note_alignment(w, key, v);
    write_scalar(w, key, SALA_GGUF_U32, &v);
}

void sala_gguf_write_i32(sala_gguf_writer *w, const char *key, int32_t v)
{
    note_alignment(w, key, v);
    write_scalar(w, key, SALA_GGUF_I32, &v);
}

void sala_gguf_write_u64(sala_gguf_writer *w, const char *key, uint64_t v)
{
    note_alignment(w, key, v <= INT64_MAX ? (int64_t)v : -1);
    write_scalar(w, key, SALA_GGUF_U64, &v);
}

void sala_gguf_write_f32(sala_gguf_writer *w, const char *key, float v)
{
    write_scalar(w, key, SALA_GGUF_F32, &v);
}

void sala_gguf_write_bool(sala_gguf_writer *w, const char *key, bool v)
{
    const uint8_t byte = v;
    write_scalar(w, key, SALA_GGUF_BOOL, &byte);
}

void sala_gguf_write_str(sala_gguf_writer *w, const char *key, const char *s, size_t len)
{
    if (begin_kv(w, key, SALA_GGUF_STRING))
        put_string(w, s, len);
}

void sala_gguf_write_array(sala_gguf_writer *w, const char *key, sala_gguf_type elem, const void *data, uint64_t count)
{
    const uint64_t size = sala_gguf_type_bytes(elem);
    if (size == 0 && elem != SALA_GGUF_STRING) {
        sala_out_data_mistake(&w->d, SALA_E_INVALID, "key \"%s\": arrays of type %d can not be written", key,
                              (int)elem);
        return;
    }
    if (!begin_kv(w, key, SALA_GGUF_ARRAY))
        return;
    put_u32(w, (uint32_t)elem);
    put_u64(w, count);
    if (size) {
        put(w, data, (size_t)(size * count));
        return;
    }
    const sala_gguf_str *strings = data;
    for (uint64_t i = 0; i < count; i++)
        put_string(w, strings[i].s, strings[i].len);
}

void sala_gguf_write_kv(sala_gguf_writer *w, const sala_gguf_kv *kv)
{
    if (strncmp(kv->key, "split.", 6) == 0) /* what is written is one file, whatever the source was */
        return;
    int64_t alignment;
    if (sala_gguf_kv_i64(kv, &alignment))
        note_alignment(w, kv->key, alignment);
    if (!begin_kv(w, kv->key, kv->type))
        return;
    if (kv->type == SALA_GGUF_ARRAY) {
        put_u32(w, (uint32_t)kv->elem_type);
        put_u64(w, kv->count);
    }
    put(w, kv->raw, (size_t)kv->raw_bytes);
}

void sala_gguf_write_tensor(sala_gguf_writer *w, const char *name, sala_dtype dtype, int n_dims, const int64_t *ne)
{
    /* Other readers take names of at most 63 bytes. */
    sala_out_data_declare(&w->d, name, 63, dtype, n_dims, ne);
}

sala_status sala_gguf_writer_begin_data(sala_gguf_writer *w, sala_error *err)
{
    sala_out_data *d = &w->d;
    if (d->begun)
        return sala_fail(err, SALA_E_STATE, "%s: the data have begun already", d->path);
    sala_name_index index;
    const char *twice;
    if (!sala_name_index_build(&index, w->keys, (size_t)w->n_kv, &twice))
        sala_out_data_mistake(d, SALA_E_INVALID, "key \"%s\" is written twice", twice);
    const sala_status st = sala_out_data_check(d, err);
    if (st != SALA_OK)
        return st;
    for (size_t i = 0; i < d->count; i++) {
        sala_out_tensor *t = &d->tensors[i];
        t->at = w->data_bytes;
        w->data_bytes = sala_align_up(t->at + t->bytes, w->alignment);
        put_string(w, t->name, strlen(t->name));
        put_u32(w, (uint32_t)t->n_dims);
        for (int k = 0; k < t->n_dims; k++)
            put_u64(w, (uint64_t)t->ne[k]);
        put_u32(w, (uint32_t)t->dtype);
        put_u64(w, t->at);
    }
    const uint64_t counts[2] = {d->count, w->n_kv};
    d->data_at = sala_align_up(sala_os_out_tell(d->file), w->alignment);
    d->begun = true;
    const int e = sala_os_out_write_at(d->file, COUNTS_AT, counts, sizeof counts);
    return e ? sala_fail_errno(err, e, "could not write %s", d->path) : SALA_OK;
}

sala_status sala_gguf_write_data(sala_gguf_writer *w, size_t tensor, uint64_t offset, const void *data, uint64_t bytes,
                                 sala_error *err)
{
    return sala_out_data_write(&w->d, tensor, offset, data, bytes, err);
}

sala_status sala_gguf_writer_commit(sala_gguf_writer *w, sala_error *err)
{
    const sala_status st = sala_out_data_commit(&w->d, w->d.data_at + w->data_bytes, err);
    free_writer(w);
    return st;
}

void sala_gguf_writer_abort(sala_gguf_writer *w)
{
    if (!w)
        return;
    sala_out_data_abort(&w->d);
    free_writer(w);
}
