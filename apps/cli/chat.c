/* The chat on a terminal: line editing and history through libedit, commands behind a slash, Ctrl-C ends the answer. */
#include "talk.h"

#include "catalogue.h"
#include "input.h"
#include "os/os.h"
#include "request.h"
#include "ui.h"

#include <errno.h>
#include <locale.h>
#include <langinfo.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef SALA_HAVE_LIBEDIT
#include <histedit.h>
#endif

static const char HELP[] =
    "  /help           this list\n"
    "  /system TEXT    set the system message and start over\n"
    "  /reset          forget the conversation\n"
    "  /save FILE      write the conversation (FILE.json: as messages for 'sala template --json')\n"
    "  /exit           leave; Ctrl-D does too\n"
    "A line that ends in \\ goes on in the next one; \"\"\" begins and ends several lines.\n"
    "Ctrl-C stops the answer; at the prompt it leaves. A blank in front sends a line that begins with /.\n";

static const char *const COMMANDS[] = {"/help", "/system", "/reset", "/save", "/exit"};

typedef struct chat {
    cli_talk *t;
    json_t *request;  /* NULL: raw text, no template */
    sala_buf written; /* raw: everything said so far, for /save */
    bool started;     /* raw: the session holds something */
    bool tty;
#ifdef SALA_HAVE_LIBEDIT
    EditLine *line;
    History *history;
    char *history_file;
#endif
    const char *prompt;
} chat;

/* ---- lines ---- */

#ifdef SALA_HAVE_LIBEDIT
static char *prompt_of(EditLine *e)
{
    chat *c = NULL;
    el_get(e, EL_CLIENTDATA, &c);
    return (char *)(uintptr_t)(c ? c->prompt : "> ");
}

