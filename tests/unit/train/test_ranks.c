/* Steps of several processes, each a thread here, over a table of collectives that works in memory and leaves in the
 * gradients of others what a real one may leave there: nothing of use. Two ranks are one process with twice the batch,
 * up to the order of sums; their values are the same bits, their moments a part each. */
#include "unit/train/tiny_run.h"

#include <math.h>
#include <pthread.h>

enum { N_VOCAB = 96, SEQ = 96, MOST_RANKS = 3, STEPS = 3 };

static const tiny_model model = {.n_vocab = N_VOCAB,
                                 .n_ctx = 512,
                                 .scale = 1,
                                 .architecture = "minicpm-sala",
                                 .n_layers = 3,
                                 .n_embd = 64,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 16,
                                 .n_ff = 96,
                                 .mixers = "sll",
                                 .sparse = {4, 2, 8, 1, 4, 16, 60, false},
                                 .linear_heads = 4,
                                 .linear_kv_heads = 4,
                                 .linear_dim = 16,
                                 .linear_qk_norm = true,
                                 .mix_norm = true,
                                 .gates = true,
                                 .no_attn_rope = true};

/* ---- collectives in memory ---- */

typedef struct meeting {
    pthread_barrier_t barrier;
    int size;
    float *arrays[MOST_RANKS];
    double *sums[MOST_RANKS];
} meeting;

typedef struct fake {
    sala_dist base; /* first */
    meeting *at;
    float *grads;
    uint64_t begin[64], end[64];
    int n_buckets;
} fake;

static void fake_reduce_begin(sala_dist *d, float *grads, uint64_t begin, uint64_t end)
{
    fake *f = (fake *)d;
    f->grads = grads;
    f->begin[f->n_buckets] = begin;
    f->end[f->n_buckets++] = end;
}

static sala_status fake_reduce_end(sala_dist *d, sala_error *err)
{
    (void)err;
    fake *f = (fake *)d;
    meeting *m = f->at;
    m->arrays[d->rank] = f->grads;
    pthread_barrier_wait(&m->barrier);
    for (int b = 0; b < f->n_buckets; b++) {
        uint64_t from, to;
        sala_dist_part(d, d->rank, f->begin[b], f->end[b], &from, &to);
        for (uint64_t i = from; i < to; i++) {
            float sum = 0;
            for (int r = 0; r < m->size; r++)
                sum += m->arrays[r][i];
            m->arrays[d->rank][i] = sum;
        }
    }
    pthread_barrier_wait(&m->barrier);
    for (int b = 0; b < f->n_buckets; b++) {
        uint64_t from, to;
        sala_dist_part(d, d->rank, f->begin[b], f->end[b], &from, &to);
        for (uint64_t i = f->begin[b]; i < f->end[b]; i++)
            if (i < from || i >= to)
                f->grads[i] = NAN;
    }
    return SALA_OK;
}

static sala_status fake_gather(sala_dist *d, float *values, uint64_t begin, uint64_t end, sala_error *err)
{
    (void)err;
    meeting *m = ((fake *)d)->at;
    m->arrays[d->rank] = values;
    pthread_barrier_wait(&m->barrier);
    for (int r = 0; r < m->size; r++) {
        uint64_t from, to;
        sala_dist_part(d, r, begin, end, &from, &to);
        if (r != d->rank && to > from)
            memcpy(values + from, m->arrays[r] + from, (to - from) * sizeof *values);
    }
    pthread_barrier_wait(&m->barrier);
    return SALA_OK;
}

static sala_status fake_sum(sala_dist *d, double *x, int n, sala_error *err)
{
    (void)err;
    meeting *m = ((fake *)d)->at;
    double sum[16];
    assert_in_range(n, 0, 16);
    m->sums[d->rank] = x;
    pthread_barrier_wait(&m->barrier);
    for (int i = 0; i < n; i++) {
        sum[i] = 0;
        for (int r = 0; r < m->size; r++)
            sum[i] += m->sums[r][i];
    }
    pthread_barrier_wait(&m->barrier);
    memcpy(x, sum, (size_t)n * sizeof *x);
    return SALA_OK;
}

