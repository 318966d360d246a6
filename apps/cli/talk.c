#include "talk.h"

#include "memory.h"
#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* ---- opening ---- */

static int parse_bias(cli_talk *t)
{
    const cli_list *list = &t->o->logit_bias;
    for (int i = 0; i < list->count; i++) {
        const char *s = list->items[i];
        char *sign, *end = NULL;
        const long long id = strtoll(s, &sign, 10);
        double bias = 0;
        const bool shaped = sign != s && (*sign == '+' || *sign == '-' || *sign == '=') && s[0] >= '0' && s[0] <= '9';
        if (shaped)
            bias = strtod(*sign == '=' ? sign + 1 : sign, &end);
        if (!shaped || end == sign || *end || isnan(bias) || (isinf(bias) && bias > 0))
            return cli_misuse(
                "--logit-bias: '%s' is not a token id with a bias, such as 15043+1, 15043-1.5 or 15043-inf", s);
        if (id >= t->info.n_vocab)
            return cli_misuse("--logit-bias: the model has token ids 0 to %d, found %lld", t->info.n_vocab - 1, id);
        t->bias[i] = (sala_logit_bias){.token = (int32_t)id, .bias = (float)bias};
    }
    t->sampling.bias = t->bias;
    t->sampling.n_bias = (size_t)list->count;
    return 0;
}

/* What was asked for, else what comes with the model (negative when it does not say), else ours. */
static float choose(double asked, double models, double ours)
{
    return (float)(!isnan(asked) ? asked : models >= 0 ? models : ours);
}

