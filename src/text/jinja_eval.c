/* The evaluator, and the public functions.
 *
 * Scopes are linked; a loop's body gets a new one for every turn, `if` gets none, and a macro remembers the one it was
 * defined in. That gives the visibility rules of jinja2, which assigns names to scopes when it compiles. */
#include "text/jinja_syntax.h"

#include <stdlib.h>

/* Steps of the compiler are comparisons of names, of which sound templates have few. */
enum { MAX_TEMPLATE_BYTES = 16 << 20, MAX_COMPILE_STEPS = 20000000 };

typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static jj_val eval(jj *j, const jj_node *n);
static flow exec_body(jj *j, const jj_body *body);

/* ---- scopes ---- */

static jj_scope *new_scope(jj *j, jj_scope *parent)
{
    jj_scope *s = sala_jj_alloc(j, sizeof *s);
    *s = (jj_scope){.parent = parent};
    return s;
}

static void bind(jj *j, jj_scope *s, const char *name, jj_val v)
{
    uint64_t looked_at = 0;
    for (jj_binding *b = s->vars; b; b = b->next, looked_at++)
        if (b->name == name) {
            b->value = v;
            return;
        }
    sala_jj_step(j, looked_at / 8);
    jj_binding *b = sala_jj_alloc(j, sizeof *b);
    *b = (jj_binding){name, v, s->vars};
    s->vars = b;
}

static jj_val lookup(jj *j, const char *name)
{
    uint64_t looked_at = 0;
    for (const jj_scope *s = j->scope; s; s = s->parent)
        for (const jj_binding *b = s->vars; b; b = b->next, looked_at++)
            if (b->name == name) {
                sala_jj_step(j, looked_at / 8);
                return b->value.kind == JJ_MISSING ? sala_jj_undefined(j, name) : b->value;
            }
    sala_jj_step(j, looked_at / 8);
    const jj_val *v = sala_jj_dict_get_text(j, j->vars.u.d, name);
    if (v)
        return *v;
    const jj_global *g = sala_jj_find_global(name);
    if (g)
        return (jj_val){.kind = JJ_GLOBAL, .u.global = g};
    return sala_jj_undefined(j, name);
}

static void assign(jj *j, const jj_node *target, jj_val v)
{
    if (target->kind == JN_NAME) {
        bind(j, j->scope, target->name, v);
    } else if (target->kind == JN_NSREF) {
        const jj_val ns = lookup(j, target->name);
        if (ns.kind != JJ_NAMESPACE)
            sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' is not a namespace: its attributes cannot be set", target->name);
        if (target->value.u.s->data[0] == '_')
            sala_jj_fail(j, SALA_E_TEMPLATE, "names in a namespace cannot begin with an underscore");
        sala_jj_dict_set(j, ns.u.d, target->value, v);
    } else {
        const jj_list *l = sala_jj_items(j, v);
        if (l->n != target->n_kids)
            sala_jj_fail(j, SALA_E_TEMPLATE, "%zu values for %zu names", l->n, target->n_kids);
        for (size_t i = 0; i < l->n; i++)
            assign(j, target->kids[i], l->v[i]);
    }
}

/* ---- calls ---- */

static void push_arg(jj *j, jj_args *args, size_t *cap, const char *name, jj_val v)
{
    if (args->n == *cap) {
        const size_t more = *cap ? 2 * *cap : 4;
        args->v = sala_jj_grow(j, args->v, *cap * sizeof *args->v, more * sizeof *args->v);
        *cap = more;
    }
    args->v[args->n++] = (jj_arg){name, v};
}

