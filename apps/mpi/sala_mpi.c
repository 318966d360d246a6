/* The plug-in for several processes, over Open MPI. It fills the table of train/dist.h and is loaded under mpirun only.
 *
 * One thread of its own adds up gradients while the main thread computes; all other calls come from the main thread.
 * Requests never block: every wait is a loop of tests, in which MPI is entered under one lock (MPI_THREAD_SERIALIZED),
 * and between which a rank that is gone is noticed: on the same machine by its process id, elsewhere by the silence of
 * its heartbeat. Sums are made in the order of ranks, so that their bits depend on nothing else.
 *
 * Three communicators keep apart what must not be confused: collectives of the main thread, gradients of the other, and
 * heartbeats with their last words. */
#include "train/dist.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_QUEUE = 4096, ADD_BLOCK = 2048, TAG_BEAT = 1, TAG_LAST_WORDS = 2, WORDS_BYTES = 400, MAX_COUNT = 1 << 30 };
static const double BEAT_EVERY = 5, LOOK_EVERY = 0.2; /* seconds */

typedef struct peer {
    char host[64];
    int64_t pid;
    bool visible; /* on this machine, and its process id means something here */
    double seen;  /* when its heartbeat was last heard */
} peer;

typedef struct bucket {
    float *grads;
    uint64_t begin, end;
} bucket;

typedef struct mpi_dist {
    sala_dist base; /* first: callers hold a pointer to it */
    MPI_Comm main, grads, beat;
    pthread_mutex_t entry; /* around every call into MPI */
    peer *peers;
    double timeout, looked, beaten;
    atomic_int gone; /* 1 + the first rank that is gone or has sent last words; 0: none; set once, under `entry` */
    char words[WORDS_BYTES + 1]; /* its last words; they do not change once `gone` is set */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bucket queue[MAX_QUEUE];
    uint64_t pushed, done;
    bool quit, failed;
    sala_error error; /* of the thread */
    float *pieces;    /* [size][largest part], the thread's */
    uint64_t piece_cap;
    MPI_Request *requests; /* [2 size] */
} mpi_dist;

static void nap(void)
{
    const struct timespec t = {0, 50000};
    nanosleep(&t, NULL);
}

/* ---- who is there ---- */

static const char *peer_name(const mpi_dist *m, int rank, char dst[128])
{
    snprintf(dst, 128, "rank %d (host %s, process %" PRId64 ")", rank, m->peers[rank].host, m->peers[rank].pid);
    return dst;
}

/* Sends and hears heartbeats and last words. Called with `entry` held. */
static void beat(mpi_dist *m, double now)
{
    const sala_dist *d = &m->base;
    if (now - m->beaten >= BEAT_EVERY) {
        m->beaten = now;
        for (int r = 0; r < d->size; r++) {
            MPI_Request request;
            if (r != d->rank && !m->peers[r].visible &&
                MPI_Isend(NULL, 0, MPI_BYTE, r, TAG_BEAT, m->beat, &request) == MPI_SUCCESS)
                MPI_Request_free(&request); /* nothing is sent but the fact */
        }
    }
    for (;;) {
        int there = 0;
        MPI_Status from;
        if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, m->beat, &there, &from) != MPI_SUCCESS || !there)
            return;
        char words[WORDS_BYTES + 1] = "";
        MPI_Status got;
        if (MPI_Recv(words, WORDS_BYTES, MPI_BYTE, from.MPI_SOURCE, from.MPI_TAG, m->beat, &got) != MPI_SUCCESS)
            return;
        m->peers[from.MPI_SOURCE].seen = now;
        if (from.MPI_TAG == TAG_LAST_WORDS && atomic_load(&m->gone) == 0) {
            memcpy(m->words, words, sizeof words);
            atomic_store(&m->gone, 1 + from.MPI_SOURCE);
        }
    }
}

