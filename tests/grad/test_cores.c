/* Cores of mixers on batches that are longer than a tile, a task, a stretch of keys and a span, against the definition
 * in double precision, pair by pair; and the same bits for any number of threads. Heads of several sizes (odd to every
 * register, and as large as those of 8 B models), groups of several sizes, blocks smaller and larger than a tile. */
#include "grad_test.h"

enum { MOST_ROWS = 1500, MOST_HEADS = 8, MOST = 4, EVERY = 4 };

typedef struct shape {
    int heads, kv, e; /* of query heads, key heads; components */
    int64_t rows;
    int block;
} shape;

typedef struct problem {
    shape shape;
    sala_attn_seq seqs[2];
    int64_t window;
    bool sparse;
    sala_num *q, *k, *v, *d_out, *o, *lse, *dq, *dk, *dv, *states;
    int32_t *list;
    float decay[MOST_HEADS * 65];
    double *want_o, *want_dq, *want_dk, *want_dv;
} problem;

static double *doubles(int64_t n)
{
    double *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static problem *make(shape s, int64_t first, uint64_t seed)
{
    problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    assert_true(s.heads <= MOST_HEADS && s.rows <= MOST_ROWS);
    p->shape = s;
    p->seqs[0] = (sala_attn_seq){.first_row = 0, .n_rows = first, .sparse_from = 100};
    p->seqs[1] = (sala_attn_seq){.first_row = first, .n_rows = s.rows - first, .sparse_from = 100};
    sala_num **in[] = {&p->q, &p->d_out, &p->k, &p->v}, **out[] = {&p->o, &p->dq, &p->dk, &p->dv};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(seed));
    for (int a = 0; a < 4; a++) {
        const int64_t n = s.rows * (int64_t)(a < 2 ? s.heads : s.kv) * s.e;
        *in[a] = nums(n);
        *out[a] = nums(n);
        for (int64_t i = 0; i < n; i++)
            (*in[a])[i] = (sala_num)(2 * sala_rng_uniform(&rng) - 1);
    }
    p->lse = nums(s.rows * s.heads);
    p->states = nums((int64_t)s.rows / 64 * s.heads * s.e * s.e);
    p->list = calloc((size_t)s.rows * s.kv * (1 + MOST), sizeof *p->list);
    assert_non_null(p->list);
    for (int q = 0; q < 2; q++)
        for (int64_t i = 0; i < p->seqs[q].n_rows; i++)
            for (int h = 0; h < s.kv; h++) {
                int32_t *at = p->list + ((p->seqs[q].first_row + i) * s.kv + h) * (1 + MOST);
                const int own = (int)(i / s.block);
                if (i < 100 || own < MOST) {
                    at[0] = -1;
                    continue;
                }
                for (int b = 0, left = MOST - 1; b < own; b++)
                    if (left && (own - b <= left || sala_rng_uniform(&rng) * (own - b) < left)) {
                        at[1 + at[0]++] = b;
                        left--;
                    }
                at[1 + at[0]++] = own;
            }
    for (int h = 0; h < s.heads; h++)
        for (int i = 0; i <= 64; i++)
            p->decay[h * 65 + i] = (float)exp(-0.03 * (h + 1) * i);
    p->want_o = doubles(s.rows * s.heads * s.e);
    p->want_dq = doubles(s.rows * s.heads * s.e);
    p->want_dk = doubles(s.rows * s.kv * s.e);
    p->want_dv = doubles(s.rows * s.kv * s.e);
    return p;
}