static jj_args eval_args(jj *j, const jj_node *n, jj_val caller)
{
    size_t cap = n->n_kids + n->n_kwargs + 1;
    jj_args args = {.v = sala_jj_alloc_array(j, cap, sizeof *args.v)};
    for (size_t i = 0; i < n->n_kids; i++)
        push_arg(j, &args, &cap, NULL, eval(j, n->kids[i]));
    if (n->star) {
        const jj_list *l = sala_jj_items(j, eval(j, n->star));
        for (size_t i = 0; i < l->n; i++)
            push_arg(j, &args, &cap, NULL, l->v[i]);
        sala_jj_step(j, l->n);
    }
    args.n_pos = args.n;
    for (size_t i = 0; i < n->n_kwargs; i++)
        push_arg(j, &args, &cap, n->kwargs[i].name, eval(j, n->kwargs[i].value));
    if (n->star2) {
        const jj_val v = eval(j, n->star2);
        if (v.kind != JJ_DICT)
            sala_jj_fail(j, SALA_E_TEMPLATE, "a mapping has to follow **, found %s", sala_jj_type_name(v));
        for (size_t i = 0; i < v.u.d->n; i++) {
            const jj_str *key = sala_jj_want_str(j, v.u.d->v[i].key, "a name behind **");
            const char *name = sala_jj_text(j, key->data, key->bytes);
            sala_jj_step(j, args.n - args.n_pos);
            for (size_t k = args.n_pos; k < args.n; k++)
                if (strcmp(args.v[k].name, name) == 0)
                    sala_jj_fail(j, SALA_E_TEMPLATE, "argument '%s' is given twice", name);
            push_arg(j, &args, &cap, name, v.u.d->v[i].value);
        }
    }
    if (caller.kind != JJ_MISSING)
        push_arg(j, &args, &cap, j->t->name_caller, caller);
    return args;
}

jj_val sala_jj_call_macro(jj *j, const jj_macro *m, const jj_args *args)
{
    const jj_node *n = m->node;
    jj_scope *const scope_before = j->scope, *scope = new_scope(j, m->scope);
    jj_builder *const out_before = j->out, body = {.j = j};
    const int line = j->line;
    const char *name = n->kind == JN_MACRO ? n->name : "caller";
    bool *taken = sala_jj_alloc(j, args->n + 1);
    memset(taken, 0, args->n + 1);
    sala_jj_enter(j);
    bool has_caller = false;
    for (size_t i = 0; i < n->n_params; i++) {
        sala_jj_step(j, 1 + (args->n - args->n_pos) / 8);
        jj_val v = sala_jj_missing;
        if (i < args->n_pos) {
            v = args->v[i].value;
            taken[i] = true;
        }
        for (size_t k = args->n_pos; v.kind == JJ_MISSING && k < args->n; k++)
            if (strcmp(args->v[k].name, n->params[i]) == 0) {
                v = args->v[k].value;
                taken[k] = true;
            }
        has_caller = has_caller || n->params[i] == j->t->name_caller;
        if (v.kind == JJ_MISSING && n->kids[i]) {
            j->scope = scope;
            v = eval(j, n->kids[i]);
        } else if (v.kind == JJ_MISSING) {
            v = sala_jj_undefined_hint(j, "a parameter of the macro was not given");
        }
        bind(j, scope, n->params[i], v);
    }
    if ((n->flags & JF_CALLER) && !has_caller) {
        jj_val v = sala_jj_undefined_hint(j, "the macro was not called by a call block: there is no caller");
        for (size_t k = args->n_pos; k < args->n; k++)
            if (strcmp(args->v[k].name, "caller") == 0) {
                v = args->v[k].value;
                taken[k] = true;
            }
        bind(j, scope, j->t->name_caller, v);
    }
    if (n->flags & JF_KWARGS) {
        jj_dict *d = sala_jj_dict_new(j, 0);
        for (size_t k = args->n_pos; k < args->n; k++)
            if (!taken[k])
                sala_jj_dict_set(j, d, sala_jj_lit(j, args->v[k].name), args->v[k].value);
        bind(j, scope, j->t->name_kwargs, (jj_val){.kind = JJ_DICT, .u.d = d});
    }
    if (n->flags & JF_VARARGS) {
        jj_list *l = sala_jj_list_new(j, 0);
        for (size_t i = n->n_params; i < args->n_pos; i++)
            sala_jj_push(j, l, args->v[i].value);
        bind(j, scope, j->t->name_varargs, (jj_val){.kind = JJ_TUPLE, .u.l = l});
    }
    for (size_t k = 0; k < args->n; k++) {
        if (taken[k] || (k < args->n_pos ? n->flags & JF_VARARGS : n->flags & JF_KWARGS))
            continue;
        if (k < args->n_pos)
            sala_jj_fail(j, SALA_E_TEMPLATE, "macro '%s' takes no more than %zu arguments", name, n->n_params);
        sala_jj_fail(j, SALA_E_TEMPLATE, "macro '%s' takes no argument '%s'", name, args->v[k].name);
    }
    j->scope = scope;
    j->out = &body;
    exec_body(j, &n->bodies[0]);
    j->out = out_before;
    j->scope = scope_before;
    j->line = line;
    sala_jj_leave(j);
    return jj_finish_val(&body);
}

