/* One record: its text out of JSON, checks, tokens. A conversation's control tokens come from the template; in text,
 * what spells a control token is text. */
#include "data/encode.h"

#include "base/json.h"

#include <stdlib.h>

#include <xxhash.h>

/* ---- vocabulary ---- */

/* The spelling of a byte in byte-level vocabularies: printable bytes stand for themselves, the others are numbered from
 * U+0100 on. */
static uint32_t byte_spelling(int byte)
{
    uint32_t others = 0;
    for (int b = 0; b <= byte; b++) {
        const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
        if (b == byte)
            return itself ? (uint32_t)b : 0x100 + others;
        others += !itself;
    }
    return 0;
}

static void hash_piece(XXH3_state_t *hash, const char *s, size_t n)
{
    const uint32_t length = (uint32_t)n;
    XXH3_64bits_update(hash, &length, sizeof length);
    XXH3_64bits_update(hash, s, n);
}

uint64_t sala_vocab_id(const sala_tokenizer *t, uint32_t *n_vocab)
{
    XXH3_state_t *hash = XXH3_createState();
    const int32_t n = t ? sala_tokenizer_n_vocab(t) : SALA_BYTES_VOCAB;
    *n_vocab = (uint32_t)n;
    if (!hash)
        return 0;
    XXH3_64bits_reset(hash);
    for (int32_t id = 0; id < n; id++) {
        const char *s = "";
        size_t bytes = 0;
        char spelling[4];
        if (!t && id < SALA_BYTES_BOS) {
            bytes = sala_utf8_encode(spelling, byte_spelling(id));
            s = spelling;
        } else if (!t) {
            s = id == SALA_BYTES_BOS ? "<s>" : "</s>";
            bytes = strlen(s);
        } else if (!sala_tokenizer_piece(t, id, &s, &bytes)) {
            s = "";
            bytes = 0;
        }
        hash_piece(hash, s, bytes);
    }
    const uint64_t sum = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return sum ? sum : 1; /* 0 means unknown */
}

/* ---- results ---- */

void sala_encoded_clear(sala_encoded *e)
{
    e->ids.count = 0;
    sala_buf_clear(&e->mask);
    e->n_docs = 0;
    e->empty = e->cut = e->invalid_utf8 = e->unknown = e->text_bytes = 0;
}

void sala_encoded_free(sala_encoded *e)
{
    sala_ids_free(&e->ids);
    sala_buf_free(&e->mask);
    sala_buf_free(&e->mended);
    free(e->docs);
    *e = (sala_encoded){0};
}

static sala_status reserve_ids(sala_ids *ids, size_t more, sala_error *err)
{
    if (ids->cap - ids->count >= more)
        return SALA_OK;
    size_t cap = ids->cap + ids->cap / 2;
    if (cap < ids->count + more)
        cap = ids->count + more;
    int32_t *data = realloc(ids->data, cap * sizeof *data);
    if (!data)
        return sala_fail_memory(err, cap * sizeof *data);
    ids->data = data;
    ids->cap = cap;
    return SALA_OK;
}

/* The mask follows the tokens: ones for documents without a mask, and nothing at all until one has a mask. */
static sala_status mask_up_to(sala_encoded *e, size_t n, sala_error *err)
{
    const size_t more = n - e->mask.len;
    if (!sala_buf_reserve(&e->mask, more))
        return sala_fail_memory(err, n);
    memset(e->mask.data + e->mask.len, 1, more);
    e->mask.len = n;
    e->mask.data[n] = 0;
    return SALA_OK;
}

static sala_status add_doc(sala_encoded *e, size_t first, uint64_t hash, bool continues, int32_t unk, sala_error *err)
{
    const size_t count = e->ids.count - first;
    if (count == 0) {
        e->empty++;
        return SALA_OK;
    }
    if (e->n_docs == e->docs_cap) {
        const size_t cap = e->docs_cap ? 2 * e->docs_cap : 256;
        sala_encoded_doc *docs = realloc(e->docs, cap * sizeof *docs);
        if (!docs)
            return sala_fail_memory(err, cap * sizeof *docs);
        e->docs = docs;
        e->docs_cap = cap;
    }
    e->docs[e->n_docs++] = (sala_encoded_doc){.at = first, .count = count, .hash = hash, .continues = continues};
    for (size_t i = first; unk >= 0 && i < e->ids.count; i++)
        e->unknown += e->ids.data[i] == unk;
    return SALA_OK;
}

/* ---- text ---- */

static sala_status add_bytes(sala_ids *ids, const char *text, size_t n, sala_error *err)
{
    const sala_status status = reserve_ids(ids, n, err);
    if (status != SALA_OK)
        return status;
    for (size_t i = 0; i < n; i++)
        ids->data[ids->count++] = (uint8_t)text[i];
    return SALA_OK;
}

static sala_status add_id(sala_ids *ids, int32_t id, sala_error *err)
{
    const sala_status status = id < 0 ? SALA_OK : reserve_ids(ids, 1, err);
    if (status == SALA_OK && id >= 0)
        ids->data[ids->count++] = id;
    return status;
}

