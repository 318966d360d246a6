/* A tokenizer as GGUF metadata, in the form that llama.cpp reads. What GGUF has no words for is an error, never a file
 * that tokenises differently; two liberties are taken, both as every converter does: the NFC normaliser of byte-level
 * tokenizers is left out, and Metaspace's prefix is written as one for every piece of text. Character BPE that scores
 * cannot describe is written with its merges and keys of its own beside them, and then without that second liberty. */
#include "text/tokenizer_impl.h"

#include <stdio.h>

#define KEY(name) "tokenizer.ggml." name

typedef struct numbered_pair {
    uint32_t rank;
    int32_t left, right, id;
} numbered_pair;

static int by_rank(const void *pa, const void *pb)
{
    const numbered_pair *a = pa, *b = pb;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

static numbered_pair *sorted_pairs(const sala_bpe *b)
{
    numbered_pair *p = malloc((b->n_pairs + 1) * sizeof *p);
    size_t n = 0;
    for (uint64_t k = 0; p != NULL && k <= b->pair_mask; k++)
        if (b->pairs[k].key != UINT64_MAX)
            p[n++] = (numbered_pair){b->pairs[k].rank, (int32_t)(b->pairs[k].key >> 32),
                                     (int32_t)(uint32_t)b->pairs[k].key, b->pairs[k].id};
    if (p != NULL)
        qsort(p, n, sizeof *p, by_rank);
    return p;
}

/* Whether byte-level text keeps its meaning: no normaliser but NFC. */
static sala_status check_byte_level(const sala_tokenizer *t, sala_error *err)
{
    for (int i = 0; i < t->n_norms; i++)
        if (t->norms[i].kind != SALA_NORM_NFC)
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "GGUF cannot hold a byte-level tokenizer with a normaliser other than NFC");
    if (t->pre_name != NULL)
        return SALA_OK;
    for (int i = 0; i < t->n_pretoks; i++) {
        const sala_pretok_step *s = &t->pretoks[i];
        if (s->kind == SALA_PT_REGEX || s->kind == SALA_PT_LITERAL)
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "GGUF has no name for the pre-tokenizer with the regular expression \"%.300s\"", s->text);
    }
    return sala_fail(err, SALA_E_UNSUPPORTED, "GGUF has no name for this sequence of %d pre-tokenizer steps",
                     t->n_pretoks);
}

/* Whether cutting the text in front of every U+2581 changes nothing, because no merge reaches across. */
static bool cuts_nothing(const sala_tokenizer *t)
{
    const sala_vocab *v = &t->vocab;
    const int32_t space = sala_vocab_find(v, SALA_META, SALA_META_LEN);
    if (t->bpe.ignore_merges || space < 0 || space == t->unk || !v->items[space].in_model)
        return false;
    for (uint64_t k = 0; k <= t->bpe.pair_mask; k++) {
        if (t->bpe.pairs[k].key == UINT64_MAX)
            continue;
        const char *s = sala_vocab_text(v, t->bpe.pairs[k].id);
        const size_t len = v->items[t->bpe.pairs[k].id].len;
        for (size_t i = 1; i + SALA_META_LEN <= len; i++)
            if (memcmp(s + i, SALA_META, SALA_META_LEN) == 0)
                return false;
    }
    return true;
}

/* Whether the text's preparation is "spaces become U+2581, perhaps one in front"; *prefix: one in front. */
static bool is_llama_like(const sala_tokenizer *t, bool *prefix)
{
    const sala_norm_step *n = t->norms;
    *prefix = false;
    if (t->n_norms == 1 && t->n_pretoks == 0 && n->kind == SALA_NORM_SENTENCEPIECE) {
        *prefix = n->dummy_prefix;
        return n->escape_spaces && !n->remove_extra_spaces && !(n->dummy_prefix && n->space_as_suffix) &&
               t->charsmap.n_units == 0;
    }
    if (t->n_norms == 0 && t->n_pretoks == 1 && t->pretoks->kind == SALA_PT_METASPACE) {
        *prefix = t->pretoks->prepend != SALA_PREPEND_NEVER;
        return (!t->pretoks->split || cuts_nothing(t)) && t->pretoks->text_len == SALA_META_LEN &&
               memcmp(t->pretoks->text, SALA_META, SALA_META_LEN) == 0;
    }
    int i = 0;
    if (t->n_norms == 2 && n[0].kind == SALA_NORM_PREPEND && n[0].to_len == SALA_META_LEN &&
        memcmp(n[0].to, SALA_META, SALA_META_LEN) == 0) {
        *prefix = true;
        i = 1;
    }
    return t->n_pretoks == 0 && t->n_norms == i + 1 && n[i].kind == SALA_NORM_REPLACE && n[i].from_len == 1 &&
           n[i].from[0] == ' ' && n[i].to_len == SALA_META_LEN && memcmp(n[i].to, SALA_META, SALA_META_LEN) == 0;
}

