/* Stop strings: whatever the pieces the text comes in, what is released ends before the first stop string, and nothing
 * that might begin one is released early. */
#include "infer/stops.h"
#include "base/base.h"
#include "unit/test.h"

/* Feeds `text` in random pieces. Returns what was released, malloc'ed; *stopped says whether a stop string was found.
 */
static char *feed(const char *text, const char *const *strings, int count, sala_rng *rng, bool *stopped)
{
    sala_stops s = {.strings = strings, .count = count};
    sala_buf out = {0};
    const size_t n = strlen(text);
    *stopped = false;
    for (size_t at = 0; at < n && !*stopped;) {
        size_t piece = 1 + sala_rng_next(rng) % 4;
        piece = piece < n - at ? piece : n - at;
        size_t safe;
        *stopped = sala_stops_push(&s, text + at, piece, &safe);
        sala_buf_add(&out, s.held.data, safe);
        sala_stops_release(&s, safe);
        at += piece;
    }
    if (!*stopped)
        sala_buf_add(&out, s.held.data ? s.held.data : "", s.held.len);
    sala_buf_free(&s.held);
    return sala_buf_take(&out, NULL);
}

static void against_strstr(void **state)
{
    (void)state;
    static const char *const strings[] = {"abab", "ba", "aabb", "c", ""};
    sala_rng rng;
    sala_rng_seed(&rng, test_seed(4));
    for (int round = 0; round < 20000; round++) {
        char text[25];
        const size_t n = sala_rng_next(&rng) % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] = "aaabbbd"[sala_rng_next(&rng) % 7];
        text[n] = 0;
        const int count = 1 + (int)(sala_rng_next(&rng) % 5);
        bool stopped;
        char *got = feed(text, strings, count, &rng, &stopped);
        bool found = false;
        for (int i = 0; i < count; i++)
            found |= strings[i][0] && strstr(text, strings[i]);
        assert_int_equal(stopped, found);
        assert_memory_equal(got, text, strlen(got));
        if (found) { /* nothing of a stop string, and it follows at once */
            for (int i = 0; i < count; i++)
                assert_false(strings[i][0] && strstr(got, strings[i]));
            bool follows = false;
            for (int i = 0; i < count; i++)
                follows |= strings[i][0] && strncmp(text + strlen(got), strings[i], strlen(strings[i])) == 0;
            assert_true(follows);
        } else {
            assert_int_equal(strlen(got), n);
        }
        free(got);
    }
}

static void shown_early(void **state)
{
    (void)state;
    static const char *const strings[] = {"\nUser:"};
    sala_stops s = {.strings = strings, .count = 1};
    size_t safe;
    assert_false(sala_stops_push(&s, "Hello\nUs", 8, &safe));
    assert_int_equal(safe, 5);
    sala_stops_release(&s, safe);
    assert_false(sala_stops_push(&s, "ually", 5, &safe));
    assert_int_equal(safe, 8);
    sala_stops_release(&s, safe);
    assert_false(sala_stops_push(&s, "\nUser", 5, &safe));
    assert_int_equal(safe, 0);
    assert_true(sala_stops_push(&s, ": x", 3, &safe));
    assert_int_equal(safe, 0);
    sala_buf_free(&s.held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_strstr), cmocka_unit_test(shown_early)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
