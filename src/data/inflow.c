/* Input streams. zlib and libzstd do the work; this file keeps a buffer of compressed bytes in front of them and gives
 * their failures a place. An archive may hold several members or frames, one behind the other, as parallel compressors
 * and `cat` make them. What follows the last gzip member is ignored if it is zeros (tapes) and refused otherwise. */
#include "data/inflow.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <zlib.h>
#include <zstd.h>

enum { IN_BUFFER = 1 << 18 };

typedef enum inflow_kind { PLAIN, GZIP, ZSTD } inflow_kind;

struct sala_inflow {
    inflow_kind kind;
    char *path;
    FILE *file;              /* NULL when the bytes are the caller's */
    const uint8_t *borrowed; /* what is left of them */
    size_t n_borrowed;
    uint64_t consumed; /* bytes taken out of the file into `in` */
    bool ended;        /* the file has no more */
    bool inside;       /* of a gzip member or a zstd frame */
    bool padded;       /* zeros have begun behind the last gzip member */
    z_stream z;
    bool has_z;
    ZSTD_DStream *zstd;
    size_t at, have; /* in[at, have) is still to be decompressed */
    uint8_t in[IN_BUFFER];
};

static sala_status io_failed(const sala_inflow *s, int why, sala_error *err)
{
    return sala_fail_errno(err, why, "%s: could not be read at byte %" PRIu64, s->path, s->consumed);
}

/* Up to `most` further bytes of the file; *got 0 at its end. */
static sala_status take(sala_inflow *s, void *dst, size_t most, size_t *got, sala_error *err)
{
    *got = 0;
    if (s->ended)
        return SALA_OK;
    if (s->file) {
        errno = 0;
        *got = fread(dst, 1, most, s->file);
        if (*got < most) {
            if (ferror(s->file))
                return io_failed(s, errno ? errno : EIO, err);
            s->ended = true;
        }
    } else {
        *got = s->n_borrowed < most ? s->n_borrowed : most;
        if (*got)
            memcpy(dst, s->borrowed, *got);
        s->borrowed += *got;
        s->n_borrowed -= *got;
        s->ended = s->n_borrowed == 0;
    }
    s->consumed += *got;
    return SALA_OK;
}

/* Bytes to decompress, at least one unless the file has ended. */
static sala_status refill(sala_inflow *s, sala_error *err)
{
    if (s->at < s->have)
        return SALA_OK;
    s->at = s->have = 0;
    return take(s, s->in, sizeof s->in, &s->have, err);
}

/* Where in the file the decompressor stands. */
static uint64_t place(const sala_inflow *s)
{
    return s->consumed - (s->have - s->at);
}

static sala_status damaged(const sala_inflow *s, sala_error *err, const char *what)
{
    return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)place(s), "%s: the %s data is damaged at byte %" PRIu64 ": %s",
                        s->path, s->kind == GZIP ? "gzip" : "zstd", place(s), what);
}

static sala_status cut(const sala_inflow *s, sala_error *err)
{
    return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)place(s),
                        "%s: the file ends after %" PRIu64 " bytes, in the middle of its %s data; it is incomplete",
                        s->path, place(s), s->kind == GZIP ? "gzip" : "zstd");
}

/* ---- opening ---- */

static sala_status begin(sala_inflow *s, int window_log, sala_error *err)
{
    const sala_status status = refill(s, err);
    if (status != SALA_OK)
        return status;
    static const uint8_t gzip[] = {0x1F, 0x8B}, zstd[] = {0x28, 0xB5, 0x2F, 0xFD};
    if (s->have >= sizeof gzip && memcmp(s->in, gzip, sizeof gzip) == 0) {
        s->kind = GZIP;
        /* 16: gzip's header and checksum, and no other kind of stream. */
        if (inflateInit2(&s->z, 16 + MAX_WBITS) != Z_OK)
            return sala_fail_memory(err, 1 << 16);
        s->has_z = true;
    } else if (s->have >= sizeof zstd && memcmp(s->in, zstd, sizeof zstd) == 0) {
        s->kind = ZSTD;
        s->zstd = ZSTD_createDStream();
        if (!s->zstd || ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, window_log)))
            return sala_fail_memory(err, 1 << 18);
    }
    return SALA_OK;
}

static sala_status open_stream(sala_inflow **out, const char *name, FILE *file, const void *data, size_t bytes,
                               int window_log, sala_error *err)
{
    sala_inflow *s = calloc(1, sizeof *s);
    if (!s) {
        if (file && file != stdin)
            fclose(file);
        return sala_fail_memory(err, sizeof *s);
    }
    s->file = file;
    s->borrowed = data;
    s->n_borrowed = bytes;
    s->path = sala_strdup(name);
    const sala_status status = s->path ? begin(s, window_log, err) : sala_fail_memory(err, strlen(name));
    if (status != SALA_OK) {
        sala_inflow_close(s);
        return status;
    }
    *out = s;
    return SALA_OK;
}

