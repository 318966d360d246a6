/* Search for the scales that minimise the weighted squared error of a group.
 *
 * For given levels the best scale (and minimum) is a least-squares fit; the search is over the levels, by trying a
 * ladder of reciprocal scales, keeping the one whose fit explains most, and then rounding and fitting in turn. In
 * super-blocks the scales are themselves rounded to small integers: each group then tries the neighbouring integers
 * with its true error, and the shared half float is refitted to all groups. */
#include "quant/solve.h"

#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

#define L SALA_LANES

static float f16_round(float v)
{
    return sala_f16_to_f32(sala_f32_to_f16(v));
}

void sala_lanes_load(sala_lanes *g, const float *x, const float *importance, int n, int n_groups, int span)
{
    g->n = n;
    /* Over the whole arrays, not over the unused lanes: GCC 12 vectorises a loop over some lanes of all elements with
     * aligned stores although the first of those lanes is not aligned. */
    if (n_groups < L) {
        for (int i = 0; i < n * L; i++) {
            g->x[i] = 0;
            g->w[i] = 1;
        }
    }
    for (int first = 0; first < n_groups; first += span) {
        const int last = first + span < n_groups ? first + span : n_groups;
        double sum = 0;
        for (int j = first * n; j < last * n; j++)
            sum += (double)x[j] * x[j];
        const float inv_s2 = sum > 0 ? (float)((last - first) * n / sum) : 0.0f;
        const float inv_safe = inv_s2 < 1e30f ? inv_s2 : 1e30f;
        for (int k = first; k < last; k++) {
            for (int i = 0; i < n; i++) {
                const float v = x[k * n + i];
                const float c = sqrtf(1.0f + v * v * inv_safe);
                g->x[i * L + k] = v;
                g->w[i * L + k] = importance ? importance[k * n + i] * c : c;
            }
        }
    }
}

/* The element of largest magnitude with its sign; 0 for groups that count as zero. */
static void extremes(const sala_lanes *g, float *peak)
{
    float top[L] = {0};
    for (int k = 0; k < L; k++)
        peak[k] = 0;
    for (int i = 0; i < g->n; i++) {
        for (int k = 0; k < L; k++) {
            const float v = g->x[i * L + k], a = fabsf(v);
            peak[k] = a > top[k] ? v : peak[k];
            top[k] = a > top[k] ? a : top[k];
        }
    }
    for (int k = 0; k < L; k++)
        if (top[k] < SALA_QUANT_TINY)
            peak[k] = 0;
}

static void set_fit(const sala_lane_ops *ops, sala_lane_sums *s, const sala_lanes *g, sala_level_set set,
                    const float *inv)
{
    if (set.iq4)
        ops->iq4_fit(s, g, inv);
    else
        ops->linear_fit(s, g, inv, set.lo, set.hi);
}

static void set_error(const sala_lane_ops *ops, sala_lane_sums *s, const sala_lanes *g, sala_level_set set,
                      const float *d)
{
    if (set.iq4)
        ops->iq4_error(s, g, d);
    else
        ops->linear_error(s, g, d, set.lo, set.hi);
}

/* The c-th level that the peak may be sent to; fractional ones stretch or shrink the grid. False behind the last. */
static bool ladder(sala_level_set set, int c, float *level)
{
    const int n_side = 11;
    if (c >= 2 * n_side)
        return false;
    const float end = set.iq4 ? (c < n_side ? -127.0f : 113.0f) : (c < n_side ? set.lo : set.hi);
    const int step = c % n_side;
    /* From 12 % inside the range to 12 % beyond it, where the peak is clipped; at least a whole level each way. */
    const float reach = set.iq4 ? 14.0f : fmaxf(0.12f * fabsf(end), 0.9f);
    *level = end + reach * (float)(step - n_side / 2) / (float)(n_side / 2);
    return true;
}

