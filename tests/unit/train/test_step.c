/* Whole steps on small random models of every family. Logits are those of inference; gradients are the slopes of the
 * loss; and the same numbers come out whatever is made again, however many threads there are and however the batch is
 * cut into passes. A step with rate 0 and beta1 0 leaves its gradient in the first moment: that is how it is seen. */
#include "unit/train/tiny_run.h"

#include "model/net.h"

#include <math.h>

enum { N_VOCAB = 96 };
#define TINY .n_vocab = N_VOCAB, .n_ctx = 512, .scale = 1

static const tiny_model models[] = {
    {TINY, .architecture = "llama", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .tied = true},
    {TINY, .architecture = "llama", .n_layers = 2, .n_embd = 96, .n_heads = 3, .n_kv_heads = 3, .head_dim = 32,
     .n_ff = 160},
    {TINY, .architecture = "minicpm", .n_layers = 3, .n_embd = 64, .n_heads = 8, .n_kv_heads = 1, .head_dim = 8,
     .n_ff = 128, .tied = true, .longrope = true},
    {TINY, .architecture = "qwen2", .n_layers = 2, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 10,
     .n_ff = 72, .biases = true},
    {TINY, .architecture = "qwen3", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 4, .head_dim = 24,
     .n_ff = 64, .tied = true, .qk_norm = true},
    {TINY, .architecture = "minicpm-sala", .n_layers = 4, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .mixers = "slls", .sparse = {4, 2, 8, 1, 4, 16, 60, false}, .linear_heads = 4, .linear_kv_heads = 4,
     .linear_dim = 16, .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true},
    {TINY, .architecture = "minicpm-sala", .n_layers = 3, .n_embd = 48, .n_heads = 3, .n_kv_heads = 1, .head_dim = 24,
     .n_ff = 64, .tied = true, .mixers = "lsl", .sparse = {16, 8, 64, 1, 3, 64, 0, false}, .linear_heads = 6,
     .linear_kv_heads = 3, .linear_dim = 10, .mix_norm = true, .gates = true, .no_attn_rope = true},
    {TINY, .architecture = "minicpm", .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .tied = true, .longrope = true, .sparse = {8, 4, 16, 0, 5, 32, 100, true}},
    {TINY, .architecture = "hypenet", .n_layers = 3, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 64, .qk_norm = true, .mixers = "ldl", .linear_heads = 7, .linear_kv_heads = 7, .linear_dim = 8,
     .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true, .attn_scale_base = 300},
};

