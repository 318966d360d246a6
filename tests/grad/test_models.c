/* Whole small models of every family, through the layer code, the tape and the training device: loss and all gradients
 * against PyTorch's autograd in float64 (make_models.py), for each way of keeping and making again.
 *
 * Runs in bf16 are compared with PyTorch rounding the same operands. Over doubles nothing else differs, and the limit
 * is that of exact runs: what is rounded, and where, is as documented. Over floats a sum that ends elsewhere in its
 * last bits is rounded to the other side now and then; how far two such computations are apart is a property of the
 * model, which make_models.py has found without this program, for each gradient by itself. */
#include "grad_test.h"

#include "train/tape.h"

#include <jansson.h>

typedef struct subject {
    fixture f;
    sala_run_config run; /* shape: the model's */
    sala_train_plan plan;
    sala_recompute recompute[8];
    sala_net_part parts[128];
    char names[128][96];
    int n_parts;
    sala_net *net;
    sala_state_layout state;
    sala_tape tape;
    sala_layer_tape layers[8];
    void *block;
    size_t block_bytes;
    sala_attn_seq seqs[8];
    int n_seqs;
    int64_t rows;
    int32_t *ids, *labels;
} subject;

static void must(sala_status st, const sala_error *err)
{
    if (st != SALA_OK)
        fail_msg("%s", err->message);
}

static void read_config(subject *s, const vec_file *v)
{
    const vec *words = vec_get(v, "config");
    char *text = malloc((size_t)words->count + 1);
    assert_non_null(text);
    for (int64_t i = 0; i < words->count; i++)
        text[i] = (char)vec_int(words, i);
    text[words->count] = 0;
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    sala_error err;
    must(sala_config_from_json(&s->run.shape, json, NULL, &err), &err);
    json_decref(json);
    free(text);
}

static void add_parts(subject *s, const vec_file *v)
{
    const sala_config *c = &s->run.shape;
    for (int role = 0; role < SALA_T_COUNT; role++) {
        const bool of_layer = role >= SALA_T_FIRST_OF_LAYER;
        for (int l = 0; l < (of_layer ? c->n_layers : 1); l++) {
            int64_t rows, cols;
            if (!sala_tensor_shape(c, (sala_tensor_role)role, l, &rows, &cols))
                continue;
            char *name = s->names[s->n_parts];
            sala_net_part *part = &s->parts[s->n_parts++];
            assert_true(s->n_parts <= 128);
            *part = (sala_net_part){.role = (sala_tensor_role)role, .layer = l};
            sala_tensor_name(name, part->role, l, true);
            if (rows)
                part->weight = fixture_weight(&s->f, vec_get(v, name));
            else
                part->vector = fixture_param(&s->f, vec_get(v, name));
        }
    }
}

static void make_seqs(subject *s, const vec_file *v)
{
    const sala_config *c = &s->run.shape;
    const vec *lengths = vec_get(v, "lengths");
    const int half = c->rope.n_rot / 2;
    int64_t at = 0;
    for (int64_t i = 0; i < lengths->count; i++) {
        const int64_t n = vec_int(lengths, i);
        sala_attn_seq *seq = &s->seqs[s->n_seqs++];
        *seq = (sala_attn_seq){.first_row = at, .n_rows = n, .sparse_from = n >= c->sparse.dense_len ? 0 : INT64_MAX};
        if (c->rope.kind != SALA_ROPE_NONE)
            sala_rope_rows(s->net->rope_cos + at * half, s->net->rope_sin + at * half, s->net->inv_freq[0], half,
                           s->net->rope_factor[0], 0, n);
        if (c->attn_scale_base > 0)
            sala_query_scales(s->net->row_scale + at, c->attn_scale_base, 0, n);
        at += n;
    }
}