static sala_status add_text(sala_encoded *e, const sala_encode_params *p, const char *text, size_t n, bool continues,
                            bool goes_on, sala_error *err)
{
    e->cut += goes_on;
    if (sala_is_blank(text, n)) {
        e->empty++;
        return SALA_OK;
    }
    const size_t first = e->ids.count;
    sala_status status = continues ? SALA_OK : add_id(&e->ids, p->bos, err);
    if (status == SALA_OK && p->tokenizer) {
        e->invalid_utf8 += sala_invalid_utf8(text, n) > 0;
        const sala_text_span span = {text, n, false};
        status = sala_tokenizer_encode(p->tokenizer, &e->ids, &span, 1, false, err);
    } else if (status == SALA_OK) {
        status = add_bytes(&e->ids, text, n, err);
    }
    if (status == SALA_OK && !goes_on)
        status = add_id(&e->ids, p->eos, err);
    e->text_bytes += n;
    if (status == SALA_OK)
        status = add_doc(e, first, XXH3_64bits_withSeed(text, n, p->seed), continues,
                         p->tokenizer ? sala_tokenizer_unk(p->tokenizer) : -1, err);
    if (status == SALA_OK && e->mask.len)
        status = mask_up_to(e, e->ids.count, err);
    return status;
}

/* The text of a JSON record, which the cutter could not measure. */
static sala_status add_long_text(sala_encoded *e, const sala_encode_params *p, const char *text, size_t n,
                                 sala_error *err)
{
    bool continues = false;
    while (n > p->max_doc_bytes) {
        const size_t some = sala_whole_characters(text, (size_t)p->max_doc_bytes);
        if (some == 0)
            break;
        const sala_status status = add_text(e, p, text, some, continues, true, err);
        if (status != SALA_OK)
            return status;
        continues = true;
        text += some;
        n -= some;
    }
    return add_text(e, p, text, n, continues, false, err);
}

/* ---- conversations ---- */

