/* The device border: everything the forward pass asks of a machine, as one table of functions. The CPU fills it here;
 * another device fills the same table elsewhere.
 *
 * Operations are as large as what one device call should do, take explicit shapes, and run in the order of the calls.
 * They never hand data back to the host: sala_backend_ops.download is the only way out, and it waits. Activations are
 * rows in the device's own type and memory (f32 on the CPU); the host treats sala_act pointers as opaque except for
 * adding whole elements to them.
 *
 * A weight is a handle: shape and logical type. How it lies in memory (as in the file, packed, on a device) is the
 * backend's business. */
#ifndef SALA_BACKEND_BACKEND_H
#define SALA_BACKEND_BACKEND_H

#include "base/base.h"
#include "os/os.h"
#include "tensor/dtype.h"
#include "tensor/num.h"

typedef sala_num sala_act;

typedef struct sala_backend sala_backend;
typedef struct sala_weight sala_weight;

/* One output of a linear group: out[t][r] = sum over c of W[r][c] x[t][c] (+ bias[r]). */
typedef struct sala_linear_out {
    const sala_weight *weight;
    sala_act *out;
    int64_t out_stride;   /* elements from one token's row to the next */
    const sala_act *bias; /* device memory, or NULL */
} sala_linear_out;

/* Where a linear-attention layer's states of one session lie (state/linear.h): pages of all layers, of which a layer
 * takes its part. A state is f32 [n_heads][d][d]; pending rows are f32 [n_kv_heads][k, v][SALA_LIGHTNING_CHUNK][d]. */
typedef struct sala_linear_seq {
    const void *state_in; /* at the start of the chunk that the rows begin in; NULL: zero */
    void *pending;        /* keys and values of that chunk; NULL when the rows begin and end at chunks' borders */
    void *pending_out;    /* of the chunk that they end in, maybe the same; NULL when they end at a border */
    int n_states;         /* states to be written on the way, at multiples of a chunk */
    const int64_t *positions;
    void *const *states;
} sala_linear_seq;

/* Rows of one session in a batch: consecutive rows at consecutive positions. */
typedef struct sala_attn_seq {
    int64_t first_row;
    int64_t n_rows;
    int64_t position;                  /* of the first row; row i sees the keys [0, position + i] */
    void *const *blocks;               /* block table: tokens 64 b .. 64 b + 63 lie in blocks[b] */
    void *const *fine, *const *coarse; /* pages of 64 compressed keys */
    int64_t sparse_from;               /* rows at or beyond this position select blocks; those before see everything */
    sala_linear_seq linear;
    /* Called before a block is read for the first time, from several threads; NULL: no block needs it. */
    void (*first_use)(void *user, int64_t block);
    void *user;
} sala_attn_seq;

/* Where one layer's keys and values lie inside a block: keys of all heads, then values (tensor/kv_block.h), then, with
 * sparse layers that score without rotation, the keys before rotation. */
typedef struct sala_kv_shape {
    sala_dtype dtype; /* F32, F16, Q8_0 or Q4_1 */
    int n_kv_heads, head_dim;
    size_t layer_offset; /* bytes from the block's start */
} sala_kv_shape;

/* Compressed keys of one layer. Fine row j is the mean of the keys [stride j, stride j + kernel), coarse rows are
 * `coarse` times as long and far apart. 64 rows to a page, component by component: [n_kv_heads][head_dim][64]. */
typedef struct sala_rows_shape {
    sala_dtype dtype; /* F32 or F16 */
    int kernel, stride, coarse;
    size_t layer_offset; /* bytes from the page's start */
} sala_rows_shape;

/* Which blocks a row attends to, per key head: int32 [n_rows][n_kv_heads][1 + most]: their number, then the blocks in
 * ascending order; a number of -1 stands for everything up to the row. */
typedef struct sala_selection {
    int32_t *list;  /* device memory */
    int most;       /* blocks of a row */
    int block_size; /* tokens */
} sala_selection;

typedef struct sala_select_args {
    const sala_attn_seq *seqs;
    int n_seqs;
    int64_t n_rows;
    sala_rows_shape rows;
    int n_heads, n_kv_heads, head_dim;
    sala_act scale;
    int init_blocks, window_blocks; /* always selected: the first ones, and those from the row's own backwards */
    const sala_act *q;              /* [n_rows][q_stride] */
    int64_t q_stride;
    sala_selection out;
} sala_select_args;

