/* NumPy arrays and lists of token ids. The header of .npy is a Python dictionary literal; three keys with simple values
 * are all that the format allows, so a small scanner reads them in any order. */
#include "format/npy.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MAGIC "\x93NUMPY"
#define HEADER_BYTES 128 /* of files that we write; a multiple of 64, as the format recommends */

/* ---- writing ---- */

struct sala_npy_writer {
    sala_out_file *file;
    char *path;
    int64_t rows, cols, written;
};

void sala_npy_writer_abort(sala_npy_writer *w)
{
    if (!w)
        return;
    sala_os_out_abort(w->file);
    free(w->path);
    free(w);
}

sala_status sala_npy_writer_open(sala_npy_writer **out, const char *path, int64_t rows, int64_t cols, sala_error *err)
{
    if (rows < 0 || cols < 0 || (cols > 0 && rows > INT64_MAX / 4 / cols))
        return sala_fail(err, SALA_E_INVALID, "a matrix of %" PRId64 " x %" PRId64 " can not be written", rows, cols);
    sala_npy_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = sala_strdup(path))) {
        free(w);
        return sala_fail_memory(err, sizeof *w);
    }
    w->rows = rows;
    w->cols = cols;
    const int e = sala_os_out_open(&w->file, path);
    if (e) {
        const sala_status st = sala_fail_errno(err, e, "could not create %s", path);
        w->file = NULL;
        sala_npy_writer_abort(w);
        return st;
    }
    char header[HEADER_BYTES + 1];
    memset(header, ' ', HEADER_BYTES);
    memcpy(header, MAGIC "\x01\x00", 8);
    header[8] = HEADER_BYTES - 10;
    header[9] = 0;
    const int n =
        snprintf(header + 10, HEADER_BYTES - 10,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }", rows, cols);
    header[10 + n] = ' ';
    header[HEADER_BYTES - 1] = '\n';
    (void)sala_os_out_write(w->file, header, HEADER_BYTES); /* a failure is kept and reported by commit */
    *out = w;
    return SALA_OK;
}

sala_status sala_npy_write_rows(sala_npy_writer *w, const float *data, int64_t n_rows, sala_error *err)
{
    if (n_rows < 0 || n_rows > w->rows - w->written)
        return sala_fail(err, SALA_E_STATE, "%s: %" PRId64 " rows more than the %" PRId64 " announced", w->path,
                         n_rows - (w->rows - w->written), w->rows);
    const int e = sala_os_out_write(w->file, data, (size_t)(n_rows * w->cols) * sizeof *data);
    if (e)
        return sala_fail_errno(err, e, "could not write %s", w->path);
    w->written += n_rows;
    return SALA_OK;
}

sala_status sala_npy_writer_commit(sala_npy_writer *w, sala_error *err)
{
    sala_status st = SALA_OK;
    if (w->written != w->rows) {
        st = sala_fail(err, SALA_E_STATE, "%s: %" PRId64 " of %" PRId64 " rows were written", w->path, w->written,
                       w->rows);
    } else {
        const int e = sala_os_out_commit(w->file);
        w->file = NULL;
        if (e)
            st = sala_fail_errno(err, e, "could not write %s", w->path);
    }
    sala_npy_writer_abort(w);
    return st;
}

/* ---- reading ---- */

typedef struct scanner {
    const char *at, *end;
} scanner;

static void skip_space(scanner *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool take(scanner *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static bool take_word(scanner *s, const char *word)
{
    skip_space(s);
    const size_t n = strlen(word);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0)
        return false;
    s->at += n;
    return true;
}

/* A quoted string without escapes. */
static bool take_string(scanner *s, char *dst, size_t room)
{
    skip_space(s);
    if (s->at == s->end || (*s->at != '\'' && *s->at != '"'))
        return false;
    const char quote = *s->at++;
    size_t n = 0;
    while (s->at < s->end && *s->at != quote) {
        if (n + 1 >= room || *s->at == '\\' || (unsigned char)*s->at < 0x20)
            return false;
        dst[n++] = *s->at++;
    }
    dst[n] = 0;
    return take(s, quote);
}

static bool take_int(scanner *s, int64_t *out)
{
    skip_space(s);
    int64_t v = 0;
    const char *begin = s->at;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
        if (v > (INT64_MAX - 9) / 10)
            return false;
        v = v * 10 + (*s->at - '0');
    }
    *out = v;
    return s->at > begin;
}

