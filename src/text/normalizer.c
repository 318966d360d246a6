/* Normalisers: text to text, before words are cut. The SentencePiece one follows the description in its
 * normalizer_spec: longest match in the compiled character map, white space collapsed and escaped as the flags say. */
#include "text/tokenizer_impl.h"

#include <utf8proc.h>

void sala_norm_step_free(sala_norm_step *s)
{
    free(s->from);
    free(s->to);
    pcre2_code_free(s->regex);
    *s = (sala_norm_step){0};
}

/* ---- character map ----
 * u32 size of the double array, its units, then strings, each ended by a NUL. A unit of the array (darts-clone):
 *   bit 31 set: a leaf, bits 0..30 the value; else bits 0..7 label, bit 8 "has a leaf", bits 10.. offset, bit 9: offset
 * is shifted by 8 more. */

sala_status sala_charsmap_parse(sala_charsmap *m, const void *data, size_t bytes, sala_error *err)
{
    *m = (sala_charsmap){0};
    if (bytes == 0)
        return SALA_OK;
    sala_reader r = sala_reader_of(data, bytes);
    const uint32_t array_bytes = sala_read_u32(&r);
    const uint8_t *units = sala_read_bytes(&r, array_bytes);
    if (r.failed || array_bytes < 4 || array_bytes % 4 != 0)
        return sala_fail(
            err, SALA_E_CORRUPT,
            "precompiled_charsmap has %zu bytes and says that its array takes %u of them, in units of four", bytes,
            array_bytes);
    m->n_units = array_bytes / 4;
    m->n_strings = bytes - r.at;
    m->units = malloc(array_bytes);
    m->strings = malloc(m->n_strings + 1);
    if (m->units == NULL || m->strings == NULL) {
        sala_charsmap_free(m);
        return sala_fail_memory(err, bytes);
    }
    for (size_t i = 0; i < m->n_units; i++)
        m->units[i] = (uint32_t)units[4 * i] | (uint32_t)units[4 * i + 1] << 8 | (uint32_t)units[4 * i + 2] << 16 |
                      (uint32_t)units[4 * i + 3] << 24;
    memcpy(m->strings, (const uint8_t *)data + r.at, m->n_strings);
    m->strings[m->n_strings] = '\0';
    /* Everything behind the normaliser relies on whole characters. */
    if (!sala_utf8_is_valid(m->strings, m->n_strings)) {
        sala_charsmap_free(m);
        return sala_fail(err, SALA_E_CORRUPT, "the replacements in precompiled_charsmap are not UTF-8");
    }
    return SALA_OK;
}

void sala_charsmap_free(sala_charsmap *m)
{
    free(m->units);
    free(m->strings);
    *m = (sala_charsmap){0};
}

static bool is_inside_character(char c)
{
    return ((uint8_t)c & 0xC0) == 0x80;
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The replacement for the longest (or shortest) prefix of s[0..n) that the map has; its length in bytes, 0: none. */
static size_t charsmap_match(const sala_charsmap *m, const char *s, size_t n, bool longest, const char **to)
{
    if (m->n_units == 0)
        return 0;
    size_t found = 0, pos = unit_offset(m->units[0]);
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)s[i];
        pos ^= c;
        /* Zero bytes lead to leaves only and cannot be keys. */
        if (c == 0 || pos >= m->n_units || (m->units[pos] & (1u << 31 | 0xFF)) != c)
            break;
        const uint32_t unit = m->units[pos];
        pos ^= unit_offset(unit);
        if ((unit >> 8 & 1) == 0)
            continue;
        if (pos >= m->n_units)
            break;
        const uint32_t value = m->units[pos] & 0x7FFFFFFF;
        if (value >= m->n_strings)
            break;
        /* A hostile map could begin or end within a character. */
        if (is_inside_character(m->strings[value]) || (i + 1 < n && is_inside_character(s[i + 1])))
            continue;
        found = i + 1;
        *to = m->strings + value;
        if (!longest)
            break;
    }
    return found;
}

/* ---- SentencePiece ---- */

/* The next stretch of input and what it becomes. */
static size_t sp_next(const sala_tokenizer *t, const char *s, size_t n, const char **to, size_t *to_len)
{
    int32_t ignored;
    size_t len = sala_trie_longest(&t->user_trie, s, n, &ignored);
    if (len == 0 && (len = charsmap_match(&t->charsmap, s, n, true, to)) > 0) {
        *to_len = strlen(*to);
        return len;
    }
    if (len == 0)
        len = sala_utf8_len(s[0]);
    *to = s;
    *to_len = len;
    return len;
}

