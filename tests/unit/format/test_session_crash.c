/* Session files and sudden death. All that a program of commits writes is recorded; then the record is played back up
 * to each point, cut inside a write, or with some of what no sync had confirmed lost, and whatever that leaves must
 * open as the state before or after the commit that was going on. */
#include "session_support.h"

#include "format/session_internal.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#define MAX_EVENTS 4000
#define MAX_COMMITS 64
#define IMAGE_MAX ((size_t)1 << 20)

typedef struct event {
    sala_store_event kind;
    uint64_t offset, bytes;
    uint8_t *data;
} event;

typedef struct record {
    event events[MAX_EVENTS];
    int n_events;
    hold states[MAX_COMMITS]; /* states[0]: nothing */
    int done_at[MAX_COMMITS]; /* events until state i was there for good */
    int n_states;
} record;

static int remember(void *user, sala_store_event kind, uint64_t offset, const void *data, uint64_t bytes)
{
    record *r = user;
    assert_true(r->n_events < MAX_EVENTS);
    event *e = &r->events[r->n_events++];
    *e = (event){.kind = kind, .offset = offset, .bytes = bytes};
    if (bytes) {
        e->data = malloc((size_t)bytes);
        assert_non_null(e->data);
        memcpy(e->data, data, (size_t)bytes);
    }
    return 0;
}

static uint32_t below(sala_rng *r, uint32_t n)
{
    return (uint32_t)(sala_rng_next(r) % n);
}

/* A random program of small commits, recorded from the making of the file on. */
static record *record_program(const char *path, sala_rng *r, int n_commits)
{
    static const uint64_t sizes[HOLD_SECTIONS] = {50, 700, 4096, 9000};
    record *rec = calloc(1, sizeof *rec);
    assert_non_null(rec);
    unlink(path);
    sala_os_store_watch(remember, rec);
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    rec->n_states = 1;
    hold h = {0};
    for (int c = 0; c < n_commits; c++) {
        for (int change = (int)below(r, 6); change >= 0; change--) {
            const int s = (int)below(r, HOLD_SECTIONS);
            if (h.n[s] == 0) {
                h.page_bytes[s] = sizes[s];
                assert_int_equal(sala_session_file_section(f, s, sizes[s], NULL), SALA_OK);
            }
            if (below(r, 6) == 0) {
                h.n[s] = sala_min_i64(h.n[s], below(r, 4));
                sala_session_file_truncate(f, s, h.n[s]);
                continue;
            }
            const int64_t p = below(r, (uint32_t)sala_min_i64(h.n[s] + 1, 8));
            h.seed[s][p] = (uint32_t)sala_rng_next(r);
            assert_int_equal(put_page(f, s, p, h.page_bytes[s], h.seed[s][p], NULL), SALA_OK);
            h.n[s] = sala_max_i64(h.n[s], p + 1);
        }
        /* Every state has its own description, so that two of them are never the same. */
        h.text = (uint32_t)(c + 1) * 301 + below(r, 300);
        assert_int_equal(put_text(f, h.text, NULL), SALA_OK);
        must_commit(f);
        rec->states[rec->n_states] = h;
        rec->done_at[rec->n_states++] = rec->n_events;
    }
    sala_session_file_close(f);
    sala_os_store_watch(NULL, NULL);
    return rec;
}

static void free_record(record *r)
{
    for (int i = 0; i < r->n_events; i++)
        free(r->events[i].data);
    free(r);
}

/* ---- the disk, as far as it got ---- */

typedef struct image {
    uint8_t bytes[IMAGE_MAX];
    size_t size;
} image;

static void apply(image *m, const event *e, uint64_t from, uint64_t to)
{
    if (e->kind == SALA_STORE_RESIZE_EVENT) {
        assert_true(e->offset <= IMAGE_MAX);
        if (e->offset < m->size)
            memset(m->bytes + e->offset, 0, m->size - e->offset);
        m->size = (size_t)e->offset;
    } else if (e->kind == SALA_STORE_WRITE_EVENT && from < to) {
        assert_true(e->offset + to <= IMAGE_MAX);
        memcpy(m->bytes + e->offset + from, e->data + from, (size_t)(to - from));
        if (e->offset + to > m->size)
            m->size = (size_t)(e->offset + to);
    }
}

