#include "model/checkpoint.h"

#include "os/os.h"

#include <stdlib.h>

sala_status sala_checkpoint_open(sala_checkpoint *out, const char *path, bool want_weights, sala_error *err)
{
    sala_checkpoint c = {.hf = sala_os_is_dir(path)};
    sala_status st = SALA_OK;
    c.path = sala_strdup(path);
    if (!c.path)
        return sala_fail_memory(err, strlen(path));
    if (c.hf) {
        st = sala_config_from_dir(&c.config, path, err);
        if (st == SALA_OK && want_weights) {
            st = sala_safetensors_open(&c.st, path, err);
            if (st == SALA_OK)
                st = sala_config_fit_lightning(&c.config, c.st, err);
        }
    } else {
        st = sala_gguf_open(&c.gguf, path, err);
        if (st == SALA_OK) {
            st = sala_config_from_gguf(&c.config, c.gguf, err);
            if (st != SALA_OK)
                sala_fail_prefix(err, st, "%s", path);
        }
    }
    if (st != SALA_OK) {
        sala_checkpoint_close(&c);
        return st;
    }
    *out = c;
    return SALA_OK;
}

void sala_checkpoint_close(sala_checkpoint *c)
{
    sala_config_free(&c->config);
    sala_gguf_close(c->gguf);
    sala_safetensors_close(c->st);
    free(c->path);
    *c = (sala_checkpoint){0};
}

sala_tensor_list sala_checkpoint_tensors(const sala_checkpoint *c)
{
    return c->gguf ? sala_gguf_tensors(c->gguf) : c->st ? sala_safetensors_tensors(c->st) : (sala_tensor_list){0};
}

const sala_tensor *sala_checkpoint_tensor(const sala_checkpoint *c, sala_tensor_role role, int layer)
{
    char name[96];
    sala_tensor_name(name, role, layer, c->hf);
    if (!name[0])
        return NULL;
    return c->gguf ? sala_gguf_tensor(c->gguf, name) : c->st ? sala_safetensors_tensor(c->st, name) : NULL;
}

void sala_checkpoint_drop_pages(const sala_checkpoint *c)
{
    /* Tensors mostly stand in the order of the file: runs without gaps larger than a page are one call. */
    const sala_tensor_list list = sala_checkpoint_tensors(c);
    const uint8_t *begin = NULL, *end = NULL;
    for (size_t i = 0; i < list.count; i++) {
        const uint8_t *data = list.items[i].data;
        if (!end || data < end || data - end > 4096) {
            if (end)
                sala_os_map_drop(begin, (size_t)(end - begin));
            begin = data;
        }
        end = data + list.items[i].bytes;
    }
    if (end)
        sala_os_map_drop(begin, (size_t)(end - begin));
}

uint64_t sala_checkpoint_bytes(const sala_checkpoint *c)
{
    const sala_tensor_list list = sala_checkpoint_tensors(c);
    uint64_t bytes = 0;
    for (size_t i = 0; i < list.count; i++)
        bytes += list.items[i].bytes;
    return bytes;
}
