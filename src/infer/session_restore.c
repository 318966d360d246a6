/* Restoring: pages stay in the map of the file and are compared with their checksums when they are first used; the ids
 * are copied. */
#include "infer/session_store.h"

#include "os/os.h"

#include <stdlib.h>

/* Sections hold what the description and the layout say. */
static sala_status check_sections(const sala_session_file *f, const sala_session_about *about,
                                  const sala_state_layout *layout, const char *path, sala_error *err)
{
    for (int i = 0; i < SALA_SECTIONS; i++) {
        const int64_t has = sala_session_file_pages(f, i);
        const int64_t want =
            i == SALA_SECTION_STATES ? about->n_states : sala_section_pages(layout, (sala_section)i, about->tokens);
        const uint64_t has_bytes = sala_session_file_page_bytes(f, i);
        const uint64_t want_bytes = sala_section_page_bytes(layout, (sala_section)i);
        if (has != want || (want > 0 && has_bytes != want_bytes))
            return sala_fail(err, SALA_E_CORRUPT,
                             "%s: section %d has %lld pages of %llu bytes; %lld tokens of this model take %lld of %llu",
                             path, i, (long long)has, (unsigned long long)has_bytes, (long long)about->tokens,
                             (long long)want, (unsigned long long)want_bytes);
    }
    return SALA_OK;
}

static sala_status check_model(const sala_session_about *about, const sala_model *model, const char *path,
                               sala_error *err)
{
    char fingerprint[SALA_FINGERPRINT_CHARS];
    sala_session_fingerprint(fingerprint, model);
    if (strcmp(fingerprint, about->fingerprint) != 0)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: the session was made with another model, \"%s\" (%s); this one, \"%s\" (%s), cannot "
                         "continue it",
                         path, about->model, about->architecture, model->path, model->config->architecture);
    return SALA_OK;
}

static sala_status check_layout(const sala_session_about *about, const sala_state_layout *l, const char *path,
                                sala_error *err)
{
    const bool same =
        about->n_sparse == l->n_sparse && about->raw_keys == l->raw_keys &&
        (l->n_sparse == 0 || (about->kernel == l->kernel && about->stride == l->stride && about->coarse == l->coarse));
    if (same)
        return SALA_OK;
    return sala_fail(err, SALA_E_INVALID,
                     "%s: the session has %d sparse layers (kernel %d, stride %d), the model as it was opened has %d "
                     "(kernel %d, stride %d): open it with the sparse settings of the session",
                     path, about->n_sparse, about->kernel, about->stride, l->n_sparse, l->kernel, l->stride);
}

/* What is restored stays in the file; what comes behind it takes memory. */
static sala_status check_memory(const sala_state_layout *l, int64_t n, int64_t max_tokens, sala_error *err)
{
    const uint64_t all = sala_state_bytes_at(l, max_tokens), there = sala_state_bytes_at(l, n);
    const uint64_t need = all > there ? all - there : 0, room = sala_os_memory_available();
    char a[32], b[32];
    if (need <= room)
        return SALA_OK;
    return sala_fail(err, SALA_E_MEMORY,
                     "%lld tokens behind the %lld of the session take %s of keys, values and states, but only %s of "
                     "memory is free",
                     (long long)(max_tokens - n), (long long)n, sala_format_bytes(a, need), sala_format_bytes(b, room));
}

static sala_status remember_pages(sala_session_source *source, sala_error *err)
{
    for (int i = 0; i < SALA_SECTIONS; i++) {
        const int64_t n = sala_session_file_pages(source->file, i);
        source->data[i] = malloc(((size_t)n + 1) * sizeof *source->data[i]);
        source->sums[i] = malloc(((size_t)n + 1) * sizeof *source->sums[i]);
        if (!source->data[i] || !source->sums[i])
            return sala_fail_memory(err, (uint64_t)n * 16);
        source->n_pages[i] = n;
        source->page_bytes[i] = sala_session_file_page_bytes(source->file, i);
        for (int64_t p = 0; p < n && i != SALA_SECTION_TOKENS; p++) {
            source->data[i][p] = sala_session_file_page(source->file, i, p);
            source->sums[i][p] = sala_session_file_page_sum(source->file, i, p);
        }
    }
    return SALA_OK;
}

