/* The rows of 'sala bench' as a chart: speed and memory against depth, a line for each model. */
#ifndef SALA_CLI_BENCH_PLOT_H
#define SALA_CLI_BENCH_PLOT_H

#include "cli.h"

#include <jansson.h>

/* Rows as bench prints them. 0 or an exit code. */
int cli_bench_plot(const char *path, const json_t *rows, const char *subtitle);

#endif
