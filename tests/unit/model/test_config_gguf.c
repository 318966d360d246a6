/* The configuration from GGUF metadata: keys, defaults, repairs, rope in every spelling, and files that lie. */
#include "unit/format/support.h"

#include "model/config.h"

#include <math.h>

/* A small file: metadata that a case may replace or add to, and the tensors that the reader looks at. */
typedef struct image {
    sala_buf kv, tensors, data;
    int n_kv, n_tensors;
} image;

static void kv_u32(image *m, const char *key, uint32_t v)
{
    b_kv_u32(&m->kv, key, v);
    m->n_kv++;
}
static void kv_f32(image *m, const char *key, float v)
{
    b_kv_f32(&m->kv, key, v);
    m->n_kv++;
}
static void kv_str(image *m, const char *key, const char *v)
{
    b_kv_str(&m->kv, key, v);
    m->n_kv++;
}
static void tensor(image *m, const char *name, uint64_t ne0, uint64_t ne1, float first)
{
    const uint64_t ne[] = {ne0, ne1};
    b_tensor(&m->tensors, name, ne1 ? 2 : 1, ne, 0, m->data.len);
    for (uint64_t i = 0; i < ne0 * (ne1 ? ne1 : 1); i++)
        b_f32(&m->data, first + (float)i);
    b_pad(&m->data, 32);
    m->n_tensors++;
}

/* Architecture-prefixed keys of a model of 4 layers with 4 heads of 16. */
static void shape(image *m, const char *arch)
{
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = {{"block_count", 4},          {"embedding_length", 64},       {"feed_forward_length", 96},
                {"attention.head_count", 4}, {"attention.head_count_kv", 2}, {"context_length", 2048}};
    char key[100];
    kv_str(m, "general.architecture", arch);
    for (size_t i = 0; i < SALA_ARRAY_LEN(ints); i++) {
        snprintf(key, sizeof key, "%s.%s", arch, ints[i].key);
        kv_u32(m, key, ints[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    kv_f32(m, key, 1e-5f);
}

static void base(image *m, const char *arch)
{
    shape(m, arch);
    tensor(m, "token_embd.weight", 64, 300, 0);
    tensor(m, "blk.0.attn_norm.weight", 64, 0, 1);
}

static sala_status read_image(image *m, sala_config *c, sala_error *err)
{
    sala_buf b = {0};
    b_header(&b, 3, (uint64_t)m->n_tensors, (uint64_t)m->n_kv);
    sala_buf_add(&b, m->kv.data, m->kv.len);
    sala_buf_add(&b, m->tensors.data, m->tensors.len);
    b_pad(&b, 32);
    sala_buf_add(&b, m->data.data, m->data.len);
    sala_gguf *g;
    sala_status st = sala_gguf_parse(&g, b.data, b.len, err);
    if (st != SALA_OK)
        fail_msg("%s", err->message);
    st = sala_config_from_gguf(c, g, err);
    sala_gguf_close(g);
    sala_buf_free(&b);
    sala_buf_free(&m->kv);
    sala_buf_free(&m->tensors);
    sala_buf_free(&m->data);
    *m = (image){0};
    return st;
}

static sala_config read_ok(image *m)
{
    sala_config c;
    sala_error err;
    if (read_image(m, &c, &err) != SALA_OK)
        fail_msg("%s", err.message);
    return c;
}

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("%.17g, expected %.17g", got, want);
}

static void test_llama(void **state)
{
    (void)state;
    image m = {0};
    base(&m, "llama");
    kv_str(&m, "general.name", "Small One");
    kv_f32(&m, "llama.rope.freq_base", 100000);
    kv_u32(&m, "llama.rope.dimension_count", 16);
    kv_u32(&m, "llama.vocab_size", 299); /* the embedding knows better */
    kv_u32(&m, "tokenizer.ggml.bos_token_id", 1);
    kv_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    kv_u32(&m, "tokenizer.ggml.eot_token_id", 5);
    kv_u32(&m, "tokenizer.ggml.eom_token_id", 2);
    kv_u32(&m, "tokenizer.ggml.padding_token_id", 300); /* outside the vocabulary */
    kv_f32(&m, "general.sampling.temp", 0.5f);
    kv_u32(&m, "general.sampling.top_k", 30);
    sala_config c = read_ok(&m);
    assert_string_equal(c.architecture, "llama");
    assert_string_equal(c.name, "Small One");
    assert_int_equal(c.n_layers, 4);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.n_vocab, 300);
    assert_int_equal(c.n_ctx_train, 2048);
    assert_true(c.tied_head);
    assert_false(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm || c.rope.half);
    assert_int_equal(c.rope.kind, SALA_ROPE_PLAIN);
    near(c.rms_eps, 1e-5, 1e-6);
    near(c.attn_scale, 0.25, 0);
    assert_true(c.embed_scale == 1 && c.residual_scale == 1 && c.logit_divisor == 1);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 5);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.pad, -1);
    assert_true(c.gen_temperature == 0.5 && c.gen_top_k == 30 && c.gen_top_p < 0);
    double freq[8];
    near(sala_rope_inv_freq(&c, false, freq), 1, 0);
    near(freq[1], pow(100000, -0.125), 1e-14);
    sala_config_free(&c);
}

