#include "base/json.h"

#include "os/os.h"

#include <stdlib.h>

#define MAX_FILE ((size_t)1 << 30)
#define MAX_DIGITS 18 /* as many fit 64 bits whatever they are */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The same text with ".0" behind every long run of digits that is a whole number. */
static void widen(sala_buf *out, const char *text, size_t bytes)
{
    bool in_string = false;
    for (size_t i = 0; i < bytes;) {
        const size_t begin = i;
        if (is_digit(text[i]) && !in_string) {
            while (i < bytes && is_digit(text[i]))
                i++;
            const bool fraction = begin > 0 && strchr(".eE+", text[begin - 1]) && text[begin - 1];
            const bool whole = !fraction && (i == bytes || !text[i] || !strchr(".eE", text[i]));
            sala_buf_add(out, text + begin, i - begin);
            if (whole && i - begin > MAX_DIGITS)
                sala_buf_add_str(out, ".0");
            continue;
        }
        if (text[i] == '"')
            in_string = !in_string;
        else if (in_string && text[i] == '\\' && i + 1 < bytes)
            i++;
        i++;
        sala_buf_add(out, text + begin, i - begin);
    }
}

json_t *sala_json_loadb(const char *text, size_t bytes, size_t flags, json_error_t *where)
{
    json_t *root = json_loadb(text, bytes, flags, where);
    if (root || json_error_code(where) != json_error_numeric_overflow)
        return root;
    sala_buf wide = {0};
    widen(&wide, text, bytes);
    if (!wide.failed)
        root = json_loadb(wide.data, wide.len, flags, where);
    sala_buf_free(&wide);
    return root;
}

json_t *sala_json_load_file(const char *path)
{
    uint8_t *data = NULL;
    size_t bytes = 0;
    json_error_t where;
    if (sala_os_read_file(&data, &bytes, path, MAX_FILE) != 0)
        return NULL;
    json_t *root = sala_json_loadb((const char *)data, bytes, 0, &where);
    free(data);
    return root;
}
