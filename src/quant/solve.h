/* Scales for sixteen groups of weights at a time. Internal to quant. */
#ifndef SALA_QUANT_SOLVE_H
#define SALA_QUANT_SOLVE_H

#include "quant/lanes.h"

#include <stdbool.h>
#include <stdint.h>

/* Weights below this magnitude are zero for every block format: half of the smallest half float, 2^-25, times the
 * smallest useful level is still larger. It also keeps reciprocals and squares far from the ends of the float range. */
#define SALA_QUANT_TINY 1e-9f
/* Above this no block format has a scale; squares of it still fit a float. */
#define SALA_QUANT_HUGE 1e9f

/* What the levels of a group are. */
typedef struct sala_level_set {
    bool iq4;     /* the sixteen values of IQ4_NL and IQ4_XS */
    float lo, hi; /* otherwise the integers from lo to hi */
} sala_level_set;

/* Copies n_groups <= 16 groups of n weights that stand one behind the other into the lanes and gives each weight the
 * cost importance * sqrt(1 + x^2 / s2): the mean square s2 is that of `span` consecutive groups. The cost grows with
 * magnitude because large weights meet large activations more often than chance would have it. Unused lanes are zero.
 * importance (may be NULL) has one value for each of the n_groups * n weights. */
void sala_lanes_load(sala_lanes *g, const float *x, const float *importance, int n, int n_groups, int span);

/* The best real scale d of each group for values d * level; 0 for groups of zeros. */
void sala_solve_linear(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, float *d);
/* The best scale among half floats; d is such a number on return (or infinite if too large). */
void sala_solve_linear_f16(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, float *d);
/* Values d * l + m with 0 <= l <= hi and d >= 0; with negative_min also m <= 0. */
void sala_solve_affine(const sala_lane_ops *ops, const sala_lanes *g, float hi, bool negative_min, float *d, float *m);

/* Super-blocks: lanes [b * n_groups, (b + 1) * n_groups) belong to super-block b of n_super. The scale of a group is
 * super[b] * code with an integer code in [lo, hi]; super is a half float. On entry d holds real scales, on return
 * super * code. */
void sala_solve_super_linear(const sala_lane_ops *ops, const sala_lanes *g, sala_level_set set, int n_super,
                             int n_groups, int lo, int hi, float *d, float *super, int *code);
/* Scale super * code and minimum -super_min * code_min, codes in [0, hi_code]. */
void sala_solve_super_affine(const sala_lane_ops *ops, const sala_lanes *g, float hi, int n_super, int n_groups,
                             int hi_code, float *d, float *m, float *super, float *super_min, int *code, int *code_min);

/* The levels themselves, [group][weight]: round((x - m) / d) clamped to [lo, hi], minus lo. m may be NULL. */
void sala_lanes_levels(uint8_t *levels, const sala_lanes *g, const float *d, const float *m, float lo, float hi);
/* Indices of the nearest sala_iq4_values. */
void sala_lanes_levels_iq4(uint8_t *levels, const sala_lanes *g, const float *d);

#endif