static void sp_normalize(const sala_tokenizer *t, const sala_norm_step *f, sala_buf *out, const char *s, size_t n,
                         bool at_start)
{
    const char *space = f->escape_spaces ? SALA_META : " ";
    const size_t space_len = f->escape_spaces ? SALA_META_LEN : 1;
    const size_t begin = out->len;
    size_t i = 0, to_len = 0;
    const char *to = NULL;
    while (f->remove_extra_spaces && i < n) {
        const size_t len = sp_next(t, s + i, n - i, &to, &to_len);
        if (to_len != 1 || to[0] != ' ')
            break;
        i += len;
    }
    if (i == n)
        return;
    const bool dummy = f->dummy_prefix && (at_start || !f->prefix_first_only);
    if (dummy && !f->space_as_suffix)
        sala_buf_add(out, space, space_len);
    bool after_space = f->remove_extra_spaces;
    while (i < n) {
        i += sp_next(t, s + i, n - i, &to, &to_len);
        while (after_space && to_len > 0 && to[0] == ' ') {
            to++;
            to_len--;
        }
        for (size_t k = 0; k < to_len; k++) {
            if (to[k] == ' ')
                sala_buf_add(out, space, space_len);
            else
                sala_buf_add_char(out, to[k]);
        }
        if (to_len > 0)
            after_space = to[to_len - 1] == ' ';
        after_space = after_space && f->remove_extra_spaces;
    }
    while (f->remove_extra_spaces && out->len - begin >= space_len &&
           memcmp(out->data + out->len - space_len, space, space_len) == 0)
        out->len -= space_len;
    if (dummy && f->space_as_suffix)
        sala_buf_add(out, space, space_len);
}

/* ---- Hugging Face's normalisers ---- */

/* By grapheme: one of less than six bytes is looked up whole, and the shortest entry that begins it replaces all of it;
 * otherwise each character by itself. */
static void map_graphemes(const sala_tokenizer *t, sala_buf *out, const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t end = i;
        uint32_t last = sala_utf8_next(s, &end);
        utf8proc_int32_t state = 0;
        while (end < n) {
            size_t next = end;
            const uint32_t cp = sala_utf8_next(s, &next);
            if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)last, (utf8proc_int32_t)cp, &state))
                break;
            last = cp;
            end = next;
        }
        const char *to;
        if (end - i < 6 && charsmap_match(&t->charsmap, s + i, end - i, false, &to) > 0) {
            sala_buf_add_str(out, to);
            i = end;
            continue;
        }
        while (i < end) {
            const size_t len = sala_utf8_len(s[i]);
            if (charsmap_match(&t->charsmap, s + i, len, false, &to) > 0)
                sala_buf_add_str(out, to);
            else
                sala_buf_add(out, s + i, len);
            i += len;
        }
    }
}

static bool is_ascii(const char *s, size_t n)
{
    size_t i = 0;
    uint64_t w;
    for (; i + 8 <= n; i += 8)
        if (memcpy(&w, s + i, 8), (w & 0x8080808080808080u) != 0)
            return false;
    for (; i < n; i++)
        if ((uint8_t)s[i] >= 0x80)
            return false;
    return true;
}

/* Characters that got their decomposition after Unicode 11, the version of Hugging Face's tables: they stay as they
 * are. None of them takes part in compositions with neighbours that have one, so text may be cut around them. */
static bool is_newer_than_hugging_face(uint32_t cp, bool compat)
{
    if (cp == 0x11938)
        return true;
    return compat && (cp == 0x32FF || (cp >= 0xA7F2 && cp <= 0xA7F4) || cp == 0xAB69 ||
                      (cp >= 0x10781 && cp <= 0x107BA) || cp == 0x1F16C || (cp >= 0x1FBF0 && cp <= 0x1FBF9));
}

static bool unicode_form(sala_norm_kind kind, sala_buf *out, const char *s, size_t n)
{
    if (is_ascii(s, n)) {
        sala_buf_add(out, s, n);
        return true;
    }
    const bool compose = kind == SALA_NORM_NFC || kind == SALA_NORM_NFKC;
    const bool compat = kind == SALA_NORM_NFKC || kind == SALA_NORM_NFKD;
    const int options =
        UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
    for (size_t from = 0; from < n;) {
        size_t i = from, to = from;
        bool newer = false;
        while (i < n && !newer) {
            to = i;
            newer = is_newer_than_hugging_face(sala_utf8_next(s, &i), compat);
        }
        if (!newer)
            to = n;
        if (to > from) {
            utf8proc_uint8_t *r = NULL;
            const utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)s + from, (utf8proc_ssize_t)(to - from),
                                                      &r, (utf8proc_option_t)options);
            if (len < 0)
                return false; /* the input is valid UTF-8, so only memory can be missing */
            sala_buf_add(out, r, (size_t)len);
            free(r);
        }
        if (newer)
            sala_buf_add(out, s + to, i - to);
        from = i;
    }
    return true;
}

