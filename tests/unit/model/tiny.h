/* Writes small random GGUF models for tests: any of our families, weights of any float type or f32. */
#ifndef SALA_TESTS_UNIT_MODEL_TINY_H
#define SALA_TESTS_UNIT_MODEL_TINY_H

#include "format/gguf.h"
#include "model/config.h"
#include "unit/test.h"

typedef struct tiny_model {
    const char *architecture;
    int n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx;
    bool tied, biases, qk_norm, longrope;
    bool tokenizer;
    double scale;              /* standard deviation of the weights times sqrt(n_embd); 0: 1 */
    const char *chat_template; /* NULL: ChatML */
    /* Hybrid and sparse models. */
    const char *mixers;        /* a letter per layer: d(ense), s(parse), l(ightning); NULL: all alike */
    sala_sparse_config sparse; /* block_size 0: none */
    int linear_heads, linear_kv_heads, linear_dim;
    bool linear_qk_norm, mix_norm, gates;
    bool no_attn_rope, no_linear_rope;
    double attn_scale_base; /* 0: none */
    int sliding_window;     /* 0: none */
} tiny_model;

static inline bool tiny_is_lightning(const tiny_model *m, int layer)
{
    return m->mixers && m->mixers[layer] == 'l';
}

static inline void tiny_tensor(sala_gguf_writer *w, sala_tensor_role role, int layer, int64_t rows, int64_t cols)
{
    char name[96];
    const int64_t ne[2] = {cols, rows};
    sala_gguf_write_tensor(w, sala_tensor_name(name, role, layer, false), SALA_F32, rows ? 2 : 1, ne);
}

/* Visits every tensor in a fixed order: rows 0 stands for a vector. */
static inline void tiny_each(const tiny_model *m, void (*fn)(void *, sala_tensor_role, int, int64_t, int64_t),
                             void *user)
{
    const int64_t h = m->n_embd;
    fn(user, SALA_T_EMBED, -1, m->n_vocab, h);
    fn(user, SALA_T_OUT_NORM, -1, 0, h);
    if (!m->tied)
        fn(user, SALA_T_HEAD, -1, m->n_vocab, h);
    if (m->longrope) {
        fn(user, SALA_T_ROPE_LONG, -1, 0, m->head_dim / 2);
        fn(user, SALA_T_ROPE_SHORT, -1, 0, m->head_dim / 2);
    }
    for (int l = 0; l < m->n_layers; l++) {
        const bool linear = tiny_is_lightning(m, l);
        const int64_t d = linear ? m->linear_dim : m->head_dim;
        const int64_t q = d * (linear ? m->linear_heads : m->n_heads);
        const int64_t kv = d * (linear ? m->linear_kv_heads : m->n_kv_heads);
        fn(user, SALA_T_ATTN_NORM, l, 0, h);
        fn(user, SALA_T_FFN_NORM, l, 0, h);
        fn(user, SALA_T_Q, l, q, h);
        fn(user, SALA_T_K, l, kv, h);
        fn(user, SALA_T_V, l, kv, h);
        fn(user, SALA_T_O, l, h, q);
        fn(user, SALA_T_GATE, l, m->n_ff, h);
        fn(user, SALA_T_UP, l, m->n_ff, h);
        fn(user, SALA_T_DOWN, l, h, m->n_ff);
        if (m->biases) {
            fn(user, SALA_T_Q_BIAS, l, 0, q);
            fn(user, SALA_T_K_BIAS, l, 0, kv);
            fn(user, SALA_T_V_BIAS, l, 0, kv);
        }
        if (linear ? m->linear_qk_norm : m->qk_norm) {
            fn(user, SALA_T_Q_NORM, l, 0, d);
            fn(user, SALA_T_K_NORM, l, 0, d);
        }
        if (m->gates) {
            fn(user, linear ? SALA_T_LINEAR_GATE : SALA_T_ATTN_GATE, l, q, h);
            if (linear && m->biases)
                fn(user, SALA_T_LINEAR_GATE_BIAS, l, 0, q);
        }
        if (linear && m->mix_norm)
            fn(user, SALA_T_MIX_NORM, l, 0, q);
    }
}

static inline void tiny_declare(void *user, sala_tensor_role role, int layer, int64_t rows, int64_t cols)
{
    tiny_tensor(user, role, layer, rows, cols);
}

