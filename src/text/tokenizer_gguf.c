/* The tokenizer in GGUF metadata, keys tokenizer.ggml.*: "llama" (SentencePiece BPE by score, or by merges where the
 * file has them), "gpt2" (byte-level BPE) and "t5" (unigram). Behaviour where the metadata leave it open is
 * llama.cpp's. */
#include "text/tokenizer_impl.h"

#define KEY(name) "tokenizer.ggml." name

static sala_status array_of(const sala_gguf_kv **out, const sala_gguf *g, const char *key, uint64_t count,
                            sala_error *err)
{
    const sala_gguf_kv *kv = sala_gguf_find(g, key);
    *out = kv;
    if (kv == NULL)
        return SALA_OK;
    if (kv->type != SALA_GGUF_ARRAY)
        return sala_fail(err, SALA_E_CORRUPT, "%s is not an array", key);
    if (count > 0 && kv->count != count)
        return sala_fail(err, SALA_E_CORRUPT, "%s has %llu elements for %llu tokens", key,
                         (unsigned long long)kv->count, (unsigned long long)count);
    return SALA_OK;
}

static sala_status read_tokens(sala_tokenizer *t, const sala_gguf *g, bool *has_scores, sala_error *err)
{
    const sala_gguf_kv *tokens, *types = NULL, *scores = NULL;
    sala_status st = array_of(&tokens, g, KEY("tokens"), 0, err);
    if (st == SALA_OK && (tokens == NULL || tokens->elem_type != SALA_GGUF_STRING || tokens->count == 0))
        return sala_fail(err, SALA_E_CORRUPT, KEY("tokens") " is missing, empty, or not an array of strings");
    if (st == SALA_OK && tokens->count > SALA_TOK_MAX_IDS)
        return sala_fail(err, SALA_E_LIMIT, KEY("tokens") " has %llu elements", (unsigned long long)tokens->count);
    if (st == SALA_OK)
        st = array_of(&types, g, KEY("token_type"), tokens->count, err);
    if (st == SALA_OK)
        st = array_of(&scores, g, KEY("scores"), tokens->count, err);
    if (st != SALA_OK)
        return st;
    *has_scores = scores != NULL;
    sala_reader r = sala_gguf_array_reader(tokens);
    for (uint64_t i = 0; i < tokens->count; i++) {
        const char *s;
        size_t n;
        int64_t type = SALA_PIECE_NORMAL;
        double score = 0;
        if (!sala_gguf_next_str(&r, &s, &n))
            return sala_fail(err, SALA_E_CORRUPT, KEY("tokens") " ends within element %llu", (unsigned long long)i);
        if ((types != NULL && !sala_gguf_array_i64(types, i, &type)) ||
            (scores != NULL && !sala_gguf_array_f64(scores, i, &score)))
            return sala_fail(err, SALA_E_CORRUPT, "type or score of token %llu is not a number", (unsigned long long)i);
        /* 0 is "undefined", which old writers used for ordinary tokens. */
        if (type == 0)
            type = SALA_PIECE_NORMAL;
        if (type < 0 || type > SALA_PIECE_BYTE)
            return sala_fail(err, SALA_E_CORRUPT, "token %llu has the type %lld; known are 0 to 6",
                             (unsigned long long)i, (long long)type);
        st = sala_vocab_put(&t->vocab, (int64_t)i, s, n, (sala_piece_type)type, (float)score, err);
        if (st != SALA_OK)
            return st;
        sala_piece *p = &t->vocab.items[i];
        p->in_model = type != SALA_PIECE_CONTROL && type != SALA_PIECE_UNKNOWN;
        p->special = !p->in_model;
    }
    return sala_vocab_index(&t->vocab, err);
}

static sala_status special_id(const sala_tokenizer *t, const sala_gguf *g, const char *key, int32_t otherwise,
                              int32_t *out, sala_error *err)
{
    int64_t id = otherwise;
    if (sala_gguf_get_i64(g, key, &id) && id == UINT32_MAX) /* how some writers say "none" */
        id = -1;
    if (id >= t->vocab.count) {
        if (id == otherwise) {
            *out = -1;
            return SALA_OK;
        }
        return sala_fail(err, SALA_E_CORRUPT, "%s is %lld, but there are only %d tokens", key, (long long)id,
                         t->vocab.count);
    }
    *out = id < 0 ? -1 : (int32_t)id;
    return SALA_OK;
}

