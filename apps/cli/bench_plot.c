#include "bench_plot.h"

#include "os/os.h"
#include "plot.h"
#include "reading.h"

#include <math.h>

enum { MOST_MODELS = 8, MOST_POINTS = 64 };

typedef struct line {
    double x[MOST_POINTS], y[MOST_POINTS];
    int n;
    double stops_at;
} line;

typedef struct chart {
    const char *models[MOST_MODELS];
    int n_models;
    line lines[3][MOST_MODELS]; /* prefill, decode, memory */
    int64_t count[2];           /* tokens of a row that is drawn: the first of -p and -n */
} chart;

static int model_number(chart *c, const char *name)
{
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i], name) == 0)
            return i;
    if (c->n_models == MOST_MODELS)
        return -1;
    for (int k = 0; k < 3; k++)
        c->lines[k][c->n_models].stops_at = (double)NAN;
    c->models[c->n_models] = name;
    return c->n_models++;
}

/* Points come in any order of depth; one of the same depth is replaced by a larger value. */
static void add_point(line *l, double x, double y)
{
    int i = 0;
    while (i < l->n && l->x[i] < x)
        i++;
    if (i < l->n && l->x[i] == x) {
        l->y[i] = y > l->y[i] ? y : l->y[i];
        return;
    }
    if (l->n == MOST_POINTS)
        return;
    memmove(l->x + i + 1, l->x + i, (size_t)(l->n - i) * sizeof *l->x);
    memmove(l->y + i + 1, l->y + i, (size_t)(l->n - i) * sizeof *l->y);
    l->x[i] = x;
    l->y[i] = y;
    l->n++;
}

static void add_row(chart *c, const json_t *row)
{
    const int m = model_number(c, cli_json_string(row, "model"));
    if (m < 0)
        return;
    const char *kind = cli_json_string(row, "kind");
    const double depth = (double)cli_json_int(row, "depth");
    if (strcmp(kind, "skipped") == 0) {
        for (int k = 0; k < 3; k++)
            if (!(c->lines[k][m].stops_at <= depth)) /* also when there is none yet */
                c->lines[k][m].stops_at = depth;
        return;
    }
    const int k = strcmp(kind, "decode") == 0;
    const int64_t n = cli_json_int(row, "n");
    add_point(&c->lines[2][m], depth, (double)cli_json_int(row, "peak_rss_bytes"));
    if (c->count[k] == 0)
        c->count[k] = n;
    if (n == c->count[k])
        add_point(&c->lines[k][m], depth, json_real_value(json_object_get(row, "tokens_per_second")));
}

int cli_bench_plot(const char *path, const json_t *rows, const char *subtitle)
{
    static chart c;
    c = (chart){0};
    for (size_t i = 0; i < json_array_size(rows); i++)
        add_row(&c, json_array_get(rows, i));
    cli_series series[3][MOST_MODELS];
    cli_panel panels[3];
    char titles[2][80], machine[32], stop[96];
    int n_panels = 0;
    for (int k = 0; k < 3; k++) {
        for (int m = 0; m < c.n_models; m++) {
            const line *l = &c.lines[k][m];
            series[k][m] = (cli_series){c.models[m], l->x, l->y, l->n, l->stops_at};
        }
        if (k < 2 && c.count[k] == 0)
            continue;
        if (k < 2)
            snprintf(titles[k], sizeof titles[k], "%s, tokens per second (%lld tokens)", k ? "Decode" : "Prefill",
                     (long long)c.count[k]);
        panels[n_panels++] = (cli_panel){k < 2 ? titles[k] : "Memory of the process at its peak",
                                         k < 2 ? CLI_UNIT_NUMBER : CLI_UNIT_BYTES, series[k], c.n_models};
    }
    snprintf(stop, sizeof stop, "does not fit into %s of memory", sala_format_bytes(machine, sala_os_memory_total()));
    const cli_chart picture = {.title = "Speed and memory against depth",
                               .subtitle = subtitle,
                               .x_title = "tokens that the session holds already",
                               .stop_words = stop,
                               .panels = panels,
                               .n_panels = n_panels};
    sala_buf svg = {0};
    cli_plot_lines(&svg, &picture);
    const int rc = cli_plot_write(path, &svg);
    sala_buf_free(&svg);
    return rc;
}
