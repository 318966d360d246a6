#include "input.h"

#include "format/npy.h"
#include "os/os.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

bool cli_stdin_is_piped(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 && (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode));
}

/* Says what it waits for when nothing comes: a pipe that somebody left open looks like a hang otherwise. */
static void explain_waiting(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (isatty(STDIN_FILENO))
        cli_say("reading standard input; Ctrl-D ends it");
    else if (poll(&p, 1, 2000) == 0)
        cli_say("waiting for standard input to end (use </dev/null if there is none)");
}

int cli_read(char **data, size_t *bytes, const char *path)
{
    const bool is_stdin = strcmp(path, "-") == 0;
    if (is_stdin)
        explain_waiting();
    const int why = sala_os_read_file((uint8_t **)data, bytes, path, 0);
    if (why)
        return cli_fail("%s: %s", is_stdin ? "standard input" : path, strerror(why));
    return 0;
}

int cli_read_text(char **data, size_t *bytes, const cli_options *o)
{
    if (o->prompt) {
        *data = sala_strdup(o->prompt);
        *bytes = strlen(o->prompt);
        return *data ? 0 : cli_fail("not enough memory");
    }
    return cli_read(data, bytes, o->file ? o->file : "-");
}

int cli_check_out(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode))
        return 0;
    return cli_fail("%s is %s; the output must be a regular file", path,
                    S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
}

static int ids_of_json(int32_t **ids, size_t *n, const char *data, size_t bytes, const char *from)
{
    json_error_t where;
    json_t *array = json_loadb(data, bytes, 0, &where);
    if (!json_is_array(array)) {
        json_decref(array);
        return cli_fail("%s: neither numbers nor a JSON array of numbers (%s)", from, where.text);
    }
    int32_t *out = malloc((json_array_size(array) + 1) * sizeof *out);
    int rc = out ? 0 : cli_fail("not enough memory");
    size_t i;
    json_t *item;
    json_array_foreach(array, i, item)
    {
        const json_int_t v = json_is_integer(item) ? json_integer_value(item) : -1;
        if (rc == 0 && (v < 0 || v > INT32_MAX))
            rc = cli_fail("%s: element %zu of the array is not a token id", from, i);
        if (rc == 0)
            out[i] = (int32_t)v;
    }
    *n = json_array_size(array);
    json_decref(array);
    if (rc)
        free(out);
    else
        *ids = out;
    return rc;
}

int cli_parse_ids(int32_t **ids, size_t *n, const char *data, size_t bytes, const char *from)
{
    const size_t blank = strspn(data, " \t\r\n");
    if (blank < bytes && data[blank] == '[')
        return ids_of_json(ids, n, data, bytes, from);
    sala_error err = {0};
    if (sala_ids_parse(ids, n, data, bytes, &err) != SALA_OK)
        return cli_fail("%s: %s", from, err.message);
    return 0;
}
