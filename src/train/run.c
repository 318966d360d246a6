/* A run from its config to its output. State that enters a step is the trainer's, the loader's and the config, all of
 * which a save holds: a run that was killed anywhere goes on with the same numbers. Order at a step's end: metrics,
 * evaluation, samples, save; so what a save's step has brought is on the medium before the save is.
 *
 * Stages differ in lengths and sparse attention, so each has its own plan, trainer and loader; between two of them the
 * state goes through a save, as it does when a run goes on another day. */
#include "train/run.h"

#include "data/pack.h"
#include "format/npy.h"
#include "os/os.h"
#include "quant/quant.h"
#include "train/output.h"
#include "train/run_config_internal.h"
#include "train/sample.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

enum { SAMPLE_TOKENS = 64, MAX_REWINDS = 3, SPLIT_BYTES = 4096 };
static const double VALIDATION_SHARE = 0.02; /* of a text that is packed on the fly */

typedef struct open_corpus {
    char *path; /* as the config names it */
    sala_corpus corpus;
    bool is_open;
} open_corpus;

typedef struct run {
    sala_run_config c; /* shallow copy of the caller's, with the step of a branch */
    const sala_run_options *o;
    const sala_run_hooks *hooks;
    const char *out;
    char *here; /* the working directory; NULL: unknown */
    sala_dist *dist;
    sala_pool *pool;
    sala_store *lock;
    sala_vocabulary vocabulary;
    open_corpus *corpora;
    int n_corpora;
    sala_corpus validation;
    bool has_validation;
    sala_metrics *metrics;
    sala_buf identity;
    double peak; /* floating-point operations a second, of all ranks */
    char *products;

    /* the stage that is open */
    int stage;      /* -1: none */
    int64_t before; /* steps before it */
    sala_run_config view;
    sala_params params;
    sala_train_plan plan;
    sala_trainer *trainer;
    sala_bins *bins[SALA_MAX_SOURCES];
    int n_bins;
    sala_loader *loader;

    int64_t step, last_save, rewinds;
    bool told_model; /* what the plan says of it */
    bool waits;      /* lines of metrics, because the disk is full */
    double pace;     /* seconds a step, smoothed; 0: unknown */
    int paced;       /* steps of this stage that it is made of */
    int stopped_by;  /* a signal, agreed on by all ranks */
} run;

SALA_PRINTF(2, 3)
static void say(const run *r, const char *fmt, ...)
{
    char text[1200];
    va_list args;
    if (!r->hooks->line || (r->dist && r->dist->rank > 0))
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->hooks->line(r->hooks->user, text);
}

/* A path as people have written it: those below the working directory without that. */
static const char *shown(const run *r, const char *path)
{
    const size_t n = r->here ? strlen(r->here) : 0;
    return n && strncmp(path, r->here, n) == 0 && path[n] == '/' && path[n + 1] ? path + n + 1 : path;
}

static void pass_on(void *user, const char *line)
{
    say(user, "%s", line);
}

static int stop_asked(const run *r)
{
    return r->hooks->stop ? atomic_load(r->hooks->stop) : 0;
}

/* ---- data ---- */

static bool pack_progress(void *user, uint64_t bytes_in, uint64_t tokens)
{
    (void)bytes_in;
    (void)tokens;
    return stop_asked(user) == 0;
}

static sala_status pack_text(run *r, const char *path, const char *dir, sala_error *err)
{
    sala_pack_stats stats;
    say(r, "packing %s", shown(r, path));
    const sala_pack_params p = {.inputs = &path,
                                .n_inputs = 1,
                                .out_dir = dir,
                                .tokenizer = r->vocabulary.tokenizer,
                                .chat = r->vocabulary.chat,
                                .add_eos = true,
                                .split_bytes = SPLIT_BYTES,
                                .validation = r->c.validation ? VALIDATION_SHARE : 0,
                                .seed = r->c.seed,
                                .n_threads = sala_pool_size(r->pool),
                                .tokenizer_hint = r->c.model_from ? r->c.model_from : r->c.tokenizer,
                                .progress = pack_progress,
                                .user = r};
    SALA_TRY(sala_pack_run(&p, &stats, err));
    char tokens[32], docs[32], apart[32];
    say(r, "packed %s tokens in %s document%s, %s of them for validation", sala_format_thousands(tokens, stats.tokens),
        sala_format_thousands(docs, stats.docs), stats.docs == 1 ? "" : "s",
        sala_format_thousands(apart, stats.docs_validation));
    if (stats.supervised < stats.tokens)
        say(r, "%.1f %% of the tokens are answers, which is what will be learned",
            100.0 * (double)stats.supervised / (double)stats.tokens);
    return SALA_OK;
}

/* Where a text's shards lie: named by the path, so that another source never meets them. */
static char *pack_dir(const run *r, const char *path)
{
    sala_buf b = {0};
    sala_buf_printf(&b, "%s/data/%016" PRIx64, r->out, (uint64_t)XXH3_64bits(path, strlen(path)));
    return sala_buf_take(&b, NULL);
}

static sala_status open_source(run *r, const char *path, sala_corpus *out, sala_error *err)
{
    sala_status st = SALA_OK;
    if (sala_corpus_is_there(path)) {
        st = sala_corpus_open(out, path, err);
    } else {
        char *dir = pack_dir(r, path);
        if (!dir)
            return sala_fail_memory(err, strlen(path));
        if (r->dist->rank == 0 && !sala_corpus_is_there(dir))
            st = pack_text(r, path, dir, err);
        st = sala_dist_agree(r->dist, st, err);
        if (st == SALA_OK)
            st = sala_corpus_open(out, dir, err);
        free(dir);
    }
    if (st != SALA_OK)
        return st;
    st = sala_corpus_check_vocab(out, r->vocabulary.id, (uint32_t)r->c.shape.n_vocab, err);
    if (st != SALA_OK)
        sala_corpus_close(out);
    return st == SALA_OK ? SALA_OK : sala_fail_prefix(err, st, "%s", shown(r, path));
}

static const sala_corpus *corpus_of(const run *r, const char *path)
{
    for (int i = 0; i < r->n_corpora; i++)
        if (strcmp(r->corpora[i].path, path) == 0)
            return &r->corpora[i].corpus;
    return NULL;
}