static void step(tiny_run *r, const sala_batch *batches, int n, double lr, sala_step_result *out)
{
    int64_t supervised = 0;
    for (int i = 0; i < n; i++)
        supervised += batches[i].n_supervised;
    sala_error err;
    if (sala_trainer_step(r->trainer, batches, n, supervised, lr, out, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(out->supervised, supervised);
}

/* ---- logits ---- */

/* How often rows of inference leave blocks out. */
typedef struct leaving {
    int n_kv_heads;
    int64_t count;
} leaving;

static void count_left_out(void *user, int layer, const sala_selection *selection, const sala_attn_seq *seqs,
                           int n_seqs)
{
    leaving *l = user;
    (void)layer;
    for (int s = 0; s < n_seqs; s++)
        for (int64_t i = 0; i < seqs[s].n_rows; i++) { /* the first key head's */
            const int64_t row = (seqs[s].first_row + i) * l->n_kv_heads, width = 1 + (int64_t)selection->most;
            const int64_t chosen = selection->list[row * width];
            l->count += chosen >= 0 && chosen < (seqs[s].position + i) / selection->block_size + 1;
        }
}

static void infer(const tiny_run *r, const char *kernels, const int32_t *ids, int n, float *logits, leaving *left)
{
    sala_error err;
    sala_backend *be = NULL;
    sala_net *net = NULL;
    sala_checkpoint files;
    sala_timeline line = {0}, *lines[] = {&line};
    sala_net_row rows[256];
    sala_state_layout layout;
    if (sala_checkpoint_open(&files, r->path, true, &err) != SALA_OK ||
        sala_backend_cpu_open(&be, kernels, 2, false, &err) != SALA_OK ||
        sala_net_open(&net, &files, be, NULL, NULL, &err) != SALA_OK ||
        sala_net_state_layout(&layout, net->config, SALA_F32, &err) != SALA_OK)
        fail_msg("%s", err.message);
    const sala_config *c = net->config;
    sala_state_init(&line.state, &layout);
    line.long_rope = c->n_ctx_train > (c->rope.original_max > 0 ? c->rope.original_max : c->n_ctx_train);
    line.sparse_from = c->sparse.dense_len <= 0 || n >= c->sparse.dense_len ? 0 : INT64_MAX;
    left->n_kv_heads = c->n_kv_heads;
    net->observer = (sala_observer){.selected = count_left_out, .user = left};
    for (int i = 0; i < n; i++)
        rows[i] = (sala_net_row){ids[i], 0, i == n - 1};
    if (sala_net_forward(net, lines, 1, rows, n, logits, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_state_free(&line.state);
    sala_net_close(net);
    be->ops->close(be);
}

/* Weights are F32, so that inference rounds nothing that training does not. */
static int64_t compare_logits(const tiny_model *m)
{
    static const char *const families[] = {"ref", "avx2", "avx512", "neon"};
    static const int lengths[] = {1, 64, 256};
    int32_t ids[256];
    leaving left = {0};
    sala_rng rng;
    sala_rng_seed(&rng, 9);
    for (int i = 0; i < 256; i++)
        ids[i] = (int32_t)(sala_rng_next(&rng) % N_VOCAB);
    tiny_run r;
    sala_error err;
    tiny_run_open(&r, m, 256, 1);
    tiny_run_start(&r, 2, "none");
    for (size_t l = 0; l < SALA_ARRAY_LEN(lengths); l++) {
        float got[N_VOCAB], want[N_VOCAB];
        if (sala_trainer_logits(r.trainer, ids, lengths[l], got, &err) != SALA_OK)
            fail_msg("%s", err.message);
        for (size_t k = 0; k < SALA_ARRAY_LEN(families); k++) {
            sala_train_kernels kernels;
            if (!sala_train_kernels_get(&kernels, families[k], sala_os_cpu_features()))
                continue;
            infer(&r, families[k], ids, lengths[l], want, &left);
            double largest = 0;
            for (int i = 0; i < N_VOCAB; i++)
                largest = fmax(largest, fabs((double)want[i]));
            for (int i = 0; i < N_VOCAB; i++)
                if (!(fabs((double)got[i] - (double)want[i]) <= 2e-5 * largest))
                    fail_msg("%s, %d tokens: logit %d is %.9g, inference (%s) has %.9g", m->architecture, lengths[l], i,
                             (double)got[i], families[k], (double)want[i]);
        }
    }
    tiny_run_stop(&r);
    tiny_run_close(&r);
    return left.count;
}

static void logits_are_those_of_inference(void **state)
{
    (void)state;
    int64_t left_out = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        left_out += compare_logits(&models[i]);
    assert_true(left_out > 0); /* sparse layers that leave blocks out are among them */
}

/* ---- gradients ---- */

static double loss_of(tiny_run *r, const sala_batch *b)
{
    sala_step_result s;
    step(r, b, 1, 0, &s);
    return s.loss + r->run.mtp_weight * s.mtp_loss + s.zloss;
}

/* The slope of the loss along a random direction in one tensor after another. */
static void compare_slopes(const tiny_model *m, int mtp)
{
    tiny_run r;
    tiny_batch b;
    tiny_run_open(&r, m, 256, 1);
    r.run.mtp_depth = mtp;
    r.run.zloss = 1e-2;
    r.run.beta1 = 0;
    tiny_run_start(&r, 2, "none");
    tiny_batch_make(&b, 256, N_VOCAB, 11);
    loss_of(&r, &b.batch);
    const size_t n = r.params.n_elements;
    float *grad = malloc(n * sizeof *grad), *values = sala_trainer_values(r.trainer);
    assert_non_null(grad);
    memcpy(grad, sala_trainer_moment(r.trainer, 0), n * sizeof *grad);
    sala_rng rng;
    sala_rng_seed(&rng, 13);
    for (int i = 0; i < r.params.count; i++) {
        const sala_param *p = &r.params.items[i];
        float *x = values + p->at, *kept = malloc(p->count * sizeof *kept), *way = malloc(p->count * sizeof *way);
        assert_true(kept && way);
        memcpy(kept, x, p->count * sizeof *kept);
        double slope = 0, length = 0, steep = 0;
        for (uint64_t j = 0; j < p->count; j++) {
            const double g = (double)grad[p->at + j];
            steep += g * g;
        }
        /* Half along the gradient, so that the slope is no small difference, half anywhere. */
        steep = sqrt(steep) + 1e-30;
        for (uint64_t j = 0; j < p->count; j++) {
            way[j] = (float)((double)grad[p->at + j] / steep + sala_rng_normal(&rng) / sqrt((double)p->count));
            slope += (double)way[j] * (double)grad[p->at + j];
            length += (double)way[j] * (double)way[j];
        }
        const double size = 4e-3 / fmax(sqrt(length), fabs(slope));
        double loss[2];
        for (int side = 0; side < 2; side++) {
            for (uint64_t j = 0; j < p->count; j++)
                x[j] = (float)((double)kept[j] + (side ? 1 : -1) * size * (double)way[j]);
            sala_trainer_changed(r.trainer);
            loss[side] = loss_of(&r, &b.batch);
        }
        memcpy(x, kept, p->count * sizeof *kept);
        sala_trainer_changed(r.trainer);
        const double measured = (loss[1] - loss[0]) / (2 * size);
        if (fabs(measured - slope) > 1e-2 * fabs(slope) + 3e-4)
            fail_msg("%s: slope along \"%s\" is %.9g, the gradient says %.9g", m->architecture, p->name, measured,
                     slope);
        free(kept);
        free(way);
    }
    free(grad);
    tiny_run_stop(&r);
    tiny_run_close(&r);
}

static void gradients_are_slopes(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        compare_slopes(&models[i], 0);
    compare_slopes(&models[0], 1);
    compare_slopes(&models[5], 1);
}

/* ---- the same numbers in other ways ---- */

static float *train(const tiny_model *m, int n_threads, const char *recompute, int n_passes, int mtp, bool bf16,
                    size_t *n, double *loss)
{
    tiny_run r;
    tiny_batch b;
    tiny_run_open(&r, m, 128, 4);
    r.run.mtp_depth = mtp;
    r.run.clip = 1;
    r.run.precision = bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32;
    tiny_run_start(&r, n_threads, recompute);
    /* Four sequences of 128 rows, in one pass or several. */
    sala_batch parts[4];
    int32_t starts[4][65];
    for (int s = 0; s < 3; s++) {
        tiny_batch_make(&b, 512, N_VOCAB, 21 + (uint64_t)s);
        int n_starts[4] = {0};
        int32_t cut[65], n_cut = 0;
        for (int d = 0; d <= b.batch.n_docs; d++) { /* documents end with their sequence */
            const int32_t at = b.start[d], next = d < b.batch.n_docs ? b.start[d + 1] : 513;
            cut[n_cut++] = at;
            for (int32_t edge = (at / 128 + 1) * 128; edge < next && edge < 512; edge += 128)
                cut[n_cut++] = edge;
        }
        for (int i = 0; i < 4; i++) {
            for (int d = 0; d < n_cut; d++)
                if (cut[d] >= i * 128 && cut[d] <= (i + 1) * 128)
                    starts[i][n_starts[i]++] = cut[d] - i * 128;
            parts[i] = (sala_batch){.tokens = b.tokens + i * 128,
                                    .labels = b.labels + i * 128,
                                    .doc_start = starts[i],
                                    .doc_position = b.position,
                                    .n_docs = n_starts[i] - 1,
                                    .n_rows = 128};
            for (int j = 0; j < 128; j++)
                parts[i].n_supervised += parts[i].labels[j] >= 0;
        }
        memcpy(b.start, cut, (size_t)n_cut * sizeof *cut);
        b.batch.n_docs = n_cut - 1;
        sala_step_result out;
        step(&r, n_passes == 1 ? &b.batch : parts, n_passes, 0.01, &out);
        assert_false(out.skipped);
        *loss = out.loss;
    }
    *n = r.params.n_elements;
    float *values = malloc(*n * sizeof *values);
    assert_non_null(values);
    memcpy(values, sala_trainer_values(r.trainer), *n * sizeof *values);
    tiny_run_stop(&r);
    tiny_run_close(&r);
    return values;
}

static void recomputation_and_threads_keep_every_bit(void **state)
{
    (void)state;
    static const struct {
        int threads;
        const char *recompute;
    } ways[] = {{1, "none"},  {2, "feed"}, {2, "none"}, {7, "mixer"},
                {3, "mixer"}, {4, "none"}, {4, "layer"}}; /* in bf16 every second */
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            size_t n;
            double loss, first;
            float *want = train(&models[i], ways[0].threads, ways[0].recompute, 1, bf16, bf16, &n, &first);
            for (size_t w = 1; w < SALA_ARRAY_LEN(ways); w += 1 + (size_t)bf16) {
                float *got = train(&models[i], ways[w].threads, ways[w].recompute, 1, bf16, bf16, &n, &loss);
                if (loss != first || memcmp(got, want, n * sizeof *got) != 0)
                    fail_msg("%s (%zu), %s: %d threads, %s: other bits", models[i].architecture, i,
                             bf16 ? "bf16" : "f32", ways[w].threads, ways[w].recompute);
                free(got);
            }
            free(want);
        }
    }
}

/* From 17 threads on attention is cut for their number: other bits, but no other sums. */
static void more_threads_than_cores(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
        size_t n;
        double few, many, far = 0;
        float *a = train(&models[i], 2, "none", 1, 0, false, &n, &few);
        float *b = train(&models[i], 23, "none", 1, 0, false, &n, &many);
        for (size_t j = 0; j < n; j++)
            far = fmax(far, fabs((double)a[j] - (double)b[j]));
        if (fabs(few - many) > 1e-4 * few || far > 0.03)
            fail_msg("%s (%zu): losses %.9g and %.9g, weights differ by %g", models[i].architecture, i, few, many, far);
        free(a);
        free(b);
    }
}

static void passes_add_up(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
        size_t n;
        double one_loss, four_loss, far = 0;
        float *one = train(&models[i], 2, "none", 1, 1, false, &n, &one_loss);
        float *four = train(&models[i], 2, "none", 4, 1, false, &n, &four_loss);
        for (size_t j = 0; j < n; j++)
            far = fmax(far, fabs((double)one[j] - (double)four[j]));
        /* AdamW's first steps are as long for gradients that are nothing but rounding. */
        if (fabs(one_loss - four_loss) > 1e-4 * one_loss || far > 0.03)
            fail_msg("%s (%zu): losses %.9g and %.9g, weights differ by %g", models[i].architecture, i, one_loss,
                     four_loss, far);
        free(one);
        free(four);
    }
}

