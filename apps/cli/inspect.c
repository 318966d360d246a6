#include "inspect.h"

#include "base/json.h"
#include "cli.h"
#include "ui.h"

#include <stdlib.h>

/* ---- metadata ---- */

enum { SHOWN_ELEMENTS = 8, SHOWN_BYTES = 4096 };

static json_t *scalar(sala_gguf_type type, const sala_gguf_kv *kv, uint64_t i)
{
    int64_t whole;
    double real;
    if (type == SALA_GGUF_BOOL)
        return sala_gguf_array_i64(kv, i, &whole) ? json_boolean(whole != 0) : json_null();
    if (type == SALA_GGUF_F32 || type == SALA_GGUF_F64)
        return sala_gguf_array_f64(kv, i, &real) ? json_real(real) : json_null();
    return sala_gguf_array_i64(kv, i, &whole) ? json_integer(whole) : json_null();
}

static json_t *value_of(const sala_gguf *g, const sala_gguf_kv *kv)
{
    int64_t whole;
    double real;
    bool flag;
    const char *s;
    size_t n;
    switch (kv->type) {
    case SALA_GGUF_BOOL:
        return sala_gguf_get_bool(g, kv->key, &flag) ? json_boolean(flag) : json_null();
    case SALA_GGUF_F32:
    case SALA_GGUF_F64:
        return sala_gguf_get_f64(g, kv->key, &real) ? json_real(real) : json_null();
    case SALA_GGUF_STRING:
        return sala_gguf_get_str(g, kv->key, &s, &n) ? cli_json_text(s, n) : json_null();
    case SALA_GGUF_ARRAY:
        break;
    default:
        return sala_gguf_get_i64(g, kv->key, &whole) ? json_integer(whole) : json_null();
    }
    json_t *list = json_array();
    const uint64_t shown = kv->count < SHOWN_ELEMENTS ? kv->count : SHOWN_ELEMENTS;
    if (kv->elem_type == SALA_GGUF_STRING) {
        sala_reader r = sala_gguf_array_reader(kv);
        for (uint64_t i = 0; i < shown && sala_gguf_next_str(&r, &s, &n); i++)
            json_array_append_new(list, cli_json_text(s, n));
    } else if (kv->elem_type != SALA_GGUF_ARRAY) {
        for (uint64_t i = 0; i < shown; i++)
            json_array_append_new(list, scalar(kv->elem_type, kv, i));
    }
    if (shown == kv->count)
        return list;
    return json_pack("{s:I,s:o}", "count", (json_int_t)kv->count, "first", list);
}

void cli_inspect_metadata_gguf(json_t *report, const sala_gguf *g)
{
    json_t *all = json_object();
    for (size_t i = 0; i < sala_gguf_n_kv(g); i++) {
        const sala_gguf_kv *kv = sala_gguf_kv_at(g, i);
        json_object_set_new(all, kv->key, value_of(g, kv));
    }
    json_object_set_new(report, "metadata", all);
}

void cli_inspect_metadata_dir(json_t *report, const char *dir)
{
    json_t *all = json_object();
    static const char *const files[] = {"config.json", "generation_config.json"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(files); i++) {
        char *path = sala_path_join(dir, files[i]);
        json_t *file = path ? sala_json_load_file(path) : NULL;
        if (file)
            json_object_set_new(all, files[i], file);
        free(path);
    }
    json_object_set_new(report, "metadata", all);
}

/* ---- words ---- */

static int64_t get_int(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}
static double get_real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}
static const char *get_text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "?";
}

static const char *yes(const json_t *o, const char *key, const char *words)
{
    return json_is_true(json_object_get(o, key)) ? words : "";
}

