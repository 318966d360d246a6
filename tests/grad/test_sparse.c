/* What must hold of attention over selected blocks whatever its numbers are: everything selected is dense attention;
 * the order of documents in a batch changes nothing; nor does a constant that all scores of a row share. */
#include "grad_test.h"

#ifdef SALA_TRAIN_F64
#define SAME 1e-12
#else
#define SAME 1e-5
#endif

enum { HEADS = 4, KV = 2, E = 8, BLOCK = 64, MOST_SEQS = 2 };

typedef struct problem {
    sala_attn_seq seqs[MOST_SEQS];
    int n_seqs;
    int64_t rows;
    sala_num *q, *k, *v, *d_out; /* in */
    int32_t *list;
    int most;
    sala_num *o, *lse, *dq, *dk, *dv; /* out */
} problem;

static const sala_backend_limits limits = {
    .rows = 512, .cols = 64, .tokens = 512, .n_heads = HEADS, .n_kv_heads = KV, .head_dim = E, .selected = 4};

static void fill(sala_rng *rng, sala_num *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (sala_num)(2 * sala_rng_uniform(rng) - 1);
}

static problem make(const int64_t *lengths, int n_seqs, int most)
{
    problem p = {.n_seqs = n_seqs, .most = most};
    for (int s = 0; s < n_seqs; s++) {
        p.seqs[s] = (sala_attn_seq){.first_row = p.rows, .n_rows = lengths[s], .sparse_from = 0};
        p.rows += lengths[s];
    }
    p.q = nums(p.rows * HEADS * E);
    p.k = nums(p.rows * KV * E);
    p.v = nums(p.rows * KV * E);
    p.d_out = nums(p.rows * HEADS * E);
    p.o = nums(p.rows * HEADS * E);
    p.lse = nums(p.rows * HEADS);
    p.dq = nums(p.rows * HEADS * E);
    p.dk = nums(p.rows * KV * E);
    p.dv = nums(p.rows * KV * E);
    p.list = calloc((size_t)(p.rows * KV * (1 + most)), sizeof *p.list);
    assert_non_null(p.list);
    return p;
}

static void drop(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->d_out);
    free(p->list);
    free(p->o);
    free(p->lse);
    free(p->dq);
    free(p->dk);
    free(p->dv);
}

/* All blocks up to the row's own; -1 where the list is too short for them. */
static void select_all(problem *p)
{
    for (int s = 0; s < p->n_seqs; s++)
        for (int64_t i = 0; i < p->seqs[s].n_rows; i++)
            for (int h = 0; h < KV; h++) {
                int32_t *at = p->list + ((p->seqs[s].first_row + i) * KV + h) * (1 + p->most);
                const int n = (int)(i / BLOCK) + 1;
                at[0] = n > p->most ? -1 : n;
                for (int b = 0; b < at[0]; b++)
                    at[1 + b] = b;
            }
}

/* The own block and, by turns, another. */
static void select_some(problem *p)
{
    for (int s = 0; s < p->n_seqs; s++)
        for (int64_t i = 0; i < p->seqs[s].n_rows; i++)
            for (int h = 0; h < KV; h++) {
                int32_t *at = p->list + ((p->seqs[s].first_row + i) * KV + h) * (1 + p->most);
                const int own = (int)(i / BLOCK);
                at[0] = own ? 2 : 1;
                if (own)
                    at[1] = (int)(i + h) % own;
                at[at[0]] = own;
            }
}

static void run(fixture *f, problem *p, bool sparse)
{
    const sala_selection selection = {p->list, p->most, BLOCK};
    const sala_attn_args args = {.seqs = p->seqs,
                                 .n_seqs = p->n_seqs,
                                 .n_rows = p->rows,
                                 .kv = {SALA_F32, KV, E, 0},
                                 .n_heads = HEADS,
                                 .scale = (sala_num)0.5,
                                 .selection = sparse ? &selection : NULL,
                                 .q = p->q,
                                 .q_stride = HEADS * E,
                                 .out = p->o,
                                 .out_stride = HEADS * E,
                                 .k = p->k,
                                 .v = p->v,
                                 .kv_stride = KV * E,
                                 .lse = p->lse};
    f->ops->attention(f->be, &args);
    const sala_attn_back_args back = {.fwd = args,
                                      .k = p->k,
                                      .v = p->v,
                                      .kv_stride = KV * E,
                                      .lse = p->lse,
                                      .d_out = p->d_out,
                                      .dq = p->dq,
                                      .dk = p->dk,
                                      .dv = p->dv};
    f->grad->attention_back(f->be, &back);
}

/* Of rows [at, at + n) here and [other_at, ...) there; components below `e` of each head. */
static void same(const char *what, const sala_num *x, const sala_num *y, int64_t at, int64_t other_at, int64_t n,
                 int heads, int e)
{
    for (int64_t i = 0; i < n; i++)
        for (int h = 0; h < heads; h++)
            for (int c = 0; c < e; c++) {
                const double a = (double)x[((at + i) * heads + h) * E + c],
                             b = (double)y[((other_at + i) * heads + h) * E + c];
                if (!(fabs(a - b) <= SAME * (1 + fabs(a))))
                    fail_msg("%s: row %lld: %.15g and %.15g", what, (long long)i, a, b);
            }
}

