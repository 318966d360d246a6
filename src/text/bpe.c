/* Byte-pair encoding of one word: always the adjacent pair of the lowest rank, the leftmost of equals. Short words by
 * scanning, long ones with a heap, so that no text takes quadratic time; words that were seen before in the same call
 * come from a cache. Texts without a pre-tokenizer are first cut where no merge can reach across. */
#include "text/tokenizer_impl.h"

#define N_PAGES 0x1100
#define SHORT_WORD 40 /* symbols; below it scanning beats the heap */

static inline uint64_t mix(uint64_t key)
{
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 32;
}

static inline uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static inline const sala_pair *find_pair(const sala_bpe *b, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return NULL;
    const uint64_t key = pair_key(left, right);
    for (uint64_t i = mix(key) & b->pair_mask;; i = (i + 1) & b->pair_mask) {
        if (b->pairs[i].key == key)
            return &b->pairs[i];
        if (b->pairs[i].key == UINT64_MAX)
            return NULL;
    }
}

static inline int32_t char_symbol(const sala_bpe *b, uint32_t cp)
{
    const int32_t *page = cp < 0x110000 ? b->pages[cp >> 8] : NULL;
    return page != NULL ? page[cp & 0xFF] : -1;
}

/* ---- building ---- */

bool sala_bpe_init(sala_bpe *b, uint64_t expected_pairs)
{
    uint64_t size = 64;
    while (size < expected_pairs * 2)
        size *= 2;
    b->pairs = malloc(size * sizeof *b->pairs);
    b->pages = calloc(N_PAGES, sizeof *b->pages);
    if (b->pairs == NULL || b->pages == NULL)
        return false;
    memset(b->pairs, 0xFF, size * sizeof *b->pairs);
    b->pair_mask = size - 1;
    return true;
}

void sala_bpe_free(sala_bpe *b)
{
    for (int i = 0; b->pages != NULL && i < N_PAGES; i++)
        free(b->pages[i]);
    free(b->pages);
    free(b->pairs);
    free(b->joins);
    *b = (sala_bpe){0};
}

static bool grow_pairs(sala_bpe *b)
{
    const uint64_t size = (b->pair_mask + 1) * 2;
    sala_pair *pairs = malloc(size * sizeof *pairs);
    if (pairs == NULL)
        return false;
    memset(pairs, 0xFF, size * sizeof *pairs);
    for (uint64_t k = 0; k <= b->pair_mask; k++) {
        if (b->pairs[k].key == UINT64_MAX)
            continue;
        uint64_t i = mix(b->pairs[k].key) & (size - 1);
        while (pairs[i].key != UINT64_MAX)
            i = (i + 1) & (size - 1);
        pairs[i] = b->pairs[k];
    }
    free(b->pairs);
    b->pairs = pairs;
    b->pair_mask = size - 1;
    return true;
}

bool sala_bpe_add_merge(sala_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id, bool overwrite)
{
    if (b->n_pairs * 2 > b->pair_mask && !grow_pairs(b))
        return false;
    const uint64_t key = pair_key(left, right);
    uint64_t i = mix(key) & b->pair_mask;
    while (b->pairs[i].key != UINT64_MAX && b->pairs[i].key != key)
        i = (i + 1) & b->pair_mask;
    if (b->pairs[i].key == key && !overwrite)
        return true;
    b->n_pairs += b->pairs[i].key != key;
    b->pairs[i] = (sala_pair){key, rank, id};
    return true;
}

static bool set_char(sala_bpe *b, uint32_t cp, int32_t symbol)
{
    int32_t **page = &b->pages[cp >> 8];
    if (*page == NULL) {
        *page = malloc(256 * sizeof **page);
        if (*page == NULL)
            return false;
        memset(*page, 0xFF, 256 * sizeof **page);
    }
    (*page)[cp & 0xFF] = symbol;
    return true;
}

