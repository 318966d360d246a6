/* Lightning attention, forward and backward. Forward is inference's: a task walks through the chunks of one head of one
 * sequence, and hands out the states that the backward pass will start from.
 *
 * Backward, a task owns a span of chunks of one key head and walks from its end, head by head of the group: the states
 * before a few chunks are made again from the one that was kept, and dS, the gradient of the state behind a chunk, goes
 * the other way. Where heads and sequences are few, sequences are cut into spans; dS at the end of a span is put
 * together from what each later span adds to it, which takes a pass of its own. A sequence begins with S = 0 and ends
 * with dS = 0.
 *
 * For a chunk of n tokens, M_ij = s decay[i - j] for j <= i, else 0:
 *   A = (dO vT) . M           dq = A k + diag(s decay[i + 1]) dO ST
 *   P = (q kT) . M            dk = AT q + diag(decay[n - 1 - j]) v dST
 *                             dv = PT dO + diag(decay[n - 1 - j]) k dS
 *   dS before = decay[n] dS + (diag(s decay[i + 1]) q)T dO
 * Powers are read from `decay`, which never holds an inverse one. All is f32, in bf16 runs too. */
#include "grad/attention_impl.h"

#include "kernels/kernels.h"

#include <assert.h>

enum {
    CHUNK = SALA_LIGHTNING_CHUNK,
    MOST_STATES = 8 /* of chunks whose states are made again at a time */
};

_Static_assert((int)CHUNK == (int)SALA_TILE, "chunks are tiles");

typedef struct lightning_job {
    const sala_device *dev;
    const sala_lightning_args *a;
    const sala_lightning_back_args *b;
    int n_spans;
} lightning_job;

static int64_t chunks_of(const sala_attn_seq *seq)
{
    return (seq->n_rows + CHUNK - 1) / CHUNK;
}

/* States that are kept of a sequence. */
static int64_t kept_of(const sala_attn_seq *seq, int every)
{
    return every > 0 ? (seq->n_rows - 1) / ((int64_t)CHUNK * every) : 0;
}

static int64_t kept_before(const sala_lightning_args *a, const sala_attn_seq *seq, int every)
{
    int64_t n = 0;
    for (const sala_attn_seq *s = a->seqs; s < seq; s++)
        n += kept_of(s, every);
    return n;
}

static int64_t state_nums(const sala_lightning_args *a)
{
    return (int64_t)a->head_dim * a->head_dim;
}

static const float *decay_of(const sala_lightning_args *a, int head)
{
    return a->decay + (int64_t)head * (CHUNK + 1);
}

/* ---- forward ---- */

static void forward_run(void *user, int task, int worker)
{
    const lightning_job *job = user;
    const sala_lightning_args *a = job->a;
    const sala_train_kernels *k = &job->dev->k;
    const sala_attn_seq *seq = &a->seqs[task / a->n_heads];
    const int head = task % a->n_heads, kv_head = head / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    const float *decay = decay_of(a, head);
    sala_num *running = sala_device_worker(job->dev, worker), *scratch = running + state_nums(a);
    const sala_num *state = NULL;
    sala_act *kept = a->states;
    if (kept)
        kept += (kept_before(a, seq, a->states_every) * a->n_heads + head) * state_nums(a);
    const int64_t n_chunks = chunks_of(seq);
    for (int64_t c = 0; c < n_chunks; c++) {
        const int64_t row = seq->first_row + c * CHUNK;
        const int n = (int)sala_min_i64(CHUNK, seq->n_rows - c * CHUNK);
        const sala_act *keys = a->k + row * a->kv_stride + (int64_t)kv_head * d;
        const sala_act *values = a->v + row * a->kv_stride + (int64_t)kv_head * d;
        k->lightning_out(a->out + row * a->out_stride + (int64_t)head * d, a->out_stride,
                         a->q + row * a->q_stride + (int64_t)head * d, a->q_stride, keys, values, a->kv_stride, state,
                         decay, 0, n, d, a->scale, scratch);
        if (c + 1 == n_chunks)
            break;
        k->lightning_state(running, state, keys, values, a->kv_stride, decay, d, scratch);
        state = running;
        if (kept && (c + 1) % a->states_every == 0) {
            memcpy(kept, running, (size_t)state_nums(a) * sizeof *kept);
            kept += a->n_heads * state_nums(a);
        }
    }
}

