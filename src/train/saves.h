/* Checkpoints of a run: OUT/checkpoints/step-000000120/{meta.json, rank-0000.sck ...}. A directory is written as
 * step-N.part, every file synced, and renamed when all ranks are done: what has the name is whole. Byte layout:
 * docs/formats.md. */
#ifndef SALA_TRAIN_SAVES_H
#define SALA_TRAIN_SAVES_H

#include "train/step.h"

typedef struct sala_save {
    int64_t step;
    char *path;
    char *config_text; /* identity of the run */
    sala_loader_state loader;
    sala_trainer_state trainer;
    int64_t metrics_bytes; /* length of metrics.jsonl then: a hint, the steps in the file decide */
    int64_t rewinds;       /* times that the run has gone back so far */
    bool stable;           /* the end of WSD's stable part: kept by every policy, for branches */
} sala_save;

/* Every rank calls it; collective. A failure (disk full) leaves the directory as it was. path of *info is not read. */
sala_status sala_saves_write(const char *out_dir, sala_trainer *t, const sala_params *params, sala_dist *dist,
                             const sala_save *info, sala_error *err);
/* Newest whole checkpoint at or below max_step (-1: any), as far as names, sizes and headers tell; damaged ones are
 * named through `notice` and left where they are. *found false: there is none; *damaged (may be NULL) counts those
 * passed over. */
sala_status sala_saves_find(sala_save *out, bool *found, int *damaged, const char *out_dir, int64_t max_step,
                            void (*notice)(void *user, const char *line), void *user, sala_error *err);
/* The one in this directory. SALA_E_CORRUPT says what is wrong with it. */
sala_status sala_saves_open(sala_save *out, const char *path, sala_error *err);
/* Values, this rank's moments and the trainer's state, each part checked against its sum. Any number of ranks may have
 * written it. After SALA_E_CORRUPT the trainer holds a mixture and must be loaded again. */
sala_status sala_saves_load(const sala_save *info, sala_trainer *t, const sala_params *params, sala_dist *dist,
                            sala_error *err);
/* The values alone, for export: [n_elements], laid out as `params` says. */
sala_status sala_saves_values(const sala_save *info, const sala_params *params, float *values, sala_error *err);
void sala_save_free(sala_save *info);
/* Whoever holds the run's directory calls it first: brings back a save that a killed run was about to replace, and
 * removes unfinished ones. */
sala_status sala_saves_recover(const char *out_dir, sala_error *err);
/* Removes every save behind `step`, the newest first: a run that is killed meanwhile goes on from a save that there was
 * before. */
sala_status sala_saves_forget(const char *out_dir, int64_t step, sala_error *err);
/* Removes what the policy does not keep: the last keep_last, every keep_every-th (0: none), `stable` marks. Unfinished
 * directories of killed runs go too. */
sala_status sala_saves_prune(const char *out_dir, int64_t keep_last, int64_t keep_every, sala_error *err);
/* XXH3 over what the parameters are and where they lie. */
uint64_t sala_saves_layout(const sala_params *params);

#endif
