/* Tile products, transposes, rounding to bf16 and the tiles of attention, of every family, against double precision.
 *
 * Bounds. A chain of k products is off by k eps of the sum of their magnitudes. Weights of a softmax are off by eps
 * times the size of the exponent and the few roundings of exp; `ref` rounds once. */
#include "check/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#define EPS ((double)FLT_EPSILON)

static float *random_floats(check *c, int64_t n, float size)
{
    float *x = check_guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = size * check_uniform(c);
    return x;
}

static bool near(double got, double want, double bound)
{
    return fabs(got - want) <= bound; /* a NaN is not */
}

/* ---- products ---- */

typedef struct product {
    const sala_train_kernels *k;
    int m, n, depth;
    int64_t a_row, a_col, ldb, ldc;
    bool add;
    float *a, *b, *c;
} product;

static void run_product(void *user)
{
    const product *p = user;
    p->k->mma(p->c, p->ldc, p->a, p->a_row, p->a_col, p->b, p->ldb, p->m, p->n, p->depth, p->add);
}

static product make_product(check *c, const sala_train_kernels *k, int m, int n, int depth, bool transposed, bool add)
{
    product p = {.k = k, .m = m, .n = n, .depth = depth, .add = add};
    p.a_row = transposed ? 1 : depth + check_below(c, 3);
    p.a_col = transposed ? m + check_below(c, 3) : 1;
    p.ldb = n + check_below(c, 3);
    p.ldc = n + check_below(c, 3);
    p.a = random_floats(c, (m - 1) * p.a_row + (depth - 1) * p.a_col + 1, 1);
    p.b = random_floats(c, (depth - 1) * p.ldb + n, 1);
    p.c = random_floats(c, (m - 1) * p.ldc + n, 1);
    return p;
}

static void check_product(check *c, const sala_train_kernels *k, int m, int n, int depth, bool transposed, bool add)
{
    const product p = make_product(c, k, m, n, depth, transposed, add);
    const size_t bytes = (size_t)((m - 1) * p.ldc + n) * sizeof(float);
    float *before = check_guarded(bytes), *together = check_guarded(bytes);
    memcpy(before, p.c, bytes);
    run_product((void *)(uintptr_t)&p);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < p.ldc && i * p.ldc + j < (m - 1) * p.ldc + n; j++) {
            const int64_t at = i * p.ldc + j;
            if (j >= n) {
                if (p.c[at] != before[at])
                    check_fail(c, "m %d, n %d, k %d: wrote behind row %d", m, n, depth, i);
                continue;
            }
            double want = add ? (double)before[at] : 0, size = fabs(want);
            for (int d = 0; d < depth; d++) {
                const double x = (double)p.a[i * p.a_row + d * p.a_col] * (double)p.b[d * p.ldb + j];
                want += x;
                size += fabs(x);
            }
            if (!near((double)p.c[at], want, (depth + 1) * EPS * size))
                check_fail(c, "m %d, n %d, k %d, row %d, column %d: %.9g instead of %.9g", m, n, depth, i, j,
                           (double)p.c[at], want);
        }
    }
    memcpy(together, p.c, bytes); /* a row does not depend on those beside it */
    memcpy(p.c, before, bytes);
    for (int i = 0; i < m; i++)
        k->mma(p.c + i * p.ldc, p.ldc, p.a + i * p.a_row, p.a_row, p.a_col, p.b, p.ldb, 1, n, depth, add);
    if (memcmp(together, p.c, bytes) != 0)
        check_fail(c, "m %d, n %d, k %d: one row at a time gives other bits", m, n, depth);
    check_reset();
}

static void bench_product(const sala_train_kernels *k, check *c, const char *what, bool transposed)
{
    product p = make_product(c, k, SALA_TILE, 64, 64, transposed, true);
    enum { TIMES = 1000 };
    p.ldb = p.ldc = 64;
    p.a_row = transposed ? 1 : 64;
    p.a_col = transposed ? 64 : 1;
    const double from = check_seconds();
    double best = 1e9;
    while (check_seconds() - from < 0.2) {
        const double t = check_seconds();
        for (int i = 0; i < TIMES; i++)
            run_product(&p);
        const double each = (check_seconds() - t) / TIMES;
        best = each < best ? each : best;
    }
    printf("%-36s %s %.1f Gop/s\n", c->name, what, 2e-9 * 64 * 64 * 64 / best);
    check_reset();
}

