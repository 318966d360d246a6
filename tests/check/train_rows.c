/* Row-wise kernels of training, the loss and the update of parameters, of every family, against double precision.
 * Bounds are a few eps of the magnitudes that go into an element, and n eps of those that go into a sum. */
#include "check/check.h"

#include <float.h>
#include <math.h>

#define EPS ((double)FLT_EPSILON)

static float *random_floats(check *c, int64_t n, float size)
{
    float *x = check_guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = size * check_uniform(c);
    return x;
}

static float *copy_of(const float *x, int64_t n)
{
    float *out = check_guarded((size_t)n * sizeof *x);
    memcpy(out, x, (size_t)n * sizeof *x);
    return out;
}

static void expect(check *c, const char *what, int64_t n, int64_t i, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound)) /* a NaN is not */
        check_fail(c, "%s, %lld elements, element %lld: %.9g instead of %.9g, bound %g", what, (long long)n,
                   (long long)i, got, want, bound);
}

static void check_add_scaled(check *c, const sala_train_kernels *k, int n)
{
    float *x = random_floats(c, n, 2), *y = random_floats(c, n, 2), *out = random_floats(c, n, 1);
    const float s = check_uniform(c);
    const float *before = copy_of(x, n);
    k->add_scaled(out, x, y, s, n);
    k->add_scaled(x, x, y, s, n);
    for (int i = 0; i < n; i++) {
        const double want = (double)before[i] + (double)s * (double)y[i];
        expect(c, "scaled sum", n, i, (double)out[i], want, 2 * EPS * (fabs((double)before[i]) + 2));
        expect(c, "scaled sum in place", n, i, (double)x[i], (double)out[i], 0);
    }
}

static void check_norm(check *c, const sala_train_kernels *k, const sala_kernels *inference, int n)
{
    float *x = random_floats(c, n, 2), *w = random_floats(c, n, 1), *dy = random_floats(c, n, 1);
    float *out = random_floats(c, n, 1), *same = random_floats(c, n, 1), inv = 0;
    const float eps = 1e-5f;
    k->rms_norm(out, &inv, x, w, n, eps);
    inference->rms_norm(same, x, w, n, eps);
    if (memcmp(out, same, (size_t)n * sizeof *out) != 0)
        check_fail(c, "%d elements are normed to other bits than in inference", n);
    double mean = 0, along = 0, size = 0;
    for (int i = 0; i < n; i++) {
        mean += (double)x[i] * (double)x[i] / n;
        along += (double)dy[i] * (double)w[i] * (double)x[i];
        size += fabs((double)dy[i] * (double)w[i] * (double)x[i]);
    }
    const double rho = 1 / sqrt(mean + (double)eps);
    expect(c, "inverse", n, 0, (double)inv, rho, rho * (n + 4) * EPS);
    for (int add = 0; add < 2; add++) {
        float *dx = random_floats(c, n, 1), *dw = random_floats(c, n, 1);
        const float *dx0 = copy_of(dx, n), *dw0 = copy_of(dw, n);
        k->rms_norm_back(dx, dw, dy, x, w, inv, n, add);
        for (int i = 0; i < n; i++) {
            const double a = rho * (double)dy[i] * (double)w[i], b = rho * rho * rho / n * (double)x[i];
            const double from = add ? (double)dx0[i] : 0;
            expect(c, "gradient of x", n, i, (double)dx[i], from + a - b * along,
                   (fabs(from) + fabs(a) * (n + 8) + fabs(b) * size * (4 * n + 8)) * EPS);
            const double dwi = (double)dw0[i] + (double)dy[i] * (double)x[i] * rho;
            expect(c, "gradient of w", n, i, (double)dw[i], dwi, (fabs(dwi) + 1) * (n + 8) * EPS * 4);
        }
    }
    float *dx = copy_of(dy, n), *apart = random_floats(c, n, 1);
    k->rms_norm_back(apart, NULL, dy, x, w, inv, n, false);
    k->rms_norm_back(dx, NULL, dx, x, w, inv, n, false);
    if (memcmp(dx, apart, (size_t)n * sizeof *dx) != 0)
        check_fail(c, "%d elements: the gradient over itself has other bits", n);
    const float sum = k->dot(x, dy, n);
    double want = 0, total = 0;
    for (int i = 0; i < n; i++) {
        want += (double)x[i] * (double)dy[i];
        total += fabs((double)x[i] * (double)dy[i]);
    }
    expect(c, "dot", n, 0, (double)sum, want, (n + 1) * EPS * total);
    check_reset();
}

