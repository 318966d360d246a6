/* Models of random weights: any shape, any type, as fast as the disk takes them.
 *
 * Rounding billions of random numbers would take minutes and tell nothing. Blocks of a type do not depend on their
 * neighbours, so a pool of some thousand blocks is rounded once for each type and standard deviation, and every row of
 * a tensor is a random sequence of blocks of the pool. One thread writes everything: the bytes follow from the seed.
 *
 * Standard deviations. The residual stream begins near 1 (embeddings of 1/embed_scale) and each sublayer reads a
 * normalised copy of it, so that matrices of 1/sqrt(columns) hand on values near 1; what the sublayers add is scaled so
 * that all of them together at most double the stream's variance or so, and the head so that logits have deviation 1.
 */
#include "quant/plan.h"

#include "os/os.h"
#include "text/chat.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const sala_status try_status = (call);                                                                         \
        if (try_status != SALA_OK)                                                                                     \
            return try_status;                                                                                         \
    } while (0)

#define POOL_WEIGHTS (1 << 18) /* blocks of 32: 8192, of 256: 1024; 4-bit blocks stay in the second-level cache */
#define FLOAT_BLOCK 32         /* types without blocks are treated as if they had some of this length */
#define CHUNK_BYTES (8u << 20) /* written at a time; twice the longest row that a configuration may have */
#define MAX_LAYERS 4096

/* ---- pools of blocks ---- */

typedef struct pool {
    sala_dtype dtype;
    double deviation;
    uint8_t *blocks;
    int64_t block_weights, block_bytes, n; /* n is a power of two */
} pool;

typedef struct maker {
    sala_plan *plan;
    uint64_t seed;
    pool *pools;
    size_t n_pools, cap;
    uint8_t *chunk;
} maker;

static void free_pools(maker *m)
{
    for (size_t i = 0; i < m->n_pools; i++)
        free(m->pools[i].blocks);
    free(m->pools);
    free(m->chunk);
}

static sala_status fill_pool(pool *p, uint64_t seed, sala_error *err)
{
    const sala_dtype_info *info = sala_dtype_get((int)p->dtype);
    p->block_weights = info->block_weights > 1 ? info->block_weights : FLOAT_BLOCK;
    p->block_bytes = (int64_t)sala_dtype_bytes(p->dtype, p->block_weights);
    p->n = POOL_WEIGHTS / p->block_weights;
    float *x = malloc(POOL_WEIGHTS * sizeof *x);
    p->blocks = malloc((size_t)(p->n * p->block_bytes));
    if (!x || !p->blocks) {
        free(x);
        return sala_fail_memory(err, POOL_WEIGHTS * sizeof *x);
    }
    sala_rng r;
    sala_rng_seed(&r, seed);
    for (int64_t i = 0; i < POOL_WEIGHTS; i++)
        x[i] = (float)(sala_rng_normal(&r) * p->deviation);
    const sala_status st = sala_quantize_rows(p->dtype, p->blocks, x, p->n, p->block_weights, NULL, err);
    free(x);
    return st;
}

static sala_status pool_of(maker *m, const pool **out, sala_dtype dtype, double deviation, sala_error *err)
{
    for (size_t i = 0; i < m->n_pools; i++) {
        if (m->pools[i].dtype == dtype && m->pools[i].deviation == deviation) {
            *out = &m->pools[i];
            return SALA_OK;
        }
    }
    if (m->n_pools == m->cap) {
        const size_t cap = m->cap ? 2 * m->cap : 16;
        pool *pools = realloc(m->pools, cap * sizeof *pools);
        if (!pools)
            return sala_fail_memory(err, cap * sizeof *pools);
        m->pools = pools;
        m->cap = cap;
    }
    pool *p = &m->pools[m->n_pools];
    *p = (pool){.dtype = dtype, .deviation = deviation};
    m->n_pools++;
    *out = p;
    return fill_pool(p, m->seed ^ (0x9E3779B97F4A7C15u * (uint64_t)m->n_pools), err);
}

/* ---- how large weights are ---- */

/* What a sublayer adds may have this deviation, so that 2 n_layers of them stay near the stream they are added to. */
static double sublayer_gain(const sala_config *c)
{
    const double gain = 1 / (c->residual_scale * sqrt((double)c->n_layers));
    return gain < 1 ? gain : 1;
}

