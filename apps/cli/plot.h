/* Charts as SVG: lines against depth, and heat maps. Same data, same bytes. */
#ifndef SALA_CLI_PLOT_H
#define SALA_CLI_PLOT_H

#include "base/base.h"

/* ---- lines ---- */

typedef enum cli_unit { CLI_UNIT_NUMBER, CLI_UNIT_BYTES } cli_unit;

typedef struct cli_series {
    const char *name;
    const double *x, *y; /* [n], x rising; a y of NAN is left out */
    int n;
    double stops_at; /* an x that could not be measured; marked behind the last point. NAN: none */
} cli_series;

/* One diagram of a chart. The same series number has the same colour in all of them. */
typedef struct cli_panel {
    const char *title; /* what y is, with its unit */
    cli_unit unit;
    const cli_series *series;
    int n_series;
} cli_panel;

typedef struct cli_chart {
    const char *title, *subtitle; /* the subtitle may be NULL */
    const char *x_title;
    const char *stop_words;  /* what the mark of stops_at means, for the legend */
    const cli_panel *panels; /* one above the other */
    int n_panels;
    /* Long series of one run, such as losses: x is linear with round ticks, y begins near the smallest value, and
     * points have no marks. */
    bool curves;
} cli_chart;

/* Otherwise x is logarithmic to base 2 when its largest value is more than 16 times the smallest positive one; 0 gets a
 * place of its own at the left. y is logarithmic when its values span more than a factor of 30. Appends to *out. */
void cli_plot_lines(sala_buf *out, const cli_chart *chart);

/* ---- heat map ---- */

typedef struct cli_heat {
    const char *title, *subtitle;
    const char *row_title, *column_title;
    int n_rows, n_columns;
    const double *share;              /* [row][column], 0 to 1; NAN is drawn as "no value" */
    const char *const *row_labels;    /* [n_rows] */
    const char *const *column_labels; /* [n_columns]; as many are shown as have room */
    const char *share_words;          /* what the colour means */
} cli_heat;

void cli_plot_heat(sala_buf *out, const cli_heat *heat);

/* Writes the picture to PATH in one go. 0 or an exit code after an error message. */
int cli_plot_write(const char *path, sala_buf *svg);

#endif
