// module: text
/* A tokenizer.json from anywhere: it loads or fails with a message; what loads turns text into ids of its own
 * vocabulary, ids into valid UTF-8, and the same by streaming. */
#include "text/tokenizer.h"
#include "utf8.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const sala_tokenizer *t)
{
    static const char text[] = "Hello <s> \xE4\xBD\xA0\xE5\xA5\xBD  it's 123\r\n\0\xFF\xF0\x9F\xA6\x80<|im_end|>";
    const sala_text_span spans[] = {{text, 20, true}, {text + 20, sizeof text - 21, false}};
    sala_ids ids = {0};
    sala_buf whole = {0}, stream = {0};
    sala_detokenizer *d;
    if (sala_tokenizer_encode(t, &ids, spans, 2, true, NULL) != SALA_OK) {
        sala_ids_free(&ids);
        return;
    }
    if (sala_tokenizer_decode(t, &whole, ids.data, ids.count, false, NULL) != SALA_OK)
        abort(); /* an id that the vocabulary lacks */
    if (sala_detokenizer_open(&d, t, false, NULL) != SALA_OK)
        abort();
    for (size_t i = 0; i < ids.count; i++)
        if (sala_detokenizer_push(d, ids.data[i], &stream, NULL) != SALA_OK)
            abort();
    sala_detokenizer_flush(d, &stream);
    if (whole.len != stream.len || (whole.len > 0 && memcmp(whole.data, stream.data, whole.len) != 0))
        abort();
    must_be_utf8(&whole);
    sala_detokenizer_close(d);
    sala_buf_free(&whole);
    sala_buf_free(&stream);
    sala_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_error err = {0};
    sala_tokenizer *t = NULL;
    /* Behind a NUL byte, if there is one: tokenizer_config.json. */
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    const size_t n = nul != NULL ? (size_t)(nul - data) : size;
    const char *config = nul != NULL ? (const char *)nul + 1 : NULL;
    const sala_status st =
        sala_tokenizer_from_json(&t, (const char *)data, n, config, nul != NULL ? size - n - 1 : 0, &err);
    if (st == SALA_OK)
        use(t);
    else if (err.message[0] == '\0')
        abort();
    sala_tokenizer_free(t);
    return 0;
}
