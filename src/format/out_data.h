/* The data section of a tensor container being written: which tensors there are, where each lies, which of its bytes
 * have arrived. The containers differ in their headers only; this half is the same for both.
 *
 * Declaring functions do not fail: the first mistake is remembered and comes out of begin. */
#ifndef SALA_FORMAT_OUT_DATA_H
#define SALA_FORMAT_OUT_DATA_H

#include "format/tensors.h"
#include "os/os.h"

typedef struct sala_out_range {
    uint64_t begin, end;
} sala_out_range;

typedef struct sala_out_tensor {
    char *name;
    sala_dtype dtype;
    int n_dims;
    int64_t ne[SALA_MAX_DIMS];
    uint64_t bytes;
    uint64_t at;          /* within the data section; set by the container's begin */
    sala_out_range *done; /* what has arrived: sorted, disjoint, never touching */
    size_t n_done, done_cap;
} sala_out_tensor;

typedef struct sala_out_data {
    sala_out_file *file;
    char *path;
    sala_out_tensor *tensors;
    size_t count, cap;
    uint64_t data_at; /* of the data section in the file */
    bool begun;
    sala_error mistake; /* code is SALA_OK while there is none */
} sala_out_data;

sala_status sala_out_data_open(sala_out_data *d, const char *path, sala_error *err);
void sala_out_data_declare(sala_out_data *d, const char *name, size_t max_name, sala_dtype dtype, int n_dims,
                           const int64_t *ne);
/* Remembers a mistake unless there is one already. */
void sala_out_data_mistake(sala_out_data *d, sala_status code, const char *fmt, ...) SALA_PRINTF(3, 4);
/* The remembered mistake, names that appear twice included. */
sala_status sala_out_data_check(sala_out_data *d, sala_error *err);
sala_status sala_out_data_write(sala_out_data *d, size_t tensor, uint64_t offset, const void *data, uint64_t bytes,
                                sala_error *err);
/* `file_bytes`: the length that the file must have; bytes that were never written are zero. Frees what d owns. */
sala_status sala_out_data_commit(sala_out_data *d, uint64_t file_bytes, sala_error *err);
void sala_out_data_abort(sala_out_data *d);

#endif