/* Notices who is gone. Called with `entry` held. */
static void look(mpi_dist *m)
{
    const double now = sala_os_seconds();
    if (now - m->looked < LOOK_EVERY)
        return;
    m->looked = now;
    beat(m, now);
    for (int r = 0; r < m->base.size; r++) {
        const peer *p = &m->peers[r];
        const bool gone = p->visible ? kill((pid_t)p->pid, 0) != 0 && errno == ESRCH : now - p->seen > m->timeout;
        if (r != m->base.rank && gone && atomic_load(&m->gone) == 0)
            atomic_store(&m->gone, 1 + r);
    }
}

static sala_status told(mpi_dist *m, sala_error *err)
{
    char name[128];
    const int r = atomic_load(&m->gone) - 1;
    if (m->words[0])
        return sala_fail(err, SALA_E_IO, "%s stopped: %s", peer_name(m, r, name), m->words);
    return sala_fail(err, SALA_E_IO, "%s is gone", peer_name(m, r, name));
}

static sala_status mpi_failed(int code, const char *what, sala_error *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(code, text, &n);
    return sala_fail(err, SALA_E_IO, "MPI: %s: %s", what, text);
}

/* Until all requests are done or somebody is gone. Sleeps only when nothing has happened for a while. */
static sala_status wait_all(mpi_dist *m, MPI_Request *requests, int n, const char *what, sala_error *err)
{
    for (uint64_t turn = 0;; turn++) {
        int done = 0;
        pthread_mutex_lock(&m->entry);
        const int rc = MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE);
        if (!done && turn > 64)
            look(m);
        pthread_mutex_unlock(&m->entry);
        if (rc != MPI_SUCCESS)
            return mpi_failed(rc, what, err);
        if (done)
            return SALA_OK;
        if (atomic_load(&m->gone))
            return told(m, err);
        if (turn > 256)
            nap();
    }
}

/* ---- gradients: the thread ---- */

static void part_of(const mpi_dist *m, int rank, const bucket *b, uint64_t *begin, uint64_t *end)
{
    sala_dist_part(&m->base, rank, b->begin, b->end, begin, end);
}

/* piece(0) + piece(1) + ..., this rank's own standing in `own`, into `own`. */
static void add_in_order(const mpi_dist *m, float *own, uint64_t n, uint64_t stride)
{
    float sum[ADD_BLOCK];
    for (uint64_t at = 0; at < n; at += ADD_BLOCK) {
        const size_t block = n - at < ADD_BLOCK ? (size_t)(n - at) : ADD_BLOCK;
        for (int r = 0; r < m->base.size; r++) {
            const float *piece = r == m->base.rank ? own + at : m->pieces + (uint64_t)r * stride + at;
            if (r == 0)
                memcpy(sum, piece, block * sizeof *sum);
            else
                for (size_t i = 0; i < block; i++)
                    sum[i] += piece[i];
        }
        memcpy(own + at, sum, block * sizeof *sum);
    }
}

static sala_status reduce_bucket(mpi_dist *m, const bucket *b, sala_error *err)
{
    const sala_dist *d = &m->base;
    uint64_t begin, end;
    part_of(m, 0, b, &begin, &end); /* the first rank's part is the largest */
    const uint64_t stride = end - begin;
    if (stride > MAX_COUNT)
        return sala_fail(err, SALA_E_LIMIT, "a layer has %" PRIu64 " weights for each rank, expected at most 2^30",
                         stride);
    if (stride > m->piece_cap) {
        float *more = realloc(m->pieces, (size_t)(stride * (uint64_t)d->size) * sizeof *more);
        if (!more)
            return sala_fail_memory(err, stride * (uint64_t)d->size * sizeof *more);
        m->pieces = more;
        m->piece_cap = stride;
    }
    int n = 0, rc = MPI_SUCCESS;
    part_of(m, d->rank, b, &begin, &end);
    pthread_mutex_lock(&m->entry);
    for (int r = 0; r < d->size && rc == MPI_SUCCESS; r++)
        if (r != d->rank && end > begin) {
            rc = MPI_Irecv(m->pieces + (uint64_t)r * stride, (int)(end - begin), MPI_FLOAT, r, 0, m->grads,
                           &m->requests[n]);
            n += rc == MPI_SUCCESS;
        }
    for (int r = 0; r < d->size && rc == MPI_SUCCESS; r++) {
        uint64_t from, to;
        part_of(m, r, b, &from, &to);
        if (r != d->rank && to > from) {
            rc = MPI_Isend(b->grads + from, (int)(to - from), MPI_FLOAT, r, 0, m->grads, &m->requests[n]);
            n += rc == MPI_SUCCESS;
        }
    }
    pthread_mutex_unlock(&m->entry);
    if (rc != MPI_SUCCESS)
        return mpi_failed(rc, "sending gradients", err);
    const sala_status st = wait_all(m, m->requests, n, "sending gradients", err);
    if (st == SALA_OK)
        add_in_order(m, b->grads + begin, end - begin, stride);
    return st;
}

