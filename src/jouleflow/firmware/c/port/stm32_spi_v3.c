/* SPI master of STM32U5 (and H5, H7): separate transmit and receive registers, polled two bytes deep.
 * Source: ST RM0456 (STM32U5), SPI chapter. */
#include "spi_master.h"
#include "stm32.h"

enum spi { CR1 = 0x00, CR2 = 0x04, CFG1 = 0x08, CFG2 = 0x0C, SR = 0x14, IFCR = 0x18, TXDR = 0x20, RXDR = 0x30 };
#define ENABLE 1u
#define START (1u << 9)
#define INTERNAL_SELECT (1u << 12)
#define EIGHT_BITS 7u
#define DIVIDE_BY(n_log2) (((n_log2) - 1u) << 28)
#define MASTER (1u << 22)
#define SOFTWARE_SELECT (1u << 26)
#define KEEP_PINS (1u << 31)
#define RECEIVED 1u
#define SEND_READY 2u
#define ALL_SENT (1u << 12)

int spi_init(void)
{
    clock_init();
    pins_init();
    WORD(SPI1 + CR1) = INTERNAL_SELECT;
    WORD(SPI1 + CR2) = 0; /* a transfer without end: chip select frames it */
    WORD(SPI1 + CFG1) = EIGHT_BITS | DIVIDE_BY(spi_divider_log2);
    WORD(SPI1 + CFG2) = MASTER | SOFTWARE_SELECT | KEEP_PINS;
    WORD(SPI1 + CR1) = INTERNAL_SELECT | ENABLE;
    WORD(SPI1 + CR1) = INTERNAL_SELECT | ENABLE | START;
    return 0;
}

void spi_select(void) { WORD(gpio_a + BSRR) = 1u << (PIN_SELECT + 16); }

void spi_deselect(void)
{
    wait_for(SPI1 + SR, ALL_SENT, ALL_SENT);
    WORD(gpio_a + BSRR) = 1u << PIN_SELECT;
}

/* Every byte sent brings one back; `to` or `from` may be null. */
static void exchange(const uint8_t *from, uint8_t *to, uint32_t n)
{
    for (uint32_t sent = 0, got = 0; got < n;) {
        uint32_t status = WORD(SPI1 + SR);
        if (sent < n && sent - got < 2 && (status & SEND_READY)) {
            BYTE(SPI1 + TXDR) = from ? from[sent] : 0;
            sent++;
        }
        if (status & RECEIVED) {
            uint8_t b = BYTE(SPI1 + RXDR);
            if (to) to[got] = b;
            got++;
        }
    }
}

void spi_send(const uint8_t *from, uint32_t n) { exchange(from, 0, n); }
void spi_receive(uint8_t *to, uint32_t n) { exchange(0, to, n); }
