/* SPI master of STM32L4 and STM32L0: data register with transmit and receive flags, polled two bytes deep.
 * Source: ST RM0432 (STM32L4+) and RM0376 (STM32L0x2), SPI chapter. */
#include "spi_master.h"
#include "stm32.h"

enum spi { CR1 = 0x00, CR2 = 0x04, SR = 0x08, DR = 0x0C };
#define MASTER (1u << 2)
#define DIVIDE_BY(n_log2) (((n_log2) - 1u) << 3)
#define ENABLE (1u << 6)
#define SOFTWARE_SELECT (1u << 8 | 1u << 9)
#define RECEIVED 1u
#define SEND_READY 2u
#define BUSY (1u << 7)

int spi_init(void)
{
    clock_init();
    pins_init();
    WORD(SPI1 + CR2) = spi_frame;
    WORD(SPI1 + CR1) = MASTER | DIVIDE_BY(spi_divider_log2) | SOFTWARE_SELECT;
    WORD(SPI1 + CR1) |= ENABLE;
    return 0;
}

void spi_select(void) { WORD(gpio_a + BSRR) = 1u << (PIN_SELECT + 16); }

void spi_deselect(void)
{
    wait_for(SPI1 + SR, BUSY, 0);
    WORD(gpio_a + BSRR) = 1u << PIN_SELECT;
}

/* Every byte sent brings one back; `to` or `from` may be null. */
static void exchange(const uint8_t *from, uint8_t *to, uint32_t n)
{
    for (uint32_t sent = 0, got = 0; got < n;) {
        uint32_t status = WORD(SPI1 + SR);
        if (sent < n && sent - got < 2 && (status & SEND_READY)) {
            BYTE(SPI1 + DR) = from ? from[sent] : 0;
            sent++;
        }
        if (status & RECEIVED) {
            uint8_t b = BYTE(SPI1 + DR);
            if (to) to[got] = b;
            got++;
        }
    }
}

void spi_send(const uint8_t *from, uint32_t n) { exchange(from, 0, n); }
void spi_receive(uint8_t *to, uint32_t n) { exchange(0, to, n); }
