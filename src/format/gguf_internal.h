/* Shared by the reading and the writing half of GGUF. */
#ifndef SALA_FORMAT_GGUF_INTERNAL_H
#define SALA_FORMAT_GGUF_INTERNAL_H

#include "format/gguf.h"

#define SALA_GGUF_VERSION 3
#define SALA_GGUF_ALIGNMENT 32 /* unless general.alignment says otherwise */
#define SALA_GGUF_MAX_KEY 65535
#define SALA_GGUF_MAX_ALIGNMENT (1 << 24)

bool sala_gguf_kv_i64(const sala_gguf_kv *kv, int64_t *out); /* of a scalar, as sala_gguf_get_i64() */

/* Bytes of one value of a fixed size; 0 for strings and arrays. */
static inline uint64_t sala_gguf_type_bytes(sala_gguf_type type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)type < sizeof bytes ? bytes[type] : 0;
}

static inline uint64_t sala_align_up(uint64_t at, uint64_t alignment) /* alignment a power of two; no overflow check */
{
    return (at + alignment - 1) & ~(alignment - 1);
}

#endif
