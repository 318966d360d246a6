/* The program's frame: verbs, options, errors. One option table (options.c) and one verb table (verbs.c) yield the
 * parser, -h, --help, the man page and the shell completion, so that they cannot disagree.
 *
 * Manners: data goes to stdout, talk to stderr. Exit 0 done, 1 failed, 2 misused. A verb returns its exit code; only
 * main() and signal handlers end the process. */
#ifndef SALA_CLI_H
#define SALA_CLI_H

#include "base/base.h"

#include <stdio.h>

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_MISUSED = 2 };

/* ---- verbs ---- */

/*    name        positional arguments                          least most  one line for lists */
#define CLI_VERB_LIST(X)                                                                                               \
    X(run, "MODEL [PROMPT]", 0, 2, "answer a prompt, or chat on a terminal")                                           \
    X(tokenize, "MODEL", 0, 1, "text to token ids")                                                                    \
    X(detokenize, "MODEL [ID...]", 0, 4096, "token ids to text")                                                       \
    X(template, "MODEL", 0, 1, "render a chat through the model's template")                                           \
    X(logits, "MODEL", 0, 1, "logits of every position as a NumPy file")                                               \
    X(ppl, "MODEL [FILE]", 0, 2, "perplexity of a text")                                                               \
    X(inspect, "FILE|DIRECTORY|MODEL", 0, 1, "what a model is, and the memory it takes")                               \
    X(convert, "DIRECTORY [OUT.gguf]", 1, 2, "Hugging Face directory to GGUF")                                         \
    X(quantize, "IN [OUT.gguf [TYPE]]", 1, 3, "store weights in fewer bits")                                           \
    X(export, "IN.gguf [DIRECTORY]", 1, 2, "GGUF to Hugging Face directory (safetensors)")                             \
    X(random, "CONFIG.json|DIRECTORY [OUT.gguf]", 1, 2, "a model of random weights in a given shape")                  \
    X(read, "DOCUMENT", 1, 1, "read a document into a session, once for many questions")                               \
    X(ask, "SESSION [QUESTION]", 1, 2, "answer questions about what was read")                                         \
    X(train, "RUN.yaml|plot|export|inspect [PATH...]", 0, 64, "train a model as a config file says")                   \
    X(data, "pack|stats|show ARGUMENT...", 1, 65536, "text to token shards, which training reads")                     \
    X(pull, "NAME", 0, 1, "bring a model of the catalogue into the cache")                                             \
    X(list, "", 0, 0, "models that are on this machine or can be pulled")                                              \
    X(rm, "NAME...", 1, 64, "remove models from the cache")                                                            \
    X(bench, "MODEL...", 0, 8, "measure speed at chosen depths")                                                       \
    X(selftest, "", 0, 0, "check that this build computes right on this machine")                                      \
    X(help, "[COMMAND]", 0, 1, "this list, or help on one command")                                                    \
    X(version, "", 0, 0, "version, and what this CPU offers")                                                          \
    X(completion, "SHELL", 1, 1, "completion script for a shell (bash)")

typedef enum cli_verb_id {
#define X(name, args, least, most, line) CLI_V_##name,
    CLI_VERB_LIST(X)
#undef X
        CLI_N_VERBS
} cli_verb_id;

typedef struct cli_options cli_options;

typedef struct cli_page {
    const char *text;        /* paragraphs of --help and the man page, separated by an empty line */
    const char *examples[6]; /* command lines; NULL where there are fewer */
} cli_page;

typedef struct cli_verb {
    cli_verb_id id;
    const char *name, *args, *line;
    int least, most; /* positional arguments */
    int (*run)(const cli_options *o);
    const cli_page *page;
} cli_verb;

extern const cli_verb cli_verbs[CLI_N_VERBS];

#define X(name, args, least, most, line) int cli_cmd_##name(const cli_options *o);
CLI_VERB_LIST(X)
#undef X

/* ---- options ---- */

#define CLI_UNSET INT64_MIN /* an integer option that was not given and has no default; floats are NAN */

enum { CLI_MAX_LIST = 64 };
typedef struct cli_list {
    const char *items[CLI_MAX_LIST];
    int count;
} cli_list;

/* What the command line said; strings point into argv. Fields are set by the rows of the table that name them. */
struct cli_options {
    const cli_verb *verb;
    const char *const *args; /* positional arguments that are left */
    int n_args;
    bool help_short, help_long;

    const char *model, *kernels, *kv, *longrope, *sparse, *dense_switch;
    int64_t threads, ctx, chunk;
    bool no_pack;

