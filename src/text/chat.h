/* Chat templates: which template of a model to use, what variables it gets, and how its output becomes tokens. */
#ifndef SALA_TEXT_CHAT_H
#define SALA_TEXT_CHAT_H

#include "text/jinja.h"
#include "text/tokenizer.h"

typedef struct sala_chat sala_chat;

/* From Jinja source (GGUF key tokenizer.chat_template, chat_template.jinja, tokenizer_config.json). bos/eos are the
 * texts that the template's variables bos_token and eos_token get; may be NULL. */
sala_status sala_chat_open(sala_chat **out, const char *source, size_t bytes, const char *bos, const char *eos,
                           sala_error *err);
/* The template of a Hugging Face directory, wherever it stands: chat_template.jinja, chat_template.json or
 * tokenizer_config.json (a string, or a list of named templates: "default"; "tool_use" when the request has tools).
 * *source is NULL when there is none. Owned by the caller (free). */
sala_status sala_chat_template_of_dir(char **source, const char *dir, bool tools, sala_error *err);
void sala_chat_close(sala_chat *c);
const char *sala_chat_source(const sala_chat *c);

/* request: {"messages":[...], "tools":[...], "add_generation_prompt":bool, ...}; every other key becomes a variable of
 * the template. Output as sala_jinja_render(). */
sala_status sala_chat_render(const sala_chat *c, const json_t *request, char **text, size_t *bytes,
                             sala_jinja_span **spans, size_t *n_spans, sala_error *err);
/* The same as tokens: control tokens are recognised in the template's own spans only; BOS is added when the tokenizer
 * adds one and the text does not begin with it. */
sala_status sala_chat_encode(const sala_chat *c, const sala_tokenizer *t, const json_t *request, sala_ids *ids,
                             sala_error *err);

#endif
