/* metrics.jsonl and the event file of a run. Lines of a step are written with one write each, so that a killed run
 * leaves at most one torn line, which the next start cuts. Resuming cuts what lies behind the save: no step appears
 * twice. What the medium does not take (a full disk) waits in memory and is tried again with the next line; only a
 * sync, which comes before a save, fails for it. */
#include "train/metrics.h"

#include "base/json.h"
#include "os/os.h"
#include "train/tfevents.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK ((size_t)64 << 10)
#define MAX_READ ((size_t)1 << 30)

typedef struct line_file {
    char *path;
    sala_store *store;
    uint64_t at;   /* its end */
    sala_buf wait; /* what is not in the file yet */
    int trouble;   /* why: an errno */
} line_file;

struct sala_metrics {
    bool silent;                      /* a rank that writes nothing */
    line_file lines, samples, events; /* events.store NULL: not asked for */
    sala_buf buf;
};

/* ---- cutting ---- */

/* The step of a line, or -1 when it is no whole object with one. */
static int64_t step_of(const char *line, size_t n)
{
    json_error_t where;
    json_t *o = json_loadb(line, n, 0, &where);
    const json_t *step = json_object_get(o, "step");
    const int64_t v = json_is_integer(step) ? json_integer_value(step) : -1;
    json_decref(o);
    return v;
}

/* Where the file ends when lines of steps beyond `step` and a torn last line go: read backwards, because a run's file
 * may be large and what goes is at its end. Lines that are no JSON in between stay with what is before them. */
static sala_status find_cut(const line_file *f, int64_t step, uint64_t size, uint64_t *cut, sala_error *err)
{
    sala_buf tail = {0}; /* bytes [at, end) of the file: begins inside a line unless at is 0 */
    sala_status st = SALA_OK;
    uint64_t at = size, end = size;
    *cut = 0;
    while (st == SALA_OK) {
        /* Whole lines of `tail`, from the last. */
        while (tail.len > 0) {
            size_t last = tail.len - (tail.data[tail.len - 1] == '\n');
            const bool torn = last == tail.len;
            size_t begin = last;
            while (begin > 0 && tail.data[begin - 1] != '\n')
                begin--;
            if (begin == 0 && at > 0)
                break; /* the line begins before the chunk */
            const int64_t found = torn ? -1 : step_of(tail.data + begin, last - begin);
            if (found >= 0 && found <= step) {
                *cut = end;
                goto out;
            }
            end -= tail.len - begin;
            tail.len = begin;
        }
        if (at == 0)
            break;
        const size_t n = at < CHUNK ? (size_t)at : CHUNK;
        sala_buf more = {0};
        size_t got = 0;
        if (!sala_buf_reserve(&more, n + tail.len)) {
            st = sala_fail_memory(err, n + tail.len);
            break;
        }
        const int e = sala_os_store_read(f->store, at - n, more.data, n, &got);
        if (e || got != n) {
            st = sala_fail_errno(err, e ? e : EIO, "could not read %s", f->path);
            sala_buf_free(&more);
            break;
        }
        more.len = n;
        sala_buf_add(&more, tail.data ? tail.data : "", tail.len);
        sala_buf_free(&tail);
        tail = more;
        at -= n;
    }
out:
    sala_buf_free(&tail);
    return st;
}

static sala_status open_lines(line_file *f, const char *out_dir, const char *name, int64_t resume_step, sala_error *err)
{
    int64_t holder;
    f->path = sala_path_join(out_dir, name);
    if (!f->path)
        return sala_fail_memory(err, strlen(out_dir));
    int e = sala_os_store_open(&f->store, f->path, SALA_STORE_CREATE, &holder);
    if (e == EBUSY)
        return sala_fail(err, SALA_E_IO, "%s is written by process %" PRId64 "; only one run at a time may", f->path,
                         holder);
    if (e)
        return sala_fail_errno(err, e, "could not open %s", f->path);
    uint64_t size = 0;
    e = sala_os_store_size(f->store, &size);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", f->path);
    if (resume_step > 0) {
        const sala_status st = find_cut(f, resume_step, size, &f->at, err);
        if (st != SALA_OK)
            return st;
    }
    if (f->at < size) {
        e = sala_os_store_resize(f->store, f->at);
        if (!e)
            e = sala_os_store_sync(f->store);
        if (e)
            return sala_fail_errno(err, e, "could not cut %s behind step %" PRId64, f->path, resume_step);
    }
    return SALA_OK;
}

