/* Session files: what is put is there after a commit and only then; what is damaged, foreign or locked is refused. */
#include "session_support.h"

#include "format/session_internal.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <xxhash.h>

static void round_trip(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "round.session");
    hold h = {.page_bytes = {4096, 100, 10000}};
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    assert_int_equal(sala_session_file_generation(f), 0);
    assert_true(sala_session_file_writable(f));
    assert_holds(f, &(hold){0});
    for (int s = 0; s < 3; s++)
        assert_int_equal(sala_session_file_section(f, s, h.page_bytes[s], NULL), SALA_OK);
    for (int s = 0; s < 3; s++)
        for (int64_t p = 0; p < 5 + s; p++) {
            h.seed[s][p] = (uint32_t)(100 * s + p);
            assert_int_equal(put_page(f, s, p, h.page_bytes[s], h.seed[s][p], NULL), SALA_OK);
            h.n[s]++;
        }
    h.text = 77;
    assert_int_equal(put_text(f, 77, NULL), SALA_OK);
    assert_holds(f, &(hold){0}); /* nothing is there before the commit */
    must_commit(f);
    assert_int_equal(sala_session_file_generation(f), 1);
    assert_holds(f, &h);
    for (int s = 0; s < 3; s++)
        for (int64_t p = 0; p < h.n[s]; p++)
            assert_int_equal((uintptr_t)sala_session_file_page(f, s, p) % 4096, 0);
    assert_null(sala_session_file_page(f, 0, h.n[0]));
    assert_null(sala_session_file_page(f, 3, 0));
    assert_null(sala_session_file_page(f, -1, 0));
    assert_null(sala_session_file_page(f, SALA_SESSION_MAX_SECTIONS, 0));
    must_commit(f); /* nothing to do */
    assert_int_equal(sala_session_file_generation(f), 1);
    sala_session_file_close(f);

    for (int access = SALA_SESSION_READ; access <= SALA_SESSION_CREATE; access++) {
        f = must_open(path, (sala_session_access)access);
        assert_int_equal(sala_session_file_generation(f), 1);
        assert_false(sala_session_file_fell_back(f));
        assert_holds(f, &h);
        sala_session_file_close(f);
    }

    f = must_open(path, SALA_SESSION_READ);
    sala_error err;
    assert_int_equal(put_page(f, 0, 0, 4096, 1, &err), SALA_E_STATE);
    assert_int_equal(sala_session_file_commit(f, &err), SALA_E_STATE);
    assert_non_null(strstr(err.message, "for reading only"));
    sala_session_file_close(f);
    unlink(path);
}

