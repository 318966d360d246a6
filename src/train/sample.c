#include "train/sample.h"

#include "data/encode.h"
#include "format/gguf.h"
#include "os/os.h"

#include <stdlib.h>

/* ---- vocabularies ---- */

static sala_status read_json(uint8_t **text, size_t *bytes, const char *path, sala_error *err)
{
    const int e = sala_os_read_file(text, bytes, path, (size_t)1 << 30);
    return e ? sala_fail_errno(err, e, "could not read %s", path) : SALA_OK;
}

/* With the tokenizer_config.json beside it, as 'sala data pack' reads it: it names the tokens that begin and end. */
static sala_status open_json(sala_tokenizer **out, const char *path, sala_error *err)
{
    uint8_t *text = NULL, *config = NULL;
    size_t bytes = 0, config_bytes = 0;
    const char *slash = strrchr(path, '/');
    char *dir = slash ? sala_strndup(path, (size_t)(slash - path + 1)) : sala_strdup(".");
    char *beside = dir ? sala_path_join(dir, "tokenizer_config.json") : NULL;
    sala_status st = beside ? read_json(&text, &bytes, path, err) : sala_fail_memory(err, strlen(path));
    if (st == SALA_OK && sala_os_is_file(beside))
        st = read_json(&config, &config_bytes, beside, err);
    if (st == SALA_OK)
        st = sala_tokenizer_from_json(out, (const char *)text, bytes, (const char *)config, config_bytes, err);
    free(dir);
    free(beside);
    free(text);
    free(config);
    return st;
}

static char *piece_of(const sala_tokenizer *t, int32_t id)
{
    const char *s;
    size_t n;
    return id >= 0 && sala_tokenizer_piece(t, id, &s, &n) ? sala_strndup(s, n) : NULL;
}

/* A template that does not compile is an error only where there is a conversation to put through it. */
static void open_chat(sala_vocabulary *v, const char *source, size_t n)
{
    char *bos = piece_of(v->tokenizer, sala_tokenizer_bos(v->tokenizer));
    char *eos = piece_of(v->tokenizer, sala_tokenizer_eos(v->tokenizer));
    if (sala_chat_open(&v->chat, source, n, bos, eos, NULL) != SALA_OK)
        v->chat = NULL;
    free(bos);
    free(eos);
}

static sala_status open_gguf(sala_vocabulary *v, const char *path, sala_error *err)
{
    sala_gguf *g;
    const char *source;
    size_t n;
    sala_status st = sala_gguf_open(&g, path, err);
    if (st != SALA_OK)
        return st;
    st = sala_tokenizer_from_gguf(&v->tokenizer, g, err);
    if (st == SALA_OK && sala_gguf_get_str(g, "tokenizer.chat_template", &source, &n))
        open_chat(v, source, n);
    sala_gguf_close(g);
    return st;
}

static sala_status open_dir(sala_vocabulary *v, const char *path, sala_error *err)
{
    char *source = NULL;
    sala_status st = sala_tokenizer_from_dir(&v->tokenizer, path, err);
    if (st == SALA_OK)
        st = sala_chat_template_of_dir(&source, path, false, err);
    if (st == SALA_OK && source)
        open_chat(v, source, strlen(source));
    free(source);
    return st;
}

sala_status sala_vocabulary_open(sala_vocabulary *out, const char *path, sala_error *err)
{
    sala_vocabulary v = {.eos = SALA_BYTES_EOS};
    sala_status st = SALA_OK;
    if (strcmp(path, "bytes") != 0) {
        const size_t n = strlen(path);
        if (sala_os_is_dir(path))
            st = open_dir(&v, path, err);
        else if (n > 5 && strcmp(path + n - 5, ".json") == 0)
            st = open_json(&v.tokenizer, path, err);
        else
            st = open_gguf(&v, path, err);
        if (st != SALA_OK) {
            sala_vocabulary_close(&v);
            return sala_fail_prefix(err, st, "the tokenizer %s", path);
        }
        v.eos = sala_tokenizer_eos(v.tokenizer);
    }
    uint32_t n_vocab;
    v.id = sala_vocab_id(v.tokenizer, &n_vocab);
    *out = v;
    return SALA_OK;
}

void sala_vocabulary_close(sala_vocabulary *v)
{
    sala_chat_close(v->chat);
    sala_tokenizer_free(v->tokenizer);
    *v = (sala_vocabulary){0};
}

