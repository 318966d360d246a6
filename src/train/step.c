#include "train/step.h"

#include "train/mtp.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* Elements of one task of the update and of one partial sum of the norm: the order of sums depends on nothing else. */
enum { PIECE = 65536 };

/* Elements of one tensor that this rank updates. */
typedef struct piece {
    uint64_t at, moment; /* in the arenas; in this rank's moments */
    int32_t count, param;
} piece;

struct sala_trainer {
    const sala_run_config *run;
    const sala_params *params;
    const sala_train_plan *plan;
    sala_pool *pool;
    sala_dist *dist;
    int n_ranks, rank;
    sala_train_kernels k;
    sala_backend *be;
    const sala_grad_ops *grad;
    /* Values, gradients, first and second moments, one behind the other. */
    float *arena, *values, *grads, *moments[2];
    size_t arena_bytes;
    uint64_t n_moments;
    sala_weight **weights; /* [params->count]; NULL: a vector */
    sala_net *net;
    sala_state_layout state;
    sala_mtp mtp; /* net NULL: none */
    sala_tape tape;
    void *block; /* tape and scratch */
    size_t block_bytes;
    sala_attn_seq *seqs; /* [rows] */
    piece *pieces;
    int n_pieces;
    double *sums; /* [n_pieces] */
    sala_trainer_state so_far;
};

/* ---- opening ---- */

static void part_of(const sala_trainer *t, int bucket, uint64_t *begin, uint64_t *end)
{
    const uint64_t *b = t->params->bucket_begin;
    *begin = b[bucket];
    *end = b[bucket + 1];
    if (t->dist)
        sala_dist_part(t->dist, t->rank, b[bucket], b[bucket + 1], begin, end);
}

/* Calls for every piece of this rank, in the order of the arenas; returns how many there are. */
static int list_pieces(const sala_trainer *t, piece *out)
{
    int n = 0, param = 0;
    uint64_t moment = 0;
    for (int b = 0; b < t->params->n_buckets; b++) {
        uint64_t begin, end;
        part_of(t, b, &begin, &end);
        for (uint64_t at = begin; at < end && param < t->params->count;) {
            const sala_param *p = &t->params->items[param];
            if (at >= p->at + p->count) { /* behind the tensor */
                param++;
                continue;
            }
            at = at > p->at ? at : p->at; /* padding lies between */
            if (at >= end)
                break;
            uint64_t to = p->at + p->count;
            to = to < end ? to : end;
            to = to < at + PIECE ? to : at + PIECE;
            if (out)
                out[n] = (piece){at, moment + (at - begin), (int32_t)(to - at), param};
            n++;
            at = to;
        }
        moment += end > begin ? end - begin : 0;
    }
    return n;
}

static sala_status get_arena(sala_trainer *t, sala_error *err)
{
    const uint64_t n = t->params->n_elements;
    for (int b = 0; b < t->params->n_buckets; b++) {
        uint64_t begin, end;
        part_of(t, b, &begin, &end);
        t->n_moments += end - begin;
    }
    const uint64_t bytes = 2 * (n + t->n_moments) * sizeof(float);
    t->arena = sala_os_pages_alloc(bytes);
    if (!t->arena)
        return sala_fail_memory(err, bytes);
    t->arena_bytes = bytes;
    t->values = t->arena;
    t->grads = t->values + n;
    t->moments[0] = t->grads + n;
    t->moments[1] = t->moments[0] + t->n_moments;
    t->n_pieces = list_pieces(t, NULL);
    t->pieces = calloc((size_t)t->n_pieces + 1, sizeof *t->pieces);
    t->sums = calloc((size_t)t->n_pieces + 1, sizeof *t->sums);
    if (!t->pieces || !t->sums)
        return sala_fail_memory(err, (uint64_t)t->n_pieces * (sizeof *t->pieces + sizeof *t->sums));
    list_pieces(t, t->pieces);
    return SALA_OK;
}

static sala_status get_rows(sala_trainer *t, sala_error *err)
{
    const sala_train_plan *plan = t->plan;
    t->tape.layers = calloc((size_t)plan->n_layers, sizeof *t->tape.layers);
    t->seqs = calloc((size_t)plan->rows, sizeof *t->seqs);
    const sala_tape_bytes bytes = sala_tape_lay(&t->tape, plan, t->run, NULL);
    t->block_bytes = bytes.tape + bytes.scratch;
    t->block = sala_os_pages_alloc(t->block_bytes);
    if (!t->tape.layers || !t->seqs || !t->block)
        return sala_fail_memory(err, t->block_bytes);
    sala_tape_lay(&t->tape, plan, t->run, t->block);
    return SALA_OK;
}

