/* Source to tokens, with jinja2's rules for white space: trim_blocks and lstrip_blocks are on, the last newline of the
 * source goes, all line ends become \n. Block and variable ends count only where brackets are balanced. */
#include "text/jinja_syntax.h"

#include <utf8proc.h>

typedef struct lexer {
    jj *j;
    const char *s;
    size_t n, at;
    int line;
    size_t line_at; /* lines are counted up to here */
    jj_token *tok;
    size_t n_tok, cap;
    bool line_starting; /* the last match ended a line */
    char *balance;      /* closing brackets still expected */
    size_t n_balance, cap_balance;
} lexer;

static const struct {
    const char *text;
    jj_tok type;
} operators[] = {
    {"**", JT_POW},   {"//", JT_FLOORDIV}, {"==", JT_EQ},    {"!=", JT_NE},    {">=", JT_GE},      {"<=", JT_LE},
    {"+", JT_ADD},    {"-", JT_SUB},       {"/", JT_DIV},    {"*", JT_MUL},    {"%", JT_MOD},      {"~", JT_TILDE},
    {"<", JT_LT},     {">", JT_GT},        {"=", JT_ASSIGN}, {".", JT_DOT},    {":", JT_COLON},    {"|", JT_PIPE},
    {",", JT_COMMA},  {";", JT_SEMICOLON}, {"(", JT_LPAREN}, {")", JT_RPAREN}, {"[", JT_LBRACKET}, {"]", JT_RBRACKET},
    {"{", JT_LBRACE}, {"}", JT_RBRACE},
};

const char *sala_jj_tok_text(jj_tok type)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(operators); i++)
        if (operators[i].type == type)
            return operators[i].text;
    switch (type) {
    case JT_EOF:
        return "end of template";
    case JT_DATA:
        return "text";
    case JT_VAR_BEGIN:
        return "{{";
    case JT_VAR_END:
        return "}}";
    case JT_BLOCK_BEGIN:
        return "{%";
    case JT_BLOCK_END:
        return "%}";
    case JT_NAME:
        return "a name";
    case JT_STRING:
        return "a string";
    case JT_INT:
    case JT_FLOAT:
        return "a number";
    case JT_IN:
        return "in";
    case JT_NOT_IN:
        return "not in";
    default:
        return "?";
    }
}

static int line_of(lexer *x, size_t at)
{
    for (; x->line_at < at; x->line_at++)
        x->line += x->s[x->line_at] == '\n';
    return x->line;
}

static jj_token *add(lexer *x, jj_tok type, size_t at)
{
    if (x->n_tok == x->cap) {
        const size_t cap = x->cap ? 2 * x->cap : 64;
        x->tok = sala_jj_grow(x->j, x->tok, x->cap * sizeof *x->tok, cap * sizeof *x->tok);
        x->cap = cap;
    }
    jj_token *t = &x->tok[x->n_tok++];
    *t = (jj_token){.type = type, .at = at, .line = line_of(x, at)};
    return t;
}

static _Noreturn void fail_at(lexer *x, size_t at, const char *what)
{
    x->j->line = line_of(x, at);
    x->j->at = (int64_t)at;
    sala_jj_fail(x->j, SALA_E_TEMPLATE, "%s", what);
}

static bool starts(const lexer *x, size_t at, const char *what)
{
    const size_t n = strlen(what);
    return x->n - at >= n && memcmp(x->s + at, what, n) == 0;
}

static uint32_t cp_at(const lexer *x, size_t at, size_t *len)
{
    uint32_t cp = 0;
    *len = (size_t)sala_utf8_decode(x->s + at, x->n - at, &cp);
    return cp;
}

static size_t skip_space(const lexer *x, size_t at)
{
    while (at < x->n) {
        size_t len;
        if (!sala_jj_is_space(cp_at(x, at, &len)))
            break;
        at += len;
    }
    return at;
}

/* Where the white space that ends s[from..to) begins. */
static size_t space_before(const lexer *x, size_t from, size_t to)
{
    while (to > from) {
        size_t p = to - 1;
        while (p > from && ((unsigned char)x->s[p] & 0xC0) == 0x80)
            p--;
        size_t len;
        if (!sala_jj_is_space(cp_at(x, p, &len)))
            break;
        to = p;
    }
    return to;
}

/* Text in front of a tag, less what the tag's sign and lstrip_blocks take away. */
static void add_data(lexer *x, size_t from, size_t to, char sign, bool is_variable)
{
    if (sign == '-') {
        to = space_before(x, from, to);
    } else if (sign != '+' && !is_variable) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n')
            line--;
        if ((line > from || x->line_starting) && line < to && space_before(x, line, to) == line)
            to = line;
    }
    if (to > from)
        add(x, JT_DATA, from)->s = sala_jj_str_of(x->j, x->s + from, to - from, false);
}