void sala_solve_linear(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, float *d)
{
    sala_lane_sums s;
    float peak[L], gain[L] = {0};
    _Alignas(64) float inv[L];
    extremes(g, peak);
    for (int k = 0; k < L; k++)
        d[k] = 0;
    float level;
    for (int c = 0; ladder(set, c, &level); c++) {
        for (int k = 0; k < L; k++)
            inv[k] = peak[k] != 0 ? level / peak[k] : 0;
        set_fit(ops, &s, g, set, inv);
        for (int k = 0; k < L; k++) {
            if (s.ll[k] > 0 && s.xl[k] * s.xl[k] > gain[k] * s.ll[k]) {
                d[k] = s.xl[k] / s.ll[k];
                gain[k] = d[k] * s.xl[k];
            }
        }
    }
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < L; k++)
            inv[k] = d[k] != 0 ? 1 / d[k] : 0;
        set_fit(ops, &s, g, set, inv);
        for (int k = 0; k < L; k++) {
            if (s.ll[k] > 0 && s.xl[k] * s.xl[k] > gain[k] * s.ll[k]) {
                d[k] = s.xl[k] / s.ll[k];
                gain[k] = d[k] * s.xl[k];
            }
        }
    }
}

void sala_solve_linear_f16(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, float *d)
{
    sala_lane_sums s;
    float peak[L], best[L];
    _Alignas(64) float try_d[L];
    extremes(g, peak);
    sala_solve_linear(ops, g, set, d);
    for (int k = 0; k < L; k++)
        d[k] = f16_round(d[k]);
    set_error(ops, &s, g, set, d);
    for (int k = 0; k < L; k++)
        best[k] = s.error[k];
    /* Weights that already lie on a grid of this kind, ternary ones among them, are met exactly when their peak is sent
     * to the very level it came from. A level near zero comes first: it wins ties, and its scale is the one that a half
     * float is most likely to hold. */
    const int n_levels = set.iq4 ? 8 : (int)-set.lo;
    for (int c = 1; c <= n_levels; c++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            const float level = set.iq4 ? (float)sala_iq4_values[sign < 0 ? 8 - c : 7 + c] : (float)(c * sign);
            if (!set.iq4 && level > set.hi)
                continue;
            for (int k = 0; k < L; k++)
                try_d[k] = f16_round(peak[k] / level);
            set_error(ops, &s, g, set, try_d);
            for (int k = 0; k < L; k++) {
                if (s.error[k] < best[k]) {
                    best[k] = s.error[k];
                    d[k] = try_d[k];
                }
            }
        }
    }
}

/* Least squares for values d * l + m. False when the levels are all the same. */
static bool affine_lsq(const sala_lane_sums *s, int k, float sw, float sx, bool negative_min, float *d, float *m)
{
    const float det = sw * s->ll[k] - s->l[k] * s->l[k];
    if (!(det > 0))
        return false;
    *d = (sw * s->xl[k] - sx * s->l[k]) / det;
    *m = (s->ll[k] * sx - s->l[k] * s->xl[k]) / det;
    if (negative_min && *m > 0) {
        *m = 0;
        *d = s->xl[k] / s->ll[k];
    }
    return *d > 0;
}