    const char *prompt, *file, *system, *text, *tokens_file, *template_args;
    bool raw, interactive;

    int64_t n_predict, logprobs;
    bool ignore_eos, show_special;
    cli_list stop, logit_bias;

    double temperature, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, repeat_last_n, seed;

    const char *out, *type, *output_type, *embedding_type, *imatrix, *name;
    const char *mixers, *tokenizer;
    int64_t layers;
    cli_list tensor_types;
    bool pure, force, dry_run;

    const char *bench_prompt, *bench_gen, *depths, *plot;
    int64_t repeat;
    bool real_prefill, ops;

    const char *format, *text_key, *separator;
    int64_t split, shard_tokens, max_doc, seq_len;
    double validation;
    bool bos, no_eos, keep_going, check;

    const char *session, *attention;
    int64_t save_every;
    bool append, keep, show_text;

    cli_list sets;
    const char *branch, *key, *dump_batches;
    int64_t steps, stop_at, smooth;
    bool fresh, list_keys;

    bool json, quiet, all, tensors, metadata, no_special, no_parse_special, ids_only, skip_special, man;
};

typedef enum cli_opt_kind {
    CLI_FLAG,   /* bool */
    CLI_INT,    /* int64_t in [min, max] */
    CLI_COUNT,  /* the same; K, M and G multiply by 1024, 1024^2, 1024^3 */
    CLI_FLOAT,  /* double in [min, max] */
    CLI_TEXT,   /* const char * */
    CLI_PATH,   /* const char *, completed as a file name */
    CLI_CHOICE, /* const char *, one of `choices` */
    CLI_REPEAT, /* cli_list; may be given many times */
} cli_opt_kind;

typedef enum cli_opt_group {
    CLI_G_MODEL,
    CLI_G_INPUT,
    CLI_G_GENERATION,
    CLI_G_SAMPLING,
    CLI_G_WORK,
    CLI_G_OUTPUT,
    CLI_N_GROUPS
} cli_opt_group;

typedef struct cli_opt {
    uint32_t verbs; /* bit 1 << cli_verb_id */
    bool common;    /* shown by -h too, not only by --help */
    cli_opt_group group;
    char letter; /* 0: none */
    const char *name;
    const char *aliases; /* other long spellings, separated by spaces; "" when there are none */
    cli_opt_kind kind;
    size_t offset;   /* of the field in cli_options */
    const char *arg; /* how help names the value */
    const char
        *fallback; /* default: a value of the option's kind, or "(words)" when it is decided elsewhere; NULL: none */
    double min, max;
    const char *choices; /* separated by '|' */
    const char *help;
} cli_opt;

extern const cli_opt cli_opts[];
extern const size_t cli_n_opts;
extern const char *const cli_group_titles[CLI_N_GROUPS];

/* Parses argv behind the verb. Returns 0, or CLI_MISUSED after an error message. o->args is allocated (free). */
int cli_parse(cli_options *o, const cli_verb *verb, int argc, char **argv);
const cli_verb *cli_verb_find(const char *name); /* NULL when there is none */

/* "0,4K,32K" to numbers in [0, max]. Returns how many, or -1 after an error message that names `option`. */
int cli_parse_counts(int64_t *out, int cap, const char *text, int64_t max, const char *option);
bool cli_parse_count(int64_t *out, const char *text); /* one number with an optional K, M or G */

/* ---- words ---- */

/* "sala run: ..." on stderr. misuse() adds where to read more and returns CLI_MISUSED; fail() returns CLI_FAILED. */
int cli_misuse(const char *fmt, ...) SALA_PRINTF(1, 2);
int cli_fail(const char *fmt, ...) SALA_PRINTF(1, 2);
int cli_fail_error(const sala_error *err);
void cli_say(const char *fmt, ...) SALA_PRINTF(1, 2);  /* one line of talk, unless --quiet */
void cli_warn(const char *fmt, ...) SALA_PRINTF(1, 2); /* the same with "warning:", never silenced */
void cli_words_for(const cli_verb *verb, bool quiet);  /* whose name errors carry */

/* The nearest of n names to `word`, or NULL when none is near enough to be a slip of the fingers. */
const char *cli_nearest(const char *word, const char *const *names, size_t n);

/* ---- help ---- */

void cli_help_all(FILE *to);
void cli_help_verb(FILE *to, const cli_verb *verb, bool complete);
void cli_help_man(FILE *to);
void cli_help_bash(FILE *to);

#endif
