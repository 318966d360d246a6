/* What both readers share: neutral values, derived values, and the limits that keep later sizes from overflowing. With
 * these limits every product of two dimensions fits 64 bits with room to spare. */
#include "model/config_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define MAX_LAYERS 4096
#define MAX_WIDTH (1 << 20) /* n_embd, n_ff, and n_heads * head_dim */
#define MAX_HEADS 65536
#define MAX_HEAD_DIM 4096
#define MAX_VOCAB (1 << 24)
#define MAX_CONTEXT (INT64_C(1) << 40)

void sala_config_init(sala_config *c)
{
    *c = (sala_config){
        .rms_eps = 1e-6,
        .embed_scale = 1,
        .residual_scale = 1,
        .logit_divisor = 1,
        .attn_rope = true,
        .rope = {.kind = SALA_ROPE_PLAIN,
                 .theta = 10000,
                 .factor = 1,
                 .low_freq_factor = 1,
                 .high_freq_factor = 4,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .yarn_truncate = true},
        .bos = -1,
        .pad = -1,
        .gen_temperature = -1,
        .gen_top_p = -1,
        .gen_min_p = -1,
        .gen_repeat_penalty = -1,
        .gen_top_k = -1,
    };
}

void sala_config_free(sala_config *c)
{
    free(c->name);
    free(c->mixers);
    if (c->rope.long_factors != c->rope.short_factors)
        free(c->rope.long_factors);
    free(c->rope.short_factors);
    c->name = NULL;
    c->mixers = NULL;
    c->rope.long_factors = c->rope.short_factors = NULL;
}

void sala_config_add_eos(sala_config *c, int64_t id)
{
    if (id < 0 || id >= c->n_vocab || c->n_eos == SALA_MAX_EOS)
        return;
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id)
            return;
    c->eos[c->n_eos++] = (int32_t)id;
}

static sala_status check_range(const char *what, int64_t value, int64_t max, sala_error *err)
{
    if (value < 1 || value > max)
        return sala_fail(err, SALA_E_CORRUPT, "%s is %" PRId64 ", expected 1 to %" PRId64, what, value, max);
    return SALA_OK;
}

static bool positive(double x)
{
    return isfinite(x) && x > 0;
}

static sala_status check_factors(const sala_rope_config *r, const float *f, const char *which, sala_error *err)
{
    if (!f || r->n_factors != r->n_rot / 2)
        return sala_fail(err, SALA_E_CORRUPT, "the %s rope factors are %" PRId32 " values, expected %" PRId32, which,
                         f ? r->n_factors : 0, r->n_rot / 2);
    for (int32_t i = 0; i < r->n_factors; i++)
        if (!positive((double)f[i]))
            return sala_fail(err, SALA_E_CORRUPT, "the %s rope factor %" PRId32 " is %g, expected a positive number",
                             which, i, (double)f[i]);
    return SALA_OK;
}

int32_t sala_config_rope_head(const sala_config *c)
{
    const bool linear_only =
        !c->attn_rope && c->lightning.rope && c->mixers && sala_config_count(c, SALA_MIXER_LIGHTNING) > 0;
    return linear_only ? c->lightning.head_dim : c->head_dim;
}

static sala_status check_rope(const sala_config *c, sala_error *err)
{
    const sala_rope_config *r = &c->rope;
    const int32_t head = sala_config_rope_head(c);
    if (r->kind == SALA_ROPE_NONE)
        return SALA_OK;
    if (r->n_rot < 2 || r->n_rot > head || r->n_rot % 2)
        return sala_fail(err, SALA_E_CORRUPT,
                         "rope turns %" PRId32 " components of a head of %" PRId32
                         ", expected an even number up to that",
                         r->n_rot, head);
    if (!isfinite(r->theta) || r->theta <= 1)
        return sala_fail(err, SALA_E_CORRUPT, "rope base frequency is %g, expected more than 1", r->theta);
    if (!positive(r->factor))
        return sala_fail(err, SALA_E_CORRUPT, "rope scaling factor is %g, expected a positive number", r->factor);
    if (!isfinite(r->attention_factor) || r->attention_factor < 0)
        return sala_fail(err, SALA_E_CORRUPT, "rope attention factor is %g, expected a positive number",
                         r->attention_factor);
    if (r->original_max < 0 || r->original_max > MAX_CONTEXT)
        return sala_fail(err, SALA_E_CORRUPT, "rope original context is %" PRId64 ", expected 1 to %" PRId64,
                         r->original_max, MAX_CONTEXT);
    if (r->kind == SALA_ROPE_LLAMA3 &&
        (!positive(r->low_freq_factor) || !isfinite(r->high_freq_factor) || r->high_freq_factor <= r->low_freq_factor))
        return sala_fail(err, SALA_E_CORRUPT,
                         "llama3 rope scaling has low_freq_factor %g and high_freq_factor %g, expected 0 < low < high",
                         r->low_freq_factor, r->high_freq_factor);
    if (r->kind == SALA_ROPE_YARN && (!positive(r->beta_fast) || !positive(r->beta_slow)))
        return sala_fail(err, SALA_E_CORRUPT, "yarn has beta_fast %g and beta_slow %g, expected positive numbers",
                         r->beta_fast, r->beta_slow);
    if (r->kind == SALA_ROPE_YARN && (!isfinite(r->mscale) || !isfinite(r->mscale_all_dim)))
        return sala_fail(err, SALA_E_CORRUPT, "yarn has mscale %g and mscale_all_dim %g, expected finite numbers",
                         r->mscale, r->mscale_all_dim);
    if (r->kind == SALA_ROPE_LONGROPE || r->kind == SALA_ROPE_FACTORS) {
        TRY(check_factors(r, r->short_factors, "short", err));
        TRY(check_factors(r, r->long_factors, "long", err));
    }
    return SALA_OK;
}