/* ---- expressions ---- */

static jj_val make_list(jj *j, const jj_node *n, jj_kind kind)
{
    jj_list *l = sala_jj_list_new(j, n->n_kids);
    for (size_t i = 0; i < n->n_kids; i++)
        sala_jj_push(j, l, eval(j, n->kids[i]));
    return (jj_val){.kind = kind, .u.l = l};
}

static jj_val make_dict(jj *j, const jj_node *n)
{
    jj_dict *d = sala_jj_dict_new(j, n->n_kids / 2);
    for (size_t i = 0; i < n->n_kids; i += 2) {
        const jj_val key = eval(j, n->kids[i]);
        sala_jj_dict_set(j, d, key, eval(j, n->kids[i + 1]));
    }
    return (jj_val){.kind = JJ_DICT, .u.d = d};
}

static jj_val compare(jj *j, const jj_node *n)
{
    jj_val left = eval(j, n->a);
    for (size_t i = 0; i < n->n_kids; i++) {
        const jj_val right = eval(j, n->kids[i]);
        const jj_tok op = n->ops[i];
        bool yes;
        if (op == JT_EQ || op == JT_NE)
            yes = sala_jj_equal(j, left, right) == (op == JT_EQ);
        else if (op == JT_IN || op == JT_NOT_IN)
            yes = sala_jj_contains(j, left, right) == (op == JT_IN);
        else {
            const int c = sala_jj_order(j, left, right, sala_jj_tok_text(op));
            yes = op == JT_LT ? c == -1 : op == JT_LE ? c == -1 || c == 0 : op == JT_GT ? c == 1 : c == 1 || c == 0;
        }
        if (!yes)
            return jj_bool(false);
        left = right;
    }
    return jj_bool(true);
}

static jj_val negate(jj *j, jj_val v, bool minus)
{
    int64_t i;
    if (v.kind == JJ_UNDEFINED)
        sala_jj_fail_undefined(j, v);
    if (v.kind == JJ_FLOAT)
        return jj_float(minus ? -v.u.f : v.u.f);
    if (!sala_jj_is_int(v, &i))
        sala_jj_fail(j, SALA_E_TEMPLATE, "a sign in front of a %s", sala_jj_type_name(v));
    if (minus && i == INT64_MIN)
        sala_jj_fail(j, SALA_E_LIMIT, "an integer beyond 64 bits");
    return jj_int(minus ? -i : i);
}

static jj_val eval_or_missing(jj *j, const jj_node *n)
{
    return n ? eval(j, n) : sala_jj_missing;
}

static jj_val eval_concat(jj *j, const jj_node *n)
{
    jj_builder b = {.j = j};
    for (size_t i = 0; i < n->n_kids; i++)
        sala_jj_put_val(&b, eval(j, n->kids[i]));
    return jj_finish_val(&b);
}