static void drop(problem *p)
{
    void *all[] = {p->q,  p->k,      p->v,    p->d_out,  p->o,       p->lse,     p->dq,      p->dk,
                   p->dv, p->states, p->list, p->want_o, p->want_dq, p->want_dk, p->want_dv, p};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static bool sees(const problem *p, const sala_attn_seq *seq, int64_t i, int64_t j, int kv_head)
{
    if (p->window && j <= i - p->window)
        return false;
    const int32_t *at = p->list + ((seq->first_row + i) * p->shape.kv + kv_head) * (1 + MOST);
    if (!p->sparse || at[0] < 0 || seq->n_rows <= p->shape.block * MOST)
        return true;
    for (int b = 0; b < at[0]; b++)
        if (at[1 + b] == j / p->shape.block)
            return true;
    return false;
}

static double product(const sala_num *a, const sala_num *b, int e)
{
    double sum = 0;
    for (int c = 0; c < e; c++)
        sum += (double)a[c] * (double)b[c];
    return sum;
}

static const double scale = 0.4;

/* Row i of a sequence and a head: weights of all keys, or of linear attention, which has no normaliser. */
static void want_row(problem *p, const sala_attn_seq *seq, int64_t i, int head, bool lightning)
{
    const int kv = head / (p->shape.heads / p->shape.kv);
    static double w[MOST_ROWS], dw[MOST_ROWS];
    const int64_t at = ((seq->first_row + i) * p->shape.heads + head) * p->shape.e;
    double top = -INFINITY, sum = 0, delta = 0;
    for (int64_t j = 0; j <= i; j++) {
        const int64_t key = ((seq->first_row + j) * p->shape.kv + kv) * p->shape.e;
        const double s = scale * product(p->q + at, p->k + key, p->shape.e);
        const bool seen = lightning || sees(p, seq, i, j, kv);
        /* the rate is what the table of f32 powers says */
        w[j] = lightning ? s * pow((double)p->decay[head * 65 + 64], (double)((i - j) / 64)) *
                               (double)p->decay[head * 65 + (i - j) % 64]
                         : (seen ? s : -INFINITY);
        dw[j] = product(p->d_out + at, p->v + key, p->shape.e);
        top = fmax(top, w[j]);
    }
    for (int64_t j = 0; j <= i && !lightning; j++)
        sum += w[j] = exp(w[j] - top);
    for (int64_t j = 0; j <= i; j++) {
        w[j] /= lightning ? 1 : sum;
        delta += w[j] * dw[j];
    }
    for (int64_t j = 0; j <= i; j++) {
        const int64_t key = ((seq->first_row + j) * p->shape.kv + kv) * p->shape.e;
        const double rate = lightning ? pow((double)p->decay[head * 65 + 64], (double)((i - j) / 64)) *
                                            (double)p->decay[head * 65 + (i - j) % 64]
                                      : 0;
        const double ds = scale * (lightning ? rate * dw[j] : w[j] * (dw[j] - delta));
        for (int c = 0; c < p->shape.e; c++) {
            p->want_o[at + c] += w[j] * (double)p->v[key + c];
            p->want_dv[key + c] += w[j] * (double)p->d_out[at + c];
            p->want_dq[at + c] += ds * (double)p->k[key + c];
            p->want_dk[key + c] += ds * (double)p->q[at + c];
        }
    }
}

static void want(problem *p, bool lightning)
{
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < p->seqs[s].n_rows; i++)
            for (int h = 0; h < p->shape.heads; h++)
                want_row(p, &p->seqs[s], i, h, lightning);
}

static void run_attention(const fixture *f, problem *p)
{
    const sala_selection selection = {p->list, MOST, p->shape.block};
    const sala_attn_args args = {.seqs = p->seqs,
                                 .n_seqs = 2,
                                 .n_rows = p->shape.rows,
                                 .kv = {SALA_F32, p->shape.kv, p->shape.e, 0},
                                 .n_heads = p->shape.heads,
                                 .scale = (sala_num)scale,
                                 .window = p->window,
                                 .selection = p->sparse ? &selection : NULL,
                                 .q = p->q,
                                 .q_stride = p->shape.heads * p->shape.e,
                                 .out = p->o,
                                 .out_stride = p->shape.heads * p->shape.e,
                                 .k = p->k,
                                 .v = p->v,
                                 .kv_stride = p->shape.kv * p->shape.e,
                                 .lse = p->lse};
    const sala_attn_back_args back = {args,  p->k,  p->v, p->shape.kv * p->shape.e, p->lse, p->d_out,
                                      p->dq, p->dk, p->dv};
    f->ops->attention(f->be, &args);
    f->grad->attention_back(f->be, &back);
}

static void run_lightning(const fixture *f, problem *p)
{
    const sala_lightning_args args = {.seqs = p->seqs,
                                      .n_seqs = 2,
                                      .n_rows = p->shape.rows,
                                      .n_heads = p->shape.heads,
                                      .n_kv_heads = p->shape.kv,
                                      .head_dim = p->shape.e,
                                      .scale = (sala_num)scale,
                                      .decay = p->decay,
                                      .q = p->q,
                                      .k = p->k,
                                      .v = p->v,
                                      .q_stride = p->shape.heads * p->shape.e,
                                      .kv_stride = p->shape.kv * p->shape.e,
                                      .out = p->o,
                                      .out_stride = p->shape.heads * p->shape.e,
                                      .states = p->states,
                                      .states_every = EVERY};
    const sala_lightning_back_args back = {args, p->states, EVERY, p->d_out, p->dq, p->dk, p->dv};
    f->ops->lightning(f->be, &args);
    f->grad->lightning_back(f->be, &back);
}

