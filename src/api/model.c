/* sala.h: opening models, and text in and out of them. */
#include "infer/engine.h"
#include "infer/sampler.h"
#include "kernels/kernels.h"
#include "os/os.h"

#include <stdlib.h>

/* Tokens that end a turn in files that name only one of them. llama.cpp knows the same texts. */
static const char *const turn_ends[] = {"<|im_end|>",    "<|eot_id|>",    "<|eom_id|>", "<|end_of_text|>",
                                        "<|endoftext|>", "<end_of_turn>", "<|end|>"};

static void add_end(sala_model *m, int32_t id)
{
    if (id < 0 || id >= m->config->n_vocab || sala_model_is_end(m, id))
        return;
    m->end_tokens[m->n_end_tokens++] = id;
}

bool sala_model_is_end(const sala_model *m, int32_t token)
{
    for (int i = 0; i < m->n_end_tokens; i++)
        if (m->end_tokens[i] == token)
            return true;
    return false;
}

static sala_status collect_end_tokens(sala_model *m, sala_error *err)
{
    m->end_tokens = calloc(SALA_MAX_EOS + 1 + SALA_ARRAY_LEN(turn_ends), sizeof *m->end_tokens);
    if (!m->end_tokens)
        return sala_fail_memory(err, SALA_MAX_EOS * sizeof *m->end_tokens);
    for (int i = 0; i < m->config->n_eos; i++)
        add_end(m, m->config->eos[i]);
    if (!m->tokenizer)
        return SALA_OK;
    if (m->n_end_tokens == 0 || !m->files.hf)
        add_end(m, sala_tokenizer_eos(m->tokenizer));
    if (!m->files.hf) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(turn_ends); i++) {
            const int32_t id = sala_tokenizer_find(m->tokenizer, turn_ends[i], strlen(turn_ends[i]));
            if (id >= 0 && sala_tokenizer_is_special(m->tokenizer, id))
                add_end(m, id);
        }
    }
    return SALA_OK;
}

sala_status sala_model_has_text(const sala_model *m, sala_error *err)
{
    return m->tokenizer ? SALA_OK : sala_fail(err, m->text_error.code, "%s", m->text_error.message);
}

/* Checkpoints without a tokenizer, or with one of an unknown kind, still compute; a broken one is an error. */
static sala_status open_tokenizer(sala_model *m, bool needed, sala_error *err)
{
    sala_error *why = &m->text_error;
    const sala_status st = m->files.hf ? sala_tokenizer_from_dir(&m->tokenizer, m->path, why)
                                       : sala_tokenizer_from_gguf(&m->tokenizer, m->files.gguf, why);
    if (st != SALA_OK) {
        sala_fail_prefix(why, st, "%s", m->path);
        const bool usable = !needed && (st == SALA_E_NOT_FOUND || st == SALA_E_UNSUPPORTED);
        return usable ? SALA_OK : sala_fail_at(err, st, why->position, "%s", why->message);
    }
    if (sala_tokenizer_n_vocab(m->tokenizer) > m->config->n_vocab)
        return sala_fail(err, SALA_E_CORRUPT, "%s: the tokenizer has ids up to %d, but the embedding has only %d rows",
                         m->path, sala_tokenizer_n_vocab(m->tokenizer) - 1, m->config->n_vocab);
    return SALA_OK;
}

static char *piece_text(const sala_tokenizer *t, int32_t id)
{
    const char *s;
    size_t n;
    return sala_tokenizer_piece(t, id, &s, &n) ? sala_strndup(s, n) : NULL;
}

static sala_status open_chat(sala_model *m, sala_chat **out, bool tools, sala_error *err)
{
    char *source = NULL;
    sala_status st = SALA_OK;
    if (!m->tokenizer)
        return SALA_OK;
    if (m->files.hf) {
        st = sala_chat_template_of_dir(&source, m->path, tools, err);
        if (st != SALA_OK)
            return st;
    } else {
        const char *s;
        size_t n;
        if ((tools && sala_gguf_get_str(m->files.gguf, "tokenizer.chat_template.tool_use", &s, &n)) ||
            (!tools && sala_gguf_get_str(m->files.gguf, "tokenizer.chat_template", &s, &n)))
            source = sala_strndup(s, n);
    }
    if (!source)
        return SALA_OK;
    char *bos = piece_text(m->tokenizer, sala_tokenizer_bos(m->tokenizer));
    char *eos = piece_text(m->tokenizer, sala_tokenizer_eos(m->tokenizer));
    /* A broken template spoils chats only: the model still continues plain text. */
    if (sala_chat_open(out, source, strlen(source), bos, eos, &m->chat_error) != SALA_OK)
        sala_fail_prefix(&m->chat_error, m->chat_error.code, "%s: chat template", m->path);
    free(bos);
    free(eos);
    if (tools)
        free(source);
    else
        m->template_source = source;
    return st;
}

