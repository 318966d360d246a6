/* Python's two ways to format: "..." % values and "...".format(values). */
#include "text/jinja_core.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_WIDTH = 1 << 20, MAX_PRECISION = 300 };

typedef struct spec {
    uint32_t fill;
    char align; /* < > = ^, 0: as the type has it */
    char sign;  /* + or space, 0: only minus */
    bool alternate, zero;
    char group;               /* , or _ */
    int64_t width, precision; /* precision: -1: none */
    char type;
} spec;

static int64_t read_number(jj *j, const jj_str *s, size_t *at, int64_t max)
{
    int64_t v = 0;
    for (; *at < s->bytes && s->data[*at] >= '0' && s->data[*at] <= '9'; (*at)++) {
        v = v * 10 + (s->data[*at] - '0');
        if (v > max)
            sala_jj_fail(j, SALA_E_LIMIT, "a width or precision above %lld in a format", (long long)max);
    }
    return v;
}

/* Pads what has `chars` characters to the width. Sign and base prefix (the first `head` bytes) stay in front of zeros.
 */
static void put_padded(jj_builder *b, const jj_str *s, const spec *f, size_t head)
{
    const int64_t pad = f->width - (int64_t)s->chars;
    const char align = f->align ? f->align : '<';
    int64_t before = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    if (pad <= 0) {
        sala_jj_put_str(b, s);
        return;
    }
    if (align == '=') {
        sala_jj_put_sub(b, s, 0, head);
        for (int64_t i = 0; i < pad; i++)
            sala_jj_put_cp(b, f->fill, false);
        sala_jj_put_sub(b, s, head, s->bytes - head);
        return;
    }
    for (int64_t i = 0; i < before; i++)
        sala_jj_put_cp(b, f->fill, false);
    sala_jj_put_str(b, s);
    for (int64_t i = before; i < pad; i++)
        sala_jj_put_cp(b, f->fill, false);
}

static void put_sign(jj_builder *b, bool negative, char sign)
{
    if (negative || sign)
        sala_jj_put_lit(b, negative ? "-" : sign == '+' ? "+" : " ", false);
}

static void put_grouped(jj_builder *b, const char *digits, size_t n, char group, size_t every)
{
    for (size_t i = 0; i < n; i++) {
        if (group && i && (n - i) % every == 0)
            sala_jj_put(b, &group, 1, false);
        sala_jj_put(b, digits + i, 1, false);
    }
}

/* Digits of an integer, with sign and prefix; *head: how many bytes these take. */
static jj_str *int_text(jj *j, int64_t v, const spec *f, size_t *head)
{
    char digits[72];
    size_t n = 0;
    const int base = f->type == 'b' ? 2 : f->type == 'o' ? 8 : (f->type | 0x20) == 'x' ? 16 : 10;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do {
        const int d = (int)(u % (uint64_t)base);
        digits[sizeof digits - ++n] = (char)(d < 10 ? '0' + d : (f->type == 'X' ? 'A' : 'a') + d - 10);
        u /= (uint64_t)base;
    } while (u);
    jj_builder b = {.j = j};
    put_sign(&b, v < 0, f->sign);
    if (f->alternate && base != 10) {
        const char prefix[3] = {'0', f->type, 0};
        sala_jj_put_lit(&b, prefix, false);
    }
    *head = b.len;
    put_grouped(&b, digits + sizeof digits - n, n, f->group, base == 10 ? 3 : 4);
    return sala_jj_finish(&b);
}

static jj_str *float_text(jj *j, double v, const spec *f, size_t *head)
{
    char text[700];
    const char type = f->type == '%' ? 'f' : f->type ? f->type : 'g';
    int precision = f->precision < 0 ? 6 : (int)f->precision;
    if (f->type == '%')
        v *= 100;
    jj_builder b = {.j = j};
    put_sign(&b, signbit(v) && !isnan(v), f->sign);
    *head = b.len;
    v = fabs(v);
    size_t n;
    if (!f->type && f->precision < 0) {
        n = sala_jj_format_float(text, v);
    } else {
        switch (type) { /* the conversions spelt out, so that the compiler can check them */
        case 'e':
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*e" : "%.*e", precision, v);
            break;
        case 'E':
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*E" : "%.*E", precision, v);
            break;
        case 'f':
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*f" : "%.*f", precision, v);
            break;
        case 'F':
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*F" : "%.*F", precision, v);
            break;
        case 'G':
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*G" : "%.*G", precision, v);
            break;
        default:
            n = (size_t)snprintf(text, sizeof text, f->alternate ? "%#.*g" : "%.*g", precision, v);
            break;
        }
    }
    size_t whole = 0;
    while (whole < n && text[whole] >= '0' && text[whole] <= '9')
        whole++;
    put_grouped(&b, text, whole, f->group, 3);
    sala_jj_put(&b, text + whole, n - whole, false);
    /* format(x, '.3') is %g, but a whole number keeps its ".0" */
    if (!f->type && f->precision >= 0 && isfinite(v) && whole == n)
        sala_jj_put_lit(&b, ".0", false);
    if (f->type == '%')
        sala_jj_put_lit(&b, "%", false);
    return sala_jj_finish(&b);
}

