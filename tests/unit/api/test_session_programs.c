/* Sessions under random programs of everything that can be done to them: whatever a session has been through, the
 * logits of its next token are, bit for bit, those of a fresh session that is fed with the same tokens in one call.
 * They are fed in any pieces, rolled back, forked, saved and restored.
 *
 * Contents come from a few books, each of which begins like an earlier one up to some token. A session is at some place
 * of some book; where books agree it may change from one to the other. So all answers are known in advance. */
#include "unit/api/support.h"

#include <pthread.h>
#include <unistd.h>

enum { N_VOCAB = 40, N_BOOKS = 6, BOOK = 640, MAX_TOKENS = 660, N_SESSIONS = 5, N_FILES = 3 };

#define TINY .n_vocab = N_VOCAB, .n_ctx = 512, .scale = 1, .n_embd = 32, .n_ff = 32

static const tiny_model models[] = {
    {TINY, .architecture = "minicpm-sala", .n_layers = 3, .n_heads = 6, .n_kv_heads = 2, .head_dim = 8, .mixers = "lsl",
     .sparse = {4, 2, 8, 1, 4, 16, 90, false}, .linear_heads = 4, .linear_kv_heads = 4, .linear_dim = 8,
     .linear_qk_norm = true, .mix_norm = true, .gates = true, .no_attn_rope = true},
    {TINY, .architecture = "minicpm-sala", .n_layers = 3, .n_heads = 3, .n_kv_heads = 1, .head_dim = 12, .tied = true,
     .mixers = "sls", .sparse = {16, 8, 64, 1, 2, 64, 300, false}, .linear_heads = 3, .linear_kv_heads = 1,
     .linear_dim = 6, .mix_norm = true, .no_attn_rope = true},
    {TINY, .architecture = "hypenet", .n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .qk_norm = true,
     .mixers = "ldl", .linear_heads = 5, .linear_kv_heads = 5, .linear_dim = 8, .linear_qk_norm = true,
     .mix_norm = true, .gates = true, .no_attn_rope = true, .attn_scale_base = 300},
    {TINY, .architecture = "hypenet", .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .mixers = "ll",
     .linear_heads = 4, .linear_kv_heads = 2, .linear_dim = 8, .mix_norm = true},
    {TINY, .architecture = "minicpm", .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .tied = true,
     .longrope = true, .sparse = {16, 16, 128, 1, 2, 128, 200, true}},
    {TINY, .architecture = "qwen3", .n_layers = 2, .n_heads = 5, .n_kv_heads = 1, .head_dim = 8, .qk_norm = true,
     .sparse = {8, 4, 16, 0, 4, 32, 0, true}},
    {TINY, .architecture = "llama", .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .sliding_window = 100},
};

static sala_rng rng;
static int64_t n_programs, n_operations, n_saved, n_restored, n_turns;

static uint64_t draw(uint64_t n)
{
    return sala_rng_next(&rng) % n;
}

/* ---- books ---- */

static int32_t book[N_BOOKS][BOOK];
static float answer[N_BOOKS][BOOK][N_VOCAB]; /* logits behind each token */

static int agreement(int a, int b)
{
    int n = 0;
    while (n < BOOK && book[a][n] == book[b][n])
        n++;
    return n;
}

/* Every book turns off from another one a little behind some place that many of them share. */
static void write_books(void)
{
    const int places[] = {(int)draw(64), (int)draw(BOOK / 2), (int)draw(BOOK - 40)};
    for (int b = 0; b < N_BOOKS; b++) {
        const int parent = b ? (int)draw((uint64_t)b) : 0;
        const int same = b ? places[draw(SALA_ARRAY_LEN(places))] + (int)draw(40) : 0;
        memcpy(book[b], book[parent], (size_t)same * sizeof **book);
        for (int i = same; i < BOOK; i++)
            book[b][i] = (int32_t)draw(N_VOCAB);
    }
}

static void expect(const float *logits, int b, int64_t at, const char *what)
{
    for (int v = 0; v < N_VOCAB; v++)
        if (memcmp(&logits[v], &answer[b][at][v], sizeof *logits) != 0)
            fail_msg("%s: program %lld, operation %lld: book %d, token %lld: logit %d is %.9g instead of %.9g", what,
                     (long long)n_programs, (long long)n_operations, b, (long long)at, v, (double)logits[v],
                     (double)answer[b][at][v]);
}

