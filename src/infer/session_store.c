/* Saving: which pages of a session its file has already, and what has to be written.
 *
 * A session only grows at its end or is rolled back, and what a token leaves behind depends on the tokens before it
 * alone. So the file is right up to the number of tokens that were saved or, after a rollback, that are left; pages of
 * items (blocks, rows, ids) up to there are never written again, and a state saved at a position up to there stays the
 * state of that position. */
#include "infer/session_store.h"

#include <stdatomic.h>
#include <stdlib.h>

uint64_t sala_section_page_bytes(const sala_state_layout *l, sala_section section)
{
    switch (section) {
    case SALA_SECTION_TOKENS:
        return SALA_TOKENS_PER_PAGE * sizeof(int32_t);
    case SALA_SECTION_BLOCKS:
        return sala_state_block_bytes(l);
    case SALA_SECTION_FINE:
    case SALA_SECTION_COARSE:
        return sala_state_row_page_bytes(l);
    case SALA_SECTION_STATES:
        return (uint64_t)l->linear.state_bytes * (uint64_t)l->linear.n_layers;
    case SALA_SECTION_PENDING:
        return (uint64_t)l->linear.pending_bytes * (uint64_t)l->linear.n_layers;
    case SALA_SECTIONS:
        break;
    }
    return 0;
}

/* How many items of a list of pages n tokens make. */
static int64_t items_of(const sala_state_layout *l, sala_section section, int64_t n_tokens)
{
    if (sala_section_page_bytes(l, section) == 0)
        return 0;
    if (section == SALA_SECTION_FINE || section == SALA_SECTION_COARSE)
        return sala_state_rows(l, n_tokens, section == SALA_SECTION_COARSE);
    return n_tokens;
}

int64_t sala_section_pages(const sala_state_layout *l, sala_section section, int64_t n_tokens)
{
    switch (section) {
    case SALA_SECTION_TOKENS:
        return (n_tokens + SALA_TOKENS_PER_PAGE - 1) / SALA_TOKENS_PER_PAGE;
    case SALA_SECTION_BLOCKS:
    case SALA_SECTION_FINE:
    case SALA_SECTION_COARSE:
        return sala_pages_for(items_of(l, section, n_tokens));
    case SALA_SECTION_PENDING:
        return sala_section_page_bytes(l, section) && n_tokens % SALA_LINEAR_CHUNK ? 1 : 0;
    case SALA_SECTION_STATES:
    case SALA_SECTIONS:
        break;
    }
    return 0;
}

/* ---- who holds the file ---- */

static void close_source(sala_page_source *base)
{
    sala_session_source *source = (sala_session_source *)base;
    sala_session_file_close(source->file);
    for (int i = 0; i < SALA_SECTIONS; i++) {
        free(source->data[i]);
        free(source->sums[i]);
    }
    free(source->path);
    free(source);
}

static sala_status check_page(sala_page_source *base, int section, int64_t index, sala_error *err)
{
    const sala_session_source *source = (const sala_session_source *)base;
    const uint64_t want = source->sums[section][index];
    const uint64_t got = sala_session_sum(source->data[section][index], (size_t)source->page_bytes[section]);
    if (got == want)
        return SALA_OK;
    return sala_fail(err, SALA_E_CORRUPT,
                     "%s: page %lld of section %d has the checksum %016llx, it was saved with %016llx: the file is "
                     "damaged",
                     source->path, (long long)index, section, (unsigned long long)got, (unsigned long long)want);
}

sala_status sala_session_store_new(sala_session_store **out, sala_session_file *file, const char *path, sala_error *err)
{
    sala_session_source *source = calloc(1, sizeof *source);
    sala_session_store *store = calloc(1, sizeof *store);
    char *copy = sala_strdup(path);
    if (!source || !store || !copy) {
        free(source);
        free(store);
        free(copy);
        sala_session_file_close(file);
        return sala_fail_memory(err, sizeof *source);
    }
    atomic_init(&source->base.refs, 1);
    source->base.close = close_source;
    source->base.check = check_page;
    source->file = file;
    source->path = copy;
    store->source = source;
    store->pending_at = -1;
    *out = store;
    return SALA_OK;
}

