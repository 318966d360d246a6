/* run.yaml: one table of keys (config_keys.inc) yields the parser, --set, the complete listing of `sala train --keys`,
 * the table of docs/training.md and the check that a resumed run asks for the same. Parsed with libyaml; every value
 * remembers file and line. */
#ifndef SALA_TRAIN_RUN_CONFIG_H
#define SALA_TRAIN_RUN_CONFIG_H

#include "data/loader.h"
#include "grad/product.h"
#include "model/config.h"
#include "train/schedule.h"

enum { SALA_MAX_STAGES = 16 };

/* A number that may be left to the program or be given as a share of something. */
typedef struct sala_run_amount {
    enum { SALA_AMOUNT_AUTO, SALA_AMOUNT_COUNT, SALA_AMOUNT_SHARE } kind;
    double value; /* a share of 5 % is 0.05 */
} sala_run_amount;

typedef struct sala_run_words {
    char **items;
    int count;
} sala_run_words;

typedef struct sala_run_source {
    char *path; /* directory of shards, or text to be packed on the fly into OUT/data */
    double weight;
    uint64_t corpus; /* manifest_sum once the run has opened it; 0 before: stands for the path in the identity */
} sala_run_source;

typedef struct sala_run_stage {
    char *name;
    int64_t steps, seq_len, batch; /* batch: sequences a step, all ranks */
    sala_run_source *sources;
    int n_sources;
    double ask_lr, end; /* as written: -1 is the run's lr; a share of the peak */
    double lr, lr_end;  /* what they came to, both absolute */
    sala_tail tail;     /* schedule inside the stage; SALA_TAIL_NONE keeps to the run's */
    char *sparse;       /* words of sala_config_ask_sparse; NULL: as the stage before */
} sala_run_stage;

/* Keys of model: that make a new model. What the forward pass reads is `shape`. */
typedef struct sala_run_model {
    int64_t layers, hidden, heads, kv_heads, head_dim, feed_forward, vocab, context;
    bool tied, qk_norm, gate, out_norm, rope_softmax, rope_lightning;
    double rope_theta, rms_eps;
    char *sparse;
    sala_run_words mixers; /* "dense", "sparse", "lightning"; a pattern that repeats */
} sala_run_model;

typedef struct sala_run_config {
    /* model */
    char *model_from, *model_config, *tokenizer, *family;
    sala_run_model model;
    sala_config shape; /* what model: says or config.json held; rows of q and k in the order of half rotation */
    bool mup;
    double scale_emb, scale_depth, dim_model_base, init_std, initializer_range;
    bool scale_logits_in_training;
    int64_t mtp_depth; /* 0 or 1 */
    double mtp_weight;
    /* data */
    sala_run_stage *stages;
    int n_stages;
    char *validation; /* "auto": the validation split of the first source; NULL: none */
    int64_t validation_sequences;
    sala_packing packing;
    bool mask_documents, restart_positions;
    uint64_t seed;
    /* optimiser */
    double beta1, beta2, eps, weight_decay, clip, zloss;
    double lr_embed, lr_head, lr_hidden, lr_vector;   /* factors on top of the mup table */
    sala_run_amount ask_steps, ask_warmup, ask_decay; /* as written; the numbers below are what they came to */
    int64_t warmup;
    sala_schedule_kind schedule;
    sala_tail decay_tail;
    int64_t decay_steps, half_life;
    double lr, lr_end, decay_end; /* lr_end = decay_end * lr */
    int64_t steps;                /* of all stages */
    char *branch_from;            /* a save of another run; its step is where the decay begins */
    int64_t branch_step;          /* 0 without branch_from */
    /* guards */
    double spike_z;
    int64_t spike_window, spike_patience;
    bool spike_rewind;
    /* machine */
    sala_precision precision;
    bool precision_auto;
    int64_t threads, rows_per_pass; /* 0: auto */
    sala_run_amount ask_memory;
    uint64_t memory_limit; /* bytes; 0: 80 % of what is there */
    char *recompute;       /* auto, none, feed, mixer, layer, or "feed:6,mixer:3,layer:2": of the last layers */
    /* output */
    char *out, *gguf_type, *output_dtype;
    int64_t save_every, keep_last, keep_every, log_every, eval_every, sample_every;
    sala_run_words prompts;
    bool tensorboard;
    /* processes */
    double timeout;
    struct sala_yaml_doc *source; /* for sala_run_config_where */
} sala_run_config;

/* sets: "a.b=c" from the command line, applied behind the file. Relative paths are relative to the file, those of sets
 * to the working directory. find: the path, malloc'ed, of a model that goes by a name, or NULL; asked for what
 * model.from and model.tokenizer say when that is no path; may be NULL. */
sala_status sala_run_config_load(sala_run_config *out, const char *path, const char *const *sets, int n_sets,
                                 char *(*find)(const char *name), sala_error *err);
sala_status sala_run_config_parse(sala_run_config *out, const char *name, const char *yaml, size_t bytes,
                                  const char *const *sets, int n_sets, sala_error *err);
void sala_run_config_free(sala_run_config *c);
/* Canonical text, one "key.path: value" a line, defaults filled in. It is YAML that the parser takes again. With
 * `identity` it is what checkpoints carry: keys that may change between runs (threads, memory, out, how often to log,
 * save, sample ...) are left out, and a source is its corpus, not its path. */
sala_status sala_run_config_text(sala_buf *out, const sala_run_config *c, bool identity);
/* "optimizer.lr: 0.01 then, 0.02 now", one line a key; *same when there is none. */
void sala_run_config_difference(sala_buf *out, bool *same, const char *then_text, const char *now_text);
/* Whether a run of `then`, `step` steps old, may go on as `now`: everything but the schedule and the lengths of stages
 * is equal, and under both every step so far had the same stage and learning rate. */
bool sala_run_config_continues(const sala_run_config *now, const char *now_text, const char *then_text, int64_t step);
/* Where only the schedule and the lengths of stages differ: the last step of `then` before its decay, which is where a
 * run that shall go on otherwise has to branch. 0: something else differs, or nothing decays. */
int64_t sala_run_config_stable_step(const char *now_text, const char *then_text);
/* Where compute.rows_per_pass and compute.recompute are auto, takes what they came to in a save of this run: another
 * machine would choose otherwise, and go on with other bits. */
sala_status sala_run_config_adopt(sala_run_config *c, const char *save_text, sala_error *err);
/* "run.yaml:31" for a key that was given, "default" otherwise. */
const char *sala_run_config_where(const sala_run_config *c, const char *key, char *dst, size_t bytes);
/* Lists every key with type, default and words. */
void sala_run_config_keys(sala_buf *out);

/* The stage that a step belongs to (steps count from 1), and how many steps there were before that stage. */
int sala_run_stage_of(const sala_run_config *c, int64_t step, int64_t *before);
/* Learning rate of a step, stages included. */
double sala_run_lr(const sala_run_config *c, int64_t step);
/* The config as one stage sees it: the only stage, and `shape` with that stage's sparse attention. Shallow but for
 * shape.mixers; ends with sala_run_view_free. */
sala_status sala_run_view(sala_run_config *out, const sala_run_config *c, int stage, sala_error *err);
void sala_run_view_free(sala_run_config *view);
/* config.json of a model made from the keys of model:, without the type of its weights. New reference, NULL when memory
 * is out. */
json_t *sala_run_model_json(const sala_run_config *c);

#endif
