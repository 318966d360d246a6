/* A step takes no memory: everything is there once the trainer is open. The linker passes this program's allocations
 * by here (cmake/tests.cmake), those of libraries excepted. */
#include "unit/train/tiny_run.h"

#include <math.h>
#include <stdatomic.h>

enum { N_VOCAB = 96, SEQ = 200 };
#define TINY .n_vocab = N_VOCAB, .n_ctx = 512, .scale = 1

static const tiny_model models[] = {
    {TINY, .architecture = "qwen2", .n_layers = 2, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 10,
     .n_ff = 72, .biases = true},
    {TINY, .architecture = "minicpm-sala", .n_layers = 4, .n_embd = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16,
     .n_ff = 96, .mixers = "slls", .sparse = {4, 2, 8, 1, 4, 16, 60, false}, .linear_heads = 4, .linear_kv_heads = 4,
     .linear_dim = 16, .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true},
};

static atomic_int watched, taken;
static atomic_ullong bytes_taken;

static void note(size_t bytes)
{
    if (atomic_load(&watched)) {
        atomic_fetch_add(&taken, 1);
        atomic_fetch_add(&bytes_taken, bytes);
    }
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__real_sala_os_pages_alloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_sala_os_pages_alloc(size_t n);

void *__wrap_malloc(size_t n)
{
    note(n);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    note(n * size);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    note(n);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    note(n);
    return __real_aligned_alloc(align, n);
}

void *__wrap_sala_os_pages_alloc(size_t n)
{
    note(n);
    return __real_sala_os_pages_alloc(n);
}

static void step_in(const tiny_model *m, sala_precision precision, const char *recompute, int mtp)
{
    tiny_run r;
    tiny_batch full, part;
    sala_step_result out;
    sala_error err;
    tiny_run_open(&r, m, SEQ, 2);
    r.run.precision = precision;
    r.run.mtp_depth = mtp;
    r.run.clip = 1;
    tiny_run_start(&r, 3, recompute);
    tiny_batch_make(&full, SEQ, N_VOCAB, 31);
    tiny_batch_make(&part, SEQ - 77, N_VOCAB, 32); /* other remainders */
    const sala_batch batches[] = {full.batch, part.batch};
    atomic_store(&taken, 0);
    atomic_store(&watched, 1);
    double loss;
    int64_t n;
    float logits[N_VOCAB];
    for (int i = 0; i < 2; i++)
        assert_int_equal(sala_trainer_step(r.trainer, batches, 2, full.batch.n_supervised + part.batch.n_supervised,
                                           0.01, &out, &err),
                         SALA_OK);
    assert_int_equal(sala_trainer_evaluate(r.trainer, &part.batch, &loss, &n, NULL, &err), SALA_OK);
    assert_int_equal(sala_trainer_logits(r.trainer, full.tokens, 33, logits, &err), SALA_OK);
    atomic_store(&watched, 0);
    if (atomic_load(&taken))
        fail_msg("%s, %s, %s: %d allocations", m->architecture, precision == SALA_PRECISION_BF16 ? "bf16" : "f32",
                 recompute, atomic_load(&taken));
    tiny_run_stop(&r);
    tiny_run_close(&r);
}

/* What opening a trainer takes is what the plan says, but for what is small whatever the model: lists of tasks,
 * handles, primitives. */
static void the_plan_counts_what_is_taken(void **state)
{
    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
            tiny_model m = models[i];
            tiny_run r;
            m.n_embd = 192;
            m.n_ff = 512;
            tiny_run_open(&r, &m, 4096, 1);
            r.run.precision = bf16 ? SALA_PRECISION_BF16 : SALA_PRECISION_F32;
            atomic_store(&bytes_taken, 0);
            sala_error err;
            assert_int_equal(sala_params_plan(&r.params, &r.run, &err), SALA_OK);
            assert_int_equal(sala_train_plan_make(&r.plan, &r.run, &r.params, 0, 3, 1, &err), SALA_OK);
            assert_int_equal(sala_pool_open(&r.pool, 3), 0);
            atomic_store(&watched, 1);
            assert_int_equal(sala_trainer_open(&r.trainer, &r.run, &r.params, &r.plan, r.pool, NULL, &err), SALA_OK);
            atomic_store(&watched, 0);
            const double got = (double)atomic_load(&bytes_taken), want = (double)(r.plan.total - r.plan.loader);
            /* How oneDNN lays out weights, and its scratch, are its own. */
            if (!(fabs(got - want) <= (bf16 ? 0.1 : 0.02) * want))
                fail_msg("%s, %s: the plan says %.0f bytes, %.0f were taken", m.architecture, bf16 ? "bf16" : "f32",
                         want, got);
            tiny_run_stop(&r);
            tiny_run_close(&r);
        }
    }
}

static void a_step_takes_no_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++) {
        step_in(&models[i], SALA_PRECISION_F32, "none", 0);
        step_in(&models[i], SALA_PRECISION_F32, "layer", 1);
        step_in(&models[i], SALA_PRECISION_BF16, "none", 1);
        step_in(&models[i], SALA_PRECISION_BF16, "feed", 0);
    }
    atomic_store(&watched, 1);       /* the watch itself */
    void *volatile some = malloc(1); /* or the compiler knows better */
    free(some);
    sala_os_pages_free(sala_os_pages_alloc(1 << 16), 1 << 16);
    atomic_store(&watched, 0);
    assert_int_equal(atomic_load(&taken), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_step_takes_no_memory),
                                       cmocka_unit_test(the_plan_counts_what_is_taken)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
