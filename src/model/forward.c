/* The forward pass: rows of any sessions in, logits of the wanted rows out. */
#include "model/layer.h"

#include <stdatomic.h>
#include <stdlib.h>

/* A slice of the batch that goes through all layers at once: rows sorted by session. */
typedef struct slice {
    const sala_net_row *rows;
    const int64_t *order; /* slice row i is batch row order[i] */
    int64_t n_rows;
    sala_attn_seq *seqs;
    int n_seqs;
} slice;

static void fill_rope(sala_net *net, sala_timeline *const *timelines, const slice *s)
{
    const sala_config *c = net->config;
    const int half = c->rope.n_rot / 2;
    for (int q = 0; q < s->n_seqs && c->attn_scale_base > 0; q++)
        sala_query_scales(net->row_scale + s->seqs[q].first_row, c->attn_scale_base, s->seqs[q].position,
                          s->seqs[q].n_rows);
    if (c->rope.kind == SALA_ROPE_NONE)
        return;
    for (int q = 0; q < s->n_seqs; q++) {
        const sala_attn_seq *seq = &s->seqs[q];
        const int list = timelines[s->rows[s->order[seq->first_row]].session]->long_rope;
        sala_rope_rows(net->rope_cos + seq->first_row * half, net->rope_sin + seq->first_row * half,
                       net->inv_freq[list], half, net->rope_factor[list], seq->position, seq->n_rows);
    }
}

/* Logits of the slice's wanted rows into their places of `logits`; place[] maps batch rows to rows of logits. */
static sala_status run_head(sala_net *net, const slice *s, const int64_t *place, float *logits, sala_error *err)
{
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    int32_t pick[64];
    int64_t target[64];
    int64_t n = 0;
    for (int64_t i = 0; i <= s->n_rows; i++) {
        if (i < s->n_rows && s->rows[s->order[i]].want) {
            pick[n] = (int32_t)i;
            target[n++] = place[s->order[i]];
        }
        if (n == 0 || (n < net->max_logit_rows && i < s->n_rows))
            continue;
        sala_act *x = net->buffers.out;
        be->ops->gather(be, x, net->buffers.normed, pick, n, c->n_embd);
        if (c->logit_divisor != 1)
            be->ops->scale(be, x, (float)(1 / c->logit_divisor), n, c->n_embd);
        const sala_linear_out head = {net->head, net->logits, c->n_vocab, NULL};
        be->ops->linear_group(be, &head, 1, x, n, c->n_embd);
        if (!be->ops->all_finite(be, net->logits, n * c->n_vocab))
            return sala_fail(err, SALA_E_NUMERIC,
                             "the logits hold infinities or not-a-number: the weights are damaged or overflow");
        for (int64_t j = 0; j < n; j++)
            be->ops->download(be, logits + target[j] * c->n_vocab, net->logits + j * c->n_vocab,
                              (size_t)c->n_vocab * sizeof(float));
        n = 0;
    }
    return SALA_OK;
}

static sala_status run_slice(sala_net *net, sala_timeline *const *timelines, const slice *s, const int64_t *place,
                             float *logits, int32_t *ids, sala_error *err)
{
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer_buffers *b = &net->buffers;
    for (int64_t i = 0; i < s->n_rows; i++)
        ids[i] = s->rows[s->order[i]].token;
    be->ops->get_rows(be, b->h, net->embed, ids, s->n_rows, (float)c->embed_scale);
    fill_rope(net, timelines, s);
    be->ops->rms_norm(be, b->normed, b->h, net->layers[0].attn_norm, s->n_rows, c->n_embd, (float)c->rms_eps);
    const sala_state_layout *state = &timelines[s->rows[s->order[0]].session]->state.layout;
    for (int l = 0; l < c->n_layers; l++) {
        const sala_mixer_call call = {net, l, b, s->seqs, s->n_seqs, s->n_rows, state, false, false};
        sala_layer_mix(&call, NULL, b->h, b->h);
        sala_layer_feed(net, l, b, NULL, b->h, b->h, s->n_rows);
    }
    if (!be->ops->all_finite(be, b->h, s->n_rows * c->n_embd))
        return sala_fail(err, SALA_E_NUMERIC,
                         "the hidden state holds infinities or not-a-number: the weights are damaged or overflow");
    return run_head(net, s, place, logits, err);
}

