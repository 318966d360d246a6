/* Storing new keys and values in the blocks of their sessions. */
#include "backend/cpu/cpu.h"

typedef struct store_job {
    sala_cpu *cpu;
    const sala_attn_seq *seqs;
    const sala_kv_shape *kv;
    const sala_act *k, *v;
    int64_t stride;
} store_job;

/* Blocks that the rows of a sequence touch. */
static int64_t n_runs(const sala_attn_seq *seq)
{
    return (seq->position + seq->n_rows - 1) / SALA_KV_BLOCK - seq->position / SALA_KV_BLOCK + 1;
}

/* One head's keys and values of the rows of one sequence that fall into one block. */
static void store_task(void *user, int task, int worker)
{
    (void)worker;
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
    const size_t head_bytes = sala_kv_head_bytes(kv->dtype, d);
    uint8_t *k = (uint8_t *)seq->blocks[block] + kv->layer_offset + (size_t)head * head_bytes;
    uint8_t *v = k + (size_t)kv->n_kv_heads * head_bytes;
    const int64_t at = first * job->stride + (int64_t)head * d;
    sala_kv_kernels_of(&job->cpu->k, kv->dtype)
        ->store(k, v, (int)slot, (int)(to - from), job->k + at, job->v + at, job->stride, d);
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
    /* A few rows are stored sooner than a thread wakes up. */
    for (int task = 0; task < (int)n_tasks; task++)
        store_task(&job, task, 0);
}
