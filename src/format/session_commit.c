/* Commits: what is new goes to free places of the file, then the table, and only when the disk has all that, the header
 * of the new generation into the slot of the generation before the last. */
#include "format/session_internal.h"

#include <inttypes.h>
#include <stdlib.h>

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void drop_next(sala_session_file *f)
{
    sala_sf_state_free(&f->next);
    f->begun = f->text_changed = false;
    f->writing = 0;
}

/* Gives back what the file has behind the last place that is needed: by this generation, by the one before, and by
 * whoever was handed pages. A failure leaves the file longer than need be, which is no harm. */
static void trim(sala_session_file *f)
{
    uint64_t need = larger(larger(f->now.length, f->previous_length), SALA_SF_FIRST_PLACE), size;
    for (size_t i = 0; i < f->kept.n; i++)
        need = larger(need, f->kept.items[i].end);
    if (sala_os_store_size(f->store, &size) == 0 && size > need)
        (void)sala_os_store_resize(f->store, need);
}

/* Ends the commit that is going on; whatever it wrote lies in places that nobody reads. */
static void undo(sala_session_file *f)
{
    const bool wrote = f->writing > 0;
    drop_next(f);
    if (wrote && !f->doubtful)
        trim(f);
}

static sala_status ended_by(sala_session_file *f, const sala_error *why, sala_error *err)
{
    undo(f);
    f->failure = *why;
    if (err)
        *err = *why;
    return why->code;
}

static bool copy_section(sala_sf_section *to, const sala_sf_section *from)
{
    *to = (sala_sf_section){.page_bytes = from->page_bytes, .n_pages = from->n_pages, .cap_pages = from->n_pages};
    if (from->n_pages == 0)
        return true;
    to->pages = calloc((size_t)from->n_pages, sizeof *to->pages);
    if (!to->pages)
        return false;
    for (int64_t p = 0; p < from->n_pages; p++) {
        to->pages[p].offset = from->pages[p].offset;
        to->pages[p].sum = from->pages[p].sum;
    }
    return true;
}

static sala_status begin(sala_session_file *f, sala_error *err)
{
    if (!f->writable)
        return sala_fail(err, SALA_E_STATE, "%s: the session was opened for reading only", f->path);
    if (f->doubtful)
        return sala_fail(err, SALA_E_STATE,
                         "%s: it is not known whether an earlier commit reached the disk; open the session again",
                         f->path);
    if (f->failure.code != SALA_OK) {
        if (err)
            *err = f->failure;
        return f->failure.code;
    }
    if (f->begun)
        return SALA_OK;
    if (f->now.generation >= INT64_MAX)
        return sala_fail(err, SALA_E_LIMIT, "%s: no generation can follow %" PRIu64, f->path, f->now.generation);
    sala_error why;
    sala_status status = sala_sf_space_begin(f, &why);
    if (status != SALA_OK)
        return ended_by(f, &why, err);
    f->begun = true;
    f->next.generation = f->now.generation + 1;
    f->next.description = f->now.description;
    bool ok = true;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS && ok; i++)
        ok = copy_section(&f->next.sections[i], &f->now.sections[i]);
    if (!ok) {
        sala_fail_memory(&why, (uint64_t)sala_sf_state_pages(&f->now) * sizeof(sala_sf_page));
        return ended_by(f, &why, err);
    }
    return SALA_OK;
}

/* Writes to a place of this commit. */
static sala_status write_place(sala_session_file *f, const sala_sf_place *place, const void *data, const char *what,
                               sala_error *err)
{
    f->writing += place->bytes;
    const int rc = sala_os_store_write(f->store, place->offset, data, (size_t)place->bytes);
    if (rc)
        return sala_fail_errno(err, rc, "%s: writing %" PRIu64 " bytes of %s at %" PRIu64 "; the session is as before",
                               f->path, place->bytes, what, place->offset);
    return SALA_OK;
}

