/* Batches of a run: a mixture of corpora by weight, with the counter of each as the whole state. Prefetches one step
 * ahead on a thread of its own. All ranks compute the same plan and read only their share. */
#ifndef SALA_DATA_LOADER_H
#define SALA_DATA_LOADER_H

#include "data/bins.h"

enum { SALA_MAX_SOURCES = 32 };

typedef struct sala_mix_source {
    sala_bins *bins;
    const sala_corpus *corpus;
    double weight; /* of tokens; normalised */
} sala_mix_source;

typedef struct sala_loader_state {    /* written into saves as it is, little endian */
    uint64_t sequences;               /* drawn so far in this stage */
    uint64_t drawn[SALA_MAX_SOURCES]; /* per source; epoch = drawn / count, place = drawn % count */
    uint64_t stage, seed;             /* both choose the order; a new stage begins with the counters at 0 */
} sala_loader_state;

/* Sequences of one micro-batch: n_rows = n_seqs * seq_len, padding included (label -1, documents of their own). */
typedef struct sala_batch {
    int32_t *tokens, *labels; /* [n_rows]; labels[i]: what row i has to predict, or -1 */
    int32_t *doc_start;       /* [n_docs + 1] rows at which documents begin */
    int32_t *doc_position;    /* [n_docs] position of a document's first row; 0 unless keep_positions */
    int n_docs;
    int64_t n_rows, n_supervised;
} sala_batch;

typedef struct sala_loader sala_loader;
typedef struct sala_loader_params {
    const sala_mix_source *sources;
    int n_sources;
    int64_t seq_len, sequences_per_step, sequences_per_pass; /* of all ranks; of one micro-batch of this rank */
    int rank, n_ranks;
    bool mask_documents; /* false: a sequence is one document, and a document's last token predicts the next one's first
                          */
    bool keep_positions; /* a piece of a cut document begins at its place in the document, not at 0 */
} sala_loader_params;

/* Copies what p points to, but not the bins and corpora. `from` may be NULL: the beginning, with seed and stage 0. */
sala_status sala_loader_open(sala_loader **out, const sala_loader_params *p, const sala_loader_state *from,
                             sala_error *err);
void sala_loader_close(sala_loader *l); /* NULL is fine */
/* Micro-batches of the coming step of this rank; borrowed until the next call. *supervised: of all ranks together.
 * After an error every further call fails in the same way. */
sala_status sala_loader_next(sala_loader *l, const sala_batch **batches, int *n_batches, int64_t *supervised,
                             sala_error *err);
sala_loader_state sala_loader_tell(const sala_loader *l); /* behind the last step handed out, whatever was prefetched */
/* What a loader takes, for the memory plan. */
uint64_t sala_loader_bytes(const sala_loader_params *p);

/* The source that the next sequence comes from, and its bin; counts it in *state. Exposed for tests and for whoever
 * wants to know what a run will read. */
int sala_loader_draw(sala_loader_state *state, const sala_mix_source *sources, int n_sources, uint64_t *bin);

#endif