/* The state that must be there at least when events [0, n) were done. */
static int state_at(const record *r, int n)
{
    int s = 0;
    while (s + 1 < r->n_states && r->done_at[s + 1] <= n)
        s++;
    return s;
}

/* Opens what is on the disk; it must be state `least` or the next one. Returns which. */
static int must_show(const char *path, const image *m, const record *r, int least)
{
    test_write_file(path, m->bytes, m->size);
    sala_session_file *f;
    sala_error err;
    const sala_session_access how = m->size < SALA_SF_HEADER_BYTES ? SALA_SESSION_CREATE : SALA_SESSION_READ;
    if (sala_session_file_open(&f, path, how, &err) != SALA_OK)
        fail_msg("after state %d: %s", least, err.message);
    const char *old = differs(f, &r->states[least]);
    const char *new = least + 1 < r->n_states ? differs(f, &r->states[least + 1]) : "none";
    if (old && new)
        fail_msg("generation %" PRIu64 " is neither state %d (%s) nor the next (%s)", sala_session_file_generation(f),
                 least, old, new);
    sala_session_file_close(f);
    return old ? least + 1 : least;
}

/* The survivor must be as good as any: a commit on top of it holds. */
static void must_go_on(const char *path, const record *r, int shown)
{
    sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
    hold h = r->states[shown];
    if (h.n[0] == 0)
        assert_int_equal(sala_session_file_section(f, 0, h.page_bytes[0] = 60, NULL), SALA_OK);
    h.seed[0][h.n[0]] = 42;
    assert_int_equal(put_page(f, 0, h.n[0]++, h.page_bytes[0], 42, NULL), SALA_OK);
    must_commit(f);
    sala_session_file_close(f);
    f = must_open(path, SALA_SESSION_READ);
    assert_holds(f, &h);
    sala_session_file_close(f);
}

static const char *disk_path(char *buffer, size_t size)
{
    /* Thousands of small files are written: memory is the better place, where there is such a folder. */
    if (access("/dev/shm", W_OK) == 0)
        snprintf(buffer, size, "/dev/shm/sala-crash-%ld", (long)getpid());
    else
        test_path(buffer, size, "crash.session");
    return buffer;
}

static void cut_at_every_point(void **state)
{
    (void)state;
    char path[512];
    disk_path(path, sizeof path);
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(2));
    int n_old = 0, n_new = 0, n_before = 0;
    for (int program = 0; program < 6; program++) {
        record *r = record_program(path, &rng, 8);
        image *m = calloc(1, sizeof *m);
        assert_non_null(m);
        for (int i = 0; i < r->n_events; i++) {
            const event *e = &r->events[i];
            const int least = state_at(r, i);
            /* Headers and what begins the file at every byte, the rest at each end and some places between. */
            const uint64_t stride = e->bytes <= 64 ? 1 : e->bytes / 16 + 1;
            for (uint64_t cut = 0; cut < e->bytes + (e->bytes == 0); cut += stride) {
                const size_t size = m->size;
                uint8_t was[65536];
                assert_true(e->bytes <= sizeof was);
                if (e->bytes)
                    memcpy(was, m->bytes + e->offset, (size_t)e->bytes);
                apply(m, e, 0, e->kind == SALA_STORE_WRITE_EVENT ? cut : 0);
                const bool resized = e->kind == SALA_STORE_RESIZE_EVENT;
                const int shown = must_show(path, m, r, least);
                n_old += shown == least;
                n_new += shown > least;
                if (cut == 0 && program == 0)
                    must_go_on(path, r, shown);
                if (e->bytes)
                    memcpy(m->bytes + e->offset, was, (size_t)e->bytes);
                if (!resized)
                    m->size = size;
            }
            apply(m, e, 0, e->bytes);
            /* Until the next commit begins, the generation before is whole too. */
            const int done = state_at(r, i + 1);
            if (done > 1 && r->done_at[done] == i + 1) {
                uint8_t *generation = m->bytes + done % 2 * 4096 + 16;
                *generation ^= 1;
                assert_int_equal(must_show(path, m, r, done - 1), done - 1);
                *generation ^= 1;
                n_before++;
            }
        }
        assert_int_equal(must_show(path, m, r, r->n_states - 1), r->n_states - 1);
        free(m);
        free_record(r);
    }
    printf("%d cuts: %d show the old state, %d the new one\n", n_old + n_new, n_old, n_new);
    assert_true(n_old > 1000 && n_new > 0 && n_before == 6 * 7);
    unlink(path);
}

