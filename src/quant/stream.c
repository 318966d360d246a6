/* The loop that every conversion runs. Memory: one chunk of floats and one of output, each a few MiB or one row. */
#include "quant/stream.h"

#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define CHUNK_WEIGHTS (INT64_C(1) << 20)
#define MAX_TASKS 64

static int64_t n_weights(const sala_stream_item *item)
{
    int64_t n = 1;
    for (int i = 0; i < item->n_dims; i++)
        n *= item->ne[i];
    return n;
}

int64_t sala_stream_row_weights(const sala_stream_item *item)
{
    if (item->n_dims == 0 || (item->n_dims == 1 && item->order != SALA_ROWS_AS_THEY_ARE))
        return 1;
    return item->ne[0];
}

int64_t sala_stream_n_rows(const sala_stream_item *item)
{
    const int64_t row = sala_stream_row_weights(item);
    return row > 0 ? n_weights(item) / row : 0;
}

uint64_t sala_stream_in_bytes(const sala_stream_item *item)
{
    return item->src ? item->src->bytes : (uint64_t)n_weights(item) * sizeof(float);
}

uint64_t sala_stream_out_bytes(const sala_stream_item *item)
{
    return sala_dtype_bytes(item->dtype, n_weights(item));
}

int64_t sala_stream_row_of(const sala_stream_item *item, int64_t r)
{
    if (item->order == SALA_ROWS_AS_THEY_ARE)
        return r;
    /* Hugging Face rotates component i with i + d/2, GGUF files of these families 2i with 2i + 1: row 2i + b of a head
     * there is row b * d/2 + i here. */
    const int64_t d = item->head_rows, head = r / d * d, j = r % d;
    return item->order == SALA_ROWS_TO_GGUF ? head + j % 2 * (d / 2) + j / 2 : head + 2 * (j % (d / 2)) + j / (d / 2);
}

void sala_stream_rows(const sala_stream_item *item, float *out, int64_t row0, int64_t n)
{
    const int64_t row = sala_stream_row_weights(item);
    if (!item->src) {
        memcpy(out, item->values + row0 * row, (size_t)(n * row) * sizeof *out);
        return;
    }
    const uint8_t *data = item->src->data;
    if (item->order == SALA_ROWS_AS_THEY_ARE) {
        sala_dequant_row(item->src->dtype, out, data + sala_dtype_bytes(item->src->dtype, row0 * row), n * row);
        return;
    }
    for (int64_t r = 0; r < n; r++)
        sala_dequant_row(item->src->dtype, out + r * row,
                         data + sala_dtype_bytes(item->src->dtype, sala_stream_row_of(item, row0 + r) * row), row);
}

/* ---- one chunk ---- */

typedef struct chunk {
    const sala_stream_item *item;
    int64_t row0, n_rows, row, row_bytes;
    int n_tasks;
    float *floats;
    uint8_t *out;
    sala_status status[MAX_TASKS];
    sala_error errors[MAX_TASKS];
} chunk;

static int64_t task_begin(const chunk *c, int task)
{
    return c->n_rows * task / c->n_tasks;
}

/* Tensors that stay as they are and are no floats. */
static bool is_copy(const sala_stream_item *item)
{
    return item->src && item->src->dtype == item->dtype &&
           (sala_dtype_get((int)item->dtype)->is_quantized || !sala_quantize_has(item->dtype));
}

/* Copies rows, and looks at the weights that they stand for: x has room for them. */
static sala_status copy_rows(const chunk *c, float *x, int64_t first, int64_t n, sala_error *err)
{
    const sala_stream_item *item = c->item;
    for (int64_t r = first; r < first + n; r++)
        memcpy(c->out + r * c->row_bytes,
               (const uint8_t *)item->src->data + sala_stream_row_of(item, c->row0 + r) * c->row_bytes,
               (size_t)c->row_bytes);
    if (!sala_dequant_has(item->dtype))
        return SALA_OK;
    sala_stream_rows(item, x, c->row0 + first, n);
    for (int64_t i = 0; i < n * c->row; i++)
        if (!isfinite(x[i]))
            return sala_fail_at(err, SALA_E_NUMERIC, i, "found %g, expected a finite weight", (double)x[i]);
    return SALA_OK;
}

static void convert_rows(void *user, int task, int worker)
{
    chunk *c = user;
    (void)worker;
    const int64_t first = task_begin(c, task), n = task_begin(c, task + 1) - first;
    float *x = c->floats + first * c->row;
    sala_error *err = &c->errors[task];
    err->position = -1;
    if (is_copy(c->item)) {
        c->status[task] = copy_rows(c, x, first, n, err);
    } else {
        sala_stream_rows(c->item, x, c->row0 + first, n);
        c->status[task] =
            sala_quantize_rows(c->item->dtype, c->out + first * c->row_bytes, x, n, c->row, c->item->importance, err);
    }
    if (c->status[task] != SALA_OK && err->position >= 0) {
        const int64_t r = c->row0 + first + err->position / c->row, col = err->position % c->row;
        err->position = -1;
        (void)sala_fail_prefix(err, c->status[task], "tensor \"%s\", row %" PRId64 ", column %" PRId64,
                               c->item->src ? c->item->src->name : c->item->name, sala_stream_row_of(c->item, r), col);
    }
}

