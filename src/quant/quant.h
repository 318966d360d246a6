/* Turning weights into other types and files into other files: row quantisers, recipes (which tensor gets which type),
 * importance matrices, Hugging Face directory or GGUF to GGUF, GGUF to Hugging Face directory, ternary detection.
 *
 * Everything is deterministic: the same input gives the same bytes for any number of threads. Files are streamed:
 * memory is bounded by a few chunks of rows, never by a tensor. Output appears under its final name only when complete.
 */
#ifndef SALA_QUANT_QUANT_H
#define SALA_QUANT_QUANT_H

#include "base/base.h"
#include "format/gguf.h"
#include "tensor/dtype.h"

/* ---- row quantisers (rows.c) ---- */

/* F32, F16, BF16 and every quantised type of files: all of SALA_DTYPE_LIST but Q8_1, Q8_K, F64 and the integers. */
bool sala_quantize_has(sala_dtype dtype);

/* dst: n_rows rows of sala_dtype_bytes(dtype, n_cols) bytes. src [n_rows][n_cols], n_cols a multiple of the block.
 * importance [n_cols] (may be NULL): mean square of the activations that meet each column, finite and >= 0; types whose
 * format leaves no choice (F32, F16, BF16, Q8_0, TQ1_0, TQ2_0) ignore it. SALA_E_NUMERIC with the element's index in
 * err->position when a weight is not finite or its block's scale does not fit the format's 16-bit float. */
sala_status sala_quantize_rows(sala_dtype dtype, void *dst, const float *src, int64_t n_rows, int64_t n_cols,
                               const float *importance, sala_error *err);

/* ---- recipes (recipe.c) ---- */

/* What users name: one type for most tensors, better ones for the sensitive few. `file_type` is general.file_type.
 *         name     most tensors  file_type */
#define SALA_RECIPE_LIST(X)                                                                                            \
    X(F32, F32, 0)                                                                                                     \
    X(F16, F16, 1)                                                                                                     \
    X(Q4_0, Q4_0, 2)                                                                                                   \
    X(Q4_1, Q4_1, 3)                                                                                                   \
    X(Q8_0, Q8_0, 7)                                                                                                   \
    X(Q5_0, Q5_0, 8)                                                                                                   \
    X(Q5_1, Q5_1, 9)                                                                                                   \
    X(Q2_K, Q2_K, 10)                                                                                                  \
    X(Q3_K_S, Q3_K, 11)                                                                                                \
    X(Q3_K_M, Q3_K, 12)                                                                                                \
    X(Q3_K_L, Q3_K, 13)                                                                                                \
    X(Q4_K_S, Q4_K, 14)                                                                                                \
    X(Q4_K_M, Q4_K, 15)                                                                                                \
    X(Q5_K_S, Q5_K, 16)                                                                                                \
    X(Q5_K_M, Q5_K, 17)                                                                                                \
    X(Q6_K, Q6_K, 18)                                                                                                  \
    X(Q2_K_S, Q2_K, 21)                                                                                                \
    X(IQ4_NL, IQ4_NL, 25)                                                                                              \
    X(IQ4_XS, IQ4_XS, 30)                                                                                              \
    X(BF16, BF16, 32)                                                                                                  \
    X(TQ1_0, TQ1_0, 36)                                                                                                \
    X(TQ2_0, TQ2_0, 37)

typedef enum sala_recipe {
#define X(name, dtype, file_type) SALA_RECIPE_##name,
    SALA_RECIPE_LIST(X)
#undef X
        SALA_RECIPE_NONE = -1
} sala_recipe;

sala_recipe sala_recipe_by_name(const char *name); /* any case; Q3_K, Q4_K, Q5_K mean their _M form */
const char *sala_recipe_name(sala_recipe recipe);
sala_dtype sala_recipe_dtype(sala_recipe recipe);
int sala_recipe_file_type(sala_recipe recipe);
const char *sala_recipe_names(void); /* "F32, F16, ...", for messages */

/* ---- whole files (convert.c, export.c) ---- */

/* Something the user should know while the work goes on; one line without a newline. */
typedef void sala_notice_fn(void *user, const char *message);

typedef struct sala_quant_params {
    const char *type;        /* recipe name; NULL or "auto": keep 16-bit floats as they are (to_gguf from a directory),
                                keep every tensor's type (from GGUF); to_hf: f32, f16 or bf16, auto: that
                                    of the source, f16 for quantised ones */
    const char *output_type; /* dtype name for the output head; NULL: as the recipe says */
    const char *embedding_type;      /* dtype name for the token embedding; NULL: as the recipe says */
    const char *const *tensor_types; /* "PATTERN=TYPE": a regular expression searched for in tensor names, e.g.
                                        "attn_v=q8_0"; the first that matches wins */
    int n_tensor_types;
    bool pure;           /* the recipe's main type for every matrix */
    bool force;          /* ternary types for weights that are not ternary; requantise coarse types without a word */
    const char *imatrix; /* file with importance of columns (GGUF or the older binary form); NULL: none */
    const char *name;    /* general.name; NULL: from the source */
    bool dry_run;        /* choose types and sizes only; nothing is written */
    int n_threads;       /* 0: one per core */
    sala_progress_fn *progress; /* units: bytes of source weights */
    void *progress_user;
    sala_notice_fn *notice; /* may be NULL */
    void *notice_user;
} sala_quant_params;

