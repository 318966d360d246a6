/* The packer's pipeline. One thread reads and cuts, n encode, the caller's thread writes:
 *
 *     reader --FULL--> workers --DONE--> writer --FREE--> reader
 *
 * Batches go round in a ring; batch number i uses slot i % n_slots, is taken in order of numbers and written in order
 * of numbers, so that shards do not depend on who was faster. One lock guards the states of all slots; whoever has a
 * slot in the state that is his owns its contents. The first failure, in order of the input, is the one that is told.
 */
#include "data/pack.h"

#include "data/inputs.h"
#include "data/manifest.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    BATCH_BYTES = 4 << 20,
    BATCH_RECORDS = 1 << 16,
    MAX_THREADS = 256,
    MAX_JSON_LINE = 1 << 30,
    KEPT_BYTES = 64 << 20, /* of a slot's buffers; what one huge document has left behind is given back */
};
static const uint64_t DEFAULT_SHARD_TOKENS = 128 << 20, DEFAULT_DOC_BYTES = 16 << 20;

typedef enum slot_state { FREE, FULL, TAKEN, DONE } slot_state;

typedef struct item {
    sala_record record;
    uint32_t source;
} item;

typedef struct slot {
    slot_state state;
    sala_buf text;
    item *items;
    size_t n_items;
    uint64_t bytes_read; /* of all files, up to the end of this batch */
    sala_encoded out;
    uint64_t bad_lines;
    sala_status status;
    sala_error err, first_bad;
} slot;

/* What is packed in place of another corpus is written in here, inside its directory, until it is whole. */
#define STAGE_NAME ".packing"

/* Shards of one side of the split. */
typedef struct side {
    char *dir; /* where they are written */
    sala_shard_writer *writer;
    char *path; /* of the shard being written */
    sala_shard_summary *shards;
    int n_shards, cap;
    uint64_t docs, tokens;
    bool made; /* the directory was not there before */
} side;

typedef struct packing {
    const sala_pack_params *params;
    sala_pack_stats *stats;
    sala_inputs inputs;
    sala_cut_params cut;
    sala_encode_params encode;
    sala_shard_params shard;
    uint64_t shard_tokens;
    side train, validation;
    bool last_on_validation;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* some slot's state, or one of the fields below */
    slot *slots;
    int n_slots;
    uint64_t next_full, next_taken; /* numbers of batches */
    bool read_all, stop;            /* no more batches come; everybody ends as soon as he can */
} packing;

/* ---- the reader ---- */

/* NULL when the work was stopped. */
static slot *wait_free(packing *p)
{
    pthread_mutex_lock(&p->lock);
    slot *s = &p->slots[p->next_full % (uint64_t)p->n_slots];
    while (s->state != FREE && !p->stop)
        pthread_cond_wait(&p->changed, &p->lock);
    const bool stopped = p->stop;
    pthread_mutex_unlock(&p->lock);
    return stopped ? NULL : s;
}