sala_status sala_config_check_sparse(const sala_sparse_config *s, sala_error *err)
{
    if (s->block_size == 0) /* no sparse layer */
        return SALA_OK;
    const struct {
        const char *what;
        int64_t value, least, most;
    } ranges[] = {
        {"kernel_size", s->kernel_size, 1, 1 << 16},
        {"kernel_stride", s->kernel_stride, 1, 1 << 16},
        {"block_size", s->block_size, 1, 1 << 16},
        {"init_blocks", s->init_blocks, 0, 1 << 16},
        {"topk", s->topk, 1, 1 << 20},
        {"window_size", s->window_size, 0, 1 << 24},
        {"dense_len", s->dense_len, -1, MAX_CONTEXT},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(ranges); i++)
        if (ranges[i].value < ranges[i].least || ranges[i].value > ranges[i].most)
            return sala_fail(err, SALA_E_CORRUPT,
                             "%s of sparse attention is %" PRId64 ", expected %" PRId64 " to %" PRId64, ranges[i].what,
                             ranges[i].value, ranges[i].least, ranges[i].most);
    if (s->kernel_size % s->kernel_stride)
        return sala_fail(err, SALA_E_CORRUPT,
                         "kernel_size of sparse attention is %" PRId32
                         ", expected a multiple of kernel_stride %" PRId32,
                         s->kernel_size, s->kernel_stride);
    if (s->block_size % s->kernel_stride)
        return sala_fail(err, SALA_E_CORRUPT,
                         "block_size of sparse attention is %" PRId32 ", expected a multiple of kernel_stride %" PRId32,
                         s->block_size, s->kernel_stride);
    const int64_t forced = (int64_t)s->init_blocks + s->window_size / s->block_size + 1;
    if (forced > sala_sparse_selected(s))
        return sala_fail(err, SALA_E_CORRUPT,
                         "sparse attention selects %" PRId32 " blocks (topk %" PRId32 " and the window's %" PRId32
                         "), fewer than the %" PRId64 " that are always there; topk must be at least %" PRId64,
                         sala_sparse_selected(s), s->topk, s->window_size / s->block_size, forced,
                         (int64_t)s->init_blocks + 1);
    return SALA_OK;
}

static sala_status check_lightning(sala_config *c, sala_error *err)
{
    sala_lightning_config *l = &c->lightning;
    if (sala_config_count(c, SALA_MIXER_LIGHTNING) == 0) {
        *l = (sala_lightning_config){0};
        return SALA_OK;
    }
    TRY(check_range("the number of lightning heads", l->n_heads, MAX_HEADS, err));
    TRY(check_range("the number of lightning key/value heads", l->n_kv_heads, MAX_HEADS, err));
    TRY(check_range("the size of a lightning head", l->head_dim, MAX_HEAD_DIM, err));
    TRY(check_range("lightning heads times head size", (int64_t)l->n_heads * l->head_dim, MAX_WIDTH, err));
    if (l->n_heads % l->n_kv_heads)
        return sala_fail(err, SALA_E_CORRUPT,
                         "%" PRId32 " lightning heads can not share %" PRId32 " key/value heads evenly", l->n_heads,
                         l->n_kv_heads);
    if (!positive(l->scale))
        return sala_fail(err, SALA_E_CORRUPT, "the scale of lightning attention is %g, expected a positive number",
                         l->scale);
    /* The original code has one table of angles and puts it on both kinds of layers. */
    if (l->rope && c->attn_rope && l->head_dim != c->head_dim &&
        sala_config_count(c, SALA_MIXER_LIGHTNING) < c->n_layers)
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "softmax heads of %" PRId32 " and lightning heads of %" PRId32
                         " components both rotate; one table of angles needs equal sizes",
                         c->head_dim, l->head_dim);
    return SALA_OK;
}

