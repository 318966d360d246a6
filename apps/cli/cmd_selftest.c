/* selftest: does this build compute right on this machine? Kernels against sums in double precision, then a tiny model
 * through the whole path. Each check gives one number, its bound, and whether it holds. */
#include "cli.h"

#include "kernels/kernels.h"
#include "model_arg.h"
#include "os/os.h"
#include "quant/quant.h"
#include "selftest.h"
#include "ui.h"

#include <math.h>
#include <stdlib.h>

typedef struct selftest {
    json_t *rows;
    int failed;
} selftest;

static void add(selftest *t, const char *group, const char *name, double error, double bound)
{
    const bool ok = error <= bound; /* written so that not-a-number fails */
    t->failed += !ok;
    json_array_append_new(t->rows,
                          json_pack("{s:s,s:s,s:b,s:o,s:f}", "group", group, "check", name, "ok", (int)ok, "error",
                                    isfinite(error) ? json_real(error) : json_null(), "bound", bound));
}

/* ---- linear kernels ---- */

enum { ROWS = 70, COLS = 512, TOKENS = 5 };

typedef struct linear_case {
    float x[TOKENS][COLS];
    float w[ROWS][COLS];
    double want[TOKENS][ROWS], size[TOKENS][ROWS]; /* of the dequantised weights; |w| |x| */
} linear_case;

static bool make_case(linear_case *c, void *stored, sala_dtype dtype)
{
    sala_rng rng;
    sala_rng_seed(&rng, (uint64_t)dtype + 1);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < COLS; k++)
            c->w[r][k] = (float)(0.05 * sala_rng_normal(&rng));
    for (int i = 0; i < TOKENS; i++)
        for (int k = 0; k < COLS; k++)
            c->x[i][k] = (float)sala_rng_normal(&rng);
    if (sala_quantize_rows(dtype, stored, &c->w[0][0], ROWS, COLS, NULL, NULL) != SALA_OK)
        return false;
    const size_t row_bytes = (size_t)sala_dtype_bytes(dtype, COLS);
    for (int r = 0; r < ROWS; r++) {
        sala_dequant_row(dtype, c->w[r], (const char *)stored + (size_t)r * row_bytes, COLS);
        for (int i = 0; i < TOKENS; i++) {
            double sum = 0, ww = 0, xx = 0;
            for (int k = 0; k < COLS; k++) {
                sum += (double)c->w[r][k] * (double)c->x[i][k];
                ww += (double)c->w[r][k] * (double)c->w[r][k];
                xx += (double)c->x[i][k] * (double)c->x[i][k];
            }
            c->want[i][r] = sum;
            c->size[i][r] = sqrt(ww * xx);
        }
    }
    return true;
}

/* The largest error relative to |w| |x|; infinite when one token alone gives other bits than the same among five. */
static double linear_error(const sala_linear_kernel *k, const linear_case *c, const void *stored)
{
    const size_t act_bytes = k->act->row_bytes(COLS);
    void *act = sala_os_pages_alloc(act_bytes * TOKENS);
    const size_t packed_bytes = k->packed_bytes ? k->packed_bytes(ROWS, COLS) : 0;
    void *packed = packed_bytes ? sala_os_pages_alloc(packed_bytes) : NULL;
    float *all = malloc(sizeof(float) * TOKENS * ROWS), *one = malloc(sizeof(float) * ROWS);
    void *scratch = sala_os_pages_alloc(SALA_LINEAR_SCRATCH);
    double worst = INFINITY;
    if (!act || !all || !one || !scratch || (packed_bytes && !packed))
        goto out;
    for (int i = 0; i < TOKENS; i++)
        k->act->prepare((char *)act + act_bytes * (size_t)i, c->x[i], COLS);
    if (packed)
        k->pack(packed, stored, ROWS, COLS, 0, ROWS);
    const void *w = packed ? packed : stored;
    k->run(all, ROWS, w, act, act_bytes, ROWS, COLS, 0, ROWS, TOKENS, scratch);
    worst = 0;
    for (int i = 0; i < TOKENS; i++) {
        k->run(one, ROWS, w, (char *)act + act_bytes * (size_t)i, act_bytes, ROWS, COLS, 0, ROWS, 1, scratch);
        if (memcmp(one, all + (size_t)i * ROWS, sizeof(float) * ROWS) != 0)
            worst = INFINITY;
        for (int r = 0; r < ROWS; r++) {
            const double e = fabs((double)all[i * ROWS + r] - c->want[i][r]) / c->size[i][r];
            worst = e > worst || isnan(e) ? (isnan(e) ? INFINITY : e) : worst;
        }
    }
out:
    if (act)
        sala_os_pages_free(act, act_bytes * TOKENS);
    if (packed)
        sala_os_pages_free(packed, packed_bytes);
    if (scratch)
        sala_os_pages_free(scratch, SALA_LINEAR_SCRATCH);
    free(all);
    free(one);
    return worst;
}