static void check_mma(check *c, const char *family)
{
    sala_train_kernels k;
    if (!check_begin_train(c, &k, "mma", family))
        return;
    if (c->bench) {
        bench_product(&k, c, "64 x 64 x 64", false);
        bench_product(&k, c, "transposed", true);
    } else {
        for (int n = 1; n <= 130; n++)
            check_product(c, &k, 1 + check_below(c, SALA_TILE), n, 1 + check_below(c, 130), n % 2, n % 3 == 0);
        for (int m = 1; m <= SALA_TILE; m++)
            check_product(c, &k, m, 64, 64, m % 2, m % 3 == 0);
        check_product(c, &k, 100, 256, 256, true, true);
    }
    check_end(c);
}

/* ---- bf16 ---- */

static float rounded(float x)
{
    return sala_bf16_to_f32(sala_f32_to_bf16(x));
}

typedef struct bf16_product {
    const sala_train_kernels *k;
    uint16_t *a, *b;
    float *c;
} bf16_product;

static void run_bf16(void *user)
{
    const bf16_product *p = user;
    for (int i = 0; i < 100; i++)
        p->k->mma_bf16(p->c, 64, p->a, 64, p->b, 64, 64, 64, 64, true);
}

/* Rounds operands by the family and multiplies them. */
static void check_bf16_shape(check *c, const sala_train_kernels *k, int m, int n, int depth, bool add)
{
    const int even = (depth + 1) / 2 * 2, lda = even + 2 * check_below(c, 2), ldb = n + check_below(c, 3);
    const int64_t ldx = depth + check_below(c, 3), ldy = n + check_below(c, 3), ldc = n + check_below(c, 3);
    float *x = random_floats(c, (m - 1) * ldx + depth, 1), *y = random_floats(c, (depth - 1) * ldy + n, 1);
    uint16_t *a = check_guarded((size_t)((m - 1) * lda + even) * 2);
    uint16_t *b = check_guarded((size_t)((even / 2 - 1) * ldb + n) * 4);
    float *out = random_floats(c, (m - 1) * ldc + n, 1), *before = check_guarded((size_t)((m - 1) * ldc + n) * 4);
    memcpy(before, out, (size_t)((m - 1) * ldc + n) * 4);
    k->round_rows(a, lda, x, ldx, m, depth);
    k->round_pairs(b, ldb, y, ldy, depth, n);
    for (int i = 0; i < m; i++)
        for (int d = 0; d < even; d++)
            if (a[i * lda + d] != (d < depth ? sala_f32_to_bf16(x[i * ldx + d]) : 0))
                check_fail(c, "%d x %d rounded, row %d, column %d: %04x", m, depth, i, d, (unsigned)a[i * lda + d]);
    for (int d = 0; d < even; d++)
        for (int j = 0; j < n; j++)
            if (b[(d / 2 * ldb + j) * 2 + d % 2] != (d < depth ? sala_f32_to_bf16(y[d * ldy + j]) : 0))
                check_fail(c, "%d x %d in pairs, row %d, column %d", depth, n, d, j);
    k->mma_bf16(out, ldc, a, lda, b, ldb, m, n, even, add);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < ldc && i * ldc + j < (m - 1) * ldc + n; j++) {
            const int64_t at = i * ldc + j;
            double want = add || j >= n ? (double)before[at] : 0, size = fabs(want);
            for (int d = 0; j < n && d < depth; d++) {
                const double v = (double)rounded(x[i * ldx + d]) * (double)rounded(y[d * ldy + j]);
                want += v;
                size += fabs(v);
            }
            if (!near((double)out[at], want, (j < n) * (depth + 2) * EPS * size))
                check_fail(c, "m %d, n %d, k %d, row %d, column %d: %.9g instead of %.9g", m, n, depth, i, j,
                           (double)out[at], want);
        }
    }
    check_reset();
}

