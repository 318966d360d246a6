#include "infer/stops.h"

bool sala_stops_push(sala_stops *s, const char *text, size_t n, size_t *safe)
{
    sala_buf_add(&s->held, text, n);
    const char *data = s->held.data;
    const size_t len = s->held.len;
    size_t hold = len; /* first place where an unfinished stop string may begin */
    for (size_t at = 0; at < len; at++) {
        for (int i = 0; i < s->count; i++) {
            const size_t want = strlen(s->strings[i]), have = len - at;
            if (want == 0 || memcmp(data + at, s->strings[i], want < have ? want : have) != 0)
                continue;
            if (want <= have) {
                *safe = at;
                return true;
            }
            hold = at < hold ? at : hold;
        }
    }
    *safe = hold;
    return false;
}

void sala_stops_release(sala_stops *s, size_t n)
{
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
    s->held.data[s->held.len] = 0;
}
