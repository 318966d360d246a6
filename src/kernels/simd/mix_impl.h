/* For any register width: stage 1 of sparse attention, lightning attention, output gates. Included by ops_impl.h behind
 * the parts that it builds on. */
#ifndef SALA_KERNELS_SIMD_MIX_IMPL_H
#define SALA_KERNELS_SIMD_MIX_IMPL_H

/* Calls f(..., n) with a constant n, 1 <= n <= most <= 6. Compilers drop the cases that `most` rules out. */
#define FOR_TILE(most, n, f, ...)                                                                                      \
    switch ((n) < (most) ? (n) : (most)) {                                                                             \
    case 1:                                                                                                            \
        f(__VA_ARGS__, 1);                                                                                             \
        break;                                                                                                         \
    case 2:                                                                                                            \
        f(__VA_ARGS__, 2);                                                                                             \
        break;                                                                                                         \
    case 3:                                                                                                            \
        f(__VA_ARGS__, 3);                                                                                             \
        break;                                                                                                         \
    case 4:                                                                                                            \
        f(__VA_ARGS__, (most) < 4 ? (most) : 4);                                                                       \
        break;                                                                                                         \
    case 5:                                                                                                            \
        f(__VA_ARGS__, (most) < 5 ? (most) : 5);                                                                       \
        break;                                                                                                         \
    case 6:                                                                                                            \
        f(__VA_ARGS__, (most) < 6 ? (most) : 6);                                                                       \
        break;                                                                                                         \
    }

/* The next tile of n rows that are left: tiles as equal as can be, since small ones wait for their own sums. */
static inline int tile_of(int n, int most)
{
    const int n_tiles = (n + most - 1) / most;
    return (n + n_tiles - 1) / n_tiles;
}

/* ---- stage 1 ----
 *
 * Scores as in attention: a lane owns a row, one chain of FMA over the components. Halves are widened in registers,
 * which takes less than reading them widened from memory. What follows is done lane by lane, so that equal rows get
 * equal masses wherever they lie. */

/* Three queries by four registers of rows fill 16 registers to the last. clang 14 then keeps one of the sums in memory,
 * which halves the speed; with five by two it is as fast as gcc is. */
#if Q_TILE == 3 && defined(__clang__)
#define ROWS_TILE 5
#define ROWS_VEC 2
#define ROWS_STEP (ROWS_VEC * LANES)

