#include "train/guard.h"

#include <math.h>
#include <stddef.h>

/* Deviations below this are not told apart: a run that has converged would call every ripple a spike. */
static const double least_deviation = 0.01;

static void take(const sala_guard *g, sala_guard_state *s, double loss)
{
    /* A plain mean of the first steps, then exponential weights: the first loss, the highest of all, would otherwise
     * stay in the mean for as long as the window is. */
    const double steady = 2.0 / ((double)g->window + 1), first = 1.0 / ((double)s->n_seen + 1);
    const double weight = first > steady ? first : steady, off = loss - s->mean;
    s->mean += weight * off;
    s->variance = (1 - weight) * (s->variance + weight * off * off);
    s->n_seen++;
    s->spikes = s->bad = 0;
}

sala_verdict sala_guard_judge(const sala_guard *g, sala_guard_state *s, double loss, double grad_norm)
{
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        s->bad++;
        return SALA_VERDICT_NOT_FINITE;
    }
    s->bad = 0;
    const double deviation = fmax(sqrt(s->variance), least_deviation);
    if (g->z > 0 && s->n_seen >= g->window / 2 && loss - s->mean > g->z * deviation) {
        s->spikes++;
        return SALA_VERDICT_SPIKE;
    }
    take(g, s, loss);
    return SALA_VERDICT_GOOD;
}

const char *sala_verdict_name(sala_verdict v)
{
    static const char *const names[] = {
        [SALA_VERDICT_SPIKE] = "spike", [SALA_VERDICT_NOT_FINITE] = "not finite", [SALA_VERDICT_EMPTY] = "no targets"};
    return v <= SALA_VERDICT_EMPTY ? names[v] : NULL;
}
