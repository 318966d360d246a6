/* oneDNN as a library that is opened when the first product of training wants it: whoever only runs models neither
 * needs it nor waits for it and its OpenMP runtime at the start. Types come from the headers of the build, so only a
 * library of the same major version is taken, which is what its file is named after. */
#ifndef SALA_GRAD_DNNL_LIBRARY_H
#define SALA_GRAD_DNNL_LIBRARY_H
#ifdef SALA_HAVE_DNNL

#include "base/base.h"

#include <oneapi/dnnl/dnnl.h>

#if DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_RUNTIME != DNNL_RUNTIME_SEQ
#error "this oneDNN has threads of its own kind; build with -DSALA_DNNL=OFF"
#endif

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t sala_md_ref;
#else
typedef const dnnl_memory_desc_t *sala_md_ref;
#endif

/* F(result, name behind dnnl_, parameters) */
#define SALA_DNNL_FUNCTIONS(F)                                                                                         \
    F(dnnl_status_t, sgemm,                                                                                            \
      (char, char, dnnl_dim_t, dnnl_dim_t, dnnl_dim_t, float, const float *, dnnl_dim_t, const float *, dnnl_dim_t,    \
       float, float *, dnnl_dim_t))                                                                                    \
    F(const dnnl_version_t *, version, (void))                                                                         \
    F(dnnl_status_t, set_primitive_cache_capacity, (int))                                                              \
    F(dnnl_status_t, set_default_fpmath_mode, (dnnl_fpmath_mode_t))                                                    \
    F(dnnl_status_t, engine_create, (dnnl_engine_t *, dnnl_engine_kind_t, size_t))                                     \
    F(dnnl_status_t, engine_destroy, (dnnl_engine_t))                                                                  \
    F(dnnl_status_t, stream_create, (dnnl_stream_t *, dnnl_engine_t, unsigned))                                        \
    F(dnnl_status_t, stream_destroy, (dnnl_stream_t))                                                                  \
    F(size_t, memory_desc_get_size, (sala_md_ref))                                                                     \
    F(dnnl_status_t, memory_create, (dnnl_memory_t *, sala_md_ref, dnnl_engine_t, void *))                             \
    F(dnnl_status_t, memory_destroy, (dnnl_memory_t))                                                                  \
    F(dnnl_status_t, memory_set_data_handle, (dnnl_memory_t, void *))                                                  \
    F(dnnl_status_t, post_ops_create, (dnnl_post_ops_t *))                                                             \
    F(dnnl_status_t, post_ops_destroy, (dnnl_post_ops_t))                                                              \
    F(dnnl_status_t, primitive_attr_create, (dnnl_primitive_attr_t *))                                                 \
    F(dnnl_status_t, primitive_attr_destroy, (dnnl_primitive_attr_t))                                                  \
    F(dnnl_status_t, primitive_attr_set_post_ops, (dnnl_primitive_attr_t, const_dnnl_post_ops_t))                      \
    F(dnnl_status_t, primitive_attr_set_scratchpad_mode, (dnnl_primitive_attr_t, dnnl_scratchpad_mode_t))              \
    F(dnnl_status_t, primitive_desc_destroy, (dnnl_primitive_desc_t))                                                  \
    F(dnnl_status_t, primitive_desc_query, (const_dnnl_primitive_desc_t, dnnl_query_t, int, void *))                   \
    F(sala_md_ref, primitive_desc_query_md, (const_dnnl_primitive_desc_t, dnnl_query_t, int))                          \
    F(dnnl_status_t, reorder_primitive_desc_create,                                                                    \
      (dnnl_primitive_desc_t *, sala_md_ref, dnnl_engine_t, sala_md_ref, dnnl_engine_t, const_dnnl_primitive_attr_t))  \
    F(dnnl_status_t, primitive_create, (dnnl_primitive_t *, const_dnnl_primitive_desc_t))                              \
    F(dnnl_status_t, primitive_destroy, (dnnl_primitive_t))                                                            \
    F(dnnl_status_t, primitive_execute, (const_dnnl_primitive_t, dnnl_stream_t, int, const dnnl_exec_arg_t *))         \
    SALA_DNNL_FUNCTIONS_OF_VERSION(F)

#if DNNL_VERSION_MAJOR >= 3
#define SALA_DNNL_FUNCTIONS_OF_VERSION(F)                                                                              \
    F(dnnl_status_t, memory_desc_create_with_strides,                                                                  \
      (dnnl_memory_desc_t *, int, const dnnl_dims_t, dnnl_data_type_t, const dnnl_dims_t))                             \
    F(dnnl_status_t, memory_desc_create_with_tag,                                                                      \
      (dnnl_memory_desc_t *, int, const dnnl_dims_t, dnnl_data_type_t, dnnl_format_tag_t))                             \
    F(dnnl_status_t, memory_desc_clone, (dnnl_memory_desc_t *, const_dnnl_memory_desc_t))                              \
    F(dnnl_status_t, memory_desc_destroy, (dnnl_memory_desc_t))                                                        \
    F(dnnl_status_t, post_ops_append_sum, (dnnl_post_ops_t, float, int32_t, dnnl_data_type_t))                         \
    F(dnnl_status_t, matmul_primitive_desc_create,                                                                     \
      (dnnl_primitive_desc_t *, dnnl_engine_t, sala_md_ref, sala_md_ref, sala_md_ref, sala_md_ref,                     \
       const_dnnl_primitive_attr_t))
#else
#define SALA_DNNL_FUNCTIONS_OF_VERSION(F)                                                                              \
    F(dnnl_status_t, memory_desc_init_by_strides,                                                                      \
      (dnnl_memory_desc_t *, int, const dnnl_dims_t, dnnl_data_type_t, const dnnl_dims_t))                             \
    F(dnnl_status_t, memory_desc_init_by_tag,                                                                          \
      (dnnl_memory_desc_t *, int, const dnnl_dims_t, dnnl_data_type_t, dnnl_format_tag_t))                             \
    F(dnnl_status_t, post_ops_append_sum, (dnnl_post_ops_t, float))                                                    \
    F(dnnl_status_t, matmul_desc_init, (dnnl_matmul_desc_t *, sala_md_ref, sala_md_ref, sala_md_ref, sala_md_ref))     \
    F(dnnl_status_t, primitive_desc_create,                                                                            \
      (dnnl_primitive_desc_t *, const_dnnl_op_desc_t, const_dnnl_primitive_attr_t, dnnl_engine_t,                      \
       const_dnnl_primitive_desc_t))
#endif

typedef struct sala_dnnl {
#define SALA_DNNL_FIELD(result, name, parameters) result(*name) parameters;
    SALA_DNNL_FUNCTIONS(SALA_DNNL_FIELD)
#undef SALA_DNNL_FIELD
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
    void (*omp_set_num_threads)(int n);
    int (*omp_get_max_threads)(void);
#endif
} sala_dnnl;

/* Opened at the first call, and open until the process ends. NULL when there is no such library: `why` (may be NULL)
 * then points to a sentence without a full stop. */
const sala_dnnl *sala_dnnl_library(const char **why);

#endif
#endif
