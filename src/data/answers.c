/* Which tokens of a conversation are the assistant's own. Templates do not say it, so it is found out from outside: the
 * tokens before an answer are those of the conversation up to there with the generation prompt, the tokens behind it
 * begin where the conversation that ends with the answer ends. That is exact, for it is what the model will be given
 * when it runs.
 *
 * Some templates write earlier turns differently once later ones are there (reasoning is dropped, say). Then the
 * answers are looked up in the rendered text, among what the template took from the messages. */
#include "data/encode.h"

#include <stdlib.h>

/* ---- tokens ---- */

static size_t common(const int32_t *a, size_t na, const int32_t *b, size_t nb)
{
    size_t n = 0;
    while (n < na && n < nb && a[n] == b[n])
        n++;
    return n;
}

/* The end of an answer in tokens [begin, end): behind its last control token, as what a template writes there (a line
 * end, usually) is written by nobody at run time. */
static size_t trimmed_end(const sala_tokenizer *t, const int32_t *ids, size_t begin, size_t end)
{
    for (size_t i = end; i > begin; i--)
        if (sala_tokenizer_is_special(t, ids[i - 1]))
            return i;
    return end;
}

static const char *role_of(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role ? role : "";
}

static bool is_answer(const json_t *message)
{
    return strcmp(role_of(message), "assistant") == 0 || strcmp(role_of(message), "model") == 0;
}

/* ---- renderings ---- */

typedef struct rendering {
    char *text;
    size_t bytes;
    sala_jinja_span *spans;
    size_t n_spans;
} rendering;

static void rendering_free(rendering *r)
{
    free(r->text);
    free(r->spans);
    *r = (rendering){0};
}

static bool in_input(const rendering *r, size_t at)
{
    for (size_t i = 0; i < r->n_spans; i++)
        if (at >= r->spans[i].begin && at < r->spans[i].end)
            return r->spans[i].from_input;
    return false;
}

/* BOS when it stands in front of the whole without being in its text, or -1. */
static int32_t lead_of(const sala_tokenizer *t, const int32_t *whole, size_t n_whole)
{
    const int32_t bos = sala_tokenizer_bos(t);
    return sala_tokenizer_adds_bos(t) && bos >= 0 && n_whole && whole[0] == bos ? bos : -1;
}

/* Tokens of bytes [from, to) of what was rendered, made as sala_chat_encode() makes those of the whole. */
static sala_status encode_range(const rendering *r, size_t from, size_t to, const sala_tokenizer *t, int32_t lead,
                                sala_ids *ids, sala_error *err)
{
    sala_text_span *parts = malloc((r->n_spans + 1) * sizeof *parts);
    if (!parts)
        return sala_fail_memory(err, (r->n_spans + 1) * sizeof *parts);
    size_t n = 0;
    for (size_t i = 0; i < r->n_spans && r->spans[i].begin < to; i++) {
        const size_t begin = r->spans[i].begin > from ? r->spans[i].begin : from;
        const size_t end = r->spans[i].end < to ? r->spans[i].end : to;
        if (begin < end)
            parts[n++] = (sala_text_span){r->text + begin, end - begin, !r->spans[i].from_input};
    }
    ids->count = 0;
    const sala_status status = sala_tokenizer_encode(t, ids, parts, n, false, err);
    free(parts);
    if (status == SALA_OK && from == 0 && lead >= 0 && (ids->count == 0 || ids->data[0] != lead)) {
        int32_t *data = realloc(ids->data, (ids->count + 1) * sizeof *data);
        if (!data)
            return sala_fail_memory(err, (ids->count + 1) * sizeof *data);
        memmove(data + 1, data, ids->count * sizeof *data);
        data[0] = lead;
        ids->data = data;
        ids->count++;
        ids->cap = ids->count;
    }
    return status;
}

/* ---- by prefixes ---- */

/* A shallow copy of the request with the first n messages. */
static json_t *request_of(const json_t *request, size_t n, bool generation_prompt)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)request), *some = json_array();
    const json_t *all = json_object_get(request, "messages");
    bool ok = copy && some;
    for (size_t i = 0; ok && i < n; i++)
        ok = json_array_append(some, json_array_get(all, i)) == 0;
    ok = ok && json_object_set(copy, "messages", some) == 0 &&
         json_object_set_new(copy, "add_generation_prompt", json_boolean(generation_prompt)) == 0;
    json_decref(some);
    if (!ok) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

/* Looks how many of a conversation's tokens its first messages make. Nothing that stands in front of a control token
 * changes what stands behind it, so only what follows the last one of the prefix before is made into tokens; a long
 * conversation would take a time that grows with its square otherwise. That the tokens are those of the whole shows
 * whether it was right; where it was not, all of the prefix is made into tokens. */
