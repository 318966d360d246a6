/* Best-fit decreasing over lengths: pieces come from long to short, each goes into the open bin with the least space
 * that holds it. Lengths are small whole numbers, so sorting is counting and the search is for the next bit in a set of
 * spaces that some bin has; among bins of equal space the oldest comes first. Pieces of a length keep the order of the
 * corpus, so the result is a function of the corpus alone.
 *
 * A piece's tokens predict the next ones of the same document. A document of k seq_len + 1 tokens leaves a rest of one
 * token, which the piece before it predicts already: it is dropped, and no target is lost. */
#include "data/bins_file.h"

#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

enum { MIN_SEQ_LEN = 2, MAX_SEQ_LEN = 1 << 28 };

struct sala_bins {
    const sala_piece *pieces;
    const uint64_t *first; /* [n_bins + 1] */
    uint64_t n_pieces, n_bins, n_tokens, dropped;
    int64_t seq_len;
    sala_packing packing;
    sala_piece *own_pieces; /* NULL when they lie in a file */
    uint64_t *own_first;
    sala_map map;
};

_Static_assert(sizeof(sala_piece) == 24, "pieces lie in files as they lie in memory");

/* ---- order ---- */

/* The finaliser of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

uint64_t sala_permute(uint64_t seed, uint64_t epoch, uint64_t x, uint64_t n)
{
    enum { ROUNDS = 4 };
    int half = 1; /* bits; 2 half hold every number below n */
    while (half < 32 && (n - 1) >> (2 * half))
        half++;
    const uint64_t low = ((uint64_t)1 << half) - 1, key = mix(seed ^ mix(epoch));
    if (n < 2)
        return 0;
    do {
        uint64_t left = x >> half, right = x & low;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            const uint64_t next = left ^ (mix(right ^ mix(key + round)) & low);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}

/* ---- building ---- */

static sala_status too_many(const sala_corpus *c, sala_error *err)
{
    return sala_fail(err, SALA_E_LIMIT,
                     "%s: more than %u pieces of documents; use a longer sequence or fewer documents", c->dir,
                     UINT32_MAX - 1);
}

/* Takes counts of tokens from documents, in the order of the corpus. */
typedef struct cursor {
    const sala_corpus *corpus;
    int shard;
    uint64_t doc;
} cursor;

static bool next_doc(cursor *at, uint32_t *shard, sala_shard_doc *doc)
{
    while (at->shard < at->corpus->n_shards && at->doc == sala_shard_docs(at->corpus->shards[at->shard])) {
        at->shard++;
        at->doc = 0;
    }
    if (at->shard == at->corpus->n_shards)
        return false;
    *shard = (uint32_t)at->shard;
    *doc = sala_shard_doc_at(at->corpus->shards[at->shard], at->doc++);
    return true;
}

/* Pieces by falling length, those of a length in the order of the corpus; *out is owned by the caller. */
static sala_status sorted_pieces(sala_piece **out, uint64_t *n_pieces, uint64_t *n_tokens, const sala_corpus *c,
                                 int64_t seq_len, sala_error *err)
{
    const uint64_t len = (uint64_t)seq_len;
    uint64_t *at = calloc(len + 2, sizeof *at); /* pieces of length l, then where they begin */
    if (!at)
        return sala_fail_memory(err, (len + 2) * sizeof *at);
    cursor walk = {.corpus = c};
    uint32_t shard;
    sala_shard_doc doc;
    while (next_doc(&walk, &shard, &doc)) {
        at[len] += doc.count / len;
        if (doc.count % len >= 2)
            at[doc.count % len]++;
    }
    uint64_t n = 0, tokens = 0;
    for (uint64_t l = len; l >= 2; l--) {
        const uint64_t some = at[l];
        at[l] = n;
        n += some;
        tokens += some * l;
    }
    sala_piece *pieces = n < UINT32_MAX ? malloc((size_t)n * sizeof *pieces + 1) : NULL;
    if (!pieces) {
        free(at);
        return n < UINT32_MAX ? sala_fail_memory(err, n * sizeof *pieces) : too_many(c, err);
    }
    walk = (cursor){.corpus = c};
    while (next_doc(&walk, &shard, &doc))
        for (uint64_t start = 0; start < doc.count; start += len) {
            const uint64_t left = doc.count - start, count = left < len ? left : len;
            if (count >= 2)
                pieces[at[count]++] = (sala_piece){shard, (uint32_t)count, doc.at + start, start};
        }
    free(at);
    *out = pieces;
    *n_pieces = n;
    *n_tokens = tokens;
    return SALA_OK;
}

