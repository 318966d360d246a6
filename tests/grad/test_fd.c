/* Every operation of the training device against central finite differences, in double precision: an oracle that knows
 * nothing of formulas. The loss is a fixed random linear functional of an operation's outputs (the head has a loss of
 * its own); inputs are uniform in [-1, 1]; the step is 1e-5. */
#include "grad_test.h"

enum { MOST = 8, SAMPLES = 40 };

/* An operation between arrays. Inputs that are parameters lie in the device's arena, and so do their gradients. */
typedef struct op op;
struct op {
    fixture *f;
    const char *name;
    sala_num *in[MOST], *d_in[MOST], *out[MOST], *d_out[MOST];
    int64_t n_in[MOST], n_out[MOST];
    int inputs, outputs;
    void (*forward)(op *o);
    void (*backward)(op *o); /* d_out to d_in, which is zero before */
    double loss;             /* of operations without outputs */
    int64_t rows, n;
    const void *args;
};

static sala_rng rng;

static void fill(sala_num *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 2 * sala_rng_uniform(&rng) - 1;
}

static sala_num *add_input(op *o, int64_t n)
{
    const int i = o->inputs++;
    o->in[i] = nums(n);
    o->d_in[i] = nums(n);
    o->n_in[i] = n;
    fill(o->in[i], n);
    return o->in[i];
}

static sala_num *add_param(op *o, int64_t n)
{
    const int i = o->inputs++;
    fixture *f = o->f;
    o->in[i] = f->values + f->used;
    o->d_in[i] = f->grads + f->used;
    o->n_in[i] = n;
    f->used += (n + 15) / 16 * 16;
    assert_true(f->used <= FIXTURE_NUMBERS);
    fill(o->in[i], n);
    return o->in[i];
}

static sala_weight *add_weight(op *o, int64_t rows, int64_t cols)
{
    sala_weight *w = NULL;
    assert_int_equal(o->f->ops->weight_new(o->f->be, &w, SALA_F32, rows, cols, add_param(o, rows * cols), NULL),
                     SALA_OK);
    return w;
}

static void add_output(op *o, int64_t n)
{
    const int i = o->outputs++;
    o->out[i] = nums(n);
    o->d_out[i] = nums(n);
    o->n_out[i] = n;
    fill(o->d_out[i], n);
}

static bool is_param(const op *o, int i)
{
    return o->in[i] >= o->f->values && o->in[i] < o->f->values + FIXTURE_NUMBERS;
}

static double loss_of(op *o)
{
    o->forward(o);
    double sum = o->loss;
    for (int i = 0; i < o->outputs; i++)
        for (int64_t j = 0; j < o->n_out[i]; j++)
            sum += (double)(o->out[i][j] * o->d_out[i][j]);
    return sum;
}

static void check(op *o)
{
    loss_of(o);
    o->backward(o);
    for (int i = 0; i < o->inputs; i++) {
        const bool all = o->n_in[i] <= SAMPLES;
        for (int64_t s = 0; s < (all ? o->n_in[i] : SAMPLES); s++) {
            const int64_t j = all ? s : (int64_t)(sala_rng_next(&rng) % (uint64_t)o->n_in[i]);
            const sala_num at = o->in[i][j], step = (sala_num)1e-5;
            o->in[i][j] = at + step;
            const double above = loss_of(o);
            o->in[i][j] = at - step;
            const double below = loss_of(o);
            o->in[i][j] = at;
            const double want = (above - below) / 2e-5, got = (double)o->d_in[i][j], off = fabs(got - want);
            if (!(off <= 1e-8 || off <= 1e-6 * fabs(want)))
                fail_msg("%s: input %d, number %lld: %.12g, differences say %.12g", o->name, i, (long long)j, got,
                         want);
        }
    }
    for (int i = 0; i < o->inputs; i++) {
        if (is_param(o, i))
            continue;
        free(o->in[i]);
        free(o->d_in[i]);
    }
    for (int i = 0; i < o->outputs; i++) {
        free(o->out[i]);
        free(o->d_out[i]);
    }
}

static const sala_backend_limits limits = {.rows = 512,
                                           .cols = 64,
                                           .tokens = 512,
                                           .n_heads = 4,
                                           .n_kv_heads = 2,
                                           .head_dim = 16,
                                           .lightning_head_dim = 8,
                                           .lightning_heads = 4,
                                           .lightning_kv_heads = 2,
                                           .selected = 3,
                                           .vocab = 64};

static void begin(op *o, fixture *f, const char *name, void (*forward)(op *), void (*backward)(op *))
{
    assert_true(fixture_open(f, &fixture_kinds[0], &limits));
    sala_rng_seed(&rng, test_seed(17));
    *o = (op){.f = f, .name = name, .forward = forward, .backward = backward};
}

