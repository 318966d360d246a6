/* read: a document into a session on disk, so that questions about it need not read it again.
 *
 * The document is gone through twice: once with the tokenizer alone, which takes a second for a million tokens, gives
 * the memory plan its numbers and proves that an interrupted document has not changed; then with the model. What the
 * session remembers (reading.h) is written with every save, so that a killed process loses what came after the last. */
#include "cli.h"

#include "document.h"
#include "format/session_file.h"
#include "frame.h"
#include "memory.h"
#include "model_arg.h"
#include "os/os.h"
#include "pieces.h"
#include "reading.h"
#include "talk.h"
#include "ui.h"

#include <stdlib.h>

static const double SAVE_SECONDS = 30;
static const int64_t ROOM = 2048; /* for a question and its answer, in the plan */

typedef struct reader {
    const cli_options *o;
    const char *document, *path;
    cli_saved saved; /* what the session file said at first */
    bool exists, resumes;
    sala_model *vocab, *model;
    sala_session *session;
    cli_frame frame;
    json_t *note, *entry; /* what it will say; the document in it, borrowed */
    sala_ids lead;        /* ids between what the session holds and the document */
    int64_t first;        /* tokens in the session before the document and its lead */

    /* from the first pass */
    int64_t n_tokens; /* with the lead and the opening */
    uint64_t text_bytes, repaired;
    char sum[CLI_DIGEST_TEXT];
    const char *format;

    int64_t held; /* tokens in the session when this process began to read */
    int64_t saved_at;
    double saved_when, began;
} reader;

/* ---- what is there ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (strcmp(path, "-") == 0)
        return "standard input";
    return slash && slash[1] ? slash + 1 : path;
}

/* Settings that belong to a session from its beginning. */
static int check_settings(const reader *r)
{
    const cli_options *o = r->o;
    const char *sparse = cli_json_string(r->saved.note, "sparse"), *system = cli_json_string(r->saved.note, "system");
    if (o->kv && strcmp(o->kv, r->saved.kv) != 0)
        return cli_fail("%s was begun with --kv %s; found --kv %s", r->path, r->saved.kv, o->kv);
    if (o->sparse && strcmp(o->sparse, sparse) != 0)
        return cli_fail("%s was begun with %s%s; found --sparse %s", r->path, sparse[0] ? "--sparse " : "no --sparse",
                        sparse, o->sparse);
    if (o->system && strcmp(o->system, system) != 0)
        return cli_fail("%s was begun with another --system; it belongs to the beginning of the session", r->path);
    if (o->raw && strcmp(cli_json_string(r->saved.note, "frame"), "text") != 0)
        return cli_fail("%s was begun with the chat template; found --raw", r->path);
    return 0;
}

/* A process that was killed in its very first save leaves a file in which nothing was ever saved: as good as none. */
static bool was_never_saved(const char *path)
{
    sala_session_file *f = NULL;
    if (sala_session_file_open(&f, path, SALA_SESSION_READ, NULL) != SALA_OK)
        return false;
    const bool never = sala_session_file_generation(f) == 0;
    sala_session_file_close(f);
    return never;
}

static int look_at_session(reader *r)
{
    r->exists = sala_os_file_size(r->path) > 0 && !was_never_saved(r->path);
    if (!r->exists)
        return 0;
    int rc = cli_saved_open(&r->saved, r->path);
    if (rc)
        return rc;
    if (!r->saved.last)
        return cli_fail("%s is a session that no document was read into; choose another file", r->path);
    r->resumes = !cli_json_flag(r->saved.last, "complete");
    if (r->resumes && r->o->append)
        return cli_fail("%s holds a document that was not read to its end (%s); read that first, without --append",
                        r->path, cli_json_string(r->saved.last, "name"));
    return check_settings(r);
}