static void check_bf16(check *c, const char *family)
{
    sala_train_kernels k;
    if (!check_begin_train(c, &k, "bf16", family))
        return;
    if (c->bench) {
        bf16_product p = {&k, check_guarded(64 * 64 * 2), check_guarded(64 * 64 * 2), random_floats(c, 64 * 64, 1)};
        for (int i = 0; i < 64 * 64; i++)
            p.a[i] = p.b[i] = 0x3c00;
        printf("%-36s 64 x 64 x 64 %.1f Gop/s\n", c->name, 100 * 2e-9 * 64 * 64 * 64 / check_time(run_bf16, &p));
    } else {
        for (int n = 1; n <= 130; n++)
            check_bf16_shape(c, &k, 1 + check_below(c, SALA_TILE), n, 1 + check_below(c, 80), n % 3 == 0);
        float values[] = {0, -0.0f, INFINITY, -INFINITY, NAN, 1.00390625f, 1.01171875f, 3e38f, 3.4e38f, -1.5f, 0.1f};
        uint16_t out[SALA_CHECK_LEN(values) + 1];
        k.round_rows(out, SALA_CHECK_LEN(out), values, SALA_CHECK_LEN(values), 1, SALA_CHECK_LEN(values));
        for (size_t i = 0; i < SALA_CHECK_LEN(values); i++) {
            const bool nan = (out[i] & 0x7fff) > 0x7f80;
            if (isnan(values[i]) ? !nan : out[i] != sala_f32_to_bf16(values[i]))
                check_fail(c, "%g is rounded to %04x", (double)values[i], (unsigned)out[i]);
        }
        uint16_t *half = check_guarded(77 * sizeof *half);
        float *wide = check_guarded(77 * sizeof *wide);
        for (int i = 0; i < 77; i++)
            half[i] = (uint16_t)(0x3f00 + i);
        k.widen(wide, half, 77);
        for (int i = 0; i < 77; i++)
            if (wide[i] != sala_bf16_to_f32(half[i]))
                check_fail(c, "%04x is widened to %g", (unsigned)half[i], (double)wide[i]);
    }
    check_end(c);
}

static void check_transpose(check *c, const char *family)
{
    sala_train_kernels k;
    if (c->bench || !check_begin_train(c, &k, "transpose", family))
        return;
    for (int n = 1; n <= 130; n++) {
        const int rows = 1 + check_below(c, 70), cols = n;
        const int64_t ldx = cols + check_below(c, 3), ldo = rows + check_below(c, 3);
        float *x = random_floats(c, (rows - 1) * ldx + cols, 1);
        float *out = random_floats(c, (cols - 1) * ldo + rows, 0);
        k.transpose(out, ldo, x, ldx, rows, cols);
        for (int i = 0; i < cols; i++)
            for (int j = 0; j < ldo && i * ldo + j < (cols - 1) * ldo + rows; j++)
                if (out[i * ldo + j] != (j < rows ? x[j * ldx + i] : 0))
                    check_fail(c, "%d x %d: wrong at row %d, column %d", rows, cols, i, j);
        check_reset();
    }
    check_end(c);
}

static void check_transpose_pairs(check *c, const char *family)
{
    sala_train_kernels k;
    if (c->bench || !check_begin_train(c, &k, "transpose_pairs", family))
        return;
    for (int n = 1; n <= 130; n++) {
        const int rows = 1 + check_below(c, 70), cols = n;
        const int64_t ldx = cols + check_below(c, 3), ldo = rows + check_below(c, 3);
        const size_t in = (size_t)((rows - 1) * ldx + cols), to = (size_t)((cols - 1) * ldo + rows);
        uint32_t *x = check_guarded(in * sizeof *x), *out = check_guarded(to * sizeof *out);
        memset(out, 0, to * sizeof *out);
        for (size_t i = 0; i < in; i++) /* any bits, those of NaN among them */
            x[i] = (uint32_t)check_below(c, 1 << 16) << 16 | (uint32_t)check_below(c, 1 << 16);
        k.transpose_pairs((uint16_t *)(void *)out, ldo, (const uint16_t *)(const void *)x, ldx, rows, cols);
        for (int i = 0; i < cols; i++)
            for (int j = 0; j < ldo && (size_t)(i * ldo + j) < to; j++)
                if (out[i * ldo + j] != (j < rows ? x[j * ldx + i] : 0))
                    check_fail(c, "%d x %d: wrong at row %d, column %d", rows, cols, i, j);
        check_reset();
    }
    check_end(c);
}

static void check_copy_rows(check *c, const char *family)
{
    sala_train_kernels k;
    if (c->bench || !check_begin_train(c, &k, "copy_rows", family))
        return;
    for (int cols = 1; cols <= 130; cols++) {
        const int rows = 1 + check_below(c, 70);
        const int64_t ldx = cols + check_below(c, 3), ldo = cols + check_below(c, 3);
        const float s = cols % 2 ? 1 : check_uniform(c);
        float *x = random_floats(c, (rows - 1) * ldx + cols, 1), *factor = random_floats(c, rows, 1);
        float *out = random_floats(c, (rows - 1) * ldo + cols, 0);
        k.copy_rows(out, ldo, x, ldx, rows, cols, cols % 3 ? factor : NULL, s);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < ldo && i * ldo + j < (rows - 1) * ldo + cols; j++) {
                const float f = cols % 3 ? s * factor[i] : s;
                if (out[i * ldo + j] != (j < cols ? f * x[i * ldx + j] : 0))
                    check_fail(c, "%d x %d: wrong at row %d, column %d", rows, cols, i, j);
            }
        check_reset();
    }
    check_end(c);
}