typedef struct sala_quant_result {
    int n_tensors;
    int n_fallback;               /* tensors whose rows do not divide into the recipe's blocks and took another type */
    int n_importance;             /* matrices that the importance file covered */
    uint64_t in_bytes, out_bytes; /* of tensor data */
    uint64_t n_weights;
    double seconds;
    bool has_tokenizer; /* to_hf: tokenizer.json was written */
    char main_type[16]; /* recipe or type that most weights have now */
} sala_quant_result;

/* IN: a GGUF file (any part of a split one) or a Hugging Face directory. OUT: a GGUF file; must not be IN.
 * result and params may be NULL. */
sala_status sala_quant_to_gguf(const char *in, const char *out, const sala_quant_params *params,
                               sala_quant_result *result, sala_error *err);

/* IN: a GGUF file. OUT: a directory, made if need be: model.safetensors, config.json, generation_config.json,
 * tokenizer.json and tokenizer_config.json where the vocabulary allows it (a notice says why not otherwise). */
sala_status sala_quant_to_hf(const char *in, const char *out, const sala_quant_params *params,
                             sala_quant_result *result, sala_error *err);

/* ---- random models (random.c) ---- */

typedef enum sala_random_mixers {
    SALA_RANDOM_AS_GIVEN,
    SALA_RANDOM_DENSE,  /* every layer is a softmax layer that sees everything */
    SALA_RANDOM_SPARSE, /* every layer is a sparse one, with the config's constants or the usual ones */
} sala_random_mixers;

typedef struct sala_random_params {
    uint64_t seed;
    sala_random_mixers mixers;
    int32_t n_layers;      /* 0: as many as the config has; otherwise the kinds are spread in the same proportion */
    const char *tokenizer; /* directory, GGUF, tokenizer.json or tokenizer.model; NULL: one token for each byte */
} sala_random_params;

/* A GGUF file of random weights in the shape that CONFIG (config.json, or a directory that holds one) says, for
 * measuring where the real weights cannot be had. Weights are drawn so that hidden states and logits stay near 1. The
 * file depends on the config, the types and the seed only. params and result as above; progress counts bytes written.
 * result->in_bytes stays 0. */
sala_status sala_quant_random(const char *config, const char *out, const sala_quant_params *params,
                              const sala_random_params *random, sala_quant_result *result, sala_error *err);

/* ---- importance matrices (imatrix.c) ---- */

typedef struct sala_imatrix sala_imatrix;

/* llama.cpp's files, both the GGUF form and the older binary one. */
sala_status sala_imatrix_open(sala_imatrix **out, const char *path, sala_error *err);
sala_status sala_imatrix_parse(sala_imatrix **out, const void *data, size_t bytes, sala_error *err);
void sala_imatrix_close(sala_imatrix *m); /* NULL is fine */
size_t sala_imatrix_count(const sala_imatrix *m);
/* Mean square per column of the named tensor ("blk.0.attn_q.weight"), borrowed; NULL when the file lacks it. */
const float *sala_imatrix_find(const sala_imatrix *m, const char *tensor, int64_t *n_cols);

/* Collecting: an empty matrix, then for every matrix product the input rows it met, then a file in the GGUF form. */
sala_status sala_imatrix_new(sala_imatrix **out, sala_error *err);
/* x [n_rows][stride], the first n_cols of each row count. */
sala_status sala_imatrix_add(sala_imatrix *m, const char *tensor, const float *x, int64_t n_rows, int64_t n_cols,
                             int64_t stride, sala_error *err);
/* chunk: tokens per chunk and number of chunks, as written into the file. */
sala_status sala_imatrix_save(const sala_imatrix *m, const char *path, const char *dataset, uint32_t chunk_size,
                              uint32_t n_chunks, sala_error *err);

/* ---- ternary checkpoints (ternary.c) ---- */

typedef struct sala_ternary {
    bool ternary;    /* every weight is -s, 0 or +s with one s for each group of consecutive weights of a row */
    int64_t group;   /* the largest such group that holds for all rows: the row length, 256, 128, 64 or 32 */
    bool f16_exact;  /* every s is a half float */
    sala_dtype best; /* smallest type that holds the weights exactly: TQ1_0 is never named, TQ2_0 or Q4_0; F16, BF16
                        or F32 when not even that */
} sala_ternary;

/* Feeds rows; *t starts as sala_ternary_start(n_cols). Once not ternary it stays so. */
sala_ternary sala_ternary_start(int64_t n_cols);
void sala_ternary_rows(sala_ternary *t, const float *rows, int64_t n_rows, int64_t n_cols);
void sala_ternary_end(sala_ternary *t, int64_t n_cols);

#endif
