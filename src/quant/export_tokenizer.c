/* tokenizer.json from a GGUF vocabulary. Byte-level BPE comes with its merges and the name of its pre-tokenizer;
 * SentencePiece BPE comes with scores, from which the merges follow unless they are listed as well: a pair may merge
 * when the joined text is a piece, and the higher its score the earlier. */
#include "quant/export.h"

#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

typedef struct piece {
    const char *s;
    uint32_t len;
    int32_t type;
    float score;
} piece;

typedef struct vocabulary {
    const sala_gguf *g;
    piece *items;
    int64_t count;
    int32_t *slots; /* open addressing over the texts; -1 empty */
    uint64_t mask;
    bool is_spm;
    bool has_merges;
} vocabulary;

static void free_vocabulary(vocabulary *v)
{
    free(v->items);
    free(v->slots);
}

static uint64_t hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static int32_t find(const vocabulary *v, const char *s, size_t n)
{
    for (uint64_t at = hash(s, n) & v->mask; v->slots[at] >= 0; at = (at + 1) & v->mask) {
        const piece *p = &v->items[v->slots[at]];
        if (p->len == n && memcmp(p->s, s, n) == 0)
            return v->slots[at];
    }
    return -1;
}

static bool is_utf8(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        const int k = sala_utf8_decode(s + i, n - i, &cp);
        if (k == 0)
            return false;
        i += (size_t)k;
    }
    return true;
}

/* A reason in words why tokenizer.json can not hold this vocabulary, or NULL. */
static const char *read_vocabulary(vocabulary *v, sala_status *st, sala_error *err)
{
    const sala_gguf_kv *tokens = sala_gguf_find(v->g, "tokenizer.ggml.tokens");
    const sala_gguf_kv *types = sala_gguf_find(v->g, "tokenizer.ggml.token_type");
    const sala_gguf_kv *scores = sala_gguf_find(v->g, "tokenizer.ggml.scores");
    const char *model;
    size_t len;
    if (!tokens || tokens->type != SALA_GGUF_ARRAY || tokens->elem_type != SALA_GGUF_STRING || tokens->count == 0 ||
        tokens->count > SALA_TOK_MAX_IDS || !sala_gguf_get_str(v->g, "tokenizer.ggml.model", &model, &len))
        return "the file has no vocabulary";
    v->is_spm = len == 5 && memcmp(model, "llama", 5) == 0;
    if (!v->is_spm && !(len == 4 && memcmp(model, "gpt2", 4) == 0))
        return "only byte-level and SentencePiece BPE vocabularies can be written";
    v->has_merges = sala_gguf_find(v->g, "tokenizer.ggml.merges") != NULL;
    v->count = (int64_t)tokens->count;
    v->mask = 1;
    while (v->mask < 2 * tokens->count)
        v->mask *= 2;
    v->items = calloc((size_t)v->count, sizeof *v->items);
    v->slots = malloc(v->mask * sizeof *v->slots);
    if (!v->items || !v->slots) {
        *st = sala_fail_memory(err, v->mask * sizeof *v->slots);
        return NULL;
    }
    memset(v->slots, 0xff, v->mask * sizeof *v->slots);
    v->mask--;
    sala_reader r = sala_gguf_array_reader(tokens);
    for (int64_t i = 0; i < v->count; i++) {
        piece *p = &v->items[i];
        size_t n;
        int64_t type = TYPE_NORMAL;
        double score = 0;
        if (!sala_gguf_next_str(&r, &p->s, &n) || n > UINT32_MAX || !is_utf8(p->s, n))
            return "some token is not valid UTF-8";
        p->len = (uint32_t)n;
        if (types && types->type == SALA_GGUF_ARRAY)
            (void)sala_gguf_array_i64(types, (uint64_t)i, &type);
        if (scores && scores->type == SALA_GGUF_ARRAY)
            (void)sala_gguf_array_f64(scores, (uint64_t)i, &score);
        p->type = (int32_t)type;
        p->score = (float)score;
        if (find(v, p->s, n) >= 0)
            return "some token appears twice";
        uint64_t at = hash(p->s, n) & v->mask;
        while (v->slots[at] >= 0)
            at = (at + 1) & v->mask;
        v->slots[at] = (int32_t)i;
    }
    return NULL;
}

/* ---- JSON text ---- */

static void put_string(sala_buf *b, const char *s, size_t n)
{
    sala_buf_add_char(b, '"');
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)s[i];
        if (c == '"' || c == '\\') {
            sala_buf_add_char(b, '\\');
            sala_buf_add_char(b, (char)c);
        } else if (c < 0x20 || c == 0x7f) {
            sala_buf_printf(b, "\\u%04x", c);
        } else {
            sala_buf_add_char(b, (char)c);
        }
    }
    sala_buf_add_char(b, '"');
}

