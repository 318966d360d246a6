/* sala: long-context language models from plain C.
 *
 * The public interface: a model is immutable once opened and may be shared by threads; a session is one mutable
 * timeline of tokens owned by one thread at a time; a sampler turns logits into token ids.
 *
 * Conventions: fallible functions return a sala_status; detail goes to the caller's sala_error, which may be NULL.
 * Output parameters come first and are untouched on failure. Strings are UTF-8. Strings and arrays that a function
 * hands out are freed with sala_free() when the comment says "owned by the caller"; all others are borrowed.
 * Zero-initialise a *_params struct for the defaults. The library prints nothing and never exits.
 */
#ifndef SALA_H
#define SALA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SALA_VERSION_MAJOR 0
#define SALA_VERSION_MINOR 1
#define SALA_VERSION_PATCH 0
#define SALA_VERSION_STRING "0.1.0"

#if defined(SALA_SHARED) && defined(__GNUC__)
#define SALA_API __attribute__((visibility("default")))
#else
#define SALA_API
#endif

/* ---- errors ---------------------------------------------------------------------------------------------------- */

#define SALA_STATUS_LIST(X)                                                                                            \
    X(OK, "done")                                                                                                      \
    X(E_INVALID, "invalid argument")                                                                                   \
    X(E_NOT_FOUND, "not found")                                                                                        \
    X(E_IO, "input or output failed")                                                                                  \
    X(E_TRUNCATED, "data ends too early")                                                                              \
    X(E_CORRUPT, "data contradicts itself")                                                                            \
    X(E_UNSUPPORTED, "not supported")                                                                                  \
    X(E_MEMORY, "not enough memory")                                                                                   \
    X(E_LIMIT, "a limit was reached")                                                                                  \
    X(E_NUMERIC, "infinity or not-a-number in the computation")                                                        \
    X(E_TEMPLATE, "the chat template raised an error")                                                                 \
    X(E_CANCELLED, "cancelled")                                                                                        \
    X(E_STATE, "not possible in this state")

typedef enum sala_status {
#define X(name, text) SALA_##name,
    SALA_STATUS_LIST(X)
#undef X
} sala_status;

typedef struct sala_error {
    sala_status code;
    int64_t position;  /* byte offset in the input where it was noticed, or -1 */
    char message[500]; /* what was found, what was expected, what to do; never ends in a newline */
} sala_error;

SALA_API const char *sala_status_text(sala_status status);
SALA_API const char *sala_version(void);
SALA_API void sala_free(void *memory);

/* ---- model ----------------------------------------------------------------------------------------------------- */

typedef struct sala_model sala_model;

/* Called now and then during long work; `done` of `total` units. Return false to cancel (SALA_E_CANCELLED). */
typedef bool sala_progress_fn(void *user, const char *what, uint64_t done, uint64_t total);

typedef struct sala_model_params {
    int n_threads;       /* 0: one per core that this process may use, slow cores left out */
    const char *kernels; /* NULL or "auto": the fastest of this CPU; "ref"; or a family such as "avx2" */
    bool vocab_only;     /* tokenizer, template and config; no weights are touched */
    bool no_pack;        /* leave weights as they lie in the file even where packing would be faster */
    /* Sparse attention (InfLLM-v2) in the softmax layers. NULL: as the model's configuration says; "off"; "on": with
     * the constants of MiniCPM4; or "topk=64,window=2048,dense-len=8192,block=64,init=1,kernel=32,stride=16,nope=0",
     * where what is left out stays as it is. */
    const char *sparse;
    sala_progress_fn *progress;
    void *progress_user;
} sala_model_params;

/* Opens a GGUF file (any part of a split one), or a Hugging Face directory. */
SALA_API sala_status sala_model_open(sala_model **out, const char *path, const sala_model_params *params,
                                     sala_error *err);
SALA_API void sala_model_close(sala_model *model); /* NULL is fine; sessions must be closed before */

typedef struct sala_model_info {
    const char *path;
    const char *architecture;  /* "llama", "minicpm", "minicpm-sala", ... */
    const char *name;          /* general.name or directory name */
    const char *quantization;  /* the type that holds most of the weights, e.g. "Q4_1" */
    const char *kernels;       /* kernel family in use, e.g. "avx512" */
    const char *chat_template; /* Jinja source, or NULL */
    int32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
    int64_t n_ctx_train;
    uint64_t n_params;
    uint64_t weight_bytes;
    int n_threads;
    /* How the model's makers sample; negative: they do not say. */
    float temperature, top_p, min_p, repeat_penalty;
    int32_t top_k;
} sala_model_info;

SALA_API void sala_model_get_info(const sala_model *model, sala_model_info *out); /* strings borrowed from model */

/* Fills `ids` with the tokens that end a turn; returns how many there are (may exceed cap). */
SALA_API int sala_model_end_tokens(const sala_model *model, int32_t *ids, int cap);

/* ---- text ------------------------------------------------------------------------------------------------------ */

enum {
    SALA_TOK_ADD_SPECIAL = 1,   /* let the tokenizer add what it adds by itself: BOS, EOS */
    SALA_TOK_PARSE_SPECIAL = 2, /* text such as <|im_start|> becomes the control token */
};

