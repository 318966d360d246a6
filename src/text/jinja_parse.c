/* Tokens to the syntax tree: recursive descent with jinja2's grammar and precedences. Names are interned, so that
 * scopes can compare pointers. */
#include "text/jinja_syntax.h"

enum { MAX_PARSE_DEPTH = 200, N_BUCKETS = 4096, MAX_OPEN_MACROS = MAX_PARSE_DEPTH };

typedef struct interned {
    const char *text;
    struct interned *next;
} interned;

typedef struct parser {
    jj *j;
    const jj_token *tok; /* the current one; JT_EOF is never passed */
    int depth;
    int loops;                         /* loops open in the current function */
    unsigned *macros[MAX_OPEN_MACROS]; /* flags of the macros whose bodies are open */
    int n_macros;
    const char *open[MAX_OPEN_MACROS + 1]; /* tags still to be closed, for messages */
    int n_open;
    interned *names[N_BUCKETS];
} parser;

static jj_node *parse_expression(parser *p, bool with_cond);
static jj_node *parse_tuple(parser *p, bool simple, bool with_cond, const char *end_name, bool parens, bool with_ns);
static jj_node *parse_unary(parser *p, bool with_filter);
static jj_body parse_body(parser *p, const char *const *ends);

static _Noreturn void fail_here(parser *p, const char *fmt, ...) SALA_PRINTF(2, 3);
static _Noreturn void fail_here(parser *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    p->j->line = p->tok->line;
    p->j->at = (int64_t)p->tok->at;
    sala_jj_vfail(p->j, SALA_E_TEMPLATE, fmt, args);
}

static _Noreturn void fail_expected(parser *p, const char *what)
{
    fail_here(p, "expected %s, found '%s'", what,
              p->tok->type == JT_NAME ? p->tok->text : sala_jj_tok_text(p->tok->type));
}

static void deeper(parser *p)
{
    if (++p->depth > MAX_PARSE_DEPTH) {
        p->j->line = p->tok->line;
        sala_jj_fail(p->j, SALA_E_LIMIT, "the template nests deeper than %d levels", MAX_PARSE_DEPTH);
    }
}

static const char *intern(parser *p, const char *text)
{
    unsigned h = 5381;
    for (const char *c = text; *c; c++)
        h = h * 33 + (unsigned char)*c;
    interned **slot = &p->names[h % N_BUCKETS];
    for (interned *i = *slot; i; i = i->next) {
        sala_jj_step(p->j, 1);
        if (strcmp(i->text, text) == 0)
            return i->text;
    }
    interned *i = sala_jj_alloc(p->j, sizeof *i);
    *i = (interned){.text = text, .next = *slot};
    *slot = i;
    return text;
}

static jj_node *node(parser *p, jj_node_kind kind, int line)
{
    jj_node *n = sala_jj_alloc(p->j, sizeof *n);
    *n = (jj_node){.kind = kind, .line = line};
    return n;
}

static void add_kid(parser *p, jj_node *n, size_t *cap, jj_node *kid)
{
    if (n->n_kids == *cap) {
        const size_t more = *cap ? 2 * *cap : 4;
        n->kids = sala_jj_grow(p->j, n->kids, *cap * sizeof *n->kids, more * sizeof *n->kids);
        *cap = more;
    }
    n->kids[n->n_kids++] = kid;
}

static void next(parser *p)
{
    if (p->tok->type != JT_EOF)
        p->tok++;
}

static bool at(const parser *p, jj_tok type)
{
    return p->tok->type == type;
}

static bool at_name(const parser *p, const char *name)
{
    return p->tok->type == JT_NAME && strcmp(p->tok->text, name) == 0;
}

static bool next_is_name(const parser *p, const char *name)
{
    return p->tok->type != JT_EOF && p->tok[1].type == JT_NAME && strcmp(p->tok[1].text, name) == 0;
}

static bool skip(parser *p, jj_tok type)
{
    if (!at(p, type))
        return false;
    next(p);
    return true;
}

static bool skip_name(parser *p, const char *name)
{
    if (!at_name(p, name))
        return false;
    next(p);
    return true;
}

