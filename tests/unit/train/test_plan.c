/* The memory plan: what it counts, what it gives up to fit, and what it says. */
#include "train/tape.h"
#include "unit/train/tiny_run.h"

/* The models of 32 M weights that speed is measured with; memory is planned, not taken. */
static const tiny_model tiny = {.architecture = "llama",
                                .n_layers = 8,
                                .n_embd = 64,
                                .n_heads = 8,
                                .n_kv_heads = 8,
                                .head_dim = 8,
                                .n_ff = 96,
                                .n_vocab = 96,
                                .n_ctx = 512,
                                .tied = true};

static void open_big(tiny_run *r, int64_t seq_len, int64_t batch)
{
    tiny_run_open(r, &tiny, seq_len, batch);
    sala_config *c = &r->run.shape;
    c->n_embd = 512;
    c->head_dim = 64;
    c->rope.n_rot = 64;
    c->n_ff = 1408;
    c->n_vocab = 8192;
    sala_error err;
    if (sala_params_plan(&r->params, &r->run, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static void close_big(tiny_run *r)
{
    sala_train_plan_free(&r->plan);
    sala_params_free(&r->params);
    tiny_run_close(r);
}

static sala_status make(tiny_run *r, uint64_t limit, sala_error *err)
{
    sala_train_plan_free(&r->plan);
    return sala_train_plan_make(&r->plan, &r->run, &r->params, limit, 2, 1, err);
}

static void must_make(tiny_run *r, uint64_t limit)
{
    sala_error err;
    if (make(r, limit, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static int count(const sala_train_plan *p, sala_recompute how)
{
    int n = 0;
    for (int l = 0; l < p->n_layers; l++)
        n += p->layers[l] == how;
    return n;
}

static void counts_every_byte(void **state)
{
    (void)state;
    tiny_run r;
    open_big(&r, 1024, 4);
    must_make(&r, 0);
    const sala_train_plan *p = &r.plan;
    assert_int_equal(p->rows, 2048);
    assert_int_equal(p->tile_rows, 1024);
    const uint64_t n = r.params.n_elements;
    assert_int_equal(p->n_weights, 8192 * 512 + 512 + 8 * (4 * 512 * 512 + 3 * 512 * 1408 + 2 * 512));
    assert_int_equal(p->values, 4 * n);
    assert_int_equal(p->grads, 4 * n);
    assert_in_range(p->moments, 8 * n, 8 * n + 4096);
    assert_int_equal(p->packs, 0);
    /* Two streams, q, k, v, core, gate and up, log-sums; and the output of the last layer. */
    const uint64_t row = 4 * (2 * 512 + 4 * 512 + 2 * 1408 + 8);
    assert_in_range(p->tape, 2048 * (8 * row + 4 * 512), 2048 * (8 * row + 4 * 512) + 8192);
    assert_int_equal(p->total, p->values + p->grads + p->moments + p->packs + p->tape + p->layer_scratch +
                                   p->device_scratch + p->loader);
    assert_in_range(p->total, 800ull << 20, 1000ull << 20);
    /* 6 a weight, and attention over half of 1024 keys seven times. */
    const double flops = 6.0 * (8192 * 512 + 8 * (4 * 512 * 512 + 3 * 512 * 1408)) + 8 * 3.5 * 4 * 512 * 512;
    assert_true(p->flops_per_token / flops > 0.9999 && p->flops_per_token / flops < 1.0001);
    assert_true(p->recompute_share == 0);
    close_big(&r);
}

static void gives_up_as_little_as_it_can(void **state)
{
    (void)state;
    tiny_run r;
    open_big(&r, 8192, 1);
    must_make(&r, 0);
    const uint64_t all = r.plan.total;
    assert_int_equal(r.plan.rows, 8192);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_NONE), 8);
    must_make(&r, all);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_NONE), 8);
    /* A byte less costs the last layer its feed-forward part: 88 MiB, less the rooms for making it again. */
    must_make(&r, all - 1);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_FEED), 1);
    assert_int_equal(r.plan.layers[7], SALA_RECOMPUTE_FEED);
    assert_int_equal(all - r.plan.total, 4ull * 2 * 1408 * (8192 - 1024));
    assert_true(r.plan.recompute_share > 0.005 && r.plan.recompute_share < 0.02);
    uint64_t before = all;
    for (uint64_t limit = all; limit > all / 2; limit -= all / 16) {
        sala_error err;
        if (make(&r, limit, &err) != SALA_OK)
            break;
        assert_true(r.plan.total <= limit && r.plan.total <= before);
        before = r.plan.total;
    }
    must_make(&r, all / 2);
    assert_true(count(&r.plan, SALA_RECOMPUTE_LAYER) > 0);
    assert_int_equal(r.plan.layers[7], SALA_RECOMPUTE_LAYER);
    close_big(&r);
}