/* ---- sessions ---- */

typedef struct reader {
    sala_session *s; /* NULL: closed */
    int book;
    int64_t at;     /* tokens read */
    unsigned holds; /* files that the session has open, or may have pages of */
    int home;       /* the file that it was saved to or restored from last; -1: none */
    bool read_only;
} reader;

/* A session on disk: what it holds; at < 0: no such file. */
typedef struct saved {
    char path[512];
    int book;
    int64_t at;
} saved;

typedef struct world {
    const tiny_model *m;
    sala_model *model;
    sala_session_params params;
    reader r[N_SESSIONS], *last;
    saved file[N_FILES];
} world;

static void write_answers(const world *w)
{
    static sala_row rows[BOOK];
    sala_error err;
    for (int b = 0; b < N_BOOKS; b++) {
        sala_session *s = open_session(w->model, &w->params);
        for (int i = 0; i < BOOK; i++)
            rows[i] = (sala_row){book[b][i], 0, true};
        if (sala_forward(w->model, &s, 1, rows, BOOK, answer[b][0], &err) != SALA_OK)
            fail_msg("%s", err.message);
        sala_session_close(s);
    }
    /* What follows in the same call changes nothing. */
    sala_session *s = open_session(w->model, &w->params);
    const int b = (int)draw(N_BOOKS), n = 1 + (int)draw(BOOK);
    float logits[N_VOCAB];
    for (int i = 0; i < n; i++)
        rows[i] = (sala_row){book[b][i], 0, i + 1 == n};
    assert_int_equal(sala_forward(w->model, &s, 1, rows, n, logits, NULL), SALA_OK);
    expect(logits, b, n - 1, "a shorter call");
    sala_session_close(s);
}

static void check(const reader *r)
{
    size_t n;
    const int32_t *tokens = sala_session_tokens(r->s, &n);
    assert_int_equal(n, r->at);
    assert_int_equal(sala_session_length(r->s), r->at);
    if (n)
        assert_memory_equal(tokens, book[r->book], n * sizeof *tokens);
}

/* Often the one that something was done to just now. */
static reader *pick(world *w)
{
    reader *r = w->last && draw(2) ? w->last : &w->r[draw(N_SESSIONS)];
    w->last = r;
    if (!r->s)
        *r = (reader){.s = open_session(w->model, &w->params), .book = (int)draw(N_BOOKS), .home = -1};
    return r;
}

static void close_reader(reader *r)
{
    sala_session_close(r->s);
    *r = (reader){.home = -1};
}

/* On with another book that begins with the same tokens. */
static void change_book(reader *r)
{
    for (int tries = 0; tries < N_BOOKS; tries++) {
        const int b = (int)draw(N_BOOKS);
        if (b != r->book && agreement(b, r->book) >= r->at) {
            r->book = b;
            n_turns++;
            return;
        }
    }
}

/* How far to go back: a little, anywhere, or to a place where books part. */
static int64_t draw_target(const reader *r)
{
    const int b = (int)draw(N_BOOKS);
    int64_t to = r->at - (int64_t)draw(70);
    if (draw(3) == 0)
        to = (int64_t)draw((uint64_t)r->at + 1);
    else if (b != r->book && draw(2))
        to = agreement(b, r->book) - (int64_t)draw(10);
    return to < 0 || to > r->at ? r->at : to;
}

