/* run.yaml to sala_run_config and back. config_keys.inc is the only list of keys; a row says how a value is read,
 * printed and compared. Order of the work: tree (yaml_tree.c), values by the table, numbers that follow from others
 * (resolve), shape of the model (run_shape.c). Whatever is wrong is said with file, line and key. */
#include "train/run_config_internal.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_FILE ((size_t)1 << 20)

typedef enum key_kind {
    INT,
    INT_OR_NULL, /* null is 0 */
    AUTO_INT,    /* auto is 0 */
    NUMBER,
    BOOL,
    TEXT,      /* null is NULL */
    PATH,      /* TEXT, made absolute */
    AUTO_PATH, /* the same, or auto */
    PICK,      /* one of choices, kept as its number */
    PICK_NAME, /* the same, kept as text */
    PRECISION,
    RECOMPUTE, /* PICK_NAME, or "feed:6,mixer:2" */
    WORDS,     /* a list of texts */
    AMOUNT,
    SEED,
} key_kind;

typedef enum key_same { SAME, LATER, HALF, FREE } key_same;

typedef struct key_row {
    const char *path;
    key_kind kind;
    size_t at;
    const char *fallback;
    double least, most;
    const char *choices;
    key_same same;
    bool only_new;
    const char *words;
} key_row;

#define NONE_OF(path, kind, field, fallback, least, most, choices, same, words)
#define ROW_OF(type, is_new, path, kind, field, fallback, least, most, choices, same, words)                           \
    {path, kind, offsetof(type, field), fallback, (double)(least), (double)(most), choices, same, is_new, words},

static const key_row keys[] = {
#define K(...) ROW_OF(sala_run_config, false, __VA_ARGS__)
#define NEW(...) ROW_OF(sala_run_config, true, __VA_ARGS__)
#define S NONE_OF
#define R NONE_OF
#include "train/config_keys.inc"
#undef K
#undef NEW
#undef S
#undef R
};
static const key_row stage_keys[] = {
#define K NONE_OF
#define NEW NONE_OF
#define S(...) ROW_OF(sala_run_stage, false, __VA_ARGS__)
#define R NONE_OF
#include "train/config_keys.inc"
#undef S
#undef R
};
static const key_row source_keys[] = {
#define S NONE_OF
#define R(...) ROW_OF(sala_run_source, false, __VA_ARGS__)
#include "train/config_keys.inc"
#undef K
#undef NEW
#undef S
#undef R
};

/* ---- values ---- */

typedef struct loading {
    sala_run_config *c;
    sala_yaml_doc *doc;
    char *base, *here;               /* directories that relative paths of the file and of sets begin at; may be NULL */
    char *(*find)(const char *name); /* models that go by a name; may be NULL */
    sala_error *missing;             /* the first key that has to be given and is not: told when no key is misspelt */
    sala_error *err;
} loading;

static sala_status wrong(const loading *l, const sala_yaml *n, const char *path, const char *expected)
{
    char at[300], found[96];
    switch (n->kind) {
    case SALA_YAML_SCALAR:
        snprintf(found, sizeof found, "\"%.80s\"", n->text);
        break;
    case SALA_YAML_NULL:
        snprintf(found, sizeof found, "empty");
        break;
    default:
        snprintf(found, sizeof found, "%s", n->kind == SALA_YAML_LIST ? "a list" : "a group of keys");
        break;
    }
    return sala_fail(l->err, SALA_E_INVALID, "%s: %s is %s; expected %s", sala_yaml_where(at, sizeof at, n), path,
                     found, expected);
}

static const char *commas(char *dst, size_t room, const char *choices)
{
    size_t n = 0;
    dst[0] = 0;
    for (const char *p = choices; *p && n + 3 < room; p++) {
        if (*p == '|') {
            dst[n++] = ',';
            dst[n++] = ' ';
        } else {
            dst[n++] = *p;
        }
        dst[n] = 0;
    }
    return dst;
}

static int choice_of(const char *choices, const char *text)
{
    const size_t n = strlen(text);
    int i = 0;
    for (const char *c = choices; n; i++) {
        const size_t len = strcspn(c, "|");
        if (len == n && strncmp(c, text, n) == 0)
            return i;
        if (!c[len])
            break;
        c += len + 1;
    }
    return -1;
}

static const char *choice_name(char dst[32], const char *choices, int i)
{
    const char *c = choices;
    for (; i > 0 && *c; i--) {
        c += strcspn(c, "|");
        c += *c != 0;
    }
    snprintf(dst, 32, "%.*s", (int)strcspn(c, "|"), c);
    return dst;
}

/* A whole number; K, M and G multiply by 10^3, 10^6 and 10^9. */
static bool whole_number(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || errno || (text[0] != '-' && (text[0] < '0' || text[0] > '9')))
        return false;
    int64_t unit = 1;
    if (*end == 'K' || *end == 'k')
        unit = 1000;
    else if (*end == 'M')
        unit = 1000000;
    else if (*end == 'G')
        unit = 1000000000;
    if (unit != 1)
        end++;
    if (*end || v > INT64_MAX / unit || v < INT64_MIN / unit)
        return false;
    *out = (int64_t)v * unit;
    return true;
}

static bool number(const char *text, double *out)
{
    char *end;
    if (!*text || !strchr("+-.0123456789", text[0]))
        return false; /* inf and nan are no settings */
    const double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || strpbrk(text, "xX"))
        return false;
    *out = v;
    return true;
}

static sala_status set_text(const loading *l, char **field, const char *text)
{
    free(*field);
    *field = sala_strdup(text);
    return *field || !text ? SALA_OK : sala_fail_memory(l->err, strlen(text));
}

