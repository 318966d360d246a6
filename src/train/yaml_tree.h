/* A YAML document as a tree that remembers where each value stands. Only what a config needs: maps, lists, plain and
 * quoted scalars; anchors, aliases, tags, further documents and keys given twice are refused. A key with points in it
 * is a path: "a.b: 1" is "a: {b: 1}", and "a.0" is the first of a list. Internal to train. */
#ifndef SALA_TRAIN_YAML_TREE_H
#define SALA_TRAIN_YAML_TREE_H

#include "base/base.h"

typedef enum sala_yaml_kind { SALA_YAML_NULL, SALA_YAML_SCALAR, SALA_YAML_LIST, SALA_YAML_MAP } sala_yaml_kind;

typedef struct sala_yaml sala_yaml;
struct sala_yaml {
    sala_yaml_kind kind;
    char *key;  /* in a map; NULL in a list */
    char *text; /* of a scalar */
    bool quoted;
    bool used;        /* a reader has asked for it */
    const char *file; /* borrowed from the document */
    int line, column; /* from 1; 0: the file is a --set */
    sala_yaml **items;
    int count, cap;
};

typedef struct sala_yaml_doc {
    sala_yaml *root; /* a map */
    char **files;
    int n_files;
} sala_yaml_doc;

sala_status sala_yaml_parse(sala_yaml_doc *out, const char *name, const char *text, size_t bytes, sala_error *err);
/* "a.b=value": the value is YAML, and takes the place of what is there. */
sala_status sala_yaml_set(sala_yaml_doc *doc, const char *assignment, sala_error *err);
void sala_yaml_free(sala_yaml_doc *doc);

/* The node at a path ("a.b.0.c"), marked as used with all above it; NULL when there is none. */
sala_yaml *sala_yaml_find(const sala_yaml_doc *doc, const char *path);
/* "tiny.yaml:14:3" or "--set a.b=c". Returns dst. */
char *sala_yaml_where(char *dst, size_t bytes, const sala_yaml *node);
/* The first node, in the order of the file, that no reader has asked for, and its path; NULL when all were. */
sala_yaml *sala_yaml_unused(const sala_yaml_doc *doc, sala_buf *path);

/* Single letters that must change, be added or go to turn a into b. Words longer than 95 are far from everything. */
int sala_yaml_distance(const char *a, const char *b);

#endif
