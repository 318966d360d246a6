/* What the tokenizer's files share: the vocabulary, the steps of the pipeline and the state of one encoding.
 *
 *   spans -> added tokens cut out -> normaliser steps -> added tokens again -> pre-tokenizer steps -> words -> model
 *
 * Everything inside sala_tokenizer is immutable after loading; everything that changes during a call lives in
 * sala_encoder, which belongs to that call. Functions that return bool give false only when memory is out, unless their
 * comment says otherwise. */
#ifndef SALA_TEXT_TOKENIZER_IMPL_H
#define SALA_TEXT_TOKENIZER_IMPL_H

#include "text/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <stdlib.h>

#define SALA_TOK_MAX_IDS (1 << 24)   /* no vocabulary in use has more than a million */
#define SALA_TOK_MAX_TEXT (1u << 31) /* bytes of input to one call */
/* Bytes of a piece whose merges follow from scores: trying all ways to cut it takes time by its square. The longest in
 * use are runs of a hundred spaces. */
#define SALA_TOK_MAX_PIECE 1024
#define SALA_NO_RANK UINT32_MAX
#define SALA_META "\xE2\x96\x81" /* U+2581, SentencePiece's visible space */
#define SALA_META_LEN 3

/* ---- vocabulary ---- */

/* The numbers are those of SentencePiece and GGUF. */
typedef enum sala_piece_type {
    SALA_PIECE_NONE = 0, /* the id is a hole */
    SALA_PIECE_NORMAL = 1,
    SALA_PIECE_UNKNOWN = 2,
    SALA_PIECE_CONTROL = 3,
    SALA_PIECE_USER = 4,
    SALA_PIECE_UNUSED = 5,
    SALA_PIECE_BYTE = 6,
} sala_piece_type;

typedef struct sala_piece {
    uint32_t off, len; /* in sala_vocab.text */
    float score;
    uint8_t type;  /* sala_piece_type */
    bool in_model; /* the model itself may produce it; added tokens that the model lacks are not */
    bool special;  /* a control token for callers: skipped by decode with skip_special */
    bool added;    /* stands in sala_tokenizer.added */
} sala_piece;

typedef struct sala_vocab {
    sala_buf text;
    sala_piece *items;
    int32_t count, cap;
    int32_t *slots; /* open addressing over the text, -1 is empty; size mask + 1 */
    uint32_t mask;
} sala_vocab;

/* Puts a piece at an id that must be free. SALA_E_CORRUPT for an absurd or taken id. */
sala_status sala_vocab_put(sala_vocab *v, int64_t id, const char *s, size_t n, sala_piece_type type, float score,
                           sala_error *err);
/* Makes the hash table; to be called again after further puts. Empty pieces are not indexed. SALA_E_CORRUPT when two
 * ids have one text. */
sala_status sala_vocab_index(sala_vocab *v, sala_error *err);
int32_t sala_vocab_find(const sala_vocab *v, const char *s, size_t n);
void sala_vocab_free(sala_vocab *v);
static inline const char *sala_vocab_text(const sala_vocab *v, int32_t id)
{
    return v->text.data + v->items[id].off;
}

uint64_t sala_hash_bytes(const char *s, size_t n);

/* ---- trie over byte strings: longest match, and walking ---- */

typedef struct sala_trie_node {
    uint32_t first; /* index of the first child; children lie side by side, sorted by label */
    uint16_t n_children;
    uint8_t label;
    int32_t value; /* -1: no string ends here */
} sala_trie_node;

typedef struct sala_trie {
    sala_trie_node *nodes;
    uint32_t n_nodes;
    uint32_t root[256]; /* child of the root, 0: none */
} sala_trie;

typedef struct sala_trie_key {
    const char *s;
    size_t n;
    int32_t value;
} sala_trie_key;

