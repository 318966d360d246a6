/* One training step: passes of forward and backward, reduction, clipping, update. Owns the arenas; knows no files. */
#ifndef SALA_TRAIN_STEP_H
#define SALA_TRAIN_STEP_H

#include "data/loader.h"
#include "grad/device.h"
#include "train/dist.h"
#include "train/guard.h"
#include "train/plan.h"

typedef struct sala_trainer sala_trainer;

typedef struct sala_step_result {
    int64_t step, tokens, supervised;
    double loss, mtp_loss, zloss, accuracy, grad_norm, lr;
    bool skipped;         /* gradient not finite, or a spike: parameters are as before */
    sala_verdict verdict; /* why */
    int64_t spikes;       /* in a row, this step included: at guards.patience the caller goes back to a save */
    double seconds_forward, seconds_backward, seconds_update, seconds_wait;
} sala_step_result;

typedef struct sala_trainer_state { /* what a checkpoint holds beside the arenas */
    int64_t step, updates;          /* updates: AdamW's t; skipped steps do not count */
    sala_guard_state guard;
} sala_trainer_state;

/* Arenas are zero afterwards: sala_params_init, sala_params_load or a save fills the values, and sala_trainer_changed
 * says so. run, params and plan must outlive the trainer; dist may be NULL: alone. */
sala_status sala_trainer_open(sala_trainer **out, const sala_run_config *run, const sala_params *params,
                              const sala_train_plan *plan, sala_pool *pool, sala_dist *dist, sala_error *err);
void sala_trainer_close(sala_trainer *t);
/* One update from the batches of this rank. supervised: tokens with a label of all ranks. SALA_E_NUMERIC when
 * SALA_GUARD_MOST_BAD steps in a row were not finite, with the first tensor whose gradient is not. */
sala_status sala_trainer_step(sala_trainer *t, const sala_batch *batches, int n_batches, int64_t supervised, double lr,
                              sala_step_result *out, sala_error *err);
/* Loss only, of this rank's batch: *loss is the sum over the *n tokens that have a label. row_losses [n_rows] may be
 * NULL. */
sala_status sala_trainer_evaluate(sala_trainer *t, const sala_batch *batch, double *loss, int64_t *n, float *row_losses,
                                  sala_error *err);
/* The arenas, for saves and export. Moments (0, 1) hold this rank's parts only, one behind the other, in the order of
 * buckets: part b is sala_dist_part() of bucket b. Alone, that is the whole arena. */
float *sala_trainer_values(sala_trainer *t);
float *sala_trainer_grads(sala_trainer *t);
float *sala_trainer_moment(sala_trainer *t, int which);
sala_trainer_state *sala_trainer_state_of(sala_trainer *t);
/* The values have changed behind the trainer's back (load, rewind). */
void sala_trainer_changed(sala_trainer *t);
/* For sala_device_product: what multiplies, and how fast. */
const sala_backend *sala_trainer_device(const sala_trainer *t);
/* What samples are drawn from: logits of the last row of a prompt. */
sala_status sala_trainer_logits(sala_trainer *t, const int32_t *ids, int64_t n, float *logits, sala_error *err);

#endif
