/* Which bytes of a session file are free, and where the file lies in memory.
 *
 * Pages that were handed out must not move, so a map is never grown or remapped: the first region is mapped with room
 * behind the end of the file (address space, no memory), and when that is used up another region follows, at least half
 * as large as all before it. No place reaches over the border of two regions; a gap that this leaves is free space like
 * any other. */
#include "format/session_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define MAP_ALIGN ((uint64_t)1 << 20) /* whole pages of every system */

uint64_t sala_sf_map_step = (uint64_t)1 << 30;

/* ---- lists of extents ---- */

static bool reserve(sala_sf_list *list, size_t extra)
{
    if (list->cap - list->n >= extra)
        return true;
    const size_t cap = list->n + extra + list->n / 2 + 16;
    sala_sf_extent *more = realloc(list->items, cap * sizeof *more);
    if (!more)
        return false;
    list->items = more;
    list->cap = cap;
    return true;
}

bool sala_sf_list_add(sala_sf_list *list, uint64_t begin, uint64_t end)
{
    if (!reserve(list, 1))
        return false;
    list->items[list->n++] = (sala_sf_extent){begin, end};
    return true;
}

static int compare(const void *a, const void *b)
{
    const sala_sf_extent *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

void sala_sf_list_sort(sala_sf_list *list)
{
    if (list->n > 1)
        qsort(list->items, list->n, sizeof *list->items, compare);
}

void sala_sf_list_free(sala_sf_list *list)
{
    free(list->items);
    *list = (sala_sf_list){0};
}

static void add_place(sala_sf_list *list, uint64_t offset, uint64_t bytes)
{
    if (bytes)
        list->items[list->n++] = (sala_sf_extent){offset, offset + sala_sf_round_up(bytes)};
}

bool sala_sf_list_places(sala_sf_list *list, const sala_sf_state *s)
{
    if (!reserve(list, (size_t)sala_sf_state_pages(s) + 2))
        return false;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        for (int64_t p = 0; p < s->sections[i].n_pages; p++)
            add_place(list, s->sections[i].pages[p].offset, s->sections[i].page_bytes);
    add_place(list, s->table.offset, s->table.bytes);
    add_place(list, s->description.offset, s->description.bytes);
    sala_sf_list_sort(list);
    return true;
}

/* ---- maps ---- */

/* One more region behind the last, for `need` bytes and as much of `room` as the system grants. */
static int map_region(sala_session_file *f, uint64_t need, uint64_t room)
{
    if (f->n_regions == SALA_SF_MAX_REGIONS)
        return ENOMEM;
    const uint64_t begin = f->n_regions ? f->regions[f->n_regions - 1].end : 0;
    for (;;) {
        uint64_t bytes;
        int rc = ENOMEM;
        const uint8_t *data = NULL;
        if (sala_add_size(&bytes, need, room) && sala_add_size(&bytes, bytes, MAP_ALIGN - 1)) {
            bytes = bytes / MAP_ALIGN * MAP_ALIGN;
            rc = sala_os_store_map(f->store, &data, begin, bytes);
        }
        if (rc == 0) {
            f->regions[f->n_regions++] = (sala_sf_region){data, begin, begin + bytes};
            return 0;
        }
        if (room == 0)
            return rc;
        room = room > MAP_ALIGN ? room / 2 : 0;
    }
}

static uint64_t room_for(uint64_t bytes)
{
    return bytes / 2 > sala_sf_map_step ? bytes / 2 : sala_sf_map_step;
}

sala_status sala_sf_map_first(sala_session_file *f, uint64_t size, sala_error *err)
{
    if (size == 0)
        return SALA_OK;
    const int rc = map_region(f, size, f->writable ? room_for(size) : 0);
    if (rc)
        return sala_fail_errno(err, rc, "%s: mapping %" PRIu64 " bytes", f->path, size);
    return SALA_OK;
}

void sala_sf_unmap(sala_session_file *f)
{
    for (int i = 0; i < f->n_regions; i++)
        sala_os_store_unmap(f->regions[i].data, f->regions[i].end - f->regions[i].begin);
    f->n_regions = 0;
}

const uint8_t *sala_sf_at(const sala_session_file *f, uint64_t offset)
{
    for (int i = 0; i < f->n_regions; i++)
        if (offset >= f->regions[i].begin && offset < f->regions[i].end)
            return f->regions[i].data + (offset - f->regions[i].begin);
    return NULL;
}

/* ---- free space ---- */

sala_status sala_sf_space_begin(sala_session_file *f, sala_error *err)
{
    f->space.n = 0;
    f->space_end = SALA_SF_FIRST_PLACE;
    sala_sf_list used = {0};
    bool ok = sala_sf_list_places(&used, &f->now);
    for (size_t i = 0; ok && i < f->kept.n; i++)
        ok = sala_sf_list_add(&used, f->kept.items[i].begin, f->kept.items[i].end);
    sala_sf_list_sort(&used);
    for (size_t i = 0; ok && i < used.n; i++) {
        if (used.items[i].begin > f->space_end)
            ok = sala_sf_list_add(&f->space, f->space_end, used.items[i].begin);
        f->space_end = used.items[i].end;
    }
    sala_sf_list_free(&used);
    return ok ? SALA_OK : sala_fail_memory(err, (uint64_t)sala_sf_state_pages(&f->now) * sizeof(sala_sf_extent));
}

/* The first position from `offset` on from where `bytes` reach over no border between regions. */
static uint64_t within_region(const sala_session_file *f, uint64_t offset, uint64_t bytes)
{
    for (int i = 0; i + 1 < f->n_regions; i++) {
        const uint64_t border = f->regions[i].end;
        if (offset < border && offset + bytes > border)
            offset = border;
    }
    return offset;
}

sala_status sala_sf_space_take(sala_session_file *f, uint64_t *offset, uint64_t bytes, sala_error *err)
{
    bytes = sala_sf_round_up(bytes);
    sala_sf_list *space = &f->space;
    if (!reserve(space, 1)) /* a place in the middle of a free one leaves two */
        return sala_fail_memory(err, (space->n + 1) * sizeof *space->items);
    for (size_t i = 0; i < space->n; i++) {
        sala_sf_extent *e = &space->items[i];
        const uint64_t begin = within_region(f, e->begin, bytes);
        if (begin >= e->end || e->end - begin < bytes)
            continue;
        const sala_sf_extent behind = {begin + bytes, e->end};
        e->end = begin;
        const bool before = e->begin < e->end, after = behind.begin < behind.end;
        if (before && after) {
            memmove(e + 2, e + 1, (space->n - i - 1) * sizeof *e);
            e[1] = behind;
            space->n++;
        } else if (after) {
            *e = behind;
        } else if (!before) {
            memmove(e, e + 1, (space->n - i - 1) * sizeof *e);
            space->n--;
        }
        *offset = begin;
        return SALA_OK;
    }

    const uint64_t mapped = f->regions[f->n_regions - 1].end;
    uint64_t begin = within_region(f, f->space_end, bytes);
    if (bytes > INT64_MAX - begin)
        return sala_fail(err, SALA_E_LIMIT, "%s: %" PRIu64 " more bytes behind %" PRIu64 " are beyond any file",
                         f->path, bytes, begin);
    if (begin + bytes > mapped) {
        const int rc = map_region(f, bytes, room_for(mapped));
        if (rc)
            return sala_fail_errno(err, rc, "%s: mapping %" PRIu64 " bytes more", f->path, bytes);
        begin = mapped;
    }
    if (begin > f->space_end)
        space->items[space->n++] = (sala_sf_extent){f->space_end, begin};
    f->space_end = begin + bytes;
    *offset = begin;
    return SALA_OK;
}

/* Without memory for the list the place is lost to this commit only. */
void sala_sf_space_give(sala_session_file *f, uint64_t offset, uint64_t bytes)
{
    const uint64_t end = offset + sala_sf_round_up(bytes);
    sala_sf_list *space = &f->space;
    if (!reserve(space, 1))
        return;
    size_t lo = 0, hi = space->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (space->items[mid].begin < offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    const bool joins_before = lo > 0 && space->items[lo - 1].end == offset;
    const bool joins_after = lo < space->n && space->items[lo].begin == end;
    if (joins_before && joins_after) {
        space->items[lo - 1].end = space->items[lo].end;
        memmove(&space->items[lo], &space->items[lo + 1], (space->n - lo - 1) * sizeof *space->items);
        space->n--;
    } else if (joins_before) {
        space->items[lo - 1].end = end;
    } else if (joins_after) {
        space->items[lo].begin = offset;
    } else {
        memmove(&space->items[lo + 1], &space->items[lo], (space->n - lo) * sizeof *space->items);
        space->items[lo] = (sala_sf_extent){offset, end};
        space->n++;
    }
    if (space->items[space->n - 1].end == f->space_end)
        f->space_end = space->items[--space->n].begin;
}
