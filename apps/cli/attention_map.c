/* A question goes through the model on a fork of the session while an observer counts, layer by layer, the blocks that
 * its tokens select. Blocks that every token sees anyway (the first ones and those around the token itself) say nothing
 * about the question and are left out. */
#include "attention_map.h"

#include "frame.h"
#include "infer/engine.h"
#include "input.h"
#include "model_arg.h"
#include "os/os.h"
#include "plot.h"
#include "reading.h"
#include "ui.h"

#include <math.h>
#include <stdlib.h>

enum { TEXT_COLUMNS = 48, PLOT_COLUMNS = 96, TOP = 10, LABEL = 24 };

typedef struct map {
    const cli_options *o;
    const char *path, *question;
    cli_saved saved;
    sala_model *model;
    sala_session *base, *fork;
    cli_frame frame;
    const sala_sparse_config *sparse;
    int64_t n_blocks;
    int n_layers;     /* sparse ones */
    int *layers;      /* [n_layers] their numbers */
    uint64_t *counts; /* [n_layers][n_blocks] */
    uint64_t *totals; /* [n_layers] */
    uint64_t rows, dense_rows;
} map;

/* ---- counting ---- */

static void on_selected(void *user, int layer, const sala_selection *selection, const sala_attn_seq *seqs, int n_seqs)
{
    map *m = user;
    int at = 0;
    while (at < m->n_layers && m->layers[at] != layer)
        at++;
    if (at == m->n_layers)
        return;
    uint64_t *counts = m->counts + (size_t)at * (size_t)m->n_blocks;
    const int heads = m->model->config->n_kv_heads;
    const int window = m->sparse->window_size / m->sparse->block_size;
    for (int s = 0; s < n_seqs; s++)
        for (int64_t i = 0; i < seqs[s].n_rows; i++)
            for (int h = 0; h < heads; h++) {
                const int32_t *list =
                    selection->list + ((seqs[s].first_row + i) * heads + h) * (1 + (int64_t)selection->most);
                const int64_t own = (seqs[s].position + i) / selection->block_size;
                m->rows++;
                if (list[0] < 0)
                    m->dense_rows++;
                for (int32_t k = 1; k <= list[0]; k++)
                    if (list[k] >= m->sparse->init_blocks && list[k] < own - window && list[k] < m->n_blocks) {
                        counts[list[k]]++;
                        m->totals[at]++;
                    }
            }
}

static int run_question(map *m)
{
    sala_ids ids = {0};
    sala_error err = {0};
    int rc = cli_frame_question(&ids, &m->frame, m->model, m->question, strlen(m->question),
                                cli_json_flag(m->saved.note, "answered"));
    if (rc == 0 && sala_session_fork(&m->fork, m->base, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0) {
        const sala_observer before = m->model->net->observer;
        m->model->net->observer.selected = on_selected;
        m->model->net->observer.user = m;
        if (sala_prefill(m->fork, ids.data, ids.count, 0, NULL, cli_progress, NULL, &err) != SALA_OK)
            rc = cli_fail_error(&err);
        m->model->net->observer = before;
        cli_progress_end();
    }
    sala_ids_free(&ids);
    return rc;
}

/* ---- what came out ---- */

/* Share of a layer's selections (at < 0: of all layers') that fall into stretch c of n. */
static double share(const map *m, int at, int c, int n)
{
    const int64_t from = m->n_blocks * c / n, to = m->n_blocks * (c + 1) / n;
    uint64_t hits = 0, total = 0;
    for (int l = at < 0 ? 0 : at; l < (at < 0 ? m->n_layers : at + 1); l++) {
        for (int64_t b = from; b < to; b++)
            hits += m->counts[l * m->n_blocks + b];
        total += m->totals[l];
    }
    return total ? (double)hits / (double)total : 0;
}

static const char *position(char dst[LABEL], int64_t token)
{
    if (token >= 4096)
        snprintf(dst, LABEL, token < 102400 ? "%.1fK" : "%.0fK", (double)token / 1024);
    else
        snprintf(dst, LABEL, "%lld", (long long)token);
    return dst;
}

typedef struct hit {
    int64_t block;
    uint64_t count;
} hit;

static int compare_hits(const void *a, const void *b)
{
    const hit *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count) - (x->count > y->count)
                                : (x->block > y->block) - (x->block < y->block);
}

/* The blocks that most selections of all layers fell on; returns how many there are, up to TOP. */
static int top_blocks(const map *m, hit top[TOP])
{
    hit *all = malloc((size_t)m->n_blocks * sizeof *all);
    if (!all)
        return 0;
    for (int64_t b = 0; b < m->n_blocks; b++) {
        all[b] = (hit){b, 0};
        for (int l = 0; l < m->n_layers; l++)
            all[b].count += m->counts[l * m->n_blocks + b];
    }
    qsort(all, (size_t)m->n_blocks, sizeof *all, compare_hits);
    int n = 0;
    while (n < TOP && n < m->n_blocks && all[n].count) {
        top[n] = all[n];
        n++;
    }
    free(all);
    return n;
}

