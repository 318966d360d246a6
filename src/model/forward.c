/* The forward pass: rows of any sessions in, logits of the wanted rows out. */
#include "model/mixer.h"

#include <math.h>
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
    if (c->rope.kind == SALA_ROPE_NONE)
        return;
    for (int q = 0; q < s->n_seqs; q++) {
        const sala_attn_seq *seq = &s->seqs[q];
        const int list = timelines[s->rows[s->order[seq->first_row]].session]->long_rope;
        const float factor = (float)net->rope_factor[list];
        for (int64_t i = 0; i < seq->n_rows; i++) {
            float *cos_row = net->rope_cos + (seq->first_row + i) * half;
            float *sin_row = net->rope_sin + (seq->first_row + i) * half;
            const float position = (float)(seq->position + i);
            for (int j = 0; j < half; j++) {
                /* The angle is rounded to f32 before the cosine, as in the code the models were trained with. */
                const float angle = position * (float)net->inv_freq[list][j];
                cos_row[j] = cosf(angle) * factor;
                sin_row[j] = sinf(angle) * factor;
            }
        }
    }
}

static void observe(const sala_net *net, int layer, sala_observe_point point, const sala_act *x, int64_t n_rows,
                    int64_t n)
{
    if (net->observer.fn)
        net->observer.fn(net->observer.user, layer, point, x, n_rows, n);
}

/* h and normed (= attn_norm(h)) in; both advanced to the next layer. next_norm: the norm that follows this layer. */
static void run_layer(sala_net *net, int layer, const slice *s, const sala_kv_layout *kv, const sala_act *next_norm)
{
    sala_backend *be = net->be;
    const sala_config *c = net->config;
    const sala_layer *w = &net->layers[layer];
    const sala_layer_buffers *b = &net->buffers;
    const float r = (float)c->residual_scale, eps = (float)c->rms_eps;

    observe(net, layer, SALA_OBSERVE_ATTN_IN, b->normed, s->n_rows, c->n_embd);
    const sala_mixer_call call = {net, layer, b, s->seqs, s->n_seqs, s->n_rows, kv};
    sala_mixer_get(c->mixers[layer])->run(&call);
    be->ops->add_norm(be, b->normed, b->h, b->out, r, w->ffn_norm, s->n_rows, c->n_embd, eps);

    observe(net, layer, SALA_OBSERVE_FFN_IN, b->normed, s->n_rows, c->n_embd);
    const sala_linear_out gate_up[] = {{w->gate, b->gate, c->n_ff, w->gate_bias}, {w->up, b->up, c->n_ff, w->up_bias}};
    be->ops->linear_group(be, gate_up, 2, b->normed, s->n_rows, c->n_embd);
    be->ops->swiglu(be, b->gate, b->gate, b->up, s->n_rows, c->n_ff);
    observe(net, layer, SALA_OBSERVE_FFN_MID, b->gate, s->n_rows, c->n_ff);
    const sala_linear_out down = {w->down, b->out, c->n_embd, w->down_bias};
    be->ops->linear_group(be, &down, 1, b->gate, s->n_rows, c->n_ff);
    be->ops->add_norm(be, b->normed, b->h, b->out, r, next_norm, s->n_rows, c->n_embd, eps);
    observe(net, layer, SALA_OBSERVE_HIDDEN, b->h, s->n_rows, c->n_embd);
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
    const sala_kv_layout *kv = &timelines[s->rows[s->order[0]].session]->kv.layout;
    for (int l = 0; l < c->n_layers; l++)
        run_layer(net, l, s, kv, l + 1 < c->n_layers ? net->layers[l + 1].attn_norm : net->out_norm);
    if (!be->ops->all_finite(be, b->h, s->n_rows * c->n_embd))
        return sala_fail(err, SALA_E_NUMERIC,
                         "the hidden state holds infinities or not-a-number: the weights are damaged or overflow");
    return run_head(net, s, place, logits, err);
}

/* Cuts the sorted rows into sequences; rows [begin, end) of the order. done[s]: rows of session s in earlier slices. */
static int make_seqs(sala_attn_seq *seqs, sala_timeline *const *timelines, const sala_net_row *rows,
                     const int64_t *order, int64_t begin, int64_t end, int64_t *done)
{
    int n = 0;
    for (int64_t i = begin; i < end;) {
        const int32_t session = rows[order[i]].session;
        int64_t j = i;
        while (j < end && rows[order[j]].session == session)
            j++;
        const sala_kv *kv = &timelines[session]->kv;
        seqs[n++] = (sala_attn_seq){i - begin, j - i, kv->length + done[session], kv->blocks};
        done[session] += j - i;
        i = j;
    }
    return n;
}

