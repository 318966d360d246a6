/* What a model is: shapes, scales, position encoding, the kind of each layer. Read from GGUF metadata or from a Hugging
 * Face config.json; everything above looks at this struct only, never at the files. A family (family.c) is a row of
 * data: names, defaults and switches. */
#ifndef SALA_MODEL_CONFIG_H
#define SALA_MODEL_CONFIG_H

#include "base/base.h"
#include "format/gguf.h"
#include "format/safetensors.h"

#include <jansson.h>

typedef enum sala_mixer_kind {
    SALA_MIXER_DENSE,     /* causal softmax attention over everything */
    SALA_MIXER_SPARSE,    /* InfLLM-v2: softmax attention over selected blocks */
    SALA_MIXER_LIGHTNING, /* linear attention with a fixed decay per head */
} sala_mixer_kind;

/* InfLLM-v2 (arXiv 2509.24663; sparse_config of the released checkpoints). Lengths in tokens. A query selects
 * topk + window_size / block_size blocks, of which init_blocks at the start and the window's are always there. */
typedef struct sala_sparse_config {
    int32_t kernel_size, kernel_stride; /* a compressed key is the mean of kernel_size keys, one every kernel_stride */
    int32_t block_size;                 /* what is selected; a multiple of kernel_stride */
    int32_t init_blocks, topk;
    int32_t window_size;
    int64_t dense_len; /* shorter sequences see everything; -1: never */
    bool use_nope;     /* blocks are scored with queries and keys before rotation */
} sala_sparse_config;

/* Coarse rows, which give the normaliser of the scores, are this much longer and further apart than fine ones. */
#define SALA_SPARSE_COARSE 4

typedef struct sala_lightning_config {
    int32_t n_heads, n_kv_heads, head_dim;
    double scale; /* of q . k */
    bool rope, qk_norm, out_norm, gate;
} sala_lightning_config;

typedef enum sala_rope_kind {
    SALA_ROPE_NONE,
    SALA_ROPE_PLAIN,
    SALA_ROPE_LINEAR,
    SALA_ROPE_LLAMA3,
    SALA_ROPE_YARN,
    SALA_ROPE_LONGROPE,
    SALA_ROPE_FACTORS, /* GGUF rope_freqs.weight: the divisors are given */
} sala_rope_kind;

typedef struct sala_rope_config {
    sala_rope_kind kind;
    bool half;     /* pairs are (i, i + n_rot/2), as in Hugging Face files; otherwise (2i, 2i+1), as in GGUF of llama
                      and minicpm, whose q and k rows are permuted */
    int32_t n_rot; /* components of a head that turn; even */
    double theta;
    double factor;                                       /* linear, llama3, yarn */
    double low_freq_factor, high_freq_factor;            /* llama3 */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn */
    bool yarn_truncate;                                  /* yarn: whole correction dimensions; default true */
    double attention_factor;                             /* longrope and yarn: multiplies cos and sin; 0: derive it */
    int64_t original_max;                                /* context before scaling; 0: n_ctx_train */
    int32_t n_factors;                                   /* n_rot / 2, or 0 */
    float *short_factors, *long_factors; /* owned; longrope lists, or both the same for SALA_ROPE_FACTORS */
} sala_rope_config;

#define SALA_MAX_EOS 16

typedef struct sala_config {
    char
        architecture[64]; /* family name, as in GGUF: "llama", "minicpm", "qwen2", "qwen3", "minicpm-sala", "hypenet" */
    char *name;           /* owned; may be NULL */
    char quant_method[32]; /* quantization_config.quant_method of config.json ("gptq"); "" when there is none */
    int32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    int64_t n_ctx_train;
    double rms_eps;
    bool tied_head; /* output uses the embedding matrix */
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;          /* RMS norm of each head of q and k, before rope */
    double embed_scale;    /* e: rows of the embedding are multiplied by it; 1 */
    double residual_scale; /* r: 1 */
    double logit_divisor;  /* z: logits are divided by it; 1 */
    double attn_scale;     /* 1/sqrt(head_dim) unless the model says otherwise */
    bool attn_rope;        /* softmax layers rotate q and k; default true */
    bool attn_gate;        /* softmax layers: output times sigmoid of a projection of the layer's input */
    double
        attn_scale_base; /* > 0: queries at position p are scaled by log(p + base) / log(floor(base)) too (HypeNet) */
    int32_t sliding_window; /* 0: none */
    sala_rope_config rope;
    sala_mixer_kind *mixers;         /* [n_layers], owned */
    sala_sparse_config sparse;       /* block_size 0: the model has none */
    sala_lightning_config lightning; /* n_heads 0: no such layer */
    int32_t bos, pad;                /* -1: none */
    int32_t eos[SALA_MAX_EOS];
    int n_eos;
    /* generation_config.json or GGUF general.sampling.*; negative: not given */
    double gen_temperature, gen_top_p, gen_min_p, gen_repeat_penalty;
    int32_t gen_top_k;
} sala_config;

/* Both check everything that a forward pass relies on (positive, divisible, within limits) and say what is wrong. */
sala_status sala_config_from_gguf(sala_config *out, const sala_gguf *g, sala_error *err);
sala_status sala_config_from_dir(sala_config *out, const char *dir, sala_error *err);
/* A config.json by whatever name, without generation_config.json beside it. */
sala_status sala_config_from_file(sala_config *out, const char *path, sala_error *err);
/* For tests and fuzzing: config.json and (may be NULL) generation_config.json as parsed JSON. */
sala_status sala_config_from_json(sala_config *out, const json_t *config, const json_t *generation, sala_error *err);
void sala_config_free(sala_config *c); /* frees what c owns, not c */

