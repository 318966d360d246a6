/* A directory of shards and its manifest. The manifest names the shards and says what each must hold; a shard that was
 * replaced, cut or left over from another packing is noticed when the corpus is opened. */
#include "data/manifest.h"

#include "base/json.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

enum { FORMAT = 1, MAX_MANIFEST_BYTES = 256 << 20, MAX_SHARDS = 1 << 20 };

/* ---- writing ---- */

json_t *sala_json_lossy(const char *text, size_t bytes)
{
    sala_buf b = {0};
    for (size_t at = 0; at < bytes;) {
        uint32_t cp;
        const int n = sala_utf8_decode(text + at, bytes - at, &cp);
        if (n)
            sala_buf_add(&b, text + at, (size_t)n);
        else
            sala_buf_add_utf8(&b, 0xFFFD);
        at += n ? (size_t)n : 1;
    }
    json_t *j = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);
    sala_buf_free(&b);
    return j;
}

static json_t *list_of_shards(const sala_manifest *m)
{
    json_t *list = json_array();
    for (int i = 0; i < m->n_shards; i++) {
        char name[32], sum[24];
        snprintf(name, sizeof name, SALA_SHARD_NAME, i);
        snprintf(sum, sizeof sum, "%016" PRIx64, m->shards[i].header_sum);
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:s}", "file", name, "docs",
                                              (json_int_t)m->shards[i].docs, "tokens", (json_int_t)m->shards[i].tokens,
                                              "bytes", (json_int_t)m->shards[i].bytes, "sum", sum));
    }
    return list;
}

sala_status sala_manifest_write(const char *dir, const sala_manifest *m, sala_error *err)
{
    char id[24];
    snprintf(id, sizeof id, "%016" PRIx64, m->tokenizer_id);
    json_t *sources = json_array();
    for (int i = 0; i < m->n_sources; i++)
        json_array_append_new(sources, sala_json_lossy(m->sources[i], strlen(m->sources[i])));
    json_t *root = json_pack("{s:i, s:I, s:s, s:o?, s:o, s:o}", "format", (int)FORMAT, "vocab", (json_int_t)m->vocab,
                             "tokenizer_id", id, "tokenizer",
                             m->tokenizer ? sala_json_lossy(m->tokenizer, strlen(m->tokenizer)) : NULL, "sources",
                             sources, "shards", list_of_shards(m));
    bool ok = root && json_array_size(json_object_get(root, "shards")) == (size_t)m->n_shards;
    if (ok && m->has_validation)
        ok = json_object_set_new(root, "validation",
                                 json_pack("{s:s, s:f}", "dir", SALA_VALIDATION_NAME, "share", m->validation_share)) ==
             0;
    if (ok && m->stats)
        ok = json_object_set(root, "stats", m->stats) == 0;
    char *text = ok ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    char *path = sala_path_join(dir, SALA_MANIFEST_NAME);
    sala_status status = SALA_OK;
    if (!text || !path) {
        status = sala_fail_memory(err, 4096);
    } else {
        sala_out_file *f = NULL;
        int why = sala_os_out_open(&f, path);
        if (why == 0) {
            sala_os_out_write(f, text, strlen(text));
            sala_os_out_write(f, "\n", 1);
            why = sala_os_out_commit(f);
        }
        if (why)
            status = sala_fail_errno(err, why, "%s: could not be written", path);
    }
    free(path);
    free(text);
    json_decref(root);
    return status;
}

/* ---- reading ---- */

bool sala_corpus_is_there(const char *dir)
{
    char *path = sala_path_join(dir, SALA_MANIFEST_NAME);
    const bool yes = path && sala_os_is_file(path);
    free(path);
    return yes;
}

static sala_status bad_manifest(const char *path, sala_error *err, const char *what)
{
    return sala_fail(err, SALA_E_CORRUPT, "%s: %s", path, what);
}

static bool get_count(const json_t *object, const char *key, uint64_t *out)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static bool get_sum(const json_t *object, const char *key, uint64_t *out)
{
    const char *s = json_string_value(json_object_get(object, key));
    char *end;
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return false;
    errno = 0;
    *out = strtoull(s, &end, 16);
    return errno == 0 && *end == 0;
}

