/* The families that can be run. A new one is a row here when its forward pass has only parts that exist already;
 * docs/families.md tells what else may be needed. */
#include "model/config.h"

static const sala_family families[] = {
    {.name = "llama", .hf_types = {"llama", "mistral"}, .hf_arch = "LlamaForCausalLM", .gguf_permuted = true},
    {.name = "minicpm",
     .hf_types = {"minicpm", "minicpm4"},
     .hf_arch = "MiniCPMForCausalLM",
     .gguf_permuted = true,
     .mup_scales = true},
    {.name = "qwen2", .hf_types = {"qwen2"}, .hf_arch = "Qwen2ForCausalLM", .qkv_bias = true},
    {.name = "qwen3", .hf_types = {"qwen3"}, .hf_arch = "Qwen3ForCausalLM", .qk_norm = true},
    {.name = "minicpm-sala",
     .hf_types = {"minicpm_sala"},
     .hf_arch = "MiniCPMSALAForCausalLM",
     .mup_scales = true,
     .hybrid = true},
    {.name = "hypenet", .hf_types = {"hypenet"}, .hf_arch = "HypeNetForCausalLM", .qk_norm = true, .hybrid = true},
};

const sala_family *sala_family_by_name(const char *gguf_architecture)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(families); i++)
        if (strcmp(families[i].name, gguf_architecture) == 0)
            return &families[i];
    return NULL;
}

const sala_family *sala_family_by_hf(const char *model_type)
{
    for (size_t i = 0; i < SALA_ARRAY_LEN(families); i++)
        for (const char *const *t = families[i].hf_types; *t; t++)
            if (strcmp(*t, model_type) == 0)
                return &families[i];
    return NULL;
}

const char *sala_family_names(void)
{
    return "llama, minicpm, qwen2, qwen3, minicpm-sala, hypenet";
}
