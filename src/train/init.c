/* First values of parameters: drawn, or read from a model. */
#include "format/safetensors.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "os/os.h"
#include "train/params.h"

#include <stdlib.h>
#include <xxhash.h>

void sala_params_init(const sala_params *p, sala_num *values, uint64_t seed)
{
    memset(values, 0, p->n_elements * sizeof *values);
    for (int i = 0; i < p->count; i++) {
        const sala_param *q = &p->items[i];
        sala_num *x = values + q->at;
        if (q->class == SALA_PARAM_VECTOR) {
            for (uint64_t j = 0; j < q->count; j++)
                x[j] = sala_param_starts_at_one(q) ? 1 : 0;
            continue;
        }
        sala_rng rng;
        sala_rng_seed(&rng, seed ^ XXH3_64bits(q->name, strlen(q->name)));
        for (uint64_t j = 0; j < q->count; j++)
            x[j] = (sala_num)(q->init_std * sala_rng_normal(&rng));
    }
}

/* ---- from a model ---- */

typedef struct reader {
    const char *path;
    sala_tensor_list tensors;
    bool hf;
    int head_rows; /* > 0: rows of q and k are permuted by heads of so many */
    float *row;    /* of the longest */
    sala_error *err;
} reader;

static const sala_tensor *find(const reader *r, const char *name)
{
    for (size_t i = 0; i < r->tensors.count; i++)
        if (strcmp(r->tensors.items[i].name, name) == 0)
            return &r->tensors.items[i];
    return NULL;
}

/* GGUF of some families interleaves the halves of each head of q and k: row 2 i + j there is row i + j * half here. */
static int64_t row_of(int64_t row, int head_rows)
{
    const int64_t in_head = row % head_rows, half = head_rows / 2;
    return row - in_head + in_head / 2 + in_head % 2 * half;
}

static sala_status load_tensor(const reader *r, const sala_param *p, sala_num *values, const sala_tensor *t)
{
    const int64_t rows = p->rows ? p->rows : 1;
    if (t->ne[0] != p->cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1)
        return sala_fail(r->err, SALA_E_CORRUPT,
                         "%s: tensor \"%s\" is [%lld, %lld]; the run's model asks for [%lld, %lld] (out, in)", r->path,
                         t->name, (long long)t->ne[1], (long long)t->ne[0], (long long)rows, (long long)p->cols);
    const uint64_t row_bytes = sala_dtype_bytes(t->dtype, p->cols);
    if (!sala_dequant_has(t->dtype) || !row_bytes)
        return sala_fail(r->err, SALA_E_UNSUPPORTED, "%s: tensor \"%s\" has type %s, which cannot be widened", r->path,
                         t->name, sala_dtype_name(t->dtype));
    const bool q = p->role == SALA_T_Q || p->role == SALA_T_Q_BIAS, k = p->role == SALA_T_K || p->role == SALA_T_K_BIAS;
    const bool permuted = r->head_rows > 0 && (q || k);
    const bool bias = !p->rows; /* permuted by elements, not by rows */
    for (int64_t i = 0; i < rows; i++) {
        sala_dequant_row(t->dtype, r->row, (const uint8_t *)t->data + (uint64_t)i * row_bytes, p->cols);
        sala_num *x = values + p->at + (permuted && !bias ? row_of(i, r->head_rows) : i) * p->cols;
        for (int64_t j = 0; j < p->cols; j++)
            x[permuted && bias ? row_of(j, r->head_rows) : j] = (sala_num)r->row[j];
    }
    return SALA_OK;
}

static bool is_mtp(const sala_param *p)
{
    return strncmp(p->name, "mtp.", 4) == 0;
}

static sala_status load_all(const reader *r, const sala_params *p, sala_num *values, bool mtp)
{
    for (int i = 0; i < p->count; i++) {
        const sala_param *q = &p->items[i];
        if (is_mtp(q) != mtp)
            continue;
        char name[96];
        if (mtp)
            memcpy(name, q->name, sizeof name);
        else
            sala_tensor_name(name, (sala_tensor_role)q->role, q->layer, r->hf);
        const sala_tensor *t = find(r, name);
        if (!t)
            return sala_fail(r->err, SALA_E_CORRUPT, "%s: tensor \"%s\" is missing; the run's model needs it", r->path,
                             name);
        const sala_status st = load_tensor(r, q, values, t);
        if (st != SALA_OK)
            return st;
    }
    return SALA_OK;
}

static sala_status load_mtp(reader *r, const sala_params *p, sala_num *values, const char *dir)
{
    char *path = sala_path_join(dir, "mtp.safetensors");
    if (!path)
        return sala_fail_memory(r->err, strlen(dir));
    sala_safetensors *st = NULL;
    sala_status status = SALA_OK;
    if (sala_os_is_file(path)) {
        status = sala_safetensors_open(&st, path, r->err);
        if (status == SALA_OK) {
            r->path = path;
            r->hf = true;
            r->head_rows = 0;
            r->tensors = sala_safetensors_tensors(st);
            status = load_all(r, p, values, true);
        }
        sala_safetensors_close(st);
    }
    free(path);
    return status;
}

sala_status sala_params_load(const sala_params *p, sala_num *values, const char *path, sala_error *err)
{
    int64_t longest = 0;
    bool mtp = false;
    for (int i = 0; i < p->count; i++) {
        longest = sala_max_i64(longest, p->items[i].cols);
        mtp = mtp || is_mtp(&p->items[i]);
    }
    sala_checkpoint files;
    sala_status st = sala_checkpoint_open(&files, path, true, err);
    if (st != SALA_OK)
        return st;
    const sala_family *family = sala_family_by_name(files.config.architecture);
    reader r = {.path = path,
                .tensors = sala_checkpoint_tensors(&files),
                .hf = files.hf,
                .head_rows = !files.hf && family && family->gguf_permuted ? files.config.head_dim : 0,
                .row = malloc((size_t)longest * sizeof(float)),
                .err = err};
    if (!r.row)
        st = sala_fail_memory(err, (uint64_t)longest * sizeof(float));
    if (st == SALA_OK)
        st = load_all(&r, p, values, false);
    if (st == SALA_OK && mtp && files.hf)
        st = load_mtp(&r, p, values, path);
    free(r.row);
    sala_checkpoint_close(&files);
    return st;
}