sala_status sala_session_file_section(sala_session_file *f, int section, uint64_t page_bytes, sala_error *err)
{
    if (section < 0 || section >= SALA_SESSION_MAX_SECTIONS || page_bytes == 0 ||
        page_bytes > SALA_SESSION_MAX_PAGE_BYTES || page_bytes > SIZE_MAX)
        return sala_fail(err, SALA_E_INVALID,
                         "section %d with pages of %" PRIu64 " bytes; sections are 0 to %d, pages have 1 to %" PRIu64,
                         section, page_bytes, SALA_SESSION_MAX_SECTIONS - 1, SALA_SESSION_MAX_PAGE_BYTES);
    const sala_status status = begin(f, err);
    if (status != SALA_OK)
        return status;
    sala_sf_section *s = &f->next.sections[section];
    if (s->n_pages > 0 && s->page_bytes != page_bytes)
        return sala_fail(err, SALA_E_STATE, "%s: section %d holds %" PRId64 " pages of %" PRIu64 " bytes", f->path,
                         section, s->n_pages, s->page_bytes);
    s->page_bytes = page_bytes;
    return SALA_OK;
}

void sala_session_file_truncate(sala_session_file *f, int section, int64_t n)
{
    if (section < 0 || section >= SALA_SESSION_MAX_SECTIONS || begin(f, NULL) != SALA_OK)
        return;
    sala_sf_section *s = &f->next.sections[section];
    for (int64_t p = sala_max_i64(n, 0); p < s->n_pages; p++)
        if (s->pages[p].fresh)
            sala_sf_space_give(f, s->pages[p].offset, s->page_bytes);
    s->n_pages = sala_min_i64(s->n_pages, sala_max_i64(n, 0));
}

static bool reserve_page(sala_sf_section *s)
{
    if (s->n_pages < s->cap_pages)
        return true;
    const int64_t cap = s->cap_pages + s->cap_pages / 2 + 16;
    sala_sf_page *more = realloc(s->pages, (size_t)cap * sizeof *more);
    if (!more)
        return false;
    s->pages = more;
    s->cap_pages = cap;
    return true;
}

sala_status sala_session_file_put(sala_session_file *f, int section, int64_t page, const void *data, sala_error *err)
{
    const sala_status status = begin(f, err);
    if (status != SALA_OK)
        return status;
    sala_sf_section *s = section >= 0 && section < SALA_SESSION_MAX_SECTIONS ? &f->next.sections[section] : NULL;
    if (!s || s->page_bytes == 0 || page < 0 || page > s->n_pages)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: page %" PRId64 " of section %d cannot be written: it has %" PRId64 " pages of %" PRIu64
                         " bytes",
                         f->path, page, section, s ? s->n_pages : 0, s ? s->page_bytes : 0);
    sala_error why;
    const bool append = page == s->n_pages;
    if (append && sala_sf_state_pages(&f->next) >= SALA_SESSION_MAX_PAGES) {
        sala_fail(&why, SALA_E_LIMIT, "%s: a session file has at most %" PRId64 " pages", f->path,
                  SALA_SESSION_MAX_PAGES);
        return ended_by(f, &why, err);
    }
    if (append && !reserve_page(s)) {
        sala_fail_memory(&why, (uint64_t)s->cap_pages * sizeof *s->pages);
        return ended_by(f, &why, err);
    }
    const bool in_place = !append && s->pages[page].fresh; /* this commit's own, so nobody can be reading it */
    sala_sf_place place = {.bytes = s->page_bytes, .sum = sala_session_sum(data, (size_t)s->page_bytes)};
    if (in_place)
        place.offset = s->pages[page].offset;
    else if (sala_sf_space_take(f, &place.offset, place.bytes, &why) != SALA_OK)
        return ended_by(f, &why, err);
    if (write_place(f, &place, data, "a page", &why) != SALA_OK)
        return ended_by(f, &why, err);
    s->pages[page] = (sala_sf_page){.offset = place.offset, .sum = place.sum, .fresh = true};
    if (append)
        s->n_pages++;
    return SALA_OK;
}

