#include "state/linear.h"

#include <stdlib.h>

enum { CHUNK = SALA_LINEAR_CHUNK };

static int64_t chunk_start(int64_t position)
{
    return position / CHUNK * CHUNK;
}

static size_t state_page_bytes(const sala_linear_layout *layout)
{
    return layout->state_bytes * (size_t)layout->n_layers;
}

static size_t pending_page_bytes(const sala_linear_layout *layout)
{
    return layout->pending_bytes * (size_t)layout->n_layers;
}

sala_status sala_linear_layout_init(sala_linear_layout *out, int n_layers, int n_heads, int n_kv_heads, int head_dim,
                                    sala_error *err)
{
    sala_linear_layout l = {n_layers, n_heads, n_kv_heads, head_dim, 0, 0};
    uint64_t state, pending, all;
    if (!sala_mul_size(&state, (uint64_t)head_dim * (uint64_t)head_dim, (uint64_t)n_heads * sizeof(float)) ||
        !sala_mul_size(&pending, (uint64_t)head_dim * CHUNK * 2, (uint64_t)n_kv_heads * sizeof(float)) ||
        !sala_mul_size(&all, state + pending, (uint64_t)n_layers) || all > SIZE_MAX / 4096)
        return sala_fail(err, SALA_E_LIMIT, "the states of %d linear layers are larger than memory", n_layers);
    l.state_bytes = (size_t)state;
    l.pending_bytes = (size_t)pending;
    *out = l;
    return SALA_OK;
}

void sala_linear_init(sala_linear *s, const sala_linear_layout *layout)
{
    *s = (sala_linear){.layout = *layout};
}

static void drop_marks(sala_linear_mark *marks, int *n, int keep)
{
    while (*n > keep)
        sala_page_release(marks[--*n].page);
}

/* A page of states, or of pending rows, whose content is whatever it was. */
static sala_page *take(sala_page **spare, size_t bytes)
{
    sala_page *page = *spare;
    *spare = NULL;
    return page ? page : sala_page_new(bytes);
}

static sala_page *take_state(sala_linear *s)
{
    return take(&s->spare_state, state_page_bytes(&s->layout));
}

/* Zeroed, so that what is saved of a session follows from its tokens alone. */
static sala_page *take_pending(sala_linear *s)
{
    sala_page *page = take(&s->spare_pending, pending_page_bytes(&s->layout));
    if (page)
        memset(sala_page_data(page), 0, pending_page_bytes(&s->layout));
    return page;
}

static void leave(sala_page **spare, sala_page *page)
{
    if (page && !*spare && sala_page_writable(page))
        *spare = page;
    else
        sala_page_release(page);
}

void sala_linear_free(sala_linear *s)
{
    sala_page_release(s->spare_state);
    sala_page_release(s->spare_pending);
    sala_page_release(s->state);
    sala_page_release(s->pending);
    drop_marks(s->marks, &s->n_marks, 0);
    free(s->marks);
    *s = (sala_linear){.layout = s->layout};
}

static bool reserve_marks(sala_linear_mark **marks, int *cap, int n)
{
    if (n <= *cap)
        return true;
    sala_linear_mark *more = realloc(*marks, (size_t)n * 2 * sizeof *more);
    if (!more)
        return false;
    *marks = more;
    *cap = 2 * n;
    return true;
}

sala_status sala_linear_fork(sala_linear *out, const sala_linear *s, sala_error *err)
{
    sala_linear copy = {.layout = s->layout, .length = s->length};
    if (!reserve_marks(&copy.marks, &copy.cap_marks, s->n_marks))
        return sala_fail_memory(err, (uint64_t)s->n_marks * sizeof *copy.marks);
    for (int i = 0; i < s->n_marks; i++)
        copy.marks[i] = (sala_linear_mark){s->marks[i].position, sala_page_retain(s->marks[i].page)};
    copy.n_marks = s->n_marks;
    copy.state = sala_page_retain(s->state);
    copy.pending = sala_page_retain(s->pending);
    *out = copy;
    return SALA_OK;
}

bool sala_linear_keeps(int64_t position, int64_t n)
{
    if (position <= 0 || position % SALA_LINEAR_MARK_STEP)
        return false;
    const int64_t step = position & -position; /* the largest power of two that divides it */
    return position + 2 * step > n;
}

