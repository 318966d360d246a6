/* Cases of `sala bench --ops`: cores of mixers as training runs them, forward and backward, over the rows of one
 * document. Operations are counted as the definition has them: two products of a pair of tokens forward, five backward;
 * nothing is counted for scores that are made again. */
#include "bench_ops_parts.h"

#include "grad/device.h"

#include <math.h>

enum { TRAIN_HEADS = 8, TRAIN_KV_HEADS = 2, TRAIN_DIM = 64, TRAIN_ROWS = 4096, TRAIN_MOST = 32, STATES_EVERY = 4 };

typedef struct trainer {
    ops_bench *b;
    sala_backend *be;
    const sala_grad_ops *grad;
    sala_attn_seq seq;
    sala_selection selection;
    bool sparse, back, bf16;
    float *q, *d_out, *out, *dq, *k, *v, *dk, *dv, *lse, *states;
    float decay[TRAIN_HEADS * (SALA_LIGHTNING_CHUNK + 1)];
} trainer;

static const sala_backend_limits most = {.rows = TRAIN_ROWS,
                                         .cols = TRAIN_DIM,
                                         .tokens = TRAIN_ROWS,
                                         .n_heads = TRAIN_HEADS,
                                         .n_kv_heads = TRAIN_KV_HEADS,
                                         .head_dim = TRAIN_DIM,
                                         .selected = TRAIN_MOST,
                                         .lightning_head_dim = TRAIN_DIM,
                                         .lightning_heads = TRAIN_HEADS,
                                         .lightning_kv_heads = TRAIN_KV_HEADS,
                                         .n_seqs = 1};

static void close_trainer(trainer *t)
{
    if (t && t->be)
        t->be->ops->close(t->be);
    free(t);
}

/* The first block, the last ones up to the row's own, and others by turns. */
static void select_some(int32_t *list)
{
    for (int64_t i = 0; i < (int64_t)TRAIN_ROWS * TRAIN_KV_HEADS; i++, list += 1 + TRAIN_MOST) {
        const int own = (int)(i / TRAIN_KV_HEADS / SALA_KV_BLOCK);
        list[0] = own < TRAIN_MOST ? -1 : TRAIN_MOST;
        for (int j = 0; j < TRAIN_MOST / 2 && list[0] > 0; j++) {
            list[1 + j] = j * (own - TRAIN_MOST / 2) / (TRAIN_MOST / 2);
            list[1 + TRAIN_MOST / 2 + j] = own - TRAIN_MOST / 2 + 1 + j;
        }
    }
}

