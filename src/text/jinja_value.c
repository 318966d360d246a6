/* Values: lists and dicts, truth, equality, order, membership, iteration, and where they come from (JSON). */
#include "text/jinja_core.h"

#include <math.h>
#include <stdio.h>

enum { SMALL_DICT = 8 };

const jj_val sala_jj_none = {.kind = JJ_NONE}, sala_jj_missing = {.kind = JJ_MISSING};

/* ---- making ---- */

jj_val sala_jj_lit(jj *j, const char *text)
{
    return jj_str_val(sala_jj_str_of(j, text, strlen(text), false));
}

static jj_val make_undefined(jj *j, jj_undef u)
{
    jj_undef *p = sala_jj_alloc(j, sizeof *p);
    *p = u;
    return (jj_val){.kind = JJ_UNDEFINED, .u.u = p};
}

jj_val sala_jj_undefined(jj *j, const char *name)
{
    return make_undefined(j, (jj_undef){.name = name});
}

jj_val sala_jj_undefined_hint(jj *j, const char *hint)
{
    return make_undefined(j, (jj_undef){.hint = hint});
}

jj_val sala_jj_undefined_attr(jj *j, jj_val owner, const char *name)
{
    return make_undefined(j, (jj_undef){.name = name, .owner = sala_jj_type_name(owner)});
}

_Noreturn void sala_jj_fail_undefined(jj *j, jj_val v)
{
    const jj_undef *u = v.u.u;
    if (u->hint)
        sala_jj_fail(j, SALA_E_TEMPLATE, "%s", u->hint);
    if (u->unsafe)
        sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' of a %s is not for templates to use", u->name, u->owner);
    if (u->owner)
        sala_jj_fail(j, SALA_E_TEMPLATE, "'%s object' has no attribute '%s'", u->owner, u->name);
    sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' is undefined", u->name);
}

jj_list *sala_jj_list_new(jj *j, size_t cap)
{
    jj_list *l = sala_jj_alloc(j, sizeof *l);
    *l = (jj_list){.cap = cap};
    if (cap)
        l->v = sala_jj_alloc_array(j, cap, sizeof *l->v);
    return l;
}

void sala_jj_push(jj *j, jj_list *l, jj_val v)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 4;
        l->v = sala_jj_grow(j, l->v, l->cap * sizeof *l->v, cap * sizeof *l->v);
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

jj_val sala_jj_tuple2(jj *j, jj_val a, jj_val b)
{
    jj_list *l = sala_jj_list_new(j, 2);
    l->v[0] = a;
    l->v[1] = b;
    l->n = 2;
    return (jj_val){.kind = JJ_TUPLE, .u.l = l};
}

jj_dict *sala_jj_dict_new(jj *j, size_t cap)
{
    jj_dict *d = sala_jj_alloc(j, sizeof *d);
    *d = (jj_dict){.cap = cap};
    if (cap)
        d->v = sala_jj_alloc_array(j, cap, sizeof *d->v);
    return d;
}

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    return h;
}

/* Equal values have equal hashes: 1, 1.0 and true are one key. */
static uint64_t hash(jj *j, jj_val v)
{
    sala_jj_step(j, 1);
    switch (v.kind) {
    case JJ_BOOL:
        return mix(v.u.b);
    case JJ_INT:
        return mix((uint64_t)v.u.i);
    case JJ_FLOAT: {
        if (v.u.f >= -9.2e18 && v.u.f <= 9.2e18 && v.u.f == floor(v.u.f))
            return mix((uint64_t)(int64_t)v.u.f);
        uint64_t bits;
        memcpy(&bits, &v.u.f, sizeof bits);
        return mix(bits);
    }
    case JJ_STR: {
        uint64_t h = 1469598103934665603ULL;
        for (size_t i = 0; i < v.u.s->bytes; i++)
            h = (h ^ (unsigned char)v.u.s->data[i]) * 1099511628211ULL;
        sala_jj_step(j, v.u.s->bytes / 64);
        return mix(h);
    }
    case JJ_TUPLE: {
        uint64_t h = 7;
        sala_jj_enter(j);
        for (size_t i = 0; i < v.u.l->n; i++)
            h = mix(h * 31 + hash(j, v.u.l->v[i]));
        sala_jj_leave(j);
        return h;
    }
    default:
        return (uint64_t)v.kind;
    }
}