/* Open bins by the space that is left in them: a queue for each space, and a set of the spaces whose queue is not
 * empty. A second level of the set, a bit for each of its words, makes the search short whatever seq_len is. */
typedef struct open_bins {
    uint64_t *set, *words; /* set: bit s; words: bit w when set[w] is not zero */
    uint32_t *head, *tail; /* by space; NONE when the queue is empty */
    uint32_t *next;        /* by bin */
    uint64_t n_set, n_words;
} open_bins;

static const uint32_t NONE = UINT32_MAX;

static void open_bins_free(open_bins *o)
{
    free(o->set);
    free(o->words);
    free(o->head);
    free(o->tail);
    free(o->next);
}

static bool open_bins_init(open_bins *o, uint64_t seq_len, uint64_t most_bins)
{
    o->n_set = seq_len / 64 + 1;
    o->n_words = o->n_set / 64 + 1;
    o->set = calloc(o->n_set, sizeof *o->set);
    o->words = calloc(o->n_words, sizeof *o->words);
    o->head = malloc((seq_len + 1) * sizeof *o->head);
    o->tail = malloc((seq_len + 1) * sizeof *o->tail);
    o->next = malloc(most_bins * sizeof *o->next + 1);
    if (!o->set || !o->words || !o->head || !o->tail || !o->next)
        return false;
    for (uint64_t s = 0; s <= seq_len; s++)
        o->head[s] = o->tail[s] = NONE;
    return true;
}

static void push(open_bins *o, uint64_t space, uint32_t bin)
{
    o->next[bin] = NONE;
    if (o->head[space] == NONE)
        o->head[space] = bin;
    else
        o->next[o->tail[space]] = bin;
    o->tail[space] = bin;
    o->set[space / 64] |= (uint64_t)1 << space % 64;
    o->words[space / 4096] |= (uint64_t)1 << space / 64 % 64;
}

/* The first set bit from `from` on, or n_bits. */
static uint64_t next_bit(const uint64_t *bits, uint64_t n_words, uint64_t from)
{
    for (uint64_t w = from / 64; w < n_words; w++) {
        uint64_t word = bits[w];
        if (w == from / 64)
            word &= ~(uint64_t)0 << from % 64;
        if (word)
            return w * 64 + (uint64_t)__builtin_ctzll(word);
    }
    return n_words * 64;
}

/* Takes the oldest bin with the least space of at least `count`; NONE when there is none. */
static uint32_t pop(open_bins *o, uint64_t count, uint64_t *space)
{
    uint64_t word = count / 64;
    uint64_t s = next_bit(o->set, word + 1 < o->n_set ? word + 1 : o->n_set, count);
    if (s >= (word + 1) * 64 || s >= o->n_set * 64) {
        word = next_bit(o->words, o->n_words, word + 1);
        if (word >= o->n_set)
            return NONE;
        s = word * 64 + (uint64_t)__builtin_ctzll(o->set[word]);
    }
    const uint32_t bin = o->head[s];
    o->head[s] = o->next[bin];
    if (o->head[s] == NONE) {
        o->set[s / 64] &= ~((uint64_t)1 << s % 64);
        if (o->set[s / 64] == 0)
            o->words[s / 4096] &= ~((uint64_t)1 << s / 64 % 64);
    }
    *space = s;
    return bin;
}

