/* Several processes. One table, two fillings: alone (dist.c) and Open MPI (apps/mpi/sala_mpi.c, a plug-in that is
 * loaded when the program runs under mpirun, so that nobody else needs libmpi). */
#ifndef SALA_TRAIN_DIST_H
#define SALA_TRAIN_DIST_H

#include "base/base.h"

typedef struct sala_dist sala_dist;

enum { SALA_DIST_ABI = 1 };

typedef struct sala_dist_ops {
    int abi; /* SALA_DIST_ABI */
    /* timeout: seconds of silence after which a rank counts as gone. */
    sala_status (*open)(sala_dist **out, double timeout, sala_error *err);
    void (*close)(sala_dist *d);
    /* Bucket [begin, end) of the gradients is complete on this rank: send the others their parts, receive this rank's
     * part from them and add them in the order of ranks. Returns at once; the work is done by the plug-in's thread,
     * buckets in order. The parts of others hold unspecified numbers afterwards. */
    void (*reduce_begin)(sala_dist *d, float *grads, uint64_t begin, uint64_t end);
    sala_status (*reduce_end)(sala_dist *d, sala_error *err); /* waits for all of the step */
    /* Everybody gets every rank's part of bucket [begin, end) of the values. */
    sala_status (*gather)(sala_dist *d, float *values, uint64_t begin, uint64_t end, sala_error *err);
    sala_status (*sum)(sala_dist *d, double *x, int n,
                       sala_error *err); /* in the order of ranks: equal bits everywhere */
    sala_status (*barrier)(sala_dist *d, sala_error *err);
    sala_status (*broadcast)(sala_dist *d, void *data, uint64_t bytes, sala_error *err); /* from rank 0 */
    /* Tells the others why, ends them, and this process with exit code 1. Alone it returns. */
    void (*abort)(sala_dist *d, const char *message);
} sala_dist_ops;

/* The plug-in's only symbol: const sala_dist_ops *sala_dist_plugin(void) */
#define SALA_DIST_PLUGIN "sala_dist_plugin"
typedef const sala_dist_ops *sala_dist_plugin_fn(void);

struct sala_dist {
    const sala_dist_ops *ops;
    int rank, size;
    int host_rank, host_size; /* among the ranks of this machine */
    char name[128];           /* "rank 1 (host a, process 4711)" */
};

/* Alone unless OMPI_COMM_WORLD_SIZE (or PMI_SIZE) says otherwise. */
sala_status sala_dist_open(sala_dist **out, double timeout_seconds, sala_error *err);
void sala_dist_close(sala_dist *d); /* NULL is fine */
/* A rank's part of [begin, end): equal shares in units of 16 elements. */
void sala_dist_part(const sala_dist *d, int rank, uint64_t begin, uint64_t end, uint64_t *part_begin,
                    uint64_t *part_end);
/* SALA_OK only when every rank calls it with SALA_OK; otherwise each rank fails, those without an error of their own
 * with a message that names the first rank that has one. */
sala_status sala_dist_agree(sala_dist *d, sala_status st, sala_error *err);

#endif
