/* Saves of a run. Every rank writes its parts of the arenas; the directory gets its name when all files are whole and
 * on the medium, so that a kill at any moment leaves either the save or none. What is read back is checked: meta.json
 * by its own sum, files by size and header sum, arrays by theirs; a cut or a flipped bit anywhere is found. */
#include "train/saves.h"

#include "base/json.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define MAGIC "SALASAVE"
#define PART ".part"
#define OLD ".old"
enum { VERSION = 1, FIXED_BYTES = 64, PART_BYTES = 64, HEADER_UNIT = 4096, ALIGN = 64, MAX_RANKS = 9999, N_ARRAYS = 3 };

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

/* ---- layout ---- */

uint64_t sala_saves_layout(const sala_params *params)
{
    XXH3_state_t *h = XXH3_createState();
    if (!h)
        return 0;
    XXH3_64bits_reset(h);
    for (int i = 0; i < params->count; i++) {
        const sala_param *p = &params->items[i];
        const uint64_t shape[3] = {(uint64_t)p->rows, (uint64_t)p->cols, p->at};
        XXH3_64bits_update(h, p->name, strlen(p->name) + 1);
        XXH3_64bits_update(h, shape, sizeof shape);
    }
    const uint64_t sum = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return sum;
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint64_t header_bytes(uint64_t n_parts)
{
    return round_up(FIXED_BYTES + PART_BYTES * n_parts + 8, HEADER_UNIT);
}

static void put_u32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}
static void put_u64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}
static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static char *rank_file(char dst[32], int rank)
{
    snprintf(dst, 32, "rank-%04d.sck", rank);
    return dst;
}

static char *save_path(const char *out_dir, int64_t step, const char *suffix)
{
    sala_buf b = {0};
    sala_buf_printf(&b, "%s/checkpoints/step-%09" PRId64 "%s", out_dir, step, suffix);
    return sala_buf_take(&b, NULL);
}

/* ---- writing a rank's file ---- */

typedef struct part {
    uint64_t begin, end; /* elements of the arenas */
    uint64_t moments_at; /* elements of this rank's moments */
} part;

/* This rank's parts that are not empty; *n_parts of them. */
static part *own_parts(const sala_params *params, const sala_dist *dist, int rank, int *n_parts)
{
    part *parts = malloc((size_t)(params->n_buckets + 1) * sizeof *parts);
    uint64_t at = 0;
    *n_parts = 0;
    for (int b = 0; b < params->n_buckets && parts; b++) {
        part p = {.moments_at = at};
        sala_dist_part(dist, rank, params->bucket_begin[b], params->bucket_begin[b + 1], &p.begin, &p.end);
        at += p.end - p.begin;
        if (p.end > p.begin)
            parts[(*n_parts)++] = p;
    }
    return parts;
}

static void write_padded(sala_out_file *f, const float *data, uint64_t n)
{
    static const uint8_t zeros[ALIGN];
    (void)sala_os_out_write(f, data, (size_t)n * sizeof *data); /* commit reports what fails */
    (void)sala_os_out_write(f, zeros, (size_t)(round_up(n * sizeof *data, ALIGN) - n * sizeof *data));
}

