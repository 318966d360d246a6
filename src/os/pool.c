/* The thread pool: work is a counter that threads take tasks from; nobody is assigned anything beforehand, so a thread
 * that the system took off its core delays only the task it holds.
 *
 * One run is a generation. `ticket` packs generation (high 32 bits) and next task (low 32 bits) into one word, so that
 * a late thread cannot join a run that it knows nothing of. It joins by exchanging the whole word; from then on the run
 * cannot end without it, so it takes further tasks by plain increments and reports all that it did when it leaves.
 *
 * What happens on a machine that others use too:
 * - Threads that find nothing to do poll for a short while (the next operation of a decode step comes within
 *   microseconds) and then sleep. No more threads are awake than there are CPUs.
 * - A thread that loses its core while it holds a task stops everybody until it gets the core back, milliseconds later,
 *   when other programs have had their slice. So workers offer their core before the system takes it: after most of a
 *   slice, between two tasks, holding none. If nobody wants the core that costs half a microsecond.
 * - A scheduler that sees a core with two runnable threads of ours next to one taken by another program calls that
 *   balanced, and wakes threads where their waker runs. A worker that finds itself on the core of the caller therefore
 *   moves to one where no thread of the pool is; and a caller that keeps losing its core, which nobody can stand in
 *   for, changes places with a worker that does not. Threads are never bound to a core for longer than the move. */
#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

enum { LINE_BYTES = 128 }; /* two lines of 64: some CPUs fetch lines in pairs */

/* Nanoseconds. */
enum {
    POLL_TIME = 100000,    /* longer than the gaps between the operations of a decode step, much shorter than a slice */
    USUAL_SLICE = 1200000, /* where the system does not tell; rather too short than too long */
    AWAY_TIME = 300000,    /* whoever was not back after that had its core taken */
    WORKER_MOVES = 500000, /* at least between two moves of a worker */
    CALLER_LOOKS = 1000000, /* between two looks of the caller at what it lost */
    /* At least between two moves of the caller; a worker that lost nothing for so long has a good core. */
    CALLER_MOVES = 20000000,
};

typedef struct pool_worker {
    _Alignas(LINE_BYTES) sala_pool *pool;
    int index;
    pthread_t thread;
    int64_t on_core_since, moved;
    _Atomic int cpu;           /* where it was last seen */
    _Atomic int64_t last_loss; /* when it was last away from its core for long */
} pool_worker;

struct sala_pool {
    int n_threads;       /* the caller is worker 0 */
    int64_t offer_after; /* a worker's time on its core before it offers it */
    int max_awake;       /* workers that may be awake at a time */
    void *memory;        /* what was allocated for pool and workers */
    pool_worker *workers;
    int64_t caller_looked, caller_moved; /* guarded by turn */
    long caller_losses;
    pthread_t caller; /* whom caller_losses counts for */
    bool has_caller;
    pthread_mutex_t turn; /* one run at a time */

    /* The run, written by its caller before the workers are let in. Workers poll `generation`, not the ticket that
     * others are just taking tasks from. */
    _Alignas(LINE_BYTES) _Atomic uint32_t generation; /* futex: workers sleep on it */
    _Atomic int n_tasks;
    _Atomic(sala_task_fn *) fn;
    _Atomic(void *) user;
    _Atomic int caller_cpu;
    _Atomic bool stop;

    _Alignas(LINE_BYTES) _Atomic uint64_t ticket; /* generation << 32 | next task */

    /* Tasks not reported; the last report releases the results to the caller. */
    _Alignas(LINE_BYTES) _Atomic int n_left;
    _Atomic uint32_t caller_waits; /* futex: 1 while the caller sleeps */

    _Alignas(LINE_BYTES) _Atomic int n_asleep;
};

static _Thread_local int current_worker = -1; /* -1: outside of any task */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns when woken, at once when the word is no longer `value`, and sometimes for no reason. */
static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* ---- places ---- */