void sala_device_lightning(sala_backend *be, const sala_lightning_args *a)
{
    const sala_device *dev = sala_device_of(be);
    lightning_job job = {.dev = dev, .a = a};
    for (int s = 0; s < a->n_seqs; s++)
        assert(a->seqs[s].position == 0);
    sala_pool_run(dev->pool, a->n_seqs * a->n_heads, forward_run, &job);
}

/* ---- backward ---- */

typedef struct back_space {
    sala_num *states;           /* before each of a few chunks */
    sala_num *d_state, *turned; /* [d][d]; turned: a transposed state */
    sala_num *q, *k, *d_out;    /* [CHUNK][d] */
    sala_num *scaled;           /* rows of q, k, v or d_out times a factor each */
    sala_num *kt, *vt;          /* [d][CHUNK] */
    sala_num *p, *a;            /* [CHUNK][CHUNK] */
    sala_num *dq, *dk, *dv;     /* [CHUNK][d] */
    sala_num *m;                /* [CHUNK][CHUNK]: M of a whole chunk */
    sala_num *before, *behind;  /* [CHUNK]: s decay[i + 1]; decay[CHUNK - 1 - i], whose end is that of any chunk */
    sala_num *scratch;          /* of kernels */
} back_space;

static size_t back_layout(back_space *w, uint8_t *base, int d)
{
    sala_carve c = {base, 0};
    const int64_t tile = (int64_t)CHUNK * d, state = (int64_t)d * d;
    *w = (back_space){
        .states = sala_carve_nums(&c, MOST_STATES * state),
        .d_state = sala_carve_nums(&c, state),
        .turned = sala_carve_nums(&c, state),
        .q = sala_carve_nums(&c, tile),
        .k = sala_carve_nums(&c, tile),
        .d_out = sala_carve_nums(&c, tile),
        .scaled = sala_carve_nums(&c, tile),
        .kt = sala_carve_nums(&c, tile),
        .vt = sala_carve_nums(&c, tile),
        .p = sala_carve_nums(&c, CHUNK * CHUNK),
        .a = sala_carve_nums(&c, CHUNK * CHUNK),
        .dq = sala_carve_nums(&c, tile),
        .dk = sala_carve_nums(&c, tile),
        .dv = sala_carve_nums(&c, tile),
        .m = sala_carve_nums(&c, CHUNK * CHUNK),
        .before = sala_carve_nums(&c, CHUNK),
        .behind = sala_carve_nums(&c, CHUNK),
        .scratch = sala_carve_nums(&c, (int64_t)SALA_LIGHTNING_SCRATCH(d)),
    };
    return c.used;
}

/* The factors of a head. */
static void back_factors(const back_space *w, const float *decay, sala_num scale)
{
    for (int i = 0; i < CHUNK; i++) {
        w->before[i] = scale * (sala_num)decay[i + 1];
        w->behind[i] = (sala_num)decay[CHUNK - 1 - i];
        for (int j = 0; j < CHUNK; j++)
            w->m[i * CHUNK + j] = j <= i ? scale * (sala_num)decay[i - j] : 0;
    }
}

/* One head of one sequence, or a part of it. */
typedef struct part {
    const sala_attn_seq *seq;
    int head, kv_head;
    bool adds; /* to dk and dv of an earlier head of the group */
    const float *decay;
    int64_t chunk0, chunk1; /* of the span */
} part;

/* Spans begin where states are kept. */
static int64_t span_begin(const lightning_job *job, const sala_attn_seq *seq, int span)
{
    const int64_t every = job->b->states_every, groups = (chunks_of(seq) + every - 1) / every;
    return sala_min_i64(chunks_of(seq), groups * span / job->n_spans * every);
}