sala_status sala_session_file_describe(sala_session_file *f, const char *json, size_t bytes, sala_error *err)
{
    const sala_status status = begin(f, err);
    if (status != SALA_OK)
        return status;
    if (bytes > SALA_SESSION_MAX_DESCRIPTION)
        return sala_fail(err, SALA_E_LIMIT, "%s: a description of %zu bytes; at most %" PRIu64 " are allowed", f->path,
                         bytes, SALA_SESSION_MAX_DESCRIPTION);
    char *copy = malloc(bytes + 1);
    if (!copy) {
        sala_error why;
        sala_fail_memory(&why, bytes);
        return ended_by(f, &why, err);
    }
    memcpy(copy, json, bytes);
    copy[bytes] = 0;
    free(f->next.text);
    f->next.text = copy;
    f->next.description = (sala_sf_place){.bytes = bytes, .sum = bytes ? sala_session_sum(copy, bytes) : 0};
    f->text_changed = true;
    return SALA_OK;
}

static sala_status write_description(sala_session_file *f, sala_error *err)
{
    sala_sf_state *s = &f->next;
    if (!f->text_changed) {
        s->text = sala_strndup(f->now.text, (size_t)f->now.description.bytes);
        return s->text ? SALA_OK : sala_fail_memory(err, f->now.description.bytes);
    }
    if (s->description.bytes == 0)
        return SALA_OK;
    sala_status status = sala_sf_space_take(f, &s->description.offset, s->description.bytes, err);
    if (status == SALA_OK)
        status = write_place(f, &s->description, s->text, "the description", err);
    return status;
}

static sala_status write_table(sala_session_file *f, sala_error *err)
{
    sala_sf_state *s = &f->next;
    s->table.bytes = SALA_SF_TABLE_HEAD + 16 * (uint64_t)sala_sf_state_pages(s);
    uint8_t *table = malloc((size_t)s->table.bytes);
    if (!table)
        return sala_fail_memory(err, s->table.bytes);
    sala_sf_put_u64(table, s->generation);
    sala_sf_put_u64(table + 8, s->description.offset);
    sala_sf_put_u64(table + 16, s->description.bytes);
    sala_sf_put_u64(table + 24, s->description.sum);
    uint8_t *p = table + SALA_SF_TABLE_HEAD;
    s->length = larger(SALA_SF_FIRST_PLACE, s->description.offset + s->description.bytes);
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++) {
        const sala_sf_section *sec = &s->sections[i];
        sala_sf_put_u64(table + 32 + 16 * i, sec->page_bytes);
        sala_sf_put_u64(table + 40 + 16 * i, (uint64_t)sec->n_pages);
        for (int64_t k = 0; k < sec->n_pages; k++, p += 16) {
            sala_sf_put_u64(p, sec->pages[k].offset);
            sala_sf_put_u64(p + 8, sec->pages[k].sum);
            s->length = larger(s->length, sec->pages[k].offset + sec->page_bytes);
        }
    }
    s->table.sum = sala_session_sum(table, (size_t)s->table.bytes);
    sala_status status = sala_sf_space_take(f, &s->table.offset, s->table.bytes, err);
    if (status == SALA_OK) {
        s->length = larger(s->length, s->table.offset + s->table.bytes);
        status = write_place(f, &s->table, table, "the table", err);
    }
    free(table);
    return status;
}

/* The step that counts. A header whose writing or syncing failed may reach the disk all the same; unless what the slot
 * held can be put back for certain, nothing more may be written, because the new generation may be the one that the
 * next open finds. */
