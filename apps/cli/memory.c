#include "memory.h"

#include "infer/engine.h"
#include "model_arg.h"
#include "os/os.h"
#include "ui.h"

#include <stdlib.h>

typedef struct sum {
    const char *dir;
    uint64_t bytes;
} sum;

static bool add_weights(void *user, const char *name)
{
    sum *s = user;
    const size_t n = strlen(name);
    char *path = n > 12 && strcmp(name + n - 12, ".safetensors") == 0 ? sala_path_join(s->dir, name) : NULL;
    const int64_t bytes = path ? sala_os_file_size(path) : -1;
    s->bytes += bytes > 0 ? (uint64_t)bytes : 0;
    free(path);
    return true;
}

int cli_memory_plan(cli_memory *out, const sala_model *model, sala_kv_type kv, bool ref, int64_t n_tokens)
{
    sala_error err = {0};
    sala_state_cost cost;
    sala_model_info info;
    sala_model_get_info(model, &info);
    if (kv == SALA_KV_DEFAULT && ref)
        kv = SALA_KV_F32;
    if (sala_session_cost_at(&cost, model, kv, n_tokens, &err) != SALA_OK)
        return cli_fail_error(&err);
    /* A directory that was opened for its vocabulary has not looked at its weights yet. */
    sum files = {.dir = info.path, .bytes = info.weight_bytes};
    if (files.bytes == 0 && sala_os_is_dir(info.path))
        sala_os_list_dir(info.path, add_weights, &files);
    *out = (cli_memory){
        .n_tokens = n_tokens,
        .weights = files.bytes,
        .scratch = sala_net_scratch_bytes(model->config),
        .keys_values = cost.keys_values,
        .rows = cost.rows,
        .linear = cost.linear,
        .session = cost.keys_values + cost.rows + cost.linear,
        .machine = sala_os_memory_total(),
    };
    out->total = out->weights + out->scratch + out->session;
    return 0;
}

bool cli_memory_fits(const cli_memory *m)
{
    return m->machine == 0 || m->total <= m->machine;
}

const char *cli_memory_words(char dst[400], const cli_memory *m)
{
    char a[32], b[32], c[32], d[32], parts[128] = "";
    if (m->linear) {
        snprintf(parts, sizeof parts, " (keys and values %s, states %s)",
                 sala_format_bytes(a, m->keys_values + m->rows), sala_format_bytes(b, m->linear));
    } else if (m->rows) {
        snprintf(parts, sizeof parts, " (keys and values %s, compressed keys %s)", sala_format_bytes(a, m->keys_values),
                 sala_format_bytes(b, m->rows));
    }
    char words[400];
    snprintf(words, sizeof words, "weights %s + scratch %s + session %s%s = %s", sala_format_bytes(a, m->weights),
             sala_format_bytes(b, m->scratch), sala_format_bytes(c, m->session), parts, sala_format_bytes(d, m->total));
    if (m->machine)
        snprintf(dst, 400, "%.330s of %s", words, sala_format_bytes(a, m->machine));
    else
        snprintf(dst, 400, "%s", words);
    return dst;
}

int cli_memory_announce(const sala_model *model, const cli_options *o, int64_t n_tokens, const char *advice)
{
    cli_memory m;
    char tokens[32], words[400];
    const bool ref = o->kernels && strcmp(o->kernels, "ref") == 0;
    const int rc = cli_memory_plan(&m, model, cli_kv_type(o), ref, n_tokens);
    if (rc)
        return rc;
    cli_memory_words(words, &m);
    cli_thousands(tokens, (uint64_t)n_tokens);
    if (!cli_memory_fits(&m))
        return cli_fail("%s tokens cannot fit into memory: %s%s%s", tokens, words, advice,
                        o->kv ? "" : "; --kv q8_0 or --kv q4 take less");
    cli_say("memory for %s tokens: %s", tokens, words);
    return 0;
}