static sala_page *mapped_page(sala_session_source *source, sala_section section, int64_t index, sala_error *err)
{
    sala_page *page = sala_page_mapped(source->data[section][index], (size_t)source->page_bytes[section], &source->base,
                                       section, index);
    if (!page)
        sala_fail_memory(err, 64);
    return page;
}

static sala_status restore_list(sala_pages *list, sala_session_source *source, sala_section section, sala_error *err)
{
    sala_status st = SALA_OK;
    for (int64_t p = 0; p < source->n_pages[section] && st == SALA_OK; p++) {
        sala_page *page = mapped_page(source, section, p, err);
        st = page ? sala_pages_append(list, page, err) : SALA_E_MEMORY;
    }
    return st;
}

static int by_position(const void *a, const void *b)
{
    const sala_linear_mark *x = a, *y = b;
    return (x->position > y->position) - (x->position < y->position);
}

static sala_status restore_linear(sala_linear *s, sala_session_source *source, const sala_session_about *about,
                                  const char *path, sala_error *err)
{
    const int64_t now = about->tokens / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK;
    s->marks = calloc((size_t)about->n_states + 1, sizeof *s->marks);
    if (!s->marks)
        return sala_fail_memory(err, (uint64_t)about->n_states * sizeof *s->marks);
    s->cap_marks = about->n_states + 1;
    for (int i = 0; i < about->n_states; i++) {
        if (about->states[i] < 0)
            continue;
        sala_page *page = mapped_page(source, SALA_SECTION_STATES, i, err);
        if (!page)
            return SALA_E_MEMORY;
        if (about->states[i] == now)
            s->state = page;
        else
            s->marks[s->n_marks++] = (sala_linear_mark){about->states[i], page};
    }
    if (s->n_marks)
        qsort(s->marks, (size_t)s->n_marks, sizeof *s->marks, by_position);
    if (s->layout.n_layers && now > 0 && !s->state)
        return sala_fail(err, SALA_E_CORRUPT, "%s: the file has no linear state at token %lld, where it ought to end",
                         path, (long long)now);
    if (source->n_pages[SALA_SECTION_PENDING] > 0 && !(s->pending = mapped_page(source, SALA_SECTION_PENDING, 0, err)))
        return SALA_E_MEMORY;
    s->length = s->layout.n_layers ? about->tokens : 0;
    return SALA_OK;
}

static sala_status restore_tokens(sala_session *s, const sala_session_file *f, int64_t n, const char *path,
                                  sala_error *err)
{
    const int64_t n_pages = sala_session_file_pages(f, SALA_SECTION_TOKENS);
    if (!sala_session_reserve_tokens(s, n_pages * SALA_TOKENS_PER_PAGE))
        return sala_fail_memory(err, (uint64_t)n * sizeof *s->tokens);
    for (int64_t p = 0; p < n_pages; p++) {
        const sala_status st =
            sala_session_file_read(f, SALA_SECTION_TOKENS, p, s->tokens + p * SALA_TOKENS_PER_PAGE, err);
        if (st != SALA_OK)
            return st;
    }
    const int32_t n_vocab = s->model->config->n_vocab;
    for (int64_t i = 0; i < n; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= n_vocab)
            return sala_fail(err, SALA_E_CORRUPT, "%s: token %lld is %d; the model has tokens 0 to %d", path,
                             (long long)i, s->tokens[i], n_vocab - 1);
    return SALA_OK;
}