static jj_str *cut(jj *j, jj_str *s, int64_t precision)
{
    if (precision < 0 || (uint64_t)precision >= s->chars)
        return s;
    return sala_jj_sub(j, s, 0, sala_jj_byte_at(s, (size_t)precision));
}

static jj_str *ascii_repr(jj *j, jj_val v)
{
    const jj_str *s = sala_jj_repr(j, v);
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        char text[16];
        if (cp < 128) {
            sala_jj_put_sub(&b, s, at, n);
            continue;
        }
        snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
        sala_jj_put_lit(&b, text, sala_jj_is_input(s, at));
    }
    return sala_jj_finish(&b);
}

/* ---- % ---- */

static int64_t percent_int(jj *j, jj_val v, char type)
{
    int64_t i;
    if (sala_jj_is_int(v, &i))
        return i;
    if (v.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, v);
    if (v.kind != JJ_FLOAT || type == 'x' || type == 'X' || type == 'o')
        sala_jj_fail(j, SALA_E_TEMPLATE, "%%%c needs an integer, found %s", type, sala_jj_type_name(v));
    if (!(fabs(v.u.f) < 9.2e18))
        sala_jj_fail(j, SALA_E_LIMIT, "a number beyond 64 bits");
    return (int64_t)v.u.f;
}

static void put_percent(jj_builder *b, spec *f, jj_val v)
{
    jj *j = b->j;
    size_t head = 0;
    jj_str *s;
    double x;
    if (!f->align)
        f->align = '>';
    switch (f->type) {
    case 's':
        s = cut(j, sala_jj_to_str(j, v), f->precision);
        break;
    case 'r':
        s = cut(j, sala_jj_repr(j, v), f->precision);
        break;
    case 'a':
        s = cut(j, ascii_repr(j, v), f->precision);
        break;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
        if (f->type == 'i' || f->type == 'u')
            f->type = 'd';
        s = int_text(j, percent_int(j, v, f->type), f, &head);
        if (f->precision > (int64_t)(s->bytes - head)) { /* least number of digits */
            jj_builder digits = {.j = j};
            sala_jj_put_sub(&digits, s, 0, head);
            sala_jj_put_fill(&digits, '0', f->precision - (int64_t)(s->bytes - head));
            sala_jj_put_sub(&digits, s, head, s->bytes - head);
            s = sala_jj_finish(&digits);
        }
        break;
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        if (v.kind == JJ_UNDEFINED)
            sala_jj_fail_undefined(j, v);
        if (!sala_jj_is_number(v, &x))
            sala_jj_fail(j, SALA_E_TEMPLATE, "%%%c needs a number, found %s", f->type, sala_jj_type_name(v));
        s = float_text(j, x, f, &head);
        break;
    case 'c': {
        int64_t i;
        jj_builder one = {.j = j};
        if (sala_jj_is_int(v, &i) && i >= 0 && i < 0x110000)
            sala_jj_put_cp(&one, i >= 0xD800 && i < 0xE000 ? 0xFFFD : (uint32_t)i, false);
        else if (v.kind == JJ_STR && v.u.s->chars == 1)
            sala_jj_put_str(&one, v.u.s);
        else
            sala_jj_fail(j, SALA_E_TEMPLATE, "%%c needs a character or its number, found %s", sala_jj_type_name(v));
        s = sala_jj_finish(&one);
        break;
    }
    default:
        sala_jj_fail(j, SALA_E_TEMPLATE, "unknown conversion '%%%c' in a format", f->type);
    }
    if (f->zero && f->align == '>' && strchr("dxXoeEfFgG", f->type)) {
        f->align = '=';
        f->fill = '0';
    }
    put_padded(b, s, f, head);
}

static jj_val next_value(jj *j, const jj_list *values, size_t *used)
{
    if (*used >= values->n)
        sala_jj_fail(j, SALA_E_TEMPLATE, "a format asks for more than the %zu values it was given", values->n);
    return values->v[(*used)++];
}