static trainer *open_trainer(ops_bench *b, bool bf16, bool back)
{
    float *at = (float *)(void *)ops_arena(b);
    trainer *t = at ? ops_need(b, sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->b = b;
    t->bf16 = bf16;
    t->back = back;
    const sala_device_params params = {.pool = b->pool,
                                       .kernels = b->o->kernels,
                                       .precision = bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32,
                                       .plain_products = true};
    sala_error err = {0};
    if (sala_device_open(&t->be, &params, &err) != SALA_OK || t->be->ops->reserve(t->be, &most, &err) != SALA_OK) {
        b->rc = cli_fail_error(&err);
        close_trainer(t);
        return NULL;
    }
    t->grad = sala_device_grad_ops(t->be);
    const size_t wide = (size_t)TRAIN_ROWS * TRAIN_HEADS * TRAIN_DIM;
    const size_t narrow = (size_t)TRAIN_ROWS * TRAIN_KV_HEADS * TRAIN_DIM;
    float **const rows[] = {&t->q, &t->d_out, &t->out, &t->dq, &t->k, &t->v, &t->dk, &t->dv};
    for (size_t i = 0; i < SALA_ARRAY_LEN(rows); i++) {
        *rows[i] = at;
        ops_random(at, i < 4 ? wide : narrow);
        at += i < 4 ? wide : narrow;
    }
    t->lse = at;
    at += (size_t)TRAIN_ROWS * TRAIN_HEADS;
    t->states = at;
    at += (size_t)TRAIN_ROWS / SALA_LIGHTNING_CHUNK * TRAIN_HEADS * TRAIN_DIM * TRAIN_DIM;
    t->selection = (sala_selection){(int32_t *)(void *)at, TRAIN_MOST, SALA_KV_BLOCK};
    select_some(t->selection.list);
    t->seq = (sala_attn_seq){.n_rows = TRAIN_ROWS};
    for (int h = 0; h < TRAIN_HEADS; h++)
        for (int i = 0; i <= SALA_LIGHTNING_CHUNK; i++)
            t->decay[h * (SALA_LIGHTNING_CHUNK + 1) + i] = expf(-0.01f * (float)((h + 1) * i));
    return t;
}

static void attend(void *user)
{
    trainer *t = user;
    const sala_attn_back_args args = {.fwd = {.seqs = &t->seq,
                                              .n_seqs = 1,
                                              .n_rows = TRAIN_ROWS,
                                              .kv = {SALA_F32, TRAIN_KV_HEADS, TRAIN_DIM, 0},
                                              .n_heads = TRAIN_HEADS,
                                              .scale = 0.125f,
                                              .selection = t->sparse ? &t->selection : NULL,
                                              .q = t->q,
                                              .q_stride = TRAIN_HEADS * TRAIN_DIM,
                                              .out = t->out,
                                              .out_stride = TRAIN_HEADS * TRAIN_DIM,
                                              .k = t->k,
                                              .v = t->v,
                                              .kv_stride = TRAIN_KV_HEADS * TRAIN_DIM,
                                              .lse = t->lse},
                                      .k = t->k,
                                      .v = t->v,
                                      .kv_stride = TRAIN_KV_HEADS * TRAIN_DIM,
                                      .lse = t->lse,
                                      .d_out = t->d_out,
                                      .dq = t->dq,
                                      .dk = t->dk,
                                      .dv = t->dv};
    if (t->back)
        t->grad->attention_back(t->be, &args);
    else
        t->be->ops->attention(t->be, &args.fwd);
}

static void lightning(void *user)
{
    trainer *t = user;
    const sala_lightning_back_args args = {.fwd = {.seqs = &t->seq,
                                                   .n_seqs = 1,
                                                   .n_rows = TRAIN_ROWS,
                                                   .n_heads = TRAIN_HEADS,
                                                   .n_kv_heads = TRAIN_KV_HEADS,
                                                   .head_dim = TRAIN_DIM,
                                                   .scale = 0.125f,
                                                   .decay = t->decay,
                                                   .q = t->q,
                                                   .k = t->k,
                                                   .v = t->v,
                                                   .q_stride = TRAIN_HEADS * TRAIN_DIM,
                                                   .kv_stride = TRAIN_KV_HEADS * TRAIN_DIM,
                                                   .out = t->out,
                                                   .out_stride = TRAIN_HEADS * TRAIN_DIM,
                                                   .states = t->states,
                                                   .states_every = STATES_EVERY},
                                           .states = t->states,
                                           .states_every = STATES_EVERY,
                                           .d_out = t->d_out,
                                           .dq = t->dq,
                                           .dk = t->dk,
                                           .dv = t->dv};
    if (t->back)
        t->grad->lightning_back(t->be, &args);
    else
        t->be->ops->lightning(t->be, &args.fwd);
}

static void core_case(ops_bench *b, const char *name, bool sparse, bool linear, bool back, bool bf16)
{
    if (!ops_begin(b, back ? "training, backward" : "training, forward", name, "%s, head %d, group %d, %d rows",
                   bf16 ? "bf16" : "f32", TRAIN_DIM, TRAIN_HEADS / TRAIN_KV_HEADS, TRAIN_ROWS))
        return;
    trainer *t = open_trainer(b, bf16, back);
    if (!t)
        return;
    t->sparse = sparse;
    if (back) { /* outputs, log-sums and states are those of a forward pass */
        t->back = false;
        (linear ? lightning : attend)(t);
        t->back = true;
    }
    const double d = TRAIN_DIM, chunk = SALA_LIGHTNING_CHUNK, seen = (double)TRAIN_MOST * SALA_KV_BLOCK;
    /* keys of a row on average; of lightning attention the state stands for those before the chunk */
    const double rows = TRAIN_ROWS, pairs = !sparse ? rows / 2 : seen * (1 - seen / (2 * rows));
    const double token =
        linear ? (back ? 2 * d * (5 * chunk / 2 + 4 * d) : 2 * d * (chunk + 2 * d)) : (back ? 10 : 4) * d * pairs;
    ops_time(b, linear ? lightning : attend, t,
             (ops_work){.operations = token * rows * TRAIN_HEADS, .operations_limit = bf16 ? OPS_BF16 : OPS_F32});
    close_trainer(t);
}

void ops_train_cases(ops_bench *b)
{
    for (int back = 0; back < 2; back++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            if (bf16 && !b->counting && !b->loops.bf16.run)
                continue;
            core_case(b, "attention", false, false, back, bf16);
            core_case(b, "selected blocks", true, false, back, bf16);
            if (!bf16)
                core_case(b, "lightning", false, true, back, false);
        }
}
