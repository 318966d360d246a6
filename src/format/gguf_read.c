/* Reading GGUF. One pass over the header records where each value lies; nothing is copied but keys and tensor names
 * (they need a terminator). Every number of the file is a claim: it is compared with the bytes that are left before it
 * is used, by subtraction, so that sums can not wrap. Lists grow as entries are really found, therefore a count of 2^60
 * costs nothing. */
#include "format/gguf_internal.h"
#include "format/index.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_NESTING 4
/* Smallest possible entries: a key of one byte, its type and a one-byte value; a name of one byte without dimensions.
 */
#define MIN_KV_BYTES 14
#define MIN_TENSOR_BYTES 25

typedef struct part {
    sala_map map; /* data is NULL when the bytes are the caller's */
    const uint8_t *data;
    uint64_t bytes;
} part;

struct sala_gguf {
    part *parts;
    size_t n_parts;
    sala_gguf_kv *kv; /* of the first part */
    size_t n_kv, kv_cap;
    sala_tensor *tensors;
    size_t n_tensors, tensor_cap;
    sala_name_index kv_index, tensor_index;
    sala_name_pool names;
};

/* One part while it is being read. */
typedef struct parse {
    sala_gguf *g;
    sala_reader r;
    uint64_t alignment;
    size_t first_tensor; /* of this part, in g->tensors */
    sala_gguf_kv *kv;    /* of this part */
    size_t n_kv, kv_cap;
    sala_error *err;
} parse;

static uint64_t left(const sala_reader *r)
{
    return r->bytes - r->at;
}

static sala_status truncated(parse *p, const char *what)
{
    return sala_fail_at(p->err, SALA_E_TRUNCATED, (int64_t)p->r.at,
                        "the GGUF file ends inside %s (it has %zu bytes); is the download complete?", what, p->r.bytes);
}

/* ---- values ---- */

static bool read_string(sala_reader *r, const char **s, size_t *n)
{
    if (left(r) < 8)
        return false;
    const uint64_t len = sala_read_u64(r);
    if (len > left(r))
        return false;
    *s = (const char *)sala_read_bytes(r, len);
    *n = (size_t)len;
    return *s != NULL || len == 0;
}

static bool load_i64(sala_gguf_type type, sala_reader r, int64_t *out)
{
    switch (type) {
    case SALA_GGUF_U8:
    case SALA_GGUF_BOOL:
        *out = sala_read_u8(&r);
        return type == SALA_GGUF_U8;
    case SALA_GGUF_I8:
        *out = (int8_t)sala_read_u8(&r);
        return true;
    case SALA_GGUF_U16:
        *out = sala_read_u16(&r);
        return true;
    case SALA_GGUF_I16:
        *out = (int16_t)sala_read_u16(&r);
        return true;
    case SALA_GGUF_U32:
        *out = sala_read_u32(&r);
        return true;
    case SALA_GGUF_I32:
        *out = (int32_t)sala_read_u32(&r);
        return true;
    case SALA_GGUF_I64:
        *out = (int64_t)sala_read_u64(&r);
        return true;
    case SALA_GGUF_U64: {
        const uint64_t v = sala_read_u64(&r);
        *out = (int64_t)v;
        return v <= INT64_MAX;
    }
    default:
        return false;
    }
}

static bool load_f64(sala_gguf_type type, sala_reader r, double *out)
{
    if (type == SALA_GGUF_F32) {
        *out = sala_read_f32(&r);
        return true;
    }
    if (type == SALA_GGUF_F64) {
        *out = sala_read_f64(&r);
        return true;
    }
    int64_t v;
    if (!load_i64(type, r, &v))
        return false;
    *out = (double)v;
    return true;
}

bool sala_gguf_kv_i64(const sala_gguf_kv *kv, int64_t *out)
{
    int64_t v;
    if (!load_i64(kv->type, sala_reader_of(kv->raw, (size_t)kv->raw_bytes), &v))
        return false;
    *out = v;
    return true;
}

