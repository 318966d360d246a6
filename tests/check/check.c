/* sala_check: every kernel of the build that this CPU can run, against its reference twin or an exact model of what it
 * computes, on odd shapes with guard pages; with --bench, the speed of each. The exit code is the verdict. */
#include "check/check.h"

#include "os/os.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_REGIONS 256

static struct {
    void *base;
    size_t bytes;
} regions[MAX_REGIONS];
static int n_regions;

uint64_t check_random(check *c)
{
    /* splitmix64 */
    uint64_t z = c->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int check_below(check *c, int n)
{
    return (int)(check_random(c) >> 33) % n;
}

float check_uniform(check *c)
{
    return (float)((double)(check_random(c) >> 11) * 0x1p-52 - 1.0);
}

static void *guarded(size_t bytes, size_t align)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t padded = (bytes + align - 1) / align * align;
    const size_t total = (padded + page - 1) / page * page + page;
    uint8_t *base = n_regions < MAX_REGIONS
                        ? mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                        : MAP_FAILED;
    if (base == MAP_FAILED || mprotect(base + total - page, page, PROT_NONE) != 0) {
        fprintf(stderr, "sala_check: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    regions[n_regions].base = base;
    regions[n_regions++].bytes = total;
    memset(base, 0xa5, total - page);
    return base + total - page - padded;
}

void *check_guarded(size_t bytes)
{
    return guarded(bytes, 1);
}
void *check_guarded_aligned(size_t bytes)
{
    return guarded(bytes, 64);
}

void check_reset(void)
{
    while (n_regions > 0) {
        n_regions--;
        munmap(regions[n_regions].base, regions[n_regions].bytes);
    }
}

double check_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double check_time(void (*fn)(void *user), void *user)
{
    double best = 1e9;
    const double start = check_seconds();
    int n = 0;
    do {
        const double t = check_seconds();
        fn(user);
        const double d = check_seconds() - t;
        best = d < best ? d : best;
        n++;
    } while (n < 3 || check_seconds() - start < 0.15);
    return best;
}

static bool begin(check *c, const char *name, bool runs_here)
{
    if (c->filter && !strstr(name, c->filter))
        return false;
    if (!runs_here) {
        c->n_skipped++;
        return false;
    }
    c->name = name;
    c->name_failed = false;
    return true;
}

bool check_begin(check *c, const char *name, uint32_t need)
{
    return begin(c, name, !(need & ~c->cpu));
}

bool check_begin_family(check *c, sala_kernels *k, const char *what, const char *family)
{
    snprintf(c->family_name, sizeof c->family_name, "%s_%s", what, family);
    return begin(c, c->family_name, sala_kernels_get(k, family, c->cpu));
}

bool check_begin_train(check *c, sala_train_kernels *k, const char *what, const char *family)
{
    snprintf(c->family_name, sizeof c->family_name, "train_%s_%s", what, family);
    return begin(c, c->family_name, sala_train_kernels_get(k, family, c->cpu));
}

void check_end(check *c)
{
    c->n_checks++;
    c->n_failed += c->name_failed;
    if (!c->bench)
        printf("%-36s %s\n", c->name, c->name_failed ? "FAILED" : "ok");
    check_reset();
}

void check_fail(check *c, const char *fmt, ...)
{
    if (c->name_failed) /* the first failure of a variant is enough */
        return;
    c->name_failed = true;
    va_list ap;
    va_start(ap, fmt);
    printf("%s: ", c->name);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
}

static int usage(FILE *to, int code)
{
    fprintf(to, "usage: sala_check [--seed N] [--filter TEXT] [--bench]\n"
                "Checks every kernel that this CPU can run. Exit code 0: all agree, 1: some do not, 2: misused.\n");
    return code;
}

int main(int argc, char **argv)
{
    uint64_t seed = (uint64_t)time(NULL);
    check c = {.cpu = sala_os_cpu_features()};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
            c.filter = argv[++i];
        } else if (strcmp(argv[i], "--bench") == 0) {
            c.bench = true;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return usage(stdout, 0);
        } else {
            fprintf(stderr, "sala_check: do not know '%s'\n", argv[i]);
            return usage(stderr, 2);
        }
    }
    c.rng = seed;
    printf("seed %llu, cpu features 0x%x\n", (unsigned long long)seed, (unsigned)c.cpu);
    check_ops(&c);
    check_cache(&c);
    check_attention(&c);
    check_mix(&c);
    check_train_tiles(&c);
    check_train_rows(&c);
    check_linear(&c);
    printf("%d variants, %d failed, %d not for this CPU\n", c.n_checks, c.n_failed, c.n_skipped);
    return c.n_failed || c.n_checks == 0;
}
