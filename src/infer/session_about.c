/* What a session file says of itself, and what ties it to its model. */
#include "infer/session_store.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#define FORMAT 1
#define SAMPLE_BYTES ((uint64_t)64)

static const char *const kv_names[] = {
    [SALA_KV_F32] = "f32", [SALA_KV_F16] = "f16", [SALA_KV_Q8_0] = "q8_0", [SALA_KV_Q4] = "q4"};

/* ---- fingerprint ---- */

static void add_numbers(sala_buf *b, const double *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sala_buf_printf(b, " %a", values[i]);
}

static void add_floats(sala_buf *b, const float *values, int n)
{
    for (int i = 0; i < n && values; i++)
        sala_buf_printf(b, " %a", (double)values[i]);
}

/* Whatever of the configuration changes what a token leaves in a session. Which softmax layers are sparse, and how, is
 * the user's choice and is held against the session's own layout. */
static void add_config(sala_buf *b, const sala_config *c)
{
    const sala_rope_config *r = &c->rope;
    const sala_lightning_config *l = &c->lightning;
    sala_buf_printf(b, "%s %d %d %d %d %d %d %d", c->architecture, c->n_layers, c->n_embd, c->n_heads, c->n_kv_heads,
                    c->head_dim, c->n_ff, c->n_vocab);
    add_numbers(b,
                (const double[]){c->rms_eps, c->embed_scale, c->residual_scale, c->attn_scale, c->attn_scale_base,
                                 r->theta, r->factor, r->low_freq_factor, r->high_freq_factor, r->beta_fast,
                                 r->beta_slow, r->mscale, r->mscale_all_dim, r->attention_factor, l->scale},
                15);
    sala_buf_printf(b, " %d %d %d %d %" PRId64 " %d %d %d", c->attn_rope, c->attn_gate, (int)r->kind, r->n_rot,
                    r->original_max, r->half, r->yarn_truncate, c->sliding_window);
    add_floats(b, r->short_factors, r->n_factors);
    add_floats(b, r->long_factors, r->n_factors);
    sala_buf_printf(b, " %d %d %d %d %d %d %d ", l->n_heads, l->n_kv_heads, l->head_dim, l->rope, l->qk_norm,
                    l->out_norm, l->gate);
    for (int i = 0; i < c->n_layers; i++)
        sala_buf_add_char(b, c->mixers[i] == SALA_MIXER_LIGHTNING ? 'l' : 'a');
}

static void add_samples(XXH3_state_t *hash, const sala_tensor *t)
{
    char head[160];
    const int n =
        snprintf(head, sizeof head, "%.96s %d %" PRId64 " %" PRId64, t->name, (int)t->dtype, t->ne[0], t->ne[1]);
    XXH3_128bits_update(hash, head, (size_t)n);
    const uint64_t some = t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES;
    const uint64_t places[] = {0, (t->bytes - some) / 2, t->bytes - some};
    for (size_t i = 0; i < SALA_ARRAY_LEN(places); i++)
        XXH3_128bits_update(hash, (const uint8_t *)t->data + places[i], (size_t)some);
}

