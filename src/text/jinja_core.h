/* What the parts of the template interpreter share: memory, strings with their origin, values, errors.
 *
 * Everything made while a template is compiled or rendered lives in one arena that is dropped as a whole. That is what
 * makes leaving by longjmp sound: sala_jj_fail() may be called at any depth, nothing has to be released on the way, and
 * the code between can be written as if nothing failed. No longjmp crosses a frame that is not of this interpreter.
 *
 * A string knows for each of its bytes whether it came from the caller's variables or from the template itself. Most
 * strings are of one origin, which costs one flag; only mixed ones carry a byte per byte. */
#ifndef SALA_TEXT_JINJA_CORE_H
#define SALA_TEXT_JINJA_CORE_H

#include "text/jinja.h"

#include <setjmp.h>

typedef struct jj jj;
typedef struct jj_node jj_node;
typedef struct jj_scope jj_scope;
typedef struct jj_builder jj_builder;

/* ---- values ---- */

typedef enum jj_kind {
    JJ_MISSING, /* an argument that was not given; never seen by a template */
    JJ_UNDEFINED,
    JJ_NONE,
    JJ_BOOL,
    JJ_INT,
    JJ_FLOAT,
    JJ_STR,
    JJ_LIST,
    JJ_TUPLE,
    JJ_DICT,
    JJ_VIEW, /* of a dict: keys, values or items */
    JJ_RANGE,
    JJ_ITER, /* what filters such as map and select give: can be gone through once */
    JJ_NAMESPACE,
    JJ_MACRO,
    JJ_LOOP,
    JJ_METHOD, /* a method together with the value it belongs to */
    JJ_GLOBAL, /* range, dict, raise_exception, ... */
    JJ_CYCLER,
    JJ_JOINER,
} jj_kind;

typedef struct jj_str {
    const char *data;    /* valid UTF-8, not NUL-terminated */
    const uint8_t *from; /* per byte: 1 if it came from the variables; NULL: all bytes are as `input` says */
    size_t bytes, chars;
    bool input;
    bool markup; /* made by safe or escape: + escapes what is joined to it */
} jj_str;

typedef struct jj_list jj_list;
typedef struct jj_dict jj_dict;
typedef struct jj_undef jj_undef;
typedef struct jj_view jj_view;
typedef struct jj_range jj_range;
typedef struct jj_macro jj_macro;
typedef struct jj_loop jj_loop;
typedef struct jj_bound jj_bound;
typedef struct jj_global jj_global;
typedef struct jj_cycler jj_cycler;

typedef struct jj_val {
    jj_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        jj_str *s;
        jj_list *l; /* LIST, TUPLE, ITER */
        jj_dict *d; /* DICT, NAMESPACE */
        const jj_undef *u;
        jj_view *view;
        jj_range *range;
        jj_macro *macro;
        jj_loop *loop;
        jj_bound *bound;
        const jj_global *global;
        jj_cycler *cycler;
    } u;
} jj_val;

struct jj_list {
    jj_val *v;
    size_t n, cap;
    size_t used;  /* ITER: items already handed out */
    bool input;   /* stands in the variables */
    bool grouped; /* a pair made by groupby: has .grouper and .list */
};

typedef struct jj_pair {
    jj_val key, value;
} jj_pair;

struct jj_dict {
    jj_pair *v; /* in order of insertion */
    size_t n, cap;
    uint32_t *index; /* open addressing, 0 is empty, otherwise position + 1; NULL while the dict is small */
    size_t index_size;
    bool input;
};

/* Why a value is undefined, for the message if it is used. */
struct jj_undef {
    const char *name; /* "'x' is undefined" when owner is NULL */
    const char *owner;
    const char *hint; /* overrides both */
    bool unsafe;
};

struct jj_view {
    jj_dict *d;
    char part; /* 'k', 'v' or 'i' */
};

struct jj_range {
    int64_t start, stop, step;
};

struct jj_macro {
    const jj_node *node;
    jj_scope *scope; /* where it was defined */
};

struct jj_cycler {
    jj_val *v; /* for a joiner: the separator */
    size_t n, at;
};

typedef struct jj_arg {
    const char *name; /* NULL: positional */
    jj_val value;
} jj_arg;