static void check_linear(selftest *t)
{
    const uint32_t cpu = sala_os_cpu_features();
    size_t n = 0;
    const sala_linear_kernel *const *all = sala_linear_all(&n);
    linear_case *c = malloc(sizeof *c);
    void *stored = malloc(sizeof(float) * ROWS * COLS);
    for (size_t i = 0; c && stored && i < n; i++) {
        const sala_linear_kernel *k = all[i];
        if ((k->need & cpu) != k->need || !sala_quantize_has(k->dtype) || (k->accepts && !k->accepts(ROWS, COLS)))
            continue;
        if (!make_case(c, stored, k->dtype)) {
            add(t, "kernel", k->name, INFINITY, 0);
            continue;
        }
        /* Inputs rounded to 8 bits cost about 0.7 % of |x| spread over all products; f32 sums cost next to nothing. */
        add(t, "kernel", k->name, linear_error(k, c, stored), strcmp(k->act->name, "f32") == 0 ? 1e-5 : 5e-3);
        cli_progress(NULL, "kernels", i + 1, n);
    }
    if (!c || !stored)
        add(t, "kernel", "memory", INFINITY, 0);
    free(c);
    free(stored);
}

/* ---- the other kernels: the best family against ref ---- */

static double difference(const float *a, const float *b, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]) / (1.0 + fabs((double)b[i]));
        worst = e > worst || isnan(e) ? (isnan(e) ? INFINITY : e) : worst;
    }
    return worst;
}

static void check_vector(selftest *t, const char *family, const sala_kernels *fast, const sala_kernels *ref)
{
    enum { N = 515 };
    float x[N], w[N], a[N], b[N];
    sala_rng rng;
    char name[64];
    sala_rng_seed(&rng, 3);
    for (int i = 0; i < N; i++) {
        x[i] = (float)sala_rng_normal(&rng);
        w[i] = (float)sala_rng_normal(&rng);
    }
    fast->rms_norm(a, x, w, N, 1e-5f);
    ref->rms_norm(b, x, w, N, 1e-5f);
    snprintf(name, sizeof name, "rms_norm_%s", family);
    add(t, "kernel", name, difference(a, b, N), 1e-5);
    fast->swiglu(a, x, w, N);
    ref->swiglu(b, x, w, N);
    snprintf(name, sizeof name, "swiglu_%s", family);
    add(t, "kernel", name, difference(a, b, N), 1e-5);
}

enum { D = 64, QUERIES = 3 };

/* Queries that rounding leaves as they are, where kernels round: of each group's components, which lie turned where
 * keys do (tensor/kv_block.h), the first is the largest, and all are whole steps of it. */
static void make_queries(float *q, sala_rng *rng, int steps, bool turned)
{
    for (float *end = q + (size_t)QUERIES * D; q < end; q += SALA_KV_GROUP) {
        float x[SALA_KV_GROUP];
        int bits = 0;
        frexp(steps, &bits);
        for (int i = 0; i < SALA_KV_GROUP; i++) {
            const double any = 2 * sala_rng_uniform(rng) - 1;
            x[i] = (float)(steps ? ldexp(i ? round(any * steps) : steps, -bits - 2) : 0.25 * any);
        }
        for (int i = 0; i < SALA_KV_GROUP; i++) {
            double sum = 0;
            for (int j = 0; j < SALA_KV_GROUP; j++)
                sum += (double)(__builtin_parity((unsigned)(i & j)) ? -x[j] : x[j]);
            q[i] = turned ? (float)(sum / sqrt(SALA_KV_GROUP)) : x[i];
        }
    }
}