static void bf16_stays_close(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
        size_t n;
        double exact, rounded;
        free(train(&models[i], 2, "none", 1, 0, false, &n, &exact));
        free(train(&models[i], 2, "none", 1, 0, true, &n, &rounded));
        if (fabs(exact - rounded) > 0.03 * exact)
            fail_msg("%s (%zu): loss %.9g, in bf16 %.9g", models[i].architecture, i, exact, rounded);
    }
}

static double loss_at(const tiny_model *m, bool restart, int32_t position)
{
    tiny_run r;
    tiny_batch b;
    double sum;
    int64_t n;
    tiny_run_open(&r, m, 256, 1);
    r.run.restart_positions = restart;
    tiny_run_start(&r, 2, "none");
    tiny_batch_make(&b, 256, N_VOCAB, 17);
    for (int d = 0; d < b.batch.n_docs; d++)
        b.position[d] = position;
    assert_int_equal(sala_trainer_evaluate(r.trainer, &b.batch, &sum, &n, NULL, NULL), SALA_OK);
    tiny_run_stop(&r);
    tiny_run_close(&r);
    return sum;
}

/* Rotation knows distances only, so a document that begins further on has the same loss but for rounding; scores that
 * are scaled by the place of a query do not. */
static void documents_begin_where_they_say(void **state)
{
    (void)state;
    const double first = loss_at(&models[0], true, 0), far = loss_at(&models[0], false, 100);
    assert_true(loss_at(&models[0], true, 100) == first);
    assert_true(loss_at(&models[0], false, 0) == first);
    if (far == first || fabs(far - first) > 1e-5 * first)
        fail_msg("loss %.9g, 100 tokens further on %.9g", first, far);
    const double scaled = loss_at(&models[8], false, 0), scaled_far = loss_at(&models[8], false, 400);
    assert_true(fabs(scaled - scaled_far) > 1e-5 * scaled);
}

