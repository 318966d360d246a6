/* Recognising checkpoints whose weights are ternary although they are stored as ordinary floats: for each group of
 * consecutive weights of a row every value is -s, 0 or +s. Groups of the sizes that are in use are tested side by side,
 * in one pass over the rows. */
#include "quant/quant.h"

#include <math.h>

static const int64_t sizes[] = {256, 128, 64, 32};

sala_ternary sala_ternary_start(int64_t n_cols)
{
    return (sala_ternary){.ternary = n_cols > 0, .group = n_cols, .f16_exact = true, .best = SALA_DTYPE_NONE};
}

/* All non-zero magnitudes of x[0..n) are equal to *s, which is 0 when there are none. */
static bool one_magnitude(const float *x, int64_t n, float *s)
{
    float top = 0;
    for (int64_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        top = a > top ? a : top;
    }
    int bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= x[i] != 0 && fabsf(x[i]) != top;
    *s = top;
    return !bad;
}

static bool row_holds(sala_ternary *t, const float *x, int64_t n_cols, int64_t group)
{
    for (int64_t at = 0; at < n_cols; at += group) {
        const int64_t left = n_cols - at;
        float s;
        if (!one_magnitude(x + at, left < group ? left : group, &s))
            return false;
        if (sala_f16_to_f32(sala_f32_to_f16(s)) != s)
            t->f16_exact = false;
    }
    return true;
}

void sala_ternary_rows(sala_ternary *t, const float *rows, int64_t n_rows, int64_t n_cols)
{
    for (int64_t r = 0; r < n_rows && t->ternary; r++) {
        const float *x = rows + r * n_cols;
        int64_t group = t->group;
        bool holds = row_holds(t, x, n_cols, group);
        for (size_t i = 0; i < SALA_ARRAY_LEN(sizes) && !holds; i++) {
            if (sizes[i] < group && n_cols % sizes[i] == 0) {
                group = sizes[i];
                holds = row_holds(t, x, n_cols, group);
            }
        }
        t->group = group;
        t->ternary = holds;
    }
}

void sala_ternary_end(sala_ternary *t, int64_t n_cols)
{
    if (!t->ternary) {
        t->group = 0;
        t->f16_exact = false;
        t->best = SALA_DTYPE_NONE;
        return;
    }
    /* A block of TQ2_0 has one scale for 256 weights, one of Q4_0 for 32. */
    if (t->f16_exact && n_cols % 256 == 0 && t->group % 256 == 0)
        t->best = SALA_TQ2_0;
    else if (t->f16_exact && n_cols % 32 == 0 && t->group % 32 == 0)
        t->best = SALA_Q4_0;
    else
        t->best = t->f16_exact ? SALA_F16 : SALA_F32;
}
