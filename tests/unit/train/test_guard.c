/* Which steps a guard passes over, and what that leaves behind. */
#include "train/guard.h"
#include "unit/test.h"

#include <math.h>

static const sala_guard guard = {.z = 6, .window = 16};

/* n losses around 3 with a deviation of about 0.1. */
static void settle(sala_guard_state *s, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(sala_guard_judge(&guard, s, 3 + 0.1 * sin(i * 2.4), 1), SALA_VERDICT_GOOD);
}

static void takes_steady_losses(void **state)
{
    (void)state;
    sala_guard_state s = {0};
    settle(&s, 100);
    assert_int_equal(s.n_seen, 100);
    assert_true(fabs(s.mean - 3) < 0.03);
    assert_true(fabs(sqrt(s.variance) - 0.0707) < 0.02);
}

static void marks_a_spike_and_forgets_it(void **state)
{
    (void)state;
    sala_guard_state s = {0};
    settle(&s, 40);
    const sala_guard_state before = s;
    assert_int_equal(sala_guard_judge(&guard, &s, 5, 1), SALA_VERDICT_SPIKE);
    assert_int_equal(sala_guard_judge(&guard, &s, 6, 1), SALA_VERDICT_SPIKE);
    assert_int_equal(s.spikes, 2);
    assert_true(s.mean == before.mean && s.variance == before.variance && s.n_seen == before.n_seen);
    assert_int_equal(sala_guard_judge(&guard, &s, 3, 1), SALA_VERDICT_GOOD);
    assert_int_equal(s.spikes, 0);
    /* A loss far below is no spike. */
    assert_int_equal(sala_guard_judge(&guard, &s, 0.5, 1), SALA_VERDICT_GOOD);
}

static void waits_until_it_has_seen_enough(void **state)
{
    (void)state;
    sala_guard_state s = {0};
    settle(&s, 7);
    assert_int_equal(sala_guard_judge(&guard, &s, 50, 1), SALA_VERDICT_GOOD);
    sala_guard_state t = {0};
    settle(&t, 8);
    assert_int_equal(sala_guard_judge(&guard, &t, 50, 1), SALA_VERDICT_SPIKE);
}

static void lets_ripples_of_a_flat_curve_pass(void **state)
{
    (void)state;
    sala_guard_state s = {0};
    for (int i = 0; i < 50; i++)
        assert_int_equal(sala_guard_judge(&guard, &s, 1.5, 1), SALA_VERDICT_GOOD);
    assert_int_equal(sala_guard_judge(&guard, &s, 1.555, 1), SALA_VERDICT_GOOD);
    assert_int_equal(sala_guard_judge(&guard, &s, 1.7, 1), SALA_VERDICT_SPIKE);
}

static void counts_steps_that_are_not_finite(void **state)
{
    (void)state;
    sala_guard_state s = {0};
    settle(&s, 20);
    const double mean = s.mean;
    assert_int_equal(sala_guard_judge(&guard, &s, NAN, 1), SALA_VERDICT_NOT_FINITE);
    assert_int_equal(sala_guard_judge(&guard, &s, 3, INFINITY), SALA_VERDICT_NOT_FINITE);
    assert_int_equal(sala_guard_judge(&guard, &s, -INFINITY, NAN), SALA_VERDICT_NOT_FINITE);
    assert_int_equal(s.bad, 3);
    assert_true(s.mean == mean);
    assert_int_equal(sala_guard_judge(&guard, &s, 3, 1), SALA_VERDICT_GOOD);
    assert_int_equal(s.bad, 0);
}

static void marks_nothing_when_off(void **state)
{
    (void)state;
    const sala_guard off = {.z = 0, .window = 16};
    sala_guard_state s = {0};
    for (int i = 0; i < 100; i++)
        assert_int_equal(sala_guard_judge(&off, &s, i < 50 ? 1 : 1000, 1), SALA_VERDICT_GOOD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_steady_losses),
        cmocka_unit_test(marks_a_spike_and_forgets_it),
        cmocka_unit_test(waits_until_it_has_seen_enough),
        cmocka_unit_test(lets_ripples_of_a_flat_curve_pass),
        cmocka_unit_test(counts_steps_that_are_not_finite),
        cmocka_unit_test(marks_nothing_when_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