typedef struct prefixes {
    const sala_chat *chat;
    const sala_tokenizer *tokenizer;
    const json_t *request;
    const int32_t *whole;
    size_t n_whole;
    int32_t lead;
    sala_ids scratch;
    rendering last;              /* the prefix before */
    size_t known_bytes, n_known; /* its text and tokens up to a control token, that included; 0: none */
} prefixes;

static void prefixes_free(prefixes *p)
{
    sala_ids_free(&p->scratch);
    rendering_free(&p->last);
}

static bool is_next(const prefixes *p, size_t at)
{
    return common(p->scratch.data, p->scratch.count, p->whole + at, p->n_whole - at) == p->scratch.count;
}

/* Keeps r, of which `n` tokens are those of the whole, for the next prefix. */
static void keep(prefixes *p, rendering *r, size_t n)
{
    rendering_free(&p->last);
    p->last = *r;
    *r = (rendering){0};
    p->known_bytes = p->n_known = 0;
    while (n && !sala_tokenizer_is_special(p->tokenizer, p->whole[n - 1]))
        n--;
    const char *piece;
    size_t bytes;
    if (n == 0 || !sala_tokenizer_piece(p->tokenizer, p->whole[n - 1], &piece, &bytes) || bytes == 0)
        return;
    for (size_t end = p->last.bytes; end >= bytes; end--)
        if (memcmp(p->last.text + end - bytes, piece, bytes) == 0 && !in_input(&p->last, end - bytes)) {
            p->known_bytes = end;
            p->n_known = n;
            return;
        }
}

/* Number of tokens that the first n messages make, when the whole begins with them; *yes is false when it does not, or
 * when the template does not accept so short a conversation. */
static sala_status prefix(prefixes *p, size_t n, bool generation_prompt, size_t *length, bool *yes, sala_error *err)
{
    rendering r = {0};
    *yes = false;
    json_t *some = request_of(p->request, n, generation_prompt);
    if (!some)
        return sala_fail_memory(err, 4096);
    sala_status status = sala_chat_render(p->chat, some, &r.text, &r.bytes, &r.spans, &r.n_spans, err);
    json_decref(some);
    if (status != SALA_OK)
        return status == SALA_E_MEMORY ? status : SALA_OK;
    const size_t from = p->known_bytes;
    if (from && from <= r.bytes && memcmp(r.text, p->last.text, from) == 0) {
        status = encode_range(&r, from, r.bytes, p->tokenizer, -1, &p->scratch, err);
        *length = p->n_known + p->scratch.count;
        *yes = status == SALA_OK && is_next(p, p->n_known);
    }
    if (status == SALA_OK && !*yes) {
        status = encode_range(&r, 0, r.bytes, p->tokenizer, p->lead, &p->scratch, err);
        *length = p->scratch.count;
        *yes = status == SALA_OK && is_next(p, 0);
    }
    if (*yes)
        keep(p, &r, *length);
    rendering_free(&r);
    return status;
}

static sala_status mark_by_prefixes(const sala_chat *c, const sala_tokenizer *t, const json_t *request,
                                    const int32_t *whole, size_t n_whole, char *mask, bool *done, sala_error *err)
{
    const json_t *messages = json_object_get(request, "messages");
    const size_t n = json_array_size(messages);
    prefixes p = {c, t, request, whole, n_whole, lead_of(t, whole, n_whole), {0}, {0}, 0, 0};
    sala_status status = SALA_OK;
    *done = true;
    for (size_t i = 0; i < n && *done && status == SALA_OK; i++) {
        if (!is_answer(json_array_get(messages, i)))
            continue;
        size_t begin = 0, end = n_whole;
        status = prefix(&p, i, true, &begin, done, err);
        if (status == SALA_OK && *done && i + 1 < n)
            status = prefix(&p, i + 1, false, &end, done, err);
        if (status != SALA_OK || !*done)
            break;
        *done = begin < end;
        if (*done)
            memset(mask + begin, 1, trimmed_end(t, whole, begin, end) - begin);
    }
    prefixes_free(&p);
    return status;
}

/* ---- by characters ---- */

/* Whether the byte is one that may stand beside a message: the template's, or white space. */
static bool is_border(const rendering *r, size_t at)
{
    return at >= r->bytes || sala_is_blank(r->text + at, 1) || !in_input(r, at);
}

/* What a template takes from a message it takes whole, so a part of another message is no hit. `opened`: something of
 * the message stands in front, its reasoning. */
static bool find(const rendering *r, size_t from, const char *what, size_t n, bool opened, size_t *at)
{
    while (n && from < r->bytes) {
        const char *hit = memmem(r->text + from, r->bytes - from, what, n);
        if (!hit)
            return false;
        *at = (size_t)(hit - r->text);
        if (in_input(r, *at) && (opened || *at == 0 || is_border(r, *at - 1)) && is_border(r, *at + n))
            return true;
        from = *at + 1;
    }
    return false;
}

