/* sala data: pack, stats and show. The work is in src/data; here are arguments, the progress bar and tables. */
#include "cli.h"

#include "data/bins.h"
#include "data/pack.h"
#include "os/os.h"
#include "ui.h"
#include "vocab.h"

#include <inttypes.h>
#include <stdlib.h>

/* The tokenizer that `name` stands for; all NULL for "bytes". Returns 0 or an exit code after an error message. */
static int open_vocab(cli_vocab *v, const cli_options *o, const char *name)
{
    *v = (cli_vocab){0};
    if (strcmp(name, "bytes") == 0)
        return 0;
    cli_options as_model = *o;
    as_model.model = name;
    as_model.n_args = 0;
    return cli_vocab_open(v, &as_model, true, false);
}

/* ---- pack ---- */

typedef struct watch {
    uint64_t total;
    double start;
} watch;

static bool show_progress(void *user, uint64_t bytes_in, uint64_t tokens)
{
    const watch *w = user;
    const double seconds = sala_os_seconds() - w->start;
    char note[64], count[32];
    snprintf(note, sizeof note, "%.1f MB/s  %s tokens", seconds > 0 ? (double)bytes_in / seconds * 1e-6 : 0.0,
             cli_short_count(count, tokens));
    cli_progress_note(note);
    return cli_progress(NULL, "packing", bytes_in, w->total);
}

static sala_doc_format format_of(const char *name)
{
    static const char *const names[] = {"auto", "text", "lines", "jsonl"};
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0)
            return (sala_doc_format)i;
    return SALA_DOC_AUTO;
}

static json_t *pack_json(const sala_pack_stats *s, const char *dir)
{
    json_t *lengths = json_array();
    for (int i = 0; i < 33; i++)
        if (s->length_log2[i])
            json_array_append_new(lengths, json_pack("{s:I, s:I}", "from", (json_int_t)1 << i, "documents",
                                                     (json_int_t)s->length_log2[i]));
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:o, s:f, s:f}", "out",
                     cli_json_text(dir, strlen(dir)), "files", (json_int_t)s->files, "text_bytes",
                     (json_int_t)s->bytes_in, "documents", (json_int_t)s->docs, "validation_documents",
                     (json_int_t)s->docs_validation, "tokens", (json_int_t)s->tokens, "validation_tokens",
                     (json_int_t)s->tokens_validation, "supervised", (json_int_t)s->supervised, "empty_documents",
                     (json_int_t)s->empty_docs, "cut_documents", (json_int_t)s->cut_docs, "skipped_records",
                     (json_int_t)s->bad_lines, "invalid_utf8", (json_int_t)s->invalid_utf8, "unknown",
                     (json_int_t)s->unknown, "shards", s->shards, "lengths", lengths, "seconds", s->seconds,
                     "cpu_seconds", s->cpu_seconds);
}

/* "3 documents", "1 document". */
static const char *counted(char dst[64], uint64_t n, const char *noun)
{
    char digits[32];
    snprintf(dst, 64, "%s %s%s", cli_thousands(digits, n), noun, n == 1 ? "" : "s");
    return dst;
}

static void say_pack(const sala_pack_stats *s, const char *dir)
{
    char a[64], b[64], c[32];
    cli_say("%s, %s from %s of text in %.1f s: %.1f MB/s, %.1f a core", counted(a, s->docs, "document"),
            counted(b, s->tokens, "token"), sala_format_bytes(c, s->bytes_in), s->seconds,
            s->seconds > 0 ? (double)s->bytes_in / s->seconds * 1e-6 : 0.0,
            s->cpu_seconds > 0 ? (double)s->bytes_in / s->cpu_seconds * 1e-6 : 0.0);
    if (s->docs_validation)
        cli_say("%s, %s of them in %s/validation", counted(a, s->docs_validation, "document"),
                counted(b, s->tokens_validation, "token"), dir);
    if (s->supervised < s->tokens)
        cli_say("%.1f %% of the tokens are answers, which is what will be learned",
                100.0 * (double)s->supervised / (double)s->tokens);
    if (s->empty_docs)
        cli_say("dropped: %s without text", counted(a, s->empty_docs, "document"));
    if (s->cut_docs)
        cli_say("cut because a document is longer than --max-doc: %s", counted(a, s->cut_docs, "time"));
    if (s->invalid_utf8)
        cli_warn("not UTF-8: %s; those bytes became U+FFFD", counted(a, s->invalid_utf8, "document"));
    if (s->unknown)
        cli_warn("the unknown token: %s; the vocabulary lacks characters", counted(a, s->unknown, "time"));
    if (s->bad_lines)
        cli_warn("skipped: %s; the first: %s", counted(a, s->bad_lines, "record"), s->first_bad);
}

