#include "model_arg.h"

#include "base/json.h"
#include "catalogue.h"
#include "kernels/kernels.h"
#include "os/os.h"
#include "ui.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcasecmp(s + n - k, tail) == 0;
}

static char *join3(const char *a, const char *b, const char *c)
{
    char *ab = sala_path_join(a, b);
    char *abc = ab ? sala_path_join(ab, c) : NULL;
    free(ab);
    return abc;
}

/* ---- walking the stores ---- */

typedef struct walk {
    bool (*fn)(void *user, const cli_found *m);
    void *user;
    const char *dir;    /* of the level being listed */
    const char *prefix; /* of the name, "" at the top */
    bool stopped;
} walk;

static void report(walk *w, const char *name, const char *path, const char *source, uint64_t bytes)
{
    const cli_found m = {.name = name, .path = path, .source = source, .bytes = bytes};
    if (!w->stopped && !w->fn(w->user, &m))
        w->stopped = true;
}

static uint64_t dir_bytes_add;
static bool add_file_bytes(void *user, const char *name)
{
    char *path = sala_path_join(user, name);
    const int64_t n = path ? sala_os_file_size(path) : -1;
    dir_bytes_add += n > 0 ? (uint64_t)n : 0;
    free(path);
    return true;
}
static uint64_t dir_bytes(const char *dir)
{
    dir_bytes_add = 0;
    sala_os_list_dir(dir, add_file_bytes, (void *)(uintptr_t)dir);
    return dir_bytes_add;
}

/* Our own cache: files, and directories that someone put there. Later parts of a split file are part of the first. */
static bool own_entry(void *user, const char *name)
{
    walk *w = user;
    if (name[0] == '.')
        return true;
    char *path = sala_path_join(w->dir, name);
    if (!path)
        return false;
    const char *of = strstr(name, "-of-");
    const bool later_part = of && of - name >= 5 && strncmp(of - 5, "00001", 5) != 0;
    const cli_catalogue_entry *e = cli_catalogue_find(name);
    if (sala_os_is_dir(path))
        report(w, name, path, "sala", dir_bytes(path));
    else if (ends_with(name, ".gguf") && !later_part)
        report(w, e ? e->name : name, path, "sala", (uint64_t)sala_os_file_size(path));
    free(path);
    return !w->stopped;
}

/* hub/models--org--name/snapshots/REVISION: a directory with config.json, or GGUF files. */
static bool hub_gguf(void *user, const char *name)
{
    walk *w = user;
    const char *of = strstr(name, "-of-");
    if (!ends_with(name, ".gguf") || (of && of - name >= 5 && strncmp(of - 5, "00001", 5) != 0))
        return true;
    char *path = sala_path_join(w->dir, name);
    char *full = sala_path_join(w->prefix, name);
    if (path && full)
        report(w, full, path, "huggingface", (uint64_t)sala_os_file_size(path));
    free(path);
    free(full);
    return !w->stopped;
}

static bool newest_dir(void *user, const char *name)
{
    struct {
        const char *dir;
        char *best;
        time_t when;
    } *n = user;
    char *path = sala_path_join(n->dir, name);
    struct stat st;
    if (path && stat(path, &st) == 0 && S_ISDIR(st.st_mode) && (!n->best || st.st_mtime > n->when)) {
        free(n->best);
        n->best = path;
        n->when = st.st_mtime;
        return true;
    }
    free(path);
    return true;
}

/* The snapshot that refs/main names, else the newest. Owned by the caller. */
static char *hub_snapshot(const char *repo)
{
    char *snapshots = sala_path_join(repo, "snapshots");
    char *ref = join3(repo, "refs", "main");
    char *dir = NULL;
    uint8_t *revision = NULL;
    size_t n = 0;
    if (snapshots && ref && sala_os_read_file(&revision, &n, ref, 200) == 0) {
        revision[strcspn((char *)revision, "\r\n ")] = 0;
        if (revision[0] && !strchr((char *)revision, '/'))
            dir = sala_path_join(snapshots, (char *)revision);
    }
    if (!dir || !sala_os_is_dir(dir)) {
        free(dir);
        struct {
            const char *dir;
            char *best;
            time_t when;
        } newest = {snapshots, NULL, 0};
        if (snapshots)
            sala_os_list_dir(snapshots, newest_dir, &newest);
        dir = newest.best;
    }
    free(revision);
    free(ref);
    free(snapshots);
    return dir;
}

