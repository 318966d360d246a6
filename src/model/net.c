/* Loading: every tensor is found by role, its shape checked against the config, and handed to the backend. */
#include "model/net.h"

#include "kernels/kernels.h"
#include "model/mixer.h"

#include <math.h>
#include <stdlib.h>

typedef struct loader {
    sala_net *net;
    sala_net_progress_fn *progress;
    void *user;
    uint64_t done, total;
    sala_act *next_vector;
    sala_error *err;
} loader;

static sala_status find(const loader *ld, const sala_tensor **out, sala_tensor_role role, int layer, bool required)
{
    *out = sala_checkpoint_tensor(&ld->net->files, role, layer);
    if (*out || !required)
        return SALA_OK;
    char name[96];
    sala_tensor_name(name, role, layer, ld->net->files.hf);
    const sala_config *c = ld->net->config;
    if (c->quant_method[0])
        return sala_fail(ld->err, SALA_E_UNSUPPORTED,
                         "%s: the weights are quantised with \"%s\" (quantization_config), which is not supported; "
                         "use the unquantised model or a GGUF file",
                         ld->net->files.path, c->quant_method);
    return sala_fail(ld->err, SALA_E_CORRUPT, "%s: tensor \"%s\" is missing; a %s model needs it", ld->net->files.path,
                     name, c->architecture);
}

static sala_status check_shape(const loader *ld, const sala_tensor *t, int64_t rows, int64_t cols)
{
    const bool matrix = rows > 1 || t->n_dims > 1;
    if (t->ne[0] == cols && t->ne[1] == rows && t->ne[2] == 1 && t->ne[3] == 1 && t->n_dims <= 2)
        return SALA_OK;
    if (matrix)
        return sala_fail(
            ld->err, SALA_E_CORRUPT, "%s: tensor \"%s\" is [%lld, %lld]; the config asks for [%lld, %lld] (out, in)",
            ld->net->files.path, t->name, (long long)t->ne[1], (long long)t->ne[0], (long long)rows, (long long)cols);
    return sala_fail(ld->err, SALA_E_CORRUPT, "%s: tensor \"%s\" has %lld elements; the config asks for %lld",
                     ld->net->files.path, t->name, (long long)t->ne[0], (long long)cols);
}

static sala_status load_matrix(loader *ld, sala_weight **out, sala_tensor_role role, int layer, int64_t rows,
                               int64_t cols)
{
    const sala_tensor *t;
    sala_status st = find(ld, &t, role, layer, true);
    if (st == SALA_OK)
        st = check_shape(ld, t, rows, cols);
    if (st != SALA_OK)
        return st;
    sala_backend *be = ld->net->be;
    st = be->ops->weight_new(be, out, t->dtype, rows, cols, t->data, ld->err);
    if (st != SALA_OK)
        return sala_fail_prefix(ld->err, st, "%s: tensor \"%s\"", ld->net->files.path, t->name);
    ld->done += t->bytes;
    if (ld->progress && !ld->progress(ld->user, "loading weights", ld->done, ld->total))
        return sala_fail(ld->err, SALA_E_CANCELLED, "loading was cancelled");
    return SALA_OK;
}

/* Norms and biases become f32 rows on the device. Optional ones that are absent leave *out NULL. */
static sala_status load_vector(loader *ld, sala_act **out, sala_tensor_role role, int layer, int64_t n, bool required)
{
    const sala_tensor *t;
    sala_status st = find(ld, &t, role, layer, required);
    if (st != SALA_OK || !t)
        return st;
    st = check_shape(ld, t, 1, n);
    if (st != SALA_OK)
        return st;
    if (!sala_dequant_has(t->dtype) || sala_dtype_bytes(t->dtype, n) == 0)
        return sala_fail(ld->err, SALA_E_UNSUPPORTED, "%s: tensor \"%s\" has type %s; expected a float type",
                         ld->net->files.path, t->name, sala_dtype_name(t->dtype));
    float *row = malloc((size_t)n * sizeof *row);
    if (!row)
        return sala_fail_memory(ld->err, (uint64_t)n * sizeof *row);
    sala_dequant_row(t->dtype, row, t->data, n);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(row[i]))
            st = sala_fail(ld->err, SALA_E_CORRUPT, "%s: tensor \"%s\" holds %g at index %lld", ld->net->files.path,
                           t->name, (double)row[i], (long long)i);
    *out = ld->next_vector;
    ld->next_vector += (n + 15) / 16 * 16;
    ld->net->be->ops->upload(ld->net->be, *out, row, (size_t)n * sizeof *row);
    free(row);
    return st;
}

