/* What tests of the public interface share: small random models opened as users open theirs, and their sessions. */
#ifndef SALA_TESTS_UNIT_API_SUPPORT_H
#define SALA_TESTS_UNIT_API_SUPPORT_H

#include "sala.h"
#include "unit/model/tiny.h"

#include <unistd.h>

/* Removes the file: the model keeps its pages. */
static inline sala_model *open_file(const char *path, const char *kernels, int n_threads)
{
    sala_error err;
    sala_model *model;
    const sala_model_params params = {.n_threads = n_threads, .kernels = kernels};
    if (sala_model_open(&model, path, &params, &err) != SALA_OK)
        fail_msg("%s", err.message);
    unlink(path);
    return model;
}

static inline sala_model *open_tiny(const tiny_model *shape, uint64_t seed, const char *kernels, int n_threads)
{
    char path[512];
    tiny_write(test_path(path, sizeof path, "tiny.gguf"), shape, seed);
    return open_file(path, kernels, n_threads);
}

static inline sala_session *open_session(sala_model *model, const sala_session_params *params)
{
    sala_session *s;
    sala_error err;
    if (sala_session_open(&s, model, params, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return s;
}

static inline sala_session *new_session(sala_model *model, int64_t max_tokens, sala_kv_type kv)
{
    return open_session(model, &(sala_session_params){.max_tokens = max_tokens, .kv = kv});
}

#endif
