/* A session on disk: one file of numbered pages, changed only by whole commits.
 *
 * A file has sections; a section is a list of pages of one size (the last bytes of the last page may be unused, which
 * is the caller's business). A commit replaces, appends and drops pages and replaces the description. Pages that a
 * commit changes are written to places that the previous commit does not use, then the new table, then one of two
 * header slots, with the file synced in between: whoever dies at whatever byte leaves the old or the new state. All
 * writes go through pwrite; what is mapped is mapped read-only.
 *
 * Header and table are checked when the file is opened; a page against its checksum when it is first used
 * (sala_session_file_check). Byte layout: docs/formats.md.
 *
 * One thread at a time uses a sala_session_file, but sala_session_file_page and sala_session_file_check may be called
 * from any number of threads while no commit is going on. */
#ifndef SALA_FORMAT_SESSION_FILE_H
#define SALA_FORMAT_SESSION_FILE_H

#include "base/base.h"

#define SALA_SESSION_MAX_SECTIONS 16
#define SALA_SESSION_MAX_PAGES ((int64_t)1 << 24)         /* of all sections together */
#define SALA_SESSION_MAX_PAGE_BYTES ((uint64_t)1 << 32)   /* of one page */
#define SALA_SESSION_MAX_DESCRIPTION ((uint64_t)16 << 20) /* bytes */

typedef enum sala_session_access {
    SALA_SESSION_READ,   /* shared lock: others may read, none may write */
    SALA_SESSION_WRITE,  /* exclusive lock; the file must be there */
    SALA_SESSION_CREATE, /* exclusive lock; an empty session is begun if there is no file, else as WRITE */
} sala_session_access;

typedef struct sala_session_file sala_session_file;

/* SALA_E_STATE when another process holds the file in a way that excludes this one, SALA_E_NOT_FOUND when there is no
 * file; SALA_E_CORRUPT, SALA_E_TRUNCATED with what was found and expected; SALA_E_UNSUPPORTED for another version. A
 * file whose newest header or table is damaged falls back to the one before, which sala_session_file_fell_back tells.
 * What is no session file is never written to. */
sala_status sala_session_file_open(sala_session_file **out, const char *path, sala_session_access access,
                                   sala_error *err);
/* Drops an unfinished commit; NULL is fine. A file that this open made and that nothing was committed to goes away. */
void sala_session_file_close(sala_session_file *f);
bool sala_session_file_fell_back(const sala_session_file *f);
bool sala_session_file_writable(const sala_session_file *f);
bool sala_session_file_is(const sala_session_file *f, const char *path); /* whether the name leads to this very file */
/* A commit failed in a way that leaves open whether it reached the disk: only opening the file again can tell. */
bool sala_session_file_doubtful(const sala_session_file *f);
uint64_t sala_session_file_generation(const sala_session_file *f); /* 0: nothing was ever committed */

/* Of the last commit. The description is JSON text, at most SALA_SESSION_MAX_DESCRIPTION bytes, with a NUL behind them.
 */
const char *sala_session_file_description(const sala_session_file *f, size_t *bytes);
int64_t sala_session_file_pages(const sala_session_file *f, int section);
uint64_t sala_session_file_page_bytes(const sala_session_file *f, int section);
/* Where a page of the last commit lies: read-only, mapped, 4096-byte aligned; NULL when there is no such page. It stays
 * as it is until close, whatever is committed meanwhile: a place that was handed out is not written again. */
const void *sala_session_file_page(const sala_session_file *f, int section, int64_t page);
/* The checksum that the page ought to have, and that of any bytes, for whoever holds a page beyond later commits. */
uint64_t sala_session_file_page_sum(const sala_session_file *f, int section, int64_t page);
uint64_t sala_session_sum(const void *data, size_t bytes);
/* Nobody uses what sala_session_file_page has returned so far: the places may be written again. */
void sala_session_file_release(sala_session_file *f);
/* Compares a page of the last commit with its checksum. */
sala_status sala_session_file_check(const sala_session_file *f, int section, int64_t page, sala_error *err);
/* Copies a page, checked; nothing is handed out. */
sala_status sala_session_file_read(const sala_session_file *f, int section, int64_t page, void *dst, sala_error *err);

/* ---- one commit; access WRITE or CREATE ----
 *
 * A failure in its course (disk full, memory out) undoes what was written since the last commit; every call before
 * sala_session_file_abort or sala_session_file_commit then fails in the same way, and so does that commit. */

/* Sets the page size of a section; only while the section has no pages. */
sala_status sala_session_file_section(sala_session_file *f, int section, uint64_t page_bytes, sala_error *err);
/* The section keeps its first n pages. */
void sala_session_file_truncate(sala_session_file *f, int section, int64_t n);
/* Writes page number `page`: an existing one (replaced) or the next behind the last. */
sala_status sala_session_file_put(sala_session_file *f, int section, int64_t page, const void *data, sala_error *err);
sala_status sala_session_file_describe(sala_session_file *f, const char *json, size_t bytes, sala_error *err);
/* Makes it all so; without changes, nothing. On failure (disk full ...) the file and *f are as after the last commit.
 */
sala_status sala_session_file_commit(sala_session_file *f, sala_error *err);
/* Forgets what was put since the last commit. */
void sala_session_file_abort(sala_session_file *f);
/* Bytes written by the last commit, and the size of the file. */
uint64_t sala_session_file_written(const sala_session_file *f);
uint64_t sala_session_file_size(const sala_session_file *f);

#endif
