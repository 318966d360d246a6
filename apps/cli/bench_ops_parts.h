/* What the files of `sala bench --ops` share: the frame that times an operation, and the memory it works on.
 *
 * A case asks ops_begin() whether it is wanted, makes its operands, hands the operation to ops_time() and frees what it
 * made. All cases are gone through twice: first only to count those that the filters leave. */
#ifndef SALA_CLI_BENCH_OPS_PARTS_H
#define SALA_CLI_BENCH_OPS_PARTS_H

#include "cli.h"

#include "backend/backend.h"
#include "kernels/limits.h"
#include "os/os.h"

#include <jansson.h>

/* What bounds an operation. The first three are bytes a second, the others multiplications and additions a second. */
typedef enum ops_limit_id {
    OPS_MEMORY, /* reading memory that no cache holds, all threads */
    OPS_COPY,   /* reading and writing as many bytes as a batch of 512 rows has, all threads */
    OPS_CORE,   /* reading what a core's own cache holds, one thread */
    OPS_F32,    /* all threads, as those below */
    OPS_I8,
    OPS_BF16,
    OPS_F32_CORE, /* one thread */
    OPS_N_LIMITS
} ops_limit_id;

/* What one call of an operation does; either may be 0. */
typedef struct ops_work {
    double bytes, operations;
    ops_limit_id bytes_limit, operations_limit;
} ops_work;

enum {
    OPS_ARENA = 128 << 20, /* weights, caches, states: more than caches hold */
    OPS_ROWS_BYTES = 32 << 20,
    OPS_MOST_ROWS = 512,
    OPS_WIDTH = 4096, /* of a hidden state */
    OPS_TOKENS = 64 << 10,
    OPS_HEADS = 32,
    OPS_KV_HEADS = 2,
    OPS_HEAD_DIM = 128,
    OPS_VOCAB = 73448,
};

typedef struct ops_bench {
    const cli_options *o;
    sala_backend *be;
    const sala_backend_ops *ops;
    sala_kernels k;
    sala_limits loops;
    sala_pool *pool; /* for what is no operation of the backend */
    bool is_ref;
    uint8_t *arena;             /* OPS_ARENA bytes, once somebody asked for them */
    float *rows;                /* OPS_ROWS_BYTES of random numbers, likewise */
    double limit[OPS_N_LIMITS]; /* 0 until measured */
    uint8_t *limit_pages;       /* what limits are measured on, as far as it is warm; apart, since a backend may drop */
    size_t limit_warm;          /* the pages of weights that it has copied */
    json_t *table;
    /* the case under way */
    const char *kind;
    char name[48], shape[64];
    int n_cases, n_wanted, n_done;
    bool counting;
    int rc; /* not 0: everything that follows is left out */
} ops_bench;

/* True when the case is to be measured. */
bool ops_begin(ops_bench *b, const char *kind, const char *name, const char *shape, ...) SALA_PRINTF(4, 5);
/* Times fn(user), which does `work` once. */
void ops_time(ops_bench *b, void (*fn)(void *user), void *user, ops_work work);
/* Memory that is warm; NULL after a message when there is none. Contents of the arena are left from earlier cases. */
uint8_t *ops_arena(ops_bench *b);
float *ops_rows(ops_bench *b);
void *ops_need(ops_bench *b, size_t bytes); /* malloc, zeroed, with the same message */
/* n random numbers of deviation 1, always the same ones. */
void ops_random(float *out, size_t n);

void ops_linear_cases(ops_bench *b);
void ops_mixer_cases(ops_bench *b);
void ops_row_cases(ops_bench *b);
void ops_train_cases(ops_bench *b);

#endif
