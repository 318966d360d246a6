/* Values as text: str() and repr() as Python prints them, json.dumps(), and numbers from text. */
#include "text/jinja_syntax.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

/* ---- numbers ---- */

/* strtod() and printf() speak the locale's decimal point; these two do not. */
bool sala_jj_parse_float(const char *s, size_t n, double *out)
{
    char text[400];
    const char *point = localeconv()->decimal_point;
    size_t len = 0;
    if (n == 0 || n > 300)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '.')
            for (const char *p = point; *p && len + 1 < sizeof text; p++)
                text[len++] = *p;
        else
            text[len++] = s[i];
        if (len + 8 > sizeof text)
            return false;
    }
    text[len] = 0;
    char *end;
    *out = strtod(text, &end);
    return *end == 0;
}

/* The shortest digits that read back as v, and where the point stands: 0.DIGITS * 10^exp. */
static int shortest_digits(char digits[24], double v, int *exp)
{
    char text[48];
    for (int precision = 0;; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, v);
        if (precision == 17 || strtod(text, NULL) == v)
            break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    *exp = (int)strtol(p + 1, NULL, 10) + 1;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

size_t sala_jj_format_float(char dst[40], double v)
{
    if (isnan(v) || isinf(v))
        return (size_t)snprintf(dst, 40, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    char digits[24], *p = dst;
    if (signbit(v))
        *p++ = '-';
    if (v == 0) {
        memcpy(p, "0.0", 4);
        return (size_t)(p - dst) + 3;
    }
    int exp;
    const int n = shortest_digits(digits, fabs(v), &exp);
    if (exp > 16 || exp < -3) {
        *p++ = digits[0];
        if (n > 1) {
            *p++ = '.';
            memcpy(p, digits + 1, (size_t)n - 1);
            p += n - 1;
        }
        p += snprintf(p, 8, "e%c%02d", exp - 1 < 0 ? '-' : '+', abs(exp - 1));
        return (size_t)(p - dst);
    }
    if (exp <= 0) {
        *p++ = '0';
        *p++ = '.';
        for (int i = exp; i < 0; i++)
            *p++ = '0';
        memcpy(p, digits, (size_t)n);
        p += n;
    } else {
        for (int i = 0; i < exp || i < n; i++) {
            if (i == exp)
                *p++ = '.';
            *p++ = i < n ? digits[i] : '0';
        }
        if (n <= exp) {
            *p++ = '.';
            *p++ = '0';
        }
    }
    *p = 0;
    return (size_t)(p - dst);
}

bool sala_jj_parse_int(const char *s, size_t n, int base, int64_t *out)
{
    uint32_t cp;
    int len;
    while (n && (len = sala_utf8_decode(s, n, &cp)) > 0 && sala_jj_is_space(cp)) {
        s += len;
        n -= (size_t)len;
    }
    while (n) {
        size_t p = n - 1;
        while (p > 0 && ((unsigned char)s[p] & 0xC0) == 0x80)
            p--;
        if (sala_utf8_decode(s + p, n - p, &cp) <= 0 || !sala_jj_is_space(cp))
            break;
        n = p;
    }
    bool negative = false;
    if (n && (*s == '-' || *s == '+')) {
        negative = *s == '-';
        s++;
        n--;
    }
    if (n > 1 && s[0] == '0') {
        const char c = s[1] | 0x20;
        const int prefix = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 0;
        if (prefix && (base == prefix || base == 0)) {
            base = prefix;
            s += 2;
            n -= 2;
            if (n && *s == '_') {
                s++;
                n--;
            }
        }
    }
    if (base == 0)
        base = 10;
    if (n == 0)
        return false;
    int64_t v = 0;
    bool digit_before = false;
    for (size_t i = 0; i < n; i++) {
        const char c = s[i];
        if (c == '_' && digit_before && i + 1 < n) {
            digit_before = false;
            continue;
        }
        const int d = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                               : 99;
        if (d >= base || __builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, d, &v))
            return false;
        digit_before = true;
    }
    if (!negative && v == INT64_MIN)
        return false;
    *out = negative ? v : -v; /* gathered below zero, where there is one number more */
    return true;
}

/* ---- str() and repr() ---- */

static bool printable(uint32_t cp)
{
    if (cp < 127)
        return cp >= 32;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void put_str_repr(jj_builder *b, const jj_str *s)
{
    const bool single = s->bytes && memchr(s->data, '\'', s->bytes), twice = s->bytes && memchr(s->data, '"', s->bytes);
    const char quote = single && !twice ? '"' : '\'';
    const bool input = s->bytes ? sala_jj_is_input(s, 0) : s->input;
    if (s->markup)
        sala_jj_put_lit(b, "Markup(", false);
    sala_jj_put(b, &quote, 1, input);
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        const bool from = sala_jj_is_input(s, at);
        char text[16];
        if (cp == '\\' || cp == (unsigned char)quote)
            snprintf(text, sizeof text, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            snprintf(text, sizeof text, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        else if (printable(cp)) {
            sala_jj_put_sub(b, s, at, n);
            continue;
        } else
            snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
        sala_jj_put_lit(b, text, from);
    }
    sala_jj_put(b, &quote, 1, input);
    if (s->markup)
        sala_jj_put_lit(b, ")", false);
}

static void put_list_repr(jj_builder *b, const jj_list *l, const char *open, const char *close, bool input)
{
    sala_jj_put_lit(b, open, input);
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            sala_jj_put_lit(b, ", ", input);
        sala_jj_put_repr(b, l->v[i], input);
    }
    sala_jj_put_lit(b, close, input);
}

static void put_dict_repr(jj_builder *b, const jj_dict *d, bool input)
{
    sala_jj_put_lit(b, "{", input);
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            sala_jj_put_lit(b, ", ", input);
        sala_jj_put_repr(b, d->v[i].key, input);
        sala_jj_put_lit(b, ": ", input);
        sala_jj_put_repr(b, d->v[i].value, input);
    }
    sala_jj_put_lit(b, "}", input);
}

void sala_jj_put_repr(jj_builder *b, jj_val v, bool input)
{
    jj *j = b->j;
    char text[100];
    sala_jj_step(j, 1);
    sala_jj_enter(j);
    switch (v.kind) {
    case JJ_UNDEFINED:
        sala_jj_put_lit(b, "Undefined", input);
        break;
    case JJ_NONE:
        sala_jj_put_lit(b, "None", input);
        break;
    case JJ_BOOL:
        sala_jj_put_lit(b, v.u.b ? "True" : "False", input);
        break;
    case JJ_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
        sala_jj_put_lit(b, text, input);
        break;
    case JJ_FLOAT:
        sala_jj_put(b, text, sala_jj_format_float(text, v.u.f), input);
        break;
    case JJ_STR:
        put_str_repr(b, v.u.s);
        break;
    case JJ_LIST:
        put_list_repr(b, v.u.l, "[", "]", input || v.u.l->input);
        break;
    case JJ_TUPLE:
        put_list_repr(b, v.u.l, "(", v.u.l->n == 1 ? ",)" : ")", input || v.u.l->input);
        break;
    case JJ_DICT:
        put_dict_repr(b, v.u.d, input || v.u.d->input);
        break;
    case JJ_NAMESPACE:
        sala_jj_put_lit(b, "<Namespace ", false);
        put_dict_repr(b, v.u.d, false);
        sala_jj_put_lit(b, ">", false);
        break;
    case JJ_VIEW:
        input = input || v.u.view->d->input;
        sala_jj_put_lit(b,
                        v.u.view->part == 'k'   ? "dict_keys("
                        : v.u.view->part == 'v' ? "dict_values("
                                                : "dict_items(",
                        input);
        put_list_repr(b, sala_jj_items(j, v), "[", "]", input);
        sala_jj_put_lit(b, ")", input);
        break;
    case JJ_RANGE:
        if (v.u.range->step == 1)
            snprintf(text, sizeof text, "range(%lld, %lld)", (long long)v.u.range->start, (long long)v.u.range->stop);
        else
            snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)v.u.range->start,
                     (long long)v.u.range->stop, (long long)v.u.range->step);
        sala_jj_put_lit(b, text, input);
        break;
    case JJ_LOOP:
        snprintf(text, sizeof text, "<LoopContext %lld/%lld>", (long long)v.u.loop->index0 + 1,
                 (long long)sala_jj_loop_length(j, v.u.loop));
        sala_jj_put_lit(b, text, false);
        break;
    case JJ_MACRO: {
        const jj_node *n = v.u.macro->node;
        sala_jj_put_lit(b, n->kind == JN_MACRO ? "<Macro '" : "<Macro anonymous", false);
        sala_jj_put_lit(b, n->kind == JN_MACRO ? n->name : "", false);
        sala_jj_put_lit(b, n->kind == JN_MACRO ? "'>" : ">", false);
        break;
    }
    default:
        snprintf(text, sizeof text, "<%s>", sala_jj_type_name(v));
        sala_jj_put_lit(b, text, false);
        break;
    }
    sala_jj_leave(j);
}