typedef struct hub_kinds {
    bool gguf, safetensors;
} hub_kinds;

static bool hub_kind(void *user, const char *name)
{
    hub_kinds *k = user;
    k->gguf |= ends_with(name, ".gguf");
    k->safetensors |= ends_with(name, ".safetensors");
    return true;
}

static bool hub_repo(void *user, const char *folder)
{
    walk *w = user;
    if (strncmp(folder, "models--", 8) != 0)
        return true;
    char *repo = sala_path_join(w->dir, folder);
    char *dir = repo ? hub_snapshot(repo) : NULL;
    char name[300];
    snprintf(name, sizeof name, "%s", folder + 8);
    char *sep = strstr(name, "--");
    if (sep) { /* only the first: names may hold "--" themselves */
        *sep = '/';
        memmove(sep + 1, sep + 2, strlen(sep + 2) + 1);
    }
    if (dir) {
        char *config = sala_path_join(dir, "config.json");
        char *tokenizer = sala_path_join(dir, "tokenizer.json");
        hub_kinds k = {0};
        sala_os_list_dir(dir, hub_kind, &k);
        /* Beside GGUF files a config.json is only a note about where they came from. */
        const bool checkpoint = k.safetensors || !k.gguf;
        if (checkpoint && config && tokenizer && (sala_os_is_file(config) || sala_os_is_file(tokenizer)))
            report(w, name, dir, "huggingface", dir_bytes(dir));
        walk inner = *w;
        inner.dir = dir;
        inner.prefix = name;
        sala_os_list_dir(dir, hub_gguf, &inner);
        w->stopped |= inner.stopped;
        free(config);
        free(tokenizer);
    }
    free(dir);
    free(repo);
    return !w->stopped;
}

static char *hub_dir(void)
{
    const char *hub = getenv("HF_HUB_CACHE"), *old = getenv("HUGGINGFACE_HUB_CACHE"), *hf = getenv("HF_HOME");
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (hub && *hub)
        return sala_strdup(hub);
    if (old && *old)
        return sala_strdup(old);
    if (hf && *hf)
        return sala_path_join(hf, "hub");
    if (xdg && *xdg)
        return sala_path_join(xdg, "huggingface/hub");
    return home ? sala_path_join(home, ".cache/huggingface/hub") : NULL;
}

/* Ollama: manifests/HOST/NAMESPACE/NAME/TAG is JSON whose layers name blobs by their sums. */
static char *ollama_dir(void)
{
    const char *own = getenv("OLLAMA_MODELS"), *home = getenv("HOME");
    if (own && *own)
        return sala_strdup(own);
    char *dir = home ? sala_path_join(home, ".ollama/models") : NULL;
    if (dir && sala_os_is_dir(dir))
        return dir;
    free(dir);
    /* Where the service's own user keeps them on Linux. */
    return sala_strdup("/usr/share/ollama/.ollama/models");
}

static void ollama_manifest(walk *w, const char *store, const char *path, const char *name)
{
    json_t *manifest = sala_json_load_file(path);
    size_t i;
    json_t *layer;
    json_array_foreach(json_object_get(manifest, "layers"), i, layer)
    {
        const char *type = json_string_value(json_object_get(layer, "mediaType"));
        const char *digest = json_string_value(json_object_get(layer, "digest"));
        if (!type || !digest || !ends_with(type, ".model") || strncmp(digest, "sha256:", 7) != 0 || strchr(digest, '/'))
            continue;
        char blob[96];
        snprintf(blob, sizeof blob, "sha256-%.64s", digest + 7);
        char *file = join3(store, "blobs", blob);
        if (file && sala_os_is_file(file))
            report(w, name, file, "ollama", (uint64_t)sala_os_file_size(file));
        free(file);
        break;
    }
    json_decref(manifest);
}

