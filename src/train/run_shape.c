/* The shape of a run's model. A new model's keys become the config.json that its family would ship, and that is read by
 * the same code that reads released models: what is trained is what is loaded later. */
#include "train/run_config_internal.h"

#include "model/checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t longest_sequence(const sala_run_config *c)
{
    int64_t most = 1;
    for (int i = 0; i < c->n_stages; i++)
        most = sala_max_i64(most, c->stages[i].seq_len);
    return most;
}

static bool is_hybrid(const sala_run_config *c)
{
    return strcmp(c->family, "minicpm-sala") == 0 || strcmp(c->family, "hypenet") == 0;
}

static json_t *mixer_types(const sala_run_config *c, const char *softmax)
{
    json_t *list = json_array();
    const sala_run_words *m = &c->model.mixers;
    for (int64_t i = 0; i < c->model.layers && list; i++) {
        const bool lightning = m->count && strcmp(m->items[i % m->count], "lightning") == 0;
        json_array_append_new(list, json_string(lightning ? "lightning-attn" : softmax));
    }
    return list;
}

static void add_hybrid(json_t *o, const sala_run_config *c)
{
    const bool hype = strcmp(c->family, "hypenet") == 0;
    const sala_run_model *m = &c->model;
    json_object_set_new(o, "mixer_types", mixer_types(c, hype ? "attn" : "minicpm4"));
    json_object_set_new(o, "attn_use_rope", json_boolean(m->rope_softmax));
    json_object_set_new(o, "attn_use_output_gate", json_boolean(m->gate));
    if (hype)
        json_object_set_new(o, "attn_logits_scaling", c->scale_logits_in_training ? json_string("hype") : json_null());
    const int64_t head_dim = m->head_dim ? m->head_dim : m->hidden / m->heads;
    json_object_set_new(o, "lightning_nh", json_integer(m->heads));
    json_object_set_new(o, "lightning_nkv", json_integer(m->heads));
    json_object_set_new(o, "lightning_head_dim", json_integer(head_dim));
    json_object_set_new(o, "lightning_use_rope", json_boolean(m->rope_lightning));
    json_object_set_new(o, "lightning_scale", json_string("1/sqrt(d)"));
    json_object_set_new(o, hype ? "lightning_use_qk_norm" : "qk_norm", json_boolean(m->qk_norm));
    json_object_set_new(o, hype ? "lightning_use_output_norm" : "use_output_norm", json_boolean(m->out_norm));
    json_object_set_new(o, hype ? "lightning_use_output_gate" : "use_output_gate", json_boolean(m->gate));
}

static json_t *sparse_json(const sala_sparse_config *s)
{
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:b}", "kernel_size", (int)s->kernel_size, "kernel_stride",
                     (int)s->kernel_stride, "block_size", (int)s->block_size, "init_blocks", (int)s->init_blocks,
                     "topk", (int)s->topk, "window_size", (int)s->window_size, "dense_len", (json_int_t)s->dense_len,
                     "use_nope", (int)s->use_nope);
}

