/* Inputs that freeze.py makes too, and what several tests need. */
#ifndef SALA_TESTS_UNIT_QUANT_TEST_H
#define SALA_TESTS_UNIT_QUANT_TEST_H

#include "unit/test.h"

#include "kernels/kernels.h"
#include "quant/quant.h"

#include <math.h>

static inline double uniform_at(uint64_t x)
{
    uint64_t z = x + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 40) / 16777216.0;
}

static inline float weight_at(uint64_t stream, uint64_t i)
{
    double sum = 0;
    for (uint64_t k = 0; k < 4; k++)
        sum += uniform_at((stream << 32) + 4 * i + k);
    return (float)(0.05 * (sum - 2.0));
}

static inline float *make_weights(uint64_t stream, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = weight_at(stream, (uint64_t)i);
    return x;
}

static inline float *make_importance(int64_t n)
{
    float *w = malloc((size_t)n * sizeof *w);
    assert_non_null(w);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)(0.05 + 8.0 * pow(uniform_at((UINT64_C(77) << 32) + (uint64_t)i), 4));
    return w;
}

/* The types that rounding can write in blocks. */
static const sala_dtype block_types[] = {SALA_Q4_0,   SALA_Q4_1,   SALA_Q5_0,  SALA_Q5_1, SALA_Q8_0,
                                         SALA_Q2_K,   SALA_Q3_K,   SALA_Q4_K,  SALA_Q5_K, SALA_Q6_K,
                                         SALA_IQ4_NL, SALA_IQ4_XS, SALA_TQ1_0, SALA_TQ2_0};

/* What sala_quant_to_hf leaves, with its folder. */
static inline void remove_export(const char *dir)
{
    static const char *const files[] = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json"};
    char path[400];
    for (size_t i = 0; i < SALA_ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        remove(path);
    }
    remove(dir);
}

#endif
