/* Opening and reading a session file. All that is read is a claim: a header counts when its checksum is right, a table
 * when its checksum is right and every place in it lies inside the file and apart from all others. Only then memory is
 * taken, in proportion to a table that is really there. */
#include "format/session_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include <xxhash.h>

#define VERSION 2

static const char magic[8] = {'S', 'A', 'L', 'A', 'S', 'E', 'S', 'S'};

typedef enum slot_kind {
    SLOT_BLANK,   /* nothing but zeros */
    SLOT_FOREIGN, /* something without the magic */
    SLOT_DAMAGED, /* the magic, and a checksum that does not fit */
    SLOT_LATER,   /* in order, of another version */
    SLOT_GOOD,
} slot_kind;

typedef struct slot {
    slot_kind kind;
    uint32_t version;
    uint64_t generation, length;
    sala_sf_place table;
} slot;

uint64_t sala_session_sum(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

int64_t sala_sf_state_pages(const sala_sf_state *s)
{
    int64_t n = 0;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        n += s->sections[i].n_pages;
    return n;
}

void sala_sf_state_free(sala_sf_state *s)
{
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        free(s->sections[i].pages);
    free(s->text);
    *s = (sala_sf_state){0};
}

/* ---- headers ---- */

void sala_sf_header(uint8_t out[SALA_SF_HEADER_BYTES], const sala_sf_state *s)
{
    memcpy(out, magic, sizeof magic);
    sala_sf_put_u32(out + 8, VERSION);
    sala_sf_put_u32(out + 12, (uint32_t)SALA_SF_UNIT);
    sala_sf_put_u64(out + 16, s->generation);
    sala_sf_put_u64(out + 24, s->table.offset);
    sala_sf_put_u64(out + 32, s->table.bytes);
    sala_sf_put_u64(out + 40, s->table.sum);
    sala_sf_put_u64(out + 48, s->length);
    sala_sf_put_u64(out + 56, sala_session_sum(out, 56));
}

/* What a new file begins with: no table, nothing in it. */
static void first_header(uint8_t out[SALA_SF_HEADER_BYTES])
{
    sala_sf_header(out, &(sala_sf_state){.length = SALA_SF_HEADER_BYTES});
}

static slot parse_slot(const uint8_t bytes[SALA_SF_HEADER_BYTES], int index)
{
    slot s = {.kind = SLOT_BLANK};
    bool blank = true;
    for (int i = 0; i < SALA_SF_HEADER_BYTES; i++)
        blank = blank && bytes[i] == 0;
    if (blank)
        return s;
    if (memcmp(bytes, magic, sizeof magic) != 0) {
        s.kind = SLOT_FOREIGN;
        return s;
    }
    sala_reader r = sala_reader_of(bytes + sizeof magic, SALA_SF_HEADER_BYTES - sizeof magic);
    s.version = sala_read_u32(&r);
    const uint32_t unit = sala_read_u32(&r);
    s.generation = sala_read_u64(&r);
    s.table.offset = sala_read_u64(&r);
    s.table.bytes = sala_read_u64(&r);
    s.table.sum = sala_read_u64(&r);
    s.length = sala_read_u64(&r);
    if (sala_read_u64(&r) != sala_session_sum(bytes, 56))
        s.kind = SLOT_DAMAGED;
    else if (s.version != VERSION)
        s.kind = SLOT_LATER;
    else if (unit != SALA_SF_UNIT || s.generation % 2 != (uint64_t)index || s.generation > INT64_MAX)
        s.kind = SLOT_DAMAGED;
    else
        s.kind = SLOT_GOOD;
    return s;
}

/* ---- tables ---- */

static bool place_fits(uint64_t offset, uint64_t bytes, uint64_t length)
{
    return offset % SALA_SF_UNIT == 0 && offset >= SALA_SF_FIRST_PLACE && offset <= length && bytes <= length - offset;
}

static sala_status check_apart(const sala_session_file *f, const sala_sf_state *s, sala_error *err)
{
    sala_sf_list places = {0};
    if (!sala_sf_list_places(&places, s))
        return sala_fail_memory(err, (uint64_t)sala_sf_state_pages(s) * sizeof(sala_sf_extent));
    sala_status status = SALA_OK;
    for (size_t i = 1; i < places.n && status == SALA_OK; i++)
        if (places.items[i].begin < places.items[i - 1].end)
            status = sala_fail_at(err, SALA_E_CORRUPT, (int64_t)places.items[i].begin,
                                  "%s: two places overlap: one begins at %" PRIu64 ", another ends at %" PRIu64,
                                  f->path, places.items[i].begin, places.items[i - 1].end);
    sala_sf_list_free(&places);
    return status;
}

static sala_status read_description(const sala_session_file *f, sala_sf_state *s, sala_error *err)
{
    const sala_sf_place *d = &s->description;
    if (d->bytes > SALA_SESSION_MAX_DESCRIPTION)
        return sala_fail(err, SALA_E_CORRUPT, "%s: a description of %" PRIu64 " bytes; at most %" PRIu64 " are allowed",
                         f->path, d->bytes, SALA_SESSION_MAX_DESCRIPTION);
    if (d->bytes == 0 ? d->offset != 0 || d->sum != 0 : !place_fits(d->offset, d->bytes, s->length))
        return sala_fail(err, SALA_E_CORRUPT,
                         "%s: the description's place, %" PRIu64 " bytes at %" PRIu64 ", is none in a file of %" PRIu64,
                         f->path, d->bytes, d->offset, s->length);
    const uint8_t *text = d->bytes ? sala_sf_at(f, d->offset) : (const uint8_t *)"";
    const uint64_t sum = d->bytes ? sala_session_sum(text, (size_t)d->bytes) : 0;
    if (sum != d->sum)
        return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)d->offset,
                            "%s: the description's checksum is %016" PRIx64 ", the table says %016" PRIx64, f->path,
                            sum, d->sum);
    char *copy = malloc((size_t)d->bytes + 1);
    if (!copy)
        return sala_fail_memory(err, d->bytes);
    memcpy(copy, text, (size_t)d->bytes);
    copy[d->bytes] = 0;
    s->text = copy;
    return SALA_OK;
}