/* What a timeline is to one call. */
typedef struct pass {
    sala_timeline *line;
    int64_t count, done; /* rows of the call; rows of earlier slices */
    sala_linear_run linear;
    /* The first damaged page that was met while the layers ran. */
    atomic_flag met;
    bool damaged;
    sala_error error;
} pass;

static void first_use(void *user, int64_t block)
{
    pass *p = user;
    sala_error err = {0};
    if (sala_page_check(p->line->state.blocks.pages[block], &err) == SALA_OK || atomic_flag_test_and_set(&p->met))
        return;
    p->error = err;
    p->damaged = true;
}

/* Compares the pages that every pass reads: compressed keys and linear states. */
static sala_status check_mapped(sala_timeline *line, sala_error *err)
{
    if (!line->mapped || line->checked)
        return SALA_OK;
    const sala_state *s = &line->state;
    sala_status st = sala_linear_check(&s->linear, err);
    const sala_pages *const lists[] = {&s->fine, &s->coarse};
    for (size_t l = 0; l < SALA_ARRAY_LEN(lists); l++)
        for (int64_t i = 0; i < lists[l]->n_pages && st == SALA_OK; i++)
            st = sala_page_check(lists[l]->pages[i], err);
    line->checked = st == SALA_OK;
    return st;
}

static sala_status begin_pass(const sala_net *net, pass *p, sala_error *err)
{
    atomic_flag_clear(&p->met);
    sala_status st = check_mapped(p->line, err);
    if (st == SALA_OK)
        st = sala_state_prepare(&p->line->state, p->count, err);
    if (st == SALA_OK && net->config->lightning.n_heads)
        sala_linear_begin(&p->linear, &p->line->state.linear, p->count);
    return st;
}

/* Cuts the sorted rows [begin, end) of the order into sequences. */
static sala_status make_seqs(const sala_net *net, slice *s, pass *passes, const sala_net_row *rows,
                             const int64_t *order, int64_t begin, int64_t end, sala_error *err)
{
    s->n_seqs = 0;
    for (int64_t i = begin; i < end;) {
        pass *p = &passes[rows[order[i]].session];
        const int64_t n = sala_min_i64(end - i, p->count - p->done);
        sala_state *state = &p->line->state;
        sala_attn_seq *seq = &s->seqs[s->n_seqs++];
        *seq = (sala_attn_seq){.first_row = i - begin,
                               .n_rows = n,
                               .position = state->length + p->done,
                               .blocks = state->blocks.data,
                               .fine = state->fine.data,
                               .coarse = state->coarse.data,
                               .sparse_from = p->line->sparse_from,
                               .first_use = p->line->mapped ? first_use : NULL,
                               .user = p};
        if (net->config->lightning.n_heads) {
            sala_linear_stretch stretch;
            const sala_status st = sala_linear_next(&p->linear, n, &stretch, err);
            if (st != SALA_OK)
                return st;
            seq->linear = (sala_linear_seq){stretch.state_in, stretch.pending,   stretch.pending_out,
                                            stretch.n_states, stretch.positions, stretch.states};
        }
        p->done += n;
        i += n;
    }
    return SALA_OK;
}

typedef struct work {
    pass *passes;           /* [n_timelines] */
    int64_t *order, *place; /* [n_rows] rows sorted by session; row of logits */
    int64_t *start;         /* [n_timelines] where the rows of each begin */
    sala_attn_seq *seqs;    /* [max_rows] */
    int32_t *ids;           /* [max_rows] */
} work;

