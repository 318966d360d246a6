/* bench: tokens per second of prefill and decoding at chosen depths, for one model after the other.
 *
 * A depth is reached by filling the session with random content of the right shape, or by reading random tokens
 * (--prefill-depth). Each sample runs on a fork of that session, so that none sees another and no time goes into
 * rolling back. A depth that memory cannot hold is skipped, and the row says so. */
#include "cli.h"

#include "bench_ops.h"
#include "bench_plot.h"
#include "infer/engine.h"
#include "input.h"
#include "median.h"
#include "memory.h"
#include "model_arg.h"
#include "os/os.h"
#include "reading.h"
#include "ui.h"

#include <stdlib.h>

enum { MAX_LIST = 16, WARM_UP = 32, FILL_SEED = 1 };

typedef struct lists {
    int64_t prompt[MAX_LIST], gen[MAX_LIST], depth[MAX_LIST];
    int n_prompt, n_gen, n_depth;
    int64_t longest; /* of prompt and gen */
} lists;

typedef struct bench {
    const cli_options *o;
    const lists *l;
    char *name; /* in rows */
    sala_model *model;
    sala_model_info info;
    sala_session *base; /* at the depth */
    float *logits;
    int32_t *ids; /* random, long enough for any row */
    double *samples;
    json_t *rows;
    size_t first_row; /* of this model */
} bench;

/* ---- one sample ---- */

static int once(bench *b, bool decode, int64_t n, double *seconds)
{
    sala_error err = {0};
    sala_session *s = NULL;
    if (sala_session_fork(&s, b->base, &err) != SALA_OK)
        return cli_fail_error(&err);
    sala_status st = SALA_OK;
    const double start = sala_os_seconds();
    if (!decode)
        st = sala_prefill(s, b->ids, (size_t)n, (int)b->o->chunk, b->logits, NULL, NULL, &err);
    for (int64_t i = 0; decode && st == SALA_OK && i < n; i++) {
        const sala_row row = {.token = b->ids[i], .session = 0, .want = true};
        st = sala_forward(b->model, &s, 1, &row, 1, b->logits, &err);
    }
    *seconds = sala_os_seconds() - start;
    sala_session_close(s);
    return st == SALA_OK ? 0 : cli_fail_error(&err);
}

static int measure(bench *b, bool decode, int64_t depth, int64_t n)
{
    int rc = 0;
    const int repeat = (int)b->o->repeat;
    json_t *samples = json_array();
    for (int i = 0; rc == 0 && i < repeat; i++) {
        double seconds = 0;
        rc = once(b, decode, n, &seconds);
        b->samples[i] = (double)n / (seconds > 0 ? seconds : 1e-9);
        json_array_append_new(samples, json_real(b->samples[i]));
        cli_progress(NULL, decode ? "decode" : "prefill", (uint64_t)i + 1, (uint64_t)repeat);
    }
    cli_progress_end();
    if (rc) {
        json_decref(samples);
        return rc;
    }
    json_t *row = json_pack("{s:s,s:s,s:I,s:I,s:i,s:f,s:o,s:b,s:I,s:I}", "model", b->name, "kind",
                            decode ? "decode" : "prefill", "n", (json_int_t)n, "depth", (json_int_t)depth, "threads",
                            b->info.n_threads, "tokens_per_second", cli_median(b->samples, repeat, b->samples + repeat),
                            "samples", samples, "filled", depth > 0 && !b->o->real_prefill, "session_bytes",
                            (json_int_t)sala_session_bytes(b->base), "peak_rss_bytes", (json_int_t)sala_os_peak_rss());
    return json_array_append_new(b->rows, row) == 0 ? 0 : cli_fail("not enough memory");
}

/* ---- one depth ---- */

static int skip(bench *b, int64_t depth, const char *why)
{
    cli_say("depth %lld is left out: %s", (long long)depth, why);
    json_t *row =
        json_pack("{s:s,s:s,s:I,s:s}", "model", b->name, "kind", "skipped", "depth", (json_int_t)depth, "why", why);
    return json_array_append_new(b->rows, row) == 0 ? 0 : cli_fail("not enough memory");
}

static sala_status open_base(bench *b, int64_t depth, sala_error *err)
{
    const cli_options *o = b->o;
    const int64_t room = depth + sala_max_i64(b->l->longest, WARM_UP);
    const sala_session_params params = {.max_tokens = room,
                                        .planned_tokens = room,
                                        .kv = cli_kv_type(o),
                                        .longrope = cli_longrope(o),
                                        .dense_switch = cli_dense_switch(o)};
    sala_session_close(b->base);
    b->base = NULL;
    sala_status st = sala_session_open(&b->base, b->model, &params, err);
    if (st == SALA_OK && depth && !o->real_prefill)
        return sala_session_fill(b->base, depth, FILL_SEED, err);
    /* Random tokens in pieces, the same ones again and again: what they are makes no difference to speed. */
    for (int64_t at = 0; st == SALA_OK && at < depth;) {
        const int64_t n = sala_min_i64(depth - at, b->l->longest);
        st = sala_prefill(b->base, b->ids, (size_t)n, (int)o->chunk, NULL, NULL, NULL, err);
        at += n;
        cli_progress(NULL, "reading up to the depth", (uint64_t)at, (uint64_t)depth);
    }
    cli_progress_end();
    return st;
}