/* Sorts `keys`. Of equal strings the first in the given order counts. */
bool sala_trie_build(sala_trie *t, sala_trie_key *keys, size_t n_keys);
void sala_trie_free(sala_trie *t);
/* Child of `node` (0: the root) by `label`; 0 when there is none. */
uint32_t sala_trie_step(const sala_trie *t, uint32_t node, uint8_t label);
/* Length of the longest string of the trie that is a prefix of s[0..n); 0 when none is. */
size_t sala_trie_longest(const sala_trie *t, const char *s, size_t n, int32_t *value);

/* ---- characters ---- */

typedef enum sala_char_class {
    SALA_CC_OTHER,
    SALA_CC_LETTER,
    SALA_CC_MARK,
    SALA_CC_NUMBER,
    SALA_CC_SPACE,   /* White_Space without line ends */
    SALA_CC_NEWLINE, /* \r and \n */
} sala_char_class;

sala_char_class sala_char_class_of(uint32_t cp);
bool sala_char_is_space(uint32_t cp);  /* White_Space */
bool sala_char_is_punct(uint32_t cp);  /* ASCII punctuation and symbols, and category P */
bool sala_char_is_accent(uint32_t cp); /* what StripAccents strips */
bool sala_char_is_word(uint32_t cp);   /* \w of Unicode regular expressions */

/* One character of valid UTF-8. */
static inline uint32_t sala_utf8_next(const char *s, size_t *i)
{
    const uint8_t *p = (const uint8_t *)s + *i;
    if (p[0] < 0x80) {
        *i += 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *i += 2;
        return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    }
    if (p[0] < 0xF0) {
        *i += 3;
        return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    }
    *i += 4;
    return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}

