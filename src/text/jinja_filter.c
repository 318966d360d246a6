/* The filters that work on sequences and mappings, and the table of all filters. */
#include "text/jinja_filter.h"

#include <math.h>
#include <stdio.h>

static bool given(jj_val v)
{
    return v.kind != JJ_MISSING;
}

static bool flag(jj *j, jj_val v)
{
    return given(v) && sala_jj_truth(j, v);
}

/* ---- attributes of items ---- */

/* "a.b.0" or a number: where an attribute stands within an item. */
static jj_val pick(jj *j, jj_val item, jj_val path, jj_val otherwise)
{
    if (path.kind == JJ_MISSING || path.kind == JJ_NONE)
        return item;
    if (path.kind != JJ_STR)
        return sala_jj_getitem(j, item, path);
    const jj_str *s = path.u.s;
    for (size_t at = 0; at <= s->bytes;) {
        const char *dot = s->bytes > at ? memchr(s->data + at, '.', s->bytes - at) : NULL;
        const size_t end = dot ? (size_t)(dot - s->data) : s->bytes;
        bool number = end > at;
        for (size_t i = at; i < end; i++)
            number = number && s->data[i] >= '0' && s->data[i] <= '9';
        int64_t i;
        if (number && sala_jj_parse_int(s->data + at, end - at, 10, &i))
            item = sala_jj_getitem(j, item, jj_int(i));
        else
            item = sala_jj_getitem(j, item, jj_str_val(sala_jj_sub(j, s, at, end - at)));
        if (item.kind == JJ_UNDEFINED && given(otherwise) && otherwise.kind != JJ_NONE)
            item = otherwise;
        at = end + 1;
    }
    return item;
}

static jj_val fold_case(jj *j, jj_val v, bool case_sensitive)
{
    return !case_sensitive && v.kind == JJ_STR ? sala_jj_str_lower(j, v, NULL) : v;
}

/* ---- sorting ---- */

typedef struct keyed {
    jj_val key, item;
} keyed;

/* Stable; `reverse` keeps equal items in their order too, as Python's sort does. */
static void sort_keyed(jj *j, keyed *v, size_t n, bool reverse)
{
    keyed *from = v, *to = sala_jj_alloc_array(j, n, sizeof *to);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            const size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            size_t a = lo, b = mid;
            for (size_t k = lo; k < hi; k++) {
                bool second = a >= mid;
                if (!second && b < hi)
                    second = reverse ? sala_jj_order(j, from[a].key, from[b].key, "<") == -1
                                     : sala_jj_order(j, from[b].key, from[a].key, "<") == -1;
                to[k] = second ? from[b++] : from[a++];
            }
        }
        keyed *const other = from;
        from = to;
        to = other;
    }
    if (from != v)
        memcpy(v, from, n * sizeof *v);
}

static keyed *keyed_items(jj *j, const jj_list *l)
{
    keyed *v = sala_jj_alloc_array(j, l->n, sizeof *v);
    for (size_t i = 0; i < l->n; i++)
        v[i] = (keyed){l->v[i], l->v[i]};
    return v;
}

static jj_list *items_of(jj *j, const keyed *v, size_t n)
{
    jj_list *l = sala_jj_list_new(j, n);
    for (size_t i = 0; i < n; i++)
        sala_jj_push(j, l, v[i].item);
    return l;
}

static jj_val filter_sort(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    keyed *v = keyed_items(j, l);
    const bool case_sensitive = flag(j, a[1]);
    /* Keys are lists, one entry for each of the attributes between commas: equal entries need not have an order. */
    const jj_str *s = a[2].kind == JJ_STR ? a[2].u.s : NULL;
    for (size_t i = 0; i < l->n; i++) {
        jj_list *keys = sala_jj_list_new(j, 1);
        if (!s)
            sala_jj_push(j, keys, fold_case(j, pick(j, l->v[i], a[2], sala_jj_missing), case_sensitive));
        for (size_t at = 0; s && at <= s->bytes;) {
            const char *comma = s->bytes > at ? memchr(s->data + at, ',', s->bytes - at) : NULL;
            const size_t end = comma ? (size_t)(comma - s->data) : s->bytes;
            const jj_val path = jj_str_val(sala_jj_sub(j, s, at, end - at));
            sala_jj_push(j, keys, fold_case(j, pick(j, l->v[i], path, sala_jj_missing), case_sensitive));
            at = end + 1;
        }
        v[i].key = jj_list_val(keys);
    }
    sort_keyed(j, v, l->n, flag(j, a[0]));
    return jj_list_val(items_of(j, v, l->n));
}

