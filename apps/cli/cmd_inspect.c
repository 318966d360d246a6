/* inspect: what a file or directory is, and whether it will fit. Collects everything into one JSON value first; the
 * words for people are printed from that, so that both say the same. What cannot be read is left out with its reason.
 */
#include "cli.h"

#include "attention_map.h"
#include "format/safetensors.h"
#include "inspect.h"
#include "model/net.h"
#include "model_arg.h"
#include "os/os.h"
#include "text/jinja.h"
#include "ui.h"
#include "vocab.h"

#include <stdlib.h>

/* ---- tensors ---- */

static const char *const CLASS_NAMES[] = {
    [SALA_T_EMBED] = "token embedding",  [SALA_T_OUT_NORM] = "norms",
    [SALA_T_HEAD] = "output head",       [SALA_T_ROPE_FREQS] = "rope factors",
    [SALA_T_ROPE_LONG] = "rope factors", [SALA_T_ROPE_SHORT] = "rope factors",
    [SALA_T_ATTN_NORM] = "norms",        [SALA_T_Q] = "attention q",
    [SALA_T_K] = "attention k",          [SALA_T_V] = "attention v",
    [SALA_T_O] = "attention out",        [SALA_T_Q_BIAS] = "biases",
    [SALA_T_K_BIAS] = "biases",          [SALA_T_V_BIAS] = "biases",
    [SALA_T_O_BIAS] = "biases",          [SALA_T_Q_NORM] = "norms",
    [SALA_T_K_NORM] = "norms",           [SALA_T_FFN_NORM] = "norms",
    [SALA_T_GATE] = "feed-forward gate", [SALA_T_UP] = "feed-forward up",
    [SALA_T_DOWN] = "feed-forward down", [SALA_T_GATE_BIAS] = "biases",
    [SALA_T_UP_BIAS] = "biases",         [SALA_T_DOWN_BIAS] = "biases",
    [SALA_T_ATTN_GATE] = "output gates", [SALA_T_LINEAR_GATE] = "output gates",
    [SALA_T_MIX_NORM] = "norms",         [SALA_T_LINEAR_GATE_BIAS] = "biases",
};

typedef struct class_row {
    const char *name;
    sala_dtype dtype;
    int tensors;
    uint64_t weights, bytes;
} class_row;

enum { MAX_CLASS_ROWS = 128 };

static uint64_t weights_of(const sala_tensor *t)
{
    uint64_t n = 1;
    for (int d = 0; d < t->n_dims; d++)
        if (!sala_mul_size(&n, n, (uint64_t)(t->ne[d] > 0 ? t->ne[d] : 0)))
            return 0;
    return n;
}

static void add_tensors(json_t *report, sala_tensor_list list, bool hf, bool each)
{
    class_row rows[MAX_CLASS_ROWS];
    int n_rows = 0;
    uint64_t weights = 0, bytes = 0;
    json_t *tensors = json_array();
    for (size_t i = 0; i < list.count; i++) {
        const sala_tensor *t = &list.items[i];
        sala_tensor_role role;
        int layer;
        const bool known = sala_tensor_role_of(t->name, hf, &role, &layer);
        const char *name = known ? CLASS_NAMES[role] : "other";
        int k = 0;
        while (k < n_rows && !(rows[k].dtype == t->dtype && strcmp(rows[k].name, name) == 0))
            k++;
        if (k == n_rows && n_rows < MAX_CLASS_ROWS)
            rows[n_rows++] = (class_row){.name = name, .dtype = t->dtype};
        if (k < n_rows) {
            rows[k].tensors++;
            rows[k].weights += weights_of(t);
            rows[k].bytes += t->bytes;
        }
        weights += weights_of(t);
        bytes += t->bytes;
        if (each) {
            json_t *shape = json_array();
            for (int d = t->n_dims - 1; d >= 0; d--)
                json_array_append_new(shape, json_integer(t->ne[d]));
            json_array_append_new(
                tensors, json_pack("{s:o,s:s,s:o,s:I}", "name", cli_json_text(t->name, strlen(t->name)), "type",
                                   sala_dtype_name(t->dtype), "shape", shape, "bytes", (json_int_t)t->bytes));
        }
    }
    json_t *classes = json_array();
    const class_row *most = NULL;
    for (int k = 0; k < n_rows; k++) {
        json_array_append_new(classes, json_pack("{s:s,s:s,s:i,s:I,s:I}", "class", rows[k].name, "type",
                                                 sala_dtype_name(rows[k].dtype), "tensors", rows[k].tensors, "weights",
                                                 (json_int_t)rows[k].weights, "bytes", (json_int_t)rows[k].bytes));
        uint64_t of_type = 0, of_most = 0;
        for (int j = 0; j < n_rows; j++) {
            of_type += rows[j].dtype == rows[k].dtype ? rows[j].weights : 0;
            of_most += most && rows[j].dtype == most->dtype ? rows[j].weights : 0;
        }
        if (!most || of_type > of_most)
            most = &rows[k];
    }
    json_object_set_new(report, "parameters", json_integer((json_int_t)weights));
    json_object_set_new(report, "weight_bytes", json_integer((json_int_t)bytes));
    json_object_set_new(report, "n_tensors", json_integer((json_int_t)list.count));
    if (most)
        json_object_set_new(report, "quantization", json_string(sala_dtype_name(most->dtype)));
    json_object_set_new(report, "tensor_classes", classes);
    if (each)
        json_object_set_new(report, "tensors", tensors);
    else
        json_decref(tensors);
}