/* *ids: owned by the caller. `text` may hold NUL bytes. */
SALA_API sala_status sala_tokenize(const sala_model *model, int32_t **ids, size_t *n_ids, const char *text,
                                   size_t text_bytes, unsigned flags, sala_error *err);

/* *text: owned by the caller, NUL-terminated beyond *text_bytes. SALA_E_INVALID if an id is not in the vocabulary. */
SALA_API sala_status sala_detokenize(const sala_model *model, char **text, size_t *text_bytes, const int32_t *ids,
                                     size_t n_ids, bool skip_special, sala_error *err);

/* Renders a chat: `request_json` is {"messages":[...],"tools":[...],"add_generation_prompt":true, ...}; further keys
 * become variables of the template. With `prompt` only: the text. With `ids`: the tokens, where only the template's own
 * spans, never the messages' contents, may become control tokens. Either output may be NULL. Owned by the caller. */
SALA_API sala_status sala_chat_prompt(const sala_model *model, char **prompt, size_t *prompt_bytes, int32_t **ids,
                                      size_t *n_ids, const char *request_json, sala_error *err);

/* ---- sessions -------------------------------------------------------------------------------------------------- */

typedef struct sala_session sala_session;

typedef enum sala_kv_type {
    SALA_KV_DEFAULT, /* f16; f32 with the reference kernels */
    SALA_KV_F32,
    SALA_KV_F16,
    SALA_KV_Q8_0,
    SALA_KV_Q4, /* 4 bits, a scale and a minimum for 32 components */
} sala_kv_type;

/* From which length on a sparse layer selects blocks; before, it sees everything. */
typedef enum sala_dense_switch {
    SALA_DENSE_BY_POSITION, /* each token by its own position */
    SALA_DENSE_BY_PROMPT,   /* all tokens alike, by planned_tokens, as the models' own code does for one call */
} sala_dense_switch;

typedef enum sala_longrope_rule {
    SALA_LONGROPE_BY_LENGTH, /* the long list when planned_tokens exceeds the original context */
    SALA_LONGROPE_BY_CONFIG, /* the long list when max_position_embeddings exceeds it, as the models' own code does */
} sala_longrope_rule;

typedef struct sala_session_params {
    int64_t max_tokens;     /* hard limit; 0: the trained context, or less if memory holds less */
    int64_t planned_tokens; /* prompt plus what may be generated; decides what depends on length; 0: max_tokens */
    sala_kv_type kv;
    sala_longrope_rule longrope;
    sala_dense_switch dense_switch;
} sala_session_params;

SALA_API sala_status sala_session_open(sala_session **out, sala_model *model, const sala_session_params *params,
                                       sala_error *err);
SALA_API void sala_session_close(sala_session *session);
SALA_API int64_t sala_session_length(const sala_session *session); /* tokens held */
SALA_API sala_kv_type sala_session_kv(const sala_session *session);
/* The tokens held, borrowed until the session changes. A chat compares them with its next prompt, rolls back to where
 * the two part and feeds the rest. */
SALA_API const int32_t *sala_session_tokens(const sala_session *session, size_t *n);
SALA_API int64_t sala_session_max_tokens(const sala_session *session);
SALA_API uint64_t sala_session_bytes(const sala_session *session); /* memory held now */
SALA_API uint64_t sala_session_bytes_at(const sala_model *model, sala_kv_type kv, int64_t n_tokens);
/* *out continues from the same tokens; the two share memory until they differ. */
SALA_API sala_status sala_session_fork(sala_session **out, const sala_session *session, sala_error *err);
/* Forgets all but the first n_keep tokens. Linear-attention states cannot be run backwards: where the last one kept
 * lies before n_keep, the tokens between are run through the model again (fewer than twice what is forgotten, or 512;
 * maybe more in a restored session); the result is the same bit for bit. On failure the session is as it was. */
SALA_API sala_status sala_session_rollback(sala_session *session, int64_t n_keep, sala_error *err);

/* ---- sessions on disk ------------------------------------------------------------------------------------------ */

/* Writes the session to one file, whole or not at all: whoever dies on the way leaves what was there before. The first
 * save to `path` makes the session the owner of the file (locked until the session is closed); later saves to the same
 * path write only what is new. A file that holds another session is replaced; a file that holds none is refused. */
SALA_API sala_status sala_session_save(sala_session *session, const char *path, sala_error *err);

typedef struct sala_restore_params {
    bool read_only;     /* others may read the file too; the session can be saved to another path only */
    int64_t max_tokens; /* 0: as in sala_session_params */
} sala_restore_params;

/* Continues a saved session exactly where it was. The file is mapped; its pages are compared with their checksums when
 * they are first used. SALA_E_INVALID when it was made with another model. params may be NULL. */
SALA_API sala_status sala_session_restore(sala_session **out, sala_model *model, const char *path,
                                          const sala_restore_params *params, sala_error *err);

/* A JSON object of the caller's that is saved with the session ("{}" at first); borrowed until it is set again. */
SALA_API const char *sala_session_note(const sala_session *session);
SALA_API sala_status sala_session_set_note(sala_session *session, const char *json, sala_error *err);