void sala_session_store_close(sala_session_store *store)
{
    if (!store)
        return;
    sala_page_source *base = &store->source->base;
    if (atomic_fetch_sub(&base->refs, 1) == 1)
        base->close(base);
    free(store->states);
    free(store);
}

void sala_session_store_rolled_back(sala_session_store *store, const sala_session *s)
{
    store->valid = sala_min_i64(store->valid, s->line.state.length);
    for (int i = 0; i < store->n_states; i++)
        if (store->states[i] > store->valid)
            store->states[i] = -1;
    if (store->pending_at > store->valid)
        store->pending_at = -1;
}

/* ---- what a save writes ---- */

typedef struct saving {
    sala_session_file *file;
    const sala_session *session;
    const sala_state_layout *layout;
    int64_t valid, length; /* tokens that the file has, and ought to have */
    uint64_t new_bytes;    /* of pages that hold items, written by this save */
    int64_t *states;       /* positions of the pages of states as they are to be */
    int n_states, cap_states;
} saving;

/* The section as it is to be used: with pages of the session's size, or none. */
static sala_status begin_section(const saving *v, sala_section section, int64_t n_keep, sala_error *err)
{
    const uint64_t bytes = sala_section_page_bytes(v->layout, section);
    sala_session_file_truncate(v->file, section, n_keep);
    return bytes && n_keep == 0 ? sala_session_file_section(v->file, section, bytes, err) : SALA_OK;
}

/* What is copied into a file must be what was saved before, where it comes from another. */
static sala_status put_page(const saving *v, sala_section section, int64_t index, sala_page *page, sala_error *err)
{
    const sala_status st = sala_page_is_mapped(page) ? sala_page_check(page, err) : SALA_OK;
    return st == SALA_OK ? sala_session_file_put(v->file, section, index, sala_page_data(page), err) : st;
}

static sala_status save_list(saving *v, sala_section section, const sala_pages *list, sala_error *err)
{
    const int64_t had = items_of(v->layout, section, v->valid), has = items_of(v->layout, section, v->length);
    const int64_t n_pages = sala_pages_for(has), first = has > had ? had / SALA_KV_BLOCK : n_pages;
    sala_status st = begin_section(v, section, sala_min_i64(first + (had % SALA_KV_BLOCK != 0), n_pages), err);
    for (int64_t p = first; p < n_pages && st == SALA_OK; p++) {
        st = put_page(v, section, p, list->pages[p], err);
        v->new_bytes += list->page_bytes;
    }
    return st;
}

static sala_status save_tokens(saving *v, sala_error *err)
{
    static const sala_section section = SALA_SECTION_TOKENS;
    const int64_t n_pages = sala_section_pages(v->layout, section, v->length);
    const int64_t first = v->length > v->valid ? v->valid / SALA_TOKENS_PER_PAGE : n_pages;
    sala_status st =
        begin_section(v, section, sala_min_i64(first + (v->valid % SALA_TOKENS_PER_PAGE != 0), n_pages), err);
    int32_t *ids = malloc(SALA_TOKENS_PER_PAGE * sizeof *ids);
    if (!ids)
        return sala_fail_memory(err, SALA_TOKENS_PER_PAGE * sizeof *ids);
    for (int64_t p = first; p < n_pages && st == SALA_OK; p++) {
        const int64_t at = p * SALA_TOKENS_PER_PAGE, n = sala_min_i64(SALA_TOKENS_PER_PAGE, v->length - at);
        memset(ids, 0, SALA_TOKENS_PER_PAGE * sizeof *ids);
        memcpy(ids, v->session->tokens + at, (size_t)n * sizeof *ids);
        st = sala_session_file_put(v->file, section, p, ids, err);
    }
    free(ids);
    return st;
}

/* ---- states of linear layers ---- */

static int find_state(const saving *v, int64_t position)
{
    for (int i = 0; i < v->n_states; i++)
        if (v->states[i] == position)
            return i;
    return -1;
}

