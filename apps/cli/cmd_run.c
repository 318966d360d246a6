/* run: one answer, or a chat. */
#include "cli.h"

#include "input.h"
#include "model_arg.h"
#include "os/os.h"
#include "request.h"
#include "talk.h"
#include "ui.h"

#include <stdlib.h>
#include <unistd.h>

/* Appends a part of the prompt behind an empty line; one newline at the end of a file or pipe is not part of it. */
static void add_part(sala_buf *prompt, const char *text, size_t bytes, bool drop_newline)
{
    if (drop_newline && bytes && text[bytes - 1] == '\n')
        bytes -= bytes > 1 && text[bytes - 2] == '\r' ? 2 : 1;
    if (bytes == 0)
        return;
    if (prompt->len)
        sala_buf_add_str(prompt, "\n\n");
    sala_buf_add(prompt, text, bytes);
}

/* File, standard input, -p: the question stands behind what it is about. */
static int gather_prompt(sala_buf *prompt, const cli_options *o)
{
    char *text = NULL;
    size_t bytes = 0;
    int rc = 0;
    const bool given = o->prompt || o->file;
    const bool file_is_stdin = o->file && strcmp(o->file, "-") == 0;
    if (o->file) {
        rc = cli_read(&text, &bytes, o->file);
        if (rc)
            return rc;
        add_part(prompt, text, bytes, true);
        free(text);
    }
    const bool read_stdin = !file_is_stdin && (given ? !o->interactive && cli_stdin_is_piped() : !o->interactive);
    if (read_stdin) {
        rc = cli_read(&text, &bytes, "-");
        if (rc)
            return rc;
        add_part(prompt, text, bytes, true);
        free(text);
    }
    if (o->prompt)
        add_part(prompt, o->prompt, strlen(o->prompt), false);
    if (prompt->failed)
        return cli_fail("not enough memory");
    if (!given && !o->interactive && prompt->len == 0)
        return cli_misuse("there is no prompt: give -p TEXT, -f FILE or text on standard input");
    return 0;
}

static int tokens_of(int32_t **ids, size_t *n, const cli_talk *t, json_t *request, const sala_buf *prompt, bool raw)
{
    sala_error err = {0};
    const char *text = prompt->data ? prompt->data : "";
    if (raw) {
        if (sala_tokenize(t->model, ids, n, text, prompt->len, SALA_TOK_ADD_SPECIAL | SALA_TOK_PARSE_SPECIAL, &err) !=
            SALA_OK)
            return cli_fail_error(&err);
    } else {
        if (memchr(text, 0, prompt->len))
            return cli_fail("the prompt holds a NUL byte, which a chat message cannot; --raw takes it");
        int rc = cli_request_add(request, "user", text, prompt->len);
        if (rc)
            return rc;
        char *json = json_dumps(request, JSON_COMPACT);
        if (!json)
            return cli_fail("not enough memory");
        const sala_status st = sala_chat_prompt(t->model, NULL, NULL, ids, n, json, &err);
        free(json);
        if (st != SALA_OK)
            return cli_fail_error(&err);
    }
    if (*n == 0)
        return cli_fail("the prompt is empty: there is nothing to continue");
    return 0;
}

static int print_json(const cli_talk *t)
{
    const sala_generate_result *r = &t->last;
    json_t *out = json_pack(
        "{s:o,s:s,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:s,s:i}", "text",
        cli_json_text(t->answer.data ? t->answer.data : "", t->answer.len), "stop",
        cli_interrupted() ? "interrupted" : cli_stop_word(r->reason), "prompt_tokens", (json_int_t)r->n_prompt,
        "generated_tokens", (json_int_t)r->n_new, "load_seconds", t->load_seconds, "prefill_seconds",
        r->prefill_seconds, "decode_seconds", r->decode_seconds, "first_token_seconds", r->first_token_seconds,
        "prompt_tokens_per_second", cli_rate(r->n_prompt, r->prefill_seconds), "generated_tokens_per_second",
        cli_rate(r->n_new - 1, r->decode_seconds), "peak_rss_bytes", (json_int_t)sala_os_peak_rss(), "seed",
        (json_int_t)t->sampling.seed, "kernels", t->info.kernels, "threads", t->info.n_threads);
    if (out && t->tokens)
        json_object_set(out, "tokens", t->tokens);
    return cli_print_json(out);
}

static int one_shot(cli_talk *t, json_t *request, const sala_buf *prompt, bool raw)
{
    const cli_options *o = t->o;
    int32_t *ids = NULL;
    size_t n = 0;
    int rc = tokens_of(&ids, &n, t, request, prompt, raw);
    if (rc == 0)
        rc = cli_talk_begin(t, (int64_t)n);
    if (rc == 0)
        rc = cli_talk_answer(t, ids, n);
    sala_free(ids);
    if (rc)
        return rc;
    if (o->json) {
        rc = print_json(t);
    } else {
        if (isatty(STDOUT_FILENO) && t->answer.len && t->answer.data[t->answer.len - 1] != '\n')
            putchar('\n');
        rc = cli_flush(CLI_DONE);
        if (t->last.reason == SALA_STOP_CONTEXT)
            cli_say("the context of %lld tokens is full; ask for more with -c", (long long)t->n_ctx);
        cli_talk_timings(t);
    }
    if (cli_interrupted())
        return cli_fail("interrupted");
    return rc;
}

int cli_cmd_run(const cli_options *given)
{
    cli_options options = *given;
    cli_options *o = &options;
    const char *const *rest;
    if (cli_rest_args(o, &rest) > 0) { /* as with Ollama: run MODEL "the prompt" */
        if (o->prompt)
            return cli_misuse("the prompt is given twice: -p '%s' and '%s'", o->prompt, rest[0]);
        if (cli_rest_args(o, &rest) > 1)
            return cli_misuse("too many arguments: '%s' (a prompt of several words wants quotes)", rest[1]);
        o->prompt = rest[0];
    }
    const bool chat = o->interactive || (!o->prompt && !o->file && isatty(STDIN_FILENO));
    sala_buf prompt = {0};
    json_t *request = NULL;
    cli_talk t = {0};
    int rc = 0;
    if (!o->model && o->n_args == 0)
        return cli_misuse("MODEL is missing: the path of a GGUF file or directory, or a name such as smollm2");
    if (chat && o->json)
        return cli_misuse("--json wants a prompt: -p, -f or standard input");
    if (!chat || o->prompt || o->file)
        rc = gather_prompt(&prompt, o);
    if (rc == 0)
        rc = cli_request_new(&request, o->system, o->template_args);
    if (rc == 0)
        rc = cli_talk_open(&t, o);
    if (rc)
        goto out;
    bool raw = o->raw;
    if (!raw && !t.info.chat_template) {
        cli_warn("the model has no chat template; the text is continued as it is (--raw)");
        raw = true;
    }
    if (chat) {
        const bool have_first = o->prompt || o->file;
        rc = cli_chat(&t, raw ? NULL : request, have_first ? (prompt.data ? prompt.data : "") : NULL, prompt.len);
    } else {
        if (raw && o->system)
            cli_warn("--system has no effect on raw text");
        rc = one_shot(&t, request, &prompt, raw);
    }
out:
    cli_talk_close(&t);
    json_decref(request);
    sala_buf_free(&prompt);
    return rc;
}