/* ---- products ---- */

typedef struct linear_args {
    sala_weight *w[2];
    sala_num *bias;
} linear_args;

static void linear_forward(op *o)
{
    const linear_args *a = o->args;
    const sala_linear_out outs[] = {{a->w[0], o->out[0], 11, a->bias}, {a->w[1], o->out[1], 6, NULL}};
    o->f->ops->linear_group(o->f->be, outs, 2, o->in[0], o->rows, o->n);
}

static void linear_backward(op *o)
{
    const linear_args *a = o->args;
    const sala_linear_back outs[] = {{a->w[0], o->d_out[0], 11, fixture_grad(o->f, a->bias)},
                                     {a->w[1], o->d_out[1], 6, NULL}};
    o->f->grad->linear_group_back(o->f->be, outs, 2, o->d_in[0], o->in[0], o->rows, o->n, false);
}

static void test_linear(void **state)
{
    (void)state;
    fixture f;
    op o;
    begin(&o, &f, "linear", linear_forward, linear_backward);
    o.rows = 70;
    o.n = 9;
    add_input(&o, o.rows * o.n);
    linear_args a = {.w = {add_weight(&o, 11, 9), NULL}};
    a.w[1] = add_weight(&o, 6, 9);
    a.bias = add_param(&o, 11);
    o.args = &a;
    add_output(&o, o.rows * 11);
    add_output(&o, o.rows * 6);
    check(&o);
    f.ops->weight_free(f.be, a.w[0]);
    f.ops->weight_free(f.be, a.w[1]);
    fixture_close(&f);
}

static const int32_t few_ids[] = {3, 0, 3, 3, 5, 1, 5};

static void rows_forward(op *o)
{
    o->f->ops->get_rows(o->f->be, o->out[0], o->args, few_ids, SALA_ARRAY_LEN(few_ids), (sala_num)1.5);
}

static void rows_backward(op *o)
{
    o->f->grad->get_rows_back(o->f->be, o->args, few_ids, o->d_out[0], SALA_ARRAY_LEN(few_ids), (sala_num)1.5);
}

static void test_rows(void **state)
{
    (void)state;
    fixture f;
    op o;
    begin(&o, &f, "get_rows", rows_forward, rows_backward);
    sala_weight *w = add_weight(&o, 7, 5);
    o.args = w;
    add_output(&o, (int64_t)SALA_ARRAY_LEN(few_ids) * 5);
    check(&o);
    f.ops->weight_free(f.be, w);
    fixture_close(&f);
}

/* ---- rows ---- */

static void norm_forward(op *o)
{
    o->f->ops->add_norm(o->f->be, o->out[1], o->out[0], o->in[0], o->in[1], (sala_num)0.3, o->in[2], o->rows, o->n,
                        (sala_num)1e-5);
}

static void norm_backward(op *o)
{
    /* The gradient of the sum is what arrives there and what comes through the norm. */
    memcpy(o->d_in[0], o->d_out[0], (size_t)(o->rows * o->n) * sizeof(sala_num));
    o->f->grad->rms_norm_back(o->f->be, o->d_in[0], o->d_in[2], o->d_out[1], o->out[0], o->in[2], o->rows, o->n,
                              (sala_num)1e-5, true);
    o->f->grad->scale_to(o->f->be, o->d_in[1], o->d_in[0], (sala_num)0.3, o->rows, o->n);
}

static void test_norm(void **state)
{
    (void)state;
    fixture f;
    op o;
    begin(&o, &f, "add_norm", norm_forward, norm_backward);
    o.rows = 5;
    o.n = 7;
    add_input(&o, 35);
    add_input(&o, 35);
    add_param(&o, 7);
    add_output(&o, 35);
    add_output(&o, 35);
    check(&o);
    fixture_close(&f);
}

static void swiglu_forward(op *o)
{
    o->f->ops->swiglu(o->f->be, o->out[0], o->in[0], o->in[1], o->rows, o->n);
}

static void swiglu_backward(op *o)
{
    sala_num *mid = nums(o->rows * o->n);
    o->f->grad->swiglu_back(o->f->be, o->d_in[0], o->d_in[1], mid, o->d_out[0], o->in[0], o->in[1], o->rows, o->n);
    free(mid);
}

static void gate_forward(op *o)
{
    o->f->ops->sigmoid_gate(o->f->be, o->out[0], o->in[0], o->in[1], o->rows, o->n);
}

static void gate_backward(op *o)
{
    o->f->grad->sigmoid_gate_back(o->f->be, o->d_in[0], o->d_in[1], o->d_out[0], o->in[0], o->in[1], o->rows, o->n);
}