static void near(const fixture *f, const char *what, const sala_num *got, const double *expected, int64_t n)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        off += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    if (!(sqrt(off / size) <= f->tolerance))
        fail_msg("%s: %s is %.3g off, %.1g is allowed", f->what, what, sqrt(off / size), f->tolerance);
}

/* Every family; then that of the machine with other numbers of threads. */
static void check(problem *p, bool lightning)
{
    void (*run)(const fixture *, problem *) = lightning ? run_lightning : run_attention;
    const sala_backend_limits limits = {.rows = p->shape.rows,
                                        .cols = 64,
                                        .tokens = p->shape.rows,
                                        .n_heads = p->shape.heads,
                                        .n_kv_heads = p->shape.kv,
                                        .head_dim = p->shape.e,
                                        .block_size = p->shape.block,
                                        .selected = MOST,
                                        .lightning_head_dim = p->shape.e,
                                        .lightning_heads = p->shape.heads,
                                        .lightning_kv_heads = p->shape.kv};
    fixture f;
    want(p, lightning);
    for (size_t i = 0; i < sizeof fixture_kinds / sizeof fixture_kinds[0]; i++) {
        if (!fixture_open(&f, &fixture_kinds[i], &limits))
            continue;
        run(&f, p);
        near(&f, "o", p->o, p->want_o, p->shape.rows * p->shape.heads * p->shape.e);
        near(&f, "dq", p->dq, p->want_dq, p->shape.rows * p->shape.heads * p->shape.e);
        near(&f, "dk", p->dk, p->want_dk, p->shape.rows * p->shape.kv * p->shape.e);
        near(&f, "dv", p->dv, p->want_dv, p->shape.rows * p->shape.kv * p->shape.e);
        fixture_close(&f);
    }
    const size_t q_bytes = p->shape.rows * p->shape.heads * p->shape.e * sizeof(sala_num),
                 k_bytes = p->shape.rows * p->shape.kv * p->shape.e * sizeof(sala_num);
    sala_num *first[4] = {NULL};
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        fixture_kind kind = fixture_kinds[0];
        kind.kernels = NULL;
        kind.n_threads = n_threads;
        assert_true(fixture_open(&f, &kind, &limits));
        run(&f, p);
        sala_num *now[] = {p->o, p->dq, p->dk, p->dv};
        for (int a = 0; a < 4; a++) {
            const size_t bytes = a < 2 ? q_bytes : k_bytes;
            if (n_threads == 1) {
                first[a] = nums((int64_t)(bytes / sizeof(sala_num)));
                memcpy(first[a], now[a], bytes);
            } else if (memcmp(first[a], now[a], bytes) != 0) {
                fail_msg("%d threads give other bits than 1 (array %d)", n_threads, a);
            }
        }
        fixture_close(&f);
    }
    for (int a = 0; a < 4; a++)
        free(first[a]);
    drop(p);
}

static const shape uneven = {6, 2, 20, 1500, 64}, large = {4, 1, 128, 700, 64}, largest = {2, 2, 256, 400, 64};

static void test_dense(void **state)
{
    (void)state;
    check(make(uneven, 1337, 31), false);
}

static void test_dense_large_heads(void **state)
{
    (void)state;
    check(make(large, 555, 35), false);
    check(make(largest, 390, 36), false);
}

static void test_window(void **state)
{
    (void)state;
    problem *p = make(uneven, 1100, 32);
    p->window = 150;
    check(p, false);
    p = make(large, 600, 37);
    p->window = 70;
    check(p, false);
}

/* The second sequence is so short that it selects everything. */
static void test_selected(void **state)
{
    (void)state;
    problem *p = make(uneven, 1301, 33);
    p->sparse = true;
    check(p, false);
}

static void test_selected_shapes(void **state)
{
    (void)state;
    static const shape shapes[] = {
        {4, 1, 128, 700, 64}, {8, 1, 32, 700, 32}, {4, 2, 20, 1200, 128}, {2, 2, 36, 700, 48}, {2, 1, 256, 500, 96}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        problem *p = make(shapes[i], shapes[i].rows - 111, 40 + i);
        p->sparse = true;
        check(p, false);
    }
}

static void test_lightning(void **state)
{
    (void)state;
    check(make(uneven, 1203, 34), true);
}

static void test_lightning_large_heads(void **state)
{
    (void)state;
    check(make(large, 613, 38), true);
    check(make((shape){4, 4, 64, 900, 64}, 870, 39), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_dense_large_heads),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_selected),
        cmocka_unit_test(test_selected_shapes),
        cmocka_unit_test(test_lightning),
        cmocka_unit_test(test_lightning_large_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