static jj_val eval_node(jj *j, const jj_node *n)
{
    switch (n->kind) {
    case JN_CONST:
        return n->value;
    case JN_NAME:
        return lookup(j, n->name);
    case JN_LIST:
        return make_list(j, n, JJ_LIST);
    case JN_TUPLE:
        return make_list(j, n, JJ_TUPLE);
    case JN_DICT:
        return make_dict(j, n);
    case JN_COND:
        if (sala_jj_truth(j, eval(j, n->a)))
            return eval(j, n->b);
        return n->c ? eval(j, n->c) : sala_jj_undefined_hint(j, "an inline 'if' was false and has no 'else'");
    case JN_OR: {
        const jj_val v = eval(j, n->a);
        return sala_jj_truth(j, v) ? v : eval(j, n->b);
    }
    case JN_AND: {
        const jj_val v = eval(j, n->a);
        return sala_jj_truth(j, v) ? eval(j, n->b) : v;
    }
    case JN_NOT:
        return jj_bool(!sala_jj_truth(j, eval(j, n->a)));
    case JN_COMPARE:
        return compare(j, n);
    case JN_BINARY: {
        const jj_val a = eval(j, n->a), b = eval(j, n->b);
        return sala_jj_binary(j, n->op, a, b);
    }
    case JN_CONCAT:
        return eval_concat(j, n);
    case JN_NEG:
    case JN_POS:
        return negate(j, eval(j, n->a), n->kind == JN_NEG);
    case JN_GETATTR:
        return sala_jj_getattr(j, eval(j, n->a), n->name);
    case JN_GETITEM: {
        const jj_val v = eval(j, n->a);
        if (n->b->kind != JN_SLICE)
            return sala_jj_getitem(j, v, eval(j, n->b));
        const jj_val lo = eval_or_missing(j, n->b->a), hi = eval_or_missing(j, n->b->b);
        return sala_jj_slice(j, v, lo, hi, eval_or_missing(j, n->b->c));
    }
    case JN_SLICE:
        sala_jj_fail(j, SALA_E_UNSUPPORTED, "slices in several dimensions are not supported");
    case JN_CALL: {
        const jj_val f = eval(j, n->a);
        const jj_args args = eval_args(j, n, sala_jj_missing);
        j->line = n->line;
        return sala_jj_call(j, f, &args);
    }
    case JN_FILTER: {
        const jj_val v = n->a ? eval(j, n->a) : j->block_text;
        const jj_args args = eval_args(j, n, sala_jj_missing);
        j->line = n->line;
        if (!n->fn)
            sala_jj_fail(j, SALA_E_TEMPLATE, "there is no filter '%s'", n->name);
        return sala_jj_apply(j, n->fn, "filter", v, &args);
    }
    case JN_TEST: {
        const jj_val v = eval(j, n->a);
        const jj_args args = eval_args(j, n, sala_jj_missing);
        j->line = n->line;
        if (!n->fn)
            sala_jj_fail(j, SALA_E_TEMPLATE, "there is no test '%s'", n->name);
        return sala_jj_apply(j, n->fn, "test", v, &args);
    }
    default:
        sala_jj_fail(j, SALA_E_TEMPLATE, "'%s' cannot be read", n->name);
    }
}

static void deeper(jj *j)
{
    if (++j->nest > j->max_nest)
        sala_jj_fail(j, SALA_E_LIMIT, "the template nests deeper than %d levels", j->max_nest);
}

static jj_val eval(jj *j, const jj_node *n)
{
    sala_jj_step(j, 1);
    deeper(j);
    j->line = n->line;
    const jj_val v = eval_node(j, n);
    j->nest--;
    return v;
}

/* ---- loops ---- */

/* The next item that passes the loop's `if`, which is asked no earlier than it has to be. */
static bool pull(jj *j, jj_loop *l, jj_val *out)
{
    while (l->at < l->src->n) {
        const jj_val item = l->src->v[l->at++];
        sala_jj_step(j, 1);
        if (l->filtered) {
            jj_scope *before = j->scope;
            j->scope = new_scope(j, l->outer);
            assign(j, l->node->a, item);
            const bool pass = sala_jj_truth(j, eval(j, l->node->c));
            j->scope = before;
            if (!pass)
                continue;
        }
        *out = item;
        return true;
    }
    return false;
}

bool sala_jj_loop_peek(jj *j, jj_loop *l)
{
    if (!l->has_after)
        l->has_after = pull(j, l, &l->after);
    return l->has_after;
}

int64_t sala_jj_loop_length(jj *j, jj_loop *l)
{
    if (l->length >= 0)
        return l->length;
    jj_list *rest = sala_jj_list_new(j, 0);
    jj_val v;
    while (pull(j, l, &v))
        sala_jj_push(j, rest, v);
    l->src = rest;
    l->at = 0;
    l->filtered = false;
    l->length = (int64_t)rest->n + l->index0 + 1 + l->has_after;
    return l->length;
}

