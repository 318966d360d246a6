/* Memory before the run: every byte that training takes, computed from the config, printed, then taken as one block. */
#ifndef SALA_TRAIN_PLAN_H
#define SALA_TRAIN_PLAN_H

#include "model/layer.h"
#include "train/params.h"

typedef enum sala_recompute {
    SALA_RECOMPUTE_NONE,
    SALA_RECOMPUTE_FEED,  /* gate and up are made again, tile by tile */
    SALA_RECOMPUTE_LAYER, /* only h_in, log-sums and selections are kept; the mixer runs again */
} sala_recompute;

typedef struct sala_train_plan {
    int64_t rows;           /* of one pass (micro-batch) */
    int64_t tile_rows;      /* of the feed-forward part, 1024 */
    int64_t head_rows;      /* logits at a time, 512 */
    sala_recompute *layers; /* [n_layers (+ 1 with MTP)] */
    bool half;              /* tape in bf16 */
    int states_every;       /* 4 chunks */
    /* bytes */
    uint64_t values, grads, moments, packs, tape, layer_scratch, device_scratch, loader, total;
    double flops_per_token, recompute_share; /* extra work for recomputation, share of a step */
} sala_train_plan;

/* Chooses rows and recomputation so that total <= limit: none, then feed, then layer, from the last layer to the first
 * (what is made again there is still warm). SALA_E_MEMORY says the least that is needed. */
sala_status sala_train_plan_make(sala_train_plan *out, const sala_run_config *run, const sala_params *params,
                                 uint64_t limit, int n_threads, int n_ranks, sala_error *err);
void sala_train_plan_free(sala_train_plan *p);
void sala_train_plan_print(sala_buf *out, const sala_train_plan *p,
                           const sala_run_config *run); /* the table of the DESIGN */

#endif