static void lowercase(sala_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const uint32_t cp = sala_utf8_next(s, &i);
        if (cp == 0x130)
            sala_buf_add(out, "i\xCC\x87", 3); /* the only character whose lower case is two */
        else
            sala_buf_add_utf8(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
    }
}

static void strip(sala_buf *out, const char *s, size_t n, bool left, bool right)
{
    size_t from = 0, to = 0, i = 0;
    bool begun = !left;
    while (i < n) {
        const size_t at = i;
        if (sala_char_is_space(sala_utf8_next(s, &i)))
            continue;
        if (!begun)
            from = at;
        begun = true;
        to = i;
    }
    if (!begun)
        return;
    if (!right)
        to = n;
    if (to > from)
        sala_buf_add(out, s + from, to - from);
}

/* SentencePiece's NMT rules: control characters go, other spaces and invisible characters become spaces. */
static void nmt(sala_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const size_t at = i;
        const uint32_t c = sala_utf8_next(s, &i);
        if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
            continue;
        if (c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
            c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
            sala_buf_add_char(out, ' ');
        else
            sala_buf_add(out, s + at, i - at);
    }
}

static void replace(sala_buf *out, const sala_norm_step *f, const char *s, size_t n)
{
    size_t done = 0;
    while (f->from_len > 0 && n - done >= f->from_len) {
        const char *hit = f->from_len == 1 ? memchr(s + done, f->from[0], n - done)
                                           : memmem(s + done, n - done, f->from, f->from_len);
        if (hit == NULL)
            break;
        const size_t at = (size_t)(hit - s);
        sala_buf_add(out, s + done, at - done);
        sala_buf_add(out, f->to, f->to_len);
        done = at + f->from_len;
    }
    if (n > done)
        sala_buf_add(out, s + done, n - done);
}

static bool replace_regex(sala_buf *out, const sala_norm_step *f, const char *s, size_t n)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (match == NULL)
        return false;
    size_t done = 0, at = 0;
    int rc = 0;
    while (at <= n && (rc = pcre2_match(f->regex, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, match, NULL)) > 0) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
        if (v[1] <= v[0]) {
            at = v[0] < n ? v[0] + sala_utf8_len(s[v[0]]) : n + 1;
            continue;
        }
        sala_buf_add(out, s + done, v[0] - done);
        sala_buf_add(out, f->to, f->to_len);
        done = at = v[1];
    }
    if (n > done)
        sala_buf_add(out, s + done, n - done);
    pcre2_match_data_free(match);
    return rc > 0 || rc == PCRE2_ERROR_NOMATCH; /* anything else is a limit of its memory */
}

static bool run(const sala_tokenizer *t, const sala_norm_step *f, sala_buf *out, const char *s, size_t n, bool at_start)
{
    if (n == 0)
        return true;
    switch (f->kind) {
    case SALA_NORM_PREPEND:
        sala_buf_add(out, f->to, f->to_len);
        sala_buf_add(out, s, n);
        break;
    case SALA_NORM_REPLACE:
        replace(out, f, s, n);
        break;
    case SALA_NORM_REPLACE_REGEX:
        return replace_regex(out, f, s, n) && !out->failed;
    case SALA_NORM_NFC:
    case SALA_NORM_NFD:
    case SALA_NORM_NFKC:
    case SALA_NORM_NFKD:
        return unicode_form(f->kind, out, s, n) && !out->failed;
    case SALA_NORM_LOWERCASE:
        lowercase(out, s, n);
        break;
    case SALA_NORM_STRIP:
        strip(out, s, n, f->left, f->right);
        break;
    case SALA_NORM_STRIP_ACCENTS:
        for (size_t i = 0; i < n;) {
            const size_t at = i;
            if (!sala_char_is_accent(sala_utf8_next(s, &i)))
                sala_buf_add(out, s + at, i - at);
        }
        break;
    case SALA_NORM_NMT:
        nmt(out, s, n);
        break;
    case SALA_NORM_CHARSMAP:
        map_graphemes(t, out, s, n);
        break;
    case SALA_NORM_SENTENCEPIECE:
        sp_normalize(t, f, out, s, n, at_start);
        break;
    }
    return !out->failed;
}

bool sala_normalize(const sala_tokenizer *t, sala_buf *out, const char *s, size_t n, bool at_start)
{
    sala_buf a = {0}, b = {0};
    bool ok = true;
    for (int i = 0; i < t->n_norms && ok; i++) {
        sala_buf *to = i == t->n_norms - 1 ? out : &b;
        sala_buf_clear(&b);
        ok = run(t, &t->norms[i], to, s, n, at_start);
        if (to == &b) {
            const sala_buf swap = a;
            a = b;
            b = swap;
            s = a.data;
            n = a.len;
        }
    }
    sala_buf_free(&a);
    sala_buf_free(&b);
    if (t->n_norms == 0)
        sala_buf_add(out, s, n);
    return ok && !out->failed;
}
