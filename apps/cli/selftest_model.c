/* A tiny random model, written as a GGUF file into a private folder: byte-level BPE with a few merges, a chat template,
 * two layers, weights in several types. Small enough to write and read in milliseconds. */
#include "selftest.h"

#include "cli.h"
#include "format/gguf.h"
#include "model/config.h"
#include "quant/quant.h"
#include "ui.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { EMBD = 256, LAYERS = 2, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 64, FF = 512, CONTEXT = 1024 };

static const char TEMPLATE[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
static const char *const MERGES[] = {"h e", "l l", "he ll", "hell o", "\xC4\xA0 w", "o r", "\xC4\xA0w or"};
static const char *const MERGED[] = {"he", "ll", "hell", "hello", "\xC4\xA0w", "or", "\xC4\xA0wor"};
static const char *const CONTROL[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
enum {
    N_MERGES = sizeof MERGES / sizeof MERGES[0],
    N_CONTROL = sizeof CONTROL / sizeof CONTROL[0],
    VOCAB = 256 + N_MERGES + N_CONTROL
};

/* ---- the file, and its removal at any time ---- */

static char folder[200], file[232];

static void remove_files(void) /* async-signal-safe */
{
    unlink(file);
    rmdir(folder);
}

void cli_selftest_model_remove(void)
{
    cli_signals_on_exit(NULL);
    if (folder[0])
        remove_files();
    folder[0] = 0;
}

static int make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    const int n = snprintf(folder, sizeof folder, "%s/sala-selftest-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (n < 0 || (size_t)n >= sizeof folder || !mkdtemp(folder)) {
        folder[0] = 0;
        return cli_fail("no folder for temporary files could be made (TMPDIR says where)");
    }
    snprintf(file, sizeof file, "%s/tiny.gguf", folder);
    cli_signals_on_exit(remove_files);
    return 0;
}

/* ---- vocabulary ---- */

/* Byte-level BPE spells bytes that are not printable as characters from U+0100 on, in their order. */
static void byte_pieces(char pieces[256][4])
{
    uint32_t next = 256;
    for (int b = 0; b < 256; b++) {
        const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
        const uint32_t cp = printable ? (uint32_t)b : next++;
        if (cp < 0x80)
            snprintf(pieces[b], 4, "%c", (int)cp);
        else
            snprintf(pieces[b], 4, "%c%c", (int)(0xC0 | cp >> 6), (int)(0x80 | (cp & 0x3F)));
    }
}

static void write_vocab(sala_gguf_writer *w)
{
    char bytes[256][4];
    sala_gguf_str tokens[VOCAB], merges[N_MERGES];
    int32_t types[VOCAB];
    byte_pieces(bytes);
    for (int i = 0; i < VOCAB; i++) {
        const char *s = i < 256 ? bytes[i] : i < 256 + N_MERGES ? MERGED[i - 256] : CONTROL[i - 256 - N_MERGES];
        tokens[i] = (sala_gguf_str){s, strlen(s)};
        types[i] = i < 256 + N_MERGES ? 1 : 3; /* normal, control */
    }
    for (int i = 0; i < N_MERGES; i++)
        merges[i] = (sala_gguf_str){MERGES[i], strlen(MERGES[i])};
    sala_gguf_write_str(w, "tokenizer.ggml.model", "gpt2", 4);
    sala_gguf_write_str(w, "tokenizer.ggml.pre", "gpt-2", 5);
    sala_gguf_write_array(w, "tokenizer.ggml.tokens", SALA_GGUF_STRING, tokens, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.token_type", SALA_GGUF_I32, types, VOCAB);
    sala_gguf_write_array(w, "tokenizer.ggml.merges", SALA_GGUF_STRING, merges, N_MERGES);
    sala_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", VOCAB - 2);
    sala_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", VOCAB - 1);
    sala_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", false);
    sala_gguf_write_str(w, "tokenizer.chat_template", TEMPLATE, strlen(TEMPLATE));
}

/* ---- weights ---- */

typedef struct spec {
    sala_tensor_role role;
    int64_t cols, rows; /* rows 0: a vector */
    sala_dtype dtype;
} spec;

static const spec WHOLE[] = {
    {SALA_T_EMBED, EMBD, VOCAB, SALA_Q8_0},
    {SALA_T_OUT_NORM, EMBD, 0, SALA_F32},
};
static const spec EACH[] = {
    {SALA_T_ATTN_NORM, EMBD, 0, SALA_F32},
    {SALA_T_Q, EMBD, (int64_t)HEADS *HEAD_DIM, SALA_Q4_K},
    {SALA_T_K, EMBD, (int64_t)KV_HEADS *HEAD_DIM, SALA_Q4_0},
    {SALA_T_V, EMBD, (int64_t)KV_HEADS *HEAD_DIM, SALA_Q6_K},
    {SALA_T_O, (int64_t)HEADS *HEAD_DIM, EMBD, SALA_Q4_1},
    {SALA_T_FFN_NORM, EMBD, 0, SALA_F32},
    {SALA_T_GATE, EMBD, FF, SALA_Q4_K},
    {SALA_T_UP, EMBD, FF, SALA_F16},
    {SALA_T_DOWN, FF, EMBD, SALA_BF16},
};

static void declare(sala_gguf_writer *w, const spec *s, int layer)
{
    char name[96];
    const int64_t ne[4] = {s->cols, s->rows ? s->rows : 1, 1, 1};
    sala_gguf_write_tensor(w, sala_tensor_name(name, s->role, layer, false), s->dtype, s->rows ? 2 : 1, ne);
}

static sala_status fill(sala_gguf_writer *w, size_t index, const spec *s, sala_rng *rng, sala_error *err)
{
    const int64_t rows = s->rows ? s->rows : 1;
    const uint64_t bytes = (uint64_t)rows * sala_dtype_bytes(s->dtype, s->cols);
    float *x = malloc((size_t)(rows * s->cols) * sizeof *x);
    void *q = malloc((size_t)bytes);
    sala_status st = x && q ? SALA_OK : sala_fail_memory(err, bytes);
    const double scale = s->rows ? 1.0 / sqrt((double)s->cols) : 0.1;
    for (int64_t i = 0; st == SALA_OK && i < rows * s->cols; i++)
        x[i] = (float)((s->rows ? 0.0 : 1.0) + scale * sala_rng_normal(rng));
    if (st == SALA_OK)
        st = sala_quantize_rows(s->dtype, q, x, rows, s->cols, NULL, err);
    if (st == SALA_OK)
        st = sala_gguf_write_data(w, index, 0, q, bytes, err);
    free(x);
    free(q);
    return st;
}

static sala_status write_model(sala_error *err)
{
    sala_gguf_writer *w = NULL;
    sala_status st = sala_gguf_writer_open(&w, file, err);
    if (st != SALA_OK)
        return st;
    sala_gguf_write_str(w, "general.architecture", "llama", 5);
    sala_gguf_write_str(w, "general.name", "selftest", 8);
    sala_gguf_write_u32(w, "llama.block_count", LAYERS);
    sala_gguf_write_u32(w, "llama.context_length", CONTEXT);
    sala_gguf_write_u32(w, "llama.embedding_length", EMBD);
    sala_gguf_write_u32(w, "llama.feed_forward_length", FF);
    sala_gguf_write_u32(w, "llama.attention.head_count", HEADS);
    sala_gguf_write_u32(w, "llama.attention.head_count_kv", KV_HEADS);
    sala_gguf_write_u32(w, "llama.rope.dimension_count", HEAD_DIM);
    sala_gguf_write_f32(w, "llama.rope.freq_base", 10000.0f);
    sala_gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    write_vocab(w);
    for (size_t i = 0; i < SALA_ARRAY_LEN(WHOLE); i++)
        declare(w, &WHOLE[i], -1);
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < SALA_ARRAY_LEN(EACH); i++)
            declare(w, &EACH[i], l);
    st = sala_gguf_writer_begin_data(w, err);
    sala_rng rng;
    sala_rng_seed(&rng, 7);
    size_t index = 0;
    for (size_t i = 0; st == SALA_OK && i < SALA_ARRAY_LEN(WHOLE); i++)
        st = fill(w, index++, &WHOLE[i], &rng, err);
    for (int l = 0; st == SALA_OK && l < LAYERS; l++)
        for (size_t i = 0; st == SALA_OK && i < SALA_ARRAY_LEN(EACH); i++)
            st = fill(w, index++, &EACH[i], &rng, err);
    if (st != SALA_OK) {
        sala_gguf_writer_abort(w);
        return st;
    }
    return sala_gguf_writer_commit(w, err);
}

int cli_selftest_model_make(const char **path)
{
    sala_error err = {0};
    int rc = make_folder();
    if (rc == 0 && write_model(&err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc)
        cli_selftest_model_remove();
    *path = file;
    return rc;
}
