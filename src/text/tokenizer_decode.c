/* Token ids to text. One way for whole texts and for streams: decode() is push() of every id and a flush, so they
 * cannot differ. A token gives bytes; bytes become whole characters or U+FFFD; then the text's head and tail are
 * stripped.
 *
 * Byte pieces that do not form characters become one U+FFFD each, and characters among them are kept, as SentencePiece
 * does it. (Hugging Face gives up on all of a run of byte pieces when one is wrong, which no stream can do.) */
#include "text/tokenizer_impl.h"

#include <limits.h>

struct sala_detokenizer {
    const sala_tokenizer *t;
    bool skip_special;
    bool first; /* no token so far */
    char pending[4];
    size_t n_pending;    /* bytes of a character not yet whole */
    int head_left, held; /* strips still allowed at the head; copies of `strip` kept back at the tail */
    sala_buf token, work;
};

bool sala_decoder_add(sala_decoder *d, sala_decode_kind kind, const char *from, size_t from_len, const char *to,
                      size_t to_len)
{
    if (d->n_ops == SALA_DECODE_MAX)
        return false;
    sala_decode_op *op = &d->ops[d->n_ops];
    *op = (sala_decode_op){.kind = kind, .from_len = from_len, .to_len = to_len};
    op->from = sala_strndup(from, from_len);
    op->to = sala_strndup(to, to_len);
    d->n_ops++;
    return op->from != NULL && op->to != NULL;
}

bool sala_decoder_llama(sala_decoder *d, bool strip_leading)
{
    d->byte_fallback = true;
    if (strip_leading) {
        d->strip = sala_strdup(" ");
        if (d->strip == NULL)
            return false;
        d->strip_len = 1;
        d->strip_start = 1;
    }
    return sala_decoder_add(d, SALA_DEC_REPLACE, SALA_META, SALA_META_LEN, " ", 1);
}

static bool starts_with(const char *s, size_t n, const char *prefix, size_t len)
{
    return n >= len && memcmp(s, prefix, len) == 0;
}

/* Text that is whole characters: head and tail of the whole are stripped on the way. */
static void put_text(sala_detokenizer *d, sala_buf *out, const char *s, size_t n)
{
    const sala_decoder *dec = &d->t->decoder;
    while (d->head_left > 0 && n > 0) {
        if (!starts_with(s, n, dec->strip, dec->strip_len)) {
            d->head_left = 0;
            break;
        }
        s += dec->strip_len;
        n -= dec->strip_len;
        d->head_left--;
    }
    if (n == 0)
        return;
    int tail = 0;
    size_t end = n;
    while (tail < dec->strip_stop && end >= dec->strip_len &&
           memcmp(s + end - dec->strip_len, dec->strip, dec->strip_len) == 0) {
        end -= dec->strip_len;
        tail++;
    }
    if (end == 0) {
        /* Nothing but what may be stripped: the oldest copies beyond the limit go out. */
        tail += d->held;
        for (; tail > dec->strip_stop; tail--)
            sala_buf_add(out, dec->strip, dec->strip_len);
        d->held = tail;
        return;
    }
    for (; d->held > 0; d->held--)
        sala_buf_add(out, dec->strip, dec->strip_len);
    sala_buf_add(out, s, end);
    d->held = tail;
}