/* Counts and sizes of the sections: from the head of the table alone, before memory is taken. */
static sala_status read_sections(const sala_session_file *f, sala_sf_state *s, sala_reader *r, sala_error *err)
{
    uint64_t total = 0;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++) {
        const uint64_t page_bytes = sala_read_u64(r), n_pages = sala_read_u64(r);
        if (page_bytes > SALA_SESSION_MAX_PAGE_BYTES || n_pages > (uint64_t)SALA_SESSION_MAX_PAGES ||
            (n_pages > 0 && page_bytes == 0))
            return sala_fail(err, SALA_E_CORRUPT, "%s: section %d claims %" PRIu64 " pages of %" PRIu64 " bytes",
                             f->path, i, n_pages, page_bytes);
        total += n_pages;
        s->sections[i].page_bytes = page_bytes;
        s->sections[i].cap_pages = (int64_t)n_pages;
    }
    const uint64_t want = SALA_SF_TABLE_HEAD + 16 * total;
    if (total > (uint64_t)SALA_SESSION_MAX_PAGES || want != s->table.bytes)
        return sala_fail(err, SALA_E_CORRUPT,
                         "%s: %" PRIu64 " pages take a table of %" PRIu64 " bytes, this one has %" PRIu64, f->path,
                         total, want, s->table.bytes);
    return SALA_OK;
}

static sala_status read_pages(const sala_session_file *f, sala_sf_state *s, int section, sala_reader *r,
                              sala_error *err)
{
    sala_sf_section *sec = &s->sections[section];
    const int64_t n = sec->cap_pages;
    if (n == 0)
        return SALA_OK;
    sec->pages = calloc((size_t)n, sizeof *sec->pages);
    if (!sec->pages)
        return sala_fail_memory(err, (uint64_t)n * sizeof *sec->pages);
    for (int64_t p = 0; p < n; p++) {
        const uint64_t offset = sala_read_u64(r);
        if (!place_fits(offset, sec->page_bytes, s->length))
            return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)(s->table.offset + r->at - 8),
                                "%s: page %" PRId64 " of section %d, %" PRIu64 " bytes at %" PRIu64
                                ", is at no place in a file of %" PRIu64,
                                f->path, p, section, sec->page_bytes, offset, s->length);
        sec->pages[p].offset = offset;
        sec->pages[p].sum = sala_read_u64(r);
        sec->n_pages = p + 1;
    }
    return SALA_OK;
}

