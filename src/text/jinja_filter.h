/* The filters that make text (jinja_filter_text.c), for the table in jinja_filter.c. */
#ifndef SALA_TEXT_JINJA_FILTER_H
#define SALA_TEXT_JINJA_FILTER_H

#include "text/jinja_syntax.h"

jj_fn sala_jj_filter_capitalize, sala_jj_filter_center, sala_jj_filter_escape, sala_jj_filter_forceescape,
    sala_jj_filter_indent, sala_jj_filter_lower, sala_jj_filter_replace, sala_jj_filter_safe, sala_jj_filter_string,
    sala_jj_filter_striptags, sala_jj_filter_title, sala_jj_filter_trim, sala_jj_filter_truncate, sala_jj_filter_upper,
    sala_jj_filter_urlencode, sala_jj_filter_wordcount, sala_jj_filter_wordwrap, sala_jj_filter_xmlattr;
jj_raw_fn sala_jj_filter_format;

#endif