/* Rotating back undoes what rotating did, but for the square of the factor. */
static void check_rope(check *c, const sala_train_kernels *k, int n_pairs, bool half)
{
    const int heads = 3, stride = 2 * n_pairs + check_below(c, 3), n = (heads - 1) * stride + 2 * n_pairs;
    float *x = random_floats(c, n, 1), *cosines = check_guarded((size_t)n_pairs * 4),
          *sines = check_guarded((size_t)n_pairs * 4);
    for (int i = 0; i < n_pairs; i++) {
        const float angle = 3 * check_uniform(c);
        cosines[i] = 1.5f * cosf(angle);
        sines[i] = 1.5f * sinf(angle);
    }
    const float *before = copy_of(x, n);
    k->rope(x, cosines, sines, heads, stride, 2 * n_pairs, half);
    k->rope_back(x, cosines, sines, heads, stride, 2 * n_pairs, half);
    for (int i = 0; i < n; i++) {
        const double want = (double)before[i] * (i % stride < 2 * n_pairs ? 2.25 : 1);
        expect(c, half ? "rope, halves" : "rope, pairs", n, i, (double)x[i], want,
               i % stride < 2 * n_pairs ? 40 * EPS : 0);
    }
    check_reset();
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void check_gates(check *c, const sala_train_kernels *k, int n)
{
    float *gate = random_floats(c, n, 20), *up = random_floats(c, n, 1), *dout = random_floats(c, n, 1);
    float *dgate = random_floats(c, n, 1), *dup = random_floats(c, n, 1), *mid = copy_of(dout, n);
    k->swiglu_back(dgate, dup, mid, mid, gate, up, n); /* an output in place of the gradient */
    for (int i = 0; i < n; i++) {
        const double g = (double)gate[i], u = (double)up[i], d = (double)dout[i], s = sigmoid(g);
        const double size = 40 * EPS * (1 + fabs(g));
        expect(c, "gate", n, i, (double)dgate[i], d * u * s * (1 + g * (1 - s)), fabs(d * u) * size);
        expect(c, "up", n, i, (double)dup[i], d * g * s, fabs(d * g * s) * size + 1e-30);
        expect(c, "product", n, i, (double)mid[i], g * s * u, fabs(g * s * u) * size + 1e-30);
    }
    float *dx = random_floats(c, n, 1), *dz = copy_of(dout, n);
    k->sigmoid_gate_back(dx, dz, dz, up, gate, n);
    for (int i = 0; i < n; i++) {
        const double d = (double)dout[i], s = sigmoid((double)gate[i]);
        expect(c, "gated", n, i, (double)dx[i], d * s, fabs(d) * 40 * EPS);
        expect(c, "sigmoid", n, i, (double)dz[i], d * (double)up[i] * s * (1 - s), fabs(d) * 40 * EPS);
    }
    check_reset();
}

static void check_loss(check *c, const sala_train_kernels *k, int n)
{
    float *z = random_floats(c, n, 15);
    const float weight = n % 5 == 0 ? 0 : 0.1f + 0.05f * check_uniform(c), zloss = n % 3 ? 0 : 0.01f;
    const int32_t label = check_below(c, n);
    const float *logits = copy_of(z, n);
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        top = fmax(top, (double)logits[i]);
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - top);
    const double want = top + log(sum), w = (double)weight;
    float at_label = 0;
    const double lse = k->cross_entropy_row(z, &at_label, n, label, weight, zloss);
    expect(c, "log-sum", n, 0, lse, want, 60 * EPS);
    if (at_label != logits[label])
        check_fail(c, "%d logits: %g at the label, which is %g", n, (double)at_label, (double)logits[label]);
    for (int i = 0; i < n; i++) {
        const double p = exp((double)logits[i] - want);
        const double dz = w * p * (1 + 2 * (double)zloss * want) - (i == label ? w : 0);
        expect(c, "gradient of logits", n, i, (double)z[i], dz, w * (p * 80 + (i == label)) * EPS);
    }
    check_reset();
}

static void check_update(check *c, const sala_train_kernels *k, int n)
{
    float *p = random_floats(c, n, 1), *g = random_floats(c, n, 3), *m = random_floats(c, n, 1),
          *v = random_floats(c, n, 1);
    for (int i = 0; i < n; i++)
        v[i] = fabsf(v[i]);
    const float *p0 = copy_of(p, n), *g0 = copy_of(g, n), *m0 = copy_of(m, n), *v0 = copy_of(v, n);
    const float lr = 0.01f, b1 = 0.9f, b2 = 0.95f, eps = 1e-8f, decay = 0.1f, c1 = 1.6f, c2 = 2.3f, scale = 0.7f;
    const bool clear = n % 2;
    double want = 0;
    for (int i = 0; i < n; i++)
        want += (double)g[i] * (double)g[i];
    expect(c, "sum of squares", n, 0, k->sum_squares(g, n), want, want * 300 * EPS);
    k->adamw(p, g, m, v, n, lr, b1, b2, eps, decay, c1, c2, scale, clear);
    for (int i = 0; i < n; i++) {
        const double x = (double)g0[i] * (double)scale;
        const double first = (double)b1 * (double)m0[i] + (1 - (double)b1) * x;
        const double second = (double)b2 * (double)v0[i] + (1 - (double)b2) * x * x;
        const double step = first * (double)c1 / (sqrt(second * (double)c2) + (double)eps);
        expect(c, "first moment", n, i, (double)m[i], first, (fabs((double)m0[i]) + fabs(x)) * 4 * EPS);
        expect(c, "second moment", n, i, (double)v[i], second, second * 8 * EPS);
        const double size = (fabs((double)m0[i]) + fabs(x)) * (double)c1 / (sqrt(second * (double)c2) + (double)eps);
        expect(c, "parameter", n, i, (double)p[i], (double)p0[i] - (double)lr * (step + (double)decay * (double)p0[i]),
               (fabs((double)p0[i]) * 3 + (double)lr * size * 12) * EPS);
        if (g[i] != (clear ? 0 : g0[i]))
            check_fail(c, "%d parameters: gradient %d is %g behind the update", n, i, (double)g[i]);
    }
    check_reset();
}

void check_train_rows(check *c)
{
    for (const char *const *f = sala_kernels_families(); *f; f++) {
        sala_train_kernels k;
        sala_kernels inference;
        if (c->bench || !check_begin_train(c, &k, "rows", *f))
            continue;
        sala_kernels_get(&inference, *f, c->cpu);
        for (int n = 1; n <= 130; n++) {
            check_norm(c, &k, &inference, n);
            check_add_scaled(c, &k, n);
            check_gates(c, &k, n);
            check_loss(c, &k, n);
            check_update(c, &k, n);
            check_rope(c, &k, n, n % 2);
        }
        check_norm(c, &k, &inference, 2048);
        check_loss(c, &k, 9000);
        check_update(c, &k, 9001);
        check_end(c);
    }
}
