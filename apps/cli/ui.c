#include "ui.h"

#include "cli.h"
#include "os/os.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* ---- signals ---- */

static volatile sig_atomic_t held, interrupted;
static struct timespec last_signal; /* only the handler touches it, with its signals blocked */
static void (*volatile on_exit_fn)(void);

static void handle(int sig)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double since = (double)(now.tv_sec - last_signal.tv_sec) + 1e-9 * (double)(now.tv_nsec - last_signal.tv_nsec);
    if (held && sig == SIGINT && !(interrupted && since < 1)) {
        interrupted = 1;
        last_signal = now;
        return;
    }
    sala_os_out_abort_all();
    if (on_exit_fn)
        on_exit_fn();
    static const char text[] = "\nsala: interrupted\n";
    const ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
    _exit(CLI_FAILED);
}

void cli_signals_init(void)
{
    struct sigaction act = {.sa_handler = handle};
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, SIGINT);
    sigaddset(&act.sa_mask, SIGTERM);
    sigaddset(&act.sa_mask, SIGHUP);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    /* nohup asks that hang-ups be ignored. */
    struct sigaction old;
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &act, NULL);
    act.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &act, NULL);
}

void cli_signals_hold(void)
{
    held = 1;
}
void cli_signals_release(void)
{
    held = 0;
}
bool cli_interrupted(void)
{
    return interrupted != 0;
}
void cli_interrupt_clear(void)
{
    interrupted = 0;
}
void cli_signals_on_exit(void (*fn)(void))
{
    on_exit_fn = fn;
}

/* ---- progress ---- */

enum { BAR_WIDTH = 28 };
static const double FIRST_DRAWN_AFTER = 0.7, REDRAWN_EVERY = 0.1; /* seconds */

static struct {
    char what[48]; /* "" while there is none */
    char note[40];
    double start, drawn_at;
    uint64_t first; /* what was done when the work began */
    bool drawn;
} bar;

static const char *duration(char dst[40], double seconds)
{
    const long s = (long)(seconds + 0.5);
    if (s < 120)
        snprintf(dst, 40, "%ld s", s);
    else if (s < 7200)
        snprintf(dst, 40, "%ld min", (s + 30) / 60);
    else
        snprintf(dst, 40, "%ld h %ld min", s / 3600, s % 3600 / 60);
    return dst;
}

void cli_progress_note(const char *note)
{
    snprintf(bar.note, sizeof bar.note, "%s", note ? note : "");
}

bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user;
    const double now = sala_os_seconds();
    if (!what)
        what = "working";
    if (strncmp(bar.what, what, sizeof bar.what - 1) != 0) {
        cli_progress_end();
        snprintf(bar.what, sizeof bar.what, "%s", what);
        bar.start = now;
        bar.first = done;
        bar.drawn_at = 0;
    }
    static int tty = -1;
    if (tty < 0) {
        const char *term = getenv("TERM");
        tty = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    }
    const double elapsed = now - bar.start;
    if (!tty || elapsed < FIRST_DRAWN_AFTER || now - bar.drawn_at < REDRAWN_EVERY)
        return !cli_interrupted();
    bar.drawn = true;
    bar.drawn_at = now;
    if (total == 0) {
        fprintf(stderr, "\r\033[K%s  %.0f s", what, elapsed);
    } else {
        const double part = done >= total ? 1.0 : (double)done / (double)total;
        const int full = (int)(part * BAR_WIDTH);
        char cells[BAR_WIDTH + 1];
        for (int i = 0; i < BAR_WIDTH; i++)
            cells[i] = i < full ? '#' : '.';
        cells[BAR_WIDTH] = 0;
        fprintf(stderr, "\r\033[K%s  [%s] %3.0f %%", what, cells, part * 100);
        if (bar.note[0])
            fprintf(stderr, "  %s", bar.note);
        const double ours = done > bar.first ? (double)(done - bar.first) / (double)(total - bar.first) : 0;
        char left[40];
        if (ours > 0.02 && part < 1)
            fprintf(stderr, "  %s left", duration(left, elapsed / ours - elapsed));
    }
    fflush(stderr);
    return !cli_interrupted();
}

void cli_progress_end(void)
{
    if (bar.drawn)
        fputs("\r\033[K", stderr);
    bar.drawn = false;
    bar.what[0] = bar.note[0] = 0;
}

/* ---- standard output ---- */

/* A write inside printf() may have failed long ago and taken its errno along; a pipe without a reader still shows. */
static bool nobody_reads(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO};
    return poll(&p, 1, 0) > 0 && (p.revents & POLLERR);
}

int cli_flush(int code)
{
    static bool told;
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    if (errno != EPIPE && !told && !nobody_reads())
        cli_fail("could not write to standard output: %s", errno ? strerror(errno) : "an earlier write failed");
    told = true;
    return CLI_FAILED;
}

