/* What the machine can do at most with the instructions of a kernel family: loops of nothing but loads, stores or
 * multiply-adds. They compute nothing that anybody wants; `sala bench --ops` times them beside the kernels and says
 * which share of them a kernel reaches. */
#ifndef SALA_KERNELS_LIMITS_H
#define SALA_KERNELS_LIMITS_H

#include "kernels/kernels.h"

/* Bytes that the loops over memory take in one step: sizes are multiples of it. */
#define SALA_LIMIT_STEP 1024

/* Independent multiply-adds in registers, enough of them to hide their latency. */
typedef struct sala_limit_loop {
    const char *name;               /* "vpdpbusd, 512 bits"; NULL: the family has no such instruction */
    int64_t (*run)(int64_t rounds); /* returns the number of multiplications and additions */
} sala_limit_loop;

typedef struct sala_limits {
    void (*read)(const void *p, size_t bytes);              /* loads everything once */
    void (*copy)(void *dst, const void *src, size_t bytes); /* loads and stores everything once */
    sala_limit_loop f32, i8, bf16;
} sala_limits;

/* The loops of what `k` may use. */
void sala_limits_get(sala_limits *out, const sala_kernels *k);

#endif
