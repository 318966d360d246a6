/* Linear kernels. What is expected of one output is worked out in double from the weights as the file holds them:
 *
 *  - f32 inputs: sum of w * x; any order of f32 sums is within (n + 2) eps times the sum of |w * x|.
 *  - bf16 inputs: the same, with x replaced by what prepare() made of it, the nearest bf16.
 *  - 8-bit inputs: the same with x replaced by what prepare() made of it, d * q. The integer sums are exact, so that
 * the error comes from rounding once per float operation: the scale (3), the sums over blocks (2 per block or half).
 * The minimum and the codes are rounded apart, therefore the magnitudes are those of code * scale and minimum, which
 * are below 2 (|w| + range of the block's weights) each.
 *
 * prepare() itself must be within half a step of its input. Besides: get_row is exact, results do not depend on the
 * number of tokens nor on the split of rows, rows outside are not touched, infinities in weights or inputs come out as
 * something that is not finite, and all builds of the reference give the same bits. */
#include "check/check.h"
#include "check/scales.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_q8(const sala_linear_kernel *k)
{
    return strncmp(k->act->name, "q8", 2) == 0;
}

static bool is_bf16(const sala_linear_kernel *k)
{
    return strcmp(k->act->name, "bf16") == 0;
}

/* Any codes, scales of a sane size and either sign. */
static void random_weights(check *c, sala_dtype dtype, uint8_t *w, size_t n_blocks)
{
    const sala_dtype_info *info = sala_dtype_get((int)dtype);
    for (size_t b = 0; b < n_blocks; b++, w += info->block_bytes) {
        if (dtype == SALA_F32 || dtype == SALA_F16 || dtype == SALA_BF16) {
            const float x = check_uniform(c);
            const uint16_t h = dtype == SALA_F16 ? sala_f32_to_f16(x) : sala_f32_to_bf16(x);
            memcpy(w, dtype == SALA_F32 ? (const void *)&x : (const void *)&h, (size_t)info->block_bytes);
            continue;
        }
        for (int i = 0; i < info->block_bytes; i++)
            w[i] = (uint8_t)check_random(c);
        int off[2];
        const int n = scale_offsets(dtype, off);
        for (int i = 0; i < n; i++) {
            const uint16_t h = sala_f32_to_f16(0.05f * check_uniform(c));
            memcpy(w + off[i], &h, 2);
        }
    }
}

typedef struct problem {
    const sala_linear_kernel *k;
    int64_t rows, cols, n_tokens;
    size_t w_bytes, act_stride;
    uint8_t *file;
    void *w; /* packed, or the file's bytes */
    float *x;
    uint8_t *act;
    void *scratch;
} problem;

static void pack(problem *p)
{
    const sala_linear_kernel *k = p->k;
    p->w = p->file;
    if (!k->packed_bytes)
        return;
    p->w = check_guarded_aligned(k->packed_bytes(p->rows, p->cols));
    const int64_t half = p->rows / 2 / k->panel_rows * k->panel_rows; /* in two parts, as threads do */
    k->pack(p->w, p->file, p->rows, p->cols, half, p->rows);
    k->pack(p->w, p->file, p->rows, p->cols, 0, half);
}

static problem make(check *c, const sala_linear_kernel *k, int64_t rows, int64_t cols, int64_t n_tokens)
{
    problem p = {.k = k, .rows = rows, .cols = cols, .n_tokens = n_tokens};
    p.w_bytes = (size_t)sala_dtype_bytes(k->dtype, rows * cols);
    p.file = check_guarded(p.w_bytes);
    random_weights(c, k->dtype, p.file, p.w_bytes / (size_t)sala_dtype_get((int)k->dtype)->block_bytes);
    pack(&p);
    p.act_stride = k->act->row_bytes(cols);
    p.act = check_guarded_aligned(p.act_stride * (size_t)n_tokens);
    p.x = check_guarded((size_t)(cols * n_tokens) * sizeof(float));
    p.scratch = check_guarded_aligned(SALA_LINEAR_SCRATCH);
    const float size = ldexpf(1.0f, check_below(c, 20) - 10);
    const int outliers = check_below(c, 2) ? 60 : 0; /* half of the problems: inputs with some large ones */
    for (int64_t i = 0; i < cols * n_tokens; i++) {
        p.x[i] = size * check_uniform(c);
        if (outliers && check_below(c, outliers) == 0)
            p.x[i] *= 40;
    }
    for (int64_t t = 0; t < n_tokens; t++)
        k->act->prepare(p.act + (size_t)t * p.act_stride, p.x + t * cols, cols);
    return p;
}

