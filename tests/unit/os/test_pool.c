/* The pool runs every task exactly once, whatever the number of threads and tasks, also from several callers at a time
 * and from inside a task. */
#include "os/os.h"
#include "unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { MAX_TASKS = 5000 };

typedef struct board {
    _Atomic int hits[MAX_TASKS];
    _Atomic int bad_worker;
    sala_pool *pool;
} board;

static void hit(void *user, int task, int worker)
{
    board *b = user;
    atomic_fetch_add(&b->hits[task], 1);
    if (worker < 0 || worker >= sala_pool_size(b->pool))
        atomic_fetch_add(&b->bad_worker, 1);
}

static void nap(long ns)
{
    nanosleep(&(struct timespec){0, ns}, NULL);
}

static void run_and_check(board *b, int n_tasks)
{
    for (int i = 0; i < MAX_TASKS; i++)
        atomic_store(&b->hits[i], 0);
    sala_pool_run(b->pool, n_tasks, hit, b);
    for (int i = 0; i < MAX_TASKS; i++)
        assert_int_equal(atomic_load(&b->hits[i]), i < n_tasks ? 1 : 0);
    assert_int_equal(atomic_load(&b->bad_worker), 0);
}

static void every_task_once(void **state)
{
    (void)state;
    static board b;
    static const int sizes[] = {0, 1, 2, 3, 7, 64, 1000, MAX_TASKS};
    for (int threads = 1; threads <= 5; threads++) {
        assert_int_equal(sala_pool_open_awake(&b.pool, threads, threads), 0);
        assert_int_equal(sala_pool_size(b.pool), threads);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            run_and_check(&b, sizes[i]);
        sala_pool_close(b.pool);
    }
}

static void many_short_runs(void **state)
{
    (void)state;
    static board b;
    assert_int_equal(sala_pool_open_awake(&b.pool, 3, 3), 0);
    for (int i = 0; i < 20000; i++)
        sala_pool_run(b.pool, 3, hit, &b);
    for (int i = 0; i < 3; i++)
        assert_int_equal(atomic_load(&b.hits[i]), 20000);
    sala_pool_close(b.pool);
}

/* Pools that end while their workers poll, sleep, and have never had work. */
static void open_and_close(void **state)
{
    (void)state;
    static board b;
    for (int i = 0; i < 300; i++) {
        assert_int_equal(sala_pool_open_awake(&b.pool, 1 + i % 5, i % 4), 0);
        if (i % 3)
            run_and_check(&b, i % 7);
        if (i % 10 == 0)
            nap(i * 1000);
        sala_pool_close(b.pool);
    }
}

/* Gaps that let workers fall asleep, or nearly, before the next run wakes them. */
static void gaps(void **state)
{
    (void)state;
    static board b;
    static const long ns[] = {0, 20000, 45000, 50000, 55000, 80000, 200000};
    for (int i = 0; i < 5; i++)
        atomic_store(&b.hits[i], 0);
    assert_int_equal(sala_pool_open_awake(&b.pool, 3, 3), 0);
    for (int i = 0; i < 1400; i++) {
        sala_pool_run(b.pool, 5, hit, &b);
        nap(ns[i % 7]);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(atomic_load(&b.hits[i]), 1400);
    sala_pool_close(b.pool);
}

static void slow_task(void *user, int task, int worker)
{
    nap(task % 4 ? 1000 : 1500000);
    hit(user, task, worker);
}

/* Tasks that outlast polling and a worker's time on its core: the caller sleeps, workers leave a run and join again. */
static void slow_tasks(void **state)
{
    (void)state;
    static board b;
    assert_int_equal(sala_pool_open_awake(&b.pool, 4, 4), 0);
    for (int i = 0; i < 60; i++) {
        for (int t = 0; t < 9; t++)
            atomic_store(&b.hits[t], 0);
        sala_pool_run(b.pool, 9, slow_task, &b);
        for (int t = 0; t < 9; t++)
            assert_int_equal(atomic_load(&b.hits[t]), 1);
    }
    sala_pool_close(b.pool);
}

/* What tasks wrote is there when the run returns, and what the caller wrote before it is there for the tasks, without
 * any atomics of theirs: for ThreadSanitizer, and for the sums. */
typedef struct relay {
    int64_t value[64];
    int64_t sum;
} relay;

static void add_sum(void *user, int task, int worker)
{
    (void)worker;
    relay *r = user;
    r->value[task] += r->sum + task;
}

static void results_are_seen(void **state)
{
    (void)state;
    relay r = {0}, want = {0};
    sala_pool *pool;
    assert_int_equal(sala_pool_open_awake(&pool, 4, 4), 0);
    for (int i = 0; i < 5000; i++) {
        const int n = 2 + i % 63;
        sala_pool_run(pool, n, add_sum, &r);
        for (int t = 0; t < n; t++)
            add_sum(&want, t, 0);
        r.sum = want.sum = 0;
        for (int t = 0; t < 64; t++) {
            r.sum = (r.sum * 31 + r.value[t]) & 0xffffff;
            want.sum = (want.sum * 31 + want.value[t]) & 0xffffff;
        }
        assert_int_equal(r.sum, want.sum);
    }
    sala_pool_close(pool);
}

static void *caller(void *user)
{
    board *b = user;
    for (int i = 0; i < 2000; i++)
        sala_pool_run(b->pool, 5, hit, b);
    return NULL;
}

static void several_callers(void **state)
{
    (void)state;
    static board b;
    pthread_t t[3];
    assert_int_equal(sala_pool_open(&b.pool, 2), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, caller, &b), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < 5; i++)
        assert_int_equal(atomic_load(&b.hits[i]), 6000);
    sala_pool_close(b.pool);
}

static void nest(void *user, int task, int worker)
{
    (void)task;
    (void)worker;
    board *b = user;
    sala_pool_run(b->pool, 10, hit, b);
}

static void from_inside(void **state)
{
    (void)state;
    static board b;
    assert_int_equal(sala_pool_open(&b.pool, 2), 0);
    sala_pool_run(b.pool, 8, nest, &b);
    for (int i = 0; i < 10; i++)
        assert_int_equal(atomic_load(&b.hits[i]), 8);
    sala_pool_close(b.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_once), cmocka_unit_test(many_short_runs),
        cmocka_unit_test(open_and_close),  cmocka_unit_test(gaps),
        cmocka_unit_test(slow_tasks),      cmocka_unit_test(results_are_seen),
        cmocka_unit_test(several_callers), cmocka_unit_test(from_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