static sala_status read_table(const sala_session_file *f, sala_sf_state *s, sala_error *err)
{
    const uint64_t bytes = s->table.bytes, most = SALA_SF_TABLE_HEAD + 16 * (uint64_t)SALA_SESSION_MAX_PAGES;
    if (bytes < SALA_SF_TABLE_HEAD || bytes > most || !place_fits(s->table.offset, bytes, s->length))
        return sala_fail(err, SALA_E_CORRUPT,
                         "%s: a table of %" PRIu64 " bytes at %" PRIu64 " in a file of %" PRIu64
                         "; expected %d to %" PRIu64 " bytes inside",
                         f->path, bytes, s->table.offset, s->length, SALA_SF_TABLE_HEAD, most);
    const uint8_t *data = sala_sf_at(f, s->table.offset);
    const uint64_t sum = sala_session_sum(data, (size_t)bytes);
    if (sum != s->table.sum)
        return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)s->table.offset,
                            "%s: the table's checksum is %016" PRIx64 ", the header says %016" PRIx64, f->path, sum,
                            s->table.sum);
    sala_reader r = sala_reader_of(data, (size_t)bytes);
    const uint64_t generation = sala_read_u64(&r);
    if (generation != s->generation)
        return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)s->table.offset,
                            "%s: a table of generation %" PRIu64 " under a header of generation %" PRIu64, f->path,
                            generation, s->generation);
    s->description.offset = sala_read_u64(&r);
    s->description.bytes = sala_read_u64(&r);
    s->description.sum = sala_read_u64(&r);
    sala_status status = read_sections(f, s, &r, err);
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS && status == SALA_OK; i++)
        status = read_pages(f, s, i, &r, err);
    if (status == SALA_OK)
        status = read_description(f, s, err);
    if (status == SALA_OK)
        status = check_apart(f, s, err);
    return status;
}

/* The state that a good header stands for. *out is all zeros before, and on failure. */
static sala_status read_state(const sala_session_file *f, sala_sf_state *out, const slot *from, uint64_t size,
                              sala_error *err)
{
    out->generation = from->generation;
    out->length = from->length;
    out->table = from->table;
    sala_status status = SALA_OK;
    if (from->length > size)
        status =
            sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)size,
                         "%s: the file has %" PRIu64 " bytes, generation %" PRIu64 " of the session needs %" PRIu64,
                         f->path, size, from->generation, from->length);
    else if (from->generation > 0 || from->table.bytes > 0)
        status = read_table(f, out, err);
    else if (!(out->text = sala_strdup("")))
        status = sala_fail_memory(err, 1);
    if (status != SALA_OK)
        sala_sf_state_free(out);
    return status;
}

/* ---- opening ---- */

/* Writes what a new file begins with. The second slot is filled only when the first is safe, so that what an
 * interruption leaves can be told from other files: see begun_only. */
static sala_status begin_file(sala_session_file *f, sala_error *err)
{
    uint8_t header[SALA_SF_HEADER_BYTES];
    first_header(header);
    static const uint8_t zeros[SALA_SF_FIRST_PLACE - SALA_SF_HEADER_BYTES];
    int rc = sala_os_store_write(f->store, 0, header, sizeof header);
    if (rc == 0)
        rc = sala_os_store_sync(f->store);
    if (rc == 0)
        rc = sala_os_store_write(f->store, sizeof header, zeros, sizeof zeros);
    if (rc)
        return sala_fail_errno(err, rc, "%s: beginning a session", f->path);
    return SALA_OK;
}

/* Whether the file is what an interrupted begin_file can leave: each byte is as written or still zero. */
static bool begun_only(const uint8_t *head, uint64_t size)
{
    uint8_t header[SALA_SF_HEADER_BYTES];
    first_header(header);
    if (size > sizeof header)
        return false;
    for (size_t i = 0; i < size; i++)
        if (head[i] != header[i] && head[i] != 0)
            return false;
    return true;
}

static sala_status no_state(const sala_session_file *f, const slot slots[2], const uint8_t *head, uint64_t size,
                            sala_error *err)
{
    if (begun_only(head, size))
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)size,
                            "%s: the file has %" PRIu64 " bytes and no session in it yet", f->path, size);
    if (slots[0].kind <= SLOT_FOREIGN && slots[1].kind <= SLOT_FOREIGN)
        return sala_fail_at(err, SALA_E_CORRUPT, 0,
                            "%s: this is no session file: it begins with %02x %02x %02x %02x %02x %02x %02x %02x, "
                            "expected \"%.8s\"",
                            f->path, head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7], magic);
    if (size < SALA_SF_UNIT + SALA_SF_HEADER_BYTES)
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)size,
                            "%s: the file ends after %" PRIu64
                            " bytes; a session has two headers in the first %" PRIu64,
                            f->path, size, SALA_SF_FIRST_PLACE);
    return sala_fail_at(err, SALA_E_CORRUPT, 0, "%s: the checksums of both headers are wrong", f->path);
}

