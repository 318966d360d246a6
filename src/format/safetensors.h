/* safetensors: one file or a sharded set (model.safetensors.index.json). Header: u64 length, JSON, then data. */
#ifndef SALA_FORMAT_SAFETENSORS_H
#define SALA_FORMAT_SAFETENSORS_H

#include "format/tensors.h"

typedef struct sala_safetensors sala_safetensors;

/* PATH: a .safetensors file, an index.json, or a directory that holds model.safetensors or
 * model.safetensors.index.json. A missing shard is an error that names it. */
sala_status sala_safetensors_open(sala_safetensors **out, const char *path, sala_error *err);
sala_status sala_safetensors_parse(sala_safetensors **out, const void *data, size_t bytes, sala_error *err);
void sala_safetensors_close(sala_safetensors *st);
sala_tensor_list sala_safetensors_tensors(const sala_safetensors *st);
const sala_tensor *sala_safetensors_tensor(const sala_safetensors *st, const char *name); /* NULL when absent */
uint64_t sala_safetensors_file_bytes(const sala_safetensors *st);

/* Writing, streaming: declare all, begin, data in any order, commit. One file. */
typedef struct sala_safetensors_writer sala_safetensors_writer;
sala_status sala_safetensors_writer_open(sala_safetensors_writer **out, const char *path, sala_error *err);
void sala_safetensors_write_tensor(sala_safetensors_writer *w, const char *name, sala_dtype dtype, int n_dims,
                                   const int64_t *ne);
sala_status sala_safetensors_writer_begin_data(sala_safetensors_writer *w, sala_error *err);
sala_status sala_safetensors_write_data(sala_safetensors_writer *w, size_t tensor, uint64_t offset, const void *data,
                                        uint64_t bytes, sala_error *err);
sala_status sala_safetensors_writer_commit(sala_safetensors_writer *w, sala_error *err);
void sala_safetensors_writer_abort(sala_safetensors_writer *w);

#endif