static sala_status open_corpora(run *r, sala_error *err)
{
    int most = 0;
    for (int i = 0; i < r->c.n_stages; i++)
        most += r->c.stages[i].n_sources;
    r->corpora = calloc((size_t)most, sizeof *r->corpora);
    if (!r->corpora)
        return sala_fail_memory(err, (uint64_t)most * sizeof *r->corpora);
    for (int i = 0; i < r->c.n_stages; i++)
        for (int k = 0; k < r->c.stages[i].n_sources; k++) {
            sala_run_source *s = &r->c.stages[i].sources[k];
            if (!corpus_of(r, s->path)) {
                open_corpus *o = &r->corpora[r->n_corpora];
                SALA_TRY(open_source(r, s->path, &o->corpus, err));
                o->path = s->path;
                r->n_corpora++;
            }
            s->corpus = corpus_of(r, s->path)->manifest_sum;
        }
    return SALA_OK;
}

static sala_status open_validation(run *r, sala_error *err)
{
    const char *path = r->c.validation;
    if (!path)
        return SALA_OK;
    if (strcmp(path, "auto") == 0) {
        path = r->corpora[0].corpus.validation_dir;
        if (!path) {
            say(r, "%s has no validation documents: nothing will be evaluated", shown(r, r->corpora[0].path));
            return SALA_OK;
        }
    }
    SALA_TRY(sala_corpus_open(&r->validation, path, err));
    r->has_validation = true;
    return sala_corpus_check_vocab(&r->validation, r->vocabulary.id, (uint32_t)r->c.shape.n_vocab, err);
}

/* ---- stages ---- */

static void close_stage(run *r)
{
    sala_loader_close(r->loader);
    for (int i = 0; i < r->n_bins; i++)
        sala_bins_close(r->bins[i]);
    if (r->trainer)
        sala_trainer_close(r->trainer);
    sala_train_plan_free(&r->plan);
    sala_params_free(&r->params);
    if (r->stage >= 0)
        sala_run_view_free(&r->view);
    r->loader = NULL;
    r->n_bins = 0;
    r->trainer = NULL;
    r->paced = 0;
    r->plan = (sala_train_plan){0};
    r->params = (sala_params){0};
    r->stage = -1;
}

/* Order of data of a stage: another one for each, or a stage would begin with what the one before began with. */
static sala_loader_state first_state(const run *r, int stage)
{
    return (sala_loader_state){.stage = (uint64_t)stage,
                               .seed = r->c.seed ^ (uint64_t)stage * UINT64_C(0x9e3779b97f4a7c15)};
}

static sala_status open_loader(run *r, const sala_loader_state *from, sala_error *err)
{
    const sala_run_stage *s = &r->view.stages[0];
    sala_mix_source mix[SALA_MAX_SOURCES];
    char *cache = sala_path_join(r->out, "cache");
    sala_status st = cache ? SALA_OK : sala_fail_memory(err, strlen(r->out));
    if (st == SALA_OK && r->dist->rank == 0 && sala_os_make_dirs(cache) != 0)
        st = sala_fail(err, SALA_E_IO, "could not make %s", cache);
    for (int i = 0; i < s->n_sources && st == SALA_OK; i++) {
        const sala_corpus *c = corpus_of(r, s->sources[i].path);
        st = sala_bins_open(&r->bins[i], c, s->seq_len, r->c.packing, cache, err);
        if (st == SALA_OK) {
            r->n_bins++;
            mix[i] = (sala_mix_source){.bins = r->bins[i], .corpus = c, .weight = s->sources[i].weight};
        }
    }
    free(cache);
    if (st != SALA_OK)
        return st;
    const sala_loader_params p = {.sources = mix,
                                  .n_sources = s->n_sources,
                                  .seq_len = s->seq_len,
                                  .sequences_per_step = s->batch,
                                  .sequences_per_pass = sala_train_plan_sequences(&r->plan, s->seq_len),
                                  .rank = r->dist->rank,
                                  .n_ranks = r->dist->size,
                                  .mask_documents = r->c.mask_documents,
                                  .keep_positions = !r->c.restart_positions};
    return sala_loader_open(&r->loader, &p, from, err);
}

static sala_status plan_stage(run *r, int stage, sala_error *err)
{
    SALA_TRY(sala_run_view(&r->view, &r->c, stage, err));
    r->stage = stage;
    r->before = 0;
    for (int i = 0; i < stage; i++)
        r->before += r->c.stages[i].steps;
    SALA_TRY(sala_params_plan(&r->params, &r->view, err));
    return sala_train_plan_make(&r->plan, &r->view, &r->params, r->c.memory_limit / (uint64_t)r->dist->host_size,
                                sala_pool_size(r->pool), r->dist->size, err);
}

/* The largest of what the ranks say. */
static sala_status most_of(run *r, int64_t *x, sala_error *err)
{
    const size_t n = (size_t)r->dist->size;
    double *all = calloc(n, sizeof *all);
    if (!all)
        return sala_fail_memory(err, n * sizeof *all);
    all[r->dist->rank] = (double)*x;
    const sala_status st = r->dist->ops->sum(r->dist, all, (int)n, err);
    for (size_t i = 0; i < n && st == SALA_OK; i++)
        *x = sala_max_i64(*x, (int64_t)all[i]);
    free(all);
    return st;
}

/* Layers of a stage for which so much or more is made again, the most of all stages. */
typedef struct again {
    int64_t feed, mixer, layer;
} again;

/* Plans every stage with what the config says now. */
static sala_status try_plans(run *r, again *most, sala_error *err)
{
    sala_status st = SALA_OK;
    *most = (again){0};
    for (int i = 0; i < r->c.n_stages && st == SALA_OK; i++) {
        st = plan_stage(r, i, err);
        again n = {0};
        for (int l = 0; l < r->plan.n_layers && st == SALA_OK; l++) {
            n.feed += r->plan.layers[l] >= SALA_RECOMPUTE_FEED;
            n.mixer += r->plan.layers[l] >= SALA_RECOMPUTE_MIXER;
            n.layer += r->plan.layers[l] >= SALA_RECOMPUTE_LAYER;
        }
        most->feed = sala_max_i64(most->feed, n.feed);
        most->mixer = sala_max_i64(most->mixer, n.mixer);
        most->layer = sala_max_i64(most->layer, n.layer);
        close_stage(r);
    }
    return st;
}