static void put_piece(sala_buf *b, const vocabulary *v, int64_t id)
{
    put_string(b, v->items[id].s, v->items[id].len);
}

/* Tokens that are cut out of the text before the model sees it. */
static void put_added(sala_buf *b, const vocabulary *v)
{
    const char *comma = "";
    sala_buf_add_str(b, "  \"added_tokens\": [");
    for (int64_t i = 0; i < v->count; i++) {
        const int32_t type = v->items[i].type;
        if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNKNOWN)
            continue;
        sala_buf_printf(b, "%s\n    {\"id\": %lld, \"content\": ", comma, (long long)i);
        put_piece(b, v, i);
        sala_buf_printf(b,
                        ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                        "\"special\": %s}",
                        type == TYPE_USER ? "false" : "true");
        comma = ",";
    }
    sala_buf_add_str(b, "\n  ],\n");
}

static void put_vocab(sala_buf *b, const vocabulary *v)
{
    sala_buf_add_str(b, "    \"vocab\": {");
    const char *comma = "";
    for (int64_t i = 0; i < v->count; i++) {
        if (v->items[i].type == TYPE_UNUSED)
            continue;
        sala_buf_printf(b, "%s\n      ", comma);
        put_piece(b, v, i);
        sala_buf_printf(b, ": %lld", (long long)i);
        comma = ",";
    }
    sala_buf_add_str(b, "\n    },\n");
}

/* ---- merges ---- */

static sala_status put_stored_merges(sala_buf *b, const vocabulary *v, sala_error *err)
{
    const sala_gguf_kv *kv = sala_gguf_find(v->g, "tokenizer.ggml.merges");
    if (!kv || kv->type != SALA_GGUF_ARRAY || kv->elem_type != SALA_GGUF_STRING)
        return sala_fail(err, SALA_E_CORRUPT, "tokenizer.ggml.merges is missing, which byte-level BPE needs");
    sala_reader r = sala_gguf_array_reader(kv);
    for (uint64_t i = 0; i < kv->count; i++) {
        const char *s;
        size_t n;
        if (!sala_gguf_next_str(&r, &s, &n) || !is_utf8(s, n))
            return sala_fail(err, SALA_E_CORRUPT, "merge %llu of the vocabulary is not valid UTF-8",
                             (unsigned long long)i);
        sala_buf_add_str(b, i ? ",\n      " : "\n      ");
        put_string(b, s, n);
    }
    return SALA_OK;
}

typedef struct merge {
    int32_t left, right, joined;
    float score;
} merge;

static int by_rank(const void *pa, const void *pb)
{
    const merge *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->joined != b->joined)
        return a->joined < b->joined ? -1 : 1;
    return a->left < b->left ? -1 : a->left > b->left;
}

static bool merges_into(const vocabulary *v, int32_t id)
{
    return id >= 0 && (v->items[id].type == TYPE_NORMAL || v->items[id].type == TYPE_USER);
}

static sala_status put_derived_merges(sala_buf *b, const vocabulary *v, sala_error *err)
{
    merge *list = NULL;
    size_t count = 0, cap = 0;
    for (int64_t i = 0; i < v->count; i++) {
        const piece *p = &v->items[i];
        if (p->type != TYPE_NORMAL)
            continue;
        for (uint32_t cut = 1; cut < p->len; cut++) {
            if (((uint8_t)p->s[cut] & 0xc0) == 0x80)
                continue;
            const int32_t left = find(v, p->s, cut), right = find(v, p->s + cut, p->len - cut);
            if (!merges_into(v, left) || !merges_into(v, right))
                continue;
            if (count == cap) {
                cap = cap ? cap * 2 : 1 << 16;
                merge *grown = realloc(list, cap * sizeof *list);
                if (!grown) {
                    free(list);
                    return sala_fail_memory(err, cap * sizeof *list);
                }
                list = grown;
            }
            list[count++] = (merge){left, right, (int32_t)i, p->score};
        }
    }
    if (count)
        qsort(list, count, sizeof *list, by_rank);
    for (size_t i = 0; i < count; i++) {
        sala_buf_add_str(b, i ? ",\n      [" : "\n      [");
        put_piece(b, v, list[i].left);
        sala_buf_add_str(b, ", ");
        put_piece(b, v, list[i].right);
        sala_buf_add_char(b, ']');
    }
    free(list);
    return SALA_OK;
}

/* ---- pipeline ---- */

