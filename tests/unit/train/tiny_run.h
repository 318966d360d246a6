/* Runs over the random models of unit/model/tiny.h, without files of data: everything that a trainer needs. */
#ifndef SALA_TESTS_UNIT_TRAIN_TINY_RUN_H
#define SALA_TESTS_UNIT_TRAIN_TINY_RUN_H

#include "model/checkpoint.h"
#include "train/step.h"
#include "unit/model/tiny.h"

#include <unistd.h>

typedef struct tiny_run {
    char path[300]; /* GGUF of the model */
    sala_checkpoint files;
    sala_run_stage stage;
    sala_run_config run;
    sala_params params;
    sala_train_plan plan;
    sala_pool *pool;
    sala_trainer *trainer;
} tiny_run;

/* Rows of q and k come back into the order of half rotation when parameters are loaded. */
static inline void tiny_run_open(tiny_run *r, const tiny_model *m, int64_t seq_len, int64_t batch)
{
    *r = (tiny_run){0};
    sala_error err;
    tiny_write(test_path(r->path, sizeof r->path, "model.gguf"), m, 5);
    if (sala_checkpoint_open(&r->files, r->path, true, &err) != SALA_OK)
        fail_msg("%s", err.message);
    r->stage = (sala_run_stage){.name = "main", .steps = 10, .seq_len = seq_len, .batch = batch};
    r->run = (sala_run_config){.shape = r->files.config,
                               .stages = &r->stage,
                               .n_stages = 1,
                               .restart_positions = true,
                               .scale_logits_in_training = true,
                               .initializer_range = 0.02,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .eps = 1e-8,
                               .lr_embed = 1,
                               .lr_head = 1,
                               .lr_hidden = 1,
                               .lr_vector = 1,
                               .spike_window = 16,
                               .mtp_weight = 0.3};
    r->run.shape.rope.half = true;
}

static inline void tiny_run_start(tiny_run *r, int n_threads, const char *recompute)
{
    sala_error err;
    r->run.recompute = (char *)(uintptr_t)recompute;
    if (sala_params_plan(&r->params, &r->run, &err) != SALA_OK ||
        sala_train_plan_make(&r->plan, &r->run, &r->params, 0, n_threads, 1, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(sala_pool_open_awake(&r->pool, n_threads, n_threads), 0);
    if (sala_trainer_open(&r->trainer, &r->run, &r->params, &r->plan, r->pool, NULL, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_params_init(&r->params, sala_trainer_values(r->trainer), 3);
    if (sala_params_load(&r->params, sala_trainer_values(r->trainer), r->path, &err) != SALA_OK)
        fail_msg("%s", err.message);
    sala_trainer_changed(r->trainer);
}

static inline void tiny_run_stop(tiny_run *r)
{
    sala_trainer_close(r->trainer);
    sala_pool_close(r->pool);
    sala_train_plan_free(&r->plan);
    sala_params_free(&r->params);
    r->trainer = NULL;
    r->pool = NULL;
}

static inline void tiny_run_close(tiny_run *r)
{
    sala_checkpoint_close(&r->files);
    unlink(r->path);
}

/* Random documents of several lengths; about a tenth of the labels is left out. */
typedef struct tiny_batch {
    int32_t tokens[1024], labels[1024], start[65], position[64];
    sala_batch batch;
} tiny_batch;

static inline void tiny_batch_make(tiny_batch *b, int64_t n_rows, int n_vocab, uint64_t seed)
{
    sala_rng rng;
    sala_rng_seed(&rng, seed);
    assert_in_range(n_rows, 1, 1024);
    *b = (tiny_batch){0};
    int64_t row = 0;
    while (row < n_rows) {
        const int64_t left = n_rows - row, want = 1 + (int64_t)(sala_rng_next(&rng) % 97);
        const int64_t n = want < left && b->batch.n_docs < 63 ? want : left;
        for (int64_t i = row; i < row + n; i++)
            b->tokens[i] = (int32_t)(sala_rng_next(&rng) % (uint64_t)n_vocab);
        for (int64_t i = row; i < row + n; i++)
            b->labels[i] = i + 1 < row + n && sala_rng_uniform(&rng) < 0.9 ? b->tokens[i + 1] : -1;
        row += n;
        b->start[++b->batch.n_docs] = (int32_t)row;
    }
    for (int64_t i = 0; i < n_rows; i++)
        b->batch.n_supervised += b->labels[i] >= 0;
    b->batch.n_rows = n_rows;
    b->batch.tokens = b->tokens;
    b->batch.labels = b->labels;
    b->batch.doc_start = b->start;
    b->batch.doc_position = b->position;
}

#endif
