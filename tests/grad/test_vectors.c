/* Every operation of the training device, forward and backward, against PyTorch's autograd in float64
 * (make_vectors.py). */
#include "grad_test.h"

typedef void case_fn(fixture *f, const vec_file *v);

static void run_case(const char *file, const sala_backend_limits *limits, case_fn *fn)
{
    static vec_file v;
    vec_open(&v, file);
    for (size_t i = 0; i < SALA_ARRAY_LEN(fixture_kinds); i++) {
        fixture f;
        if (!fixture_open(&f, &fixture_kinds[i], limits))
            continue;
        fn(&f, &v);
        grad_report(file + strlen("op-"), f.what, f.worst, f.worst_limit, f.worst_name);
        fixture_close(&f);
    }
    vec_close(&v);
}

static const sala_backend_limits small = {
    .rows = 512, .cols = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 24, .vocab = 128};

static void linear_case(fixture *f, const vec_file *v)
{
    const vec *x_vec = vec_get(v, "x");
    const int64_t rows = x_vec->shape[0], cols = x_vec->shape[1];
    sala_weight *w1 = fixture_weight(f, vec_get(v, "w1")), *w2 = fixture_weight(f, vec_get(v, "w2"));
    sala_num *b1 = fixture_param(f, vec_get(v, "b1"));
    sala_num *x = vec_nums(v, "x"), *y1 = nums(rows * 40), *y2 = nums(rows * 16), *dx = nums(rows * cols);
    const sala_linear_out outs[] = {{w1, y1, 40, b1}, {w2, y2, 16, NULL}};
    f->ops->linear_group(f->be, outs, 2, x, rows, cols);
    expect(f, y1, v, "out.y1");
    expect(f, y2, v, "out.y2");

    sala_num *d1 = vec_nums(v, "d.out.y1"), *d2 = vec_nums(v, "d.out.y2");
    const sala_linear_back back[] = {{w1, d1, 40, fixture_grad(f, b1)}, {w2, d2, 16, NULL}};
    f->grad->linear_group_back(f->be, back, 2, dx, x, rows, cols, false);
    expect(f, dx, v, "d.x");
    expect(f, sala_weight_grad(w1), v, "d.w1");
    expect(f, sala_weight_grad(w2), v, "d.w2");
    expect(f, fixture_grad(f, b1), v, "d.b1");

    /* In halves, and added to what is there: the gradient of x is twice itself, those of weights stay. */
    f->grad->linear_group_back(f->be, back, 2, dx, NULL, rows, cols, true);
    for (int64_t i = 0; i < rows * cols; i++)
        dx[i] /= 2;
    expect(f, dx, v, "d.x");
    expect(f, fixture_grad(f, b1), v, "d.b1");
    f->grad->linear_group_back(f->be, back, 2, NULL, x, rows, cols, false);
    for (int64_t i = 0; i < 40 * cols; i++)
        sala_weight_grad(w1)[i] /= 2;
    expect(f, sala_weight_grad(w1), v, "d.w1");

    /* Values that change reach the products. */
    for (int64_t i = 0; i < 40 * cols; i++)
        f->values[i] *= 2;
    for (int64_t i = 0; i < 40; i++)
        b1[i] *= 2;
    sala_weight_changed(w1);
    f->ops->linear_group(f->be, outs, 1, x, rows, cols);
    for (int64_t i = 0; i < rows * 40; i++)
        y1[i] /= 2;
    expect(f, y1, v, "out.y1");
    f->ops->weight_free(f->be, w1);
    f->ops->weight_free(f->be, w2);
    free(x);
    free(y1);
    free(y2);
    free(dx);
    free(d1);
    free(d2);
}

static void test_linear(void **state)
{
    (void)state;
    run_case("op-linear", &small, linear_case);
}