static void print_mixers(const json_t *m)
{
    const json_t *s = json_object_get(m, "sparse"), *l = json_object_get(m, "lightning");
    if (!m)
        return;
    static const char *const words[] = {"S sparse", "L lightning", "D dense"};
    const char *letters = get_text(m, "letters"), *separator = " (";
    printf("mixers       %s", letters);
    for (size_t i = 0; i < SALA_ARRAY_LEN(words); i++) {
        if (strchr(letters, words[i][0])) {
            printf("%s%s", separator, words[i]);
            separator = ", ";
        }
    }
    puts(")");
    printf("softmax      %s%s%s", json_is_true(json_object_get(m, "attention_rope")) ? "rope" : "no positions",
           yes(m, "attention_gate", ", output gate"),
           json_object_get(m, "attention_scale_base") ? ", logits scaled with position" : "");
    if (s) {
        printf(", %lld of the blocks of %lld selected (%lld by score and %lld tokens of window), ",
               (long long)get_int(s, "selected_blocks"), (long long)get_int(s, "block_size"),
               (long long)get_int(s, "topk"), (long long)get_int(s, "window_size"));
        if (get_int(s, "dense_len") < 0)
            printf("never dense");
        else
            printf("dense below %lld", (long long)get_int(s, "dense_len"));
    }
    putchar('\n');
    if (l)
        printf("lightning    %lld heads of %lld, %lld for keys and values%s%s%s%s\n", (long long)get_int(l, "heads"),
               (long long)get_int(l, "head_dim"), (long long)get_int(l, "kv_heads"), yes(l, "rope", ", rope"),
               yes(l, "qk_norm", ", q and k normalised"), yes(l, "out_norm", ", output normalised"),
               yes(l, "gate", ", output gate"));
}

static void print_shape(const json_t *report)
{
    const json_t *s = json_object_get(report, "shape"), *r = json_object_get(report, "rope");
    char count[32];
    if (json_object_get(report, "parameters"))
        printf("parameters   %s\n", cli_short_count(count, (uint64_t)get_int(report, "parameters")));
    if (!s)
        return;
    printf("layers       %lld, embedding %lld, feed-forward %lld\n", (long long)get_int(s, "layers"),
           (long long)get_int(s, "embedding"), (long long)get_int(s, "feed_forward"));
    printf("attention    %lld heads of %lld, %lld for keys and values%s%s\n", (long long)get_int(s, "heads"),
           (long long)get_int(s, "head_dim"), (long long)get_int(s, "kv_heads"),
           json_is_true(json_object_get(s, "qkv_bias")) ? ", biases" : "",
           json_is_true(json_object_get(s, "qk_norm")) ? ", q and k normalised" : "");
    print_mixers(json_object_get(report, "mixers"));
    printf("vocabulary   %s%s\n", cli_thousands(count, (uint64_t)get_int(s, "vocabulary")),
           json_is_true(json_object_get(s, "tied_head")) ? ", output head tied to the embedding" : "");
    printf("context      %s tokens as trained\n", cli_thousands(count, (uint64_t)get_int(s, "context_trained")));
    printf("positions    rope %s, theta %g", get_text(r, "kind"), get_real(r, "theta"));
    if (json_object_get(r, "factor"))
        printf(", factor %g", get_real(r, "factor"));
    if (json_object_get(r, "original_context"))
        printf(", original context %s", cli_thousands(count, (uint64_t)get_int(r, "original_context")));
    putchar('\n');
    if (get_real(s, "embed_scale") != 1 || get_real(s, "residual_scale") != 1 || get_real(s, "logit_divisor") != 1)
        printf("scales       embedding x %g, residual x %g, logits / %g\n", get_real(s, "embed_scale"),
               get_real(s, "residual_scale"), get_real(s, "logit_divisor"));
    const json_t *g = json_object_get(report, "sampling");
    if (json_object_size(g)) {
        char *text = json_dumps(g, JSON_REAL_PRECISION(4));
        printf("sampling     %s\n", text ? text : "");
        free(text);
    }
}

