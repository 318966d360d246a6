/* The cutter reads ahead into one buffer and takes lines out of it. A line that is longer than the buffer comes in
 * parts; only the first part of a line can be a separator or an empty line. Documents are of any size, the buffer is
 * not: memory is bounded by max_doc_bytes, however long the file. */
#include "data/documents.h"

#include <stdlib.h>

enum { BUFFER = 1 << 20 };

struct sala_cutter {
    sala_inflow *in;
    sala_cut_params params;
    sala_doc_format format; /* not SALA_DOC_AUTO */
    uint64_t line;          /* number of the line at `at` */
    bool line_start;        /* buffer[at] begins a line */
    bool ended;             /* the stream has no more */
    bool was_cut;           /* the next record continues the last one */
    bool begun;
    size_t at, have;
    char buffer[BUFFER];
};

/* ---- characters ---- */

size_t sala_whole_characters(const char *s, size_t n)
{
    return n - (size_t)sala_utf8_incomplete_tail(s, n);
}

uint64_t sala_invalid_utf8(const char *s, size_t n)
{
    uint64_t bad = 0;
    for (size_t at = 0; at < n;) {
        uint64_t eight;
        if (n - at >= sizeof eight) {
            memcpy(&eight, s + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof eight;
                continue;
            }
        }
        uint32_t cp;
        const int len = (s[at] & 0x80) ? sala_utf8_decode(s + at, n - at, &cp) : 1;
        bad += len == 0;
        at += len ? (size_t)len : 1;
    }
    return bad;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool sala_is_blank(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n && is_space(s[at]))
        at++;
    return at == n;
}

/* ---- opening ---- */

static sala_status refill(sala_cutter *c, sala_error *err)
{
    if (c->at) {
        memmove(c->buffer, c->buffer + c->at, c->have - c->at);
        c->have -= c->at;
        c->at = 0;
    }
    while (c->have < BUFFER && !c->ended) {
        size_t got;
        const sala_status status = sala_inflow_read(c->in, c->buffer + c->have, BUFFER - c->have, &got, err);
        if (status != SALA_OK)
            return status;
        c->have += got;
        c->ended = got == 0;
    }
    return SALA_OK;
}

static bool begins(const sala_cutter *c, const char *magic, size_t n)
{
    return c->have >= n && memcmp(c->buffer, magic, n) == 0;
}

