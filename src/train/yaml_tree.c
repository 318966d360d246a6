/* See yaml_tree.h. libyaml gives events; the tree is made by recursion over them, with limits on depth and size so that
 * no text can take more than a few MiB. Paths are taken apart in one place, descend(), for keys with points and for
 * --set. */
#include "train/yaml_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#define MAX_BYTES ((size_t)1 << 20)
enum { MAX_DEPTH = 16, MAX_NODES = 8192, MAX_SEGMENT = 64 };

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

typedef struct reading {
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    const char *file;
    bool is_set; /* places in the text mean nothing to the user */
    int n_nodes;
    sala_error *err;
} reading;

static void free_node(sala_yaml *n)
{
    if (!n)
        return;
    for (int i = 0; i < n->count; i++)
        free_node(n->items[i]);
    free(n->items);
    free(n->key);
    free(n->text);
    free(n);
}

void sala_yaml_free(sala_yaml_doc *doc)
{
    free_node(doc->root);
    for (int i = 0; i < doc->n_files; i++)
        free(doc->files[i]);
    free(doc->files);
    *doc = (sala_yaml_doc){0};
}

char *sala_yaml_where(char *dst, size_t bytes, const sala_yaml *n)
{
    if (n->line > 0)
        snprintf(dst, bytes, "%s:%d:%d", n->file, n->line, n->column);
    else
        snprintf(dst, bytes, "%s", n->file);
    return dst;
}

static sala_yaml *new_node(sala_yaml_kind kind, const char *file, int line, int column)
{
    sala_yaml *n = calloc(1, sizeof *n);
    if (n)
        *n = (sala_yaml){.kind = kind, .file = file, .line = line, .column = column};
    return n;
}

/* Takes `child` in any case. */
static sala_status append(sala_yaml *parent, sala_yaml *child, sala_error *err)
{
    if (parent->count == parent->cap) {
        const int cap = parent->cap ? 2 * parent->cap : 8;
        sala_yaml **more = realloc(parent->items, (size_t)cap * sizeof *more);
        if (!more) {
            free_node(child);
            return sala_fail_memory(err, (uint64_t)cap * sizeof *more);
        }
        parent->items = more;
        parent->cap = cap;
    }
    parent->items[parent->count++] = child;
    return SALA_OK;
}

static sala_yaml *child_of(const sala_yaml *n, const char *key, size_t len)
{
    if (n->kind == SALA_YAML_MAP) {
        for (int i = 0; i < n->count; i++)
            if (strlen(n->items[i]->key) == len && memcmp(n->items[i]->key, key, len) == 0)
                return n->items[i];
    } else if (n->kind == SALA_YAML_LIST && len > 0 && len <= 6 && strspn(key, "0123456789") >= len) {
        const int i = atoi(key);
        return i < n->count ? n->items[i] : NULL;
    }
    return NULL;
}

/* ---- putting a value at a path ---- */

typedef struct placing {
    const char *path, *file;
    int line, column;
    bool replace; /* --set: what is there gives way */
} placing;

static sala_status not_a_place(const placing *p, const sala_yaml *n, const char *segment, size_t len, sala_error *err)
{
    char at[300], there[300];
    const sala_yaml here = {.file = p->file, .line = p->line, .column = p->column};
    sala_yaml_where(at, sizeof at, &here);
    if (n->kind == SALA_YAML_LIST)
        return sala_fail(err, SALA_E_INVALID, "%s: \"%s\": the list has %d entries, so \"%.*s\" should be 0 to %d", at,
                         p->path, n->count, (int)len, segment, n->count);
    return sala_fail(err, SALA_E_INVALID, "%s: \"%s\" goes below \"%.60s\", which %s gives a value of its own", at,
                     p->path, n->key ? n->key : "?", sala_yaml_where(there, sizeof there, n));
}

/* An empty node takes the kind that the coming part of the path asks for. */
static void shape_for(sala_yaml *n, const char *segment, size_t len, bool replace)
{
    const bool list = len > 0 && strspn(segment, "0123456789") >= len;
    if (n->kind == SALA_YAML_NULL || (replace && n->kind == SALA_YAML_SCALAR)) {
        free(n->text);
        n->text = NULL;
        n->kind = list ? SALA_YAML_LIST : SALA_YAML_MAP;
    }
}