static void rms_norm_case(fixture *f, const vec_file *v)
{
    const int64_t rows = vec_get(v, "x")->shape[0], n = vec_get(v, "x")->shape[1];
    sala_num *w = fixture_param(f, vec_get(v, "w")), *x = vec_nums(v, "x"), *dy = vec_nums(v, "d.out.y");
    sala_num *y = nums(rows * n), *dx = nums(rows * n);
    f->ops->rms_norm(f->be, y, x, w, rows, n, (sala_num)1e-5);
    expect_near(f, y, v, "out.y", EXACT);
    f->grad->rms_norm_back(f->be, dx, fixture_grad(f, w), dy, x, w, rows, n, (sala_num)1e-5, false);
    expect_near(f, dx, v, "d.x", EXACT);
    expect_near(f, fixture_grad(f, w), v, "d.w", EXACT);
    f->grad->rms_norm_back(f->be, dx, NULL, dy, x, w, rows, n, (sala_num)1e-5, true);
    f->ops->scale(f->be, dx, (sala_num)0.5, rows, n);
    expect_near(f, dx, v, "d.x", EXACT);
    free(x);
    free(dy);
    free(y);
    free(dx);
}

static void test_rms_norm(void **state)
{
    (void)state;
    run_case("op-rms_norm", &small, rms_norm_case);
}

static void add_norm_case(fixture *f, const vec_file *v)
{
    const int64_t rows = vec_get(v, "x")->shape[0], n = vec_get(v, "x")->shape[1];
    sala_num *w = fixture_param(f, vec_get(v, "w")), *x = vec_nums(v, "x"), *y = vec_nums(v, "y");
    sala_num *h = nums(rows * n), *out = nums(rows * n), *dy = vec_nums(v, "d.out.y"), *dh = vec_nums(v, "d.out.h");
    sala_num *d_branch = nums(rows * n);
    f->ops->add_norm(f->be, out, h, x, y, (sala_num)0.375, w, rows, n, (sala_num)1e-5);
    expect_near(f, h, v, "out.h", EXACT);
    expect_near(f, out, v, "out.y", EXACT);
    memset(h, 0, (size_t)(rows * n) * sizeof *h);
    f->ops->add_norm(f->be, NULL, h, x, y, (sala_num)0.375, w, rows, n, (sala_num)1e-5);
    expect_near(f, h, v, "out.h", EXACT);
    f->grad->rms_norm_back(f->be, dh, fixture_grad(f, w), dy, h, w, rows, n, (sala_num)1e-5, true);
    expect_near(f, dh, v, "d.x", EXACT);
    expect_near(f, fixture_grad(f, w), v, "d.w", EXACT);
    f->grad->scale_to(f->be, d_branch, dh, (sala_num)0.375, rows, n);
    expect_near(f, d_branch, v, "d.y", EXACT);
    free(x);
    free(y);
    free(h);
    free(out);
    free(dy);
    free(dh);
    free(d_branch);
}

static void test_add_norm(void **state)
{
    (void)state;
    run_case("op-add_norm", &small, add_norm_case);
}

static void rope_case(fixture *f, const vec_file *v)
{
    const vec *x_vec = vec_get(v, "x"), *flags = vec_get(v, "flags");
    const int64_t rows = x_vec->shape[0], cols = x_vec->shape[1] * x_vec->shape[2];
    const int heads = (int)x_vec->shape[1], d = (int)x_vec->shape[2];
    const bool normed = vec_int(flags, 2) != 0;
    float *cos = vec_floats(v, "cos"), *sin = vec_floats(v, "sin"), *row_scale = vec_floats(v, "row_scale");
    sala_num *w = normed ? fixture_param(f, vec_get(v, "w")) : NULL;
    sala_num *x = vec_nums(v, "x"), *raw = nums(rows * cols), *dx = vec_nums(v, "d.out.y");
    const sala_rope_args args = {.cos = cos,
                                 .sin = sin,
                                 .n_rot = vec_int(flags, 1),
                                 .half = vec_int(flags, 0) != 0,
                                 .norm = w,
                                 .eps = (sala_num)1e-5,
                                 .row_scale = vec_int(flags, 3) ? row_scale : NULL,
                                 .kept = raw,
                                 .kept_stride = cols};
    f->ops->rope(f->be, x, cols, heads, d, rows, &args);
    expect_near(f, x, v, "out.y", EXACT);
    expect_near(f, raw, v, "x", 0);
    f->grad->rope_back(f->be, dx, normed ? fixture_grad(f, w) : NULL, normed ? raw : NULL, cols, heads, d, rows, &args);
    expect_near(f, dx, v, "d.x", EXACT);
    if (normed)
        expect_near(f, fixture_grad(f, w), v, "d.w", EXACT);
    free(cos);
    free(sin);
    free(row_scale);
    free(x);
    free(raw);
    free(dx);
}