void sala_jj_put_val(jj_builder *b, jj_val v)
{
    if (v.kind == JJ_STR)
        sala_jj_put_str(b, v.u.s);
    else if (v.kind != JJ_UNDEFINED)
        sala_jj_put_repr(b, v, false);
}

jj_str *sala_jj_to_str(jj *j, jj_val v)
{
    if (v.kind == JJ_STR)
        return v.u.s;
    jj_builder b = {.j = j};
    sala_jj_put_val(&b, v);
    return sala_jj_finish(&b);
}

jj_str *sala_jj_repr(jj *j, jj_val v)
{
    jj_builder b = {.j = j};
    sala_jj_put_repr(&b, v, false);
    return sala_jj_finish(&b);
}

/* ---- json.dumps() ---- */

typedef struct json_style {
    bool ascii, sort;
    const jj_str *indent; /* NULL: on one line */
    const jj_str *comma, *colon;
} json_style;

static void put_json_str(jj_builder *b, const jj_str *s, bool ascii)
{
    const bool input = s->bytes ? sala_jj_is_input(s, 0) : s->input;
    sala_jj_put_lit(b, "\"", input);
    size_t run = 0;
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        static const char shorthand[] = "\"\"\\\\\nn\rr\tt\ff\bb";
        char text[16] = "";
        for (size_t i = 0; cp < 128 && i + 1 < sizeof shorthand; i += 2)
            if ((char)cp == shorthand[i])
                snprintf(text, sizeof text, "\\%c", shorthand[i + 1]);
        if (!*text && (cp < 32 || (ascii && cp > 126))) {
            if (cp >= 0x10000)
                snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 0x3FF));
            else
                snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
        }
        if (!*text)
            continue;
        sala_jj_put_sub(b, s, run, at - run);
        sala_jj_put_lit(b, text, sala_jj_is_input(s, at));
        run = at + n;
    }
    sala_jj_put_sub(b, s, run, s->bytes - run);
    sala_jj_put_lit(b, "\"", input);
}

