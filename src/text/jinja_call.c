/* Operators, attributes, subscripts, calls, methods of containers, and the global functions. What a template can reach
 * is exactly what stands in the tables here: methods that would change a value are refused, as the immutable sandbox
 * does. */
#include "text/jinja_syntax.h"

#include <math.h>
#include <stdio.h>

/* Keeps sums and products of a range's numbers far from 64 bits. */
static const int64_t MAX_RANGE_VALUE = (int64_t)1 << 40;

/* ---- operators ---- */

static const char *op_text(int op)
{
    return sala_jj_tok_text((jj_tok)op);
}

static _Noreturn void fail_operands(jj *j, int op, jj_val a, jj_val b)
{
    if (a.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, a);
    if (b.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, b);
    sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' is not possible between %s and %s", op_text(op), sala_jj_type_name(a),
                 sala_jj_type_name(b));
}

static _Noreturn void fail_big(jj *j)
{
    sala_jj_fail(j, SALA_E_LIMIT, "an integer beyond 64 bits");
}

static jj_val int_pow(jj *j, int64_t base, int64_t exp)
{
    int64_t r = 1;
    if (exp < 0) {
        if (base == 0)
            sala_jj_fail(j, SALA_E_TEMPLATE, "0 cannot be raised to a negative power");
        return jj_float(pow((double)base, (double)exp));
    }
    while (exp > 0) {
        if ((exp & 1) && __builtin_mul_overflow(r, base, &r))
            fail_big(j);
        exp >>= 1;
        if (exp && __builtin_mul_overflow(base, base, &base))
            fail_big(j);
    }
    return jj_int(r);
}

static jj_val int_op(jj *j, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool overflow = false;
    switch (op) {
    case JT_ADD:
        overflow = __builtin_add_overflow(a, b, &r);
        break;
    case JT_SUB:
        overflow = __builtin_sub_overflow(a, b, &r);
        break;
    case JT_MUL:
        overflow = __builtin_mul_overflow(a, b, &r);
        break;
    case JT_POW:
        return int_pow(j, a, b);
    case JT_DIV:
        if (b == 0)
            sala_jj_fail(j, SALA_E_TEMPLATE, "division by zero");
        return jj_float((double)a / (double)b);
    default: /* floor division and its remainder, which has the divisor's sign */
        if (b == 0)
            sala_jj_fail(j, SALA_E_TEMPLATE, "division by zero");
        if (b == -1) {
            if (op == JT_MOD)
                return jj_int(0);
            overflow = __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        if (op == JT_FLOORDIV)
            r = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
        else
            r = a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0);
        break;
    }
    if (overflow)
        fail_big(j);
    return jj_int(r);
}

