/* Dense products by oneDNN, each on the calling thread alone: the threads are ours, and the library's own are told to
 * be one.
 *
 * f32: dnnl_sgemm, which takes any shape as it comes. bf16: matmul primitives, which are made for one shape each. Rows
 * of tokens come in pieces, the operands being zero up to a multiple of the smallest;
 * where C ends before that, the last piece goes through a worker's own rows. Primitives are found in a list that only
 * grows, without a lock; sala_product_prepare() fills it ahead, and a shape that was never announced is made when it is
 * met.
 *
 * Bits of a result depend on the machine and the shape (the library picks code by both), not on threads. */
#ifdef SALA_HAVE_DNNL

#include "grad/dnnl_library.h"
#include "grad/product_impl.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* GRAD products add into C once a piece, so theirs may be longer. */
enum { PIECE_LONG = 1024, PIECE_LARGE = 256, PIECE_SMALL = SALA_PRODUCT_ROWS };

/* Set once, before the first product is opened. */
static const sala_dnnl *dnnl;

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
/* The OpenMP runtime that the library runs on. The number belongs to the calling thread, so a program that uses OpenMP
 * beside us keeps its own. */
static int alone(void)
{
    const int before = dnnl->omp_get_max_threads();
    dnnl->omp_set_num_threads(1);
    return before;
}

static void not_alone(int before)
{
    dnnl->omp_set_num_threads(before);
}
#else
static int alone(void)
{
    return 1;
}

static void not_alone(int before)
{
    (void)before;
}
#endif

/* ---- where the versions differ ---- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t md;
#define MD_REF(m) (m)

static dnnl_status_t md_strided(md *out, dnnl_data_type_t type, int64_t rows, int64_t cols, int64_t row, int64_t col)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {row, col};
    return dnnl->memory_desc_create_with_strides(out, 2, dims, type, strides);
}

static dnnl_status_t md_any(md *out, dnnl_data_type_t type, int64_t rows, int64_t cols)
{
    const dnnl_dims_t dims = {rows, cols};
    return dnnl->memory_desc_create_with_tag(out, 2, dims, type, dnnl_format_tag_any);
}

static void md_free(md *m)
{
    if (*m)
        dnnl->memory_desc_destroy(*m);
    *m = NULL;
}

static dnnl_status_t md_copy(md *out, sala_md_ref from)
{
    return dnnl->memory_desc_clone(out, from);
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl->post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static dnnl_status_t make_matmul(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const md *a, const md *b,
                                 const md *c, dnnl_primitive_attr_t attr)
{
    return dnnl->matmul_primitive_desc_create(out, engine, *a, *b, NULL, *c, attr);
}

static dnnl_status_t make_reorder(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const md *from, const md *to,
                                  dnnl_primitive_attr_t attr)
{
    return dnnl->reorder_primitive_desc_create(out, *from, engine, *to, engine, attr);
}
#else
typedef dnnl_memory_desc_t md;
#define MD_REF(m) (&(m))

static dnnl_status_t md_strided(md *out, dnnl_data_type_t type, int64_t rows, int64_t cols, int64_t row, int64_t col)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {row, col};
    return dnnl->memory_desc_init_by_strides(out, 2, dims, type, strides);
}

static dnnl_status_t md_any(md *out, dnnl_data_type_t type, int64_t rows, int64_t cols)
{
    const dnnl_dims_t dims = {rows, cols};
    return dnnl->memory_desc_init_by_tag(out, 2, dims, type, dnnl_format_tag_any);
}

static void md_free(md *m)
{
    memset(m, 0, sizeof *m);
}

static dnnl_status_t md_copy(md *out, sala_md_ref from)
{
    *out = *from;
    return dnnl_success;
}

static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl->post_ops_append_sum(ops, 1.0f);
}

static dnnl_status_t make_matmul(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const md *a, const md *b,
                                 const md *c, dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t d;
    const dnnl_status_t st = dnnl->matmul_desc_init(&d, a, b, NULL, c);
    return st == dnnl_success ? dnnl->primitive_desc_create(out, &d, attr, engine, NULL) : st;
}

static dnnl_status_t make_reorder(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const md *from, const md *to,
                                  dnnl_primitive_attr_t attr)
{
    return dnnl->reorder_primitive_desc_create(out, from, engine, to, engine, attr);
}
#endif

/* ---- primitives ---- */

