/* What a session holds for all layers of a model:
 *
 *   blocks   keys and values of softmax layers, 64 tokens to a page: for each layer K of all heads, then V, then (where
 *            blocks are scored without rotation) the keys before rotation (tensor/kv_block.h)
 *   fine     compressed keys of sparse layers, 64 rows to a page: for each layer [n_kv_heads][head_dim][64]; row j is
 * the mean of tokens [stride j, stride j + kernel) coarse   the same, four times as long and as far apart linear states
 * of linear layers (state/linear.h)
 *
 * Tokens at [0, length) are committed. A forward pass writes behind them and becomes part of the session only by
 * commit. Forks share pages until one side writes. */
#ifndef SALA_STATE_STATE_H
#define SALA_STATE_STATE_H

#include "state/linear.h"

typedef struct sala_state_layout {
    sala_dtype dtype, row_dtype; /* keys and values; compressed keys (F32 or F16) */
    int n_attn, n_sparse;        /* softmax layers; those of them that are sparse */
    int n_kv_heads, head_dim;
    bool raw_keys;           /* blocks hold keys before rotation too */
    int kernel, stride;      /* of fine rows, in tokens */
    int coarse;              /* coarse rows are so many times longer and further apart */
    size_t head_bytes;       /* keys, or values, of one head in a block */
    size_t attn_layer_bytes; /* of one layer in a block */
    size_t row_layer_bytes;  /* of one layer in a page of rows */
    sala_linear_layout linear;
} sala_state_layout;

/* The caller fills the counts, types and constants; this derives the sizes and checks that they can be. */
sala_status sala_state_layout_finish(sala_state_layout *layout, sala_error *err);
static inline size_t sala_state_block_bytes(const sala_state_layout *l)
{
    return l->attn_layer_bytes * (size_t)l->n_attn;
}
static inline size_t sala_state_row_page_bytes(const sala_state_layout *l)
{
    return l->row_layer_bytes * (size_t)l->n_sparse;
}
/* Rows that n tokens complete. */
int64_t sala_state_rows(const sala_state_layout *layout, int64_t n_tokens, bool coarse);
/* Memory for n tokens. */
uint64_t sala_state_bytes_at(const sala_state_layout *layout, int64_t n_tokens);
/* The same, split into what grows with the tokens and what does not. */
typedef struct sala_state_cost {
    uint64_t keys_values, rows, linear;
} sala_state_cost;
sala_state_cost sala_state_cost_at(const sala_state_layout *layout, int64_t n_tokens);

typedef struct sala_state {
    sala_state_layout layout;
    int64_t length;
    sala_pages blocks, fine, coarse;
    sala_linear linear;
} sala_state;

void sala_state_init(sala_state *s, const sala_state_layout *layout);
void sala_state_free(sala_state *s);
uint64_t sala_state_bytes(const sala_state *s); /* pages held, shared ones included */

/* Makes room for n tokens behind `length`. On failure the session is as it was. The linear part is prepared stretch by
 * stretch (sala_linear_begin). */
sala_status sala_state_prepare(sala_state *s, int64_t n, sala_error *err);
/* The n tokens behind `length` become part of the session (n may be 0: gives back what was prepared). linear: the run
 * of the same tokens, or NULL when the model has no linear layer. */
void sala_state_commit(sala_state *s, int64_t n, sala_linear_run *linear);
/* Forgets tokens. Returns how many are left: n_keep, or fewer where a linear state lies further back; the tokens
 * between must then be run again. */
int64_t sala_state_rollback(sala_state *s, int64_t n_keep);
/* How many a rollback would leave. */
int64_t sala_state_rollback_target(const sala_state *s, int64_t n_keep);
sala_status sala_state_fork(sala_state *out, const sala_state *s, sala_error *err);
/* Fills an empty session with n tokens' worth of random but well-conditioned content, for measuring at a depth: keys
 * and values normal with deviation 1, compressed keys as means would be, linear states as long sums of such keys and
 * values would be. */
sala_status sala_state_fill(sala_state *s, int64_t n, uint64_t seed, sala_error *err);

#endif
