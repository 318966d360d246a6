/* Turns go round: whoever waits gets the next one but for those who waited before, also against a thread that asks
 * again at once. */
#include "os/os.h"
#include "unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { THREADS = 4, TURNS = 200 };

typedef struct table {
    sala_turn *turn;
    int holders; /* guarded by turn, like the next three */
    int n_wrong;
    int n;
    int log[THREADS * TURNS];
    _Atomic int ready;
} table;

typedef struct guest {
    table *t;
    int index;
} guest;

static void *take_turns(void *user)
{
    const guest *g = user;
    table *t = g->t;
    atomic_fetch_add(&t->ready, 1);
    for (int i = 0; i < TURNS; i++) {
        sala_turn_take(t->turn);
        t->holders++;
        t->n_wrong += t->holders != 1;
        nanosleep(&(struct timespec){0, 200000}, NULL); /* long enough for the others to queue */
        t->log[t->n++] = g->index;
        t->holders--;
        sala_turn_give(t->turn);
    }
    return NULL;
}

static void everybody_in_turn(void **state)
{
    (void)state;
    static table t;
    assert_int_equal(sala_turn_open(&t.turn), 0);
    pthread_t threads[THREADS];
    guest guests[THREADS];
    sala_turn_take(t.turn); /* until all have come */
    for (int i = 0; i < THREADS; i++) {
        guests[i] = (guest){&t, i};
        assert_int_equal(pthread_create(&threads[i], NULL, take_turns, &guests[i]), 0);
    }
    while (atomic_load(&t.ready) < THREADS)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    sala_turn_give(t.turn);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(t.n, THREADS * TURNS);
    assert_int_equal(t.n_wrong, 0);
    /* The same thread twice in a row only where the system kept all others from asking for a whole turn. */
    int again = 0;
    for (int i = 1; i < t.n - TURNS; i++)
        again += t.log[i] == t.log[i - 1];
    assert_true(again < t.n / 20);
    sala_turn_close(t.turn);
}

static void free_turn(void **state)
{
    (void)state;
    sala_turn *turn;
    assert_int_equal(sala_turn_open(&turn), 0);
    for (int i = 0; i < 3; i++) {
        sala_turn_take(turn);
        sala_turn_give(turn);
    }
    sala_turn_close(turn);
    sala_turn_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everybody_in_turn),
        cmocka_unit_test(free_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
