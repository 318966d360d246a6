/* cmocka with what it needs in front of it, and a seed that is printed. */
#ifndef SALA_TESTS_UNIT_TEST_H
#define SALA_TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* SALA_SEED in the environment, or `fallback`; printed so that a failure can be repeated. */
static inline uint64_t test_seed(uint64_t fallback)
{
    const char *s = getenv("SALA_SEED");
    const uint64_t seed = s ? strtoull(s, NULL, 0) : fallback;
    printf("seed %llu\n", (unsigned long long)seed);
    return seed;
}

/* A path inside a fresh folder under $TMPDIR; the caller's buffer. */
static inline const char *test_path(char *buffer, size_t size, const char *name)
{
    static char folder[256];
    if (!folder[0]) {
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/sala-test-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(mkdtemp(folder));
    }
    snprintf(buffer, size, "%s/%s", folder, name);
    return buffer;
}

/* A file of these bytes, in place of what was there. */
static inline void test_write_file(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

#endif