/* Attention that sees a window only and attention that selects blocks exclude one another. */
static sala_status check_window(const sala_config *c, sala_error *err)
{
    if (c->sliding_window < 0)
        return sala_fail(err, SALA_E_CORRUPT, "the sliding window is %" PRId32 ", expected 0 or more",
                         c->sliding_window);
    if (c->sliding_window > 0 && c->sparse.block_size > 0)
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "the model has a sliding window of %" PRId32
                         " tokens and sparse attention; only one of them is possible",
                         c->sliding_window);
    return SALA_OK;
}

sala_status sala_config_finish(sala_config *c, sala_error *err)
{
    const struct {
        const char *what;
        int64_t value, max;
    } ranges[] = {
        {"the number of layers", c->n_layers, MAX_LAYERS},
        {"the hidden size", c->n_embd, MAX_WIDTH},
        {"the number of attention heads", c->n_heads, MAX_HEADS},
        {"the number of key/value heads", c->n_kv_heads, MAX_HEADS},
        {"the size of a head", c->head_dim, MAX_HEAD_DIM},
        {"the feed-forward size", c->n_ff, MAX_WIDTH},
        {"the vocabulary size", c->n_vocab, MAX_VOCAB},
        {"the trained context", c->n_ctx_train, MAX_CONTEXT},
        {"heads times head size", (int64_t)c->n_heads * c->head_dim, MAX_WIDTH},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(ranges); i++) {
        TRY(check_range(ranges[i].what, ranges[i].value, ranges[i].max, err));
    }
    if (c->n_heads % c->n_kv_heads)
        return sala_fail(err, SALA_E_CORRUPT,
                         "%" PRId32 " attention heads can not share %" PRId32 " key/value heads evenly", c->n_heads,
                         c->n_kv_heads);
    TRY(check_window(c, err));
    if (!isfinite(c->rms_eps) || c->rms_eps < 0 || c->rms_eps >= 1)
        return sala_fail(err, SALA_E_CORRUPT, "the epsilon of the norms is %g, expected 0 to 1", c->rms_eps);
    if (c->attn_scale == 0)
        c->attn_scale = 1.0 / sqrt((double)c->head_dim);
    const struct {
        const char *what;
        double value;
    } scales[] = {{"embedding scale", c->embed_scale},
                  {"residual scale", c->residual_scale},
                  {"logit scale", c->logit_divisor},
                  {"attention scale", c->attn_scale}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(scales); i++)
        if (!positive(scales[i].value))
            return sala_fail(err, SALA_E_CORRUPT, "the %s is %g, expected a positive number", scales[i].what,
                             scales[i].value);
    if (c->attn_scale_base != 0 && !(isfinite(c->attn_scale_base) && c->attn_scale_base >= 2))
        return sala_fail(err, SALA_E_CORRUPT,
                         "the base of the position-dependent attention scale is %g, expected 2 or more",
                         c->attn_scale_base);
    if (c->bos >= c->n_vocab)
        c->bos = -1;
    if (c->pad >= c->n_vocab)
        c->pad = -1;
    if (!c->mixers) {
        c->mixers = malloc((size_t)c->n_layers * sizeof *c->mixers);
        if (!c->mixers)
            return sala_fail_memory(err, (uint64_t)c->n_layers * sizeof *c->mixers);
        for (int32_t i = 0; i < c->n_layers; i++)
            c->mixers[i] = c->sparse.block_size > 0 ? SALA_MIXER_SPARSE : SALA_MIXER_DENSE;
    }
    TRY(check_lightning(c, err));
    if (c->rope.n_rot == 0)
        c->rope.n_rot = sala_config_rope_head(c);
    if (c->rope.original_max == 0)
        c->rope.original_max = c->n_ctx_train;
    TRY(check_rope(c, err));
    return sala_config_check_sparse(&c->sparse, err);
}

const char *sala_mixer_kind_name(sala_mixer_kind kind)
{
    static const char *const names[] = {"dense", "sparse", "lightning"};
    return (size_t)kind < SALA_ARRAY_LEN(names) ? names[kind] : "?";
}

