/* The parts of 'sala train'. */
#ifndef SALA_CLI_TRAIN_PARTS_H
#define SALA_CLI_TRAIN_PARTS_H

#include "cli.h"
#include "train/run.h"

/* ---- watching a run (train_watch.c) ---- */

/* The callbacks of a run: talk on stderr, or with `json` one object a line on stdout. From here on the first SIGINT or
 * SIGTERM asks the run to save and stop, the second ends the process at once. */
sala_run_hooks cli_train_watch(const cli_options *o, int64_t log_every);
/* Which signal stopped the run; 0: none. Gives the signals back. */
int cli_train_watch_end(void);

/* ---- plot (train_plot.c) ---- */

/* runs: directories or metrics.jsonl files. */
int cli_train_plot(const cli_options *o, const char *const *runs, int n_runs);

#endif
