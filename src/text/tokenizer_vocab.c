/* The vocabulary's store, its hash table, and the trie that added tokens, user-defined pieces and unigram share. */
#include "text/tokenizer_impl.h"

uint64_t sala_hash_bytes(const char *s, size_t n)
{
    /* Eight bytes a step, mixed by multiplication; keys are short and tables are not exposed to chosen collisions worse
     * than linear probing over one vocabulary. */
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
        s += 8;
        n -= 8;
    }
    uint64_t w = 0;
    memcpy(&w, s, n);
    h = (h ^ w) * 0xFF51AFD7ED558CCDu;
    h ^= h >> 29;
    h *= 0xC4CEB9FE1A85EC53u;
    return h ^ h >> 32;
}

sala_status sala_vocab_put(sala_vocab *v, int64_t id, const char *s, size_t n, sala_piece_type type, float score,
                           sala_error *err)
{
    if (id < 0 || id >= SALA_TOK_MAX_IDS)
        return sala_fail(err, SALA_E_CORRUPT, "token id %lld of \"%.*s\" is outside of 0..%d", (long long)id,
                         n > 60 ? 60 : (int)n, s, SALA_TOK_MAX_IDS - 1);
    if (v->text.len + (uint64_t)n > UINT32_MAX)
        return sala_fail(err, SALA_E_LIMIT, "the vocabulary's pieces are larger than 4 GiB together");
    if (id >= v->cap) {
        int32_t cap = v->cap < 1024 ? 1024 : v->cap;
        while (cap <= id)
            cap *= 2;
        sala_piece *items = realloc(v->items, (size_t)cap * sizeof *items);
        if (items == NULL)
            return sala_fail_memory(err, (uint64_t)cap * sizeof *items);
        memset(items + v->cap, 0, (size_t)(cap - v->cap) * sizeof *items);
        v->items = items;
        v->cap = cap;
    }
    sala_piece *p = &v->items[id];
    if (p->type != SALA_PIECE_NONE)
        return sala_fail(err, SALA_E_CORRUPT, "token id %lld is given to both \"%.*s\" and \"%.*s\"", (long long)id,
                         p->len > 60 ? 60 : (int)p->len, sala_vocab_text(v, (int32_t)id), n > 60 ? 60 : (int)n, s);
    p->off = (uint32_t)v->text.len;
    p->len = (uint32_t)n;
    p->score = score;
    p->type = (uint8_t)type;
    sala_buf_add(&v->text, s, n);
    /* One byte more keeps data non-NULL for vocabularies of empty pieces. */
    sala_buf_add_char(&v->text, '\0');
    if (v->text.failed)
        return sala_fail_memory(err, v->text.len);
    if (id >= v->count)
        v->count = (int32_t)id + 1;
    return SALA_OK;
}

sala_status sala_vocab_index(sala_vocab *v, sala_error *err)
{
    uint32_t size = 16;
    while (size < (uint32_t)v->count * 2)
        size *= 2;
    int32_t *slots = malloc(size * sizeof *slots);
    if (slots == NULL)
        return sala_fail_memory(err, size * sizeof *slots);
    memset(slots, 0xFF, size * sizeof *slots);
    free(v->slots);
    v->slots = slots;
    v->mask = size - 1;
    for (int32_t id = 0; id < v->count; id++) {
        const sala_piece *p = &v->items[id];
        if (p->type == SALA_PIECE_NONE || p->len == 0)
            continue;
        const char *s = sala_vocab_text(v, id);
        uint32_t i = (uint32_t)sala_hash_bytes(s, p->len) & v->mask;
        for (; slots[i] >= 0; i = (i + 1) & v->mask) {
            const sala_piece *q = &v->items[slots[i]];
            if (q->len == p->len && memcmp(sala_vocab_text(v, slots[i]), s, p->len) == 0)
                return sala_fail(err, SALA_E_CORRUPT, "the piece \"%.*s\" has two ids: %d and %d",
                                 p->len > 60 ? 60 : (int)p->len, s, slots[i], id);
        }
        slots[i] = id;
    }
    return SALA_OK;
}

int32_t sala_vocab_find(const sala_vocab *v, const char *s, size_t n)
{
    if (v->slots == NULL || n == 0)
        return -1;
    for (uint32_t i = (uint32_t)sala_hash_bytes(s, n) & v->mask; v->slots[i] >= 0; i = (i + 1) & v->mask) {
        const int32_t id = v->slots[i];
        if (v->items[id].len == n && memcmp(sala_vocab_text(v, id), s, n) == 0)
            return id;
    }
    return -1;
}

