/* convert, quantize and export: files into other files; random: a file out of nothing but a shape. */
#include "cli.h"

#include "input.h"
#include "model_arg.h"
#include "os/os.h"
#include "quant/quant.h"
#include "ui.h"

#include <stdlib.h>

static void notice(void *user, const char *message)
{
    (void)user;
    cli_say("note: %s", message);
}

static int report(const cli_options *o, const char *in, const char *out, const sala_quant_result *r)
{
    if (o->json)
        return cli_print_json(json_pack(
            "{s:s,s:s,s:s,s:b,s:i,s:i,s:i,s:I,s:I,s:I,s:f,s:I}", "in", in, "out", out, "type", r->main_type, "dry_run",
            (int)o->dry_run, "tensors", r->n_tensors, "fallbacks", r->n_fallback, "with_importance", r->n_importance,
            "weights", (json_int_t)r->n_weights, "in_bytes", (json_int_t)r->in_bytes, "out_bytes",
            (json_int_t)r->out_bytes, "seconds", r->seconds, "peak_rss_bytes", (json_int_t)sala_os_peak_rss()));
    char from[32], to[32], peak[32];
    cli_say("%s%s: %s, %d tensors, %s -> %s (%.2f bits a weight), %.1f s, peak memory %s",
            o->dry_run ? "would write " : "", out, r->main_type, r->n_tensors, sala_format_bytes(from, r->in_bytes),
            sala_format_bytes(to, r->out_bytes), r->n_weights ? 8.0 * (double)r->out_bytes / (double)r->n_weights : 0.0,
            r->seconds, sala_format_bytes(peak, sala_os_peak_rss()));
    return CLI_DONE;
}

static sala_quant_params params_of(const cli_options *o, const char *type)
{
    return (sala_quant_params){
        .type = type,
        .output_type = o->output_type,
        .embedding_type = o->embedding_type,
        .tensor_types = o->tensor_types.items,
        .n_tensor_types = o->tensor_types.count,
        .pure = o->pure,
        .force = o->force,
        .imatrix = o->imatrix,
        .name = o->name,
        .dry_run = o->dry_run,
        .n_threads = o->threads == CLI_UNSET ? 0 : (int)o->threads,
        .progress = cli_progress,
        .notice = notice,
    };
}

static int work(const cli_options *o, const char *out, const char *type, bool to_hf)
{
    char *in = NULL;
    int rc = to_hf ? 0 : cli_check_out(out);
    if (rc == 0)
        rc = cli_model_path(&in, o, false);
    if (rc)
        return rc;
    const sala_quant_params params = params_of(o, type);
    sala_quant_result result = {0};
    sala_error err = {0};
    const sala_status st =
        to_hf ? sala_quant_to_hf(in, out, &params, &result, &err) : sala_quant_to_gguf(in, out, &params, &result, &err);
    cli_progress_end();
    rc = st == SALA_OK ? report(o, in, out, &result) : cli_fail_error(&err);
    free(in);
    return rc;
}

static int check_type(const char *type, const char *option)
{
    if (sala_recipe_by_name(type) != SALA_RECIPE_NONE)
        return 0;
#define X(name, dtype, file_type) #name,
    static const char *const names[] = {SALA_RECIPE_LIST(X)};
#undef X
    char upper[32];
    size_t i = 0;
    for (; type[i] && i + 1 < sizeof upper; i++)
        upper[i] = type[i] >= 'a' && type[i] <= 'z' ? (char)(type[i] - 32) : type[i];
    upper[i] = 0;
    const char *near = cli_nearest(upper, names, SALA_ARRAY_LEN(names));
    if (near)
        return cli_misuse("%s: there is no type '%s'; did you mean %s? All: %s", option, type, near,
                          sala_recipe_names());
    return cli_misuse("%s: there is no type '%s'; there are %s", option, type, sala_recipe_names());
}

static int check_tensor_types(const cli_options *o)
{
    const char *const single[] = {o->output_type, o->embedding_type};
    const char *const names[] = {"--output-tensor-type", "--token-embedding-type"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(single); i++)
        if (single[i] && !sala_quantize_has(sala_dtype_by_name(single[i])))
            return cli_misuse("%s: '%s' is not a type that can be written, such as Q8_0", names[i], single[i]);
    for (int i = 0; i < o->tensor_types.count; i++) {
        const char *eq = strrchr(o->tensor_types.items[i], '=');
        if (!eq || eq == o->tensor_types.items[i] || !sala_quantize_has(sala_dtype_by_name(eq + 1)))
            return cli_misuse("--tensor-type: '%s' is not PATTERN=TYPE, such as attn_v=q8_0", o->tensor_types.items[i]);
    }
    return 0;
}