static uint64_t all_selections(const map *m)
{
    uint64_t total = 0;
    for (int l = 0; l < m->n_layers; l++)
        total += m->totals[l];
    return total;
}

/* The text of a block; owned by the caller, NULL when memory is out. */
static char *block_text(const map *m, int64_t block, size_t *bytes)
{
    size_t n = 0;
    const int32_t *tokens = sala_session_tokens(m->base, &n);
    const size_t from = (size_t)(block * m->sparse->block_size);
    const size_t most = n > from ? n - from : 0;
    char *text = NULL;
    *bytes = 0;
    if (sala_detokenize(m->model, &text, bytes, tokens + from,
                        most < (size_t)m->sparse->block_size ? most : (size_t)m->sparse->block_size, false,
                        NULL) != SALA_OK)
        return NULL;
    return text;
}

static void print_map(const map *m)
{
    static const char *const shades[] = {"·", "░", "▒", "▓", "█"};
    char from[LABEL], to[LABEL];
    double most = 0;
    const int columns = m->n_blocks < TEXT_COLUMNS ? (int)m->n_blocks : TEXT_COLUMNS;
    for (int l = 0; l < m->n_layers; l++)
        for (int c = 0; c < columns; c++)
            most = fmax(most, share(m, l, c, columns));
    printf("layer     0%*s\n", columns - 1, position(to, m->n_blocks * m->sparse->block_size));
    for (int l = 0; l <= m->n_layers; l++) {
        const int at = l < m->n_layers ? l : -1;
        if (at < 0)
            printf("all       ");
        else
            printf("%-8d  ", m->layers[l]);
        int best = 0;
        for (int c = 0; c < columns; c++) {
            const double s = share(m, at, c, columns);
            const int shade = most > 0 ? (int)ceil(s / most * 4) : 0;
            fputs(shades[shade > 4 ? 4 : shade], stdout);
            best = s > share(m, at, best, columns) ? c : best;
        }
        printf("  %5.1f %% in %s to %s\n", 100 * share(m, at, best, columns),
               position(from, m->n_blocks * best / columns * m->sparse->block_size),
               position(to, m->n_blocks * (best + 1) / columns * m->sparse->block_size));
    }
    hit top[TOP];
    const int n = top_blocks(m, top);
    const double total = (double)all_selections(m);
    puts("");
    cli_table *t = cli_table_new(">share|>block|>tokens from|text");
    for (int i = 0; i < n; i++) {
        size_t bytes = 0;
        char *text = block_text(m, top[i].block, &bytes), *shown = text ? cli_printable(text, bytes, 60) : NULL;
        cli_table_cell(t, "%.2f %%", 100 * (double)top[i].count / total);
        cli_table_cell(t, "%lld", (long long)top[i].block);
        cli_table_cell(t, "%lld", (long long)top[i].block * m->sparse->block_size);
        cli_table_cell(t, "%s", shown ? shown : "");
        free(shown);
        sala_free(text);
    }
    cli_table_print(t, stdout);
}

static json_t *as_json(const map *m)
{
    json_t *layers = json_array(), *blocks = json_array();
    const int columns = m->n_blocks < TEXT_COLUMNS ? (int)m->n_blocks : TEXT_COLUMNS;
    for (int l = 0; l < m->n_layers; l++) {
        json_t *shares = json_array();
        for (int c = 0; c < columns; c++)
            json_array_append_new(shares, json_real(share(m, l, c, columns)));
        json_array_append_new(layers, json_pack("{s:i,s:I,s:o}", "layer", m->layers[l], "selections",
                                                (json_int_t)m->totals[l], "shares", shares));
    }
    hit top[TOP];
    const int n = top_blocks(m, top);
    for (int i = 0; i < n; i++) {
        size_t bytes = 0;
        char *text = block_text(m, top[i].block, &bytes);
        json_array_append_new(blocks, json_pack("{s:I,s:I,s:f,s:o}", "block", (json_int_t)top[i].block, "token",
                                                (json_int_t)(top[i].block * m->sparse->block_size), "share",
                                                (double)top[i].count / (double)all_selections(m), "text",
                                                cli_json_text(text ? text : "", bytes)));
        sala_free(text);
    }
    return json_pack("{s:o,s:o,s:I,s:i,s:I,s:o,s:o}", "session", cli_json_text(m->path, strlen(m->path)), "question",
                     cli_json_text(m->question, strlen(m->question)), "tokens",
                     (json_int_t)sala_session_length(m->base), "block_size", (int)m->sparse->block_size, "blocks",
                     (json_int_t)m->n_blocks, "layers", layers, "top", blocks);
}

