/* What a step's loss and gradient say about whether it may change the parameters. The statistics are part of a run's
 * state: a resumed run decides as the unbroken one. */
#ifndef SALA_TRAIN_GUARD_H
#define SALA_TRAIN_GUARD_H

#include <stdint.h>

/* So many steps in a row whose loss or gradient is not finite end a run. */
enum { SALA_GUARD_MOST_BAD = 5 };

typedef enum sala_verdict {
    SALA_VERDICT_GOOD,
    SALA_VERDICT_SPIKE,      /* the loss stands out: the step is passed over */
    SALA_VERDICT_NOT_FINITE, /* loss or gradient: likewise */
    SALA_VERDICT_EMPTY,      /* no token of the step had a label; the trainer's own verdict */
} sala_verdict;

typedef struct sala_guard {
    double z;       /* deviations above the mean from which on a loss is a spike; 0: none is */
    int64_t window; /* steps that mean and deviation speak of */
} sala_guard;

typedef struct sala_guard_state {
    double mean, variance; /* of the losses of good steps, the last ones weighing most */
    int64_t n_seen;        /* good steps so far */
    int64_t spikes, bad;   /* in a row: spikes, and steps that are not finite */
} sala_guard_state;

/* Judges a step and takes it into the state. */
sala_verdict sala_guard_judge(const sala_guard *g, sala_guard_state *s, double loss, double grad_norm);
/* "spike", "not finite", "no targets"; NULL for good steps. */
const char *sala_verdict_name(sala_verdict v);

#endif