/* Puts `value` (taken in any case) below `root` at the path. */
static sala_status place(sala_yaml *root, sala_yaml *value, const placing *p, sala_error *err)
{
    sala_yaml *n = root;
    int depth = 0;
    for (const char *s = p->path;;) {
        const size_t len = strcspn(s, ".");
        const bool last = s[len] == 0;
        if (len == 0 || len > MAX_SEGMENT || ++depth > MAX_DEPTH) {
            free_node(value);
            return sala_fail(err, SALA_E_INVALID, "%s: \"%.120s\" is no key", p->file, p->path);
        }
        shape_for(n, s, len, p->replace);
        sala_yaml *child = child_of(n, s, len);
        if (child && last) {
            if (!p->replace) {
                char there[300];
                sala_yaml_where(there, sizeof there, child);
                free_node(value);
                return sala_fail(err, SALA_E_INVALID, "%s:%d:%d: \"%.120s\" is given twice; the first is at %s",
                                 p->file, p->line, p->column, p->path, there);
            }
            char *key = child->key;
            child->key = NULL;
            for (int i = 0; i < n->count; i++)
                if (n->items[i] == child)
                    n->items[i] = value;
            value->key = key;
            free_node(child);
            return SALA_OK;
        }
        if (!child) {
            const bool fits =
                n->kind == SALA_YAML_MAP ||
                (n->kind == SALA_YAML_LIST && strspn(s, "0123456789") >= len && len < 7 && atoi(s) == n->count);
            if (!fits) {
                const sala_status st = not_a_place(p, n, s, len, err);
                free_node(value);
                return st;
            }
            child = last ? value : new_node(SALA_YAML_NULL, p->file, p->line, p->column);
            if (child && n->kind == SALA_YAML_MAP)
                child->key = sala_strndup(s, len);
            if (!child || (n->kind == SALA_YAML_MAP && !child->key)) {
                if (child != value)
                    free_node(child);
                free_node(value);
                return sala_fail_memory(err, sizeof *child);
            }
            const sala_status st = append(n, child, err);
            if (st != SALA_OK) {
                if (!last)
                    free_node(value);
                return st;
            }
            if (last)
                return SALA_OK;
        }
        n = child;
        s += len + 1;
    }
}

/* ---- reading ---- */

static sala_status refuse(const reading *r, const char *what)
{
    if (r->is_set)
        return sala_fail(r->err, SALA_E_INVALID, "%s: %s", r->file, what);
    return sala_fail(r->err, SALA_E_INVALID, "%s:%zu:%zu: %s", r->file, r->event.start_mark.line + 1,
                     r->event.start_mark.column + 1, what);
}

static sala_status next_event(reading *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = false;
    if (yaml_parser_parse(&r->parser, &r->event)) {
        r->has_event = true;
        return SALA_OK;
    }
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return sala_fail_memory(r->err, MAX_BYTES);
    const char *problem = p->problem ? p->problem : "unreadable";
    if (r->is_set)
        return sala_fail(r->err, SALA_E_INVALID, "%s: not YAML: %s", r->file, problem);
    if (p->error == YAML_READER_ERROR)
        return sala_fail(r->err, SALA_E_INVALID, "%s: not YAML: %s (byte %zu)", r->file, problem, p->problem_offset);
    return sala_fail(r->err, SALA_E_INVALID, "%s:%zu:%zu: not YAML: %s%s%s", r->file, p->problem_mark.line + 1,
                     p->problem_mark.column + 1, problem, p->context ? ", " : "", p->context ? p->context : "");
}

static bool is_null_word(const char *s)
{
    return !*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0;
}

static sala_status read_node(reading *r, sala_yaml **out, int depth);