static sala_status set_recompute(run *r, const again *n, sala_error *err)
{
    const int64_t all = r->c.shape.n_layers + (r->c.mtp_depth > 0);
    sala_buf b = {0};
    if (n->feed == 0)
        sala_buf_add_str(&b, "none");
    else if (n->layer == all)
        sala_buf_add_str(&b, "layer");
    else if (n->mixer == all && n->layer == 0)
        sala_buf_add_str(&b, "mixer");
    else if (n->feed == all && n->mixer == 0)
        sala_buf_add_str(&b, "feed");
    else
        sala_buf_printf(&b, "feed:%" PRId64 ",mixer:%" PRId64 ",layer:%" PRId64, n->feed, n->mixer, n->layer);
    free(r->c.recompute);
    r->c.recompute = sala_buf_take(&b, NULL);
    return r->c.recompute ? SALA_OK : sala_fail_memory(err, 64);
}

/* What compute.rows_per_pass and compute.recompute come to where they are auto. Both move bits (the second in bf16), so
 * they are settled once for all stages and ranks, and are part of the run's identity. */
static sala_status settle(run *r, sala_error *err)
{
    const bool free_rows = r->c.rows_per_pass == 0;
    int64_t shortest = INT64_MAX;
    again n = {0};
    for (int i = 0; i < r->c.n_stages; i++)
        shortest = sala_min_i64(shortest, r->c.stages[i].seq_len);
    for (int turn = 0;; turn++) {
        if (free_rows)
            r->c.rows_per_pass = turn == 0 ? SALA_PASS_ROWS : sala_min_i64(shortest, SALA_PASS_ROWS);
        sala_error why = {0};
        const sala_status st = try_plans(r, &n, &why);
        int64_t too_much = st == SALA_E_MEMORY;
        SALA_TRY(most_of(r, &too_much, err));
        if (too_much && free_rows && turn == 0)
            continue;
        if (st != SALA_OK && err)
            *err = why;
        SALA_TRY(sala_dist_agree(r->dist, st, err));
        break;
    }
    if (r->c.precision == SALA_PRECISION_F32 || strcmp(r->c.recompute, "auto") != 0)
        return SALA_OK;
    SALA_TRY(most_of(r, &n.feed, err));
    SALA_TRY(most_of(r, &n.mixer, err));
    SALA_TRY(most_of(r, &n.layer, err));
    return set_recompute(r, &n, err);
}

/* What multiplies, and how fast. It takes a moment, so a run that is refused, or done, does without. */
static sala_status measure(run *r, sala_error *err)
{
    if (r->products)
        return SALA_OK;
    const int threads = sala_pool_size(r->pool);
    sala_product *product;
    const sala_product_params params = {.precision = r->c.precision, .n_workers = threads};
    SALA_TRY(sala_product_open(&product, &params, err));
    r->peak = sala_product_peak(product, r->pool) * r->dist->size;
    sala_buf words = {0};
    sala_buf_printf(&words, "%s", sala_product_describe(product));
    if (r->peak > 0)
        sala_buf_printf(&words, ", %.0f GFLOP/s at best on %d thread%s", r->peak / r->dist->size / 1e9, threads,
                        threads == 1 ? "" : "s");
    r->products = sala_buf_take(&words, NULL);
    sala_product_close(product);
    return r->products ? SALA_OK : sala_fail_memory(err, 64);
}

static void print_plan(run *r)
{
    sala_buf text = {0};
    sala_train_plan_print(&text, &r->plan, &r->view, r->products);
    for (char *p = text.data; p && *p;) {
        const size_t n = strcspn(p, "\n");
        const bool more = p[n] != 0;
        p[n] = 0;
        /* Of further stages only what is another. */
        if (!r->told_model || (strncmp(p, "model ", 6) != 0 && strncmp(p, "precision ", 10) != 0))
            say(r, "%s", p);
        p += n + more;
    }
    if (!r->told_model && r->view.mup && r->view.dim_model_base > r->view.shape.n_embd)
        say(r,
            "hint: model.hidden %d is below model.mup.dim_base %g, so logits begin %.3g times as large as they do "
            "there",
            (int)r->view.shape.n_embd, (double)r->view.dim_model_base,
            (double)r->view.dim_model_base / (double)r->view.shape.n_embd);
    r->told_model = true;
    sala_buf_free(&text);
}

/* The save, or NULL for a new run, whose values come from the seed or from model.from. */
static sala_status open_stage(run *r, int stage, const sala_save *save, sala_error *err)
{
    close_stage(r);
    SALA_TRY(plan_stage(r, stage, err));
    SALA_TRY(measure(r, err));
    print_plan(r);
    SALA_TRY(sala_trainer_open(&r->trainer, &r->view, &r->params, &r->plan, r->pool, r->dist, err));
    if (save) {
        SALA_TRY(sala_saves_load(save, r->trainer, &r->params, r->dist, err));
    } else {
        sala_params_init(&r->params, sala_trainer_values(r->trainer), r->c.seed);
        if (r->c.model_from)
            SALA_TRY(sala_params_load(&r->params, sala_trainer_values(r->trainer), r->c.model_from, err));
        sala_trainer_changed(r->trainer);
    }
    const bool goes_on = save && save->loader.stage == (uint64_t)stage;
    /* A stage's data has a level of loss of its own: what was learned of the last one's would call it a spike. */
    if (!goes_on)
        sala_trainer_state_of(r->trainer)->guard = (sala_guard_state){0};
    const sala_loader_state from = goes_on ? save->loader : first_state(r, stage);
    return open_loader(r, &from, err);
}

/* ---- saves ---- */

static sala_status save_now(run *r, sala_error *err)
{
    const bool stable = r->c.schedule == SALA_SCHEDULE_WSD && r->c.decay_steps > 0 && !r->c.branch_step &&
                        r->step == r->c.steps - r->c.decay_steps;
    const sala_save info = {.step = r->step,
                            .config_text = r->identity.data,
                            .loader = sala_loader_tell(r->loader),
                            .metrics_bytes = (int64_t)sala_metrics_bytes(r->metrics),
                            .rewinds = r->rewinds,
                            .stable = stable};
    SALA_TRY(sala_metrics_sync(r->metrics, err));
    SALA_TRY(sala_saves_write(r->out, r->trainer, &r->params, r->dist, &info, err));
    r->last_save = r->step;
    return SALA_OK;
}

static void prune_saves(run *r)
{
    sala_error err = {0};
    if (r->dist->rank == 0 && sala_saves_prune(r->out, r->c.keep_last, r->c.keep_every, &err) != SALA_OK)
        say(r, "old saves: %s", err.message);
}

