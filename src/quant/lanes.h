/* The search for scales works on sixteen groups of weights at a time, one group in each lane, transposed: element i of
 * group g stands at [i * SALA_LANES + g]. No sum ever crosses lanes, so plain loops over lanes vectorise, every variant
 * gives the same bits, and the result for a group does not depend on its neighbours.
 *
 * A function of this table makes one pass over the sixteen groups. `inv` arrays hold reciprocal scales. Levels are
 * rounded to nearest, ties to even, and kept as floats until they are packed. */
#ifndef SALA_QUANT_LANES_H
#define SALA_QUANT_LANES_H

#include <stdint.h>

#define SALA_LANES 16
#define SALA_LANES_MAX_GROUP 32

typedef struct sala_lanes {
    int n; /* weights of a group: 16 or 32 */
    _Alignas(64) float x[SALA_LANES_MAX_GROUP * SALA_LANES];
    _Alignas(64) float w[SALA_LANES_MAX_GROUP * SALA_LANES]; /* cost of a squared error; > 0 */
} sala_lanes;

typedef float sala_lane_row[SALA_LANES];

/* Sums over a group of w * (...) for the levels l that a pass chose. */
typedef struct sala_lane_sums {
    _Alignas(64) sala_lane_row l, ll, xl;
    _Alignas(64) sala_lane_row error; /* w * (x - value)^2; set by the passes named *_error */
} sala_lane_sums;

typedef struct sala_lane_ops {
    /* Levels l = clamp(round(inv * x), lo, hi): ll, xl. */
    void (*linear_fit)(sala_lane_sums *s, const sala_lanes *g, const float *inv, float lo, float hi);
    /* Levels as above with inv = 1/d (0 for d = 0), values d * l: ll, xl, error. */
    void (*linear_error)(sala_lane_sums *s, const sala_lanes *g, const float *d, float lo, float hi);
    /* Levels l = clamp(round(inv * (x - m)), 0, hi): l, ll, xl. */
    void (*affine_fit)(sala_lane_sums *s, const sala_lanes *g, const float *inv, const float *m, float hi);
    /* Levels as above with inv = 1/d (0 for d = 0), values d * l + m: l, ll, xl, error. */
    void (*affine_error)(sala_lane_sums *s, const sala_lanes *g, const float *d, const float *m, float hi);
    /* As linear_fit and linear_error, but l is the nearest of the sixteen sala_iq4_values. */
    void (*iq4_fit)(sala_lane_sums *s, const sala_lanes *g, const float *inv);
    void (*iq4_error)(sala_lane_sums *s, const sala_lanes *g, const float *d);
} sala_lane_ops;

extern const sala_lane_ops sala_lane_ops_plain;
extern const sala_lane_ops sala_lane_ops_avx2;

/* The fastest table of this CPU. */
const sala_lane_ops *sala_lane_ops_get(void);

/* The rounding of every pass; |v| < 2^22. */
static inline float sala_round_even(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

#endif