static sala_status read_items(reading *r, sala_yaml *n, int depth)
{
    const yaml_event_type_t end = n->kind == SALA_YAML_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    for (;;) {
        TRY(next_event(r));
        if (r->event.type == end)
            return SALA_OK;
        sala_yaml *child = NULL;
        if (n->kind == SALA_YAML_LIST) {
            TRY(read_node(r, &child, depth + 1));
            TRY(append(n, child, r->err));
            continue;
        }
        if (r->event.type != YAML_SCALAR_EVENT)
            return refuse(r, "a key should be a word");
        if (memchr(r->event.data.scalar.value, 0, r->event.data.scalar.length))
            return refuse(r, "a key holds a NUL");
        const int line = (int)r->event.start_mark.line + 1, column = (int)r->event.start_mark.column + 1;
        char *key = sala_strndup((const char *)r->event.data.scalar.value, r->event.data.scalar.length);
        if (!key)
            return sala_fail_memory(r->err, r->event.data.scalar.length);
        sala_status st = next_event(r);
        if (st == SALA_OK)
            st = read_node(r, &child, depth + 1);
        if (st == SALA_OK) {
            /* A key's place is what its value's errors point at: the eye looks for the word. */
            child->line = r->is_set ? 0 : line;
            child->column = column;
            const placing p = {key, r->file, line, column, false};
            st = place(n, child, &p, r->err);
        }
        free(key);
        TRY(st);
    }
}

/* The current event begins the node. */
static sala_status read_node(reading *r, sala_yaml **out, int depth)
{
    const yaml_event_t *e = &r->event;
    *out = NULL;
    if (depth > MAX_DEPTH)
        return refuse(r, "lists and maps are nested too deeply");
    if (++r->n_nodes > MAX_NODES)
        return refuse(r, "more than 8192 values");
    sala_yaml *n =
        new_node(SALA_YAML_NULL, r->file, r->is_set ? 0 : (int)e->start_mark.line + 1, (int)e->start_mark.column + 1);
    if (!n)
        return sala_fail_memory(r->err, sizeof *n);
    sala_status st = SALA_OK;
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        n->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        if (e->data.scalar.anchor || e->data.scalar.tag) {
            st = refuse(r, e->data.scalar.anchor ? "anchors (&name) are not used in configs"
                                                 : "tags (!name) are not used in configs");
        } else if (memchr(e->data.scalar.value, 0, e->data.scalar.length)) {
            st = refuse(r, "a value holds a NUL");
        } else if (n->quoted || !is_null_word((const char *)e->data.scalar.value)) {
            n->kind = SALA_YAML_SCALAR;
            n->text = sala_strndup((const char *)e->data.scalar.value, e->data.scalar.length);
            if (!n->text)
                st = sala_fail_memory(r->err, e->data.scalar.length);
        }
        break;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT: {
        const bool map = e->type == YAML_MAPPING_START_EVENT;
        const void *anchor = map ? e->data.mapping_start.anchor : e->data.sequence_start.anchor;
        const void *tag = map ? e->data.mapping_start.tag : e->data.sequence_start.tag;
        n->kind = map ? SALA_YAML_MAP : SALA_YAML_LIST;
        st = anchor || tag ? refuse(r, "anchors and tags are not used in configs") : read_items(r, n, depth);
        break;
    }
    case YAML_ALIAS_EVENT:
        st = refuse(r, "aliases (*name) are not used in configs");
        break;
    default:
        st = refuse(r, "a value is missing");
        break;
    }
    if (st != SALA_OK)
        free_node(n);
    else
        *out = n;
    return st;
}

/* NULL in *out: an empty document. */
static sala_status read_document(reading *r, sala_yaml **out)
{
    TRY(next_event(r)); /* stream start */
    TRY(next_event(r));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return SALA_OK;
    TRY(next_event(r)); /* behind the document's start */
    TRY(read_node(r, out, 0));
    TRY(next_event(r)); /* document end */
    TRY(next_event(r));
    return r->event.type == YAML_STREAM_END_EVENT ? SALA_OK : refuse(r, "a second document begins; one is expected");
}

static sala_status read_text(sala_yaml **out, const char *file, bool is_set, const char *text, size_t bytes,
                             sala_error *err)
{
    reading r = {.file = file, .is_set = is_set, .err = err};
    *out = NULL;
    if (bytes > MAX_BYTES)
        return sala_fail(err, SALA_E_LIMIT, "%s: %zu bytes, expected a config of at most 1 MiB", file, bytes);
    if (!yaml_parser_initialize(&r.parser))
        return sala_fail_memory(err, MAX_BYTES);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    sala_status st = read_document(&r, out);
    if (st != SALA_OK) {
        free_node(*out);
        *out = NULL;
    }
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return st;
}