/* The newest whole save at or below max_step, the same on all ranks. */
static sala_status find_save(run *r, sala_save *out, bool *found, int *damaged, int64_t max_step, sala_error *err)
{
    sala_status st = SALA_OK;
    int64_t facts[3] = {0};
    *found = false;
    if (r->dist->rank == 0) {
        st = sala_saves_find(out, found, damaged, r->out, max_step, pass_on, r, err);
        facts[0] = st == SALA_OK && *found;
        facts[1] = facts[0] ? out->step : 0;
        facts[2] = *damaged;
    }
    SALA_TRY(sala_dist_agree(r->dist, st, err));
    SALA_TRY(r->dist->ops->broadcast(r->dist, facts, sizeof facts, err));
    if (r->dist->rank == 0)
        return SALA_OK;
    *damaged = (int)facts[2];
    return facts[0] ? sala_saves_find(out, found, NULL, r->out, facts[1], NULL, NULL, err) : SALA_OK;
}

/* The run's identity; of a new run, or one that goes on from a save. */
static sala_status identify(run *r, const sala_save *save, sala_error *err)
{
    if (save)
        SALA_TRY(sala_run_config_adopt(&r->c, save->config_text, err));
    else
        SALA_TRY(settle(r, err));
    sala_buf_clear(&r->identity);
    return sala_run_config_text(&r->identity, &r->c, true);
}

static sala_status check_same(run *r, const sala_save *save, sala_error *err)
{
    sala_buf list = {0};
    bool same;
    sala_run_config_difference(&list, &same, save->config_text, r->identity.data);
    sala_status st = SALA_OK;
    if (!same && !sala_run_config_continues(&r->c, r->identity.data, save->config_text, save->step)) {
        char where[300];
        sala_buf words = {0};
        for (char *line = list.data; line && *line;) {
            char *end = line + strcspn(line, "\n"), *colon = strchr(line, ':');
            sala_buf_printf(&words, "%s%.*s", line == list.data ? "" : "; ", (int)(end - line), line);
            *colon = 0;
            const char *place = sala_run_config_where(&r->c, line, where, sizeof where);
            if (strcmp(place, "default") != 0)
                sala_buf_printf(&words, " (%s)", place);
            line = end + (*end != 0);
        }
        const int64_t stable = sala_run_config_stable_step(r->identity.data, save->config_text);
        if (stable > 0 && stable < save->step)
            st = sala_fail(err, SALA_E_INVALID,
                           "%s holds a run with another config: %.400s. Its steps from %" PRId64
                           " on had a falling learning rate; to go on from before them, use another --out and --branch "
                           "%s/checkpoints/step-%09" PRId64,
                           shown(r, r->out), words.data ? words.data : "", stable + 1, shown(r, r->out), stable);
        else
            st = sala_fail(err, SALA_E_INVALID,
                           "%s holds a run with another config: %.600s. Use another --out, or --fresh to start over",
                           shown(r, r->out), words.data ? words.data : "");
        sala_buf_free(&words);
    }
    sala_buf_free(&list);
    return st;
}

/* Opens the stage that comes next, from the newest save that loads; a damaged one gives way to the one before it. */
static sala_status resume(run *r, sala_error *err)
{
    int64_t max_step = -1;
    int passed = 0;
    for (;;) {
        sala_save save = {0};
        bool found;
        int damaged = 0;
        SALA_TRY(find_save(r, &save, &found, &damaged, max_step, err));
        passed += damaged;
        if (!found)
            break;
        sala_status st = identify(r, &save, err);
        if (st == SALA_OK)
            st = check_same(r, &save, err);
        st = sala_dist_agree(r->dist, st, err);
        int64_t before;
        const int64_t next = save.step < r->c.steps ? save.step + 1 : r->c.steps;
        if (st == SALA_OK) {
            sala_error why = {0};
            st = open_stage(r, sala_run_stage_of(&r->c, next, &before), &save, &why);
            const bool bad = st == SALA_E_CORRUPT;
            const sala_status all = sala_dist_agree(r->dist, st, &why);
            if (bad || (st == SALA_OK && all != SALA_OK && r->dist->size > 1)) {
                say(r, "checkpoints/step-%09" PRId64 " is damaged (%s)", save.step, why.message);
                max_step = save.step - 1;
                passed++;
                sala_save_free(&save);
                continue;
            }
            if (all != SALA_OK && err)
                *err = why;
            st = all;
        }
        if (st == SALA_OK) {
            r->step = r->last_save = save.step;
            r->rewinds = save.rewinds;
            say(r, "going on from step %" PRId64, save.step);
        }
        sala_save_free(&save);
        return st;
    }
    if (passed)
        return sala_fail(err, SALA_E_CORRUPT,
                         "all saves of %s are damaged; --fresh starts over, and another --out leaves them alone",
                         shown(r, r->out));
    SALA_TRY(identify(r, NULL, err));
    const char *branch = r->c.branch_from;
    if (!branch)
        return open_stage(r, 0, NULL, err);
    sala_save save;
    int64_t before;
    const sala_status opened = sala_saves_open(&save, branch, err);
    if (opened != SALA_OK)
        return sala_fail_prefix(err, opened, "schedule.branch_from: %s", branch);
    const sala_status st = open_stage(r, sala_run_stage_of(&r->c, save.step + 1, &before), &save, err);
    if (st == SALA_OK) {
        r->step = save.step;
        say(r, "branching from step %" PRId64 " of %s", save.step, branch);
    }
    sala_save_free(&save);
    return st;
}

/* ---- talk about a model: losses and samples ---- */

