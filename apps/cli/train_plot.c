/* Curves of runs as one chart: what was asked for, and the speed below it. */
#include "train_parts.h"

#include "os/os.h"
#include "plot.h"
#include "ui.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_RUNS = 8, MOST_POINTS = 2000 };

typedef struct curve {
    sala_curve data;
    double *smooth;
    char name[96];
} curve;

/* Mean of the last n points, fewer at the beginning; NULL when memory is out. */
static double *smoothed(const sala_curve *c, int64_t n)
{
    double *out = malloc((size_t)c->n * sizeof *out);
    double sum = 0;
    for (int i = 0; i < c->n && out; i++) {
        sum += c->value[i];
        if (i >= n)
            sum -= c->value[i - n];
        out[i] = sum / (double)(i < n ? i + 1 : n);
    }
    return out;
}

/* More points than the picture is wide say nothing more: each becomes the mean of its neighbours. */
static void thin_out(curve *c)
{
    const int every = (c->data.n + MOST_POINTS - 1) / MOST_POINTS;
    int n = 0;
    for (int i = 0; i < c->data.n && every > 1; i += every) {
        const int end = i + every < c->data.n ? i + every : c->data.n;
        double sum = 0;
        for (int k = i; k < end; k++)
            sum += c->smooth[k];
        c->smooth[n] = sum / (end - i);
        c->data.step[n++] = c->data.step[end - 1];
    }
    if (every > 1)
        c->data.n = n;
}

/* The directory's last part, or the file's directory's: what people call the run. */
static void name_run(char dst[96], const char *path)
{
    char *copy = sala_strdup(path);
    if (!copy) {
        snprintf(dst, 96, "run");
        return;
    }
    char *file = strrchr(copy, '/');
    if (file && strcmp(file + 1, "metrics.jsonl") == 0)
        *file = 0;
    size_t n = strlen(copy);
    while (n > 1 && copy[n - 1] == '/')
        copy[--n] = 0;
    const char *slash = strrchr(copy, '/');
    snprintf(dst, 96, "%s", slash && slash[1] ? slash + 1 : copy);
    free(copy);
}

static int read_curve(curve *out, const char *run, const char *key, int64_t smooth)
{
    sala_error err = {0};
    char *path = sala_os_is_dir(run) ? sala_path_join(run, "metrics.jsonl") : sala_strdup(run);
    if (!path)
        return cli_fail("not enough memory");
    const sala_status st = sala_metrics_read(&out->data, path, key, &err);
    free(path);
    if (st != SALA_OK)
        return cli_fail_error(&err);
    name_run(out->name, run);
    out->smooth = smoothed(&out->data, smooth);
    if (!out->smooth)
        return cli_fail("not enough memory");
    thin_out(out);
    return 0;
}

int cli_train_plot(const cli_options *o, const char *const *runs, int n_runs)
{
    static curve curves[2][MOST_RUNS];
    static const char speed[] = "tokens_per_second";
    cli_series series[2][MOST_RUNS];
    cli_panel panels[2];
    char title[160];
    int rc = 0;
    if (n_runs == 0)
        return cli_misuse("plot: RUN is missing: directories of runs, or their metrics.jsonl");
    if (n_runs > MOST_RUNS)
        return cli_misuse("plot: %d runs, at most %d have a colour of their own", n_runs, MOST_RUNS);
    const bool with_speed = strcmp(o->key, speed) != 0;
    const int n_panels = with_speed ? 2 : 1;
    for (int k = 0; k < n_panels && rc == 0; k++) {
        for (int i = 0; i < n_runs && rc == 0; i++) {
            curve *c = &curves[k][i];
            rc = read_curve(c, runs[i], k == 0 ? o->key : speed, o->smooth);
            series[k][i] = (cli_series){c->name, c->data.step, c->smooth, c->data.n, (double)NAN};
        }
        panels[k] = (cli_panel){k == 0 ? title : "Tokens per second", CLI_UNIT_NUMBER, series[k], n_runs};
    }
    if (o->smooth > 1)
        snprintf(title, sizeof title, "%s, mean of %lld steps", o->key, (long long)o->smooth);
    else
        snprintf(title, sizeof title, "%s", o->key);
    if (rc == 0) {
        sala_buf svg = {0};
        const cli_chart chart = {
            .title = "Training", .x_title = "step", .panels = panels, .n_panels = n_panels, .curves = true};
        cli_plot_lines(&svg, &chart);
        const char *path = o->out ? o->out : "loss.svg";
        rc = cli_plot_write(path, &svg);
        sala_buf_free(&svg);
        if (rc == 0)
            cli_say("wrote %s", path);
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < n_runs; i++) {
            sala_curve_free(&curves[k][i].data);
            free(curves[k][i].smooth);
            curves[k][i].smooth = NULL;
        }
    return rc;
}