void sala_solve_affine(const sala_lane_ops *ops, const sala_lanes *g, float hi, bool negative_min, float *d, float *m)
{
    sala_lane_sums s;
    float low[L], high[L], sw[L] = {0}, sx[L] = {0}, best[L];
    _Alignas(64) float inv[L];
    for (int k = 0; k < L; k++)
        low[k] = high[k] = g->x[k];
    for (int i = 0; i < g->n; i++) {
        for (int k = 0; k < L; k++) {
            const float v = g->x[i * L + k], w = g->w[i * L + k];
            low[k] = v < low[k] ? v : low[k];
            high[k] = v > high[k] ? v : high[k];
            sw[k] += w;
            sx[k] += w * v;
        }
    }
    /* The plain grid from the lowest to the highest weight is the first candidate: it is exact for weights that have
     * been through this format before. */
    for (int k = 0; k < L; k++) {
        if (negative_min && low[k] > 0)
            low[k] = 0;
        d[k] = high[k] - low[k] > SALA_QUANT_TINY ? (high[k] - low[k]) / hi : 0;
        m[k] = low[k];
        if (fabsf(low[k]) < SALA_QUANT_TINY && d[k] == 0)
            m[k] = 0;
    }
    ops->affine_error(&s, g, d, m, hi);
    for (int k = 0; k < L; k++)
        best[k] = s.error[k];
    _Alignas(64) float base[L], try_d[L], try_m[L];
    const int n_ladder = 22, n_rounds = 2;
    for (int c = 0; c < n_ladder + n_rounds; c++) {
        for (int k = 0; k < L; k++) {
            if (d[k] == 0) {
                inv[k] = 0;
                base[k] = m[k];
            } else if (c < n_ladder) {
                inv[k] = (hi + 0.1f * (float)(c - n_ladder / 2)) / (high[k] - low[k]);
                base[k] = low[k];
            } else {
                inv[k] = 1 / d[k];
                base[k] = m[k];
            }
        }
        ops->affine_fit(&s, g, inv, base, hi);
        for (int k = 0; k < L; k++) {
            try_d[k] = d[k];
            try_m[k] = m[k];
            if (d[k] != 0)
                affine_lsq(&s, k, sw[k], sx[k], negative_min, &try_d[k], &try_m[k]);
        }
        ops->affine_error(&s, g, try_d, try_m, hi);
        for (int k = 0; k < L; k++) {
            if (s.error[k] < best[k]) {
                best[k] = s.error[k];
                d[k] = try_d[k];
                m[k] = try_m[k];
            }
        }
    }
}

