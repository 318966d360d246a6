#include "state/state.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>

sala_status sala_state_layout_finish(sala_state_layout *l, sala_error *err)
{
    if (l->n_attn > 0 && !sala_kv_dtype_ok(l->dtype))
        return sala_fail(err, SALA_E_UNSUPPORTED, "a key/value cache of type %s; it can be f32, f16, q8_0 or q4",
                         sala_dtype_name(l->dtype));
    l->row_dtype = l->dtype == SALA_F32 ? SALA_F32 : SALA_F16;
    l->head_bytes = sala_kv_head_bytes(l->dtype, l->head_dim);
    uint64_t attn, rows, all;
    if (!sala_mul_size(&attn, l->head_bytes * (l->raw_keys ? 3 : 2), (uint64_t)l->n_kv_heads) ||
        !sala_mul_size(&rows, (uint64_t)l->head_dim * SALA_KV_BLOCK * (l->row_dtype == SALA_F32 ? 4 : 2),
                       (uint64_t)l->n_kv_heads) ||
        !sala_mul_size(&all, attn + rows, (uint64_t)l->n_attn) || all > SIZE_MAX / 4096)
        return sala_fail(err, SALA_E_LIMIT, "the key/value cache of one block is larger than memory");
    l->attn_layer_bytes = (size_t)attn;
    l->row_layer_bytes = (size_t)rows;
    return SALA_OK;
}

int64_t sala_state_rows(const sala_state_layout *l, int64_t n_tokens, bool coarse)
{
    if (l->n_sparse == 0)
        return 0;
    const int64_t factor = coarse ? l->coarse : 1, kernel = l->kernel * factor, stride = l->stride * factor;
    return n_tokens < kernel ? 0 : (n_tokens - kernel) / stride + 1;
}

static uint64_t pages_bytes(size_t page_bytes, int64_t n_items)
{
    uint64_t bytes;
    return sala_mul_size(&bytes, (uint64_t)sala_pages_for(n_items), page_bytes) ? bytes : UINT64_MAX / 4;
}

sala_state_cost sala_state_cost_at(const sala_state_layout *l, int64_t n)
{
    const size_t row_page = sala_state_row_page_bytes(l);
    return (sala_state_cost){.keys_values = pages_bytes(sala_state_block_bytes(l), n),
                             .rows = pages_bytes(row_page, sala_state_rows(l, n, false)) +
                                     pages_bytes(row_page, sala_state_rows(l, n, true)),
                             .linear = sala_linear_bytes_at(&l->linear, n)};
}

uint64_t sala_state_bytes_at(const sala_state_layout *l, int64_t n)
{
    const sala_state_cost c = sala_state_cost_at(l, n);
    return c.keys_values + c.rows + c.linear;
}

void sala_state_init(sala_state *s, const sala_state_layout *layout)
{
    *s = (sala_state){.layout = *layout};
    sala_pages_init(&s->blocks, sala_state_block_bytes(layout));
    sala_pages_init(&s->fine, sala_state_row_page_bytes(layout));
    sala_pages_init(&s->coarse, sala_state_row_page_bytes(layout));
    sala_linear_init(&s->linear, &layout->linear);
}

void sala_state_free(sala_state *s)
{
    sala_pages_free(&s->blocks);
    sala_pages_free(&s->fine);
    sala_pages_free(&s->coarse);
    sala_linear_free(&s->linear);
    s->length = 0;
}

uint64_t sala_state_bytes(const sala_state *s)
{
    return (uint64_t)s->blocks.n_pages * s->blocks.page_bytes + (uint64_t)s->fine.n_pages * s->fine.page_bytes +
           (uint64_t)s->coarse.n_pages * s->coarse.page_bytes + sala_linear_bytes(&s->linear);
}

/* Gives back the pages behind `length`. */
static void trim(sala_state *s)
{
    sala_pages_truncate(&s->blocks, s->length);
    sala_pages_truncate(&s->fine, sala_state_rows(&s->layout, s->length, false));
    sala_pages_truncate(&s->coarse, sala_state_rows(&s->layout, s->length, true));
}

sala_status sala_state_prepare(sala_state *s, int64_t n, sala_error *err)
{
    const sala_state_layout *l = &s->layout;
    const int64_t from = s->length, to = from + n;
    sala_status st = sala_pages_prepare(&s->blocks, from, to, err);
    if (st == SALA_OK)
        st = sala_pages_prepare(&s->fine, sala_state_rows(l, from, false), sala_state_rows(l, to, false), err);
    if (st == SALA_OK)
        st = sala_pages_prepare(&s->coarse, sala_state_rows(l, from, true), sala_state_rows(l, to, true), err);
    if (st != SALA_OK)
        trim(s);
    return st;
}

void sala_state_commit(sala_state *s, int64_t n, sala_linear_run *linear)
{
    if (linear)
        sala_linear_end(linear, n > 0);
    s->length += n;
    trim(s);
}

int64_t sala_state_rollback_target(const sala_state *s, int64_t n_keep)
{
    const sala_linear *lin = &s->linear;
    if (s->layout.linear.n_layers == 0 || n_keep >= lin->length / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK)
        return n_keep;
    for (int i = lin->n_marks - 1; i >= 0; i--)
        if (lin->marks[i].position <= n_keep)
            return lin->marks[i].position;
    return 0;
}

int64_t sala_state_rollback(sala_state *s, int64_t n_keep)
{
    s->length = s->layout.linear.n_layers ? sala_linear_rollback(&s->linear, n_keep) : n_keep;
    trim(s);
    return s->length;
}