static sala_status evaluate(run *r, sala_error *err)
{
    if (!r->has_validation)
        return SALA_OK;
    const sala_run_stage *s = &r->view.stages[0];
    sala_bins *bins;
    SALA_TRY(sala_bins_open(&bins, &r->validation, s->seq_len, r->c.packing, NULL, err));
    const int64_t most = (int64_t)sala_bins_count(bins);
    const sala_mix_source mix = {.bins = bins, .corpus = &r->validation, .weight = 1};
    /* As many sequences as there are, and as many for each rank. */
    const int64_t n = sala_max_i64(sala_min_i64(r->c.validation_sequences, most), r->dist->size);
    const sala_loader_params p = {.sources = &mix,
                                  .n_sources = 1,
                                  .seq_len = s->seq_len,
                                  .sequences_per_step = n,
                                  .sequences_per_pass = sala_train_plan_sequences(&r->plan, s->seq_len),
                                  .rank = r->dist->rank,
                                  .n_ranks = r->dist->size,
                                  .mask_documents = r->c.mask_documents,
                                  .keep_positions = !r->c.restart_positions};
    const sala_loader_state from = {.seed = 1};
    sala_loader *loader = NULL;
    const sala_batch *batches;
    int n_batches = 0;
    int64_t supervised;
    sala_evaluation e = {0};
    sala_status st = sala_loader_open(&loader, &p, &from, err);
    if (st == SALA_OK)
        st = sala_loader_next(loader, &batches, &n_batches, &supervised, err);
    for (int i = 0; i < n_batches && st == SALA_OK; i++)
        st = sala_evaluate(&e, r->trainer, &r->vocabulary, &batches[i], err);
    sala_loader_close(loader);
    sala_bins_close(bins);
    if (st == SALA_OK)
        st = r->dist->ops->sum(r->dist, (double *)(void *)&e, (int)(sizeof e / sizeof(double)), err);
    if (st != SALA_OK || e.tokens == 0)
        return st;
    const double loss = e.loss / e.tokens;
    const char *const names[] = {"loss", "perplexity", "bits_per_byte"};
    const double values[] = {loss, exp(loss), e.bytes > 0 ? e.loss / log(2) / e.bytes : NAN};
    say(r, "validation at step %" PRId64 ": loss %.4f, perplexity %.3f, %.3f bits a byte", r->step, values[0],
        values[1], values[2]);
    SALA_TRY(sala_metrics_more(r->metrics, r->step, "eval", names, values, 3, err));
    char text[SALA_POSITION_BUCKETS][24];
    const char *bucket_names[SALA_POSITION_BUCKETS];
    double bucket_values[SALA_POSITION_BUCKETS];
    int n_buckets = 0;
    for (int b = 0; b < SALA_POSITION_BUCKETS; b++)
        if (e.bucket_tokens[b] > 0) {
            snprintf(text[n_buckets], sizeof text[0], "from_%" PRId64, ((int64_t)1 << b) - 1);
            bucket_names[n_buckets] = text[n_buckets];
            bucket_values[n_buckets++] = e.bucket_loss[b] / e.bucket_tokens[b];
        }
    return sala_metrics_more(r->metrics, r->step, "positions", bucket_names, bucket_values, n_buckets, err);
}

static sala_status draw_samples(run *r, sala_error *err)
{
    for (int i = 0; i < r->c.prompts.count && r->dist->rank == 0; i++) {
        sala_buf text = {0};
        sala_status st = sala_train_sample(&text, r->trainer, &r->vocabulary, r->view.shape.n_vocab,
                                           r->c.prompts.items[i], SAMPLE_TOKENS, err);
        if (st == SALA_OK)
            st = sala_metrics_sample(r->metrics, r->step, r->c.prompts.items[i], text.data ? text.data : "", err);
        if (st == SALA_OK && r->hooks->sample)
            r->hooks->sample(r->hooks->user, r->step, r->c.prompts.items[i], text.data ? text.data : "");
        sala_buf_free(&text);
        SALA_TRY(st);
    }
    return SALA_OK;
}

/* ---- steps ---- */

/* DIR/step-N.npy, of further ranks step-N.rank-R.npy: float32 [3][rows], which holds such numbers exactly: tokens,
 * labels, and which of the step's documents a row belongs to. */
static sala_status dump_batches(const run *r, const sala_batch *batches, int n_batches, sala_error *err)
{
    const char *dir = r->o->dump_batches;
    int64_t rows = 0;
    for (int i = 0; i < n_batches; i++)
        rows += batches[i].n_rows;
    if (!dir || rows == 0)
        return SALA_OK;
    const int e = sala_os_make_dirs(dir);
    if (e)
        return sala_fail_errno(err, e, "could not make the directory %s", dir);
    sala_buf path = {0};
    sala_buf_printf(&path, "%s/step-%09" PRId64, dir, r->step + 1);
    if (r->dist->rank > 0)
        sala_buf_printf(&path, ".rank-%d", r->dist->rank);
    sala_buf_add_str(&path, ".npy");
    float *x = malloc((size_t)rows * 3 * sizeof *x);
    sala_status st = x && !path.failed ? SALA_OK : sala_fail_memory(err, (uint64_t)rows * 3 * sizeof *x);
    float *at = x;
    for (int i = 0, doc = 0; st == SALA_OK && i < n_batches; at += batches[i].n_rows, i++)
        for (int d = 0; d < batches[i].n_docs; d++, doc++)
            for (int64_t k = batches[i].doc_start[d]; k < batches[i].doc_start[d + 1]; k++) {
                at[k] = (float)batches[i].tokens[k];
                at[rows + k] = (float)batches[i].labels[k];
                at[2 * rows + k] = (float)doc;
            }
    sala_npy_writer *w = NULL;
    if (st == SALA_OK)
        st = sala_npy_writer_open(&w, path.data, 3, rows, err);
    if (st == SALA_OK)
        st = sala_npy_write_rows(w, x, 3, err);
    if (st == SALA_OK)
        st = sala_npy_writer_commit(w, err);
    else
        sala_npy_writer_abort(w);
    free(x);
    sala_buf_free(&path);
    return st;
}

/* Tokens of all steps up to this one. */
static int64_t tokens_until(const run *r, int64_t step)
{
    int64_t tokens = 0, left = step;
    for (int i = 0; i < r->c.n_stages && left > 0; i++) {
        const sala_run_stage *s = &r->c.stages[i];
        const int64_t n = i + 1 < r->c.n_stages ? sala_min_i64(left, s->steps) : left;
        tokens += n * s->batch * s->seq_len;
        left -= n;
    }
    return tokens;
}

static sala_status find_target(run *r, sala_save *save, bool *found, sala_error *err)
{
    const int64_t ways[] = {r->step - r->c.spike_window, r->step - 1};
    *found = false;
    for (size_t i = 0; i < SALA_ARRAY_LEN(ways) && !*found; i++) {
        int damaged;
        SALA_TRY(find_save(r, save, found, &damaged, sala_max_i64(ways[i], 0), err));
        if (*found && save->step < r->before) { /* of another stage: its lengths are not ours */
            sala_save_free(save);
            *found = false;
        }
    }
    return SALA_OK;
}

/* Back to a save that is at least a window old, or the newest in this stage, past the data that went wrong. A run that
 * is killed in between must not find lines cut that no save brings again: the save of the step that it goes back to is
 * written anew first, with the data's counters of now, then later saves go, then lines of later steps. */
