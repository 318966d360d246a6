/* The filters that make text (jinja_filter_text.c), for the table in jinja_filter.c. */
#ifndef SALA_TEXT_JINJA_FILTER_H
#define SALA_TEXT_JINJA_FILTER_H

#include "text/jinja_syntax.h"

jj_fn jj_filter_capitalize, jj_filter_center, jj_filter_escape, jj_filter_forceescape, jj_filter_indent,
    jj_filter_lower, jj_filter_replace, jj_filter_safe, jj_filter_string, jj_filter_striptags, jj_filter_title,
    jj_filter_trim, jj_filter_truncate, jj_filter_upper, jj_filter_urlencode, jj_filter_wordcount, jj_filter_wordwrap,
    jj_filter_xmlattr;
jj_raw_fn jj_filter_format;

#endif