void sala_session_fingerprint(char out[SALA_FINGERPRINT_CHARS], const sala_model *model)
{
    out[0] = 0;
    XXH3_state_t *hash = XXH3_createState();
    sala_buf config = {0};
    add_config(&config, model->config);
    if (hash && !config.failed) {
        XXH3_128bits_reset(hash);
        XXH3_128bits_update(hash, config.data, config.len);
        const sala_tensor_list tensors = sala_checkpoint_tensors(&model->net->files);
        for (size_t i = 0; i < tensors.count; i++)
            add_samples(hash, &tensors.items[i]);
        const XXH128_hash_t h = XXH3_128bits_digest(hash);
        snprintf(out, SALA_FINGERPRINT_CHARS, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    }
    sala_buf_free(&config);
    XXH3_freeState(hash);
}

/* ---- writing ---- */

char *sala_session_about_text(size_t *bytes, const sala_session *s, const int64_t *states, int n_states)
{
    char fingerprint[SALA_FINGERPRINT_CHARS];
    sala_session_fingerprint(fingerprint, s->model);
    const sala_state_layout *l = &s->line.state.layout;
    json_t *positions = json_array();
    for (int i = 0; i < n_states; i++)
        json_array_append_new(positions, json_integer(states[i]));
    json_t *note = s->note ? sala_json_loadb(s->note, strlen(s->note), 0, &(json_error_t){0}) : json_object();
    /* json_pack takes what is new over, also when it fails. */
    json_t *root = json_pack("{s:i,s:s?,s:s,s:s,s:s,s:I,s:I,s:s,s:b,s:I,s:{s:i,s:i,s:i,s:i,s:b},s:o,s:o}", "format",
                             FORMAT, "model", s->model->path, "architecture", s->model->config->architecture,
                             "fingerprint", fingerprint, "kv", kv_names[sala_session_kv(s)], "tokens",
                             (json_int_t)s->line.state.length, "planned_tokens", (json_int_t)s->planned_tokens,
                             "dense_switch", s->dense_switch == SALA_DENSE_BY_PROMPT ? "prompt" : "position",
                             "long_rope", (int)s->line.long_rope, "sparse_from", (json_int_t)s->line.sparse_from,
                             "sparse", "layers", l->n_sparse, "kernel", l->kernel, "stride", l->stride, "coarse",
                             l->coarse, "keys_before_rotation", (int)l->raw_keys, "states_at", positions, "note", note);
    char *text = root && fingerprint[0] ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    /* The caller frees with free(), which is what jansson allocates with. */
    *bytes = text ? strlen(text) : 0;
    return text;
}

/* ---- reading ---- */

static const char *get_text(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static bool get_count(const json_t *o, const char *key, int64_t most, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > most)
        return false;
    *out = json_integer_value(v);
    return true;
}

static bool get_int(const json_t *o, const char *key, int *out)
{
    int64_t v;
    if (!get_count(o, key, INT32_MAX, &v))
        return false;
    *out = (int)v;
    return true;
}

static bool get_bool(const json_t *o, const char *key, bool *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_true(v);
    return json_is_boolean(v);
}

static bool get_kv(const json_t *o, sala_kv_type *out)
{
    const char *name = get_text(o, "kv");
    for (size_t i = 0; name && i < SALA_ARRAY_LEN(kv_names); i++)
        if (kv_names[i] && strcmp(kv_names[i], name) == 0) {
            *out = (sala_kv_type)i;
            return true;
        }
    return false;
}

static bool get_dense_switch(const json_t *o, sala_dense_switch *out)
{
    const char *name = get_text(o, "dense_switch");
    *out = name && strcmp(name, "prompt") == 0 ? SALA_DENSE_BY_PROMPT : SALA_DENSE_BY_POSITION;
    return name && (*out == SALA_DENSE_BY_PROMPT || strcmp(name, "position") == 0);
}

/* Positions are multiples of a chunk, at or before the length, and no two are the same. */
static bool get_states(sala_session_about *a)
{
    const json_t *list = json_object_get(a->root, "states_at");
    const size_t n = json_array_size(list);
    if (!json_is_array(list) || n > 4096)
        return false;
    a->states = calloc(n + 1, sizeof *a->states);
    if (!a->states)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        const int64_t at = json_integer_value(v);
        if (!json_is_integer(v) || (at != -1 && (at <= 0 || at > a->tokens || at % SALA_LINEAR_CHUNK != 0)))
            return false;
        for (size_t j = 0; j < i && at != -1; j++)
            if (a->states[j] == at)
                return false;
        a->states[i] = at;
        a->n_states = (int)i + 1;
    }
    return true;
}

