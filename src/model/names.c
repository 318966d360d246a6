/* Names of tensors in both kinds of files, and their shapes. One table; a layer's names are a prefix, the number, and
 * the table's text. */
#include "model/config.h"

#include <stdio.h>

typedef struct name_pair {
    const char *gguf, *hf; /* "" where the container has none */
} name_pair;

static const name_pair names[SALA_T_COUNT] = {
    [SALA_T_EMBED] = {"token_embd.weight", "model.embed_tokens.weight"},
    [SALA_T_OUT_NORM] = {"output_norm.weight", "model.norm.weight"},
    [SALA_T_HEAD] = {"output.weight", "lm_head.weight"},
    [SALA_T_ROPE_FREQS] = {"rope_freqs.weight", ""},
    [SALA_T_ROPE_LONG] = {"rope_factors_long.weight", ""},
    [SALA_T_ROPE_SHORT] = {"rope_factors_short.weight", ""},
    [SALA_T_ATTN_NORM] = {"attn_norm.weight", "input_layernorm.weight"},
    [SALA_T_Q] = {"attn_q.weight", "self_attn.q_proj.weight"},
    [SALA_T_K] = {"attn_k.weight", "self_attn.k_proj.weight"},
    [SALA_T_V] = {"attn_v.weight", "self_attn.v_proj.weight"},
    [SALA_T_O] = {"attn_output.weight", "self_attn.o_proj.weight"},
    [SALA_T_Q_BIAS] = {"attn_q.bias", "self_attn.q_proj.bias"},
    [SALA_T_K_BIAS] = {"attn_k.bias", "self_attn.k_proj.bias"},
    [SALA_T_V_BIAS] = {"attn_v.bias", "self_attn.v_proj.bias"},
    [SALA_T_O_BIAS] = {"attn_output.bias", "self_attn.o_proj.bias"},
    [SALA_T_Q_NORM] = {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    [SALA_T_K_NORM] = {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    [SALA_T_ATTN_GATE] = {"attn_gate.weight", "self_attn.o_gate.weight"},
    [SALA_T_LINEAR_GATE] = {"attn_z.weight", "self_attn.z_proj.weight"},
    [SALA_T_LINEAR_GATE_BIAS] = {"attn_z.bias", "self_attn.z_proj.bias"},
    [SALA_T_MIX_NORM] = {"attn_out_norm.weight", "self_attn.o_norm.weight"},
    [SALA_T_FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm.weight"},
    [SALA_T_GATE] = {"ffn_gate.weight", "mlp.gate_proj.weight"},
    [SALA_T_UP] = {"ffn_up.weight", "mlp.up_proj.weight"},
    [SALA_T_DOWN] = {"ffn_down.weight", "mlp.down_proj.weight"},
    [SALA_T_GATE_BIAS] = {"ffn_gate.bias", "mlp.gate_proj.bias"},
    [SALA_T_UP_BIAS] = {"ffn_up.bias", "mlp.up_proj.bias"},
    [SALA_T_DOWN_BIAS] = {"ffn_down.bias", "mlp.down_proj.bias"},
};

static const char *text_of(sala_tensor_role role, bool hf)
{
    return hf ? names[role].hf : names[role].gguf;
}

static const char *layer_prefix(bool hf)
{
    return hf ? "model.layers." : "blk.";
}

char *sala_tensor_name(char dst[96], sala_tensor_role role, int layer, bool hf)
{
    dst[0] = 0;
    if ((int)role < 0 || role >= SALA_T_COUNT)
        return dst;
    const char *text = text_of(role, hf);
    if (!*text)
        return dst;
    if (role < SALA_T_FIRST_OF_LAYER)
        snprintf(dst, 96, "%s", text);
    else
        snprintf(dst, 96, "%s%d.%s", layer_prefix(hf), layer, text);
    return dst;
}

/* Reads "12." without signs or leading zeros; returns what follows or NULL. */
static const char *read_layer(const char *s, int *layer)
{
    int n = 0, digits = 0;
    for (; *s >= '0' && *s <= '9' && digits < 6; s++, digits++)
        n = n * 10 + (*s - '0');
    if (digits == 0 || *s != '.' || (digits > 1 && s[-digits] == '0'))
        return NULL;
    *layer = n;
    return s + 1;
}

bool sala_tensor_role_of(const char *name, bool hf, sala_tensor_role *role, int *layer)
{
    const char *prefix = layer_prefix(hf), *rest = name;
    int number = -1, from = 0, to = SALA_T_FIRST_OF_LAYER;
    if (strncmp(name, prefix, strlen(prefix)) == 0) {
        rest = read_layer(name + strlen(prefix), &number);
        if (!rest)
            return false;
        from = SALA_T_FIRST_OF_LAYER;
        to = SALA_T_COUNT;
    }
    for (int r = from; r < to; r++) {
        const char *text = text_of((sala_tensor_role)r, hf);
        if (*text && strcmp(text, rest) == 0) {
            *role = (sala_tensor_role)r;
            *layer = number;
            return true;
        }
    }
    return false;
}

bool sala_tensor_shape(const sala_config *c, sala_tensor_role role, int layer, int64_t *rows, int64_t *cols)
{
    const bool lightning = role >= SALA_T_FIRST_OF_LAYER && c->mixers[layer] == SALA_MIXER_LIGHTNING;
    const int64_t d = lightning ? c->lightning.head_dim : c->head_dim;
    const int64_t q = d * (lightning ? c->lightning.n_heads : c->n_heads);
    const int64_t kv = d * (lightning ? c->lightning.n_kv_heads : c->n_kv_heads);
    *rows = 0;
    switch (role) {
    case SALA_T_EMBED:
        *rows = c->n_vocab, *cols = c->n_embd;
        return true;
    case SALA_T_HEAD:
        *rows = c->n_vocab, *cols = c->n_embd;
        return !c->tied_head;
    case SALA_T_OUT_NORM:
    case SALA_T_ATTN_NORM:
    case SALA_T_FFN_NORM:
        *cols = c->n_embd;
        return true;
    case SALA_T_Q:
        *rows = q, *cols = c->n_embd;
        return true;
    case SALA_T_K:
    case SALA_T_V:
        *rows = kv, *cols = c->n_embd;
        return true;
    case SALA_T_O:
        *rows = c->n_embd, *cols = q;
        return true;
    case SALA_T_Q_BIAS:
        *cols = q;
        return c->qkv_bias;
    case SALA_T_K_BIAS:
    case SALA_T_V_BIAS:
        *cols = kv;
        return c->qkv_bias;
    case SALA_T_O_BIAS:
        *cols = c->n_embd;
        return c->o_bias;
    case SALA_T_Q_NORM:
    case SALA_T_K_NORM:
        *cols = d;
        return lightning ? c->lightning.qk_norm : c->qk_norm;
    case SALA_T_ATTN_GATE:
        *rows = q, *cols = c->n_embd;
        return !lightning && c->attn_gate;
    case SALA_T_LINEAR_GATE:
        *rows = q, *cols = c->n_embd;
        return lightning && c->lightning.gate;
    case SALA_T_LINEAR_GATE_BIAS: /* as its siblings; the gate of softmax layers has none */
        *cols = q;
        return lightning && c->lightning.gate && c->qkv_bias;
    case SALA_T_MIX_NORM:
        *cols = q;
        return lightning && c->lightning.out_norm;
    case SALA_T_GATE:
    case SALA_T_UP:
        *rows = c->n_ff, *cols = c->n_embd;
        return true;
    case SALA_T_DOWN:
        *rows = c->n_embd, *cols = c->n_ff;
        return true;
    case SALA_T_GATE_BIAS:
    case SALA_T_UP_BIAS:
        *cols = c->n_ff;
        return c->mlp_bias;
    case SALA_T_DOWN_BIAS:
        *cols = c->n_embd;
        return c->mlp_bias;
    default:
        return false;
    }
}