enum { ARG_A, ARG_B, ARG_C, ARG_SCRATCH, N_ARGS };

/* What one worker hands to a primitive; only the addresses change. */
typedef struct worker_args {
    dnnl_memory_t memory[N_ARGS];
} worker_args;

/* Scratch of one worker, for whichever primitive it runs. */
typedef struct room {
    void *p;
    size_t bytes;
} room;

/* A primitive of one exact shape, or (pack) the reorder that makes its B. plain: the library has its reference code
 * only, which is slower than ours, so that there is none; B then lies as our own product packs it. */
typedef struct entry {
    struct entry *next;
    bool pack, plain;
    sala_product_shape key; /* fields that its kind ignores are 0 */
    dnnl_primitive_t primitive;
    md b; /* how B lies */
    size_t b_bytes, scratch_bytes;
    worker_args *workers;
} entry;

typedef struct dnnl_product {
    sala_product base;
    sala_product *plain; /* multiplies what the library does not multiply fast; NULL in f32 runs */
    dnnl_engine_t engine;
    dnnl_stream_t *streams;   /* one a worker */
    room *rooms;              /* one a worker */
    _Atomic(entry *) entries; /* pushed with release under `lock`, walked with acquire without it */
    sala_turn *lock;          /* for making entries */
    uint8_t *scratch;         /* a worker's rows of C beyond the last whole piece */
    size_t scratch_bytes, worker_bytes;
} dnnl_product;

static void entry_free(const dnnl_product *g, entry *e)
{
    if (!e)
        return;
    for (int w = 0; e->workers && w < g->base.n_workers; w++) {
        for (int i = 0; i < N_ARGS; i++)
            if (e->workers[w].memory[i])
                dnnl->memory_destroy(e->workers[w].memory[i]);
    }
    free(e->workers);
    if (e->primitive)
        dnnl->primitive_destroy(e->primitive);
    md_free(&e->b);
    free(e);
}

static bool same_shape(const sala_product_shape *a, const sala_product_shape *b)
{
    return a->kind == b->kind && a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb &&
           a->ldc == b->ldc && a->add == b->add;
}

static entry *find_entry(const dnnl_product *g, bool pack, const sala_product_shape *key)
{
    entry *e = atomic_load_explicit(&g->entries, memory_order_acquire);
    while (e && !(e->pack == pack && same_shape(&e->key, key)))
        e = e->next;
    return e;
}

/* The descriptions of an entry's operands: A, B as the primitive wants it, C. */
static dnnl_status_t describe_matmul(const sala_product_shape *s, sala_md_ref packed, md *a, md *b, md *c)
{
    const bool grad = s->kind == SALA_PRODUCT_GRAD;
    dnnl_status_t st = md_strided(a, dnnl_bf16, s->m, s->k, grad ? 1 : s->lda, grad ? s->lda : 1);
    if (st == dnnl_success)
        st = grad     ? md_strided(b, dnnl_bf16, s->k, s->n, s->ldb, 1)
             : packed ? md_copy(b, packed)
                      : md_any(b, dnnl_bf16, s->k, s->n);
    if (st == dnnl_success)
        st = md_strided(c, dnnl_f32, s->m, s->n, s->ldc, 1);
    return st;
}

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, bool add)
{
    dnnl_status_t st = dnnl->primitive_attr_create(attr);
    if (st == dnnl_success) /* a scratchpad of the library's would be shared by all threads */
        st = dnnl->primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (st == dnnl_success && add) {
        dnnl_post_ops_t ops = NULL;
        st = dnnl->post_ops_create(&ops);
        if (st == dnnl_success)
            st = append_sum(ops);
        if (st == dnnl_success)
            st = dnnl->primitive_attr_set_post_ops(*attr, ops);
        if (ops)
            dnnl->post_ops_destroy(ops);
    }
    return st;
}