jj_str *sala_jj_percent(jj *j, const jj_str *fmt, jj_val args)
{
    jj_list single = {.v = &args, .n = 1};
    const jj_list *values = args.kind == JJ_TUPLE ? args.u.l : &single;
    bool named = false;
    size_t used = 0;
    jj_builder b = {.j = j};
    for (size_t at = 0; at < fmt->bytes;) {
        const char *percent = memchr(fmt->data + at, '%', fmt->bytes - at);
        const size_t p = percent ? (size_t)(percent - fmt->data) : fmt->bytes;
        sala_jj_put_sub(&b, fmt, at, p - at);
        at = p + 1;
        if (p >= fmt->bytes)
            break;
        spec f = {.fill = ' ', .precision = -1};
        jj_val v = sala_jj_missing;
        if (at < fmt->bytes && fmt->data[at] == '(') {
            size_t end = at + 1;
            for (int open = 1; end < fmt->bytes; end++) {
                open += fmt->data[end] == '(' ? 1 : fmt->data[end] == ')' ? -1 : 0;
                if (!open)
                    break;
            }
            if (end >= fmt->bytes || args.kind != JJ_DICT)
                sala_jj_fail(j, SALA_E_TEMPLATE, "a format with names needs a mapping, found %s",
                             sala_jj_type_name(args));
            const jj_str *key = sala_jj_sub(j, fmt, at + 1, end - at - 1);
            const jj_val *found =
                sala_jj_dict_get(j, args.u.d, (jj_val){.kind = JJ_STR, .u.s = (jj_str *)(uintptr_t)key});
            if (!found)
                sala_jj_fail(j, SALA_E_TEMPLATE, "a format asks for '%.*s', which the mapping lacks",
                             jj_clip(key->bytes), key->data);
            v = *found;
            named = true;
            at = end + 1;
        }
        for (; at < fmt->bytes && strchr("-+ #0", fmt->data[at]) && fmt->data[at]; at++) {
            switch (fmt->data[at]) {
            case '-':
                f.align = '<';
                break;
            case '+':
                f.sign = '+';
                break;
            case ' ':
                f.sign = f.sign ? f.sign : ' ';
                break;
            case '#':
                f.alternate = true;
                break;
            default:
                f.zero = true;
                break;
            }
        }
        if (at < fmt->bytes && fmt->data[at] == '*') {
            f.width = sala_jj_want_int(j, next_value(j, values, &used), 0, "the width of a format");
            at++;
            if (f.width < 0)
                f.align = '<';
            if (f.width > MAX_WIDTH || f.width < -MAX_WIDTH)
                sala_jj_fail(j, SALA_E_LIMIT, "a width above %d in a format", MAX_WIDTH);
            f.width = f.width < 0 ? -f.width : f.width;
        } else {
            f.width = read_number(j, fmt, &at, MAX_WIDTH);
        }
        if (at < fmt->bytes && fmt->data[at] == '.') {
            at++;
            if (at < fmt->bytes && fmt->data[at] == '*') {
                f.precision = sala_jj_want_int(j, next_value(j, values, &used), 0, "the precision of a format");
                at++;
                if (f.precision < 0)
                    f.precision = 0;
                if (f.precision > MAX_PRECISION)
                    sala_jj_fail(j, SALA_E_LIMIT, "a precision above %d in a format", MAX_PRECISION);
            } else {
                f.precision = read_number(j, fmt, &at, MAX_PRECISION);
            }
        }
        while (at < fmt->bytes && (fmt->data[at] == 'l' || fmt->data[at] == 'h' || fmt->data[at] == 'L'))
            at++;
        if (at >= fmt->bytes)
            sala_jj_fail(j, SALA_E_TEMPLATE, "a format ends in the middle of a conversion");
        f.type = fmt->data[at++];
        if (f.type == '%') {
            sala_jj_put_lit(&b, "%", false);
            continue;
        }
        put_percent(&b, &f, v.kind == JJ_MISSING ? next_value(j, values, &used) : v);
    }
    if (!named && used < values->n && (args.kind == JJ_TUPLE || args.kind != JJ_DICT) && args.kind != JJ_LIST)
        sala_jj_fail(j, SALA_E_TEMPLATE, "a format uses %zu of the %zu values it was given", used, values->n);
    return sala_jj_finish(&b);
}

/* ---- str.format ---- */

