/* States of linear-attention layers of one session.
 *
 * A state S is kept at the last position that is a multiple of SALA_LINEAR_CHUNK, and the keys and values since then
 * lie beside it ("pending"). So a state is written once in a chunk, the result does not depend on how tokens were cut
 * into calls, and stepping back within the chunk costs nothing. A state cannot be run backwards: for longer steps back,
 * states are kept at positions that thin out with their distance (marks), and what lies between a mark and where one
 * wants to be is run again.
 *
 * One page holds the states of all layers, another all pending keys and values. A page that a position of the past
 * belongs to is never written again. */
#ifndef SALA_STATE_LINEAR_H
#define SALA_STATE_LINEAR_H

#include "state/pages.h"

/* The kernels' SALA_LIGHTNING_CHUNK; a check in model/ holds them together. */
#define SALA_LINEAR_CHUNK 64
/* States are kept at multiples of it, but see sala_linear_keeps(). */
#define SALA_LINEAR_MARK_STEP 256

typedef struct sala_linear_layout {
    int n_layers, n_heads, n_kv_heads, head_dim;
    size_t state_bytes, pending_bytes; /* of one layer: f32 S [n_heads][d][d]; f32 [n_kv_heads][k, v][CHUNK][d] */
} sala_linear_layout;

typedef struct sala_linear_mark {
    int64_t position;
    sala_page *page;
} sala_linear_mark;

typedef struct sala_linear {
    sala_linear_layout layout;
    int64_t length;
    sala_page *state;        /* at length rounded down to a chunk; NULL at 0 */
    sala_page *pending;      /* may be NULL when length is a multiple of a chunk */
    sala_linear_mark *marks; /* ascending; not the current state */
    int n_marks, cap_marks;
    /* Pages that nobody uses any more: a pass takes and leaves one of each kind in every chunk, and memory fresh from
     * the system is slow. NULL: none. */
    sala_page *spare_state, *spare_pending;
} sala_linear;

/* What one stretch of tokens of a running forward pass reads and writes; pages belong to the run. */
typedef struct sala_linear_stretch {
    const void *state_in; /* NULL: zero */
    void *pending;        /* rows of the chunk that the stretch begins in */
    void *pending_out;    /* rows of the chunk that it ends in; may be the same; NULL: it ends at a chunk's end */
    int n_states;         /* states to be written on the way */
    const int64_t *positions;
    void *const *states; /* [n_states] */
} sala_linear_stretch;

/* A forward pass on top of a session that does not change it: stretch by stretch, then end. */
typedef struct sala_linear_run {
    sala_linear *from;
    int64_t at, end;
    sala_page *state, *pending;
    sala_page *used[2];      /* what the last stretch reads and the run no longer holds */
    sala_linear_mark *marks; /* made on the way */
    int n_marks, cap_marks;
    int64_t *positions; /* of the last stretch */
    void **states;
    int cap_states;
} sala_linear_run;

sala_status sala_linear_layout_init(sala_linear_layout *out, int n_layers, int n_heads, int n_kv_heads, int head_dim,
                                    sala_error *err);
void sala_linear_init(sala_linear *s, const sala_linear_layout *layout);
void sala_linear_free(sala_linear *s);
sala_status sala_linear_fork(sala_linear *out, const sala_linear *s, sala_error *err);
/* Whether a session of n tokens keeps the state at `position`, a multiple of a chunk below the current one: for each
 * power of two times the step, the last one or two multiples. Stepping back by x from the furthest that a session has
 * been runs less than max(2 x, step) tokens again. */
bool sala_linear_keeps(int64_t position, int64_t n);
/* Steps back to the last position at or before n_keep whose state is there, and returns it. */
int64_t sala_linear_rollback(sala_linear *s, int64_t n_keep);
uint64_t sala_linear_bytes(const sala_linear *s);
uint64_t sala_linear_bytes_at(const sala_linear_layout *layout, int64_t n_tokens);
/* Compares mapped pages with what was saved. */
sala_status sala_linear_check(const sala_linear *s, sala_error *err);

/* n_new: tokens of the whole pass. */
void sala_linear_begin(sala_linear_run *run, sala_linear *s, int64_t n_new);
/* The next n tokens. */
sala_status sala_linear_next(sala_linear_run *run, int64_t n, sala_linear_stretch *out, sala_error *err);
/* Makes the session what the run came to (ok), or leaves it as it is; frees the run in both cases. */
void sala_linear_end(sala_linear_run *run, bool ok);

#endif
