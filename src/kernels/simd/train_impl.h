/* Kernels of training for any register width. The includer has included a lanes_*.h and defines
 *   TRAIN_FILL     the function that puts these into the table
 *   MMA_ROWS, MMA_VECS   the register tile of a product: rows (at most 6) by registers (at most 4)
 *   vf_sqrt(a)
 *   vf_transpose(r)      LANES registers, in place
 *   vi_bf16(a)           each lane to bf16, nearest even, in the low 16 bits; NaN stays NaN
 *   vi_store_u16(p, a, n)  the low halves of the first n lanes
 *
 * Sums that go into the gradient of one element have one order, by shape alone: chains of FMA in products, LANES
 * partial sums and one tree elsewhere. */
#include "kernels/simd/exp_impl.h"
#include "kernels/train_families.h"

#include <math.h>

_Static_assert(SALA_TILE % LANES == 0, "tiles are whole registers");

enum { TILE_VECS = SALA_TILE / LANES };

/* ---- tile products ---- */

/* The next tile of n rows that are left: as equal as can be, since small ones wait for their own sums. */
static inline int next_rows(int n)
{
    const int n_tiles = (n + MMA_ROWS - 1) / MMA_ROWS;
    return (n + n_tiles - 1) / n_tiles;
}

/* Calls f(..., n) with a constant n in [1, MMA_ROWS]. Compilers drop the cases that MMA_ROWS rules out. */
#define ROWS_OF(n, f, ...)                                                                                             \
    switch ((n) < MMA_ROWS ? (n) : MMA_ROWS) {                                                                         \
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
        f(__VA_ARGS__, MMA_ROWS < 4 ? MMA_ROWS : 4);                                                                   \
        break;                                                                                                         \
    case 5:                                                                                                            \
        f(__VA_ARGS__, MMA_ROWS < 5 ? MMA_ROWS : 5);                                                                   \
        break;                                                                                                         \
    case 6:                                                                                                            \
        f(__VA_ARGS__, MMA_ROWS < 6 ? MMA_ROWS : 6);                                                                   \
        break;                                                                                                         \
    }

/* Register v of n_vec, of which the last one has `last` lanes. */
INLINE vf load_vec(const float *p, int v, const int n_vec, int last)
{
    return v + 1 < n_vec || last == LANES ? vf_load(p + v * LANES) : vf_load_n(p + v * LANES, last);
}

typedef struct product {
    const float *a, *b;
    int64_t a_row, a_col, ldb;
    int k;
    bool add;
} product;

