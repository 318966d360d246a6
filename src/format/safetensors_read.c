/* Reading safetensors: an eight-byte length, a JSON object that describes every tensor, the data. The rules are those
 * of the format's own library: a header of at most 100 MB that begins with '{', data that follow each other without
 * holes or overlaps from the first byte to the last of the file. A sharded set is an index that maps names to files of
 * the same folder. */
#include "format/index.h"
#include "format/safetensors.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdlib.h>

#include <jansson.h>

#define MAX_HEADER 100000000u
#define MAX_INDEX_BYTES (64u << 20)
#define MAX_SHARDS 4096
#define MAX_NAME 1024

typedef struct shard {
    sala_map map; /* data is NULL when the bytes are the caller's */
    char *file;   /* name within the folder of a set, for messages; may be NULL */
    uint64_t bytes;
    size_t first, count; /* its tensors */
} shard;

struct sala_safetensors {
    shard *shards;
    size_t n_shards;
    sala_tensor *tensors;
    size_t n_tensors;
    sala_name_index index;
    sala_name_pool names;
};

static sala_dtype dtype_of(const char *name)
{
    static const struct {
        const char *name;
        sala_dtype dtype;
    } known[] = {{"F32", SALA_F32}, {"F16", SALA_F16}, {"BF16", SALA_BF16}, {"F64", SALA_F64},
                 {"I8", SALA_I8},   {"I16", SALA_I16}, {"I32", SALA_I32},   {"I64", SALA_I64}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(known); i++)
        if (strcmp(known[i].name, name) == 0)
            return known[i].dtype;
    return SALA_DTYPE_NONE;
}

/* ---- one tensor of the header ---- */

static sala_status parse_shape(sala_tensor *t, const json_t *shape, uint64_t *elements, sala_error *err)
{
    if (!json_is_array(shape))
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\": \"shape\" is not an array", t->name);
    const size_t n = json_array_size(shape);
    if (n > SALA_MAX_DIMS)
        return sala_fail(err, SALA_E_UNSUPPORTED, "tensor \"%s\" has %zu dimensions, expected at most %d", t->name, n,
                         SALA_MAX_DIMS);
    t->n_dims = (int)n;
    *elements = 1;
    for (size_t d = 0; d < SALA_MAX_DIMS; d++)
        t->ne[d] = 1;
    for (size_t d = 0; d < n; d++) {
        const json_t *v = json_array_get(shape, n - 1 - d);
        if (!json_is_integer(v) || json_integer_value(v) < 1)
            return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\": a dimension is zero or no positive integer", t->name);
        t->ne[d] = json_integer_value(v);
        if (!sala_mul_size(elements, *elements, (uint64_t)t->ne[d]) || *elements > INT64_MAX)
            return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\" has more than 2^63 elements", t->name);
    }
    return SALA_OK;
}

static sala_status parse_entry(sala_tensor *t, sala_span *span, const json_t *o, uint64_t data_bytes, sala_error *err)
{
    const char *type = json_string_value(json_object_get(o, "dtype"));
    if (!type)
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\" has no \"dtype\"", t->name);
    t->dtype = dtype_of(type);
    if (t->dtype == SALA_DTYPE_NONE)
        return sala_fail(
            err, SALA_E_UNSUPPORTED,
            "tensor \"%s\" has type \"%.20s\", which can not be read; expected F32, F16, BF16, F64 or I8 to "
            "I64",
            t->name, sala_name_is_clean(type, strlen(type)) ? type : "?");
    uint64_t elements = 0;
    const sala_status st = parse_shape(t, json_object_get(o, "shape"), &elements, err);
    if (st != SALA_OK)
        return st;
    t->bytes = sala_dtype_bytes(t->dtype, (int64_t)elements);
    const json_t *offsets = json_object_get(o, "data_offsets");
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 ||
        json_integer_value(e) < json_integer_value(b))
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\": \"data_offsets\" is not [begin, end]", t->name);
    span->begin = (uint64_t)json_integer_value(b);
    span->bytes = (uint64_t)json_integer_value(e) - span->begin;
    if (span->bytes != t->bytes)
        return sala_fail(err, SALA_E_CORRUPT,
                         "tensor \"%s\" takes %" PRIu64 " bytes in the file, expected %" PRIu64
                         " for its shape and type %s",
                         t->name, span->bytes, t->bytes, type);
    if (span->begin > data_bytes || span->bytes > data_bytes - span->begin)
        return sala_fail(err, SALA_E_TRUNCATED,
                         "tensor \"%s\" ends at byte %" PRIu64 " of the data, but the file has only %" PRIu64
                         "; is the download complete?",
                         t->name, span->begin + span->bytes, data_bytes);
    return SALA_OK;
}