static dnnl_status_t make_workers(const dnnl_product *g, entry *e, dnnl_primitive_desc_t pd, const md *a, const md *c)
{
    e->workers = calloc((size_t)g->base.n_workers, sizeof *e->workers);
    if (!e->workers)
        return dnnl_out_of_memory;
    sala_md_ref scratch = dnnl->primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    e->scratch_bytes = scratch ? dnnl->memory_desc_get_size(scratch) : 0;
    for (int w = 0; w < g->base.n_workers; w++) {
        worker_args *args = &e->workers[w];
        dnnl_status_t st = dnnl->memory_create(&args->memory[ARG_A], MD_REF(*a), g->engine, DNNL_MEMORY_NONE);
        if (st == dnnl_success)
            st = dnnl->memory_create(&args->memory[ARG_B], MD_REF(e->b), g->engine, DNNL_MEMORY_NONE);
        if (st == dnnl_success && c)
            st = dnnl->memory_create(&args->memory[ARG_C], MD_REF(*c), g->engine, DNNL_MEMORY_NONE);
        if (st == dnnl_success && e->scratch_bytes)
            st = dnnl->memory_create(&args->memory[ARG_SCRATCH], scratch, g->engine, DNNL_MEMORY_NONE);
        if (st != dnnl_success)
            return st;
    }
    return dnnl_success;
}

/* "brg:avx512_core_bf16"; the library's own name of its code. */
static const char *code_of(dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    dnnl->primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name);
    return name ? name : "";
}

static bool is_reference(const char *code)
{
    return strstr(code, "ref") != NULL;
}

/* What the library would multiply a shape with. `packed`: how B lies, or NULL where this shape decides it. */
static dnnl_status_t choose(const dnnl_product *g, dnnl_primitive_desc_t *pd, md *a, md *c,
                            const sala_product_shape *key, sala_md_ref packed)
{
    md b;
    memset(&b, 0, sizeof b);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t st = describe_matmul(key, packed, a, &b, c);
    if (st == dnnl_success)
        st = make_attr(&attr, key->add);
    if (st == dnnl_success)
        st = make_matmul(pd, g->engine, a, &b, c, attr);
    if (attr)
        dnnl->primitive_attr_destroy(attr);
    md_free(&b);
    return st;
}

/* code (may be NULL): takes the name of the library's code. */
static dnnl_status_t make_product(const dnnl_product *g, entry **out, const sala_product_shape *key, sala_md_ref packed,
                                  char code[64])
{
    md a, c;
    memset(&a, 0, sizeof a);
    memset(&c, 0, sizeof c);
    dnnl_primitive_desc_t pd = NULL;
    entry *e = calloc(1, sizeof *e);
    dnnl_status_t st = e ? choose(g, &pd, &a, &c, key, packed) : dnnl_out_of_memory;
    if (st == dnnl_success) {
        sala_md_ref chosen = dnnl->primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
        e->key = *key;
        e->plain = !packed && is_reference(code_of(pd));
        e->b_bytes = dnnl->memory_desc_get_size(chosen);
        st = md_copy(&e->b, chosen);
        if (code)
            snprintf(code, 64, "%s", code_of(pd));
    }
    if (st == dnnl_success && !e->plain)
        st = dnnl->primitive_create(&e->primitive, pd);
    if (st == dnnl_success && !e->plain)
        st = make_workers(g, e, pd, &a, &c);
    if (pd)
        dnnl->primitive_desc_destroy(pd);
    md_free(&a);
    md_free(&c);
    if (st == dnnl_success)
        *out = e;
    else
        entry_free(g, e);
    return st;
}

