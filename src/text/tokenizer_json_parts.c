/* The parts of tokenizer.json around the model: normaliser, pre-tokenizer, decoder, post-processor, and what
 * tokenizer_config.json says about special tokens. Each is a small tree whose sequences are flattened here. */
#include "text/tokenizer_json.h"

#include <limits.h>

#define MAX_DEPTH 16
#define MAX_STEPS 64

static sala_status too_deep(const char *what, sala_error *err)
{
    return sala_fail(err, SALA_E_LIMIT, "%s is nested deeper than %d levels or has more than %d steps", what, MAX_DEPTH,
                     MAX_STEPS);
}

/* {"String": s} or {"Regex": s}, or a plain string; false for anything else. */
static bool pattern_of(const json_t *j, const char **s, size_t *n, bool *is_regex)
{
    const json_t *p = json_object_get(j, "pattern");
    const json_t *regex = json_object_get(p, "Regex");
    const json_t *text = json_is_string(p) ? p : json_object_get(p, "String");
    const json_t *v = regex != NULL ? regex : text;
    *is_regex = regex != NULL;
    *s = json_string_value(v);
    *n = json_string_length(v);
    return *s != NULL;
}

/* ---- normaliser ---- */

static bool decode_base64(sala_buf *out, const char *s, size_t n)
{
    uint32_t bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        const char c = s[i];
        const int v = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            sala_buf_add_char(out, (char)(bits >> n_bits));
        }
    }
    return !out->failed;
}

static sala_status read_charsmap(sala_tokenizer *t, const json_t *j, sala_error *err)
{
    const json_t *text = json_object_get(j, "precompiled_charsmap");
    sala_buf bytes = {0};
    sala_status st;
    if (t->charsmap.n_units > 0)
        st = sala_fail(err, SALA_E_UNSUPPORTED, "the normalizer has two precompiled character maps");
    else if (!json_is_string(text) || !decode_base64(&bytes, json_string_value(text), json_string_length(text)))
        st = sala_fail(err, SALA_E_CORRUPT, "the normalizer's precompiled_charsmap is not base64 text");
    else
        st = sala_charsmap_parse(&t->charsmap, bytes.data, bytes.len, err);
    sala_buf_free(&bytes);
    return st;
}

static sala_status replace_step(sala_norm_step *f, const json_t *j, sala_error *err)
{
    const json_t *content = json_object_get(j, "content");
    const char *s;
    size_t n;
    bool is_regex;
    if (!pattern_of(j, &s, &n, &is_regex) || !json_is_string(content))
        return sala_fail(err, SALA_E_CORRUPT, "a Replace normalizer lacks its pattern or content");
    f->to = sala_strndup(json_string_value(content), json_string_length(content));
    f->to_len = json_string_length(content);
    if (is_regex) {
        f->kind = SALA_NORM_REPLACE_REGEX;
        const sala_status st = sala_regex_compile(&f->regex, s, n, err);
        if (st != SALA_OK)
            return st;
    }
    f->from = sala_strndup(s, n);
    f->from_len = n;
    return f->to == NULL || f->from == NULL ? sala_fail_memory(err, n) : SALA_OK;
}

