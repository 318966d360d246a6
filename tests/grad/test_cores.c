/* Cores of mixers on batches that are longer than a tile, a task, a stretch of keys and a span, against the definition
 * in double precision, pair by pair; and the same bits for any number of threads. */
#include "grad_test.h"

enum { HEADS = 6, KV = 2, GROUP = HEADS / KV, E = 20, ROWS = 1500, BLOCK = 64, MOST = 4, EVERY = 4 };

static const sala_backend_limits limits = {.rows = ROWS,
                                           .cols = 64,
                                           .tokens = ROWS,
                                           .n_heads = HEADS,
                                           .n_kv_heads = KV,
                                           .head_dim = E,
                                           .selected = MOST,
                                           .lightning_head_dim = E,
                                           .lightning_heads = HEADS,
                                           .lightning_kv_heads = KV};

typedef struct problem {
    sala_attn_seq seqs[2];
    int64_t window;
    bool sparse;
    sala_num *q, *k, *v, *d_out, *o, *lse, *dq, *dk, *dv, *states;
    int32_t *list;
    float decay[HEADS * 65];
    double *want_o, *want_dq, *want_dk, *want_dv;
} problem;

static double *doubles(int64_t n)
{
    double *p = calloc((size_t)n, sizeof *p);
    assert_non_null(p);
    return p;
}

static problem *make(int64_t first, uint64_t seed)
{
    problem *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->seqs[0] = (sala_attn_seq){.first_row = 0, .n_rows = first, .sparse_from = 100};
    p->seqs[1] = (sala_attn_seq){.first_row = first, .n_rows = ROWS - first, .sparse_from = 100};
    sala_num **in[] = {&p->q, &p->d_out, &p->k, &p->v}, **out[] = {&p->o, &p->dq, &p->dk, &p->dv};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(seed));
    for (int a = 0; a < 4; a++) {
        const int64_t n = ROWS * (int64_t)(a < 2 ? HEADS : KV) * E;
        *in[a] = nums(n);
        *out[a] = nums(n);
        for (int64_t i = 0; i < n; i++)
            (*in[a])[i] = (sala_num)(2 * sala_rng_uniform(&rng) - 1);
    }
    p->lse = nums(ROWS * HEADS);
    p->states = nums((int64_t)ROWS / 64 * HEADS * E * E);
    p->list = calloc((size_t)ROWS * KV * (1 + MOST), sizeof *p->list);
    assert_non_null(p->list);
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < p->seqs[s].n_rows; i++)
            for (int h = 0; h < KV; h++) {
                int32_t *at = p->list + ((p->seqs[s].first_row + i) * KV + h) * (1 + MOST);
                const int own = (int)(i / BLOCK);
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
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i <= 64; i++)
            p->decay[h * 65 + i] = (float)exp(-0.03 * (h + 1) * i);
    p->want_o = doubles(ROWS * HEADS * E);
    p->want_dq = doubles(ROWS * HEADS * E);
    p->want_dk = doubles(ROWS * KV * E);
    p->want_dv = doubles(ROWS * KV * E);
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
    const int32_t *at = p->list + ((seq->first_row + i) * KV + kv_head) * (1 + MOST);
    if (!p->sparse || at[0] < 0 || seq->n_rows <= BLOCK * MOST)
        return true;
    for (int b = 0; b < at[0]; b++)
        if (at[1 + b] == j / BLOCK)
            return true;
    return false;
}

static double product(const sala_num *a, const sala_num *b)
{
    double sum = 0;
    for (int c = 0; c < E; c++)
        sum += (double)a[c] * (double)b[c];
    return sum;
}

static const double scale = 0.4;

