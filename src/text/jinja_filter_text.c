/* The filters that make text of text. */
#include "text/jinja_filter.h"

#include <stdio.h>
#include <utf8proc.h>

/* What is made of markup by these filters stays markup. The result is a new string or the old one itself. */
static jj_val as_markup_as(jj_val in, jj_val out)
{
    if (in.kind == JJ_STR && in.u.s->markup)
        out.u.s->markup = true;
    return out;
}

static jj_val text_of(jj *j, jj_val v)
{
    return jj_str_val(sala_jj_to_str(j, v));
}

jj_val sala_jj_filter_capitalize(jj *j, jj_val in, const jj_val *a)
{
    return as_markup_as(in, sala_jj_str_capitalize(j, text_of(j, in), a));
}

jj_val sala_jj_filter_lower(jj *j, jj_val in, const jj_val *a)
{
    return as_markup_as(in, sala_jj_str_lower(j, text_of(j, in), a));
}

jj_val sala_jj_filter_upper(jj *j, jj_val in, const jj_val *a)
{
    return as_markup_as(in, sala_jj_str_upper(j, text_of(j, in), a));
}

jj_val sala_jj_filter_trim(jj *j, jj_val in, const jj_val *a)
{
    return sala_jj_str_strip(j, text_of(j, in), a);
}

jj_val sala_jj_filter_string(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    return text_of(j, in);
}

jj_val sala_jj_filter_center(jj *j, jj_val in, const jj_val *a)
{
    const jj_val args[2] = {a[0].kind == JJ_MISSING ? jj_int(80) : a[0], sala_jj_missing};
    return as_markup_as(in, sala_jj_str_center(j, text_of(j, in), args));
}

jj_val sala_jj_filter_replace(jj *j, jj_val in, const jj_val *a)
{
    const jj_val args[3] = {text_of(j, a[0]), text_of(j, a[1]), a[2]};
    return sala_jj_str_replace(j, text_of(j, in), args);
}

jj_val sala_jj_filter_format(jj *j, jj_val in, const jj_args *args)
{
    if (args->n_pos && args->n > args->n_pos)
        sala_jj_fail(j, SALA_E_TEMPLATE, "format takes values or named values, not both");
    if (args->n > args->n_pos) {
        jj_dict *d = sala_jj_dict_new(j, args->n);
        for (size_t i = 0; i < args->n; i++)
            sala_jj_dict_set(j, d, sala_jj_lit(j, args->v[i].name), args->v[i].value);
        return jj_str_val(sala_jj_percent(j, sala_jj_to_str(j, in), (jj_val){.kind = JJ_DICT, .u.d = d}));
    }
    jj_list *l = sala_jj_list_new(j, args->n);
    for (size_t i = 0; i < args->n; i++)
        sala_jj_push(j, l, args->v[i].value);
    return jj_str_val(sala_jj_percent(j, sala_jj_to_str(j, in), (jj_val){.kind = JJ_TUPLE, .u.l = l}));
}

jj_val sala_jj_filter_title(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    const jj_str *s = sala_jj_to_str(j, in);
    jj_builder b = {.j = j};
    size_t from = 0;
    /* A word reaches up to a run of these; each word is capitalised as a whole. */
    for (size_t at = 0, n = 0; at <= s->bytes; at += n) {
        const uint32_t cp = at < s->bytes ? sala_jj_cp(s, at, &n) : ' ';
        if (cp != '-' && cp != '(' && cp != '{' && cp != '[' && cp != '<' && !sala_jj_is_space(cp))
            continue;
        if (at > from) {
            size_t first;
            sala_jj_cp(s, from, &first);
            sala_jj_put_str(&b, sala_jj_str_upper(j, jj_str_val(sala_jj_sub(j, s, from, first)), NULL).u.s);
            sala_jj_put_str(
                &b, sala_jj_str_lower(j, jj_str_val(sala_jj_sub(j, s, from + first, at - from - first)), NULL).u.s);
        }
        if (at >= s->bytes)
            break;
        sala_jj_put_sub(&b, s, at, n);
        from = at + n;
    }
    return jj_finish_val(&b);
}

/* ---- markup ---- */

