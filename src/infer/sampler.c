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
    s->scaled = malloc((size_t)n_vocab * sizeof *s->scaled);
    s->list.items = malloc((size_t)n_vocab * sizeof *s->list.items);
    if (!s->bias || !s->counts || !s->logits || !s->scaled || !s->list.items) {
        sala_sampler_close(s);
        return sala_fail_memory(err, (uint64_t)n_vocab * 24);
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
    free(s->scaled);
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

/* Logits that are looked at together: nearly all are below the worst that is kept. */
enum { RUN = 64 };

static bool any_above(const float *x, float limit)
{
    int any = 0; /* no early end: so it becomes vector instructions */
    for (int i = 0; i < RUN; i++)
        any |= x[i] > limit;
    return any;
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
        for (int64_t run = k; run < n; run += RUN) {
            const int64_t end = sala_min_i64(run + RUN, n);
            if (end == run + RUN && !any_above(logits + run, worst))
                continue;
            for (int64_t i = run; i < end; i++) {
                if (logits[i] > worst) {
                    out[0] = (scored){(int32_t)i, logits[i], 0};
                    sift_down(out, k, 0);
                    worst = out[0].logit;
                }
            }
        }
    }
    qsort(out, (size_t)k, sizeof *out, compare);
    return k;
}

/* The list becomes the n best tokens. */
static void list_best(sala_sampler *s, const float *x, int64_t n)
{
    enum { HEAP = 128 }; /* a heap of more of them takes longer than bisection */
    sala_candidate_list *l = &s->list;
    if (n <= HEAP || n >= s->n_vocab) {
        l->count = sala_top_logits(l->items, n, x, s->n_vocab);
    } else {
        int32_t *tokens = (int32_t *)(void *)s->scaled; /* not used yet */
        l->count = s->kernels->top_k(tokens, x, s->n_vocab, n);
        for (int64_t i = 0; i < l->count; i++)
            l->items[i] = (scored){tokens[i], x[tokens[i]], 0};
        qsort(l->items, (size_t)l->count, sizeof *l->items, compare);
    }
    l->complete = n >= s->n_vocab;
    while (l->count > 0 && l->items[l->count - 1].logit == -INFINITY) {
        l->count--;
        l->complete = true;
    }
}

/* Fills p with the softmax of the kept logits; the list is sorted, so the first is the largest. When others than those
 * of the list take part, they are in the sum. */
static void softmax(sala_sampler *s, const float *x, float temperature)
{
    sala_candidate_list *l = &s->list;
    double sum = 0;
    const float top = l->items[0].logit;
    for (int64_t i = 0; i < l->count; i++) {
        l->items[i].p = expf((l->items[i].logit - top) / temperature);
        sum += l->items[i].p;
    }
    if (!l->complete) {
        for (int64_t i = 0; i < s->n_vocab; i++)
            s->scaled[i] = (x[i] - top) / temperature;
        sum = exp(s->kernels->log_sum_exp(s->scaled, s->n_vocab));
    }
    for (int64_t i = 0; i < l->count; i++)
        l->items[i].p = (float)(l->items[i].p / sum);
}

/* Both are false when the list ends before what is to be kept does. */
static bool keep_top_p(sala_candidate_list *l, float top_p)
{
    double sum = 0;
    for (int64_t i = 0; i < l->count; i++) {
        sum += l->items[i].p;
        if (sum >= top_p) {
            l->count = i + 1;
            l->complete = true;
            break;
        }
    }
    return l->complete;
}