/* Writes what waits, m->buf at its end. A write that did not go through is undone, so that the next one is not glued to
 * half a line. */
static sala_status flush(sala_metrics *m, line_file *f, sala_error *err)
{
    sala_buf_add(&f->wait, m->buf.data ? m->buf.data : "", m->buf.len);
    const bool failed = m->buf.failed || f->wait.failed;
    sala_buf_clear(&m->buf);
    if (failed)
        return sala_fail_memory(err, f->wait.len);
    f->trouble = f->wait.len ? sala_os_store_write(f->store, f->at, f->wait.data, f->wait.len) : 0;
    if (f->trouble) {
        (void)sala_os_store_resize(f->store, f->at); /* a torn line would be cut by the next start, too */
        return SALA_OK;
    }
    f->at += f->wait.len;
    sala_buf_clear(&f->wait);
    return SALA_OK;
}

static sala_status open_events(sala_metrics *m, const char *out_dir, int64_t resume_step, sala_error *err)
{
    char host[65], name[160];
    const double now = sala_os_wall_seconds();
    sala_os_host_name(host, sizeof host);
    snprintf(name, sizeof name, "events.out.tfevents.%010.0f.%s.%" PRId64, floor(now), host, sala_os_process_id());
    line_file *f = &m->events;
    f->path = sala_path_join(out_dir, name);
    if (!f->path)
        return sala_fail_memory(err, strlen(out_dir));
    int64_t holder;
    int e = sala_os_store_open(&f->store, f->path, SALA_STORE_CREATE, &holder);
    if (!e) /* opened twice within a second, as by a rewind: it goes on */
        e = sala_os_store_size(f->store, &f->at);
    if (e)
        return sala_fail_errno(err, e, "could not make %s", f->path);
    sala_tf_version(&m->buf, now);
    /* Of a killed run without a save there may be files as well. */
    sala_tf_restart(&m->buf, now, resume_step + 1);
    return flush(m, f, err);
}

sala_status sala_metrics_open(sala_metrics **out, const char *out_dir, int64_t resume_step, bool tensorboard,
                              sala_error *err)
{
    sala_metrics *m = calloc(1, sizeof *m);
    if (!m)
        return sala_fail_memory(err, sizeof *m);
    m->silent = !out_dir;
    sala_status st = SALA_OK;
    if (!m->silent)
        st = open_lines(&m->lines, out_dir, "metrics.jsonl", resume_step, err);
    if (st == SALA_OK && !m->silent)
        st = open_lines(&m->samples, out_dir, "samples.jsonl", resume_step, err);
    if (st == SALA_OK && !m->silent && tensorboard)
        st = open_events(m, out_dir, resume_step, err);
    if (st != SALA_OK)
        sala_metrics_close(m);
    else
        *out = m;
    return st;
}

void sala_metrics_close(sala_metrics *m)
{
    if (!m)
        return;
    line_file *const files[] = {&m->lines, &m->samples, &m->events};
    for (size_t i = 0; i < SALA_ARRAY_LEN(files); i++) {
        if (files[i]->wait.len) /* the last chance */
            (void)sala_os_store_write(files[i]->store, files[i]->at, files[i]->wait.data, files[i]->wait.len);
        sala_os_store_close(files[i]->store);
        sala_buf_free(&files[i]->wait);
        free(files[i]->path);
    }
    sala_buf_free(&m->buf);
    free(m);
}

const char *sala_metrics_waits(const sala_metrics *m)
{
    const line_file *const files[] = {&m->lines, &m->samples, &m->events};
    for (size_t i = 0; i < SALA_ARRAY_LEN(files); i++)
        if (files[i]->wait.len)
            return strerror(files[i]->trouble);
    return NULL;
}