static sala_status set_path(const loading *l, const sala_yaml *n, char **field, const char *text)
{
    const char *base = n->line > 0 ? l->base : l->here;
    if (text[0] == '/' || !base || strcmp(text, "bytes") == 0 || strncmp(text, "corpus:", 7) == 0)
        return set_text(l, field, text);
    free(*field);
    *field = sala_path_join(base, text);
    const bool is_model = field == &l->c->model_from || field == &l->c->tokenizer;
    if (*field && is_model && l->find && !sala_os_is_dir(*field) && !sala_os_is_file(*field)) {
        char *found = l->find(text);
        if (found) {
            free(*field);
            *field = found;
        }
    }
    return *field ? SALA_OK : sala_fail_memory(l->err, strlen(text));
}

static void free_words(sala_run_words *w)
{
    for (int i = 0; i < w->count; i++)
        free(w->items[i]);
    free(w->items);
    *w = (sala_run_words){0};
}

static sala_status set_words(const loading *l, sala_yaml *n, const key_row *k, const char *path, sala_run_words *out)
{
    char expected[200], list[128];
    free_words(out);
    if (n->kind == SALA_YAML_NULL)
        return SALA_OK;
    snprintf(expected, sizeof expected, "a list%s%s", k->choices ? " of " : " of texts",
             k->choices ? commas(list, sizeof list, k->choices) : "");
    if (n->kind != SALA_YAML_LIST)
        return wrong(l, n, path, expected);
    out->items = calloc((size_t)n->count + 1, sizeof *out->items);
    if (!out->items)
        return sala_fail_memory(l->err, (uint64_t)n->count * sizeof *out->items);
    for (int i = 0; i < n->count; i++) {
        sala_yaml *item = n->items[i];
        char at[192];
        item->used = true;
        snprintf(at, sizeof at, "%s.%d", path, i);
        if (item->kind != SALA_YAML_SCALAR || (k->choices && choice_of(k->choices, item->text) < 0))
            return wrong(l, item, at, k->choices ? commas(list, sizeof list, k->choices) : "a text");
        out->items[i] = sala_strdup(item->text);
        if (!out->items[i])
            return sala_fail_memory(l->err, strlen(item->text));
        out->count++;
    }
    return SALA_OK;
}

static sala_status set_amount(const loading *l, const sala_yaml *n, const key_row *k, const char *path,
                              sala_run_amount *out)
{
    char expected[160];
    const char *text = n->kind == SALA_YAML_SCALAR ? n->text : "";
    const size_t len = strlen(text);
    int64_t count;
    double share;
    char head[32];
    if (len > 1 && len < sizeof head && text[len - 1] == '%' && strchr(k->choices, '%')) {
        memcpy(head, text, len - 1);
        head[len - 1] = 0;
        if (number(head, &share) && share >= 0 && share <= 100) {
            *out = (sala_run_amount){SALA_AMOUNT_SHARE, share / 100};
            return SALA_OK;
        }
    } else if (strcmp(text, "auto") == 0 && strstr(k->choices, "auto")) {
        *out = (sala_run_amount){SALA_AMOUNT_AUTO, 0};
        return SALA_OK;
    } else if (whole_number(text, &count) && (double)count >= k->least && (double)count <= k->most) {
        *out = (sala_run_amount){SALA_AMOUNT_COUNT, (double)count};
        return SALA_OK;
    }
    snprintf(expected, sizeof expected, "a whole number >= %.0f (K and M multiply by 1000 and 10^6) or %s", k->least,
             strchr(k->choices, '%') ? "a share such as 20%" : "auto");
    return wrong(l, n, path, expected);
}

/* "feed:6,mixer:3,layer:2", or some of the parts. */
static bool recompute_words(const char *text)
{
    static const char *const names[] = {"feed:", "mixer:", "layer:"};
    bool more = true; /* a part has to come */
    for (size_t i = 0; i < SALA_ARRAY_LEN(names) && more; i++) {
        const size_t n = strlen(names[i]);
        if (strncmp(text, names[i], n) != 0)
            continue;
        const size_t digits = strspn(text + n, "0123456789");
        if (digits < 1 || digits > 6)
            return false;
        text += n + digits;
        more = *text == ',';
        text += more;
    }
    return !more && !*text;
}

