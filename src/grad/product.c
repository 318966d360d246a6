/* Dense products: which implementation, and how fast it is. */
#include "grad/dnnl_library.h"
#include "grad/product_impl.h"

#include <stdio.h>
#include <stdlib.h>

/* oneDNN's sgemm reaches 88 % of what `mma` does on AVX-512 and 76 % on AVX2 over the products of a training step,
 * where own blocks over `mma` reach 91 %, and their sums are the same on every CPU: it is for what has no vector
 * kernels. */
static bool own_is_faster(const sala_product_params *p)
{
    sala_train_kernels k;
    return p->precision == SALA_PRECISION_F32 && sala_train_kernels_get(&k, p->kernels, sala_os_cpu_features()) &&
           strcmp(k.family, "ref") != 0;
}

sala_status sala_product_open(sala_product **out, const sala_product_params *p, sala_error *err)
{
    const char *why = "";
#ifdef SALA_HAVE_DNNL
    sala_error other = {0};
    const bool plain = p->plain || own_is_faster(p);
    const sala_status dnnl = plain ? SALA_E_UNSUPPORTED : sala_product_open_dnnl(out, p, &other);
    if (dnnl != SALA_E_UNSUPPORTED) {
        if (dnnl != SALA_OK && err)
            *err = other;
        return dnnl;
    }
    why = plain ? "" : other.message;
#else
    if (!p->plain && !own_is_faster(p))
        why = "built without oneDNN";
#endif
    const sala_status st = sala_product_open_plain(out, p, err);
    if (st == SALA_OK && why[0]) { /* whoever waits for a run wants to know */
        char *text = (*out)->describe;
        const size_t n = strlen(text);
        snprintf(text + n, sizeof(*out)->describe - n, " (%.150s)", why);
    }
    return st;
}

size_t sala_product_scratch_bytes(sala_precision p, int n_workers, int64_t widest)
{
    size_t bytes = sala_product_plain_bytes(n_workers);
#ifdef SALA_HAVE_DNNL
    bytes += sala_product_dnnl_bytes(p, n_workers, widest);
#else
    (void)p;
    (void)widest;
#endif
    return bytes;
}

bool sala_product_bf16_is_fast(void)
{
#ifdef SALA_HAVE_DNNL
    return (sala_os_cpu_features() & SALA_CPU_AVX512_BF16) && sala_dnnl_library(NULL);
#else
    return false;
#endif
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

/* Products of a model's size. Which is the fastest depends on the caches. */
static const struct {
    int64_t m, n, k;
} peak_shapes[] = {{256, 512, 512}, {256, 1024, 512}, {256, 1024, 1024}};
enum { PEAK_M = 256, PEAK_N = 1024, PEAK_K = 1024, LEAST_RUNS = 12, MOST_RUNS = 60 };

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

/* The best of several runs of a few milliseconds: others' work makes a run longer, never shorter, so runs go on until
 * the best one has not been beaten by a hundredth for a while. */
static double best_rate(const peak_job *job, sala_pool *pool)
{
    const double flop = 2.0 * (double)job->shape.m * (double)job->shape.n * (double)job->shape.k;
    int n_tasks = sala_pool_size(pool);
    sala_pool_run(pool, n_tasks, peak_task, (void *)(uintptr_t)job); /* wakes the threads, touches the pages */
    double best = 0;
    for (int run = 0, since = 0; run < MOST_RUNS && since < LEAST_RUNS; run++, since++) {
        const double begin = sala_os_seconds();
        sala_pool_run(pool, n_tasks, peak_task, (void *)(uintptr_t)job);
        const double took = sala_os_seconds() - begin;
        if (took < 0.004 && n_tasks < 1 << 20) { /* too short to be timed */
            n_tasks *= 2;
            since = -1;
            continue;
        }
        const double rate = flop * n_tasks / took;
        if (rate > 1.01 * best)
            since = -1;
        best = rate > best ? rate : best;
    }
    return best;
}

double sala_product_peak(const sala_product *g, sala_pool *pool)
{
    const int n_workers = sala_pool_size(pool);
    const size_t a_bytes = (size_t)PEAK_M * PEAK_K * sizeof(sala_num),
                 w_bytes = (size_t)PEAK_N * PEAK_K * sizeof(sala_num);
    size_t pack_bytes = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(peak_shapes); i++) {
        const size_t bytes = sala_product_pack_bytes(g, SALA_PRODUCT_OUT, peak_shapes[i].n, peak_shapes[i].k);
        pack_bytes = bytes > pack_bytes ? bytes : pack_bytes;
    }
    const size_t c_bytes = (size_t)PEAK_M * PEAK_N * sizeof(sala_num), pack_room = (pack_bytes + 63) / 64 * 64;
    const size_t total = a_bytes + w_bytes + pack_room + c_bytes * (size_t)n_workers;
    /* Zeros: how long a product takes does not depend on the numbers, as long as none of them is denormal. */
    uint8_t *memory = sala_os_pages_alloc(total);
    if (!memory)
        return 0;
    double best = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(peak_shapes); i++) {
        const int64_t n = peak_shapes[i].n, k = peak_shapes[i].k;
        peak_job job = {
            .g = g,
            .shape = {.kind = SALA_PRODUCT_OUT, .m = peak_shapes[i].m, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n},
            .a = memory,
            .b = memory + a_bytes,
            .c = memory + a_bytes + w_bytes + pack_room,
            .c_bytes = c_bytes};
        if (g->precision == SALA_PRECISION_BF16) {
            uint8_t *pack = job.b + w_bytes;
            sala_product_pack(g, pack, SALA_PRODUCT_OUT, n, k, (const sala_num *)(const void *)job.b, k, 0);
            job.b = pack;
        }
        const double rate = best_rate(&job, pool);
        best = rate > best ? rate : best;
    }
    sala_os_pages_free(memory, total);
    return best;
}