/* ---- one file ---- */

static sala_status check_spans(sala_safetensors *st, sala_span *spans, size_t n, uint64_t data_bytes, sala_error *err)
{
    size_t a, b;
    uint64_t at = 0;
    if (!sala_spans_disjoint(spans, n, &a, &b))
        return sala_fail(err, SALA_E_CORRUPT, "tensors \"%s\" and \"%s\" overlap in the file", st->tensors[a].name,
                         st->tensors[b].name);
    for (size_t i = 0; i < n; i++) {
        if (spans[i].begin != at)
            return sala_fail(err, SALA_E_CORRUPT, "%" PRIu64 " bytes of data before tensor \"%s\" belong to no tensor",
                             spans[i].begin - at, st->tensors[spans[i].item].name);
        at += spans[i].bytes;
    }
    if (at != data_bytes)
        return sala_fail(err, SALA_E_CORRUPT, "%" PRIu64 " bytes at the end of the file belong to no tensor",
                         data_bytes - at);
    return SALA_OK;
}

static sala_status parse_object(sala_safetensors *st, shard *sh, json_t *root, const uint8_t *data, uint64_t data_bytes,
                                sala_error *err)
{
    const size_t most = json_object_size(root);
    sala_span *spans = malloc((most + 1) * sizeof *spans);
    sala_tensor *grown = realloc(st->tensors, (st->n_tensors + most + 1) * sizeof *grown);
    if (grown)
        st->tensors = grown;
    sala_status status = SALA_OK;
    if (!spans || !grown) {
        status = sala_fail_memory(err, most * sizeof *grown);
        goto out;
    }
    sh->first = st->n_tensors;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        const size_t len = strlen(key);
        if (len > MAX_NAME || !sala_name_is_clean(key, len)) {
            status = sala_fail(err, SALA_E_CORRUPT, "a tensor's name is empty, longer than %d bytes or not plain text",
                               MAX_NAME);
            goto out;
        }
        sala_tensor t = {.name = sala_name_copy(&st->names, key, len)};
        sala_span *span = &spans[st->n_tensors - sh->first];
        span->item = st->n_tensors;
        status = t.name ? parse_entry(&t, span, value, data_bytes, err) : sala_fail_memory(err, len);
        if (status != SALA_OK)
            goto out;
        t.data = data + span->begin;
        st->tensors[st->n_tensors++] = t;
    }
    sh->count = st->n_tensors - sh->first;
    status = check_spans(st, spans, sh->count, data_bytes, err);
out:
    free(spans);
    return status;
}

static sala_status parse_shard(sala_safetensors *st, shard *sh, const uint8_t *bytes, sala_error *err)
{
    sala_reader r = sala_reader_of(bytes, (size_t)sh->bytes);
    if (sh->bytes < 8)
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)sh->bytes,
                            "the file has %" PRIu64 " bytes, too few for safetensors", sh->bytes);
    const uint64_t header = sala_read_u64(&r);
    const uint64_t rest = sh->bytes - 8;
    if (rest >= 12 && memcmp(bytes, "version https://git-", 20) == 0)
        return sala_fail_at(err, SALA_E_UNSUPPORTED, 0, "the file is a Git LFS pointer, not the weights themselves");
    if (header > MAX_HEADER)
        return sala_fail_at(err, SALA_E_CORRUPT, 0,
                            "not a safetensors file: its header would have %" PRIu64 " bytes, expected at most %u",
                            header, MAX_HEADER);
    if (header > rest)
        return sala_fail_at(err, SALA_E_TRUNCATED, 0,
                            "the header claims %" PRIu64 " bytes, but %" PRIu64 " follow; is the download complete?",
                            header, rest);
    if (header < 2 || bytes[8] != '{')
        return sala_fail_at(err, SALA_E_CORRUPT, 8, "not a safetensors file: its header does not begin with '{'");
    json_error_t je;
    json_t *root = json_loadb((const char *)bytes + 8, (size_t)header, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return sala_fail_at(err, SALA_E_CORRUPT, 8 + je.position, "the header is not valid JSON: %s", je.text);
    const sala_status status = json_is_object(root)
                                   ? parse_object(st, sh, root, bytes + 8 + header, rest - header, err)
                                   : sala_fail_at(err, SALA_E_CORRUPT, 8, "the header is not a JSON object");
    json_decref(root);
    return status;
}

