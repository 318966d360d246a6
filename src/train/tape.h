/* What a forward pass leaves for its backward pass, of all layers, and the scratch that both share. One block of
 * memory, laid out here; how much of a layer is kept is the plan's choice.
 *
 * Scratch is shared between the two directions wherever they never need it at once: normed rows, q, k and the output of
 * a mixer are made for the operation that follows, in both. */
#ifndef SALA_TRAIN_TAPE_H
#define SALA_TRAIN_TAPE_H

#include "train/plan.h"

typedef struct sala_tape {
    const sala_train_plan *plan;
    sala_layer_tape *layers;    /* [plan->n_layers]; of those that are made again, slots are shared */
    sala_layer_buffers buffers; /* scratch; what a layer keeps takes the place of some (sala_tape_buffers) */
    sala_layer_grads grads;
    sala_act *h_last;            /* [rows][n_embd] output of the last layer of the model */
    sala_act *x_final, *d_final; /* the same, normed: what the head reads; its gradient */
    sala_act *h_mtp, *e_mtp;     /* multi-token prediction: output of its layer, rows of the embedding; else NULL */
} sala_tape;

typedef struct sala_tape_bytes {
    uint64_t tape, scratch;
} sala_tape_bytes;

/* `block` NULL: sizes alone, t->layers is not touched. Otherwise t->layers must be there and `block` hold tape +
 * scratch bytes, 64-byte aligned. run->shape and the rest of the run say what layers there are. */
sala_tape_bytes sala_tape_lay(sala_tape *t, const sala_train_plan *plan, const sala_run_config *run, void *block);

/* One pass: rows of documents through layers of `net`, whose layer 0 keeps its rows in slot `first` of the tape. */
typedef struct sala_pass {
    sala_net *net;
    const sala_state_layout *state;
    const sala_attn_seq *seqs;
    int n_seqs;
    int64_t n_rows;
    int first;
} sala_pass;

/* From t->layers[first].h_in, which the caller has filled, to h_out. */
void sala_tape_forward(const sala_tape *t, const sala_pass *p, sala_act *h_out);
/* t->grads.d_h: in, the gradient of h_out; out, that of the first h_in. done (may be NULL) is told of each layer whose
 * gradients are complete. */
void sala_tape_backward(const sala_tape *t, const sala_pass *p, void (*done)(void *user, int slot), void *user);

#endif
