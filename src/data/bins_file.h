/* The cache file of a packing:
 *
 *     0  SALABINS   8  version, packing (u32)   16  pieces, bins, tokens (u64)   40  key   48  sum of the body
 *    56  sum of bytes 0..55   64  pieces, as sala_piece lies in memory   then  first piece of each bin, and their
 * number
 */
#ifndef SALA_DATA_BINS_FILE_H
#define SALA_DATA_BINS_FILE_H

#include "data/bins.h"

#define SALA_BINS_MAGIC "SALABINS"
enum { SALA_BINS_VERSION = 1, SALA_BINS_HEADER_BYTES = 64, SALA_BINS_SUMMED_BYTES = 56 };

/* What a packing is a function of. */
uint64_t sala_bins_key(const sala_corpus *c, int64_t seq_len, sala_packing packing);

#endif