/* Moves the calling thread to one of the CPUs and lets it free again. Where the system forbids that nothing happens. */
static void move_to(const cpu_set_t *where, const cpu_set_t *allowed)
{
    if (sched_setaffinity(0, sizeof *where, where) == 0)
        sched_setaffinity(0, sizeof *allowed, allowed);
}

/* A worker on the caller's core goes to where no thread of the pool was last seen, if there is such a place. */
static void leave_callers_core(sala_pool *p, pool_worker *w)
{
    const int cpu = sched_getcpu();
    if (cpu != atomic_load_explicit(&w->cpu, memory_order_relaxed))
        atomic_store_explicit(&w->cpu, cpu, memory_order_relaxed);
    if (cpu != atomic_load_explicit(&p->caller_cpu, memory_order_relaxed))
        return;
    const int64_t now = now_ns();
    if (now - w->moved < WORKER_MOVES)
        return;
    w->moved = now;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    cpu_set_t where = allowed;
    for (int i = 0; i < p->n_threads; i++) {
        const int taken = i == 0 ? cpu : atomic_load_explicit(&p->workers[i].cpu, memory_order_relaxed);
        if (i != w->index && taken >= 0 && taken < CPU_SETSIZE)
            CPU_CLR((size_t)taken, &where);
    }
    if (CPU_COUNT(&where) == 0)
        return;
    move_to(&where, &allowed);
    atomic_store_explicit(&w->cpu, sched_getcpu(), memory_order_relaxed);
    w->on_core_since = now_ns();
}

/* A caller that was made to leave its core since it last looked goes to the core of a worker that was not. */
static void leave_busy_core(sala_pool *p)
{
    const int64_t now = now_ns();
    if (now - p->caller_looked < CALLER_LOOKS)
        return;
    p->caller_looked = now;
    struct rusage use;
    if (getrusage(RUSAGE_THREAD, &use) != 0)
        return;
    const bool same = p->has_caller && pthread_equal(p->caller, pthread_self());
    const bool lost = same && use.ru_nivcsw > p->caller_losses;
    p->caller = pthread_self();
    p->has_caller = true;
    p->caller_losses = use.ru_nivcsw;
    if (!lost || now - p->caller_moved < CALLER_MOVES)
        return;
    cpu_set_t allowed, where;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    const int here = sched_getcpu();
    for (int i = 1; i < p->n_threads; i++) {
        const pool_worker *w = &p->workers[i];
        const int cpu = atomic_load_explicit(&w->cpu, memory_order_relaxed);
        if (cpu < 0 || cpu == here || cpu >= CPU_SETSIZE || !CPU_ISSET((size_t)cpu, &allowed) ||
            now - atomic_load_explicit(&w->last_loss, memory_order_relaxed) < CALLER_MOVES)
            continue;
        CPU_ZERO(&where);
        CPU_SET((size_t)cpu, &where);
        move_to(&where, &allowed);
        p->caller_moved = now;
        return;
    }
}

