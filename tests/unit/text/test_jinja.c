/* The template interpreter: frozen results of jinja2, where each byte of the output came from, limits, and messages. */
#include "text/jinja.h"
#include "unit/test.h"

typedef struct result {
    sala_status status;
    sala_error err;
    char *text;
    size_t bytes, n_spans;
    sala_jinja_span *spans;
} result;

static result render(const char *template, size_t bytes, const json_t *vars, int64_t now,
                     const sala_jinja_limits *limits)
{
    result r = {0};
    sala_jinja *t = NULL;
    r.status = sala_jinja_compile(&t, template, bytes, &r.err);
    if (r.status == SALA_OK)
        r.status = sala_jinja_render(t, vars, now, limits, &r.text, &r.bytes, &r.spans, &r.n_spans, &r.err);
    sala_jinja_free(t);
    return r;
}

static void drop(result *r)
{
    free(r->text);
    free(r->spans);
}

static result render_text(const char *template, const char *vars, const sala_jinja_limits *limits)
{
    json_t *v = json_loads(vars, 0, NULL);
    assert_non_null(v);
    result r = render(template, strlen(template), v, 0, limits);
    json_decref(v);
    return r;
}

static void spans_are_whole(const result *r)
{
    size_t at = 0;
    for (size_t i = 0; i < r->n_spans; i++) {
        assert_int_equal(r->spans[i].begin, at);
        assert_true(r->spans[i].end > at);
        if (i > 0)
            assert_true(r->spans[i].from_input != r->spans[i - 1].from_input);
        at = r->spans[i].end;
    }
    assert_int_equal(at, r->bytes);
    assert_int_equal(r->text[r->bytes], 0);
}

static void frozen_cases(void **state)
{
    (void)state;
    json_error_t where;
    json_t *file = json_load_file(SALA_TEST_DIR "/fixtures/templates/cases.json", 0, &where);
    if (!file)
        fail_msg("cases.json line %d: %s", where.line, where.text);
    const json_t *cases = json_object_get(file, "cases");
    const int64_t now = json_integer_value(json_object_get(file, "now"));
    size_t n_bad = 0;
    assert_true(json_array_size(cases) > 60);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *source = json_object_get(c, "template");
        const char *name = json_string_value(json_object_get(c, "name"));
        const json_t *text = json_object_get(c, "text"), *error = json_object_get(c, "error");
        json_t *vars = json_copy(json_object_get(file, "vars"));
        if (json_object_get(c, "vars"))
            json_object_update(vars, json_object_get(c, "vars"));
        result r = render(json_string_value(source), json_string_length(source), vars, now, NULL);
        if (text) {
            if (r.status != SALA_OK || r.bytes != json_string_length(text) ||
                memcmp(r.text, json_string_value(text), r.bytes) != 0) {
                print_error("%s:\n  wanted %s\n  got    %s\n", name, json_string_value(text),
                            r.status == SALA_OK ? r.text : r.err.message);
                n_bad++;
            } else {
                spans_are_whole(&r);
            }
        } else if (r.status == SALA_OK ||
                   (json_is_string(error) &&
                    (r.status != SALA_E_TEMPLATE || strcmp(r.err.message, json_string_value(error)) != 0))) {
            print_error("%s:\n  wanted an error\n  got    %s\n", name, r.status == SALA_OK ? r.text : r.err.message);
            n_bad++;
        }
        drop(&r);
        json_decref(vars);
    }
    json_decref(file);
    assert_int_equal(n_bad, 0);
}

/* Writes the origin of every byte: 'i' from the variables, '.' from the template. */
static void origin_is(const char *template, const char *vars, const char *text, const char *origin)
{
    result r = render_text(template, vars, NULL);
    if (r.status != SALA_OK)
        fail_msg("%s: %s", template, r.err.message);
    assert_string_equal(r.text, text);
    spans_are_whole(&r);
    char *got = malloc(r.bytes + 1);
    assert_non_null(got);
    for (size_t i = 0; i < r.n_spans; i++)
        memset(got + r.spans[i].begin, r.spans[i].from_input ? 'i' : '.', r.spans[i].end - r.spans[i].begin);
    got[r.bytes] = 0;
    assert_string_equal(got, origin);
    free(got);
    drop(&r);
}

