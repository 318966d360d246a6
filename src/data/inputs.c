/* Walking directories. */
#include "data/inputs.h"

#include "os/os.h"

#include <stdlib.h>

enum { MAX_DEPTH = 32, MAX_FILES = 1 << 24 };

typedef struct walk {
    sala_inputs *out;
    const char *dir;
    int depth;
    bool unsized;
    sala_status status;
    sala_error *err;
} walk;

static sala_status add_file(sala_inputs *in, char *path, bool *unsized, sala_error *err)
{
    if (!path)
        return sala_fail_memory(err, 256);
    if (in->n == in->cap) {
        const int cap = in->cap ? 2 * in->cap : 64;
        char **paths = cap <= MAX_FILES ? realloc(in->paths, (size_t)cap * sizeof *paths) : NULL;
        if (!paths) {
            free(path);
            return sala_fail_memory(err, (uint64_t)cap * sizeof *paths);
        }
        in->paths = paths;
        in->cap = cap;
    }
    const int64_t bytes = sala_os_file_size(path);
    *unsized = *unsized || bytes < 0;
    in->bytes += bytes > 0 ? (uint64_t)bytes : 0;
    in->paths[in->n++] = path;
    return SALA_OK;
}

static sala_status walk_dir(sala_inputs *out, const char *dir, int depth, bool *unsized, sala_error *err);

static bool visit(void *user, const char *name)
{
    walk *w = user;
    if (name[0] == '.')
        return true;
    char *path = sala_path_join(w->dir, name);
    if (path && sala_os_is_dir(path)) {
        w->status = walk_dir(w->out, path, w->depth + 1, &w->unsized, w->err);
        free(path);
    } else if (path && !sala_os_is_file(path)) {
        free(path); /* sockets and the like, which nobody means who names a directory */
    } else {
        w->status = add_file(w->out, path, &w->unsized, w->err);
    }
    return w->status == SALA_OK;
}

static sala_status walk_dir(sala_inputs *out, const char *dir, int depth, bool *unsized, sala_error *err)
{
    if (depth > MAX_DEPTH)
        return sala_fail(err, SALA_E_LIMIT, "%s: more than %d folders deep; do links lead round in a circle?", dir,
                         MAX_DEPTH);
    walk w = {.out = out, .dir = dir, .depth = depth, .err = err};
    const int why = sala_os_list_dir(dir, visit, &w);
    *unsized = *unsized || w.unsized;
    return why ? sala_fail_errno(err, why, "%s", dir) : w.status;
}

sala_status sala_inputs_open(sala_inputs *out, const char *const *args, int n_args, sala_error *err)
{
    sala_inputs in = {0};
    bool unsized = false;
    sala_status status = SALA_OK;
    for (int i = 0; i < n_args && status == SALA_OK; i++) {
        if (sala_os_is_dir(args[i])) {
            const int before = in.n;
            status = walk_dir(&in, args[i], 0, &unsized, err);
            if (status == SALA_OK && in.n == before)
                status = sala_fail(err, SALA_E_NOT_FOUND, "%s: there are no files in this directory", args[i]);
        } else {
            status = add_file(&in, sala_strdup(args[i]), &unsized, err);
        }
    }
    if (status != SALA_OK) {
        sala_inputs_close(&in);
        return status;
    }
    if (unsized)
        in.bytes = 0;
    *out = in;
    return SALA_OK;
}

void sala_inputs_close(sala_inputs *in)
{
    for (int i = 0; i < in->n; i++)
        free(in->paths[i]);
    free(in->paths);
    *in = (sala_inputs){0};
}