/* Row i of a sequence and a head: weights of all keys, or of linear attention, which has no normaliser. */
static void want_row(problem *p, const sala_attn_seq *seq, int64_t i, int head, bool lightning)
{
    const int kv = head / GROUP;
    static double w[ROWS], dw[ROWS];
    const int64_t at = ((seq->first_row + i) * HEADS + head) * E;
    double top = -INFINITY, sum = 0, delta = 0;
    for (int64_t j = 0; j <= i; j++) {
        const int64_t key = ((seq->first_row + j) * KV + kv) * E;
        const double s = scale * product(p->q + at, p->k + key);
        const bool seen = lightning || sees(p, seq, i, j, kv);
        /* the rate is what the table of f32 powers says */
        w[j] = lightning ? s * pow((double)p->decay[head * 65 + 64], (double)((i - j) / 64)) *
                               (double)p->decay[head * 65 + (i - j) % 64]
                         : (seen ? s : -INFINITY);
        dw[j] = product(p->d_out + at, p->v + key);
        top = fmax(top, w[j]);
    }
    for (int64_t j = 0; j <= i && !lightning; j++)
        sum += w[j] = exp(w[j] - top);
    for (int64_t j = 0; j <= i; j++) {
        w[j] /= lightning ? 1 : sum;
        delta += w[j] * dw[j];
    }
    for (int64_t j = 0; j <= i; j++) {
        const int64_t key = ((seq->first_row + j) * KV + kv) * E;
        const double rate = lightning ? pow((double)p->decay[head * 65 + 64], (double)((i - j) / 64)) *
                                            (double)p->decay[head * 65 + (i - j) % 64]
                                      : 0;
        const double ds = scale * (lightning ? rate * dw[j] : w[j] * (dw[j] - delta));
        for (int c = 0; c < E; c++) {
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
            for (int h = 0; h < HEADS; h++)
                want_row(p, &p->seqs[s], i, h, lightning);
}

static void run_attention(const fixture *f, problem *p)
{
    const sala_selection selection = {p->list, MOST, BLOCK};
    const sala_attn_args args = {.seqs = p->seqs,
                                 .n_seqs = 2,
                                 .n_rows = ROWS,
                                 .kv = {SALA_F32, KV, E, 0},
                                 .n_heads = HEADS,
                                 .scale = (sala_num)scale,
                                 .window = p->window,
                                 .selection = p->sparse ? &selection : NULL,
                                 .q = p->q,
                                 .q_stride = HEADS * E,
                                 .out = p->o,
                                 .out_stride = HEADS * E,
                                 .k = p->k,
                                 .v = p->v,
                                 .kv_stride = KV * E,
                                 .lse = p->lse};
    const sala_attn_back_args back = {args, p->k, p->v, KV * E, p->lse, p->d_out, p->dq, p->dk, p->dv};
    f->ops->attention(f->be, &args);
    f->grad->attention_back(f->be, &back);
}

static void run_lightning(const fixture *f, problem *p)
{
    const sala_lightning_args args = {.seqs = p->seqs,
                                      .n_seqs = 2,
                                      .n_rows = ROWS,
                                      .n_heads = HEADS,
                                      .n_kv_heads = KV,
                                      .head_dim = E,
                                      .scale = (sala_num)scale,
                                      .decay = p->decay,
                                      .q = p->q,
                                      .k = p->k,
                                      .v = p->v,
                                      .q_stride = HEADS * E,
                                      .kv_stride = KV * E,
                                      .out = p->o,
                                      .out_stride = HEADS * E,
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
    fixture f;
    want(p, lightning);
    for (size_t i = 0; i < sizeof fixture_kinds / sizeof fixture_kinds[0]; i++) {
        if (!fixture_open(&f, &fixture_kinds[i], &limits))
            continue;
        run(&f, p);
        near(&f, "o", p->o, p->want_o, ROWS * HEADS * E);
        near(&f, "dq", p->dq, p->want_dq, ROWS * HEADS * E);
        near(&f, "dk", p->dk, p->want_dk, ROWS * KV * E);
        near(&f, "dv", p->dv, p->want_dv, ROWS * KV * E);
        fixture_close(&f);
    }
    const size_t q_bytes = ROWS * HEADS * E * sizeof(sala_num), k_bytes = ROWS * KV * E * sizeof(sala_num);
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

static void test_dense(void **state)
{
    (void)state;
    check(make(1337, 31), false);
}

static void test_window(void **state)
{
    (void)state;
    problem *p = make(1100, 32);
    p->window = 150;
    check(p, false);
}

/* The second sequence is so short that it selects everything. */
static void test_selected(void **state)
{
    (void)state;
    problem *p = make(1301, 33);
    p->sparse = true;
    check(p, false);
}

static void test_lightning(void **state)
{
    (void)state;
    check(make(1203, 34), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_selected),
        cmocka_unit_test(test_lightning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