/* Rows of several sessions in any order; any of them wants its logits. */
static void run_batch(world *w)
{
    static float logits[200 * N_VOCAB];
    sala_session *sessions[N_SESSIONS];
    reader *readers[N_SESSIONS];
    sala_row rows[200];
    struct {
        int book;
        int64_t at;
    } want[200];
    int64_t at[N_SESSIONS];
    int n_sessions = 0, n_want = 0;
    for (int i = 0; i < N_SESSIONS; i++)
        if (w->r[i].s && draw(2)) {
            readers[n_sessions] = &w->r[i];
            at[n_sessions] = w->r[i].at;
            sessions[n_sessions++] = w->r[i].s;
        }
    if (n_sessions == 0)
        return;
    const int n = 1 + (int)draw(draw(3) ? 20 : 200);
    int n_rows = 0, s = 0;
    for (int i = 0; i < n; i++) {
        if (draw(3) == 0)
            s = (int)draw((uint64_t)n_sessions);
        const reader *r = readers[s];
        if (at[s] == BOOK)
            continue;
        const bool wanted = draw(4) == 0;
        rows[n_rows++] = (sala_row){book[r->book][at[s]], s, wanted};
        if (wanted) {
            want[n_want].book = r->book;
            want[n_want++].at = at[s];
        }
        at[s]++;
    }
    sala_error err;
    const bool fails = n_rows > 0 && draw(6) == 0;
    if (fails)
        rows[draw((uint64_t)n_rows)].token = draw(2) ? -1 : N_VOCAB;
    const sala_status st = sala_forward(w->model, sessions, n_sessions, rows, n_rows, logits, &err);
    assert_int_equal(st, fails ? SALA_E_INVALID : SALA_OK);
    for (int i = 0; i < n_sessions && !fails; i++)
        readers[i]->at = at[i];
    for (int i = 0; i < n_want && !fails; i++)
        expect(logits + i * N_VOCAB, want[i].book, want[i].at, "batch");
    for (int i = 0; i < n_sessions; i++)
        check(readers[i]);
}

static bool count_down(void *user, const char *what, uint64_t done, uint64_t total)
{
    assert_non_null(what);
    assert_true(done <= total);
    return --*(int *)user > 0;
}

static void read_on(reader *r, int64_t n, int patience)
{
    const int chunk = draw(4) ? 1 + (int)draw(draw(2) ? 20 : 200) : 0;
    float logits[N_VOCAB];
    sala_error err;
    n = sala_min_i64(n, BOOK - r->at);
    if (n == 0)
        return;
    const sala_status st =
        sala_prefill(r->s, book[r->book] + r->at, (size_t)n, chunk, logits, count_down, &patience, &err);
    if (st == SALA_E_CANCELLED) {
        r->at = sala_session_length(r->s);
    } else {
        if (st != SALA_OK)
            fail_msg("%s", err.message);
        r->at += n;
        expect(logits, r->book, r->at - 1, "prefill");
    }
    check(r);
}

static void run_prefill(world *w)
{
    const int64_t n = 1 + (int64_t)draw(draw(3) ? 60 : BOOK);
    read_on(pick(w), n, draw(4) ? INT32_MAX : 1 + (int)draw(3));
}

static void run_decode(world *w)
{
    reader *r = pick(w);
    float logits[N_VOCAB];
    for (int64_t n = 1 + (int64_t)draw(20); n > 0 && r->at < BOOK; n--) {
        const sala_row row = {book[r->book][r->at], 0, true};
        assert_int_equal(sala_forward(w->model, &r->s, 1, &row, 1, logits, NULL), SALA_OK);
        expect(logits, r->book, r->at++, "decode");
    }
    check(r);
}

static void run_rollback(world *w)
{
    reader *r = pick(w);
    sala_error err;
    assert_int_equal(sala_session_rollback(r->s, r->at + 1, &err), SALA_E_INVALID);
    assert_int_equal(sala_session_rollback(r->s, -1, &err), SALA_E_INVALID);
    r->at = draw_target(r);
    if (sala_session_rollback(r->s, r->at, &err) != SALA_OK)
        fail_msg("%s", err.message);
    check(r);
    change_book(r);
}

static void run_fork(world *w)
{
    const reader *from = pick(w);
    reader *to = &w->r[draw(N_SESSIONS)];
    if (to == from)
        return;
    close_reader(to);
    *to = *from;
    to->home = -1;
    to->read_only = false;
    assert_int_equal(sala_session_fork(&to->s, from->s, NULL), SALA_OK);
    check(to);
    change_book(to);
}

static void run_limit(world *w)
{
    reader *r = pick(w);
    static int32_t many[MAX_TOKENS + 1];
    sala_error err;
    assert_int_equal(sala_prefill(r->s, many, (size_t)(MAX_TOKENS + 1 - r->at), 0, NULL, NULL, NULL, &err),
                     SALA_E_LIMIT);
    check(r);
}

