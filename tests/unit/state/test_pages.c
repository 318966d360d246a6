/* Lists of pages under random programs of append, failed append, truncation and fork, against a plain model of the
 * contents; pages of files, which are shared, checked when asked and never written. */
#include "state/pages.h"
#include "unit/test.h"

#include <stdatomic.h>

enum { N_LISTS = 6, MAX_ITEMS = 900, PAGE_BYTES = SALA_KV_BLOCK * (int)sizeof(uint32_t) };

typedef struct shadow {
    bool open;
    int64_t length;
    uint32_t value[MAX_ITEMS];
} shadow;

static uint32_t *item(const sala_pages *list, int64_t i)
{
    assert_true(i / SALA_KV_BLOCK < list->n_pages);
    assert_ptr_equal(list->data[i / SALA_KV_BLOCK], sala_page_data(list->pages[i / SALA_KV_BLOCK]));
    return (uint32_t *)list->data[i / SALA_KV_BLOCK] + i % SALA_KV_BLOCK;
}

static void compare(const sala_pages *list, const shadow *want, int program, int step, int t)
{
    assert_int_equal(list->n_pages, sala_pages_for(want->length));
    for (int64_t i = 0; i < want->length; i++)
        if (*item(list, i) != want->value[i])
            fail_msg("program %d, step %d: list %d differs at item %lld", program, step, t, (long long)i);
}

static void run_programs(size_t page_bytes, int n_programs)
{
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(1));
    for (int program = 0; program < n_programs; program++) {
        sala_pages list[N_LISTS];
        static shadow want[N_LISTS];
        memset(want, 0, sizeof want);
        sala_pages_init(&list[0], page_bytes);
        want[0].open = true;
        for (int step = 0; step < 60; step++) {
            int a = (int)(sala_rng_next(&rng) % N_LISTS);
            while (!want[a].open) /* the first one always is */
                a = (a + 1) % N_LISTS;
            const int b = (int)(sala_rng_next(&rng) % N_LISTS);
            switch (sala_rng_next(&rng) % 5) {
            case 0:
            case 1: {
                const int64_t n = (int64_t)(sala_rng_next(&rng) % 150), from = want[a].length;
                if (from + n > MAX_ITEMS)
                    break;
                assert_int_equal(sala_pages_prepare(&list[a], from, from + n, NULL), SALA_OK);
                const bool fails = sala_rng_next(&rng) % 5 == 0;
                for (int64_t i = from; i < from + n; i++) {
                    const uint32_t v = (uint32_t)sala_rng_next(&rng);
                    *item(&list[a], i) = v;
                    if (!fails)
                        want[a].value[i] = v;
                }
                if (!fails)
                    want[a].length += n;
                sala_pages_truncate(&list[a], want[a].length);
                break;
            }
            case 2:
                want[a].length = (int64_t)(sala_rng_next(&rng) % (uint64_t)(want[a].length + 1));
                sala_pages_truncate(&list[a], want[a].length);
                break;
            case 3:
                if (a == b)
                    break;
                if (want[b].open)
                    sala_pages_free(&list[b]);
                assert_int_equal(sala_pages_fork(&list[b], &list[a], want[a].length, NULL), SALA_OK);
                want[b] = want[a];
                for (int64_t p = 0; p < list[b].n_pages; p++)
                    assert_ptr_equal(list[a].pages[p], list[b].pages[p]);
                break;
            default:
                if (a != 0) {
                    sala_pages_free(&list[a]);
                    want[a].open = false;
                }
            }
            for (int t = 0; t < N_LISTS; t++)
                if (want[t].open)
                    compare(&list[t], &want[t], program, step, t);
        }
        for (int t = 0; t < N_LISTS; t++)
            if (want[t].open)
                sala_pages_free(&list[t]);
    }
}

static void random_programs(void **state)
{
    (void)state;
    run_programs(PAGE_BYTES, 300);
}

/* Pages that are large enough to be cut from slabs once there are many. */
static void large_pages(void **state)
{
    (void)state;
    run_programs(600 << 10, 40);
}

/* A slot that comes back is cleared before it is used again, and outlives the list that it was cut for. */
static void slots(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20, N = 40 };
    sala_pages list, fork;
    sala_pages_init(&list, BYTES);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(sala_pages_prepare(&list, round ? 10 * SALA_KV_BLOCK : 0, N * SALA_KV_BLOCK, NULL), SALA_OK);
        for (int p = round ? 10 : 0; p < N; p++) {
            const uint8_t *data = list.data[p];
            assert_int_equal((uintptr_t)data % 64, 0);
            for (int i = 0; i < BYTES; i += 97)
                assert_int_equal(data[i], 0);
            memset(list.data[p], p + 1, BYTES);
        }
        sala_pages_truncate(&list, 10 * SALA_KV_BLOCK);
    }
    assert_int_equal(sala_pages_prepare(&list, 10 * SALA_KV_BLOCK, N * SALA_KV_BLOCK, NULL), SALA_OK);
    for (int p = 0; p < N; p++)
        memset(list.data[p], p + 1, BYTES);
    assert_int_equal(sala_pages_fork(&fork, &list, N * SALA_KV_BLOCK, NULL), SALA_OK);
    sala_pages_free(&list);
    for (int p = 0; p < N; p++)
        for (int i = 0; i < BYTES; i += 997)
            assert_int_equal(((uint8_t *)fork.data[p])[i], p + 1);
    sala_pages_free(&fork);
}

