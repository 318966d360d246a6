/* The frame of `sala bench --ops`: limits, timing, the table.
 *
 * A limit is what a plain loop reaches (kernels/limits.h) on this machine, in this run: it is measured anew beside
 * every row that refers to it, since other programs come and go, and the best of the run counts. An operation cannot
 * take less time than its bytes at the one limit or its arithmetic at the other; the larger of the two is what bounds
 * it, and its share of the time that was taken is the last column. */
#include "bench_ops.h"

#include "bench_ops_parts.h"
#include "median.h"
#include "reading.h"
#include "ui.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

enum { LIMIT_TASK = 64 << 10, CORE_BYTES = 256 << 10, BATCH_BYTES = OPS_MOST_ROWS * OPS_WIDTH * 4, BAR = 10 };
static const double SAMPLE_SECONDS = 0.025, LIMIT_SECONDS = 0.004, ROW_SECONDS = 1.0;

static const struct {
    const char *name, *words;
    bool bytes, one_thread;
} limits[OPS_N_LIMITS] = {
    [OPS_MEMORY] = {"memory", "reading 128 MiB", true, false},
    [OPS_COPY] = {"copy", "reading 8 MiB and writing 8 MiB", true, false},
    [OPS_CORE] = {"core", "reading 256 KiB on one thread", true, true},
    [OPS_F32] = {"f32", NULL, false, false},
    [OPS_I8] = {"i8", NULL, false, false},
    [OPS_BF16] = {"bf16", NULL, false, false},
    [OPS_F32_CORE] = {"f32 core", NULL, false, true},
};

/* ---- memory ---- */

void ops_random(float *out, size_t n)
{
    enum { PERIOD = 1 << 16 };
    sala_rng rng;
    sala_rng_seed(&rng, 1);
    for (size_t i = 0; i < n && i < PERIOD; i++)
        out[i] = (float)sala_rng_normal(&rng);
    for (size_t i = PERIOD; i < n; i++)
        out[i] = out[i - PERIOD];
}

void *ops_need(ops_bench *b, size_t bytes)
{
    void *p = calloc(1, bytes);
    if (!p)
        b->rc = cli_fail("not enough memory for %zu bytes", bytes);
    return p;
}

static void touch_task(void *user, int task, int worker)
{
    (void)worker;
    memset((uint8_t *)user + (size_t)task * LIMIT_TASK, 0x11, LIMIT_TASK);
}

static void *new_pages(ops_bench *b, size_t bytes)
{
    void *p = sala_os_pages_alloc(bytes);
    if (!p)
        b->rc = cli_fail("not enough memory for %zu MiB", bytes >> 20);
    return p;
}

static void *warm_pages(ops_bench *b, size_t bytes)
{
    void *p = new_pages(b, bytes);
    if (p)
        sala_pool_run(b->pool, (int)(bytes / LIMIT_TASK), touch_task, p);
    return p;
}

uint8_t *ops_arena(ops_bench *b)
{
    if (!b->arena)
        b->arena = warm_pages(b, OPS_ARENA);
    return b->arena;
}

float *ops_rows(ops_bench *b)
{
    if (!b->rows) {
        b->rows = warm_pages(b, OPS_ROWS_BYTES);
        if (b->rows)
            ops_random(b->rows, OPS_ROWS_BYTES / sizeof *b->rows);
    }
    return b->rows;
}

/* ---- limits ---- */

static const sala_limit_loop *loop_of(const ops_bench *b, ops_limit_id id)
{
    return id == OPS_I8 ? &b->loops.i8 : id == OPS_BF16 ? &b->loops.bf16 : &b->loops.f32;
}

static const char *limit_words(const ops_bench *b, ops_limit_id id)
{
    return limits[id].words ? limits[id].words : loop_of(b, id)->name;
}

static void read_task(void *user, int task, int worker)
{
    (void)worker;
    const ops_bench *b = user;
    b->loops.read(b->limit_pages + (size_t)task * LIMIT_TASK * 16, (size_t)LIMIT_TASK * 16);
}

static void copy_task(void *user, int task, int worker)
{
    (void)worker;
    const ops_bench *b = user;
    uint8_t *at = b->limit_pages + (size_t)task * LIMIT_TASK;
    b->loops.copy(at + BATCH_BYTES, at, LIMIT_TASK);
}

typedef struct peak_job {
    const sala_limit_loop *loop;
    int64_t rounds;
} peak_job;