static void test_rope(void **state)
{
    (void)state;
    run_case("op-rope-half", &small, rope_case);
    run_case("op-rope-pairs", &small, rope_case);
    run_case("op-rope-both", &small, rope_case);
    run_case("op-rope-norm", &small, rope_case);
}

static void swiglu_case(fixture *f, const vec_file *v)
{
    const int64_t rows = vec_get(v, "up")->shape[0], n = vec_get(v, "up")->shape[1];
    sala_num *gate = vec_nums(v, "gate"), *up = vec_nums(v, "up"), *dy = vec_nums(v, "d.out.y");
    sala_num *y = nums(rows * n), *dg = nums(rows * n), *du = nums(rows * n), *mid = nums(rows * n);
    f->ops->swiglu(f->be, y, gate, up, rows, n);
    expect_near(f, y, v, "out.y", EXACT);
    f->grad->swiglu_back(f->be, dg, du, mid, dy, gate, up, rows, n);
    expect_near(f, dg, v, "d.gate", EXACT);
    expect_near(f, du, v, "d.up", EXACT);
    expect_near(f, mid, v, "out.y", EXACT);
    f->grad->swiglu_back(f->be, dy, du, mid, dy, gate, up, rows, n); /* in the place of what comes in */
    expect_near(f, dy, v, "d.gate", EXACT);
    expect_near(f, du, v, "d.up", EXACT);
    free(gate);
    free(up);
    free(dy);
    free(y);
    free(dg);
    free(du);
    free(mid);
}

static void sigmoid_gate_case(fixture *f, const vec_file *v)
{
    const int64_t rows = vec_get(v, "x")->shape[0], n = vec_get(v, "x")->shape[1];
    sala_num *x = vec_nums(v, "x"), *z = vec_nums(v, "z"), *dy = vec_nums(v, "d.out.y");
    sala_num *y = nums(rows * n), *dx = nums(rows * n), *dz = nums(rows * n);
    f->ops->sigmoid_gate(f->be, y, x, z, rows, n);
    expect_near(f, y, v, "out.y", EXACT);
    f->grad->sigmoid_gate_back(f->be, dx, dz, dy, x, z, rows, n);
    expect_near(f, dx, v, "d.x", EXACT);
    expect_near(f, dz, v, "d.z", EXACT);
    free(x);
    free(z);
    free(dy);
    free(y);
    free(dx);
    free(dz);
}

static void test_gates(void **state)
{
    (void)state;
    run_case("op-swiglu", &small, swiglu_case);
    run_case("op-sigmoid_gate", &small, sigmoid_gate_case);
}

static void embedding_case(fixture *f, const vec_file *v)
{
    const vec *ids_vec = vec_get(v, "ids");
    const int64_t n = ids_vec->count, cols = vec_get(v, "w")->shape[1];
    sala_weight *w = fixture_weight(f, vec_get(v, "w"));
    int32_t *ids = vec_ints(v, "ids");
    sala_num *y = nums(n * cols), *dy = vec_nums(v, "d.out.y");
    f->ops->get_rows(f->be, y, w, ids, n, 12);
    expect_near(f, y, v, "out.y", EXACT);
    f->grad->get_rows_back(f->be, w, ids, dy, n, 12);
    expect_near(f, sala_weight_grad(w), v, "d.w", EXACT);
    f->ops->weight_free(f->be, w);
    free(ids);
    free(y);
    free(dy);
}

static void test_embedding(void **state)
{
    (void)state;
    run_case("op-embedding", &small, embedding_case);
}

/* Sequences of the lengths in the file, one after the other. */
static int make_seqs(sala_attn_seq seqs[8], const vec_file *v, int64_t sparse_from)
{
    const vec *lengths = vec_get(v, "lengths");
    int64_t at = 0;
    memset(seqs, 0, 8 * sizeof *seqs);
    for (int64_t i = 0; i < lengths->count; i++) {
        seqs[i].first_row = at;
        seqs[i].n_rows = vec_int(lengths, i);
        seqs[i].sparse_from = sparse_from;
        at += seqs[i].n_rows;
    }
    return (int)lengths->count;
}

