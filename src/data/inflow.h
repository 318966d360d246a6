/* Bytes of a file, decompressed: plain, gzip or zstd, told apart by how the file begins and not by its name. */
#ifndef SALA_DATA_INFLOW_H
#define SALA_DATA_INFLOW_H

#include "base/base.h"

typedef struct sala_inflow sala_inflow;

sala_status sala_inflow_open(sala_inflow **out, const char *path, sala_error *err); /* "-": standard input */
/* The same over bytes that outlive the stream. Nothing that decompresses with more than 128 MiB of window is taken. */
sala_status sala_inflow_open_bytes(sala_inflow **out, const void *data, size_t bytes, sala_error *err);
/* *got 0 at the end, and less than `bytes` anywhere. A damaged archive is an error with the place in the compressed
 * file; what earlier calls gave is good. */
sala_status sala_inflow_read(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err);
/* Bytes of the file, as they lie there, that have been read. */
uint64_t sala_inflow_consumed(const sala_inflow *s);
const char *sala_inflow_path(const sala_inflow *s); /* "standard input" for "-" */
void sala_inflow_close(sala_inflow *s);             /* NULL is fine */

#endif
