/* From logits to one token. Order of the steps: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw;
 * the probabilities that top-p, min-p and typical look at are those before the temperature, as in llama.cpp. */
#ifndef SALA_INFER_SAMPLER_H
#define SALA_INFER_SAMPLER_H

#include "base/base.h"
#include "kernels/kernels.h"

typedef struct sala_candidate_list {
    struct sala_scored {
        int32_t token;
        float logit;
        float p;
    } * items;
    int64_t count;
    bool complete; /* no other token takes part */
} sala_candidate_list;

struct sala_sampler {
    sala_sampler_params params; /* bias points to our copy */
    sala_logit_bias *bias;
    int32_t n_vocab;
    const sala_kernels *kernels;
    sala_rng rng;
    int32_t *history; /* ring of the last penalty_last_n tokens; NULL when all count */
    int64_t n_history, ring_at;
    int32_t *counts; /* [n_vocab] occurrences in the window */
    float *logits;   /* [n_vocab] working copy, where bias or penalties change them */
    float *scaled;   /* [n_vocab] divided by the temperature */
    sala_candidate_list list;
};

sala_status sala_sampler_make(sala_sampler **out, const sala_kernels *kernels, int32_t n_vocab,
                              const sala_sampler_params *params, sala_error *err);
/* Largest logits first, lower id first among equals. Returns how many were written. */
int64_t sala_top_logits(struct sala_scored *out, int64_t k, const float *logits, int64_t n);

#endif