/* Power fails at event `n`: what a sync confirmed is there; of each write since, each sector of 512 bytes is or is not.
 * Changes of the file's length come in order, as file systems keep them. */
static void lose_power(image *m, const record *r, int n, sala_rng *rng)
{
    memset(m->bytes, 0, m->size);
    m->size = 0;
    int synced = 0;
    for (int i = 0; i < n; i++)
        if (r->events[i].kind == SALA_STORE_SYNC_EVENT)
            synced = i;
    for (int i = 0; i < synced; i++)
        apply(m, &r->events[i], 0, r->events[i].bytes);
    const uint32_t chance = below(rng, 5); /* of 4: how much of it arrived */
    for (int i = synced; i < n; i++) {
        const event *e = &r->events[i];
        if (e->kind == SALA_STORE_RESIZE_EVENT && below(rng, 4) < chance)
            apply(m, e, 0, 0);
        for (uint64_t at = 0; e->kind == SALA_STORE_WRITE_EVENT && at < e->bytes;) {
            const uint64_t end = (e->offset + at) / 512 * 512 + 512 - e->offset;
            const uint64_t to = end < e->bytes ? end : e->bytes;
            if (below(rng, 4) < chance)
                apply(m, e, at, to);
            at = to;
        }
    }
}

static void power_failures(void **state)
{
    (void)state;
    char path[512];
    disk_path(path, sizeof path);
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(3));
    image *m = calloc(1, sizeof *m);
    assert_non_null(m);
    int n_old = 0, n_new = 0;
    for (int program = 0; program < 6; program++) {
        record *r = record_program(path, &rng, 10);
        for (int trial = 0; trial < 1500; trial++) {
            const int n = 1 + (int)below(&rng, (uint32_t)r->n_events);
            lose_power(m, r, n, &rng);
            const int least = state_at(r, n), shown = must_show(path, m, r, least);
            n_old += shown == least;
            n_new += shown > least;
            if (trial % 20 == 0)
                must_go_on(path, r, shown);
        }
        free_record(r);
    }
    free(m);
    printf("%d power failures: %d show the old state, %d the new one\n", n_old + n_new, n_old, n_new);
    assert_true(n_new > 100);
    unlink(path);
}

/* ---- changes that fail, one after the other ---- */

typedef struct failing {
    int at, n;
    bool once;
} failing;

static int fail_one(void *user, sala_store_event kind, uint64_t offset, const void *data, uint64_t bytes)
{
    failing *f = user;
    (void)kind, (void)offset, (void)data, (void)bytes;
    const int i = f->n++;
    return i == f->at || (!f->once && i > f->at) ? EIO : 0;
}