bool sala_jj_hashable(jj_val v)
{
    if (v.kind == JJ_TUPLE) {
        for (size_t i = 0; i < v.u.l->n; i++)
            if (v.u.l->v[i].kind == JJ_TUPLE || !sala_jj_hashable(v.u.l->v[i]))
                return false; /* tuples within tuples as keys: not seen in templates, and this stays flat */
        return true;
    }
    return v.kind != JJ_LIST && v.kind != JJ_DICT && v.kind != JJ_VIEW;
}

static void index_put(jj *j, jj_dict *d, size_t pos)
{
    size_t at = (size_t)hash(j, d->v[pos].key) & (d->index_size - 1);
    while (d->index[at])
        at = (at + 1) & (d->index_size - 1);
    d->index[at] = (uint32_t)pos + 1;
}

void sala_jj_dict_add(jj *j, jj_dict *d, jj_val key, jj_val value)
{
    if (d->n >= UINT32_MAX / 4)
        sala_jj_fail(j, SALA_E_LIMIT, "a dict with more than %u entries", UINT32_MAX / 4);
    if (d->n == d->cap) {
        const size_t cap = d->cap ? 2 * d->cap : 4;
        d->v = sala_jj_grow(j, d->v, d->cap * sizeof *d->v, cap * sizeof *d->v);
        d->cap = cap;
    }
    d->v[d->n++] = (jj_pair){key, value};
    if (d->n <= SMALL_DICT)
        return;
    if (2 * d->n > d->index_size) {
        size_t size = d->index_size ? d->index_size : 16;
        while (size < 2 * d->n || size < d->cap)
            size *= 2;
        d->index = sala_jj_alloc_array(j, size, sizeof *d->index);
        memset(d->index, 0, size * sizeof *d->index);
        d->index_size = size;
        for (size_t i = 0; i < d->n; i++)
            index_put(j, d, i);
    } else {
        index_put(j, d, d->n - 1);
    }
}

jj_val *sala_jj_dict_get(jj *j, const jj_dict *d, jj_val key)
{
    sala_jj_step(j, 1);
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (sala_jj_equal(j, d->v[i].key, key))
                return &d->v[i].value;
        return NULL;
    }
    size_t at = (size_t)hash(j, key) & (d->index_size - 1);
    for (; d->index[at]; at = (at + 1) & (d->index_size - 1)) {
        jj_pair *p = &d->v[d->index[at] - 1];
        if (sala_jj_equal(j, p->key, key))
            return &p->value;
    }
    return NULL;
}

jj_val *sala_jj_dict_get_text(jj *j, const jj_dict *d, const char *key)
{
    jj_str s = {.data = key, .bytes = strlen(key)};
    return sala_jj_dict_get(j, d, (jj_val){.kind = JJ_STR, .u.s = &s});
}

void sala_jj_dict_set(jj *j, jj_dict *d, jj_val key, jj_val value)
{
    if (!sala_jj_hashable(key))
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be a key", sala_jj_type_name(key));
    jj_val *old = sala_jj_dict_get(j, d, key);
    if (old)
        *old = value;
    else
        sala_jj_dict_add(j, d, key, value);
}