/* Whether no other session, and no fork of one, can have the file open. */
static bool is_free(const world *w, const reader *r, int f)
{
    unsigned others = 0;
    for (int i = 0; i < N_SESSIONS; i++)
        if (&w->r[i] != r && w->r[i].s)
            others |= w->r[i].holds;
    return !(others >> f & 1);
}

static void save(world *w, reader *r, int f)
{
    sala_error err;
    const sala_status st = sala_session_save(r->s, w->file[f].path, &err);
    if (f == r->home && r->read_only) {
        assert_int_equal(st, SALA_E_STATE);
    } else if (st == SALA_E_STATE) { /* another session has it, or this one's own pages keep it open */
        assert_true(f != r->home && (!is_free(w, r, f) || (r->holds >> f & 1)));
    } else {
        if (st != SALA_OK)
            fail_msg("%s", err.message);
        n_saved++;
        w->file[f].book = r->book;
        w->file[f].at = r->at;
        r->holds |= 1u << f;
        r->home = f;
        r->read_only = false;
    }
    check(r);
}

static void run_save(world *w)
{
    reader *r = pick(w);
    save(w, r, r->home >= 0 && draw(5) ? r->home : (int)draw(N_FILES));
}

static void restore(world *w, reader *r, int f)
{
    const saved *file = &w->file[f];
    const sala_restore_params p = {.read_only = draw(3) == 0, .max_tokens = MAX_TOKENS};
    sala_error err;
    for (int i = 0; i < N_SESSIONS && draw(4); i++) /* mostly whoever has it lets go of it */
        if (w->r[i].holds >> f & 1)
            close_reader(&w->r[i]);
    close_reader(r);
    w->last = r;
    sala_session *s = NULL;
    const sala_status st = sala_session_restore(&s, w->model, file->path, &p, &err);
    if (file->at < 0) {
        assert_int_equal(st, SALA_E_NOT_FOUND);
    } else if (st == SALA_E_STATE) {
        assert_false(is_free(w, r, f));
    } else {
        if (st != SALA_OK)
            fail_msg("%s", err.message);
        n_restored++;
        *r = (reader){s, file->book, file->at, 1u << f, f, p.read_only};
        check(r);
    }
}

static void run_restore(world *w)
{
    reader *r = &w->r[draw(N_SESSIONS)];
    restore(w, r, (int)draw(N_FILES));
    if (r->s)
        change_book(r);
}

/* Back to where another book parts and on in that one; what was saved before must not come back. */
static void run_detour(world *w)
{
    reader *r = pick(w);
    const int b = (int)draw(N_BOOKS), parting = agreement(b, r->book);
    sala_error err;
    if (parting == 0 || parting >= r->at)
        return;
    if (r->home >= 0 && draw(2))
        save(w, r, r->home);
    const int64_t was = r->at;
    r->at = sala_max_i64(0, parting - (int64_t)draw(5));
    if (sala_session_rollback(r->s, r->at, &err) != SALA_OK)
        fail_msg("%s", err.message);
    r->book = b;
    n_turns++;
    read_on(r, draw(2) ? parting - r->at + 1 + (int64_t)draw(20) : was - r->at + (int64_t)draw(3), INT32_MAX);
    if (r->home < 0 || draw(3) == 0)
        return;
    const int home = r->home;
    save(w, r, home);
    if (draw(2))
        restore(w, r, home);
}

