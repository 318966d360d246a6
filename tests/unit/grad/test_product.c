/* Dense products of both implementations against sums in double precision, over shapes with every kind of remainder;
 * bf16 against the products of rounded operands. */
#include "grad/product.h"

#include "unit/test.h"

#include <math.h>

static sala_rng rng;

/* A matrix with room between its rows. */
static float *matrix(int64_t rows, int64_t ld)
{
    float *x = malloc((size_t)(rows * ld + 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < rows * ld; i++)
        x[i] = (float)(2 * sala_rng_uniform(&rng) - 1);
    return x;
}

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* Rows as a bf16 product takes them, zero up to a multiple of 64 rows; x becomes what was rounded. */
static uint16_t *halves(float *x, int64_t rows, int64_t ld)
{
    const int64_t padded = (rows + 63) / 64 * 64;
    uint16_t *out = calloc((size_t)(padded * ld + 1), sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < rows * ld; i++) {
        out[i] = to_bf16(x[i]);
        x[i] = from_bf16(out[i]);
    }
    return out;
}

static float a_at(const sala_product_shape *s, const float *a, int64_t i, int64_t k)
{
    return s->kind == SALA_PRODUCT_GRAD ? a[k * s->lda + i] : a[i * s->lda + k];
}

static float b_at(const sala_product_shape *s, const float *b, int64_t k, int64_t j)
{
    return s->kind == SALA_PRODUCT_OUT ? b[j * s->ldb + k] : b[k * s->ldb + j];
}

/* |c - sum| <= k eps (sum of magnitudes), whatever the order of the sum; nothing beside C is touched. */
static void check(const char *what, const sala_product_shape *s, const float *c, const float *before, const float *a,
                  const float *b)
{
    for (int64_t i = 0; i < s->m; i++) {
        for (int64_t j = 0; j < s->ldc; j++) {
            const double got = (double)c[i * s->ldc + j], was = (double)before[i * s->ldc + j];
            if (j >= s->n) {
                if (got != was)
                    fail_msg("%s: a number beside the result has changed", what);
                continue;
            }
            double want = s->add ? was : 0, size = fabs(want);
            for (int64_t k = 0; k < s->k; k++) {
                const double p = (double)a_at(s, a, i, k) * (double)b_at(s, b, k, j);
                want += p;
                size += fabs(p);
            }
            if (!(fabs(got - want) <= (double)(s->k + 2) * 1.2e-7 * size))
                fail_msg("%s, kind %d, %lld x %lld x %lld%s: [%lld][%lld] is %g, expected %g", what, (int)s->kind,
                         (long long)s->m, (long long)s->n, (long long)s->k, s->add ? ", added" : "", (long long)i,
                         (long long)j, got, want);
        }
    }
}

static void run_shape(sala_product *g, sala_product_shape s, bool announce)
{
    const bool grad = s.kind == SALA_PRODUCT_GRAD, out = s.kind == SALA_PRODUCT_OUT;
    const bool bf16 = sala_product_precision(g) == SALA_PRECISION_BF16;
    const int64_t a_rows = grad ? s.k : s.m, b_rows = out ? s.n : s.k;
    s.lda = (grad ? s.m : s.k) + 32;
    s.lda -= s.lda % 32;
    s.ldb = (out ? s.k : s.n) + 3;
    s.ldc = s.n + 5;
    if (bf16 && grad)
        s.ldb += 32 - s.ldb % 32;
    float *a = matrix(a_rows, s.lda), *b = matrix(b_rows, s.ldb), *c = matrix(s.m, s.ldc), *before = matrix(s.m, s.ldc);
    memcpy(c, before, (size_t)(s.m * s.ldc) * sizeof *c);
    sala_error err;
    if (announce && sala_product_prepare(g, &s, &err) != SALA_OK)
        fail_msg("%s", err.message);
    if (!bf16) {
        sala_product_run(g, &s, c, a, b, 1);
    } else {
        uint16_t *ah = halves(a, a_rows, s.lda);
        void *bh;
        if (grad) {
            bh = halves(b, b_rows, s.ldb);
        } else {
            bh = aligned_alloc(64, sala_product_pack_bytes(g, s.kind, s.n, s.k));
            assert_non_null(bh);
            sala_product_pack(g, bh, s.kind, s.n, s.k, b, s.ldb, 1);
            free(halves(b, b_rows, s.ldb));
        }
        sala_product_run(g, &s, c, ah, bh, 1);
        free(ah);
        free(bh);
    }
    check(sala_product_describe(g), &s, c, before, a, b);
    free(a);
    free(b);
    free(c);
    free(before);
}

static void run_all(sala_precision precision, bool plain, const char *kernels)
{
    static const int64_t shapes[][3] = {{1, 1, 1},     {3, 5, 7},      {64, 64, 64},     {65, 63, 130}, {256, 96, 300},
                                        {300, 70, 40}, {511, 33, 257}, {130, 300, 1100}, {16, 512, 96}};
    const sala_product_params p = {precision, 2, kernels, plain};
    sala_product *g = NULL;
    sala_error err;
    if (sala_product_open(&g, &p, &err) != SALA_OK)
        return; /* no such kernels on this machine */
    printf("%s\n", sala_product_describe(g));
    for (size_t i = 0; i < SALA_ARRAY_LEN(shapes); i++)
        for (int kind = SALA_PRODUCT_OUT; kind <= SALA_PRODUCT_GRAD; kind++)
            for (int add = 0; add < 2; add++) {
                const sala_product_shape s = {
                    .kind = kind, .m = shapes[i][0], .n = shapes[i][1], .k = shapes[i][2], .add = add != 0};
                run_shape(g, s, true);
            }
    /* A shape that nobody has announced. */
    run_shape(g, (sala_product_shape){.kind = SALA_PRODUCT_OUT, .m = 128, .n = 40, .k = 24}, false);
    sala_product_close(g);
}

static void test_plain(void **state)
{
    (void)state;
    sala_rng_seed(&rng, test_seed(3));
    static const char *const families[] = {"ref", "avx2", "avx512", "neon"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(families); i++) {
        run_all(SALA_PRECISION_F32, true, families[i]);
        run_all(SALA_PRECISION_BF16, true, families[i]);
    }
}

static void test_best(void **state)
{
    (void)state;
    sala_rng_seed(&rng, test_seed(4));
    /* Without vector kernels the library multiplies f32, too. */
    run_all(SALA_PRECISION_F32, false, "ref");
    run_all(SALA_PRECISION_F32, false, NULL);
    run_all(SALA_PRECISION_BF16, false, NULL);
}

static void test_peak(void **state)
{
    (void)state;
    sala_pool *pool = NULL;
    assert_int_equal(sala_pool_open(&pool, 2), 0);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const sala_product_params p = {bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32, 2, NULL, false};
        sala_product *g = NULL;
        assert_int_equal(sala_product_open(&g, &p, NULL), SALA_OK);
        const double peak = sala_product_peak(g, pool);
        printf("%s: %.0f GFLOP/s\n", sala_product_describe(g), peak * 1e-9);
        assert_true(peak > 1e8);
        sala_product_close(g);
    }
    sala_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_best),
                                       cmocka_unit_test(test_peak)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