static const char *keep_name(sala_yaml_doc *doc, const char *name)
{
    char **more = realloc(doc->files, (size_t)(doc->n_files + 1) * sizeof *more);
    if (!more)
        return NULL;
    doc->files = more;
    doc->files[doc->n_files] = sala_strdup(name);
    return doc->files[doc->n_files] ? doc->files[doc->n_files++] : NULL;
}

sala_status sala_yaml_parse(sala_yaml_doc *out, const char *name, const char *text, size_t bytes, sala_error *err)
{
    sala_yaml_doc doc = {0};
    const char *file = keep_name(&doc, name);
    sala_status st = file ? read_text(&doc.root, file, false, text, bytes, err) : sala_fail_memory(err, strlen(name));
    if (st == SALA_OK && !doc.root) {
        doc.root = new_node(SALA_YAML_MAP, file, 1, 1);
        if (!doc.root)
            st = sala_fail_memory(err, sizeof *doc.root);
    }
    if (st == SALA_OK && doc.root->kind == SALA_YAML_NULL)
        doc.root->kind = SALA_YAML_MAP;
    if (st == SALA_OK && doc.root->kind != SALA_YAML_MAP)
        st = sala_fail(err, SALA_E_INVALID, "%s:%d:%d: found a %s, expected keys such as \"model:\"", name,
                       doc.root->line, doc.root->column, doc.root->kind == SALA_YAML_LIST ? "list" : "single value");
    if (st != SALA_OK)
        sala_yaml_free(&doc);
    else
        *out = doc;
    return st;
}

sala_status sala_yaml_set(sala_yaml_doc *doc, const char *assignment, sala_error *err)
{
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return sala_fail(err, SALA_E_INVALID, "--set %s: expected KEY=VALUE, as in --set optimizer.lr=0.02",
                         assignment);
    sala_buf name = {0};
    sala_buf_printf(&name, "--set %s", assignment);
    const char *file = name.failed ? NULL : keep_name(doc, name.data);
    sala_buf_free(&name);
    char *path = sala_strndup(assignment, (size_t)(equals - assignment));
    sala_yaml *value = NULL;
    sala_status st = file && path ? read_text(&value, file, true, equals + 1, strlen(equals + 1), err)
                                  : sala_fail_memory(err, strlen(assignment));
    if (st == SALA_OK && !value) {
        value = new_node(SALA_YAML_NULL, file, 0, 0);
        if (!value)
            st = sala_fail_memory(err, sizeof *value);
    }
    if (st == SALA_OK) {
        const placing p = {path, file, 0, 0, true};
        st = place(doc->root, value, &p, err);
    }
    free(path);
    return st;
}

/* ---- looking ---- */

sala_yaml *sala_yaml_find(const sala_yaml_doc *doc, const char *path)
{
    sala_yaml *n = doc->root;
    for (const char *s = path; n; s++) {
        const size_t len = strcspn(s, ".");
        n = child_of(n, s, len);
        if (n)
            n->used = true;
        s += len;
        if (!*s)
            return n;
    }
    return NULL;
}

static sala_yaml *unused_below(sala_yaml *n, sala_buf *path)
{
    for (int i = 0; i < n->count; i++) {
        sala_yaml *child = n->items[i];
        const size_t len = path->len;
        if (child->key)
            sala_buf_printf(path, "%s%s", len ? "." : "", child->key);
        else
            sala_buf_printf(path, "%s%d", len ? "." : "", i);
        if (!child->used)
            return child;
        sala_yaml *below = unused_below(child, path);
        if (below)
            return below;
        path->len = len;
        if (path->data)
            path->data[len] = 0;
    }
    return NULL;
}

sala_yaml *sala_yaml_unused(const sala_yaml_doc *doc, sala_buf *path)
{
    return unused_below(doc->root, path);
}

int sala_yaml_distance(const char *a, const char *b)
{
    enum { MOST = 95 };
    int row[MOST + 1];
    const int n = (int)strlen(a), m = (int)strlen(b);
    if (n > MOST || m > MOST)
        return MOST;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            const int shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < shift ? change : shift;
        }
    }
    return row[m];
}
