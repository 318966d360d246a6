/* What bodies for any register width begin with: exp in lanes, and loops over the registers of an array. The includer
 * has included a lanes_*.h. */
#ifndef SALA_KERNELS_SIMD_EXP_IMPL_H
#define SALA_KERNELS_SIMD_EXP_IMPL_H

#define INLINE static inline __attribute__((always_inline))

/* exp with an error below 1 ulp where the result is normal: 2^n times the Taylor sum of the remainder, |r| <= ln(2)/2,
 * whose ninth term is 5e-9. NaN stays NaN; the order of the operands of max and min is what keeps it. */
INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x));
    const vf n = vf_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
    const vf r = vf_fnma(n, vf_set1(-0x1.05c61p-29f), vf_fnma(n, vf_set1(0x1.62e43p-1f), x));
    vf p = vf_set1(1.0f / 5040);
    p = vf_fma(p, r, vf_set1(1.0f / 720));
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_scale2(p, n);
}

/* exp of x <= 0 for weights: 2^n times a polynomial for 2^f, |f| <= 1/2, that was fitted to the least relative error
 * (9e-8 before rounding). Off by 2 ulp and |x| ulp / 2, which only small weights feel; 0 below 2^LEAST_EXPONENT. */
INLINE vf vf_exp_weight(vf x)
{
    x = vf_max(vf_set1(LEAST_EXPONENT), vf_mul(x, vf_set1(0x1.715476p+0f)));
    const vf n = vf_round(x), f = vf_sub(x, n);
    vf p = vf_set1(0x1.5bba14p-10f);
    p = vf_fma(p, f, vf_set1(0x1.3cea88p-7f));
    p = vf_fma(p, f, vf_set1(0x1.c6b752p-5f));
    p = vf_fma(p, f, vf_set1(0x1.ebf9bcp-3f));
    p = vf_fma(p, f, vf_set1(0x1.62e42ap-1f));
    p = vf_fma(p, f, vf_set1(1.0f));
    return vf_scale2_down(p, n);
}

/* for each register of an array: its offset i and its number of elements m */
#define EACH_VECTOR(n) for (int64_t i = 0, m; m = (n)-i < LANES ? (n)-i : LANES, i < (n); i += LANES)

#endif