sala_status sala_json_normalizer(sala_tokenizer *t, const json_t *j, int depth, sala_error *err)
{
    if (j == NULL || json_is_null(j))
        return SALA_OK;
    if (depth > MAX_DEPTH || t->n_norms >= MAX_STEPS)
        return too_deep("normalizer", err);
    const char *type = sala_json_type(j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "normalizers");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const sala_status st = sala_json_normalizer(t, json_array_get(list, i), depth + 1, err);
            if (st != SALA_OK)
                return st;
        }
        return SALA_OK;
    }
    static const struct {
        const char *name;
        sala_norm_kind kind;
    } kinds[] = {
        {"Prepend", SALA_NORM_PREPEND},
        {"Replace", SALA_NORM_REPLACE},
        {"NFC", SALA_NORM_NFC},
        {"NFD", SALA_NORM_NFD},
        {"NFKC", SALA_NORM_NFKC},
        {"NFKD", SALA_NORM_NFKD},
        {"Lowercase", SALA_NORM_LOWERCASE},
        {"Strip", SALA_NORM_STRIP},
        {"StripAccents", SALA_NORM_STRIP_ACCENTS},
        {"Nmt", SALA_NORM_NMT},
        {"Precompiled", SALA_NORM_CHARSMAP},
    };
    size_t k = 0;
    while (k < SALA_ARRAY_LEN(kinds) && strcmp(kinds[k].name, type) != 0)
        k++;
    if (k == SALA_ARRAY_LEN(kinds))
        return sala_fail(err, SALA_E_UNSUPPORTED, "the normalizer \"%.60s\" is not known", type);
    if (kinds[k].kind == SALA_NORM_CHARSMAP) {
        const sala_status st = read_charsmap(t, j, err);
        if (st != SALA_OK)
            return st;
    }
    sala_norm_step *f = sala_tokenizer_add_norm(t, kinds[k].kind);
    if (f == NULL)
        return sala_fail_memory(err, sizeof *f);
    f->left = sala_json_flag(j, "strip_left", true);
    f->right = sala_json_flag(j, "strip_right", true);
    if (f->kind == SALA_NORM_PREPEND) {
        const json_t *s = json_object_get(j, "prepend");
        if (!json_is_string(s))
            return sala_fail(err, SALA_E_CORRUPT, "a Prepend normalizer lacks \"prepend\"");
        f->to_len = json_string_length(s);
        f->to = sala_strndup(json_string_value(s), f->to_len);
        return f->to == NULL ? sala_fail_memory(err, f->to_len) : SALA_OK;
    }
    return f->kind == SALA_NORM_REPLACE ? replace_step(f, j, err) : SALA_OK;
}

/* ---- pre-tokenizer ---- */

static sala_status behavior_of(sala_split_behavior *out, const json_t *j, sala_split_behavior otherwise,
                               sala_error *err)
{
    static const struct {
        const char *name;
        sala_split_behavior behavior;
    } known[] = {
        {"Removed", SALA_SPLIT_REMOVED},
        {"Isolated", SALA_SPLIT_ISOLATED},
        {"MergedWithPrevious", SALA_SPLIT_WITH_PREVIOUS},
        {"MergedWithNext", SALA_SPLIT_WITH_NEXT},
        {"Contiguous", SALA_SPLIT_CONTIGUOUS},
    };
    const json_t *v = json_object_get(j, "behavior");
    *out = otherwise;
    if (v == NULL)
        return SALA_OK;
    for (size_t i = 0; json_is_string(v) && i < SALA_ARRAY_LEN(known); i++) {
        if (strcmp(json_string_value(v), known[i].name) == 0) {
            *out = known[i].behavior;
            return SALA_OK;
        }
    }
    return sala_fail(err, SALA_E_CORRUPT, "the pre-tokenizer's behavior \"%.60s\" is not known",
                     json_is_string(v) ? json_string_value(v) : "?");
}

static sala_status no_step_memory(sala_error *err)
{
    return sala_fail_memory(err, sizeof(sala_pretok_step));
}

static sala_status byte_level_step(sala_tokenizer *t, const json_t *j, sala_error *err)
{
    if (sala_json_flag(j, "add_prefix_space", true) && sala_tokenizer_add_pretok(t, SALA_PT_PREFIX_SPACE) == NULL)
        return no_step_memory(err);
    t->bpe.byte_level = true;
    if (!sala_json_flag(j, "use_regex", true))
        return SALA_OK;
    sala_pretok_step *f = sala_tokenizer_add_pretok(t, SALA_PT_SCAN);
    return f == NULL ? no_step_memory(err)
                     : sala_pretok_regex(f, sala_regex_gpt2, strlen(sala_regex_gpt2), SALA_SPLIT_ISOLATED, false, err);
}

