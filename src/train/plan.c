#include "train/plan.h"

#include "grad/device.h"
#include "train/tape.h"

#include <inttypes.h>
#include <stdlib.h>

/* Rows of a tile of the feed-forward part, which is wide: the shared cache should hold them. What products leave is
 * less of a step in bf16, so that gradients of weights may be read and written twice as often for it. */
enum { FEED_TILE = 1024, FEED_TILE_BF16 = 512, STATES_EVERY = 4 };

sala_backend_limits sala_train_limits(const sala_run_config *run, int64_t rows)
{
    const sala_config *c = &run->shape;
    const bool lightning = sala_config_count(c, SALA_MIXER_LIGHTNING) > 0;
    const int64_t q = sala_max_i64((int64_t)c->n_heads * c->head_dim,
                                   lightning ? (int64_t)c->lightning.n_heads * c->lightning.head_dim : 0);
    return (sala_backend_limits){
        .rows = rows,
        .cols = sala_max_i64(c->n_embd, sala_max_i64(c->n_ff, q)),
        .tokens = rows,
        .n_heads = lightning && c->lightning.n_heads > c->n_heads ? c->lightning.n_heads : c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .lightning_head_dim = lightning ? c->lightning.head_dim : 0,
        .lightning_heads = lightning ? c->lightning.n_heads : 0,
        .lightning_kv_heads = lightning ? c->lightning.n_kv_heads : 0,
        .block_size = c->sparse.block_size,
        .row_stride = c->sparse.kernel_stride,
        .selected = sala_config_count(c, SALA_MIXER_SPARSE) ? sala_sparse_selected(&c->sparse) : 0,
        .vocab = c->n_vocab};
}

int64_t sala_train_plan_sequences(const sala_train_plan *p, int64_t seq_len)
{
    return sala_max_i64(1, p->rows / seq_len);
}

static int64_t longest_sequence(const sala_run_config *run)
{
    int64_t most = 1;
    for (int i = 0; i < run->n_stages; i++)
        most = sala_max_i64(most, run->stages[i].seq_len);
    return most;
}

/* Most rows that a pass of any stage has: no pass is larger than a rank's share of a step. */
static int64_t rows_of(const sala_run_config *run, int64_t asked, int n_ranks)
{
    int64_t most = 1;
    for (int i = 0; i < run->n_stages; i++) {
        const sala_run_stage *s = &run->stages[i];
        const int64_t share = (s->batch + n_ranks - 1) / n_ranks;
        most = sala_max_i64(most, s->seq_len * sala_max_i64(1, sala_min_i64(share, asked / s->seq_len)));
    }
    return most;
}