/* A message's text as the template may have written it: as it is, without white space around, without its reasoning. */
static bool find_message(const rendering *r, size_t from, const json_t *message, size_t *begin, size_t *end)
{
    const json_t *content = json_object_get(message, "content");
    const char *s = json_string_value(content);
    if (!s)
        return false;
    size_t n = json_string_length(content);
    for (int pass = 0; pass < 2; pass++) {
        while (n && sala_is_blank(s, 1)) {
            s++;
            n--;
        }
        while (n && sala_is_blank(s + n - 1, 1))
            n--;
        if (find(r, from, s, n, pass > 0, begin)) {
            *end = *begin + n;
            return true;
        }
        static const char think[] = "</think>";
        const char *last = NULL;
        for (const char *p = s; p && (p = memmem(p, n - (size_t)(p - s), think, sizeof think - 1)); p++)
            last = p;
        if (!last)
            return false;
        last += sizeof think - 1;
        n -= (size_t)(last - s);
        s = last;
    }
    return false;
}

static sala_status mark_by_characters(const rendering *r, const sala_tokenizer *t, const json_t *messages,
                                      const int32_t *whole, size_t n_whole, char *mask, sala_error *err)
{
    const int32_t lead = lead_of(t, whole, n_whole);
    sala_ids some = {0};
    sala_status status = SALA_OK;
    size_t from = 0;
    for (size_t i = 0; i < json_array_size(messages) && status == SALA_OK; i++) {
        const json_t *message = json_array_get(messages, i);
        size_t begin, end;
        if (!find_message(r, from, message, &begin, &end)) {
            /* Templates leave out or rewrite much, but what a user says in words they write. If it is not there, one of
             * the messages before was found where it is not. */
            const json_t *content = json_object_get(message, "content");
            const bool said = strcmp(role_of(message), "user") == 0 && json_is_string(content) &&
                              !sala_is_blank(json_string_value(content), json_string_length(content));
            if (!is_answer(message) && !said)
                continue;
            status = sala_fail(err, SALA_E_INVALID,
                               "message %zu: the chat template does not write it as it stands, so that the tokens of "
                               "answers cannot be told from the others",
                               i);
            break;
        }
        from = end;
        if (!is_answer(message))
            continue;
        status = encode_range(r, 0, begin, t, lead, &some, err);
        if (status != SALA_OK)
            break;
        /* A token that reaches across the border belongs to the answer. */
        const size_t first = common(some.data, some.count, whole, n_whole);
        status = encode_range(r, 0, end, t, lead, &some, err);
        size_t last = common(some.data, some.count, whole, n_whole);
        last += last < some.count && last < n_whole;
        /* The token that ends the turn, at most one token of white space behind the answer. */
        for (size_t k = last; k < n_whole && k < last + 2; k++)
            if (sala_tokenizer_is_special(t, whole[k])) {
                last = k + 1;
                break;
            }
        if (status == SALA_OK && first < last)
            memset(mask + first, 1, last - first);
    }
    sala_ids_free(&some);
    return status;
}

/* ---- both ---- */

sala_status sala_chat_answers(const sala_chat *c, const sala_tokenizer *t, const json_t *request, sala_ids *ids,
                              sala_buf *mask, sala_error *err)
{
    const json_t *messages = json_object_get(request, "messages");
    size_t n_answers = 0;
    for (size_t i = 0; i < json_array_size(messages); i++)
        n_answers += is_answer(json_array_get(messages, i));
    if (n_answers == 0)
        return sala_fail(err, SALA_E_INVALID, "no message has the role 'assistant': there is no answer to learn from");
    const size_t first = ids->count;
    sala_status status = sala_chat_encode(c, t, request, ids, err);
    if (status != SALA_OK)
        return status;
    const size_t n = ids->count - first, mask_first = mask->len;
    if (!sala_buf_reserve(mask, n))
        return sala_fail_memory(err, n);
    memset(mask->data + mask_first, 0, n + 1);
    mask->len += n;
    bool done = false;
    status = mark_by_prefixes(c, t, request, ids->data + first, n, mask->data + mask_first, &done, err);
    if (status == SALA_OK && !done) {
        rendering r = {0};
        memset(mask->data + mask_first, 0, n);
        status = sala_chat_render(c, request, &r.text, &r.bytes, &r.spans, &r.n_spans, err);
        if (status == SALA_OK)
            status = mark_by_characters(&r, t, messages, ids->data + first, n, mask->data + mask_first, err);
        rendering_free(&r);
    }
    if (status == SALA_OK && memchr(mask->data + mask_first, 1, n) == NULL)
        status = sala_fail(err, SALA_E_INVALID, "the chat template writes no token for any answer");
    return status;
}