jj_val sala_jj_from_json(jj *j, const json_t *v, int depth)
{
    sala_jj_step(j, 1);
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        sala_jj_enter(j);
        jj_dict *d = sala_jj_dict_new(j, json_object_size(v));
        d->input = true;
        const char *key;
        json_t *item;
        json_object_foreach((json_t *)(uintptr_t)v, key, item)
        {
            /* jansson's keys have no other length than up to their NUL, and are valid UTF-8. */
            jj_val k = jj_str_val(sala_jj_str_of(j, key, strlen(key), true));
            jj_val value = sala_jj_from_json(j, item, depth + 1);
            if (value.kind == JJ_STR && j->trusts && j->trusts(j->trust_user, depth, key, item))
                value.u.s->input = false;
            sala_jj_dict_add(j, d, k, value);
        }
        sala_jj_leave(j);
        return (jj_val){.kind = JJ_DICT, .u.d = d};
    }
    case JSON_ARRAY: {
        sala_jj_enter(j);
        jj_list *l = sala_jj_list_new(j, json_array_size(v));
        l->input = true;
        for (size_t i = 0; i < json_array_size(v); i++)
            sala_jj_push(j, l, sala_jj_from_json(j, json_array_get(v, i), depth + 1));
        sala_jj_leave(j);
        return jj_list_val(l);
    }
    case JSON_STRING:
        return jj_str_val(sala_jj_str_of(j, json_string_value(v), json_string_length(v), true));
    case JSON_INTEGER:
        return jj_int(json_integer_value(v));
    case JSON_REAL:
        return jj_float(json_real_value(v));
    case JSON_TRUE:
        return jj_bool(true);
    case JSON_FALSE:
        return jj_bool(false);
    default:
        return sala_jj_none;
    }
}

/* ---- asking ---- */

const char *sala_jj_type_name(jj_val v)
{
    static const char *const names[] = {
        [JJ_MISSING] = "missing", [JJ_UNDEFINED] = "Undefined", [JJ_NONE] = "None",      [JJ_BOOL] = "bool",
        [JJ_INT] = "int",         [JJ_FLOAT] = "float",         [JJ_STR] = "str",        [JJ_LIST] = "list",
        [JJ_TUPLE] = "tuple",     [JJ_DICT] = "dict",           [JJ_VIEW] = "dict view", [JJ_RANGE] = "range",
        [JJ_ITER] = "generator",  [JJ_NAMESPACE] = "namespace", [JJ_MACRO] = "macro",    [JJ_LOOP] = "loop",
        [JJ_METHOD] = "method",   [JJ_GLOBAL] = "function",     [JJ_CYCLER] = "cycler",  [JJ_JOINER] = "joiner",
    };
    return names[v.kind];
}

bool sala_jj_is_int(jj_val v, int64_t *i)
{
    if (v.kind != JJ_INT && v.kind != JJ_BOOL)
        return false;
    *i = v.kind == JJ_INT ? v.u.i : v.u.b;
    return true;
}

bool sala_jj_is_number(jj_val v, double *f)
{
    int64_t i;
    if (v.kind == JJ_FLOAT) {
        *f = v.u.f;
        return true;
    }
    if (!sala_jj_is_int(v, &i))
        return false;
    *f = (double)i;
    return true;
}

int64_t sala_jj_range_len(const jj_range *r)
{
    if (r->step > 0)
        return r->start < r->stop ? (r->stop - r->start - 1) / r->step + 1 : 0;
    return r->start > r->stop ? (r->start - r->stop - 1) / -r->step + 1 : 0;
}

int64_t sala_jj_length(jj *j, jj_val v)
{
    switch (v.kind) {
    case JJ_UNDEFINED:
        return 0;
    case JJ_STR:
        return (int64_t)v.u.s->chars;
    case JJ_LIST:
    case JJ_TUPLE:
        return (int64_t)v.u.l->n;
    case JJ_DICT:
        return (int64_t)v.u.d->n;
    case JJ_VIEW:
        return (int64_t)v.u.view->d->n;
    case JJ_RANGE:
        return sala_jj_range_len(v.u.range);
    case JJ_LOOP:
        return sala_jj_loop_length(j, v.u.loop);
    default:
        return -1;
    }
}

bool sala_jj_truth(jj *j, jj_val v)
{
    switch (v.kind) {
    case JJ_UNDEFINED:
    case JJ_NONE:
        return false;
    case JJ_BOOL:
        return v.u.b;
    case JJ_INT:
        return v.u.i != 0;
    case JJ_FLOAT:
        return v.u.f != 0;
    default:
        return sala_jj_length(j, v) != 0; /* what has no length (-1) is true */
    }
}

static bool equal_lists(jj *j, const jj_list *a, const jj_list *b)
{
    if (a->n != b->n)
        return false;
    sala_jj_enter(j);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++)
        same = sala_jj_equal(j, a->v[i], b->v[i]);
    sala_jj_leave(j);
    return same;
}