static bool get_work(sala_net *net, work *w, int n_timelines, int64_t n_rows)
{
    const size_t lines = (size_t)n_timelines, rows = (size_t)n_rows, max = (size_t)net->max_rows;
    const size_t bytes = lines * (sizeof(pass) + sizeof(int64_t)) + rows * 2 * sizeof(int64_t) +
                         max * (sizeof(sala_attn_seq) + sizeof(int32_t));
    if (bytes > net->work_bytes) {
        void *more = realloc(net->work, bytes);
        if (!more)
            return false;
        net->work = more;
        net->work_bytes = bytes;
    }
    w->passes = net->work;
    w->order = (int64_t *)(void *)(w->passes + lines);
    w->place = w->order + n_rows;
    w->start = w->place + n_rows;
    w->seqs = (sala_attn_seq *)(void *)(w->start + n_timelines);
    w->ids = (int32_t *)(void *)(w->seqs + max);
    memset(w->passes, 0, lines * sizeof(pass));
    return true;
}

/* Counts the rows of each session, numbers the wanted ones, and refuses rows that make no sense. */
static sala_status count_rows(const sala_net *net, work *w, int n_timelines, const sala_net_row *rows, int64_t n_rows,
                              const float *logits, sala_error *err)
{
    const sala_config *c = net->config;
    int64_t n_want = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        const sala_net_row *r = &rows[i];
        if (r->session < 0 || r->session >= n_timelines)
            return sala_fail(err, SALA_E_INVALID, "row %lld names session %d; the call has %d", (long long)i,
                             r->session, n_timelines);
        if (r->token < 0 || r->token >= c->n_vocab)
            return sala_fail(err, SALA_E_INVALID, "row %lld holds token %d; the model has tokens 0 to %d", (long long)i,
                             r->token, c->n_vocab - 1);
        w->passes[r->session].count++;
        w->place[i] = n_want;
        n_want += r->want;
    }
    if (n_want && !logits)
        return sala_fail(err, SALA_E_INVALID, "logits are wanted but there is no place for them");
    return SALA_OK;
}

sala_status sala_net_forward(sala_net *net, sala_timeline *const *timelines, int n_timelines, const sala_net_row *rows,
                             int64_t n_rows, float *logits, sala_error *err)
{
    if (n_rows <= 0)
        return SALA_OK;
    work w;
    if (!get_work(net, &w, n_timelines, n_rows))
        return sala_fail_memory(err, (uint64_t)n_rows * 2 * sizeof(int64_t));
    sala_status st = count_rows(net, &w, n_timelines, rows, n_rows, logits, err);
    if (st != SALA_OK)
        return st;

    /* Sort by session, keeping the order within each (counting sort). */
    int n_begun = 0;
    for (int s = 0; s < n_timelines && st == SALA_OK; s++) {
        w.passes[s].line = timelines[s];
        w.start[s] = s ? w.start[s - 1] + w.passes[s - 1].count : 0;
        st = begin_pass(net, &w.passes[s], err);
        n_begun += st == SALA_OK;
    }
    for (int64_t i = 0; i < n_rows && st == SALA_OK; i++)
        w.order[w.start[rows[i].session]++] = i;

    for (int64_t begin = 0; begin < n_rows && st == SALA_OK; begin += net->max_rows) {
        const int64_t end = sala_min_i64(begin + net->max_rows, n_rows);
        slice s = {.rows = rows, .order = w.order + begin, .n_rows = end - begin, .seqs = w.seqs};
        st = make_seqs(net, &s, w.passes, rows, w.order, begin, end, err);
        if (st == SALA_OK)
            st = run_slice(net, timelines, &s, w.place, logits, w.ids, err);
        for (int i = 0; i < n_timelines; i++) {
            if (w.passes[i].damaged) { /* whatever else went wrong came of it */
                st = w.passes[i].error.code;
                if (err)
                    *err = w.passes[i].error;
            }
        }
    }
    for (int s = 0; s < n_begun; s++) {
        pass *p = &w.passes[s];
        sala_state_commit(&timelines[s]->state, st == SALA_OK ? p->count : 0,
                          net->config->lightning.n_heads ? &p->linear : NULL);
    }
    return st;
}