typedef struct work {
    int64_t *count, *start; /* [n_timelines] rows of each session, where they start; then: rows done */
    int64_t *order, *place; /* [n_rows] rows sorted by session; row of logits */
    sala_attn_seq *seqs;    /* [max_rows] */
    int32_t *ids;           /* [max_rows] */
} work;

static bool get_work(sala_net *net, work *w, int n_timelines, int64_t n_rows)
{
    const size_t counts = (size_t)n_timelines * 2, rows = (size_t)n_rows * 2, max = (size_t)net->max_rows;
    const size_t bytes = (counts + rows) * sizeof(int64_t) + max * (sizeof(sala_attn_seq) + sizeof(int32_t));
    if (bytes > net->work_bytes) {
        void *more = realloc(net->work, bytes);
        if (!more)
            return false;
        net->work = more;
        net->work_bytes = bytes;
    }
    w->count = net->work;
    w->start = w->count + n_timelines;
    w->order = w->start + n_timelines;
    w->place = w->order + n_rows;
    w->seqs = (sala_attn_seq *)(void *)(w->place + n_rows);
    w->ids = (int32_t *)(void *)(w->seqs + max);
    memset(w->count, 0, counts * sizeof(int64_t));
    return true;
}

sala_status sala_net_forward(sala_net *net, sala_timeline *const *timelines, int n_timelines, const sala_net_row *rows,
                             int64_t n_rows, float *logits, sala_error *err)
{
    const sala_config *c = net->config;
    if (n_rows <= 0)
        return SALA_OK;
    work w;
    if (!get_work(net, &w, n_timelines, n_rows))
        return sala_fail_memory(err, (uint64_t)n_rows * 2 * sizeof(int64_t));
    int64_t *count = w.count, *start = w.start, *order = w.order, *place = w.place;
    sala_status st = SALA_OK;

    /* Sort by session, keeping the order within each (counting sort), and number the wanted rows. */
    int64_t n_want = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        const sala_net_row *r = &rows[i];
        if (r->session < 0 || r->session >= n_timelines)
            st = sala_fail(err, SALA_E_INVALID, "row %lld names session %d; the call has %d", (long long)i, r->session,
                           n_timelines);
        else if (r->token < 0 || r->token >= c->n_vocab)
            st = sala_fail(err, SALA_E_INVALID, "row %lld holds token %d; the model has tokens 0 to %d", (long long)i,
                           r->token, c->n_vocab - 1);
        if (st != SALA_OK)
            goto out;
        count[r->session]++;
        place[i] = n_want;
        n_want += r->want;
    }
    if (n_want && !logits) {
        st = sala_fail(err, SALA_E_INVALID, "logits are wanted but there is no place for them");
        goto out;
    }
    for (int s = 0; s < n_timelines; s++) {
        if (count[s])
            st = sala_kv_prepare(&timelines[s]->kv, count[s], err);
        if (st != SALA_OK)
            goto out;
        start[s] = s ? start[s - 1] + count[s - 1] : 0;
    }
    for (int64_t i = 0; i < n_rows; i++)
        order[start[rows[i].session]++] = i;

    memset(start, 0, (size_t)n_timelines * sizeof *start); /* from here on: rows done */
    for (int64_t begin = 0; begin < n_rows && st == SALA_OK; begin += net->max_rows) {
        const int64_t end = sala_min_i64(begin + net->max_rows, n_rows);
        slice s = {.rows = rows, .order = order + begin, .n_rows = end - begin, .seqs = w.seqs};
        s.n_seqs = make_seqs(w.seqs, timelines, rows, order, begin, end, start);
        st = run_slice(net, timelines, &s, place, logits, w.ids, err);
    }
out:
    for (int s = 0; s < n_timelines; s++) {
        if (st == SALA_OK)
            sala_kv_commit(&timelines[s]->kv, count[s]);
        else
            sala_kv_rollback(&timelines[s]->kv, timelines[s]->kv.length);
    }
    return st;
}