static double deviation(const sala_config *c, sala_tensor_role role, int64_t columns)
{
    const double plain = 1 / sqrt((double)columns);
    switch (role) {
    case SALA_T_EMBED: /* a tied embedding is the head too, whose logits matter more */
        return c->tied_head ? c->logit_divisor * plain : 1 / c->embed_scale;
    case SALA_T_HEAD:
        return c->logit_divisor * plain;
    case SALA_T_O:
        return plain * sublayer_gain(c);
    case SALA_T_DOWN: /* silu(x) y of two normal variables has deviation 0.6 */
        return plain * sublayer_gain(c) / 0.6;
    default:
        return plain;
    }
}

/* ---- the list of tensors ---- */

static sala_status add_role(sala_plan *p, sala_tensor_role role, int layer, sala_error *err)
{
    int64_t rows, cols;
    char name[96];
    sala_stream_item *item = NULL;
    if (!sala_tensor_shape(&p->config, role, layer, &rows, &cols))
        return SALA_OK;
    TRY(sala_plan_add(p, &item, sala_tensor_name(name, role, layer, false), err));
    item->n_dims = rows > 0 ? 2 : 1;
    item->ne[0] = cols;
    item->ne[1] = rows > 0 ? rows : 1;
    item->ne[2] = item->ne[3] = 1;
    return SALA_OK;
}

static sala_status list_tensors(sala_plan *p, sala_error *err)
{
    TRY(add_role(p, SALA_T_EMBED, -1, err));
    TRY(sala_plan_add_rope_factors(p, err));
    for (int layer = 0; layer < p->config.n_layers; layer++)
        for (int role = SALA_T_FIRST_OF_LAYER; role < SALA_T_COUNT; role++)
            TRY(add_role(p, (sala_tensor_role)role, layer, err));
    TRY(add_role(p, SALA_T_OUT_NORM, -1, err));
    return add_role(p, SALA_T_HEAD, -1, err);
}

/* ---- contents ---- */

static bool is_norm(sala_tensor_role role)
{
    return role == SALA_T_ATTN_NORM || role == SALA_T_FFN_NORM || role == SALA_T_OUT_NORM || role == SALA_T_Q_NORM ||
           role == SALA_T_K_NORM || role == SALA_T_MIX_NORM;
}

/* Norms are near 1, biases near 0; rope factors are what the config says. Vectors are always F32. `signs`: with random
 * signs. The last norm of a tied model has them, because its head would otherwise find the token's own embedding in the
 * residual stream, and the model repeat its last token for ever. */
static sala_status write_vector(const sala_stream_item *item, size_t index, sala_tensor_role role, bool signs,
                                sala_rng *r, sala_gguf_writer *w, sala_error *err)
{
    float *x = malloc((size_t)item->ne[0] * sizeof *x);
    if (!x)
        return sala_fail_memory(err, (uint64_t)item->ne[0] * sizeof *x);
    for (int64_t i = 0; i < item->ne[0]; i++)
        x[i] = item->values ? item->values[i] : (float)((is_norm(role) ? 1 : 0) + 0.05 * sala_rng_normal(r));
    for (int64_t i = 0; signs && i < item->ne[0]; i++)
        x[i] = sala_rng_uniform(r) < 0.5 ? x[i] : -x[i];
    const sala_status st = sala_gguf_write_data(w, index, 0, x, (uint64_t)item->ne[0] * sizeof *x, err);
    free(x);
    return st;
}

/* `count` blocks drawn from the pool; four draws for each call of the generator. */
static void draw_blocks(uint8_t *dst, const pool *p, int64_t count, sala_rng *r)
{
    const uint64_t mask = (uint64_t)p->n - 1;
    const size_t bytes = (size_t)p->block_bytes;
    for (int64_t i = 0; i < count; i += 4) {
        uint64_t bits = sala_rng_next(r);
        for (int64_t k = i; k < count && k < i + 4; k++, bits >>= 16)
            memcpy(dst + (size_t)k * bytes, p->blocks + (size_t)(bits & mask) * bytes, bytes);
    }
}

typedef struct progress {
    sala_progress_fn *fn;
    void *user;
    uint64_t done, all;
} progress;

static sala_status tell(progress *p, const char *what, uint64_t bytes, sala_error *err)
{
    p->done += bytes;
    return p->fn && !p->fn(p->user, what, p->done, p->all) ? sala_fail(err, SALA_E_CANCELLED, "cancelled") : SALA_OK;
}

