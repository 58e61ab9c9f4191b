/* Clocks of the STM32L072: 32 MHz from the 16 MHz internal oscillator, SPI1 at 16 MHz.
 * Source: ST RM0376, PWR (6.1.4, range 1), FLASH (3.3.3), RCC (7.3). */
#include "stm32.h"

#define RCC 0x40021000u
#define PWR 0x40007000u
#define FLASH_ACR 0x40022000u
enum rcc { CR = 0x00, CFGR = 0x0C, IOPENR = 0x2C, APB2ENR = 0x34, APB1ENR = 0x38 };
enum pwr { PWR_CR = 0x00, PWR_CSR = 0x04 };

const uint32_t gpio_a = 0x50000000u, spi_function = 0, spi_divider_log2 = 1;
const uint32_t spi_frame = 0; /* 8 bits after reset */

void clock_init(void)
{
    set_bits(RCC + APB1ENR, 0, 1u << 28);              /* power interface */
    set_bits(PWR + PWR_CR, 3u << 11, 1u << 11);        /* range 1 */
    wait_for(PWR + PWR_CSR, 1u << 4, 0);
    set_bits(RCC + CR, 0, 1u);                         /* 16 MHz oscillator */
    wait_for(RCC + CR, 1u << 2, 1u << 2);
    set_bits(FLASH_ACR, 0, 1u | 1u << 1);              /* 1 wait state, prefetch */
    wait_for(FLASH_ACR, 1u, 1u);
    set_bits(RCC + CFGR, 0xFD0000u, 1u << 18 | 1u << 22); /* 16 MHz x 4 / 2 */
    set_bits(RCC + CR, 0, 1u << 24);
    wait_for(RCC + CR, 1u << 25, 1u << 25);
    set_bits(RCC + CFGR, 3u, 3u);
    wait_for(RCC + CFGR, 3u << 2, 3u << 2);
    set_bits(RCC + IOPENR, 0, 1u);                     /* port A */
    set_bits(RCC + APB2ENR, 0, 1u << 12);              /* SPI1 */
    (void)WORD(RCC + APB2ENR);
}