static int tokens_of(const part *t, int64_t chunk)
{
    return (int)sala_min_i64(CHUNK, t->seq->n_rows - chunk * CHUNK);
}

/* Where the rows of a chunk lie. */
typedef struct chunk_rows {
    const sala_act *q, *k, *v, *d_out;
    int64_t at, kv_at; /* of this head in q and the outputs, of the key head */
    int n;
} chunk_rows;

static chunk_rows rows_of(const lightning_job *job, const part *t, int64_t chunk)
{
    const sala_lightning_args *a = job->a;
    const int64_t row = t->seq->first_row + chunk * CHUNK, head = (int64_t)t->head * a->head_dim;
    const int64_t at = row * a->q_stride + head, kv = row * a->kv_stride + (int64_t)t->kv_head * a->head_dim;
    return (chunk_rows){a->q + at, a->k + kv, a->v + kv,          job->b->d_out + row * a->out_stride + head,
                        at,        kv,        tokens_of(t, chunk)};
}

/* dS before a chunk from that behind it; w->d_out holds the chunk's. */
static void step_back(const lightning_job *job, const back_space *w, const part *t, const chunk_rows *r)
{
    const sala_train_kernels *k = &job->dev->k;
    const int d = job->a->head_dim;
    k->copy_rows(w->d_state, d, w->d_state, d, d, d, NULL, (sala_num)t->decay[r->n]);
    k->copy_rows(w->scaled, d, r->q, job->a->q_stride, r->n, d, w->before, 1);
    k->mma(w->d_state, d, w->scaled, 1, d, w->d_out, d, d, d, r->n, true);
}

/* C (+)= X B or XT B, where X [n][n] is zero above its diagonal: what is known to be zero in a quarter of it is left
 * out. */
static void lower_mma(const sala_train_kernels *k, sala_num *c, const sala_num *x, bool turned, const sala_num *b,
                      int n, int d, bool add)
{
    enum { HALF = CHUNK / 2 };
    const int top = n < HALF ? n : HALF, rest = n - top;
    const int row = turned ? 1 : CHUNK, col = turned ? CHUNK : 1;
    if (turned) { /* rows of XT are columns of X */
        k->mma(c, d, x, row, col, b, d, top, d, n, add);
        if (rest)
            k->mma(c + top * d, d, x + top * (CHUNK + 1), row, col, b + top * d, d, rest, d, rest, add);
    } else {
        k->mma(c, d, x, row, col, b, d, top, d, top, add);
        if (rest)
            k->mma(c + top * d, d, x + top * CHUNK, row, col, b, d, rest, d, n, add);
    }
}

