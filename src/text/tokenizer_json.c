/* tokenizer.json: vocabulary, merges, added tokens; the pipeline's parts are read by tokenizer_json_parts.c. Files come
 * from strangers: every id, merge and pattern is checked, and what is not supported is named. */
#include "text/tokenizer_json.h"

#include "base/json.h"

#define MAX_JSON_BYTES ((size_t)1 << 30)

sala_status sala_json_load(json_t **out, const char *what, const char *json, size_t bytes, bool reject_duplicates,
                           sala_error *err)
{
    if (bytes > MAX_JSON_BYTES)
        return sala_fail(err, SALA_E_LIMIT, "%s has %zu bytes, more than 1 GiB", what, bytes);
    json_error_t e;
    /* The parser bounds its own depth (2048). */
    json_t *j = sala_json_loadb(json, bytes, (reject_duplicates ? JSON_REJECT_DUPLICATES : 0) | JSON_ALLOW_NUL, &e);
    if (j == NULL)
        return sala_fail_at(err, SALA_E_CORRUPT, e.position, "%s: line %d, column %d: %s", what, e.line, e.column,
                            e.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return sala_fail(err, SALA_E_CORRUPT, "%s is not a JSON object", what);
    }
    *out = j;
    return SALA_OK;
}

const char *sala_json_type(const json_t *j)
{
    const char *s = json_string_value(json_object_get(j, "type"));
    return s != NULL ? s : "?";
}

bool sala_json_flag(const json_t *j, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* ---- vocabulary ---- */

static sala_status read_vocab_object(sala_tokenizer *t, json_t *vocab, sala_error *err)
{
    const char *key;
    size_t len;
    json_t *value;
    json_object_keylen_foreach(vocab, key, len, value)
    {
        if (!json_is_integer(value))
            return sala_fail(err, SALA_E_CORRUPT, "the id of \"%.60s\" in model.vocab is not an integer", key);
        const json_int_t id = json_integer_value(value);
        const sala_status st = sala_vocab_put(&t->vocab, id, key, len, SALA_PIECE_NORMAL, 0, err);
        if (st != SALA_OK)
            return st;
        t->vocab.items[id].in_model = true;
    }
    return SALA_OK;
}

/* Holes cost memory. A vocabulary may be mostly holes, such as 256 bytes with control tokens at the far end of a
 * model's embedding; one of millions of ids may not. */
static sala_status check_density(const sala_tokenizer *t, sala_error *err)
{
    int64_t n = 0;
    for (int32_t id = 0; id < t->vocab.count; id++)
        n += t->vocab.items[id].type != SALA_PIECE_NONE;
    if (t->vocab.count > 4 * n + (1 << 20))
        return sala_fail(err, SALA_E_CORRUPT, "the highest token id is %d, but there are only %lld tokens",
                         t->vocab.count - 1, (long long)n);
    return SALA_OK;
}

static sala_status merge_part(const sala_tokenizer *t, size_t index, const char *s, size_t n, int32_t *id,
                              sala_error *err)
{
    *id = sala_vocab_find(&t->vocab, s, n);
    if (*id < 0)
        return sala_fail(err, SALA_E_CORRUPT, "merge %zu names \"%.*s\", which the vocabulary lacks", index,
                         n > 60 ? 60 : (int)n, s);
    return SALA_OK;
}

static sala_status read_merges(sala_tokenizer *t, const json_t *merges, sala_error *err)
{
    const size_t n = json_array_size(merges);
    if (n >= SALA_NO_RANK / 2)
        return sala_fail(err, SALA_E_LIMIT, "model.merges has %zu entries", n);
    sala_buf both = {0};
    sala_status st = SALA_OK;
    for (size_t i = 0; i < n && st == SALA_OK; i++) {
        const json_t *m = json_array_get(merges, i);
        const char *a = NULL, *b = NULL;
        size_t a_len = 0, b_len = 0;
        if (json_is_string(m)) {
            const char *s = json_string_value(m);
            const size_t len = json_string_length(m);
            const char *space = memchr(s, ' ', len);
            if (space != NULL && memchr(space + 1, ' ', len - (size_t)(space + 1 - s)) == NULL) {
                a = s;
                a_len = (size_t)(space - s);
                b = space + 1;
                b_len = len - a_len - 1;
            }
        } else if (json_array_size(m) == 2) {
            const json_t *ja = json_array_get(m, 0), *jb = json_array_get(m, 1);
            a = json_string_value(ja);
            b = json_string_value(jb);
            a_len = json_string_length(ja);
            b_len = json_string_length(jb);
        }
        if (a == NULL || b == NULL) {
            st = sala_fail(err, SALA_E_CORRUPT, "merge %zu is neither \"left right\" nor [\"left\", \"right\"]", i);
            break;
        }
        sala_buf_clear(&both);
        sala_buf_add(&both, a, a_len);
        sala_buf_add(&both, b, b_len);
        int32_t left, right, id;
        if (both.failed)
            st = sala_fail_memory(err, a_len + b_len);
        else if ((st = merge_part(t, i, a, a_len, &left, err)) == SALA_OK &&
                 (st = merge_part(t, i, b, b_len, &right, err)) == SALA_OK &&
                 (st = merge_part(t, i, both.data, both.len, &id, err)) == SALA_OK &&
                 !sala_bpe_add_merge(&t->bpe, left, right, (uint32_t)i, id, true))
            st = sala_fail_memory(err, n * sizeof(sala_pair));
    }
    sala_buf_free(&both);
    return st;
}

static sala_status read_bpe(sala_tokenizer *t, const json_t *model, sala_error *err)
{
    json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_object(vocab) || !json_is_array(merges))
        return sala_fail(err, SALA_E_CORRUPT, "model.vocab is not an object or model.merges is not an array");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(affixes); i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return sala_fail(err, SALA_E_UNSUPPORTED, "model.%s is \"%s\"; only BPE without it is supported",
                             affixes[i], json_string_value(json_object_get(model, affixes[i])));
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return sala_fail(err, SALA_E_UNSUPPORTED, "model.dropout is set: the tokenizer would be random");
    t->model = SALA_MODEL_BPE;
    t->bpe.byte_fallback = sala_json_flag(model, "byte_fallback", false);
    t->bpe.fuse_unk = sala_json_flag(model, "fuse_unk", false);
    t->bpe.ignore_merges = sala_json_flag(model, "ignore_merges", false);
    sala_status st = read_vocab_object(t, vocab, err);
    if (st == SALA_OK)
        st = check_density(t, err);
    if (st == SALA_OK)
        st = sala_vocab_index(&t->vocab, err);
    if (st != SALA_OK)
        return st;
    const json_t *unk = json_object_get(model, "unk_token");
    if (json_is_string(unk)) {
        t->unk = sala_vocab_find(&t->vocab, json_string_value(unk), json_string_length(unk));
        if (t->unk < 0)
            return sala_fail(err, SALA_E_CORRUPT, "model.unk_token is \"%.60s\", which the vocabulary lacks",
                             json_string_value(unk));
    }
    if (!sala_bpe_init(&t->bpe, json_array_size(merges)))
        return sala_fail_memory(err, json_array_size(merges) * sizeof(sala_pair));
    st = sala_bpe_set_symbols(t, err);
    return st == SALA_OK ? read_merges(t, merges, err) : st;
}

