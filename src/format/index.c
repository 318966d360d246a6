#include "format/index.h"

#include <stdlib.h>

bool sala_name_is_clean(const char *name, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const int len = sala_utf8_decode(name + i, n - i, &cp);
        if (len == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
            return false;
        i += (size_t)len;
    }
    return n > 0;
}

struct sala_name_chunk {
    struct sala_name_chunk *next;
    size_t used, cap;
    char text[];
};

const char *sala_name_copy(sala_name_pool *pool, const char *s, size_t n)
{
    struct sala_name_chunk *c = pool->chunks;
    if (!c || c->cap - c->used < n + 1) {
        const size_t cap = n + 1 > 8192 ? n + 1 : 8192;
        c = malloc(sizeof *c + cap);
        if (!c)
            return NULL;
        *c = (struct sala_name_chunk){.next = pool->chunks, .cap = cap};
        pool->chunks = c;
    }
    char *dst = c->text + c->used;
    memcpy(dst, s, n);
    dst[n] = 0;
    c->used += n + 1;
    return dst;
}

void sala_name_pool_free(sala_name_pool *pool)
{
    while (pool->chunks) {
        struct sala_name_chunk *next = pool->chunks->next;
        free(pool->chunks);
        pool->chunks = next;
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const sala_name_entry *)a)->name, ((const sala_name_entry *)b)->name);
}

bool sala_name_index_build(sala_name_index *index, sala_name_entry *entries, size_t count, const char **duplicate)
{
    index->entries = entries;
    index->count = count;
    if (count > 1)
        qsort(entries, count, sizeof *entries, compare_names);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(entries[i - 1].name, entries[i].name) == 0) {
            *duplicate = entries[i].name;
            return false;
        }
    }
    return true;
}

size_t sala_name_index_find(const sala_name_index *index, const char *name)
{
    size_t low = 0, high = index->count;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        const int order = strcmp(index->entries[mid].name, name);
        if (order == 0)
            return index->entries[mid].item;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return SIZE_MAX;
}

void sala_name_index_free(sala_name_index *index)
{
    free(index->entries);
    *index = (sala_name_index){0};
}

static int compare_spans(const void *a, const void *b)
{
    const sala_span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

bool sala_spans_disjoint(sala_span *spans, size_t count, size_t *a, size_t *b)
{
    if (count > 1)
        qsort(spans, count, sizeof *spans, compare_spans);
    for (size_t i = 1; i < count; i++) {
        if (spans[i].begin - spans[i - 1].begin < spans[i - 1].bytes) {
            *a = spans[i - 1].item;
            *b = spans[i].item;
            return false;
        }
    }
    return true;
}
