/* CRC-32C (Castagnoli), reflected polynomial 0x82F63B78: what event files protect their records with. Records are short
 * and few, so a table of 16, made in each call, is enough. */
#include "train/metrics.h"

uint32_t sala_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    uint32_t table[16];
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t v = i;
        for (int bit = 0; bit < 4; bit++)
            v = v & 1 ? v >> 1 ^ 0x82F63B78u : v >> 1;
        table[i] = v;
    }
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}