static void random_program(world *w, int n_steps)
{
    n_programs++;
    w->last = NULL;
    for (int f = 0; f < N_FILES; f++) {
        char name[32];
        snprintf(name, sizeof name, "%d.session", f);
        test_path(w->file[f].path, sizeof w->file[f].path, name);
        w->file[f].at = -1;
    }
    for (int step = 0; step < n_steps; step++) {
        n_operations++;
        switch (draw(19)) {
        case 0:
        case 1:
        case 2:
            run_batch(w);
            break;
        case 3:
        case 4:
            run_prefill(w);
            break;
        case 5:
            run_decode(w);
            break;
        case 6:
        case 7:
        case 8:
            run_rollback(w);
            break;
        case 9:
        case 10:
            run_fork(w);
            break;
        case 11:
        case 12:
        case 13:
            run_save(w);
            break;
        case 14:
        case 15:
            run_restore(w);
            break;
        case 16:
        case 17:
            run_detour(w);
            break;
        default:
            if (draw(2))
                close_reader(&w->r[draw(N_SESSIONS)]);
            else
                run_limit(w);
        }
    }
    for (int i = 0; i < N_SESSIONS; i++) {
        reader *r = &w->r[i];
        if (!r->s)
            continue;
        check(r);
        if (r->at < BOOK) {
            float logits[N_VOCAB];
            const sala_row row = {book[r->book][r->at], 0, true};
            assert_int_equal(sala_forward(w->model, &r->s, 1, &row, 1, logits, NULL), SALA_OK);
            expect(logits, r->book, r->at, "the end");
        }
        close_reader(r);
    }
    for (int f = 0; f < N_FILES; f++)
        unlink(w->file[f].path);
}

static void run_model(const tiny_model *m, const char *kernels, int threads, const sala_kv_type *types, int n_types,
                      int programs, int steps)
{
    world w = {.m = m, .model = open_tiny(m, 5, kernels, threads)};
    for (int t = 0; t < n_types; t++)
        for (int by_prompt = 0; by_prompt < (m->sparse.dense_len > 0 ? 2 : 1); by_prompt++) {
            w.params = (sala_session_params){.max_tokens = MAX_TOKENS,
                                             .planned_tokens = 1 + (int64_t)draw(MAX_TOKENS),
                                             .kv = types[t],
                                             .dense_switch = by_prompt ? SALA_DENSE_BY_PROMPT : SALA_DENSE_BY_POSITION};
            write_books();
            write_answers(&w);
            for (int p = 0; p < programs; p++)
                random_program(&w, steps);
        }
    sala_model_close(w.model);
}

static void tell(void)
{
    printf("%lld programs, %lld operations: %lld saved, %lld restored, %lld changes of books\n", (long long)n_programs,
           (long long)n_operations, (long long)n_saved, (long long)n_restored, (long long)n_turns);
    assert_true(n_saved > n_programs && n_restored > n_programs && n_turns > n_programs);
}

static void random_programs(void **state)
{
    (void)state;
    static const sala_kv_type types[] = {SALA_KV_F16, SALA_KV_Q8_0, SALA_KV_Q4, SALA_KV_F32};
    sala_rng_seed(&rng, test_seed(6));
    n_programs = n_operations = n_saved = n_restored = n_turns = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        run_model(&models[i], "auto", 1 + (int)(i % 2), types, SALA_ARRAY_LEN(types), 2, 80);
    tell();
}

static void random_programs_ref(void **state)
{
    (void)state;
    static const sala_kv_type types[] = {SALA_KV_F32};
    sala_rng_seed(&rng, test_seed(7));
    n_programs = n_operations = n_saved = n_restored = n_turns = 0;
    for (size_t i = 0; i < SALA_ARRAY_LEN(models); i++)
        run_model(&models[i], "ref", 1, types, SALA_ARRAY_LEN(types), 1, 80);
    tell();
}

/* ---- threads ---- */

enum { N_THREADS = 3 };

typedef struct thread_job {
    sala_session *s; /* a fork of a session that others have forks of, too */
    int64_t at;
    uint64_t seed;
    int done;
    char failed[200]; /* asserts are for the main thread */
} thread_job;

/* Every thread reads a book of its own from where they all stood, back and forth. */
static void *thread_main(void *user)
{
    thread_job *job = user;
    sala_rng mine;
    sala_error err = {0};
    float logits[N_VOCAB];
    const int b = (int)(job->seed % N_BOOKS);
    sala_rng_seed(&mine, job->seed);
    for (; job->done < 60; job->done++) {
        int64_t n = sala_min_i64(BOOK - job->at, 1 + (int64_t)(sala_rng_next(&mine) % 40));
        sala_status st = SALA_OK;
        if (sala_rng_next(&mine) % 3 == 0 || n == 0) {
            job->at = (int64_t)(sala_rng_next(&mine) % (uint64_t)(job->at + 1));
            st = sala_session_rollback(job->s, job->at, &err);
        } else {
            st = sala_prefill(job->s, book[b] + job->at, (size_t)n, 7, logits, NULL, NULL, &err);
            job->at += n;
            if (st == SALA_OK && memcmp(logits, answer[b][job->at - 1], sizeof logits) != 0)
                st = sala_fail(&err, SALA_E_NUMERIC, "book %d, token %lld: other logits", b, (long long)job->at - 1);
        }
        sala_session *fork = NULL;
        if (st == SALA_OK && sala_rng_next(&mine) % 3 == 0 &&
            (st = sala_session_fork(&fork, job->s, &err)) == SALA_OK) {
            if (sala_rng_next(&mine) % 2) {
                sala_session *const t = job->s;
                job->s = fork;
                fork = t;
            }
            sala_session_close(fork);
        }
        if (st != SALA_OK) {
            snprintf(job->failed, sizeof job->failed, "%.190s", err.message);
            break;
        }
    }
    return NULL;
}