static sala_status get_device(sala_trainer *t, sala_error *err)
{
    const sala_device_params p = {
        .pool = t->pool, .kernels = "auto", .precision = t->run->precision, .values = t->values, .grads = t->grads};
    if (!sala_train_kernels_get(&t->k, p.kernels, sala_os_cpu_features()))
        return sala_fail(err, SALA_E_UNSUPPORTED, "this CPU has no kernels for training");
    sala_status st = sala_device_open(&t->be, &p, err);
    if (st != SALA_OK)
        return st;
    t->grad = sala_device_grad_ops(t->be);
    for (int i = 0; i < t->params->count && st == SALA_OK; i++) {
        const sala_param *q = &t->params->items[i];
        if (q->rows)
            st = t->be->ops->weight_new(t->be, &t->weights[i], SALA_F32, q->rows, q->cols, t->values + q->at, err);
    }
    const sala_backend_limits limits = sala_train_limits(t->run, t->plan->rows);
    return st == SALA_OK ? t->be->ops->reserve(t->be, &limits, err) : st;
}

static sala_status get_net(sala_trainer *t, sala_error *err)
{
    const sala_params *params = t->params;
    const sala_config *c = &t->run->shape;
    sala_net_part *parts = calloc((size_t)params->count, sizeof *parts);
    if (!parts)
        return sala_fail_memory(err, (uint64_t)params->count * sizeof *parts);
    int n = 0;
    for (int i = 0; i < params->count; i++) {
        const sala_param *p = &params->items[i];
        if (p->layer < c->n_layers)
            parts[n++] = (sala_net_part){(sala_tensor_role)p->role, p->layer < 0 ? 0 : p->layer, t->weights[i],
                                         p->rows ? NULL : t->values + p->at};
    }
    sala_status st = sala_net_open_parts(&t->net, c, t->be, parts, n, t->plan->rows, err);
    free(parts);
    if (st != SALA_OK)
        return st;
    if (!t->run->scale_logits_in_training || c->attn_scale_base <= 0)
        t->net->row_scale = NULL;
    t->net->grad = t->grad;
    t->net->grad_offset = t->grads - t->values;
    st = sala_net_state_layout(&t->state, c, SALA_F32, err);
    if (st == SALA_OK && t->run->mtp_depth > 0)
        st = sala_mtp_open(&t->mtp, t->run, params, t->weights, t->values, t->net, t->plan->rows, err);
    return st;
}

sala_status sala_trainer_open(sala_trainer **out, const sala_run_config *run, const sala_params *params,
                              const sala_train_plan *plan, sala_pool *pool, sala_dist *dist, sala_error *err)
{
    sala_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return sala_fail_memory(err, sizeof *t);
    *t = (sala_trainer){.run = run,
                        .params = params,
                        .plan = plan,
                        .pool = pool,
                        .dist = dist,
                        .n_ranks = dist ? dist->size : 1,
                        .rank = dist ? dist->rank : 0};
    t->weights = calloc((size_t)params->count, sizeof *t->weights);
    sala_status st = t->weights ? SALA_OK : sala_fail_memory(err, (uint64_t)params->count * sizeof *t->weights);
    if (st == SALA_OK)
        st = get_arena(t, err);
    if (st == SALA_OK)
        st = get_rows(t, err);
    if (st == SALA_OK)
        st = get_device(t, err);
    if (st == SALA_OK)
        st = get_net(t, err);
    if (st != SALA_OK) {
        sala_trainer_close(t);
        return st;
    }
    *out = t;
    return SALA_OK;
}

void sala_trainer_close(sala_trainer *t)
{
    if (!t)
        return;
    sala_mtp_close(&t->mtp);
    sala_net_close_parts(t->net);
    for (int i = 0; t->weights && i < t->params->count; i++)
        if (t->weights[i])
            t->be->ops->weight_free(t->be, t->weights[i]);
    if (t->be)
        t->be->ops->close(t->be);
    sala_os_pages_free(t->block, t->block_bytes);
    sala_os_pages_free(t->arena, t->arena_bytes);
    free(t->tape.layers);
    free(t->seqs);
    free(t->pieces);
    free(t->sums);
    free(t->weights);
    free(t);
}

