/* GGUF version 3 (and 2): metadata and tensors of one file or of a split set. Facts: ggml's docs/gguf.md.
 * The reader trusts nothing: counts, lengths, offsets, overlaps and sizes are checked against the file's size before
 * they are used. A file of the other byte order is refused with those words. */
#ifndef SALA_FORMAT_GGUF_H
#define SALA_FORMAT_GGUF_H

#include "format/tensors.h"

typedef enum sala_gguf_type {
    SALA_GGUF_U8,
    SALA_GGUF_I8,
    SALA_GGUF_U16,
    SALA_GGUF_I16,
    SALA_GGUF_U32,
    SALA_GGUF_I32,
    SALA_GGUF_F32,
    SALA_GGUF_BOOL,
    SALA_GGUF_STRING,
    SALA_GGUF_ARRAY,
    SALA_GGUF_U64,
    SALA_GGUF_I64,
    SALA_GGUF_F64,
} sala_gguf_type;

typedef struct sala_gguf sala_gguf;

typedef struct sala_gguf_kv {
    const char *key; /* NUL-terminated copy */
    sala_gguf_type type;
    sala_gguf_type elem_type; /* of an array */
    uint64_t count;           /* elements of an array, else 1 */
    const uint8_t *raw;       /* the value's bytes in the file (behind type, element type and count), unaligned */
    uint64_t raw_bytes;
} sala_gguf_kv;

/* Opens PATH and, when it is part of a split set (NAME-00002-of-00005.gguf), all parts. */
sala_status sala_gguf_open(sala_gguf **out, const char *path, sala_error *err);
/* For those who want the metadata only: when PATH is the first part of a split set, which holds all of it, the other
 * parts need not be there, and the tensors are those of the first. */
sala_status sala_gguf_open_metadata(sala_gguf **out, const char *path, sala_error *err);
/* The same over bytes in memory, which must outlive *out; no splits. For fuzzing and tests. */
sala_status sala_gguf_parse(sala_gguf **out, const void *data, size_t bytes, sala_error *err);
void sala_gguf_close(sala_gguf *g);

size_t sala_gguf_n_kv(const sala_gguf *g);
const sala_gguf_kv *sala_gguf_kv_at(const sala_gguf *g, size_t i);
const sala_gguf_kv *sala_gguf_find(const sala_gguf *g, const char *key); /* NULL when absent */
sala_tensor_list sala_gguf_tensors(const sala_gguf *g);
const sala_tensor *sala_gguf_tensor(const sala_gguf *g, const char *name); /* NULL when absent */
uint64_t sala_gguf_file_bytes(const sala_gguf *g);                         /* of all parts */

/* Scalars: true and *out set when the key is there with a type that holds the value without loss (any integer type;
 * floats accept integers); false otherwise, *out untouched. */
bool sala_gguf_get_i64(const sala_gguf *g, const char *key, int64_t *out);
bool sala_gguf_get_f64(const sala_gguf *g, const char *key, double *out);
bool sala_gguf_get_bool(const sala_gguf *g, const char *key, bool *out);
/* Borrowed, not NUL-terminated. */
bool sala_gguf_get_str(const sala_gguf *g, const char *key, const char **s, size_t *len);

/* Arrays. Elements by index; the string form walks with a cursor, because strings have no index in the file:
 *   sala_reader r = sala_gguf_array_reader(kv);
 *   for (i < kv->count) sala_gguf_next_str(&r, &s, &len); */
bool sala_gguf_array_i64(const sala_gguf_kv *kv, uint64_t i, int64_t *out);
bool sala_gguf_array_f64(const sala_gguf_kv *kv, uint64_t i, double *out);
sala_reader sala_gguf_array_reader(const sala_gguf_kv *kv);
bool sala_gguf_next_str(sala_reader *r, const char **s, size_t *len);

/* ---- writing: metadata first, then all tensor headers, then data in any order, streaming ---- */

typedef struct sala_gguf_writer sala_gguf_writer;

sala_status sala_gguf_writer_open(sala_gguf_writer **out, const char *path, sala_error *err);
void sala_gguf_write_u32(sala_gguf_writer *w, const char *key, uint32_t v);
void sala_gguf_write_i32(sala_gguf_writer *w, const char *key, int32_t v);
void sala_gguf_write_u64(sala_gguf_writer *w, const char *key, uint64_t v);
void sala_gguf_write_f32(sala_gguf_writer *w, const char *key, float v);
void sala_gguf_write_bool(sala_gguf_writer *w, const char *key, bool v);
void sala_gguf_write_str(sala_gguf_writer *w, const char *key, const char *s, size_t len);
/* Elements as they lie in memory, little endian; for strings `data` is an array of sala_gguf_str. */
typedef struct sala_gguf_str {
    const char *s;
    size_t len;
} sala_gguf_str;
void sala_gguf_write_array(sala_gguf_writer *w, const char *key, sala_gguf_type elem, const void *data, uint64_t count);
void sala_gguf_write_kv(sala_gguf_writer *w, const sala_gguf_kv *kv); /* copies one pair of another file */
/* Declares a tensor; its data must come later. ne as in sala_tensor. */
void sala_gguf_write_tensor(sala_gguf_writer *w, const char *name, sala_dtype dtype, int n_dims, const int64_t *ne);
/* Ends the header. From here on only data. */
sala_status sala_gguf_writer_begin_data(sala_gguf_writer *w, sala_error *err);
/* Writes bytes [offset, offset+bytes) of the i-th declared tensor. */
sala_status sala_gguf_write_data(sala_gguf_writer *w, size_t tensor, uint64_t offset, const void *data, uint64_t bytes,
                                 sala_error *err);
/* Renames to the final name; SALA_E_STATE when some tensor's data is missing. Frees w in any case. */
sala_status sala_gguf_writer_commit(sala_gguf_writer *w, sala_error *err);
void sala_gguf_writer_abort(sala_gguf_writer *w); /* NULL is fine */

#endif
