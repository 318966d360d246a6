#include "pieces.h"

#include <nettle/sha2.h>
#include <stdlib.h>

/* Bytes looked at for one piece; it ends in their second half. Part of what a session remembers of a document, because
 * another value would cut elsewhere. */
enum { WINDOW = 1 << 16 };

struct cli_pieces {
    cli_document *document;
    const sala_tokenizer *tokenizer;
    const sala_text_span *opening;
    size_t n_opening;
    bool at_opening; /* the next piece is the first and has something in front */
    bool read_all;
    char text[WINDOW];
    size_t n_text, last; /* `last` bytes at the beginning are the piece handed out */
    uint64_t offset;     /* of text[0] in the document */
    sala_ids ids;
    struct sha256_ctx sum;
};

/* ---- text behind text ---- */

/* Encodes "anchor + text" and takes the anchor's own ids off the front. False when they are not at the front. */
static sala_status behind_anchor(const sala_tokenizer *t, sala_ids *ids, const char *anchor,
                                 const sala_text_span *spans, size_t n_spans, bool *ok, sala_error *err)
{
    sala_ids alone = {0};
    const size_t before = ids->count;
    sala_text_span *all = malloc((n_spans + 1) * sizeof *all);
    if (!all)
        return sala_fail_memory(err, (n_spans + 1) * sizeof *all);
    all[0] = (sala_text_span){anchor, strlen(anchor), false};
    memcpy(all + 1, spans, n_spans * sizeof *all);
    sala_status st = sala_tokenizer_encode(t, &alone, all, 1, false, err);
    if (st == SALA_OK)
        st = sala_tokenizer_encode(t, ids, all, n_spans + 1, false, err);
    if (st == SALA_OK) {
        *ok = ids->count - before >= alone.count &&
              (alone.count == 0 || memcmp(ids->data + before, alone.data, alone.count * sizeof *alone.data) == 0);
        if (*ok && alone.count)
            memmove(ids->data + before, ids->data + before + alone.count,
                    (ids->count - before - alone.count) * sizeof *ids->data);
        ids->count = *ok ? ids->count - alone.count : before;
    }
    sala_ids_free(&alone);
    free(all);
    return st;
}

sala_status cli_encode_on(const sala_tokenizer *t, sala_ids *ids, const sala_text_span *spans, size_t n_spans,
                          sala_error *err)
{
    /* A line end does not join what follows unless that is blank space; a letter does not join blank space. */
    static const char *const anchors[] = {"\n", "a"};
    bool ok = false;
    for (size_t i = 0; i < SALA_ARRAY_LEN(anchors); i++) {
        const sala_status st = behind_anchor(t, ids, anchors[i], spans, n_spans, &ok, err);
        if (st != SALA_OK || ok)
            return st;
    }
    return sala_tokenizer_encode(t, ids, spans, n_spans, false, err);
}

/* ---- where to cut ---- */