static sala_status set_value(const loading *l, sala_yaml *n, const key_row *k, const char *path, void *record)
{
    char *field = (char *)record + k->at;
    char expected[256], list[160];
    const char *text = n->kind == SALA_YAML_SCALAR ? n->text : NULL;
    int64_t count;
    double value;
    switch (k->kind) {
    case INT:
    case INT_OR_NULL:
    case AUTO_INT:
        if ((k->kind == INT_OR_NULL && n->kind == SALA_YAML_NULL) ||
            (k->kind == AUTO_INT && text && strcmp(text, "auto") == 0)) {
            *(int64_t *)(void *)field = 0;
            return SALA_OK;
        }
        if (!text || !whole_number(text, &count) || (double)count < k->least || (double)count > k->most) {
            snprintf(expected, sizeof expected, "a whole number >= %.0f%s (K and M multiply by 1000 and 10^6)%s",
                     k->least,
                     text && whole_number(text, &count) && (double)count > k->most ? " and less than that" : "",
                     k->kind == AUTO_INT ? " or auto" : "");
            return wrong(l, n, path, expected);
        }
        *(int64_t *)(void *)field = count;
        return SALA_OK;
    case SEED: {
        char *end = NULL;
        errno = 0;
        const unsigned long long seed = text ? strtoull(text, &end, 10) : 0;
        if (!text || text[0] < '0' || text[0] > '9' || *end || errno)
            return wrong(l, n, path, "a whole number from 0 to 2^64 - 1");
        *(uint64_t *)(void *)field = seed;
        return SALA_OK;
    }
    case NUMBER:
        if (!text || !number(text, &value) || value < k->least || value > k->most) {
            snprintf(expected, sizeof expected, "a number from %g to %g", k->least, k->most);
            return wrong(l, n, path, expected);
        }
        *(double *)(void *)field = value;
        return SALA_OK;
    case BOOL:
        if (!text || (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
            return wrong(l, n, path, "true or false");
        *(bool *)(void *)field = text[0] == 't';
        return SALA_OK;
    case TEXT:
    case PATH:
    case AUTO_PATH: {
        if (n->kind == SALA_YAML_NULL && (k->fallback || k->kind == TEXT)) {
            free(*(char **)(void *)field);
            *(char **)(void *)field = NULL;
            return SALA_OK;
        }
        if (!text || (!*text && k->kind != TEXT))
            return wrong(l, n, path, k->kind == TEXT ? "a text" : "a path");
        if (k->kind == TEXT || (k->kind == AUTO_PATH && strcmp(text, "auto") == 0))
            return set_text(l, (char **)(void *)field, text);
        return set_path(l, n, (char **)(void *)field, text);
    }
    case PICK:
    case PICK_NAME:
    case RECOMPUTE:
    case PRECISION: {
        const int i = text ? choice_of(k->choices, text) : -1;
        if (i < 0 && !(k->kind == RECOMPUTE && text && recompute_words(text))) {
            snprintf(expected, sizeof expected, "one of %s%s", commas(list, sizeof list, k->choices),
                     k->kind == RECOMPUTE ? ", or the last layers, such as feed:6,mixer:2" : "");
            return wrong(l, n, path, expected);
        }
        if (k->kind == PICK_NAME || k->kind == RECOMPUTE)
            return set_text(l, (char **)(void *)field, text);
        if (k->kind == PRECISION) {
            l->c->precision_auto = i == 0;
            const bool half = i == 0 ? sala_product_bf16_is_fast() : i == 2;
            l->c->precision = half ? SALA_PRECISION_BF16 : SALA_PRECISION_F32;
            return SALA_OK;
        }
        memcpy(field, &i, sizeof i);
        return SALA_OK;
    }
    case WORDS:
        return set_words(l, n, k, path, (sala_run_words *)(void *)field);
    case AMOUNT:
        return set_amount(l, n, k, path, (sala_run_amount *)(void *)field);
    }
    return SALA_OK;
}
_Static_assert(sizeof(sala_tail) == sizeof(int) && sizeof(sala_schedule_kind) == sizeof(int) &&
                   sizeof(sala_packing) == sizeof(int),
               "PICK writes an int into its field");

static bool skips(const sala_run_config *c, const key_row *k)
{
    return k->only_new && (c->model_from || c->model_config);
}

/* `prefix` is what stands before the rows' paths ("data.stages.0." or ""). */
static sala_status read_rows(const loading *l, const key_row *rows, size_t n_rows, const char *prefix, void *record)
{
    for (size_t i = 0; i < n_rows; i++) {
        const key_row *k = &rows[i];
        char path[160];
        snprintf(path, sizeof path, "%s%s", prefix, k->path);
        sala_yaml *n = sala_yaml_find(l->doc, path);
        if (skips(l->c, k)) {
            if (n && k->kind == WORDS)
                for (int w = 0; w < n->count; w++)
                    n->items[w]->used = true;
            if (n || !k->fallback)
                continue;
        }
        if (!n && !k->fallback) {
            char at[300] = "";
            size_t end = strlen(prefix);
            char parent[160];
            snprintf(parent, sizeof parent, "%.*s", end ? (int)end - 1 : 0, prefix);
            const sala_yaml *above = end ? sala_yaml_find(l->doc, parent) : NULL;
            if (above)
                sala_yaml_where(at, sizeof at, above);
            else
                snprintf(at, sizeof at, "%s", l->doc->files[0]);
            if (!l->missing->message[0])
                sala_fail(l->missing, SALA_E_INVALID, "%s: %s is missing (%s)", at, path, k->words);
            continue;
        }
        sala_yaml standard = {.kind = SALA_YAML_SCALAR, .text = (char *)(uintptr_t)k->fallback};
        if (!n) {
            if (strcmp(k->fallback, "null") == 0)
                standard.kind = SALA_YAML_NULL;
            else if (strcmp(k->fallback, "[]") == 0)
                standard.kind = SALA_YAML_LIST;
            n = &standard;
        }
        SALA_TRY(set_value(l, n, k, path, record));
    }
    return SALA_OK;
}

/* A group that should hold keys but is a single value, and the other way round, are found here: a find() passes them
 * by. */
static sala_status check_group(const loading *l, const char *path)
{
    sala_yaml *n = sala_yaml_find(l->doc, path);
    if (n && n->kind != SALA_YAML_MAP && n->kind != SALA_YAML_NULL)
        return wrong(l, n, path, "a group of keys");
    return SALA_OK;
}

static sala_status read_mup(const loading *l)
{
    sala_yaml *n = sala_yaml_find(l->doc, "model.mup");
    const char *family = l->c->family ? l->c->family : "";
    const bool scales = strncmp(family, "minicpm", 7) == 0;
    l->c->mup = scales && !l->c->model_from && !l->c->model_config;
    if (!n || n->kind == SALA_YAML_NULL)
        return SALA_OK;
    if (n->kind == SALA_YAML_MAP) {
        l->c->mup = true;
    } else if (n->kind == SALA_YAML_SCALAR && (strcmp(n->text, "true") == 0 || strcmp(n->text, "false") == 0)) {
        l->c->mup = n->text[0] == 't';
    } else {
        return wrong(l, n, "model.mup", "false, true, or a group of keys (scale_emb, scale_depth, dim_base, init_std)");
    }
    if (l->c->mup && !scales && !l->c->model_from && !l->c->model_config) {
        char at[300];
        return sala_fail(l->err, SALA_E_INVALID,
                         "%s: model.mup is on, but the config.json of family %s has no place for its multipliers; use "
                         "mup: false, or family minicpm or minicpm-sala",
                         sala_yaml_where(at, sizeof at, n), family);
    }
    return SALA_OK;
}

static sala_status read_sources(const loading *l, sala_run_stage *stage, const char *stage_path)
{
    char path[96];
    snprintf(path, sizeof path, "%s.sources", stage_path);
    sala_yaml *list = sala_yaml_find(l->doc, path);
    if (!list || list->kind != SALA_YAML_LIST || list->count == 0) {
        sala_yaml *stage_node = sala_yaml_find(l->doc, stage_path);
        return list ? wrong(l, list, path, "a list such as [{path: book.txt, weight: 1}]")
                    : wrong(l, stage_node, stage_path, "a group of keys with sources: [{path: book.txt, weight: 1}]");
    }
    if (list->count > SALA_MAX_SOURCES) {
        char at[300];
        return sala_fail(l->err, SALA_E_INVALID, "%s: %s has %d entries, expected at most %d",
                         sala_yaml_where(at, sizeof at, list), path, list->count, SALA_MAX_SOURCES);
    }
    stage->sources = calloc((size_t)list->count, sizeof *stage->sources);
    if (!stage->sources)
        return sala_fail_memory(l->err, (uint64_t)list->count * sizeof *stage->sources);
    for (; stage->n_sources < list->count; stage->n_sources++) {
        char prefix[128];
        sala_run_source *s = &stage->sources[stage->n_sources];
        snprintf(prefix, sizeof prefix, "%s.%d", path, stage->n_sources);
        SALA_TRY(check_group(l, prefix));
        snprintf(prefix, sizeof prefix, "%s.%d.", path, stage->n_sources);
        stage->n_sources++; /* what is half read is freed too */
        const sala_status st = read_rows(l, source_keys, SALA_ARRAY_LEN(source_keys), prefix, s);
        stage->n_sources--;
        if (st != SALA_OK) {
            stage->n_sources++;
            return st;
        }
        if (s->path && strncmp(s->path, "corpus:", 7) == 0)
            s->corpus = strtoull(s->path + 7, NULL, 16);
    }
    return SALA_OK;
}

static sala_status read_stages(const loading *l)
{
    sala_run_config *c = l->c;
    sala_yaml *list = sala_yaml_find(l->doc, "data.stages");
    if (!list) {
        if (!l->missing->message[0])
            sala_fail(l->missing, SALA_E_INVALID,
                      "%s: data.stages is missing; expected a list such as [{steps: 300, seq_len: 256, batch: 16, "
                      "sources: [{path: book.txt}]}]",
                      l->doc->files[0]);
        return SALA_OK;
    }
    if (list->kind != SALA_YAML_LIST || list->count == 0)
        return wrong(l, list, "data.stages", "a list with at least one stage");
    if (list->count > SALA_MAX_STAGES) {
        char at[300];
        return sala_fail(l->err, SALA_E_INVALID, "%s: data.stages has %d entries, expected at most %d",
                         sala_yaml_where(at, sizeof at, list), list->count, SALA_MAX_STAGES);
    }
    c->stages = calloc((size_t)list->count, sizeof *c->stages);
    if (!c->stages)
        return sala_fail_memory(l->err, (uint64_t)list->count * sizeof *c->stages);
    for (int i = 0; i < list->count; i++) {
        char path[64], prefix[64];
        snprintf(path, sizeof path, "data.stages.%d", i);
        snprintf(prefix, sizeof prefix, "data.stages.%d.", i);
        c->n_stages++;
        SALA_TRY(check_group(l, path));
        SALA_TRY(read_rows(l, stage_keys, SALA_ARRAY_LEN(stage_keys), prefix, &c->stages[i]));
        SALA_TRY(read_sources(l, &c->stages[i], path));
    }
    return SALA_OK;
}

/* ---- what nobody asked for: typos ---- */

static bool in_group(const char *path, const char *group, size_t len)
{
    return strncmp(path, group, len) == 0 && path[len] == '.';
}

/* Whole paths are compared, so that a key in the wrong group finds its way, and a wrong word is looked for among its
 * siblings. "data.stages.1.x" is compared with "data.stages.1.KEY". */
static void nearest_key(sala_buf *out, const char *path)
{
    const char *last = strrchr(path, '.');
    const size_t parent = last ? (size_t)(last - path) : 0;
    const char *word = last ? last + 1 : path;
    char best[160] = "", candidate[160];
    int best_distance = 3 + (int)strlen(path) / 4;
    char stage[64] = "", source[96] = "";
    int s = 0, r = 0;
    if (sscanf(path, "data.stages.%d", &s) == 1)
        snprintf(stage, sizeof stage, "data.stages.%d.", s);
    if (stage[0] && strncmp(path, stage, strlen(stage)) == 0 && sscanf(path + strlen(stage), "sources.%d", &r) == 1)
        snprintf(source, sizeof source, "%ssources.%d.", stage, r);
    const struct {
        const key_row *rows;
        size_t n;
        const char *prefix;
    } tables[] = {{keys, SALA_ARRAY_LEN(keys), ""},
                  {stage_keys, stage[0] ? SALA_ARRAY_LEN(stage_keys) : 0, stage},
                  {source_keys, source[0] ? SALA_ARRAY_LEN(source_keys) : 0, source}};
    for (size_t t = 0; t < SALA_ARRAY_LEN(tables); t++)
        for (size_t i = 0; i < tables[t].n; i++) {
            snprintf(candidate, sizeof candidate, "%s%s", tables[t].prefix, tables[t].rows[i].path);
            /* The key, and the groups that it is in. */
            for (char *tail; candidate[0]; *tail = 0) {
                tail = strrchr(candidate, '.');
                int d = sala_yaml_distance(path, candidate);
                /* The right word in the wrong group. */
                if (tail && strcmp(tail + 1, word) == 0)
                    d = d < 2 ? d : 2;
                if (d < best_distance) {
                    best_distance = d;
                    snprintf(best, sizeof best, "%s", candidate);
                }
                tail = tail ? tail : candidate;
            }
        }
    if (best[0]) {
        sala_buf_printf(out, "; the nearest is \"%s\"", best);
        return;
    }
    /* Nothing is like it: the siblings, if it has any. */
    int n = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(keys) && parent; i++)
        if (in_group(keys[i].path, path, parent) && n < 12)
            sala_buf_printf(out, "%s%s", n++ ? ", " : "; there are ", keys[i].path + parent + 1);
}

static sala_status check_unused(const loading *l)
{
    sala_buf path = {0}, near = {0};
    const sala_yaml *n = sala_yaml_unused(l->doc, &path);
    sala_status st = SALA_OK;
    if (n && !path.failed) {
        char at[300];
        nearest_key(&near, path.data);
        st = sala_fail(l->err, SALA_E_INVALID, "%s: there is no key \"%.120s\"%s", sala_yaml_where(at, sizeof at, n),
                       path.data, near.failed || !near.data ? "" : near.data);
    } else if (path.failed) {
        st = sala_fail_memory(l->err, 256);
    }
    sala_buf_free(&path);
    sala_buf_free(&near);
    return st;
}

/* A group of the table given as a value ("optimizer: 3"). */
static sala_status check_groups(const loading *l)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(keys); i++) {
        const char *path = keys[i].path;
        for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.')) {
            char group[96];
            snprintf(group, sizeof group, "%.*s", (int)(dot - path), path);
            if (strcmp(group, "model.mup") == 0)
                continue;
            if (strcmp(group, "optimizer.betas") == 0) {
                sala_yaml *n = sala_yaml_find(l->doc, group);
                if (n && n->kind != SALA_YAML_LIST)
                    return wrong(l, n, group, "a list of two numbers, such as [0.9, 0.95]");
                continue;
            }
            SALA_TRY(check_group(l, group));
        }
    }
    return SALA_OK;
}

