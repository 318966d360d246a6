/* The passes of lanes.h, compiled once for each instruction set: the includer defines LANE_OPS, the table's name. */
#include "quant/lanes.h"

#include "tensor/dtype.h"

/* Loops run over lanes outside and over the group inside, so that a compiler keeps the sums of four, eight or sixteen
 * lanes in registers. GCC needs the inner trip count to be a constant for that, hence the two instances of each body.
 */
#define FOR_GROUP_SIZE(n, call16, call32)                                                                              \
    do {                                                                                                               \
        if ((n) == 16)                                                                                                 \
            call16;                                                                                                    \
        else                                                                                                           \
            call32;                                                                                                    \
    } while (0)

static inline float clamp(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

static inline void reciprocal(float *restrict inv, const float *restrict d)
{
    for (int k = 0; k < SALA_LANES; k++)
        inv[k] = d[k] != 0 ? 1.0f / d[k] : 0.0f;
}

static inline void linear_fit_n(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict inv,
                                float lo, float hi, const int n)
{
    for (int k = 0; k < SALA_LANES; k++) {
        float ll = 0, xl = 0;
        for (int i = 0; i < n; i++) {
            const float x = g->x[i * SALA_LANES + k];
            const float l = sala_round_even(clamp(inv[k] * x, lo, hi));
            const float wl = g->w[i * SALA_LANES + k] * l;
            ll += wl * l;
            xl += wl * x;
        }
        s->ll[k] = ll;
        s->xl[k] = xl;
    }
}

static void linear_fit(sala_lane_sums *s, const sala_lanes *g, const float *inv, float lo, float hi)
{
    FOR_GROUP_SIZE(g->n, linear_fit_n(s, g, inv, lo, hi, 16), linear_fit_n(s, g, inv, lo, hi, 32));
}

static inline void linear_error_n(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict d,
                                  float lo, float hi, const int n)
{
    _Alignas(64) float inv[SALA_LANES];
    reciprocal(inv, d);
    for (int k = 0; k < SALA_LANES; k++) {
        float ll = 0, xl = 0, e = 0;
        for (int i = 0; i < n; i++) {
            const float x = g->x[i * SALA_LANES + k], w = g->w[i * SALA_LANES + k];
            const float l = sala_round_even(clamp(inv[k] * x, lo, hi));
            const float diff = x - d[k] * l;
            ll += w * l * l;
            xl += w * l * x;
            e += w * diff * diff;
        }
        s->ll[k] = ll;
        s->xl[k] = xl;
        s->error[k] = e;
    }
}

static void linear_error(sala_lane_sums *s, const sala_lanes *g, const float *d, float lo, float hi)
{
    FOR_GROUP_SIZE(g->n, linear_error_n(s, g, d, lo, hi, 16), linear_error_n(s, g, d, lo, hi, 32));
}

static inline void affine_fit_n(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict inv,
                                const float *restrict m, float hi, const int n)
{
    for (int k = 0; k < SALA_LANES; k++) {
        float sl = 0, ll = 0, xl = 0;
        for (int i = 0; i < n; i++) {
            const float x = g->x[i * SALA_LANES + k];
            const float l = sala_round_even(clamp(inv[k] * (x - m[k]), 0, hi));
            const float wl = g->w[i * SALA_LANES + k] * l;
            sl += wl;
            ll += wl * l;
            xl += wl * x;
        }
        s->l[k] = sl;
        s->ll[k] = ll;
        s->xl[k] = xl;
    }
}

static void affine_fit(sala_lane_sums *s, const sala_lanes *g, const float *inv, const float *m, float hi)
{
    FOR_GROUP_SIZE(g->n, affine_fit_n(s, g, inv, m, hi, 16), affine_fit_n(s, g, inv, m, hi, 32));
}

static inline void affine_error_n(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict d,
                                  const float *restrict m, float hi, const int n)
{
    _Alignas(64) float inv[SALA_LANES];
    reciprocal(inv, d);
    for (int k = 0; k < SALA_LANES; k++) {
        float sl = 0, ll = 0, xl = 0, e = 0;
        for (int i = 0; i < n; i++) {
            const float x = g->x[i * SALA_LANES + k], w = g->w[i * SALA_LANES + k];
            const float l = sala_round_even(clamp(inv[k] * (x - m[k]), 0, hi));
            const float wl = w * l;
            const float diff = x - (d[k] * l + m[k]);
            sl += wl;
            ll += wl * l;
            xl += wl * x;
            e += w * diff * diff;
        }
        s->l[k] = sl;
        s->ll[k] = ll;
        s->xl[k] = xl;
        s->error[k] = e;
    }
}

static void affine_error(sala_lane_sums *s, const sala_lanes *g, const float *d, const float *m, float hi)
{
    FOR_GROUP_SIZE(g->n, affine_error_n(s, g, d, m, hi, 16), affine_error_n(s, g, d, m, hi, 32));
}

/* The nearest of sala_iq4_values: the lowest value plus every step whose midpoint lies below v. */
#define IQ4_STEP(v, mid, step) ((v) > (mid) ? (step) : 0.0f)
static inline float iq4_nearest(float v)
{
    const float a = IQ4_STEP(v, -115.5f, 23.0f) + IQ4_STEP(v, -93.5f, 21.0f) + IQ4_STEP(v, -74.0f, 18.0f);
    const float b = IQ4_STEP(v, -57.0f, 16.0f) + IQ4_STEP(v, -42.0f, 14.0f) + IQ4_STEP(v, -28.5f, 13.0f);
    const float c = IQ4_STEP(v, -16.0f, 12.0f) + IQ4_STEP(v, -4.5f, 11.0f) + IQ4_STEP(v, 7.0f, 12.0f);
    const float d = IQ4_STEP(v, 19.0f, 12.0f) + IQ4_STEP(v, 31.5f, 13.0f) + IQ4_STEP(v, 45.5f, 15.0f);
    const float e = IQ4_STEP(v, 61.0f, 16.0f) + IQ4_STEP(v, 79.0f, 20.0f) + IQ4_STEP(v, 101.0f, 24.0f);
    return -127.0f + ((a + b) + (c + d) + e);
}

static void iq4_fit(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict inv)
{
    for (int k = 0; k < SALA_LANES; k++) {
        float ll = 0, xl = 0;
        for (int i = 0; i < 32; i++) {
            const float x = g->x[i * SALA_LANES + k];
            const float l = iq4_nearest(inv[k] * x);
            const float wl = g->w[i * SALA_LANES + k] * l;
            ll += wl * l;
            xl += wl * x;
        }
        s->ll[k] = ll;
        s->xl[k] = xl;
    }
}

static void iq4_error(sala_lane_sums *restrict s, const sala_lanes *restrict g, const float *restrict d)
{
    _Alignas(64) float inv[SALA_LANES];
    reciprocal(inv, d);
    for (int k = 0; k < SALA_LANES; k++) {
        float ll = 0, xl = 0, e = 0;
        for (int i = 0; i < 32; i++) {
            const float x = g->x[i * SALA_LANES + k], w = g->w[i * SALA_LANES + k];
            const float l = iq4_nearest(inv[k] * x);
            const float diff = x - d[k] * l;
            ll += w * l * l;
            xl += w * l * x;
            e += w * diff * diff;
        }
        s->ll[k] = ll;
        s->xl[k] = xl;
        s->error[k] = e;
    }
}

const sala_lane_ops LANE_OPS = {linear_fit, linear_error, affine_fit, affine_error, iq4_fit, iq4_error};