static sala_status build_index(sala_safetensors *st, sala_error *err)
{
    sala_name_entry *e = malloc((st->n_tensors + 1) * sizeof *e);
    if (!e)
        return sala_fail_memory(err, st->n_tensors * sizeof *e);
    for (size_t i = 0; i < st->n_tensors; i++)
        e[i] = (sala_name_entry){st->tensors[i].name, i};
    const char *twice;
    if (!sala_name_index_build(&st->index, e, st->n_tensors, &twice))
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\" appears twice", twice);
    return SALA_OK;
}

void sala_safetensors_close(sala_safetensors *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->n_shards; i++) {
        if (st->shards[i].map.data)
            sala_os_unmap(&st->shards[i].map);
        free(st->shards[i].file);
    }
    sala_name_index_free(&st->index);
    sala_name_pool_free(&st->names);
    free(st->shards);
    free(st->tensors);
    free(st);
}

sala_status sala_safetensors_parse(sala_safetensors **out, const void *data, size_t bytes, sala_error *err)
{
    sala_safetensors *st = calloc(1, sizeof *st);
    if (!st || !(st->shards = calloc(1, sizeof *st->shards))) {
        free(st);
        return sala_fail_memory(err, sizeof *st);
    }
    st->n_shards = 1;
    st->shards[0].bytes = bytes;
    sala_status status = parse_shard(st, &st->shards[0], data, err);
    if (status == SALA_OK)
        status = build_index(st, err);
    if (status != SALA_OK) {
        sala_safetensors_close(st);
        return status;
    }
    *out = st;
    return SALA_OK;
}

/* ---- files and sets ---- */

/* Maps and parses one file; `file` is its name within a set, or NULL. */
static sala_status open_shard(sala_safetensors *st, const char *path, const char *file, sala_error *err)
{
    shard *grown = realloc(st->shards, (st->n_shards + 1) * sizeof *grown);
    if (!grown)
        return sala_fail_memory(err, (st->n_shards + 1) * sizeof *grown);
    st->shards = grown;
    shard *sh = &st->shards[st->n_shards];
    *sh = (shard){.file = sala_strdup(file)};
    if (file && !sh->file)
        return sala_fail_memory(err, strlen(file));
    const int e = sala_os_map(&sh->map, path);
    if (e) {
        free(sh->file);
        return sala_fail_errno(err, e, "could not open %s", path);
    }
    st->n_shards++;
    sh->bytes = sh->map.bytes;
    const sala_status status = parse_shard(st, sh, sh->map.data, err);
    return status == SALA_OK ? status : sala_fail_prefix(err, status, "%s", path);
}

/* A shard's name comes from a downloaded file and must not lead out of the folder. */
static bool plain_file_name(const char *name)
{
    return sala_name_is_clean(name, strlen(name)) && !strpbrk(name, "/\\") && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0 && strlen(name) < 256;
}

static const shard *find_shard(const sala_safetensors *st, const char *file)
{
    for (size_t i = 0; i < st->n_shards; i++)
        if (strcmp(st->shards[i].file, file) == 0)
            return &st->shards[i];
    return NULL;
}

static sala_status open_listed(sala_safetensors *st, const char *dir, const char *index, const char *file,
                               sala_error *err)
{
    if (!plain_file_name(file))
        return sala_fail(err, SALA_E_CORRUPT, "%s: a shard's name leads out of the folder or is not plain text", index);
    if (find_shard(st, file))
        return SALA_OK;
    if (st->n_shards == MAX_SHARDS)
        return sala_fail(err, SALA_E_LIMIT, "%s lists more than %d shards", index, MAX_SHARDS);
    char *path = sala_path_join(dir, file);
    if (!path)
        return sala_fail_memory(err, strlen(file));
    sala_status status;
    if (!sala_os_is_file(path))
        status = sala_fail(err, SALA_E_CORRUPT, "shard %s is missing, but %s lists it", file, index);
    else
        status = open_shard(st, path, file, err);
    free(path);
    return status;
}