jj_val sala_jj_escape(jj *j, jj_val v, bool even_markup)
{
    const jj_str *s = sala_jj_to_str(j, v);
    if (s->markup && !even_markup)
        return jj_str_val((jj_str *)(uintptr_t)s);
    jj_builder b = {.j = j};
    size_t run = 0;
    for (size_t at = 0; at < s->bytes; at++) {
        const char *text = NULL;
        switch (s->data[at]) {
        case '&':
            text = "&amp;";
            break;
        case '<':
            text = "&lt;";
            break;
        case '>':
            text = "&gt;";
            break;
        case '\'':
            text = "&#39;";
            break;
        case '"':
            text = "&#34;";
            break;
        default:
            continue;
        }
        sala_jj_put_sub(&b, s, run, at - run);
        sala_jj_put_lit(&b, text, sala_jj_is_input(s, at));
        run = at + 1;
    }
    sala_jj_put_sub(&b, s, run, s->bytes - run);
    jj_str *out = sala_jj_finish(&b);
    out->markup = true;
    return jj_str_val(out);
}

jj_val sala_jj_filter_escape(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    return sala_jj_escape(j, in, false);
}

jj_val sala_jj_filter_forceescape(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    return sala_jj_escape(j, in, true);
}

jj_val sala_jj_filter_safe(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    const jj_str *s = sala_jj_to_str(j, in);
    jj_str *out = sala_jj_sub(j, s, 0, s->bytes);
    out->markup = true;
    return jj_str_val(out);
}

jj_val sala_jj_filter_striptags(jj *j, jj_val in, const jj_val *a)
{
    static const struct {
        const char *name, *text;
    } entities[] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#39;", "'"}, {"&#34;", "\""}};
    (void)a;
    const jj_str *s = sala_jj_to_str(j, in);
    jj_builder b = {.j = j};
    for (size_t at = 0; at < s->bytes; at++) { /* comments first: they may hold tags */
        const bool comment = s->bytes - at >= 4 && memcmp(s->data + at, "<!--", 4) == 0;
        const jj_val what = sala_jj_lit(j, comment ? "-->" : ">");
        const size_t end = s->data[at] == '<' ? sala_jj_find(j, s, at + (comment ? 4 : 1), what.u.s) : SIZE_MAX;
        if (end == SIZE_MAX) {
            sala_jj_put_sub(&b, s, at, 1);
            continue;
        }
        at = end + what.u.s->bytes - 1;
    }
    const jj_list *words =
        sala_jj_items(j, sala_jj_call(j, sala_jj_getattr(j, jj_finish_val(&b), "split"), &(jj_args){0}));
    jj_builder out = {.j = j};
    for (size_t i = 0; i < words->n; i++) {
        const jj_str *w = words->v[i].u.s;
        if (i)
            sala_jj_put_lit(&out, " ", false);
        for (size_t at = 0; at < w->bytes;) {
            size_t k = 0;
            while (k < SALA_ARRAY_LEN(entities) &&
                   (w->bytes - at < strlen(entities[k].name) ||
                    memcmp(w->data + at, entities[k].name, strlen(entities[k].name)) != 0))
                k++;
            if (k < SALA_ARRAY_LEN(entities)) {
                sala_jj_put_lit(&out, entities[k].text, sala_jj_is_input(w, at));
                at += strlen(entities[k].name);
            } else {
                sala_jj_put_sub(&out, w, at++, 1);
            }
        }
    }
    return jj_finish_val(&out);
}

jj_val sala_jj_filter_xmlattr(jj *j, jj_val in, const jj_val *a)
{
    if (in.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, in);
    if (in.kind != JJ_DICT)
        sala_jj_fail(j, SALA_E_TEMPLATE, "xmlattr needs a mapping, found %s", sala_jj_type_name(in));
    const bool space = a[0].kind == JJ_MISSING || sala_jj_truth(j, a[0]);
    jj_builder b = {.j = j};
    for (size_t i = 0; i < in.u.d->n; i++) {
        const jj_val value = in.u.d->v[i].value;
        if (value.kind == JJ_NONE || value.kind == JJ_UNDEFINED)
            continue;
        const jj_str *key = sala_jj_want_str(j, in.u.d->v[i].key, "the name of an attribute");
        for (size_t k = 0; k < key->bytes; k++)
            if (strchr(" \t\n\r\f\v/>=", key->data[k]))
                sala_jj_fail(j, SALA_E_TEMPLATE, "'%.*s' cannot be the name of an attribute", jj_clip(key->bytes),
                             key->data);
        if (b.len || space)
            sala_jj_put_lit(&b, " ", false);
        sala_jj_put_str(&b, sala_jj_escape(j, in.u.d->v[i].key, false).u.s);
        sala_jj_put_lit(&b, "=\"", false);
        sala_jj_put_str(&b, sala_jj_escape(j, value, false).u.s);
        sala_jj_put_lit(&b, "\"", false);
    }
    return jj_finish_val(&b);
}

