/* run.yaml: the example that ships, what follows from it, errors with their places, the canonical text. */
#include "train/run_config.h"
#include "train/yaml_tree.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#define EXAMPLE SALA_TEST_DIR "/../examples/train/tiny.yaml"
#define DENSE SALA_TEST_DIR "/../examples/train/dense.yaml"

static const char small[] = "model:\n"
                            "  tokenizer: bytes\n"
                            "  layers: 2\n"
                            "  hidden: 64\n"
                            "  heads: 2\n"
                            "  feed_forward: 128\n"
                            "  vocab: 264\n"
                            "  family: llama\n"
                            "data:\n"
                            "  stages:\n"
                            "    - {steps: 100, seq_len: 64, batch: 2, sources: [{path: a.txt}]}\n"
                            "optimizer:\n"
                            "  lr: 0.01\n";

static sala_status parse(sala_run_config *c, const char *yaml, const char *const *sets, int n, sala_error *err)
{
    return sala_run_config_parse(c, "run.yaml", yaml, strlen(yaml), sets, n, err);
}

static void good(sala_run_config *c, const char *yaml, const char *const *sets, int n)
{
    sala_error err = {0};
    const sala_status st = parse(c, yaml, sets, n, &err);
    if (st != SALA_OK)
        fail_msg("%s", err.message);
}

static void refused(const char *yaml, const char *set, const char *words)
{
    sala_run_config c;
    sala_error err = {0};
    if (parse(&c, yaml, &set, set != NULL, &err) == SALA_OK)
        fail_msg("taken, expected an error with \"%s\"", words);
    if (!strstr(err.message, words))
        fail_msg("error \"%s\", expected \"%s\" in it", err.message, words);
}

