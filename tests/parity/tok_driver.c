/* Batch driver of the tokenizer for tests/parity/tokenizer_parity.py and for timing.
 *
 *   tok_driver KIND PATH encode [special] [parse]   NUL-free records: u32 length, bytes, on standard input;
 *                                                   u32 count, i32 ids for each on standard output
 *   tok_driver KIND PATH decode [skip]              the reverse; the text is also made by streaming, and both must
 * agree tok_driver KIND PATH speed FILE                 MB/s over the file as one text tok_driver KIND PATH gguf OUT
 * ROWS              writes a GGUF file with the tokenizer only tok_driver KIND PATH info
 *
 * KIND: json (PATH[,CONFIG]), spm, gguf, dir. */
#include "os/os.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

static sala_error err;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err.message);
    exit(1);
}

static uint8_t *file(const char *path, size_t *bytes)
{
    uint8_t *data;
    const int e = sala_os_read_file(&data, bytes, path, 0);
    if (e != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(e));
        exit(1);
    }
    return data;
}

static sala_tokenizer *load(const char *kind, const char *path)
{
    sala_tokenizer *t = NULL;
    sala_status st;
    size_t n, m = 0;
    if (strcmp(kind, "dir") == 0) {
        st = sala_tokenizer_from_dir(&t, path, &err);
    } else if (strcmp(kind, "gguf") == 0) {
        sala_gguf *g;
        st = sala_gguf_open(&g, path, &err);
        if (st == SALA_OK) {
            st = sala_tokenizer_from_gguf(&t, g, &err);
            sala_gguf_close(g);
        }
    } else {
        char *first = sala_strdup(path), *comma = strchr(first, ',');
        if (comma != NULL)
            *comma = '\0';
        uint8_t *data = file(first, &n), *config = comma != NULL ? file(comma + 1, &m) : NULL;
        st = strcmp(kind, "spm") == 0 ? sala_tokenizer_from_spm(&t, data, n, &err)
                                      : sala_tokenizer_from_json(&t, (char *)data, n, (char *)config, m, &err);
        free(data);
        free(config);
        free(first);
    }
    if (st != SALA_OK)
        die(path);
    return t;
}

static bool get(void *to, size_t n)
{
    return n == 0 || fread(to, 1, n, stdin) == n;
}
static void put(const void *from, size_t n)
{
    fwrite(from, 1, n, stdout);
}

static void encode_all(const sala_tokenizer *t, bool special, bool parse)
{
    uint32_t n;
    while (get(&n, 4)) {
        char *s = malloc(n + 1u);
        if (s == NULL || !get(s, n))
            exit(1);
        sala_ids ids = {0};
        const sala_text_span span = {s, n, parse};
        if (sala_tokenizer_encode(t, &ids, &span, 1, special, &err) != SALA_OK)
            die("encode");
        const uint32_t count = (uint32_t)ids.count;
        put(&count, 4);
        put(ids.data, count * 4u);
        sala_ids_free(&ids);
        free(s);
    }
}

static void decode_all(const sala_tokenizer *t, bool skip)
{
    uint32_t n;
    sala_detokenizer *d;
    if (sala_detokenizer_open(&d, t, skip, &err) != SALA_OK)
        die("detokenizer");
    while (get(&n, 4)) {
        int32_t *ids = malloc(n * 4u + 4u);
        if (ids == NULL || !get(ids, n * 4u))
            exit(1);
        sala_buf out = {0}, piece = {0}, sum = {0};
        if (sala_tokenizer_decode(t, &out, ids, n, skip, &err) != SALA_OK)
            die("decode");
        for (uint32_t i = 0; i <= n; i++) {
            sala_buf_clear(&piece);
            if (i == n)
                sala_detokenizer_flush(d, &piece);
            else if (sala_detokenizer_push(d, ids[i], &piece, &err) != SALA_OK)
                die("push");
            uint32_t cp;
            for (size_t k = 0; k < piece.len;) {
                const int len = sala_utf8_decode(piece.data + k, piece.len - k, &cp);
                if (len == 0) {
                    fprintf(stderr, "half a character was pushed out\n");
                    exit(1);
                }
                k += (size_t)len;
            }
            if (piece.len > 0)
                sala_buf_add(&sum, piece.data, piece.len);
        }
        if (sum.len != out.len || (sum.len > 0 && memcmp(sum.data, out.data, sum.len) != 0)) {
            fprintf(stderr, "streaming differs from decoding at once\n");
            exit(1);
        }
        const uint32_t count = (uint32_t)out.len;
        put(&count, 4);
        put(out.data, count);
        sala_buf_free(&out);
        sala_buf_free(&piece);
        sala_buf_free(&sum);
        free(ids);
    }
    sala_detokenizer_close(d);
}

