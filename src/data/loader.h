/* Batches of a run: a mixture of corpora by weight, with the counter of each as the whole state. Prefetches one step ahead on a
 * thread of its own. All ranks compute the same plan and read only their share. */
#ifndef SALA_DATA_LOADER_H
#define SALA_DATA_LOADER_H

#include "data/bins.h"

enum { SALA_MAX_SOURCES = 32 };

typedef struct sala_mix_source {
    sala_bins *bins;
    const sala_corpus *corpus;
    double weight; /* of tokens; normalised */
} sala_mix_source;

typedef struct sala_loader_state { /* written into checkpoints as it is, little endian */
    uint64_t sequences;                    /* drawn so far in this stage */
    uint64_t drawn[SALA_MAX_SOURCES];      /* per source; epoch = drawn / count, place = drawn % count */
    uint64_t stage, seed;
} sala_loader_state;

/* Sequences of one micro-batch: n_rows = n_seqs * seq_len, padding included (label -1, documents of their own). */
typedef struct sala_batch {
    int32_t *tokens, *labels; /* [n_rows] */
    int32_t *doc_start;       /* [n_docs + 1] rows at which documents begin */
    int32_t *doc_position;    /* [n_docs] position of a document's first row (> 0: a piece of a cut document; see positions) */
    int n_docs;
    int64_t n_rows, n_supervised;
} sala_batch;

typedef struct sala_loader sala_loader;
typedef struct sala_loader_params {
    const sala_mix_source *sources;
    int n_sources;
    int64_t seq_len, sequences_per_step, sequences_per_pass; /* of all ranks; of one micro-batch of this rank */
    int rank, n_ranks;
    bool mask_documents;  /* false: one document a sequence, as in the packing of HALO */
} sala_loader_params;

sala_status sala_loader_open(sala_loader **out, const sala_loader_params *p, const sala_loader_state *from, sala_error *err);
void sala_loader_close(sala_loader *l);
/* Micro-batches of the coming step of this rank; borrowed until the next call. *supervised: of all ranks together. */
sala_status sala_loader_next(sala_loader *l, const sala_batch **batches, int *n_batches, int64_t *supervised, sala_error *err);
sala_loader_state sala_loader_tell(const sala_loader *l); /* behind the last step handed out, whatever was prefetched */

#endif