/* Bytes to characters. last: no more will come, so that a broken end is broken for good. */
static void put_bytes(sala_detokenizer *d, sala_buf *out, const char *s, size_t n, bool last)
{
    sala_buf *w = &d->work;
    sala_buf_clear(w);
    char joined[8];
    /* A character begun by earlier tokens is completed first, byte by byte. */
    size_t i = 0;
    while (d->n_pending > 0 && (i < n || last)) {
        memcpy(joined, d->pending, d->n_pending);
        size_t have = d->n_pending;
        while (have < sizeof joined && i + (have - d->n_pending) < n && have < 4) {
            joined[have] = s[i + (have - d->n_pending)];
            have++;
        }
        uint32_t cp;
        const int len = sala_utf8_decode(joined, have, &cp);
        if (len > 0) {
            sala_buf_add(w, joined, (size_t)len);
            i += (size_t)len - d->n_pending;
            d->n_pending = 0;
            break;
        }
        bool incomplete;
        size_t bad = sala_utf8_bad_part(joined, have, &incomplete);
        if (incomplete && !last) {
            memcpy(d->pending, joined, have);
            d->n_pending = have;
            i = n;
            break;
        }
        if (!d->t->decoder.byte_level)
            bad = 1;
        sala_buf_add(w, "\xEF\xBF\xBD", 3);
        /* What was pending stood in one well-formed beginning, so a bad part never ends before it does unless bytes
         * count one by one. */
        if (bad >= d->n_pending) {
            i += bad - d->n_pending;
            d->n_pending = 0;
        } else {
            memmove(d->pending, d->pending + bad, d->n_pending - bad);
            d->n_pending -= bad;
        }
    }
    size_t done = i;
    while (i < n) {
        if ((uint8_t)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        sala_buf_add(w, s + done, i - done);
        bool incomplete;
        size_t bad = sala_utf8_bad_part(s + i, n - i, &incomplete);
        if (incomplete && !last) {
            memcpy(d->pending, s + i, bad);
            d->n_pending = bad;
            done = i = n;
            break;
        }
        if (!d->t->decoder.byte_level)
            bad = 1;
        sala_buf_add(w, "\xEF\xBF\xBD", 3);
        i += bad;
        done = i;
    }
    if (i > done)
        sala_buf_add(w, s + done, i - done);
    if (w->failed)
        out->failed = true;
    else if (w->len > 0)
        put_text(d, out, w->data, w->len);
}

static void apply_op(const sala_decode_op *op, bool first, sala_buf *from, sala_buf *to)
{
    const char *s = from->data;
    size_t n = from->len;
    sala_buf_clear(to);
    if (op->kind == SALA_DEC_STRIP) {
        for (int k = 0; k < op->start && starts_with(s, n, op->from, op->from_len); k++) {
            s += op->from_len;
            n -= op->from_len;
        }
        for (int k = 0; k < op->stop && n >= op->from_len && memcmp(s + n - op->from_len, op->from, op->from_len) == 0;
             k++)
            n -= op->from_len;
        if (n > 0)
            sala_buf_add(to, s, n);
        return;
    }
    const bool drop = op->kind == SALA_DEC_METASPACE && first && op->drop_in_first;
    for (size_t i = 0; i < n;) {
        if (op->from_len > 0 && starts_with(s + i, n - i, op->from, op->from_len)) {
            if (!drop)
                sala_buf_add(to, op->to, op->to_len);
            i += op->from_len;
        } else {
            sala_buf_add_char(to, s[i++]);
        }
    }
}

sala_status sala_detokenizer_open(sala_detokenizer **out, const sala_tokenizer *t, bool skip_special, sala_error *err)
{
    sala_detokenizer *d = calloc(1, sizeof *d);
    if (d == NULL)
        return sala_fail_memory(err, sizeof *d);
    d->t = t;
    d->skip_special = skip_special;
    sala_detokenizer_reset(d);
    *out = d;
    return SALA_OK;
}

void sala_detokenizer_close(sala_detokenizer *d)
{
    if (d == NULL)
        return;
    sala_buf_free(&d->token);
    sala_buf_free(&d->work);
    free(d);
}

void sala_detokenizer_reset(sala_detokenizer *d)
{
    d->first = true;
    d->n_pending = 0;
    d->held = 0;
    d->head_left = d->t->decoder.strip_start;
}

sala_status sala_detokenizer_push(sala_detokenizer *d, int32_t id, sala_buf *out, sala_error *err)
{
    const sala_tokenizer *t = d->t;
    const sala_decoder *dec = &t->decoder;
    const char *s;
    size_t n;
    if (!sala_tokenizer_piece(t, id, &s, &n))
        return sala_fail(err, SALA_E_INVALID, "token id %d is not in the vocabulary, whose ids end at %d", id,
                         t->vocab.count - 1);
    if (d->skip_special && t->vocab.items[id].special)
        return SALA_OK;
    sala_buf *b = &d->token;
    sala_buf_clear(b);
    if (dec->join_with_space && !d->first)
        sala_buf_add_char(b, ' ');
    const int byte = dec->byte_fallback ? sala_byte_piece_value(s, n) : -1;
    if (byte >= 0) {
        sala_buf_add_char(b, (char)byte);
    } else if (dec->byte_level) {
        if (!sala_byte_level_decode(b, s, n))
            sala_buf_add(b, s, n);
    } else {
        const bool unknown = id == t->unk && dec->unk_surface != NULL;
        if (unknown)
            d->head_left = 0; /* spaces of its surface are not the tokenizer's own */
        sala_buf_add(b, unknown ? dec->unk_surface : s, unknown ? strlen(dec->unk_surface) : n);
        for (int i = 0; i < dec->n_ops && !unknown && b->len > 0; i++) {
            apply_op(&dec->ops[i], d->first, b, &d->work);
            const sala_buf swap = *b;
            *b = d->work;
            d->work = swap;
        }
    }
    d->first = false;
    if (b->len > 0 && !b->failed)
        put_bytes(d, out, b->data, b->len, false);
    return b->failed || out->failed ? sala_fail_memory(err, n) : SALA_OK;
}

void sala_detokenizer_flush(sala_detokenizer *d, sala_buf *out)
{
    put_bytes(d, out, NULL, 0, true);
    sala_detokenizer_reset(d);
}

sala_status sala_tokenizer_decode(const sala_tokenizer *t, sala_buf *out, const int32_t *ids, size_t n_ids,
                                  bool skip_special, sala_error *err)
{
    sala_detokenizer d = {.t = t, .skip_special = skip_special};
    sala_detokenizer_reset(&d);
    sala_status st = SALA_OK;
    for (size_t i = 0; i < n_ids && st == SALA_OK; i++)
        st = sala_detokenizer_push(&d, ids[i], out, err);
    if (st == SALA_OK)
        sala_detokenizer_flush(&d, out);
    if (st == SALA_OK && out->failed)
        st = sala_fail_memory(err, n_ids);
    sala_buf_free(&d.token);
    sala_buf_free(&d.work);
    return st;
}
