/* Storing new keys and values in the blocks of their sessions. */
#include "backend/cpu/cpu.h"

typedef struct store_job {
    sala_cpu *cpu;
    const sala_attn_seq *seqs;
    const sala_kv_shape *kv;
    const sala_act *k, *v;
    int64_t stride;
} store_job;

static size_t element_bytes(sala_dtype t)
{
    return t == SALA_F16 ? 2 : 4;
}

/* Blocks that the rows of a sequence touch. */
static int64_t n_runs(const sala_attn_seq *seq)
{
    return (seq->position + seq->n_rows - 1) / SALA_KV_BLOCK - seq->position / SALA_KV_BLOCK + 1;
}

static void convert(const store_job *job, void *dst, const sala_act *x)
{
    const int d = job->kv->head_dim;
    if (job->kv->dtype == SALA_F16)
        job->cpu->k.f32_to_f16(dst, x, d);
    else
        memcpy(dst, x, (size_t)d * sizeof(float));
}

/* k[c][slot + r] = rows[r][c]: components stand apart by a block of tokens. */
static void scatter_keys(uint8_t *k, const uint8_t *rows, int64_t slot, int64_t n, int d, sala_dtype dtype)
{
    if (dtype == SALA_F16) {
        uint16_t *to = (uint16_t *)(void *)k + slot;
        const uint16_t *from = (const uint16_t *)(const void *)rows;
        for (int c = 0; c < d; c++)
            for (int64_t r = 0; r < n; r++)
                to[c * SALA_KV_BLOCK + r] = from[r * d + c];
    } else {
        float *to = (float *)(void *)k + slot;
        const float *from = (const float *)(const void *)rows;
        for (int c = 0; c < d; c++)
            for (int64_t r = 0; r < n; r++)
                to[c * SALA_KV_BLOCK + r] = from[r * d + c];
    }
}

/* One head's keys and values of the rows of one sequence that fall into one block. */
static void store_task(void *user, int task, int worker)
{
    const store_job *job = user;
    const sala_kv_shape *kv = job->kv;
    const int head = task % kv->n_kv_heads, d = kv->head_dim;
    int64_t run = task / kv->n_kv_heads;
    const sala_attn_seq *seq = job->seqs;
    while (run >= n_runs(seq))
        run -= n_runs(seq++);
    const int64_t block = seq->position / SALA_KV_BLOCK + run;
    const int64_t from = sala_max_i64(block * SALA_KV_BLOCK, seq->position);
    const int64_t to = sala_min_i64((block + 1) * SALA_KV_BLOCK, seq->position + seq->n_rows);
    const int64_t slot = from % SALA_KV_BLOCK, first = seq->first_row + from - seq->position;
    const size_t row_bytes = (size_t)d * element_bytes(kv->dtype), head_bytes = SALA_KV_BLOCK * row_bytes;
    uint8_t *k = (uint8_t *)seq->blocks[block] + kv->layer_offset + (size_t)head * head_bytes;
    uint8_t *v = k + (size_t)kv->n_kv_heads * head_bytes + (size_t)slot * row_bytes;
    uint8_t *rows = (uint8_t *)(job->cpu->worker + (size_t)worker * job->cpu->worker_floats);
    for (int64_t i = 0; i < to - from; i++) {
        const int64_t at = (first + i) * job->stride + (int64_t)head * d;
        convert(job, rows + (size_t)i * row_bytes, job->k + at);
        convert(job, v + (size_t)i * row_bytes, job->v + at);
    }
    scatter_keys(k, rows, slot, to - from, d, kv->dtype);
}

void sala_cpu_kv_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                       const sala_act *k, const sala_act *v, int64_t stride)
{
    sala_cpu *cpu = sala_cpu_of(be);
    store_job job = {cpu, seqs, kv, k, v, stride};
    int64_t n_tasks = 0, n_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        n_tasks += n_runs(&seqs[s]) * kv->n_kv_heads;
        n_rows += seqs[s].n_rows;
    }
    if (n_rows >= 16) {
        sala_pool_run(cpu->pool, (int)n_tasks, store_task, &job);
        return;
    }
    /* A few rows are stored sooner than a thread wakes up; the scratch of worker 0 is free between two runs. */
    for (int task = 0; task < (int)n_tasks; task++)
        store_task(&job, task, 0);
}
