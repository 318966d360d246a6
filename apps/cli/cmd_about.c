/* help, version and completion. */
#include "cli.h"

#include "kernels/kernels.h"
#include "os/os.h"
#include "ui.h"

int cli_cmd_help(const cli_options *o)
{
    if (o->man) {
        cli_help_man(stdout);
        return CLI_DONE;
    }
    if (o->n_args == 0) {
        cli_help_all(stdout);
        return CLI_DONE;
    }
    const cli_verb *verb = cli_verb_find(o->args[0]);
    if (!verb) {
        const char *names[CLI_N_VERBS];
        for (int i = 0; i < CLI_N_VERBS; i++)
            names[i] = cli_verbs[i].name;
        const char *near = cli_nearest(o->args[0], names, CLI_N_VERBS);
        return near ? cli_misuse("there is no command '%s'; did you mean '%s'?", o->args[0], near)
                    : cli_misuse("there is no command '%s'", o->args[0]);
    }
    cli_help_verb(stdout, verb, true);
    return CLI_DONE;
}

/* How the default number of threads comes about: "8, of 10 cores with 14 hardware threads, 2 slow cores left out". */
static const char *why_threads(char *text, size_t size, const sala_cpus *c)
{
    int n = snprintf(text, size, "%d, of %d core%s", c->n_threads, c->n_cores, c->n_cores == 1 ? "" : "s");
    if (c->n_cpus > c->n_cores)
        n += snprintf(text + n, size - (size_t)n, " with %d hardware threads", c->n_cpus);
    if (c->n_slow_cores > 0)
        n += snprintf(text + n, size - (size_t)n, ", %d slow one%s left out", c->n_slow_cores,
                      c->n_slow_cores == 1 ? "" : "s");
    if (c->quota > 0)
        snprintf(text + n, size - (size_t)n, ", with a quota of %.1f CPUs", c->quota);
    return text;
}

int cli_cmd_version(const cli_options *o)
{
    sala_cpus cpus;
    sala_os_cpus(&cpus);
    const uint32_t cpu = sala_os_cpu_features();
    static const struct {
        uint32_t bit;
        const char *name;
    } features[] = {
        {SALA_CPU_AVX2, "avx2"},
        {SALA_CPU_AVX_VNNI, "avx-vnni"},
        {SALA_CPU_AVX512, "avx512"},
        {SALA_CPU_AVX512_VNNI, "avx512-vnni"},
        {SALA_CPU_AVX512_BF16, "avx512-bf16"},
        {SALA_CPU_AVX512_VBMI, "avx512-vbmi"},
        {SALA_CPU_NEON, "neon"},
        {SALA_CPU_DOTPROD, "dotprod"},
        {SALA_CPU_I8MM, "i8mm"},
    };
    char names[160] = "", families[200] = "";
    json_t *list = json_array(), *kernels = json_array();
    for (size_t i = 0; i < SALA_ARRAY_LEN(features); i++)
        if (cpu & features[i].bit) {
            snprintf(names + strlen(names), sizeof names - strlen(names), " %s", features[i].name);
            json_array_append_new(list, json_string(features[i].name));
        }
    sala_kernels k, best;
    const bool have_best = sala_kernels_get(&best, NULL, cpu);
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        const bool runs = sala_kernels_get(&k, *f, cpu);
        snprintf(families + strlen(families), sizeof families - strlen(families), " %s%s", *f,
                 !runs                                       ? " (not on this CPU)"
                 : have_best && strcmp(best.family, *f) == 0 ? " (auto)"
                                                             : "");
        json_array_append_new(kernels, json_pack("{s:s,s:b}", "name", *f, "runs", (int)runs));
    }
    if (o->json)
        return cli_print_json(json_pack("{s:s,s:o,s:o,s:s,s:i,s:i,s:I}", "version", sala_version(), "cpu", list,
                                        "kernels", kernels, "auto", have_best ? best.family : "ref", "cores",
                                        cpus.n_cores, "threads", cpus.n_threads, "memory_bytes",
                                        (json_int_t)sala_os_memory_total()));
    json_decref(list);
    json_decref(kernels);
    char size[32], threads[160];
    printf("sala %s\nCPU:     %d core%s,%s\nthreads: %s\nkernels:%s\nmemory:  %s\n", sala_version(), cpus.n_cores,
           cpus.n_cores == 1 ? "" : "s", names[0] ? names : " no vector extensions",
           why_threads(threads, sizeof threads, &cpus), families, sala_format_bytes(size, sala_os_memory_total()));
    return CLI_DONE;
}

int cli_cmd_completion(const cli_options *o)
{
    if (strcmp(o->args[0], "bash") != 0)
        return cli_misuse("there is a completion for bash, not for '%s'", o->args[0]);
    cli_help_bash(stdout);
    return CLI_DONE;
}
