/* The template is rendered with words that no document holds, and the result is cut where they come out. Spans keep
 * what the template itself wrote apart from what came in, so that only the template's text becomes control tokens. */
#include "frame.h"

#include "pieces.h"
#include "request.h"
#include "ui.h"

#include <stdlib.h>

const char cli_frame_gap[] = "\n\n";
static const char *const marks[] = {"salaplaceholderone", "salaplaceholdertwo", "salaplaceholderthree"};

typedef struct rendering {
    char *text;
    size_t bytes;
    sala_jinja_span *spans;
    size_t n_spans;
} rendering;

/* user one [, assistant two, user three] */
static int render(rendering *r, const sala_model *model, const char *system, int n_messages)
{
    json_t *request = NULL;
    sala_error err = {0};
    int rc = cli_request_new(&request, system, NULL);
    for (int i = 0; rc == 0 && i < n_messages; i++)
        rc = cli_request_add(request, i % 2 ? "assistant" : "user", marks[i], strlen(marks[i]));
    if (rc == 0 && sala_chat_render(model->chat, request, &r->text, &r->bytes, &r->spans, &r->n_spans, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    json_decref(request);
    return rc;
}

/* Where mark number i stands, if it does so exactly once. */
static const char *find(const rendering *r, int i)
{
    const char *at = memmem(r->text, r->bytes, marks[i], strlen(marks[i]));
    if (!at)
        return NULL;
    const char *behind = at + strlen(marks[i]);
    return memmem(behind, r->bytes - (size_t)(behind - r->text), marks[i], strlen(marks[i])) ? NULL : at;
}

static bool slice(cli_spans *out, const rendering *r, const char *begin, const char *end)
{
    const size_t from = (size_t)(begin - r->text), to = (size_t)(end - r->text);
    out->at = calloc(r->n_spans + 1, sizeof *out->at);
    if (!out->at)
        return false;
    for (size_t i = 0; i < r->n_spans; i++) {
        const size_t a = r->spans[i].begin > from ? r->spans[i].begin : from;
        const size_t b = r->spans[i].end < to ? r->spans[i].end : to;
        if (a < b)
            out->at[out->n++] = (sala_text_span){r->text + a, b - a, !r->spans[i].from_input};
    }
    return true;
}

static bool cut_first(cli_frame *f, const rendering *r)
{
    const char *one = find(r, 0);
    return one && slice(&f->opening, r, r->text, one) &&
           slice(&f->closing, r, one + strlen(marks[0]), r->text + r->bytes);
}

static bool cut_later(cli_frame *f, const rendering *r)
{
    const char *two = find(r, 1), *three = find(r, 2);
    return two && three && two < three && slice(&f->between, r, two + strlen(marks[1]), three) &&
           slice(&f->closing_later, r, three + strlen(marks[2]), r->text + r->bytes);
}

static bool plain(cli_spans *s, const char *text)
{
    s->at = calloc(1, sizeof *s->at);
    if (!s->at)
        return false;
    s->n = *text != 0;
    s->at[0] = (sala_text_span){text, strlen(text), false};
    return true;
}

int cli_frame_open(cli_frame *f, const sala_model *model, bool raw, const char *system)
{
    *f = (cli_frame){0};
    f->chat = !raw && model->chat;
    int rc = 0;
    if (!f->chat) {
        if (!raw)
            cli_warn("the model has no chat template; questions continue the document as plain text");
        if (system)
            cli_warn("--system has no effect on plain text");
        if (!plain(&f->opening, "") || !plain(&f->closing, "\n") || !plain(&f->between, cli_frame_gap) ||
            !plain(&f->closing_later, "\n"))
            rc = cli_fail("not enough memory");
        return rc;
    }
    rendering first = {0}, later = {0};
    rc = render(&first, model, system, 1);
    if (rc == 0)
        rc = render(&later, model, system, 3);
    if (rc == 0 && (!cut_first(f, &first) || !cut_later(f, &later)))
        rc = cli_fail("the model's chat template does not give messages back as they are; use --raw");
    free(first.spans);
    free(later.spans);
    f->rendered[0] = first.text;
    f->rendered[1] = later.text;
    return rc;
}

void cli_frame_free(cli_frame *f)
{
    free(f->opening.at);
    free(f->closing.at);
    free(f->between.at);
    free(f->closing_later.at);
    free(f->rendered[0]);
    free(f->rendered[1]);
    *f = (cli_frame){0};
}

int cli_frame_question(sala_ids *ids, const cli_frame *f, const sala_model *model, const char *question, size_t bytes,
                       bool later)
{
    const sala_text_span gap = {cli_frame_gap, sizeof cli_frame_gap - 1, false};
    const cli_spans before = later ? f->between : (cli_spans){(sala_text_span *)(uintptr_t)&gap, 1};
    const cli_spans behind = later ? f->closing_later : f->closing;
    sala_text_span *all = malloc((before.n + behind.n + 1) * sizeof *all);
    if (!all)
        return cli_fail("not enough memory");
    memcpy(all, before.at, before.n * sizeof *all);
    all[before.n] = (sala_text_span){question, bytes, false};
    memcpy(all + before.n + 1, behind.at, behind.n * sizeof *all);
    sala_error err = {0};
    const sala_status st = cli_encode_on(model->tokenizer, ids, all, before.n + behind.n + 1, &err);
    free(all);
    return st == SALA_OK ? 0 : cli_fail_error(&err);
}
