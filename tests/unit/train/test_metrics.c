/* metrics.jsonl is cut where a save is, event files have TensorBoard's bytes. */
#include "train/metrics.h"

#include "os/os.h"
#include "train/tfevents.h"

#include <errno.h>
#include <math.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static char dir[] = "/tmp/sala-metrics-XXXXXX";

static char *path_of(const char *name)
{
    return sala_path_join(dir, name);
}

static char *content(const char *name, size_t *n)
{
    uint8_t *text;
    char *path = path_of(name);
    assert_int_equal(sala_os_read_file(&text, n, path, 0), 0);
    free(path);
    return (char *)text;
}

static void write_steps(int64_t from, int64_t to, int64_t resume)
{
    sala_metrics *m;
    sala_error err = {0};
    if (sala_metrics_open(&m, dir, resume, true, &err) != SALA_OK)
        fail_msg("%s", err.message);
    for (int64_t s = from; s <= to; s++) {
        const sala_step_result r = {.step = s, .loss = 1.0 / (double)s, .tokens = 10 * s, .lr = 0.01};
        assert_int_equal(sala_metrics_step(m, &r, 100, 0.5, &err), SALA_OK);
        const char *const names[] = {"loss"};
        const double values[] = {(double)NAN};
        if (s % 10 == 0)
            assert_int_equal(sala_metrics_more(m, s, "eval", names, values, 1, &err), SALA_OK);
    }
    assert_int_equal(sala_metrics_sync(m, &err), SALA_OK);
    sala_metrics_close(m);
}

static void check_steps(int64_t n)
{
    sala_curve c;
    sala_error err = {0};
    char *path = path_of("metrics.jsonl");
    if (sala_metrics_read(&c, path, "loss", &err) != SALA_OK)
        fail_msg("%s", err.message);
    free(path);
    assert_int_equal(c.n, n);
    for (int i = 0; i < c.n; i++) {
        assert_true(c.step[i] == i + 1);
        assert_true(fabs(c.value[i] * (i + 1) - 1) < 1e-8);
    }
    sala_curve_free(&c);
}

static void test_cutting(void **state)
{
    (void)state;
    size_t n, again;
    write_steps(1, 1500, 0); /* more than one chunk of 64 KiB */
    check_steps(1500);
    char *first = content("metrics.jsonl", &n);
    write_steps(741, 1500, 740);
    char *second = content("metrics.jsonl", &again);
    assert_int_equal(n, again);
    assert_memory_equal(first, second, n);
    free(first);
    free(second);
    /* A torn line, and a whole one that is no JSON, go. */
    char *path = path_of("metrics.jsonl");
    FILE *f = fopen(path, "a");
    fputs("nonsense\n{\"step\":1501,\"lo", f);
    fclose(f);
    write_steps(1501, 1510, 1500);
    check_steps(1510);
    write_steps(1, 3, 0); /* a new run */
    check_steps(3);
    free(path);
}

static int no_room(void *user, sala_store_event event, uint64_t offset, const void *data, uint64_t bytes)
{
    (void)offset;
    (void)data;
    (void)bytes;
    return *(bool *)user && event == SALA_STORE_WRITE_EVENT ? ENOSPC : 0;
}

/* What a full disk does not take comes later, in order and once; a save does not go on without it. */
static void test_full_disk(void **state)
{
    (void)state;
    sala_metrics *m;
    sala_error err = {0};
    bool full = false;
    sala_os_store_watch(no_room, &full);
    assert_int_equal(sala_metrics_open(&m, dir, 0, true, &err), SALA_OK);
    for (int64_t s = 1; s <= 30; s++) {
        const sala_step_result r = {.step = s, .loss = 1.0 / (double)s};
        full = s > 10 && s <= 20;
        assert_int_equal(sala_metrics_step(m, &r, 100, 0.5, &err), SALA_OK);
        assert_true((sala_metrics_waits(m) != NULL) == full);
        assert_true((sala_metrics_sync(m, &err) == SALA_OK) == !full);
    }
    sala_metrics_close(m);
    sala_os_store_watch(NULL, NULL);
    check_steps(30);
}

/* Made with TensorBoard's own writer: tests/parity/tfevents.py. The CRC's check value is that of RFC 3720. */
static void test_event_bytes(void **state)
{
    (void)state;
    assert_int_equal(sala_crc32c(0, "123456789", 9), 0xe3069283u);
    static const uint8_t zeros[32];
    assert_int_equal(sala_crc32c(0, zeros, sizeof zeros), 0x8a9136aau);
    sala_buf b = {0};
    sala_tf_version(&b, 1.0);
    static const uint8_t version[] = {0x09, 0,   0,   0,   0,   0,   0,   0xf0, 0x3f, 0x1a, 0x0d, 'b',
                                      'r',  'a', 'i', 'n', '.', 'E', 'v', 'e',  'n',  't',  ':',  '2'};
    assert_int_equal(b.len, 16 + sizeof version);
    assert_int_equal((uint8_t)b.data[0], sizeof version);
    assert_memory_equal(b.data + 12, version, sizeof version);
    sala_buf_clear(&b);
    const sala_tf_value v = {"train/loss", 0.5};
    sala_tf_scalars(&b, 1.0, 300, &v, 1);
    static const uint8_t scalar[] = {0x09, 0,    0,    0,    0,   0,    0,    0xf0, 0x3f, 0x10, 0xac,
                                     0x02, 0x2a, 0x13, 0x0a, 17,  0x0a, 10,   't',  'r',  'a',  'i',
                                     'n',  '/',  'l',  'o',  's', 's',  0x15, 0,    0,    0,    0x3f};
    assert_int_equal(b.len, 16 + sizeof scalar);
    assert_memory_equal(b.data + 12, scalar, sizeof scalar);
    sala_buf_free(&b);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return sala_os_remove_tree(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cutting), cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_event_bytes)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