static jj_val filter_dictsort(jj *j, jj_val in, const jj_val *a)
{
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (in.kind != JJ_DICT)
        sala_jj_fail(j, SALA_E_TEMPLATE, "dictsort needs a mapping, found %s", sala_jj_type_name(in));
    const bool by_value = given(a[1]) && sala_jj_is(sala_jj_want_str(j, a[1], "what dictsort sorts by"), "value");
    if (given(a[1]) && !by_value && !sala_jj_is(a[1].u.s, "key"))
        sala_jj_fail(j, SALA_E_TEMPLATE, "dictsort sorts by 'key' or 'value'");
    const jj_dict *d = in.u.d;
    keyed *v = sala_jj_alloc_array(j, d->n, sizeof *v);
    for (size_t i = 0; i < d->n; i++) {
        v[i].item = sala_jj_tuple2(j, d->v[i].key, d->v[i].value);
        v[i].key = fold_case(j, by_value ? d->v[i].value : d->v[i].key, flag(j, a[0]));
    }
    sort_keyed(j, v, d->n, flag(j, a[2]));
    return jj_list_val(items_of(j, v, d->n));
}

static jj_val filter_groupby(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    keyed *v = keyed_items(j, l);
    for (size_t i = 0; i < l->n; i++)
        v[i].key = fold_case(j, pick(j, l->v[i], a[0], a[1]), flag(j, a[2]));
    sort_keyed(j, v, l->n, false);
    jj_list *out = sala_jj_list_new(j, 0);
    for (size_t i = 0; i < l->n;) {
        jj_list *group = sala_jj_list_new(j, 0);
        size_t k = i;
        for (; k < l->n && sala_jj_equal(j, v[k].key, v[i].key); k++)
            sala_jj_push(j, group, v[k].item);
        jj_val pair = sala_jj_tuple2(j, pick(j, v[i].item, a[0], a[1]), jj_list_val(group));
        pair.u.l->grouped = true;
        sala_jj_push(j, out, pair);
        i = k;
    }
    return jj_list_val(out);
}

static jj_val filter_unique(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    jj_dict *seen = sala_jj_dict_new(j, 0);
    jj_list *out = sala_jj_list_new(j, 0);
    for (size_t i = 0; i < l->n; i++) {
        const jj_val key = fold_case(j, pick(j, l->v[i], a[1], sala_jj_missing), flag(j, a[0]));
        if (!sala_jj_hashable(key))
            sala_jj_fail(j, SALA_E_TEMPLATE, "unique cannot compare values of type %s", sala_jj_type_name(key));
        if (sala_jj_dict_get(j, seen, key))
            continue;
        sala_jj_dict_add(j, seen, key, sala_jj_none);
        sala_jj_push(j, out, l->v[i]);
    }
    return jj_iter_val(out);
}

static jj_val extreme(jj *j, jj_val in, const jj_val *a, int sign)
{
    const jj_list *l = sala_jj_items(j, in);
    if (l->n == 0)
        return sala_jj_undefined_hint(j, "the sequence is empty: it has no smallest or largest item");
    size_t best = 0;
    jj_val best_key = fold_case(j, pick(j, l->v[0], a[1], sala_jj_missing), flag(j, a[0]));
    for (size_t i = 1; i < l->n; i++) {
        const jj_val key = fold_case(j, pick(j, l->v[i], a[1], sala_jj_missing), flag(j, a[0]));
        if (sala_jj_order(j, key, best_key, sign < 0 ? "<" : ">") == sign) {
            best = i;
            best_key = key;
        }
    }
    return l->v[best];
}

static jj_val filter_min(jj *j, jj_val in, const jj_val *a)
{
    return extreme(j, in, a, -1);
}