static sala_status read_unigram(sala_tokenizer *t, const json_t *model, sala_error *err)
{
    const json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_array(vocab))
        return sala_fail(err, SALA_E_CORRUPT, "model.vocab of a Unigram model is not an array");
    const size_t n = json_array_size(vocab);
    if (n == 0 || n > SALA_TOK_MAX_IDS)
        return sala_fail(err, SALA_E_CORRUPT, "model.vocab has %zu pieces", n);
    t->model = SALA_MODEL_UNIGRAM;
    t->unigram.byte_fallback = sala_json_flag(model, "byte_fallback", false);
    t->unigram.scores = calloc(n + 1, sizeof *t->unigram.scores);
    if (t->unigram.scores == NULL)
        return sala_fail_memory(err, n * sizeof(double));
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(vocab, i);
        const json_t *piece = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        if (!json_is_string(piece) || !json_is_number(score))
            return sala_fail(err, SALA_E_CORRUPT, "entry %zu of model.vocab is not [piece, score]", i);
        t->unigram.scores[i] = json_number_value(score);
        const sala_status st =
            sala_vocab_put(&t->vocab, (int64_t)i, json_string_value(piece), json_string_length(piece),
                           SALA_PIECE_NORMAL, (float)t->unigram.scores[i], err);
        if (st != SALA_OK)
            return st;
        t->vocab.items[i].in_model = true;
    }
    const json_t *unk = json_object_get(model, "unk_id");
    if (json_is_integer(unk)) {
        if (json_integer_value(unk) < 0 || json_integer_value(unk) >= (json_int_t)n)
            return sala_fail(err, SALA_E_CORRUPT, "model.unk_id is %lld of %zu pieces",
                             (long long)json_integer_value(unk), n);
        t->unk = (int32_t)json_integer_value(unk);
    }
    const sala_status st = sala_vocab_index(&t->vocab, err);
    return st == SALA_OK ? sala_unigram_build(t, err) : st;
}

