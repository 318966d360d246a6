#include "state/pages.h"

#include "os/os.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    SLAB_BYTES = 16 << 20, /* at most */
    SLAB_LEAST = 2 << 20,  /* a huge page; less is not worth a slab */
    SLAB_FROM = 8          /* pages of a list that are separate memory: short sessions take no more than they need */
};

/* Memory of several pages of one size. One list cuts pages from it; the pages may then live anywhere and longer. */
struct sala_slab {
    _Atomic int refs;      /* of that list and of the pages */
    _Atomic uint64_t free; /* slots that were used and came back */
    int n_slots, n_used;   /* slots from n_used on are fresh; the list's alone */
    size_t slot_bytes;
    uint8_t *data;
};

struct sala_page {
    _Atomic int refs;
    _Atomic bool unchecked;
    int section;
    int64_t index;
    size_t bytes;
    void *data;
    sala_page_source *source; /* NULL: memory of our own */
    sala_slab *slab;          /* that it was cut from, or NULL */
};

/* ---- slabs ---- */

static sala_slab *slab_new(size_t page_bytes, int64_t n_slots)
{
    sala_slab *slab = calloc(1, sizeof *slab);
    if (!slab)
        return NULL;
    atomic_init(&slab->refs, 1);
    slab->slot_bytes = (page_bytes + 63) / 64 * 64;
    slab->n_slots = (int)n_slots;
    slab->data = sala_os_pages_alloc(slab->slot_bytes * (size_t)n_slots);
    if (!slab->data) {
        free(slab);
        return NULL;
    }
    return slab;
}

static void slab_release(sala_slab *slab)
{
    if (!slab || atomic_fetch_sub(&slab->refs, 1) > 1)
        return;
    sala_os_pages_free(slab->data, slab->slot_bytes * (size_t)slab->n_slots);
    free(slab);
}

/* A zeroed slot; NULL when there is none. */
static void *slab_take(sala_slab *slab)
{
    /* Others only add to the free slots; a slot's last reads come before its release. */
    const uint64_t free_slots = atomic_load_explicit(&slab->free, memory_order_acquire);
    if (free_slots) {
        const int slot = __builtin_ctzll(free_slots);
        atomic_fetch_and_explicit(&slab->free, ~(UINT64_C(1) << slot), memory_order_relaxed);
        return memset(slab->data + (size_t)slot * slab->slot_bytes, 0, slab->slot_bytes);
    }
    return slab->n_used < slab->n_slots ? slab->data + (size_t)slab->n_used++ * slab->slot_bytes : NULL;
}

static void slab_give_back(sala_slab *slab, const uint8_t *data)
{
    const uint64_t slot = (uint64_t)(data - slab->data) / slab->slot_bytes;
    atomic_fetch_or_explicit(&slab->free, UINT64_C(1) << slot, memory_order_release);
    slab_release(slab);
}

/* ---- pages ---- */

static sala_page *page_new(void *data, size_t bytes)
{
    sala_page *page = data ? calloc(1, sizeof *page) : NULL;
    if (!page)
        return NULL;
    atomic_init(&page->refs, 1);
    page->data = data;
    page->bytes = bytes;
    return page;
}

sala_page *sala_page_new(size_t bytes)
{
    void *data = sala_os_pages_alloc(bytes);
    sala_page *page = page_new(data, bytes);
    if (!page)
        sala_os_pages_free(data, bytes);
    return page;
}

sala_page *sala_page_mapped(const void *data, size_t bytes, sala_page_source *source, int section, int64_t index)
{
    /* The memory is mapped read-only; sala_page_writable() keeps everyone from writing. */
    sala_page *page = page_new((void *)(uintptr_t)data, bytes);
    if (!page)
        return NULL;
    atomic_fetch_add(&source->refs, 1);
    page->source = source;
    page->section = section;
    page->index = index;
    atomic_init(&page->unchecked, true);
    return page;
}

sala_page *sala_page_retain(sala_page *page)
{
    if (page)
        atomic_fetch_add(&page->refs, 1);
    return page;
}

void sala_page_release(sala_page *page)
{
    if (!page || atomic_fetch_sub(&page->refs, 1) > 1)
        return;
    if (page->slab)
        slab_give_back(page->slab, page->data);
    else if (!page->source)
        sala_os_pages_free(page->data, page->bytes);
    else if (atomic_fetch_sub(&page->source->refs, 1) == 1)
        page->source->close(page->source);
    free(page);
}

void *sala_page_data(const sala_page *page)
{
    return page->data;
}

bool sala_page_is_mapped(const sala_page *page)
{
    return page->source != NULL;
}

int sala_page_holders(const sala_page *page)
{
    return atomic_load(&((sala_page *)(uintptr_t)page)->refs);
}

bool sala_page_writable(const sala_page *page)
{
    return !page->source && sala_page_holders(page) == 1;
}

sala_status sala_page_check(sala_page *page, sala_error *err)
{
    if (!atomic_load_explicit(&page->unchecked, memory_order_relaxed))
        return SALA_OK;
    const sala_status st = page->source->check(page->source, page->section, page->index, err);
    if (st == SALA_OK)
        atomic_store_explicit(&page->unchecked, false, memory_order_relaxed);
    return st;
}