static void peak_task(void *user, int task, int worker)
{
    (void)task;
    (void)worker;
    const peak_job *job = user;
    job->loop->run(job->rounds);
}

/* Bytes or operations of one round of a limit's loop, done. */
static double run_limit(ops_bench *b, ops_limit_id id)
{
    if (id == OPS_MEMORY) {
        sala_pool_run(b->pool, OPS_ARENA / (LIMIT_TASK * 16), read_task, b);
        return OPS_ARENA;
    }
    if (id == OPS_COPY) {
        sala_pool_run(b->pool, BATCH_BYTES / LIMIT_TASK, copy_task, b);
        return 2.0 * BATCH_BYTES;
    }
    if (id == OPS_CORE) {
        b->loops.read(b->limit_pages, CORE_BYTES);
        return CORE_BYTES;
    }
    peak_job job = {loop_of(b, id), 2000};
    if (limits[id].one_thread)
        return (double)job.loop->run(job.rounds);
    /* Several tasks a thread: one that another program holds up then costs the others little. */
    const int n_tasks = 4 * sala_pool_size(b->pool);
    sala_pool_run(b->pool, n_tasks, peak_task, &job);
    return (double)n_tasks * (double)job.loop->run(1) * (double)job.rounds;
}

static void measure_limit(ops_bench *b, ops_limit_id id)
{
    const size_t need = id == OPS_MEMORY ? OPS_ARENA : limits[id].bytes ? 2 * BATCH_BYTES : 0;
    if (!b->limit_pages && (b->limit_pages = new_pages(b, OPS_ARENA)) == NULL)
        return;
    if (need > b->limit_warm) {
        sala_pool_run(b->pool, (int)((need - b->limit_warm) / LIMIT_TASK), touch_task, b->limit_pages + b->limit_warm);
        b->limit_warm = need;
    }
    run_limit(b, id);
    int n = 0;
    const double begin = sala_os_seconds();
    double now = begin;
    do {
        const double done = run_limit(b, id), from = now;
        now = sala_os_seconds();
        b->limit[id] = fmax(b->limit[id], done / fmax(now - from, 1e-9));
    } while (++n < 3 || now - begin < LIMIT_SECONDS);
}

/* ---- one row ---- */

static void lower_case(char *s)
{
    for (; *s; s++)
        *s = (char)tolower((unsigned char)*s);
}

static bool wanted(const ops_bench *b)
{
    char all[160], word[64];
    snprintf(all, sizeof all, "%s %s %s", b->kind, b->name, b->shape);
    lower_case(all);
    for (int i = 0; i < b->o->n_args; i++) {
        snprintf(word, sizeof word, "%s", b->o->args[i]);
        lower_case(word);
        if (strstr(all, word))
            return true;
    }
    return b->o->n_args == 0;
}

bool ops_begin(ops_bench *b, const char *kind, const char *name, const char *shape, ...)
{
    if (b->rc)
        return false;
    va_list ap;
    va_start(ap, shape);
    vsnprintf(b->shape, sizeof b->shape, shape, ap);
    va_end(ap);
    b->kind = kind;
    snprintf(b->name, sizeof b->name, "%s", name);
    lower_case(b->name);
    b->n_cases += b->counting;
    if (!wanted(b))
        return false;
    b->n_wanted += b->counting;
    return !b->counting;
}

void ops_time(ops_bench *b, void (*fn)(void *user), void *user, ops_work work)
{
    if (b->rc)
        return;
    if (work.bytes > 0)
        measure_limit(b, work.bytes_limit);
    if (work.operations > 0)
        measure_limit(b, work.operations_limit);
    double times[1000], scratch[1000];
    const int most = (int)sala_min_i64(b->o->repeat, (int64_t)SALA_ARRAY_LEN(times));
    const double begin = sala_os_seconds();
    fn(user); /* warms caches, pages and threads up */
    double once = sala_os_seconds() - begin;
    if (once < SAMPLE_SECONDS) {
        const double again = sala_os_seconds();
        fn(user);
        once = sala_os_seconds() - again;
    }
    const int calls = (int)fmin(fmax(1, SAMPLE_SECONDS / fmax(once, 1e-9)), 1e6);
    json_t *samples = json_array();
    int n = 0;
    do {
        const double from = sala_os_seconds();
        for (int i = 0; i < calls; i++)
            fn(user);
        times[n] = (sala_os_seconds() - from) / calls;
        json_array_append_new(samples, json_real(times[n++]));
    } while (n < most && sala_os_seconds() - begin < ROW_SECONDS);
    json_t *row = json_pack("{s:s,s:s,s:s,s:i,s:f,s:o,s:f,s:s,s:f,s:s}", "kind", b->kind, "operation", b->name, "shape",
                            b->shape, "threads", sala_pool_size(b->pool), "seconds", cli_median(times, n, scratch),
                            "samples", samples, "bytes", work.bytes, "bytes_limit", limits[work.bytes_limit].name,
                            "operations", work.operations, "operations_limit", limits[work.operations_limit].name);
    if (json_array_append_new(b->table, row) != 0)
        b->rc = cli_fail("not enough memory");
    cli_progress(NULL, "operations", (uint64_t)++b->n_done, (uint64_t)b->n_wanted);
    if (work.bytes > 0)
        measure_limit(b, work.bytes_limit);
}

