/* Parameters: which tensors there are, how each is initialised and updated, and where it lies in the four flat arenas
 * (values, gradients, first and second moments), which share one layout. Order: layers from the last to the first (the
 * block of multi-token prediction counts as one behind the last), then final norm and head, then the embedding: the
 * order in which gradients become complete, so that buckets of the all-reduce are contiguous. */
#ifndef SALA_TRAIN_PARAMS_H
#define SALA_TRAIN_PARAMS_H

#include "kernels/train_kernels.h"
#include "model/config.h"
#include "train/run_config.h"

typedef enum sala_param_class {
    SALA_PARAM_EMBED, /* tied head included */
    SALA_PARAM_HEAD,
    SALA_PARAM_HIDDEN, /* matrices of layers */
    SALA_PARAM_VECTOR, /* norms, biases: no decay */
    SALA_N_PARAM_CLASSES
} sala_param_class;

/* Roles beyond those of sala_tensor_role: what multi-token prediction has beside its layer. Its projection takes the
 * hidden state and the next token's embedding, a matrix for each. */
enum {
    SALA_P_MTP_NORM_HIDDEN = SALA_T_COUNT,
    SALA_P_MTP_NORM_EMBED,
    SALA_P_MTP_PROJ_HIDDEN,
    SALA_P_MTP_PROJ_EMBED,
    SALA_P_MTP_NORM, /* final norm of the block */
};

typedef struct sala_param {
    char name[96];      /* Hugging Face name; "mtp..." for multi-token prediction */
    int role;           /* sala_tensor_role, or one of the above */
    int layer;          /* n_layers: the block of multi-token prediction; -1: of the model */
    int64_t rows, cols; /* rows 0: a vector */
    sala_param_class class;
    uint64_t at, count; /* elements from the arenas' start; at is a multiple of 16 */
    double init_std, lr_factor, decay;
} sala_param;

typedef struct sala_params {
    sala_param *items;
    int count;
    uint64_t n_elements, n_weights; /* with and without alignment */
    int n_buckets;                  /* one a layer, in the order of the arenas; then what is behind them */
    uint64_t *bucket_begin;         /* [n_buckets + 1] elements */
} sala_params;

sala_status sala_params_plan(sala_params *out, const sala_run_config *run, sala_error *err);
void sala_params_free(sala_params *p);
/* The tensor with this role and layer, or NULL. */
const sala_param *sala_params_find(const sala_params *p, int role, int layer);
bool sala_param_starts_at_one(const sala_param *p); /* norms; other vectors start at zero */
/* Values from the seed: tensor t draws from its own generator (seed, XXH3 of the name), so that adding a tensor moves
 * no other. Padding between tensors is zero. */
void sala_params_init(const sala_params *p, sala_num *values, uint64_t seed);
/* From a directory or GGUF (any type is widened), over what init() put there. Names what is missing and what is of
 * another shape. Multi-token prediction stays as it is unless the directory holds mtp.safetensors. */
sala_status sala_params_load(const sala_params *p, sala_num *values, const char *path, sala_error *err);

/* The config of the block of multi-token prediction as a model of one dense layer. Borrows everything of `shape`. */
typedef struct sala_mtp_config {
    sala_config config;
    sala_mixer_kind mixer;
} sala_mtp_config;
void sala_mtp_config_make(sala_mtp_config *out, const sala_config *shape);

#endif