sala_status sala_bpe_set_symbols(sala_tokenizer *t, sala_error *err)
{
    sala_bpe *b = &t->bpe;
    const sala_vocab *v = &t->vocab;
    b->n_symbols = v->count;
    if (b->byte_level) {
        for (int i = 0; i < 256; i++)
            b->byte_id[i] = -1;
    } else {
        b->all_bytes = sala_vocab_byte_ids(v, b->byte_id);
    }
    for (int32_t id = 0; id < v->count; id++) {
        const sala_piece *p = &v->items[id];
        if (!p->in_model || p->len == 0)
            continue;
        b->longest_piece = p->len > b->longest_piece ? p->len : b->longest_piece;
        if (b->by_score && p->type != SALA_PIECE_NORMAL && p->type != SALA_PIECE_UNUSED)
            continue;
        uint32_t cp;
        const char *s = sala_vocab_text(v, id);
        const int len = p->len <= 4 ? sala_utf8_decode(s, p->len, &cp) : 0;
        if (len == 0 || (uint32_t)len != p->len)
            continue;
        if (b->byte_level && sala_char_to_byte(cp) >= 0)
            b->byte_id[sala_char_to_byte(cp)] = id;
        else if (!b->byte_level && !set_char(b, cp, id))
            return sala_fail_memory(err, 1024);
    }
    return SALA_OK;
}

/* The symbol of a part of a piece: a piece, or a character that gets a symbol of its own; -1: no pair can begin or end
 * so. */