static int cmd_pack(const cli_options *o)
{
    if (o->n_args < 2)
        return cli_misuse("pack: INPUT is missing: files, directories, or - for standard input");
    if (!o->tokenizer)
        return cli_misuse("pack: --tokenizer is missing: a model, or bytes");
    if (!o->out)
        return cli_misuse("pack: --out is missing: the directory to write");
    cli_vocab v;
    sala_chat *chat = NULL;
    char *template = NULL, *hint = NULL;
    sala_error err = {0};
    int rc = open_vocab(&v, o, o->tokenizer);
    if (rc)
        return rc;
    if (v.path && cli_vocab_template(&v, &template, false, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0 && template)
        rc = cli_vocab_chat(&v, &chat, false);
    if (v.path)
        hint = realpath(v.path, NULL);
    if (rc == 0) {
        watch w = {sala_pack_input_bytes(o->args + 1, o->n_args - 1), sala_os_seconds()};
        const sala_pack_params params = {
            .inputs = o->args + 1,
            .n_inputs = o->n_args - 1,
            .out_dir = o->out,
            .tokenizer = v.tokenizer,
            .chat = chat,
            .format = format_of(o->format),
            .text_key = o->text_key,
            .separator = o->separator,
            .add_bos = o->bos,
            .add_eos = !o->no_eos,
            .shard_tokens = (uint64_t)o->shard_tokens,
            .max_doc_bytes = (uint64_t)o->max_doc,
            .validation = o->validation,
            .seed = (uint64_t)o->seed,
            .n_threads = o->threads == CLI_UNSET ? 0 : (int)o->threads,
            .keep_going = o->keep_going,
            .progress = show_progress,
            .user = &w,
            .tokenizer_hint = hint,
            .split_bytes = (uint64_t)o->split,
            .replace = o->force,
        };
        sala_pack_stats stats;
        cli_signals_hold();
        const sala_status status = sala_pack_run(&params, &stats, &err);
        cli_signals_release();
        cli_progress_end();
        if (status != SALA_OK)
            rc = cli_fail_error(&err);
        else if (o->json)
            rc = cli_print_json(pack_json(&stats, o->out));
        if (status == SALA_OK)
            say_pack(&stats, o->out);
    }
    free(hint);
    free(template);
    sala_chat_close(chat);
    cli_vocab_close(&v);
    return rc;
}

/* ---- stats ---- */

enum { N_LENGTHS = 33 };

typedef struct facts {
    uint64_t docs[N_LENGTHS], tokens[N_LENGTHS]; /* by floor(log2(tokens of the document)) */
    uint64_t longest, supervised;
    uint64_t *source_docs, *source_tokens;
} facts;

static sala_status gather(facts *f, const sala_corpus *c, bool check, sala_error *err)
{
    enum { STEP = 1 << 20 };
    for (int i = 0; i < c->n_shards; i++) {
        const sala_shard *s = c->shards[i];
        for (uint64_t d = 0; d < sala_shard_docs(s); d++) {
            const sala_shard_doc doc = sala_shard_doc_at(s, d);
            int log2 = 0;
            while (doc.count >> log2 > 1)
                log2++;
            f->docs[log2]++;
            f->tokens[log2] += doc.count;
            f->longest = doc.count > f->longest ? doc.count : f->longest;
            if (doc.source < (uint32_t)c->n_sources) {
                f->source_docs[doc.source]++;
                f->source_tokens[doc.source] += doc.count;
            }
        }
        const uint64_t n = sala_shard_tokens(s);
        for (uint64_t at = 0; at < n; at += STEP) {
            const int64_t some = n - at < STEP ? (int64_t)(n - at) : STEP;
            uint64_t supervised;
            sala_status status = sala_shard_supervised(s, at, some, &supervised, err);
            if (status == SALA_OK && check)
                status = sala_shard_read(s, at, some, NULL, NULL, err);
            if (status != SALA_OK)
                return status;
            f->supervised += supervised;
        }
    }
    return SALA_OK;
}

static json_t *stats_json(const sala_corpus *c, const facts *f, const sala_bins *bins)
{
    char id[24];
    snprintf(id, sizeof id, "%016" PRIx64, c->tokenizer_id);
    json_t *lengths = json_array(), *sources = json_array();
    for (int i = 0; i < N_LENGTHS; i++)
        if (f->docs[i])
            json_array_append_new(lengths, json_pack("{s:I, s:I, s:I}", "from", (json_int_t)1 << i, "documents",
                                                     (json_int_t)f->docs[i], "tokens", (json_int_t)f->tokens[i]));
    for (int i = 0; i < c->n_sources; i++)
        json_array_append_new(
            sources, json_pack("{s:o, s:I, s:I}", "path", cli_json_text(c->sources[i], strlen(c->sources[i])),
                               "documents", (json_int_t)f->source_docs[i], "tokens", (json_int_t)f->source_tokens[i]));
    json_t *packing = json_pack("{s:I, s:I, s:f, s:I}", "seq_len", (json_int_t)sala_bins_seq_len(bins), "sequences",
                                (json_int_t)sala_bins_count(bins), "fill", sala_bins_fill(bins), "dropped",
                                (json_int_t)sala_bins_dropped(bins));
    return json_pack("{s:o, s:I, s:I, s:I, s:i, s:I, s:s, s:o, s:I, s:f, s:I, s:o, s:o, s:o, s:o}", "dir",
                     cli_json_text(c->dir, strlen(c->dir)), "documents", (json_int_t)c->n_docs, "tokens",
                     (json_int_t)c->n_tokens, "bytes", (json_int_t)c->n_bytes, "shards", c->n_shards, "vocab",
                     (json_int_t)c->vocab, "tokenizer_id", id, "tokenizer",
                     c->tokenizer ? cli_json_text(c->tokenizer, strlen(c->tokenizer)) : json_null(), "supervised",
                     (json_int_t)f->supervised, "bytes_per_token", c->bytes_per_token, "longest",
                     (json_int_t)f->longest, "lengths", lengths, "sources", sources, "packing", packing, "validation",
                     c->validation_dir ? cli_json_text(c->validation_dir, strlen(c->validation_dir)) : json_null());
}

static void print_stats(const sala_corpus *c, const facts *f, const sala_bins *bins)
{
    char a[32], b[32];
    cli_table *t = cli_table_new("!|");
    cli_table_cell(t, "documents");
    cli_table_cell(t, "%s in %d shard%s, %s", cli_thousands(a, c->n_docs), c->n_shards, c->n_shards == 1 ? "" : "s",
                   sala_format_bytes(b, c->n_bytes));
    cli_table_cell(t, "tokens");
    cli_table_cell(t, "%s, longest document %s", cli_thousands(a, c->n_tokens), cli_thousands(b, f->longest));
    cli_table_cell(t, "vocabulary");
    cli_table_cell(t, "%u ids, tokenizer %016" PRIx64 "%s%s", c->vocab, c->tokenizer_id, c->tokenizer ? ", " : "",
                   c->tokenizer ? c->tokenizer : "");
    if (c->bytes_per_token > 0) {
        cli_table_cell(t, "bytes a token");
        cli_table_cell(t, "%.2f", c->bytes_per_token);
    }
    if (f->supervised < c->n_tokens) {
        cli_table_cell(t, "supervised");
        cli_table_cell(t, "%.1f %% of the tokens", 100.0 * (double)f->supervised / (double)c->n_tokens);
    }
    cli_table_cell(t, "sequences");
    cli_table_cell(t, "%s of %" PRId64 " tokens, %.1f %% full", cli_thousands(a, sala_bins_count(bins)),
                   sala_bins_seq_len(bins), 100 * sala_bins_fill(bins));
    cli_table_cell(t, "validation");
    cli_table_cell(t, "%s", c->validation_dir ? c->validation_dir : "none");
    cli_table_print(t, stdout);
    putchar('\n');
    t = cli_table_new(">LENGTH|>DOCUMENTS|>TOKENS|>SHARE");
    for (int i = 0; i < N_LENGTHS; i++) {
        if (f->docs[i] == 0)
            continue;
        cli_table_cell(t, "%s+", cli_thousands(a, (uint64_t)1 << i));
        cli_table_cell(t, "%s", cli_thousands(a, f->docs[i]));
        cli_table_cell(t, "%s", cli_thousands(a, f->tokens[i]));
        cli_table_cell(t, "%.1f %%", 100.0 * (double)f->tokens[i] / (double)c->n_tokens);
    }
    cli_table_print(t, stdout);
    putchar('\n');
    t = cli_table_new(">DOCUMENTS|>TOKENS|SOURCE");
    for (int i = 0; i < c->n_sources; i++) {
        if (f->source_docs[i] == 0)
            continue;
        char *path = cli_printable(c->sources[i], strlen(c->sources[i]), 200);
        cli_table_cell(t, "%s", cli_thousands(a, f->source_docs[i]));
        cli_table_cell(t, "%s", cli_thousands(a, f->source_tokens[i]));
        cli_table_cell(t, "%s", path ? path : "");
        free(path);
    }
    cli_table_print(t, stdout);
}

static int cmd_stats(const cli_options *o)
{
    if (o->n_args != 2)
        return cli_misuse("stats: one DIRECTORY is expected, found %d", o->n_args - 1);
    sala_corpus c = {0};
    sala_bins *bins = NULL;
    facts f = {0};
    sala_error err = {0};
    sala_status status = sala_corpus_open(&c, o->args[1], &err);
    if (status == SALA_OK) {
        f.source_docs = calloc((size_t)c.n_sources + 1, sizeof *f.source_docs);
        f.source_tokens = calloc((size_t)c.n_sources + 1, sizeof *f.source_tokens);
        if (!f.source_docs || !f.source_tokens)
            status = sala_fail_memory(&err, (uint64_t)c.n_sources * sizeof *f.source_docs);
    }
    if (status == SALA_OK)
        status = gather(&f, &c, o->check, &err);
    if (status == SALA_OK)
        status = sala_bins_open(&bins, &c, o->seq_len, SALA_PACK_BEST_FIT, NULL, &err);
    int rc = status == SALA_OK ? 0 : cli_fail_error(&err);
    if (rc == 0 && o->json)
        rc = cli_print_json(stats_json(&c, &f, bins));
    else if (rc == 0)
        print_stats(&c, &f, bins);
    sala_bins_close(bins);
    sala_corpus_close(&c);
    free(f.source_docs);
    free(f.source_tokens);
    return rc ? rc : cli_flush(CLI_DONE);
}

/* ---- show ---- */

static sala_status find_doc(const sala_corpus *c, uint64_t n, const sala_shard **shard, sala_shard_doc *doc,
                            sala_error *err)
{
    uint64_t before = 0;
    for (int i = 0; i < c->n_shards; i++) {
        const uint64_t docs = sala_shard_docs(c->shards[i]);
        if (n - before < docs) {
            *shard = c->shards[i];
            *doc = sala_shard_doc_at(c->shards[i], n - before);
            return SALA_OK;
        }
        before += docs;
    }
    return sala_fail(err, SALA_E_NOT_FOUND, "%s has no document %" PRIu64 "; they go from 0 to %" PRIu64, c->dir, n,
                     c->n_docs - 1);
}

/* The text of the tokens: bytes as they are, control tokens by name. */
static sala_status decode(sala_buf *text, const cli_vocab *v, const int32_t *ids, size_t n, sala_error *err)
{
    if (v->tokenizer)
        return sala_tokenizer_decode(v->tokenizer, text, ids, n, false, err);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < SALA_BYTES_BOS)
            sala_buf_add_char(text, (char)(unsigned char)ids[i]);
        else
            sala_buf_add_str(text, ids[i] == SALA_BYTES_BOS ? "<s>" : "</s>");
    }
    return text->failed ? sala_fail_memory(err, n) : SALA_OK;
}