static sala_status rewind_run(run *r, sala_error *err)
{
    sala_save save = {0};
    bool found;
    const int64_t from = r->step;
    if (r->rewinds == MAX_REWINDS)
        return sala_fail(err, SALA_E_NUMERIC,
                         "step %" PRId64
                         ": the loss jumps again after %d times of going back; the last save is step %" PRId64
                         ". A smaller optimizer.lr or a longer schedule.warmup may help",
                         from, MAX_REWINDS, r->last_save);
    SALA_TRY(find_target(r, &save, &found, err));
    if (!found) {
        say(r, "the loss jumped for %" PRId64 " steps and there is no save to go back to; going on",
            r->c.spike_patience);
        sala_trainer_state_of(r->trainer)->guard.spikes = 0;
        return SALA_OK;
    }
    const int64_t to = save.step;
    sala_status st = sala_dist_agree(r->dist, sala_saves_load(&save, r->trainer, &r->params, r->dist, err), err);
    sala_save_free(&save);
    if (st != SALA_OK)
        return sala_fail_prefix(err, st, "going back to step %" PRId64, to);
    r->step = to;
    r->rewinds++;
    SALA_TRY(save_now(r, err));
    SALA_TRY(sala_dist_agree(r->dist, r->dist->rank == 0 ? sala_saves_forget(r->out, to, err) : SALA_OK, err));
    sala_metrics_close(r->metrics);
    r->metrics = NULL;
    SALA_TRY(sala_metrics_open(&r->metrics, r->dist->rank == 0 ? r->out : NULL, to, r->c.tensorboard, err));
    const char *const names[] = {"from", "sequences"};
    const double values[] = {(double)from, (double)sala_loader_tell(r->loader).sequences};
    SALA_TRY(sala_metrics_more(r->metrics, to, "rewind", names, values, 2, err));
    say(r,
        "the loss jumped; going back from step %" PRId64 " to step %" PRId64 ", past the data since (%" PRId64
        " of %d times)",
        from, to, r->rewinds, MAX_REWINDS);
    return SALA_OK;
}

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

/* A signal that any rank has got, so that all stop behind the same step. */
static sala_status agree_on_stop(run *r, sala_error *err)
{
    double signal = stop_asked(r);
    SALA_TRY(r->dist->ops->sum(r->dist, &signal, 1, err));
    if (signal > 0 && !r->stopped_by)
        r->stopped_by = stop_asked(r) ? stop_asked(r) : 15;
    return SALA_OK;
}

static void tell_waiting(run *r)
{
    const char *why = sala_metrics_waits(r->metrics);
    if (why && !r->waits)
        say(r, "metrics can not be written (%s); they wait in memory", why);
    else if (!why && r->waits)
        say(r, "metrics are written again");
    r->waits = why != NULL;
}

static sala_status one_step(run *r, sala_error *err)
{
    const sala_batch *batches;
    int n_batches;
    int64_t supervised;
    sala_step_result result = {0};
    const sala_run_stage *s = &r->view.stages[0];
    const double start = sala_os_seconds();
    SALA_TRY(sala_loader_next(r->loader, &batches, &n_batches, &supervised, err));
    const sala_status st =
        sala_trainer_step(r->trainer, batches, n_batches, supervised, sala_run_lr(&r->c, r->step + 1), &result, err);
    if (st != SALA_OK)
        return r->last_save ? sala_fail_prefix(err, st,
                                               "step %" PRId64 " (the last save is step %" PRId64
                                               ": the same command goes on from there)",
                                               r->step + 1, r->last_save)
                            : sala_fail_prefix(err, st, "step %" PRId64, r->step + 1);
    const double seconds = sala_os_seconds() - start;
    SALA_TRY(dump_batches(r, batches, n_batches, err));
    r->step++;
    sala_trainer_state_of(r->trainer)->step = r->step;
    result.step = r->step;
    result.tokens = tokens_until(r, r->step);
    const double rate = (double)(s->batch * s->seq_len) / seconds;
    const double share = r->peak > 0 ? rate * r->plan.flops_per_token / r->peak : 0;
    /* The first step warms up memory and caches, and would be seen in the estimate for long. */
    r->pace = r->paced >= 2 ? 0.9 * r->pace + 0.1 * seconds : seconds;
    r->paced += r->paced < 2;
    SALA_TRY(sala_metrics_step(r->metrics, &result, rate, share, err));
    tell_waiting(r);
    if (r->hooks->progress && r->dist->rank == 0)
        r->hooks->progress(r->hooks->user, &result, r->c.steps, rate, share, r->pace * (double)(r->c.steps - r->step));
    if (result.skipped)
        say(r, "step %" PRId64 " is passed over: %s (loss %.4f, gradient %.4g)", r->step,
            sala_verdict_name(result.verdict), result.loss, result.grad_norm);
    if (r->c.spike_rewind && result.spikes >= r->c.spike_patience)
        return rewind_run(r, err);
    return SALA_OK;
}

/* Everything that comes behind a step but the next one. */
static sala_status after_step(run *r, bool *stop, sala_error *err)
{
    const bool last = r->step == r->c.steps;
    const bool stage_end = r->step == r->before + r->view.stages[0].steps;
    const bool stable_end = r->c.schedule == SALA_SCHEDULE_WSD && r->step == r->c.steps - r->c.decay_steps;
    if (last || due(r->c.eval_every, r->step))
        SALA_TRY(evaluate(r, err));
    if (due(r->c.sample_every, r->step))
        SALA_TRY(draw_samples(r, err));
    if (r->dist->size > 1)
        SALA_TRY(agree_on_stop(r, err));
    else
        r->stopped_by = stop_asked(r);
    *stop = last || r->stopped_by || (r->o->stop_at > 0 && r->step >= r->o->stop_at);
    if (!*stop && !stage_end && !stable_end && !due(r->c.save_every, r->step))
        return SALA_OK;
    sala_error saving = {0};
    const sala_status st = save_now(r, &saving);
    if (st == SALA_OK)
        prune_saves(r);
    if (st != SALA_OK && (*stop || stage_end)) {
        if (err)
            *err = saving;
        return sala_fail_prefix(err, st, "the last save, of step %" PRId64, r->step);
    }
    if (st != SALA_OK)
        say(r, "step %" PRId64 " could not be saved (%s); the run goes on and tries again", r->step, saving.message);
    return SALA_OK;
}