static void origins(void **state)
{
    (void)state;
    const char *v =
        "{\"a\": \"in\", \"b\": \" x y \", \"l\": [\"p\", \"q\"], \"d\": {\"k\": \"v\"}, \"n\": 5, \"c\": \"AbA\"}";
    origin_is("<{{ a }}>", v, "<in>", ".ii.");
    origin_is("{{ '<' + a ~ '>' }}", v, "<in>", ".ii.");
    origin_is("{{ b|trim }}|", v, "x y|", "iii.");
    origin_is("{{ ('<' ~ a ~ '>')[1:] }}", v, "in>", "ii.");
    origin_is("{{ ('<' ~ a ~ '>')|upper|reverse }}", v, ">NI<", ".ii.");
    origin_is("{{ c|replace('A', '<>') }}", v, "<>b<>", "..i..");
    origin_is("{{ l|join(', ') }}", v, "p, q", "i..i");
    origin_is("{{ 'p-q'.split('-')[0] ~ b.split()[1] }}", v, "py", ".i");
    origin_is("{{ a|tojson }}{{ 'o'|tojson }}", v, "\"in\"\"o\"", "iiii...");
    origin_is("{{ d|tojson }}", v, "{\"k\": \"v\"}", "iiiiiiiiii");
    origin_is("{{ {'k': a}|tojson }}", v, "{\"k\": \"in\"}", "......iiii.");
    origin_is("{{ [a, 'o'] }}", v, "['in', 'o']", ".iiii......");
    origin_is("{{ '%s=%s' % ('k', a) }}", v, "k=in", "..ii");
    origin_is("{{ '{}:{}'.format(a, 1) }}", v, "in:1", "ii..");
    origin_is("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(a) }}", v, "[in]", ".ii.");
    origin_is("{% set s %}({{ a }}){% endset %}{{ s }}", v, "(in)", ".ii.");
    origin_is("{% filter upper %}o{{ a }}{% endfilter %}", v, "OIN", ".ii");
    origin_is("{% for k in d %}{{ k }}{% endfor %}", v, "k", "i");
    origin_is("{{ 'yes' if a == 'in' else 'no' }}", v, "yes", "...");
    origin_is("{{ n }}{{ l|length }}", v, "52", "..");
    origin_is("{{ a|escape }}{{ a|title }}{{ a * 2 }}", v, "inIninin", "iiiiiiii");
    origin_is("{% set ns = namespace(s='') %}{% for x in l %}{% set ns.s = ns.s ~ '/' ~ x %}{% endfor %}{{ ns.s }}", v,
              "/p/q", ".i.i");
    origin_is("{{ a|indent(1, true) }}{{ a|truncate(2, true, '') }}", v, " inin", ".iiii");
    origin_is("", v, "", "");
}

static void fails_with(const char *template, const char *vars, const sala_jinja_limits *limits, sala_status status,
                       const char *part)
{
    result r = render_text(template, vars, limits);
    if (r.status != status || !strstr(r.err.message, part))
        fail_msg("%s: status %d, '%s'; wanted %d, '%s'", template, (int)r.status, r.err.message, (int)status, part);
    assert_null(r.text);
    drop(&r);
}

static void limits_hold(void **state)
{
    (void)state;
    const sala_jinja_limits small = {.max_steps = 20000, .max_output_bytes = 10000, .max_depth = 20};
    fails_with("{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}", "{}", &small,
               SALA_E_LIMIT, "steps");
    fails_with("{{ range(1000000000000) }}", "{}", NULL, SALA_E_LIMIT, "range");
    fails_with("{{ 'a' * 1000000000 * 10 }}", "{}", NULL, SALA_E_LIMIT, "bytes");
    fails_with("{{ [1] * 1000000000 }}", "{}", NULL, SALA_E_LIMIT, "");
    fails_with("{% for x in range(2000) %}0123456789{% endfor %}", "{}", &small, SALA_E_LIMIT, "bytes");
    fails_with("{% set ns = namespace(s='ab') %}{% for x in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
               "{}", NULL, SALA_E_LIMIT, "");
    fails_with("{% set ns = namespace(s=[]) %}{% for x in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
               "{}", NULL, SALA_E_LIMIT, "deep");
    fails_with("{% set ns = namespace(s=[1]) %}{% for x in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ "
               "ns.s|tojson"
               " }}",
               "{}", NULL, SALA_E_LIMIT, "");
    fails_with("{% set ns = namespace() %}{% set ns.n = ns %}{{ ns }}", "{}", NULL, SALA_E_LIMIT, "deep");
    fails_with("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", NULL, SALA_E_LIMIT, "deep");
    fails_with("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{}", NULL, SALA_E_LIMIT, "deep");
    fails_with("{{ 'a'.center(100000000000) }}", "{}", NULL, SALA_E_LIMIT, "");
    fails_with("{{ '%1000000000d' % 1 }}", "{}", NULL, SALA_E_LIMIT, "width");
    fails_with("{{ '{:>1000000000}'.format(1) }}", "{}", NULL, SALA_E_LIMIT, "width");
    fails_with("{{ 9223372036854775807 + 1 }}", "{}", NULL, SALA_E_LIMIT, "64 bits");
    fails_with("{{ 10 ** 30 }}", "{}", NULL, SALA_E_LIMIT, "64 bits");
    fails_with(
        "{{ a|replace('', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb')|replace('b', 'bbbbbbbbbb')|length }}",
        "{\"a\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", &small, SALA_E_LIMIT, "bytes");
    fails_with("{{ a }}", "{\"a\": [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]}", &small, SALA_E_LIMIT, "deep");
}