static void read_spec(jj *j, const jj_str *s, spec *f)
{
    size_t at = 0, n = 0;
    *f = (spec){.fill = ' ', .precision = -1};
    if (s->bytes) {
        const uint32_t first = sala_jj_cp(s, 0, &n);
        if (n < s->bytes && strchr("<>=^", s->data[n]) && s->data[n]) {
            f->fill = first;
            f->align = s->data[n];
            at = n + 1;
        } else if (strchr("<>=^", s->data[0]) && s->data[0]) {
            f->align = s->data[0];
            at = 1;
        }
    }
    if (at < s->bytes && strchr("+- ", s->data[at]) && s->data[at]) {
        f->sign = s->data[at] == '-' ? 0 : s->data[at];
        at++;
    }
    if (at < s->bytes && s->data[at] == '#') {
        f->alternate = true;
        at++;
    }
    if (at < s->bytes && s->data[at] == '0') {
        f->zero = true;
        at++;
    }
    f->width = read_number(j, s, &at, MAX_WIDTH);
    if (at < s->bytes && (s->data[at] == ',' || s->data[at] == '_'))
        f->group = s->data[at++];
    if (at < s->bytes && s->data[at] == '.') {
        at++;
        f->precision = read_number(j, s, &at, MAX_PRECISION);
    }
    if (at < s->bytes)
        f->type = s->data[at++];
    if (at < s->bytes)
        sala_jj_fail(j, SALA_E_TEMPLATE, "format specification '%.*s' cannot be read", jj_clip(s->bytes), s->data);
}

static void put_formatted(jj_builder *b, jj_val v, const jj_str *how)
{
    jj *j = b->j;
    spec f;
    size_t head = 0;
    double x;
    int64_t i;
    jj_str *s = NULL;
    if (how->bytes == 0) {
        sala_jj_put_val(b, v);
        return;
    }
    read_spec(j, how, &f);
    if (v.kind == JJ_STR) {
        if (f.type && f.type != 's')
            sala_jj_fail(j, SALA_E_TEMPLATE, "format '%c' does not fit a string", f.type);
        s = cut(j, v.u.s, f.precision);
        if (f.zero && !f.align)
            f.fill = '0';
    } else if (sala_jj_is_int(v, &i) && (f.type == 0 || strchr("bcdoxXn", f.type)) && !(v.kind == JJ_BOOL && !f.type)) {
        if (f.precision >= 0)
            sala_jj_fail(j, SALA_E_TEMPLATE, "a precision does not fit an integer");
        if (f.type == 'c') {
            jj_builder one = {.j = j};
            sala_jj_put_cp(&one, i >= 0 && i < 0x110000 && !(i >= 0xD800 && i < 0xE000) ? (uint32_t)i : 0xFFFD, false);
            s = sala_jj_finish(&one);
        } else {
            s = int_text(j, i, &f, &head);
        }
    } else if (sala_jj_is_number(v, &x) && (f.type == 0 || strchr("eEfFgGn%", f.type))) {
        if (f.type == 'n')
            f.type = 'g';
        s = float_text(j, x, &f, &head);
    } else {
        sala_jj_fail(j, SALA_E_TEMPLATE, "format '%.*s' does not fit a %s", jj_clip(how->bytes), how->data,
                     sala_jj_type_name(v));
    }
    if (v.kind != JJ_STR) {
        if (!f.align)
            f.align = f.zero ? '=' : '>';
        if (f.zero && f.fill == ' ')
            f.fill = '0';
    } else if (f.align == '=') {
        sala_jj_fail(j, SALA_E_TEMPLATE, "alignment '=' does not fit a string");
    }
    put_padded(b, s, &f, head);
}

typedef struct formatter {
    const jj_str *s;
    const jj_args *args;
    size_t next;   /* automatic numbering */
    int numbering; /* 0: not known yet, 1: automatic, 2: by number */
} formatter;

static jj_val named_value(jj *j, formatter *x, const jj_str *name)
{
    int64_t i;
    if (name->bytes == 0 || sala_jj_parse_int(name->data, name->bytes, 10, &i)) {
        const int numbering = name->bytes == 0 ? 1 : 2;
        if (x->numbering && x->numbering != numbering)
            sala_jj_fail(j, SALA_E_TEMPLATE, "a format mixes {} and {0}");
        x->numbering = numbering;
        if (numbering == 1)
            i = (int64_t)x->next++;
        if (i < 0 || (uint64_t)i >= x->args->n_pos)
            sala_jj_fail(j, SALA_E_TEMPLATE, "a format asks for value %lld of %zu", (long long)i, x->args->n_pos);
        return x->args->v[i].value;
    }
    for (size_t k = x->args->n_pos; k < x->args->n; k++)
        if (sala_jj_is(name, x->args->v[k].name))
            return x->args->v[k].value;
    sala_jj_fail(j, SALA_E_TEMPLATE, "a format asks for '%.*s', which was not given", jj_clip(name->bytes), name->data);
}