static void put_json_scalar(jj_builder *b, jj_val v, bool input)
{
    char text[40];
    if (v.kind == JJ_FLOAT && !isfinite(v.u.f))
        sala_jj_put_lit(b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity", input);
    else if (v.kind == JJ_FLOAT)
        sala_jj_put(b, text, sala_jj_format_float(text, v.u.f), input);
    else if (v.kind == JJ_INT)
        sala_jj_put(b, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)v.u.i), input);
    else
        sala_jj_put_lit(b, v.kind == JJ_NONE ? "null" : v.u.b ? "true" : "false", input);
}

static void put_json_line(jj_builder *b, const json_style *style, int level, bool input)
{
    if (!style->indent)
        return;
    sala_jj_put_lit(b, "\n", input);
    for (int i = 0; i < level; i++)
        sala_jj_put_str(b, style->indent);
}

static void put_json(jj_builder *b, const json_style *style, jj_val v, int level, bool input);

static void put_json_dict(jj_builder *b, const json_style *style, const jj_dict *d, int level, bool input)
{
    jj *j = b->j;
    const jj_pair **order = sala_jj_alloc_array(j, d->n, sizeof *order);
    for (size_t i = 0; i < d->n; i++)
        order[i] = &d->v[i];
    for (size_t i = 1; style->sort && i < d->n; i++) { /* insertion: objects to be sorted are small */
        const jj_pair *p = order[i];
        size_t k = i;
        for (; k > 0 && sala_jj_order(j, p->key, order[k - 1]->key, "<") == -1; k--)
            order[k] = order[k - 1];
        order[k] = p;
    }
    sala_jj_put_lit(b, "{", input);
    for (size_t i = 0; i < d->n; i++) {
        const jj_val key = order[i]->key;
        if (i)
            sala_jj_put(b, style->comma->data, style->comma->bytes, input);
        put_json_line(b, style, level + 1, input);
        if (key.kind == JJ_STR) {
            put_json_str(b, key.u.s, style->ascii);
        } else if (key.kind == JJ_INT || key.kind == JJ_FLOAT || key.kind == JJ_BOOL || key.kind == JJ_NONE) {
            sala_jj_put_lit(b, "\"", input);
            put_json_scalar(b, key, input);
            sala_jj_put_lit(b, "\"", input);
        } else {
            sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be a key in JSON", sala_jj_type_name(key));
        }
        sala_jj_put(b, style->colon->data, style->colon->bytes, input);
        put_json(b, style, order[i]->value, level + 1, input);
    }
    if (d->n)
        put_json_line(b, style, level, input);
    sala_jj_put_lit(b, "}", input);
}

