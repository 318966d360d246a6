/* Pre-tokenizers by name and by expression: which regular expressions have a scanner, and which names GGUF files use
 * for which list of expressions. Facts: tokenizer.json files of the models, and the names of llama.cpp. */
#include "text/tokenizer_impl.h"

#define CONTRACTIONS_FOLD "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CONTRACTIONS_BOTH "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define MODERN(numbers)                                                                                                \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define MODERN_MARKS                                                                                                   \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "                                                                  \
    "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K                                                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS_FOLD "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER          \
    "*" CONTRACTIONS_FOLD "?|\\p{N}{1,3}" O200K_TAIL
#define TEKKEN "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}" O200K_TAIL
#define BLOOM " ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]+"

const char sala_regex_gpt2[] = GPT2 "|\\s+";

/* In these expressions each space is one; a case-folded group and its spelled-out twin differ only in U+017F, which
 * belongs to the folded one as the original says. */
static const struct {
    const char *regex;
    sala_scan scan;
} families[] = {
    {GPT2 "|\\s+", {.modern = false}},
    {GPT2, {.modern = false}},
    {CONTRACTIONS_FOLD MODERN("\\p{N}{1,3}"), {.modern = true, .digits = 3}},
    {CONTRACTIONS_BOTH MODERN("\\p{N}{1,3}"), {.modern = true, .digits = 3}},
    {CONTRACTIONS_FOLD MODERN("\\p{N}"), {.modern = true, .digits = 1}},
    {CONTRACTIONS_BOTH MODERN("\\p{N}"), {.modern = true, .digits = 1}},
    {CONTRACTIONS_FOLD MODERN("\\p{N}+"), {.modern = true, .digits = 0}},
    {CONTRACTIONS_BOTH MODERN("\\p{N}+"), {.modern = true, .digits = 0}},
    {CONTRACTIONS_FOLD MODERN_MARKS, {.modern = true, .digits = 1, .marks = true}},
};

