/* Steps with a block for the token after the next, against PyTorch's autograd in float64 (grad/make_models.py): losses,
 * and the gradients of all parameters, shared ones included. A step with rate 0 and beta1 0 leaves its gradient in the
 * first moment. */
#include "grad/vectors.h"
#include "train/step.h"

#include <jansson.h>
#include <math.h>

static const double limit = 1e-4; /* relative L2 distance, of sums in f32 */

static void must(sala_status st, const sala_error *err)
{
    if (st != SALA_OK)
        fail_msg("%s", err->message);
}

static void read_config(sala_config *c, const vec_file *v)
{
    const vec *words = vec_get(v, "config");
    char *text = malloc((size_t)words->count + 1);
    assert_non_null(text);
    for (int64_t i = 0; i < words->count; i++)
        text[i] = (char)vec_int(words, i);
    text[words->count] = 0;
    json_t *json = json_loads(text, 0, NULL);
    sala_error err;
    assert_non_null(json);
    must(sala_config_from_json(c, json, NULL, &err), &err);
    json_decref(json);
    free(text);
}

static void compare(const char *file)
{
    static vec_file v;
    sala_error err;
    vec_open(&v, file);
    int32_t *ids = vec_ints(&v, "ids"), *labels = vec_ints(&v, "labels"), start[8] = {0}, position[8] = {0};
    const vec *lengths = vec_get(&v, "lengths");
    sala_batch batch = {.tokens = ids,
                        .labels = labels,
                        .doc_start = start,
                        .doc_position = position,
                        .n_docs = (int)lengths->count,
                        .n_rows = vec_get(&v, "ids")->count};
    for (int d = 0; d < batch.n_docs; d++)
        start[d + 1] = start[d] + vec_int(lengths, d);
    for (int64_t i = 0; i < batch.n_rows; i++)
        batch.n_supervised += labels[i] >= 0;
    sala_run_stage stage = {.name = "main", .steps = 1, .seq_len = batch.n_rows, .batch = 1};
    sala_run_config run = {.stages = &stage,
                           .n_stages = 1,
                           .restart_positions = true,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .lr_embed = 1,
                           .lr_head = 1,
                           .lr_hidden = 1,
                           .lr_vector = 1,
                           .zloss = vec_at(vec_get(&v, "zloss"), 0),
                           .mtp_depth = 1,
                           .mtp_weight = vec_at(vec_get(&v, "weight"), 0)};
    read_config(&run.shape, &v);
    sala_params params;
    sala_train_plan plan;
    sala_pool *pool;
    sala_trainer *trainer;
    must(sala_params_plan(&params, &run, &err), &err);
    must(sala_train_plan_make(&plan, &run, &params, 0, 2, 1, &err), &err);
    assert_int_equal(sala_pool_open(&pool, 2), 0);
    must(sala_trainer_open(&trainer, &run, &params, &plan, pool, NULL, &err), &err);
    for (int i = 0; i < params.count; i++) {
        const sala_param *p = &params.items[i];
        const vec *from = vec_get(&v, p->name);
        assert_int_equal(from->count, p->count);
        for (int64_t j = 0; j < from->count; j++)
            sala_trainer_values(trainer)[p->at + (uint64_t)j] = (float)vec_at(from, j);
    }
    sala_trainer_changed(trainer);

    sala_step_result r;
    must(sala_trainer_step(trainer, &batch, 1, batch.n_supervised, 0, &r, &err), &err);
    const vec *loss = vec_get(&v, "loss");
    const double got[] = {r.loss, r.zloss, r.mtp_loss};
    for (int i = 0; i < 3; i++)
        if (!(fabs(got[i] - vec_at(loss, i)) <= limit * vec_at(loss, i)))
            fail_msg("%s: loss %d is %.9g, expected %.9g", file, i, got[i], vec_at(loss, i));
    double worst = 0;
    for (int i = 0; i < params.count; i++) {
        const sala_param *p = &params.items[i];
        char name[120];
        snprintf(name, sizeof name, "d.%s", p->name);
        const vec *want = vec_get(&v, name);
        const float *grad = sala_trainer_moment(trainer, 0) + p->at;
        double off = 0, size = 0;
        for (int64_t j = 0; j < want->count; j++) {
            off += ((double)grad[j] - vec_at(want, j)) * ((double)grad[j] - vec_at(want, j));
            size += vec_at(want, j) * vec_at(want, j);
        }
        const double far = sqrt(off / size);
        if (!(far <= limit))
            fail_msg("%s: gradient of %s is %.3g off, %.1g is allowed", file, p->name, far, limit);
        worst = fmax(worst, far);
    }
    printf("%s: gradients at most %.1e off\n", file, worst);
    sala_trainer_close(trainer);
    sala_pool_close(pool);
    sala_train_plan_free(&plan);
    sala_params_free(&params);
    sala_config_free(&run.shape);
    vec_close(&v);
    free(ids);
    free(labels);
}

static void a_tied_model(void **state)
{
    (void)state;
    compare("mtp-minicpm");
}

static void a_hybrid_with_a_head_of_its_own(void **state)
{
    (void)state;
    compare("mtp-sala");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_tied_model),
                                       cmocka_unit_test(a_hybrid_with_a_head_of_its_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