static bool is_linear(const sala_config *c, int l)
{
    return c->mixers[l] == SALA_MIXER_LIGHTNING;
}

/* Widths of a layer's projections. */
static int64_t q_width(const sala_config *c, int l)
{
    return is_linear(c, l) ? (int64_t)c->lightning.n_heads * c->lightning.head_dim : (int64_t)c->n_heads * c->head_dim;
}

static int64_t kv_width(const sala_config *c, int l)
{
    return is_linear(c, l) ? (int64_t)c->lightning.n_kv_heads * c->lightning.head_dim
                           : (int64_t)c->n_kv_heads * c->head_dim;
}

static int64_t widest(const sala_config *c, int64_t (*width)(const sala_config *c, int l))
{
    int64_t most = 0;
    for (int l = 0; l < c->n_layers; l++)
        most = sala_max_i64(most, width(c, l));
    return most;
}

static bool has_gate(const sala_config *c, int l)
{
    return is_linear(c, l) ? c->lightning.gate : c->attn_gate;
}

static bool any_gate(const sala_config *c)
{
    for (int l = 0; l < c->n_layers; l++)
        if (has_gate(c, l))
            return true;
    return false;
}

enum { VECTORS_OF_LAYER = 13 };

static size_t vector_elements(const sala_config *c)
{
    const int64_t q = widest(c, q_width), kv = widest(c, kv_width);
    const int64_t head = sala_max_i64(c->head_dim, c->lightning.head_dim);
    const int64_t layer =
        3 * (int64_t)c->n_embd + 2 * head + 3 * q + 2 * kv + 3 * (int64_t)c->n_ff + VECTORS_OF_LAYER * 16;
    return (size_t)(layer * c->n_layers + c->n_embd + 16);
}