static const char *wrong_part(sala_session_about *a)
{
    const json_t *r = a->root, *sparse = json_object_get(r, "sparse");
    a->model = get_text(r, "model") ? get_text(r, "model") : "?";
    a->architecture = get_text(r, "architecture");
    a->fingerprint = get_text(r, "fingerprint");
    a->note = json_object_get(r, "note");
    if (!a->architecture)
        return "architecture";
    if (!a->fingerprint)
        return "fingerprint";
    if (!get_kv(r, &a->kv))
        return "kv";
    if (!get_count(r, "tokens", INT64_C(1) << 40, &a->tokens))
        return "tokens";
    if (!get_count(r, "planned_tokens", INT64_MAX, &a->planned_tokens))
        return "planned_tokens";
    if (!get_dense_switch(r, &a->dense_switch))
        return "dense_switch";
    if (!get_bool(r, "long_rope", &a->long_rope))
        return "long_rope";
    if (!get_count(r, "sparse_from", INT64_MAX, &a->sparse_from))
        return "sparse_from";
    if (!get_int(sparse, "layers", &a->n_sparse) || !get_int(sparse, "kernel", &a->kernel) ||
        !get_int(sparse, "stride", &a->stride) || !get_int(sparse, "coarse", &a->coarse) ||
        !get_bool(sparse, "keys_before_rotation", &a->raw_keys))
        return "sparse";
    if (!get_states(a))
        return "states_at";
    if (!json_is_object(a->note))
        return "note";
    return NULL;
}

sala_status sala_session_about_read(sala_session_about *out, const sala_session_file *f, const char *path,
                                    sala_error *err)
{
    if (sala_session_file_generation(f) == 0)
        return sala_fail(err, SALA_E_TRUNCATED, "%s: no session was ever saved in this file", path);
    size_t bytes;
    const char *text = sala_session_file_description(f, &bytes);
    json_error_t where;
    sala_session_about a = {.root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where)};
    if (!json_is_object(a.root)) {
        json_decref(a.root);
        return sala_fail(err, SALA_E_CORRUPT, "%s: the description is no JSON object: %s", path,
                         a.root ? "something else" : where.text);
    }
    int format = 0;
    const char *wrong = "format";
    if (get_int(a.root, "format", &format)) {
        if (format != FORMAT) {
            sala_session_about_free(&a);
            return sala_fail(err, SALA_E_UNSUPPORTED, "%s: the session has format %d; this program reads format %d",
                             path, format, FORMAT);
        }
        wrong = wrong_part(&a);
    }
    if (wrong) {
        sala_session_about_free(&a);
        return sala_fail(err, SALA_E_CORRUPT, "%s: \"%s\" of the description is missing or impossible", path, wrong);
    }
    *out = a;
    return SALA_OK;
}

void sala_session_about_free(sala_session_about *about)
{
    json_decref(about->root);
    free(about->states);
    *about = (sala_session_about){0};
}

sala_status sala_session_describe(char **json, const char *path, sala_error *err)
{
    sala_session_file *f;
    sala_status st = sala_session_file_open(&f, path, SALA_SESSION_READ, err);
    if (st != SALA_OK)
        return st;
    sala_session_about about;
    st = sala_session_about_read(&about, f, path, err);
    if (st == SALA_OK) {
        json_object_set_new(about.root, "file_bytes", json_integer((json_int_t)sala_session_file_size(f)));
        json_object_set_new(about.root, "saves", json_integer((json_int_t)sala_session_file_generation(f)));
        json_object_set_new(about.root, "fell_back", json_boolean(sala_session_file_fell_back(f)));
        char *text = json_dumps(about.root, JSON_COMPACT);
        if (text)
            *json = text;
        else
            st = sala_fail_memory(err, sala_session_file_size(f));
        sala_session_about_free(&about);
    }
    sala_session_file_close(f);
    return st;
}

sala_status sala_session_set_note(sala_session *s, const char *json, sala_error *err)
{
    const size_t bytes = strlen(json);
    if (bytes > SALA_NOTE_MAX)
        return sala_fail(err, SALA_E_LIMIT, "a note of %zu bytes; at most %zu are allowed", bytes, SALA_NOTE_MAX);
    json_error_t where;
    json_t *root = json_loadb(json, bytes, 0, &where);
    const bool object = json_is_object(root);
    json_decref(root);
    if (!object)
        return sala_fail(err, SALA_E_INVALID, "a session's note is a JSON object; this is %s",
                         root ? "something else" : where.text);
    char *copy = sala_strdup(json);
    if (!copy)
        return sala_fail_memory(err, bytes);
    free(s->note);
    s->note = copy;
    return SALA_OK;
}
