/* Saves: what comes back is what went in, for any number of ranks; damage anywhere is found, and the save before it is
 * taken. The trainer is a stand-in that owns three arenas. */
#include "train/saves.h"

#include "os/os.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

enum { N = 1000 * 16, N_BUCKETS = 3 };

struct sala_trainer {
    float *values, *moments[2];
    sala_trainer_state state;
    int changed;
};

float *sala_trainer_values(sala_trainer *t)
{
    return t->values;
}
float *sala_trainer_moment(sala_trainer *t, int which)
{
    return t->moments[which];
}
sala_trainer_state *sala_trainer_state_of(sala_trainer *t)
{
    return &t->state;
}
void sala_trainer_changed(sala_trainer *t)
{
    t->changed++;
}

static char dir[] = "/tmp/sala-saves-XXXXXX";
static uint64_t buckets[N_BUCKETS + 1] = {0, 160, 9600, N};
static sala_param items[] = {{.name = "a", .rows = 100, .cols = 160, .at = 0, .count = N}};
static const sala_params params = {
    .items = items, .count = 1, .n_elements = N, .n_weights = N, .n_buckets = N_BUCKETS, .bucket_begin = buckets};

static sala_trainer *new_trainer(void)
{
    sala_trainer *t = calloc(1, sizeof *t);
    t->values = calloc(N, sizeof(float));
    for (int i = 0; i < 2; i++)
        t->moments[i] = calloc(N, sizeof(float));
    return t;
}

static void free_trainer(sala_trainer *t)
{
    free(t->values);
    free(t->moments[0]);
    free(t->moments[1]);
    free(t);
}

/* Number a, element i of the arenas, at a step. */
static float number(int64_t step, int a, uint64_t i)
{
    return (float)(step * 10 + a) + (float)i * 0x1p-14f;
}

/* Fills or checks the parts of a rank. */
static bool each(sala_trainer *t, const sala_dist *d, int64_t step, bool check)
{
    bool same = true;
    uint64_t at = 0;
    for (uint64_t i = 0; i < N; i++) {
        if (!check)
            t->values[i] = number(step, 0, i);
        same = same && t->values[i] == number(step, 0, i);
    }
    for (int b = 0; b < N_BUCKETS; b++) {
        uint64_t begin, end;
        sala_dist_part(d, d->rank, buckets[b], buckets[b + 1], &begin, &end);
        for (uint64_t i = begin; i < end; i++, at++)
            for (int a = 0; a < 2; a++) {
                if (!check)
                    t->moments[a][at] = number(step, 1 + a, i);
                same = same && t->moments[a][at] == number(step, 1 + a, i);
            }
    }
    return same;
}

static sala_save info_of(int64_t step)
{
    sala_save s = {.step = step, .config_text = "optimizer.lr: 0.01\n", .metrics_bytes = 77, .rewinds = 2};
    s.loader = (sala_loader_state){.sequences = 5 * (uint64_t)step, .stage = 1, .seed = UINT64_MAX - 3};
    s.loader.drawn[31] = 9;
    return s;
}

static sala_status write_step(int64_t step, sala_error *err)
{
    sala_dist *d;
    assert_int_equal(sala_dist_open(&d, 60, NULL), SALA_OK);
    sala_trainer *t = new_trainer();
    each(t, d, step, false);
    t->state = (sala_trainer_state){.step = step, .updates = step - 1, .guard = {.mean = 1.0 / 3, .variance = 1e-300}};
    const sala_save info = info_of(step);
    const sala_status st = sala_saves_write(dir, t, &params, d, &info, err);
    free_trainer(t);
    sala_dist_close(d);
    return st;
}

static char notices[4096];
static void notice(void *user, const char *line)
{
    (void)user;
    snprintf(notices + strlen(notices), sizeof notices - strlen(notices), "%s\n", line);
}

