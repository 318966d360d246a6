/* What the parts of the session file share: session_file.c opens and reads, session_commit.c writes, session_space.c
 * knows which bytes of the file are free and where they are mapped.
 *
 * Invariants. A place (bytes of a page, a table or a description) begins at a multiple of SALA_SF_UNIT and never
 * reaches over the end of a mapped region, so that it is contiguous in memory. While a commit is going on, it is
 * written only to places that neither `now` nor `kept` uses. */
#ifndef SALA_FORMAT_SESSION_INTERNAL_H
#define SALA_FORMAT_SESSION_INTERNAL_H

#include "format/session_file.h"
#include "os/os.h"

#include <stdatomic.h>

#define SALA_SF_UNIT ((uint64_t)4096)
#define SALA_SF_HEADER_BYTES 64
#define SALA_SF_FIRST_PLACE (2 * SALA_SF_UNIT) /* behind the two header slots */
#define SALA_SF_TABLE_HEAD (32 + 16 * SALA_SESSION_MAX_SECTIONS)
#define SALA_SF_MAX_REGIONS 96

typedef struct sala_sf_page {
    uint64_t offset, sum;
    atomic_bool handed_out; /* set by readers on any thread; only ever read by the owner, between their calls */
    bool fresh;             /* written by the commit that is going on */
} sala_sf_page;

typedef struct sala_sf_section {
    uint64_t page_bytes;
    int64_t n_pages, cap_pages;
    sala_sf_page *pages;
} sala_sf_section;

typedef struct sala_sf_place {
    uint64_t offset, bytes, sum;
} sala_sf_place;

/* What one generation holds. */
typedef struct sala_sf_state {
    uint64_t generation;
    uint64_t length; /* bytes that the file must have */
    sala_sf_section sections[SALA_SESSION_MAX_SECTIONS];
    sala_sf_place table, description;
    char *text; /* the description, owned */
} sala_sf_state;

typedef struct sala_sf_extent {
    uint64_t begin, end;
} sala_sf_extent;

typedef struct sala_sf_list {
    sala_sf_extent *items;
    size_t n, cap;
} sala_sf_list;

typedef struct sala_sf_region {
    const uint8_t *data;
    uint64_t begin, end;
} sala_sf_region;

struct sala_session_file {
    sala_store *store;
    char *path;
    bool writable, fell_back;
    bool doubtful; /* a header may or may not have reached the disk: nothing may be written any more */
    sala_sf_state now, next;
    uint64_t previous_length; /* of the generation in the other slot, which stays whole until the next commit begins */
    sala_sf_list kept;        /* handed out, and no longer part of `now` */
    sala_sf_region regions[SALA_SF_MAX_REGIONS];
    int n_regions;
    /* of the commit that is going on */
    bool begun, text_changed;
    sala_error failure; /* code other than SALA_OK: what ended it */
    sala_sf_list space; /* free places below space_end, ascending */
    uint64_t space_end;
    uint64_t writing, written; /* bytes, of this and of the last commit */
};

static inline void sala_sf_put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static inline void sala_sf_put_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static inline uint64_t sala_sf_round_up(uint64_t bytes) /* no more than 2^63 */
{
    return (bytes + SALA_SF_UNIT - 1) / SALA_SF_UNIT * SALA_SF_UNIT;
}

void sala_sf_header(uint8_t out[SALA_SF_HEADER_BYTES], const sala_sf_state *s);
void sala_sf_state_free(sala_sf_state *s);
int64_t sala_sf_state_pages(const sala_sf_state *s); /* of all sections */

/* ---- session_space.c ---- */

bool sala_sf_list_add(sala_sf_list *list, uint64_t begin, uint64_t end); /* at the end; false: memory is out */
/* Every place that a state uses, rounded to units, ascending. */
bool sala_sf_list_places(sala_sf_list *list, const sala_sf_state *s);
void sala_sf_list_sort(sala_sf_list *list);
void sala_sf_list_free(sala_sf_list *list);

/* Maps the file's first `size` bytes and, of one that may grow, room behind them. */
sala_status sala_sf_map_first(sala_session_file *f, uint64_t size, sala_error *err);
void sala_sf_unmap(sala_session_file *f);
const uint8_t *sala_sf_at(const sala_session_file *f, uint64_t offset);

/* Finds what is free when a commit begins. */
sala_status sala_sf_space_begin(sala_session_file *f, sala_error *err);
/* The first free place, or one behind the end. */
sala_status sala_sf_space_take(sala_session_file *f, uint64_t *offset, uint64_t bytes, sala_error *err);
void sala_sf_space_give(sala_session_file *f, uint64_t offset, uint64_t bytes);

/* How much more than the file is mapped at least, a multiple of 1 MiB; tests make it small. */
extern uint64_t sala_sf_map_step;

#endif
