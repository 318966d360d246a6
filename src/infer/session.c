/* Sessions: a timeline of tokens with its keys and values. */
#include "infer/engine.h"

#include "os/os.h"

#include <stdlib.h>

sala_dtype sala_kv_dtype(const sala_model *model, sala_kv_type kv)
{
    switch (kv) {
    case SALA_KV_DEFAULT:
        break;
    case SALA_KV_F32:
        return SALA_F32;
    case SALA_KV_F16:
        return SALA_F16;
    case SALA_KV_Q8_0:
        return SALA_Q8_0;
    case SALA_KV_Q4:
        return SALA_Q4_1;
    }
    return model->ref ? SALA_F32 : SALA_F16;
}

sala_kv_type sala_session_kv(const sala_session *s)
{
    switch (s->line.state.layout.dtype) {
    case SALA_F32:
        return SALA_KV_F32;
    case SALA_Q8_0:
        return SALA_KV_Q8_0;
    case SALA_Q4_1:
        return SALA_KV_Q4;
    default:
        return SALA_KV_F16;
    }
}

static sala_status layout_of(sala_state_layout *out, const sala_model *model, sala_kv_type kv, sala_error *err)
{
    return sala_net_state_layout(out, model->config, sala_kv_dtype(model, kv), err);
}

uint64_t sala_session_bytes_at(const sala_model *model, sala_kv_type kv, int64_t n_tokens)
{
    sala_state_layout layout;
    return layout_of(&layout, model, kv, NULL) == SALA_OK ? sala_state_bytes_at(&layout, n_tokens) : UINT64_MAX;
}

sala_status sala_session_cost_at(sala_state_cost *out, const sala_model *model, sala_kv_type kv, int64_t n_tokens,
                                 sala_error *err)
{
    sala_state_layout layout;
    const sala_status st = layout_of(&layout, model, kv, err);
    if (st == SALA_OK)
        *out = sala_state_cost_at(&layout, n_tokens);
    return st;
}

