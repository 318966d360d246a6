/* Which tokens of a conversation are learned. Results are written as text, what has labels in brackets, so that each
 * case says by itself what is right: everything that the model has to write after the generation prompt, with the token
 * that ends its turn, and nothing else. */
#include "unit/data/support.h"

#include "data/encode.h"

static const char chatml[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/* Turns without a header of the answer, an end that is a control token, content without white space around. */
static const char instruct[] =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content|trim }} "
    "[/INST]{% elif m.role == 'assistant' %} {{ m.content|trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}";
/* Earlier answers are written without their reasoning, so no prefix of the conversation is one of its text. */
static const char forgetful[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/* The same, and what it makes of an earlier answer is not in the answer. */
static const char shouting[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content|upper }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

typedef struct words {
    sala_tokenizer *tokenizer;
    sala_chat *chat;
} words;

static words open_words(const char *tokenizer, const char *template)
{
    char path[512];
    sala_error err = {0};
    words w = {0};
    snprintf(path, sizeof path, "%s/fixtures/tokenizers/%s.json", SALA_TEST_DIR, tokenizer);
    size_t bytes;
    uint8_t *json = test_read_file(path, &bytes);
    assert_ok(sala_tokenizer_from_json(&w.tokenizer, (const char *)json, bytes, NULL, 0, &err));
    assert_ok(sala_chat_open(&w.chat, template, strlen(template), "<s>", "</s>", &err));
    free(json);
    return w;
}

static void close_words(words *w)
{
    sala_chat_close(w->chat);
    sala_tokenizer_free(w->tokenizer);
}

static json_t *request_of(const char *messages)
{
    json_error_t where;
    json_t *m = json_loads(messages, 0, &where);
    if (!m)
        fail_msg("%s: %s", messages, where.text);
    return json_pack("{s:o}", "messages", m);
}

/* The conversation as text, what is learned in brackets. */
static char *marked(const words *w, const sala_ids *ids, const sala_buf *mask)
{
    sala_buf out = {0}, text = {0};
    sala_error err = {0};
    assert_int_equal(mask->len, ids->count);
    for (size_t at = 0, end, shown = 0; at < ids->count; at = end, shown = text.len) {
        const char learned = mask->data[at];
        assert_true(learned == 0 || learned == 1);
        for (end = at; end < ids->count && mask->data[end] == learned;)
            end++;
        /* From the beginning: some decoders take a space from the front of what they are given. */
        sala_buf_clear(&text);
        assert_ok(sala_tokenizer_decode(w->tokenizer, &text, ids->data, end, false, &err));
        sala_buf_add_str(&out, learned ? "[" : "");
        sala_buf_add(&out, text.data + shown, text.len - shown);
        sala_buf_add_str(&out, learned ? "]" : "");
    }
    sala_buf_free(&text);
    return sala_buf_take(&out, NULL);
}

static void check(const char *tokenizer, const char *template, const char *messages, const char *want)
{
    words w = open_words(tokenizer, template);
    json_t *request = request_of(messages);
    sala_error err = {0};
    sala_ids ids = {0}, plain = {0};
    sala_buf mask = {0};
    assert_ok(sala_chat_answers(w.chat, w.tokenizer, request, &ids, &mask, &err));
    /* The tokens are those that inference would make. */
    assert_ok(sala_chat_encode(w.chat, w.tokenizer, request, &plain, &err));
    assert_int_equal(ids.count, plain.count);
    assert_memory_equal(ids.data, plain.data, plain.count * sizeof *plain.data);
    char *got = marked(&w, &ids, &mask);
    assert_string_equal(got, want);
    free(got);
    sala_ids_free(&ids);
    sala_ids_free(&plain);
    sala_buf_free(&mask);
    json_decref(request);
    close_words(&w);
}

static void check_refused(const char *template, const char *messages, const char *fragment)
{
    words w = open_words("smollm", template);
    json_t *request = request_of(messages);
    sala_error err;
    sala_ids ids = {0};
    sala_buf mask = {0};
    assert_refused(sala_chat_answers(w.chat, w.tokenizer, request, &ids, &mask, &err), SALA_E_INVALID, fragment);
    sala_ids_free(&ids);
    sala_buf_free(&mask);
    json_decref(request);
    close_words(&w);
}

static void test_chatml(void **state)
{
    (void)state;
    check("smollm", chatml,
          "[{\"role\":\"user\",\"content\":\"Who are you?\"},{\"role\":\"assistant\",\"content\":\"A test.\"}]",
          "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n[A test.<|im_end|>]\n");
    check("smollm", chatml,
          "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"One\"},"
          "{\"role\":\"assistant\",\"content\":\"Two\"},{\"role\":\"user\",\"content\":\"Three\"},"
          "{\"role\":\"assistant\",\"content\":\"Four\"},{\"role\":\"user\",\"content\":\"Five\"}]",
          "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n"
          "[Two<|im_end|>]\n<|im_start|>user\nThree<|im_end|>\n<|im_start|>assistant\n[Four<|im_end|>]\n"
          "<|im_start|>user\nFive<|im_end|>\n");
    /* Two answers in a row, and one without a question. */
    check("smollm", chatml,
          "[{\"role\":\"assistant\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"there\"}]",
          "<|im_start|>assistant\n[Hi<|im_end|>]\n<|im_start|>assistant\n[there<|im_end|>]\n");
    check("smollm", chatml, "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"model\",\"content\":\"y\"}]",
          "<|im_start|>user\nx<|im_end|>\n<|im_start|>model\n[y<|im_end|>]\n");
}

static void test_tools(void **state)
{
    (void)state;
    check("smollm", chatml,
          "[{\"role\":\"user\",\"content\":\"Time?\"},{\"role\":\"assistant\",\"content\":\"<tool>now()</tool>\"},"
          "{\"role\":\"tool\",\"content\":\"12:00\"},{\"role\":\"assistant\",\"content\":\"Noon.\"}]",
          "<|im_start|>user\nTime?<|im_end|>\n<|im_start|>assistant\n[<tool>now()</tool><|im_end|>]\n"
          "<|im_start|>tool\n12:00<|im_end|>\n<|im_start|>assistant\n[Noon.<|im_end|>]\n");
}

static void test_empty_answers(void **state)
{
    (void)state;
    check("smollm", chatml,
          "[{\"role\":\"user\",\"content\":\"Say nothing.\"},{\"role\":\"assistant\",\"content\":\"\"},"
          "{\"role\":\"user\",\"content\":\"Good.\"},{\"role\":\"assistant\",\"content\":\" \"}]",
          "<|im_start|>user\nSay nothing.<|im_end|>\n<|im_start|>assistant\n[<|im_end|>]\n<|im_start|>user\nGood."
          "<|im_end|>\n<|im_start|>assistant\n[ <|im_end|>]\n");
}

/* What spells a control token is text, and no end. */
static void test_spelt_control_tokens(void **state)
{
    (void)state;
    check("smollm", chatml,
          "[{\"role\":\"user\",\"content\":\"<|im_start|>assistant\\nNo.\"},"
          "{\"role\":\"assistant\",\"content\":\"Write <|im_end|> to end.\"}]",
          "<|im_start|>user\n<|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>assistant\n"
          "[Write <|im_end|> to end.<|im_end|>]\n");
}

static void test_instruct(void **state)
{
    (void)state;
    static const char messages[] =
        "[{\"role\":\"user\",\"content\":\" One \"},{\"role\":\"assistant\",\"content\":\"Two \"},"
        "{\"role\":\"user\",\"content\":\"One\"},{\"role\":\"assistant\",\"content\":\"One\"}]";
    check("smollm", instruct, messages, "<s>[INST] One [/INST][ Two</s>][INST] One [/INST][ One</s>]");
    check("llama-first", instruct, messages, "<s>[INST] One [/INST][ Two</s>][INST] One [/INST][ One</s>]");
}

static void test_rewritten_history(void **state)
{
    (void)state;
    static const char messages[] = "[{\"role\":\"user\",\"content\":\"Two\"},{\"role\":\"assistant\",\"content\":\"<"
                                   "think>\\nhm\\n</think>\\n\\nTwo\"},"
                                   "{\"role\":\"user\",\"content\":\"Two?\"},{\"role\":\"assistant\",\"content\":\"<"
                                   "think>\\nso\\n</think>\\n\\nYes\"}]";
    static const char want[] =
        "<|im_start|>user\nTwo<|im_end|>\n<|im_start|>assistant\n[Two<|im_end|>]\n<|im_start|>user\n"
        "Two?<|im_end|>\n<|im_start|>assistant\n[<think>\nso\n</think>\n\nYes<|im_end|>]\n";
    check("smollm", forgetful, messages, want);
    char with_bos[512];
    snprintf(with_bos, sizeof with_bos, "<s>%s", want); /* which that tokenizer puts in front */
    check("llama-first", forgetful, messages, with_bos);
    check_refused(shouting, messages, "message 1: the chat template does not write it as it stands");
    /* What looks like the answer is what the user says next. */
    check_refused(shouting,
                  "[{\"role\":\"user\",\"content\":\"b\"},{\"role\":\"assistant\",\"content\":\"a\"},"
                  "{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"c\"}]",
                  "message 2: the chat template does not write it");
}

static void test_refusals(void **state)
{
    (void)state;
    check_refused(chatml, "[{\"role\":\"user\",\"content\":\"Hi\"}]", "no message has the role 'assistant'");
    check_refused(chatml, "[]", "no message has the role 'assistant'");
    check_refused("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
                  "[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"Ho\"}]", "answer");
    words w = open_words("smollm", "{{ raise_exception('never') }}");
    json_t *request = request_of("[{\"role\":\"assistant\",\"content\":\"Ho\"}]");
    sala_error err;
    sala_ids ids = {0};
    sala_buf mask = {0};
    assert_refused(sala_chat_answers(w.chat, w.tokenizer, request, &ids, &mask, &err), SALA_E_TEMPLATE, "never");
    sala_ids_free(&ids);
    sala_buf_free(&mask);
    json_decref(request);
    close_words(&w);
}

/* Behind what is there already. */
static void test_appends(void **state)
{
    (void)state;
    words w = open_words("smollm", chatml);
    json_t *request = request_of("[{\"role\":\"assistant\",\"content\":\"Hi\"}]");
    sala_error err = {0};
    sala_ids ids = {0};
    sala_buf mask = {0};
    for (int i = 0; i < 2; i++)
        assert_ok(sala_chat_answers(w.chat, w.tokenizer, request, &ids, &mask, &err));
    char *got = marked(&w, &ids, &mask);
    assert_string_equal(got, "<|im_start|>assistant\n[Hi<|im_end|>]\n<|im_start|>assistant\n[Hi<|im_end|>]\n");
    free(got);
    sala_ids_free(&ids);
    sala_buf_free(&mask);
    json_decref(request);
    close_words(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chatml),        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_empty_answers), cmocka_unit_test(test_spelt_control_tokens),
        cmocka_unit_test(test_instruct),      cmocka_unit_test(test_rewritten_history),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_appends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
