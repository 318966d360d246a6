/* Sessions on disk: which pages of a session are in which file, and what has to be written. */
#include "infer/engine.h"

#include <stdlib.h>

void sala_session_store_close(sala_session_store *store)
{
    (void)store;
}

void sala_session_store_rolled_back(sala_session_store *store, const sala_session *s)
{
    (void)store;
    (void)s;
}