/* ---- the table ---- */

static double limit_named(const ops_bench *b, const char *name)
{
    for (int i = 0; i < OPS_N_LIMITS; i++)
        if (strcmp(limits[i].name, name) == 0)
            return b->limit[i];
    return 0;
}

/* Now that limits are final: what bounds each row, and its share. */
static void finish_rows(ops_bench *b)
{
    size_t i;
    json_t *row;
    json_array_foreach(b->table, i, row)
    {
        const double seconds = json_real_value(json_object_get(row, "seconds"));
        double least[2] = {0}, amount[2] = {0};
        static const char *const keys[2][2] = {{"bytes", "bytes_limit"}, {"operations", "operations_limit"}};
        for (int k = 0; k < 2; k++) {
            amount[k] = json_real_value(json_object_get(row, keys[k][0]));
            if (amount[k] > 0)
                least[k] = amount[k] / limit_named(b, cli_json_string(row, keys[k][1]));
        }
        const int k = least[1] > least[0];
        json_object_set_new(row, "limit", json_string(cli_json_string(row, keys[k][1])));
        json_object_set_new(row, "unit", json_string(keys[k][0]));
        json_object_set_new(row, "per_second", json_real(amount[k] / seconds));
        json_object_set_new(row, "limit_per_second", json_real(limit_named(b, cli_json_string(row, keys[k][1]))));
        json_object_set_new(row, "percent", json_real(100 * least[k] / seconds));
        for (int j = 0; j < 2; j++)
            json_object_del(row, keys[j][1]);
    }
    for (int id = 0; id < OPS_N_LIMITS; id++)
        if (b->limit[id] > 0)
            json_array_append_new(
                b->table, json_pack("{s:s,s:s,s:s,s:i,s:s,s:f}", "kind", "limit", "operation", limits[id].name, "shape",
                                    limit_words(b, id), "threads", limits[id].one_thread ? 1 : sala_pool_size(b->pool),
                                    "unit", limits[id].bytes ? "bytes" : "operations", "per_second", b->limit[id]));
}

static const char *duration(char dst[32], double seconds)
{
    if (seconds < 1e-6)
        snprintf(dst, 32, "%.0f ns", seconds * 1e9);
    else if (seconds < 1e-3)
        snprintf(dst, 32, "%.1f us", seconds * 1e6);
    else
        snprintf(dst, 32, "%.2f ms", seconds * 1e3);
    return dst;
}

static const char *rate(char dst[32], double per_second, const char *unit)
{
    const double g = per_second * 1e-9;
    snprintf(dst, 32, "%.*f %s", g < 100, g, strcmp(unit, "bytes") == 0 ? "GB/s" : "Gop/s");
    return dst;
}

