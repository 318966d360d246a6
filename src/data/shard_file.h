/* What the reader and the writer of shards share: the header and where things lie. Everything behind the header follows
 * from its counts, so a layout is computed, and a file's own offsets only have to agree with it. */
#ifndef SALA_DATA_SHARD_FILE_H
#define SALA_DATA_SHARD_FILE_H

#include "data/shard.h"

#include <xxhash.h>

enum {
    SALA_SHARD_HEADER_BYTES = 128,
    SALA_SHARD_SUMMED_BYTES = 120, /* of the header, before its own checksum */
    SALA_SHARD_ALIGN = 4096,
    SALA_SHARD_DOC_BYTES = 16,
};

typedef struct sala_shard_layout {
    uint32_t flags, token_bytes;
    uint64_t n_docs, n_tokens;
    uint64_t tokens_at, mask_at, index_at, sums_at, file_bytes; /* mask_at 0: there is no mask */
    uint64_t token_section, mask_section;                       /* bytes, without the zeros behind them */
    uint32_t token_pages, mask_pages;
} sala_shard_layout;

/* False when the sizes overflow or pages are more than 32 bits count. */
bool sala_shard_lay_out(sala_shard_layout *l, uint32_t vocab, uint32_t flags, uint64_t n_docs, uint64_t n_tokens);
/* The 128 bytes at the start of a file. */
void sala_shard_put_header(uint8_t out[SALA_SHARD_HEADER_BYTES], const sala_shard_layout *l, uint32_t vocab,
                           uint64_t tokenizer_id, uint64_t content_sum);

#endif
