/* libxml2's push parser calls back with elements and text; what remains is a stream of words and line breaks. No tree
 * is built, so that memory depends on the nesting of elements and not on the length of the document. Blank space is
 * collapsed as a browser does it, except in preformatted text. */
#include "html_text.h"

#include <libxml/HTMLparser.h>
#include <stdlib.h>

enum {
    MAX_DEPTH = 20000,     /* elements open at once; deeper nesting is an attack or an accident */
    MOST_PUSHED = 1 << 15, /* bytes at a time, which bounds the text that one call adds */
    MOST_HELD = 32 << 20,  /* bytes that the parser keeps because it waits for the end of one thing */
};

struct cli_html {
    htmlParserCtxtPtr parser;
    sala_buf *out;
    int dropped;      /* open elements whose text nobody reads */
    int preformatted; /* open elements in which blank space counts */
    int depth;
    int newlines; /* owed before the next word: 2 makes an empty line */
    char blank;   /* owed before the next word on the same line: ' ', '\t' or 0 */
    bool begun, too_deep;
};

/* What an element does to the lines around its text. */
typedef enum effect { INLINE, LINE, PARAGRAPH, ITEM, CELL, BREAK, PREFORMATTED, DROPPED } effect;

static const struct {
    const char *name;
    effect effect;
} elements[] = {
    {"address", LINE},     {"article", PARAGRAPH}, {"aside", PARAGRAPH}, {"blockquote", PARAGRAPH},
    {"body", PARAGRAPH},   {"br", BREAK},          {"canvas", DROPPED},  {"caption", LINE},
    {"dd", LINE},          {"details", PARAGRAPH}, {"dialog", LINE},     {"div", LINE},
    {"dl", PARAGRAPH},     {"dt", LINE},           {"fieldset", LINE},   {"figcaption", LINE},
    {"figure", PARAGRAPH}, {"footer", PARAGRAPH},  {"form", PARAGRAPH},  {"h1", PARAGRAPH},
    {"h2", PARAGRAPH},     {"h3", PARAGRAPH},      {"h4", PARAGRAPH},    {"h5", PARAGRAPH},
    {"h6", PARAGRAPH},     {"header", PARAGRAPH},  {"hr", PARAGRAPH},    {"iframe", DROPPED},
    {"legend", LINE},      {"li", ITEM},           {"main", PARAGRAPH},  {"nav", PARAGRAPH},
    {"noscript", DROPPED}, {"object", DROPPED},    {"ol", LINE},         {"option", LINE},
    {"p", PARAGRAPH},      {"pre", PREFORMATTED},  {"script", DROPPED},  {"section", PARAGRAPH},
    {"style", DROPPED},    {"summary", LINE},      {"svg", DROPPED},     {"table", PARAGRAPH},
    {"td", CELL},          {"template", DROPPED},  {"th", CELL},         {"title", PARAGRAPH},
    {"tr", LINE},          {"ul", LINE},
};

static int compare_names(const void *key, const void *element)
{
    return strcmp(key, *(const char *const *)element);
}

static effect effect_of(const xmlChar *name)
{
    const void *found =
        bsearch(name, elements, SALA_ARRAY_LEN(elements), sizeof elements[0], compare_names); /* sorted by name */
    return found ? elements[((size_t)((const char *)found - (const char *)elements)) / sizeof elements[0]].effect
                 : INLINE;
}

static void owe_newlines(cli_html *h, int n)
{
    h->newlines = n > h->newlines ? n : h->newlines;
    h->blank = 0;
}

static void pay(cli_html *h)
{
    if (h->begun) {
        for (int i = 0; i < h->newlines; i++)
            sala_buf_add_char(h->out, '\n');
        if (h->newlines == 0 && h->blank)
            sala_buf_add_char(h->out, h->blank);
    }
    h->newlines = 0;
    h->blank = 0;
    h->begun = true;
}