static void *work(void *user)
{
    mpi_dist *m = user;
    pthread_mutex_lock(&m->lock);
    while (!m->quit) {
        if (m->done == m->pushed) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += 1;
            pthread_cond_timedwait(&m->changed, &m->lock, &until);
            if (m->done == m->pushed && !m->quit) {
                pthread_mutex_unlock(&m->lock);
                pthread_mutex_lock(&m->entry);
                look(m); /* others wait for our heartbeat while we compute */
                pthread_mutex_unlock(&m->entry);
                pthread_mutex_lock(&m->lock);
            }
            continue;
        }
        const bucket b = m->queue[m->done % MAX_QUEUE];
        const bool skip = m->failed;
        pthread_mutex_unlock(&m->lock);
        sala_error error = {0};
        const sala_status st = skip ? SALA_OK : reduce_bucket(m, &b, &error);
        pthread_mutex_lock(&m->lock);
        if (st != SALA_OK) {
            m->failed = true;
            m->error = error;
        }
        m->done++;
        pthread_cond_broadcast(&m->changed);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* ---- the table ---- */

static mpi_dist *self(sala_dist *d)
{
    return (mpi_dist *)(void *)d;
}

static void mpi_reduce_begin(sala_dist *d, float *grads, uint64_t begin, uint64_t end)
{
    mpi_dist *m = self(d);
    pthread_mutex_lock(&m->lock);
    while (m->pushed - m->done == MAX_QUEUE)
        pthread_cond_wait(&m->changed, &m->lock);
    m->queue[m->pushed++ % MAX_QUEUE] = (bucket){grads, begin, end};
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static sala_status mpi_reduce_end(sala_dist *d, sala_error *err)
{
    mpi_dist *m = self(d);
    pthread_mutex_lock(&m->lock);
    while (m->done != m->pushed)
        pthread_cond_wait(&m->changed, &m->lock);
    const bool failed = m->failed;
    const sala_error error = m->error;
    pthread_mutex_unlock(&m->lock);
    if (failed && err)
        *err = error;
    return failed ? error.code : SALA_OK;
}

/* Finishes a collective that was begun under the lock. */
static sala_status finish(mpi_dist *m, int rc, MPI_Request request, const char *what, sala_error *err)
{
    pthread_mutex_unlock(&m->entry);
    if (rc != MPI_SUCCESS)
        return mpi_failed(rc, what, err);
    return wait_all(m, &request, 1, what, err);
}

static sala_status mpi_gather(sala_dist *d, float *values, uint64_t begin, uint64_t end, sala_error *err)
{
    mpi_dist *m = self(d);
    if (end - begin > MAX_COUNT)
        return sala_fail(err, SALA_E_LIMIT, "a layer has %" PRIu64 " weights, expected at most 2^30", end - begin);
    int *counts = malloc(2 * (size_t)d->size * sizeof *counts);
    if (!counts)
        return sala_fail_memory(err, 2 * (uint64_t)d->size * sizeof *counts);
    for (int r = 0; r < d->size; r++) {
        uint64_t from, to;
        sala_dist_part(d, r, begin, end, &from, &to);
        counts[r] = (int)(to - from);
        counts[d->size + r] = (int)(from - begin);
    }
    MPI_Request request;
    pthread_mutex_lock(&m->entry);
    const int rc = MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values + begin, counts, counts + d->size,
                                   MPI_FLOAT, m->main, &request);
    const sala_status st = finish(m, rc, request, "gathering weights", err);
    free(counts);
    return st;
}

static sala_status mpi_sum(sala_dist *d, double *x, int n, sala_error *err)
{
    mpi_dist *m = self(d);
    double *all = malloc((size_t)n * (size_t)d->size * sizeof *all);
    if (!all)
        return sala_fail_memory(err, (uint64_t)n * (uint64_t)d->size * sizeof *all);
    MPI_Request request;
    pthread_mutex_lock(&m->entry);
    const int rc = MPI_Iallgather(x, n, MPI_DOUBLE, all, n, MPI_DOUBLE, m->main, &request);
    const sala_status st = finish(m, rc, request, "adding up", err);
    for (int i = 0; i < n && st == SALA_OK; i++) {
        double sum = all[i];
        for (int r = 1; r < d->size; r++)
            sum += all[(size_t)r * (size_t)n + (size_t)i];
        x[i] = sum;
    }
    free(all);
    return st;
}

static sala_status mpi_barrier(sala_dist *d, sala_error *err)
{
    mpi_dist *m = self(d);
    MPI_Request request;
    pthread_mutex_lock(&m->entry);
    const int rc = MPI_Ibarrier(m->main, &request);
    return finish(m, rc, request, "waiting for all", err);
}

static sala_status mpi_broadcast(sala_dist *d, void *data, uint64_t bytes, sala_error *err)
{
    mpi_dist *m = self(d);
    uint8_t *p = data;
    while (bytes > 0) {
        const int n = bytes > MAX_COUNT ? MAX_COUNT : (int)bytes;
        MPI_Request request;
        pthread_mutex_lock(&m->entry);
        const int rc = MPI_Ibcast(p, n, MPI_BYTE, 0, m->main, &request);
        const sala_status st = finish(m, rc, request, "sending to all", err);
        if (st != SALA_OK)
            return st;
        p += n;
        bytes -= (uint64_t)n;
    }
    return SALA_OK;
}

static void mpi_abort(sala_dist *d, const char *message)
{
    mpi_dist *m = self(d);
    char words[WORDS_BYTES] = "";
    snprintf(words, sizeof words, "%s", message);
    pthread_mutex_lock(&m->entry);
    if (!atomic_load(&m->gone)) {
        for (int r = 0; r < d->size; r++) {
            MPI_Request request;
            if (r != d->rank &&
                MPI_Isend(words, (int)strlen(words) + 1, MPI_BYTE, r, TAG_LAST_WORDS, m->beat, &request) == MPI_SUCCESS)
                MPI_Request_free(&request);
        }
    }
    /* The others look five times a second: they should have read, or seen who is gone, before they are ended. */
    const struct timespec t = {0, 600000000};
    nanosleep(&t, NULL);
    MPI_Abort(MPI_COMM_WORLD, 1);
    pthread_mutex_unlock(&m->entry);
}

static void mpi_close(sala_dist *d)
{
    mpi_dist *m = self(d);
    if (m->has_thread) {
        pthread_mutex_lock(&m->lock);
        m->quit = true;
        pthread_cond_broadcast(&m->changed);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    /* With a rank gone, MPI_Finalize would wait for it. */
    if (!atomic_load(&m->gone) && m->beat != MPI_COMM_NULL) {
        MPI_Comm_free(&m->main);
        MPI_Comm_free(&m->grads);
        MPI_Comm_free(&m->beat);
        MPI_Finalize();
    }
    pthread_mutex_destroy(&m->entry);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->changed);
    free(m->pieces);
    free(m->requests);
    free(m->peers);
    free(m);
}

static sala_status meet(mpi_dist *m, sala_error *err)
{
    sala_dist *d = &m->base;
    peer own = {0};
    sala_os_host_name(own.host, sizeof own.host);
    own.pid = sala_os_process_id();
    m->peers = calloc((size_t)d->size, sizeof *m->peers);
    m->requests = malloc(2 * (size_t)d->size * sizeof(MPI_Request));
    if (!m->peers || !m->requests)
        return sala_fail_memory(err, (uint64_t)d->size * sizeof *m->peers);
    const int rc = MPI_Allgather(&own, (int)sizeof own, MPI_BYTE, m->peers, (int)sizeof own, MPI_BYTE, MPI_COMM_WORLD);
    if (rc != MPI_SUCCESS)
        return mpi_failed(rc, "meeting the other ranks", err);
    const double now = sala_os_seconds();
    m->beaten = now - BEAT_EVERY;
    for (int r = 0; r < d->size; r++) {
        peer *p = &m->peers[r];
        const bool here = strcmp(p->host, own.host) == 0;
        /* Containers of one name need not see each other's processes. */
        p->visible = here && kill((pid_t)p->pid, 0) == 0;
        p->seen = now;
        d->host_size += here;
        d->host_rank += here && r < d->rank;
    }
    peer_name(m, d->rank, d->name);
    return SALA_OK;
}

extern const sala_dist_ops sala_dist_mpi;

static sala_status mpi_open(sala_dist **out, double timeout, sala_error *err)
{
    int level = MPI_THREAD_SINGLE;
    int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    if (rc != MPI_SUCCESS)
        return mpi_failed(rc, "starting", err);
    if (level < MPI_THREAD_SERIALIZED)
        return sala_fail(err, SALA_E_UNSUPPORTED, "this MPI library does not serve threads (level %d, expected %d)",
                         level, MPI_THREAD_SERIALIZED);
    mpi_dist *m = calloc(1, sizeof *m);
    if (!m)
        return sala_fail_memory(err, sizeof *m);
    m->base.ops = &sala_dist_mpi;
    m->timeout = timeout;
    m->main = m->grads = m->beat = MPI_COMM_NULL;
    pthread_mutex_init(&m->entry, NULL);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &m->base.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &m->base.size);
    sala_status st = meet(m, err);
    MPI_Comm *const comms[] = {&m->main, &m->grads, &m->beat};
    for (size_t i = 0; i < SALA_ARRAY_LEN(comms) && st == SALA_OK; i++) {
        rc = MPI_Comm_dup(MPI_COMM_WORLD, comms[i]); /* takes the error handler along */
        if (rc != MPI_SUCCESS)
            st = mpi_failed(rc, "making communicators", err);
    }
    if (st == SALA_OK && pthread_create(&m->thread, NULL, work, m) != 0)
        st = sala_fail(err, SALA_E_MEMORY, "could not start a thread");
    m->has_thread = st == SALA_OK;
    if (st != SALA_OK)
        mpi_close(&m->base);
    else
        *out = &m->base;
    return st;
}

const sala_dist_ops sala_dist_mpi = {.abi = SALA_DIST_ABI,
                                     .open = mpi_open,
                                     .close = mpi_close,
                                     .reduce_begin = mpi_reduce_begin,
                                     .reduce_end = mpi_reduce_end,
                                     .gather = mpi_gather,
                                     .sum = mpi_sum,
                                     .barrier = mpi_barrier,
                                     .broadcast = mpi_broadcast,
                                     .abort = mpi_abort};

__attribute__((visibility("default"))) const sala_dist_ops *sala_dist_plugin(void);
const sala_dist_ops *sala_dist_plugin(void)
{
    return &sala_dist_mpi;
}
