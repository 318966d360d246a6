/* Cases of `sala bench --ops`: products with weights of every type, turning activations into 8 bits, embedding rows.
 * All go through the backend, so that handing out the work and preparing activations are counted as they are in the
 * program. Weights are real codes of every type; their content makes no difference to speed, so rows repeat. */
#include "bench_ops_parts.h"

#include "quant/quant.h"

enum { SOURCE_ROWS = 16, MOST_MATRICES = 256 };

typedef struct matrices {
    ops_bench *b;
    sala_weight *w[MOST_MATRICES];
    int n;
    int64_t rows, cols, n_tokens;
    int32_t ids[OPS_MOST_ROWS];
} matrices;

static void close_matrices(matrices *m)
{
    for (int i = 0; i < m->n; i++)
        m->b->ops->weight_free(m->b->be, m->w[i]);
    m->n = 0;
}

/* Up to `most` matrices of a type, as many as the arena holds. */
static bool open_matrices(matrices *m, ops_bench *b, sala_dtype type, int64_t rows, int64_t cols, int most)
{
    *m = (matrices){.b = b, .rows = rows, .cols = cols};
    const size_t bytes = (size_t)sala_dtype_bytes(type, rows * cols), row_bytes = (size_t)sala_dtype_bytes(type, cols);
    const size_t step = (bytes + 63) / 64 * 64;
    uint8_t *arena = ops_arena(b);
    float *values = ops_rows(b); /* large for weights, which makes no difference either */
    uint8_t *source = ops_need(b, SOURCE_ROWS * row_bytes);
    sala_error err = {0};
    if (b->rc == 0)
        ops_random(values, OPS_MOST_ROWS * OPS_WIDTH); /* earlier cases wrote there */
    if (b->rc == 0 && sala_quantize_rows(type, source, values, SOURCE_ROWS, cols, NULL, &err) != SALA_OK)
        b->rc = cli_fail_error(&err);
    for (size_t at = 0; b->rc == 0 && m->n < most && at + bytes <= OPS_ARENA; at += step) {
        for (int64_t r = 0; r < rows; r++)
            memcpy(arena + at + (size_t)r * row_bytes, source + (size_t)(r % SOURCE_ROWS) * row_bytes, row_bytes);
        if (b->ops->weight_new(b->be, &m->w[m->n], type, rows, cols, arena + at, &err) != SALA_OK)
            b->rc = cli_fail_error(&err);
        else
            m->n++;
    }
    free(source);
    if (b->rc)
        close_matrices(m);
    return b->rc == 0;
}

/* Each matrix once. */
static void products(void *user)
{
    const matrices *m = user;
    ops_bench *b = m->b;
    float *x = b->rows, *y = x + OPS_MOST_ROWS * OPS_WIDTH;
    for (int i = 0; i < m->n; i++) {
        const sala_linear_out out = {.weight = m->w[i], .out = y, .out_stride = m->rows};
        b->ops->linear_group(b->be, &out, 1, x, m->n_tokens, m->cols);
    }
}

static ops_limit_id multiplier(const ops_bench *b, sala_dtype type)
{
    if (type == SALA_BF16 && b->loops.bf16.run)
        return OPS_BF16;
    return sala_dtype_get((int)type)->is_quantized && b->loops.i8.run && !b->is_ref ? OPS_I8 : OPS_F32;
}

static void product_case(ops_bench *b, sala_dtype type, int64_t rows, int64_t cols, int64_t n_tokens)
{
    const char *name = sala_dtype_name(type);
    if (n_tokens == 1 ? !ops_begin(b, "matrix x vector", name, "%lld x %lld", (long long)rows, (long long)cols)
                      : !ops_begin(b, "matrix x matrix", name, "%lld x %lld, %lld tokens", (long long)rows,
                                   (long long)cols, (long long)n_tokens))
        return;
    matrices m;
    if (!open_matrices(&m, b, type, rows, cols, n_tokens == 1 ? MOST_MATRICES : 1))
        return;
    m.n_tokens = n_tokens;
    const double weights = (double)m.n * (double)rows * (double)cols;
    ops_time(b, products, &m,
             (ops_work){.bytes = (double)m.n * (double)sala_dtype_bytes(type, rows * cols),
                        .operations = 2 * weights * (double)n_tokens,
                        .bytes_limit = OPS_MEMORY,
                        .operations_limit = multiplier(b, type)});
    close_matrices(&m);
}

/* The activations of a batch on their way to a matrix that is hardly there. */
static void prepare_case(ops_bench *b)
{
    if (!ops_begin(b, "activations", "prepare", "%d x %d, for 32 rows of q8_0", OPS_MOST_ROWS, OPS_WIDTH))
        return;
    matrices m;
    if (!open_matrices(&m, b, SALA_Q8_0, 32, OPS_WIDTH, 1))
        return;
    m.n_tokens = OPS_MOST_ROWS;
    const double n = (double)OPS_MOST_ROWS * OPS_WIDTH;
    ops_time(b, products, &m,
             (ops_work){.bytes = n * (b->is_ref ? 8 : 5),
                        .operations = 2 * 32 * n,
                        .bytes_limit = OPS_COPY,
                        .operations_limit = multiplier(b, SALA_Q8_0)});
    close_matrices(&m);
}

static void embed(void *user)
{
    const matrices *m = user;
    m->b->ops->get_rows(m->b->be, m->b->rows, m->w[0], m->ids, m->n_tokens, 1.0f);
}

static void embedding_case(ops_bench *b, sala_dtype type)
{
    enum { CORPUS = 8192 }; /* rows that ids come from: enough to be in no cache */
    if (!ops_begin(b, "embedding", sala_dtype_name(type), "%d rows of %d", OPS_MOST_ROWS, OPS_WIDTH))
        return;
    matrices m;
    if (!open_matrices(&m, b, type, CORPUS, OPS_WIDTH, 1))
        return;
    m.n_tokens = OPS_MOST_ROWS;
    for (int i = 0; i < OPS_MOST_ROWS; i++)
        m.ids[i] = (int32_t)((int64_t)i * 4099 % CORPUS);
    ops_time(b, embed, &m,
             (ops_work){.bytes = (double)OPS_MOST_ROWS * (double)(sala_dtype_bytes(type, OPS_WIDTH) + 4 * OPS_WIDTH),
                        .bytes_limit = OPS_COPY});
    close_matrices(&m);
}

void ops_linear_cases(ops_bench *b)
{
    static const sala_dtype types[] = {
#define X(name, id, block, bytes) SALA_##name,
        SALA_DTYPE_LIST(X)
#undef X
    };
    for (int many = 0; many < 2; many++) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++)
            if (sala_dequant_has(types[i]))
                product_case(b, types[i], OPS_WIDTH, OPS_WIDTH, many ? OPS_MOST_ROWS : 1);
        if (!many) /* as in a model of half a billion weights, where handing out the work shows */
            product_case(b, SALA_Q4_0, 1024, 1024, 1);
    }
    prepare_case(b);
    static const sala_dtype embedded[] = {SALA_F16, SALA_Q8_0, SALA_Q6_K, SALA_Q4_0};
    for (size_t i = 0; i < SALA_ARRAY_LEN(embedded); i++)
        embedding_case(b, embedded[i]);
}
