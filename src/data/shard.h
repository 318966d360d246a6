/* Token shards (.sts): documents as token ids, with checksums, mapped when read. The byte layout is in docs/formats.md.
 * A corpus is a directory of shards with a manifest.json, which is written last: without it there is no corpus. */
#ifndef SALA_DATA_SHARD_H
#define SALA_DATA_SHARD_H

#include "base/base.h"

#define SALA_SHARD_MAGIC "SALATOKS"
enum { SALA_SHARD_VERSION = 1, SALA_SHARD_PAGE = 1 << 20 };

enum {
    SALA_SHARD_HAS_MASK = 1u << 0, /* one bit a token: whether its loss is counted (chat data) */
};

/* Every document is `count` tokens, its separator (EOS) included where the packer added one. count >= 1. */
typedef struct sala_shard_doc {
    uint64_t at;     /* token index in the shard */
    uint32_t count;  /* tokens; longer documents than 2^32 - 1 are refused by the writer */
    uint32_t source; /* index into the sources of the manifest: for mixtures and statistics */
} sala_shard_doc;

typedef struct sala_shard sala_shard;

/* Header, index and their checksums are checked at open; a page of tokens when it is first read. */
sala_status sala_shard_open(sala_shard **out, const char *path, sala_error *err);
/* The same over bytes that outlive the shard. */
sala_status sala_shard_parse(sala_shard **out, const void *data, size_t bytes, sala_error *err);
void sala_shard_close(sala_shard *s); /* NULL is fine */
uint64_t sala_shard_docs(const sala_shard *s);
sala_shard_doc sala_shard_doc_at(const sala_shard *s, uint64_t doc);
uint64_t sala_shard_doc_of(const sala_shard *s, uint64_t at); /* the document that holds token `at` */
uint64_t sala_shard_tokens(const sala_shard *s);
uint64_t sala_shard_bytes(const sala_shard *s);
bool sala_shard_has_mask(const sala_shard *s);
uint32_t sala_shard_vocab(const sala_shard *s); /* ids are below it; also checked while reading */
uint64_t sala_shard_tokenizer_id(const sala_shard *s);
uint64_t sala_shard_header_sum(const sala_shard *s);
uint64_t sala_shard_content_sum(const sala_shard *s); /* of index and page sums: of everything that the shard says */
/* Copies tokens [at, at + n) of the shard; either may be NULL. labels: the token itself, or -1 where the mask says so.
 * SALA_E_CORRUPT names file, page, checksum found and expected. Thread-safe. */
sala_status sala_shard_read(const sala_shard *s, uint64_t at, int64_t n, int32_t *tokens, int32_t *labels,
                            sala_error *err);
/* How many tokens of [at, at + n) have labels; touches the mask only. Thread-safe. */
sala_status sala_shard_supervised(const sala_shard *s, uint64_t at, int64_t n, uint64_t *count, sala_error *err);

/* ---- writing: documents in order; the file appears whole or not at all ---- */

typedef struct sala_shard_writer sala_shard_writer;
typedef struct sala_shard_params {
    uint32_t vocab;
    uint32_t flags;        /* SALA_SHARD_HAS_MASK: write a mask even if it turns out to be all ones */
    uint64_t tokenizer_id; /* XXH3 of the vocabulary's pieces, in order */
} sala_shard_params;

/* What the manifest says about a shard. */
typedef struct sala_shard_summary {
    uint64_t docs, tokens, bytes, header_sum;
} sala_shard_summary;

sala_status sala_shard_writer_open(sala_shard_writer **out, const char *path, const sala_shard_params *p,
                                   sala_error *err);
/* mask: n bytes, 0 or 1, or NULL (all 1). n >= 1. */
sala_status sala_shard_add(sala_shard_writer *w, const int32_t *tokens, const uint8_t *mask, int64_t n, uint32_t source,
                           sala_error *err);
uint64_t sala_shard_writer_tokens(const sala_shard_writer *w);
uint64_t sala_shard_writer_bytes(const sala_shard_writer *w); /* of the file, were it committed now */
/* Frees w in any case. summary may be NULL. */
sala_status sala_shard_writer_commit(sala_shard_writer *w, sala_shard_summary *summary, sala_error *err);
void sala_shard_writer_abort(sala_shard_writer *w); /* NULL is fine */

/* ---- a directory of shards: manifest.json plus shard-00000.sts ... ---- */

typedef struct sala_corpus {
    char *dir;
    sala_shard **shards;
    int n_shards;
    uint64_t n_docs, n_tokens, n_bytes;
    uint32_t vocab;
    uint64_t tokenizer_id;
    uint64_t manifest_sum; /* of what the shards say, not of where they lie: the identity of the data */
    char **sources;        /* the files that were packed */
    int n_sources;
    char *tokenizer;        /* where the tokenizer lay when this was packed, "bytes", or NULL */
    char *validation_dir;   /* the other side of the split, or NULL */
    double bytes_per_token; /* of the text that was packed; 0: not known */
} sala_corpus;

sala_status sala_corpus_open(sala_corpus *out, const char *dir, sala_error *err);
void sala_corpus_close(sala_corpus *c); /* also of a zeroed one */
/* Whether `dir` holds a manifest. */
bool sala_corpus_is_there(const char *dir);
/* SALA_OK when a model with this tokenizer and so many rows of embedding can be trained on c. tokenizer_id 0: unknown,
 * the number of ids alone counts. */
sala_status sala_corpus_check_vocab(const sala_corpus *c, uint64_t tokenizer_id, uint32_t n_vocab, sala_error *err);

#endif
