/* What a session holds: keys and values in blocks of 64 tokens.
 *
 * A block holds one stretch of 64 absolute positions for all layers: for each layer K [n_kv_heads][64][head_dim], then
 * V the same. Blocks are taken one by one as the session grows, counted by reference, and shared between forks until
 * one side writes into them. Tokens at [0, length) are committed; rows of a running forward pass are written behind
 * them and become part of the session only by commit. */
#ifndef SALA_STATE_KV_H
#define SALA_STATE_KV_H

#include "base/base.h"
#include "tensor/dtype.h"

#define SALA_KV_BLOCK_TOKENS 64

typedef struct sala_kv_layout {
    sala_dtype dtype; /* F32 or F16 */
    int n_layers, n_kv_heads, head_dim;
    size_t layer_bytes, block_bytes;
} sala_kv_layout;

typedef struct sala_kv {
    sala_kv_layout layout;
    int64_t length; /* committed tokens */
    void **blocks;  /* [n_blocks] bases; owned together with other forks */
    int64_t n_blocks, cap_blocks;
} sala_kv;

sala_status sala_kv_layout_init(sala_kv_layout *out, sala_dtype dtype, int n_layers, int n_kv_heads, int head_dim,
                                sala_error *err);
/* Bytes of blocks for n tokens. */
uint64_t sala_kv_bytes_at(const sala_kv_layout *layout, int64_t n_tokens);

void sala_kv_init(sala_kv *kv, const sala_kv_layout *layout);
void sala_kv_free(sala_kv *kv);
uint64_t sala_kv_bytes(const sala_kv *kv); /* blocks of this session, shared ones included */

/* Makes room for tokens [length, length + n) in blocks that only this session may write. On failure the session is as
 * it was. */
sala_status sala_kv_prepare(sala_kv *kv, int64_t n, sala_error *err);
void sala_kv_commit(sala_kv *kv, int64_t n);
/* Forgets everything from n_keep on and gives back whole blocks. */
void sala_kv_rollback(sala_kv *kv, int64_t n_keep);
/* *out shares all blocks of kv until one of them writes. */
sala_status sala_kv_fork(sala_kv *out, const sala_kv *kv, sala_error *err);

#endif