static void single_pages(void **state)
{
    (void)state;
    sala_page *p = sala_page_new(1000);
    assert_non_null(p);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(((uint8_t *)sala_page_data(p))[i], 0);
    assert_true(sala_page_writable(p));
    assert_false(sala_page_is_mapped(p));
    assert_ptr_equal(sala_page_retain(p), p);
    assert_int_equal(sala_page_holders(p), 2);
    assert_false(sala_page_writable(p));
    memset(sala_page_data(p), 7, 1000);
    sala_page *copy = sala_page_copy(p);
    assert_ptr_not_equal(sala_page_data(copy), sala_page_data(p));
    assert_memory_equal(sala_page_data(copy), sala_page_data(p), 1000);
    assert_true(sala_page_writable(copy));
    assert_int_equal(sala_page_check(p, NULL), SALA_OK);
    sala_page_release(p);
    assert_true(sala_page_writable(p));
    sala_page_release(p);
    sala_page_release(copy);
    sala_page_release(NULL);
    assert_null(sala_page_retain(NULL));
}

/* ---- pages of files ---- */

typedef struct file {
    sala_page_source source;
    int closed, checks[2];
    int64_t damaged; /* index of the page that fails its check, or -1 */
    uint32_t content[4][SALA_KV_BLOCK];
} file;

static void close_file(sala_page_source *source)
{
    ((file *)(void *)source)->closed++;
}

static sala_status check_page(sala_page_source *source, int section, int64_t index, sala_error *err)
{
    file *f = (file *)(void *)source;
    assert_in_range(section, 0, 1);
    f->checks[section]++;
    return index == f->damaged ? sala_fail(err, SALA_E_CORRUPT, "page %lld", (long long)index) : SALA_OK;
}

static file *open_file(sala_pages *list, int n_pages)
{
    file *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->source = (sala_page_source){.refs = 1, .close = close_file, .check = check_page};
    f->damaged = -1;
    for (int p = 0; p < 4; p++)
        for (int i = 0; i < SALA_KV_BLOCK; i++)
            f->content[p][i] = (uint32_t)(1000 * p + i);
    sala_pages_init(list, PAGE_BYTES);
    for (int p = 0; p < n_pages; p++) {
        sala_page *page = sala_page_mapped(f->content[p], PAGE_BYTES, &f->source, 1, p);
        assert_non_null(page);
        assert_true(sala_page_is_mapped(page));
        assert_false(sala_page_writable(page));
        assert_int_equal(sala_pages_append(list, page, NULL), SALA_OK);
    }
    return f;
}

/* The one who opened the source lets go of it. */
static void release_file(file *f)
{
    if (atomic_fetch_sub(&f->source.refs, 1) == 1)
        f->source.close(&f->source);
}

static void mapped_pages(void **state)
{
    (void)state;
    sala_pages list, fork;
    file *f = open_file(&list, 3);
    const int64_t length = 2 * SALA_KV_BLOCK + 10;
    assert_int_equal(sala_pages_fork(&fork, &list, length, NULL), SALA_OK);
    /* The third page is half full: whoever appends gets a copy, after one check of what it copies. */
    assert_int_equal(sala_pages_prepare(&list, length, length + 100, NULL), SALA_OK);
    assert_int_equal(f->checks[1], 1);
    assert_int_equal(list.n_pages, 4);
    assert_ptr_equal(list.data[1], f->content[1]);
    assert_ptr_not_equal(list.data[2], f->content[2]);
    for (int64_t i = 0; i < length; i++)
        assert_int_equal(*item(&list, i), 1000 * (i / SALA_KV_BLOCK) + i % SALA_KV_BLOCK);
    *item(&list, length) = 77;
    assert_int_equal(f->content[2][10], 2010);
    assert_int_equal(*item(&fork, length), 2010);
    /* Checked once, however often it is asked for. */
    for (int i = 0; i < 3; i++)
        assert_int_equal(sala_page_check(fork.pages[2], NULL), SALA_OK);
    assert_int_equal(f->checks[1], 1);
    sala_pages_free(&list);
    release_file(f);
    assert_int_equal(f->closed, 0); /* the fork still has its pages */
    sala_pages_free(&fork);
    assert_int_equal(f->closed, 1);
    free(f);
}

static void damaged_pages(void **state)
{
    (void)state;
    sala_pages list;
    sala_error err;
    file *f = open_file(&list, 2);
    f->damaged = 1;
    assert_int_equal(sala_page_check(list.pages[0], &err), SALA_OK);
    for (int i = 0; i < 2; i++) { /* a damaged page stays damaged */
        assert_int_equal(sala_page_check(list.pages[1], &err), SALA_E_CORRUPT);
        assert_int_equal(sala_pages_prepare(&list, 70, 300, &err), SALA_E_CORRUPT);
        assert_int_equal(list.n_pages, 2);
        assert_ptr_equal(list.data[1], f->content[1]);
    }
    /* Behind a whole page nothing is copied. */
    assert_int_equal(sala_pages_prepare(&list, 128, 129, &err), SALA_OK);
    assert_int_equal(list.n_pages, 3);
    sala_pages_free(&list);
    release_file(f);
    assert_int_equal(f->closed, 1);
    free(f);
}

/* Models without layers of a kind have lists without pages. */
static void empty_lists(void **state)
{
    (void)state;
    sala_pages list, fork;
    sala_pages_init(&list, 0);
    assert_int_equal(sala_pages_prepare(&list, 0, 1000, NULL), SALA_OK);
    assert_int_equal(list.n_pages, 0);
    assert_int_equal(sala_pages_fork(&fork, &list, 1000, NULL), SALA_OK);
    assert_int_equal(fork.n_pages, 0);
    sala_pages_truncate(&fork, 10);
    sala_pages_free(&fork);
    sala_pages_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(large_pages),
                                       cmocka_unit_test(slots),           cmocka_unit_test(single_pages),
                                       cmocka_unit_test(mapped_pages),    cmocka_unit_test(damaged_pages),
                                       cmocka_unit_test(empty_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