static void wrong_use(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "wrong.session");
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    sala_error err;
    const char byte = 1;
    assert_int_equal(sala_session_file_put(f, 0, 0, &byte, &err), SALA_E_INVALID); /* no page size */
    assert_int_equal(sala_session_file_section(f, 16, 1, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_file_section(f, 0, 0, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_file_section(f, 0, SALA_SESSION_MAX_PAGE_BYTES + 1, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_file_section(f, 0, 1, &err), SALA_OK);
    assert_int_equal(sala_session_file_put(f, 0, 1, &byte, &err), SALA_E_INVALID); /* a gap */
    assert_int_equal(sala_session_file_put(f, 0, -1, &byte, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_file_put(f, 0, 0, &byte, &err), SALA_OK);
    assert_int_equal(sala_session_file_section(f, 0, 2, &err), SALA_E_STATE);
    assert_int_equal(sala_session_file_section(f, 0, 1, &err), SALA_OK);
    assert_int_equal(sala_session_file_describe(f, "", SALA_SESSION_MAX_DESCRIPTION + 1, &err), SALA_E_LIMIT);
    assert_int_equal(sala_session_file_check(f, 0, 0, &err), SALA_E_INVALID); /* not committed */
    sala_session_file_truncate(f, 0, -5);
    assert_int_equal(sala_session_file_section(f, 0, 2, &err), SALA_OK);
    sala_session_file_truncate(f, 99, 0);
    sala_session_file_close(f);
    assert_int_equal(access(path, F_OK), -1); /* nothing was committed to the new file: it is gone */
}

/* ---- random programs against a model ---- */

#define MAX_HANDED 64

typedef struct handed {
    const uint8_t *data;
    uint64_t bytes;
    uint32_t seed;
} handed;

typedef struct saboteur {
    int countdown; /* changes of the file that still work; negative: all */
} saboteur;

static int sabotage(void *user, sala_store_event event, uint64_t offset, const void *data, uint64_t bytes)
{
    saboteur *s = user;
    (void)event, (void)offset, (void)data, (void)bytes;
    if (s->countdown < 0)
        return 0;
    return s->countdown-- > 0 ? 0 : (s->countdown = 0, ENOSPC);
}

static uint32_t below(sala_rng *r, uint32_t n)
{
    return (uint32_t)(sala_rng_next(r) % n);
}

static void random_programs(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "random.session");
    sala_rng r;
    sala_rng_seed(&r, test_seed(1));
    saboteur sab = {.countdown = -1};
    sala_os_store_watch(sabotage, &sab);
    sala_sf_map_step = 0; /* so that many regions are mapped */
    static const uint64_t sizes[] = {1, 100, 4096, 4097, 65536, 300000};
    int n_commits = 0, n_failed = 0, n_reopened = 0, n_regions = 0;
    for (int program = 0; program < 12; program++) {
        unlink(path);
        hold now = {0}, next = {0};
        handed out[MAX_HANDED];
        int n_out = 0;
        bool broken = false; /* a put failed: nothing counts until the commit is given up */
        sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
        for (int op = 0; op < 1000; op++) {
            const int s = (int)below(&r, HOLD_SECTIONS);
            const uint32_t seed = (uint32_t)sala_rng_next(&r) | 1;
            switch (below(&r, 16)) {
            case 0:
                if (next.n[s] == 0) {
                    next.page_bytes[s] = sizes[below(&r, SALA_ARRAY_LEN(sizes))];
                    broken = sala_session_file_section(f, s, next.page_bytes[s], NULL) != SALA_OK || broken;
                }
                break;
            case 1:
                if (next.page_bytes[s]) {
                    next.n[s] = sala_min_i64(next.n[s], below(&r, HOLD_PAGES));
                    sala_session_file_truncate(f, s, next.n[s]);
                }
                break;
            case 2:
                next.text = below(&r, 5) ? seed : 0;
                broken = put_text(f, next.text, NULL) != SALA_OK || broken;
                break;
            case 3:
            case 4: {
                /* Some commits, and what comes before them, meet a full disk. */
                if (program % 2 && below(&r, 4) == 0)
                    sab.countdown = (int)below(&r, 6);
                const bool failed = sala_session_file_commit(f, NULL) != SALA_OK;
                sab.countdown = -1;
                assert_true(failed || !broken);
                if (failed) {
                    n_failed++;
                    sala_session_file_close(f); /* a doubtful header is settled by opening again */
                    n_out = 0;
                    f = must_open(path, SALA_SESSION_CREATE);
                    if (!broken && differs(f, &now))
                        now = next;
                } else {
                    now = next;
                    n_commits++;
                }
                next = now;
                broken = false;
                break;
            }
            case 5:
                if (below(&r, 3) == 0) {
                    sala_session_file_abort(f);
                    next = now;
                    broken = false;
                }
                break;
            case 6:
                if (below(&r, program % 2 ? 4 : 40) == 0) {
                    sala_session_file_close(f);
                    f = must_open(path, below(&r, 2) && now.text ? SALA_SESSION_WRITE : SALA_SESSION_CREATE);
                    assert_false(sala_session_file_fell_back(f));
                    assert_holds(f, &now);
                    next = now;
                    broken = false;
                    n_out = 0;
                    n_reopened++;
                }
                break;
            case 7:
                if (now.n[s] && n_out < MAX_HANDED) {
                    const int64_t p = below(&r, (uint32_t)now.n[s]);
                    out[n_out++] = (handed){sala_session_file_page(f, s, p), now.page_bytes[s], now.seed[s][p]};
                }
                break;
            case 8:
                if (below(&r, 8) == 0) {
                    sala_session_file_release(f);
                    n_out = 0;
                }
                break;
            default:
                if (next.page_bytes[s]) {
                    const int64_t p = below(&r, (uint32_t)sala_min_i64(next.n[s] + 1, HOLD_PAGES));
                    if (program % 2 && below(&r, 100) == 0)
                        sab.countdown = 0;
                    if (put_page(f, s, p, next.page_bytes[s], seed, NULL) != SALA_OK)
                        broken = true;
                    sab.countdown = -1;
                    next.seed[s][p] = seed;
                    next.n[s] = sala_max_i64(next.n[s], p + 1);
                }
            }
            if (op % 10 == 0)
                assert_holds(f, &now);
            n_regions = f->n_regions > n_regions ? f->n_regions : n_regions;
            for (int i = 0; i < n_out; i++)
                if (!page_is(out[i].data, out[i].bytes < 200 ? out[i].bytes : 200, out[i].seed))
                    fail_msg("a page that was handed out has changed");
        }
        sala_session_file_close(f);
    }
    printf("%d commits, %d failed ones, opened again %d times, up to %d regions\n", n_commits, n_failed, n_reopened,
           n_regions);
    assert_true(n_regions >= 4 && n_failed > 50);
    unlink(path);
}

static int as_usual(void **state)
{
    (void)state;
    sala_os_store_watch(NULL, NULL);
    sala_sf_map_step = (uint64_t)1 << 30;
    return 0;
}

static void no_endless_growth(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "growth.session");
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    assert_int_equal(sala_session_file_section(f, 0, 20000, NULL), SALA_OK);
    for (int64_t p = 0; p < 10; p++)
        assert_int_equal(put_page(f, 0, p, 20000, 1, NULL), SALA_OK);
    must_commit(f);
    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(put_page(f, 0, 3, 20000, i, NULL), SALA_OK);
        assert_int_equal(put_page(f, 0, 3, 20000, i + 1, NULL), SALA_OK); /* twice in one commit: one place */
        assert_int_equal(put_text(f, 299, NULL), SALA_OK);
        must_commit(f);
        assert_true(sala_session_file_written(f) < 2 * 20000 + 1200);
    }
    /* Ten pages of five units, twice one page, description and table, two header slots. */
    assert_true(sala_session_file_size(f) <= (50 + 5 + 4 + 2) * 4096);
    /* What is dropped is given back, as soon as the generation before no longer needs it. */
    sala_session_file_truncate(f, 0, 1);
    must_commit(f);
    assert_int_equal(put_text(f, 5, NULL), SALA_OK);
    must_commit(f);
    assert_int_equal(put_text(f, 6, NULL), SALA_OK);
    must_commit(f);
    assert_true(sala_session_file_size(f) <= (5 + 5 + 4 + 2 + 8) * 4096);
    sala_session_file_close(f);
    unlink(path);
}

