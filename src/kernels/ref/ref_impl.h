/* The reference family: plain C in f32, one source for all machines. It is compiled once per vector width (REF_NAME
 * gives the suffix). Sums run over 16 fixed lanes that are added in one fixed tree, and nothing is contracted, so every
 * build gives the same bits and `--kernels ref` means the same on any machine. */
#include "kernels/kernels.h"
#include "kernels/ref/dequant_impl.h"
#include "kernels/ref/ref_exp.h"

#include <math.h>

#define LANES 16  /* partial sums of a dot product */
#define CHUNK 512 /* columns decoded at a time; a multiple of every block; sums of chunks are added in order */
#define TILE_ROWS 8

#if defined(__AVX512F__)
#define VEC_BYTES 64
#define DOT_TOKENS 2
#elif defined(__AVX__)
#define VEC_BYTES 32
#define DOT_TOKENS 1
#else
#define VEC_BYTES 16
#define DOT_TOKENS 1
#endif
#define VEC_FLOATS (VEC_BYTES / 4)
#define N_VEC (LANES / VEC_FLOATS)
#define DOT_ROWS (N_VEC == 4 ? 2 : 4)

typedef float vec __attribute__((vector_size(VEC_BYTES)));
typedef float vec_u __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));

static inline float sum_lanes(const float *a)
{
    float b[8];
    for (int i = 0; i < 8; i++)
        b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++)
        b[i] += b[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* sums[t][r] = dot of row r of w (rows CHUNK apart) and token t of x, n a multiple of LANES. */
static inline __attribute__((always_inline)) void dot_tile(float sums[][DOT_ROWS], const float *w, const float *x,
                                                           int64_t x_stride, int64_t n, const int n_tok)
{
    vec acc[DOT_TOKENS][DOT_ROWS][N_VEC] = {0};
    for (int64_t c = 0; c < n; c += LANES) {
        for (int v = 0; v < N_VEC; v++) {
            for (int t = 0; t < n_tok; t++) {
                const vec xv = *(const vec_u *)(x + t * x_stride + c + v * VEC_FLOATS);
                for (int r = 0; r < DOT_ROWS; r++)
                    acc[t][r][v] += *(const vec_u *)(w + r * CHUNK + c + v * VEC_FLOATS) * xv;
            }
        }
    }
    for (int t = 0; t < n_tok; t++)
        for (int r = 0; r < DOT_ROWS; r++)
            sums[t][r] = sum_lanes((const float *)acc[t][r]);
}

static inline __attribute__((always_inline)) void linear_run(void (*deq)(float *, const void *, int64_t), int block,
                                                             int block_bytes, float *out, int64_t out_stride,
                                                             const void *w, const void *act, size_t act_stride,
                                                             int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens)
{
    float tile[TILE_ROWS * CHUNK] __attribute__((aligned(64)));
    const size_t row_bytes = (size_t)(cols / block) * (size_t)block_bytes;
    const int64_t x_stride = (int64_t)(act_stride / sizeof(float));
    for (int64_t r0 = row0; r0 < row1; r0 += TILE_ROWS) {
        const int n_rows = row1 - r0 < TILE_ROWS ? (int)(row1 - r0) : TILE_ROWS;
        for (int64_t c0 = 0; c0 < cols; c0 += CHUNK) {
            const int64_t n = cols - c0 < CHUNK ? cols - c0 : CHUNK;
            const int64_t padded = (n + LANES - 1) / LANES * LANES; /* inputs are padded with zeros too */
            for (int r = 0; r < n_rows; r++) {
                const uint8_t *src = (const uint8_t *)w + (size_t)(r0 + r) * row_bytes;
                deq(tile + r * CHUNK, src + (size_t)(c0 / block) * (size_t)block_bytes, n);
                for (int64_t c = n; c < padded; c++)
                    tile[r * CHUNK + c] = 0;
            }
            for (int r = n_rows; r < TILE_ROWS; r++)
                memset(tile + r * CHUNK, 0, (size_t)padded * sizeof(float));
            for (int64_t t = 0; t < n_tokens;) {
                const int n_tok = n_tokens - t < DOT_TOKENS ? 1 : DOT_TOKENS;
                const float *x = (const float *)act + t * x_stride + c0;
                for (int r = 0; r < n_rows; r += DOT_ROWS) {
                    float sums[DOT_TOKENS][DOT_ROWS];
                    if (n_tok == 1)
                        dot_tile(sums, tile + r * CHUNK, x, x_stride, padded, 1);
                    else
                        dot_tile(sums, tile + r * CHUNK, x, x_stride, padded, DOT_TOKENS);
                    for (int i = 0; i < n_tok; i++) {
                        float *o = out + (t + i) * out_stride + r0 + r;
                        for (int k = 0; k < DOT_ROWS && r + k < n_rows; k++)
                            o[k] = c0 == 0 ? sums[i][k] : o[k] + sums[i][k];
                    }
                }
                t += n_tok;
            }
        }
    }
}

#define X(type, id)                                                                                                    \
    static void get_row_##type(float *out, const void *w, int64_t rows, int64_t cols, int64_t r)                       \
    {                                                                                                                  \
        (void)rows;                                                                                                    \
        deq_##type(out, (const uint8_t *)w + (size_t)r * (size_t)sala_dtype_bytes(SALA_##id, cols), cols);             \
    }                                                                                                                  \
    static void run_##type(float *out, int64_t out_stride, const void *w, const void *act, size_t act_stride,          \
                           int64_t rows, int64_t cols, int64_t row0, int64_t row1, int64_t n_tokens, void *scratch)    \
    {                                                                                                                  \
        (void)rows, (void)scratch;                                                                                     \
        linear_run(deq_##type, BLOCK_##id, BYTES_##id, out, out_stride, w, act, act_stride, cols, row0, row1,          \
                   n_tokens);                                                                                          \
    }                                                                                                                  \
    const sala_linear_kernel REF_NAME(sala_linear_##type) = {.name = #type "_ref" REF_SUFFIX,                          \
                                                             .dtype = SALA_##id,                                       \
                                                             .need = REF_NEED,                                         \
                                                             .is_ref = true,                                           \
                                                             .panel_rows = TILE_ROWS,                                  \
                                                             .act = &sala_act_f32,                                     \
                                                             .get_row = get_row_##type,                                \
                                                             .run = run_##type};
enum {
#define B(name, id, block, bytes) BLOCK_##name = (block), BYTES_##name = (bytes),
    SALA_DTYPE_LIST(B)
#undef B
};
SALA_REF_TYPES(X)
#undef X

/* ---- element-wise ---- */

static void rms_norm(float *out, const float *x, const float *w, int64_t n, float eps)
{
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; i + j < n; j++)
        lanes[j] += (double)x[i + j] * (double)x[i + j];
    double sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    const float scale = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    if (w)
        for (i = 0; i < n; i++)
            out[i] = x[i] * scale * w[i];
    else
        for (i = 0; i < n; i++)
            out[i] = x[i] * scale;
}

