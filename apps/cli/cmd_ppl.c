/* ppl: perplexity over windows that do not overlap, counted as llama.cpp counts it: in a window of N tokens the logits
 * at positions N/2 .. N-2 predict the tokens behind them. With --all, positions 0 .. N-2. */
#include "cli.h"

#include "input.h"
#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <math.h>
#include <stdlib.h>

typedef struct ppl_run {
    sala_model *model;
    sala_session *session;
    sala_row *rows;
    float *logits;
    size_t n_vocab, chunk;
    double sum, sum_squares; /* of negative log-likelihoods */
    uint64_t count;
} ppl_run;

static double nll_of(const float *logits, size_t n, int32_t token)
{
    float most = logits[0];
    for (size_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)expf(logits[i] - most);
    return log(sum) + (double)most - (double)logits[token];
}

/* One window; ids[0] may differ from the text's token (BOS). */
static int run_window(ppl_run *r, const int32_t *ids, size_t n, size_t first)
{
    sala_error err = {0};
    if (sala_session_rollback(r->session, 0, &err) != SALA_OK)
        return cli_fail_error(&err);
    for (size_t at = 0; at + 1 < n; at += r->chunk) { /* the last token predicts nothing that is counted */
        const size_t m = n - 1 - at < r->chunk ? n - 1 - at : r->chunk;
        for (size_t i = 0; i < m; i++)
            r->rows[i] = (sala_row){.token = ids[at + i], .session = 0, .want = at + i >= first};
        if (sala_forward(r->model, &r->session, 1, r->rows, (int)m, r->logits, &err) != SALA_OK)
            return cli_fail_error(&err);
        const float *row = r->logits;
        for (size_t i = 0; i < m; i++) {
            if (at + i < first)
                continue;
            const double nll = nll_of(row, r->n_vocab, ids[at + i + 1]);
            r->sum += nll;
            r->sum_squares += nll * nll;
            r->count++;
            row += r->n_vocab;
        }
    }
    return 0;
}

static int report(const cli_options *o, const ppl_run *r, size_t n_tokens, size_t windows, double seconds)
{
    const double mean = r->sum / (double)r->count;
    const double ppl = exp(mean);
    double variance = r->sum_squares / (double)r->count - mean * mean;
    variance = variance > 0 && r->count > 1 ? variance / (double)(r->count - 1) : 0;
    if (!isfinite(ppl))
        return cli_fail("the perplexity is not a finite number");
    if (o->json)
        return cli_print_json(json_pack("{s:f,s:f,s:f,s:I,s:I,s:I,s:I,s:f}", "perplexity", ppl, "standard_error",
                                        ppl * sqrt(variance), "nll", mean, "tokens_counted", (json_int_t)r->count,
                                        "tokens", (json_int_t)n_tokens, "windows", (json_int_t)windows, "ctx",
                                        (json_int_t)o->ctx, "seconds", seconds));
    printf("perplexity %.4f +/- %.4f  (%llu tokens counted in %zu windows of %lld)\n", ppl, ppl * sqrt(variance),
           (unsigned long long)r->count, windows, (long long)o->ctx);
    return cli_flush(CLI_DONE);
}

/* BOS, if the tokenizer adds one by itself: what it adds to no text at all. */
static int32_t added_bos(const sala_model *model)
{
    int32_t *ids = NULL;
    size_t n = 0;
    if (sala_tokenize(model, &ids, &n, "", 0, SALA_TOK_ADD_SPECIAL, NULL) != SALA_OK)
        return -1;
    /* A tokenizer that adds only EOS shows it behind text, never before. */
    int32_t bos = n > 0 ? ids[0] : -1;
    sala_free(ids);
    if (bos >= 0 && sala_tokenize(model, &ids, &n, "a", 1, SALA_TOK_ADD_SPECIAL, NULL) == SALA_OK) {
        if (n == 0 || ids[0] != bos)
            bos = -1;
        sala_free(ids);
    }
    return bos;
}

static int read_tokens(int32_t **ids, size_t *n, const sala_model *model, const cli_options *o)
{
    const char *const *rest;
    const int n_rest = cli_rest_args(o, &rest);
    if (n_rest > 1)
        return cli_misuse("too many arguments: '%s'", rest[1]);
    char *text = NULL;
    size_t bytes = 0;
    sala_error err = {0};
    const int rc = cli_read(&text, &bytes, n_rest ? rest[0] : o->file ? o->file : "-");
    if (rc)
        return rc;
    const sala_status st = sala_tokenize(model, ids, n, text, bytes, SALA_TOK_ADD_SPECIAL, &err);
    free(text);
    return st == SALA_OK ? 0 : cli_fail_error(&err);
}

int cli_cmd_ppl(const cli_options *o)
{
    ppl_run r = {.chunk = (size_t)o->chunk};
    const size_t ctx = (size_t)o->ctx;
    int32_t *ids = NULL;
    size_t n = 0;
    sala_error err = {0};
    int rc = cli_model_open(&r.model, o);
    if (rc == 0)
        rc = read_tokens(&ids, &n, r.model, o);
    if (rc == 0)
        rc = cli_check_context(r.model, o, o->ctx);
    if (rc)
        goto out;
    const size_t windows = n / ctx;
    if (windows == 0) {
        rc = cli_fail("the text has %zu tokens, one window needs %zu; give a longer text or a smaller --ctx", n, ctx);
        goto out;
    }
    sala_model_info info;
    sala_model_get_info(r.model, &info);
    r.n_vocab = (size_t)info.n_vocab;
    if (r.chunk > ctx)
        r.chunk = ctx;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= info.n_vocab) {
            rc = cli_fail("token %zu of the text is %d, but the model has ids 0 to %d", i, ids[i], info.n_vocab - 1);
            goto out;
        }
    r.rows = calloc(r.chunk, sizeof *r.rows);
    r.logits = malloc(r.chunk * r.n_vocab * sizeof *r.logits);
    const sala_session_params params = {.max_tokens = o->ctx,
                                        .planned_tokens = o->ctx,
                                        .kv = cli_kv_type(o),
                                        .longrope = cli_longrope(o),
                                        .dense_switch = cli_dense_switch(o)};
    if (!r.rows || !r.logits)
        rc = cli_fail("not enough memory");
    else if (sala_session_open(&r.session, r.model, &params, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    const int32_t bos = added_bos(r.model);
    const double start = sala_os_seconds();
    for (size_t w = 0; rc == 0 && w < windows; w++) {
        int32_t *window = ids + w * ctx;
        if (bos >= 0)
            window[0] = bos;
        rc = run_window(&r, window, ctx, o->all ? 0 : ctx / 2);
        cli_progress(NULL, "perplexity", w + 1, windows);
    }
    cli_progress_end();
    if (rc == 0)
        rc = report(o, &r, n, windows, sala_os_seconds() - start);
out:
    free(r.rows);
    free(r.logits);
    sala_session_close(r.session);
    sala_model_close(r.model);
    sala_free(ids);
    return rc;
}