static void put_quoted(jj_builder *b, const jj_str *s, bool query)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~";
    for (size_t at = 0; at < s->bytes; at++) {
        const char c = s->data[at];
        char text[4];
        if (c && (strchr(plain, c) || (c == '/' && !query)))
            sala_jj_put_sub(b, s, at, 1);
        else if (c == ' ' && query)
            sala_jj_put_lit(b, "+", sala_jj_is_input(s, at));
        else {
            snprintf(text, sizeof text, "%%%02X", (unsigned char)c);
            sala_jj_put_lit(b, text, sala_jj_is_input(s, at));
        }
    }
}

jj_val sala_jj_filter_urlencode(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    jj_builder b = {.j = j};
    if (in.kind == JJ_STR || !sala_jj_iterable(in)) {
        put_quoted(&b, sala_jj_to_str(j, in), false);
        return jj_finish_val(&b);
    }
    const jj_list *l = in.kind == JJ_DICT
                           ? sala_jj_items(j, sala_jj_call(j, sala_jj_getattr(j, in, "items"), &(jj_args){0}))
                           : sala_jj_items(j, in);
    for (size_t i = 0; i < l->n; i++) {
        const jj_list *pair = sala_jj_items(j, l->v[i]);
        if (pair->n != 2)
            sala_jj_fail(j, SALA_E_TEMPLATE, "urlencode needs pairs, found %zu items", pair->n);
        if (i)
            sala_jj_put_lit(&b, "&", false);
        put_quoted(&b, sala_jj_to_str(j, pair->v[0]), true);
        sala_jj_put_lit(&b, "=", false);
        put_quoted(&b, sala_jj_to_str(j, pair->v[1]), true);
    }
    return jj_finish_val(&b);
}

/* ---- lines and words ---- */

jj_val sala_jj_filter_indent(jj *j, jj_val in, const jj_val *a)
{
    const jj_str *s = sala_jj_want_str(j, in, "what indent works on");
    const bool first = a[1].kind != JJ_MISSING && sala_jj_truth(j, a[1]);
    const bool blank = a[2].kind != JJ_MISSING && sala_jj_truth(j, a[2]);
    const jj_str *by;
    if (a[0].kind == JJ_STR) {
        by = a[0].u.s;
    } else {
        jj_builder spaces = {.j = j};
        sala_jj_put_fill(&spaces, ' ', sala_jj_want_int(j, a[0], 4, "the width of indent"));
        by = sala_jj_finish(&spaces);
    }
    jj_builder whole = {.j = j};
    sala_jj_put_str(&whole, s);
    sala_jj_put_lit(&whole, "\n", false);
    const jj_list *lines = sala_jj_str_lines(j, sala_jj_finish(&whole), false);
    jj_builder b = {.j = j};
    if (first)
        sala_jj_put_str(&b, by);
    for (size_t i = 0; i < lines->n; i++) {
        const jj_str *line = lines->v[i].u.s;
        if (i) {
            sala_jj_put_lit(&b, "\n", false);
            if (blank || line->bytes)
                sala_jj_put_str(&b, by);
        }
        sala_jj_put_str(&b, line);
    }
    return as_markup_as(in, jj_finish_val(&b));
}

jj_val sala_jj_filter_truncate(jj *j, jj_val in, const jj_val *a)
{
    const int64_t length = sala_jj_want_int(j, a[0], 255, "the length of truncate");
    const int64_t leeway = sala_jj_want_int(j, a[3], 5, "the leeway of truncate");
    const jj_str *end =
        a[2].kind == JJ_MISSING ? sala_jj_lit(j, "...").u.s : sala_jj_want_str(j, a[2], "the end of truncate");
    if (in.kind == JJ_UNDEFINED)
        return in;
    const jj_str *s = sala_jj_want_str(j, in, "what truncate works on");
    if (length < (int64_t)end->chars || leeway < 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "truncate to %lld characters has no room for its end", (long long)length);
    if ((int64_t)s->chars <= length || (int64_t)s->chars - length <= leeway)
        return in;
    size_t to = sala_jj_byte_at(s, (size_t)length - end->chars);
    if (!(a[1].kind != JJ_MISSING && sala_jj_truth(j, a[1]))) {
        size_t space = to;
        while (space > 0 && s->data[space - 1] != ' ')
            space--;
        if (space > 0)
            to = space - 1;
    }
    jj_builder b = {.j = j};
    sala_jj_put_sub(&b, s, 0, to);
    sala_jj_put_str(&b, end);
    return jj_finish_val(&b);
}