typedef struct jj_args {
    jj_arg *v; /* positional ones first */
    size_t n, n_pos;
} jj_args;

/* A row of the tables of filters, methods and globals. `params`: names separated by spaces, "?" marks an optional one;
 * NULL: the function wants the arguments as they are. a[] has one entry per parameter, MISSING if not given. */
typedef jj_val jj_fn(jj *j, jj_val self, const jj_val *a);
typedef jj_val jj_raw_fn(jj *j, jj_val self, const jj_args *args);
typedef struct jj_callable {
    const char *name;
    const char *params;
    jj_fn *fn;
    jj_raw_fn *raw;
} jj_callable;

struct jj_bound {
    jj_val self;
    const jj_callable *fn;
};

struct jj_global {
    jj_callable fn;
};

struct jj_loop {
    const jj_node *node;
    jj_scope *outer;
    jj_list *src;
    size_t at;     /* next item of src to look at */
    bool filtered; /* items still have to pass the loop's `if` */
    bool has_after, has_before;
    jj_val before, current, after;
    int64_t index0, length; /* length: -1 while unknown */
    int depth0;
    jj_list *changed; /* arguments of the last call of changed(); NULL: none yet */
};

typedef struct jj_binding {
    const char *name; /* interned in the template */
    jj_val value;
    struct jj_binding *next;
} jj_binding;

struct jj_scope {
    jj_scope *parent;
    jj_binding *vars;
};

/* ---- the machine: one compilation or one rendering ---- */

typedef struct jj_block jj_block;

struct jj {
    jmp_buf escape;
    sala_status status;
    sala_error *err;
    int line;   /* of the template, for messages */
    int64_t at; /* byte offset in the template while it is compiled, -1 otherwise */

    jj_block *blocks;
    uint64_t held, max_held; /* bytes of the arena */
    uint64_t made, max_made; /* bytes of strings */
    uint64_t steps, max_steps;
    int depth, max_depth; /* macros, recursive loops, nesting of values */
    int nest, max_nest;   /* recursion of the evaluator itself */

    const struct sala_jinja *t;
    jj_scope *root, *scope;
    jj_builder *out;
    jj_val vars;
    jj_val block_text; /* what a filter block or a block assignment filters */
    int64_t now;
    bool (*trusts)(void *user, int depth, const char *key, const json_t *value);
    void *trust_user;
};

/* "line N: message"; does not return. */
_Noreturn void sala_jj_fail(jj *j, sala_status status, const char *fmt, ...) SALA_PRINTF(3, 4);
_Noreturn void sala_jj_vfail(jj *j, sala_status status, const char *fmt, va_list args) SALA_PRINTF(3, 0);
_Noreturn void sala_jj_fail_words(jj *j, const jj_str *words); /* what raise_exception was given, nothing added */

/* How much of a name of n bytes goes into a message. */
static inline int jj_clip(size_t n)
{
    return n < 100 ? (int)n : 100;
}

void *sala_jj_alloc(jj *j, uint64_t bytes); /* never NULL */
void *sala_jj_alloc_array(jj *j, size_t n, size_t size);
void *sala_jj_grow(jj *j, void *p, uint64_t old_bytes, uint64_t new_bytes);
char *sala_jj_text(jj *j, const char *s, size_t n); /* NUL-terminated copy */
void sala_jj_drop_arena(jj_block *blocks);
void sala_jj_step(jj *j, uint64_t n);
void sala_jj_enter(jj *j); /* one level of values or calls deeper; pair with sala_jj_leave */
void sala_jj_leave(jj *j);

/* ---- strings ---- */

struct jj_builder {
    jj *j;
    char *data;
    uint8_t *from;
    size_t len, cap;
    bool input;
};

void sala_jj_put(jj_builder *b, const char *data, size_t n, bool input);
void sala_jj_put_sub(jj_builder *b, const jj_str *s, size_t at, size_t n);
void sala_jj_put_str(jj_builder *b, const jj_str *s);
void sala_jj_put_lit(jj_builder *b, const char *s, bool input);
void sala_jj_put_fill(jj_builder *b, char c, int64_t n);
void sala_jj_put_cp(jj_builder *b, uint32_t cp, bool input);
jj_str *sala_jj_finish(jj_builder *b);
static inline jj_val jj_finish_val(jj_builder *b)
{
    return (jj_val){.kind = JJ_STR, .u.s = sala_jj_finish(b)};
}