static jj_val filter_max(jj *j, jj_val in, const jj_val *a)
{
    return extreme(j, in, a, 1);
}

/* ---- map, select, reject ---- */

static const jj_val *named(const jj_args *args, const char *name)
{
    for (size_t i = args->n_pos; i < args->n; i++)
        if (strcmp(args->v[i].name, name) == 0)
            return &args->v[i].value;
    return NULL;
}

static const char *first_name(jj *j, const jj_args *args, size_t at)
{
    const jj_str *s = sala_jj_want_str(j, args->v[at].value, "the name of a filter or test");
    return sala_jj_text(j, s->data, s->bytes);
}

static jj_args rest_of(const jj_args *args, size_t skip)
{
    return (jj_args){.v = args->v + skip, .n = args->n - skip, .n_pos = args->n_pos - skip};
}

static jj_val filter_map(jj *j, jj_val in, const jj_args *args)
{
    jj_list *out = sala_jj_list_new(j, 0);
    const jj_val *attribute = named(args, "attribute"), *otherwise = named(args, "default");
    if (!sala_jj_truth(j, in)) /* none and 0 too count as empty here */
        return jj_iter_val(out);
    const jj_list *l = sala_jj_items(j, in);
    if (args->n_pos == 0 && attribute) {
        if (args->n != 1 + (otherwise != NULL))
            sala_jj_fail(j, SALA_E_TEMPLATE, "map takes 'attribute' and 'default', or the name of a filter");
        for (size_t i = 0; i < l->n; i++)
            sala_jj_push(j, out, pick(j, l->v[i], *attribute, otherwise ? *otherwise : sala_jj_missing));
        return jj_iter_val(out);
    }
    if (args->n_pos == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "map needs the name of a filter, or an attribute");
    const char *name = first_name(j, args, 0);
    const jj_callable *f = sala_jj_find_filter(name);
    const jj_args rest = rest_of(args, 1);
    if (!f)
        sala_jj_fail(j, SALA_E_TEMPLATE, "there is no filter '%s'", name);
    sala_jj_enter(j); /* map('map', 'map', ...) calls itself */
    for (size_t i = 0; i < l->n; i++)
        sala_jj_push(j, out, sala_jj_apply(j, f, "filter", l->v[i], &rest));
    sala_jj_leave(j);
    return jj_iter_val(out);
}

static jj_val choose(jj *j, jj_val in, const jj_args *args, bool by_attribute, bool keep)
{
    jj_list *out = sala_jj_list_new(j, 0);
    const size_t off = by_attribute;
    const jj_callable *test = NULL;
    jj_args rest = {0};
    if (!sala_jj_truth(j, in)) /* none and 0 too count as empty here */
        return jj_iter_val(out);
    const jj_list *l = sala_jj_items(j, in);
    if (by_attribute && args->n_pos == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "selectattr and rejectattr need the name of an attribute");
    if (args->n_pos > off) {
        const char *name = first_name(j, args, off);
        test = sala_jj_find_test(name);
        rest = rest_of(args, off + 1);
        if (!test)
            sala_jj_fail(j, SALA_E_TEMPLATE, "there is no test '%s'", name);
    }
    for (size_t i = 0; i < l->n; i++) {
        const jj_val v = by_attribute ? pick(j, l->v[i], args->v[0].value, sala_jj_missing) : l->v[i];
        if (sala_jj_truth(j, test ? sala_jj_apply(j, test, "test", v, &rest) : v) == keep)
            sala_jj_push(j, out, l->v[i]);
    }
    return jj_iter_val(out);
}

static jj_val filter_select(jj *j, jj_val in, const jj_args *args)
{
    return choose(j, in, args, false, true);
}

static jj_val filter_reject(jj *j, jj_val in, const jj_args *args)
{
    return choose(j, in, args, false, false);
}

static jj_val filter_selectattr(jj *j, jj_val in, const jj_args *args)
{
    return choose(j, in, args, true, true);
}

static jj_val filter_rejectattr(jj *j, jj_val in, const jj_args *args)
{
    return choose(j, in, args, true, false);
}

/* ---- parts of sequences ---- */