/* The reorder of f32 rows with stride key->ldb into B of `product`. */
static dnnl_status_t make_pack(const dnnl_product *g, entry **out, const sala_product_shape *key, const entry *product)
{
    md from;
    memset(&from, 0, sizeof from);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    entry *e = calloc(1, sizeof *e);
    const bool turned = key->kind == SALA_PRODUCT_OUT;
    dnnl_status_t st = e ? md_strided(&from, dnnl_f32, key->k, key->n, turned ? 1 : key->ldb, turned ? key->ldb : 1)
                         : dnnl_out_of_memory;
    if (st == dnnl_success) {
        e->pack = true;
        e->key = *key;
        st = md_copy(&e->b, MD_REF(product->b));
    }
    if (st == dnnl_success)
        st = make_attr(&attr, false);
    if (st == dnnl_success)
        st = make_reorder(&pd, g->engine, &from, &e->b, attr);
    if (st == dnnl_success)
        st = dnnl->primitive_create(&e->primitive, pd);
    if (st == dnnl_success)
        st = make_workers(g, e, pd, &from, NULL);
    if (pd)
        dnnl->primitive_desc_destroy(pd);
    if (attr)
        dnnl->primitive_attr_destroy(attr);
    md_free(&from);
    if (st == dnnl_success)
        *out = e;
    else
        entry_free(g, e);
    return st;
}

/* The shape that decides how B of an OUT or BACK product lies: large pieces, dense rows. All others take what it chose.
 */
static sala_product_shape model_shape(sala_product_kind kind, int64_t n, int64_t k)
{
    return (sala_product_shape){.kind = kind, .m = PIECE_LARGE, .n = n, .k = k, .lda = k, .ldc = n};
}

/* The entry of a model shape. Its B is laid out for all pieces alike, so all have to be fast. */
static dnnl_status_t make_model(const dnnl_product *g, entry **out, const sala_product_shape *shape, char code[64])
{
    entry *e = NULL;
    const dnnl_status_t st = make_product(g, &e, shape, NULL, code);
    if (st != dnnl_success)
        return st;
    for (int variant = 0; variant < 4 && !e->plain; variant++) {
        md a, c;
        memset(&a, 0, sizeof a);
        memset(&c, 0, sizeof c);
        dnnl_primitive_desc_t pd = NULL;
        sala_product_shape piece = *shape;
        piece.m = variant & 1 ? PIECE_SMALL : PIECE_LARGE;
        piece.lda = (shape->k + 1) / 2 * 2; /* as operands come */
        piece.add = shape->kind == SALA_PRODUCT_BACK && variant >= 2;
        e->plain = choose(g, &pd, &a, &c, &piece, MD_REF(e->b)) != dnnl_success || is_reference(code_of(pd));
        if (pd)
            dnnl->primitive_desc_destroy(pd);
        md_free(&a);
        md_free(&c);
    }
    *out = e;
    return dnnl_success;
}

static void push(dnnl_product *g, entry *e)
{
    e->next = atomic_load_explicit(&g->entries, memory_order_relaxed);
    atomic_store_explicit(&g->entries, e, memory_order_release);
}

/* With the lock held. */
static dnnl_status_t get_locked(dnnl_product *g, entry **out, bool pack, const sala_product_shape *key)
{
    *out = find_entry(g, pack, key);
    if (*out)
        return dnnl_success;
    entry *model = NULL;
    if (key->kind != SALA_PRODUCT_GRAD) {
        const sala_product_shape shape = model_shape(key->kind, key->n, key->k);
        model = find_entry(g, false, &shape);
        if (!model) {
            const dnnl_status_t st = make_model(g, &model, &shape, NULL);
            if (st != dnnl_success)
                return st;
            push(g, model);
        }
        if (model->plain || (!pack && same_shape(&shape, key))) {
            *out = model;
            return dnnl_success;
        }
    }
    entry *e = NULL;
    const dnnl_status_t st =
        pack ? make_pack(g, &e, key, model) : make_product(g, &e, key, model ? MD_REF(model->b) : NULL, NULL);
    if (st == dnnl_success)
        push(g, e);
    *out = e;
    return st;
}

static dnnl_status_t get_entry(const dnnl_product *g, entry **out, bool pack, const sala_product_shape *key)
{
    *out = find_entry(g, pack, key);
    if (*out)
        return dnnl_success;
    dnnl_product *mine = (dnnl_product *)(uintptr_t)g; /* the list is the only thing that changes, and it has a lock */
    const int before = alone();
    sala_turn_take(g->lock);
    const dnnl_status_t st = get_locked(mine, out, pack, key);
    sala_turn_give(g->lock);
    not_alone(before);
    return st;
}

