/* Reads a file and writes it again through our readers and writers: a tool of formats.py, which compiles it.
 *
 *   format_copy gguf IN OUT | safetensors IN OUT | npy ROWS COLS OUT | ids IN
 */
#include "format/gguf.h"
#include "format/npy.h"
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static sala_error err;

static int failed(void)
{
    fprintf(stderr, "%s\n", err.message);
    return 1;
}

/* Data go out in pieces, from the last tensor to the first, the later half of each before the earlier. */
#define WRITE_BACKWARDS(list, write, w)                                                                                \
    for (size_t i = (list).count; i-- > 0;) {                                                                          \
        const sala_tensor *t = &(list).items[i];                                                                       \
        const uint64_t half = t->bytes / 2;                                                                            \
        if (write(w, i, half, (const uint8_t *)t->data + half, t->bytes - half, &err) ||                               \
            write(w, i, 0, t->data, half, &err))                                                                       \
            return failed();                                                                                           \
    }

static int copy_gguf(const char *in, const char *out)
{
    sala_gguf *g;
    sala_gguf_writer *w;
    if (sala_gguf_open(&g, in, &err) || sala_gguf_writer_open(&w, out, &err))
        return failed();
    for (size_t i = 0; i < sala_gguf_n_kv(g); i++)
        sala_gguf_write_kv(w, sala_gguf_kv_at(g, i));
    const sala_tensor_list list = sala_gguf_tensors(g);
    for (size_t i = 0; i < list.count; i++)
        sala_gguf_write_tensor(w, list.items[i].name, list.items[i].dtype, list.items[i].n_dims, list.items[i].ne);
    if (sala_gguf_writer_begin_data(w, &err))
        return failed();
    WRITE_BACKWARDS(list, sala_gguf_write_data, w)
    if (sala_gguf_writer_commit(w, &err))
        return failed();
    sala_gguf_close(g);
    return 0;
}

static int copy_safetensors(const char *in, const char *out)
{
    sala_safetensors *st;
    sala_safetensors_writer *w;
    if (sala_safetensors_open(&st, in, &err) || sala_safetensors_writer_open(&w, out, &err))
        return failed();
    const sala_tensor_list list = sala_safetensors_tensors(st);
    for (size_t i = 0; i < list.count; i++)
        sala_safetensors_write_tensor(w, list.items[i].name, list.items[i].dtype, list.items[i].n_dims,
                                      list.items[i].ne);
    if (sala_safetensors_writer_begin_data(w, &err))
        return failed();
    WRITE_BACKWARDS(list, sala_safetensors_write_data, w)
    if (sala_safetensors_writer_commit(w, &err))
        return failed();
    sala_safetensors_close(st);
    return 0;
}

static int write_npy(int64_t rows, int64_t cols, const char *out)
{
    sala_npy_writer *w;
    float *row = malloc((size_t)cols * sizeof *row + 1);
    if (!row || sala_npy_writer_open(&w, out, rows, cols, &err))
        return failed();
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++)
            row[c] = (float)(r * cols + c);
        if (sala_npy_write_rows(w, row, 1, &err))
            return failed();
    }
    free(row);
    return sala_npy_writer_commit(w, &err) ? failed() : 0;
}

static int print_ids(const char *in)
{
    static uint8_t bytes[1 << 20];
    FILE *f = fopen(in, "rb");
    const size_t n = f ? fread(bytes, 1, sizeof bytes, f) : 0;
    if (f)
        fclose(f);
    int32_t *ids;
    size_t count;
    if (sala_ids_parse(&ids, &count, bytes, n, &err))
        return failed();
    for (size_t i = 0; i < count; i++)
        printf("%" PRId32 "\n", ids[i]);
    free(ids);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "gguf") == 0)
        return copy_gguf(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "safetensors") == 0)
        return copy_safetensors(argv[2], argv[3]);
    if (argc == 5 && strcmp(argv[1], "npy") == 0)
        return write_npy(atoll(argv[2]), atoll(argv[3]), argv[4]);
    if (argc == 3 && strcmp(argv[1], "ids") == 0)
        return print_ids(argv[2]);
    fprintf(stderr, "usage: format_copy gguf IN OUT | safetensors IN OUT | npy ROWS COLS OUT | ids IN\n");
    return 2;
}