static void attention_case(fixture *f, const vec_file *v)
{
    const vec *q_vec = vec_get(v, "q"), *k_vec = vec_get(v, "k"), *chosen = vec_find(v, "selection");
    const int64_t rows = q_vec->shape[0], e = q_vec->shape[2], q_cols = q_vec->shape[1] * e,
                  kv_cols = k_vec->shape[1] * e;
    sala_attn_seq seqs[8];
    const int n_seqs = make_seqs(seqs, v, chosen ? vec_int(vec_get(v, "sparse_from"), 0) : INT64_MAX);
    sala_num *q = vec_nums(v, "q"), *k = vec_nums(v, "k"), *vv = vec_nums(v, "v"), *d_out = vec_nums(v, "d.out.o");
    sala_num *o = nums(rows * q_cols), *lse = nums(q_vec->shape[1] * rows);
    sala_num *dq = nums(rows * q_cols), *dk = nums(rows * kv_cols), *dv = nums(rows * kv_cols);
    sala_selection selection = {0};
    if (chosen)
        selection = (sala_selection){vec_ints(v, "selection"), (int)chosen->shape[2] - 1, 64};
    const sala_attn_args args = {.seqs = seqs,
                                 .n_seqs = n_seqs,
                                 .n_rows = rows,
                                 .kv = {SALA_F32, (int)k_vec->shape[1], (int)e, 0},
                                 .n_heads = (int)q_vec->shape[1],
                                 .scale = (sala_num)(1 / sqrt((double)e)),
                                 .window = chosen ? 0 : vec_int(vec_get(v, "window"), 0),
                                 .selection = chosen ? &selection : NULL,
                                 .q = q,
                                 .q_stride = q_cols,
                                 .out = o,
                                 .out_stride = q_cols,
                                 .k = k,
                                 .v = vv,
                                 .kv_stride = kv_cols,
                                 .lse = lse};
    f->ops->attention(f->be, &args);
    expect(f, o, v, "out.o");
    expect(f, lse, v, "out.lse");
    const sala_attn_back_args back = {
        .fwd = args, .k = k, .v = vv, .kv_stride = kv_cols, .lse = lse, .d_out = d_out, .dq = dq, .dk = dk, .dv = dv};
    f->grad->attention_back(f->be, &back);
    expect(f, dq, v, "d.q");
    expect(f, dk, v, "d.k");
    expect(f, dv, v, "d.v");
    free(selection.list);
    free(q);
    free(k);
    free(vv);
    free(d_out);
    free(o);
    free(lse);
    free(dq);
    free(dk);
    free(dv);
}

static void test_attention(void **state)
{
    (void)state;
    run_case("op-attention-dense", &small, attention_case);
    run_case("op-attention-one", &small, attention_case);
    run_case("op-attention-window", &small, attention_case);
}

static void test_sparse(void **state)
{
    (void)state;
    sala_backend_limits limits = small;
    limits.selected = 3;
    limits.tokens = 512;
    run_case("op-attention-sparse", &limits, attention_case);
}

static void lightning_case(fixture *f, const vec_file *v)
{
    const vec *q_vec = vec_get(v, "q"), *k_vec = vec_get(v, "k");
    const int64_t rows = q_vec->shape[0], e = q_vec->shape[2], q_cols = q_vec->shape[1] * e,
                  kv_cols = k_vec->shape[1] * e;
    sala_attn_seq seqs[8];
    const int n_seqs = make_seqs(seqs, v, INT64_MAX);
    float *decay = vec_floats(v, "decay");
    sala_num *q = vec_nums(v, "q"), *k = vec_nums(v, "k"), *vv = vec_nums(v, "v"), *d_out = vec_nums(v, "d.out.o");
    for (int every = 1; every <= 4; every += 3) {
        sala_num *o = nums(rows * q_cols), *states = nums((rows / 64 + n_seqs) * q_cols * e);
        sala_num *dq = nums(rows * q_cols), *dk = nums(rows * kv_cols), *dv = nums(rows * kv_cols);
        const sala_lightning_args args = {.seqs = seqs,
                                          .n_seqs = n_seqs,
                                          .n_rows = rows,
                                          .n_heads = (int)q_vec->shape[1],
                                          .n_kv_heads = (int)k_vec->shape[1],
                                          .head_dim = (int)e,
                                          .scale = (sala_num)vec_at(vec_get(v, "scale"), 0),
                                          .decay = decay,
                                          .q = q,
                                          .k = k,
                                          .v = vv,
                                          .q_stride = q_cols,
                                          .kv_stride = kv_cols,
                                          .out = o,
                                          .out_stride = q_cols,
                                          .states = states,
                                          .states_every = every};
        f->ops->lightning(f->be, &args);
        expect_near(f, o, v, "out.o", EXACT);
        const sala_lightning_back_args back = {
            .fwd = args, .states = states, .states_every = every, .d_out = d_out, .dq = dq, .dk = dk, .dv = dv};
        f->grad->lightning_back(f->be, &back);
        expect_near(f, dq, v, "d.q", EXACT);
        expect_near(f, dk, v, "d.k", EXACT);
        expect_near(f, dv, v, "d.v", EXACT);
        free(o);
        free(states);
        free(dq);
        free(dk);
        free(dv);
    }
    free(decay);
    free(q);
    free(k);
    free(vv);
    free(d_out);
}

