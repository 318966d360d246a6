/* Multi-token prediction: one block that reads a token's final hidden state and the embedding of the next token, and is
 * asked for the one after that. Embedding and head are the model's own, and their gradients add.
 *
 *   x_i = A norm(h_i; w_h) + B norm(E[t_{i+1}]; w_e),   one dense layer,   norm,   the model's head,   target t_{i+2}
 *
 * h_i is the normed row that the model's own head reads. A row whose next token is in another document, or beyond the
 * end, has no target. */
#ifndef SALA_TRAIN_MTP_H
#define SALA_TRAIN_MTP_H

#include "data/loader.h"
#include "train/tape.h"

typedef struct sala_mtp {
    sala_mtp_config config;
    sala_net *net; /* the layer alone; its out_norm is the block's final norm */
    sala_state_layout state;
    sala_weight *proj_hidden, *proj_embed; /* borrowed */
    sala_act *norm_hidden, *norm_embed;    /* in the arena of values */
    int32_t *next, *labels;                /* [rows] */
    double weight;                         /* of its loss */
} sala_mtp;

/* weights: handles of params' matrices, in their order; values: the arena that vectors lie in. m is at its final
 * place. */
sala_status sala_mtp_open(sala_mtp *m, const sala_run_config *run, const sala_params *params,
                          sala_weight *const *weights, sala_act *values, const sala_net *model, int64_t max_rows,
                          sala_error *err);
void sala_mtp_close(sala_mtp *m); /* also where open failed */

/* Rows of a batch that the block has a target for: its loss is the mean over those of the whole step. */
int64_t sala_mtp_targets(const sala_batch *batch);

/* Forward pass, loss and backward pass of the block. model: the pass that has filled t->x_final and t->d_final, to
 * which the gradient of the hidden state is added. *head: in, the arguments of the model's own loss with one over the
 * block's targets as loss_scale; out, the sums of the block's. head->dx NULL: loss only. done: as in
 * sala_tape_backward. */
void sala_mtp_run(sala_mtp *m, const sala_tape *t, const sala_pass *model, const sala_batch *batch,
                  sala_head_args *head, void (*done)(void *user, int slot), void *user);

#endif
