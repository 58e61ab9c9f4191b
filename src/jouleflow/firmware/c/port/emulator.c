/* Port for the emulated board: non-volatile memory behind a transfer engine (as SPI with DMA, or an MRAM controller),
 * an input window, and registers that an observer reads. The host is machine.c of the emulator. */
#include "port.h"

#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(0x40000000u + (offset)))
#define NVM_OFFSET REG(0)
#define NVM_ADDRESS REG(4)
#define NVM_LENGTH REG(8)
#define NVM_START REG(12)
#define MARK_OP REG(16)
#define MARK REG(20)
#define INPUT_SEQ REG(24)
#define ANSWER REG(28)
#define FAIL REG(32)
#define ENERGY_NJ REG(36)
#define REST REG(40)

enum { READ = 1, WRITE = 2, CAPTURE = 3 };

/* The transfer is over when the store to NVM_START retires. */
static int transfer(uint32_t what, uint32_t offset, const void *at, uint32_t size_bytes)
{
    if (size_bytes == 0) return 0;
    NVM_OFFSET = offset;
    NVM_ADDRESS = (uint32_t)(uintptr_t)at;
    NVM_LENGTH = size_bytes;
    __asm__ volatile("" ::: "memory"); /* the buffer is written before the transfer reads it, and after it */
    NVM_START = what;
    __asm__ volatile("" ::: "memory");
    return 0;
}

int port_init(void) { return 0; }

int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes) { return transfer(READ, offset, to, size_bytes); }

int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes)
{
    return transfer(WRITE, offset, from, size_bytes);
}

int port_input_wait(uint32_t seq)
{
    while (INPUT_SEQ < seq) {
    }
    return 0;
}

int port_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    return transfer(CAPTURE, offset, to, size_bytes);
}

int port_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    NVM_OFFSET = nvm_offset;
    NVM_LENGTH = size_bytes;
    ANSWER = seq;
    return 0;
}

uint32_t port_energy_nj(void) { return ENERGY_NJ; }

void port_rest(void) { REST = 1; }

void port_mark(enum mark kind, uint32_t op, uint32_t tile)
{
    MARK_OP = op;
    MARK = (uint32_t)kind << 28 | tile;
}

_Noreturn void port_fail(int code)
{
    FAIL = (uint32_t)code;
    for (;;) {
    }
}