static jj_val float_op(jj *j, int op, double a, double b)
{
    switch (op) {
    case JT_ADD:
        return jj_float(a + b);
    case JT_SUB:
        return jj_float(a - b);
    case JT_MUL:
        return jj_float(a * b);
    case JT_POW:
        if (a == 0 && b < 0)
            sala_jj_fail(j, SALA_E_TEMPLATE, "0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b) && isfinite(a) && isfinite(b))
            sala_jj_fail(j, SALA_E_UNSUPPORTED, "complex numbers are not supported");
        if (isfinite(a) && isfinite(b) && !isfinite(pow(a, b)))
            sala_jj_fail(j, SALA_E_TEMPLATE, "the result of '**' is too large");
        return jj_float(pow(a, b));
    default:
        break;
    }
    if (b == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "division by zero");
    if (op == JT_DIV)
        return jj_float(a / b);
    double mod = fmod(a, b);
    if (mod != 0 && (b < 0) != (mod < 0))
        mod += b;
    else if (mod == 0)
        mod = copysign(0.0, b);
    if (op == JT_MOD)
        return jj_float(mod);
    const double div = (a - mod) / b;
    double whole = floor(div);
    if (div - whole > 0.5)
        whole += 1.0;
    return jj_float(div != 0 ? whole : copysign(0.0, a / b));
}

static jj_val repeat(jj *j, jj_val v, int64_t times)
{
    times = sala_max_i64(times, 0);
    if (v.kind == JJ_STR) {
        jj_builder b = {.j = j};
        uint64_t bytes = 0;
        if (!sala_mul_size(&bytes, (uint64_t)times, v.u.s->bytes) || bytes > j->max_made)
            sala_jj_fail(j, SALA_E_LIMIT, "a string of %zu bytes times %lld", v.u.s->bytes, (long long)times);
        for (int64_t i = 0; v.u.s->bytes && i < times; i++)
            sala_jj_put_str(&b, v.u.s);
        sala_jj_step(j, bytes / 16);
        jj_str *s = sala_jj_finish(&b);
        s->markup = v.u.s->markup;
        return jj_str_val(s);
    }
    jj_list *l = sala_jj_list_new(j, 0);
    for (int64_t i = 0; v.u.l->n && i < times; i++)
        for (size_t k = 0; k < v.u.l->n; k++) {
            sala_jj_step(j, 1);
            sala_jj_push(j, l, v.u.l->v[k]);
        }
    return (jj_val){.kind = v.kind, .u.l = l};
}

static jj_val concat(jj *j, jj_val a, jj_val b)
{
    if (a.kind == JJ_STR) {
        const bool markup = a.u.s->markup || b.u.s->markup;
        if (markup) {
            a = sala_jj_escape(j, a, false);
            b = sala_jj_escape(j, b, false);
        }
        jj_builder out = {.j = j};
        sala_jj_put_str(&out, a.u.s);
        sala_jj_put_str(&out, b.u.s);
        jj_str *s = sala_jj_finish(&out);
        s->markup = markup;
        return jj_str_val(s);
    }
    jj_list *l = sala_jj_list_new(j, a.u.l->n + b.u.l->n);
    sala_jj_step(j, a.u.l->n + b.u.l->n);
    for (size_t i = 0; i < a.u.l->n; i++)
        sala_jj_push(j, l, a.u.l->v[i]);
    for (size_t i = 0; i < b.u.l->n; i++)
        sala_jj_push(j, l, b.u.l->v[i]);
    return (jj_val){.kind = a.kind, .u.l = l};
}

jj_val sala_jj_binary(jj *j, int op, jj_val a, jj_val b)
{
    int64_t x, y;
    double f, g;
    const bool a_seq = a.kind == JJ_STR || a.kind == JJ_LIST || a.kind == JJ_TUPLE;
    const bool b_seq = b.kind == JJ_STR || b.kind == JJ_LIST || b.kind == JJ_TUPLE;
    if (b.kind == JJ_UNDEFINED && !(op == JT_MOD && a.kind == JJ_STR))
        sala_jj_fail_undefined(j, b);
    if (op == JT_ADD && a_seq && a.kind == b.kind)
        return concat(j, a, b);
    if (op == JT_MOD && a.kind == JJ_STR)
        return jj_str_val(sala_jj_percent(j, a.u.s, b));
    if (sala_jj_is_int(a, &x) && sala_jj_is_int(b, &y))
        return int_op(j, op, x, y);
    if (sala_jj_is_number(a, &f) && sala_jj_is_number(b, &g))
        return float_op(j, op, f, g);
    if (op == JT_MUL && a_seq && sala_jj_is_int(b, &y))
        return repeat(j, a, y);
    if (op == JT_MUL && b_seq && sala_jj_is_int(a, &x))
        return repeat(j, b, x);
    fail_operands(j, op, a, b);
}

/* ---- slices ---- */

jj_val sala_jj_slice(jj *j, jj_val v, jj_val lo, jj_val hi, jj_val step_val)
{
    const int64_t step = sala_jj_want_int(j, step_val, 1, "the step of a slice");
    if (v.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, v);
    if (v.kind != JJ_STR && v.kind != JJ_LIST && v.kind != JJ_TUPLE && v.kind != JJ_RANGE)
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be sliced", sala_jj_type_name(v));
    if (step == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "the step of a slice cannot be 0");
    const int64_t n = sala_jj_length(j, v), first = step > 0 ? 0 : -1, last = step > 0 ? n : n - 1;
    int64_t from = sala_jj_want_int(j, lo, step > 0 ? first : last, "the start of a slice");
    int64_t to = sala_jj_want_int(j, hi, step > 0 ? last : first, "the end of a slice");
    if (lo.kind != JJ_NONE && lo.kind != JJ_MISSING)
        from = from < 0 ? sala_max_i64(from + n, first) : sala_min_i64(from, last);
    if (hi.kind != JJ_NONE && hi.kind != JJ_MISSING)
        to = to < 0 ? sala_max_i64(to + n, first) : sala_min_i64(to, last);
    /* |step| beyond the length takes one item at most; bounding it keeps the sums below from wrapping. */
    const int64_t stride = step > 0 ? sala_min_i64(step, n + 1) : sala_max_i64(step, -n - 1);
    if (v.kind == JJ_RANGE) {
        jj_range *r = sala_jj_alloc(j, sizeof *r);
        const jj_range *old = v.u.range;
        *r = (jj_range){old->start + from * old->step, old->start + to * old->step, old->step * stride};
        return (jj_val){.kind = JJ_RANGE, .u.range = r};
    }
    if (v.kind == JJ_STR) {
        const jj_str *s = v.u.s;
        if (step == 1) {
            if (to <= from)
                return jj_str_val(sala_jj_sub(j, s, 0, 0));
            const size_t begin = sala_jj_byte_at(s, (size_t)from), end = sala_jj_byte_at(s, (size_t)to);
            sala_jj_step(j, s->chars == s->bytes ? 0 : s->bytes / 64);
            return jj_str_val(sala_jj_sub(j, s, begin, end - begin));
        }
        const jj_list *chars = sala_jj_items(j, v);
        jj_builder b = {.j = j};
        for (int64_t i = from; step > 0 ? i < to : i > to; i += stride)
            sala_jj_put_str(&b, chars->v[i].u.s);
        return jj_finish_val(&b);
    }
    jj_list *l = sala_jj_list_new(j, 0);
    l->input = v.u.l->input;
    for (int64_t i = from; step > 0 ? i < to : i > to; i += stride) {
        sala_jj_step(j, 1);
        sala_jj_push(j, l, v.u.l->v[i]);
    }
    return (jj_val){.kind = v.kind, .u.l = l};
}

/* ---- methods of containers ---- */

static jj_val view(jj *j, jj_val self, char part)
{
    jj_view *w = sala_jj_alloc(j, sizeof *w);
    *w = (jj_view){self.u.d, part};
    return (jj_val){.kind = JJ_VIEW, .u.view = w};
}

static jj_val dict_keys(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    return view(j, self, 'k');
}

static jj_val dict_values(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    return view(j, self, 'v');
}

static jj_val dict_items(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    return view(j, self, 'i');
}

static jj_val dict_get(jj *j, jj_val self, const jj_val *a)
{
    if (!sala_jj_hashable(a[0]))
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be a key", sala_jj_type_name(a[0]));
    const jj_val *v = sala_jj_dict_get(j, self.u.d, a[0]);
    return v ? *v : a[1].kind == JJ_MISSING ? sala_jj_none : a[1];
}

static jj_val copy(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    (void)j;
    return self; /* nothing can change either of the two */
}

static jj_val list_count(jj *j, jj_val self, const jj_val *a)
{
    int64_t n = 0;
    const jj_list *l = sala_jj_items(j, self);
    for (size_t i = 0; i < l->n; i++)
        n += sala_jj_equal(j, l->v[i], a[0]);
    return jj_int(n);
}

static jj_val list_index(jj *j, jj_val self, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, self);
    const int64_t n = (int64_t)l->n;
    int64_t from = sala_jj_want_int(j, a[1], 0, "a position"), to = sala_jj_want_int(j, a[2], n, "a position");
    from = from < 0 ? sala_max_i64(from + n, 0) : from;
    to = to < 0 ? sala_max_i64(to + n, 0) : sala_min_i64(to, n);
    for (int64_t i = from; i < to; i++)
        if (sala_jj_equal(j, l->v[i], a[0]))
            return jj_int(i);
    sala_jj_fail(j, SALA_E_TEMPLATE, "the value is not in the %s", sala_jj_type_name(self));
}