int64_t sala_linear_rollback(sala_linear *s, int64_t n_keep)
{
    if (n_keep >= chunk_start(s->length)) {
        s->length = n_keep;
        return n_keep;
    }
    int n = s->n_marks;
    while (n > 0 && s->marks[n - 1].position > n_keep)
        n--;
    drop_marks(s->marks, &s->n_marks, n);
    sala_page_release(s->state);
    sala_page_release(s->pending);
    sala_page_release(s->spare_state);
    sala_page_release(s->spare_pending);
    s->state = s->pending = s->spare_state = s->spare_pending = NULL;
    s->length = 0;
    if (n > 0) {
        s->state = s->marks[n - 1].page;
        s->length = s->marks[n - 1].position;
        s->n_marks--;
    }
    return s->length;
}

uint64_t sala_linear_bytes(const sala_linear *s)
{
    const uint64_t states = (uint64_t)s->n_marks + (s->state != NULL) + (s->spare_state != NULL);
    const uint64_t pending = (uint64_t)(s->pending != NULL) + (s->spare_pending != NULL);
    return states * state_page_bytes(&s->layout) + pending * pending_page_bytes(&s->layout);
}

uint64_t sala_linear_bytes_at(const sala_linear_layout *layout, int64_t n_tokens)
{
    if (layout->n_layers == 0)
        return 0;
    /* The state of the session, two of a running pass (one is read, one is written), and a mark for each power of two.
     */
    uint64_t pages = 3, bytes;
    for (int64_t step = SALA_LINEAR_MARK_STEP; step <= n_tokens; step *= 2)
        pages++;
    return sala_mul_size(&bytes, state_page_bytes(layout), pages) ? bytes + 3 * pending_page_bytes(layout) : UINT64_MAX;
}

sala_status sala_linear_check(const sala_linear *s, sala_error *err)
{
    sala_status st = s->state ? sala_page_check(s->state, err) : SALA_OK;
    if (st == SALA_OK && s->pending)
        st = sala_page_check(s->pending, err);
    return st;
}

/* ---- a forward pass ---- */

void sala_linear_begin(sala_linear_run *run, sala_linear *s, int64_t n_new)
{
    *run = (sala_linear_run){.from = s,
                             .at = s->length,
                             .end = s->length + n_new,
                             .state = sala_page_retain(s->state),
                             .pending = sala_page_retain(s->pending)};
}

static sala_status out_of_memory(const sala_linear_run *run, sala_error *err)
{
    return sala_fail_memory(err, state_page_bytes(&run->from->layout));
}

/* The page of pending rows, ready to take more behind those that are there. Rows behind the session's length belong to
 * nobody, so that it may be written even while the session holds it too, but not while a fork does. */
static bool own_pending(sala_linear_run *run)
{
    const int ours = 1 + (run->pending && run->pending == run->from->pending);
    if (run->pending && sala_page_holders(run->pending) <= ours && !sala_page_is_mapped(run->pending))
        return true;
    sala_page *page = take_pending(run->from);
    if (!page)
        return false;
    if (run->pending)
        memcpy(sala_page_data(page), sala_page_data(run->pending), pending_page_bytes(&run->from->layout));
    leave(&run->from->spare_pending, run->pending);
    run->pending = page;
    return true;
}

static bool add_mark(sala_linear_run *run, int64_t position, sala_page *page)
{
    if (!reserve_marks(&run->marks, &run->cap_marks, run->n_marks + 1))
        return false;
    run->marks[run->n_marks++] = (sala_linear_mark){position, page};
    return true;
}

static bool reserve_states(sala_linear_run *run, int64_t n)
{
    if (n <= run->cap_states)
        return true;
    int64_t *positions = realloc(run->positions, (size_t)n * sizeof *positions);
    if (positions)
        run->positions = positions;
    void **states = realloc(run->states, (size_t)n * sizeof *states);
    if (states)
        run->states = states;
    if (!positions || !states)
        return false;
    run->cap_states = (int)n;
    return true;
}

static void give_back_used(sala_linear_run *run)
{
    leave(&run->from->spare_state, run->used[0]);
    leave(&run->from->spare_pending, run->used[1]);
    run->used[0] = run->used[1] = NULL;
}

