#include "train/tape.h"

/* ---- layout ---- */

typedef struct carver {
    uint8_t *block; /* NULL: only counting */
    uint64_t at;
} carver;

static void *carve(carver *cv, uint64_t bytes)
{
    void *p = cv->block && bytes ? cv->block + cv->at : NULL;
    cv->at += (bytes + 63) / 64 * 64;
    return p;
}

static sala_act *carve_rows(carver *cv, int64_t rows, int64_t cols)
{
    return carve(cv, (uint64_t)rows * (uint64_t)cols * sizeof(sala_act));
}

/* The widest of all layers. */
typedef struct widths {
    int64_t q, kv;
    bool gate;
} widths;

static void widen(widths *w, const sala_config *c, int layer)
{
    const bool lightning = c->mixers[layer] == SALA_MIXER_LIGHTNING;
    const int64_t e = lightning ? c->lightning.head_dim : c->head_dim;
    w->q = sala_max_i64(w->q, e * (lightning ? c->lightning.n_heads : c->n_heads));
    w->kv = sala_max_i64(w->kv, e * (lightning ? c->lightning.n_kv_heads : c->n_kv_heads));
    w->gate = w->gate || (lightning ? c->lightning.gate : c->attn_gate);
}

/* What comes of a mixer. */
static void carve_mixed(carver *cv, sala_layer_tape *slot, const sala_tape_row *row, uint64_t rows)
{
    slot->h_mid = carve(cv, rows * row->h_mid);
    slot->core = carve(cv, rows * row->core);
}

/* What it makes on the way; layers that run it again share both. */
static void carve_mixer(carver *cv, sala_layer_tape *slot, const sala_tape_row *row, uint64_t rows)
{
    slot->q_raw = carve(cv, rows * row->q_raw);
    slot->k_raw = carve(cv, rows * row->k_raw);
    slot->q = carve(cv, rows * row->q);
    slot->k = carve(cv, rows * row->k);
    slot->v = carve(cv, rows * row->v);
    slot->mix_gate = carve(cv, rows * row->mix_gate);
    slot->states = carve(cv, rows * row->states);
}

static void carve_scratch(carver *cv, sala_tape *t, const sala_train_plan *plan, const sala_config *c, const widths *w,
                          bool mtp)
{
    sala_layer_grads *g = &t->grads;
    sala_layer_buffers *b = &t->buffers;
    const int64_t rows = plan->rows, d = c->n_embd;
    *g = (sala_layer_grads){.tile_rows = plan->tile_rows};
    *b = (sala_layer_buffers){0};
    g->d_h = carve_rows(cv, rows, d);
    g->normed = b->normed = carve_rows(cv, rows, d);
    g->d_normed = carve_rows(cv, rows, d);
    b->out = carve_rows(cv, rows, d);
    g->q = b->q = carve_rows(cv, rows, w->q);
    g->k = b->k = carve_rows(cv, rows, w->kv);
    g->dq = carve_rows(cv, rows, w->q);
    g->dk = carve_rows(cv, rows, w->kv);
    g->dv = carve_rows(cv, rows, w->kv);
    g->mixed = b->mixed = carve_rows(cv, rows, w->q);
    g->d_mixed = carve_rows(cv, rows, w->q);
    if (w->gate)
        g->d_mix_gate = carve_rows(cv, rows, w->q);
    g->d_gate = carve_rows(cv, plan->tile_rows, c->n_ff);
    g->d_up = carve_rows(cv, plan->tile_rows, c->n_ff);
    g->mid = b->mid = carve_rows(cv, plan->tile_rows, c->n_ff);
    bool again = plan->half;
    for (int l = 0; l < plan->n_layers; l++)
        again = again || plan->layers[l] != SALA_RECOMPUTE_NONE;
    if (again) {
        b->gate = carve_rows(cv, plan->tile_rows, c->n_ff);
        b->up = carve_rows(cv, plan->tile_rows, c->n_ff);
    }
    if (plan->half) { /* slots of 16 bits are filled from, and read into, rows */
        b->v = carve_rows(cv, rows, w->kv);
        b->core = carve_rows(cv, rows, w->q);
        if (w->gate)
            b->mix_gate = carve_rows(cv, rows, w->q);
    }
    t->x_final = g->normed;
    t->d_final = g->d_normed;
    t->h_mtp = t->e_mtp = NULL;
    if (mtp) { /* its layer runs between the head's two ends */
        t->x_final = carve_rows(cv, rows, d);
        t->d_final = carve_rows(cv, rows, d);
        t->h_mtp = carve_rows(cv, rows, d);
        t->e_mtp = carve_rows(cv, rows, d);
    }
}