/* The constants that MiniCPM4's and SALA's makers use. */
sala_sparse_config sala_sparse_defaults(void);
/* All softmax layers become sparse ones with these constants, or dense ones again (NULL). */
sala_status sala_config_set_sparse(sala_config *c, const sala_sparse_config *sparse, sala_error *err);
/* The same in a user's words: "off", "on", or "topk=64,window=2048,dense-len=8192,block=64,init=1,kernel=32,stride=16,
 * nope=0", where what is left out stays as it is (the defaults, if the model has none). */
sala_status sala_config_ask_sparse(sala_config *c, const char *words, sala_error *err);
/* Blocks that a query selects. */
static inline int32_t sala_sparse_selected(const sala_sparse_config *s)
{
    return s->topk + s->window_size / s->block_size;
}
int sala_config_count(const sala_config *c, sala_mixer_kind kind); /* layers of a kind */
const char *sala_mixer_kind_name(sala_mixer_kind kind);            /* "dense", "sparse", "lightning", as in GGUF */
/* Size of the heads that rotate. */
int32_t sala_config_rope_head(const sala_config *c);
/* MiniCPM-SALA's own code shapes linear layers by num_attention_heads and head_dim, others' by lightning_nh and
 * lightning_head_dim. A config read from JSON has the latter; where a checkpoint's tensors fit the former only, it is
 * changed to that. Tensors that fit neither change nothing: loading tells. */
sala_status sala_config_fit_lightning(sala_config *c, const sala_safetensors *st, sala_error *err);

/* ---- families ---- */

typedef struct sala_family {
    const char *name;        /* GGUF architecture */
    const char *hf_types[6]; /* model_type values of config.json that it serves, NULL-terminated */
    const char *hf_arch;     /* written to architectures[] on export */
    bool gguf_permuted;      /* GGUF files hold q and k rows permuted for interleaved rope */
    bool qkv_bias, qk_norm;  /* defaults; config.json and the presence of tensors override */
    bool hybrid;             /* mixer_types says what each layer is */
    bool mup_scales;         /* reads scale_emb, scale_depth, dim_model_base */
} sala_family;

const sala_family *sala_family_by_name(const char *gguf_architecture); /* NULL when unknown */
const sala_family *sala_family_by_hf(const char *model_type);
const char *sala_family_names(void); /* "llama, minicpm, qwen2, qwen3", for error messages */

/* ---- tensor names ---- */

typedef enum sala_tensor_role {
    SALA_T_EMBED,
    SALA_T_OUT_NORM,
    SALA_T_HEAD,
    SALA_T_ROPE_FREQS,
    SALA_T_ROPE_LONG,
    SALA_T_ROPE_SHORT,
    SALA_T_FIRST_OF_LAYER,
    SALA_T_ATTN_NORM = SALA_T_FIRST_OF_LAYER,
    SALA_T_Q,
    SALA_T_K,
    SALA_T_V,
    SALA_T_O,
    SALA_T_Q_BIAS,
    SALA_T_K_BIAS,
    SALA_T_V_BIAS,
    SALA_T_O_BIAS,
    SALA_T_Q_NORM,
    SALA_T_K_NORM,
    SALA_T_ATTN_GATE,   /* softmax layers: gate of the output */
    SALA_T_LINEAR_GATE, /* lightning layers: the same, under its own name */
    SALA_T_LINEAR_GATE_BIAS,
    SALA_T_MIX_NORM, /* lightning layers: norm of the concatenated heads */
    SALA_T_FFN_NORM,
    SALA_T_GATE,
    SALA_T_UP,
    SALA_T_DOWN,
    SALA_T_GATE_BIAS,
    SALA_T_UP_BIAS,
    SALA_T_DOWN_BIAS,
    SALA_T_COUNT
} sala_tensor_role;

/* Name of a tensor in GGUF ("blk.3.attn_q.weight") or Hugging Face ("model.layers.3.self_attn.q_proj.weight") files.
 * Returns dst; "" when the container has no name for the role. */
char *sala_tensor_name(char dst[96], sala_tensor_role role, int layer, bool hf);
/* The other way: false when the name is none of ours. *layer is -1 for model-wide tensors. */
bool sala_tensor_role_of(const char *name, bool hf, sala_tensor_role *role, int *layer);

/* Rows (0 for vectors) and columns that the configuration implies; false when the model has no such tensor. `layer`
 * counts for the roles of layers only. Rope factors, which configurations hold themselves, are none. */
bool sala_tensor_shape(const sala_config *c, sala_tensor_role role, int layer, int64_t *rows, int64_t *cols);

/* Whether the tensors of all layers are there, in the shapes that the configuration asks for. One of g and st is NULL.
 */
sala_status sala_config_check_tensors(const sala_config *c, const sala_gguf *g, const sala_safetensors *st,
                                      sala_error *err);

/* ---- rope ---- */

/* Fills inv_freq [n_rot/2] (angle per position) and returns the factor for cos and sin. `long_list` chooses the
 * longrope list. */
double sala_rope_inv_freq(const sala_config *c, bool long_list, double *inv_freq);
/* Cosines and sines, times the factor, of n rows from `position` on; each [n][n_pairs]. */
void sala_rope_rows(float *cosines, float *sines, const double *inv_freq, int n_pairs, double factor, int64_t position,
                    int64_t n);
/* What queries at n positions are multiplied by where attn_scale_base is set. */
void sala_query_scales(float *scales, double base, int64_t position, int64_t n);

#endif