static sala_status run_chunk(chunk *c, sala_pool *pool, sala_error *err)
{
    sala_pool_run(pool, c->n_tasks, convert_rows, c);
    for (int i = 0; i < c->n_tasks; i++) {
        if (c->status[i] != SALA_OK) {
            if (err)
                *err = c->errors[i];
            return c->status[i];
        }
    }
    return SALA_OK;
}

static sala_status check_item(const sala_stream_item *item, sala_error *err)
{
    const int64_t row = sala_stream_row_weights(item);
    const sala_dtype_info *to = sala_dtype_get((int)item->dtype);
    if (item->src && !is_copy(item) && !sala_dequant_has(item->src->dtype))
        return sala_fail(err, SALA_E_UNSUPPORTED, "tensor \"%s\" has type %s, which holds no weights", item->src->name,
                         sala_dtype_name(item->src->dtype));
    if (item->src && row % sala_dtype_get((int)item->src->dtype)->block_weights != 0)
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\": rows of %" PRId64 " do not divide into blocks of %s",
                         item->src->name, row, sala_dtype_name(item->src->dtype));
    if (row % to->block_weights != 0)
        return sala_fail(err, SALA_E_INVALID, "tensor \"%s\": rows of %" PRId64 " do not divide into blocks of %s",
                         item->name, row, to->name);
    if (item->order != SALA_ROWS_AS_THEY_ARE &&
        (item->head_rows < 2 || item->head_rows % 2 != 0 || sala_stream_n_rows(item) % item->head_rows != 0))
        return sala_fail(err, SALA_E_CORRUPT, "tensor \"%s\": %" PRId64 " rows are no whole heads of %" PRId64,
                         item->name, sala_stream_n_rows(item), item->head_rows);
    return SALA_OK;
}

/* ---- all of them ---- */

typedef struct totals {
    uint64_t done, all;
    const sala_quant_params *params;
} totals;

static sala_status run_item(const sala_stream_item *item, size_t index, chunk *c, sala_pool *pool, totals *t,
                            sala_sink_fn *sink, void *sink_user, sala_error *err)
{
    sala_status st = check_item(item, err);
    if (st != SALA_OK)
        return st;
    const int64_t n_rows = sala_stream_n_rows(item), row = sala_stream_row_weights(item);
    const int64_t row_bytes = (int64_t)sala_dtype_bytes(item->dtype, row);
    if (n_rows == 0 || row == 0)
        return SALA_OK;
    int64_t most = CHUNK_WEIGHTS / row;
    if (most < 1)
        most = 1;
    if (most > n_rows)
        most = n_rows;
    *c = (chunk){.item = item, .row = row, .row_bytes = row_bytes};
    c->floats = malloc((size_t)(most * row) * sizeof *c->floats);
    c->out = malloc((size_t)(most * row_bytes));
    if (!c->floats || !c->out)
        st = sala_fail_memory(err, (uint64_t)(most * row) * sizeof *c->floats);
    for (int64_t at = 0; at < n_rows && st == SALA_OK; at += most) {
        c->row0 = at;
        c->n_rows = n_rows - at < most ? n_rows - at : most;
        const int tasks = sala_pool_size(pool) * 4 < MAX_TASKS ? sala_pool_size(pool) * 4 : MAX_TASKS;
        c->n_tasks = c->n_rows < tasks ? (int)c->n_rows : tasks;
        st = run_chunk(c, pool, err);
        if (st == SALA_OK)
            st = sink(sink_user, index, (uint64_t)(at * row_bytes), c->out, (uint64_t)(c->n_rows * row_bytes), err);
        if (item->src && item->order == SALA_ROWS_AS_THEY_ARE) {
            const uint64_t begin = sala_dtype_bytes(item->src->dtype, at * row);
            sala_os_map_drop((const uint8_t *)item->src->data + begin,
                             (size_t)sala_dtype_bytes(item->src->dtype, c->n_rows * row));
        }
        const double part = (double)(at + c->n_rows) / (double)n_rows * (double)sala_stream_in_bytes(item);
        if (st == SALA_OK && t->params->progress &&
            !t->params->progress(t->params->progress_user, item->name, t->done + (uint64_t)part, t->all))
            st = sala_fail(err, SALA_E_CANCELLED, "cancelled");
    }
    free(c->floats);
    free(c->out);
    if (item->src && item->order != SALA_ROWS_AS_THEY_ARE)
        sala_os_map_drop(item->src->data, (size_t)item->src->bytes);
    t->done += sala_stream_in_bytes(item);
    return st;
}

sala_status sala_stream_run(const sala_stream_item *items, size_t n_items, const sala_quant_params *params,
                            sala_sink_fn *sink, void *sink_user, sala_error *err)
{
    sala_pool *pool = NULL;
    chunk *c = malloc(sizeof *c);
    totals t = {.params = params};
    if (!c)
        return sala_fail_memory(err, sizeof *c);
    const int e = sala_pool_open(&pool, params->n_threads > 0 ? params->n_threads : sala_os_cpu_count());
    sala_status st = e ? sala_fail_errno(err, e, "starting threads") : SALA_OK;
    for (size_t i = 0; i < n_items; i++)
        t.all += sala_stream_in_bytes(&items[i]);
    for (size_t i = 0; i < n_items && st == SALA_OK; i++)
        st = run_item(&items[i], i, c, pool, &t, sink, sink_user, err);
    if (st == SALA_OK && params->progress && !params->progress(params->progress_user, "done", t.all, t.all))
        st = sala_fail(err, SALA_E_CANCELLED, "cancelled");
    if (pool)
        sala_pool_close(pool);
    free(c);
    return st;
}