static bool equal_dicts(jj *j, const jj_dict *a, const jj_dict *b)
{
    if (a->n != b->n)
        return false;
    sala_jj_enter(j);
    bool same = true;
    for (size_t i = 0; same && i < a->n; i++) {
        const jj_val *other = sala_jj_dict_get(j, b, a->v[i].key);
        same = other && sala_jj_equal(j, a->v[i].value, *other);
    }
    sala_jj_leave(j);
    return same;
}

bool sala_jj_equal(jj *j, jj_val a, jj_val b)
{
    sala_jj_step(j, 1);
    int64_t x, y;
    double f, g;
    if (sala_jj_is_int(a, &x) && sala_jj_is_int(b, &y))
        return x == y;
    if (sala_jj_is_number(a, &f) && sala_jj_is_number(b, &g))
        return f == g;
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JJ_UNDEFINED:
    case JJ_NONE:
        return true;
    case JJ_STR:
        sala_jj_step(j, a.u.s->bytes == b.u.s->bytes ? a.u.s->bytes / 64 : 0);
        return sala_jj_same(a.u.s, b.u.s);
    case JJ_LIST:
    case JJ_TUPLE:
        return a.u.l == b.u.l || equal_lists(j, a.u.l, b.u.l);
    case JJ_DICT:
        return a.u.d == b.u.d || equal_dicts(j, a.u.d, b.u.d);
    case JJ_RANGE: {
        const int64_t n = sala_jj_range_len(a.u.range);
        return n == sala_jj_range_len(b.u.range) &&
               (n == 0 || (a.u.range->start == b.u.range->start && (n == 1 || a.u.range->step == b.u.range->step)));
    }
    case JJ_VIEW:
        if (a.u.view->part != b.u.view->part || a.u.view->part == 'v')
            return false;
        return a.u.view->part == 'i' ? equal_dicts(j, a.u.view->d, b.u.view->d)
                                     : equal_lists(j, sala_jj_items(j, a), sala_jj_items(j, b));
    case JJ_METHOD:
        return a.u.bound->fn == b.u.bound->fn && sala_jj_equal(j, a.u.bound->self, b.u.bound->self);
    default:
        return a.u.d == b.u.d; /* the same object */
    }
}

int sala_jj_order(jj *j, jj_val a, jj_val b, const char *op)
{
    sala_jj_step(j, 1);
    if (a.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, a);
    if (b.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, b);
    int64_t x, y;
    double f, g;
    if (sala_jj_is_int(a, &x) && sala_jj_is_int(b, &y))
        return x < y ? -1 : x > y;
    if (sala_jj_is_number(a, &f) && sala_jj_is_number(b, &g))
        return isnan(f) || isnan(g) ? 2 : f < g ? -1 : f > g;
    if (a.kind == JJ_STR && b.kind == JJ_STR) {
        /* The order of UTF-8 bytes is the order of code points. */
        const size_t n = a.u.s->bytes < b.u.s->bytes ? a.u.s->bytes : b.u.s->bytes;
        sala_jj_step(j, n / 64);
        const int c = memcmp(a.u.s->data, b.u.s->data, n);
        if (c)
            return c < 0 ? -1 : 1;
        return a.u.s->bytes < b.u.s->bytes ? -1 : a.u.s->bytes > b.u.s->bytes;
    }
    if (a.kind == b.kind && (a.kind == JJ_LIST || a.kind == JJ_TUPLE)) {
        const jj_list *l = a.u.l, *m = b.u.l;
        sala_jj_enter(j);
        int c = 0;
        size_t i = 0;
        for (; i < l->n && i < m->n; i++)
            if (!sala_jj_equal(j, l->v[i], m->v[i])) {
                c = sala_jj_order(j, l->v[i], m->v[i], op);
                break;
            }
        sala_jj_leave(j);
        if (i < l->n && i < m->n)
            return c;
        return l->n < m->n ? -1 : l->n > m->n;
    }
    sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' is not possible between %s and %s", op, sala_jj_type_name(a),
                 sala_jj_type_name(b));
}

