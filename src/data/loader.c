/* Two sets of buffers: the trainer has one while the thread fills the other. Which sequences a step takes is computed
 * from the state alone, so the state behind the step that was handed out is all that a save needs, and what had been
 * prefetched is simply prefetched again.
 *
 * Sources are drawn by deficit: each sequence goes to the source that is furthest behind its share. Shares are exact to
 * one sequence at any time, without random numbers. All sequences have the same length, so counting them is counting
 * tokens. */
#include "data/loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

/* What one step hands out. */
typedef struct step {
    int32_t *tokens, *labels;          /* [n_seqs * seq_len] of this rank */
    int32_t *doc_start, *doc_position; /* room for the most documents that there can be */
    sala_batch *batches;
    int64_t supervised;       /* of all ranks */
    sala_loader_state behind; /* the state once this step is done */
    sala_status status;
    sala_error err;
    bool ready;
} step;

struct sala_loader {
    sala_loader_params params;
    sala_mix_source sources[SALA_MAX_SOURCES];
    int64_t n_seqs; /* of this rank, a step */
    int n_batches;
    step steps[2];
    int handed;              /* which of them the caller has, or -1 */
    sala_loader_state state; /* behind what was handed out */

    pthread_t thread;
    bool started, quit;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int wanted;                /* which step the thread is to fill, or -1; it clears this when done */
    sala_loader_state reading; /* what the thread goes on from; its own while `wanted` is set */
};

/* ---- which sequences ---- */

int sala_loader_draw(sala_loader_state *state, const sala_mix_source *sources, int n_sources, uint64_t *bin)
{
    int best = 0;
    double most = -1;
    for (int s = 0; s < n_sources; s++) {
        const double behind = sources[s].weight * (double)(state->sequences + 1) - (double)state->drawn[s];
        /* The deficits of all sources add up to 1, so that of the best one is above 0. A weight of 0 never is. */
        if (behind > most && sources[s].weight > 0) {
            most = behind;
            best = s;
        }
    }
    const uint64_t n = sala_bins_count(sources[best].bins), drawn = state->drawn[best]++;
    state->sequences++;
    /* A stage has an order of its own, and so has each corpus: two of equal size do not run in step. */
    const uint64_t seed = state->seed ^ sources[best].corpus->manifest_sum ^ state->stage * 0x9E3779B97F4A7C15u;
    *bin = sala_permute(seed, drawn / n, drawn % n, n);
    return best;
}

/* ---- what is in them ---- */

/* One more token of the document behind a piece that fills its sequence: what the last row predicts. */
static bool goes_on(const sala_mix_source *s, const sala_piece *p)
{
    const sala_shard *shard = s->corpus->shards[p->shard];
    const sala_shard_doc d = sala_shard_doc_at(shard, sala_shard_doc_of(shard, p->at));
    return p->at + p->count < d.at + d.count;
}

/* Tokens of a piece whose labels rows of this sequence hold: [*first, *first + *n) of the shard, at rows from *row on.
 * A row's label is the token behind it. The first token of a piece is the label of the row before it only where
 * documents are one. */
static void labelled(const sala_loader_params *p, const sala_mix_source *s, const sala_piece *piece, int64_t row,
                     uint64_t *first, int64_t *n, int64_t *at_row)
{
    const bool joined = !p->mask_documents && row > 0;
    int64_t count = piece->count;
    if (row + count == p->seq_len && goes_on(s, piece))
        count++;
    *first = joined ? piece->at : piece->at + 1;
    *n = joined ? count : count - 1;
    *at_row = joined ? row - 1 : row;
    if (*n > p->seq_len - *at_row)
        *n = p->seq_len - *at_row;
}