static sala_status load_manifest(json_t **out, const char *dir, const char *path, sala_error *err)
{
    uint8_t *text = NULL;
    size_t bytes = 0;
    const int why = sala_os_read_file(&text, &bytes, path, MAX_MANIFEST_BYTES);
    if (why == ENOENT && sala_os_is_dir(dir))
        return sala_fail(
            err, SALA_E_NOT_FOUND,
            "%s holds no %s: no corpus was packed here, or packing did not come to its end; run 'sala data "
            "pack' (again)",
            dir, SALA_MANIFEST_NAME);
    if (why == ENOTDIR)
        return sala_fail(err, SALA_E_INVALID, "%s is a file; a directory is expected that 'sala data pack' has written",
                         dir);
    if (why)
        return sala_fail_errno(err, why, "%s", why == ENOENT ? dir : path);
    json_error_t where;
    json_t *root = sala_json_loadb((const char *)text, bytes, 0, &where);
    free(text);
    if (!root)
        return sala_fail_at(err, SALA_E_CORRUPT, where.position, "%s:%d:%d: %s", path, where.line, where.column,
                            where.text);
    uint64_t format = 0;
    sala_status status = SALA_OK;
    if (!json_is_object(root) || !get_count(root, "format", &format))
        status =
            bad_manifest(path, err, "no JSON object with the key \"format\"; expected what 'sala data pack' writes");
    else if (format != FORMAT)
        status = sala_fail(err, SALA_E_UNSUPPORTED, "%s: format %" PRIu64 "; this program reads format %d", path,
                           format, FORMAT);
    if (status != SALA_OK) {
        json_decref(root);
        return status;
    }
    *out = root;
    return SALA_OK;
}

static sala_status read_facts(sala_corpus *c, const json_t *root, const char *path, sala_error *err)
{
    uint64_t vocab;
    if (!get_count(root, "vocab", &vocab) || vocab == 0 || vocab > INT32_MAX)
        return bad_manifest(path, err, "\"vocab\" is not a number of token ids");
    c->vocab = (uint32_t)vocab;
    if (!get_sum(root, "tokenizer_id", &c->tokenizer_id))
        return bad_manifest(path, err, "\"tokenizer_id\" is not 16 hexadecimal digits");
    const json_t *tokenizer = json_object_get(root, "tokenizer");
    c->tokenizer = sala_strdup(json_string_value(tokenizer));
    if (json_is_string(tokenizer) && !c->tokenizer)
        return sala_fail_memory(err, json_string_length(tokenizer));
    const json_t *sources = json_object_get(root, "sources");
    const size_t n = json_array_size(sources);
    c->sources = calloc(n + 1, sizeof *c->sources);
    if (!c->sources)
        return sala_fail_memory(err, n * sizeof *c->sources);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(sources, i));
        if (!s)
            return bad_manifest(path, err, "\"sources\" is not a list of strings");
        c->sources[i] = sala_strdup(s);
        if (!c->sources[i])
            return sala_fail_memory(err, strlen(s));
        c->n_sources++;
    }
    uint64_t text_bytes, tokens;
    const json_t *stats = json_object_get(root, "stats");
    if (get_count(stats, "text_bytes", &text_bytes) && get_count(stats, "tokens", &tokens) && tokens)
        c->bytes_per_token = (double)text_bytes / (double)tokens;
    const char *validation = json_string_value(json_object_get(json_object_get(root, "validation"), "dir"));
    if (validation && (strchr(validation, '/') || validation[0] == '.'))
        return bad_manifest(path, err, "the validation folder must lie beside the manifest");
    if (validation) {
        c->validation_dir = sala_path_join(c->dir, validation);
        if (!c->validation_dir)
            return sala_fail_memory(err, strlen(validation));
    }
    return SALA_OK;
}

static sala_status check_shard(const sala_corpus *c, const sala_shard *s, const json_t *entry, const char *path,
                               sala_error *err)
{
    uint64_t docs, tokens, bytes, sum;
    if (!get_count(entry, "docs", &docs) || !get_count(entry, "tokens", &tokens) ||
        !get_count(entry, "bytes", &bytes) || !get_sum(entry, "sum", &sum))
        return bad_manifest(path, err, "the manifest lacks \"docs\", \"tokens\", \"bytes\" or \"sum\" of this shard");
    if (docs != sala_shard_docs(s) || tokens != sala_shard_tokens(s) || bytes != sala_shard_bytes(s) ||
        sum != sala_shard_header_sum(s))
        return sala_fail(err, SALA_E_CORRUPT,
                         "%s: not the shard that the manifest means: %" PRIu64 " documents, %" PRIu64
                         " tokens, sum %016" PRIx64 " expected; %" PRIu64 ", %" PRIu64 ", %016" PRIx64
                         " found; pack again",
                         path, docs, tokens, sum, sala_shard_docs(s), sala_shard_tokens(s), sala_shard_header_sum(s));
    if (sala_shard_vocab(s) != c->vocab || sala_shard_tokenizer_id(s) != c->tokenizer_id)
        return sala_fail(err, SALA_E_CORRUPT,
                         "%s: packed with tokenizer %016" PRIx64 " (%u ids), the manifest says %016" PRIx64
                         " (%u ids); pack again",
                         path, sala_shard_tokenizer_id(s), sala_shard_vocab(s), c->tokenizer_id, c->vocab);
    return SALA_OK;
}