/* bin_of[i]: the bin of sorted piece i. Returns the number of bins. */
static uint64_t fit(open_bins *o, const sala_piece *pieces, uint64_t n, uint64_t seq_len, uint32_t *bin_of)
{
    uint64_t n_bins = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t space = seq_len;
        uint32_t bin = pieces[i].count == seq_len ? NONE : pop(o, pieces[i].count, &space);
        if (bin == NONE) {
            bin = (uint32_t)n_bins++;
            space = seq_len;
        }
        bin_of[i] = bin;
        if (space - pieces[i].count >= 2)
            push(o, space - pieces[i].count, bin);
    }
    return n_bins;
}

/* Sorted pieces to bins, one behind the other. */
static bool gather(sala_bins *b, const sala_piece *pieces, const uint32_t *bin_of)
{
    b->own_pieces = malloc((size_t)b->n_pieces * sizeof *b->own_pieces + 1);
    b->own_first = calloc((size_t)b->n_bins + 2, sizeof *b->own_first);
    if (!b->own_pieces || !b->own_first)
        return false;
    uint64_t *at = b->own_first + 1; /* where the next piece of a bin goes; in the end, where the bin ends */
    for (uint64_t i = 0; i < b->n_pieces; i++)
        at[bin_of[i] + 1]++;
    for (uint64_t i = 0; i < b->n_bins; i++)
        at[i + 1] += at[i];
    for (uint64_t i = 0; i < b->n_pieces; i++)
        b->own_pieces[at[bin_of[i]]++] = pieces[i];
    return true;
}

static sala_status pack_best_fit(sala_bins *b, const sala_corpus *c, sala_error *err)
{
    sala_piece *pieces = NULL;
    open_bins open = {0};
    sala_status status = sorted_pieces(&pieces, &b->n_pieces, &b->n_tokens, c, b->seq_len, err);
    if (status != SALA_OK)
        return status;
    uint32_t *bin_of = malloc((size_t)b->n_pieces * sizeof *bin_of + 1);
    bool ok = bin_of && open_bins_init(&open, (uint64_t)b->seq_len, b->n_pieces);
    if (ok) {
        b->n_bins = fit(&open, pieces, b->n_pieces, (uint64_t)b->seq_len, bin_of);
        ok = gather(b, pieces, bin_of);
    }
    if (!ok)
        status = sala_fail_memory(err, 2 * b->n_pieces * sizeof *pieces);
    open_bins_free(&open);
    free(bin_of);
    free(pieces);
    if (status == SALA_OK && b->n_bins == 0)
        status = sala_fail(err, SALA_E_INVALID, "%s: no document has two tokens, of which one could predict the other",
                           c->dir);
    return status;
}

/* Document number `doc` of the whole corpus. first[s]: documents before shard s. */
static sala_shard_doc doc_number(const sala_corpus *c, const uint64_t *first, uint64_t doc, uint32_t *shard)
{
    int low = 0, high = c->n_shards;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (first[middle] <= doc)
            low = middle;
        else
            high = middle;
    }
    *shard = (uint32_t)low;
    return sala_shard_doc_at(c->shards[low], doc - first[low]);
}

/* One pass over the stream: counts pieces, or writes them when there is room. */
static uint64_t cut_stream(sala_bins *b, const sala_corpus *c, const uint64_t *first)
{
    const uint64_t len = (uint64_t)b->seq_len;
    uint64_t n = 0, bin = 0, used = 0; /* tokens of the bin that is open */
    for (uint64_t d = 0; d < c->n_docs && bin < b->n_bins; d++) {
        uint32_t shard;
        const sala_shard_doc doc = doc_number(c, first, sala_permute(0, 0, d, c->n_docs), &shard);
        uint64_t start = 0;
        while (start < doc.count && bin < b->n_bins) {
            const uint64_t left = doc.count - start, room = len + 1 - used, count = left < room ? left : room;
            if (b->own_pieces)
                b->own_pieces[n] = (sala_piece){shard, (uint32_t)count, doc.at + start, start};
            if (b->own_first && used == 0)
                b->own_first[bin] = n;
            n++;
            used += count;
            start += count;
            if (used == len + 1) {
                bin++;
                used = 0;
                start--; /* the last token of a bin is also the first of the next one */
            }
        }
    }
    return n;
}