jj_str *sala_jj_str_of(jj *j, const char *data, size_t n, bool input); /* borrows data */
jj_str *sala_jj_sub(jj *j, const jj_str *s, size_t at, size_t n);      /* bytes; shares the data */
size_t sala_jj_byte_at(const jj_str *s, size_t chars);                 /* byte offset of a character */
bool sala_jj_is_input(const jj_str *s, size_t at);
bool sala_jj_same(const jj_str *a, const jj_str *b);
bool sala_jj_is(const jj_str *s, const char *text);
size_t sala_jj_find(jj *j, const jj_str *s, size_t from, const jj_str *what); /* SIZE_MAX: not there */
uint32_t sala_jj_cp(const jj_str *s, size_t at, size_t *len);
bool sala_jj_is_space(uint32_t cp);

/* ---- making values ---- */

extern const jj_val sala_jj_none, sala_jj_missing;
static inline jj_val jj_bool(bool b)
{
    return (jj_val){.kind = JJ_BOOL, .u.b = b};
}
static inline jj_val jj_int(int64_t i)
{
    return (jj_val){.kind = JJ_INT, .u.i = i};
}
static inline jj_val jj_float(double f)
{
    return (jj_val){.kind = JJ_FLOAT, .u.f = f};
}
static inline jj_val jj_str_val(jj_str *s)
{
    return (jj_val){.kind = JJ_STR, .u.s = s};
}
jj_val sala_jj_lit(jj *j, const char *text); /* a string of the interpreter's own; borrowed */
jj_val sala_jj_undefined(jj *j, const char *name);
jj_val sala_jj_undefined_hint(jj *j, const char *hint);
jj_val sala_jj_undefined_attr(jj *j, jj_val owner, const char *name);
jj_list *sala_jj_list_new(jj *j, size_t cap);
void sala_jj_push(jj *j, jj_list *l, jj_val v);
static inline jj_val jj_list_val(jj_list *l)
{
    return (jj_val){.kind = JJ_LIST, .u.l = l};
}
static inline jj_val jj_iter_val(jj_list *l)
{
    return (jj_val){.kind = JJ_ITER, .u.l = l};
}
jj_val sala_jj_tuple2(jj *j, jj_val a, jj_val b);
jj_dict *sala_jj_dict_new(jj *j, size_t cap);
void sala_jj_dict_add(jj *j, jj_dict *d, jj_val key, jj_val value); /* key is known to be new */
void sala_jj_dict_set(jj *j, jj_dict *d, jj_val key, jj_val value);
jj_val *sala_jj_dict_get(jj *j, const jj_dict *d, jj_val key); /* NULL: not there */
jj_val *sala_jj_dict_get_text(jj *j, const jj_dict *d, const char *key);
jj_val sala_jj_from_json(jj *j, const json_t *v, int depth);

/* ---- asking values ---- */

const char *sala_jj_type_name(jj_val v); /* as Python calls it: 'str', 'NoneType', ... */
bool sala_jj_truth(jj *j, jj_val v);
bool sala_jj_equal(jj *j, jj_val a, jj_val b);
/* -1, 0, 1; 2 when one is not a number at all. Fails for values that have no order. `op` is for the message. */
int sala_jj_order(jj *j, jj_val a, jj_val b, const char *op);
bool sala_jj_hashable(jj_val v);
bool sala_jj_contains(jj *j, jj_val item, jj_val in);
int64_t sala_jj_length(jj *j, jj_val v); /* -1: has none */
bool sala_jj_iterable(jj_val v);
jj_list *sala_jj_items(jj *j, jj_val v);   /* all items; fails when it cannot be gone through; uses up an ITER */
bool sala_jj_is_int(jj_val v, int64_t *i); /* int or bool */
bool sala_jj_is_number(jj_val v, double *f);
int64_t sala_jj_range_len(const jj_range *r); /* its numbers are bounded by range() */
_Noreturn void sala_jj_fail_undefined(jj *j, jj_val v);