static int settle_sampling(cli_talk *t)
{
    const cli_options *o = t->o;
    const sala_model_info *m = &t->info;
    sala_sampler_params *s = &t->sampling;
    s->temperature = choose(o->temperature, m->temperature, 0.8);
    s->top_p = choose(o->top_p, m->top_p, 0.95);
    s->min_p = choose(o->min_p, m->min_p, 0.05);
    s->repeat_penalty = choose(o->repeat_penalty, m->repeat_penalty, 1);
    s->top_k = o->top_k != CLI_UNSET ? (int)o->top_k : m->top_k >= 0 ? m->top_k : 40;
    s->typical_p = (float)o->typical_p;
    s->presence_penalty = (float)o->presence_penalty;
    s->frequency_penalty = (float)o->frequency_penalty;
    s->penalty_last_n = (int)o->repeat_last_n;
    if (o->repeat_last_n == 0) { /* for the library 0 means its default */
        s->repeat_penalty = 1;
        s->presence_penalty = s->frequency_penalty = 0;
    }
    if (o->seed == CLI_UNSET || o->seed < 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        s->seed = ((uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 32) >> 12;
    } else {
        s->seed = (uint64_t)o->seed;
    }
    return parse_bias(t);
}

/* A context that was asked for and cannot fit is refused before the weights are read. */
static int check_plan(const cli_options *o)
{
    if (o->ctx <= 0)
        return 0;
    char *path = NULL;
    int rc = cli_model_path(&path, o, true);
    if (rc)
        return rc;
    sala_model *vocab = NULL;
    const sala_model_params params = {.vocab_only = true, .sparse = o->sparse};
    if (sala_model_open(&vocab, path, &params, NULL) == SALA_OK) /* the real opening will say what is wrong */
        rc = cli_memory_announce(vocab, o, o->ctx, "; ask for less with -c");
    sala_model_close(vocab);
    free(path);
    return rc;
}

int cli_talk_open(cli_talk *t, const cli_options *o)
{
    *t = (cli_talk){.o = o, .drawn_last = -1};
    const double start = sala_os_seconds();
    int rc = check_plan(o);
    if (rc == 0)
        rc = cli_model_open(&t->model, o);
    if (rc)
        return rc;
    sala_model_get_info(t->model, &t->info);
    rc = settle_sampling(t);
    sala_error err = {0};
    if (rc == 0 && sala_sampler_open(&t->sampler, t->model, &t->sampling, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    t->load_seconds = sala_os_seconds() - start;
    return rc;
}

void cli_talk_close(cli_talk *t)
{
    sala_sampler_close(t->sampler);
    sala_session_close(t->session);
    sala_model_close(t->model);
    json_decref(t->tokens);
    sala_buf_free(&t->answer);
    *t = (cli_talk){0};
}

static const int64_t SOME = 1024; /* room for an answer of unknown length */

/* Without -c: the trained context, more when prompt and answer need it, less when memory is small. */
static int64_t default_context(const cli_talk *t, int64_t n_prompt, int64_t answer)
{
    const uint64_t memory = sala_os_memory_available();
    /* -n is a bound, which may be as high as anyone likes; it makes no room that is not there. */
    if (memory && sala_session_bytes_at(t->model, cli_kv_type(t->o), n_prompt + answer) > memory / 2)
        answer = sala_min_i64(answer, SOME);
    const int64_t need = n_prompt + answer;
    int64_t n = t->info.n_ctx_train > 0 ? t->info.n_ctx_train : 4096;
    if (need > n)
        return need;
    while (memory && n / 2 >= need && n > 4096 && sala_session_bytes_at(t->model, cli_kv_type(t->o), n) > memory / 2)
        n /= 2;
    return n;
}

int cli_talk_begin(cli_talk *t, int64_t n_prompt)
{
    const cli_options *o = t->o;
    const int64_t answer = o->n_predict >= 0 ? o->n_predict : SOME;
    const int64_t need = n_prompt + answer;
    t->n_ctx = o->ctx > 0 ? o->ctx : default_context(t, n_prompt, answer);
    if (n_prompt >= t->n_ctx && !(n_prompt == t->n_ctx && o->n_predict == 0))
        return cli_fail("the prompt has %lld tokens and the context holds %lld; ask for more with -c",
                        (long long)n_prompt, (long long)t->n_ctx);
    const int rc = cli_check_context(t->model, o, t->n_ctx);
    if (rc)
        return rc;
    const sala_session_params params = {
        .max_tokens = t->n_ctx,
        .planned_tokens = n_prompt > 0 && o->ctx <= 0 ? sala_min_i64(need, t->n_ctx) : t->n_ctx,
        .kv = cli_kv_type(o),
        .longrope = cli_longrope(o),
        .dense_switch = cli_dense_switch(o),
    };
    sala_error err = {0};
    return sala_session_open(&t->session, t->model, &params, &err) == SALA_OK ? 0 : cli_fail_error(&err);
}

/* ---- answering ---- */

static json_t *candidate_json(const cli_talk *t, const sala_candidate *c)
{
    char *text = NULL;
    size_t n = 0;
    if (sala_detokenize(t->model, &text, &n, &c->token, 1, false, NULL) != SALA_OK)
        text = NULL;
    json_t *row = json_pack("{s:i,s:o,s:f}", "id", c->token, "text", cli_json_text(text ? text : "", text ? n : 0),
                            "logprob", (double)c->logprob);
    sala_free(text);
    return row;
}

static void add_logprobs(cli_talk *t, const sala_candidate *chosen, const sala_candidate *top, int n_top)
{
    if (n_top > t->o->logprobs)
        n_top = (int)t->o->logprobs;
    json_t *row = candidate_json(t, chosen), *list = json_array();
    for (int i = 0; i < n_top; i++)
        json_array_append_new(list, candidate_json(t, &top[i]));
    json_object_set_new(row, "top", list);
    json_array_append_new(t->tokens, row);
}

static bool on_text(void *user, const char *text, size_t bytes, int32_t token, const sala_candidate *chosen,
                    const sala_candidate *top, int n_top)
{
    cli_talk *t = user;
    cli_progress_end();
    if (token >= 0)
        t->drawn_last = token;
    if (t->tokens && chosen)
        add_logprobs(t, chosen, top, n_top);
    sala_buf_add(&t->answer, text, bytes);
    if (!t->o->json && bytes && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)) {
        t->write_failed = true;
        cli_flush(CLI_FAILED);
        return false;
    }
    return !cli_interrupted();
}

static void print_logprobs(const json_t *tokens)
{
    cli_table *table = cli_table_new(">logprob|token|next best");
    size_t i, k;
    json_t *row, *c;
    json_array_foreach(tokens, i, row)
    {
        const char *text = json_string_value(json_object_get(row, "text"));
        char *shown = cli_printable(text, strlen(text), 60);
        cli_table_cell(table, "%.4f", json_real_value(json_object_get(row, "logprob")));
        cli_table_cell(table, "'%s'", shown ? shown : "");
        free(shown);
        sala_buf others = {0};
        json_array_foreach(json_object_get(row, "top"), k, c)
        {
            const char *other = json_string_value(json_object_get(c, "text"));
            shown = cli_printable(other, strlen(other), 60);
            sala_buf_printf(&others, "%s'%s' %.3f", k ? "  " : "", shown ? shown : "",
                            json_real_value(json_object_get(c, "logprob")));
            free(shown);
        }
        cli_table_cell(table, "%s", others.data ? others.data : "");
        sala_buf_free(&others);
    }
    cli_table_print(table, stderr);
}

static int answer(cli_talk *t, const int32_t *ids, size_t n_ids)
{
    const cli_options *o = t->o;
    sala_buf_clear(&t->answer);
    json_decref(t->tokens);
    t->tokens = o->logprobs != CLI_UNSET ? json_array() : NULL;
    t->drawn_last = -1;
    sala_generate_params params = {
        .max_new_tokens = o->n_predict,
        .ignore_eos = o->ignore_eos,
        .show_special = o->show_special,
        .stop = o->stop.items,
        .n_stop = o->stop.count,
        .n_top = o->logprobs == CLI_UNSET ? 0
                 : o->logprobs > 0        ? (int)o->logprobs
                                          : 1, /* 0: the drawn token only */
        .chunk = (int)o->chunk,
        .on_text = on_text,
        .user = t,
        .on_prefill = cli_progress,
    };
    sala_error err = {0};
    t->last = (sala_generate_result){0};
    cli_signals_hold();
    const sala_status st = sala_generate(t->session, t->sampler, ids, n_ids, &params, &t->last, &err);
    cli_signals_release();
    cli_progress_end();
    t->total.n_prompt += t->last.n_prompt;
    t->total.n_new += t->last.n_new;
    t->answers += t->last.n_new > 0;
    t->total.prefill_seconds += t->last.prefill_seconds;
    t->total.decode_seconds += t->last.decode_seconds;
    if (st != SALA_OK && !(st == SALA_E_CANCELLED && cli_interrupted()))
        return cli_fail_error(&err);
    if (t->last.reason == SALA_STOP_END_TOKEN)
        t->drawn_last = -1; /* what was shown before the end token went through the model */
    if (t->answer.failed)
        return cli_fail("not enough memory");
    if (t->tokens && !o->json && json_array_size(t->tokens)) {
        fputc('\n', stderr);
        print_logprobs(t->tokens);
    }
    return t->write_failed ? CLI_FAILED : CLI_DONE;
}

int cli_talk_answer(cli_talk *t, const int32_t *ids, size_t n_ids)
{
    size_t n_held = 0, common = 0;
    const int32_t *held = sala_session_tokens(t->session, &n_held);
    /* At least one token must go through the model, so that there are logits to draw from. */
    const size_t most = n_ids && n_held > n_ids - 1 ? n_ids - 1 : n_held;
    while (common < most && held[common] == ids[common])
        common++;
    sala_error err = {0};
    if (n_held && sala_session_rollback(t->session, (int64_t)common, &err) != SALA_OK)
        return cli_fail_error(&err);
    return answer(t, ids + common, n_ids - common);
}

int cli_talk_continue(cli_talk *t, const int32_t *ids, size_t n_ids)
{
    if (t->drawn_last < 0)
        return answer(t, ids, n_ids);
    int32_t *all = malloc((n_ids + 1) * sizeof *all);
    if (!all)
        return cli_fail("not enough memory");
    all[0] = t->drawn_last;
    memcpy(all + 1, ids, n_ids * sizeof *all);
    const int rc = answer(t, all, n_ids + 1);
    free(all);
    return rc;
}

/* ---- the line at the end ---- */

double cli_rate(int64_t steps, double seconds)
{
    return steps > 0 && seconds > 0 ? (double)steps / seconds : 0;
}

void cli_talk_timings(const cli_talk *t)
{
    const sala_generate_result *r = &t->total;
    const int64_t steps = r->n_new - t->answers;
    char peak[32], decode[48] = "";
    if (steps > 0)
        snprintf(decode, sizeof decode, ", %.1f tok/s", cli_rate(steps, r->decode_seconds));
    cli_say("[prompt %lld tokens, %.1f tok/s | generated %lld tokens%s | load %.2f s | peak memory %s]",
            (long long)r->n_prompt, cli_rate(r->n_prompt, r->prefill_seconds), (long long)r->n_new, decode,
            t->load_seconds, sala_format_bytes(peak, sala_os_peak_rss()));
}

const char *cli_stop_word(sala_stop_reason reason)
{
    switch (reason) {
    case SALA_STOP_END_TOKEN:
        return "end";
    case SALA_STOP_STRING:
        return "stop";
    case SALA_STOP_LENGTH:
        return "length";
    case SALA_STOP_CONTEXT:
        return "context";
    case SALA_STOP_CALLER:
        return "interrupted";
    case SALA_STOP_NONE:
        break;
    }
    return "none";
}
