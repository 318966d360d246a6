/* Importance matrices: for each weight matrix the mean square of every input column over a calibration text.
 *
 * Two file forms, both llama.cpp's. GGUF: tensors NAME.in_sum2 (sums of squares) and NAME.counts (rows summed). Older:
 *   i32 entries, then for each: i32 length, name, i32 calls, i32 values, f32 value[values] (sums over calls of means)
 * and whatever follows the entries is not needed. */
#include "quant/quant.h"

#include "os/os.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_COLUMNS (INT64_C(1) << 24)
#define MAX_ENTRIES (1 << 20)

typedef struct entry {
    char *name;
    int64_t n_cols;
    double *sum; /* of squares, while collecting; NULL in matrices that were read */
    double count;
    float *mean; /* NULL until first asked for, while collecting */
} entry;

struct sala_imatrix {
    entry *items; /* sorted by name */
    size_t count, cap;
};

void sala_imatrix_close(sala_imatrix *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->count; i++) {
        free(m->items[i].name);
        free(m->items[i].sum);
        free(m->items[i].mean);
    }
    free(m->items);
    free(m);
}

sala_status sala_imatrix_new(sala_imatrix **out, sala_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? SALA_OK : sala_fail_memory(err, sizeof **out);
}

size_t sala_imatrix_count(const sala_imatrix *m)
{
    return m->count;
}

/* Where the name is, or where it would have to be. */
static size_t position_of(const sala_imatrix *m, const char *name, bool *found)
{
    size_t lo = 0, hi = m->count;
    *found = false;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(m->items[mid].name, name);
        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Inserts an entry without data; the name must not be there. */
static sala_status insert(entry **out, sala_imatrix *m, size_t at, const char *name, size_t len, int64_t n_cols,
                          sala_error *err)
{
    if (m->count == m->cap) {
        const size_t cap = m->cap ? m->cap * 2 : 64;
        entry *items = realloc(m->items, cap * sizeof *items);
        if (!items)
            return sala_fail_memory(err, cap * sizeof *items);
        m->items = items;
        m->cap = cap;
    }
    char *copy = sala_strndup(name, len);
    if (!copy)
        return sala_fail_memory(err, len);
    memmove(m->items + at + 1, m->items + at, (m->count - at) * sizeof *m->items);
    m->items[at] = (entry){.name = copy, .n_cols = n_cols};
    m->count++;
    *out = &m->items[at];
    return SALA_OK;
}

const float *sala_imatrix_find(const sala_imatrix *m, const char *tensor, int64_t *n_cols)
{
    bool found;
    const size_t at = position_of(m, tensor, &found);
    if (!found || !m->items[at].mean)
        return NULL;
    *n_cols = m->items[at].n_cols;
    return m->items[at].mean;
}

/* ---- reading ---- */

/* A new entry whose means the caller fills. */
static sala_status new_means(float **mean, sala_imatrix *m, const char *name, size_t len, int64_t n_cols,
                             sala_error *err)
{
    char *key = sala_strndup(name, len);
    if (!key)
        return sala_fail_memory(err, len);
    bool found;
    const size_t at = position_of(m, key, &found);
    sala_status st = SALA_OK;
    entry *e;
    if (found)
        st = sala_fail(err, SALA_E_CORRUPT, "importance matrix names \"%.100s\" twice", key);
    else if (m->count >= MAX_ENTRIES)
        st = sala_fail(err, SALA_E_LIMIT, "importance matrix has more than %d entries", MAX_ENTRIES);
    else
        st = insert(&e, m, at, name, len, n_cols, err);
    free(key);
    if (st != SALA_OK)
        return st;
    *mean = e->mean = malloc((size_t)n_cols * sizeof **mean);
    return e->mean ? SALA_OK : sala_fail_memory(err, (uint64_t)n_cols * sizeof **mean);
}

static bool clean_name(const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x20 || s[i] > 0x7e)
            return false;
    return n > 0;
}

static sala_status check_means(const float *mean, int64_t n_cols, const char *name, size_t len, sala_error *err)
{
    for (int64_t i = 0; i < n_cols; i++)
        if (!(mean[i] >= 0) || isinf(mean[i]))
            return sala_fail_at(err, SALA_E_NUMERIC, i,
                                "importance of \"%.*s\", column %" PRId64 ", is %g, expected a number >= 0",
                                (int)(len < 100 ? len : 100), name, i, (double)mean[i]);
    return SALA_OK;
}

