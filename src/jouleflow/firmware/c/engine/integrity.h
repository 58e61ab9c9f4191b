/* Checks against memory that changes by itself: worn cells, radiation, another program's stray write. */
#ifndef JOULEFLOW_INTEGRITY_H
#define JOULEFLOW_INTEGRITY_H

#include <stdint.h>

/* One step is a bijection of the state and of the word, so a change confined to one word is always seen. */
static inline uint32_t mix(uint32_t state, uint32_t word)
{
    return ((state >> 13 | state << 19) ^ word) * 0x9e3779b1u;
}

/* mix() over n words. */
uint32_t mix_words(uint32_t state, const uint32_t *words, uint32_t n);

/* CRC-8, polynomial x^8 + x^2 + x + 1: every single and double flip within 15 bytes, every burst of up to 8 bits. */
uint8_t crc8(uint8_t crc, const uint8_t *bytes, uint32_t n);
/* The same while moving the bytes to a lower address (or none). */
uint8_t crc8_move(uint8_t crc, uint8_t *to, const uint8_t *bytes, uint32_t n);

#endif
