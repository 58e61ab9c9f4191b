/* Port: the on-chip MRAM of an Apollo4, written through the maker's HAL (link AmbiqSuite's).
 *
 * MRAM is programmed in lines of 16 bytes: a power failure may spoil the line in flight. The planner therefore commits on
 * line borders and gives every buffer lines of its own; what is not covered of the first and last line is written as it was.
 * Source: AmbiqSuite, am_hal_mram.h: am_hal_mram_main_program(key, source, destination, words). */
#include "application.h"
#include "engine.h"
#include "port.h"

enum { LINE_BYTES = 16, LINES_AT_ONCE = 8 };
#define PROGRAM_KEY 0x12344321u
#define HOME ((uint8_t *)(uintptr_t)0x00180000u) /* the last 0.5 MB of 2 MB: keep code and weights below */

extern int am_hal_mram_main_program(uint32_t key, uint32_t *source, uint32_t *destination, uint32_t n_words);

int port_init(void) { return application_init(); }

int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    __builtin_memcpy(to, HOME + offset, size_bytes);
    return 0;
}

int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes)
{
    const uint8_t *f = from;
    static uint32_t lines[LINES_AT_ONCE * LINE_BYTES / 4];
    while (size_bytes) {
        uint32_t skip = offset % LINE_BYTES, first = offset - skip, n = sizeof lines - skip;
        if (n > size_bytes) n = size_bytes;
        uint32_t whole = (skip + n + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
        if (skip || whole != n) __builtin_memcpy(lines, HOME + first, whole);
        __builtin_memcpy((uint8_t *)lines + skip, f, n);
        if (am_hal_mram_main_program(PROGRAM_KEY, lines, (uint32_t *)(void *)(HOME + first), whole / 4)) return ERR_NVM;
        offset += n, f += n, size_bytes -= n;
    }
    return 0;
}
