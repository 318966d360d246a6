/* The tests: what may follow `is`. */
#include "text/jinja_syntax.h"

#include <math.h>

#define TEST(name, condition)                                                                                          \
    static jj_val name(jj *j, jj_val v, const jj_val *a)                                                               \
    {                                                                                                                  \
        (void)j;                                                                                                       \
        (void)a;                                                                                                       \
        return jj_bool(condition);                                                                                     \
    }

TEST(test_defined, v.kind != JJ_UNDEFINED)
TEST(test_undefined, v.kind == JJ_UNDEFINED)
TEST(test_none, v.kind == JJ_NONE)
TEST(test_boolean, v.kind == JJ_BOOL)
TEST(test_true, v.kind == JJ_BOOL && v.u.b)
TEST(test_false, v.kind == JJ_BOOL && !v.u.b)
TEST(test_integer, v.kind == JJ_INT)
TEST(test_float, v.kind == JJ_FLOAT)
TEST(test_number, v.kind == JJ_INT || v.kind == JJ_FLOAT || v.kind == JJ_BOOL)
TEST(test_string, v.kind == JJ_STR)
TEST(test_mapping, v.kind == JJ_DICT)
TEST(test_sequence, v.kind == JJ_UNDEFINED || v.kind == JJ_STR || v.kind == JJ_LIST || v.kind == JJ_TUPLE ||
                        v.kind == JJ_DICT || v.kind == JJ_RANGE)
TEST(test_iterable, sala_jj_iterable(v) || v.kind == JJ_LOOP)
TEST(test_callable, v.kind == JJ_UNDEFINED || v.kind == JJ_MACRO || v.kind == JJ_LOOP || v.kind == JJ_METHOD ||
                        v.kind == JJ_GLOBAL || v.kind == JJ_JOINER)
TEST(test_escaped, v.kind == JJ_STR && v.u.s->markup)
TEST(test_lower, sala_jj_str_is_case(sala_jj_to_str(j, v), false))
TEST(test_upper, sala_jj_str_is_case(sala_jj_to_str(j, v), true))
TEST(test_eq, sala_jj_equal(j, v, a[0]))
TEST(test_ne, !sala_jj_equal(j, v, a[0]))
TEST(test_lt, sala_jj_order(j, v, a[0], "<") == -1)
TEST(test_gt, sala_jj_order(j, v, a[0], ">") == 1)
TEST(test_in, sala_jj_contains(j, v, a[0]))
TEST(test_filter, v.kind == JJ_STR && sala_jj_find_filter(sala_jj_text(j, v.u.s->data, v.u.s->bytes)) != NULL)
TEST(test_test, v.kind == JJ_STR && sala_jj_find_test(sala_jj_text(j, v.u.s->data, v.u.s->bytes)) != NULL)
#undef TEST

static jj_val test_le(jj *j, jj_val v, const jj_val *a)
{
    const int c = sala_jj_order(j, v, a[0], "<=");
    return jj_bool(c == -1 || c == 0);
}

static jj_val test_ge(jj *j, jj_val v, const jj_val *a)
{
    const int c = sala_jj_order(j, v, a[0], ">=");
    return jj_bool(c == 1 || c == 0);
}

/* Python's `is`: small values that are one object, and containers that are the same one. */
static jj_val test_sameas(jj *j, jj_val v, const jj_val *a)
{
    if (v.kind != a[0].kind)
        return jj_bool(false);
    switch (v.kind) {
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_ITER:
        return jj_bool(v.u.l == a[0].u.l);
    case JJ_DICT:
    case JJ_NAMESPACE:
        return jj_bool(v.u.d == a[0].u.d);
    case JJ_UNDEFINED:
        return jj_bool(v.u.u == a[0].u.u);
    default:
        return jj_bool(sala_jj_equal(j, v, a[0]));
    }
}

static bool remainder_is(jj *j, jj_val v, jj_val by, int64_t want)
{
    return sala_jj_equal(j, sala_jj_binary(j, JT_MOD, v, by), jj_int(want));
}

static jj_val test_odd(jj *j, jj_val v, const jj_val *a)
{
    (void)a;
    return jj_bool(remainder_is(j, v, jj_int(2), 1));
}

static jj_val test_even(jj *j, jj_val v, const jj_val *a)
{
    (void)a;
    return jj_bool(remainder_is(j, v, jj_int(2), 0));
}

static jj_val test_divisibleby(jj *j, jj_val v, const jj_val *a)
{
    return jj_bool(remainder_is(j, v, a[0], 0));
}

static const jj_callable tests[] = {
    {"!=", "other", test_ne, NULL},
    {"<", "other", test_lt, NULL},
    {"<=", "other", test_le, NULL},
    {"==", "other", test_eq, NULL},
    {">", "other", test_gt, NULL},
    {">=", "other", test_ge, NULL},
    {"boolean", "", test_boolean, NULL},
    {"callable", "", test_callable, NULL},
    {"defined", "", test_defined, NULL},
    {"divisibleby", "num", test_divisibleby, NULL},
    {"eq", "other", test_eq, NULL},
    {"equalto", "other", test_eq, NULL},
    {"escaped", "", test_escaped, NULL},
    {"even", "", test_even, NULL},
    {"false", "", test_false, NULL},
    {"filter", "", test_filter, NULL},
    {"float", "", test_float, NULL},
    {"ge", "other", test_ge, NULL},
    {"greaterthan", "other", test_gt, NULL},
    {"gt", "other", test_gt, NULL},
    {"in", "seq", test_in, NULL},
    {"integer", "", test_integer, NULL},
    {"iterable", "", test_iterable, NULL},
    {"le", "other", test_le, NULL},
    {"lessthan", "other", test_lt, NULL},
    {"lower", "", test_lower, NULL},
    {"lt", "other", test_lt, NULL},
    {"mapping", "", test_mapping, NULL},
    {"ne", "other", test_ne, NULL},
    {"none", "", test_none, NULL},
    {"number", "", test_number, NULL},
    {"odd", "", test_odd, NULL},
    {"sameas", "other", test_sameas, NULL},
    {"sequence", "", test_sequence, NULL},
    {"string", "", test_string, NULL},
    {"test", "", test_test, NULL},
    {"true", "", test_true, NULL},
    {"undefined", "", test_undefined, NULL},
    {"upper", "", test_upper, NULL},
};

const jj_callable *sala_jj_find_test(const char *name)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(tests); i++)
        if (strcmp(tests[i].name, name) == 0)
            return &tests[i];
    return NULL;
}