static sala_status write_header(sala_session_file *f, sala_error *err)
{
    const uint64_t at = f->next.generation % 2 * SALA_SF_UNIT;
    uint8_t header[SALA_SF_HEADER_BYTES], before[SALA_SF_HEADER_BYTES] = {0};
    size_t got;
    int rc = sala_os_store_read(f->store, at, before, sizeof before, &got);
    if (rc)
        return sala_fail_errno(err, rc, "%s: reading the header at %" PRIu64, f->path, at);
    sala_sf_header(header, &f->next);
    rc = sala_os_store_write(f->store, at, header, sizeof header);
    if (rc == 0)
        rc = sala_os_store_sync(f->store);
    if (rc == 0) {
        f->writing += sizeof header;
        return SALA_OK;
    }
    f->doubtful = sala_os_store_write(f->store, at, before, sizeof before) != 0 || sala_os_store_sync(f->store) != 0;
    return sala_fail_errno(err, rc, "%s: writing the header; %s", f->path,
                           f->doubtful ? "the session is as before or as it was to become: open it again to see"
                                       : "the session is as before");
}

/* Pages of the last generation that someone was handed and that the new one no longer has keep their places. */
static bool keep_handed_out(sala_session_file *f)
{
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++) {
        const sala_sf_section *was = &f->now.sections[i];
        sala_sf_section *is = &f->next.sections[i];
        for (int64_t p = 0; p < was->n_pages; p++) {
            const uint64_t at = was->pages[p].offset;
            if (!atomic_load_explicit(&was->pages[p].handed_out, memory_order_relaxed))
                continue;
            if (p < is->n_pages && is->pages[p].offset == at)
                atomic_store_explicit(&is->pages[p].handed_out, true, memory_order_relaxed);
            else if (!sala_sf_list_add(&f->kept, at, at + sala_sf_round_up(was->page_bytes)))
                return false;
        }
    }
    return true;
}

sala_status sala_session_file_commit(sala_session_file *f, sala_error *err)
{
    sala_error why;
    const sala_error earlier = f->failure;
    f->failure.code = SALA_OK;
    if (earlier.code != SALA_OK) {
        if (err)
            *err = earlier;
        return earlier.code;
    }
    sala_status status = SALA_OK;
    if (!f->begun && f->now.generation > 0 && f->writable && !f->doubtful)
        return SALA_OK;
    status = begin(f, &why);
    const size_t n_kept = f->kept.n;
    if (status == SALA_OK && !keep_handed_out(f))
        status = sala_fail_memory(&why, (f->kept.n + 1) * sizeof *f->kept.items);
    if (status == SALA_OK)
        status = write_description(f, &why);
    if (status == SALA_OK)
        status = write_table(f, &why);
    if (status == SALA_OK) {
        const int rc = sala_os_store_sync(f->store);
        if (rc)
            status = sala_fail_errno(&why, rc, "%s: writing to the disk; the session is as before", f->path);
    }
    if (status == SALA_OK)
        status = write_header(f, &why);
    if (status != SALA_OK) {
        f->kept.n = n_kept;
        ended_by(f, &why, err);
        f->failure.code = SALA_OK;
        return status;
    }
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        for (int64_t p = 0; p < f->next.sections[i].n_pages; p++)
            f->next.sections[i].pages[p].fresh = false;
    f->written = f->writing;
    f->previous_length = f->now.length;
    sala_sf_state_free(&f->now);
    f->now = f->next;
    f->next = (sala_sf_state){0};
    f->fell_back = false;
    drop_next(f);
    trim(f);
    return SALA_OK;
}

void sala_session_file_abort(sala_session_file *f)
{
    f->failure.code = SALA_OK;
    if (f->begun)
        undo(f);
}

uint64_t sala_session_file_written(const sala_session_file *f)
{
    return f->written;
}

uint64_t sala_session_file_size(const sala_session_file *f)
{
    uint64_t bytes = 0;
    return sala_os_store_size(f->store, &bytes) == 0 ? bytes : 0;
}