static sala_status split_step(sala_pretok_step *f, const json_t *j, sala_error *err)
{
    const char *s;
    size_t n;
    bool is_regex;
    sala_split_behavior behavior;
    if (!pattern_of(j, &s, &n, &is_regex))
        return sala_fail(err, SALA_E_CORRUPT, "a Split pre-tokenizer lacks its pattern");
    const sala_status st = behavior_of(&behavior, j, SALA_SPLIT_ISOLATED, err);
    if (st != SALA_OK)
        return st;
    const bool invert = sala_json_flag(j, "invert", false);
    if (is_regex)
        return sala_pretok_regex(f, s, n, behavior, invert, err);
    f->behavior = behavior;
    f->invert = invert;
    f->text = sala_strndup(s, n);
    f->text_len = n;
    return f->text == NULL ? sala_fail_memory(err, n) : SALA_OK;
}

static sala_status metaspace_step(sala_pretok_step *f, const json_t *j, sala_error *err)
{
    const json_t *r = json_object_get(j, "replacement"), *scheme = json_object_get(j, "prepend_scheme");
    const char *s = json_is_string(r) ? json_string_value(r) : SALA_META;
    f->behavior = SALA_SPLIT_WITH_NEXT;
    f->text = sala_strdup(s);
    f->text_len = strlen(s);
    f->split = sala_json_flag(j, "split", true);
    f->prepend = sala_json_flag(j, "add_prefix_space", true) ? SALA_PREPEND_ALWAYS : SALA_PREPEND_NEVER;
    if (json_is_string(scheme)) {
        const char *name = json_string_value(scheme);
        if (strcmp(name, "always") != 0 && strcmp(name, "never") != 0 && strcmp(name, "first") != 0)
            return sala_fail(err, SALA_E_CORRUPT, "the prepend_scheme \"%.60s\" of Metaspace is not known", name);
        f->prepend = name[0] == 'a' ? SALA_PREPEND_ALWAYS : name[0] == 'n' ? SALA_PREPEND_NEVER : SALA_PREPEND_FIRST;
    }
    if (f->text_len == 0)
        return sala_fail(err, SALA_E_CORRUPT, "the replacement of Metaspace is empty");
    return f->text == NULL ? sala_fail_memory(err, f->text_len) : SALA_OK;
}

sala_status sala_json_pre_tokenizer(sala_tokenizer *t, const json_t *j, int depth, sala_error *err)
{
    if (j == NULL || json_is_null(j))
        return SALA_OK;
    if (depth > MAX_DEPTH || t->n_pretoks >= MAX_STEPS)
        return too_deep("pre_tokenizer", err);
    const char *type = sala_json_type(j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "pretokenizers");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const sala_status st = sala_json_pre_tokenizer(t, json_array_get(list, i), depth + 1, err);
            if (st != SALA_OK)
                return st;
        }
        return SALA_OK;
    }
    if (t->bpe.byte_level)
        return sala_fail(err, SALA_E_UNSUPPORTED, "the pre-tokenizer \"%.60s\" behind ByteLevel", type);
    if (strcmp(type, "ByteLevel") == 0)
        return byte_level_step(t, j, err);
    static const struct {
        const char *name;
        sala_pretok_kind kind;
        sala_split_behavior behavior;
    } kinds[] = {
        {"Split", SALA_PT_LITERAL, SALA_SPLIT_ISOLATED},
        {"CharDelimiterSplit", SALA_PT_LITERAL, SALA_SPLIT_REMOVED},
        {"Metaspace", SALA_PT_METASPACE, SALA_SPLIT_WITH_NEXT},
        {"Digits", SALA_PT_DIGITS, SALA_SPLIT_CONTIGUOUS},
        {"Whitespace", SALA_PT_WHITESPACE, SALA_SPLIT_REMOVED},
        {"WhitespaceSplit", SALA_PT_SPACES, SALA_SPLIT_REMOVED},
        {"Punctuation", SALA_PT_PUNCTUATION, SALA_SPLIT_ISOLATED},
        {"BertPreTokenizer", SALA_PT_SPACES, SALA_SPLIT_REMOVED},
    };
    size_t k = 0;
    while (k < SALA_ARRAY_LEN(kinds) && strcmp(kinds[k].name, type) != 0)
        k++;
    if (k == SALA_ARRAY_LEN(kinds))
        return sala_fail(err, SALA_E_UNSUPPORTED, "the pre-tokenizer \"%.60s\" is not known", type);
    sala_pretok_step *f = sala_tokenizer_add_pretok(t, kinds[k].kind);
    if (f == NULL)
        return no_step_memory(err);
    f->behavior = kinds[k].behavior;
    if (strcmp(type, "Split") == 0)
        return split_step(f, j, err);
    if (strcmp(type, "Metaspace") == 0)
        return metaspace_step(f, j, err);
    if (strcmp(type, "Digits") == 0 && sala_json_flag(j, "individual_digits", false))
        f->behavior = SALA_SPLIT_ISOLATED;
    if (strcmp(type, "Punctuation") == 0)
        return behavior_of(&f->behavior, j, SALA_SPLIT_ISOLATED, err);
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        const json_t *d = json_object_get(j, "delimiter");
        if (json_string_length(d) == 0)
            return sala_fail(err, SALA_E_CORRUPT, "CharDelimiterSplit lacks its delimiter");
        f->text_len = json_string_length(d);
        f->text = sala_strndup(json_string_value(d), f->text_len);
        return f->text == NULL ? sala_fail_memory(err, f->text_len) : SALA_OK;
    }
    if (strcmp(type, "BertPreTokenizer") == 0) {
        f = sala_tokenizer_add_pretok(t, SALA_PT_PUNCTUATION);
        if (f == NULL)
            return no_step_memory(err);
        f->behavior = SALA_SPLIT_ISOLATED;
    }
    return SALA_OK;
}