static int plot(const map *m)
{
    const int columns = m->n_blocks < PLOT_COLUMNS ? (int)m->n_blocks : PLOT_COLUMNS, rows = m->n_layers + 1;
    double *shares = malloc((size_t)rows * (size_t)columns * sizeof *shares);
    char(*labels)[LABEL] = malloc((size_t)(rows + columns) * sizeof *labels);
    const char **names = malloc((size_t)(rows + columns) * sizeof *names);
    int rc = shares && labels && names ? 0 : cli_fail("not enough memory");
    char title[160], subtitle[300], tokens[32];
    for (int r = 0; rc == 0 && r < rows; r++) {
        if (r < m->n_layers)
            snprintf(labels[r], LABEL, "layer %d", m->layers[r]);
        else
            snprintf(labels[r], LABEL, "all");
        names[r] = labels[r];
        for (int c = 0; c < columns; c++)
            shares[r * columns + c] = share(m, r < m->n_layers ? r : -1, c, columns);
    }
    for (int c = 0; rc == 0 && c < columns; c++)
        names[rows + c] = position(labels[rows + c], m->n_blocks * c / columns * m->sparse->block_size);
    if (rc == 0) {
        snprintf(title, sizeof title, "Where \"%.100s\" looks", m->question);
        snprintf(subtitle, sizeof subtitle, "%s, %s tokens; blocks of %d tokens, without those that every token sees",
                 m->path, cli_thousands(tokens, (uint64_t)sala_session_length(m->base)), (int)m->sparse->block_size);
        const cli_heat heat = {.title = title,
                               .subtitle = subtitle,
                               .row_title = "",
                               .column_title = "place in the session (tokens)",
                               .n_rows = rows,
                               .n_columns = columns,
                               .share = shares,
                               .row_labels = names,
                               .column_labels = names + rows,
                               .share_words = "of the blocks that the question's tokens select in the layer"};
        sala_buf svg = {0};
        cli_plot_heat(&svg, &heat);
        rc = cli_plot_write(m->o->plot, &svg);
        sala_buf_free(&svg);
    }
    free(shares);
    free(labels);
    free(names);
    return rc;
}

/* ---- the whole ---- */

static int prepare(map *m)
{
    const sala_config *c = m->model->config;
    m->sparse = &c->sparse;
    m->n_blocks = sala_session_length(m->base) / sala_max_i64(1, c->sparse.block_size);
    m->layers = calloc((size_t)c->n_layers + 1, sizeof *m->layers);
    if (!m->layers)
        return cli_fail("not enough memory");
    for (int i = 0; i < c->n_layers; i++)
        if (c->mixers[i] == SALA_MIXER_SPARSE)
            m->layers[m->n_layers++] = i;
    if (m->n_layers == 0)
        return cli_fail("no layer of %s selects blocks: all of them see everything, or keep a state of fixed size",
                        c->name && c->name[0] ? c->name : m->model->path);
    m->counts = calloc((size_t)m->n_layers * (size_t)(m->n_blocks + 1), sizeof *m->counts);
    m->totals = calloc((size_t)m->n_layers, sizeof *m->totals);
    return m->counts && m->totals ? 0 : cli_fail("not enough memory");
}

static int open_all(map *m, cli_options *o)
{
    int rc = cli_saved_open(&m->saved, m->path);
    if (rc)
        return rc;
    const char *sparse = cli_json_string(m->saved.note, "sparse");
    o->model = o->model ? o->model : m->saved.model;
    o->sparse = sparse[0] ? sparse : NULL;
    o->n_args = 0;
    rc = cli_model_open(&m->model, o);
    const sala_restore_params params = {.read_only = true, .max_tokens = m->saved.tokens + (1 << 16)};
    sala_error err = {0};
    if (rc == 0 && sala_session_restore(&m->base, m->model, m->path, &params, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0)
        rc = cli_frame_open(&m->frame, m->model,
                            !m->saved.note || strcmp(cli_json_string(m->saved.note, "frame"), "text") == 0,
                            json_string_value(json_object_get(m->saved.note, "system")));
    return rc ? rc : prepare(m);
}

int cli_attention_map(const cli_options *given)
{
    cli_options options = *given;
    map m = {.o = given, .path = given->attention, .question = given->prompt ? given->prompt : "What is this about?"};
    int rc = given->plot ? cli_check_out(given->plot) : 0;
    if (rc == 0)
        rc = open_all(&m, &options);
    if (rc == 0)
        rc = run_question(&m);
    if (rc == 0 && m.dense_rows == m.rows)
        rc = cli_fail("the session holds %lld tokens; layers of this model see everything until there are %lld",
                      (long long)sala_session_length(m.base), (long long)m.sparse->dense_len);
    if (rc == 0 && all_selections(&m) == 0)
        rc = cli_fail("the session holds %lld tokens, all of them in blocks that every token sees",
                      (long long)sala_session_length(m.base));
    if (rc == 0 && given->json) {
        rc = cli_print_json(as_json(&m));
    } else if (rc == 0) {
        char tokens[32];
        printf("%s, %s tokens; which blocks of %d tokens \"%s\" selects\n\n", m.path,
               cli_thousands(tokens, (uint64_t)sala_session_length(m.base)), (int)m.sparse->block_size, m.question);
        print_map(&m);
        rc = cli_flush(CLI_DONE);
    }
    if (rc == 0 && given->plot)
        rc = plot(&m);
    sala_session_close(m.fork);
    sala_session_close(m.base);
    sala_model_close(m.model);
    cli_frame_free(&m.frame);
    free(m.layers);
    free(m.counts);
    free(m.totals);
    cli_saved_free(&m.saved);
    return rc;
}