static const sala_dist_ops fake_ops = {.abi = SALA_DIST_ABI,
                                       .reduce_begin = fake_reduce_begin,
                                       .reduce_end = fake_reduce_end,
                                       .gather = fake_gather,
                                       .sum = fake_sum};

/* ---- a run of several ranks ---- */

typedef struct result {
    double loss[STEPS], norm[STEPS];
    float *values, *moments[2]; /* whole arenas */
    size_t n;
} result;

typedef struct rank_job {
    const tiny_run *base;
    meeting *at;
    int rank, n_sequences, mtp;
    const tiny_batch *batches; /* [STEPS][n_sequences] */
    result *out;               /* shared: each rank puts its parts of the moments there, the first one the rest */
    float *values;             /* of this rank, at the end */
} rank_job;

static void *run_rank(void *arg)
{
    rank_job *job = arg;
    fake f = {.base = {.ops = &fake_ops, .rank = job->rank, .size = job->at->size}, .at = job->at};
    sala_run_config run = job->base->run;
    sala_run_stage stage = job->base->stage;
    sala_params params;
    sala_train_plan plan;
    sala_pool *pool;
    sala_trainer *trainer;
    sala_error err;
    run.stages = &stage;
    run.mtp_depth = job->mtp;
    if (sala_params_plan(&params, &run, &err) != SALA_OK ||
        sala_train_plan_make(&plan, &run, &params, 0, 2, job->at->size, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(sala_pool_open(&pool, 2), 0);
    if (sala_trainer_open(&trainer, &run, &params, &plan, pool, &f.base, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_params_init(&params, sala_trainer_values(trainer), 3);
    if (sala_params_load(&params, sala_trainer_values(trainer), job->base->path, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_trainer_changed(trainer);

    for (int s = 0; s < STEPS; s++) {
        sala_batch mine[8];
        int n = 0;
        int64_t supervised = 0;
        for (int i = 0; i < job->n_sequences; i++) {
            const sala_batch *b = &job->batches[s * job->n_sequences + i].batch;
            supervised += b->n_supervised;
            if (i % job->at->size == job->rank)
                mine[n++] = *b;
        }
        sala_step_result r;
        f.n_buckets = 0;
        if (sala_trainer_step(trainer, mine, n, supervised, 0.003, &r, &err) != SALA_OK)
            fail_msg("%s", err.message);
        assert_false(r.skipped);
        /* Every bucket once, in the order of the arenas, and nothing left out. */
        assert_int_equal(f.n_buckets, params.n_buckets);
        for (int b = 0; b < f.n_buckets; b++) {
            assert_int_equal(f.begin[b], params.bucket_begin[b]);
            assert_int_equal(f.end[b], params.bucket_begin[b + 1]);
        }
        for (uint64_t i = 0; i < params.n_elements; i++) /* ready for the next step */
            assert_true(sala_trainer_grads(trainer)[i] == 0);
        if (job->rank == 0) {
            job->out->loss[s] = r.loss;
            job->out->norm[s] = r.grad_norm;
        }
    }
    job->values = malloc(params.n_elements * sizeof(float));
    assert_non_null(job->values);
    memcpy(job->values, sala_trainer_values(trainer), params.n_elements * sizeof(float));
    uint64_t at = 0;
    for (int b = 0; b < params.n_buckets; b++) {
        uint64_t from, to;
        sala_dist_part(&f.base, job->rank, params.bucket_begin[b], params.bucket_begin[b + 1], &from, &to);
        for (int which = 0; which < 2; which++)
            memcpy(job->out->moments[which] + from, sala_trainer_moment(trainer, which) + at,
                   (to - from) * sizeof(float));
        at += to - from;
    }
    sala_trainer_close(trainer);
    sala_pool_close(pool);
    sala_train_plan_free(&plan);
    sala_params_free(&params);
    return NULL;
}

static result run_ranks(int n_ranks, int n_sequences, int mtp)
{
    static tiny_batch batches[STEPS * 8];
    meeting at = {.size = n_ranks};
    rank_job jobs[MOST_RANKS];
    pthread_t threads[MOST_RANKS];
    tiny_run base;
    result out = {0};
    sala_params params;
    sala_error err;
    assert_in_range(n_sequences, 1, 8);
    tiny_run_open(&base, &model, SEQ, n_sequences);
    base.run.clip = 1;
    base.run.zloss = 1e-3;
    base.run.weight_decay = 0.1;
    base.run.mtp_depth = mtp;
    base.run.rows_per_pass = SEQ;
    for (int i = 0; i < STEPS * n_sequences; i++)
        tiny_batch_make(&batches[i], SEQ, N_VOCAB, 100 + (uint64_t)i);
    assert_int_equal(sala_params_plan(&params, &base.run, &err), SALA_OK);
    out.n = params.n_elements;
    sala_params_free(&params);
    for (int which = 0; which < 2; which++)
        assert_non_null(out.moments[which] = calloc(out.n, sizeof(float)));
    assert_int_equal(pthread_barrier_init(&at.barrier, NULL, (unsigned)n_ranks), 0);
    for (int r = 0; r < n_ranks; r++)
        jobs[r] = (rank_job){&base, &at, r, n_sequences, mtp, batches, &out, NULL};
    for (int r = 1; r < n_ranks; r++)
        assert_int_equal(pthread_create(&threads[r], NULL, run_rank, &jobs[r]), 0);
    run_rank(&jobs[0]);
    for (int r = 1; r < n_ranks; r++)
        pthread_join(threads[r], NULL);
    for (int r = 1; r < n_ranks; r++) {
        assert_memory_equal(jobs[0].values, jobs[r].values, out.n * sizeof(float));
        free(jobs[r].values);
    }
    out.values = jobs[0].values;
    pthread_barrier_destroy(&at.barrier);
    tiny_run_close(&base);
    return out;
}

static void result_free(result *r)
{
    free(r->values);
    free(r->moments[0]);
    free(r->moments[1]);
}

static double far(const float *a, const float *b, size_t n)
{
    double off = 0, size = 1e-30;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

static void compare(int n_ranks, int n_sequences, int mtp)
{
    result one = run_ranks(1, n_sequences, mtp), many = run_ranks(n_ranks, n_sequences, mtp);
    for (int s = 0; s < STEPS; s++)
        if (fabs(one.loss[s] - many.loss[s]) > 1e-5 * one.loss[s] ||
            fabs(one.norm[s] - many.norm[s]) > 1e-4 * one.norm[s])
            fail_msg("%d ranks, %d sequences, step %d: loss %.9g, norm %.9g; alone %.9g, %.9g", n_ranks, n_sequences, s,
                     many.loss[s], many.norm[s], one.loss[s], one.norm[s]);
    const double values = far(many.values, one.values, one.n), first = far(many.moments[0], one.moments[0], one.n),
                 second = far(many.moments[1], one.moments[1], one.n);
    if (!(values <= 1e-4) || !(first <= 1e-3) || !(second <= 1e-3))
        fail_msg("%d ranks, %d sequences: values are %g off, moments %g and %g", n_ranks, n_sequences, values, first,
                 second);
    result_free(&one);
    result_free(&many);
}

static void ranks_are_one_process_with_all_sequences(void **state)
{
    (void)state;
    compare(2, 4, 0);
    compare(2, 4, 1);
    compare(3, 4, 0); /* shares differ */
}

static void a_rank_may_have_nothing_to_do(void **state)
{
    (void)state;
    compare(2, 1, 1);
    compare(3, 2, 0);
}

static void the_same_run_gives_the_same_bits(void **state)
{
    (void)state;
    result a = run_ranks(2, 4, 1), b = run_ranks(2, 4, 1);
    assert_memory_equal(a.loss, b.loss, sizeof a.loss);
    assert_memory_equal(a.values, b.values, a.n * sizeof(float));
    assert_memory_equal(a.moments[1], b.moments[1], a.n * sizeof(float));
    result_free(&a);
    result_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_one_process_with_all_sequences),
        cmocka_unit_test(a_rank_may_have_nothing_to_do),
        cmocka_unit_test(the_same_run_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
