/* What is seen of a run: notices, a line for each step or a progress line that is written over, samples; and the
 * signals that stop it in order. */
#include "train_parts.h"

#include "os/os.h"
#include "ui.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static atomic_int asked;
static struct sigaction old_int, old_term;

static struct {
    bool json, quiet, tty, drawn;
    int64_t log_every;
    double drawn_at;
} watch;

static void ask(int sig)
{
    int none = 0;
    if (atomic_compare_exchange_strong(&asked, &none, sig))
        return;
    sala_os_out_abort_all();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void wipe(void)
{
    if (watch.drawn)
        fputs("\r\033[K", stderr);
    watch.drawn = false;
}

static void line(void *user, const char *text)
{
    (void)user;
    wipe();
    cli_say("%s", text);
}

static const char *duration(char dst[40], double seconds)
{
    const int64_t s = seconds < 1e15 ? (int64_t)(seconds + 0.5) : 0;
    if (s < 3600)
        snprintf(dst, 40, "%" PRId64 ":%02" PRId64, s / 60, s % 60);
    else
        snprintf(dst, 40, "%" PRId64 ":%02" PRId64 ":%02" PRId64, s / 3600, s / 60 % 60, s % 60);
    return dst;
}

/* The names and digits of metrics.jsonl. JSON has no infinities: a loss that is none is null. */
static void print_number(const char *key, double v, int digits)
{
    if (isfinite(v))
        printf(",\"%s\":%.*g", key, digits, v);
    else
        printf(",\"%s\":null", key);
}

static void print_json(const sala_step_result *r, int64_t steps, double rate, double share, double eta)
{
    printf("{\"step\":%" PRId64 ",\"steps\":%" PRId64, r->step, steps);
    print_number("loss", r->loss, 9);
    print_number("lr", r->lr, 9);
    print_number("grad_norm", r->grad_norm, 9);
    printf(",\"tokens\":%" PRId64, r->tokens);
    print_number("tokens_per_second", rate, 6);
    print_number("share_of_peak", share, 4);
    print_number("seconds", r->seconds_forward + r->seconds_backward + r->seconds_update + r->seconds_wait, 6);
    print_number("eta_seconds", eta, 6);
    printf(",\"skipped\":%s}\n", r->skipped ? "true" : "false");
    fflush(stdout);
}

static int columns(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 ? w.ws_col : 0;
}

static void progress(void *user, const sala_step_result *r, int64_t steps, double rate, double share, double eta)
{
    (void)user;
    const bool last = r->step == steps;
    if (watch.json && (last || r->step % watch.log_every == 0))
        print_json(r, steps, rate, share, eta);
    if (watch.json || watch.quiet)
        return;
    const double now = sala_os_seconds();
    if (watch.tty ? now - watch.drawn_at < 0.1 && !last : !last && r->step % watch.log_every != 0)
        return;
    watch.drawn_at = now;
    char left[40], of_peak[32] = "";
    if (share > 0)
        snprintf(of_peak, sizeof of_peak, "  %.0f %% of peak", 100 * share);
    char text[256];
    snprintf(text, sizeof text, "step %" PRId64 "/%" PRId64 "  loss %.3f  lr %.3g  |g| %.2f  %.0f tok/s%s  eta %s",
             r->step, steps, r->loss, r->lr, r->grad_norm, rate, of_peak, duration(left, eta));
    /* A line that wraps could not be written over. */
    const int width = watch.tty ? columns() : 0, most = width > 8 && !last ? width - 1 : (int)sizeof text;
    fprintf(stderr, "%s%.*s%s", watch.tty ? "\r\033[K" : "", most, text, watch.tty && !last ? "" : "\n");
    watch.drawn = watch.tty && !last;
    fflush(stderr);
}

static void sample(void *user, int64_t step, const char *prompt, const char *text)
{
    (void)user;
    wipe();
    char *start = cli_printable(prompt, strlen(prompt), 200), *more = cli_printable(text, strlen(text), 400);
    if (start && more)
        cli_say("sample at step %" PRId64 ": %s|%s", step, start, more);
    free(start);
    free(more);
}

sala_run_hooks cli_train_watch(const cli_options *o, int64_t log_every)
{
    const char *term = getenv("TERM");
    watch.json = o->json;
    watch.quiet = o->quiet;
    watch.tty = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    watch.log_every = log_every > 0 ? log_every : 1;
    watch.drawn_at = 0;
    struct sigaction act = {.sa_handler = ask};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, &old_int);
    sigaction(SIGTERM, &act, &old_term);
    return (sala_run_hooks){.line = line, .progress = progress, .sample = sample, .stop = &asked};
}

int cli_train_watch_end(void)
{
    wipe();
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    return atomic_load(&asked);
}
