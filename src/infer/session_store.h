/* What saving and restoring share: the sections of a session file, the description in it, and who holds the file open.
 *
 *   section  page                                        bytes of a page
 *   tokens   4096 token ids, int32                       16384
 *   blocks   keys and values of 64 tokens, as in memory  sala_state_block_bytes
 *   fine     64 compressed keys of each sparse layer     sala_state_row_page_bytes
 *   coarse   the same                                    the same
 *   states   the states of all linear layers at one position; which position is in the description
 *   pending  keys and values of linear layers since the last state; none when the length is a multiple of 64
 */
#ifndef SALA_INFER_SESSION_STORE_H
#define SALA_INFER_SESSION_STORE_H

#include "format/session_file.h"
#include "infer/engine.h"

#include <jansson.h>

typedef enum sala_section {
    SALA_SECTION_TOKENS,
    SALA_SECTION_BLOCKS,
    SALA_SECTION_FINE,
    SALA_SECTION_COARSE,
    SALA_SECTION_STATES,
    SALA_SECTION_PENDING,
    SALA_SECTIONS,
} sala_section;

#define SALA_TOKENS_PER_PAGE 4096
#define SALA_NOTE_MAX ((size_t)8 << 20)
#define SALA_FINGERPRINT_CHARS 33 /* 128 bits in hexadecimal, and the NUL */

/* The open file, for as long as the session or any page in its map is in use, forks' pages included. What pages were
 * when the session was restored is remembered here, since later commits change the file's own table. */
typedef struct sala_session_source {
    sala_page_source base;
    sala_session_file *file;
    char *path;
    int64_t n_pages[SALA_SECTIONS];
    uint64_t page_bytes[SALA_SECTIONS];
    const void **data[SALA_SECTIONS];
    uint64_t *sums[SALA_SECTIONS];
} sala_session_source;

struct sala_session_store {
    sala_session_source *source;
    int64_t valid;      /* the file agrees with the session as far as its first `valid` tokens go */
    int64_t pending_at; /* the pending rows in the file are those of this length; -1: of none */
    int64_t *states;    /* [n_states] position of each page of states; -1: of no use any more */
    int n_states;
};

/* Takes the file over, also on failure. */
sala_status sala_session_store_new(sala_session_store **out, sala_session_file *file, const char *path,
                                   sala_error *err);

/* What tells one model from another: shapes, scales, and samples of every tensor; not where it lies. */
void sala_session_fingerprint(char out[SALA_FINGERPRINT_CHARS], const sala_model *model);

/* The description of session `s` when its states lie in pages as `states` says. Owned by the caller; NULL when memory
 * is out. */
char *sala_session_about_text(size_t *bytes, const sala_session *s, const int64_t *states, int n_states);

typedef struct sala_session_about {
    json_t *root; /* owned; the strings point into it */
    const char *model, *architecture, *fingerprint;
    sala_kv_type kv;
    sala_dense_switch dense_switch;
    bool long_rope;
    int64_t tokens, planned_tokens, sparse_from;
    int n_sparse, kernel, stride, coarse;
    bool raw_keys;
    int64_t *states; /* [n_states], owned */
    int n_states;
    json_t *note; /* part of root */
} sala_session_about;

/* Reads and checks what a description says by itself. */
sala_status sala_session_about_read(sala_session_about *out, const sala_session_file *f, const char *path,
                                    sala_error *err);
void sala_session_about_free(sala_session_about *about);

/* Bytes of one page of a section, 0 if sessions of this kind have none, and how many pages n tokens take there. The
 * number of pages of states is no such function: 0. */
uint64_t sala_section_page_bytes(const sala_state_layout *layout, sala_section section);
int64_t sala_section_pages(const sala_state_layout *layout, sala_section section, int64_t n_tokens);

#endif
