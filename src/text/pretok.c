/* Pre-tokenizers: cut text into words, lazily: each step hands its pieces to the next, the last one to the model, so
 * that no list of words is ever kept. The families that real models share have hand-written scanners; every other
 * regular expression runs in PCRE2. */
#include "text/tokenizer_impl.h"

/* ---- scanners ----
 * Each takes valid UTF-8 and a position below n and returns where the piece that begins there ends. They write out
 * these expressions, alternatives in order: GPT-2:  's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\s L N]+|\s+(?!\S)|\s+
 *   modern: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n L N]?L+|N{1,k}| ?[^\s L N]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * Both cover every text without gaps. */

static inline sala_char_class class_at(const char *s, size_t i, size_t *next)
{
    *next = i;
    const uint32_t cp = sala_utf8_next(s, next);
    return sala_char_class_of(cp);
}

static inline bool is_blank(sala_char_class c)
{
    return c == SALA_CC_SPACE || c == SALA_CC_NEWLINE;
}

static size_t run_of(const char *s, size_t n, size_t i, sala_char_class a, sala_char_class b)
{
    while (i < n) {
        size_t next;
        const sala_char_class c = class_at(s, i, &next);
        if (c != a && c != b)
            break;
        i = next;
    }
    return i;
}

/* \s+(?!\S)|\s+ : all of the white space at the end of the text, otherwise all but its last character, otherwise it. */
static size_t blank_run(const char *s, size_t n, size_t i)
{
    size_t end = i, last = i;
    while (end < n) {
        size_t next;
        if (!is_blank(class_at(s, end, &next)))
            break;
        last = end;
        end = next;
    }
    return end == n || last == i ? end : last;
}