static bool next_turn(jj *j, jj_loop *l)
{
    const jj_val last = l->current;
    if (l->has_after) {
        l->current = l->after;
        l->has_after = false;
    } else if (!pull(j, l, &l->current)) {
        return false;
    }
    l->index0++;
    l->before = last;
    return true;
}

static flow exec_for(jj *j, const jj_node *n, jj_scope *outer, jj_val items, int depth0)
{
    jj_loop *l = sala_jj_alloc(j, sizeof *l);
    *l = (jj_loop){.node = n, .outer = outer, .src = sala_jj_items(j, items), .index0 = -1, .depth0 = depth0};
    l->filtered = n->c != NULL;
    l->length = l->filtered ? -1 : (int64_t)l->src->n;
    l->current = l->before = l->after = sala_jj_none;
    jj_scope *before = j->scope;
    bool otherwise = true;
    while (next_turn(j, l)) {
        j->scope = new_scope(j, outer);
        bind(j, j->scope, j->t->name_loop, (jj_val){.kind = JJ_LOOP, .u.loop = l});
        assign(j, n->a, l->current);
        const flow f = exec_body(j, &n->bodies[0]);
        if (f == FLOW_ON)
            otherwise = false; /* as jinja2 has it: a turn cut short by break or continue does not count */
        if (f == FLOW_BREAK)
            break;
    }
    if (otherwise && n->bodies[1].n) {
        j->scope = new_scope(j, outer);
        const flow f = exec_body(j, &n->bodies[1]);
        j->scope = before;
        return f;
    }
    j->scope = before;
    return FLOW_ON;
}

jj_val sala_jj_call_loop(jj *j, const jj_loop *l, jj_val items)
{
    if (!(l->node->flags & JF_RECURSIVE))
        sala_jj_fail(j, SALA_E_TEMPLATE, "the loop has to be marked 'recursive' to be called");
    jj_builder *before = j->out, out = {.j = j};
    const int line = j->line;
    sala_jj_enter(j);
    j->out = &out;
    exec_for(j, l->node, l->outer, items, l->depth0 + 1);
    j->out = before;
    j->line = line;
    sala_jj_leave(j);
    return jj_finish_val(&out);
}

/* ---- statements ---- */

static flow in_new_scope(jj *j, const jj_body *body, jj_scope *parent)
{
    jj_scope *before = j->scope;
    j->scope = new_scope(j, parent);
    const flow f = exec_body(j, body);
    j->scope = before;
    return f;
}

/* The body's text, through the filters of n->b if there are any. *f: how the body ended. */
static jj_val captured(jj *j, const jj_node *n, flow *f)
{
    jj_builder *before = j->out, out = {.j = j};
    j->out = &out;
    *f = in_new_scope(j, &n->bodies[0], j->scope);
    j->out = before;
    jj_val text = jj_finish_val(&out);
    if (*f != FLOW_ON || !n->b)
        return text;
    const jj_val block_before = j->block_text;
    j->block_text = text;
    text = eval(j, n->b);
    j->block_text = block_before;
    return text;
}

static jj_val new_macro(jj *j, const jj_node *n)
{
    jj_macro *m = sala_jj_alloc(j, sizeof *m);
    *m = (jj_macro){n, j->scope};
    return (jj_val){.kind = JJ_MACRO, .u.macro = m};
}

static flow exec_with(jj *j, const jj_node *n)
{
    jj_scope *outer = j->scope, *scope = new_scope(j, outer);
    flow f;
    for (size_t i = 0; i < n->n_kids; i += 2) {
        const jj_val v = eval(j, n->kids[i + 1]); /* sees the scope outside only */
        j->scope = scope;
        assign(j, n->kids[i], v);
        j->scope = outer;
    }
    j->scope = scope;
    f = exec_body(j, &n->bodies[0]);
    j->scope = outer;
    return f;
}