sala_status sala_linear_next(sala_linear_run *run, int64_t n, sala_linear_stretch *out, sala_error *err)
{
    const int64_t first = chunk_start(run->at), last = chunk_start(run->at + n);
    *out = (sala_linear_stretch){.state_in = run->state ? sala_page_data(run->state) : NULL};
    /* What this stretch reads and the run holds no longer is given back with the next one. */
    sala_page **used = run->used;
    give_back_used(run);
    const bool crosses = last > first, ends_inside = run->at + n > last;
    /* Whole chunks are read where the layer left them; pending rows are needed where a chunk is begun or left open. */
    if (run->at > first || !crosses) {
        if (!own_pending(run))
            return out_of_memory(run, err);
        out->pending = out->pending_out = sala_page_data(run->pending);
    }
    if (crosses) {
        const int64_t candidates = (last - first) / SALA_LINEAR_MARK_STEP + 2;
        if (!reserve_states(run, candidates))
            return out_of_memory(run, err);
        int n_states = 0;
        sala_page *page = NULL;
        for (int64_t p = first + CHUNK; p <= last; p += CHUNK) {
            if (p < last && !sala_linear_keeps(p, run->end))
                continue;
            page = take_state(run->from);
            if (!page)
                return out_of_memory(run, err);
            if (p < last && !add_mark(run, p, page)) {
                sala_page_release(page);
                return out_of_memory(run, err);
            }
            run->positions[n_states] = p;
            run->states[n_states++] = sala_page_data(page);
        }
        out->n_states = n_states;
        out->positions = run->positions;
        out->states = run->states;
        /* The state that was current becomes a mark if it is worth keeping. */
        if (run->state && sala_linear_keeps(first, run->end)) {
            if (!add_mark(run, first, run->state)) {
                sala_page_release(page);
                return out_of_memory(run, err);
            }
        } else {
            used[0] = run->state;
        }
        run->state = page;
        out->pending_out = NULL;
        sala_page *tail = NULL;
        if (ends_inside) {
            tail = take_pending(run->from);
            if (!tail)
                return out_of_memory(run, err);
            out->pending_out = sala_page_data(tail);
        }
        used[1] = run->pending;
        run->pending = tail;
    }
    run->at += n;
    return SALA_OK;
}

static int by_position(const void *a, const void *b)
{
    const int64_t x = ((const sala_linear_mark *)a)->position, y = ((const sala_linear_mark *)b)->position;
    return (x > y) - (x < y);
}

void sala_linear_end(sala_linear_run *run, bool ok)
{
    sala_linear *s = run->from;
    give_back_used(run);
    if (ok && run->at > s->length) {
        /* Room for all marks was not reserved before: without it the session loses nothing but marks. */
        if (reserve_marks(&s->marks, &s->cap_marks, s->n_marks + run->n_marks)) {
            if (run->n_marks)
                memcpy(s->marks + s->n_marks, run->marks, (size_t)run->n_marks * sizeof *run->marks);
            s->n_marks += run->n_marks;
            run->n_marks = 0;
            if (s->n_marks)
                qsort(s->marks, (size_t)s->n_marks, sizeof *s->marks, by_position);
        }
        int kept = 0;
        for (int i = 0; i < s->n_marks; i++) {
            if (sala_linear_keeps(s->marks[i].position, run->at))
                s->marks[kept++] = s->marks[i];
            else
                leave(&s->spare_state, s->marks[i].page);
        }
        s->n_marks = kept;
        sala_page *const state = s->state, *const pending = s->pending;
        s->state = run->state;
        s->pending = run->pending;
        s->length = run->at;
        /* The run held them too if it did not leave them behind. */
        sala_page_release(state == run->state ? state : NULL);
        sala_page_release(pending == run->pending ? pending : NULL);
        leave(&s->spare_state, state == run->state ? NULL : state);
        leave(&s->spare_pending, pending == run->pending ? NULL : pending);
        run->state = run->pending = NULL;
    }
    sala_page_release(run->state);
    sala_page_release(run->pending);
    drop_marks(run->marks, &run->n_marks, 0);
    free(run->marks);
    free(run->positions);
    free(run->states);
    *run = (sala_linear_run){0};
}
