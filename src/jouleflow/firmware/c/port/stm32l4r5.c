/* Clocks of the STM32L4R5: 120 MHz from the 4 MHz internal oscillator, SPI1 at 30 MHz.
 * Source: ST RM0432, PWR (5.1.8, range 1 boost mode), FLASH (3.3.3), RCC (6.4). */
#include "stm32.h"

#define RCC 0x40021000u
#define PWR 0x40007000u
#define FLASH_ACR 0x40022000u
enum rcc { CR = 0x00, CFGR = 0x08, PLLCFGR = 0x0C, AHB2ENR = 0x4C, APB1ENR1 = 0x58, APB2ENR = 0x60 };
enum pwr { CR5 = 0x80 };

const uint32_t gpio_a = 0x48000000u, spi_function = 5, spi_divider_log2 = 2;
const uint32_t spi_frame = 7u << 8 | 1u << 12; /* 8 bits; the receive flag at one byte */

void clock_init(void)
{
    set_bits(RCC + APB1ENR1, 0, 1u << 28);           /* power interface */
    set_bits(RCC + CFGR, 0xF0u, 8u << 4);            /* the bus at half speed while the regulator changes */
    set_bits(PWR + CR5, 1u << 8, 0);                 /* boost mode */
    set_bits(FLASH_ACR, 0xFu, 5u | 7u << 8);         /* 5 wait states; prefetch, instruction and data cache */
    wait_for(FLASH_ACR, 0xFu, 5u);
    WORD(RCC + PLLCFGR) = 1u | 60u << 8 | 1u << 24;  /* 4 MHz x 60 / 2 */
    set_bits(RCC + CR, 0, 1u << 24);
    wait_for(RCC + CR, 1u << 25, 1u << 25);
    set_bits(RCC + CFGR, 3u, 3u);
    wait_for(RCC + CFGR, 3u << 2, 3u << 2);
    for (volatile int i = 0; i < 60; i++) {          /* at least 1 us */
    }
    set_bits(RCC + CFGR, 0xF0u, 0);
    set_bits(RCC + AHB2ENR, 0, 1u);                  /* port A */
    set_bits(RCC + APB2ENR, 0, 1u << 12);            /* SPI1 */
    (void)WORD(RCC + APB2ENR);                       /* two cycles until they answer */
}