static sala_status open_shards(sala_corpus *c, const json_t *list, const char *path, sala_error *err)
{
    const size_t n = json_array_size(list);
    if (n == 0 || n > MAX_SHARDS)
        return bad_manifest(path, err, "\"shards\" is not a list of shards");
    c->shards = calloc(n, sizeof *c->shards);
    if (!c->shards)
        return sala_fail_memory(err, n * sizeof *c->shards);
    XXH64_hash_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(entry, "file"));
        if (!name || !*name || strchr(name, '/'))
            return bad_manifest(path, err, "a shard's \"file\" is not the name of a file beside the manifest");
        char *file = sala_path_join(c->dir, name);
        if (!file)
            return sala_fail_memory(err, strlen(name));
        sala_status status = sala_shard_open(&c->shards[c->n_shards], file, err);
        if (status == SALA_E_NOT_FOUND)
            status = sala_fail(err, status, "%s is missing, which %s names; pack again, or remove it from there", file,
                               SALA_MANIFEST_NAME);
        if (status == SALA_OK)
            status = check_shard(c, c->shards[c->n_shards++], entry, file, err);
        free(file);
        if (status != SALA_OK)
            return status;
        const sala_shard *s = c->shards[i];
        const uint64_t facts[] = {sum, sala_shard_docs(s), sala_shard_tokens(s), sala_shard_content_sum(s)};
        sum = XXH3_64bits(facts, sizeof facts);
        c->n_docs += sala_shard_docs(s);
        c->n_tokens += sala_shard_tokens(s);
        c->n_bytes += sala_shard_bytes(s);
    }
    c->manifest_sum = sum;
    return SALA_OK;
}

sala_status sala_corpus_open(sala_corpus *out, const char *dir, sala_error *err)
{
    sala_corpus c = {.dir = sala_strdup(dir)};
    char *path = sala_path_join(dir, SALA_MANIFEST_NAME);
    json_t *root = NULL;
    sala_status status = c.dir && path ? SALA_OK : sala_fail_memory(err, strlen(dir));
    if (status == SALA_OK)
        status = load_manifest(&root, dir, path, err);
    if (status == SALA_OK)
        status = read_facts(&c, root, path, err);
    if (status == SALA_OK)
        status = open_shards(&c, json_object_get(root, "shards"), path, err);
    json_decref(root);
    free(path);
    if (status != SALA_OK) {
        sala_corpus_close(&c);
        return status;
    }
    *out = c;
    return SALA_OK;
}

void sala_corpus_close(sala_corpus *c)
{
    for (int i = 0; i < c->n_shards; i++)
        sala_shard_close(c->shards[i]);
    for (int i = 0; i < c->n_sources; i++)
        free(c->sources[i]);
    free(c->shards);
    free(c->sources);
    free(c->tokenizer);
    free(c->validation_dir);
    free(c->dir);
    *c = (sala_corpus){0};
}

sala_status sala_corpus_check_vocab(const sala_corpus *c, uint64_t tokenizer_id, uint32_t n_vocab, sala_error *err)
{
    if (c->vocab > n_vocab)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: the shards were packed with another tokenizer (id %016" PRIx64
                         ", %u ids); the model has %u: pack again with --tokenizer MODEL",
                         c->dir, c->tokenizer_id, c->vocab, n_vocab);
    if (tokenizer_id != 0 && tokenizer_id != c->tokenizer_id)
        return sala_fail(err, SALA_E_INVALID,
                         "%s: the shards were packed with another tokenizer (id %016" PRIx64
                         ", %u ids); the model's has id %016" PRIx64 ": pack again with --tokenizer MODEL",
                         c->dir, c->tokenizer_id, c->vocab, tokenizer_id);
    return SALA_OK;
}