/* ---- config ---- */

static const char *rope_word(sala_rope_kind kind)
{
    switch (kind) {
    case SALA_ROPE_NONE:
        return "none";
    case SALA_ROPE_PLAIN:
        return "plain";
    case SALA_ROPE_LINEAR:
        return "linear";
    case SALA_ROPE_LLAMA3:
        return "llama3";
    case SALA_ROPE_YARN:
        return "yarn";
    case SALA_ROPE_LONGROPE:
        return "longrope";
    case SALA_ROPE_FACTORS:
        return "given factors";
    }
    return "?";
}

static void set_int(json_t *o, const char *key, int64_t v)
{
    json_object_set_new(o, key, json_integer(v));
}
static void set_real(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, json_real(v));
}
static void set_text(json_t *o, const char *key, const char *s)
{
    json_object_set_new(o, key, s ? cli_json_text(s, strlen(s)) : json_null());
}

/* A part that is absent is no fault: tokenizers stand alone, and checkpoints without one compute from ids. */
static void add_problem(json_t *report, const char *what, const sala_error *err)
{
    json_t *list = json_object_get(report, "problems");
    if (!list) {
        list = json_array();
        json_object_set_new(report, "problems", list);
    }
    json_array_append_new(list, json_pack("{s:s,s:o,s:b}", "what", what, "why",
                                          cli_json_text(err->message, strlen(err->message)), "absent",
                                          err->code == SALA_E_NOT_FOUND));
}

/* ---- layers ---- */

static bool has_mixers(const sala_config *c)
{
    return sala_config_count(c, SALA_MIXER_DENSE) < c->n_layers;
}

/* "S LLLLLLLL S": stretches of one kind, long ones as a number and the letter. */
static json_t *mixer_letters(const sala_config *c)
{
    static const char letters[] = {'D', 'S', 'L'};
    sala_buf b = {0};
    for (int32_t i = 0, n; i < c->n_layers; i += n) {
        n = 1;
        while (i + n < c->n_layers && c->mixers[i + n] == c->mixers[i])
            n++;
        if (i > 0)
            sala_buf_add_char(&b, ' ');
        if (n > 12)
            sala_buf_printf(&b, "%d%c", (int)n, letters[c->mixers[i]]);
        else
            for (int32_t k = 0; k < n; k++)
                sala_buf_add_char(&b, letters[c->mixers[i]]);
    }
    json_t *text = b.failed || !b.data ? json_null() : json_stringn(b.data, b.len);
    sala_buf_free(&b);
    return text;
}