/* ---- damage ---- */

/* Three commits, so that both slots are in use and places were freed and taken again. held[g]: after commit g + 1. */
static uint8_t *small_session(const char *path, size_t *n, hold held[3])
{
    unlink(path);
    hold h = {.page_bytes = {300, 5000}};
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    assert_int_equal(sala_session_file_section(f, 0, 300, NULL), SALA_OK);
    assert_int_equal(sala_session_file_section(f, 1, 5000, NULL), SALA_OK);
    for (uint32_t g = 0; g < 3; g++) {
        for (int s = 0; s < 2; s++) {
            for (int64_t p = h.n[s] ? h.n[s] - 1 : 0; p < g + 2; p++) {
                h.seed[s][p] = 1000 * g + 10 * (uint32_t)s + (uint32_t)p;
                assert_int_equal(put_page(f, s, p, h.page_bytes[s], h.seed[s][p], NULL), SALA_OK);
                h.n[s] = sala_max_i64(h.n[s], p + 1);
            }
        }
        h.text = 100 + g;
        assert_int_equal(put_text(f, h.text, NULL), SALA_OK);
        must_commit(f);
        held[g] = h;
    }
    sala_session_file_close(f);
    return file_bytes(path, n);
}

/* Opens the file; it must be refused, or be the state of `held` that its generation says, where a page that passes its
 * check is right and at most one page does not. Returns the generation, 0 when refused. */