static void on_text(void *user, const xmlChar *text, int n)
{
    cli_html *h = user;
    const char *s = (const char *)text;
    if (h->dropped)
        return;
    if (h->preformatted) {
        if (n > 0) {
            pay(h);
            sala_buf_add(h->out, s, (size_t)n);
        }
        return;
    }
    for (int i = 0; i < n;) {
        int end = i;
        while (end < n && s[end] != ' ' && s[end] != '\n' && s[end] != '\t' && s[end] != '\r' && s[end] != '\f')
            end++;
        if (end > i) {
            pay(h);
            sala_buf_add(h->out, s + i, (size_t)(end - i));
            i = end;
        } else {
            if (h->blank == 0)
                h->blank = ' ';
            i++;
        }
    }
}

static void on_start(void *user, const xmlChar *name, const xmlChar **attributes)
{
    cli_html *h = user;
    (void)attributes;
    if (++h->depth > MAX_DEPTH && !h->too_deep) {
        h->too_deep = true;
        xmlStopParser(h->parser);
        return;
    }
    const effect e = effect_of(name);
    h->dropped += e == DROPPED;
    h->preformatted += e == PREFORMATTED;
    if (h->dropped)
        return;
    switch (e) {
    case LINE:
        owe_newlines(h, 1);
        break;
    case PARAGRAPH:
    case PREFORMATTED:
        owe_newlines(h, 2);
        break;
    case ITEM:
        owe_newlines(h, 1);
        pay(h);
        sala_buf_add(h->out, "-", 1);
        h->blank = ' ';
        break;
    case BREAK:
        h->newlines = h->newlines < 2 ? h->newlines + 1 : 2;
        h->blank = 0;
        break;
    case INLINE:
    case CELL:
    case DROPPED:
        break;
    }
}

static void on_end(void *user, const xmlChar *name)
{
    cli_html *h = user;
    const effect e = effect_of(name);
    h->depth--;
    if (e == DROPPED && h->dropped > 0)
        h->dropped--;
    if (e == PREFORMATTED && h->preformatted > 0)
        h->preformatted--;
    if (h->dropped)
        return;
    switch (e) {
    case LINE:
    case ITEM:
        owe_newlines(h, 1);
        break;
    case PARAGRAPH:
    case PREFORMATTED:
        owe_newlines(h, 2);
        break;
    case CELL:
        h->blank = '\t';
        break;
    case INLINE:
    case BREAK:
    case DROPPED:
        break;
    }
}

cli_html *cli_html_open(sala_buf *out)
{
    cli_html *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->out = out;
    htmlSAXHandler calls = {
        .startElement = on_start,
        .endElement = on_end,
        .characters = on_text,
        .ignorableWhitespace = on_text,
        .cdataBlock = on_text,
    };
    h->parser = htmlCreatePushParserCtxt(&calls, h, NULL, 0, NULL, XML_CHAR_ENCODING_UTF8);
    if (!h->parser) {
        free(h);
        return NULL;
    }
    /* The bytes are UTF-8 by the time they come here, whatever the document says about itself. */
    htmlCtxtUseOptions(h->parser, HTML_PARSE_RECOVER | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING | HTML_PARSE_NONET |
                                      HTML_PARSE_IGNORE_ENC);
    return h;
}

const char *cli_html_push(cli_html *h, const char *data, size_t n, bool last)
{
    while (n && !h->too_deep) {
        const size_t part = n < MOST_PUSHED ? n : MOST_PUSHED;
        htmlParseChunk(h->parser, data, (int)part, 0);
        data += part;
        n -= part;
        if (h->parser->input && h->parser->input->end - h->parser->input->cur > MOST_HELD)
            return "one comment, script or stretch of text without a tag is longer than 32 MiB; is it HTML?";
    }
    if (last && !h->too_deep)
        htmlParseChunk(h->parser, NULL, 0, 1);
    if (h->too_deep)
        return "its elements are nested too deeply";
    const xmlError *error = xmlCtxtGetLastError(h->parser);
    if (h->out->failed || (error && error->code == XML_ERR_NO_MEMORY))
        return "not enough memory";
    return NULL;
}

void cli_html_close(cli_html *h)
{
    if (!h)
        return;
    htmlFreeParserCtxt(h->parser);
    free(h);
}
