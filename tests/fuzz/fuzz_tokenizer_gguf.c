// module: text
/* A tokenizer in the metadata of a GGUF file from anywhere: it loads or fails with a message; what loads turns text
 * into ids of its own vocabulary and those into valid UTF-8. */
#include "text/tokenizer.h"
#include "utf8.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const sala_tokenizer *t)
{
    static const char text[] =
        " Hello <s>  \xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x81 it's\t1234\r\n\0\xFF\xF0\x9F\xA6\x80 e\xCC\x81 ";
    const sala_text_span spans[] = {{text, 20, true}, {text + 20, sizeof text - 21, false}};
    sala_ids ids = {0};
    sala_buf out = {0};
    if (sala_tokenizer_encode(t, &ids, spans, 2, true, NULL) == SALA_OK &&
        sala_tokenizer_decode(t, &out, ids.data, ids.count, true, NULL) != SALA_OK)
        abort(); /* an id that the vocabulary lacks */
    must_be_utf8(&out);
    sala_buf_free(&out);
    sala_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_error err = {0};
    sala_gguf *g = NULL;
    sala_tokenizer *t = NULL;
    if (sala_gguf_parse(&g, data, size, &err) != SALA_OK)
        return 0;
    if (sala_tokenizer_from_gguf(&t, g, &err) == SALA_OK)
        use(t);
    else if (err.message[0] == '\0')
        abort();
    sala_tokenizer_free(t);
    sala_gguf_close(g);
    return 0;
}