static int open_damaged(const char *path, const hold *held, bool *fell_back, int *n_bad_pages)
{
    sala_session_file *f;
    sala_error err = {0};
    *n_bad_pages = 0;
    if (sala_session_file_open(&f, path, SALA_SESSION_READ, &err) != SALA_OK) {
        assert_true(err.code == SALA_E_CORRUPT || err.code == SALA_E_TRUNCATED || err.code == SALA_E_UNSUPPORTED);
        assert_true(strlen(err.message) > 20);
        return 0;
    }
    const int g = (int)sala_session_file_generation(f);
    assert_in_range(g, 1, 3);
    const hold *h = &held[g - 1];
    char text[512];
    size_t n;
    const char *got = sala_session_file_description(f, &n);
    assert_int_equal(text_of(text, sizeof text, h->text), n);
    assert_memory_equal(text, got, n);
    for (int s = 0; s < HOLD_SECTIONS; s++) {
        assert_int_equal(sala_session_file_pages(f, s), h->n[s]);
        for (int64_t p = 0; p < h->n[s]; p++) {
            const bool right = page_is(sala_session_file_page(f, s, p), h->page_bytes[s], h->seed[s][p]);
            const bool passes = sala_session_file_check(f, s, p, &err) == SALA_OK;
            assert_int_equal(right, passes);
            *n_bad_pages += !passes;
        }
    }
    *fell_back = sala_session_file_fell_back(f);
    sala_session_file_close(f);
    return g;
}

static void flipped_bits(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "flip.session");
    hold held[3];
    size_t n;
    uint8_t *bytes = small_session(path, &n, held);
    int n_harmless = 0, n_fell_back = 0, n_pages = 0, n_refused = 0;
    for (size_t at = 0; at < n; at++) {
        const int bit = (int)(at * 5 % 8);
        bytes[at] ^= (uint8_t)(1 << bit);
        FILE *out = fopen(path, "r+b");
        assert_non_null(out);
        fseek(out, (long)at, SEEK_SET);
        fputc(bytes[at], out);
        fclose(out);
        bool fell_back = false;
        int n_bad;
        const int g = open_damaged(path, held, &fell_back, &n_bad);
        assert_true(n_bad <= 1);
        if (at < 8192) {
            /* Generation 3 is in slot 1. A damaged slot 0 is noticed, and the state is the newest all the same. */
            const bool in_header = at % 4096 < 64;
            assert_int_equal(g, in_header && at >= 4096 ? 2 : 3);
            assert_int_equal(fell_back, in_header);
        }
        n_refused += g == 0;
        n_fell_back += g == 2;
        n_pages += n_bad;
        n_harmless += g == 3 && !n_bad;
        bytes[at] ^= (uint8_t)(1 << bit);
        out = fopen(path, "r+b");
        fseek(out, (long)at, SEEK_SET);
        fputc(bytes[at], out);
        fclose(out);
    }
    printf("%zu bytes: %d flips harmless, %d fell back, %d in pages, %d refused\n", n, n_harmless, n_fell_back, n_pages,
           n_refused);
    assert_int_equal(n_refused, 0); /* a single flip always leaves one of the two generations */
    assert_true(n_fell_back > 400 && n_pages == 4 * 5300);
    free(bytes);
    unlink(path);
}

static void cut_files(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "cut.session");
    hold held[3];
    size_t n;
    uint8_t *bytes = small_session(path, &n, held);
    int opened[4] = {0};
    for (size_t len = n; len-- > 0;) {
        assert_int_equal(truncate(path, (off_t)len), 0);
        bool fell_back;
        int n_bad;
        opened[open_damaged(path, held, &fell_back, &n_bad)]++;
        assert_int_equal(n_bad, 0); /* a file that is long enough for a generation has all of it */
    }
    assert_int_equal(opened[1] + opened[3], 0);
    printf("cut at %zu lengths: %d times the generation before, %d times refused\n", n, opened[2], opened[0]);
    free(bytes);
    unlink(path);
}

/* ---- tables that lie, with checksums that are right ---- */

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static void seal(uint8_t *file, size_t table)
{
    uint8_t *h = file + 4096;
    const uint64_t bytes = get_u64(h + 32);
    if (table)
        sala_sf_put_u64(h + 40, XXH3_64bits(file + table, (size_t)bytes));
    sala_sf_put_u64(h + 56, XXH3_64bits(h, 56));
}