static bool take_shape(scanner *s, sala_npy *a)
{
    a->n_dims = 0;
    if (!take(s, '('))
        return false;
    while (!take(s, ')')) {
        if (a->n_dims == (int)SALA_ARRAY_LEN(a->shape) || !take_int(s, &a->shape[a->n_dims++]))
            return false;
        (void)take(s, 'L'); /* Python 2 wrote long integers */
        if (!take(s, ',')) {
            if (!take(s, ')'))
                return false;
            break;
        }
    }
    return true;
}

typedef struct npy_header {
    char descr[32];
    bool fortran, has_descr, has_order, has_shape;
} npy_header;

static bool scan_header(scanner *s, npy_header *h, sala_npy *a)
{
    if (!take(s, '{'))
        return false;
    while (!take(s, '}')) {
        char key[32];
        if (!take_string(s, key, sizeof key) || !take(s, ':'))
            return false;
        if (strcmp(key, "descr") == 0) {
            h->has_descr = take_string(s, h->descr, sizeof h->descr);
            if (!h->has_descr)
                return false;
        } else if (strcmp(key, "fortran_order") == 0) {
            h->fortran = take_word(s, "True");
            h->has_order = h->fortran || take_word(s, "False");
            if (!h->has_order)
                return false;
        } else if (strcmp(key, "shape") == 0) {
            h->has_shape = take_shape(s, a);
            if (!h->has_shape)
                return false;
        } else {
            return false;
        }
        if (!take(s, ',')) {
            if (!take(s, '}'))
                return false;
            break;
        }
    }
    skip_space(s);
    return s->at == s->end && h->has_descr && h->has_order && h->has_shape;
}

static sala_status check_descr(const char *d, sala_npy *a, sala_error *err)
{
    const char order = d[0];
    a->kind = order ? d[1] : 0;
    a->elem_bytes = a->kind && d[2] >= '1' && d[2] <= '8' && !d[3] ? d[2] - '0' : 0;
    const bool number = a->kind == 'i' || a->kind == 'u'
                            ? a->elem_bytes == 1 || a->elem_bytes == 2 || a->elem_bytes == 4 || a->elem_bytes == 8
                            : a->kind == 'f' && (a->elem_bytes == 2 || a->elem_bytes == 4 || a->elem_bytes == 8);
    if (number && order == '>' && a->elem_bytes > 1)
        return sala_fail(err, SALA_E_UNSUPPORTED, "the array is big-endian (type %s), expected little-endian", d);
    if (!number || !strchr("<|=>", order))
        return sala_fail(err, SALA_E_UNSUPPORTED, "arrays of type \"%s\" can not be read, expected integers or floats",
                         d);
    return SALA_OK;
}

sala_status sala_npy_parse(sala_npy *out, const void *data, size_t bytes, sala_error *err)
{
    sala_reader r = sala_reader_of(data, bytes);
    const uint8_t *magic = sala_read_bytes(&r, 6);
    if (!magic || memcmp(magic, MAGIC, 6) != 0)
        return sala_fail_at(err, SALA_E_CORRUPT, 0, "not a NumPy file: it does not begin with \\x93NUMPY");
    const uint8_t major = sala_read_u8(&r);
    (void)sala_read_u8(&r);
    if (!r.failed && (major < 1 || major > 3))
        return sala_fail_at(err, SALA_E_UNSUPPORTED, 6, "NumPy file version %u, expected 1 to 3", major);
    const uint32_t header_bytes = major == 1 ? sala_read_u16(&r) : sala_read_u32(&r);
    const char *text = (const char *)sala_read_bytes(&r, header_bytes);
    if (r.failed)
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)bytes, "the NumPy file ends inside its header");
    scanner s = {text, text + header_bytes};
    npy_header h = {{0}, false, false, false, false};
    sala_npy a = {0};
    if (!scan_header(&s, &h, &a))
        return sala_fail_at(err, SALA_E_CORRUPT, (const uint8_t *)s.at - (const uint8_t *)data,
                            "the header of the NumPy file is not a dictionary of descr, fortran_order and shape");
    const sala_status st = check_descr(h.descr, &a, err);
    if (st != SALA_OK)
        return st;
    if (h.fortran && a.n_dims > 1)
        return sala_fail(err, SALA_E_UNSUPPORTED, "the array is in Fortran order, expected C order");
    a.count = 1;
    for (int d = 0; d < a.n_dims; d++)
        if (!sala_mul_size(&a.count, a.count, (uint64_t)a.shape[d]))
            return sala_fail(err, SALA_E_CORRUPT, "the shape of the NumPy array overflows 64 bits");
    uint64_t need;
    if (!sala_mul_size(&need, a.count, (uint64_t)a.elem_bytes) || need > bytes - r.at)
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)bytes,
                            "the NumPy array needs %" PRIu64
                            " elements of %d bytes, but the file has only %zu bytes left",
                            a.count, a.elem_bytes, bytes - r.at);
    a.data = (const uint8_t *)data + r.at;
    *out = a;
    return SALA_OK;
}

