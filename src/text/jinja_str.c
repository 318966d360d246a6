/* The methods of strings. Positions and counts are in code points; the results keep the origin of every byte. */
#include "text/jinja_core.h"

#include <utf8proc.h>

/* ---- case ---- */

/* The mappings of one character to several that Unicode has for lower-case letters in common use. */
static const struct {
    uint32_t cp, upper[3], title[3];
} special_upper[] = {
    {0xDF, {'S', 'S'}, {'S', 's'}},
    {0x149, {0x2BC, 'N'}, {0x2BC, 'N'}},
    {0x1F0, {'J', 0x30C}, {'J', 0x30C}},
    {0x587, {0x535, 0x552}, {0x535, 0x582}},
    {0xFB00, {'F', 'F'}, {'F', 'f'}},
    {0xFB01, {'F', 'I'}, {'F', 'i'}},
    {0xFB02, {'F', 'L'}, {'F', 'l'}},
    {0xFB03, {'F', 'F', 'I'}, {'F', 'f', 'i'}},
    {0xFB04, {'F', 'F', 'L'}, {'F', 'f', 'l'}},
    {0xFB05, {'S', 'T'}, {'S', 't'}},
    {0xFB06, {'S', 'T'}, {'S', 't'}},
};

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

static bool is_letter(uint32_t cp)
{
    if (cp < 128)
        return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
    const utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_upper(uint32_t cp)
{
    return cp < 128 ? cp >= 'A' && cp <= 'Z'
                    : category(cp) == UTF8PROC_CATEGORY_LU || (cp >= 0x2160 && cp <= 0x216F) ||
                          (cp >= 0x24B6 && cp <= 0x24CF);
}

static bool is_lower(uint32_t cp)
{
    return cp < 128
               ? cp >= 'a' && cp <= 'z'
               : category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xAA || cp == 0xBA || (cp >= 0x2B0 && cp <= 0x2B8) ||
                     (cp >= 0x2170 && cp <= 0x217F) || (cp >= 0x24D0 && cp <= 0x24E9);
}

static bool is_cased(uint32_t cp)
{
    return is_upper(cp) || is_lower(cp) || category(cp) == UTF8PROC_CATEGORY_LT;
}

uint32_t sala_jj_title_cp(uint32_t cp)
{
    return (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
}

static void put_upper(jj_builder *b, uint32_t cp, bool title, bool input)
{
    for (size_t i = 0; cp >= 128 && i < SALA_ARRAY_LEN(special_upper); i++) {
        if (special_upper[i].cp != cp)
            continue;
        const uint32_t *to = title ? special_upper[i].title : special_upper[i].upper;
        for (int k = 0; k < 3 && to[k]; k++)
            sala_jj_put_cp(b, to[k], input);
        return;
    }
    sala_jj_put_cp(b, title ? sala_jj_title_cp(cp) : (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp), input);
}

static bool ignorable(uint32_t cp)
{
    const utf8proc_category_t c = category(cp);
    return cp == '\'' || cp == '.' || cp == ':' || cp == '^' || cp == '`' || cp == 0xB7 || cp == 0x2019 ||
           c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK;
}

/* A sigma is final when a cased letter stands before it and none behind it. */
static bool final_sigma(const jj_str *s, size_t at, size_t len)
{
    bool before = false;
    size_t n;
    for (size_t p = at; p > 0;) {
        do
            p--;
        while (p > 0 && ((unsigned char)s->data[p] & 0xC0) == 0x80);
        const uint32_t cp = sala_jj_cp(s, p, &n);
        if (!ignorable(cp)) {
            before = is_cased(cp);
            break;
        }
    }
    for (size_t p = at + len; before && p < s->bytes; p += n) {
        const uint32_t cp = sala_jj_cp(s, p, &n);
        if (!ignorable(cp))
            return !is_cased(cp);
    }
    return before;
}

static void put_lower(jj_builder *b, const jj_str *s, size_t at, uint32_t cp, size_t len)
{
    const bool input = sala_jj_is_input(s, at);
    if (cp == 0x130) {
        sala_jj_put_cp(b, 'i', input);
        sala_jj_put_cp(b, 0x307, input);
    } else if (cp == 0x3A3) {
        sala_jj_step(b->j, s->bytes / 64);
        sala_jj_put_cp(b, final_sigma(s, at, len) ? 0x3C2 : 0x3C3, input);
    } else {
        sala_jj_put_cp(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), input);
    }
}

jj_val sala_jj_str_upper(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        put_upper(&b, cp, false, sala_jj_is_input(s, at));
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

jj_val sala_jj_str_lower(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        put_lower(&b, s, at, cp, n);
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

jj_val sala_jj_str_capitalize(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (at == 0)
            put_upper(&b, cp, true, sala_jj_is_input(s, at));
        else
            put_lower(&b, s, at, cp, n);
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

static jj_val str_title(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    bool inside = false;
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (inside)
            put_lower(&b, s, at, cp, n);
        else
            put_upper(&b, cp, true, sala_jj_is_input(s, at));
        inside = is_cased(cp);
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

static jj_val str_casefold(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        utf8proc_int32_t to[8];
        int boundary = 0;
        const uint32_t cp = sala_jj_cp(s, at, &n);
        const utf8proc_ssize_t count =
            utf8proc_decompose_char((utf8proc_int32_t)cp, to, SALA_ARRAY_LEN(to), UTF8PROC_CASEFOLD, &boundary);
        for (utf8proc_ssize_t i = 0; i < count && i < (utf8proc_ssize_t)SALA_ARRAY_LEN(to); i++)
            sala_jj_put_cp(&b, (uint32_t)to[i], sala_jj_is_input(s, at));
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

static jj_val str_swapcase(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (is_upper(cp))
            put_lower(&b, s, at, cp, n);
        else
            put_upper(&b, cp, false, sala_jj_is_input(s, at));
    }
    sala_jj_step(j, s->chars / 4);
    return jj_finish_val(&b);
}

bool sala_jj_str_is_case(const jj_str *s, bool upper)
{
    bool any = false;
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (upper ? is_lower(cp) : is_upper(cp))
            return false;
        if (category(cp) == UTF8PROC_CATEGORY_LT)
            return false;
        any = any || (upper ? is_upper(cp) : is_lower(cp));
    }
    return any;
}

static jj_val str_isupper(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    sala_jj_step(j, self.u.s->chars / 4);
    return jj_bool(sala_jj_str_is_case(self.u.s, true));
}

static jj_val str_islower(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    sala_jj_step(j, self.u.s->chars / 4);
    return jj_bool(sala_jj_str_is_case(self.u.s, false));
}

static jj_val str_istitle(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    bool any = false, inside = false;
    sala_jj_step(j, s->chars / 4);
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        const bool upper = is_upper(cp) || category(cp) == UTF8PROC_CATEGORY_LT;
        if ((upper && inside) || (is_lower(cp) && !inside))
            return jj_bool(false);
        inside = upper || is_lower(cp);
        any = any || inside;
    }
    return jj_bool(any);
}

/* ---- kinds of characters ---- */

static bool is_decimal(uint32_t cp)
{
    return cp < 128 ? cp >= '0' && cp <= '9' : category(cp) == UTF8PROC_CATEGORY_ND;
}

static bool is_digit(uint32_t cp)
{
    return is_decimal(cp) || cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) ||
           (cp >= 0x2080 && cp <= 0x2089) || (cp >= 0x2460 && cp <= 0x2468);
}

static bool is_numeric(uint32_t cp)
{
    const utf8proc_category_t c = category(cp);
    return is_digit(cp) || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

static bool is_alnum(uint32_t cp)
{
    return is_letter(cp) || is_numeric(cp);
}

static jj_val all_are(jj *j, const jj_str *s, bool (*is)(uint32_t))
{
    sala_jj_step(j, s->chars / 4);
    for (size_t at = 0, n; at < s->bytes; at += n)
        if (!is(sala_jj_cp(s, at, &n)))
            return jj_bool(false);
    return jj_bool(s->bytes > 0);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 128;
}

#define ALL_ARE(name, is)                                                                                              \
    static jj_val name(jj *j, jj_val self, const jj_val *a)                                                            \
    {                                                                                                                  \
        (void)a;                                                                                                       \
        return all_are(j, self.u.s, is);                                                                               \
    }
ALL_ARE(str_isalpha, is_letter)
ALL_ARE(str_isdecimal, is_decimal)
ALL_ARE(str_isdigit, is_digit)
ALL_ARE(str_isnumeric, is_numeric)
ALL_ARE(str_isalnum, is_alnum)
ALL_ARE(str_isspace, sala_jj_is_space)
#undef ALL_ARE

static jj_val str_isascii(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    return self.u.s->bytes ? all_are(j, self.u.s, is_ascii) : jj_bool(true);
}

static jj_val str_isidentifier(jj *j, jj_val self, const jj_val *a)
{
    (void)a;
    const jj_str *s = self.u.s;
    sala_jj_step(j, s->chars / 4);
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (cp != '_' && !is_letter(cp) && (at == 0 || !is_decimal(cp)))
            return jj_bool(false);
    }
    return jj_bool(s->bytes > 0);
}

/* ---- stripping ---- */

static bool in_set(const jj_str *set, uint32_t cp)
{
    if (!set)
        return sala_jj_is_space(cp);
    for (size_t at = 0, n; at < set->bytes; at += n)
        if (sala_jj_cp(set, at, &n) == cp)
            return true;
    return false;
}

static jj_val strip(jj *j, jj_val self, jj_val chars, bool left, bool right)
{
    const jj_str *s = self.u.s, *set = NULL;
    if (chars.kind != JJ_MISSING && chars.kind != JJ_NONE)
        set = sala_jj_want_str(j, chars, "what strip takes away");
    size_t from = 0, to = s->bytes, n;
    while (left && from < to && in_set(set, sala_jj_cp(s, from, &n)))
        from += n;
    while (right && to > from) {
        size_t p = to - 1;
        while (p > from && ((unsigned char)s->data[p] & 0xC0) == 0x80)
            p--;
        if (!in_set(set, sala_jj_cp(s, p, &n)))
            break;
        to = p;
    }
    sala_jj_step(j, 1 + (s->bytes - (to - from)) / 8 * (set ? 1 + set->bytes / 8 : 1));
    return jj_str_val(sala_jj_sub(j, s, from, to - from));
}

jj_val sala_jj_str_strip(jj *j, jj_val self, const jj_val *a)
{
    return strip(j, self, a[0], true, true);
}

static jj_val str_lstrip(jj *j, jj_val self, const jj_val *a)
{
    return strip(j, self, a[0], true, false);
}

static jj_val str_rstrip(jj *j, jj_val self, const jj_val *a)
{
    return strip(j, self, a[0], false, true);
}

static bool begins(const jj_str *s, const jj_str *what)
{
    return what->bytes <= s->bytes && memcmp(s->data, what->data, what->bytes) == 0;
}

static bool ends(const jj_str *s, const jj_str *what)
{
    return what->bytes <= s->bytes && memcmp(s->data + s->bytes - what->bytes, what->data, what->bytes) == 0;
}

static jj_val str_removeprefix(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s, *what = sala_jj_want_str(j, a[0], "a prefix");
    return begins(s, what) ? jj_str_val(sala_jj_sub(j, s, what->bytes, s->bytes - what->bytes)) : self;
}

static jj_val str_removesuffix(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s, *what = sala_jj_want_str(j, a[0], "a suffix");
    return ends(s, what) ? jj_str_val(sala_jj_sub(j, s, 0, s->bytes - what->bytes)) : self;
}

/* ---- searching ---- */

/* The part of the string between two optional positions, as s[start:stop]; *at: its byte offset. NULL when start lies
 * behind the end, where not even the empty string is found. */
static jj_str *part(jj *j, const jj_str *s, jj_val start, jj_val stop, size_t *at)
{
    const int64_t n = (int64_t)s->chars;
    int64_t from = sala_jj_want_int(j, start, 0, "a position"), to = sala_jj_want_int(j, stop, n, "a position");
    from = from < 0 ? sala_max_i64(0, from + n) : from;
    to = to < 0 ? sala_max_i64(0, to + n) : sala_min_i64(to, n);
    if (from > n || to < from)
        return NULL;
    *at = sala_jj_byte_at(s, (size_t)from);
    const size_t end = sala_jj_byte_at(s, (size_t)to);
    sala_jj_step(j, end / 64);
    return sala_jj_sub(j, s, *at, end - *at);
}

static bool affix(jj *j, jj_val self, const jj_val *a, bool (*is)(const jj_str *, const jj_str *))
{
    size_t at;
    const jj_str *s = part(j, self.u.s, a[1], a[2], &at);
    if (a[0].kind == JJ_TUPLE) {
        for (size_t i = 0; i < a[0].u.l->n; i++)
            if (s && is(s, sala_jj_want_str(j, a[0].u.l->v[i], "a prefix or suffix")))
                return true;
        return false;
    }
    const jj_str *what = sala_jj_want_str(j, a[0], "a prefix or suffix");
    return s && is(s, what);
}

static jj_val str_startswith(jj *j, jj_val self, const jj_val *a)
{
    return jj_bool(affix(j, self, a, begins));
}

static jj_val str_endswith(jj *j, jj_val self, const jj_val *a)
{
    return jj_bool(affix(j, self, a, ends));
}

static size_t find_last(jj *j, const jj_str *s, const jj_str *what)
{
    if (what->bytes > s->bytes)
        return SIZE_MAX;
    for (size_t at = s->bytes - what->bytes + 1; at-- > 0;) {
        if (at % 64 == 0)
            sala_jj_step(j, 1 + what->bytes / 64);
        if (memcmp(s->data + at, what->data, what->bytes) == 0 &&
            (at == s->bytes || ((unsigned char)s->data[at] & 0xC0) != 0x80))
            return at;
    }
    return SIZE_MAX;
}

static int64_t find_chars(jj *j, jj_val self, const jj_val *a, bool last)
{
    size_t at = 0;
    const jj_str *what = sala_jj_want_str(j, a[0], "what is searched for"), *s = part(j, self.u.s, a[1], a[2], &at);
    const size_t found = !s ? SIZE_MAX : last ? find_last(j, s, what) : sala_jj_find(j, s, 0, what);
    return found == SIZE_MAX ? -1 : (int64_t)sala_jj_sub(j, self.u.s, 0, at + found)->chars;
}

static jj_val str_find(jj *j, jj_val self, const jj_val *a)
{
    return jj_int(find_chars(j, self, a, false));
}

static jj_val str_rfind(jj *j, jj_val self, const jj_val *a)
{
    return jj_int(find_chars(j, self, a, true));
}

static jj_val found_or_fail(jj *j, int64_t at)
{
    if (at < 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "substring not found");
    return jj_int(at);
}

static jj_val str_index(jj *j, jj_val self, const jj_val *a)
{
    return found_or_fail(j, find_chars(j, self, a, false));
}

static jj_val str_rindex(jj *j, jj_val self, const jj_val *a)
{
    return found_or_fail(j, find_chars(j, self, a, true));
}

static jj_val str_count(jj *j, jj_val self, const jj_val *a)
{
    size_t at;
    const jj_str *what = sala_jj_want_str(j, a[0], "what is counted"), *s = part(j, self.u.s, a[1], a[2], &at);
    int64_t n = 0;
    if (!s)
        return jj_int(0);
    if (what->bytes == 0)
        return jj_int((int64_t)s->chars + 1);
    for (at = 0; (at = sala_jj_find(j, s, at, what)) != SIZE_MAX; at += what->bytes)
        n++;
    return jj_int(n);
}

jj_val sala_jj_str_replace(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s, *old = sala_jj_want_str(j, a[0], "what replace looks for");
    const jj_str *new = sala_jj_want_str(j, a[1], "what replace puts in");
    int64_t left = sala_jj_want_int(j, a[2], -1, "the count of replace");
    jj_builder b = {.j = j};
    size_t at = 0;
    while (left != 0) {
        size_t n = 0;
        const size_t found = sala_jj_find(j, s, at, old);
        if (found == SIZE_MAX)
            break;
        if (left > 0)
            left--;
        sala_jj_step(j, 1);
        if (old->bytes == 0) { /* before every character and at the end */
            sala_jj_put_str(&b, new);
            if (at >= s->bytes) {
                at = s->bytes + 1;
                break;
            }
            sala_jj_cp(s, at, &n);
            sala_jj_put_sub(&b, s, at, n);
            at += n;
            continue;
        }
        sala_jj_put_sub(&b, s, at, found - at);
        sala_jj_put_str(&b, new);
        at = found + old->bytes;
    }
    if (at == 0)
        return self;
    if (at < s->bytes)
        sala_jj_put_sub(&b, s, at, s->bytes - at);
    return jj_finish_val(&b);
}

/* ---- taking apart and putting together ---- */

static void push_sub(jj *j, jj_list *l, const jj_str *s, size_t from, size_t to)
{
    sala_jj_step(j, 1);
    sala_jj_push(j, l, jj_str_val(sala_jj_sub(j, s, from, to - from)));
}

static jj_list *split_space(jj *j, const jj_str *s, int64_t max)
{
    jj_list *l = sala_jj_list_new(j, 4);
    size_t at = 0, n;
    for (;;) {
        while (at < s->bytes && sala_jj_is_space(sala_jj_cp(s, at, &n)))
            at += n;
        if (at >= s->bytes)
            return l;
        if (max >= 0 && (int64_t)l->n >= max)
            break;
        const size_t from = at;
        while (at < s->bytes && !sala_jj_is_space(sala_jj_cp(s, at, &n)))
            at += n;
        push_sub(j, l, s, from, at);
    }
    sala_jj_push(j, l, strip(j, jj_str_val(sala_jj_sub(j, s, at, s->bytes - at)), sala_jj_missing, false, true));
    return l;
}

static void turn_around(jj_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        const jj_val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

static jj_list *rsplit_space(jj *j, const jj_str *s, int64_t max)
{
    jj_list *l = sala_jj_list_new(j, 4);
    size_t to = s->bytes, n;
    for (;;) {
        const jj_val left = strip(j, jj_str_val(sala_jj_sub(j, s, 0, to)), sala_jj_missing, false, true);
        to = left.u.s->bytes;
        if (to == 0)
            break;
        if (max >= 0 && (int64_t)l->n >= max) {
            sala_jj_push(j, l, strip(j, left, sala_jj_missing, true, false));
            break;
        }
        size_t from = to;
        while (from > 0) {
            size_t p = from - 1;
            while (p > 0 && ((unsigned char)s->data[p] & 0xC0) == 0x80)
                p--;
            if (sala_jj_is_space(sala_jj_cp(s, p, &n)))
                break;
            from = p;
        }
        push_sub(j, l, s, from, to);
        to = from;
    }
    turn_around(l);
    return l;
}

static jj_val str_split(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s;
    int64_t max = sala_jj_want_int(j, a[1], -1, "the count of split");
    if (a[0].kind == JJ_MISSING || a[0].kind == JJ_NONE)
        return jj_list_val(split_space(j, s, max));
    const jj_str *sep = sala_jj_want_str(j, a[0], "the separator of split");
    if (sep->bytes == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "empty separator in split");
    jj_list *l = sala_jj_list_new(j, 4);
    size_t at = 0, found;
    while ((max < 0 || max-- > 0) && (found = sala_jj_find(j, s, at, sep)) != SIZE_MAX) {
        push_sub(j, l, s, at, found);
        at = found + sep->bytes;
    }
    push_sub(j, l, s, at, s->bytes);
    return jj_list_val(l);
}

static jj_val str_rsplit(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s;
    int64_t max = sala_jj_want_int(j, a[1], -1, "the count of rsplit");
    if (a[0].kind == JJ_MISSING || a[0].kind == JJ_NONE)
        return jj_list_val(rsplit_space(j, s, max));
    const jj_str *sep = sala_jj_want_str(j, a[0], "the separator of rsplit");
    if (sep->bytes == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "empty separator in rsplit");
    jj_list *l = sala_jj_list_new(j, 4);
    size_t to = s->bytes, found;
    while ((max < 0 || max-- > 0) && (found = find_last(j, sala_jj_sub(j, s, 0, to), sep)) != SIZE_MAX) {
        push_sub(j, l, s, found + sep->bytes, to);
        to = found;
    }
    push_sub(j, l, s, 0, to);
    turn_around(l);
    return jj_list_val(l);
}

jj_list *sala_jj_str_lines(jj *j, const jj_str *s, bool keep_ends)
{
    jj_list *l = sala_jj_list_new(j, 4);
    size_t from = 0;
    for (size_t at = 0, n; at < s->bytes;) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        const bool end =
            (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (!end) {
            at += n;
            continue;
        }
        const size_t stop = at;
        at += n;
        if (cp == '\r' && at < s->bytes && s->data[at] == '\n')
            at++;
        push_sub(j, l, s, from, keep_ends ? at : stop);
        from = at;
    }
    if (from < s->bytes)
        push_sub(j, l, s, from, s->bytes);
    return l;
}

static jj_val str_splitlines(jj *j, jj_val self, const jj_val *a)
{
    return jj_list_val(sala_jj_str_lines(j, self.u.s, a[0].kind != JJ_MISSING && sala_jj_truth(j, a[0])));
}

static jj_val partition(jj *j, jj_val self, jj_val by, bool last)
{
    const jj_str *s = self.u.s, *sep = sala_jj_want_str(j, by, "the separator of partition");
    if (sep->bytes == 0)
        sala_jj_fail(j, SALA_E_TEMPLATE, "empty separator in partition");
    const size_t at = last ? find_last(j, s, sep) : sala_jj_find(j, s, 0, sep);
    jj_list *l = sala_jj_list_new(j, 3);
    if (at == SIZE_MAX) {
        sala_jj_push(j, l, last ? sala_jj_lit(j, "") : self);
        sala_jj_push(j, l, sala_jj_lit(j, ""));
        sala_jj_push(j, l, last ? self : sala_jj_lit(j, ""));
    } else {
        push_sub(j, l, s, 0, at);
        push_sub(j, l, s, at, at + sep->bytes);
        push_sub(j, l, s, at + sep->bytes, s->bytes);
    }
    return (jj_val){.kind = JJ_TUPLE, .u.l = l};
}

static jj_val str_partition(jj *j, jj_val self, const jj_val *a)
{
    return partition(j, self, a[0], false);
}

static jj_val str_rpartition(jj *j, jj_val self, const jj_val *a)
{
    return partition(j, self, a[0], true);
}

static jj_val str_join(jj *j, jj_val self, const jj_val *a)
{
    const jj_list *l = sala_jj_items(j, a[0]);
    jj_builder b = {.j = j};
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            sala_jj_put_str(&b, self.u.s);
        sala_jj_put_str(&b, sala_jj_want_str(j, l->v[i], "what join puts together"));
        sala_jj_step(j, 1);
    }
    return jj_finish_val(&b);
}

/* ---- padding ---- */

static jj_val pad(jj *j, const jj_str *s, int64_t before, int64_t behind, const jj_str *fill)
{
    jj_builder b = {.j = j};
    for (int64_t i = 0; fill && i < before; i++)
        sala_jj_put_str(&b, fill);
    if (!fill)
        sala_jj_put_fill(&b, ' ', before);
    sala_jj_put_str(&b, s);
    for (int64_t i = 0; fill && i < behind; i++)
        sala_jj_put_str(&b, fill);
    if (!fill)
        sala_jj_put_fill(&b, ' ', behind);
    return jj_finish_val(&b);
}

static const jj_str *fill_char(jj *j, jj_val v)
{
    if (v.kind == JJ_MISSING)
        return NULL;
    const jj_str *s = sala_jj_want_str(j, v, "the fill character");
    if (s->chars != 1)
        sala_jj_fail(j, SALA_E_TEMPLATE, "the fill character has to be one character, found %zu", s->chars);
    return s;
}

static int64_t missing_width(jj *j, const jj_str *s, jj_val width)
{
    const int64_t w = sala_jj_want_int(j, width, 0, "a width");
    if (w > (int64_t)1 << 40)
        sala_jj_fail(j, SALA_E_LIMIT, "a width of %lld characters", (long long)w);
    return sala_max_i64(0, w - (int64_t)s->chars);
}

static jj_val str_ljust(jj *j, jj_val self, const jj_val *a)
{
    return pad(j, self.u.s, 0, missing_width(j, self.u.s, a[0]), fill_char(j, a[1]));
}

static jj_val str_rjust(jj *j, jj_val self, const jj_val *a)
{
    return pad(j, self.u.s, missing_width(j, self.u.s, a[0]), 0, fill_char(j, a[1]));
}

jj_val sala_jj_str_center(jj *j, jj_val self, const jj_val *a)
{
    const int64_t n = missing_width(j, self.u.s, a[0]), width = n + (int64_t)self.u.s->chars;
    const int64_t before = n / 2 + (n & width & 1);
    return pad(j, self.u.s, before, n - before, fill_char(j, a[1]));
}

static jj_val str_zfill(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s;
    const int64_t n = missing_width(j, s, a[0]);
    const size_t sign = s->bytes && (s->data[0] == '-' || s->data[0] == '+');
    jj_builder b = {.j = j};
    sala_jj_put_sub(&b, s, 0, sign);
    sala_jj_put_fill(&b, '0', n);
    sala_jj_put_sub(&b, s, sign, s->bytes - sign);
    return jj_finish_val(&b);
}

static jj_val str_expandtabs(jj *j, jj_val self, const jj_val *a)
{
    const jj_str *s = self.u.s;
    const int64_t size = sala_jj_want_int(j, a[0], 8, "the tab size");
    int64_t column = 0;
    jj_builder b = {.j = j};
    for (size_t at = 0, n; at < s->bytes; at += n) {
        const uint32_t cp = sala_jj_cp(s, at, &n);
        if (cp == '\t') {
            const int64_t fill = size > 0 ? size - column % size : 0;
            sala_jj_put_fill(&b, ' ', fill);
            column += fill;
        } else {
            sala_jj_put_sub(&b, s, at, n);
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
    }
    return jj_finish_val(&b);
}

static jj_val str_format_map(jj *j, jj_val self, const jj_val *a)
{
    if (a[0].kind != JJ_DICT)
        sala_jj_fail(j, SALA_E_TEMPLATE, "format_map needs a mapping, found %s", sala_jj_type_name(a[0]));
    const jj_dict *d = a[0].u.d;
    jj_args args = {.v = sala_jj_alloc_array(j, d->n, sizeof *args.v)};
    for (size_t i = 0; i < d->n; i++)
        if (d->v[i].key.kind == JJ_STR) {
            const jj_str *key = d->v[i].key.u.s;
            args.v[args.n++] = (jj_arg){sala_jj_text(j, key->data, key->bytes), d->v[i].value};
        }
    return sala_jj_str_format(j, self, &args);
}

const jj_callable sala_jj_str_methods[] = {
    {"capitalize", "", sala_jj_str_capitalize, NULL},
    {"casefold", "", str_casefold, NULL},
    {"center", "width fillchar?", sala_jj_str_center, NULL},
    {"count", "sub start? end?", str_count, NULL},
    {"endswith", "suffix start? end?", str_endswith, NULL},
    {"expandtabs", "tabsize?", str_expandtabs, NULL},
    {"find", "sub start? end?", str_find, NULL},
    {"format", NULL, NULL, sala_jj_str_format},
    {"format_map", "mapping", str_format_map, NULL},
    {"index", "sub start? end?", str_index, NULL},
    {"isalnum", "", str_isalnum, NULL},
    {"isalpha", "", str_isalpha, NULL},
    {"isascii", "", str_isascii, NULL},
    {"isdecimal", "", str_isdecimal, NULL},
    {"isdigit", "", str_isdigit, NULL},
    {"isidentifier", "", str_isidentifier, NULL},
    {"islower", "", str_islower, NULL},
    {"isnumeric", "", str_isnumeric, NULL},
    {"isspace", "", str_isspace, NULL},
    {"istitle", "", str_istitle, NULL},
    {"isupper", "", str_isupper, NULL},
    {"join", "iterable", str_join, NULL},
    {"ljust", "width fillchar?", str_ljust, NULL},
    {"lower", "", sala_jj_str_lower, NULL},
    {"lstrip", "chars?", str_lstrip, NULL},
    {"partition", "sep", str_partition, NULL},
    {"removeprefix", "prefix", str_removeprefix, NULL},
    {"removesuffix", "suffix", str_removesuffix, NULL},
    {"replace", "old new count?", sala_jj_str_replace, NULL},
    {"rfind", "sub start? end?", str_rfind, NULL},
    {"rindex", "sub start? end?", str_rindex, NULL},
    {"rjust", "width fillchar?", str_rjust, NULL},
    {"rpartition", "sep", str_rpartition, NULL},
    {"rsplit", "sep? maxsplit?", str_rsplit, NULL},
    {"rstrip", "chars?", str_rstrip, NULL},
    {"split", "sep? maxsplit?", str_split, NULL},
    {"splitlines", "keepends?", str_splitlines, NULL},
    {"startswith", "prefix start? end?", str_startswith, NULL},
    {"strip", "chars?", sala_jj_str_strip, NULL},
    {"swapcase", "", str_swapcase, NULL},
    {"title", "", str_title, NULL},
    {"upper", "", sala_jj_str_upper, NULL},
    {"zfill", "width", str_zfill, NULL},
    {NULL, NULL, NULL, NULL},
};