static void ollama_level(walk *w, const char *store, const char *dir, const char *prefix, int level);

typedef struct ollama_walk {
    walk *w;
    const char *store, *dir, *prefix;
    int level;
} ollama_walk;

static bool ollama_entry(void *user, const char *name)
{
    ollama_walk *u = user;
    char *path = sala_path_join(u->dir, name);
    char full[400];
    if (u->level == 0 || (u->level == 1 && strcmp(name, "library") == 0))
        full[0] = 0; /* hosts and the default namespace are not part of the name */
    else if (u->level == 3)
        snprintf(full, sizeof full, "%s:%s", u->prefix, name);
    else
        snprintf(full, sizeof full, "%s%s%s", u->prefix, u->prefix[0] ? "/" : "", name);
    if (path && u->level == 3 && sala_os_is_file(path))
        ollama_manifest(u->w, u->store, path, full);
    else if (path && u->level < 3 && sala_os_is_dir(path))
        ollama_level(u->w, u->store, path, full, u->level + 1);
    free(path);
    return !u->w->stopped;
}

static void ollama_level(walk *w, const char *store, const char *dir, const char *prefix, int level)
{
    ollama_walk u = {w, store, dir, prefix, level};
    sala_os_list_dir(dir, ollama_entry, &u);
}

void cli_models_each(bool (*fn)(void *user, const cli_found *m), void *user)
{
    walk w = {.fn = fn, .user = user, .prefix = ""};
    char *cache = cli_cache_dir();
    char *models = cache ? sala_path_join(cache, "models") : NULL;
    if (models) {
        w.dir = models;
        sala_os_list_dir(models, own_entry, &w);
    }
    for (size_t i = 0; i < cli_n_catalogue && !w.stopped; i++) {
        char *path = cli_catalogue_path(&cli_catalogue[i]);
        if (path && !sala_os_is_file(path))
            report(&w, cli_catalogue[i].name, NULL, "catalogue", cli_catalogue[i].bytes);
        free(path);
    }
    char *hub = w.stopped ? NULL : hub_dir();
    if (hub) {
        w.dir = hub;
        sala_os_list_dir(hub, hub_repo, &w);
    }
    char *ollama = w.stopped ? NULL : ollama_dir();
    char *manifests = ollama ? sala_path_join(ollama, "manifests") : NULL;
    if (manifests)
        ollama_level(&w, ollama, manifests, "", 0);
    free(cache);
    free(models);
    free(hub);
    free(ollama);
    free(manifests);
}

/* ---- one name ---- */

typedef struct lookup {
    const char *name;
    char *path;
    char *names[64]; /* for suggestions */
    size_t n_names;
} lookup;

/* Ollama's names may be written with a host and the default namespace: hf.co/org/name:tag, library/name. */
static const char *without_host(const char *asked)
{
    const char *slash = strchr(asked, '/');
    if (slash && memchr(asked, '.', (size_t)(slash - asked)) && asked[0] != '.')
        asked = slash + 1;
    return strncasecmp(asked, "library/", 8) == 0 ? asked + 8 : asked;
}

/* "org/name:Q4_K_M" picks the GGUF file of the repository that has the type in its name, as llama.cpp's -hf does. */
static bool matches(const char *asked, const cli_found *m)
{
    const char *colon = strrchr(asked, ':');
    if (strcasecmp(asked, m->name) == 0)
        return true;
    if (strcmp(m->source, "ollama") == 0) {
        const char *name = without_host(asked);
        const size_t n = strlen(name);
        return strncasecmp(name, m->name, n) == 0 && strcmp(m->name + n, colon ? "" : ":latest") == 0;
    }
    if (strcmp(m->source, "huggingface") == 0 && colon && ends_with(m->name, ".gguf")) {
        const size_t n = (size_t)(colon - asked);
        return strncasecmp(asked, m->name, n) == 0 && m->name[n] == '/' && strcasestr(m->name + n, colon + 1);
    }
    return false;
}

