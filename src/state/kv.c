#include "state/kv.h"

#include "os/os.h"

#include <stdatomic.h>
#include <stdlib.h>

/* Header behind the payload's end would move with the layout; it stands in front, one cache line. */
enum { HEADER = 64 };

static _Atomic int *refs_of(void *block)
{
    return (_Atomic int *)(void *)((uint8_t *)block - HEADER);
}

static void *block_new(const sala_kv_layout *layout)
{
    uint8_t *p = sala_os_pages_alloc(layout->block_bytes + HEADER);
    if (!p)
        return NULL;
    atomic_store(refs_of(p + HEADER), 1);
    return p + HEADER;
}

static void block_release(void *block, const sala_kv_layout *layout)
{
    if (atomic_fetch_sub(refs_of(block), 1) == 1)
        sala_os_pages_free((uint8_t *)block - HEADER, layout->block_bytes + HEADER);
}

sala_status sala_kv_layout_init(sala_kv_layout *out, sala_dtype dtype, int n_layers, int n_kv_heads, int head_dim,
                                sala_error *err)
{
    if (dtype != SALA_F32 && dtype != SALA_F16)
        return sala_fail(err, SALA_E_UNSUPPORTED, "a key/value cache of type %s; it can be f32 or f16",
                         sala_dtype_name(dtype));
    uint64_t head, bytes;
    if (!sala_mul_size(&head, (uint64_t)head_dim * SALA_KV_BLOCK_TOKENS, dtype == SALA_F16 ? 2 : 4) ||
        !sala_mul_size(&bytes, head * 2, (uint64_t)n_kv_heads) || bytes > SIZE_MAX / 4096 ||
        !sala_mul_size(&head, bytes, (uint64_t)n_layers) || head > SIZE_MAX / 4096)
        return sala_fail(err, SALA_E_LIMIT, "the key/value cache of one block is larger than memory");
    *out = (sala_kv_layout){dtype, n_layers, n_kv_heads, head_dim, (size_t)bytes, (size_t)head};
    return SALA_OK;
}

uint64_t sala_kv_bytes_at(const sala_kv_layout *layout, int64_t n_tokens)
{
    uint64_t bytes;
    const uint64_t blocks = ((uint64_t)n_tokens + SALA_KV_BLOCK_TOKENS - 1) / SALA_KV_BLOCK_TOKENS;
    return sala_mul_size(&bytes, blocks, layout->block_bytes + HEADER) ? bytes : UINT64_MAX;
}

void sala_kv_init(sala_kv *kv, const sala_kv_layout *layout)
{
    *kv = (sala_kv){.layout = *layout};
}

static void drop_blocks(sala_kv *kv, int64_t n_keep)
{
    while (kv->n_blocks > n_keep)
        block_release(kv->blocks[--kv->n_blocks], &kv->layout);
}

void sala_kv_free(sala_kv *kv)
{
    drop_blocks(kv, 0);
    free(kv->blocks);
    kv->blocks = NULL;
    kv->cap_blocks = 0;
    kv->length = 0;
}

uint64_t sala_kv_bytes(const sala_kv *kv)
{
    return (uint64_t)kv->n_blocks * (kv->layout.block_bytes + HEADER);
}

static bool reserve_table(sala_kv *kv, int64_t n)
{
    if (n <= kv->cap_blocks)
        return true;
    const int64_t cap = sala_max_i64(n, 2 * kv->cap_blocks);
    void **more = realloc(kv->blocks, (size_t)cap * sizeof *more);
    if (!more)
        return false;
    kv->blocks = more;
    kv->cap_blocks = cap;
    return true;
}

sala_status sala_kv_prepare(sala_kv *kv, int64_t n, sala_error *err)
{
    const int64_t need = (kv->length + n + SALA_KV_BLOCK_TOKENS - 1) / SALA_KV_BLOCK_TOKENS;
    if (!reserve_table(kv, need))
        return sala_fail_memory(err, (uint64_t)need * sizeof *kv->blocks);
    const int64_t first = kv->length / SALA_KV_BLOCK_TOKENS;
    if (n > 0 && first < kv->n_blocks && atomic_load(refs_of(kv->blocks[first])) > 1) {
        /* A fork holds this block too: write into a copy. Blocks behind it hold nothing that is committed. */
        void *copy = block_new(&kv->layout);
        if (!copy)
            return sala_fail_memory(err, kv->layout.block_bytes);
        memcpy(copy, kv->blocks[first], kv->layout.block_bytes);
        block_release(kv->blocks[first], &kv->layout);
        kv->blocks[first] = copy;
    }
    const int64_t before = kv->n_blocks;
    while (kv->n_blocks < need) {
        void *block = block_new(&kv->layout);
        if (!block) {
            drop_blocks(kv, before);
            return sala_fail_memory(err, (uint64_t)(need - before) * kv->layout.block_bytes);
        }
        kv->blocks[kv->n_blocks++] = block;
    }
    return SALA_OK;
}

void sala_kv_commit(sala_kv *kv, int64_t n)
{
    kv->length += n;
}

void sala_kv_rollback(sala_kv *kv, int64_t n_keep)
{
    kv->length = n_keep;
    drop_blocks(kv, (n_keep + SALA_KV_BLOCK_TOKENS - 1) / SALA_KV_BLOCK_TOKENS);
}

sala_status sala_kv_fork(sala_kv *out, const sala_kv *kv, sala_error *err)
{
    sala_kv copy = {.layout = kv->layout, .length = kv->length};
    const int64_t n = (kv->length + SALA_KV_BLOCK_TOKENS - 1) / SALA_KV_BLOCK_TOKENS;
    if (!reserve_table(&copy, n))
        return sala_fail_memory(err, (uint64_t)n * sizeof *copy.blocks);
    for (int64_t i = 0; i < n; i++) {
        copy.blocks[i] = kv->blocks[i];
        atomic_fetch_add(refs_of(copy.blocks[i]), 1);
    }
    copy.n_blocks = n;
    *out = copy;
    return SALA_OK;
}