static sala_status count_supervised(const sala_loader_params *p, const sala_mix_source *s, uint64_t bin,
                                    int64_t *supervised, sala_error *err)
{
    int n_pieces;
    const sala_piece *pieces = sala_bins_get(s->bins, bin, &n_pieces);
    int64_t row = 0;
    for (int i = 0; i < n_pieces; i++) {
        uint64_t first, some;
        int64_t n, at_row;
        labelled(p, s, &pieces[i], row, &first, &n, &at_row);
        const sala_status status = sala_shard_supervised(s->corpus->shards[pieces[i].shard], first, n, &some, err);
        if (status != SALA_OK)
            return status;
        *supervised += (int64_t)some;
        row += pieces[i].count;
    }
    return SALA_OK;
}

static void begin_document(sala_batch *b, int64_t row, int64_t position)
{
    b->doc_start[b->n_docs] = (int32_t)row;
    b->doc_position[b->n_docs++] = (int32_t)position;
}

static sala_status read_sequence(const sala_loader_params *p, const sala_mix_source *s, uint64_t bin, sala_batch *b,
                                 sala_error *err)
{
    int n_pieces;
    const sala_piece *pieces = sala_bins_get(s->bins, bin, &n_pieces);
    int32_t *tokens = b->tokens + b->n_rows, *labels = b->labels + b->n_rows;
    for (int64_t i = 0; i < p->seq_len; i++) {
        tokens[i] = 0;
        labels[i] = -1;
    }
    int64_t row = 0;
    for (int i = 0; i < n_pieces; i++) {
        const sala_piece *piece = &pieces[i];
        const sala_shard *shard = s->corpus->shards[piece->shard];
        const int64_t rows = sala_min_i64(piece->count, p->seq_len - row);
        if (rows > 0 && (i == 0 || p->mask_documents))
            begin_document(b, b->n_rows + row,
                           p->keep_positions && piece->start <= INT32_MAX ? (int64_t)piece->start : 0);
        sala_status status = sala_shard_read(shard, piece->at, rows, tokens + row, NULL, err);
        uint64_t first;
        int64_t n, at_row;
        labelled(p, s, piece, row, &first, &n, &at_row);
        if (status == SALA_OK)
            status = sala_shard_read(shard, first, n, NULL, labels + at_row, err);
        if (status != SALA_OK)
            return status;
        row += rows;
    }
    if (row < p->seq_len && p->mask_documents)
        begin_document(b, b->n_rows + row, 0);
    for (int64_t i = 0; i < p->seq_len; i++)
        b->n_supervised += labels[i] >= 0;
    b->n_rows += p->seq_len;
    return SALA_OK;
}

/* ---- a step ---- */

/* Documents of a sequence: pieces of best-fit packing have two tokens or more, but those of a stream one; and padding.
 */
static int64_t most_docs(const sala_loader_params *p)
{
    return p->mask_documents ? p->seq_len + 1 : 1;
}

static void lay_out(const sala_loader *l, step *s)
{
    const int64_t docs = most_docs(&l->params);
    for (int i = 0; i < l->n_batches; i++) {
        const int64_t seq = i * l->params.sequences_per_pass;
        s->batches[i] = (sala_batch){
            .tokens = s->tokens + seq * l->params.seq_len,
            .labels = s->labels + seq * l->params.seq_len,
            .doc_start = s->doc_start + seq * docs + i, /* one more than documents in each batch */
            .doc_position = s->doc_position + seq * docs,
        };
    }
    s->supervised = 0;
}

static sala_status fill(sala_loader *l, step *s, sala_error *err)
{
    const sala_loader_params *p = &l->params;
    lay_out(l, s);
    int64_t mine = 0;
    for (int64_t i = 0; i < p->sequences_per_step; i++) {
        uint64_t bin;
        const sala_mix_source *source = &l->sources[sala_loader_draw(&l->reading, l->sources, p->n_sources, &bin)];
        sala_status status;
        if (i % p->n_ranks == p->rank) {
            sala_batch *b = &s->batches[mine++ / p->sequences_per_pass];
            const int64_t before = b->n_supervised;
            status = read_sequence(p, source, bin, b, err);
            s->supervised += b->n_supervised - before;
        } else {
            status = count_supervised(p, source, bin, &s->supervised, err);
        }
        if (status != SALA_OK)
            return status;
    }
    for (int i = 0; i < l->n_batches; i++)
        s->batches[i].doc_start[s->batches[i].n_docs] = (int32_t)s->batches[i].n_rows;
    s->behind = l->reading;
    return SALA_OK;
}

