/* The application of the emulated board: inputs from its window, answers to its mailbox (as port/emulator.c). */
#include "application.h"

#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(0x40000000u + (offset)))

int application_init(void) { return 0; }

int application_input_wait(uint32_t seq)
{
    REG(20) = 7u << 28; /* idle: the observer may stop here */
    while (REG(24) < seq) {
    }
    return 0;
}

int application_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    REG(0) = offset;
    REG(4) = (uint32_t)(uintptr_t)to;
    REG(8) = size_bytes;
    __asm__ volatile("" ::: "memory");
    REG(12) = 3;
    __asm__ volatile("" ::: "memory");
    return 0;
}

int application_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    REG(0) = nvm_offset;
    REG(8) = size_bytes;
    REG(28) = seq;
    return 0;
}

uint32_t application_energy_nj(void) { return REG(36); }

void application_rest(void) { REG(40) = 1; }

_Noreturn void application_fail(int code)
{
    REG(32) = (uint32_t)code;
    for (;;) {
    }
}