/* How long a thread may run before the system looks whether others should: Linux 6.12 and later tell. */
static int64_t time_slice(void)
{
    struct { /* the kernel's sched_attr, version 0 */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a = {.size = sizeof a};
    const bool told = syscall(SYS_sched_getattr, 0, &a, (unsigned)sizeof a, 0u) == 0 && a.policy == SCHED_OTHER;
    return told && a.runtime >= 100000 && a.runtime <= 100000000 ? (int64_t)a.runtime : USUAL_SLICE;
}

/* Lets others have the core if they want it. The worker holds no task. */
static void offer_core(pool_worker *w)
{
    const int64_t before = now_ns();
    sched_yield();
    w->on_core_since = now_ns();
    if (w->on_core_since - before > AWAY_TIME)
        atomic_store_explicit(&w->last_loss, w->on_core_since, memory_order_relaxed);
}

/* ---- tasks ---- */

/* Takes and runs tasks of `generation` until none is left, or until the worker's time on its core is over. */
static void work(sala_pool *p, uint32_t generation, pool_worker *w)
{
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    int n_tasks;
    sala_task_fn *fn;
    void *user;
    do {
        if ((uint32_t)(t >> 32) != generation)
            return;
        /* Read before joining. A field of the next run is stored with release after the ticket was closed, so having
         * read one means that the exchange below finds the closed ticket and fails. */
        n_tasks = atomic_load_explicit(&p->n_tasks, memory_order_acquire);
        fn = atomic_load_explicit(&p->fn, memory_order_acquire);
        user = atomic_load_explicit(&p->user, memory_order_acquire);
        if ((uint32_t)t >= (uint32_t)n_tasks)
            return;
    } while (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel, memory_order_acquire));

    int n_done = 0;
    current_worker = w->index;
    for (uint32_t task = (uint32_t)t; task < (uint32_t)n_tasks;) {
        fn(user, (int)task, w->index);
        n_done++;
        if (w->index > 0 && now_ns() - w->on_core_since > p->offer_after)
            break;
        task = (uint32_t)atomic_fetch_add_explicit(&p->ticket, 1, memory_order_relaxed);
    }
    current_worker = -1;
    /* Paired with the caller's store of caller_waits and load of n_left: one of the two sees the other. */
    if (atomic_fetch_sub_explicit(&p->n_left, n_done, memory_order_seq_cst) == n_done &&
        atomic_load_explicit(&p->caller_waits, memory_order_seq_cst)) {
        atomic_store_explicit(&p->caller_waits, 0, memory_order_seq_cst);
        futex_wake(&p->caller_waits, 1);
    }
}

/* ---- workers ---- */

static bool has_news(sala_pool *p, uint32_t seen)
{
    return atomic_load_explicit(&p->generation, memory_order_acquire) != seen;
}

/* Returns when there is a generation other than `seen`. */
static void wait_for_news(sala_pool *p, pool_worker *w, uint32_t seen)
{
    for (const int64_t start = now_ns(); now_ns() - start < POLL_TIME;)
        for (int i = 0; i < 32; i++) {
            if (has_news(p, seen))
                return;
            PAUSE();
        }
    /* Paired with the caller's store of the generation and load of n_asleep. */
    atomic_fetch_add_explicit(&p->n_asleep, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&p->generation, memory_order_seq_cst) == seen)
        futex_wait(&p->generation, seen);
    atomic_fetch_sub_explicit(&p->n_asleep, 1, memory_order_seq_cst);
    w->on_core_since = now_ns();
}

static void *worker_main(void *arg)
{
    pool_worker *w = arg;
    sala_pool *p = w->pool;
    uint32_t seen = 0;
    w->on_core_since = now_ns();
    for (;;) {
        if (now_ns() - w->on_core_since > p->offer_after)
            offer_core(w);
        else
            wait_for_news(p, w, seen);
        /* `stop` is set before the generation that announces it. */
        seen = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (atomic_load_explicit(&p->stop, memory_order_acquire))
            return NULL;
        leave_callers_core(p, w);
        work(p, seen, w);
    }
}

/* ---- the pool ---- */

static int cpus_allowed(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : INT_MAX;
}