static void says_what_is_needed(void **state)
{
    (void)state;
    tiny_run r;
    open_big(&r, 1024, 4);
    sala_error err;
    assert_int_equal(make(&r, 100 << 20, &err), SALA_E_MEMORY);
    assert_non_null(strstr(err.message, "100 MiB"));
    /* What it says is enough, and with shorter passes than one would choose. */
    must_make(&r, 0);
    const uint64_t all = r.plan.total;
    uint64_t low = 0, high = all;
    while (high - low > 1 << 16) {
        const uint64_t mid = low + (high - low) / 2;
        if (make(&r, mid, &err) == SALA_OK)
            high = mid;
        else
            low = mid;
    }
    must_make(&r, high);
    assert_int_equal(r.plan.rows, 1024);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_LAYER), 8);
    r.run.rows_per_pass = 512; /* a sequence is not cut */
    must_make(&r, 0);
    assert_int_equal(r.plan.rows, 1024);
    /* Of the last layers only, as a resumed run finds it in its save. */
    r.run.recompute = (char *)(uintptr_t) "feed:5,mixer:3,layer:2";
    must_make(&r, 0);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_LAYER), 2);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_MIXER), 1);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_FEED), 2);
    assert_int_equal(r.plan.layers[5], SALA_RECOMPUTE_MIXER);
    assert_int_equal(r.plan.layers[3], SALA_RECOMPUTE_FEED);
    assert_int_equal(r.plan.layers[7], SALA_RECOMPUTE_LAYER);
    assert_int_equal(r.plan.layers[2], SALA_RECOMPUTE_NONE);
    close_big(&r);
}

static void keeps_to_what_the_run_asks(void **state)
{
    (void)state;
    tiny_run r;
    open_big(&r, 256, 3);
    must_make(&r, 0);
    assert_int_equal(r.plan.rows, 768); /* a step has no more */
    assert_int_equal(sala_train_plan_sequences(&r.plan, 256), 3);
    r.run.rows_per_pass = 600;
    r.run.recompute = (char *)(uintptr_t) "feed";
    must_make(&r, 0);
    assert_int_equal(r.plan.rows, 512);
    assert_int_equal(count(&r.plan, SALA_RECOMPUTE_FEED), 8);
    r.run.precision = SALA_PRECISION_BF16;
    r.run.mtp_depth = 1;
    sala_params_free(&r.params);
    assert_int_equal(sala_params_plan(&r.params, &r.run, NULL), SALA_OK);
    must_make(&r, 0);
    assert_true(r.plan.half);
    assert_int_equal(r.plan.n_layers, 9);
    assert_true(r.plan.packs > 4 * r.params.n_weights * 99 / 100 && r.plan.packs < 4 * r.params.n_weights);
    close_big(&r);
}