static void deep_sources(void **state)
{
    (void)state;
    static const char *const opens[] = {"(", "[", "{1:", "-", "not ", "1+(", "a[", "f(", "a if "};
    for (size_t i = 0; i < SALA_ARRAY_LEN(opens); i++) {
        sala_buf b = {0};
        sala_jinja *t = NULL;
        sala_error err;
        sala_buf_add_str(&b, "{{ ");
        for (int k = 0; k < 100000; k++)
            sala_buf_add_str(&b, opens[i]);
        assert_true(sala_jinja_compile(&t, b.data, b.len, &err) != SALA_OK);
        sala_buf_clear(&b);
        for (int k = 0; k < 100000; k++)
            sala_buf_add_str(&b, "{% if 1 %}");
        assert_int_equal(sala_jinja_compile(&t, b.data, b.len, &err), SALA_E_LIMIT);
        sala_buf_free(&b);
    }
    /* Long chains are no nesting for the parser, but are for the evaluator. */
    sala_buf b = {0};
    sala_buf_add_str(&b, "{{ 1");
    for (int k = 0; k < 100000; k++)
        sala_buf_add_str(&b, "+1");
    sala_buf_add_str(&b, " }}");
    fails_with(b.data, "{}", NULL, SALA_E_LIMIT, "deep");
    sala_buf_free(&b);
}

static void messages(void **state)
{
    (void)state;
    fails_with("a\n\n{{ x.y }}", "{}", NULL, SALA_E_TEMPLATE, "line 3: 'x' is undefined");
    fails_with("a\n{% if %}", "{}", NULL, SALA_E_TEMPLATE, "line 2: expected an expression, found '%}'");
    fails_with("{% for x in y %}\n\nb", "{}", NULL, SALA_E_TEMPLATE,
               "line 3: expected '{% endfor %}' of 'for', found 'end of template'");
    fails_with("\n{% if 1 %}{% endfor %}", "{}", NULL, SALA_E_TEMPLATE,
               "line 2: unknown tag 'endfor'; the innermost open tag is 'if'");
    fails_with("{{ 'abc }}", "{}", NULL, SALA_E_TEMPLATE, "line 1: string that is never closed");
    fails_with("{# abc", "{}", NULL, SALA_E_TEMPLATE, "comment that is never closed");
    fails_with("{{ x|nope }}", "{}", NULL, SALA_E_TEMPLATE, "there is no filter 'nope'");
    fails_with("{{ x is nope }}", "{}", NULL, SALA_E_TEMPLATE, "there is no test 'nope'");
    fails_with("{{ d.a.b }}", "{\"d\": {}}", NULL, SALA_E_TEMPLATE, "'dict object' has no attribute 'a'");
    fails_with("{{ [].append(1) }}", "{}", NULL, SALA_E_TEMPLATE, "'append' of a list is not for templates to use");
    fails_with("{{ 'a'|replace('b') }}", "{}", NULL, SALA_E_TEMPLATE, "filter 'replace' needs the argument 'new'");
    fails_with("{{ 'a'|trim(x=1) }}", "{}", NULL, SALA_E_TEMPLATE, "filter 'trim' takes no argument 'x'");
    fails_with("{{ raise_exception('No, ' + who) }}", "{\"who\": \"you\"}", NULL, SALA_E_TEMPLATE, "No, you");
    fails_with("{% include 'x' %}", "{}", NULL, SALA_E_UNSUPPORTED, "'include' is not supported");
    sala_jinja *t = NULL;
    sala_error err;
    assert_int_equal(sala_jinja_compile(&t, "ab\xff", 3, &err), SALA_E_TEMPLATE);
    assert_int_equal(err.position, 2);
    assert_non_null(strstr(err.message, "UTF-8"));
    assert_int_equal(sala_jinja_compile(&t, "{{ 1 + }}", 9, NULL), SALA_E_TEMPLATE);
    assert_int_equal(sala_jinja_compile(&t, "x", 1, NULL), SALA_OK);
    json_t *list = json_array();
    char *text;
    size_t bytes;
    assert_int_equal(sala_jinja_render(t, list, 0, NULL, &text, &bytes, NULL, NULL, &err), SALA_E_INVALID);
    json_decref(list);
    sala_jinja_free(t);
    sala_jinja_free(NULL);
}

static void zero_bytes_are_text(void **state)
{
    (void)state;
    json_t *vars = json_object();
    json_object_set_new(vars, "a", json_stringn("x\0y", 3));
    result r = render("{{ a }}\0{{ a|length }}{{ a|tojson }}", 36, vars, 0, NULL);
    assert_int_equal(r.status, SALA_OK);
    assert_int_equal(r.bytes, 15);
    assert_memory_equal(r.text,
                        "x\0y\0"
                        "3\"x\\u0000y\"",
                        15);
    drop(&r);
    json_decref(vars);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_cases), cmocka_unit_test(origins),  cmocka_unit_test(limits_hold),
        cmocka_unit_test(deep_sources), cmocka_unit_test(messages), cmocka_unit_test(zero_bytes_are_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