static void test_gates(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture f;
        op o;
        begin(&o, &f, i ? "sigmoid_gate" : "swiglu", i ? gate_forward : swiglu_forward,
              i ? gate_backward : swiglu_backward);
        o.rows = 3;
        o.n = 9;
        add_input(&o, 27);
        add_input(&o, 27);
        add_output(&o, 27);
        check(&o);
        fixture_close(&f);
    }
}

/* Two heads of 6, of which 4 components turn. */
static void rope_forward(op *o)
{
    memcpy(o->out[0], o->in[0], (size_t)(o->rows * 12) * sizeof(sala_num));
    o->f->ops->rope(o->f->be, o->out[0], 12, 2, 6, o->rows, o->args);
}

static void rope_backward(op *o)
{
    const sala_rope_args *a = o->args;
    memcpy(o->d_in[0], o->d_out[0], (size_t)(o->rows * 12) * sizeof(sala_num));
    o->f->grad->rope_back(o->f->be, o->d_in[0], a->norm ? o->d_in[1] : NULL, a->norm ? o->in[0] : NULL, 12, 2, 6,
                          o->rows, a);
}

static void test_rope(void **state)
{
    (void)state;
    float cos[6 * 2], sin[6 * 2], scale[6];
    for (int i = 0; i < 12; i++) {
        cos[i] = (float)(1.2 * cosf((float)i));
        sin[i] = (float)(1.2 * sinf((float)i));
    }
    for (int i = 0; i < 6; i++)
        scale[i] = 1 + (float)i / 3;
    for (int i = 0; i < 4; i++) {
        fixture f;
        op o;
        begin(&o, &f, "rope", rope_forward, rope_backward);
        o.rows = 6;
        add_input(&o, 72);
        sala_num *norm = i % 2 ? add_param(&o, 6) : NULL;
        const sala_rope_args args = {.cos = cos,
                                     .sin = sin,
                                     .n_rot = 4,
                                     .half = i / 2 != 0,
                                     .norm = norm,
                                     .eps = (sala_num)1e-5,
                                     .row_scale = i == 2 ? scale : NULL};
        o.args = &args;
        add_output(&o, 72);
        check(&o);
        fixture_close(&f);
    }
}

/* ---- mixers ---- */

typedef struct attention_args {
    sala_attn_args a;
    sala_num *lse;
} attention_args;

static void attention_forward(op *o)
{
    o->f->ops->attention(o->f->be, &((const attention_args *)o->args)->a);
}

static void attention_backward(op *o)
{
    const attention_args *a = o->args;
    const sala_attn_back_args back = {.fwd = a->a,
                                      .k = o->in[1],
                                      .v = o->in[2],
                                      .kv_stride = a->a.kv_stride,
                                      .lse = a->lse,
                                      .d_out = o->d_out[0],
                                      .dq = o->d_in[0],
                                      .dk = o->d_in[1],
                                      .dv = o->d_in[2]};
    o->f->grad->attention_back(o->f->be, &back);
}

static void attention_test(const char *name, const sala_attn_seq *seqs, int n_seqs, const sala_selection *selection)
{
    enum { HEADS = 4, KV = 2, E = 6 };
    fixture f;
    op o;
    begin(&o, &f, name, attention_forward, attention_backward);
    o.rows = seqs[n_seqs - 1].first_row + seqs[n_seqs - 1].n_rows;
    attention_args args = {.lse = nums(HEADS * o.rows)};
    add_input(&o, o.rows * HEADS * E);
    add_input(&o, o.rows * KV * E);
    add_input(&o, o.rows * KV * E);
    add_output(&o, o.rows * HEADS * E);
    args.a = (sala_attn_args){.seqs = seqs,
                              .n_seqs = n_seqs,
                              .n_rows = o.rows,
                              .kv = {SALA_F32, KV, E, 0},
                              .n_heads = HEADS,
                              .scale = (sala_num)0.7,
                              .selection = selection,
                              .q = o.in[0],
                              .q_stride = HEADS * E,
                              .out = o.out[0],
                              .out_stride = HEADS * E,
                              .k = o.in[1],
                              .v = o.in[2],
                              .kv_stride = KV * E,
                              .lse = args.lse};
    o.args = &args;
    check(&o);
    free(args.lse);
    fixture_close(&f);
}

static void test_attention(void **state)
{
    (void)state;
    const sala_attn_seq seqs[] = {{.first_row = 0, .n_rows = 9, .sparse_from = INT64_MAX},
                                  {.first_row = 9, .n_rows = 70, .sparse_from = INT64_MAX}};
    attention_test("attention", seqs, 2, NULL);
}