/* ---- numbers that follow from others ---- */

static sala_status invalid(const loading *l, const char *key, const char *fmt, ...) SALA_PRINTF(3, 4);
static sala_status invalid(const loading *l, const char *key, const char *fmt, ...)
{
    char words[400], at[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(words, sizeof words, fmt, args);
    va_end(args);
    const sala_yaml *n = sala_yaml_find(l->doc, key);
    if (n)
        sala_yaml_where(at, sizeof at, n);
    else
        snprintf(at, sizeof at, "%s", l->doc->files[0]);
    return sala_fail(l->err, SALA_E_INVALID, "%s: %s: %s", at, key, words);
}

static void free_stage(sala_run_stage *s)
{
    for (int i = 0; i < s->n_sources; i++)
        free(s->sources[i].path);
    free(s->sources);
    free(s->name);
    free(s->sparse);
    *s = (sala_run_stage){0};
}

static sala_status resolve_steps(const loading *l)
{
    sala_run_config *c = l->c;
    int64_t sum = 0;
    for (int i = 0; i < c->n_stages; i++)
        sum += c->stages[i].steps; /* 16 times at most 10^12 */
    c->steps = c->ask_steps.kind == SALA_AMOUNT_COUNT ? (int64_t)c->ask_steps.value : sum;
    if (c->branch_from) {
        const char *name = strrchr(c->branch_from, '/');
        long long step = 0;
        if (sscanf(name ? name + 1 : c->branch_from, "step-%lld", &step) != 1 || step < 1)
            return invalid(l, "schedule.branch_from",
                           "\"%s\" is no save; expected a directory such as RUN/checkpoints/step-000000120",
                           c->branch_from);
        if (c->ask_decay.kind != SALA_AMOUNT_COUNT || c->ask_decay.value < 1)
            return invalid(l, "schedule.decay.steps", "a branch needs the number of its steps, not a share");
        c->branch_step = step;
        c->steps = step + (int64_t)c->ask_decay.value;
    }
    while (c->n_stages > 1 && sum - c->stages[c->n_stages - 1].steps >= c->steps) {
        sum -= c->stages[c->n_stages - 1].steps;
        free_stage(&c->stages[--c->n_stages]);
    }
    c->stages[c->n_stages - 1].steps += c->steps - sum;
    return SALA_OK;
}

static int64_t share_of(const sala_run_amount *a, int64_t all)
{
    return a->kind == SALA_AMOUNT_SHARE ? (int64_t)ceil(a->value * (double)all - 1e-9) : (int64_t)a->value;
}

static sala_status resolve(const loading *l)
{
    sala_run_config *c = l->c;
    SALA_TRY(resolve_steps(l));
    c->warmup = share_of(&c->ask_warmup, c->steps);
    c->decay_steps = share_of(&c->ask_decay, c->steps);
    c->lr_end = c->decay_end * c->lr;
    if (c->schedule != SALA_SCHEDULE_WSD || c->decay_tail == SALA_TAIL_NONE)
        c->decay_steps = 0;
    /* A run that is cut short of them is one that never gets there. */
    c->decay_steps = sala_min_i64(c->decay_steps, c->steps);
    if (c->decay_tail == SALA_TAIL_HALF_LIFE && c->half_life < 1)
        return invalid(l, "schedule.decay.half_life", "missing; the shape half-life needs it");
    if (c->decay_tail == SALA_TAIL_EXPONENTIAL && c->decay_steps && c->decay_end <= 0)
        return invalid(l, "schedule.decay.end",
                       "0, which an exponential decay never reaches; give more, or shape linear");
    for (int i = 0; i < c->n_stages; i++) {
        sala_run_stage *s = &c->stages[i];
        char key[64];
        s->lr = s->ask_lr < 0 ? c->lr : s->ask_lr;
        s->lr_end = s->end * s->lr;
        snprintf(key, sizeof key, "data.stages.%d.end", i);
        if (s->tail == SALA_TAIL_EXPONENTIAL && s->end <= 0)
            return invalid(l, key, "0, which an exponential decay never reaches; give more, or shape linear");
        snprintf(key, sizeof key, "data.stages.%d.shape", i);
        if (s->tail == SALA_TAIL_HALF_LIFE && c->half_life < 1)
            return invalid(l, key, "half-life, but schedule.decay.half_life is missing");
    }
    if (c->ask_memory.kind == SALA_AMOUNT_COUNT)
        c->memory_limit = (uint64_t)c->ask_memory.value;
    else
        c->memory_limit = (uint64_t)(c->ask_memory.value * (double)sala_os_memory_total());
    return SALA_OK;
}

/* ---- whole configs ---- */

static sala_status read_values(const loading *l)
{
    SALA_TRY(check_groups(l));
    SALA_TRY(read_rows(l, keys, SALA_ARRAY_LEN(keys), "", l->c));
    SALA_TRY(read_mup(l));
    SALA_TRY(read_stages(l));
    SALA_TRY(check_unused(l));
    if (l->missing->message[0]) {
        if (l->err)
            *l->err = *l->missing;
        return SALA_E_INVALID;
    }
    return resolve(l);
}

static sala_status parse(sala_run_config *out, const char *name, const char *yaml, size_t bytes, const char *base,
                         const char *const *sets, int n_sets, char *(*find)(const char *name), bool with_shape,
                         sala_error *err)
{
    sala_run_config c = {0};
    sala_error missing = {0};
    loading l = {.c = &c, .base = base ? realpath(base, NULL) : NULL, .find = find, .missing = &missing, .err = err};
    l.here = base ? realpath(".", NULL) : NULL;
    l.doc = calloc(1, sizeof *l.doc);
    sala_status st = l.doc ? sala_yaml_parse(l.doc, name, yaml, bytes, err) : sala_fail_memory(err, sizeof *l.doc);
    if (st != SALA_OK) {
        free(l.doc);
    } else {
        c.source = l.doc;
        for (int i = 0; i < n_sets && st == SALA_OK; i++)
            st = sala_yaml_set(l.doc, sets[i], err);
        if (st == SALA_OK)
            st = read_values(&l);
        if (st == SALA_OK && with_shape)
            st = sala_run_shape(&c, err);
    }
    free(l.base);
    free(l.here);
    if (st != SALA_OK)
        sala_run_config_free(&c);
    else
        *out = c;
    return st;
}

sala_status sala_run_config_parse(sala_run_config *out, const char *name, const char *yaml, size_t bytes,
                                  const char *const *sets, int n_sets, sala_error *err)
{
    return parse(out, name, yaml, bytes, NULL, sets, n_sets, NULL, true, err);
}

sala_status sala_run_config_load(sala_run_config *out, const char *path, const char *const *sets, int n_sets,
                                 char *(*find)(const char *name), sala_error *err)
{
    uint8_t *text;
    size_t bytes;
    const int e = sala_os_read_file(&text, &bytes, path, MAX_FILE);
    if (e == EFBIG)
        return sala_fail(err, SALA_E_LIMIT, "%s: more than 1 MiB; a config is a few lines", path);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", path);
    const char *slash = strrchr(path, '/');
    char *base = slash ? sala_strndup(path, (size_t)(slash - path) + 1) : sala_strdup(".");
    const sala_status st = base ? parse(out, path, (const char *)text, bytes, base, sets, n_sets, find, true, err)
                                : sala_fail_memory(err, strlen(path));
    free(base);
    free(text);
    return st;
}

static void free_texts(const key_row *rows, size_t n, void *record)
{
    for (size_t i = 0; i < n; i++) {
        void *field = (char *)record + rows[i].at;
        const key_kind k = rows[i].kind;
        if (k == TEXT || k == PATH || k == AUTO_PATH || k == PICK_NAME || k == RECOMPUTE)
            free(*(char **)field);
        else if (k == WORDS)
            free_words(field);
    }
}

void sala_run_config_free(sala_run_config *c)
{
    free_texts(keys, SALA_ARRAY_LEN(keys), c);
    for (int i = 0; i < c->n_stages; i++)
        free_stage(&c->stages[i]);
    free(c->stages);
    sala_config_free(&c->shape);
    if (c->source)
        sala_yaml_free(c->source);
    free(c->source);
    *c = (sala_run_config){0};
}

/* ---- text ---- */

static void add_number(sala_buf *out, double v)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    sala_buf_add_str(out, text);
}

