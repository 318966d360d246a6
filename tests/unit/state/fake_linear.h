/* Stands in for the kernel of linear layers: its "state" is a hash of all tokens before, its pending rows are the
 * tokens. It reads and writes only what a stretch hands it, where a real layer would, and asserts that everything it
 * reads is what these tokens must have left there. */
#ifndef SALA_TESTS_UNIT_STATE_FAKE_LINEAR_H
#define SALA_TESTS_UNIT_STATE_FAKE_LINEAR_H

#include "state/linear.h"
#include "unit/test.h"

enum { FAKE_LAYERS = 2, FAKE_MAX = 6000 };

/* What the session must hold. hash[c]: of all tokens before chunk c. */
typedef struct fake_tokens {
    int64_t length;
    uint32_t token[FAKE_MAX];
    uint64_t hash[FAKE_MAX / SALA_LINEAR_CHUNK + 1];
} fake_tokens;

static inline sala_linear_layout fake_layout(void)
{
    sala_linear_layout l;
    assert_int_equal(sala_linear_layout_init(&l, FAKE_LAYERS, 1, 1, 2, NULL), SALA_OK);
    assert_int_equal(l.state_bytes, 2 * 2 * 4);
    assert_int_equal(l.pending_bytes, 2 * SALA_LINEAR_CHUNK * 2 * 4);
    return l;
}

static inline uint64_t fake_hash(uint64_t hash, const uint32_t *tokens)
{
    for (int i = 0; i < SALA_LINEAR_CHUNK; i++)
        hash = (hash ^ tokens[i]) * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)i;
    return hash;
}

/* Appends to what must be held. */
static inline void fake_append(fake_tokens *t, const uint32_t *tokens, int64_t n)
{
    assert_true(t->length + n <= FAKE_MAX);
    memcpy(t->token + t->length, tokens, (size_t)n * sizeof *tokens);
    const int64_t from = t->length / SALA_LINEAR_CHUNK;
    t->length += n;
    for (int64_t c = from; (c + 1) * SALA_LINEAR_CHUNK <= t->length; c++)
        t->hash[c + 1] = fake_hash(t->hash[c], t->token + c * SALA_LINEAR_CHUNK);
}

static inline uint64_t *fake_state(const void *page, int layer)
{
    return (uint64_t *)(void *)((uint8_t *)(uintptr_t)page + layer * 16);
}

static inline uint32_t *fake_row(const void *page, int layer, bool value, int64_t slot)
{
    const int64_t at = (value ? SALA_LINEAR_CHUNK : 0) + slot;
    return (uint32_t *)(void *)((uint8_t *)(uintptr_t)page + layer * 2 * SALA_LINEAR_CHUNK * 8 + at * 8);
}

static inline void fake_put(void *page, int layer, int64_t position, uint32_t token)
{
    *fake_row(page, layer, false, position % SALA_LINEAR_CHUNK) = token;
    *fake_row(page, layer, true, position % SALA_LINEAR_CHUNK) = ~token;
}

static inline void fake_expect_row(const void *page, int layer, int64_t position, uint32_t token)
{
    if (*fake_row(page, layer, false, position % SALA_LINEAR_CHUNK) != token ||
        *fake_row(page, layer, true, position % SALA_LINEAR_CHUNK) != ~token)
        fail_msg("pending row of position %lld is another's", (long long)position);
}

static inline void fake_expect_state(const void *page, int layer, int64_t position, const fake_tokens *t)
{
    if (*fake_state(page, layer) != t->hash[position / SALA_LINEAR_CHUNK])
        fail_msg("state at position %lld is another's", (long long)position);
}

/* Runs tokens [at, at + n) of `t`, which holds what came before and these. */
static inline void fake_run(const sala_linear_stretch *s, const fake_tokens *t, int64_t at, int64_t n)
{
    const int64_t end = at + n, first = at / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK,
                  last = end / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK;
    assert_int_equal(s->state_in != NULL, first > 0);
    if (last > first) {
        assert_true(s->n_states >= 1);
        assert_int_equal(s->positions[s->n_states - 1], last);
    } else {
        assert_int_equal(s->n_states, 0);
    }
    if (end > last)
        assert_non_null(s->pending_out);
    for (int layer = 0; layer < FAKE_LAYERS; layer++) {
        uint64_t hash = 0;
        if (s->state_in) {
            fake_expect_state(s->state_in, layer, first, t);
            hash = *fake_state(s->state_in, layer);
        }
        if (at > first) {
            assert_non_null(s->pending);
            for (int64_t p = first; p < at; p++)
                fake_expect_row(s->pending, layer, p, t->token[p]);
        }
        for (int64_t p = at; s->pending && p < end && p < first + SALA_LINEAR_CHUNK; p++)
            fake_put(s->pending, layer, p, t->token[p]);
        int next = 0;
        for (int64_t c = first; c < last; c += SALA_LINEAR_CHUNK) {
            uint32_t chunk[SALA_LINEAR_CHUNK];
            for (int64_t p = c; p < c + SALA_LINEAR_CHUNK; p++)
                chunk[p - c] = p >= at ? t->token[p] : *fake_row(s->pending, layer, false, p % SALA_LINEAR_CHUNK);
            hash = fake_hash(hash, chunk);
            if (next < s->n_states && s->positions[next] == c + SALA_LINEAR_CHUNK)
                *fake_state(s->states[next++], layer) = hash;
        }
        assert_int_equal(next, s->n_states);
        for (int64_t p = last; last > first && p < end; p++)
            fake_put(s->pending_out, layer, p, t->token[p]);
    }
}

/* Everything that the session holds is what these tokens left. */
static inline void fake_compare(const sala_linear *s, const fake_tokens *t)
{
    assert_int_equal(s->length, t->length);
    const int64_t first = t->length / SALA_LINEAR_CHUNK * SALA_LINEAR_CHUNK;
    assert_int_equal(s->state != NULL, first > 0);
    for (int layer = 0; layer < FAKE_LAYERS; layer++) {
        if (s->state)
            fake_expect_state(sala_page_data(s->state), layer, first, t);
        if (t->length > first)
            assert_non_null(s->pending);
        for (int64_t p = first; p < t->length; p++)
            fake_expect_row(sala_page_data(s->pending), layer, p, t->token[p]);
        for (int i = 0; i < s->n_marks; i++) {
            assert_true(s->marks[i].position < first);
            assert_true(i == 0 || s->marks[i].position > s->marks[i - 1].position);
            fake_expect_state(sala_page_data(s->marks[i].page), layer, s->marks[i].position, t);
        }
    }
}

#endif