static void add_scaled(float *x, const float *y, float r, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += r * y[i];
}

static void swiglu(float *out, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + (float)sala_ref_exp(-(double)gate[i])) * up[i];
}

static void rope(float *x, const float *cosines, const float *sines, int n_heads, int stride, int n_rot, bool half)
{
    const int n_pairs = n_rot / 2;
    for (int h = 0; h < n_heads; h++, x += stride) {
        for (int i = 0; i < n_pairs; i++) {
            float *a = half ? x + i : x + 2 * i, *b = half ? x + i + n_pairs : x + 2 * i + 1;
            const float u = *a, v = *b;
            *a = u * cosines[i] - v * sines[i];
            *b = v * cosines[i] + u * sines[i];
        }
    }
}

static void f32_to_f16(uint16_t *out, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = sala_f32_to_f16(x[i]);
}

static void f16_to_f32(float *out, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = sala_f16_to_f32(x[i]);
}

static int64_t argmax(const float *x, int64_t n, float *max)
{
    int64_t best = 0;
    bool nan = x[0] != x[0];
    for (int64_t i = 1; i < n; i++) {
        nan |= x[i] != x[i];
        if (x[i] > x[best])
            best = i;
    }
    *max = nan ? NAN : x[best];
    return nan ? -1 : best;
}

static double log_sum_exp(const float *x, int64_t n)
{
    float max;
    if (argmax(x, n, &max) < 0)
        return NAN;
    if (isinf(max)) /* exp(inf - inf) would spoil the sum */
        return (double)max;
    double lanes[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] += sala_ref_exp((double)x[i + j] - (double)max);
    for (int j = 0; i + j < n; j++)
        lanes[j] += sala_ref_exp((double)x[i + j] - (double)max);
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    return (double)max + log(sum);
}

static bool all_finite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

static inline uint32_t at_least(const float *x, int m, float t)
{
    uint32_t bits = 0;
    for (int i = 0; i < m; i++)
        bits |= (uint32_t)(x[i] >= t) << i;
    return bits;
}

static inline void range_of(float *min, float *max, const float *x, int64_t n)
{
    *min = *max = x[0];
    for (int64_t i = 1; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

#include "kernels/top_k_impl.h"

#include "kernels/ref/kv_impl.h"
#include "kernels/ref/mix_impl.h"

void REF_NAME(sala_fill)(sala_kernels *out)
{
    out->rms_norm = rms_norm;
    out->add_scaled = add_scaled;
    out->swiglu = swiglu;
    out->rope = rope;
    out->f32_to_f16 = f32_to_f16;
    out->f16_to_f32 = f16_to_f32;
    out->argmax = argmax;
    out->top_k = top_k;
    out->log_sum_exp = log_sum_exp;
    out->all_finite = all_finite;
    fill_kv(out);
    fill_mix(out);
}