static bool keep_min_p(sala_candidate_list *l, float min_p)
{
    const float limit = l->items[0].p * min_p;
    int64_t n = 1;
    while (n < l->count && l->items[n].p >= limit)
        n++;
    l->complete |= n < l->count;
    l->count = n;
    return l->complete;
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

static void penalise(const sala_sampler *s, float *x, int32_t t)
{
    const sala_sampler_params *p = &s->params;
    x[t] = x[t] > 0 ? x[t] / p->repeat_penalty : x[t] * p->repeat_penalty;
    x[t] -= (float)s->counts[t] * p->frequency_penalty + p->presence_penalty;
}

/* The logits, or a copy with bias and penalties. */
static const float *adjusted(sala_sampler *s, const float *logits)
{
    const sala_sampler_params *p = &s->params;
    const bool penalties = p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
    if (p->n_bias == 0 && !penalties)
        return logits;
    float *x = s->logits;
    memcpy(x, logits, (size_t)s->n_vocab * sizeof *x);
    for (size_t i = 0; i < p->n_bias; i++)
        x[p->bias[i].token] += p->bias[i].bias;
    if (!penalties)
        return x;
    if (s->params.penalty_last_n < 0 || s->n_history > s->n_vocab) {
        for (int32_t t = 0; t < s->n_vocab; t++)
            if (s->counts[t])
                penalise(s, x, t);
        return x;
    }
    for (int64_t i = 0; i < s->n_history; i++) { /* each token once: a negative count has had its turn */
        const int32_t t = s->history[i];
        if (s->counts[t] > 0) {
            penalise(s, x, t);
            s->counts[t] = -s->counts[t];
        }
    }
    for (int64_t i = 0; i < s->n_history; i++)
        s->counts[s->history[i]] = abs(s->counts[s->history[i]]);
    return x;
}

static sala_status no_token(sala_error *err)
{
    return sala_fail(err, SALA_E_NUMERIC, "no token can be drawn: every one is forbidden or not a number");
}

/* Draws from the best n tokens, u in [0, 1); *token is -1 when that takes more of them. */
static sala_status draw_from(sala_sampler *s, const float *x, int64_t n, double u, int32_t *token, sala_error *err)
{
    const sala_sampler_params *p = &s->params;
    sala_candidate_list *l = &s->list;
    *token = -1;
    list_best(s, x, n);
    if (l->count == 0)
        return no_token(err);
    if (p->top_k > 0)
        l->complete = true;
    if (p->typical_p > 0 && p->typical_p < 1) {
        softmax(s, x, 1);
        const sala_status st = keep_typical(l, p->typical_p, err);
        if (st != SALA_OK)
            return st;
    }
    if (p->top_p > 0 && p->top_p < 1) {
        softmax(s, x, 1);
        if (!keep_top_p(l, p->top_p))
            return SALA_OK;
    }
    if (p->min_p > 0) {
        softmax(s, x, 1);
        if (!keep_min_p(l, p->min_p))
            return SALA_OK;
    }
    softmax(s, x, p->temperature);
    int64_t i = 0;
    while (i < l->count && u >= l->items[i].p)
        u -= l->items[i++].p;
    if (i == l->count && l->complete) /* what rounding left over */
        i--;
    if (i < l->count)
        *token = l->items[i].token;
    return SALA_OK;
}

static sala_status draw(sala_sampler *s, const float *logits, int32_t *token, sala_error *err)
{
    const sala_sampler_params *p = &s->params;
    const float *x = adjusted(s, logits);
    if (p->temperature <= 0) {
        float max;
        const int64_t best = s->kernels->argmax(x, s->n_vocab, &max);
        if (best < 0 || max == -INFINITY)
            return no_token(err);
        *token = (int32_t)best;
        return SALA_OK;
    }
    /* Without top-k, a few hundred of many thousand tokens nearly always hold what is drawn, and sorting all of them
     * would take longer than a small model takes to compute the logits. */
    int64_t n = p->top_k > 0 ? p->top_k : p->typical_p > 0 && p->typical_p < 1 ? s->n_vocab : 256;
    const double u = sala_rng_uniform(&s->rng);
    for (;; n *= 16) {
        n = sala_min_i64(n, s->n_vocab);
        const sala_status st = draw_from(s, x, n, u, token, err);
        if (st != SALA_OK || *token >= 0)
            return st;
    }
}

sala_status sala_sample(sala_sampler *s, const float *logits, int32_t *token, sala_candidate *chosen,
                        sala_candidate *top, int n_top, sala_error *err)
{
    if (!s->kernels->all_finite(logits, s->n_vocab))
        return sala_fail(err, SALA_E_NUMERIC, "the logits hold infinities or not-a-number");
    int32_t t = -1;
    const sala_status st = draw(s, logits, &t, err);
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