static void each_failure(void **state)
{
    (void)state;
    char path[512];
    disk_path(path, sizeof path);
    for (int once = 0; once < 2; once++) {
        int n_doubtful = 0, at = 0;
        for (bool failed = true; failed; at++) {
            unlink(path);
            sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
            hold was = {.page_bytes = {5000}, .n = {2}, .seed = {{1, 2}}, .text = 3};
            assert_int_equal(sala_session_file_section(f, 0, 5000, NULL), SALA_OK);
            assert_int_equal(put_page(f, 0, 0, 5000, 1, NULL), SALA_OK);
            assert_int_equal(put_page(f, 0, 1, 5000, 2, NULL), SALA_OK);
            assert_int_equal(put_text(f, 3, NULL), SALA_OK);
            must_commit(f);
            hold is = was;
            is.seed[0][1] = 7;
            is.seed[0][is.n[0]++] = 8;
            is.text = 9;
            const uint64_t size = sala_session_file_size(f);
            failing fail = {.at = at, .once = once != 0};
            sala_os_store_watch(fail_one, &fail);
            sala_error err;
            sala_status status = put_page(f, 0, 1, 5000, 7, &err);
            if (status == SALA_OK)
                status = put_page(f, 0, 2, 5000, 8, &err);
            if (status == SALA_OK)
                status = put_text(f, 9, &err);
            if (status == SALA_OK)
                status = sala_session_file_commit(f, &err);
            sala_os_store_watch(NULL, NULL);
            failed = status != SALA_OK;
            if (failed) {
                assert_int_equal(status, SALA_E_IO);
                assert_holds(f, &was);
                const bool doubtful = f->doubtful;
                n_doubtful += doubtful;
                sala_session_file_abort(f);
                /* Nothing of the failed commit stays, but for a resize that failed too; and the next one is as usual.
                 */
                if (!doubtful) {
                    assert_true(!once || sala_session_file_size(f) == size);
                    assert_int_equal(put_text(f, 11, NULL), SALA_OK);
                    must_commit(f);
                    was.text = 11;
                } else {
                    assert_int_equal(put_text(f, 11, &err), SALA_E_STATE);
                    assert_int_equal(sala_session_file_commit(f, &err), SALA_E_STATE);
                    assert_non_null(strstr(err.message, "open the session again"));
                }
                sala_session_file_close(f);
                f = must_open(path, SALA_SESSION_WRITE);
                assert_true(doubtful || !differs(f, &was));
                assert_true(!differs(f, &was) || !differs(f, &is));
            } else {
                assert_holds(f, &is);
            }
            sala_session_file_close(f);
        }
        /* Two pages, description, table, sync, header, sync; the resize behind them fails unnoticed. */
        assert_in_range(at, 8, 9);
        assert_int_equal(n_doubtful, once ? 0 : 2);
    }
    unlink(path);
}

/* ---- kill -9 ---- */

static void killed(void **state)
{
    (void)state;
    char path[512];
    test_path(path, sizeof path, "killed.session");
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(4));
    uint32_t last = 0;
    for (int round = 0; round < 25; round++) {
        int said[2];
        assert_int_equal(pipe(said), 0);
        const pid_t child = fork();
        if (child == 0) {
            /* Commit number i holds i % 9 + 1 pages that all say i. */
            sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
            for (uint32_t i = last + 1;; i++) {
                sala_session_file_truncate(f, 0, 0);
                if (sala_session_file_section(f, 0, 3000, NULL) != SALA_OK)
                    _exit(1);
                for (uint32_t p = 0; p < i % 9 + 1; p++)
                    if (put_page(f, 0, p, 3000, i, NULL) != SALA_OK)
                        _exit(1);
                if (put_text(f, i, NULL) != SALA_OK || sala_session_file_commit(f, NULL) != SALA_OK ||
                    write(said[1], &i, sizeof i) != sizeof i)
                    _exit(1);
            }
        }
        assert_true(child > 0);
        close(said[1]);
        usleep(1000 + below(&rng, 30000));
        kill(child, SIGKILL);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        uint32_t i;
        while (read(said[0], &i, sizeof i) == sizeof i)
            last = i;
        close(said[0]);
        sala_session_file *f = must_open(path, SALA_SESSION_CREATE);
        hold h = {0};
        for (uint32_t number = last; number < last + 2; number++) {
            h = (hold){0};
            if (number > 0) {
                h = (hold){.page_bytes = {3000}, .n = {number % 9 + 1}, .text = number};
                for (uint32_t p = 0; p < number % 9 + 1; p++)
                    h.seed[0][p] = number;
            }
            if (!differs(f, &h)) {
                last = number;
                break;
            }
        }
        assert_holds(f, &h);
        sala_session_file_close(f);
    }
    printf("killed 25 times, %" PRIu32 " commits\n", last);
    unlink(path);
}

static int as_usual(void **state)
{
    (void)state;
    sala_os_store_watch(NULL, NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cut_at_every_point, as_usual),
        cmocka_unit_test_teardown(power_failures, as_usual),
        cmocka_unit_test_teardown(each_failure, as_usual),
        cmocka_unit_test(killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
