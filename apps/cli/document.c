/* The way of the bytes: source (file, standard input, pdftotext) -> UTF-8 by iconv where something else is declared ->
 * repair of what is not UTF-8 -> HTML's or plain text's rules -> a small buffer from which the caller is served.
 *
 * Every step takes whatever number of bytes comes and keeps what it cannot decide yet, so that the text is the same for
 * a file and for a slow pipe. Line ends become '\n' and a byte order mark is dropped; nothing else is changed. */
#include "document.h"

#include "html_text.h"
#include "os/os.h"
#include "ui.h"

#include <errno.h>
#include <fcntl.h>
#include <iconv.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

typedef enum kind { TEXT, MARKDOWN, HTML, PDF } kind;

enum { RAW_BYTES = 1 << 16 };

struct cli_document {
    char *shown; /* its name in messages */
    kind kind;
    int fd;
    bool is_stdin;
    pid_t child; /* pdftotext; 0: none */

    uint8_t raw[RAW_BYTES]; /* read, not yet taken */
    size_t n_raw;
    bool raw_ended;
    uint64_t taken, source_bytes;

    bool converts;
    iconv_t conversion;

    char half[4]; /* the beginning of a character whose end has not come */
    size_t n_half;
    bool behind_cr;
    uint64_t repaired;

    cli_html *html;
    sala_buf plain; /* valid UTF-8 on its way to the HTML reader */
    sala_buf text;  /* extracted, not yet read by the caller from `at` on */
    size_t at;
    bool text_ended;
};

/* ---- what it is ---- */

static bool starts_with(const uint8_t *data, size_t n, const char *magic, size_t len)
{
    return n >= len && memcmp(data, magic, len) == 0;
}