static bool word_char(uint32_t cp)
{
    if (cp < 128)
        return cp == '_' || (cp >= '0' && cp <= '9') || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z');
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

jj_val sala_jj_filter_wordcount(jj *j, jj_val in, const jj_val *a)
{
    (void)a;
    const jj_str *s = sala_jj_to_str(j, in);
    int64_t n = 0;
    bool inside = false;
    for (size_t at = 0, len; at < s->bytes; at += len) {
        const bool word = word_char(sala_jj_cp(s, at, &len));
        n += word && !inside;
        inside = word;
    }
    sala_jj_step(j, s->chars / 4);
    return jj_int(n);
}

static bool wrap_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The next piece that wrapping keeps whole: white space, or a word, which a hyphen between letters ends. */
static size_t wrap_piece(const jj_str *s, size_t at, bool hyphens)
{
    size_t p = at, n;
    if (wrap_space(s->data[p])) {
        while (p < s->bytes && wrap_space(s->data[p]))
            p++;
        return p;
    }
    for (; p < s->bytes && !wrap_space(s->data[p]); p += n) {
        sala_jj_cp(s, p, &n);
        if (!hyphens || s->data[p] != '-' || p < at + 2 || p + 2 >= s->bytes)
            continue;
        const bool before = word_char((unsigned char)s->data[p - 1]) && word_char((unsigned char)s->data[p - 2]);
        const bool behind = word_char(sala_jj_cp(s, p + 1, &n)) && word_char((unsigned char)s->data[p + 2]);
        n = 1;
        if (before && behind)
            return p + 1;
    }
    return p;
}

static void wrap_line(jj_builder *b, const jj_str *s, int64_t width, bool break_long, bool hyphens, const jj_str *by)
{
    jj *j = b->j;
    bool any = false;
    for (size_t at = 0; at < s->bytes;) {
        sala_jj_step(j, 1);
        if (any) /* a line never begins with white space, but the first one may */
            while (at < s->bytes && wrap_space(s->data[at]))
                at++;
        size_t end = at, last_word = at;
        int64_t used = 0;
        while (end < s->bytes) {
            const size_t next = wrap_piece(s, end, hyphens);
            const int64_t n = (int64_t)sala_jj_sub(j, s, end, next - end)->chars;
            if (used + n > width)
                break;
            used += n;
            if (!wrap_space(s->data[end]))
                last_word = next;
            end = next;
        }
        if (end < s->bytes && !wrap_space(s->data[end]) && last_word == at) {
            const size_t next = wrap_piece(s, end, hyphens);
            const int64_t n = (int64_t)sala_jj_sub(j, s, end, next - end)->chars;
            if (n > width) { /* a word that fits no line */
                const jj_str *rest = sala_jj_sub(j, s, end, next - end);
                const int64_t room = sala_max_i64(width - used, 1);
                end = break_long ? end + sala_jj_byte_at(rest, (size_t)room) : used ? end : next;
                last_word = end;
            }
        } else if (end < s->bytes && !wrap_space(s->data[end]) && break_long) {
            const size_t next = wrap_piece(s, end, hyphens);
            const jj_str *rest = sala_jj_sub(j, s, end, next - end);
            if ((int64_t)rest->chars > width && used < width) {
                end += sala_jj_byte_at(rest, (size_t)(width - used));
                last_word = end;
            }
        }
        if (last_word > at) {
            if (any)
                sala_jj_put_str(b, by);
            sala_jj_put_sub(b, s, at, last_word - at);
            any = true;
        } else if (end == at && at < s->bytes) {
            end = wrap_piece(s, at, hyphens);
        }
        at = end;
    }
}

jj_val sala_jj_filter_wordwrap(jj *j, jj_val in, const jj_val *a)
{
    const jj_str *s = sala_jj_want_str(j, in, "what wordwrap works on");
    const int64_t width = sala_jj_want_int(j, a[0], 79, "the width of wordwrap");
    const bool break_long = a[1].kind == JJ_MISSING || sala_jj_truth(j, a[1]);
    const bool hyphens = a[3].kind == JJ_MISSING || sala_jj_truth(j, a[3]);
    const jj_str *by = a[2].kind == JJ_MISSING || a[2].kind == JJ_NONE
                           ? sala_jj_lit(j, "\n").u.s
                           : sala_jj_want_str(j, a[2], "the string of wordwrap");
    if (width <= 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "wordwrap to %lld characters", (long long)width);
    const jj_list *lines = sala_jj_str_lines(j, s, false);
    jj_builder b = {.j = j};
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            sala_jj_put_str(&b, by);
        wrap_line(&b, lines->v[i].u.s, width, break_long, hyphens, by);
    }
    return jj_finish_val(&b);
}