INLINE void rows_tile(float *s, const float *q, const void *rows, int j, int d, const bool half, const uint8_t *next,
                      const int n)
{
    const size_t element = half ? sizeof(uint16_t) : sizeof(float);
    vf sum[ROWS_TILE][ROWS_VEC];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < ROWS_VEC; v++)
            sum[i][v] = vf_zero();
    for (int c = 0; c < d; c++) {
        const int64_t at = (int64_t)c * SALA_KV_BLOCK + j;
        ask_for(next, (size_t)at * element, ROWS_STEP * element);
        vf row[ROWS_VEC];
        for (int v = 0; v < ROWS_VEC; v++)
            row[v] = load_value(rows, at + v * LANES, LANES, half);
        for (int i = 0; i < n; i++) {
            const vf x = vf_bcast(q + (size_t)i * (size_t)d + c);
            for (int v = 0; v < ROWS_VEC; v++)
                sum[i][v] = vf_fma(x, row[v], sum[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < ROWS_VEC; v++)
            vf_store(s + i * SALA_KV_BLOCK + v * LANES, sum[i][v], LANES);
}
#else
#define ROWS_TILE Q_TILE
#define ROWS_STEP KEY_STEP
#define rows_tile scores_tile
#endif

/* Scores of queries i .. i + n - 1 against the rows that they see, in s [n][64]. The first tile asks for the next page.
 * A function of its own for each type: what follows would otherwise compete with the tile for registers. */
#define X(type, half)                                                                                                  \
    static __attribute__((noinline)) void page_scores_##type(float *s, const float *q, const void *rows, int i, int n, \
                                                             int d, const int32_t *n_visible, const uint8_t *next)     \
    {                                                                                                                  \
        const int most = most_visible(n_visible + i, n);                                                               \
        for (int j = 0; j < most; j += ROWS_STEP)                                                                      \
            FOR_TILE(ROWS_TILE, n, rows_tile, s + j, q + (size_t)i * (size_t)d, rows, j, d, half,                      \
                     i == 0 ? next : NULL)                                                                             \
    }
X(f32, false)
X(f16, true)
#undef X

static inline void lse_row(const float *s, float *max, float *l, int n_visible)
{
    const int n_vec = (n_visible + LANES - 1) / LANES, last = n_visible - (n_vec - 1) * LANES;
    vf v[SALA_KV_BLOCK / LANES];
    vf top = vf_set1(-INFINITY);
    for (int i = 0; i < n_vec; i++) {
        v[i] = vf_first(vf_load(s + i * LANES), i + 1 < n_vec ? LANES : last, vf_set1(-INFINITY));
        top = vf_max(top, v[i]);
    }
    const float before = *max;
    float after = vf_hmax(top);
    after = after > before ? after : before;
    vf sum = vf_zero();
    for (int i = 0; i < n_vec; i++) /* exp(-infinity) adds 0 */
        sum = vf_add(sum, vf_exp(vf_sub(v[i], vf_set1(after))));
    if (!(after == before)) {
        float keep[LANES];
        vf_store(keep, vf_exp(vf_set1(before - after)), LANES);
        *l *= keep[0];
    }
    *l += vf_hsum(sum);
    *max = after;
}

/* p += exp(s - lse) */
static inline void mass_row(float *p, const float *s, float lse, int n_visible)
{
    const vf x = vf_set1(lse);
    int j = 0;
    for (; j + LANES <= n_visible; j += LANES)
        vf_store(p + j, vf_add(vf_load(p + j), vf_exp(vf_sub(vf_load(s + j), x))), LANES);
    if (j < n_visible) {
        const vf e = vf_exp(vf_sub(vf_load(s + j), x));
        vf_store(p + j, vf_add(vf_load(p + j), vf_first(e, n_visible - j, vf_zero())), LANES);
    }
}

#define X(type)                                                                                                        \
    static void rows_lse_##type(float *m, float *l, const float *q, const void *rows, int n_q, int d,                  \
                                const int32_t *n_visible, float *scratch, const void *next)                            \
    {                                                                                                                  \
        for (int i = 0, n; i < n_q; i += n) {                                                                          \
            n = tile_of(n_q - i, ROWS_TILE);                                                                           \
            page_scores_##type(scratch, q, rows, i, n, d, n_visible, next);                                            \
            for (int r = 0; r < n; r++)                                                                                \
                if (n_visible[i + r] > 0)                                                                              \
                    lse_row(scratch + r * SALA_KV_BLOCK, m + i + r, l + i + r, n_visible[i + r]);                      \
        }                                                                                                              \
    }                                                                                                                  \
    static void rows_mass_##type(float *p, int64_t p_stride, const float *q, const float *lse, const void *rows,       \
                                 int n_q, int group, int d, const int32_t *n_visible, float *scratch,                  \
                                 const void *next)                                                                     \
    {                                                                                                                  \
        for (int t = 0; t * group < n_q; t++)                                                                          \
            memset(p + t * p_stride, 0, SALA_KV_BLOCK * sizeof(float));                                                \
        for (int i = 0, n; i < n_q; i += n) {                                                                          \
            n = tile_of(n_q - i, ROWS_TILE);                                                                           \
            page_scores_##type(scratch, q, rows, i, n, d, n_visible, next);                                            \
            for (int r = 0; r < n; r++)                                                                                \
                mass_row(p + (i + r) / group * p_stride, scratch + r * SALA_KV_BLOCK, lse[i + r], n_visible[i + r]);   \
        }                                                                                                              \
    }
X(f32)
X(f16)
#undef X

