/* The default number of threads on machines that are not here: trees of files as Linux shows them. */
#include "os/os.h"
#include "unit/test.h"

#include <stdarg.h>

static char root[512];

static void new_machine(void)
{
    static int number;
    char name[32];
    snprintf(name, sizeof name, "machine%d", number++);
    test_path(root, sizeof root, name);
}

__attribute__((format(printf, 2, 3))) static void put(const char *text, const char *path_format, ...)
{
    char path[1024], full[2048];
    va_list ap;
    va_start(ap, path_format);
    vsnprintf(path, sizeof path, path_format, ap);
    va_end(ap);
    snprintf(full, sizeof full, "%s%s", root, path);
    char *slash = strrchr(full, '/');
    *slash = 0;
    assert_int_equal(sala_os_make_dirs(full), 0);
    *slash = '/';
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void siblings(int cpu, const char *list)
{
    put(list, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
}

static void speed(int cpu, const char *file, int value)
{
    char text[32];
    snprintf(text, sizeof text, "%d\n", value);
    put(text, "/sys/devices/system/cpu/cpu%d/%s", cpu, file);
}

static sala_cpus ask(int first, int last)
{
    int cpus[64], n = 0;
    for (int c = first; c <= last; c++)
        cpus[n++] = c;
    sala_cpus out;
    sala_os_cpus_at(&out, root, cpus, n);
    return out;
}

static void expect(sala_cpus c, int cores, int slow, int threads)
{
    assert_int_equal(c.n_cores, cores);
    assert_int_equal(c.n_slow_cores, slow);
    assert_int_equal(c.n_threads, threads);
}

static void nothing_is_told(void **state)
{
    (void)state;
    new_machine();
    expect(ask(0, 5), 6, 0, 6);
    expect(ask(0, -1), 1, 0, 1);
    siblings(0, "");
    siblings(1, "rubbish\n");
    siblings(2, "0-\n");
    put("rubbish\n", "/proc/self/cgroup");
    put("", "/sys/fs/cgroup/cpu.max");
    expect(ask(0, 5), 6, 0, 6);
}

static void hyperthreads(void **state)
{
    (void)state;
    new_machine(); /* neighbours share a core */
    for (int c = 0; c < 8; c++)
        siblings(c, (const char *[]){"0-1\n", "2-3\n", "4-5\n", "6-7\n"}[c / 2]);
    expect(ask(0, 7), 4, 0, 4);
    expect(ask(1, 4), 3, 0, 3); /* halves of two cores and one whole */
    expect(ask(1, 1), 1, 0, 1);
    new_machine(); /* the second half of the CPUs shares with the first */
    for (int c = 0; c < 8; c++)
        siblings(c, (const char *[]){"0,4\n", "1,5\n", "2,6\n", "3,7\n"}[c % 4]);
    expect(ask(0, 7), 4, 0, 4);
    expect(ask(4, 7), 4, 0, 4);
    expect(ask(3, 7), 4, 0, 4);
}

static void slow_cores(void **state)
{
    (void)state;
    new_machine(); /* a desktop: 4 fast cores with hyperthreads, 4 at 0.6 of their speed, 2 at 0.35 */
    for (int c = 0; c < 8; c++) {
        siblings(c, (const char *[]){"0-1\n", "2-3\n", "4-5\n", "6-7\n"}[c / 2]);
        speed(c, "cpu_capacity", c < 2 ? 1024 : 1000);
    }
    for (int c = 8; c < 14; c++)
        speed(c, "cpu_capacity", c < 12 ? 620 : 360);
    const sala_cpus all = ask(0, 13);
    expect(all, 10, 2, 8);
    assert_int_equal(all.n_cpus, 14);
    expect(ask(8, 13), 6, 0, 6); /* what is slow depends on the company */
    expect(ask(12, 13), 2, 0, 2);

    new_machine(); /* a telephone that tells frequencies only */
    for (int c = 0; c < 8; c++)
        speed(c, "cpufreq/cpuinfo_max_freq", c < 4 ? 1300000 : c < 7 ? 2400000 : 2800000);
    expect(ask(0, 7), 8, 4, 4);
    speed(7, "cpu_capacity", 1024); /* told by one alone it says nothing */
    expect(ask(0, 7), 8, 4, 4);
}

static void quota_v2(void **state)
{
    (void)state;
    new_machine();
    put("0::/\n", "/proc/self/cgroup");
    put("max 100000\n", "/sys/fs/cgroup/cpu.max");
    expect(ask(0, 7), 8, 0, 8);
    put("150000 100000\n", "/sys/fs/cgroup/cpu.max");
    const sala_cpus c = ask(0, 7);
    assert_true(c.quota == 1.5);
    expect(c, 8, 0, 2);
    put("20000 100000\n", "/sys/fs/cgroup/cpu.max");
    expect(ask(0, 7), 8, 0, 1);
    put("1600000 100000\n", "/sys/fs/cgroup/cpu.max");
    expect(ask(0, 7), 8, 0, 8);

    new_machine(); /* the limit of a group holds for those inside it, the tightest counts */
    put("0::/user.slice/app.scope\n", "/proc/self/cgroup");
    put("600000 100000\n", "/sys/fs/cgroup/user.slice/app.scope/cpu.max");
    put("300000 100000\n", "/sys/fs/cgroup/user.slice/cpu.max");
    put("100000 100000\n", "/sys/fs/cgroup/other.slice/cpu.max");
    expect(ask(0, 7), 8, 0, 3);

    new_machine(); /* the path of the host, while only the container's own part is mounted */
    put("0::/docker/0123\n", "/proc/self/cgroup");
    put("400000 100000\n", "/sys/fs/cgroup/cpu.max");
    expect(ask(0, 7), 8, 0, 4);
}

static void quota_v1(void **state)
{
    (void)state;
    new_machine();
    put("9:memory:/m\n4:cpuset:/\n3:cpu,cpuacct:/box\n0::/\n", "/proc/self/cgroup");
    put("-1\n", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us");
    put("100000\n", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us");
    expect(ask(0, 7), 8, 0, 8);
    put("250000\n", "/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us");
    put("50000\n", "/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us");
    expect(ask(0, 7), 8, 0, 5);
    put("100000\n", "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us");
    expect(ask(0, 7), 8, 0, 1);

    new_machine(); /* a group of cpuset or cpuacct alone is none of cpu */
    put("4:cpuset:/box\n3:cpuacct:/box\n", "/proc/self/cgroup");
    put("100000\n", "/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us");
    put("100000\n", "/sys/fs/cgroup/cpu/box/cpu.cfs_period_us");
    expect(ask(0, 7), 8, 0, 8);
}

static void this_machine(void **state)
{
    (void)state;
    sala_cpus c;
    sala_os_cpus(&c);
    assert_true(c.n_threads >= 1 && c.n_threads <= c.n_cores && c.n_cores <= c.n_cpus);
    assert_int_equal(sala_os_cpu_count(), c.n_threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_told), cmocka_unit_test(hyperthreads), cmocka_unit_test(slow_cores),
        cmocka_unit_test(quota_v2),        cmocka_unit_test(quota_v1),     cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
