/* Clocks of the STM32U575: 160 MHz from the 4 MHz internal oscillator, SPI1 at 40 MHz.
 * Source: ST RM0456, PWR (voltage scaling and EPOD booster), FLASH (latency), RCC (PLL1). */
#include "stm32.h"

#define RCC 0x46020C00u
#define PWR_VOSR 0x4602080Cu
#define FLASH_ACR 0x40022000u
#define ICACHE_CR 0x40030400u
enum rcc { CR = 0x00, CFGR1 = 0x1C, PLL1CFGR = 0x28, PLL1DIVR = 0x34, AHB2ENR1 = 0x8C, AHB3ENR = 0x94, APB2ENR = 0xA4 };

const uint32_t gpio_a = 0x42020000u, spi_function = 5, spi_divider_log2 = 2;

void clock_init(void)
{
    set_bits(RCC + AHB3ENR, 0, 1u << 2);                    /* power interface */
    set_bits(PWR_VOSR, 3u << 16, 3u << 16);                 /* range 1 */
    wait_for(PWR_VOSR, 1u << 15, 1u << 15);
    set_bits(FLASH_ACR, 0xFu, 4u | 1u << 8);                /* 4 wait states, prefetch */
    wait_for(FLASH_ACR, 0xFu, 4u);
    WORD(RCC + PLL1CFGR) = 1u | 1u << 18;                   /* 4 MHz, not divided; output R on */
    WORD(RCC + PLL1DIVR) = (80u - 1u) | (2u - 1u) << 24;    /* x 80 / 2 */
    set_bits(PWR_VOSR, 0, 1u << 18);                        /* booster, for more than 55 MHz */
    wait_for(PWR_VOSR, 1u << 14, 1u << 14);
    set_bits(RCC + CR, 0, 1u << 24);
    wait_for(RCC + CR, 1u << 25, 1u << 25);
    set_bits(RCC + CFGR1, 3u, 3u);
    wait_for(RCC + CFGR1, 3u << 2, 3u << 2);
    set_bits(ICACHE_CR, 0, 1u);
    set_bits(RCC + AHB2ENR1, 0, 1u);                        /* port A */
    set_bits(RCC + APB2ENR, 0, 1u << 12);                   /* SPI1 */
    (void)WORD(RCC + APB2ENR);                              /* two cycles until they answer */
}