static size_t contraction(const char *s, size_t n, size_t i, bool any_case)
{
    if (i + 1 >= n)
        return 0;
    char a = s[i + 1], b = i + 2 < n ? s[i + 2] : '\0';
    if (any_case) {
        if (a == '\xC5' && b == '\xBF') /* U+017F folds to s */
            return i + 3;
        a = a >= 'A' && a <= 'Z' ? (char)(a | 0x20) : a;
        b = b >= 'A' && b <= 'Z' ? (char)(b | 0x20) : b;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return i + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return i + 3;
    return 0;
}

static size_t scan_gpt2(const char *s, size_t n, size_t i)
{
    if (s[i] == '\'') {
        const size_t end = contraction(s, n, i, false);
        if (end > 0)
            return end;
    }
    size_t next;
    sala_char_class c = class_at(s, i, &next);
    if (s[i] == ' ' && next < n) {
        size_t after;
        const sala_char_class d = class_at(s, next, &after);
        if (is_blank(d))
            return blank_run(s, n, i);
        c = d;
        next = after;
    }
    switch (c) {
    case SALA_CC_LETTER:
        return run_of(s, n, next, SALA_CC_LETTER, SALA_CC_LETTER);
    case SALA_CC_NUMBER:
        return run_of(s, n, next, SALA_CC_NUMBER, SALA_CC_NUMBER);
    case SALA_CC_SPACE:
    case SALA_CC_NEWLINE:
        return blank_run(s, n, i);
    default:
        return run_of(s, n, next, SALA_CC_OTHER, SALA_CC_MARK);
    }
}

static size_t line_ends(const char *s, size_t n, size_t i)
{
    while (i < n && (s[i] == '\r' || s[i] == '\n'))
        i++;
    return i;
}

static size_t scan_modern(const sala_scan *f, const char *s, size_t n, size_t i)
{
    if (s[i] == '\'') {
        const size_t end = contraction(s, n, i, true);
        if (end > 0)
            return end;
    }
    const sala_char_class mark = f->marks ? SALA_CC_MARK : SALA_CC_LETTER;
    size_t next;
    const sala_char_class c = class_at(s, i, &next);
    if (c == SALA_CC_LETTER || c == mark)
        return run_of(s, n, next, SALA_CC_LETTER, mark);
    if (c == SALA_CC_NUMBER) {
        if (f->digits == 0)
            return run_of(s, n, next, SALA_CC_NUMBER, SALA_CC_NUMBER);
        for (int k = 1; k < f->digits && next < n; k++) {
            size_t after;
            if (class_at(s, next, &after) != SALA_CC_NUMBER)
                break;
            next = after;
        }
        return next;
    }
    size_t after = n;
    sala_char_class d = SALA_CC_NEWLINE;
    if (next < n)
        d = class_at(s, next, &after);
    if (c != SALA_CC_NEWLINE && next < n && (d == SALA_CC_LETTER || d == mark))
        return run_of(s, n, after, SALA_CC_LETTER, mark);
    const sala_char_class other_mark = f->marks ? SALA_CC_OTHER : SALA_CC_MARK;
    if (!is_blank(c))
        return line_ends(s, n, run_of(s, n, next, SALA_CC_OTHER, other_mark));
    if (s[i] == ' ' && next < n && (d == SALA_CC_OTHER || d == other_mark))
        return line_ends(s, n, run_of(s, n, after, SALA_CC_OTHER, other_mark));
    /* White space: through its last line end if it has one. */
    size_t end = i, last_line_end = 0;
    while (end < n) {
        size_t e;
        const sala_char_class k = class_at(s, end, &e);
        if (!is_blank(k))
            break;
        end = e;
        if (k == SALA_CC_NEWLINE)
            last_line_end = end;
    }
    return last_line_end > 0 ? last_line_end : blank_run(s, n, i);
}

/* ---- splitting with behaviours ---- */

typedef struct splitter {
    sala_encoder *e;
    int step; /* of the pieces */
    const char *s;
    bool at_start;
    sala_split_behavior behavior;
    bool invert;
    bool pending, pending_match;
    size_t from, to;
} splitter;

static bool emit(splitter *p, size_t from, size_t to)
{
    if (from == to)
        return true;
    return sala_pretokenize(p->e, p->step + 1, p->s + from, to - from, p->at_start && from == 0);
}

static bool flush(splitter *p)
{
    if (!p->pending)
        return true;
    p->pending = false;
    return emit(p, p->from, p->to);
}

static bool feed(splitter *p, size_t from, size_t to, bool match)
{
    if (from == to)
        return true;
    match = match != p->invert;
    bool join = false;
    switch (p->behavior) {
    case SALA_SPLIT_REMOVED:
        return match || emit(p, from, to);
    case SALA_SPLIT_ISOLATED:
        return emit(p, from, to);
    case SALA_SPLIT_WITH_PREVIOUS:
        join = match && !p->pending_match;
        break;
    case SALA_SPLIT_WITH_NEXT:
        join = !match && p->pending_match;
        break;
    case SALA_SPLIT_CONTIGUOUS:
        join = match == p->pending_match;
        break;
    }
    if (p->pending && join) {
        p->to = to;
        /* A piece that took its neighbour in counts as the kind of what came last. */
        p->pending_match = match;
        return true;
    }
    if (!flush(p))
        return false;
    p->pending = true;
    p->pending_match = match;
    p->from = from;
    p->to = to;
    return true;
}

static bool split_scan(splitter *p, const sala_scan *f, size_t n)
{
    for (size_t i = 0; i < n;) {
        const size_t end = f->modern ? scan_modern(f, p->s, n, i) : scan_gpt2(p->s, n, i);
        if (!emit(p, i, end))
            return false;
        i = end;
    }
    return true;
}

static bool regex_ready(sala_encoder *e)
{
    if (e->match != NULL)
        return true;
    e->match = pcre2_match_data_create(1, NULL);
    e->match_context = pcre2_match_context_create(NULL);
    /* May be NULL where JIT is missing; then the default stack is used. */
    e->jit_stack = pcre2_jit_stack_create(32 * 1024, 16 * 1024 * 1024, NULL);
    if (e->match == NULL || e->match_context == NULL)
        return sala_encoder_no_memory(e);
    if (e->jit_stack != NULL)
        pcre2_jit_stack_assign(e->match_context, NULL, e->jit_stack);
    return true;
}

static bool split_regex(splitter *p, const sala_pretok_step *step, size_t n)
{
    sala_encoder *e = p->e;
    if (!regex_ready(e))
        return false;
    size_t done = 0, at = 0;
    while (at <= n) {
        const int rc =
            pcre2_match(step->regex, (PCRE2_SPTR)p->s, n, at, PCRE2_NO_UTF_CHECK, e->match, e->match_context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0) {
            e->status =
                sala_fail(e->err, SALA_E_LIMIT, "the pre-tokenizer's regular expression \"%.200s\" gave up (PCRE2 %d)",
                          step->text, rc);
            return false;
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(e->match);
        /* The match data belongs to the encoder and steps below may use it, so the ends are copied first. */
        const size_t from = v[0], to = v[1];
        if (to <= from) {
            at = from < n ? from + sala_utf8_len(p->s[from]) : n + 1;
            continue;
        }
        if (!feed(p, done, from, false) || !feed(p, from, to, true))
            return false;
        done = at = to;
    }
    return feed(p, done, n, false) && flush(p);
}

static bool split_literal(splitter *p, const char *text, size_t len, size_t n)
{
    size_t done = 0;
    while (len > 0 && n - done >= len) {
        const char *hit = memmem(p->s + done, n - done, text, len);
        if (hit == NULL)
            break;
        const size_t from = (size_t)(hit - p->s);
        if (!feed(p, done, from, false) || !feed(p, from, from + len, true))
            return false;
        done = from + len;
    }
    return feed(p, done, n, false) && flush(p);
}

static bool is_number(uint32_t cp)
{
    return sala_char_class_of(cp) == SALA_CC_NUMBER;
}

static bool split_chars(splitter *p, bool (*match)(uint32_t cp), size_t n)
{
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t next = i;
        if (match(sala_utf8_next(p->s, &next))) {
            if (!feed(p, done, i, false) || !feed(p, i, next, true))
                return false;
            done = next;
        }
        i = next;
    }
    return feed(p, done, n, false) && flush(p);
}

/* \w+|[^\w\s]+ */
static bool split_words(splitter *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        const size_t from = i;
        uint32_t cp = sala_utf8_next(p->s, &i);
        const bool word = sala_char_is_word(cp);
        if (!word && sala_char_is_space(cp))
            continue;
        while (i < n) {
            size_t next = i;
            cp = sala_utf8_next(p->s, &next);
            if (sala_char_is_word(cp) != word || (!word && sala_char_is_space(cp)))
                break;
            i = next;
        }
        if (!emit(p, from, i))
            return false;
    }
    return true;
}

