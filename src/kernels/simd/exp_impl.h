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

/* for each register of an array: its offset i and its number of elements m */
#define EACH_VECTOR(n) for (int64_t i = 0, m; m = (n)-i < LANES ? (n)-i : LANES, i < (n); i += LANES)

#endif