/* Whether a reader that knows pieces and scores only would treat a piece's text as a whole, and characters that no
 * piece spells, as this tokenizer does. */
static bool only_merges_matter(const sala_tokenizer *t)
{
    const sala_bpe *b = &t->bpe;
    const bool bytes = b->byte_fallback && b->all_bytes;
    return !b->ignore_merges && (bytes || (t->unk >= 0 && b->fuse_unk && !b->byte_fallback && !b->all_bytes));
}

/* The best scores there are: the lower the rank of the first merge into a piece, the higher. *exact: they give all
 * merges back, because every merge into one piece stands together and every way to cut a piece in two is among them. */
static sala_status scores_of_merges(const sala_tokenizer *t, float *scores, bool *exact, sala_error *err)
{
    const sala_vocab *v = &t->vocab;
    numbered_pair *p = sorted_pairs(&t->bpe);
    int32_t *n_ways = calloc((size_t)v->count + 1, sizeof *n_ways);
    *exact = only_merges_matter(t);
    if (p == NULL || n_ways == NULL) {
        free(p);
        free(n_ways);
        return sala_fail_memory(err, t->bpe.n_pairs * sizeof *p);
    }
    for (uint64_t k = 0; k < t->bpe.n_pairs; k++) {
        const int32_t id = p[k].id;
        if (n_ways[id] == 0)
            scores[id] = -(float)k;
        else if (p[k - 1].id != id)
            *exact = false;
        n_ways[id]++;
    }
    for (int32_t id = 0; id < v->count; id++) {
        const char *s = sala_vocab_text(v, id);
        const size_t len = v->items[id].len;
        if (!v->items[id].in_model || v->items[id].special || sala_byte_piece_value(s, len) >= 0 || len == 0)
            continue;
        if (n_ways[id] == 0)
            scores[id] = -(float)t->bpe.n_pairs - 1;
        *exact = *exact && len <= SALA_TOK_MAX_PIECE;
        int32_t ways = 0;
        for (size_t cut = sala_utf8_len(s[0]); *exact && cut < len; cut += sala_utf8_len(s[cut])) {
            const int32_t left = sala_vocab_find(v, s, cut), right = sala_vocab_find(v, s + cut, len - cut);
            ways += left >= 0 && right >= 0 && v->items[left].in_model && v->items[right].in_model;
        }
        *exact = *exact && ways == n_ways[id];
    }
    free(p);
    free(n_ways);
    return SALA_OK;
}

static void write_id(sala_gguf_writer *w, const char *key, int32_t id)
{
    if (id >= 0)
        sala_gguf_write_u32(w, key, (uint32_t)id);
}

/* An entry is two pieces with a space between. Byte-level pieces hold no other space; for those by characters it is
 * checked. */
static bool is_one_word(const sala_vocab *v, int32_t id)
{
    return v->items[id].len > 0 && memchr(sala_vocab_text(v, id), ' ', v->items[id].len) == NULL;
}

