/* Learning rates at single steps, worked out by hand or as published: MiniCPM's cosine and warm-up-stable-decay forms.
 */
#include "train/schedule.h"
#include "unit/test.h"

#include <math.h>

static void expect(const sala_schedule *s, int64_t step, double lr)
{
    const double got = sala_schedule_at(s, step);
    if (fabs(got - lr) > 1e-12 * fabs(lr))
        fail_msg("step %lld: %.17g, expected %.17g", (long long)step, got, lr);
}

static void warms_up_from_the_first_step(void **state)
{
    (void)state;
    const sala_schedule s = {.kind = SALA_SCHEDULE_CONSTANT, .warmup = 4, .total = 10, .peak = 0.01};
    expect(&s, 1, 0.0025);
    expect(&s, 3, 0.0075);
    expect(&s, 4, 0.01);
    expect(&s, 5, 0.01);
    expect(&s, 1000000, 0.01);
    const sala_schedule none = {.kind = SALA_SCHEDULE_CONSTANT, .total = 10, .peak = 0.01};
    expect(&none, 1, 0.01);
}

static void decays_from_the_end_of_the_stable_part(void **state)
{
    (void)state;
    sala_schedule s = {.kind = SALA_SCHEDULE_WSD,
                       .tail = SALA_TAIL_EXPONENTIAL,
                       .warmup = 10,
                       .stable_end = 80,
                       .total = 100,
                       .peak = 7.5e-3,
                       .end = 3.75e-4};
    expect(&s, 5, 3.75e-3);
    expect(&s, 80, 7.5e-3);
    expect(&s, 90, 7.5e-3 / sqrt(20.0));
    expect(&s, 100, 3.75e-4);
    expect(&s, 200, 3.75e-4);
    s.tail = SALA_TAIL_LINEAR;
    expect(&s, 85, 7.5e-3 * 0.75 + 3.75e-4 * 0.25);
    expect(&s, 100, 3.75e-4);
    s.tail = SALA_TAIL_COSINE;
    expect(&s, 90, (7.5e-3 + 3.75e-4) / 2);
    expect(&s, 81, 3.75e-4 + (7.5e-3 - 3.75e-4) * (1 + 0.98768834059513772619) / 2); /* cos(9 degrees) */
    expect(&s, 100, 3.75e-4);
    s.tail = SALA_TAIL_NONE;
    expect(&s, 100, 7.5e-3);
    s = (sala_schedule){.kind = SALA_SCHEDULE_WSD, .tail = SALA_TAIL_EXPONENTIAL, .stable_end = 80, .total = 100};
    expect(&s, 90, 0);
    expect(&s, 100, 0);
}

static void halves_every_half_life(void **state)
{
    (void)state;
    const sala_schedule s = {.kind = SALA_SCHEDULE_WSD,
                             .tail = SALA_TAIL_HALF_LIFE,
                             .stable_end = 100,
                             .total = 120,
                             .peak = 0.008,
                             .half_life = 5};
    expect(&s, 100, 0.008);
    expect(&s, 105, 0.004);
    expect(&s, 120, 0.0005);
    expect(&s, 102, 0.008 * 0.75785828325519901); /* 2^-0.4 */
}

static void follows_a_cosine(void **state)
{
    (void)state;
    const sala_schedule s = {
        .kind = SALA_SCHEDULE_COSINE, .warmup = 20, .stable_end = 20, .total = 120, .peak = 0.01, .end = 0.001};
    expect(&s, 10, 0.005);
    expect(&s, 20, 0.01);
    expect(&s, 70, 0.0055);
    expect(&s, 45, 0.001 + 0.009 * (1 + 0.70710678118654752440) / 2);
    expect(&s, 120, 0.001);
    expect(&s, 121, 0.001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warms_up_from_the_first_step),
        cmocka_unit_test(decays_from_the_end_of_the_stable_part),
        cmocka_unit_test(halves_every_half_life),
        cmocka_unit_test(follows_a_cosine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