static json_t *doc_json(const sala_corpus *c, uint64_t number, const sala_shard_doc *doc, const int32_t *ids,
                        const int32_t *labels, const sala_buf *text)
{
    json_t *tokens = json_array(), *mask = json_array();
    for (uint32_t i = 0; i < doc->count; i++) {
        json_array_append_new(tokens, json_integer(ids[i]));
        json_array_append_new(mask, json_integer(labels[i] >= 0));
    }
    const bool known = doc->source < (uint32_t)c->n_sources;
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "document", (json_int_t)number, "source",
                     known ? cli_json_text(c->sources[doc->source], strlen(c->sources[doc->source])) : json_null(),
                     "tokens", tokens, "mask", mask, "text", cli_json_text(text->data ? text->data : "", text->len));
}

static int show_doc(const cli_options *o, const sala_corpus *c, const cli_vocab *v, uint64_t number)
{
    const sala_shard *shard = NULL;
    sala_shard_doc doc = {0};
    sala_error err = {0};
    int32_t *ids = NULL;
    sala_buf text = {0};
    sala_status status = find_doc(c, number, &shard, &doc, &err);
    if (status == SALA_OK) {
        ids = malloc(2 * (size_t)doc.count * sizeof *ids);
        status = ids ? sala_shard_read(shard, doc.at, doc.count, ids, ids + doc.count, &err)
                     : sala_fail_memory(&err, 2 * (uint64_t)doc.count * sizeof *ids);
    }
    if (status == SALA_OK)
        status = decode(&text, v, ids, doc.count, &err);
    int rc = 0;
    if (status != SALA_OK) {
        rc = cli_fail_error(&err);
    } else if (o->json) {
        rc = cli_print_json(doc_json(c, number, &doc, ids, ids + doc.count, &text));
    } else {
        uint32_t supervised = 0;
        for (uint32_t i = 0; i < doc.count; i++)
            supervised += ids[doc.count + i] >= 0;
        cli_say("document %" PRIu64 " of %" PRIu64 ": %u tokens, %u of them learned, from %s", number, c->n_docs,
                doc.count, supervised, doc.source < (uint32_t)c->n_sources ? c->sources[doc.source] : "nowhere");
        fwrite(text.data ? text.data : "", 1, text.len, stdout);
        putchar('\n');
    }
    free(ids);
    sala_buf_free(&text);
    return rc ? rc : cli_flush(CLI_DONE);
}

