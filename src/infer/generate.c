/* The loop from prompt to text. */
#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/stops.h"
#include "os/os.h"

#include <stdlib.h>

typedef struct loop {
    sala_session *session;
    sala_sampler *sampler;
    const sala_generate_params *p;
    sala_generate_result *result;
    sala_detokenizer *text;
    sala_stops stops;
    sala_buf piece;
    float *logits;
    sala_candidate *top;
    sala_error *err;
} loop;

/* Shows what may be shown. Returns false when the caller wants no more. */
static bool show(loop *g, size_t n, int32_t token, const sala_candidate *chosen)
{
    bool more = true;
    if (g->p->on_text && (n > 0 || token >= 0))
        more = g->p->on_text(g->p->user, n ? g->stops.held.data : "", n, token, chosen, g->top, g->p->n_top);
    if (n)
        sala_stops_release(&g->stops, n);
    return more;
}

/* One drawn token that is no end token: its text goes out; sets the reason when this was the last one. */
static sala_status take_token(loop *g, int32_t token, const sala_candidate *chosen)
{
    sala_buf_clear(&g->piece);
    const char *spelling;
    size_t bytes;
    /* Embeddings may be padded beyond the vocabulary; those rows have no text, and to draw one is no failure. */
    if (sala_tokenizer_piece(g->session->model->tokenizer, token, &spelling, &bytes)) {
        const sala_status st = sala_detokenizer_push(g->text, token, &g->piece, g->err);
        if (st != SALA_OK)
            return st;
    }
    size_t safe = 0;
    const bool stopped = sala_stops_push(&g->stops, g->piece.data ? g->piece.data : "", g->piece.len, &safe);
    if (g->piece.failed || g->stops.held.failed)
        return sala_fail_memory(g->err, g->stops.held.len);
    const bool more = show(g, safe, token, chosen);
    if (stopped) {
        sala_buf_clear(&g->stops.held);
        g->result->reason = SALA_STOP_STRING;
    } else if (!more) {
        g->result->reason = SALA_STOP_CALLER;
    }
    return SALA_OK;
}

static sala_status run(loop *g, const int32_t *prompt, size_t n_prompt)
{
    sala_session *s = g->session;
    const sala_generate_params *p = g->p;
    sala_generate_result *r = g->result;
    const double t0 = sala_os_seconds();
    const bool want = p->max_new_tokens != 0;
    if (n_prompt == 0 && want)
        return sala_fail(g->err, SALA_E_INVALID, "the prompt is empty: at least one token is needed to continue from");
    sala_status st =
        sala_prefill(s, prompt, n_prompt, p->chunk, want ? g->logits : NULL, p->on_prefill, p->prefill_user, g->err);
    if (st != SALA_OK)
        return st;
    for (size_t i = 0; i < n_prompt; i++)
        sala_sampler_accept(g->sampler, prompt[i]);
    r->n_prompt = (int64_t)n_prompt;
    const double t1 = sala_os_seconds();
    r->prefill_seconds = t1 - t0;
    if (!want)
        r->reason = SALA_STOP_LENGTH;

    while (r->reason == SALA_STOP_NONE) {
        int32_t token;
        sala_candidate chosen;
        st = sala_sample(g->sampler, g->logits, &token, p->n_top > 0 ? &chosen : NULL, g->top, p->n_top, g->err);
        if (st != SALA_OK)
            return st;
        r->n_new++;
        if (r->n_new == 1)
            r->first_token_seconds = sala_os_seconds() - t0;
        if (!p->ignore_eos && sala_model_is_end(s->model, token)) {
            r->reason = SALA_STOP_END_TOKEN;
            break;
        }
        st = take_token(g, token, p->n_top > 0 ? &chosen : NULL);
        if (st != SALA_OK)
            return st;
        if (r->reason != SALA_STOP_NONE)
            break;
        if (p->max_new_tokens > 0 && r->n_new >= p->max_new_tokens) {
            r->reason = SALA_STOP_LENGTH;
        } else if (s->line.state.length >= s->max_tokens) {
            r->reason = SALA_STOP_CONTEXT;
        } else {
            const sala_row row = {token, 0, true};
            st = sala_forward(s->model, &s, 1, &row, 1, g->logits, g->err);
            if (st != SALA_OK)
                return st;
        }
    }
    r->decode_seconds = sala_os_seconds() - t1;
    /* What was held back because it might have become a stop string is ordinary text now. */
    if (r->reason != SALA_STOP_STRING) {
        sala_buf_clear(&g->piece);
        sala_detokenizer_flush(g->text, &g->piece);
        size_t safe = 0;
        if (sala_stops_push(&g->stops, g->piece.data ? g->piece.data : "", g->piece.len, &safe))
            r->reason = SALA_STOP_STRING;
        else
            safe = g->stops.held.len;
        if (g->piece.failed || g->stops.held.failed)
            return sala_fail_memory(g->err, g->stops.held.len);
        show(g, safe, -1, NULL);
    }
    return SALA_OK;
}

sala_status sala_generate(sala_session *session, sala_sampler *sampler, const int32_t *prompt, size_t n_prompt,
                          const sala_generate_params *params, sala_generate_result *result, sala_error *err)
{
    static const sala_generate_params defaults = {.max_new_tokens = -1};
    sala_generate_result local;
    loop g = {.session = session,
              .sampler = sampler,
              .p = params ? params : &defaults,
              .result = result ? result : &local,
              .err = err};
    *g.result = (sala_generate_result){0};
    g.stops.strings = g.p->stop;
    g.stops.count = g.p->n_stop;
    const int32_t n_vocab = session->model->config->n_vocab;
    sala_status st = sala_model_has_text(session->model, err);
    if (st != SALA_OK)
        return st;
    if (g.p->n_top < 0 || g.p->n_top > n_vocab)
        return sala_fail(err, SALA_E_INVALID, "%d candidates asked for; the model has %d tokens", g.p->n_top, n_vocab);
    g.logits = malloc((size_t)n_vocab * sizeof *g.logits);
    g.top = calloc((size_t)g.p->n_top + 1, sizeof *g.top);
    if (!g.logits || !g.top)
        st = sala_fail_memory(err, (uint64_t)n_vocab * sizeof *g.logits);
    if (st == SALA_OK)
        st = sala_detokenizer_open(&g.text, session->model->tokenizer, !g.p->show_special, err);
    if (st == SALA_OK)
        st = run(&g, prompt, n_prompt);
    sala_detokenizer_close(g.text);
    sala_buf_free(&g.stops.held);
    sala_buf_free(&g.piece);
    free(g.logits);
    free(g.top);
    return st;
}
