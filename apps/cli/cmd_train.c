/* train: runs a config; plot, export and inspect look at what runs have left. */
#include "train_parts.h"

#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>

static int list_keys(void)
{
    sala_buf text = {0};
    sala_run_config_keys(&text);
    if (text.failed)
        return cli_fail("not enough memory");
    cli_table *t = cli_table_new("KEY|VALUES|DEFAULT|MEANING");
    for (char *p = text.data; p && *p;) {
        const size_t n = strcspn(p, "\n");
        p[n] = 0;
        for (char *cell = p; cell;) {
            char *tab = strchr(cell, '\t');
            if (tab)
                *tab = 0;
            cli_table_cell(t, "%s", cell);
            cell = tab ? tab + 1 : NULL;
        }
        p += n + 1;
    }
    cli_table_print(t, stdout);
    sala_buf_free(&text);
    return cli_flush(CLI_DONE);
}

/* The command line's own values as sets behind those of --set, so that they win. 0 or an exit code. */
typedef struct set_list {
    const char *items[CLI_MAX_LIST + 4];
    int count;
    char *own[4];
    int n_own;
} set_list;

static int add_set(set_list *l, const char *key, const char *value)
{
    sala_buf b = {0};
    sala_buf_printf(&b, "%s=%s", key, value);
    char *text = sala_buf_take(&b, NULL);
    if (!text)
        return cli_fail("not enough memory");
    l->own[l->n_own++] = text;
    l->items[l->count++] = text;
    return 0;
}

static int all_sets(set_list *l, const cli_options *o)
{
    char number[32];
    int rc = 0;
    for (int i = 0; i < o->sets.count; i++)
        l->items[l->count++] = o->sets.items[i];
    if (o->steps != CLI_UNSET) {
        snprintf(number, sizeof number, "%" PRId64, o->steps);
        rc = add_set(l, "schedule.steps", number);
    }
    if (rc == 0 && o->threads != CLI_UNSET) {
        snprintf(number, sizeof number, "%" PRId64, o->threads);
        rc = add_set(l, "compute.threads", number);
    }
    /* Quoted: a path may hold what YAML takes for its own. */
    sala_buf quoted = {0};
    const struct {
        const char *key, *value;
    } paths[] = {{"output.dir", o->out}, {"schedule.branch_from", o->branch}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(paths) && rc == 0; i++) {
        if (!paths[i].value)
            continue;
        sala_buf_clear(&quoted);
        sala_buf_add_char(&quoted, '\'');
        for (const char *p = paths[i].value; *p; p++)
            sala_buf_add_str(&quoted, *p == '\'' ? "''" : (char[]){*p, 0});
        sala_buf_add_char(&quoted, '\'');
        rc = quoted.failed ? cli_fail("not enough memory") : add_set(l, paths[i].key, quoted.data);
    }
    sala_buf_free(&quoted);
    return rc;
}

typedef struct wanted {
    const char *name;
    char *path;
} wanted;

static bool take_named(void *user, const cli_found *m)
{
    wanted *w = user;
    if (m->path && strcmp(m->name, w->name) == 0)
        w->path = sala_strdup(m->path);
    return w->path == NULL;
}

/* The path of a model of 'sala list'. */
static char *find_model(const char *name)
{
    wanted w = {.name = name};
    cli_models_each(take_named, &w);
    return w.path;
}

/* The plan of a dry run as one object; NULL when memory is out, or nothing was planned. */
static void add_plan(void *user, int stage, const sala_run_config *c, const sala_train_plan *p)
{
    json_t **out = user;
    const sala_run_stage *s = &c->stages[stage];
    if (stage == 0) {
        int64_t tokens = 0;
        for (int i = 0; i < c->n_stages; i++)
            tokens += c->stages[i].steps * c->stages[i].batch * c->stages[i].seq_len;
        *out = json_pack("{s:b,s:I,s:i,s:I,s:I,s:s,s:i,s:i,s:I,s:[]}", "dry_run", 1, "parameters",
                         (json_int_t)p->n_weights, "layers", (int)c->shape.n_layers, "steps", (json_int_t)c->steps,
                         "tokens", (json_int_t)tokens, "precision", p->half ? "bf16" : "f32", "threads", p->n_threads,
                         "processes", p->n_ranks, "memory_allowed", (json_int_t)p->limit, "stages");
    }
    json_t *one = json_pack(
        "{s:s?,s:I,s:I,s:I,s:I,s:f,s:f,s:{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}}", "name", s->name, "steps",
        (json_int_t)s->steps, "batch", (json_int_t)s->batch, "seq_len", (json_int_t)s->seq_len, "rows_per_pass",
        (json_int_t)(sala_train_plan_sequences(p, s->seq_len) * s->seq_len), "flops_per_token", p->flops_per_token,
        "recompute_share", p->recompute_share, "memory", "values", (json_int_t)p->values, "gradients",
        (json_int_t)p->grads, "moments", (json_int_t)p->moments, "packs", (json_int_t)p->packs, "tape",
        (json_int_t)p->tape, "scratch", (json_int_t)(p->layer_scratch + p->device_scratch), "data",
        (json_int_t)p->loader, "total", (json_int_t)p->total);
    if (json_array_append_new(json_object_get(*out, "stages"), one) != 0) {
        json_decref(*out);
        *out = NULL;
    }
}

