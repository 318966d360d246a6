/* The tokenizer object and encoding: cutting out added tokens, then normaliser, pre-tokenizer and model on what is
 * between them. Added tokens are found twice, as Hugging Face does: those that are not normalised in the text as it is,
 * the others after normalising. */
#include "text/tokenizer_impl.h"

/* ---- the object ---- */

sala_status sala_tokenizer_new(sala_tokenizer **out, sala_error *err)
{
    sala_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return sala_fail_memory(err, sizeof *t);
    t->bos = t->eos = t->pad = t->unk = t->named_unk = -1;
    *out = t;
    return SALA_OK;
}

void sala_tokenizer_free(sala_tokenizer *t)
{
    if (t == NULL)
        return;
    sala_vocab_free(&t->vocab);
    sala_bpe_free(&t->bpe);
    sala_unigram_free(&t->unigram);
    for (int i = 0; i < t->n_norms; i++)
        sala_norm_step_free(&t->norms[i]);
    free(t->norms);
    sala_charsmap_free(&t->charsmap);
    sala_trie_free(&t->user_trie);
    for (int i = 0; i < t->n_pretoks; i++)
        sala_pretok_step_free(&t->pretoks[i]);
    free(t->pretoks);
    for (size_t i = 0; i < t->n_added; i++)
        free(t->added[i].text);
    free(t->added);
    sala_trie_free(&t->added_raw);
    sala_trie_free(&t->added_normalized);
    free(t->prefix);
    free(t->suffix);
    for (int i = 0; i < t->decoder.n_ops; i++) {
        free(t->decoder.ops[i].from);
        free(t->decoder.ops[i].to);
    }
    free(t->decoder.strip);
    free(t->decoder.unk_surface);
    free(t);
}

sala_norm_step *sala_tokenizer_add_norm(sala_tokenizer *t, sala_norm_kind kind)
{
    sala_norm_step *steps = realloc(t->norms, (size_t)(t->n_norms + 1) * sizeof *steps);
    if (steps == NULL)
        return NULL;
    t->norms = steps;
    steps[t->n_norms] = (sala_norm_step){.kind = kind};
    return &steps[t->n_norms++];
}

sala_pretok_step *sala_tokenizer_add_pretok(sala_tokenizer *t, sala_pretok_kind kind)
{
    sala_pretok_step *steps = realloc(t->pretoks, (size_t)(t->n_pretoks + 1) * sizeof *steps);
    if (steps == NULL)
        return NULL;
    t->pretoks = steps;
    steps[t->n_pretoks] = (sala_pretok_step){.kind = kind};
    return &steps[t->n_pretoks++];
}

bool sala_tokenizer_is_added(const sala_tokenizer *t, int64_t id)
{
    return id >= 0 && id < t->vocab.count && t->vocab.items[id].added;
}

sala_status sala_tokenizer_add_token(sala_tokenizer *t, const sala_added *a, sala_error *err)
{
    if (sala_tokenizer_is_added(t, a->id))
        return sala_fail(err, SALA_E_CORRUPT, "token id %d is given to both \"%.60s\" and \"%.*s\"", a->id,
                         sala_vocab_text(&t->vocab, a->id), a->len > 60 ? 60 : (int)a->len, a->text);
    sala_vocab *v = &t->vocab;
    const sala_piece *p = a->id >= 0 && a->id < v->count ? &v->items[a->id] : NULL;
    if (p == NULL || p->type == SALA_PIECE_NONE) {
        const sala_piece_type type = a->special ? SALA_PIECE_CONTROL : SALA_PIECE_USER;
        const sala_status st = sala_vocab_put(v, a->id, a->text, a->len, type, 0, err);
        if (st != SALA_OK)
            return st;
    } else if (p->len != a->len || memcmp(sala_vocab_text(v, a->id), a->text, a->len) != 0) {
        return sala_fail(
            err, SALA_E_CORRUPT, "token id %d is \"%.*s\" in the vocabulary and \"%.*s\" among the added tokens", a->id,
            p->len > 60 ? 60 : (int)p->len, sala_vocab_text(v, a->id), a->len > 60 ? 60 : (int)a->len, a->text);
    }
    v->items[a->id].special = a->special;
    v->items[a->id].added = true;
    /* Grown by doubling at powers of two. */
    if ((t->n_added & (t->n_added + 1)) == 0 || t->added == NULL) {
        sala_added *added = realloc(t->added, (t->n_added * 2 + 2) * sizeof *added);
        if (added == NULL)
            return sala_fail_memory(err, t->n_added * sizeof *added);
        t->added = added;
    }
    sala_added copy = *a;
    copy.text = sala_strndup(a->text, a->len);
    if (copy.text == NULL)
        return sala_fail_memory(err, a->len);
    t->added[t->n_added++] = copy;
    return SALA_OK;
}