static void add_mixers(json_t *report, const sala_config *c)
{
    json_t *list = json_array();
    if (!has_mixers(c)) {
        json_decref(list);
        return;
    }
    for (int32_t i = 0; i < c->n_layers; i++)
        json_array_append_new(list, json_string(sala_mixer_kind_name(c->mixers[i])));
    json_t *m = json_pack("{s:o,s:o,s:b,s:b}", "layers", list, "letters", mixer_letters(c), "attention_rope",
                          (int)c->attn_rope, "attention_gate", (int)c->attn_gate);
    if (c->attn_scale_base > 0)
        set_real(m, "attention_scale_base", c->attn_scale_base);
    const sala_sparse_config *s = &c->sparse;
    if (sala_config_count(c, SALA_MIXER_SPARSE) > 0)
        json_object_set_new(m, "sparse",
                            json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:b,s:i}", "kernel_size", (int)s->kernel_size,
                                      "kernel_stride", (int)s->kernel_stride, "block_size", (int)s->block_size,
                                      "init_blocks", (int)s->init_blocks, "topk", (int)s->topk, "window_size",
                                      (int)s->window_size, "dense_len", (json_int_t)s->dense_len, "use_nope",
                                      (int)s->use_nope, "selected_blocks", (int)sala_sparse_selected(s)));
    const sala_lightning_config *l = &c->lightning;
    if (l->n_heads > 0)
        json_object_set_new(m, "lightning",
                            json_pack("{s:i,s:i,s:i,s:f,s:b,s:b,s:b,s:b}", "heads", (int)l->n_heads, "kv_heads",
                                      (int)l->n_kv_heads, "head_dim", (int)l->head_dim, "scale", l->scale, "rope",
                                      (int)l->rope, "qk_norm", (int)l->qk_norm, "out_norm", (int)l->out_norm, "gate",
                                      (int)l->gate));
    json_object_set_new(report, "mixers", m);
}

static void add_config(json_t *report, const sala_config *c)
{
    set_text(report, "architecture", c->architecture);
    if (c->name)
        set_text(report, "name", c->name);
    json_t *s = json_object();
    set_int(s, "layers", c->n_layers);
    set_int(s, "embedding", c->n_embd);
    set_int(s, "heads", c->n_heads);
    set_int(s, "kv_heads", c->n_kv_heads);
    set_int(s, "head_dim", c->head_dim);
    set_int(s, "feed_forward", c->n_ff);
    set_int(s, "vocabulary", c->n_vocab);
    set_int(s, "context_trained", c->n_ctx_train);
    json_object_set_new(s, "tied_head", json_boolean(c->tied_head));
    json_object_set_new(s, "qkv_bias", json_boolean(c->qkv_bias));
    json_object_set_new(s, "qk_norm", json_boolean(c->qk_norm));
    set_real(s, "embed_scale", c->embed_scale);
    set_real(s, "residual_scale", c->residual_scale);
    set_real(s, "logit_divisor", c->logit_divisor);
    json_object_set_new(report, "shape", s);
    json_t *r = json_object();
    set_text(r, "kind", rope_word(c->rope.kind));
    set_real(r, "theta", c->rope.theta);
    set_int(r, "rotated", c->rope.n_rot);
    if (c->rope.kind == SALA_ROPE_LINEAR || c->rope.kind == SALA_ROPE_LLAMA3 || c->rope.kind == SALA_ROPE_YARN)
        set_real(r, "factor", c->rope.factor);
    if (c->rope.kind != SALA_ROPE_PLAIN && c->rope.kind != SALA_ROPE_NONE)
        set_int(r, "original_context", c->rope.original_max ? c->rope.original_max : c->n_ctx_train);
    json_object_set_new(report, "rope", r);
    add_mixers(report, c);
    json_t *g = json_object();
    if (c->gen_temperature >= 0)
        set_real(g, "temperature", c->gen_temperature);
    if (c->gen_top_k >= 0)
        set_int(g, "top_k", c->gen_top_k);
    if (c->gen_top_p >= 0)
        set_real(g, "top_p", c->gen_top_p);
    if (c->gen_min_p >= 0)
        set_real(g, "min_p", c->gen_min_p);
    if (c->gen_repeat_penalty >= 0)
        set_real(g, "repeat_penalty", c->gen_repeat_penalty);
    json_object_set_new(report, "sampling", g);
}

/* ---- memory ---- */

