/* Port: nRF52833 with an SPI FRAM of the CY15B104Q kind (opcode, three address bytes) on SPIM3.
 *
 * EasyDMA moves the bytes while the core sleeps. A FRAM write takes effect byte by byte as the clock runs, so a power
 * failure leaves a prefix, which is what the engine expects. The sensor and the answer are the application's: see application.h.
 * Source: nRF52833 Product Specification v1.3, SPIM and GPIO; CY15B104Q datasheet (001-94240), opcodes. */
#include "application.h"
#include "port.h"

#define WORD(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SPIM 0x4002F000u
#define GPIO 0x50000000u

enum spim { TASKS_START = 0x010, EVENTS_END = 0x118, ENABLE = 0x500, PSEL_SCK = 0x508, PSEL_MOSI = 0x50C, PSEL_MISO = 0x510,
            FREQUENCY = 0x524, RXD_PTR = 0x534, RXD_MAXCNT = 0x538, TXD_PTR = 0x544, TXD_MAXCNT = 0x548, CONFIG = 0x554 };
enum gpio { OUTSET = 0x508, OUTCLR = 0x50C, DIRSET = 0x518, PIN_CNF = 0x700 };
#define NVMC_ICACHECNF 0x4001E540u

/* Pins of port 0: change them to those of your board. */
enum pins { PIN_SCK = 5, PIN_MOSI = 4, PIN_MISO = 31, PIN_SELECT = 30 };
enum opcode { WRITE = 0x02, READ = 0x03, WRITE_ENABLE = 0x06 };

#define FREQUENCY_8_MHZ 0x80000000u
#define MAX_DMA_BYTES 65535u

static uint8_t command[4]; /* EasyDMA reads from SRAM only, and a constant would be in flash */

static void exchange(const void *out, uint32_t n_out, void *in, uint32_t n_in)
{
    WORD(SPIM + TXD_PTR) = (uint32_t)(uintptr_t)out;
    WORD(SPIM + TXD_MAXCNT) = n_out;
    WORD(SPIM + RXD_PTR) = (uint32_t)(uintptr_t)in;
    WORD(SPIM + RXD_MAXCNT) = n_in;
    WORD(SPIM + EVENTS_END) = 0;
    __asm__ volatile("dsb" ::: "memory");
    WORD(SPIM + TASKS_START) = 1;
    while (!WORD(SPIM + EVENTS_END)) {
    }
    __asm__ volatile("" ::: "memory");
}

static void select(void) { WORD(GPIO + OUTCLR) = 1u << PIN_SELECT; }
static void deselect(void) { WORD(GPIO + OUTSET) = 1u << PIN_SELECT; }

static void address(uint8_t opcode, uint32_t offset)
{
    command[0] = opcode;
    command[1] = (uint8_t)(offset >> 16);
    command[2] = (uint8_t)(offset >> 8);
    command[3] = (uint8_t)offset;
    exchange(command, 4, 0, 0);
}

int port_init(void)
{
    WORD(GPIO + OUTSET) = 1u << PIN_SELECT;
    WORD(GPIO + DIRSET) = 1u << PIN_SELECT | 1u << PIN_SCK | 1u << PIN_MOSI;
    WORD(GPIO + PIN_CNF + 4 * PIN_MISO) = 0; /* input, buffer connected */
    WORD(NVMC_ICACHECNF) = 1;                /* instruction cache on: flash has wait states without it */
    WORD(SPIM + PSEL_SCK) = PIN_SCK;
    WORD(SPIM + PSEL_MOSI) = PIN_MOSI;
    WORD(SPIM + PSEL_MISO) = PIN_MISO;
    WORD(SPIM + FREQUENCY) = FREQUENCY_8_MHZ;
    WORD(SPIM + CONFIG) = 0; /* mode 0, most significant bit first */
    WORD(SPIM + ENABLE) = 7;
    return application_init();
}

int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    uint8_t *t = to;
    while (size_bytes) {
        uint32_t n = size_bytes < MAX_DMA_BYTES ? size_bytes : MAX_DMA_BYTES;
        select();
        address(READ, offset);
        exchange(0, 0, t, n);
        deselect();
        offset += n, t += n, size_bytes -= n;
    }
    return 0;
}

int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes)
{
    const uint8_t *f = from;
    while (size_bytes) {
        uint32_t n = size_bytes < MAX_DMA_BYTES ? size_bytes : MAX_DMA_BYTES;
        command[0] = WRITE_ENABLE; /* the FRAM forgets it at the end of each write */
        select();
        exchange(command, 1, 0, 0);
        deselect();
        select();
        address(WRITE, offset);
        exchange(f, n, 0, 0);
        deselect();
        offset += n, f += n, size_bytes -= n;
    }
    return 0;
}

int port_input_wait(uint32_t seq) { return application_input_wait(seq); }

int port_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    return application_input_read(offset, to, size_bytes);
}

int port_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    return application_answer(seq, nvm_offset, size_bytes);
}

void port_mark(enum mark kind, uint32_t op, uint32_t tile) { (void)kind, (void)op, (void)tile; }

_Noreturn void port_fail(int code) { application_fail(code); }