static void put_json(jj_builder *b, const json_style *style, jj_val v, int level, bool input)
{
    jj *j = b->j;
    sala_jj_step(j, 1);
    sala_jj_enter(j);
    switch (v.kind) {
    case JJ_NONE:
    case JJ_BOOL:
    case JJ_INT:
    case JJ_FLOAT:
        put_json_scalar(b, v, input);
        break;
    case JJ_STR:
        put_json_str(b, v.u.s, style->ascii);
        break;
    case JJ_LIST:
    case JJ_TUPLE:
        input = input || v.u.l->input;
        sala_jj_put_lit(b, "[", input);
        for (size_t i = 0; i < v.u.l->n; i++) {
            if (i)
                sala_jj_put(b, style->comma->data, style->comma->bytes, input);
            put_json_line(b, style, level + 1, input);
            put_json(b, style, v.u.l->v[i], level + 1, input);
        }
        if (v.u.l->n)
            put_json_line(b, style, level, input);
        sala_jj_put_lit(b, "]", input);
        break;
    case JJ_DICT:
        put_json_dict(b, style, v.u.d, level, input || v.u.d->input);
        break;
    default:
        sala_jj_fail(j, SALA_E_TEMPLATE, "a value of type %s has no JSON form", sala_jj_type_name(v));
    }
    sala_jj_leave(j);
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False), as transformers defines it. Brackets,
 * commas and names of what stands in the variables count as theirs. */
jj_val sala_jj_tojson(jj *j, jj_val self, const jj_val *a)
{
    json_style style = {.ascii = a[0].kind != JJ_MISSING && sala_jj_truth(j, a[0]),
                        .sort = a[3].kind != JJ_MISSING && sala_jj_truth(j, a[3])};
    int64_t width;
    if (a[1].kind == JJ_STR) {
        style.indent = a[1].u.s;
    } else if (sala_jj_is_int(a[1], &width)) {
        jj_builder spaces = {.j = j};
        sala_jj_put_fill(&spaces, ' ', width);
        style.indent = sala_jj_finish(&spaces);
    } else if (a[1].kind != JJ_MISSING && a[1].kind != JJ_NONE) {
        sala_jj_fail(j, SALA_E_TEMPLATE, "indent of tojson has to be a number or string, found %s",
                     sala_jj_type_name(a[1]));
    }
    if (a[2].kind == JJ_MISSING || a[2].kind == JJ_NONE) {
        style.comma = sala_jj_lit(j, style.indent ? "," : ", ").u.s;
        style.colon = sala_jj_lit(j, ": ").u.s;
    } else {
        const jj_list *pair = sala_jj_items(j, a[2]);
        if (pair->n != 2)
            sala_jj_fail(j, SALA_E_TEMPLATE, "separators of tojson have to be two strings, found %zu", pair->n);
        style.comma = sala_jj_want_str(j, pair->v[0], "a separator of tojson");
        style.colon = sala_jj_want_str(j, pair->v[1], "a separator of tojson");
    }
    jj_builder b = {.j = j};
    put_json(&b, &style, self, 0, false);
    return jj_finish_val(&b);
}