static bool is_blank_at(const char *s, size_t n)
{
    static const uint32_t wide[] = {0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
    uint32_t cp = 0;
    sala_utf8_decode(s, n, &cp);
    if (cp == ' ' || (cp >= '\t' && cp <= '\r') || (cp >= 0x2000 && cp <= 0x200A))
        return true;
    for (size_t i = 0; i < SALA_ARRAY_LEN(wide); i++)
        if (cp == wide[i])
            return true;
    return false;
}

static bool is_ascii_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The last place in the second half of the window where no tokenizer joins what stands on both sides: behind a single
 * line end, or before a single space, which belongs to the word that follows. Text without such a place is cut behind
 * any line end, or between two characters. */
static size_t cut(const char *s)
{
    size_t before_space = 0, behind_lines = 0;
    for (size_t i = WINDOW - 4; i > WINDOW / 2; i--) { /* a whole character is in sight behind i */
        if (s[i - 1] == '\n' && !is_blank_at(s + i, WINDOW - i)) {
            if (!is_ascii_blank(s[i - 2]))
                return i;
            behind_lines = behind_lines ? behind_lines : i;
        } else if (!before_space && s[i] == ' ' && !is_ascii_blank(s[i - 1]) &&
                   !is_blank_at(s + i + 1, WINDOW - i - 1)) {
            before_space = i;
        }
    }
    if (before_space || behind_lines)
        return before_space ? before_space : behind_lines;
    size_t end = WINDOW;
    while ((s[end - 1] & 0xC0) == 0x80)
        end--;
    return end - 1; /* before the last character, which may be cut itself */
}

/* ---- pieces ---- */

int cli_pieces_open(cli_pieces **out, cli_document *d, const sala_tokenizer *t, const sala_text_span *opening,
                    size_t n_opening)
{
    cli_pieces *p = calloc(1, sizeof *p);
    if (!p)
        return cli_fail("not enough memory");
    p->document = d;
    p->tokenizer = t;
    p->opening = opening;
    p->n_opening = n_opening;
    p->at_opening = opening != NULL;
    sha256_init(&p->sum);
    *out = p;
    return 0;
}

void cli_pieces_close(cli_pieces *p)
{
    if (!p)
        return;
    sala_ids_free(&p->ids);
    free(p);
}

static sala_status encode_first(cli_pieces *p, size_t bytes, sala_error *err)
{
    const sala_tokenizer *t = p->tokenizer;
    sala_text_span *spans = malloc((p->n_opening + 1) * sizeof *spans);
    if (!spans)
        return sala_fail_memory(err, (p->n_opening + 1) * sizeof *spans);
    memcpy(spans, p->opening, p->n_opening * sizeof *spans);
    spans[p->n_opening] = (sala_text_span){p->text, bytes, false};
    const sala_status st = sala_tokenizer_encode(t, &p->ids, spans, p->n_opening + 1, false, err);
    free(spans);
    const int32_t bos = sala_tokenizer_bos(t);
    if (st != SALA_OK || !sala_tokenizer_adds_bos(t) || bos < 0 || (p->ids.count && p->ids.data[0] == bos))
        return st;
    int32_t *more = realloc(p->ids.data, (p->ids.count + 1) * sizeof *more);
    if (!more)
        return sala_fail_memory(err, (p->ids.count + 1) * sizeof *more);
    memmove(more + 1, more, p->ids.count * sizeof *more);
    more[0] = bos;
    p->ids.data = more;
    p->ids.cap = ++p->ids.count;
    return SALA_OK;
}

int cli_pieces_next(cli_pieces *p, cli_piece *piece, bool *more)
{
    memmove(p->text, p->text + p->last, p->n_text - p->last);
    p->n_text -= p->last;
    p->offset += p->last;
    p->last = 0;
    if (!p->read_all) {
        size_t n = 0;
        const int rc = cli_document_read(p->document, p->text + p->n_text, WINDOW - p->n_text, &n);
        if (rc)
            return rc;
        p->n_text += n;
        p->read_all = p->n_text < WINDOW;
    }
    *more = p->n_text > 0;
    if (!*more)
        return 0;
    p->last = p->read_all ? p->n_text : cut(p->text);
    sha256_update(&p->sum, p->last, (const uint8_t *)p->text);
    p->ids.count = 0;
    const sala_text_span span = {p->text, p->last, false};
    sala_error err = {0};
    const sala_status st =
        p->at_opening ? encode_first(p, p->last, &err) : cli_encode_on(p->tokenizer, &p->ids, &span, 1, &err);
    if (st != SALA_OK)
        return cli_fail_error(&err);
    p->at_opening = false;
    *piece = (cli_piece){p->ids.data, p->ids.count, p->offset, p->offset + p->last};
    return 0;
}

void cli_pieces_digest(const cli_pieces *p, char hex[CLI_DIGEST_TEXT])
{
    struct sha256_ctx sum = p->sum;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&sum, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}