static void count_weights(sala_model *m)
{
    const sala_tensor_list list = sala_checkpoint_tensors(&m->files);
    uint64_t best = 0;
    uint64_t held[64] = {0};
    m->main_type = SALA_DTYPE_NONE;
    for (size_t i = 0; i < list.count; i++) {
        const sala_tensor *t = &list.items[i];
        uint64_t n = 1;
        for (int d = 0; d < SALA_MAX_DIMS; d++)
            n *= (uint64_t)(t->ne[d] > 0 ? t->ne[d] : 1);
        m->n_params += n;
        m->weight_bytes += t->bytes;
        if (t->n_dims < 2 || (int)t->dtype < 0 || (size_t)t->dtype >= SALA_ARRAY_LEN(held))
            continue;
        held[t->dtype] += n;
        if (held[t->dtype] > best) {
            best = held[t->dtype];
            m->main_type = t->dtype;
        }
    }
}

static sala_status open_model(sala_model *m, const sala_model_params *p, sala_error *err)
{
    sala_status st = sala_checkpoint_open(&m->files, m->path, !p->vocab_only, err);
    if (st != SALA_OK)
        return st;
    if (p->sparse)
        st = sala_config_ask_sparse(&m->files.config, p->sparse, err);
    if (st != SALA_OK)
        return st;
    m->config = &m->files.config;
    st = open_tokenizer(m, p->vocab_only, err);
    if (st == SALA_OK)
        st = collect_end_tokens(m, err);
    if (st == SALA_OK)
        st = open_chat(m, &m->chat, false, err);
    if (st == SALA_OK)
        st = open_chat(m, &m->chat_tools, true, err);
    if (st != SALA_OK)
        return st;
    count_weights(m);
    if (p->vocab_only)
        return SALA_OK;

    st = sala_backend_cpu_open(&m->be, p->kernels, p->n_threads, p->no_pack, err);
    if (st != SALA_OK)
        return st;
    m->ref = strcmp(m->be->ops->describe(m->be), "ref") == 0;
    const bool hf = m->files.hf;
    st = sala_net_open(&m->net, &m->files, m->be, p->progress, p->progress_user, err);
    m->files.hf = hf;
    m->config = m->net ? m->net->config : NULL;
    return st;
}

sala_status sala_model_open(sala_model **out, const char *path, const sala_model_params *params, sala_error *err)
{
    static const sala_model_params defaults = {0};
    sala_model *m = calloc(1, sizeof *m);
    if (!m)
        return sala_fail_memory(err, sizeof *m);
    if (sala_turn_open(&m->turn) != 0) {
        free(m);
        return sala_fail_memory(err, sizeof *m);
    }
    sala_kernels_get(&m->sampling_kernels, NULL, sala_os_cpu_features());
    m->path = sala_strdup(path);
    const sala_status st =
        m->path ? open_model(m, params ? params : &defaults, err) : sala_fail_memory(err, strlen(path));
    if (st != SALA_OK) {
        sala_model_close(m);
        return st;
    }
    *out = m;
    return SALA_OK;
}

void sala_model_close(sala_model *m)
{
    if (!m)
        return;
    sala_net_close(m->net);
    if (m->be)
        m->be->ops->close(m->be);
    sala_checkpoint_close(&m->files);
    if (m->chat_tools != m->chat)
        sala_chat_close(m->chat_tools);
    sala_chat_close(m->chat);
    sala_tokenizer_free(m->tokenizer);
    free(m->work);
    free(m->template_source);
    free(m->end_tokens);
    free(m->path);
    sala_turn_close(m->turn);
    free(m);
}

