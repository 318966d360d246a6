/* How kernels round what meets quantised keys and values: the definitions in tensor/kv_block.h and kernels/kernels.h,
 * written down once more for the tests. */
#ifndef SALA_CHECK_KV_QUERY_H
#define SALA_CHECK_KV_QUERY_H

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* Turns a group of n components; in f32 with the roundings that the definition has. Twice gives what was. */
static inline void kv_turn(double *x, int n)
{
    int part = 1;
    while (2 * part <= n)
        part *= 2;
    double was[SALA_KV_GROUP];
    memcpy(was, x, (size_t)part * sizeof *x);
    for (int i = 0; i < part; i++) {
        x[i] = 0;
        for (int j = 0; j < part; j++)
            x[i] += __builtin_parity((unsigned)(i & j)) ? -was[j] : was[j];
        x[i] /= sqrt(part);
    }
}

static inline void kv_turn_f32(float *x, int n)
{
    int part = 1;
    while (2 * part <= n)
        part *= 2;
    for (int h = 1; h < part; h *= 2)
        for (int i = 0; i < part; i++)
            if (!(i & h)) {
                const float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
    for (int i = 0; i < part; i++)
        x[i] *= 1 / sqrtf((float)part);
}

/* A group of n components of a query as it meets stored keys: turned where they are, and in whole steps of which
 * `steps` make its largest component; 0: not rounded. */
static inline void kv_query_group(double *out, const float *q, int n, bool turned, int steps)
{
    float x[SALA_KV_GROUP], top = 0;
    memcpy(x, q, (size_t)n * sizeof *x);
    if (turned)
        kv_turn_f32(x, n);
    for (int i = 0; i < n; i++) {
        out[i] = (double)q[i];
        top = fmaxf(top, fabsf(x[i]));
    }
    if (turned)
        kv_turn(out, n);
    const float step = steps ? top / (float)steps : 0;
    for (int i = 0; i < n && steps; i++)
        out[i] = step > 0 ? (double)step * (double)nearbyintf(x[i] / step) : 0;
}

/* Weights that meet codes are whole steps, too: so many make the largest product of a weight and its value's scale that
 * a query has in a block. 0: they are not rounded. */
static inline int kv_weight_steps(const sala_kv_kernels *kv)
{
    return kv->weight_steps;
}

#endif
