/* Text to token ids and back, exactly as the model's own tokenizer does it.
 * Kinds: SentencePiece-style BPE (by score or by merge rank) and unigram, both with byte fallback; byte-level BPE with
 * a pre-tokenizer. Sources: GGUF metadata, tokenizer.json (+ tokenizer_config.json), SentencePiece tokenizer.model. A
 * tokenizer is immutable and may be shared by threads; encode uses only stack and heap of its own. */
#ifndef SALA_TEXT_TOKENIZER_H
#define SALA_TEXT_TOKENIZER_H

#include "base/base.h"
#include "format/gguf.h"

typedef struct sala_tokenizer sala_tokenizer;

sala_status sala_tokenizer_from_gguf(sala_tokenizer **out, const sala_gguf *g, sala_error *err);
/* DIR with tokenizer.json (preferred) or tokenizer.model, and tokenizer_config.json, special_tokens_map.json,
 * added_tokens.json when there. */
sala_status sala_tokenizer_from_dir(sala_tokenizer **out, const char *dir, sala_error *err);
/* The bare formats, over bytes (for tests and fuzzing); config_json (tokenizer_config.json) may be NULL. */
sala_status sala_tokenizer_from_json(sala_tokenizer **out, const char *json, size_t bytes, const char *config_json,
                                     size_t config_bytes, sala_error *err);
sala_status sala_tokenizer_from_spm(sala_tokenizer **out, const void *data, size_t bytes, sala_error *err);
void sala_tokenizer_free(sala_tokenizer *t);

int32_t sala_tokenizer_n_vocab(const sala_tokenizer *t);  /* highest id + 1 */
const char *sala_tokenizer_kind(const sala_tokenizer *t); /* "byte-level BPE", "SentencePiece BPE", "unigram" */
const char *sala_tokenizer_pre(const sala_tokenizer *t);  /* pre-tokenizer's name, e.g. "smollm"; "none" */
int32_t sala_tokenizer_bos(const sala_tokenizer *t);      /* -1: none; as the files say, whether it is added or not */
int32_t sala_tokenizer_eos(const sala_tokenizer *t);
int32_t sala_tokenizer_pad(const sala_tokenizer *t);
int32_t sala_tokenizer_unk(const sala_tokenizer *t);
bool sala_tokenizer_adds_bos(const sala_tokenizer *t);
bool sala_tokenizer_adds_eos(const sala_tokenizer *t);
bool sala_tokenizer_is_special(const sala_tokenizer *t, int32_t id); /* control token */
/* The vocabulary's own spelling of the token, not NUL-terminated; false when there is no such id. */
bool sala_tokenizer_piece(const sala_tokenizer *t, int32_t id, const char **s, size_t *len);
int32_t sala_tokenizer_find(const sala_tokenizer *t, const char *piece, size_t len); /* -1 when absent */

typedef struct sala_ids {
    int32_t *data;
    size_t count, cap;
} sala_ids;
void sala_ids_free(sala_ids *ids);

/* A piece of input: text, and whether control tokens may be recognised in it. Adjacent spans are one text for the
 * ordinary tokenizer unless a control token stands between them. */
typedef struct sala_text_span {
    const char *text;
    size_t bytes;
    bool parse_special;
} sala_text_span;

/* Appends to *ids. add_special: BOS/EOS as the tokenizer does by itself. Invalid UTF-8 is replaced by U+FFFD as Hugging
 * Face does for lossy input. Fails only when memory is out or the input is larger than 2^31 bytes. */
sala_status sala_tokenizer_encode(const sala_tokenizer *t, sala_ids *ids, const sala_text_span *spans, size_t n_spans,
                                  bool add_special, sala_error *err);

/* Appends the text of the ids to *out, as `decode` of Hugging Face without clean-up of spaces. SALA_E_INVALID for an id
 * that the vocabulary lacks. */
sala_status sala_tokenizer_decode(const sala_tokenizer *t, sala_buf *out, const int32_t *ids, size_t n_ids,
                                  bool skip_special, sala_error *err);

/* Streaming: bytes go out as soon as they are whole characters; the sum of all pushes and the final flush equals
 * decode() of all ids (invalid bytes become U+FFFD in both). */
typedef struct sala_detokenizer sala_detokenizer;
sala_status sala_detokenizer_open(sala_detokenizer **out, const sala_tokenizer *t, bool skip_special, sala_error *err);
void sala_detokenizer_close(sala_detokenizer *d);
void sala_detokenizer_reset(sala_detokenizer *d);
sala_status sala_detokenizer_push(sala_detokenizer *d, int32_t id, sala_buf *out, sala_error *err);
void sala_detokenizer_flush(sala_detokenizer *d, sala_buf *out);

/* For writers of GGUF and other converters: everything that GGUF's tokenizer.ggml.* keys need, or an error that says
 * why this tokenizer cannot be written so. Writes the keys into w. `n_embd_rows`: the vocabulary is padded to this
 * size. *notice (may be NULL): a line that users should read, static, or NULL: other programs will not tokenise from
 * this file exactly as sala does. */
sala_status sala_tokenizer_write_gguf(const sala_tokenizer *t, sala_gguf_writer *w, int32_t n_embd_rows,
                                      const char **notice, sala_error *err);

#endif