uint64_t sala_metrics_bytes(const sala_metrics *m)
{
    return m->lines.at;
}

sala_status sala_metrics_sync(sala_metrics *m, sala_error *err)
{
    line_file *const files[] = {&m->lines, &m->samples, &m->events};
    for (size_t i = 0; i < SALA_ARRAY_LEN(files) && !m->silent; i++) {
        line_file *f = files[i];
        if (!f->store)
            continue;
        const sala_status st = flush(m, f, err);
        if (st != SALA_OK)
            return st;
        const int e = f->trouble ? f->trouble : sala_os_store_sync(f->store);
        if (e)
            return sala_fail_errno(err, e, "could not write %s", f->path);
    }
    return SALA_OK;
}

/* ---- lines ---- */

/* JSON has no word for numbers that are not finite. */
static void add_number(sala_buf *b, const char *key, double v, int digits)
{
    if (isfinite(v))
        sala_buf_printf(b, ",\"%s\":%.*g", key, digits, v);
    else
        sala_buf_printf(b, ",\"%s\":null", key);
}

static sala_status write_line(sala_metrics *m, line_file *f, sala_error *err)
{
    sala_buf_add_str(&m->buf, "}\n");
    return flush(m, f, err);
}

sala_status sala_metrics_step(sala_metrics *m, const sala_step_result *r, double tokens_per_second,
                              double share_of_peak, sala_error *err)
{
    if (m->silent)
        return SALA_OK;
    const double seconds = r->seconds_forward + r->seconds_backward + r->seconds_update + r->seconds_wait;
    sala_buf *b = &m->buf;
    sala_buf_printf(b, "{\"step\":%" PRId64, r->step);
    add_number(b, "loss", r->loss, 9);
    add_number(b, "lr", r->lr, 9);
    add_number(b, "grad_norm", r->grad_norm, 9);
    sala_buf_printf(b, ",\"tokens\":%" PRId64, r->tokens);
    add_number(b, "tokens_per_second", tokens_per_second, 6);
    add_number(b, "share_of_peak", share_of_peak, 4);
    add_number(b, "seconds", seconds, 6);
    sala_buf_printf(b, ",\"supervised\":%" PRId64, r->supervised);
    const char *why = sala_verdict_name(r->verdict);
    if (r->skipped)
        sala_buf_printf(b, ",\"skipped\":\"%s\"", why ? why : "yes");
    else
        sala_buf_add_str(b, ",\"skipped\":false");
    if (r->mtp_loss != 0)
        add_number(b, "mtp_loss", r->mtp_loss, 9);
    if (r->zloss != 0)
        add_number(b, "zloss", r->zloss, 9);
    const sala_status st = write_line(m, &m->lines, err);
    if (st != SALA_OK || !m->events.store)
        return st;
    const sala_tf_value values[] = {{"train/loss", r->loss},
                                    {"train/lr", r->lr},
                                    {"train/grad_norm", r->grad_norm},
                                    {"speed/tokens_per_second", tokens_per_second},
                                    {"speed/share_of_peak", share_of_peak},
                                    {"train/mtp_loss", r->mtp_loss}};
    sala_tf_scalars(b, sala_os_wall_seconds(), r->step, values, (int)SALA_ARRAY_LEN(values) - (r->mtp_loss == 0));
    return flush(m, &m->events, err);
}

sala_status sala_metrics_more(sala_metrics *m, int64_t step, const char *kind, const char *const *names,
                              const double *values, int n, sala_error *err)
{
    if (m->silent)
        return SALA_OK;
    sala_buf_printf(&m->buf, "{\"step\":%" PRId64 ",\"kind\":\"%s\"", step, kind);
    for (int i = 0; i < n; i++)
        add_number(&m->buf, names[i], values[i], 9);
    sala_status st = write_line(m, &m->lines, err);
    for (int i = 0; i < n && st == SALA_OK && m->events.store; i++) {
        char tag[96];
        snprintf(tag, sizeof tag, "%s/%s", kind, names[i]);
        const sala_tf_value value = {tag, values[i]};
        sala_tf_scalars(&m->buf, sala_os_wall_seconds(), step, &value, 1);
        st = flush(m, &m->events, err);
    }
    return st;
}