static int cmd_show(const cli_options *o)
{
    int64_t number = 0;
    if (o->n_args < 2 || o->n_args > 3)
        return cli_misuse("show: DIRECTORY and the number of a document are expected");
    if (o->n_args == 3 && (!cli_parse_count(&number, o->args[2]) || number < 0))
        return cli_misuse("show: '%s' is not the number of a document", o->args[2]);
    sala_corpus c;
    sala_error err = {0};
    if (sala_corpus_open(&c, o->args[1], &err) != SALA_OK)
        return cli_fail_error(&err);
    const char *name = o->tokenizer ? o->tokenizer : c.tokenizer;
    cli_vocab v = {0};
    int rc = name ? open_vocab(&v, o, name)
                  : cli_misuse("show: %s does not say which tokenizer it was packed with; give "
                               "--tokenizer",
                               c.dir);
    if (rc == 0) {
        uint32_t n_vocab;
        const uint64_t id = sala_vocab_id(v.tokenizer, &n_vocab);
        if (id != c.tokenizer_id)
            rc = cli_fail("%s was packed with tokenizer %016" PRIx64 " (%u ids); %s has %016" PRIx64 " (%u ids)%s",
                          c.dir, c.tokenizer_id, c.vocab, name, id, n_vocab,
                          o->tokenizer ? "" : ": give the one it was packed with as --tokenizer");
        else
            rc = show_doc(o, &c, &v, (uint64_t)number);
        cli_vocab_close(&v);
    }
    sala_corpus_close(&c);
    return rc;
}

int cli_cmd_data(const cli_options *o)
{
    static const struct {
        const char *name;
        int (*run)(const cli_options *o);
    } verbs[] = {{"pack", cmd_pack}, {"stats", cmd_stats}, {"show", cmd_show}};
    const char *names[SALA_ARRAY_LEN(verbs)];
    for (size_t i = 0; i < SALA_ARRAY_LEN(verbs); i++) {
        if (strcmp(o->args[0], verbs[i].name) == 0)
            return verbs[i].run(o);
        names[i] = verbs[i].name;
    }
    const char *near = cli_nearest(o->args[0], names, SALA_ARRAY_LEN(names));
    if (near)
        return cli_misuse("there is no 'sala data %s'; did you mean 'sala data %s'?", o->args[0], near);
    return cli_misuse("there is no 'sala data %s'; there are pack, stats and show", o->args[0]);
}
