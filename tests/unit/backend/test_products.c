/* Products with weights through the backend, where the kernels' own checks do not reach: every type and family with
 * matrices of any odd size, at any address of a mapped file, shared out over fewer and over more threads than there
 * are cores. None of that may change a bit. What is not finite must come out as such, and in its own row only. */
#include "unit/backend/support.h"

#include "check/scales.h"
#include "kernels/kernels.h"
#include "os/os.h"

#include <sys/mman.h>

enum { MAX_ROWS = 70, MAX_COLS = 768, MAX_TOKENS = 33, SLACK = 64, PAD = 3 };

static const sala_dtype types[] = {
#define X(name, id, block, bytes) SALA_##name,
    SALA_DTYPE_LIST(X)
#undef X
};

static const int thread_counts[] = {1, 2, 9};
#define N_BACKENDS (int)SALA_ARRAY_LEN(thread_counts)

typedef struct family {
    const char *name;
    sala_backend *be[N_BACKENDS];
} family;

static family open_family(const char *name)
{
    static const sala_backend_limits limits = {
        .rows = MAX_TOKENS, .cols = MAX_COLS, .tokens = 64, .n_heads = 1, .n_kv_heads = 1, .head_dim = 16};
    family f = {.name = name};
    sala_error err;
    for (int i = 0; i < N_BACKENDS; i++)
        if (sala_backend_cpu_open(&f.be[i], name, thread_counts[i], false, &err) != SALA_OK ||
            f.be[i]->ops->reserve(f.be[i], &limits, &err) != SALA_OK)
            fail_msg("%s", err.message);
    return f;
}

static void close_family(family *f)
{
    for (int i = 0; i < N_BACKENDS; i++)
        f->be[i]->ops->close(f->be[i]);
}

/* fn for each family that this CPU can run. */
static void each_family(void (*fn)(const family *f, sala_rng *rng))
{
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(7));
    for (const char *const *name = sala_kernels_families(); *name; name++) {
        sala_kernels k;
        if (!sala_kernels_get(&k, *name, sala_os_cpu_features()))
            continue;
        family f = open_family(*name);
        fn(&f, &rng);
        close_family(&f);
    }
}

