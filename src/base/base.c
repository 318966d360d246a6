#include "base/base.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- errors ---- */

const char *sala_status_text(sala_status status)
{
    switch (status) {
#define X(name, text)                                                                                                  \
    case SALA_##name:                                                                                                  \
        return text;
        SALA_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

const char *sala_version(void)
{
    return SALA_VERSION_STRING;
}

void sala_free(void *memory)
{
    free(memory);
}

SALA_PRINTF(4, 0)
static void fill(sala_error *err, sala_status code, int64_t position, const char *fmt, va_list args)
{
    if (!err)
        return;
    /* A message may quote an older message of the same struct: format aside first. */
    char text[sizeof err->message];
    vsnprintf(text, sizeof text, fmt, args);
    err->code = code;
    err->position = position;
    memcpy(err->message, text, sizeof text);
}

sala_status sala_fail(sala_error *err, sala_status code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, -1, fmt, args);
    va_end(args);
    return code;
}

sala_status sala_fail_at(sala_error *err, sala_status code, int64_t position, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, position, fmt, args);
    va_end(args);
    return code;
}

sala_status sala_fail_errno(sala_error *err, int errnum, const char *fmt, ...)
{
    const sala_status code = errnum == ENOENT   ? SALA_E_NOT_FOUND
                             : errnum == ENOMEM ? SALA_E_MEMORY
                             : errnum == EINVAL ? SALA_E_INVALID
                                                : SALA_E_IO;
    if (!err)
        return code;
    va_list args;
    va_start(args, fmt);
    fill(err, code, -1, fmt, args);
    va_end(args);
    const size_t n = strlen(err->message);
    snprintf(err->message + n, sizeof err->message - n, ": %s", strerror(errnum));
    return code;
}

sala_status sala_fail_memory(sala_error *err, uint64_t bytes)
{
    char size[32];
    return sala_fail(err, SALA_E_MEMORY, "could not get %s of memory", sala_format_bytes(size, bytes));
}

sala_status sala_fail_prefix(sala_error *err, sala_status code, const char *fmt, ...)
{
    if (!err)
        return code;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    const size_t room = sizeof err->message - 1;
    size_t at = n < 0 ? 0 : (size_t)n < room ? (size_t)n : room;
    for (const char *p = ": "; *p && at < room; p++)
        err->message[at++] = *p;
    for (const char *p = old; *p && at < room; p++)
        err->message[at++] = *p;
    err->message[at] = 0;
    return code;
}

/* ---- reader ---- */

const uint8_t *sala_read_bytes(sala_reader *r, uint64_t n)
{
    if (r->failed || n > r->bytes - r->at) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += (size_t)n;
    return p;
}

#define READ(name, type)                                                                                               \
    type name(sala_reader *r)                                                                                          \
    {                                                                                                                  \
        type v = 0;                                                                                                    \
        const uint8_t *p = sala_read_bytes(r, sizeof v);                                                               \
        if (p)                                                                                                         \
            memcpy(&v, p, sizeof v);                                                                                   \
        return v;                                                                                                      \
    }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little endian, and so must the machine be");
READ(sala_read_u8, uint8_t)
READ(sala_read_u16, uint16_t)
READ(sala_read_u32, uint32_t)
READ(sala_read_u64, uint64_t)
READ(sala_read_f32, float)
READ(sala_read_f64, double)
#undef READ

/* ---- buffer ---- */

