/* AdamW and clipping against torch.optim.AdamW, with every family of kernels that this machine has. */
#include "kernels/train_kernels.h"
#include "os/os.h"
#include "unit/test.h"
#include "unit/train/adamw.h"

#include <math.h>

static void follow(const sala_train_kernels *k)
{
    float p[ADAMW_N], g[ADAMW_N], m[ADAMW_N] = {0}, v[ADAMW_N] = {0};
    for (int i = 0; i < ADAMW_N; i++)
        p[i] = (float)adamw_start[i];
    for (int s = 0; s < ADAMW_STEPS; s++) {
        for (int i = 0; i < ADAMW_N; i++)
            g[i] = (float)adamw_grads[s][i];
        const double norm = sqrt(k->sum_squares(g, ADAMW_N));
        k->adamw(p, g, m, v, ADAMW_N, (float)adamw_lr[s], 0.9f, 0.95f, 1e-8f, 0.1f, (float)(1 / (1 - pow(0.9, s + 1))),
                 (float)(1 / (1 - pow(0.95, s + 1))), norm > 1 ? (float)(1 / norm) : 1, s % 2 == 0);
        for (int i = 0; i < ADAMW_N; i++) {
            if (fabs((double)p[i] - adamw_after[s][i]) > 1e-6)
                fail_msg("%s, step %d, weight %d: %.9g, torch has %.9g", k->family, s + 1, i, (double)p[i],
                         adamw_after[s][i]);
            if (s % 2 == 0)
                assert_true(g[i] == 0);
        }
    }
}

static void follows_torch(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avx512", "neon"};
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        sala_train_kernels k;
        if (sala_train_kernels_get(&k, names[i], sala_os_cpu_features())) {
            follow(&k);
            n++;
        }
    }
    assert_true(n >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(follows_torch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