static void run(const problem *p, float *out, int64_t row0, int64_t row1, int64_t t0, int64_t n)
{
    p->k->run(out + t0 * p->rows, p->rows, p->w, p->act + (size_t)t0 * p->act_stride, p->act_stride, p->rows, p->cols,
              row0, row1, n, p->scratch);
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void check_q8_block(check *c, const sala_act_block *b, const float *x, int n)
{
    float max = 0;
    int sum[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
        max = i < n && fabsf(x[i]) > max ? fabsf(x[i]) : max;
        sum[i / 16] += b->q[i];
    }
    if (b->d != max / 127.0f)
        check_fail(c, "scale %g of a block with maximum %g", (double)b->d, (double)max);
    for (int i = 0; i < n; i++)
        if (!(fabs((double)b->d * b->q[i] - (double)x[i]) <= (double)b->d * (0.5 + 1e-4)))
            check_fail(c, "code %d for %g, scale %g", b->q[i], (double)x[i], (double)b->d);
    if (b->n8 != -8 * (sum[0] + sum[1]) || b->n8_half[0] != -8 * sum[0] || b->n8_half[1] != -8 * sum[1] ||
        b->s != b->d * (float)(sum[0] + sum[1]) || b->s_half[0] != b->d * (float)sum[0] ||
        b->s_half[1] != b->d * (float)sum[1])
        check_fail(c, "sums of a block");
}

/* Every block, and the rest of exactly those whose squared scale exceeds the limit. */
static void check_q8_prepare(check *c, const problem *p)
{
    const int64_t n = p->cols / 32;
    for (int64_t t = 0; t < p->n_tokens; t++) {
        const sala_act_block *row = (const sala_act_block *)(p->act + (size_t)t * p->act_stride);
        const float *x = p->x + t * p->cols;
        float squares = 0;
        for (int64_t b = 0; b < n; b++) {
            check_q8_block(c, &row[b], x + 32 * b, 32);
            squares += row[b].d * row[b].d;
        }
        int32_t finer = 0;
        for (int64_t b = 0; b < n; b++) {
            const int32_t before = finer;
            if (row[b].d * row[b].d > SALA_ACT_Q8_FINER / (float)n * squares) {
                float rest[32];
                for (int i = 0; i < 32; i++)
                    rest[i] = x[32 * b + i] - row[b].d * (float)row[b].q[i];
                if (row[n + finer].finer != b)
                    check_fail(c, "finer block %d is that of block %d, not %d", (int)finer, (int)row[n + finer].finer,
                               (int)b);
                check_q8_block(c, &row[n + finer++], rest, 32);
            }
            if (row[b].finer != finer || (sala_act_q8_finer_bits(row, n)[b / 8] >> b % 8 & 1) != finer - before)
                check_fail(c, "%d finer blocks up to block %d, expected %d", (int)row[b].finer, (int)b, (int)finer);
        }
    }
}

/* Every input the nearest bf16, ties to even (none of these inputs is near a denormal), and zeros behind the row. */
static void check_bf16_prepare(check *c, const problem *p)
{
    for (int64_t t = 0; t < p->n_tokens; t++) {
        const uint16_t *row = (const uint16_t *)(const void *)(p->act + (size_t)t * p->act_stride);
        for (int64_t i = 0; i < (int64_t)(p->act_stride / sizeof *row); i++) {
            const uint16_t want = i < p->cols ? sala_f32_to_bf16(p->x[t * p->cols + i]) : 0;
            if (row[i] != want)
                check_fail(c, "input %lld of %lld became 0x%04x instead of 0x%04x", (long long)i, (long long)p->cols,
                           row[i], want);
        }
    }
}

static void check_values(check *c, const problem *p, const float *out)
{
    float *w = malloc((size_t)p->cols * sizeof(float));
    for (int64_t r = 0; r < p->rows; r++) {
        sala_dequant_row(p->k->dtype, w, p->file + (size_t)sala_dtype_bytes(p->k->dtype, p->cols) * (size_t)r, p->cols);
        for (int64_t t = 0; t < p->n_tokens; t++) {
            double want = 0, mag = 0, bound;
            if (is_q8(p->k)) {
                const sala_act_block *row = (const sala_act_block *)(p->act + (size_t)t * p->act_stride);
                const int64_t n_blocks = p->cols / 32;
                for (int64_t j = 0; j < n_blocks + row[n_blocks - 1].finer; j++) {
                    const sala_act_block *b = &row[j];
                    const int64_t c0 = 32 * (j < n_blocks ? j : b->finer);
                    double low = (double)w[c0], high = low, sum_w = 0, sum_x = 0;
                    for (int i = 0; i < 32; i++) {
                        const double wi = (double)w[c0 + i], xi = (double)b->d * b->q[i];
                        low = wi < low ? wi : low;
                        high = wi > high ? wi : high;
                        want += wi * xi;
                        sum_w += fabs(wi) * fabs(xi);
                        sum_x += fabs(xi);
                    }
                    mag += 2 * (sum_w + (high - low) * sum_x);
                }
                bound = (double)(p->cols / 8 + row[n_blocks - 1].finer * 4 + 8) * (double)FLT_EPSILON * mag;
            } else {
                const uint16_t *rounded = (const uint16_t *)(const void *)(p->act + (size_t)t * p->act_stride);
                for (int64_t i = 0; i < p->cols; i++) {
                    const float x = is_bf16(p->k) ? sala_bf16_to_f32(rounded[i]) : p->x[t * p->cols + i];
                    const double v = (double)w[i] * (double)x;
                    want += v;
                    mag += fabs(v);
                }
                bound = (double)(p->cols + 2) * (double)FLT_EPSILON * mag;
            }
            const double err = fabs((double)out[t * p->rows + r] - want);
            if (!(err <= bound))
                check_fail(c, "%lld x %lld, token %lld of %lld, row %lld: %g instead of %g, bound %g",
                           (long long)p->rows, (long long)p->cols, (long long)t, (long long)p->n_tokens, (long long)r,
                           (double)out[t * p->rows + r], want, bound);
        }
    }
    free(w);
}

/* The reference as the compiler's baseline has it. */
static const sala_linear_kernel *portable_ref(sala_dtype dtype)
{
    size_t n;
    const sala_linear_kernel *const *all = sala_linear_all(&n);
    for (size_t i = 0; i < n; i++)
        if (all[i]->is_ref && all[i]->need == 0 && all[i]->dtype == dtype)
            return all[i];
    return NULL;
}

static void check_shape(check *c, const sala_linear_kernel *k, int64_t rows, int64_t cols, int64_t n_tokens)
{
    if (k->accepts && !k->accepts(rows, cols))
        return;
    const problem p = make(c, k, rows, cols, n_tokens);
    const size_t n_out = (size_t)(rows * n_tokens);
    float *out = check_guarded(n_out * sizeof(float)), *again = check_guarded(n_out * sizeof(float));
    run(&p, out, 0, rows, 0, n_tokens);
    if (is_q8(k))
        check_q8_prepare(c, &p);
    if (is_bf16(k))
        check_bf16_prepare(c, &p);
    check_values(c, &p, out);

    if (k->is_ref) {
        problem portable = p;
        portable.k = portable_ref(k->dtype);
        run(&portable, again, 0, rows, 0, n_tokens);
        if (memcmp(out, again, n_out * sizeof(float)) != 0)
            check_fail(c, "%lld x %lld: not the bits of %s", (long long)rows, (long long)cols, portable.k->name);
    }

    for (int64_t t = 0; t < n_tokens; t++)
        run(&p, again, 0, rows, t, 1);
    if (memcmp(out, again, n_out * sizeof(float)) != 0)
        check_fail(c, "%lld x %lld: %lld tokens at once and one by one differ", (long long)rows, (long long)cols,
                   (long long)n_tokens);

    memset(again, 0x5a, n_out * sizeof(float));
    const int64_t first = (rows / k->panel_rows) / 2 * k->panel_rows;
    run(&p, again, first, rows, 0, n_tokens);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t r = 0; r < rows; r++) {
            float untouched;
            memset(&untouched, 0x5a, sizeof untouched);
            if (!same_bits(again[t * rows + r], r < first ? untouched : out[t * rows + r]))
                check_fail(c, "rows [%lld, %lld): row %lld is wrong", (long long)first, (long long)rows, (long long)r);
        }

    float *row = check_guarded((size_t)cols * sizeof(float)), *want = malloc((size_t)cols * sizeof(float));
    for (int64_t r = 0; r < rows; r += 1 + rows / 7) {
        k->get_row(row, p.w, rows, cols, r);
        sala_dequant_row(k->dtype, want, p.file + (size_t)sala_dtype_bytes(k->dtype, cols) * (size_t)r, cols);
        if (memcmp(row, want, (size_t)cols * sizeof(float)) != 0)
            check_fail(c, "get_row(%lld) of %lld x %lld is not what the file holds", (long long)r, (long long)rows,
                       (long long)cols);
    }
    free(want);
    check_reset();
}