static const jj_callable dict_methods[] = {
    {"keys", "", dict_keys, NULL},           {"values", "", dict_values, NULL}, {"items", "", dict_items, NULL},
    {"get", "key default?", dict_get, NULL}, {"copy", "", copy, NULL},          {NULL, NULL, NULL, NULL},
};

static const jj_callable list_methods[] = {
    {"count", "value", list_count, NULL},
    {"index", "value start? stop?", list_index, NULL},
    {"copy", "", copy, NULL},
    {NULL, NULL, NULL, NULL},
};

static jj_val loop_cycle(jj *j, jj_val self, const jj_args *args)
{
    if (args->n_pos == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "loop.cycle() needs something to cycle through");
    return args->v[(uint64_t)self.u.loop->index0 % args->n_pos].value;
}

static jj_val loop_changed(jj *j, jj_val self, const jj_args *args)
{
    jj_list *now = sala_jj_list_new(j, args->n_pos), *before = self.u.loop->changed;
    for (size_t i = 0; i < args->n_pos; i++)
        sala_jj_push(j, now, args->v[i].value);
    if (before && sala_jj_equal(j, jj_list_val(before), jj_list_val(now)))
        return jj_bool(false);
    self.u.loop->changed = now;
    return jj_bool(true);
}

static const jj_callable loop_methods[] = {
    {"cycle", NULL, NULL, loop_cycle}, {"changed", NULL, NULL, loop_changed}, {NULL, NULL, NULL, NULL}};