static void check_multiply(check *c, const char *family)
{
    sala_train_kernels k;
    if (c->bench || !check_begin_train(c, &k, "multiply", family))
        return;
    for (int cols = 1; cols <= 130; cols++) {
        const int rows = 1 + check_below(c, 70);
        const int64_t ldx = cols + check_below(c, 3), ldw = cols + check_below(c, 3), n = (rows - 1) * ldx + cols;
        float *x = random_floats(c, n, 1), *w = random_floats(c, (rows - 1) * ldw + cols, 1);
        float *before = check_guarded((size_t)n * sizeof(float));
        memcpy(before, x, (size_t)n * sizeof(float));
        k.multiply(x, ldx, w, ldw, rows, cols);
        for (int64_t i = 0; i < n; i++)
            if (x[i] != (i % ldx < cols ? before[i] * w[i / ldx * ldw + i % ldx] : before[i]))
                check_fail(c, "%d x %d: wrong at row %d, column %d", rows, cols, (int)(i / ldx), (int)(i % ldx));
        check_reset();
    }
    check_end(c);
}

/* ---- softmax ---- */

/* Ranges of keys: causal ones, windows, empty ones, all. */
static void random_ranges(check *c, int m, int n, int32_t *first, int32_t *visible)
{
    const int kind = check_below(c, 4);
    for (int i = 0; i < m; i++) {
        visible[i] = kind == 0 ? n : kind == 1 ? (i + 1 < n ? i + 1 : n) : check_below(c, n + 1);
        first[i] = kind == 3 ? check_below(c, n + 1) : 0;
    }
}

static void check_softmax_tile(check *c, const sala_train_kernels *k, int m, int n, bool fresh)
{
    const int64_t lds = n + check_below(c, 3);
    const size_t nums = (size_t)((m - 1) * lds + n);
    float *s = random_floats(c, (int64_t)nums, 12), *scores = check_guarded(nums * sizeof *s);
    float *top = random_floats(c, m, 12), *sum = random_floats(c, m, 1), *keep = random_floats(c, m, 1);
    float *old_top = check_guarded((size_t)m * 4), *old_sum = check_guarded((size_t)m * 4);
    int32_t *first = check_guarded((size_t)m * 4), *visible = check_guarded((size_t)m * 4);
    random_ranges(c, m, n, first, visible);
    for (int i = 0; i < m; i++) {
        top[i] = fresh ? -INFINITY : top[i];
        sum[i] = fresh ? 0 : fabsf(sum[i]) + 1;
        for (int j = visible[i]; j < n; j++)
            s[i * lds + j] = NAN; /* what nobody sees does not matter */
    }
    memcpy(scores, s, nums * sizeof *s);
    memcpy(old_top, top, (size_t)m * 4);
    memcpy(old_sum, sum, (size_t)m * 4);
    k->softmax_tile(s, lds, m, n, first, visible, top, sum, keep);
    for (int i = 0; i < m; i++) {
        double most = (double)old_top[i];
        for (int j = first[i]; j < visible[i]; j++)
            most = fmax(most, (double)scores[i * lds + j]);
        const bool none = first[i] >= visible[i];
        const double kept = none ? 1 : exp((double)old_top[i] - most), size = 30 * EPS;
        double total = (double)old_sum[i] * kept;
        for (int j = 0; j < n; j++) {
            const bool counts = j >= first[i] && j < visible[i];
            const double want = counts ? exp((double)scores[i * lds + j] - most) : 0;
            total += want;
            if (!near((double)s[i * lds + j], want, want * size))
                check_fail(c, "m %d, n %d, row %d, key %d: %.9g instead of %.9g", m, n, i, j, (double)s[i * lds + j],
                           want);
        }
        if ((double)top[i] != most)
            check_fail(c, "m %d, n %d, row %d: maximum %.9g instead of %.9g", m, n, i, (double)top[i], most);
        if (!near((double)keep[i], kept, kept * size) || !near((double)sum[i], total, total * (size + (n + 2) * EPS)))
            check_fail(c, "m %d, n %d, row %d: sum %.9g instead of %.9g, keeps %.9g instead of %.9g", m, n, i,
                       (double)sum[i], total, (double)keep[i], kept);
    }
    check_reset();
}