/* Memory that keeps its content when a backend gives its pages back, as a mapped file does. */
static uint8_t *new_mapping(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes + SLACK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static void free_mapping(uint8_t *p, size_t bytes)
{
    munmap(p, bytes + SLACK);
}

/* Any codes; scales of a sane size. To be freed as a mapping of so many bytes. */
static uint8_t *random_weights(sala_rng *rng, sala_dtype type, int64_t n)
{
    const sala_dtype_info *info = sala_dtype_get((int)type);
    const size_t bytes = (size_t)sala_dtype_bytes(type, n);
    uint8_t *w = new_mapping(bytes);
    for (size_t i = 0; i < bytes; i++)
        w[i] = (uint8_t)sala_rng_next(rng);
    int off[2];
    const int n_scales = info->is_quantized ? scale_offsets(type, off) : 0;
    for (size_t at = 0; at < bytes; at += (size_t)info->block_bytes) {
        const float x = (float)(0.1 * sala_rng_uniform(rng) - 0.05);
        const uint16_t h = type == SALA_BF16 ? sala_f32_to_bf16(x) : sala_f32_to_f16(x);
        for (int s = 0; s < n_scales; s++)
            memcpy(w + at + off[s], &h, 2);
        if (n_scales == 0)
            memcpy(w + at, type == SALA_F32 ? (const void *)&x : (const void *)&h, (size_t)info->block_bytes);
    }
    return w;
}

/* out [n_tokens][rows + PAD], of which the last PAD are not to be touched. */
static void multiply(sala_backend *be, float *out, sala_dtype type, const void *data, int64_t rows, int64_t cols,
                     const float *x, int64_t n_tokens)
{
    sala_weight *w;
    sala_error err;
    if (be->ops->weight_new(be, &w, type, rows, cols, data, &err) != SALA_OK)
        fail_msg("%s", err.message);
    for (int64_t i = 0; i < n_tokens * (rows + PAD); i++)
        out[i] = 12345;
    const sala_linear_out o = {.weight = w, .out = out, .out_stride = rows + PAD};
    be->ops->linear_group(be, &o, 1, x, n_tokens, cols);
    for (int64_t i = 0; i < n_tokens; i++)
        for (int64_t r = rows; r < rows + PAD; r++)
            assert_true(out[i * (rows + PAD) + r] == 12345);
    be->ops->weight_free(be, w);
}

typedef struct product {
    sala_dtype type;
    int64_t rows, cols, n_tokens;
    uint8_t *weights;
    float *x, *out, *other; /* [n_tokens][cols], [n_tokens][rows + PAD] twice */
    char where[96];
} product;

static product new_product(const family *f, sala_rng *rng, sala_dtype type, int64_t rows, int64_t cols, int64_t n)
{
    product p = {.type = type, .rows = rows, .cols = cols, .n_tokens = n};
    p.weights = random_weights(rng, type, rows * cols);
    p.x = random_rows(rng, (size_t)(n * cols), 1);
    p.out = malloc((size_t)(n * (rows + PAD)) * sizeof(float));
    p.other = malloc((size_t)(n * (rows + PAD)) * sizeof(float));
    assert_true(p.out && p.other);
    snprintf(p.where, sizeof p.where, "%s, %s, %lld x %lld, %lld tokens", f->name, sala_dtype_name(type),
             (long long)rows, (long long)cols, (long long)n);
    return p;
}

static void free_product(product *p)
{
    free_mapping(p->weights, (size_t)sala_dtype_bytes(p->type, p->rows * p->cols));
    free(p->x);
    free(p->out);
    free(p->other);
}

/* Within what 8-bit or bf16 activations cost, far within what a wrong row, column or block would give. */
static void near_exact(const family *f, const product *p)
{
    const double bound = strcmp(f->name, "ref") == 0 ? 1e-5 : 1.2e-2;
    float *w = malloc((size_t)p->cols * sizeof *w);
    assert_non_null(w);
    for (int64_t r = 0; r < p->rows; r++) {
        sala_dequant_row(p->type, w, p->weights + (size_t)r * (size_t)sala_dtype_bytes(p->type, p->cols), p->cols);
        for (int64_t t = 0; t < p->n_tokens; t++) {
            const float *x = p->x + t * p->cols;
            double sum = 0, ww = 0, xx = 0;
            for (int64_t c = 0; c < p->cols; c++) {
                sum += (double)w[c] * (double)x[c];
                ww += (double)w[c] * (double)w[c];
                xx += (double)x[c] * (double)x[c];
            }
            const double got = (double)p->out[t * (p->rows + PAD) + r];
            if (!(fabs(got - sum) <= bound * sqrt(ww * xx) + 1e-35))
                fail_msg("%s: row %lld of token %lld is %.9g, expected %.9g", p->where, (long long)r, (long long)t, got,
                         sum);
        }
    }
    free(w);
}

static void one_shape(const family *f, sala_rng *rng, sala_dtype type, int64_t rows, int64_t cols, int64_t n_tokens)
{
    product p = new_product(f, rng, type, rows, cols, n_tokens);
    const size_t bytes = (size_t)sala_dtype_bytes(type, rows * cols);
    const size_t out_bytes = (size_t)(n_tokens * (rows + PAD)) * sizeof(float);
    multiply(f->be[0], p.out, type, p.weights, rows, cols, p.x, n_tokens);
    near_exact(f, &p);
    for (int b = 1; b < N_BACKENDS; b++) {
        multiply(f->be[b], p.other, type, p.weights, rows, cols, p.x, n_tokens);
        same_bits(p.out, p.other, out_bytes, p.where);
    }
    for (int64_t t = 0; t < n_tokens; t++)
        multiply(f->be[t % N_BACKENDS], p.other + t * (rows + PAD), type, p.weights, rows, cols, p.x + t * cols, 1);
    same_bits(p.out, p.other, out_bytes, p.where);

    /* A tensor of a file may begin anywhere, and so may activations, on a float's border. */
    uint8_t *moved = new_mapping(bytes);
    float *x = malloc((size_t)(n_tokens * cols + 1) * sizeof *x);
    assert_non_null(x);
    memcpy(x + 1, p.x, (size_t)(n_tokens * cols) * sizeof *x);
    static const size_t offsets[] = {1, 2, 3, 31};
    for (size_t i = 0; i < SALA_ARRAY_LEN(offsets); i++) {
        memcpy(moved + offsets[i], p.weights, bytes);
        multiply(f->be[i % N_BACKENDS], p.other, type, moved + offsets[i], rows, cols, x + 1, n_tokens);
        same_bits(p.out, p.other, out_bytes, p.where);
    }
    free_mapping(moved, bytes);
    free(x);
    free_product(&p);
}

static void shapes_of_family(const family *f, sala_rng *rng)
{
    static const int rows[] = {1, 2, 7, 17, 33, MAX_ROWS}, blocks[] = {1, 3, 2, 1, 3, 2},
                     plain[] = {1, 67, 31, 5, 64, 17};
    static const int tokens[] = {MAX_TOKENS, 1, 3, 9, 2, 17};
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        if (!sala_dequant_has(types[i]))
            continue;
        const int block = sala_dtype_get((int)types[i])->block_weights;
        for (size_t s = 0; s < SALA_ARRAY_LEN(rows); s++)
            one_shape(f, rng, types[i], rows[s], block == 1 ? plain[s] : block * blocks[s], tokens[s]);
    }
}