static int octave(int64_t distance)
{
    int o = 0;
    for (int64_t d = distance / SALA_LINEAR_MARK_STEP; d > 0; d /= 2)
        o++;
    return o;
}

/* Whether a state that the file has is worth its place: it is one that sessions keep, or the oldest of those about as
 * far back. So a session that is saved now and then has states to step back to although each save writes one. */
static bool worth_keeping(const saving *v, int64_t position)
{
    if (position < 0 || position > v->length)
        return false;
    if (sala_linear_keeps(position, v->length) || position == v->length / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK)
        return true;
    const int mine = octave(v->length - position);
    for (int i = 0; i < v->n_states; i++)
        if (v->states[i] > 0 && v->states[i] < position && octave(v->length - v->states[i]) == mine)
            return false;
    return true;
}

static void drop_states(saving *v)
{
    /* From the newest on: what is dropped never was a reason to drop another. */
    for (;;) {
        int newest = -1;
        for (int i = 0; i < v->n_states; i++)
            if (v->states[i] > 0 && !worth_keeping(v, v->states[i]) && (newest < 0 || v->states[i] > v->states[newest]))
                newest = i;
        if (newest < 0)
            return;
        v->states[newest] = -1;
    }
}

static sala_status put_state(saving *v, int64_t position, sala_page *page, sala_error *err)
{
    int slot = find_state(v, -1);
    if (slot < 0) {
        if (v->n_states == v->cap_states) {
            const int cap = v->cap_states * 2 + 8;
            int64_t *more = realloc(v->states, (size_t)cap * sizeof *more);
            if (!more)
                return sala_fail_memory(err, (uint64_t)cap * sizeof *more);
            v->states = more;
            v->cap_states = cap;
        }
        slot = v->n_states++;
    }
    v->states[slot] = position;
    return put_page(v, SALA_SECTION_STATES, slot, page, err);
}

/* The mark not in the file that will be kept longest. */
static const sala_linear_mark *best_mark(const saving *v, const sala_linear *s)
{
    const sala_linear_mark *best = NULL;
    for (int i = 0; i < s->n_marks; i++) {
        const int64_t p = s->marks[i].position;
        if (find_state(v, p) < 0 && (!best || (p & -p) >= (best->position & -best->position)))
            best = &s->marks[i];
    }
    return best;
}

/* The present state always; states at earlier positions as long as they take no more than the other new pages. */
static sala_status save_states(saving *v, const sala_linear *s, sala_error *err)
{
    const uint64_t bytes = sala_section_page_bytes(v->layout, SALA_SECTION_STATES);
    drop_states(v);
    sala_status st = begin_section(v, SALA_SECTION_STATES, v->n_states, err);
    if (st != SALA_OK || bytes == 0)
        return st;
    const int64_t position = v->length / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK;
    if (position > 0 && find_state(v, position) < 0)
        st = put_state(v, position, s->state, err);
    const sala_linear_mark *mark;
    for (uint64_t spent = bytes; st == SALA_OK && spent <= v->new_bytes && (mark = best_mark(v, s)); spent += bytes)
        st = put_state(v, mark->position, mark->page, err);
    while (v->n_states > 0 && v->states[v->n_states - 1] < 0)
        v->n_states--;
    sala_session_file_truncate(v->file, SALA_SECTION_STATES, v->n_states);
    return st;
}

static sala_status save_pending(const saving *v, int64_t pending_at, const sala_linear *s, sala_error *err)
{
    const int64_t n = sala_section_pages(v->layout, SALA_SECTION_PENDING, v->length);
    const bool there = n > 0 && v->length == v->valid && pending_at == v->length;
    const sala_status st = begin_section(v, SALA_SECTION_PENDING, there ? 1 : 0, err);
    return st == SALA_OK && n > 0 && !there ? put_page(v, SALA_SECTION_PENDING, 0, s->pending, err) : st;
}

/* ---- saving ---- */

