/* SentencePiece's tokenizer.model: a protocol-buffer message, read by hand with every length checked. Fields as in
 * sentencepiece_model.proto; unknown fields are skipped. */
#include "text/tokenizer_impl.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

typedef struct field {
    uint32_t number;
    uint32_t wire;
    uint64_t value; /* varint, or the bits of a fixed field */
    const uint8_t *data;
    size_t bytes;
} field;

static bool read_varint(sala_reader *r, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        const uint8_t b = sala_read_u8(r);
        if (r->failed)
            return false;
        v |= (uint64_t)(b & 0x7F) << shift;
        if ((b & 0x80) == 0) {
            *out = v;
            return true;
        }
    }
    r->failed = true;
    return false;
}

/* The next field; false at the end or, with r->failed, when the bytes are no message. */
static bool next_field(sala_reader *r, field *f)
{
    uint64_t key;
    if (r->at == r->bytes || !read_varint(r, &key))
        return false;
    *f = (field){.number = (uint32_t)(key >> 3), .wire = (uint32_t)(key & 7)};
    uint64_t n;
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value);
    case WIRE_64:
        f->value = sala_read_u64(r);
        break;
    case WIRE_32:
        f->value = sala_read_u32(r);
        break;
    case WIRE_BYTES:
        if (!read_varint(r, &n))
            return false;
        f->data = sala_read_bytes(r, n);
        f->bytes = (size_t)n;
        break;
    default:
        r->failed = true;
    }
    return !r->failed && key >> 3 != 0;
}

static float float_of(uint64_t bits)
{
    const uint32_t low = (uint32_t)bits;
    float f;
    memcpy(&f, &low, sizeof f);
    return f;
}

static sala_status broken(const sala_reader *r, const char *where, sala_error *err)
{
    return sala_fail_at(err, SALA_E_CORRUPT, (int64_t)r->at,
                        "tokenizer.model: the %s is cut short or is no protocol buffer", where);
}

static sala_status read_piece(sala_tokenizer *t, const field *whole, sala_error *err)
{
    sala_reader r = sala_reader_of(whole->data, whole->bytes);
    field f, text = {0};
    float score = 0;
    uint64_t type = SALA_PIECE_NORMAL;
    while (next_field(&r, &f)) {
        if (f.number == 1 && f.wire == WIRE_BYTES)
            text = f;
        else if (f.number == 2 && f.wire == WIRE_32)
            score = float_of(f.value);
        else if (f.number == 3 && f.wire == WIRE_VARINT)
            type = f.value;
    }
    if (r.failed)
        return broken(&r, "piece", err);
    if (type < SALA_PIECE_NORMAL || type > SALA_PIECE_BYTE)
        return sala_fail(err, SALA_E_CORRUPT, "tokenizer.model: piece %d has the type %llu; known are 1 to 6",
                         t->vocab.count, (unsigned long long)type);
    if (text.bytes == 0 || !sala_utf8_is_valid((const char *)text.data, text.bytes))
        return sala_fail(err, SALA_E_CORRUPT, "tokenizer.model: the text of piece %d is %s", t->vocab.count,
                         text.bytes == 0 ? "empty" : "not UTF-8");
    const int32_t id = t->vocab.count;
    const sala_status st =
        sala_vocab_put(&t->vocab, id, (const char *)text.data, text.bytes, (sala_piece_type)type, score, err);
    if (st != SALA_OK)
        return st;
    sala_piece *p = &t->vocab.items[id];
    p->in_model = true;
    p->special = type == SALA_PIECE_CONTROL || type == SALA_PIECE_UNKNOWN;
    if (type == SALA_PIECE_UNKNOWN) {
        if (t->unk >= 0)
            return sala_fail(err, SALA_E_CORRUPT, "tokenizer.model: the pieces %d and %d are both the unknown one",
                             t->unk, id);
        t->unk = id;
    }
    return SALA_OK;
}

