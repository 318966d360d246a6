// module: data
/* Any bytes as a file of documents, cut and encoded as bytes. The first byte chooses the format, the second the limits.
 * Records never exceed the limit by more than one character. */
#include "data/encode.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const sala_cut_params p = {.format = (sala_doc_format)(data[0] % 4),
                               .separator = data[0] & 4 ? "---" : NULL,
                               .split_bytes = data[0] & 8 ? 10 : 0,
                               .max_doc_bytes = (uint64_t)data[1] + 1,
                               .max_json_line = 1 << 16};
    const sala_encode_params e = {
        .text_key = "text", .bos = SALA_BYTES_BOS, .eos = SALA_BYTES_EOS, .max_doc_bytes = p.max_doc_bytes};
    sala_cutter *c;
    if (sala_cutter_open_bytes(&c, "input", data + 2, size - 2, &p, NULL) != SALA_OK)
        return 0;
    sala_encoded out = {0};
    sala_buf text = {0};
    bool more = true;
    size_t total = 0;
    while (more && total < (1 << 20)) {
        sala_record r;
        sala_buf_clear(&text);
        if (sala_cutter_next(c, &text, &r, &more, NULL) != SALA_OK || !more)
            break;
        if (!r.is_json && r.bytes > p.max_doc_bytes + 3)
            abort();
        total += r.bytes + 1;
        sala_encoded_clear(&out);
        if (sala_encode_record(&out, &e, text.data, &r, NULL) != SALA_OK)
            continue;
        for (size_t d = 0; d < out.n_docs; d++)
            if (out.docs[d].count == 0 || out.docs[d].at + out.docs[d].count > out.ids.count)
                abort();
    }
    sala_encoded_free(&out);
    sala_buf_free(&text);
    sala_cutter_close(c);
    return 0;
}