static int32_t part_symbol(sala_tokenizer *t, const char *s, size_t n, bool *no_memory)
{
    const int32_t id = sala_vocab_find(&t->vocab, s, n);
    if (id >= 0) {
        const int type = t->vocab.items[id].type;
        return type == SALA_PIECE_NORMAL || type == SALA_PIECE_UNUSED ? id : -1;
    }
    uint32_t cp;
    const int len = n <= 4 ? sala_utf8_decode(s, n, &cp) : 0;
    if (len == 0 || (size_t)len != n)
        return -1;
    int32_t symbol = char_symbol(&t->bpe, cp);
    if (symbol < 0) {
        symbol = t->bpe.n_symbols++;
        if (!set_char(&t->bpe, cp, symbol))
            *no_memory = true;
    }
    return symbol;
}

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_falling_score(const void *pa, const void *pb)
{
    const scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

sala_status sala_bpe_merges_from_scores(sala_tokenizer *t, sala_error *err)
{
    const sala_vocab *v = &t->vocab;
    scored *order = malloc(((size_t)v->count + 1) * sizeof *order);
    if (order == NULL)
        return sala_fail_memory(err, (uint64_t)v->count * sizeof *order);
    size_t n = 0;
    sala_status st = SALA_OK;
    for (int32_t id = 0; id < v->count && st == SALA_OK; id++) {
        const sala_piece *p = &v->items[id];
        if (p->type != SALA_PIECE_NORMAL && p->type != SALA_PIECE_UNUSED)
            continue;
        if (p->score != p->score)
            st = sala_fail(err, SALA_E_CORRUPT, "the score of token %d is not a number", id);
        order[n++] = (scored){p->score, id};
    }
    qsort(order, n, sizeof *order, by_falling_score);
    uint32_t rank = 0;
    bool no_memory = false;
    for (size_t k = 0; k < n && st == SALA_OK; k++) {
        rank += k > 0 && order[k].score != order[k - 1].score;
        const int32_t id = order[k].id;
        const char *s = sala_vocab_text(v, id);
        const size_t len = v->items[id].len;
        if (!sala_utf8_is_valid(s, len))
            continue;
        if (len > SALA_TOK_MAX_PIECE) {
            st = sala_fail(err, SALA_E_LIMIT, "token %d has %zu bytes, more than %d", id, len, SALA_TOK_MAX_PIECE);
            break;
        }
        for (size_t cut = sala_utf8_len(s[0]); cut < len && !no_memory; cut += sala_utf8_len(s[cut])) {
            const int32_t left = part_symbol(t, s, cut, &no_memory);
            const int32_t right = left < 0 ? -1 : part_symbol(t, s + cut, len - cut, &no_memory);
            if (right >= 0 && !sala_bpe_add_merge(&t->bpe, left, right, rank, id, false))
                no_memory = true;
        }
        if (no_memory)
            st = sala_fail_memory(err, t->bpe.n_pairs * sizeof(sala_pair));
    }
    free(order);
    return st;
}

/* ---- where text can be cut ---- */

static bool joins(const sala_bpe *b, uint32_t left, uint32_t right)
{
    if ((left | right) < 0x80)
        return b->ascii_joins[left][right >> 6] >> (right & 63) & 1;
    const uint64_t key = (uint64_t)left << 32 | right;
    for (uint64_t i = mix(key) & b->join_mask;; i = (i + 1) & b->join_mask) {
        if (b->joins[i] == key)
            return true;
        if (b->joins[i] == UINT64_MAX)
            return false;
    }
}

static bool add_join(sala_bpe *b, uint32_t left, uint32_t right)
{
    if ((left | right) < 0x80) {
        b->ascii_joins[left][right >> 6] |= (uint64_t)1 << (right & 63);
        return true;
    }
    if (b->joins == NULL || b->n_joins * 2 > b->join_mask) {
        const uint64_t size = b->joins == NULL ? 1024 : (b->join_mask + 1) * 2;
        uint64_t *grown = malloc(size * sizeof *grown);
        if (grown == NULL)
            return false;
        memset(grown, 0xFF, size * sizeof *grown);
        for (uint64_t k = 0; b->joins != NULL && k <= b->join_mask; k++) {
            if (b->joins[k] == UINT64_MAX)
                continue;
            uint64_t i = mix(b->joins[k]) & (size - 1);
            while (grown[i] != UINT64_MAX)
                i = (i + 1) & (size - 1);
            grown[i] = b->joins[k];
        }
        free(b->joins);
        b->joins = grown;
        b->join_mask = size - 1;
    }
    const uint64_t key = (uint64_t)left << 32 | right;
    uint64_t i = mix(key) & b->join_mask;
    while (b->joins[i] != UINT64_MAX && b->joins[i] != key)
        i = (i + 1) & b->join_mask;
    b->n_joins += b->joins[i] != key;
    b->joins[i] = key;
    return true;
}

/* All neighbouring characters inside of what merges make. A merge joins the last character of its left part with the
 * first of its right part, and both are neighbours in the result. */
static bool collect_joins(sala_tokenizer *t)
{
    sala_bpe *b = &t->bpe;
    const sala_vocab *v = &t->vocab;
    /* An entry that is never asked for, so that joins() always has a table to look into. */
    if (!add_join(b, 0x10FFFF, 0x10FFFF))
        return false;
    for (uint64_t k = 0; k <= b->pair_mask; k++) {
        if (b->pairs[k].key == UINT64_MAX)
            continue;
        const char *s = sala_vocab_text(v, b->pairs[k].id);
        const size_t n = v->items[b->pairs[k].id].len;
        if (n == 0 || !sala_utf8_is_valid(s, n))
            continue;
        size_t i = 0;
        uint32_t left = sala_utf8_next(s, &i);
        while (i < n) {
            const uint32_t right = sala_utf8_next(s, &i);
            if (!add_join(b, left, right))
                return false;
            left = right;
        }
    }
    return true;
}

bool sala_bpe_finish(sala_tokenizer *t)
{
    sala_bpe *b = &t->bpe;
    /* Cutting is exact only where a character's symbol does not depend on its neighbours: not with unknown characters
     * fused or dropped, nor with merges of pieces that do not spell what they stand for. */
    b->cuts = !b->byte_level && (b->by_score || (b->byte_fallback && b->all_bytes) || (t->unk >= 0 && !b->fuse_unk));
    for (uint64_t k = 0; b->cuts && !b->by_score && k <= b->pair_mask; k++) {
        if (b->pairs[k].key == UINT64_MAX)
            continue;
        const int32_t parts[2] = {(int32_t)(b->pairs[k].key >> 32), (int32_t)(uint32_t)b->pairs[k].key};
        for (int i = 0; i < 2; i++) {
            const int byte = sala_byte_piece_value(sala_vocab_text(&t->vocab, parts[i]), t->vocab.items[parts[i]].len);
            if (parts[i] == t->unk || (b->byte_fallback && byte >= 0))
                b->cuts = false;
        }
    }
    return !b->cuts || collect_joins(t);
}

/* ---- one word ---- */

static bool reserve_symbols(sala_encoder *e, size_t n)
{
    if (n <= e->symbols_cap)
        return true;
    size_t cap = e->symbols_cap < 256 ? 256 : e->symbols_cap;
    while (cap < n)
        cap *= 2;
    sala_symbol *s = realloc(e->symbols, cap * sizeof *s);
    if (s == NULL)
        return sala_encoder_no_memory(e);
    e->symbols = s;
    e->symbols_cap = cap;
    return true;
}

static inline void rank_pair(const sala_bpe *b, sala_symbol *left, const sala_symbol *right)
{
    const sala_pair *p = find_pair(b, left->id, right->id);
    left->rank = p != NULL ? p->rank : SALA_NO_RANK;
    left->merged = p != NULL ? p->id : -1;
}

/* Characters or bytes of s as e->symbols[0..*count). */
static bool make_symbols(sala_encoder *e, const char *s, size_t n, size_t *count)
{
    const sala_tokenizer *t = e->t;
    const sala_bpe *b = &t->bpe;
    if (!reserve_symbols(e, n))
        return false;
    sala_symbol *y = e->symbols;
    size_t m = 0;
    if (b->byte_level) {
        for (size_t i = 0; i < n; i++) {
            const int32_t id = b->byte_id[(uint8_t)s[i]];
            if (id >= 0)
                y[m++] = (sala_symbol){.id = id, .start = (uint32_t)i};
            else if (t->unk >= 0)
                y[m++] = (sala_symbol){.id = t->unk, .start = (uint32_t)i};
        }
        *count = m;
        return true;
    }
    /* Hugging Face keeps one unknown back until a known character comes, whatever bytes it writes in between. */
    bool unknown = false;
    for (size_t i = 0; i < n;) {
        const size_t at = i;
        const int32_t id = char_symbol(b, sala_utf8_next(s, &i));
        if (id >= 0 || b->by_score) {
            if (unknown)
                y[m++] = (sala_symbol){.id = t->unk, .start = (uint32_t)at};
            unknown = false;
            y[m++] = (sala_symbol){.id = id, .start = (uint32_t)at};
            continue;
        }
        bool bytes = b->byte_fallback;
        for (size_t k = at; k < i && bytes; k++)
            bytes = b->byte_id[(uint8_t)s[k]] >= 0;
        if (bytes) {
            for (size_t k = at; k < i; k++)
                y[m++] = (sala_symbol){.id = b->byte_id[(uint8_t)s[k]], .start = (uint32_t)k};
        } else if (t->unk >= 0) {
            if (unknown && !b->fuse_unk)
                y[m++] = (sala_symbol){.id = t->unk, .start = (uint32_t)at};
            unknown = true;
        }
    }
    if (unknown)
        y[m++] = (sala_symbol){.id = t->unk, .start = (uint32_t)n};
    *count = m;
    return true;
}

/* Merges until at most `until` symbols are left; returns how many there are. */
static size_t merge_short(const sala_bpe *b, sala_symbol *y, size_t m, size_t until)
{
    for (size_t i = 0; i + 1 < m; i++)
        rank_pair(b, &y[i], &y[i + 1]);
    while (m > until) {
        size_t best = 0;
        uint32_t rank = SALA_NO_RANK;
        for (size_t i = 0; i + 1 < m; i++) {
            if (y[i].rank < rank) {
                rank = y[i].rank;
                best = i;
            }
        }
        if (rank == SALA_NO_RANK)
            break;
        y[best].id = y[best].merged;
        m--;
        memmove(&y[best + 1], &y[best + 2], (m - best - 1) * sizeof *y);
        if (best + 1 < m)
            rank_pair(b, &y[best], &y[best + 1]);
        if (best > 0)
            rank_pair(b, &y[best - 1], &y[best]);
    }
    return m;
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    const uint64_t v = heap[i];
    for (;;) {
        const size_t first = 4 * i + 1;
        if (first >= n)
            break;
        size_t least = first;
        for (size_t k = first + 1; k < first + 4 && k < n; k++)
            if (heap[k] < heap[least])
                least = k;
        if (heap[least] >= v)
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = v;
}

static bool heap_push(sala_encoder *e, uint64_t v)
{
    if (e->heap_len == e->heap_cap) {
        const size_t cap = e->heap_cap < 256 ? 256 : e->heap_cap * 2;
        uint64_t *h = realloc(e->heap, cap * sizeof *h);
        if (h == NULL)
            return sala_encoder_no_memory(e);
        e->heap = h;
        e->heap_cap = cap;
    }
    size_t i = e->heap_len++;
    while (i > 0 && e->heap[(i - 1) / 4] > v) {
        e->heap[i] = e->heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    e->heap[i] = v;
    return true;
}

/* Entries of the heap are rank << 32 | index of the left symbol: the order asked for. An entry is stale when its symbol
 * is gone or its pair has another rank by now. Symbols end up compacted at the front; *count is their number. */
static bool merge_long(sala_encoder *e, const sala_bpe *b, size_t *count)
{
    sala_symbol *y = e->symbols;
    const uint32_t m = (uint32_t)*count, none = UINT32_MAX;
    e->heap_len = 0;
    for (uint32_t i = 0; i < m; i++) {
        y[i].prev = i > 0 ? i - 1 : none;
        y[i].next = i + 1 < m ? i + 1 : none;
        y[i].rank = SALA_NO_RANK;
        if (i + 1 < m)
            rank_pair(b, &y[i], &y[i + 1]);
        if (y[i].rank != SALA_NO_RANK && !heap_push(e, (uint64_t)y[i].rank << 32 | i))
            return false;
    }
    while (e->heap_len > 0) {
        const uint64_t top = e->heap[0];
        e->heap[0] = e->heap[--e->heap_len];
        if (e->heap_len > 0)
            sift_down(e->heap, e->heap_len, 0);
        const uint32_t i = (uint32_t)top;
        sala_symbol *l = &y[i];
        if (l->rank != top >> 32 || l->rank == SALA_NO_RANK)
            continue;
        sala_symbol *r = &y[l->next];
        l->id = l->merged;
        l->next = r->next;
        r->rank = SALA_NO_RANK;
        r->id = INT32_MIN; /* gone */
        l->rank = SALA_NO_RANK;
        if (l->next != none) {
            y[l->next].prev = i;
            rank_pair(b, l, &y[l->next]);
            if (l->rank != SALA_NO_RANK && !heap_push(e, (uint64_t)l->rank << 32 | i))
                return false;
        }
        if (l->prev != none) {
            sala_symbol *p = &y[l->prev];
            rank_pair(b, p, l);
            if (p->rank != SALA_NO_RANK && !heap_push(e, (uint64_t)p->rank << 32 | l->prev))
                return false;
        }
    }
    size_t n = 0;
    for (uint32_t i = 0; i < m; i++)
        if (y[i].id != INT32_MIN)
            y[n++] = y[i];
    *count = n;
    return true;
}

/* What an unused piece of SentencePiece's is replaced by: the two parts that were merged into it, and so on. The merges
 * inside of a piece do not depend on what stands around it, so they are found again from its text alone. */
static bool emit_unused(sala_encoder *e, int32_t id, const char *s, size_t n, int depth)
{
    const sala_bpe *b = &e->t->bpe;
    sala_symbol y[SHORT_WORD * 4];
    size_t m = 0;
    for (size_t i = 0; i < n && m < SALA_ARRAY_LEN(y);) {
        const size_t at = i;
        const int32_t symbol = char_symbol(b, sala_utf8_next(s, &i));
        y[m++] = (sala_symbol){.id = symbol, .start = (uint32_t)at};
        if (m == SALA_ARRAY_LEN(y) && i < n)
            m = 0, i = n; /* longer than any sensible piece: stays as it is */
    }
    if (m < 2 || depth > 32)
        return sala_ids_push(e->ids, id) || sala_encoder_no_memory(e);
    m = merge_short(b, y, m, 2);
    for (size_t i = 0; i < m; i++) {
        const size_t from = y[i].start, to = i + 1 < m ? y[i + 1].start : n;
        const bool unused =
            y[i].id >= 0 && y[i].id < e->t->vocab.count && e->t->vocab.items[y[i].id].type == SALA_PIECE_UNUSED;
        if (unused && !emit_unused(e, y[i].id, s + from, to - from, depth + 1))
            return false;
        if (!unused && !sala_ids_push(e->ids, y[i].id >= 0 && y[i].id < e->t->vocab.count ? y[i].id : e->t->unk))
            return sala_encoder_no_memory(e);
    }
    return true;
}

static bool emit_symbol(sala_encoder *e, int32_t id, const char *s, size_t n)
{
    const sala_tokenizer *t = e->t;
    const sala_bpe *b = &t->bpe;
    if (id >= 0 && id < t->vocab.count) {
        if (b->by_score && t->vocab.items[id].type == SALA_PIECE_UNUSED)
            return emit_unused(e, id, s, n, 0);
        return sala_ids_push(e->ids, id) || sala_encoder_no_memory(e);
    }
    /* A character outside of the vocabulary; only SentencePiece's way leaves them until here. */
    if (b->byte_fallback && b->all_bytes) {
        for (size_t i = 0; i < n; i++)
            if (!sala_ids_push(e->ids, b->byte_id[(uint8_t)s[i]]))
                return sala_encoder_no_memory(e);
        return true;
    }
    return t->unk < 0 || sala_ids_push(e->ids, t->unk) || sala_encoder_no_memory(e);
}

static bool encode_pairs(sala_encoder *e, const char *s, size_t n)
{
    const sala_bpe *b = &e->t->bpe;
    size_t m;
    if (n >= UINT32_MAX) {
        e->status = sala_fail(e->err, SALA_E_LIMIT, "one word of the text has %zu bytes", n);
        return false;
    }
    if (!make_symbols(e, s, n, &m))
        return false;
    if (m <= SHORT_WORD)
        m = merge_short(b, e->symbols, m, 1);
    else if (!merge_long(e, b, &m))
        return false;
    for (size_t i = 0; i < m; i++) {
        const size_t from = e->symbols[i].start, to = i + 1 < m ? e->symbols[i + 1].start : n;
        if (!emit_symbol(e, e->symbols[i].id, s + from, to - from))
            return false;
    }
    return true;
}

static bool encode_cached(sala_encoder *e, const char *s, size_t n)
{
    sala_ids *ids = e->ids;
    if (e->words == NULL || n > sizeof e->words->text)
        return e->t->model == SALA_MODEL_UNIGRAM ? sala_unigram_encode(e, s, n) : encode_pairs(e, s, n);
    const uint64_t hash = sala_hash_bytes(s, n);
    sala_word_entry *w = &e->words[hash >> 32 & e->word_mask];
    if (w->len == n && w->hash == (uint32_t)hash && memcmp(w->text, s, n) == 0) {
        for (int i = 0; i < w->n_ids; i++)
            if (!sala_ids_push(ids, ids->data[e->ids_base + w->out_at + (size_t)i]))
                return sala_encoder_no_memory(e);
        return true;
    }
    const size_t at = ids->count - e->ids_base;
    if (!(e->t->model == SALA_MODEL_UNIGRAM ? sala_unigram_encode(e, s, n) : encode_pairs(e, s, n)))
        return false;
    const size_t made = ids->count - e->ids_base - at;
    if (made <= UINT8_MAX && at <= UINT32_MAX - made) {
        w->hash = (uint32_t)hash;
        w->len = (uint8_t)n;
        w->n_ids = (uint8_t)made;
        w->out_at = (uint32_t)at;
        memcpy(w->text, s, n);
    }
    return true;
}

static bool encode_cut(sala_encoder *e, const char *s, size_t n)
{
    const sala_bpe *b = &e->t->bpe;
    size_t from = 0, i = 0;
    uint32_t left = sala_utf8_next(s, &i);
    while (i < n) {
        const size_t at = i;
        const uint32_t right = sala_utf8_next(s, &i);
        if (!joins(b, left, right)) {
            if (!encode_cached(e, s + from, at - from))
                return false;
            from = at;
        }
        left = right;
    }
    return encode_cached(e, s + from, n - from);
}

/* The id of a word that is a piece as it stands, -1 otherwise. */
static int32_t whole_word(const sala_tokenizer *t, const char *s, size_t n)
{
    char spelled[512];
    if (n > t->bpe.longest_piece || n > sizeof spelled / 2)
        return -1;
    if (t->bpe.byte_level) {
        size_t len = 0;
        for (size_t i = 0; i < n; i++) {
            const uint32_t cp = sala_byte_to_char((uint8_t)s[i]);
            if (cp >= 0x80)
                spelled[len++] = (char)(0xC0 | cp >> 6);
            spelled[len++] = (char)(cp >= 0x80 ? 0x80 | (cp & 0x3F) : cp);
        }
        s = spelled;
        n = len;
    }
    const int32_t id = sala_vocab_find(&t->vocab, s, n);
    return id >= 0 && t->vocab.items[id].in_model ? id : -1;
}

static bool encode_plain(sala_encoder *e, const char *s, size_t n)
{
    if (n == 0)
        return true;
    return e->t->model == SALA_MODEL_BPE && e->t->bpe.cuts ? encode_cut(e, s, n) : encode_cached(e, s, n);
}

bool sala_encode_word(sala_encoder *e, const char *s, size_t n)
{
    const sala_tokenizer *t = e->t;
    if (t->model == SALA_MODEL_BPE && t->bpe.ignore_merges) {
        const int32_t id = whole_word(t, s, n);
        if (id >= 0)
            return sala_ids_push(e->ids, id) || sala_encoder_no_memory(e);
    }
    if (t->model != SALA_MODEL_BPE || t->user_trie.nodes == NULL)
        return encode_plain(e, s, n);
    /* SentencePiece's user-defined pieces stand as they are, the longest at each place. */
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        int32_t id;
        const size_t len = sala_trie_longest(&t->user_trie, s + i, n - i, &id);
        if (len == 0) {
            i += sala_utf8_len(s[i]);
            continue;
        }
        if (!encode_plain(e, s + from, i - from))
            return false;
        if (!sala_ids_push(e->ids, id))
            return sala_encoder_no_memory(e);
        i += len;
        from = i;
    }
    return encode_plain(e, s + from, n - from);
}