/* Names what cannot be text, so that nobody trains on an archive. */
static sala_status refuse_foreign(const sala_cutter *c, sala_error *err)
{
    static const struct {
        const char *magic;
        size_t bytes;
        const char *what, *hint;
    } kinds[] = {
        {"\xFD"
         "7zXZ",
         5, "xz-compressed data", "unpack it first: xz -dc FILE | sala data pack - ..."},
        {"BZh", 3, "bzip2-compressed data", "unpack it first: bzip2 -dc FILE | sala data pack - ..."},
        {"PK\x03\x04", 4, "a zip archive", "unpack it first"},
        {"PAR1", 4, "a Parquet file", "convert it to JSONL first"},
        {"GGUF", 4, "a GGUF model", "text, lines or JSONL are expected"},
        {"SALATOKS", 8, "a token shard", "it is packed already"},
        {"%PDF-", 5, "a PDF document", "extract its text first: pdftotext FILE -"},
        {"\xFF\xFE", 2, "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8 FILE"},
        {"\xFE\xFF", 2, "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8 FILE"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(kinds); i++)
        if (begins(c, kinds[i].magic, kinds[i].bytes))
            return sala_fail_at(err, SALA_E_UNSUPPORTED, 0, "%s: this is %s; %s", sala_inflow_path(c->in),
                                kinds[i].what, kinds[i].hint);
    return SALA_OK;
}

/* Whether `name`, without what a compressor puts behind it, ends so. */
static bool is_named(const char *name, const char *ending)
{
    static const char *const packed[] = {".gz", ".zst"};
    size_t n = strlen(name);
    const size_t e = strlen(ending);
    for (size_t i = 0; i < SALA_ARRAY_LEN(packed); i++) {
        const size_t p = strlen(packed[i]);
        if (n > p && memcmp(name + n - p, packed[i], p) == 0) {
            n -= p;
            break;
        }
    }
    return n > e && memcmp(name + n - e, ending, e) == 0;
}

/* A first line that is an object from its brace to its brace. Text that begins with a brace is no JSONL, nor is JSON
 * that was printed over several lines. */
static bool begins_with_object(const sala_cutter *c)
{
    size_t at = c->at, end = c->have;
    while (at < end && is_space(c->buffer[at]))
        at++;
    if (at == end || c->buffer[at] != '{')
        return false;
    const char *newline = memchr(c->buffer + at, '\n', end - at);
    const bool whole = newline || c->ended;
    if (newline)
        end = (size_t)(newline - c->buffer);
    while (end > at + 1 && is_space(c->buffer[end - 1]))
        end--;
    size_t key = at + 1;
    while (key < end && is_space(c->buffer[key]))
        key++;
    return key < end && c->buffer[key] == '"' && (!whole || c->buffer[end - 1] == '}');
}

static sala_status begin(sala_cutter *c, const char *name, sala_error *err)
{
    sala_status status = refill(c, err);
    if (status == SALA_OK)
        status = refuse_foreign(c, err);
    if (status != SALA_OK)
        return status;
    if (begins(c, "\xEF\xBB\xBF", 3))
        c->at = 3;
    c->line = 1;
    c->line_start = true;
    c->format = c->params.format;
    if (c->format != SALA_DOC_AUTO)
        return SALA_OK;
    if (is_named(name, ".jsonl") || is_named(name, ".ndjson") || begins_with_object(c))
        c->format = SALA_DOC_JSONL;
    else
        c->format = SALA_DOC_TEXT;
    size_t at = c->at;
    while (at < c->have && is_space(c->buffer[at]))
        at++;
    if (is_named(name, ".json") && at < c->have && c->buffer[at] == '[')
        return sala_fail_at(err, SALA_E_UNSUPPORTED, (int64_t)at,
                            "%s: a JSON array; expected one object a line: jq -c '.[]' FILE, or --format text if it is "
                            "meant as text",
                            sala_inflow_path(c->in));
    return SALA_OK;
}

static sala_status open_over(sala_cutter **out, sala_inflow *in, const char *name, const sala_cut_params *p,
                             sala_error *err)
{
    sala_cutter *c = calloc(1, sizeof *c);
    if (!c) {
        sala_inflow_close(in);
        return sala_fail_memory(err, sizeof *c);
    }
    c->in = in;
    c->params = *p;
    const sala_status status = begin(c, name, err);
    if (status != SALA_OK) {
        sala_cutter_close(c);
        return status;
    }
    *out = c;
    return SALA_OK;
}

sala_status sala_cutter_open(sala_cutter **out, const char *path, const sala_cut_params *p, sala_error *err)
{
    sala_inflow *in = NULL;
    const sala_status status = sala_inflow_open(&in, path, err);
    return status == SALA_OK ? open_over(out, in, path, p, err) : status;
}

sala_status sala_cutter_open_bytes(sala_cutter **out, const char *name, const void *data, size_t bytes,
                                   const sala_cut_params *p, sala_error *err)
{
    sala_inflow *in = NULL;
    const sala_status status = sala_inflow_open_bytes(&in, data, bytes, err);
    return status == SALA_OK ? open_over(out, in, name, p, err) : status;
}

void sala_cutter_close(sala_cutter *c)
{
    if (!c)
        return;
    sala_inflow_close(c->in);
    free(c);
}

uint64_t sala_cutter_consumed(const sala_cutter *c)
{
    return sala_inflow_consumed(c->in);
}

/* ---- lines ---- */

/* The bytes of a line from `at` on, its newline included, or as much of them as the buffer holds. */
typedef struct part {
    const char *text;
    size_t bytes;
    bool first, last; /* of its line */
} part;

/* bytes 0: the end of the input. The part stays in the buffer until take() says how much of it was used. */
static sala_status look(sala_cutter *c, part *p, sala_error *err)
{
    const char *newline = NULL;
    if (c->at < c->have)
        newline = memchr(c->buffer + c->at, '\n', c->have - c->at);
    if (!newline && !c->ended) {
        const sala_status status = refill(c, err);
        if (status != SALA_OK)
            return status;
        if (c->have)
            newline = memchr(c->buffer, '\n', c->have);
    }
    *p = (part){.text = c->buffer + c->at, .first = c->line_start};
    p->bytes = newline ? (size_t)(newline - p->text) + 1 : c->have - c->at;
    p->last = newline || c->ended;
    return SALA_OK;
}

static void take(sala_cutter *c, const part *p, size_t bytes)
{
    if (bytes == 0)
        return;
    c->at += bytes;
    c->line_start = bytes == p->bytes && p->last;
    c->line += c->line_start;
}

/* Bytes of a part without its line ending. */
static size_t content(const part *p)
{
    size_t n = p->bytes;
    if (p->last && n && p->text[n - 1] == '\n')
        n--;
    if (p->last && n && p->text[n - 1] == '\r')
        n--;
    return n;
}

static sala_status finish(sala_cutter *c, const sala_buf *into, sala_record *r, sala_error *err)
{
    if (into->failed)
        return sala_fail_memory(err, into->len);
    r->bytes = into->len - r->at;
    c->was_cut = r->goes_on;
    return SALA_OK;
}

/* Appends what still fits of the first `n` bytes of a part to a record that must not grow beyond max_doc_bytes; whole
 * characters only. Returns how much that is. */
static size_t append_some(const sala_cutter *c, sala_buf *into, const sala_record *r, const part *p, size_t n)
{
    const uint64_t have = into->len - r->at;
    const uint64_t room = c->params.max_doc_bytes > have ? c->params.max_doc_bytes - have : 0;
    size_t some = n;
    if (some > room) {
        some = sala_whole_characters(p->text, (size_t)room);
        /* A limit below one character is no reason never to come to an end. */
        if (some == 0 && have == 0)
            some = n < 4 ? n : 4;
    }
    sala_buf_add(into, p->text, some);
    return some;
}

static sala_status next_line(sala_cutter *c, sala_buf *into, sala_record *r, sala_error *err)
{
    for (;;) {
        part p;
        const sala_status status = look(c, &p, err);
        if (status != SALA_OK)
            return status;
        if (p.bytes == 0)
            break;
        const size_t n = content(&p);
        const size_t some = append_some(c, into, r, &p, n);
        if (some < n) {
            take(c, &p, some);
            r->goes_on = true;
            break;
        }
        take(c, &p, p.bytes);
        if (p.last)
            break;
    }
    return finish(c, into, r, err);
}

static sala_status next_json(sala_cutter *c, sala_buf *into, sala_record *r, sala_error *err)
{
    for (;;) {
        part p;
        const sala_status status = look(c, &p, err);
        if (status != SALA_OK)
            return status;
        if (p.bytes == 0)
            break;
        r->too_long = r->too_long || into->len - r->at + p.bytes > c->params.max_json_line;
        if (!r->too_long)
            sala_buf_add(into, p.text, content(&p));
        take(c, &p, p.bytes);
        if (p.last)
            break;
    }
    if (r->too_long)
        into->len = r->at;
    return finish(c, into, r, err);
}

static sala_status next_text(sala_cutter *c, sala_buf *into, sala_record *r, sala_error *err)
{
    const char *separator = c->params.separator;
    const size_t n_separator = separator ? strlen(separator) : 0;
    for (;;) {
        part p;
        const sala_status status = look(c, &p, err);
        if (status != SALA_OK)
            return status;
        if (p.bytes == 0)
            break;
        const uint64_t have = into->len - r->at;
        const bool whole = p.first && p.last;
        if (separator && whole && content(&p) == n_separator && memcmp(p.text, separator, n_separator) == 0) {
            take(c, &p, p.bytes);
            break;
        }
        if (c->params.split_bytes && have >= c->params.split_bytes && whole && content(&p) == 0) {
            take(c, &p, p.bytes);
            break;
        }
        /* A line's end in the second half of what is allowed is a better place to cut than where it is full. */
        if (p.first && have >= c->params.max_doc_bytes / 2 && have + p.bytes > c->params.max_doc_bytes && have) {
            r->goes_on = true;
            break;
        }
        const size_t some = append_some(c, into, r, &p, p.bytes);
        take(c, &p, some);
        if (some < p.bytes) {
            r->goes_on = true;
            break;
        }
    }
    return finish(c, into, r, err);
}

sala_status sala_cutter_next(sala_cutter *c, sala_buf *into, sala_record *r, bool *more, sala_error *err)
{
    *more = c->at < c->have;
    if (!*more) {
        const sala_status status = refill(c, err);
        if (status != SALA_OK)
            return status;
        *more = c->have > 0;
    }
    /* An empty file is one empty document, which is counted as such. */
    if (!*more && !c->begun && c->format == SALA_DOC_TEXT)
        *more = true;
    if (!*more)
        return SALA_OK;
    c->begun = true;
    *r = (sala_record){.at = into->len, .line = c->line, .is_json = c->format == SALA_DOC_JSONL};
    r->continues = c->was_cut;
    if (r->is_json)
        return next_json(c, into, r, err);
    return c->format == SALA_DOC_LINES ? next_line(c, into, r, err) : next_text(c, into, r, err);
}