/* Of the first rank, whose share is the largest, in the stage that takes most. */
static uint64_t loader_bytes(const sala_train_plan *p, const sala_run_config *run)
{
    uint64_t most = 0;
    for (int i = 0; i < run->n_stages; i++) {
        const sala_run_stage *s = &run->stages[i];
        const sala_loader_params l = {.seq_len = s->seq_len,
                                      .sequences_per_step = s->batch,
                                      .sequences_per_pass = sala_train_plan_sequences(p, s->seq_len),
                                      .n_ranks = p->n_ranks,
                                      .mask_documents = run->mask_documents};
        const uint64_t bytes = sala_loader_bytes(&l);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* ---- bytes ---- */

static void count_bytes(sala_train_plan *p, const sala_run_config *run, const sala_params *params)
{
    const sala_config *c = &run->shape;
    const uint64_t n = params->n_elements, rows = (uint64_t)p->rows;
    p->values = p->grads = n * sizeof(float);
    p->moments = (2 * n / (uint64_t)p->n_ranks + 32 * (uint64_t)params->n_buckets) * sizeof(float);
    p->packs = 0;
    for (int i = 0; i < params->count && run->precision == SALA_PRECISION_BF16; i++) {
        const sala_param *q = &params->items[i];
        const bool multiplied = q->rows && (q->class != SALA_PARAM_EMBED || c->tied_head);
        p->packs += multiplied ? 2 * sizeof(uint16_t) * q->count : 0; /* for products with it and with its transpose */
    }
    sala_tape t;
    const sala_tape_bytes b = sala_tape_lay(&t, p, run, NULL);
    p->tape = b.tape;
    /* Angles, sequences and labels of the pass are scratch too. */
    p->layer_scratch = b.scratch + rows * ((uint64_t)(c->rope.n_rot + 2) * sizeof(float) + sizeof(sala_attn_seq) +
                                           4 * sizeof(int32_t));
    const sala_backend_limits limits = sala_train_limits(run, p->rows);
    p->device_scratch = sala_device_scratch_bytes(&limits, run->precision, p->n_threads);
    p->loader = loader_bytes(p, run);
    p->total =
        p->values + p->grads + p->moments + p->packs + p->tape + p->layer_scratch + p->device_scratch + p->loader;
}

/* ---- floating-point operations ---- */

typedef struct cost {
    double step, again; /* a token: forward and backward; what is made again */
} cost;

static void count_layer(cost *sum, const sala_config *c, int layer, double keys, sala_recompute how)
{
    const sala_layer_flops f = sala_layer_count_flops(c, layer, keys);
    const bool lightning = c->mixers[layer] == SALA_MIXER_LIGHTNING;
    const double gate_up = 4.0 * c->n_embd * c->n_ff, down = gate_up / 2;
    sum->step += 3 * f.linear + (lightning ? 3.0 : 3.5) * f.attention;
    if (how != SALA_RECOMPUTE_NONE)
        sum->again += gate_up;
    if (how == SALA_RECOMPUTE_LAYER || (how == SALA_RECOMPUTE_MIXER && lightning))
        sum->again += f.linear - gate_up - down + f.attention;
    else if (how == SALA_RECOMPUTE_MIXER) /* all but attention and its output projection */
        sum->again += f.linear - gate_up - down - 2.0 * c->n_embd * c->n_heads * c->head_dim;
}

/* A token of sequences of one document each: it sees half of them, on average. */
static cost count_token(const sala_train_plan *p, const sala_run_config *run, int64_t seq_len)
{
    const sala_config *c = &run->shape;
    const double head = 6.0 * c->n_embd * c->n_vocab, keys = (double)seq_len / 2;
    cost sum = {.step = head};
    for (int l = 0; l < c->n_layers; l++)
        count_layer(&sum, c, l, keys, p->layers[l]);
    if (run->mtp_depth > 0) {
        sala_mtp_config m;
        sala_mtp_config_make(&m, c);
        count_layer(&sum, &m.config, 0, keys, p->layers[c->n_layers]);
        sum.step += head + 12.0 * c->n_embd * c->n_embd;
    }
    return sum;
}

/* The mean over the tokens of all stages. */
static void count_flops(sala_train_plan *p, const sala_run_config *run)
{
    double tokens = 0, step = 0, again = 0;
    for (int i = 0; i < run->n_stages; i++) {
        const sala_run_stage *s = &run->stages[i];
        const double n = (double)s->seq_len * (double)s->batch * (double)sala_max_i64(1, s->steps);
        const cost c = count_token(p, run, s->seq_len);
        tokens += n;
        step += n * c.step;
        again += n * c.again;
    }
    p->flops_per_token = tokens > 0 ? step / tokens : 0;
    p->recompute_share = step > 0 ? again / step : 0;
}

/* ---- choice ---- */

static bool fits(const sala_train_plan *p)
{
    return p->limit == 0 || p->total <= p->limit;
}

static void set_layers(sala_train_plan *p, sala_recompute how)
{
    for (int l = 0; l < p->n_layers; l++)
        p->layers[l] = how;
}

/* Layer by layer from the last one, until it fits. */
static void give_up(sala_train_plan *p, sala_recompute how, const sala_run_config *run, const sala_params *params)
{
    for (int l = p->n_layers - 1; l >= 0 && !fits(p); l--) {
        p->layers[l] = how;
        count_bytes(p, run, params);
    }
}

/* "feed:3,mixer:2,layer:1": of the last so many layers. */
static int of_last(const char *words, const char *name, int n_layers)
{
    const char *p = strstr(words, name);
    if (!p)
        return 0;
    p += strlen(name);
    const long n = *p == ':' ? strtol(p + 1, NULL, 10) : n_layers;
    return n < n_layers ? (int)n : n_layers;
}

static bool choose_layers(sala_train_plan *p, const sala_run_config *run, const sala_params *params)
{
    set_layers(p, SALA_RECOMPUTE_NONE);
    if (run->recompute && strcmp(run->recompute, "auto") != 0) {
        const int feed = of_last(run->recompute, "feed", p->n_layers);
        const int layer = of_last(run->recompute, "layer", p->n_layers);
        const int mixer = of_last(run->recompute, "mixer", p->n_layers);
        for (int i = 0; i < p->n_layers; i++) /* from the last */
            p->layers[p->n_layers - 1 - i] = i < layer   ? SALA_RECOMPUTE_LAYER
                                             : i < mixer ? SALA_RECOMPUTE_MIXER
                                             : i < feed  ? SALA_RECOMPUTE_FEED
                                                         : SALA_RECOMPUTE_NONE;
        count_bytes(p, run, params);
        return fits(p);
    }
    count_bytes(p, run, params);
    give_up(p, SALA_RECOMPUTE_FEED, run, params);
    give_up(p, SALA_RECOMPUTE_MIXER, run, params);
    give_up(p, SALA_RECOMPUTE_LAYER, run, params);
    return fits(p);
}

static sala_status choose(sala_train_plan *p, const sala_run_config *run, const sala_params *params, sala_error *err)
{
    const int64_t longest = longest_sequence(run);
    const bool free_rows = run->rows_per_pass <= 0;
    int64_t asked = sala_max_i64(free_rows ? SALA_PASS_ROWS : run->rows_per_pass, longest);
    for (;; asked = longest) {
        p->rows = rows_of(run, asked, p->n_ranks);
        p->tile_rows = sala_min_i64(p->half ? FEED_TILE_BF16 : FEED_TILE, p->rows);
        if (choose_layers(p, run, params))
            return SALA_OK;
        if (!free_rows || asked == longest)
            break;
    }
    char least[32], limit[32];
    return sala_fail(err, SALA_E_MEMORY,
                     "training needs at least %s, %s of it for the parameters, and may take %s: shorter sequences, a "
                     "smaller model, or compute.memory above that",
                     sala_format_bytes(least, p->total),
                     sala_format_bytes((char[32]){0}, p->values + p->grads + p->moments + p->packs),
                     sala_format_bytes(limit, p->limit));
}

sala_status sala_train_plan_make(sala_train_plan *out, const sala_run_config *run, const sala_params *params,
                                 uint64_t limit, int n_threads, int n_ranks, sala_error *err)
{
    sala_train_plan p = {.half = run->precision == SALA_PRECISION_BF16,
                         .states_every = STATES_EVERY,
                         .n_layers = run->shape.n_layers + (run->mtp_depth > 0),
                         .n_ranks = n_ranks,
                         .n_threads = n_threads,
                         .limit = limit,
                         .n_weights = params->n_weights};
    p.layers = calloc((size_t)p.n_layers, sizeof *p.layers);
    if (!p.layers)
        return sala_fail_memory(err, (uint64_t)p.n_layers * sizeof *p.layers);
    const sala_status st = choose(&p, run, params, err);
    if (st != SALA_OK) {
        sala_train_plan_free(&p);
        return st;
    }
    count_flops(&p, run);
    *out = p;
    return SALA_OK;
}

void sala_train_plan_free(sala_train_plan *p)
{
    free(p->layers);
    *p = (sala_train_plan){0};
}

/* ---- words ---- */

static void print_kinds(sala_buf *out, const sala_config *c)
{
    static const sala_mixer_kind kinds[] = {SALA_MIXER_DENSE, SALA_MIXER_SPARSE, SALA_MIXER_LIGHTNING};
    const char *before = " (";
    for (size_t i = 0; i < SALA_ARRAY_LEN(kinds); i++) {
        const int n = sala_config_count(c, kinds[i]);
        if (n) {
            sala_buf_printf(out, "%s%d %s", before, n, sala_mixer_kind_name(kinds[i]));
            before = ", ";
        }
    }
    sala_buf_add_char(out, ')');
}

/* In MiB, with a decimal where there are few. */
static const char *mib(char dst[24], uint64_t bytes)
{
    const double x = (double)bytes / (1 << 20);
    snprintf(dst, 24, "%.*f", x < 9.95, x);
    return dst;
}

void sala_train_plan_print(sala_buf *out, const sala_train_plan *p, const sala_run_config *run, const char *products)
{
    const sala_config *c = &run->shape;
    char number[24], scratch[24], data[24];
    sala_buf_printf(out, "model      %.2f M weights, %d layer%s", (double)p->n_weights / 1e6, c->n_layers,
                    c->n_layers == 1 ? "" : "s");
    print_kinds(out, c);
    sala_buf_printf(out, ", vocabulary %d, %s%s\n", c->n_vocab, c->tied_head ? "tied" : "a head of its own",
                    run->mtp_depth > 0 ? ", one block for the token after the next" : "");
    sala_buf_printf(out, "precision  %s%s%s\n", p->half ? "bf16 products, f32 masters" : "f32", products ? "; " : "",
                    products ? products : "");
    for (int i = 0; i < run->n_stages; i++) {
        const sala_run_stage *s = &run->stages[i];
        const int64_t share = (s->batch + p->n_ranks - 1) / p->n_ranks;
        const int64_t at_once = sala_min_i64(share, sala_train_plan_sequences(p, s->seq_len));
        const int64_t passes = (share + at_once - 1) / at_once;
        sala_buf_printf(out, "step       %" PRId64 " x %" PRId64 " tokens in %" PRId64 " pass%s of %" PRId64 " rows",
                        s->batch, s->seq_len, passes, passes == 1 ? "" : "es", at_once * s->seq_len);
        if (p->n_ranks > 1)
            sala_buf_printf(out, " on each of %d processes", p->n_ranks);
        if (run->n_stages > 1)
            sala_buf_printf(out, " (%s)", s->name ? s->name : "stage");
        if (i + 1 == run->n_stages)
            sala_buf_printf(out, "; %.*f MFLOP a token", p->flops_per_token < 9.95e6, p->flops_per_token / 1e6);
        sala_buf_add_char(out, '\n');
    }
    int n_again[SALA_RECOMPUTE_LAYER + 1] = {0};
    for (int l = 0; l < p->n_layers; l++)
        n_again[p->layers[l]]++;
    sala_buf_printf(out, "memory     values %s MiB", mib(number, p->values));
    sala_buf_printf(out, ", gradients %s", mib(number, p->grads));
    sala_buf_printf(out, ", moments %s", mib(number, p->moments));
    if (p->packs)
        sala_buf_printf(out, ", packs %s", mib(number, p->packs));
    sala_buf_printf(out, ", tape %s", mib(number, p->tape));
    if (n_again[SALA_RECOMPUTE_NONE] < p->n_layers) {
        static const char *const parts[] = {[SALA_RECOMPUTE_FEED] = "feed-forward part",
                                            [SALA_RECOMPUTE_MIXER] = "all but attention",
                                            [SALA_RECOMPUTE_LAYER] = "all"};
        const char *before = " (made again: ";
        for (int how = SALA_RECOMPUTE_FEED; how <= SALA_RECOMPUTE_LAYER; how++) {
            if (n_again[how] == 0)
                continue;
            sala_buf_printf(out, "%s%s of %d layers", before, parts[how], n_again[how]);
            before = ", ";
        }
        sala_buf_printf(out, "; %.1f %% more work)", 100 * p->recompute_share);
    }
    sala_buf_printf(out, ", scratch %s, data %s\n           = ", mib(scratch, p->layer_scratch + p->device_scratch),
                    mib(data, p->loader));
    char total[32], limit[32];
    sala_buf_printf(out, "%s", sala_format_bytes(total, p->total));
    if (p->limit)
        sala_buf_printf(out, " of %s allowed", sala_format_bytes(limit, p->limit));
    sala_buf_add_char(out, '\n');
}
