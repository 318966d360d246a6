/* What the tests of session files share: pages with contents that tell where they belong, a model of what a file ought
 * to hold, and whole files as bytes. */
#ifndef SALA_TESTS_SESSION_SUPPORT_H
#define SALA_TESTS_SESSION_SUPPORT_H

#include "format/session_file.h"
#include "os/os.h"
#include "unit/test.h"

#include <inttypes.h>
#include <unistd.h>

#define HOLD_SECTIONS 4
#define HOLD_PAGES 40

/* What one state holds: of every page the seed of its contents. */
typedef struct hold {
    uint64_t page_bytes[HOLD_SECTIONS];
    int64_t n[HOLD_SECTIONS];
    uint32_t seed[HOLD_SECTIONS][HOLD_PAGES];
    uint32_t text; /* seed of the description; 0: empty */
} hold;

static inline void fill_page(uint8_t *data, uint64_t bytes, uint32_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (uint64_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            x = x * 6364136223846793005u + 1442695040888963407u;
        data[i] = (uint8_t)(x >> (i % 8 * 8));
    }
}

static inline bool page_is(const uint8_t *data, uint64_t bytes, uint32_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (uint64_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            x = x * 6364136223846793005u + 1442695040888963407u;
        if (data[i] != (uint8_t)(x >> (i % 8 * 8)))
            return false;
    }
    return true;
}

static inline size_t text_of(char *out, size_t size, uint32_t seed)
{
    out[0] = 0;
    if (seed == 0)
        return 0;
    size_t n = (size_t)snprintf(out, size, "{\"seed\":%" PRIu32 ",\"fill\":\"", seed);
    for (uint32_t i = 0; i < seed % 300; i++)
        out[n++] = (char)('a' + (seed + i) % 26);
    out[n++] = '"';
    out[n++] = '}';
    out[n] = 0;
    return n;
}

static inline sala_status put_page(sala_session_file *f, int section, int64_t page, uint64_t bytes, uint32_t seed,
                                   sala_error *err)
{
    uint8_t *data = malloc((size_t)bytes);
    assert_non_null(data);
    fill_page(data, bytes, seed);
    const sala_status status = sala_session_file_put(f, section, page, data, err);
    free(data);
    return status;
}

static inline sala_status put_text(sala_session_file *f, uint32_t seed, sala_error *err)
{
    char text[512];
    const size_t n = text_of(text, sizeof text, seed);
    return sala_session_file_describe(f, text, n, err);
}

/* NULL when the file holds exactly this, every page in order; else what differs. */
static inline const char *differs(const sala_session_file *f, const hold *h)
{
    char text[512];
    size_t n;
    const char *got = sala_session_file_description(f, &n);
    if (text_of(text, sizeof text, h->text) != n || memcmp(text, got, n) != 0 || got[n] != 0)
        return "description";
    for (int s = 0; s < HOLD_SECTIONS; s++) {
        if (sala_session_file_pages(f, s) != h->n[s])
            return "number of pages";
        if (h->n[s] && sala_session_file_page_bytes(f, s) != h->page_bytes[s])
            return "page size";
        for (int64_t p = 0; p < h->n[s]; p++) {
            if (sala_session_file_check(f, s, p, NULL) != SALA_OK)
                return "checksum";
            uint8_t *copy = malloc((size_t)h->page_bytes[s]);
            assert_non_null(copy);
            assert_int_equal(sala_session_file_read(f, s, p, copy, NULL), SALA_OK);
            const bool same = page_is(copy, h->page_bytes[s], h->seed[s][p]);
            free(copy);
            if (!same)
                return "contents of a page";
        }
    }
    return NULL;
}

static inline void assert_holds(const sala_session_file *f, const hold *h)
{
    const char *what = differs(f, h);
    if (what)
        fail_msg("generation %" PRIu64 ": another %s", sala_session_file_generation(f), what);
}

static inline sala_session_file *must_open(const char *path, sala_session_access access)
{
    sala_session_file *f = NULL;
    sala_error err;
    if (sala_session_file_open(&f, path, access, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return f;
}

static inline void must_commit(sala_session_file *f)
{
    sala_error err;
    if (sala_session_file_commit(f, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

static inline uint8_t *file_bytes(const char *path, size_t *n)
{
    uint8_t *data;
    assert_int_equal(sala_os_read_file(&data, n, path, 0), 0);
    return data;
}

#endif
