/* What a conversion will write: the source opened, its tensors in output order with their types. Internal to quant. */
#ifndef SALA_QUANT_PLAN_H
#define SALA_QUANT_PLAN_H

#include "quant/recipe.h"
#include "quant/stream.h"

#include "format/safetensors.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "text/tokenizer.h"

typedef struct sala_plan {
    const sala_quant_params *params;
    sala_recipe recipe; /* SALA_RECIPE_NONE: types stay */
    /* One of the two sources. */
    sala_gguf *gguf;
    sala_safetensors *st;
    bool has_config;
    sala_config config; /* of a directory always; of GGUF when has_config */
    const sala_family *family;
    sala_stream_item *items;
    size_t n_items, cap;
    sala_imatrix *imatrix;
    float *made[3]; /* contents of tensors that the source lacks: rope factors */
    int n_made;
    int n_fallback, n_importance;
} sala_plan;

void sala_plan_close(sala_plan *p); /* frees what p owns, not p */
void sala_plan_notice(const sala_plan *p, const char *fmt, ...) SALA_PRINTF(2, 3);
/* A new item at the end, zeroed but for its name. */
sala_status sala_plan_add(sala_plan *p, sala_stream_item **item, const char *name, sala_error *err);

/* Rope factors have no place in metadata: GGUF keeps them as small tensors, which this adds. */
sala_status sala_plan_add_rope_factors(sala_plan *p, sala_error *err);

/* p is zeroed but for params and recipe. */
sala_status sala_plan_from_dir(sala_plan *p, const char *dir, sala_error *err);
sala_status sala_plan_from_gguf(sala_plan *p, const char *path, sala_error *err);
/* Chooses the types of all items by the recipe and attaches importance. */
sala_status sala_plan_types(sala_plan *p, sala_error *err);

/* Metadata of the configuration and the types: all but the vocabulary. */
sala_status sala_plan_write_keys(const sala_plan *p, sala_gguf_writer *w, sala_error *err);
/* The vocabulary, and the chat template unless it is NULL; of a directory, which may have none. */
sala_status sala_plan_write_tokenizer(const sala_plan *p, const sala_tokenizer *t, const char *chat_template,
                                      sala_gguf_writer *w, sala_error *err);
sala_status sala_plan_write_text(const sala_plan *p, const char *dir, sala_gguf_writer *w, sala_error *err);

/* Fills the counts of *result from the plan. */
void sala_plan_result(const sala_plan *p, sala_quant_result *result);

#endif
