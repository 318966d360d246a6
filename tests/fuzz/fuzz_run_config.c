// module: train
/* run.yaml: any text is taken or refused with a place; what is taken prints a text that is taken again and prints
 * alike. */
#include "train/run_config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    sala_run_config a, b;
    sala_error err = {0};
    if (sala_run_config_parse(&a, "fuzz.yaml", (const char *)data, size, NULL, 0, &err) != SALA_OK) {
        if (!err.message[0])
            abort();
        return 0;
    }
    sala_buf first = {0}, second = {0};
    if (sala_run_config_text(&first, &a, false) != SALA_OK)
        abort();
    if (sala_run_config_parse(&b, "again", first.data, first.len, NULL, 0, &err) != SALA_OK)
        abort();
    if (sala_run_config_text(&second, &b, false) != SALA_OK || strcmp(first.data, second.data) != 0)
        abort();
    sala_buf_free(&first);
    sala_buf_free(&second);
    sala_run_config_free(&a);
    sala_run_config_free(&b);
    return 0;
}