static void *lines_alloc(void **memory, size_t bytes)
{
    *memory = calloc(1, bytes + LINE_BYTES);
    return *memory ? (void *)(((uintptr_t)*memory + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES) : NULL;
}

int sala_pool_open_awake(sala_pool **out, int n_threads, int max_awake)
{
    if (n_threads < 1)
        n_threads = sala_os_cpu_count();
    void *memory;
    sala_pool *p = lines_alloc(&memory, sizeof *p + (size_t)n_threads * sizeof *p->workers);
    if (!p)
        return ENOMEM;
    p->memory = memory;
    p->workers = (pool_worker *)(void *)(p + 1);
    p->n_threads = 1;
    p->offer_after = time_slice() / 8 * 7;
    p->max_awake = (max_awake > 0 ? max_awake : cpus_allowed()) - 1;
    if (p->max_awake < 1)
        p->max_awake = 1;
    pthread_mutex_init(&p->turn, NULL);
    for (int i = 0; i < n_threads; i++) {
        p->workers[i].pool = p;
        p->workers[i].index = i;
        atomic_init(&p->workers[i].cpu, -1);
    }
    while (p->n_threads < n_threads) {
        pool_worker *w = &p->workers[p->n_threads];
        const int rc = pthread_create(&w->thread, NULL, worker_main, w);
        if (rc) {
            sala_pool_close(p);
            return rc;
        }
        p->n_threads++;
    }
    *out = p;
    return 0;
}

int sala_pool_open(sala_pool **out, int n_threads)
{
    return sala_pool_open_awake(out, n_threads, 0);
}

void sala_pool_close(sala_pool *p)
{
    if (!p)
        return;
    atomic_store_explicit(&p->stop, true, memory_order_release);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_seq_cst);
    futex_wake(&p->generation, INT_MAX);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->turn);
    free(p->memory);
}

int sala_pool_size(const sala_pool *p)
{
    return p->n_threads;
}

/* Lets workers into a new run; returns its generation. */
static uint32_t begin(sala_pool *p, int n_tasks, sala_task_fn *fn, void *user)
{
    const uint32_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed) + 1;
    /* Close the old generation before its fields change: a late thread's exchange must fail from here on. */
    atomic_store_explicit(&p->ticket, (uint64_t)(generation - 1) << 32 | UINT32_MAX >> 1, memory_order_relaxed);
    atomic_store_explicit(&p->n_tasks, n_tasks, memory_order_release);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->user, user, memory_order_release);
    atomic_store_explicit(&p->n_left, n_tasks, memory_order_relaxed);
    const int cpu = sched_getcpu();
    if (cpu != atomic_load_explicit(&p->caller_cpu, memory_order_relaxed))
        atomic_store_explicit(&p->caller_cpu, cpu, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, (uint64_t)generation << 32, memory_order_release);
    atomic_store_explicit(&p->generation, generation, memory_order_seq_cst);
    const int asleep = atomic_load_explicit(&p->n_asleep, memory_order_seq_cst);
    if (asleep > 0) {
        const int wanted = n_tasks - 1 < p->max_awake ? n_tasks - 1 : p->max_awake;
        const int awake = p->n_threads - 1 - asleep;
        if (wanted > awake)
            futex_wake(&p->generation, wanted - awake);
    }
    return generation;
}

static void wait_for_others(sala_pool *p)
{
    if (atomic_load_explicit(&p->n_left, memory_order_acquire) == 0)
        return;
    for (const int64_t start = now_ns(); now_ns() - start < POLL_TIME;)
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&p->n_left, memory_order_acquire) == 0)
                return;
            PAUSE();
        }
    /* Said again after every return: the last worker of an earlier run may take the word back late. */
    for (;;) {
        atomic_store_explicit(&p->caller_waits, 1, memory_order_seq_cst);
        if (atomic_load_explicit(&p->n_left, memory_order_seq_cst) == 0)
            break;
        futex_wait(&p->caller_waits, 1);
    }
    atomic_store_explicit(&p->caller_waits, 0, memory_order_relaxed);
}

void sala_pool_run(sala_pool *p, int n_tasks, sala_task_fn *fn, void *user)
{
    if (n_tasks <= 0)
        return;
    if (current_worker >= 0) { /* inside a task: this thread already has its turn and its worker number */
        for (int i = 0; i < n_tasks; i++)
            fn(user, i, current_worker);
        return;
    }
    pthread_mutex_lock(&p->turn);
    if (p->n_threads == 1 || n_tasks == 1) {
        current_worker = 0;
        for (int i = 0; i < n_tasks; i++)
            fn(user, i, 0);
        current_worker = -1;
    } else {
        leave_busy_core(p);
        work(p, begin(p, n_tasks, fn, user), &p->workers[0]);
        wait_for_others(p);
    }
    pthread_mutex_unlock(&p->turn);
}