static sala_status write_merges(const sala_tokenizer *t, sala_gguf_writer *w, sala_error *err)
{
    const sala_vocab *v = &t->vocab;
    const uint64_t n = t->bpe.n_pairs;
    numbered_pair *p = sorted_pairs(&t->bpe);
    sala_gguf_str *list = malloc((n + 1) * sizeof *list);
    sala_buf text = {0};
    for (uint64_t k = 0; p != NULL && k < n; k++) {
        sala_buf_add(&text, sala_vocab_text(v, p[k].left), v->items[p[k].left].len);
        sala_buf_add_char(&text, ' ');
        sala_buf_add(&text, sala_vocab_text(v, p[k].right), v->items[p[k].right].len);
    }
    sala_status st = SALA_OK;
    if (p == NULL || list == NULL || text.failed)
        st = sala_fail_memory(err, n * (sizeof *p + sizeof *list));
    size_t at = 0;
    for (uint64_t k = 0; st == SALA_OK && k < n; k++) {
        if (!t->bpe.byte_level && !(is_one_word(v, p[k].left) && is_one_word(v, p[k].right))) {
            st =
                sala_fail(err, SALA_E_UNSUPPORTED,
                          "GGUF cannot hold the merge of tokens %d and %d, because one of them has a space or is empty",
                          p[k].left, p[k].right);
            break;
        }
        const size_t len = (size_t)v->items[p[k].left].len + v->items[p[k].right].len + 1;
        list[k] = (sala_gguf_str){text.data + at, len};
        at += len;
    }
    if (st == SALA_OK)
        sala_gguf_write_array(w, KEY("merges"), SALA_GGUF_STRING, list, n);
    free(p);
    free(list);
    sala_buf_free(&text);
    return st;
}

/* with_merges: readers that use the merges spell unknown characters by bytes if there is a piece of type "byte". */
static int32_t type_of(const sala_tokenizer *t, int32_t id, bool with_merges)
{
    const sala_piece *p = &t->vocab.items[id];
    if (id == t->unk && !t->bpe.byte_level)
        return SALA_PIECE_UNKNOWN;
    if (p->special)
        return SALA_PIECE_CONTROL;
    if (p->type != SALA_PIECE_NORMAL)
        return p->type;
    if (p->added && with_merges && !t->bpe.byte_level)
        return SALA_PIECE_USER;
    const bool byte = !t->bpe.byte_level && sala_byte_piece_value(sala_vocab_text(&t->vocab, id), p->len) >= 0;
    return byte && (t->bpe.byte_fallback || !with_merges) ? SALA_PIECE_BYTE : SALA_PIECE_NORMAL;
}