bool sala_jj_contains(jj *j, jj_val item, jj_val in)
{
    switch (in.kind) {
    case JJ_STR:
        if (item.kind != JJ_STR)
            sala_jj_fail(j, SALA_E_TEMPLATE, "'in' a string needs a string in front of it, found %s",
                         sala_jj_type_name(item));
        return sala_jj_find(j, in.u.s, 0, item.u.s) != SIZE_MAX;
    case JJ_DICT:
        if (!sala_jj_hashable(item))
            sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be a key", sala_jj_type_name(item));
        return sala_jj_dict_get(j, in.u.d, item) != NULL;
    default:
        break;
    }
    const jj_list *l = sala_jj_items(j, in);
    for (size_t i = 0; i < l->n; i++)
        if (sala_jj_equal(j, l->v[i], item))
            return true;
    return false;
}

bool sala_jj_iterable(jj_val v)
{
    switch (v.kind) {
    case JJ_UNDEFINED:
    case JJ_STR:
    case JJ_LIST:
    case JJ_TUPLE:
    case JJ_DICT:
    case JJ_VIEW:
    case JJ_RANGE:
    case JJ_ITER:
        return true;
    default:
        return false;
    }
}

static jj_list *characters(jj *j, const jj_str *s)
{
    jj_list *l = sala_jj_list_new(j, s->chars);
    for (size_t at = 0; at < s->bytes;) {
        size_t n;
        sala_jj_cp(s, at, &n);
        sala_jj_push(j, l, jj_str_val(sala_jj_sub(j, s, at, n)));
        at += n;
    }
    sala_jj_step(j, s->chars);
    return l;
}

static jj_list *dict_items(jj *j, const jj_dict *d, char part)
{
    jj_list *l = sala_jj_list_new(j, d->n);
    for (size_t i = 0; i < d->n; i++) {
        const jj_pair *p = &d->v[i];
        sala_jj_push(j, l, part == 'k' ? p->key : part == 'v' ? p->value : sala_jj_tuple2(j, p->key, p->value));
    }
    l->input = d->input;
    sala_jj_step(j, d->n);
    return l;
}

jj_list *sala_jj_items(jj *j, jj_val v)
{
    switch (v.kind) {
    case JJ_UNDEFINED:
        return sala_jj_list_new(j, 0);
    case JJ_STR:
        return characters(j, v.u.s);
    case JJ_LIST:
    case JJ_TUPLE:
        return v.u.l;
    case JJ_DICT:
        return dict_items(j, v.u.d, 'k');
    case JJ_VIEW:
        return dict_items(j, v.u.view->d, v.u.view->part);
    case JJ_RANGE: {
        const int64_t n = sala_jj_range_len(v.u.range);
        jj_list *l = sala_jj_list_new(j, (size_t)n);
        for (int64_t i = 0; i < n; i++)
            sala_jj_push(j, l, jj_int(v.u.range->start + i * v.u.range->step));
        sala_jj_step(j, (uint64_t)n);
        return l;
    }
    case JJ_ITER: {
        jj_list *all = v.u.l, *rest = sala_jj_list_new(j, 0);
        if (all->used < all->n)
            *rest = (jj_list){.v = all->v + all->used, .n = all->n - all->used, .cap = all->n - all->used};
        rest->input = all->input;
        all->used = all->n;
        return rest;
    }
    default:
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s cannot be gone through item by item", sala_jj_type_name(v));
    }
}

int64_t sala_jj_want_int(jj *j, jj_val v, int64_t otherwise, const char *what)
{
    int64_t i;
    if (v.kind == JJ_MISSING || v.kind == JJ_NONE)
        return otherwise;
    if (!sala_jj_is_int(v, &i))
        sala_jj_fail(j, SALA_E_TEMPLATE, "%s has to be an integer, found %s", what, sala_jj_type_name(v));
    return i;
}

const jj_str *sala_jj_want_str(jj *j, jj_val v, const char *what)
{
    if (v.kind != JJ_STR)
        sala_jj_fail(j, SALA_E_TEMPLATE, "%s has to be a string, found %s", what, sala_jj_type_name(v));
    return v.u.s;
}