static void expect(parser *p, jj_tok type)
{
    if (!skip(p, type)) {
        char what[32];
        snprintf(what, sizeof what, type == JT_NAME ? "%s" : "'%s'", sala_jj_tok_text(type));
        fail_expected(p, what);
    }
}

static const char *expect_name(parser *p)
{
    const char *text = p->tok->text;
    expect(p, JT_NAME);
    return intern(p, text);
}

static void expect_word(parser *p, const char *word)
{
    if (!skip_name(p, word)) {
        char what[32];
        snprintf(what, sizeof what, "'%s'", word);
        fail_expected(p, what);
    }
}

/* ---- expressions ---- */

/* "(" has been reached. Fills kids, kwargs, star and star2 of n. */
static void parse_call_args(parser *p, jj_node *n)
{
    size_t cap = 0, kw_cap = 0;
    bool comma = false;
    expect(p, JT_LPAREN);
    while (!at(p, JT_RPAREN)) {
        if (comma) {
            expect(p, JT_COMMA);
            if (at(p, JT_RPAREN))
                break;
        }
        if (at(p, JT_MUL)) {
            if (n->star || n->star2)
                fail_here(p, "a second * in the arguments of a call");
            next(p);
            n->star = parse_expression(p, true);
        } else if (at(p, JT_POW)) {
            if (n->star2)
                fail_here(p, "a second ** in the arguments of a call");
            next(p);
            n->star2 = parse_expression(p, true);
        } else if (at(p, JT_NAME) && p->tok[1].type == JT_ASSIGN) {
            if (n->star2)
                fail_here(p, "argument '%s' behind **", p->tok->text);
            if (n->n_kwargs == kw_cap) {
                const size_t more = kw_cap ? 2 * kw_cap : 4;
                n->kwargs = sala_jj_grow(p->j, n->kwargs, kw_cap * sizeof *n->kwargs, more * sizeof *n->kwargs);
                kw_cap = more;
            }
            const char *name = intern(p, p->tok->text);
            sala_jj_step(p->j, n->n_kwargs);
            for (size_t i = 0; i < n->n_kwargs; i++)
                if (n->kwargs[i].name == name)
                    fail_here(p, "argument '%s' is given twice", name);
            next(p);
            next(p);
            jj_kwarg *k = &n->kwargs[n->n_kwargs];
            k->name = name;
            k->value = parse_expression(p, true);
            n->n_kwargs++;
        } else {
            if (n->star || n->star2 || n->n_kwargs)
                fail_here(p, "positional argument behind a named one");
            add_kid(p, n, &cap, parse_expression(p, true));
        }
        comma = true;
    }
    expect(p, JT_RPAREN);
}

static jj_node *parse_call(parser *p, jj_node *f)
{
    jj_node *n = node(p, JN_CALL, p->tok->line);
    n->a = f;
    parse_call_args(p, n);
    return n;
}

static const char *parse_dotted_name(parser *p)
{
    const char *name = expect_name(p);
    while (skip(p, JT_DOT)) {
        const char *more = expect_name(p);
        char *joined = sala_jj_alloc(p->j, strlen(name) + strlen(more) + 2);
        sprintf(joined, "%s.%s", name, more);
        name = joined;
    }
    return name;
}

/* The name of the filter has been reached. */
static jj_node *parse_one_filter(parser *p, jj_node *in)
{
    jj_node *n = node(p, JN_FILTER, p->tok->line);
    n->a = in;
    n->name = parse_dotted_name(p);
    n->fn = sala_jj_find_filter(n->name);
    if (at(p, JT_LPAREN))
        parse_call_args(p, n);
    return n;
}

static jj_node *parse_subscribed(parser *p)
{
    const int line = p->tok->line;
    jj_node *lo = NULL;
    if (!at(p, JT_COLON)) {
        lo = parse_expression(p, true);
        if (!at(p, JT_COLON))
            return lo;
    }
    next(p);
    jj_node *n = node(p, JN_SLICE, line);
    n->a = lo;
    if (!at(p, JT_COLON) && !at(p, JT_RBRACKET) && !at(p, JT_COMMA))
        n->b = parse_expression(p, true);
    if (skip(p, JT_COLON) && !at(p, JT_RBRACKET) && !at(p, JT_COMMA))
        n->c = parse_expression(p, true);
    return n;
}