static jj_val cycler_next(jj *j, jj_val self, const jj_val *a)
{
    (void)j;
    (void)a;
    jj_cycler *c = self.u.cycler;
    const jj_val v = c->v[c->at];
    c->at = (c->at + 1) % c->n;
    return v;
}

static jj_val cycler_reset(jj *j, jj_val self, const jj_val *a)
{
    (void)j;
    (void)a;
    self.u.cycler->at = 0;
    return sala_jj_none;
}

static const jj_callable cycler_methods[] = {
    {"next", "", cycler_next, NULL}, {"reset", "", cycler_reset, NULL}, {NULL, NULL, NULL, NULL}};

static const char *const dict_unsafe[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
static const char *const list_unsafe[] = {"append", "clear",  "pop",    "reverse", "insert",
                                          "sort",   "extend", "remove", NULL};

/* ---- attributes ---- */

static jj_val bound(jj *j, jj_val self, const jj_callable *fn)
{
    jj_bound *m = sala_jj_alloc(j, sizeof *m);
    *m = (jj_bound){self, fn};
    return (jj_val){.kind = JJ_METHOD, .u.bound = m};
}

static const jj_callable *find(const jj_callable *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

static bool listed(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

static jj_val unsafe(jj *j, jj_val v, const char *name)
{
    jj_undef *u = sala_jj_alloc(j, sizeof *u);
    *u = (jj_undef){.name = name, .owner = sala_jj_type_name(v), .unsafe = true};
    return (jj_val){.kind = JJ_UNDEFINED, .u.u = u};
}

static bool loop_attr(jj *j, jj_loop *l, const char *name, jj_val *out)
{
    if (strcmp(name, "index") == 0)
        *out = jj_int(l->index0 + 1);
    else if (strcmp(name, "index0") == 0)
        *out = jj_int(l->index0);
    else if (strcmp(name, "first") == 0)
        *out = jj_bool(l->index0 == 0);
    else if (strcmp(name, "last") == 0)
        *out = jj_bool(!sala_jj_loop_peek(j, l));
    else if (strcmp(name, "length") == 0)
        *out = jj_int(sala_jj_loop_length(j, l));
    else if (strcmp(name, "revindex") == 0)
        *out = jj_int(sala_jj_loop_length(j, l) - l->index0);
    else if (strcmp(name, "revindex0") == 0)
        *out = jj_int(sala_jj_loop_length(j, l) - l->index0 - 1);
    else if (strcmp(name, "depth") == 0)
        *out = jj_int(l->depth0 + 1);
    else if (strcmp(name, "depth0") == 0)
        *out = jj_int(l->depth0);
    else if (strcmp(name, "previtem") == 0)
        *out = l->index0 == 0 ? sala_jj_undefined_hint(j, "there is no previous item") : l->before;
    else if (strcmp(name, "nextitem") == 0)
        *out = sala_jj_loop_peek(j, l) ? l->after : sala_jj_undefined_hint(j, "there is no next item");
    else
        return false;
    return true;
}

static jj_val names_of(jj *j, const jj_node *n)
{
    jj_list *l = sala_jj_list_new(j, n->n_params);
    for (size_t i = 0; i < n->n_params; i++)
        sala_jj_push(j, l, sala_jj_lit(j, n->params[i]));
    return (jj_val){.kind = JJ_TUPLE, .u.l = l};
}

static bool macro_attr(jj *j, const jj_macro *m, const char *name, jj_val *out)
{
    if (strcmp(name, "name") == 0)
        *out = m->node->kind == JN_MACRO ? sala_jj_lit(j, m->node->name) : sala_jj_none;
    else if (strcmp(name, "arguments") == 0)
        *out = names_of(j, m->node);
    else if (strcmp(name, "catch_kwargs") == 0)
        *out = jj_bool(m->node->flags & JF_KWARGS);
    else if (strcmp(name, "catch_varargs") == 0)
        *out = jj_bool(m->node->flags & JF_VARARGS);
    else if (strcmp(name, "caller") == 0)
        *out = jj_bool(m->node->flags & JF_CALLER);
    else
        return false;
    return true;
}

/* Python's getattr(): what belongs to the type of the value. */
static bool own_attr(jj *j, jj_val v, const char *name, jj_val *out)
{
    const jj_callable *methods = NULL;
    const char *const *refused = NULL;
    switch (v.kind) {
    case JJ_STR:
        methods = sala_jj_str_methods;
        break;
    case JJ_DICT:
        methods = dict_methods;
        refused = dict_unsafe;
        break;
    case JJ_LIST:
        methods = list_methods;
        refused = list_unsafe;
        break;
    case JJ_TUPLE:
        methods = list_methods;
        if (v.u.l->grouped && v.u.l->n == 2 && (strcmp(name, "grouper") == 0 || strcmp(name, "list") == 0)) {
            *out = v.u.l->v[*name == 'l'];
            return true;
        }
        break;
    case JJ_NAMESPACE: {
        const jj_val *item = sala_jj_dict_get_text(j, v.u.d, name);
        if (item)
            *out = *item;
        return item != NULL;
    }
    case JJ_LOOP:
        methods = loop_methods;
        if (loop_attr(j, v.u.loop, name, out))
            return true;
        break;
    case JJ_MACRO:
        return macro_attr(j, v.u.macro, name, out);
    case JJ_CYCLER:
        methods = cycler_methods;
        if (strcmp(name, "current") == 0) {
            *out = v.u.cycler->v[v.u.cycler->at];
            return true;
        }
        break;
    case JJ_RANGE:
        if (strcmp(name, "start") == 0 || strcmp(name, "stop") == 0 || strcmp(name, "step") == 0) {
            *out = jj_int(name[2] == 'a' ? v.u.range->start : name[2] == 'o' ? v.u.range->stop : v.u.range->step);
            return true;
        }
        break;
    default:
        break;
    }
    const jj_callable *m = methods ? find(methods, name) : NULL;
    if (m && !(v.kind == JJ_TUPLE && strcmp(name, "copy") == 0)) {
        *out = bound(j, v, m);
        return true;
    }
    if (refused && listed(refused, name)) {
        *out = unsafe(j, v, name);
        return true;
    }
    return false;
}

static bool item_at(jj *j, jj_val v, jj_val key, jj_val *out)
{
    int64_t i;
    if (v.kind == JJ_DICT) {
        const jj_val *item = sala_jj_hashable(key) ? sala_jj_dict_get(j, v.u.d, key) : NULL;
        if (item)
            *out = *item;
        return item != NULL;
    }
    if ((v.kind != JJ_STR && v.kind != JJ_LIST && v.kind != JJ_TUPLE && v.kind != JJ_RANGE) || !sala_jj_is_int(key, &i))
        return false;
    const int64_t n = sala_jj_length(j, v);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return false;
    if (v.kind == JJ_RANGE) {
        *out = jj_int(v.u.range->start + i * v.u.range->step);
    } else if (v.kind == JJ_STR) {
        const size_t at = sala_jj_byte_at(v.u.s, (size_t)i);
        size_t len;
        sala_jj_cp(v.u.s, at, &len);
        sala_jj_step(j, v.u.s->chars == v.u.s->bytes ? 0 : at / 64);
        *out = jj_str_val(sala_jj_sub(j, v.u.s, at, len));
    } else {
        *out = v.u.l->v[i];
    }
    return true;
}

jj_val sala_jj_getattr(jj *j, jj_val v, const char *name)
{
    jj_val out;
    if (v.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, v);
    if (own_attr(j, v, name, &out) || item_at(j, v, sala_jj_lit(j, name), &out))
        return out;
    return name[0] == '_' && name[1] == '_' ? unsafe(j, v, name) : sala_jj_undefined_attr(j, v, name);
}

jj_val sala_jj_getitem(jj *j, jj_val v, jj_val key)
{
    jj_val out;
    if (v.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, v);
    if (item_at(j, v, key, &out))
        return out;
    if (key.kind == JJ_STR) {
        const char *name = sala_jj_text(j, key.u.s->data, key.u.s->bytes);
        if (own_attr(j, v, name, &out))
            return out;
        return name[0] == '_' && name[1] == '_' ? unsafe(j, v, name) : sala_jj_undefined_attr(j, v, name);
    }
    jj_builder b = {.j = j};
    sala_jj_put_repr(&b, key, false);
    return sala_jj_undefined_attr(j, v, sala_jj_text(j, b.data, b.len < 60 ? b.len : 60));
}

/* ---- calls ---- */

static _Noreturn void fail_params(jj *j, const char *what, const char *name, const char *problem, const char *arg)
{
    sala_jj_fail(j, SALA_E_TEMPLATE, "%s '%s' %s%s%s%s", what, name, problem, arg ? " '" : "", arg ? arg : "",
                 arg ? "'" : "");
}

jj_val sala_jj_apply(jj *j, const jj_callable *c, const char *what, jj_val self, const jj_args *args)
{
    sala_jj_step(j, 1);
    if (c->raw)
        return c->raw(j, self, args);
    jj_val a[JJ_MAX_PARAMS];
    for (size_t i = 0; i < JJ_MAX_PARAMS; i++)
        a[i] = sala_jj_missing;
    size_t used = 0, n = 0;
    for (const char *p = c->params; *p; n++) {
        const size_t len = strcspn(p, "? ");
        if (n < args->n_pos) {
            a[n] = args->v[n].value;
            used++;
        }
        for (size_t i = args->n_pos; i < args->n; i++) {
            if (strncmp(args->v[i].name, p, len) != 0 || args->v[i].name[len])
                continue;
            if (a[n].kind != JJ_MISSING)
                fail_params(j, what, c->name, "got two values for", args->v[i].name);
            a[n] = args->v[i].value;
            used++;
        }
        if (a[n].kind == JJ_MISSING && p[len] != '?') {
            char name[32];
            snprintf(name, sizeof name, "%.*s", (int)len, p);
            fail_params(j, what, c->name, "needs the argument", name);
        }
        p += len + (p[len] == '?');
        p += *p == ' ';
    }
    if (used < args->n) {
        if (args->n_pos > n)
            fail_params(j, what, c->name, "got more arguments than it takes", NULL);
        for (size_t i = args->n_pos; i < args->n; i++) {
            const char *name = args->v[i].name, *p = strstr(c->params, name);
            if (!p || (p > c->params && p[-1] != ' ') || (p[strlen(name)] && !strchr("? ", p[strlen(name)])))
                fail_params(j, what, c->name, "takes no argument", name);
        }
        fail_params(j, what, c->name, "got more arguments than it takes", NULL);
    }
    return c->fn(j, self, a);
}

jj_val sala_jj_call(jj *j, jj_val f, const jj_args *args)
{
    switch (f.kind) {
    case JJ_UNDEFINED:
        sala_jj_fail_undefined(j, f);
    case JJ_METHOD:
        return sala_jj_apply(j, f.u.bound->fn, "method", f.u.bound->self, args);
    case JJ_GLOBAL:
        return sala_jj_apply(j, &f.u.global->fn, "function", sala_jj_none, args);
    case JJ_MACRO:
        return sala_jj_call_macro(j, f.u.macro, args);
    case JJ_LOOP:
        if (args->n != 1 || args->n_pos != 1)
            sala_jj_fail(j, SALA_E_TEMPLATE, "loop() takes the items to go through, and nothing else");
        return sala_jj_call_loop(j, f.u.loop, args->v[0].value);
    case JJ_JOINER: {
        jj_cycler *c = f.u.cycler;
        return c->at++ == 0 ? sala_jj_lit(j, "") : *c->v;
    }
    default:
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be called", sala_jj_type_name(f));
    }
}

/* ---- global functions ---- */

static jj_val global_range(jj *j, jj_val self, const jj_args *args)
{
    (void)self;
    int64_t v[3] = {0, 0, 1};
    if (args->n_pos != args->n || args->n < 1 || args->n > 3)
        sala_jj_fail(j, SALA_E_TEMPLATE, "range() takes one to three numbers");
    for (size_t i = 0; i < args->n; i++) {
        if (args->v[i].value.kind == JJ_NONE)
            sala_jj_fail(j, SALA_E_TEMPLATE, "range() takes integers, found None");
        if (args->v[i].value.kind == JJ_UNDEFINED)
            sala_jj_fail_undefined(j, args->v[i].value);
        v[args->n == 1 ? 1 : i] = sala_jj_want_int(j, args->v[i].value, 0, "an argument of range()");
    }
    if (v[2] == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "the step of range() cannot be 0");
    jj_range *r = sala_jj_alloc(j, sizeof *r);
    *r = (jj_range){v[0], v[1], v[2]};
    for (int i = 0; i < 3; i++)
        if (v[i] > MAX_RANGE_VALUE || v[i] < -MAX_RANGE_VALUE)
            sala_jj_fail(j, SALA_E_LIMIT, "range() with the number %lld", (long long)v[i]);
    if (sala_jj_range_len(r) > JJ_MAX_RANGE)
        sala_jj_fail(j, SALA_E_LIMIT, "range() of more than %d numbers", JJ_MAX_RANGE);
    return (jj_val){.kind = JJ_RANGE, .u.range = r};
}

/* dict(mapping or pairs, name=value, ...) */
static jj_dict *make_dict(jj *j, const jj_args *args, const char *what)
{
    jj_dict *d = sala_jj_dict_new(j, args->n);
    if (args->n_pos > 1)
        sala_jj_fail(j, SALA_E_TEMPLATE, "%s() takes one mapping at most", what);
    if (args->n_pos == 1) {
        const jj_val from = args->v[0].value;
        if (from.kind == JJ_DICT) {
            for (size_t i = 0; i < from.u.d->n; i++)
                sala_jj_dict_set(j, d, from.u.d->v[i].key, from.u.d->v[i].value);
        } else {
            const jj_list *l = sala_jj_items(j, from);
            for (size_t i = 0; i < l->n; i++) {
                const jj_list *pair = sala_jj_items(j, l->v[i]);
                if (pair->n != 2)
                    sala_jj_fail(j, SALA_E_TEMPLATE, "%s() takes pairs, found %zu items", what, pair->n);
                sala_jj_dict_set(j, d, pair->v[0], pair->v[1]);
            }
        }
    }
    for (size_t i = args->n_pos; i < args->n; i++)
        sala_jj_dict_set(j, d, sala_jj_lit(j, args->v[i].name), args->v[i].value);
    return d;
}

static jj_val global_dict(jj *j, jj_val self, const jj_args *args)
{
    (void)self;
    return (jj_val){.kind = JJ_DICT, .u.d = make_dict(j, args, "dict")};
}

static jj_val global_namespace(jj *j, jj_val self, const jj_args *args)
{
    (void)self;
    jj_dict *d = make_dict(j, args, "namespace");
    for (size_t i = 0; i < d->n; i++)
        if (d->v[i].key.kind == JJ_STR && d->v[i].key.u.s->bytes && d->v[i].key.u.s->data[0] == '_')
            sala_jj_fail(j, SALA_E_TEMPLATE, "names in a namespace cannot begin with an underscore");
    return (jj_val){.kind = JJ_NAMESPACE, .u.d = d};
}

static jj_val global_cycler(jj *j, jj_val self, const jj_args *args)
{
    (void)self;
    jj_cycler *c = sala_jj_alloc(j, sizeof *c);
    if (args->n_pos == 0 || args->n_pos != args->n)
        sala_jj_fail(j, SALA_E_TEMPLATE, "cycler() needs something to cycle through");
    *c = (jj_cycler){.v = sala_jj_alloc_array(j, args->n, sizeof *c->v), .n = args->n};
    for (size_t i = 0; i < args->n; i++)
        c->v[i] = args->v[i].value;
    return (jj_val){.kind = JJ_CYCLER, .u.cycler = c};
}

static jj_val global_joiner(jj *j, jj_val self, const jj_val *a)
{
    (void)self;
    jj_cycler *c = sala_jj_alloc(j, sizeof *c);
    *c = (jj_cycler){.v = sala_jj_alloc(j, sizeof *c->v), .n = 1};
    *c->v = a[0].kind == JJ_MISSING ? sala_jj_lit(j, ", ") : a[0];
    return (jj_val){.kind = JJ_JOINER, .u.cycler = c};
}

static jj_val global_raise(jj *j, jj_val self, const jj_val *a)
{
    (void)self;
    sala_jj_fail_words(j, sala_jj_to_str(j, a[0]));
}

static jj_val global_strftime(jj *j, jj_val self, const jj_val *a)
{
    (void)self;
    return sala_jj_strftime(j, sala_jj_want_str(j, a[0], "the format of strftime_now()"), j->now);
}

static const jj_global globals[] = {
    {{"range", NULL, NULL, global_range}},
    {{"dict", NULL, NULL, global_dict}},
    {{"namespace", NULL, NULL, global_namespace}},
    {{"cycler", NULL, NULL, global_cycler}},
    {{"joiner", "sep?", global_joiner, NULL}},
    {{"raise_exception", "message", global_raise, NULL}},
    {{"strftime_now", "format", global_strftime, NULL}},
};

const jj_global *sala_jj_find_global(const char *name)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(globals); i++)
        if (strcmp(globals[i].fn.name, name) == 0)
            return &globals[i];
    return NULL;
}
