/* The parts of tokenizer.json, one function each; tokenizer_json.c puts them together. */
#ifndef SALA_TEXT_TOKENIZER_JSON_H
#define SALA_TEXT_TOKENIZER_JSON_H

#include "text/tokenizer_impl.h"

/* All accept JSON null: nothing to do. */
sala_status sala_json_normalizer(sala_tokenizer *t, const json_t *j, int depth, sala_error *err);
sala_status sala_json_pre_tokenizer(sala_tokenizer *t, const json_t *j, int depth, sala_error *err);
sala_status sala_json_decoder(sala_tokenizer *t, const json_t *j, sala_error *err);
sala_status sala_json_post_processor(sala_tokenizer *t, const json_t *j, int depth, sala_error *err);
/* tokenizer_config.json or special_tokens_map.json: names of special tokens, added tokens, add_bos_token. */
sala_status sala_json_config(sala_tokenizer *t, const json_t *config, sala_error *err);
/* One entry of added_tokens or added_tokens_decoder. */
sala_status sala_json_added_token(sala_tokenizer *t, int64_t id, const json_t *j, sala_error *err);

sala_status sala_json_load(json_t **out, const char *what, const char *json, size_t bytes, bool reject_duplicates,
                           sala_error *err);
/* "?" when the member is missing or no string. */
const char *sala_json_type(const json_t *j);
bool sala_json_flag(const json_t *j, const char *key, bool otherwise);

#endif