/* The largest sums that codes can give: every bit of the codes set, or none, and inputs of one size and sign. */
static void check_extremes(check *c, const sala_linear_kernel *k)
{
    const sala_dtype_info *info = sala_dtype_get((int)k->dtype);
    if (!info->is_quantized)
        return;
    const int64_t rows = k->panel_rows, cols = 512;
    for (int i = 0; i < 8; i++) {
        problem p = make(c, k, rows, cols, 5);
        /* Codes of all ones, none, and -128 where they are signed; scales keep their sign bits out of the way. */
        static const uint8_t fill[] = {0xff, 0x00, 0x80, 0x7f};
        memset(p.file, fill[i / 2], p.w_bytes);
        for (size_t b = 0; b < p.w_bytes; b += (size_t)info->block_bytes) {
            int off[2];
            const int n = scale_offsets(k->dtype, off);
            for (int s = 0; s < n; s++) {
                const uint16_t h = sala_f32_to_f16(s ? -0.25f : 0.5f);
                memcpy(p.file + b + off[s], &h, 2);
            }
        }
        pack(&p);
        for (int64_t t = 0; t < p.n_tokens; t++) {
            for (int64_t j = 0; j < cols; j++)
                p.x[t * cols + j] = i % 2 ? -1.0f : 1.0f;
            k->act->prepare(p.act + (size_t)t * p.act_stride, p.x + t * cols, cols);
        }
        float *out = check_guarded((size_t)(rows * p.n_tokens) * sizeof(float));
        run(&p, out, 0, rows, 0, p.n_tokens);
        check_values(c, &p, out);
        check_reset();
    }
}