int cli_print_json(json_t *json)
{
    if (!json)
        return cli_fail("not enough memory");
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(json);
    if (!text)
        return cli_fail("not enough memory");
    puts(text);
    free(text);
    return cli_flush(CLI_DONE);
}

/* Copies text, replacing bytes that are not UTF-8. */
static void add_valid(sala_buf *b, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        const int n = sala_utf8_decode(text + i, bytes - i, &cp);
        if (n)
            sala_buf_add(b, text + i, (size_t)n);
        else
            sala_buf_add_utf8(b, 0xFFFD);
        i += n ? (size_t)n : 1;
    }
}

json_t *cli_json_text(const char *text, size_t bytes)
{
    sala_buf b = {0};
    add_valid(&b, text, bytes);
    json_t *s = b.failed ? NULL : json_stringn_nocheck(b.data ? b.data : "", b.len);
    sala_buf_free(&b);
    return s;
}

char *cli_printable(const char *text, size_t bytes, size_t most_bytes)
{
    sala_buf b = {0};
    for (size_t i = 0; i < bytes;) {
        if (b.len >= most_bytes) {
            sala_buf_add_str(&b, "...");
            break;
        }
        uint32_t cp;
        const int n = sala_utf8_decode(text + i, bytes - i, &cp);
        if (n == 0)
            sala_buf_printf(&b, "\\x%02x", (unsigned char)text[i]);
        else if (cp == '\n')
            sala_buf_add_str(&b, "\\n");
        else if (cp == '\t')
            sala_buf_add_str(&b, "\\t");
        else if (cp == '\r')
            sala_buf_add_str(&b, "\\r");
        else if (cp < 32 || (cp >= 0x7f && cp < 0xa0))
            sala_buf_printf(&b, "\\x%02x", (unsigned)cp);
        else
            sala_buf_add(&b, text + i, (size_t)n);
        i += n ? (size_t)n : 1;
    }
    return sala_buf_take(&b, NULL);
}

/* ---- tables ---- */

enum { MAX_COLUMNS = 12 };

struct cli_table {
    int n_columns;
    bool right[MAX_COLUMNS];
    char **cells; /* row after row, heading first */
    size_t n_cells, cap;
    bool heading, failed;
};

static void add_cell(cli_table *t, char *text)
{
    if (!text || t->failed) {
        t->failed = true;
        free(text);
        return;
    }
    if (t->n_cells == t->cap) {
        const size_t cap = t->cap ? t->cap * 2 : 64;
        char **more = realloc(t->cells, cap * sizeof *more);
        if (!more) {
            t->failed = true;
            free(text);
            return;
        }
        t->cells = more;
        t->cap = cap;
    }
    t->cells[t->n_cells++] = text;
}

cli_table *cli_table_new(const char *columns)
{
    cli_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->heading = columns[0] != '!';
    if (!t->heading)
        columns++;
    for (const char *c = columns; t->n_columns < MAX_COLUMNS;) {
        const bool right = *c == '>';
        c += right;
        const size_t len = strcspn(c, "|");
        t->right[t->n_columns++] = right;
        add_cell(t, sala_strndup(c, len));
        c += len;
        if (!*c)
            break;
        c++;
    }
    return t;
}

void cli_table_cell(cli_table *t, const char *fmt, ...)
{
    if (!t)
        return;
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    add_cell(t, text);
}

/* Columns that a text takes on the terminal, near enough: characters. */
static int width(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

void cli_table_print(cli_table *t, FILE *to)
{
    if (!t || t->failed) {
        cli_fail("not enough memory for a table");
    } else {
        int w[MAX_COLUMNS] = {0};
        const size_t n = (size_t)t->n_columns;
        const size_t first = t->heading ? 0 : n;
        for (size_t i = first; i < t->n_cells; i++)
            if (width(t->cells[i]) > w[i % n])
                w[i % n] = width(t->cells[i]);
        for (size_t i = first; i < t->n_cells; i++) {
            const size_t c = i % n;
            const int pad = w[c] - width(t->cells[i]);
            if (t->right[c])
                fprintf(to, "%*s%s", pad, "", t->cells[i]);
            else if (c + 1 < n)
                fprintf(to, "%s%*s", t->cells[i], pad, "");
            else
                fputs(t->cells[i], to);
            fputs(c + 1 < n ? "  " : "\n", to);
        }
    }
    if (t) {
        for (size_t i = 0; i < t->n_cells; i++)
            free(t->cells[i]);
        free(t->cells);
        free(t);
    }
}

const char *cli_thousands(char dst[32], uint64_t n)
{
    return sala_format_thousands(dst, n);
}

const char *cli_short_count(char dst[32], uint64_t n)
{
    if (n >= 1000000000)
        snprintf(dst, 32, "%.2f billion", (double)n / 1e9);
    else if (n >= 1000000)
        snprintf(dst, 32, "%.1f million", (double)n / 1e6);
    else
        cli_thousands(dst, n);
    return dst;
}