/* state: before the chunk, NULL for zero. */
static void back_chunk(const lightning_job *job, const back_space *w, const part *t, int64_t chunk,
                       const sala_num *state)
{
    const sala_lightning_args *a = job->a;
    const sala_train_kernels *k = &job->dev->k;
    const chunk_rows r = rows_of(job, t, chunk);
    const int d = a->head_dim, n = r.n;
    const sala_num *behind = w->behind + CHUNK - n;
    k->copy_rows(w->q, d, r.q, a->q_stride, n, d, NULL, 1);
    k->copy_rows(w->d_out, d, r.d_out, a->out_stride, n, d, NULL, 1);
    k->copy_rows(w->k, d, r.k, a->kv_stride, n, d, NULL, 1);
    k->transpose(w->kt, CHUNK, w->k, d, n, d);
    k->transpose(w->vt, CHUNK, r.v, a->kv_stride, n, d);
    k->mma(w->p, CHUNK, w->q, d, 1, w->kt, CHUNK, n, n, d, false);
    k->mma(w->a, CHUNK, w->d_out, d, 1, w->vt, CHUNK, n, n, d, false);
    k->multiply(w->p, CHUNK, w->m, CHUNK, n, n);
    k->multiply(w->a, CHUNK, w->m, CHUNK, n, n);

    lower_mma(k, w->dq, w->a, false, w->k, n, d, false);
    if (state) {
        k->transpose(w->turned, d, state, d, d, d);
        k->copy_rows(w->scaled, d, w->d_out, d, n, d, w->before, 1);
        k->mma(w->dq, d, w->scaled, d, 1, w->turned, d, n, d, d, true);
    }
    k->copy_rows(job->b->dq + r.at, a->q_stride, w->dq, d, n, d, NULL, 1);

    if (t->adds) {
        k->copy_rows(w->dk, d, job->b->dk + r.kv_at, a->kv_stride, n, d, NULL, 1);
        k->copy_rows(w->dv, d, job->b->dv + r.kv_at, a->kv_stride, n, d, NULL, 1);
    }
    lower_mma(k, w->dk, w->a, true, w->q, n, d, t->adds);
    k->transpose(w->turned, d, w->d_state, d, d, d);
    k->copy_rows(w->scaled, d, r.v, a->kv_stride, n, d, behind, 1);
    k->mma(w->dk, d, w->scaled, d, 1, w->turned, d, n, d, d, true);
    k->copy_rows(job->b->dk + r.kv_at, a->kv_stride, w->dk, d, n, d, NULL, 1);

    lower_mma(k, w->dv, w->p, true, w->d_out, n, d, t->adds);
    k->copy_rows(w->scaled, d, w->k, d, n, d, behind, 1);
    k->mma(w->dv, d, w->scaled, d, 1, w->d_state, d, n, d, d, true);
    k->copy_rows(job->b->dv + r.kv_at, a->kv_stride, w->dv, d, n, d, NULL, 1);
    step_back(job, w, t, &r);
}

/* What span `span` of a head adds to dS before it: [seq][head][span][d][d]. */
static sala_num *local_of(const lightning_job *job, const part *t, int span)
{
    const int64_t seq = t->seq - job->a->seqs;
    return (sala_num *)(void *)job->dev->shared +
           ((seq * job->a->n_heads + t->head) * job->n_spans + span) * state_nums(job->a);
}

/* dS behind the span, from those that follow. */
static void end_state(const lightning_job *job, const back_space *w, const part *t, int span)
{
    const int64_t n = state_nums(job->a);
    memset(w->d_state, 0, (size_t)n * sizeof *w->d_state);
    for (int s = job->n_spans - 1; s > span; s--) {
        double kept = 1; /* of what is behind span s, before it */
        for (int64_t c = span_begin(job, t->seq, s); c < span_begin(job, t->seq, s + 1); c++)
            kept *= (double)t->decay[tokens_of(t, c)];
        const sala_num *local = local_of(job, t, s);
        for (int64_t i = 0; i < n; i++)
            w->d_state[i] = local[i] + (sala_num)kept * w->d_state[i];
    }
}

static void local_run(void *user, int task, int worker)
{
    const lightning_job *job = user;
    const sala_lightning_args *a = job->a;
    const int span = task % job->n_spans, head = task / job->n_spans % a->n_heads;
    part t = {.seq = &a->seqs[task / job->n_spans / a->n_heads], .head = head, .decay = decay_of(a, head)};
    t.kv_head = head / (a->n_heads / a->n_kv_heads);
    if (span == 0) /* nothing is before it */
        return;
    back_space w;
    back_layout(&w, sala_device_worker(job->dev, worker), a->head_dim);
    back_factors(&w, t.decay, a->scale);
    memset(w.d_state, 0, (size_t)state_nums(a) * sizeof *w.d_state);
    for (int64_t c = span_begin(job, t.seq, span + 1) - 1; c >= span_begin(job, t.seq, span); c--) {
        const chunk_rows r = rows_of(job, &t, c);
        job->dev->k.copy_rows(w.d_out, a->head_dim, r.d_out, a->out_stride, r.n, a->head_dim, NULL, 1);
        step_back(job, &w, &t, &r);
    }
    memcpy(local_of(job, &t, span), w.d_state, (size_t)state_nums(a) * sizeof *w.d_state);
}