static void test_switches_from_tensors(void **state)
{
    (void)state;
    image m = {0};
    base(&m, "qwen3");
    kv_u32(&m, "qwen3.attention.key_length", 32);
    kv_u32(&m, "qwen3.attention.value_length", 32);
    tensor(&m, "output.weight", 64, 300, 0);
    tensor(&m, "blk.0.attn_q_norm.weight", 32, 0, 1);
    tensor(&m, "blk.0.attn_q.bias", 128, 0, 1);
    tensor(&m, "blk.0.attn_output.bias", 64, 0, 1);
    tensor(&m, "blk.0.ffn_gate.bias", 96, 0, 1);
    sala_config c = read_ok(&m);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.rope.n_rot, 32);
    assert_true(c.qk_norm && c.qkv_bias && c.o_bias && c.mlp_bias && c.rope.half);
    assert_false(c.tied_head);
    sala_config_free(&c);
    /* A file with a vocabulary only. */
    shape(&m, "qwen2");
    kv_u32(&m, "qwen2.vocab_size", 777);
    c = read_ok(&m);
    assert_int_equal(c.n_vocab, 777);
    assert_true(c.qkv_bias);
    sala_config_free(&c);
}

static void test_end_tokens_by_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"<unk>", "<s>", "</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>"};
    static const uint32_t types[] = {2, 3, 3, 3, 1, 4};
    image m = {0};
    base(&m, "minicpm");
    kv_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    b_key(&m.kv, "tokenizer.ggml.tokens", 9);
    b_u32(&m.kv, 8);
    b_u64(&m.kv, SALA_ARRAY_LEN(texts));
    for (size_t i = 0; i < SALA_ARRAY_LEN(texts); i++)
        b_str(&m.kv, texts[i]);
    b_key(&m.kv, "tokenizer.ggml.token_type", 9);
    b_u32(&m.kv, 5);
    b_u64(&m.kv, SALA_ARRAY_LEN(types));
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++)
        b_u32(&m.kv, types[i]);
    m.n_kv += 2;
    sala_config c = read_ok(&m);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.eos[1], 3); /* 4 is ordinary text */
    assert_int_equal(c.eos[2], 5);
    sala_config_free(&c);
}

static void test_minicpm_scales(void **state)
{
    (void)state;
    image m = {0};
    base(&m, "minicpm");
    sala_config c = read_ok(&m); /* a file from before the keys existed */
    near(c.embed_scale, 12, 0);
    near(c.residual_scale, 0.7, 1e-15);
    near(c.logit_divisor, 0.25, 0);
    sala_config_free(&c);
    base(&m, "minicpm");
    kv_f32(&m, "minicpm.embedding_scale", 10);
    kv_f32(&m, "minicpm.residual_scale", 0.5);
    kv_f32(&m, "minicpm.logit_scale", 0.125);
    c = read_ok(&m); /* narrower than 256: as it stands */
    near(c.embed_scale, 10, 0);
    near(c.residual_scale, 0.5, 0);
    near(c.logit_divisor, 0.125, 0);
    sala_config_free(&c);
    kv_str(&m, "general.architecture", "minicpm");
    kv_u32(&m, "minicpm.block_count", 1);
    kv_u32(&m, "minicpm.embedding_length", 1024);
    kv_u32(&m, "minicpm.feed_forward_length", 96);
    kv_u32(&m, "minicpm.attention.head_count", 16);
    kv_u32(&m, "minicpm.context_length", 2048);
    kv_u32(&m, "minicpm.vocab_size", 300);
    kv_f32(&m, "minicpm.logit_scale", 0.25);
    c = read_ok(&m); /* inverted by its writer */
    near(c.logit_divisor, 4, 0);
    assert_int_equal(c.n_kv_heads, 16);
    near(c.rms_eps, 1e-6, 0);
    sala_config_free(&c);
}