static void put_template(sala_buf *b, const vocabulary *v, const sala_tokenizer *t)
{
    const int32_t bos = sala_tokenizer_adds_bos(t) ? sala_tokenizer_bos(t) : -1;
    const int32_t eos = sala_tokenizer_adds_eos(t) ? sala_tokenizer_eos(t) : -1;
    if ((bos < 0 || bos >= v->count) && (eos < 0 || eos >= v->count)) {
        sala_buf_add_str(b, v->is_spm ? "  \"post_processor\": null,\n"
                                      : "  \"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                                        "\"trim_offsets\": true, \"use_regex\": false},\n");
        return;
    }
    static const char *const parts[] = {"single", "pair"};
    sala_buf_add_str(b, "  \"post_processor\": {\"type\": \"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        sala_buf_printf(b, ", \"%s\": [", parts[pair]);
        for (int part = 0; part <= pair; part++) {
            sala_buf_add_str(b, part ? ", " : "");
            if (bos >= 0) {
                sala_buf_add_str(b, "{\"SpecialToken\": {\"id\": ");
                put_piece(b, v, bos);
                sala_buf_printf(b, ", \"type_id\": %d}}, ", part);
            }
            sala_buf_printf(b, "{\"Sequence\": {\"id\": \"%c\", \"type_id\": %d}}", 'A' + part, part);
            if (eos >= 0) {
                sala_buf_add_str(b, ", {\"SpecialToken\": {\"id\": ");
                put_piece(b, v, eos);
                sala_buf_printf(b, ", \"type_id\": %d}}", part);
            }
        }
        sala_buf_add_char(b, ']');
    }
    sala_buf_add_str(b, ", \"special_tokens\": {");
    const int32_t ids[2] = {bos, eos == bos ? -1 : eos};
    const char *comma = "";
    for (int i = 0; i < 2; i++) {
        if (ids[i] < 0)
            continue;
        sala_buf_add_str(b, comma);
        put_piece(b, v, ids[i]);
        sala_buf_add_str(b, ": {\"id\": ");
        put_piece(b, v, ids[i]);
        sala_buf_printf(b, ", \"ids\": [%d], \"tokens\": [", (int)ids[i]);
        put_piece(b, v, ids[i]);
        sala_buf_add_str(b, "]}");
        comma = ", ";
    }
    sala_buf_add_str(b, "}},\n");
}

static bool pre_is(const char *s, size_t n, const char *name)
{
    return strlen(name) == n && memcmp(s, name, n) == 0;
}

