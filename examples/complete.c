/* Continues a text: complete MODEL.gguf "Once upon a time"
 *   cc complete.c $(pkg-config --cflags --libs sala) -o complete */
#include <sala.h>
#include <stdio.h>
#include <string.h>

static bool show(void *user, const char *text, size_t bytes, int32_t token, const sala_candidate *chosen,
                 const sala_candidate *top, int n_top)
{
    (void)user, (void)token, (void)chosen, (void)top, (void)n_top;
    return fwrite(text, 1, bytes, stdout) == bytes;
}

int main(int argc, char **argv)
{
    sala_error err = {0};
    sala_model *model = NULL;
    sala_session *session = NULL;
    sala_sampler *sampler = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    const sala_generate_params params = {.max_new_tokens = 32, .on_text = show};
    sala_generate_result result;
    const bool ok = argc == 3 && sala_model_open(&model, argv[1], NULL, &err) == SALA_OK &&
                    sala_tokenize(model, &ids, &n, argv[2], strlen(argv[2]), SALA_TOK_ADD_SPECIAL, &err) == SALA_OK &&
                    sala_session_open(&session, model, NULL, &err) == SALA_OK &&
                    sala_sampler_open(&sampler, model, NULL, &err) == SALA_OK &&
                    sala_generate(session, sampler, ids, n, &params, &result, &err) == SALA_OK;
    puts("");
    if (!ok)
        fprintf(stderr, "complete: %s\n", argc == 3 ? err.message : "usage: complete MODEL TEXT");
    sala_sampler_close(sampler);
    sala_session_close(session);
    sala_free(ids);
    sala_model_close(model);
    return ok ? 0 : 1;
}