/* Formats that look like garbage when they are read as text. NULL when it is none of them. */
static const char *not_text(const uint8_t *data, size_t n)
{
#define MAGIC(bytes, words)                                                                                            \
    {                                                                                                                  \
        bytes, sizeof bytes - 1, words                                                                                 \
    }
    static const struct {
        const char *magic;
        size_t len;
        const char *words;
    } known[] = {
        MAGIC("PK\3\4", "a ZIP archive (EPUB, DOCX and ODT are ZIP archives too); convert it to text or HTML first"),
        MAGIC("\x1f\x8b", "compressed with gzip; unpack it first"),
        MAGIC("BZh", "compressed with bzip2; unpack it first"),
        MAGIC("\xfd"
              "7zXZ",
              "compressed with xz; unpack it first"),
        MAGIC("\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
        MAGIC("7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
        MAGIC("\xd0\xcf\x11\xe0", "an old Microsoft Office file; convert it to text or HTML first"),
        MAGIC("{\\rtf", "rich text (RTF); convert it to text or HTML first"),
        MAGIC("\x89PNG", "a picture"),
        MAGIC("\xff\xd8\xff", "a picture"),
        MAGIC("GIF8", "a picture"),
        MAGIC("\x7f"
              "ELF",
              "a program"),
        MAGIC("GGUF", "a model, not a document"),
    };
#undef MAGIC
    for (size_t i = 0; i < SALA_ARRAY_LEN(known); i++)
        if (starts_with(data, n, known[i].magic, known[i].len))
            return known[i].words;
    return NULL;
}

static bool named(const char *path, const char *const *endings)
{
    const char *base = strrchr(path, '/');
    const char *dot = strrchr(base ? base : path, '.');
    for (; dot && *endings; endings++)
        if (strcasecmp(dot + 1, *endings) == 0)
            return true;
    return false;
}

static kind kind_of(const cli_document *d, const char *path)
{
    static const char *const html[] = {"html", "htm", "xhtml", NULL};
    static const char *const markdown[] = {"md", "markdown", "mdown", NULL};
    static const char *const text[] = {"txt", "text", "asc", NULL};
    if (starts_with(d->raw, d->n_raw, "%PDF-", 5))
        return PDF;
    if (named(path, html))
        return HTML;
    if (named(path, markdown))
        return MARKDOWN;
    if (named(path, text))
        return TEXT;
    const char *s = (const char *)d->raw;
    size_t n = d->n_raw;
    const size_t mark = starts_with(d->raw, n, "\xef\xbb\xbf", 3) ? 3 : 0;
    for (s += mark, n -= mark; n && strchr(" \t\r\n", *s) && *s; s++)
        n--;
    const bool html_begins =
        (n > 14 && strncasecmp(s, "<!doctype html", 14) == 0) || (n > 5 && strncasecmp(s, "<html", 5) == 0);
    return html_begins ? HTML : TEXT;
}

/* The encoding that HTML declares near its beginning, as <meta charset=...>, http-equiv or in an XML declaration. */
static bool declared_encoding(char name[64], const uint8_t *data, size_t n)
{
    static const char *const keys[] = {"charset", "encoding"};
    const size_t most = n < 4096 ? n : 4096;
    const char *s = (const char *)data;
    for (size_t i = 0; i < most; i++) {
        size_t key = 0;
        for (size_t k = 0; k < SALA_ARRAY_LEN(keys) && !key; k++)
            if (most - i > strlen(keys[k]) && strncasecmp(s + i, keys[k], strlen(keys[k])) == 0)
                key = strlen(keys[k]);
        if (!key)
            continue;
        size_t at = i + key, len = 0;
        while (at < most && (s[at] == ' ' || s[at] == '='))
            at++;
        if (at < most && (s[at] == '"' || s[at] == '\''))
            at++;
        while (at + len < most && len < 63 && s[at + len] && !strchr(" \t\r\n\"'/>;?", s[at + len]))
            len++;
        if (len == 0)
            continue;
        memcpy(name, s + at, len);
        name[len] = 0;
        return true;
    }
    return false;
}

/* Browsers take what calls itself Latin-1 or ASCII as its superset of Windows. */
static const char *as_browsers(const char *name)
{
    static const char *const latin[] = {"iso-8859-1", "iso8859-1", "latin1", "us-ascii", "ascii"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(latin); i++)
        if (strcasecmp(name, latin[i]) == 0)
            return "WINDOWS-1252";
    return name;
}

static void settle_encoding(cli_document *d)
{
    char name[64] = "";
    if (starts_with(d->raw, d->n_raw, "\xff\xfe", 2) || starts_with(d->raw, d->n_raw, "\xfe\xff", 2))
        strcpy(name, "UTF-16"); /* iconv reads the byte order from the mark */
    else if (d->kind != HTML || starts_with(d->raw, d->n_raw, "\xef\xbb\xbf", 3) ||
             !declared_encoding(name, d->raw, d->n_raw))
        return;
    if (strcasecmp(name, "utf-8") == 0 || strcasecmp(name, "utf8") == 0)
        return;
    d->conversion = iconv_open("UTF-8", as_browsers(name));
    d->converts = d->conversion != (iconv_t)-1;
    if (!d->converts)
        cli_warn("%s says that it is in '%s', which this system does not know; read as UTF-8", d->shown, name);
}

/* ---- where the bytes come from ---- */

/* Reads until the block is full or the source ends, so that what is decided from it does not depend on pipes. */
static int fill(cli_document *d)
{
    while (d->n_raw < RAW_BYTES && !d->raw_ended) {
        const ssize_t n = read(d->fd, d->raw + d->n_raw, RAW_BYTES - d->n_raw);
        if (cli_interrupted())
            return CLI_FAILED;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return cli_fail("%s: %s", d->shown, strerror(errno));
        d->raw_ended = n == 0;
        d->n_raw += (size_t)n;
    }
    return 0;
}

/* pdftotext writes into a pipe that becomes our source. It gets a process group of its own: Ctrl-C is for us to handle,
 * and a text that ends early must not look like the whole. */
static int spawn_pdftotext(cli_document *d, const char *path)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return cli_fail("%s: %s", d->shown, strerror(errno));
    char *name = d->is_stdin ? sala_strdup("-") : path[0] == '-' ? sala_path_join(".", path) : sala_strdup(path);
    if (!name) {
        close(ends[0]);
        close(ends[1]);
        return cli_fail("not enough memory");
    }
    char tool[] = "pdftotext", quiet[] = "-q", enc[] = "-enc", utf8[] = "UTF-8", eol[] = "-eol", lf[] = "unix",
         no_ff[] = "-nopgbrk", to[] = "-";
    char *const argv[] = {tool, quiet, enc, utf8, eol, lf, no_ff, name, to, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE); /* ignored here; there it must end the child when nobody reads */
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigdefault(&attr, &defaults);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    if (d->is_stdin)
        posix_spawn_file_actions_adddup2(&actions, d->fd, STDIN_FILENO);
    const int why = posix_spawnp(&d->child, tool, &actions, &attr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    free(name);
    close(ends[1]);
    if (why) {
        d->child = 0;
        close(ends[0]);
        if (why == ENOENT)
            return cli_fail("%s is a PDF; reading it needs the program pdftotext (Debian: apt-get install "
                            "poppler-utils)",
                            d->shown);
        return cli_fail("pdftotext could not be run: %s", strerror(why));
    }
    if (!d->is_stdin)
        close(d->fd);
    d->fd = ends[0];
    d->is_stdin = false;
    d->n_raw = 0;
    d->raw_ended = false;
    d->source_bytes = 0;
    return 0;
}

static int wait_child(cli_document *d, int *status)
{
    pid_t ended;
    while ((ended = waitpid(d->child, status, 0)) < 0 && errno == EINTR)
        ;
    d->child = 0;
    return ended < 0 ? errno : 0;
}

static int check_child(cli_document *d)
{
    int status = 0;
    if (wait_child(d, &status) != 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return 0;
    if (WIFSIGNALED(status))
        return cli_fail("%s: pdftotext was ended by signal %d", d->shown, WTERMSIG(status));
    return cli_fail("%s: pdftotext could not read it (exit code %d): damaged, or protected by a password", d->shown,
                    WEXITSTATUS(status));
}

int cli_document_open(cli_document **out, const char *path)
{
    cli_document *d = calloc(1, sizeof *d);
    if (!d)
        return cli_fail("not enough memory");
    d->is_stdin = strcmp(path, "-") == 0;
    d->shown = sala_strdup(d->is_stdin ? "standard input" : path);
    d->fd = d->is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    int rc = 0;
    struct stat st;
    if (!d->shown)
        rc = cli_fail("not enough memory");
    else if (d->fd < 0 || fstat(d->fd, &st) != 0)
        rc = cli_fail("%s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        rc = cli_fail("%s is a directory, not a document", path);
    if (rc == 0) {
        if (S_ISREG(st.st_mode) && !d->is_stdin)
            d->source_bytes = (uint64_t)st.st_size;
        rc = fill(d);
    }
    const char *other = rc ? NULL : not_text(d->raw, d->n_raw);
    if (other)
        rc = cli_fail("%s is %s", d->shown, other);
    if (rc == 0)
        d->kind = kind_of(d, path);
    if (rc == 0 && d->kind == PDF) {
        if (d->is_stdin && lseek(d->fd, 0, SEEK_SET) != 0)
            rc = cli_fail("a PDF cannot be read from a pipe; give its file name");
        if (rc == 0)
            rc = spawn_pdftotext(d, path);
    }
    if (rc == 0)
        settle_encoding(d);
    if (rc == 0 && d->kind == HTML && !(d->html = cli_html_open(&d->text)))
        rc = cli_fail("not enough memory");
    if (rc) {
        cli_document_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

void cli_document_close(cli_document *d)
{
    if (!d)
        return;
    if (d->fd >= 0 && !d->is_stdin)
        close(d->fd);
    if (d->child > 0) {
        int status;
        kill(-d->child, SIGTERM);
        wait_child(d, &status);
    }
    if (d->converts)
        iconv_close(d->conversion);
    cli_html_close(d->html);
    sala_buf_free(&d->plain);
    sala_buf_free(&d->text);
    free(d->shown);
    free(d);
}

/* ---- from bytes to text ---- */

/* Plain text: CR LF and CR are line ends too. `s` is valid UTF-8. */
static void add_lines(cli_document *d, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        const char *cr = memchr(s + i, '\r', n - i);
        size_t end = cr ? (size_t)(cr - s) : n;
        if (d->behind_cr && s[i] == '\n')
            i++; /* its line end is there already */
        d->behind_cr = false;
        if (end > i)
            sala_buf_add(&d->text, s + i, end - i);
        if (cr) {
            sala_buf_add_char(&d->text, '\n');
            d->behind_cr = true;
            end++;
        }
        i = end;
    }
}

/* Where valid text goes. */
static void deliver(cli_document *d, const char *s, size_t n)
{
    if (d->kind == HTML)
        sala_buf_add(&d->plain, s, n);
    else
        add_lines(d, s, n);
}

/* Length of the part of a broken character that belongs together: what a decoder replaces by one U+FFFD. */
static size_t broken_length(const char *s, size_t n)
{
    size_t len = 1;
    for (size_t k = 2; k <= 3 && k <= n; k++)
        if ((size_t)sala_utf8_incomplete_tail(s, k) == k)
            len = k;
    return len;
}

static void repair(cli_document *d, const char *s, size_t n, bool last)
{
    const size_t held_back = last ? 0 : (size_t)sala_utf8_incomplete_tail(s, n);
    const size_t end = n - held_back;
    size_t good = 0; /* where the valid run began that is not delivered yet */
    for (size_t i = 0; i < end;) {
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, end - i, &cp);
        if (len && s[i]) {
            i += (size_t)len;
            continue;
        }
        if (i > good)
            deliver(d, s + good, i - good);
        deliver(d, "\xEF\xBF\xBD", 3);
        d->repaired++;
        i += len ? 1 : broken_length(s + i, end - i);
        good = i;
    }
    if (end > good)
        deliver(d, s + good, end - good);
    memcpy(d->half, s + end, held_back);
    d->n_half = held_back;
}

static void take_utf8(cli_document *d, const char *s, size_t n, bool last)
{
    /* A character begun in the last block: let it grow byte by byte until it is whole or hopeless. */
    while (d->n_half && n) {
        char few[4];
        const size_t had = d->n_half;
        memcpy(few, d->half, had);
        few[had] = *s;
        s++;
        n--;
        d->n_half = 0;
        repair(d, few, had + 1, false);
    }
    if (d->n_half && last) {
        char few[4];
        const size_t had = d->n_half;
        memcpy(few, d->half, had);
        d->n_half = 0;
        repair(d, few, had, true);
    }
    if (n)
        repair(d, s, n, last);
}

/* Converts what it can of the raw block; the bytes of an unfinished character stay there. */
static int convert(cli_document *d)
{
    char out[4096];
    char *from = (char *)d->raw;
    size_t left = d->n_raw;
    while (left) {
        char *to = out;
        size_t room = sizeof out;
        errno = 0;
        const size_t rc = iconv(d->conversion, &from, &left, &to, &room);
        const int why = errno;
        take_utf8(d, out, (size_t)(to - out), false);
        if (rc != (size_t)-1)
            break;
        if (why == E2BIG && to > out)
            continue;
        if (why == EINVAL && !d->raw_ended)
            break;
        if (why != EILSEQ && why != EINVAL)
            return cli_fail("%s: its encoding could not be converted: %s", d->shown, strerror(why));
        deliver(d, "\xEF\xBF\xBD", 3);
        d->repaired++;
        from++;
        left--;
    }
    if (d->raw_ended)
        take_utf8(d, NULL, 0, true);
    memmove(d->raw, from, left);
    d->taken += d->n_raw - left;
    d->n_raw = left;
    return 0;
}

/* Makes more text from the next block of the source. */
static int more(cli_document *d)
{
    const bool at_start = d->taken == 0;
    int rc = fill(d);
    if (rc)
        return rc;
    const bool last = d->raw_ended;
    if (last && d->child > 0) {
        rc = check_child(d);
        if (rc)
            return rc;
    }
    if (d->converts) {
        rc = convert(d);
        if (rc)
            return rc;
    } else {
        const size_t mark = at_start && starts_with(d->raw, d->n_raw, "\xef\xbb\xbf", 3) ? 3 : 0;
        d->taken += d->n_raw;
        take_utf8(d, (const char *)d->raw + mark, d->n_raw - mark, last);
        d->n_raw = 0;
    }
    if (d->html) {
        const char *wrong = d->plain.failed ? "not enough memory"
                                            : cli_html_push(d->html, d->plain.data ? d->plain.data : "", d->plain.len,
                                                            last && d->n_raw == 0);
        if (wrong)
            return cli_fail("%s: %s", d->shown, wrong);
        sala_buf_clear(&d->plain);
    }
    if (d->text.failed)
        return cli_fail("not enough memory");
    d->text_ended = last && d->n_raw == 0;
    return 0;
}

int cli_document_read(cli_document *d, char *text, size_t cap, size_t *n)
{
    size_t have = 0;
    while (have < cap) {
        if (d->at == d->text.len) {
            sala_buf_clear(&d->text);
            d->at = 0;
            if (d->text_ended)
                break;
            const int rc = more(d);
            if (rc)
                return rc;
            continue;
        }
        const size_t left = d->text.len - d->at, part = left < cap - have ? left : cap - have;
        memcpy(text + have, d->text.data + d->at, part);
        d->at += part;
        have += part;
    }
    *n = have;
    return 0;
}

const char *cli_document_format(const cli_document *d)
{
    static const char *const names[] = {"text", "Markdown", "HTML", "PDF"};
    return names[d->kind];
}

uint64_t cli_document_taken(const cli_document *d)
{
    return d->taken;
}

uint64_t cli_document_source_bytes(const cli_document *d)
{
    return d->source_bytes;
}

uint64_t cli_document_repaired(const cli_document *d)
{
    return d->repaired;
}