static jj_val filter_first(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    if (in.kind == JJ_STR && in.u.s->bytes)
        return sala_jj_getitem(j, in, jj_int(0));
    if (in.kind == JJ_ITER) { /* takes one item and leaves the others */
        if (in.u.l->used < in.u.l->n)
            return in.u.l->v[in.u.l->used++];
        return sala_jj_undefined_hint(j, "the sequence is empty: it has no first item");
    }
    const jj_list *l = sala_jj_items(j, in);
    return l->n ? l->v[0] : sala_jj_undefined_hint(j, "the sequence is empty: it has no first item");
}

static jj_val filter_last(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    if (in.kind == JJ_STR && in.u.s->bytes)
        return sala_jj_getitem(j, in, jj_int(-1));
    if (in.kind == JJ_ITER)
        sala_jj_fail(j, SALA_E_TEMPLATE, "last needs a sequence; make one of a %s by the filter list",
                     sala_jj_type_name(in));
    const jj_list *l = sala_jj_items(j, in);
    return l->n ? l->v[l->n - 1] : sala_jj_undefined_hint(j, "the sequence is empty: it has no last item");
}

static jj_val filter_length(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    const int64_t n = in.kind == JJ_LOOP || in.kind < JJ_ITER ? sala_jj_length(j, in) : -1;
    if (n < 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "a %s has no length", sala_jj_type_name(in));
    return jj_int(n);
}

static jj_list *copy_of(jj *j, const jj_list *l)
{
    jj_list *out = sala_jj_list_new(j, l->n);
    for (size_t i = 0; i < l->n; i++)
        sala_jj_push(j, out, l->v[i]);
    out->input = l->input;
    sala_jj_step(j, l->n);
    return out;
}

static jj_val filter_list(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    return jj_list_val(copy_of(j, sala_jj_items(j, in)));
}

static jj_val filter_items(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    if (in.kind == JJ_UNDEFINED)
        return jj_iter_val(sala_jj_list_new(j, 0));
    if (in.kind != JJ_DICT)
        sala_jj_fail(j, SALA_E_TEMPLATE, "items needs a mapping, found %s", sala_jj_type_name(in));
    jj_list *l = sala_jj_list_new(j, in.u.d->n);
    for (size_t i = 0; i < in.u.d->n; i++)
        sala_jj_push(j, l, sala_jj_tuple2(j, in.u.d->v[i].key, in.u.d->v[i].value));
    return jj_iter_val(l);
}

static jj_val filter_reverse(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    if (in.kind == JJ_STR)
        return sala_jj_slice(j, in, sala_jj_missing, sala_jj_missing, jj_int(-1));
    jj_list *l = copy_of(j, sala_jj_items(j, in));
    for (size_t i = 0; i < l->n / 2; i++) {
        const jj_val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
    return in.kind == JJ_ITER ? jj_list_val(l) : jj_iter_val(l);
}

static jj_val filter_slice(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    const int64_t n = sala_jj_want_int(j, a[0], 0, "the number of slices");
    if (n == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "division by zero");
    jj_list *out = sala_jj_list_new(j, 0);
    const int64_t each = (int64_t)l->n / (n > 0 ? n : 1), more = (int64_t)l->n % (n > 0 ? n : 1);
    size_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        jj_list *part = sala_jj_list_new(j, 0);
        sala_jj_step(j, 1);
        for (int64_t k = 0; k < each + (i < more); k++)
            sala_jj_push(j, part, l->v[at++]);
        if (given(a[1]) && a[1].kind != JJ_NONE && i >= more)
            sala_jj_push(j, part, a[1]);
        sala_jj_push(j, out, jj_list_val(part));
    }
    return jj_iter_val(out);
}

static jj_val filter_batch(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    const int64_t n = sala_jj_want_int(j, a[0], 0, "the size of a batch");
    jj_list *out = sala_jj_list_new(j, 0), *part = NULL;
    for (size_t i = 0; i < l->n; i++) {
        if (!part || (int64_t)part->n == n) {
            if (part || n == 0)
                sala_jj_push(j, out, jj_list_val(part ? part : sala_jj_list_new(j, 0)));
            part = sala_jj_list_new(j, 0);
        }
        sala_jj_push(j, part, l->v[i]);
    }
    if (part) {
        while (given(a[1]) && a[1].kind != JJ_NONE && (int64_t)part->n < n) {
            sala_jj_step(j, 1);
            sala_jj_push(j, part, a[1]);
        }
        sala_jj_push(j, out, jj_list_val(part));
    }
    return jj_iter_val(out);
}