static void odd_shapes(void **state)
{
    (void)state;
    each_family(shapes_of_family);
}

/* Matrices of several types on one input, as a layer of a mixed file has them, with and without a bias. */
static void groups_of_family(const family *f, sala_rng *rng)
{
    enum { COLS = 512, N = 5, TOKENS = 4 };
    static const sala_dtype mixed[N] = {SALA_Q4_K, SALA_F32, SALA_Q6_K, SALA_BF16, SALA_Q4_K};
    static const int64_t rows[N] = {33, 1, 50, 7, 16};
    float *x = random_rows(rng, TOKENS * COLS, 1), *bias = random_rows(rng, MAX_ROWS, 1);
    uint8_t *data[N];
    float *want[N], *got[N];
    for (int i = 0; i < N; i++) {
        data[i] = random_weights(rng, mixed[i], rows[i] * COLS);
        want[i] = malloc((size_t)(TOKENS * (rows[i] + PAD)) * sizeof(float));
        got[i] = malloc((size_t)(TOKENS * rows[i]) * sizeof(float));
        assert_true(want[i] && got[i]);
        multiply(f->be[0], want[i], mixed[i], data[i], rows[i], COLS, x, TOKENS);
    }
    for (int b = 0; b < N_BACKENDS; b++) {
        sala_linear_out outs[N];
        sala_weight *w[N];
        for (int i = 0; i < N; i++) {
            assert_int_equal(f->be[b]->ops->weight_new(f->be[b], &w[i], mixed[i], rows[i], COLS, data[i], NULL),
                             SALA_OK);
            outs[i] = (sala_linear_out){w[i], got[i], rows[i], i % 2 ? bias : NULL};
        }
        f->be[b]->ops->linear_group(f->be[b], outs, N, x, TOKENS, COLS);
        for (int i = 0; i < N; i++) {
            for (int64_t t = 0; t < TOKENS; t++)
                for (int64_t r = 0; r < rows[i]; r++) {
                    const float sum = want[i][t * (rows[i] + PAD) + r] + (i % 2 ? bias[r] : 0);
                    if (got[i][t * rows[i] + r] != sum)
                        fail_msg("%s, %d threads: matrix %d, row %lld of token %lld", f->name, thread_counts[b], i,
                                 (long long)r, (long long)t);
                }
            f->be[b]->ops->weight_free(f->be[b], w[i]);
        }
    }
    for (int i = 0; i < N; i++) {
        free_mapping(data[i], (size_t)sala_dtype_bytes(mixed[i], rows[i] * COLS));
        free(want[i]);
        free(got[i]);
    }
    free(x);
    free(bias);
}

static void mixed_groups(void **state)
{
    (void)state;
    each_family(groups_of_family);
}

