/* See tfevents.h. Only the few fields of Event and Summary that scalars need; numbers of fields are those of
 * tensorflow/core/util/event.proto and framework/summary.proto. */
#include "train/tfevents.h"

#include "train/metrics.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void add_varint(sala_buf *b, uint64_t v)
{
    for (; v >= 128; v >>= 7)
        sala_buf_add_char(b, (char)((v & 127) | 128));
    sala_buf_add_char(b, (char)v);
}

static void add_key(sala_buf *b, int field, int wire)
{
    add_varint(b, (uint64_t)field << 3 | (unsigned)wire);
}

static void add_bytes(sala_buf *b, int field, const void *data, size_t n)
{
    add_key(b, field, BYTES);
    add_varint(b, n);
    sala_buf_add(b, data, n);
}

/* wall_time and step, with which every Event begins. */
static void begin_event(sala_buf *event, double wall, int64_t step)
{
    add_key(event, 1, FIXED64);
    sala_buf_add(event, &wall, sizeof wall);
    if (step) {
        add_key(event, 2, VARINT);
        add_varint(event, (uint64_t)step);
    }
}

static uint32_t masked(const void *data, size_t n)
{
    const uint32_t crc = sala_crc32c(0, data, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void add_record(sala_buf *out, sala_buf *event)
{
    const uint64_t n = event->len;
    if (event->failed) {
        out->failed = true;
    } else {
        const uint32_t head = masked(&n, sizeof n), body = masked(event->data, event->len);
        sala_buf_add(out, &n, sizeof n);
        sala_buf_add(out, &head, sizeof head);
        sala_buf_add(out, event->data, event->len);
        sala_buf_add(out, &body, sizeof body);
    }
    sala_buf_free(event);
}

void sala_tf_version(sala_buf *out, double wall)
{
    static const char version[] = "brain.Event:2";
    sala_buf event = {0};
    begin_event(&event, wall, 0);
    add_bytes(&event, 3, version, sizeof version - 1);
    add_record(out, &event);
}

void sala_tf_restart(sala_buf *out, double wall, int64_t step)
{
    static const uint8_t start[] = {1 << 3 | VARINT, 1}; /* SessionLog { status: START } */
    sala_buf event = {0};
    begin_event(&event, wall, step);
    add_bytes(&event, 7, start, sizeof start);
    add_record(out, &event);
}

void sala_tf_scalars(sala_buf *out, double wall, int64_t step, const sala_tf_value *values, int n)
{
    sala_buf event = {0}, summary = {0};
    for (int i = 0; i < n; i++) {
        sala_buf value = {0};
        const float v = (float)values[i].value;
        add_bytes(&value, 1, values[i].tag, strlen(values[i].tag));
        add_key(&value, 2, FIXED32);
        sala_buf_add(&value, &v, sizeof v);
        add_bytes(&summary, 1, value.data, value.len);
        summary.failed = summary.failed || value.failed;
        sala_buf_free(&value);
    }
    begin_event(&event, wall, step);
    add_bytes(&event, 5, summary.data ? summary.data : "", summary.len);
    event.failed = event.failed || summary.failed;
    sala_buf_free(&summary);
    add_record(out, &event);
}