typedef struct sala_attn_args {
    const sala_attn_seq *seqs;
    int n_seqs;
    int64_t n_rows;
    sala_kv_shape kv;
    int n_heads;
    sala_act scale;
    int64_t window;                  /* a query sees at most this many last keys; 0: all */
    const sala_selection *selection; /* NULL: every row sees everything up to itself */
    const sala_act *q;               /* [n_rows][q_stride], heads side by side */
    int64_t q_stride;
    sala_act *out; /* [n_rows][out_stride] */
    int64_t out_stride;
    /* Keys and values of the batch's own rows, [n_rows][kv_stride], for devices that attend rows where they lie; those
     * that keep blocks leave them alone. */
    const sala_act *k, *v;
    int64_t kv_stride;
    sala_act *lse; /* [n_heads][n_rows]: logarithm of each row's sum of exponentials; NULL: not wanted */
} sala_attn_args;

typedef struct sala_lightning_args {
    const sala_attn_seq *seqs;
    int n_seqs;
    int64_t n_rows;
    int n_heads, n_kv_heads, head_dim;
    size_t state_offset, pending_offset; /* of the layer, in bytes from the start of a page */
    sala_act scale;
    const float *decay; /* host memory, [n_heads][SALA_LIGHTNING_CHUNK + 1]: exp(-slope * i) */
    const sala_act *q, *k, *v;
    int64_t q_stride, kv_stride;
    sala_act *out;
    int64_t out_stride;
    /* For a backward pass: the states before the chunks states_every, 2 states_every ... of each sequence, counted from
     * its first row, [n_heads][d][d] each, one behind the other in the order of rows; a sequence of n rows has
     * (n - 1) / (SALA_LIGHTNING_CHUNK * states_every) of them. The zero before its first chunk is none. NULL: not
     * wanted. */
    sala_act *states;
    int states_every;
} sala_lightning_args;

typedef struct sala_rope_args {
    const float *cos, *sin; /* host memory, [n_rows][n_rot / 2] */
    int n_rot;              /* 0: no rotation */
    bool half;
    const sala_act *norm; /* RMS norm of each head before the rotation, [head_dim], or NULL */
    sala_act eps;
    const float *row_scale; /* host memory, [n_rows]: multiplies the rows in the end; NULL: 1 */
    sala_act *kept;         /* [n_rows][kept_stride]: takes a copy of the heads as they came; NULL: not wanted */
    int64_t kept_stride;
} sala_rope_args;

/* The largest of everything that operations will be asked for. */
typedef struct sala_backend_limits {
    int64_t rows;   /* of a batch */
    int64_t cols;   /* of a matrix */
    int64_t tokens; /* of a session; more work, but more slowly */
    int n_heads, n_kv_heads, head_dim;
    int lightning_head_dim; /* 0: no lightning layer */
    int selected;           /* blocks of a row; 0: no sparse layer */
    /* Asked for by devices that train; others leave them alone. */
    int lightning_heads, lightning_kv_heads;
    int block_size, row_stride; /* of sparse layers: tokens of a block, distance of compressed keys; 0: 64, 16 */
    int64_t vocab;              /* rows of the head that losses come from; 0: none */
    int n_seqs;                 /* sequences of a batch; 0: as many as rows */
} sala_backend_limits;

