/* What stands around documents and questions in a session: the chat template cut at the places where they go.
 *
 *     opening  DOCUMENT  gap QUESTION  closing   answer   between  QUESTION  closing_later   answer   ...
 *
 * The document and the first question are one user turn, left open at the end of the document, so that any question can
 * end it. A model without a template gets plain text: documents and questions with an empty line between them. */
#ifndef SALA_CLI_FRAME_H
#define SALA_CLI_FRAME_H

#include "cli.h"

#include "infer/engine.h"

typedef struct cli_spans {
    sala_text_span *at;
    size_t n;
} cli_spans;

typedef struct cli_frame {
    bool chat; /* from a template */
    cli_spans opening, closing, between, closing_later;
    char *rendered[2]; /* what the spans point into */
} cli_frame;

extern const char cli_frame_gap[]; /* between document and question, and between documents */

/* raw: plain text although there is a template. `system` may be NULL. 0 or an exit code; free in any case. */
int cli_frame_open(cli_frame *f, const sala_model *model, bool raw, const char *system);
void cli_frame_free(cli_frame *f);

/* The ids of a question behind a document (later: behind an answer) up to where the answer begins. */
int cli_frame_question(sala_ids *ids, const cli_frame *f, const sala_model *model, const char *question, size_t bytes,
                       bool later);

#endif
