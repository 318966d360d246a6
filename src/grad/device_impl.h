/* What the files of the training device share. device.c owns the struct and its memory, device_linear.c weights and
 * products, device_rows.c what goes row by row, head.c the loss; attention.c, attention_sparse.c and lightning.c the
 * cores of mixers.
 *
 * An operation is cut into tasks by shape alone and every task owns what it writes, so that bits do not depend on the
 * number of threads. Memory: each worker has `worker_bytes` of its own, and the operation that runs has `shared_bytes`;
 * both are the largest that any operation asks for, and neither keeps anything from one operation to the next. */
#ifndef SALA_GRAD_DEVICE_IMPL_H
#define SALA_GRAD_DEVICE_IMPL_H

#include "grad/device.h"

typedef struct sala_sparse_device sala_sparse_device; /* attention_sparse.c */

typedef struct sala_device {
    sala_backend base;
    sala_train_kernels k;
    const char *kernels; /* the name that was asked for; borrowed from the caller of sala_device_open */
    sala_pool *pool;
    int n_workers;
    sala_precision precision;
    sala_product *product;
    const sala_act *values;
    sala_act *grads;
    sala_backend_limits limits; /* of the last reserve() */
    uint8_t *scratch;
    size_t scratch_bytes;
    uint8_t *shared; /* 64-byte aligned, as the workers' */
    size_t shared_bytes;
    uint8_t *worker;
    size_t worker_bytes;
    sala_sparse_device *sparse; /* NULL unless the limits have sparse layers */
    /* Keys of the last kv_store or key_store: rows stay where they are, and only compress() wants them in blocks. */
    const sala_act *keys;
    int64_t keys_stride;
} sala_device;

static inline sala_device *sala_device_of(sala_backend *be)
{
    return (sala_device *)be;
}

static inline void *sala_device_worker(const sala_device *dev, int worker)
{
    return dev->worker + (size_t)worker * dev->worker_bytes;
}

static inline size_t sala_align64(size_t n)
{
    return (n + 63) / 64 * 64;
}

/* Rows of one task of row-wise work; contributions to a column sum are added up over as many rows before they meet the
 * others. */
enum { SALA_ROW_TASK = 64 };

/* ---- attention.c: dense attention; passes on to attention_sparse.c what has a selection ---- */

size_t sala_attention_worker_bytes(const sala_backend_limits *l, sala_precision p);
uint64_t sala_attention_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers);
void sala_device_attention(sala_backend *be, const sala_attn_args *args);
void sala_device_attention_back(sala_backend *be, const sala_attn_back_args *args);

/* ---- attention_sparse.c ---- */

size_t sala_sparse_worker_bytes(const sala_backend_limits *l, sala_precision p);
uint64_t sala_sparse_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers);
/* Blocks of keys and the CPU backend that selects; bytes are what open() takes beside scratch. */
uint64_t sala_sparse_device_bytes(const sala_backend_limits *l);
sala_status sala_sparse_device_open(sala_sparse_device **out, sala_device *dev, const sala_backend_limits *l,
                                    sala_error *err);
void sala_sparse_device_close(sala_sparse_device *s); /* NULL is fine */
/* Puts dev->keys into the blocks of one layer and compresses them; rows and kv say how. */
void sala_device_compress(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                          const sala_rows_shape *rows);
void sala_device_select(sala_backend *be, const sala_select_args *args);
void sala_device_attention_sparse(sala_backend *be, const sala_attn_args *args);
void sala_device_attention_sparse_back(sala_backend *be, const sala_attn_back_args *args);

/* ---- lightning.c ---- */

size_t sala_lightning_worker_bytes(const sala_backend_limits *l, sala_precision p);
uint64_t sala_lightning_shared_bytes(const sala_backend_limits *l, sala_precision p, int n_workers);
void sala_device_lightning(sala_backend *be, const sala_lightning_args *args);
void sala_device_lightning_back(sala_backend *be, const sala_lightning_back_args *args);

/* ---- device_linear.c ---- */

/* bf16 copies of operands, and the order of ids of get_rows_back. */
uint64_t sala_linear_shared_bytes(const sala_backend_limits *l, sala_precision p);
int64_t sala_linear_widest(const sala_backend_limits *l); /* columns of a product, at most */
sala_status sala_device_weight_new(sala_backend *be, sala_weight **out, sala_dtype dtype, int64_t rows, int64_t cols,
                                   const void *data, sala_error *err);
void sala_device_weight_free(sala_backend *be, sala_weight *w);
uint64_t sala_device_weight_bytes(const sala_weight *w);
void sala_device_get_rows(sala_backend *be, sala_act *out, const sala_weight *w, const int32_t *ids, int64_t n,
                          sala_act scale);
void sala_device_export_row(sala_backend *be, float *out, const sala_weight *w, int64_t row);
void sala_device_linear_group(sala_backend *be, const sala_linear_out *outs, int n_outs, const sala_act *x,
                              int64_t n_rows, int64_t cols);
void sala_device_linear_group_back(sala_backend *be, const sala_linear_back *outs, int n_outs, sala_act *dx,
                                   const sala_act *x, int64_t n_rows, int64_t cols, bool add);
