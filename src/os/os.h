/* The operating system, and nothing else of ours: files, maps, time, memory, CPU features, threads.
 * This folder holds the only platform #ifdefs of the tree. Functions that can fail return 0 or a positive errno. */
#ifndef SALA_OS_OS_H
#define SALA_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- files ---- */

typedef struct sala_map {
    const uint8_t *data; /* read-only; NULL for an empty file */
    size_t bytes;
} sala_map;

/* Maps a regular file for reading. EINVAL if it is not a regular file. */
int sala_os_map(sala_map *out, const char *path);
void sala_os_unmap(sala_map *map);
/* Hints; both round inwards to whole pages. `drop` gives the pages of a range back to the system: they are read again
 * from the file when touched. */
void sala_os_map_will_need(const void *data, size_t bytes);
void sala_os_map_drop(const void *data, size_t bytes);

/* Whole file into malloc'ed memory (freed by the caller), one NUL behind the end. `limit` > 0: EFBIG beyond. "-" reads
 * standard input. */
int sala_os_read_file(uint8_t **out, size_t *bytes, const char *path, size_t limit);

/* A file that appears under its final name only when it is complete: written as PATH.tmp-PID, fsync'ed and renamed by
 * commit. Any failed write is remembered and returned by commit, which then removes the temporary file. EINVAL when
 * PATH is there and is no regular file. */
typedef struct sala_out_file sala_out_file;
int sala_os_out_open(sala_out_file **out, const char *path);
int sala_os_out_write(sala_out_file *f, const void *data, size_t bytes);                     /* appends; buffered */
int sala_os_out_write_at(sala_out_file *f, uint64_t offset, const void *data, size_t bytes); /* leaves the end alone */
uint64_t sala_os_out_tell(const sala_out_file *f);
int sala_os_out_commit(sala_out_file *f); /* closes and frees f in any case */
void sala_os_out_abort(sala_out_file *f); /* removes, closes, frees; NULL is fine */
/* Removes the temporary files of every sala_out_file still open; async-signal-safe, for SIGINT handlers. */
void sala_os_out_abort_all(void);

bool sala_os_is_dir(const char *path);
bool sala_os_is_file(const char *path);
int64_t sala_os_file_size(const char *path); /* -1 when it is not a regular file */
int sala_os_make_dirs(const char *path);     /* as mkdir -p */
/* Calls fn for each name in the directory (no . and ..), in sorted order; stops when it returns false. */
int sala_os_list_dir(const char *path, bool (*fn)(void *user, const char *name), void *user);

/* ---- directories of a run ---- */

int sala_os_rename(const char *from, const char *to);
int sala_os_sync_dir(const char *path);       /* names in it are on the medium when this returns */
int sala_os_remove_tree(const char *path);    /* 0 too when there is none; links are removed, not followed */
uint64_t sala_os_disk_free(const char *path); /* bytes that this user may still write there; UINT64_MAX: unknown */

/* ---- who this process is ---- */

void sala_os_host_name(char *dst, size_t bytes);
int64_t sala_os_process_id(void);
double sala_os_wall_seconds(void); /* since 1970 */

/* ---- files that are changed in place ---- */

typedef enum sala_store_access {
    SALA_STORE_READ,   /* shared lock */
    SALA_STORE_WRITE,  /* exclusive lock, the file must be there */
    SALA_STORE_CREATE, /* exclusive lock, an empty file is made if there is none */
} sala_store_access;

/* A regular file, open and locked until it is closed. Locks do not wait: EBUSY when another open file, of this process
 * or another, excludes this one, with *holder the process or 0 when the system does not tell. EISDIR and EINVAL for
 * what is no regular file, ELOOP for a link to nothing. */
typedef struct sala_store sala_store;
int sala_os_store_open(sala_store **out, const char *path, sala_store_access access, int64_t *holder);
void sala_os_store_close(sala_store *s);  /* NULL is fine */
void sala_os_store_remove(sala_store *s); /* takes the file's name away, unless another file has it now, and closes */
bool sala_os_store_created(const sala_store *s);
bool sala_os_store_is(const sala_store *s, const char *path); /* whether the name leads to this very file */
int sala_os_store_size(const sala_store *s, uint64_t *bytes);
/* *got is less than `bytes` only where the file ends. */
int sala_os_store_read(const sala_store *s, uint64_t offset, void *data, size_t bytes, size_t *got);
int sala_os_store_write(sala_store *s, uint64_t offset, const void *data, size_t bytes);
int sala_os_store_resize(sala_store *s, uint64_t bytes);
int sala_os_store_sync(sala_store *s); /* returns when all that was written is on the medium, the size included */
/* Read-only, showing what is written later too; `offset` is a multiple of 64 KiB. The range may reach beyond the end of
 * the file, but only what the file has may be touched. */