static sala_status read_old(sala_imatrix *m, const void *data, size_t bytes, sala_error *err)
{
    sala_reader r = sala_reader_of(data, bytes);
    const int32_t n = (int32_t)sala_read_u32(&r);
    if (r.failed || n < 1 || n > MAX_ENTRIES)
        return sala_fail_at(err, SALA_E_CORRUPT, 0,
                            "not an importance matrix: neither GGUF nor a count of entries (%" PRId32 ") at the start",
                            n);
    for (int32_t i = 0; i < n; i++) {
        const int64_t start = (int64_t)r.at;
        const int32_t len = (int32_t)sala_read_u32(&r);
        const uint8_t *name = len > 0 && len <= 1024 ? sala_read_bytes(&r, (uint64_t)len) : NULL;
        const int32_t calls = (int32_t)sala_read_u32(&r);
        const int32_t values = (int32_t)sala_read_u32(&r);
        if (r.failed || !name || !clean_name(name, (size_t)len))
            return sala_fail_at(err, SALA_E_CORRUPT, start,
                                "importance matrix: entry %" PRId32 " of %" PRId32 " has no readable name", i + 1, n);
        if (values < 1 || values > MAX_COLUMNS || (uint64_t)values * 4 > r.bytes - r.at)
            return sala_fail_at(err, SALA_E_TRUNCATED, start,
                                "importance matrix: \"%.*s\" claims %" PRId32 " values, %zu bytes follow",
                                (int)(len < 100 ? len : 100), (const char *)name, values, r.bytes - r.at);
        float *mean;
        sala_status st = new_means(&mean, m, (const char *)name, (size_t)len, values, err);
        if (st != SALA_OK)
            return st;
        for (int32_t c = 0; c < values; c++)
            mean[c] = sala_read_f32(&r) / (calls > 0 ? (float)calls : 1.0f);
        st = check_means(mean, values, (const char *)name, (size_t)len, err);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status read_gguf(sala_imatrix *m, const sala_gguf *g, sala_error *err)
{
    static const char sums[] = ".in_sum2", counts[] = ".counts";
    const sala_tensor_list all = sala_gguf_tensors(g);
    for (size_t i = 0; i < all.count; i++) {
        const sala_tensor *t = &all.items[i];
        const size_t len = strlen(t->name);
        if (len < sizeof sums || strcmp(t->name + len - (sizeof sums - 1), sums) != 0)
            continue;
        const size_t base = len - (sizeof sums - 1);
        char name[256];
        snprintf(name, sizeof name, "%.*s%s", (int)(base < 200 ? base : 200), t->name, counts);
        const sala_tensor *c = sala_gguf_tensor(g, name);
        if (!c || c->dtype != SALA_F32 || t->dtype != SALA_F32 || c->bytes < 4)
            return sala_fail(err, SALA_E_CORRUPT, "importance matrix: \"%s\" lacks F32 sums or counts", t->name);
        if (t->ne[1] * t->ne[2] * t->ne[3] != 1 || t->ne[0] > MAX_COLUMNS)
            continue; /* experts, one row each: no architecture of ours has them */
        if (t->ne[0] < 1)
            return sala_fail(err, SALA_E_CORRUPT, "importance matrix: \"%s\" is empty", t->name);
        sala_reader cr = sala_reader_of(c->data, (size_t)c->bytes), r = sala_reader_of(t->data, (size_t)t->bytes);
        const float count = sala_read_f32(&cr);
        if (!(count >= 0) || isinf(count))
            return sala_fail(err, SALA_E_NUMERIC, "importance matrix: \"%s\" is %g, expected a count", name,
                             (double)count);
        float *mean;
        sala_status st = new_means(&mean, m, t->name, base, t->ne[0], err);
        if (st != SALA_OK)
            return st;
        /* A matrix that the calibration never reached has no opinion on its columns. */
        for (int64_t k = 0; k < t->ne[0]; k++)
            mean[k] = count > 0 ? sala_read_f32(&r) / count : 1.0f;
        st = check_means(mean, t->ne[0], t->name, base, err);
        if (st != SALA_OK)
            return st;
    }
    return m->count ? SALA_OK
                    : sala_fail(err, SALA_E_CORRUPT,
                                "this GGUF file has no importance data (tensors named *.in_sum2); is it a model?");
}

sala_status sala_imatrix_parse(sala_imatrix **out, const void *data, size_t bytes, sala_error *err)
{
    sala_imatrix *m;
    sala_status st = sala_imatrix_new(&m, err);
    if (st != SALA_OK)
        return st;
    if (bytes >= 4 && memcmp(data, "GGUF", 4) == 0) {
        sala_gguf *g;
        st = sala_gguf_parse(&g, data, bytes, err);
        if (st == SALA_OK) {
            st = read_gguf(m, g, err);
            sala_gguf_close(g);
        }
    } else {
        st = read_old(m, data, bytes, err);
    }
    if (st != SALA_OK) {
        sala_imatrix_close(m);
        return st;
    }
    *out = m;
    return SALA_OK;
}

sala_status sala_imatrix_open(sala_imatrix **out, const char *path, sala_error *err)
{
    sala_map map;
    const int e = sala_os_map(&map, path);
    if (e)
        return sala_fail_errno(err, e, "importance matrix %s", path);
    const sala_status st = sala_imatrix_parse(out, map.data, map.bytes, err);
    sala_os_unmap(&map);
    return st == SALA_OK ? st : sala_fail_prefix(err, st, "%s", path);
}

/* ---- collecting and writing ---- */

sala_status sala_imatrix_add(sala_imatrix *m, const char *tensor, const float *x, int64_t n_rows, int64_t n_cols,
                             int64_t stride, sala_error *err)
{
    if (n_cols < 1 || n_cols > MAX_COLUMNS || stride < n_cols || n_rows < 0)
        return sala_fail(err, SALA_E_INVALID, "importance of \"%.100s\": %" PRId64 " columns are out of range", tensor,
                         n_cols);
    bool found;
    const size_t at = position_of(m, tensor, &found);
    entry *e = found ? &m->items[at] : NULL;
    if (!found) {
        const sala_status st = insert(&e, m, at, tensor, strlen(tensor), n_cols, err);
        if (st != SALA_OK)
            return st;
    }
    if (e->n_cols != n_cols)
        return sala_fail(err, SALA_E_INVALID, "importance of \"%.100s\": %" PRId64 " columns now, %" PRId64 " before",
                         tensor, n_cols, e->n_cols);
    if (!e->sum) {
        e->sum = calloc((size_t)n_cols, sizeof *e->sum);
        if (!e->sum)
            return sala_fail_memory(err, (uint64_t)n_cols * sizeof *e->sum);
        if (e->mean) /* continue from a matrix that was read: it counts as one row */
            for (int64_t k = 0; k < n_cols; k++)
                e->sum[k] = e->mean[k] * (e->count = 1);
    }
    if (!e->mean) {
        e->mean = calloc((size_t)n_cols, sizeof *e->mean);
        if (!e->mean)
            return sala_fail_memory(err, (uint64_t)n_cols * sizeof *e->mean);
    }
    for (int64_t t = 0; t < n_rows; t++) {
        const float *row = x + t * stride;
        for (int64_t k = 0; k < n_cols; k++)
            e->sum[k] += (double)row[k] * row[k];
    }
    e->count += (double)n_rows;
    if (e->count > 0)
        for (int64_t k = 0; k < n_cols; k++)
            e->mean[k] = (float)(e->sum[k] / e->count);
    return SALA_OK;
}

static sala_status write_all(const sala_imatrix *m, sala_gguf_writer *w, sala_error *err)
{
    for (size_t i = 0; i < m->count; i++) {
        const entry *e = &m->items[i];
        float *sums = malloc((size_t)e->n_cols * sizeof *sums);
        if (!sums)
            return sala_fail_memory(err, (uint64_t)e->n_cols * sizeof *sums);
        const float count = e->sum ? (float)e->count : 1.0f;
        for (int64_t k = 0; k < e->n_cols; k++)
            sums[k] = e->sum ? (float)e->sum[k] : e->mean[k];
        sala_status st = sala_gguf_write_data(w, 2 * i, 0, sums, (uint64_t)e->n_cols * sizeof *sums, err);
        free(sums);
        if (st == SALA_OK)
            st = sala_gguf_write_data(w, 2 * i + 1, 0, &count, sizeof count, err);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

sala_status sala_imatrix_save(const sala_imatrix *m, const char *path, const char *dataset, uint32_t chunk_size,
                              uint32_t n_chunks, sala_error *err)
{
    sala_gguf_writer *w;
    sala_status st = sala_gguf_writer_open(&w, path, err);
    if (st != SALA_OK)
        return st;
    const sala_gguf_str name = {.s = dataset ? dataset : "", .len = dataset ? strlen(dataset) : 0};
    sala_gguf_write_str(w, "general.type", "imatrix", 7);
    sala_gguf_write_array(w, "imatrix.datasets", SALA_GGUF_STRING, &name, 1);
    sala_gguf_write_u32(w, "imatrix.chunk_count", n_chunks);
    sala_gguf_write_u32(w, "imatrix.chunk_size", chunk_size);
    for (size_t i = 0; i < m->count; i++) {
        char text[1100];
        const int64_t ne[2] = {m->items[i].n_cols, 1}, one[2] = {1, 1};
        snprintf(text, sizeof text, "%s.in_sum2", m->items[i].name);
        sala_gguf_write_tensor(w, text, SALA_F32, 2, ne);
        snprintf(text, sizeof text, "%s.counts", m->items[i].name);
        sala_gguf_write_tensor(w, text, SALA_F32, 2, one);
    }
    st = sala_gguf_writer_begin_data(w, err);
    if (st == SALA_OK)
        st = write_all(m, w, err);
    if (st != SALA_OK) {
        sala_gguf_writer_abort(w);
        return st;
    }
    return sala_gguf_writer_commit(w, err);
}
