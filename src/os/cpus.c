/* How many threads this process should compute with: one for each core that is worth having, no more than its cgroups
 * allow. Everything is read from files below a root, so that tests can show it machines that are not there. */
#include "os/os.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 1024 };

/* The first line of ROOT + the formatted path, without its newline; false when it cannot be read or is too long. */
static bool first_line(char *line, const char *root, const char *path)
{
    char full[2 * PATH_BYTES];
    const int n = snprintf(full, sizeof full, "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof full)
        return false;
    FILE *f = fopen(full, "re");
    if (!f)
        return false;
    const bool got = fgets(line, LINE_BYTES, f) != NULL;
    fclose(f);
    if (got)
        line[strcspn(line, "\n")] = 0;
    return got;
}

static bool number_of(long long *out, const char *root, const char *path)
{
    char line[LINE_BYTES];
    if (!first_line(line, root, path))
        return false;
    char *end;
    *out = strtoll(line, &end, 10);
    return end != line;
}

/* ---- cores ---- */

static bool listed(const int *cpus, int n, long cpu)
{
    for (int i = 0; i < n; i++)
        if (cpus[i] == cpu)
            return true;
    return false;
}

/* Whether `cpu` is the lowest of those CPUs in its core. The list of a core looks like "0,8" or "0-1". */
static bool first_of_core(const char *root, int cpu, const int *cpus, int n)
{
    char path[PATH_BYTES], line[LINE_BYTES];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!first_line(line, root, path))
        return true;
    for (const char *p = line; *p;) {
        char *end;
        const long from = strtol(p, &end, 10);
        if (end == p)
            break;
        long to = from;
        if (*end == '-') {
            p = end + 1;
            to = strtol(p, &end, 10);
            if (end == p)
                break;
        }
        for (long c = from < 0 ? 0 : from; c <= to && c < cpu; c++)
            if (listed(cpus, n, c))
                return false;
        if (*end != ',')
            break;
        p = end + 1;
    }
    return true;
}

/* Speed relative to the machine's other CPUs, or 0 when it is not told. `cpu_capacity` knows the work done per clock,
 * the largest frequency is the next best. All CPUs must be asked the same. */
static long long speed_of(const char *root, int cpu, const char *file)
{
    char path[PATH_BYTES];
    long long speed;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
    return number_of(&speed, root, path) && speed > 0 ? speed : 0;
}

/* Tasks go to threads as they come free, so a core of half the speed takes half as many and helps. One that is slower
 * still holds up the end of every operation by more than it takes off the others. */
static int count_slow(const char *root, const int *cores, int n_cores)
{
    static const char *const files[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        long long fastest = 0;
        bool told = true;
        for (int i = 0; i < n_cores && told; i++) {
            const long long speed = speed_of(root, cores[i], files[f]);
            told = speed > 0;
            fastest = speed > fastest ? speed : fastest;
        }
        if (!told)
            continue;
        int n_slow = 0;
        for (int i = 0; i < n_cores; i++)
            n_slow += speed_of(root, cores[i], files[f]) < (fastest + 1) / 2;
        return n_slow;
    }
    return 0;
}

/* ---- quota ---- */

/* The limit of one group directory: v2 "quota period" (or "max period") in cpu.max, v1 two files, -1 for no limit. */
static double group_quota(const char *root, const char *dir, bool v2)
{
    char path[2 * PATH_BYTES], line[LINE_BYTES];
    long long quota = 0, period = 0;
    if (v2) {
        snprintf(path, sizeof path, "%s/cpu.max", dir);
        if (!first_line(line, root, path))
            return 0;
        char *end;
        quota = strtoll(line, &end, 10);
        period = end == line ? 0 : strtoll(end, NULL, 10);
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
        if (!number_of(&quota, root, path))
            return 0;
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
        if (!number_of(&period, root, path))
            return 0;
    }
    return quota > 0 && period > 0 ? (double)quota / (double)period : 0;
}

/* The tightest limit of a group and all that it lies in. Inside a container the path may be that of the host, of which
 * only the last part is mounted, or nothing: what is not there sets no limit, and the mount point itself is asked last.
 */
static double chain_quota(const char *root, const char *mount, const char *group, bool v2)
{
    char dir[PATH_BYTES];
    const int n = snprintf(dir, sizeof dir, "%s%s", mount, group);
    if (n < 0 || (size_t)n >= sizeof dir)
        return 0;
    double least = 0;
    for (size_t end = (size_t)n; end >= strlen(mount);) {
        dir[end] = 0;
        const double q = group_quota(root, dir, v2);
        if (q > 0 && (least == 0 || q < least))
            least = q;
        if (end == strlen(mount))
            break;
        do
            end--;
        while (end > strlen(mount) && dir[end] != '/');
    }
    return least;
}

/* Whether "cpu" is one of the comma-separated names. */
static bool names_cpu(const char *names, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        while (i + len < n && names[i + len] != ',')
            len++;
        if (len == 3 && memcmp(names + i, "cpu", 3) == 0)
            return true;
        i += len + 1;
    }
    return false;
}

static double least_of(double a, double b)
{
    return a > 0 && (b == 0 || a < b) ? a : b;
}

static double cgroup_quota(const char *root)
{
    static const char *const v1_mounts[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    double least = 0;
    FILE *f = fopen(path, "re");
    char line[LINE_BYTES];
    /* Lines are "hierarchy:controllers:/path"; version 2 has hierarchy 0 and no controllers. */
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':');
        char *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        names++;
        const size_t n = (size_t)(group - names);
        group++;
        if (strcmp(group, "/") == 0)
            group++;
        if (n == 0)
            least = least_of(chain_quota(root, "/sys/fs/cgroup", group, true), least);
        else if (names_cpu(names, n))
            for (size_t i = 0; i < sizeof v1_mounts / sizeof v1_mounts[0]; i++)
                least = least_of(chain_quota(root, v1_mounts[i], group, false), least);
    }
    if (f)
        fclose(f);
    return least;
}

/* ---- */

void sala_os_cpus_at(sala_cpus *out, const char *root, const int *cpus, int n_cpus)
{
    *out = (sala_cpus){.n_cpus = n_cpus > 0 ? n_cpus : 1, .n_cores = 1, .n_threads = 1};
    int *cores = n_cpus > 0 ? malloc((size_t)n_cpus * sizeof *cores) : NULL;
    if (!cores)
        return;
    int n = 0;
    for (int i = 0; i < n_cpus; i++)
        if (first_of_core(root, cpus[i], cpus, n_cpus))
            cores[n++] = cpus[i];
    out->n_cores = n > 0 ? n : 1;
    out->n_slow_cores = count_slow(root, cores, n);
    free(cores);
    out->n_threads = out->n_cores - out->n_slow_cores;
    out->quota = cgroup_quota(root);
    if (out->quota > 0 && out->quota < out->n_threads) {
        /* A started CPU counts: two threads make use of a quota of one and a half, one would not. */
        const int whole = (int)out->quota;
        out->n_threads = whole + (out->quota > whole);
    }
}

void sala_os_cpus(sala_cpus *out)
{
    cpu_set_t set;
    int cpus[CPU_SETSIZE];
    int n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int c = 0; c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &set))
                cpus[n++] = c;
    } else { /* more CPUs than the set has room for: those that are there, by number */
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        for (; n < online && n < CPU_SETSIZE; n++)
            cpus[n] = n;
    }
    sala_os_cpus_at(out, "", cpus, n);
}

int sala_os_cpu_count(void)
{
    sala_cpus c;
    sala_os_cpus(&c);
    return c.n_threads;
}
