/* Memory before the run: every byte that training takes, computed from the config, printed, then taken at once. */
#ifndef SALA_TRAIN_PLAN_H
#define SALA_TRAIN_PLAN_H

#include "model/layer.h"
#include "train/params.h"

/* Rows of a pass where the run does not say and memory allows. */
enum { SALA_PASS_ROWS = 2048 };

typedef enum sala_recompute {
    SALA_RECOMPUTE_NONE,
    SALA_RECOMPUTE_FEED,  /* gate and up are made again, tile by tile */
    SALA_RECOMPUTE_MIXER, /* h_in, log-sums, selections and what came of softmax attention are kept: its inputs are made
                           * again, but not attention itself, whose cost grows with the sequence; other mixers run again
                           */
    SALA_RECOMPUTE_LAYER, /* only h_in, log-sums and selections are kept; every mixer runs again */
} sala_recompute;

typedef struct sala_train_plan {
    int64_t rows;           /* of one pass (micro-batch), at most */
    int64_t tile_rows;      /* of the feed-forward part, 1024 */
    int n_layers;           /* with the block of multi-token prediction */
    sala_recompute *layers; /* [n_layers] */
    bool half;              /* tape in bf16 */
    int states_every;       /* 4 chunks */
    int n_ranks, n_threads;
    uint64_t limit; /* bytes; 0: none */
    /* bytes */
    uint64_t values, grads, moments, packs, tape, layer_scratch, device_scratch, loader, total;
    uint64_t n_weights;
    double flops_per_token, recompute_share; /* extra work for recomputation, share of a step */
} sala_train_plan;

/* Chooses rows and recomputation so that total <= limit: none, then feed, mixer and layer, from the last layer to the
 * first (what is made again there is still warm). A pass has at least one sequence, whatever rows_per_pass says.
 * SALA_E_MEMORY says the least that is needed. */
sala_status sala_train_plan_make(sala_train_plan *out, const sala_run_config *run, const sala_params *params,
                                 uint64_t limit, int n_threads, int n_ranks, sala_error *err);
void sala_train_plan_free(sala_train_plan *p);
/* What a pass of a stage takes: whole sequences, as many as fit the plan's rows, at least one. */
int64_t sala_train_plan_sequences(const sala_train_plan *p, int64_t seq_len);
/* Lines "model ...", "precision ...", "step ...", "memory ...". products: what multiplies ("oneDNN 2.6.3, ..."), or
 * NULL. */
void sala_train_plan_print(sala_buf *out, const sala_train_plan *p, const sala_run_config *run, const char *products);
/* The largest of everything that operations of a pass ask the device for. */
sala_backend_limits sala_train_limits(const sala_run_config *run, int64_t rows);

#endif