sala_tape_bytes sala_tape_lay(sala_tape *t, const sala_train_plan *plan, const sala_run_config *run, void *block)
{
    sala_mtp_config mtp;
    sala_mtp_config_make(&mtp, &run->shape);
    const uint64_t rows = (uint64_t)plan->rows;
    carver cv = {.block = block};
    widths w = {0};
    /* One set of slots for each kind of mixer that is made again: only one layer is at a time. They lie over one
     * another, each from the same place on. */
    uint64_t shared_begin = 0, shared_end = 0;
    t->plan = plan;
    for (int pass = 0; pass < 2; pass++) { /* first what layers have for themselves, then what they share */
        if (pass == 1)
            shared_begin = shared_end = cv.at;
        for (int l = 0; l < plan->n_layers; l++) {
            const bool extra = l >= run->shape.n_layers;
            const sala_config *c = extra ? &mtp.config : &run->shape;
            const int at = extra ? 0 : l;
            const sala_tape_row row = sala_layer_tape_row(c, c->mixers[at], plan->half, plan->states_every);
            const bool again = plan->layers[l] >= SALA_RECOMPUTE_MIXER;
            const bool mixed =
                !again || (plan->layers[l] == SALA_RECOMPUTE_MIXER && c->mixers[at] != SALA_MIXER_LIGHTNING);
            sala_layer_tape none, *slot = block ? &t->layers[l] : &none;
            if (pass == 0) {
                widen(&w, c, at);
                *slot = (sala_layer_tape){.half = plan->half, .states_every = plan->states_every};
                slot->h_in = carve(&cv, rows * row.h_in);
                slot->lse = carve(&cv, rows * row.lse);
                slot->selection = carve(&cv, rows * row.selection);
                slot->mixed = mixed;
                if (mixed)
                    carve_mixed(&cv, slot, &row, rows);
                if (!again)
                    carve_mixer(&cv, slot, &row, rows);
                if (plan->layers[l] == SALA_RECOMPUTE_NONE) {
                    slot->gate = carve(&cv, rows * row.gate);
                    slot->up = carve(&cv, rows * row.up);
                }
            } else if (again) {
                cv.at = shared_begin;
                if (!mixed)
                    carve_mixed(&cv, slot, &row, rows);
                carve_mixer(&cv, slot, &row, rows);
                shared_end = cv.at > shared_end ? cv.at : shared_end;
            }
        }
    }
    cv.at = shared_end;
    t->h_last = carve(&cv, rows * (uint64_t)run->shape.n_embd * sizeof(sala_act));
    const uint64_t tape = cv.at;
    carve_scratch(&cv, t, plan, &run->shape, &w, run->mtp_depth > 0);
    return (sala_tape_bytes){tape, cv.at - tape};
}

/* ---- passes ---- */

static void *or_else(void *slot, void *scratch)
{
    return slot ? slot : scratch;
}

/* Where a layer's operations write: into its slots, or into rows of which slots are made. */
static sala_layer_buffers buffers_of(const sala_tape *t, const sala_layer_tape *slot)
{
    sala_layer_buffers b = t->buffers;
    b.lse = slot->lse;
    b.states = slot->states;
    b.states_every = slot->states_every;
    b.selection = slot->selection;
    if (slot->half) {
        b.q_raw = slot->q_raw ? t->grads.dq : NULL;
        b.k_raw = slot->k_raw ? t->grads.dk : NULL;
        return b;
    }
    b.q_raw = slot->q_raw;
    b.k_raw = slot->k_raw;
    b.q = or_else(slot->q, b.q);
    b.k = or_else(slot->k, b.k);
    b.v = slot->v;
    b.core = slot->core;
    b.mix_gate = slot->mix_gate;
    return b;
}

static void mix(const sala_tape *t, const sala_pass *p, int layer, const sala_layer_buffers *b, bool again)
{
    const sala_layer_tape *slot = &t->layers[p->first + layer];
    const sala_mixer_call call = {
        p->net, layer, b, p->seqs, p->n_seqs, p->n_rows, p->state, again, again && slot->mixed};
    sala_layer_mix(&call, slot, slot->h_in, slot->h_mid);
}

static void *rows_from(const sala_layer_tape *slot, void *p, int64_t at)
{
    return p ? (uint8_t *)p + (size_t)at * (slot->half ? sizeof(uint16_t) : sizeof(sala_act)) : NULL;
}

static void feed(const sala_tape *t, const sala_pass *p, int layer, const sala_layer_buffers *buffers, sala_act *h_out)
{
    const sala_config *c = p->net->config;
    const sala_layer_tape *slot = &t->layers[p->first + layer];
    const int64_t tile = t->plan->tile_rows;
    for (int64_t row = 0; row < p->n_rows; row += tile) {
        sala_layer_tape part = *slot;
        sala_layer_buffers b = *buffers;
        part.gate = rows_from(slot, slot->gate, row * c->n_ff);
        part.up = rows_from(slot, slot->up, row * c->n_ff);
        if (!slot->half && slot->gate) {
            b.gate = part.gate;
            b.up = part.up;
        }
        sala_layer_feed(p->net, layer, &b, &part, slot->h_mid + row * c->n_embd, h_out + row * c->n_embd,
                        sala_min_i64(tile, p->n_rows - row));
    }
}

void sala_tape_forward(const sala_tape *t, const sala_pass *p, sala_act *h_out)
{
    const int n = p->net->config->n_layers;
    for (int l = 0; l < n; l++) {
        const sala_layer_buffers b = buffers_of(t, &t->layers[p->first + l]);
        mix(t, p, l, &b, false);
        feed(t, p, l, &b, l + 1 < n ? t->layers[p->first + l + 1].h_in : h_out);
    }
}

void sala_tape_backward(const sala_tape *t, const sala_pass *p, void (*done)(void *user, int slot), void *user)
{
    for (int l = p->net->config->n_layers - 1; l >= 0; l--) {
        const sala_layer_tape *slot = &t->layers[p->first + l];
        const sala_layer_buffers b = buffers_of(t, slot);
        const sala_mixer_call call = {p->net, l, &b, p->seqs, p->n_seqs, p->n_rows, p->state, false, false};
        if (t->plan->layers[p->first + l] >= SALA_RECOMPUTE_MIXER)
            mix(t, p, l, &b, true);
        sala_layer_feed_back(p->net, l, &b, slot, &t->grads, p->n_rows);
        sala_layer_mix_back(&call, slot, &t->grads);
        if (done)
            done(user, p->first + l);
    }
}