/* How far outputs may be off because weights, where they meet codes, are whole steps of the block's heaviest product of
 * a weight and its value's scale: half a step for every token, times the largest code. What that makes with a scale is
 * the largest value; with 4 bits, which count from the smallest value, the range. l: sums of weights. */
static double weights_off(const float *values, sala_dtype type, int steps, const int32_t *visible, const float *l)
{
    double high = 0, low = 0, most = 0;
    for (int i = 0; i < SALA_KV_BLOCK * D; i++) {
        high = fmax(high, (double)values[i]);
        low = fmin(low, (double)values[i]);
    }
    for (int i = 0; i < QUERIES; i++)
        most = fmax(most, visible[i] / (double)l[i]);
    return most * (type == SALA_Q4_1 ? high - low : fmax(high, -low)) / (2 * steps);
}

static void check_attention(selftest *t, const char *family, const sala_kernels *fast, const sala_kernels *ref)
{
    static float keys[SALA_KV_BLOCK * D], values[SALA_KV_BLOCK * D], scratch[SALA_ATTN_SCRATCH(QUERIES, D)];
    static float prepared[QUERIES * SALA_ATTN_QUERY(D)];
    static float stored[2][2][SALA_KV_BLOCK * D]; /* as large as the largest type needs */
    static const struct {
        const char *name;
        sala_dtype dtype;
    } caches[] = {{"f32", SALA_F32}, {"f16", SALA_F16}, {"q8_0", SALA_Q8_0}, {"q4", SALA_Q4_1}};
    const int32_t visible[QUERIES] = {1, 37, SALA_KV_BLOCK};
    float q[QUERIES * D], acc[2][QUERIES * D], m[2][QUERIES], l[2][QUERIES];
    sala_rng rng;
    char name[64];
    sala_rng_seed(&rng, 4);
    for (int i = 0; i < SALA_KV_BLOCK * D; i++) {
        keys[i] = (float)sala_rng_normal(&rng);
        values[i] = (float)sala_rng_normal(&rng);
    }
    for (size_t type = 0; type < sizeof caches / sizeof caches[0]; type++) {
        const sala_kv_kernels *met = sala_kv_kernels_of(fast, caches[type].dtype);
        const int steps = met->weight_steps;
        make_queries(q, &rng, met->query_steps, caches[type].dtype == SALA_Q4_1);
        memset(stored, 0, sizeof stored);
        for (int k = 0; k < 2; k++) {
            const sala_kv_kernels *kv = sala_kv_kernels_of(k ? ref : fast, caches[type].dtype);
            for (int i = 0; i < QUERIES; i++) {
                m[k][i] = -INFINITY;
                l[k][i] = 0;
            }
            memset(acc[k], 0, sizeof acc[k]);
            kv->store(stored[k][0], stored[k][1], 0, SALA_KV_BLOCK, keys, values, D, D);
            if (kv->prepare)
                kv->prepare(prepared, q, QUERIES, D);
            kv->attn_block(acc[k], m[k], l[k], kv->prepare ? prepared : q, stored[k][0], stored[k][1], QUERIES, D,
                           visible, scratch, NULL);
            for (int i = 0; i < QUERIES * D; i++)
                acc[k][i] /= l[k][i / D];
        }
        snprintf(name, sizeof name, "attention_%s_%s", caches[type].name, family);
        add(t, "kernel", name, difference(acc[0], acc[1], QUERIES * D),
            1e-4 + (steps ? weights_off(values, caches[type].dtype, steps, visible, l[1]) : 0));
        snprintf(name, sizeof name, "stored_%s_%s", caches[type].name, family);
        add(t, "kernel", name, memcmp(stored[0], stored[1], sizeof stored[0]) == 0 ? 0 : INFINITY, 0);
    }
}

/* ---- the model ---- */

static const char TEXT[] =
    "hello world, hello tiny model: \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82\n\tone two three four "
    "five six seven eight nine ten, hello again and once more until there are enough tokens";