static bool split_metaspace(splitter *p, const sala_pretok_step *step, size_t n)
{
    sala_buf b = {0};
    const char *s = p->s;
    const bool starts = s[0] == ' ' || (n >= step->text_len && memcmp(s, step->text, step->text_len) == 0);
    const bool prepend = step->prepend == SALA_PREPEND_ALWAYS || (step->prepend == SALA_PREPEND_FIRST && p->at_start);
    if (prepend && !starts)
        sala_buf_add(&b, step->text, step->text_len);
    for (size_t i = 0; i < n;) {
        const char *space = memchr(s + i, ' ', n - i);
        const size_t end = space != NULL ? (size_t)(space - s) : n;
        sala_buf_add(&b, s + i, end - i);
        if (space != NULL)
            sala_buf_add(&b, step->text, step->text_len);
        i = end + 1;
    }
    bool ok;
    if (b.failed) {
        ok = sala_encoder_no_memory(p->e);
    } else {
        p->s = b.data;
        ok = step->split ? split_literal(p, step->text, step->text_len, b.len) : emit(p, 0, b.len);
    }
    sala_buf_free(&b);
    return ok;
}

bool sala_pretokenize(sala_encoder *e, int index, const char *s, size_t n, bool at_start)
{
    const sala_tokenizer *t = e->t;
    if (n == 0)
        return true;
    if (index == t->n_pretoks)
        return sala_encode_word(e, s, n);
    const sala_pretok_step *step = &t->pretoks[index];
    splitter p = {
        .e = e, .step = index, .s = s, .at_start = at_start, .behavior = step->behavior, .invert = step->invert};
    switch (step->kind) {
    case SALA_PT_SCAN:
        return split_scan(&p, &step->scan, n);
    case SALA_PT_REGEX:
        return split_regex(&p, step, n);
    case SALA_PT_LITERAL:
        return split_literal(&p, step->text, step->text_len, n);
    case SALA_PT_DIGITS:
        return split_chars(&p, is_number, n);
    case SALA_PT_WHITESPACE:
        return split_words(&p, n);
    case SALA_PT_SPACES:
        return split_chars(&p, sala_char_is_space, n);
    case SALA_PT_PUNCTUATION:
        return split_chars(&p, sala_char_is_punct, n);
    case SALA_PT_METASPACE:
        return split_metaspace(&p, step, n);
    case SALA_PT_PREFIX_SPACE: {
        if (s[0] == ' ')
            return emit(&p, 0, n);
        sala_buf b = {0};
        sala_buf_add_char(&b, ' ');
        sala_buf_add(&b, s, n);
        p.s = b.data;
        const bool ok = b.failed ? sala_encoder_no_memory(e) : emit(&p, 0, b.len);
        sala_buf_free(&b);
        return ok;
    }
    }
    return true;
}

void sala_pretok_step_free(sala_pretok_step *s)
{
    pcre2_code_free(s->regex);
    free(s->text);
    *s = (sala_pretok_step){0};
}
