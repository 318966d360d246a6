/* Documents as streams of UTF-8 text: plain text, Markdown, HTML, PDF, standard input. Memory does not depend on the
 * size of the document, and the text does not depend on how the bytes arrive. */
#ifndef SALA_CLI_DOCUMENT_H
#define SALA_CLI_DOCUMENT_H

#include "cli.h"

typedef struct cli_document cli_document;

enum { CLI_DIGEST_TEXT = 65 }; /* SHA-256 in hexadecimal, with its NUL */

/* Opens PATH ("-": standard input). What it is follows from its first bytes and its name. All functions return 0 or an
 * exit code after an error message; after Ctrl-C (cli_interrupted) without one. */
int cli_document_open(cli_document **out, const char *path);
void cli_document_close(cli_document *d); /* NULL is fine; ends pdftotext if it still runs */

/* Fills text[0..cap) unless the document ends before: *n < cap means that it has ended. Characters may be cut. */
int cli_document_read(cli_document *d, char *text, size_t cap, size_t *n);

const char *cli_document_format(const cli_document *d); /* "text", "Markdown", "HTML", "PDF" */
/* Bytes of the source taken so far, and of the whole source; 0 where nobody knows (pipes, PDF). */
uint64_t cli_document_taken(const cli_document *d);
uint64_t cli_document_source_bytes(const cli_document *d);
/* Characters that were not valid (broken UTF-8, NUL) and became U+FFFD. */
uint64_t cli_document_repaired(const cli_document *d);

#endif