/* A worker's room is touched by that worker only, or while nobody computes. */
static bool make_room(const dnnl_product *g, int worker, size_t bytes)
{
    room *r = &g->rooms[worker];
    if (bytes <= r->bytes)
        return true;
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        return false;
    free(r->p);
    *r = (room){p, bytes};
    return true;
}

static dnnl_status_t execute(const dnnl_product *g, const entry *e, void *a, void *b, void *c, int worker)
{
    const worker_args *w = &e->workers[worker];
    const bool scratch = e->scratch_bytes > 0;
    if (!make_room(g, worker, e->scratch_bytes))
        return dnnl_out_of_memory;
    if (scratch)
        dnnl->memory_set_data_handle(w->memory[ARG_SCRATCH], g->rooms[worker].p);
    dnnl->memory_set_data_handle(w->memory[ARG_A], a);
    dnnl->memory_set_data_handle(w->memory[ARG_B], b);
    if (e->pack) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, w->memory[ARG_A]},
                                        {DNNL_ARG_TO, w->memory[ARG_B]},
                                        {DNNL_ARG_SCRATCHPAD, w->memory[ARG_SCRATCH]}};
        return dnnl->primitive_execute(e->primitive, g->streams[worker], scratch ? 3 : 2, args);
    }
    dnnl->memory_set_data_handle(w->memory[ARG_C], c);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, w->memory[ARG_A]},
                                    {DNNL_ARG_WEIGHTS, w->memory[ARG_B]},
                                    {DNNL_ARG_DST, w->memory[ARG_C]},
                                    {DNNL_ARG_SCRATCHPAD, w->memory[ARG_SCRATCH]}};
    return dnnl->primitive_execute(e->primitive, g->streams[worker], scratch ? 4 : 3, args);
}

/* ---- bf16 products ---- */

/* Token rows fall into such pieces, one after the other. */
static int64_t next_piece(sala_product_kind kind, int64_t left)
{
    if (kind == SALA_PRODUCT_GRAD && left >= PIECE_LONG)
        return PIECE_LONG;
    return left >= PIECE_LARGE ? PIECE_LARGE : PIECE_SMALL;
}

static sala_product_shape piece_shape(const sala_product_shape *s, int64_t rows, bool add)
{
    sala_product_shape p = *s;
    p.add = add;
    if (s->kind == SALA_PRODUCT_GRAD)
        p.k = rows;
    else {
        p.m = rows;
        p.ldb = 0;
    }
    return p;
}

/* A piece that is computed beside C: its last rows are not there, or C is wider than the product, for which the library
 * has its reference code only. */
static sala_product_shape aside_shape(const sala_product_shape *s, int64_t rows)
{
    sala_product_shape p = piece_shape(s, rows, false);
    p.ldc = s->n;
    return p;
}

static sala_status fail_dnnl(sala_error *err, dnnl_status_t st, const sala_product_shape *s)
{
    return sala_fail(err, st == dnnl_out_of_memory ? SALA_E_MEMORY : SALA_E_UNSUPPORTED,
                     "oneDNN has no bf16 product of %lld x %lld x %lld here (status %d)", (long long)s->m,
                     (long long)s->n, (long long)s->k, (int)st);
}

static size_t aside_bytes(int64_t n)
{
    return ((size_t)PIECE_LARGE * (size_t)n * sizeof(float) + 63) / 64 * 64;
}

/* Rows that pieces of OUT and BACK products go through; grown while nobody computes. */
static bool grow_scratch(dnnl_product *g, int64_t n)
{
    const size_t bytes = aside_bytes(n);
    if (bytes <= g->worker_bytes)
        return true;
    uint8_t *p = sala_os_pages_alloc(bytes * (size_t)g->base.n_workers);
    if (!p)
        return false;
    sala_os_pages_free(g->scratch, g->scratch_bytes);
    g->scratch = p;
    g->worker_bytes = bytes;
    g->scratch_bytes = bytes * (size_t)g->base.n_workers;
    return true;
}