static void hostile_tables(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "hostile.session");
    hold held[3];
    size_t n;
    uint8_t *bytes = small_session(path, &n, held);
    const size_t table = (size_t)get_u64(bytes + 4096 + 24);
    const uint64_t page0 = get_u64(bytes + table + SALA_SF_TABLE_HEAD);
    /* 8 bytes at `at`, from the header in slot 1 or (table true) from the table. */
    const struct {
        bool in_table;
        size_t at;
        uint64_t value;
        const char *want;
    } lies[] = {
        {false, 24, (uint64_t)table + 1, "a table of"},
        {false, 24, 0, "a table of"},
        {false, 24, 4096, "a table of"},
        {false, 24, UINT64_MAX - 4095, "a table of"},
        {false, 24, 8192, "the table's checksum"},
        {false, 32, 0, "a table of 0 bytes"},
        {false, 32, UINT64_MAX, "a table of"},
        {false, 32, SALA_SF_TABLE_HEAD + ((uint64_t)16 << 24) + 16, "a table of"},
        {false, 48, UINT64_MAX, "needs 18446744073709551615"},
        {false, 48, (uint64_t)n + 1, "of the session needs"},
        {false, 48, 64, "a table of"},
        {true, 0, 2, "a table of generation 2 under a header of generation 3"},
        {true, 8, 0, "the description's place"},
        {true, 8, 4096, "the description's place"},
        {true, 8, UINT64_MAX - 4095, "the description's place"},
        {true, 8, page0, "checksum"},
        {true, 16, SALA_SESSION_MAX_DESCRIPTION + 1, "a description of"},
        {true, 16, UINT64_MAX, "a description of"},
        {true, 16, 0, "the description's place"},
        {true, 24, 1, "the description's checksum"},
        {true, 32, 0, "section 0 claims 4 pages of 0 bytes"},
        {true, 32, UINT64_MAX, "section 0 claims"},
        {true, 32, SALA_SESSION_MAX_PAGE_BYTES, "at no place"},
        {true, 40, 5, "pages take a table of"},
        {true, 40, UINT64_MAX, "section 0 claims"},
        {true, 40, (uint64_t)SALA_SESSION_MAX_PAGES, "pages take a table of"},
        {true, 40, 0, "pages take a table of"},
        {true, 64 + 8, 1, "section 2 claims 1 pages of 0 bytes"},
        {true, SALA_SF_TABLE_HEAD, page0 + 1, "at no place"},
        {true, SALA_SF_TABLE_HEAD, 0, "at no place"},
        {true, SALA_SF_TABLE_HEAD, 4096, "at no place"},
        {true, SALA_SF_TABLE_HEAD, UINT64_MAX - 4095, "at no place"},
        {true, SALA_SF_TABLE_HEAD, (uint64_t)1 << 40, "at no place"},
        {true, SALA_SF_TABLE_HEAD, (uint64_t)table, "two places overlap"},
        {true, SALA_SF_TABLE_HEAD + 16, page0, "two places overlap"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(lies); i++) {
        uint8_t *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, bytes, n);
        memset(copy, 0, 4096); /* no other generation to fall back to */
        sala_sf_put_u64(copy + (lies[i].in_table ? table : 4096) + lies[i].at, lies[i].value);
        seal(copy, lies[i].in_table ? table : 0);
        test_write_file(path, copy, n);
        sala_session_file *f;
        sala_error err = {0};
        const sala_status status = sala_session_file_open(&f, path, SALA_SESSION_WRITE, &err);
        if (status == SALA_OK || !strstr(err.message, lies[i].want))
            fail_msg("lie %zu: \"%s\" is missing in: %s", i, lies[i].want, status ? err.message : "(accepted)");
        assert_true(status == SALA_E_CORRUPT || status == SALA_E_TRUNCATED);
        /* With the other generation there, it is taken. */
        memcpy(copy, bytes, 4096);
        test_write_file(path, copy, n);
        bool fell_back;
        int n_bad;
        assert_int_equal(open_damaged(path, held, &fell_back, &n_bad), 2);
        assert_true(fell_back && n_bad == 0);
        free(copy);
    }
    /* Another version is left alone, whatever else is there. */
    sala_sf_put_u32(bytes + 4096 + 8, 3);
    seal(bytes, 0);
    test_write_file(path, bytes, n);
    sala_session_file *f;
    sala_error err;
    assert_int_equal(sala_session_file_open(&f, path, SALA_SESSION_CREATE, &err), SALA_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "version 3"));
    free(bytes);
    unlink(path);
}