static sala_status read_normalizer(sala_tokenizer *t, sala_norm_step *n, const field *whole, sala_error *err)
{
    sala_reader r = sala_reader_of(whole->data, whole->bytes);
    field f;
    while (next_field(&r, &f)) {
        if (f.number == 2 && f.wire == WIRE_BYTES) {
            sala_charsmap_free(&t->charsmap);
            const sala_status st = sala_charsmap_parse(&t->charsmap, f.data, f.bytes, err);
            if (st != SALA_OK)
                return st;
        } else if (f.wire == WIRE_VARINT && f.number == 3) {
            n->dummy_prefix = f.value != 0;
        } else if (f.wire == WIRE_VARINT && f.number == 4) {
            n->remove_extra_spaces = f.value != 0;
        } else if (f.wire == WIRE_VARINT && f.number == 5) {
            n->escape_spaces = f.value != 0;
        }
    }
    return r.failed ? broken(&r, "normalizer_spec", err) : SALA_OK;
}

typedef struct trainer {
    uint64_t model_type;
    bool byte_fallback, space_as_suffix;
    field unk_surface, bos, eos, pad;
} trainer;

static sala_status read_trainer(trainer *tr, const field *whole, sala_error *err)
{
    sala_reader r = sala_reader_of(whole->data, whole->bytes);
    field f;
    while (next_field(&r, &f)) {
        if (f.wire == WIRE_VARINT && f.number == 3)
            tr->model_type = f.value;
        else if (f.wire == WIRE_VARINT && f.number == 24)
            tr->space_as_suffix = f.value != 0;
        else if (f.wire == WIRE_VARINT && f.number == 35)
            tr->byte_fallback = f.value != 0;
        else if (f.wire == WIRE_BYTES && f.number == 44)
            tr->unk_surface = f;
        else if (f.wire == WIRE_BYTES && f.number == 46)
            tr->bos = f;
        else if (f.wire == WIRE_BYTES && f.number == 47)
            tr->eos = f;
        else if (f.wire == WIRE_BYTES && f.number == 48)
            tr->pad = f;
    }
    return r.failed ? broken(&r, "trainer_spec", err) : SALA_OK;
}

static int32_t control_piece(const sala_tokenizer *t, const field *name, const char *otherwise)
{
    const char *s = name->data != NULL ? (const char *)name->data : otherwise;
    const int32_t id = sala_vocab_find(&t->vocab, s, name->data != NULL ? name->bytes : strlen(otherwise));
    return id >= 0 && t->vocab.items[id].type == SALA_PIECE_CONTROL ? id : -1;
}

static sala_status set_model(sala_tokenizer *t, const trainer *tr, sala_error *err)
{
    if (tr->model_type != MODEL_UNIGRAM && tr->model_type != MODEL_BPE)
        return sala_fail(err, SALA_E_UNSUPPORTED,
                         "tokenizer.model: model_type is %llu; known are 1 (unigram) and 2 (BPE)",
                         (unsigned long long)tr->model_type);
    if (t->unk < 0)
        return sala_fail(err, SALA_E_CORRUPT, "tokenizer.model: none of %d pieces is the unknown one", t->vocab.count);
    t->model = tr->model_type == MODEL_BPE ? SALA_MODEL_BPE : SALA_MODEL_UNIGRAM;
    t->bpe.by_score = true;
    t->bpe.byte_fallback = tr->byte_fallback;
    t->unigram.sentencepiece = true;
    t->unigram.byte_fallback = tr->byte_fallback;
    int32_t ids[256];
    if (tr->byte_fallback && !sala_vocab_byte_ids(&t->vocab, ids))
        return sala_fail(err, SALA_E_CORRUPT,
                         "tokenizer.model: byte_fallback is set, but not all 256 byte pieces are there");
    t->fuse_unknown = !tr->byte_fallback;
    return SALA_OK;
}

static sala_status set_decoder(sala_tokenizer *t, const trainer *tr, sala_error *err)
{
    const sala_norm_step *n = &t->norms[0];
    sala_decoder *d = &t->decoder;
    bool ok = sala_decoder_llama(d, n->dummy_prefix || n->remove_extra_spaces);
    if (n->remove_extra_spaces)
        d->strip_start = INT32_MAX;
    d->unk_surface = tr->unk_surface.data != NULL
                         ? sala_strndup((const char *)tr->unk_surface.data, tr->unk_surface.bytes)
                         : sala_strdup(" \xE2\x81\x87 ");
    return ok && d->unk_surface != NULL ? SALA_OK : sala_fail_memory(err, 64);
}

