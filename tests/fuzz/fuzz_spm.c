// module: text
/* A SentencePiece tokenizer.model from anywhere: it loads or fails with a message; what loads turns text into ids of
 * its own vocabulary and those into valid UTF-8. */
#include "text/tokenizer.h"
#include "utf8.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        " Hello <s>  \xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x81 it's\t123\r\n\0\xFF\xF0\x9F\xA6\x80 e\xCC\x81 \xEF\xAC\x81 ";
    sala_error err = {0};
    sala_tokenizer *t = NULL;
    if (sala_tokenizer_from_spm(&t, data, size, &err) != SALA_OK) {
        if (err.message[0] == '\0')
            abort();
        return 0;
    }
    const sala_text_span span = {text, sizeof text - 1, true};
    sala_ids ids = {0};
    sala_buf out = {0};
    if (sala_tokenizer_encode(t, &ids, &span, 1, true, &err) == SALA_OK &&
        sala_tokenizer_decode(t, &out, ids.data, ids.count, true, &err) != SALA_OK)
        abort(); /* an id that the vocabulary lacks */
    must_be_utf8(&out);
    sala_buf_free(&out);
    sala_ids_free(&ids);
    sala_tokenizer_free(t);
    return 0;
}