static sala_status pack_stream(sala_bins *b, const sala_corpus *c, sala_error *err)
{
    b->n_bins = c->n_tokens ? (c->n_tokens - 1) / (uint64_t)b->seq_len : 0;
    if (b->n_bins == 0)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: the corpus has %" PRIu64 " tokens; one sequence takes %" PRId64
                         " (use a shorter sequence, or packing best-fit)",
                         c->dir, c->n_tokens, b->seq_len + 1);
    uint64_t *first = calloc((size_t)c->n_shards + 1, sizeof *first);
    if (!first)
        return sala_fail_memory(err, (uint64_t)c->n_shards * sizeof *first);
    for (int s = 0; s < c->n_shards; s++)
        first[s + 1] = first[s] + sala_shard_docs(c->shards[s]);
    b->n_pieces = cut_stream(b, c, first);
    b->n_tokens = b->n_bins * (uint64_t)b->seq_len;
    sala_status status = SALA_OK;
    b->own_first = calloc((size_t)b->n_bins + 2, sizeof *b->own_first);
    b->own_pieces = malloc((size_t)b->n_pieces * sizeof *b->own_pieces + 1);
    if (b->own_first && b->own_pieces) {
        cut_stream(b, c, first);
        b->own_first[b->n_bins] = b->n_pieces;
    } else {
        status = sala_fail_memory(err, b->n_pieces * sizeof *b->own_pieces);
    }
    free(first);
    return status;
}

/* ---- cache ---- */

uint64_t sala_bins_key(const sala_corpus *c, int64_t seq_len, sala_packing packing)
{
    const uint64_t facts[] = {SALA_BINS_VERSION, c->manifest_sum, (uint64_t)seq_len, (uint64_t)packing};
    return XXH3_64bits(facts, sizeof facts);
}

static uint64_t body_sum(const void *pieces, uint64_t n_pieces, const void *first, uint64_t n_bins)
{
    const uint64_t sums[] = {XXH3_64bits(pieces, (size_t)(n_pieces * sizeof(sala_piece))),
                             XXH3_64bits(first, (size_t)((n_bins + 1) * sizeof(uint64_t)))};
    return XXH3_64bits(sums, sizeof sums);
}

static void keep(const sala_bins *b, uint64_t key, const char *path)
{
    uint8_t header[SALA_BINS_HEADER_BYTES];
    const uint32_t kind[] = {SALA_BINS_VERSION, (uint32_t)b->packing};
    const uint64_t facts[] = {b->n_pieces, b->n_bins, b->n_tokens, key,
                              body_sum(b->pieces, b->n_pieces, b->first, b->n_bins)};
    memcpy(header, SALA_BINS_MAGIC, 8);
    memcpy(header + 8, kind, sizeof kind);
    memcpy(header + 16, facts, sizeof facts);
    const uint64_t sum = XXH3_64bits(header, SALA_BINS_SUMMED_BYTES);
    memcpy(header + SALA_BINS_SUMMED_BYTES, &sum, sizeof sum);
    sala_out_file *f = NULL;
    if (sala_os_out_open(&f, path) != 0)
        return;
    sala_os_out_write(f, header, sizeof header);
    sala_os_out_write(f, b->pieces, (size_t)b->n_pieces * sizeof *b->pieces);
    sala_os_out_write(f, b->first, (size_t)(b->n_bins + 1) * sizeof *b->first);
    sala_os_out_commit(f);
}

static sala_status bad_cache(sala_error *err, const char *what)
{
    return sala_fail(err, SALA_E_CORRUPT, "packing: %s", what);
}