typedef struct sala_backend_ops {
    const char *name;
    void (*close)(sala_backend *be);
    const char *(*describe)(const sala_backend *be); /* kernel family or device name */

    /* ---- memory ---- */
    void *(*alloc)(sala_backend *be, size_t bytes); /* device memory; NULL when it is out */
    void (*free)(sala_backend *be, void *p, size_t bytes);
    void (*upload)(sala_backend *be, void *dst, const void *src, size_t bytes);
    void (*download)(sala_backend *be, void *dst, const void *src, size_t bytes);
    /* Gets the memory that operations need beside their operands. Must come before the first operation. */
    sala_status (*reserve)(sala_backend *be, const sala_backend_limits *limits, sala_error *err);

    /* ---- weights ---- */
    /* data: mapped file memory that stays valid until weight_free. The backend may copy (pack) it and then drop the
     * file's pages. */
    sala_status (*weight_new)(sala_backend *be, sala_weight **out, sala_dtype dtype, int64_t rows, int64_t cols,
                              const void *data, sala_error *err);
    void (*weight_free)(sala_backend *be, sala_weight *w);
    uint64_t (*weight_bytes)(const sala_weight *w); /* memory beside the mapped file */
    /* out[i] = scale * row ids[i], as floats; ids in host memory, within the matrix. */
    void (*get_rows)(sala_backend *be, sala_act *out, const sala_weight *w, const int32_t *ids, int64_t n,
                     sala_act scale);
    /* Row r as plain f32 in host memory (export, calibration). */
    void (*export_row)(sala_backend *be, float *out, const sala_weight *w, int64_t row);

    /* ---- operations ---- */
    /* A hint: n numbers that an operation behind the next one will read, once, far from anything else. */
    void (*soon)(sala_backend *be, const sala_act *x, int64_t n);
    /* Several matrices on the same input x [n_rows][cols]. */
    void (*linear_group)(sala_backend *be, const sala_linear_out *outs, int n_outs, const sala_act *x, int64_t n_rows,
                         int64_t cols);
    void (*rms_norm)(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *w, int64_t n_rows, int64_t n,
                     sala_act eps);
    /* x_out = x + r * y, then out = rms_norm(x_out) * w. x_out may be x; out NULL: the sum alone. */
    void (*add_norm)(sala_backend *be, sala_act *out, sala_act *x_out, const sala_act *x, const sala_act *y, sala_act r,
                     const sala_act *w, int64_t n_rows, int64_t n, sala_act eps);
    void (*scale)(sala_backend *be, sala_act *x, sala_act s, int64_t n_rows, int64_t n);
    /* out = silu(gate) * up */
    void (*swiglu)(sala_backend *be, sala_act *out, const sala_act *gate, const sala_act *up, int64_t n_rows,
                   int64_t n);
    /* Heads of x [n_rows][stride]: normalised, then rotated, in place. */
    void (*rope)(sala_backend *be, sala_act *x, int64_t stride, int n_heads, int head_dim, int64_t n_rows,
                 const sala_rope_args *args);
    /* Puts k, v [n_rows][stride] into the blocks of their sessions (which must be there and be written by nobody else).
     */
    void (*kv_store)(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                     const sala_act *k, const sala_act *v, int64_t stride);
    /* The keys alone, as kv_store puts them, at kv->layer_offset. */
    void (*key_store)(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                      const sala_act *k, int64_t stride);
    void (*attention)(sala_backend *be, const sala_attn_args *args);
    /* Appends the compressed keys that the batch's rows complete: means of the keys as they are stored at
     * kv->layer_offset. */
    void (*compress)(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                     const sala_rows_shape *rows);
    /* Stage 1 of InfLLM-v2. */
    void (*select)(sala_backend *be, const sala_select_args *args);
    void (*lightning)(sala_backend *be, const sala_lightning_args *args);
    /* out = x * sigmoid(gate) */
    void (*sigmoid_gate)(sala_backend *be, sala_act *out, const sala_act *x, const sala_act *gate, int64_t n_rows,
                         int64_t n);
    /* out[i] = x[rows[i]]; rows in host memory. */
    void (*gather)(sala_backend *be, sala_act *out, const sala_act *x, const int32_t *rows, int64_t n_rows, int64_t n);
    /* False when some element of x is infinite or not a number. */
    bool (*all_finite)(sala_backend *be, const sala_act *x, int64_t n);
} sala_backend_ops;

struct sala_backend {
    const sala_backend_ops *ops;
};

/* kernels: as sala_model_params.kernels. n_threads: 0 for one per physical core. */
sala_status sala_backend_cpu_open(sala_backend **out, const char *kernels, int n_threads, bool no_pack,
                                  sala_error *err);
/* The same over a pool that the caller keeps and closes later. Weights are packed. */
sala_status sala_backend_cpu_open_on(sala_backend **out, const char *kernels, sala_pool *pool, sala_error *err);
int sala_backend_cpu_threads(const sala_backend *be);

#endif