/* A session of a file is forked, and every fork goes to a thread: pages are shared, sessions are not. */
static void threads(void **state)
{
    (void)state;
    sala_rng_seed(&rng, test_seed(8));
    for (size_t i = 0; i < 5; i += 4) {
        world w = {.m = &models[i], .model = open_tiny(&models[i], 5, "auto", 2), .params = {.max_tokens = MAX_TOKENS}};
        write_books();
        for (int b = 1; b < N_BOOKS; b++)
            memcpy(book[b], book[0], 200 * sizeof **book);
        write_answers(&w);
        char path[512];
        test_path(path, sizeof path, "threads.session");
        sala_session *s = open_session(w.model, &w.params);
        assert_int_equal(sala_prefill(s, book[0], 200, 0, NULL, NULL, NULL, NULL), SALA_OK);
        assert_int_equal(sala_session_save(s, path, NULL), SALA_OK);
        sala_session_close(s);
        assert_int_equal(
            sala_session_restore(&s, w.model, path, &(sala_restore_params){.max_tokens = MAX_TOKENS}, NULL), SALA_OK);
        pthread_t thread[N_THREADS];
        thread_job job[N_THREADS];
        for (int t = 0; t < N_THREADS; t++) {
            job[t] = (thread_job){.at = 200, .seed = sala_rng_next(&rng)};
            assert_int_equal(sala_session_fork(&job[t].s, s, NULL), SALA_OK);
        }
        sala_session_close(s);
        for (int t = 0; t < N_THREADS; t++)
            assert_int_equal(pthread_create(&thread[t], NULL, thread_main, &job[t]), 0);
        for (int t = 0; t < N_THREADS; t++) {
            assert_int_equal(pthread_join(thread[t], NULL), 0);
            sala_session_close(job[t].s);
        }
        for (int t = 0; t < N_THREADS; t++)
            if (job[t].failed[0])
                fail_msg("thread %d, step %d: %s", t, job[t].done, job[t].failed);
        unlink(path);
        sala_model_close(w.model);
    }
}

/* Sessions that cannot share a call; whoever is refused is as it was. */
static void refused(void **state)
{
    (void)state;
    world w = {.m = &models[0], .model = open_tiny(&models[0], 5, "auto", 1), .params = {.max_tokens = 50}};
    sala_model *other = open_tiny(&models[1], 5, "auto", 1);
    sala_session *s[2] = {open_session(w.model, &w.params), NULL};
    const sala_row rows[] = {{1, 0, false}, {2, 1, false}, {3, 0, false}};
    sala_error err;
    w.params.kv = SALA_KV_Q8_0;
    s[1] = open_session(w.model, &w.params);
    assert_int_equal(sala_forward(w.model, s, 2, rows, 3, NULL, &err), SALA_E_INVALID); /* caches of two types */
    assert_int_equal(sala_forward(other, s, 1, rows, 1, NULL, &err), SALA_E_INVALID);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sala_session_length(s[i]), 0);
        assert_int_equal(sala_forward(w.model, &s[i], 1, rows, 1, NULL, &err), SALA_OK);
        assert_int_equal(sala_session_length(s[i]), 1);
        sala_session_close(s[i]);
    }
    sala_model_close(other);
    sala_model_close(w.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_programs), cmocka_unit_test(random_programs_ref),
                                       cmocka_unit_test(threads), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