static void rows_pool(float *pooled, const float *mass)
{
    float top[SALA_KV_BLOCK]; /* every fourth: the largest of four */
    for (int j = 0; j < SALA_KV_BLOCK; j += LANES) {
        vf v = vf_load(mass + j);
        v = vf_max(v, vf_swap_lanes(v, 1));
        vf_store(top + j, vf_max(v, vf_swap_lanes(v, 2)), LANES);
    }
    float before = 0; /* masses are not negative */
    for (int b = 0; b < SALA_KV_BLOCK / 4; b++) {
        const float x = top[4 * b] > before ? top[4 * b] : before;
        pooled[b] = x > pooled[b] ? x : pooled[b];
        before = mass[4 * b + 3];
    }
    float *last = pooled + SALA_KV_BLOCK / 4;
    *last = before > *last ? before : *last;
}

/* ---- lightning attention ----
 *
 * q . k is a sum in each lane over every LANES-th component and one tree over the lanes. A lane of an output owns a
 * value component: one chain over the components of the key times the state, a product with the decay, on from there
 * one chain over the tokens of the chunk. A lane of the state owns a value component too: one chain over the tokens.
 * Tiles are of tokens (or key components) and registers of value components. */

#define CHUNK SALA_LIGHTNING_CHUNK
#define WIDE_QV 8 /* registers of a tile of one token, whose sums would otherwise wait for each other */

/* w[i][j] = q_i . k_j for n_k <= 4 tokens; w [n][CHUNK], four numbers are written in every row. */
INLINE void dots_tile(float *w, const float *q, int64_t q_stride, const float *k, int64_t k_stride, int d,
                      const int n_k, const int n)
{
    vf sum[Q_TILE][4];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 4; j++)
            sum[i][j] = vf_zero();
    int c = 0;
    for (; c + LANES <= d; c += LANES) {
        vf x[Q_TILE];
        for (int i = 0; i < n; i++)
            x[i] = vf_load(q + i * q_stride + c);
        for (int j = 0; j < n_k; j++) {
            const vf y = vf_load(k + j * k_stride + c);
            for (int i = 0; i < n; i++)
                sum[i][j] = vf_fma(x[i], y, sum[i][j]);
        }
    }
    for (int j = 0; c < d && j < n_k; j++) {
        const vf y = vf_load_n(k + j * k_stride + c, d - c);
        for (int i = 0; i < n; i++)
            sum[i][j] = vf_fma(vf_load_n(q + i * q_stride + c, d - c), y, sum[i][j]);
    }
    for (int i = 0; i < n; i++)
        vf_hsum4(w + i * CHUNK, sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
}

/* w[i][b] = q_i . k_b for b < n_k */
static void dots(float *w, const float *q, int64_t q_stride, const float *k, int64_t k_stride, int n_k, int d, int n)
{
    int b = 0;
    for (; b + 4 <= n_k; b += 4)
        FOR_TILE(Q_TILE, n, dots_tile, w + b, q, q_stride, k + b * k_stride, k_stride, d, 4)
    if (b < n_k)
        FOR_TILE(Q_TILE, n, dots_tile, w + b, q, q_stride, k + b * k_stride, k_stride, d, n_k - b)
}

INLINE vf load_part(const float *p, const int last)
{
    return last == LANES ? vf_load(p) : vf_load_n(p, last);
}

/* What one call of lightning_out reads; the pointers that follow tokens or components move with the tile. */
typedef struct lightning_rows {
    const float *q, *w, *state, *v; /* of the first token; w [][CHUNK]; state and v at the first value component */
    int64_t q_stride, kv_stride;
    const float *decay; /* of the first token's state */
    int a, d;           /* the first token */
    float scale;
} lightning_rows;