sala_status sala_metrics_sample(sala_metrics *m, int64_t step, const char *prompt, const char *text, sala_error *err)
{
    if (m->silent)
        return SALA_OK;
    char *words[2];
    const char *const sources[2] = {prompt, text};
    for (int i = 0; i < 2; i++) {
        json_t *s = json_string(sources[i]); /* NULL for what is no UTF-8, which a decoder does not give */
        words[i] = s ? json_dumps(s, JSON_ENCODE_ANY) : sala_strdup("\"\"");
        json_decref(s);
    }
    if (words[0] && words[1])
        sala_buf_printf(&m->buf, "{\"step\":%" PRId64 ",\"prompt\":%s,\"text\":%s", step, words[0], words[1]);
    else
        m->buf.failed = true;
    free(words[0]);
    free(words[1]);
    return write_line(m, &m->samples, err);
}

/* ---- reading ---- */

void sala_curve_free(sala_curve *c)
{
    free(c->step);
    free(c->value);
    *c = (sala_curve){0};
}

static bool add_point(sala_curve *c, int *cap, double step, double value)
{
    if (c->n == *cap) {
        const int more = *cap ? 2 * *cap : 256;
        double *s = realloc(c->step, (size_t)more * sizeof *s);
        if (s)
            c->step = s;
        double *v = realloc(c->value, (size_t)more * sizeof *v);
        if (v)
            c->value = v;
        if (!s || !v)
            return false;
        *cap = more;
    }
    c->step[c->n] = step;
    c->value[c->n++] = value;
    return true;
}

/* "loss, lr, ...": the numbers of the last line of a step. */
static void list_keys(sala_buf *out, const json_t *o)
{
    const char *key;
    json_t *v;
    sala_buf_clear(out);
    json_object_foreach((json_t *)(uintptr_t)o, key, v) if (json_is_number(v) && strcmp(key, "step") != 0)
        sala_buf_printf(out, "%s%s", out->len ? ", " : "", key);
}

sala_status sala_metrics_read(sala_curve *out, const char *path, const char *key, sala_error *err)
{
    uint8_t *text;
    size_t bytes;
    const int e = sala_os_read_file(&text, &bytes, path, MAX_READ);
    if (e)
        return sala_fail_errno(err, e, "could not read %s", path);
    sala_curve c = {0};
    sala_buf there = {0};
    int cap = 0;
    int64_t number = 0;
    sala_status st = SALA_OK;
    for (const char *p = (const char *)text, *end = p + bytes; p < end && st == SALA_OK;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        const size_t n = (size_t)((newline ? newline : end) - p);
        json_error_t where;
        json_t *o = n ? json_loadb(p, n, 0, &where) : NULL;
        number++;
        if (n && !json_is_object(o) && newline) /* a last line without its end is one being written */
            st = sala_fail(err, SALA_E_CORRUPT, "%s:%" PRId64 ": not a JSON object", path, number);
        const json_t *step = json_object_get(o, "step"), *value = json_object_get(o, key);
        const bool of_step = st == SALA_OK && !json_object_get(o, "kind") && json_is_number(step);
        if (of_step && json_is_number(value) && !add_point(&c, &cap, json_number_value(step), json_number_value(value)))
            st = sala_fail_memory(err, (uint64_t)cap * 2 * sizeof(double));
        if (of_step && c.n == 0)
            list_keys(&there, o);
        json_decref(o);
        p += n + (newline != NULL);
    }
    free(text);
    if (st == SALA_OK && c.n == 0)
        st = sala_fail(err, SALA_E_INVALID, "%s: no step has \"%s\"%s%s", path, key, there.len ? "; there are " : "",
                       there.len ? there.data : "");
    sala_buf_free(&there);
    if (st != SALA_OK)
        sala_curve_free(&c);
    else
        *out = c;
    return st;
}