sala_page *sala_page_copy(const sala_page *page)
{
    sala_page *copy = sala_page_new(page->bytes);
    if (copy)
        memcpy(copy->data, page->data, page->bytes);
    return copy;
}

/* ---- lists ---- */

void sala_pages_init(sala_pages *list, size_t page_bytes)
{
    *list = (sala_pages){.page_bytes = page_bytes};
}

static void drop_pages(sala_pages *list, int64_t n_keep)
{
    while (list->n_pages > n_keep)
        sala_page_release(list->pages[--list->n_pages]);
}

void sala_pages_free(sala_pages *list)
{
    drop_pages(list, 0);
    slab_release(list->slab);
    free(list->pages);
    free(list->data);
    *list = (sala_pages){.page_bytes = list->page_bytes};
}

static sala_status reserve(sala_pages *list, int64_t n, sala_error *err)
{
    if (n <= list->cap)
        return SALA_OK;
    const int64_t cap = sala_max_i64(n, list->cap * 3 / 2 + 8);
    sala_page **pages = realloc(list->pages, (size_t)cap * sizeof *pages);
    if (pages)
        list->pages = pages;
    void **data = realloc(list->data, (size_t)cap * sizeof *data);
    if (data)
        list->data = data;
    if (!pages || !data)
        return sala_fail_memory(err, (uint64_t)cap * sizeof *pages);
    list->cap = cap;
    return SALA_OK;
}

/* A new page for a list that will hold `need` of them. */
static sala_page *cut_page(sala_pages *list, int64_t need)
{
    const int64_t n = sala_min_i64(sala_min_i64(64, SLAB_BYTES / (int64_t)list->page_bytes),
                                   sala_max_i64(list->n_pages / 2, need - list->n_pages));
    if (list->n_pages < SLAB_FROM || list->page_bytes >= SLAB_LEAST || n * (int64_t)list->page_bytes < SLAB_LEAST)
        return sala_page_new(list->page_bytes);
    void *data = list->slab ? slab_take(list->slab) : NULL;
    if (!data) {
        sala_slab *slab = slab_new(list->page_bytes, n);
        if (!slab)
            return sala_page_new(list->page_bytes);
        slab_release(list->slab);
        list->slab = slab;
        data = slab_take(slab);
    }
    sala_page *page = page_new(data, list->page_bytes);
    if (!page) {
        atomic_fetch_add(&list->slab->refs, 1); /* given back as a page's */
        slab_give_back(list->slab, data);
        return NULL;
    }
    page->slab = list->slab;
    atomic_fetch_add(&list->slab->refs, 1);
    return page;
}

static void put(sala_pages *list, int64_t i, sala_page *page)
{
    list->pages[i] = page;
    list->data[i] = page->data;
}

sala_status sala_pages_prepare(sala_pages *list, int64_t from, int64_t to, sala_error *err)
{
    const int64_t need = sala_pages_for(to), first = from / SALA_KV_BLOCK;
    if (to <= from || list->page_bytes == 0)
        return SALA_OK;
    sala_status st = reserve(list, need, err);
    if (st != SALA_OK)
        return st;
    if (first < list->n_pages && !sala_page_writable(list->pages[first])) {
        /* Someone else holds this page too, or it is a file: write into a copy, which what was saved must be worth. */
        st = sala_page_check(list->pages[first], err);
        if (st != SALA_OK)
            return st;
        sala_page *copy = sala_page_copy(list->pages[first]);
        if (!copy)
            return sala_fail_memory(err, list->page_bytes);
        sala_page_release(list->pages[first]);
        put(list, first, copy);
    }
    const int64_t before = list->n_pages;
    while (list->n_pages < need) {
        sala_page *page = cut_page(list, need);
        if (!page) {
            drop_pages(list, before);
            return sala_fail_memory(err, (uint64_t)(need - before) * list->page_bytes);
        }
        put(list, list->n_pages++, page);
    }
    return SALA_OK;
}

void sala_pages_truncate(sala_pages *list, int64_t n_items)
{
    drop_pages(list, sala_pages_for(n_items));
}

sala_status sala_pages_fork(sala_pages *out, const sala_pages *list, int64_t n_items, sala_error *err)
{
    sala_pages copy;
    sala_pages_init(&copy, list->page_bytes);
    const int64_t n = list->page_bytes ? sala_pages_for(n_items) : 0;
    const sala_status st = reserve(&copy, n, err);
    if (st != SALA_OK) {
        sala_pages_free(&copy);
        return st;
    }
    for (int64_t i = 0; i < n; i++)
        put(&copy, i, sala_page_retain(list->pages[i]));
    copy.n_pages = n;
    *out = copy;
    return SALA_OK;
}

sala_status sala_pages_append(sala_pages *list, sala_page *page, sala_error *err)
{
    const sala_status st = reserve(list, list->n_pages + 1, err);
    if (st != SALA_OK) {
        sala_page_release(page);
        return st;
    }
    put(list, list->n_pages++, page);
    return SALA_OK;
}