static flow exec_if(jj *j, const jj_node *n)
{
    for (size_t i = 0; i < n->n_kids; i++)
        if (sala_jj_truth(j, eval(j, n->kids[i])))
            return exec_body(j, &n->bodies[i]);
    return n->n_bodies > n->n_kids ? exec_body(j, &n->bodies[n->n_kids]) : FLOW_ON;
}

static flow exec(jj *j, const jj_node *n)
{
    flow f = FLOW_ON;
    jj_val v;
    switch (n->kind) {
    case JN_DATA:
        sala_jj_put_str(j->out, n->value.u.s);
        break;
    case JN_OUTPUT:
        for (size_t i = 0; i < n->n_kids; i++)
            sala_jj_put_val(j->out, eval(j, n->kids[i]));
        break;
    case JN_IF:
        return exec_if(j, n);
    case JN_FOR:
        return exec_for(j, n, j->scope, eval(j, n->b), 0);
    case JN_SET:
        v = eval(j, n->b);
        assign(j, n->a, v);
        break;
    case JN_SET_BLOCK:
        v = captured(j, n, &f);
        if (f == FLOW_ON)
            assign(j, n->a, v);
        break;
    case JN_MACRO:
        bind(j, j->scope, n->name, new_macro(j, n));
        break;
    case JN_CALL_BLOCK: {
        const jj_val callee = eval(j, n->b->a);
        const jj_args args = eval_args(j, n->b, new_macro(j, n));
        sala_jj_put_val(j->out, sala_jj_call(j, callee, &args));
        break;
    }
    case JN_FILTER_BLOCK:
        v = captured(j, n, &f);
        if (f == FLOW_ON)
            sala_jj_put_val(j->out, v);
        break;
    case JN_WITH:
        return exec_with(j, n);
    case JN_BLOCK:
        if (n->flags & JF_REQUIRED)
            sala_jj_fail(j, SALA_E_TEMPLATE, "required block '%s' has no content", n->name);
        in_new_scope(j, &n->bodies[0], n->flags & JF_SCOPED ? j->scope : j->root);
        break;
    case JN_SCOPE:
        return in_new_scope(j, &n->bodies[0], j->scope);
    case JN_AUTOESCAPE:
        if (sala_jj_truth(j, eval(j, n->b)))
            sala_jj_fail(j, SALA_E_UNSUPPORTED, "autoescape is not supported");
        return in_new_scope(j, &n->bodies[0], j->scope);
    case JN_BREAK:
        return FLOW_BREAK;
    case JN_CONTINUE:
        return FLOW_CONTINUE;
    default:
        sala_jj_fail(j, SALA_E_UNSUPPORTED, "'%s' is not supported: there are no other templates to take from",
                     n->name);
    }
    return f;
}

static flow exec_body(jj *j, const jj_body *body)
{
    deeper(j);
    flow f = FLOW_ON;
    for (size_t i = 0; i < body->n && f == FLOW_ON; i++) {
        sala_jj_step(j, 1);
        j->line = body->v[i]->line;
        f = exec(j, body->v[i]);
    }
    j->nest--;
    return f;
}

/* ---- public ---- */

sala_status sala_jinja_compile(sala_jinja **out, const char *source, size_t bytes, sala_error *err)
{
    if (bytes > MAX_TEMPLATE_BYTES)
        return sala_fail(err, SALA_E_LIMIT, "the template has %zu bytes; at most %d are allowed", bytes,
                         MAX_TEMPLATE_BYTES);
    sala_jinja *t = calloc(1, sizeof *t);
    jj *j = calloc(1, sizeof *j);
    if (!t || !j) {
        free(t);
        free(j);
        return sala_fail_memory(err, sizeof *j);
    }
    *j = (jj){.err = err, .at = -1, .max_steps = MAX_COMPILE_STEPS, .max_made = UINT64_MAX / 2, .max_depth = 200};
    j->max_held = ((uint64_t)64 << 20) + 512 * (uint64_t)bytes;
    if (setjmp(j->escape) == 0) {
        t->body = sala_jj_parse(j, t, source, bytes);
        sala_jj_find_late_names(j, t);
        t->blocks = j->blocks;
        *out = t;
        free(j);
        return SALA_OK;
    }
    const sala_status status = j->status;
    sala_jj_drop_arena(j->blocks);
    free(j);
    free(t);
    return status;
}