/* Rows of types without blocks need not divide into those of the pool: the last one of a row is cut. */
static sala_status write_matrix(maker *m, const sala_stream_item *item, size_t index, double dev, sala_rng *r,
                                sala_gguf_writer *w, progress *prog, sala_error *err)
{
    const pool *p = NULL;
    const int64_t cols = item->ne[0], rows = item->ne[1], row_bytes = (int64_t)sala_dtype_bytes(item->dtype, cols);
    TRY(pool_of(m, &p, item->dtype, dev, err));
    const int64_t blocks = (cols + p->block_weights - 1) / p->block_weights;
    /* The chunk has room for a whole block behind its last row. */
    const int64_t most = (CHUNK_BYTES - p->block_bytes) / row_bytes;
    for (int64_t at = 0; at < rows; at += most) {
        const int64_t n = rows - at < most ? rows - at : most;
        if (blocks * p->block_bytes == row_bytes)
            draw_blocks(m->chunk, p, n * blocks, r);
        else
            for (int64_t i = 0; i < n; i++)
                draw_blocks(m->chunk + i * row_bytes, p, blocks, r);
        TRY(sala_gguf_write_data(w, index, (uint64_t)(at * row_bytes), m->chunk, (uint64_t)(n * row_bytes), err));
        TRY(tell(prog, item->name, (uint64_t)(n * row_bytes), err));
    }
    return SALA_OK;
}

static sala_status write_tensors(maker *m, sala_gguf_writer *w, sala_error *err)
{
    const sala_plan *p = m->plan;
    progress prog = {.fn = p->params->progress, .user = p->params->progress_user};
    for (size_t i = 0; i < p->n_items; i++)
        prog.all += sala_stream_out_bytes(&p->items[i]);
    for (size_t i = 0; i < p->n_items; i++) {
        const sala_stream_item *item = &p->items[i];
        sala_tensor_role role = SALA_T_COUNT;
        int layer;
        sala_rng r;
        sala_rng_seed(&r, m->seed * 0xD1B54A32D192ED03u + i);
        (void)sala_tensor_role_of(item->name, false, &role, &layer);
        if (item->n_dims == 1) {
            TRY(write_vector(item, i, role, role == SALA_T_OUT_NORM && p->config.tied_head, &r, w, err));
            TRY(tell(&prog, item->name, sala_stream_out_bytes(item), err));
        } else {
            TRY(write_matrix(m, item, i, deviation(&p->config, role, item->ne[0]), &r, w, &prog, err));
        }
    }
    return tell(&prog, "done", 0, err);
}

/* ---- vocabulary ---- */

static const char chat_template[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_UNUSED = 5, TEXT_SIZE = 24 };

typedef struct vocabulary {
    int32_t n;
    char (*texts)[TEXT_SIZE];
    int32_t *types; /* 0: not taken yet */
    sala_gguf_str *tokens;
} vocabulary;

/* Takes `id` for a control token, or the first free one when it is none or taken already. */
static int32_t take(vocabulary *v, int32_t id, const char *text)
{
    if (id < 0 || id >= v->n || v->types[id] != 0)
        for (id = 0; id < v->n && v->types[id] != 0; id++)
            ;
    if (id == v->n)
        return -1;
    snprintf(v->texts[id], TEXT_SIZE, "%s", text);
    v->types[id] = TYPE_CONTROL;
    return id;
}

/* The characters that byte-level tokenizers write for bytes: printable ones stand for themselves, the others are
 * numbered from 256. */
static void name_bytes(vocabulary *v)
{
    uint32_t next = 256;
    int32_t id = 0;
    for (int byte = 0; byte < 256; byte++, id++) {
        const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        while (v->types[id] != 0)
            id++;
        v->texts[id][sala_utf8_encode(v->texts[id], shown ? (uint32_t)byte : next)] = 0;
        next += !shown;
        v->types[id] = TYPE_NORMAL;
    }
    for (int32_t i = 0; i < v->n; i++) {
        if (v->types[i] == 0) {
            snprintf(v->texts[i], TEXT_SIZE, "<|unused_%" PRId32 "|>", i);
            v->types[i] = TYPE_UNUSED;
        }
    }
}