static void test_rope(void **state)
{
    (void)state;
    double freq[8];
    image m = {0};
    base(&m, "minicpm");
    kv_str(&m, "minicpm.rope.scaling.type", "longrope");
    tensor(&m, "rope_factors_long.weight", 8, 0, 2);
    tensor(&m, "rope_factors_short.weight", 8, 0, 1);
    sala_config c = read_ok(&m);
    assert_int_equal(c.rope.kind, SALA_ROPE_LONGROPE);
    assert_int_equal(c.rope.original_max, 2048);
    near(sala_rope_inv_freq(&c, true, freq), 1, 0);
    near(freq[1], pow(10000, -0.125) / 3, 1e-14);
    near(sala_rope_inv_freq(&c, false, freq), 1, 0);
    near(freq[1], pow(10000, -0.125) / 2, 1e-14);
    sala_config_free(&c);
    base(&m, "minicpm");
    kv_str(&m, "minicpm.rope.scaling.type", "longrope");
    kv_u32(&m, "minicpm.rope.scaling.original_context_length", 512);
    kv_f32(&m, "minicpm.rope.scaling.attn_factor", 1.25);
    tensor(&m, "rope_factors_long.weight", 8, 0, 2);
    c = read_ok(&m); /* one list for both */
    assert_int_equal(c.rope.original_max, 512);
    near(sala_rope_inv_freq(&c, false, freq), 1.25, 0);
    near(freq[1], pow(10000, -0.125) / 3, 1e-14);
    sala_config_free(&c);
    base(&m, "minicpm");
    kv_str(&m, "minicpm.rope.scaling.type", "longrope");
    c = read_ok(&m); /* lists lost by the converter */
    near(sala_rope_inv_freq(&c, true, freq), 1, 0);
    near(freq[1], pow(10000, -0.125), 1e-14);
    sala_config_free(&c);
    base(&m, "llama");
    tensor(&m, "rope_freqs.weight", 8, 0, 1);
    c = read_ok(&m);
    assert_int_equal(c.rope.kind, SALA_ROPE_FACTORS);
    near(sala_rope_inv_freq(&c, true, freq), 1, 0);
    near(freq[7], pow(10000, -0.875) / 8, 1e-14);
    sala_config_free(&c);
    static const char *const linear_keys[] = {"llama.rope.scaling.factor", "llama.rope.scale_linear"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(linear_keys); i++) {
        base(&m, "llama");
        kv_f32(&m, linear_keys[i], 4);
        c = read_ok(&m);
        assert_int_equal(c.rope.kind, SALA_ROPE_LINEAR);
        (void)sala_rope_inv_freq(&c, false, freq);
        near(freq[0], 0.25, 0);
        sala_config_free(&c);
    }
    base(&m, "llama");
    kv_str(&m, "llama.rope.scaling.type", "none");
    kv_f32(&m, "llama.rope.scaling.factor", 4);
    c = read_ok(&m);
    assert_int_equal(c.rope.kind, SALA_ROPE_PLAIN);
    sala_config_free(&c);
    base(&m, "qwen2");
    kv_str(&m, "qwen2.rope.scaling.type", "yarn");
    kv_f32(&m, "qwen2.rope.scaling.factor", 4);
    kv_u32(&m, "qwen2.rope.scaling.original_context_length", 512);
    c = read_ok(&m);
    assert_int_equal(c.rope.kind, SALA_ROPE_YARN);
    near(sala_rope_inv_freq(&c, false, freq), 1 + 0.1 * log(4), 1e-15);
    near(freq[0], 1, 0);
    near(freq[7], pow(10000, -0.875) / 4, 1e-14);
    sala_config_free(&c);
}