static int print_table(const ops_bench *b)
{
    char text[32];
    size_t i;
    json_t *row;
    printf("kernels %s, %d thread%s\n\n", b->be->ops->describe(b->be), sala_pool_size(b->pool),
           sala_pool_size(b->pool) == 1 ? "" : "s");
    cli_table *t = cli_table_new("limit|>measured|how");
    json_array_foreach(b->table, i, row)
    {
        if (strcmp(cli_json_string(row, "kind"), "limit") != 0)
            continue;
        cli_table_cell(t, "%s", cli_json_string(row, "operation"));
        cli_table_cell(t, "%s",
                       rate(text, json_real_value(json_object_get(row, "per_second")), cli_json_string(row, "unit")));
        const char *words = cli_json_string(row, "shape");
        const bool one = cli_json_int(row, "threads") == 1 && sala_pool_size(b->pool) > 1;
        cli_table_cell(t, "%s%s", words, one && !strstr(words, "one thread") ? ", one thread" : "");
    }
    cli_table_print(t, stdout);
    putchar('\n');
    t = cli_table_new("kind|operation|shape|>time|>speed|>limit|of|>share|");
    const char *kind = "";
    json_array_foreach(b->table, i, row)
    {
        const char *unit = cli_json_string(row, "unit"), *mine = cli_json_string(row, "kind");
        if (strcmp(mine, "limit") == 0)
            continue;
        const double percent = json_real_value(json_object_get(row, "percent"));
        char bar[BAR + 1];
        for (int k = 0; k < BAR; k++)
            bar[k] = k < (int)(percent * BAR / 100 + 0.5) ? '#' : '.';
        bar[BAR] = 0;
        cli_table_cell(t, "%s", strcmp(mine, kind) == 0 ? "" : mine);
        cli_table_cell(t, "%s", cli_json_string(row, "operation"));
        cli_table_cell(t, "%s", cli_json_string(row, "shape"));
        cli_table_cell(t, "%s", duration(text, json_real_value(json_object_get(row, "seconds"))));
        cli_table_cell(t, "%s", rate(text, json_real_value(json_object_get(row, "per_second")), unit));
        cli_table_cell(t, "%s", rate(text, json_real_value(json_object_get(row, "limit_per_second")), unit));
        cli_table_cell(t, "%s", cli_json_string(row, "limit"));
        cli_table_cell(t, "%.0f %%", percent);
        cli_table_cell(t, "%s", bar);
        kind = mine;
    }
    cli_table_print(t, stdout);
    return cli_flush(CLI_DONE);
}

/* ---- the verb ---- */

static void all_cases(ops_bench *b)
{
    ops_linear_cases(b);
    ops_mixer_cases(b);
    ops_row_cases(b);
    ops_train_cases(b);
}

static int open_machine(ops_bench *b)
{
    const int n_threads = b->o->threads == CLI_UNSET ? 0 : (int)b->o->threads;
    static const sala_backend_limits most = {.rows = OPS_MOST_ROWS,
                                             .cols = OPS_WIDTH,
                                             .tokens = OPS_TOKENS,
                                             .n_heads = OPS_HEADS,
                                             .n_kv_heads = OPS_KV_HEADS,
                                             .head_dim = OPS_HEAD_DIM,
                                             .lightning_head_dim = OPS_HEAD_DIM,
                                             .selected = 128};
    sala_error err = {0};
    if (sala_backend_cpu_open(&b->be, b->o->kernels, n_threads, b->o->no_pack, &err) != SALA_OK)
        return cli_fail_error(&err);
    b->ops = b->be->ops;
    if (b->ops->reserve(b->be, &most, &err) != SALA_OK)
        return cli_fail_error(&err);
    if (!sala_kernels_get(&b->k, b->o->kernels, sala_os_cpu_features()))
        return cli_fail("there are no kernels \"%s\"", b->o->kernels);
    if (sala_pool_open(&b->pool, sala_backend_cpu_threads(b->be)) != 0)
        return cli_fail("could not start %d threads", sala_backend_cpu_threads(b->be));
    b->is_ref = strcmp(b->k.family, "ref") == 0;
    sala_limits_get(&b->loops, &b->k);
    return 0;
}

int cli_bench_ops(const cli_options *o)
{
    if (o->model)
        return cli_misuse("--ops measures operations without a model; -m '%s' has no place there", o->model);
    if (o->plot)
        return cli_misuse("--plot draws the speed of models, not that of --ops");
    ops_bench b = {.o = o, .counting = true, .table = json_array()};
    all_cases(&b);
    if (b.n_wanted == 0) {
        json_decref(b.table);
        return cli_misuse(
            "none of the %d operations has '%s' in its name; 'sala bench --ops' without a filter shows all", b.n_cases,
            o->args[0]);
    }
    b.counting = false;
    b.rc = open_machine(&b);
    if (b.rc == 0)
        all_cases(&b);
    cli_progress_end();
    if (b.rc == 0) {
        finish_rows(&b);
        b.rc = o->json ? cli_print_json(json_incref(b.table)) : print_table(&b);
    }
    if (b.arena)
        sala_os_pages_free(b.arena, OPS_ARENA);
    if (b.limit_pages)
        sala_os_pages_free(b.limit_pages, OPS_ARENA);
    if (b.rows)
        sala_os_pages_free(b.rows, OPS_ROWS_BYTES);
    sala_pool_close(b.pool);
    if (b.be)
        b.ops->close(b.be);
    json_decref(b.table);
    return b.rc;
}
