/* Characters: classes, UTF-8 repair, GPT-2's byte alphabet. */
#include "text/tokenizer_impl.h"

#include <utf8proc.h>

/* What Unicode 15.1 and 16 added, for a utf8proc that is older: the tokenizers that we have to agree with know it. */
static const struct {
    uint32_t first, last;
    sala_char_class c;
} newer[] = {
    {0x897, 0x897, SALA_CC_MARK},       {0x1C89, 0x1C8A, SALA_CC_LETTER},   {0xA7CB, 0xA7CD, SALA_CC_LETTER},
    {0xA7DA, 0xA7DC, SALA_CC_LETTER},   {0x105C0, 0x105F3, SALA_CC_LETTER}, {0x10D40, 0x10D49, SALA_CC_NUMBER},
    {0x10D4A, 0x10D65, SALA_CC_LETTER}, {0x10D69, 0x10D6D, SALA_CC_MARK},   {0x10D6F, 0x10D85, SALA_CC_LETTER},
    {0x10EC2, 0x10EC4, SALA_CC_LETTER}, {0x10EFC, 0x10EFC, SALA_CC_MARK},   {0x11380, 0x11389, SALA_CC_LETTER},
    {0x1138B, 0x1138B, SALA_CC_LETTER}, {0x1138E, 0x1138E, SALA_CC_LETTER}, {0x11390, 0x113B5, SALA_CC_LETTER},
    {0x113B7, 0x113B7, SALA_CC_LETTER}, {0x113B8, 0x113C0, SALA_CC_MARK},   {0x113C2, 0x113C2, SALA_CC_MARK},
    {0x113C5, 0x113C5, SALA_CC_MARK},   {0x113C7, 0x113CA, SALA_CC_MARK},   {0x113CC, 0x113D0, SALA_CC_MARK},
    {0x113D1, 0x113D1, SALA_CC_LETTER}, {0x113D2, 0x113D2, SALA_CC_MARK},   {0x113D3, 0x113D3, SALA_CC_LETTER},
    {0x113E1, 0x113E2, SALA_CC_MARK},   {0x116D0, 0x116E3, SALA_CC_NUMBER}, {0x11BC0, 0x11BE0, SALA_CC_LETTER},
    {0x11BF0, 0x11BF9, SALA_CC_NUMBER}, {0x11F5A, 0x11F5A, SALA_CC_MARK},   {0x13460, 0x143FA, SALA_CC_LETTER},
    {0x16100, 0x1611D, SALA_CC_LETTER}, {0x1611E, 0x1612F, SALA_CC_MARK},   {0x16130, 0x16139, SALA_CC_NUMBER},
    {0x16D40, 0x16D6C, SALA_CC_LETTER}, {0x16D70, 0x16D79, SALA_CC_NUMBER}, {0x18CFF, 0x18CFF, SALA_CC_LETTER},
    {0x1CCF0, 0x1CCF9, SALA_CC_NUMBER}, {0x1E5D0, 0x1E5ED, SALA_CC_LETTER}, {0x1E5EE, 0x1E5EF, SALA_CC_MARK},
    {0x1E5F0, 0x1E5F0, SALA_CC_LETTER}, {0x1E5F1, 0x1E5FA, SALA_CC_NUMBER}, {0x2EBF0, 0x2EE5D, SALA_CC_LETTER},
};

static sala_char_class class_of_newer(uint32_t cp)
{
    size_t lo = 0, hi = SALA_ARRAY_LEN(newer);
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (cp > newer[mid].last)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < SALA_ARRAY_LEN(newer) && cp >= newer[lo].first ? newer[lo].c : SALA_CC_OTHER;
}

sala_char_class sala_char_class_of(uint32_t cp)
{
    if (cp < 0x80) {
        if ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z')
            return SALA_CC_LETTER;
        if (cp >= '0' && cp <= '9')
            return SALA_CC_NUMBER;
        if (cp == '\r' || cp == '\n')
            return SALA_CC_NEWLINE;
        if (cp == ' ' || (cp >= 9 && cp <= 13))
            return SALA_CC_SPACE;
        return SALA_CC_OTHER;
    }
    /* CJK ideographs, kana and Hangul syllables, without the table. */
    if ((cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0xAC00 && cp <= 0xD7A3))
        return SALA_CC_LETTER;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return SALA_CC_LETTER;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return SALA_CC_MARK;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return SALA_CC_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return SALA_CC_SPACE;
    case UTF8PROC_CATEGORY_CN:
        return class_of_newer(cp);
    default:
        return cp == 0x85 ? SALA_CC_SPACE : SALA_CC_OTHER;
    }
}

bool sala_char_is_space(uint32_t cp)
{
    const sala_char_class c = sala_char_class_of(cp);
    return c == SALA_CC_SPACE || c == SALA_CC_NEWLINE;
}

bool sala_char_is_word(uint32_t cp)
{
    if (cp == '_' || cp == 0x200C || cp == 0x200D)
        return true;
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    switch (sala_char_class_of(cp)) {
    case SALA_CC_LETTER:
    case SALA_CC_MARK:
        return true;
    case SALA_CC_NUMBER:
        return c != UTF8PROC_CATEGORY_NO;
    default:
        /* Circled letters are Alphabetic though symbols by category. */
        return c == UTF8PROC_CATEGORY_PC || (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
               (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
    }
}

/* ---- UTF-8 ---- */

bool sala_utf8_is_valid(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t w;
        if (n - i >= 8 && (memcpy(&w, s + i, 8), (w & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        if (len == 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

size_t sala_utf8_bad_part(const char *s, size_t n, bool *incomplete)
{
    const uint8_t a = (uint8_t)s[0];
    const size_t want = a >= 0xC2 && a <= 0xDF ? 2 : a >= 0xE0 && a <= 0xEF ? 3 : a >= 0xF0 && a <= 0xF4 ? 4 : 1;
    size_t have = 1;
    while (have < want && have < n) {
        const uint8_t c = (uint8_t)s[have];
        uint8_t lo = 0x80, hi = 0xBF;
        if (have == 1) {
            lo = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : lo;
            hi = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : hi;
        }
        if (c < lo || c > hi)
            break;
        have++;
    }
    *incomplete = have == n && have < want;
    return have;
}

void sala_utf8_append_lossy(sala_buf *out, const char *s, size_t n)
{
    size_t done = 0, i = 0;
    bool incomplete;
    while (i < n) {
        if ((uint8_t)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        sala_buf_add(out, s + done, i - done);
        sala_buf_add(out, "\xEF\xBF\xBD", 3);
        i += sala_utf8_bad_part(s + i, n - i, &incomplete);
        done = i;
    }
    if (n > done)
        sala_buf_add(out, s + done, n - done);
}

/* ---- GPT-2's byte alphabet: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up, in order ----
 */

static bool is_printable_byte(uint32_t b)
{
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

uint32_t sala_byte_to_char(uint8_t byte)
{
    if (is_printable_byte(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return 0x143u; /* 0xAD, the soft hyphen */
}

int sala_char_to_byte(uint32_t cp)
{
    if (cp < 0x100)
        return is_printable_byte(cp) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)(cp - 0x100);
    if (cp <= 0x142)
        return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

bool sala_byte_level_decode(sala_buf *out, const char *s, size_t n)
{
    const size_t before = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const int len = sala_utf8_decode(s + i, n - i, &cp);
        const int byte = len > 0 ? sala_char_to_byte(cp) : -1;
        if (byte < 0) {
            out->len = before;
            return false;
        }
        sala_buf_add_char(out, (char)byte);
        i += (size_t)len;
    }
    return true;
}