static sala_status load_vectors(loader *ld, int l)
{
    const sala_config *c = ld->net->config;
    sala_layer *w = &ld->net->layers[l];
    const bool linear = is_linear(c, l);
    const int64_t h = c->n_embd, f = c->n_ff, d = linear ? c->lightning.head_dim : c->head_dim;
    const int64_t q = q_width(c, l), kv = kv_width(c, l);
    const bool qk_norm = linear ? c->lightning.qk_norm : c->qk_norm;
    const struct {
        sala_act **out;
        sala_tensor_role role;
        int64_t n;
        bool required, possible;
    } vectors[VECTORS_OF_LAYER] = {
        {&w->attn_norm, SALA_T_ATTN_NORM, h, true, true},
        {&w->ffn_norm, SALA_T_FFN_NORM, h, true, true},
        {&w->q_norm, SALA_T_Q_NORM, d, qk_norm, true},
        {&w->k_norm, SALA_T_K_NORM, d, qk_norm, true},
        {&w->mix_norm, SALA_T_MIX_NORM, q, linear && c->lightning.out_norm, linear && c->lightning.out_norm},
        {&w->q_bias, SALA_T_Q_BIAS, q, c->qkv_bias, true},
        {&w->k_bias, SALA_T_K_BIAS, kv, c->qkv_bias, true},
        {&w->v_bias, SALA_T_V_BIAS, kv, c->qkv_bias, true},
        {&w->o_bias, SALA_T_O_BIAS, h, c->o_bias, true},
        {&w->mix_gate_bias, SALA_T_LINEAR_GATE_BIAS, q, false, linear && c->lightning.gate},
        {&w->gate_bias, SALA_T_GATE_BIAS, f, c->mlp_bias, true},
        {&w->up_bias, SALA_T_UP_BIAS, f, c->mlp_bias, true},
        {&w->down_bias, SALA_T_DOWN_BIAS, h, c->mlp_bias, true},
    };
    for (size_t i = 0; i < VECTORS_OF_LAYER; i++) {
        if (!vectors[i].possible)
            continue;
        const sala_status st = load_vector(ld, vectors[i].out, vectors[i].role, l, vectors[i].n, vectors[i].required);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status load_matrices(loader *ld, int l)
{
    const sala_config *c = ld->net->config;
    sala_layer *w = &ld->net->layers[l];
    const int64_t h = c->n_embd, f = c->n_ff, q = q_width(c, l), kv = kv_width(c, l);
    const struct {
        sala_weight **out;
        sala_tensor_role role;
        int64_t rows, cols;
        bool there;
    } matrices[] = {
        {&w->q, SALA_T_Q, q, h, true},
        {&w->k, SALA_T_K, kv, h, true},
        {&w->v, SALA_T_V, kv, h, true},
        {&w->mix_gate, is_linear(c, l) ? SALA_T_LINEAR_GATE : SALA_T_ATTN_GATE, q, h, has_gate(c, l)},
        {&w->o, SALA_T_O, h, q, true},
        {&w->gate, SALA_T_GATE, f, h, true},
        {&w->up, SALA_T_UP, f, h, true},
        {&w->down, SALA_T_DOWN, h, f, true},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(matrices); i++) {
        if (!matrices[i].there)
            continue;
        const sala_status st =
            load_matrix(ld, matrices[i].out, matrices[i].role, l, matrices[i].rows, matrices[i].cols);
        if (st != SALA_OK)
            return st;
    }
    /* Packing drops what it has read, but a fault maps more than one page: several threads bring dropped pages back. */
    if (ld->net->be->ops->weight_bytes(w->down) > 0)
        sala_checkpoint_drop_pages(&ld->net->files);
    return SALA_OK;
}

/* Tensors that the configuration has no use for say that the two do not belong together. */
static sala_status check_mixers(const loader *ld)
{
    const sala_config *c = ld->net->config;
    for (int l = 0; l < c->n_layers; l++) {
        const sala_tensor_role wrong = is_linear(c, l) ? SALA_T_ATTN_GATE : SALA_T_LINEAR_GATE;
        const sala_tensor_role unused = is_linear(c, l) ? SALA_T_LINEAR_GATE : SALA_T_ATTN_GATE;
        const sala_tensor *t = sala_checkpoint_tensor(&ld->net->files, wrong, l);
        if (!t && !has_gate(c, l))
            t = sala_checkpoint_tensor(&ld->net->files, unused, l);
        if (t)
            return sala_fail(ld->err, SALA_E_CORRUPT,
                             "%s: the configuration says that layer %d is a %s layer%s, but the file holds \"%s\"",
                             ld->net->files.path, l, sala_mixer_kind_name(c->mixers[l]),
                             has_gate(c, l) ? "" : " without an output gate", t->name);
    }
    return SALA_OK;
}

/* ---- scratch ---- */

enum { DECAYS = SALA_LIGHTNING_CHUNK + 1 };

static int64_t row_floats(const sala_config *c)
{
    return 3 * (int64_t)c->n_embd + (any_gate(c) ? 3 : 2) * widest(c, q_width) + 2 * widest(c, kv_width) +
           2 * (int64_t)c->n_ff;
}

/* Weights of the matrices, about. */
static int64_t weight_count(const sala_config *c)
{
    return c->n_layers * (int64_t)c->n_embd *
               (2 * widest(c, q_width) + 2 * widest(c, kv_width) + 3 * (int64_t)c->n_ff) +
           2 * (int64_t)c->n_vocab * c->n_embd;
}

/* Rows of a batch that go through the layers at once: as many as 24 MiB of activations hold, or a fortieth of 4-bit
 * weights, so that scratch stays small beside the weights, and enough to pay for reading them once. */
static int64_t plan_rows(const sala_config *c)
{
    const int64_t budget = sala_max_i64((int64_t)24 << 20, weight_count(c) / 80);
    const int64_t rows = budget / (row_floats(c) * (int64_t)sizeof(float));
    return rows < 64 ? 64 : rows > 512 ? 512 : rows / 64 * 64;
}

static int64_t plan_logit_rows(const sala_config *c)
{
    const int64_t rows = ((int64_t)8 << 20) / ((int64_t)c->n_vocab * (int64_t)sizeof(float));
    return rows < 1 ? 1 : rows > 64 ? 64 : rows;
}

static int64_t selection_ints(const sala_config *c)
{
    return sala_config_count(c, SALA_MIXER_SPARSE)
               ? plan_rows(c) * c->n_kv_heads * (1 + (int64_t)sala_sparse_selected(&c->sparse))
               : 0;
}

uint64_t sala_net_scratch_bytes(const sala_config *c)
{
    return (uint64_t)(plan_rows(c) * row_floats(c) + plan_logit_rows(c) * c->n_vocab + selection_ints(c) + 16 * 16) *
           sizeof(float);
}

static sala_act *carve(sala_act **p, int64_t n)
{
    sala_act *at = *p;
    *p += (n + 15) / 16 * 16;
    return at;
}

static sala_status make_scratch(sala_net *net, sala_error *err)
{
    const sala_config *c = net->config;
    sala_backend *be = net->be;
    const int64_t rows = plan_rows(c), q = widest(c, q_width), kv = widest(c, kv_width);
    net->max_rows = rows;
    net->max_logit_rows = plan_logit_rows(c);
    net->scratch_bytes = sala_net_scratch_bytes(c);
    net->scratch = be->ops->alloc(be, net->scratch_bytes);
    if (!net->scratch)
        return sala_fail_memory(err, net->scratch_bytes);
    sala_act *p = net->scratch;
    sala_layer_buffers *b = &net->buffers;
    b->h = carve(&p, rows * c->n_embd);
    b->normed = carve(&p, rows * c->n_embd);
    b->out = carve(&p, rows * c->n_embd);
    b->q = carve(&p, rows * q);
    b->core = b->mixed = carve(&p, rows * q);
    if (any_gate(c))
        b->mix_gate = carve(&p, rows * q);
    if (selection_ints(c))
        b->selection = (int32_t *)carve(&p, selection_ints(c));
    b->k = carve(&p, rows * kv);
    b->v = carve(&p, rows * kv);
    b->mid = b->gate = carve(&p, rows * c->n_ff);
    b->up = carve(&p, rows * c->n_ff);
    net->logits = carve(&p, net->max_logit_rows * c->n_vocab);

    const size_t half = (size_t)(c->rope.n_rot / 2 + 1), decays = (size_t)c->lightning.n_heads * DECAYS;
    net->rope_cos = calloc((size_t)rows * (half * 2 + 1) + decays, sizeof(float));
    net->inv_freq[0] = calloc(half * 2, sizeof(double));
    if (!net->rope_cos || !net->inv_freq[0])
        return sala_fail_memory(err, (uint64_t)rows * half * 2 * sizeof(float));
    net->rope_sin = net->rope_cos + (size_t)rows * half;
    net->row_scale = net->rope_sin + (size_t)rows * half;
    net->decay = net->row_scale + rows;
    net->inv_freq[1] = net->inv_freq[0] + half;
    sala_net_fill_tables(net);

    const bool sparse = sala_config_count(c, SALA_MIXER_SPARSE) > 0;
    return be->ops->reserve(be,
                            &(sala_backend_limits){.rows = rows,
                                                   .cols = sala_max_i64(c->n_embd, sala_max_i64(c->n_ff, q)),
                                                   .tokens = 1 << 20,
                                                   .n_heads = c->n_heads,
                                                   .n_kv_heads = c->n_kv_heads,
                                                   .head_dim = c->head_dim,
                                                   .lightning_head_dim = c->lightning.head_dim,
                                                   .selected = sparse ? sala_sparse_selected(&c->sparse) : 0},
                            err);
}

sala_status sala_net_open(sala_net **out, sala_checkpoint *files, sala_backend *be, sala_net_progress_fn *progress,
                          void *user, sala_error *err)
{
    sala_net *net = calloc(1, sizeof *net);
    if (!net) {
        sala_checkpoint_close(files);
        return sala_fail_memory(err, sizeof *net);
    }
    net->files = *files;
    *files = (sala_checkpoint){0};
    const sala_config *c = net->config = &net->files.config;
    net->be = be;
    loader ld = {
        .net = net, .progress = progress, .user = user, .total = sala_checkpoint_bytes(&net->files), .err = err};
    sala_status st = SALA_OK;

    net->layers = calloc((size_t)c->n_layers, sizeof *net->layers);
    net->vectors_bytes = vector_elements(c) * sizeof(sala_act);
    net->vectors = be->ops->alloc(be, net->vectors_bytes);
    if (!net->layers || !net->vectors) {
        st = sala_fail_memory(err, net->vectors_bytes);
        goto out;
    }
    ld.next_vector = net->vectors;
    sala_net_number_layers(net);
    st = check_mixers(&ld);
    if (st != SALA_OK)
        goto out;

    /* Vectors first: reading them later would map pages again that packing has dropped. */
    st = load_vector(&ld, &net->out_norm, SALA_T_OUT_NORM, -1, c->n_embd, true);
    for (int l = 0; l < c->n_layers && st == SALA_OK; l++)
        st = load_vectors(&ld, l);
    if (st == SALA_OK)
        st = load_matrix(&ld, &net->embed, SALA_T_EMBED, -1, c->n_vocab, c->n_embd);
    if (st != SALA_OK)
        goto out;
    if (c->tied_head)
        net->head = net->embed;
    else
        st = load_matrix(&ld, &net->head, SALA_T_HEAD, -1, c->n_vocab, c->n_embd);
    for (int l = 0; l < c->n_layers && st == SALA_OK; l++)
        st = load_matrices(&ld, l);
    if (st == SALA_OK)
        st = make_scratch(net, err);
out:
    if (st != SALA_OK) {
        sala_net_close(net);
        return st;
    }
    *out = net;
    return SALA_OK;
}

void sala_net_close(sala_net *net)
{
    if (!net)
        return;
    sala_backend *be = net->be;
    for (int l = 0; net->layers && l < net->config->n_layers; l++) {
        const sala_layer *w = &net->layers[l];
        sala_weight *const all[] = {w->q, w->k, w->v, w->mix_gate, w->o, w->gate, w->up, w->down};
        for (size_t i = 0; i < SALA_ARRAY_LEN(all); i++)
            be->ops->weight_free(be, all[i]);
    }
    if (net->head != net->embed)
        be->ops->weight_free(be, net->head);
    be->ops->weight_free(be, net->embed);
    be->ops->free(be, net->vectors, net->vectors_bytes);
    be->ops->free(be, net->scratch, net->scratch_bytes);
    free(net->work);
    free(net->rope_cos);
    free(net->inv_freq[0]);
    free(net->layers);
    sala_checkpoint_close(&net->files);
    free(net);
}

uint64_t sala_net_weight_bytes(const sala_net *net)
{
    const sala_backend_ops *ops = net->be->ops;
    uint64_t bytes = ops->weight_bytes(net->embed);
    if (net->head != net->embed)
        bytes += ops->weight_bytes(net->head);
    for (int l = 0; l < net->config->n_layers; l++) {
        const sala_layer *w = &net->layers[l];
        sala_weight *const all[] = {w->q, w->k, w->v, w->mix_gate, w->o, w->gate, w->up, w->down};
        for (size_t i = 0; i < SALA_ARRAY_LEN(all); i++)
            bytes += all[i] ? ops->weight_bytes(all[i]) : 0;
    }
    return bytes;
}
