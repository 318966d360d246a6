/* The middle of some samples, for the benchmarks. */
#ifndef SALA_CLI_MEDIAN_H
#define SALA_CLI_MEDIAN_H

#include <stdlib.h>
#include <string.h>

static inline int cli_compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* scratch has room for n. */
static inline double cli_median(const double *v, int n, double *scratch)
{
    memcpy(scratch, v, (size_t)n * sizeof *v);
    qsort(scratch, (size_t)n, sizeof *v, cli_compare_doubles);
    return n % 2 ? scratch[n / 2] : (scratch[n / 2 - 1] + scratch[n / 2]) / 2;
}

#endif
