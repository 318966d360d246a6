/* What the cores of mixers share: scratch that is laid out twice, once to know its size, and the operands of tile
 * products in either precision. */
#ifndef SALA_GRAD_ATTENTION_IMPL_H
#define SALA_GRAD_ATTENTION_IMPL_H

#include "grad/device_impl.h"
#include "grad/selector.h"

enum {
    TILE = SALA_TILE,
    /* Tasks that a backward pass is cut into where its heads and sequences are fewer. With more threads than
     * SALA_SPAN_THREADS there are as many tasks as threads. */
    SALA_SPAN_TASKS = 8,
    SALA_SPAN_THREADS = 16,
};

/* Takes memory piece by piece; without a base it only counts. */
typedef struct sala_carve {
    uint8_t *base;
    size_t used;
} sala_carve;

static inline void *sala_carve_take(sala_carve *c, size_t bytes)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += sala_align64(bytes);
    return p;
}

static inline sala_num *sala_carve_nums(sala_carve *c, int64_t n)
{
    return sala_carve_take(c, (size_t)n * sizeof(sala_num));
}

/* n numbers of 16 bits, or NULL in f32 runs. */
static inline uint16_t *sala_carve_bf16(sala_carve *c, sala_precision p, int64_t n)
{
    return p == SALA_PRECISION_BF16 ? sala_carve_take(c, (size_t)n * sizeof(uint16_t)) : NULL;
}

static inline int sala_even(int n)
{
    return (n + 1) / 2 * 2;
}

static inline int64_t sala_tiles(int64_t rows)
{
    return (rows + TILE - 1) / TILE;
}

/* Asks for rows of a head that are wanted soon: they lie too far apart for the machine to foresee. */
static inline void sala_rows_soon(const sala_num *x, int64_t ldx, int n, int cols)
{
    enum { LINE = 64 / sizeof(sala_num) };
    for (int i = 0; i < n; i++)
        for (int c = 0; c < cols; c += LINE)
            __builtin_prefetch(x + i * ldx + c);
}

/* How many spans of rows each sequence and key head is cut into, of n sequences times key heads. */
static inline int sala_span_count(int64_t n, int n_workers)
{
    const int64_t tasks = n_workers > SALA_SPAN_THREADS ? n_workers : SALA_SPAN_TASKS;
    return n >= tasks ? 1 : (int)((tasks + n - 1) / n);
}

/* Where span k of s begins, in tiles of n: equal shares of what a causal mask leaves, or, where rows select, of rows.
 */
int64_t sala_span_begin(int64_t n_tiles, int k, int s, bool sparse);
/* Bytes that hold gradients of keys and values for all spans of a batch of these limits. */
uint64_t sala_span_bytes(const sala_backend_limits *l, int n_workers);

static inline bool sala_attention_selects(const sala_attn_args *a, const sala_attn_seq *seq)
{
    return sala_selects(a->selection, seq);
}

/* ---- the backward pass of a tile of queries and a tile of keys ---- */

/* Scratch of one worker. `stretch`: a number of tiles of keys. */
typedef struct sala_back_space {
    sala_num *k, *v, *dk, *dv; /* of a stretch, [keys][head_dim] */
    sala_num *q, *d_out;       /* [queries][head_dim] */
    sala_num *lse, *delta;     /* log-sums and <d_out, out> of the queries */
    sala_num *qt, *d_out_t, *dq, *st, *dpt;
    int32_t *visible, *first;
    uint16_t *k_rows, *v_rows, *k_pairs; /* of a stretch */
    uint16_t *qt_pairs, *d_out_t_pairs, *q_pairs, *d_out_pairs, *p_rows, *ds_rows, *rows;
} sala_back_space;

/* What does not change inside a task. */
typedef struct sala_back_shape {
    const sala_train_kernels *k;
    bool half; /* bf16 products */
    int head_dim;
    sala_num scale;
} sala_back_shape;

void sala_back_layout(sala_back_space *w, sala_carve *c, int head_dim, sala_precision p, int stretch);
/* n rows of keys and values become tile `at` of the stretch. */
void sala_back_keys(const sala_back_shape *s, const sala_back_space *w, int at, const sala_num *k, const sala_num *v,
                    int64_t stride, int n);
/* Makes of w->q and w->d_out, m rows each, what products want; w->dq is lost. */
void sala_back_queries(const sala_back_shape *s, const sala_back_space *w, int m);
/* dk, dv [n][head_dim] and w->dq [m][head_dim] += what tile `at` of the keys and the queries contribute; w->lse, delta
 * and visible are set. */
void sala_back_tile(const sala_back_shape *s, const sala_back_space *w, sala_num *dk, sala_num *dv, int at, int n,
                    int m, const int32_t *first);

/* ---- spans of rows ---- */

/* A backward pass over keys of one head: gradients of spans, and how they become dk and dv. */
typedef struct sala_spans {
    const sala_device *dev;
    const sala_attn_back_args *b;
    bool sparse; /* of the sequences that select, or of the others */
    int n_spans; /* of each sequence and key head */
    int64_t n_tasks;
    int64_t window; /* 0: all */
} sala_spans;

/* One of its tasks. */
typedef struct sala_span {
    const sala_attn_seq *seq;
    int kv_head, index;
    int64_t tile0, tile1; /* its rows, in tiles */
    int64_t key_tile0;    /* keys [64 key_tile0, end of tile1) */
    sala_num *dk, *dv;    /* [rows of the sequence][head_dim], the span's own; NULL: there is one span */
} sala_span;

sala_spans sala_spans_of(const sala_device *dev, const sala_attn_back_args *b, bool sparse);
sala_span sala_span_find(const sala_spans *s, int64_t task);
/* First tile of keys that some row of the tile sees. */
int64_t sala_window_tile(int64_t tile, int64_t window);
/* dk and dv of all sequences of `s` from their spans, in the order of spans. */
void sala_spans_add_up(const sala_spans *s);

#endif