/* ---- decoder ---- */

static bool is_one_char(const char *s, size_t n)
{
    uint32_t cp;
    return n > 0 && (size_t)sala_utf8_decode(s, n, &cp) == n;
}

static sala_status strip_decoder(sala_decoder *d, const json_t *j, bool fused, sala_error *err)
{
    const json_t *content = json_object_get(j, "content");
    const json_int_t start = json_integer_value(json_object_get(j, "start"));
    const json_int_t stop = json_integer_value(json_object_get(j, "stop"));
    const char *s = json_string_value(content);
    const size_t n = json_string_length(content);
    if (s == NULL || !is_one_char(s, n) || start < 0 || stop < 0 || start > INT_MAX || stop > 1000000)
        return sala_fail(err, SALA_E_CORRUPT,
                         "a Strip decoder needs one character as content, and start and stop from 0 up");
    if (!fused) {
        if (!sala_decoder_add(d, SALA_DEC_STRIP, s, n, "", 0))
            return sala_fail_memory(err, n);
        d->ops[d->n_ops - 1].start = (int)start;
        d->ops[d->n_ops - 1].stop = (int)stop;
        return SALA_OK;
    }
    if (d->strip != NULL)
        return sala_fail(err, SALA_E_UNSUPPORTED, "a decoder with two Strip steps behind Fuse");
    d->strip = sala_strndup(s, n);
    d->strip_len = n;
    d->strip_start = (int)start;
    d->strip_stop = (int)stop;
    return d->strip == NULL ? sala_fail_memory(err, n) : SALA_OK;
}