static sala_status next_stage(run *r, sala_error *err)
{
    sala_save save;
    sala_buf path = {0};
    int64_t before;
    sala_buf_printf(&path, "%s/checkpoints/step-%09" PRId64, r->out, r->step);
    sala_status st = path.failed ? sala_fail_memory(err, 64) : sala_saves_open(&save, path.data, err);
    if (st == SALA_OK) {
        st = open_stage(r, sala_run_stage_of(&r->c, r->step + 1, &before), &save, err);
        sala_save_free(&save);
    }
    sala_buf_free(&path);
    return st;
}

static sala_status all_steps(run *r, sala_error *err)
{
    bool stop = r->step >= r->c.steps || (r->o->stop_at > 0 && r->step >= r->o->stop_at);
    while (!stop) {
        int64_t before;
        if (sala_run_stage_of(&r->c, r->step + 1, &before) != r->stage)
            SALA_TRY(next_stage(r, err));
        const int64_t was = r->step;
        SALA_TRY(one_step(r, err));
        if (r->step == was + 1) /* otherwise the run went back */
            SALA_TRY(after_step(r, &stop, err));
    }
    return SALA_OK;
}

/* ---- beginning and end ---- */

static bool remove_events(void *user, const char *name)
{
    const char *out = user;
    char *path = strncmp(name, "events.out.tfevents.", 20) == 0 ? sala_path_join(out, name) : NULL;
    if (path)
        (void)sala_os_remove_tree(path);
    free(path);
    return true;
}

static sala_status start_over(run *r, sala_error *err)
{
    static const char *const names[] = {"checkpoints", "metrics.jsonl", "samples.jsonl", "data",
                                        "cache",       "model",         "model.gguf"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
        char *path = sala_path_join(r->out, names[i]);
        const int e = path ? sala_os_remove_tree(path) : ENOMEM;
        const sala_status st = e ? sala_fail_errno(err, e, "could not remove %s", path ? path : names[i]) : SALA_OK;
        free(path);
        SALA_TRY(st);
    }
    (void)sala_os_list_dir(r->out, remove_events, (void *)(uintptr_t)r->out);
    return SALA_OK;
}

static sala_status take_directory(run *r, sala_error *err)
{
    int64_t holder = 0;
    int e = sala_os_make_dirs(r->out);
    if (e)
        return sala_fail_errno(err, e, "could not make the directory %s", r->out);
    char *path = sala_path_join(r->out, "lock");
    if (!path)
        return sala_fail_memory(err, strlen(r->out));
    e = sala_os_store_open(&r->lock, path, SALA_STORE_CREATE, &holder);
    free(path);
    if (e == EBUSY)
        return sala_fail(err, SALA_E_IO, "process %" PRId64 " trains in %s already; use another --out", holder,
                         shown(r, r->out));
    if (e)
        return sala_fail_errno(err, e, "could not lock %s", r->out);
    return r->o->fresh ? start_over(r, err) : sala_saves_recover(r->out, err);
}

static bool holds(const char *path, const sala_buf *text)
{
    uint8_t *there;
    size_t n;
    if (sala_os_read_file(&there, &n, path, text->len + 1) != 0)
        return false;
    const bool same = n == text->len && memcmp(there, text->data, n) == 0;
    free(there);
    return same;
}

static sala_status write_config(const run *r, sala_error *err)
{
    sala_buf text = {0};
    sala_out_file *f;
    char *path = sala_path_join(r->out, "run.yaml");
    sala_status st = path ? sala_run_config_text(&text, &r->c, false) : SALA_E_MEMORY;
    if (st != SALA_OK) {
        st = sala_fail_memory(err, 65536);
    } else if (!holds(path, &text)) { /* a run that goes on needs no room for it */
        int e = sala_os_out_open(&f, path);
        if (!e) {
            (void)sala_os_out_write(f, text.data, text.len);
            e = sala_os_out_commit(f);
        }
        if (e)
            st = sala_fail_errno(err, e, "could not write %s", path);
    }
    sala_buf_free(&text);
    free(path);
    return st;
}

static sala_status open_pool(run *r, sala_error *err)
{
    int threads = (int)r->c.threads;
    if (threads == 0) {
        threads = sala_os_cpu_count() / r->dist->host_size;
        threads = threads > 0 ? threads : 1;
    }
    const int e = sala_pool_open(&r->pool, threads);
    if (e)
        return sala_fail_errno(err, e, "could not start %d threads", threads);
    return SALA_OK;
}

static sala_status finish_run(run *r, sala_error *err)
{
    const bool gguf = r->c.gguf_type && strcmp(r->c.gguf_type, "none") != 0;
    char *model = sala_path_join(r->out, "model"), *file = sala_path_join(r->out, "model.gguf");
    sala_status st = model && file ? SALA_OK : sala_fail_memory(err, strlen(r->out));
    const bool there = st == SALA_OK && sala_os_is_dir(model) && (!gguf || sala_os_is_file(file));
    free(model);
    free(file);
    SALA_TRY(st);
    if (r->dist->rank == 0 && !(there && r->last_save == r->step && r->pace == 0)) {
        const sala_output_words words = {pass_on, r};
        st = sala_output_write(&r->c, &r->params, sala_trainer_values(r->trainer), r->out, r->c.output_dtype,
                               gguf ? r->c.gguf_type : "none", &words, err);
        if (st == SALA_OK)
            say(r, "wrote %s/model%s", shown(r, r->out), gguf ? " and model.gguf" : "");
    }
    return sala_dist_agree(r->dist, st, err);
}

/* What a run would open, as far as that can be told without packing. */
static sala_status check_source(run *r, const char *path, sala_error *err)
{
    char size[32], tokens[32], docs[32];
    if (sala_corpus_is_there(path)) {
        sala_corpus c = {0};
        sala_status st = sala_corpus_open(&c, path, err);
        if (st == SALA_OK)
            st = sala_corpus_check_vocab(&c, r->vocabulary.id, (uint32_t)r->c.shape.n_vocab, err);
        if (st == SALA_OK)
            say(r, "data       %s: %s tokens in %s document%s", shown(r, path),
                sala_format_thousands(tokens, c.n_tokens), sala_format_thousands(docs, c.n_docs),
                c.n_docs == 1 ? "" : "s");
        sala_corpus_close(&c);
        return st == SALA_OK ? SALA_OK : sala_fail_prefix(err, st, "%s", shown(r, path));
    }
    const int64_t bytes = sala_os_file_size(path);
    if (bytes < 0)
        return sala_fail(err, SALA_E_NOT_FOUND, "%s: no directory of shards, and no file", shown(r, path));
    say(r, "data       %s: %s, to be packed at the first start", shown(r, path),
        sala_format_bytes(size, (uint64_t)bytes));
    return SALA_OK;
}