static void speed(const sala_tokenizer *t, const char *path)
{
    size_t n;
    uint8_t *data = file(path, &n);
    double best = 1e9;
    sala_ids ids = {0};
    const double begin = sala_os_seconds();
    for (int i = 0; i < 5 && (i == 0 || sala_os_seconds() - begin < 10); i++) {
        ids.count = 0;
        const sala_text_span span = {(char *)data, n, true};
        const double t0 = sala_os_seconds();
        if (sala_tokenizer_encode(t, &ids, &span, 1, false, &err) != SALA_OK)
            die("encode");
        const double s = sala_os_seconds() - t0;
        best = s < best ? s : best;
    }
    printf("%s: %.2f MB, %zu ids, %.3f s, %.1f MB/s\n", path, (double)n / 1e6, ids.count, best, (double)n / 1e6 / best);
    sala_ids_free(&ids);
    free(data);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: tok_driver KIND PATH encode|decode|speed|gguf|info ...\n");
        return 2;
    }
    const double t0 = sala_os_seconds();
    sala_tokenizer *t = load(argv[1], argv[2]);
    const double loaded = sala_os_seconds() - t0;
    bool special = false, parse = false, skip = false;
    for (int i = 4; i < argc; i++) {
        special = special || strcmp(argv[i], "special") == 0;
        parse = parse || strcmp(argv[i], "parse") == 0;
        skip = skip || strcmp(argv[i], "skip") == 0;
    }
    if (strcmp(argv[3], "encode") == 0) {
        encode_all(t, special, parse);
    } else if (strcmp(argv[3], "decode") == 0) {
        decode_all(t, skip);
    } else if (strcmp(argv[3], "speed") == 0 && argc > 4) {
        speed(t, argv[4]);
    } else if (strcmp(argv[3], "gguf") == 0 && argc > 5) {
        sala_gguf_writer *w;
        const char *notice;
        if (sala_gguf_writer_open(&w, argv[4], &err) != SALA_OK)
            die(argv[4]);
        sala_gguf_write_str(w, "general.architecture", "llama", 5);
        if (sala_tokenizer_write_gguf(t, w, atoi(argv[5]), &notice, &err) != SALA_OK) {
            sala_gguf_writer_abort(w);
            die("write_gguf");
        }
        if (notice != NULL)
            printf("%s\n", notice);
        if (sala_gguf_writer_begin_data(w, &err) != SALA_OK || sala_gguf_writer_commit(w, &err) != SALA_OK)
            die(argv[4]);
    } else {
        printf("%s, pre-tokenizer %s, %d ids, bos %d eos %d pad %d unk %d, adds bos %d eos %d, loaded in %.3f s\n",
               sala_tokenizer_kind(t), sala_tokenizer_pre(t), sala_tokenizer_n_vocab(t), sala_tokenizer_bos(t),
               sala_tokenizer_eos(t), sala_tokenizer_pad(t), sala_tokenizer_unk(t), sala_tokenizer_adds_bos(t),
               sala_tokenizer_adds_eos(t), loaded);
    }
    sala_tokenizer_free(t);
    return 0;
}
