/* Lightning attention over a batch: heads are independent, a head walks through its chunks in order.
 *
 * New keys and values join the pending ones of the chunk that the rows begin in; whole chunks after it are read where
 * the layer left them, and what is left over at the end becomes the pending rows of the next chunk. A row's result
 * depends on the state at the start of its chunk and on the rows of the chunk up to itself, wherever they came from. */
#include "backend/cpu/cpu.h"

#include <assert.h>

enum { CHUNK = SALA_LIGHTNING_CHUNK };

typedef struct lightning_job {
    sala_cpu *cpu;
    const sala_lightning_args *a;
} lightning_job;

/* Scratch of one worker: a running state and the kernels'. */
size_t sala_cpu_lightning_worker_floats(int head_dim)
{
    const size_t d = (size_t)head_dim;
    return head_dim ? (d * d + SALA_LIGHTNING_SCRATCH(head_dim) + 15) / 16 * 16 : 0;
}

static size_t state_floats(const sala_lightning_args *a)
{
    return (size_t)a->head_dim * (size_t)a->head_dim;
}

/* Pending keys of a head; its values lie CHUNK * head_dim floats behind. */
static float *pending_keys(const sala_lightning_args *a, void *pending, int kv_head)
{
    return (float *)(void *)((uint8_t *)pending + a->pending_offset) +
           (size_t)kv_head * 2 * CHUNK * (size_t)a->head_dim;
}

/* Rows [i0, i1) of the sequence become pending rows of their chunk. */
static void keep(const sala_lightning_args *a, const sala_attn_seq *seq, void *pending, int kv_head, int64_t i0,
                 int64_t i1)
{
    const size_t d = (size_t)a->head_dim;
    float *keys = pending_keys(a, pending, kv_head), *values = keys + CHUNK * d;
    for (int64_t i = i0; i < i1; i++) {
        const size_t slot = (size_t)((seq->position + i) % CHUNK);
        const int64_t at = (seq->first_row + i) * a->kv_stride + (int64_t)kv_head * a->head_dim;
        memcpy(keys + slot * d, a->k + at, d * sizeof *keys);
        memcpy(values + slot * d, a->v + at, d * sizeof *values);
    }
}

/* Keys and values of one head that are wanted beyond the call. */
static void keep_task(void *user, int task, int worker)
{
    (void)worker;
    const lightning_job *job = user;
    const sala_lightning_args *a = job->a;
    const sala_attn_seq *seq = &a->seqs[task / a->n_kv_heads];
    const int kv_head = task % a->n_kv_heads;
    const int64_t end = seq->position + seq->n_rows, first = seq->position / CHUNK * CHUNK, last = end / CHUNK * CHUNK;
    if (seq->linear.pending)
        keep(a, seq, seq->linear.pending, kv_head, 0, sala_min_i64(first + CHUNK - seq->position, seq->n_rows));
    if (last > first && seq->linear.pending_out)
        keep(a, seq, seq->linear.pending_out, kv_head, last - seq->position, seq->n_rows);
}

static void head_task(void *user, int task, int worker)
{
    const lightning_job *job = user;
    const sala_lightning_args *a = job->a;
    const sala_kernels *k = &job->cpu->k;
    const sala_attn_seq *seq = &a->seqs[task / a->n_heads];
    const sala_linear_seq *lin = &seq->linear;
    const int head = task % a->n_heads, kv_head = head / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    const float *decay = a->decay + (size_t)head * (CHUNK + 1);
    const size_t offset = a->state_offset + (size_t)head * state_floats(a) * sizeof(float);
    float *running = sala_cpu_worker(job->cpu, worker), *scratch = running + state_floats(a);
    const float *state = lin->state_in ? (const float *)(const void *)((const uint8_t *)lin->state_in + offset) : NULL;
    const int64_t end = seq->position + seq->n_rows;
    int next = 0;
    for (int64_t chunk = seq->position / CHUNK * CHUNK; chunk < end; chunk += CHUNK) {
        const int64_t from = sala_max_i64(chunk, seq->position), to = sala_min_i64(chunk + CHUNK, end);
        const int64_t row = seq->first_row + from - seq->position;
        const float *keys = a->k + row * a->kv_stride + (int64_t)kv_head * d;
        const float *values = a->v + row * a->kv_stride + (int64_t)kv_head * d;
        int64_t stride = a->kv_stride;
        if (from > chunk) { /* the chunk was begun by earlier calls */
            keys = pending_keys(a, lin->pending, kv_head);
            values = keys + (size_t)CHUNK * (size_t)d;
            stride = d;
        }
        k->lightning_out(a->out + row * a->out_stride + (int64_t)head * d, a->out_stride,
                         a->q + row * a->q_stride + (int64_t)head * d, a->q_stride, keys, values, stride, state, decay,
                         (int)(from - chunk), (int)(to - chunk), d, a->scale, scratch);
        if (to < chunk + CHUNK)
            break;
        float *after = running;
        if (next < lin->n_states && lin->positions[next] == chunk + CHUNK)
            after = (float *)(void *)((uint8_t *)lin->states[next++] + offset);
        k->lightning_state(after, state, keys, values, stride, decay, d, scratch);
        state = after;
    }
}

void sala_cpu_lightning(sala_backend *be, const sala_lightning_args *a)
{
    assert(!a->states); /* nothing here keeps states for a backward pass */
    sala_cpu *cpu = sala_cpu_of(be);
    lightning_job job = {cpu, a};
    const int n_keep = a->n_seqs * a->n_kv_heads;
    if (a->n_rows * a->n_kv_heads * a->head_dim >= 1 << 16)
        sala_pool_run(cpu->pool, n_keep, keep_task, &job);
    else /* copied sooner than a thread wakes up */
        for (int task = 0; task < n_keep; task++)
            keep_task(&job, task, 0);
    sala_pool_run(cpu->pool, a->n_seqs * a->n_heads, head_task, &job);
}
