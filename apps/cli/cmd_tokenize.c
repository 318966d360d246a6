/* tokenize and detokenize: the two directions between bytes and ids. */
#include "cli.h"

#include "input.h"
#include "model_arg.h"
#include "ui.h"
#include "vocab.h"

#include <stdlib.h>

static void print_table(const sala_tokenizer *t, const sala_ids *ids)
{
    cli_table *table = cli_table_new("!>|");
    for (size_t i = 0; i < ids->count; i++) {
        sala_buf text = {0};
        sala_error err;
        char *shown = NULL;
        const char *s;
        size_t n;
        /* One token alone may be half a character: its spelling in the vocabulary shows more than U+FFFD would. */
        if (sala_tokenizer_decode(t, &text, &ids->data[i], 1, false, &err) == SALA_OK && text.len &&
            !strstr(text.data, "\xEF\xBF\xBD"))
            shown = cli_printable(text.data, text.len, 200);
        else if (sala_tokenizer_piece(t, ids->data[i], &s, &n))
            shown = cli_printable(s, n, 200);
        cli_table_cell(table, "%d", ids->data[i]);
        cli_table_cell(table, "'%s'", shown ? shown : "");
        free(shown);
        sala_buf_free(&text);
    }
    cli_table_print(table, stdout);
}

int cli_cmd_tokenize(const cli_options *o)
{
    cli_vocab v;
    int rc = cli_vocab_open(&v, o, true, false);
    if (rc)
        return rc;
    char *text = NULL;
    size_t bytes = 0;
    sala_ids ids = {0};
    sala_error err = {0};
    rc = cli_read_text(&text, &bytes, o);
    if (rc)
        goto out;
    const sala_text_span span = {text, bytes, !o->no_parse_special};
    if (sala_tokenizer_encode(v.tokenizer, &ids, &span, 1, !o->no_special, &err) != SALA_OK) {
        rc = cli_fail_error(&err);
        goto out;
    }
    if (o->json) {
        putchar('[');
        for (size_t i = 0; i < ids.count; i++)
            printf(i ? ", %d" : "%d", ids.data[i]);
        puts("]");
    } else if (o->ids_only) {
        for (size_t i = 0; i < ids.count; i++)
            printf(i ? " %d" : "%d", ids.data[i]);
        putchar('\n');
    } else {
        print_table(v.tokenizer, &ids);
    }
    rc = cli_flush(CLI_DONE);
out:
    sala_ids_free(&ids);
    free(text);
    cli_vocab_close(&v);
    return rc;
}

int cli_cmd_detokenize(const cli_options *o)
{
    const char *const *rest;
    const int n_rest = cli_rest_args(o, &rest);
    cli_vocab v;
    int rc = cli_vocab_open(&v, o, true, false);
    if (rc)
        return rc;
    char *data = NULL;
    size_t bytes = 0, n = 0;
    int32_t *ids = NULL;
    sala_buf text = {0};
    sala_error err = {0};
    const char *from = "the command line";
    if (n_rest > 0) {
        sala_buf joined = {0};
        for (int i = 0; i < n_rest; i++) {
            sala_buf_add_str(&joined, rest[i]);
            sala_buf_add_char(&joined, ' ');
        }
        data = sala_buf_take(&joined, &bytes);
        rc = data ? 0 : cli_fail("not enough memory");
    } else {
        from = o->file ? o->file : "standard input";
        rc = cli_read_text(&data, &bytes, o);
    }
    if (rc == 0)
        rc = cli_parse_ids(&ids, &n, data, bytes, from);
    if (rc == 0 && sala_tokenizer_decode(v.tokenizer, &text, ids, n, o->skip_special, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    if (rc == 0) {
        fwrite(text.data ? text.data : "", 1, text.len, stdout);
        rc = cli_flush(CLI_DONE);
    }
    sala_buf_free(&text);
    free(ids);
    free(data);
    cli_vocab_close(&v);
    return rc;
}
