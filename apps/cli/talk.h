/* A model, a session and a sampler that answer prompts one after the other; shared by the one-shot and chat forms of
 * 'sala run'. Between prompts the session keeps what it holds: only tokens behind the common beginning of the old and
 * the new prompt go through the model again. */
#ifndef SALA_CLI_TALK_H
#define SALA_CLI_TALK_H

#include "cli.h"

#include <jansson.h>

typedef struct cli_talk {
    const cli_options *o;
    sala_model *model;
    sala_model_info info;
    sala_session *session;
    sala_sampler *sampler;
    sala_sampler_params sampling;
    sala_logit_bias bias[CLI_MAX_LIST];
    double load_seconds;
    int64_t n_ctx;

    int32_t drawn_last; /* shown, but not yet in the session; -1: none */

    sala_buf answer;   /* text of the last answer */
    json_t *tokens;    /* with --logprobs: of the last answer */
    bool write_failed; /* standard output is gone */
    sala_generate_result last, total;
    int answers;
} cli_talk;

/* Loads the model and settles the sampling options. 0 or an exit code; close in any case. */
int cli_talk_open(cli_talk *t, const cli_options *o);
void cli_talk_close(cli_talk *t);

/* Settles the context for a first prompt of n_prompt tokens (chat: 0, which plans for the whole context) and opens the
 * session. */
int cli_talk_begin(cli_talk *t, int64_t n_prompt);

/* Answers: streams text to stdout unless --json. SIGINT ends the answer in order. */
int cli_talk_answer(cli_talk *t, const int32_t *ids, size_t n_ids);
/* The same for text that goes on where the session stands. */
int cli_talk_continue(cli_talk *t, const int32_t *ids, size_t n_ids);

/* "[prompt 31 tokens, 250.1 tok/s | ...]": the line at the end, over all answers. */
void cli_talk_timings(const cli_talk *t);
/* Tokens per second of `steps` forward passes; the first token of an answer comes with the prompt and is none. */
double cli_rate(int64_t steps, double seconds);
const char *cli_stop_word(sala_stop_reason reason);

/* The chat on a terminal; first_message may be NULL. */
int cli_chat(cli_talk *t, json_t *request, const char *first_message, size_t first_bytes);

#endif