/* Infinities and NaN show in every output of their token, and every other token is as it would be without. */
static void bad_of_family(const family *f, sala_rng *rng)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    enum { ROWS = 19, TOKENS = 9, BAD = 4 };
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        if (!sala_dequant_has(types[i]))
            continue;
        const int block = sala_dtype_get((int)types[i])->block_weights, cols = block == 1 ? 83 : 2 * block;
        product p = new_product(f, rng, types[i], ROWS, cols, TOKENS);
        multiply(f->be[0], p.out, p.type, p.weights, ROWS, cols, p.x, TOKENS);
        const size_t stride = ROWS + PAD;
        for (size_t k = 0; k < SALA_ARRAY_LEN(bad); k++) {
            float *at = p.x + BAD * cols + (int64_t)(sala_rng_next(rng) % (uint64_t)cols), was = *at;
            *at = bad[k];
            sala_backend *be = f->be[k % N_BACKENDS];
            multiply(be, p.other, p.type, p.weights, ROWS, cols, p.x, TOKENS);
            *at = was;
            same_bits(p.out, p.other, BAD * stride * sizeof(float), p.where);
            same_bits(p.out + (BAD + 1) * stride, p.other + (BAD + 1) * stride,
                      (TOKENS - BAD - 1) * stride * sizeof(float), p.where);
            for (int r = 0; r < ROWS; r++)
                if (isfinite(p.other[BAD * stride + (size_t)r]))
                    fail_msg("%s: %g in the input gave %g in row %d", p.where, (double)bad[k],
                             (double)p.other[BAD * stride + (size_t)r], r);
            assert_false(be->ops->all_finite(be, p.other, (int64_t)(TOKENS * stride)));
            assert_true(be->ops->all_finite(be, p.out, (int64_t)(TOKENS * stride)));
        }
        free_product(&p);
    }
}

static void not_finite(void **state)
{
    (void)state;
    each_family(bad_of_family);
}

/* Inputs that no f32 can normalise, among usual ones, in blocks of their own and mixed. */
static void tiny_of_family(const family *f, sala_rng *rng)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        if (!sala_dequant_has(types[i]))
            continue;
        const int block = sala_dtype_get((int)types[i])->block_weights, cols = block == 1 ? 96 : 3 * block;
        product p = new_product(f, rng, types[i], 9, cols, 6);
        for (int t = 0; t < 6; t++)
            for (int c = 0; c < cols; c++)
                if (t < 2 || (t < 4 ? c < 32 : c % 3 == 0))
                    p.x[t * cols + c] *= t % 2 ? 1e-40f : 1e-30f;
        multiply(f->be[1], p.out, p.type, p.weights, 9, cols, p.x, 6);
        near_exact(f, &p);
        free_product(&p);
    }
}

static void denormals(void **state)
{
    (void)state;
    each_family(tiny_of_family);
}

/* Rows of the embedding, from any address. */
static void rows_of_family(const family *f, sala_rng *rng)
{
    static const int32_t ids[] = {0, 36, 17, 17, 1};
    enum { ROWS = 37, N = (int)SALA_ARRAY_LEN(ids) };
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++) {
        if (!sala_dequant_has(types[i]))
            continue;
        const int block = sala_dtype_get((int)types[i])->block_weights, cols = block == 1 ? 45 : 2 * block;
        uint8_t *data = random_weights(rng, types[i], (int64_t)ROWS * cols);
        const size_t bytes = (size_t)sala_dtype_bytes(types[i], (int64_t)ROWS * cols);
        float *want = malloc((size_t)cols * sizeof *want), *got = malloc((size_t)(N * cols) * sizeof *got);
        assert_true(want && got);
        for (int odd = 0; odd < 4; odd++) {
            sala_backend *be = f->be[odd % N_BACKENDS];
            sala_weight *w;
            memmove(data + odd, data + (odd ? odd - 1 : 0), bytes);
            assert_int_equal(be->ops->weight_new(be, &w, types[i], ROWS, cols, data + odd, NULL), SALA_OK);
            be->ops->get_rows(be, got, w, ids, N, 1.0f);
            for (int n = 0; n < N; n++) {
                sala_dequant_row(types[i], want, data + odd + (size_t)ids[n] * (bytes / ROWS), cols);
                same_bits(got + n * cols, want, (size_t)cols * sizeof *want, sala_dtype_name(types[i]));
            }
            be->ops->weight_free(be, w);
        }
        free_mapping(data, bytes);
        free(want);
        free(got);
    }
}

static void embedding_rows(void **state)
{
    (void)state;
    each_family(rows_of_family);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(odd_shapes), cmocka_unit_test(mixed_groups),
                                       cmocka_unit_test(not_finite), cmocka_unit_test(denormals),
                                       cmocka_unit_test(embedding_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
