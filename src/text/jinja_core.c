/* The interpreter's memory, limits, errors and strings. */
#include "text/jinja_core.h"

#include <stdio.h>
#include <stdlib.h>

/* Under AddressSanitizer every allocation gets a block of its own, so that overruns are noticed. */
#if defined(__SANITIZE_ADDRESS__)
enum { BLOCK_BYTES = 0 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { BLOCK_BYTES = 0 };
#else
enum { BLOCK_BYTES = 1 << 16 };
#endif
#else
enum { BLOCK_BYTES = 1 << 16 };
#endif

struct jj_block {
    jj_block *next;
    size_t used, size;
    _Alignas(max_align_t) unsigned char data[];
};

/* ---- errors ---- */

_Noreturn void sala_jj_vfail(jj *j, sala_status status, const char *fmt, va_list args)
{
    char text[420];
    vsnprintf(text, sizeof text, fmt, args);
    if (j->line > 0)
        sala_fail_at(j->err, status, j->at, "line %d: %s", j->line, text);
    else
        sala_fail_at(j->err, status, j->at, "%s", text);
    j->status = status;
    longjmp(j->escape, 1);
}

_Noreturn void sala_jj_fail(jj *j, sala_status status, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    sala_jj_vfail(j, status, fmt, args);
}

_Noreturn void sala_jj_fail_words(jj *j, const jj_str *words)
{
    const int max = (int)sizeof j->err->message;
    sala_fail(j->err, SALA_E_TEMPLATE, "%.*s", words->bytes < (size_t)max ? (int)words->bytes : max, words->data);
    j->status = SALA_E_TEMPLATE;
    longjmp(j->escape, 1);
}

void sala_jj_step(jj *j, uint64_t n)
{
    j->steps += n;
    if (j->steps > j->max_steps)
        sala_jj_fail(j, SALA_E_LIMIT, "the template does more than %llu steps", (unsigned long long)j->max_steps);
}

void sala_jj_enter(jj *j)
{
    if (j->depth >= j->max_depth)
        sala_jj_fail(j, SALA_E_LIMIT, "calls or values nest deeper than %d levels", j->max_depth);
    j->depth++;
}

void sala_jj_leave(jj *j)
{
    j->depth--;
}

/* ---- memory ---- */

void *sala_jj_alloc(jj *j, uint64_t bytes)
{
    const uint64_t align = _Alignof(max_align_t);
    jj_block *b = j->blocks;
    if (bytes > j->max_held || j->held > j->max_held - bytes)
        sala_jj_fail(j, SALA_E_LIMIT, "the template needs more than %llu MiB of memory",
                     (unsigned long long)(j->max_held >> 20));
    const size_t need = (size_t)((bytes + align - 1) / align * align);
    if (!b || b->size - b->used < need) {
        const size_t size = need > BLOCK_BYTES ? need : (size_t)BLOCK_BYTES;
        b = malloc(sizeof *b + size);
        if (!b) {
            sala_fail_memory(j->err, size);
            j->status = SALA_E_MEMORY;
            longjmp(j->escape, 1);
        }
        *b = (jj_block){.next = j->blocks, .size = size};
        j->blocks = b;
        j->held += size;
    }
    void *p = b->data + b->used;
    b->used += need;
    return p;
}

void *sala_jj_alloc_array(jj *j, size_t n, size_t size)
{
    uint64_t bytes = 0;
    if (!sala_mul_size(&bytes, n, size))
        sala_jj_fail(j, SALA_E_LIMIT, "the template needs more memory than there can be");
    return sala_jj_alloc(j, bytes);
}

void *sala_jj_grow(jj *j, void *p, uint64_t old_bytes, uint64_t new_bytes)
{
    const uint64_t align = _Alignof(max_align_t);
    jj_block *b = j->blocks;
    const uint64_t old_need = (old_bytes + align - 1) / align * align;
    /* What was allocated last can be extended where it is. */
    if (p && old_need && b->used >= old_need && b->data + b->used - old_need == (unsigned char *)p) {
        const uint64_t need = (new_bytes + align - 1) / align * align;
        if (need <= b->size - (b->used - old_need)) {
            b->used += (size_t)(need - old_need);
            return p;
        }
    }
    void *q = sala_jj_alloc(j, new_bytes);
    if (old_bytes)
        memcpy(q, p, (size_t)old_bytes);
    return q;
}

char *sala_jj_text(jj *j, const char *s, size_t n)
{
    char *p = sala_jj_alloc(j, (uint64_t)n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void sala_jj_drop_arena(jj_block *b)
{
    while (b) {
        jj_block *next = b->next;
        free(b);
        b = next;
    }
}

/* ---- strings ---- */

static void charge_string(jj *j, uint64_t bytes)
{
    if (bytes > j->max_made || j->made > j->max_made - bytes)
        sala_jj_fail(j, SALA_E_LIMIT, "the template makes more than %llu bytes of text",
                     (unsigned long long)j->max_made);
    j->made += bytes;
}

static void reserve(jj_builder *b, size_t n)
{
    jj *j = b->j;
    if (n > j->max_made || b->len > j->max_made - n)
        sala_jj_fail(j, SALA_E_LIMIT, "the template makes more than %llu bytes of text",
                     (unsigned long long)j->max_made);
    if (b->cap - b->len >= n)
        return;
    size_t cap = b->cap < 32 ? 64 : 2 * b->cap;
    if (cap < b->len + n)
        cap = b->len + n;
    b->data = sala_jj_grow(j, b->data, b->len, cap);
    if (b->from)
        b->from = sala_jj_grow(j, b->from, b->len, cap);
    b->cap = cap;
}

/* Makes the builder able to say `input` about the next n bytes. */
static void mark(jj_builder *b, size_t n, bool input)
{
    if (b->len == 0 && !b->from) {
        b->input = input;
        return;
    }
    if (!b->from && b->input == input)
        return;
    if (!b->from) {
        b->from = sala_jj_alloc(b->j, b->cap);
        memset(b->from, b->input, b->len);
    }
    memset(b->from + b->len, input, n);
}

void sala_jj_put(jj_builder *b, const char *data, size_t n, bool input)
{
    if (n == 0)
        return;
    sala_jj_step(b->j, n / 64);
    reserve(b, n);
    mark(b, n, input);
    memcpy(b->data + b->len, data, n);
    b->len += n;
}

void sala_jj_put_sub(jj_builder *b, const jj_str *s, size_t at, size_t n)
{
    if (!s->from) {
        sala_jj_put(b, s->data + at, n, s->input);
        return;
    }
    for (size_t i = at; i < at + n;) {
        size_t k = i + 1;
        while (k < at + n && s->from[k] == s->from[i])
            k++;
        sala_jj_put(b, s->data + i, k - i, s->from[i]);
        i = k;
    }
}

void sala_jj_put_str(jj_builder *b, const jj_str *s)
{
    sala_jj_put_sub(b, s, 0, s->bytes);
}

void sala_jj_put_lit(jj_builder *b, const char *s, bool input)
{
    sala_jj_put(b, s, strlen(s), input);
}

void sala_jj_put_fill(jj_builder *b, char c, int64_t n)
{
    if (n <= 0)
        return;
    sala_jj_step(b->j, (uint64_t)n / 64);
    reserve(b, (size_t)n);
    mark(b, (size_t)n, false);
    memset(b->data + b->len, c, (size_t)n);
    b->len += (size_t)n;
}

void sala_jj_put_cp(jj_builder *b, uint32_t cp, bool input)
{
    char s[4];
    sala_jj_put(b, s, sala_utf8_encode(s, cp), input);
}

static size_t count_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    return chars;
}

jj_str *sala_jj_finish(jj_builder *b)
{
    charge_string(b->j, b->len);
    jj_str *s = sala_jj_alloc(b->j, sizeof *s);
    *s = (jj_str){.data = b->len ? b->data : "",
                  .from = b->from,
                  .bytes = b->len,
                  .chars = count_chars(b->data, b->len),
                  .input = b->input};
    return s;
}

jj_str *sala_jj_str_of(jj *j, const char *data, size_t n, bool input)
{
    jj_str *s = sala_jj_alloc(j, sizeof *s);
    *s = (jj_str){.data = data, .bytes = n, .chars = count_chars(data, n), .input = input};
    return s;
}

jj_str *sala_jj_sub(jj *j, const jj_str *s, size_t at, size_t n)
{
    jj_str *r = sala_jj_alloc(j, sizeof *r);
    *r = (jj_str){.data = s->data + at,
                  .from = s->from ? s->from + at : NULL,
                  .bytes = n,
                  .chars = s->chars == s->bytes ? n : count_chars(s->data + at, n),
                  .input = s->input,
                  .markup = s->markup};
    sala_jj_step(j, n / 64);
    return r;
}

size_t sala_jj_byte_at(const jj_str *s, size_t chars)
{
    if (s->chars == s->bytes || chars >= s->chars)
        return chars >= s->chars ? s->bytes : chars;
    size_t at = 0;
    while (chars > 0) {
        at++;
        while (at < s->bytes && ((unsigned char)s->data[at] & 0xC0) == 0x80)
            at++;
        chars--;
    }
    return at;
}

bool sala_jj_is_input(const jj_str *s, size_t at)
{
    return s->from ? s->from[at] : s->input;
}

bool sala_jj_same(const jj_str *a, const jj_str *b)
{
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

bool sala_jj_is(const jj_str *s, const char *text)
{
    return s->bytes == strlen(text) && memcmp(s->data, text, s->bytes) == 0;
}

size_t sala_jj_find(jj *j, const jj_str *s, size_t from, const jj_str *what)
{
    if (from > s->bytes || what->bytes > s->bytes - from)
        return SIZE_MAX;
    if (what->bytes == 0)
        return from;
    const char *end = s->data + s->bytes - what->bytes + 1, *p = s->data + from;
    while (p < end && (p = memchr(p, what->data[0], (size_t)(end - p))) != NULL) {
        if (memcmp(p, what->data, what->bytes) == 0) {
            sala_jj_step(j, ((size_t)(p - s->data) - from) / 64 + 1);
            return (size_t)(p - s->data);
        }
        sala_jj_step(j, 1 + what->bytes / 64); /* candidates are what makes a search slow */
        p++;
    }
    sala_jj_step(j, (s->bytes - from) / 64);
    return SIZE_MAX;
}

uint32_t sala_jj_cp(const jj_str *s, size_t at, size_t *len)
{
    uint32_t cp = 0;
    const int n = sala_utf8_decode(s->data + at, s->bytes - at, &cp);
    *len = n > 0 ? (size_t)n : 1;
    return cp;
}

bool sala_jj_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}
