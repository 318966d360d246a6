#include "infer/sampler.h"

#include <math.h>
#include <stdlib.h>

typedef struct sala_scored scored;

sala_status sala_sampler_make(sala_sampler **out, const sala_kernels *kernels, int32_t n_vocab,
                              const sala_sampler_params *params, sala_error *err)
{
    static const sala_sampler_params greedy = {0};
    const sala_sampler_params p = params ? *params : greedy;
    const struct {
        const char *name;
        float value;
    } finite[] = {{"temperature", p.temperature},
                  {"top_p", p.top_p},
                  {"min_p", p.min_p},
                  {"typical_p", p.typical_p},
                  {"repeat_penalty", p.repeat_penalty},
                  {"presence_penalty", p.presence_penalty},
                  {"frequency_penalty", p.frequency_penalty}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(finite); i++)
        if (!isfinite(finite[i].value))
            return sala_fail(err, SALA_E_INVALID, "%s is %g; expected a finite number", finite[i].name,
                             (double)finite[i].value);
    if (p.repeat_penalty < 0)
        return sala_fail(err, SALA_E_INVALID, "repeat_penalty is %g; expected a positive number",
                         (double)p.repeat_penalty);
    for (size_t i = 0; i < p.n_bias; i++)
        if (p.bias[i].token < 0 || p.bias[i].token >= n_vocab || isnan(p.bias[i].bias))
            return sala_fail(err, SALA_E_INVALID,
                             "logit bias for token %d is not possible; the model has tokens 0 to %d", p.bias[i].token,
                             n_vocab - 1);

    sala_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return sala_fail_memory(err, sizeof *s);
    s->params = p;
    s->n_vocab = n_vocab;
    s->kernels = kernels;
    if (s->params.penalty_last_n == 0)
        s->params.penalty_last_n = 64;
    if (s->params.repeat_penalty == 0)
        s->params.repeat_penalty = 1;
    s->bias = malloc((p.n_bias + 1) * sizeof *s->bias);
    s->counts = calloc((size_t)n_vocab, sizeof *s->counts);
    s->logits = malloc((size_t)n_vocab * sizeof *s->logits);
    s->list.items = malloc((size_t)n_vocab * sizeof *s->list.items);
    if (!s->bias || !s->counts || !s->logits || !s->list.items) {
        sala_sampler_close(s);
        return sala_fail_memory(err, (uint64_t)n_vocab * 20);
    }
    if (p.n_bias)
        memcpy(s->bias, p.bias, p.n_bias * sizeof *s->bias);
    s->params.bias = s->bias;
    sala_rng_seed(&s->rng, p.seed);
    *out = s;
    return SALA_OK;
}

void sala_sampler_close(sala_sampler *s)
{
    if (!s)
        return;
    free(s->bias);
    free(s->counts);
    free(s->logits);
    free(s->list.items);
    free(s->history);
    free(s);
}

void sala_sampler_reset(sala_sampler *s)
{
    s->n_history = s->ring_at = 0;
    memset(s->counts, 0, (size_t)s->n_vocab * sizeof *s->counts);
    sala_rng_seed(&s->rng, s->params.seed);
}

void sala_sampler_accept(sala_sampler *s, int32_t token)
{
    if (token < 0 || token >= s->n_vocab)
        return;
    s->counts[token]++;
    if (s->params.penalty_last_n < 0)
        return; /* the whole text counts: no window to keep */
    const int64_t window = s->params.penalty_last_n;
    if (!s->history) {
        s->history = malloc((size_t)window * sizeof *s->history);
        if (!s->history)
            return;
    }
    if (s->n_history == window)
        s->counts[s->history[s->ring_at]]--;
    else
        s->n_history++;
    s->history[s->ring_at] = token;
    s->ring_at = (s->ring_at + 1) % window;
}

/* ---- selection ---- */