static void test_sparse(void **state)
{
    (void)state;
    enum { ROWS = 150, START = 70, MOST_BLOCKS = 3 };
    const sala_attn_seq seqs[] = {{.first_row = 0, .n_rows = ROWS, .sparse_from = START}};
    int32_t *list = calloc(ROWS * 2 * (1 + MOST_BLOCKS), sizeof *list);
    assert_non_null(list);
    for (int i = 0; i < ROWS; i++)
        for (int h = 0; h < 2; h++) {
            int32_t *at = list + (i * 2 + h) * (1 + MOST_BLOCKS);
            at[0] = i < START ? -1 : 1 + (i + h) % 2;
            if (at[0] == 2)
                at[1] = (i / 3) % (i / 64);
            at[at[0] > 0 ? at[0] : 1] = i / 64;
        }
    const sala_selection selection = {list, MOST_BLOCKS, 64};
    attention_test("attention over selected blocks", seqs, 1, &selection);
    free(list);
}

static void lightning_forward(op *o)
{
    o->f->ops->lightning(o->f->be, o->args);
}

static void lightning_backward(op *o)
{
    const sala_lightning_args *a = o->args;
    const sala_lightning_back_args back = {.fwd = *a,
                                           .states = a->states,
                                           .states_every = a->states_every,
                                           .d_out = o->d_out[0],
                                           .dq = o->d_in[0],
                                           .dk = o->d_in[1],
                                           .dv = o->d_in[2]};
    o->f->grad->lightning_back(o->f->be, &back);
}

static void test_lightning(void **state)
{
    (void)state;
    enum { HEADS = 4, KV = 2, E = 6, ROWS = 210 };
    const sala_attn_seq seqs[] = {{.first_row = 0, .n_rows = 200}, {.first_row = 200, .n_rows = 10}};
    float decay[HEADS][65];
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i <= 64; i++)
            decay[h][i] = expf(-0.3f / (float)(h + 1) * (float)i);
    for (int every = 1; every <= 4; every += 3) {
        fixture f;
        op o;
        begin(&o, &f, "lightning", lightning_forward, lightning_backward);
        add_input(&o, ROWS * HEADS * E);
        add_input(&o, ROWS * KV * E);
        add_input(&o, ROWS * KV * E);
        add_output(&o, ROWS * HEADS * E);
        sala_num *states = nums(5 * HEADS * E * E);
        const sala_lightning_args args = {.seqs = seqs,
                                          .n_seqs = 2,
                                          .n_rows = ROWS,
                                          .n_heads = HEADS,
                                          .n_kv_heads = KV,
                                          .head_dim = E,
                                          .scale = (sala_num)0.4,
                                          .decay = decay[0],
                                          .q = o.in[0],
                                          .k = o.in[1],
                                          .v = o.in[2],
                                          .q_stride = HEADS * E,
                                          .kv_stride = KV * E,
                                          .out = o.out[0],
                                          .out_stride = HEADS * E,
                                          .states = states,
                                          .states_every = every};
        o.args = &args;
        check(&o);
        free(states);
        fixture_close(&f);
    }
}

/* ---- the loss ---- */

static void head_forward(op *o)
{
    sala_head_args a = *(const sala_head_args *)o->args;
    o->f->grad->head_loss(o->f->be, &a);
    o->loss = (double)a.loss_scale * (a.loss + a.zloss_sum);
}

static void head_backward(op *o)
{
    sala_head_args a = *(const sala_head_args *)o->args;
    a.dx = o->d_in[0];
    o->f->grad->head_loss(o->f->be, &a);
}

static void test_head(void **state)
{
    (void)state;
    enum { ROWS = 7, N = 5, VOCAB = 12 };
    static const int32_t labels[ROWS] = {3, -1, 0, 11, 11, -1, 5};
    static const float weights[ROWS] = {1, 1, 0.5f, 2, 0, 1, -0.25f};
    fixture f;
    op o;
    begin(&o, &f, "head_loss", head_forward, head_backward);
    add_input(&o, ROWS * N);
    sala_weight *w = add_weight(&o, VOCAB, N);
    const sala_head_args args = {.head = w,
                                 .x = o.in[0],
                                 .n_rows = ROWS,
                                 .n_embd = N,
                                 .n_vocab = VOCAB,
                                 .labels = labels,
                                 .row_weight = weights,
                                 .inv_divisor = (sala_num)0.5,
                                 .loss_scale = (sala_num)0.2,
                                 .zloss = (sala_num)0.01};
    o.args = &args;
    check(&o);
    f.ops->weight_free(f.be, w);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_rows),   cmocka_unit_test(test_norm),
        cmocka_unit_test(test_gates),     cmocka_unit_test(test_rope),   cmocka_unit_test(test_head),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_sparse), cmocka_unit_test(test_lightning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
