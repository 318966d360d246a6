/* What the packer says about the shards that it has written. */
#ifndef SALA_DATA_MANIFEST_H
#define SALA_DATA_MANIFEST_H

#include "data/shard.h"

#include <jansson.h>

#define SALA_MANIFEST_NAME "manifest.json"
#define SALA_SHARD_NAME "shard-%05d.sts"
#define SALA_VALIDATION_NAME "validation"

typedef struct sala_manifest {
    uint32_t vocab;
    uint64_t tokenizer_id;
    const char *tokenizer; /* where it lay, or NULL */
    const char *const *sources;
    int n_sources;
    const sala_shard_summary *shards; /* shard i is named by SALA_SHARD_NAME */
    int n_shards;
    double validation_share;
    bool has_validation; /* there is a folder SALA_VALIDATION_NAME beside the manifest */
    json_t *stats;       /* borrowed; may be NULL */
} sala_manifest;

sala_status sala_manifest_write(const char *dir, const sala_manifest *m, sala_error *err);
/* A string of JSON from bytes that may not be UTF-8 (those become U+FFFD); NULL when memory is out. */
json_t *sala_json_lossy(const char *text, size_t bytes);

#endif