static bool open_subject(subject *s, const vec_file *v, const fixture_kind *kind, sala_recompute recompute)
{
    memset(s, 0, sizeof *s);
    read_config(s, v);
    const sala_config *c = &s->run.shape;
    s->run.precision = kind->precision;
    s->rows = vec_get(v, "ids")->count;
    const sala_backend_limits limits = sala_train_limits(&s->run, s->rows);
    if (!fixture_open(&s->f, kind, &limits)) {
        sala_config_free(&s->run.shape);
        return false;
    }
    assert_true(c->n_layers <= 8);
    for (int l = 0; l < c->n_layers; l++)
        s->recompute[l] = recompute;
    s->plan = (sala_train_plan){.rows = s->rows,
                                .tile_rows = 64,
                                .n_layers = c->n_layers,
                                .layers = s->recompute,
                                .half = kind->precision == SALA_PRECISION_BF16,
                                .states_every = 4};
    add_parts(s, v);
    sala_error err;
    must(sala_net_open_parts(&s->net, c, s->f.be, s->parts, s->n_parts, s->rows, &err), &err);
    s->net->grad = s->f.grad;
    s->net->grad_offset = s->f.grads - s->f.values;
    if (c->attn_scale_base <= 0)
        s->net->row_scale = NULL;
    must(sala_net_state_layout(&s->state, c, SALA_F32, &err), &err);
    s->tape.layers = s->layers;
    const sala_tape_bytes bytes = sala_tape_lay(&s->tape, &s->plan, &s->run, NULL);
    s->block_bytes = bytes.tape + bytes.scratch;
    s->block = sala_os_pages_alloc(s->block_bytes);
    assert_non_null(s->block);
    sala_tape_lay(&s->tape, &s->plan, &s->run, s->block);
    make_seqs(s, v);
    s->ids = vec_ints(v, "ids");
    s->labels = vec_ints(v, "labels");
    return true;
}

static void close_subject(subject *s)
{
    sala_net_close_parts(s->net);
    for (int i = 0; i < s->n_parts; i++)
        if (s->parts[i].weight)
            s->f.ops->weight_free(s->f.be, s->parts[i].weight);
    sala_os_pages_free(s->block, s->block_bytes);
    fixture_close(&s->f);
    sala_config_free(&s->run.shape);
    free(s->ids);
    free(s->labels);
}

/* Loss, and all gradients into the arena. */
static sala_head_args run_step(subject *s, double zloss)
{
    const sala_config *c = &s->run.shape;
    sala_backend *be = s->f.be;
    const sala_tape *t = &s->tape;
    const sala_act eps = (sala_act)c->rms_eps;
    const sala_pass pass = {s->net, &s->state, s->seqs, s->n_seqs, s->rows, 0};
    int64_t supervised = 0;
    for (int64_t i = 0; i < s->rows; i++)
        supervised += s->labels[i] >= 0;
    s->f.ops->get_rows(be, t->layers[0].h_in, s->net->embed, s->ids, s->rows, (sala_act)c->embed_scale);
    sala_tape_forward(t, &pass, t->h_last);
    s->f.ops->rms_norm(be, t->x_final, t->h_last, s->net->out_norm, s->rows, c->n_embd, eps);
    sala_head_args head = {.head = s->net->head,
                           .x = t->x_final,
                           .n_rows = s->rows,
                           .n_embd = c->n_embd,
                           .n_vocab = c->n_vocab,
                           .labels = s->labels,
                           .inv_divisor = (sala_act)(1 / c->logit_divisor),
                           .loss_scale = (sala_act)(1.0 / (double)supervised),
                           .zloss = (sala_act)zloss,
                           .dx = t->d_final};
    s->f.grad->head_loss(be, &head);
    s->f.grad->rms_norm_back(be, t->grads.d_h, s->net->out_norm + s->net->grad_offset, t->d_final, t->h_last,
                             s->net->out_norm, s->rows, c->n_embd, eps, false);
    sala_tape_backward(t, &pass, NULL, NULL);
    s->f.grad->get_rows_back(be, s->net->embed, s->ids, t->grads.d_h, s->rows, (sala_act)c->embed_scale);
    return head;
}

/* What is to be expected of a gradient, and how far it may be off. */
typedef struct target {
    const vec *grad;
    double limit;
} target;

