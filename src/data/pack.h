/* `sala data pack`: text, JSONL, chat JSONL, each plain, .gz or .zst, to token shards. A reader thread cuts documents,
 * workers encode batches, one writer keeps the order of the input: the output does not depend on the number of threads.
 */
#ifndef SALA_DATA_PACK_H
#define SALA_DATA_PACK_H

#include "data/documents.h"
#include "data/encode.h"
#include "data/shard.h"
#include "text/chat.h"
#include "text/tokenizer.h"

typedef struct sala_pack_params {
    const char *const *inputs; /* files, "-" for standard input; directories are walked in sorted order */
    int n_inputs;
    const char *out_dir;
    const sala_tokenizer *tokenizer; /* NULL: bytes (ids 0..255, 256 BOS, 257 EOS) */
    const sala_chat *chat;           /* for chat records */
    sala_doc_format format;
    const char *text_key;   /* NULL: "text" */
    const char *separator;  /* NULL: none */
    bool add_bos, add_eos;  /* BOS is also added where the tokenizer does so by itself */
    uint64_t shard_tokens;  /* 0: 128 Mi; a document is never cut between shards */
    uint64_t max_doc_bytes; /* 0: 16 MiB; longer ones are cut and counted */
    double validation; /* share of documents, by hash of the content: the same document is always on the same side */
    uint64_t seed;
    int n_threads;   /* < 1: one per core */
    bool keep_going; /* damaged records are skipped and counted; otherwise the first one ends the work */
    bool (*progress)(void *user, uint64_t bytes_in, uint64_t tokens); /* bytes of files, as they lie there */
    void *user;
    const char *tokenizer_hint; /* where the tokenizer lies, for the manifest; NULL: "bytes" or nothing */
    uint64_t split_bytes;       /* of text: new documents at empty lines, after so many bytes each; 0: never */
    bool replace;               /* a corpus that is in out_dir already, once this one is whole; otherwise an error */
} sala_pack_params;

typedef struct sala_pack_stats {
    uint64_t files, bytes_in; /* bytes_in: of text, after decompression and without JSON around it */
    uint64_t docs, docs_validation, empty_docs, cut_docs, bad_lines, tokens, tokens_validation, supervised;
    uint64_t invalid_utf8;    /* documents with bytes that became U+FFFD */
    uint64_t length_log2[33]; /* documents by floor(log2(tokens)) */
    uint64_t unknown, longest;
    int shards;
    double seconds, cpu_seconds;
    char first_bad[500]; /* what was wrong with the first record that was skipped */
} sala_pack_stats;

/* Writes shards and, last of all, manifest.json. After an error or a cancellation nothing of this run is left in
 * out_dir, and a corpus that was to be replaced is still there. */
sala_status sala_pack_run(const sala_pack_params *p, sala_pack_stats *stats, sala_error *err);
/* Bytes of all input files together, as they lie there: what progress comes to. 0 when it is not known beforehand. */
uint64_t sala_pack_input_bytes(const char *const *inputs, int n_inputs);

#endif