INLINE void out_tile(float *out, int64_t out_stride, const lightning_rows *in, const int n_vec, const int last,
                     const int n)
{
    const float *q = in->q, *w = in->w, *state = in->state, *v = in->v;
    const int64_t q_stride = in->q_stride;
    const int a = in->a, d = in->d;
    vf sum[Q_TILE][WIDE_QV];
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_vec; k++)
            sum[i][k] = vf_zero();
    if (state) {
        for (int c = 0; c < d; c++, state += d) {
            vf y[WIDE_QV];
            for (int k = 0; k < n_vec; k++)
                y[k] = load_part(state + k * LANES, last);
            for (int i = 0; i < n; i++) {
                const vf x = vf_bcast(q + i * q_stride + c);
                for (int k = 0; k < n_vec; k++)
                    sum[i][k] = vf_fma(x, y[k], sum[i][k]);
            }
        }
        for (int i = 0; i < n; i++) {
            const vf x = vf_bcast(in->decay + i);
            for (int k = 0; k < n_vec; k++)
                sum[i][k] = vf_mul(sum[i][k], x);
        }
    }
    for (int b = 0; b <= a; b++, v += in->kv_stride) {
        vf y[WIDE_QV];
        for (int k = 0; k < n_vec; k++)
            y[k] = load_part(v + k * LANES, last);
        for (int i = 0; i < n; i++) {
            const vf x = vf_bcast(w + i * CHUNK + b);
            for (int k = 0; k < n_vec; k++)
                sum[i][k] = vf_fma(x, y[k], sum[i][k]);
        }
    }
    for (int b = a + 1; b < a + n; b++, v += in->kv_stride) { /* seen by the later tokens of the tile only */
        vf y[WIDE_QV];
        for (int k = 0; k < n_vec; k++)
            y[k] = load_part(v + k * LANES, last);
        for (int i = 1; i < n; i++) {
            if (b > a + i)
                continue;
            const vf x = vf_bcast(w + i * CHUNK + b);
            for (int k = 0; k < n_vec; k++)
                sum[i][k] = vf_fma(x, y[k], sum[i][k]);
        }
    }
    const vf scale = vf_set1(in->scale);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_vec; k++)
            vf_store(out + i * out_stride + k * LANES, vf_mul(sum[i][k], scale), last);
}

/* All tokens of the call for n_vec registers of value components. */
INLINE void out_columns(float *out, int64_t out_stride, lightning_rows in, int n, const int n_vec, const int last)
{
    for (int i = 0, m; i < n; i += m) {
        m = tile_of(n - i, Q_TILE);
        FOR_TILE(Q_TILE, m, out_tile, out, out_stride, &in, n_vec, last)
        out += m * out_stride;
        in.q += m * in.q_stride;
        in.w += m * CHUNK;
        in.decay += m;
        in.a += m;
    }
}

static void lightning_out(float *out, int64_t out_stride, const float *q, int64_t q_stride, const float *k,
                          const float *v, int64_t kv_stride, const float *state, const float *decay, int a0, int n,
                          int d, float scale, float *scratch)
{
    float *w = scratch, *reversed = scratch + CHUNK * CHUNK; /* reversed[i] = decay[n - 1 - i] */
    for (int i = 0; i < n; i++)
        reversed[i] = decay[n - 1 - i];
    for (int a = a0, m; a < n; a += m) {
        m = tile_of(n - a, Q_TILE);
        dots(w + (a - a0) * CHUNK, q + (a - a0) * q_stride, q_stride, k, kv_stride, a + m, d, m);
    }
    for (int a = a0; a < n; a++) {
        float *row = w + (a - a0) * CHUNK;
        EACH_VECTOR(a + 1)
        vf_store(row + i, vf_mul(vf_load_n(row + i, (int)m), vf_load_n(reversed + n - 1 - a + i, (int)m)), (int)m);
    }
    lightning_rows in = {q, w, state, v, q_stride, kv_stride, decay + a0 + 1, a0, d, scale};
    const int n_tokens = n - a0;
    int e = 0, width;
#define COLUMNS(f, ...)                                                                                                \
    {                                                                                                                  \
        in.state = state ? state + e : NULL;                                                                           \
        in.v = v + e;                                                                                                  \
        f(out + e, out_stride, __VA_ARGS__);                                                                           \
    }
    width = WIDE_QV * LANES;
    for (; n_tokens == 1 && e + width <= d; e += width)
        COLUMNS(out_tile, &in, WIDE_QV, LANES, 1)
    width = QV * LANES;
    for (; e + width <= d; e += width)
        COLUMNS(out_columns, in, n_tokens, QV, LANES)
    for (; e + LANES <= d; e += LANES)
        COLUMNS(out_columns, in, n_tokens, 1, LANES)
    if (e < d)
        COLUMNS(out_columns, in, n_tokens, 1, d - e)
#undef COLUMNS
}