float *sala_trainer_values(sala_trainer *t)
{
    return t->values;
}

float *sala_trainer_grads(sala_trainer *t)
{
    return t->grads;
}

float *sala_trainer_moment(sala_trainer *t, int which)
{
    return t->moments[which];
}

sala_trainer_state *sala_trainer_state_of(sala_trainer *t)
{
    return &t->so_far;
}

const sala_backend *sala_trainer_device(const sala_trainer *t)
{
    return t->be;
}

void sala_trainer_changed(sala_trainer *t)
{
    for (int i = 0; i < t->params->count; i++)
        if (t->weights[i])
            sala_weight_changed(t->weights[i]);
}

/* ---- a pass ---- */

static sala_status check_batch(const sala_trainer *t, const sala_batch *b, sala_error *err)
{
    if (b->n_rows < 1 || b->n_rows > t->plan->rows)
        return sala_fail(err, SALA_E_INVALID, "a batch has %" PRId64 " rows; the plan is for 1 to %" PRId64, b->n_rows,
                         t->plan->rows);
    if (b->n_docs < 1 || b->doc_start[0] != 0 || b->doc_start[b->n_docs] != b->n_rows)
        return sala_fail(err, SALA_E_INVALID, "the documents of a batch do not cover its %" PRId64 " rows", b->n_rows);
    for (int d = 0; d < b->n_docs; d++)
        if (b->doc_start[d + 1] <= b->doc_start[d])
            return sala_fail(err, SALA_E_INVALID, "document %d of a batch has no rows", d);
    const int32_t vocab = t->run->shape.n_vocab;
    for (int64_t i = 0; i < b->n_rows; i++)
        if (b->tokens[i] < 0 || b->tokens[i] >= vocab || b->labels[i] < -1 || b->labels[i] >= vocab)
            return sala_fail(err, SALA_E_INVALID,
                             "row %" PRId64 " of a batch holds token %d and label %d; the model has tokens 0 to %d", i,
                             b->tokens[i], b->labels[i], vocab - 1);
    return SALA_OK;
}

typedef struct angles {
    sala_net *net;
    int64_t first_row, n_rows, position;
    int list; /* of inv_freq */
} angles;

enum { ANGLE_ROWS = 64 };

static void angles_task(void *user, int task, int worker)
{
    (void)worker;
    const angles *a = user;
    const int half = a->net->config->rope.n_rot / 2;
    const int64_t from = (int64_t)task * ANGLE_ROWS, n = sala_min_i64(ANGLE_ROWS, a->n_rows - from);
    const int64_t at = (a->first_row + from) * half;
    sala_rope_rows(a->net->rope_cos + at, a->net->rope_sin + at, a->net->inv_freq[a->list], half,
                   a->net->rope_factor[a->list], a->position + from, n);
}

static void fill_angles(sala_pool *pool, sala_net *net, const sala_attn_seq *seq, int64_t position)
{
    const sala_config *c = net->config;
    if (c->rope.kind == SALA_ROPE_NONE)
        return;
    const int64_t original = c->rope.original_max > 0 ? c->rope.original_max : c->n_ctx_train;
    angles a = {net, seq->first_row, seq->n_rows, position, c->n_ctx_train > original};
    sala_pool_run(pool, (int)((seq->n_rows + ANGLE_ROWS - 1) / ANGLE_ROWS), angles_task, &a);
}

/* Documents become sequences. To attention each begins at 0, though a piece of a cut document turns by the angles of
 * its place in it. */
static sala_pass make_pass(sala_trainer *t, const sala_batch *b)
{
    const int64_t dense_len = t->run->shape.sparse.dense_len;
    for (int d = 0; d < b->n_docs; d++) {
        const int64_t n = b->doc_start[d + 1] - b->doc_start[d];
        sala_attn_seq *seq = &t->seqs[d];
        *seq = (sala_attn_seq){
            .first_row = b->doc_start[d], .n_rows = n, .sparse_from = dense_len <= 0 || n >= dense_len ? 0 : INT64_MAX};
        const int64_t position = t->run->restart_positions ? 0 : b->doc_position[d];
        fill_angles(t->pool, t->net, seq, position);
        if (t->net->row_scale)
            sala_query_scales(t->net->row_scale + seq->first_row, t->run->shape.attn_scale_base, position, n);
        if (t->mtp.net)
            fill_angles(t->pool, t->mtp.net, seq, position);
    }
    return (sala_pass){t->net, &t->state, t->seqs, b->n_docs, b->n_rows, 0};
}