/* Infinities and NaN, in an input and then in a weight, must show in the outputs concerned and in no others. */
static void check_not_finite(check *c, const sala_linear_kernel *k)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN, 3e38f};
    const int64_t rows = k->panel_rows + 1, cols = sala_dtype_get((int)k->dtype)->block_weights * 2, n_tokens = 3;
    for (size_t i = 0; i < SALA_CHECK_LEN(bad); i++) {
        problem p = make(c, k, rows, cols, n_tokens);
        float *out = check_guarded((size_t)(rows * n_tokens) * sizeof(float));
        p.x[cols + check_below(c, (int)cols)] = bad[i];
        k->act->prepare(p.act + p.act_stride, p.x + cols, cols);
        run(&p, out, 0, rows, 0, n_tokens);
        for (int64_t j = 0; j < rows * n_tokens; j++) {
            const bool hit = j / rows == 1;
            if (hit && i < 3 && k->dtype != SALA_TQ1_0 && k->dtype != SALA_TQ2_0 ? isfinite(out[j])
                                                                                 : !hit && !isfinite(out[j]))
                check_fail(c, "an input of %g gave %g in token %lld", (double)bad[i], (double)out[j],
                           (long long)(j / rows));
        }
        if (!sala_dtype_get((int)k->dtype)->is_quantized) {
            check_reset();
            continue;
        }
        k->act->prepare(p.act + p.act_stride, p.x, cols);
        int off[2];
        const int n = scale_offsets(k->dtype, off);
        for (int s = 0; s < n; s++) {
            const uint16_t h = sala_f32_to_f16(bad[i]);
            memcpy(p.file + off[s], &h, 2);
        }
        pack(&p);
        run(&p, out, 0, rows, 0, n_tokens);
        for (int64_t j = 0; j < rows * n_tokens; j++)
            if (j % rows == 0 ? isfinite(out[j]) : !isfinite(out[j]))
                check_fail(c, "a scale of %g in row 0 gave %g in row %lld", (double)bad[i], (double)out[j],
                           (long long)(j % rows));
        check_reset();
    }
}