typedef struct tiny_fill_state {
    sala_gguf_writer *w;
    sala_rng rng;
    size_t index;
    double scale;
} tiny_fill_state;

static inline void tiny_fill(void *user, sala_tensor_role role, int layer, int64_t rows, int64_t cols)
{
    (void)layer;
    tiny_fill_state *s = user;
    const int64_t n = (rows ? rows : 1) * cols;
    float *data = malloc((size_t)n * sizeof *data);
    assert_non_null(data);
    for (int64_t i = 0; i < n; i++) {
        const double z = sala_rng_normal(&s->rng);
        if (role == SALA_T_ROPE_LONG || role == SALA_T_ROPE_SHORT)
            data[i] = (float)(1 + (role == SALA_T_ROPE_LONG ? 3.0 : 0.5) * (double)i / (double)cols);
        else if (rows == 0)
            data[i] = (float)((role == SALA_T_Q_BIAS || role == SALA_T_K_BIAS || role == SALA_T_V_BIAS ||
                                       role == SALA_T_LINEAR_GATE_BIAS
                                   ? 0
                                   : 1) +
                              0.2 * z);
        else
            data[i] = (float)(z * s->scale / (role == SALA_T_EMBED ? 1 : __builtin_sqrt((double)cols)));
    }
    assert_int_equal(sala_gguf_write_data(s->w, s->index++, 0, data, (uint64_t)n * sizeof *data, NULL), SALA_OK);
    free(data);
}

static inline void tiny_key(char dst[96], const tiny_model *m, const char *key)
{
    snprintf(dst, 96, "%s.%s", m->architecture, key);
}

/* A byte-level vocabulary: 256 bytes (in the spelling of GPT-2's files), <|im_start|>, <|im_end|>, then unused ids. */
static inline void tiny_tokenizer(sala_gguf_writer *w, int n_vocab, const char *chat_template)
{
    static char spelling[512][24];
    sala_gguf_str tokens[512];
    int32_t types[512];
    uint32_t next = 256;
    assert_in_range(n_vocab, 258, 512);
    for (int i = 0; i < n_vocab; i++) {
        const bool shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174 && i <= 255);
        sala_buf b = {0};
        if (i < 256)
            sala_buf_add_utf8(&b, shown ? (uint32_t)i : next++);
        else
            sala_buf_printf(&b, i == 256 ? "<|im_start|>" : i == 257 ? "<|im_end|>" : "<unused%d>", i);
        snprintf(spelling[i], sizeof spelling[i], "%.20s", b.data);
        sala_buf_free(&b);
        tokens[i] = (sala_gguf_str){spelling[i], strlen(spelling[i])};
        types[i] = i < 256 ? 1 : i < 258 ? 3 : 5;
    }
    static const char chatml[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    sala_gguf_write_str(w, "tokenizer.ggml.model", "gpt2", 4);
    sala_gguf_write_str(w, "tokenizer.ggml.pre", "gpt-2", 5);
    sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, tokens, (uint64_t)n_vocab);
    sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, types, (uint64_t)n_vocab);
    sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, &(sala_gguf_str){"a b", 3}, 0);
    sala_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 257);
    sala_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
    if (!chat_template)
        chat_template = chatml;
    sala_gguf_write_str(w, "tokenizer.chat_template", chat_template, strlen(chat_template));
}

static inline void tiny_u32(sala_gguf_writer *w, const tiny_model *m, const char *name, int64_t value)
{
    char key[96];
    tiny_key(key, m, name);
    sala_gguf_write_u32(w, key, (uint32_t)value);
}

static inline void tiny_flag(sala_gguf_writer *w, const tiny_model *m, const char *name, bool value)
{
    char key[96];
    tiny_key(key, m, name);
    sala_gguf_write_bool(w, key, value);
}