static sala_status dnnl_prepare(sala_product *base, const sala_product_shape *s, sala_error *err)
{
    dnnl_product *g = (dnnl_product *)base;
    if (base->precision == SALA_PRECISION_F32)
        return SALA_OK;
    const bool grad = s->kind == SALA_PRODUCT_GRAD;
    const int64_t rows = grad ? s->k : s->m;
    entry *e = NULL;
    const sala_product_shape model = model_shape(s->kind, s->n, s->k);
    dnnl_status_t st = grad ? dnnl_success : get_entry(g, &e, false, &model);
    if (st == dnnl_success && e && e->plain)
        return SALA_OK;
    static const int64_t pieces[] = {PIECE_LONG, PIECE_LARGE, PIECE_SMALL};
    for (size_t i = 0; i < SALA_ARRAY_LEN(pieces) && st == dnnl_success; i++) {
        const int64_t piece = pieces[i];
        if ((piece == PIECE_LONG && !grad) || (piece > PIECE_SMALL && rows < piece))
            continue;
        const sala_product_shape first = piece_shape(s, piece, s->add), later = piece_shape(s, piece, true);
        const sala_product_shape aside = aside_shape(s, piece);
        if (grad || s->ldc == s->n)
            st = get_entry(g, &e, false, &first);
        if (st == dnnl_success && !grad)
            st = get_entry(g, &e, false, &aside);
        if (st == dnnl_success && grad && !s->add)
            st = get_entry(g, &e, false, &later);
    }
    if (st == dnnl_success && !grad) {
        sala_product_shape pack = piece_shape(s, 0, false);
        pack.lda = pack.ldc = 0;
        pack.ldb = s->ldb;
        st = get_entry(g, &e, true, &pack);
    }
    if (st != dnnl_success)
        return fail_dnnl(err, st, s);
    if (!grad && !grow_scratch(g, s->n))
        return sala_fail_memory(err,
                                (uint64_t)PIECE_LARGE * (uint64_t)s->n * sizeof(float) * (uint64_t)base->n_workers);
    size_t most = 0;
    for (e = atomic_load_explicit(&g->entries, memory_order_acquire); e; e = e->next)
        most = e->scratch_bytes > most ? e->scratch_bytes : most;
    for (int w = 0; w < base->n_workers; w++)
        if (!make_room(g, w, most))
            return sala_fail_memory(err, most);
    return SALA_OK;
}

static size_t dnnl_pack_bytes(const sala_product *base, sala_product_kind kind, int64_t n, int64_t k)
{
    const dnnl_product *g = (const dnnl_product *)base;
    const sala_product_shape shape = model_shape(kind, n, k);
    entry *e = NULL;
    if (get_entry(g, &e, false, &shape) != dnnl_success)
        return 0;
    return e->plain ? g->plain->ops->pack_bytes(g->plain, kind, n, k) : (e->b_bytes + 63) / 64 * 64;
}

/* Primitives were made and proven when the shape was announced, and the library has no way to fail beyond running out
 * of memory; a result that was not computed must not pass for one. */
static void must(dnnl_status_t st, float *c, int64_t n)
{
    if (st != dnnl_success)
        for (int64_t i = 0; i < n; i++)
            c[i] = NAN;
}

static void dnnl_pack(const sala_product *base, void *dst, sala_product_kind kind, int64_t n, int64_t k,
                      const sala_num *w, int64_t ldw, int worker)
{
    const dnnl_product *g = (const dnnl_product *)base;
    const sala_product_shape key = {.kind = kind, .n = n, .k = k, .ldb = ldw};
    entry *e = NULL;
    dnnl_status_t st = get_entry(g, &e, true, &key);
    if (st == dnnl_success && e->plain) {
        g->plain->ops->pack(g->plain, dst, kind, n, k, w, ldw, worker);
        return;
    }
    const int before = alone();
    if (st == dnnl_success)
        st = execute(g, e, (void *)(uintptr_t)w, dst, NULL, worker);
    not_alone(before);
    if (st != dnnl_success)
        memset(dst, 0xff, dnnl_pack_bytes(base, kind, n, k)); /* bf16's not-a-number */
}

