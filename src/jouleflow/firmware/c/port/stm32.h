/* What the STM32 ports share: SPI1 on PA4 (select), PA5 (clock), PA6 (in), PA7 (out). Change the pins to your board's. */
#ifndef JOULEFLOW_STM32_H
#define JOULEFLOW_STM32_H

#include <stdint.h>

#define WORD(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define BYTE(address) (*(volatile uint8_t *)(uintptr_t)(address))
#define SPI1 0x40013000u

enum gpio { MODER = 0x00, OSPEEDR = 0x08, BSRR = 0x18, AFRL = 0x20 };
enum pins { PIN_SELECT = 4, PIN_SCK = 5, PIN_MISO = 6, PIN_MOSI = 7 };

/* Port A and the clocks of one chip: in stm32l4r5.c, stm32u575.c, stm32l072.c. */
extern const uint32_t gpio_a;
extern const uint32_t spi_function;     /* alternate function number of SPI1 on port A */
extern const uint32_t spi_divider_log2; /* from the bus clock to the SPI clock */
extern const uint32_t spi_frame;        /* stm32_spi_v1.c: CR2 for frames of 8 bits */
void clock_init(void);

static inline void set_bits(uint32_t address, uint32_t mask, uint32_t value)
{
    WORD(address) = (WORD(address) & ~mask) | value;
}

static inline void wait_for(uint32_t address, uint32_t mask, uint32_t value)
{
    while ((WORD(address) & mask) != value) {
    }
}

/* The four pins: select an output, high; the others SPI1's. */
static inline void pins_init(void)
{
    WORD(gpio_a + BSRR) = 1u << PIN_SELECT;
    set_bits(gpio_a + AFRL, 0xFFF00000u, spi_function << 20 | spi_function << 24 | spi_function << 28);
    set_bits(gpio_a + OSPEEDR, 0xFF00u, 0xFF00u);
    set_bits(gpio_a + MODER, 0xFF00u, 0xA900u);
}

#endif