/* Moves behind `count` values; SALA_E_TRUNCATED without message when they do not fit. */
static sala_status skip_values(parse *p, const char *key, uint32_t type, uint64_t count, int depth)
{
    sala_reader *r = &p->r;
    const uint64_t size = sala_gguf_type_bytes((sala_gguf_type)type);
    if (size) {
        uint64_t bytes;
        if (!sala_mul_size(&bytes, size, count) || bytes > left(r))
            return SALA_E_TRUNCATED;
        const uint8_t *data = sala_read_bytes(r, bytes);
        for (uint64_t i = 0; type == SALA_GGUF_BOOL && i < count; i++)
            if (data[i] > 1)
                return sala_fail_at(p->err, SALA_E_CORRUPT, (int64_t)(r->at - (count - i)),
                                    "key \"%s\": a boolean is %d, expected 0 or 1", key, data[i]);
        return SALA_OK;
    }
    if (type == SALA_GGUF_STRING) {
        if (count > left(r) / 8)
            return SALA_E_TRUNCATED;
        for (uint64_t i = 0; i < count; i++) {
            const char *s;
            size_t n;
            if (!read_string(r, &s, &n))
                return SALA_E_TRUNCATED;
        }
        return SALA_OK;
    }
    if (type != SALA_GGUF_ARRAY)
        return sala_fail_at(p->err, SALA_E_UNSUPPORTED, (int64_t)r->at,
                            "key \"%s\" has value type %" PRIu32 ", expected 0 to 12", key, type);
    if (depth >= MAX_NESTING)
        return sala_fail_at(p->err, SALA_E_UNSUPPORTED, (int64_t)r->at, "key \"%s\" nests arrays more than %d deep",
                            key, MAX_NESTING);
    if (count > left(r) / 12)
        return SALA_E_TRUNCATED;
    for (uint64_t i = 0; i < count; i++) {
        if (left(r) < 12)
            return SALA_E_TRUNCATED;
        const uint32_t elem = sala_read_u32(r);
        const uint64_t n = sala_read_u64(r);
        const sala_status st = skip_values(p, key, elem, n, depth + 1);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status parse_kv(parse *p, uint64_t i)
{
    sala_reader *r = &p->r;
    char what[80];
    snprintf(what, sizeof what, "metadata entry %" PRIu64, i);
    const char *s;
    size_t n;
    const size_t key_at = r->at;
    if (!read_string(r, &s, &n))
        return truncated(p, what);
    if (n > SALA_GGUF_MAX_KEY || !sala_name_is_clean(s, n))
        return sala_fail_at(p->err, SALA_E_CORRUPT, (int64_t)key_at,
                            "metadata entry %" PRIu64 ": the key is empty, longer than %d bytes or not plain text", i,
                            SALA_GGUF_MAX_KEY);
    sala_gguf_kv kv = {.key = sala_name_copy(&p->g->names, s, n), .count = 1};
    if (!kv.key)
        return sala_fail_memory(p->err, n);
    snprintf(what, sizeof what, "the value of \"%.50s\"", kv.key);
    if (left(r) < 4)
        return truncated(p, what);
    uint32_t type = sala_read_u32(r);
    int depth = 0;
    kv.type = (sala_gguf_type)type;
    kv.elem_type = kv.type;
    if (type == SALA_GGUF_ARRAY) {
        if (left(r) < 12)
            return truncated(p, what);
        type = sala_read_u32(r);
        kv.elem_type = (sala_gguf_type)type;
        kv.count = sala_read_u64(r);
        depth = 1;
    }
    kv.raw = r->data + r->at;
    const size_t raw_at = r->at;
    const sala_status st = skip_values(p, kv.key, type, kv.count, depth);
    if (st == SALA_E_TRUNCATED)
        return truncated(p, what);
    if (st != SALA_OK)
        return st;
    kv.raw_bytes = r->at - raw_at;
    if (p->n_kv == p->kv_cap) {
        const size_t cap = p->kv_cap ? p->kv_cap * 2 : 64;
        sala_gguf_kv *grown = realloc(p->kv, cap * sizeof *grown);
        if (!grown)
            return sala_fail_memory(p->err, cap * sizeof *grown);
        p->kv = grown;
        p->kv_cap = cap;
    }
    p->kv[p->n_kv++] = kv;
    return SALA_OK;
}

/* ---- tensors ---- */

/* Types that the format defines and this program does not read; a name helps more than a number. */
static const char *foreign_type(uint32_t type)
{
    static const struct {
        uint32_t id;
        const char *name;
    } names[] = {{4, "Q4_2, removed from the format"},
                 {5, "Q4_3, removed from the format"},
                 {16, "IQ2_XXS"},
                 {17, "IQ2_XS"},
                 {18, "IQ3_XXS"},
                 {19, "IQ1_S"},
                 {21, "IQ3_S"},
                 {22, "IQ2_S"},
                 {29, "IQ1_M"},
                 {31, "Q4_0_4_4, removed from the format"},
                 {32, "Q4_0_4_8, removed from the format"},
                 {33, "Q4_0_8_8, removed from the format"},
                 {39, "MXFP4"},
                 {40, "NVFP4"},
                 {41, "Q1_0"},
                 {42, "Q2_0"}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++)
        if (names[i].id == type)
            return names[i].name;
    return "unknown";
}

/* Fills shape, type and size of t; the offset within the data section goes to *offset. */
static sala_status parse_tensor(parse *p, uint64_t i, sala_tensor *t, uint64_t *offset)
{
    sala_reader *r = &p->r;
    sala_error *err = p->err;
    const int64_t at = (int64_t)r->at;
    char what[64];
    snprintf(what, sizeof what, "the description of tensor %" PRIu64, i);
    const char *s;
    size_t n;
    if (!read_string(r, &s, &n))
        return truncated(p, what);
    if (n > SALA_MAX_TENSOR_NAME || !sala_name_is_clean(s, n))
        return sala_fail_at(err, SALA_E_CORRUPT, at,
                            "tensor %" PRIu64 ": the name is empty, longer than %d bytes or not plain text", i,
                            SALA_MAX_TENSOR_NAME);
    t->name = sala_name_copy(&p->g->names, s, n);
    if (!t->name)
        return sala_fail_memory(err, n);
    if (left(r) < 4)
        return truncated(p, what);
    const uint32_t n_dims = sala_read_u32(r);
    if (n_dims > SALA_MAX_DIMS)
        return sala_fail_at(err, SALA_E_CORRUPT, at, "tensor \"%s\" has %" PRIu32 " dimensions, expected at most %d",
                            t->name, n_dims, SALA_MAX_DIMS);
    if (left(r) < 8 * (uint64_t)n_dims + 12)
        return truncated(p, what);
    t->n_dims = (int)n_dims;
    uint64_t elements = 1;
    for (uint32_t d = 0; d < SALA_MAX_DIMS; d++) {
        const uint64_t ne = d < n_dims ? sala_read_u64(r) : 1;
        if (ne == 0)
            return sala_fail_at(err, SALA_E_CORRUPT, at, "tensor \"%s\": dimension %" PRIu32 " is zero", t->name, d);
        if (!sala_mul_size(&elements, elements, ne) || elements > INT64_MAX)
            return sala_fail_at(err, SALA_E_CORRUPT, at, "tensor \"%s\" has more than 2^63 elements", t->name);
        t->ne[d] = (int64_t)ne;
    }
    const uint32_t type = sala_read_u32(r);
    const sala_dtype_info *info = type <= INT32_MAX ? sala_dtype_get((int)type) : NULL;
    if (!info)
        return sala_fail_at(err, SALA_E_UNSUPPORTED, at,
                            "tensor \"%s\" has type %" PRIu32 " (%s), which can not be read", t->name, type,
                            foreign_type(type));
    t->dtype = info->dtype;
    if (t->ne[0] % info->block_weights)
        return sala_fail_at(err, SALA_E_CORRUPT, at,
                            "tensor \"%s\" of type %s has rows of %" PRId64 " elements, expected a multiple of %d",
                            t->name, info->name, t->ne[0], info->block_weights);
    t->bytes = sala_dtype_bytes(t->dtype, (int64_t)elements);
    if (t->bytes == 0)
        return sala_fail_at(err, SALA_E_CORRUPT, at, "tensor \"%s\" has more than 2^64 bytes", t->name);
    *offset = sala_read_u64(r);
    if (*offset & (p->alignment - 1))
        return sala_fail_at(err, SALA_E_CORRUPT, at,
                            "tensor \"%s\" starts at offset %" PRIu64 ", expected a multiple of the alignment %" PRIu64,
                            t->name, *offset, p->alignment);
    return SALA_OK;
}

/* Places the tensors of this part, whose offsets are in spans[], into the data section. */
static sala_status place_tensors(parse *p, sala_span *spans, size_t count)
{
    if (count == 0)
        return SALA_OK;
    sala_tensor *t = p->g->tensors + p->first_tensor;
    /* The header's end is within the file and the alignment small, so this can not wrap. */
    const uint64_t data_at = sala_align_up(p->r.at, p->alignment);
    const uint64_t room = data_at < p->r.bytes ? p->r.bytes - data_at : 0;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].begin > room || spans[i].bytes > room - spans[i].begin)
            return sala_fail_at(p->err, SALA_E_TRUNCATED, (int64_t)p->r.bytes,
                                "tensor \"%s\" needs %" PRIu64 " bytes at offset %" PRIu64
                                " of the data, but the file has "
                                "only %" PRIu64 " there; is the download complete?",
                                t[i].name, spans[i].bytes, spans[i].begin, room);
        t[i].data = p->r.data + data_at + spans[i].begin;
    }
    size_t a, b;
    if (!sala_spans_disjoint(spans, count, &a, &b))
        return sala_fail(p->err, SALA_E_CORRUPT, "tensors \"%s\" and \"%s\" overlap in the file", t[a].name, t[b].name);
    return SALA_OK;
}

