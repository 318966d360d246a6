/* Choice of blocks, as inference makes it: the CPU backend's compress and select over blocks of keys in f32 that are
 * filled for one layer at a time. All numbers are floats, in the double build too, which selects by rounded rows. */
#ifndef SALA_GRAD_SELECTOR_H
#define SALA_GRAD_SELECTOR_H

#include "backend/backend.h"

typedef struct sala_selector sala_selector;

/* Bytes that open() takes, but for a few tables. */
uint64_t sala_selector_bytes(const sala_backend_limits *l);
sala_status sala_selector_open(sala_selector **out, const char *kernels, sala_pool *pool, const sala_backend_limits *l,
                               sala_error *err);
void sala_selector_close(sala_selector *s); /* NULL is fine */

/* True for a sequence some of whose rows leave blocks out. */
static inline bool sala_selects(const sala_selection *s, const sala_attn_seq *seq)
{
    const int64_t end = seq->position + seq->n_rows;
    return s && end > seq->sparse_from && (end - 1) / s->block_size + 1 > s->most;
}

/* sala_select_args in floats, and the keys. Of seqs only first_row, n_rows, position (0) and sparse_from are read. */
typedef struct sala_selector_args {
    const sala_attn_seq *seqs;
    int n_seqs;
    int64_t n_rows;
    sala_rows_shape rows; /* kernel, stride, coarse */
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int init_blocks, window_blocks;
    const float *q, *k;
    int64_t q_stride, k_stride;
    sala_selection out; /* rows of sequences that leave nothing out get -1 */
} sala_selector_args;
void sala_selector_run(sala_selector *s, const sala_selector_args *args);

#endif