/* Every name of the index must be in the shard that the index says. */
static sala_status check_listed(const sala_safetensors *st, const char *index, const json_t *map, sala_error *err)
{
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)map, name, file)
    {
        const size_t i = sala_name_index_find(&st->index, name);
        const shard *sh = find_shard(st, json_string_value(file));
        if (i == SIZE_MAX || i < sh->first || i - sh->first >= sh->count)
            return sala_fail(err, SALA_E_CORRUPT, "%s: tensor \"%.200s\" is not in shard %s", index, name, sh->file);
    }
    return SALA_OK;
}

static sala_status open_set(sala_safetensors *st, const char *index, sala_error *err)
{
    uint8_t *text = NULL;
    size_t bytes = 0;
    const int e = sala_os_read_file(&text, &bytes, index, MAX_INDEX_BYTES);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", index);
    json_error_t je;
    json_t *root = json_loadb((const char *)text, bytes, JSON_REJECT_DUPLICATES, &je);
    free(text);
    if (!root)
        return sala_fail_at(err, SALA_E_CORRUPT, je.position, "%s is not valid JSON: %s (line %d)", index, je.text,
                            je.line);
    const char *slash = strrchr(index, '/');
    char *dir = slash ? sala_strndup(index, (size_t)(slash - index) + (slash == index)) : sala_strdup(".");
    const json_t *map = json_object_get(root, "weight_map");
    sala_status status = SALA_OK;
    if (!dir)
        status = sala_fail_memory(err, strlen(index));
    else if (!json_is_object(map) || json_object_size(map) == 0)
        status = sala_fail(err, SALA_E_CORRUPT, "%s has no \"weight_map\"", index);
    const char *name;
    json_t *file;
    if (status == SALA_OK) {
        json_object_foreach((json_t *)map, name, file)
        {
            if (!json_is_string(file))
                status = sala_fail(err, SALA_E_CORRUPT, "%s: the shard of a tensor is not a string", index);
            else
                status = open_listed(st, dir, index, json_string_value(file), err);
            if (status != SALA_OK)
                break;
        }
    }
    if (status == SALA_OK)
        status = build_index(st, err);
    if (status == SALA_OK)
        status = check_listed(st, index, map, err);
    free(dir);
    json_decref(root);
    return status;
}

static sala_status open_dir(sala_safetensors *st, const char *dir, sala_error *err)
{
    static const char *const candidates[] = {"model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(candidates); i++) {
        char *path = sala_path_join(dir, candidates[i]);
        if (!path)
            return sala_fail_memory(err, strlen(dir));
        if (!sala_os_is_file(path)) {
            free(path);
            continue;
        }
        sala_status status;
        if (i == 1) {
            status = open_set(st, path, err);
        } else {
            status = open_shard(st, path, NULL, err);
            if (status == SALA_OK)
                status = build_index(st, err);
        }
        free(path);
        return status;
    }
    char *pickle = sala_path_join(dir, "pytorch_model.bin");
    const bool has_pickle = pickle && sala_os_is_file(pickle);
    free(pickle);
    return sala_fail(err, SALA_E_NOT_FOUND, "%s holds neither model.safetensors nor model.safetensors.index.json%s",
                     dir, has_pickle ? "; pytorch_model.bin can not be read, convert it to safetensors" : "");
}

sala_status sala_safetensors_open(sala_safetensors **out, const char *path, sala_error *err)
{
    sala_safetensors *st = calloc(1, sizeof *st);
    if (!st)
        return sala_fail_memory(err, sizeof *st);
    const size_t len = strlen(path);
    sala_status status;
    if (sala_os_is_dir(path)) {
        status = open_dir(st, path, err);
    } else if (len > 5 && strcmp(path + len - 5, ".json") == 0) {
        status = open_set(st, path, err);
    } else {
        status = open_shard(st, path, NULL, err);
        if (status == SALA_OK)
            status = build_index(st, err);
    }
    if (status != SALA_OK) {
        sala_safetensors_close(st);
        return status;
    }
    *out = st;
    return SALA_OK;
}

sala_tensor_list sala_safetensors_tensors(const sala_safetensors *st)
{
    return (sala_tensor_list){st->tensors, st->n_tensors};
}

const sala_tensor *sala_safetensors_tensor(const sala_safetensors *st, const char *name)
{
    const size_t i = sala_name_index_find(&st->index, name);
    return i == SIZE_MAX ? NULL : &st->tensors[i];
}

uint64_t sala_safetensors_file_bytes(const sala_safetensors *st)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < st->n_shards; i++)
        sum += st->shards[i].bytes;
    return sum;
}
