/* The k largest of many numbers, for any register width. The includer defines LANES and
 *   uint32_t at_least(const float *x, int m, float t)   bit i: x[i] >= t, i < m <= LANES
 *   void range_of(float *min, float *max, const float *x, int64_t n)
 *
 * Floats in the order of integers: the value of rank k is found by bisection, a count of the larger ones for each step.
 * About fifteen passes without a branch over numbers that lie in the nearest cache take less than a heap of the best
 * takes to mispredict, and what is chosen comes out in order of place. */
#ifndef SALA_KERNELS_TOP_K_IMPL_H
#define SALA_KERNELS_TOP_K_IMPL_H

/* Steps of the order of floats; both zeros are neighbours, which comparisons take for one number. */
static inline int64_t rank_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >= 0 ? bits : (int64_t)INT32_MIN - bits - 1;
}

static inline float float_of_rank(int64_t rank)
{
    const int32_t bits = (int32_t)(rank >= 0 ? rank : (int64_t)INT32_MIN - rank - 1);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int64_t count_at_least(const float *x, int64_t n, float t)
{
    int64_t i = 0, count = 0;
    for (; i + LANES <= n; i += LANES)
        count += __builtin_popcount(at_least(x + i, LANES, t));
    return i < n ? count + __builtin_popcount(at_least(x + i, (int)(n - i), t)) : count;
}

static int64_t top_k(int32_t *out, const float *x, int64_t n, int64_t k)
{
    if (k <= 0 || n <= 0)
        return 0;
    float min, max;
    range_of(&min, &max, x, n);
    /* At least k numbers are >= low, fewer are >= high. */
    int64_t low = rank_of(min), high = rank_of(max) + 1, n_high = 0;
    while (k < n && high - low > 1) {
        const int64_t mid = low + (high - low) / 2, count = count_at_least(x, n, float_of_rank(mid));
        if (count < k) {
            high = mid;
            n_high = count;
            continue;
        }
        low = mid;
        if (count == k) { /* whatever equals the last one belongs to them */
            n_high = 0;
            break;
        }
    }
    const float t = float_of_rank(low);
    int64_t n_out = 0, n_equal = k - n_high; /* of those that equal t, so many are taken */
    for (int64_t i = 0; i < n; i += LANES) {
        const int m = (int)(n - i < LANES ? n - i : LANES);
        for (uint32_t hits = at_least(x + i, m, t); hits; hits &= hits - 1) {
            const int64_t at = i + __builtin_ctz(hits);
            if (n_out < k && (x[at] > t || n_equal-- > 0))
                out[n_out++] = (int32_t)at;
        }
    }
    return n_out;
}

#endif