static sala_status save_pages(saving *v, int64_t pending_at, sala_error *err)
{
    const sala_state *state = &v->session->line.state;
    sala_status st = save_tokens(v, err);
    if (st == SALA_OK)
        st = save_list(v, SALA_SECTION_BLOCKS, &state->blocks, err);
    if (st == SALA_OK)
        st = save_list(v, SALA_SECTION_FINE, &state->fine, err);
    if (st == SALA_OK)
        st = save_list(v, SALA_SECTION_COARSE, &state->coarse, err);
    if (st == SALA_OK)
        st = save_states(v, &state->linear, err);
    if (st == SALA_OK)
        st = save_pending(v, pending_at, &state->linear, err);
    return st;
}

/* Whether the file says of itself what it would say after a save. */
static bool says(const sala_session_file *f, const char *text, size_t bytes)
{
    size_t n;
    const char *old = sala_session_file_description(f, &n);
    return n == bytes && memcmp(old, text, n) == 0;
}

static sala_status save_to(sala_session_store *store, const sala_session *s, sala_error *err)
{
    sala_session_file *f = store->source->file;
    saving v = {.file = f, .session = s, .layout = &s->line.state.layout, .length = s->line.state.length};
    v.valid = store->valid;
    v.n_states = store->n_states;
    v.cap_states = store->n_states + 1;
    v.states = malloc((size_t)v.cap_states * sizeof *v.states);
    if (!v.states)
        return sala_fail_memory(err, (uint64_t)v.cap_states * sizeof *v.states);
    if (v.n_states)
        memcpy(v.states, store->states, (size_t)v.n_states * sizeof *v.states);

    size_t bytes;
    char *text = sala_session_about_text(&bytes, s, v.states, v.n_states);
    const bool same = text && v.valid == v.length && sala_session_file_generation(f) > 0 && says(f, text, bytes);
    sala_status st = SALA_OK;
    if (!same) {
        free(text);
        text = NULL;
        st = save_pages(&v, store->pending_at, err);
        if (st == SALA_OK) {
            text = sala_session_about_text(&bytes, s, v.states, v.n_states);
            st = text ? sala_session_file_describe(f, text, bytes, err) : sala_fail_memory(err, 4096);
        }
        if (st == SALA_OK)
            st = sala_session_file_commit(f, err);
        else
            sala_session_file_abort(f);
    }
    free(text);
    if (st != SALA_OK || same) {
        free(v.states);
        return st;
    }
    free(store->states);
    store->states = v.states;
    store->n_states = v.n_states;
    store->valid = v.length;
    store->pending_at = sala_section_pages(v.layout, SALA_SECTION_PENDING, v.length) ? v.length : -1;
    return SALA_OK;
}

/* A file that is not this session's: whatever session it holds is replaced by one commit. */
static sala_status save_anew(sala_session *s, const char *path, sala_error *err)
{
    sala_session_file *f;
    sala_session_store *store;
    sala_status st = sala_session_file_open(&f, path, SALA_SESSION_CREATE, err);
    if (st == SALA_OK)
        st = sala_session_store_new(&store, f, path, err);
    if (st != SALA_OK)
        return st;
    for (int i = 0; i < SALA_SESSION_MAX_SECTIONS; i++)
        if (sala_session_file_pages(f, i) > 0)
            sala_session_file_truncate(f, i, 0);
    st = save_to(store, s, err);
    if (st != SALA_OK) {
        sala_session_store_close(store);
        return st;
    }
    sala_session_store_close(s->store);
    s->store = store;
    return SALA_OK;
}

sala_status sala_session_save(sala_session *s, const char *path, sala_error *err)
{
    sala_session_store *store = s->store;
    if (!store || !sala_session_file_is(store->source->file, path))
        return save_anew(s, path, err);
    if (!sala_session_file_writable(store->source->file))
        return sala_fail(err, SALA_E_STATE,
                         "%s: the session was restored from this file for reading only; save it under another name",
                         path);
    const sala_status st = save_to(store, s, err);
    if (st != SALA_OK && sala_session_file_doubtful(store->source->file)) {
        /* Nobody knows which of the two states the disk has; the next save writes everything. */
        sala_session_store_close(store);
        s->store = NULL;
    }
    return st;
}