static sala_status decoder_step(sala_decoder *d, const json_t *j, bool *fused, int depth, sala_error *err)
{
    const char *type = sala_json_type(j);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "decoders");
        if (depth > MAX_DEPTH || json_array_size(list) > MAX_STEPS)
            return too_deep("decoder", err);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const sala_status st = decoder_step(d, json_array_get(list, i), fused, depth + 1, err);
            if (st != SALA_OK)
                return st;
        }
        return SALA_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        *fused = true;
        return SALA_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        d->byte_fallback = true;
        return SALA_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        d->byte_level = true;
        return SALA_OK;
    }
    if (d->n_ops == SALA_DECODE_MAX)
        return sala_fail(err, SALA_E_LIMIT, "the decoder has more than %d steps", SALA_DECODE_MAX);
    if (strcmp(type, "Strip") == 0)
        return strip_decoder(d, j, *fused, err);
    if (strcmp(type, "Metaspace") == 0 && !*fused) {
        const json_t *r = json_object_get(j, "replacement"), *scheme = json_object_get(j, "prepend_scheme");
        const char *s = json_is_string(r) ? json_string_value(r) : SALA_META;
        if (!sala_decoder_add(d, SALA_DEC_METASPACE, s, strlen(s), " ", 1))
            return sala_fail_memory(err, strlen(s));
        d->ops[d->n_ops - 1].drop_in_first = json_is_string(scheme) ? strcmp(json_string_value(scheme), "never") != 0
                                                                    : sala_json_flag(j, "add_prefix_space", true);
        return SALA_OK;
    }
    if (strcmp(type, "Replace") == 0) {
        const json_t *content = json_object_get(j, "content");
        const char *s;
        size_t n;
        bool is_regex;
        if (!pattern_of(j, &s, &n, &is_regex) || !json_is_string(content))
            return sala_fail(err, SALA_E_CORRUPT, "a Replace decoder lacks its pattern or content");
        /* Behind Fuse a pattern of one character cannot reach across tokens, so it may act on each. */
        if (is_regex || (*fused && !is_one_char(s, n)))
            return sala_fail(err, SALA_E_UNSUPPORTED,
                             "a Replace decoder with the pattern \"%.60s\", which may reach across tokens", s);
        return sala_decoder_add(d, SALA_DEC_REPLACE, s, n, json_string_value(content), json_string_length(content))
                   ? SALA_OK
                   : sala_fail_memory(err, n);
    }
    return sala_fail(err, SALA_E_UNSUPPORTED, "the decoder \"%.60s\"%s is not supported", type,
                     *fused ? " behind Fuse" : "");
}

sala_status sala_json_decoder(sala_tokenizer *t, const json_t *j, sala_error *err)
{
    sala_decoder *d = &t->decoder;
    if (j == NULL || json_is_null(j)) {
        d->join_with_space = true;
        return SALA_OK;
    }
    bool fused = false;
    const sala_status st = decoder_step(d, j, &fused, 0, err);
    if (st == SALA_OK && d->byte_level && (d->n_ops > 0 || d->byte_fallback))
        return sala_fail(err, SALA_E_UNSUPPORTED, "a ByteLevel decoder together with other token decoders");
    return st;
}

/* ---- post-processor ---- */

/* Puts ids before what is in front already, or behind what is behind. */
static bool wrap(int32_t **list, int *n, const int32_t *more, int n_more, bool before)
{
    int32_t *grown = malloc((size_t)(*n + n_more + 1) * sizeof *grown);
    if (grown == NULL)
        return false;
    if (n_more > 0)
        memcpy(grown + (before ? 0 : *n), more, (size_t)n_more * sizeof *grown);
    if (*n > 0)
        memcpy(grown + (before ? n_more : 0), *list, (size_t)*n * sizeof *grown);
    free(*list);
    *list = grown;
    *n += n_more;
    return true;
}

#define MAX_AFFIX 64

static sala_status affix_ids(const sala_tokenizer *t, const json_t *processor, const json_t *name, int32_t *ids, int *n,
                             sala_error *err)
{
    const char *key = json_string_value(name);
    const json_t *list =
        key == NULL ? NULL : json_object_get(json_object_get(json_object_get(processor, "special_tokens"), key), "ids");
    if (!json_is_array(list))
        return sala_fail(err, SALA_E_CORRUPT,
                         "the post-processor's template uses \"%.60s\", which special_tokens lacks",
                         key != NULL ? key : "?");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_int_t id = json_integer_value(json_array_get(list, i));
        if (id < 0 || id >= t->vocab.count || t->vocab.items[id].type == SALA_PIECE_NONE)
            return sala_fail(err, SALA_E_CORRUPT,
                             "the post-processor adds the token id %lld, which the vocabulary lacks", (long long)id);
        if (*n == MAX_AFFIX)
            return sala_fail(err, SALA_E_LIMIT, "the post-processor adds more than %d tokens", MAX_AFFIX);
        ids[(*n)++] = (int32_t)id;
    }
    return SALA_OK;
}

