/* Writing shards. Tokens stream to the file in pages of 1 MiB, each with its checksum; the index, 16 bytes a document,
 * and the mask, one bit a token, are kept until the end, because their places follow from how much there was. The file
 * is a sala_out_file: nothing of an unfinished shard stays, whatever ended it. */
#include "data/shard_file.h"

#include "os/os.h"

#include <stdlib.h>

struct sala_shard_writer {
    sala_out_file *file;
    char *path;
    sala_shard_params params;
    uint32_t token_bytes;
    uint64_t n_tokens, n_docs;
    sala_buf index; /* as it lies in the file */
    sala_buf sums;  /* of token pages */
    sala_buf mask;  /* empty until a document comes with one */
    bool has_mask;
    size_t page_used;
    uint8_t page[SALA_SHARD_PAGE];
};

/* ---- layout ---- */

static uint64_t round_up(uint64_t n)
{
    return (n + SALA_SHARD_ALIGN - 1) / SALA_SHARD_ALIGN * SALA_SHARD_ALIGN;
}

bool sala_shard_lay_out(sala_shard_layout *l, uint32_t vocab, uint32_t flags, uint64_t n_docs, uint64_t n_tokens)
{
    /* Bounds that keep every sum below far from 2^64. */
    if (n_tokens > (uint64_t)1 << 50 || n_docs > n_tokens)
        return false;
    *l = (sala_shard_layout){.flags = flags, .token_bytes = vocab <= 65536 ? 2 : 4, .n_docs = n_docs};
    l->n_tokens = n_tokens;
    l->token_section = n_tokens * l->token_bytes;
    l->mask_section = flags & SALA_SHARD_HAS_MASK ? (n_tokens + 7) / 8 : 0;
    const uint64_t token_pages = (l->token_section + SALA_SHARD_PAGE - 1) / SALA_SHARD_PAGE;
    const uint64_t mask_pages = (l->mask_section + SALA_SHARD_PAGE - 1) / SALA_SHARD_PAGE;
    if (token_pages > UINT32_MAX || mask_pages > UINT32_MAX)
        return false;
    l->token_pages = (uint32_t)token_pages;
    l->mask_pages = (uint32_t)mask_pages;
    l->tokens_at = SALA_SHARD_ALIGN;
    uint64_t at = l->tokens_at + round_up(l->token_section);
    if (flags & SALA_SHARD_HAS_MASK) {
        l->mask_at = at;
        at += round_up(l->mask_section);
    }
    l->index_at = at;
    l->sums_at = at + n_docs * SALA_SHARD_DOC_BYTES;
    l->file_bytes = l->sums_at + (token_pages + mask_pages) * sizeof(uint64_t);
    return true;
}

void sala_shard_put_header(uint8_t out[SALA_SHARD_HEADER_BYTES], const sala_shard_layout *l, uint32_t vocab,
                           uint64_t tokenizer_id, uint64_t content_sum)
{
    const uint32_t first[] = {SALA_SHARD_VERSION, l->flags, l->token_bytes, vocab};
    const uint64_t wide[] = {tokenizer_id, l->n_docs,   l->n_tokens, l->tokens_at,
                             l->mask_at,   l->index_at, l->sums_at,  l->file_bytes};
    const uint32_t pages[] = {l->token_pages, l->mask_pages};
    memset(out, 0, SALA_SHARD_HEADER_BYTES);
    memcpy(out, SALA_SHARD_MAGIC, 8);
    memcpy(out + 8, first, sizeof first);
    memcpy(out + 24, wide, sizeof wide);
    memcpy(out + 88, pages, sizeof pages);
    memcpy(out + 96, &content_sum, sizeof content_sum);
    const uint64_t sum = XXH3_64bits(out, SALA_SHARD_SUMMED_BYTES);
    memcpy(out + SALA_SHARD_SUMMED_BYTES, &sum, sizeof sum);
}

/* ---- writing ---- */

static sala_status write_failed(const sala_shard_writer *w, int why, sala_error *err)
{
    return sala_fail_errno(err, why, "%s: could not be written", w->path);
}

/* The zeros that fill the file up to a multiple of 4096. */
static int pad(sala_shard_writer *w)
{
    static const uint8_t zeros[SALA_SHARD_ALIGN];
    const uint64_t at = sala_os_out_tell(w->file);
    return sala_os_out_write(w->file, zeros, (size_t)(round_up(at) - at));
}

