/* The pool runs every task exactly once, whatever the number of threads and tasks, also from several callers at a time
 * and from inside a task. */
#include "os/os.h"
#include "unit/test.h"

#include <pthread.h>
#include <stdatomic.h>

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
        assert_int_equal(sala_pool_open(&b.pool, threads), 0);
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
    assert_int_equal(sala_pool_open(&b.pool, 3), 0);
    for (int i = 0; i < 20000; i++)
        sala_pool_run(b.pool, 3, hit, &b);
    for (int i = 0; i < 3; i++)
        assert_int_equal(atomic_load(&b.hits[i]), 20000);
    sala_pool_close(b.pool);
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
        cmocka_unit_test(every_task_once),
        cmocka_unit_test(many_short_runs),
        cmocka_unit_test(several_callers),
        cmocka_unit_test(from_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