static bool look(void *user, const cli_found *m)
{
    lookup *l = user;
    if (m->path && matches(l->name, m)) {
        l->path = sala_strdup(m->path);
        return false;
    }
    if (l->n_names < SALA_ARRAY_LEN(l->names) && (l->names[l->n_names] = sala_strdup(m->name)) != NULL)
        l->n_names++;
    return true;
}

/* A repository of GGUF files only has no name of its own: the one file it has, if it is one, is meant. */
static bool look_only_gguf(void *user, const cli_found *m)
{
    lookup *l = user;
    const size_t n = strlen(l->name);
    if (m->path && strncasecmp(m->name, l->name, n) == 0 && m->name[n] == '/') {
        l->n_names++;
        if (!l->path)
            l->path = sala_strdup(m->path);
    }
    return true;
}

/* Files that stand for the directory they are in. */
static char *directory_of_part(const char *path)
{
    static const char *const parts[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                        "tokenizer_config.json", "generation_config.json"};
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    bool part = ends_with(base, ".safetensors");
    for (size_t i = 0; i < SALA_ARRAY_LEN(parts); i++)
        part |= strcmp(base, parts[i]) == 0;
    if (!part)
        return NULL;
    return base == path ? sala_strdup(".") : sala_strndup(path, (size_t)(base - path));
}

/* Models of the catalogue come last: what another program has brought under that name needs no download. */
static int of_catalogue(char **path, const cli_catalogue_entry *e, bool pull)
{
    char *file = cli_catalogue_path(e);
    if (!file)
        return CLI_FAILED;
    int rc = 0;
    if (!sala_os_is_file(file))
        rc = pull ? cli_catalogue_pull(e)
                  : cli_fail("%s is not here yet; bring it with 'sala pull %s'", e->name, e->name);
    if (rc == 0)
        *path = file;
    else
        free(file);
    return rc;
}

static int resolve(char **path, const char *name, bool pull)
{
    struct stat st;
    if (stat(name, &st) == 0) {
        char *dir = S_ISREG(st.st_mode) ? directory_of_part(name) : NULL;
        *path = dir ? dir : sala_strdup(name);
        return *path ? 0 : cli_fail("not enough memory");
    }
    if (errno != ENOENT && errno != ENOTDIR)
        return cli_fail("%s: %s", name, strerror(errno));
    lookup l = {.name = name};
    cli_models_each(look, &l);
    const cli_catalogue_entry *e = l.path ? NULL : cli_catalogue_find(name);
    int rc = 0;
    if (e) {
        rc = of_catalogue(&l.path, e, pull);
    } else if (!l.path) {
        const char *near = cli_nearest(name, (const char *const *)l.names, l.n_names);
        lookup only = {.name = name};
        cli_models_each(look_only_gguf, &only);
        if (only.path && only.n_names == 1) {
            l.path = only.path;
        } else {
            free(only.path);
            if (only.n_names > 1)
                rc = cli_fail("%s holds %zu GGUF files; say which, e.g. %s:Q4_K_M ('sala list' names them)", name,
                              only.n_names, name);
            else if (near)
                rc = cli_fail("there is no file or model '%s'; did you mean '%s'?", name, near);
            else if (strchr(name, '/') || ends_with(name, ".gguf"))
                rc = cli_fail("%s: no such file or directory", name);
            else
                rc = cli_fail("there is no file or model '%s'; 'sala list' shows the models that are here", name);
        }
    }
    for (size_t i = 0; i < l.n_names; i++)
        free(l.names[i]);
    *path = l.path;
    return rc;
}

