/* Jinja, as chat templates use it: a bounded interpreter over JSON-like values.
 * Behaviour is jinja2's with trim_blocks and lstrip_blocks (as transformers sets them), its
 * ImmutableSandboxedEnvironment, and transformers' extras: raise_exception, strftime_now, tojson without HTML escaping,
 * {% generation %}, loop controls. Templates come with models from strangers: steps, depth, output and memory have
 * limits; nothing but the given variables can be reached. */
#ifndef SALA_TEXT_JINJA_H
#define SALA_TEXT_JINJA_H

#include "base/base.h"

#include <jansson.h>

typedef struct sala_jinja sala_jinja; /* a compiled template; immutable, may be shared by threads */

sala_status sala_jinja_compile(sala_jinja **out, const char *source, size_t bytes, sala_error *err);
void sala_jinja_free(sala_jinja *t);

typedef struct sala_jinja_limits {
    uint64_t max_steps;        /* 0: 10 million evaluated nodes */
    uint64_t max_output_bytes; /* 0: 256 MiB; strings made on the way count too */
    int max_depth;             /* 0: 200 */
} sala_jinja_limits;

/* A run of output that came from one origin: the template's own text, or a caller's value. */
typedef struct sala_jinja_span {
    size_t begin, end;
    bool from_input; /* made of strings inside the variables (filters, slices and concatenation keep this) */
} sala_jinja_span;

/* vars: a JSON object, borrowed. now: seconds since 1970 for strftime_now (local time zone UTC).
 * *text: NUL-terminated, owned by the caller (free). *spans (may be NULL): contiguous, cover the text, owned by the
 * caller. SALA_E_TEMPLATE with the template's own words when it calls raise_exception; SALA_E_LIMIT beyond a limit. */
sala_status sala_jinja_render(const sala_jinja *t, const json_t *vars, int64_t now, const sala_jinja_limits *limits,
                              char **text, size_t *bytes, sala_jinja_span **spans, size_t *n_spans, sala_error *err);

#endif