/* Control, unknown and user-defined tokens are recognised in text. */
static sala_status add_tokens(sala_tokenizer *t, bool user_too, sala_error *err)
{
    for (int32_t id = 0; id < t->vocab.count; id++) {
        const sala_piece *p = &t->vocab.items[id];
        /* Bytes that are no text cannot be met in text; old files have such tokens. */
        if (p->len == 0 || !sala_utf8_is_valid(sala_vocab_text(&t->vocab, id), p->len))
            continue;
        if (!(p->special || (user_too && p->type == SALA_PIECE_USER)))
            continue;
        char *text = sala_strndup(sala_vocab_text(&t->vocab, id), p->len);
        if (text == NULL)
            return sala_fail_memory(err, p->len);
        const sala_added a = {.id = id, .text = text, .len = p->len, .special = p->special};
        const sala_status st = sala_tokenizer_add_token(t, &a, err);
        free(text);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status set_affixes(sala_tokenizer *t, const sala_gguf *g, bool bos, bool eos, sala_error *err)
{
    sala_gguf_get_bool(g, KEY("add_bos_token"), &bos);
    sala_gguf_get_bool(g, KEY("add_eos_token"), &eos);
    return sala_tokenizer_set_affixes(t, bos, eos) ? SALA_OK : sala_fail_memory(err, 64);
}

static sala_status special_ids(sala_tokenizer *t, const sala_gguf *g, int32_t bos, int32_t eos, int32_t unk,
                               sala_error *err)
{
    sala_status st = special_id(t, g, KEY("bos_token_id"), bos, &t->bos, err);
    if (st == SALA_OK)
        st = special_id(t, g, KEY("eos_token_id"), eos, &t->eos, err);
    if (st == SALA_OK)
        st = special_id(t, g, KEY("padding_token_id"), -1, &t->pad, err);
    return st == SALA_OK ? special_id(t, g, KEY("unknown_token_id"), unk, &t->unk, err) : st;
}

/* ---- merges ---- */

static sala_status read_merges(sala_tokenizer *t, const sala_gguf *g, sala_error *err)
{
    const sala_gguf_kv *kv;
    sala_status st = array_of(&kv, g, KEY("merges"), 0, err);
    if (st == SALA_OK && (kv == NULL || kv->elem_type != SALA_GGUF_STRING))
        return sala_fail(err, SALA_E_CORRUPT, KEY("merges") " is missing or not an array of strings");
    if (st == SALA_OK && kv->count >= SALA_NO_RANK / 2)
        return sala_fail(err, SALA_E_LIMIT, KEY("merges") " has %llu elements", (unsigned long long)kv->count);
    if (st == SALA_OK && !sala_bpe_init(&t->bpe, kv->count))
        return sala_fail_memory(err, kv->count * sizeof(sala_pair));
    if (st == SALA_OK)
        st = sala_bpe_set_symbols(t, err);
    if (st != SALA_OK)
        return st;
    sala_reader r = sala_gguf_array_reader(kv);
    sala_buf both = {0};
    for (uint64_t i = 0; i < kv->count && st == SALA_OK; i++) {
        const char *s;
        size_t n;
        if (!sala_gguf_next_str(&r, &s, &n)) {
            st = sala_fail(err, SALA_E_CORRUPT, KEY("merges") " ends within element %llu", (unsigned long long)i);
            break;
        }
        /* A piece may begin with a space, but not be empty. */
        const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        const size_t left_len = space != NULL ? (size_t)(space - s) : 0;
        int32_t left = -1, right = -1, id = -1;
        if (space != NULL) {
            sala_buf_clear(&both);
            sala_buf_add(&both, s, left_len);
            sala_buf_add(&both, space + 1, n - left_len - 1);
            left = sala_vocab_find(&t->vocab, s, left_len);
            right = sala_vocab_find(&t->vocab, space + 1, n - left_len - 1);
            if (!both.failed)
                id = sala_vocab_find(&t->vocab, both.data, both.len);
        }
        if (left < 0 || right < 0 || id < 0)
            st = sala_fail(err, SALA_E_CORRUPT,
                           KEY("merges") "[%llu] is \"%.*s\", which does not join two tokens to a third",
                           (unsigned long long)i, n > 60 ? 60 : (int)n, s);
        else if (!sala_bpe_add_merge(&t->bpe, left, right, (uint32_t)i, id, false))
            st = sala_fail_memory(err, kv->count * sizeof(sala_pair));
    }
    sala_buf_free(&both);
    return st;
}

/* ---- llama ---- */

static sala_status merges_by_score(sala_tokenizer *t, sala_error *err)
{
    sala_status st = sala_bpe_init(&t->bpe, (uint64_t)t->vocab.count)
                         ? sala_bpe_set_symbols(t, err)
                         : sala_fail_memory(err, (uint64_t)t->vocab.count * sizeof(sala_pair));
    t->bpe.byte_fallback = t->bpe.all_bytes;
    t->fuse_unknown = !t->bpe.byte_fallback;
    return st == SALA_OK ? sala_bpe_merges_from_scores(t, err) : st;
}

/* Hugging Face's BPE over the same text. Only files with merges beside the scores have this; what its two flags are
 * where the keys are missing is what conversions of SentencePiece models have. */
static sala_status merges_by_rank(sala_tokenizer *t, const sala_gguf *g, sala_error *err)
{
    sala_bpe *b = &t->bpe;
    b->fuse_unk = true;
    sala_gguf_get_bool(g, KEY("fuse_unk"), &b->fuse_unk);
    sala_gguf_get_bool(g, KEY("ignore_merges"), &b->ignore_merges);
    for (int32_t id = 0; id < t->vocab.count; id++) {
        sala_piece *p = &t->vocab.items[id];
        b->byte_fallback |= p->type == SALA_PIECE_BYTE;
        p->in_model = p->in_model && p->type != SALA_PIECE_UNUSED; /* padding up to the rows of the embedding */
    }
    return read_merges(t, g, err);
}

/* A space in front of every stretch of text between tokens, then all spaces become U+2581. Files with merges may ask
 * for Hugging Face's Metaspace instead, which adds no second space and may add one at the start of the text only. */
static sala_status make_spaces_visible(sala_tokenizer *t, const sala_gguf *g, bool prefix, sala_error *err)
{
    const char *scheme;
    size_t len;
    if (!t->bpe.by_score && prefix && sala_gguf_get_str(g, KEY("prepend_scheme"), &scheme, &len)) {
        const bool first = len == 5 && memcmp(scheme, "first", 5) == 0;
        if (!first && !(len == 6 && memcmp(scheme, "always", 6) == 0))
            return sala_fail(err, SALA_E_UNSUPPORTED, KEY("prepend_scheme") " is \"%.*s\"; known are first and always",
                             len > 60 ? 60 : (int)len, scheme);
        sala_pretok_step *m = sala_tokenizer_add_pretok(t, SALA_PT_METASPACE);
        if (m == NULL || (m->text = sala_strdup(SALA_META)) == NULL)
            return sala_fail_memory(err, sizeof *m);
        m->text_len = SALA_META_LEN;
        m->prepend = first ? SALA_PREPEND_FIRST : SALA_PREPEND_ALWAYS;
        return SALA_OK;
    }
    if (prefix) {
        sala_norm_step *f = sala_tokenizer_add_norm(t, SALA_NORM_PREPEND);
        if (f == NULL || (f->to = sala_strdup(SALA_META)) == NULL)
            return sala_fail_memory(err, sizeof *f);
        f->to_len = SALA_META_LEN;
    }
    sala_norm_step *f = sala_tokenizer_add_norm(t, SALA_NORM_REPLACE);
    if (f == NULL || (f->from = sala_strdup(" ")) == NULL || (f->to = sala_strdup(SALA_META)) == NULL)
        return sala_fail_memory(err, sizeof *f);
    f->from_len = 1;
    f->to_len = SALA_META_LEN;
    return SALA_OK;
}

static sala_status read_llama(sala_tokenizer *t, const sala_gguf *g, bool has_scores, sala_error *err)
{
    bool prefix = true;
    sala_gguf_get_bool(g, KEY("add_space_prefix"), &prefix);
    if (!has_scores)
        return sala_fail(err, SALA_E_CORRUPT, "the tokenizer is \"llama\", but " KEY("scores") " is missing");
    sala_status st = special_ids(t, g, 1, 2, 0, err);
    if (st == SALA_OK)
        st = add_tokens(t, true, err);
    if (st != SALA_OK)
        return st;
    t->model = SALA_MODEL_BPE;
    t->bpe.by_score = sala_gguf_find(g, KEY("merges")) == NULL;
    st = make_spaces_visible(t, g, prefix, err);
    if (st == SALA_OK && !sala_decoder_llama(&t->decoder, prefix))
        st = sala_fail_memory(err, 64);
    if (st == SALA_OK)
        st = t->bpe.by_score ? merges_by_score(t, err) : merges_by_rank(t, g, err);
    return st == SALA_OK ? set_affixes(t, g, true, false, err) : st;
}

/* ---- gpt2 ---- */

static sala_status read_gpt2(sala_tokenizer *t, const sala_gguf *g, sala_error *err)
{
    const char *pre = "default";
    size_t pre_len = 7;
    sala_gguf_get_str(g, KEY("pre"), &pre, &pre_len);
    sala_pretok_step steps[SALA_PRETOK_MAX];
    int n_steps = 0;
    sala_status st = sala_pretok_by_name(steps, &n_steps, &t->bpe.ignore_merges, pre, pre_len, err);
    for (int i = 0; i < n_steps && st == SALA_OK; i++) {
        sala_pretok_step *to = sala_tokenizer_add_pretok(t, steps[i].kind);
        if (to == NULL) {
            for (; i < n_steps; i++)
                sala_pretok_step_free(&steps[i]);
            return sala_fail_memory(err, sizeof *to);
        }
        *to = steps[i];
    }
    t->pre_name = st == SALA_OK ? sala_pretok_known_name(pre, pre_len) : NULL;
    t->model = SALA_MODEL_BPE;
    t->bpe.byte_level = true;
    t->decoder.byte_level = true;
    if (st == SALA_OK)
        st = special_ids(t, g, -1, -1, -1, err);
    /* The model's own unknown token would be written for bytes that the vocabulary lacks; llama.cpp drops those. */
    t->named_unk = t->unk;
    t->unk = -1;
    if (st == SALA_OK)
        st = add_tokens(t, true, err);
    if (st == SALA_OK)
        st = read_merges(t, g, err);
    return st == SALA_OK ? set_affixes(t, g, t->bpe.ignore_merges, false, err) : st;
}

/* ---- t5 ---- */

static sala_status read_t5(sala_tokenizer *t, const sala_gguf *g, bool has_scores, sala_error *err)
{
    if (!has_scores)
        return sala_fail(err, SALA_E_CORRUPT, "the tokenizer is \"t5\", but " KEY("scores") " is missing");
    sala_norm_step *f = sala_tokenizer_add_norm(t, SALA_NORM_SENTENCEPIECE);
    if (f == NULL)
        return sala_fail_memory(err, sizeof *f);
    f->dummy_prefix = f->remove_extra_spaces = f->escape_spaces = true;
    sala_gguf_get_bool(g, KEY("add_space_prefix"), &f->dummy_prefix);
    sala_gguf_get_bool(g, KEY("remove_extra_whitespaces"), &f->remove_extra_spaces);
    const sala_gguf_kv *map;
    sala_status st = array_of(&map, g, KEY("precompiled_charsmap"), 0, err);
    if (st == SALA_OK && map != NULL) {
        st = map->elem_type == SALA_GGUF_U8 || map->elem_type == SALA_GGUF_I8
                 ? sala_charsmap_parse(&t->charsmap, map->raw, (size_t)map->raw_bytes, err)
                 : sala_fail(err, SALA_E_CORRUPT, KEY("precompiled_charsmap") " is not an array of bytes");
    }
    if (st == SALA_OK)
        st = special_ids(t, g, -1, 1, 2, err);
    t->model = SALA_MODEL_UNIGRAM;
    t->unigram.sentencepiece = true;
    if (st == SALA_OK)
        st = add_tokens(t, false, err);
    if (st == SALA_OK)
        st = sala_tokenizer_index_user_pieces(t, err);
    if (st == SALA_OK)
        st = sala_unigram_build(t, err);
    t->unigram.byte_fallback = t->unigram.all_bytes;
    t->fuse_unknown = !t->unigram.all_bytes;
    if (st == SALA_OK && !sala_decoder_llama(&t->decoder, f->dummy_prefix || f->remove_extra_spaces))
        st = sala_fail_memory(err, 64);
    return st == SALA_OK ? set_affixes(t, g, false, true, err) : st;
}

sala_status sala_tokenizer_from_gguf(sala_tokenizer **out, const sala_gguf *g, sala_error *err)
{
    const char *model;
    size_t len;
    if (!sala_gguf_get_str(g, KEY("model"), &model, &len))
        return sala_fail(err, SALA_E_NOT_FOUND, "the file has no tokenizer: " KEY("model") " is missing");
    if ((len == 4 && memcmp(model, "none", 4) == 0) || (len == 8 && memcmp(model, "no_vocab", 8) == 0))
        return sala_fail(err, SALA_E_NOT_FOUND, "the file has no tokenizer: " KEY("model") " is \"%.*s\"", (int)len,
                         model);
    const bool llama = len == 5 && memcmp(model, "llama", 5) == 0;
    const bool gpt2 = len == 4 && memcmp(model, "gpt2", 4) == 0;
    const bool t5 = len == 2 && memcmp(model, "t5", 2) == 0;
    if (!llama && !gpt2 && !t5)
        return sala_fail(err, SALA_E_UNSUPPORTED, KEY("model") " is \"%.*s\"; known are llama, gpt2 and t5",
                         len > 60 ? 60 : (int)len, model);
    sala_tokenizer *t = NULL;
    bool has_scores = false;
    sala_status st = sala_tokenizer_new(&t, err);
    if (st == SALA_OK)
        st = read_tokens(t, g, &has_scores, err);
    if (st == SALA_OK)
        st = llama ? read_llama(t, g, has_scores, err) : gpt2 ? read_gpt2(t, g, err) : read_t5(t, g, has_scores, err);
    if (st == SALA_OK)
        st = sala_tokenizer_finish(t, err);
    if (st == SALA_OK)
        *out = t;
    else
        sala_tokenizer_free(t);
    return st;
}
