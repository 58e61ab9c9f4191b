/* SPI master of the nRF52833: SPIM3, whose EasyDMA moves the bytes.
 * Source: nRF52833 Product Specification v1.3, SPIM and GPIO. */
#include "spi_master.h"

#define WORD(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SPIM 0x4002F000u
#define GPIO 0x50000000u
#define NVMC_ICACHECNF 0x4001E540u

enum spim { TASKS_START = 0x010, EVENTS_END = 0x118, ENABLE = 0x500, PSEL_SCK = 0x508, PSEL_MOSI = 0x50C, PSEL_MISO = 0x510,
            FREQUENCY = 0x524, RXD_PTR = 0x534, RXD_MAXCNT = 0x538, TXD_PTR = 0x544, TXD_MAXCNT = 0x548, CONFIG = 0x554 };
enum gpio { OUTSET = 0x508, OUTCLR = 0x50C, DIRSET = 0x518, PIN_CNF = 0x700 };

/* Pins of port 0: change them to those of your board. */
enum pins { PIN_SCK = 5, PIN_MOSI = 4, PIN_MISO = 31, PIN_SELECT = 30 };

#define FREQUENCY_8_MHZ 0x80000000u
#define MAX_DMA_BYTES 65535u

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

int spi_init(void)
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
    return 0;
}

void spi_select(void) { WORD(GPIO + OUTCLR) = 1u << PIN_SELECT; }
void spi_deselect(void) { WORD(GPIO + OUTSET) = 1u << PIN_SELECT; }

void spi_send(const uint8_t *from, uint32_t n)
{
    for (uint32_t part; n; n -= part, from += part) {
        part = n < MAX_DMA_BYTES ? n : MAX_DMA_BYTES;
        exchange(from, part, 0, 0);
    }
}

void spi_receive(uint8_t *to, uint32_t n)
{
    for (uint32_t part; n; n -= part, to += part) {
        part = n < MAX_DMA_BYTES ? n : MAX_DMA_BYTES;
        exchange(0, 0, to, part);
    }
}