static const char *const regex_gpt2[] = {GPT2 "|\\s+", NULL};
static const char *const regex_smollm[] = {"\\p{N}", GPT2 "|\\s+", NULL};
static const char *const regex_llama3[] = {CONTRACTIONS_FOLD MODERN("\\p{N}{1,3}"), NULL};
static const char *const regex_qwen2[] = {CONTRACTIONS_FOLD MODERN("\\p{N}"), NULL};
static const char *const regex_qwen35[] = {CONTRACTIONS_FOLD MODERN_MARKS, NULL};
static const char *const regex_minicpm5[] = {"\\p{N}{1,3}", CONTRACTIONS_FOLD MODERN("\\p{N}+"), NULL};
static const char *const regex_default[] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]", NULL};
static const char *const regex_falcon[] = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]", NULL};
static const char *const regex_o200k[] = {O200K, NULL};
static const char *const regex_tekken[] = {TEKKEN, NULL};
static const char *const regex_bloom[] = {BLOOM, NULL};
static const char *const regex_viking[] = {BLOOM, "\\p{N}", NULL};
static const char *const regex_deepseek3[] = {
    "\\p{N}{1,3}", "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    NULL};

/* For each list of expressions the first name is the one that is written. */
static const struct {
    const char *name;
    const char *const *regexes;
    bool ignore_merges;
} names[] = {
    {"gpt-2", regex_gpt2, false},        {"phi-2", regex_gpt2, false},
    {"jina-es", regex_gpt2, false},      {"jina-de", regex_gpt2, false},
    {"jina-v2-es", regex_gpt2, false},   {"jina-v2-de", regex_gpt2, false},
    {"jina-v2-code", regex_gpt2, false}, {"roberta-bpe", regex_gpt2, false},
    {"gigachat", regex_gpt2, false},     {"a.x-4.0", regex_gpt2, false},
    {"mellum", regex_gpt2, false},       {"modern-bert", regex_gpt2, false},
    {"exaone4", regex_gpt2, false},      {"mpt", regex_gpt2, false},
    {"olmo", regex_gpt2, false},         {"jais", regex_gpt2, false},
    {"trillion", regex_gpt2, false},     {"granite-docling", regex_gpt2, false},
    {"smollm", regex_smollm, false},     {"starcoder", regex_smollm, false},
    {"refact", regex_smollm, false},     {"command-r", regex_smollm, false},
    {"codeshell", regex_smollm, false},  {"exaone", regex_smollm, false},
    {"minerva-7b", regex_smollm, false}, {"mellum2", regex_smollm, false},
    {"llama-bpe", regex_llama3, true},   {"llama3", regex_llama3, true},
    {"llama-v3", regex_llama3, true},    {"falcon3", regex_llama3, true},
    {"falcon-h1", regex_llama3, true},   {"pixtral", regex_llama3, true},
    {"midm-2.0", regex_llama3, true},    {"lfm2", regex_llama3, true},
    {"dbrx", regex_llama3, false},       {"smaug-bpe", regex_llama3, false},
    {"glm4", regex_llama3, false},       {"chatglm-bpe", regex_llama3, false},
    {"qwen2", regex_qwen2, false},       {"deepseek-r1-qwen", regex_qwen2, false},
    {"stablelm2", regex_qwen2, false},   {"hunyuan", regex_qwen2, false},
    {"megrez", regex_qwen2, false},      {"solar-open", regex_qwen2, false},
    {"grok-2", regex_qwen2, false},      {"qwen35", regex_qwen35, false},
    {"minicpm5", regex_minicpm5, false}, {"default", regex_default, false},
    {"falcon", regex_falcon, false},     {"gpt-4o", regex_o200k, false},
    {"llama4", regex_o200k, false},      {"minimax-m2", regex_o200k, false},
    {"tekken", regex_tekken, true},      {"bloom", regex_bloom, false},
    {"poro-chat", regex_bloom, false},   {"gpt3-finnish", regex_bloom, false},
    {"viking", regex_viking, false},     {"deepseek-v3", regex_deepseek3, false},
};

sala_status sala_pretok_regex(sala_pretok_step *step, const char *s, size_t n, sala_split_behavior behavior,
                              bool invert, sala_error *err)
{
    *step = (sala_pretok_step){.kind = SALA_PT_REGEX, .behavior = behavior, .invert = invert};
    const bool keeps_matches = behavior == SALA_SPLIT_ISOLATED || (behavior == SALA_SPLIT_REMOVED && invert);
    sala_status st = SALA_OK;
    bool known = false;
    for (size_t i = 0; i < SALA_ARRAY_LEN(families) && keeps_matches && !known; i++) {
        if (strlen(families[i].regex) != n || memcmp(families[i].regex, s, n) != 0)
            continue;
        /* Without its last alternative GPT-2's expression leaves gaps, which only ISOLATED keeps. */
        if (i == 1 && behavior != SALA_SPLIT_ISOLATED)
            continue;
        step->kind = SALA_PT_SCAN;
        step->scan = families[i].scan;
        known = true;
    }
    if (!known && behavior == SALA_SPLIT_ISOLATED && n == 5 && memcmp(s, "\\p{N}", n) == 0) {
        step->kind = SALA_PT_DIGITS;
        known = true;
    }
    if (!known)
        st = sala_regex_compile(&step->regex, s, n, err);
    if (st == SALA_OK && (step->text = sala_strndup(s, n)) == NULL)
        st = sala_fail_memory(err, n);
    step->text_len = n;
    if (st != SALA_OK)
        sala_pretok_step_free(step);
    return st;
}

sala_status sala_pretok_by_name(sala_pretok_step *steps, int *n_steps, bool *ignore_merges, const char *name,
                                size_t len, sala_error *err)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
        if (strlen(names[i].name) != len || memcmp(names[i].name, name, len) != 0)
            continue;
        *n_steps = 0;
        *ignore_merges = names[i].ignore_merges;
        for (const char *const *r = names[i].regexes; *r != NULL; r++) {
            const sala_status st = sala_pretok_regex(&steps[*n_steps], *r, strlen(*r), SALA_SPLIT_ISOLATED, false, err);
            if (st != SALA_OK) {
                while (*n_steps > 0)
                    sala_pretok_step_free(&steps[--*n_steps]);
                return st;
            }
            ++*n_steps;
        }
        return SALA_OK;
    }
    return sala_fail(
        err, SALA_E_UNSUPPORTED,
        "tokenizer.ggml.pre is \"%.*s\", a pre-tokenizer that is not known; known are gpt-2, smollm, llama-bpe, "
        "qwen2, qwen35, minicpm5, default, gpt-4o, tekken, deepseek-v3, falcon, bloom and their relatives",
        len > 60 ? 60 : (int)len, name);
}

const char *sala_pretok_known_name(const char *name, size_t len)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++)
        if (strlen(names[i].name) == len && memcmp(names[i].name, name, len) == 0)
            return names[i].name;
    return NULL;
}

static bool same_scan(const sala_scan *a, const sala_scan *b)
{
    return a->modern == b->modern && a->digits == b->digits && a->marks == b->marks;
}

/* Whether a step does what the expression does. */
static bool step_is(const sala_pretok_step *s, const char *regex)
{
    if (s->kind == SALA_PT_DIGITS)
        return s->behavior == SALA_SPLIT_ISOLATED && !s->invert && strcmp(regex, "\\p{N}") == 0;
    if (s->kind == SALA_PT_SCAN) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(families); i++)
            if (strcmp(families[i].regex, regex) == 0)
                return same_scan(&families[i].scan, &s->scan);
        return false;
    }
    return s->kind == SALA_PT_REGEX && s->behavior == SALA_SPLIT_ISOLATED && !s->invert && strcmp(s->text, regex) == 0;
}

const char *sala_pretok_name(const sala_pretok_step *steps, int n_steps, bool ignore_merges)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(names); i++) {
            int n = 0;
            while (names[i].regexes[n] != NULL && n < n_steps && step_is(&steps[n], names[i].regexes[n]))
                n++;
            /* The second pass takes a name that differs in ignore_merges: with merges that make every piece reachable
             * both give the same ids. */
            if (names[i].regexes[n] == NULL && n == n_steps && (pass == 1 || names[i].ignore_merges == ignore_merges))
                return names[i].name;
        }
    }
    return NULL;
}
