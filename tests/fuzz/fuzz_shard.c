// module: data
/* Any bytes as a token shard. The first byte says whether the sums are put right, which no mutation would ever hit; the
 * rest is the header's 128 bytes, then what lies from byte 4096 on. */
#include "data/shard_file.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(uint8_t *file, size_t n)
{
    sala_shard_layout l;
    uint32_t flags, vocab;
    uint64_t docs, tokens, id;
    memcpy(&flags, file + 12, 4);
    memcpy(&vocab, file + 20, 4);
    memcpy(&id, file + 24, 8);
    memcpy(&docs, file + 32, 8);
    memcpy(&tokens, file + 40, 8);
    if (vocab == 0 || !sala_shard_lay_out(&l, vocab, flags & SALA_SHARD_HAS_MASK, docs, tokens) || l.file_bytes != n)
        return;
    for (uint64_t p = 0; p < l.token_pages + (uint64_t)l.mask_pages; p++) {
        const bool mask = p >= l.token_pages;
        const uint64_t begin = (mask ? p - l.token_pages : p) * SALA_SHARD_PAGE;
        const uint64_t section = mask ? l.mask_section : l.token_section;
        const uint64_t some = section - begin < SALA_SHARD_PAGE ? section - begin : SALA_SHARD_PAGE;
        const uint64_t sum = XXH3_64bits(file + (mask ? l.mask_at : l.tokens_at) + begin, (size_t)some);
        memcpy(file + l.sums_at + 8 * p, &sum, 8);
    }
    sala_shard_put_header(file, &l, vocab, id, XXH3_64bits(file + l.index_at, (size_t)(n - l.index_at)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + SALA_SHARD_HEADER_BYTES)
        return 0;
    const size_t rest = size - 1 - SALA_SHARD_HEADER_BYTES, n = SALA_SHARD_ALIGN + rest;
    uint8_t *file = calloc(n, 1);
    if (!file)
        return 0;
    memcpy(file, data + 1, SALA_SHARD_HEADER_BYTES);
    memcpy(file + SALA_SHARD_ALIGN, data + 1 + SALA_SHARD_HEADER_BYTES, rest);
    if (data[0] & 1)
        seal(file, n);
    sala_shard *s;
    if (sala_shard_parse(&s, file, n, NULL) == SALA_OK) {
        const int64_t count = (int64_t)sala_shard_tokens(s);
        int32_t *ids = malloc((2 * (size_t)count + 1) * sizeof *ids);
        uint64_t supervised;
        if (ids && sala_shard_read(s, 0, count, ids, ids + count, NULL) == SALA_OK)
            for (int64_t i = 0; i < count; i++)
                if (ids[i] < 0 || (uint32_t)ids[i] >= sala_shard_vocab(s))
                    abort();
        (void)sala_shard_supervised(s, 0, count, &supervised, NULL);
        for (uint64_t i = 0; i < (uint64_t)count; i++) {
            const sala_shard_doc d = sala_shard_doc_at(s, sala_shard_doc_of(s, i));
            if (i < d.at || i - d.at >= d.count)
                abort();
        }
        free(ids);
        sala_shard_close(s);
    }
    free(file);
    return 0;
}