static sala_status parse_tensors(parse *p, uint64_t count)
{
    sala_gguf *g = p->g;
    sala_span *spans = NULL;
    size_t span_cap = 0;
    sala_status st = SALA_OK;
    for (uint64_t i = 0; i < count; i++) {
        const size_t k = (size_t)i;
        if (k == span_cap) {
            const size_t cap = span_cap ? span_cap * 2 : 256;
            sala_span *grown = realloc(spans, cap * sizeof *grown);
            if (!grown) {
                st = sala_fail_memory(p->err, cap * sizeof *grown);
                goto out;
            }
            spans = grown;
            span_cap = cap;
        }
        if (g->n_tensors == g->tensor_cap) {
            const size_t cap = g->tensor_cap ? g->tensor_cap * 2 : 256;
            sala_tensor *grown = realloc(g->tensors, cap * sizeof *grown);
            if (!grown) {
                st = sala_fail_memory(p->err, cap * sizeof *grown);
                goto out;
            }
            g->tensors = grown;
            g->tensor_cap = cap;
        }
        sala_tensor t = {0};
        uint64_t offset = 0;
        st = parse_tensor(p, i, &t, &offset);
        if (st != SALA_OK)
            goto out;
        g->tensors[g->n_tensors++] = t;
        spans[k] = (sala_span){.begin = offset, .bytes = t.bytes, .item = k};
    }
    st = place_tensors(p, spans, (size_t)count);
out:
    free(spans);
    return st;
}