/* Rows c .. c + n - 1 of the state, n_vec registers of each; weighted [CHUNK][d] at the first row. */
INLINE void state_tile(float *out, const float *state, const float *weighted, const float *v, int64_t v_stride,
                       float keep, int d, const int n_vec, const int last, const int n)
{
    vf sum[Q_TILE][QV];
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_vec; k++)
            sum[i][k] =
                state ? vf_mul(vf_set1(keep), load_part(state + (size_t)i * (size_t)d + k * LANES, last)) : vf_zero();
    for (int b = 0; b < CHUNK; b++, v += v_stride, weighted += d) {
        vf y[QV];
        for (int k = 0; k < n_vec; k++)
            y[k] = load_part(v + k * LANES, last);
        for (int i = 0; i < n; i++) {
            const vf x = vf_bcast(weighted + i);
            for (int k = 0; k < n_vec; k++)
                sum[i][k] = vf_fma(x, y[k], sum[i][k]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_vec; k++)
            vf_store(out + (size_t)i * (size_t)d + k * LANES, sum[i][k], last);
}

INLINE void state_columns(float *out, const float *state, const float *weighted, const float *v, int64_t v_stride,
                          float keep, int d, const int n_vec, const int last)
{
    for (int c = 0, n; c < d; c += n) {
        const size_t at = (size_t)c * (size_t)d;
        n = tile_of(d - c, Q_TILE);
        FOR_TILE(Q_TILE, n, state_tile, out + at, state ? state + at : NULL, weighted + c, v, v_stride, keep, d, n_vec,
                 last)
    }
}

static void lightning_state(float *state_out, const float *state_in, const float *k, const float *v, int64_t kv_stride,
                            const float *decay, int d, float *scratch)
{
    for (int b = 0; b < CHUNK; b++) {
        const vf x = vf_set1(decay[CHUNK - 1 - b]);
        EACH_VECTOR(d)
        vf_store(scratch + (size_t)b * (size_t)d + i, vf_mul(vf_load_n(k + b * kv_stride + i, (int)m), x), (int)m);
    }
    const float keep = decay[CHUNK];
    int e = 0;
#define COLUMNS(n_vec, last)                                                                                           \
    state_columns(state_out + e, state_in ? state_in + e : NULL, scratch, v + e, kv_stride, keep, d, n_vec, last)
    for (; e + QV * LANES <= d; e += QV * LANES)
        COLUMNS(QV, LANES);
    for (; e + LANES <= d; e += LANES)
        COLUMNS(1, LANES);
    if (e < d)
        COLUMNS(1, d - e);
#undef COLUMNS
}

static void sigmoid_gate(float *out, const float *x, const float *gate, int64_t n)
{
    const vf one = vf_set1(1.0f);
    EACH_VECTOR(n)
    {
        const vf e = vf_exp(vf_neg(vf_load_n(gate + i, (int)m)));
        vf_store(out + i, vf_div(vf_load_n(x + i, (int)m), vf_add(one, e)), (int)m);
    }
}

static void fill_mix(sala_kernels *out)
{
    out->rows_lse_f32 = rows_lse_f32;
    out->rows_lse_f16 = rows_lse_f16;
    out->rows_mass_f32 = rows_mass_f32;
    out->rows_mass_f16 = rows_mass_f16;
    out->rows_pool = rows_pool;
    out->lightning_out = lightning_out;
    out->lightning_state = lightning_state;
    out->sigmoid_gate = sigmoid_gate;
}

#endif