static void after_a_fall_back(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "fall.session");
    hold held[3];
    size_t n;
    uint8_t *bytes = small_session(path, &n, held);
    bytes[4096 + 20] ^= 1;
    test_write_file(path, bytes, n);
    sala_session_file *f = must_open(path, SALA_SESSION_WRITE);
    assert_true(sala_session_file_fell_back(f));
    assert_holds(f, &held[1]);
    hold h = held[1];
    h.text = 9;
    assert_int_equal(put_text(f, 9, NULL), SALA_OK);
    must_commit(f);
    assert_false(sala_session_file_fell_back(f));
    sala_session_file_close(f);
    f = must_open(path, SALA_SESSION_READ);
    assert_false(sala_session_file_fell_back(f));
    assert_int_equal(sala_session_file_generation(f), 3);
    assert_holds(f, &h);
    sala_session_file_close(f);
    free(bytes);
    unlink(path);
}

/* ---- what is no session file ---- */

static void assert_refused(const char *path, sala_session_access access, sala_status want, const char *words)
{
    sala_session_file *f;
    sala_error err = {0};
    const sala_status got = sala_session_file_open(&f, path, access, &err);
    if (got != want || !strstr(err.message, words))
        fail_msg("%s: status %d, expected %d; \"%s\" in: %s", path, got, want, words, err.message);
}

static void foreign_files(void **state)
{
    (void)state;
    char path[512], link[512];
    test_path(path, sizeof path, "foreign");
    test_path(link, sizeof link, "link");
    static const char text[] =
        "My diary. Nobody may overwrite this, least of all a program that was given a wrong name.\n";
    uint8_t zeros[10000] = {0};
    for (int big = 0; big < 3; big++) {
        const void *data = big == 0 ? (const void *)text : zeros;
        const size_t size = big == 0 ? sizeof text : big == 1 ? sizeof zeros : 65;
        test_write_file(path, data, size);
        for (int access = SALA_SESSION_READ; access <= SALA_SESSION_CREATE; access++)
            assert_refused(path, (sala_session_access)access, SALA_E_CORRUPT, "this is no session file");
        size_t n;
        uint8_t *bytes = file_bytes(path, &n);
        assert_int_equal(n, size);
        assert_memory_equal(bytes, data, size);
        free(bytes);
    }
    unlink(path);
    assert_refused(path, SALA_SESSION_READ, SALA_E_NOT_FOUND, path);
    assert_refused(path, SALA_SESSION_WRITE, SALA_E_NOT_FOUND, path);
    assert_refused("/no/such/folder/x", SALA_SESSION_CREATE, SALA_E_NOT_FOUND, "/no/such/folder/x");
    assert_refused("/tmp", SALA_SESSION_CREATE, SALA_E_INVALID, "a folder");
    assert_refused("/dev/null", SALA_SESSION_CREATE, SALA_E_INVALID, "a regular file");
    assert_int_equal(mkfifo(path, 0600), 0);
    for (int access = SALA_SESSION_READ; access <= SALA_SESSION_CREATE; access++)
        assert_refused(path, (sala_session_access)access, SALA_E_INVALID, "a regular file");
    unlink(path);
    assert_int_equal(symlink(path, link), 0);
    assert_refused(link, SALA_SESSION_CREATE, SALA_E_INVALID, "link to nothing");
    assert_refused(link, SALA_SESSION_WRITE, SALA_E_NOT_FOUND, "link");
    /* An empty file is taken over by CREATE, and stays when nothing is committed: it was there before. */
    test_write_file(path, "", 0);
    assert_refused(path, SALA_SESSION_READ, SALA_E_TRUNCATED, "no session in it yet");
    assert_refused(path, SALA_SESSION_WRITE, SALA_E_TRUNCATED, "no session in it yet");
    sala_session_file_close(must_open(path, SALA_SESSION_CREATE));
    assert_int_equal(access(path, F_OK), 0);
    /* Through a link to a file, the file is meant. */
    sala_session_file *f = must_open(link, SALA_SESSION_CREATE);
    assert_int_equal(put_text(f, 1, NULL), SALA_OK);
    must_commit(f);
    sala_session_file_close(f);
    f = must_open(path, SALA_SESSION_READ);
    assert_holds(f, &(hold){.text = 1});
    sala_session_file_close(f);
    unlink(link);
    unlink(path);
}

/* ---- two of them ---- */

