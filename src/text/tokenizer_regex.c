/* Regular expressions of tokenizer.json files, which are written for Oniguruma, run by PCRE2. Where the two read the
 * same text differently, the text is rewritten; where that is not possible, the expression is refused: \s   in PCRE2
 * also takes U+180E, which is no white space since Unicode 6.3 \w   in PCRE2 lacks marks, letter numbers and all
 * connectors but the underscore \h   means hexadecimal digits to one and spaces to the other [a[b]] and [a&&b] are set
 * operations in Oniguruma and plain characters in PCRE2 ^ $  match at every line in Oniguruma */
#include "text/tokenizer_impl.h"

static sala_status refuse(const char *s, size_t n, const char *what, sala_error *err)
{
    return sala_fail(err, SALA_E_UNSUPPORTED, "the regular expression \"%.*s\" uses %s, which is not supported",
                     n > 200 ? 200 : (int)n, s, what);
}

static sala_status rewrite(sala_buf *out, const char *s, size_t n, sala_error *err)
{
    static const char space[] = "\\p{Z}\\x{9}-\\x{d}\\x{85}", word[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        const char c = s[i], next = i + 1 < n ? s[i + 1] : '\0';
        if (c == '\\' && i + 1 < n) {
            i++;
            const bool upper = next == 'S' || next == 'W';
            if (next == 'h' || next == 'H')
                return refuse(s, n, "\\h", err);
            if (next == 'W' && in_class)
                return refuse(s, n, "\\W within a class", err);
            /* [\S] stays, for the sake of one character. */
            if ((next != 's' && next != 'w' && !upper) || (next == 'S' && in_class)) {
                sala_buf_add(out, s + i - 1, 2);
                continue;
            }
            if (!in_class)
                sala_buf_add_str(out, upper ? "[^" : "[");
            sala_buf_add_str(out, next == 's' || next == 'S' ? space : word);
            if (!in_class)
                sala_buf_add_char(out, ']');
            continue;
        }
        if (in_class && ((c == '[' && next != ':') || (c == '&' && next == '&')))
            return refuse(s, n, "set operations within a class", err);
        if (in_class && c == '[') { /* [:name:] */
            const char *end = memmem(s + i, n - i, ":]", 2);
            const size_t len = end != NULL ? (size_t)(end - s) + 2 - i : 1;
            sala_buf_add(out, s + i, len);
            i += len - 1;
            continue;
        }
        sala_buf_add_char(out, c);
        if (c == '[') {
            in_class = true;
            /* A bracket right at the beginning is a member, not the end. */
            if (next == '^')
                sala_buf_add_char(out, s[++i]);
            if (i + 1 < n && s[i + 1] == ']')
                sala_buf_add_char(out, s[++i]);
        } else if (c == ']') {
            in_class = false;
        }
    }
    return out->failed ? sala_fail_memory(err, n) : SALA_OK;
}

sala_status sala_regex_compile(pcre2_code **out, const char *s, size_t n, sala_error *err)
{
    sala_buf text = {0};
    const sala_status st = rewrite(&text, s, n, err);
    if (st != SALA_OK) {
        sala_buf_free(&text);
        return st;
    }
    int code = 0;
    PCRE2_SIZE where = 0;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)(text.len > 0 ? text.data : ""), text.len,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &where, NULL);
    sala_buf_free(&text);
    if (re == NULL) {
        PCRE2_UCHAR why[200];
        pcre2_get_error_message(code, why, sizeof why);
        return sala_fail(err, SALA_E_UNSUPPORTED, "the regular expression \"%.*s\" is not understood: %s",
                         n > 200 ? 200 : (int)n, s, (const char *)why);
    }
    /* Without JIT (refused by the system, or not built in) the interpreter gives the same matches. */
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    *out = re;
    return SALA_OK;
}
