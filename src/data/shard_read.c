/* Reading shards. A file is a claim until its sums say otherwise: header and index are checked when it is opened, so
 * that opening takes time in proportion to documents and not to tokens; a page of tokens or of the mask is checked by
 * whoever reads it first, and a bit remembers that. Two threads may check the same page at once, which costs time and
 * nothing else. Every byte of a shard is either under a checksum or must be zero. */
#include "data/shard_file.h"

#include "os/os.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct sala_shard {
    char *path;
    const uint8_t *data;
    sala_map map; /* empty when the bytes are the caller's */
    sala_shard_layout layout;
    uint32_t vocab;
    uint64_t tokenizer_id, content_sum, header_sum;
    /* A bit for each page, tokens first: its sum was right and its ids below the vocabulary. Set with release after the
     * check, read with acquire; both only order the check itself, as the pages never change. */
    _Atomic uint32_t *checked;
};

static uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static sala_status corrupt(const sala_shard *s, sala_error *err, uint64_t at, const char *what)
{
    return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)at,
                        "%s: %s; pack this shard again, or remove it from manifest.json", s->path, what);
}

/* ---- opening ---- */

static bool all_zero(const uint8_t *p, uint64_t n)
{
    uint8_t any = 0;
    for (uint64_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

static sala_status check_header(sala_shard *s, size_t bytes, sala_error *err)
{
    char what[240];
    if (bytes < sizeof SALA_SHARD_MAGIC - 1 || memcmp(s->data, SALA_SHARD_MAGIC, sizeof SALA_SHARD_MAGIC - 1) != 0)
        return sala_fail_at(err, SALA_E_CORRUPT, 0, "%s: not a token shard: it does not begin with %s", s->path,
                            SALA_SHARD_MAGIC);
    if (bytes < SALA_SHARD_ALIGN)
        return sala_fail_at(err, SALA_E_TRUNCATED, (int64_t)bytes,
                            "%s: the file ends after %zu bytes, inside its header of %d", s->path, bytes,
                            SALA_SHARD_ALIGN);
    sala_reader r = sala_reader_of(s->data + 8, SALA_SHARD_HEADER_BYTES - 8);
    const uint32_t version = sala_read_u32(&r), flags = sala_read_u32(&r);
    (void)sala_read_u32(&r); /* bytes of a token: follows from the vocabulary */
    s->vocab = sala_read_u32(&r);
    s->tokenizer_id = sala_read_u64(&r);
    const uint64_t n_docs = sala_read_u64(&r), n_tokens = sala_read_u64(&r);
    s->content_sum = load_u64(s->data + 96);
    s->header_sum = load_u64(s->data + SALA_SHARD_SUMMED_BYTES);
    const uint64_t sum = XXH3_64bits(s->data, SALA_SHARD_SUMMED_BYTES);
    if (sum != s->header_sum) {
        snprintf(what, sizeof what, "header: checksum %016" PRIx64 " stored, %016" PRIx64 " found", s->header_sum, sum);
        return corrupt(s, err, SALA_SHARD_SUMMED_BYTES, what);
    }
    if (version != SALA_SHARD_VERSION)
        return sala_fail_at(err, SALA_E_UNSUPPORTED, 8, "%s: a shard of version %u; this program reads version %d",
                            s->path, version, SALA_SHARD_VERSION);
    if (flags & ~(uint32_t)SALA_SHARD_HAS_MASK)
        return sala_fail_at(err, SALA_E_UNSUPPORTED, 12, "%s: flags %#x, of which this program knows %#x", s->path,
                            flags, SALA_SHARD_HAS_MASK);
    if (s->vocab == 0 || s->vocab > INT32_MAX || !sala_shard_lay_out(&s->layout, s->vocab, flags, n_docs, n_tokens)) {
        snprintf(what, sizeof what, "header: %" PRIu64 " documents of %" PRIu64 " tokens below id %u cannot be", n_docs,
                 n_tokens, s->vocab);
        return corrupt(s, err, 20, what);
    }
    /* What the counts lead to has to be what the header says, byte for byte. */
    uint8_t again[SALA_SHARD_HEADER_BYTES];
    sala_shard_put_header(again, &s->layout, s->vocab, s->tokenizer_id, s->content_sum);
    for (uint64_t i = 0; i < SALA_SHARD_HEADER_BYTES; i++)
        if (again[i] != s->data[i]) {
            snprintf(what, sizeof what,
                     "header: the places at byte %" PRIu64 " do not follow from %" PRIu64 " documents and %" PRIu64
                     " tokens",
                     i, n_docs, n_tokens);
            return corrupt(s, err, i, what);
        }
    if (s->layout.file_bytes != bytes)
        return sala_fail_at(err, bytes < s->layout.file_bytes ? SALA_E_TRUNCATED : SALA_E_CORRUPT, (int64_t)bytes,
                            "%s: the file has %zu bytes, its header says %" PRIu64
                            "; pack this shard again, or remove it from manifest.json",
                            s->path, bytes, s->layout.file_bytes);
    return SALA_OK;
}

static sala_status check_index(const sala_shard *s, sala_error *err)
{
    const sala_shard_layout *l = &s->layout;
    char what[240];
    const uint64_t sum = XXH3_64bits(s->data + l->index_at, (size_t)(l->file_bytes - l->index_at));
    if (sum != s->content_sum) {
        snprintf(what, sizeof what, "document index: checksum %016" PRIx64 " stored, %016" PRIx64 " found",
                 s->content_sum, sum);
        return corrupt(s, err, l->index_at, what);
    }
    uint64_t at = 0;
    for (uint64_t i = 0; i < l->n_docs; i++) {
        const sala_shard_doc d = sala_shard_doc_at(s, i);
        if (d.at != at || d.count == 0 || d.count > l->n_tokens - at) {
            snprintf(what, sizeof what,
                     "document %" PRIu64 ": %u tokens from %" PRIu64 " on; the one before ends at %" PRIu64
                     " of %" PRIu64,
                     i, d.count, d.at, at, l->n_tokens);
            return corrupt(s, err, l->index_at + i * SALA_SHARD_DOC_BYTES, what);
        }
        at += d.count;
    }
    if (at != l->n_tokens) {
        snprintf(what, sizeof what, "documents end at token %" PRIu64 ", tokens at %" PRIu64, at, l->n_tokens);
        return corrupt(s, err, l->index_at, what);
    }
    const uint64_t tokens_end = l->tokens_at + l->token_section, mask_end = l->mask_at + l->mask_section;
    if (!all_zero(s->data + SALA_SHARD_HEADER_BYTES, l->tokens_at - SALA_SHARD_HEADER_BYTES) ||
        !all_zero(s->data + tokens_end, (l->mask_at ? l->mask_at : l->index_at) - tokens_end) ||
        (l->mask_at && !all_zero(s->data + mask_end, l->index_at - mask_end)))
        return corrupt(s, err, SALA_SHARD_HEADER_BYTES, "there are other bytes than zero between its parts");
    return SALA_OK;
}

static sala_status open_bytes(sala_shard **out, const char *path, sala_map map, const void *data, size_t bytes,
                              sala_error *err)
{
    sala_status status = SALA_OK;
    sala_shard *s = calloc(1, sizeof *s);
    if (s) {
        s->map = map;
        s->path = sala_strdup(path);
        s->data = data;
    } else {
        sala_os_unmap(&map);
    }
    if (!s || !s->path)
        status = sala_fail_memory(err, sizeof *s + strlen(path));
    if (status == SALA_OK)
        status = check_header(s, bytes, err);
    if (status == SALA_OK)
        status = check_index(s, err);
    if (status == SALA_OK) {
        const uint64_t pages = (uint64_t)s->layout.token_pages + s->layout.mask_pages;
        s->checked = calloc((size_t)(pages / 32 + 1), sizeof *s->checked);
        if (!s->checked)
            status = sala_fail_memory(err, pages / 8);
    }
    if (status != SALA_OK) {
        sala_shard_close(s);
        return status;
    }
    *out = s;
    return SALA_OK;
}

sala_status sala_shard_open(sala_shard **out, const char *path, sala_error *err)
{
    sala_map map;
    const int why = sala_os_map(&map, path);
    if (why)
        return sala_fail_errno(err, why, "%s", path);
    return open_bytes(out, path, map, map.data, map.bytes, err);
}

sala_status sala_shard_parse(sala_shard **out, const void *data, size_t bytes, sala_error *err)
{
    return open_bytes(out, "shard", (sala_map){0}, data, bytes, err);
}

void sala_shard_close(sala_shard *s)
{
    if (!s)
        return;
    sala_os_unmap(&s->map);
    free((void *)s->checked);
    free(s->path);
    free(s);
}

/* ---- facts ---- */

uint64_t sala_shard_docs(const sala_shard *s)
{
    return s->layout.n_docs;
}

sala_shard_doc sala_shard_doc_at(const sala_shard *s, uint64_t doc)
{
    sala_shard_doc d;
    memcpy(&d, s->data + s->layout.index_at + doc * SALA_SHARD_DOC_BYTES, sizeof d);
    return d;
}

uint64_t sala_shard_doc_of(const sala_shard *s, uint64_t at)
{
    uint64_t low = 0, high = s->layout.n_docs; /* the document is in [low, high) */
    while (high - low > 1) {
        const uint64_t middle = low + (high - low) / 2;
        if (sala_shard_doc_at(s, middle).at <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint64_t sala_shard_tokens(const sala_shard *s)
{
    return s->layout.n_tokens;
}

uint64_t sala_shard_bytes(const sala_shard *s)
{
    return s->layout.file_bytes;
}

bool sala_shard_has_mask(const sala_shard *s)
{
    return s->layout.mask_at != 0;
}

uint32_t sala_shard_vocab(const sala_shard *s)
{
    return s->vocab;
}

uint64_t sala_shard_tokenizer_id(const sala_shard *s)
{
    return s->tokenizer_id;
}

uint64_t sala_shard_header_sum(const sala_shard *s)
{
    return s->header_sum;
}

uint64_t sala_shard_content_sum(const sala_shard *s)
{
    return s->content_sum;
}

/* ---- pages ---- */

static uint32_t token_at(const sala_shard *s, uint64_t i)
{
    const uint8_t *p = s->data + s->layout.tokens_at;
    if (s->layout.token_bytes == 2) {
        uint16_t id;
        memcpy(&id, p + 2 * i, sizeof id);
        return id;
    }
    uint32_t id;
    memcpy(&id, p + 4 * i, sizeof id);
    return id;
}

static sala_status check_ids(const sala_shard *s, uint64_t first, uint64_t n, sala_error *err)
{
    uint32_t most = 0;
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t id = token_at(s, first + i);
        most = id > most ? id : most;
    }
    if (most < s->vocab)
        return SALA_OK;
    for (uint64_t i = first; i < first + n; i++)
        if (token_at(s, i) >= s->vocab) {
            char what[120];
            snprintf(what, sizeof what, "token %" PRIu64 " is id %u; ids are below %u", i, token_at(s, i), s->vocab);
            return corrupt(s, err, s->layout.tokens_at + i * s->layout.token_bytes, what);
        }
    return SALA_OK;
}

/* Page `page` of the tokens, or of the mask, is as it was written. */
static sala_status check_page(const sala_shard *s, bool of_mask, uint64_t page, sala_error *err)
{
    const sala_shard_layout *l = &s->layout;
    const uint64_t number = of_mask ? l->token_pages + page : page;
    const uint32_t bit = 1u << (number % 32);
    if (atomic_load_explicit(&s->checked[number / 32], memory_order_acquire) & bit)
        return SALA_OK;
    const uint64_t begin = page * SALA_SHARD_PAGE, section = of_mask ? l->mask_section : l->token_section;
    const uint64_t n = section - begin < SALA_SHARD_PAGE ? section - begin : SALA_SHARD_PAGE;
    const uint64_t place = (of_mask ? l->mask_at : l->tokens_at) + begin;
    const uint64_t stored = load_u64(s->data + l->sums_at + number * sizeof(uint64_t));
    const uint64_t found = XXH3_64bits(s->data + place, (size_t)n);
    if (stored != found) {
        char what[200];
        snprintf(what, sizeof what,
                 "page %" PRIu64 " of %s (bytes %" PRIu64 "..%" PRIu64 "): checksum %016" PRIx64 " stored, %016" PRIx64
                 " found",
                 page, of_mask ? "the mask" : "tokens", place, place + n - 1, stored, found);
        return corrupt(s, err, place, what);
    }
    if (!of_mask) {
        const sala_status status = check_ids(s, begin / l->token_bytes, n / l->token_bytes, err);
        if (status != SALA_OK)
            return status;
    }
    atomic_fetch_or_explicit(&s->checked[number / 32], bit, memory_order_release);
    return SALA_OK;
}

static sala_status check_range(const sala_shard *s, uint64_t at, int64_t n, sala_error *err)
{
    if (n < 0 || at > s->layout.n_tokens || (uint64_t)n > s->layout.n_tokens - at)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: %" PRId64 " tokens from %" PRIu64 " on were asked for; it has %" PRIu64, s->path, n, at,
                         s->layout.n_tokens);
    return SALA_OK;
}

/* The pages that hold [first, last] of a section, in bytes. */
static sala_status check_pages(const sala_shard *s, bool of_mask, uint64_t first, uint64_t last, sala_error *err)
{
    sala_status status = SALA_OK;
    for (uint64_t p = first / SALA_SHARD_PAGE; p <= last / SALA_SHARD_PAGE && status == SALA_OK; p++)
        status = check_page(s, of_mask, p, err);
    return status;
}

static sala_status check_mask(const sala_shard *s, uint64_t at, int64_t n, sala_error *err)
{
    return check_pages(s, true, at / 8, (at + (uint64_t)n - 1) / 8, err);
}

static bool has_label(const sala_shard *s, uint64_t i)
{
    return s->data[s->layout.mask_at + i / 8] >> (i % 8) & 1;
}

sala_status sala_shard_read(const sala_shard *s, uint64_t at, int64_t n, int32_t *tokens, int32_t *labels,
                            sala_error *err)
{
    const sala_shard_layout *l = &s->layout;
    sala_status status = check_range(s, at, n, err);
    if (status != SALA_OK || n == 0)
        return status;
    status = check_pages(s, false, at * l->token_bytes, (at + (uint64_t)n - 1) * l->token_bytes, err);
    if (status == SALA_OK && labels && l->mask_at)
        status = check_mask(s, at, n, err);
    if (status != SALA_OK)
        return status;
    for (int64_t i = 0; tokens && i < n; i++)
        tokens[i] = (int32_t)token_at(s, at + (uint64_t)i);
    for (int64_t i = 0; labels && i < n; i++)
        labels[i] = !l->mask_at || has_label(s, at + (uint64_t)i) ? (int32_t)token_at(s, at + (uint64_t)i) : -1;
    return SALA_OK;
}

sala_status sala_shard_supervised(const sala_shard *s, uint64_t at, int64_t n, uint64_t *count, sala_error *err)
{
    sala_status status = check_range(s, at, n, err);
    if (status == SALA_OK && n > 0 && s->layout.mask_at)
        status = check_mask(s, at, n, err);
    if (status != SALA_OK)
        return status;
    uint64_t some = s->layout.mask_at ? 0 : (uint64_t)n;
    for (int64_t i = 0; s->layout.mask_at && i < n; i++)
        some += has_label(s, at + (uint64_t)i);
    *count = some;
    return SALA_OK;
}