/* Rows of tokens to the normed rows that the head reads. */
static void forward(sala_trainer *t, const sala_pass *p, const int32_t *tokens)
{
    const sala_config *c = t->net->config;
    const sala_backend_ops *ops = t->be->ops;
    ops->get_rows(t->be, t->tape.layers[0].h_in, t->net->embed, tokens, p->n_rows, (sala_act)c->embed_scale);
    sala_tape_forward(&t->tape, p, t->tape.h_last);
    ops->rms_norm(t->be, t->tape.x_final, t->tape.h_last, t->net->out_norm, p->n_rows, c->n_embd, (sala_act)c->rms_eps);
}

static sala_head_args head_args(const sala_trainer *t, const sala_batch *b, double loss_scale)
{
    const sala_config *c = t->net->config;
    return (sala_head_args){.head = t->net->head,
                            .x = t->tape.x_final,
                            .n_rows = b->n_rows,
                            .n_embd = c->n_embd,
                            .n_vocab = c->n_vocab,
                            .labels = b->labels,
                            .inv_divisor = (sala_act)(1 / c->logit_divisor),
                            .loss_scale = (sala_act)loss_scale,
                            .zloss = (sala_act)t->run->zloss};
}

/* The gradients of a layer are complete: its bucket may leave. Slots of the tape and buckets run in opposite order. */
static void layer_done(void *user, int slot)
{
    sala_trainer *t = user;
    const int bucket = t->plan->n_layers - 1 - slot;
    const uint64_t *b = t->params->bucket_begin;
    t->dist->ops->reduce_begin(t->dist, t->grads, b[bucket], b[bucket + 1]);
}

/* Sums over the rows of a step's passes. */
typedef struct step_sums {
    double loss, mtp, zloss, correct, tokens;
} step_sums;

/* loss_scale, mtp_scale: one over the targets of the whole step, of the model's own head and of the block's. */
static void train_pass(sala_trainer *t, const sala_batch *batch, double loss_scale, double mtp_scale, bool last,
                       step_sums *sums, sala_step_result *out)
{
    const sala_config *c = t->net->config;
    const sala_tape *tape = &t->tape;
    void (*done)(void *user, int slot) = last && t->dist ? layer_done : NULL;
    const double begin = sala_os_seconds();
    const sala_pass pass = make_pass(t, batch);
    forward(t, &pass, batch->tokens);
    sala_head_args head = head_args(t, batch, loss_scale);
    head.dx = tape->d_final;
    const double middle = sala_os_seconds();
    t->grad->head_loss(t->be, &head);
    sums->loss += head.loss;
    sums->zloss += head.zloss_sum;
    sums->correct += head.correct;
    sums->tokens += (double)batch->n_rows;
    if (t->mtp.net) {
        sala_head_args more = head_args(t, batch, mtp_scale);
        more.dx = tape->d_final;
        sala_mtp_run(&t->mtp, tape, &pass, batch, &more, done, t);
        sums->mtp += more.loss;
    }
    t->grad->rms_norm_back(t->be, tape->grads.d_h, sala_net_grad_of(t->net, t->net->out_norm), tape->d_final,
                           tape->h_last, t->net->out_norm, pass.n_rows, c->n_embd, (sala_act)c->rms_eps, false);
    sala_tape_backward(tape, &pass, done, t);
    t->grad->get_rows_back(t->be, t->net->embed, batch->tokens, tape->grads.d_h, pass.n_rows, (sala_act)c->embed_scale);
    out->seconds_forward += middle - begin;
    out->seconds_backward += sala_os_seconds() - middle;
}

/* ---- the update ---- */

typedef struct update {
    sala_trainer *t;
    double lr, c1, c2, g_scale;
} update;

static void norm_task(void *user, int task, int worker)
{
    (void)worker;
    sala_trainer *t = ((update *)user)->t;
    const piece *p = &t->pieces[task];
    t->sums[task] = t->k.sum_squares(t->grads + p->at, p->count);
}

static void update_task(void *user, int task, int worker)
{
    (void)worker;
    const update *u = user;
    sala_trainer *t = u->t;
    const piece *p = &t->pieces[task];
    const sala_param *q = &t->params->items[p->param];
    const sala_run_config *run = t->run;
    t->k.adamw(t->values + p->at, t->grads + p->at, t->moments[0] + p->moment, t->moments[1] + p->moment, p->count,
               (float)(u->lr * q->lr_factor), (float)run->beta1, (float)run->beta2, (float)run->eps, (float)q->decay,
               (float)u->c1, (float)u->c2, (float)u->g_scale, true);
}