int cli_cmd_quantize(const cli_options *o)
{
    const char *out = o->out ? o->out : o->n_args > 1 ? o->args[1] : NULL;
    const char *type = o->type ? o->type : o->n_args > 2 ? o->args[2] : NULL;
    /* "quantize IN TYPE --out F" reads well too. */
    if (o->out && !o->type && o->n_args == 2)
        type = o->args[1];
    if (!out)
        return cli_misuse("--out FILE is missing");
    if (!type)
        return cli_misuse("--type is missing; there are %s", sala_recipe_names());
    int rc = check_type(type, "--type");
    if (rc == 0)
        rc = check_tensor_types(o);
    return rc ? rc : work(o, out, type, false);
}

int cli_cmd_convert(const cli_options *o)
{
    const char *out = o->out ? o->out : o->n_args > 1 ? o->args[1] : NULL;
    if (!out)
        return cli_misuse("--out FILE.gguf is missing");
    int rc = strcmp(o->type, "auto") == 0 ? 0 : check_type(o->type, "--type");
    if (rc == 0)
        rc = check_tensor_types(o);
    return rc ? rc : work(o, out, o->type, false);
}

int cli_cmd_export(const cli_options *o)
{
    const char *out = o->out ? o->out : o->n_args > 1 ? o->args[1] : NULL;
    if (!out)
        return cli_misuse("--out DIRECTORY is missing");
    return work(o, out, o->type, true);
}

static int report_random(const cli_options *o, const char *config, const char *out, const sala_quant_result *r)
{
    if (o->json)
        return cli_print_json(json_pack("{s:s,s:s,s:s,s:b,s:I,s:i,s:I,s:I,s:f,s:I}", "config", config, "out", out,
                                        "type", r->main_type, "dry_run", (int)o->dry_run, "seed", (json_int_t)o->seed,
                                        "tensors", r->n_tensors, "weights", (json_int_t)r->n_weights, "out_bytes",
                                        (json_int_t)r->out_bytes, "seconds", r->seconds, "peak_rss_bytes",
                                        (json_int_t)sala_os_peak_rss()));
    char size[32], peak[32], count[32];
    cli_say("%s%s: %s random weights, %s, %d tensors, %s (%.2f bits a weight), %.1f s, peak memory %s",
            o->dry_run ? "would write " : "", out, cli_short_count(count, r->n_weights), r->main_type, r->n_tensors,
            sala_format_bytes(size, r->out_bytes),
            r->n_weights ? 8.0 * (double)r->out_bytes / (double)r->n_weights : 0.0, r->seconds,
            sala_format_bytes(peak, sala_os_peak_rss()));
    return CLI_DONE;
}

int cli_cmd_random(const cli_options *o)
{
    const char *out = o->out ? o->out : o->n_args > 1 ? o->args[1] : NULL;
    if (!out)
        return cli_misuse("--out FILE.gguf is missing");
    int rc = check_type(o->type, "--type");
    if (rc == 0)
        rc = check_tensor_types(o);
    if (rc == 0)
        rc = cli_check_out(out);
    if (rc)
        return rc;
    const sala_quant_params params = params_of(o, o->type);
    const sala_random_params random = {
        .seed = (uint64_t)o->seed,
        .mixers = strcmp(o->mixers, "dense") == 0    ? SALA_RANDOM_DENSE
                  : strcmp(o->mixers, "sparse") == 0 ? SALA_RANDOM_SPARSE
                                                     : SALA_RANDOM_AS_GIVEN,
        .n_layers = o->layers == CLI_UNSET ? 0 : (int32_t)o->layers,
        .tokenizer = o->tokenizer,
    };
    sala_quant_result result = {0};
    sala_error err = {0};
    const sala_status st = sala_quant_random(o->args[0], out, &params, &random, &result, &err);
    cli_progress_end();
    return st == SALA_OK ? report_random(o, o->args[0], out, &result) : cli_fail_error(&err);
}