static void test_lightning(void **state)
{
    (void)state;
    sala_backend_limits limits = small;
    limits.lightning_heads = 4;
    limits.lightning_kv_heads = 2;
    limits.lightning_head_dim = 16;
    run_case("op-lightning-group", &limits, lightning_case);
    run_case("op-lightning-one", &limits, lightning_case);
}

static void head_case(fixture *f, const vec_file *v)
{
    const vec *x_vec = vec_get(v, "x"), *numbers = vec_get(v, "numbers"), *sums = vec_get(v, "out.sums");
    const int64_t rows = x_vec->shape[0], n = x_vec->shape[1], vocab = vec_get(v, "w")->shape[0];
    sala_weight *w = fixture_weight(f, vec_get(v, "w"));
    int32_t *labels = vec_ints(v, "labels");
    float *weight = vec_floats(v, "weight"), *losses = calloc((size_t)rows, sizeof *losses);
    sala_num *x = vec_nums(v, "x"), *dx = nums(rows * n);
    for (int64_t i = 0; i < rows * n; i++)
        dx[i] = 99;
    sala_head_args args = {.head = w,
                           .x = x,
                           .n_rows = rows,
                           .n_embd = n,
                           .n_vocab = vocab,
                           .labels = labels,
                           .row_weight = weight,
                           .inv_divisor = (sala_num)vec_at(numbers, 0),
                           .loss_scale = (sala_num)vec_at(numbers, 1),
                           .zloss = (sala_num)vec_at(numbers, 2),
                           .dx = dx,
                           .row_losses = losses};
    f->grad->head_loss(f->be, &args);
    expect(f, dx, v, "d.x");
    expect(f, sala_weight_grad(w), v, "d.w");
    int64_t supervised = 0;
    for (int64_t i = 0; i < rows; i++) {
        supervised += labels[i] >= 0;
        assert_true(fabs(losses[i] - vec_at(vec_get(v, "out.losses"), i)) <= 10 * f->tolerance);
    }
    assert_int_equal(args.n_supervised, supervised);
    assert_true(fabs(args.loss / vec_at(sums, 0) - 1) <= f->tolerance);
    assert_true(fabs(args.zloss_sum / vec_at(sums, 1) - 1) <= f->tolerance);
    if (f->tolerance == EXACT) /* rounded logits may change places */
        assert_true(args.correct == vec_at(sums, 2));

    /* Without a gradient: the same losses, and nothing is added. */
    const double loss = args.loss;
    args.dx = NULL;
    f->grad->head_loss(f->be, &args);
    assert_true(args.loss == loss);
    expect(f, sala_weight_grad(w), v, "d.w");
    f->ops->weight_free(f->be, w);
    free(labels);
    free(weight);
    free(losses);
    free(x);
    free(dx);
}

static void test_head(void **state)
{
    (void)state;
    run_case("op-head", &small, head_case);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_rms_norm),  cmocka_unit_test(test_add_norm),
        cmocka_unit_test(test_rope),      cmocka_unit_test(test_gates),     cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_head),      cmocka_unit_test(test_attention), cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_lightning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