/* Plain where YAML reads the same back, else in double quotes. */
static void add_text(sala_buf *out, const char *s)
{
    bool plain = *s && strchr("./_", s[0]) != NULL;
    plain = plain || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z');
    for (const char *p = s; *p && plain; p++)
        plain =
            strchr("./_-+=", *p) || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');
    if (plain && strcmp(s, "null") != 0) {
        sala_buf_add_str(out, s);
        return;
    }
    sala_buf_add_char(out, '"');
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        if (*p == '"' || *p == '\\')
            sala_buf_printf(out, "\\%c", *p);
        else if (*p == '\n')
            sala_buf_add_str(out, "\\n");
        else if (*p < 32 || *p == 127)
            sala_buf_printf(out, "\\x%02x", *p);
        else
            sala_buf_add_char(out, (char)*p);
    }
    sala_buf_add_char(out, '"');
}

static void add_value(sala_buf *out, const sala_run_config *c, const key_row *k, const void *record)
{
    const char *field = (const char *)record + k->at;
    char name[32];
    switch (k->kind) {
    case INT:
    case INT_OR_NULL:
    case AUTO_INT: {
        const int64_t v = *(const int64_t *)(const void *)field;
        if (v == 0 && k->kind != INT)
            sala_buf_add_str(out, k->kind == AUTO_INT ? "auto" : "null");
        else
            sala_buf_printf(out, "%" PRId64, v);
        return;
    }
    case SEED:
        sala_buf_printf(out, "%" PRIu64, *(const uint64_t *)(const void *)field);
        return;
    case NUMBER:
        add_number(out, *(const double *)(const void *)field);
        return;
    case BOOL:
        sala_buf_add_str(out, *(const bool *)(const void *)field ? "true" : "false");
        return;
    case TEXT:
    case PATH:
    case AUTO_PATH:
    case PICK_NAME:
    case RECOMPUTE: {
        const char *s = *(char *const *)(const void *)field;
        if (s)
            add_text(out, s);
        else
            sala_buf_add_str(out, "null");
        return;
    }
    case PICK: {
        int i;
        memcpy(&i, field, sizeof i);
        sala_buf_add_str(out, choice_name(name, k->choices, i));
        return;
    }
    case PRECISION: /* what auto came to: it moves bits */
        sala_buf_add_str(out, c->precision == SALA_PRECISION_BF16 ? "bf16" : "f32");
        return;
    case WORDS: {
        const sala_run_words *w = (const sala_run_words *)(const void *)field;
        sala_buf_add_char(out, '[');
        for (int i = 0; i < w->count; i++) {
            sala_buf_add_str(out, i ? ", " : "");
            add_text(out, w->items[i]);
        }
        sala_buf_add_char(out, ']');
        return;
    }
    case AMOUNT: {
        const sala_run_amount *a = (const sala_run_amount *)(const void *)field;
        if (a->kind == SALA_AMOUNT_AUTO) {
            sala_buf_add_str(out, "auto");
        } else {
            add_number(out, a->kind == SALA_AMOUNT_SHARE ? a->value * 100 : a->value);
            sala_buf_add_str(out, a->kind == SALA_AMOUNT_SHARE ? "%" : "");
        }
        return;
    }
    }
}