static sala_status choose_state(sala_session_file *f, const slot slots[2], const uint8_t *head, uint64_t size,
                                sala_error *err)
{
    for (int i = 0; i < 2; i++)
        if (slots[i].kind == SLOT_LATER)
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "%s: the session has format version %" PRIu32 "; this program reads version %d", f->path,
                             slots[i].version, VERSION);
    int order[2] = {0, 1};
    if (slots[1].kind == SLOT_GOOD && (slots[0].kind != SLOT_GOOD || slots[1].generation > slots[0].generation)) {
        order[0] = 1;
        order[1] = 0;
    }
    if (slots[order[0]].kind != SLOT_GOOD)
        return no_state(f, slots, head, size, err);
    const slot *best = &slots[order[0]], *other = &slots[order[1]];
    sala_status status = read_state(f, &f->now, best, size, err);
    if (status == SALA_OK) {
        /* The other slot ought to hold the generation before, or nothing if there is none. */
        f->fell_back = best->generation == 0 ? other->kind != SLOT_BLANK
                                             : other->kind != SLOT_GOOD || other->generation + 1 != best->generation;
        f->previous_length = other->kind == SLOT_GOOD ? other->length : 0;
        return SALA_OK;
    }
    if (status == SALA_E_MEMORY || other->kind != SLOT_GOOD)
        return status;
    if (read_state(f, &f->now, other, size, NULL) != SALA_OK)
        return status;
    f->fell_back = true;
    return SALA_OK;
}

static sala_status open_store(sala_session_file *f, const char *path, sala_session_access access, sala_error *err)
{
    const sala_store_access how = access == SALA_SESSION_READ    ? SALA_STORE_READ
                                  : access == SALA_SESSION_WRITE ? SALA_STORE_WRITE
                                                                 : SALA_STORE_CREATE;
    int64_t holder;
    const int rc = sala_os_store_open(&f->store, path, how, &holder);
    if (rc == EBUSY && holder > 0)
        return sala_fail(err, SALA_E_STATE, "%s: process %" PRId64 " has the session open%s", path, holder,
                         f->writable ? "" : " for writing");
    if (rc == EBUSY)
        return sala_fail(err, SALA_E_STATE, "%s: another process has the session open%s", path,
                         f->writable ? "" : " for writing");
    if (rc == EINVAL || rc == EISDIR)
        return sala_fail(err, SALA_E_INVALID, "%s: a session is a regular file, this is %s", path,
                         rc == EISDIR ? "a folder" : "none");
    if (rc == ELOOP)
        return sala_fail(err, SALA_E_INVALID, "%s: a symbolic link to nothing", path);
    if (rc)
        return sala_fail_errno(err, rc, "%s", path);
    return SALA_OK;
}

static sala_status open_file(sala_session_file *f, const char *path, sala_session_access access, sala_error *err)
{
    f->writable = access != SALA_SESSION_READ;
    f->path = sala_strdup(path);
    if (!f->path)
        return sala_fail_memory(err, strlen(path) + 1);
    sala_status status = open_store(f, path, access, err);
    if (status != SALA_OK)
        return status;
    uint8_t heads[2][SALA_SF_HEADER_BYTES] = {{0}};
    uint64_t size = 0;
    for (int attempt = 0; attempt < 2; attempt++) {
        int rc = sala_os_store_size(f->store, &size);
        for (int i = 0; i < 2 && rc == 0; i++) {
            size_t got;
            rc = sala_os_store_read(f->store, (uint64_t)i * SALA_SF_UNIT, heads[i], SALA_SF_HEADER_BYTES, &got);
        }
        if (rc)
            return sala_fail_errno(err, rc, "%s: reading the headers", path);
        if (access != SALA_SESSION_CREATE || !begun_only(heads[0], size) || attempt == 1)
            break;
        status = begin_file(f, err);
        if (status != SALA_OK)
            return status;
    }
    const slot slots[2] = {parse_slot(heads[0], 0), parse_slot(heads[1], 1)};
    /* Nothing is mapped of a file that is not ours. */
    if (slots[0].kind == SLOT_GOOD || slots[1].kind == SLOT_GOOD) {
        status = sala_sf_map_first(f, size, err);
        if (status != SALA_OK)
            return status;
    }
    return choose_state(f, slots, heads[0], size, err);
}