static const struct {
    const char *name;
    sala_dtype dtype;
} kv_types[] = {{"f16", SALA_F16}, {"q8_0", SALA_Q8_0}, {"q4", SALA_Q4_1}, {"f32", SALA_F32}};

/* What -c asks for is a user's number and the shapes are a file's: beyond what fits, the most that can be said. */
static int64_t clamp_bytes(const sala_state_layout *l, int64_t n, uint64_t bytes)
{
    const double rough = ((double)sala_state_block_bytes(l) + (double)sala_state_row_page_bytes(l)) * (double)n;
    return rough > 0x1p62 || bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
}

static json_t *memory_row(const sala_state_layout *l, int64_t n, uint64_t weights)
{
    const sala_state_cost cost = sala_state_cost_at(l, n);
    const int64_t session = clamp_bytes(l, n, sala_state_bytes_at(l, n));
    json_t *row = json_object();
    set_int(row, "tokens", n);
    set_int(row, "kv_bytes", clamp_bytes(l, n, cost.keys_values));
    set_int(row, "compressed_bytes", clamp_bytes(l, n, cost.rows));
    set_int(row, "linear_bytes", clamp_bytes(l, n, cost.linear));
    set_int(row, "session_bytes", session);
    set_int(row, "total_bytes", (uint64_t)session > INT64_MAX - weights ? INT64_MAX : session + (int64_t)weights);
    return row;
}

static json_t *memory_table(const sala_config *c, uint64_t weights)
{
    static const int64_t depths[] = {32 << 10, 256 << 10, 1 << 20};
    json_t *table = json_array();
    for (size_t k = 0; k < SALA_ARRAY_LEN(kv_types); k++) {
        sala_state_layout l;
        json_t *at = json_array();
        if (sala_net_state_layout(&l, c, kv_types[k].dtype, NULL) == SALA_OK)
            for (size_t i = 0; i < SALA_ARRAY_LEN(depths); i++)
                json_array_append_new(at, memory_row(&l, depths[i], weights));
        json_array_append_new(table, json_pack("{s:s,s:o}", "kv_type", kv_types[k].name, "at", at));
    }
    return table;
}

static void add_memory(json_t *report, const sala_config *c, const cli_options *o)
{
    const int64_t ctx = o->ctx > 0 ? o->ctx : c->n_ctx_train;
    const uint64_t weights = (uint64_t)json_integer_value(json_object_get(report, "weight_bytes"));
    size_t kind = 0;
    sala_state_layout l;
    sala_error err = {0};
    while (o->kv && kind + 1 < SALA_ARRAY_LEN(kv_types) && strcmp(o->kv, kv_types[kind].name) != 0)
        kind++;
    if (sala_net_state_layout(&l, c, kv_types[kind].dtype, &err) != SALA_OK) {
        add_problem(report, "session", &err);
        return;
    }
    json_t *m = memory_row(&l, ctx, weights);
    json_object_del(m, "tokens");
    set_int(m, "context", ctx);
    set_text(m, "kv_type", kv_types[kind].name);
    set_int(m, "kv_bytes_per_token", (int64_t)(sala_state_block_bytes(&l) / SALA_KV_BLOCK));
    if (l.n_sparse > 0)
        set_real(m, "compressed_bytes_per_token",
                 (double)sala_state_row_page_bytes(&l) / 64 / l.stride * (1 + 1.0 / l.coarse));
    if (l.linear.n_layers > 0)
        set_int(m, "linear_state_bytes", (int64_t)(l.linear.state_bytes * (size_t)l.linear.n_layers));
    set_int(m, "weight_bytes", (int64_t)weights);
    set_int(m, "machine_bytes", (int64_t)sala_os_memory_total());
    json_object_set_new(m, "table", memory_table(c, weights));
    json_object_set_new(report, "memory", m);
}

/* Hybrid models go wrong where the list of layers and the tensors disagree. */
static void check_layers(json_t *report, const sala_config *c, const sala_gguf *g, const sala_safetensors *st)
{
    sala_error err = {0};
    if (sala_config_count(c, SALA_MIXER_LIGHTNING) > 0 && !c->quant_method[0] &&
        sala_config_check_tensors(c, g, st, &err) != SALA_OK)
        add_problem(report, "layers", &err);
}

