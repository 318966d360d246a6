/* Angles against values worked out from the published formulas; transformers' own numbers are compared in
 * test_config_hf.c. */
#include "unit/format/support.h"

#include "model/config.h"

#include <math.h>

enum { N_ROT = 16, PAIRS = 8 };

static sala_config plain(void)
{
    return (sala_config){.n_ctx_train = 2048,
                         .rope = {.kind = SALA_ROPE_PLAIN, .n_rot = N_ROT, .theta = 10000, .factor = 1}};
}

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-14 * fabs(want)))
        fail_msg("%.17g, expected %.17g", got, want);
}

static void test_plain_and_linear(void **state)
{
    (void)state;
    double freq[PAIRS];
    sala_config c = plain();
    near(sala_rope_inv_freq(&c, false, freq), 1);
    near(freq[0], 1);
    near(freq[4], 0.01); /* 10000^(-8/16) */
    near(freq[6], 0.001);
    c.rope.kind = SALA_ROPE_LINEAR;
    c.rope.factor = 8;
    near(sala_rope_inv_freq(&c, false, freq), 1);
    near(freq[4], 0.00125);
    c.rope.kind = SALA_ROPE_NONE;
    near(sala_rope_inv_freq(&c, false, freq), 1);
    assert_true(freq[0] == 0 && freq[7] == 0);
    c.rope.kind = SALA_ROPE_PLAIN;
    c.rope.n_rot = 4; /* a part of each head */
    (void)sala_rope_inv_freq(&c, false, freq);
    near(freq[1], 0.01);
}

static void test_llama3(void **state)
{
    (void)state;
    double freq[PAIRS];
    sala_config c = plain();
    c.rope.kind = SALA_ROPE_LLAMA3;
    c.rope.factor = 8;
    c.rope.low_freq_factor = 1;
    c.rope.high_freq_factor = 4;
    c.rope.original_max = 1024;
    near(sala_rope_inv_freq(&c, false, freq), 1);
    near(freq[0], 1);                 /* turns 163 times in 1024 positions: kept */
    near(freq[7], pow(10, -3.5) / 8); /* not once: divided */
    /* Pair 4 turns 1.63 times, between the limits. */
    const double turns = 1024 * 0.01 / (2 * acos(-1)), keep = (turns - 1) / 3;
    assert_true(keep > 0 && keep < 1);
    near(freq[4], (1 - keep) * 0.01 / 8 + keep * 0.01);
    c.rope.original_max = 0; /* the trained context stands in */
    (void)sala_rope_inv_freq(&c, false, freq);
    const double keep2 = (2 * turns - 1) / 3;
    near(freq[4], (1 - keep2) * 0.01 / 8 + keep2 * 0.01);
}

static void test_yarn(void **state)
{
    (void)state;
    double freq[PAIRS];
    sala_config c = plain();
    c.rope.kind = SALA_ROPE_YARN;
    c.rope.factor = 4;
    c.rope.original_max = 512;
    c.rope.beta_fast = 32;
    c.rope.beta_slow = 1;
    c.rope.yarn_truncate = true;
    /* Pair 16 ln(512 / (2 pi 32)) / (2 ln 10000) = 0.81 turns 32 times, pair 3.82 once: the ramp goes from 0 to 4. */
    near(sala_rope_inv_freq(&c, false, freq), 1 + 0.1 * log(4));
    near(freq[0], 1);
    const double w1 = pow(10000, -0.125), w2 = 0.1;
    near(freq[1], w1 / 4 * 0.25 + w1 * 0.75);
    near(freq[2], w2 / 4 * 0.5 + w2 * 0.5);
    near(freq[4], 0.0025);
    near(freq[7], pow(10, -3.5) / 4);
    c.rope.mscale = 1;
    c.rope.mscale_all_dim = 0.5;
    near(sala_rope_inv_freq(&c, false, freq), (1 + 0.1 * log(4)) / (1 + 0.05 * log(4)));
    c.rope.attention_factor = 1.5;
    near(sala_rope_inv_freq(&c, false, freq), 1.5);
    c.rope.attention_factor = 0;
    c.rope.mscale = 0;
    c.rope.factor = 0.5; /* no stretch, no temperature */
    near(sala_rope_inv_freq(&c, false, freq), 1);
}

static void test_lists(void **state)
{
    (void)state;
    float one[PAIRS], two[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        one[i] = (float)(i + 1);
        two[i] = (float)(2 * i + 2);
    }
    double freq[PAIRS];
    sala_config c = plain();
    c.rope.kind = SALA_ROPE_LONGROPE;
    c.rope.n_factors = PAIRS;
    c.rope.short_factors = one;
    c.rope.long_factors = two;
    c.rope.original_max = 128;
    near(sala_rope_inv_freq(&c, false, freq), sqrt(1 + log(16) / log(128)));
    near(freq[4], 0.01 / 5);
    near(sala_rope_inv_freq(&c, true, freq), sqrt(1 + log(16) / log(128)));
    near(freq[4], 0.01 / 10);
    c.rope.original_max = 4096; /* less than the original context: no factor */
    near(sala_rope_inv_freq(&c, true, freq), 1);
    c.rope.original_max = 1;
    near(sala_rope_inv_freq(&c, true, freq), 1); /* and no division by ln 1 */
    c.rope.attention_factor = 1.25;
    near(sala_rope_inv_freq(&c, true, freq), 1.25);
    c.rope = (sala_rope_config){.kind = SALA_ROPE_FACTORS,
                                .n_rot = N_ROT,
                                .theta = 10000,
                                .factor = 1,
                                .n_factors = PAIRS,
                                .short_factors = one,
                                .long_factors = one};
    near(sala_rope_inv_freq(&c, true, freq), 1);
    near(freq[4], 0.01 / 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_and_linear),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