/* ---- one part ---- */

static sala_status check_magic(parse *p)
{
    const sala_reader *r = &p->r;
    static const struct {
        const char *bytes, *meaning;
    } known[] = {{"lmgg", "an old ggml file"},
                 {"fmgg", "an old ggmf file"},
                 {"tjgg", "an old ggjt file"},
                 {"PK\x03\x04", "a zip archive, probably a PyTorch checkpoint"},
                 {"vers", "a Git LFS pointer, not the file itself"},
                 {"<!DO", "a web page"},
                 {"<htm", "a web page"}};
    if (r->bytes >= 4 && memcmp(r->data, "GGUF", 4) == 0)
        return SALA_OK;
    if (r->bytes < 4)
        return sala_fail_at(p->err, SALA_E_TRUNCATED, (int64_t)r->bytes, "the file has %zu bytes, too few for GGUF",
                            r->bytes);
    for (size_t i = 0; i < SALA_ARRAY_LEN(known); i++)
        if (memcmp(r->data, known[i].bytes, 4) == 0)
            return sala_fail_at(p->err, SALA_E_UNSUPPORTED, 0, "not a GGUF file but %s", known[i].meaning);
    return sala_fail_at(p->err, SALA_E_UNSUPPORTED, 0,
                        "not a GGUF file: it begins with bytes %02x %02x %02x %02x, expected 47 47 55 46 (\"GGUF\")",
                        r->data[0], r->data[1], r->data[2], r->data[3]);
}