/* The options as the session wants them: what it was begun with, its own model unless -m names one. */
static int open_vocabulary(reader *r, cli_options *o)
{
    if (r->exists) {
        const char *sparse = cli_json_string(r->saved.note, "sparse");
        o->model = o->model ? o->model : r->saved.model;
        o->sparse = sparse[0] ? sparse : NULL;
        o->system = json_string_value(json_object_get(r->saved.note, "system"));
        o->raw = strcmp(cli_json_string(r->saved.note, "frame"), "text") == 0;
    } else if (!o->model) {
        o->model = "smollm2";
    }
    char *path = NULL;
    int rc = cli_model_path(&path, o, true);
    if (rc)
        return rc;
    const sala_model_params params = {.vocab_only = true, .sparse = o->sparse};
    sala_error err = {0};
    if (sala_model_open(&r->vocab, path, &params, &err) != SALA_OK || sala_model_has_text(r->vocab, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    free(path);
    if (rc == 0)
        rc = cli_frame_open(&r->frame, r->vocab, o->raw, o->system);
    return rc;
}

/* ---- first pass ---- */

/* Where the document goes: behind nothing, behind another document, or behind an answer. */
static int settle_lead(reader *r)
{
    const char *behind = "";
    if (r->resumes) {
        behind = cli_json_string(r->saved.last, "behind");
        r->first = cli_json_int(r->saved.last, "first");
    } else if (r->exists) {
        behind = cli_json_flag(r->saved.note, "answered") ? "answer" : "gap";
        r->first = r->saved.tokens;
    }
    sala_error err = {0};
    const sala_text_span gap = {cli_frame_gap, strlen(cli_frame_gap), false};
    sala_status st = SALA_OK;
    if (strcmp(behind, "gap") == 0)
        st = cli_encode_on(r->vocab->tokenizer, &r->lead, &gap, 1, &err);
    else if (strcmp(behind, "answer") == 0)
        st = cli_encode_on(r->vocab->tokenizer, &r->lead, r->frame.between.at, r->frame.between.n, &err);
    if (st != SALA_OK)
        return cli_fail_error(&err);
    r->entry = json_pack("{s:o,s:s,s:I}", "name", cli_json_text(base_name(r->document), strlen(base_name(r->document))),
                         "behind", behind, "first", (json_int_t)r->first);
    return r->entry ? 0 : cli_fail("not enough memory");
}

static int open_pieces(reader *r, cli_document **d, cli_pieces **p)
{
    const bool first = r->first == 0;
    int rc = cli_document_open(d, r->document);
    if (rc == 0)
        rc = cli_pieces_open(p, *d, r->vocab->tokenizer, first ? r->frame.opening.at : NULL,
                             first ? r->frame.opening.n : 0);
    return rc;
}

static int changed(const reader *r)
{
    char bytes[32];
    return cli_fail("%s differs from what was read before byte %s of its text; the session %s goes on with the "
                    "document that it was begun with (%s), or another session is begun",
                    strcmp(r->document, "-") == 0 ? "standard input" : r->document,
                    cli_thousands(bytes, (uint64_t)cli_json_int(r->saved.last, "checked_bytes")), r->path,
                    cli_json_string(r->saved.last, "name"));
}

/* Counts tokens; an interrupted document has to be the same up to where it stopped. */
static int scan(reader *r)
{
    cli_document *d = NULL;
    cli_pieces *p = NULL;
    cli_piece piece;
    bool more = true;
    const uint64_t checked = r->resumes ? (uint64_t)cli_json_int(r->saved.last, "checked_bytes") : 0;
    bool unchanged = checked == 0;
    int rc = open_pieces(r, &d, &p);
    while (rc == 0 && (rc = cli_pieces_next(p, &piece, &more)) == 0 && more) {
        r->n_tokens += (int64_t)piece.n_ids;
        r->text_bytes = piece.end;
        cli_pieces_digest(p, r->sum);
        if (piece.end == checked)
            unchanged = strcmp(r->sum, cli_json_string(r->saved.last, "checked_sha256")) == 0;
        if (piece.end >= checked && !unchanged)
            rc = changed(r);
        if (!cli_progress(NULL, "counting tokens", cli_document_taken(d), cli_document_source_bytes(d)))
            rc = CLI_FAILED;
    }
    cli_progress_end();
    if (rc == 0 && r->n_tokens == 0)
        rc = cli_fail("%s holds no text", r->document);
    if (rc == 0 && !unchanged)
        rc = changed(r);
    if (rc == 0) {
        r->format = cli_document_format(d);
        r->repaired = cli_document_repaired(d);
        r->n_tokens += (int64_t)r->lead.count;
    }
    cli_pieces_close(p);
    cli_document_close(d);
    return rc;
}

static int show_text(const char *path)
{
    cli_document *d = NULL;
    int rc = cli_document_open(&d, path);
    static char text[1 << 16];
    for (size_t n = sizeof text; rc == 0 && n == sizeof text;) {
        rc = cli_document_read(d, text, sizeof text, &n);
        if (rc == 0 && fwrite(text, 1, n, stdout) != n)
            break;
    }
    if (rc == 0 && cli_document_repaired(d))
        cli_warn("%llu characters were not valid and became U+FFFD", (unsigned long long)cli_document_repaired(d));
    cli_document_close(d);
    return cli_flush(rc);
}

/* ---- the plan ---- */

static int plan(reader *r, const cli_options *o, int64_t *planned)
{
    char tokens[32], bytes[32];
    sala_model_info info;
    sala_model_get_info(r->vocab, &info);
    const int64_t end = r->first + r->n_tokens;
    *planned = end + ROOM;
    if (o->ctx != CLI_UNSET && o->ctx > 0) {
        if (o->ctx < end)
            return cli_fail("the session will hold %lld tokens, which is more than the %lld of -c", (long long)end,
                            (long long)o->ctx);
        *planned = o->ctx;
    }
    cli_say("%s: %s, %s of text, %s tokens", base_name(r->document), r->format, sala_format_bytes(bytes, r->text_bytes),
            cli_thousands(tokens, (uint64_t)r->n_tokens));
    if (r->repaired)
        cli_warn("%llu characters of %s were not valid and became U+FFFD", (unsigned long long)r->repaired,
                 r->document);
    cli_options kept = *o;
    kept.kv = r->exists ? r->saved.kv : o->kv;
    const int rc = cli_memory_announce(r->vocab, &kept, *planned, o->ctx > 0 ? "; ask for less with -c" : "");
    if (rc)
        return rc;
    if (info.n_ctx_train > 0 && end > info.n_ctx_train)
        cli_warn("%lld tokens are beyond the %lld that the model was trained for; answers may degrade", (long long)end,
                 (long long)info.n_ctx_train);
    return 0;
}

/* ---- second pass ---- */

static int open_session(reader *r, const cli_options *o, int64_t planned)
{
    sala_error err = {0};
    sala_status st;
    int rc = cli_model_open(&r->model, o);
    if (rc)
        return rc;
    if (r->exists) {
        const sala_restore_params params = {.max_tokens = planned};
        st = sala_session_restore(&r->session, r->model, r->path, &params, &err);
    } else {
        const sala_session_params params = {.max_tokens = planned,
                                            .planned_tokens = planned,
                                            .kv = cli_kv_type(o),
                                            .longrope = cli_longrope(o),
                                            .dense_switch = cli_dense_switch(o)};
        st = sala_session_open(&r->session, r->model, &params, &err);
    }
    if (st != SALA_OK)
        return cli_fail_error(&err);
    return 0;
}

static int make_note(reader *r, const cli_options *o)
{
    if (r->exists)
        r->note = json_deep_copy(r->saved.note);
    else
        r->note = json_pack("{s:s,s:b,s:[]}", "frame", r->frame.chat ? "chat" : "text", "answered", 0, "documents");
    json_t *documents = json_object_get(r->note, "documents");
    bool ok = documents != NULL;
    if (ok && !r->exists && o->system && r->frame.chat)
        ok = json_object_set_new(r->note, "system", cli_json_text(o->system, strlen(o->system))) == 0;
    if (ok && !r->exists && o->sparse)
        ok = json_object_set_new(r->note, "sparse", json_string(o->sparse)) == 0;
    ok = ok && json_object_set_new(r->entry, "format", json_string(r->format)) == 0 &&
         json_object_set_new(r->entry, "tokens", json_integer(r->n_tokens)) == 0 &&
         json_object_set_new(r->entry, "bytes", json_integer((json_int_t)r->text_bytes)) == 0 &&
         json_object_set_new(r->entry, "sha256", json_string(r->sum)) == 0 &&
         json_object_set_new(r->entry, "complete", json_false()) == 0;
    if (ok && r->resumes)
        ok = json_array_remove(documents, json_array_size(documents) - 1) == 0;
    ok = ok && json_array_append(documents, r->entry) == 0 &&
         json_object_set_new(r->note, "answered", json_false()) == 0;
    return ok ? 0 : cli_fail("not enough memory");
}

static int save(reader *r)
{
    sala_error err = {0};
    int rc = cli_note_store(r->session, r->note);
    if (rc == 0 && sala_session_save(r->session, r->path, &err) != SALA_OK)
        rc = cli_fail_error(&err);
    r->saved_at = sala_session_length(r->session);
    r->saved_when = sala_os_seconds();
    return rc;
}

/* How far the text was looked at is part of every save before the last. */
static int save_progress(reader *r, const cli_pieces *p, uint64_t text_end)
{
    char sum[CLI_DIGEST_TEXT];
    cli_pieces_digest(p, sum);
    if (json_object_set_new(r->entry, "checked_bytes", json_integer((json_int_t)text_end)) != 0 ||
        json_object_set_new(r->entry, "checked_sha256", json_string(sum)) != 0)
        return cli_fail("not enough memory");
    return save(r);
}

static void show_progress(const reader *r, int64_t at)
{
    char note[40];
    const double seconds = sala_os_seconds() - r->began;
    snprintf(note, sizeof note, "%.0f tok/s", cli_rate(at - r->held, seconds));
    cli_progress_note(note);
    cli_progress(NULL, "reading", (uint64_t)(at - r->first), (uint64_t)r->n_tokens);
}

/* Ids that stand at `at` in the session: what it holds already is compared, the rest goes through the model. */
static int feed(reader *r, const cli_pieces *p, uint64_t text_end, const int32_t *ids, size_t n, int64_t at)
{
    size_t n_held = 0, i = 0;
    const int32_t *held = sala_session_tokens(r->session, &n_held);
    for (; i < n && at + (int64_t)i < (int64_t)n_held; i++)
        if (held[at + (int64_t)i] != ids[i])
            return changed(r);
    sala_error err = {0};
    while (i < n) {
        const size_t part = n - i < (size_t)r->o->chunk ? n - i : (size_t)r->o->chunk;
        if (sala_prefill(r->session, ids + i, part, (int)r->o->chunk, NULL, NULL, NULL, &err) != SALA_OK)
            return cli_fail_error(&err);
        i += part;
        const int64_t now = at + (int64_t)i;
        show_progress(r, now);
        const bool stop = cli_interrupted();
        if (stop || now - r->saved_at >= r->o->save_every || sala_os_seconds() - r->saved_when >= SAVE_SECONDS) {
            const int rc = save_progress(r, p, text_end);
            if (rc)
                return rc;
        }
        if (stop)
            return CLI_FAILED;
    }
    return 0;
}

static int read_document(reader *r)
{
    cli_document *d = NULL;
    cli_pieces *p = NULL;
    cli_piece piece;
    bool more = true;
    int64_t at = r->first;
    r->began = r->saved_when = sala_os_seconds();
    r->saved_at = r->held;
    int rc = open_pieces(r, &d, &p);
    if (rc == 0)
        rc = feed(r, p, 0, r->lead.data, r->lead.count, at);
    at += (int64_t)r->lead.count;
    while (rc == 0 && (rc = cli_pieces_next(p, &piece, &more)) == 0 && more) {
        rc = feed(r, p, piece.end, piece.ids, piece.n_ids, at);
        at += (int64_t)piece.n_ids;
    }
    cli_progress_end();
    if (rc == 0) {
        char sum[CLI_DIGEST_TEXT];
        cli_pieces_digest(p, sum);
        if (strcmp(sum, r->sum) != 0)
            rc = cli_fail("%s changed while it was read; the session holds what was read until then", r->document);
    }
    if (rc == 0) {
        json_object_del(r->entry, "checked_bytes");
        json_object_del(r->entry, "checked_sha256");
        if (json_object_set_new(r->entry, "complete", json_true()) != 0)
            rc = cli_fail("not enough memory");
        else
            rc = save(r);
    }
    cli_pieces_close(p);
    cli_document_close(d);
    return rc;
}

static int report(const reader *r, double seconds)
{
    char tokens[32], size[32], speed[48] = "";
    const int64_t read = sala_session_length(r->session) - r->held;
    const int64_t bytes = sala_os_file_size(r->path);
    if (r->o->json)
        return cli_print_json(json_pack("{s:o,s:O,s:I,s:I,s:f,s:f,s:I,s:I,s:I}", "session",
                                        cli_json_text(r->path, strlen(r->path)), "document", r->entry, "tokens",
                                        (json_int_t)sala_session_length(r->session), "read_tokens", (json_int_t)read,
                                        "seconds", seconds, "tokens_per_second", cli_rate(read, seconds),
                                        "session_bytes", (json_int_t)sala_session_bytes(r->session), "file_bytes",
                                        (json_int_t)bytes, "peak_rss_bytes", (json_int_t)sala_os_peak_rss()));
    if (read)
        snprintf(speed, sizeof speed, ", %.1f tok/s", cli_rate(read, seconds));
    cli_say("%s holds %s tokens now, %s%s", r->path, cli_thousands(tokens, (uint64_t)sala_session_length(r->session)),
            sala_format_bytes(size, bytes > 0 ? (uint64_t)bytes : 0), speed);
    return 0;
}

/* True when the session holds this document already: nothing is left to do. 0 in *rc, or why it cannot go in. */
static bool is_there(const reader *r, int *rc)
{
    if (!r->exists || r->resumes || r->o->append)
        return false;
    *rc = 0;
    if (strcmp(r->sum, cli_json_string(r->saved.last, "sha256")) == 0)
        cli_say("%s holds %s already, %lld tokens", r->path, cli_json_string(r->saved.last, "name"),
                (long long)r->saved.tokens);
    else
        *rc = cli_fail("%s holds %s already; --append reads %s behind it", r->path,
                       cli_json_string(r->saved.last, "name"), base_name(r->document));
    return true;
}

int cli_cmd_read(const cli_options *given)
{
    if (given->show_text)
        return show_text(given->args[0]);
    if (!given->session && !given->dry_run)
        return cli_misuse("--session FILE is missing: where what was read is kept");
    cli_options options = *given;
    cli_options *o = &options;
    reader r = {.o = o, .document = given->args[0], .path = given->session ? given->session : ""};
    o->n_args = 0; /* the argument is a document: models are named with -m only */
    int64_t planned = 0;
    cli_signals_hold();
    int rc = look_at_session(&r);
    if (rc == 0)
        rc = open_vocabulary(&r, o);
    if (rc == 0)
        rc = settle_lead(&r);
    if (rc == 0)
        rc = scan(&r);
    if (rc || is_there(&r, &rc))
        goto out;
    rc = plan(&r, o, &planned);
    if (rc || o->dry_run)
        goto out;
    rc = open_session(&r, o, planned);
    if (rc == 0)
        rc = make_note(&r, o);
    if (rc)
        goto out;
    r.held = sala_session_length(r.session);
    /* A file that cannot be written, or that another process owns, is better known now than in half a minute. */
    if (!r.exists && (rc = save(&r)) != 0)
        goto out;
    if (r.resumes)
        cli_say("going on at token %lld of %lld", (long long)r.held, (long long)(r.first + r.n_tokens));
    const double start = sala_os_seconds();
    rc = read_document(&r);
    if (rc == 0)
        rc = report(&r, sala_os_seconds() - start);
out:
    cli_progress_end();
    if (cli_interrupted()) {
        if (r.session && r.saved_at > r.first)
            rc = cli_fail("interrupted at token %lld of %lld; the same command goes on from there",
                          (long long)r.saved_at, (long long)(r.first + r.n_tokens));
        else
            rc = cli_fail("interrupted");
    }
    cli_signals_release();
    sala_session_close(r.session);
    sala_model_close(r.model);
    cli_frame_free(&r.frame);
    sala_model_close(r.vocab);
    sala_ids_free(&r.lead);
    json_decref(r.note);
    json_decref(r.entry);
    cli_saved_free(&r.saved);
    return rc;
}
