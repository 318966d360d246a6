/* Cases of `sala bench --ops`: what is done to the elements of rows, and to the logits at the end. */
#include "bench_ops_parts.h"

#include "infer/sampler.h"

/* Arithmetic instructions of the kernels' exp, each of the size of a multiply-add. */
enum { EXP_OPERATIONS = 28 };

typedef struct rows_job {
    ops_bench *b;
    int64_t n_rows, n;
    float *x, *y, *z, *w; /* x, y, z lie behind each other, each of OPS_MOST_ROWS x OPS_WIDTH */
    float cosines[OPS_MOST_ROWS * OPS_HEAD_DIM / 2], sines[OPS_MOST_ROWS * OPS_HEAD_DIM / 2];
} rows_job;

static void norm(void *user)
{
    const rows_job *j = user;
    j->b->ops->rms_norm(j->b->be, j->y, j->x, j->w, j->n_rows, j->n, 1e-5f);
}

static void add_norm(void *user)
{
    const rows_job *j = user;
    j->b->ops->add_norm(j->b->be, j->y, j->x, j->x, j->z, 1e-6f, j->w, j->n_rows, j->n, 1e-5f);
}

static void swiglu(void *user)
{
    const rows_job *j = user;
    j->b->ops->swiglu(j->b->be, j->y, j->x, j->z, j->n_rows, j->n);
}

static void gate(void *user)
{
    const rows_job *j = user;
    j->b->ops->sigmoid_gate(j->b->be, j->y, j->x, j->z, j->n_rows, j->n);
}

static void scale(void *user)
{
    const rows_job *j = user;
    j->b->ops->scale(j->b->be, j->y, 1.0f, j->n_rows, j->n);
}

static void rotate(void *user, bool half)
{
    const rows_job *j = user;
    const sala_rope_args args = {.cos = j->cosines, .sin = j->sines, .n_rot = OPS_HEAD_DIM, .half = half};
    j->b->ops->rope(j->b->be, j->y, j->n, OPS_HEADS, OPS_HEAD_DIM, j->n_rows, &args);
}

static void rotate_halves(void *user)
{
    rotate(user, true);
}

static void rotate_pairs(void *user)
{
    rotate(user, false);
}

static void finite(void *user)
{
    const rows_job *j = user;
    (void)j->b->ops->all_finite(j->b->be, j->x, j->n_rows * j->n);
}

static void element_cases(ops_bench *b, int64_t n_rows)
{
    static const struct {
        const char *name;
        void (*fn)(void *user);
        int streams, operations; /* of four bytes an element, read or written */
    } ops[] = {{"rms_norm", norm, 2, 0},
               {"add_norm", add_norm, 4, 0},
               {"rope halves", rotate_halves, 2, 0},
               {"rope pairs", rotate_pairs, 2, 0},
               {"swiglu", swiglu, 3, EXP_OPERATIONS},
               {"sigmoid_gate", gate, 3, EXP_OPERATIONS},
               {"scale", scale, 2, 0},
               {"all_finite", finite, 1, 0}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(ops); i++) {
        if (!ops_begin(b, "rows", ops[i].name, "%lld x %d", (long long)n_rows, OPS_WIDTH))
            continue;
        rows_job *j = ops_need(b, sizeof *j);
        float *rows = ops_rows(b);
        if (j && rows) {
            const size_t batch = (size_t)OPS_MOST_ROWS * OPS_WIDTH;
            *j = (rows_job){b, n_rows, OPS_WIDTH, rows, rows + batch, rows + 2 * batch, rows + 3 * batch, {0}, {0}};
            ops_random(rows, 3 * batch); /* earlier cases may have left anything */
            for (size_t k = 0; k < SALA_ARRAY_LEN(j->cosines); k++)
                j->cosines[k] = j->sines[k] = 0.70710678f;
            const double n = (double)n_rows * OPS_WIDTH;
            ops_time(b, ops[i].fn, j,
                     (ops_work){.bytes = n * 4 * ops[i].streams,
                                .operations = n * ops[i].operations,
                                .bytes_limit = n_rows == 1 ? OPS_CORE : OPS_COPY,
                                .operations_limit = n_rows == 1 ? OPS_F32_CORE : OPS_F32});
        }
        free(j);
    }
}

/* ---- logits ---- */

typedef struct logits_job {
    ops_bench *b;
    sala_sampler *sampler;
    volatile double sink; /* results that nobody reads would not be computed */
} logits_job;

static void argmax(void *user)
{
    logits_job *j = user;
    float max;
    j->sink = (double)j->b->k.argmax(j->b->rows, OPS_VOCAB, &max);
}

static void log_sum_exp(void *user)
{
    logits_job *j = user;
    j->sink = j->b->k.log_sum_exp(j->b->rows, OPS_VOCAB);
}

static void sample(void *user)
{
    logits_job *j = user;
    int32_t token = 0;
    sala_error err = {0};
    if (sala_sample(j->sampler, j->b->rows, &token, NULL, NULL, 0, &err) != SALA_OK && j->b->rc == 0)
        j->b->rc = cli_fail_error(&err);
}

static void logits_case(ops_bench *b, const char *name, void (*fn)(void *user), const sala_sampler_params *params,
                        int exps)
{
    if (!ops_begin(b, "logits", name, "%d", OPS_VOCAB))
        return;
    logits_job j = {.b = b};
    float *rows = ops_rows(b);
    sala_error err = {0};
    if (!rows)
        return;
    ops_random(rows, OPS_VOCAB);
    if (params && sala_sampler_make(&j.sampler, &b->k, OPS_VOCAB, params, &err) != SALA_OK)
        b->rc = cli_fail_error(&err);
    ops_time(b, fn, &j,
             (ops_work){.bytes = 4.0 * OPS_VOCAB,
                        .operations = (double)exps * EXP_OPERATIONS,
                        .bytes_limit = OPS_CORE,
                        .operations_limit = OPS_F32_CORE});
    sala_sampler_close(j.sampler);
}

void ops_row_cases(ops_bench *b)
{
    element_cases(b, OPS_MOST_ROWS);
    element_cases(b, 1);
    static const sala_sampler_params greedy = {0}, usual = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f},
                                     all = {.temperature = 0.8f, .top_p = 0.95f};
    logits_case(b, "argmax", argmax, NULL, 0);
    logits_case(b, "log_sum_exp", log_sum_exp, NULL, OPS_VOCAB);
    logits_case(b, "sample greedy", sample, &greedy, 0);
    logits_case(b, "sample top-k 40", sample, &usual, 0);
    logits_case(b, "sample top-p 0.95", sample, &all, OPS_VOCAB);
}