void sala_model_get_info(const sala_model *m, sala_model_info *out)
{
    const sala_config *c = m->config;
    *out = (sala_model_info){
        .path = m->path,
        .architecture = c->architecture,
        .name = c->name ? c->name : "",
        .quantization = sala_dtype_name(m->main_type),
        .kernels = m->be ? m->be->ops->describe(m->be) : "none",
        .chat_template = m->template_source,
        .n_layers = c->n_layers,
        .n_embd = c->n_embd,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .n_ff = c->n_ff,
        .n_vocab = c->n_vocab,
        .n_ctx_train = c->n_ctx_train,
        .n_params = m->n_params,
        .weight_bytes = m->weight_bytes,
        .temperature = (float)c->gen_temperature,
        .top_p = (float)c->gen_top_p,
        .min_p = (float)c->gen_min_p,
        .repeat_penalty = (float)c->gen_repeat_penalty,
        .top_k = c->gen_top_k,
        .n_threads = m->be ? sala_backend_cpu_threads(m->be) : 0,
    };
}

int sala_model_end_tokens(const sala_model *m, int32_t *ids, int cap)
{
    for (int i = 0; i < m->n_end_tokens && i < cap; i++)
        ids[i] = m->end_tokens[i];
    return m->n_end_tokens;
}

/* ---- text ---- */

static void take_ids(sala_ids *from, int32_t **ids, size_t *n)
{
    *ids = from->data;
    *n = from->count;
    *from = (sala_ids){0};
}

sala_status sala_tokenize(const sala_model *m, int32_t **ids, size_t *n_ids, const char *text, size_t text_bytes,
                          unsigned flags, sala_error *err)
{
    sala_ids list = {0};
    const sala_text_span span = {text, text_bytes, (flags & SALA_TOK_PARSE_SPECIAL) != 0};
    sala_status st = sala_model_has_text(m, err);
    if (st == SALA_OK)
        st = sala_tokenizer_encode(m->tokenizer, &list, &span, 1, (flags & SALA_TOK_ADD_SPECIAL) != 0, err);
    if (st == SALA_OK)
        take_ids(&list, ids, n_ids);
    sala_ids_free(&list);
    return st;
}

sala_status sala_detokenize(const sala_model *m, char **text, size_t *text_bytes, const int32_t *ids, size_t n_ids,
                            bool skip_special, sala_error *err)
{
    sala_buf out = {0};
    sala_status st = sala_model_has_text(m, err);
    if (st == SALA_OK)
        st = sala_tokenizer_decode(m->tokenizer, &out, ids, n_ids, skip_special, err);
    if (st == SALA_OK) {
        size_t n = 0;
        char *s = sala_buf_take(&out, &n);
        if (!s)
            return sala_fail_memory(err, n_ids * 8);
        *text = s;
        *text_bytes = n;
    }
    sala_buf_free(&out);
    return st;
}

sala_status sala_chat_prompt(const sala_model *m, char **prompt, size_t *prompt_bytes, int32_t **ids, size_t *n_ids,
                             const char *request_json, sala_error *err)
{
    json_error_t je;
    json_t *request = json_loads(request_json, JSON_REJECT_DUPLICATES, &je);
    if (!request)
        return sala_fail_at(err, SALA_E_CORRUPT, je.position, "the request is not JSON: %s (line %d)", je.text,
                            je.line);
    sala_status st = sala_model_has_text(m, err);
    const json_t *tools = json_object_get(request, "tools");
    const sala_chat *chat = m->chat_tools && tools && json_array_size(tools) > 0 ? m->chat_tools : m->chat;
    if (st == SALA_OK && !json_is_object(request))
        st = sala_fail(err, SALA_E_INVALID, "the request is not a JSON object");
    else if (st == SALA_OK && !chat && m->chat_error.code != SALA_OK)
        st = sala_fail_at(err, m->chat_error.code, m->chat_error.position, "%s", m->chat_error.message);
    else if (st == SALA_OK && !chat)
        st = sala_fail(err, SALA_E_UNSUPPORTED, "%s has no chat template: give it plain text instead", m->path);
    char *text = NULL;
    size_t bytes = 0;
    if (st == SALA_OK && prompt)
        st = sala_chat_render(chat, request, &text, &bytes, NULL, NULL, err);
    sala_ids list = {0};
    if (st == SALA_OK && ids)
        st = sala_chat_encode(chat, m->tokenizer, request, &list, err);
    if (st == SALA_OK) {
        if (prompt) {
            *prompt = text;
            if (prompt_bytes)
                *prompt_bytes = bytes;
            text = NULL;
        }
        if (ids)
            take_ids(&list, ids, n_ids);
    }
    free(text);
    sala_ids_free(&list);
    json_decref(request);
    return st;
}

sala_status sala_sampler_open(sala_sampler **out, const sala_model *m, const sala_sampler_params *params,
                              sala_error *err)
{
    return sala_sampler_make(out, &m->sampling_kernels, m->config->n_vocab, params, err);
}
