/* exp in double, from basic operations only, so that it is the same on every machine (libm's is not) and loops over it
 * vectorise. Relative error below 1e-13 where the result is a normal float; clamped to [-150, 100] outside of which a
 * float result would be 0 or infinity anyway. */
#ifndef SALA_KERNELS_REF_EXP_H
#define SALA_KERNELS_REF_EXP_H

#include <stdint.h>
#include <string.h>

static inline double sala_ref_exp(double x)
{
    double t = x < -150.0 ? -150.0 : x;
    t = t > 100.0 ? 100.0 : t;
    /* exp(t) = 2^k exp(r), |r| <= ln(2)/2. Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits. */
    const double shifted = t * 0x1.71547652b82fep+0 + 0x1.8p52;
    const double k = shifted - 0x1.8p52;
    const double r = (t - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b3ap-40;
    double p = 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits, add;
    memcpy(&bits, &p, 8);
    memcpy(&add, &shifted, 8);
    bits += add << 52;
    memcpy(&p, &bits, 8);
    return x != x ? x : p;
}

#endif