/* Roles of ShareGPT's records in the words of chat templates; unknown ones are taken as they are. */
static const char *usual_role(const char *from)
{
    static const struct {
        const char *theirs, *ours;
    } roles[] = {
        {"human", "user"},
        {"gpt", "assistant"},
        {"chatgpt", "assistant"},
        {"bing", "assistant"},
        {"bard", "assistant"},
        {"observation", "tool"},
        {"function_response", "tool"},
        {"bot", "assistant"},
        {"function_call", "assistant"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(roles); i++)
        if (strcmp(from, roles[i].theirs) == 0)
            return roles[i].ours;
    return from;
}

/* {"from", "value"} to {"role", "content"}; messages in that form already stay. NULL: memory is out, or *bad is set. */
static json_t *usual_messages(const json_t *turns, bool *bad)
{
    json_t *out = json_array();
    *bad = false;
    for (size_t i = 0; out && i < json_array_size(turns); i++) {
        json_t *turn = json_array_get(turns, i), *message;
        const char *from = json_string_value(json_object_get(turn, "from"));
        if (from) {
            json_t *value = json_object_get(turn, "value");
            *bad = *bad || !value;
            message = json_pack("{s:s, s:O?}", "role", usual_role(from), "content", value);
        } else {
            *bad = *bad || !json_is_string(json_object_get(turn, "role"));
            message = json_incref(turn);
        }
        if (*bad || json_array_append_new(out, message) != 0) {
            if (*bad)
                json_decref(message);
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

/* Tools come as a list or as JSON in a string. */
static json_t *usual_tools(json_t *tools)
{
    if (!json_is_string(tools))
        return json_incref(tools);
    json_error_t where;
    json_t *parsed = sala_json_loadb(json_string_value(tools), json_string_length(tools), JSON_ALLOW_NUL, &where);
    return json_is_array(parsed) ? parsed : (json_decref(parsed), json_null());
}

static sala_status add_chat(sala_encoded *e, const sala_encode_params *p, const json_t *object, const json_t *turns,
                            uint64_t hash, sala_error *err)
{
    if (!p->chat || !p->tokenizer)
        return sala_fail(err, SALA_E_INVALID,
                         "a conversation, but the tokenizer comes without a chat template; give a model's directory or "
                         "GGUF as --tokenizer");
    bool bad;
    json_t *messages = usual_messages(turns, &bad);
    if (bad)
        return sala_fail(err, SALA_E_INVALID,
                         "a turn of the conversation has neither \"role\" and \"content\" nor \"from\" and \"value\"");
    json_t *request = messages ? json_pack("{s:o}", "messages", messages) : NULL;
    json_t *tools = json_object_get(object, "tools");
    if (!request || (tools && json_object_set_new(request, "tools", usual_tools(tools)) != 0)) {
        json_decref(request);
        return sala_fail_memory(err, 4096);
    }
    const size_t first = e->ids.count, mask_first = e->mask.len;
    sala_status status = mask_up_to(e, first, err);
    if (status == SALA_OK)
        status = sala_chat_answers(p->chat, p->tokenizer, request, &e->ids, &e->mask, err);
    json_decref(request);
    if (status == SALA_OK)
        status = add_doc(e, first, hash, false, sala_tokenizer_unk(p->tokenizer), err);
    if (status != SALA_OK) {
        e->ids.count = first;
        e->mask.len = mask_first;
    }
    return status;
}

/* ---- JSON ---- */

static int hex4(const char *s)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        const char c = s[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        v = v * 16 + digit;
    }
    return v;
}

/* Half a surrogate pair, which Python writes and strict readers refuse, becomes U+FFFD, and so does what is not UTF-8.
 * False when there was nothing of the kind. */
static bool mend(sala_buf *out, const char *s, size_t n)
{
    bool changed = false;
    sala_buf_clear(out);
    for (size_t i = 0; i < n;) {
        if (s[i] == '\\' && i + 1 < n) {
            const int unit = s[i + 1] == 'u' && n - i >= 6 ? hex4(s + i + 2) : -1;
            if (unit >= 0xD800 && unit < 0xDC00 && n - i >= 12 && s[i + 6] == '\\' && s[i + 7] == 'u' &&
                hex4(s + i + 8) >= 0xDC00 && hex4(s + i + 8) < 0xE000) {
                sala_buf_add(out, s + i, 12);
                i += 12;
            } else if (unit >= 0xD800 && unit < 0xE000) {
                sala_buf_add_str(out, "\\ufffd");
                changed = true;
                i += 6;
            } else {
                sala_buf_add(out, s + i, 2);
                i += 2;
            }
            continue;
        }
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        if (len)
            sala_buf_add(out, s + i, (size_t)len);
        else
            sala_buf_add_utf8(out, 0xFFFD);
        changed = changed || len == 0;
        i += len ? (size_t)len : 1;
    }
    return changed;
}

/* "there are "a", "b"": what an object has instead of what was looked for. */
static void list_keys(char *dst, size_t size, const json_t *object)
{
    const char *key;
    json_t *value;
    size_t at = 0;
    dst[0] = 0;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (at + strlen(key) + 8 > size)
            break;
        at += (size_t)snprintf(dst + at, size - at, "%s\"%s\"", at ? ", " : "", key);
    }
}

static sala_status add_object(sala_encoded *e, const sala_encode_params *p, const json_t *object, uint64_t hash,
                              sala_error *err)
{
    const json_t *text = json_object_get(object, p->text_key);
    if (json_is_string(text))
        return add_long_text(e, p, json_string_value(text), json_string_length(text), err);
    const json_t *turns = json_object_get(object, "messages");
    if (!json_is_array(turns))
        turns = json_object_get(object, "conversations");
    if (json_is_array(turns))
        return add_chat(e, p, object, turns, hash, err);
    if (json_is_null(text)) {
        e->empty++;
        return SALA_OK;
    }
    if (text)
        return sala_fail(err, SALA_E_INVALID, "the value of \"%s\" is not a string", p->text_key);
    char keys[200];
    list_keys(keys, sizeof keys, object);
    return sala_fail(err, SALA_E_INVALID,
                     "no key \"%s\", \"messages\" or \"conversations\"; there are: %s (--text-key names another one)",
                     p->text_key, keys[0] ? keys : "none");
}

static sala_status add_json(sala_encoded *e, const sala_encode_params *p, const char *s, size_t n, sala_error *err)
{
    if (sala_is_blank(s, n)) /* an empty line between records, or at the end */
        return SALA_OK;
    json_error_t where;
    json_t *object = sala_json_loadb(s, n, JSON_ALLOW_NUL, &where);
    if (!object && mend(&e->mended, s, n)) {
        object = sala_json_loadb(e->mended.data, e->mended.len, JSON_ALLOW_NUL, &where);
        e->invalid_utf8 += object != NULL;
    }
    if (!object)
        return sala_fail_at(err, SALA_E_CORRUPT, where.position, "byte %d of the line: %s", where.position, where.text);
    sala_status status;
    const uint64_t docs = e->n_docs, text_bytes = e->text_bytes;
    if (json_is_object(object))
        status = add_object(e, p, object, XXH3_64bits_withSeed(s, n, p->seed), err);
    else
        status = sala_fail(err, SALA_E_CORRUPT, "not a JSON object");
    if (e->n_docs > docs && e->text_bytes == text_bytes)
        e->text_bytes += n; /* a conversation counts as it lies in the file */
    json_decref(object);
    return status;
}

sala_status sala_encode_record(sala_encoded *e, const sala_encode_params *p, const char *bytes, const sala_record *r,
                               sala_error *err)
{
    if (r->too_long)
        return sala_fail(err, SALA_E_CORRUPT, "the line is longer than a record may be");
    const char *text = bytes ? bytes + r->at : ""; /* an empty buffer has no bytes at all */
    if (r->is_json)
        return add_json(e, p, text, r->bytes, err);
    return add_text(e, p, text, r->bytes, r->continues, r->goes_on, err);
}