/* ---- learning, and what stops it ---- */

static void a_batch_is_learned(void **state)
{
    (void)state;
    tiny_run r;
    tiny_batch b;
    tiny_run_open(&r, &models[5], 256, 1);
    r.run.clip = 1;
    tiny_run_start(&r, 2, "none");
    tiny_batch_make(&b, 256, N_VOCAB, 31);
    sala_step_result first, s;
    step(&r, &b.batch, 1, 0.003, &first);
    for (int i = 0; i < 40; i++)
        step(&r, &b.batch, 1, 0.003, &s);
    if (!(s.loss < 0.5 * first.loss) || !(s.accuracy > first.accuracy))
        fail_msg("loss %g, then %g", first.loss, s.loss);
    double sum;
    int64_t n;
    float rows[256];
    assert_int_equal(sala_trainer_evaluate(r.trainer, &b.batch, &sum, &n, rows, NULL), SALA_OK);
    assert_int_equal(n, b.batch.n_supervised);
    double rows_sum = 0;
    for (int i = 0; i < 256; i++)
        rows_sum += (double)rows[i];
    assert_true(fabs(rows_sum - sum) < 1e-4 * sum);
    assert_int_equal(sala_trainer_state_of(r.trainer)->updates, 41);
    tiny_run_stop(&r);
    tiny_run_close(&r);
}

