/* The CPU backend's choice of blocks over memory of its own. It is the one file of this folder that the double build
 * compiles as it is: what lies behind it is f32. */
#undef SALA_TRAIN_F64

#include "grad/selector.h"

#include "tensor/kv_block.h"

#include <assert.h>
#include <stdlib.h>

enum { PAGE = SALA_KV_BLOCK };

struct sala_selector {
    sala_backend *cpu;
    uint8_t *memory;
    size_t memory_bytes;
    void **pointers; /* tables of blocks, fine and coarse pages */
    int64_t n_pointers;
    sala_attn_seq *seqs; /* of a run: those that select */
    int most_seqs;
};

/* A sequence that selects has more blocks than it may see, so that there are few of them. */
static int64_t most_seqs(const sala_backend_limits *l)
{
    const int64_t block = l->block_size ? l->block_size : 64;
    return sala_min_i64(l->n_seqs ? l->n_seqs : l->rows, l->rows / sala_max_i64(1, block * l->selected) + 1);
}

/* Blocks of keys, pages of fine and of coarse rows; the last of each kind and sequence need not be full. */
static int64_t most_pages(const sala_backend_limits *l)
{
    const int64_t stride = l->row_stride ? l->row_stride : 16;
    return l->rows / SALA_KV_BLOCK + 2 * (l->rows / stride / PAGE) + 3 * most_seqs(l);
}

static size_t page_bytes(int n_kv_heads, int head_dim)
{
    return (size_t)n_kv_heads * (size_t)head_dim * PAGE * sizeof(float);
}

uint64_t sala_selector_bytes(const sala_backend_limits *l)
{
    return (uint64_t)most_pages(l) * page_bytes(l->n_kv_heads, l->head_dim);
}

sala_status sala_selector_open(sala_selector **out, const char *kernels, sala_pool *pool, const sala_backend_limits *l,
                               sala_error *err)
{
    sala_selector *s = calloc(1, sizeof *s);
    if (!s)
        return sala_fail_memory(err, sizeof *s);
    s->most_seqs = (int)most_seqs(l);
    s->n_pointers = most_pages(l);
    s->memory_bytes = (size_t)sala_selector_bytes(l);
    s->pointers = calloc((size_t)s->n_pointers, sizeof *s->pointers);
    s->seqs = calloc((size_t)s->most_seqs, sizeof *s->seqs);
    s->memory = sala_os_pages_alloc(s->memory_bytes);
    if (!s->pointers || !s->seqs || !s->memory) {
        sala_selector_close(s);
        return sala_fail_memory(err, sala_selector_bytes(l));
    }
    sala_status st = sala_backend_cpu_open_on(&s->cpu, kernels, pool, err);
    if (st == SALA_OK) {
        const sala_backend_limits limits = {.rows = 1,
                                            .cols = 1,
                                            .tokens = l->rows,
                                            .n_heads = l->n_heads,
                                            .n_kv_heads = l->n_kv_heads,
                                            .head_dim = l->head_dim,
                                            .selected = l->selected};
        st = s->cpu->ops->reserve(s->cpu, &limits, err);
    }
    if (st != SALA_OK) {
        sala_selector_close(s);
        return st;
    }
    *out = s;
    return SALA_OK;
}

void sala_selector_close(sala_selector *s)
{
    if (!s)
        return;
    if (s->cpu)
        s->cpu->ops->close(s->cpu);
    if (s->memory)
        sala_os_pages_free(s->memory, s->memory_bytes);
    free(s->pointers);
    free(s->seqs);
    free(s);
}

/* Compressed keys of n tokens. */
static int64_t row_count(const sala_rows_shape *r, int64_t n, int64_t times)
{
    const int64_t kernel = r->kernel * times, stride = r->stride * times;
    return n < kernel ? 0 : (n - kernel) / stride + 1;
}

static void *const *take(sala_selector *s, const sala_selector_args *a, int64_t *at, int64_t n)
{
    assert(*at + n <= s->n_pointers);
    const size_t bytes = page_bytes(a->n_kv_heads, a->head_dim);
    void **first = s->pointers + *at;
    for (int64_t i = 0; i < n; i++, ++*at)
        s->pointers[*at] = s->memory + (size_t)*at * bytes;
    return first;
}

void sala_selector_run(sala_selector *s, const sala_selector_args *a)
{
    const sala_kv_shape kv = {SALA_F32, a->n_kv_heads, a->head_dim, 0};
    const sala_rows_shape rows = {SALA_F32, a->rows.kernel, a->rows.stride, a->rows.coarse, 0};
    const int64_t list = 1 + (int64_t)a->out.most;
    int n_seqs = 0;
    int64_t at = 0;
    for (int i = 0; i < a->n_seqs; i++) {
        const sala_attn_seq *from = &a->seqs[i];
        const int64_t n = from->n_rows;
        if (!sala_selects(&a->out, from)) {
            for (int64_t r = from->first_row * a->n_kv_heads; r < (from->first_row + n) * a->n_kv_heads; r++)
                a->out.list[r * list] = -1;
            continue;
        }
        assert(n_seqs < s->most_seqs && from->position == 0);
        sala_attn_seq *to = &s->seqs[n_seqs++];
        *to = (sala_attn_seq){.first_row = from->first_row, .n_rows = n, .sparse_from = from->sparse_from};
        to->blocks = take(s, a, &at, (n + SALA_KV_BLOCK - 1) / SALA_KV_BLOCK);
        to->fine = take(s, a, &at, (row_count(&rows, n, 1) + PAGE - 1) / PAGE);
        to->coarse = take(s, a, &at, (row_count(&rows, n, rows.coarse) + PAGE - 1) / PAGE);
    }
    if (n_seqs == 0)
        return;
    const sala_select_args select = {.seqs = s->seqs,
                                     .n_seqs = n_seqs,
                                     .n_rows = a->n_rows,
                                     .rows = rows,
                                     .n_heads = a->n_heads,
                                     .n_kv_heads = a->n_kv_heads,
                                     .head_dim = a->head_dim,
                                     .scale = a->scale,
                                     .init_blocks = a->init_blocks,
                                     .window_blocks = a->window_blocks,
                                     .q = a->q,
                                     .q_stride = a->q_stride,
                                     .out = a->out};
    s->cpu->ops->key_store(s->cpu, s->seqs, n_seqs, &kv, a->k, a->k_stride);
    s->cpu->ops->compress(s->cpu, s->seqs, n_seqs, &kv, &rows);
    s->cpu->ops->select(s->cpu, &select);
}