static sala_status parse_part(parse *p, const part *in)
{
    p->r = sala_reader_of(in->data, (size_t)in->bytes);
    sala_reader *r = &p->r;
    sala_error *err = p->err;
    sala_status st = check_magic(p);
    if (st != SALA_OK)
        return st;
    r->at = 4;
    if (left(r) < 20)
        return truncated(p, "its header");
    const uint32_t version = sala_read_u32(r);
    if (version != 0 && (version & 0xffff) == 0)
        return sala_fail_at(
            err, SALA_E_UNSUPPORTED, 4,
            "the file is big-endian (its version reads as %" PRIu32 "); only little-endian GGUF can be read", version);
    if (version != 2 && version != SALA_GGUF_VERSION)
        return sala_fail_at(err, SALA_E_UNSUPPORTED, 4, "GGUF version %" PRIu32 ", expected 2 or 3%s", version,
                            version == 1 ? "; convert the model again with a current tool" : "");
    const uint64_t n_tensors = sala_read_u64(r);
    const uint64_t n_kv = sala_read_u64(r);
    if (n_kv > left(r) / MIN_KV_BYTES)
        return sala_fail_at(err, SALA_E_CORRUPT, 16,
                            "the file claims %" PRIu64 " metadata entries, too many for its %" PRIu64 " bytes", n_kv,
                            in->bytes);
    if (n_tensors > left(r) / MIN_TENSOR_BYTES)
        return sala_fail_at(err, SALA_E_CORRUPT, 8,
                            "the file claims %" PRIu64 " tensors, too many for its %" PRIu64 " bytes", n_tensors,
                            in->bytes);
    for (uint64_t i = 0; i < n_kv; i++) {
        st = parse_kv(p, i);
        if (st != SALA_OK)
            return st;
    }
    p->alignment = SALA_GGUF_ALIGNMENT;
    for (size_t i = 0; i < p->n_kv; i++) {
        if (strcmp(p->kv[i].key, "general.alignment") != 0)
            continue;
        int64_t a;
        if (!sala_gguf_kv_i64(&p->kv[i], &a) || a < 1 || a > SALA_GGUF_MAX_ALIGNMENT || (a & (a - 1)))
            return sala_fail(err, SALA_E_CORRUPT, "general.alignment must be a power of two up to %d",
                             SALA_GGUF_MAX_ALIGNMENT);
        p->alignment = (uint64_t)a;
    }
    p->first_tensor = p->g->n_tensors;
    return parse_tensors(p, n_tensors);
}