static const sala_tensor *tensor_of(const sala_safetensors *st, sala_tensor_role role, int layer)
{
    char name[96];
    return sala_safetensors_tensor(st, sala_tensor_name(name, role, layer, true));
}

sala_status sala_config_fit_lightning(sala_config *c, const sala_safetensors *st, sala_error *err)
{
    sala_lightning_config *l = &c->lightning;
    const int32_t d = c->head_dim;
    int layer = 0;
    if (l->n_heads == 0 || (l->n_heads == c->n_heads && l->head_dim == d) ||
        strcmp(c->architecture, "minicpm-sala") != 0)
        return SALA_OK;
    while (c->mixers[layer] != SALA_MIXER_LIGHTNING) /* there is one, or n_heads were 0 */
        layer++;
    const sala_tensor *q = tensor_of(st, SALA_T_Q, layer), *k = tensor_of(st, SALA_T_K, layer);
    const sala_tensor *q_norm = tensor_of(st, SALA_T_Q_NORM, layer);
    if (!q || !k || q->ne[1] != (int64_t)c->n_heads * d || k->ne[1] % d || k->ne[1] > q->ne[1] ||
        (q_norm && q_norm->ne[0] != d))
        return SALA_OK;
    if (l->scale == 1 / sqrt((double)l->head_dim))
        l->scale = 1 / sqrt((double)d);
    else if (l->scale == 1 / (double)l->head_dim)
        l->scale = 1 / (double)d;
    const bool whole = c->rope.n_rot == sala_config_rope_head(c);
    l->n_heads = c->n_heads;
    l->n_kv_heads = (int32_t)(k->ne[1] / d);
    l->head_dim = d;
    if (whole)
        c->rope.n_rot = sala_config_rope_head(c);
    TRY(check_lightning(c, err));
    return check_rope(c, err);
}

sala_sparse_config sala_sparse_defaults(void)
{
    return (sala_sparse_config){.kernel_size = 32,
                                .kernel_stride = 16,
                                .block_size = 64,
                                .init_blocks = 1,
                                .topk = 64,
                                .window_size = 2048,
                                .dense_len = 8192};
}

sala_status sala_config_set_sparse(sala_config *c, const sala_sparse_config *sparse, sala_error *err)
{
    if (sparse) {
        TRY(sala_config_check_sparse(sparse, err));
        sala_config trial = *c;
        trial.sparse = *sparse;
        TRY(check_window(&trial, err));
    }
    c->sparse = sparse ? *sparse : (sala_sparse_config){0};
    for (int32_t i = 0; i < c->n_layers; i++)
        if (c->mixers[i] != SALA_MIXER_LIGHTNING)
            c->mixers[i] = c->sparse.block_size > 0 ? SALA_MIXER_SPARSE : SALA_MIXER_DENSE;
    return SALA_OK;
}

int sala_config_count(const sala_config *c, sala_mixer_kind kind)
{
    int n = 0;
    for (int32_t i = 0; i < c->n_layers; i++)
        n += c->mixers[i] == kind;
    return n;
}

sala_status sala_config_check_tensors(const sala_config *c, const sala_gguf *g, const sala_safetensors *st,
                                      sala_error *err)
{
    for (int32_t layer = 0; layer < c->n_layers; layer++) {
        const char *kind = sala_mixer_kind_name(c->mixers[layer]);
        for (int role = SALA_T_FIRST_OF_LAYER; role < SALA_T_COUNT; role++) {
            int64_t rows, cols;
            char name[96];
            if (!sala_tensor_shape(c, (sala_tensor_role)role, layer, &rows, &cols))
                continue;
            sala_tensor_name(name, (sala_tensor_role)role, layer, st != NULL);
            const sala_tensor *t = st ? sala_safetensors_tensor(st, name) : sala_gguf_tensor(g, name);
            if (!t)
                return sala_fail(err, SALA_E_CORRUPT,
                                 "layer %" PRId32 " is a %s one by the list of mixers, but tensor \"%s\" is missing",
                                 layer, kind, name);
            if (t->ne[0] != cols || t->ne[1] != (rows > 0 ? rows : 1))
                return sala_fail(err, SALA_E_CORRUPT,
                                 "layer %" PRId32 " is a %s one by the list of mixers, but tensor \"%s\" is %" PRId64
                                 " x %" PRId64 ", expected %" PRId64 " x %" PRId64,
                                 layer, kind, name, t->ne[1], t->ne[0], rows > 0 ? rows : 1, cols);
        }
    }
    return SALA_OK;
}