/* That every piece is a part of one document of the corpus, and every bin as full as bins are. */
static sala_status check_pieces(const sala_bins *b, const sala_corpus *c, sala_error *err)
{
    const uint64_t most = (uint64_t)b->seq_len + (b->packing == SALA_PACK_STREAM);
    uint64_t tokens = 0;
    if (b->first[0] != 0 || b->first[b->n_bins] != b->n_pieces)
        return bad_cache(err, "the bins do not hold all pieces");
    for (uint64_t i = 0; i < b->n_bins; i++) {
        uint64_t used = 0;
        if (b->first[i] >= b->first[i + 1] || b->first[i + 1] > b->n_pieces)
            return bad_cache(err, "bins are not in order");
        for (uint64_t k = b->first[i]; k < b->first[i + 1]; k++) {
            const sala_piece *p = &b->pieces[k];
            if (p->shard >= (uint32_t)c->n_shards || p->count == 0 || p->count > most - used)
                return bad_cache(err, "a piece does not fit");
            const sala_shard *s = c->shards[p->shard];
            const uint64_t n = sala_shard_tokens(s);
            if (p->at >= n || p->count > n - p->at)
                return bad_cache(err, "a piece lies outside its shard");
            const sala_shard_doc d = sala_shard_doc_at(s, sala_shard_doc_of(s, p->at));
            if (p->start != p->at - d.at || p->count > d.at + d.count - p->at)
                return bad_cache(err, "a piece is not of one document");
            used += p->count;
        }
        if (b->packing == SALA_PACK_STREAM && used != most)
            return bad_cache(err, "a bin is not full");
        tokens += b->packing == SALA_PACK_STREAM ? used - 1 : used;
    }
    return tokens == b->n_tokens ? SALA_OK : bad_cache(err, "the number of tokens is another one");
}

static sala_status parse(sala_bins *b, const sala_corpus *c, const uint8_t *data, size_t bytes, sala_error *err)
{
    if (bytes < SALA_BINS_HEADER_BYTES || memcmp(data, SALA_BINS_MAGIC, 8) != 0)
        return bad_cache(err, "no such file");
    sala_reader r = sala_reader_of(data + 8, SALA_BINS_HEADER_BYTES - 8);
    const uint32_t version = sala_read_u32(&r), packing = sala_read_u32(&r);
    b->n_pieces = sala_read_u64(&r);
    b->n_bins = sala_read_u64(&r);
    b->n_tokens = sala_read_u64(&r);
    const uint64_t key = sala_read_u64(&r), body = sala_read_u64(&r), sum = sala_read_u64(&r);
    if (sum != XXH3_64bits(data, SALA_BINS_SUMMED_BYTES))
        return bad_cache(err, "the checksum of its header is another one");
    if (version != SALA_BINS_VERSION || packing != (uint32_t)b->packing ||
        key != sala_bins_key(c, b->seq_len, b->packing))
        return bad_cache(err, "of another corpus or sequence length");
    const uint64_t room = bytes - SALA_BINS_HEADER_BYTES;
    if (b->n_pieces == 0 || b->n_bins == 0 || b->n_bins > b->n_pieces || b->n_pieces > room / sizeof(sala_piece) ||
        b->n_bins >= room / sizeof(uint64_t) ||
        b->n_pieces * sizeof(sala_piece) + (b->n_bins + 1) * sizeof(uint64_t) != room)
        return bad_cache(err, "it has another length than its header says");
    const uint8_t *pieces = data + SALA_BINS_HEADER_BYTES, *first = pieces + b->n_pieces * sizeof(sala_piece);
    if (body != body_sum(pieces, b->n_pieces, first, b->n_bins))
        return bad_cache(err, "the checksum of its pieces is another one");
    b->pieces = (const sala_piece *)(const void *)pieces;
    b->first = (const uint64_t *)(const void *)first;
    return check_pieces(b, c, err);
}

/* ---- opening ---- */

