/* Help, manual page and completion, all made from the verb and option tables. */
#include "cli.h"

#include "quant/quant.h"
#include "ui.h"

enum { WIDTH = 80, INDENT = 28 };

/* Prints text wrapped to WIDTH from column `at` on, later lines indented. "\n\n" separates paragraphs. */
static void wrap(FILE *to, const char *text, int indent, int at)
{
    for (const char *s = text; *s;) {
        if (*s == '\n') {
            fprintf(to, "\n\n%*s", indent, "");
            at = indent;
            s += strspn(s, "\n");
            continue;
        }
        const int len = (int)strcspn(s, " \n");
        if (at > indent && at + 1 + len > WIDTH) {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', to);
            at++;
        }
        fprintf(to, "%.*s", len, s);
        at += len;
        s += len;
        s += strspn(s, " ");
    }
    fputc('\n', to);
}

void cli_help_all(FILE *to)
{
    fputs("sala runs language models from plain C.\n\nusage: sala COMMAND [OPTIONS] ...\n\ncommands:\n", to);
    for (int i = 0; i < CLI_N_VERBS; i++)
        fprintf(to, "  %-12s %s\n", cli_verbs[i].name, cli_verbs[i].line);
    fputs("\n'sala COMMAND -h' shows a command's options, 'sala COMMAND --help' everything about it.\n"
          "A first answer: sala run smollm2 -p 'Why is the sky blue?'\n",
          to);
}

/* "  -n, --n-predict N"; returns the columns used. */
static int option_head(FILE *to, const cli_opt *opt)
{
    int n = 0;
    if (opt->letter && opt->name)
        n = fprintf(to, "  -%c, --%s", opt->letter, opt->name);
    else if (opt->letter)
        n = fprintf(to, "  -%c", opt->letter);
    else
        n = fprintf(to, "      --%s", opt->name);
    if (opt->kind == CLI_CHOICE)
        n += fprintf(to, " %s", opt->choices);
    else if (opt->kind != CLI_FLAG)
        n += fprintf(to, " %s", opt->arg);
    return n;
}

/* The default as words, without the parentheses of one that is decided elsewhere. */
static const char *default_words(const cli_opt *opt, char dst[96])
{
    if (!opt->fallback)
        return NULL;
    const size_t n = strlen(opt->fallback);
    if (opt->fallback[0] == '(')
        snprintf(dst, 96, "%.*s", (int)n - 2, opt->fallback + 1);
    else
        snprintf(dst, 96, "%s", opt->fallback);
    return dst;
}

static void option_lines(FILE *to, const cli_opt *opt, bool complete)
{
    char text[640], def[96];
    snprintf(text, sizeof text, "%s", opt->help);
    if (complete) {
        const char *d = default_words(opt, def);
        if (d)
            snprintf(text + strlen(text), sizeof text - strlen(text), " [%s]", d);
        if (opt->aliases[0])
            snprintf(text + strlen(text), sizeof text - strlen(text), " (also --%s)", opt->aliases);
        for (char *c = strstr(text, "(also "); c && (c = strchr(c + 6, ' ')) != NULL;) {
            /* "(also --a b)" becomes "(also --a, --b)". */
            char rest[200];
            snprintf(rest, sizeof rest, "%s", c + 1);
            snprintf(c, sizeof text - (size_t)(c - text), ", --%s", rest);
            c += 4;
        }
    } else {
        char *semi = strchr(text, ';');
        if (semi)
            *semi = 0;
    }
    int at = option_head(to, opt);
    if (at + 2 > INDENT) {
        fputc('\n', to);
        at = 0;
    }
    fprintf(to, "%*s", INDENT - at, "");
    if (complete) {
        wrap(to, text, INDENT, INDENT);
    } else { /* one line, whatever it takes */
        fprintf(to, "%s\n", text);
    }
}