/* The end of a tag at `at`: returns the position behind it, and what it swallows; 0 if there is none. */
static size_t tag_end(const lexer *x, size_t at, const char *close, bool plus, bool trim)
{
    if (at < x->n && x->s[at] == '-' && starts(x, at + 1, close))
        return skip_space(x, at + 1 + strlen(close));
    if (plus && at < x->n && x->s[at] == '+' && starts(x, at + 1, close))
        return at + 1 + strlen(close);
    if (!starts(x, at, close))
        return 0;
    at += strlen(close);
    if (trim && at < x->n && x->s[at] == '\n')
        at++;
    return at;
}

static void set_at(lexer *x, size_t at)
{
    x->line_starting = at > 0 && x->s[at - 1] == '\n';
    x->at = at;
}

static void lex_comment(lexer *x, size_t open)
{
    for (size_t p = x->at; p < x->n; p++) {
        if (x->s[p] != '#' && x->s[p] != '-' && x->s[p] != '+')
            continue;
        const size_t end = tag_end(x, p, "#}", true, true);
        if (end) {
            set_at(x, end);
            return;
        }
    }
    fail_at(x, open, "comment that is never closed: expected '#}'");
}

/* {% raw %}: `at` is behind "{%" and its sign. Returns the position behind the tag, 0 if it is another tag. */
static size_t raw_begin(const lexer *x, size_t at)
{
    at = skip_space(x, at);
    if (!starts(x, at, "raw"))
        return 0;
    return tag_end(x, skip_space(x, at + 3), "%}", false, false);
}

static void lex_raw(lexer *x, size_t open)
{
    for (size_t p = x->at; p + 1 < x->n; p++) {
        if (x->s[p] != '{' || x->s[p + 1] != '%')
            continue;
        size_t q = p + 2;
        char sign = 0;
        if (q < x->n && (x->s[q] == '-' || x->s[q] == '+'))
            sign = x->s[q++];
        q = skip_space(x, q);
        if (!starts(x, q, "endraw"))
            continue;
        const size_t end = tag_end(x, skip_space(x, q + 6), "%}", true, true);
        if (end) {
            add_data(x, x->at, p, sign, false);
            set_at(x, end);
            return;
        }
    }
    fail_at(x, open, "raw block that is never closed: expected '{% endraw %}'");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* digits, each but the first possibly behind one underscore; returns the end, `at` if there are none */
static size_t digits(const lexer *x, size_t at)
{
    size_t p = at;
    while (p < x->n && is_digit(x->s[p])) {
        p++;
        if (p + 1 < x->n && x->s[p] == '_' && is_digit(x->s[p + 1]))
            p++;
    }
    return p;
}

static char *without_underscores(lexer *x, size_t from, size_t to)
{
    char *out = sala_jj_alloc(x->j, to - from + 1);
    size_t n = 0;
    for (size_t p = from; p < to; p++)
        if (x->s[p] != '_')
            out[n++] = x->s[p];
    out[n] = 0;
    return out;
}

static bool lex_float(lexer *x)
{
    if (x->at > 0 && x->s[x->at - 1] == '.')
        return false;
    size_t p = digits(x, x->at);
    if (p == x->at)
        return false;
    bool is_float = false;
    if (p + 1 < x->n && x->s[p] == '.' && is_digit(x->s[p + 1])) {
        p = digits(x, p + 1);
        is_float = true;
    }
    if (p < x->n && (x->s[p] == 'e' || x->s[p] == 'E')) {
        size_t q = p + 1;
        if (q < x->n && (x->s[q] == '+' || x->s[q] == '-'))
            q++;
        const size_t end = digits(x, q);
        if (end > q) {
            p = end;
            is_float = true;
        }
    }
    if (!is_float)
        return false;
    const char *text = without_underscores(x, x->at, p);
    jj_token *t = add(x, JT_FLOAT, x->at);
    if (!sala_jj_parse_float(text, strlen(text), &t->f))
        fail_at(x, x->at, "number that cannot be read");
    set_at(x, p);
    return true;
}

static int digit_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

static bool lex_int(lexer *x)
{
    if (!is_digit(x->s[x->at]))
        return false;
    size_t p = x->at;
    int base = 10;
    if (x->s[p] == '0' && p + 1 < x->n) {
        const char c = x->s[p + 1] | 0x20;
        base = c == 'b' ? 2 : c == 'o' ? 8 : c == 'x' ? 16 : 10;
        if (base != 10) {
            size_t q = p + 2;
            if (q < x->n && x->s[q] == '_')
                q++;
            if (q < x->n && digit_value(x->s[q]) < base)
                p = q;
            else
                base = 10;
        }
    }
    const bool zero = base == 10 && x->s[p] == '0'; /* a decimal number that begins with 0 is only zeros */
    int64_t v = 0;
    while (p < x->n) {
        const size_t q = x->s[p] == '_' ? p + 1 : p;
        if (q >= x->n || digit_value(x->s[q]) >= (zero ? 1 : base))
            break;
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, digit_value(x->s[q]), &v)) {
            x->j->line = line_of(x, x->at);
            sala_jj_fail(x->j, SALA_E_LIMIT, "an integer beyond 64 bits");
        }
        p = q + 1;
    }
    add(x, JT_INT, x->at)->i = v;
    set_at(x, p);
    return true;
}