INLINE void mma_tile(float *c, int64_t ldc, const product *in, const int n_vec, const int last, const int rows)
{
    const float *a = in->a, *b = in->b;
    const int64_t a_row = in->a_row, a_col = in->a_col, ldb = in->ldb;
    const int k = in->k;
    vf sum[MMA_ROWS][MMA_VECS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            sum[i][v] = in->add ? load_vec(c + i * ldc, v, n_vec, last) : vf_zero();
    for (int p = 0; p < k; p++, a += a_col, b += ldb) {
        vf y[MMA_VECS];
        for (int v = 0; v < n_vec; v++)
            y[v] = load_vec(b, v, n_vec, last);
        for (int i = 0; i < rows; i++) {
            const vf x = vf_bcast(a + i * a_row);
            for (int v = 0; v < n_vec; v++)
                sum[i][v] = vf_fma(x, y[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            vf_store(c + i * ldc + v * LANES, sum[i][v], v + 1 < n_vec ? LANES : last);
}

INLINE void mma_columns(float *c, int64_t ldc, product in, int m, const int n_vec, const int last)
{
    for (int i = 0, rows; i < m; i += rows) {
        rows = next_rows(m - i);
        ROWS_OF(rows, mma_tile, c, ldc, &in, n_vec, last)
        c += rows * ldc;
        in.a += rows * in.a_row;
    }
}

static void mma(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb, int m,
                int n, int k, bool add)
{
    product in = {a, b, a_row, a_col, ldb, k, add};
    int j = 0;
    for (; j + MMA_VECS * LANES <= n; j += MMA_VECS * LANES, in.b = b + j)
        mma_columns(c + j, ldc, in, m, MMA_VECS, LANES);
    for (; j + LANES <= n; j += LANES, in.b = b + j)
        mma_columns(c + j, ldc, in, m, 1, LANES);
    if (j < n)
        mma_columns(c + j, ldc, in, m, 1, n - j);
}

/* Without instructions for it: both halves of a pair are widened, which costs about as much as it saves. */
#define PAIR_VECS (MMA_VECS > 2 ? 2 : 1)
#define PAIR_ROWS 4

INLINE vf low_half(vi pair)
{
    return vf_bits(vi_sll_32(pair, 16));
}

INLINE vf high_half(vi pair)
{
    return vf_bits(vi_and(pair, vi_set1_32((int)0xffff0000u)));
}

INLINE void pairs_tile(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int k,
                       bool add, const int n_vec, const int rows)
{
    vf sum[PAIR_ROWS][PAIR_VECS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            sum[i][v] = add ? vf_load(c + i * ldc + v * LANES) : vf_zero();
    for (int p = 0; p < k; p += 2, a += 2, b += 2 * ldb) {
        vf low[PAIR_VECS], high[PAIR_VECS];
        for (int v = 0; v < n_vec; v++) {
            const vi y = vi_load(b + 2 * v * LANES);
            low[v] = low_half(y);
            high[v] = high_half(y);
        }
        for (int i = 0; i < rows; i++) {
            const vi x = vi_bcast_32(a + i * lda);
            const vf x0 = low_half(x), x1 = high_half(x);
            for (int v = 0; v < n_vec; v++)
                sum[i][v] = vf_fma(x1, high[v], vf_fma(x0, low[v], sum[i][v]));
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < n_vec; v++)
            vf_store(c + i * ldc + v * LANES, sum[i][v], LANES);
}

static void mma_bf16(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b, int64_t ldb, int m,
                     int n, int k, bool add)
{
    int j = 0;
#define PAIR_COLUMNS(n_vec)                                                                                            \
    for (; j + (n_vec)*LANES <= n; j += (n_vec)*LANES) {                                                               \
        int i = 0;                                                                                                     \
        for (; i + PAIR_ROWS <= m; i += PAIR_ROWS)                                                                     \
            pairs_tile(c + i * ldc + j, ldc, a + i * lda, lda, b + 2 * j, ldb, k, add, n_vec, PAIR_ROWS);              \
        for (; i < m; i++)                                                                                             \
            pairs_tile(c + i * ldc + j, ldc, a + i * lda, lda, b + 2 * j, ldb, k, add, n_vec, 1);                      \
    }
    PAIR_COLUMNS(PAIR_VECS)
    PAIR_COLUMNS(1)
#undef PAIR_COLUMNS
    for (; j < n; j++)
        for (int i = 0; i < m; i++) {
            float sum = add ? c[i * ldc + j] : 0;
            for (int p = 0; p < k; p++)
                sum = fmaf(sala_bf16_to_f32(a[i * lda + p]), sala_bf16_to_f32(b[(p / 2 * ldb + j) * 2 + p % 2]), sum);
            c[i * ldc + j] = sum;
        }
}

static void round_rows(uint16_t *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r++) {
        EACH_VECTOR(cols)
        vi_store_u16(out + r * ldo + i, vi_bf16(vf_load_n(x + r * ldx + i, (int)m)), (int)m);
        if (cols % 2)
            out[r * ldo + cols] = 0;
    }
}

static void round_pairs(uint16_t *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r += 2) {
        const float *even = x + r * ldx, *odd = even + ldx;
        uint16_t *to = out + r * ldo;
        int c = 0;
        for (; c + LANES <= cols; c += LANES) {
            const vi high = r + 1 < rows ? vi_sll_32(vi_bf16(vf_load(odd + c)), 16) : vi_zero();
            vi_store(to + 2 * c, vi_or(vi_bf16(vf_load(even + c)), high));
        }
        for (; c < cols; c++) {
            to[2 * c] = sala_f32_to_bf16(even[c]);
            to[2 * c + 1] = r + 1 < rows ? sala_f32_to_bf16(odd[c]) : 0;
        }
    }
}

static void copy_rows(float *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols, const float *factor,
                      float s)
{
    for (int r = 0; r < rows; r++, out += ldo, x += ldx) {
        const vf f = vf_set1(factor ? s * factor[r] : s);
        int c = 0;
        for (; c + LANES <= cols; c += LANES)
            vf_store(out + c, vf_mul(f, vf_load(x + c)), LANES);
        if (c < cols)
            vf_store(out + c, vf_mul(f, vf_load_n(x + c, cols - c)), cols - c);
    }
}

static void add_scaled(float *out, const float *x, const float *y, float s, int64_t n)
{
    const vf f = vf_set1(s);
    EACH_VECTOR(n)
    vf_store(out + i, vf_fma(f, vf_load_n(y + i, (int)m), vf_load_n(x + i, (int)m)), (int)m);
}

static void multiply(float *x, int64_t ldx, const float *w, int64_t ldw, int rows, int cols)
{
    for (int r = 0; r < rows; r++, x += ldx, w += ldw) {
        int c = 0;
        for (; c + LANES <= cols; c += LANES)
            vf_store(x + c, vf_mul(vf_load(x + c), vf_load(w + c)), LANES);
        if (c < cols)
            vf_store(x + c, vf_mul(vf_load_n(x + c, cols - c), vf_load_n(w + c, cols - c)), cols - c);
    }
}

static void transpose(float *out, int64_t ldo, const float *x, int64_t ldx, int rows, int cols)
{
    for (int r = 0; r < rows; r += LANES) {
        const int n_rows = rows - r < LANES ? rows - r : LANES;
        for (int c = 0; c < cols; c += LANES) {
            const int n_cols = cols - c < LANES ? cols - c : LANES;
            const float *from = x + r * ldx + c;
            float *to = out + c * ldo + r;
            vf v[LANES];
            if (n_rows == LANES && n_cols == LANES) {
                for (int i = 0; i < LANES; i++)
                    v[i] = vf_load(from + i * ldx);
                vf_transpose(v);
                for (int i = 0; i < LANES; i++)
                    vf_store(to + i * ldo, v[i], LANES);
            } else {
                for (int i = 0; i < LANES; i++)
                    v[i] = i < n_rows ? vf_load_n(from + i * ldx, n_cols) : vf_zero();
                vf_transpose(v);
                for (int i = 0; i < n_cols; i++)
                    vf_store(to + i * ldo, v[i], n_rows);
            }
        }
    }
}

/* Registers do not look at what they carry. */
static void transpose_pairs(uint16_t *out, int64_t ldo, const uint16_t *x, int64_t ldx, int rows, int cols)
{
    transpose((float *)(void *)out, ldo, (const float *)(const void *)x, ldx, rows, cols);
}

static void widen(float *out, const uint16_t *x, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_store(out + i, vf_load_bf16(x + i), LANES);
    for (; i < n; i++)
        out[i] = sala_bf16_to_f32(x[i]);
}

/* ---- attention ---- */

/* Lanes from .. to - 1 of a vector that begins at key j; `other` in the rest. */
INLINE vf only(vf a, int j, int from, int to, vf other)
{
    const int low = from - j, high = to - j;
    if (high <= 0 || low >= LANES)
        return other;
    a = high < LANES ? vf_first(a, high, other) : a;
    return low > 0 ? vf_first(other, low, a) : a;
}

/* exp(s - top) of one row in place; the sums of its registers, lane by lane. */
INLINE vf exp_row(float *row, float top, int n, int from, int to)
{
    const vf peak = vf_set1(top), zero = vf_zero();
    vf sum = zero;
    if (from == 0 && to == SALA_TILE) {
        for (int v = 0; v < TILE_VECS; v++) {
            const vf e = vf_exp_weight(vf_sub(vf_load(row + v * LANES), peak));
            vf_store(row + v * LANES, e, LANES);
            sum = vf_add(sum, e);
        }
        return sum;
    }
    EACH_VECTOR(n)
    {
        const vf e = only(vf_exp_weight(vf_sub(vf_load_n(row + i, (int)m), peak)), (int)i, from, to, zero);
        vf_store(row + i, e, (int)m);
        sum = vf_add(sum, e);
    }
    return sum;
}

INLINE vf max_row(const float *row, int n, int from, int to)
{
    const vf low = vf_set1(-INFINITY);
    vf top = low;
    if (from == 0 && to == SALA_TILE) {
        for (int v = 0; v < TILE_VECS; v++)
            top = vf_max(vf_load(row + v * LANES), top);
        return top;
    }
    EACH_VECTOR(n)
    top = vf_max(only(vf_load_n(row + i, (int)m), (int)i, from, to, low), top);
    return top;
}

/* Four rows at a time, whose maxima and sums cross the lanes together. */
static void softmax_tile(float *s, int64_t lds, int m, int n, const int32_t *first, const int32_t *visible, float *top,
                         float *sum, float *keep)
{
    float change[SALA_TILE] = {0}, total[SALA_TILE] = {0};
    for (int i0 = 0; i0 < m; i0 += 4) {
        const int rows = m - i0 < 4 ? m - i0 : 4;
        vf lanes[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        int from[4] = {0}, to[4] = {0};
        float highest[4];
        for (int r = 0; r < rows; r++) {
            from[r] = first && first[i0 + r] > 0 ? first[i0 + r] : 0;
            to[r] = visible[i0 + r] < n ? visible[i0 + r] : n;
            lanes[r] = max_row(s + (i0 + r) * lds, n, from[r], to[r]);
        }
        vf_hmax4(highest, lanes[0], lanes[1], lanes[2], lanes[3]);
        for (int r = 0; r < rows; r++) {
            float *row = s + (i0 + r) * lds;
            const int i = i0 + r;
            if (from[r] >= to[r]) {
                memset(row, 0, (size_t)n * sizeof *row);
                lanes[r] = vf_zero();
                continue;
            }
            const float old = top[i];
            top[i] = highest[r] > old ? highest[r] : old;
            change[i] = old - top[i];
            lanes[r] = exp_row(row, top[i], n, from[r], to[r]);
        }
        vf_hsum4(total + i0, lanes[0], lanes[1], lanes[2], lanes[3]);
    }
    for (int i = 0; i < m; i += LANES) { /* exp(0) is 1 and exp(-infinity) is 0, exactly */
        const int w = m - i < LANES ? m - i : LANES;
        const vf kept = vf_exp(vf_load(change + i));
        vf_store(keep + i, kept, w);
        vf_store(sum + i, vf_fma(vf_load_n(sum + i, w), kept, vf_load(total + i)), w);
    }
}

static void scale_rows(float *acc, int64_t ld, const float *keep, int n_rows, int d)
{
    for (int r = 0; r < n_rows; r++) {
        if (keep[r] == 1)
            continue;
        const vf x = vf_set1(keep[r]);
        float *row = acc + r * ld;
        EACH_VECTOR(d)
        vf_store(row + i, vf_mul(vf_load_n(row + i, (int)m), x), (int)m);
    }
}

static void softmax_back_tile(float *st, float *dpt, int64_t ld, int n_keys, int m, const int32_t *first,
                              const int32_t *visible, const float *lse, const float *delta, float scale)
{
    bool all = true;
    for (int i = 0; i < m; i++)
        all &= visible[i] >= n_keys && (!first || first[i] <= 0);
    const vf factor = vf_set1(scale);
    for (int v = 0; v < m; v += LANES) {
        const int n = m - v < LANES ? m - v : LANES;
        const vf sums = vf_load_n(lse + v, n), rows = vf_load_n(delta + v, n);
        for (int j = 0; j < n_keys; j++) {
            float *s = st + j * ld + v, *d = dpt + j * ld + v;
            const vf p = vf_exp_weight(vf_sub(vf_load_n(s, n), sums));
            vf_store(s, p, n);
            vf_store(d, vf_mul(vf_mul(p, vf_sub(vf_load_n(d, n), rows)), factor), n);
        }
    }
    if (all)
        return;
    for (int j = 0; j < n_keys; j++) { /* pairs that do not count, whatever came out of them */
        float *s = st + j * ld, *d = dpt + j * ld;
        for (int i = 0; i < m; i++) {
            const bool counts = j < visible[i] && (!first || j >= first[i]);
            s[i] = counts ? s[i] : 0;
            d[i] = counts ? d[i] : 0;
        }
    }
}

/* Four sums side by side, so that they do not wait for each other. */
static float dot(const float *a, const float *b, int64_t n)
{
    vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int64_t at = 0;
    for (; at + 4 * LANES <= n; at += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sum[j] = vf_fma(vf_load(a + at + j * LANES), vf_load(b + at + j * LANES), sum[j]);
    for (; at < n; at += LANES) {
        const int m = (int)(n - at < LANES ? n - at : LANES);
        sum[0] = vf_fma(vf_load_n(a + at, m), vf_load_n(b + at, m), sum[0]);
    }
    return vf_hsum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

/* ---- rows of layers ---- */

static void rms_norm(float *out, float *inv, const float *x, const float *w, int64_t n, float eps)
{
    const float total = dot(x, x, n);
    /* A sum that overflowed must not pass as a row of zeros: 0 * infinity makes the row not-a-number. */
    *inv = 1.0f / sqrtf(total / (float)n + eps) + 0.0f * total;
    const vf scale = vf_set1(*inv);
    if (!out)
        return;
    EACH_VECTOR(n)
    {
        vf v = vf_mul(vf_load_n(x + i, (int)m), scale);
        if (w)
            v = vf_mul(v, vf_load_n(w + i, (int)m));
        vf_store(out + i, v, (int)m);
    }
}

static void rms_norm_back(float *dx, float *dw, const float *dy, const float *x, const float *w, float inv, int64_t n,
                          bool add)
{
    const vf one = vf_set1(1.0f);
    vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    int at = 0;
    EACH_VECTOR(n)
    {
        const vf u = vf_mul(vf_load_n(dy + i, (int)m), w ? vf_load_n(w + i, (int)m) : one);
        sum[at] = vf_fma(u, vf_load_n(x + i, (int)m), sum[at]);
        at = (at + 1) & 3;
    }
    const float along = vf_hsum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    const vf rho = vf_set1(inv), back = vf_set1(inv * inv * inv / (float)n * along);
    EACH_VECTOR(n)
    {
        const vf g = vf_mul(vf_load_n(dy + i, (int)m), rho), v = vf_load_n(x + i, (int)m);
        if (dw)
            vf_store(dw + i, vf_fma(g, v, vf_load_n(dw + i, (int)m)), (int)m);
        vf d = vf_fnma(back, v, vf_mul(g, w ? vf_load_n(w + i, (int)m) : one));
        if (add)
            d = vf_add(vf_load_n(dx + i, (int)m), d);
        vf_store(dx + i, d, (int)m);
    }
}

static void rope_back(float *x, const float *cosines, const float *sines, int n_heads, int stride, int n_rot, bool half)
{
    const int n_pairs = n_rot / 2;
    for (int h = 0; h < n_heads; h++, x += stride) {
        if (half) {
            EACH_VECTOR(n_pairs)
            {
                const vf a = vf_load_n(x + i, (int)m), b = vf_load_n(x + n_pairs + i, (int)m);
                const vf c = vf_load_n(cosines + i, (int)m), s = vf_load_n(sines + i, (int)m);
                vf_store(x + i, vf_fma(b, s, vf_mul(a, c)), (int)m);
                vf_store(x + n_pairs + i, vf_fnma(a, s, vf_mul(b, c)), (int)m);
            }
        } else {
            EACH_VECTOR(2 * n_pairs)
            {
                float back[LANES];
                for (int p = 0; p < (int)m / 2; p++)
                    back[p] = -sines[i / 2 + p];
                const vf v = vf_load_n(x + i, (int)m);
                vf_store(x + i, vf_rotate_pairs(v, cosines + i / 2, back, (int)m / 2), (int)m);
            }
        }
    }
}

INLINE vf sigmoid(vf x)
{
    const vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_neg(x))));
}

static void swiglu_back(float *dgate, float *dup, float *mid, const float *dout, const float *gate, const float *up,
                        int64_t n)
{
    const vf one = vf_set1(1.0f);
    EACH_VECTOR(n)
    {
        const vf g = vf_load_n(gate + i, (int)m), u = vf_load_n(up + i, (int)m), d = vf_load_n(dout + i, (int)m);
        const vf s = sigmoid(g), silu = vf_mul(g, s);
        const vf slope = vf_mul(s, vf_fma(g, vf_sub(one, s), one));
        vf_store(dgate + i, vf_mul(vf_mul(d, u), slope), (int)m);
        vf_store(dup + i, vf_mul(d, silu), (int)m);
        vf_store(mid + i, vf_mul(silu, u), (int)m);
    }
}

static void sigmoid_gate_back(float *dx, float *dz, const float *dy, const float *x, const float *z, int64_t n)
{
    const vf one = vf_set1(1.0f);
    EACH_VECTOR(n)
    {
        const vf d = vf_load_n(dy + i, (int)m), v = vf_load_n(x + i, (int)m), s = sigmoid(vf_load_n(z + i, (int)m));
        const vf ds = vf_mul(d, s);
        vf_store(dx + i, ds, (int)m);
        vf_store(dz + i, vf_mul(vf_mul(ds, v), vf_sub(one, s)), (int)m);
    }
}

/* ---- head ---- */

static double cross_entropy_row(float *z, float *at_label, int64_t n, int32_t label, float weight, float zloss)
{
    enum { FEW = 16 }; /* additions in f32 before a sum goes on in f64 */
    const vf low = vf_set1(-INFINITY), zero = vf_zero();
    vf most[4] = {low, low, low, low};
    int at = 0;
    EACH_VECTOR(n)
    {
        const vf v = vf_load_n(z + i, (int)m);
        most[at] = vf_max(m < LANES ? vf_first(v, (int)m, low) : v, most[at]);
        at = (at + 1) & 3;
    }
    const float top = vf_hmax(vf_max(vf_max(most[0], most[1]), vf_max(most[2], most[3])));
    const vf peak = vf_set1(top);
    *at_label = z[label];
    double sum = 0;
    vf part = zero;
    int count = 0;
    EACH_VECTOR(n)
    {
        const vf e = vf_exp(vf_sub(vf_load_n(z + i, (int)m), peak));
        vf_store(z + i, e, (int)m);
        part = vf_add(part, m < LANES ? vf_first(e, (int)m, zero) : e);
        if (++count == FEW) {
            sum += vf_hsum_f64(part);
            part = zero;
            count = 0;
        }
    }
    sum += vf_hsum_f64(part);
    const double lse = (double)top + log(sum);
    if (weight == 0) {
        memset(z, 0, (size_t)n * sizeof *z);
        return lse;
    }
    const vf factor = vf_set1((float)((double)weight * (1 + 2 * (double)zloss * lse) / sum));
    EACH_VECTOR(n)
    vf_store(z + i, vf_mul(vf_load_n(z + i, (int)m), factor), (int)m);
    z[label] -= weight;
    return lse;
}

/* ---- parameters ---- */

static double sum_squares(const float *x, int64_t n)
{
    enum { BLOCK = 4096 };
    double total = 0;
    for (int64_t from = 0; from < n; from += BLOCK) {
        const float *p = x + from;
        const int64_t size = n - from < BLOCK ? n - from : BLOCK;
        vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        int at = 0;
        EACH_VECTOR(size)
        {
            const vf v = vf_load_n(p + i, (int)m);
            sum[at] = vf_fma(v, v, sum[at]);
            at = (at + 1) & 3;
        }
        total += (vf_hsum_f64(sum[0]) + vf_hsum_f64(sum[1])) + (vf_hsum_f64(sum[2]) + vf_hsum_f64(sum[3]));
    }
    return total;
}

static void adamw(float *p, float *g, float *m_, float *v_, int64_t n, float lr, float b1, float b2, float eps,
                  float decay, float c1, float c2, float g_scale, bool clear)
{
    const vf scale = vf_set1(g_scale), keep1 = vf_set1(b1), keep2 = vf_set1(b2), add1 = vf_set1(1 - b1),
             add2 = vf_set1(1 - b2), right1 = vf_set1(c1), right2 = vf_set1(c2), least = vf_set1(eps),
             rate = vf_set1(lr), shrink = vf_set1(decay), zero = vf_zero();
    EACH_VECTOR(n)
    {
        const vf x = vf_mul(vf_load_n(g + i, (int)m), scale), w = vf_load_n(p + i, (int)m);
        const vf first = vf_fma(keep1, vf_load_n(m_ + i, (int)m), vf_mul(add1, x));
        const vf second = vf_fma(keep2, vf_load_n(v_ + i, (int)m), vf_mul(add2, vf_mul(x, x)));
        const vf root = vf_add(vf_sqrt(vf_mul(second, right2)), least);
        const vf step = vf_fma(shrink, w, vf_div(vf_mul(first, right1), root));
        vf_store(m_ + i, first, (int)m);
        vf_store(v_ + i, second, (int)m);
        vf_store(p + i, vf_fnma(rate, step, w), (int)m);
        if (clear)
            vf_store(g + i, zero, (int)m);
    }
}

void TRAIN_FILL(sala_train_kernels *out)
{
    out->mma = mma;
    out->copy_rows = copy_rows;
    out->add_scaled = add_scaled;
    out->multiply = multiply;
    out->transpose = transpose;
    out->transpose_pairs = transpose_pairs;
    out->mma_bf16 = mma_bf16;
    out->round_rows = round_rows;
    out->round_pairs = round_pairs;
    out->widen = widen;
    out->softmax_tile = softmax_tile;
    out->scale_rows = scale_rows;
    out->softmax_back_tile = softmax_back_tile;
    out->dot = dot;
    out->rms_norm = rms_norm;
    out->rms_norm_back = rms_norm_back;
    out->rope_back = rope_back;
    out->swiglu_back = swiglu_back;
    out->sigmoid_gate_back = sigmoid_gate_back;
    out->cross_entropy_row = cross_entropy_row;
    out->sum_squares = sum_squares;
    out->adamw = adamw;
}