static void hand_over(packing *p, slot *s)
{
    pthread_mutex_lock(&p->lock);
    s->state = FULL;
    p->next_full++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

typedef struct reader {
    packing *p;
    slot *s;               /* being filled */
    uint64_t bytes_before; /* of the files that are done */
} reader;

static bool begin_batch(reader *r)
{
    r->s = wait_free(r->p);
    if (!r->s)
        return false;
    sala_buf_clear(&r->s->text);
    r->s->n_items = 0;
    r->s->bad_lines = 0;
    r->s->status = SALA_OK;
    return true;
}

/* False when the work was stopped. */
static bool read_file(reader *r, int file, sala_error *err, sala_status *status)
{
    packing *p = r->p;
    sala_cutter *c = NULL;
    *status = sala_cutter_open(&c, p->inputs.paths[file], &p->cut, err);
    bool more = *status == SALA_OK, going = true;
    while (more && going) {
        slot *s = r->s;
        item *i = &s->items[s->n_items];
        *status = sala_cutter_next(c, &s->text, &i->record, &more, err);
        if (*status != SALA_OK)
            break;
        i->source = (uint32_t)file;
        s->n_items += more;
        s->bytes_read = r->bytes_before + sala_cutter_consumed(c);
        if (s->text.len >= BATCH_BYTES || s->n_items == BATCH_RECORDS) {
            hand_over(p, s);
            going = begin_batch(r);
        }
    }
    if (c)
        r->bytes_before += sala_cutter_consumed(c);
    sala_cutter_close(c);
    return going;
}

static void *run_reader(void *user)
{
    packing *p = user;
    reader r = {.p = p};
    bool going = begin_batch(&r);
    for (int f = 0; f < p->inputs.n && going; f++) {
        sala_error err = {0};
        sala_status status;
        going = read_file(&r, f, &err, &status);
        if (!going || status == SALA_OK)
            continue;
        if (p->params->keep_going && status != SALA_E_MEMORY) {
            if (r.s->bad_lines++ == 0)
                r.s->first_bad = err;
            continue;
        }
        r.s->status = status;
        r.s->err = err;
        break;
    }
    if (going)
        hand_over(p, r.s);
    pthread_mutex_lock(&p->lock);
    p->read_all = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- workers ---- */

static slot *wait_full(packing *p)
{
    pthread_mutex_lock(&p->lock);
    while (!p->stop && p->next_taken == p->next_full && !p->read_all)
        pthread_cond_wait(&p->changed, &p->lock);
    slot *s = NULL;
    if (!p->stop && p->next_taken < p->next_full) {
        s = &p->slots[p->next_taken++ % (uint64_t)p->n_slots];
        s->state = TAKEN;
    }
    pthread_mutex_unlock(&p->lock);
    return s;
}

static sala_status encode_item(const packing *p, slot *s, const item *i, sala_error *err)
{
    const size_t before = s->out.n_docs;
    const sala_status status = sala_encode_record(&s->out, &p->encode, s->text.data, &i->record, err);
    for (size_t d = before; d < s->out.n_docs; d++)
        s->out.docs[d].source = i->source;
    if (status == SALA_OK)
        return SALA_OK;
    const char *path = p->inputs.paths[i->source];
    return sala_fail_prefix(err, status, "%s:%" PRIu64, strcmp(path, "-") == 0 ? "standard input" : path,
                            i->record.line);
}

static bool is_records_fault(sala_status status)
{
    return status == SALA_E_CORRUPT || status == SALA_E_INVALID || status == SALA_E_TEMPLATE || status == SALA_E_LIMIT;
}

static void encode_batch(const packing *p, slot *s)
{
    sala_encoded_clear(&s->out);
    for (size_t k = 0; k < s->n_items; k++) {
        sala_error err = {0};
        const sala_status status = encode_item(p, s, &s->items[k], &err);
        if (status == SALA_OK)
            continue;
        if (p->params->keep_going && is_records_fault(status)) {
            if (s->bad_lines++ == 0)
                s->first_bad = err;
            continue;
        }
        /* A failure of the reader came after all records of the batch, so this one is first. */
        s->status = status;
        s->err = err;
        return;
    }
}

static void *run_worker(void *user)
{
    packing *p = user;
    slot *s;
    while ((s = wait_full(p))) {
        encode_batch(p, s);
        pthread_mutex_lock(&p->lock);
        s->state = DONE;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

/* ---- the writer ---- */

static char *shard_path(const char *dir, int i)
{
    char name[32];
    snprintf(name, sizeof name, SALA_SHARD_NAME, i);
    return sala_path_join(dir, name);
}

static sala_status end_shard(side *d, sala_error *err)
{
    if (!d->writer)
        return SALA_OK;
    if (d->n_shards == d->cap) {
        const int cap = d->cap ? 2 * d->cap : 16;
        sala_shard_summary *shards = realloc(d->shards, (size_t)cap * sizeof *shards);
        if (!shards)
            return sala_fail_memory(err, (uint64_t)cap * sizeof *shards);
        d->shards = shards;
        d->cap = cap;
    }
    const sala_status status = sala_shard_writer_commit(d->writer, &d->shards[d->n_shards], err);
    d->writer = NULL;
    free(d->path);
    d->path = NULL;
    d->n_shards += status == SALA_OK;
    return status;
}

static sala_status begin_shard(const packing *p, side *d, sala_error *err)
{
    int why = 0;
    if (d->n_shards == 0 && !sala_os_is_dir(d->dir)) {
        d->made = true;
        why = sala_os_make_dirs(d->dir);
    }
    if (why)
        return sala_fail_errno(err, why, "%s: could not be made", d->dir);
    d->path = shard_path(d->dir, d->n_shards);
    if (!d->path)
        return sala_fail_memory(err, strlen(d->dir));
    return sala_shard_writer_open(&d->writer, d->path, &p->shard, err);
}

static sala_status write_doc(packing *p, const sala_encoded *e, const sala_encoded_doc *doc, sala_error *err)
{
    sala_pack_stats *stats = p->stats;
    if (!doc->continues)
        p->last_on_validation = (double)doc->hash < p->params->validation * 18446744073709551616.0;
    side *d = p->last_on_validation ? &p->validation : &p->train;
    if (doc->count > UINT32_MAX)
        return sala_fail(err, SALA_E_LIMIT, "a document of %zu tokens; cut documents into at most %u tokens",
                         doc->count, UINT32_MAX);
    sala_status status = SALA_OK;
    if (d->writer && sala_shard_writer_tokens(d->writer) + doc->count > p->shard_tokens)
        status = end_shard(d, err);
    if (status == SALA_OK && !d->writer)
        status = begin_shard(p, d, err);
    const uint8_t *mask = e->mask.len ? (const uint8_t *)e->mask.data + doc->at : NULL;
    uint64_t supervised = doc->count;
    if (mask) {
        supervised = 0;
        for (size_t i = 0; i < doc->count; i++)
            supervised += mask[i];
        if (supervised == doc->count)
            mask = NULL;
    }
    if (status == SALA_OK)
        status = sala_shard_add(d->writer, e->ids.data + doc->at, mask, (int64_t)doc->count, doc->source, err);
    if (status != SALA_OK)
        return status;
    d->docs++;
    d->tokens += doc->count;
    stats->supervised += supervised;
    int log2 = 0;
    while (doc->count >> (log2 + 1))
        log2++;
    stats->length_log2[log2]++;
    stats->longest = doc->count > stats->longest ? doc->count : stats->longest;
    return SALA_OK;
}

static sala_status write_batch(packing *p, slot *s, sala_error *err)
{
    sala_pack_stats *stats = p->stats;
    if (s->status != SALA_OK) {
        if (err)
            *err = s->err;
        return s->status;
    }
    if (s->bad_lines && stats->bad_lines == 0)
        memcpy(stats->first_bad, s->first_bad.message, sizeof stats->first_bad);
    stats->bad_lines += s->bad_lines;
    stats->empty_docs += s->out.empty;
    stats->cut_docs += s->out.cut;
    stats->invalid_utf8 += s->out.invalid_utf8;
    stats->unknown += s->out.unknown;
    stats->bytes_in += s->out.text_bytes;
    sala_status status = SALA_OK;
    for (size_t i = 0; i < s->out.n_docs && status == SALA_OK; i++)
        status = write_doc(p, &s->out, &s->out.docs[i], err);
    return status;
}

/* The time up to which a wait may last: a moment, so that an interruption is noticed while others work. */
static struct timespec soon(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 100 * 1000 * 1000;
    if (t.tv_nsec >= 1000 * 1000 * 1000) {
        t.tv_nsec -= 1000 * 1000 * 1000;
        t.tv_sec++;
    }
    return t;
}

static sala_status report(const packing *p, uint64_t bytes_read, sala_error *err)
{
    if (p->params->progress &&
        !p->params->progress(p->params->user, bytes_read, p->train.tokens + p->validation.tokens))
        return sala_fail(err, SALA_E_CANCELLED, "interrupted; nothing was kept");
    return SALA_OK;
}

static sala_status run_writer(packing *p, sala_error *err)
{
    sala_status status = SALA_OK;
    uint64_t bytes_read = 0;
    for (uint64_t i = 0; status == SALA_OK; i++) {
        slot *s = &p->slots[i % (uint64_t)p->n_slots];
        pthread_mutex_lock(&p->lock);
        while (s->state != DONE && !(p->read_all && i == p->next_full)) {
            const struct timespec until = soon();
            if (pthread_cond_timedwait(&p->changed, &p->lock, &until) == ETIMEDOUT) {
                pthread_mutex_unlock(&p->lock);
                status = report(p, bytes_read, err);
                pthread_mutex_lock(&p->lock);
                if (status != SALA_OK)
                    break;
            }
        }
        const bool end = s->state != DONE;
        pthread_mutex_unlock(&p->lock);
        if (end || status != SALA_OK)
            break;
        status = write_batch(p, s, err);
        bytes_read = s->bytes_read;
        if (s->text.cap > KEPT_BYTES)
            sala_buf_free(&s->text);
        if (s->out.ids.cap > KEPT_BYTES / sizeof(int32_t))
            sala_ids_free(&s->out.ids);
        if (status == SALA_OK)
            status = report(p, bytes_read, err);
        pthread_mutex_lock(&p->lock);
        s->state = FREE;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    return status;
}

/* ---- threads ---- */

static sala_status run_pipeline(packing *p, int n_workers, sala_error *err)
{
    pthread_t threads[MAX_THREADS + 1];
    int n = 0;
    sala_status status = SALA_OK;
    int why = pthread_create(&threads[n], NULL, run_reader, p);
    n += why == 0;
    for (int i = 0; i < n_workers && why == 0; i++) {
        why = pthread_create(&threads[n], NULL, run_worker, p);
        n += why == 0;
    }
    if (why && n < 2)
        status = sala_fail_errno(err, why, "no thread could be started"); /* one worker is enough to go on */
    else
        status = run_writer(p, err);
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return status;
}

/* ---- before and after ---- */

static void remove_in(const char *dir, const char *name)
{
    char *path = sala_path_join(dir, name);
    if (path)
        remove(path);
    free(path);
}

/* Shards from number `first` on: of an earlier packing, or of one that failed. */
static void remove_shards(const char *dir, int first)
{
    for (int i = first;; i++) {
        char *path = shard_path(dir, i);
        const bool gone = !path || remove(path) != 0;
        free(path);
        if (gone)
            return;
    }
}

static void side_free(side *d)
{
    sala_shard_writer_abort(d->writer);
    free(d->path);
    free(d->dir);
    free(d->shards);
}

static void clean_up(packing *p)
{
    side *const sides[] = {&p->validation, &p->train};
    for (size_t i = 0; i < SALA_ARRAY_LEN(sides); i++) {
        sala_shard_writer_abort(sides[i]->writer);
        sides[i]->writer = NULL;
        for (int k = 0; k < sides[i]->n_shards; k++) {
            char *path = shard_path(sides[i]->dir, k);
            if (path)
                remove(path);
            free(path);
        }
        remove_in(sides[i]->dir, SALA_MANIFEST_NAME);
        if (sides[i]->made)
            remove(sides[i]->dir); /* only if it is empty */
    }
}

static sala_status check_params(const sala_pack_params *p, sala_error *err)
{
    if (p->n_inputs < 1)
        return sala_fail(err, SALA_E_INVALID, "there is nothing to pack");
    if (!(p->validation >= 0 && p->validation < 1))
        return sala_fail(err, SALA_E_INVALID, "the validation share is %g; it has to be from 0 to below 1",
                         p->validation);
    if (p->separator && strlen(p->separator) > SALA_MAX_SEPARATOR)
        return sala_fail(err, SALA_E_INVALID, "the separator has %zu bytes; at most %d are allowed",
                         strlen(p->separator), SALA_MAX_SEPARATOR);
    if (sala_corpus_is_there(p->out_dir) && !p->replace)
        return sala_fail(err, SALA_E_STATE,
                         "%s holds a corpus already (%s); give another directory, or --force to pack it anew",
                         p->out_dir, SALA_MANIFEST_NAME);
    return SALA_OK;
}

static sala_status choose_control_tokens(packing *p, sala_error *err)
{
    const sala_tokenizer *t = p->params->tokenizer;
    p->encode.bos = p->encode.eos = -1;
    if (p->params->add_bos || (t && sala_tokenizer_adds_bos(t)))
        p->encode.bos = t ? sala_tokenizer_bos(t) : SALA_BYTES_BOS;
    if (p->params->add_bos && p->encode.bos < 0)
        return sala_fail(err, SALA_E_INVALID, "the tokenizer has no BOS token, which --bos asks for");
    if (p->params->add_eos)
        p->encode.eos = t ? sala_tokenizer_eos(t) : SALA_BYTES_EOS;
    if (p->params->add_eos && p->encode.eos < 0)
        return sala_fail(err, SALA_E_INVALID,
                         "the tokenizer has no EOS token to put behind documents; --no-eos packs without one");
    return SALA_OK;
}

static sala_status prepare(packing *p, int n_workers, sala_error *err)
{
    const sala_pack_params *params = p->params;
    sala_status status = check_params(params, err);
    if (status == SALA_OK)
        status = sala_inputs_open(&p->inputs, params->inputs, params->n_inputs, err);
    if (status == SALA_OK)
        status = choose_control_tokens(p, err);
    if (status != SALA_OK)
        return status;
    const uint64_t max_doc = params->max_doc_bytes ? params->max_doc_bytes : DEFAULT_DOC_BYTES;
    p->shard_tokens = params->shard_tokens ? params->shard_tokens : DEFAULT_SHARD_TOKENS;
    p->cut = (sala_cut_params){.format = params->format,
                               .separator = params->separator,
                               .split_bytes = params->split_bytes,
                               .max_doc_bytes = max_doc,
                               .max_json_line = MAX_JSON_LINE};
    p->encode.tokenizer = params->tokenizer;
    p->encode.chat = params->chat;
    p->encode.text_key = params->text_key ? params->text_key : "text";
    p->encode.max_doc_bytes = max_doc;
    p->encode.seed = params->seed;
    p->shard.tokenizer_id = sala_vocab_id(params->tokenizer, &p->shard.vocab);
    const bool staged = sala_corpus_is_there(params->out_dir);
    p->train.dir = staged ? sala_path_join(params->out_dir, STAGE_NAME) : sala_strdup(params->out_dir);
    p->validation.dir = p->train.dir ? sala_path_join(p->train.dir, SALA_VALIDATION_NAME) : NULL;
    if (staged && p->train.dir)
        (void)sala_os_remove_tree(p->train.dir); /* of a packing that was killed */
    p->n_slots = 2 * n_workers + 1;
    p->slots = calloc((size_t)p->n_slots, sizeof *p->slots);
    if (!p->slots || !p->train.dir || !p->validation.dir)
        return sala_fail_memory(err, (uint64_t)p->n_slots * sizeof *p->slots);
    for (int i = 0; i < p->n_slots; i++) {
        /* One more than a batch holds: the reader asks for the next record before it knows whether there is one. */
        p->slots[i].items = malloc((BATCH_RECORDS + 1) * sizeof *p->slots[i].items);
        if (!p->slots[i].items)
            return sala_fail_memory(err, (BATCH_RECORDS + 1) * sizeof *p->slots[i].items);
    }
    return SALA_OK;
}

static json_t *stats_json(const sala_pack_stats *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "files", (json_int_t)s->files, "text_bytes",
                     (json_int_t)s->bytes_in, "documents", (json_int_t)s->docs, "empty_documents",
                     (json_int_t)s->empty_docs, "cut_documents", (json_int_t)s->cut_docs, "skipped_records",
                     (json_int_t)s->bad_lines, "invalid_utf8", (json_int_t)s->invalid_utf8, "tokens",
                     (json_int_t)s->tokens, "supervised", (json_int_t)s->supervised);
}

/* Both manifests, the validation's first: a corpus is there when its own manifest is. */
static sala_status write_manifests(packing *p, sala_error *err)
{
    const char *hint = p->params->tokenizer_hint;
    sala_manifest m = {.vocab = p->shard.vocab,
                       .tokenizer_id = p->shard.tokenizer_id,
                       .tokenizer = hint                   ? hint
                                    : p->params->tokenizer ? NULL
                                                           : "bytes",
                       .sources = (const char *const *)p->inputs.paths,
                       .n_sources = p->inputs.n,
                       .shards = p->validation.shards,
                       .n_shards = p->validation.n_shards};
    sala_status status = SALA_OK;
    if (p->validation.n_shards) {
        (void)sala_os_sync_dir(p->validation.dir);
        status = sala_manifest_write(p->validation.dir, &m, err);
    }
    if (status != SALA_OK)
        return status;
    (void)sala_os_sync_dir(p->train.dir); /* no manifest on the medium before the shards that it names */
    m.shards = p->train.shards;
    m.n_shards = p->train.n_shards;
    m.has_validation = p->validation.n_shards > 0;
    m.validation_share = p->params->validation;
    m.stats = stats_json(p->stats);
    status = m.stats ? sala_manifest_write(p->train.dir, &m, err) : sala_fail_memory(err, 4096);
    json_decref(m.stats);
    return status;
}

static sala_status move_shards(side *d, char *to, sala_error *err)
{
    int why = to ? sala_os_make_dirs(to) : ENOMEM;
    for (int i = 0; i < d->n_shards && why == 0; i++) {
        char *from = shard_path(d->dir, i), *path = shard_path(to, i);
        why = from && path ? sala_os_rename(from, path) : ENOMEM;
        free(from);
        free(path);
    }
    if (why)
        return sala_fail_errno(err, why, "%s: could not be put in place of what was there", d->dir);
    remove(d->dir); /* empty now */
    free(d->dir);
    d->dir = to;
    return SALA_OK;
}

/* Takes the other corpus away and puts this one in its place. */
static sala_status replace_corpus(packing *p, sala_error *err)
{
    char *dir = sala_strdup(p->params->out_dir), *validation = sala_path_join(p->params->out_dir, SALA_VALIDATION_NAME);
    sala_status status = dir && validation ? SALA_OK : sala_fail_memory(err, strlen(p->params->out_dir));
    if (status == SALA_OK) {
        remove_in(dir, SALA_MANIFEST_NAME);
        remove_in(validation, SALA_MANIFEST_NAME);
        remove_shards(validation, 0);
        remove_shards(dir, 0);
    }
    if (status == SALA_OK && p->validation.n_shards) {
        status = move_shards(&p->validation, validation, err);
        if (status == SALA_OK)
            validation = NULL;
    }
    if (status == SALA_OK) {
        status = move_shards(&p->train, dir, err);
        if (status == SALA_OK)
            dir = NULL;
    }
    if (status == SALA_OK && validation) {
        free(p->validation.dir);
        p->validation.dir = validation;
        validation = NULL;
    }
    free(dir);
    free(validation);
    return status;
}

static sala_status finish(packing *p, sala_error *err)
{
    sala_pack_stats *s = p->stats;
    sala_status status = end_shard(&p->train, err);
    if (status == SALA_OK)
        status = end_shard(&p->validation, err);
    if (status != SALA_OK)
        return status;
    s->files = (uint64_t)p->inputs.n;
    s->docs = p->train.docs + p->validation.docs;
    s->docs_validation = p->validation.docs;
    s->tokens = p->train.tokens + p->validation.tokens;
    s->tokens_validation = p->validation.tokens;
    s->shards = p->train.n_shards;
    if (s->docs == 0)
        return sala_fail(err, SALA_E_INVALID,
                         "there is no document in what was read (%" PRIu64 " empty, %" PRIu64 " skipped)%s%s",
                         s->empty_docs, s->bad_lines, s->bad_lines ? "; the first: " : "", s->first_bad);
    if (p->train.docs == 0)
        return sala_fail(err, SALA_E_INVALID,
                         "all %" PRIu64 " documents fell to the validation side; give a smaller --validation, or split "
                         "long texts with --split or --separator",
                         s->docs);
    if (strcmp(p->train.dir, p->params->out_dir) != 0)
        status = replace_corpus(p, err);
    if (status == SALA_OK)
        status = write_manifests(p, err);
    if (status == SALA_OK) { /* what a packing that was killed has left */
        remove_shards(p->train.dir, p->train.n_shards);
        remove_shards(p->validation.dir, p->validation.n_shards);
        if (p->validation.n_shards == 0)
            remove(p->validation.dir); /* only if it is empty */
    }
    return status;
}

sala_status sala_pack_run(const sala_pack_params *params, sala_pack_stats *stats, sala_error *err)
{
    sala_pack_stats own;
    packing p = {.params = params, .stats = stats ? stats : &own};
    *p.stats = (sala_pack_stats){0};
    const double start = sala_os_seconds();
    const clock_t cpu = clock();
    int n_workers = params->n_threads < 1 ? sala_os_cpu_count() : params->n_threads;
    n_workers = n_workers > MAX_THREADS ? MAX_THREADS : n_workers;
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.changed, NULL);
    sala_status status = prepare(&p, n_workers, err);
    if (status == SALA_OK) {
        status = run_pipeline(&p, n_workers, err);
        if (status == SALA_OK)
            status = finish(&p, err);
        if (status != SALA_OK)
            clean_up(&p);
    }
    p.stats->seconds = sala_os_seconds() - start;
    p.stats->cpu_seconds = (double)(clock() - cpu) / CLOCKS_PER_SEC;
    for (int i = 0; p.slots && i < p.n_slots; i++) {
        sala_buf_free(&p.slots[i].text);
        sala_encoded_free(&p.slots[i].out);
        free(p.slots[i].items);
    }
    free(p.slots);
    side_free(&p.train);
    side_free(&p.validation);
    sala_inputs_close(&p.inputs);
    pthread_cond_destroy(&p.changed);
    pthread_mutex_destroy(&p.lock);
    return status;
}

uint64_t sala_pack_input_bytes(const char *const *inputs, int n_inputs)
{
    sala_inputs in;
    if (sala_inputs_open(&in, inputs, n_inputs, NULL) != SALA_OK)
        return 0;
    const uint64_t bytes = in.bytes;
    sala_inputs_close(&in);
    return bytes;
}