static sala_status build_added_tries(sala_tokenizer *t, sala_error *err)
{
    sala_trie_key *keys = calloc(t->n_added + 1, sizeof *keys);
    sala_buf *texts = calloc(t->n_added + 1, sizeof *texts);
    bool ok = keys != NULL && texts != NULL;
    for (int normalized = 0; normalized < 2 && ok; normalized++) {
        size_t n = 0;
        for (size_t i = 0; i < t->n_added && ok; i++) {
            const sala_added *a = &t->added[i];
            if (a->normalized != (normalized == 1) || a->len == 0)
                continue;
            const char *s = a->text;
            size_t len = a->len;
            if (normalized) {
                ok = sala_normalize(t, &texts[i], s, len, true);
                s = texts[i].data;
                len = texts[i].len;
            }
            if (len > 0)
                keys[n++] = (sala_trie_key){s, len, (int32_t)i};
        }
        ok = ok && sala_trie_build(normalized ? &t->added_normalized : &t->added_raw, keys, n);
    }
    for (size_t i = 0; texts != NULL && i < t->n_added; i++)
        sala_buf_free(&texts[i]);
    free(texts);
    free(keys);
    return ok ? SALA_OK : sala_fail_memory(err, t->n_added * 256);
}

sala_status sala_tokenizer_index_user_pieces(sala_tokenizer *t, sala_error *err)
{
    const sala_vocab *v = &t->vocab;
    size_t n = 0;
    sala_trie_key *keys = calloc((size_t)v->count + 1, sizeof *keys);
    if (keys == NULL)
        return sala_fail_memory(err, (uint64_t)v->count * sizeof *keys);
    for (int32_t id = 0; id < v->count; id++) {
        const sala_piece *p = &v->items[id];
        if (p->type == SALA_PIECE_USER && p->in_model && p->len > 0 &&
            sala_utf8_is_valid(sala_vocab_text(v, id), p->len))
            keys[n++] = (sala_trie_key){sala_vocab_text(v, id), p->len, id};
    }
    const bool ok = sala_trie_build(&t->user_trie, keys, n);
    free(keys);
    return ok ? SALA_OK : sala_fail_memory(err, n * sizeof(sala_trie_node));
}

sala_status sala_tokenizer_finish(sala_tokenizer *t, sala_error *err)
{
    if (t->vocab.count == 0)
        return sala_fail(err, SALA_E_CORRUPT, "the tokenizer has no vocabulary");
    const sala_status st = build_added_tries(t, err);
    if (st != SALA_OK)
        return st;
    if (t->model == SALA_MODEL_BPE && !sala_bpe_finish(t))
        return sala_fail_memory(err, t->bpe.n_pairs * sizeof(sala_pair));
    if (t->pre_name == NULL)
        t->pre_name = sala_pretok_name(t->pretoks, t->n_pretoks, t->bpe.ignore_merges);
    return SALA_OK;
}

bool sala_tokenizer_set_affixes(sala_tokenizer *t, bool add_bos, bool add_eos)
{
    int32_t *prefix = malloc(sizeof *prefix), *suffix = malloc(sizeof *suffix);
    if (prefix == NULL || suffix == NULL) {
        free(prefix);
        free(suffix);
        return false;
    }
    free(t->prefix);
    free(t->suffix);
    t->prefix = prefix;
    t->suffix = suffix;
    prefix[0] = t->bos;
    suffix[0] = t->eos;
    t->n_prefix = add_bos && t->bos >= 0;
    t->n_suffix = add_eos && t->eos >= 0;
    return true;
}

