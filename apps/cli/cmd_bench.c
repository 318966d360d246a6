/* bench: tokens per second of prefill and decoding at chosen depths, as llama-bench measures them: random tokens, one
 * warm-up, the session rolled back to the depth between samples. */
#include "cli.h"

#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <stdlib.h>

enum { MAX_LIST = 16, WARM_UP = 32 };

typedef struct bench {
    sala_model *model;
    sala_session *session;
    sala_model_info info;
    float *logits;
    int32_t *ids; /* random, long enough for any row */
    int chunk;
    int repeat;
    double *samples;
} bench;

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *v, int n, double *scratch)
{
    memcpy(scratch, v, (size_t)n * sizeof *v);
    qsort(scratch, (size_t)n, sizeof *v, compare_doubles);
    return n % 2 ? scratch[n / 2] : (scratch[n / 2 - 1] + scratch[n / 2]) / 2;
}

static int to_depth(bench *b, int64_t depth)
{
    sala_error err = {0};
    const int64_t have = sala_session_length(b->session);
    if (have > depth ? sala_session_rollback(b->session, depth, &err) != SALA_OK
                     : have < depth && sala_prefill(b->session, b->ids + have, (size_t)(depth - have), b->chunk, NULL,
                                                    cli_progress, NULL, &err) != SALA_OK)
        return cli_fail_error(&err);
    cli_progress_end();
    return 0;
}

static int once(bench *b, bool decode, int64_t depth, int64_t n, double *seconds)
{
    sala_error err = {0};
    int rc = to_depth(b, depth);
    if (rc)
        return rc;
    const double start = sala_os_seconds();
    if (!decode) {
        if (sala_prefill(b->session, b->ids + depth, (size_t)n, b->chunk, b->logits, NULL, NULL, &err) != SALA_OK)
            rc = cli_fail_error(&err);
    } else {
        for (int64_t i = 0; rc == 0 && i < n; i++) {
            const sala_row row = {.token = b->ids[depth + i], .session = 0, .want = true};
            if (sala_forward(b->model, &b->session, 1, &row, 1, b->logits, &err) != SALA_OK)
                rc = cli_fail_error(&err);
        }
    }
    *seconds = sala_os_seconds() - start;
    return rc;
}

static int measure(bench *b, bool decode, int64_t depth, int64_t n, json_t *rows)
{
    int rc = 0;
    json_t *samples = json_array();
    for (int i = 0; rc == 0 && i < b->repeat; i++) {
        double seconds = 0;
        rc = once(b, decode, depth, n, &seconds);
        b->samples[i] = (double)n / (seconds > 0 ? seconds : 1e-9);
        json_array_append_new(samples, json_real(b->samples[i]));
        cli_progress(NULL, decode ? "decode" : "prefill", (uint64_t)i + 1, (uint64_t)b->repeat);
    }
    cli_progress_end();
    if (rc) {
        json_decref(samples);
        return rc;
    }
    json_t *row = json_pack("{s:s,s:I,s:I,s:i,s:f,s:o,s:I}", "kind", decode ? "decode" : "prefill", "n", (json_int_t)n,
                            "depth", (json_int_t)depth, "threads", b->info.n_threads, "tokens_per_second",
                            median(b->samples, b->repeat, b->samples + b->repeat), "samples", samples, "peak_rss_bytes",
                            (json_int_t)sala_os_peak_rss());
    return json_array_append_new(rows, row) == 0 ? 0 : cli_fail("not enough memory");
}