/* Logits of every position, in chunks. Owned by the caller; NULL after adding a failed check. */
static float *all_logits(selftest *t, sala_model *m, const int32_t *ids, size_t n, size_t chunk)
{
    sala_model_info info;
    sala_model_get_info(m, &info);
    sala_session *s = NULL;
    sala_error err = {0};
    float *out = malloc(n * (size_t)info.n_vocab * sizeof *out);
    sala_row *rows = calloc(n, sizeof *rows);
    sala_status st = out && rows ? sala_session_open(&s, m, NULL, &err) : SALA_E_MEMORY;
    for (size_t at = 0; st == SALA_OK && at < n; at += chunk) {
        const size_t k = n - at < chunk ? n - at : chunk;
        for (size_t i = 0; i < k; i++)
            rows[i] = (sala_row){ids[at + i], 0, true};
        st = sala_forward(m, &s, 1, rows, (int)k, out + at * (size_t)info.n_vocab, &err);
    }
    sala_session_close(s);
    free(rows);
    if (st == SALA_OK)
        return out;
    cli_fail_error(&err);
    add(t, "model", "forward pass", INFINITY, 0);
    free(out);
    return NULL;
}

static double deviation(const float *x, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    return sqrt(squares / (double)n - sum * sum / ((double)n * (double)n));
}

static double worst_relative(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = fabs((double)a[i] - (double)b[i]);
        worst = e > worst || isnan(e) ? (isnan(e) ? INFINITY : e) : worst;
    }
    return worst / deviation(b, n);
}

static void check_text(selftest *t, const sala_model *m)
{
    sala_error err = {0};
    int32_t *ids = NULL;
    char *back = NULL, *prompt = NULL;
    size_t n = 0, bytes = 0, prompt_bytes = 0;
    bool same = sala_tokenize(m, &ids, &n, TEXT, strlen(TEXT), 0, &err) == SALA_OK &&
                sala_detokenize(m, &back, &bytes, ids, n, false, &err) == SALA_OK && bytes == strlen(TEXT) &&
                memcmp(back, TEXT, bytes) == 0;
    add(t, "model", "text to tokens and back", same ? 0 : INFINITY, 0);
    static const char want[] = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    same = sala_chat_prompt(m, &prompt, &prompt_bytes, NULL, NULL,
                            "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"add_generation_prompt\":true}",
                            &err) == SALA_OK &&
           strcmp(prompt, want) == 0;
    add(t, "model", "chat template", same ? 0 : INFINITY, 0);
    sala_free(ids);
    sala_free(back);
    sala_free(prompt);
}

/* Generates greedily twice, the second time after a rollback: the same tokens must come. */
static void check_generation(selftest *t, sala_model *m, const int32_t *ids, size_t n)
{
    enum { NEW = 24 };
    sala_model_info info;
    sala_model_get_info(m, &info);
    sala_error err = {0};
    sala_session *s = NULL;
    sala_sampler *greedy = NULL;
    int32_t drawn[2][NEW] = {{0}};
    float *logits = malloc((size_t)info.n_vocab * sizeof *logits);
    bool ok = logits && sala_session_open(&s, m, NULL, &err) == SALA_OK &&
              sala_sampler_open(&greedy, m, NULL, &err) == SALA_OK;
    for (int k = 0; ok && k < 2; k++) {
        const int64_t keep = k ? (int64_t)n / 2 : 0;
        ok = sala_session_rollback(s, keep, &err) == SALA_OK &&
             sala_prefill(s, ids + keep, n - (size_t)keep, 16, logits, NULL, NULL, &err) == SALA_OK;
        for (int i = 0; ok && i < NEW; i++) {
            ok = sala_sample(greedy, logits, &drawn[k][i], NULL, NULL, 0, &err) == SALA_OK;
            const sala_row row = {drawn[k][i], 0, true};
            ok = ok && sala_forward(m, &s, 1, &row, 1, logits, &err) == SALA_OK;
        }
    }
    add(t, "model", "decoding, rollback, decoding again",
        ok && memcmp(drawn[0], drawn[1], sizeof drawn[0]) == 0 ? 0 : INFINITY, 0);
    sala_sampler_close(greedy);
    sala_session_close(s);
    free(logits);
}