static sala_status write_rank(const char *dir, sala_trainer *t, const sala_params *params, const sala_dist *dist,
                              int64_t step, sala_error *err)
{
    char name[32];
    int n_parts;
    part *parts = own_parts(params, dist, dist->rank, &n_parts);
    const uint64_t head_bytes = header_bytes((uint64_t)n_parts);
    uint8_t *head = calloc(1, (size_t)head_bytes);
    char *path = sala_path_join(dir, rank_file(name, dist->rank));
    const float *arrays[N_ARRAYS] = {sala_trainer_values(t), sala_trainer_moment(t, 0), sala_trainer_moment(t, 1)};
    sala_status st = SALA_OK;
    if (!parts || !head || !path) {
        st = sala_fail_memory(err, head_bytes);
        goto out;
    }
    uint64_t at = head_bytes;
    for (int i = 0; i < n_parts; i++) {
        uint8_t *h = head + FIXED_BYTES + PART_BYTES * i;
        const uint64_t n = parts[i].end - parts[i].begin;
        put_u64(h, parts[i].begin);
        put_u64(h + 8, parts[i].end);
        for (int a = 0; a < N_ARRAYS; a++) {
            const float *from = arrays[a] + (a == 0 ? parts[i].begin : parts[i].moments_at);
            put_u64(h + 16 + 8 * a, at);
            put_u64(h + 40 + 8 * a, XXH3_64bits(from, (size_t)n * sizeof *from));
            at += round_up(n * sizeof *from, ALIGN);
        }
    }
    memcpy(head, MAGIC, 8);
    put_u32(head + 8, VERSION);
    put_u32(head + 12, (uint32_t)head_bytes);
    put_u32(head + 16, (uint32_t)dist->rank);
    put_u32(head + 20, (uint32_t)dist->size);
    put_u64(head + 24, (uint64_t)step);
    put_u64(head + 32, params->n_elements);
    put_u64(head + 40, sala_saves_layout(params));
    put_u64(head + 48, at);
    put_u32(head + 56, (uint32_t)n_parts);
    put_u64(head + head_bytes - 8, XXH3_64bits(head, (size_t)head_bytes - 8));

    sala_out_file *f;
    int e = sala_os_out_open(&f, path);
    if (!e) {
        (void)sala_os_out_write(f, head, (size_t)head_bytes);
        for (int i = 0; i < n_parts; i++)
            for (int a = 0; a < N_ARRAYS; a++)
                write_padded(f, arrays[a] + (a == 0 ? parts[i].begin : parts[i].moments_at),
                             parts[i].end - parts[i].begin);
        e = sala_os_out_commit(f);
    }
    if (e)
        st = sala_fail_errno(err, e, "could not write %s", path);
out:
    free(path);
    free(head);
    free(parts);
    return st;
}

/* ---- meta.json ---- */

static json_t *hex(uint64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, v);
    return json_string(text);
}

static json_t *exact(double v)
{
    char text[40];
    snprintf(text, sizeof text, "%a", v);
    return json_string(text);
}

/* The sum of the document without "self", in one spelling. Takes "self" out. */
static bool self_sum(json_t *meta, uint64_t *sum)
{
    json_object_del(meta, "self");
    char *text = json_dumps(meta, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return false;
    *sum = XXH3_64bits(text, strlen(text));
    free(text);
    return true;
}

/* Size and header sum of a rank's file, from the file. */
static sala_status look_at(const char *dir, const char *name, uint64_t *bytes, uint64_t *sum, sala_error *err)
{
    char *path = sala_path_join(dir, name);
    sala_map map = {0};
    if (!path)
        return sala_fail_memory(err, strlen(dir));
    const int e = sala_os_map(&map, path);
    free(path);
    if (e)
        return sala_fail(err, SALA_E_CORRUPT, "%s: %s", name, strerror(e));
    *bytes = map.bytes;
    sala_status st = SALA_OK;
    const uint64_t head = map.bytes >= FIXED_BYTES ? get_u32(map.data + 12) : 0;
    if (head < HEADER_UNIT || head % HEADER_UNIT || head > map.bytes || memcmp(map.data, MAGIC, 8) != 0)
        st = sala_fail(err, SALA_E_CORRUPT, "%s: %zu bytes without the header of a save", name, map.bytes);
    else
        *sum = get_u64(map.data + head - 8);
    if (st == SALA_OK && XXH3_64bits(map.data, (size_t)head - 8) != *sum)
        st = sala_fail(err, SALA_E_CORRUPT, "%s: checksum of the header %016" PRIx64 " stored, %016" PRIx64 " found",
                       name, *sum, (uint64_t)XXH3_64bits(map.data, (size_t)head - 8));
    else if (st == SALA_OK && get_u32(map.data + 8) != VERSION)
        st = sala_fail(err, SALA_E_UNSUPPORTED, "%s: version %" PRIu32 " of the format, expected %d", name,
                       get_u32(map.data + 8), VERSION);
    sala_os_unmap(&map);
    return st;
}

static json_t *loader_json(const sala_loader_state *s)
{
    json_t *drawn = json_array();
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, s->seed);
    for (int i = 0; i < SALA_MAX_SOURCES; i++)
        if (json_array_append_new(drawn, json_integer((json_int_t)s->drawn[i])) != 0) {
            json_decref(drawn);
            return NULL;
        }
    return json_pack("{s:I,s:I,s:s,s:o}", "sequences", (json_int_t)s->sequences, "stage", (json_int_t)s->stage, "seed",
                     seed, "drawn", drawn);
}

