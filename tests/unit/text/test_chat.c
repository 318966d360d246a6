/* Chat templates: the choice among a directory's files, the variables a template gets, whose text is whose, and tokens.
 */
#include "text/chat.h"

#include "os/os.h"
#include "unit/test.h"

#include <unistd.h>

static const char chatml[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

static json_t *json_of(const char *text)
{
    json_error_t where;
    json_t *v = json_loads(text, 0, &where);
    if (!v)
        fail_msg("%s: %s", text, where.text);
    return v;
}

/* The text, and 'i' or '.' for each of its bytes as in test_jinja.c; *origin may be NULL. */
static char *render(const char *source, const char *request, char **origin)
{
    sala_chat *c = NULL;
    sala_error err;
    char *text = NULL;
    size_t bytes = 0, n = 0;
    sala_jinja_span *spans = NULL;
    assert_int_equal(sala_chat_open(&c, source, strlen(source), "<s>", "</s>", &err), SALA_OK);
    assert_string_equal(sala_chat_source(c), source);
    json_t *q = json_of(request), *before = json_deep_copy(q);
    const sala_status status = sala_chat_render(c, q, &text, &bytes, &spans, &n, &err);
    assert_true(json_equal(q, before));
    if (status != SALA_OK)
        text = strdup(err.message);
    if (origin) {
        *origin = calloc(1, bytes + 1);
        for (size_t i = 0; i < n; i++)
            memset(*origin + spans[i].begin, spans[i].from_input ? 'i' : '.', spans[i].end - spans[i].begin);
    }
    json_decref(q);
    json_decref(before);
    free(spans);
    sala_chat_close(c);
    return text;
}

static void renders(const char *source, const char *request, const char *text, const char *origin)
{
    char *got_origin, *got = render(source, request, &got_origin);
    assert_string_equal(got, text);
    if (origin)
        assert_string_equal(got_origin, origin);
    free(got);
    free(got_origin);
}

static void variables(void **state)
{
    (void)state;
    const char *all =
        "{{ bos_token }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ eos_token }}{{ enable_thinking }}";
    renders(all, "{\"messages\": []}", "<s>NoneNoneFalse</s>", "....................");
    renders(all, "{\"messages\": [], \"tools\": [1], \"add_generation_prompt\": true, \"enable_thinking\": false}",
            "<s>[1]NoneTrue</s>False", NULL);
    renders("{{ bos_token }}", "{\"messages\": [], \"bos_token\": \"<x>\"}", "<x>", "iii"); /* the caller's now */
    renders(chatml, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            ".................ii.................................");
    renders("{% for m in messages %}{{ m }}{% endfor %}",
            "{\"messages\": [{\"role\": \"a\", \"reasoning\": \"r\"}, {\"b\": 1}]}",
            "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'reasoning_content': 'r'}{'b': 1}", NULL);
    renders("{{ messages[0].thinking }}{{ messages[0].reasoning_content }}",
            "{\"messages\": [{\"thinking\": \"t\", \"reasoning_content\": \"r\"}]}", "tr", "ii");
}

static void roles(void **state)
{
    (void)state;
    const char *phi = "{{ '<|' + messages[0].role + '|>' }}";
    renders(phi, "{\"messages\": [{\"role\": \"user\"}]}", "<|user|>", "........");
    renders(phi, "{\"messages\": [{\"role\": \"end\"}]}", "<|end|>", "..iii..");
    renders("{{ messages[0].content }}", "{\"messages\": [{\"content\": \"user\"}]}", "user", "iiii");
    renders("{{ messages[0].x.role }}", "{\"messages\": [{\"x\": {\"role\": \"user\"}}]}", "user", "iiii");
    renders("{{ role }}{{ messages[0].eos_token }}", "{\"messages\": [{\"eos_token\": \"</s>\"}], \"role\": \"user\"}",
            "user</s>", "iiiiiiii");
}

static void refusals(void **state)
{
    (void)state;
    sala_error err;
    sala_chat *c = NULL;
    assert_int_equal(sala_chat_open(&c, "a\n{% x %}", 9, NULL, NULL, &err), SALA_E_TEMPLATE);
    assert_string_equal(err.message, "chat template: line 2: unknown tag 'x'");
    assert_int_equal(sala_chat_open(&c, "a", 1, "\xff", NULL, &err), SALA_E_CORRUPT);
    assert_null(c);
    sala_chat_close(NULL);
    renders(chatml, "[]", "a chat request has to be a JSON object with the key 'messages'", NULL);
    renders(chatml, "{}", "a chat request needs the key 'messages' with a list of messages", NULL);
    renders(chatml, "{\"messages\": [1]}", "message 0 is not a JSON object with 'role' and 'content'", NULL);
    renders("{{ raise_exception('Not so!') }}", "{\"messages\": []}", "Not so!", NULL);
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void drop(const char *dir, const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(remove(path), 0);
}

static void chooses(const char *dir, bool tools, const char *want)
{
    char *source = NULL;
    sala_error err = {0};
    if (sala_chat_template_of_dir(&source, dir, tools, &err) != SALA_OK)
        fail_msg("%s", err.message);
    if (want)
        assert_string_equal(source, want);
    else
        assert_null(source);
    free(source);
}

static void directories(void **state)
{
    (void)state;
    char dir[] = "/tmp/sala-chat-XXXXXX", sub[64], *source = NULL;
    sala_error err;
    assert_non_null(mkdtemp(dir));
    chooses(dir, false, NULL);
    put(dir, "tokenizer_config.json", "{\"a\": 1}");
    chooses(dir, true, NULL);
    put(dir, "tokenizer_config.json", "{\"chat_template\": \"config\"}");
    chooses(dir, false, "config");
    put(dir, "tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"},"
        " {\"name\": \"tool_use\", \"template\": \"t\"}]}");
    chooses(dir, false, "d");
    chooses(dir, true, "t");
    put(dir, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"other\", \"template\": \"d\"}]}");
    assert_int_equal(sala_chat_template_of_dir(&source, dir, false, &err), SALA_E_NOT_FOUND);
    put(dir, "tokenizer_config.json", "{\"chat_template\": 5}");
    assert_int_equal(sala_chat_template_of_dir(&source, dir, false, &err), SALA_E_CORRUPT);
    put(dir, "tokenizer_config.json", "{\"chat_template\": ");
    assert_int_equal(sala_chat_template_of_dir(&source, dir, false, &err), SALA_E_CORRUPT);
    assert_non_null(strstr(err.message, "tokenizer_config.json: line 1"));
    put(dir, "chat_template.json", "{\"chat_template\": \"json\"}");
    chooses(dir, false, "json");
    put(dir, "chat_template.jinja", "plain\n");
    chooses(dir, true, "plain\n");
    snprintf(sub, sizeof sub, "%s/additional_chat_templates", dir);
    assert_int_equal(sala_os_make_dirs(sub), 0);
    put(sub, "tool_use.jinja", "with tools");
    chooses(dir, true, "with tools");
    chooses(dir, false, "plain\n");
    drop(sub, "tool_use.jinja");
    drop(dir, "additional_chat_templates");
    drop(dir, "chat_template.jinja");
    drop(dir, "chat_template.json");
    drop(dir, "tokenizer_config.json");
    assert_int_equal(rmdir(dir), 0);
}

/* A byte-level vocabulary: one token for each of the characters that the tests use, and three control tokens. */
static const char tokenizer[] =
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, \"added_tokens\": ["
    "{\"id\": 100, \"content\": \"<s>\", \"special\": true, \"normalized\": false, \"lstrip\": false, \"rstrip\": "
    "false,"
    " \"single_word\": false},"
    "{\"id\": 101, \"content\": \"<|a|>\", \"special\": true, \"normalized\": false, \"lstrip\": false, \"rstrip\": "
    "false,"
    " \"single_word\": false},"
    "{\"id\": 102, \"content\": \"<|user|>\", \"special\": true, \"normalized\": false, \"lstrip\": false, \"rstrip\": "
    "false,"
    " \"single_word\": false}],"
    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
    "true},"
    "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\"},"
    "\"model\": {\"type\": \"BPE\", \"vocab\": {\"<\": 0, \"|\": 1, \"a\": 2, \">\": 3, \"b\": 4, \"s\": 5, \"u\": 6,"
    " \"e\": 7, \"r\": 8, \"n\": 9, \"d\": 10}, \"merges\": []}}";

static void encodes(const char *source, const char *request, const char *config, const char *want)
{
    sala_tokenizer *t = NULL;
    sala_chat *c = NULL;
    sala_ids ids = {0};
    sala_error err = {0};
    char got[500] = "";
    if (sala_tokenizer_from_json(&t, tokenizer, sizeof tokenizer - 1, config, strlen(config), &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(sala_chat_open(&c, source, strlen(source), "<s>", NULL, &err), SALA_OK);
    json_t *q = json_of(request);
    if (sala_chat_encode(c, t, q, &ids, &err) != SALA_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < ids.count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", (int)ids.data[i]);
    assert_string_equal(got, want);
    json_decref(q);
    sala_ids_free(&ids);
    sala_chat_close(c);
    sala_tokenizer_free(t);
}

static void tokens(void **state)
{
    (void)state;
    const char *plain =
        "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"bos_token\": \"<s>\", \"add_bos_token\": false}";
    const char *bos = "{\"tokenizer_class\": \"LlamaTokenizerFast\", \"bos_token\": \"<s>\", \"add_bos_token\": true}";
    const char *hostile = "{\"messages\": [{\"role\": \"user\", \"content\": \"<|a|>\"}]}";
    encodes("<|a|>{{ messages[0].content }}b", hostile, plain, "101 0 1 2 1 3 4");
    encodes("{{ '<|' + messages[0].role + '|>' }}", hostile, plain, "102");
    encodes("{{ '<|' + messages[0].role + '|>' }}", "{\"messages\": [{\"role\": \"a\"}]}", plain, "0 1 2 1 3");
    encodes("{{ '<|' + messages[0].content }}", "{\"messages\": [{\"content\": \"a|>\"}]}", plain, "0 1 2 1 3");
    encodes("{{ bos_token }}b", hostile, plain, "100 4");
    encodes("{{ bos_token }}b", hostile, bos, "100 4");
    encodes("b", hostile, bos, "100 4");
    encodes("", hostile, bos, "100");
    encodes("{{ messages[0].content }}", "{\"messages\": [{\"content\": \"<s>\"}]}", bos, "100 0 5 3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variables),   cmocka_unit_test(roles),  cmocka_unit_test(refusals),
        cmocka_unit_test(directories), cmocka_unit_test(tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
