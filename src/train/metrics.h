/* metrics.jsonl, samples.jsonl, TensorBoard event files, and reading curves back. */
#ifndef SALA_TRAIN_METRICS_H
#define SALA_TRAIN_METRICS_H

#include "train/step.h"

typedef struct sala_metrics sala_metrics;
/* Cuts OUT/metrics.jsonl behind the last whole line with step <= resume_step (0: a new run, the file must not exist or
 * goes), and starts a new event file. Ranks other than 0 pass out_dir NULL: everything below does nothing then. */
sala_status sala_metrics_open(sala_metrics **out, const char *out_dir, int64_t resume_step, bool tensorboard,
                              sala_error *err);
sala_status sala_metrics_step(sala_metrics *m, const sala_step_result *r, double tokens_per_second,
                              double share_of_peak, sala_error *err);
/* Further numbers of a step: {"step": N, "kind": "eval", ...}; tags in the event file are KIND/NAME. */
sala_status sala_metrics_more(sala_metrics *m, int64_t step, const char *kind, const char *const *names,
                              const double *values, int n, sala_error *err);
/* {"step", "prompt", "text"} in samples.jsonl, which is cut like metrics.jsonl. */
sala_status sala_metrics_sample(sala_metrics *m, int64_t step, const char *prompt, const char *text, sala_error *err);
/* Before a checkpoint: everything is on the medium, or this fails. What a full disk does not take otherwise waits for
 * the next line. */
sala_status sala_metrics_sync(sala_metrics *m, sala_error *err);
const char *sala_metrics_waits(const sala_metrics *m); /* why lines wait, NULL: none does */
uint64_t sala_metrics_bytes(const sala_metrics *m);    /* of metrics.jsonl */
void sala_metrics_close(sala_metrics *m);              /* NULL is fine */

typedef struct sala_curve {
    double *step, *value;
    int n;
} sala_curve;
sala_status sala_metrics_read(sala_curve *out, const char *path, const char *key, sala_error *err);
void sala_curve_free(sala_curve *c);

uint32_t sala_crc32c(uint32_t crc, const void *data, size_t bytes); /* start with 0 */

#endif