static sala_status index_names(sala_gguf *g, sala_error *err)
{
    const char *twice;
    sala_name_entry *e = malloc((g->n_kv + 1) * sizeof *e);
    if (!e)
        return sala_fail_memory(err, g->n_kv * sizeof *e);
    for (size_t i = 0; i < g->n_kv; i++)
        e[i] = (sala_name_entry){g->kv[i].key, i};
    if (!sala_name_index_build(&g->kv_index, e, g->n_kv, &twice))
        return sala_fail(err, SALA_E_CORRUPT, "metadata key \"%s\" appears twice", twice);
    e = malloc((g->n_tensors + 1) * sizeof *e);
    if (!e)
        return sala_fail_memory(err, g->n_tensors * sizeof *e);
    for (size_t i = 0; i < g->n_tensors; i++)
        e[i] = (sala_name_entry){g->tensors[i].name, i};
    if (!sala_name_index_build(&g->tensor_index, e, g->n_tensors, &twice))
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\" appears twice", twice);
    return SALA_OK;
}

static const sala_gguf_kv *find_kv(const sala_gguf_kv *kv, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(kv[i].key, key) == 0)
            return &kv[i];
    return NULL;
}

/* Reads one more part; the metadata of the first one becomes that of the whole. *count and *no receive its place in a
 * split set (1 and 0 for a file that stands alone). */
static sala_status add_part(sala_gguf *g, const part *in, int64_t *count, int64_t *no, sala_error *err)
{
    parse p = {.g = g, .err = err};
    const sala_status st = parse_part(&p, in);
    *count = 1;
    *no = 0;
    if (st == SALA_OK) {
        const sala_gguf_kv *c = find_kv(p.kv, p.n_kv, "split.count"), *n = find_kv(p.kv, p.n_kv, "split.no");
        if (c)
            (void)sala_gguf_kv_i64(c, count);
        if (n)
            (void)sala_gguf_kv_i64(n, no);
        if (!g->kv && *no == 0) {
            g->kv = p.kv;
            g->n_kv = p.n_kv;
            g->kv_cap = p.kv_cap;
            return SALA_OK;
        }
    }
    free(p.kv);
    return st;
}

/* ---- opening ---- */

static void release(sala_gguf *g)
{
    for (size_t i = 0; i < g->n_parts; i++)
        if (g->parts[i].map.data)
            sala_os_unmap(&g->parts[i].map);
    sala_name_pool_free(&g->names);
    sala_name_index_free(&g->kv_index);
    sala_name_index_free(&g->tensor_index);
    free(g->parts);
    free(g->kv);
    free(g->tensors);
    *g = (sala_gguf){0};
}

void sala_gguf_close(sala_gguf *g)
{
    if (!g)
        return;
    release(g);
    free(g);
}

sala_status sala_gguf_parse(sala_gguf **out, const void *data, size_t bytes, sala_error *err)
{
    sala_gguf *g = calloc(1, sizeof *g);
    if (!g || !(g->parts = calloc(1, sizeof *g->parts))) {
        free(g);
        return sala_fail_memory(err, sizeof *g);
    }
    g->n_parts = 1;
    g->parts[0] = (part){.data = data, .bytes = bytes};
    int64_t count, no;
    sala_status st = add_part(g, &g->parts[0], &count, &no, err);
    if (st == SALA_OK && no != 0)
        st = sala_fail(err, SALA_E_UNSUPPORTED, "part %" PRId64 " of a split set can not be read alone", no + 1);
    if (st == SALA_OK)
        st = index_names(g, err);
    if (st != SALA_OK) {
        sala_gguf_close(g);
        return st;
    }
    *out = g;
    return SALA_OK;
}

/* Length of PATH without "-NNNNN-of-NNNNN.gguf"; 0 when it does not end like that. */
static size_t split_prefix(const char *path)
{
    const size_t tail = strlen("-00001-of-00001.gguf"), n = strlen(path);
    if (n <= tail)
        return 0;
    const char *t = path + n - tail;
    for (size_t i = 0; i < tail; i++) {
        const char want = "-ddddd-of-ddddd.gguf"[i];
        if (want == 'd' ? t[i] < '0' || t[i] > '9' : t[i] != want)
            return 0;
    }
    return n - tail;
}