/* ---- text ---- */

static void add_tokenizer(json_t *report, const sala_tokenizer *t)
{
    json_t *k = json_object();
    set_text(k, "kind", sala_tokenizer_kind(t));
    set_text(k, "pre_tokenizer", sala_tokenizer_pre(t));
    set_int(k, "tokens", sala_tokenizer_n_vocab(t));
    const struct {
        const char *name;
        int32_t id;
    } special[] = {{"bos", sala_tokenizer_bos(t)},
                   {"eos", sala_tokenizer_eos(t)},
                   {"pad", sala_tokenizer_pad(t)},
                   {"unk", sala_tokenizer_unk(t)}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(special); i++) {
        const char *s;
        size_t n;
        if (special[i].id >= 0 && sala_tokenizer_piece(t, special[i].id, &s, &n))
            json_object_set_new(k, special[i].name,
                                json_pack("{s:i,s:o}", "id", special[i].id, "text", cli_json_text(s, n)));
    }
    json_object_set_new(k, "adds_bos", json_boolean(sala_tokenizer_adds_bos(t)));
    json_object_set_new(k, "adds_eos", json_boolean(sala_tokenizer_adds_eos(t)));
    json_object_set_new(report, "tokenizer", k);
}

static void add_template(json_t *report, const cli_vocab *v)
{
    char *source = NULL;
    sala_error err = {0};
    json_t *k = json_object();
    if (cli_vocab_template(v, &source, false, &err) != SALA_OK) {
        set_text(k, "error", err.message);
    } else if (source) {
        sala_jinja *compiled = NULL;
        set_int(k, "bytes", (int64_t)strlen(source));
        json_object_set_new(k, "tools", json_boolean(strstr(source, "tools") != NULL));
        json_object_set_new(k, "thinking", json_boolean(strstr(source, "enable_thinking") != NULL));
        json_object_set_new(k, "generation_prompt", json_boolean(strstr(source, "add_generation_prompt") != NULL));
        if (sala_jinja_compile(&compiled, source, strlen(source), &err) != SALA_OK)
            set_text(k, "error", err.message);
        sala_jinja_free(compiled);
    }
    if (json_object_size(k))
        json_object_set_new(report, "template", k);
    else
        json_decref(k);
    free(source);
}

/* ---- one file or directory ---- */

/* Says the first fault aloud, after the report; an exit code. */
static int fault_of(const json_t *report, const char *path)
{
    size_t i;
    const json_t *problem;
    json_array_foreach(json_object_get(report, "problems"), i, problem)
    {
        if (!json_is_true(json_object_get(problem, "absent")))
            return cli_fail("%s cannot be used: %s", path, json_string_value(json_object_get(problem, "why")));
    }
    return CLI_DONE;
}

static void inspect_gguf(json_t *report, const sala_gguf *g, const cli_options *o)
{
    sala_error err = {0};
    sala_config c;
    const char *s;
    size_t n;
    set_text(report, "format", "GGUF");
    set_int(report, "file_bytes", (int64_t)sala_gguf_file_bytes(g));
    if (sala_gguf_get_str(g, "general.architecture", &s, &n))
        json_object_set_new(report, "architecture", cli_json_text(s, n));
    if (sala_gguf_get_str(g, "general.name", &s, &n))
        json_object_set_new(report, "name", cli_json_text(s, n));
    add_tensors(report, sala_gguf_tensors(g), false, o->tensors);
    if (sala_config_from_gguf(&c, g, &err) == SALA_OK) {
        add_config(report, &c);
        add_memory(report, &c, o);
        if (sala_gguf_tensors(g).count > 0)
            check_layers(report, &c, g, NULL);
        sala_config_free(&c);
    } else {
        add_problem(report, "configuration", &err);
    }
    if (o->metadata)
        cli_inspect_metadata_gguf(report, g);
}

