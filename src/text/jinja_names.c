/* Which names of a template's outermost scope hide the caller's variables before they are assigned.
 *
 * jinja2 decides at compile time what a name means in a scope. A name whose first appearance in the outermost scope, in
 * the order of the source, is an assignment that always happens belongs to that scope from the start: a loop or macro
 * that reads it earlier finds it undefined, even if the caller has a variable of that name. A name that is read first,
 * or assigned in a branch only, means the caller's variable until then. Bodies of loops and macros are scopes of their
 * own, so only the expressions in their heads count here. */
#include "text/jinja_syntax.h"

typedef struct names {
    jj *j;
    const char **late, **seen;
    size_t n_late, n_seen;
    int branches;
} names;

static bool listed(jj *j, const char *const *list, size_t n, const char *name)
{
    sala_jj_step(j, n / 8);
    for (size_t i = 0; i < n; i++)
        if (list[i] == name)
            return true;
    return false;
}

static void append(names *x, const char ***list, size_t *n, const char *name)
{
    /* Room for a power of two; names are few. */
    if ((*n & (*n + 1)) == 0)
        *list = sala_jj_grow(x->j, *list, *n * sizeof **list, (2 * *n + 2) * sizeof **list);
    (*list)[(*n)++] = name;
}

static void see(names *x, const char *name)
{
    if (!listed(x->j, x->seen, x->n_seen, name))
        append(x, &x->seen, &x->n_seen, name);
}

static void store(names *x, const char *name)
{
    if (!x->branches && !listed(x->j, x->seen, x->n_seen, name))
        append(x, &x->late, &x->n_late, name);
    see(x, name);
}

static void walk(names *x, const jj_node *n);

static void walk_target(names *x, const jj_node *n)
{
    if (n->kind == JN_NAME)
        store(x, n->name);
    else if (n->kind == JN_NSREF)
        see(x, n->name);
    for (size_t i = 0; n->kind == JN_TUPLE && i < n->n_kids; i++)
        walk_target(x, n->kids[i]);
}

static void walk_expression(names *x, const jj_node *n)
{
    /* A left-leaning chain is followed in a loop: it may be longer than the stack is deep. */
    for (; n; n = n->a) {
        if (n->kind == JN_NAME)
            see(x, n->name);
        if (n->b)
            walk_expression(x, n->b);
        if (n->c)
            walk_expression(x, n->c);
        for (size_t i = 0; i < n->n_kids; i++)
            walk_expression(x, n->kids[i]);
        for (size_t i = 0; i < n->n_kwargs; i++)
            walk_expression(x, n->kwargs[i].value);
        if (n->star)
            walk_expression(x, n->star);
        if (n->star2)
            walk_expression(x, n->star2);
    }
}

static void walk_body(names *x, const jj_body *body)
{
    for (size_t i = 0; i < body->n; i++)
        walk(x, body->v[i]);
}

static void walk(names *x, const jj_node *n)
{
    switch (n->kind) {
    case JN_OUTPUT:
        for (size_t i = 0; i < n->n_kids; i++)
            walk_expression(x, n->kids[i]);
        break;
    case JN_SET:
        walk_expression(x, n->b);
        walk_target(x, n->a);
        break;
    case JN_SET_BLOCK:
        walk_target(x, n->a);
        break;
    case JN_MACRO:
        store(x, n->name);
        break;
    case JN_IF:
        for (size_t i = 0; i < n->n_kids; i++)
            walk_expression(x, n->kids[i]);
        x->branches++;
        for (size_t i = 0; i < n->n_bodies; i++)
            walk_body(x, &n->bodies[i]);
        x->branches--;
        break;
    case JN_FOR:
    case JN_CALL_BLOCK:
    case JN_FILTER_BLOCK:
        walk_expression(x, n->b);
        break;
    case JN_WITH:
        for (size_t i = 1; i < n->n_kids; i += 2)
            walk_expression(x, n->kids[i]);
        break;
    default:
        break;
    }
}

void sala_jj_find_late_names(jj *j, struct sala_jinja *t)
{
    names x = {.j = j};
    walk_body(&x, &t->body);
    t->late = x.late;
    t->n_late = x.n_late;
}
