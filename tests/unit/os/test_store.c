/* Files that are changed in place: locks, names, and what a watcher sees. */
#include "os/os.h"
#include "unit/test.h"

#include <errno.h>
#include <unistd.h>

static sala_store *must_open(const char *path, sala_store_access access)
{
    sala_store *s = NULL;
    int64_t holder;
    assert_int_equal(sala_os_store_open(&s, path, access, &holder), 0);
    return s;
}

static int refused(const char *path, sala_store_access access, int64_t *holder)
{
    sala_store *s;
    return sala_os_store_open(&s, path, access, holder);
}

static void bytes(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "store.bin");
    sala_store *s = must_open(path, SALA_STORE_CREATE);
    assert_true(sala_os_store_created(s));
    assert_int_equal(sala_os_store_write(s, 100000, "behind", 6), 0);
    assert_int_equal(sala_os_store_write(s, 0, "before", 6), 0);
    assert_int_equal(sala_os_store_write(s, UINT64_MAX - 2, "x", 1), EFBIG);
    uint64_t size;
    assert_int_equal(sala_os_store_size(s, &size), 0);
    assert_int_equal(size, 100006);
    char text[16];
    size_t got;
    assert_int_equal(sala_os_store_read(s, 100003, text, sizeof text, &got), 0);
    assert_int_equal(got, 3);
    assert_memory_equal(text, "ind", 3);
    /* A map reaches beyond the end, and shows what is written later. */
    const uint8_t *map;
    assert_int_equal(sala_os_store_map(s, &map, 65536, 1 << 20), 0);
    assert_memory_equal(map + 100000 - 65536, "behind", 6);
    assert_int_equal(sala_os_store_write(s, 200000, "later", 5), 0);
    assert_memory_equal(map + 200000 - 65536, "later", 5);
    sala_os_store_unmap(map, 1 << 20);
    assert_int_equal(sala_os_store_resize(s, 3), 0);
    assert_int_equal(sala_os_store_sync(s), 0);
    sala_os_store_close(s);
    sala_os_store_close(NULL);
    s = must_open(path, SALA_STORE_CREATE);
    assert_false(sala_os_store_created(s));
    assert_int_equal(sala_os_store_size(s, &size), 0);
    assert_int_equal(size, 3);
    sala_os_store_remove(s);
    assert_int_equal(access(path, F_OK), -1);
}

static void locks(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "locked.bin");
    int64_t holder;
    assert_int_equal(refused(path, SALA_STORE_READ, &holder), ENOENT);
    assert_int_equal(refused(path, SALA_STORE_WRITE, &holder), ENOENT);
    sala_store *s = must_open(path, SALA_STORE_CREATE);
    for (int access = SALA_STORE_READ; access <= SALA_STORE_CREATE; access++) {
        assert_int_equal(refused(path, (sala_store_access)access, &holder), EBUSY);
        assert_true(holder == 0 || holder == (int64_t)getpid());
    }
    sala_os_store_close(s);
    s = must_open(path, SALA_STORE_READ);
    sala_store *two = must_open(path, SALA_STORE_READ);
    assert_int_equal(refused(path, SALA_STORE_WRITE, &holder), EBUSY);
    sala_os_store_close(s);
    assert_int_equal(refused(path, SALA_STORE_WRITE, &holder), EBUSY);
    sala_os_store_close(two);
    sala_os_store_remove(must_open(path, SALA_STORE_WRITE));
    assert_int_equal(refused("/tmp", SALA_STORE_CREATE, &holder), EISDIR);
    assert_int_equal(refused("/dev/null", SALA_STORE_CREATE, &holder), EINVAL);
}

/* The name of an open file may come to mean another one, which is none of ours. */
static void names(void **state)
{
    (void)state;
    char path[512], other[512];
    test_path(path, sizeof path, "name.bin");
    test_path(other, sizeof other, "other.bin");
    sala_store *s = must_open(path, SALA_STORE_CREATE);
    assert_true(sala_os_store_is(s, path));
    assert_int_equal(rename(path, other), 0);
    assert_false(sala_os_store_is(s, path));
    assert_true(sala_os_store_is(s, other));
    sala_os_store_close(must_open(path, SALA_STORE_CREATE));
    assert_false(sala_os_store_is(s, path));
    sala_os_store_remove(s);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
    unlink(path);
    unlink(other);
}

static int refuse_syncs(void *user, sala_store_event event, uint64_t offset, const void *data, uint64_t n)
{
    (void)offset, (void)data;
    uint64_t *sum = user;
    *sum += n;
    return event == SALA_STORE_SYNC_EVENT ? EIO : 0;
}

static void watched(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "watched.bin");
    uint64_t sum = 0;
    sala_store *s = must_open(path, SALA_STORE_CREATE);
    sala_os_store_watch(refuse_syncs, &sum);
    assert_int_equal(sala_os_store_write(s, 5, "four", 4), 0);
    assert_int_equal(sala_os_store_sync(s), EIO);
    sala_os_store_watch(NULL, NULL);
    assert_int_equal(sala_os_store_sync(s), 0);
    assert_int_equal(sum, 4);
    sala_os_store_remove(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes),
        cmocka_unit_test(locks),
        cmocka_unit_test(names),
        cmocka_unit_test(watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
