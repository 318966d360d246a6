/* Tensors through memory in chunks of rows: read, turn into floats, reorder, round, hand on. Internal to quant. */
#ifndef SALA_QUANT_STREAM_H
#define SALA_QUANT_STREAM_H

#include "quant/quant.h"

#include "os/os.h"

/* How the rows of q and k change places; see row_of() for the map. */
typedef enum sala_row_order {
    SALA_ROWS_AS_THEY_ARE,
    SALA_ROWS_TO_GGUF, /* halves of a head, as Hugging Face stores them, to pairs */
    SALA_ROWS_TO_HF,   /* and back */
} sala_row_order;

typedef struct sala_stream_item {
    char name[136];         /* in the output */
    const sala_tensor *src; /* borrowed; NULL: `values` */
    const float *values;    /* borrowed */
    sala_dtype dtype;       /* in the output */
    int n_dims;
    int64_t ne[SALA_MAX_DIMS];
    sala_row_order order;
    int64_t head_rows;       /* rows of one head, even; with an order */
    const float *importance; /* [ne[0]] borrowed, or NULL */
} sala_stream_item;

uint64_t sala_stream_in_bytes(const sala_stream_item *item);
uint64_t sala_stream_out_bytes(const sala_stream_item *item);

/* Row of the source that becomes row r of the output. */
int64_t sala_stream_row_of(const sala_stream_item *item, int64_t r);

typedef sala_status sala_sink_fn(void *user, size_t item, uint64_t offset, const void *data, uint64_t bytes,
                                 sala_error *err);

/* Sends all items through. Progress counts source bytes; the first error by position in the file wins, whatever the
 * number of threads. */
sala_status sala_stream_run(const sala_stream_item *items, size_t n_items, const sala_quant_params *params,
                            sala_sink_fn *sink, void *sink_user, sala_error *err);

/* Floats of rows [row0, row0 + n) of the item's source, in output order. */
void sala_stream_rows(const sala_stream_item *item, float *out, int64_t row0, int64_t n);
/* Length of a row as the stream sees it: 1 for reordered vectors. */
int64_t sala_stream_row_weights(const sala_stream_item *item);
int64_t sala_stream_n_rows(const sala_stream_item *item);

#endif