sala_status sala_tokenizer_write_gguf(const sala_tokenizer *t, sala_gguf_writer *w, int32_t n_embd_rows,
                                      const char **notice, sala_error *err)
{
    const sala_vocab *v = &t->vocab;
    const int32_t n = n_embd_rows;
    bool prefix = false;
    sala_status st = SALA_OK;
    if (notice != NULL)
        *notice = NULL;
    if (n < v->count || n > SALA_TOK_MAX_IDS)
        return sala_fail(err, SALA_E_INVALID, "the vocabulary has ids up to %d, the embedding %d rows", v->count - 1,
                         n);
    if (t->bpe.byte_level)
        st = check_byte_level(t, err);
    else if (t->model == SALA_MODEL_UNIGRAM &&
             (t->n_norms != 1 || t->norms->kind != SALA_NORM_SENTENCEPIECE || t->n_pretoks > 0))
        st = sala_fail(err, SALA_E_UNSUPPORTED,
                       "GGUF can hold a unigram tokenizer only with SentencePiece's own normaliser");
    else if (t->model == SALA_MODEL_BPE && !is_llama_like(t, &prefix))
        st = sala_fail(
            err, SALA_E_UNSUPPORTED,
            "GGUF can hold a BPE tokenizer by characters only if its text is prepared by making spaces U+2581");
    if (st != SALA_OK)
        return st;
    sala_gguf_str *tokens = malloc((size_t)n * sizeof *tokens);
    int32_t *types = malloc((size_t)n * sizeof *types);
    float *scores = malloc((size_t)n * sizeof *scores);
    char(*names)[24] = calloc((size_t)n, sizeof *names);
    if (tokens == NULL || types == NULL || scores == NULL || names == NULL)
        st = sala_fail_memory(err, (uint64_t)n * 48);
    for (int32_t id = 0; st == SALA_OK && id < n; id++) {
        if (id < v->count && v->items[id].type != SALA_PIECE_NONE) {
            tokens[id] = (sala_gguf_str){sala_vocab_text(v, id), v->items[id].len};
            scores[id] = v->items[id].score;
        } else {
            snprintf(names[id], sizeof *names, "[PAD%d]", id);
            tokens[id] = (sala_gguf_str){names[id], strlen(names[id])};
            scores[id] = -1e9f;
        }
    }
    const bool by_rank_of_characters = t->model == SALA_MODEL_BPE && !t->bpe.byte_level && !t->bpe.by_score;
    bool exact = true;
    if (st == SALA_OK && by_rank_of_characters)
        st = scores_of_merges(t, scores, &exact, err);
    const bool with_merges = t->bpe.byte_level || !exact;
    for (int32_t id = 0; st == SALA_OK && id < n; id++)
        types[id] =
            id < v->count && v->items[id].type != SALA_PIECE_NONE ? type_of(t, id, with_merges) : SALA_PIECE_UNUSED;
    const char *model = t->model == SALA_MODEL_UNIGRAM ? "t5" : t->bpe.byte_level ? "gpt2" : "llama";
    if (st == SALA_OK) {
        const char *pre = t->bpe.byte_level ? t->pre_name : "default";
        sala_gguf_write_str(w, KEY("model"), model, strlen(model));
        sala_gguf_write_str(w, KEY("pre"), pre, strlen(pre));
        sala_gguf_write_array(w, KEY("tokens"), SALA_GGUF_STRING, tokens, (uint64_t)n);
        sala_gguf_write_array(w, KEY("token_type"), SALA_GGUF_I32, types, (uint64_t)n);
        if (!t->bpe.byte_level)
            sala_gguf_write_array(w, KEY("scores"), SALA_GGUF_F32, scores, (uint64_t)n);
        if (with_merges)
            st = write_merges(t, w, err);
    }
    free(tokens);
    free(types);
    free(scores);
    free(names);
    if (st != SALA_OK)
        return st;
    write_id(w, KEY("bos_token_id"), t->bos);
    write_id(w, KEY("eos_token_id"), t->eos);
    /* Readers take the first token when the key is missing, but here there must be none. */
    if (!exact && t->unk < 0 && !(t->bpe.byte_fallback && t->bpe.all_bytes))
        sala_gguf_write_u32(w, KEY("unknown_token_id"), UINT32_MAX);
    else
        write_id(w, KEY("unknown_token_id"), sala_tokenizer_unk(t));
    if (!exact && t->bpe.ignore_merges)
        sala_gguf_write_bool(w, KEY("ignore_merges"), true);
    if (!exact && !t->bpe.fuse_unk)
        sala_gguf_write_bool(w, KEY("fuse_unk"), false);
    if (!exact && prefix && t->n_pretoks > 0) {
        const char *scheme = t->pretoks->prepend == SALA_PREPEND_FIRST ? "first" : "always";
        sala_gguf_write_str(w, KEY("prepend_scheme"), scheme, strlen(scheme));
    }
    if (!exact && notice != NULL)
        *notice =
            "the scores of a \"llama\" tokenizer cannot say all that this one does, so its merges were written beside "
            "them; llama.cpp reads the scores only and will cut some texts into other tokens";
    write_id(w, KEY("padding_token_id"), t->pad);
    sala_gguf_write_bool(w, KEY("add_bos_token"), sala_tokenizer_adds_bos(t));
    sala_gguf_write_bool(w, KEY("add_eos_token"), sala_tokenizer_adds_eos(t));
    if (t->model == SALA_MODEL_UNIGRAM) {
        sala_gguf_write_bool(w, KEY("remove_extra_whitespaces"), t->norms->remove_extra_spaces);
        prefix = t->norms->dummy_prefix;
        if (t->charsmap.n_units > 0) {
            const uint32_t array_bytes = (uint32_t)(t->charsmap.n_units * 4);
            sala_buf map = {0};
            sala_buf_add(&map, &array_bytes, 4);
            sala_buf_add(&map, t->charsmap.units, array_bytes);
            sala_buf_add(&map, t->charsmap.strings, t->charsmap.n_strings);
            if (map.failed)
                return sala_fail_memory(err, array_bytes);
            sala_gguf_write_array(w, KEY("precompiled_charsmap"), SALA_GGUF_U8, map.data, map.len);
            sala_buf_free(&map);
        }
    }
    sala_gguf_write_bool(w, KEY("add_space_prefix"), prefix);
    return SALA_OK;
}