static inline size_t sala_utf8_len(char lead)
{
    const uint8_t c = (uint8_t)lead;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* Appends s with every maximal part of an ill-formed sequence replaced by U+FFFD. */
void sala_utf8_append_lossy(sala_buf *out, const char *s, size_t n);
/* How many bytes of the ill-formed sequence at s one U+FFFD stands for (Unicode 3.9, best practice): the longest
 * beginning of a well-formed one, at least one byte. incomplete: the data ends before it could be told. */
size_t sala_utf8_bad_part(const char *s, size_t n, bool *incomplete);
bool sala_utf8_is_valid(const char *s, size_t n);

/* GPT-2's spelling of bytes: each byte stands for one visible code point below U+0144. */
uint32_t sala_byte_to_char(uint8_t byte);
int sala_char_to_byte(uint32_t cp); /* -1: not of that alphabet */
/* Appends the bytes that a byte-level piece stands for; false (nothing appended) when it has characters outside. */
bool sala_byte_level_decode(sala_buf *out, const char *s, size_t n);

/* ---- regular expressions ---- */

/* *out: a JIT-compiled pattern. SALA_E_UNSUPPORTED names the pattern and what PCRE2 says about it. */
sala_status sala_regex_compile(pcre2_code **out, const char *s, size_t n, sala_error *err);

/* ---- normaliser ---- */

typedef enum sala_norm_kind {
    SALA_NORM_PREPEND,
    SALA_NORM_REPLACE,
    SALA_NORM_REPLACE_REGEX,
    SALA_NORM_NFC,
    SALA_NORM_NFD,
    SALA_NORM_NFKC,
    SALA_NORM_NFKD,
    SALA_NORM_LOWERCASE,
    SALA_NORM_STRIP,
    SALA_NORM_STRIP_ACCENTS,
    SALA_NORM_NMT,
    SALA_NORM_CHARSMAP,      /* tokenizer.json's Precompiled */
    SALA_NORM_SENTENCEPIECE, /* the whole normaliser of a tokenizer.model */
} sala_norm_kind;

/* SentencePiece's precompiled_charsmap: a double array over bytes, and NUL-terminated replacements. */
typedef struct sala_charsmap {
    uint32_t *units;
    size_t n_units;
    char *strings; /* NUL-terminated at the end, whatever the file says */
    size_t n_strings;
} sala_charsmap;

sala_status sala_charsmap_parse(sala_charsmap *m, const void *data, size_t bytes, sala_error *err);
void sala_charsmap_free(sala_charsmap *m);

typedef struct sala_norm_step {
    sala_norm_kind kind;
    char *from, *to; /* PREPEND uses `to` */
    size_t from_len, to_len;
    pcre2_code *regex;
    bool left, right; /* STRIP */
    /* SENTENCEPIECE */
    bool dummy_prefix, prefix_first_only, remove_extra_spaces, escape_spaces, space_as_suffix;
} sala_norm_step;

/* Runs all steps over s (valid UTF-8) and appends to *out. at_start: s begins where the text begins. */
bool sala_normalize(const sala_tokenizer *t, sala_buf *out, const char *s, size_t n, bool at_start);
void sala_norm_step_free(sala_norm_step *s);

/* ---- pre-tokenizer ---- */

typedef enum sala_pretok_kind {
    SALA_PT_SCAN, /* a known family, by hand-written scanner */
    SALA_PT_REGEX,
    SALA_PT_LITERAL,
    SALA_PT_DIGITS,
    SALA_PT_WHITESPACE, /* runs of \w and runs of the rest, without white space */
    SALA_PT_SPACES,     /* on single white-space characters */
    SALA_PT_PUNCTUATION,
    SALA_PT_METASPACE,
    SALA_PT_PREFIX_SPACE, /* ByteLevel's add_prefix_space */
} sala_pretok_kind;

typedef enum sala_split_behavior {
    SALA_SPLIT_REMOVED,
    SALA_SPLIT_ISOLATED,
    SALA_SPLIT_WITH_PREVIOUS,
    SALA_SPLIT_WITH_NEXT,
    SALA_SPLIT_CONTIGUOUS,
} sala_split_behavior;

typedef enum sala_prepend_scheme { SALA_PREPEND_ALWAYS, SALA_PREPEND_NEVER, SALA_PREPEND_FIRST } sala_prepend_scheme;

/* The families that differ in a few places only. */
typedef struct sala_scan {
    bool modern;    /* llama-3's shape: any one character before letters, line ends apart, contractions in any case */
    uint8_t digits; /* longest run of numbers, 0: any */
    bool marks;     /* combining marks belong to letters */
} sala_scan;

typedef struct sala_pretok_step {
    sala_pretok_kind kind;
    sala_split_behavior behavior;
    bool invert;
    sala_scan scan;
    pcre2_code *regex;
    char *text; /* LITERAL: the pattern; METASPACE: the replacement; REGEX and SCAN: the source, for messages */
    size_t text_len;
    sala_prepend_scheme prepend;
    bool split; /* METASPACE */
} sala_pretok_step;

void sala_pretok_step_free(sala_pretok_step *s);
/* Fills `step` for a regular expression with behaviour `behavior`: a scanner if the family is known. */
sala_status sala_pretok_regex(sala_pretok_step *step, const char *s, size_t n, sala_split_behavior behavior,
                              bool invert, sala_error *err);
extern const char sala_regex_gpt2[];

/* Names as GGUF's tokenizer.ggml.pre has them. steps: room for SALA_PRETOK_MAX. */
#define SALA_PRETOK_MAX 8
sala_status sala_pretok_by_name(sala_pretok_step *steps, int *n_steps, bool *ignore_merges, const char *name,
                                size_t len, sala_error *err);
const char *sala_pretok_known_name(const char *name, size_t len); /* a static string, NULL when unknown */
/* The name for steps, NULL when GGUF has none. */
const char *sala_pretok_name(const sala_pretok_step *steps, int n_steps, bool ignore_merges);

/* ---- models ---- */

typedef struct sala_pair {
    uint64_t key; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank;
    int32_t id;
} sala_pair;

typedef struct sala_bpe {
    sala_pair *pairs;
    uint64_t pair_mask;
    uint64_t n_pairs;
    int32_t **pages;   /* code point >> 8 -> 256 symbols or NULL; character -> symbol, -1: none */
    int32_t n_symbols; /* ids and, above them, characters that occur in pieces without being pieces */
    int32_t byte_id[256];
    bool by_score; /* SentencePiece: pieces decide, not a list of merges */
    bool byte_level;
    bool byte_fallback, all_bytes; /* all_bytes: byte_id has no gap */
    bool fuse_unk, ignore_merges;
    size_t longest_piece;
    /* Two neighbouring characters that no merge joins never end up in one token, so the text may be cut between them.
     * This makes words of texts that have no pre-tokenizer. */
    bool cuts;
    uint64_t ascii_joins[128][2];
    uint64_t *joins; /* open addressing: left << 32 | right, UINT64_MAX: free */
    uint64_t join_mask, n_joins;
} sala_bpe;

void sala_bpe_free(sala_bpe *b);
bool sala_bpe_init(sala_bpe *b, uint64_t expected_pairs);
/* overwrite: a pair that is there already gets the new rank. */
bool sala_bpe_add_merge(sala_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id, bool overwrite);
/* Byte ids and characters, from the pieces that belong to the model. */
sala_status sala_bpe_set_symbols(sala_tokenizer *t, sala_error *err);
/* All merges that scores imply. */
sala_status sala_bpe_merges_from_scores(sala_tokenizer *t, sala_error *err);
/* To be called when all merges are in. */
bool sala_bpe_finish(sala_tokenizer *t);

typedef struct sala_unigram {
    sala_trie trie;
    double *scores; /* by id */
    double unk_score, max_score;
    bool sentencepiece; /* rounds to float as SentencePiece does, and favours user-defined pieces */
    bool byte_fallback, all_bytes;
    int32_t byte_id[256];
} sala_unigram;

sala_status sala_unigram_build(sala_tokenizer *t, sala_error *err);
void sala_unigram_free(sala_unigram *u);

/* ---- decoder ---- */

typedef enum sala_decode_kind { SALA_DEC_REPLACE, SALA_DEC_STRIP, SALA_DEC_METASPACE } sala_decode_kind;

typedef struct sala_decode_op { /* acts on one token's text */
    sala_decode_kind kind;
    char *from, *to; /* STRIP: from; METASPACE: from is the replacement */
    size_t from_len, to_len;
    int start, stop;    /* STRIP */
    bool drop_in_first; /* METASPACE: the first token loses its replacements instead of turning them into spaces */
} sala_decode_op;

#define SALA_DECODE_MAX 8

typedef struct sala_decoder {
    sala_decode_op ops[SALA_DECODE_MAX];
    int n_ops;
    bool byte_level, byte_fallback;
    bool join_with_space; /* no decoder at all */
    char *strip;          /* of the whole text: up to strip_start at its head, strip_stop at its tail */
    size_t strip_len;
    int strip_start, strip_stop;
    char *unk_surface;     /* SentencePiece's text for the unknown piece; NULL: its spelling */
    bool drop_all_leading; /* SentencePiece with remove_extra_whitespaces: all spaces at the head */
} sala_decoder;

/* ---- the tokenizer ---- */

typedef enum sala_model_kind { SALA_MODEL_BPE, SALA_MODEL_UNIGRAM } sala_model_kind;

typedef struct sala_added {
    int32_t id;
    char *text;
    size_t len;
    bool special, lstrip, rstrip, single_word, normalized;
} sala_added;

struct sala_tokenizer {
    sala_vocab vocab;
    sala_model_kind model;
    sala_bpe bpe;
    sala_unigram unigram;
    bool fuse_unknown; /* SentencePiece without byte pieces: unknown pieces in a row count as one */

    sala_norm_step *norms;
    int n_norms;
    sala_charsmap charsmap;
    sala_trie user_trie; /* SentencePiece's user-defined pieces, no nodes when there are none */

    sala_pretok_step *pretoks;
    int n_pretoks;
    const char *pre_name; /* GGUF's name, NULL: none fits */

    sala_added *added;
    size_t n_added;
    sala_trie added_raw, added_normalized; /* value: index into added */

    int32_t bos, eos, pad;
    int32_t unk;              /* what the model gives for what it cannot spell, -1: nothing */
    int32_t named_unk;        /* unk_token of the configuration where the model has none */
    int32_t *prefix, *suffix; /* what add_special puts around the text */
    int n_prefix, n_suffix;

    sala_decoder decoder;
};

sala_status sala_tokenizer_new(sala_tokenizer **out, sala_error *err);
/* Adds a piece with its rules of recognition; the id may be a model's piece of the same text. */
sala_status sala_tokenizer_add_token(sala_tokenizer *t, const sala_added *a, sala_error *err);
bool sala_tokenizer_is_added(const sala_tokenizer *t, int64_t id);
/* Call once after all parts are filled in. */
sala_status sala_tokenizer_finish(sala_tokenizer *t, sala_error *err);
bool sala_tokenizer_set_affixes(sala_tokenizer *t, bool add_bos, bool add_eos);
sala_norm_step *sala_tokenizer_add_norm(sala_tokenizer *t, sala_norm_kind kind); /* NULL: no memory */
sala_pretok_step *sala_tokenizer_add_pretok(sala_tokenizer *t, sala_pretok_kind kind);
/* The decoder of llama-style tokenizers: U+2581 is a space, bytes are bytes, one leading space goes. */
bool sala_decoder_llama(sala_decoder *d, bool strip_leading);
bool sala_decoder_add(sala_decoder *d, sala_decode_kind kind, const char *from, size_t from_len, const char *to,
                      size_t to_len);
/* "<0x41>" -> 0x41; -1 for anything else. */
int sala_byte_piece_value(const char *s, size_t n);
/* Ids of the byte pieces; true when all 256 are there. */
bool sala_vocab_byte_ids(const sala_vocab *v, int32_t ids[256]);

/* ---- readers that are put together by tokenizer_dir.c ---- */

sala_status sala_tokenizer_from_json_values(sala_tokenizer **out, const json_t *root, const json_t *config,
                                            sala_error *err);
/* Pieces, normaliser and decoder of a tokenizer.model; afterwards tokens may be added, then spm_complete. */
sala_status sala_spm_parse(sala_tokenizer *t, const void *data, size_t bytes, sala_error *err);
sala_status sala_spm_complete(sala_tokenizer *t, sala_error *err);
/* SentencePiece's user-defined pieces into t->user_trie. */
sala_status sala_tokenizer_index_user_pieces(sala_tokenizer *t, sala_error *err);

/* ---- one encoding ---- */

typedef struct sala_word_entry {
    uint32_t hash;
    uint8_t len, n_ids;
    uint32_t out_at; /* where in ids->data the same word was written before, counted from ids_base */
    char text[52];
} sala_word_entry;

typedef struct sala_symbol {
    int32_t id; /* -1: a character without a symbol */
    uint32_t start;
    uint32_t prev, next;
    uint32_t rank; /* of the pair with the next symbol, SALA_NO_RANK: none */
    int32_t merged;
} sala_symbol;

typedef struct sala_best {
    double score;
    int64_t start; /* -1: not reached */
    int32_t id;
} sala_best;

typedef struct sala_encoder {
    const sala_tokenizer *t;
    sala_ids *ids;
    size_t ids_base;
    sala_word_entry *words;
    uint32_t word_mask;
    sala_symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap;
    size_t heap_len, heap_cap;
    sala_best *best;
    size_t best_cap;
    pcre2_match_data *match;
    pcre2_match_context *match_context;
    pcre2_jit_stack *jit_stack;
    sala_status status;
    sala_error *err;
} sala_encoder;

bool sala_ids_push(sala_ids *ids, int32_t id);
/* All false: e->status says why. */
bool sala_encoder_no_memory(sala_encoder *e);
bool sala_pretokenize(sala_encoder *e, int step, const char *s, size_t n, bool at_start);
bool sala_encode_word(sala_encoder *e, const char *s, size_t n);
bool sala_unigram_encode(sala_encoder *e, const char *s, size_t n);

#endif