int sala_os_store_map(const sala_store *s, const uint8_t **out, uint64_t offset, uint64_t bytes);
void sala_os_store_unmap(const uint8_t *data, uint64_t bytes);

/* For tests of what a crash or a full disk leaves: `fn` sees each write, resize (offset: the new size) and sync of
 * every store before it is done; a positive errno makes it fail undone. Set while no store is in use; NULL ends it. */
typedef enum sala_store_event {
    SALA_STORE_WRITE_EVENT,
    SALA_STORE_RESIZE_EVENT,
    SALA_STORE_SYNC_EVENT
} sala_store_event;
typedef int sala_store_watch_fn(void *user, sala_store_event event, uint64_t offset, const void *data, uint64_t bytes);
void sala_os_store_watch(sala_store_watch_fn *fn, void *user);

/* ---- time, memory ---- */

double sala_os_seconds(void);        /* monotonic */
uint64_t sala_os_peak_rss(void);     /* bytes */
uint64_t sala_os_rss(void);          /* bytes */
uint64_t sala_os_memory_total(void); /* of the machine or of this process's cgroup, whichever is less */
uint64_t sala_os_memory_available(void);

/* Zeroed, page-aligned, asks for huge pages when large. NULL when memory is out. */
void *sala_os_pages_alloc(size_t bytes);
void sala_os_pages_free(void *p, size_t bytes);

/* ---- CPU ---- */

enum {
    SALA_CPU_AVX2 = 1u << 0, /* with FMA, F16C, BMI2 */
    SALA_CPU_AVX_VNNI = 1u << 1,
    SALA_CPU_AVX512 = 1u << 2, /* F, BW, DQ, VL */
    SALA_CPU_AVX512_VNNI = 1u << 3,
    SALA_CPU_AVX512_BF16 = 1u << 4,
    SALA_CPU_AVX512_VBMI = 1u << 5,
    SALA_CPU_NEON = 1u << 8,
    SALA_CPU_DOTPROD = 1u << 9,
    SALA_CPU_I8MM = 1u << 10,
};
uint32_t sala_os_cpu_features(void); /* what CPU and operating system both allow */
/* What this process may compute on, and how many threads that asks for. Facts that the system does not tell (a
 * container without /sys) count as absent: every CPU is then a core of full speed. */
typedef struct sala_cpus {
    int n_cpus;       /* in the affinity mask */
    int n_cores;      /* of these, cores: hardware threads of one core share its arithmetic and count once */
    int n_slow_cores; /* of these, cores under half the speed of the fastest; left out of n_threads */
    double quota;     /* CPUs' worth of time that the process's cgroups allow; 0: as much as there is */
    int n_threads;    /* the default number of threads, at least 1 */
} sala_cpus;
void sala_os_cpus(sala_cpus *out);
/* The same for the CPUs with these numbers and for a file system whose /proc and /sys lie under `root`. */
void sala_os_cpus_at(sala_cpus *out, const char *root, const int *cpus, int n_cpus);
int sala_os_cpu_count(void); /* n_threads of sala_os_cpus */

/* ---- threads ---- */

/* One pool for everything. run() calls fn(user, task, worker) for every task in [0, n_tasks), each exactly once, on the
 * caller and the pool's threads; tasks are handed out one by one as threads come free, so a thread that the system has
 * descheduled holds up its own task only. worker is in [0, sala_pool_size). Calls from several threads take turns; a
 * call from inside a task runs its tasks on the calling thread. n_threads < 1: sala_os_cpu_count(). More threads than
 * CPUs are allowed; those that are too many sleep. */
typedef struct sala_pool sala_pool;
typedef void sala_task_fn(void *user, int task, int worker);
int sala_pool_open(sala_pool **out, int n_threads);
/* The same with a number of threads that may be awake at a time, the caller counted, whatever CPUs there are. */
int sala_pool_open_awake(sala_pool **out, int n_threads, int max_awake);
void sala_pool_close(sala_pool *pool);
int sala_pool_size(const sala_pool *pool);
void sala_pool_run(sala_pool *pool, int n_tasks, sala_task_fn *fn, void *user);

/* A lock that goes to whoever has waited longest. Not for taking twice, nor for giving back by another thread. */
typedef struct sala_turn sala_turn;
int sala_turn_open(sala_turn **out);
void sala_turn_close(sala_turn *turn); /* nobody has it or waits for it; NULL is fine */
void sala_turn_take(sala_turn *turn);
void sala_turn_give(sala_turn *turn);

#endif