/* The value of a.b[c] */
static jj_val field_value(jj *j, formatter *x, size_t from, size_t to)
{
    const jj_str *s = x->s;
    size_t at = from;
    while (at < to && s->data[at] != '.' && s->data[at] != '[')
        at++;
    jj_val v = named_value(j, x, sala_jj_sub(j, s, from, at - from));
    while (at < to) {
        const bool attribute = s->data[at] == '.';
        const size_t begin = ++at;
        while (at < to && (attribute ? s->data[at] != '.' && s->data[at] != '[' : s->data[at] != ']'))
            at++;
        const jj_str *name = sala_jj_sub(j, s, begin, at - begin);
        int64_t i;
        if (name->bytes == 0 || (!attribute && at >= to))
            sala_jj_fail(j, SALA_E_TEMPLATE, "a field of a format cannot be read");
        if (attribute)
            v = sala_jj_getattr(j, v, sala_jj_text(j, name->data, name->bytes));
        else if (sala_jj_parse_int(name->data, name->bytes, 10, &i))
            v = sala_jj_getitem(j, v, jj_int(i));
        else
            v = sala_jj_getitem(j, v, (jj_val){.kind = JJ_STR, .u.s = (jj_str *)(uintptr_t)name});
        at += !attribute;
    }
    return v;
}

static void put_fields(jj_builder *b, formatter *x, size_t from, size_t to, int level);

static void put_field(jj_builder *b, formatter *x, size_t from, size_t to, int level)
{
    jj *j = b->j;
    const jj_str *s = x->s;
    size_t name = from;
    for (int open = 0; name < to; name++) { /* ! and : within [...] belong to the name */
        open += s->data[name] == '[' ? 1 : s->data[name] == ']' ? -1 : 0;
        if (open <= 0 && (s->data[name] == '!' || s->data[name] == ':'))
            break;
    }
    jj_val v = field_value(j, x, from, name);
    size_t at = name;
    if (at < to && s->data[at] == '!') {
        const char how = at + 1 < to ? s->data[at + 1] : 0;
        if (how != 's' && how != 'r' && how != 'a')
            sala_jj_fail(j, SALA_E_TEMPLATE, "unknown conversion behind ! in a format; expected s, r or a");
        v = jj_str_val(how == 's' ? sala_jj_to_str(j, v) : how == 'r' ? sala_jj_repr(j, v) : ascii_repr(j, v));
        at += 2;
    }
    if (at < to && s->data[at] != ':')
        sala_jj_fail(j, SALA_E_TEMPLATE, "expected ':' behind the conversion in a format");
    jj_builder how = {.j = j};
    if (at < to)
        put_fields(&how, x, at + 1, to, level + 1);
    put_formatted(b, v, sala_jj_finish(&how));
}

static void put_fields(jj_builder *b, formatter *x, size_t from, size_t to, int level)
{
    jj *j = b->j;
    const jj_str *s = x->s;
    if (level > 2)
        sala_jj_fail(j, SALA_E_TEMPLATE, "fields of a format nest too deeply");
    for (size_t at = from; at < to;) {
        size_t p = at;
        while (p < to && s->data[p] != '{' && s->data[p] != '}')
            p++;
        sala_jj_put_sub(b, s, at, p - at);
        if (p >= to)
            return;
        if (p + 1 < to && s->data[p + 1] == s->data[p] && level == 0) {
            sala_jj_put_sub(b, s, p, 1);
            at = p + 2;
            continue;
        }
        size_t end = p + 1;
        for (int open = 1; s->data[p] == '{' && end < to; end++) {
            open += s->data[end] == '{' ? 1 : s->data[end] == '}' ? -1 : 0;
            if (!open)
                break;
        }
        if (s->data[p] == '}' || end >= to)
            sala_jj_fail(j, SALA_E_TEMPLATE, "single '%c' in a format", s->data[p]);
        put_field(b, x, p + 1, end, level);
        at = end + 1;
    }
}

jj_val sala_jj_str_format(jj *j, jj_val self, const jj_args *args)
{
    formatter x = {.s = self.u.s, .args = args};
    jj_builder b = {.j = j};
    put_fields(&b, &x, 0, self.u.s->bytes, 0);
    return jj_finish_val(&b);
}
