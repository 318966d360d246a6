/* Which type a tensor gets. Internal to quant; the names of recipes are in quant.h. */
#ifndef SALA_QUANT_RECIPE_H
#define SALA_QUANT_RECIPE_H

#include "quant/quant.h"

/* What the choice looks at besides the tensor. */
typedef struct sala_recipe_model {
    const char *architecture;
    int64_t n_layers, n_heads, n_kv_heads;
    int64_t n_attn_v; /* tensors named attn_v, attn_qkv or attn_kv_b */
    bool tied;        /* no output.weight: the embedding is the head too */
    bool has_importance;
} sala_recipe_model;

typedef struct sala_recipe_plan sala_recipe_plan; /* a recipe with the user's overrides, checked and compiled */

/* type: a recipe's name. Strings are only read during the call. */
sala_status sala_recipe_plan_open(sala_recipe_plan **out, const sala_quant_params *params, sala_recipe recipe,
                                  sala_error *err);
void sala_recipe_plan_close(sala_recipe_plan *p); /* NULL is fine */

/* The type of a tensor with GGUF name `name`, or SALA_DTYPE_NONE when it keeps its type or, coming from a checkpoint,
 * becomes F32 (vectors, norms). *fallback: the recipe's choice does not divide the rows. */
sala_dtype sala_recipe_choose(const sala_recipe_plan *p, const sala_recipe_model *model, const char *name, int n_dims,
                              int64_t row, bool *fallback);

#endif
