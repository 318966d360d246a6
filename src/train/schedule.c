#include "train/schedule.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

static double cosine(double from, double to, double x)
{
    return to + (from - to) * (1 + cos(pi * x)) / 2;
}

/* Share of the way from `begin` to `end`; at the end, and beyond it, 1. */
static double progress(int64_t step, int64_t begin, int64_t end)
{
    return step >= end ? 1.0 : (double)(step - begin) / (double)(end - begin);
}

static double tail(const sala_schedule *s, int64_t step)
{
    const double x = progress(step, s->stable_end, s->total);
    switch (s->tail) {
    case SALA_TAIL_HALF_LIFE:
        return s->peak * exp2(-(double)(step - s->stable_end) / s->half_life);
    case SALA_TAIL_EXPONENTIAL: /* a peak of 0 has no ratio, and stays 0 */
        return s->peak > 0 ? s->peak * pow(s->end / s->peak, x) : 0;
    case SALA_TAIL_LINEAR:
        return s->peak + (s->end - s->peak) * x;
    case SALA_TAIL_COSINE:
        return cosine(s->peak, s->end, x);
    case SALA_TAIL_NONE:
        break;
    }
    return s->peak;
}

double sala_schedule_at(const sala_schedule *s, int64_t step)
{
    if (step < 1)
        step = 1;
    if (step <= s->warmup)
        return s->peak * (double)step / (double)s->warmup;
    if (s->kind == SALA_SCHEDULE_COSINE)
        return cosine(s->peak, s->end, progress(step, s->warmup, s->total));
    if (s->kind == SALA_SCHEDULE_WSD && step > s->stable_end)
        return tail(s, step);
    return s->peak;
}