sala_status sala_state_fork(sala_state *out, const sala_state *s, sala_error *err)
{
    sala_state copy;
    sala_state_init(&copy, &s->layout);
    const sala_state_layout *l = &s->layout;
    sala_status st = sala_pages_fork(&copy.blocks, &s->blocks, l->n_attn ? s->length : 0, err);
    if (st == SALA_OK)
        st = sala_pages_fork(&copy.fine, &s->fine, sala_state_rows(l, s->length, false), err);
    if (st == SALA_OK)
        st = sala_pages_fork(&copy.coarse, &s->coarse, sala_state_rows(l, s->length, true), err);
    if (st == SALA_OK)
        st = sala_linear_fork(&copy.linear, &s->linear, err);
    if (st != SALA_OK) {
        sala_state_free(&copy);
        return st;
    }
    copy.length = s->length;
    *out = copy;
    return SALA_OK;
}

/* ---- content for measuring ---- */

enum {
    POOL = 32
}; /* different stretches of 64 keys and values; compressed keys are all different, so that few scores tie */

typedef struct filler {
    sala_rng rng;
    sala_kernels k;
    uint8_t *pool; /* [POOL] keys of a head, then values of a head */
    float *rows;   /* [64][head_dim] */
} filler;

static void normals(sala_rng *rng, float *out, size_t n, double deviation)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(deviation * sala_rng_normal(rng));
}

static void fill_block(filler *f, const sala_state_layout *l, uint8_t *block)
{
    const size_t heads = (size_t)l->n_attn * (size_t)l->n_kv_heads * (l->raw_keys ? 3 : 2);
    for (size_t h = 0; h < heads; h++) {
        const size_t kind = h / (size_t)l->n_kv_heads % (l->raw_keys ? 3 : 2) == 1;
        const size_t pick = sala_rng_next(&f->rng) % POOL;
        memcpy(block + h * l->head_bytes, f->pool + (2 * pick + kind) * l->head_bytes, l->head_bytes);
    }
}

static void fill_rows(filler *f, const sala_state_layout *l, uint8_t *page)
{
    const size_t n = (size_t)l->head_dim * SALA_KV_BLOCK, heads = (size_t)l->n_sparse * (size_t)l->n_kv_heads;
    const double deviation = 1 / sqrt((double)l->kernel);
    for (size_t h = 0; h < heads; h++) {
        normals(&f->rng, f->rows, n, deviation);
        if (l->row_dtype == SALA_F16)
            f->k.f32_to_f16((uint16_t *)(void *)page + h * n, f->rows, (int64_t)n);
        else
            memcpy(page + h * n * sizeof(float), f->rows, n * sizeof(float));
    }
}

static sala_status fill_linear(filler *f, sala_linear *s, int64_t n, sala_error *err)
{
    const sala_linear_layout *l = &s->layout;
    const size_t state = l->state_bytes * (size_t)l->n_layers, pending = l->pending_bytes * (size_t)l->n_layers;
    if (l->n_layers == 0)
        return SALA_OK;
    s->state = n >= SALA_LINEAR_CHUNK ? sala_page_new(state) : NULL;
    s->pending = sala_page_new(pending);
    if ((n >= SALA_LINEAR_CHUNK && !s->state) || !s->pending)
        return sala_fail_memory(err, state + pending);
    if (s->state)
        normals(&f->rng, sala_page_data(s->state), state / sizeof(float), 2);
    normals(&f->rng, sala_page_data(s->pending), pending / sizeof(float), 1);
    s->length = n;
    return SALA_OK;
}

sala_status sala_state_fill(sala_state *s, int64_t n, uint64_t seed, sala_error *err)
{
    const sala_state_layout *l = &s->layout;
    if (s->length > 0)
        return sala_fail(err, SALA_E_STATE, "only an empty session can be filled; this one holds %lld tokens",
                         (long long)s->length);
    filler f;
    sala_rng_seed(&f.rng, seed);
    sala_kernels_get(&f.k, "ref", 0);
    const size_t d = (size_t)(l->head_dim > 0 ? l->head_dim : 1), values = SALA_KV_BLOCK * d;
    f.pool = malloc(2 * POOL * l->head_bytes + 1);
    f.rows = malloc(2 * values * sizeof *f.rows);
    sala_status st = f.pool && f.rows ? sala_state_prepare(s, n, err) : sala_fail_memory(err, 2 * POOL * l->head_bytes);
    for (size_t i = 0; i < POOL && st == SALA_OK && l->n_attn; i++) {
        normals(&f.rng, f.rows, 2 * values, 1);
        sala_kv_kernels_of(&f.k, l->dtype)
            ->store(f.pool + 2 * i * l->head_bytes, f.pool + (2 * i + 1) * l->head_bytes, 0, SALA_KV_BLOCK, f.rows,
                    f.rows + values, l->head_dim, l->head_dim);
    }
    for (int64_t i = 0; i < s->blocks.n_pages && st == SALA_OK; i++)
        fill_block(&f, l, s->blocks.data[i]);
    for (int64_t i = 0; i < s->fine.n_pages && st == SALA_OK; i++)
        fill_rows(&f, l, s->fine.data[i]);
    for (int64_t i = 0; i < s->coarse.n_pages && st == SALA_OK; i++)
        fill_rows(&f, l, s->coarse.data[i]);
    if (st == SALA_OK)
        st = fill_linear(&f, &s->linear, n, err);
    if (st == SALA_OK)
        s->length = n;
    else
        sala_state_free(s);
    free(f.pool);
    free(f.rows);
    return st;
}