static jj_node *parse_subscript(parser *p, jj_node *of)
{
    const int line = p->tok->line;
    if (skip(p, JT_DOT)) {
        jj_node *n;
        if (at(p, JT_NAME)) {
            n = node(p, JN_GETATTR, line);
            n->name = intern(p, p->tok->text);
        } else if (at(p, JT_INT)) {
            n = node(p, JN_GETITEM, line);
            n->b = node(p, JN_CONST, line);
            n->b->value = jj_int(p->tok->i);
        } else {
            fail_expected(p, "a name or number behind '.'");
        }
        n->a = of;
        next(p);
        return n;
    }
    next(p);
    jj_node *n = node(p, JN_GETITEM, line);
    jj_node *tuple = node(p, JN_TUPLE, line);
    size_t cap = 0;
    n->a = of;
    while (!at(p, JT_RBRACKET)) {
        if (tuple->n_kids)
            expect(p, JT_COMMA);
        add_kid(p, tuple, &cap, parse_subscribed(p));
    }
    expect(p, JT_RBRACKET);
    n->b = tuple->n_kids == 1 ? tuple->kids[0] : tuple;
    return n;
}

static jj_node *parse_postfix(parser *p, jj_node *n)
{
    for (;;) {
        if (at(p, JT_DOT) || at(p, JT_LBRACKET))
            n = parse_subscript(p, n);
        else if (at(p, JT_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

static jj_node *parse_dict(parser *p)
{
    jj_node *n = node(p, JN_DICT, p->tok->line);
    size_t cap = 0;
    expect(p, JT_LBRACE);
    while (!at(p, JT_RBRACE)) {
        if (n->n_kids)
            expect(p, JT_COMMA);
        if (at(p, JT_RBRACE))
            break;
        add_kid(p, n, &cap, parse_expression(p, true));
        expect(p, JT_COLON);
        add_kid(p, n, &cap, parse_expression(p, true));
    }
    expect(p, JT_RBRACE);
    return n;
}

static jj_node *parse_list(parser *p)
{
    jj_node *n = node(p, JN_LIST, p->tok->line);
    size_t cap = 0;
    expect(p, JT_LBRACKET);
    while (!at(p, JT_RBRACKET)) {
        if (n->n_kids)
            expect(p, JT_COMMA);
        if (at(p, JT_RBRACKET))
            break;
        add_kid(p, n, &cap, parse_expression(p, true));
    }
    expect(p, JT_RBRACKET);
    return n;
}

static void note_special_name(parser *p, const char *name)
{
    const unsigned flag = strcmp(name, "caller") == 0    ? JF_CALLER
                          : strcmp(name, "varargs") == 0 ? JF_VARARGS
                          : strcmp(name, "kwargs") == 0  ? JF_KWARGS
                                                         : 0;
    for (int i = 0; flag && i < p->n_macros; i++)
        *p->macros[i] |= flag;
}

static jj_node *parse_name(parser *p, bool with_ns)
{
    const jj_token *t = p->tok;
    next(p);
    if (strcmp(t->text, "true") == 0 || strcmp(t->text, "True") == 0 || strcmp(t->text, "false") == 0 ||
        strcmp(t->text, "False") == 0) {
        jj_node *n = node(p, JN_CONST, t->line);
        n->value = jj_bool((t->text[0] | 0x20) == 't');
        return n;
    }
    if (strcmp(t->text, "none") == 0 || strcmp(t->text, "None") == 0) {
        jj_node *n = node(p, JN_CONST, t->line);
        n->value = sala_jj_none;
        return n;
    }
    jj_node *n = node(p, JN_NAME, t->line);
    n->name = intern(p, t->text);
    if (with_ns && skip(p, JT_DOT)) {
        n->kind = JN_NSREF;
        n->value = sala_jj_lit(p->j, expect_name(p));
    } else {
        note_special_name(p, n->name);
    }
    return n;
}

static jj_node *parse_primary(parser *p, bool with_ns)
{
    const jj_token *t = p->tok;
    jj_node *n;
    switch (t->type) {
    case JT_NAME:
        return parse_name(p, with_ns);
    case JT_STRING:
        n = node(p, JN_CONST, t->line);
        n->value = jj_str_val(t->s);
        next(p);
        if (at(p, JT_STRING)) {
            jj_builder b = {.j = p->j};
            sala_jj_put_str(&b, t->s);
            for (; at(p, JT_STRING); next(p))
                sala_jj_put_str(&b, p->tok->s);
            n->value = jj_finish_val(&b);
        }
        return n;
    case JT_INT:
    case JT_FLOAT:
        n = node(p, JN_CONST, t->line);
        n->value = t->type == JT_INT ? jj_int(t->i) : jj_float(t->f);
        next(p);
        return n;
    case JT_LPAREN:
        next(p);
        n = parse_tuple(p, false, true, NULL, true, false);
        expect(p, JT_RPAREN);
        return n;
    case JT_LBRACKET:
        return parse_list(p);
    case JT_LBRACE:
        return parse_dict(p);
    default:
        fail_expected(p, "an expression");
    }
}

static jj_node *parse_test(parser *p, jj_node *of)
{
    jj_node *n = node(p, JN_TEST, p->tok->line);
    next(p);
    const bool negated = skip_name(p, "not");
    n->a = of;
    n->name = parse_dotted_name(p);
    n->fn = sala_jj_find_test(n->name);
    if (at(p, JT_LPAREN)) {
        parse_call_args(p, n);
    } else if ((at(p, JT_NAME) || at(p, JT_STRING) || at(p, JT_INT) || at(p, JT_FLOAT) || at(p, JT_LBRACKET) ||
                at(p, JT_LBRACE)) &&
               !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and")) {
        if (at_name(p, "is"))
            fail_here(p, "tests cannot be chained with 'is'");
        size_t cap = 0;
        add_kid(p, n, &cap, parse_postfix(p, parse_primary(p, false)));
    }
    if (!negated)
        return n;
    jj_node *not = node(p, JN_NOT, n->line);
    not ->a = n;
    return not ;
}

static jj_node *parse_filter_expr(parser *p, jj_node *n)
{
    for (;;) {
        if (skip(p, JT_PIPE))
            n = parse_one_filter(p, n);
        else if (at_name(p, "is"))
            n = parse_test(p, n);
        else if (at(p, JT_LPAREN))
            n = parse_call(p, n);
        else
            return n;
    }
}

static jj_node *parse_unary(parser *p, bool with_filter)
{
    const int line = p->tok->line;
    jj_node *n;
    deeper(p);
    if (at(p, JT_SUB) || at(p, JT_ADD)) {
        n = node(p, at(p, JT_SUB) ? JN_NEG : JN_POS, line);
        next(p);
        n->a = parse_unary(p, false);
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    if (with_filter)
        n = parse_filter_expr(p, n);
    p->depth--;
    return n;
}

static jj_node *binary(parser *p, jj_node_kind kind, jj_tok op, jj_node *a, jj_node *b, int line)
{
    jj_node *n = node(p, kind, line);
    n->op = op;
    n->a = a;
    n->b = b;
    return n;
}

static jj_node *parse_pow(parser *p)
{
    const int line = p->tok->line;
    jj_node *n = parse_unary(p, true);
    while (skip(p, JT_POW))
        n = binary(p, JN_BINARY, JT_POW, n, parse_unary(p, true), line);
    return n;
}

static jj_node *parse_product(parser *p)
{
    const int line = p->tok->line;
    jj_node *n = parse_pow(p);
    while (at(p, JT_MUL) || at(p, JT_DIV) || at(p, JT_FLOORDIV) || at(p, JT_MOD)) {
        const jj_tok op = p->tok->type;
        next(p);
        n = binary(p, JN_BINARY, op, n, parse_pow(p), line);
    }
    return n;
}

static jj_node *parse_concat(parser *p)
{
    const int line = p->tok->line;
    jj_node *first = parse_product(p);
    if (!at(p, JT_TILDE))
        return first;
    jj_node *n = node(p, JN_CONCAT, line);
    size_t cap = 0;
    add_kid(p, n, &cap, first);
    while (skip(p, JT_TILDE))
        add_kid(p, n, &cap, parse_product(p));
    return n;
}

static jj_node *parse_sum(parser *p)
{
    const int line = p->tok->line;
    jj_node *n = parse_concat(p);
    while (at(p, JT_ADD) || at(p, JT_SUB)) {
        const jj_tok op = p->tok->type;
        next(p);
        n = binary(p, JN_BINARY, op, n, parse_concat(p), line);
    }
    return n;
}

static jj_node *parse_compare(parser *p)
{
    const int line = p->tok->line;
    jj_node *first = parse_sum(p), *n = NULL;
    size_t cap = 0, ops_cap = 0;
    for (;;) {
        jj_tok op = p->tok->type;
        if (at_name(p, "in"))
            op = JT_IN;
        else if (at_name(p, "not") && next_is_name(p, "in"))
            op = JT_NOT_IN;
        if (op < JT_EQ || op > JT_NOT_IN)
            break;
        next(p);
        if (op == JT_NOT_IN)
            next(p);
        if (!n) {
            n = node(p, JN_COMPARE, line);
            n->a = first;
        }
        if (n->n_kids == ops_cap) {
            const size_t more = ops_cap ? 2 * ops_cap : 4;
            n->ops = sala_jj_grow(p->j, n->ops, ops_cap * sizeof *n->ops, more * sizeof *n->ops);
            ops_cap = more;
        }
        n->ops[n->n_kids] = op;
        add_kid(p, n, &cap, parse_sum(p));
    }
    return n ? n : first;
}

static jj_node *parse_not(parser *p)
{
    if (!at_name(p, "not"))
        return parse_compare(p);
    jj_node *n = node(p, JN_NOT, p->tok->line);
    next(p);
    deeper(p);
    n->a = parse_not(p);
    p->depth--;
    return n;
}

static jj_node *parse_and(parser *p)
{
    const int line = p->tok->line;
    jj_node *n = parse_not(p);
    while (skip_name(p, "and"))
        n = binary(p, JN_AND, JT_EOF, n, parse_not(p), line);
    return n;
}

static jj_node *parse_or(parser *p)
{
    const int line = p->tok->line;
    jj_node *n = parse_and(p);
    while (skip_name(p, "or"))
        n = binary(p, JN_OR, JT_EOF, n, parse_and(p), line);
    return n;
}

static jj_node *parse_expression(parser *p, bool with_cond)
{
    const int line = p->tok->line;
    deeper(p);
    jj_node *n = parse_or(p);
    while (with_cond && skip_name(p, "if")) {
        jj_node *cond = node(p, JN_COND, line);
        cond->b = n;
        cond->a = parse_or(p);
        if (skip_name(p, "else"))
            cond->c = parse_expression(p, true);
        n = cond;
    }
    p->depth--;
    return n;
}

static jj_node *parse_tuple(parser *p, bool simple, bool with_cond, const char *end_name, bool parens, bool with_ns)
{
    jj_node *first = NULL, *tuple = NULL;
    const int line = p->tok->line;
    size_t cap = 0;
    deeper(p);
    for (;;) {
        if (first)
            expect(p, JT_COMMA);
        if (at(p, JT_VAR_END) || at(p, JT_BLOCK_END) || at(p, JT_RPAREN) || (end_name && at_name(p, end_name)))
            break;
        jj_node *item = simple ? parse_primary(p, with_ns) : parse_expression(p, with_cond);
        if (tuple)
            add_kid(p, tuple, &cap, item);
        else
            first = item;
        if (!at(p, JT_COMMA))
            break;
        if (!tuple) {
            tuple = node(p, JN_TUPLE, line);
            add_kid(p, tuple, &cap, first);
        }
    }
    p->depth--;
    if (tuple)
        return tuple;
    if (first)
        return first;
    if (!parens)
        fail_expected(p, "an expression");
    return node(p, JN_TUPLE, line);
}

/* ---- statements ---- */

static void check_target(parser *p, const jj_node *n)
{
    if (n->kind == JN_TUPLE) {
        for (size_t i = 0; i < n->n_kids; i++)
            check_target(p, n->kids[i]);
    } else if (n->kind != JN_NAME && n->kind != JN_NSREF) {
        fail_here(p, "what stands in front of this cannot be assigned to");
    }
}

static jj_node *parse_target(parser *p, const char *end_name, bool with_ns)
{
    /* Names of a target are stores: they must not count as uses of caller, varargs or kwargs. */
    const int n_macros = p->n_macros;
    p->n_macros = 0;
    jj_node *n = parse_tuple(p, true, true, end_name, false, with_ns);
    p->n_macros = n_macros;
    check_target(p, n);
    return n;
}

static void open_tag(parser *p, const char *name)
{
    deeper(p);
    p->open[p->n_open++] = name;
}

static void close_tag(parser *p)
{
    p->n_open--;
    p->depth--;
}

static jj_body *new_bodies(parser *p, jj_node *n, size_t count)
{
    n->bodies = sala_jj_alloc_array(p->j, count, sizeof *n->bodies);
    memset(n->bodies, 0, count * sizeof *n->bodies);
    n->n_bodies = count;
    return n->bodies;
}

static jj_node *parse_if(parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    jj_node *n = node(p, JN_IF, p->tok->line);
    size_t cap = 0, n_bodies = 0, cap_bodies = 0;
    for (;;) {
        const bool otherwise = at_name(p, "else");
        next(p);
        if (!otherwise)
            add_kid(p, n, &cap, parse_tuple(p, false, false, NULL, false, false));
        if (n_bodies == cap_bodies) {
            const size_t more = cap_bodies ? 2 * cap_bodies : 4;
            n->bodies = sala_jj_grow(p->j, n->bodies, cap_bodies * sizeof *n->bodies, more * sizeof *n->bodies);
            cap_bodies = more;
        }
        const jj_body body = parse_body(p, otherwise ? end : ends);
        n->bodies[n_bodies++] = body;
        if (at_name(p, "endif"))
            break;
    }
    next(p);
    n->n_bodies = n_bodies;
    return n;
}

static jj_node *parse_for(parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
    jj_node *n = node(p, JN_FOR, p->tok->line);
    next(p);
    n->a = parse_target(p, "in", false);
    expect_word(p, "in");
    n->b = parse_tuple(p, false, false, "recursive", false, false);
    if (skip_name(p, "if"))
        n->c = parse_expression(p, true);
    if (skip_name(p, "recursive"))
        n->flags |= JF_RECURSIVE;
    new_bodies(p, n, 2);
    p->loops++;
    n->bodies[0] = parse_body(p, ends);
    p->loops--;
    if (at_name(p, "else")) {
        next(p);
        n->bodies[1] = parse_body(p, end);
    }
    next(p);
    return n;
}

static jj_node *parse_filters(parser *p, jj_node *in)
{
    jj_node *n = parse_one_filter(p, in);
    while (skip(p, JT_PIPE))
        n = parse_one_filter(p, n);
    return n;
}

static jj_node *parse_set(parser *p)
{
    static const char *const end[] = {"endset", NULL};
    jj_node *n = node(p, JN_SET, p->tok->line);
    next(p);
    n->a = parse_target(p, NULL, true);
    if (skip(p, JT_ASSIGN)) {
        n->b = parse_tuple(p, false, true, NULL, false, false);
        return n;
    }
    n->kind = JN_SET_BLOCK;
    if (skip(p, JT_PIPE))
        n->b = parse_filters(p, NULL);
    *new_bodies(p, n, 1) = parse_body(p, end);
    next(p);
    return n;
}

static void parse_params(parser *p, jj_node *n)
{
    size_t cap = 0;
    expect(p, JT_LPAREN);
    while (!at(p, JT_RPAREN)) {
        if (n->n_params)
            expect(p, JT_COMMA);
        const char *name = expect_name(p);
        sala_jj_step(p->j, n->n_params);
        for (size_t i = 0; i < n->n_params; i++)
            if (n->params[i] == name)
                fail_here(p, "parameter '%s' appears twice", name);
        jj_node *otherwise = NULL;
        if (skip(p, JT_ASSIGN))
            otherwise = parse_expression(p, true);
        else if (n->n_kids && n->kids[n->n_kids - 1])
            fail_here(p, "parameter '%s' without a default behind one that has one", name);
        n->params =
            sala_jj_grow(p->j, n->params, n->n_params * sizeof *n->params, (n->n_params + 1) * sizeof *n->params);
        n->params[n->n_params++] = name;
        add_kid(p, n, &cap, otherwise);
    }
    expect(p, JT_RPAREN);
}

/* The body of a macro or call block: a function of its own, which loops outside do not reach into. */
static void parse_function_body(parser *p, jj_node *n, const char *const *end)
{
    const int loops = p->loops;
    p->loops = 0;
    p->macros[p->n_macros++] = &n->flags;
    *new_bodies(p, n, 1) = parse_body(p, end);
    p->n_macros--;
    p->loops = loops;
    next(p);
}

static jj_node *parse_macro(parser *p)
{
    static const char *const end[] = {"endmacro", NULL};
    jj_node *n = node(p, JN_MACRO, p->tok->line);
    next(p);
    n->name = expect_name(p);
    parse_params(p, n);
    parse_function_body(p, n, end);
    return n;
}

static jj_node *parse_call_block(parser *p)
{
    static const char *const end[] = {"endcall", NULL};
    jj_node *n = node(p, JN_CALL_BLOCK, p->tok->line);
    next(p);
    if (at(p, JT_LPAREN))
        parse_params(p, n);
    n->b = parse_expression(p, true);
    if (n->b->kind != JN_CALL)
        fail_here(p, "expected the call of a macro in front of this");
    n->name = intern(p, "caller");
    parse_function_body(p, n, end);
    return n;
}

static jj_node *parse_filter_block(parser *p)
{
    static const char *const end[] = {"endfilter", NULL};
    jj_node *n = node(p, JN_FILTER_BLOCK, p->tok->line);
    next(p);
    n->b = parse_filters(p, NULL);
    *new_bodies(p, n, 1) = parse_body(p, end);
    next(p);
    return n;
}

static jj_node *parse_with(parser *p)
{
    static const char *const end[] = {"endwith", NULL};
    jj_node *n = node(p, JN_WITH, p->tok->line);
    size_t cap = 0;
    next(p);
    while (!at(p, JT_BLOCK_END)) {
        if (n->n_kids)
            expect(p, JT_COMMA);
        add_kid(p, n, &cap, parse_target(p, NULL, false));
        expect(p, JT_ASSIGN);
        add_kid(p, n, &cap, parse_expression(p, true));
    }
    *new_bodies(p, n, 1) = parse_body(p, end);
    next(p);
    return n;
}

static jj_node *parse_block(parser *p)
{
    static const char *const end[] = {"endblock", NULL};
    jj_node *n = node(p, JN_BLOCK, p->tok->line);
    next(p);
    n->name = expect_name(p);
    if (skip_name(p, "scoped"))
        n->flags |= JF_SCOPED;
    if (skip_name(p, "required"))
        n->flags |= JF_REQUIRED;
    const int loops = p->loops;
    p->loops = 0;
    *new_bodies(p, n, 1) = parse_body(p, end);
    p->loops = loops;
    next(p);
    skip_name(p, n->name);
    return n;
}

static jj_node *parse_generation(parser *p)
{
    static const char *const end[] = {"endgeneration", NULL};
    jj_node *n = node(p, JN_SCOPE, p->tok->line);
    next(p);
    const int loops = p->loops;
    p->loops = 0;
    *new_bodies(p, n, 1) = parse_body(p, end);
    p->loops = loops;
    next(p);
    return n;
}

static jj_node *parse_autoescape(parser *p)
{
    static const char *const end[] = {"endautoescape", NULL};
    jj_node *n = node(p, JN_AUTOESCAPE, p->tok->line);
    next(p);
    n->b = parse_expression(p, true);
    *new_bodies(p, n, 1) = parse_body(p, end);
    next(p);
    return n;
}

static jj_node *parse_print(parser *p)
{
    jj_node *n = node(p, JN_OUTPUT, p->tok->line);
    size_t cap = 0;
    next(p);
    while (!at(p, JT_BLOCK_END)) {
        if (n->n_kids)
            expect(p, JT_COMMA);
        add_kid(p, n, &cap, parse_expression(p, true));
    }
    return n;
}

static jj_node *parse_jump(parser *p)
{
    jj_node *n = node(p, at_name(p, "break") ? JN_BREAK : JN_CONTINUE, p->tok->line);
    if (p->loops == 0)
        fail_here(p, "'%s' outside a loop", p->tok->text);
    next(p);
    return n;
}

/* Tags that reach for other templates: nothing is there to be loaded, which is an error once they are reached. */
static jj_node *parse_unsupported(parser *p)
{
    jj_node *n = node(p, JN_UNSUPPORTED, p->tok->line);
    n->name = intern(p, p->tok->text);
    while (!at(p, JT_BLOCK_END) && !at(p, JT_EOF))
        next(p);
    return n;
}

static jj_node *parse_statement(parser *p)
{
    static const struct {
        const char *name;
        jj_node *(*parse)(parser *p);
    } tags[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_block},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"block", parse_block},
        {"print", parse_print},
        {"generation", parse_generation},
        {"break", parse_jump},
        {"continue", parse_jump},
        {"include", parse_unsupported},
        {"import", parse_unsupported},
        {"from", parse_unsupported},
        {"extends", parse_unsupported},
        {"autoescape", parse_autoescape},
    };
    if (!at(p, JT_NAME))
        fail_expected(p, "the name of a tag");
    for (size_t i = 0; i < SALA_ARRAY_LEN(tags); i++) {
        if (strcmp(p->tok->text, tags[i].name) != 0)
            continue;
        open_tag(p, tags[i].name);
        jj_node *n = tags[i].parse(p);
        close_tag(p);
        return n;
    }
    if (p->n_open)
        fail_here(p, "unknown tag '%s'; the innermost open tag is '%s'", p->tok->text, p->open[p->n_open - 1]);
    fail_here(p, "unknown tag '%s'", p->tok->text);
}

/* Text, prints and statements up to one of the tags in `ends` (NULL: up to the end), which becomes the current token.
 */
static jj_body parse_items(parser *p, const char *const *ends)
{
    jj_node list = {.kind = JN_LIST};
    size_t cap = 0;
    for (;;) {
        const int line = p->tok->line;
        if (at(p, JT_EOF)) {
            if (ends) {
                char what[64];
                snprintf(what, sizeof what, "'{%% %s %%}' of '%s'", ends[0], p->open[p->n_open - 1]);
                fail_expected(p, what);
            }
            break;
        }
        if (at(p, JT_DATA)) {
            jj_node *n = node(p, JN_DATA, line);
            n->value = jj_str_val(p->tok->s);
            add_kid(p, &list, &cap, n);
            next(p);
        } else if (skip(p, JT_VAR_BEGIN)) {
            jj_node *n = node(p, JN_OUTPUT, line);
            size_t one = 0;
            add_kid(p, n, &one, parse_tuple(p, false, true, NULL, false, false));
            add_kid(p, &list, &cap, n);
            expect(p, JT_VAR_END);
        } else {
            expect(p, JT_BLOCK_BEGIN);
            for (size_t i = 0; ends && ends[i]; i++)
                if (at_name(p, ends[i]))
                    return (jj_body){list.kids, list.n_kids};
            add_kid(p, &list, &cap, parse_statement(p));
            expect(p, JT_BLOCK_END);
        }
    }
    return (jj_body){list.kids, list.n_kids};
}

static jj_body parse_body(parser *p, const char *const *ends)
{
    skip(p, JT_COLON);
    expect(p, JT_BLOCK_END);
    return parse_items(p, ends);
}

jj_body sala_jj_parse(jj *j, struct sala_jinja *t, const char *source, size_t bytes)
{
    parser *p = sala_jj_alloc(j, sizeof *p);
    *p = (parser){.j = j, .tok = sala_jj_lex(j, source, bytes)};
    t->name_loop = intern(p, "loop");
    t->name_caller = intern(p, "caller");
    t->name_varargs = intern(p, "varargs");
    t->name_kwargs = intern(p, "kwargs");
    return parse_items(p, NULL);
}