static void open_editor(chat *c)
{
    HistEvent ev;
    /* The editor counts characters; without a UTF-8 locale it would refuse everything but ASCII. */
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    c->line = el_init("sala", stdin, stderr, stderr);
    c->history = history_init();
    if (!c->line || !c->history)
        return;
    history(c->history, &ev, H_SETSIZE, 1000);
    history(c->history, &ev, H_SETUNIQUE, 1);
    el_set(c->line, EL_CLIENTDATA, c);
    el_set(c->line, EL_PROMPT, prompt_of);
    el_set(c->line, EL_EDITOR, "emacs");
    el_set(c->line, EL_SIGNAL, 1);
    el_set(c->line, EL_HIST, history, c->history);
    el_set(c->line, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(c->line, NULL);
    char *cache = cli_cache_dir();
    if (cache && sala_os_make_dirs(cache) == 0 && (c->history_file = sala_path_join(cache, "history")) != NULL)
        history(c->history, &ev, H_LOAD, c->history_file);
    free(cache);
}

static void close_editor(chat *c)
{
    if (c->history)
        history_end(c->history);
    if (c->line)
        el_end(c->line);
    free(c->history_file);
}

static void remember_line(chat *c, const char *text)
{
    HistEvent ev;
    if (!c->history || text[strspn(text, " \t\r\n")] == 0)
        return;
    history(c->history, &ev, H_ENTER, text);
    /* Saved at once, so that Ctrl-C at the prompt loses nothing. */
    if (c->history_file)
        history(c->history, &ev, H_SAVE, c->history_file);
}
#endif

/* One line without its newline, appended to *out. False at the end of input. */
static bool read_line(chat *c, const char *prompt, sala_buf *out)
{
    c->prompt = prompt;
#ifdef SALA_HAVE_LIBEDIT
    if (c->tty && c->line) {
        int n = 0;
        const char *s = el_gets(c->line, &n);
        if (!s || n <= 0)
            return false;
        remember_line(c, s);
        sala_buf_add(out, s, s[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
        return true;
    }
#endif
    if (c->tty) {
        fputs(prompt, stderr);
        fflush(stderr);
    }
    char *s = NULL;
    size_t cap = 0;
    const ssize_t n = getline(&s, &cap, stdin);
    if (n > 0)
        sala_buf_add(out, s, s[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
    free(s);
    return n > 0;
}

static bool drop_tail(sala_buf *b, const char *tail)
{
    const size_t n = strlen(tail);
    if (b->len < n || memcmp(b->data + b->len - n, tail, n) != 0)
        return false;
    b->len -= n;
    b->data[b->len] = 0;
    return true;
}

/* A message, which may take several lines. */
static bool read_message(chat *c, sala_buf *out)
{
    static const char FENCE[] = "\"\"\"";
    sala_buf_clear(out);
    if (!read_line(c, "> ", out)) {
        if (c->tty)
            fputc('\n', stderr); /* behind the prompt */
        return false;
    }
    if (out->len >= 3 && memcmp(out->data, FENCE, 3) == 0) {
        memmove(out->data, out->data + 3, out->len - 3 + 1);
        out->len -= 3;
        while (!drop_tail(out, FENCE)) {
            sala_buf_add_char(out, '\n');
            if (!read_line(c, ". ", out))
                break;
        }
        return true;
    }
    while (drop_tail(out, "\\")) {
        sala_buf_add_char(out, '\n');
        if (!read_line(c, ". ", out))
            break;
    }
    return true;
}

/* ---- commands ---- */

static json_t *messages(const chat *c)
{
    return json_object_get(c->request, "messages");
}

static void forget(chat *c, const char *system)
{
    json_t *list = messages(c);
    const json_t *first = json_array_get(list, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    json_t *keep = NULL;
    if (system)
        keep = json_pack("{s:s,s:o}", "role", "system", "content", cli_json_text(system, strlen(system)));
    else if (role && strcmp(role, "system") == 0)
        keep = json_incref(json_array_get(list, 0));
    json_array_clear(list);
    if (keep)
        json_array_append_new(list, keep);
    sala_buf_clear(&c->written);
    sala_error err;
    sala_session_rollback(c->t->session, 0, &err);
    sala_sampler_reset(c->t->sampler);
    c->t->drawn_last = -1;
    c->started = false;
}

static void save(const chat *c, const char *path)
{
    sala_buf text = {0};
    const size_t n = strlen(path);
    size_t i;
    json_t *m;
    if (!c->request) {
        sala_buf_add(&text, c->written.data ? c->written.data : "", c->written.len);
    } else if (n > 5 && strcmp(path + n - 5, ".json") == 0) {
        char *json = json_dumps(c->request, JSON_INDENT(2));
        sala_buf_add_str(&text, json ? json : "");
        sala_buf_add_char(&text, '\n');
        free(json);
    } else {
        json_array_foreach(messages(c), i, m)
            sala_buf_printf(&text, "%s%s: %s\n", i ? "\n" : "", json_string_value(json_object_get(m, "role")),
                            json_string_value(json_object_get(m, "content")));
    }
    sala_out_file *f = NULL;
    int why = text.failed ? ENOMEM : sala_os_out_open(&f, path);
    if (!why) {
        sala_os_out_write(f, text.data ? text.data : "", text.len);
        why = sala_os_out_commit(f);
    }
    if (why)
        cli_fail("%s: %s", path, strerror(why));
    else
        fprintf(stderr, "saved to %s\n", path);
    sala_buf_free(&text);
}

/* False: leave. */
static bool command(chat *c, const char *line)
{
    const size_t n = strcspn(line, " \t");
    const char *rest = line + n + strspn(line + n, " \t");
    char word[32];
    snprintf(word, sizeof word, "%.*s", (int)(n < 31 ? n : 31), line);
    if (strcmp(word, "/exit") == 0 || strcmp(word, "/quit") == 0 || strcmp(word, "/bye") == 0)
        return false;
    if (strcmp(word, "/help") == 0 || strcmp(word, "/?") == 0) {
        fputs(HELP, stderr);
    } else if (strcmp(word, "/reset") == 0 || strcmp(word, "/clear") == 0) {
        forget(c, NULL);
        fputs("the conversation is forgotten\n", stderr);
    } else if (strcmp(word, "/system") == 0) {
        if (!c->request) {
            fputs("raw text has no system message\n", stderr);
        } else if (!*rest) {
            fputs("/system wants a text\n", stderr);
        } else {
            forget(c, rest);
            fputs("system message set; the conversation starts over\n", stderr);
        }
    } else if (strcmp(word, "/save") == 0) {
        if (*rest)
            save(c, rest);
        else
            fputs("/save wants a file name\n", stderr);
    } else {
        const char *near = cli_nearest(word, COMMANDS, SALA_ARRAY_LEN(COMMANDS));
        if (near)
            fprintf(stderr, "there is no command %s; did you mean %s?\n", word, near);
        else
            fprintf(stderr, "there is no command %s; /help lists them (a blank in front sends the line)\n", word);
    }
    return true;
}

/* ---- turns ---- */

static int say_raw(chat *c, const char *text, size_t bytes)
{
    cli_talk *t = c->t;
    int32_t *ids = NULL;
    size_t n = 0;
    sala_error err = {0};
    const unsigned flags = SALA_TOK_PARSE_SPECIAL | (c->started ? 0u : SALA_TOK_ADD_SPECIAL);
    if (sala_tokenize(t->model, &ids, &n, text, bytes, flags, &err) != SALA_OK)
        return cli_fail_error(&err);
    int rc = 0;
    if (sala_session_length(t->session) + (int64_t)n + 2 > t->n_ctx) {
        fprintf(stderr, "the context of %lld tokens is full; /reset starts over\n", (long long)t->n_ctx);
    } else if (n) {
        c->started = true;
        rc = cli_talk_continue(t, ids, n);
        sala_buf_add(&c->written, text, bytes);
        sala_buf_add(&c->written, t->answer.data ? t->answer.data : "", t->answer.len);
    }
    sala_free(ids);
    return rc;
}

static int say(chat *c, const char *text, size_t bytes)
{
    cli_talk *t = c->t;
    if (!c->request)
        return say_raw(c, text, bytes);
    int rc = cli_request_add(c->request, "user", text, bytes);
    char *json = rc ? NULL : json_dumps(c->request, JSON_COMPACT);
    if (!json)
        return rc ? rc : cli_fail("not enough memory");
    json_t *list = messages(c);
    int32_t *ids = NULL;
    size_t n = 0;
    sala_error err = {0};
    const sala_status st = sala_chat_prompt(t->model, NULL, NULL, &ids, &n, json, &err);
    free(json);
    if (st != SALA_OK) {
        json_array_remove(list, json_array_size(list) - 1);
        cli_fail_error(&err);
        return 0; /* the next message may do better */
    }
    if ((int64_t)n >= t->n_ctx) {
        json_array_remove(list, json_array_size(list) - 1);
        fprintf(stderr, "that would make %zu tokens and the context holds %lld; /reset starts over, -c asks for more\n",
                n, (long long)t->n_ctx);
    } else {
        rc = cli_talk_answer(t, ids, n);
        if (rc == 0)
            rc = cli_request_add(c->request, "assistant", t->answer.data ? t->answer.data : "", t->answer.len);
    }
    sala_free(ids);
    return rc;
}

static int turn(chat *c, const char *text, size_t bytes)
{
    const int rc = say(c, text, bytes);
    if (rc)
        return rc;
    fputs("\n\n", stdout);
    if (cli_flush(0))
        return CLI_FAILED;
    if (cli_interrupted())
        fputs("[stopped]\n", stderr);
    else if (c->t->last.reason == SALA_STOP_CONTEXT)
        fprintf(stderr, "[the context of %lld tokens is full; /reset starts over]\n", (long long)c->t->n_ctx);
    else if (c->t->last.reason == SALA_STOP_LENGTH)
        fprintf(stderr, "[stopped after %lld tokens, as -n says]\n", (long long)c->t->last.n_new);
    cli_interrupt_clear();
    return 0;
}

int cli_chat(cli_talk *t, json_t *request, const char *first, size_t first_bytes)
{
    chat c = {.t = t, .request = request, .tty = isatty(STDIN_FILENO)};
    int rc = cli_talk_begin(t, 0);
    if (rc)
        return rc;
    if (c.tty) {
        cli_say("%s, %s, context %lld tokens. /help lists commands.", t->info.name ? t->info.name : t->info.path,
                t->info.quantization, (long long)t->n_ctx);
#ifdef SALA_HAVE_LIBEDIT
        open_editor(&c);
#endif
    }
    sala_buf message = {0};
    if (first)
        rc = turn(&c, first, first_bytes);
    while (rc == 0 && read_message(&c, &message)) {
        if (message.failed)
            rc = cli_fail("not enough memory");
        else if (message.len == 0 || message.data[strspn(message.data, " \t\r\n")] == 0)
            continue;
        else if (message.data[0] == '/' && c.tty) {
            if (!command(&c, message.data))
                break;
        } else {
            const size_t skip = message.data[0] == ' ' && message.data[1] == '/';
            rc = turn(&c, message.data + skip, message.len - skip);
        }
    }
    sala_buf_free(&message);
    sala_buf_free(&c.written);
#ifdef SALA_HAVE_LIBEDIT
    if (c.tty)
        close_editor(&c);
#endif
    if (rc == 0 && t->total.n_prompt)
        cli_talk_timings(t);
    return rc;
}