static jj_val filter_join(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    const jj_str *by = given(a[0]) ? sala_jj_to_str(j, a[0]) : sala_jj_lit(j, "").u.s;
    jj_builder b = {.j = j};
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            sala_jj_put_str(&b, by);
        sala_jj_put_val(&b, pick(j, l->v[i], a[1], sala_jj_missing));
        sala_jj_step(j, 1);
    }
    return jj_finish_val(&b);
}

static jj_val filter_sum(jj *j, jj_val in, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, in);
    jj_val sum = given(a[1]) ? a[1] : jj_int(0);
    if (sum.kind == JJ_STR)
        sala_jj_fail(j, SALA_E_TEMPLATE, "sum does not add strings; use the filter join");
    for (size_t i = 0; i < l->n; i++)
        sum = sala_jj_binary(j, JT_ADD, sum, pick(j, l->v[i], a[0], sala_jj_missing));
    return sum;
}

static jj_val filter_default(jj *j, jj_val in, const jj_val *a)
{
    if (in.kind == JJ_UNDEFINED || (flag(j, a[1]) && !sala_jj_truth(j, in)))
        return given(a[0]) ? a[0] : sala_jj_lit(j, "");
    return in;
}

/* As obj.name, but what stands in a mapping under that name does not count. */
static jj_val filter_attr(jj *j, jj_val in, const jj_val *a)
{
    const jj_str *s = sala_jj_to_str(j, a[0]);
    const char *name = sala_jj_text(j, s->data, s->bytes);
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (in.kind == JJ_DICT) {
        const jj_val empty = {.kind = JJ_DICT, .u.d = sala_jj_dict_new(j, 0)};
        jj_val v = sala_jj_getattr(j, empty, name);
        if (v.kind == JJ_METHOD)
            v.u.bound->self = in;
        return v;
    }
    return sala_jj_getattr(j, in, name);
}

/* ---- numbers ---- */

static jj_val filter_abs(jj *j, jj_val in, const jj_val *a)
{
    int64_t i;
    (void)a;
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (in.kind == JJ_FLOAT)
        return jj_float(fabs(in.u.f));
    if (!sala_jj_is_int(in, &i))
        sala_jj_fail(j, SALA_E_TEMPLATE, "abs needs a number, found %s", sala_jj_type_name(in));
    if (i == INT64_MIN)
        sala_jj_fail(j, SALA_E_LIMIT, "an integer beyond 64 bits");
    return jj_int(i < 0 ? -i : i);
}