static sala_status read_model(sala_tokenizer *t, const json_t *model, sala_error *err)
{
    if (!json_is_object(model))
        return sala_fail(err, SALA_E_CORRUPT, "there is no \"model\" object");
    const char *type = sala_json_type(model);
    if (strcmp(type, "?") == 0) /* old files leave the type out */
        type = json_object_get(model, "merges") != NULL         ? "BPE"
               : json_is_array(json_object_get(model, "vocab")) ? "Unigram"
                                                                : "?";
    if (strcmp(type, "BPE") == 0)
        return read_bpe(t, model, err);
    if (strcmp(type, "Unigram") == 0) {
        if (t->bpe.byte_level)
            return sala_fail(err, SALA_E_UNSUPPORTED, "a Unigram model behind a ByteLevel pre-tokenizer");
        return read_unigram(t, model, err);
    }
    return sala_fail(err, SALA_E_UNSUPPORTED, "model.type is \"%.60s\"; known are BPE and Unigram", type);
}

/* ---- added tokens ---- */

sala_status sala_json_added_token(sala_tokenizer *t, int64_t id, const json_t *j, sala_error *err)
{
    const json_t *content = json_object_get(j, "content");
    if (!json_is_string(content))
        return sala_fail(err, SALA_E_CORRUPT, "the added token with id %lld has no \"content\"", (long long)id);
    if (id < 0 || id >= SALA_TOK_MAX_IDS)
        return sala_fail(err, SALA_E_CORRUPT, "the id %lld of the added token \"%.60s\" is outside of 0..%d",
                         (long long)id, json_string_value(content), SALA_TOK_MAX_IDS - 1);
    sala_added a = {.id = (int32_t)id, .len = json_string_length(content)};
    a.text = (char *)(uintptr_t)json_string_value(content); /* only read from, and copied */
    a.special = sala_json_flag(j, "special", false);
    a.lstrip = sala_json_flag(j, "lstrip", false);
    a.rstrip = sala_json_flag(j, "rstrip", false);
    a.single_word = sala_json_flag(j, "single_word", false);
    a.normalized = sala_json_flag(j, "normalized", !a.special);
    return sala_tokenizer_add_token(t, &a, err);
}

static sala_status read_added(sala_tokenizer *t, const json_t *added, sala_error *err)
{
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *j = json_array_get(added, i);
        const json_t *id = json_object_get(j, "id");
        if (!json_is_integer(id))
            return sala_fail(err, SALA_E_CORRUPT, "entry %zu of added_tokens has no integer \"id\"", i);
        const sala_status st = sala_json_added_token(t, json_integer_value(id), j, err);
        if (st != SALA_OK)
            return st;
    }
    const sala_status st = check_density(t, err);
    return st == SALA_OK ? sala_vocab_index(&t->vocab, err) : st;
}

static sala_status build(sala_tokenizer *t, const json_t *root, const json_t *config, sala_error *err)
{
    sala_status st = sala_json_normalizer(t, json_object_get(root, "normalizer"), 0, err);
    if (st == SALA_OK)
        st = sala_json_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), 0, err);
    if (st == SALA_OK)
        st = read_model(t, json_object_get(root, "model"), err);
    if (st == SALA_OK)
        st = read_added(t, json_object_get(root, "added_tokens"), err);
    if (st == SALA_OK)
        st = sala_json_decoder(t, json_object_get(root, "decoder"), err);
    if (st == SALA_OK)
        st = sala_json_post_processor(t, json_object_get(root, "post_processor"), 0, err);
    if (st == SALA_OK && t->n_prefix > 0)
        t->bos = t->prefix[0];
    if (st == SALA_OK && t->n_suffix > 0)
        t->eos = t->suffix[t->n_suffix - 1];
    if (st == SALA_OK && config != NULL)
        st = sala_json_config(t, config, err);
    return st == SALA_OK ? sala_tokenizer_finish(t, err) : st;
}

sala_status sala_tokenizer_from_json_values(sala_tokenizer **out, const json_t *root, const json_t *config,
                                            sala_error *err)
{
    sala_tokenizer *t = NULL;
    sala_status st = sala_tokenizer_new(&t, err);
    if (st == SALA_OK && (st = build(t, root, config, err)) != SALA_OK)
        sala_fail_prefix(err, st, "tokenizer.json");
    if (st == SALA_OK)
        *out = t;
    else
        sala_tokenizer_free(t);
    return st;
}

sala_status sala_tokenizer_from_json(sala_tokenizer **out, const char *json, size_t bytes, const char *config_json,
                                     size_t config_bytes, sala_error *err)
{
    json_t *root = NULL, *config = NULL;
    sala_status st = sala_json_load(&root, "tokenizer.json", json, bytes, true, err);
    if (st == SALA_OK && config_json != NULL)
        st = sala_json_load(&config, "tokenizer_config.json", config_json, config_bytes, false, err);
    if (st == SALA_OK)
        st = sala_tokenizer_from_json_values(out, root, config, err);
    json_decref(root);
    json_decref(config);
    return st;
}
