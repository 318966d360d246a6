/* Memory of sessions, in counted pages.
 *
 * A page is either anonymous memory or a part of a mapped session file. It may be held by several sessions; whoever is
 * its only holder may write into it. A list of pages holds items (tokens, compressed keys), 64 to a page, and grows
 * page by page. Pages of a list that has become long are cut from larger pieces of memory, which the system can back
 * with huge pages: every layer reads a few kilobytes here and there, and each would need its own translation. */
#ifndef SALA_STATE_PAGES_H
#define SALA_STATE_PAGES_H

#include "base/base.h"
#include "tensor/kv_block.h"

/* Where mapped pages come from; it is closed with the last of them. */
typedef struct sala_page_source sala_page_source;
struct sala_page_source {
    _Atomic int refs;
    void (*close)(sala_page_source *source);
    /* Compares one page with what was saved; called from several threads. */
    sala_status (*check)(sala_page_source *source, int section, int64_t index, sala_error *err);
};

typedef struct sala_page sala_page;

sala_page *sala_page_new(size_t bytes); /* zeroed memory, one holder; NULL when memory is out */
/* A page of mapped memory, one holder; takes part in `source`. */
sala_page *sala_page_mapped(const void *data, size_t bytes, sala_page_source *source, int section, int64_t index);
sala_page *sala_page_retain(sala_page *page); /* NULL gives NULL */
void sala_page_release(sala_page *page);      /* NULL is fine */
void *sala_page_data(const sala_page *page);
bool sala_page_writable(const sala_page *page); /* memory of one holder */
bool sala_page_is_mapped(const sala_page *page);
int sala_page_holders(const sala_page *page);
/* The page as it was saved? Done once; later calls cost nothing. Thread-safe. */
sala_status sala_page_check(sala_page *page, sala_error *err);
/* A copy in memory, one holder; NULL when memory is out. */
sala_page *sala_page_copy(const sala_page *page);

typedef struct sala_slab sala_slab;

typedef struct sala_pages {
    size_t page_bytes;
    sala_slab *slab; /* where the next pages are cut from, or NULL */
    int64_t n_pages, cap;
    sala_page **pages;
    void **data; /* [n_pages] where each page lies, as operations want it */
} sala_pages;

void sala_pages_init(sala_pages *list, size_t page_bytes);
void sala_pages_free(sala_pages *list);
/* Makes room for items [from, to) in pages that only this list may write; `from` is the number of items held, which are
 * kept. On failure the list is as it was. */
sala_status sala_pages_prepare(sala_pages *list, int64_t from, int64_t to, sala_error *err);
/* Gives back the pages behind the first n items. */
void sala_pages_truncate(sala_pages *list, int64_t n_items);
/* *out shares the pages of the first n items. */
sala_status sala_pages_fork(sala_pages *out, const sala_pages *list, int64_t n_items, sala_error *err);
/* Appends a page, which the list then holds (also on failure, when it is released). */
sala_status sala_pages_append(sala_pages *list, sala_page *page, sala_error *err);

static inline int64_t sala_pages_for(int64_t n_items)
{
    return (n_items + SALA_KV_BLOCK - 1) / SALA_KV_BLOCK;
}

#endif