/* The kernel keeps the highest memory of a process; each depth gets its own. Without /proc it is the highest so far. */
static void forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}

static int at_depth(bench *b, int64_t depth)
{
    const lists *l = b->l;
    cli_memory m;
    char words[400];
    sala_error err = {0};
    sala_session_close(b->base);
    b->base = NULL;
    const bool ref = strcmp(b->info.kernels, "ref") == 0;
    int rc = cli_memory_plan(&m, b->model, cli_kv_type(b->o), ref, depth + l->longest);
    if (rc)
        return rc;
    if (!cli_memory_fits(&m))
        return skip(b, depth, cli_memory_words(words, &m));
    forget_peak();
    const sala_status st = open_base(b, depth, &err);
    if (st == SALA_E_MEMORY)
        return skip(b, depth, err.message);
    if (st != SALA_OK)
        return cli_fail_error(&err);
    for (int i = 0; rc == 0 && i < l->n_prompt; i++)
        if (l->prompt[i])
            rc = measure(b, false, depth, l->prompt[i]);
    for (int i = 0; rc == 0 && i < l->n_gen; i++)
        if (l->gen[i])
            rc = measure(b, true, depth, l->gen[i]);
    return rc;
}

/* ---- one model ---- */

static int print_rows(const bench *b)
{
    char size[32], count[32];
    bool filled = false;
    printf("%s, %s, %s weights, %s, kernels %s, %d thread%s\n\n", b->name, b->info.quantization,
           cli_short_count(count, b->info.n_params), sala_format_bytes(size, b->info.weight_bytes), b->info.kernels,
           b->info.n_threads, b->info.n_threads == 1 ? "" : "s");
    cli_table *t = cli_table_new("kind|>tokens|>depth|>tok/s|>slowest|>fastest|>session|>peak memory");
    for (size_t i = b->first_row; i < json_array_size(b->rows); i++) {
        const json_t *row = json_array_get(b->rows, i);
        if (strcmp(cli_json_string(row, "kind"), "skipped") == 0)
            continue;
        const json_t *samples = json_object_get(row, "samples");
        double low = 0, high = 0;
        for (size_t k = 0; k < json_array_size(samples); k++) {
            const double v = json_real_value(json_array_get(samples, k));
            low = k == 0 || v < low ? v : low;
            high = v > high ? v : high;
        }
        filled |= cli_json_flag(row, "filled");
        cli_table_cell(t, "%s", cli_json_string(row, "kind"));
        cli_table_cell(t, "%lld", (long long)cli_json_int(row, "n"));
        cli_table_cell(t, "%lld", (long long)cli_json_int(row, "depth"));
        cli_table_cell(t, "%.2f", json_real_value(json_object_get(row, "tokens_per_second")));
        cli_table_cell(t, "%.2f", low);
        cli_table_cell(t, "%.2f", high);
        cli_table_cell(t, "%s", sala_format_bytes(size, (uint64_t)cli_json_int(row, "session_bytes")));
        cli_table_cell(t, "%s", sala_format_bytes(size, (uint64_t)cli_json_int(row, "peak_rss_bytes")));
    }
    cli_table_print(t, stdout);
    if (filled)
        puts("\nSessions were filled to their depth with random content, not by reading (--prefill-depth does that).");
    for (size_t i = b->first_row; i < json_array_size(b->rows); i++) {
        const json_t *row = json_array_get(b->rows, i);
        if (strcmp(cli_json_string(row, "kind"), "skipped") == 0)
            printf("Depth %lld was left out: %s\n", (long long)cli_json_int(row, "depth"), cli_json_string(row, "why"));
    }
    return cli_flush(CLI_DONE);
}

/* Rows carry a name that tells the models of one call apart: one model is called what it calls itself, several by their
 * files, since one shape may be there in several variants. NULL when memory is out; owned by the caller. */