static int check_model(selftest *t, const char *path, const cli_options *o)
{
    const int threads = o->threads == CLI_UNSET ? 0 : (int)o->threads;
    const sala_model_params ref_params = {.kernels = "ref", .n_threads = threads}, auto_params = {.n_threads = threads};
    sala_model *ref = NULL, *fast = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    sala_error err = {0};
    float *whole = NULL, *chunks = NULL, *quick = NULL, *quick_chunks = NULL;
    int rc = 0;
    if (sala_model_open(&ref, path, &ref_params, &err) != SALA_OK ||
        sala_model_open(&fast, path, &auto_params, &err) != SALA_OK ||
        sala_tokenize(ref, &ids, &n, TEXT, strlen(TEXT), 0, &err) != SALA_OK) {
        rc = cli_fail_error(&err);
        add(t, "model", "opening", INFINITY, 0);
        goto out;
    }
    check_text(t, ref);
    sala_model_info info;
    sala_model_get_info(ref, &info);
    const size_t count = n * (size_t)info.n_vocab;
    whole = all_logits(t, ref, ids, n, n);
    chunks = all_logits(t, ref, ids, n, 7);
    quick = all_logits(t, fast, ids, n, n);
    quick_chunks = all_logits(t, fast, ids, n, 1);
    if (whole && chunks && quick && quick_chunks) {
        add(t, "model", "ref: chunks of 7 give the same logits", worst_relative(chunks, whole, count), 1e-5);
        add(t, "model", "auto: one token at a time gives the same logits", worst_relative(quick_chunks, quick, count),
            1e-5);
        add(t, "model", "auto against ref", worst_relative(quick, whole, count), 0.2);
    }
    check_generation(t, fast, ids, n);
out:
    free(whole);
    free(chunks);
    free(quick);
    free(quick_chunks);
    sala_free(ids);
    sala_model_close(ref);
    sala_model_close(fast);
    return rc;
}

/* ---- the verb ---- */

static void print_rows(const selftest *t, double seconds)
{
    cli_table *table = cli_table_new("CHECK||>ERROR|>BOUND");
    size_t i;
    json_t *row;
    json_array_foreach(t->rows, i, row)
    {
        const json_t *error = json_object_get(row, "error");
        const double bound = json_real_value(json_object_get(row, "bound"));
        cli_table_cell(table, "%s", json_string_value(json_object_get(row, "check")));
        cli_table_cell(table, "%s", json_is_true(json_object_get(row, "ok")) ? "ok" : "FAILED");
        if (!json_is_real(error))
            cli_table_cell(table, "wrong");
        else if (bound == 0)
            cli_table_cell(table, " ");
        else
            cli_table_cell(table, "%.1e", json_real_value(error));
        if (bound == 0)
            cli_table_cell(table, " ");
        else
            cli_table_cell(table, "%.0e", bound);
    }
    cli_table_print(table, stdout);
    if (t->failed)
        printf("%d of %zu checks FAILED\n", t->failed, json_array_size(t->rows));
    else
        printf("all %zu checks passed in %.1f s\n", json_array_size(t->rows), seconds);
}

int cli_cmd_selftest(const cli_options *o)
{
    selftest t = {.rows = json_array()};
    const double start = sala_os_seconds();
    const uint32_t cpu = sala_os_cpu_features();
    sala_kernels ref, fast;
    check_linear(&t);
    if (sala_kernels_get(&ref, "ref", cpu))
        for (const char *const *f = sala_kernels_families(); *f; f++)
            if (strcmp(*f, "ref") != 0 && sala_kernels_get(&fast, *f, cpu)) {
                check_vector(&t, *f, &fast, &ref);
                check_attention(&t, *f, &fast, &ref);
            }
    const char *path;
    int rc = cli_selftest_model_make(&path);
    if (rc == 0)
        rc = check_model(&t, path, o);
    cli_selftest_model_remove();
    cli_progress_end();
    const int failed = t.failed;
    if (o->json) {
        cli_print_json(
            json_pack("{s:b,s:i,s:O}", "ok", (int)(failed == 0 && rc == 0), "failed", failed, "checks", t.rows));
    } else if (rc == 0) {
        print_rows(&t, sala_os_seconds() - start);
    }
    json_decref(t.rows);
    return rc || failed ? CLI_FAILED : CLI_DONE;
}