static int end_page(sala_shard_writer *w)
{
    if (w->page_used == 0)
        return 0;
    const uint64_t sum = XXH3_64bits(w->page, w->page_used);
    sala_buf_add(&w->sums, &sum, sizeof sum);
    const int why = sala_os_out_write(w->file, w->page, w->page_used);
    w->page_used = 0;
    return why;
}

sala_status sala_shard_writer_open(sala_shard_writer **out, const char *path, const sala_shard_params *p,
                                   sala_error *err)
{
    if (p->vocab == 0 || p->vocab > INT32_MAX || (p->flags & ~(uint32_t)SALA_SHARD_HAS_MASK))
        return sala_fail(err, SALA_E_INVALID, "%s: a shard of %u ids with flags %#x cannot be written", path, p->vocab,
                         p->flags);
    sala_shard_writer *w = calloc(1, sizeof *w);
    if (!w)
        return sala_fail_memory(err, sizeof *w);
    w->params = *p;
    w->token_bytes = p->vocab <= 65536 ? 2 : 4;
    w->has_mask = (p->flags & SALA_SHARD_HAS_MASK) != 0;
    w->path = sala_strdup(path);
    if (!w->path) {
        free(w);
        return sala_fail_memory(err, strlen(path));
    }
    int why = sala_os_out_open(&w->file, path);
    if (why == 0) {
        static const uint8_t zeros[SALA_SHARD_ALIGN];
        why = sala_os_out_write(w->file, zeros, sizeof zeros);
    }
    if (why) {
        const sala_status status = write_failed(w, why, err);
        sala_shard_writer_abort(w);
        return status;
    }
    *out = w;
    return SALA_OK;
}

static sala_status check_ids(const sala_shard_writer *w, const int32_t *tokens, int64_t n, sala_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= w->params.vocab)
            return sala_fail(err, SALA_E_INVALID, "%s: token %lld of a document is id %d; ids are from 0 to %u",
                             w->path, (long long)i, tokens[i], w->params.vocab - 1);
    return SALA_OK;
}

static int add_tokens(sala_shard_writer *w, const int32_t *tokens, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        const size_t room = (SALA_SHARD_PAGE - w->page_used) / w->token_bytes;
        const int64_t some = sala_min_i64(n - i, (int64_t)room);
        uint8_t *to = w->page + w->page_used;
        if (w->token_bytes == 4) {
            memcpy(to, tokens + i, (size_t)some * 4);
        } else {
            for (int64_t j = 0; j < some; j++) {
                const uint16_t id = (uint16_t)tokens[i + j];
                memcpy(to + 2 * j, &id, 2);
            }
        }
        w->page_used += (size_t)some * w->token_bytes;
        i += some;
        if (w->page_used == SALA_SHARD_PAGE) {
            const int why = end_page(w);
            if (why)
                return why;
        }
    }
    return 0;
}

/* Bits [from, from + n) of the mask; NULL: ones. The buffer holds whole bytes, the last one filled up with zeros. */
static void add_bits(sala_shard_writer *w, uint64_t from, const uint8_t *mask, uint64_t n)
{
    const uint64_t need = (from + n + 7) / 8;
    if (need > w->mask.len) {
        const size_t more = (size_t)(need - w->mask.len);
        if (!sala_buf_reserve(&w->mask, more))
            return;
        memset(w->mask.data + w->mask.len, 0, more + 1);
        w->mask.len += more;
    }
    uint8_t *bits = (uint8_t *)w->mask.data;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t bit = from + i;
        if (!mask || mask[i])
            bits[bit / 8] |= (uint8_t)(1u << (bit % 8));
    }
}

sala_status sala_shard_add(sala_shard_writer *w, const int32_t *tokens, const uint8_t *mask, int64_t n, uint32_t source,
                           sala_error *err)
{
    if (n < 1 || n > (int64_t)UINT32_MAX)
        return sala_fail(err, SALA_E_LIMIT, "%s: a document of %lld tokens; documents have 1 to %u", w->path,
                         (long long)n, UINT32_MAX);
    sala_status status = check_ids(w, tokens, n, err);
    if (status != SALA_OK)
        return status;
    const sala_shard_doc doc = {w->n_tokens, (uint32_t)n, source};
    const int why = add_tokens(w, tokens, n);
    if (why)
        return write_failed(w, why, err);
    if (mask && !w->has_mask) {
        w->has_mask = true;
        add_bits(w, 0, NULL, w->n_tokens);
    }
    if (w->has_mask)
        add_bits(w, w->n_tokens, mask, (uint64_t)n);
    sala_buf_add(&w->index, &doc, sizeof doc);
    w->n_tokens += (uint64_t)n;
    w->n_docs++;
    if (w->index.failed || w->mask.failed || w->sums.failed)
        return sala_fail_memory(err, w->index.len + w->mask.len);
    return SALA_OK;
}