static sala_status map_part(sala_gguf *g, const char *path, sala_error *err)
{
    part *grown = realloc(g->parts, (g->n_parts + 1) * sizeof *grown);
    if (!grown)
        return sala_fail_memory(err, (g->n_parts + 1) * sizeof *grown);
    g->parts = grown;
    part *in = &g->parts[g->n_parts];
    *in = (part){0};
    if (sala_os_is_dir(path))
        return sala_fail(err, SALA_E_INVALID, "%s is a directory, expected a GGUF file", path);
    const int e = sala_os_map(&in->map, path);
    if (e)
        return sala_fail_errno(err, e, "could not open %s", path);
    in->data = in->map.data;
    in->bytes = in->map.bytes;
    g->n_parts++;
    return SALA_OK;
}

static sala_status open_split(sala_gguf *g, const char *path, int64_t count, sala_error *err)
{
    const size_t prefix = split_prefix(path);
    if (count < 2 || count > 99999)
        return sala_fail(err, SALA_E_CORRUPT, "%s: split.count is %" PRId64, path, count);
    if (!prefix)
        return sala_fail(err, SALA_E_INVALID,
                         "%s is one of %" PRId64 " parts, but is not named NAME-00001-of-%05" PRId64
                         ".gguf, so that the others can not be found",
                         path, count, count);
    for (int64_t i = 0; i < count; i++) {
        sala_buf name = {0};
        sala_buf_add(&name, path, prefix);
        sala_buf_printf(&name, "-%05" PRId64 "-of-%05" PRId64 ".gguf", i + 1, count);
        if (name.failed) {
            sala_buf_free(&name);
            return sala_fail_memory(err, prefix);
        }
        sala_status st = map_part(g, name.data, err);
        int64_t its_count = 0, its_no = 0;
        if (st != SALA_OK) {
            st = sala_fail_prefix(err, st, "part %" PRId64 " of %" PRId64, i + 1, count);
        } else {
            st = add_part(g, &g->parts[i], &its_count, &its_no, err);
            if (st == SALA_OK && (its_count != count || its_no != i))
                st = sala_fail(err, SALA_E_CORRUPT,
                               "it says that it is part %" PRId64 " of %" PRId64 ", expected part %" PRId64
                               " of %" PRId64,
                               its_no + 1, its_count, i + 1, count);
            if (st != SALA_OK)
                st = sala_fail_prefix(err, st, "%s", name.data);
        }
        sala_buf_free(&name);
        if (st != SALA_OK)
            return st;
    }
    const sala_gguf_kv *total = find_kv(g->kv, g->n_kv, "split.tensors.count");
    int64_t n;
    if (total && sala_gguf_kv_i64(total, &n) && (n < 0 || (uint64_t)n != g->n_tensors))
        return sala_fail(err, SALA_E_CORRUPT, "%s: the parts hold %zu tensors, expected %" PRId64, path, g->n_tensors,
                         n);
    return SALA_OK;
}

/* metadata_only: the first part of a split set is enough. */
static sala_status open_file(sala_gguf **out, const char *path, bool metadata_only, sala_error *err)
{
    sala_gguf *g = calloc(1, sizeof *g);
    if (!g)
        return sala_fail_memory(err, sizeof *g);
    int64_t count = 1, no = 0;
    sala_status st = map_part(g, path, err);
    if (st == SALA_OK) {
        st = add_part(g, &g->parts[0], &count, &no, err);
        if (st != SALA_OK)
            st = sala_fail_prefix(err, st, "%s", path);
    }
    if (st == SALA_OK && (count != 1 || no != 0) && !(metadata_only && no == 0)) {
        release(g);
        st = open_split(g, path, count, err);
    }
    if (st == SALA_OK) {
        st = index_names(g, err);
        if (st != SALA_OK)
            st = sala_fail_prefix(err, st, "%s", path);
    }
    if (st != SALA_OK) {
        sala_gguf_close(g);
        return st;
    }
    *out = g;
    return SALA_OK;
}

sala_status sala_gguf_open(sala_gguf **out, const char *path, sala_error *err)
{
    return open_file(out, path, false, err);
}