static int print_rows(const bench *b, json_t *rows)
{
    char size[32], count[32];
    printf("%s, %s, %s weights, %s, kernels %s, %d thread%s\n\n", b->info.name ? b->info.name : b->info.path,
           b->info.quantization, cli_short_count(count, b->info.n_params),
           sala_format_bytes(size, b->info.weight_bytes), b->info.kernels, b->info.n_threads,
           b->info.n_threads == 1 ? "" : "s");
    cli_table *t = cli_table_new("kind|>tokens|>depth|>tok/s|>slowest|>fastest|>peak memory");
    size_t i, k;
    json_t *row, *sample;
    json_array_foreach(rows, i, row)
    {
        double low = 0, high = 0;
        json_array_foreach(json_object_get(row, "samples"), k, sample)
        {
            const double v = json_real_value(sample);
            low = k == 0 || v < low ? v : low;
            high = v > high ? v : high;
        }
        cli_table_cell(t, "%s", json_string_value(json_object_get(row, "kind")));
        cli_table_cell(t, "%lld", (long long)json_integer_value(json_object_get(row, "n")));
        cli_table_cell(t, "%lld", (long long)json_integer_value(json_object_get(row, "depth")));
        cli_table_cell(t, "%.2f", json_real_value(json_object_get(row, "tokens_per_second")));
        cli_table_cell(t, "%.2f", low);
        cli_table_cell(t, "%.2f", high);
        cli_table_cell(t, "%s",
                       sala_format_bytes(size, (uint64_t)json_integer_value(json_object_get(row, "peak_rss_bytes"))));
    }
    cli_table_print(t, stdout);
    return cli_flush(CLI_DONE);
}

static int64_t largest(const int64_t *v, int n)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

int cli_cmd_bench(const cli_options *o)
{
    static const int64_t LIMIT = (int64_t)1 << 31;
    int64_t prompt[MAX_LIST], gen[MAX_LIST], depth[MAX_LIST];
    const int n_prompt = cli_parse_counts(prompt, MAX_LIST, o->bench_prompt, LIMIT, "-p");
    const int n_gen = n_prompt < 0 ? -1 : cli_parse_counts(gen, MAX_LIST, o->bench_gen, LIMIT, "-n");
    const int n_depth = n_gen < 0 ? -1 : cli_parse_counts(depth, MAX_LIST, o->depths, LIMIT, "-d");
    if (n_depth < 0)
        return CLI_MISUSED;
    const int64_t longest = sala_max_i64(largest(prompt, n_prompt), largest(gen, n_gen));
    if (longest == 0)
        return cli_misuse("-p 0 and -n 0 leave nothing to measure");
    const int64_t room = largest(depth, n_depth) + sala_max_i64(longest, WARM_UP);

    bench b = {.chunk = (int)o->chunk, .repeat = (int)o->repeat};
    json_t *rows = json_array();
    sala_error err = {0};
    int rc = cli_model_open(&b.model, o);
    if (rc == 0)
        rc = cli_check_context(b.model, o, room);
    if (rc)
        goto out;
    sala_model_get_info(b.model, &b.info);
    b.logits = malloc((size_t)b.info.n_vocab * sizeof *b.logits);
    b.ids = malloc((size_t)room * sizeof *b.ids);
    b.samples = malloc(2 * (size_t)b.repeat * sizeof *b.samples);
    const sala_session_params params = {.max_tokens = room,
                                        .planned_tokens = room,
                                        .kv = cli_kv_type(o),
                                        .longrope = cli_longrope(o),
                                        .dense_switch = cli_dense_switch(o)};
    if (!b.logits || !b.ids || !b.samples)
        rc = cli_fail("not enough memory");
    else if (sala_session_open(&b.session, b.model, &params, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc)
        goto out;
    sala_rng rng;
    sala_rng_seed(&rng, 1);
    for (int64_t i = 0; i < room; i++)
        b.ids[i] = (int32_t)(sala_rng_next(&rng) % (uint64_t)b.info.n_vocab);
    double ignored;
    rc = once(&b, false, 0, WARM_UP, &ignored);
    if (rc == 0)
        rc = once(&b, true, 0, 2, &ignored);
    for (int d = 0; rc == 0 && d < n_depth; d++) {
        for (int i = 0; rc == 0 && i < n_prompt; i++)
            if (prompt[i])
                rc = measure(&b, false, depth[d], prompt[i], rows);
        for (int i = 0; rc == 0 && i < n_gen; i++)
            if (gen[i])
                rc = measure(&b, true, depth[d], gen[i], rows);
    }
    if (rc == 0)
        rc = o->json ? cli_print_json(json_incref(rows)) : print_rows(&b, rows);
out:
    json_decref(rows);
    free(b.logits);
    free(b.ids);
    free(b.samples);
    sala_session_close(b.session);
    sala_model_close(b.model);
    return rc;
}
