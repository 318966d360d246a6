/* A run from its config to its output directory: what `sala train` does. Talks through callbacks only. */
#ifndef SALA_TRAIN_RUN_H
#define SALA_TRAIN_RUN_H

#include "train/saves.h"
#include "train/metrics.h"
#include "train/plan.h"

#include <stdatomic.h>

typedef struct sala_run_hooks {
    void (*line)(void *user, const char *text); /* plan, notices */
    void (*progress)(void *user, const sala_step_result *r, int64_t steps, double tokens_per_second,
                     double share_of_peak, double eta_seconds);
    /* A dry run: the plan of each of c->n_stages stages. */
    void (*plan)(void *user, int stage, const sala_run_config *c, const sala_train_plan *p);
    void (*sample)(void *user, int64_t step, const char *prompt, const char *text);
    void *user;
    const atomic_int *stop; /* signal number, or 0; may be NULL */
} sala_run_hooks;

typedef struct sala_run_options {
    bool fresh;               /* starts over: checkpoints, metrics and events of OUT go */
    bool dry_run;             /* plan only */
    int64_t stop_at;          /* --stop-at N: saves and stops there without changing the schedule; 0: no */
    const char *dump_batches; /* a directory for what each step reads, as .npy, for comparisons; NULL: none */
} sala_run_options;

/* Ends with SALA_OK when the run is complete, at stop_at, or stopped by a signal (*hooks->stop tells); everything is
 * saved then. */
sala_status sala_train_run(const sala_run_config *c, const sala_run_options *o, const sala_run_hooks *hooks,
                           sala_error *err);
/* Hugging Face directory and GGUF of a save of this run (newest whole one: NULL), as OUT/model and OUT/model.gguf.
 * Types are those of the run's config unless given. */
sala_status sala_train_export(const char *out_dir, const char *save, const char *dtype, const char *gguf_type,
                              const sala_run_hooks *hooks, sala_error *err);

#endif