static sala_status begin(sala_bins **out, const sala_corpus *c, int64_t seq_len, sala_packing packing, sala_error *err)
{
    if (seq_len < MIN_SEQ_LEN || seq_len > MAX_SEQ_LEN)
        return sala_fail(err, SALA_E_INVALID, "%s: sequences of %" PRId64 " tokens; from %d to %d are possible", c->dir,
                         seq_len, MIN_SEQ_LEN, MAX_SEQ_LEN);
    sala_bins *b = calloc(1, sizeof *b);
    if (!b)
        return sala_fail_memory(err, sizeof *b);
    b->seq_len = seq_len;
    b->packing = packing;
    *out = b;
    return SALA_OK;
}

static void reset(sala_bins *b)
{
    sala_os_unmap(&b->map);
    free(b->own_pieces);
    free(b->own_first);
    *b = (sala_bins){.seq_len = b->seq_len, .packing = b->packing};
}

/* NULL when there is no cache, or memory is out. */
static char *cache_path(const char *dir, uint64_t key)
{
    char name[40];
    if (!dir || sala_os_make_dirs(dir) != 0)
        return NULL;
    snprintf(name, sizeof name, "bins-%016" PRIx64 ".sbi", key);
    return sala_path_join(dir, name);
}

static bool open_cache(sala_bins *b, const sala_corpus *c, const char *path)
{
    if (!path || sala_os_map(&b->map, path) != 0)
        return false;
    if (b->map.data && parse(b, c, b->map.data, b->map.bytes, NULL) == SALA_OK)
        return true;
    reset(b);
    return false;
}

sala_status sala_bins_open(sala_bins **out, const sala_corpus *c, int64_t seq_len, sala_packing packing,
                           const char *cache_dir, sala_error *err)
{
    sala_bins *b = NULL;
    sala_status status = begin(&b, c, seq_len, packing, err);
    if (status != SALA_OK)
        return status;
    const uint64_t key = sala_bins_key(c, seq_len, packing);
    char *path = cache_path(cache_dir, key);
    if (!open_cache(b, c, path)) {
        status = packing == SALA_PACK_STREAM ? pack_stream(b, c, err) : pack_best_fit(b, c, err);
        b->pieces = b->own_pieces;
        b->first = b->own_first;
        if (status == SALA_OK && path)
            keep(b, key, path);
    }
    free(path);
    if (status != SALA_OK) {
        sala_bins_close(b);
        return status;
    }
    b->dropped = c->n_tokens - b->n_tokens;
    *out = b;
    return SALA_OK;
}

sala_status sala_bins_parse(sala_bins **out, const sala_corpus *c, int64_t seq_len, sala_packing packing,
                            const void *data, size_t bytes, sala_error *err)
{
    sala_bins *b = NULL;
    sala_status status = begin(&b, c, seq_len, packing, err);
    if (status != SALA_OK)
        return status;
    if ((uintptr_t)data % sizeof(uint64_t) != 0)
        status = bad_cache(err, "its bytes are not aligned");
    else
        status = parse(b, c, data, bytes, err);
    if (status != SALA_OK) {
        sala_bins_close(b);
        return status;
    }
    b->dropped = c->n_tokens > b->n_tokens ? c->n_tokens - b->n_tokens : 0;
    *out = b;
    return SALA_OK;
}

void sala_bins_close(sala_bins *b)
{
    if (!b)
        return;
    reset(b);
    free(b);
}

uint64_t sala_bins_count(const sala_bins *b)
{
    return b->n_bins;
}

int64_t sala_bins_seq_len(const sala_bins *b)
{
    return b->seq_len;
}

sala_packing sala_bins_packing(const sala_bins *b)
{
    return b->packing;
}

double sala_bins_fill(const sala_bins *b)
{
    return (double)b->n_tokens / ((double)b->n_bins * (double)b->seq_len);
}

uint64_t sala_bins_dropped(const sala_bins *b)
{
    return b->dropped;
}

const sala_piece *sala_bins_get(const sala_bins *b, uint64_t bin, int *n_pieces)
{
    *n_pieces = (int)(b->first[bin + 1] - b->first[bin]);
    return b->pieces + b->first[bin];
}