static void run_bf16(const dnnl_product *g, const sala_product_shape *s, float *c, const uint16_t *a, const uint16_t *b,
                     int worker)
{
    const bool grad = s->kind == SALA_PRODUCT_GRAD;
    const int64_t rows = grad ? s->k : s->m;
    if (!grad) {
        const sala_product_shape shape = model_shape(s->kind, s->n, s->k);
        entry *model = NULL;
        if (get_entry(g, &model, false, &shape) == dnnl_success && model->plain) {
            g->plain->ops->run(g->plain, s, c, a, b, worker);
            return;
        }
    }
    uint8_t *aside = g->scratch + (size_t)worker * g->worker_bytes;
    for (int64_t at = 0; at < rows;) {
        const int64_t piece = next_piece(s->kind, rows - at);
        const bool whole = grad || (at + piece <= rows && s->ldc == s->n);
        const sala_product_shape key =
            whole ? piece_shape(s, piece, s->add || (grad && at > 0)) : aside_shape(s, piece);
        const int64_t n_rows = grad ? s->m : sala_min_i64(piece, rows - at);
        float *out = grad ? c : c + at * s->ldc;
        entry *e = NULL;
        dnnl_status_t st = get_entry(g, &e, false, &key);
        if (st == dnnl_success && !whole && aside_bytes(s->n) > g->worker_bytes)
            st = dnnl_out_of_memory; /* never announced */
        if (st == dnnl_success && e->plain) {
            g->plain->ops->run(g->plain, &key, out, a + at * s->lda, b + at * s->ldb, worker);
            at += piece;
            continue;
        }
        if (st == dnnl_success)
            st = execute(g, e, (void *)(uintptr_t)(a + at * s->lda), (void *)(uintptr_t)(grad ? b + at * s->ldb : b),
                         whole ? (void *)out : (void *)aside, worker);
        for (int64_t i = 0; st != dnnl_success && i < n_rows; i++)
            must(st, out + i * s->ldc, s->n);
        for (int64_t i = 0; st == dnnl_success && !whole && i < n_rows; i++) {
            const float *from = (const float *)(const void *)aside + i * s->n;
            float *to = out + i * s->ldc;
            if (s->add)
                for (int64_t j = 0; j < s->n; j++)
                    to[j] += from[j];
            else
                memcpy(to, from, (size_t)s->n * sizeof *to);
        }
        at += piece;
    }
}

static void run_f32(const sala_product_shape *s, float *c, const float *a, const float *b)
{
    const bool grad = s->kind == SALA_PRODUCT_GRAD;
    const dnnl_status_t st = dnnl->sgemm(grad ? 'T' : 'N', s->kind == SALA_PRODUCT_OUT ? 'T' : 'N', s->m, s->n, s->k,
                                         1.0f, a, s->lda, b, s->ldb, s->add ? 1.0f : 0.0f, c, s->ldc);
    for (int64_t i = 0; st != dnnl_success && i < s->m; i++)
        must(st, c + i * s->ldc, s->n);
}

static void dnnl_run(const sala_product *base, const sala_product_shape *s, sala_num *c, const void *a, const void *b,
                     int worker)
{
    const int before = alone();
    if (base->precision == SALA_PRECISION_F32)
        run_f32(s, c, a, b);
    else
        run_bf16((const dnnl_product *)base, s, c, a, b, worker);
    not_alone(before);
}

/* ---- opening ---- */

static void dnnl_close(sala_product *base)
{
    dnnl_product *g = (dnnl_product *)base;
    for (entry *e = atomic_load_explicit(&g->entries, memory_order_acquire); e;) {
        entry *next = e->next;
        entry_free(g, e);
        e = next;
    }
    for (int w = 0; g->streams && w < base->n_workers; w++)
        if (g->streams[w])
            dnnl->stream_destroy(g->streams[w]);
    for (int w = 0; g->rooms && w < base->n_workers; w++)
        free(g->rooms[w].p);
    free(g->rooms);
    free(g->streams);
    if (g->engine)
        dnnl->engine_destroy(g->engine);
    if (g->lock)
        sala_turn_close(g->lock);
    sala_os_pages_free(g->scratch, g->scratch_bytes);
    sala_product_close(g->plain);
    free(g);
}

