/* Output files appear whole or not at all. */
#include "os/os.h"
#include "unit/test.h"

#include <errno.h>
#include <unistd.h>

static int n_names;

static bool count_name(void *user, const char *name)
{
    (void)name;
    n_names++;
    return user == NULL;
}

static int files_in_folder_of(const char *path)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    n_names = 0;
    assert_int_equal(sala_os_list_dir(folder, count_name, NULL), 0);
    return n_names;
}

static void commit_and_abort(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "a.bin");
    sala_out_file *f;
    assert_int_equal(sala_os_out_open(&f, path), 0);
    assert_int_equal(sala_os_out_write(f, "hello world", 11), 0);
    assert_false(sala_os_is_file(path));
    assert_int_equal(sala_os_out_write_at(f, 6, "there", 5), 0);
    assert_int_equal(sala_os_out_write(f, "!", 1), 0);
    assert_int_equal(sala_os_out_tell(f), 12);
    assert_int_equal(sala_os_out_commit(f), 0);
    uint8_t *data;
    size_t n;
    assert_int_equal(sala_os_read_file(&data, &n, path, 0), 0);
    assert_int_equal(n, 12);
    assert_memory_equal(data, "hello there!", 13);
    free(data);
    assert_int_equal(sala_os_read_file(&data, &n, path, 5), EFBIG);

    assert_int_equal(sala_os_out_open(&f, path), 0);
    sala_os_out_write(f, "lost", 4);
    sala_os_out_abort(f);
    assert_int_equal(sala_os_file_size(path), 12);
    assert_int_equal(sala_os_out_open(&f, path), 0);
    sala_os_out_abort_all();
    assert_int_equal(files_in_folder_of(path), 1);
    sala_os_out_abort(f);
    unlink(path);
}

static void large_writes(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "large.bin");
    sala_out_file *f;
    static uint8_t piece[700000];
    for (size_t i = 0; i < sizeof piece; i++)
        piece[i] = (uint8_t)(i * 31);
    assert_int_equal(sala_os_out_open(&f, path), 0);
    const size_t sizes[] = {1, 100000, 262144, 700000, 5, 262143};
    size_t total = 0;
    for (size_t i = 0; i < 6; i++) {
        sala_os_out_write(f, piece, sizes[i]);
        total += sizes[i];
    }
    assert_int_equal(sala_os_out_commit(f), 0);
    sala_map map;
    assert_int_equal(sala_os_map(&map, path), 0);
    assert_int_equal(map.bytes, total);
    size_t at = 0;
    for (size_t i = 0; i < 6; i++) {
        assert_memory_equal(map.data + at, piece, sizes[i]);
        at += sizes[i];
    }
    sala_os_map_drop(map.data, map.bytes);
    assert_int_equal(map.data[total - 1], piece[262142]);
    sala_os_unmap(&map);
    unlink(path);
}

static void full_disk(void **state)
{
    (void)state;
    if (access("/dev/full", W_OK) != 0)
        skip();
    char path[512];
    test_path(path, sizeof path, "full.bin");
    char temp[600];
    snprintf(temp, sizeof temp, "%s.tmp-%ld", path, (long)getpid());
    /* The temporary name must not exist: a device there is refused rather than written through. */
    assert_int_equal(symlink("/dev/full", temp), 0);
    sala_out_file *f;
    assert_int_equal(sala_os_out_open(&f, path), EEXIST);
    unlink(temp);
}

static void not_files(void **state)
{
    (void)state;
    sala_map map;
    assert_int_equal(sala_os_map(&map, "/no/such/file"), ENOENT);
    assert_int_equal(sala_os_map(&map, "/tmp"), EISDIR);
    assert_int_equal(sala_os_map(&map, "/dev/null"), EINVAL);
    sala_out_file *f;
    assert_int_equal(sala_os_out_open(&f, "/no/such/folder/x"), ENOENT);
    char path[512];
    test_path(path, sizeof path, "one/two/three");
    assert_int_equal(sala_os_make_dirs(path), 0);
    assert_int_equal(sala_os_make_dirs(path), 0);
    assert_true(sala_os_is_dir(path));
    assert_int_equal(sala_os_file_size(path), -1);
}

static void the_machine(void **state)
{
    (void)state;
    assert_true(sala_os_cpu_count() >= 1);
    assert_true(sala_os_memory_total() > (64u << 20));
    assert_true(sala_os_memory_available() <= sala_os_memory_total());
    assert_true(sala_os_peak_rss() >= (1u << 20));
    const double t = sala_os_seconds();
    assert_true(sala_os_seconds() >= t);
    const size_t sizes[] = {1, 4096, 3u << 20, (5u << 20) + 1};
    for (size_t i = 0; i < 4; i++) {
        uint8_t *p = sala_os_pages_alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 4096, 0);
        assert_int_equal(p[sizes[i] - 1], 0);
        memset(p, 1, sizes[i]);
        sala_os_pages_free(p, sizes[i]);
    }
    assert_null(sala_os_pages_alloc(SIZE_MAX - 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commit_and_abort), cmocka_unit_test(large_writes), cmocka_unit_test(full_disk),
        cmocka_unit_test(not_files),        cmocka_unit_test(the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