/* The most tokens that `room` bytes hold, up to `most`. */
static int64_t tokens_that_fit(const sala_state_layout *layout, uint64_t room, int64_t most)
{
    int64_t low = 0, high = most;
    while (low < high) {
        const int64_t mid = low + (high - low + 1) / 2;
        if (sala_state_bytes_at(layout, mid) <= room)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

/* Lengths that the session keeps to for its whole life. */
static void plan_lengths(sala_session *s, const sala_session_params *p)
{
    const sala_config *c = s->model->config;
    const int64_t original = c->rope.original_max > 0 ? c->rope.original_max : c->n_ctx_train;
    const int64_t planned = p->planned_tokens > 0 ? p->planned_tokens : s->max_tokens;
    s->planned_tokens = planned;
    s->dense_switch = p->dense_switch;
    s->line.long_rope = (p->longrope == SALA_LONGROPE_BY_CONFIG ? c->n_ctx_train : planned) > original;
    const int64_t dense_len = c->sparse.dense_len;
    if (dense_len <= 0)
        s->line.sparse_from = 0;
    else if (p->dense_switch == SALA_DENSE_BY_PROMPT)
        s->line.sparse_from = planned >= dense_len ? 0 : INT64_MAX;
    else
        s->line.sparse_from = dense_len - 1; /* the length counts the token itself */
}

sala_status sala_session_new(sala_session **out, sala_model *model, const sala_session_params *params, sala_error *err)
{
    static const sala_session_params defaults = {0};
    const sala_session_params p = params ? *params : defaults;
    if (!model->net)
        return sala_fail(err, SALA_E_STATE,
                         "the model was opened for its vocabulary only; a session needs its weights");
    if (p.max_tokens < 0 || p.planned_tokens < 0)
        return sala_fail(err, SALA_E_INVALID, "a context of %lld tokens; expected a positive number",
                         (long long)sala_min_i64(p.max_tokens, p.planned_tokens));
    sala_state_layout layout;
    const sala_status st = layout_of(&layout, model, p.kv, err);
    if (st != SALA_OK)
        return st;
    sala_session *s = calloc(1, sizeof *s);
    if (!s)
        return sala_fail_memory(err, sizeof *s);
    s->model = model;
    s->max_tokens = p.max_tokens;
    sala_state_init(&s->line.state, &layout);
    if (p.max_tokens == 0) {
        const int64_t trained = sala_min_i64(model->config->n_ctx_train, INT64_C(1) << 40);
        s->max_tokens = sala_max_i64(1, tokens_that_fit(&layout, sala_os_memory_available(), trained));
    }
    plan_lengths(s, &p);
    *out = s;
    return SALA_OK;
}

sala_status sala_session_open(sala_session **out, sala_model *model, const sala_session_params *params, sala_error *err)
{
    sala_session *s = NULL;
    const sala_status st = sala_session_new(&s, model, params, err);
    if (st != SALA_OK)
        return st;
    const sala_state_layout *layout = &s->line.state.layout;
    const uint64_t need = sala_state_bytes_at(layout, s->max_tokens), room = sala_os_memory_available();
    if (params && params->max_tokens > 0 && need > room) {
        char a[32], b[32];
        const int64_t fits = tokens_that_fit(layout, room, s->max_tokens);
        sala_session_close(s);
        return sala_fail(err, SALA_E_MEMORY,
                         "a context of %lld tokens takes %s of keys, values and states, but only %s of memory is free; "
                         "ask for at most %lld tokens",
                         (long long)params->max_tokens, sala_format_bytes(a, need), sala_format_bytes(b, room),
                         (long long)fits);
    }
    *out = s;
    return SALA_OK;
}

void sala_session_close(sala_session *s)
{
    if (!s)
        return;
    sala_state_free(&s->line.state);
    sala_session_store_close(s->store);
    free(s->tokens);
    free(s->note);
    free(s);
}

int64_t sala_session_length(const sala_session *s)
{
    return s->line.state.length;
}

int64_t sala_session_max_tokens(const sala_session *s)
{
    return s->max_tokens;
}

const int32_t *sala_session_tokens(const sala_session *s, size_t *n)
{
    *n = (size_t)s->line.state.length;
    return s->tokens;
}

uint64_t sala_session_bytes(const sala_session *s)
{
    return sala_state_bytes(&s->line.state);
}

bool sala_session_reserve_tokens(sala_session *s, int64_t n)
{
    if (n <= s->cap_tokens)
        return true;
    const int64_t cap = sala_max_i64(n, s->cap_tokens * 3 / 2 + 64);
    int32_t *more = realloc(s->tokens, (size_t)cap * sizeof *more);
    if (!more)
        return false;
    s->tokens = more;
    s->cap_tokens = cap;
    return true;
}

sala_status sala_session_fork(sala_session **out, const sala_session *session, sala_error *err)
{
    sala_session *s = calloc(1, sizeof *s);
    const int64_t n = session->line.state.length;
    if (!s || !sala_session_reserve_tokens(s, n)) {
        free(s);
        return sala_fail_memory(err, (uint64_t)n * sizeof *s->tokens);
    }
    int32_t *const tokens = s->tokens;
    const int64_t cap = s->cap_tokens;
    *s = *session;
    s->tokens = tokens;
    s->cap_tokens = cap;
    s->store = NULL;
    s->note = session->note ? sala_strdup(session->note) : NULL;
    const sala_status st = sala_state_fork(&s->line.state, &session->line.state, err);
    if (st != SALA_OK || (session->note && !s->note)) {
        if (st == SALA_OK)
            sala_state_free(&s->line.state);
        free(s->note);
        free(s->tokens);
        free(s);
        return st != SALA_OK ? st : sala_fail_memory(err, strlen(session->note));
    }
    if (n)
        memcpy(s->tokens, session->tokens, (size_t)n * sizeof *s->tokens);
    *out = s;
    return SALA_OK;
}

sala_status sala_session_rollback(sala_session *s, int64_t n_keep, sala_error *err)
{
    sala_state *state = &s->line.state;
    if (n_keep < 0 || n_keep > state->length)
        return sala_fail(err, SALA_E_INVALID, "cannot roll back to %lld tokens: the session holds %lld",
                         (long long)n_keep, (long long)state->length);
    if (sala_state_rollback_target(state, n_keep) == n_keep) {
        sala_state_rollback(state, n_keep);
    } else {
        /* What lies between the last state that is kept and n_keep is run again, on a fork: if that fails, nothing has
         * happened. */
        sala_session *copy;
        sala_status st = sala_session_fork(&copy, s, err);
        if (st != SALA_OK)
            return st;
        const int64_t from = sala_state_rollback(&copy->line.state, n_keep);
        copy->line.checked = false;
        st = sala_prefill(copy, s->tokens + from, (size_t)(n_keep - from), 0, NULL, NULL, NULL, err);
        if (st == SALA_OK) {
            const sala_timeline line = s->line;
            s->line = copy->line;
            copy->line = line;
        }
        sala_session_close(copy);
        if (st != SALA_OK)
            return st;
    }
    s->line.checked = false; /* an earlier state may be in use now */
    if (s->store)
        sala_session_store_rolled_back(s->store, s);
    return SALA_OK;
}

sala_status sala_session_fill(sala_session *s, int64_t n, uint64_t seed, sala_error *err)
{
    if (n < 0 || n > s->max_tokens)
        return sala_fail(err, SALA_E_LIMIT, "%lld tokens do not fit: the session's limit is %lld", (long long)n,
                         (long long)s->max_tokens);
    if (!sala_session_reserve_tokens(s, n))
        return sala_fail_memory(err, (uint64_t)n * sizeof *s->tokens);
    const sala_status st = sala_state_fill(&s->line.state, n, seed, err);
    sala_rng rng;
    sala_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n && st == SALA_OK; i++)
        s->tokens[i] = (int32_t)(sala_rng_next(&rng) % (uint64_t)s->model->config->n_vocab);
    return st;
}

const char *sala_session_note(const sala_session *s)
{
    return s->note ? s->note : "{}";
}

/* What a call is turned into; lies in the model's scratch. */
typedef struct batch {
    sala_timeline **lines; /* [n_sessions] */
    int64_t *count;        /* [n_sessions] rows of each */
    sala_net_row *rows;    /* [n_rows] */
} batch;

static bool get_batch(sala_model *m, batch *b, int n_sessions, int n_rows)
{
    const size_t sessions = (size_t)n_sessions, rows = (size_t)n_rows;
    const size_t bytes = sessions * (sizeof *b->lines + sizeof *b->count) + rows * sizeof *b->rows;
    if (bytes > m->work_bytes) {
        void *more = realloc(m->work, bytes);
        if (!more)
            return false;
        m->work = more;
        m->work_bytes = bytes;
    }
    b->lines = m->work;
    b->count = (int64_t *)(void *)(b->lines + sessions);
    b->rows = (sala_net_row *)(void *)(b->count + sessions);
    memset(b->count, 0, sessions * sizeof *b->count);
    return true;
}

static sala_status check_session(sala_model *model, sala_session *const *sessions, int i, int64_t n_new,
                                 sala_error *err)
{
    sala_session *s = sessions[i];
    if (s->model != model)
        return sala_fail(err, SALA_E_INVALID, "session %d belongs to another model", i);
    for (int j = 0; j < i; j++)
        if (s == sessions[j])
            return sala_fail(err, SALA_E_INVALID, "sessions %d and %d of the call are the same", j, i);
    if (s->line.state.layout.dtype != sessions[0]->line.state.layout.dtype)
        return sala_fail(
            err, SALA_E_INVALID, "sessions 0 and %d of the call keep keys and values as %s and %s; expected one type",
            i, sala_dtype_name(sessions[0]->line.state.layout.dtype), sala_dtype_name(s->line.state.layout.dtype));
    const int64_t after = s->line.state.length + n_new;
    if (after > s->max_tokens)
        return sala_fail(err, SALA_E_LIMIT, "%lld tokens do not fit: the session holds %lld and its limit is %lld",
                         (long long)n_new, (long long)s->line.state.length, (long long)s->max_tokens);
    if (!sala_session_reserve_tokens(s, after))
        return sala_fail_memory(err, (uint64_t)after * sizeof(int32_t));
    return SALA_OK;
}

static sala_status run_batch(sala_model *model, sala_session *const *sessions, int n_sessions, const sala_row *rows,
                             int n_rows, float *logits, sala_error *err)
{
    batch b;
    if (!get_batch(model, &b, n_sessions, n_rows))
        return sala_fail_memory(err, (uint64_t)n_rows * sizeof *b.rows);
    for (int i = 0; i < n_rows; i++) {
        b.rows[i] = (sala_net_row){rows[i].token, rows[i].session, rows[i].want};
        if (rows[i].session >= 0 && rows[i].session < n_sessions) /* sala_net_forward refuses the others */
            b.count[rows[i].session]++;
    }
    for (int i = 0; i < n_sessions; i++) {
        const sala_status st = check_session(model, sessions, i, b.count[i], err);
        if (st != SALA_OK)
            return st;
        b.lines[i] = &sessions[i]->line;
    }
    const sala_status st = sala_net_forward(model->net, b.lines, n_sessions, b.rows, n_rows, logits, err);
    for (int i = 0; i < n_rows && st == SALA_OK; i++) {
        const int s = rows[i].session;
        sessions[s]->tokens[b.lines[s]->state.length - b.count[s]--] = rows[i].token;
    }
    return st;
}

sala_status sala_forward(sala_model *model, sala_session *const *sessions, int n_sessions, const sala_row *rows,
                         int n_rows, float *logits, sala_error *err)
{
    if (!model->net)
        return sala_fail(err, SALA_E_STATE, "the model was opened for its vocabulary only");
    if (n_sessions < 0 || n_rows < 0 || (n_rows > 0 && (!rows || n_sessions == 0)))
        return sala_fail(err, SALA_E_INVALID, "a batch of %d rows for %d sessions", n_rows, n_sessions);
    if (n_rows == 0)
        return SALA_OK;
    sala_turn_take(model->turn);
    const sala_status st = run_batch(model, sessions, n_sessions, rows, n_rows, logits, err);
    sala_turn_give(model->turn);
    return st;
}

sala_status sala_prefill(sala_session *s, const int32_t *ids, size_t n_ids, int chunk, float *logits,
                         sala_progress_fn *progress, void *user, sala_error *err)
{
    if (chunk <= 0)
        chunk = 512;
    if ((size_t)chunk > n_ids)
        chunk = (int)n_ids + (n_ids == 0);
    if (n_ids > (size_t)(s->max_tokens - s->line.state.length))
        return sala_fail(err, SALA_E_LIMIT, "%zu tokens do not fit: the session holds %lld and its limit is %lld",
                         n_ids, (long long)s->line.state.length, (long long)s->max_tokens);
    sala_row *rows = malloc((size_t)chunk * sizeof *rows);
    if (!rows)
        return sala_fail_memory(err, (uint64_t)chunk * sizeof *rows);
    sala_status st = SALA_OK;
    for (size_t at = 0; at < n_ids && st == SALA_OK;) {
        const int n = (int)sala_min_i64(chunk, (int64_t)(n_ids - at));
        for (int i = 0; i < n; i++)
            rows[i] = (sala_row){ids[at + (size_t)i], 0, logits && at + (size_t)i + 1 == n_ids};
        st = sala_forward(s->model, &s, 1, rows, n, logits, err);
        at += (size_t)n;
        if (st == SALA_OK && progress && !progress(user, "reading the prompt", at, n_ids) && at < n_ids)
            st = sala_fail(err, SALA_E_CANCELLED, "cancelled after %zu of %zu tokens", at, n_ids);
    }
    free(rows);
    return st;
}