int32_t sala_tokenizer_n_vocab(const sala_tokenizer *t)
{
    return t->vocab.count;
}

const char *sala_tokenizer_kind(const sala_tokenizer *t)
{
    if (t->model == SALA_MODEL_UNIGRAM)
        return "unigram";
    return t->bpe.byte_level ? "byte-level BPE" : "SentencePiece BPE";
}

const char *sala_tokenizer_pre(const sala_tokenizer *t)
{
    if (t->n_pretoks == 0)
        return "none";
    return t->pre_name != NULL ? t->pre_name : "custom";
}

int32_t sala_tokenizer_bos(const sala_tokenizer *t)
{
    return t->bos;
}
int32_t sala_tokenizer_eos(const sala_tokenizer *t)
{
    return t->eos;
}
int32_t sala_tokenizer_pad(const sala_tokenizer *t)
{
    return t->pad;
}
int32_t sala_tokenizer_unk(const sala_tokenizer *t)
{
    return t->unk >= 0 ? t->unk : t->named_unk;
}

bool sala_tokenizer_adds_bos(const sala_tokenizer *t)
{
    for (int i = 0; i < t->n_prefix; i++)
        if (t->prefix[i] == t->bos)
            return true;
    return false;
}

bool sala_tokenizer_adds_eos(const sala_tokenizer *t)
{
    for (int i = 0; i < t->n_suffix; i++)
        if (t->suffix[i] == t->eos)
            return true;
    return false;
}

static bool has_id(const sala_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.count && t->vocab.items[id].type != SALA_PIECE_NONE;
}

bool sala_tokenizer_is_special(const sala_tokenizer *t, int32_t id)
{
    return has_id(t, id) && t->vocab.items[id].special;
}

bool sala_tokenizer_piece(const sala_tokenizer *t, int32_t id, const char **s, size_t *len)
{
    if (!has_id(t, id))
        return false;
    *s = sala_vocab_text(&t->vocab, id);
    *len = t->vocab.items[id].len;
    return true;
}

int32_t sala_tokenizer_find(const sala_tokenizer *t, const char *piece, size_t len)
{
    return sala_vocab_find(&t->vocab, piece, len);
}

void sala_ids_free(sala_ids *ids)
{
    free(ids->data);
    *ids = (sala_ids){0};
}

bool sala_ids_push(sala_ids *ids, int32_t id)
{
    if (ids->count == ids->cap) {
        const size_t cap = ids->cap < 64 ? 64 : ids->cap * 2;
        int32_t *data = realloc(ids->data, cap * sizeof *data);
        if (data == NULL)
            return false;
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->count++] = id;
    return true;
}

/* ---- encoding ---- */

bool sala_encoder_no_memory(sala_encoder *e)
{
    if (e->status == SALA_OK)
        e->status = sala_fail(e->err, SALA_E_MEMORY, "memory ran out while text was turned into tokens");
    return false;
}

/* Stretches of the input in which control tokens may be recognised, in order and apart. */
typedef struct stretch {
    size_t from, to;
} stretch;

typedef struct cutter {
    sala_encoder *e;
    const stretch *open;
    size_t n_open;
} cutter;

/* Which special tokens a match at [from, to) may be. */
typedef enum permission { FORBIDDEN, CROSSING, ALLOWED } permission;

static permission permitted(const cutter *c, size_t *cursor, size_t from, size_t to)
{
    while (*cursor < c->n_open && c->open[*cursor].to <= from)
        ++*cursor;
    if (*cursor == c->n_open || c->open[*cursor].from >= to)
        return FORBIDDEN;
    return c->open[*cursor].from <= from && to <= c->open[*cursor].to ? ALLOWED : CROSSING;
}