/* ---- files that lie ---- */

static void no_architecture(image *m)
{
    kv_u32(m, "general.architecture", 1);
}
static void strange_architecture(image *m)
{
    kv_str(m, "general.architecture", "gemma");
}
static void unprintable_architecture(image *m)
{
    kv_str(m, "general.architecture", "a\x1b[2J");
}
static void only_architecture(image *m)
{
    kv_str(m, "general.architecture", "llama");
}
static void no_vocabulary(image *m)
{
    shape(m, "llama");
}
static void other_width(image *m)
{
    shape(m, "llama");
    tensor(m, "token_embd.weight", 32, 300, 0);
}
static void embedding_is_list(image *m)
{
    shape(m, "llama");
    tensor(m, "token_embd.weight", 64, 0, 0);
}
static void value_length(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.attention.value_length", 8);
}
static void experts(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.expert_count", 8);
}
static void heads_as_text(image *m)
{
    base(m, "llama");
    kv_str(m, "llama.attention.key_length", "16");
}
static void huge_window(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.attention.sliding_window", UINT32_MAX);
}
static void eps_nan(image *m)
{
    base(m, "minicpm");
    kv_f32(m, "minicpm.residual_scale", NAN);
}
static void theta_inf(image *m)
{
    base(m, "llama");
    kv_f32(m, "llama.rope.freq_base", INFINITY);
}
static void theta_text(image *m)
{
    base(m, "llama");
    kv_str(m, "llama.rope.freq_base", "10000");
}
static void scaling_magic(image *m)
{
    base(m, "llama");
    kv_str(m, "llama.rope.scaling.type", "magic");
}
static void scaling_number(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.rope.scaling.type", 1);
}
static void n_rot_odd(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.rope.dimension_count", 7);
}
static void n_rot_large(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.rope.dimension_count", 32);
}
static void factors_short(image *m)
{
    base(m, "llama");
    tensor(m, "rope_freqs.weight", 7, 0, 1);
}
static void factors_zero(image *m)
{
    base(m, "llama");
    tensor(m, "rope_freqs.weight", 8, 0, 0);
}
static void factors_differ(image *m)
{
    base(m, "llama");
    tensor(m, "rope_factors_long.weight", 8, 0, 1);
    tensor(m, "rope_factors_short.weight", 6, 0, 1);
}
static void factors_matrix(image *m)
{
    base(m, "llama");
    tensor(m, "rope_freqs.weight", 4, 2, 1);
}
static void logit_scale_zero(image *m)
{
    base(m, "minicpm");
    kv_f32(m, "minicpm.logit_scale", 0);
}
static void heads_per_layer(image *m)
{
    base(m, "llama");
    b_key(&m->kv, "llama.attention.key_length", 9);
    b_u32(&m->kv, 5);
    b_u64(&m->kv, 2);
    b_u32(&m->kv, 16);
    b_u32(&m->kv, 8);
    m->n_kv++;
}

/* ---- sparse and linear layers ---- */

static void kv_bool(image *m, const char *key, bool v)
{
    b_key(&m->kv, key, 7);
    b_u8(&m->kv, v);
    m->n_kv++;
}

static void kv_mixers(image *m, const char *key, const char *const *names, size_t n)
{
    b_key(&m->kv, key, 9);
    b_u32(&m->kv, 8);
    b_u64(&m->kv, n);
    for (size_t i = 0; i < n; i++)
        b_str(&m->kv, names[i]);
    m->n_kv++;
}

