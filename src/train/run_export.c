/* The model of a save, as a run that is complete writes it: while the run goes on, or in another type. */
#include "train/run.h"

#include "os/os.h"
#include "train/output.h"
#include "train/run_config_internal.h"

#include <stdlib.h>

static sala_status export_save(const sala_run_config *c, const char *out_dir, const sala_save *save, const char *dtype,
                               const char *gguf_type, const sala_run_hooks *hooks, sala_error *err)
{
    int64_t before;
    sala_run_config view;
    sala_params params = {0};
    const sala_output_words words = {hooks ? hooks->line : NULL, hooks ? hooks->user : NULL};
    SALA_TRY(sala_run_view(&view, c, sala_run_stage_of(c, save->step, &before), err));
    sala_status st = sala_params_plan(&params, &view, err);
    float *values = NULL;
    if (st == SALA_OK) {
        values = sala_os_pages_alloc((size_t)params.n_elements * sizeof *values);
        st = values ? sala_saves_values(save, &params, values, err)
                    : sala_fail_memory(err, params.n_elements * sizeof *values);
    }
    if (st == SALA_OK)
        st = sala_output_write(&view, &params, values, out_dir, dtype ? dtype : c->output_dtype,
                               gguf_type      ? gguf_type
                               : c->gguf_type ? c->gguf_type
                                              : "none",
                               &words, err);
    if (values)
        sala_os_pages_free(values, (size_t)params.n_elements * sizeof *values);
    sala_params_free(&params);
    sala_run_view_free(&view);
    return st;
}

sala_status sala_train_export(const char *out_dir, const char *path, const char *dtype, const char *gguf_type,
                              const sala_run_hooks *hooks, sala_error *err)
{
    sala_run_config c;
    sala_save save = {0};
    char *config = sala_path_join(out_dir, "run.yaml");
    if (!config)
        return sala_fail_memory(err, strlen(out_dir));
    sala_status st = sala_run_config_load(&c, config, NULL, 0, NULL, err);
    free(config);
    if (st != SALA_OK)
        return st;
    bool found = path != NULL;
    if (path)
        st = sala_saves_open(&save, path, err);
    else
        st = sala_saves_find(&save, &found, NULL, out_dir, -1, hooks ? hooks->line : NULL, hooks ? hooks->user : NULL,
                             err);
    if (st == SALA_OK && !found)
        st = sala_fail(err, SALA_E_NOT_FOUND, "%s holds no save", out_dir);
    if (st == SALA_OK)
        st = export_save(&c, out_dir, &save, dtype, gguf_type, hooks, err);
    sala_save_free(&save);
    sala_run_config_free(&c);
    return st;
}
