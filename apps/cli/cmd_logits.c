/* logits: the numbers behind every position, as a NumPy file. */
#include "cli.h"

#include "format/npy.h"
#include "input.h"
#include "model_arg.h"
#include "ui.h"

#include <stdlib.h>

static int tokens_of(int32_t **ids, size_t *n, const sala_model *model, const cli_options *o)
{
    sala_error err = {0};
    if (o->text) {
        const unsigned flags =
            (o->no_special ? 0u : SALA_TOK_ADD_SPECIAL) | (o->no_parse_special ? 0u : SALA_TOK_PARSE_SPECIAL);
        if (sala_tokenize(model, ids, n, o->text, strlen(o->text), flags, &err) != SALA_OK)
            return cli_fail_error(&err);
    } else {
        char *data = NULL;
        size_t bytes = 0;
        int rc = cli_read(&data, &bytes, o->tokens_file);
        if (rc == 0)
            rc = cli_parse_ids(ids, n, data, bytes, o->tokens_file);
        free(data);
        if (rc)
            return rc;
    }
    sala_model_info info;
    sala_model_get_info(model, &info);
    for (size_t i = 0; i < *n; i++)
        if ((*ids)[i] < 0 || (*ids)[i] >= info.n_vocab)
            return cli_fail("token %zu is %d, but the model has ids 0 to %d", i, (*ids)[i], info.n_vocab - 1);
    if (*n == 0)
        return cli_fail("there are no tokens to run");
    return 0;
}

static int write_logits(sala_npy_writer *w, sala_model *model, sala_session *session, const int32_t *ids, size_t n,
                        size_t chunk, size_t n_vocab)
{
    sala_error err = {0};
    sala_row *rows = calloc(chunk, sizeof *rows);
    float *logits = malloc(chunk * n_vocab * sizeof *logits);
    int rc =
        rows && logits ? 0 : cli_fail("not enough memory for %zu rows of logits; ask for a smaller --chunk", chunk);
    for (size_t at = 0; rc == 0 && at < n; at += chunk) {
        const size_t m = n - at < chunk ? n - at : chunk;
        for (size_t i = 0; i < m; i++)
            rows[i] = (sala_row){.token = ids[at + i], .session = 0, .want = true};
        if (sala_forward(model, &session, 1, rows, (int)m, logits, &err) != SALA_OK ||
            sala_npy_write_rows(w, logits, (int64_t)m, &err) != SALA_OK)
            rc = cli_fail_error(&err);
        cli_progress(NULL, "logits", at + m, n);
    }
    cli_progress_end();
    free(rows);
    free(logits);
    return rc;
}

int cli_cmd_logits(const cli_options *o)
{
    if (!o->tokens_file == !o->text)
        return cli_misuse("one of --tokens-file FILE and --text TEXT is wanted");
    if (!o->out)
        return cli_misuse("--out FILE.npy is missing");
    sala_model *model = NULL;
    sala_session *session = NULL;
    sala_npy_writer *w = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    sala_error err = {0};
    int rc = cli_check_out(o->out);
    if (rc == 0)
        rc = cli_model_open(&model, o);
    if (rc == 0)
        rc = tokens_of(&ids, &n, model, o);
    if (rc == 0)
        rc = cli_check_context(model, o, (int64_t)n);
    if (rc)
        goto out;
    const sala_session_params params = {.max_tokens = (int64_t)n,
                                        .planned_tokens = (int64_t)n,
                                        .kv = cli_kv_type(o),
                                        .longrope = cli_longrope(o),
                                        .dense_switch = cli_dense_switch(o)};
    sala_model_info info;
    sala_model_get_info(model, &info);
    if (sala_session_open(&session, model, &params, &err) != SALA_OK ||
        sala_npy_writer_open(&w, o->out, (int64_t)n, info.n_vocab, &err) != SALA_OK) {
        rc = cli_fail_error(&err);
        goto out;
    }
    size_t chunk = (size_t)o->chunk;
    if (chunk > n)
        chunk = n;
    rc = write_logits(w, model, session, ids, n, chunk, (size_t)info.n_vocab);
    if (rc == 0) {
        const sala_status st = sala_npy_writer_commit(w, &err);
        w = NULL;
        if (st != SALA_OK)
            rc = cli_fail_error(&err);
        else
            cli_say("%s: float32 [%zu, %d], kernels %s", o->out, n, info.n_vocab, info.kernels);
    }
out:
    if (w)
        sala_npy_writer_abort(w);
    sala_session_close(session);
    sala_model_close(model);
    sala_free(ids);
    return rc;
}
