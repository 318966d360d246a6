/* One process: everything is there already. And what both fillings share: parts, agreeing on errors. */
#include "train/dist_internal.h"

#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static sala_status alone_open(sala_dist **out, double timeout, sala_error *err);

static void alone_close(sala_dist *d)
{
    free(d);
}

static void alone_reduce_begin(sala_dist *d, float *grads, uint64_t begin, uint64_t end)
{
    (void)d;
    (void)grads;
    (void)begin;
    (void)end;
}

static sala_status alone_done(sala_dist *d, sala_error *err)
{
    (void)d;
    (void)err;
    return SALA_OK;
}

static sala_status alone_gather(sala_dist *d, float *values, uint64_t begin, uint64_t end, sala_error *err)
{
    (void)values;
    (void)begin;
    (void)end;
    return alone_done(d, err);
}

static sala_status alone_sum(sala_dist *d, double *x, int n, sala_error *err)
{
    (void)x;
    (void)n;
    return alone_done(d, err);
}

static sala_status alone_broadcast(sala_dist *d, void *data, uint64_t bytes, sala_error *err)
{
    (void)data;
    (void)bytes;
    return alone_done(d, err);
}

static void alone_abort(sala_dist *d, const char *message)
{
    (void)d;
    (void)message;
}

const sala_dist_ops sala_dist_alone = {.abi = SALA_DIST_ABI,
                                       .open = alone_open,
                                       .close = alone_close,
                                       .reduce_begin = alone_reduce_begin,
                                       .reduce_end = alone_done,
                                       .gather = alone_gather,
                                       .sum = alone_sum,
                                       .barrier = alone_done,
                                       .broadcast = alone_broadcast,
                                       .abort = alone_abort};

static sala_status alone_open(sala_dist **out, double timeout, sala_error *err)
{
    char host[65];
    sala_dist *d = calloc(1, sizeof *d);
    (void)timeout;
    if (!d)
        return sala_fail_memory(err, sizeof *d);
    d->ops = &sala_dist_alone;
    d->size = d->host_size = 1;
    sala_os_host_name(host, sizeof host);
    snprintf(d->name, sizeof d->name, "rank 0 (host %s, process %" PRId64 ")", host, sala_os_process_id());
    *out = d;
    return SALA_OK;
}

void sala_dist_close(sala_dist *d)
{
    if (d)
        d->ops->close(d);
}

void sala_dist_part(const sala_dist *d, int rank, uint64_t begin, uint64_t end, uint64_t *part_begin,
                    uint64_t *part_end)
{
    enum { UNIT = 16 };
    const uint64_t n = end - begin, units = (n + UNIT - 1) / UNIT;
    const uint64_t share = units / (uint64_t)d->size, more = units % (uint64_t)d->size, r = (uint64_t)rank;
    /* The first ranks take the units that do not divide evenly. */
    const uint64_t from = r * share + (r < more ? r : more), to = from + share + (r < more);
    *part_begin = begin + (from * UNIT < n ? from * UNIT : n);
    *part_end = begin + (to * UNIT < n ? to * UNIT : n);
}

sala_status sala_dist_agree(sala_dist *d, sala_status st, sala_error *err)
{
    if (d->size == 1)
        return st;
    /* The first failing rank: the largest of size - rank among those that fail, found by a sum with a place for each.
     */
    double *failed = calloc((size_t)d->size, sizeof *failed);
    if (!failed)
        return sala_fail_memory(err, (uint64_t)d->size * sizeof *failed);
    failed[d->rank] = st != SALA_OK;
    sala_error other = {0};
    const sala_status summed = d->ops->sum(d, failed, d->size, &other);
    int first = 0;
    while (first < d->size && failed[first] == 0)
        first++;
    free(failed);
    if (st != SALA_OK)
        return st;
    if (summed != SALA_OK) {
        if (err)
            *err = other;
        return summed;
    }
    if (first < d->size)
        return sala_fail(err, SALA_E_IO, "rank %d failed; its own message says why", first);
    return SALA_OK;
}
