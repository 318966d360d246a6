/* What the files of the limits share: the functions that fill the table, declared from the list, and the shape of a
 * multiply-add loop. */
#ifndef SALA_KERNELS_LIMITS_FILL_H
#define SALA_KERNELS_LIMITS_FILL_H

#include "kernels/families.h"
#include "kernels/limits.h"

#define L(need, fill) void fill(sala_limits *out);
#include "kernels/limits.inc"
#undef L

/* Hides from the compiler what a register holds, so that it can neither take work out of a loop nor drop it. */
#define SALA_OPAQUE(constraint, v) __asm__ volatile("" : "+" constraint(v))

/* The accumulators are named one by one: compilers keep an array of them in memory. */
#define SALA_LIMIT_8(X, c) X(0, c) X(1, c) X(2, c) X(3, c) X(4, c) X(5, c) X(6, c) X(7, c)
#define SALA_LIMIT_12(X, c) SALA_LIMIT_8(X, c) X(8, c) X(9, c) X(10, c) X(11, c)
#define SALA_LIMIT_16(X, c) SALA_LIMIT_12(X, c) X(12, c) X(13, c) X(14, c) X(15, c)
#define SALA_LIMIT_DECLARE(i, c) , s##i = a
#define SALA_LIMIT_HIDE(i, c) SALA_OPAQUE(c, s##i);
#define SALA_LIMIT_COUNT(i, c) +1

/* A function `name` that takes independent steps, one for each accumulator of EACH (one of the lists above), a round.
 * STEP(i, constraint) advances s<i> with the operands a and b; it stands for `ops` multiplications and additions. */
#define SALA_LIMIT_LOOP(name, constraint, type, start, EACH, STEP, ops)                                                \
    static int64_t name(int64_t rounds)                                                                                \
    {                                                                                                                  \
        type a = start, b = start EACH(SALA_LIMIT_DECLARE, constraint);                                                \
        SALA_OPAQUE(constraint, b);                                                                                    \
        for (int64_t round = 0; round < rounds; round++) {                                                             \
            EACH(STEP, constraint)                                                                                     \
        }                                                                                                              \
        EACH(SALA_LIMIT_HIDE, constraint)                                                                              \
        return rounds * (EACH(SALA_LIMIT_COUNT, constraint)) * (ops);                                                  \
    }

#endif
