/* Tokens and the syntax tree of a template. Nodes live in the arena of their template and never change. */
#ifndef SALA_TEXT_JINJA_SYNTAX_H
#define SALA_TEXT_JINJA_SYNTAX_H

#include "text/jinja_core.h"

typedef enum jj_tok {
    JT_EOF,
    JT_DATA,
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    /* operators; JT_ADD .. JT_POW double as the operators of binary nodes */
    JT_ADD,
    JT_SUB,
    JT_MUL,
    JT_DIV,
    JT_FLOORDIV,
    JT_MOD,
    JT_POW,
    JT_TILDE,
    JT_EQ,
    JT_NE,
    JT_LT,
    JT_LE,
    JT_GT,
    JT_GE,
    JT_IN,     /* never a token: the operators of comparison nodes */
    JT_NOT_IN, /* likewise */
    JT_ASSIGN,
    JT_DOT,
    JT_COLON,
    JT_COMMA,
    JT_PIPE,
    JT_SEMICOLON,
    JT_LPAREN,
    JT_RPAREN,
    JT_LBRACKET,
    JT_RBRACKET,
    JT_LBRACE,
    JT_RBRACE,
} jj_tok;

typedef struct jj_token {
    jj_tok type;
    int line;
    size_t at;        /* byte offset in the source */
    const char *text; /* NAME: NUL-terminated */
    jj_str *s;        /* DATA, STRING */
    int64_t i;
    double f;
} jj_token;

/* The tokens end with JT_EOF. */
jj_token *sala_jj_lex(jj *j, const char *source, size_t bytes);
const char *sala_jj_tok_text(jj_tok type);

typedef enum jj_node_kind {
    /* expressions */
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_TUPLE,
    JN_DICT, /* kids: key, value, key, value ... */
    JN_COND, /* a: test, b: then, c: otherwise or NULL */
    JN_OR,
    JN_AND,
    JN_NOT,
    JN_COMPARE, /* a: first, kids: the others, ops */
    JN_BINARY,
    JN_CONCAT,
    JN_NEG,
    JN_POS,
    JN_GETATTR,
    JN_GETITEM, /* b: the key, possibly a JN_SLICE */
    JN_SLICE,   /* a, b, c; each may be NULL */
    JN_CALL,
    JN_FILTER, /* a is NULL in a filter block: the block's text */
    JN_TEST,
    JN_NSREF, /* name.attr as target of an assignment */
    /* statements */
    JN_DATA,
    JN_OUTPUT,
    JN_IF,  /* kids: tests; bodies: one per test, and one more for else */
    JN_FOR, /* a: target, b: items, c: test; bodies: loop, else */
    JN_SET, /* a: target, b: value */
    JN_SET_BLOCK,
    JN_MACRO,
    JN_CALL_BLOCK, /* b: the call; otherwise as a macro */
    JN_FILTER_BLOCK,
    JN_WITH, /* kids: target, value, ... */
    JN_BLOCK,
    JN_SCOPE, /* bodies[0] in a scope of its own: generation */
    JN_AUTOESCAPE,
    JN_BREAK,
    JN_CONTINUE,
    JN_UNSUPPORTED,
} jj_node_kind;

typedef struct jj_body {
    jj_node **v;
    size_t n;
} jj_body;

enum {
    JF_RECURSIVE = 1,
    JF_VARARGS = 2, /* macros: which special names the body uses */
    JF_KWARGS = 4,
    JF_CALLER = 8,
    JF_SCOPED = 16,
    JF_REQUIRED = 32,
};

typedef struct jj_kwarg {
    const char *name;
    jj_node *value;
} jj_kwarg;

struct jj_node {
    jj_node_kind kind;
    int line;
    unsigned flags;
    jj_tok op;
    jj_node *a, *b, *c;
    jj_node **kids; /* items, positional arguments, parameters' defaults (NULL: none) */
    size_t n_kids;
    jj_tok *ops;
    jj_kwarg *kwargs;
    size_t n_kwargs;
    jj_node *star, *star2; /* *args, **kwargs of a call */
    jj_body *bodies;
    size_t n_bodies;
    const char *name; /* interned; for filters and tests the name as written */
    const char **params;
    size_t n_params;
    const jj_callable *fn; /* filters and tests; NULL: unknown, an error when reached */
    jj_val value;
};

struct sala_jinja {
    jj_block *blocks;
    jj_body body;
    const char **late; /* names that hide the caller's variables before they are assigned: jinja_names.c */
    size_t n_late;
    const char *name_loop, *name_caller, *name_varargs, *name_kwargs; /* interned */
};

void sala_jj_find_late_names(jj *j, struct sala_jinja *t);
jj_body sala_jj_parse(jj *j, struct sala_jinja *t, const char *source, size_t bytes);

#endif
