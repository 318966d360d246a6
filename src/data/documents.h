/* Cuts input files into documents. A record is the raw bytes of one: text as it lies in the file, or a line of JSON
 * that somebody else takes apart (that takes time, and workers have more of it than the one reader). */
#ifndef SALA_DATA_DOCUMENTS_H
#define SALA_DATA_DOCUMENTS_H

#include "data/inflow.h"

typedef enum sala_doc_format {
    SALA_DOC_AUTO,  /* JSONL by name (.jsonl, .ndjson) or by a first line that is a JSON object; else text */
    SALA_DOC_TEXT,  /* one document a file, or split at lines equal to `separator` */
    SALA_DOC_LINES, /* one document a line */
    SALA_DOC_JSONL, /* one JSON object a line */
} sala_doc_format;

enum { SALA_MAX_SEPARATOR = 4096 };

typedef struct sala_cut_params {
    sala_doc_format format;
    const char *separator;  /* of text; NULL: none. At most SALA_MAX_SEPARATOR bytes */
    uint64_t split_bytes;   /* of text: at the first empty line behind so many bytes a new document begins; 0: never */
    uint64_t max_doc_bytes; /* longer documents are cut, at a line's end if there is one near, else at a character */
    uint64_t max_json_line; /* longer lines of JSONL are given as `too_long`, without their bytes */
} sala_cut_params;

typedef struct sala_record {
    size_t at, bytes; /* within the buffer */
    uint64_t line;    /* of the file, from 1 */
    bool is_json, too_long;
    bool continues; /* where the record before it was cut */
    bool goes_on;   /* was cut: the next record is its continuation */
} sala_record;

typedef struct sala_cutter sala_cutter;

/* Compressed forms that are not read, and files that are not text at all, are refused by name. */
sala_status sala_cutter_open(sala_cutter **out, const char *path, const sala_cut_params *p, sala_error *err);
/* Over bytes that outlive it; `name` stands for the path. */
sala_status sala_cutter_open_bytes(sala_cutter **out, const char *name, const void *data, size_t bytes,
                                   const sala_cut_params *p, sala_error *err);
void sala_cutter_close(sala_cutter *c); /* NULL is fine */
/* Appends the bytes of the next record to *into. *more is false, and nothing else is set, at the end. Empty records are
 * records too. */
sala_status sala_cutter_next(sala_cutter *c, sala_buf *into, sala_record *r, bool *more, sala_error *err);
uint64_t sala_cutter_consumed(const sala_cutter *c); /* bytes of the file, as they lie there */

/* Bytes of s[0..n) to keep so that no character is cut: n, or up to 3 less. */
size_t sala_whole_characters(const char *s, size_t n);
/* How many bytes of s[0..n) are not part of a UTF-8 character. */
uint64_t sala_invalid_utf8(const char *s, size_t n);
bool sala_is_blank(const char *s, size_t n); /* nothing but ASCII white space */

#endif
