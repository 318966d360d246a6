/* The thread pool: work is a counter that threads take tasks from; nobody is assigned anything beforehand, so a thread
 * that the system took off its core delays only the task it holds.
 *
 * One run is a generation. `ticket` packs generation (high 32 bits) and next task (low 32 bits) into one word, so that
 * a late thread cannot take a task of a run that it knows nothing of. Threads that find nothing to do spin for a short
 * while (the next layer's work comes within microseconds during decoding) and then sleep on a condition variable. */
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* About 20 microseconds of polling: longer than the gaps between operations of a decode step, far shorter than a
 * scheduler's time slice. */
enum { SPIN_ROUNDS = 400 };

struct sala_pool {
    int n_threads;
    pthread_t *threads;
    pthread_mutex_t turn;    /* one run at a time */
    pthread_mutex_t lock;    /* guards sleeping */
    pthread_cond_t wake;     /* workers wait for a new generation */
    pthread_cond_t done;     /* the caller waits for the last task */
    _Atomic uint64_t ticket; /* generation << 32 | next task; published with release after the fields below */
    _Atomic int n_tasks;
    _Atomic(sala_task_fn *) fn;
    _Atomic(void *) user;
    _Atomic int n_left; /* tasks not yet finished; the last decrement releases the results to the caller */
    _Atomic int n_asleep;
    _Atomic bool caller_waits;
    _Atomic bool stop;
};

static _Thread_local int current_worker = -1; /* -1: outside of any task */

typedef struct worker_arg {
    sala_pool *pool;
    int index;
} worker_arg;

/* Takes and runs tasks of `generation` until none is left. */
static void work(sala_pool *p, uint32_t generation, int worker)
{
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    while ((uint32_t)(t >> 32) == generation) {
        const int task = (int)(uint32_t)t;
        /* Read before the claim. A field of the next run is stored with release after the ticket was closed, so having
         * read one means that the claim below finds the closed ticket and fails. */
        const int n_tasks = atomic_load_explicit(&p->n_tasks, memory_order_acquire);
        sala_task_fn *fn = atomic_load_explicit(&p->fn, memory_order_acquire);
        void *user = atomic_load_explicit(&p->user, memory_order_acquire);
        if (task >= n_tasks)
            return;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t + 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        current_worker = worker;
        fn(user, task, worker);
        current_worker = -1;
        /* Paired with the caller's store of caller_waits and load of n_left: one of the two sees the other. */
        if (atomic_fetch_sub_explicit(&p->n_left, 1, memory_order_seq_cst) == 1 &&
            atomic_load_explicit(&p->caller_waits, memory_order_seq_cst)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
        t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
}

static bool has_work(sala_pool *p, uint32_t seen)
{
    return (uint32_t)(atomic_load_explicit(&p->ticket, memory_order_seq_cst) >> 32) != seen ||
           atomic_load_explicit(&p->stop, memory_order_relaxed);
}

static void *worker_main(void *arg)
{
    const worker_arg w = *(worker_arg *)arg;
    free(arg);
    sala_pool *p = w.pool;
    uint32_t seen = 0;
    for (;;) {
        int spins = 0;
        while (!has_work(p, seen) && spins < SPIN_ROUNDS) {
            PAUSE();
            spins++;
        }
        if (!has_work(p, seen)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->n_asleep, 1);
            while (!has_work(p, seen))
                pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->n_asleep, 1);
            pthread_mutex_unlock(&p->lock);
        }
        if (atomic_load(&p->stop))
            return NULL;
        seen = (uint32_t)(atomic_load_explicit(&p->ticket, memory_order_acquire) >> 32);
        work(p, seen, w.index);
    }
}

int sala_pool_open(sala_pool **out, int n_threads)
{
    if (n_threads < 1)
        n_threads = sala_os_cpu_count();
    sala_pool *p = calloc(1, sizeof *p);
    if (!p)
        return ENOMEM;
    p->n_threads = 1;
    pthread_mutex_init(&p->turn, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->threads = calloc((size_t)n_threads, sizeof *p->threads);
    int rc = p->threads ? 0 : ENOMEM;
    while (rc == 0 && p->n_threads < n_threads) {
        worker_arg *arg = malloc(sizeof *arg);
        if (!arg) {
            rc = ENOMEM;
            break;
        }
        *arg = (worker_arg){p, p->n_threads};
        rc = pthread_create(&p->threads[p->n_threads - 1], NULL, worker_main, arg);
        if (rc)
            free(arg);
        else
            p->n_threads++;
    }
    if (rc) {
        sala_pool_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void sala_pool_close(sala_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i + 1 < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->turn);
    free(p->threads);
    free(p);
}

int sala_pool_size(const sala_pool *p)
{
    return p->n_threads;
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
        pthread_mutex_unlock(&p->turn);
        return;
    }
    const uint32_t generation = (uint32_t)(atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    /* Close the old generation before its fields change: a late thread's claim must fail from here on. */
    atomic_store_explicit(&p->ticket, (uint64_t)(generation - 1) << 32 | INT32_MAX, memory_order_seq_cst);
    atomic_store_explicit(&p->n_tasks, n_tasks, memory_order_release);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->user, user, memory_order_release);
    atomic_store_explicit(&p->n_left, n_tasks, memory_order_relaxed);
    atomic_store_explicit(&p->caller_waits, false, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, (uint64_t)generation << 32, memory_order_seq_cst);
    if (atomic_load_explicit(&p->n_asleep, memory_order_seq_cst) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    work(p, generation, 0);
    for (int spins = 0; spins < SPIN_ROUNDS && atomic_load_explicit(&p->n_left, memory_order_acquire) > 0; spins++)
        PAUSE();
    if (atomic_load_explicit(&p->n_left, memory_order_acquire) > 0) {
        pthread_mutex_lock(&p->lock);
        atomic_store_explicit(&p->caller_waits, true, memory_order_seq_cst);
        while (atomic_load_explicit(&p->n_left, memory_order_seq_cst) > 0)
            pthread_cond_wait(&p->done, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_unlock(&p->turn);
}