static void two_processes(void **state)
{
    (void)state;
    char path[512], words[64];
    test_path(path, sizeof path, "locked.session");
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    assert_int_equal(put_text(f, 1, NULL), SALA_OK);
    must_commit(f);
    sala_session_file_close(f);

    for (int writes = 0; writes < 2; writes++) {
        int ready[2];
        assert_int_equal(pipe(ready), 0);
        const pid_t child = fork();
        if (child == 0) {
            sala_session_file *c;
            const sala_session_access how = writes ? SALA_SESSION_WRITE : SALA_SESSION_READ;
            if (sala_session_file_open(&c, path, how, NULL) != SALA_OK || write(ready[1], "x", 1) != 1)
                _exit(1);
            for (;;)
                pause();
        }
        assert_true(child > 0);
        char byte;
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        close(ready[1]);
        sala_error err;
        assert_int_equal(sala_session_file_open(&f, path, SALA_SESSION_WRITE, &err), SALA_E_STATE);
        snprintf(words, sizeof words, "process %ld has the session open", (long)child);
        if (access("/proc/locks", R_OK) == 0)
            assert_non_null(strstr(err.message, words));
        assert_int_equal(sala_session_file_open(&f, path, SALA_SESSION_CREATE, &err), SALA_E_STATE);
        const sala_status read_too = sala_session_file_open(&f, path, SALA_SESSION_READ, &err);
        assert_int_equal(read_too, writes ? SALA_E_STATE : SALA_OK);
        if (read_too == SALA_OK)
            sala_session_file_close(f);
        kill(child, SIGKILL); /* the lock goes with the process */
        assert_int_equal(waitpid(child, NULL, 0), child);
        sala_session_file_close(must_open(path, SALA_SESSION_WRITE));
    }

    /* In one process too. */
    f = must_open(path, SALA_SESSION_WRITE);
    assert_refused(path, SALA_SESSION_READ, SALA_E_STATE, "has the session open for writing");
    sala_session_file_close(f);
    f = must_open(path, SALA_SESSION_READ);
    sala_session_file *g = must_open(path, SALA_SESSION_READ);
    assert_refused(path, SALA_SESSION_WRITE, SALA_E_STATE, "has the session open");
    sala_session_file_close(f);
    sala_session_file_close(g);
    unlink(path);
}

/* ---- a limit of the system on the size of files: writes fail half done ---- */

static void full_for_real(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "full.session");
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    hold h = {.page_bytes = {30000}};
    assert_int_equal(sala_session_file_section(f, 0, 30000, NULL), SALA_OK);
    for (; h.n[0] < 4; h.n[0]++) {
        h.seed[0][h.n[0]] = (uint32_t)h.n[0];
        assert_int_equal(put_page(f, 0, h.n[0], 30000, (uint32_t)h.n[0], NULL), SALA_OK);
    }
    must_commit(f);
    const uint64_t size = sala_session_file_size(f);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    for (uint64_t room = 0; room < 3 * 32768; room += 3000) {
        small = before;
        small.rlim_cur = size + room;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        sala_error err = {0}, again = {0};
        sala_status status = SALA_OK;
        for (int64_t p = 0; p < 3 && status == SALA_OK; p++)
            status = put_page(f, 0, 4 + p, 30000, 9, &err);
        if (status == SALA_OK)
            status = sala_session_file_commit(f, &err);
        else
            assert_int_equal(sala_session_file_commit(f, &again), status);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, SALA_E_IO);
        assert_non_null(strstr(err.message, "the session is as before"));
        assert_int_equal(sala_session_file_size(f), size);
        assert_holds(f, &h);
    }
    signal(SIGXFSZ, old);
    h.seed[0][h.n[0]] = 5;
    assert_int_equal(put_page(f, 0, h.n[0]++, 30000, 5, NULL), SALA_OK);
    must_commit(f);
    assert_holds(f, &h);
    sala_session_file_close(f);
    f = must_open(path, SALA_SESSION_READ);
    assert_holds(f, &h);
    sala_session_file_close(f);
    unlink(path);
}

/* ---- a million tokens ---- */

#define BIG_PAGES 16400
#define BIG_BYTES ((uint64_t)512 << 10)
#define SMALL_PAGES 4000
#define SMALL_BYTES ((uint64_t)16 << 10)