/* Slots and scratch of every layer lie within the block and beside one another. */
static void lays_out_what_it_counts(void **state)
{
    (void)state;
    tiny_run r;
    tiny_run_open(&r, &tiny, 64, 2);
    assert_int_equal(sala_params_plan(&r.params, &r.run, NULL), SALA_OK);
    static const char *const words[] = {"none", "feed", "mixer", "layer"};
    for (int w = 0; w < 4; w++) {
        r.run.recompute = (char *)(uintptr_t)words[w];
        must_make(&r, 0);
        sala_layer_tape layers[8];
        sala_tape t = {.layers = layers};
        const sala_tape_bytes bytes = sala_tape_lay(&t, &r.plan, &r.run, NULL);
        assert_int_equal(bytes.tape, r.plan.tape);
        uint8_t *block = calloc(1, bytes.tape + bytes.scratch);
        assert_non_null(block);
        const sala_tape_bytes again = sala_tape_lay(&t, &r.plan, &r.run, block);
        assert_true(again.tape == bytes.tape && again.scratch == bytes.scratch);
        const size_t rows = (size_t)r.plan.rows, row = rows * 64 * sizeof(float);
        for (int l = 0; l < 8; l++) {
            assert_true((uint8_t *)layers[l].h_mid + row <= block + bytes.tape);
            memset(layers[l].h_in, l + 1, row);
            memset(layers[l].q, 0x40, row);
            memset(layers[l].core, 0x41, row);
            assert_true((layers[l].gate != NULL) == (w == 0));
            const bool softmax = r.run.shape.mixers[l] != SALA_MIXER_LIGHTNING;
            assert_true(layers[l].mixed == (w < 2 || (w == 2 && softmax)));
            for (int k = 0; k < l; k++) {
                assert_true((layers[l].q == layers[k].q) == (w >= 2));
                assert_true(layers[l].core != layers[k].core || !(layers[l].mixed || layers[k].mixed));
                assert_true(layers[l].h_mid != layers[k].h_mid || !(layers[l].mixed || layers[k].mixed));
            }
        }
        memset(t.h_last, 0x42, row);
        memset(t.grads.d_h, 0x43, row);
        memset(t.buffers.out, 0x44, row);
        memset(t.grads.mid, 0x45, (size_t)r.plan.tile_rows * 96 * sizeof(float));
        for (int l = 0; l < 8; l++) {
            assert_int_equal(((uint8_t *)layers[l].h_in)[row - 1], l + 1);
            assert_int_equal(((uint8_t *)layers[l].q)[row - 1], 0x40);
            assert_int_equal(((uint8_t *)layers[l].core)[0], 0x41);
        }
        assert_true((uint8_t *)t.grads.mid + (size_t)r.plan.tile_rows * 96 * sizeof(float) <=
                    block + bytes.tape + bytes.scratch);
        free(block);
    }
    close_big(&r);
}

static void is_printed(void **state)
{
    (void)state;
    tiny_run r;
    open_big(&r, 1024, 4);
    must_make(&r, 16ull << 30);
    sala_buf text = {0};
    sala_train_plan_print(&text, &r.plan, &r.run, "oneDNN 2.6.3");
    assert_non_null(strstr(text.data, "model      29.89 M weights, 8 layers (8 dense), vocabulary 8192, tied\n"));
    assert_non_null(strstr(text.data, "precision  f32; oneDNN 2.6.3\n"));
    assert_non_null(strstr(text.data, "step       4 x 1024 tokens in 2 passes of 2048 rows; 209 MFLOP a token\n"));
    assert_non_null(strstr(text.data, "memory     values 114 MiB, gradients 114, moments 228, tape "));
    assert_non_null(strstr(text.data, " of 16.0 GiB allowed\n"));
    sala_buf_free(&text);
    close_big(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_every_byte),       cmocka_unit_test(gives_up_as_little_as_it_can),
        cmocka_unit_test(says_what_is_needed),     cmocka_unit_test(keeps_to_what_the_run_asks),
        cmocka_unit_test(lays_out_what_it_counts), cmocka_unit_test(is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
