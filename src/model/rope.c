/* Angles of rotary position encoding. Formulas as published with each method and as Hugging Face transformers computes
 * them, here in double precision: linear (Chen et al. 2023), YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024) and
 * the scaling of Llama 3.1. */
#include "model/config.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

/* YaRN's "temperature": how much the logarithm of the stretch enlarges queries and keys. */
static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static int64_t original_max(const sala_config *c)
{
    return c->rope.original_max > 0 ? c->rope.original_max : c->n_ctx_train;
}

static double attention_factor(const sala_config *c)
{
    const sala_rope_config *r = &c->rope;
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->kind == SALA_ROPE_YARN) {
        if (r->mscale > 0 && r->mscale_all_dim > 0)
            return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
        return yarn_mscale(r->factor, 1.0);
    }
    if (r->kind == SALA_ROPE_LONGROPE) {
        const double orig = (double)original_max(c), ratio = (double)c->n_ctx_train / orig;
        return ratio <= 1.0 || orig <= 1.0 ? 1.0 : sqrt(1.0 + log(ratio) / log(orig));
    }
    return 1.0;
}

/* Low frequencies are divided by the factor, high ones kept, those between mixed. */
static double llama3_frequency(const sala_config *c, double freq)
{
    const sala_rope_config *r = &c->rope;
    const double turns = (double)original_max(c) * freq / two_pi; /* of the original context */
    if (turns > r->high_freq_factor)
        return freq;
    if (turns < r->low_freq_factor)
        return freq / r->factor;
    const double keep = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1.0 - keep) * freq / r->factor + keep * freq;
}

typedef struct yarn_ramp {
    double low, width;
} yarn_ramp;

/* The (fractional) index of the pair that turns `rotations` times within the original context. */
static double yarn_pair(const sala_config *c, double rotations)
{
    return c->rope.n_rot * log((double)original_max(c) / (rotations * two_pi)) / (2.0 * log(c->rope.theta));
}

static yarn_ramp yarn_range(const sala_config *c)
{
    double low = yarn_pair(c, c->rope.beta_fast), high = yarn_pair(c, c->rope.beta_slow);
    if (c->rope.yarn_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, c->rope.n_rot - 1.0);
    /* The small constant of the reference implementations keeps an empty range from dividing by zero. */
    return (yarn_ramp){low, low == high ? 0.001 : high - low};
}

double sala_rope_inv_freq(const sala_config *c, bool long_list, double *inv_freq)
{
    const sala_rope_config *r = &c->rope;
    const float *factors = long_list ? r->long_factors : r->short_factors;
    yarn_ramp ramp = {0, 1};
    if (r->kind == SALA_ROPE_YARN)
        ramp = yarn_range(c);
    for (int32_t i = 0; i < r->n_rot / 2; i++) {
        const double plain = pow(r->theta, -2.0 * i / r->n_rot);
        double freq = plain;
        switch (r->kind) {
        case SALA_ROPE_NONE:
            freq = 0;
            break;
        case SALA_ROPE_PLAIN:
            break;
        case SALA_ROPE_LINEAR:
            freq = plain / r->factor;
            break;
        case SALA_ROPE_LLAMA3:
            freq = llama3_frequency(c, plain);
            break;
        case SALA_ROPE_YARN: {
            const double stretch = fmin(fmax((i - ramp.low) / ramp.width, 0.0), 1.0);
            freq = plain / r->factor * stretch + plain * (1.0 - stretch);
            break;
        }
        case SALA_ROPE_LONGROPE:
        case SALA_ROPE_FACTORS:
            freq = plain / (double)factors[i];
            break;
        }
        inv_freq[i] = freq;
    }
    return attention_factor(c);
}

void sala_rope_rows(float *cosines, float *sines, const double *inv_freq, int n_pairs, double factor, int64_t position,
                    int64_t n)
{
    const float times = (float)factor;
    for (int64_t i = 0; i < n; i++) {
        const float at = (float)(position + i);
        for (int j = 0; j < n_pairs; j++) {
            /* The angle is rounded to f32 before the cosine, as in the code the models were trained with. */
            const float angle = at * (float)inv_freq[j];
            cosines[i * n_pairs + j] = cosf(angle) * times;
            sines[i * n_pairs + j] = sinf(angle) * times;
        }
    }
}

void sala_query_scales(float *scales, double base, int64_t position, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        scales[i] = (float)(log((double)(position + i) + base) / log(floor(base)));
}