static void what_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    tiny_run r;
    tiny_batch b;
    tiny_run_open(&r, &models[0], 256, 1);
    tiny_run_start(&r, 2, "none");
    tiny_batch_make(&b, 256, N_VOCAB, 31);
    const sala_param *p = sala_params_find(&r.params, SALA_T_DOWN, 0);
    float *values = sala_trainer_values(r.trainer);
    const size_t bytes = r.params.n_elements * sizeof(float);
    values[p->at + 7] = NAN;
    sala_trainer_changed(r.trainer);
    float *before = malloc(bytes);
    assert_non_null(before);
    memcpy(before, values, bytes);
    sala_step_result s;
    for (int i = 1; i < SALA_GUARD_MOST_BAD; i++) {
        step(&r, &b.batch, 1, 0.01, &s);
        assert_true(s.skipped);
        assert_int_equal(s.verdict, SALA_VERDICT_NOT_FINITE);
    }
    sala_error err;
    assert_int_equal(sala_trainer_step(r.trainer, &b.batch, 1, b.batch.n_supervised, 0.01, &s, &err), SALA_E_NUMERIC);
    assert_non_null(strstr(err.message, "step 5"));
    assert_non_null(strstr(err.message, "model."));
    assert_memory_equal(before, values, bytes);
    assert_int_equal(sala_trainer_state_of(r.trainer)->updates, 0);
    for (uint64_t i = 0; i < r.params.n_elements; i++)
        assert_true(sala_trainer_grads(r.trainer)[i] == 0);
    free(before);
    tiny_run_stop(&r);
    tiny_run_close(&r);
}

static void batches_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    tiny_run r;
    tiny_batch b;
    tiny_run_open(&r, &models[0], 64, 1);
    tiny_run_start(&r, 1, "none");
    sala_step_result s;
    sala_error err;
    tiny_batch_make(&b, 128, N_VOCAB, 31);
    assert_int_equal(sala_trainer_step(r.trainer, &b.batch, 1, 1, 0.01, &s, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "128 rows"));
    tiny_batch_make(&b, 64, N_VOCAB, 31);
    b.tokens[5] = N_VOCAB;
    assert_int_equal(sala_trainer_step(r.trainer, &b.batch, 1, 1, 0.01, &s, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "token 96"));
    tiny_batch_make(&b, 64, N_VOCAB, 31);
    b.start[b.batch.n_docs] = 63;
    assert_int_equal(sala_trainer_step(r.trainer, &b.batch, 1, 1, 0.01, &s, &err), SALA_E_INVALID);
    assert_int_equal(sala_trainer_logits(r.trainer, b.tokens, 65, &(float[N_VOCAB]){0}[0], &err), SALA_E_INVALID);
    assert_int_equal(sala_trainer_state_of(r.trainer)->step, 0);
    tiny_run_stop(&r);
    tiny_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_inference),
        cmocka_unit_test(gradients_are_slopes),
        cmocka_unit_test(recomputation_and_threads_keep_every_bit),
        cmocka_unit_test(more_threads_than_cores),
        cmocka_unit_test(passes_add_up),
        cmocka_unit_test(bf16_stays_close),
        cmocka_unit_test(documents_begin_where_they_say),
        cmocka_unit_test(a_batch_is_learned),
        cmocka_unit_test(what_is_not_finite_changes_nothing),
        cmocka_unit_test(batches_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