static sala_status put_byte_level(sala_buf *b, const vocabulary *v, const sala_tokenizer *t, sala_error *err)
{
    const char *pre = "default";
    size_t len = 7;
    sala_pretok_step steps[SALA_PRETOK_MAX];
    int n_steps;
    bool ignore_merges;
    (void)sala_gguf_get_str(v->g, "tokenizer.ggml.pre", &pre, &len);
    const sala_status st = sala_pretok_by_name(steps, &n_steps, &ignore_merges, pre, len, err);
    if (st != SALA_OK)
        return st;
    const bool nfc = pre_is(pre, len, "qwen2") || pre_is(pre, len, "qwen35") || pre_is(pre, len, "deepseek-r1-qwen");
    sala_buf_add_str(b, nfc ? "  \"normalizer\": {\"type\": \"NFC\"},\n" : "  \"normalizer\": null,\n");
    sala_buf_add_str(b, "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n");
    for (int i = 0; i < n_steps; i++) {
        sala_buf_add_str(b, "    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_string(b, steps[i].text, steps[i].text_len);
        sala_buf_add_str(b, "}, \"behavior\": \"Isolated\", \"invert\": false},\n");
        sala_pretok_step_free(&steps[i]);
    }
    sala_buf_add_str(b, "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                        "\"use_regex\": false}]},\n");
    put_template(b, v, t);
    sala_buf_printf(b,
                    "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                    "\"use_regex\": false},\n  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": "
                    "null, \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                    "\"byte_fallback\": false, \"ignore_merges\": %s,\n",
                    ignore_merges ? "true" : "false");
    return SALA_OK;
}

static void put_sentencepiece(sala_buf *b, const vocabulary *v, const sala_tokenizer *t)
{
    bool prefix = true, bytes = false, fuse_unk = true, ignore_merges = false;
    (void)sala_gguf_get_bool(v->g, "tokenizer.ggml.add_space_prefix", &prefix);
    if (v->has_merges) {
        (void)sala_gguf_get_bool(v->g, "tokenizer.ggml.fuse_unk", &fuse_unk);
        (void)sala_gguf_get_bool(v->g, "tokenizer.ggml.ignore_merges", &ignore_merges);
    }
    for (int64_t i = 0; i < v->count; i++)
        bytes |= v->items[i].type == TYPE_BYTE;
    const char *scheme;
    size_t len;
    if (v->has_merges && prefix && sala_gguf_get_str(v->g, "tokenizer.ggml.prepend_scheme", &scheme, &len)) {
        sala_buf_add_str(
            b, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"" SALA_META
               "\", \"split\": false, \"prepend_scheme\": ");
        put_string(b, scheme, len);
        sala_buf_add_str(b, "},\n");
    } else {
        sala_buf_add_str(b, "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
        if (prefix)
            sala_buf_add_str(b, "{\"type\": \"Prepend\", \"prepend\": \"" SALA_META "\"}, ");
        sala_buf_add_str(b, "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" SALA_META
                            "\"}]},\n  \"pre_tokenizer\": null,\n");
    }
    put_template(b, v, t);
    sala_buf_add_str(b, "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
                        "{\"String\": \"" SALA_META "\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, "
                        "{\"type\": \"Fuse\"}");
    if (prefix)
        sala_buf_add_str(b, ", {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}");
    sala_buf_add_str(b, "]},\n  \"model\": {\n    \"type\": \"BPE\", \"dropout\": null, \"unk_token\": ");
    const int32_t unk = sala_tokenizer_unk(t);
    if (unk >= 0 && unk < v->count)
        put_piece(b, v, unk);
    else
        sala_buf_add_str(b, "null");
    sala_buf_printf(b,
                    ", \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": %s, "
                    "\"byte_fallback\": %s, \"ignore_merges\": %s,\n",
                    fuse_unk ? "true" : "false", bytes ? "true" : "false", ignore_merges ? "true" : "false");
}

static sala_status tokenizer_json(sala_buf *b, const vocabulary *v, const sala_tokenizer *t, sala_error *err)
{
    sala_buf_add_str(b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added(b, v);
    if (v->is_spm) {
        put_sentencepiece(b, v, t);
    } else {
        const sala_status st = put_byte_level(b, v, t, err);
        if (st != SALA_OK)
            return st;
    }
    put_vocab(b, v);
    sala_buf_add_str(b, "    \"merges\": [");
    const sala_status st = v->is_spm && !v->has_merges ? put_derived_merges(b, v, err) : put_stored_merges(b, v, err);
    sala_buf_add_str(b, "\n    ]\n  }\n}\n");
    if (st == SALA_OK && b->failed)
        return sala_fail_memory(err, b->cap);
    return st;
}

/* ---- tokenizer_config.json ---- */

static void set_token(json_t *o, const char *key, const vocabulary *v, int32_t id)
{
    if (id >= 0 && id < v->count)
        json_object_set_new(o, key, json_stringn(v->items[id].s, v->items[id].len));
}

static json_t *tokenizer_config(const sala_plan *p, const vocabulary *v, const sala_tokenizer *t)
{
    json_t *o = json_object();
    const char *s;
    size_t len;
    json_object_set_new(o, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(o, "add_bos_token", json_boolean(sala_tokenizer_adds_bos(t)));
    json_object_set_new(o, "add_eos_token", json_boolean(sala_tokenizer_adds_eos(t)));
    set_token(o, "bos_token", v, sala_tokenizer_bos(t));
    set_token(o, "eos_token", v, sala_tokenizer_eos(t));
    set_token(o, "pad_token", v, sala_tokenizer_pad(t));
    set_token(o, "unk_token", v, sala_tokenizer_unk(t));
    json_object_set_new(o, "clean_up_tokenization_spaces", json_false());
    json_object_set_new(o, "model_max_length", json_integer(p->config.n_ctx_train));
    if (sala_gguf_get_str(v->g, "tokenizer.chat_template", &s, &len)) {
        json_t *text = json_stringn(s, len);
        if (text)
            json_object_set_new(o, "chat_template", text);
    }
    return o;
}

sala_status sala_export_tokenizer(const sala_plan *p, const char *dir, bool *written, sala_error *err)
{
    vocabulary v = {.g = p->gguf};
    sala_tokenizer *t = NULL;
    sala_buf b = {0};
    sala_status st = SALA_OK;
    sala_error why_not = {.message = ""};
    *written = false;
    const char *reason = read_vocabulary(&v, &st, err);
    if (!reason && st == SALA_OK && sala_tokenizer_from_gguf(&t, p->gguf, &why_not) != SALA_OK)
        reason = why_not.message;
    if (!reason && st == SALA_OK) {
        st = tokenizer_json(&b, &v, t, &why_not);
        if (st == SALA_E_MEMORY) {
            if (err)
                *err = why_not;
        } else if (st != SALA_OK) {
            reason = why_not.message;
            st = SALA_OK;
        }
    }
    if (reason) {
        sala_plan_notice(p, "no tokenizer.json was written: %s", reason);
    } else if (st == SALA_OK) {
        st = sala_export_write_file(dir, "tokenizer.json", b.data, b.len, err);
        if (st == SALA_OK)
            st = sala_export_write_json(dir, "tokenizer_config.json", tokenizer_config(p, &v, t), err);
        *written = st == SALA_OK;
    }
    sala_buf_free(&b);
    sala_tokenizer_free(t);
    free_vocabulary(&v);
    return st;
}
