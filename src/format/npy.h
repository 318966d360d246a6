/* NumPy's .npy version 1.0: float32 matrices out (streaming, the number of rows known beforehand), float32 and integer
 * arrays in. */
#ifndef SALA_FORMAT_NPY_H
#define SALA_FORMAT_NPY_H

#include "base/base.h"

typedef struct sala_npy_writer sala_npy_writer;
sala_status sala_npy_writer_open(sala_npy_writer **out, const char *path, int64_t rows, int64_t cols, sala_error *err);
sala_status sala_npy_write_rows(sala_npy_writer *w, const float *data, int64_t n_rows, sala_error *err);
sala_status sala_npy_writer_commit(sala_npy_writer *w, sala_error *err); /* SALA_E_STATE when rows are missing */
void sala_npy_writer_abort(sala_npy_writer *w);

typedef struct sala_npy {
    char kind; /* 'f', 'i', 'u' */
    int elem_bytes;
    int n_dims;
    int64_t shape[8]; /* C order */
    const void *data; /* borrowed from the bytes given */
    uint64_t count;
} sala_npy;
sala_status sala_npy_parse(sala_npy *out, const void *data, size_t bytes, sala_error *err);

/* Token ids as text: integers separated by white space, or as an integer .npy. *ids owned by the caller (free). */
sala_status sala_ids_parse(int32_t **ids, size_t *n, const void *data, size_t bytes, sala_error *err);

#endif