static void test_example(void **state)
{
    (void)state;
    sala_run_config c;
    sala_error err = {0};
    if (sala_run_config_load(&c, EXAMPLE, NULL, 0, NULL, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c.steps, 240);
    assert_int_equal(c.warmup, 12);
    assert_int_equal(c.decay_steps, 48);
    assert_true(c.mup);
    assert_true(c.lr_end == 0.05 * 0.01);
    assert_int_equal(c.shape.n_layers, 4);
    assert_int_equal(c.shape.mixers[0], SALA_MIXER_SPARSE);
    assert_int_equal(c.shape.mixers[3], SALA_MIXER_LIGHTNING);
    assert_int_equal(c.shape.sparse.topk, 2);
    assert_int_equal(c.shape.bos, 256);
    assert_int_equal(c.shape.eos[0], 257);
    assert_true(c.shape.logit_divisor == 1.0);
    assert_string_equal(c.stages[0].sources[0].path, "/usr/share/doc/jargon-text/jargon.txt.gz");
    sala_run_config_free(&c);
}

static void test_dense_example(void **state)
{
    (void)state;
    sala_run_config c;
    sala_error err = {0};
    if (sala_run_config_load(&c, DENSE, NULL, 0, NULL, &err) != SALA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c.steps, 1000);
    assert_int_equal(c.n_stages, 2);
    assert_false(c.mup);
    assert_true(sala_run_lr(&c, 25) == 0.003 * 25 / 50);
    assert_true(sala_run_lr(&c, 800) == 0.003);
    assert_true(sala_run_lr(&c, 900) > 0.0016 && sala_run_lr(&c, 900) < 0.0017);
    assert_true(fabs(sala_run_lr(&c, 1000) - 0.0003) < 1e-12);
    sala_run_config_free(&c);
}

/* What auto came to in a save is taken by a run that says auto, and compared with one that does not. */
static void test_adopting(void **state)
{
    (void)state;
    sala_run_config c;
    sala_buf text = {0};
    const char *const sets[] = {"compute.precision=bf16", "compute.rows_per_pass=512",
                                "compute.recompute='feed:3,mixer:2,layer:1'"};
    good(&c, small, sets, 3);
    assert_int_equal(sala_run_config_text(&text, &c, true), SALA_OK);
    assert_non_null(strstr(text.data, "compute.recompute: \"feed:3,mixer:2,layer:1\"\n"));
    sala_run_config_free(&c);
    good(&c, small, sets, 1);
    assert_int_equal(sala_run_config_adopt(&c, text.data, NULL), SALA_OK);
    assert_int_equal(c.rows_per_pass, 512);
    assert_string_equal(c.recompute, "feed:3,mixer:2,layer:1");
    sala_run_config_free(&c);
    const char *const f32[] = {"compute.precision=f32", "compute.recompute=layer", "compute.rows_per_pass=64"};
    good(&c, small, f32, 3);
    assert_int_equal(sala_run_config_adopt(&c, text.data, NULL), SALA_OK);
    assert_int_equal(c.rows_per_pass, 64);
    assert_string_equal(c.recompute, "layer");
    sala_buf_clear(&text);
    assert_int_equal(sala_run_config_text(&text, &c, true), SALA_OK);
    assert_null(strstr(text.data, "recompute")); /* f32 has the same bits */
    sala_run_config_free(&c);
    sala_buf_free(&text);
}

static void test_text_is_read_again(void **state)
{
    (void)state;
    sala_run_config a, b;
    sala_buf first = {0}, second = {0};
    const char *const sets[] = {"data.seed=18446744073709551615", "output.prompts=['a \"b\"\\\\', 'c: d']",
                                "output.dir='x y'", "data.stages.0.sources.1={path: null, weight: 3}",
                                "data.stages.0.sources.1.path='n: 1'"};
    good(&a, small, sets, (int)SALA_ARRAY_LEN(sets));
    assert_int_equal(sala_run_config_text(&first, &a, false), SALA_OK);
    good(&b, first.data, NULL, 0);
    assert_int_equal(sala_run_config_text(&second, &b, false), SALA_OK);
    assert_string_equal(first.data, second.data);
    assert_true(b.seed == UINT64_MAX);
    assert_string_equal(b.stages[0].sources[1].path, "n: 1");
    assert_string_equal(b.prompts.items[1], "c: d");
    sala_run_config_free(&a);
    sala_run_config_free(&b);
    sala_buf_free(&first);
    sala_buf_free(&second);
}

static void test_errors(void **state)
{
    (void)state;
    static const char typo[] = "model: {tokenizer: bytes}\noptimiser:\n  lr: 1\n";
    refused("a: 1\na: 2\n", NULL, "run.yaml:2:1: \"a\" is given twice; the first is at run.yaml:1:1");
    refused("a: &x 1\n", NULL, "anchors");
    refused("a: *x\n", NULL, "aliases");
    refused("a: [1\n", NULL, "run.yaml:");
    refused("- 1\n", NULL, "found a list");
    refused("a: 1\n---\nb: 2\n", NULL, "second document");
    refused(typo, NULL, "run.yaml:2:1: there is no key \"optimiser\"; the nearest is \"optimizer\"");
    refused("model: {tokenizer: bytes}\n", NULL, "model.layers is missing");
    refused("model: {tokenizer: bytes, layer: 2}\n", NULL, "the nearest is \"model.layers\"");
    refused(small, "compute.recompute=feed:2,", "or the last layers, such as feed:6,mixer:2");
    refused(small, "compute.recompute=layer:1,feed:2", "expected one of auto, none, feed, mixer, layer");
    refused(small, "shedule=3", "the nearest is \"schedule\"");
    refused(small, "optimiser.lr=1", "--set optimiser.lr=1: there is no key \"optimiser\"");
    refused(small, "optimizer.lt=1",
            "--set optimizer.lt=1: there is no key \"optimizer.lt\"; the nearest is \"optimizer.lr\"");
    refused(small, "model.lr=1", "the nearest is \"optimizer.lr\"");
    refused(small, "data.stages.0.seqlen=1", "the nearest is \"data.stages.0.seq_len\"");
    refused(small, "schedule.steps=1k5", "schedule.steps is \"1k5\"; expected a whole number >= 1");
    refused(small, "optimizer.lr=nan", "expected a number from 0 to 100");
    refused(small, "optimizer=3", "optimizer is \"3\"; expected a group of keys");
    refused(small, "model.family=lama", "expected one of llama, qwen2");
    refused(small, "model.mixers=[lightning]", "family llama has no layers of");
    refused(small, "model.mixers=[sparse]", "model.sparse does not say how");
    refused(small, "model.mup=true", "no place for its multipliers");
    refused(small, "model.vocab=257", "at least 258");
    refused(small, "model.heads=5", "model.hidden is 64, which 5 heads do not share evenly");
    refused(small, "model.kv_heads=3", "model: 2 attention heads can not share 3");
    refused(small, "schedule.decay.shape=half-life", "the shape half-life needs it");
    refused(small, "data.stages=[]", "at least one stage");
    refused(small, "data.stages.7.steps=1", "should be 0 to 1");
    refused(small, "data.stages.0.sources=[]", "a list such as");
    refused(small, "nothing", "expected KEY=VALUE");
}

static void test_steps(void **state)
{
    (void)state;
    sala_run_config c;
    const char *const sets[] = {"data.stages.1={steps: 50, seq_len: 128, batch: 1, sources: [{path: b}]}",
                                "schedule.steps=120", "schedule.warmup=10", "schedule.decay.shape=linear",
                                "schedule.decay.end=0"};
    int64_t before;
    good(&c, small, sets, 2);
    assert_int_equal(c.n_stages, 2);
    assert_int_equal(c.stages[1].steps, 20);
    assert_int_equal(sala_run_stage_of(&c, 100, &before), 0);
    assert_int_equal(sala_run_stage_of(&c, 101, &before), 1);
    assert_int_equal(before, 100);
    sala_run_config_free(&c);
    const char *const fewer[] = {sets[0], "schedule.steps=100"};
    good(&c, small, fewer, 2);
    assert_int_equal(c.n_stages, 1);
    sala_run_config_free(&c);
    good(&c, small, sets, 5);
    assert_true(sala_run_lr(&c, 5) == 0.01 * 5 / 10);
    assert_true(sala_run_lr(&c, 50) == 0.01);
    assert_true(sala_run_lr(&c, 96) == 0.01);
    assert_true(sala_run_lr(&c, 97) < 0.01);
    assert_true(sala_run_lr(&c, 120) == 0);
    sala_run_config_free(&c);
}

static void test_going_on(void **state)
{
    (void)state;
    sala_run_config then, now;
    sala_buf a = {0}, b = {0}, list = {0};
    bool same;
    const char *const short_run[] = {"schedule.warmup=10", "schedule.decay.steps=20"};
    const char *const longer[] = {"schedule.warmup=10", "schedule.decay.steps=20", "schedule.steps=500"};
    const char *const other[] = {"schedule.warmup=10", "schedule.decay.steps=20", "optimizer.clip=2"};
    good(&then, small, short_run, 2);
    good(&now, small, longer, 3);
    assert_int_equal(sala_run_config_text(&a, &then, true), SALA_OK);
    assert_int_equal(sala_run_config_text(&b, &now, true), SALA_OK);
    assert_null(strstr(a.data, "threads"));
    sala_run_config_difference(&list, &same, a.data, a.data);
    assert_true(same);
    assert_true(sala_run_config_continues(&now, b.data, a.data, 80));
    assert_false(sala_run_config_continues(&now, b.data, a.data, 81)); /* there the first run's rate falls */
    sala_run_config_free(&now);
    sala_buf_clear(&b);
    good(&now, small, other, 3);
    assert_int_equal(sala_run_config_text(&b, &now, true), SALA_OK);
    assert_false(sala_run_config_continues(&now, b.data, a.data, 1));
    sala_run_config_difference(&list, &same, a.data, b.data);
    assert_false(same);
    assert_string_equal(list.data, "optimizer.clip: 1 then, 2 now\n");
    sala_run_config_free(&then);
    sala_run_config_free(&now);
    sala_buf_free(&a);
    sala_buf_free(&b);
    sala_buf_free(&list);
}

static void test_corpus_stands_for_path(void **state)
{
    (void)state;
    sala_run_config c;
    sala_buf text = {0};
    good(&c, small, NULL, 0);
    c.stages[0].sources[0].corpus = 0xabc;
    assert_int_equal(sala_run_config_text(&text, &c, true), SALA_OK);
    assert_non_null(strstr(text.data, "data.stages.0.sources.0.path: \"corpus:0000000000000abc\"\n"));
    assert_null(strstr(text.data, "a.txt"));
    sala_run_config_free(&c);
    sala_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_example), cmocka_unit_test(test_adopting),
        cmocka_unit_test(test_example),       cmocka_unit_test(test_text_is_read_again),
        cmocka_unit_test(test_errors),        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_going_on),      cmocka_unit_test(test_corpus_stands_for_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
