/* The one function of AmbiqSuite that the Apollo4 port calls, on the emulated board. */
#include "port.h"

#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(0x40000000u + (offset)))
#define HOME 0x00180000u

int am_hal_mram_main_program(uint32_t key, uint32_t *source, uint32_t *destination, uint32_t n_words);

int am_hal_mram_main_program(uint32_t key, uint32_t *source, uint32_t *destination, uint32_t n_words)
{
    if (key != 0x12344321u || (uintptr_t)destination % 16 || n_words % 4) return -1;
    REG(0) = (uint32_t)(uintptr_t)destination - HOME;
    REG(4) = (uint32_t)(uintptr_t)source;
    REG(8) = 4 * n_words;
    __asm__ volatile("" ::: "memory");
    REG(12) = 2;
    __asm__ volatile("" ::: "memory");
    return 0;
}