static int run_file(const cli_options *o, const char *path)
{
    sala_run_config c;
    sala_error err = {0};
    set_list sets = {0};
    int rc = all_sets(&sets, o);
    sala_status st = SALA_E_INVALID;
    if (rc == 0) {
        st = sala_run_config_load(&c, path, sets.items, sets.count, find_model, &err);
        rc = st == SALA_OK ? 0 : cli_fail_error(&err);
    }
    for (int i = 0; i < sets.n_own; i++)
        free(sets.own[i]);
    if (rc)
        return rc;
    if (!c.out && !o->dry_run) {
        sala_run_config_free(&c);
        return cli_misuse("there is no place for the run; give --out DIRECTORY, or output.dir in %s", path);
    }
    const sala_run_options options = {.fresh = o->fresh,
                                      .dry_run = o->dry_run,
                                      .stop_at = o->stop_at == CLI_UNSET ? 0 : o->stop_at,
                                      .dump_batches = o->dump_batches};
    sala_run_hooks hooks = cli_train_watch(o, c.log_every);
    json_t *plan = NULL;
    if (o->json && o->dry_run) {
        hooks.plan = add_plan;
        hooks.user = &plan;
    }
    st = sala_train_run(&c, &options, &hooks, &err);
    const int sig = cli_train_watch_end();
    sala_run_config_free(&c);
    if (st == SALA_OK && o->json && o->dry_run)
        return cli_print_json(plan);
    json_decref(plan);
    if (st == SALA_E_CANCELLED && sig) {
        cli_say("%s", err.message);
        return 128 + sig;
    }
    if (st != SALA_OK)
        return cli_fail_error(&err);
    return sig ? 128 + sig : cli_flush(CLI_DONE);
}

static void say_line(void *user, const char *text)
{
    (void)user;
    cli_say("%s", text);
}

static int export_run(const cli_options *o, const char *const *args, int n)
{
    if (n < 1 || n > 2)
        return cli_misuse("export: expected the directory of a run, and perhaps one of its saves");
    sala_error err = {0};
    const sala_run_hooks hooks = {.line = say_line};
    const sala_status st = sala_train_export(args[0], n > 1 ? args[1] : NULL, NULL, o->type, &hooks, &err);
    if (st != SALA_OK)
        return cli_fail_error(&err);
    char *dir = sala_path_join(args[0], "model"), *gguf = sala_path_join(args[0], "model.gguf");
    int rc = dir && gguf ? 0 : cli_fail("not enough memory");
    const bool with_gguf = rc == 0 && sala_os_is_file(gguf) && !(o->type && strcmp(o->type, "none") == 0);
    if (rc == 0 && o->json)
        rc = cli_print_json(json_pack("{s:o,s:o}", "model", cli_json_text(dir, strlen(dir)), "gguf",
                                      with_gguf ? cli_json_text(gguf, strlen(gguf)) : json_null()));
    else if (rc == 0)
        cli_say("wrote %s%s%s", dir, with_gguf ? " and " : "", with_gguf ? gguf : "");
    free(dir);
    free(gguf);
    return rc ? rc : cli_flush(CLI_DONE);
}

static int inspect_run(const cli_options *o, const char *const *args, int n)
{
    if (n != 1)
        return cli_misuse("inspect: expected the directory of one run");
    sala_error err = {0};
    sala_save save = {0};
    bool found = false;
    int damaged = 0;
    if (sala_saves_find(&save, &found, &damaged, args[0], -1, say_line, NULL, &err) != SALA_OK)
        return cli_fail_error(&err);
    int rc = 0;
    if (!found)
        rc = cli_fail("%s holds no %ssave", args[0], damaged ? "undamaged " : "");
    else if (o->json)
        rc = cli_print_json(json_pack("{s:I,s:s,s:I,s:I,s:I,s:i,s:s}", "step", (json_int_t)save.step, "save", save.path,
                                      "updates", (json_int_t)save.trainer.updates, "stage",
                                      (json_int_t)save.loader.stage, "rewinds", (json_int_t)save.rewinds, "damaged",
                                      damaged, "config", save.config_text));
    else
        printf("%s\nstep %" PRId64 ", %" PRId64 " updates, stage %" PRIu64 ", %" PRIu64 " sequences of it\n%s",
               save.path, save.step, save.trainer.updates, save.loader.stage, save.loader.sequences, save.config_text);
    sala_save_free(&save);
    return rc ? rc : cli_flush(CLI_DONE);
}

int cli_cmd_train(const cli_options *o)
{
    if (o->list_keys)
        return list_keys();
    if (o->n_args == 0)
        return cli_misuse("RUN.yaml is missing; examples/train/tiny.yaml is one to begin with");
    const char *first = o->args[0];
    if (strcmp(first, "plot") == 0)
        return cli_train_plot(o, o->args + 1, o->n_args - 1);
    if (strcmp(first, "export") == 0)
        return export_run(o, o->args + 1, o->n_args - 1);
    if (strcmp(first, "inspect") == 0)
        return inspect_run(o, o->args + 1, o->n_args - 1);
    static const char *const verbs[] = {"plot", "export", "inspect"};
    const char *near = sala_os_is_file(first) ? NULL : cli_nearest(first, verbs, SALA_ARRAY_LEN(verbs));
    if (near)
        return cli_misuse("there is no file '%s'; did you mean 'sala train %s'?", first, near);
    if (o->n_args > 1)
        return cli_misuse("too many arguments: '%s'", o->args[1]);
    return run_file(o, first);
}