int cli_model_path(char **path, const cli_options *o, bool pull)
{
    const char *name = o->model ? o->model : o->n_args > 0 ? o->args[0] : NULL;
    if (!name)
        return cli_misuse("MODEL is missing: the path of a GGUF file or directory, or a name such as smollm2");
    return resolve(path, name, pull);
}

int cli_rest_args(const cli_options *o, const char *const **rest)
{
    const int used = !o->model && o->n_args > 0;
    *rest = o->args + used;
    return o->n_args - used;
}

/* ---- opening ---- */

sala_kv_type cli_kv_type(const cli_options *o)
{
    if (!o->kv)
        return SALA_KV_DEFAULT;
    static const struct {
        const char *name;
        sala_kv_type type;
    } types[] = {{"f32", SALA_KV_F32}, {"f16", SALA_KV_F16}, {"q8_0", SALA_KV_Q8_0}, {"q4", SALA_KV_Q4}};
    for (size_t i = 0; i < SALA_ARRAY_LEN(types); i++)
        if (strcmp(o->kv, types[i].name) == 0)
            return types[i].type;
    return SALA_KV_DEFAULT;
}

sala_dense_switch cli_dense_switch(const cli_options *o)
{
    return o->dense_switch && strcmp(o->dense_switch, "prompt") == 0 ? SALA_DENSE_BY_PROMPT : SALA_DENSE_BY_POSITION;
}

sala_longrope_rule cli_longrope(const cli_options *o)
{
    return o->longrope && strcmp(o->longrope, "config") == 0 ? SALA_LONGROPE_BY_CONFIG : SALA_LONGROPE_BY_LENGTH;
}

static int check_kernels(const char *name)
{
    sala_kernels k;
    if (sala_kernels_get(&k, name, sala_os_cpu_features()))
        return 0;
    char list[200] = "auto";
    bool known = false;
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        known |= strcmp(*f, name) == 0;
        if (sala_kernels_get(&k, *f, sala_os_cpu_features()))
            snprintf(list + strlen(list), sizeof list - strlen(list), ", %s", *f);
    }
    if (known)
        return cli_misuse("--kernels: this CPU cannot run '%s'; it can run %s", name, list);
    return cli_misuse("--kernels: '%s' is not one of %s", name, list);
}

int cli_model_open(sala_model **out, const cli_options *o)
{
    if (o->kernels) {
        const int rc = check_kernels(o->kernels);
        if (rc)
            return rc;
    }
    char *path = NULL;
    int rc = cli_model_path(&path, o, o->verb->id == CLI_V_run);
    if (rc)
        return rc;
    const sala_model_params params = {
        .n_threads = o->threads == CLI_UNSET ? 0 : (int)o->threads,
        .sparse = o->sparse,
        .kernels = o->kernels,
        .no_pack = o->no_pack,
        .progress = cli_progress,
    };
    sala_error err = {0};
    if (sala_model_open(out, path, &params, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    cli_progress_end();
    free(path);
    return rc;
}

int cli_check_context(const sala_model *model, const cli_options *o, int64_t n_ctx)
{
    sala_model_info info;
    sala_model_get_info(model, &info);
    const uint64_t need = sala_session_bytes_at(model, cli_kv_type(o), n_ctx);
    const uint64_t have = sala_os_memory_total();
    if (have && need > have) {
        char a[32], b[32];
        return cli_fail("a context of %lld tokens needs %s for keys and values, this machine has %s of memory; ask for "
                        "less with -c%s",
                        (long long)n_ctx, sala_format_bytes(a, need), sala_format_bytes(b, have),
                        cli_kv_type(o) == SALA_KV_F32 ? " or --kv f16" : "");
    }
    if (info.n_ctx_train > 0 && n_ctx > info.n_ctx_train)
        cli_warn("a context of %lld tokens is beyond the %lld that the model was trained for; answers may degrade",
                 (long long)n_ctx, (long long)info.n_ctx_train);
    return 0;
}