json_t *sala_run_model_json(const sala_run_config *c)
{
    static const struct {
        const char *family, *type, *architecture;
    } names[] = {{"llama", "llama", "LlamaForCausalLM"},
                 {"qwen2", "qwen2", "Qwen2ForCausalLM"},
                 {"qwen3", "qwen3", "Qwen3ForCausalLM"},
                 {"minicpm", "minicpm", "MiniCPMForCausalLM"},
                 {"minicpm-sala", "minicpm_sala", "MiniCPMSALAForCausalLM"},
                 {"hypenet", "hypenet", "HypeNetForCausalLM"}};
    const sala_run_model *m = &c->model;
    size_t f = 0;
    while (f + 1 < SALA_ARRAY_LEN(names) && strcmp(names[f].family, c->family) != 0)
        f++;
    json_t *o = json_object();
    if (!o)
        return NULL;
    json_object_set_new(o, "architectures", json_pack("[s]", names[f].architecture));
    json_object_set_new(o, "model_type", json_string(names[f].type));
    json_object_set_new(o, "vocab_size", json_integer(m->vocab));
    json_object_set_new(o, "hidden_size", json_integer(m->hidden));
    json_object_set_new(o, "intermediate_size", json_integer(m->feed_forward));
    json_object_set_new(o, "num_hidden_layers", json_integer(m->layers));
    json_object_set_new(o, "num_attention_heads", json_integer(m->heads));
    json_object_set_new(o, "num_key_value_heads", json_integer(m->kv_heads ? m->kv_heads : m->heads));
    json_object_set_new(o, "head_dim", json_integer(m->head_dim ? m->head_dim : m->hidden / m->heads));
    json_object_set_new(o, "max_position_embeddings", json_integer(m->context ? m->context : longest_sequence(c)));
    json_object_set_new(o, "hidden_act", json_string("silu"));
    json_object_set_new(o, "rms_norm_eps", json_real(m->rms_eps));
    json_object_set_new(o, "rope_theta", json_real(m->rope_theta));
    json_object_set_new(o, "attention_bias", json_false());
    json_object_set_new(o, "mlp_bias", json_false());
    json_object_set_new(o, "tie_word_embeddings", json_boolean(m->tied));
    const sala_family *family = sala_family_by_name(c->family);
    if (family && family->mup_scales) {
        /* Without muP the multipliers are neutral: r = 1 and logits as they are. */
        json_object_set_new(o, "scale_emb", json_real(c->mup ? c->scale_emb : 1));
        json_object_set_new(o, "scale_depth", json_real(c->mup ? c->scale_depth : sqrt((double)m->layers)));
        json_object_set_new(o, "dim_model_base", json_real(c->mup ? c->dim_model_base : (double)m->hidden));
    }
    if (is_hybrid(c))
        add_hybrid(o, c);
    if (c->shape.sparse.block_size > 0)
        json_object_set_new(o, "sparse_config", sparse_json(&c->shape.sparse));
    json_object_set_new(o, "bos_token_id", c->shape.bos >= 0 ? json_integer(c->shape.bos) : json_null());
    json_object_set_new(o, "eos_token_id", c->shape.n_eos ? json_integer(c->shape.eos[0]) : json_null());
    json_object_set_new(o, "pad_token_id", c->shape.pad >= 0 ? json_integer(c->shape.pad) : json_null());
    return o;
}

static sala_status at_key(const sala_run_config *c, const char *key, sala_status st, sala_error *err)
{
    char where[300];
    return sala_fail_prefix(err, st, "%s: %s", sala_run_config_where(c, key, where, sizeof where), key);
}

/* Softmax layers are all dense or all sparse; the words of mixers must agree with model.sparse. */
static sala_status check_mixers(const sala_run_config *c, sala_error *err)
{
    const sala_run_words *m = &c->model.mixers;
    const bool sparse = c->shape.sparse.block_size > 0;
    char where[300];
    sala_run_config_where(c, "model.mixers", where, sizeof where);
    for (int i = 0; i < m->count; i++) {
        if (strcmp(m->items[i], "lightning") == 0 && !is_hybrid(c))
            return sala_fail(err, SALA_E_INVALID,
                             "%s: model.mixers has \"lightning\", which family %s has no layers of; expected family "
                             "minicpm-sala or hypenet",
                             where, c->family);
        if (strcmp(m->items[i], "sparse") == 0 && !sparse)
            return sala_fail(err, SALA_E_INVALID,
                             "%s: model.mixers has \"sparse\", but model.sparse does not say how; expected words such "
                             "as sparse: on",
                             where);
        if (strcmp(m->items[i], "dense") == 0 && sparse)
            return sala_fail(err, SALA_E_INVALID,
                             "%s: model.mixers has \"dense\", but model.sparse makes all softmax layers sparse; write "
                             "\"sparse\", or sparse: off",
                             where);
    }
    return SALA_OK;
}

