/* What stands behind the opaque types of sala.h. */
#ifndef SALA_INFER_ENGINE_H
#define SALA_INFER_ENGINE_H

#include "kernels/kernels.h"
#include "model/net.h"
#include "os/os.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct sala_model {
    char *path;
    sala_checkpoint files; /* vocab_only: owned here; otherwise moved into the net */
    sala_net *net;         /* NULL when vocab_only */
    sala_backend *be;
    const sala_config *config;
    sala_tokenizer *tokenizer;    /* NULL: ids and logits only */
    sala_error text_error;        /* why there is no tokenizer */
    sala_chat *chat, *chat_tools; /* NULL: no template; chat_tools may be the same as chat */
    char *template_source;        /* also of a template that does not compile */
    sala_error chat_error;        /* why there is none although the model brings one */
    int32_t *end_tokens;
    int n_end_tokens;
    sala_dtype main_type; /* holds most of the weights */
    uint64_t n_params, weight_bytes;
    sala_kernels sampling_kernels; /* for logits in host memory */
    bool ref;                      /* reference kernels: caches default to f32 */
    sala_turn *turn;               /* one forward pass at a time; guards the scratch below too */
    void *work;                    /* rows and timelines of a call, grown to the largest seen */
    size_t work_bytes;
};

typedef struct sala_session_store sala_session_store; /* session_store.c: the file that a session belongs to */

struct sala_session {
    sala_model *model;
    sala_timeline line;
    int64_t max_tokens;
    int64_t planned_tokens;
    sala_dense_switch dense_switch;
    int32_t *tokens; /* [line.state.length] what it holds */
    int64_t cap_tokens;
    char *note;                /* NULL: "{}" */
    sala_session_store *store; /* NULL: it was never saved */
};

/* A session without tokens whose pages are as `layout` says; for opening and restoring. */
sala_status sala_session_new(sala_session **out, sala_model *model, const sala_session_params *params, sala_error *err);
bool sala_session_reserve_tokens(sala_session *s, int64_t n);
/* Lets go of the file, if there is one. */
void sala_session_store_close(sala_session_store *store);
/* The session has forgotten everything behind its present length: pages of the file that held more are out of date. */
void sala_session_store_rolled_back(sala_session_store *store, const sala_session *s);
/* Fills an empty session with n random tokens and random but well-conditioned content, to measure at a depth without
 * reading up to it. */
sala_status sala_session_fill(sala_session *s, int64_t n, uint64_t seed, sala_error *err);
/* What n tokens take, by kind. */
sala_status sala_session_cost_at(sala_state_cost *out, const sala_model *model, sala_kv_type kv, int64_t n_tokens,
                                 sala_error *err);

bool sala_model_is_end(const sala_model *model, int32_t token);
/* Whoever turns text into ids or back asks first whether the model has a tokenizer. */
sala_status sala_model_has_text(const sala_model *model, sala_error *err);
sala_dtype sala_kv_dtype(const sala_model *model, sala_kv_type kv);

#endif
