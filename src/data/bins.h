/* Which tokens make up sequence number i of a run: best-fit packing of documents into bins of `seq_len` tokens, then an
 * order of bins that is a permutation computed from (seed, epoch), not stored. So the whole state of the data is one
 * counter. */
#ifndef SALA_DATA_BINS_H
#define SALA_DATA_BINS_H

#include "data/shard.h"

typedef enum sala_packing {
    SALA_PACK_BEST_FIT, /* whole documents side by side; longer ones are cut into pieces of seq_len */
    SALA_PACK_STREAM,   /* all documents in shuffled order as one stream, cut every seq_len: no padding, documents are
                         * cut. A bin holds seq_len + 1 tokens; the last is also the first of the next bin */
} sala_packing;

/* Consecutive tokens of one document in one sequence. */
typedef struct sala_piece {
    uint32_t shard, count;
    uint64_t at;    /* token index in the shard */
    uint64_t start; /* of the piece within its document: 0 unless the document was cut */
} sala_piece;

typedef struct sala_bins sala_bins;

/* `cache_dir` (may be NULL): the packing is kept there as bins-<hash>.sbi and mapped next time; a cache that is damaged
 * or cannot be written is no error. The result depends on the corpus, seq_len and packing only. The corpus has to
 * outlive the bins. */
sala_status sala_bins_open(sala_bins **out, const sala_corpus *c, int64_t seq_len, sala_packing packing,
                           const char *cache_dir, sala_error *err);
/* The bytes of a cache file, which outlive the bins: refused unless every piece is one of the corpus. */
sala_status sala_bins_parse(sala_bins **out, const sala_corpus *c, int64_t seq_len, sala_packing packing,
                            const void *data, size_t bytes, sala_error *err);
void sala_bins_close(sala_bins *b); /* NULL is fine */
uint64_t sala_bins_count(const sala_bins *b);
int64_t sala_bins_seq_len(const sala_bins *b);
sala_packing sala_bins_packing(const sala_bins *b);
double sala_bins_fill(const sala_bins *b);      /* share of places that hold tokens */
uint64_t sala_bins_dropped(const sala_bins *b); /* tokens of the corpus that no bin holds as an input */
/* Pieces of a bin; borrowed. */
const sala_piece *sala_bins_get(const sala_bins *b, uint64_t bin, int *n_pieces);
/* perm(x) for x in [0, n): a keyed permutation (4-round Feistel over the next even power of two, walked until below n).
 */
uint64_t sala_permute(uint64_t seed, uint64_t epoch, uint64_t x, uint64_t n);

#endif