static void print_text(const json_t *report)
{
    const json_t *t = json_object_get(report, "tokenizer"), *c = json_object_get(report, "template");
    char count[32];
    if (t) {
        printf("tokenizer    %s, pre-tokenizer %s, %s tokens%s%s\n", get_text(t, "kind"), get_text(t, "pre_tokenizer"),
               cli_thousands(count, (uint64_t)get_int(t, "tokens")),
               json_is_true(json_object_get(t, "adds_bos")) ? ", adds BOS" : "",
               json_is_true(json_object_get(t, "adds_eos")) ? ", adds EOS" : "");
        static const char *const names[] = {"bos", "eos", "pad", "unk"};
        const char *separator = "             ";
        for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
            const json_t *k = json_object_get(t, names[i]);
            if (!k)
                continue;
            const char *text = get_text(k, "text");
            char *shown = cli_printable(text, strlen(text), 60);
            printf("%s%s %lld %s", separator, names[i], (long long)get_int(k, "id"), shown ? shown : "");
            separator = ", ";
            free(shown);
        }
        if (separator[0] == ',')
            putchar('\n');
    }
    if (c && json_object_get(c, "error"))
        printf("template     cannot be used: %s\n", get_text(c, "error"));
    else if (c)
        printf("template     %s bytes of Jinja%s%s\n", cli_thousands(count, (uint64_t)get_int(c, "bytes")),
               json_is_true(json_object_get(c, "tools")) ? ", knows tools" : "",
               json_is_true(json_object_get(c, "thinking")) ? ", can switch thinking" : "");
    else
        puts("template     none");
}

static void print_memory(const json_t *report)
{
    const json_t *m = json_object_get(report, "memory");
    if (!m)
        return;
    char a[32], b[32], c[32], d[32], n[32];
    const uint64_t total = (uint64_t)get_int(m, "total_bytes"), machine = (uint64_t)get_int(m, "machine_bytes");
    printf("memory       %s at %s tokens: ", sala_format_bytes(a, total),
           cli_thousands(n, (uint64_t)get_int(m, "context")));
    if (get_int(m, "weight_bytes") > 0)
        printf("weights %s, ", sala_format_bytes(b, (uint64_t)get_int(m, "weight_bytes")));
    printf("keys and values %s (%s, %lld bytes a token)", sala_format_bytes(c, (uint64_t)get_int(m, "kv_bytes")),
           get_text(m, "kv_type"), (long long)get_int(m, "kv_bytes_per_token"));
    if (json_object_get(m, "compressed_bytes_per_token"))
        printf(", compressed keys %s (%.4g bytes a token)",
               sala_format_bytes(c, (uint64_t)get_int(m, "compressed_bytes")),
               get_real(m, "compressed_bytes_per_token"));
    if (json_object_get(m, "linear_state_bytes"))
        printf(", linear states %s (%s and its past)", sala_format_bytes(c, (uint64_t)get_int(m, "linear_bytes")),
               sala_format_bytes(d, (uint64_t)get_int(m, "linear_state_bytes")));
    printf("\n             this machine has %s: %s\n", sala_format_bytes(d, machine),
           total < machine - machine / 16 ? "it fits" : "it does not fit");
}

static void print_memory_table(const json_t *report)
{
    const json_t *table = json_object_get(json_object_get(report, "memory"), "table"), *row, *at;
    size_t i, k;
    char text[32];
    if (!json_array_size(table))
        return;
    putchar('\n');
    cli_table *t = cli_table_new(json_object_get(report, "weight_bytes") ? "WEIGHTS AND SESSION|>32K TOKENS|>256K|>1M"
                                                                         : "SESSION|>32K TOKENS|>256K|>1M");
    json_array_foreach(table, i, row)
    {
        cli_table_cell(t, "--kv %s", get_text(row, "kv_type"));
        json_array_foreach(json_object_get(row, "at"), k, at)
            cli_table_cell(t, "%s", sala_format_bytes(text, (uint64_t)get_int(at, "total_bytes")));
        for (; k < 3; k++)
            cli_table_cell(t, "-");
    }
    cli_table_print(t, stdout);
}