sala_status sala_inflow_open(sala_inflow **out, const char *path, sala_error *err)
{
    /* Collections are published with `zstd --long=31`, which is as far as the format's own tools go. */
    if (strcmp(path, "-") == 0)
        return open_stream(out, "standard input", stdin, NULL, 0, 31, err);
    FILE *file = fopen(path, "rbe");
    if (!file)
        return sala_fail_errno(err, errno, "%s", path);
    return open_stream(out, path, file, NULL, 0, 31, err);
}

sala_status sala_inflow_open_bytes(sala_inflow **out, const void *data, size_t bytes, sala_error *err)
{
    return open_stream(out, "input", NULL, data, bytes, 27, err);
}

void sala_inflow_close(sala_inflow *s)
{
    if (!s)
        return;
    if (s->has_z)
        inflateEnd(&s->z);
    ZSTD_freeDStream(s->zstd);
    if (s->file && s->file != stdin)
        fclose(s->file);
    free(s->path);
    free(s);
}

uint64_t sala_inflow_consumed(const sala_inflow *s)
{
    return s->consumed;
}

const char *sala_inflow_path(const sala_inflow *s)
{
    return s->path;
}

/* ---- reading ---- */

static sala_status read_plain(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err)
{
    if (s->at == s->have)
        return take(s, dst, bytes, got, err);
    *got = s->have - s->at < bytes ? s->have - s->at : bytes;
    memcpy(dst, s->in + s->at, *got);
    s->at += *got;
    return SALA_OK;
}

/* Behind a gzip member: true when another one begins, false at the end of the file. */
static sala_status next_member(sala_inflow *s, bool *more, sala_error *err)
{
    for (;;) {
        const sala_status status = refill(s, err);
        *more = s->at < s->have;
        if (status != SALA_OK || !*more)
            return status;
        if (s->in[s->at] != 0)
            break;
        s->padded = true;
        s->at++;
    }
    if (s->padded || s->in[s->at] != 0x1F)
        return damaged(s, err, "what follows the last member is neither another one nor zeros");
    inflateReset(&s->z);
    return SALA_OK;
}

static sala_status read_gzip(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err)
{
    const uInt want = bytes < INT32_MAX ? (uInt)bytes : (uInt)INT32_MAX;
    s->z.next_out = dst;
    s->z.avail_out = want;
    while (s->z.avail_out == want) {
        sala_status status;
        if (!s->inside) {
            bool more;
            status = next_member(s, &more, err);
            if (status != SALA_OK || !more)
                return status;
            s->inside = true;
        }
        status = refill(s, err);
        if (status != SALA_OK)
            return status;
        if (s->at == s->have)
            return cut(s, err);
        s->z.next_in = s->in + s->at;
        s->z.avail_in = (uInt)(s->have - s->at);
        const int rc = inflate(&s->z, Z_NO_FLUSH);
        s->at = s->have - s->z.avail_in;
        if (rc == Z_STREAM_END)
            s->inside = false;
        else if (rc == Z_MEM_ERROR)
            return sala_fail_memory(err, 1 << 16);
        else if (rc != Z_OK && rc != Z_BUF_ERROR)
            return damaged(s, err, s->z.msg ? s->z.msg : "not a deflate stream");
    }
    *got = want - s->z.avail_out;
    return SALA_OK;
}

static sala_status read_zstd(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err)
{
    ZSTD_outBuffer o = {dst, bytes, 0};
    while (o.pos == 0) {
        const sala_status status = refill(s, err);
        if (status != SALA_OK)
            return status;
        /* At the end of the file the decoder may still hold output; it gives that without input. */
        const bool at_end = s->at == s->have;
        if (at_end && !s->inside)
            break;
        ZSTD_inBuffer i = {s->in, s->have, s->at};
        const size_t rc = ZSTD_decompressStream(s->zstd, &o, &i);
        s->at = i.pos;
        if (ZSTD_isError(rc))
            return damaged(s, err, ZSTD_getErrorName(rc));
        s->inside = rc != 0;
        if (at_end && s->inside && o.pos == 0)
            return cut(s, err);
    }
    *got = o.pos;
    return SALA_OK;
}

sala_status sala_inflow_read(sala_inflow *s, void *dst, size_t bytes, size_t *got, sala_error *err)
{
    *got = 0;
    if (bytes == 0)
        return SALA_OK;
    if (s->kind == GZIP)
        return read_gzip(s, dst, bytes, got, err);
    return s->kind == ZSTD ? read_zstd(s, dst, bytes, got, err) : read_plain(s, dst, bytes, got, err);
}