static bool text_to_float(const jj_str *s, double *out)
{
    char text[128];
    size_t n = 0, from = 0, to = s->bytes;
    while (from < to && sala_jj_is_space((unsigned char)s->data[from]))
        from++;
    while (to > from && sala_jj_is_space((unsigned char)s->data[to - 1]))
        to--;
    if (to - from >= sizeof text)
        return false;
    for (size_t i = from; i < to; i++) {
        const char c = s->data[i];
        const bool digits = i > from && i + 1 < to && s->data[i - 1] >= '0' && s->data[i - 1] <= '9' &&
                            s->data[i + 1] >= '0' && s->data[i + 1] <= '9';
        if (c == '_' && digits)
            continue;
        text[n++] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    }
    text[n] = 0;
    const char *p = text + (*text == '-' || *text == '+');
    if (strcmp(p, "inf") == 0 || strcmp(p, "infinity") == 0) {
        *out = *text == '-' ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    if (strcmp(p, "nan") == 0) {
        *out = (double)NAN;
        return true;
    }
    return n > 0 && strspn(p, "0123456789.e+-") == strlen(p) && sala_jj_parse_float(text, n, out);
}

static jj_val float_to_int(jj *j, double f, jj_val otherwise)
{
    if (!isfinite(f))
        return otherwise;
    if (!(fabs(f) < 9.2e18))
        sala_jj_fail(j, SALA_E_LIMIT, "an integer beyond 64 bits");
    return jj_int((int64_t)f);
}

static jj_val filter_int(jj *j, jj_val in, const jj_val *a)
{
    const jj_val otherwise = given(a[0]) ? a[0] : jj_int(0);
    int64_t i;
    double f;
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (sala_jj_is_int(in, &i))
        return jj_int(i);
    if (in.kind == JJ_FLOAT)
        return float_to_int(j, in.u.f, otherwise);
    if (in.kind != JJ_STR)
        return otherwise;
    if (sala_jj_parse_int(in.u.s->data, in.u.s->bytes, (int)sala_jj_want_int(j, a[1], 10, "the base of int"), &i))
        return jj_int(i);
    return text_to_float(in.u.s, &f) ? float_to_int(j, f, otherwise) : otherwise;
}

static jj_val filter_float(jj *j, jj_val in, const jj_val *a)
{
    double f;
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (sala_jj_is_number(in, &f) || (in.kind == JJ_STR && text_to_float(in.u.s, &f)))
        return jj_float(f);
    return given(a[0]) ? a[0] : jj_float(0);
}

static jj_val filter_round(jj *j, jj_val in, const jj_val *a)
{
    const int64_t digits = sala_jj_want_int(j, a[0], 0, "the precision of round");
    const jj_str *method =
        given(a[1]) ? sala_jj_want_str(j, a[1], "the method of round") : sala_jj_lit(j, "common").u.s;
    double f;
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (!sala_jj_is_number(in, &f))
        sala_jj_fail(j, SALA_E_TEMPLATE, "round needs a number, found %s", sala_jj_type_name(in));
    if (digits > 300 || digits < -300)
        sala_jj_fail(j, SALA_E_LIMIT, "round to %lld digits", (long long)digits);
    if (sala_jj_is(method, "ceil") || sala_jj_is(method, "floor")) {
        const double scale = pow(10, (double)digits), x = f * scale;
        if (!isfinite(x))
            sala_jj_fail(j, SALA_E_TEMPLATE, "round of a number that is not finite");
        return jj_float(((sala_jj_is(method, "ceil") ? ceil(x) : floor(x)) + 0.0) /
                        scale); /* + 0.0: no negative zero */
    }
    if (!sala_jj_is(method, "common"))
        sala_jj_fail(j, SALA_E_TEMPLATE, "round knows the methods common, ceil and floor");
    if (in.kind != JJ_FLOAT) {
        int64_t i = 0, unit = 1;
        sala_jj_is_int(in, &i);
        if (digits >= 0)
            return jj_int(i);
        for (int64_t k = digits; k < 0; k++)
            if (__builtin_mul_overflow(unit, 10, &unit) || unit > INT64_MAX / 4)
                return jj_int(0);
        int64_t rest = i % unit, half = unit / 2; /* to the nearest, a half to the even one */
        if (rest < 0)
            rest += unit;
        i -= rest;
        return jj_int(rest > half || (rest == half && (i / unit) % 2 != 0) ? i + unit : i);
    }
    if (!isfinite(f))
        return in;
    char text[700];
    if (digits >= 0) {
        /* printf rounds the exact value, half to even: what Python's round() does. */
        const int n = snprintf(text, sizeof text, "%.*f", (int)digits, f);
        for (int i = 0; i < n; i++)
            if (text[i] == ',')
                text[i] = '.';
        double r;
        return n < 300 && sala_jj_parse_float(text, (size_t)n, &r) ? jj_float(r) : in;
    }
    const double unit = pow(10, (double)-digits), q = f / unit;
    double r = round(q);
    if (fabs(q - r) == 0.5)
        r = 2.0 * round(q / 2.0);
    return jj_float(r * unit);
}

static const char *const size_units[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                             {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};

static jj_val filter_filesizeformat(jj *j, jj_val in, const jj_val *a)
{
    double bytes;
    char text[64];
    const bool binary = flag(j, a[0]);
    const double base = binary ? 1024 : 1000;
    if (!sala_jj_is_number(in, &bytes) && !(in.kind == JJ_STR && text_to_float(in.u.s, &bytes)))
        sala_jj_fail(j, SALA_E_TEMPLATE, "filesizeformat needs a number, found %s", sala_jj_type_name(in));
    if (bytes == 1) {
        snprintf(text, sizeof text, "1 Byte");
    } else if (!(bytes >= base)) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes));
    } else {
        double unit = base * base;
        int i = 0;
        for (; i < 7 && bytes >= unit; i++)
            unit *= base;
        snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, size_units[binary][i]);
    }
    return jj_str_val(sala_jj_str_of(j, sala_jj_text(j, text, strlen(text)), strlen(text), false));
}