void sala_device_get_rows_back(sala_backend *be, const sala_weight *w, const int32_t *ids, const sala_act *d_out,
                               int64_t n, sala_act scale);

void sala_device_feed_down(sala_backend *be, const sala_linear_out *down, const sala_act *gate, const sala_act *up,
                           void *gate_slot, void *up_slot, int64_t n_rows, int64_t n_ff);
void sala_device_feed_back(sala_backend *be, const sala_feed_back_args *args);

/* Rows as products take them: sala_num in f32 runs, bf16 otherwise. */
typedef struct sala_operand {
    const void *rows;
    int64_t ld; /* elements */
} sala_operand;

enum { SALA_DENSE_PARTS = 4 }; /* outputs of a linear group */

/* One product over the rows of a call: y = x W^T + bias (OUT), dx (+)= sum over parts of dy W (BACK), dW += dy^T x
 * (GRAD). */
typedef struct sala_dense {
    sala_product_kind kind;
    int n_parts; /* BACK; otherwise 1 */
    const sala_weight *w[SALA_DENSE_PARTS];
    sala_operand a[SALA_DENSE_PARTS]; /* x (OUT), dy */
    sala_operand x;                   /* GRAD */
    sala_num *c;                      /* y, dx; GRAD: not used, the weight has its gradient */
    int64_t ldc;
    const sala_num *bias; /* OUT; may be NULL */
    bool add;             /* BACK */
} sala_dense;

/* Products whose results do not overlap: tiles of all of them, largest first, are shared out at once. */
void sala_device_products(sala_device *dev, const sala_dense *products, int n, int64_t n_rows);
/* In f32 runs x itself; in bf16 runs a rounded copy at `place`, with zeros up to a multiple of SALA_PRODUCT_ROWS rows.
 */
sala_operand sala_device_operand(sala_device *dev, uint8_t *place, const sala_act *x, int64_t ldx, int64_t n_rows,
                                 int64_t cols);
size_t sala_device_operand_bytes(sala_precision p, int64_t n_rows, int64_t cols); /* a multiple of 64; 0 in f32 runs */
/* Packs of bf16 runs, where they are older than the values. */
void sala_device_pack(sala_device *dev, const sala_weight *const *weights, int n, sala_product_kind kind);
int64_t sala_weight_rows(const sala_weight *w);
int64_t sala_weight_cols(const sala_weight *w);

/* ---- device_rows.c ---- */

uint64_t sala_rows_shared_bytes(const sala_backend_limits *l);
/* sum[j] += the column sums of x [n_rows][ldx]; takes the shared scratch. */
void sala_device_column_sums(sala_device *dev, sala_num *sum, const sala_num *x, int64_t ldx, int64_t n_rows,
                             int64_t n);
void sala_device_rms_norm(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *w, int64_t n_rows,
                          int64_t n, sala_act eps);
void sala_device_add_norm(sala_backend *be, sala_act *out, sala_act *x_out, const sala_act *x, const sala_act *y,
                          sala_act r, const sala_act *w, int64_t n_rows, int64_t n, sala_act eps);
void sala_device_scale(sala_backend *be, sala_act *x, sala_act s, int64_t n_rows, int64_t n);
void sala_device_swiglu(sala_backend *be, sala_act *out, const sala_act *gate, const sala_act *up, int64_t n_rows,
                        int64_t n);
void sala_device_sigmoid_gate(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *gate, int64_t n_rows,
                              int64_t n);
void sala_device_rope(sala_backend *be, sala_act *x, int64_t stride, int n_heads, int head_dim, int64_t n_rows,
                      const sala_rope_args *args);
void sala_device_rms_norm_back(sala_backend *be, sala_act *dx, sala_act *dw, const sala_act *dy, const sala_act *x,
                               const sala_act *w, int64_t n_rows, int64_t n, sala_act eps, bool add);
void sala_device_scale_to(sala_backend *be, sala_act *out, const sala_act *x, sala_act s, int64_t n_rows, int64_t n);
void sala_device_swiglu_back(sala_backend *be, sala_act *dgate, sala_act *dup, sala_act *mid, const sala_act *d_out,
                             const sala_act *gate, const sala_act *up, int64_t n_rows, int64_t n);
void sala_device_rope_back(sala_backend *be, sala_act *dx, sala_act *dnorm, const sala_act *raw, int64_t stride,
                           int n_heads, int head_dim, int64_t n_rows, const sala_rope_args *args);
void sala_device_sigmoid_gate_back(sala_backend *be, sala_act *dx, sala_act *dgate, const sala_act *dy,
                                   const sala_act *x, const sala_act *gate, int64_t n_rows, int64_t n);
void sala_device_keep(sala_backend *be, void *slot, const sala_act *x, int64_t n);
void sala_device_recall(sala_backend *be, sala_act *x, const void *slot, int64_t n);

/* ---- head.c ---- */

uint64_t sala_head_shared_bytes(const sala_backend_limits *l, sala_precision p);
void sala_device_head_loss(sala_backend *be, sala_head_args *args);

#endif
