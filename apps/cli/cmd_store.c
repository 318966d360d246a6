/* pull, list and rm: the models on this machine. */
#include "cli.h"

#include "catalogue.h"
#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int cli_cmd_pull(const cli_options *o)
{
    const char *name = o->n_args ? o->args[0] : "smollm2";
    const cli_catalogue_entry *e = cli_catalogue_find(name);
    if (!e) {
        char names[200] = "";
        for (size_t i = 0; i < cli_n_catalogue; i++)
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", cli_catalogue[i].name);
        return cli_fail("the catalogue has no model '%s'; it has: %s", name, names);
    }
    const int rc = cli_catalogue_pull(e);
    if (rc)
        return rc;
    char *path = cli_catalogue_path(e);
    if (!path)
        return CLI_FAILED;
    puts(path);
    free(path);
    return cli_flush(CLI_DONE);
}

typedef struct listing {
    json_t *models;
} listing;

static bool add_model(void *user, const cli_found *m)
{
    listing *l = user;
    json_t *row =
        json_pack("{s:o,s:I,s:s,s:o}", "name", cli_json_text(m->name, strlen(m->name)), "bytes", (json_int_t)m->bytes,
                  "source", m->source, "path", m->path ? cli_json_text(m->path, strlen(m->path)) : json_null());
    return json_array_append_new(l->models, row) == 0;
}

int cli_cmd_list(const cli_options *o)
{
    listing l = {json_array()};
    cli_models_each(add_model, &l);
    if (o->json)
        return cli_print_json(l.models);
    cli_table *t = cli_table_new("NAME|>SIZE|WHERE|PATH");
    size_t i;
    json_t *m;
    json_array_foreach(l.models, i, m)
    {
        char size[32];
        const char *path = json_string_value(json_object_get(m, "path"));
        const char *source = json_string_value(json_object_get(m, "source"));
        cli_table_cell(t, "%s", json_string_value(json_object_get(m, "name")));
        cli_table_cell(t, "%s", sala_format_bytes(size, (uint64_t)json_integer_value(json_object_get(m, "bytes"))));
        cli_table_cell(t, "%s", path ? source : "not here");
        cli_table_cell(t, "%s", path ? path : "bring it with 'sala pull'");
    }
    cli_table_print(t, stdout);
    json_decref(l.models);
    return cli_flush(CLI_DONE);
}

static bool same_source(void *user, const cli_found *m)
{
    struct {
        const char *name, *source;
    } *asked = user;
    if (m->path && strcmp(m->name, asked->name) == 0)
        asked->source = m->source;
    return !asked->source;
}

/* Removes one model of our cache; all parts of a split file go together. */
static int remove_model(const char *name, uint64_t *freed)
{
    const cli_catalogue_entry *e = cli_catalogue_find(name);
    char *cache = cli_cache_dir();
    char *models = cache ? sala_path_join(cache, "models") : NULL;
    char *path = models ? sala_path_join(models, e ? e->file : name) : NULL;
    int rc = path ? 0 : CLI_FAILED;
    if (rc == 0 && (strchr(name, '/') || !sala_os_is_file(path))) {
        struct {
            const char *name, *source;
        } asked = {name, NULL};
        cli_models_each(same_source, &asked);
        if (asked.source)
            rc = cli_fail("'%s' belongs to %s, which removes it itself; only models in %s are ours", name,
                          strcmp(asked.source, "ollama") == 0 ? "Ollama" : "Hugging Face's cache", models);
        else
            rc = cli_fail("there is no model '%s' in %s", name, models);
    }
    char *part = rc == 0 ? strstr(path, "-00001-of-") : NULL;
    const long parts = part ? strtol(part + 10, NULL, 10) : 1;
    for (long i = 1; rc == 0 && i <= (parts > 0 ? parts : 1); i++) {
        if (part) {
            char number[24];
            snprintf(number, sizeof number, "-%05ld", i % 100000);
            memcpy(part, number, 6);
        }
        const int64_t size = sala_os_file_size(path);
        if (unlink(path) == 0)
            *freed += size > 0 ? (uint64_t)size : 0;
        else if (!(part && errno == ENOENT))
            rc = cli_fail("%s: %s", path, strerror(errno));
    }
    free(cache);
    free(models);
    free(path);
    return rc;
}

int cli_cmd_rm(const cli_options *o)
{
    int rc = 0;
    for (int i = 0; i < o->n_args; i++) {
        uint64_t freed = 0;
        char size[32];
        const int one = remove_model(o->args[i], &freed);
        if (one)
            rc = one;
        else
            cli_say("removed %s, %s freed", o->args[i], sala_format_bytes(size, freed));
    }
    return rc;
}