/* ---- token ids ---- */

static sala_status bad_id(sala_error *err, size_t position, const char *what)
{
    return sala_fail_at(err, SALA_E_INVALID, (int64_t)position,
                        "token ids: %s at byte %zu, expected integers from 0 to %d", what, position, INT32_MAX);
}

static sala_status ids_from_npy(int32_t **ids, size_t *n, const void *data, size_t bytes, sala_error *err)
{
    sala_npy a;
    const sala_status st = sala_npy_parse(&a, data, bytes, err);
    if (st != SALA_OK)
        return st;
    if (a.kind == 'f')
        return sala_fail(err, SALA_E_INVALID, "token ids: the NumPy array holds floats, expected integers");
    /* parse has compared count * elem_bytes with the file's size. */
    int32_t *list = malloc((size_t)a.count * sizeof *list + 1);
    if (!list)
        return sala_fail_memory(err, a.count * sizeof *list);
    const uint8_t *p = a.data;
    for (uint64_t i = 0; i < a.count; i++, p += a.elem_bytes) {
        uint64_t v = 0;
        memcpy(&v, p, (size_t)a.elem_bytes);
        const bool negative = a.kind == 'i' && (v >> (8 * a.elem_bytes - 1)) & 1;
        if (negative || v > INT32_MAX) {
            free(list);
            return bad_id(err, (size_t)(p - (const uint8_t *)data),
                          negative ? "a negative number" : "too large a number");
        }
        list[i] = (int32_t)v;
    }
    *ids = list;
    *n = (size_t)a.count;
    return SALA_OK;
}

/* White space separates; a JSON array, as `sala tokenize --json` prints it, may be given too. */
sala_status sala_ids_parse(int32_t **ids, size_t *n, const void *data, size_t bytes, sala_error *err)
{
    if (bytes >= 6 && memcmp(data, MAGIC, 6) == 0)
        return ids_from_npy(ids, n, data, bytes, err);
    const char *text = data;
    scanner s = {text, text + bytes};
    const bool array = take(&s, '[');
    int32_t *list = NULL;
    size_t count = 0, cap = 0;
    sala_status st = SALA_OK;
    bool closed = !array;
    for (;;) {
        skip_space(&s);
        if (s.at == s.end)
            break;
        if (array && take(&s, ']')) {
            closed = true;
            skip_space(&s);
            break;
        }
        const char *begin = s.at;
        int64_t v;
        if (*begin == '-') {
            st = bad_id(err, (size_t)(begin - text), "a negative number");
            goto fail;
        }
        if (*begin < '0' || *begin > '9') {
            st = bad_id(err, (size_t)(begin - text), "something that is no number");
            goto fail;
        }
        if (!take_int(&s, &v) || v > INT32_MAX) {
            st = bad_id(err, (size_t)(begin - text), "too large a number");
            goto fail;
        }
        const char *after = s.at;
        skip_space(&s);
        /* Numbers must not touch anything but a separator. */
        if (array && s.at < s.end && *s.at == ',') {
            s.at++;
        } else if (s.at == after && s.at < s.end && !(array && *s.at == ']')) {
            st = bad_id(err, (size_t)(s.at - text), "something that is no number");
            goto fail;
        }
        if (count == cap) {
            const size_t more = cap ? cap * 2 : 1024;
            int32_t *grown = realloc(list, more * sizeof *list);
            if (!grown) {
                st = sala_fail_memory(err, more * sizeof *list);
                goto fail;
            }
            list = grown;
            cap = more;
        }
        list[count++] = (int32_t)v;
    }
    if (!closed || s.at != s.end) {
        st = bad_id(err, (size_t)(s.at - text), closed ? "something behind the array" : "the end of an open array");
        goto fail;
    }
    if (!list && !(list = malloc(1))) {
        st = sala_fail_memory(err, 1);
        goto fail;
    }
    *ids = list;
    *n = count;
    return SALA_OK;
fail:
    free(list);
    return st;
}
