/* Rows of floats into any stored type: checks, importance, and the choice of the writer. */
#include "quant/quant.h"

#include "quant/rows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static sala_block_writer *writer_of(sala_dtype dtype)
{
    switch (dtype) {
    case SALA_Q4_0:
        return sala_write_q4_0;
    case SALA_Q4_1:
        return sala_write_q4_1;
    case SALA_Q5_0:
        return sala_write_q5_0;
    case SALA_Q5_1:
        return sala_write_q5_1;
    case SALA_Q8_0:
        return sala_write_q8_0;
    case SALA_Q2_K:
        return sala_write_q2_k;
    case SALA_Q3_K:
        return sala_write_q3_k;
    case SALA_Q4_K:
        return sala_write_q4_k;
    case SALA_Q5_K:
        return sala_write_q5_k;
    case SALA_Q6_K:
        return sala_write_q6_k;
    case SALA_IQ4_NL:
        return sala_write_iq4_nl;
    case SALA_IQ4_XS:
        return sala_write_iq4_xs;
    case SALA_TQ1_0:
        return sala_write_tq1_0;
    case SALA_TQ2_0:
        return sala_write_tq2_0;
    default:
        return NULL;
    }
}

bool sala_quantize_has(sala_dtype dtype)
{
    return dtype == SALA_F32 || dtype == SALA_F16 || dtype == SALA_BF16 || writer_of(dtype) != NULL;
}

/* The first element that is NaN, infinite or of magnitude above `limit`; n if there is none. */
static int64_t first_beyond(const float *x, int64_t n, float limit)
{
    const int64_t chunk = 256;
    for (int64_t at = 0; at < n; at += chunk) {
        const int64_t end = at + chunk < n ? at + chunk : n;
        int bad = 0;
        for (int64_t i = at; i < end; i++)
            bad |= !(fabsf(x[i]) <= limit);
        if (bad)
            for (int64_t i = at; i < end; i++)
                if (!(fabsf(x[i]) <= limit))
                    return i;
    }
    return n;
}

static sala_status too_large(sala_error *err, sala_dtype dtype, int64_t at, float value)
{
    return sala_fail_at(err, SALA_E_NUMERIC, at, "the weight %g is too large for %s; use BF16 or F32", (double)value,
                        sala_dtype_name(dtype));
}

/* Scaled to mean 1 and kept away from zero, so that a column the calibration never touched still gets some care.
 * *out is NULL when all columns weigh the same. */
static sala_status normalise_importance(float **out, const float *importance, int64_t n_cols, sala_error *err)
{
    *out = NULL;
    if (!importance)
        return SALA_OK;
    double sum = 0;
    for (int64_t i = 0; i < n_cols; i++) {
        if (!(importance[i] >= 0) || isinf(importance[i]))
            return sala_fail_at(err, SALA_E_NUMERIC, i, "importance of column %" PRId64 " is %g, not a number >= 0", i,
                                (double)importance[i]);
        sum += importance[i];
    }
    if (!(sum > 0))
        return SALA_OK;
    float *w = malloc((size_t)n_cols * sizeof *w);
    if (!w)
        return sala_fail_memory(err, (uint64_t)n_cols * sizeof *w);
    for (int64_t i = 0; i < n_cols; i++) {
        const float v = (float)((double)importance[i] * (double)n_cols / sum);
        w[i] = v > 1e-4f ? v : 1e-4f;
    }
    *out = w;
    return SALA_OK;
}

sala_status sala_quantize_rows(sala_dtype dtype, void *dst, const float *src, int64_t n_rows, int64_t n_cols,
                               const float *importance, sala_error *err)
{
    const sala_dtype_info *info = sala_dtype_get((int)dtype);
    if (!info || !sala_quantize_has(dtype))
        return sala_fail(err, SALA_E_UNSUPPORTED, "there is no rounding to type %s", sala_dtype_name(dtype));
    uint64_t n;
    if (n_rows < 0 || n_cols < 0 || n_cols % info->block_weights != 0)
        return sala_fail(err, SALA_E_INVALID, "rows of %" PRId64 " weights do not divide into blocks of %d (%s)",
                         n_cols, info->block_weights, info->name);
    if (!sala_mul_size(&n, (uint64_t)n_rows, (uint64_t)n_cols) || n > INT64_MAX / 8)
        return sala_fail(err, SALA_E_INVALID, "%" PRId64 " x %" PRId64 " weights are too many", n_rows, n_cols);
    if (n == 0)
        return SALA_OK;

    const int64_t bad = first_beyond(src, (int64_t)n, 3.4028235e38f);
    if (bad < (int64_t)n)
        return sala_fail_at(err, SALA_E_NUMERIC, bad, "the weight is %s, expected a finite number",
                            isnan(src[bad]) ? "not a number" : "infinite");
    if (dtype == SALA_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return SALA_OK;
    }
    if (dtype == SALA_F16 || dtype == SALA_BF16) {
        /* 65520 and 0x1.ffp127 round to infinity; anything below rounds to the largest finite number. */
        const float limit = dtype == SALA_F16 ? 65519.996f : 0x1.fefffep127f;
        const int64_t big = first_beyond(src, (int64_t)n, limit);
        if (big < (int64_t)n)
            return too_large(err, dtype, big, src[big]);
        uint8_t *out = dst; /* may be unaligned */
        for (uint64_t i = 0; i < n; i++) {
            const uint16_t h = dtype == SALA_F16 ? sala_f32_to_f16(src[i]) : sala_f32_to_bf16(src[i]);
            memcpy(out + i * 2, &h, 2);
        }
        return SALA_OK;
    }

    const int64_t huge = first_beyond(src, (int64_t)n, SALA_QUANT_HUGE);
    if (huge < (int64_t)n)
        return too_large(err, dtype, huge, src[huge]);
    float *weights;
    const sala_status st = normalise_importance(&weights, importance, n_cols, err);
    if (st != SALA_OK)
        return st;
    const sala_block_run run = {
        .dst = dst,
        .x = src,
        .n_blocks = (int64_t)n / info->block_weights,
        .importance = weights,
        .blocks_per_row = n_cols / info->block_weights,
        .ops = sala_lane_ops_get(),
    };
    const int64_t over = writer_of(dtype)(&run);
    free(weights);
    if (over >= 0) {
        int64_t at = over * info->block_weights;
        for (int64_t i = at; i < (over + 1) * info->block_weights; i++)
            if (fabsf(src[i]) > fabsf(src[at]))
                at = i;
        return too_large(err, dtype, at, src[at]);
    }
    return SALA_OK;
}
