/* Finds the verb, parses its options, runs it, and makes sure that what it printed has arrived. */
#include "cli.h"

#include "ui.h"

#include <fcntl.h>
#include <locale.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int unknown_verb(const char *word)
{
    const char *names[CLI_N_VERBS];
    for (int i = 0; i < CLI_N_VERBS; i++)
        names[i] = cli_verbs[i].name;
    static const struct {
        const char *theirs, *ours;
    } habits[] = {
        {"chat", "run"},          {"generate", "run"},      {"main", "run"},          {"cli", "run"},
        {"show", "inspect"},      {"info", "inspect"},      {"perplexity", "ppl"},    {"ls", "list"},
        {"remove", "rm"},         {"delete", "rm"},         {"download", "pull"},     {"encode", "tokenize"},
        {"decode", "detokenize"}, {"quantise", "quantize"}, {"tokenise", "tokenize"}, {"detokenise", "detokenize"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(habits); i++)
        if (strcmp(word, habits[i].theirs) == 0)
            return cli_misuse("there is no command '%s'; did you mean 'sala %s'?", word, habits[i].ours);
    struct stat st;
    if (stat(word, &st) == 0)
        return cli_misuse("a command comes first: 'sala run %s', 'sala inspect %s'", word, word);
    const char *near = cli_nearest(word, names, CLI_N_VERBS);
    if (near)
        return cli_misuse("there is no command '%s'; did you mean 'sala %s'?", word, near);
    if (word[0] == '-')
        return cli_misuse("a command comes before options such as %s", word);
    return cli_misuse("there is no command '%s'", word);
}

/* Files opened later must not land on the numbers of standard streams that somebody closed: what is printed would go
 * into them. Writing to such a stream still fails, because it is opened for reading. */
static void occupy_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 2 ? O_WRONLY : O_RDONLY) < 0)
            return;
}

int main(int argc, char **argv)
{
    occupy_standard_streams();
    setlocale(LC_CTYPE, ""); /* for line editing; numbers keep their point */
    cli_signals_init();
    if (argc < 2) {
        cli_help_all(stderr);
        return CLI_MISUSED;
    }
    const char *word = argv[1];
    if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
        cli_help_all(stdout);
        return cli_flush(CLI_DONE);
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        word = "version";
    const cli_verb *verb = cli_verb_find(word);
    if (!verb)
        return unknown_verb(word);
    cli_words_for(verb, false);
    cli_options o;
    int rc = cli_parse(&o, verb, argc - 2, argv + 2);
    if (rc == 0) {
        cli_words_for(verb, o.quiet);
        if (o.help_short || o.help_long)
            cli_help_verb(stdout, verb, o.help_long);
        else
            rc = verb->run(&o);
    }
    free((void *)(uintptr_t)o.args);
    cli_progress_end();
    return cli_flush(rc);
}