sala_status sala_spm_parse(sala_tokenizer *t, const void *data, size_t bytes, sala_error *err)
{
    sala_norm_step *n = sala_tokenizer_add_norm(t, SALA_NORM_SENTENCEPIECE);
    if (n == NULL)
        return sala_fail_memory(err, sizeof *n);
    n->dummy_prefix = n->remove_extra_spaces = n->escape_spaces = true;
    trainer tr = {.model_type = MODEL_UNIGRAM};
    sala_reader r = sala_reader_of(data, bytes);
    field f;
    sala_status st = SALA_OK;
    while (st == SALA_OK && next_field(&r, &f)) {
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == 1)
            st = read_piece(t, &f, err);
        else if (f.number == 2)
            st = read_trainer(&tr, &f, err);
        else if (f.number == 3)
            st = read_normalizer(t, n, &f, err);
    }
    if (st == SALA_OK && r.failed)
        st = broken(&r, "file", err);
    if (st == SALA_OK && t->vocab.count == 0)
        st = sala_fail(err, SALA_E_CORRUPT, "tokenizer.model: there are no pieces");
    n->space_as_suffix = tr.space_as_suffix;
    if (st == SALA_OK)
        st = sala_vocab_index(&t->vocab, err);
    if (st == SALA_OK)
        st = set_model(t, &tr, err);
    if (st == SALA_OK)
        st = set_decoder(t, &tr, err);
    if (st != SALA_OK)
        return st;
    t->bos = control_piece(t, &tr.bos, "<s>");
    t->eos = control_piece(t, &tr.eos, "</s>");
    t->pad = control_piece(t, &tr.pad, "<pad>");
    for (int32_t id = 0; id < t->vocab.count && st == SALA_OK; id++) {
        const sala_piece *p = &t->vocab.items[id];
        if (!p->special)
            continue;
        char *text = sala_strndup(sala_vocab_text(&t->vocab, id), p->len);
        st = text == NULL ? sala_fail_memory(err, p->len)
                          : sala_tokenizer_add_token(
                                t, &(sala_added){.id = id, .text = text, .len = p->len, .special = true}, err);
        free(text);
    }
    /* As Llama's tokenizer does unless its configuration says otherwise; unigram models come with many habits. */
    if (st == SALA_OK && !sala_tokenizer_set_affixes(t, t->model == SALA_MODEL_BPE, false))
        st = sala_fail_memory(err, 64);
    return st;
}

sala_status sala_spm_complete(sala_tokenizer *t, sala_error *err)
{
    sala_status st = sala_vocab_index(&t->vocab, err);
    if (st == SALA_OK)
        st = sala_tokenizer_index_user_pieces(t, err);
    if (st == SALA_OK && t->model == SALA_MODEL_UNIGRAM)
        st = sala_unigram_build(t, err);
    if (st == SALA_OK && t->model == SALA_MODEL_BPE) {
        if (!sala_bpe_init(&t->bpe, (uint64_t)t->vocab.count))
            st = sala_fail_memory(err, (uint64_t)t->vocab.count * sizeof(sala_pair));
        if (st == SALA_OK)
            st = sala_bpe_set_symbols(t, err);
        if (st == SALA_OK)
            st = sala_bpe_merges_from_scores(t, err);
    }
    return st == SALA_OK ? sala_tokenizer_finish(t, err) : st;
}

sala_status sala_tokenizer_from_spm(sala_tokenizer **out, const void *data, size_t bytes, sala_error *err)
{
    sala_tokenizer *t = NULL;
    sala_status st = sala_tokenizer_new(&t, err);
    if (st == SALA_OK)
        st = sala_spm_parse(t, data, bytes, err);
    if (st == SALA_OK)
        st = sala_spm_complete(t, err);
    if (st == SALA_OK)
        *out = t;
    else
        sala_tokenizer_free(t);
    return st;
}