static const jj_callable filters[] = {
    {"abs", "", filter_abs, NULL},
    {"attr", "name", filter_attr, NULL},
    {"batch", "linecount fill_with?", filter_batch, NULL},
    {"capitalize", "", sala_jj_filter_capitalize, NULL},
    {"center", "width?", sala_jj_filter_center, NULL},
    {"count", "", filter_length, NULL},
    {"d", "default_value? boolean?", filter_default, NULL},
    {"default", "default_value? boolean?", filter_default, NULL},
    {"dictsort", "case_sensitive? by? reverse?", filter_dictsort, NULL},
    {"e", "", sala_jj_filter_escape, NULL},
    {"escape", "", sala_jj_filter_escape, NULL},
    {"filesizeformat", "binary?", filter_filesizeformat, NULL},
    {"first", "", filter_first, NULL},
    {"float", "default?", filter_float, NULL},
    {"forceescape", "", sala_jj_filter_forceescape, NULL},
    {"format", NULL, NULL, sala_jj_filter_format},
    {"groupby", "attribute default? case_sensitive?", filter_groupby, NULL},
    {"indent", "width? first? blank?", sala_jj_filter_indent, NULL},
    {"int", "default? base?", filter_int, NULL},
    {"items", "", filter_items, NULL},
    {"join", "d? attribute?", filter_join, NULL},
    {"last", "", filter_last, NULL},
    {"length", "", filter_length, NULL},
    {"list", "", filter_list, NULL},
    {"lower", "", sala_jj_filter_lower, NULL},
    {"map", NULL, NULL, filter_map},
    {"max", "case_sensitive? attribute?", filter_max, NULL},
    {"min", "case_sensitive? attribute?", filter_min, NULL},
    {"reject", NULL, NULL, filter_reject},
    {"rejectattr", NULL, NULL, filter_rejectattr},
    {"replace", "old new count?", sala_jj_filter_replace, NULL},
    {"reverse", "", filter_reverse, NULL},
    {"round", "precision? method?", filter_round, NULL},
    {"safe", "", sala_jj_filter_safe, NULL},
    {"select", NULL, NULL, filter_select},
    {"selectattr", NULL, NULL, filter_selectattr},
    {"slice", "slices fill_with?", filter_slice, NULL},
    {"sort", "reverse? case_sensitive? attribute?", filter_sort, NULL},
    {"string", "", sala_jj_filter_string, NULL},
    {"striptags", "", sala_jj_filter_striptags, NULL},
    {"sum", "attribute? start?", filter_sum, NULL},
    {"title", "", sala_jj_filter_title, NULL},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", sala_jj_tojson, NULL},
    {"trim", "chars?", sala_jj_filter_trim, NULL},
    {"truncate", "length? killwords? end? leeway?", sala_jj_filter_truncate, NULL},
    {"unique", "case_sensitive? attribute?", filter_unique, NULL},
    {"upper", "", sala_jj_filter_upper, NULL},
    {"urlencode", "", sala_jj_filter_urlencode, NULL},
    {"wordcount", "", sala_jj_filter_wordcount, NULL},
    {"wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", sala_jj_filter_wordwrap, NULL},
    {"xmlattr", "autospace?", sala_jj_filter_xmlattr, NULL},
};

const jj_callable *sala_jj_find_filter(const char *name)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(filters); i++)
        if (strcmp(filters[i].name, name) == 0)
            return &filters[i];
    return NULL;
}
