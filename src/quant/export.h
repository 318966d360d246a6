/* Parts of the way from GGUF to a Hugging Face directory. Internal to quant. */
#ifndef SALA_QUANT_EXPORT_H
#define SALA_QUANT_EXPORT_H

#include "quant/plan.h"

#include <jansson.h>

sala_status sala_export_write_file(const char *dir, const char *name, const char *text, size_t bytes, sala_error *err);
sala_status sala_export_write_json(const char *dir, const char *name, json_t *json, sala_error *err); /* takes json */

/* tokenizer.json and tokenizer_config.json; *written stays false, after a notice, when the vocabulary is of a kind that
 * tokenizer.json can not be made from. */
sala_status sala_export_tokenizer(const sala_plan *p, const char *dir, bool *written, sala_error *err);

#endif