static sala_status template_processor(sala_tokenizer *t, const json_t *j, sala_error *err)
{
    const json_t *single = json_object_get(j, "single");
    int32_t before[MAX_AFFIX], behind[MAX_AFFIX];
    int n_before = 0, n_behind = 0;
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        if (token == NULL) {
            seen = seen || json_object_get(item, "Sequence") != NULL;
            continue;
        }
        const sala_status st = seen ? affix_ids(t, j, json_object_get(token, "id"), behind, &n_behind, err)
                                    : affix_ids(t, j, json_object_get(token, "id"), before, &n_before, err);
        if (st != SALA_OK)
            return st;
    }
    return wrap(&t->prefix, &t->n_prefix, before, n_before, true) &&
                   wrap(&t->suffix, &t->n_suffix, behind, n_behind, false)
               ? SALA_OK
               : sala_fail_memory(err, MAX_AFFIX);
}

sala_status sala_json_post_processor(sala_tokenizer *t, const json_t *j, int depth, sala_error *err)
{
    if (j == NULL || json_is_null(j))
        return SALA_OK;
    if (depth > MAX_DEPTH)
        return too_deep("post_processor", err);
    const char *type = sala_json_type(j);
    if (strcmp(type, "ByteLevel") == 0) /* changes offsets only */
        return SALA_OK;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(j, "processors");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const sala_status st = sala_json_post_processor(t, json_array_get(list, i), depth + 1, err);
            if (st != SALA_OK)
                return st;
        }
        return SALA_OK;
    }
    if (strcmp(type, "TemplateProcessing") == 0)
        return template_processor(t, j, err);
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
        int32_t ids[2];
        static const char *const keys[2] = {"cls", "sep"};
        for (int i = 0; i < 2; i++) {
            const json_t *id = json_array_get(json_object_get(j, keys[i]), 1);
            if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->vocab.count)
                return sala_fail(err, SALA_E_CORRUPT,
                                 "the post-processor's \"%s\" is not [token, id] of the vocabulary", keys[i]);
            ids[i] = (int32_t)json_integer_value(id);
        }
        return wrap(&t->prefix, &t->n_prefix, &ids[0], 1, true) && wrap(&t->suffix, &t->n_suffix, &ids[1], 1, false)
                   ? SALA_OK
                   : sala_fail_memory(err, sizeof ids);
    }
    return sala_fail(err, SALA_E_UNSUPPORTED, "the post-processor \"%.60s\" is not known", type);
}

/* ---- tokenizer_config.json ---- */

static void special_name(const sala_tokenizer *t, const json_t *config, const char *key, int32_t *id)
{
    const json_t *v = json_object_get(config, key);
    if (json_is_object(v))
        v = json_object_get(v, "content");
    if (!json_is_string(v))
        return;
    const int32_t found = sala_vocab_find(&t->vocab, json_string_value(v), json_string_length(v));
    if (found >= 0)
        *id = found;
}

sala_status sala_json_config(sala_tokenizer *t, const json_t *config, sala_error *err)
{
    const char *key;
    json_t *value;
    json_t *decoder = json_object_get(config, "added_tokens_decoder");
    json_object_foreach(decoder, key, value)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);
        const json_t *content = json_object_get(value, "content");
        const bool known = *end != '\0' || !json_is_string(content) || sala_tokenizer_is_added(t, id);
        /* Only tokens that the tokenizer's own file left out; where the two contradict each other, that file counts. */
        if (known || sala_vocab_find(&t->vocab, json_string_value(content), json_string_length(content)) >= 0 ||
            (id >= 0 && id < t->vocab.count && t->vocab.items[id].type != SALA_PIECE_NONE))
            continue;
        const sala_status st = sala_json_added_token(t, id, value, err);
        if (st != SALA_OK)
            return st;
    }
    const sala_status st = sala_vocab_index(&t->vocab, err);
    if (st != SALA_OK)
        return st;
    special_name(t, config, "bos_token", &t->bos);
    special_name(t, config, "eos_token", &t->eos);
    special_name(t, config, "pad_token", &t->pad);
    special_name(t, config, "unk_token", &t->named_unk);
    const json_t *add_bos = json_object_get(config, "add_bos_token"),
                 *add_eos = json_object_get(config, "add_eos_token");
    if ((json_is_boolean(add_bos) || json_is_boolean(add_eos)) &&
        !sala_tokenizer_set_affixes(t, json_is_true(add_bos), json_is_true(add_eos)))
        return sala_fail_memory(err, sizeof(int32_t));
    return SALA_OK;
}
