/* What the files of the CPU backend share. */
#ifndef SALA_BACKEND_CPU_CPU_H
#define SALA_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "kernels/kernels.h"
#include "os/os.h"

typedef struct sala_cpu {
    sala_backend base;
    sala_kernels k;
    sala_pool *pool;
    bool own_pool, no_pack;
    int n_workers;
    /* One block, carved: prepared activations, then attention partials, then each worker's scratch. */
    uint8_t *scratch;
    size_t scratch_bytes;
    uint8_t *act;
    size_t act_bytes;
    float *partial;
    size_t partial_floats;
    float *worker;
    size_t worker_floats;
} sala_cpu;

static inline sala_cpu *sala_cpu_of(sala_backend *be)
{
    return (sala_cpu *)be;
}

/* The scratch memory of a worker, 64-byte aligned. */
static inline float *sala_cpu_worker(const sala_cpu *cpu, int worker)
{
    return cpu->worker + (size_t)worker * cpu->worker_floats;
}

/* Queries of one attention task: rows × heads of a group, at most this many unless one group is larger. */
enum { SALA_CPU_ATTN_QUERIES = 64 };
/* Keys after which partial sums are merged. Part of the definition of the result: prefill and decode split alike. */
enum { SALA_CPU_ATTN_SPLIT = 1024 };

/* Floats of scratch that one worker needs. */
size_t sala_cpu_attn_worker_floats(int max_heads_of_group, int head_dim);
size_t sala_cpu_sparse_worker_floats(int group, int head_dim, int most);
size_t sala_cpu_lightning_worker_floats(int head_dim);

sala_status sala_cpu_weight_new(sala_backend *be, sala_weight **out, sala_dtype dtype, int64_t rows, int64_t cols,
                                const void *data, sala_error *err);
void sala_cpu_weight_free(sala_backend *be, sala_weight *w);
uint64_t sala_cpu_weight_bytes(const sala_weight *w);
void sala_cpu_get_rows(sala_backend *be, sala_act *out, const sala_weight *w, const int32_t *ids, int64_t n,
                       float scale);
void sala_cpu_export_row(sala_backend *be, float *out, const sala_weight *w, int64_t row);
void sala_cpu_linear_group(sala_backend *be, const sala_linear_out *outs, int n_outs, const sala_act *x, int64_t n_rows,
                           int64_t cols);

void sala_cpu_kv_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                       const sala_act *k, const sala_act *v, int64_t stride);
void sala_cpu_key_store(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                        const sala_act *k, int64_t stride);
void sala_cpu_attention(sala_backend *be, const sala_attn_args *args);
void sala_cpu_compress(sala_backend *be, const sala_attn_seq *seqs, int n_seqs, const sala_kv_shape *kv,
                       const sala_rows_shape *rows);
void sala_cpu_select(sala_backend *be, const sala_select_args *args);
void sala_cpu_lightning(sala_backend *be, const sala_lightning_args *args);

#endif