static void inspect_dir(json_t *report, const char *dir, const cli_options *o)
{
    sala_error err = {0};
    sala_config c;
    sala_safetensors *st = NULL;
    set_text(report, "format", "Hugging Face directory");
    if (sala_safetensors_open(&st, dir, &err) == SALA_OK) {
        set_int(report, "file_bytes", (int64_t)sala_safetensors_file_bytes(st));
        add_tensors(report, sala_safetensors_tensors(st), true, o->tensors);
    } else {
        add_problem(report, "weights", &err);
    }
    err = (sala_error){0};
    sala_status read = sala_config_from_dir(&c, dir, &err);
    if (read == SALA_OK && st) {
        read = sala_config_fit_lightning(&c, st, &err);
        if (read != SALA_OK)
            sala_config_free(&c);
    }
    if (read == SALA_OK) {
        add_config(report, &c);
        if (json_object_get(report, "weight_bytes"))
            add_memory(report, &c, o);
        if (st)
            check_layers(report, &c, NULL, st);
        sala_config_free(&c);
    } else {
        add_problem(report, "configuration", &err);
    }
    sala_safetensors_close(st);
    if (o->metadata)
        cli_inspect_metadata_dir(report, dir);
}

/* A config.json alone: what a model of this shape would be. */
static bool inspect_config(json_t *report, const char *path, const cli_options *o)
{
    sala_config c;
    uint64_t weights = 0;
    if (sala_config_from_file(&c, path, NULL) != SALA_OK)
        return false;
    set_text(report, "format", "configuration without weights");
    for (int role = 0; role < SALA_T_COUNT; role++) {
        const int32_t n = role < SALA_T_FIRST_OF_LAYER ? 1 : c.n_layers;
        for (int32_t layer = 0; layer < n; layer++) {
            int64_t rows, cols;
            if (sala_tensor_shape(&c, (sala_tensor_role)role, layer, &rows, &cols))
                weights += (uint64_t)((rows > 0 ? rows : 1) * cols);
        }
    }
    set_int(report, "parameters", (int64_t)weights);
    add_config(report, &c);
    add_memory(report, &c, o);
    sala_config_free(&c);
    return true;
}

int cli_cmd_inspect(const cli_options *o)
{
    if (o->attention)
        return cli_attention_map(o);
    cli_vocab v;
    sala_error err = {0};
    int rc = cli_vocab_open(&v, o, false, true);
    if (rc)
        return rc;
    json_t *report = json_object();
    set_text(report, "path", v.path);
    if (v.gguf)
        inspect_gguf(report, v.gguf, o);
    else if (sala_os_is_dir(v.path))
        inspect_dir(report, v.path, o);
    else if (v.tokenizer || !inspect_config(report, v.path, o))
        set_text(report, "format", "tokenizer");
    if (v.tokenizer) {
        add_tokenizer(report, v.tokenizer);
        const json_t *rows = json_object_get(json_object_get(report, "shape"), "vocabulary");
        const int n = sala_tokenizer_n_vocab(v.tokenizer);
        if (rows && n > json_integer_value(rows)) {
            sala_fail(&err, SALA_E_CORRUPT, "it has ids up to %d, but the embedding has only %lld rows", n - 1,
                      (long long)json_integer_value(rows));
            add_problem(report, "tokenizer", &err);
        }
    } else if (v.gguf || !json_object_get(report, "shape") || sala_os_is_dir(v.path)) {
        sala_tokenizer *none = NULL;
        const sala_status st =
            v.gguf ? sala_tokenizer_from_gguf(&none, v.gguf, &err) : sala_tokenizer_from_dir(&none, v.path, &err);
        if (st != SALA_OK)
            add_problem(report, "tokenizer", &err);
        sala_tokenizer_free(none);
    }
    add_template(report, &v);
    if (!json_object_get(report, "weight_bytes") && !json_object_get(report, "shape") && !v.tokenizer) {
        rc = cli_fail("%s: neither weights nor config nor tokenizer could be read (%s)", v.path, err.message);
        json_decref(report);
    } else {
        if (o->json)
            rc = cli_print_json(json_incref(report));
        else
            cli_inspect_print(report);
        rc = cli_flush(rc);
        if (rc == 0)
            rc = fault_of(report, v.path);
        json_decref(report);
    }
    cli_vocab_close(&v);
    return rc;
}