void sala_jinja_free(sala_jinja *t)
{
    if (t) {
        sala_jj_drop_arena(t->blocks);
        free(t);
    }
}

/* The finished text in memory of its own, and its runs of one origin. */
static sala_status hand_out(const jj_str *s, char **text, sala_jinja_span **spans, size_t *n_spans, sala_error *err)
{
    size_t n = s->bytes > 0;
    for (size_t i = 1; s->from && i < s->bytes; i++)
        n += s->from[i] != s->from[i - 1];
    char *copy = malloc(s->bytes + 1);
    sala_jinja_span *runs = malloc((n + 1) * sizeof *runs);
    if (!copy || !runs) {
        free(copy);
        free(runs);
        return sala_fail_memory(err, s->bytes + 1 + (n + 1) * sizeof *runs);
    }
    memcpy(copy, s->data, s->bytes);
    copy[s->bytes] = 0;
    n = 0;
    for (size_t i = 0; i < s->bytes;) {
        size_t end = s->from ? i + 1 : s->bytes;
        while (s->from && end < s->bytes && s->from[end] == s->from[i])
            end++;
        runs[n++] = (sala_jinja_span){i, end, sala_jj_is_input(s, i)};
        i = end;
    }
    *text = copy;
    if (spans) {
        *spans = runs;
        *n_spans = n;
    } else {
        free(runs);
    }
    return SALA_OK;
}

sala_status sala_jj_render(const sala_jinja *t, const json_t *vars, int64_t now, const sala_jinja_limits *limits,
                           bool (*trusts)(void *user, int depth, const char *key, const json_t *value),
                           void *trust_user, char **text, size_t *bytes, sala_jinja_span **spans, size_t *n_spans,
                           sala_error *err)
{
    static const sala_jinja_limits none;
    const sala_jinja_limits *l = limits ? limits : &none;
    if (!json_is_object(vars))
        return sala_fail(err, SALA_E_INVALID, "the variables of a template have to be a JSON object");
    jj *j = calloc(1, sizeof *j);
    if (!j)
        return sala_fail_memory(err, sizeof *j);
    j->err = err;
    j->at = -1;
    j->t = t;
    j->now = now;
    j->trusts = trusts;
    j->trust_user = trust_user;
    j->max_steps = l->max_steps ? l->max_steps : 10000000;
    j->max_made = l->max_output_bytes ? l->max_output_bytes : (uint64_t)256 << 20;
    if (j->max_made > UINT64_MAX / 4)
        j->max_made = UINT64_MAX / 4;
    j->max_held = ((uint64_t)256 << 20) + 2 * j->max_made;
    j->max_depth = l->max_depth > 0 ? l->max_depth : 200;
    j->max_nest = 10 * (j->max_depth < 200 ? j->max_depth : 200);
    j->block_text = sala_jj_none;
    sala_status status;
    if (setjmp(j->escape) == 0) {
        jj_builder *out = sala_jj_alloc(j, sizeof *out);
        *out = (jj_builder){.j = j};
        j->vars = sala_jj_from_json(j, vars, 0);
        j->scope = j->root = new_scope(j, NULL);
        for (size_t i = 0; i < t->n_late; i++)
            bind(j, j->root, t->late[i], sala_jj_missing);
        j->out = out;
        exec_body(j, &t->body);
        const jj_str *s = sala_jj_finish(out);
        status = hand_out(s, text, spans, n_spans, err);
        if (status == SALA_OK)
            *bytes = s->bytes;
    } else {
        status = j->status;
    }
    sala_jj_drop_arena(j->blocks);
    free(j);
    return status;
}

sala_status sala_jinja_render(const sala_jinja *t, const json_t *vars, int64_t now, const sala_jinja_limits *limits,
                              char **text, size_t *bytes, sala_jinja_span **spans, size_t *n_spans, sala_error *err)
{
    return sala_jj_render(t, vars, now, limits, NULL, NULL, text, bytes, spans, n_spans, err);
}
