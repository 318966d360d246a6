/* ask: questions about what 'sala read' has read. Each is answered on a fork of the session, so that the file stays as
 * it is and questions do not see one another; with --keep they become part of it. */
#include "cli.h"

#include "frame.h"
#include "os/os.h"
#include "reading.h"
#include "talk.h"
#include "ui.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const int64_t ROOM = 1 << 16; /* tokens behind the document, for questions and answers */

typedef struct asker {
    const cli_options *o;
    const char *path;
    cli_saved saved;
    json_t *note;
    sala_session *base; /* what the file holds */
    cli_frame frame;
    cli_talk talk;
    bool answered; /* a question stands behind the document already */
    json_t *answers;
    int n_answers;
} asker;

static int open_base(asker *a)
{
    sala_error err = {0};
    const int64_t room = a->o->ctx != CLI_UNSET && a->o->ctx > 0 ? 0 : ROOM;
    const int64_t most = room ? a->saved.tokens + room : a->o->ctx;
    if (most <= a->saved.tokens)
        return cli_fail("%s holds %lld tokens, which leaves no room for a question in the %lld of -c", a->path,
                        (long long)a->saved.tokens, (long long)most);
    const sala_restore_params params = {.read_only = !a->o->keep, .max_tokens = most};
    const double start = sala_os_seconds();
    if (sala_session_restore(&a->base, a->talk.model, a->path, &params, &err) != SALA_OK)
        return cli_fail_error(&err);
    a->talk.n_ctx = most;
    a->talk.load_seconds += sala_os_seconds() - start;
    const int64_t trained = a->talk.info.n_ctx_train;
    if (trained > 0 && sala_session_length(a->base) > trained)
        cli_warn("%lld tokens are beyond the %lld that the model was trained for; answers may degrade",
                 (long long)sala_session_length(a->base), (long long)trained);
    return 0;
}

