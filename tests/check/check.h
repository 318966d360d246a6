/* The harness of sala_check: inputs that end at an unreadable page, and verdicts. */
#ifndef SALA_CHECK_H
#define SALA_CHECK_H

#include "kernels/act_q8.h"
#include "kernels/families.h"
#include "kernels/train_kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SALA_CHECK_LEN(a) (sizeof(a) / sizeof((a)[0]))

typedef struct check {
    uint64_t rng;
    const char *filter;
    uint32_t cpu;
    bool bench;
    int n_checks, n_failed;
    int n_skipped; /* variants that this CPU lacks */
    const char *name;
    char family_name[64]; /* what check_begin_family makes of two */
    bool name_failed;
} check;

/* Starts the checks of one variant. False when it is filtered out or the CPU lacks `need`. */
bool check_begin(check *c, const char *name, uint32_t need);
/* The same for one operation of a family, whose kernels it fills in; its name becomes what_family. */
bool check_begin_family(check *c, sala_kernels *k, const char *what, const char *family);
/* The same for the kernels of training. */
bool check_begin_train(check *c, sala_train_kernels *k, const char *what, const char *family);
void check_end(check *c);
void check_fail(check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

uint64_t check_random(check *c);
int check_below(check *c, int n);
float check_uniform(check *c); /* [-1, 1) */

/* `bytes` of memory that end exactly where an unreadable page begins, filled with 0xa5. Freed by check_reset. */
void *check_guarded(size_t bytes);
/* The same, aligned to 64 bytes; its end is at most 63 bytes before the page. */
void *check_guarded_aligned(size_t bytes);
void check_reset(void);

double check_seconds(void); /* CPU time of this thread */
/* Best CPU seconds per call of fn(user) over about 0.15 s: time that other programs take does not count. */
double check_time(void (*fn)(void *user), void *user);

/* Types of caches, by their index in sala_kernels. */
typedef struct check_cache_type {
    const char *name;
    sala_dtype dtype;
} check_cache_type;
extern const check_cache_type check_cache_types[SALA_N_KV_KERNELS];
/* One number of a head's keys or values, by the definition of the layout; keys of Q4_1 as they are: turned. */
float check_cached(sala_dtype t, const void *head, bool is_key, int d, int token, int component);
/* The scale of one number of a head's values, and its code. Quantised types. */
double check_scale(sala_dtype t, const void *head, int d, int token, int component, double *code);
/* Makes a number of about the size of x, not x itself where its group has a scale; NaN makes its group NaN. */
void check_cache_set(sala_dtype t, void *head, bool is_key, int d, int token, int component, float x);

void check_linear(check *c);
void check_ops(check *c);
void check_cache(check *c);
void check_attention(check *c);
void check_mix(check *c);
void check_train_tiles(check *c);
void check_train_rows(check *c);

#endif