static const sala_product_ops dnnl_ops = {dnnl_close, dnnl_prepare, dnnl_pack_bytes, dnnl_pack, dnnl_run};

size_t sala_product_dnnl_bytes(sala_precision p, int n_workers, int64_t widest)
{
    return p == SALA_PRECISION_BF16 ? aside_bytes(widest) * (size_t)n_workers : 0;
}

/* Whether the CPU multiplies bf16 itself. The library would emulate it otherwise, more slowly than f32. */
static bool has_bf16(void)
{
    return (sala_os_cpu_features() & SALA_CPU_AVX512_BF16) != 0;
}

sala_status sala_product_open_dnnl(sala_product **out, const sala_product_params *p, sala_error *err)
{
    const bool bf16 = p->precision == SALA_PRECISION_BF16;
    const char *why = "";
    if (bf16 && !has_bf16())
        return sala_fail(err, SALA_E_UNSUPPORTED, "this CPU has no bf16 products");
    dnnl = sala_dnnl_library(&why);
    if (!dnnl)
        return sala_fail(err, SALA_E_UNSUPPORTED, "%s", why);
    dnnl_product *g = calloc(1, sizeof *g);
    if (!g)
        return sala_fail_memory(err, sizeof *g);
    g->base = (sala_product){.ops = &dnnl_ops, .precision = p->precision, .n_workers = p->n_workers};
    const int before = alone();
    /* What we use we hold; the library's cache would keep it a second time. Products of f32 stay f32. */
    dnnl->set_primitive_cache_capacity(0);
    dnnl->set_default_fpmath_mode(dnnl_fpmath_mode_strict);
    dnnl_status_t st = dnnl->engine_create(&g->engine, dnnl_cpu, 0);
    const int rc = sala_turn_open(&g->lock);
    g->streams = calloc((size_t)p->n_workers, sizeof *g->streams);
    g->rooms = calloc((size_t)p->n_workers, sizeof *g->rooms);
    if (st == dnnl_success && (rc || !g->streams || !g->rooms))
        st = dnnl_out_of_memory;
    for (int w = 0; w < p->n_workers && st == dnnl_success; w++)
        st = dnnl->stream_create(&g->streams[w], g->engine, dnnl_stream_default_flags);
    char code[64] = "";
    bool slow = false;
    if (st == dnnl_success && bf16) {
        const sala_product_shape shape = model_shape(SALA_PRODUCT_OUT, 512, 512);
        entry *e = NULL;
        st = make_model(g, &e, &shape, code);
        if (st == dnnl_success) {
            slow = e->plain;
            push(g, e);
        }
    }
    not_alone(before);
    const dnnl_version_t *v = dnnl->version();
    snprintf(g->base.describe, sizeof g->base.describe, "oneDNN %d.%d.%d, %s%s%s", v->major, v->minor, v->patch,
             bf16 ? "bf16" : "f32", bf16 ? " " : "", code);
    sala_status status = SALA_OK;
    if (st != dnnl_success)
        status = sala_fail(err, st == dnnl_out_of_memory ? SALA_E_MEMORY : SALA_E_UNSUPPORTED,
                           "oneDNN did not start (status %d)", (int)st);
    else if (slow)
        status = sala_fail(err, SALA_E_UNSUPPORTED, "oneDNN %d.%d.%d has no fast bf16 products here", v->major,
                           v->minor, v->patch);
    else if (bf16)
        status = sala_product_open_plain(&g->plain, p, err);
    if (status != SALA_OK) {
        dnnl_close(&g->base);
        return status;
    }
    *out = &g->base;
    return SALA_OK;
}

#else
typedef int sala_product_without_dnnl; /* a file must declare something */
#endif
