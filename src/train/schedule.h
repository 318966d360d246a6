/* Learning rate as a function of the step alone: resuming needs no state. Step 1 is the first. */
#ifndef SALA_TRAIN_SCHEDULE_H
#define SALA_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef enum sala_schedule_kind { SALA_SCHEDULE_WSD, SALA_SCHEDULE_COSINE, SALA_SCHEDULE_CONSTANT } sala_schedule_kind;
typedef enum sala_tail {
    SALA_TAIL_NONE,
    SALA_TAIL_HALF_LIFE,   /* 2^(-(s-T)/half_life) */
    SALA_TAIL_EXPONENTIAL, /* (end/peak)^((s-T)/(S-T)) */
    SALA_TAIL_LINEAR,
    SALA_TAIL_COSINE, /* end + (peak-end)(1+cos(pi x))/2 */
} sala_tail;

typedef struct sala_schedule {
    sala_schedule_kind kind;
    sala_tail tail;
    int64_t warmup, stable_end, total; /* W, T, S */
    double peak, end, half_life;
} sala_schedule;

double sala_schedule_at(const sala_schedule *s, int64_t step);

#endif