static void *run(void *user)
{
    sala_loader *l = user;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        if (l->wanted < 0) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        step *s = &l->steps[l->wanted];
        pthread_mutex_unlock(&l->lock);
        s->status = fill(l, s, &s->err);
        pthread_mutex_lock(&l->lock);
        s->ready = true;
        l->wanted = -1;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- opening ---- */

static sala_status check_params(const sala_loader_params *p, sala_error *err)
{
    if (p->n_sources < 1 || p->n_sources > SALA_MAX_SOURCES)
        return sala_fail(err, SALA_E_INVALID, "%d sources of data; from 1 to %d are possible", p->n_sources,
                         SALA_MAX_SOURCES);
    if (p->n_ranks < 1 || p->rank < 0 || p->rank >= p->n_ranks)
        return sala_fail(err, SALA_E_INVALID, "rank %d of %d processes", p->rank, p->n_ranks);
    if (p->sequences_per_step < p->n_ranks)
        return sala_fail(err, SALA_E_INVALID, "%" PRId64 " sequences a step for %d processes; each needs one at least",
                         p->sequences_per_step, p->n_ranks);
    if (p->sequences_per_pass < 1 || p->seq_len < 1 || p->sequences_per_pass > INT32_MAX / p->seq_len)
        return sala_fail(err, SALA_E_INVALID, "passes of %" PRId64 " sequences of %" PRId64 " tokens are not possible",
                         p->sequences_per_pass, p->seq_len);
    double sum = 0;
    for (int i = 0; i < p->n_sources; i++) {
        const sala_mix_source *s = &p->sources[i], *first = &p->sources[0];
        if (!(s->weight >= 0 && s->weight < 1e300))
            return sala_fail(err, SALA_E_INVALID, "%s: its weight is %g; weights are 0 or more", s->corpus->dir,
                             s->weight);
        if (sala_bins_seq_len(s->bins) != p->seq_len)
            return sala_fail(err, SALA_E_INVALID, "%s: packed into sequences of %" PRId64 ", %" PRId64 " are asked for",
                             s->corpus->dir, sala_bins_seq_len(s->bins), p->seq_len);
        if (s->corpus->tokenizer_id != first->corpus->tokenizer_id || s->corpus->vocab != first->corpus->vocab)
            return sala_fail(err, SALA_E_INVALID,
                             "%s was packed with another tokenizer (id %016" PRIx64 ", %u ids) than %s (id %016" PRIx64
                             ", %u ids): pack one of them again",
                             s->corpus->dir, s->corpus->tokenizer_id, s->corpus->vocab, first->corpus->dir,
                             first->corpus->tokenizer_id, first->corpus->vocab);
        sum += s->weight;
    }
    if (!(sum > 0 && sum < 1e300))
        return sala_fail(err, SALA_E_INVALID, "the weights of the sources add up to %g; one has to be above 0", sum);
    return SALA_OK;
}

/* Elements of the four arrays of a step, or 0 when there are too many. */
static uint64_t step_elements(const sala_loader_params *p, int64_t n_seqs, uint64_t *rows, uint64_t *docs)
{
    const uint64_t n_batches =
        ((uint64_t)n_seqs + (uint64_t)p->sequences_per_pass - 1) / (uint64_t)p->sequences_per_pass;
    if (!sala_mul_size(rows, (uint64_t)n_seqs, (uint64_t)p->seq_len) || *rows > (uint64_t)1 << 40)
        return 0;
    *docs = (uint64_t)n_seqs * (uint64_t)most_docs(p) + n_batches;
    return 2 * *rows + 2 * *docs;
}

static int64_t share_of(const sala_loader_params *p)
{
    return (p->sequences_per_step - p->rank + p->n_ranks - 1) / p->n_ranks;
}

uint64_t sala_loader_bytes(const sala_loader_params *p)
{
    uint64_t rows, docs;
    return sizeof(sala_loader) + 2 * step_elements(p, share_of(p), &rows, &docs) * sizeof(int32_t);
}

static sala_status take_memory(sala_loader *l, sala_error *err)
{
    uint64_t rows = 0, docs = 0;
    const uint64_t n = step_elements(&l->params, l->n_seqs, &rows, &docs);
    for (int i = 0; i < 2; i++) {
        step *s = &l->steps[i];
        s->tokens = n ? malloc(n * sizeof *s->tokens) : NULL;
        s->batches = calloc((size_t)l->n_batches, sizeof *s->batches);
        if (!s->tokens || !s->batches)
            return sala_fail_memory(err, n * sizeof *s->tokens);
        s->labels = s->tokens + rows;
        s->doc_start = s->labels + rows;
        s->doc_position = s->doc_start + docs;
    }
    return SALA_OK;
}

sala_status sala_loader_open(sala_loader **out, const sala_loader_params *p, const sala_loader_state *from,
                             sala_error *err)
{
    sala_status status = check_params(p, err);
    if (status != SALA_OK)
        return status;
    sala_loader *l = calloc(1, sizeof *l);
    if (!l)
        return sala_fail_memory(err, sizeof *l);
    l->params = *p;
    double sum = 0;
    for (int i = 0; i < p->n_sources; i++)
        sum += p->sources[i].weight;
    for (int i = 0; i < p->n_sources; i++) {
        l->sources[i] = p->sources[i];
        l->sources[i].weight /= sum;
    }
    l->params.sources = l->sources;
    l->n_seqs = share_of(p);
    l->n_batches = (int)((l->n_seqs + p->sequences_per_pass - 1) / p->sequences_per_pass);
    l->handed = -1;
    l->wanted = 0;
    if (from)
        l->state = *from;
    l->reading = l->state;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    status = take_memory(l, err);
    if (status == SALA_OK) {
        const int why = pthread_create(&l->thread, NULL, run, l);
        l->started = why == 0;
        if (why)
            status = sala_fail_errno(err, why, "the thread that reads data could not be started");
    }
    if (status != SALA_OK) {
        sala_loader_close(l);
        return status;
    }
    *out = l;
    return SALA_OK;
}

void sala_loader_close(sala_loader *l)
{
    if (!l)
        return;
    if (l->started) {
        pthread_mutex_lock(&l->lock);
        l->quit = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    for (int i = 0; i < 2; i++) {
        free(l->steps[i].tokens);
        free(l->steps[i].batches);
    }
    free(l);
}

sala_status sala_loader_next(sala_loader *l, const sala_batch **batches, int *n_batches, int64_t *supervised,
                             sala_error *err)
{
    const int coming = l->handed == 0 ? 1 : 0;
    step *s = &l->steps[coming];
    pthread_mutex_lock(&l->lock);
    while (!s->ready)
        pthread_cond_wait(&l->changed, &l->lock);
    if (s->status == SALA_OK) {
        /* What the caller had until now is free to be filled. */
        l->wanted = !coming;
        l->steps[!coming].ready = false;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    if (s->status != SALA_OK) {
        if (err)
            *err = s->err;
        return s->status;
    }
    l->handed = coming;
    l->state = s->behind;
    *batches = s->batches;
    *n_batches = l->n_batches;
    *supervised = s->supervised;
    return SALA_OK;
}

sala_loader_state sala_loader_tell(const sala_loader *l)
{
    return l->state;
}
