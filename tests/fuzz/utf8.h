/* What the targets of tokenizers share. */
#ifndef SALA_TESTS_FUZZ_UTF8_H
#define SALA_TESTS_FUZZ_UTF8_H

#include "base/base.h"

#include <stdlib.h>

/* Text that comes out of a tokenizer is valid, whatever went in. */
static inline void must_be_utf8(const sala_buf *text)
{
    uint32_t cp;
    for (size_t i = 0; i < text->len;) {
        const int len = sala_utf8_decode(text->data + i, text->len - i, &cp);
        if (len == 0)
            abort();
        i += (size_t)len;
    }
}

#endif
