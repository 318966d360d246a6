/* What every module uses: errors, checked sizes, byte reader, growing buffer, random numbers.
 * Knows nothing about models. */
#ifndef SALA_BASE_BASE_H
#define SALA_BASE_BASE_H

#include "sala.h"

#include <stdarg.h>
#include <string.h>

#define SALA_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#if defined(__GNUC__)
#define SALA_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define SALA_PRINTF(fmt, args)
#endif

static inline int64_t sala_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t sala_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- errors ---- */

/* Fills *err (may be NULL) and returns `code`, so that a failing function is one `return sala_fail(...)`. */
sala_status sala_fail(sala_error *err, sala_status code, const char *fmt, ...) SALA_PRINTF(3, 4);
sala_status sala_fail_at(sala_error *err, sala_status code, int64_t position, const char *fmt, ...) SALA_PRINTF(4, 5);
sala_status sala_fail_errno(sala_error *err, int errnum, const char *fmt, ...) SALA_PRINTF(3, 4);
sala_status sala_fail_memory(sala_error *err, uint64_t bytes); /* "could not get N MiB" */
/* Puts "prefix: " in front of the message that is already there; returns err's code. */
sala_status sala_fail_prefix(sala_error *err, sala_status code, const char *fmt, ...) SALA_PRINTF(3, 4);

/* ---- sizes: false on overflow, *out untouched ---- */

static inline bool sala_mul_size(uint64_t *out, uint64_t a, uint64_t b)
{
    if (b != 0 && a > UINT64_MAX / b)
        return false;
    *out = a * b;
    return true;
}
static inline bool sala_add_size(uint64_t *out, uint64_t a, uint64_t b)
{
    if (a > UINT64_MAX - b)
        return false;
    *out = a + b;
    return true;
}

/* ---- bytes: a cursor over borrowed memory; a read beyond the end sets `failed` and gives zero ---- */

typedef struct sala_reader {
    const uint8_t *data;
    size_t bytes, at;
    bool failed;
} sala_reader;

static inline sala_reader sala_reader_of(const void *data, size_t bytes)
{
    return (sala_reader){.data = data, .bytes = bytes};
}
const uint8_t *sala_read_bytes(sala_reader *r, uint64_t n); /* NULL when fewer are left */
uint8_t sala_read_u8(sala_reader *r);
uint16_t sala_read_u16(sala_reader *r); /* little endian, as all below */
uint32_t sala_read_u32(sala_reader *r);
uint64_t sala_read_u64(sala_reader *r);
float sala_read_f32(sala_reader *r);
double sala_read_f64(sala_reader *r);

/* ---- a growing byte string, always NUL-terminated when not empty; allocation failure is remembered ---- */

typedef struct sala_buf {
    char *data; /* NULL while empty */
    size_t len, cap;
    bool failed; /* out of memory at some append; later appends do nothing */
} sala_buf;

bool sala_buf_reserve(sala_buf *b, size_t extra);
void sala_buf_add(sala_buf *b, const void *data, size_t n);
void sala_buf_add_str(sala_buf *b, const char *s);
void sala_buf_add_char(sala_buf *b, char c);
void sala_buf_add_utf8(sala_buf *b, uint32_t codepoint);
void sala_buf_printf(sala_buf *b, const char *fmt, ...) SALA_PRINTF(2, 3);
void sala_buf_clear(sala_buf *b); /* keeps the memory */
void sala_buf_free(sala_buf *b);
/* Hands the memory to the caller ("" instead of NULL); NULL if an append had failed. *b is empty afterwards. */
char *sala_buf_take(sala_buf *b, size_t *len);

/* ---- UTF-8 ---- */

/* Writes the code point to s and returns how many bytes it takes, 1 to 4. */
size_t sala_utf8_encode(char s[4], uint32_t codepoint);
/* Decodes one code point at s[0..n), n > 0. Returns its length; 0 if the bytes are not valid UTF-8 (then *cp = 0xFFFD,
 * skip one byte). Surrogates and overlong forms are invalid. */
int sala_utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Number of trailing bytes of s[0..n) that begin a character not yet complete (0..3). */
int sala_utf8_incomplete_tail(const char *s, size_t n);

/* ---- random numbers: the same on every machine ---- */

typedef struct sala_rng {
    uint64_t s[4];
} sala_rng; /* xoshiro256** by Blackman and Vigna, seeded by splitmix64 */

void sala_rng_seed(sala_rng *r, uint64_t seed);
uint64_t sala_rng_next(sala_rng *r);
double sala_rng_uniform(sala_rng *r); /* [0, 1) */
double sala_rng_normal(sala_rng *r);

/* ---- arithmetic helpers ---- */

char *sala_strdup(const char *s); /* NULL-safe: NULL gives NULL */
char *sala_strndup(const char *s, size_t n);
char *sala_path_join(const char *dir, const char *name); /* malloc'ed; NULL when memory is out */
/* "1.5 GiB"; writes at most 32 bytes. Returns dst. */
char *sala_format_bytes(char dst[32], uint64_t bytes);
char *sala_format_thousands(char dst[32], uint64_t n); /* "1,234,567" */

#endif