static json_t *trainer_json(const sala_trainer_state *s, int64_t rewinds)
{
    const sala_guard_state *g = &s->guard;
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o}", "step", (json_int_t)s->step, "updates",
                     (json_int_t)s->updates, "rewinds", (json_int_t)rewinds, "n_seen", (json_int_t)g->n_seen, "spikes",
                     (json_int_t)g->spikes, "bad", (json_int_t)g->bad, "mean", exact(g->mean), "variance",
                     exact(g->variance));
}

static sala_status write_meta(const char *dir, const sala_save *info, const sala_trainer_state *trainer, int ranks,
                              sala_error *err)
{
    json_t *meta = json_object(), *files = json_array();
    sala_status st = SALA_OK;
    bool whole = true; /* what lacks a part must not be sealed: it would pass for a save until it is needed */
    for (int r = 0; r < ranks && st == SALA_OK; r++) {
        char name[32];
        uint64_t bytes = 0, sum = 0;
        st = look_at(dir, rank_file(name, r), &bytes, &sum, err);
        json_t *file = json_pack("{s:s,s:I,s:o}", "name", name, "bytes", (json_int_t)bytes, "sum", hex(sum));
        whole = json_array_append_new(files, file) == 0 && whole;
    }
    const struct {
        const char *key;
        json_t *value;
    } parts[] = {
        {"format", json_integer(VERSION)},
        {"program", json_string(sala_version())},
        {"step", json_integer(info->step)},
        {"ranks", json_integer(ranks)},
        {"config", json_string(info->config_text)},
        {"loader", loader_json(&info->loader)},
        {"trainer", trainer_json(trainer, info->rewinds)},
        {"metrics_bytes", json_integer(info->metrics_bytes)},
        {"stable", json_boolean(info->stable)},
        {"files", files},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(parts); i++)
        whole = json_object_set_new(meta, parts[i].key, parts[i].value) == 0 && whole;
    uint64_t self = 0;
    char *text = NULL;
    if (st == SALA_OK && whole && self_sum(meta, &self) && json_object_set_new(meta, "self", hex(self)) == 0)
        text = json_dumps(meta, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(meta);
    if (st != SALA_OK)
        return st;
    /* Without memory being short it can only be a text that is not UTF-8, which the config's reader does not let by. */
    char *path = sala_path_join(dir, "meta.json");
    if (!text || !path) {
        free(text);
        free(path);
        return sala_fail_memory(err, 65536);
    }
    sala_out_file *f;
    int e = sala_os_out_open(&f, path);
    if (!e) {
        (void)sala_os_out_write(f, text, strlen(text));
        e = sala_os_out_commit(f);
    }
    if (e)
        st = sala_fail_errno(err, e, "could not write %s", path);
    free(text);
    free(path);
    return st;
}

/* ---- writing ---- */

static sala_status prepare(const char *part_dir, const char *out_dir, const sala_params *params, sala_error *err)
{
    int e = sala_os_remove_tree(part_dir);
    if (!e)
        e = sala_os_make_dirs(part_dir);
    if (e)
        return sala_fail_errno(err, e, "could not make %s", part_dir);
    char need_text[32], free_text[32];
    const uint64_t need = N_ARRAYS * sizeof(float) * params->n_elements + ((uint64_t)1 << 20);
    const uint64_t there = sala_os_disk_free(out_dir);
    if (there < need)
        return sala_fail(err, SALA_E_IO, "a save takes %s, and %s has %s left", sala_format_bytes(need_text, need),
                         out_dir, sala_format_bytes(free_text, there));
    return SALA_OK;
}

/* A save of this step that is there already (a damaged one, or one from before a rewind) steps aside for the moment of
 * the two renames; sala_saves_recover brings it back if the process ends between them. */
static sala_status finish(const char *part_dir, const char *dir, const char *out_dir, sala_error *err)
{
    char *parent = sala_path_join(out_dir, "checkpoints");
    sala_buf old = {0};
    sala_buf_printf(&old, "%s" OLD, dir);
    int e = parent && !old.failed ? sala_os_sync_dir(part_dir) : ENOMEM;
    if (!e)
        e = sala_os_remove_tree(old.data);
    if (!e && sala_os_is_dir(dir))
        e = sala_os_rename(dir, old.data);
    if (!e)
        e = sala_os_rename(part_dir, dir);
    if (!e)
        e = sala_os_sync_dir(parent);
    if (!e)
        e = sala_os_remove_tree(old.data);
    sala_buf_free(&old);
    free(parent);
    return e ? sala_fail_errno(err, e, "could not finish %s", dir) : SALA_OK;
}

sala_status sala_saves_write(const char *out_dir, sala_trainer *t, const sala_params *params, sala_dist *dist,
                             const sala_save *info, sala_error *err)
{
    char *dir = save_path(out_dir, info->step, ""), *part_dir = save_path(out_dir, info->step, PART);
    const bool first = dist->rank == 0;
    sala_status st = dir && part_dir ? SALA_OK : sala_fail_memory(err, strlen(out_dir) + 64);
    if (st == SALA_OK && first)
        st = prepare(part_dir, out_dir, params, err);
    st = sala_dist_agree(dist, st, err);
    if (st == SALA_OK)
        st = sala_dist_agree(dist, write_rank(part_dir, t, params, dist, info->step, err), err);
    if (st == SALA_OK) {
        if (first) {
            st = write_meta(part_dir, info, sala_trainer_state_of(t), dist->size, err);
            if (st == SALA_OK)
                st = finish(part_dir, dir, out_dir, err);
        }
        st = sala_dist_agree(dist, st, err);
    }
    if (st != SALA_OK && first && part_dir)
        (void)sala_os_remove_tree(part_dir); /* the error that is told is the first one */
    free(dir);
    free(part_dir);
    return st;
}

/* ---- reading meta.json ---- */

static bool parse_hex(const json_t *v, uint64_t *out)
{
    const char *s = json_string_value(v);
    char *end;
    if (!s || strlen(s) != 16)
        return false;
    *out = strtoull(s, &end, 16);
    return !*end;
}

static bool parse_exact(const json_t *v, double *out)
{
    const char *s = json_string_value(v);
    char *end;
    if (!s || !*s)
        return false;
    *out = strtod(s, &end);
    return !*end;
}

static bool parse_count(const json_t *o, const char *key, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_integer(v) ? json_integer_value(v) : -1;
    return *out >= 0;
}

static bool parse_state(sala_save *s, const json_t *meta)
{
    const json_t *loader = json_object_get(meta, "loader"), *trainer = json_object_get(meta, "trainer");
    const json_t *drawn = json_object_get(loader, "drawn");
    const char *seed = json_string_value(json_object_get(loader, "seed"));
    int64_t sequences, stage;
    if (!parse_count(loader, "sequences", &sequences) || !parse_count(loader, "stage", &stage) || !seed ||
        json_array_size(drawn) != SALA_MAX_SOURCES)
        return false;
    s->loader.sequences = (uint64_t)sequences;
    s->loader.stage = (uint64_t)stage;
    s->loader.seed = strtoull(seed, NULL, 10);
    for (size_t i = 0; i < SALA_MAX_SOURCES; i++) {
        const json_t *v = json_array_get(drawn, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return false;
        s->loader.drawn[i] = (uint64_t)json_integer_value(v);
    }
    sala_trainer_state *t = &s->trainer;
    sala_guard_state *g = &t->guard;
    return parse_count(trainer, "step", &t->step) && parse_count(trainer, "updates", &t->updates) &&
           parse_count(trainer, "rewinds", &s->rewinds) && parse_count(trainer, "n_seen", &g->n_seen) &&
           parse_count(trainer, "spikes", &g->spikes) && parse_count(trainer, "bad", &g->bad) &&
           parse_exact(json_object_get(trainer, "mean"), &g->mean) &&
           parse_exact(json_object_get(trainer, "variance"), &g->variance);
}

static sala_status check_files(const char *dir, const json_t *meta, sala_error *err)
{
    const json_t *files = json_object_get(meta, "files");
    const size_t n = json_array_size(files);
    if (n == 0 || n > MAX_RANKS || (json_int_t)n != json_integer_value(json_object_get(meta, "ranks")))
        return sala_fail(err, SALA_E_CORRUPT, "meta.json: %zu files for %" JSON_INTEGER_FORMAT " ranks", n,
                         json_integer_value(json_object_get(meta, "ranks")));
    for (size_t r = 0; r < n; r++) {
        const json_t *file = json_array_get(files, r);
        char name[32];
        int64_t want_bytes;
        uint64_t want_sum, bytes, sum;
        rank_file(name, (int)r);
        if (!parse_count(file, "bytes", &want_bytes) || !parse_hex(json_object_get(file, "sum"), &want_sum))
            return sala_fail(err, SALA_E_CORRUPT, "meta.json: file %zu has no size and checksum", r);
        char *path = sala_path_join(dir, name);
        if (!path)
            return sala_fail_memory(err, strlen(dir));
        const int64_t there = sala_os_file_size(path);
        free(path);
        if (there < 0)
            return sala_fail(err, SALA_E_CORRUPT, "%s is missing", name);
        if (there != want_bytes)
            return sala_fail(err, SALA_E_CORRUPT, "%s: %" PRId64 " bytes expected, %" PRId64 " found", name, want_bytes,
                             there);
        TRY(look_at(dir, name, &bytes, &sum, err));
        if (sum != want_sum)
            return sala_fail(err, SALA_E_CORRUPT,
                             "%s: belongs to another save (header %016" PRIx64 ", expected %016" PRIx64 ")", name, sum,
                             want_sum);
    }
    return SALA_OK;
}

static sala_status parse_meta(sala_save *s, json_t *meta, const char *dir, sala_error *err)
{
    uint64_t stored = 0, found = 0;
    int64_t format;
    if (!json_is_object(meta))
        return sala_fail(err, SALA_E_CORRUPT, "meta.json is not a JSON object");
    const bool has_self = parse_hex(json_object_get(meta, "self"), &stored);
    if (!self_sum(meta, &found))
        return sala_fail_memory(err, 65536);
    if (!has_self || stored != found)
        return sala_fail(err, SALA_E_CORRUPT, "meta.json: checksum %016" PRIx64 " stored, %016" PRIx64 " found", stored,
                         found);
    if (!parse_count(meta, "format", &format) || format != VERSION)
        return sala_fail(err, SALA_E_UNSUPPORTED, "meta.json: version %" PRId64 " of the format, expected %d", format,
                         VERSION);
    const char *config = json_string_value(json_object_get(meta, "config"));
    if (!parse_count(meta, "step", &s->step) || !parse_count(meta, "metrics_bytes", &s->metrics_bytes) || !config ||
        !parse_state(s, meta))
        return sala_fail(err, SALA_E_CORRUPT, "meta.json lacks part of a run's state");
    s->stable = json_is_true(json_object_get(meta, "stable"));
    s->config_text = sala_strdup(config);
    s->path = sala_strdup(dir);
    if (!s->config_text || !s->path)
        return sala_fail_memory(err, strlen(config));
    return check_files(dir, meta, err);
}

sala_status sala_saves_open(sala_save *out, const char *path, sala_error *err)
{
    sala_save s = {0};
    uint8_t *text = NULL;
    size_t bytes = 0;
    json_error_t where;
    char *meta_path = sala_path_join(path, "meta.json");
    if (!meta_path)
        return sala_fail_memory(err, strlen(path));
    const int e = sala_os_read_file(&text, &bytes, meta_path, (size_t)16 << 20);
    free(meta_path);
    if (e)
        return sala_fail(err, SALA_E_CORRUPT, "meta.json: %s", strerror(e));
    json_t *meta = json_loadb((const char *)text, bytes, JSON_REJECT_DUPLICATES, &where);
    free(text);
    sala_status st;
    if (!meta)
        st = sala_fail(err, SALA_E_CORRUPT, "meta.json: line %d: %s", where.line, where.text);
    else
        st = parse_meta(&s, meta, path, err);
    json_decref(meta);
    if (st != SALA_OK)
        sala_save_free(&s);
    else
        *out = s;
    return st;
}

void sala_save_free(sala_save *s)
{
    free(s->path);
    free(s->config_text);
    *s = (sala_save){0};
}

/* ---- finding ---- */

typedef struct step_list {
    int64_t *steps;
    size_t n, cap;
    bool failed;
} step_list;

/* "step-000000120" and nothing else; -1 otherwise. */
static int64_t step_of_name(const char *name)
{
    if (strncmp(name, "step-", 5) != 0)
        return -1;
    const size_t digits = strspn(name + 5, "0123456789");
    return digits >= 9 && digits <= 18 && !name[5 + digits] ? strtoll(name + 5, NULL, 10) : -1;
}

static bool add_step(void *user, const char *name)
{
    step_list *l = user;
    const int64_t step = step_of_name(name);
    if (step < 0)
        return true;
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 16;
        int64_t *more = realloc(l->steps, cap * sizeof *more);
        if (!more) {
            l->failed = true;
            return false;
        }
        l->steps = more;
        l->cap = cap;
    }
    l->steps[l->n++] = step;
    return true;
}

static int by_step(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Ascending. No directory is no save. */
static sala_status list_steps(step_list *l, const char *out_dir, sala_error *err)
{
    char *dir = sala_path_join(out_dir, "checkpoints");
    if (!dir)
        return sala_fail_memory(err, strlen(out_dir));
    const int e = sala_os_list_dir(dir, add_step, l);
    sala_status st = SALA_OK;
    if (l->failed)
        st = sala_fail_memory(err, l->cap * sizeof *l->steps);
    else if (e && e != ENOENT)
        st = sala_fail_errno(err, e, "could not list %s", dir);
    free(dir);
    if (st == SALA_OK && l->n)
        qsort(l->steps, l->n, sizeof *l->steps, by_step);
    return st;
}

sala_status sala_saves_find(sala_save *out, bool *found, int *damaged, const char *out_dir, int64_t max_step,
                            void (*notice)(void *user, const char *line), void *user, sala_error *err)
{
    step_list l = {0};
    sala_status st = list_steps(&l, out_dir, err);
    *found = false;
    if (damaged)
        *damaged = 0;
    for (size_t i = l.n; i-- > 0 && st == SALA_OK && !*found;) {
        if (max_step >= 0 && l.steps[i] > max_step)
            continue;
        sala_error why = {0};
        char *path = save_path(out_dir, l.steps[i], "");
        if (!path) {
            st = sala_fail_memory(err, strlen(out_dir));
            break;
        }
        const sala_status opened = sala_saves_open(out, path, &why);
        free(path);
        if (opened == SALA_OK) {
            *found = true;
        } else if (opened == SALA_E_CORRUPT) {
            char line[sizeof why.message + 96];
            snprintf(line, sizeof line, "checkpoints/step-%09" PRId64 " is damaged (%s)", l.steps[i], why.message);
            if (notice)
                notice(user, line);
            if (damaged)
                ++*damaged;
        } else {
            st = opened;
            if (err)
                *err = why;
        }
    }
    free(l.steps);
    return st;
}

/* ---- loading ---- */

typedef struct target {
    float *values;     /* [n_elements] */
    float *moments[2]; /* this rank's parts, or NULL */
    const part *parts;
    int n_parts;
    uint64_t n_values, n_moments; /* elements that have arrived */
} target;

/* Copies what lies in both [begin, end) of the file's part and the rank's own parts. */
static void copy_moments(target *t, int which, uint64_t begin, uint64_t end, const float *data)
{
    for (int i = 0; i < t->n_parts; i++) {
        const part *p = &t->parts[i];
        const uint64_t from = begin > p->begin ? begin : p->begin, to = end < p->end ? end : p->end;
        if (from >= to)
            continue;
        memcpy(t->moments[which] + p->moments_at + (from - p->begin), data + (from - begin),
               (size_t)(to - from) * sizeof *data);
        t->n_moments += to - from;
    }
}

static bool wants_moments(const target *t, uint64_t begin, uint64_t end)
{
    for (int i = 0; i < t->n_parts; i++)
        if (begin < t->parts[i].end && end > t->parts[i].begin)
            return true;
    return false;
}

static sala_status load_part(target *t, const char *name, const sala_map *map, const uint8_t *h, uint64_t n_elements,
                             sala_error *err)
{
    static const char *const words[N_ARRAYS] = {"values", "first moments", "second moments"};
    const uint64_t begin = get_u64(h), end = get_u64(h + 8);
    if (begin >= end || end > n_elements)
        return sala_fail(err, SALA_E_CORRUPT, "%s: a part holds elements %" PRIu64 " to %" PRIu64 " of %" PRIu64, name,
                         begin, end, n_elements);
    const uint64_t bytes = (end - begin) * sizeof(float); /* n_elements is known to be one of ours */
    for (int a = 0; a < N_ARRAYS; a++) {
        const uint64_t at = get_u64(h + 16 + 8 * a), want = get_u64(h + 40 + 8 * a);
        if (at % ALIGN || at > map->bytes || bytes > map->bytes - at)
            return sala_fail(err, SALA_E_CORRUPT, "%s: %s at byte %" PRIu64 " reach beyond the end", name, words[a],
                             at);
        if (a > 0 && !(t->moments[0] && wants_moments(t, begin, end)))
            continue;
        const float *data = (const float *)(const void *)(map->data + at);
        const uint64_t sum = XXH3_64bits(data, (size_t)bytes);
        if (sum != want)
            return sala_fail(err, SALA_E_CORRUPT,
                             "%s: %s of elements %" PRIu64 "..: checksum %016" PRIx64 " stored, %016" PRIx64 " found",
                             name, words[a], begin, want, sum);
        if (a > 0) {
            copy_moments(t, a - 1, begin, end, data);
        } else {
            memcpy(t->values + begin, data, (size_t)bytes);
            t->n_values += end - begin;
        }
    }
    return SALA_OK;
}

static sala_status load_file(target *t, const sala_save *info, const char *name, const sala_map *map,
                             const sala_params *params, sala_error *err)
{
    uint64_t n_parts = 0;
    const uint64_t head = map->bytes >= FIXED_BYTES ? get_u32(map->data + 12) : 0;
    if (head < HEADER_UNIT || head > map->bytes ||
        XXH3_64bits(map->data, (size_t)head - 8) != get_u64(map->data + head - 8))
        return sala_fail(err, SALA_E_CORRUPT, "%s: the header is damaged", name);
    if (get_u64(map->data + 48) != map->bytes)
        return sala_fail(err, SALA_E_CORRUPT, "%s: %" PRIu64 " bytes expected, %zu found", name,
                         get_u64(map->data + 48), map->bytes);
    if (get_u64(map->data + 24) != (uint64_t)info->step)
        return sala_fail(err, SALA_E_CORRUPT, "%s: step %" PRIu64 ", expected %" PRId64, name, get_u64(map->data + 24),
                         info->step);
    if (get_u64(map->data + 32) != params->n_elements || get_u64(map->data + 40) != sala_saves_layout(params))
        return sala_fail(err, SALA_E_INVALID,
                         "%s: %s holds a model of %" PRIu64
                         " weights in another layout; this config makes one of %" PRIu64,
                         info->path, name, get_u64(map->data + 32), params->n_elements);
    n_parts = get_u32(map->data + 56);
    if (header_bytes(n_parts) != head)
        return sala_fail(err, SALA_E_CORRUPT, "%s: %" PRIu64 " parts in a header of %" PRIu64 " bytes", name, n_parts,
                         head);
    for (uint64_t i = 0; i < n_parts; i++)
        TRY(load_part(t, name, map, map->data + FIXED_BYTES + PART_BYTES * i, params->n_elements, err));
    return SALA_OK;
}

static sala_status load_all(target *t, const sala_save *info, const sala_params *params, sala_error *err)
{
    sala_status st = SALA_OK;
    int ranks = 1;
    for (int r = 0; r < ranks && st == SALA_OK; r++) {
        char name[32];
        sala_map map = {0};
        char *path = sala_path_join(info->path, rank_file(name, r));
        if (!path)
            return sala_fail_memory(err, strlen(info->path));
        const int e = sala_os_map(&map, path);
        free(path);
        if (e)
            return sala_fail(err, SALA_E_CORRUPT, "%s: %s", name, strerror(e));
        st = load_file(t, info, name, &map, params, err);
        if (st == SALA_OK) {
            const uint32_t n = get_u32(map.data + 20);
            ranks = n >= 1 && n <= MAX_RANKS ? (int)n : 1;
        }
        sala_os_unmap(&map);
    }
    if (st == SALA_OK && t->n_values != params->n_elements)
        st = sala_fail(err, SALA_E_CORRUPT, "the files hold %" PRIu64 " weights, expected %" PRIu64, t->n_values,
                       params->n_elements);
    return st;
}

sala_status sala_saves_load(const sala_save *info, sala_trainer *t, const sala_params *params, sala_dist *dist,
                            sala_error *err)
{
    int n_parts;
    part *parts = own_parts(params, dist, dist->rank, &n_parts);
    if (!parts)
        return sala_fail_memory(err, (uint64_t)params->n_buckets * sizeof *parts);
    target to = {.values = sala_trainer_values(t),
                 .moments = {sala_trainer_moment(t, 0), sala_trainer_moment(t, 1)},
                 .parts = parts,
                 .n_parts = n_parts};
    sala_status st = load_all(&to, info, params, err);
    uint64_t own = 0;
    for (int i = 0; i < n_parts; i++)
        own += parts[i].end - parts[i].begin;
    if (st == SALA_OK && to.n_moments != 2 * own)
        st = sala_fail(err, SALA_E_CORRUPT, "the files hold %" PRIu64 " moments of this rank, expected %" PRIu64,
                       to.n_moments / 2, own);
    free(parts);
    if (st == SALA_OK) {
        *sala_trainer_state_of(t) = info->trainer;
        sala_trainer_changed(t);
    }
    return st;
}

sala_status sala_saves_values(const sala_save *info, const sala_params *params, float *values, sala_error *err)
{
    target to = {.values = values};
    return load_all(&to, info, params, err);
}

/* ---- pruning ---- */

static bool is_stable(const char *path)
{
    char *meta_path = sala_path_join(path, "meta.json");
    json_t *meta = meta_path ? sala_json_load_file(meta_path) : NULL;
    const bool stable = json_is_true(json_object_get(meta, "stable"));
    json_decref(meta);
    free(meta_path);
    return stable;
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool remove_unfinished(void *user, const char *name)
{
    const char *dir = user;
    char *path = ends_with(name, PART) || ends_with(name, OLD) ? sala_path_join(dir, name) : NULL;
    if (path)
        (void)sala_os_remove_tree(path); /* tried again at the next turn */
    free(path);
    return true;
}

typedef struct recovery {
    const char *dir;
    int error;
} recovery;

static bool bring_back(void *user, const char *name)
{
    recovery *r = user;
    char *old = ends_with(name, OLD) ? sala_path_join(r->dir, name) : NULL;
    char *own = old ? sala_strndup(old, strlen(old) - strlen(OLD)) : NULL;
    if (old && !own)
        r->error = ENOMEM;
    else if (old && !sala_os_is_dir(own))
        r->error = sala_os_rename(old, own);
    free(old);
    free(own);
    return !r->error;
}

sala_status sala_saves_recover(const char *out_dir, sala_error *err)
{
    char *dir = sala_path_join(out_dir, "checkpoints");
    if (!dir)
        return sala_fail_memory(err, strlen(out_dir));
    recovery r = {.dir = dir};
    (void)sala_os_list_dir(dir, bring_back, &r); /* no directory, no saves */
    if (!r.error)
        (void)sala_os_list_dir(dir, remove_unfinished, dir);
    free(dir);
    return r.error ? sala_fail_errno(err, r.error, "could not bring back a save of %s", out_dir) : SALA_OK;
}

static sala_status remove_step(const char *out_dir, int64_t step, sala_error *err)
{
    char *path = save_path(out_dir, step, "");
    if (!path)
        return sala_fail_memory(err, strlen(out_dir));
    const int e = sala_os_remove_tree(path);
    const sala_status st = e ? sala_fail_errno(err, e, "could not remove %s", path) : SALA_OK;
    free(path);
    return st;
}

sala_status sala_saves_forget(const char *out_dir, int64_t step, sala_error *err)
{
    step_list l = {0};
    sala_status st = list_steps(&l, out_dir, err);
    for (size_t i = l.n; i-- > 0 && l.steps[i] > step && st == SALA_OK;)
        st = remove_step(out_dir, l.steps[i], err);
    free(l.steps);
    return st;
}

sala_status sala_saves_prune(const char *out_dir, int64_t keep_last, int64_t keep_every, sala_error *err)
{
    step_list l = {0};
    sala_status st = list_steps(&l, out_dir, err);
    char *dir = sala_path_join(out_dir, "checkpoints");
    if (dir)
        (void)sala_os_list_dir(dir, remove_unfinished, dir);
    free(dir);
    for (size_t i = 0; i < l.n && st == SALA_OK && (int64_t)(l.n - i) > keep_last; i++) {
        if (keep_every > 0 && l.steps[i] % keep_every == 0)
            continue;
        char *path = save_path(out_dir, l.steps[i], "");
        const bool stable = path && is_stable(path);
        st = path ? SALA_OK : sala_fail_memory(err, strlen(out_dir));
        free(path);
        if (st == SALA_OK && !stable)
            st = remove_step(out_dir, l.steps[i], err);
    }
    free(l.steps);
    return st;
}