bool sala_buf_reserve(sala_buf *b, size_t extra)
{
    if (b->failed || extra > SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return false;
    }
    const size_t need = b->len + extra + 1;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap += cap / 2 + 32;
    char *data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void sala_buf_add(sala_buf *b, const void *data, size_t n)
{
    if (!sala_buf_reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
}

void sala_buf_add_str(sala_buf *b, const char *s)
{
    sala_buf_add(b, s, strlen(s));
}

void sala_buf_add_char(sala_buf *b, char c)
{
    sala_buf_add(b, &c, 1);
}

void sala_buf_add_utf8(sala_buf *b, uint32_t cp)
{
    char s[4];
    sala_buf_add(b, s, sala_utf8_encode(s, cp));
}

void sala_buf_printf(sala_buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n >= 0 && sala_buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void sala_buf_clear(sala_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

void sala_buf_free(sala_buf *b)
{
    free(b->data);
    *b = (sala_buf){0};
}

char *sala_buf_take(sala_buf *b, size_t *len)
{
    if (!b->failed && !b->data)
        sala_buf_add(b, "", 0);
    char *data = b->data;
    if (b->failed) {
        free(data);
        data = NULL;
    } else if (len) {
        *len = b->len;
    }
    *b = (sala_buf){0};
    return data;
}

/* ---- UTF-8 ---- */

size_t sala_utf8_encode(char s[4], uint32_t cp)
{
    size_t n;
    if (cp < 0x80) {
        s[0] = (char)cp;
        n = 1;
    } else if (cp < 0x800) {
        s[0] = (char)(0xC0 | cp >> 6);
        s[1] = (char)(0x80 | (cp & 63));
        n = 2;
    } else if (cp < 0x10000) {
        s[0] = (char)(0xE0 | cp >> 12);
        s[1] = (char)(0x80 | (cp >> 6 & 63));
        s[2] = (char)(0x80 | (cp & 63));
        n = 3;
    } else {
        s[0] = (char)(0xF0 | cp >> 18);
        s[1] = (char)(0x80 | (cp >> 12 & 63));
        s[2] = (char)(0x80 | (cp >> 6 & 63));
        s[3] = (char)(0x80 | (cp & 63));
        n = 4;
    }
    return n;
}

static int utf8_length(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
}

int sala_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *u = (const unsigned char *)s;
    const int len = utf8_length(u[0]);
    *cp = 0xFFFD;
    if (len == 0 || (size_t)len > n)
        return 0;
    if (len == 1) {
        *cp = u[0];
        return 1;
    }
    uint32_t v = u[0] & (0xFFu >> (len + 1));
    for (int i = 1; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80)
            return 0;
        v = v << 6 | (u[i] & 63u);
    }
    if (v < smallest[len] || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return 0;
    *cp = v;
    return len;
}

int sala_utf8_incomplete_tail(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    for (int back = 1; back <= 3 && (size_t)back <= n; back++) {
        const unsigned char c = u[n - (size_t)back];
        if ((c & 0xC0) == 0x80)
            continue;
        if (utf8_length(c) <= back)
            return 0;
        /* The second byte narrows the first: E0 9x, ED Ax, F0 8x and F4 9x can never become a character. */
        if (back >= 2) {
            const unsigned char d = u[n - (size_t)back + 1];
            if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) ||
                (c == 0xF4 && d > 0x8F))
                return 0;
        }
        return back;
    }
    return 0;
}

/* ---- random numbers ---- */

void sala_rng_seed(sala_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        r->s[i] = z ^ (z >> 31);
    }
}

static inline uint64_t rotate(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

uint64_t sala_rng_next(sala_rng *r)
{
    uint64_t *s = r->s;
    const uint64_t result = rotate(s[1] * 5, 7) * 9;
    const uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

double sala_rng_uniform(sala_rng *r)
{
    return (double)(sala_rng_next(r) >> 11) * 0x1p-53;
}

double sala_rng_normal(sala_rng *r)
{
    const double u = 1.0 - sala_rng_uniform(r); /* (0, 1]: the logarithm is finite */
    const double v = sala_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* ---- helpers ---- */

char *sala_strdup(const char *s)
{
    return s ? sala_strndup(s, strlen(s)) : NULL;
}

char *sala_strndup(const char *s, size_t n)
{
    char *copy = malloc(n + 1);
    if (!copy)
        return NULL;
    if (n)
        memcpy(copy, s, n);
    copy[n] = 0;
    return copy;
}

char *sala_path_join(const char *dir, const char *name)
{
    const size_t n = strlen(dir);
    sala_buf b = {0};
    sala_buf_add(&b, dir, n);
    if (n && dir[n - 1] != '/')
        sala_buf_add_char(&b, '/');
    sala_buf_add_str(&b, name);
    return sala_buf_take(&b, NULL);
}

char *sala_format_bytes(char dst[32], uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1024 && u + 1 < SALA_ARRAY_LEN(unit)) {
        v /= 1024;
        u++;
    }
    if (u == 0)
        snprintf(dst, 32, "%.0f %s", v, unit[u]);
    else
        snprintf(dst, 32, "%.*f %s", v < 10 ? 2 : v < 100 ? 1 : 0, v, unit[u]);
    return dst;
}

char *sala_format_thousands(char dst[32], uint64_t n)
{
    char digits[24];
    const int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    int at = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            dst[at++] = ',';
        dst[at++] = digits[i];
    }
    dst[at] = 0;
    return dst;
}