sala_status sala_vocabulary_text(const sala_vocabulary *v, sala_buf *out, const int32_t *ids, size_t n, sala_error *err)
{
    if (v->tokenizer)
        return sala_tokenizer_decode(v->tokenizer, out, ids, n, true, err);
    sala_buf raw = {0};
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= 0 && ids[i] < 256)
            sala_buf_add_char(&raw, (char)ids[i]);
    for (size_t i = 0; i < raw.len;) {
        uint32_t cp;
        const int len = sala_utf8_decode(raw.data + i, raw.len - i, &cp);
        sala_buf_add_utf8(out, cp ? cp : 0xFFFD); /* NUL has no place in a C string */
        i += len ? (size_t)len : 1;
    }
    const bool failed = raw.failed || out->failed;
    sala_buf_free(&raw);
    return failed ? sala_fail_memory(err, n) : SALA_OK;
}

/* ---- samples ---- */

static sala_status encode(const sala_vocabulary *v, sala_ids *ids, const char *text, sala_error *err)
{
    const size_t n = strlen(text);
    if (v->tokenizer) {
        const sala_text_span span = {text, n, true};
        return sala_tokenizer_encode(v->tokenizer, ids, &span, 1, true, err);
    }
    ids->data = malloc((n + 1) * sizeof *ids->data);
    if (!ids->data)
        return sala_fail_memory(err, n * sizeof *ids->data);
    for (size_t i = 0; i < n; i++)
        ids->data[i] = (unsigned char)text[i];
    ids->count = n;
    ids->cap = n + 1;
    return SALA_OK;
}

sala_status sala_train_sample(sala_buf *out, sala_trainer *t, const sala_vocabulary *v, int64_t n_vocab,
                              const char *prompt, int n, sala_error *err)
{
    sala_ids ids = {0};
    float *logits = malloc((size_t)n_vocab * sizeof *logits);
    int32_t *all = NULL;
    sala_status st = logits ? encode(v, &ids, prompt, err) : sala_fail_memory(err, (uint64_t)n_vocab * sizeof *logits);
    size_t count = ids.count;
    if (st == SALA_OK && count == 0)
        st = sala_fail(err, SALA_E_INVALID, "a prompt of output.prompts has no tokens");
    if (st == SALA_OK) {
        all = malloc((count + (size_t)n) * sizeof *all);
        if (all)
            memcpy(all, ids.data, count * sizeof *all);
        else
            st = sala_fail_memory(err, (count + (size_t)n) * sizeof *all);
    }
    for (int i = 0; i < n && st == SALA_OK; i++) {
        st = sala_trainer_logits(t, all, (int64_t)count, logits, err);
        int32_t best = 0;
        for (int64_t k = 1; k < n_vocab && st == SALA_OK; k++)
            if (logits[k] > logits[best])
                best = (int32_t)k;
        if (best == v->eos)
            break;
        all[count++] = best;
    }
    if (st == SALA_OK)
        st = sala_vocabulary_text(v, out, all + ids.count, count - ids.count, err);
    free(all);
    free(logits);
    sala_ids_free(&ids);
    return st;
}

/* ---- evaluation ---- */

static int bucket_of(int64_t position)
{
    int b = 0;
    for (int64_t p = position + 1; p > 1 && b + 1 < SALA_POSITION_BUCKETS; p >>= 1)
        b++;
    return b;
}

sala_status sala_evaluate(sala_evaluation *e, sala_trainer *t, const sala_vocabulary *v, const sala_batch *batch,
                          sala_error *err)
{
    double loss;
    int64_t n;
    float *losses = malloc((size_t)batch->n_rows * sizeof *losses);
    int32_t *seen = malloc((size_t)batch->n_rows * sizeof *seen);
    sala_buf text = {0};
    size_t n_seen = 0;
    sala_status st = losses && seen ? sala_trainer_evaluate(t, batch, &loss, &n, losses, err)
                                    : sala_fail_memory(err, (uint64_t)batch->n_rows * 8);
    for (int d = 0; d < batch->n_docs && st == SALA_OK; d++)
        for (int64_t row = batch->doc_start[d]; row < batch->doc_start[d + 1]; row++) {
            if (batch->labels[row] < 0)
                continue;
            const int b = bucket_of(row - batch->doc_start[d]);
            const double x = (double)losses[row];
            e->loss += x;
            e->tokens += 1;
            e->bucket_loss[b] += x;
            e->bucket_tokens[b] += 1;
            seen[n_seen++] = batch->labels[row];
        }
    /* The bytes that were predicted: all labels as one text is near enough for a mean. */
    if (st == SALA_OK)
        st = sala_vocabulary_text(v, &text, seen, n_seen, err);
    e->bytes += (double)text.len;
    sala_buf_free(&text);
    free(losses);
    free(seen);
    return st;
}