static void check_softmax_back(check *c, const sala_train_kernels *k, int n, int m)
{
    const int64_t ld = m + check_below(c, 3);
    const size_t nums = (size_t)((n - 1) * ld + m);
    float *st = random_floats(c, (int64_t)nums, 6), *dpt = random_floats(c, (int64_t)nums, 2);
    float *scores = check_guarded(nums * 4), *products = check_guarded(nums * 4);
    float *lse = random_floats(c, m, 3), *delta = random_floats(c, m, 1), scale = check_uniform(c);
    int32_t *first = check_guarded((size_t)m * 4), *visible = check_guarded((size_t)m * 4);
    random_ranges(c, m, n, first, visible);
    for (int i = 0; i < m; i++)
        for (int j = visible[i]; j < n; j++)
            st[j * ld + i] = dpt[j * ld + i] = INFINITY;
    memcpy(scores, st, nums * 4);
    memcpy(products, dpt, nums * 4);
    k->softmax_back_tile(st, dpt, ld, n, m, first, visible, lse, delta, scale);
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) {
            const int64_t at = j * ld + i;
            const bool counts = j >= first[i] && j < visible[i];
            const double p = counts ? exp((double)scores[at] - (double)lse[i]) : 0;
            const double ds = counts ? p * ((double)products[at] - (double)delta[i]) * (double)scale : 0;
            const double size = counts ? p * (fabs((double)products[at]) + fabs((double)delta[i])) : 0;
            if (!near((double)st[at], p, p * 20 * EPS) || !near((double)dpt[at], ds, size * 30 * EPS))
                check_fail(c, "%d keys, %d queries, key %d, query %d: P %.9g instead of %.9g, dS %.9g instead of %.9g",
                           n, m, j, i, (double)st[at], p, (double)dpt[at], ds);
        }
    }
    check_reset();
}

typedef struct softmax_bench {
    const sala_train_kernels *k;
    float *s, *dp, *top, *sum, *keep;
    int32_t visible[SALA_TILE];
} softmax_bench;

static void run_softmax(void *user)
{
    softmax_bench *b = user;
    for (int i = 0; i < 100; i++)
        b->k->softmax_tile(b->s, 64, 64, 64, NULL, b->visible, b->top, b->sum, b->keep);
}

static void run_softmax_back(void *user)
{
    softmax_bench *b = user;
    for (int i = 0; i < 100; i++)
        b->k->softmax_back_tile(b->s, b->dp, 64, 64, 64, NULL, b->visible, b->top, b->sum, 0.1f);
}

static void check_softmax(check *c, const char *family)
{
    sala_train_kernels k;
    if (!check_begin_train(c, &k, "softmax", family))
        return;
    if (c->bench) {
        softmax_bench b = {&k,
                           random_floats(c, 64 * 64, 1),
                           random_floats(c, 64 * 64, 1),
                           random_floats(c, 64, 1),
                           random_floats(c, 64, 1),
                           random_floats(c, 64, 1),
                           {0}};
        for (int i = 0; i < SALA_TILE; i++)
            b.visible[i] = SALA_TILE;
        printf("%-36s forward %.2f, backward %.2f ns a pair\n", c->name, check_time(run_softmax, &b) * 1e9 / 409600,
               check_time(run_softmax_back, &b) * 1e9 / 409600);
    } else {
        for (int n = 1; n <= SALA_TILE; n++) {
            check_softmax_tile(c, &k, 1 + check_below(c, SALA_TILE), n, n % 3 == 0);
            check_softmax_tile(c, &k, n, SALA_TILE, n % 2);
            check_softmax_back(c, &k, n, 1 + check_below(c, SALA_TILE));
            check_softmax_back(c, &k, SALA_TILE, n);
        }
        float *acc = random_floats(c, 3 * 70, 1), copy[3 * 70], keep[3] = {1, 0.5f, 0};
        memcpy(copy, acc, sizeof copy);
        k.scale_rows(acc, 70, keep, 3, 69);
        for (int i = 0; i < 3 * 70; i++)
            if (acc[i] != copy[i] * (i % 70 == 69 ? 1 : keep[i / 70]))
                check_fail(c, "row %d, column %d is %g", i / 70, i % 70, (double)acc[i]);
    }
    check_end(c);
}

void check_train_tiles(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        check_mma(c, *f);
        check_bf16(c, *f);
        check_copy_rows(c, *f);
        check_multiply(c, *f);
        check_transpose(c, *f);
        check_transpose_pairs(c, *f);
        check_softmax(c, *f);
    }
}
