/* A document as token ids, piece by piece, with memory that does not depend on its size. Where pieces end follows from
 * the text alone, so that a reading that was interrupted goes on with the same ids. */
#ifndef SALA_CLI_PIECES_H
#define SALA_CLI_PIECES_H

#include "document.h"

#include "text/tokenizer.h"

/* Appends the ids of text that goes on where other text ended: tokenizers that put a space in front of every text put
 * none in front of this one. */
sala_status cli_encode_on(const sala_tokenizer *t, sala_ids *ids, const sala_text_span *spans, size_t n_spans,
                          sala_error *err);

typedef struct cli_piece {
    const int32_t *ids; /* until the next call */
    size_t n_ids;
    uint64_t begin, end; /* the piece's bytes in the text of the document */
} cli_piece;

typedef struct cli_pieces cli_pieces;

/* `opening` (kept, with what it points to) stands before the document and is part of the first piece's ids; BOS comes
 * first where the tokenizer adds one. NULL: the document goes on behind other text. Both d and t must outlive *out. */
int cli_pieces_open(cli_pieces **out, cli_document *d, const sala_tokenizer *t, const sala_text_span *opening,
                    size_t n_opening);
void cli_pieces_close(cli_pieces *p); /* NULL is fine; leaves d open */
/* The next piece; *more is false when there is none. 0 or an exit code. */
int cli_pieces_next(cli_pieces *p, cli_piece *piece, bool *more);
/* SHA-256 of the text from its beginning to the end of the last piece. */
void cli_pieces_digest(const cli_pieces *p, char hex[CLI_DIGEST_TEXT]);

#endif
