/* Turns: a lock that goes to whoever has waited longest. A mutex goes to whoever asks first after it was given back,
 * which is the thread that just had it: a second session would wait until the first has read all of its prompt. */
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

typedef struct waiter waiter;
struct waiter {
    pthread_cond_t called;
    bool is_called;
    waiter *next;
};

struct sala_turn {
    pthread_mutex_t lock;
    bool taken;           /* passes from thread to thread without being cleared in between */
    waiter *first, *last; /* on the stacks of those who wait */
};

int sala_turn_open(sala_turn **out)
{
    sala_turn *t = calloc(1, sizeof *t);
    if (!t)
        return ENOMEM;
    pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return 0;
}

void sala_turn_close(sala_turn *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void sala_turn_take(sala_turn *t)
{
    pthread_mutex_lock(&t->lock);
    if (!t->taken) {
        t->taken = true;
    } else {
        waiter w = {.called = PTHREAD_COND_INITIALIZER};
        if (t->last)
            t->last->next = &w;
        else
            t->first = &w;
        t->last = &w;
        while (!w.is_called)
            pthread_cond_wait(&w.called, &t->lock);
        pthread_cond_destroy(&w.called);
    }
    pthread_mutex_unlock(&t->lock);
}

void sala_turn_give(sala_turn *t)
{
    pthread_mutex_lock(&t->lock);
    waiter *w = t->first;
    if (w) {
        t->first = w->next;
        if (!t->first)
            t->last = NULL;
        w->is_called = true;
        pthread_cond_signal(&w->called);
    } else {
        t->taken = false;
    }
    pthread_mutex_unlock(&t->lock);
}
