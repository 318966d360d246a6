/* Terminal manners: signals, progress bars, tables, standard output that notices when nobody reads it. */
#ifndef SALA_CLI_UI_H
#define SALA_CLI_UI_H

#include "base/base.h"

#include <jansson.h>
#include <stdio.h>

/* ---- signals ---- */

/* SIGINT, SIGTERM and SIGHUP end the process with exit code 1 after removing unfinished output files. SIGPIPE is
 * ignored, so that writes fail with EPIPE instead. */
void cli_signals_init(void);
/* While held, SIGINT only sets the flag below, unless it comes twice within a second. For work that must stop in order.
 */
void cli_signals_hold(void);
void cli_signals_release(void);
bool cli_interrupted(void);
void cli_interrupt_clear(void);
/* Called by the signal handler before it ends the process; must be async-signal-safe. NULL: none. */
void cli_signals_on_exit(void (*fn)(void));

/* ---- progress ---- */

/* Draws a bar on stderr when that is a terminal and the work has lasted long enough to be worth it. Fits every
 * sala_progress_fn; false once interrupted. `user` is ignored. */
bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total);
/* A few words for the bar, such as a speed, until it ends. */
void cli_progress_note(const char *note);
void cli_progress_end(void); /* wipes the bar; harmless when there is none */

/* ---- standard output ---- */

/* Flushes stdout. Returns `code`, or 1 after a message when something could not be written; a closed pipe is silent. */
int cli_flush(int code);
/* Prints JSON and a newline; frees `json`. NULL counts as out of memory. */
int cli_print_json(json_t *json);
/* A string of JSON from bytes that may not be UTF-8 (those become U+FFFD). */
json_t *cli_json_text(const char *text, size_t bytes);
/* The same with control characters and line ends made visible, for one line of a table. Owned by the caller. */
char *cli_printable(const char *text, size_t bytes, size_t most_bytes);

/* ---- tables ---- */

typedef struct cli_table cli_table;
/* "NAME|>SIZE": columns separated by '|', '>' aligns to the right. An empty `columns` row is printed as no heading when
 * it begins with '!'. Functions tolerate NULL, so that only printing has to check for memory. */
cli_table *cli_table_new(const char *columns);
void cli_table_cell(cli_table *t, const char *fmt, ...) SALA_PRINTF(2, 3);
/* Prints with two blanks between columns and frees. */
void cli_table_print(cli_table *t, FILE *to);

const char *cli_thousands(char dst[32], uint64_t n);   /* 1,234,567 */
const char *cli_short_count(char dst[32], uint64_t n); /* 134.5 M */

#endif
