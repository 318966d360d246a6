// module: data
/* Any bytes as the cache of a packing, over a corpus of two documents in one shard. The first byte: bit 0 puts key and
 * sums right, bit 1 chooses the packing. */
#include "data/bins_file.h"
#include "data/shard_file.h"

#include <stdlib.h>

#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEQ_LEN = 8, N_TOKENS = 40 };

/* One shard of documents of 15 and 25 tokens, made once. */
static sala_shard *shard(void)
{
    static uint8_t file[3 * SALA_SHARD_ALIGN];
    static sala_shard *s;
    if (s)
        return s;
    sala_shard_layout l;
    if (!sala_shard_lay_out(&l, 100, 0, 2, N_TOKENS))
        abort();
    const sala_shard_doc docs[] = {{0, 15, 0}, {15, 25, 0}};
    const uint64_t sum = XXH3_64bits(file + l.tokens_at, (size_t)l.token_section);
    memcpy(file + l.index_at, docs, sizeof docs);
    memcpy(file + l.sums_at, &sum, sizeof sum);
    sala_shard_put_header(file, &l, 100, 7, XXH3_64bits(file + l.index_at, (size_t)(l.file_bytes - l.index_at)));
    if (sala_shard_parse(&s, file, (size_t)l.file_bytes, NULL) != SALA_OK)
        abort();
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + SALA_BINS_HEADER_BYTES)
        return 0;
    sala_shard *shards[] = {shard()};
    const sala_corpus c = {.shards = shards, .n_shards = 1, .n_docs = 2, .n_tokens = N_TOKENS, .vocab = 100};
    const sala_packing packing = data[0] & 2 ? SALA_PACK_STREAM : SALA_PACK_BEST_FIT;
    const size_t n = size - 1;
    uint8_t *file = malloc(n);
    if (!file)
        return 0;
    memcpy(file, data + 1, n);
    if (data[0] & 1) {
        uint64_t pieces, bins;
        const uint64_t key = sala_bins_key(&c, SEQ_LEN, packing), room = n - SALA_BINS_HEADER_BYTES;
        memcpy(&pieces, file + 16, 8);
        memcpy(&bins, file + 24, 8);
        memcpy(file + 40, &key, 8);
        if (pieces <= room / 24 && bins < room / 8 && pieces * 24 + (bins + 1) * 8 == room) {
            const uint8_t *at = file + SALA_BINS_HEADER_BYTES;
            const uint64_t sums[] = {XXH3_64bits(at, (size_t)pieces * 24),
                                     XXH3_64bits(at + pieces * 24, (size_t)(bins + 1) * 8)};
            const uint64_t body = XXH3_64bits(sums, sizeof sums);
            memcpy(file + 48, &body, 8);
        }
        const uint64_t sum = XXH3_64bits(file, SALA_BINS_SUMMED_BYTES);
        memcpy(file + SALA_BINS_SUMMED_BYTES, &sum, 8);
    }
    sala_bins *b;
    if (sala_bins_parse(&b, &c, SEQ_LEN, packing, file, n, NULL) == SALA_OK) {
        for (uint64_t i = 0; i < sala_bins_count(b); i++) {
            int n_pieces;
            const sala_piece *p = sala_bins_get(b, i, &n_pieces);
            for (int k = 0; k < n_pieces; k++)
                if (p[k].shard != 0 || p[k].at + p[k].count > N_TOKENS)
                    abort();
        }
        sala_bins_close(b);
    }
    free(file);
    return 0;
}