typedef struct timing {
    problem p;
    float *out;
    int64_t n_tokens;
} timing;

static void run_timing(void *user)
{
    timing *t = user;
    run(&t->p, t->out, 0, t->p.rows, 0, t->n_tokens);
}

static void prepare_timing(void *user)
{
    timing *t = user;
    for (int64_t i = 0; i < t->n_tokens; i++)
        t->p.k->act->prepare(t->p.act + (size_t)i * t->p.act_stride, t->p.x + i * t->p.cols, t->p.cols);
}

static void pack_timing(void *user)
{
    timing *t = user;
    t->p.k->pack(t->p.w, t->p.file, t->p.rows, t->p.cols, 0, t->p.rows);
}

static void bench(check *c, const sala_linear_kernel *k)
{
    const int64_t cols = 1536, n_tokens = 192;
    timing t = {.p = make(c, k, 768, cols, n_tokens)};
    t.out = check_guarded((size_t)(t.p.rows * n_tokens) * sizeof(float));
    const double ops = 2.0 * (double)t.p.rows * (double)cols, x_bytes = (double)cols * (double)n_tokens * sizeof(float);
    t.n_tokens = n_tokens;
    const double many = check_time(run_timing, &t), prep = check_time(prepare_timing, &t);
    const double packing = k->pack ? check_time(pack_timing, &t) : 0;
    t.n_tokens = 4;
    const double few = check_time(run_timing, &t);
    t.n_tokens = 1;
    const double small = check_time(run_timing, &t);
    check_reset();
    const int64_t row_bytes = (int64_t)sala_dtype_bytes(k->dtype, cols);
    t = (timing){.p = make(c, k, (96 << 20) / row_bytes, cols, 1), .n_tokens = 1}; /* larger than the caches */
    t.out = check_guarded((size_t)t.p.rows * sizeof(float));
    const double one = check_time(run_timing, &t);
    printf("%-24s %7.1f GOP/s x192  %6.1f x4  %6.1f x1  %6.1f GB/s in cache %6.1f GB/s from memory  prepare %5.1f GB/s",
           k->name, 1e-9 * ops * (double)n_tokens / many, 4e-9 * ops / few, 1e-9 * ops / small,
           1e-9 * (double)sala_dtype_bytes(k->dtype, 768 * cols) / small, 1e-9 * (double)t.p.w_bytes / one,
           1e-9 * x_bytes / prep);
    if (k->pack)
        printf("  pack %5.1f GB/s", 1e-9 * (double)sala_dtype_bytes(k->dtype, 768 * cols) / packing);
    printf("\n");
}

void check_linear(check *c)
{
    size_t n;
    const sala_linear_kernel *const *all = sala_linear_all(&n);
    for (size_t i = 0; i < n; i++) {
        const sala_linear_kernel *k = all[i];
        if (!check_begin(c, k->name, k->need))
            continue;
        const int block = sala_dtype_get((int)k->dtype)->block_weights;
        if (c->bench) {
            bench(c, k);
        } else {
            static const int rows[] = {1, 7, 8, 16, 17, 33}, tokens[] = {1, 2, 3, 5, 13, 30};
            for (size_t r = 0; r < SALA_CHECK_LEN(rows); r++)
                check_shape(c, k, rows[r], block == 1 ? 1 + check_below(c, 70) : block * (1 + (int)r % 3), tokens[r]);
            if (block == 1)
                for (int cols = 1; cols < 70; cols++)
                    check_shape(c, k, 5, cols, 1 + cols % 4);
            check_shape(c, k, 19, block == 1 ? 1031 : 1024 + 512 / 256 * 256, 37);
            check_shape(c, k, 8, block == 256 ? 2304 : 576, 3);
            check_shape(c, k, 3, block == 256 ? 28672 : 18944 / 32 * 32,
                        26); /* more tokens than are worked on at once */
            check_extremes(c, k);
            check_not_finite(c, k);
        }
        check_end(c);
    }
}
