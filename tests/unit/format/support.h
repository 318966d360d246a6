/* What the tests of files share: a folder that disappears, files made of bytes, and hand-made GGUF and safetensors
 * images. Images are built here without the writers under test. */
#ifndef SALA_TESTS_FORMAT_SUPPORT_H
#define SALA_TESTS_FORMAT_SUPPORT_H

#include "base/base.h"
#include "os/os.h"
#include "unit/test.h"

#include <unistd.h>

static char temp_dir[64];

static inline int make_temp_dir(void **state)
{
    (void)state;
    snprintf(temp_dir, sizeof temp_dir, "/tmp/sala-test-XXXXXX");
    return mkdtemp(temp_dir) ? 0 : -1;
}

static inline bool remove_one(void *user, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", (const char *)user, name);
    if (sala_os_is_dir(path)) {
        sala_os_list_dir(path, remove_one, path);
        rmdir(path);
    } else {
        unlink(path);
    }
    return true;
}

static inline int remove_temp_dir(void **state)
{
    (void)state;
    sala_os_list_dir(temp_dir, remove_one, temp_dir);
    return rmdir(temp_dir);
}

/* Path of NAME in the temporary folder; four results are valid at a time. */
static inline const char *temp_path(const char *name)
{
    static char paths[4][256];
    static unsigned turn;
    char *p = paths[turn++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", temp_dir, name);
    return p;
}

static inline bool count_one(void *user, const char *name)
{
    (void)name;
    ++*(int *)user;
    return true;
}

static inline int files_in_temp_dir(void)
{
    int n = 0;
    assert_int_equal(sala_os_list_dir(temp_dir, count_one, &n), 0);
    return n;
}

/* A copy that ends where its bytes end, so that a sanitizer sees every read beyond. */
static inline void *exact_copy(const void *data, size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    if (bytes)
        memcpy(p, data, bytes);
    return p;
}

/* ---- images ---- */

static inline void b_u8(sala_buf *b, uint8_t v)
{
    sala_buf_add(b, &v, 1);
}
static inline void b_u16(sala_buf *b, uint16_t v)
{
    sala_buf_add(b, &v, 2);
}
static inline void b_u32(sala_buf *b, uint32_t v)
{
    sala_buf_add(b, &v, 4);
}
static inline void b_u64(sala_buf *b, uint64_t v)
{
    sala_buf_add(b, &v, 8);
}
static inline void b_f32(sala_buf *b, float v)
{
    sala_buf_add(b, &v, 4);
}
static inline void b_f64(sala_buf *b, double v)
{
    sala_buf_add(b, &v, 8);
}
static inline void b_zeros(sala_buf *b, size_t n)
{
    while (n--)
        b_u8(b, 0);
}
static inline void b_pad(sala_buf *b, size_t alignment)
{
    while (b->len % alignment)
        b_u8(b, 0);
}
static inline void b_text(sala_buf *b, const char *s, size_t n)
{
    b_u64(b, n);
    sala_buf_add(b, s, n);
}
static inline void b_str(sala_buf *b, const char *s)
{
    b_text(b, s, strlen(s));
}

static inline void b_header(sala_buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    sala_buf_add(b, "GGUF", 4);
    b_u32(b, version);
    b_u64(b, n_tensors);
    b_u64(b, n_kv);
}
static inline void b_key(sala_buf *b, const char *key, uint32_t type)
{
    b_str(b, key);
    b_u32(b, type);
}
static inline void b_kv_u32(sala_buf *b, const char *key, uint32_t v)
{
    b_key(b, key, 4);
    b_u32(b, v);
}
static inline void b_kv_f32(sala_buf *b, const char *key, float v)
{
    b_key(b, key, 6);
    b_f32(b, v);
}
static inline void b_kv_str(sala_buf *b, const char *key, const char *v)
{
    b_key(b, key, 8);
    b_str(b, v);
}
static inline void b_tensor(sala_buf *b, const char *name, int n_dims, const uint64_t *ne, uint32_t type,
                            uint64_t offset)
{
    b_str(b, name);
    b_u32(b, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++)
        b_u64(b, ne[i]);
    b_u32(b, type);
    b_u64(b, offset);
}

/* Length, JSON, and `data_bytes` zeros. */
static inline void b_safetensors(sala_buf *b, const char *json, size_t data_bytes)
{
    b_u64(b, strlen(json));
    sala_buf_add_str(b, json);
    b_zeros(b, data_bytes);
}

static inline void assert_message(const sala_error *err, const char *fragment)
{
    if (!strstr(err->message, fragment))
        fail_msg("expected \"%s\" in the message \"%s\"", fragment, err->message);
}

#endif
