/* What the readers of both tensor containers need: names that are fit to be shown, lookup by name, and the check that
 * no two tensors share bytes. Names are sorted, not hashed: a hostile file can not make lookups slow, and duplicates
 * lie side by side. */
#ifndef SALA_FORMAT_INDEX_H
#define SALA_FORMAT_INDEX_H

#include "format/tensors.h"

/* The longest tensor name that is accepted. The format's text allows 64 bytes, some writers take 128. */
#define SALA_MAX_TENSOR_NAME 128

/* True when name[0..n) is not empty and holds valid UTF-8 without control characters, so that it can be printed,
 * written as JSON and kept as a C string. */
bool sala_name_is_clean(const char *name, size_t n);

/* Names live in chunks, so that pointers to them stay valid while more are added. */
typedef struct sala_name_pool {
    struct sala_name_chunk *chunks;
} sala_name_pool;

const char *sala_name_copy(sala_name_pool *pool, const char *s, size_t n); /* NULL when memory is out */
void sala_name_pool_free(sala_name_pool *pool);

typedef struct sala_name_entry {
    const char *name; /* borrowed */
    size_t item;
} sala_name_entry;

typedef struct sala_name_index {
    sala_name_entry *entries; /* sorted; NULL when there are none */
    size_t count;
} sala_name_index;

/* Sorts `entries` (allocated with malloc; owned by the index from here on, even on failure). When two names are equal,
 * *duplicate points to that name and the result is false. */
bool sala_name_index_build(sala_name_index *index, sala_name_entry *entries, size_t count, const char **duplicate);
/* Position of the item or SIZE_MAX. */
size_t sala_name_index_find(const sala_name_index *index, const char *name);
void sala_name_index_free(sala_name_index *index);

typedef struct sala_span {
    uint64_t begin, bytes;
    size_t item;
} sala_span;

/* Sorts `spans` by position. False when two of them share a byte; then *a and *b are their items. */
bool sala_spans_disjoint(sala_span *spans, size_t count, size_t *a, size_t *b);

#endif