void cli_help_verb(FILE *to, const cli_verb *verb, bool complete)
{
    fprintf(to, "usage: sala %s%s%s [OPTIONS]\n%s\n", verb->name, verb->args[0] ? " " : "", verb->args, verb->line);
    if (complete) {
        fputc('\n', to);
        wrap(to, verb->page->text, 0, 0);
    }
    const uint32_t bit = 1u << verb->id;
    for (int g = 0; g < CLI_N_GROUPS; g++) {
        bool titled = false;
        for (size_t i = 0; i < cli_n_opts; i++) {
            const cli_opt *opt = &cli_opts[i];
            if (!(opt->verbs & bit) || (int)opt->group != g || !(complete || opt->common))
                continue;
            if (!titled)
                fprintf(to, "%s%s:\n", complete || g == 0 ? "\n" : "", cli_group_titles[g]);
            titled = true;
            option_lines(to, opt, complete);
        }
    }
    if (!complete)
        return;
    if (verb->id == CLI_V_quantize) {
        fputs("\nTypes:\n  ", to);
        wrap(to, sala_recipe_names(), 2, 2);
    }
    fputs("\nExamples:\n", to);
    for (size_t i = 0; i < SALA_ARRAY_LEN(verb->page->examples) && verb->page->examples[i]; i++)
        fprintf(to, "  %s\n", verb->page->examples[i]);
    fputs("\nExit code: 0 done, 1 failed, 2 misused.\n", to);
}

/* ---- manual page ---- */

/* Roff takes '-' as a hyphen, '\' as its escape, and a line that begins with '.' or ''' as a request. */
static void roff(FILE *to, const char *s)
{
    for (bool begin = true; *s; s++) {
        if (begin && (*s == '.' || *s == '\''))
            fputs("\\&", to);
        begin = *s == '\n';
        if (*s == '\\')
            fputs("\\e", to);
        else if (*s == '-')
            fputs("\\-", to);
        else if (*s == '\'')
            fputs("\\(aq", to);
        else if (*s == '\n' && s[1] == '\n') {
            fputs("\n.PP\n", to);
            s++;
        } else
            fputc(*s, to);
    }
}

static void man_option(FILE *to, const cli_opt *opt)
{
    char def[96];
    fputs(".TP\n", to);
    if (opt->letter)
        fprintf(to, "\\fB\\-%c\\fR%s", opt->letter, opt->name ? ", " : "");
    if (opt->name) {
        fputs("\\fB", to);
        fputs("\\-\\-", to);
        roff(to, opt->name);
        fputs("\\fR", to);
    }
    if (opt->kind != CLI_FLAG) {
        fputs(" \\fI", to);
        roff(to, opt->kind == CLI_CHOICE ? opt->choices : opt->arg);
        fputs("\\fR", to);
    }
    fputc('\n', to);
    roff(to, opt->help);
    const char *d = default_words(opt, def);
    if (d) {
        fputs(" [", to);
        roff(to, d);
        fputc(']', to);
    }
    fputc('\n', to);
}

void cli_help_man(FILE *to)
{
    fprintf(to, ".TH SALA 1 \"\" \"sala %s\" \"User Commands\"\n.SH NAME\nsala \\- run language models from plain C\n",
            sala_version());
    fputs(".SH SYNOPSIS\n\\fBsala\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] ...\n.SH DESCRIPTION\n", to);
    roff(to, "sala runs, inspects, converts and quantises language models in GGUF files and Hugging Face directories. "
             "Data goes to standard output, everything else to standard error. Options may stand anywhere behind the "
             "command; '--' ends them.\n");
    for (int v = 0; v < CLI_N_VERBS; v++) {
        const cli_verb *verb = &cli_verbs[v];
        fputs(".SH \"SALA ", to);
        for (const char *c = verb->name; *c; c++)
            fputc(*c >= 'a' && *c <= 'z' ? *c - 32 : *c, to);
        fprintf(to, "\"\n\\fBsala %s\\fR", verb->name);
        if (verb->args[0]) {
            fputs(" \\fI", to);
            roff(to, verb->args);
            fputs("\\fR", to);
        }
        fputs(" [\\fIOPTIONS\\fR]\n.PP\n", to);
        roff(to, verb->page->text);
        fputc('\n', to);
        if (verb->id == CLI_V_quantize) {
            fputs(".PP\nTypes: ", to);
            roff(to, sala_recipe_names());
            fputs(".\n", to);
        }
        for (size_t i = 0; i < cli_n_opts; i++)
            if ((cli_opts[i].verbs & (1u << v)) && cli_opts[i].offset != offsetof(cli_options, help_short) &&
                cli_opts[i].offset != offsetof(cli_options, help_long))
                man_option(to, &cli_opts[i]);
        fputs(".PP\nExamples:\n.PP\n.nf\n", to);
        for (size_t i = 0; i < SALA_ARRAY_LEN(verb->page->examples) && verb->page->examples[i]; i++) {
            roff(to, verb->page->examples[i]);
            fputc('\n', to);
        }
        fputs(".fi\n", to);
    }
    fputs(".SH \"EXIT STATUS\"\n0 done, 1 failed, 2 misused.\n.SH ENVIRONMENT\n", to);
    static const char *const variables[][2] = {
        {"SALA_CACHE", "folder for pulled models and the chat's history"},
        {"HF_HUB_CACHE, HF_HOME", "where Hugging Face's cache is"},
        {"OLLAMA_MODELS", "where Ollama's store is"},
    };
    for (size_t i = 0; i < SALA_ARRAY_LEN(variables); i++) {
        fprintf(to, ".TP\n\\fB%s\\fR\n", variables[i][0]);
        roff(to, variables[i][1]);
        fputc('\n', to);
    }
}