#define MIXERS(m, ...)                                                                                                 \
    kv_mixers(m, "minicpm-sala.attention.mixers", (const char *const[]){__VA_ARGS__},                                  \
              sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void hybrid(image *m)
{
    base(m, "minicpm-sala");
    kv_u32(m, "minicpm-sala.attention.sparse.block_size", 32);
    kv_u32(m, "minicpm-sala.attention.sparse.topk", 7);
}

static void test_hybrid(void **state)
{
    (void)state;
    image m = {0};
    hybrid(&m);
    MIXERS(&m, "lightning", "sparse", "dense", "lightning");
    b_key(&m.kv, "minicpm-sala.attention.sparse.dense_len", 5);
    b_u32(&m.kv, UINT32_MAX); /* i32 -1 */
    m.n_kv++;
    kv_bool(&m, "minicpm-sala.attention.sparse.use_nope", true);
    kv_bool(&m, "minicpm-sala.attention.rope", false);
    kv_f32(&m, "minicpm-sala.attention.scale_base", 100);
    kv_f32(&m, "minicpm-sala.logit_scale", 0.25f); /* not turned round in our own architecture */
    kv_u32(&m, "minicpm-sala.lightning.head_count", 2);
    kv_u32(&m, "minicpm-sala.lightning.key_length", 32);
    kv_f32(&m, "minicpm-sala.lightning.scale", 0.5f);
    tensor(&m, "blk.0.attn_q_norm.weight", 32, 0, 1);
    tensor(&m, "blk.0.attn_z.weight", 64, 64, 1);
    tensor(&m, "blk.1.attn_gate.weight", 64, 64, 1);
    sala_config c = read_ok(&m);
    static const sala_mixer_kind kinds[] = {SALA_MIXER_LIGHTNING, SALA_MIXER_SPARSE, SALA_MIXER_DENSE,
                                            SALA_MIXER_LIGHTNING};
    assert_memory_equal(c.mixers, kinds, sizeof kinds);
    assert_true(c.sparse.block_size == 32 && c.sparse.topk == 7 && c.sparse.kernel_size == 32);
    assert_true(c.sparse.dense_len == -1 && c.sparse.use_nope);
    assert_true(!c.attn_rope && c.attn_gate && !c.qk_norm && c.attn_scale_base == 100 && c.logit_divisor == 0.25);
    assert_true(c.lightning.n_heads == 2 && c.lightning.n_kv_heads == 2 && c.lightning.head_dim == 32);
    assert_true(c.lightning.scale == 0.5 && c.lightning.rope && c.lightning.qk_norm && c.lightning.gate);
    assert_false(c.lightning.out_norm);
    assert_int_equal(c.rope.n_rot, 32); /* only linear layers rotate */
    sala_config_free(&c);

    /* The keys in a family whose layers are alike. */
    base(&m, "llama");
    kv_u32(&m, "llama.attention.sparse.block_size", 64);
    c = read_ok(&m);
    assert_int_equal(sala_config_count(&c, SALA_MIXER_SPARSE), 4);
    assert_int_equal(sala_sparse_selected(&c.sparse), 96);
    assert_int_equal(c.sparse.dense_len, 8192);
    sala_config_free(&c);
}

static void mixers_few(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse");
}
static void mixers_unknown(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse", "mamba", "sparse");
}
static void mixers_prefix(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse", "light", "sparse");
}
static void mixers_number(image *m)
{
    hybrid(m);
    kv_u32(m, "minicpm-sala.attention.mixers", 4);
}
static void mixers_without_constants(image *m)
{
    base(m, "minicpm-sala");
    MIXERS(m, "lightning", "sparse", "sparse", "sparse");
}
static void block_size_zero(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.attention.sparse.block_size", 0);
}
static void block_size_odd(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.attention.sparse.block_size", 24);
}
static void dense_len_text(image *m)
{
    hybrid(m);
    kv_str(m, "minicpm-sala.attention.sparse.dense_len", "8192");
}
static void rope_number(image *m)
{
    hybrid(m);
    kv_u32(m, "minicpm-sala.attention.rope", 1);
}
static void linear_heads_uneven(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse", "sparse", "sparse");
    kv_u32(m, "minicpm-sala.lightning.head_count", 4);
    kv_u32(m, "minicpm-sala.lightning.head_count_kv", 3);
}
static void linear_heads_none(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse", "sparse", "sparse");
    kv_u32(m, "minicpm-sala.lightning.head_count", 0);
}
static void linear_scale_negative(image *m)
{
    hybrid(m);
    MIXERS(m, "lightning", "sparse", "sparse", "sparse");
    kv_f32(m, "minicpm-sala.lightning.scale", -1);
}
static void scale_base_one(image *m)
{
    hybrid(m);
    kv_f32(m, "minicpm-sala.attention.scale_base", 1);
}
static void window_and_blocks(image *m)
{
    base(m, "llama");
    kv_u32(m, "llama.attention.sparse.block_size", 64);
    kv_u32(m, "llama.attention.sliding_window", 128);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        void (*build)(image *);
        sala_status code;
        const char *fragment;
    } cases[] = {
        {no_architecture, SALA_E_CORRUPT, "lacks general.architecture"},
        {strange_architecture, SALA_E_UNSUPPORTED, "\"gemma\" is not supported, expected one of: llama"},
        {unprintable_architecture, SALA_E_CORRUPT, "not plain text"},
        {only_architecture, SALA_E_CORRUPT, "lacks llama.block_count"},
        {no_vocabulary, SALA_E_CORRUPT, "neither token_embd.weight nor a vocabulary"},
        {other_width, SALA_E_CORRUPT, "rows of 32 elements, expected the hidden size 64"},
        {embedding_is_list, SALA_E_CORRUPT, "is not a matrix"},
        {value_length, SALA_E_UNSUPPORTED, "keys have 16 components and values 8"},
        {experts, SALA_E_UNSUPPORTED, "8 experts"},
        {heads_as_text, SALA_E_CORRUPT, "key_length is not an integer"},
        {huge_window, SALA_E_CORRUPT, "sliding_window is 4294967295"},
        {eps_nan, SALA_E_CORRUPT, "residual_scale is"},
        {theta_inf, SALA_E_CORRUPT, "freq_base is inf"},
        {theta_text, SALA_E_CORRUPT, "freq_base is not a number"},
        {scaling_magic, SALA_E_UNSUPPORTED, "type \"magic\""},
        {scaling_number, SALA_E_CORRUPT, "rope.scaling.type is not plain text"},
        {n_rot_odd, SALA_E_CORRUPT, "turns 7 components"},
        {n_rot_large, SALA_E_CORRUPT, "turns 32 components of a head of 16"},
        {factors_short, SALA_E_CORRUPT, "7 values, expected 8"},
        {factors_zero, SALA_E_CORRUPT, "rope factor 0 is 0"},
        {factors_differ, SALA_E_CORRUPT, "6 short and 8 long"},
        {factors_matrix, SALA_E_CORRUPT, "not a short list of F32"},
        {logit_scale_zero, SALA_E_CORRUPT, "logit scale is 0"},
        {heads_per_layer, SALA_E_UNSUPPORTED, "differs between layers (16 and 8)"},
        {mixers_few, SALA_E_CORRUPT, "names 2 layers, expected 4"},
        {mixers_unknown, SALA_E_UNSUPPORTED, "layer 2 is \"mamba\", expected \"dense\""},
        {mixers_prefix, SALA_E_UNSUPPORTED, "layer 2 is \"light\""},
        {mixers_number, SALA_E_CORRUPT, "mixers is not an array of names"},
        {mixers_without_constants, SALA_E_CORRUPT, "lacks minicpm-sala.attention.sparse.block_size"},
        {block_size_zero, SALA_E_CORRUPT, "block_size is 0"},
        {block_size_odd, SALA_E_CORRUPT, "multiple of kernel_stride 16"},
        {dense_len_text, SALA_E_CORRUPT, "dense_len is not an integer"},
        {rope_number, SALA_E_CORRUPT, "attention.rope is not true or false"},
        {linear_heads_uneven, SALA_E_CORRUPT, "4 lightning heads can not share 3"},
        {linear_heads_none, SALA_E_CORRUPT, "number of lightning heads is 0"},
        {linear_scale_negative, SALA_E_CORRUPT, "scale of lightning attention is -1"},
        {scale_base_one, SALA_E_CORRUPT, "attention scale is 1, expected 2 or more"},
        {window_and_blocks, SALA_E_UNSUPPORTED, "only one of them is possible"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(cases); i++) {
        image m = {0};
        sala_config c;
        sala_error err = {0};
        cases[i].build(&m);
        const sala_status st = read_image(&m, &c, &err);
        if (st != cases[i].code)
            fail_msg("case %zu: status %d, expected %d (%s)", i, (int)st, (int)cases[i].code, err.message);
        assert_message(&err, cases[i].fragment);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_switches_from_tensors),
        cmocka_unit_test(test_end_tokens_by_text),
        cmocka_unit_test(test_minicpm_scales),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
