/* Tokenizer and chat template without weights or config: what tokenize, detokenize and template need. Reads GGUF files,
 * Hugging Face directories however bare, and a lone tokenizer.json or tokenizer.model. */
#ifndef SALA_CLI_VOCAB_H
#define SALA_CLI_VOCAB_H

#include "cli.h"
#include "text/chat.h"
#include "text/tokenizer.h"

typedef struct cli_vocab {
    char *path;
    sala_gguf *gguf;           /* NULL for directories */
    sala_tokenizer *tokenizer; /* NULL when there is none and it was not asked for */
} cli_vocab;

/* Opens what MODEL names; all_parts: also the weights' parts of a split GGUF set. Returns 0 or an exit code after an
 * error message. */
int cli_vocab_open(cli_vocab *v, const cli_options *o, bool need_tokenizer, bool all_parts);
void cli_vocab_close(cli_vocab *v);

/* The Jinja source, owned by the caller; *source is NULL when the model has none. `tools`: the request has tools. */
sala_status cli_vocab_template(const cli_vocab *v, char **source, bool tools, sala_error *err);
/* Compiled, with the texts of BOS and EOS that the template's variables get. */
int cli_vocab_chat(const cli_vocab *v, sala_chat **chat, bool tools);

#endif
