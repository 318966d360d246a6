/* The training device as a whole: bits do not depend on threads, its norm is that of inference, and large products are
 * cut at their tiles' borders without a seam. */
#include "grad/device.h"

#include "kernels/kernels.h"

#include "unit/test.h"

#include <math.h>

enum { ROWS = 700, COLS = 96, OUT = 2100, VOCAB = 300, ARENA = 1 << 20 };

typedef struct setup {
    sala_pool *pool;
    sala_backend *be;
    const sala_grad_ops *grad;
    float *values, *grads;
} setup;

static void fill(float *x, int64_t n, uint64_t seed)
{
    sala_rng rng;
    sala_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(2 * sala_rng_uniform(&rng) - 1);
}

static void open_setup(setup *s, int n_threads, sala_precision precision, const char *kernels)
{
    static const sala_backend_limits limits = {
        .rows = ROWS, .cols = OUT, .n_heads = 4, .n_kv_heads = 2, .head_dim = 24, .vocab = VOCAB};
    assert_int_equal(sala_pool_open(&s->pool, n_threads), 0);
    s->values = sala_os_pages_alloc(ARENA * sizeof *s->values);
    s->grads = sala_os_pages_alloc(ARENA * sizeof *s->grads);
    assert_true(s->values && s->grads);
    fill(s->values, ARENA, 1);
    const sala_device_params p = {
        .pool = s->pool, .kernels = kernels, .precision = precision, .values = s->values, .grads = s->grads};
    sala_error err;
    if (sala_device_open(&s->be, &p, &err) != SALA_OK || s->be->ops->reserve(s->be, &limits, &err) != SALA_OK)
        fail_msg("%s", err.message);
    s->grad = sala_device_grad_ops(s->be);
}

static void close_setup(setup *s)
{
    s->be->ops->close(s->be);
    sala_pool_close(s->pool);
    sala_os_pages_free(s->values, ARENA * sizeof *s->values);
    sala_os_pages_free(s->grads, ARENA * sizeof *s->grads);
}