/* Byte-level BPE without merges. Control tokens stand where the config says; a second end token ends chat turns. */
static void write_byte_keys(const sala_config *c, vocabulary *v, sala_gguf_writer *w)
{
    const int32_t eos = take(v, c->n_eos > 0 ? c->eos[0] : -1, "</s>");
    const int32_t bos = c->bos == eos ? eos : take(v, c->bos, "<s>");
    const int32_t end = take(v, c->n_eos > 1 ? c->eos[1] : -1, "<|im_end|>");
    (void)take(v, -1, "<|im_start|>");
    if (c->pad >= 0 && v->types[c->pad] == 0)
        (void)take(v, c->pad, "<pad>");
    name_bytes(v);
    for (int32_t i = 0; i < v->n; i++)
        v->tokens[i] = (sala_gguf_str){v->texts[i], strlen(v->texts[i])};
    sala_gguf_write_str(w, "tokenizer.ggml.model", "gpt2", 4);
    sala_gguf_write_str(w, "tokenizer.ggml.pre", "gpt-2", 5);
    sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, v->tokens, (uint64_t)v->n);
    sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, v->types, (uint64_t)v->n);
    sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, v->tokens, 0);
    sala_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)bos);
    sala_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    sala_gguf_write_u32(w, "tokenizer.ggml.eot_token_id", (uint32_t)end);
    if (c->pad >= 0)
        sala_gguf_write_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)c->pad);
    sala_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
    sala_gguf_write_str(w, "tokenizer.chat_template", chat_template, sizeof chat_template - 1);
}

static sala_status write_bytes_vocabulary(const sala_plan *p, sala_gguf_writer *w, sala_error *err)
{
    const size_t n = (size_t)p->config.n_vocab;
    if (n < 261) {
        sala_plan_notice(p, "%zu tokens are too few for 256 bytes and 5 control tokens: the new file takes ids only",
                         n);
        sala_gguf_write_str(w, "tokenizer.ggml.model", "none", 4);
        return SALA_OK;
    }
    vocabulary v = {.n = p->config.n_vocab,
                    .texts = calloc(n, sizeof *v.texts),
                    .types = calloc(n, sizeof *v.types),
                    .tokens = malloc(n * sizeof *v.tokens)};
    sala_status st = SALA_OK;
    if (v.texts && v.types && v.tokens)
        write_byte_keys(&p->config, &v, w);
    else
        st = sala_fail_memory(err, n * (TEXT_SIZE + sizeof *v.tokens));
    free(v.texts);
    free(v.types);
    free(v.tokens);
    return st;
}

static sala_status write_gguf_vocabulary(const sala_plan *p, const char *path, sala_gguf_writer *w, sala_error *err)
{
    sala_gguf *g;
    sala_tokenizer *t = NULL;
    const char *s;
    size_t len;
    char *source = NULL;
    TRY(sala_gguf_open_metadata(&g, path, err));
    sala_status st = sala_tokenizer_from_gguf(&t, g, err);
    if (st == SALA_OK && sala_gguf_get_str(g, "tokenizer.chat_template", &s, &len)) {
        source = sala_strndup(s, len);
        if (!source)
            st = sala_fail_memory(err, len);
    }
    if (st == SALA_OK)
        st = sala_plan_write_tokenizer(p, t, source, w, err);
    free(source);
    sala_tokenizer_free(t);
    sala_gguf_close(g);
    return st;
}

/* tokenizer.json, or SentencePiece's own format. */
static sala_status write_file_vocabulary(const sala_plan *p, const char *path, sala_gguf_writer *w, sala_error *err)
{
    uint8_t *data;
    size_t bytes;
    const size_t len = strlen(path);
    const int e = sala_os_read_file(&data, &bytes, path, (size_t)1 << 30);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", path);
    sala_tokenizer *t = NULL;
    sala_status st = len > 5 && strcasecmp(path + len - 5, ".json") == 0
                         ? sala_tokenizer_from_json(&t, (const char *)data, bytes, NULL, 0, err)
                         : sala_tokenizer_from_spm(&t, data, bytes, err);
    if (st == SALA_OK)
        st = sala_plan_write_tokenizer(p, t, NULL, w, err);
    else
        sala_fail_prefix(err, st, "%s", path);
    sala_tokenizer_free(t);
    free(data);
    return st;
}

static sala_status write_vocabulary(const sala_plan *p, const char *source, sala_gguf_writer *w, sala_error *err)
{
    const size_t len = source ? strlen(source) : 0;
    if (!source)
        return write_bytes_vocabulary(p, w, err);
    if (sala_os_is_dir(source))
        return sala_plan_write_text(p, source, w, err);
    if (len > 5 && strcasecmp(source + len - 5, ".gguf") == 0)
        return write_gguf_vocabulary(p, source, w, err);
    return write_file_vocabulary(p, source, w, err);
}

/* ---- the configuration ---- */