static void print_tensors(const json_t *report)
{
    size_t i;
    const json_t *row;
    char size[32], count[32];
    const json_t *classes = json_object_get(report, "tensor_classes");
    if (json_array_size(classes)) {
        putchar('\n');
        cli_table *t = cli_table_new("TENSORS|TYPE|>NUMBER|>WEIGHTS|>SIZE|>BITS");
        json_array_foreach(classes, i, row)
        {
            const double weights = (double)get_int(row, "weights");
            cli_table_cell(t, "%s", get_text(row, "class"));
            cli_table_cell(t, "%s", get_text(row, "type"));
            cli_table_cell(t, "%lld", (long long)get_int(row, "tensors"));
            cli_table_cell(t, "%s", cli_thousands(count, (uint64_t)get_int(row, "weights")));
            cli_table_cell(t, "%s", sala_format_bytes(size, (uint64_t)get_int(row, "bytes")));
            cli_table_cell(t, "%.2f", weights > 0 ? 8.0 * (double)get_int(row, "bytes") / weights : 0.0);
        }
        cli_table_print(t, stdout);
    }
    const json_t *tensors = json_object_get(report, "tensors");
    if (json_array_size(tensors)) {
        putchar('\n');
        cli_table *t = cli_table_new("NAME|TYPE|SHAPE|>BYTES");
        json_array_foreach(tensors, i, row)
        {
            const char *text = get_text(row, "name");
            char *name = cli_printable(text, strlen(text), 200);
            char *shape = json_dumps(json_object_get(row, "shape"), 0);
            cli_table_cell(t, "%s", name ? name : "");
            cli_table_cell(t, "%s", get_text(row, "type"));
            cli_table_cell(t, "%s", shape ? shape : "");
            cli_table_cell(t, "%s", cli_thousands(count, (uint64_t)get_int(row, "bytes")));
            free(name);
            free(shape);
        }
        cli_table_print(t, stdout);
    }
}

static void print_metadata(json_t *metadata)
{
    if (!metadata)
        return;
    putchar('\n');
    cli_table *t = cli_table_new("KEY|VALUE");
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        char *text = json_is_string(value) ? sala_strdup(json_string_value(value))
                                           : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
        char *name = cli_printable(key, strlen(key), 120);
        char *shown = text ? cli_printable(text, strlen(text), json_is_object(value) ? SHOWN_BYTES : 160) : NULL;
        cli_table_cell(t, "%s", name ? name : "");
        cli_table_cell(t, "%s", shown ? shown : "");
        free(text);
        free(name);
        free(shown);
    }
    cli_table_print(t, stdout);
}

void cli_inspect_print(const json_t *report)
{
    char size[32];
    const char *name = json_string_value(json_object_get(report, "name"));
    const char *arch = json_string_value(json_object_get(report, "architecture"));
    const char *type = json_string_value(json_object_get(report, "quantization"));
    printf("%s\n", get_text(report, "path"));
    printf("format       %s", get_text(report, "format"));
    if (json_object_get(report, "file_bytes"))
        printf(", %s, %lld tensors", sala_format_bytes(size, (uint64_t)get_int(report, "file_bytes")),
               (long long)get_int(report, "n_tensors"));
    putchar('\n');
    if (name)
        printf("name         %s\n", name);
    if (arch)
        printf("architecture %s%s%s\n", arch, type ? ", mostly " : "", type ? type : "");
    print_shape(report);
    print_text(report);
    print_memory(report);
    size_t i;
    const json_t *problem;
    json_array_foreach(json_object_get(report, "problems"), i, problem)
        printf("%s %s: %s\n", i ? "            " : "not usable  ", get_text(problem, "what"), get_text(problem, "why"));
    print_memory_table(report);
    print_tensors(report);
    print_metadata(json_object_get(report, "metadata"));
}