void sala_vocab_free(sala_vocab *v)
{
    sala_buf_free(&v->text);
    free(v->items);
    free(v->slots);
    *v = (sala_vocab){0};
}

int sala_byte_piece_value(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        const char c = s[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

bool sala_vocab_byte_ids(const sala_vocab *v, int32_t ids[256])
{
    bool all = true;
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        const char name[6] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        const int32_t id = sala_vocab_find(v, name, sizeof name);
        ids[b] = id >= 0 && v->items[id].in_model ? id : -1;
        all = all && ids[b] >= 0;
    }
    return all;
}

/* ---- trie ---- */

static int compare_keys(const void *pa, const void *pb)
{
    const sala_trie_key *a = pa, *b = pb;
    const size_t n = a->n < b->n ? a->n : b->n;
    const int c = n > 0 ? memcmp(a->s, b->s, n) : 0;
    if (c != 0)
        return c;
    if (a->n != b->n)
        return a->n < b->n ? -1 : 1;
    return a->value < b->value ? -1 : a->value > b->value;
}

typedef struct trie_range {
    size_t begin, end, depth; /* the keys below a node */
} trie_range;

bool sala_trie_build(sala_trie *t, sala_trie_key *keys, size_t n_keys)
{
    *t = (sala_trie){0};
    if (n_keys == 0)
        return true;
    qsort(keys, n_keys, sizeof *keys, compare_keys);
    size_t cap = 1;
    for (size_t i = 0; i < n_keys; i++) {
        /* A key adds as many nodes as it has bytes beyond what it shares with the one before. */
        size_t shared = 0;
        while (i > 0 && shared < keys[i].n && shared < keys[i - 1].n && keys[i].s[shared] == keys[i - 1].s[shared])
            shared++;
        cap += keys[i].n - shared;
    }
    sala_trie_node *nodes = cap < UINT32_MAX ? calloc(cap, sizeof *nodes) : NULL;
    trie_range *ranges = malloc(cap * sizeof *ranges);
    if (nodes == NULL || ranges == NULL) {
        free(nodes);
        free(ranges);
        return false;
    }
    uint32_t n_nodes = 1;
    nodes[0].value = -1;
    ranges[0] = (trie_range){0, n_keys, 0};
    /* Breadth first, so that a node's children lie side by side. */
    for (uint32_t k = 0; k < n_nodes; k++) {
        trie_range r = ranges[k];
        nodes[k].first = n_nodes;
        if (r.begin < r.end && keys[r.begin].n == r.depth && r.depth > 0)
            nodes[k].value = keys[r.begin].value;
        while (r.begin < r.end && keys[r.begin].n == r.depth)
            r.begin++;
        while (r.begin < r.end) {
            const uint8_t label = (uint8_t)keys[r.begin].s[r.depth];
            size_t end = r.begin + 1;
            while (end < r.end && (uint8_t)keys[end].s[r.depth] == label)
                end++;
            nodes[n_nodes].label = label;
            nodes[n_nodes].value = -1;
            ranges[n_nodes] = (trie_range){r.begin, end, r.depth + 1};
            if (k == 0)
                t->root[label] = n_nodes;
            n_nodes++;
            nodes[k].n_children++;
            r.begin = end;
        }
    }
    free(ranges);
    t->nodes = nodes;
    t->n_nodes = n_nodes;
    return true;
}

void sala_trie_free(sala_trie *t)
{
    free(t->nodes);
    *t = (sala_trie){0};
}

uint32_t sala_trie_step(const sala_trie *t, uint32_t node, uint8_t label)
{
    if (node == 0)
        return t->root[label];
    uint32_t lo = t->nodes[node].first, hi = lo + t->nodes[node].n_children;
    while (hi - lo > 4) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (t->nodes[mid].label <= label)
            lo = mid;
        else
            hi = mid;
    }
    for (; lo < hi; lo++)
        if (t->nodes[lo].label == label)
            return lo;
    return 0;
}

size_t sala_trie_longest(const sala_trie *t, const char *s, size_t n, int32_t *value)
{
    size_t best = 0;
    if (t->nodes == NULL)
        return 0;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = sala_trie_step(t, node, (uint8_t)s[i]);
        if (node == 0)
            break;
        if (t->nodes[node].value >= 0) {
            best = i + 1;
            *value = t->nodes[node].value;
        }
    }
    return best;
}
