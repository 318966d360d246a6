// module: format
/* Any bytes as a session file: refused, or opened; then every page can be read and checked, and a commit on top of what
 * was opened holds.
 *
 * The input is a session file without its empty parts: one byte of flags, 64 bytes for each header slot, then 512 bytes
 * for each unit of 4096 from the third on. Flag 1 puts the checksums of headers, tables and descriptions right, which
 * no mutation would ever hit; flag 2 those of the pages. */
#include "format/session_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MOST_PAGES 256 /* looked at in one section */
#define MOST_BYTES ((uint64_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static const char *scratch(void)
{
    static char path[64];
    if (!path[0])
        snprintf(path, sizeof path, "%s/sala-fuzz-%ld", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
                 (long)getpid());
    return path;
}

static uint64_t get_u64(const uint8_t *p)
{
    sala_reader r = sala_reader_of(p, 8);
    return sala_read_u64(&r);
}

/* Writes the checksum of a place, if it is one of the file, to `sum`. */
static void seal_place(const uint8_t *file, size_t size, uint64_t offset, uint64_t bytes, uint8_t *sum)
{
    if (offset <= size && bytes <= size - offset)
        sala_sf_put_u64(sum, sala_session_sum(file + offset, (size_t)bytes));
}

static void seal(uint8_t *file, size_t size, bool pages)
{
    for (int slot = 0; slot < 2; slot++) {
        uint8_t *h = file + 4096 * slot;
        const uint64_t at = get_u64(h + 24), bytes = get_u64(h + 32);
        if (at <= size && bytes <= size - at && bytes >= SALA_SF_TABLE_HEAD) {
            uint8_t *table = file + at, *p = table + SALA_SF_TABLE_HEAD;
            for (int s = 0; s < SALA_SESSION_MAX_SECTIONS && pages; s++)
                for (uint64_t i = 0; i < get_u64(table + 40 + 16 * s) && p + 16 <= table + bytes; i++, p += 16)
                    seal_place(file, size, get_u64(p), get_u64(table + 32 + 16 * s), p + 8);
            if (get_u64(table + 16) > 0)
                seal_place(file, size, get_u64(table + 8), get_u64(table + 16), table + 24);
            seal_place(file, size, at, bytes, h + 40);
        }
        sala_sf_put_u64(h + 56, sala_session_sum(h, 56));
    }
}

/* Owned by the caller. */
static uint8_t *expand(size_t *n, const uint8_t *data, size_t size)
{
    const uint8_t flags = data[0];
    const size_t units = 2 + (size > 129 ? (size - 129 + 511) / 512 : 0);
    uint8_t *file = calloc(units, 4096);
    must(file != NULL);
    *n = units * 4096;
    for (size_t unit = 0, at = 1; at < size; unit++) {
        const size_t step = unit < 2 ? 64 : 512, some = size - at < step ? size - at : step;
        memcpy(file + unit * 4096, data + at, some);
        at += some;
    }
    if (flags & 1)
        seal(file, *n, flags & 2);
    return file;
}

static uint64_t look(const sala_session_file *f)
{
    volatile uint8_t sink = 0;
    size_t n;
    const char *text = sala_session_file_description(f, &n);
    must(text[n] == 0);
    uint64_t in_order = 0;
    for (int s = 0; s < SALA_SESSION_MAX_SECTIONS; s++) {
        const uint64_t bytes = sala_session_file_page_bytes(f, s);
        for (int64_t p = 0; p < sala_session_file_pages(f, s) && p < MOST_PAGES; p++) {
            const uint8_t *page = sala_session_file_page(f, s, p);
            sink = (uint8_t)(sink + page[0] + page[bytes - 1]);
            if (bytes <= MOST_BYTES)
                in_order += sala_session_file_check(f, s, p, NULL) == SALA_OK;
        }
    }
    return in_order;
}

static void commit_on_top(const char *path, uint64_t in_order)
{
    sala_session_file *f;
    if (sala_session_file_open(&f, path, SALA_SESSION_WRITE, NULL) != SALA_OK)
        return;
    const uint64_t generation = sala_session_file_generation(f);
    must(look(f) == in_order);
    const sala_status status = sala_session_file_describe(f, "{}", 2, NULL);
    if (status == SALA_E_LIMIT) { /* the last generation that there can be */
        sala_session_file_close(f);
        return;
    }
    must(status == SALA_OK);
    const int64_t n = sala_session_file_pages(f, 0);
    const uint64_t bytes = sala_session_file_page_bytes(f, 0);
    uint8_t *page = bytes > 0 && bytes <= MOST_BYTES ? calloc(1, (size_t)bytes) : NULL;
    const bool appended = page && n < MOST_PAGES && sala_session_file_put(f, 0, n, page, NULL) == SALA_OK;
    free(page);
    must(sala_session_file_commit(f, NULL) == SALA_OK);
    must(sala_session_file_generation(f) == generation + 1);
    sala_session_file_close(f);
    must(sala_session_file_open(&f, path, SALA_SESSION_READ, NULL) == SALA_OK);
    must(look(f) == in_order + appended && sala_session_file_generation(f) == generation + 1);
    sala_session_file_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    size_t n;
    uint8_t *file = expand(&n, data, size);
    const char *path = scratch();
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, file, n) == (ssize_t)n);
    close(fd);
    free(file);
    sala_session_file *f;
    sala_error err;
    if (sala_session_file_open(&f, path, SALA_SESSION_READ, &err) == SALA_OK) {
        const uint64_t in_order = look(f);
        sala_session_file_close(f);
        commit_on_top(path, in_order);
    } else {
        must(err.code != SALA_OK && err.message[0]);
    }
    unlink(path);
    return 0;
}
