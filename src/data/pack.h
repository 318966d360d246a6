/* `sala data pack`: text, JSONL, chat JSONL, each plain, .gz or .zst, to token shards. A reader thread cuts documents, workers
 * encode batches, one writer keeps the order of the input: the output does not depend on the number of threads. */
#ifndef SALA_DATA_PACK_H
#define SALA_DATA_PACK_H

#include "data/shard.h"
#include "text/chat.h"
#include "text/tokenizer.h"

/* ---- input: bytes of a file, decompressed; kind by content, not by name ---- */
typedef struct sala_inflow sala_inflow;
sala_status sala_inflow_open(sala_inflow **out, const char *path, sala_error *err); /* "-": standard input */
/* *got 0 at the end. A damaged archive is an error with the position in the compressed file. */
sala_status sala_inflow_read(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err);
void sala_inflow_close(sala_inflow *s);

typedef enum sala_doc_format {
    SALA_DOC_AUTO,  /* .jsonl and what begins with '{' is JSONL; else text */
    SALA_DOC_TEXT,  /* one document a file, or split at lines equal to `separator` */
    SALA_DOC_LINES, /* one document a line */
    SALA_DOC_JSONL, /* text at `text_key`, or chat at "messages" / "conversations" */
} sala_doc_format;

typedef struct sala_pack_params {
    const char *const *inputs; /* files; directories are walked in sorted order */
    int n_inputs;
    const char *out_dir;
    const sala_tokenizer *tokenizer; /* NULL: bytes (ids 0..255, 256 BOS, 257 EOS) */
    const sala_chat *chat;           /* for chat records */
    sala_doc_format format;
    const char *text_key, *separator;
    bool add_bos, add_eos;
    uint64_t shard_tokens;  /* 128 Mi; a document is never cut */
    uint64_t max_doc_bytes; /* 1 GiB; longer ones are cut at a UTF-8 character and counted */
    double validation;      /* share of documents, by hash of the content: the same document is always on the same side */
    uint64_t seed;
    int n_threads;
    bool keep_going; /* damaged lines are skipped and counted; otherwise the first one ends the work */
    bool (*progress)(void *user, uint64_t bytes_in, uint64_t tokens);
    void *user;
} sala_pack_params;

typedef struct sala_pack_stats {
    uint64_t files, bytes_in, docs, docs_validation, empty_docs, cut_docs, bad_lines, tokens, supervised;
    uint64_t length_log2[33]; /* documents by floor(log2(tokens)) */
    uint64_t unknown, longest;
    double seconds, cpu_seconds;
} sala_pack_stats;

sala_status sala_pack_run(const sala_pack_params *p, sala_pack_stats *stats, sala_error *err);

#endif
