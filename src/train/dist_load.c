/* Which filling of the table: alone, or the plug-in for Open MPI. The plug-in is a file of its own, so that the program
 * does not depend on MPI; it is looked for beside the program and in ../lib/sala/ of it. */
#include "train/dist_internal.h"

#include "os/os.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PLUGIN "libsala_mpi.so"

static bool under_mpirun(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
        const char *s = getenv(names[i]);
        if (s && atoi(s) > 1)
            return true;
    }
    return false;
}

/* The folder of the running program; "" when the system does not tell. */
static void program_dir(char *dst, size_t bytes)
{
    const ssize_t n = readlink("/proc/self/exe", dst, bytes - 1);
    dst[n > 0 ? n : 0] = 0;
    char *slash = strrchr(dst, '/');
    if (slash)
        *slash = 0;
}

sala_status sala_dist_open(sala_dist **out, double timeout_seconds, sala_error *err)
{
    static const char *const places[] = {"", "/../lib/sala", "/../lib"};
    char dir[3584], path[4096];
    if (!under_mpirun())
        return sala_dist_alone.open(out, timeout_seconds, err);
    program_dir(dir, sizeof dir);
    void *lib = NULL;
    for (size_t i = 0; i < SALA_ARRAY_LEN(places) && !lib; i++) {
        snprintf(path, sizeof path, "%s%s/" PLUGIN, dir, places[i]);
        if (!sala_os_is_file(path))
            continue;
        /* Global: Open MPI's own plug-ins look for its symbols. */
        lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (!lib)
            return sala_fail(err, SALA_E_IO,
                             "this is a run under mpirun, but the plug-in for it could not be loaded: %s", dlerror());
    }
    if (!lib)
        return sala_fail(err, SALA_E_NOT_FOUND,
                         "this is a run under mpirun, but %s is neither in %s nor in ../lib/sala; install Debian's "
                         "libopenmpi-dev and build with -DSALA_MPI=ON",
                         PLUGIN, dir);
    union { /* a pointer to an object and one to a function are two things to C */
        void *object;
        sala_dist_plugin_fn *fn;
    } symbol = {dlsym(lib, SALA_DIST_PLUGIN)};
    const sala_dist_ops *ops = symbol.object ? symbol.fn() : NULL;
    if (!ops || ops->abi != SALA_DIST_ABI) {
        const sala_status st = sala_fail(err, SALA_E_UNSUPPORTED, "%s is of another build: interface %d, expected %d",
                                         path, ops ? ops->abi : 0, SALA_DIST_ABI);
        dlclose(lib);
        return st;
    }
    return ops->open(out, timeout_seconds, err); /* the plug-in stays loaded until the process ends */
}
