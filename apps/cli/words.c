/* What the program says to people: always on stderr, always with its name in front. */
#include "cli.h"

#include "ui.h"

static struct {
    const char *verb; /* NULL before a verb is known */
    bool quiet;
} words;

void cli_words_for(const cli_verb *verb, bool quiet)
{
    words.verb = verb ? verb->name : NULL;
    words.quiet = quiet;
}

static void SALA_PRINTF(2, 0) say(const char *prefix, const char *fmt, va_list ap)
{
    cli_progress_end();
    fflush(stdout);
    flockfile(stderr);
    if (words.verb)
        fprintf(stderr, "sala %s: %s", words.verb, prefix);
    else
        fprintf(stderr, "sala: %s", prefix);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    funlockfile(stderr);
}

int cli_misuse(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
    if (words.verb)
        fprintf(stderr, "See 'sala %s -h'.\n", words.verb);
    else
        fprintf(stderr, "See 'sala help'.\n");
    return CLI_MISUSED;
}

int cli_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
    return CLI_FAILED;
}

int cli_fail_error(const sala_error *err)
{
    return cli_fail("%s", err->message[0] ? err->message : sala_status_text(err->code));
}

void cli_say(const char *fmt, ...)
{
    if (words.quiet)
        return;
    cli_progress_end();
    fflush(stdout);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void cli_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", fmt, ap);
    va_end(ap);
}