static void add_rows(sala_buf *out, const sala_run_config *c, const key_row *rows, size_t n, const char *prefix,
                     const void *record, bool identity)
{
    for (size_t i = 0; i < n; i++) {
        const key_row *k = &rows[i];
        const bool of_mup = strncmp(k->path, "model.mup.", 10) == 0;
        /* What is made again from bf16 rounds otherwise than what was kept; f32 has the same bits. */
        const bool free_now = k->same == FREE || (k->same == HALF && c->precision == SALA_PRECISION_F32);
        if ((identity && free_now) || skips(c, k) || (of_mup && !c->mup))
            continue;
        sala_buf_printf(out, "%s%s: ", prefix, k->path);
        const sala_run_source *s = record;
        if (identity && rows == source_keys && k->kind == PATH && s->corpus)
            sala_buf_printf(out, "\"corpus:%016" PRIx64 "\"", s->corpus);
        else
            add_value(out, c, k, record);
        sala_buf_add_char(out, '\n');
    }
}

sala_status sala_run_config_text(sala_buf *out, const sala_run_config *c, bool identity)
{
    add_rows(out, c, keys, SALA_ARRAY_LEN(keys), "", c, identity);
    if (!c->mup)
        sala_buf_add_str(out, "model.mup: false\n");
    for (int i = 0; i < c->n_stages; i++) {
        char prefix[96];
        snprintf(prefix, sizeof prefix, "data.stages.%d.", i);
        add_rows(out, c, stage_keys, SALA_ARRAY_LEN(stage_keys), prefix, &c->stages[i], identity);
        for (int k = 0; k < c->stages[i].n_sources; k++) {
            snprintf(prefix, sizeof prefix, "data.stages.%d.sources.%d.", i, k);
            add_rows(out, c, source_keys, SALA_ARRAY_LEN(source_keys), prefix, &c->stages[i].sources[k], identity);
        }
    }
    return out->failed ? sala_fail_memory(NULL, 4096) : SALA_OK;
}

