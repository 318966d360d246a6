/* The limits where no family for the machine's registers exists: what the compiler makes of plain C. */
#include "kernels/limits_fill.h"

enum { WIDTH = 64 };

static int64_t f32_loop(int64_t rounds)
{
    volatile float source = 0.5f; /* the compiler must not know it */
    const float a = source;
    float sums[WIDTH] = {0};
    for (int64_t i = 0; i < rounds; i++)
        for (int j = 0; j < WIDTH; j++)
            sums[j] = sums[j] * a + a;
    for (int j = 0; j < WIDTH; j++)
        source = sums[j];
    return rounds * WIDTH * 2;
}

static void read_loop(const void *p, size_t bytes)
{
    enum { WORDS = SALA_LIMIT_STEP / 8 };
    uint64_t sums[16] = {0};
    for (const uint8_t *s = p, *end = s + bytes; s < end; s += SALA_LIMIT_STEP) {
        uint64_t words[WORDS];
        memcpy(words, s, sizeof words);
        for (int j = 0; j < WORDS; j++)
            sums[j % 16] += words[j];
    }
    volatile uint64_t sink;
    for (int j = 0; j < 16; j++)
        sink = sums[j];
    (void)sink;
}

static void copy_loop(void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}

void sala_limits_fill_plain(sala_limits *out)
{
    out->read = read_loop;
    out->copy = copy_loop;
    out->f32 = (sala_limit_loop){"multiply, then add, plain C", f32_loop};
}