sala_status sala_gguf_open_metadata(sala_gguf **out, const char *path, sala_error *err)
{
    return open_file(out, path, true, err);
}

/* ---- looking things up ---- */

size_t sala_gguf_n_kv(const sala_gguf *g)
{
    return g->n_kv;
}

const sala_gguf_kv *sala_gguf_kv_at(const sala_gguf *g, size_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

const sala_gguf_kv *sala_gguf_find(const sala_gguf *g, const char *key)
{
    const size_t i = sala_name_index_find(&g->kv_index, key);
    return i == SIZE_MAX ? NULL : &g->kv[i];
}

sala_tensor_list sala_gguf_tensors(const sala_gguf *g)
{
    return (sala_tensor_list){g->tensors, g->n_tensors};
}

const sala_tensor *sala_gguf_tensor(const sala_gguf *g, const char *name)
{
    const size_t i = sala_name_index_find(&g->tensor_index, name);
    return i == SIZE_MAX ? NULL : &g->tensors[i];
}

uint64_t sala_gguf_file_bytes(const sala_gguf *g)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < g->n_parts; i++)
        sum += g->parts[i].bytes;
    return sum;
}

bool sala_gguf_get_i64(const sala_gguf *g, const char *key, int64_t *out)
{
    const sala_gguf_kv *kv = sala_gguf_find(g, key);
    return kv && sala_gguf_kv_i64(kv, out);
}

bool sala_gguf_get_f64(const sala_gguf *g, const char *key, double *out)
{
    const sala_gguf_kv *kv = sala_gguf_find(g, key);
    double v;
    if (!kv || !load_f64(kv->type, sala_reader_of(kv->raw, (size_t)kv->raw_bytes), &v))
        return false;
    *out = v;
    return true;
}

bool sala_gguf_get_bool(const sala_gguf *g, const char *key, bool *out)
{
    const sala_gguf_kv *kv = sala_gguf_find(g, key);
    if (!kv || kv->type != SALA_GGUF_BOOL)
        return false;
    *out = kv->raw[0] != 0;
    return true;
}

bool sala_gguf_get_str(const sala_gguf *g, const char *key, const char **s, size_t *len)
{
    const sala_gguf_kv *kv = sala_gguf_find(g, key);
    if (!kv || kv->type != SALA_GGUF_STRING)
        return false;
    sala_reader r = sala_reader_of(kv->raw, (size_t)kv->raw_bytes);
    return sala_gguf_next_str(&r, s, len);
}

/* The bytes of element i of an array of fixed-size values; an empty reader otherwise. */
static sala_reader element(const sala_gguf_kv *kv, uint64_t i)
{
    const uint64_t size = sala_gguf_type_bytes(kv->elem_type);
    if (kv->type != SALA_GGUF_ARRAY || size == 0 || i >= kv->count)
        return (sala_reader){0};
    return sala_reader_of(kv->raw + i * size, (size_t)size);
}

bool sala_gguf_array_i64(const sala_gguf_kv *kv, uint64_t i, int64_t *out)
{
    const sala_reader r = element(kv, i);
    int64_t v;
    if (!r.data || !load_i64(kv->elem_type, r, &v))
        return false;
    *out = v;
    return true;
}

bool sala_gguf_array_f64(const sala_gguf_kv *kv, uint64_t i, double *out)
{
    const sala_reader r = element(kv, i);
    double v;
    if (!r.data || !load_f64(kv->elem_type, r, &v))
        return false;
    *out = v;
    return true;
}

sala_reader sala_gguf_array_reader(const sala_gguf_kv *kv)
{
    return sala_reader_of(kv->raw, (size_t)kv->raw_bytes);
}

bool sala_gguf_next_str(sala_reader *r, const char **s, size_t *len)
{
    const char *text;
    size_t n;
    if (!read_string(r, &text, &n))
        return false;
    *s = text ? text : "";
    *len = n;
    return true;
}