static size_t spaces_before(const char *s, size_t i)
{
    size_t begin = i;
    while (begin > 0) {
        size_t at = begin - 1;
        while (at > 0 && ((uint8_t)s[at] & 0xC0) == 0x80)
            at--;
        size_t end = at;
        if (!sala_char_is_space(sala_utf8_next(s, &end)))
            break;
        begin = at;
    }
    return begin;
}

static size_t spaces_after(const char *s, size_t n, size_t i)
{
    while (i < n) {
        size_t next = i;
        if (!sala_char_is_space(sala_utf8_next(s, &next)))
            break;
        i = next;
    }
    return i;
}

static bool word_at_edge(const char *s, size_t n, size_t from, size_t to)
{
    size_t i = to;
    if (to < n && sala_char_is_word(sala_utf8_next(s, &i)))
        return true;
    if (from == 0)
        return false;
    i = from - 1;
    while (i > 0 && ((uint8_t)s[i] & 0xC0) == 0x80)
        i--;
    return sala_char_is_word(sala_utf8_next(s, &i));
}

/* One of the two searches for added tokens. */
typedef struct search {
    const sala_trie *trie;
    bool first;       /* what is between goes to the normaliser; otherwise to the pre-tokenizer */
    bool exact;       /* the text is the input from `offset` on, so that each match can be judged by its place */
    bool specials_ok; /* when not exact */
    size_t offset;
} search;

static bool encode_segment(const cutter *c, const char *s, size_t n, size_t offset);

static bool encode_between(const cutter *c, const search *q, const char *s, size_t from, size_t to)
{
    if (from >= to)
        return true;
    if (q->first)
        return encode_segment(c, s + from, to - from, q->offset + from);
    return sala_pretokenize(c->e, 0, s + from, to - from, q->offset + from == 0);
}

static bool cut_added(const cutter *c, const search *q, const char *s, size_t n)
{
    const sala_tokenizer *t = c->e->t;
    size_t done = 0, cursor = 0;
    for (size_t i = 0; i < n && q->trie->nodes != NULL;) {
        int32_t index = -1;
        const size_t len = q->trie->root[(uint8_t)s[i]] == 0 ? 0 : sala_trie_longest(q->trie, s + i, n - i, &index);
        if (len == 0) {
            i++;
            continue;
        }
        const sala_added *a = &t->added[index];
        size_t from = i, to = i + len;
        if (a->special) {
            const permission p = q->exact         ? permitted(c, &cursor, q->offset + from, q->offset + to)
                                 : q->specials_ok ? ALLOWED
                                                  : FORBIDDEN;
            if (p != ALLOWED) {
                /* A forbidden token is passed over whole. One that only reaches into forbidden text must not hide a
                 * token that begins inside of it. */
                i = p == FORBIDDEN ? to : i + 1;
                continue;
            }
        }
        i = to;
        if (a->single_word && word_at_edge(s, n, from, to))
            continue;
        if (a->lstrip) {
            const size_t begin = spaces_before(s, from);
            from = begin > done ? begin : done;
        }
        if (a->rstrip)
            to = spaces_after(s, n, to);
        if (!encode_between(c, q, s, done, from))
            return false;
        if (!sala_ids_push(c->e->ids, a->id))
            return sala_encoder_no_memory(c->e);
        done = to;
        i = to;
    }
    return encode_between(c, q, s, done, n);
}

/* SentencePiece without byte pieces: unknown characters in a row are one unknown piece. */
static void fuse_unknown(sala_ids *ids, size_t begin, int32_t unk)
{
    size_t to = begin;
    for (size_t i = begin; i < ids->count; i++)
        if (ids->data[i] != unk || to == begin || ids->data[to - 1] != unk)
            ids->data[to++] = ids->data[i];
    ids->count = to;
}

