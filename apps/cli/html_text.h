/* HTML to plain text, in pieces: what a reader would see, with block elements on lines of their own. */
#ifndef SALA_CLI_HTML_TEXT_H
#define SALA_CLI_HTML_TEXT_H

#include "base/base.h"

typedef struct cli_html cli_html;

/* Text is appended to `out`, which must outlive the reader. NULL when memory is out. */
cli_html *cli_html_open(sala_buf *out);
/* Takes n bytes of valid UTF-8, cut anywhere; `last` ends the document. Returns NULL, or what went wrong. */
const char *cli_html_push(cli_html *h, const char *data, size_t n, bool last);
void cli_html_close(cli_html *h); /* NULL is fine */

#endif