static void clear_task(void *user, int task, int worker)
{
    (void)worker;
    const update *u = user;
    const uint64_t n = u->t->params->n_elements, at = (uint64_t)task * PIECE;
    memset(u->t->grads + at, 0, (n - at < PIECE ? n - at : PIECE) * sizeof(float));
}

static void clear_grads(sala_trainer *t)
{
    update u = {.t = t};
    sala_pool_run(t->pool, (int)((t->params->n_elements + PIECE - 1) / PIECE), clear_task, &u);
}

static sala_status reduce_rest(sala_trainer *t, sala_error *err)
{
    const uint64_t *b = t->params->bucket_begin;
    if (!t->dist)
        return SALA_OK;
    for (int i = t->plan->n_layers; i < t->params->n_buckets; i++)
        t->dist->ops->reduce_begin(t->dist, t->grads, b[i], b[i + 1]);
    return t->dist->ops->reduce_end(t->dist, err);
}

static sala_status sum_ranks(sala_trainer *t, double *x, int n, sala_error *err)
{
    return t->n_ranks > 1 ? t->dist->ops->sum(t->dist, x, n, err) : SALA_OK;
}

static sala_status grad_norm(sala_trainer *t, double *norm, sala_error *err)
{
    update u = {.t = t};
    sala_pool_run(t->pool, t->n_pieces, norm_task, &u);
    double sum = 0;
    for (int i = 0; i < t->n_pieces; i++)
        sum += t->sums[i];
    const sala_status st = sum_ranks(t, &sum, 1, err);
    *norm = sqrt(sum);
    return st;
}

static sala_status apply(sala_trainer *t, double lr, double norm, sala_error *err)
{
    const sala_run_config *run = t->run;
    const double steps = (double)++t->so_far.updates;
    /* Of the betas as the kernel has them: 1 - 0.999f is 1e-5 of itself away from 0.001, and what the correction
     * divides by must be what the moments were multiplied with. */
    update u = {.t = t,
                .lr = lr,
                .c1 = 1 / (1 - pow((double)(float)run->beta1, steps)),
                .c2 = 1 / (1 - pow((double)(float)run->beta2, steps)),
                .g_scale = run->clip > 0 && norm > run->clip ? run->clip / norm : 1};
    sala_pool_run(t->pool, t->n_pieces, update_task, &u);
    sala_status st = SALA_OK;
    if (t->n_ranks > 1) {
        clear_grads(t); /* what others have updated is left over */
        const uint64_t *b = t->params->bucket_begin;
        for (int i = 0; i < t->params->n_buckets && st == SALA_OK; i++)
            st = t->dist->ops->gather(t->dist, t->values, b[i], b[i + 1], err);
    }
    sala_trainer_changed(t);
    return st;
}

/* The first tensor of this rank's share whose gradient is not finite. */
static const char *first_bad(const sala_trainer *t)
{
    for (int i = 0; i < t->n_pieces; i++)
        if (!isfinite(t->sums[i]))
            return t->params->items[t->pieces[i].param].name;
    return NULL;
}

static sala_status not_finite(const sala_trainer *t, const sala_step_result *r, sala_error *err)
{
    const char *name = first_bad(t);
    return sala_fail(err, SALA_E_NUMERIC,
                     "step %" PRId64 ": loss %g, norm of the gradient %g, the %" PRId64
                     "th step in a row that is not finite%s%s%s",
                     r->step, r->loss, r->grad_norm, t->so_far.guard.bad,
                     name ? "; the first such gradient is that of \"" : "", name ? name : "", name ? "\"" : "");
}

static sala_status finish_step(sala_trainer *t, double lr, sala_step_result *out, sala_error *err)
{
    const sala_guard guard = {t->run->spike_z, t->run->spike_window};
    sala_status st = grad_norm(t, &out->grad_norm, err);
    if (st != SALA_OK)
        return st;
    out->verdict = sala_guard_judge(&guard, &t->so_far.guard, out->loss, out->grad_norm);
    out->spikes = t->so_far.guard.spikes;
    out->skipped = out->verdict != SALA_VERDICT_GOOD;
    if (!out->skipped)
        return apply(t, lr, out->grad_norm, err);
    if (t->so_far.guard.bad >= SALA_GUARD_MOST_BAD)
        st = not_finite(t, out, err);
    clear_grads(t);
    return st;
}

