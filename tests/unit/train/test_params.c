/* Where parameters lie, what they start as, and reading them from a model. */
#include "unit/train/tiny_run.h"

#include <math.h>

static const tiny_model hybrid = {.architecture = "minicpm-sala",
                                  .n_layers = 3,
                                  .n_embd = 64,
                                  .n_heads = 4,
                                  .n_kv_heads = 2,
                                  .head_dim = 16,
                                  .n_ff = 96,
                                  .n_vocab = 96,
                                  .n_ctx = 512,
                                  .tied = true,
                                  .mixers = "dll",
                                  .linear_heads = 4,
                                  .linear_kv_heads = 4,
                                  .linear_dim = 16,
                                  .linear_qk_norm = true,
                                  .mix_norm = true,
                                  .gates = true};
static const tiny_model llama = {.architecture = "llama",
                                 .n_layers = 2,
                                 .n_embd = 64,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 16,
                                 .n_ff = 96,
                                 .n_vocab = 96,
                                 .n_ctx = 512};

static void plan(sala_params *p, const tiny_run *r)
{
    sala_error err;
    if (sala_params_plan(p, &r->run, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static void lie_in_the_order_of_their_gradients(void **state)
{
    (void)state;
    tiny_run r;
    tiny_run_open(&r, &hybrid, 64, 4);
    r.run.mtp_depth = 1;
    plan(&r.params, &r);
    const sala_params *p = &r.params;
    uint64_t at = 0, weights = 0;
    int layer = 3, bucket = 0;
    for (int i = 0; i < p->count; i++) {
        const sala_param *q = &p->items[i];
        assert_true(q->at >= at && q->at - at < 16 && q->at % 16 == 0);
        assert_int_equal(q->count, (q->rows ? q->rows : 1) * q->cols);
        at = q->at + q->count;
        weights += q->count;
        const int now = q->layer < 0 ? -1 : q->layer;
        assert_true(now <= layer);
        if (now < layer) { /* layers come one behind the other, each a bucket */
            assert_int_equal(now, layer - 1);
            layer = now;
            assert_int_equal(q->at, p->bucket_begin[++bucket]);
        }
    }
    assert_int_equal(weights, p->n_weights);
    assert_int_equal(layer, -1);
    assert_int_equal(p->n_buckets, 5); /* the block, three layers, norm and embedding */
    assert_int_equal(p->bucket_begin[0], 0);
    assert_int_equal(p->bucket_begin[5], p->n_elements);
    assert_int_equal(p->items[p->count - 1].role, SALA_T_EMBED);
    assert_non_null(sala_params_find(p, SALA_P_MTP_PROJ_EMBED, 3));
    assert_string_equal(sala_params_find(p, SALA_T_Q, 3)->name, "mtp.layer.self_attn.q_proj.weight");
    assert_string_equal(sala_params_find(p, SALA_T_LINEAR_GATE, 1)->name, "model.layers.1.self_attn.z_proj.weight");
    assert_null(sala_params_find(p, SALA_T_LINEAR_GATE, 0));
    assert_null(sala_params_find(p, SALA_T_HEAD, -1));
    sala_params_free(&r.params);
    tiny_run_close(&r);
}

static void have_the_rates_of_their_class(void **state)
{
    (void)state;
    tiny_run r;
    tiny_run_open(&r, &llama, 64, 4);
    r.run.mup = true;
    r.run.init_std = 0.1;
    r.run.dim_model_base = 16; /* m = 4 */
    r.run.weight_decay = 0.1;
    r.run.lr_hidden = 2;
    plan(&r.params, &r);
    const sala_param *q = sala_params_find(&r.params, SALA_T_O, 1),
                     *n = sala_params_find(&r.params, SALA_T_OUT_NORM, -1);
    const sala_param *e = sala_params_find(&r.params, SALA_T_EMBED, -1),
                     *h = sala_params_find(&r.params, SALA_T_HEAD, -1);
    assert_true(q->init_std == 0.05 && q->lr_factor == 0.5 && q->decay == 0.1 && q->class == SALA_PARAM_HIDDEN);
    assert_true(e->init_std == 0.05 && e->lr_factor == 0.25 && e->decay == 0.1 && e->class == SALA_PARAM_EMBED);
    assert_true(h->init_std == 0.05 && h->lr_factor == 0.25 && h->class == SALA_PARAM_HEAD);
    assert_true(n->init_std == 0 && n->lr_factor == 1 && n->decay == 0 && n->class == SALA_PARAM_VECTOR);
    sala_params_free(&r.params);
    r.run.mup = false;
    plan(&r.params, &r);
    assert_true(sala_params_find(&r.params, SALA_T_Q, 0)->init_std == 0.02);
    assert_true(fabs(sala_params_find(&r.params, SALA_T_DOWN, 0)->init_std - 0.01) < 1e-15); /* 0.02 / sqrt(2 * 2) */
    assert_true(sala_params_find(&r.params, SALA_T_EMBED, -1)->lr_factor == 1);
    sala_params_free(&r.params);
    tiny_run_close(&r);
}

static double deviation(const float *x, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

static void start_from_the_seed_and_their_name(void **state)
{
    (void)state;
    tiny_run r;
    tiny_run_open(&r, &hybrid, 64, 4);
    plan(&r.params, &r);
    float *a = calloc(r.params.n_elements, sizeof *a);
    assert_non_null(a);
    sala_params_init(&r.params, a, 1);
    const sala_param *e = sala_params_find(&r.params, SALA_T_EMBED, -1);
    const sala_param *n = sala_params_find(&r.params, SALA_T_MIX_NORM, 1);
    const sala_param *k = sala_params_find(&r.params, SALA_T_K, 2);
    assert_true(fabs(deviation(a + e->at, e->count) / 0.02 - 1) < 0.05);
    for (uint64_t i = 0; i < n->count; i++)
        assert_true(a[n->at + i] == 1);
    /* Another tensor beside it moves no draw. */
    sala_params more;
    r.run.mtp_depth = 1;
    plan(&more, &r);
    float *b = calloc(more.n_elements, sizeof *b);
    assert_non_null(b);
    sala_params_init(&more, b, 1);
    const sala_param *other = sala_params_find(&more, SALA_T_K, 2);
    assert_true(other->at != k->at);
    assert_memory_equal(a + k->at, b + other->at, k->count * sizeof *a);
    sala_params_init(&more, b, 2);
    assert_true(memcmp(a + k->at, b + other->at, k->count * sizeof *a) != 0);
    free(a);
    free(b);
    sala_params_free(&more);
    sala_params_free(&r.params);
    tiny_run_close(&r);
}

static void are_read_from_a_model(void **state)
{
    (void)state;
    tiny_run r;
    tiny_run_open(&r, &llama, 64, 4);
    plan(&r.params, &r);
    float *a = calloc(r.params.n_elements, sizeof *a);
    assert_non_null(a);
    sala_error err;
    if (sala_params_load(&r.params, a, r.path, &err) != SALA_OK)
        fail_msg("%s", err.message);
    const sala_param *v = sala_params_find(&r.params, SALA_T_V, 1), *q = sala_params_find(&r.params, SALA_T_Q, 1);
    const sala_tensor *tv = sala_checkpoint_tensor(&r.files, SALA_T_V, 1),
                      *tq = sala_checkpoint_tensor(&r.files, SALA_T_Q, 1);
    assert_memory_equal(a + v->at, tv->data, v->count * sizeof *a);
    /* Rows of heads of 16: file row 2 i + j is row i + 8 j. */
    const float *rows = tq->data;
    for (int64_t row = 0; row < q->rows; row++) {
        const int64_t head = row / 16 * 16, i = row % 16 / 2, j = row % 2;
        assert_memory_equal(a + q->at + (uint64_t)((head + i + 8 * j) * q->cols), rows + row * q->cols,
                            (size_t)q->cols * sizeof *a);
    }
    free(a);
    sala_params_free(&r.params);

    r.run.shape.n_ff = 128;
    plan(&r.params, &r);
    a = calloc(r.params.n_elements, sizeof *a);
    assert_non_null(a);
    assert_int_equal(sala_params_load(&r.params, a, r.path, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "[96, 64]"));
    assert_non_null(strstr(err.message, "[128, 64]"));
    r.run.shape.n_ff = 96;
    r.run.shape.qkv_bias = true;
    free(a);
    sala_params_free(&r.params);
    plan(&r.params, &r);
    a = calloc(r.params.n_elements, sizeof *a);
    assert_non_null(a);
    assert_int_equal(sala_params_load(&r.params, a, r.path, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "is missing"));
    free(a);
    sala_params_free(&r.params);
    tiny_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lie_in_the_order_of_their_gradients),
        cmocka_unit_test(have_the_rates_of_their_class),
        cmocka_unit_test(start_from_the_seed_and_their_name),
        cmocka_unit_test(are_read_from_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