/* Kinds of layers keep their shares: layer i of n is what layer i * old / n was. */
static sala_status set_layers(sala_config *c, int32_t n, sala_error *err)
{
    if (n < 1 || n > MAX_LAYERS)
        return sala_fail(err, SALA_E_INVALID, "%" PRId32 " layers are not possible, expected 1 to %d", n, MAX_LAYERS);
    sala_mixer_kind *mixers = malloc((size_t)n * sizeof *mixers);
    if (!mixers)
        return sala_fail_memory(err, (uint64_t)n * sizeof *mixers);
    for (int32_t i = 0; i < n; i++)
        mixers[i] = c->mixers[(int64_t)i * c->n_layers / n];
    if (c->residual_scale != 1) /* depth / sqrt(layers) */
        c->residual_scale *= sqrt((double)c->n_layers / n);
    free(c->mixers);
    c->mixers = mixers;
    c->n_layers = n;
    return SALA_OK;
}

static sala_status set_mixers(sala_config *c, sala_random_mixers mixers, sala_error *err)
{
    const sala_sparse_config sparse = c->sparse.block_size > 0 ? c->sparse : sala_sparse_defaults();
    if (mixers != SALA_RANDOM_AS_GIVEN) {
        for (int32_t i = 0; i < c->n_layers; i++)
            c->mixers[i] = SALA_MIXER_DENSE;
        TRY(sala_config_set_sparse(c, mixers == SALA_RANDOM_SPARSE ? &sparse : NULL, err));
    }
    if (sala_config_count(c, SALA_MIXER_LIGHTNING) == 0) {
        c->lightning = (sala_lightning_config){0};
        if (c->rope.n_rot > c->head_dim)
            c->rope.n_rot = c->head_dim;
    }
    return SALA_OK;
}

static sala_status open_plan(sala_plan *p, const char *config, const sala_random_params *random, sala_error *err)
{
    TRY(sala_os_is_dir(config) ? sala_config_from_dir(&p->config, config, err)
                               : sala_config_from_file(&p->config, config, err));
    p->has_config = true;
    p->family = sala_family_by_name(p->config.architecture);
    if (random->n_layers != 0)
        TRY(set_layers(&p->config, random->n_layers, err));
    TRY(set_mixers(&p->config, random->mixers, err));
    TRY(list_tensors(p, err));
    return sala_plan_types(p, err);
}

static sala_status write_file(sala_plan *p, const char *out, const sala_random_params *random, sala_error *err)
{
    sala_gguf_writer *w;
    maker m = {.plan = p, .seed = random->seed, .chunk = malloc(CHUNK_BYTES)};
    if (!m.chunk)
        return sala_fail_memory(err, CHUNK_BYTES);
    sala_status st = sala_gguf_writer_open(&w, out, err);
    if (st != SALA_OK) {
        free(m.chunk);
        return st;
    }
    st = sala_plan_write_keys(p, w, err);
    if (st == SALA_OK)
        st = write_vocabulary(p, random->tokenizer, w, err);
    if (st == SALA_OK) {
        for (size_t i = 0; i < p->n_items; i++)
            sala_gguf_write_tensor(w, p->items[i].name, p->items[i].dtype, p->items[i].n_dims, p->items[i].ne);
        st = sala_gguf_writer_begin_data(w, err);
    }
    if (st == SALA_OK)
        st = write_tensors(&m, w, err);
    free_pools(&m);
    if (st != SALA_OK) {
        sala_gguf_writer_abort(w);
        return st;
    }
    return sala_gguf_writer_commit(w, err);
}

sala_status sala_quant_random(const char *config, const char *out, const sala_quant_params *params,
                              const sala_random_params *random, sala_quant_result *result, sala_error *err)
{
    static const sala_quant_params defaults;
    static const sala_random_params plain;
    sala_quant_result r = {0};
    sala_plan p = {.params = params ? params : &defaults, .recipe = SALA_RECIPE_F16};
    const char *type = p.params->type;
    const double start = sala_os_seconds();
    if (!random)
        random = &plain;
    if (type && strcasecmp(type, "auto") != 0) {
        p.recipe = sala_recipe_by_name(type);
        if (p.recipe == SALA_RECIPE_NONE)
            return sala_fail(err, SALA_E_INVALID, "type \"%.40s\" is unknown; use one of %s", type,
                             sala_recipe_names());
    }
    sala_status st = open_plan(&p, config, random, err);
    if (st == SALA_OK && !p.params->dry_run)
        st = write_file(&p, out, random, err);
    if (st == SALA_OK && result) {
        sala_plan_result(&p, &r);
        r.in_bytes = 0;
        r.has_tokenizer = true;
        r.seconds = sala_os_seconds() - start;
        *result = r;
    }
    sala_plan_close(&p);
    return st;
}
