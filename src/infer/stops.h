/* Stop strings across token borders: text goes in piece by piece and comes out as soon as it can no longer be the
 * beginning of a stop string. */
#ifndef SALA_INFER_STOPS_H
#define SALA_INFER_STOPS_H

#include "base/base.h"

typedef struct sala_stops {
    const char *const *strings; /* borrowed; empty ones are ignored */
    int count;
    sala_buf held; /* text not yet released */
} sala_stops;

/* Appends text. *safe: how many bytes of held.data may be released now. Returns true when a stop string was completed:
 * then *safe ends before its first byte (the earliest match) and the rest must be thrown away. */
bool sala_stops_push(sala_stops *s, const char *text, size_t n, size_t *safe);
/* Removes the first n held bytes. */
void sala_stops_release(sala_stops *s, size_t n);

#endif
