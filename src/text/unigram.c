/* The unigram model: of all ways to write a text as pieces, the one whose scores add up highest. One pass from left to
 * right keeps the best way to reach each position; pieces are found by walking a trie. */
#include "text/tokenizer_impl.h"

#include <float.h>

#define UNKNOWN_PENALTY 10.0 /* below the worst piece; both SentencePiece and Hugging Face have it so */

sala_status sala_unigram_build(sala_tokenizer *t, sala_error *err)
{
    sala_unigram *u = &t->unigram;
    const sala_vocab *v = &t->vocab;
    double least = DBL_MAX, most = -DBL_MAX;
    sala_trie_key *keys = malloc(((size_t)v->count + 1) * sizeof *keys);
    if (u->scores == NULL)
        u->scores = calloc((size_t)v->count + 1, sizeof *u->scores);
    if (keys == NULL || u->scores == NULL) {
        free(keys);
        return sala_fail_memory(err, (uint64_t)v->count * (sizeof *keys + sizeof *u->scores));
    }
    size_t n = 0;
    for (int32_t id = 0; id < v->count; id++) {
        const sala_piece *p = &v->items[id];
        if (!p->in_model)
            continue;
        if (u->sentencepiece)
            u->scores[id] = p->score;
        const double score = u->scores[id];
        if (score != score) {
            free(keys);
            return sala_fail(err, SALA_E_CORRUPT, "the score of token %d is not a number", id);
        }
        if (u->sentencepiece && p->type != SALA_PIECE_NORMAL && p->type != SALA_PIECE_USER &&
            p->type != SALA_PIECE_UNUSED)
            continue;
        if (!u->sentencepiece || p->type == SALA_PIECE_NORMAL) {
            least = score < least ? score : least;
            most = score > most ? score : most;
        }
        if (p->len > 0 && !(u->sentencepiece && p->type == SALA_PIECE_UNUSED))
            keys[n++] = (sala_trie_key){sala_vocab_text(v, id), p->len, id};
    }
    u->max_score = most;
    u->unk_score = least == DBL_MAX ? -UNKNOWN_PENALTY : least - UNKNOWN_PENALTY;
    if (u->sentencepiece)
        u->unk_score = (double)(float)u->unk_score;
    u->all_bytes = sala_vocab_byte_ids(v, u->byte_id);
    const bool ok = sala_trie_build(&u->trie, keys, n);
    free(keys);
    return ok ? SALA_OK : sala_fail_memory(err, n * sizeof(sala_trie_node));
}

void sala_unigram_free(sala_unigram *u)
{
    sala_trie_free(&u->trie);
    free(u->scores);
    *u = (sala_unigram){0};
}

static inline void reach(const sala_unigram *u, sala_best *to, double score, int64_t start, int32_t id)
{
    if (u->sentencepiece)
        score = (double)(float)score;
    if (to->start >= 0 && score <= to->score)
        return;
    to->score = score;
    to->start = start;
    to->id = id;
}

/* SentencePiece with byte fallback, or Hugging Face's: an unknown stretch as bytes if all have a piece, else unknown.
 */
static bool emit_unknown(sala_encoder *e, const char *s, size_t n)
{
    const sala_unigram *u = &e->t->unigram;
    bool bytes = u->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++)
        bytes = u->byte_id[(uint8_t)s[i]] >= 0;
    for (size_t i = 0; i < n && bytes; i++)
        if (!sala_ids_push(e->ids, u->byte_id[(uint8_t)s[i]]))
            return sala_encoder_no_memory(e);
    if (bytes || e->t->unk < 0)
        return true;
    return sala_ids_push(e->ids, e->t->unk) || sala_encoder_no_memory(e);
}

/* Hugging Face counts the unknown piece's own spelling in a text as unknown, too. */
static bool is_unknown(const sala_tokenizer *t, int32_t id)
{
    return id < 0 || (id == t->unk && !t->unigram.sentencepiece);
}

bool sala_unigram_encode(sala_encoder *e, const char *s, size_t n)
{
    const sala_unigram *u = &e->t->unigram;
    if (n + 1 > e->best_cap) {
        sala_best *b = realloc(e->best, (n + 1) * sizeof *b);
        if (b == NULL)
            return sala_encoder_no_memory(e);
        e->best = b;
        e->best_cap = n + 1;
    }
    sala_best *best = e->best;
    for (size_t i = 0; i <= n; i++)
        best[i].start = -1;
    best[0].score = 0;
    for (size_t i = 0; i < n;) {
        const size_t char_len = sala_utf8_len(s[i]);
        const double so_far = best[i].score;
        bool has_char = false;
        uint32_t node = 0;
        for (size_t k = i; k < n && u->trie.nodes != NULL; k++) {
            node = sala_trie_step(&u->trie, node, (uint8_t)s[k]);
            if (node == 0)
                break;
            const int32_t id = u->trie.nodes[node].value;
            if (id < 0)
                continue;
            const size_t len = k + 1 - i;
            const bool user = u->sentencepiece && e->t->vocab.items[id].type == SALA_PIECE_USER;
            const double score = user ? (double)len * u->max_score - 0.1 : u->scores[id];
            reach(u, &best[k + 1], so_far + score, (int64_t)i, id);
            has_char = has_char || len == char_len;
        }
        if (!has_char)
            reach(u, &best[i + char_len], so_far + u->unk_score, (int64_t)i, -1);
        i += char_len;
    }
    /* Backwards along the best way; each node's `start` becomes a link forward. */
    size_t at = n;
    int64_t next = -1;
    while (at > 0) {
        const int64_t from = best[at].start;
        best[at].start = next;
        next = (int64_t)at;
        at = (size_t)from;
    }
    size_t from = 0;
    while (next >= 0) {
        size_t to = (size_t)next;
        const int32_t id = best[to].id;
        next = best[to].start;
        if (!is_unknown(e->t, id)) {
            if (!sala_ids_push(e->ids, id))
                return sala_encoder_no_memory(e);
        } else {
            /* Unknown characters in a row are one unknown piece. SentencePiece writes them character by character and
             * the caller fuses, which gives the same. */
            while (next >= 0 && is_unknown(e->t, best[next].id)) {
                to = (size_t)next;
                next = best[to].start;
            }
            if (!emit_unknown(e, s + from, to - from))
                return false;
        }
        from = to;
    }
    return true;
}