static inline void tiny_mixers(sala_gguf_writer *w, const tiny_model *m)
{
    const sala_sparse_config *s = &m->sparse;
    char key[96];
    if (s->block_size) {
        tiny_u32(w, m, "attention.sparse.block_size", s->block_size);
        tiny_u32(w, m, "attention.sparse.kernel_size", s->kernel_size);
        tiny_u32(w, m, "attention.sparse.kernel_stride", s->kernel_stride);
        tiny_u32(w, m, "attention.sparse.init_blocks", s->init_blocks);
        tiny_u32(w, m, "attention.sparse.topk", s->topk);
        tiny_u32(w, m, "attention.sparse.window_size", s->window_size);
        tiny_u32(w, m, "attention.sparse.dense_len", s->dense_len);
        tiny_flag(w, m, "attention.sparse.use_nope", s->use_nope);
    }
    if (m->mixers) {
        sala_gguf_str names[64];
        assert_in_range(m->n_layers, 1, 64);
        for (int l = 0; l < m->n_layers; l++) {
            const char *name = sala_mixer_kind_name(m->mixers[l] == 'd'   ? SALA_MIXER_DENSE
                                                    : m->mixers[l] == 's' ? SALA_MIXER_SPARSE
                                                                          : SALA_MIXER_LIGHTNING);
            names[l] = (sala_gguf_str){name, strlen(name)};
        }
        tiny_key(key, m, "attention.mixers");
        sala_gguf_write_array(w, key, SALA_GGUF_STRING, names, (uint64_t)m->n_layers);
    }
    if (m->linear_heads) {
        tiny_u32(w, m, "lightning.head_count", m->linear_heads);
        tiny_u32(w, m, "lightning.head_count_kv", m->linear_kv_heads);
        tiny_u32(w, m, "lightning.key_length", m->linear_dim);
        tiny_flag(w, m, "lightning.rope", !m->no_linear_rope);
    }
    if (m->sliding_window)
        tiny_u32(w, m, "attention.sliding_window", m->sliding_window);
    if (m->no_attn_rope)
        tiny_flag(w, m, "attention.rope", false);
    if (m->attn_scale_base > 0) {
        tiny_key(key, m, "attention.scale_base");
        sala_gguf_write_f32(w, key, (float)m->attn_scale_base);
    }
}

static inline void tiny_write(const char *path, const tiny_model *m, uint64_t seed)
{
    sala_gguf_writer *w;
    char key[96];
    assert_int_equal(sala_gguf_writer_open(&w, path, NULL), SALA_OK);
    sala_gguf_write_str(w, "general.architecture", m->architecture, strlen(m->architecture));
    const struct {
        const char *key;
        int value;
    } ints[] = {{"block_count", m->n_layers},
                {"context_length", m->n_ctx},
                {"embedding_length", m->n_embd},
                {"feed_forward_length", m->n_ff},
                {"attention.head_count", m->n_heads},
                {"attention.head_count_kv", m->n_kv_heads},
                {"attention.key_length", m->head_dim},
                {"attention.value_length", m->head_dim},
                {"rope.dimension_count", m->no_attn_rope && m->linear_heads ? m->linear_dim : m->head_dim}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++) {
        tiny_key(key, m, ints[i].key);
        sala_gguf_write_u32(w, key, (uint32_t)ints[i].value);
    }
    tiny_key(key, m, "attention.layer_norm_rms_epsilon");
    sala_gguf_write_f32(w, key, 1e-6f);
    tiny_key(key, m, "rope.freq_base");
    sala_gguf_write_f32(w, key, 10000);
    if (strncmp(m->architecture, "minicpm", 7) == 0) {
        tiny_key(key, m, "embedding_scale");
        sala_gguf_write_f32(w, key, 12);
        tiny_key(key, m, "residual_scale");
        sala_gguf_write_f32(w, key, 0.7f);
        tiny_key(key, m, "logit_scale");
        sala_gguf_write_f32(w, key, 4);
    }
    tiny_mixers(w, m);
    if (m->longrope) {
        tiny_key(key, m, "rope.scaling.type");
        sala_gguf_write_str(w, key, "longrope", 8);
        tiny_key(key, m, "rope.scaling.original_context_length");
        sala_gguf_write_u32(w, key, (uint32_t)m->n_ctx / 4);
    }
    if (m->tokenizer)
        tiny_tokenizer(w, m->n_vocab, m->chat_template);
    tiny_each(m, tiny_declare, w);
    assert_int_equal(sala_gguf_writer_begin_data(w, NULL), SALA_OK);
    tiny_fill_state s = {.w = w, .scale = m->scale > 0 ? m->scale : 1};
    sala_rng_seed(&s.rng, seed);
    tiny_each(m, tiny_fill, &s);
    sala_error err;
    if (sala_gguf_writer_commit(w, &err) != SALA_OK)
        fail_msg("%s", err.message);
}

#endif