/* The step that a run would go on from: find, load, and the one before when that fails. 0: none. */
static int64_t resume(void)
{
    int64_t max = -1;
    for (;;) {
        sala_save s;
        bool found;
        sala_error err = {0};
        if (sala_saves_find(&s, &found, NULL, dir, max, notice, NULL, &err) != SALA_OK)
            fail_msg("%s", err.message);
        if (!found)
            return 0;
        sala_dist *d;
        assert_int_equal(sala_dist_open(&d, 60, NULL), SALA_OK);
        sala_trainer *t = new_trainer();
        const sala_status st = sala_saves_load(&s, t, &params, d, &err);
        const int64_t step = s.step;
        if (st == SALA_OK) {
            const sala_save want = info_of(step);
            assert_true(each(t, d, step, true));
            assert_memory_equal(&s.loader, &want.loader, sizeof want.loader);
            assert_string_equal(s.config_text, want.config_text);
            assert_int_equal(s.rewinds, want.rewinds);
            assert_true(t->state.guard.mean == 1.0 / 3 && t->state.guard.variance == 1e-300);
            assert_int_equal(t->state.updates, step - 1);
            assert_int_equal(t->changed, 1);
        } else {
            assert_int_equal(st, SALA_E_CORRUPT);
            notice(NULL, err.message);
        }
        free_trainer(t);
        sala_dist_close(d);
        sala_save_free(&s);
        if (st == SALA_OK)
            return step;
        max = step - 1;
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    sala_error err = {0};
    assert_int_equal(resume(), 0);
    for (int64_t step = 10; step <= 20; step += 10)
        if (write_step(step, &err) != SALA_OK)
            fail_msg("%s", err.message);
    assert_int_equal(resume(), 20);
    if (write_step(20, &err) != SALA_OK) /* again, over what is there */
        fail_msg("%s", err.message);
    assert_int_equal(resume(), 20);
    assert_string_equal(notices, "");
}

static char *file_of(int64_t step, const char *name)
{
    sala_buf b = {0};
    sala_buf_printf(&b, "%s/checkpoints/step-%09d/%s", dir, (int)step, name);
    return sala_buf_take(&b, NULL);
}

/* Every file of the newest save cut or changed at 100 places; the one before is taken each time, and something said. */
static void test_damage(void **state)
{
    (void)state;
    static const char *const names[] = {"rank-0000.sck", "meta.json"};
    for (int f = 0; f < 2; f++) {
        char *path = file_of(20, names[f]);
        uint8_t *whole;
        size_t bytes;
        assert_int_equal(sala_os_read_file(&whole, &bytes, path, 0), 0);
        for (size_t i = 0; i < 200; i++) {
            const size_t at = i % 2 ? bytes * i / 200 : (i * 2654435761u) % bytes;
            const bool cut = i % 2;
            FILE *out = fopen(path, "wb");
            if (cut) {
                fwrite(whole, 1, at, out);
            } else {
                whole[at] ^= (uint8_t)(1 << i / 2 % 8);
                fwrite(whole, 1, bytes, out);
                whole[at] ^= (uint8_t)(1 << i / 2 % 8);
            }
            fclose(out);
            notices[0] = 0;
            const int64_t step = resume();
            /* Zeros between arrays, and blanks between words of JSON, may change without harm. */
            if (step == 20 && !cut)
                continue;
            if (step != 10 || !notices[0])
                fail_msg("%s %s at byte %zu of %zu: went on from step %d, said \"%s\"", names[f],
                         cut ? "cut" : "changed", at, bytes, (int)step, notices);
        }
        FILE *out = fopen(path, "wb");
        fwrite(whole, 1, bytes, out);
        fclose(out);
        free(whole);
        free(path);
        assert_int_equal(resume(), 20);
    }
    char *path = file_of(20, "rank-0000.sck");
    unlink(path);
    free(path);
    notices[0] = 0;
    assert_int_equal(resume(), 10);
    assert_non_null(strstr(notices, "step-000000020 is damaged (rank-0000.sck is missing)"));
    notices[0] = 0;
}

/* Cut at every byte: the size alone tells, whatever is read of what is left. */
static void test_every_length(void **state)
{
    (void)state;
    static const char *const names[] = {"rank-0000.sck", "meta.json"};
    assert_int_equal(write_step(20, NULL), SALA_OK);
    char *save_dir = file_of(20, "");
    for (int f = 0; f < 2; f++) {
        char *path = file_of(20, names[f]);
        uint8_t *whole;
        size_t bytes;
        assert_int_equal(sala_os_read_file(&whole, &bytes, path, 0), 0);
        for (size_t n = bytes; n-- > 0;) {
            sala_save s;
            sala_error err = {0};
            assert_int_equal(truncate(path, (off_t)n), 0);
            if (sala_saves_open(&s, save_dir, &err) != SALA_E_CORRUPT || !strstr(err.message, names[f]))
                fail_msg("%s of %zu bytes: \"%s\"", names[f], n, err.message);
        }
        FILE *out = fopen(path, "wb");
        fwrite(whole, 1, bytes, out);
        fclose(out);
        free(whole);
        free(path);
    }
    free(save_dir);
    assert_int_equal(resume(), 20);
}

/* A run that was killed while it replaced a save has the old one under another name, and finds it again; one that is
 * whole under its own name is not touched. */
static void test_recovery(void **state)
{
    (void)state;
    sala_error err = {0};
    char *own = file_of(20, ""), *other = file_of(10, "");
    own[strlen(own) - 1] = other[strlen(other) - 1] = 0; /* the slash */
    sala_buf old = {0}, stale = {0}, part = {0};
    sala_buf_printf(&old, "%s.old", own);
    sala_buf_printf(&stale, "%s.old", other);
    sala_buf_printf(&part, "%s.part", own);
    assert_int_equal(rename(own, old.data), 0);
    assert_int_equal(sala_os_make_dirs(part.data), 0);
    assert_int_equal(sala_os_make_dirs(stale.data), 0);
    assert_int_equal(resume(), 10);
    assert_int_equal(sala_saves_recover(dir, &err), SALA_OK);
    assert_false(sala_os_is_dir(old.data) || sala_os_is_dir(part.data) || sala_os_is_dir(stale.data));
    assert_int_equal(resume(), 20);
    assert_int_equal(sala_saves_forget(dir, 10, &err), SALA_OK);
    assert_int_equal(resume(), 10);
    assert_int_equal(write_step(20, &err), SALA_OK);
    sala_buf_free(&old);
    sala_buf_free(&stale);
    sala_buf_free(&part);
    free(own);
    free(other);
    notices[0] = 0;
}

static void test_policy(void **state)
{
    (void)state;
    sala_error err = {0};
    for (int64_t step = 20; step <= 60; step += 10)
        assert_int_equal(write_step(step, &err), SALA_OK);
    sala_buf part = {0};
    sala_buf_printf(&part, "%s/checkpoints/step-000000070.part/x", dir);
    assert_int_equal(sala_os_make_dirs(part.data), 0);
    assert_int_equal(sala_saves_prune(dir, 2, 30, &err), SALA_OK);
    static const struct {
        int step;
        bool kept;
    } want[] = {{10, false}, {20, false}, {30, true}, {40, false}, {50, true}, {60, true}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(want); i++) {
        char *path = file_of(want[i].step, "");
        if (sala_os_is_dir(path) != want[i].kept)
            fail_msg("step %d is %s", want[i].step, want[i].kept ? "gone" : "there");
        free(path);
    }
    assert_false(sala_os_is_dir(part.data));
    sala_buf_free(&part);
    assert_int_equal(resume(), 60);
}

static void test_other_model(void **state)
{
    (void)state;
    sala_save s;
    bool found;
    sala_error err = {0};
    sala_dist *d;
    assert_int_equal(sala_saves_find(&s, &found, NULL, dir, -1, NULL, NULL, &err), SALA_OK);
    assert_int_equal(sala_dist_open(&d, 60, NULL), SALA_OK);
    sala_trainer *t = new_trainer();
    items[0].rows = 50;
    assert_int_equal(sala_saves_load(&s, t, &params, d, &err), SALA_E_INVALID);
    items[0].rows = 100;
    free_trainer(t);
    sala_dist_close(d);
    sala_save_free(&s);
}

static void test_no_room(void **state)
{
    (void)state;
    sala_error err = {0};
    char *parent = sala_path_join(dir, "checkpoints");
    /* A file stands where the directory would. */
    assert_int_equal(sala_os_remove_tree(parent), 0);
    FILE *f = fopen(parent, "wb");
    fclose(f);
    assert_int_not_equal(write_step(80, &err), SALA_OK);
    assert_non_null(strstr(err.message, "step-000000080.part"));
    unlink(parent);
    free(parent);
    assert_int_equal(write_step(80, &err), SALA_OK);
    assert_int_equal(resume(), 80);
}

/* Parts of any number of ranks are whole units, in order, and together everything. */
static void test_parts(void **state)
{
    (void)state;
    for (int size = 1; size <= 7; size++)
        for (uint64_t n = 0; n <= 400; n += 8) {
            const sala_dist d = {.size = size};
            uint64_t at = 32;
            for (int r = 0; r < size; r++) {
                uint64_t begin, end;
                sala_dist_part(&d, r, 32, 32 + n, &begin, &end);
                assert_int_equal(begin, at);
                assert_true(end >= begin && (end % 16 == 0 || end == 32 + n));
                at = end;
            }
            assert_int_equal(at, 32 + n);
        }
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_every_length), cmocka_unit_test(test_recovery),   cmocka_unit_test(test_policy),
        cmocka_unit_test(test_other_model),  cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
