#ifdef SALA_HAVE_DNNL

#include "grad/dnnl_library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define FILE_NAME "libdnnl.so." TEXT(DNNL_VERSION_MAJOR)

/* The table's types are those of the headers. */
#define SAME_TYPE(result, name, parameters)                                                                            \
    _Static_assert(_Generic(&dnnl_##name, result(*) parameters : 1, default : 0), "dnnl_" #name);
SALA_DNNL_FUNCTIONS(SAME_TYPE)

static sala_dnnl table;
static bool usable;
static char reason[200];

static bool find(void *lib, void *field, const char *name)
{
    void *symbol = dlsym(lib, name);
    memcpy(field, &symbol, sizeof symbol); /* a pointer to an object and one to a function are two things to C */
    if (!symbol)
        snprintf(reason, sizeof reason, "%s has no %s", FILE_NAME, name);
    return symbol != NULL;
}

static bool find_all(void *lib)
{
#define FIND(result, name, parameters)                                                                                 \
    if (!find(lib, &table.name, "dnnl_" #name))                                                                        \
        return false;
    SALA_DNNL_FUNCTIONS(FIND)
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
    /* Found in the library's own runtime, whichever it is. */
    if (!find(lib, &table.omp_set_num_threads, "omp_set_num_threads") ||
        !find(lib, &table.omp_get_max_threads, "omp_get_max_threads"))
        return false;
#endif
    return true;
}

static void load(void)
{
    void *lib = dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(reason, sizeof reason, "there is no %s", FILE_NAME);
        return;
    }
    if (!find_all(lib)) {
        dlclose(lib);
        return;
    }
    const dnnl_version_t *v = table.version();
    if (v->major != DNNL_VERSION_MAJOR || v->cpu_runtime != DNNL_CPU_RUNTIME) {
        snprintf(reason, sizeof reason, "%s is version %d with threads of kind %u, expected %d and %u", FILE_NAME,
                 v->major, v->cpu_runtime, DNNL_VERSION_MAJOR, (unsigned)DNNL_CPU_RUNTIME);
        dlclose(lib);
        return;
    }
    usable = true;
}

const sala_dnnl *sala_dnnl_library(const char **why)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    if (why)
        *why = reason;
    return usable ? &table : NULL;
}

#else
typedef int sala_no_dnnl_library; /* a file must declare something */
#endif