/* Text between added tokens of the first kind. */
static bool encode_segment(const cutter *c, const char *s, size_t n, size_t offset)
{
    sala_encoder *e = c->e;
    const sala_tokenizer *t = e->t;
    const size_t before = e->ids->count;
    size_t cursor = 0;
    /* After normalising, places no longer tell which span they came from: a special token that shows only then needs a
     * segment that is open as a whole. */
    const search q = {.trie = &t->added_normalized,
                      .exact = t->n_norms == 0,
                      .specials_ok = permitted(c, &cursor, offset, offset + n) == ALLOWED,
                      .offset = offset};
    bool ok;
    if (t->n_norms == 0) {
        ok = cut_added(c, &q, s, n);
    } else {
        sala_buf normal = {0};
        ok = sala_normalize(t, &normal, s, n, offset == 0) || sala_encoder_no_memory(e);
        ok = ok && cut_added(c, &q, normal.data, normal.len);
        sala_buf_free(&normal);
    }
    if (ok && t->fuse_unknown)
        fuse_unknown(e->ids, before, t->unk);
    return ok;
}

static void encoder_close(sala_encoder *e)
{
    free(e->words);
    free(e->symbols);
    free(e->heap);
    free(e->best);
    pcre2_match_data_free(e->match);
    pcre2_match_context_free(e->match_context);
    pcre2_jit_stack_free(e->jit_stack);
}

static void make_cache(sala_encoder *e, size_t bytes)
{
    /* Fusing takes ids back that an entry may point to. */
    if (bytes < 512 || e->t->fuse_unknown)
        return;
    uint32_t size = 64;
    while (size < bytes / 16 && size < 32768)
        size *= 2;
    /* Without it everything works, only slower. */
    e->words = calloc(size, sizeof *e->words);
    e->word_mask = size - 1;
}

static bool push_all(sala_ids *ids, const int32_t *more, int n)
{
    for (int i = 0; i < n; i++)
        if (!sala_ids_push(ids, more[i]))
            return false;
    return true;
}

sala_status sala_tokenizer_encode(const sala_tokenizer *t, sala_ids *ids, const sala_text_span *spans, size_t n_spans,
                                  bool add_special, sala_error *err)
{
    uint64_t total = 0;
    for (size_t i = 0; i < n_spans; i++)
        if (!sala_add_size(&total, total, spans[i].bytes) || total > SALA_TOK_MAX_TEXT)
            return sala_fail(err, SALA_E_LIMIT, "the text is larger than 2 GiB");
    stretch *open = calloc(n_spans + 1, sizeof *open);
    if (open == NULL)
        return sala_fail_memory(err, n_spans * sizeof *open);
    sala_buf joined = {0};
    const char *text = n_spans == 1 ? spans[0].text : NULL;
    size_t n = (size_t)total, n_open = 0, at = 0;
    if (n_spans > 1 || (n > 0 && !sala_utf8_is_valid(text, n))) {
        for (size_t i = 0; i < n_spans; i++) {
            if (spans[i].bytes > 0)
                sala_utf8_append_lossy(&joined, spans[i].text, spans[i].bytes);
            if (spans[i].parse_special && n_open > 0 && open[n_open - 1].to == at)
                open[n_open - 1].to = joined.len;
            else if (spans[i].parse_special)
                open[n_open++] = (stretch){at, joined.len};
            at = joined.len;
        }
        text = joined.data;
        n = joined.len;
    } else if (n_spans == 1 && spans[0].parse_special) {
        open[n_open++] = (stretch){0, n};
    }
    sala_encoder e = {.t = t, .ids = ids, .ids_base = ids->count, .err = err};
    const cutter c = {&e, open, n_open};
    const search first = {.trie = &t->added_raw, .first = true, .exact = true};
    const size_t before = ids->count;
    bool ok = !joined.failed;
    if (ok) {
        make_cache(&e, n);
        ok = (!add_special || push_all(ids, t->prefix, t->n_prefix)) && (n == 0 || cut_added(&c, &first, text, n)) &&
             (!add_special || push_all(ids, t->suffix, t->n_suffix));
    }
    encoder_close(&e);
    sala_buf_free(&joined);
    free(open);
    if (ok)
        return SALA_OK;
    ids->count = before;
    return e.status != SALA_OK ? e.status
                               : sala_fail(err, SALA_E_MEMORY, "memory ran out while text was turned into tokens");
}