static bool lex_name(lexer *x)
{
    size_t p = x->at;
    while (p < x->n) {
        size_t len;
        const uint32_t cp = cp_at(x, p, &len);
        bool in_name = cp == '_' || (cp < 128 && (is_digit((char)cp) || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z')));
        if (cp >= 128) {
            const utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)cp);
            in_name = (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO) || cat == UTF8PROC_CATEGORY_MN ||
                      cat == UTF8PROC_CATEGORY_MC || cat == UTF8PROC_CATEGORY_ND || cat == UTF8PROC_CATEGORY_NL;
        }
        if (!in_name)
            break;
        p += len;
    }
    if (p == x->at)
        return false;
    add(x, JT_NAME, x->at)->text = sala_jj_text(x->j, x->s + x->at, p - x->at);
    set_at(x, p);
    return true;
}

static uint32_t hex_escape(lexer *x, size_t *p, size_t end, int n_digits)
{
    uint32_t v = 0;
    for (int i = 0; i < n_digits; i++, (*p)++) {
        if (*p >= end || digit_value(x->s[*p]) > 15)
            fail_at(x, *p, "escape in a string with too few hexadecimal digits");
        v = v * 16 + (uint32_t)digit_value(x->s[*p]);
    }
    return v;
}

static void put_escape(lexer *x, jj_builder *b, size_t *p, size_t end)
{
    static const char plain[] = "n\nt\tr\rb\bf\fv\va\a\\\\''\"\"";
    const char c = x->s[(*p)++];
    for (size_t i = 0; i + 1 < sizeof plain; i += 2)
        if (c == plain[i]) {
            sala_jj_put(b, &plain[i + 1], 1, false);
            return;
        }
    if (c == '\n')
        return;
    if (c >= '0' && c <= '7') {
        uint32_t v = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *p < end && x->s[*p] >= '0' && x->s[*p] <= '7'; i++)
            v = v * 8 + (uint32_t)(x->s[(*p)++] - '0');
        sala_jj_put_cp(b, v, false);
        return;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        uint32_t v = hex_escape(x, p, end, c == 'x' ? 2 : c == 'u' ? 4 : 8);
        /* A surrogate pair stands for one character, as in JSON; half of one for none. */
        if (v >= 0xD800 && v < 0xDC00 && end - *p >= 6 && x->s[*p] == '\\' && x->s[*p + 1] == 'u') {
            size_t q = *p + 2;
            const uint32_t low = hex_escape(x, &q, end, 4);
            if (low >= 0xDC00 && low < 0xE000) {
                v = 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
                *p = q;
            }
        }
        sala_jj_put_cp(b, v > 0x10FFFF || (v >= 0xD800 && v < 0xE000) ? 0xFFFD : v, false);
        return;
    }
    if (c == 'N')
        fail_at(x, *p, "\\N{...} escapes are not supported");
    sala_jj_put(b, "\\", 1, false); /* an escape that Python does not know stays as it is */
    (*p)--;
    size_t len;
    cp_at(x, *p, &len);
    sala_jj_put(b, x->s + *p, len, false);
    *p += len;
}

static bool lex_string(lexer *x)
{
    const char quote = x->s[x->at];
    if (quote != '\'' && quote != '"')
        return false;
    size_t end = x->at + 1;
    while (end < x->n && x->s[end] != quote)
        end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n)
        fail_at(x, x->at, "string that is never closed");
    jj_builder b = {.j = x->j};
    size_t p = x->at + 1;
    while (p < end) {
        const char *stop = memchr(x->s + p, '\\', end - p);
        const size_t q = stop ? (size_t)(stop - x->s) : end;
        sala_jj_put(&b, x->s + p, q - p, false);
        p = q;
        if (p < end) {
            p++;
            put_escape(x, &b, &p, end);
        }
    }
    jj_str *s = sala_jj_finish(&b);
    add(x, JT_STRING, x->at)->s = s;
    set_at(x, end + 1);
    return true;
}

