/* Time, memory, CPU features. Compiled without ISA flags: it runs before anybody knows what the CPU can do. */
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double sala_os_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t read_proc(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    char line[256];
    uint64_t kib = 0;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) == 0) {
            kib = strtoull(line + strlen(key), NULL, 10);
            break;
        }
    }
    fclose(f);
    return kib * 1024;
}

uint64_t sala_os_peak_rss(void)
{
    const uint64_t hwm = read_proc("/proc/self/status", "VmHWM:");
    if (hwm)
        return hwm;
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)u.ru_maxrss * 1024;
}

uint64_t sala_os_rss(void)
{
    return read_proc("/proc/self/status", "VmRSS:");
}

/* One number in a file, or UINT64_MAX ("max", no such file). */
static uint64_t read_number(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return UINT64_MAX;
    unsigned long long v = 0;
    const int n = fscanf(f, "%llu", &v);
    fclose(f);
    return n == 1 ? v : UINT64_MAX;
}

static uint64_t cgroup_limit(void)
{
    const uint64_t v2 = read_number("/sys/fs/cgroup/memory.max");
    const uint64_t v1 = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    return v2 < v1 ? v2 : v1;
}

uint64_t sala_os_memory_total(void)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t group = cgroup_limit();
    return group < machine ? group : machine;
}

uint64_t sala_os_memory_available(void)
{
    uint64_t free_bytes = read_proc("/proc/meminfo", "MemAvailable:");
    if (!free_bytes)
        free_bytes = sala_os_memory_total();
    const uint64_t group = cgroup_limit();
    if (group != UINT64_MAX) {
        uint64_t used = read_number("/sys/fs/cgroup/memory.current");
        if (used == UINT64_MAX)
            used = read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes");
        if (used != UINT64_MAX) {
            const uint64_t left = group > used ? group - used : 0;
            if (left < free_bytes)
                free_bytes = left;
        }
    }
    return free_bytes;
}

void *sala_os_pages_alloc(size_t bytes)
{
    /* Aligned to 2 MiB by hand, so that the system can back large pieces with huge pages from the first byte on. */
    const size_t huge = (size_t)2 << 20;
    if (bytes == 0)
        bytes = 1;
    if (bytes < huge) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t size = (bytes + page - 1) / page * page;
    if (size > SIZE_MAX - huge)
        return NULL;
    uint8_t *p = mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *q = (uint8_t *)(((uintptr_t)p + huge - 1) / huge * huge);
    if (q > p)
        munmap(p, (size_t)(q - p));
    if (p + huge > q)
        munmap(q + size, (size_t)(p + huge - q));
    madvise(q, size, MADV_HUGEPAGE);
    return q;
}

void sala_os_pages_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes ? bytes : 1);
}

/* ---- CPU ---- */

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

uint32_t sala_os_cpu_features(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (!osxsave)
        return 0;
    /* The CPU may have registers that the system does not save: ask it too. */
    const uint64_t saved = xgetbv0();
    const bool os_ymm = (saved & 0x6) == 0x6, os_zmm = (saved & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    uint32_t f = 0;
    const bool avx2 = b >> 5 & 1, bmi2 = b >> 8 & 1;
    if (os_ymm && avx2 && fma && f16c && bmi2)
        f |= SALA_CPU_AVX2;
    const bool avx512 = (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);
    if (os_zmm && (f & SALA_CPU_AVX2) && avx512) {
        f |= SALA_CPU_AVX512;
        if (c >> 11 & 1)
            f |= SALA_CPU_AVX512_VNNI;
        if (c >> 1 & 1)
            f |= SALA_CPU_AVX512_VBMI;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        if ((f & SALA_CPU_AVX2) && (a >> 4 & 1))
            f |= SALA_CPU_AVX_VNNI;
        if ((f & SALA_CPU_AVX512) && (a >> 5 & 1))
            f |= SALA_CPU_AVX512_BF16;
    }
    return f;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

uint32_t sala_os_cpu_features(void)
{
    const unsigned long cap = getauxval(AT_HWCAP), cap2 = getauxval(AT_HWCAP2);
    uint32_t f = 0;
    if (cap & (1ul << 1)) /* HWCAP_ASIMD */
        f |= SALA_CPU_NEON;
    if (cap & (1ul << 20)) /* HWCAP_ASIMDDP */
        f |= SALA_CPU_DOTPROD;
    if (cap2 & (1ul << 13)) /* HWCAP2_I8MM */
        f |= SALA_CPU_I8MM;
    return f;
}
#else
uint32_t sala_os_cpu_features(void)
{
    return 0;
}
#endif