static sala_status restore_pages(sala_session *s, const sala_session_about *about, const char *path, sala_error *err)
{
    sala_session_source *source = s->store->source;
    sala_state *state = &s->line.state;
    sala_status st = check_sections(source->file, about, &state->layout, path, err);
    if (st == SALA_OK)
        st = remember_pages(source, err);
    if (st == SALA_OK)
        st = restore_tokens(s, source->file, about->tokens, path, err);
    if (st == SALA_OK)
        st = restore_list(&state->blocks, source, SALA_SECTION_BLOCKS, err);
    if (st == SALA_OK)
        st = restore_list(&state->fine, source, SALA_SECTION_FINE, err);
    if (st == SALA_OK)
        st = restore_list(&state->coarse, source, SALA_SECTION_COARSE, err);
    if (st == SALA_OK)
        st = restore_linear(&state->linear, source, about, path, err);
    if (st == SALA_OK && json_object_size(about->note) > 0) {
        s->note = json_dumps(about->note, JSON_COMPACT);
        if (!s->note)
            st = sala_fail_memory(err, 1);
    }
    if (st != SALA_OK)
        return st;
    state->length = about->tokens;
    s->line.mapped = true;
    sala_session_store *store = s->store;
    store->valid = about->tokens;
    store->pending_at = source->n_pages[SALA_SECTION_PENDING] ? about->tokens : -1;
    store->states = malloc(((size_t)about->n_states + 1) * sizeof *store->states);
    if (!store->states)
        return sala_fail_memory(err, (uint64_t)about->n_states * sizeof *store->states);
    memcpy(store->states, about->states, (size_t)about->n_states * sizeof *store->states);
    store->n_states = about->n_states;
    return SALA_OK;
}

/* A session like the saved one, without its pages. */
static sala_status new_session(sala_session **out, sala_model *model, const sala_session_about *about,
                               const sala_restore_params *params, const char *path, sala_error *err)
{
    const int64_t max_tokens = params ? params->max_tokens : 0;
    if (max_tokens > 0 && max_tokens < about->tokens)
        return sala_fail(err, SALA_E_LIMIT, "%s: the session holds %lld tokens; a limit of %lld is too small", path,
                         (long long)about->tokens, (long long)max_tokens);
    const sala_session_params p = {.max_tokens = max_tokens,
                                   .planned_tokens = about->planned_tokens,
                                   .kv = about->kv,
                                   .dense_switch = about->dense_switch};
    sala_session *s;
    sala_status st = sala_session_new(&s, model, &p, err);
    if (st != SALA_OK)
        return st;
    st = check_layout(about, &s->line.state.layout, path, err);
    if (st == SALA_OK && max_tokens > 0)
        st = check_memory(&s->line.state.layout, about->tokens, max_tokens, err);
    if (st != SALA_OK) {
        sala_session_close(s);
        return st;
    }
    /* What was decided when the session began stays, whatever today's defaults are. */
    s->max_tokens = sala_max_i64(s->max_tokens, about->tokens);
    s->planned_tokens = about->planned_tokens;
    s->line.long_rope = about->long_rope;
    s->line.sparse_from = about->sparse_from;
    *out = s;
    return SALA_OK;
}

sala_status sala_session_restore(sala_session **out, sala_model *model, const char *path,
                                 const sala_restore_params *params, sala_error *err)
{
    if (!model->net)
        return sala_fail(err, SALA_E_STATE,
                         "the model was opened for its vocabulary only; a session needs its weights");
    sala_session_file *f;
    sala_status st =
        sala_session_file_open(&f, path, params && params->read_only ? SALA_SESSION_READ : SALA_SESSION_WRITE, err);
    if (st != SALA_OK)
        return st;
    sala_session_about about;
    st = sala_session_about_read(&about, f, path, err);
    if (st != SALA_OK) {
        sala_session_file_close(f);
        return st;
    }
    sala_session *s = NULL;
    st = check_model(&about, model, path, err);
    if (st == SALA_OK)
        st = new_session(&s, model, &about, params, path, err);
    if (st != SALA_OK)
        sala_session_file_close(f);
    else
        st = sala_session_store_new(&s->store, f, path, err);
    if (st == SALA_OK)
        st = restore_pages(s, &about, path, err);
    sala_session_about_free(&about);
    if (st != SALA_OK) {
        sala_session_close(s);
        return st;
    }
    *out = s;
    return SALA_OK;
}