static bool named_before(const run *r, int stage, int source)
{
    const char *path = r->c.stages[stage].sources[source].path;
    for (int i = 0; i <= stage; i++)
        for (int k = 0; k < (i < stage ? r->c.stages[i].n_sources : source); k++)
            if (strcmp(r->c.stages[i].sources[k].path, path) == 0)
                return true;
    return false;
}

static sala_status dry_run(run *r, sala_error *err)
{
    SALA_TRY(sala_vocabulary_open(&r->vocabulary, r->c.model_from ? r->c.model_from : r->c.tokenizer, err));
    for (int i = 0; i < r->c.n_stages; i++)
        for (int k = 0; k < r->c.stages[i].n_sources; k++)
            if (!named_before(r, i, k))
                SALA_TRY(check_source(r, r->c.stages[i].sources[k].path, err));
    for (int i = 0; i < r->c.n_stages; i++) {
        sala_status st = plan_stage(r, i, err);
        if (st == SALA_OK)
            st = measure(r, err);
        if (st == SALA_OK) {
            print_plan(r);
            if (r->hooks->plan && r->dist->rank == 0)
                r->hooks->plan(r->hooks->user, i, &r->c, &r->plan);
        }
        close_stage(r);
        SALA_TRY(st);
    }
    return SALA_OK;
}

/* What would only be found wrong when all is done. */
static sala_status check_output(const run *r, sala_error *err)
{
    char where[300];
    const char *type = r->c.gguf_type;
    if (!type || strcmp(type, "none") == 0 || strcmp(type, "auto") == 0 ||
        sala_recipe_by_name(type) != SALA_RECIPE_NONE)
        return SALA_OK;
    return sala_fail(err, SALA_E_INVALID, "%s: output.gguf is \"%s\"; expected none, auto, or one of %s",
                     sala_run_config_where(&r->c, "output.gguf", where, sizeof where), type, sala_recipe_names());
}

/* Before anything is made: a name that is misspelt leaves nothing behind. What was packed once needs its text no more.
 */
static sala_status check_sources(const run *r, sala_error *err)
{
    for (int i = 0; i < r->c.n_stages; i++)
        for (int k = 0; k < r->c.stages[i].n_sources; k++) {
            const char *path = r->c.stages[i].sources[k].path;
            if (sala_os_is_dir(path) || sala_os_file_size(path) >= 0)
                continue;
            char *packed = r->out && !r->o->fresh ? pack_dir(r, path) : NULL;
            const bool there = packed && sala_corpus_is_there(packed);
            free(packed);
            if (!there)
                return sala_fail(err, SALA_E_NOT_FOUND, "%s: no directory of shards, and no file", shown(r, path));
        }
    return SALA_OK;
}

static sala_status work(run *r, sala_error *err)
{
    SALA_TRY(check_output(r, err));
    SALA_TRY(check_sources(r, err));
    SALA_TRY(open_pool(r, err));
    if (r->o->dry_run)
        return dry_run(r, err);
    SALA_TRY(sala_dist_agree(r->dist, r->dist->rank == 0 ? take_directory(r, err) : SALA_OK, err));
    SALA_TRY(sala_vocabulary_open(&r->vocabulary, r->c.model_from ? r->c.model_from : r->c.tokenizer, err));
    SALA_TRY(open_corpora(r, err));
    SALA_TRY(open_validation(r, err));
    SALA_TRY(resume(r, err));
    SALA_TRY(sala_dist_agree(r->dist, r->dist->rank == 0 ? write_config(r, err) : SALA_OK, err));
    if (r->step >= r->c.steps) {
        say(r, "all %" PRId64 " steps are done already", r->c.steps);
        return finish_run(r, err);
    }
    SALA_TRY(sala_metrics_open(&r->metrics, r->dist->rank == 0 ? r->out : NULL, r->step, r->c.tensorboard, err));
    SALA_TRY(all_steps(r, err));
    if (r->step >= r->c.steps)
        return finish_run(r, err);
    say(r, "stopped behind step %" PRId64 " of %" PRId64 ", which is saved; the same command goes on", r->step,
        r->c.steps);
    return SALA_OK;
}

static void close_run(run *r)
{
    close_stage(r);
    sala_metrics_close(r->metrics);
    for (int i = 0; i < r->n_corpora; i++)
        sala_corpus_close(&r->corpora[i].corpus);
    free(r->corpora);
    sala_corpus_close(&r->validation);
    sala_vocabulary_close(&r->vocabulary);
    sala_buf_free(&r->identity);
    free(r->c.recompute); /* this copy's own */
    free(r->here);
    free(r->products);
    sala_os_store_close(r->lock);
    if (r->pool)
        sala_pool_close(r->pool);
}

sala_status sala_train_run(const sala_run_config *c, const sala_run_options *o, const sala_run_hooks *hooks,
                           sala_error *err)
{
    static const sala_run_hooks none = {0};
    sala_error own = {0};
    if (!c->out && !o->dry_run)
        return sala_fail(err, SALA_E_INVALID, "there is no place for the run; give --out DIR");
    run r = {.c = *c, .o = o, .hooks = hooks ? hooks : &none, .out = c->out, .here = realpath(".", NULL), .stage = -1};

    sala_status st = sala_dist_open(&r.dist, c->timeout, err);
    if (st != SALA_OK) {
        free(r.here);
        return st;
    }
    r.c.recompute = sala_strdup(c->recompute ? c->recompute : "auto");
    st = r.c.recompute ? work(&r, &own) : sala_fail_memory(&own, 16);
    if (st != SALA_OK && r.dist->size > 1) {
        char text[sizeof own.message + 160];
        snprintf(text, sizeof text, "%s: %s", r.dist->name, own.message);
        if (hooks && hooks->line)
            hooks->line(hooks->user, text);      /* this rank's own word, whichever rank it is */
        r.dist->ops->abort(r.dist, own.message); /* does not return */
    }
    if (err)
        *err = own;
    close_run(&r);
    sala_dist_close(r.dist);
    return st;
}