static void balance(lexer *x, jj_tok type)
{
    if (type == JT_LPAREN || type == JT_LBRACKET || type == JT_LBRACE) {
        if (x->n_balance == x->cap_balance) {
            const size_t cap = x->cap_balance ? 2 * x->cap_balance : 64;
            x->balance = sala_jj_grow(x->j, x->balance, x->cap_balance, cap);
            x->cap_balance = cap;
        }
        x->balance[x->n_balance++] = type == JT_LPAREN ? ')' : type == JT_LBRACKET ? ']' : '}';
    } else if (type == JT_RPAREN || type == JT_RBRACKET || type == JT_RBRACE) {
        const char got = *sala_jj_tok_text(type);
        char what[64];
        if (x->n_balance == 0) {
            snprintf(what, sizeof what, "unexpected '%c'", got);
            fail_at(x, x->at, what);
        }
        const char want = x->balance[--x->n_balance];
        if (got != want) {
            snprintf(what, sizeof what, "unexpected '%c', expected '%c'", got, want);
            fail_at(x, x->at, what);
        }
    }
}

static void lex_operator(lexer *x)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(operators); i++) {
        if (!starts(x, x->at, operators[i].text))
            continue;
        balance(x, operators[i].type);
        add(x, operators[i].type, x->at);
        set_at(x, x->at + strlen(operators[i].text));
        return;
    }
    size_t len;
    const uint32_t cp = cp_at(x, x->at, &len);
    char what[64];
    snprintf(what, sizeof what, "unexpected character U+%04X", (unsigned)cp);
    fail_at(x, x->at, what);
}

/* Inside {{ }} or {% %}. */
static void lex_code(lexer *x, bool is_variable)
{
    while (x->at < x->n) {
        if (x->n_balance == 0) {
            const size_t end =
                is_variable ? tag_end(x, x->at, "}}", false, false) : tag_end(x, x->at, "%}", true, true);
            if (end) {
                add(x, is_variable ? JT_VAR_END : JT_BLOCK_END, x->at);
                set_at(x, end);
                return;
            }
        }
        const size_t p = skip_space(x, x->at);
        if (p > x->at)
            set_at(x, p);
        else if (!lex_float(x) && !lex_int(x) && !lex_name(x) && !lex_string(x))
            lex_operator(x);
    }
}

static void lex_root(lexer *x)
{
    while (x->at < x->n) {
        const char *s = x->s;
        size_t p = x->at;
        while (p < x->n) {
            const char *open = memchr(s + p, '{', x->n - p);
            p = open ? (size_t)(open - s) : x->n;
            if (p + 1 < x->n && (s[p + 1] == '%' || s[p + 1] == '{' || s[p + 1] == '#'))
                break;
            p += p < x->n;
        }
        if (p >= x->n) {
            add(x, JT_DATA, x->at)->s = sala_jj_str_of(x->j, s + x->at, x->n - x->at, false);
            return;
        }
        const char kind = s[p + 1];
        size_t q = p + 2;
        char sign = 0;
        if (q < x->n && (s[q] == '-' || s[q] == '+'))
            sign = s[q++];
        add_data(x, x->at, p, sign, kind == '{');
        /* A sign that is really the beginning of "-%}" belongs to a raw tag without a sign of its own; such a tag has
         * no name and is an error either way. */
        const size_t raw = kind == '%' ? raw_begin(x, q) : 0;
        if (raw) {
            set_at(x, raw);
            lex_raw(x, p);
        } else if (kind == '#') {
            set_at(x, q);
            lex_comment(x, p);
        } else {
            add(x, kind == '{' ? JT_VAR_BEGIN : JT_BLOCK_BEGIN, p);
            set_at(x, q);
            lex_code(x, kind == '{');
        }
    }
}

jj_token *sala_jj_lex(jj *j, const char *source, size_t bytes)
{
    char *s = sala_jj_alloc(j, (uint64_t)bytes + 1);
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (source[i] == '\r') {
            s[n++] = '\n';
            i += i + 1 < bytes && source[i + 1] == '\n';
        } else {
            s[n++] = source[i];
        }
    }
    if (n > 0 && s[n - 1] == '\n')
        n--;
    s[n] = 0;
    lexer x = {.j = j, .s = s, .n = n, .line = 1, .line_starting = true};
    for (size_t p = 0; p < n;) {
        uint32_t cp;
        const int len = sala_utf8_decode(s + p, n - p, &cp);
        if (len == 0)
            fail_at(&x, p, "template is not valid UTF-8");
        p += (size_t)len;
    }
    lex_root(&x);
    add(&x, JT_EOF, n);
    return x.tok;
}
