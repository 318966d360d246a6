/* Records to documents of token ids: what a worker of the packer does, and nothing that touches files. */
#ifndef SALA_DATA_ENCODE_H
#define SALA_DATA_ENCODE_H

#include "data/documents.h"
#include "text/chat.h"
#include "text/tokenizer.h"

/* The vocabulary "bytes": the byte itself, then two control tokens. */
enum { SALA_BYTES_BOS = 256, SALA_BYTES_EOS = 257, SALA_BYTES_VOCAB = 258 };

typedef struct sala_encode_params {
    const sala_tokenizer *tokenizer; /* NULL: bytes */
    const sala_chat *chat;           /* NULL: chat records are refused */
    const char *text_key;            /* of JSON records */
    int32_t bos, eos;                /* put around documents that are text; -1: none */
    uint64_t max_doc_bytes;          /* longer texts of JSON records are cut */
    uint64_t seed;                   /* of the hashes */
} sala_encode_params;

typedef struct sala_encoded_doc {
    size_t at, count; /* tokens of the batch */
    uint64_t hash;    /* of the seed and the document's bytes */
    uint32_t source;  /* for the caller */
    bool continues;   /* the document before it was cut here: it belongs to the same side of the validation split */
} sala_encoded_doc;

/* What became of a batch of records. Zero-initialise; cleared and filled again for the next batch. */
typedef struct sala_encoded {
    sala_ids ids;
    sala_buf mask; /* a byte for each token of `ids`; empty: no document has a mask */
    sala_encoded_doc *docs;
    size_t n_docs, docs_cap;
    uint64_t empty, cut, invalid_utf8, unknown, text_bytes; /* counts; invalid_utf8: documents with any */
    sala_buf mended;                                        /* scratch */
} sala_encoded;

/* Appends the documents of one record, none if it is blank. A record that cannot be read is SALA_E_CORRUPT, E_INVALID
 * or E_TEMPLATE, says what is wrong but not where, and leaves *e as it was; any other error is no fault of the record.
 */
sala_status sala_encode_record(sala_encoded *e, const sala_encode_params *p, const char *bytes, const sala_record *r,
                               sala_error *err);
void sala_encoded_clear(sala_encoded *e); /* keeps the memory */
void sala_encoded_free(sala_encoded *e);

/* Appends a conversation's tokens to *ids and, for each, to *mask: 1 for those that an assistant writes, the token that
 * ends the turn included, and 0 for all others. request: as sala_chat_encode() wants it. SALA_E_INVALID when nothing is
 * written by an assistant, or when the template's output does not show which part that is. */
sala_status sala_chat_answers(const sala_chat *c, const sala_tokenizer *t, const json_t *request, sala_ids *ids,
                              sala_buf *mask, sala_error *err);

/* Identity of a vocabulary: XXH3-64 over the length (u32) and bytes of each piece, ids ascending. *n_vocab: ids are
 * below it. t NULL: bytes, in the spelling that byte-level vocabularies use, so that a tokenizer.json of bytes and the
 * word "bytes" are the same. */
uint64_t sala_vocab_id(const sala_tokenizer *t, uint32_t *n_vocab);

#endif