static sala_weight *weight(setup *s, int64_t rows, int64_t cols, int64_t at)
{
    sala_weight *w = NULL;
    sala_error err;
    if (s->be->ops->weight_new(s->be, &w, SALA_F32, rows, cols, s->values + at, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return w;
}

typedef struct results {
    float *y, *dx, *normed, *loss_dx, *grads;
    double loss;
} results;

static float *room(int64_t n)
{
    float *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static void run(results *r, int n_threads, sala_precision precision)
{
    setup s;
    open_setup(&s, n_threads, precision, NULL);
    const sala_backend_ops *ops = s.be->ops;
    sala_weight *w = weight(&s, OUT, COLS, 0), *head = weight(&s, VOCAB, COLS, 300000);
    float *x = room(ROWS * COLS), *dy = room(ROWS * OUT), *norm = s.values + 400000, *bias = s.values + 410000;
    int32_t *ids = calloc(ROWS, sizeof *ids);
    assert_non_null(ids);
    fill(x, ROWS * COLS, 2);
    fill(dy, ROWS * OUT, 3);
    for (int i = 0; i < ROWS; i++)
        ids[i] = i % 7 ? (i * i) % VOCAB : i % 3 - 1;
    *r = (results){room(ROWS * OUT), room(ROWS * COLS), room(ROWS * COLS), room(ROWS * COLS), room(ARENA), 0};

    ops->rms_norm(s.be, r->normed, x, norm, ROWS, COLS, 1e-5f);
    const sala_linear_out out = {w, r->y, OUT, bias};
    ops->linear_group(s.be, &out, 1, r->normed, ROWS, COLS);
    const sala_linear_back back = {w, dy, OUT, s.grads + 410000};
    s.grad->linear_group_back(s.be, &back, 1, r->dx, r->normed, ROWS, COLS, false);
    sala_head_args args = {.head = head,
                           .x = r->normed,
                           .n_rows = ROWS,
                           .n_embd = COLS,
                           .n_vocab = VOCAB,
                           .labels = ids,
                           .inv_divisor = 0.5f,
                           .loss_scale = 1e-3f,
                           .dx = r->loss_dx};
    s.grad->head_loss(s.be, &args);
    r->loss = args.loss;
    s.grad->rms_norm_back(s.be, r->dx, s.grads + 400000, r->loss_dx, x, norm, ROWS, COLS, 1e-5f, true);
    for (int i = 0; i < ROWS; i++)
        ids[i] = ids[i] < 0 ? 0 : ids[i];
    s.grad->get_rows_back(s.be, head, ids, r->dx, ROWS, 2);
    memcpy(r->grads, s.grads, ARENA * sizeof *r->grads);
    ops->weight_free(s.be, w);
    ops->weight_free(s.be, head);
    free(x);
    free(dy);
    free(ids);
    close_setup(&s);
}

static void free_results(results *r)
{
    free(r->y);
    free(r->dx);
    free(r->normed);
    free(r->loss_dx);
    free(r->grads);
}

static void test_threads(void **state)
{
    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        results one, many;
        run(&one, 1, bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32);
        for (int n = 2; n <= 4; n++) {
            run(&many, n, bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32);
            assert_memory_equal(one.y, many.y, ROWS * OUT * sizeof(float));
            assert_memory_equal(one.dx, many.dx, ROWS * COLS * sizeof(float));
            assert_memory_equal(one.loss_dx, many.loss_dx, ROWS * COLS * sizeof(float));
            assert_memory_equal(one.grads, many.grads, ARENA * sizeof(float));
            assert_true(one.loss == many.loss);
            free_results(&many);
        }
        free_results(&one);
    }
}

/* The feed-forward part of bf16 runs in one operation each way has the bits of the operations that it stands for. */
static void test_feed(void **state)
{
    (void)state;
    enum { EMBD = 70, FF = 1150, N = ROWS * FF, GATE = 0, UP = 100000, DOWN = 200000, BIAS = 300000 };
    float *gate = room(N), *up = room(N), *x = room(ROWS * EMBD), *dy = room(ROWS * EMBD);
    fill(gate, N, 2);
    fill(up, N, 3);
    fill(x, ROWS * EMBD, 4);
    fill(dy, ROWS * EMBD, 5);
    float *y[2], *dx[2], *grads[2], *mid = room(N), *d_gate = room(N), *d_up = room(N);
    uint16_t *slots[2];
    for (int whole = 0; whole < 2; whole++) {
        setup s;
        open_setup(&s, 2, SALA_PRECISION_BF16, NULL);
        sala_weight *wg = weight(&s, FF, EMBD, GATE), *wu = weight(&s, FF, EMBD, UP), *wd = weight(&s, EMBD, FF, DOWN);
        y[whole] = room(ROWS * EMBD);
        dx[whole] = room(ROWS * EMBD);
        grads[whole] = room(ARENA);
        slots[whole] = calloc(2 * N, sizeof **slots);
        assert_non_null(slots[whole]);
        uint16_t *gate_slot = slots[whole], *up_slot = gate_slot + N;
        const sala_linear_out out = {wd, y[whole], EMBD, s.values + BIAS};
        const sala_linear_back down = {wd, dy, EMBD, s.grads + BIAS};
        if (whole) {
            s.grad->feed_down(s.be, &out, gate, up, gate_slot, up_slot, ROWS, FF);
            const sala_feed_back_args args = {.gate = wg,
                                              .up = wu,
                                              .down = down,
                                              .gate_slot = gate_slot,
                                              .up_slot = up_slot,
                                              .x = x,
                                              .dx = dx[whole],
                                              .d_mid = d_gate,
                                              .n_rows = ROWS,
                                              .n_ff = FF,
                                              .n_embd = EMBD};
            s.grad->feed_back(s.be, &args);
        } else {
            s.grad->keep(s.be, gate_slot, gate, N);
            s.grad->keep(s.be, up_slot, up, N);
            s.be->ops->swiglu(s.be, mid, gate, up, ROWS, FF);
            s.be->ops->linear_group(s.be, &out, 1, mid, ROWS, FF);
            float *gate_again = room(N), *up_again = room(N);
            s.grad->recall(s.be, gate_again, gate_slot, N);
            s.grad->recall(s.be, up_again, up_slot, N);
            s.grad->linear_group_back(s.be, &down, 1, d_gate, NULL, ROWS, FF, false);
            s.grad->swiglu_back(s.be, d_gate, d_up, mid, d_gate, gate_again, up_again, ROWS, FF);
            s.grad->linear_group_back(s.be, &down, 1, NULL, mid, ROWS, FF, false);
            const sala_linear_back outs[] = {{wg, d_gate, FF, NULL}, {wu, d_up, FF, NULL}};
            s.grad->linear_group_back(s.be, outs, 2, dx[whole], x, ROWS, EMBD, false);
            free(gate_again);
            free(up_again);
        }
        memcpy(grads[whole], s.grads, ARENA * sizeof(float));
        s.be->ops->weight_free(s.be, wg);
        s.be->ops->weight_free(s.be, wu);
        s.be->ops->weight_free(s.be, wd);
        close_setup(&s);
    }
    assert_memory_equal(slots[0], slots[1], 2 * N * sizeof **slots);
    assert_memory_equal(y[0], y[1], ROWS * EMBD * sizeof(float));
    assert_memory_equal(dx[0], dx[1], ROWS * EMBD * sizeof(float));
    assert_memory_equal(grads[0], grads[1], ARENA * sizeof(float));
    for (int whole = 0; whole < 2; whole++) {
        free(y[whole]);
        free(dx[whole]);
        free(grads[whole]);
        free(slots[whole]);
    }
    free(gate);
    free(up);
    free(x);
    free(dy);
    free(mid);
    free(d_gate);
    free(d_up);
}

/* Tiles of rows, columns and weight rows meet: sums in double precision say what all of them should be. */
static void test_tiles(void **state)
{
    (void)state;
    results r;
    run(&r, 2, SALA_PRECISION_F32);
    float *values = room(ARENA), *dy = room(ROWS * OUT);
    fill(values, ARENA, 1);
    fill(dy, ROWS * OUT, 3);
    for (int64_t i = 0; i < ROWS; i += 3)
        for (int64_t j = 0; j < OUT; j++) {
            double y = values[410000 + j];
            for (int64_t c = 0; c < COLS; c++)
                y += (double)values[j * COLS + c] * r.normed[i * COLS + c];
            assert_true(fabs(r.y[i * OUT + j] - y) < 1e-4);
        }
    for (int64_t j = 0; j < OUT; j++) {
        double sum = 0;
        for (int64_t i = 0; i < ROWS; i++)
            sum += dy[i * OUT + j];
        assert_true(fabs(r.grads[410000 + j] - sum) < 1e-3);
        for (int64_t c = j % 5; c < COLS; c += 5) {
            double dw = 0;
            for (int64_t i = 0; i < ROWS; i++)
                dw += (double)dy[i * OUT + j] * r.normed[i * COLS + c];
            assert_true(fabs(r.grads[j * COLS + c] - dw) < 1e-3);
        }
    }
    free(values);
    free(dy);
    free_results(&r);
}

/* What training norms and what inference norms are the same numbers. */
static void test_norm_as_inference(void **state)
{
    (void)state;
    static const char *const families[] = {"ref", "avx2", "avx512", "neon"};
    for (size_t f = 0; f < SALA_ARRAY_LEN(families); f++) {
        sala_kernels k;
        if (!sala_kernels_get(&k, families[f], sala_os_cpu_features()))
            continue;
        setup s;
        open_setup(&s, 1, SALA_PRECISION_F32, families[f]);
        float x[3 * 101], trained[3 * 101], inferred[101];
        fill(x, 303, 5);
        s.be->ops->rms_norm(s.be, trained, x, s.values, 3, 101, 1e-6f);
        for (int i = 0; i < 3; i++) {
            k.rms_norm(inferred, x + i * 101, s.values, 101, 1e-6f);
            assert_memory_equal(inferred, trained + i * 101, sizeof inferred);
        }
        close_setup(&s);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    setup s;
    open_setup(&s, 1, SALA_PRECISION_F32, "ref");
    sala_weight *w = NULL;
    sala_error err;
    assert_int_equal(s.be->ops->weight_new(s.be, &w, SALA_Q4_0, 32, 32, s.values, &err), SALA_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Q4_0"));
    assert_int_equal(s.be->ops->weight_new(s.be, &w, SALA_F32, 0, 32, s.values, &err), SALA_E_INVALID);
    assert_null(w);
    close_setup(&s);
    sala_pool *pool = NULL;
    assert_int_equal(sala_pool_open(&pool, 1), 0);
    const sala_device_params q = {.pool = pool, .kernels = "altivec"};
    assert_int_equal(sala_device_open(&s.be, &q, &err), SALA_E_INVALID);
    assert_non_null(strstr(err.message, "altivec"));
    sala_pool_close(pool);
}

static void test_finite(void **state)
{
    (void)state;
    setup s;
    open_setup(&s, 2, SALA_PRECISION_F32, NULL);
    assert_true(s.be->ops->all_finite(s.be, s.values, ARENA));
    s.values[ARENA - 1] = NAN;
    assert_false(s.be->ops->all_finite(s.be, s.values, ARENA));
    s.values[ARENA - 1] = 0;
    s.values[70000] = -INFINITY;
    assert_false(s.be->ops->all_finite(s.be, s.values, ARENA));
    close_setup(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),           cmocka_unit_test(test_feed),     cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_norm_as_inference), cmocka_unit_test(test_refusals), cmocka_unit_test(test_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