static int clamp_int(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

static int nearest_code(float v, float unit, int lo, int hi)
{
    if (unit == 0)
        return 0;
    const float q = v / unit;
    if (!(q > (float)lo))
        return lo;
    if (!(q < (float)hi))
        return hi;
    return clamp_int((int)sala_round_even(q), lo, hi);
}

/* Each lane chooses the code around its real scale whose true error is least. `unit` has one entry for each lane. */
static void choose_linear(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, const float *real,
                          const float *unit, int lo, int hi, int *code, sala_lane_sums *at)
{
    sala_lane_sums s;
    _Alignas(64) float d[L];
    int start[L];
    for (int k = 0; k < L; k++) {
        start[k] = nearest_code(real[k], unit[k], lo, hi);
        at->error[k] = INFINITY;
    }
    for (int delta = -1; delta <= 1; delta++) {
        int tried[L];
        for (int k = 0; k < L; k++) {
            tried[k] = clamp_int(start[k] + delta, lo, hi);
            d[k] = unit[k] * (float)tried[k];
        }
        set_error(ops, &s, g, set, d);
        for (int k = 0; k < L; k++) {
            if (s.error[k] < at->error[k]) {
                at->error[k] = s.error[k];
                at->ll[k] = s.ll[k];
                at->xl[k] = s.xl[k];
                code[k] = tried[k];
            }
        }
    }
}

void sala_solve_super_linear(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, int n_super,
                             int n_groups, int lo, int hi, float *d, float *super, int *code)
{
    /* The code that the largest scale is sent to: the end of the range, or a little inside it. */
    static const float ends[] = {1.0f, 0.97f, 0.94f, 0.90f};
    sala_lane_sums s;
    float real[L], total[L];
    memcpy(real, d, sizeof real);
    for (int b = 0; b < n_super; b++)
        total[b] = INFINITY;
    for (int k = 0; k < L; k++)
        code[k] = 0;
    for (size_t e = 0; e < sizeof ends / sizeof ends[0]; e++) {
        float unit[L] = {0}, try_super[L];
        for (int b = 0; b < n_super; b++) {
            float peak = 0;
            for (int k = b * n_groups; k < (b + 1) * n_groups; k++)
                if (fabsf(real[k]) > fabsf(peak))
                    peak = real[k];
            try_super[b] = f16_round(peak / (ends[e] * (float)lo));
        }
        for (int round = 0; round < 2; round++) {
            int try_code[L];
            for (int b = 0; b < n_super; b++)
                for (int k = b * n_groups; k < (b + 1) * n_groups; k++)
                    unit[k] = try_super[b];
            choose_linear(ops, g, set, real, unit, lo, hi, try_code, &s);
            for (int b = 0; b < n_super; b++) {
                float sum = 0, num = 0, den = 0;
                for (int k = b * n_groups; k < (b + 1) * n_groups; k++) {
                    sum += s.error[k];
                    num += (float)try_code[k] * s.xl[k];
                    den += (float)try_code[k] * (float)try_code[k] * s.ll[k];
                }
                if (sum < total[b]) {
                    total[b] = sum;
                    super[b] = try_super[b];
                    memcpy(code + b * n_groups, try_code + b * n_groups, (size_t)n_groups * sizeof *code);
                }
                if (den > 0)
                    try_super[b] = f16_round(num / den);
            }
        }
    }
    for (int k = 0; k < L; k++)
        d[k] = 0;
    for (int b = 0; b < n_super; b++)
        for (int k = b * n_groups; k < (b + 1) * n_groups; k++)
            d[k] = super[b] * (float)code[k];
}

/* As choose_linear, with a minimum: for each scale code the best minimum code follows from the levels. */
static void choose_affine(const sala_lane_ops *ops, const sala_lanes *g, float hi, const float *real,
                          const float *real_m, const float *unit, const float *unit_m, int hi_code, const float *sw,
                          const float *sx, int *code, int *code_min, sala_lane_sums *at)
{
    sala_lane_sums s;
    _Alignas(64) float d[L], m[L];
    for (int k = 0; k < L; k++)
        at->error[k] = INFINITY;
    for (int delta = -1; delta <= 1; delta++) {
        int tried[L], tried_min[L];
        for (int k = 0; k < L; k++) {
            tried[k] = clamp_int(nearest_code(real[k], unit[k], 0, hi_code) + delta, 0, hi_code);
            tried_min[k] = nearest_code(-real_m[k], unit_m[k], 0, hi_code);
            d[k] = unit[k] * (float)tried[k];
        }
        for (int round = 0; round < 2; round++) {
            for (int k = 0; k < L; k++)
                m[k] = -unit_m[k] * (float)tried_min[k];
            ops->affine_error(&s, g, d, m, hi);
            for (int k = 0; k < L; k++) {
                if (s.error[k] < at->error[k]) {
                    at->error[k] = s.error[k];
                    at->l[k] = s.l[k];
                    at->ll[k] = s.ll[k];
                    at->xl[k] = s.xl[k];
                    code[k] = tried[k];
                    code_min[k] = tried_min[k];
                }
                tried_min[k] = nearest_code((d[k] * s.l[k] - sx[k]) / sw[k], unit_m[k], 0, hi_code);
            }
        }
    }
}

void sala_solve_super_affine(const sala_lane_ops *ops, const sala_lanes *g, float hi, int n_super, int n_groups,
                             int hi_code, float *d, float *m, float *super, float *super_min, int *code, int *code_min)
{
    /* Few codes for the scales leave more to gain from trying where the largest scale is sent. */
    static const float ends[] = {1.0f, 0.93f, 0.87f};
    const int n_ends = hi_code < 16 ? 3 : 1;
    sala_lane_sums s;
    float real[L], real_m[L], total[L], sw[L] = {0}, sx[L] = {0};
    memcpy(real, d, sizeof real);
    memcpy(real_m, m, sizeof real_m);
    for (int i = 0; i < g->n; i++) {
        for (int k = 0; k < L; k++) {
            sw[k] += g->w[i * L + k];
            sx[k] += g->w[i * L + k] * g->x[i * L + k];
        }
    }
    for (int b = 0; b < n_super; b++)
        total[b] = INFINITY;
    for (int k = 0; k < L; k++)
        code[k] = code_min[k] = 0;
    for (int e = 0; e < n_ends * n_ends; e++) {
        float unit[L] = {0}, unit_m[L] = {0}, try_super[L], try_min[L];
        for (int b = 0; b < n_super; b++) {
            float peak = 0, peak_m = 0;
            for (int k = b * n_groups; k < (b + 1) * n_groups; k++) {
                peak = fmaxf(peak, real[k]);
                peak_m = fmaxf(peak_m, -real_m[k]);
            }
            try_super[b] = f16_round(peak / (ends[e / n_ends] * (float)hi_code));
            try_min[b] = f16_round(peak_m / (ends[e % n_ends] * (float)hi_code));
        }
        for (int round = 0; round < 2; round++) {
            int try_code[L], try_code_min[L];
            for (int b = 0; b < n_super; b++) {
                for (int k = b * n_groups; k < (b + 1) * n_groups; k++) {
                    unit[k] = try_super[b];
                    unit_m[k] = try_min[b];
                }
            }
            choose_affine(ops, g, hi, real, real_m, unit, unit_m, hi_code, sw, sx, try_code, try_code_min, &s);
            for (int b = 0; b < n_super; b++) {
                /* Values are D * c * l - M * e; the normal equations for D and M. */
                double sum = 0, dd = 0, mm = 0, dm = 0, xd = 0, xm = 0;
                for (int k = b * n_groups; k < (b + 1) * n_groups; k++) {
                    const double c = try_code[k], q = try_code_min[k];
                    sum += s.error[k];
                    dd += c * c * s.ll[k];
                    mm += q * q * sw[k];
                    dm += c * q * s.l[k];
                    xd += c * s.xl[k];
                    xm += q * sx[k];
                }
                if ((float)sum < total[b]) {
                    total[b] = (float)sum;
                    super[b] = try_super[b];
                    super_min[b] = try_min[b];
                    memcpy(code + b * n_groups, try_code + b * n_groups, (size_t)n_groups * sizeof *code);
                    memcpy(code_min + b * n_groups, try_code_min + b * n_groups, (size_t)n_groups * sizeof *code);
                }
                const double det = dd * mm - dm * dm;
                if (det > 1e-9 * dd * mm) {
                    const double fit = (mm * xd - dm * xm) / det, fit_m = (dm * xd - dd * xm) / det;
                    if (fit > 0 && fit_m > 0) {
                        try_super[b] = f16_round((float)fit);
                        try_min[b] = f16_round((float)fit_m);
                    }
                } else if (dd > 0 && mm == 0) {
                    try_super[b] = f16_round((float)(xd / dd));
                }
            }
        }
    }
    for (int k = 0; k < L; k++)
        d[k] = m[k] = 0;
    for (int b = 0; b < n_super; b++) {
        for (int k = b * n_groups; k < (b + 1) * n_groups; k++) {
            d[k] = super[b] * (float)code[k];
            m[k] = -super_min[b] * (float)code_min[k];
        }
    }
}

void sala_lanes_levels(uint8_t *levels, const sala_lanes *g, const float *d, const float *m, float lo, float hi)
{
    for (int k = 0; k < L; k++) {
        const float inv = d[k] != 0 ? 1 / d[k] : 0, base = m ? m[k] : 0;
        for (int i = 0; i < g->n; i++) {
            float l = inv * (g->x[i * L + k] - base);
            l = l < lo ? lo : l > hi ? hi : l;
            levels[k * g->n + i] = (uint8_t)(sala_round_even(l) - lo);
        }
    }
}

void sala_lanes_levels_iq4(uint8_t *levels, const sala_lanes *g, const float *d)
{
    for (int k = 0; k < L; k++) {
        const float inv = d[k] != 0 ? 1 / d[k] : 0;
        for (int i = 0; i < g->n; i++) {
            const float v = inv * g->x[i * L + k];
            int index = 0;
            for (int q = 1; q < 16; q++)
                index += v > 0.5f * (float)(sala_iq4_values[q - 1] + sala_iq4_values[q]);
            levels[k * g->n + i] = (uint8_t)index;
        }
    }
}