sala_status sala_trainer_step(sala_trainer *t, const sala_batch *batches, int n_batches, int64_t supervised, double lr,
                              sala_step_result *out, sala_error *err)
{
    for (int i = 0; i < n_batches; i++) {
        const sala_status st = check_batch(t, &batches[i], err);
        if (st != SALA_OK)
            return st;
    }
    *out = (sala_step_result){.step = ++t->so_far.step, .supervised = supervised, .lr = lr};
    /* Nothing to learn from: every rank sees the same number, and passes over the step alike. */
    if (supervised <= 0) {
        out->skipped = true;
        out->verdict = SALA_VERDICT_EMPTY;
        out->spikes = t->so_far.guard.spikes;
        return SALA_OK;
    }
    step_sums sums = {0};
    double n_mtp = 0; /* targets of the block: the step's own number, as that of the head's is */
    for (int i = 0; i < n_batches && t->mtp.net; i++)
        n_mtp += (double)sala_mtp_targets(&batches[i]);
    sala_status st = t->mtp.net ? sum_ranks(t, &n_mtp, 1, err) : SALA_OK;
    if (st != SALA_OK)
        return st;
    for (int i = 0; i < n_batches; i++)
        train_pass(t, &batches[i], 1 / (double)supervised, n_mtp > 0 ? 1 / n_mtp : 0, i + 1 == n_batches, &sums, out);
    if (n_batches == 0 && t->dist) /* a rank without a share still has its turn in every bucket */
        for (int l = t->plan->n_layers - 1; l >= 0; l--)
            layer_done(t, l);
    double begin = sala_os_seconds();
    st = reduce_rest(t, err);
    double all[] = {sums.loss, sums.mtp, sums.zloss, sums.correct, sums.tokens};
    if (st == SALA_OK)
        st = sum_ranks(t, all, (int)SALA_ARRAY_LEN(all), err);
    if (st != SALA_OK)
        return st;
    out->seconds_wait = sala_os_seconds() - begin;
    out->loss = all[0] / (double)supervised;
    out->mtp_loss = n_mtp > 0 ? all[1] / n_mtp : 0;
    out->zloss = all[2] / (double)supervised;
    out->accuracy = all[3] / (double)supervised;
    out->tokens = (int64_t)all[4];
    begin = sala_os_seconds();
    st = finish_step(t, lr, out, err);
    out->seconds_update = sala_os_seconds() - begin;
    return st;
}

/* ---- without an update ---- */

sala_status sala_trainer_evaluate(sala_trainer *t, const sala_batch *batch, double *loss, int64_t *n, float *row_losses,
                                  sala_error *err)
{
    const sala_status st = check_batch(t, batch, err);
    if (st != SALA_OK)
        return st;
    const sala_pass pass = make_pass(t, batch);
    forward(t, &pass, batch->tokens);
    sala_head_args head = head_args(t, batch, 1);
    head.row_losses = row_losses;
    t->grad->head_loss(t->be, &head);
    *loss = head.loss;
    *n = head.n_supervised;
    return SALA_OK;
}

sala_status sala_trainer_logits(sala_trainer *t, const int32_t *ids, int64_t n, float *logits, sala_error *err)
{
    const sala_config *c = t->net->config;
    if (n < 1 || n > t->plan->rows)
        return sala_fail(err, SALA_E_INVALID, "a prompt has %" PRId64 " tokens; the plan is for 1 to %" PRId64, n,
                         t->plan->rows);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->n_vocab)
            return sala_fail(err, SALA_E_INVALID, "token %" PRId64 " of a prompt is %d; the model has 0 to %d", i,
                             ids[i], c->n_vocab - 1);
    int32_t bounds[2] = {0, (int32_t)n}, position = 0;
    const sala_batch batch = {.doc_start = bounds, .doc_position = &position, .n_docs = 1, .n_rows = n};
    const sala_pass pass = make_pass(t, &batch);
    forward(t, &pass, ids);
    sala_act *x = t->tape.x_final + (n - 1) * c->n_embd;
    if (c->logit_divisor != 1)
        t->be->ops->scale(t->be, x, (sala_act)(1 / c->logit_divisor), 1, c->n_embd);
    const sala_linear_out head = {t->net->head, logits, c->n_vocab, NULL};
    t->be->ops->linear_group(t->be, &head, 1, x, 1, c->n_embd);
    return SALA_OK;
}