static target target_of(const subject *s, const vec_file *v, const char *tensor)
{
    char name[110];
    snprintf(name, sizeof name, "%sd.%s", s->plan.half ? "bf16." : "", tensor);
    target t = {vec_get(v, name), EXACT};
#ifndef SALA_TRAIN_F64
    if (s->plan.half) { /* the limits' array stands before the gradients, that of the loss before the others */
        const vec *limits = vec_get(v, "bf16.limits");
        t.limit = vec_at(limits, t.grad - limits);
    }
#endif
    return t;
}

static void compare(const subject *s, const vec_file *v, const sala_head_args *head, const char *model, bool say)
{
    const vec *loss = vec_get(v, s->plan.half ? "bf16.loss" : "loss");
    const double n = (double)head->n_supervised, got = head->loss / n, all = (head->loss + head->zloss_sum) / n;
    const double off = fabs(got - vec_at(loss, 0)) + fabs(all - vec_at(loss, 1));
    double limit = EXACT, worst = -1, allowed = 0;
#ifndef SALA_TRAIN_F64
    if (s->plan.half)
        limit = vec_at(vec_get(v, "bf16.limits"), 0) + EXACT;
#endif
    if (!(off <= 2 * limit * vec_at(loss, 1)))
        fail_msg("%s, %s: loss %.9g, expected %.9g", model, s->f.what, got, vec_at(loss, 0));
    int worst_part = 0;
    for (int i = 0; i < s->n_parts; i++) {
        const target t = target_of(s, v, s->names[i]);
        const sala_num *grad =
            s->parts[i].weight ? sala_weight_grad(s->parts[i].weight) : s->parts[i].vector + s->net->grad_offset;
        const double d = distance(grad, t.grad);
        if (!(d <= t.limit))
            fail_msg("%s, %s: gradient of %s is %.3g off, %.1g is allowed", model, s->f.what, s->names[i], d, t.limit);
        if (d / t.limit > worst) {
            worst = d / t.limit;
            allowed = t.limit;
            worst_part = i;
        }
    }
    if (say)
        grad_report(model, s->f.what, worst * allowed, allowed, s->names[worst_part]);
}

static void run_model(const char *model)
{
    static vec_file v;
    static subject s;
    char file[64];
    snprintf(file, sizeof file, "model-%s", model);
    vec_open(&v, file);
    for (size_t k = 0; k < SALA_ARRAY_LEN(fixture_kinds); k++) {
        sala_num *first = NULL;
        int64_t used = 0;
        for (int recompute = SALA_RECOMPUTE_NONE; recompute <= SALA_RECOMPUTE_LAYER; recompute++) {
            if (!open_subject(&s, &v, &fixture_kinds[k], (sala_recompute)recompute))
                break;
            const sala_head_args head = run_step(&s, vec_at(vec_get(&v, "zloss"), 0));
            compare(&s, &v, &head, model, !first);
            /* What is made again is what was kept, bit for bit. */
            if (!first) {
                used = s.f.used;
                first = nums(used);
                memcpy(first, s.f.grads, (size_t)used * sizeof *first);
            } else if (memcmp(first, s.f.grads, (size_t)used * sizeof *first) != 0) {
                fail_msg("%s, %s: recomputation %d gives other bits", model, s.f.what, recompute);
            }
            close_subject(&s);
        }
        free(first);
    }
    vec_close(&v);
}

#define MODEL(id, name)                                                                                                \
    static void test_##id(void **state)                                                                                \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run_model(name);                                                                                               \
    }
MODEL(llama, "llama")
MODEL(qwen2, "qwen2")
MODEL(qwen3, "qwen3")
MODEL(minicpm, "minicpm")
MODEL(sala, "sala")
MODEL(sala_sparse, "sala-sparse")
MODEL(minicpm_nope, "minicpm-nope")
MODEL(hypenet, "hypenet")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),       cmocka_unit_test(test_qwen2),        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_minicpm),     cmocka_unit_test(test_sala),         cmocka_unit_test(test_hypenet),
        cmocka_unit_test(test_sala_sparse), cmocka_unit_test(test_minicpm_nope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