/* ---- text of values: jinja_repr.c ---- */

jj_str *sala_jj_to_str(jj *j, jj_val v); /* str(v) */
void sala_jj_put_repr(jj_builder *b, jj_val v, bool input);
jj_str *sala_jj_repr(jj *j, jj_val v);
void sala_jj_put_val(jj_builder *b, jj_val v);
jj_val sala_jj_tojson(jj *j, jj_val self, const jj_val *a);
size_t sala_jj_format_float(char dst[40], double v); /* as repr() */
bool sala_jj_parse_float(const char *s, size_t n, double *out);
bool sala_jj_parse_int(const char *s, size_t n, int base,
                       int64_t *out); /* surrounding white space and _ as Python's int() */

/* ---- jinja_format.c ---- */

jj_str *sala_jj_percent(jj *j, const jj_str *fmt, jj_val args);
jj_val sala_jj_str_format(jj *j, jj_val self, const jj_args *args);

/* strftime() as in the C locale, for seconds since 1970 in UTC; a time without a zone: %z and %Z are empty. */
jj_val sala_jj_strftime(jj *j, const jj_str *fmt, int64_t now);

/* ---- operators, attributes, calls ---- */

jj_val sala_jj_binary(jj *j, int op, jj_val a, jj_val b);
jj_val sala_jj_getattr(jj *j, jj_val v, const char *name);
jj_val sala_jj_getitem(jj *j, jj_val v, jj_val key);
jj_val sala_jj_slice(jj *j, jj_val v, jj_val lo, jj_val hi, jj_val step);
jj_val sala_jj_call(jj *j, jj_val f, const jj_args *args);
jj_val sala_jj_apply(jj *j, const jj_callable *c, const char *what, jj_val self, const jj_args *args);
jj_val sala_jj_call_macro(jj *j, const jj_macro *m, const jj_args *args); /* jinja_eval.c */
jj_val sala_jj_call_loop(jj *j, const jj_loop *l, jj_val items);          /* jinja_eval.c */
bool sala_jj_loop_peek(jj *j, jj_loop *l);                                /* jinja_eval.c: is there a next item? */
int64_t sala_jj_loop_length(jj *j, jj_loop *l);                           /* jinja_eval.c */

enum { JJ_MAX_PARAMS = 8, JJ_MAX_RANGE = 100000 };

const jj_callable *sala_jj_find_filter(const char *name);
const jj_callable *sala_jj_find_test(const char *name); /* its functions give a BOOL */
const jj_global *sala_jj_find_global(const char *name);
extern const jj_callable sala_jj_str_methods[]; /* ends with a NULL name */
jj_val sala_jj_str_upper(jj *j, jj_val self, const jj_val *a);
jj_val sala_jj_str_lower(jj *j, jj_val self, const jj_val *a);
jj_val sala_jj_str_strip(jj *j, jj_val self, const jj_val *a);
jj_val sala_jj_str_replace(jj *j, jj_val self, const jj_val *a); /* old, new, count */
jj_val sala_jj_str_capitalize(jj *j, jj_val self, const jj_val *a);
jj_val sala_jj_str_center(jj *j, jj_val self, const jj_val *a);
jj_list *sala_jj_str_lines(jj *j, const jj_str *s, bool keep_ends);
bool sala_jj_str_is_case(const jj_str *s, bool upper);
uint32_t sala_jj_title_cp(uint32_t cp);

int64_t sala_jj_want_int(jj *j, jj_val v, int64_t otherwise, const char *what); /* MISSING or none: otherwise */
const jj_str *sala_jj_want_str(jj *j, jj_val v, const char *what);

jj_val sala_jj_escape(jj *j, jj_val v, bool even_markup);

/* ---- rendering ---- */

/* sala_jinja_render(), with a say in which strings of the variables count as the template's own. depth: nesting of the
 * object that holds `key`; 0 is the variables themselves. */
sala_status sala_jj_render(const sala_jinja *t, const json_t *vars, int64_t now, const sala_jinja_limits *limits,
                           bool (*trusts)(void *user, int depth, const char *key, const json_t *value),
                           void *trust_user, char **text, size_t *bytes, sala_jinja_span **spans, size_t *n_spans,
                           sala_error *err);

#endif
