/* Dense products: which implementation, and how fast it is. */
#include "grad/product_impl.h"

#include <stdlib.h>

sala_status sala_product_open(sala_product **out, const sala_product_params *p, sala_error *err)
{
#ifdef SALA_HAVE_DNNL
    if (!p->plain) {
        const sala_status st = sala_product_open_dnnl(out, p, err);
        if (st != SALA_E_UNSUPPORTED)
            return st;
    }
#endif
    return sala_product_open_plain(out, p, err);
}

void sala_product_close(sala_product *g)
{
    if (g)
        g->ops->close(g);
}

const char *sala_product_describe(const sala_product *g)
{
    return g->describe;
}

bool sala_product_is_plain(const sala_product *g)
{
    return strncmp(g->describe, "own", 3) == 0;
}

sala_precision sala_product_precision(const sala_product *g)
{
    return g->precision;
}

sala_status sala_product_prepare(sala_product *g, const sala_product_shape *shape, sala_error *err)
{
    return g->ops->prepare(g, shape, err);
}

size_t sala_product_pack_bytes(const sala_product *g, sala_product_kind kind, int64_t n, int64_t k)
{
    return g->precision == SALA_PRECISION_BF16 ? g->ops->pack_bytes(g, kind, n, k) : 0;
}

void sala_product_pack(const sala_product *g, void *dst, sala_product_kind kind, int64_t n, int64_t k,
                       const sala_num *w, int64_t ldw, int worker)
{
    g->ops->pack(g, dst, kind, n, k, w, ldw, worker);
}

void sala_product_run(const sala_product *g, const sala_product_shape *shape, sala_num *c, const void *a, const void *b,
                      int worker)
{
    g->ops->run(g, shape, c, a, b, worker);
}

/* ---- the peak ---- */

enum { PEAK_M = 256, PEAK_N = 1024, PEAK_K = 512 };

typedef struct peak_job {
    const sala_product *g;
    sala_product_shape shape;
    uint8_t *a, *b, *c;
    size_t c_bytes;
} peak_job;

static void peak_task(void *user, int task, int worker)
{
    (void)task;
    const peak_job *job = user;
    sala_product_run(job->g, &job->shape, (sala_num *)(void *)(job->c + (size_t)worker * job->c_bytes), job->a, job->b,
                     worker);
}

double sala_product_peak(const sala_product *g, sala_pool *pool)
{
    const int n_workers = sala_pool_size(pool);
    const bool bf16 = g->precision == SALA_PRECISION_BF16;
    const size_t a_bytes = (size_t)PEAK_M * PEAK_K * sizeof(sala_num),
                 w_bytes = (size_t)PEAK_N * PEAK_K * sizeof(sala_num);
    const size_t pack_bytes = sala_product_pack_bytes(g, SALA_PRODUCT_OUT, PEAK_N, PEAK_K);
    peak_job job = {.g = g,
                    .shape = {.kind = SALA_PRODUCT_OUT,
                              .m = PEAK_M,
                              .n = PEAK_N,
                              .k = PEAK_K,
                              .lda = PEAK_K,
                              .ldb = PEAK_K,
                              .ldc = PEAK_N},
                    .c_bytes = (size_t)PEAK_M * PEAK_N * sizeof(sala_num)};
    const size_t total = a_bytes + w_bytes + (pack_bytes + 63) / 64 * 64 + job.c_bytes * (size_t)n_workers;
    /* Zeros: how long a product takes does not depend on the numbers, as long as none of them is denormal. */
    uint8_t *memory = sala_os_pages_alloc(total);
    if (!memory)
        return 0;
    job.a = memory;
    job.b = memory + a_bytes;
    job.c = job.b + w_bytes;
    if (bf16) {
        sala_product_pack(g, job.c, SALA_PRODUCT_OUT, PEAK_N, PEAK_K, (const sala_num *)(const void *)job.b, PEAK_K, 0);
        job.b = job.c;
        job.c += (pack_bytes + 63) / 64 * 64;
    }
    const double flop = 2.0 * PEAK_M * PEAK_N * PEAK_K;
    sala_pool_run(pool, n_workers, peak_task, &job); /* wakes the threads, touches the pages */
    double best = 0;
    int n_tasks = n_workers;
    const double start = sala_os_seconds();
    for (double now = start; now - start < 0.05;) {
        sala_pool_run(pool, n_tasks, peak_task, &job);
        const double end = sala_os_seconds(), took = end - now;
        const double rate = took > 0 ? flop * n_tasks / took : 0;
        best = rate > best ? rate : best;
        if (took < 0.005)
            n_tasks *= 2;
        now = end;
    }
    sala_os_pages_free(memory, total);
    return best;
}