/* A file of zeros, none of them on the disk, with the table that such pages have. */
static bool sparse_session(const char *path)
{
    uint8_t *zeros = calloc(1, BIG_BYTES);
    const uint64_t table_bytes = SALA_SF_TABLE_HEAD + 16 * (uint64_t)(BIG_PAGES + SMALL_PAGES);
    uint8_t *table = calloc(1, (size_t)table_bytes);
    assert_non_null(zeros);
    assert_non_null(table);
    sala_sf_put_u64(table, 1);
    uint8_t *p = table + SALA_SF_TABLE_HEAD;
    uint64_t at = 8192;
    for (int s = 0; s < 2; s++) {
        const uint64_t size = s ? SMALL_BYTES : BIG_BYTES, sum = XXH3_64bits(zeros, (size_t)size);
        const uint64_t n = s ? SMALL_PAGES : BIG_PAGES;
        sala_sf_put_u64(table + 32 + 16 * s, size);
        sala_sf_put_u64(table + 40 + 16 * s, n);
        for (uint64_t i = 0; i < n; i++, p += 16, at += size) {
            sala_sf_put_u64(p, at);
            sala_sf_put_u64(p + 8, sum);
        }
    }
    uint8_t header[SALA_SF_HEADER_BYTES];
    sala_sf_state s = {.generation = 1, .length = at + table_bytes};
    s.table = (sala_sf_place){at, table_bytes, XXH3_64bits(table, (size_t)table_bytes)};
    sala_sf_header(header, &s);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    const bool ok = ftruncate(fileno(out), (off_t)s.length) == 0 && fseeko(out, 4096, SEEK_SET) == 0 &&
                    fwrite(header, 1, sizeof header, out) == sizeof header && fseeko(out, (off_t)at, SEEK_SET) == 0 &&
                    fwrite(table, 1, (size_t)table_bytes, out) == table_bytes;
    fclose(out);
    free(zeros);
    free(table);
    return ok;
}

static void a_million_tokens(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "million.session");
    if (!sparse_session(path)) {
        unlink(path);
        skip();
    }
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        const double t0 = sala_os_seconds();
        sala_session_file *f = must_open(path, SALA_SESSION_READ);
        const double t = sala_os_seconds() - t0;
        best = t < best ? t : best;
        assert_int_equal(sala_session_file_pages(f, 0), BIG_PAGES);
        assert_int_equal(sala_session_file_check(f, 0, BIG_PAGES - 1, NULL), SALA_OK);
        assert_int_equal(sala_session_file_check(f, 1, SMALL_PAGES / 2, NULL), SALA_OK);
        sala_session_file_close(f);
    }
    sala_session_file *f = must_open(path, SALA_SESSION_WRITE);
    const double t0 = sala_os_seconds();
    assert_int_equal(put_page(f, 0, BIG_PAGES - 1, BIG_BYTES, 1, NULL), SALA_OK);
    assert_int_equal(put_page(f, 0, BIG_PAGES, BIG_BYTES, 2, NULL), SALA_OK);
    assert_int_equal(put_page(f, 1, SMALL_PAGES, SMALL_BYTES, 3, NULL), SALA_OK);
    assert_int_equal(put_text(f, 299, NULL), SALA_OK);
    must_commit(f);
    const double t = sala_os_seconds() - t0;
    const uint64_t table = SALA_SF_TABLE_HEAD + 16 * (uint64_t)(BIG_PAGES + SMALL_PAGES + 2);
    printf("%.1f GiB in %d pages: opened in %.1f ms; a commit of three pages wrote %.2f MiB in %.1f ms\n",
           (double)sala_session_file_size(f) / (1 << 30), BIG_PAGES + SMALL_PAGES, best * 1e3,
           (double)sala_session_file_written(f) / (1 << 20), t * 1e3);
    assert_true(best < 0.2);
    assert_true(sala_session_file_written(f) <= 2 * BIG_BYTES + SMALL_BYTES + table + 512 + SALA_SF_HEADER_BYTES);
    assert_true(page_is(sala_session_file_page(f, 0, BIG_PAGES), BIG_BYTES, 2));
    sala_session_file_close(f);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(wrong_use),
        cmocka_unit_test_teardown(random_programs, as_usual),
        cmocka_unit_test(no_endless_growth),
        cmocka_unit_test(flipped_bits),
        cmocka_unit_test(cut_files),
        cmocka_unit_test(hostile_tables),
        cmocka_unit_test(after_a_fall_back),
        cmocka_unit_test(foreign_files),
        cmocka_unit_test(two_processes),
        cmocka_unit_test(full_for_real),
        cmocka_unit_test(a_million_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