/* Chunks [c0, c1), which begin where a state is kept. */
static void back_group(const lightning_job *job, const back_space *w, const part *t, int64_t c0, int64_t c1)
{
    const sala_lightning_args *a = job->a;
    const int d = a->head_dim;
    const int64_t every = job->b->states_every, size = state_nums(a);
    const sala_num *states[MOST_STATES] = {NULL};
    if (c0 > 0)
        states[0] =
            job->b->states + ((kept_before(a, t->seq, (int)every) + c0 / every - 1) * a->n_heads + t->head) * size;
    for (int64_t c = c0; c + 1 < c1; c++) {
        const int64_t at = (t->seq->first_row + c * CHUNK) * a->kv_stride + (int64_t)t->kv_head * d;
        job->dev->k.lightning_state(w->states + (c - c0) * size, states[c - c0], a->k + at, a->v + at, a->kv_stride,
                                    t->decay, d, w->scratch);
        states[c - c0 + 1] = w->states + (c - c0) * size;
    }
    for (int64_t c = c1 - 1; c >= c0; c--)
        back_chunk(job, w, t, c, states[c - c0]);
}

static void back_run(void *user, int task, int worker)
{
    const lightning_job *job = user;
    const sala_lightning_args *a = job->a;
    const int span = task % job->n_spans, kv_head = task / job->n_spans % a->n_kv_heads;
    const int group = a->n_heads / a->n_kv_heads;
    const int64_t every = job->b->states_every;
    back_space w;
    back_layout(&w, sala_device_worker(job->dev, worker), a->head_dim);
    for (int g = 0; g < group; g++) {
        const int head = kv_head * group + g;
        part t = {&a->seqs[task / job->n_spans / a->n_kv_heads], head, kv_head, g > 0, decay_of(a, head), 0, 0};
        t.chunk0 = span_begin(job, t.seq, span);
        t.chunk1 = span_begin(job, t.seq, span + 1);
        if (t.chunk0 == t.chunk1)
            return;
        end_state(job, &w, &t, span);
        back_factors(&w, t.decay, a->scale);
        for (int64_t end = t.chunk1, c0; end > t.chunk0; end = c0) {
            c0 = (end - 1) / every * every;
            back_group(job, &w, &t, c0, end);
        }
    }
}

void sala_device_lightning_back(sala_backend *be, const sala_lightning_back_args *b)
{
    const sala_device *dev = sala_device_of(be);
    const sala_lightning_args *a = &b->fwd;
    assert(b->states_every >= 1 && b->states_every <= MOST_STATES);
    lightning_job job = {dev, a, b, sala_span_count((int64_t)a->n_seqs * a->n_kv_heads, dev->n_workers)};
    if (job.n_spans > 1)
        sala_pool_run(dev->pool, a->n_seqs * a->n_heads * job.n_spans, local_run, &job);
    sala_pool_run(dev->pool, a->n_seqs * a->n_kv_heads * job.n_spans, back_run, &job);
}

/* ---- memory ---- */

size_t sala_lightning_worker_bytes(const sala_backend_limits *l, sala_precision p)
{
    (void)p; /* states are f32 in both */
    back_space w;
    return l->lightning_head_dim ? back_layout(&w, NULL, l->lightning_head_dim) : 0;
}

uint64_t sala_lightning_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers)
{
    (void)p;
    if (!l->lightning_head_dim)
        return 0;
    const int64_t tasks = n_workers > SALA_SPAN_THREADS ? n_workers : SALA_SPAN_TASKS;
    uint64_t states = 0; /* the most that any number of sequences with spans asks for */
    for (int64_t n = 1; n * l->lightning_kv_heads < tasks; n++) {
        const uint64_t now = (uint64_t)(n * sala_span_count(n * l->lightning_kv_heads, n_workers));
        states = now > states ? now : states;
    }
    return sala_align64(states * (uint64_t)l->lightning_heads * (uint64_t)l->lightning_head_dim *
                        (uint64_t)l->lightning_head_dim * sizeof(sala_num));
}