/* With --keep the whole answer goes into the session, its last token too, which generating has only drawn. */
static int keep_answer(asker *a)
{
    sala_error err = {0};
    if (a->talk.drawn_last >= 0 &&
        sala_prefill(a->talk.session, &a->talk.drawn_last, 1, 1, NULL, NULL, NULL, &err) != SALA_OK)
        return cli_fail_error(&err);
    if (json_object_set_new(a->note, "answered", json_true()) != 0)
        return cli_fail("not enough memory");
    int rc = cli_note_store(a->talk.session, a->note);
    if (rc == 0 && sala_session_save(a->talk.session, a->path, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    a->answered = true;
    return rc;
}

static int add_json(asker *a, const char *question, size_t bytes)
{
    const sala_generate_result *r = &a->talk.last;
    json_t *row = json_pack("{s:o,s:o,s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:f}", "question", cli_json_text(question, bytes),
                            "text", cli_json_text(a->talk.answer.data ? a->talk.answer.data : "", a->talk.answer.len),
                            "stop", cli_interrupted() ? "interrupted" : cli_stop_word(r->reason), "session_tokens",
                            (json_int_t)sala_session_length(a->base), "prompt_tokens", (json_int_t)r->n_prompt,
                            "generated_tokens", (json_int_t)r->n_new, "load_seconds", a->talk.load_seconds,
                            "prefill_seconds", r->prefill_seconds, "decode_seconds", r->decode_seconds,
                            "first_token_seconds", r->first_token_seconds);
    if (row && a->talk.tokens)
        json_object_set(row, "tokens", a->talk.tokens);
    return json_array_append_new(a->answers, row) == 0 ? 0 : cli_fail("not enough memory");
}

static int answer(asker *a, const char *question, size_t bytes)
{
    sala_ids ids = {0};
    sala_error err = {0};
    int rc = cli_frame_question(&ids, &a->frame, a->talk.model, question, bytes, a->answered);
    if (rc == 0 && !a->o->keep && sala_session_fork(&a->talk.session, a->base, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0 && a->o->keep)
        a->talk.session = a->base;
    if (rc == 0)
        rc = cli_talk_continue(&a->talk, ids.data, ids.count);
    if (rc == 0 && a->o->json)
        rc = add_json(a, question, bytes);
    if (rc == 0 && !a->o->json) {
        if (a->talk.answer.len == 0 || a->talk.answer.data[a->talk.answer.len - 1] != '\n')
            putchar('\n');
        rc = cli_flush(CLI_DONE);
        if (a->talk.last.reason == SALA_STOP_CONTEXT)
            cli_say("the context of %lld tokens is full; ask for more with -c", (long long)a->talk.n_ctx);
    }
    if (rc == 0 && a->o->keep && !cli_interrupted())
        rc = keep_answer(a);
    a->talk.drawn_last = -1;
    if (!a->o->keep)
        sala_session_close(a->talk.session);
    a->talk.session = NULL;
    sala_ids_free(&ids);
    a->n_answers++;
    return rc;
}

/* A question for each line of standard input that is not empty. */
static int answer_lines(asker *a)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = 0;
    const bool terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    while (rc == 0 && !cli_interrupted()) {
        if (terminal)
            fputs("> ", stderr);
        errno = 0;
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) {
            if (errno)
                rc = cli_fail("standard input: %s", strerror(errno));
            break;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n == 0)
            continue;
        if (a->n_answers && !a->o->json)
            putchar('\n');
        rc = answer(a, line, (size_t)n);
    }
    if (terminal)
        fputc('\n', stderr);
    free(line);
    if (rc == 0 && a->n_answers == 0 && !cli_interrupted())
        rc = cli_misuse("there is no question: sala ask %s 'What is it about?', or one in each line of standard input",
                        a->path);
    return rc;
}

static int open_all(asker *a, cli_options *o)
{
    int rc = cli_saved_open(&a->saved, a->path);
    if (rc)
        return rc;
    if (!a->saved.last)
        return cli_fail("%s is a session that no document was read into", a->path);
    if (!cli_json_flag(a->saved.last, "complete"))
        cli_warn("%s was not read to its end: %s holds %lld tokens of it", cli_json_string(a->saved.last, "name"),
                 a->path, (long long)(a->saved.tokens - cli_json_int(a->saved.last, "first")));
    if (o->keep && !cli_json_flag(a->saved.last, "complete"))
        return cli_fail("--keep would put the answer into the middle of the document; finish reading it first");
    const char *sparse = cli_json_string(a->saved.note, "sparse");
    o->model = o->model ? o->model : a->saved.model;
    o->sparse = sparse[0] ? sparse : NULL;
    a->answered = cli_json_flag(a->saved.note, "answered");
    a->note = json_deep_copy(a->saved.note);
    a->answers = json_array();
    if (!a->note || !a->answers)
        return cli_fail("not enough memory");
    rc = cli_talk_open(&a->talk, o);
    if (rc == 0)
        rc = open_base(a);
    if (rc == 0)
        rc = cli_frame_open(&a->frame, a->talk.model, strcmp(cli_json_string(a->saved.note, "frame"), "text") == 0,
                            json_string_value(json_object_get(a->saved.note, "system")));
    return rc;
}

int cli_cmd_ask(const cli_options *given)
{
    cli_options options = *given;
    cli_options *o = &options;
    const char *question = given->n_args > 1 ? given->args[1] : NULL;
    asker a = {.o = o, .path = given->args[0]};
    if (question && !*question)
        return cli_misuse("the question is empty");
    o->n_args = 0; /* the arguments are a session and a question: models are named with -m only */
    int rc = open_all(&a, o);
    if (rc == 0)
        rc = question ? answer(&a, question, strlen(question)) : answer_lines(&a);
    if (a.n_answers && o->json && json_array_size(a.answers))
        rc = rc ? rc : cli_print_json(json_incref(question ? json_array_get(a.answers, 0) : a.answers));
    else if (a.n_answers && rc == 0)
        cli_talk_timings(&a.talk);
    if (cli_interrupted())
        rc = cli_fail("interrupted");
    sala_session_close(a.base);
    cli_talk_close(&a.talk);
    cli_frame_free(&a.frame);
    json_decref(a.note);
    json_decref(a.answers);
    cli_saved_free(&a.saved);
    return rc;
}
