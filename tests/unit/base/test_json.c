#include "base/json.h"
#include "unit/test.h"

static json_t *load(const char *text, json_error_t *where)
{
    return sala_json_loadb(text, strlen(text), 0, where);
}

/* Python writes whole numbers of any size; strings, exponents and what fits stay as they are. */
static void wide_integers(void **state)
{
    (void)state;
    json_error_t where;
    json_t *j = load("{\"model_max_length\": 1000000000000000019884624838656, \"low\": -12345678901234567890123,"
                     " \"id\": 9007199254740993, \"s\": \"\\\"1000000000000000019884624838656\\\\\", \"real\":"
                     " 0.1234567890123456789012, \"e\": 1234567890123456789012e-3, \"list\":[99999999999999999999]}",
                     &where);
    assert_non_null(j);
    assert_true(json_real_value(json_object_get(j, "model_max_length")) == 1e30);
    assert_true(json_real_value(json_object_get(j, "low")) == -12345678901234567890123.0);
    assert_int_equal(json_integer_value(json_object_get(j, "id")), 9007199254740993);
    assert_string_equal(json_string_value(json_object_get(j, "s")), "\"1000000000000000019884624838656\\");
    assert_true(json_real_value(json_object_get(j, "real")) == 0.1234567890123456789012);
    assert_true(json_real_value(json_object_get(j, "e")) == 1234567890123456789.012);
    assert_true(json_real_value(json_array_get(json_object_get(j, "list"), 0)) == 1e20);
    json_decref(j);
    j = load("[123456789012345678901234567890]", &where);
    assert_non_null(j);
    json_decref(j);
}

static void errors(void **state)
{
    (void)state;
    json_error_t where;
    assert_null(load("{\"a\": 100000000000000000000, ", &where));
    assert_null(load("[1e999]", &where));
    assert_null(load("[\"100000000000000000000\\", &where));
    assert_null(load("", &where));
    assert_null(sala_json_load_file("/nonexistent/config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(wide_integers), cmocka_unit_test(errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