void sala_run_config_keys(sala_buf *out)
{
    static const char *const kinds[] = {"whole number", "whole number",  "whole number or auto",
                                        "number",       "true or false", "text",
                                        "path",         "path or auto",  "word",
                                        "word",         "word",          "word",
                                        "list",         "amount",        "whole number"};
    const struct {
        const key_row *rows;
        size_t n;
        const char *prefix;
    } tables[] = {{keys, SALA_ARRAY_LEN(keys), ""},
                  {stage_keys, SALA_ARRAY_LEN(stage_keys), "data.stages.N."},
                  {source_keys, SALA_ARRAY_LEN(source_keys), "data.stages.N.sources.N."}};
    for (size_t t = 0; t < SALA_ARRAY_LEN(tables); t++)
        for (size_t i = 0; i < tables[t].n; i++) {
            const key_row *k = &tables[t].rows[i];
            char list[160];
            sala_buf_printf(out, "%s%s\t%s\t%s\t%s\n", tables[t].prefix, k->path,
                            k->choices && k->kind != AMOUNT ? commas(list, sizeof list, k->choices) : kinds[k->kind],
                            k->fallback ? k->fallback : "(required)", k->words);
        }
}

/* ---- comparing ---- */

static const char *line_of(const char *text, const char *key, size_t len, size_t *value_len)
{
    for (const char *p = text; *p;) {
        const size_t n = strcspn(p, "\n");
        if (n > len + 1 && strncmp(p, key, len) == 0 && p[len] == ':') {
            *value_len = n - len - 2;
            return p + len + 2;
        }
        p += n + (p[n] != 0);
    }
    return NULL;
}

typedef void difference_fn(void *user, const char *key, size_t key_len, const char *then, size_t then_len,
                           const char *now, size_t now_len);

static void each_difference(const char *then_text, const char *now_text, difference_fn *fn, void *user)
{
    static const char none[] = "not given";
    const char *const texts[2] = {now_text, then_text};
    for (int turn = 0; turn < 2; turn++)
        for (const char *p = texts[turn]; *p;) {
            const size_t n = strcspn(p, "\n");
            const char *colon = memchr(p, ':', n);
            if (colon && n >= (size_t)(colon - p) + 2) {
                const size_t len = (size_t)(colon - p);
                size_t other_len = 0;
                const char *value = colon + 2, *other = line_of(texts[!turn], p, len, &other_len);
                const size_t value_len = n - len - 2;
                const bool equal = other && other_len == value_len && memcmp(other, value, value_len) == 0;
                if (!other) {
                    other = none;
                    other_len = sizeof none - 1;
                } else if (turn == 1) {
                    p += n + (p[n] != 0);
                    continue; /* both have it: the first turn has told */
                }
                if (!equal && turn == 0)
                    fn(user, p, len, other, other_len, value, value_len);
                else if (!equal)
                    fn(user, p, len, value, value_len, other, other_len);
            }
            p += n + (p[n] != 0);
        }
}