/* What a session file says of itself, without its model: JSON with "model" (path), "architecture", "tokens", "kv",
 * "note", ... *json: owned by the caller. */
SALA_API sala_status sala_session_describe(char **json, const char *path, sala_error *err);

/* One row of a ragged batch: one token of one session. Rows of a session must stand in order. */
typedef struct sala_row {
    int32_t token;
    int32_t session; /* index into the sessions array of the call */
    bool want;       /* logits of this row are asked for */
} sala_row;

/* Runs all rows through the model and appends them to their sessions. logits: [number of rows with want][n_vocab], may
 * be NULL if none wants any. On failure no session has changed. Calls on one model take turns. */
SALA_API sala_status sala_forward(sala_model *model, sala_session *const *sessions, int n_sessions,
                                  const sala_row *rows, int n_rows, float *logits, sala_error *err);

/* Appends tokens in chunks of `chunk` (0: 512); logits of the last token only ([n_vocab]) unless NULL. Cancels between
 * chunks when `progress` returns false; the session then holds the chunks that were done. */
SALA_API sala_status sala_prefill(sala_session *session, const int32_t *ids, size_t n_ids, int chunk, float *logits,
                                  sala_progress_fn *progress, void *progress_user, sala_error *err);

/* ---- sampling -------------------------------------------------------------------------------------------------- */

typedef struct sala_sampler sala_sampler;

typedef struct sala_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY forbids the token */
} sala_logit_bias;

/* Order: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw. temperature <= 0 is greedy. */
typedef struct sala_sampler_params {
    float temperature;       /* <= 0: greedy */
    int top_k;               /* <= 0: off */
    float top_p;             /* <= 0 or >= 1: off */
    float min_p;             /* <= 0: off */
    float typical_p;         /* <= 0 or >= 1: off */
    float repeat_penalty;    /* 0 or 1: off */
    float presence_penalty;  /* 0: off */
    float frequency_penalty; /* 0: off */
    int penalty_last_n;      /* tokens looked back at; 0: 64, -1: all */
    uint64_t seed;           /* same seed, same threads, same text */
    const sala_logit_bias *bias;
    size_t n_bias;
} sala_sampler_params;

SALA_API sala_status sala_sampler_open(sala_sampler **out, const sala_model *model, const sala_sampler_params *params,
                                       sala_error *err);
SALA_API void sala_sampler_close(sala_sampler *sampler);

typedef struct sala_candidate {
    int32_t token;
    float logprob; /* natural logarithm of the softmax over the raw logits */
} sala_candidate;

/* Draws one token from `logits` [n_vocab] (left as it is) and remembers it for the penalties. `top` (may be NULL)
 * receives the n_top most probable tokens of the raw logits, best first; `chosen` (may be NULL) the drawn one. */
SALA_API sala_status sala_sample(sala_sampler *sampler, const float *logits, int32_t *token, sala_candidate *chosen,
                                 sala_candidate *top, int n_top, sala_error *err);
SALA_API void sala_sampler_accept(sala_sampler *sampler, int32_t token); /* a prompt token, for the penalties */
SALA_API void sala_sampler_reset(sala_sampler *sampler);

/* ---- generation ------------------------------------------------------------------------------------------------ */

typedef enum sala_stop_reason {
    SALA_STOP_NONE,
    SALA_STOP_END_TOKEN,
    SALA_STOP_STRING,
    SALA_STOP_LENGTH,  /* max_new_tokens */
    SALA_STOP_CONTEXT, /* the session is full */
    SALA_STOP_CALLER,  /* the callback said so */
} sala_stop_reason;

/* Text that is safe to show: never half a UTF-8 character, never the beginning of a stop string. `token` is -1 when the
 * call only flushes. Return false to stop. */
typedef bool sala_text_fn(void *user, const char *text, size_t text_bytes, int32_t token, const sala_candidate *chosen,
                          const sala_candidate *top, int n_top);

typedef struct sala_generate_params {
    int64_t max_new_tokens; /* < 0: until the end token or the context is full; 0: none, the prompt only */
    bool ignore_eos;
    bool show_special; /* control tokens appear in the text */
    const char *const *stop;
    int n_stop;
    int n_top; /* candidates to report with each token */
    int chunk; /* prefill chunk; 0: 512 */
    sala_text_fn *on_text;
    void *user;
    sala_progress_fn *on_prefill;
    void *prefill_user;
} sala_generate_params;

typedef struct sala_generate_result {
    sala_stop_reason reason;
    int64_t n_prompt, n_new;
    double prefill_seconds, decode_seconds, first_token_seconds;
} sala_generate_result;

/* Appends the prompt to the session and generates. The session ends holding what it held, the prompt, and every
 * generated token but the last drawn one (see sala_session_tokens). SALA_E_CANCELLED when on_prefill says so. */
SALA_API sala_status sala_generate(sala_session *session, sala_sampler *sampler, const int32_t *prompt, size_t n_prompt,
                                   const sala_generate_params *params, sala_generate_result *result, sala_error *err);

#ifdef __cplusplus
}
#endif
#endif