static void open_first(fixture *f)
{
#ifdef SALA_TRAIN_F64
    assert_true(fixture_open(f, &fixture_kinds[0], &limits));
#else
    assert_true(fixture_open(f, &(fixture_kind){"auto", NULL, SALA_PRECISION_F32, true, 2}, &limits));
#endif
}

static void copy_inputs(problem *to, const problem *from)
{
    memcpy(to->q, from->q, (size_t)(from->rows * HEADS * E) * sizeof *to->q);
    memcpy(to->k, from->k, (size_t)(from->rows * KV * E) * sizeof *to->k);
    memcpy(to->v, from->v, (size_t)(from->rows * KV * E) * sizeof *to->v);
    memcpy(to->d_out, from->d_out, (size_t)(from->rows * HEADS * E) * sizeof *to->d_out);
}

static void draw(problem *p, uint64_t seed)
{
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(seed));
    fill(&rng, p->q, p->rows * HEADS * E);
    fill(&rng, p->k, p->rows * KV * E);
    fill(&rng, p->v, p->rows * KV * E);
    fill(&rng, p->d_out, p->rows * HEADS * E);
}

static void test_everything(void **state)
{
    (void)state;
    fixture f;
    open_first(&f);
    const int64_t lengths[] = {310};
    problem sparse = make(lengths, 1, 4), dense = make(lengths, 1, 4);
    draw(&sparse, 1);
    copy_inputs(&dense, &sparse);
    select_all(&sparse);
    run(&f, &sparse, true);
    run(&f, &dense, false);
    same("o", sparse.o, dense.o, 0, 0, sparse.rows, HEADS, E);
    same("dq", sparse.dq, dense.dq, 0, 0, sparse.rows, HEADS, E);
    same("dk", sparse.dk, dense.dk, 0, 0, sparse.rows, KV, E);
    same("dv", sparse.dv, dense.dv, 0, 0, sparse.rows, KV, E);
    /* And it is not always so. */
    select_some(&sparse);
    run(&f, &sparse, true);
    assert_true(fabs((double)(sparse.o[300 * HEADS * E] - dense.o[300 * HEADS * E])) > 1e-3);
    drop(&sparse);
    drop(&dense);
    fixture_close(&f);
}

static void test_order_of_documents(void **state)
{
    (void)state;
    fixture f;
    open_first(&f);
    const int64_t lengths[] = {270, 140}, swapped[] = {140, 270};
    problem a = make(lengths, 2, 2), b = make(swapped, 2, 2);
    draw(&a, 2);
    const sala_num *const from[] = {a.q, a.k, a.v, a.d_out};
    sala_num *const to[] = {b.q, b.k, b.v, b.d_out};
    for (int i = 0; i < 4; i++) {
        const int64_t cols = i == 0 || i == 3 ? HEADS * E : KV * E;
        memcpy(to[i] + 140 * cols, from[i], (size_t)(270 * cols) * sizeof(sala_num));
        memcpy(to[i], from[i] + 270 * cols, (size_t)(140 * cols) * sizeof(sala_num));
    }
    select_some(&a);
    select_some(&b);
    run(&f, &a, true);
    run(&f, &b, true);
    for (int d = 0; d < 2; d++) {
        const int64_t at = d ? 270 : 0, other = d ? 0 : 140, n = d ? 140 : 270;
        same("o", a.o, b.o, at, other, n, HEADS, E);
        same("dq", a.dq, b.dq, at, other, n, HEADS, E);
        same("dk", a.dk, b.dk, at, other, n, KV, E);
        same("dv", a.dv, b.dv, at, other, n, KV, E);
    }
    drop(&a);
    drop(&b);
    fixture_close(&f);
}

/* The last component of every query is 1, that of every key a constant: all scores move together. */
static void test_constant(void **state)
{
    (void)state;
    fixture f;
    open_first(&f);
    const int64_t lengths[] = {200};
    problem a = make(lengths, 1, 2), b = make(lengths, 1, 2);
    draw(&a, 3);
    for (int64_t i = 0; i < a.rows * HEADS; i++)
        a.q[i * E + E - 1] = 1;
    for (int64_t i = 0; i < a.rows * KV; i++)
        a.k[i * E + E - 1] = 0;
    copy_inputs(&b, &a);
    for (int64_t i = 0; i < b.rows * KV; i++)
        b.k[i * E + E - 1] = 3;
    select_some(&a);
    select_some(&b);
    run(&f, &a, true);
    run(&f, &b, true);
    same("o", a.o, b.o, 0, 0, a.rows, HEADS, E);
    same("dq", a.dq, b.dq, 0, 0, a.rows, HEADS, E - 1);
    same("dk", a.dk, b.dk, 0, 0, a.rows, KV, E);
    same("dv", a.dv, b.dv, 0, 0, a.rows, KV, E);
    for (int64_t i = 0; i < a.rows * HEADS; i++)
        assert_true(fabs((double)(b.lse[i] - a.lse[i]) - 1.5) < 1e-4);
    drop(&a);
    drop(&b);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_order_of_documents),
        cmocka_unit_test(test_constant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