typedef struct difference_list {
    sala_buf *out;
    bool same;
} difference_list;

static void add_difference(void *user, const char *key, size_t key_len, const char *then, size_t then_len,
                           const char *now, size_t now_len)
{
    difference_list *d = user;
    d->same = false;
    sala_buf_printf(d->out, "%.*s: %.*s then, %.*s now\n", (int)key_len, key, (int)then_len, then, (int)now_len, now);
}

void sala_run_config_difference(sala_buf *out, bool *same, const char *then_text, const char *now_text)
{
    difference_list d = {out, true};
    each_difference(then_text, now_text, add_difference, &d);
    *same = d.same;
}

/* The row of a key as the text spells it; stages and sources by their last word. */
static bool may_change_later(const char *key, size_t len)
{
    if (len > 12 && strncmp(key, "data.stages.", 12) == 0) {
        const char *p = key + 12;
        while (p < key + len && *p != '.')
            p++;
        const size_t rest = (size_t)(key + len - p);
        for (size_t i = 0; i < SALA_ARRAY_LEN(stage_keys) && rest > 1; i++)
            if (strlen(stage_keys[i].path) == rest - 1 && strncmp(stage_keys[i].path, p + 1, rest - 1) == 0)
                return stage_keys[i].same == LATER;
        return false;
    }
    for (size_t i = 0; i < SALA_ARRAY_LEN(keys); i++)
        if (strlen(keys[i].path) == len && strncmp(keys[i].path, key, len) == 0)
            return keys[i].same == LATER;
    return false;
}

static void check_later(void *user, const char *key, size_t key_len, const char *then, size_t then_len, const char *now,
                        size_t now_len)
{
    bool *later = user;
    (void)then;
    (void)then_len;
    (void)now;
    (void)now_len;
    *later = *later && may_change_later(key, key_len);
}

bool sala_run_config_continues(const sala_run_config *now, const char *now_text, const char *then_text, int64_t step)
{
    bool later = true;
    sala_run_config then;
    each_difference(then_text, now_text, check_later, &later);
    if (!later || step > now->steps ||
        parse(&then, "save", then_text, strlen(then_text), NULL, NULL, 0, NULL, false, NULL) != SALA_OK)
        return false;
    bool same = step <= then.steps;
    for (int64_t s = 1; s <= step && same; s++) {
        int64_t before_then, before_now;
        same = sala_run_lr(&then, s) == sala_run_lr(now, s) &&
               sala_run_stage_of(&then, s, &before_then) == sala_run_stage_of(now, s, &before_now) &&
               before_then == before_now;
    }
    sala_run_config_free(&then);
    return same;
}

int64_t sala_run_config_stable_step(const char *now_text, const char *then_text)
{
    sala_run_config then;
    bool later = true;
    each_difference(then_text, now_text, check_later, &later);
    if (!later || parse(&then, "save", then_text, strlen(then_text), NULL, NULL, 0, NULL, false, NULL) != SALA_OK)
        return 0;
    const int64_t step = then.decay_steps > 0 ? then.steps - then.decay_steps : 0;
    sala_run_config_free(&then);
    return step;
}

sala_status sala_run_config_adopt(sala_run_config *c, const char *save_text, sala_error *err)
{
    size_t rows_len = 0, words_len = 0;
    int64_t rows;
    char text[32];
    const char *at = line_of(save_text, "compute.rows_per_pass", 21, &rows_len);
    const char *words = line_of(save_text, "compute.recompute", 17, &words_len);
    if (at && c->rows_per_pass == 0 && rows_len < sizeof text) {
        snprintf(text, sizeof text, "%.*s", (int)rows_len, at);
        if (whole_number(text, &rows) && rows > 0)
            c->rows_per_pass = rows;
    }
    if (words && strcmp(c->recompute, "auto") == 0) {
        /* Written in quotes where it has a colon. */
        const bool quoted = words_len > 1 && words[0] == '"';
        char *copy = sala_strndup(words + quoted, words_len - (quoted ? 2 : 0));
        if (!copy)
            return sala_fail_memory(err, words_len);
        free(c->recompute);
        c->recompute = copy;
    }
    return SALA_OK;
}

const char *sala_run_config_where(const sala_run_config *c, const char *key, char *dst, size_t bytes)
{
    sala_yaml *n = c->source ? sala_yaml_find(c->source, key) : NULL;
    snprintf(dst, bytes, "default");
    return n ? sala_yaml_where(dst, bytes, n) : dst;
}

/* ---- stages and learning rate ---- */

int sala_run_stage_of(const sala_run_config *c, int64_t step, int64_t *before)
{
    int64_t done = 0;
    int i = 0;
    for (; i + 1 < c->n_stages && step > done + c->stages[i].steps; i++)
        done += c->stages[i].steps;
    *before = done;
    return i;
}

double sala_run_lr(const sala_run_config *c, int64_t step)
{
    int64_t before;
    const sala_run_stage *stage = &c->stages[sala_run_stage_of(c, step, &before)];
    sala_schedule s = {.kind = c->schedule,
                       .tail = c->decay_steps ? c->decay_tail : SALA_TAIL_NONE,
                       .warmup = c->warmup,
                       .stable_end = c->branch_step ? c->branch_step : c->steps - c->decay_steps,
                       .total = c->steps,
                       .peak = stage->lr,
                       .end = c->decay_end * stage->lr,
                       .half_life = (double)c->half_life};
    if (stage->tail != SALA_TAIL_NONE) {
        s.kind = SALA_SCHEDULE_WSD;
        s.tail = stage->tail;
        s.stable_end = before;
        s.total = before + stage->steps;
        s.end = stage->lr_end;
    }
    return sala_schedule_at(&s, step);
}