sala_status sala_session_file_open(sala_session_file **out, const char *path, sala_session_access access,
                                   sala_error *err)
{
    sala_session_file *f = calloc(1, sizeof *f);
    if (!f)
        return sala_fail_memory(err, sizeof *f);
    const sala_status status = open_file(f, path, access, err);
    if (status != SALA_OK) {
        sala_session_file_close(f);
        return status;
    }
    *out = f;
    return SALA_OK;
}

void sala_session_file_close(sala_session_file *f)
{
    if (!f)
        return;
    if (f->writable && f->store)
        sala_session_file_abort(f);
    sala_sf_unmap(f);
    if (f->store && sala_os_store_created(f->store) && f->now.generation == 0 && !f->doubtful)
        sala_os_store_remove(f->store);
    else
        sala_os_store_close(f->store);
    sala_sf_state_free(&f->now);
    sala_sf_state_free(&f->next);
    sala_sf_list_free(&f->kept);
    sala_sf_list_free(&f->space);
    free(f->path);
    free(f);
}

/* ---- reading ---- */

bool sala_session_file_fell_back(const sala_session_file *f)
{
    return f->fell_back;
}

bool sala_session_file_writable(const sala_session_file *f)
{
    return f->writable;
}

bool sala_session_file_is(const sala_session_file *f, const char *path)
{
    return sala_os_store_is(f->store, path);
}

bool sala_session_file_doubtful(const sala_session_file *f)
{
    return f->doubtful;
}

uint64_t sala_session_file_generation(const sala_session_file *f)
{
    return f->now.generation;
}

const char *sala_session_file_description(const sala_session_file *f, size_t *bytes)
{
    *bytes = (size_t)f->now.description.bytes;
    return f->now.text;
}

int64_t sala_session_file_pages(const sala_session_file *f, int section)
{
    return section >= 0 && section < SALA_SESSION_MAX_SECTIONS ? f->now.sections[section].n_pages : 0;
}

uint64_t sala_session_file_page_bytes(const sala_session_file *f, int section)
{
    return section >= 0 && section < SALA_SESSION_MAX_SECTIONS ? f->now.sections[section].page_bytes : 0;
}

static sala_sf_page *find_page(const sala_session_file *f, int section, int64_t page)
{
    if (page < 0 || page >= sala_session_file_pages(f, section))
        return NULL;
    return &f->now.sections[section].pages[page];
}

const void *sala_session_file_page(const sala_session_file *f, int section, int64_t page)
{
    sala_sf_page *p = find_page(f, section, page);
    if (!p)
        return NULL;
    atomic_store_explicit(&p->handed_out, true, memory_order_relaxed);
    return sala_sf_at(f, p->offset);
}

uint64_t sala_session_file_page_sum(const sala_session_file *f, int section, int64_t page)
{
    const sala_sf_page *p = find_page(f, section, page);
    return p ? p->sum : 0;
}

void sala_session_file_release(sala_session_file *f)
{
    f->kept.n = 0;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        for (int64_t p = 0; p < f->now.sections[i].n_pages; p++)
            atomic_store_explicit(&f->now.sections[i].pages[p].handed_out, false, memory_order_relaxed);
}

sala_status sala_session_file_check(const sala_session_file *f, int section, int64_t page, sala_error *err)
{
    const sala_sf_page *p = find_page(f, section, page);
    if (!p)
        return sala_fail(err, SALA_E_INVALID, "%s: page %" PRId64 " of section %d is not among its %" PRId64, f->path,
                         page, section, sala_session_file_pages(f, section));
    const uint64_t sum = sala_session_sum(sala_sf_at(f, p->offset), (size_t)f->now.sections[section].page_bytes);
    if (sum != p->sum)
        return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)p->offset,
                            "%s: page %" PRId64 " of section %d at %" PRIu64 " has the checksum %016" PRIx64
                            ", the table says %016" PRIx64,
                            f->path, page, section, p->offset, sum, p->sum);
    return SALA_OK;
}

sala_status sala_session_file_read(const sala_session_file *f, int section, int64_t page, void *dst, sala_error *err)
{
    const sala_status status = sala_session_file_check(f, section, page, err);
    if (status == SALA_OK)
        memcpy(dst, sala_sf_at(f, find_page(f, section, page)->offset), (size_t)f->now.sections[section].page_bytes);
    return status;
}
