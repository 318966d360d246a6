/* What a session remembers of the documents that were read into it: its note, as JSON.
 *
 *     {"reading": {"frame": "chat" | "text", "system": TEXT?, "sparse": TEXT?, "answered": BOOL,
 *                  "documents": [{"name", "format", "first": token, "tokens", "bytes", "sha256", "complete",
 *                                 "behind": "" | "gap" | "answer", "checked_bytes", "checked_sha256"}]}}
 *
 * "checked" is how far the text was read, and its SHA-256 up to there; a complete document has none. */
#ifndef SALA_CLI_READING_H
#define SALA_CLI_READING_H

#include "cli.h"

#include <jansson.h>

/* A session file as it describes itself. */
typedef struct cli_saved {
    json_t *description;
    json_t *note; /* the object "reading", borrowed from the description; NULL: nothing was read into it */
    json_t *last; /* its last document; NULL: none */
    int64_t tokens;
    const char *model, *kv;
} cli_saved;

/* 0 or an exit code after an error message; free in any case. */
int cli_saved_open(cli_saved *s, const char *path);
void cli_saved_free(cli_saved *s);

bool cli_json_flag(const json_t *object, const char *key);
const char *cli_json_string(const json_t *object, const char *key); /* "" when there is none */
int64_t cli_json_int(const json_t *object, const char *key);

/* Puts {"reading": note} into the session. */
int cli_note_store(sala_session *session, json_t *note);

#endif