static bool before(const scored *a, const scored *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static int compare(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return before(x, y) ? -1 : before(y, x) ? 1 : 0;
}

/* Heap with the worst of the kept at the root. */
static void sift_down(scored *heap, int64_t n, int64_t i)
{
    for (;;) {
        int64_t worst = i;
        for (int64_t c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++)
            if (before(&heap[worst], &heap[c]))
                worst = c;
        if (worst == i)
            return;
        const scored t = heap[i];
        heap[i] = heap[worst];
        heap[worst] = t;
        i = worst;
    }
}

int64_t sala_top_logits(scored *out, int64_t k, const float *logits, int64_t n)
{
    k = sala_min_i64(k, n);
    if (k <= 0)
        return 0;
    for (int64_t i = 0; i < k; i++)
        out[i] = (scored){(int32_t)i, logits[i], 0};
    if (k < n) {
        for (int64_t i = k / 2; i-- > 0;)
            sift_down(out, k, i);
        float worst = out[0].logit;
        for (int64_t i = k; i < n; i++) {
            if (logits[i] > worst) {
                out[0] = (scored){(int32_t)i, logits[i], 0};
                sift_down(out, k, 0);
                worst = out[0].logit;
            }
        }
    }
    qsort(out, (size_t)k, sizeof *out, compare);
    return k;
}

/* Fills p with the softmax of the kept logits; the list is sorted, so the first is the largest. */
static void softmax(sala_candidate_list *l, float temperature)
{
    double sum = 0;
    const float top = l->items[0].logit;
    for (int64_t i = 0; i < l->count; i++) {
        l->items[i].p = expf((l->items[i].logit - top) / temperature);
        sum += l->items[i].p;
    }
    for (int64_t i = 0; i < l->count; i++)
        l->items[i].p = (float)(l->items[i].p / sum);
}

static void keep_top_p(sala_candidate_list *l, float top_p)
{
    double sum = 0;
    for (int64_t i = 0; i < l->count; i++) {
        sum += l->items[i].p;
        if (sum >= top_p) {
            l->count = i + 1;
            return;
        }
    }
}

static void keep_min_p(sala_candidate_list *l, float min_p)
{
    const float limit = l->items[0].p * min_p;
    int64_t n = 1;
    while (n < l->count && l->items[n].p >= limit)
        n++;
    l->count = n;
}

typedef struct surprise {
    float distance;
    int64_t index;
} surprise;

static int compare_surprise(const void *a, const void *b)
{
    const surprise *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Locally typical sampling (Meister et al. 2022): keep the tokens whose surprise is nearest to the entropy until their
 * probabilities add up to p. */
static sala_status keep_typical(sala_candidate_list *l, float p, sala_error *err)
{
    double entropy = 0;
    for (int64_t i = 0; i < l->count; i++)
        if (l->items[i].p > 0)
            entropy -= l->items[i].p * log(l->items[i].p);
    surprise *order = malloc((size_t)l->count * sizeof *order);
    scored *kept = malloc((size_t)l->count * sizeof *kept);
    if (!order || !kept) {
        free(order);
        free(kept);
        return sala_fail_memory(err, (uint64_t)l->count * (sizeof *order + sizeof *kept));
    }
    for (int64_t i = 0; i < l->count; i++)
        order[i] = (surprise){l->items[i].p > 0 ? (float)fabs(-log(l->items[i].p) - entropy) : INFINITY, i};
    qsort(order, (size_t)l->count, sizeof *order, compare_surprise);
    double sum = 0;
    int64_t n = 0;
    while (n < l->count && sum < p) {
        kept[n] = l->items[order[n].index];
        sum += kept[n].p;
        n++;
    }
    qsort(kept, (size_t)n, sizeof *kept, compare);
    memcpy(l->items, kept, (size_t)n * sizeof *kept);
    l->count = n;
    free(order);
    free(kept);
    return SALA_OK;
}

static void apply_bias_and_penalties(sala_sampler *s, float *x)
{
    const sala_sampler_params *p = &s->params;
    for (size_t i = 0; i < p->n_bias; i++)
        x[p->bias[i].token] += p->bias[i].bias;
    if (p->repeat_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0)
        return;
    for (int32_t t = 0; t < s->n_vocab; t++) {
        if (s->counts[t] == 0)
            continue;
        x[t] = x[t] > 0 ? x[t] / p->repeat_penalty : x[t] * p->repeat_penalty;
        x[t] -= (float)s->counts[t] * p->frequency_penalty + p->presence_penalty;
    }
}

static sala_status draw(sala_sampler *s, int32_t *token, sala_error *err)
{
    const sala_sampler_params *p = &s->params;
    float *x = s->logits;
    apply_bias_and_penalties(s, x);
    if (p->temperature <= 0) {
        float max;
        const int64_t best = s->kernels->argmax(x, s->n_vocab, &max);
        if (best < 0 || max == -INFINITY)
            return sala_fail(err, SALA_E_NUMERIC, "no token can be drawn: every one is forbidden or not a number");
        *token = (int32_t)best;
        return SALA_OK;
    }
    sala_candidate_list *l = &s->list;
    l->count = sala_top_logits(l->items, p->top_k > 0 ? p->top_k : s->n_vocab, x, s->n_vocab);
    while (l->count > 0 && l->items[l->count - 1].logit == -INFINITY)
        l->count--;
    if (l->count == 0)
        return sala_fail(err, SALA_E_NUMERIC, "no token can be drawn: every one is forbidden or not a number");
    sala_status st = SALA_OK;
    if (p->typical_p > 0 && p->typical_p < 1) {
        softmax(l, 1);
        st = keep_typical(l, p->typical_p, err);
    }
    if (p->top_p > 0 && p->top_p < 1) {
        softmax(l, 1);
        keep_top_p(l, p->top_p);
    }
    if (p->min_p > 0) {
        softmax(l, 1);
        keep_min_p(l, p->min_p);
    }
    if (st != SALA_OK)
        return st;
    softmax(l, p->temperature);
    double u = sala_rng_uniform(&s->rng);
    int64_t i = 0;
    while (i + 1 < l->count && u >= l->items[i].p)
        u -= l->items[i++].p;
    *token = l->items[i].token;
    return SALA_OK;
}

sala_status sala_sample(sala_sampler *s, const float *logits, int32_t *token, sala_candidate *chosen,
                        sala_candidate *top, int n_top, sala_error *err)
{
    if (!s->kernels->all_finite(logits, s->n_vocab))
        return sala_fail(err, SALA_E_NUMERIC, "the logits hold infinities or not-a-number");
    memcpy(s->logits, logits, (size_t)s->n_vocab * sizeof *logits);
    int32_t t = -1;
    const sala_status st = draw(s, &t, err);
    if (st != SALA_OK)
        return st;
    if (chosen || (top && n_top > 0)) {
        const double norm = s->kernels->log_sum_exp(logits, s->n_vocab);
        if (chosen)
            *chosen = (sala_candidate){t, (float)(logits[t] - norm)};
        if (top && n_top > 0) {
            const int64_t n = sala_top_logits(s->list.items, n_top, logits, s->n_vocab);
            for (int64_t i = 0; i < n; i++)
                top[i] = (sala_candidate){s->list.items[i].token, (float)(s->list.items[i].logit - norm)};
        }
    }
    sala_sampler_accept(s, t);
    *token = t;
    return SALA_OK;
}