uint64_t sala_shard_writer_tokens(const sala_shard_writer *w)
{
    return w->n_tokens;
}

static bool lay_out(const sala_shard_writer *w, sala_shard_layout *l)
{
    return sala_shard_lay_out(l, w->params.vocab, w->has_mask ? SALA_SHARD_HAS_MASK : 0, w->n_docs, w->n_tokens);
}

uint64_t sala_shard_writer_bytes(const sala_shard_writer *w)
{
    sala_shard_layout l;
    return lay_out(w, &l) ? l.file_bytes : 0;
}

static int write_mask(sala_shard_writer *w)
{
    int why = 0;
    for (size_t at = 0; at < w->mask.len && why == 0; at += SALA_SHARD_PAGE) {
        const size_t some = w->mask.len - at < SALA_SHARD_PAGE ? w->mask.len - at : SALA_SHARD_PAGE;
        const uint64_t sum = XXH3_64bits(w->mask.data + at, some);
        sala_buf_add(&w->sums, &sum, sizeof sum);
        why = sala_os_out_write(w->file, w->mask.data + at, some);
    }
    return why ? why : pad(w);
}

/* All that is left to write before the header. */
static int write_rest(sala_shard_writer *w)
{
    int why = end_page(w);
    if (why == 0)
        why = pad(w);
    if (why == 0 && w->has_mask)
        why = write_mask(w);
    if (why == 0)
        why = sala_os_out_write(w->file, w->index.data, w->index.len);
    if (why == 0)
        why = sala_os_out_write(w->file, w->sums.data, w->sums.len);
    return why;
}

sala_status sala_shard_writer_commit(sala_shard_writer *w, sala_shard_summary *summary, sala_error *err)
{
    sala_shard_layout l;
    sala_status status = SALA_OK;
    if (!lay_out(w, &l))
        status = sala_fail(err, SALA_E_LIMIT, "%s: %llu tokens are too many for one shard", w->path,
                           (unsigned long long)w->n_tokens);
    int why = status == SALA_OK ? write_rest(w) : 0;
    if (status == SALA_OK && why == 0 && w->sums.failed)
        status = sala_fail_memory(err, w->sums.len);
    uint8_t header[SALA_SHARD_HEADER_BYTES];
    if (status == SALA_OK && why == 0) {
        XXH3_state_t *hash = XXH3_createState();
        if (hash) {
            XXH3_64bits_reset(hash);
            XXH3_64bits_update(hash, w->index.data ? w->index.data : "", w->index.len);
            XXH3_64bits_update(hash, w->sums.data ? w->sums.data : "", w->sums.len);
            sala_shard_put_header(header, &l, w->params.vocab, w->params.tokenizer_id, XXH3_64bits_digest(hash));
            XXH3_freeState(hash);
            why = sala_os_out_write_at(w->file, 0, header, sizeof header);
        } else {
            status = sala_fail_memory(err, 576); /* about what a state of XXH3 takes */
        }
    }
    if (status == SALA_OK && why == 0) {
        why = sala_os_out_commit(w->file);
        w->file = NULL;
    }
    if (status == SALA_OK && why)
        status = write_failed(w, why, err);
    if (status == SALA_OK && summary) {
        *summary = (sala_shard_summary){.docs = w->n_docs, .tokens = w->n_tokens, .bytes = l.file_bytes};
        memcpy(&summary->header_sum, header + SALA_SHARD_SUMMED_BYTES, sizeof summary->header_sum);
    }
    sala_shard_writer_abort(w);
    return status;
}

void sala_shard_writer_abort(sala_shard_writer *w)
{
    if (!w)
        return;
    sala_os_out_abort(w->file);
    sala_buf_free(&w->index);
    sala_buf_free(&w->sums);
    sala_buf_free(&w->mask);
    free(w->path);
    free(w);
}