static sala_status new_shape(sala_run_config *c, sala_error *err)
{
    c->shape.bos = c->shape.pad = -1;
    if (!c->tokenizer) {
        char where[300];
        return sala_fail(err, SALA_E_INVALID,
                         "%s: model.tokenizer is missing; expected bytes, a model's directory, a GGUF or a "
                         "tokenizer.json",
                         sala_run_config_where(c, "model", where, sizeof where));
    }
    if (strcmp(c->tokenizer, "bytes") == 0) {
        if (c->model.vocab < 258) {
            char where[300];
            return sala_fail(err, SALA_E_INVALID,
                             "%s: model.vocab is %" PRId64 ", expected at least 258: 256 bytes, <s> and </s>",
                             sala_run_config_where(c, "model.vocab", where, sizeof where), c->model.vocab);
        }
        c->shape.bos = 256;
        c->shape.eos[0] = 257;
        c->shape.n_eos = 1;
    }
    const sala_run_model *m = &c->model;
    if (m->head_dim == 0 && m->hidden % m->heads != 0) {
        char where[300];
        return sala_fail(err, SALA_E_INVALID,
                         "%s: model.hidden is %" PRId64 ", which %" PRId64
                         " heads do not share evenly; give model.head_dim, or other numbers",
                         sala_run_config_where(c, "model.heads", where, sizeof where), m->hidden, m->heads);
    }
    json_t *json = sala_run_model_json(c);
    if (!json)
        return sala_fail_memory(err, 4096);
    const sala_status st = sala_config_from_json(&c->shape, json, NULL, err);
    json_decref(json);
    return st == SALA_OK ? SALA_OK : at_key(c, "model", st, err);
}

static sala_status loaded_shape(sala_run_config *c, sala_error *err)
{
    sala_checkpoint file;
    const sala_status st = sala_checkpoint_open(&file, c->model_from, true, err);
    if (st != SALA_OK)
        return at_key(c, "model.from", st, err);
    c->shape = file.config;
    file.config = (sala_config){0};
    sala_checkpoint_close(&file);
    /* Weights are trained in the order of Hugging Face's files, whatever the container they came from. */
    c->shape.rope.half = true;
    return SALA_OK;
}

sala_status sala_run_shape(sala_run_config *c, sala_error *err)
{
    sala_status st;
    if (c->model_from) {
        SALA_TRY(loaded_shape(c, err));
    } else if (c->model_config) {
        st = sala_config_from_file(&c->shape, c->model_config, err);
        if (st != SALA_OK)
            return at_key(c, "model.config", st, err);
    } else {
        SALA_TRY(new_shape(c, err));
    }
    if (c->model.sparse) {
        st = sala_config_ask_sparse(&c->shape, c->model.sparse, err);
        if (st != SALA_OK)
            return at_key(c, "model.sparse", st, err);
    }
    if (!c->model_from && !c->model_config)
        SALA_TRY(check_mixers(c, err));
    return SALA_OK;
}

sala_status sala_run_view(sala_run_config *out, const sala_run_config *c, int stage, sala_error *err)
{
    sala_run_config v = *c;
    v.stages = &c->stages[stage];
    v.n_stages = 1;
    v.shape.mixers = malloc((size_t)c->shape.n_layers * sizeof *v.shape.mixers);
    if (!v.shape.mixers)
        return sala_fail_memory(err, (uint64_t)c->shape.n_layers * sizeof *v.shape.mixers);
    memcpy(v.shape.mixers, c->shape.mixers, (size_t)c->shape.n_layers * sizeof *v.shape.mixers);
    for (int i = 0; i <= stage; i++) {
        if (!c->stages[i].sparse)
            continue;
        const sala_status st = sala_config_ask_sparse(&v.shape, c->stages[i].sparse, err);
        if (st != SALA_OK) {
            char key[64];
            free(v.shape.mixers);
            snprintf(key, sizeof key, "data.stages.%d.sparse", i);
            return at_key(c, key, st, err);
        }
    }
    *out = v;
    return SALA_OK;
}

void sala_run_view_free(sala_run_config *view)
{
    free(view->shape.mixers);
    *view = (sala_run_config){0};
}