static char *name_of(const sala_model_info *info, const char *given, bool several)
{
    if (!several)
        return sala_strdup(info->name && info->name[0] ? info->name : given);
    size_t n = strlen(given);
    while (n > 1 && given[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && given[from - 1] != '/')
        from--;
    if (n - from > 5 && memcmp(given + n - 5, ".gguf", 5) == 0)
        n -= 5;
    return sala_strndup(given + from, n - from);
}

static int bench_model(const cli_options *o, const lists *l, const char *model, bool several, json_t *rows)
{
    cli_options mine = *o;
    mine.model = model;
    mine.n_args = 0;
    bench b = {.o = &mine, .l = l, .rows = rows, .first_row = json_array_size(rows)};
    const int64_t n_ids = sala_max_i64(l->longest, WARM_UP);
    sala_error err = {0};
    int rc = cli_model_open(&b.model, &mine);
    if (rc)
        return rc;
    sala_model_get_info(b.model, &b.info);
    b.name = name_of(&b.info, model, several);
    b.logits = malloc((size_t)b.info.n_vocab * sizeof *b.logits);
    b.ids = malloc((size_t)n_ids * sizeof *b.ids);
    b.samples = malloc(2 * (size_t)o->repeat * sizeof *b.samples);
    int64_t deepest = 0;
    for (int i = 0; i < l->n_depth; i++)
        deepest = sala_max_i64(deepest, l->depth[i]);
    if (b.name && b.info.n_ctx_train > 0 && deepest + l->longest > b.info.n_ctx_train)
        cli_warn("%lld tokens are beyond the %lld that %s was trained for; speed is measured all the same",
                 (long long)(deepest + l->longest), (long long)b.info.n_ctx_train, b.name);
    if (!b.name || !b.logits || !b.ids || !b.samples)
        rc = cli_fail("not enough memory");
    else if (open_base(&b, 0, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0) {
        sala_rng rng;
        double ignored;
        sala_rng_seed(&rng, 1);
        for (int64_t i = 0; i < n_ids; i++)
            b.ids[i] = (int32_t)(sala_rng_next(&rng) % (uint64_t)b.info.n_vocab);
        rc = once(&b, false, WARM_UP, &ignored);
        rc = rc ? rc : once(&b, true, 2, &ignored);
    }
    for (int d = 0; rc == 0 && d < l->n_depth; d++)
        rc = at_depth(&b, l->depth[d]);
    if (rc == 0 && !o->json) {
        if (b.first_row)
            putchar('\n');
        rc = print_rows(&b);
    }
    free(b.name);
    free(b.logits);
    free(b.ids);
    free(b.samples);
    sala_session_close(b.base);
    sala_model_close(b.model);
    return rc;
}

static int64_t largest(const int64_t *v, int n)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

static int plot(const cli_options *o, const json_t *rows)
{
    char words[200];
    bool filled = false;
    for (size_t i = 0; i < json_array_size(rows); i++)
        filled |= cli_json_flag(json_array_get(rows, i), "filled");
    const int threads = (int)cli_json_int(json_array_get(rows, 0), "threads");
    snprintf(words, sizeof words, "%d thread%s, keys and values in %s%s%s%s", threads, threads == 1 ? "" : "s",
             o->kv ? o->kv : "f16", o->sparse ? ", sparse attention " : "", o->sparse ? o->sparse : "",
             filled ? "; sessions filled to their depth with random content" : "");
    return cli_bench_plot(o->plot, rows, words);
}

int cli_cmd_bench(const cli_options *o)
{
    static const int64_t LIMIT = (int64_t)1 << 31;
    if (o->ops)
        return cli_bench_ops(o);
    lists l = {0};
    l.n_prompt = cli_parse_counts(l.prompt, MAX_LIST, o->bench_prompt, LIMIT, "-p");
    l.n_gen = l.n_prompt < 0 ? -1 : cli_parse_counts(l.gen, MAX_LIST, o->bench_gen, LIMIT, "-n");
    l.n_depth = l.n_gen < 0 ? -1 : cli_parse_counts(l.depth, MAX_LIST, o->depths, LIMIT, "-d");
    if (l.n_depth < 0)
        return CLI_MISUSED;
    l.longest = sala_max_i64(largest(l.prompt, l.n_prompt), largest(l.gen, l.n_gen));
    if (l.longest == 0)
        return cli_misuse("-p 0 and -n 0 leave nothing to measure");
    if (!o->model && o->n_args == 0)
        return cli_misuse("MODEL is missing: the path of a GGUF file or directory, or a name such as smollm2");
    int rc = o->plot ? cli_check_out(o->plot) : 0;
    json_t *rows = json_array();
    const bool several = o->n_args + (o->model != NULL) > 1;
    if (rc == 0 && o->model)
        rc = bench_model(o, &l, o->model, several, rows);
    for (int i = 0; rc == 0 && i < o->n_args; i++)
        rc = bench_model(o, &l, o->args[i], several, rows);
    if (rc == 0 && o->json)
        rc = cli_print_json(json_incref(rows));
    if (rc == 0 && o->plot)
        rc = plot(o, rows);
    json_decref(rows);
    return rc;
}