/* ---- completion ---- */

void cli_help_bash(FILE *to)
{
    fputs("# bash completion for sala, written by 'sala completion bash'\n"
          "_sala()\n"
          "{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} opts values\n"
          "    COMPREPLY=()\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        COMPREPLY=($(compgen -W '",
          to);
    for (int v = 0; v < CLI_N_VERBS; v++)
        fprintf(to, "%s%s", v ? " " : "", cli_verbs[v].name);
    fputs("' -- \"$cur\"))\n        return\n    fi\n    case $verb in\n", to);
    for (int v = 0; v < CLI_N_VERBS; v++) {
        const uint32_t bit = 1u << v;
        fprintf(to, "    %s)\n        case $prev in\n", cli_verbs[v].name);
        for (size_t i = 0; i < cli_n_opts; i++) {
            const cli_opt *opt = &cli_opts[i];
            if (!(opt->verbs & bit) || opt->kind == CLI_FLAG)
                continue;
            fputs("        ", to);
            if (opt->letter)
                fprintf(to, "-%c|", opt->letter);
            fprintf(to, "--%s) ", opt->name);
            if (opt->kind == CLI_CHOICE) {
                fputs("COMPREPLY=($(compgen -W '", to);
                for (const char *c = opt->choices; *c; c++)
                    fputc(*c == '|' ? ' ' : *c, to);
                fputs("' -- \"$cur\")); return;;\n", to);
            } else if (opt->kind == CLI_PATH) {
                fputs("compopt -o default 2>/dev/null; return;;\n", to);
            } else {
                fputs("return;;\n", to);
            }
        }
        fputs("        esac\n        opts='", to);
        for (size_t i = 0; i < cli_n_opts; i++)
            if ((cli_opts[i].verbs & bit) && cli_opts[i].name)
                fprintf(to, "--%s ", cli_opts[i].name);
        fputs("'\n", to);
        if (v == CLI_V_help) {
            fputs("        opts+='", to);
            for (int w = 0; w < CLI_N_VERBS; w++)
                fprintf(to, " %s", cli_verbs[w].name);
            fputs("'\n", to);
        } else if (v == CLI_V_completion) {
            fputs("        opts+=' bash'\n", to);
        }
        fputs("        ;;\n", to);
    }
    fputs("    *) return;;\n"
          "    esac\n"
          "    if [[ $cur == -* || $verb == help || $verb == completion ]]; then\n"
          "        COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\"))\n"
          "        return\n"
          "    fi\n"
          "    # Names of models as well as files.\n"
          "    values=$(\"${COMP_WORDS[0]}\" list 2>/dev/null | awk 'NR > 1 { print $1 }')\n"
          "    COMPREPLY=($(compgen -W \"$values\" -- \"$cur\"))\n"
          "    compopt -o default 2>/dev/null\n"
          "}\n"
          "complete -F _sala sala\n",
          to);
}
